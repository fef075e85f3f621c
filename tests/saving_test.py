# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Saved samplers run without this library; checkpoints and copies are whole.

Models are saved here and run in another process, in which neither tfp_nvi nor
TensorFlow Probability can be imported. Draws must be those of the sampler for
the same seed.
"""

import copy
import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

X = np.array([[0.1, 0.5, 0.8, 1.1], [0.3, -0.4, -1.0, -0.7]], np.float32)


def pinned_sampler(**arguments):
  """The sampler of the README: joint distributions, and a learned path."""
  prior = tfd.JointDistributionNamed({'loc': tfd.Normal(0.0, 3.0)})
  model = tfd.JointDistributionNamedAutoBatched(
    {
      'loc': tfd.Normal(0.0, 3.0),
      'y': lambda loc: tfd.Sample(tfd.Normal(tf.abs(loc)[..., None], 0.5), 1),
    }
  )
  path = nvi.GeometricPath(
    prior,
    model.experimental_pin(y=tf.constant([[2.0]])),
    num_densities=3,
    learnable=True,
  )
  return nvi.NestedSampler(
    path, nvi.GaussianTransitions(path, seed=1), **arguments
  )


def simple_sampler():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=3, learnable=True
  )
  return nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))


def sequence_sampler(variable=None, input_example=None):
  """A sampler whose proposal is a function with a variable in it."""
  if variable is None:
    variable = tf.Variable(0.6, name='gain')
  if input_example is None:
    model = nvi.StateSpaceModel(
      prior=tfd.JointDistributionNamed({'drift': tfd.Normal(0.0, 1.0)}),
      initial_fn=lambda theta: tfd.Normal(theta['drift'], 1.0),
      transition_fn=lambda z, theta: tfd.Normal(z + theta['drift'], 0.5),
      observation_fn=lambda z: tfd.Normal(z, 0.2),
    )
  else:
    model = nvi.StateSpaceModel(
      prior=None,
      initial_fn=lambda: tfd.Normal(0.0, 1.0),
      transition_fn=lambda z, u: tfd.Normal(z + u, 0.5),
      observation_fn=lambda z: tfd.Normal(z, 0.2),
      input_example=input_example,
    )

  def proposal_fn(x, z):
    del z
    return tfd.Normal(variable * x, 0.3)

  return nvi.StateSpaceSampler(model, proposal_fn=proposal_fn)


def encoder(x):
  """A sampler for an element of data, as `fit` takes."""
  path = nvi.GeometricPath(
    tfd.Normal(tf.zeros_like(x), 2.0), tfd.Normal(x, 0.5), num_densities=2
  )
  return nvi.NestedSampler(
    path,
    nvi.KernelPair(
      lambda z: tfd.Normal(0.5 * z, 1.0), lambda z: tfd.Normal(z, 1.0)
    ),
  )


def chain():
  gain = tf.Variable(0.7)
  return nvi.Chain(
    lambda: [
      nvi.Level(
        tfd.Normal([gain, 0.0], 1.5),
        tfd.Normal(0.0, 1.0),
        trainables=[gain],
        name='one',
      )
    ]
  )


def posterior():
  model = tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, 3.0),
      'y': lambda mean: tfd.Sample(tfd.Normal(mean, 1.0), 4),
    }
  ).experimental_pin(y=[1.0, 2.0, 0.5, 1.5])
  return nvi.fit_posterior(
    model, num_particles=100, num_runs=2, seed=1, progress=False
  )


PROGRAM = """
import sys

for name in ('tfp_nvi', 'tensorflow_probability', 'tf_keras'):
  sys.modules[name] = None
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
X = np.load(folder + '/x.npy')
results = {}


for name in ('pinned', 'chain', 'posterior'):
  model = tf.saved_model.load(f'{folder}/{name}')
  found = model.sample(3)
  if name == 'chain':
    (found,) = found['levels']
  results[name + '/log_weights'] = found['log_weights'].numpy()
  results[name + '/particles'] = tf.nest.flatten(found['particles'])[0].numpy()
  again = model.sample(tf.constant([0, 3]))
  if name == 'chain':
    (again,) = again['levels']
  assert np.allclose(again['log_weights'], found['log_weights'], rtol=1e-3)
  served = model.signatures['serving_default'](seed=tf.constant([0, 3]))
  results[name + '/served'] = np.array(sorted(served))
for name in ('sequences', 'plain'):
  model = tf.saved_model.load(f'{folder}/{name}')
  found = model.sample(X, 3)
  results[name + '/log_weights'] = found['log_weights'].numpy()
  results[name + '/trajectories'] = found['trajectories'].numpy()
  found = model.sample_padded(X, tf.constant([4, 2]), 3)
  results[name + '/padded'] = found['log_weights'].numpy()
  served = model.signatures['serving_default'](
    x=tf.constant(X), seed=tf.constant([0, 3])
  )
  results[name + '/served'] = np.array(sorted(served))
model = tf.saved_model.load(f'{folder}/inputs')
found = model.sample(X, X, 3)
results['inputs/log_weights'] = found['log_weights'].numpy()
model = tf.saved_model.load(f'{folder}/encoder')
found = model.sample(tf.constant([1.0, 2.0]), 3)
results['encoder/log_weights'] = found['log_weights'].numpy()
np.savez(folder + '/results.npz', **results)
"""


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """The samplers, the folder they are saved in, and draws elsewhere."""
  folder = tmp_path_factory.mktemp('saved')
  samplers = {
    'pinned': pinned_sampler(),
    'chain': chain(),
    'posterior': posterior(),
    'sequences': sequence_sampler(),
    'plain': sequence_sampler(),
    'inputs': sequence_sampler(input_example=0.0),
    'encoder': encoder,
  }
  spec = tf.TensorSpec([2, 4])
  specs = {
    'sequences': spec,
    'plain': spec,
    'inputs': spec,
    'encoder': tf.TensorSpec([2]),
  }
  # A sampler may have been used before it is saved.
  samplers['sequences'].sample(X, 50, seed=3)
  for name, sampler in samplers.items():
    nvi.save(
      sampler,
      folder / name,
      num_particles=50,
      element_spec=specs.get(name),
      jit_compile=name in ('pinned', 'sequences'),
    )
  np.save(folder / 'x.npy', X)
  result = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(folder)],
    capture_output=True,
    text=True,
    cwd=folder,
  )
  assert result.returncode == 0, result.stderr[-3_000:]
  return samplers, folder, np.load(folder / 'results.npz')


@pytest.mark.xdist_group('saved')
def test_nested_sampler_elsewhere(saved):
  samplers, _, results = saved
  expected = samplers['pinned'].sample(50, seed=3)
  np.testing.assert_allclose(
    results['pinned/particles'], expected.particles['loc'], rtol=1e-5
  )
  np.testing.assert_allclose(
    results['pinned/log_weights'], expected.log_weights, rtol=1e-4
  )
  assert list(results['pinned/served']) == sorted(
    [
      'log_normalizer',
      'log_pairs_lost',
      'log_weights',
      'num_nan',
      'particles.loc',
      'root',
    ]
  )


@pytest.mark.xdist_group('saved')
@pytest.mark.parametrize('name', ['sequences', 'plain'])
def test_sequences_elsewhere(saved, name):
  samplers, _, results = saved
  expected = samplers[name].sample(
    X, 50, seed=3, jit_compile=name == 'sequences'
  )
  np.testing.assert_allclose(
    results[name + '/trajectories'], expected.trajectories, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    results[name + '/log_weights'], expected.log_weights, rtol=1e-4, atol=1e-4
  )
  padded = samplers[name].sample(X, 50, seed=3, lengths=[4, 2])
  np.testing.assert_allclose(
    results[name + '/padded'], padded.log_weights, rtol=1e-4, atol=1e-4
  )
  # Lengths matter to the second sequence alone.
  is_same = np.isclose(
    results[name + '/padded'], results[name + '/log_weights'], rtol=1e-3
  )
  assert list(np.all(is_same, axis=0)) == [True, False]
  assert 'global_state.drift' in results[name + '/served']


@pytest.mark.xdist_group('saved')
def test_inputs_elsewhere(saved):
  samplers, _, results = saved
  expected = samplers['inputs'].sample(X, 50, seed=3, inputs=X)
  np.testing.assert_allclose(
    results['inputs/log_weights'], expected.log_weights, rtol=1e-4, atol=1e-4
  )


@pytest.mark.xdist_group('saved')
def test_samplers_of_data_elsewhere(saved):
  _, _, results = saved
  expected = encoder(tf.constant([1.0, 2.0])).sample(50, seed=3)
  np.testing.assert_allclose(
    results['encoder/log_weights'], expected.log_weights, rtol=1e-4, atol=1e-5
  )


@pytest.mark.xdist_group('saved')
def test_chain_elsewhere(saved):
  _, _, results = saved
  x, log_weights = results['chain/particles'], results['chain/log_weights']
  assert x.shape == log_weights.shape == (50, 2)
  # Two normal densities, with means 0.7 and 0 and deviation 1.5, and 0 and 1.
  square = ((x - np.array([0.7, 0.0])) / 1.5) ** 2
  np.testing.assert_allclose(
    log_weights, 0.5 * square + np.log(1.5) - 0.5 * x**2, atol=1e-5
  )


@pytest.mark.xdist_group('saved')
def test_posterior_elsewhere(saved):
  samplers, _, results = saved
  values = samplers['posterior'].particles.particles['mean'].numpy()
  assert set(results['posterior/particles']) <= set(values)
  np.testing.assert_allclose(
    results['posterior/log_weights'],
    samplers['posterior'].log_evidence,
    rtol=1e-4,
  )


@pytest.mark.xdist_group('saved')
def test_load(saved):
  samplers, folder, _ = saved
  loaded = nvi.load(folder / 'pinned')
  expected = samplers['pinned'].sample(50, seed=3)
  found = loaded.sample(seed=3)
  assert isinstance(found, nvi.WeightedParticles)
  np.testing.assert_allclose(
    found.log_normalizer, expected.log_normalizer, rtol=1e-4
  )
  np.testing.assert_allclose(
    found.log_normalizer_error, expected.log_normalizer_error, rtol=1e-3
  )
  loaded = nvi.load(folder / 'sequences')
  assert (loaded.kind, loaded.num_particles) == ('StateSpaceSampler', 50)
  found = loaded.sample(X, seed=3, lengths=[4, 2])
  assert isinstance(found, nvi.StateSpacePosterior)
  assert found.expectation(lambda theta, z: theta['drift']).shape == [2]
  (level,) = nvi.load(folder / 'chain').sample(seed=3)
  assert level.log_weights.shape == [50, 2]


@pytest.mark.xdist_group('saved')
def test_load_refuses(saved, tmp_path):
  _, folder, _ = saved
  with pytest.raises(ValueError, match='`path` must be a folder that tfp_nvi'):
    nvi.load(tmp_path)
  with pytest.raises(ValueError, match='`lengths` must be None'):
    nvi.load(folder / 'pinned').sample(seed=1, lengths=[1])
  with pytest.raises(ValueError, match='`elements` must be as'):
    nvi.load(folder / 'sequences').sample(X[:, :3], seed=1)


def test_seeds_of_plain_tensorflow(tmp_path):
  sampler = simple_sampler()
  nvi.save(sampler, tmp_path, 20, jit_compile=False)
  model = tf.saved_model.load(str(tmp_path))
  for seed in (3, -5, 2**40 + 7):
    expected = sampler.sample(20, seed=seed, jit_compile=False).log_weights
    found = model.sample(seed=np.int64(seed))
    np.testing.assert_allclose(found['log_weights'], expected, atol=1e-4)
  expected = model.sample(3)['log_weights']
  for seed in ([0, 3], np.array([0, 3]), tf.constant([0, 3])):
    np.testing.assert_allclose(
      model.sample(seed=seed)['log_weights'], expected, atol=1e-4
    )


def test_damaged_folders(tmp_path):
  nvi.save(simple_sampler(), tmp_path, 20, jit_compile=False)
  (tmp_path / 'saved_model.pb').unlink()
  with pytest.raises(ValueError, match='which TensorFlow does not load'):
    nvi.load(tmp_path)
  for text in ('{', '[]', 'null', '{}'):
    (tmp_path / 'assets.extra' / 'tfp_nvi.json').write_text(text, 'utf-8')
    with pytest.raises(ValueError, match='is damaged'):
      nvi.load(tmp_path)


def test_save_is_of_the_variables_of_the_moment(tmp_path):
  sampler, path = simple_sampler(), tmp_path / 'model'
  nvi.save(sampler, path, 20, jit_compile=False)
  before = nvi.load(path).sample(seed=1)
  change(sampler.find_variables())
  np.testing.assert_array_equal(
    nvi.load(path).sample(seed=1).log_weights, before.log_weights
  )
  # A SavedModel that is there is replaced.
  nvi.save(sampler, path, 20, jit_compile=False)
  after = nvi.load(path).sample(seed=1)
  assert np.any(after.log_weights != before.log_weights)
  assert list(tmp_path.iterdir()) == [path]


def with_python():
  def log_prob(x):
    return tf.ensure_shape(
      tf.numpy_function(lambda x: -0.5 * x**2, [x], tf.float32), x.shape
    )

  path = nvi.GeometricPath(tfd.Normal(0.0, 3.0), log_prob, num_densities=2)
  return nvi.NestedSampler(
    path,
    nvi.KernelPair(lambda z: tfd.Normal(z, 1.0), lambda z: tfd.Normal(z, 1.0)),
  )


def with_table():
  table = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer([0, 1], [1.0, 2.0]), 0.0
  )

  def levels():
    return [
      nvi.Level(
        tfd.Normal(table.lookup(tf.constant(1)), 1.0),
        lambda z: -z,
        trainables=[],
      )
    ]

  return nvi.Chain(levels)


@pytest.mark.parametrize(
  ('make', 'arguments', 'error', 'problem'),
  [
    (lambda: 3, {}, TypeError, '`sampler` must be a NestedSampler, a State'),
    (simple_sampler, {'num_particles': 0}, ValueError, '`num_particles`'),
    (simple_sampler, {'element_spec': ()}, ValueError, '`element_spec` must b'),
    (sequence_sampler, {}, ValueError, '`element_spec` must say .*lengths'),
    (lambda: encoder, {}, ValueError, '`element_spec` must say what `sample`'),
    (
      sequence_sampler,
      {'element_spec': tf.TensorSpec([None, 4])},
      ValueError,
      '`element_spec` must be made of tf.TensorSpecs of known shape',
    ),
    (
      lambda: lambda x: x,
      {'element_spec': tf.TensorSpec([2])},
      TypeError,
      '`sampler` must return a NestedSampler or a Chain',
    ),
    (with_python, {'jit_compile': False}, ValueError, 'Write that function in'),
    (with_table, {'jit_compile': False}, ValueError, 'lookup table'),
  ],
)
def test_save_refuses(make, arguments, error, problem, tmp_path):
  with pytest.raises(error, match=problem):
    nvi.save(make(), tmp_path / 'model', **arguments)
  assert list(tmp_path.iterdir()) == []


def test_save_leaves_other_folders(tmp_path):
  (tmp_path / 'data.txt').write_text('mine')
  with pytest.raises(ValueError, match='`path` must be a new folder'):
    nvi.save(simple_sampler(), tmp_path)
  with pytest.raises(ValueError, match='`path` must be a new folder'):
    nvi.save(simple_sampler(), tmp_path / 'data.txt')
  assert (tmp_path / 'data.txt').read_text() == 'mine'


def change(variables):
  for i, variable in enumerate(variables):
    variable.assign(variable + 0.1 * (i + 1))


@pytest.mark.parametrize(
  'make', [pinned_sampler, simple_sampler, sequence_sampler]
)
def test_checkpoints_have_all_variables(make, tmp_path):
  sampler = make()
  variables = sampler.find_variables()
  assert variables and set(v.ref() for v in sampler.variables) <= {
    v.ref() for v in variables
  }
  change(variables)
  values = [v.numpy() for v in variables]
  path = tf.train.Checkpoint(sampler=sampler).write(str(tmp_path / 'point'))
  names = [name for name, _ in tf.train.list_variables(path)]
  assert sum('sampler/variable_' in name for name in names) == len(variables)
  other = make()
  status = tf.train.Checkpoint(sampler=other).read(path)
  status.assert_existing_objects_matched()
  for variable, value in zip(other.find_variables(), values, strict=True):
    np.testing.assert_array_equal(variable, value)


def test_variables_of_functions_are_found():
  variable = tf.Variable(0.6)
  sampler = sequence_sampler(variable)
  assert sampler.variables == ()
  (found,) = sampler.find_variables()
  assert found is variable


@pytest.mark.parametrize(
  'copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies(copied):
  sampler = simple_sampler()
  before = sampler.sample(20, seed=1).log_weights
  other = copied(sampler)
  np.testing.assert_allclose(other.sample(20, seed=1).log_weights, before)
  change(sampler.find_variables())
  np.testing.assert_allclose(other.sample(20, seed=1).log_weights, before)
  assert np.any(sampler.sample(20, seed=1).log_weights != before)


def test_shallow_copy_shares_variables():
  sampler = pinned_sampler()
  other = copy.copy(sampler)
  assert other.find_variables()[0] is sampler.find_variables()[0]


def test_copies_that_cannot_be():
  with pytest.raises(TypeError, match='cannot be pickled.*tfp_nvi.save'):
    pickle.dumps(pinned_sampler())
  with pytest.raises(TypeError, match='cannot be copied.*Build another one'):
    copy.deepcopy(pinned_sampler())
  posterior = nvi.Posterior(None, 0.0, 0.1, [], 1, 10, '', '', [], [], ['x'])
  for refused in (copy.deepcopy, pickle.dumps):
    with pytest.raises(TypeError, match='Posterior cannot be .*tfp_nvi.save'):
      refused(posterior)
  assert copy.copy(posterior).names == ['x']
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=2
  )
  gain = tf.Variable(0.5, name='gain')
  sampler = nvi.NestedSampler(
    path,
    nvi.KernelPair(
      lambda z: tfd.Normal(gain * z, 1.0), lambda z: tfd.Normal(z, 1.0)
    ),
  )
  with pytest.raises(TypeError, match="cannot be copied.*'gain:0'.*share"):
    copy.deepcopy(sampler)


@pytest.mark.xdist_group('saved')
def test_description_is_there(saved):
  _, folder, _ = saved
  path = pathlib.Path(folder) / 'pinned' / 'assets.extra' / 'tfp_nvi.json'
  assert json.loads(path.read_text())['kind'] == 'NestedSampler'

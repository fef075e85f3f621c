# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exported data have the layout that ArviZ expects, and ArviZ works on them.

Runs with ArviZ before and after its version 1. Numbers are held against closed
forms. Statistical tests have fixed seeds and allow five standard errors.
"""

import sys

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.diagnostics import groups

az = pytest.importorskip('arviz')

tfd = tfp.distributions

Y = np.array([1.0, 2.0, 0.5, 1.5, -0.3], np.float32)
IS_NEW = int(az.__version__.split('.')[0]) >= 1


def plot_trace(data):
  import matplotlib

  matplotlib.use('Agg')
  if IS_NEW:
    return az.plot_trace(data, backend='matplotlib')
  return az.plot_trace(data)


def dataset(data, group):
  """The variables of a group, for either line of ArviZ."""
  return data[group].to_dataset() if IS_NEW else data[group]


def elpd(found):
  return float(found.elpd if IS_NEW else found.elpd_loo)


def normal_model(scale=1.0):
  """A mean with five observations, pinned."""
  return tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, 3.0),
      'y': lambda mean: tfd.Sample(tfd.Normal(mean, scale), 5),
    }
  ).experimental_pin(y=Y)


def normal_posterior(y=Y, scale=1.0):
  """Mean and deviation of the posterior of the mean."""
  precision = 1.0 / 9.0 + len(y) / scale**2
  return np.sum(y) / scale**2 / precision, precision**-0.5


def importance_particles(count=20_000, scale=1.0):
  """Draws from a wider density, with their weights."""
  mean, deviation = normal_posterior(scale=scale)
  proposal = tfd.Normal(np.float32(mean + 0.3), np.float32(2.0 * deviation))
  draws = proposal.sample(count, seed=[1, 2])
  log_weights = normal_model(scale).unnormalized_log_prob(
    {'mean': draws}
  ) - proposal.log_prob(draws)
  return nvi.WeightedParticles({'mean': draws}, log_weights)


@pytest.fixture(scope='module')
def data():
  return importance_particles().to_arviz(model=normal_model())


def test_groups(data):
  values = {
    'posterior': ('mean', (1, 20_000)),
    'sample_stats': ('lp', (1, 20_000)),
    'log_likelihood': ('y', (1, 20_000, 5)),
    'posterior_predictive': ('y', (1, 20_000, 5)),
    'observed_data': ('y', (5,)),
    'prior': ('mean', (1, 500)),
    'prior_predictive': ('y', (1, 500, 5)),
  }
  for group, (name, shape) in values.items():
    assert dataset(data, group)[name].shape == shape, group
  assert dataset(data, 'sample_stats')['log_weight'].shape == (1, 20_000)
  np.testing.assert_array_equal(dataset(data, 'observed_data')['y'], Y)


def test_summary_is_of_the_posterior(data):
  summary = az.summary(data, round_to='none')
  mean, deviation = normal_posterior()
  row = summary.loc['mean']
  # The effective sample size of the weights is about 10,000.
  assert abs(float(row['mean']) - mean) < 5.0 * deviation / 100.0
  assert abs(float(row['sd']) / deviation - 1.0) < 5.0 / np.sqrt(2 * 10_000)
  # Copies lie next to each other, where ArviZ sees them.
  assert float(row['ess_bulk']) < 18_000


def test_summary_of_unweighted_draws_differs():
  """A mutation: particles without their weights."""
  particles = importance_particles()
  flat = particles._replace(log_weights=tf.zeros_like(particles.log_weights))
  row = az.summary(flat.to_arviz(), round_to='none').loc['mean']
  assert abs(float(row['mean']) - normal_posterior()[0]) > 0.1


def test_log_likelihood_and_density_are_of_the_draws(data):
  draws = dataset(data, 'posterior')['mean'].values[0]
  found = dataset(data, 'log_likelihood')['y'].values[0]
  expected = scipy.stats.norm(draws[:, np.newaxis], 1.0).logpdf(Y)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  lp = dataset(data, 'sample_stats')['lp'].values[0]
  expected = expected.sum(axis=1) + scipy.stats.norm(0.0, 3.0).logpdf(draws)
  np.testing.assert_allclose(lp, expected, rtol=1e-4)


def test_log_weights_are_of_the_draws(data):
  mean, deviation = normal_posterior()
  draws = dataset(data, 'posterior')['mean'].values[0]
  proposal = scipy.stats.norm(mean + 0.3, 2.0 * deviation)
  expected = dataset(data, 'sample_stats')['lp'].values[0] - proposal.logpdf(
    draws
  )
  np.testing.assert_allclose(
    dataset(data, 'sample_stats')['log_weight'].values[0], expected, atol=1e-4
  )


def test_predictive_draws(data):
  mean, deviation = normal_posterior()
  replicated = dataset(data, 'posterior_predictive')['y'].values[0]
  # Values share the mean, and are otherwise independent.
  count = 10_000
  assert np.all(
    np.abs(replicated.mean(axis=0) - mean)
    < 5.0 * np.hypot(deviation, 1.0) / np.sqrt(count)
  )
  covariance = np.cov(replicated.T)
  expected = deviation**2 + np.eye(5)
  assert np.all(np.abs(covariance - expected) < 5.0 * 1.7 / np.sqrt(count))
  simulated = dataset(data, 'prior_predictive')['y'].values[0]
  assert np.all(np.abs(simulated.std(axis=0) - np.sqrt(10.0)) < 0.5)
  # The simulated values belong to the draws of the prior.
  means = dataset(data, 'prior')['mean'].values[0]
  assert abs(np.std(simulated.mean(axis=1) - means) - 5**-0.5) < 0.07


def exact_loo(scale=1.0):
  total = 0.0
  for i in range(len(Y)):
    mean, deviation = normal_posterior(np.delete(Y, i), scale)
    total += scipy.stats.norm(mean, np.hypot(deviation, scale)).logpdf(Y[i])
  return total


def test_loo_and_compare(data):
  assert abs(elpd(az.loo(data)) - exact_loo()) < 0.05
  narrow = importance_particles(scale=0.3).to_arviz(model=normal_model(0.3))
  table = az.compare({'narrow': narrow, 'right': data})
  assert list(table.index) == ['right', 'narrow']
  assert exact_loo() > exact_loo(0.3) + 1.0


def test_plot_trace(data):
  assert plot_trace(data) is not None


def test_files(data, tmp_path):
  pytest.importorskip('h5netcdf')
  path = tmp_path / 'data.nc'
  if IS_NEW:
    xarray = pytest.importorskip('xarray')
    data.to_netcdf(path, engine='h5netcdf')
    read = xarray.open_datatree(path, engine='h5netcdf')
  else:
    data.to_netcdf(str(path), engine='h5netcdf')
    read = az.from_netcdf(str(path), engine='h5netcdf')
  attributes = read['posterior'].attrs
  assert attributes['inference_library'] == 'tfp_nvi'
  np.testing.assert_allclose(
    attributes['log_normalizer'],
    float(importance_particles().log_normalizer),
    rtol=1e-6,
  )


def named():
  return tfd.JointDistributionNamed(
    {
      'b': tfd.Normal(0.0, 1.0),
      'a': lambda b: tfd.Sample(tfd.Normal(b, 1.0), 2),
      'y': lambda a: tfd.Independent(tfd.Normal(a, 1.0), 1),
    }
  ).experimental_pin(y=[1.0, 2.0])


def auto_batched():
  return tfd.JointDistributionNamedAutoBatched(
    {
      'b': tfd.Normal(0.0, 1.0),
      'a': lambda b: tfd.Sample(tfd.Normal(b, 1.0), 2),
      'y': lambda a: tfd.Normal(a, 1.0),
    }
  ).experimental_pin(y=[1.0, 2.0])


def coroutine():
  @tfd.JointDistributionCoroutineAutoBatched
  def model():
    b = yield tfd.Normal(0.0, 1.0, name='b')
    a = yield tfd.Sample(tfd.Normal(b, 1.0), 2, name='a')
    yield tfd.Normal(a, 1.0, name='y')

  return model.experimental_pin(y=[1.0, 2.0])


def sequential():
  return tfd.JointDistributionSequential(
    [
      tfd.Normal(0.0, 1.0, name='b'),
      lambda b: tfd.Sample(tfd.Normal(b, 1.0), 2, name='a'),
      lambda a: tfd.Independent(tfd.Normal(a, 1.0), 1, name='y'),
    ]
  ).experimental_pin(y=[1.0, 2.0])


@pytest.mark.parametrize('make', [named, auto_batched, coroutine, sequential])
def test_kinds_of_models(make):
  model = make()
  draws = model.sample_unpinned(7, seed=[1, 2])
  data = nvi.WeightedParticles(draws, tf.zeros([7])).to_arviz(
    model=model,
    dims={'a': ['town'], 'y': ['town']},
    coords={'town': ['A', 'B']},
    num_prior_draws=11,
  )
  posterior = dataset(data, 'posterior')
  assert set(posterior.data_vars) == {'a', 'b'}
  assert posterior['a'].dims == ('chain', 'draw', 'town')
  assert set(dataset(data, 'prior').data_vars) == {'a', 'b'}
  assert dataset(data, 'prior')['a'].shape == (1, 11, 2)
  assert list(dataset(data, 'observed_data')['town'].values) == ['A', 'B']
  a = posterior['a'].values[0]
  np.testing.assert_allclose(
    dataset(data, 'log_likelihood')['y'].values[0],
    scipy.stats.norm(a, 1.0).logpdf([1.0, 2.0]),
    rtol=1e-5,
  )
  b = posterior['b'].values[0]
  expected = scipy.stats.norm().logpdf(b) + scipy.stats.norm(
    np.stack([b, b], axis=1)
  ).logpdf(a).sum(axis=1)
  expected += scipy.stats.norm(a).logpdf([1.0, 2.0]).sum(axis=1)
  np.testing.assert_allclose(
    dataset(data, 'sample_stats')['lp'].values[0], expected, rtol=1e-5
  )


def test_replicates_of_several_values_are_independent():
  model = tfd.JointDistributionSequential(
    [
      tfd.Normal(0.0, 1.0, name='a'),
      tfd.Normal(0.0, 1.0, name='y'),
      tfd.Normal(0.0, 1.0, name='x'),
    ]
  ).experimental_pin(y=0.0, x=0.0)
  draws = model.sample_unpinned(1_000, seed=[1, 2])
  found = groups.observe_pinned(model, draws, seed=1)
  correlation = np.corrcoef(found.predictive['y'], found.predictive['x'])[0, 1]
  assert abs(correlation) < 5.0 / np.sqrt(1_000)


PARTS = [
  (tfd.Normal(0.3, 2.0), []),
  (tfd.Independent(tfd.Normal([0.0, 1.0], 2.0), 1), [2]),
  (tfd.Sample(tfd.Normal(0.0, 1.0), [3, 2]), [3, 2]),
  (tfd.Sample(tfd.Normal([0.0, 1.0], 1.0), 3), [2, 3]),
  (tfd.Independent(tfd.Sample(tfd.Normal([0.0, 1.0], 1.0), 3), 1), [2, 3]),
  (tfd.Sample(tfd.Independent(tfd.Normal([0.0, 1.0], 1.0), 1), 3), [3, 2]),
  (tfd.MultivariateNormalDiag([0.0, 1.0]), []),
  (tfd.Sample(tfd.MultivariateNormalDiag([0.0, 1.0]), 3), [3]),
  (tfd.Sample(tfd.Sample(tfd.Poisson([1.0, 2.0]), 4), 3), [2, 3, 4]),
]


@pytest.mark.parametrize(('distribution', 'shape'), PARTS)
@pytest.mark.parametrize('leading', [[], [6]])
def test_pointwise_log_prob_sums_to_log_prob(distribution, shape, leading):
  value = distribution.sample(leading, seed=[3, 4])
  found = groups.pointwise_log_prob(distribution, value)
  assert found.shape == leading + shape
  total = distribution.log_prob(value)
  axes = list(range(total.shape.rank, found.shape.rank))
  np.testing.assert_allclose(tf.reduce_sum(found, axes), total, rtol=1e-5)


def test_runs_are_chains():
  posterior = nvi.fit_posterior(
    normal_model(), num_particles=100, num_runs=4, seed=1, progress=False
  )
  data = posterior.to_arviz(normal_model())
  assert dataset(data, 'posterior')['mean'].shape == (4, 100)
  assert data['posterior'].attrs['log_evidence'] == posterior.log_evidence
  weights = posterior.particles.weights.numpy().reshape([100, 4])
  values = posterior.particles.particles['mean'].numpy().reshape([100, 4])
  expected = (weights * values).sum(axis=0) / weights.sum(axis=0)
  # Systematic resampling rounds the number of copies up or down.
  np.testing.assert_allclose(
    dataset(data, 'posterior')['mean'].values.mean(axis=1), expected, atol=0.02
  )
  assert float(az.summary(data, round_to='none').loc['mean', 'r_hat']) < 1.1
  assert elpd(az.loo(data)) < 0.0
  assert 'log_likelihood' not in dir(posterior.to_arviz(dims=None))


def test_batches():
  x = tf.random.stateless_normal([50, 3, 2, 4], seed=[1, 2])
  log_weights = tf.random.stateless_normal([50, 3, 2], seed=[3, 4])
  particles = nvi.WeightedParticles(x, log_weights)
  data = particles.to_arviz(num_draws=30)
  assert dataset(data, 'posterior')['x'].shape == (1, 30, 3, 2, 4)
  assert dataset(data, 'posterior')['x'].dims[2:4] == ('batch_0', 'batch_1')
  data = particles.to_arviz(names=['loc'], chain_axis=1, dims={'loc': ['i']})
  loc = dataset(data, 'posterior')['loc']
  assert loc.dims == ('chain', 'draw', 'batch', 'i')
  assert loc.shape == (2, 50, 3, 4)
  # Every draw is one of the particles of its own member of the batch.
  for chain in range(2):
    for batch in range(3):
      drawn = loc.values[chain, :, batch]
      assert {tuple(v) for v in drawn} <= {
        tuple(v) for v in x[:, batch, chain].numpy()
      }


def test_roots_are_exported():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=3
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  particles = sampler.sample(100, seed=2, jit_compile=False)
  stats = dataset(particles.to_arviz(), 'sample_stats')
  assert set(stats['root'].values[0]) <= set(particles.root.numpy())


def drifting():
  return nvi.StateSpaceModel(
    prior=tfd.JointDistributionNamed({'drift': tfd.Normal(0.0, 1.0)}),
    initial_fn=lambda theta: tfd.Normal(theta['drift'], 1.0),
    transition_fn=lambda z, theta: tfd.Normal(z + theta['drift'], 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )


@pytest.mark.parametrize('batch', [[], [2]])
def test_sequences(batch):
  model = drifting()
  x = tf.broadcast_to(tf.constant([0.1, 0.5, 0.8]), batch + [3])
  posterior = nvi.StateSpaceSampler(model).sample(
    x, 200, seed=1, jit_compile=False
  )
  data = posterior.to_arviz(model, x, num_prior_draws=20)
  leading = ('sequence',) if batch else ()
  states = dataset(data, 'posterior')
  assert states['z'].dims == ('chain', 'draw', *leading, 'time')
  assert states['drift'].dims == ('chain', 'draw', *leading)
  assert dataset(data, 'prior')['z'].shape == (1, 20, *batch, 3)
  assert dataset(data, 'posterior_predictive')['x'].shape == (
    1,
    200,
    *batch,
    3,
  )
  found = dataset(data, 'log_likelihood')['x']
  assert found.dims == ('chain', 'draw', *leading, 'time')
  np.testing.assert_allclose(
    found.values[0],
    scipy.stats.norm(states['z'].values[0], 0.2).logpdf(x),
    rtol=1e-3,
    atol=1e-4,
  )
  expected = posterior.expectation(lambda theta, z: z)
  np.testing.assert_allclose(
    states['z'].values[0].mean(axis=0), expected, atol=0.02
  )
  assert len(az.summary(data)) == (8 if batch else 4)
  assert np.isfinite(elpd(az.loo(data)))
  assert plot_trace(data) is not None


def test_sequences_with_inputs():
  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z, u: tfd.Normal(z + u, 0.5),
    observation_fn=lambda z, t, u: tfd.Normal(z + u, 0.2),
    input_example=0.0,
  )
  x, u = tf.constant([0.1, 0.5, 0.8]), tf.constant([0.0, 1.0, 2.0])
  posterior = nvi.StateSpaceSampler(model).sample(
    x, 100, seed=1, inputs=u, jit_compile=False
  )
  data = posterior.to_arviz(model, x, inputs=u, num_prior_draws=20)
  z = dataset(data, 'posterior')['z'].values[0]
  np.testing.assert_allclose(
    dataset(data, 'log_likelihood')['x'].values[0],
    scipy.stats.norm(z + u, 0.2).logpdf(x),
    rtol=1e-3,
    atol=1e-3,
  )


def test_names_of_states_that_agree():
  assert list(groups.name_states(1.0, 2.0)) == ['theta', 'z']
  assert list(groups.name_states((), 2.0)) == ['z']
  assert list(groups.name_states({'a': 1.0}, {'a': 2.0})) == ['theta.a', 'z.a']


@pytest.mark.parametrize('batch', [[], [3]])
def test_history(batch):
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0),
    tfd.Normal(2.0, 0.5),
    num_densities=3,
    learnable=True,
    batch_shape=batch,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  history = nvi.fit(
    sampler,
    nvi.reverse_kl(),
    num_particles=10,
    num_steps=20,
    seed=2,
    progress=False,
  )
  data = history.to_arviz()
  stats = dataset(data, 'sample_stats')
  num_chains = batch[0] if batch else 1
  assert stats['loss'].dims == ('chain', 'draw')
  np.testing.assert_array_equal(
    stats['loss'].values, history.loss.reshape([20, num_chains]).T
  )
  sizes = stats['level_effective_sample_sizes']
  assert sizes.dims == ('chain', 'draw', 'level')
  assert list(sizes['level'].values) == [1, 2]
  last = history.level_effective_sample_sizes.reshape([20, 2, num_chains])
  np.testing.assert_array_equal(sizes.values[-1], last[:, :, -1])
  assert not stats['is_skipped'].values.any()
  shown = dataset(data, 'posterior')
  assert sorted(shown.data_vars) == [
    'effective_sample_size',
    'level_effective_sample_sizes',
    'log_incremental_weights',
    'log_normalizer',
    'loss',
  ]
  np.testing.assert_array_equal(shown['loss'], stats['loss'])
  assert plot_trace(data) is not None


def test_errors():
  particles = nvi.WeightedParticles(tf.zeros([4, 2]), tf.zeros([4, 2]))
  with pytest.raises(TypeError, match='`particles` must be WeightedParticles'):
    nvi.diagnostics.particles_to_arviz(tuple(particles))
  with pytest.raises(ValueError, match='`chain_axis` must be less than 1'):
    particles.to_arviz(chain_axis=1)
  with pytest.raises(ValueError, match='`names` must be 1 names'):
    particles.to_arviz(names=['a', 'b'])
  with pytest.raises(ValueError, match='`model` must be None'):
    particles.to_arviz(model=normal_model())
  with pytest.raises(TypeError, match='`model` must be a JointDist'):
    particles.to_arviz(model=tfd.Normal(0.0, 1.0), chain_axis=0)
  with pytest.raises(ValueError, match='`model` must be the one'):
    particles.to_arviz(model=normal_model(), chain_axis=0)
  with pytest.raises(TypeError, match='`dims` must be a dict'):
    particles.to_arviz(dims=['x'])
  with pytest.raises(ValueError, match='`dims` must have a list of 0 names'):
    particles.to_arviz(dims={'x': ['place']})
  for names in (['chain'], ['draw']):
    with pytest.raises(ValueError, match='`names` must be different'):
      particles.to_arviz(names=names)
  zero = particles._replace(log_weights=tf.fill([4, 2], -float('inf')))
  with pytest.raises(ValueError, match='`particles` must have weight'):
    zero.to_arviz()
  model = drifting()
  posterior = nvi.StateSpaceSampler(model).sample(
    [0.1, 0.2], 10, seed=1, trajectories=False, jit_compile=False
  )
  with pytest.raises(ValueError, match='`observations` must be given'):
    posterior.to_arviz(model)
  with pytest.raises(ValueError, match='`model` must be None .* trajectories'):
    posterior.to_arviz(model, [0.1, 0.2])
  with pytest.raises(TypeError, match='`model` must be a StateSpaceModel'):
    posterior.to_arviz('model', [0.1, 0.2])
  posterior = nvi.StateSpaceSampler(model).sample(
    [0.1, 0.2], 10, seed=1, jit_compile=False
  )
  for x in ([0.1], [[0.1, 0.2]]):
    with pytest.raises(ValueError, match='`observations` must be those of'):
      posterior.to_arviz(model, x)


def test_arviz_is_optional(monkeypatch):
  monkeypatch.setitem(sys.modules, 'arviz', None)
  with pytest.raises(ImportError, match='needs ArviZ: pip install'):
    nvi.WeightedParticles(tf.zeros([4]), tf.zeros([4])).to_arviz()

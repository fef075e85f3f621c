# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The experiment on images, with each flag and folder.

Most tests take a few training steps: they are about files and flags, not about
results. One trains a short version of the default on the small digits, to
save it.
"""

import functools
import subprocess
import sys

import numpy as np
import pytest

import tfp_nvi as nvi
from tests.experiments import programs
from tests.experiments.programs import read
from tfp_nvi.experiments import image_mixture
from tfp_nvi.experiments.image_mixture import evaluation, experiment

ROW_TYPES = {
  'dataset': str,
  'objective': str,
  'seed': int,
  'total_variation': float,
  'total_variation_of_one_pass': float,
  'total_variations': list,
  'accuracy': float,
  'normalized_mutual_information': float,
  'bound': float,
  'seconds': float,
}
SMALL = {
  'num_clusters': 4,
  'num_latents': 3,
  'num_steps': 6,
  'batch_size': 10,
  'num_test_images': 12,
}


@pytest.fixture
def fast(monkeypatch):
  """Little to trace, few steps in each call, and little to evaluate."""
  level = nvi.Level
  monkeypatch.setattr(
    nvi,
    'Level',
    lambda *args, **kw: level(*args, **{**kw, 'jit_compile': False}),
  )
  monkeypatch.setattr(
    experiment.deep_mixture,
    'DeepMixture',
    functools.partial(experiment.deep_mixture.DeepMixture, num_flow_layers=1),
  )
  monkeypatch.setattr(experiment, '_STEPS_PER_CALL', 2)
  monkeypatch.setattr(evaluation, '_NUM_TEST_BATCHES', 2)
  monkeypatch.setattr(evaluation, '_NUM_BOUND_IMAGES', 50)
  monkeypatch.setattr(experiment, '_NUM_PARTICLES', {'nvi': 1, 'rws': 2})


# Training steps of the short version of the default that tests share.
NUM_STEPS = 200


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
  """A folder with the results of a short version of the default."""
  folder = tmp_path_factory.mktemp('trained')
  results = image_mixture.run(
    objective='nvi',
    num_steps=NUM_STEPS,
    output_dir=str(folder),
  )
  return folder, results.rows[0]


class TestMiniBatches:
  """Mini-batches have the proportions that they are said to have."""

  labels = np.repeat(np.arange(3), [50, 30, 20])
  images = labels[:, None, None].astype(np.uint8) * np.ones([1, 8, 8], np.uint8)

  def make(self, labels=None, **kwargs):
    arguments = {
      'num_classes': 3,
      'num_images': 400,
      'num_batches': 50,
      'concentration': 0.5,
      'seed': 1,
      **kwargs,
    }
    return image_mixture.mini_batches(self.images, labels, **arguments)

  def test_proportions(self):
    data, proportions = self.make(self.labels)
    counts = np.stack([np.bincount(i[:, 0, 0], minlength=3) for i, _ in data])
    # Multinomial: Pearson's statistic of all has 100 degrees of freedom, and
    # exceeds 170 with a probability of 2e-5.
    assert np.all(counts.sum(axis=1) == 400)
    expected = np.maximum(400 * proportions, 1e-9)
    is_large = expected > 5.0
    statistic = np.sum(((counts - expected) ** 2 / expected)[is_large])
    assert statistic < 170.0
    # Of a Dirichlet distribution, not about equal; with standard deviation
    # sqrt(2 / 9 / 2.5) = 0.298, known to 4% from 50 draws.
    assert 0.25 < proportions.std() < 0.35
    for images, indices in data.take(1):
      np.testing.assert_array_equal(images, self.images[indices])

  def test_without_labels(self):
    data, proportions = self.make()
    assert proportions is None
    shares = np.mean([np.bincount(i[:, 0, 0], minlength=3) for i, _ in data], 0)
    # Standard errors are below 400 * 0.5 / sqrt(20,000) = 1.5.
    np.testing.assert_allclose(shares, [200, 120, 80], atol=7)

  def test_absent_class(self):
    data, proportions = image_mixture.mini_batches(
      self.images[:80], self.labels[:80], 3, 10, 5, 1.0, seed=1
    )
    np.testing.assert_array_equal(proportions[:, 2], 0.0)
    np.testing.assert_allclose(proportions.sum(axis=1), 1.0)
    assert all(np.max(images) < 2 for images, _ in data)

  def test_seed(self):
    for labels in (None, self.labels):
      first, second, other = (
        np.stack([i for _, i in self.make(labels, seed=s)[0]])
        for s in (1, 1, 2)
      )
      np.testing.assert_array_equal(first, second)
      assert np.any(first != other)


def test_match():
  labels = np.array([0, 0, 0, 1, 1, 2])
  # Cluster 2 has class 0, cluster 0 has 1, cluster 1 has 2.
  clusters = np.array([2, 2, 0, 0, 0, 1])
  assert evaluation.match(labels, clusters, 3, 3).tolist() == [1, 2, 0]
  # One cluster is left over.
  assert evaluation.match(labels, clusters, 3, 4).tolist() == [1, 2, 0, -1]


def test_total_variation():
  true = np.array([[0.5, 0.3, 0.2]])
  inferred = np.array([[0.3, 0.2, 0.5]])
  for matching, expected in (
    ([1, 2, 0], 0.0),
    ([0, 1, 2], 0.3),
    # All of the last cluster counts as misplaced.
    ([1, 2, -1], 0.5),
  ):
    np.testing.assert_allclose(
      evaluation.total_variation(inferred, true, np.array(matching)),
      [expected],
    )


@pytest.mark.xdist_group('trained')
def test_short_version_of_the_default(trained):
  folder, row = trained
  assert read(folder)['rows'] == [row]
  for name, kind in ROW_TYPES.items():
    assert type(row[name]) is kind
  assert len(row['total_variations']) == 100
  np.testing.assert_allclose(
    np.mean(row['total_variations']), row['total_variation'], atol=1e-5
  )
  programs.check_pictures(
    folder / f'{name}-digits-1.png'
    for name in ('batches', 'reconstructions', 'clusters')
  )
  left = [p.name for p in folder.rglob('*') if p.suffix == '.part']
  assert not left


@pytest.mark.slow
def test_clusters_are_learned(tmp_path):
  row = image_mixture.run(
    objective='nvi', num_steps=1_000, output_dir=str(tmp_path)
  ).rows[0]
  # Random clusters match about 0.15 of 500 images. The mean total variation of
  # equal proportions is 5 E|b - 0.1| = 0.9**10 = 0.35, with b ~ Beta(1, 9).
  assert row['accuracy'] > 0.4
  assert row['normalized_mutual_information'] > 0.4
  assert row['total_variation'] < 0.33


@pytest.mark.xdist_group('trained')
def test_saved_model_in_a_fresh_process(trained):
  folder, row = trained
  program = """
import sys
import numpy as np
import tensorflow as tf
images = np.load(sys.argv[2])
model = tf.saved_model.load(sys.argv[1])
posterior = model.infer(images)
assert 'tfp_nvi' not in sys.modules
served = model.signatures['serving_default'](images=tf.constant(images))
assert set(served) == set(posterior)
np.savez(
  sys.argv[3],
  class_of_cluster=model.class_of_cluster.numpy(),
  **{k: v.numpy() for k, v in posterior.items()},
)
for bad, what in (
  (images * 2.0, 'intensities from 0 to 1'),
  (images - 0.5, 'from 0 to 1'),
  (images * np.nan, 'from 0 to 1'),
  (images[:0], 'at least one image'),
):
  try:
    model.infer(bad)
  except tf.errors.InvalidArgumentError as e:
    assert what in str(e), e
  else:
    raise AssertionError(what)
"""
  cell = np.load(folder / 'cells' / 'digits-nvi-1.npz')
  images = cell['batch'].astype(np.float32) / 255.0
  np.save(folder / 'images.npy', images)
  subprocess.run(
    [
      *(sys.executable, '-c', program),
      str(folder / 'saved_models' / 'digits-nvi-1'),
      str(folder / 'images.npy'),
      str(folder / 'posterior.npz'),
    ],
    check=True,
    timeout=300,
    cwd=folder,
  )
  posterior = np.load(folder / 'posterior.npz')
  # Other draws than at the evaluation: of 20, with deviations of about 0.03.
  np.testing.assert_allclose(
    posterior['proportions'], cell['inferred'][0], atol=0.05
  )
  assert posterior['cluster_probs'].shape == (300, 10)
  assert posterior['latent_loc'].shape == (300, 10)
  np.testing.assert_array_equal(
    posterior['class_of_cluster'], cell['class_of_cluster']
  )


@pytest.mark.slow
@pytest.mark.xdist_group('trained')
def test_evaluates_alone(trained, tmp_path):
  folder, row = trained
  arguments = {
    'objective': 'nvi',
    'num_steps': NUM_STEPS,
    'checkpoint_dir': str(folder / 'checkpoints'),
    'output_dir': str(tmp_path),
    'eval_only': True,
  }
  again = image_mixture.run(**arguments).rows[0]
  assert again == row
  # Nothing was trained, and a folder without checkpoints is none to evaluate.
  with pytest.raises(ValueError, match='`checkpoint_dir` must .* checkpoint'):
    image_mixture.run(**{**arguments, 'checkpoint_dir': str(tmp_path / 'new')})
  assert not [path for path in (tmp_path / 'new').rglob('*') if path.is_file()]
  with pytest.raises(
    ValueError, match=f'`checkpoint_dir` .* num_steps {NUM_STEPS}, no'
  ):
    image_mixture.run(
      **{
        **arguments,
        'num_steps': NUM_STEPS + 1,
        'output_dir': str(tmp_path / 'other'),
      }
    )


@pytest.mark.slow
def test_resumes(fast, monkeypatch, tmp_path):
  def run(folder):
    return image_mixture.run(
      objective='nvi', output_dir=str(tmp_path / folder), **SMALL
    ).rows[0]

  whole = run('whole')
  original = nvi.fit
  steps = []

  def stopped(*args, callback_fn, **kwargs):
    def on_call(step, values):
      callback_fn(step, values)
      if step not in steps and step < SMALL['num_steps']:
        steps.append(step)
        raise KeyboardInterrupt

    original(*args, checkpoint_seconds=0.0, callback_fn=on_call, **kwargs)

  monkeypatch.setattr(nvi, 'fit', stopped)
  # Before and after images share the proportions of a mini-batch.
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      run('stopped')
    assert not (tmp_path / 'stopped' / 'metrics.json').exists()
  resumed = run('stopped')
  assert steps == [2, 4]
  assert resumed['seconds'] > 0.0
  for name in whole:
    if name != 'seconds':
      assert resumed[name] == whole[name], name


@pytest.mark.slow
def test_objectives_side_by_side(fast, tmp_path):
  (last,) = image_mixture.run(
    objective='rws', output_dir=str(tmp_path), **SMALL
  ).rows
  (first,) = image_mixture.run(
    objective='nvi', output_dir=str(tmp_path), **SMALL
  ).rows
  assert [first['objective'], last['objective']] == ['nvi', 'rws']
  assert read(tmp_path)['rows'] == [first, last]
  # Of another configuration, in place of what is there.
  changed = {
    'objective': 'nvi',
    'output_dir': str(tmp_path),
    **SMALL,
    'num_latents': SMALL['num_latents'] + 1,
  }
  with pytest.raises(ValueError, match='unless --overwrite is given'):
    image_mixture.run(**changed)
  row = image_mixture.run(**changed, overwrite=True).rows[0]
  assert read(tmp_path)['rows'] == [row]
  assert row['bound'] != first['bound']
  # Checkpoints that are evaluated are neither discarded nor written to.
  files = {
    path: path.stat().st_mtime_ns
    for path in (tmp_path / 'checkpoints').rglob('*')
    if path.is_file()
  }
  other = {**changed, 'num_steps': SMALL['num_steps'] + 1}
  with pytest.raises(ValueError, match='`checkpoint_dir` must be'):
    image_mixture.run(**other, overwrite=True, eval_only=True)
  assert image_mixture.run(**changed, eval_only=True).rows == [row]
  for path, time in files.items():
    assert path.stat().st_mtime_ns == time, path


def test_steps_of_objectives():
  settings = image_mixture.Settings(num_steps=1_000)
  assert experiment._num_steps('nvi', settings) == 1_000
  assert experiment._num_steps('rws', settings) == 400


@pytest.mark.parametrize(
  ('setting', 'value', 'problem'),
  [
    ('dataset', 'cifar', "one of digits, mnist, fashion_mnist; got 'cifar'"),
    ('objective', 'nvi,vi', "a comma list of nvi, rws; got 'vi'"),
    ('objective', '', "a comma list of nvi, rws; got ''"),
    ('batch_size', 0, 'positive; got 0'),
    ('num_clusters', 2.5, 'a Python int; got 2.5'),
    ('num_clusters', 1, 'at least 2; got 1'),
    ('num_latents', -1, 'positive; got -1'),
    ('num_steps', -1, 'a positive integer, or 0 .*; got -1'),
    ('num_test_images', 0, 'positive; got 0'),
    ('seed', -1, 'a non-negative integer .*; got -1'),
    ('seed', 2**32, r'integer below 2\*\*32; got 4294967296'),
    ('learning_rate', 0.0, 'positive and finite; got 0.0'),
    ('concentration', float('nan'), 'positive and finite; got nan'),
  ],
)
def test_refuses_settings(setting, value, problem, tmp_path):
  programs.check_refuses(
    image_mixture.run, setting, value, problem, tmp_path / 'new'
  )


def test_refuses_folders(tmp_path):
  programs.check_refuses_folders(image_mixture.run, tmp_path)
  with pytest.raises(ValueError, match='^`checkpoint_dir` must be a folder'):
    image_mixture.run(
      output_dir=str(tmp_path), checkpoint_dir=str(tmp_path / 'file')
    )


@pytest.mark.parametrize(
  ('arguments', 'problem'),
  [
    (['--objective=foo'], '--objective must be a comma list of nvi, rws'),
    (['--dataset=mnist', '--data_dir={}'], '`data_dir` must be a folder with'),
  ],
)
def test_program_names_the_flag(arguments, problem, tmp_path):
  arguments = [argument.format(tmp_path) for argument in arguments]
  arguments.append(f'--output_dir={tmp_path / "results"}')
  programs.check_names_flag('bgmm_vae', arguments, problem)

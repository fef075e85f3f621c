# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The experiment on deep latent Gaussian models: densities, levels, files.

Log densities are compared with those of TensorFlow Probability, written out by
hand, and images with their expectations. Few steps are taken, without XLA.
"""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests.experiments import programs
from tfp_nvi.experiments import deep_gaussian
from tfp_nvi.experiments.deep_gaussian import evaluation, experiment
from tfp_nvi.experiments.deep_gaussian import model as model_lib

tfd = tfp.distributions

SEED = tf.constant([1, 2])
SMALL = {
  'num_steps': 4,
  'batch_size': 8,
  'num_test_images': 24,
  'num_test_particles': 2,
  'num_test_densities': 2,
  'num_importance_draws': 2,
  'num_compared_images': 5,
}


def make(num_layers=3, **kwargs):
  return model_lib.DeepGaussian(
    6, [4, 3, 2][:num_layers], (7, 5), num_components=3, seed=1, **kwargs
  )


def make_images(count=5):
  return tf.cast(
    tf.random.stateless_uniform([count, 6], SEED) < 0.5, tf.float32
  )


def log_normal(layer, given, value):
  """Log density of a layer's output, element by element."""
  distribution = layer(given)
  return tf.reduce_sum(
    tfd.Normal(distribution.mean(), distribution.stddev()).log_prob(value), -1
  )


def log_pixels(model, x, z_1):
  logits = model.decoder(tf.reshape(z_1, [-1, 4]))
  logits = tf.reshape(logits, [*z_1.shape[:-1], 6])
  return tf.reduce_sum(tfd.Bernoulli(logits).log_prob(x), axis=-1)


def log_standard(z):
  return tf.reduce_sum(tfd.Normal(0.0, 1.0).log_prob(z), axis=-1)


def test_joint_density():
  model, x = make(), make_images()
  z_1, z_2, z_3 = z = model.infer(x).sample(10, seed=SEED)
  assert [part.shape.as_list() for part in z] == [
    [10, 5, size] for size in (4, 3, 2)
  ]
  np.testing.assert_allclose(
    model.log_joint(z, x),
    log_standard(z_3)
    + log_normal(model.generative[1], z_3, z_2)
    + log_normal(model.generative[0], z_2, z_1)
    + log_pixels(model, x, z_1),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    model.infer(x).log_prob(z),
    log_normal(model.recognition[0], x, z_1)
    + log_normal(model.recognition[1], z_1, z_2)
    + log_normal(model.recognition[2], z_2, z_3),
    rtol=1e-5,
    atol=1e-5,
  )


def test_mixture_density():
  density = model_lib.MixtureDensity(3, 2, seed=1)
  for variable in density.trainable_variables:
    variable.assign(tf.random.stateless_normal(variable.shape, SEED))
  # Their names give their order: loc, log_scale, logits.
  parts = {v.name.split(':')[0]: v for v in density.trainable_variables}
  expected = tfd.MixtureSameFamily(
    tfd.Categorical(parts['logits']),
    tfd.MultivariateNormalDiag(
      tf.transpose(parts['loc']), tf.exp(tf.transpose(parts['log_scale']))
    ),
  )
  z = 2.0 * tf.random.stateless_normal([4, 5, 2], SEED)
  np.testing.assert_allclose(
    density.log_prob(z), expected.log_prob(z), rtol=1e-4, atol=1e-4
  )


def levels_by_name(model, x, objective):
  return {level.name: level for level in model.levels(x, objective)}


# For each level: the log density of the target less that of the proposal, and
# the parts that it trains where recognition has reverse or forward divergences.
def expected_levels(model, x):
  pi_1, pi_2 = (density.log_prob for density in model.densities)
  q_1, q_2, q_3 = (
    functools.partial(log_normal, layer) for layer in model.recognition
  )
  p_1, p_2 = (
    functools.partial(log_normal, layer) for layer in model.generative
  )
  d_1, d_2 = model.densities
  return {
    'images': (
      lambda z_1: pi_1(z_1) + log_pixels(model, x, z_1) - q_1(x, z_1),
      [model.decoder, d_1],
      model.recognition[:1],
    ),
    'layer_1': (
      lambda z_1, z_2: pi_2(z_2) + p_1(z_2, z_1) - q_1(x, z_1) - q_2(z_1, z_2),
      [model.generative[0], d_2],
      model.recognition[1:2],
    ),
    'layer_2': (
      lambda z_1, z_2, z_3: (
        log_standard(z_3) + p_2(z_3, z_2) - q_2(z_1, z_2) - q_3(z_2, z_3)
      ),
      [model.generative[1]],
      model.recognition[2:3],
    ),
    'density_1': (
      lambda z_3, z_2, z_1: (
        pi_1(z_1)
        + q_2(z_1, z_2)
        + q_3(z_2, z_3)
        - log_standard(z_3)
        - p_2(z_3, z_2)
        - p_1(z_2, z_1)
      ),
      [d_1],
      [],
    ),
    'density_2': (
      lambda z_3, z_2: (
        pi_2(z_2) + q_3(z_2, z_3) - log_standard(z_3) - p_2(z_3, z_2)
      ),
      [d_2],
      [],
    ),
  }


def test_nested_levels():
  model, x = make(), make_images()
  levels = levels_by_name(model, x, 'reverse_kl')
  expected = expected_levels(model, x)
  assert list(levels) == list(expected)
  for name, (log_ratio_fn, trained, recognition) in expected.items():
    level = levels[name]
    values = level.draw(3, SEED)
    move, log_target = level.evaluate(values)
    parts = tf.nest.flatten(values)
    np.testing.assert_allclose(
      log_target - move.log_forward,
      log_ratio_fn(*parts),
      rtol=1e-4,
      atol=1e-4,
      err_msg=name,
    )
    variables = {
      v.ref()
      for part in [*trained, *recognition]
      for v in part.trainable_variables
    }
    assert {v.ref() for v in level.variables} == variables, name


def test_forward_levels_train_recognition_by_draws_of_the_model():
  model, x = make(), make_images()
  levels = levels_by_name(model, x, 'forward_kl')
  trained = {
    name: [
      layer.name
      for layer in model.recognition
      if layer.trainable_variables[0].ref()
      in {v.ref() for v in level.variables}
    ]
    for name, level in levels.items()
  }
  assert trained == {
    'images': [],
    'layer_1': [],
    'layer_2': [],
    'density_1': ['recognition_2'],
    'density_2': ['recognition_3'],
    'dreams': ['recognition_1'],
  }
  dreams = levels['dreams']
  z_3, z_2, z_1, pixels = values = dreams.draw(3, SEED)
  assert pixels.shape == [3, 5, 6] and set(np.unique(pixels)) == {0.0, 1.0}
  np.testing.assert_allclose(
    dreams.log_target(values),
    log_normal(model.recognition[0], pixels, z_1),
    rtol=1e-4,
  )
  del z_2, z_3


@pytest.mark.parametrize(
  ('objective', 'num_layers'),
  [*itertools.product(['svi', 'reverse_kl', 'forward_kl'], [1, 2, 3])],
)
def test_gradients(objective, num_layers):
  # Every variable has one, and densities are there between layers alone.
  model, x = make(num_layers), make_images()
  objective_fn = nvi.svi() if objective == 'svi' else nvi.reverse_kl()
  _, pairs = objective_fn(
    nvi.Chain(lambda: model.levels(x, objective)), 1, SEED
  )
  found = {v.ref() for _, v in pairs}
  expected = {v.ref() for v in model.trainable_variables}
  if objective == 'svi':
    for density in model.densities:
      expected -= {v.ref() for v in density.trainable_variables}
  assert found == expected
  assert len(model.densities) == num_layers - 1


def test_one_layer_is_the_evidence_lower_bound():
  # Draws of joint distributions have seeds of their own, so both objectives
  # have the level of the images, whose target is the joint density.
  model, x = make(1), make_images()
  (level,) = model.levels(x, 'reverse_kl')
  z_1 = level.draw(3, SEED)
  np.testing.assert_allclose(
    level.log_target(z_1), model.log_joint([z_1], x), rtol=1e-5
  )
  results = [
    objective(nvi.Chain(lambda: model.levels(x, 'reverse_kl')), 1, SEED)
    for objective in (nvi.svi(), nvi.reverse_kl())
  ]
  (svi, svi_pairs), (nested, nested_pairs) = results
  np.testing.assert_allclose(svi.loss, nested.loss, rtol=1e-5)
  gradients = {v.ref(): g for g, v in svi_pairs}
  assert len(gradients) == len(nested_pairs)
  for gradient, variable in nested_pairs:
    np.testing.assert_allclose(
      gradient, gradients[variable.ref()], rtol=1e-3, atol=1e-4
    )


def test_binarize():
  # Shares of ones within 4 standard errors of the intensities.
  intensities = tf.repeat(
    tf.constant([[0], [51], [204], [255]], tf.uint8), 4_000, 1
  )
  pixels = model_lib.binarize(intensities, SEED).numpy()
  assert set(np.unique(pixels)) == {0.0, 1.0}
  np.testing.assert_allclose(
    pixels.mean(axis=1), [0.0, 0.2, 0.8, 1.0], atol=4.0 * np.sqrt(0.16 / 4_000)
  )


def test_mini_batches():
  # Each image once in an epoch, in other orders; as before after a restart.
  data = experiment._mini_batches(20, 5, seed=7)
  indices, seeds = zip(*data.take(8).as_numpy_iterator(), strict=True)
  epochs = np.reshape(indices, [2, 20])
  for epoch in epochs:
    assert sorted(epoch) == list(range(20))
  assert np.any(epochs[0] != epochs[1])
  assert len({tuple(seed) for seed in seeds}) == 8
  later, _ = next(data.skip(6).as_numpy_iterator())
  np.testing.assert_array_equal(later, indices[6])
  other, _ = next(experiment._mini_batches(20, 5, seed=8).as_numpy_iterator())
  assert np.any(other != indices[0])


def test_decoder_begins_with_the_mean_image():
  means = np.array([0.2, 0.5, 0.9, 0.0, 1.0, 0.3])
  model = make(mean_image=means)
  np.testing.assert_allclose(
    tf.sigmoid(model.logits(tf.zeros([4]))),
    np.clip(means, 0.01, 0.99),
    rtol=1e-5,
  )


def test_fill_in():
  model, x = make(), make_images()
  observed = np.array([True, True, True, False, False, False])
  filled = evaluation.fill_in(model, x, observed, 3, SEED).numpy()
  np.testing.assert_array_equal(filled[:, :3], x[:, :3])
  assert np.all((filled[:, 3:] > 0.0) & (filled[:, 3:] < 1.0))
  # Missing pixels have no influence.
  other = tf.where(observed, x, 1.0 - x)
  np.testing.assert_array_equal(
    evaluation.fill_in(model, other, observed, 3, SEED), filled
  )


@pytest.fixture
def fast(monkeypatch):
  """Little to trace, and few steps in each call."""
  sizes = experiment._Sizes(4, 8, (4, 3, 2), (7, 5), 3)
  monkeypatch.setitem(experiment._SIZES, 'digits', sizes)
  monkeypatch.setattr(experiment, 'STEPS_PER_CALL', 2)
  monkeypatch.setattr(evaluation, '_NUM_FILLING_STEPS', 2)
  monkeypatch.setattr(nvi, 'fit', functools.partial(nvi.fit, jit_compile=False))


def test_program(fast, tmp_path, monkeypatch):
  arguments = {**SMALL, 'output_dir': str(tmp_path), 'num_layers': 2}
  results = deep_gaussian.run(objective='reverse_kl', **arguments)
  assert [(row['objective'], row['num_layers']) for row in results.rows] == [
    ('reverse_kl', 2)
  ]
  for row in results.rows:
    # Pixels of an untrained model have at most a nat or so each.
    assert -100.0 < row['elbo'] < row['test_log_likelihood'] < 0.0
    assert row['test_log_likelihood_error'] > 0.0 and row['seconds'] > 0.0
  assert programs.read(tmp_path)['rows'] == results.rows
  programs.check_pictures(results.pictures)
  assert len(results.pictures) == 5

  def never(*args, **kwargs):
    raise AssertionError('nothing was left to do')

  monkeypatch.setattr(experiment, '_run_cell', never)
  again = deep_gaussian.run(objective='reverse_kl', **arguments)
  assert again.rows == results.rows


@pytest.mark.slow
def test_resumes(fast, monkeypatch, tmp_path):
  def run(folder):
    return deep_gaussian.run(
      objective='reverse_kl',
      num_layers=2,
      output_dir=str(tmp_path / folder),
      **SMALL,
    ).rows[0]

  whole = run('whole')
  original = nvi.fit

  def stopped(*args, callback_fn, **kwargs):
    def on_call(step, values):
      callback_fn(step, values)
      raise KeyboardInterrupt

    original(*args, checkpoint_seconds=0.0, callback_fn=on_call, **kwargs)

  monkeypatch.setattr(nvi, 'fit', stopped)
  with pytest.raises(KeyboardInterrupt):
    run('stopped')
  assert not (tmp_path / 'stopped' / 'metrics.json').exists()
  monkeypatch.setattr(nvi, 'fit', original)
  resumed = run('stopped')
  for name in whole:
    if name != 'seconds':
      assert resumed[name] == whole[name], name


@pytest.mark.parametrize(
  ('setting', 'value', 'problem'),
  [
    ('dataset', 'cifar', "one of digits, mnist, fashion_mnist; got 'cifar'"),
    ('objective', 'elbo', "got 'elbo'"),
    ('num_layers', '1,4', 'integers up to 3; got 4'),
    ('num_layers', 0, 'at least 1; got 0'),
    ('num_steps', -1, 'a positive integer, or 0 .*; got -1'),
    ('num_particles', 1, 'at least 2; got 1'),
    ('num_test_densities', 1, 'at least 2; got 1'),
    ('learning_rate', float('nan'), 'positive and finite; got nan'),
  ],
)
def test_refuses_settings(setting, value, problem, tmp_path):
  programs.check_refuses(
    deep_gaussian.run, setting, value, problem, tmp_path / 'new'
  )


def test_refuses_data(tmp_path):
  with pytest.raises(ValueError, match='`data_dir` must be a folder with'):
    deep_gaussian.run(
      dataset='mnist',
      data_dir=str(tmp_path),
      output_dir=str(tmp_path / 'results'),
    )

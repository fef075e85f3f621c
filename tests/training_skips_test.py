# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of training where steps are bad: skips, clipping, NaN and collapse."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tests.training_stub import Stub
from tfp_nvi import training
from tfp_nvi.internal import randomness

tfd = tfp.distributions


def _nan_at(*steps):
  """A gradient that is NaN at some steps."""

  def gradient_fn(step, x):
    return tf.where(tf.reduce_any(tf.equal(step, steps)), np.nan, x)

  return gradient_fn


@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize(
  'make_optimizer',
  [tf_keras.optimizers.Adam, tf_keras.optimizers.legacy.Adam],
  ids=['new', 'legacy'],
)
def test_skipped_steps_leave_variables_and_optimizer(
  make_optimizer, jit_compile
):
  # Two steps of ten are skipped: what is left is training of eight steps.
  good, bad = Stub(), Stub(_nan_at(0, 4))
  states = []
  for stub, num_steps in ((good, 8), (bad, 10)):
    optimizer = make_optimizer(0.1)
    history = stub.fit(num_steps, optimizer=optimizer, jit_compile=jit_compile)
    variables = optimizer.variables
    variables = variables() if callable(variables) else variables
    states.append([stub.x.numpy(), *[v.numpy() for v in variables]])
  assert np.flatnonzero(history.is_skipped).tolist() == [0, 4]
  assert history.num_skipped_steps == 2
  for expected, found in zip(*states, strict=True):
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  'fields',
  [
    {'loss': lambda step, x: tf.where(step == 2, np.nan, 1.0)},
    {'loss': lambda step, x: tf.where(step == 2, np.inf, 1.0)},
    # A loss of zero weights is large but finite: that of the last level.
    {'log_normalizer': lambda step, x: tf.where(step == 2, -np.inf, 1.0)},
  ],
  ids=['nan', 'inf', 'zero weights'],
)
def test_steps_of_bad_losses_are_skipped(fields):
  stub = Stub(**fields)
  history = stub.fit(5, optimizer=tf_keras.optimizers.SGD(0.5))
  assert np.flatnonzero(history.is_skipped).tolist() == [2]
  np.testing.assert_allclose(stub.x, 4.0 * 0.5**4)


def test_infinite_gradients_and_norms_are_skipped():
  # The square of 1e30 is no float32.
  for value in (np.inf, 1e30):
    stub = Stub(lambda step, x, v=value: tf.where(step == 1, v, x))
    history = stub.fit(3)
    assert history.is_skipped.tolist() == [False, True, False]


def test_outliers_are_clipped_relative_to_the_norms_before():
  # Gradients of one, and then one of 1e6, clipped to ten times the mean.
  stub = Stub(lambda step, x: tf.where(step == 5, 1e6, 1.0))
  stub.fit(6, optimizer=tf_keras.optimizers.SGD(1.0))
  np.testing.assert_allclose(stub.x, 4.0 - 5.0 - 10.0, rtol=1e-6)
  stub = Stub(lambda step, x: tf.where(step == 5, 1e6, 1.0))
  stub.fit(6, optimizer=tf_keras.optimizers.SGD(1.0), clip_factor=3.0)
  np.testing.assert_allclose(stub.x, 4.0 - 5.0 - 3.0, rtol=1e-6)
  stub = Stub(lambda step, x: tf.where(step == 5, 1e6, 1.0))
  stub.fit(6, optimizer=tf_keras.optimizers.SGD(1.0), clip_factor=None)
  np.testing.assert_allclose(stub.x, 4.0 - 5.0 - 1e6, rtol=1e-6)


def test_clipping_takes_all_variables_together():
  # Norms of 5 = |(3, 4)|, then 500, which becomes 10: twice the gradient.
  x, y = tf.Variable(0.0), tf.Variable(0.0)

  class Two(Stub):
    def __call__(self, *args):
      estimate, _ = super().__call__(*args)
      scale = tf.where(self.step == 3, 100.0, 1.0)
      return estimate, [(3.0 * scale, x), (4.0 * scale, y)]

  Two().fit(4, optimizer=tf_keras.optimizers.SGD(1.0), clip_factor=2.0)
  np.testing.assert_allclose([x, y], [-15.0, -20.0], rtol=1e-6)


def test_the_norm_that_gradients_are_clipped_by_follows_them():
  # Gradients that double at each step exceed no multiple of three of the mean
  # of two, (1 + 2) / 2, that of three, and so on up to six steps: 2^(n-1) is to
  # be compared with 3 (2^(n-1) - 1) / (n - 1), less if n - 1 > 3.
  seen = []

  class Records(tf_keras.optimizers.SGD):
    def apply_gradients(self, pairs, **kwargs):
      pairs = list(pairs)
      seen.append(pairs[0][0])
      return super().apply_gradients(pairs, **kwargs)

  stub = Stub(lambda step, x: 2.0 ** tf.cast(step, tf.float32))
  stub.fit(8, optimizer=Records(1.0), clip_factor=3.0)
  mean, count, total = 0.0, 0, 0.0
  for step in range(8):
    norm = 2.0**step
    if count:
      norm = min(norm, 3.0 * mean)
    count += 1
    mean += (norm - mean) / count
    total += norm
  assert total < 2.0**8 - 1.0
  np.testing.assert_allclose(stub.x, 4.0 - total, rtol=1e-6)


def test_training_without_good_steps_is_an_error():
  stub = Stub(lambda step, x: tf.where(step >= 4, np.nan, x))
  optimizer = tf_keras.optimizers.SGD(0.5)
  with pytest.raises(
    training.TrainingError, match=r'gradient of x:0 .* at step 4, and .* 55'
  ) as e:
    stub.fit(200, optimizer=optimizer)
  # Found at the end of the sixth call of ten steps.
  assert isinstance(e.value, FloatingPointError)
  assert len(e.value.history.loss) == 60
  assert e.value.history.num_skipped_steps == 56
  np.testing.assert_allclose(stub.x, 4.0 * 0.5**4)


def test_error_names_the_level():
  levels = np.array([0.0, np.nan])
  stub = Stub(
    log_incremental_weights=lambda step, x: levels,
    loss=lambda step, x: np.nan,
  )
  with pytest.raises(FloatingPointError, match='NaN at step 0, level 2'):
    stub.fit(10)


def test_zero_weights_are_an_error_that_names_the_level():
  stub = Stub(
    loss=lambda step, x: 1e30,
    log_normalizer=lambda step, x: -np.inf,
    log_incremental_weights=lambda step, x: np.array([-1e30, -1e30]),
  )
  with pytest.raises(
    training.TrainingError, match='every weight was zero at step 0, level 1'
  ):
    stub.fit(10)


def test_target_without_density_is_an_error():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0),
    lambda x: tf.where(x > 50.0, 0.0, -float('inf')),
    num_densities=2,
  )
  sampler = nvi.NestedSampler(
    path, nvi.GaussianTransitions(path, hidden_units=[4], seed=1)
  )
  with pytest.raises(training.TrainingError, match='level 1'):
    nvi.fit(
      sampler,
      nvi.reverse_kl(),
      num_particles=10,
      num_steps=3,
      seed=1,
      progress=False,
      jit_compile=False,
    )


def test_nan_log_densities_are_counted_and_warned_of_once():
  stub = Stub(num_nan=lambda step, x: tf.where(step % 10 == 3, 2, 0))
  with pytest.warns(RuntimeWarning, match='Step 3: A log density') as caught:
    history = stub.fit(40)
  assert len(caught) == 1
  assert caught[0].filename == Stub.fit.__code__.co_filename
  assert np.flatnonzero(history.num_nan).tolist() == [3, 13, 23, 33]
  assert history.num_nan.sum() == 8
  assert history.num_skipped_steps == 0


def test_nan_log_densities_are_named_by_the_sampler():
  seen = []

  class Sampler(nvi.Chain):
    def describe_nan(self, num_particles, seed):
      seen.append((num_particles, seed.numpy().tolist()))
      return 'the part y was NaN at p = 1.'

  def fit(**kwargs):
    Stub(num_nan=lambda step, x: tf.where(step == 3, 1, 0)).fit(
      10, Sampler(list), **kwargs
    )

  with pytest.warns(RuntimeWarning, match='the part y was NaN at p = 1'):
    fit()
  # The seed is that of the step.
  seed = randomness.fold_in(randomness.as_seed(1), 3).numpy().tolist()
  assert seen == [(100, seed)]
  with pytest.raises(training.TrainingError, match='the part y was NaN'):
    fit(strict=True)


def test_strict_training_stops_before_the_first_bad_step():
  for stub in (
    Stub(_nan_at(3)),
    Stub(num_nan=lambda step, x: tf.where(step == 3, 1, 0)),
  ):
    with pytest.raises(training.TrainingError, match='[Ss]tep 3') as e:
      stub.fit(10, strict=True, optimizer=tf_keras.optimizers.SGD(0.5))
    assert len(e.value.history.loss) == 4
    np.testing.assert_allclose(stub.x, 4.0 * 0.5**3)


def _sizes(*values):
  return lambda step, x: np.array(values)


def test_collapse_is_warned_of():
  stub = Stub(level_effective_sample_sizes=_sizes(50.0, 1.2))
  with pytest.warns(training.CollapseWarning, match='level 2: ') as caught:
    history = stub.fit(40)
  assert caught[0].filename == Stub.fit.__code__.co_filename
  assert history.collapsed_levels == [2]


@pytest.mark.parametrize(
  'sizes, num_particles, num_steps, expected',
  [
    # 1.5, 10% of the particles up to five, or 2% of the particles.
    ((1.6, 1.4), 12, 40, [2]),
    ((3.7, 3.5), 36, 40, [2]),
    ((5.1, 4.9), 64, 40, [2]),
    ((19.0, 21.0), 1_000, 40, [1]),
    ((np.nan, 0.0), 64, 40, [1, 2]),
    # Too few particles, or too few steps, to tell.
    ((1.0, 1.0), 7, 40, []),
    ((1.0, 1.0), 64, 19, []),
  ],
)
def test_levels_that_collapsed(sizes, num_particles, num_steps, expected):
  stub = Stub(level_effective_sample_sizes=_sizes(*sizes))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', training.CollapseWarning)
    history = stub.fit(num_steps, num_particles=num_particles)
  assert history.collapsed_levels == expected


def test_collapse_is_that_of_the_last_tenth_of_steps():
  def fit(first):
    stub = Stub(
      level_effective_sample_sizes=lambda step, x: tf.where(
        step < first, [1.0, 90.0], [90.0, 1.0]
      )
    )
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', training.CollapseWarning)
      return stub.fit(400).collapsed_levels

  # The median of the last 40 steps is that of the greater part of them.
  assert fit(379) == [2]
  assert fit(381) == [1]


def test_one_member_of_a_batch_that_collapsed_is_enough():
  sizes = np.full([40, 2, 3], 50.0)
  sizes[:, 0, 2] = 1.0
  zeros = np.zeros([40, 3])
  history = nvi.History(
    loss=zeros,
    log_normalizer=zeros,
    effective_sample_size=zeros,
    log_incremental_weights=np.zeros([40, 2, 3]),
    level_effective_sample_sizes=sizes,
    num_nan=np.zeros([40]),
    is_skipped=np.zeros([40], bool),
    num_particles=64,
  )
  assert history.collapsed_levels == [1]

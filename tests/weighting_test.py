# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights answer rightly, and what is done to them keeps them proper.

Where a function takes its chance from `randomness.uniform` alone, its
expectation is integrated over a grid of uniform values in the place of draws
(`fix_uniform`), without any error of sampling. The other tests of a law have
fixed seeds; over seeds, each would reject a correct function with a probability
of at most 1e-6 (`ALARM`, divided among the statistics of a test).
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests.weights import (
  WEIGHTS,
  critical_z,
  every_dtype,
  fix_uniform,
  log,
  max_z_score,
  midpoints,
)
from tfp_nvi import weighting
from tfp_nvi.internal import randomness, reductions

tfd = tfp.distributions

INF = float('inf')


@every_dtype
def test_numbers(dtype):
  log_weights = log(WEIGHTS, dtype)
  ess = nvi.effective_sample_size(log_weights)
  log_normalizer = nvi.log_normalizer(log_weights)
  weights = nvi.normalize_weights(log_weights)
  for result in (ess, log_normalizer, weights):
    assert result.dtype == dtype
  # (1 + 3 + 4)^2 / (1 + 9 + 16) and (2 + 1 + 5)^2 / (4 + 1 + 25).
  np.testing.assert_allclose(ess, [64 / 26, 0.0, 64 / 30], rtol=1e-6)
  np.testing.assert_allclose(
    log_normalizer, [np.log(2.0), -INF, np.log(2.0)], rtol=1e-6
  )
  np.testing.assert_allclose(
    weights,
    [[1 / 8, 0, 1 / 4], [3 / 8, 0, 0], [0, 0, 1 / 8], [1 / 2, 0, 5 / 8]],
    rtol=1e-6,
  )


@every_dtype
@pytest.mark.parametrize('shift', [-2_000.0, 2_000.0])
def test_numbers_far_from_one(dtype, shift):
  """Weights that overflow or underflow when they are not logarithms."""
  log_weights = log(WEIGHTS[:, 0], dtype) + shift
  np.testing.assert_allclose(
    nvi.log_normalizer(log_weights), np.log(2.0) + shift, rtol=1e-6
  )
  np.testing.assert_allclose(
    nvi.effective_sample_size(log_weights), 64 / 26, rtol=1e-3
  )


def test_one_particle():
  assert nvi.log_normalizer([3.0]) == 3.0
  assert nvi.effective_sample_size([3.0]) == 1.0
  assert nvi.normalize_weights([3.0]) == 1.0
  assert nvi.resample_systematic([0.0], 1, seed=1) == 0


def test_effective_sample_size_is_between_one_and_all():
  log_weights = randomness.normal([50, 200], randomness.as_seed(1)) * 5.0
  ess = nvi.effective_sample_size(log_weights).numpy()
  assert np.all(ess >= 1.0 - 1e-5) and np.all(ess <= 50.0)
  assert nvi.effective_sample_size(tf.zeros([50])) == 50.0
  assert nvi.effective_sample_size(log([0.0, 1.0, 0.0])) == 1.0


def test_gradients_have_no_nan_beside_a_member_without_weight():
  log_weights = log(WEIGHTS)
  for fn in (nvi.normalize_weights, nvi.effective_sample_size):
    with tf.GradientTape() as tape:
      tape.watch(log_weights)
      total = tf.reduce_sum(
        fn(log_weights) * tf.constant([1.0, 1.0, 2.0], 'double')
      )
    gradient = tape.gradient(total, log_weights)
    assert np.all(np.isfinite(gradient)), fn.__name__


def test_weighted_mean():
  weights = np.array([[0.25, 1.0], [0.75, 0.0], [0.0, 0.0]])
  values = np.arange(12.0).reshape([3, 2, 2])
  values[1:, 1] = np.nan
  values[2] = INF
  # 0.25 * 0 + 0.75 * 4, 0.25 * 1 + 0.75 * 5, and the first value alone.
  expected = [[3.0, 4.0], [2.0, 3.0]]
  np.testing.assert_allclose(nvi.weighted_mean(weights, values), expected)
  # Weights are brought to the dtype of the values.
  mean = nvi.weighted_mean(weights, values.astype(np.float32))
  assert mean.dtype == tf.float32


def smallest_values(weights, values, probabilities):
  """Quantiles of one coordinate by their definition."""
  kept = values[weights > 0.0]
  return [
    min(
      (
        v
        for v in kept
        if weights[values <= v].sum() >= p * weights.sum() * (1.0 - 1e-9)
      ),
      default=np.nan,
    )
    for p in probabilities
  ]


@pytest.mark.parametrize('jit_compile', [None, False, True])
def test_weighted_quantiles(jit_compile):
  rng = np.random.default_rng(0)
  # With ties, zero weights, a batch member without any weight, and NaN where
  # the weight is zero.
  values = rng.integers(5, size=[20, 3, 2]).astype(np.float64)
  weights = rng.integers(4, size=[20, 3]).astype(np.float64)
  weights[:, 2] = 0.0
  values[weights[:, 0] == 0.0, 0] = np.nan
  probabilities = np.array([[0.0, 0.05, 0.5], [0.25, 0.95, 1.0]])
  fn = lambda w, x: nvi.weighted_quantiles(w, x, probabilities)  # noqa: E731
  if jit_compile is not None:
    fn = tf.function(fn, jit_compile=jit_compile, autograph=False)
  found = fn(tf.constant(weights), tf.constant(values))
  assert found.shape == [2, 3, 3, 2]
  for i, k in np.ndindex(3, 2):
    np.testing.assert_array_equal(
      np.ravel(found[:, :, i, k]),
      smallest_values(weights[:, i], values[:, i, k], probabilities.ravel()),
    )


def test_rounding_of_weights_and_values():
  # Sums of weights that are equal up to rounding are equal.
  found = nvi.weighted_quantiles(
    tf.fill([10], 0.1), tf.range(10.0), np.arange(1, 11) / 10
  )
  np.testing.assert_array_equal(found, np.arange(10.0))
  found = nvi.weighted_quantiles(
    [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.6, 1.0]
  )
  np.testing.assert_array_equal(found, [1.0, 2.0, 3.0, 4.0])
  # Integers are as they are, in half precision too.
  particles = nvi.WeightedParticles(
    tf.constant([3_000, 2**24 + 1, 2_049]), tf.zeros([3], tf.float16)
  )
  np.testing.assert_array_equal(
    particles.quantiles([0.1, 0.5, 1.0]), [2_049, 3_000, 2**24 + 1]
  )


@pytest.mark.parametrize('jit_compile', [False, True])
def test_quantiles_of_nan(jit_compile):
  fn = tf.function(
    lambda x: nvi.weighted_quantiles([0.5, 0.5, 0.0], x, [0.2, 0.9]),
    jit_compile=jit_compile,
    autograph=False,
  )
  found = fn(tf.constant([[1.0, 9.0], [np.nan, 4.0], [2.0, np.nan]]))
  np.testing.assert_array_equal(found, [[np.nan, 4.0], [np.nan, 9.0]])


def test_plain_mean_and_total():
  values = np.arange(6.0).reshape([3, 2])
  np.testing.assert_allclose(weighting.mean(values), [2.0, 3.0])
  np.testing.assert_allclose(weighting.total(values), [6.0, 9.0])


@every_dtype
def test_weighted_log_mean_exp(dtype):
  weights = tf.constant([[0.25, 1.0, 0.0], [0.75, 0.0, 0.0]], dtype)
  values = log([[2.0, 3.0, 1.0], [4.0, 5.0, 1.0]], dtype) + 900.0
  result = nvi.weighted_log_mean_exp(weights, values)
  # log(0.25 * 2 + 0.75 * 4), log 3, and log 0 for lack of any weight.
  np.testing.assert_allclose(
    result, [np.log(3.5) + 900.0, np.log(3.0) + 900.0, -INF], rtol=1e-6
  )
  assert result.dtype == dtype
  # Particles without weight do not count, whatever their values.
  values = tf.constant([1.0, np.nan, INF, -INF], dtype)
  result = nvi.weighted_log_mean_exp(tf.constant([1, 0, 0, 0], dtype), values)
  np.testing.assert_allclose(result, 1.0)
  weights = tf.constant([0.5, 0.5, 0.0, 0.0], dtype)
  with pytest.raises(ValueError, match='`values` must be numbers or -inf'):
    nvi.weighted_log_mean_exp(weights, values)


def test_weighted_particles_answer():
  particles = {
    'x': tf.constant([1.0, 2.0, 4.0, 8.0], tf.float64)[:, tf.newaxis]
    + tf.zeros([3], tf.float64),
    'y': tf.reshape(tf.range(24, dtype=tf.float32), [4, 3, 2]),
  }
  weighted = nvi.WeightedParticles(particles, log(WEIGHTS))
  # TFP's policies read these fields.
  fields = tfp.experimental.mcmc.WeightedParticles._fields
  assert weighted._fields[:2] == fields[:2]
  np.testing.assert_allclose(
    weighted.weights, nvi.normalize_weights(log(WEIGHTS))
  )
  np.testing.assert_allclose(weighted.log_normalizer[0], np.log(2.0))
  np.testing.assert_allclose(weighted.effective_sample_size[2], 64 / 30)
  mean = weighted.expectation()
  # (1 * 1 + 3 * 2 + 4 * 8) / 8 and (2 * 1 + 1 * 4 + 5 * 8) / 8.
  np.testing.assert_allclose(mean['x'], [39 / 8, 0.0, 46 / 8])
  assert mean['x'].dtype == tf.float64 and mean['y'].dtype == tf.float32
  assert mean['y'].shape == [3, 2]
  # Rows 0, 6, 12, 18 with weights 1, 3, 0, 4 of 8.
  np.testing.assert_allclose(mean['y'][0], [90 / 8, 98 / 8])
  pair = weighted.expectation(lambda p: (p['x'] ** 2, p['y'][..., 0]))
  np.testing.assert_allclose(pair[0][0], (1 + 3 * 4 + 4 * 64) / 8)
  np.testing.assert_allclose(pair[1][0], 90 / 8)


def test_expectation_of_an_indicator():
  weighted = nvi.WeightedParticles(tf.constant([1.0, 2.0]), log([1.0, 3.0]))
  probability = weighted.expectation(lambda x: tf.cast(x > 1.5, tf.float32))
  np.testing.assert_allclose(probability, 0.75)


def test_expectation_of_truth_values():
  """They need no cast, nor does a vector of them."""
  weighted = nvi.WeightedParticles(tf.constant([1.0, 2.0]), log([1.0, 3.0]))
  probability = weighted.expectation(lambda x: x > 1.5)
  assert probability.dtype == weighted.log_weights.dtype
  np.testing.assert_allclose(probability, 0.75)
  probabilities = weighted.expectation(lambda x: x[:, tf.newaxis] > [1.5, 0.5])
  np.testing.assert_allclose(probabilities, [0.75, 1.0])


def test_weighted_particles_is_a_nested_structure():
  weighted = nvi.WeightedParticles(tf.constant([1.0]), tf.constant([0.0]))

  @tf.function(jit_compile=True)
  def identity(particles):
    return particles

  result = identity(weighted)
  assert isinstance(result, nvi.WeightedParticles)
  assert result.effective_sample_size == 1.0


def test_weighted_particles_resample():
  weighted = nvi.WeightedParticles(
    dict(x=tf.constant([1.0, 2.0, 3.0])), log([0.0, 6.0, 0.0])
  )
  for resample_fn in (None, tfp.experimental.mcmc.resample_stratified):
    resampled = weighted.resample(seed=1, resample_fn=resample_fn)
    assert isinstance(resampled, nvi.WeightedParticles)
    np.testing.assert_array_equal(resampled.particles['x'], [2.0, 2.0, 2.0])
    np.testing.assert_allclose(resampled.log_weights, np.log(2.0))
  np.testing.assert_allclose(resampled.effective_sample_size, 3.0)


# Rejection control.


@every_dtype
@pytest.mark.parametrize('threshold', [0.0, 0.4, 1.0])
def test_rejection_control_keeps_the_mean(monkeypatch, dtype, threshold):
  """Integrated over the uniform value, each weight is what it was.

  `min(1, w / c)` are multiples of 0.01, the grid's step is 0.001.
  """
  weights = np.array([0.0, 0.04, 0.2, 0.4, 1.0, 3.0])
  u = midpoints(1_000)
  fix_uniform(monkeypatch, u)
  log_weights = tf.broadcast_to(log(weights, dtype), [len(u), len(weights)])
  controlled = np.exp(
    nvi.rejection_control(
      log_weights, log(np.full(len(weights), threshold), dtype), seed=0
    )
  )
  assert not np.any(np.isnan(controlled))
  np.testing.assert_allclose(
    controlled.mean(axis=0, dtype=np.float64), weights, rtol=2e-5
  )
  kept = controlled > 0.0
  np.testing.assert_allclose(
    kept.mean(axis=0),
    np.minimum(1.0, weights / threshold) if threshold else weights > 0.0,
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    controlled[kept],
    np.broadcast_to(np.maximum(weights, threshold), kept.shape)[kept],
    rtol=1e-5,
  )


def test_rejection_control_in_distribution():
  """With draws, a threshold for each batch member, and in the sum."""
  size, batch = 4, 20_000
  weights = np.array([0.1, 0.5, 1.0, 2.5])
  thresholds = np.array([0.2, 0.9, 2.0])
  log_weights = tf.broadcast_to(
    log(weights)[:, tf.newaxis, tf.newaxis], [size, batch, 3]
  )
  controlled = nvi.rejection_control(log_weights, log(thresholds), seed=3)
  estimate = np.exp(controlled).transpose([1, 0, 2])
  constant = weights[:, np.newaxis] >= thresholds
  np.testing.assert_allclose(
    estimate[:, constant],
    np.broadcast_to(weights[:, np.newaxis], constant.shape)[constant]
    * np.ones([batch, 1]),
  )
  assert max_z_score(
    estimate[:, ~constant],
    np.broadcast_to(weights[:, np.newaxis], constant.shape)[~constant],
  ) < critical_z(12)


def test_rejection_control_beside_a_member_without_weight():
  log_weights = log(WEIGHTS)
  for log_threshold in (-INF, 0.0, nvi.log_normalizer(log_weights)):
    controlled = nvi.rejection_control(log_weights, log_threshold, seed=1)
    assert not np.any(np.isnan(controlled))
    assert np.all(np.isneginf(controlled[:, 1]))


@pytest.mark.parametrize('jit_compile', [False, True])
def test_rejection_control_does_not_hide_nan(jit_compile):
  """A NaN is somebody's mistake, which must not pass as a weight of zero."""
  log_weights = tf.constant([np.nan, 0.0, 1.0], tf.float64)

  @tf.function(jit_compile=jit_compile)
  def control(log_weights):
    return nvi.rejection_control(log_weights, 0.5, seed=1)

  controlled = control(log_weights)
  assert np.isnan(controlled[0])
  assert not np.any(np.isnan(controlled[1:]))
  with pytest.raises(ValueError, match='`log_weights` must be .*got nan for 1'):
    nvi.rejection_control(log_weights, 0.5, seed=1)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_a_threshold_that_is_no_number_does_not_reject(jit_compile):

  @tf.function(jit_compile=jit_compile)
  def control(log_threshold):
    return nvi.rejection_control(
      tf.constant([-np.inf, 0.0, np.inf], tf.float64), log_threshold, seed=1
    )

  for threshold in (np.nan, np.inf):
    controlled = control(tf.constant(threshold, tf.float64))
    np.testing.assert_array_equal(controlled, [-np.inf, np.nan, np.nan])
  with pytest.raises(
    ValueError, match='`log_threshold` must not be NaN or inf'
  ):
    nvi.rejection_control([0.0, 1.0], np.inf, seed=1)


# Half precision.


def test_half_precision_is_accumulated_in_float32():
  size = 100_000
  for dtype in (tf.float16, tf.bfloat16):
    log_weights = tf.zeros([size], dtype)
    ess = nvi.effective_sample_size(log_weights)
    assert ess.dtype == tf.float32
    np.testing.assert_allclose(ess, size, rtol=1e-4)
    assert nvi.log_normalizer(log_weights) == 0.0
    assert weighting.mean(tf.ones([size], dtype)) == 1.0
    assert nvi.log_normalizer(log_weights).dtype == dtype
    weighted = nvi.WeightedParticles(tf.ones([size], dtype), log_weights)
    # Half precision has 8 bits at least; `1 / size` of float16 fewer.
    np.testing.assert_allclose(
      tf.cast(weighted.expectation(), tf.float32), 1.0, rtol=2.0**-6
    )
    assert not nvi.ess_below(0.9)(weighted)


# Genealogies.


def test_ancestors_are_counted_by_hand():
  """Two batch members, with zero weights, and one without any weight."""
  log_weights = log([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [2.0, 0.0, 2.0]])
  root = tf.constant([[0, 0, 1], [2, 1, 0], [2, 1, 1]])
  values = tf.constant(
    [[1.0, 0.0, 1.0], [2.0, 0.0, np.inf], [5.0, 0.0, 3.0]], tf.float64
  )
  weighted = nvi.WeightedParticles(values, log_weights, root)
  np.testing.assert_array_equal(weighted.num_ancestors, [2, 0, 1])
  # The shares of roots 0 and 2 are 1/4 and 3/4: 1 - 3/2 * (1 - 5/8).
  np.testing.assert_allclose(
    weighted.log_normalizer_error, [np.sqrt(7 / 16), INF, INF]
  )
  # The mean is 13/4: root 0 deviates by -9/16, root 2 by as much.
  np.testing.assert_allclose(
    weighted.standard_error(), [np.sqrt(1.5 * 2) * 9 / 16, INF, INF]
  )
  # Without roots: 1 - 3/2 (1 - 3/8), and deviations -9/16, -5/16, 14/16.
  alone = weighted._replace(root=None)
  np.testing.assert_array_equal(alone.num_ancestors, [3, 0, 2])
  np.testing.assert_allclose(
    alone.log_normalizer_error[0], np.sqrt(1 / 16), rtol=1e-6
  )
  np.testing.assert_allclose(
    alone.standard_error()[0], np.sqrt(1.5 * (81 + 25 + 196)) / 16
  )
  pair = weighted.standard_error(
    lambda x: (tf.stack([x, 2.0 * x], axis=-1), x > 1.5)
  )
  np.testing.assert_allclose(pair[0][0, 1], 2.0 * pair[0][0, 0])
  assert pair[1].shape == [3]


def test_pairs_lost_by_hand():
  """Roots of shares 1/4 and 3/4 become roots of shares 1/3 and 2/3."""
  before = nvi.WeightedParticles((), log([1.0, 1.0, 2.0]), [0, 2, 2])
  after = nvi.WeightedParticles((), log([1.0, 1.0, 1.0]), [0, 2, 2])
  expected = np.log((1 - 10 / 16) / (1 - 5 / 9))
  lost = weighting.log_pairs_lost(before, after)
  np.testing.assert_allclose(lost, expected)
  one = after._replace(root=[2, 2, 2])
  for pair in ((before, one), (one, one)):
    assert weighting.log_pairs_lost(*pair) == 0.0
  # The factor of Lee and Whiteley, `N / (N - 1)`, times what was lost.
  error = after._replace(log_pairs_lost=lost).log_normalizer_error
  np.testing.assert_allclose(
    error**2, 1.0 - 1.5 * np.exp(expected) * (1 - 5 / 9)
  )


def test_resampling_carries_roots():
  weighted = nvi.WeightedParticles(tf.range(4), log([0.0, 1.0, 0.0, 3.0]))
  resampled = weighted.resample(seed=1)
  np.testing.assert_array_equal(resampled.root, [1, 3, 3, 3])
  np.testing.assert_array_equal(resampled.particles, resampled.root)
  assert resampled.num_ancestors == 2
  # Shares stay 1/4 and 3/4: nothing is lost.
  np.testing.assert_allclose(resampled.log_pairs_lost, 0.0, atol=1e-12)
  again = resampled.resample(seed=2)
  assert set(again.root.numpy()) <= {1, 3}
  assert again.log_pairs_lost is not None
  unknown = resampled._replace(log_pairs_lost=None).resample(seed=2)
  assert unknown.log_pairs_lost is None


def test_error_of_importance_sampling():
  """Against closed form: from N(0, 1) to N(mu, 1), whose weights are lognormal.

  The relative variance of a weight is `exp(mu^2) - 1`, and of `w (z - mu)` it
  is `exp(mu^2) (1 + mu^2)`, both over the squared mean weight, which is one.
  """
  size, batch, mu = 2_000, 400, 0.5
  z = randomness.normal([size, batch], randomness.as_seed(5), tf.float64)
  weighted = nvi.WeightedParticles(z, mu * z - mu**2 / 2.0)
  for error, expected in (
    (weighted.log_normalizer_error, np.exp(mu**2) - 1.0),
    (weighted.standard_error(), np.exp(mu**2) * (1.0 + mu**2)),
  ):
    # Means of estimates of a variance; the bias of a ratio is of order 1 / N.
    variance = size * np.mean(error**2)
    np.testing.assert_allclose(variance, expected, rtol=0.02)
  spread = np.std(weighted.log_normalizer)
  mean = np.sqrt(np.mean(weighted.log_normalizer_error**2))
  assert 1 / 1.2 < mean / spread < 1.2


def anneal(resample_fn, num_particles, num_levels, batch, seed):
  """SMC from N(0, 1) to N(2, 1/4), by moves that leave each level invariant."""
  loc, precision = 2.0, 4.0
  seeds = randomness.split_seed(randomness.as_seed(seed), 2 * num_levels)
  shape = [num_particles, batch]
  z = randomness.normal(shape, seeds[0], tf.float64)
  weighted = nvi.WeightedParticles(z, tf.zeros(shape, tf.float64))
  for level in range(1, num_levels):
    if level > 1:
      weighted = weighted.resample(seeds[2 * level], resample_fn)
    z = weighted.particles
    step = 1.0 / (num_levels - 1)
    log_ratio = 0.5 * z**2 - 0.5 * precision * (z - loc) ** 2
    beta = level * step
    total = (1.0 - beta) + beta * precision
    mean = beta * precision * loc / total
    noise = randomness.normal(shape, seeds[2 * level + 1], tf.float64)
    weighted = weighted._replace(
      particles=mean
      + 0.8 * (z - mean)
      + np.sqrt((1.0 - 0.8**2) / total) * noise,
      log_weights=weighted.log_weights + step * log_ratio,
    )
  return weighted


@pytest.mark.parametrize(
  'resample_fn',
  [
    tfp.experimental.mcmc.resample_independent,
    tfp.experimental.mcmc.resample_stratified,
    nvi.resample_systematic,
  ],
  ids=['independent', 'stratified', 'systematic'],
)
def test_predicted_errors_are_those_observed(resample_fn):
  """The spread over 500 runs has a standard error of 3%: 1.25 is 7 of them.

  Without `log_pairs_lost` independent resampling is off by 1.4 and more, with
  the ancestors of the last level in place of roots all are.
  """
  weighted = anneal(resample_fn, 500, 8, 500, seed=11)
  observed = np.std(weighted.log_normalizer)
  predicted = np.sqrt(np.mean(weighted.log_normalizer_error**2))
  assert 1 / 1.25 < predicted / observed < 1.25
  # The mean of Z-hat over its truth, log(1/2), is one.
  ratio = np.exp(weighted.log_normalizer - np.log(0.5))
  assert abs(ratio.mean() - 1.0) < 5.5 * ratio.std() / np.sqrt(500)

  def fn(z):
    return tf.stack([z, z**2], axis=-1)

  observed = np.std(weighted.expectation(fn), axis=0)
  predicted = np.sqrt(np.mean(weighted.standard_error(fn) ** 2, axis=0))
  np.testing.assert_array_less(np.abs(np.log(predicted / observed)), 0.23)
  unknown = weighted._replace(log_pairs_lost=None).log_normalizer_error
  assert np.all(unknown >= weighted.log_normalizer_error)


def test_genealogies_compile():
  @tf.function(jit_compile=True)
  def run():
    weighted = anneal(nvi.resample_systematic, 36, 4, 3, seed=1)
    return (
      weighted.num_ancestors,
      weighted.log_normalizer_error,
      weighted.standard_error(),
    )

  weighted = anneal(nvi.resample_systematic, 36, 4, 3, seed=1)
  ancestors, error, standard_error = run()
  np.testing.assert_array_equal(ancestors, weighted.num_ancestors)
  np.testing.assert_allclose(error, weighted.log_normalizer_error)
  np.testing.assert_allclose(standard_error, weighted.standard_error())


# Bad calls.

OF_LOG_WEIGHTS = [
  nvi.effective_sample_size,
  nvi.log_normalizer,
  nvi.normalize_weights,
  lambda x: nvi.rejection_control(x, 0.0, 1),
  lambda x: nvi.WeightedParticles((), x).log_normalizer,
  lambda x: nvi.WeightedParticles((), x).log_normalizer_error,
  lambda x: nvi.WeightedParticles((), x).num_ancestors,
  lambda x: nvi.WeightedParticles((), x).resample(1),
]


@pytest.mark.parametrize(
  'value, error',
  [
    (None, TypeError),
    ('a', TypeError),
    ([1, 2], TypeError),
    ([[1.0], [2.0, 3.0]], TypeError),
    (1.0, ValueError),
    ([], ValueError),
    ([0.0, np.nan], ValueError),
    ([0.0, INF], ValueError),
  ],
  ids=repr,
)
@pytest.mark.parametrize('fn', OF_LOG_WEIGHTS)
def test_bad_log_weights(fn, value, error):
  with pytest.raises(error, match='^`log_weights` must'):
    fn(value)


@pytest.mark.parametrize(
  'call, error, name',
  [
    (lambda: nvi.weighted_mean(None, [1.0]), TypeError, 'weights'),
    (lambda: nvi.weighted_mean([1], [1.0]), TypeError, 'weights'),
    (lambda: nvi.weighted_mean([], []), ValueError, 'weights'),
    (lambda: nvi.weighted_mean([np.nan], [1.0]), ValueError, 'weights'),
    (lambda: nvi.weighted_mean([1.0], None), TypeError, 'values'),
    (lambda: nvi.weighted_mean([1.0], ['a']), TypeError, 'values'),
    (lambda: nvi.weighted_mean([1.0], 1.0), ValueError, 'values'),
    (
      lambda: nvi.weighted_mean([[0.5, 0.5], [0.5, 0.5]], [1.0, 2.0]),
      ValueError,
      'weights',
    ),
    (lambda: nvi.weighted_mean([0.5, 0.5], [1.0] * 3), ValueError, 'weights'),
    (lambda: nvi.weighted_mean([1.0], [1.0] * 3), ValueError, 'weights'),
    (
      lambda: nvi.weighted_mean(tf.ones([2, 3]), tf.ones([2, 4])),
      ValueError,
      'weights',
    ),
    (
      lambda: nvi.weighted_quantiles([-0.5, 1.5], [0.0, 0.0], 0.5),
      ValueError,
      'weights',
    ),
    (
      lambda: nvi.weighted_quantiles([1.0], [0.0], [0.5, 1.5]),
      ValueError,
      'probabilities',
    ),
    (
      lambda: nvi.weighted_quantiles([1.0], [0.0], np.nan),
      ValueError,
      'probabilities',
    ),
    (lambda: weighting.mean(None), TypeError, 'values'),
    (lambda: weighting.mean([1, 2]), TypeError, 'values'),
    (lambda: weighting.mean([]), ValueError, 'values'),
    (lambda: weighting.total('a'), (TypeError, ValueError), 'values'),
    (lambda: weighting.total([True]), TypeError, 'values'),
    (lambda: weighting.total(1.0), ValueError, 'values'),
    (
      lambda: nvi.weighted_log_mean_exp([-0.5, 1.5], [0.0, 0.0]),
      ValueError,
      'weights',
    ),
    (lambda: nvi.weighted_log_mean_exp([1.0], None), TypeError, 'values'),
    (lambda: nvi.weighted_log_mean_exp([1.0], [1]), TypeError, 'values'),
    (
      lambda: nvi.weighted_log_mean_exp([0.5, 0.5], [1.0]),
      ValueError,
      'values',
    ),
    (
      lambda: nvi.rejection_control([0.0], None, 1),
      TypeError,
      'log_threshold',
    ),
    (
      lambda: nvi.rejection_control([0.0], [0.0] * 2, 1),
      ValueError,
      'log_threshold',
    ),
    (
      lambda: nvi.rejection_control([0.0], np.nan, 1),
      ValueError,
      'log_threshold',
    ),
    (lambda: nvi.rejection_control([0.0], 0.0, 'a'), TypeError, 'seed'),
    (
      lambda: nvi.WeightedParticles((), [0.0], [0.5]).num_ancestors,
      TypeError,
      'root',
    ),
    (
      lambda: nvi.WeightedParticles((), [0.0], [1]).num_ancestors,
      ValueError,
      'root',
    ),
    (
      lambda: nvi.WeightedParticles((), [0.0], [[0]]).num_ancestors,
      ValueError,
      'root',
    ),
    (
      lambda: nvi.WeightedParticles([1.0], [0.0]).expectation(3),
      TypeError,
      'fn',
    ),
    (
      lambda: nvi.WeightedParticles([1.0], [0.0]).standard_error(3),
      TypeError,
      'fn',
    ),
    (
      lambda: nvi.WeightedParticles(
        tf.zeros([3]), tf.zeros([2])
      ).standard_error(),
      ValueError,
      'weights',
    ),
  ],
)
def test_bad_calls(call, error, name):
  with pytest.raises(error, match=f'^`{name}` must'):
    call()


def test_values_are_known_where_functions_run_eagerly():
  def check(x):
    found.append(reductions.has_values(x))
    reductions.check_numbers('`x` must be finite', x, np.isfinite)

  found: list = []
  compiled = tf.function(check, autograph=False)
  compiled(tf.constant(INF))
  tf.config.run_functions_eagerly(True)
  try:
    # No error: it is not one in a compiled function.
    compiled(tf.constant(INF))
  finally:
    tf.config.run_functions_eagerly(False)
  with pytest.raises(ValueError, match='`x` must be finite'):
    check(tf.constant(INF))
  assert found == [False, True, True]

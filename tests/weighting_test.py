# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights answer rightly, and what is done to them keeps them proper.

Where a function takes its chance from `randomness.uniform` alone, its
expectation is integrated over a grid of uniform values in the place of draws
(`fix_uniform`), without any error of sampling. The other tests of a law have
fixed seeds; over seeds, each would reject a correct function with a probability
of at most 1e-6 (`ALARM`, divided among the statistics of a test).
"""

import functools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import weighting
from tfp_nvi.internal import randomness

tfd = tfp.distributions

ALARM = 1e-6
INF = float('inf')
RESAMPLERS = {
  'own_systematic': nvi.resample_systematic,
  'systematic': tfp.experimental.mcmc.resample_systematic,
  'independent': tfp.experimental.mcmc.resample_independent,
  'stratified': tfp.experimental.mcmc.resample_stratified,
}

every_dtype = pytest.mark.parametrize(
  'dtype', [tf.float32, tf.float64], ids=lambda dtype: dtype.name
)
every_resampler = pytest.mark.parametrize(
  'resample_fn', RESAMPLERS.values(), ids=RESAMPLERS.keys()
)


def fix_uniform(monkeypatch, values):
  """Lets `randomness.uniform` return given values, along its first axis."""

  def uniform(shape, seed, dtype=tf.float32):
    del seed
    along_batch = [-1] + [1] * (len(shape) - 1)
    return tf.cast(
      tf.broadcast_to(np.reshape(values, along_batch), shape), dtype
    )

  monkeypatch.setattr(randomness, 'uniform', uniform)


def log(weights, dtype=tf.float64):
  with np.errstate(divide='ignore'):
    return tf.constant(np.log(np.asarray(weights, float)), dtype)


def midpoints(size):
  return (np.arange(size) + 0.5) / size


def max_z_score(values, expected):
  """The largest standardized deviation of means over axis 0."""
  values = np.asarray(values, float)
  error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
  return np.max(np.abs(values.mean(axis=0) - expected) / error)


def critical_z(count):
  return scipy.stats.norm.isf(ALARM / (2 * count))


# Four particles and three batch members, the second one without any weight.
WEIGHTS = np.array(
  [[1.0, 0.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [4.0, 0.0, 5.0]]
)


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
  assert np.isnan(nvi.weighted_log_mean_exp(weights, values))


def test_weighted_particles_answer():
  particles = {
    'x': tf.constant([1.0, 2.0, 4.0, 8.0], tf.float64)[:, tf.newaxis]
    + tf.zeros([3], tf.float64),
    'y': tf.reshape(tf.range(24, dtype=tf.float32), [4, 3, 2]),
  }
  weighted = nvi.WeightedParticles(particles, log(WEIGHTS))
  # TFP's functions of particles read these fields.
  fields = tfp.experimental.mcmc.WeightedParticles._fields
  assert weighted._fields[: len(fields)] == fields
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


# Systematic resampling.


OFFSPRING_WEIGHTS = [
  [1.0],
  [0.25, 0.75],
  [0.0, 0.5, 0.0, 0.0, 0.3, 0.2, 0.0],
  [0.07, 0.53, 0.11, 0.29],
]


@pytest.mark.parametrize('weights', OFFSPRING_WEIGHTS, ids=len)
@pytest.mark.parametrize('event_size', [1, 2, 5])
def test_systematic_offspring(monkeypatch, weights, event_size):
  """Integrated over the offset, the offspring is the size times the weight.

  The weights are multiples of 0.01, the grid's step is 0.001: each share of
  `event_size * weight` holds a whole number of grid points.
  """
  offsets = midpoints(1_000)
  fix_uniform(monkeypatch, offsets)
  probs = np.tile(np.asarray(weights)[:, np.newaxis], [1, len(offsets)])
  indices = nvi.resample_systematic(log(probs), event_size, seed=0).numpy()
  assert indices.shape == (event_size, len(offsets))
  counts = np.stack([np.sum(indices == i, axis=0) for i in range(len(weights))])
  expected = event_size * np.asarray(weights)
  np.testing.assert_allclose(counts.mean(axis=1), expected, atol=1e-12)
  # What makes it systematic: no count is farther from its mean than by one.
  assert np.all(np.abs(counts - expected[:, np.newaxis]) < 1.0)
  # And in order, as points are.
  assert np.all(np.diff(indices, axis=0) >= 0)


@every_dtype
@pytest.mark.parametrize('size', [1, 2, 7, 1_000])
def test_systematic_draws_as_tfp_does(dtype, size):
  """With the same offset, the same ancestors as by TFP's slower algorithm."""
  log_weights = 2.0 * randomness.normal(
    [size, 50], randomness.as_seed(2), dtype
  )
  log_probs = tf.math.log_softmax(log_weights, axis=0)
  seed = randomness.as_seed(3)
  own = nvi.resample_systematic(log_probs, size, seed=seed).numpy()
  with randomness.portable_sampling():
    other = tfp.experimental.mcmc.resample_systematic(
      log_probs, size, (), seed=seed
    ).numpy()
  assert own.shape == other.shape
  assert own.dtype == other.dtype
  # A point within the rounding of a share's end may go either way.
  differing = np.mean(own != other)
  rounding = np.finfo(dtype.as_numpy_dtype).eps
  assert differing <= 100 * size * rounding, differing
  assert np.all(np.abs(own - other) <= 1)


@every_dtype
@pytest.mark.parametrize('jit_compile', [False, True])
def test_systematic_never_selects_weight_zero(dtype, jit_compile):
  """Where the weights begin, end and pause with zeros."""
  size, batch = 1_000, 200
  rng = np.random.default_rng(0)
  weights = rng.exponential(size=[size, batch])
  weights *= rng.uniform(size=[size, batch]) < rng.uniform(size=batch)
  weights[:3] = weights[-3:] = 0.0
  weights[500] = 1.0
  log_probs = tf.math.log_softmax(log(weights, dtype), axis=0)
  resample_fn = tf.function(
    functools.partial(nvi.resample_systematic, event_size=size),
    jit_compile=jit_compile,
  )
  for seed in range(5):
    indices = resample_fn(log_probs, seed=randomness.as_seed(seed)).numpy()
    assert indices.min() >= 0 and indices.max() < size
    selected = np.take_along_axis(weights, indices, axis=0)
    assert np.all(selected > 0.0), np.mean(selected == 0.0)


@every_dtype
@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize('end', [0, 1])
def test_systematic_at_the_ends_of_the_offset(
  monkeypatch, dtype, jit_compile, end
):
  """The smallest and largest offsets that there are select weights too.

  What is rounded then lies at the ends of `[0, event_size]`.
  """
  step = 2.0**-24 if dtype == tf.float32 else 2.0**-53
  fix_uniform(monkeypatch, [abs(end - step)])
  batch = 64
  for size in (1, 3, 49, 1_000, 10_000):
    weights = np.random.default_rng(size).exponential(size=[size + 2, batch])
    weights[0] = weights[-1] = 0.0
    log_probs = tf.math.log_softmax(log(weights, dtype), axis=0)
    resample_fn = tf.function(
      functools.partial(nvi.resample_systematic, event_size=size, seed=0),
      jit_compile=jit_compile,
    )
    indices = resample_fn(log_probs).numpy()
    assert indices.min() >= 0 and indices.max() < size + 2
    assert np.all(np.take_along_axis(weights, indices, axis=0) > 0.0)


def test_systematic_shapes():
  log_probs = tf.math.log_softmax(
    tf.random.stateless_normal([3, 4, 5], (0, 1)), 0
  )
  for event_size in (2, 3, 6):
    for sample_shape in ((), (7,), (7, 2)):
      with randomness.portable_sampling():
        other = tfp.experimental.mcmc.resample_systematic(
          log_probs, event_size, sample_shape, seed=(1, 2)
        )
      own = nvi.resample_systematic(
        log_probs, event_size, sample_shape, seed=(1, 2)
      )
      assert own.shape == [event_size, *sample_shape, 4, 5] == other.shape
      np.testing.assert_array_equal(own, other)


def test_systematic_repetitions_and_batch_members_are_unlike():
  """Each has an offset of its own."""
  log_probs = tf.fill([2, 300], np.log(0.5))
  indices = nvi.resample_systematic(log_probs, 1, [300], seed=5).numpy()[0]
  z = (indices.mean(axis=0) - 0.5) * np.sqrt(4 * 300)
  assert np.abs(z).max() < critical_z(600)
  z = (indices.mean(axis=1) - 0.5) * np.sqrt(4 * 300)
  assert np.abs(z).max() < critical_z(600)


@pytest.mark.parametrize('particles_dim', [1, 2])
def test_systematic_particles_dim(particles_dim):
  log_probs = tf.math.log_softmax(
    tf.random.stateless_normal([3, 4, 5], (0, 1)), axis=particles_dim
  )
  for sample_shape in ((), (7,)):
    with randomness.portable_sampling():
      other = tfp.experimental.mcmc.resample_systematic(
        log_probs, 6, sample_shape, particles_dim=particles_dim, seed=(1, 2)
      )
    own = nvi.resample_systematic(
      log_probs, 6, sample_shape, particles_dim=particles_dim, seed=(1, 2)
    )
    np.testing.assert_array_equal(own, other)


# Resampling of particles.


@every_resampler
def test_resampling_keeps_weights_proper(resample_fn):
  """The mean of `w g(z)` stays; in distribution, over many batch members."""
  size, batch = 5, 20_000
  weights = np.array([0.1, 3.05, 0.0, 1.17, 0.68])
  values = np.array([1.0, -2.0, 100.0, 0.5, 4.0])

  def tile(x):
    return tf.tile(tf.constant(x)[:, tf.newaxis], [1, batch])

  (resampled,), log_weights = nvi.resample(
    (tile(values),),
    tf.math.log(tile(weights)),
    resample_fn,
    randomness.as_seed(1),
  )
  np.testing.assert_allclose(
    log_weights, np.full([size, batch], np.log(1.0)), atol=1e-12
  )
  w = np.exp(log_weights)
  one_hot = np.asarray(resampled)[..., np.newaxis] == values
  estimate = np.mean(w[..., np.newaxis] * one_hot, axis=0)
  assert np.all(estimate[:, 2] == 0.0)
  kept = [0, 1, 3, 4]
  assert max_z_score(estimate[:, kept], weights[kept] / size) < critical_z(4)


def test_a_biased_resampling_function_would_be_noticed():
  """The test above, on the particles in order of weight: it must fail."""

  def largest(log_probs, event_size, sample_shape, seed=None):
    del sample_shape
    jitter = randomness.uniform(log_probs.shape, seed, log_probs.dtype)
    order = tf.argsort(log_probs + jitter, axis=0, direction='DESCENDING')
    return tf.broadcast_to(order[:1], [event_size, order.shape[1]])

  with np.errstate(divide='ignore'), pytest.raises(AssertionError):
    test_resampling_keeps_weights_proper(largest)


@every_resampler
@every_dtype
def test_resampling_beside_a_member_without_weight(resample_fn, dtype):
  log_weights = log(WEIGHTS, dtype)
  particles = {
    'x': tf.tile(tf.range(4)[:, tf.newaxis], [1, 3]),
    'y': tf.random.stateless_normal([4, 3, 2], (1, 2), dtype=dtype),
  }
  resampled, new_log_weights = nvi.resample(
    particles, log_weights, resample_fn, randomness.as_seed(1)
  )
  assert new_log_weights.dtype == dtype
  np.testing.assert_allclose(
    np.exp(new_log_weights), np.tile([[2.0, 0.0, 2.0]], [4, 1]), rtol=1e-6
  )
  ancestors = resampled['x'].numpy()
  assert resampled['x'].dtype == tf.int32
  for member in (0, 2):
    assert np.all(WEIGHTS[ancestors[:, member], member] > 0.0)
    np.testing.assert_array_equal(
      resampled['y'][:, member],
      particles['y'].numpy()[ancestors[:, member], member],
    )
  assert np.all(np.isfinite(resampled['y']))


@pytest.mark.parametrize('jit_compile', [False, True])
def test_resampling_does_not_hide_nan(jit_compile):
  """Of all weights, of one, and of one beside others that are zero."""
  log_weights = tf.constant(
    [[np.nan, np.nan, np.nan, 0.0], [np.nan, 0.0, -np.inf, -np.inf]]
  )

  def log_weights_after(log_weights):
    _, after = nvi.resample(
      (), log_weights, nvi.resample_systematic, randomness.as_seed(1)
    )
    return after

  after = tf.function(log_weights_after, jit_compile=jit_compile)(log_weights)
  assert np.all(np.isnan(after[:, :3]))
  np.testing.assert_allclose(after[:, 3], np.log(0.5), rtol=1e-6)


@every_resampler
def test_resampling_where(resample_fn):
  """Members that are not resampled keep particles and weights as they are."""
  where = np.array([[True, False], [False, True], [False, False]])
  log_weights = tf.random.stateless_normal([6, 3, 2], (1, 2), dtype=tf.float64)
  particles = tf.random.stateless_normal([6, 3, 2, 4], (3, 4))
  seed = randomness.as_seed(1)
  everywhere, mean_weights = nvi.resample(
    particles, log_weights, resample_fn, seed
  )
  somewhere, weights = nvi.resample(
    particles, log_weights, resample_fn, seed, where=tf.constant(where)
  )
  np.testing.assert_array_equal(
    somewhere,
    np.where(where[..., np.newaxis], everywhere.numpy(), particles.numpy()),
  )
  np.testing.assert_array_equal(
    weights, np.where(where, mean_weights.numpy(), log_weights.numpy())
  )
  np.testing.assert_allclose(
    nvi.log_normalizer(weights), nvi.log_normalizer(log_weights)
  )


def test_resampling_without_a_batch():
  particles, log_weights = nvi.resample(
    tf.constant([1.0, 2.0]),
    log([0.0, 4.0]),
    nvi.resample_systematic,
    randomness.as_seed(1),
    where=tf.constant(False),
  )
  np.testing.assert_array_equal(particles, [1.0, 2.0])
  np.testing.assert_array_equal(np.exp(log_weights), [0.0, 4.0])


def test_deterministic_resampling_works():
  """TFP's one without chance; its offspring is within one of the mean."""
  weights = np.array([0.5, 0.25, 0.125, 0.125])
  particles, log_weights = nvi.resample(
    tf.range(4),
    log(weights),
    tfp.experimental.mcmc.resample_deterministic_minimum_error,
    randomness.as_seed(1),
  )
  counts = np.bincount(particles, minlength=4)
  assert np.all(np.abs(counts - 4 * weights) < 1.0)
  np.testing.assert_allclose(log_weights, np.log(0.25))


def test_resampling_is_compiled_alike():
  """In a function, in XLA and eagerly, the ancestors are the same."""
  log_weights = tf.random.stateless_normal([9, 3], (1, 2), dtype=tf.float64)
  particles = tf.tile(tf.range(9)[:, tf.newaxis], [1, 3])

  def run(seed):
    return [
      nvi.resample(particles, log_weights, resample_fn, seed)
      for resample_fn in RESAMPLERS.values()
    ]

  seed = randomness.as_seed(7)
  expected = run(seed)
  for jit_compile in (False, True):
    result = tf.function(run, jit_compile=jit_compile)(seed)
    for (a, b), (c, d) in zip(result, expected, strict=True):
      np.testing.assert_array_equal(a, c)
      np.testing.assert_allclose(b, d)


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
@pytest.mark.parametrize('threshold', [0.0, 0.4, 1.0, INF])
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
  if threshold == INF:
    # Nothing is kept: no weight reaches the threshold.
    assert np.all(controlled == 0.0)
    return
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
  for log_threshold in (-INF, 0.0, nvi.log_normalizer(log_weights), INF):
    controlled = nvi.rejection_control(log_weights, log_threshold, seed=1)
    assert not np.any(np.isnan(controlled))
    assert np.all(np.isneginf(controlled[:, 1]))


def test_rejection_control_does_not_hide_nan():
  """A NaN is somebody's mistake, which must not pass as a weight of zero."""
  log_weights = tf.constant([np.nan, 0.0, 1.0], tf.float64)
  controlled = nvi.rejection_control(log_weights, 0.5, seed=1)
  assert np.isnan(controlled[0])
  assert not np.any(np.isnan(controlled[1:]))


@pytest.mark.parametrize('jit_compile', [False, True])
def test_a_threshold_that_is_nan_does_not_reject(jit_compile):

  @tf.function(jit_compile=jit_compile)
  def control(log_threshold):
    return nvi.rejection_control(
      tf.constant([-np.inf, 0.0, np.inf], tf.float64), log_threshold, seed=1
    )

  nan = control(tf.constant(np.nan, tf.float64))
  np.testing.assert_array_equal(nan, [-np.inf, np.nan, np.nan])
  infinite = control(tf.constant(np.inf, tf.float64))
  np.testing.assert_array_equal(infinite[:2], [-np.inf, -np.inf])


# Policies.


def test_policies():
  # Effective sample sizes: 64/26 = 2.46, 0, 64/30 = 2.13, of 4.
  weighted = nvi.WeightedParticles(tf.zeros([4, 3]), log(WEIGHTS))
  assert nvi.always(weighted) is True
  assert nvi.never(weighted) is False
  for threshold, expected in (
    (0.0, [False, False, False]),
    (0.5, [False, True, False]),
    (0.55, [False, True, True]),
    (0.65, [True, True, True]),
    (1.0, [True, True, True]),
  ):
    criterion = nvi.ess_below(threshold)(weighted)
    np.testing.assert_array_equal(criterion, expected)
    if threshold > 0.0:
      other = tfp.experimental.mcmc.ess_below_threshold(
        weighted, threshold=threshold
      )
      # TFP's effective sample size is NaN where there is no weight.
      np.testing.assert_array_equal(other[0, ::2], expected[::2])


@pytest.mark.parametrize('threshold', [-0.1, 1.1, float('nan')])
def test_bad_threshold(threshold):
  with pytest.raises(ValueError, match='`threshold` must be between 0 and 1'):
    nvi.ess_below(threshold)


@pytest.mark.parametrize('threshold', ['a', None, [0.5, 0.6]], ids=repr)
def test_threshold_that_is_not_a_number(threshold):
  with pytest.raises(TypeError, match='`threshold` must be a Python float'):
    nvi.ess_below(threshold)


@pytest.mark.parametrize('index', [-1, 3])
def test_indices_out_of_range_are_noticed(index):
  with pytest.raises(ValueError, match='`resample_fn` must return .*0 to 2;'):
    nvi.resample(
      tf.constant([1.0, 2.0, 3.0]),
      tf.zeros([3]),
      lambda log_probs, event_size, sample_shape, seed: tf.constant(
        [0, 1, index]
      ),
      seed=tf.constant([1, 2]),
    )

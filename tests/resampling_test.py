# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling is exact, keeps weights proper, and policies decide rightly.

Where a function takes its chance from `randomness.uniform` alone, its
expectation is integrated over a grid of uniform values in the place of draws
(`fix_uniform`), without any error of sampling. The other tests of a law have
fixed seeds; over seeds, each would reject a correct function with a probability
of at most 1e-6 (`ALARM`, divided among the statistics of a test).
"""

import functools

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
from tfp_nvi import resampling
from tfp_nvi.internal import randomness

tfd = tfp.distributions

INF = float('inf')
RESAMPLERS = {
  'own_systematic': nvi.resample_systematic,
  'systematic': tfp.experimental.mcmc.resample_systematic,
  'independent': tfp.experimental.mcmc.resample_independent,
  'stratified': tfp.experimental.mcmc.resample_stratified,
}

every_resampler = pytest.mark.parametrize(
  'resample_fn', RESAMPLERS.values(), ids=RESAMPLERS.keys()
)


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


# Exactness, where sums of floating point weights would not do.


@every_dtype
@pytest.mark.parametrize('jit_compile', [False, True])
def test_systematic_offspring_is_floor_or_ceiling(dtype, jit_compile):
  """Half of the weights are zero; with float sums under XLA these got some."""
  size = 200_000
  rng = np.random.default_rng(3)
  weights = rng.exponential(size=size)
  weights[::2] = 0.0
  log_probs = tf.math.log_softmax(log(weights, dtype))
  resample_fn = tf.function(
    functools.partial(nvi.resample_systematic, event_size=size),
    jit_compile=jit_compile,
  )
  # Of the weights as they are in this dtype, normalized exactly; the largest
  # is below 2e-4, and `exp` is right to a few units in the last place.
  probs = np.exp(log_probs.numpy().astype(np.float64))
  expected = size * probs / probs.sum()
  slack = 40.0 * 4.0 * np.finfo(dtype.as_numpy_dtype).eps * expected.max()
  for seed in range(3):
    indices = resample_fn(log_probs, seed=randomness.as_seed(seed)).numpy()
    counts = np.bincount(indices, minlength=size)
    assert np.all(counts[::2] == 0)
    # The rounding of a weight may move a share's ends across an integer.
    assert np.all(counts >= np.floor(expected - slack))
    assert np.all(counts <= np.ceil(expected + slack))


@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize(
  'resample_fn', [RESAMPLERS['systematic'], RESAMPLERS['stratified']]
)
def test_equal_weights_have_one_offspring_each(resample_fn, jit_compile):
  """At any number; 299 of 3,000 ancestors were left in bfloat16 once."""

  @tf.function(jit_compile=jit_compile)
  def run(log_weights):
    particles = tf.range(log_weights.shape[0])
    return nvi.resample(particles, log_weights, resample_fn, seed=3)[0]

  for size, dtype in (
    (3_000, tf.bfloat16),
    (3_000, tf.float16),
    (3_001, tf.float32),
    (1_000_003, tf.float32),
    (1_000_003, tf.float64),
  ):
    ancestors = run(tf.fill([size], tf.constant(-2.5, dtype)))
    np.testing.assert_array_equal(ancestors, np.arange(size))


@pytest.mark.parametrize('name', ['systematic', 'independent', 'stratified'])
def test_tfp_schemes_give_weight_zero_no_offspring(name):
  """Under XLA, where TFP's sums of 100,000 weights are rounded."""
  size = 100_000
  weights = np.random.default_rng(1).exponential(size=size)
  weights[::2] = 0.0
  log_weights = log(weights, tf.float32)

  @tf.function(jit_compile=True)
  def run(seed):
    particles = tf.range(size)
    return nvi.resample(particles, log_weights, RESAMPLERS[name], seed)[0]

  for seed in range(10):
    ancestors = run(randomness.as_seed(seed)).numpy()
    assert np.all(ancestors % 2 == 1)


def test_offspring_has_the_variance_of_the_scheme():
  """Independent: binomial. Stratified: less, but not that of systematic."""
  size, batch = 4, 40_000
  weights = np.array([0.15, 0.25, 0.05, 0.55])
  log_probs = tf.broadcast_to(log(weights)[:, tf.newaxis], [size, batch])
  offsets = midpoints(1_000)
  ends = np.cumsum(weights) * size
  # A point `j + u` lies in a share, for independent offsets of the strata.
  inside = np.stack(
    [
      [
        np.mean((j + offsets < end) & (j + offsets > end - size * weight))
        for j in range(size)
      ]
      for end, weight in zip(ends, weights, strict=True)
    ]
  )
  variances = {
    resampling.resample_independent: size * weights * (1.0 - weights),
    resampling.resample_stratified: np.sum(inside * (1.0 - inside), axis=1),
  }
  for resample_fn, variance in variances.items():
    indices = resample_fn(log_probs, size, seed=4).numpy()
    counts = np.stack([np.sum(indices == i, axis=0) for i in range(size)], -1)
    squares = (counts - size * weights) ** 2
    constant = variance == 0.0
    assert not np.any(squares[:, constant])
    z = max_z_score(squares[:, ~constant], variance[~constant])
    assert z < critical_z(8), resample_fn.__name__


def test_sorted_and_shaped_as_others():
  log_probs = tf.math.log_softmax(
    tf.random.stateless_normal([3, 4, 5], (0, 1)), 0
  )
  for fn in (resampling.resample_stratified, resampling.resample_independent):
    indices = fn(log_probs, 6, (7,), seed=1)
    assert indices.shape == [6, 7, 4, 5] and indices.dtype == tf.int32


# Functions of users.


def returning(*indices):
  return lambda log_probs, event_size, sample_shape, seed: tf.constant(indices)


def test_a_particle_without_weight_gives_way_to_one_before_it():
  log_weights = log([0.0, 1.0, 0.0, 0.0, 1.0, 0.0], tf.float32)

  for jit_compile in (False, True):

    @tf.function(jit_compile=jit_compile)
    def run():
      return nvi.resample(
        tf.range(6), log_weights, returning(0, 1, 2, 3, 4, 5), seed=1
      )

    ancestors, after = run()
    np.testing.assert_array_equal(ancestors, [1, 1, 1, 1, 4, 4])
    np.testing.assert_allclose(after, np.log(1.0 / 3.0), rtol=1e-6)


def test_indices_out_of_range_become_nan_under_xla():
  @tf.function(jit_compile=True)
  def run():
    return nvi.resample(
      tf.range(3), tf.zeros([3]), returning(0, 3, -1), seed=1
    )[1]

  np.testing.assert_array_equal(np.isnan(run()), [False, True, True])


@pytest.mark.parametrize(
  'resample_fn, error, message',
  [
    (None, TypeError, 'must be callable; got None'),
    (lambda log_probs: log_probs, TypeError, 'must take log probabilities'),
    (lambda *args, seed: None, TypeError, 'must return integers; it returned'),
    (lambda *args, seed: [0.0, 1.0], ValueError, 'returned float32'),
    (returning(0), ValueError, r'of shape \(2,\).* of shape \(1,\)'),
    (
      lambda *args, seed: nvi.resample_systematic(*args, seed=seed) + 1,
      ValueError,
      'must return integers from 0 to 1; got 2 for 2 of 2',
    ),
    (
      lambda *args, seed: 1 - nvi.resample_systematic(*args, seed=seed),
      ValueError,
      'no offspring to particles of weight zero',
    ),
  ],
)
def test_check_of_a_resampling_function(resample_fn, error, message):
  with pytest.raises(error, match=f'`resample_fn` {message}|{message}'):
    resampling.check_resample_fn(resample_fn)


def test_check_lets_good_functions_pass():
  def for_three_alone(log_probs, event_size, sample_shape, seed=None):
    return tf.reshape(log_probs, [3]) + 'no number'

  for fn in (*RESAMPLERS.values(), for_three_alone):
    resampling.check_resample_fn(fn, batch_shape=[2, 3])

  @tf.function
  def in_a_graph():
    resampling.check_resample_fn(
      lambda *args, seed: nvi.resample_systematic(*args, seed=seed)
    )
    return tf.zeros([])

  in_a_graph()


ZEROS = tf.zeros([3])


@pytest.mark.parametrize(
  'call, error, name',
  [
    (lambda f: f(None, 3), TypeError, 'log_probs'),
    (lambda f: f('a', 3), TypeError, 'log_probs'),
    (lambda f: f([1, 2], 3), TypeError, 'log_probs'),
    (lambda f: f(0.0, 3), ValueError, 'log_probs'),
    (lambda f: f([], 3), ValueError, 'log_probs'),
    (lambda f: f([0.0, np.nan], 3), ValueError, 'log_probs'),
    (lambda f: f([0.0, INF], 3), ValueError, 'log_probs'),
    (lambda f: f([-INF, -INF], 3), ValueError, 'log_probs'),
    (lambda f: f(ZEROS, None), TypeError, 'event_size'),
    (lambda f: f(ZEROS, 2.5), TypeError, 'event_size'),
    (lambda f: f(ZEROS, 0), ValueError, 'event_size'),
    (lambda f: f(ZEROS, 3, 'a'), (TypeError, ValueError), 'sample_shape'),
    (lambda f: f(ZEROS, 3, seed='a'), TypeError, 'seed'),
    (lambda f: f(ZEROS, 3, seed=[1, 2, 3]), ValueError, 'seed'),
  ],
)
def test_bad_calls_of_resampling_functions(call, error, name):
  for resample_fn in (
    nvi.resample_systematic,
    resampling.resample_stratified,
    resampling.resample_independent,
  ):
    with pytest.raises(error, match=f'^`{name}` must'):
      call(resample_fn)


@pytest.mark.parametrize(
  'arguments, error, name',
  [
    (dict(particles=None), TypeError, 'particles'),
    (dict(particles=(ZEROS, None)), TypeError, 'particles'),
    (dict(particles='a'), ValueError, 'particles'),
    (dict(particles=tf.zeros([4])), ValueError, 'particles'),
    (dict(particles=tf.zeros([])), ValueError, 'particles'),
    (dict(log_weights=None), TypeError, 'log_weights'),
    (dict(log_weights=[0, 1, 2]), TypeError, 'log_weights'),
    (dict(log_weights=0.0), ValueError, 'log_weights'),
    (dict(log_weights=[]), ValueError, 'log_weights'),
    (dict(log_weights=[0.0, np.nan, 0.0]), ValueError, 'log_weights'),
    (dict(log_weights=[0.0, INF, 0.0]), ValueError, 'log_weights'),
    (dict(resample_fn=None), TypeError, 'resample_fn'),
    (dict(seed=1.5), TypeError, 'seed'),
    (dict(where=3), TypeError, 'where'),
    (dict(where=[True, False]), ValueError, 'where'),
    (dict(num_draws=0), ValueError, 'num_draws'),
    (dict(num_draws=2, where=True), ValueError, 'num_draws'),
  ],
)
def test_bad_calls_of_resample(arguments, error, name):
  good = dict(
    particles=ZEROS,
    log_weights=ZEROS,
    resample_fn=nvi.resample_systematic,
    seed=1,
  )
  nvi.resample(**good)
  with pytest.raises(error, match=f'^`{name}` must'):
    nvi.resample(**{**good, **arguments})


@pytest.mark.parametrize(
  'values, indices, error, name',
  [
    (None, [0], TypeError, 'values'),
    (1.0, [0], ValueError, 'values'),
    (ZEROS, None, TypeError, 'indices'),
    (ZEROS, [0.0], TypeError, 'indices'),
    (ZEROS, [3], ValueError, 'indices'),
    (ZEROS, [[0]], ValueError, 'values'),
    (tf.zeros([3, 2]), [[0, 5]], ValueError, 'indices'),
  ],
)
def test_bad_calls_of_gather_ancestors(values, indices, error, name):
  with pytest.raises(error, match=f'^`{name}` must'):
    resampling.gather_ancestors(values, indices)


def test_bad_particles_of_a_policy():
  with pytest.raises(TypeError, match='`weighted_particles` must be'):
    nvi.ess_below()(None)
  with pytest.raises(TypeError, match='`log_weights` must have a floating'):
    nvi.ess_below()(nvi.WeightedParticles([1.0], [1]))

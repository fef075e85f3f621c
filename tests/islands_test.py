# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of islands: particles in several runs that are one sum.

Samplers here go from one normal density to another by moves that are not quite
right, so that their weights vary. The normalizer is known.
"""

import functools
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi import islands as islands_module
from tfp_nvi import weighting
from tfp_nvi.internal import randomness
from tfp_nvi.weighting import islands as islands_lib

tfd = tfp.distributions

NORMALIZER = 3.0
OFTEN = nvi.ess_below(0.9)


def make_sampler(batch_shape=()):
  """Three densities, whose last density has the integral `NORMALIZER`."""
  start, stop = tfd.Normal(0.0, 1.5), tfd.Normal(2.0, 0.7)
  path = nvi.GeometricPath(
    start,
    lambda z: stop.log_prob(z) + np.log(NORMALIZER),
    num_densities=3,
    batch_shape=batch_shape,
  )
  return nvi.NestedSampler(
    path,
    nvi.KernelPair(
      lambda y, level: tfd.Normal(0.7 * y + 0.5, 0.6),
      lambda z, level: tfd.Normal(0.7 * z, 0.8),
      num_transitions=2,
    ),
    resample_criterion_fn=nvi.ess_below(0.7),
  )


sampler_of_many = functools.cache(functools.partial(make_sampler, (100,)))


def sample_with(sampler, num_islands, criterion_fn):
  """Many runs: 4 calls with 100 batch members each."""
  return [
    sampler.sample(
      64,
      seed,
      jit_compile=False,
      num_islands=num_islands,
      exchange_criterion_fn=criterion_fn,
    )
    for seed in range(4)
  ]


@functools.cache
def sample_many(num_islands, criterion_fn):
  return sample_with(sampler_of_many(), num_islands, criterion_fn)


def score(values, expected):
  """Standardized error of a mean, and its standard error."""
  values = np.asarray(values, np.float64).reshape([-1])
  error = np.std(values, ddof=1) / np.sqrt(len(values))
  return abs(np.mean(values) - expected) / error, error


def check_mean(values, expected):
  """A z-test, with a false alarm in 15,000 tests."""
  found, error = score(values, expected)
  assert found < 4.0
  return error


def moments(calls):
  """Means of weight times value, whose expectation is `2 * NORMALIZER`."""
  return [
    tf.reduce_mean(tf.exp(x.log_weights) * x.particles, axis=0) for x in calls
  ]


@pytest.mark.parametrize(
  ('num_islands', 'criterion_fn'),
  [
    pytest.param(1, nvi.never, marks=pytest.mark.slow),
    (2, nvi.never),
    pytest.param(4, nvi.never, marks=pytest.mark.slow),
    (2, nvi.always),
    (4, OFTEN),
  ],
)
def test_normalizer_is_unbiased(num_islands, criterion_fn):
  calls = sample_many(num_islands, criterion_fn)
  ratios = np.exp([x.log_normalizer for x in calls]) / NORMALIZER
  assert check_mean(ratios, 1.0) < 0.04
  check_mean(np.array(moments(calls)) / NORMALIZER, 2.0)


def test_means_of_logarithms_are_biased():
  """A mistake that the test above has to find."""
  logs = [
    nvi.log_normalizer(
      tf.transpose(tf.reshape(x.log_weights, [4, 16, 100]), [1, 0, 2])
    )
    for x in sample_many(4, nvi.never)
  ]
  ratios = np.exp(np.mean(logs, axis=1)) / NORMALIZER
  assert score(ratios, 1.0)[0] > 6.0


def variance_ratio(calls):
  """The variance of Z-hat as it is reported, by that over runs."""
  estimates = np.exp([x.log_normalizer for x in calls]).reshape([-1])
  relative = np.var(estimates / NORMALIZER, ddof=1)
  # Weighted by the square of the estimate, the variance is unbiased.
  variances = np.array([x.log_normalizer_error for x in calls]).reshape([-1])
  expected = np.mean(variances**2 * (estimates / NORMALIZER) ** 2)
  return expected / relative


def test_islands_of_one_seed_have_another_error(monkeypatch):
  """Islands that are all the same are unbiased, but no more than one."""
  mutant = types.SimpleNamespace(
    fold_in=lambda seed, index: tf.tile(seed[tf.newaxis], [index.shape[0], 1])
  )
  monkeypatch.setattr(islands_module, 'randomness', mutant)
  calls = sample_with(make_sampler((100,)), 4, nvi.never)
  assert variance_ratio(calls) < 0.4


@pytest.mark.parametrize('criterion_fn', [nvi.never, OFTEN])
def test_errors_agree_with_the_spread_over_runs(criterion_fn):
  calls = sample_many(4, criterion_fn)
  assert 0.7 < variance_ratio(calls) < 1.4
  means = np.array([x.expectation() for x in calls]).reshape([-1])
  errors = np.array([x.standard_error() for x in calls]).reshape([-1])
  assert 0.8 < np.sqrt(np.mean(errors**2)) / np.std(means) < 1.25


def update(num_particles, num_islands):
  """The mean of a training step over many restarts, and its error.

  The kernel is a normal density by itself, whose mean is learned: importance
  sampling of the target, as the reverse kernel is the first density. The step
  is the self-normalized estimate of the mean of the target.
  """
  theta = tf.Variable(tf.zeros([4_000]))
  start = tfd.Normal(tf.zeros([4_000]), 1.0)
  sampler = nvi.NestedSampler(
    nvi.ExplicitDensities([start, tfd.Normal(tf.ones([4_000]), 1.0)]),
    nvi.KernelPair(
      lambda y: tfd.Normal(theta + 0.0 * y, 1.0),
      lambda z: tfd.Normal(0.0 * z, 1.0),
    ),
    resample_criterion_fn=nvi.never,
  )
  nvi.fit(
    sampler,
    nvi.rws(),
    num_particles,
    num_steps=1,
    seed=1,
    optimizer=tf_keras.optimizers.SGD(1.0),
    clip_factor=None,
    steps_per_call=1,
    jit_compile=False,
    progress=False,
    num_islands=num_islands,
  )
  return theta.numpy()


def test_bias_of_training_is_that_of_an_island():
  """Weights are normalized by island, and not over all of them."""
  # For two particles `s + d` and `s - d` the estimate is `s + d tanh(d)`, and
  # `d` has the variance 1 / 2.
  d, step = np.linspace(-8.0, 8.0, 4_001, retstep=True)
  expected = step * np.sum(d * np.tanh(d) * np.exp(-(d**2)) / np.sqrt(np.pi))
  assert 0.3 < expected < 0.4
  check_mean(update(2, 1), expected)
  check_mean(update(8, 4), expected)
  # Normalized over all eight, it is nearer to one, the mean of the target.
  found = update(8, 1)
  assert score(found, expected)[0] > 20.0 and 0.6 < np.mean(found) < 1.0


def test_islands_are_runs_by_themselves():
  sampler = make_sampler()
  particles = sampler.sample(20, 3, False, num_islands=4)
  runs = [
    sampler.sample(5, randomness.fold_in(randomness.as_seed(3), i), False)
    for i in range(4)
  ]
  for i, run in enumerate(runs):
    part = slice(5 * i, 5 * (i + 1))
    np.testing.assert_array_equal(particles.particles[part], run.particles)
    np.testing.assert_array_equal(particles.log_weights[part], run.log_weights)
    np.testing.assert_array_equal(particles.root[part], run.root + 5 * i)
  normalizers = np.exp([run.log_normalizer for run in runs])
  np.testing.assert_allclose(
    np.exp(particles.log_normalizer), np.mean(normalizers), rtol=1e-5
  )
  shares = normalizers / np.sum(normalizers)
  np.testing.assert_allclose(
    particles.expectation(),
    np.sum(shares * [run.expectation() for run in runs]),
    rtol=1e-5,
  )
  # The islands are independent: their variances add up.
  errors = np.array([run.log_normalizer_error for run in runs])
  np.testing.assert_allclose(
    particles.log_normalizer_error,
    np.sqrt(np.sum((shares * errors) ** 2)),
    rtol=1e-4,
  )


def test_exchange_of_some_batch_members():
  sampler = make_sampler([2])
  kwargs = dict(num_particles=20, seed=3, num_islands=4, jit_compile=False)
  expected = sampler.sample(**kwargs)
  found = sampler.sample(
    exchange_criterion_fn=lambda islands: tf.constant([False, True]), **kwargs
  )
  np.testing.assert_allclose(
    expected.log_weights[:, 0], found.log_weights[:, 0], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(expected.root[:, 0], found.root[:, 0])
  assert found.num_ancestors[1] <= expected.num_ancestors[1]
  assert np.any(found.root[:, 1] // 5 != np.repeat(range(4), 5))


def test_resampled_islands_are_properly_weighted():
  weights = np.array([[0.0, 1.0], [0.5, 2.5], [0.0, 0.0]], np.float32)
  values = np.array([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]], np.float32)
  expected = np.mean(weights * values)
  values, weights = (
    np.tile(x[..., np.newaxis], [1, 1, 500]) for x in (values, weights)
  )
  found, log_weights, _ = islands_lib.resample_islands(
    tf.constant(values),
    tf.math.log(weights),
    nvi.resample_systematic,
    seed=1,
    where=True,
  )
  # All islands have the mean weight of before, exactly.
  np.testing.assert_allclose(
    np.mean(np.exp(log_weights), axis=1), np.mean(weights[..., 0]), rtol=1e-5
  )
  check_mean(np.mean(np.exp(log_weights) * found, axis=(0, 1)), expected)
  # Islands that are chosen by their weights and keep them are not.
  kept, _, _ = islands_lib.resample_islands(
    tf.constant(weights),
    tf.math.log(weights),
    nvi.resample_systematic,
    seed=1,
    where=True,
  )
  assert score(np.mean(kept * found, axis=(0, 1)), expected)[0] > 6.0


def test_islands_without_weight():
  none = [-np.inf, -np.inf]
  islands = nvi.WeightedParticles(
    tf.constant([[1.0, 2.0], [3.0, 4.0]]),
    tf.constant([none, [0.0, 0.0]]),
    tf.constant([[0, 1], [0, 1]]),
    tf.constant([1, 2]),
    tf.zeros([2]),
  )
  particles = weighting.combine_islands(islands)
  # The same from sums that are taken in each island.
  summaries = [
    weighting.summarize_island(
      tf.nest.map_structure(lambda x, i=i: x[i], islands)
    )
    for i in range(2)
  ]
  summarized = weighting.combine_islands(
    islands,
    summaries=tf.nest.map_structure(lambda *x: tf.stack(x), *summaries),
  )
  np.testing.assert_allclose(
    particles.log_normalizer_error, summarized.log_normalizer_error, rtol=1e-5
  )
  np.testing.assert_allclose(particles.log_normalizer, np.log(0.5), rtol=1e-6)
  assert particles.expectation() == 3.5 and particles.num_nan == 3
  np.testing.assert_array_equal(particles.root, [0, 1, 2, 3])
  nothing = weighting.combine_islands(
    islands._replace(log_weights=tf.constant([none, none]))
  )
  assert nothing.log_normalizer == -np.inf
  assert nothing.log_normalizer_error == np.inf


def test_bad_arguments():
  sampler = make_sampler()
  with pytest.raises(TypeError, match='`strategy` must be a tf.distribute'):
    sampler.sample(4, strategy='mirrored')
  with pytest.raises(ValueError, match='`num_particles` must be a multiple'):
    sampler.sample(5, num_islands=2)
  with pytest.raises(ValueError, match='`num_islands` must be positive'):
    sampler.sample(4, num_islands=0)
  with pytest.raises(ValueError, match='`exchange_criterion_fn` must be'):
    sampler.sample(4, exchange_criterion_fn=nvi.always)
  with pytest.raises(TypeError, match='`exchange_criterion_fn` must'):
    sampler.sample(4, num_islands=2, exchange_criterion_fn='often')
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  path = nvi.GeometricPath(tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0), 2)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, [2], seed=1))
  with pytest.raises(ValueError, match='`sampler` must be made inside of'):
    sampler.sample(4, strategy=strategy)
  with pytest.raises(ValueError, match='`strategy` must be None inside of'):
    tf.function(lambda: sampler.sample(4, num_islands=2).log_weights)()

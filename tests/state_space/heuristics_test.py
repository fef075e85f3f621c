# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Heuristics stand for the observations to come, and for no others."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import heuristics

tfd = tfp.distributions

RNG = np.random.default_rng(1)
X = RNG.normal(size=[2, 3, 4])  # Two batch axes, four steps.
IS_OBSERVED = tf.constant(RNG.uniform(size=X.shape) < 0.6)
LOCS = RNG.normal(size=[5, 2, 3])  # Five particles.


def slow_sum(values, is_observed, k):
  """The sum over steps after `k` of `[num_particles] + batch + [num_steps]`."""
  return np.sum(np.where(is_observed, values, 0.0)[..., k:], axis=-1)


@pytest.mark.parametrize('is_observed', [None, IS_OBSERVED])
def test_independent(is_observed):
  heuristic = nvi.IndependentHeuristic(
    lambda loc: tfd.Normal(loc, tf.constant(2.0, tf.float64))
  )
  rows = heuristic.prepare(tf.constant(X), is_observed, tf.constant(LOCS))
  assert rows.shape == [4, 5, 2, 3]
  values = tfd.Normal(LOCS[..., np.newaxis], np.float64(2.0)).log_prob(X)
  for k in range(4):
    row = heuristic.log_factor(rows[k], LOCS, None)
    expected = slow_sum(values, True if is_observed is None else is_observed, k)
    np.testing.assert_allclose(row, expected)


def test_independent_of_vectors_and_of_no_particle():
  """Events keep their axes; without globals there is one row for all."""
  heuristic = nvi.IndependentHeuristic(
    lambda _: tfd.MultivariateNormalDiag(tf.zeros([3], tf.float64))
  )
  rows = heuristic.prepare(tf.constant(X.transpose([0, 2, 1])), None, ())
  assert rows.shape == [4, 1, 2]
  expected = -0.5 * np.sum(X**2, axis=1) - 1.5 * np.log(2.0 * np.pi)
  np.testing.assert_allclose(rows[1, 0], np.sum(expected[:, 1:], axis=-1))


def test_independent_of_structures():
  def distribution_fn(loc):
    return tfd.JointDistributionSequential(
      [tfd.Normal(loc, tf.constant(1.0, tf.float64)), tfd.Poisson(tf.exp(loc))]
    )

  heuristic = nvi.IndependentHeuristic(distribution_fn)
  x = [tf.constant(X), tf.ones_like(X)]
  rows = heuristic.prepare(x, None, tf.constant(LOCS))
  values = distribution_fn(tf.constant(LOCS[..., np.newaxis])).log_prob(x)
  np.testing.assert_allclose(rows[2], slow_sum(values, True, 2))


@pytest.mark.parametrize('is_observed', [None, IS_OBSERVED])
def test_features(is_observed):
  heuristic = nvi.FeatureHeuristic(
    lambda x: tf.stack([x**2, tf.sin(x), tf.ones_like(x)], axis=-1),
    lambda loc: tf.stack([tf.cos(loc), loc, loc**2], axis=-1),
  )
  rows = heuristic.prepare(tf.constant(X), is_observed, tf.constant(LOCS))
  assert rows.shape == [4, 5, 2, 3]
  loc = LOCS[..., np.newaxis]
  values = np.cos(loc) * X**2 + loc * np.sin(X) + loc**2
  for k in range(4):
    expected = slow_sum(values, True if is_observed is None else is_observed, k)
    np.testing.assert_allclose(rows[k], expected)


@pytest.mark.parametrize(
  'is_observed', [None, [[True], [False], [True]]], ids=['all', 'some']
)
def test_sum_of_rest(is_observed):
  values = RNG.normal(size=[3, 2])
  kept = values if is_observed is None else np.where(is_observed, values, 0.0)
  # What does not count may be NaN.
  if is_observed is not None:
    values = np.where(is_observed, values, np.nan)
  sums = heuristics.sum_of_rest(tf.constant(values), is_observed)
  np.testing.assert_allclose(sums, [kept[k:].sum(axis=0) for k in range(3)])


def test_variables_are_found():
  """Those of modules that are passed, so that they can be saved."""

  class Weights(tf.Module):
    def __init__(self):
      super().__init__()
      self.variable = tf.Variable([1.0])

    def __call__(self, loc):
      return loc[..., tf.newaxis] * self.variable

  weights = Weights()
  heuristic = nvi.FeatureHeuristic(lambda x: x[..., tf.newaxis], weights)
  assert heuristic.trainable_variables == (weights.variable,)
  model = nvi.StateSpaceModel(
    tfd.Normal(0.0, 1.0),
    lambda loc: tfd.Normal(loc, 1.0),
    lambda z, loc: tfd.Normal(z, 1.0),
    lambda z, loc: tfd.Normal(z, 1.0),
  )
  sampler = nvi.StateSpaceSampler(model, heuristic=heuristic)
  assert sampler.trainable_variables == (weights.variable,)
  # Values are read when a sampler runs, compiled or not.
  before = sampler.sample([1.0, 2.0], 9, seed=1).log_normalizer_increments[0]
  weights.variable.assign([0.0])
  after = sampler.sample([1.0, 2.0], 9, seed=1).log_normalizer_increments[0]
  assert before != 0.0 and after == 0.0


class OfFunctions(nvi.Heuristic):
  """For what may be wrong."""

  def __init__(self, prepare_fn, log_factor_fn=lambda row, *_: row):
    super().__init__()
    self._prepare_fn = prepare_fn
    self._log_factor_fn = log_factor_fn

  def prepare(self, observations, is_observed, global_state):
    return self._prepare_fn(observations, is_observed, global_state)

  def log_factor(self, row, global_state, local_state):
    return self._log_factor_fn(row, global_state, local_state)


def rows(x, _, loc):
  return tf.zeros([x.shape[-1]] + loc.shape)


def only_later(fn):
  """Changes the factors of levels with a local state."""
  return lambda row, loc, z: row if z is None else fn(row)


@pytest.mark.parametrize(
  'heuristic, error, match',
  [
    (
      OfFunctions(lambda *args: rows(*args) + np.nan),
      ValueError,
      '`heuristic` must return log factors that are numbers .* NaN',
    ),
    (
      OfFunctions(rows, only_later(lambda row: row + np.nan)),
      ValueError,
      r'at step 1 of sequence \[0\]: `heuristic` must return .* NaN',
    ),
    (
      OfFunctions(lambda *args: rows(*args) - np.inf),
      ValueError,
      '`heuristic` must be positive somewhere; .* -inf for all of 16 draws',
    ),
    (
      OfFunctions(rows, only_later(lambda row: row - np.inf)),
      ValueError,
      r'No particle has any weight at step 1 of sequence \[0\]: .*`heuristic`',
    ),
    (
      OfFunctions(lambda *args: rows(*args) + tf.constant([0.0, -np.inf])),
      ValueError,
      r'No .* weight before the first step of sequence \[1\]: .*`heuristic`',
    ),
    (
      OfFunctions(lambda *args: None),
      TypeError,
      '`heuristic` must prepare rows that are Tensors; got None',
    ),
    (
      OfFunctions(lambda x, _, loc: tf.zeros(loc.shape)),
      ValueError,
      r'`heuristic` must prepare rows .* here \[3, 16, 2\] .* got \[16, 2\]',
    ),
    (
      OfFunctions(lambda x, _, loc: tf.zeros([3, 16, 5])),
      ValueError,
      r'`heuristic` must prepare rows .* got \[3, 16, 5\]',
    ),
    (
      OfFunctions(rows, lambda row, *_: tf.stack([row, row], axis=-1)),
      ValueError,
      r'`heuristic` must return .* log factors.* \(16, 2\); .* \(16, 2, 2\)',
    ),
    (
      OfFunctions(rows, only_later(lambda row: row[..., tf.newaxis])),
      ValueError,
      r'`heuristic` must return .* log factors.* \(4, 2\); .* \(4, 2, 1\)',
    ),
    (
      OfFunctions(rows, lambda row, *_: tf.cast(row, tf.float64)),
      ValueError,
      '`heuristic` must return .* log factors, of dtype float32 .* float64',
    ),
    (
      OfFunctions(rows, lambda *_: None),
      TypeError,
      '`heuristic` must return a Tensor of log factors; it returned None',
    ),
    (
      nvi.IndependentHeuristic(lambda loc: loc),
      TypeError,
      '`distribution_fn` must return a tfd.Distribution',
    ),
    (
      nvi.IndependentHeuristic(
        lambda loc: tfd.MultivariateNormalDiag(
          tf.stack([loc, loc], axis=-1), [1.0, 1.0]
        )
      ),
      ValueError,
      '`heuristic` must be able to prepare',
    ),
    (
      nvi.FeatureHeuristic(
        lambda x: tf.zeros([2, 3, 3]), lambda loc: tf.zeros(loc.shape + [4])
      ),
      ValueError,
      r'`feature_fn` .* `weight_fn` .* got \[2, 3, 3\] and \[16, 2, 4\]',
    ),
    (
      nvi.FeatureHeuristic(
        lambda x: tf.zeros([2, 4, 3]), lambda loc: tf.zeros(loc.shape + [3])
      ),
      ValueError,
      r'`heuristic` must prepare rows .* got \[4, 16, 2\]',
    ),
  ],
)
def test_bad_heuristics(heuristic, error, match):
  model = nvi.StateSpaceModel(
    tfd.Normal(0.0, 1.0),
    lambda loc: tfd.Normal(loc, 1.0),
    lambda z, loc: tfd.Normal(z, 1.0),
    lambda z, loc: tfd.Normal(z, 1.0),
  )
  sampler = nvi.StateSpaceSampler(model, heuristic=heuristic)
  with pytest.raises(error, match=match):
    sampler.sample(tf.zeros([2, 3]), 4, seed=1, jit_compile=False)


def test_prepare_must_be_there():
  class Nothing(nvi.Heuristic):
    pass

  for of_class in (nvi.Heuristic, Nothing):
    with pytest.raises(TypeError, match='abstract.*prepare'):
      of_class()


@pytest.mark.parametrize(
  'make, match',
  [
    (lambda: nvi.IndependentHeuristic(3), '`distribution_fn` must .* got 3'),
    (lambda: nvi.FeatureHeuristic(3, len), '`feature_fn` must .* got 3'),
    (lambda: nvi.FeatureHeuristic(len, 3), '`weight_fn` must .* got 3'),
  ],
)
def test_functions_must_be_callable(make, match):
  with pytest.raises(TypeError, match=match):
    make()

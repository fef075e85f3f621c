# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Missing components of observations are integrated out, exactly.

A Kalman filter that leaves out the rows of what is missing gives the same
likelihood, up to rounding in double precision. What stands where a component is
missing, NaN here, has no influence.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import learning, missing, networks

tfd = tfp.distributions

NUM_STEPS = 5
MATRIX = np.array([[0.8, 0.3], [-0.2, 0.7]])
STEP = np.array([[0.5, 0.0], [0.2, 0.6]])
OUTPUTS = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
NOISE = np.array([[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.7]])
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[NUM_STEPS, 3])
MASK = RANDOM.uniform(size=[NUM_STEPS, 3]) < 0.6
MASK[2] = False
X[~MASK] = np.nan


def double(x):
  return tf.constant(x, tf.float64)


def observe(kind, mean):
  diagonal = double(np.diag(NOISE))
  if kind == 'full':
    return tfd.MultivariateNormalTriL(mean, double(NOISE))
  if kind == 'diagonal':
    return tfd.MultivariateNormalDiag(mean, diagonal)
  if kind == 'independent':
    return tfd.Independent(tfd.Normal(mean, diagonal), 1)
  return tfd.JointDistributionNamed(
    {
      'a': tfd.Normal(mean[..., 0], diagonal[0]),
      'b': tfd.MultivariateNormalDiag(mean[..., 1:], diagonal[1:]),
    }
  )


def make_model(kind):
  return nvi.StateSpaceModel(
    None,
    lambda: tfd.MultivariateNormalDiag(double([0.0, 0.0]), double([1.0, 1.0])),
    lambda z: tfd.MultivariateNormalTriL(
      tf.linalg.matvec(double(MATRIX), z), double(STEP)
    ),
    lambda z: observe(kind, tf.linalg.matvec(double(OUTPUTS), z)),
  )


def kalman(noise):
  """The log likelihood of the components that are there."""
  mean, covariance, total = np.zeros(2), np.eye(2), 0.0
  for t in range(NUM_STEPS):
    if t:
      mean = MATRIX @ mean
      covariance = MATRIX @ covariance @ MATRIX.T + STEP @ STEP.T
    there = MASK[t]
    if not there.any():
      continue
    rows = OUTPUTS[there]
    spread = rows @ covariance @ rows.T + noise[np.ix_(there, there)]
    error = X[t, there] - rows @ mean
    total -= 0.5 * (
      error @ np.linalg.solve(spread, error)
      + np.linalg.slogdet(2.0 * np.pi * spread)[1]
    )
    gain = covariance @ rows.T @ np.linalg.inv(spread)
    mean = mean + gain @ error
    covariance = covariance - gain @ rows @ covariance
  return total


def with_parts(kind, x):
  return {'a': x[:, 0], 'b': x[:, 1:]} if kind == 'joint' else x


@pytest.mark.parametrize('kind', ['full', 'diagonal', 'independent', 'joint'])
def test_likelihood(kind):
  """The factor of a linear-Gaussian model before the first step is exact."""
  x = tf.nest.map_structure(double, with_parts(kind, np.where(MASK, X, 7.0)))
  mask = tf.nest.map_structure(tf.constant, with_parts(kind, MASK))
  heuristic = nvi.GaussianHeuristic(make_model(kind), 1)
  rows = heuristic.prepare(x, mask, ())
  noise = NOISE @ NOISE.T if kind == 'full' else np.diag(np.diag(NOISE) ** 2)
  np.testing.assert_allclose(rows['factor'][2][0, 0], kalman(noise), 1e-9)
  # A mutation: the values in the place of what is missing.
  rows = heuristic.prepare(x, tf.nest.map_structure(tf.ones_like, mask), ())
  assert abs(rows['factor'][2][0, 0] - kalman(noise)) > 1.0


def test_filters():
  """A guided filter, one that runs online, and kernels agree."""
  model = make_model('full')
  sampler = nvi.StateSpaceSampler(model, proposal_fn='guided')
  posterior = sampler.sample(
    X, 5_000, seed=1, is_observed=MASK, jit_compile=False
  )
  error = float(posterior.log_normalizer_error)
  assert error < 0.1
  assert abs(posterior.log_normalizer - kalman(NOISE @ NOISE.T)) < 5.0 * error
  offline = sampler.sample(X, 20, seed=3, is_observed=MASK, jit_compile=False)
  online = nvi.OnlineFilter(sampler, 20, max_steps=NUM_STEPS, jit_compile=False)
  state = online.init(seed=3)
  for x, mask in zip(X, MASK, strict=True):
    state = online.update(state, x, is_observed=mask)
  np.testing.assert_allclose(state.log_normalizer, offline.log_normalizer)
  kernel = nvi.ConditionalFilter(sampler, X, num_particles=4, is_observed=MASK)
  start = tf.zeros([3, NUM_STEPS, 2], tf.float64)
  z, _ = kernel.one_step(start, kernel.bootstrap_results(start), seed=1)
  assert np.all(np.isfinite(z))


def test_nothing_is_observed():
  sampler = nvi.StateSpaceSampler(make_model('full'), proposal_fn='guided')
  posterior = sampler.sample(
    np.full_like(X, np.nan),
    10,
    seed=1,
    is_observed=np.zeros_like(MASK),
    jit_compile=False,
  )
  np.testing.assert_allclose(posterior.log_weights, 0.0, atol=1e-12)


def test_other_distributions():
  """Any independent components, and parts as a whole."""
  x, mask = double([[1.0, 2.0, 3.0]]), tf.constant([[True, False, True]])
  sample = tfd.Sample(tfd.Poisson(double([1.5])), [3])
  np.testing.assert_allclose(
    missing.marginal(sample, x, mask).log_prob(x),
    np.sum(tfd.Poisson(double(1.5)).log_prob([1.0, 3.0]), keepdims=True),
  )
  joint = tfd.JointDistributionSequential(
    [tfd.Normal(0.0, 1.0), tfd.Dirichlet([1.0, 2.0])]
  )
  value = [tf.constant(0.5), tf.constant([0.3, 0.7])]
  for masks in ([True, False], [False, True]):
    np.testing.assert_allclose(
      missing.marginal(joint, value, list(map(tf.constant, masks))).log_prob(
        value
      ),
      joint.log_prob_parts(value)[masks.index(True)],
    )
  with pytest.raises(ValueError, match='they are of a Dirichlet'):
    missing.marginal(joint.model[1], value[1], tf.constant([True, False]))
  chain = tfd.JointDistributionSequential(
    [tfd.Normal(0.0, 1.0), lambda a: tfd.Normal(a, 1.0)]
  )
  with pytest.raises(ValueError, match='parts are independent of each other'):
    missing.marginal(chain, [0.0, 0.0], [tf.constant(True)] * 2)


def test_heuristics_of_functions():
  """Independent components are left out one by one."""
  heuristic = nvi.IndependentHeuristic(
    lambda: tfd.MultivariateNormalDiag(double([0.0] * 3), double([1.0] * 3))
  )
  x = np.where(MASK, X, 0.0)
  rows = heuristic.prepare(double(x), tf.constant(MASK), ())
  log_probs = np.where(
    MASK, tfd.Normal(double(0.0), double(1.0)).log_prob(x), 0
  )
  np.testing.assert_allclose(rows[0, 0], log_probs.sum())
  features = nvi.FeatureHeuristic(lambda x: x, lambda theta: tf.ones([1, 3]))
  rows = features.prepare(tf.constant(x, tf.float32), tf.constant(MASK), ())
  np.testing.assert_allclose(rows[0, 0], x[MASK.all(axis=1)].sum(), 1e-5)


def test_networks_do_not_see_what_is_missing():
  features = networks.Features(make_model('joint'))
  value, mask = with_parts('joint', np.where(MASK, X, 0.0)), tf.constant(MASK)
  value = tf.nest.map_structure(double, value)
  masks = with_parts('joint', mask)
  first = features.masked(value, masks)
  other = tf.nest.map_structure(
    lambda x, mask: tf.where(mask, x, 7.0), value, masks
  )
  np.testing.assert_allclose(first, features.masked(other, masks))
  assert first.shape == [NUM_STEPS, features.masked_size]
  np.testing.assert_allclose(first[:, -3:], MASK)
  shown = learning._random_mask(
    tf.nest.map_structure(
      lambda x: tf.tile(x[None], [64] + [1] * x.shape.rank), value
    ),
    tf.constant([1, 2]),
  )
  by_step = missing.any_component(shown, 2)
  some = tf.reduce_any(~shown['b'], axis=-1) & by_step
  assert tf.reduce_any(some) and tf.reduce_any(~by_step)


@pytest.mark.parametrize(
  'is_observed, match',
  [
    (np.ones([NUM_STEPS, 2], bool), '`is_observed` must be bools of shape'),
    (np.ones([NUM_STEPS + 1], bool), '`is_observed` must be bools of shape'),
    (np.ones([NUM_STEPS, 3]), '`is_observed` must be bools of shape'),
    (np.ones([NUM_STEPS, 3], bool), 'must not be NaN where they are observed'),
  ],
)
def test_bad_masks(is_observed, match):
  sampler = nvi.StateSpaceSampler(make_model('full'))
  with pytest.raises(ValueError, match=match):
    sampler.sample(X, 10, seed=1, is_observed=is_observed)

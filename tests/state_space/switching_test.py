# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of a regime and a level agree with a sum over Kalman filters.

Given the regimes of all steps the models are linear and Gaussian: the exact
likelihood is a sum over all sequences of regimes, each with a Kalman filter.

False alarms: estimates must be within 5 standard errors, which a correct
sampler misses with a probability of 6e-7 a comparison.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import switching

tfd = tfp.distributions

CRITICAL_Z = 5.0
FIRST = np.array([0.6, 0.4])
SWITCH = np.array([[0.8, 0.2], [0.3, 0.7]])
SLOPES, SCALES = np.array([0.9, 0.3]), np.array([0.4, 1.5])
NOISES = np.array([0.5, 0.9])
X = np.array([0.4, -1.0, 2.5, 2.0])


def constant(x):
  return tf.constant(x, tf.float64)


def make_model(is_named=True, is_vector=False):
  """A level whose persistence and noises depend on the regime."""

  def joint(probs, mean_fn, scale_fn):
    def level(regime):
      mean, scale = mean_fn(regime), scale_fn(regime)
      if is_vector:
        return tfd.MultivariateNormalDiag(
          mean[..., tf.newaxis], scale[..., tf.newaxis]
        )
      return tfd.Normal(mean, scale)

    switch = tfd.Categorical(probs=probs)
    if is_named:
      return tfd.JointDistributionNamed({'regime': switch, 'level': level})
    return tfd.JointDistributionSequential([switch, level])

  def parts(z):
    regime, level = (z['regime'], z['level']) if is_named else z
    return regime, level[..., 0] if is_vector else level

  def transition_fn(z):
    before, level = parts(z)
    return joint(
      tf.gather(constant(SWITCH), before),
      lambda regime: tf.gather(constant(SLOPES), regime) * level,
      lambda regime: tf.gather(constant(SCALES), regime),
    )

  def observation_fn(z):
    regime, level = parts(z)
    return tfd.Normal(level, tf.gather(constant(NOISES), regime))

  return nvi.StateSpaceModel(
    None,
    lambda: joint(
      constant(FIRST),
      lambda regime: 0.0 * tf.gather(constant(SLOPES), regime),
      lambda regime: tf.gather(constant(SCALES), regime),
    ),
    transition_fn,
    observation_fn,
  )


def exact(x):
  """The log likelihood, and the smoothed mean of the last regime."""
  logs, last = [], []
  for regimes in itertools.product(range(2), repeat=len(x)):
    total, mean, variance = np.log(FIRST[regimes[0]]), 0.0, 0.0
    for t, (regime, value) in enumerate(zip(regimes, x, strict=True)):
      if t:
        total += np.log(SWITCH[regimes[t - 1], regime])
      mean = SLOPES[regime] * mean
      variance = SLOPES[regime] ** 2 * variance + SCALES[regime] ** 2
      spread = variance + NOISES[regime] ** 2
      error = value - mean
      total -= 0.5 * (error**2 / spread + np.log(2.0 * np.pi * spread))
      mean += variance / spread * error
      variance -= variance**2 / spread
    logs.append(total)
    last.append(regimes[-1])
  weights = np.exp(logs)
  return np.log(weights.sum()), np.average(last, weights=weights)


@pytest.mark.parametrize('is_named', [True, False])
def test_one_step_is_exact(is_named):
  """All particles have the same weight: the proposal is the posterior."""
  sampler = nvi.StateSpaceSampler(
    make_model(is_named, is_vector=is_named), proposal_fn='guided'
  )
  posterior = sampler.sample(X[:1], 50, seed=1, jit_compile=False)
  np.testing.assert_allclose(posterior.log_weights, exact(X[:1])[0], 1e-9)


@pytest.mark.parametrize('proposal_fn', ['guided', 'prior'])
def test_likelihood(proposal_fn):
  """The estimates are unbiased: a mean over a batch of the same sequence."""
  sampler = nvi.StateSpaceSampler(make_model(), proposal_fn=proposal_fn)
  x = np.tile(X, [100, 1])
  posterior = sampler.sample(x, 100, seed=1, jit_compile=False)
  log_z, last = exact(X)
  ratios = np.exp(posterior.log_normalizer - log_z)
  error = ratios.std(ddof=1) / 10.0
  assert abs(ratios.mean() - 1.0) < CRITICAL_Z * error
  if proposal_fn == 'guided':
    assert error < 0.01  # Without looking at the observation it is 0.025.
  means = posterior.expectation(lambda z: z['regime'][..., -1]).numpy()
  weighted = np.average(means, weights=ratios)
  error = np.std(ratios * (means - weighted)) / 10.0
  assert abs(weighted - last) < CRITICAL_Z * error + 1e-3


def test_smoothing_and_kernels():
  """Structured local states go through backward simulation and kernels."""
  sampler = nvi.StateSpaceSampler(make_model(), proposal_fn='guided')
  draws = nvi.smooth(sampler, X, 400, 400, jit_compile=False, seed=1)
  regime = draws.trajectories['regime'][:, -1].numpy()
  _, last = exact(X)
  error = np.sqrt(last * (1.0 - last) * (1.0 / 400.0 + 1.0 / 200.0))
  assert abs(regime.mean() - last) < CRITICAL_Z * error
  kernel = nvi.ConditionalFilter(sampler, X, num_particles=3)
  path, results = kernel.one_step(
    tf.nest.map_structure(lambda z: z[:7], draws.trajectories),
    kernel.bootstrap_results(draws.trajectories),
    seed=2,
  )
  assert path['level'].shape == [7, 4] and results.is_moved.shape == [4, 7]


def test_what_is_no_switching_model():
  assert switching.find_regimes(tfd.Normal(0.0, 1.0)) is None
  two_levels = tfd.JointDistributionSequential(
    [tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0)]
  )
  assert switching.find_regimes(two_levels) is None
  backwards = tfd.JointDistributionSequential(
    [
      tfd.Normal(0.0, 1.0),
      lambda level: tfd.Categorical(
        logits=tf.stack([level, tf.zeros_like(level)], axis=-1)
      ),
    ]
  )
  assert switching.find_regimes(backwards) is None
  # A list with the level first has no place for a regime before it.
  level_first = tfd.JointDistributionSequential(
    [tfd.Normal(0.0, 1.0), tfd.Categorical(probs=[0.5, 0.5])]
  )
  assert switching.find_regimes(level_first) is None


def test_lists_with_the_level_first_are_refused():
  model = nvi.StateSpaceModel(
    None,
    lambda: tfd.JointDistributionSequential(
      [tfd.Normal(0.0, 1.0), tfd.Categorical(probs=[0.5, 0.5])]
    ),
    lambda z: tfd.JointDistributionSequential(
      [
        tfd.Normal(z[0], 1.0),
        tfd.Categorical(logits=tf.stack([z[0], tf.zeros_like(z[0])], axis=-1)),
      ]
    ),
    lambda z: tfd.Normal(z[0], tf.gather([0.5, 2.0], z[1])),
  )
  with pytest.raises(ValueError, match='in a list in this order'):
    nvi.StateSpaceSampler(model, proposal_fn='guided')
  assert nvi.StateSpaceSampler(model).sample(X, 50, seed=1).num_nan == 0

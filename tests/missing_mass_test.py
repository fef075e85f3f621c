# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A sampler that has lost a mode says so, however even its weights are.

The target is half a Gaussian at -4 and half one at 4, so that the log
normalizer is zero, and log(1 / 2) without one of them.
"""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.internal import randomness
from tfp_nvi.training import coverage

tfd = tfp.distributions

# The modes of the target, and one Gaussian over both.
ONE_MODE, BOTH = (-4.0, 0.6), (0.0, 4.5)
SEED = randomness.as_seed(3)


def make_target():
  return tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.5, 0.5]), tfd.Normal([-4.0, 4.0], 0.5)
  )


def make_sampler(*kernels, prior_scale=3.0):
  """Draws by the Gaussians in a batch, whatever the state before."""
  loc, scale = (
    tf.constant(x if len(kernels) > 1 else x[0])
    for x in zip(*kernels, strict=True)
  )
  target = make_target()
  prior = tfd.Normal(tf.zeros_like(loc), prior_scale)
  path = nvi.GeometricPath(prior, target.log_prob, num_densities=2)
  step = tf.Variable(0.0)
  return nvi.NestedSampler(
    path,
    nvi.KernelPair(
      lambda y: tfd.Normal(loc + step + tf.zeros_like(y), scale),
      lambda z: tfd.Normal(tf.zeros_like(z), prior_scale),
    ),
  )


def fit(sampler, num_particles=500, num_steps=40):
  """Takes steps that change nothing, and returns the warnings."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', nvi.MissingMassWarning)
    history = nvi.fit(
      sampler,
      nvi.reverse_kl(),
      num_particles,
      num_steps,
      seed=1,
      optimizer=tf_keras.optimizers.SGD(0.0),
      progress=False,
    )
  return history, [
    w for w in caught if issubclass(w.category, nvi.MissingMassWarning)
  ]


def test_lost_mode_is_warned_of():
  history, (warning,) = fit(make_sampler(ONE_MODE))
  assert history.collapsed_levels == []
  assert np.median(history.effective_sample_size) > 400.0
  assert warning.filename == __file__
  assert 'the last steps of training -0.6' in str(warning.message)


def test_nothing_is_missing():
  _, found = fit(make_sampler(BOTH))
  assert not found


def test_member_of_a_batch():
  sampler = make_sampler(BOTH, ONE_MODE, BOTH)
  history, (warning,) = fit(sampler)
  assert 'members of the batch' not in str(warning.message)
  missing = coverage.find_missing_mass(sampler, history, SEED)
  assert missing.num_members == 1
  np.testing.assert_allclose(missing.found, np.log(0.5), atol=0.05)
  # False-alarm rate: 6e-5.
  assert abs(missing.expected) < 4.0 * missing.expected_error < 0.25


@pytest.mark.parametrize(
  'prior_scale, num_particles, num_steps',
  # A first density that hardly reaches the modes, too few effective draws, and
  # too few steps to judge.
  [(0.9, 500, 40), (3.0, 10, 40), (3.0, 2_000, 19)],
)
def test_what_cannot_be_seen(prior_scale, num_particles, num_steps):
  sampler = make_sampler(ONE_MODE, prior_scale=prior_scale)
  _, found = fit(sampler, num_particles, num_steps)
  assert not found


@pytest.mark.slow
def test_rate_of_false_alarms():
  # With four standard errors one alarm is false in 30,000, so that the test
  # fails by accident in 1,000; with one standard error every sixth would be.
  sampler = make_sampler(BOTH)
  history, _ = fit(sampler)
  found = [
    coverage.find_missing_mass(sampler, history, randomness.as_seed(seed))
    for seed in range(30)
  ]
  assert found == [None] * 30


def fit_with_scale(scale, size=8):
  """Importance sampling of a normal density, by one of another scale."""
  ones = tf.ones([size])
  normal = tfd.MultivariateNormalDiag(0.0 * ones, ones)
  step = tf.Variable(0.0)
  sampler = nvi.NestedSampler(
    nvi.ExplicitDensities([normal, normal]),
    nvi.KernelPair(
      lambda y: tfd.MultivariateNormalDiag(
        step + tf.zeros_like(y), scale * ones
      ),
      lambda z: tfd.MultivariateNormalDiag(tf.zeros_like(z), ones),
    ),
  )
  return fit(sampler, num_particles=100, num_steps=800)


def test_heavy_tails_are_warned_of():
  # The weights are s^8 exp((1 - s^2) u / 2), with u of a chi-squared
  # distribution with 8 degrees of freedom; for s = 0.4 their tail index is
  # 1 / (1 - s^2) = 1.19, and they have no variance. Of 200 steps one has a
  # tenth of the sum for 85% of the seeds.
  history, (warning,) = fit_with_scale(0.4)
  assert history.collapsed_levels == []
  assert 'seldom reaches some mass' in str(warning.message)
  # Most estimates are too low.
  assert np.mean(history.log_normalizer[-200:] < 0.0) > 0.9


def test_light_tails():
  # Weights are bounded, and as uneven.
  history, found = fit_with_scale(1.6)
  assert np.median(history.effective_sample_size) < 40.0
  assert not found


def test_rare_mass_of_log_normal_estimates():
  sampler = make_sampler(BOTH)
  history, _ = fit(sampler)
  rng = np.random.default_rng(1)

  def found(deviation, *batch_shape):
    steps = deviation * rng.normal(size=[800, *batch_shape])
    return coverage.find_rare_mass(
      sampler,
      history._replace(
        loss=np.zeros(steps.shape),
        log_normalizer=steps,
        is_skipped=np.zeros([800], bool),
      ),
    )

  # With a deviation of 0.7, an estimate of 20 times the mean is 4.6 deviations
  # away: a probability of 4e-4 for 200 of them.
  assert found(0.7) is None
  # With a deviation of three the greatest has much of the sum.
  num_steps, share = found(3.0)
  assert num_steps == 200 and 0.1 < share < 1.0
  # In a batch, half of the sum is 5.8 deviations away: a probability of 7e-5.
  assert found(1.0, 100) is None

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mistakes that other tests would let pass: shared seeds, missing weights.

Each test has the mistake beside it, and fails for it.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness
from tfp_nvi.objectives import level as level_lib

tfd, tfb = tfp.distributions, tfp.bijectors

SEED = randomness.as_seed(7)


class OneSeed(nvi.NestedSampler):
  """Rejects with the seed that it resamples with."""

  def _plan(self, level_seed, noise_seeds):
    return [
      segment._replace(
        seeds=tf.stack([segment.seeds[:, 0], segment.seeds[:, 0]], axis=1)
      )
      for segment in super()._plan(level_seed, noise_seeds)
    ]


def normalizer_score(sampler_class):
  """Standardized error of the mean of Z-hat, of many runs of two particles.

  The first of two particles that are resampled systematically is the first one
  of before if the common offset is below its weight. If the same number decides
  whether it is rejected, light particles are kept too often.
  """
  densities = nvi.ExplicitDensities(
    [
      tfd.Normal(0.0, 1.0),
      lambda x: tfd.Normal(0.0, 1.0).log_prob(x) + 1.5 * x,
      lambda x: tfd.Normal(0.0, 1.0).log_prob(x) + 0.5 * x,
    ]
  )
  sampler = sampler_class(
    densities,
    [nvi.BijectorTransition(tfb.Shift(0.0))] * 2,
    rejection_log_threshold_fn=lambda log_weights: nvi.log_normalizer(
      log_weights
    ),
  )
  log_weights = sampler.run(2, SEED, [200_000]).particles.log_weights
  # E[exp(x / 2)] for a standard normal x.
  estimates = np.mean(np.exp(log_weights), axis=0, dtype=np.float64)
  error = np.std(estimates, ddof=1) / np.sqrt(len(estimates))
  return abs(np.mean(estimates) - np.exp(0.125)) / error


def test_rejection_has_a_seed_of_its_own():
  # False-alarm rate: 6e-5.
  assert normalizer_score(nvi.NestedSampler) < 4.0
  assert normalizer_score(OneSeed) > 6.0


def make_sampler():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(2.0, 0.5), num_densities=4
  )
  return nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, [3], seed=1),
    resample_criterion_fn=nvi.never,
  )


@pytest.mark.parametrize(
  'objective',
  [nvi.iwae(), nvi.reverse_kl(), nvi.reverse_kl(level_by_level=True)],
  ids=['bound', 'divergence', 'level by level'],
)
def test_mean_log_incremental_weights_are_weighted(objective):
  sampler = make_sampler()
  estimate, _ = objective(sampler, 50, SEED)
  trace = sampler.trace(50, SEED, jit_compile=False)
  weights = np.exp(np.asarray(trace.log_weights[:-1], np.float64))
  weights /= np.sum(weights, axis=1, keepdims=True)
  expected = np.sum(weights * trace.log_incremental_weights, axis=1)
  np.testing.assert_allclose(
    estimate.log_incremental_weights, expected, rtol=1e-4
  )
  # Of all particles alike, it is another number.
  unweighted = np.mean(trace.log_incremental_weights, axis=1)
  assert np.all(np.abs(unweighted - expected)[1:] > 0.01)
  after = np.exp(np.asarray(trace.log_weights[1:], np.float64))
  np.testing.assert_allclose(
    estimate.level_effective_sample_sizes,
    np.sum(after, axis=1) ** 2 / np.sum(after**2, axis=1),
    rtol=1e-3,
  )


def test_mean_of_others():
  np.testing.assert_allclose(
    level_lib.mean_of_others(tf.constant([1.0, 2.0, 6.0])), [4.0, 3.5, 1.5]
  )
  np.testing.assert_array_equal(
    level_lib.mean_of_others(tf.constant([[3.0, 4.0]])), [[0.0, 0.0]]
  )


def test_composition_draws_with_a_seed_for_each_part():
  """The same with noise drawn level by level, and drawn ahead."""
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0), num_densities=3
  )
  transition = nvi.Composition(
    [nvi.GaussianTransitions(path, [3], seed=i) for i in range(2)]
  )
  ahead = transition.draw_noise([5], SEED)
  for level in range(2):
    first, second = transition.draw_level_noise([5], SEED, level)
    np.testing.assert_array_equal(first, ahead[0][level])
    np.testing.assert_array_equal(second, ahead[1][level])
    assert np.all(np.not_equal(first, second))


def test_control_variate_has_no_gradient_for_a_single_outlier():
  """A particle with all of the weight must not move its reverse kernel.

  Its factor without the control variate is the derivative of `u log u` at the
  number of particles, and pushes its reverse density down without an end.
  """
  num_particles = 16
  log_target = tf.one_hot(0, num_particles, on_value=0.0, off_value=-60.0)
  log_reverse = tf.Variable(tf.zeros([num_particles]))

  def gradient(baseline):
    with tf.GradientTape() as tape:
      zeros = tf.zeros([num_particles])
      move = nvi.Move(
        state=zeros,
        log_forward=zeros,
        log_reverse=tf.convert_to_tensor(log_reverse),
        log_reverse_fixed_states=tf.convert_to_tensor(log_reverse),
      )
      level = level_lib.estimate_level(
        level_lib.LevelTerms(
          move=move,
          log_target=log_target,
          log_target_fixed_state=log_target,
          log_source=zeros,
          log_weights=zeros,
          sample_gradients_fn=lambda: (),
        ),
        tfp.vi.kl_forward,
        nvi.Side.REVERSE,
        baseline=baseline,
      )
    return tape.gradient(level.surrogate, log_reverse).numpy()

  np.testing.assert_allclose(gradient(True), 0.0, atol=1e-5)
  np.testing.assert_allclose(
    gradient(False)[0], np.log(num_particles) + 1.0, rtol=1e-5
  )

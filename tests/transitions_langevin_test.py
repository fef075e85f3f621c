# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Langevin transitions, against closed forms on Gaussians."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness
from tfp_nvi.transitions import LangevinTransitions

tfd = tfp.distributions

LOC, SCALE = 0.5, 2.0
TARGET_LOC, TARGET_SCALE = 1.5, 0.8


def gaussian_path(num_densities=2):
  """From Normal(0.5, 2) to exp(1) Normal(1.5, 0.8), in one dimension."""
  as_vector = lambda x: tf.constant([x], tf.float64)  # noqa: E731
  target = tfd.MultivariateNormalDiag(
    as_vector(TARGET_LOC), as_vector(TARGET_SCALE)
  )
  return nvi.GeometricPath(
    tfd.MultivariateNormalDiag(as_vector(LOC), as_vector(SCALE)),
    lambda x: target.log_prob(x) + 1.0,
    num_densities=num_densities,
  )


def kernel(log_step, drift):
  """Slope, offset and deviation of the kernel in one dimension, by hand."""
  # In units of the reference the target is Normal(m, s), rho is quadratic.
  m, s = (TARGET_LOC - LOC) / SCALE, TARGET_SCALE / SCALE
  h = np.exp(log_step)
  a = np.exp(-h)
  slope = a + drift * (1.0 - a) * (1.0 - 1.0 / s**2)
  offset = drift * (1.0 - a) * m / s**2
  deviation = np.sqrt(1.0 - np.exp(-2.0 * h))
  # In units of the states.
  return slope, LOC + SCALE * offset - slope * LOC, SCALE * deviation


def test_kernels_are_the_closed_forms():
  path = gaussian_path()
  transitions = LangevinTransitions(
    path, loc=LOC, scale=SCALE, step=0.3, max_drift=None
  )
  for (log_step, drift), values in zip(
    transitions._variables, ((-1.0, 0.7), (-1.5, 1.2)), strict=True
  ):
    log_step.assign([[values[0]]])
    drift.assign([[values[1]]])
  y = tf.constant([[0.2], [-1.0], [3.0]], tf.float64)
  noise = tf.constant([[0.5], [-0.3], [1.1]], tf.float64)

  def log_prob(x):
    return path.log_prob(1, path.evaluate(1, x))

  move = transitions.propose(0, y, noise, log_prob)
  slope, offset, deviation = kernel(-1.0, 0.7)
  z = slope * y + offset + deviation * noise
  np.testing.assert_allclose(move[0], z, atol=1e-12)
  expected = scipy.stats.norm(slope * y + offset, deviation).logpdf(z)[:, 0]
  np.testing.assert_allclose(move[1], expected, atol=1e-12)
  slope, offset, deviation = kernel(-1.5, 1.2)
  expected = scipy.stats.norm(slope * z + offset, deviation).logpdf(y)[:, 0]
  np.testing.assert_allclose(move[2], expected, atol=1e-12)
  np.testing.assert_allclose(move[5], expected, atol=1e-12)


def test_the_reference_is_preserved():
  # Target and reference are the same: nothing that is proposed has a weight.
  reference = tfd.MultivariateNormalDiag(
    tf.constant([1.0, -2.0], tf.float64), tf.constant([0.5, 3.0], tf.float64)
  )
  path = nvi.GeometricPath(reference, reference, num_densities=4)
  transitions = LangevinTransitions(path, loc=[1.0, -2.0], scale=[0.5, 3.0])
  trace = nvi.NestedSampler(path, transitions).trace(50, seed=1)
  np.testing.assert_allclose(trace.log_incremental_weights, 0.0, atol=1e-12)
  # They do move.
  assert np.std(trace.particles[1] - trace.particles[0]) > 0.1


def test_weights_are_proper_for_structured_states():
  # Two parts, a bounded drift, steps as they are at the beginning.
  initial = tfd.JointDistributionNamed(
    {
      'a': tfd.Normal(0.0, 1.0),
      'b': tfd.MultivariateNormalDiag(tf.zeros(2), tf.ones(2)),
    }
  )

  def log_prob(value):
    # A scale mixture with a normalizer of two.
    a, b = value['a'], value['b']
    return (
      tfd.Normal(1.0, 0.7).log_prob(a)
      + tfd.MultivariateNormalDiag(-tf.ones(2), 0.8 * tf.ones(2)).log_prob(b)
      + np.log(2.0)
    )

  path = nvi.GeometricPath(initial, log_prob, num_densities=4)
  sampler = nvi.NestedSampler(path, LangevinTransitions(path, max_drift=1.0))
  particles = tf.function(lambda: sampler.sample(40_000, seed=3))()
  weights = np.exp(particles.log_weights)
  error = weights.std() / np.sqrt(40_000)
  # A false alarm in 10^5 for each of three numbers.
  assert abs(weights.mean() - 2.0) < 4.5 * error < 0.2
  for name, mean in (('a', 1.0), ('b', -1.0)):
    values = particles.particles[name].numpy().reshape([40_000, -1])[:, 0]
    product = weights * values
    error = product.std() / np.sqrt(40_000)
    assert abs(product.mean() - 2.0 * mean) < 4.5 * error


def joint_divergences(parameters):
  """KL divergences of the two joint densities of a level, both ways."""
  forward, reverse = kernel(*parameters[:2]), kernel(*parameters[2:])

  def joint(loc, scale, slope, offset, deviation):
    """Mean and covariance of (source, slope source + offset + noise)."""
    mean = np.array([loc, slope * loc + offset])
    cross = slope * scale**2
    covariance = np.array(
      [[scale**2, cross], [cross, slope * cross + deviation**2]]
    )
    return mean, covariance

  mean_p, cov_p = joint(LOC, SCALE, *forward)
  mean_q, cov_q = joint(TARGET_LOC, TARGET_SCALE, *reverse)
  mean_q, cov_q = mean_q[::-1], cov_q[::-1, ::-1]

  def kl(mean, cov, other_mean, other_cov):
    difference = other_mean - mean
    return 0.5 * (
      np.trace(np.linalg.solve(other_cov, cov))
      + difference @ np.linalg.solve(other_cov, difference)
      - 2.0
      + np.linalg.slogdet(other_cov)[1]
      - np.linalg.slogdet(cov)[1]
    )

  return kl(mean_p, cov_p, mean_q, cov_q), kl(mean_q, cov_q, mean_p, cov_p)


@pytest.mark.parametrize('objective_fn', [nvi.reverse_kl, nvi.forward_kl])
def test_gradients_are_those_of_the_divergence(objective_fn):
  path = gaussian_path()
  transitions = LangevinTransitions(
    path, loc=LOC, scale=SCALE, step=0.3, max_drift=None
  )
  values = np.array([-0.5, 0.6, -0.7, 0.8])
  variables = [x for pair in transitions._variables for x in pair]
  for variable, value in zip(variables, values, strict=True):
    variable.assign([[value]])
  sampler = nvi.NestedSampler(path, transitions)
  which = 0 if objective_fn is nvi.reverse_kl else 1

  def divergence(x):
    return joint_divergences(x)[which]

  exact = [
    (divergence(values + step) - divergence(values - step)) / 2e-5
    for step in 1e-5 * np.eye(4)
  ]
  objective = objective_fn(sides=nvi.Side.BOTH)

  @tf.function(autograph=False)
  def estimate(seed):
    return gradients_of(objective, sampler, seed, variables)

  estimates = np.array(
    [
      [float(g[0, 0]) for g in estimate(randomness.as_seed(i))]
      for i in range(100)
    ]
  )
  error = estimates.std(axis=0, ddof=1) / 10.0
  # Four and a half standard errors: a false alarm in 10^4 for eight numbers.
  assert np.all(np.abs(estimates.mean(axis=0) - exact) < 4.5 * error + 1e-3)
  # And small beside what they are to measure.
  assert np.all(error < 0.1 * np.max(np.abs(exact)))


def gradients_of(objective, sampler, seed, variables):
  """Gradients by some variables."""
  _, pairs = objective(sampler, 2_000, seed)
  found = {variable.ref(): gradient for gradient, variable in pairs}
  return [found[variable.ref()] for variable in variables]


def test_second_derivatives_that_are_not_finite():
  """One particle in twenty has them, and leaves the others their gradient."""

  def log_prob(x):
    x = x[..., 0]
    slope = x - tf.math.log(
      -tf.math.expm1(-tf.exp(tf.clip_by_value(x, -80.0, 2.0)))
    )
    return -0.5 * (x / 20.0) ** 2 + slope

  x = tf.constant([[-60.0]])
  with tf.GradientTape() as outer:
    outer.watch(x)
    with tf.GradientTape() as inner:
      inner.watch(x)
      value = log_prob(x)
    gradient = inner.gradient(value, x)
  assert np.isfinite(gradient).all()
  assert not np.isfinite(outer.gradient(gradient, x)).any()
  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag([0.0], [30.0]), log_prob, num_densities=3
  )
  sampler = nvi.NestedSampler(path, LangevinTransitions(path, scale=30.0))
  _, gradients = nvi.reverse_kl()(sampler, 200, tf.constant([0, 1]))
  assert len(gradients) == 4
  for gradient, _ in gradients:
    assert np.isfinite(gradient).all()
    assert np.all(gradient != 0.0)


def test_arguments_are_checked():
  path = gaussian_path()
  with pytest.raises(ValueError, match='`step`'):
    LangevinTransitions(path, step=0.0)
  with pytest.raises(TypeError, match='`max_drift`'):
    LangevinTransitions(path, max_drift='none')
  with pytest.raises(ValueError, match='`scale`'):
    LangevinTransitions(path, scale=-1.0)


def test_states_are_those_it_was_made_for():
  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag(tf.zeros([2]), tf.ones([2])),
    tfd.MultivariateNormalDiag(tf.ones([2]), tf.ones([2])),
    num_densities=3,
  )
  other = nvi.GeometricPath(
    tfd.MultivariateNormalDiag(tf.zeros([3]), tf.ones([3])),
    tfd.MultivariateNormalDiag(tf.ones([3]), tf.ones([3])),
    num_densities=3,
  )
  with pytest.raises(ValueError, match=r'event shape \(2,\)'):
    nvi.NestedSampler(other, LangevinTransitions(path))

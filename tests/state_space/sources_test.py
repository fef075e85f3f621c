# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of TensorFlow Probability have the same likelihood here."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

NUM_STEPS = 5


def double(x):
  return tf.constant(x, tf.float64)


def make(log_scale, initial_step=0):
  """Two states, two outputs, and parts that depend on the step."""
  scale = tf.exp(log_scale)[..., tf.newaxis]

  def matrix(t):
    share = 0.1 * tf.cast(t, tf.float64)
    return tf.linalg.LinearOperatorFullMatrix(
      [[0.9 - share, 0.2], [double(0.0), 0.7]]
    )

  return tfd.LinearGaussianStateSpaceModel(
    num_timesteps=NUM_STEPS,
    transition_matrix=matrix,
    transition_noise=tfd.MultivariateNormalDiag(
      loc=double([0.3, -0.2]), scale_diag=scale * double([0.5, 0.8])
    ),
    observation_matrix=double([[1.0, 0.5], [0.0, 1.0]]),
    observation_noise=lambda t: tfd.MultivariateNormalDiag(
      scale_diag=double([0.6, 0.4]) + 0.1 * tf.cast(t, tf.float64)
    ),
    initial_state_prior=tfd.MultivariateNormalDiag(
      double([1.0, 0.0]), double([0.5, 0.5])
    ),
    initial_step=initial_step,
  )


@pytest.mark.parametrize('initial_step', [0, 3])
@pytest.mark.parametrize('has_prior', [True, False])
def test_likelihood(has_prior, initial_step):
  source = functools.partial(make, initial_step=initial_step)
  if has_prior:
    model = nvi.linear_gaussian_model(
      source, prior=tfd.Normal(double(0.0), double(0.5))
    )
    scales = np.random.default_rng(1).normal(size=[4])
  else:
    model = nvi.linear_gaussian_model(lambda: source(double(0.2)))
    scales = np.array([0.2])
  x = np.random.default_rng(2).normal(size=[NUM_STEPS, 2])
  is_observed = np.array([True, False, True, True, True])
  rows = nvi.GaussianHeuristic(model, num_iterations=1).prepare(
    double(x), tf.constant(is_observed), double(scales) if has_prior else ()
  )
  expected = [
    source(double(scale)).log_prob(x, mask=np.logical_not(is_observed))
    for scale in scales
  ]
  np.testing.assert_allclose(rows['factor'][2][0], expected, rtol=1e-10)
  if has_prior:
    return
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=nvi.GaussianHeuristic(model, 1)
  )
  posterior = sampler.sample(
    x, 10, seed=1, is_observed=is_observed, jit_compile=False
  )
  np.testing.assert_allclose(
    posterior.log_normalizer_increments[1:], 0.0, atol=1e-9
  )


def test_structural_time_series():
  series = np.array([0.1, 0.5, 0.3, 0.9, 1.4], np.float32)
  source = tfp.sts.Sum(
    [tfp.sts.LocalLinearTrend(observed_time_series=series)],
    observed_time_series=series,
  )
  model = nvi.structural_time_series_model(source, num_steps=5)
  theta, _, x = model.simulate(5, [3], seed=1)
  # Of moderate size, as both filters are in single precision.
  theta = {name: tf.constant([0.3, 0.5, 0.8]) for name in theta}
  rows = nvi.GaussianHeuristic(model, num_iterations=1).prepare(
    x[0], None, theta
  )
  expected = source.make_state_space_model(5, theta).log_prob(x[0])
  np.testing.assert_allclose(
    rows['factor'][2][0], expected, rtol=1e-3, atol=1e-2
  )


def joint(steps):
  """A joint distribution over sequences whose parts have parents."""

  def chain(persistence, scale):
    return tfd.MarkovChain(
      tfd.Normal(tf.zeros_like(scale), 2.0 * scale),
      lambda t, z: tfd.Normal(
        persistence * z + 0.1 * tf.cast(t, tf.float64), scale
      ),
      num_steps=NUM_STEPS,
    )

  return tfd.JointDistributionNamed(
    {
      'persistence': tfd.Beta(double(20.0), double(1.5)),
      'scale': lambda persistence: tfd.LogNormal(persistence, double(0.5)),
      'level': chain,
      'series': lambda level, scale: tfd.Independent(
        tfd.Normal(steps(level), tf.exp(0.5 * level) * scale[..., None]), 1
      ),
    }
  )


def test_joint_distribution():
  """Draws have the same density in both."""
  source = joint(tf.identity)
  model = nvi.joint_distribution_model(source, 'level', 'series')
  assert model.has_gaussian_transitions
  # Without a batch, as the steps of a `tfd.MarkovChain` have none.
  value = source.sample(seed=1)
  theta = {name: value[name] for name in ('persistence', 'scale')}
  shape = tf.TensorShape([])
  z, x = value['level'], value['series']
  total = model.prior.log_prob(theta)
  total += model.initial(theta, 0, (), shape).log_prob(z[0])
  for t in range(NUM_STEPS):
    if t:
      kernel = model.transition(z[t - 1], theta, tf.constant(t), (), shape)
      total += kernel.log_prob(z[t])
    total += model.observation(z[t], theta, t, (), shape).log_prob(x[t])
  np.testing.assert_allclose(total, source.log_prob(value), 1e-10)


def test_joint_distribution_over_vectors():
  source = tfd.JointDistributionNamed(
    {
      'level': tfd.MarkovChain(
        tfd.MultivariateNormalDiag(scale_diag=[1.0, 1.0]),
        lambda t, z: tfd.MultivariateNormalDiag(z, [0.5, 0.5]),
        num_steps=4,
      ),
      'series': lambda level: tfd.Independent(tfd.Normal(level, 0.3), 2),
    }
  )
  model = nvi.joint_distribution_model(source, 'level', 'series')
  theta, z, x = model.simulate(7, [3], seed=1)
  assert theta == () and z.shape == x.shape == [3, 7, 2]


def test_joint_distributions_that_cannot_be_sources():
  source = joint(tf.cumsum)
  with pytest.raises(ValueError, match="depend on the step of 'level' alone"):
    nvi.joint_distribution_model(source, 'level', 'series')
  with pytest.raises(ValueError, match='`local` must be the name of a part'):
    nvi.joint_distribution_model(source, 'levels', 'series')
  with pytest.raises(ValueError, match="'series' that does not depend|'scale'"):
    nvi.joint_distribution_model(source, 'persistence', 'level')
  with pytest.raises(TypeError, match='`joint` must be a tfd.JointDistri'):
    nvi.joint_distribution_model(tfd.Normal(0.0, 1.0), 'level', 'series')


def test_what_cannot_be_a_source():
  series = np.array([0.1, 0.5, 0.3, 0.9, 1.4], np.float32)
  seasonal = tfp.sts.Seasonal(num_seasons=3, observed_time_series=series)
  with pytest.raises(ValueError, match='transition noise has a density'):
    nvi.structural_time_series_model(seasonal, num_steps=5)
  with pytest.raises(TypeError, match='`source` must be a tfp.sts'):
    nvi.structural_time_series_model(3, num_steps=5)
  with pytest.raises(TypeError, match='`make_fn` must be a callable that ret'):
    nvi.linear_gaussian_model(lambda: tfd.Normal(0.0, 1.0))

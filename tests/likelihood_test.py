# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Log likelihoods by a long sampler, for a model that has them in closed form.

A deep linear model with Gaussian noise, which is probabilistic PCA with two
layers:

```none
z_2 ~ N(0, I_2),  z_1 | z_2 ~ N(A z_2, S_1),  x | z_1 ~ N(B z_1 + b, s^2 I)
x ~ N(b, B (A A' + S_1) B' + s^2 I)
```

False alarms: seeds are fixed, so that a test passes or fails for good. Over
seeds, a comparison at 4 standard errors rejects a correct estimate with a
probability of 6e-5.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import likelihood

tfd = tfp.distributions

NUM_OBSERVATIONS = 60
A = np.array([[1.0, 0.5], [-0.5, 0.8], [0.3, -1.0]], np.float32)
B = np.array(
  [[0.6, 0.2, -0.4], [-0.3, 0.9, 0.1], [0.5, 0.5, 0.2], [0.1, -0.7, 0.8]],
  np.float32,
)
OFFSET = np.array([0.1, -0.2, 0.0, 0.3], np.float32)
SCALE_1, SCALE_X = 0.5, 0.6


def affine(matrix, z):
  """`matrix z` for a batch of vectors."""
  return tf.linalg.matvec(tf.constant(matrix), z)


def log_joint(z, x):
  z_1, z_2 = tf.split(z, [3, 2], axis=-1)
  return (
    tfd.MultivariateNormalDiag(tf.zeros([2])).log_prob(z_2)
    + tfd.Independent(tfd.Normal(affine(A, z_2), SCALE_1), 1).log_prob(z_1)
    + tfd.Independent(tfd.Normal(affine(B, z_1) + OFFSET, SCALE_X), 1).log_prob(
      x
    )
  )


def infer(x):
  """A recognition model that is not exact: of independent latents."""
  z_1 = 0.8 * affine(B.T, x - OFFSET)
  z_2 = 0.4 * affine(A.T, z_1)
  return tfd.MultivariateNormalDiag(
    tf.concat([z_1, z_2], axis=-1), tf.fill([5], 0.7)
  )


def exact_log_likelihoods(x):
  covariance = B @ (A @ A.T + SCALE_1**2 * np.eye(3)) @ B.T
  covariance += SCALE_X**2 * np.eye(4)
  return tfd.MultivariateNormalFullCovariance(
    OFFSET.astype(np.float64), covariance
  ).log_prob(x.astype(np.float64))


@pytest.fixture(scope='module')
def observations():
  random = np.random.default_rng(0)
  z_2 = random.normal(size=[NUM_OBSERVATIONS, 2])
  z_1 = z_2 @ A.T + SCALE_1 * random.normal(size=[NUM_OBSERVATIONS, 3])
  x = z_1 @ B.T + OFFSET + SCALE_X * random.normal(size=[NUM_OBSERVATIONS, 4])
  return x.astype(np.float32)


def estimate(x, **kwargs):
  arguments = {
    'num_particles': 64,
    'num_densities': 12,
    'batch_size': 40,
    'jit_compile': False,
    'seed': 1,
    **kwargs,
  }
  return nvi.log_likelihood(x, infer, log_joint, **arguments)


def check(result, x):
  """Checks estimates and their errors against the closed form."""
  deviations = result.estimates - exact_log_likelihoods(x).numpy()
  # The logarithm of an unbiased estimate is too low by half of its relative
  # variance, to second order.
  bias = -0.5 * np.mean(result.errors**2)
  assert result.mean_error < 0.02
  assert abs(np.mean(deviations) - bias) < 4.0 * result.mean_error
  # Deviations in units of their errors: a mean square of one, with a standard
  # error of sqrt(2 / 60) = 0.18 were they normal.
  ratio = np.mean((deviations / result.errors) ** 2)
  assert 0.4 < ratio < 1.8


@pytest.fixture(scope='module')
def long(observations):
  return estimate(observations)


def test_closed_form(long, observations):
  check(long, observations)


def test_importance_sampling(long, observations):
  result = estimate(observations, num_densities=2, num_particles=4_000)
  check(result, observations)
  # From as many particles, the long sampler has smaller errors.
  short = estimate(observations, num_densities=2)
  assert np.mean(long.errors) < 0.5 * np.mean(short.errors)


class _Lossy(nvi.MCMCTransition):
  """Moves that do not leave the density invariant."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(
      state=tf.nest.map_structure(lambda z: 0.95 * z, move.state)
    )


class _Warmer(nvi.GeometricPath):
  """A path that ends short of the target."""

  @property
  def schedule(self):
    return 0.98 * super().schedule


@pytest.mark.parametrize(
  ('name', 'mutant'),
  [('MCMCTransition', _Lossy), ('GeometricPath', _Warmer)],
)
def test_mutants_fail(name, mutant, observations, monkeypatch):
  monkeypatch.setattr(likelihood, name, mutant)
  with pytest.raises(AssertionError):
    check(estimate(observations), observations)


def test_last_batch_is_filled_up(observations):
  # 60 observations in batches of 40: the second one has 20 of its own.
  whole = estimate(observations, num_densities=2)
  first = estimate(observations[:40], num_densities=2)
  np.testing.assert_allclose(first.estimates, whole.estimates[:40], rtol=1e-5)
  assert whole.estimates.shape == whole.errors.shape == (NUM_OBSERVATIONS,)


def test_bounds_are_in_order(observations):
  # ELBO <= IWAE <= log likelihood, means over draws; the ELBO has a closed
  # form too: less by KL(q || posterior), here from the long sampler's own
  # log likelihoods, whose error is 0.02.
  x = tf.constant(observations)
  level = nvi.Level(infer(x), lambda z: log_joint(z, x), [])
  bounds = {}
  for name, objective, num_particles in (
    ('svi', nvi.svi(), 1),
    ('iwae', nvi.iwae(), 10),
  ):
    losses = [
      objective(nvi.Chain([level]), num_particles, tf.constant([1, i]))[0].loss
      for i in range(20)
    ]
    losses = np.array(losses) / NUM_OBSERVATIONS
    bounds[name] = -np.mean(losses), np.std(losses) / np.sqrt(len(losses))
  exact = float(np.mean(exact_log_likelihoods(observations)))
  (elbo, elbo_error), (iwae, iwae_error) = bounds['svi'], bounds['iwae']
  assert iwae - elbo > 4.0 * np.hypot(elbo_error, iwae_error)
  assert exact - iwae > 4.0 * iwae_error
  particles = infer(x).sample(2_000, seed=tf.constant([3, 4]))
  terms = log_joint(particles, x) - infer(x).log_prob(particles)
  assert abs(elbo - np.mean(terms)) < 4.0 * elbo_error + 0.01


def test_structured_observations():
  # log N(x; 0, 1 + s^2), of observations with scales of their own.
  x = {
    'x': np.array([0.5, -1.0, 2.0], np.float32),
    'scale': np.array([0.5, 1.0, 2.0], np.float32),
  }
  result = nvi.log_likelihood(
    x,
    lambda x: tfd.Normal(0.5 * x['x'], 0.9),
    lambda z, x: (
      tfd.Normal(0.0, 1.0).log_prob(z)
      + tfd.Normal(z, x['scale']).log_prob(x['x'])
    ),
    num_particles=2_000,
    num_densities=2,
    batch_size=2,
    seed=1,
  )
  # Compiled by XLA, unlike the others here.
  expected = tfd.Normal(0.0, np.sqrt(1.0 + x['scale'] ** 2)).log_prob(x['x'])
  assert np.all(np.abs(result.estimates - expected) < 4.0 * result.errors)


class TestErrors:
  """Errors name the argument."""

  @pytest.mark.parametrize(
    ('arguments', 'error', 'problem'),
    [
      (
        {'num_particles': 1},
        ValueError,
        '`num_particles` .* at least 2; got 1',
      ),
      (
        {'num_densities': 1},
        ValueError,
        '`num_densities` .* at least 2; got 1',
      ),
      ({'step_size': 0.0}, ValueError, '`step_size` must be positive'),
      ({'num_leapfrog_steps': 0}, ValueError, '`num_leapfrog_steps` must be'),
      ({'batch_size': 2.5}, TypeError, '`batch_size` must be a positive'),
    ],
  )
  def test_numbers(self, arguments, error, problem, observations):
    with pytest.raises(error, match=problem):
      estimate(observations, **arguments)

  @pytest.mark.parametrize(
    ('bad', 'problem'),
    [
      ([], 'arrays with a first axis; got no arrays'),
      (1.0, 'at least one observation; got the shapes'),
      (np.zeros([0, 4], np.float32), 'at least one observation'),
      ({'x': np.zeros([2]), 'y': np.zeros([3])}, 'of the same size'),
    ],
  )
  def test_observations(self, bad, problem):
    with pytest.raises(ValueError, match=f'`observations` must be .*{problem}'):
      estimate(bad)

  def test_functions(self, observations):
    with pytest.raises(TypeError, match='`proposal_fn` must be callable'):
      nvi.log_likelihood(observations, 3, log_joint)
    with pytest.raises(TypeError, match='`log_joint_fn` must be callable'):
      nvi.log_likelihood(observations, infer, None)
    with pytest.raises(TypeError, match='`proposal_fn` must be .* tfd.Distrib'):
      nvi.log_likelihood(observations, lambda x: x, log_joint)
    with pytest.raises(ValueError, match='`log_joint_fn` must return a log'):
      nvi.log_likelihood(
        observations,
        infer,
        lambda z, x: tf.reduce_sum(log_joint(z, x)),
        num_densities=2,
      )

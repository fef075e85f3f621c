# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Smoothers and Markov kernels agree with the Kalman smoother.

A kernel that leaves the posterior as it is does so whatever the number of its
particles: chains that start from exact draws of the posterior must have its
moments after some steps with two or three particles. Backward simulation is
from the posterior in the limit of many particles; its bias, of the order of one
in the number of particles, is far below the tolerance.

False alarms: seeds are fixed. Means of thousands of independent chains must be
within 5 standard errors; over seeds, a correct kernel would be rejected in one
comparison with a probability of 6e-7, and there are less than 100 of them.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import history as history_lib
from tfp_nvi.state_space import kernels

tfd = tfp.distributions

CRITICAL_Z = 5.0
SLOPE, STEP, NOISE, FIRST, DRIFT = 0.8, 0.5, 0.6, 0.9, 0.7
X = np.array([0.3, 1.2, np.nan, 1.4, 2.0])
IS_OBSERVED = np.isfinite(X)
NUM_STEPS = len(X)


def double(x):
  return tf.constant(x, tf.float64)


def drift_model(has_prior):
  return nvi.StateSpaceModel(
    prior=tfd.Normal(double(0.0), double(DRIFT)) if has_prior else None,
    initial_fn=(lambda drift: tfd.Normal(drift, double(FIRST)))
    if has_prior
    else lambda: tfd.Normal(double(0.4), double(FIRST)),
    transition_fn=(lambda z, drift: tfd.Normal(SLOPE * z + drift, double(STEP)))
    if has_prior
    else lambda z: tfd.Normal(SLOPE * z + 0.4, double(STEP)),
    observation_fn=lambda z: tfd.Normal(z, double(NOISE)),
  )


def exact(has_prior):
  """The posterior of the drift, if it is unknown, and of all states."""
  size = NUM_STEPS + 1
  variance = DRIFT**2 if has_prior else 0.0
  # All variables are linear in the drift and the noise of the steps.
  basis = np.zeros([size, size])
  basis[0, 0] = np.sqrt(variance)
  mean = np.zeros(size)
  mean[0] = 0.0 if has_prior else 0.4
  for t in range(NUM_STEPS):
    before, mean_before = (
      (np.zeros(size), 0.0) if t == 0 else (basis[t], mean[t])
    )
    basis[t + 1] = SLOPE * before + basis[0]
    basis[t + 1, t + 1] = FIRST if t == 0 else STEP
    mean[t + 1] = SLOPE * mean_before + mean[0]
  covariance = basis @ basis.T
  observed = 1 + np.flatnonzero(IS_OBSERVED)
  spread = covariance[np.ix_(observed, observed)]
  spread = spread + NOISE**2 * np.eye(len(observed))
  gain = np.linalg.solve(spread, covariance[observed]).T
  mean = mean + gain @ (X[IS_OBSERVED] - mean[observed])
  return mean, covariance - gain @ covariance[observed]


def assert_moments(values, mean, covariance):
  """First and second moments of independent rows."""
  moments = np.concatenate(
    [values, values**2, values[:, 1:] * values[:, :-1]], axis=1
  )
  second = np.diag(covariance) + mean**2
  products = np.diag(covariance, 1) + mean[1:] * mean[:-1]
  expected = np.concatenate([mean, second, products])
  error = np.std(moments, axis=0, ddof=1) / np.sqrt(len(moments))
  z = (np.mean(moments, axis=0) - expected) / np.maximum(error, 1e-9)
  assert np.max(np.abs(z)) < CRITICAL_Z, z


def draw_exact(has_prior, num_draws, seed=1):
  mean, covariance = exact(has_prior)
  random = np.random.default_rng(seed)
  return random.multivariate_normal(mean, covariance, size=num_draws)


def run_kernel(kernel, state, num_steps, seed=2):
  """The state of chains after some steps."""

  @tf.function(jit_compile=True, autograph=False)
  def run(state):
    _, state, results = tf.while_loop(
      lambda i, *_: i < num_steps,
      lambda i, state, results: (
        i + 1,
        *kernel.one_step(state, results, tf.stack([seed, i])),
      ),
      (tf.constant(0), state, kernel.bootstrap_results(state)),
      maximum_iterations=num_steps,
    )
    return state, results

  return run(state)


@pytest.mark.parametrize('proposal_fn', ['prior', 'guided'])
def test_conditional_filter(proposal_fn):
  sampler = nvi.StateSpaceSampler(drift_model(False), proposal_fn=proposal_fn)
  kernel = nvi.ConditionalFilter(sampler, X, 3, is_observed=IS_OBSERVED)
  start = draw_exact(False, 20_000)[:, 1:]
  z, results = run_kernel(kernel, tf.constant(start), 2)
  mean, covariance = exact(False)
  assert_moments(z.numpy(), mean[1:], covariance[1:, 1:])
  # The trajectories do move, early states too.
  assert np.all(np.mean(results.is_moved, axis=1) > 0.4)


def test_conditional_filter_forgets_what_is_not_observed():
  """Steps that are not observed are proposed by the prior."""
  sampler = nvi.StateSpaceSampler(drift_model(False), proposal_fn='guided')
  start = tf.constant(draw_exact(False, 100)[:, 1:])
  paths = []
  for value in (0.0, 1e3):
    x = np.where(IS_OBSERVED, X, value)
    kernel = nvi.ConditionalFilter(sampler, x, 3, is_observed=IS_OBSERVED)
    path, results = run_kernel(kernel, start, 2)
    assert np.all(np.mean(results.is_moved, axis=1) > 0.3)
    paths.append(path)
  np.testing.assert_array_equal(*paths)


def test_conditional_filter_with_global_states():
  sampler = nvi.StateSpaceSampler(drift_model(True), proposal_fn='guided')
  start = draw_exact(True, 20_000)
  kernel = nvi.ConditionalFilter(
    sampler,
    X,
    3,
    global_state=tf.constant(start[:, 0]),
    is_observed=IS_OBSERVED,
  )
  z, _ = run_kernel(kernel, tf.constant(start[:, 1:]), 2)
  values = np.concatenate([start[:, :1], z], axis=1)
  assert_moments(values, *exact(True))


def keep_ancestor(monkeypatch):
  """The ancestor of the path is drawn without a look at the path."""

  def ancestors(self, t, z, log_weights, path, shape, seed):
    del self, t, z, path
    return history_lib.draw_index(log_weights, seed, shape[0])

  monkeypatch.setattr(kernels.ConditionalFilter, '_ancestors', ancestors)


def forget_path(monkeypatch):
  """No particle follows the path."""
  original = kernels.ConditionalFilter._propose

  def propose(self, t, before, path, shape, seed):
    z, log_weights = original(self, t, before, path, shape, seed)
    return tf.concat([z[:-1], z[:1]], axis=0), log_weights

  monkeypatch.setattr(kernels.ConditionalFilter, '_propose', propose)


@pytest.mark.parametrize('mutate', [keep_ancestor, forget_path])
def test_mutations_of_the_conditional_filter(mutate, monkeypatch):
  mutate(monkeypatch)
  with pytest.raises(AssertionError):
    test_conditional_filter('prior')


ARGUMENTS = {
  'guided': dict(proposal_fn='guided'),
  'heuristic': dict(proposal_fn='heuristic', heuristic=True),
}


@pytest.mark.parametrize(
  'name', [pytest.param('guided', marks=pytest.mark.slow), 'heuristic']
)
def test_particle_metropolis(name):
  """The drift, from estimates with few particles, or exact ones."""
  model, arguments = drift_model(True), dict(ARGUMENTS[name])
  if arguments.get('heuristic'):
    arguments['heuristic'] = nvi.GaussianHeuristic(model, 1)
  sampler = nvi.StateSpaceSampler(model, **arguments)
  kernel = nvi.ParticleMetropolis(sampler, X, 4, 1.0, is_observed=IS_OBSERVED)
  mean, covariance = exact(True)
  # From the prior: the chains find the posterior.
  start = tf.constant(
    np.random.default_rng(1).normal(size=[4_000]) * DRIFT, tf.float64
  )
  drift, results = run_kernel(kernel, start, 30)
  assert np.mean(results.is_accepted) > 0.2
  drift = drift.numpy()
  for value, expected in (
    (drift, mean[0]),
    (drift**2, covariance[0, 0] + mean[0] ** 2),
  ):
    error = np.std(value) / np.sqrt(len(value))
    assert abs(np.mean(value) - expected) < CRITICAL_Z * error


@pytest.mark.parametrize('kind', ['metropolis', 'filter'])
def test_steps_of_a_traced_loop_differ_without_a_seed(kind):
  """Each step has noise of its own, though the loop is traced once."""
  sampler = nvi.StateSpaceSampler(drift_model(kind == 'metropolis'))
  if kind == 'metropolis':
    kernel = nvi.ParticleMetropolis(sampler, X, 4, is_observed=IS_OBSERVED)
    start = tf.zeros([50], tf.float64)
  else:
    kernel = nvi.ConditionalFilter(sampler, X, 4, is_observed=IS_OBSERVED)
    start = tf.zeros([50, len(X)], tf.float64)

  @tf.function(autograph=False)
  def run():
    return tfp.mcmc.sample_chain(
      3,
      start,
      kernel=kernel,
      trace_fn=lambda state, results: results.seed,
    )

  _, seeds = run()
  assert len({tuple(seed) for seed in seeds.numpy()}) == 3


@pytest.mark.parametrize(
  'has_prior', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_backward_simulation(has_prior):
  sampler = nvi.StateSpaceSampler(drift_model(has_prior), proposal_fn='guided')
  draws = nvi.smooth(
    sampler,
    X,
    num_draws=2_000,
    num_particles=300,
    num_global=20_000,
    is_observed=IS_OBSERVED,
    seed=1,
  )
  mean, covariance = exact(has_prior)
  z = draws.trajectories.numpy()
  assert z.shape == (2_000, NUM_STEPS)
  # Draws of one filter share its error, which is that of 300 particles.
  spread = np.sqrt(np.diag(covariance))[1:]
  error = spread / np.sqrt(2_000 if has_prior else 300)
  assert np.all(np.abs(z.mean(0) - mean[1:]) < CRITICAL_Z * error)
  np.testing.assert_allclose(z.std(0), spread, rtol=0.25)
  lag = np.mean((z - z.mean(0))[:, 1:] * (z - z.mean(0))[:, :-1], axis=0)
  np.testing.assert_allclose(
    lag, np.diag(covariance[1:, 1:], 1), atol=0.25 * spread.max() ** 2
  )
  if has_prior:
    drift = draws.global_state.numpy()
    assert abs(drift.mean() - mean[0]) < 0.1 * np.sqrt(covariance[0, 0])


def test_filter_history():
  """Filtered means and log scores are those of a Kalman filter."""
  sampler = nvi.StateSpaceSampler(drift_model(False), proposal_fn='guided')
  posterior = sampler.sample(
    X, 50_000, seed=1, is_observed=IS_OBSERVED, history=True
  )
  mean, variance, total, means, scores = 0.0, 0.0, 0.0, [], []
  for t, x in enumerate(X):
    mean = 0.4 + (SLOPE * mean if t else 0.0)
    variance = STEP**2 + SLOPE**2 * variance if t else FIRST**2
    scores.append(0.0)
    if IS_OBSERVED[t]:
      spread = variance + NOISE**2
      scores[-1] = -0.5 * (
        (x - mean) ** 2 / spread + np.log(2.0 * np.pi * spread)
      )
      gain = variance / spread
      mean, variance = mean + gain * (x - mean), variance * (1.0 - gain)
    means.append(mean)
    total += scores[-1]
  np.testing.assert_allclose(
    posterior.history.expectation(lambda z: z), means, atol=0.02
  )
  np.testing.assert_allclose(posterior.history.log_scores, scores, atol=0.02)
  assert abs(posterior.log_normalizer - total) < 0.02


@pytest.mark.slow
def test_history_does_not_depend_on_a_heuristic():
  """Whose factor is divided out."""
  model = drift_model(False)
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=nvi.GaussianHeuristic(model)
  )
  plain = nvi.StateSpaceSampler(model, proposal_fn='guided')
  ours, theirs = (
    s.sample(X, 50_000, seed=1, is_observed=IS_OBSERVED, history=True).history
    for s in (sampler, plain)
  )
  np.testing.assert_allclose(ours.log_scores, theirs.log_scores, atol=0.05)


def test_prediction():
  """The steps to come, of a linear-Gaussian model and one that names `t`."""
  posterior = nvi.StateSpaceSampler(drift_model(True)).sample(
    X, 20_000, seed=1, is_observed=IS_OBSERVED
  )
  drift, z, x = posterior.predict(2, num_draws=20_000, seed=2)
  mean, covariance = exact(True)
  assert drift.shape == [20_000] and z.shape == x.shape == [20_000, 2]
  next_mean = SLOPE * mean[-1] + mean[0]
  weights = np.array([1.0] + [0.0] * (NUM_STEPS - 1) + [SLOPE])
  variance = weights @ covariance @ weights + STEP**2
  error = 3.0 * np.sqrt(variance / 2_000)
  assert abs(np.mean(z[:, 0]) - next_mean) < error
  assert abs(np.std(z[:, 0]) - np.sqrt(variance)) < error
  second = SLOPE * next_mean + mean[0]
  assert abs(np.mean(x[:, 1]) - second) < 2.0 * error

  counting = nvi.StateSpaceModel(
    None,
    lambda: tfd.Deterministic(0.0),
    lambda z, t: tfd.Deterministic(tf.cast(t, tf.float32) + 0.0 * z),
    lambda z: tfd.Normal(z, 1.0),
  )
  posterior = nvi.StateSpaceSampler(counting).sample([0.0, 1.0, 2.0], 5, seed=1)
  _, z, _ = posterior.predict(3, num_draws=2, seed=2)
  np.testing.assert_array_equal(z[0], [3.0, 4.0, 5.0])


def test_bad_arguments():
  sampler = nvi.StateSpaceSampler(drift_model(True))
  plain = nvi.StateSpaceSampler(drift_model(False))
  with pytest.raises(ValueError, match='`sampler` must be of a model with a'):
    nvi.ParticleMetropolis(plain, X)
  with pytest.raises(ValueError, match='`global_state` must be given if'):
    nvi.ConditionalFilter(sampler, X, is_observed=IS_OBSERVED)
  with pytest.raises(ValueError, match='`num_particles` must be at least 2'):
    nvi.ConditionalFilter(plain, X, 1, is_observed=IS_OBSERVED)
  with pytest.raises(ValueError, match='`observations` must be one sequence'):
    nvi.smooth(plain, np.zeros([2, 3]))
  with pytest.raises(TypeError, match='`jit_compile` must be a Python bool'):
    nvi.smooth(plain, X, is_observed=IS_OBSERVED, jit_compile='no')
  posterior = plain.sample([1.0, 2.0], 5, seed=1, trajectories=False)
  with pytest.raises(ValueError, match='`predict` needs the posterior'):
    posterior.predict(3)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""SMC^2 agrees with a Kalman filter that has the drift as a state.

Estimates are means of independent runs, compared within 5 of their standard
errors: a correct sampler would be rejected over seeds with a probability of
less than 1e-4, as the errors themselves are estimated from 12 runs.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import kernels

tfd = tfp.distributions

SLOPE, STEP, NOISE, FIRST, DRIFT = 0.8, 0.5, 0.6, 0.9, 1.5
X = np.array([1.3, 2.2, 3.0, 3.4, 4.0, 4.7, 5.0, 5.1])
NUM_RUNS = 12


def double(x):
  return tf.constant(x, tf.float64)


def make_sampler():
  model = nvi.StateSpaceModel(
    prior=tfd.Normal(double(0.0), double(DRIFT)),
    initial_fn=lambda drift: tfd.Normal(drift, double(FIRST)),
    transition_fn=lambda z, drift: tfd.Normal(SLOPE * z + drift, double(STEP)),
    observation_fn=lambda z: tfd.Normal(z, double(NOISE)),
  )
  return nvi.StateSpaceSampler(model, proposal_fn='guided')


def exact():
  """Log scores, and the posterior mean of the drift."""
  move = np.array([[SLOPE, 1.0], [0.0, 1.0]])
  mean = np.zeros(2)
  covariance = DRIFT**2 * np.ones([2, 2]) + np.diag([FIRST**2, 0.0])
  scores = []
  for t, x in enumerate(X):
    if t:
      mean = move @ mean
      covariance = move @ covariance @ move.T + np.diag([STEP**2, 0.0])
    spread = covariance[0, 0] + NOISE**2
    error = x - mean[0]
    scores.append(-0.5 * (error**2 / spread + np.log(2.0 * np.pi * spread)))
    gain = covariance[:, 0] / spread
    mean = mean + gain * error
    covariance = covariance - np.outer(gain, covariance[0])
  return np.array(scores), mean[1]


def check():
  sampler = make_sampler()
  runs = [nvi.smc_squared(sampler, X, 100, 20, seed=i) for i in range(NUM_RUNS)]
  assert all(len(run.move_steps) >= 1 for run in runs)
  for run in runs:
    # Resampling and moves preserve the weight of all particles together.
    np.testing.assert_allclose(
      run.particles.log_normalizer, run.log_normalizer, rtol=1e-9
    )
    assert run.particles.num_ancestors < 100
  scores, drift = exact()
  ratios = np.exp([run.log_normalizer - scores.sum() for run in runs])
  drifts = [float(run.particles.expectation()) for run in runs]
  for values, expected in ((ratios, 1.0), (drifts, drift)):
    error = np.std(values, ddof=1) / np.sqrt(NUM_RUNS)
    assert abs(np.mean(values) - expected) < 5.0 * error
    assert error < 0.15
  mean_scores = np.mean([run.log_scores for run in runs], axis=0)
  np.testing.assert_allclose(mean_scores, scores, atol=0.25)


def test_smc_squared():
  check()


def test_mutation(monkeypatch):
  """Moves that leave the prior as it is, not the posterior so far."""
  original = kernels.metropolis
  monkeypatch.setattr(
    kernels,
    'metropolis',
    lambda space, scale, estimate_fn, log_likelihood_of, *rest: original(
      space, scale, estimate_fn, lambda x: 0.0 * log_likelihood_of(x), *rest
    ),
  )
  with pytest.raises(AssertionError):
    check()


def test_bad_arguments():
  plain = nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, 1.0),
    lambda z: tfd.Normal(z, 1.0),
    lambda z: tfd.Normal(z, 1.0),
  )
  with pytest.raises(ValueError, match='must be of a model with a prior'):
    nvi.smc_squared(nvi.StateSpaceSampler(plain), X)
  model = nvi.StateSpaceModel(
    tfd.Normal(0.0, 1.0),
    lambda drift: tfd.Normal(drift, 1.0),
    lambda z, drift: tfd.Normal(z + drift, 1.0),
    lambda z, drift: tfd.Normal(z, 1.0),
  )
  with pytest.raises(TypeError, match='`jit_compile` must be a Python bool'):
    nvi.smc_squared(nvi.StateSpaceSampler(model), X, jit_compile='no')

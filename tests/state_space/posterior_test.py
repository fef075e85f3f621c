# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors that a run reports agree with the spread of many runs.

A deviation that is estimated from 100 independent runs has a relative standard
error of 7%, so that a ratio of predicted to observed within a factor of 1.5 is
tested with room for five of these.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import posterior as posterior_lib

tfd = tfp.distributions

NUM_RUNS = 100
FACTOR = 1.5


def drifting(**arguments):
  """A linear-Gaussian model with an unknown global state."""
  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 0.7),
    initial_fn=lambda drift: tfd.Normal(drift, 0.9),
    transition_fn=lambda z, drift: tfd.Normal(0.8 * z + drift, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.6),
  )
  return nvi.StateSpaceSampler(model, **arguments)


SAMPLERS = {
  'always': {},
  'never': dict(resample_criterion_fn=nvi.never),
  'ess below': dict(
    resample_criterion_fn=nvi.ess_below(0.5),
    heuristic=nvi.IndependentHeuristic(lambda d: tfd.Normal(2.0 * d, 3.0)),
  ),
}


def moments(drift, z):
  return {'drift': drift, 'square': drift**2, 'last': z[..., -1]}


@pytest.fixture(scope='module')
def runs():
  """Independent runs on one sequence, as members of a batch."""
  x = np.array([0.3, 1.2, 0.5, 1.4, 2.0, 1.7], np.float32)

  def run(name):
    return drifting(**SAMPLERS[name]).sample(
      np.broadcast_to(x, (NUM_RUNS, len(x))), 1_000, seed=3, jit_compile=False
    )

  return {name: run(name) for name in SAMPLERS}


def assert_predicts(predicted, observed):
  """Root mean square of the predicted errors, and a standard deviation."""
  ratio = np.sqrt(np.mean(np.square(predicted))) / np.std(observed, ddof=1)
  assert 1.0 / FACTOR < ratio < FACTOR, ratio


@pytest.mark.parametrize('name', SAMPLERS)
def test_errors(runs, name):
  posterior = runs[name]
  assert np.all(posterior.num_ancestors > 30)
  assert_predicts(posterior.log_normalizer_error, posterior.log_normalizer)
  errors = posterior.standard_error(moments)
  means = posterior.expectation(moments)
  for key in means:
    assert_predicts(errors[key], means[key])


def test_errors_without_genealogies(runs):
  """A mutation: each particle as its own root."""
  posterior = runs['always']
  own = tf.broadcast_to(tf.range(1_000)[:, tf.newaxis], posterior.root.shape)
  posterior = posterior._replace(root=own)
  with pytest.raises(AssertionError):
    assert_predicts(posterior.log_normalizer_error, posterior.log_normalizer)
  with pytest.raises(AssertionError):
    assert_predicts(
      posterior.standard_error(moments)['drift'],
      posterior.expectation(moments)['drift'],
    )


def test_quantiles(runs):
  posterior = runs['always']
  np.testing.assert_allclose(
    tf.reduce_sum(posterior.weights, axis=0), np.ones(NUM_RUNS), rtol=1e-5
  )
  found = posterior.quantiles([0.2, 0.7], moments)
  for name, values in moments(
    posterior.global_state, posterior.trajectories
  ).items():
    weights = np.asarray(posterior.weights, np.float64)
    below = values <= found[name][:, np.newaxis]
    shares = np.sum(np.where(below, weights, 0.0), axis=1)
    # The least value with so much weight below or at it.
    assert np.all(shares >= [[0.2 - 1e-6], [0.7 - 1e-6]])
    below = values < found[name][:, np.newaxis]
    shares = np.sum(np.where(below, weights, 0.0), axis=1)
    assert np.all(shares <= [[0.2 + 1e-6], [0.7 + 1e-6]])


def test_functions_of_trajectories_alone():
  log_weights = tf.math.log([0.25, 0.75])
  z = tf.constant([[1.0, 2.0], [3.0, 6.0]])
  posterior = posterior_lib.StateSpacePosterior(
    (), z, log_weights, (), (), (), tf.constant([0, 1]), ()
  )
  for fn in (lambda z: z, lambda _, z: z, lambda *states: states[-1]):
    np.testing.assert_allclose(posterior.expectation(fn), [2.5, 5.0])
  with_drift = posterior._replace(global_state=tf.constant([1.0, 5.0]))
  with pytest.raises(TypeError, match='positional argument'):
    with_drift.expectation(lambda z: z)


def make_posterior(log_weights, root, drift=()):
  return posterior_lib.StateSpacePosterior(
    drift, (), tf.constant(log_weights), (), (), (), tf.constant(root), ()
  )


def test_formulas():
  """Against loops over roots, with a batch axis and event axes."""
  random = np.random.default_rng(1)
  log_weights = random.normal(size=[7, 2])
  root = random.integers(3, size=[7, 2]).astype(np.int32)
  drift = random.normal(size=[7, 2, 3])
  posterior = make_posterior(log_weights, root, tf.constant(drift))
  weights = np.exp(log_weights) / np.exp(log_weights).sum(axis=0)
  error = posterior.standard_error(lambda drift, _: drift)
  assert error.shape == [2, 3]
  for b in range(2):
    mean = weights[:, b] @ drift[:, b]
    families = [root[:, b] == e for e in range(7)]
    squares = [weights[f, b].sum() ** 2 for f in families]
    np.testing.assert_allclose(
      posterior.log_normalizer_error[b], np.sqrt((7.0 * sum(squares) - 1) / 6.0)
    )
    expected = sum(
      (weights[f, b] @ (drift[f, b] - mean)) ** 2 for f in families
    )
    np.testing.assert_allclose(error[b], np.sqrt(7.0 / 6.0 * expected))
    assert posterior.num_ancestors[b] == len(set(root[:, b]))


def test_few_roots():
  """With one root that has weight, errors are not known."""
  inf = float('inf')
  posterior = make_posterior(
    [[0.0, 0.0, -inf], [0.0, -inf, -inf], [0.0, 1.0, -inf]],
    [[0, 0, 0], [1, 1, 1], [1, 0, 1]],
    tf.constant([[1.0, 1.0, 1.0], [2.0, np.nan, 2.0], [2.0, 3.0, 3.0]]),
  )
  np.testing.assert_array_equal(posterior.num_ancestors, [2, 1, 0])
  for error in (
    posterior.log_normalizer_error,
    posterior.standard_error(lambda drift, _: drift),
  ):
    assert np.isfinite(error[0]) and np.all(np.isinf(error[1:]))


def test_equal_weights_without_resampling():
  """Independent draws with equal weights: an exact normalizer."""
  posterior = make_posterior([0.0] * 4, [0, 1, 2, 3], tf.constant([0.0, 1] * 2))
  assert posterior.log_normalizer_error < 1e-3
  # The sample standard deviation, over the square root of 4 draws.
  np.testing.assert_allclose(
    posterior.standard_error(lambda drift, _: drift),
    np.sqrt(4.0 / 3.0) * 0.5 / 2.0,
    rtol=1e-5,
  )


def test_one_step_ahead():
  """Draws of each step have the moments that a Kalman filter predicts."""
  model = nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, 1.0),
    lambda z, t: tfd.Normal(0.8 * z + 0.5 * tf.cast(t, tf.float32), 0.5),
    lambda z: tfd.Normal(z, 0.6),
  )
  x = np.array([0.3, 1.2, 0.5, 1.4], np.float32)
  posterior = nvi.StateSpaceSampler(model, proposal_fn='guided').sample(
    x, 5_000, seed=1, jit_compile=False, history=True
  )
  draws = posterior.predict_next(num_draws=5_000, seed=2)
  mean, variance, expected = 0.0, 1.0, []
  for t, value in enumerate(x):
    if t:
      mean, variance = 0.8 * mean + 0.5 * t, 0.64 * variance + 0.25
      expected.append((mean, np.sqrt(variance + 0.36)))
    gain = variance / (variance + 0.36)
    mean, variance = mean + gain * (value - mean), variance * (1.0 - gain)
  means, deviations = np.transpose(expected)
  # Particles and draws each have an error of a 70th of a deviation.
  np.testing.assert_array_less(
    np.abs(np.mean(draws, axis=0) - means), 0.1 * deviations
  )
  np.testing.assert_allclose(np.std(draws, axis=0), deviations, rtol=0.08)
  with pytest.raises(ValueError, match='with `history=True`'):
    posterior._replace(history=()).predict_next()

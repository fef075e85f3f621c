# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Observations that arrive one by one give the numbers of a whole sequence."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

NUM_STEPS, NUM_PARTICLES = 6, 50
X = np.random.default_rng(1).normal(size=[2, NUM_STEPS])
IS_OBSERVED = np.random.default_rng(2).uniform(size=X.shape) < 0.7
INPUTS = np.random.default_rng(3).normal(size=[2, NUM_STEPS])


def model(has_prior=True):
  def move(z, drift, t, u):
    scale = 0.5 + 0.1 * tf.cast(t, tf.float64)
    return tfd.Normal(0.8 * z + drift + u, scale)

  one = tf.constant(1.0, tf.float64)
  return nvi.StateSpaceModel(
    prior=tfd.Normal(0.0 * one, 0.7 * one) if has_prior else None,
    initial_fn=(lambda drift, u: tfd.Normal(drift + u, one))
    if has_prior
    else lambda u: tfd.Normal(u, one),
    transition_fn=move
    if has_prior
    else lambda z, t, u: move(z, tf.zeros_like(z), t, u),
    observation_fn=lambda z: tfd.Normal(z, 0.6 * one),
    input_example=tf.zeros([], tf.float64),
  )


@pytest.mark.parametrize(
  'has_prior, proposal_fn',
  [
    (True, 'guided'),
    pytest.param(False, 'prior', marks=pytest.mark.slow),
    pytest.param(True, 'prior', marks=pytest.mark.slow),
    pytest.param(False, 'guided', marks=pytest.mark.slow),
  ],
)
def test_same_numbers(has_prior, proposal_fn):
  sampler = nvi.StateSpaceSampler(
    model(has_prior),
    proposal_fn=proposal_fn,
    resample_criterion_fn=nvi.ess_below(0.5),
  )
  posterior = sampler.sample(
    X, NUM_PARTICLES, seed=5, is_observed=IS_OBSERVED, inputs=INPUTS
  )
  online = nvi.OnlineFilter(
    sampler, NUM_PARTICLES, batch_shape=[2], max_steps=NUM_STEPS
  )
  state, scores = online.init(seed=5), []
  for t in range(NUM_STEPS):
    state = online.update(
      state, X[:, t], is_observed=IS_OBSERVED[:, t], u=INPUTS[:, t]
    )
    scores.append(state.log_score)
    np.testing.assert_allclose(
      state.effective_sample_size,
      posterior.effective_sample_sizes[t + 1],
      rtol=1e-9,
    )
  np.testing.assert_allclose(
    scores, posterior.log_normalizer_increments[1:], rtol=1e-9, atol=1e-9
  )
  np.testing.assert_allclose(
    state.local_state, posterior.trajectories[..., -1], rtol=1e-9
  )
  np.testing.assert_allclose(
    state.log_normalizer, posterior.log_normalizer, rtol=1e-9
  )
  mean = online.estimate(state, lambda theta, z: z)
  np.testing.assert_allclose(
    mean, posterior.expectation(lambda theta, z: z[..., -1]), rtol=1e-9
  )
  with pytest.raises(ValueError, match='`max_steps` must be at least'):
    online.update(state, X[:, 0], u=INPUTS[:, 0])


def test_fewer_steps_than_there_may_be():
  """The numbers are still properly weighted: those of a Kalman filter."""
  plain = nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, 1.0),
    lambda z: tfd.Normal(0.8 * z, 0.5),
    lambda z: tfd.Normal(z, 0.6),
  )
  online = nvi.OnlineFilter(
    nvi.StateSpaceSampler(plain, proposal_fn='guided'), 20_000, max_steps=50
  )
  state = online.init(seed=1)
  mean, variance = 0.0, 0.0
  for t, x in enumerate(X[0]):
    mean, variance = 0.8 * mean, 0.64 * variance + 0.25 if t else 1.0
    spread = variance + 0.36
    score = -0.5 * ((x - mean) ** 2 / spread + np.log(2.0 * np.pi * spread))
    if t:
      draws = online.predict(state, 20_000, seed=t)
      error = 5.0 * np.sqrt(spread / 10_000)
      assert abs(np.mean(draws) - mean) < error
      assert abs(np.std(draws) - np.sqrt(spread)) < error
    state = online.update(state, np.float32(x))
    gain = variance / spread
    mean, variance = mean + gain * (x - mean), variance * (1.0 - gain)
    assert abs(state.log_score - score) < 0.05
    estimate = online.estimate(state, lambda z: z)
    assert abs(estimate - mean) < 0.05


def test_compiles_once_for_all_steps():
  """The step is an argument of the program, and not a part of it."""
  online = nvi.OnlineFilter(
    nvi.StateSpaceSampler(model(), proposal_fn='prior'), 5, [2], NUM_STEPS
  )
  state = online.init(seed=1)
  programs = []
  for t in range(3):
    if t:
      # `_later` takes all steps but the first.
      ir_fn = online._later.experimental_get_compiler_ir(
        state, tf.constant(X[:, t]), None, tf.constant(INPUTS[:, t])
      )
      programs.append(ir_fn(stage='hlo'))
    state = online.update(state, X[:, t], u=INPUTS[:, t])
  assert programs[0] == programs[1]


def test_bad_arguments():
  plain = model(False)
  sampler = nvi.StateSpaceSampler(
    plain, proposal_fn='heuristic', heuristic=nvi.GaussianHeuristic(plain)
  )
  with pytest.raises(ValueError, match='`sampler` must not look at'):
    nvi.OnlineFilter(sampler)
  online = nvi.OnlineFilter(nvi.StateSpaceSampler(plain), 5)
  state = online.init(seed=1)
  with pytest.raises(ValueError, match='`observations` must not be NaN'):
    online.update(state, float('nan'), u=0.0)
  for x in ([1.0, 99.0], [1.0]):
    with pytest.raises(ValueError, match=r'`x` must have shape \(\), '):
      online.update(state, x, u=0.0)
  for fn in (
    lambda: online.predict(state, u=0.0),
    lambda: online.estimate(state, lambda z: z),
  ):
    with pytest.raises(ValueError, match='`state` must be that after one'):
      fn()

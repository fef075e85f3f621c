# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Islands of `StateSpaceSampler`: filters by themselves that are one sum."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

tfd = tfp.distributions

NUM_ISLANDS = 3
SIZE = 8
X = tf.constant([[0.1, 0.5, 0.8, 0.2], [0.3, -0.4, -1.0, 0.0]])


@functools.cache
def make_sampler():
  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.4),
  )
  return nvi.StateSpaceSampler(model, resample_criterion_fn=nvi.ess_below(0.7))


KWARGS = dict(jit_compile=False, history=True)


def sample_islands(x=X, **kwargs):
  return make_sampler().sample(
    x,
    NUM_ISLANDS * SIZE,
    seed=3,
    num_islands=NUM_ISLANDS,
    **{**KWARGS, **kwargs},
  )


def sample_runs(x=X, **kwargs):
  return [
    make_sampler().sample(
      x,
      SIZE,
      randomness.fold_in(randomness.as_seed(3), i),
      **{**KWARGS, **kwargs},
    )
    for i in range(NUM_ISLANDS)
  ]


def log_mean(logs):
  return np.log(np.mean(np.exp(np.asarray(logs, np.float64)), axis=0))


@pytest.mark.parametrize('x', [X, X[0]], ids=['two sequences', 'one sequence'])
def test_islands_are_filters_by_themselves(x):
  posterior, runs = sample_islands(x), sample_runs(x)
  assert posterior.log_weights.shape == [NUM_ISLANDS * SIZE] + x.shape[:-1]
  for i, run in enumerate(runs):
    part = slice(i * SIZE, (i + 1) * SIZE)
    for field in ('global_state', 'trajectories', 'log_weights'):
      np.testing.assert_array_equal(
        getattr(posterior, field)[part], getattr(run, field)
      )
    np.testing.assert_array_equal(posterior.root[part], run.root + i * SIZE)
    found, expected = posterior.history, run.history
    np.testing.assert_array_equal(
      found.initial_global_state[part], expected.initial_global_state
    )
    np.testing.assert_array_equal(found.root[:, part], expected.root + i * SIZE)
    np.testing.assert_array_equal(
      found.local_states[:, part], expected.local_states
    )
    np.testing.assert_array_equal(
      found.log_weights[:, part], expected.log_weights
    )
  np.testing.assert_array_equal(
    posterior.num_roots, sum(run.num_roots for run in runs)
  )


def test_estimates_are_those_of_all_particles():
  posterior, runs = sample_islands(), sample_runs()
  # At each level the estimate is the mean of the islands' estimates.
  totals = [np.cumsum(run.log_normalizer_increments, axis=0) for run in runs]
  np.testing.assert_allclose(
    np.cumsum(posterior.log_normalizer_increments, axis=0),
    log_mean(totals),
    rtol=1e-4,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    posterior.log_normalizer,
    log_mean([run.log_normalizer for run in runs]),
    rtol=1e-5,
  )
  # At the last level the weights of all are known.
  np.testing.assert_allclose(
    posterior.effective_sample_sizes[-1],
    nvi.effective_sample_size(posterior.log_weights),
    rtol=1e-4,
  )
  # The mean of the islands by their estimates.
  shares = tf.nn.softmax([run.log_normalizer for run in runs], axis=0)
  np.testing.assert_allclose(
    posterior.expectation(lambda drift, z: drift),
    sum(
      share * run.expectation(lambda drift, z: drift)
      for share, run in zip(shares, runs, strict=True)
    ),
    rtol=1e-4,
  )
  _, states, _ = posterior.predict(2, num_draws=5, seed=1)
  assert states.shape == [5, 2, 2]


def test_an_island_without_weight():
  """Its estimates are zero from some level on; the others go on."""
  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(z, 1.0),
    # Zero unless the state is near: few of four particles are.
    observation_fn=lambda z: tfd.Uniform(z - 0.4, z + 0.4),
  )
  sampler = nvi.StateSpaceSampler(model)
  x = tf.constant([0.0, 0.6, 0.2])
  kwargs = dict(jit_compile=False)
  for seed in range(50):
    seed = randomness.as_seed(seed)
    totals = []
    for i in range(2):
      try:
        run = sampler.sample(x, 4, randomness.fold_in(seed, i), **kwargs)
        totals.append(np.cumsum(run.log_normalizer_increments))
      except ValueError:
        totals.append(None)
    if sum(total is None for total in totals) == 1:
      break
  alive = next(total for total in totals if total is not None)
  posterior = sampler.sample(x, 8, seed, num_islands=2, **kwargs)
  np.testing.assert_allclose(
    np.sum(posterior.log_normalizer_increments),
    alive[-1] - np.log(2.0),
    rtol=1e-5,
  )
  assert np.all(np.isfinite(posterior.effective_sample_sizes))


def test_bad_arguments():
  sampler = make_sampler()
  with pytest.raises(ValueError, match='`num_particles` must be a multiple'):
    sampler.sample(X, 10, num_islands=3)
  with pytest.raises(TypeError, match='`strategy` must be a tf.distribute'):
    sampler.sample(X, 10, strategy='mirrored')
  with pytest.raises(TypeError, match='`jit_compile` must be'):
    sampler.sample(X, 10, num_islands=2, jit_compile='yes')

  class Proposal(tf.Module):
    def __init__(self):
      super().__init__()
      self.scale = tf.Variable(1.0)

    def __call__(self, x, z, theta):
      return tfd.Normal(tf.zeros_like(theta), self.scale)

  sampler = nvi.StateSpaceSampler(sampler.model, proposal_fn=Proposal())
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  with pytest.raises(ValueError, match='`sampler` must be made inside of'):
    sampler.sample(X, 10, strategy=strategy)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space samplers agree with exact inference, where there is such.

Particles are properly weighted: the mean of `w g(z_{1:K}, eta)` over particles
has the expectation `Z E[g | x]`. Both factors are known for a linear-Gaussian
model with an unknown drift, which to the Kalman filter is one of its states;
for hidden Markov models; and by enumeration for a model over a few states.
There are few particles, so that a bias would show, and many independent runs,
as members of a batch.

False alarms: seeds are fixed. Means of thousands of runs must be within
`CRITICAL_Z` = 5 standard errors; over seeds, a correct sampler would be
rejected in one of these comparisons with a probability of 6e-7, and there are
less than 4,000 of them.
"""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import densities as densities_lib
from tfp_nvi.state_space import heuristics as heuristics_lib
from tfp_nvi.state_space import recorder as recorder_lib

tfd = tfp.distributions

CRITICAL_Z = 5.0
NUM_PARTICLES = 4
NUM_RUNS = 1_500


def double(x):
  return tf.constant(x, tf.float64)


def assert_means(estimates, expected):
  """Compares means over the first axis with what they should be."""
  assert np.shape(estimates)[1:] == np.shape(expected)
  error = np.std(estimates, axis=0, ddof=1) / np.sqrt(len(estimates))
  z = (np.mean(estimates, axis=0) - expected) / np.where(
    error > 0.0, error, 1e-12
  )
  assert np.max(np.abs(z)) < CRITICAL_Z, z


def weighted(posterior, values):
  """Means of `w g` over the particles, from values of `g`."""
  weights = np.exp(posterior.log_weights)
  rank = np.ndim(values) - np.ndim(weights)
  return np.mean(np.reshape(weights, weights.shape + (1,) * rank) * values, 0)


# Policies are a batch axis: batches are over policies, then sequences and runs.
POLICIES = [nvi.never, nvi.always, nvi.ess_below(0.7)]


def resample_by_all_policies(particles):
  log_weights = particles.log_weights
  return tf.stack(
    [
      tf.broadcast_to(
        policy(nvi.WeightedParticles((), log_weights[:, i])),
        log_weights.shape[2:],
      )
      for i, policy in enumerate(POLICIES)
    ]
  )


def repeat(x, num_runs=NUM_RUNS):
  """Repeats sequences for all policies and runs."""
  x = np.asarray(x)
  return np.broadcast_to(
    x[np.newaxis, :, np.newaxis],
    (len(POLICIES), len(x), num_runs, *x.shape[1:]),
  )


# A linear-Gaussian model with an unknown drift.

SLOPE, STEP, NOISE, DRIFT, FIRST = 0.8, 0.5, 0.6, 0.7, 0.9
SEQUENCES = np.array(
  [
    [0.3, 1.2, 0.5, 1.4, 2.0],
    [0.3, 1.2, np.nan, np.nan, 2.0],
    [-1.0, 0.4, -0.2, np.nan, np.nan],
    [np.nan, 0.4, np.nan, 0.1, np.nan],
    [np.nan, np.nan, np.nan, np.nan, np.nan],
  ]
)
IS_OBSERVED = np.isfinite(SEQUENCES)
LENGTHS = [5, 5, 3, 4, 2]
NUM_STEPS = SEQUENCES.shape[1]


def linear_gaussian(dtype=tf.float64, has_prior=True):
  def constant(x):
    return tf.constant(x, dtype)

  def drift_of(drift):
    return drift if has_prior else constant(0.4)

  return nvi.StateSpaceModel(
    prior=tfd.Normal(constant(0.0), DRIFT) if has_prior else None,
    initial_fn=lambda drift: tfd.Normal(drift_of(drift), constant(FIRST)),
    transition_fn=lambda z, drift: tfd.Normal(
      SLOPE * z + drift_of(drift), constant(STEP)
    ),
    observation_fn=lambda z, drift: tfd.Normal(z, constant(NOISE)),
  )


def kalman(num_steps):
  """The same model, with the drift as a state that does not change."""
  variance = DRIFT**2
  return tfd.LinearGaussianStateSpaceModel(
    num_steps,
    transition_matrix=double([[SLOPE, 1.0], [0.0, 1.0]]),
    transition_noise=tfd.MultivariateNormalDiag(scale_diag=double([STEP, 0.0])),
    observation_matrix=double([[1.0, 0.0]]),
    observation_noise=tfd.MultivariateNormalDiag(scale_diag=double([NOISE])),
    initial_state_prior=tfd.MultivariateNormalTriL(
      scale_tril=np.linalg.cholesky(
        [[FIRST**2 + variance, variance], [variance, variance]]
      )
    ),
  )


def exact_moments(x, is_observed):
  """Log Z, and the posterior of drift and states, by Kalman's recursions."""
  model = kalman(len(x))
  x = double(np.where(is_observed, x, 0.0))[:, np.newaxis]
  mask = tf.logical_not(is_observed)
  means, covariances = model.posterior_marginals(x, mask=mask)
  log_z = model.log_prob(x, mask=mask)
  return log_z.numpy(), means.numpy(), covariances.numpy()


class WrongHeuristic(nvi.Heuristic):
  """Positive, of the global state and perhaps the local one, and not right."""

  def __init__(self, looks_at_state):
    super().__init__()
    self._looks_at_state = looks_at_state

  def prepare(self, observations, is_observed, global_state):
    rank = observations.shape.rank - 1
    x = tf.transpose(observations, [rank, *range(rank)])[:, tf.newaxis]
    rest = heuristics_lib.sum_of_rest(0.2 * tf.sin(3.0 * x + global_state))
    return {'rest': rest, 'next': x}

  def log_factor(self, row, global_state, local_state):
    log_factor = row['rest']
    if self._looks_at_state and local_state is not None:
      log_factor += -0.1 * (row['next'] - local_state) ** 2
    return log_factor + 0.2 * tf.cos(global_state)


HEURISTICS = {
  'none': None,
  'independent': nvi.IndependentHeuristic(
    lambda drift: tfd.Normal(2.0 * drift, double(2.0))
  ),
  'feature': nvi.FeatureHeuristic(
    lambda x: tf.stack([tf.ones_like(x), x], axis=-1),
    lambda drift: tf.stack([-0.1 * drift**2, 0.1 * drift], axis=-1),
  ),
  'wrong': WrongHeuristic(False),
  'wrong_state_aware': WrongHeuristic(True),
}


def wide_proposal(x, z, drift):
  """Wider than the optimal proposal."""
  before = drift if z is None else SLOPE * z + drift
  return tfd.Normal(0.6 * before + 0.3 * x + 0.1, double(0.9))


def wide_initial_proposal(x, is_observed):
  del is_observed
  return tfd.Normal(0.1 * tf.reduce_mean(x, axis=-1), double(0.9))


PROPOSALS = {
  'prior': {},
  'wide': dict(
    proposal_fn=wide_proposal, initial_proposal_fn=wide_initial_proposal
  ),
}


def sample_all(sampler, num_runs=NUM_RUNS, **kwargs):
  return sampler.sample(
    repeat(SEQUENCES, num_runs),
    NUM_PARTICLES,
    seed=3,
    is_observed=repeat(IS_OBSERVED, num_runs),
    lengths=repeat(LENGTHS, num_runs),
    jit_compile=False,
    **kwargs,
  )


def check_linear_gaussian(posterior):
  """Moments of drift and states under the weights, times the normalizer."""
  drift = posterior.global_state.numpy()
  z = posterior.trajectories.numpy()
  for i, length in enumerate(LENGTHS):
    log_z, means, covariances = exact_moments(
      SEQUENCES[i, :length], IS_OBSERVED[i, :length]
    )
    normalizer = np.exp(log_z)
    square = covariances[:, 0, 0] + means[:, 0] ** 2
    product = covariances[:, 0, 1] + means[:, 0] * means[:, 1]
    drifts, states = drift[:, :, i], z[:, :, i, :, :length]
    values = np.concatenate(
      [
        np.ones_like(states[..., :1]),
        drifts[..., np.newaxis],
        drifts[..., np.newaxis] ** 2,
        states,
        states**2,
        states * drifts[..., np.newaxis],
      ],
      axis=-1,
    )
    expected = normalizer * np.concatenate(
      [
        [1.0, means[0, 1], covariances[0, 1, 1] + means[0, 1] ** 2],
        means[:, 0],
        square,
        product,
      ]
    )
    of_sequence = posterior._replace(log_weights=posterior.log_weights[:, :, i])
    estimates = weighted(of_sequence, values)
    for of_policy in estimates:
      assert_means(of_policy, expected)


@pytest.mark.parametrize('proposal', PROPOSALS)
@pytest.mark.parametrize('heuristic', HEURISTICS)
def test_linear_gaussian(heuristic, proposal):
  sampler = nvi.StateSpaceSampler(
    linear_gaussian(),
    heuristic=HEURISTICS[heuristic],
    resample_criterion_fn=resample_by_all_policies,
    **PROPOSALS[proposal],
  )
  posterior = sample_all(sampler)
  check_linear_gaussian(posterior)
  increments = posterior.log_normalizer_increments
  np.testing.assert_allclose(
    np.sum(increments, axis=0), posterior.log_normalizer, rtol=1e-9, atol=1e-9
  )


def skip_end(monkeypatch):
  """The heuristic factor stays at the last level."""

  def log_factor(self, rows, level, state):
    row = self._rows(rows, level, state.root)
    return self._densities.heuristic.log_factor(
      row, state.global_state, state.local_state
    )

  monkeypatch.setattr(densities_lib.GivenDensities, '_log_factor', log_factor)


def forget_ancestors(monkeypatch):
  """Trajectories are read out as if each particle were its own ancestor."""
  read_back = recorder_lib.read_back

  def forget(local_states, ancestors, shape):
    index = tf.reshape(tf.range(shape[0]), [-1] + [1] * (shape.rank - 1))
    return read_back(
      local_states, tf.broadcast_to(index, ancestors.shape), shape
    )

  monkeypatch.setattr(recorder_lib, 'read_back', forget)


def go_on(monkeypatch):
  """Sequences that have ended are resampled with the others."""
  monkeypatch.setattr(
    densities_lib.StateSpaceDensities, 'is_active', lambda self, level: None
  )


def observe_all(monkeypatch):
  """What fills the steps that are not observed counts."""
  monkeypatch.setattr(
    densities_lib.StateSpaceDensities, 'is_observed', property(lambda _: None)
  )


@pytest.mark.parametrize('mutate', [skip_end, forget_ancestors, observe_all])
def test_mutations(mutate, monkeypatch):
  mutate(monkeypatch)
  sampler = nvi.StateSpaceSampler(
    linear_gaussian(),
    heuristic=HEURISTICS['independent'],
    resample_criterion_fn=resample_by_all_policies,
  )
  with pytest.raises(AssertionError):
    check_linear_gaussian(sample_all(sampler, num_runs=500))


def test_sequences_that_have_ended_stay(monkeypatch):
  """As they would be alone, up to the last step; a mutation is caught."""

  def is_still():
    sampler = nvi.StateSpaceSampler(
      linear_gaussian(),
      heuristic=HEURISTICS['independent'],
      resample_criterion_fn=resample_by_all_policies,
    )
    posterior = sample_all(sampler, num_runs=3)
    is_equal = []
    for i, length in enumerate(LENGTHS):
      z = posterior.trajectories[:, :, i].numpy()
      is_equal.append(
        np.all(z[..., length:] == z[..., length - 1 : length])
        and not np.any(posterior.log_normalizer_increments[length + 1 :, :, i])
        and all(
          np.all(series[length + 1 :, :, i] == series[length, :, i])
          for series in (
            posterior.effective_sample_sizes.numpy(),
            posterior.num_roots.numpy(),
          )
        )
      )
    return all(is_equal)

  assert is_still()
  go_on(monkeypatch)
  assert not is_still()


def test_many_particles():
  """Log Z, means and bands of one sequence, without batch axes, compiled."""
  log_z, means, covariances = exact_moments(SEQUENCES[1], IS_OBSERVED[1])
  posterior = nvi.StateSpaceSampler(linear_gaussian()).sample(
    SEQUENCES[1], 100_000, seed=1, is_observed=IS_OBSERVED[1]
  )
  assert posterior.log_normalizer.shape == []
  assert posterior.trajectories.shape == [100_000, NUM_STEPS]
  # Standard errors are below 0.01, as there are thousands of roots at the end.
  assert posterior.num_roots[-1] > 5_000
  assert abs(posterior.log_normalizer - log_z) < 0.05
  mean, square = posterior.expectation(lambda _, z: (z, z**2))
  np.testing.assert_allclose(mean, means[:, 0], atol=0.05)
  np.testing.assert_allclose(square - mean**2, covariances[:, 0, 0], atol=0.05)
  drift = posterior.expectation(lambda drift, _: drift)
  assert abs(drift - means[0, 1]) < 0.05


# Hidden Markov models with known parameters.

TRANSITIONS = np.array([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.1, 0.0, 0.9]])
INITIAL = np.array([0.6, 0.4, 0.0])
LOCS = np.array([-1.0, 0.0, 1.5])
SCALE = 0.8


def hidden_markov_model():
  """Without a global state, and with transitions that cannot happen."""
  return nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda _: tfd.Categorical(probs=double(INITIAL)),
    transition_fn=lambda z, _: tfd.Categorical(
      probs=tf.gather(double(TRANSITIONS), z)
    ),
    observation_fn=lambda z, _: tfd.Normal(
      tf.gather(double(LOCS), z), double(SCALE)
    ),
  )


def even_proposal(x, z, _):
  """Also proposes what cannot happen."""
  bonus = tf.stack([-0.5 * x, 0.0 * x, 0.5 * x], axis=-1)
  if z is not None:
    bonus += 0.5 * tf.one_hot(z, 3, dtype=tf.float64)
  return tfd.Categorical(logits=bonus)


class LookingAtState(nvi.Heuristic):
  """Of a discrete local state, and needs no particle to prepare."""

  def prepare(self, observations, is_observed, global_state):
    del global_state, is_observed
    rank = observations.shape.rank - 1
    x = tf.transpose(observations, [rank, *range(rank)])[:, tf.newaxis]
    return heuristics_lib.sum_of_rest(0.2 * x)

  def log_factor(self, row, global_state, local_state):
    del global_state
    if local_state is None:
      return row
    return row * tf.gather(double([-1.0, 0.0, 1.0]), local_state)


@pytest.mark.parametrize(
  'arguments',
  [
    {},
    dict(proposal_fn=even_proposal),
    dict(proposal_fn=even_proposal, heuristic=LookingAtState()),
  ],
  ids=['prior', 'proposal', 'heuristic'],
)
def test_hidden_markov_model(arguments):
  sampler = nvi.StateSpaceSampler(
    hidden_markov_model(),
    resample_criterion_fn=resample_by_all_policies,
    **arguments,
  )
  # Within a function, as estimates of zero are no errors here.
  posterior = tf.function(sample_all, autograph=False)(sampler)
  for i, length in enumerate(LENGTHS):
    exact = tfd.HiddenMarkovModel(
      tfd.Categorical(probs=double(INITIAL)),
      tfd.Categorical(probs=double(TRANSITIONS)),
      tfd.Normal(double(LOCS), double(SCALE)),
      length,
    )
    mask = tf.constant(~IS_OBSERVED[i, :length])
    x = np.where(IS_OBSERVED[i], SEQUENCES[i], 0.0)[:length]
    normalizer = np.exp(exact.log_prob(x, mask=mask))
    probs = exact.posterior_marginals(x, mask=mask).probs_parameter().numpy()
    z = posterior.trajectories[:, :, i, :, :length].numpy()
    values = np.concatenate(
      [np.ones_like(z[..., :1])] + [z == m for m in range(3)], axis=-1
    )
    of_sequence = posterior._replace(log_weights=posterior.log_weights[:, :, i])
    expected = normalizer * np.concatenate([[1.0], *probs.T])
    # What is rare has means that are not normal yet; what cannot be, is not.
    is_tested = expected > 0.05 * normalizer
    for of_policy in weighted(of_sequence, values):
      assert_means(of_policy[:, is_tested], expected[is_tested])
      assert not np.any(of_policy[:, expected == 0.0])


# A model that can be enumerated.

OBSERVED = np.array([0, 1, 1])
TABLES = {
  name: tf.constant(np.random.default_rng(i).normal(size=shape))
  for i, (name, shape) in enumerate(
    {
      'prior': [2],
      'initial': [2, 2],
      'transition': [2, 2, 2],
      'observation': [2, 2, 2],
    }.items()
  )
}


def at(table, *indices):
  """Selects rows of a table."""
  return tf.gather_nd(table, tf.stack(indices, axis=-1))


def make_tables_model(tables=TABLES):
  """Global and local states of two values, in tables of logits."""
  return nvi.StateSpaceModel(
    prior=tfd.Categorical(logits=tables['prior']),
    initial_fn=lambda eta: tfd.Categorical(logits=at(tables['initial'], eta)),
    transition_fn=lambda z, eta: tfd.Categorical(
      logits=at(tables['transition'], eta, z)
    ),
    observation_fn=lambda z, eta: tfd.Categorical(
      logits=at(tables['observation'], eta, z)
    ),
  )


def log_joint(x=OBSERVED, tables=TABLES):
  """Log densities of a prefix with the observations so far, for all levels.

  Returns:
    log_joints: List of arrays of shape `[2] * (k + 1)`, over the global and the
      local states.
  """
  prior, initial, transition, observation = (
    tf.nn.log_softmax(tables[name]) for name in tables
  )
  total = prior
  totals = [total]
  for k, value in enumerate(x):
    step = initial if k == 0 else transition
    likelihood = observation[:, :, value]
    if k > 0:
      shape = [2] + [1] * (k - 1)
      step = tf.reshape(step, shape + [2, 2])
      likelihood = tf.reshape(likelihood, shape + [1, 2])
    total = total[..., tf.newaxis] + step + likelihood
    totals.append(total)
  return totals


class TableHeuristic(nvi.Heuristic):
  """A table for each step and value of the observation there."""

  def __init__(self, table_fn, looks_at_state):
    super().__init__()
    self._table_fn = table_fn
    self._looks_at_state = looks_at_state

  def prepare(self, observations, is_observed, global_state):
    rank = observations.shape.rank - 1
    x = tf.transpose(observations, [rank, *range(rank)])
    shape = x.shape[:1] + global_state.shape
    eta = tf.broadcast_to(global_state, shape)
    x = tf.broadcast_to(x[:, tf.newaxis], shape)
    # Of shape `[num_steps, num_particles] + batch + [2]`, over local states.
    return heuristics_lib.sum_of_rest(at(self._table_fn(), x, eta))

  def log_factor(self, row, global_state, local_state):
    if local_state is None or not self._looks_at_state:
      return row[..., 0]
    return tf.reduce_sum(row * tf.one_hot(local_state, 2, dtype=row.dtype), -1)


def table_proposals(initial, first, later):
  """Proposals from functions that return logits."""
  return dict(
    initial_proposal_fn=lambda x, _: tfd.Categorical(logits=initial()),
    proposal_fn=lambda x, z, eta: tfd.Categorical(
      logits=at(first(), eta) if z is None else at(later(), eta, z)
    ),
  )


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('looks_at_state', [False, True])
def test_trajectories_are_properly_weighted(looks_at_state, policy):
  table = tf.constant(np.random.default_rng(9).normal(size=[2, 2, 2]))
  sampler = nvi.StateSpaceSampler(
    make_tables_model(),
    heuristic=TableHeuristic(lambda: table, looks_at_state),
    resample_criterion_fn=policy,
    **table_proposals(
      *(functools.partial(tf.zeros, [2] * i, tf.float64) for i in (1, 2, 3))
    ),
  )
  posterior = sampler.sample(
    np.broadcast_to(OBSERVED, (20_000, 3)),
    NUM_PARTICLES,
    seed=1,
    jit_compile=False,
  )
  values = np.concatenate(
    [
      posterior.global_state.numpy()[..., np.newaxis],
      posterior.trajectories.numpy(),
    ],
    axis=-1,
  )
  cell = values @ [8, 4, 2, 1]
  estimates = weighted(posterior, cell[..., np.newaxis] == np.arange(16))
  assert_means(estimates, np.exp(log_joint()[-1]).ravel())


def test_ancestry():
  """Against a slow reading of all levels."""
  sampler = nvi.StateSpaceSampler(
    linear_gaussian(), resample_criterion_fn=nvi.ess_below(0.8)
  )
  num_particles = 6
  x = np.random.default_rng(1).normal(size=[2, 3, 7])
  lengths = np.array([[7, 7, 4], [7, 1, 7]])
  arguments = dict(lengths=lengths)
  trace = sampler(x, **arguments).trace(num_particles, seed=5)
  posterior = sampler.sample(x, num_particles, seed=5, **arguments)
  state = tf.nest.map_structure(lambda x: x.numpy(), trace.particles)
  np.testing.assert_allclose(posterior.log_weights, trace.log_weights[-1])
  own = np.arange(num_particles)
  assert np.all(state.index == own[:, np.newaxis, np.newaxis])
  assert np.any(state.ancestor[1:] != state.index[1:])
  for b in np.ndindex(2, 3):
    for i in own:
      index = i
      for k in range(7, 0, -1):
        # Two programs are compiled, which may round in different ways.
        np.testing.assert_allclose(
          posterior.trajectories[(i, *b, k - 1)],
          state.local_state[(k, index, *b)],
          rtol=1e-12,
        )
        index = state.ancestor[(k, index, *b)]
      assert state.root[(7, i, *b)] == index
      np.testing.assert_allclose(
        posterior.global_state[(i, *b)],
        state.global_state[(0, index, *b)],
        rtol=1e-12,
      )
    for k in range(8):
      roots = state.root[(k, slice(None), *b)]
      for i in own:
        root = i
        for level in range(k, 0, -1):
          root = state.ancestor[(level, root, *b)]
        assert roots[i] == root
      assert posterior.num_roots[(k, *b)] == len(set(roots))
      np.testing.assert_allclose(
        posterior.effective_sample_sizes[(k, *b)],
        nvi.effective_sample_size(trace.log_weights[(k, slice(None), *b)]),
      )
      np.testing.assert_allclose(
        np.sum(posterior.log_normalizer_increments[(slice(k + 1), *b)]),
        nvi.log_normalizer(trace.log_weights[(k, slice(None), *b)]),
        atol=1e-9,
      )


# How it is executed.


def test_rows_are_those_of_the_particle():
  """Whatever was resampled, at level 0 as well."""

  class Compare(nvi.Heuristic):
    def prepare(self, observations, is_observed, global_state):
      return tf.stack([global_state] * NUM_STEPS)

    def log_factor(self, row, global_state, local_state):
      return tf.where(row == global_state, double(0.0), double(-np.inf))

  results = []
  for heuristic in (None, Compare()):
    sampler = nvi.StateSpaceSampler(linear_gaussian(), heuristic=heuristic)
    arguments = dict(is_observed=IS_OBSERVED, lengths=LENGTHS)
    estimate, _ = nvi.reverse_kl()(sampler(SEQUENCES, **arguments), 9, [1, 2])
    results.append(
      (
        sampler.sample(SEQUENCES, 9, seed=1, jit_compile=False, **arguments),
        estimate,
      )
    )
  for x, y in zip(*map(tf.nest.flatten, results), strict=True):
    np.testing.assert_array_equal(x, y)


def test_execution_does_not_matter():
  """Compiled, as a graph, and eagerly."""
  sampler = nvi.StateSpaceSampler(
    linear_gaussian(), heuristic=HEURISTICS['wrong_state_aware']
  )
  arguments = dict(
    observations=SEQUENCES,
    num_particles=5,
    seed=4,
    is_observed=IS_OBSERVED,
    lengths=LENGTHS,
  )
  compiled = sampler.sample(**arguments)
  graph = sampler.sample(**arguments, jit_compile=False)
  tf.config.run_functions_eagerly(True)
  try:
    eager = sampler.sample(**arguments)
  finally:
    tf.config.run_functions_eagerly(False)
  within = tf.function(lambda: sampler.sample(**arguments))()
  for other in (graph, eager, within):
    for x, y in zip(
      tf.nest.flatten(compiled), tf.nest.flatten(other), strict=True
    ):
      np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


def test_only_what_is_asked_for():
  sampler = nvi.StateSpaceSampler(linear_gaussian(tf.float32))
  x = np.zeros([2, 3])
  posterior = sampler.sample(x, 5, seed=1)
  without = sampler.sample(x, 5, seed=1, trajectories=False)
  assert without.trajectories == ()
  np.testing.assert_array_equal(posterior.log_weights, without.log_weights)
  assert posterior.trajectories.dtype == tf.float32
  assert posterior.log_weights.dtype == tf.float32
  drift = without.expectation(lambda drift, trajectories: drift)
  assert drift.shape == [2]


def test_one_step_and_one_particle():
  model = linear_gaussian(has_prior=False)
  posterior = nvi.StateSpaceSampler(
    model, proposal_fn=lambda x, z, _: tfd.Normal(x, double(1.0))
  ).sample([0.5], 1, seed=1)
  z = posterior.trajectories[0, 0]
  np.testing.assert_allclose(
    posterior.log_normalizer,
    model.initial_fn(()).log_prob(z)
    + model.observation_fn(z, ()).log_prob(0.5)
    - tfd.Normal(double(0.5), 1.0).log_prob(z),
  )
  assert posterior.global_state == ()


def test_proposal_may_depend_on_the_observation_alone():
  """Each particle has a draw of its own."""
  for add_axis in (False, True):
    posterior = nvi.StateSpaceSampler(
      linear_gaussian(),
      proposal_fn=lambda x, z, drift, add_axis=add_axis: tfd.Normal(
        x[tf.newaxis] if add_axis else x, double(1.0)
      ),
      resample_criterion_fn=nvi.never,
    ).sample(np.zeros([2, 3]), 7, seed=1)
    assert len(np.unique(posterior.trajectories)) == 42


def test_a_single_sequence_is_a_batch_of_one():
  """Functions that are written for batches of sequences serve."""
  is_called = set()

  def seen(name, rank, expected):
    is_called.add(name)
    assert rank == expected, name

  class Batched(nvi.Heuristic):
    def prepare(self, observations, is_observed, global_state):
      seen('observations', observations.shape.rank, 2)
      seen('is_observed', is_observed.shape.rank, 2)
      seen('global_state', global_state.shape.rank, 2)
      return tf.zeros([NUM_STEPS, *global_state.shape], tf.float64)

  def initial_proposal_fn(x, is_observed):
    seen('x', x.shape.rank, 2)
    # A matrix product, which takes no vectors.
    return tfd.Normal((0.1 * x @ tf.ones([NUM_STEPS, 1], x.dtype))[:, 0], 0.9)

  def proposal_fn(x, z, drift):
    seen('x of a step', x.shape.rank, 1)
    return wide_proposal(x, z, drift)

  sampler = nvi.StateSpaceSampler(
    linear_gaussian(),
    initial_proposal_fn=initial_proposal_fn,
    proposal_fn=proposal_fn,
    heuristic=Batched(),
  )
  single, batch = (
    sampler.sample(
      x, 9, seed=1, is_observed=is_observed, lengths=lengths, jit_compile=False
    )
    for x, is_observed, lengths in (
      (SEQUENCES[1], IS_OBSERVED[1], 5),
      (SEQUENCES[1:2], IS_OBSERVED[1:2], [5]),
    )
  )
  assert len(is_called) == 5
  assert single.trajectories.shape == [9, NUM_STEPS]
  assert single.num_nan.shape == []
  assert single.log_normalizer_error.shape == []
  for x, y in zip(*map(tf.nest.flatten, (single, batch)), strict=True):
    axis = np.flatnonzero(np.equal(y.shape, 1))
    np.testing.assert_array_equal(x, np.squeeze(y, axis=tuple(axis)))


def test_simulations_have_the_law_of_the_model():
  drift, z, x = linear_gaussian().simulate(NUM_STEPS, [40, 100], seed=1)
  assert drift.shape == [40, 100]
  assert z.shape == x.shape == [40, 100, NUM_STEPS]
  values = np.concatenate([z, z[..., :1] * z[..., -1:], x**2], axis=-1)
  # Of `A z`, with `A` from Kalman's model.
  a = np.array([[SLOPE, 1.0], [0.0, 1.0]])
  covariance = np.array([[FIRST**2 + DRIFT**2, DRIFT**2], [DRIFT**2, DRIFT**2]])
  first = covariance
  squares = []
  for _ in range(NUM_STEPS):
    squares.append(covariance[0, 0] + NOISE**2)
    covariance = a @ covariance @ a.T + np.diag([STEP**2, 0.0])
  product = (np.linalg.matrix_power(a, NUM_STEPS - 1) @ first)[0, 0]
  expected = np.concatenate([np.zeros(NUM_STEPS), [product], squares])
  assert_means(values.reshape([-1, len(expected)]), expected)


# Structured states and observations.


def joint_of(loc):
  """A discrete and a vector part."""
  return tfd.JointDistributionNamed(
    dict(
      regime=tfd.Categorical(logits=tf.stack([0.3 * loc, -loc], axis=-1)),
      position=lambda regime: tfd.MultivariateNormalDiag(
        tf.stack([loc, tf.cast(regime, loc.dtype)], axis=-1),
        double([0.5, 0.5]),
      ),
    )
  )


def structured_model():
  return nvi.StateSpaceModel(
    prior=tfd.JointDistributionNamed(
      dict(loc=tfd.Normal(double(0.0), 1.0), scale=tfd.Gamma(double(3.0), 3.0))
    ),
    initial_fn=lambda eta: joint_of(eta['loc']),
    transition_fn=lambda z, eta: joint_of(0.5 * z['position'][..., 0]),
    observation_fn=lambda z, eta: tfd.JointDistributionSequential(
      [
        tfd.MultivariateNormalDiag(
          z['position'],
          (0.5 + eta['scale'])[..., tf.newaxis] * double([1.0, 1.0]),
        ),
        tfd.Poisson(eta['scale']),
      ]
    ),
  )


@pytest.mark.slow
def test_structures():
  """With a proposal from another distribution of the same structure."""
  model = structured_model()
  global_state, z, x = model.simulate(3, [5], seed=1)
  assert set(global_state) == {'loc', 'scale'}
  assert z['regime'].shape == [5, 3]
  assert z['position'].shape == [5, 3, 2]
  assert x[0].shape == [5, 3, 2] and x[1].shape == [5, 3]
  sampler = nvi.StateSpaceSampler(
    model,
    proposal_fn=lambda x, z, eta: joint_of(
      0.8 * eta['loc'] + 0.1 * x[0][..., 0]
    ),
    initial_proposal_fn=lambda x, _: tfd.JointDistributionNamed(
      dict(
        loc=tfd.Normal(0.1 * tf.reduce_mean(x[0], axis=[-1, -2]), 1.2),
        scale=tfd.Gamma(tf.fill(x[1].shape[:-1], double(3.0)), 3.0),
      )
    ),
    heuristic=nvi.IndependentHeuristic(
      lambda eta: tfd.JointDistributionSequential(
        [
          tfd.MultivariateNormalDiag(
            tf.zeros(eta['loc'].shape + [2], tf.float64), double([2.0, 2.0])
          ),
          tfd.Poisson(eta['scale']),
        ]
      )
    ),
  )
  lengths = np.array([3, 3, 2, 1, 3])
  posterior = sampler.sample(x, 4_000, seed=2, lengths=lengths)
  plain = nvi.StateSpaceSampler(model).sample(x, 4_000, seed=2, lengths=lengths)
  assert posterior.trajectories['position'].shape == [4_000, 5, 3, 2]
  assert posterior.trajectories['regime'].dtype == tf.int32
  # The same normalizers, by unlike samplers; errors are of a few per cent.
  np.testing.assert_allclose(
    posterior.log_normalizer, plain.log_normalizer, atol=0.25
  )
  trace = sampler(x).trace(3, seed=1)
  assert trace.particles.local_state['regime'].shape == [4, 3, 5]
  assert sampler(x).sample(3, seed=1).particles.root.shape == [3, 5]


# Bad input.

X = np.array([[0.1, 0.5, 0.8], [0.3, -0.4, -1.0]])


def make_model(**changes):
  return dataclasses.replace(linear_gaussian(), **changes)


def make_categorical_model(transitions, **changes):
  return make_model(
    **{
      'prior': None,
      'initial_fn': lambda _: tfd.Categorical(probs=double([1.0, 0.0])),
      'transition_fn': lambda z, _: tfd.Categorical(
        probs=tf.gather(double(transitions), z)
      ),
      'observation_fn': lambda z, _: tfd.Normal(
        tf.cast(z, tf.float64), double(1.0)
      ),
      **changes,
    }
  )


def pair(x):
  return tf.stack([x, x], axis=-1)


@pytest.mark.parametrize(
  'changes, error, match',
  [
    ({'prior': 3.0}, TypeError, '`prior` must be .* got 3.0'),
    (
      {'prior': tfd.Normal(double([0.0, 0.0]), 1.0)},
      ValueError,
      r'`prior` must have no batch shape.* got \[2\]',
    ),
    (
      {
        'prior': tfd.Normal(0.0, 1.0),
        'initial_fn': lambda _: FLAT,
        'transition_fn': lambda z, _: FLAT,
      },
      ValueError,
      '`prior` must have log densities of dtype float64.* got float32',
    ),
    ({'initial_fn': 3.0}, TypeError, '`initial_fn` must be a callable.* 3.0'),
    ({'transition_fn': None}, TypeError, '`transition_fn` must be a callable'),
    ({'observation_fn': 'x'}, TypeError, "`observation_fn` must.* got 'x'"),
    (
      {'initial_fn': lambda _: 3.0},
      TypeError,
      '`initial_fn` must return a tfd.Distribution; it returned 3.0',
    ),
    (
      {'transition_fn': lambda z, _: None},
      TypeError,
      '`transition_fn` must return a tfd.Distribution; it returned None',
    ),
    (
      {'observation_fn': lambda z, _: 3.0},
      TypeError,
      '`observation_fn` must return a tfd.Distribution; it returned 3.0',
    ),
    (
      {
        'initial_fn': lambda drift: tfd.JointDistributionSequential(
          [tfd.Normal(drift, double(1.0)), FLAT]
        )
      },
      ValueError,
      r'`initial_fn` must .* same batch shape.*\[\[16\], \[\]\]',
    ),
    (
      {'initial_fn': lambda drift: tfd.Normal(pair(drift), double(1.0))},
      ValueError,
      r'`initial_fn` must .* batch shape .* \[16\]; .* \[16, 2\]',
    ),
    (
      {'transition_fn': lambda z, _: tfd.Normal(pair(z), double(1.0))},
      ValueError,
      r'`transition_fn` must .* batch shape .* \[16\]; .* \[16, 2\]',
    ),
    (
      {'observation_fn': lambda z, _: tfd.Normal(pair(z), double(1.0))},
      ValueError,
      r'`observation_fn` must .* batch shape .* \[16\]; .* \[16, 2\]',
    ),
    (
      {
        'transition_fn': lambda z, _: tfd.MultivariateNormalDiag(
          pair(z), double([1.0, 1.0])
        )
      },
      ValueError,
      r'`transition_fn` must .* event shape \[\]; .* event shape \[2\]',
    ),
    (
      {'transition_fn': lambda z, _: tfd.Normal(tf.cast(z, tf.float32), 1.0)},
      ValueError,
      '`transition_fn` must .* dtype float64 .* dtype float32',
    ),
    (
      {'observation_fn': lambda z, _: tfd.Normal(tf.cast(z, tf.float32), 1.0)},
      ValueError,
      '`observation_fn` must have log densities of dtype float64',
    ),
  ],
)
def test_bad_models(changes, error, match):
  with pytest.raises(error, match=match):
    make_model(**changes)


FLAT = tfd.Normal(double(0.0), double(1.0))


@pytest.mark.parametrize(
  'row, match',
  [
    ([0.5, 0.6], r'it returned \[0.5, 0.6\], with the sum 1.1'),
    ([1.5, -0.5], 'not negative'),
    ([np.nan, 0.5], 'nan'),
  ],
)
def test_rows_of_probabilities(row, match):
  """Also of a state that the first draws do not reach, and inside of others."""
  with pytest.raises(ValueError, match=f'`transition_fn` must .*{match}'):
    make_categorical_model([[0.9, 0.1], row])
  with pytest.raises(ValueError, match=f'`initial_fn` must .*{match}'):
    make_categorical_model(
      np.eye(2), initial_fn=lambda _: tfd.Categorical(probs=double(row))
    )
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(probs=double(row)), tfd.Normal(double([0.0, 1.0]), 1.0)
  )
  with pytest.raises(ValueError, match=f'`prior` must .*{match}'):
    make_model(prior=mixture)
  joint = tfd.JointDistributionSequential(
    [tfd.OneHotCategorical(probs=double(row)), FLAT]
  )
  with pytest.raises(ValueError, match=f'`initial_fn` must .*{match}'):
    make_model(initial_fn=lambda _: joint)


@pytest.mark.parametrize(
  'arguments, match',
  [
    (
      dict(observations=[[0.1, np.nan, 0.8]]),
      r'`observations` must not be NaN .* \[0, 1\].*`is_observed`',
    ),
    (dict(observations=1.0), r'`observations` must have shape .* got \[\]'),
    (
      dict(observations=np.zeros([2, 0])),
      r'`observations` must have at least one step; got shape \[2, 0\]',
    ),
    (
      dict(observations=tf.zeros([2, 3])),
      '`observations` must be Tensors .* of dtype float64; got .*float32',
    ),
    (dict(observations=None), '`observations` must be Tensors .* got None'),
    (dict(observations=[[1.0], [2.0, 3.0]]), '`observations` must be Tensors'),
    (dict(observations={'x': X}), "`observations` must be Tensors .* {'x'"),
    (dict(lengths=[0, 2]), r'`lengths` must be from 1 to 3.* got \[0 2\]'),
    (dict(lengths=[3, 4]), r'`lengths` must be from 1 to 3.* got \[3 4\]'),
    (
      dict(lengths=[3]),
      r'`lengths` must be integers of shape \[2\].* int32 of shape \[1\]',
    ),
    (dict(lengths=[1.0, 2.0]), '`lengths` must be integers .* float32'),
    (dict(lengths='long'), '`lengths` must be integers .* string'),
    (
      dict(is_observed=np.ones([2, 3])),
      '`is_observed` must be bools .* got float64',
    ),
    (
      dict(is_observed=[True, False, True]),
      r'`is_observed` must be bools of shape \[2, 3\].* of shape \[3\]',
    ),
    (
      dict(is_observed=[[True], [True, False]]),
      '`is_observed` must be a Tensor; got',
    ),
    (dict(num_particles=0), '`num_particles` must be positive; got 0'),
    (
      dict(num_particles=2.5),
      '`num_particles` must be a positive Python int; got 2.5',
    ),
    (dict(seed='x'), '`seed` must be an int'),
    (
      dict(observations=[[0.1, np.inf, 0.8]]),
      r'No particle has any weight at step 2 of sequence \[0\]: '
      '`observations` must be possible',
    ),
  ],
)
def test_bad_sequences(arguments, match):
  sampler = nvi.StateSpaceSampler(linear_gaussian())
  arguments = {'observations': X, 'num_particles': 4, 'seed': 1, **arguments}
  # Values of another kind are TypeErrors.
  with pytest.raises((TypeError, ValueError), match=match):
    sampler.sample(**arguments, jit_compile=False)


def test_rank_of_vector_observations():
  model = make_model(
    observation_fn=lambda z, _: tfd.MultivariateNormalDiag(
      pair(z), double([1.0, 1.0])
    )
  )
  with pytest.raises(
    ValueError, match=r'`observations` .* event shape \[2\]; got \[2, 3\]'
  ):
    nvi.StateSpaceSampler(model).sample(X, 4)


def test_parts_of_observations():
  model = make_model(
    observation_fn=lambda z, _: tfd.JointDistributionSequential(
      [tfd.Normal(z, double(1.0)), tfd.Normal(z, double(1.0))]
    )
  )
  with pytest.raises(ValueError, match='`observations` must have parts'):
    nvi.StateSpaceSampler(model).sample([X, X[:, :2]], 4)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_impossible_observations(jit_compile):
  """Of a probability of zero under every state, or of none at all."""
  probs = double([[0.5, 0.5, 0.0], [0.3, 0.7, 0.0]])
  sampler = nvi.StateSpaceSampler(
    make_categorical_model(
      [[0.9, 0.1], [0.5, 0.5]],
      observation_fn=lambda z, _: tfd.Categorical(probs=tf.gather(probs, z)),
    )
  )
  with pytest.raises(
    ValueError,
    match=r'at step 2 of sequence \[1\]: `observations` must be possible',
  ):
    sampler.sample([[0, 1, 1], [0, 2, 1]], 8, seed=1, jit_compile=jit_compile)
  with pytest.raises(
    ValueError, match='`observations` must be possible.* to 2; .* from -1 to 5'
  ):
    sampler.sample([[0, 5, -1]], 8, jit_compile=jit_compile)
  # Whatever there is where nothing is observed.
  posterior = sampler.sample(
    [[0, -7, 1], [-7, -7, -7]],
    8,
    seed=1,
    is_observed=[[True, False, True], [False] * 3],
    jit_compile=jit_compile,
  )
  assert np.all(np.isfinite(posterior.log_normalizer))


@pytest.mark.parametrize('names', [{}, {'name': None}])
def test_draws_of_no_named_argument(names):
  densities = nvi.StateSpaceSampler(linear_gaussian())(X).densities
  with pytest.raises(
    ValueError, match='`initial_proposal` must draw values of the structure'
  ):
    densities.check(tf.zeros([4]), **names)


def test_observations_of_unknown_shape():
  sampler = nvi.StateSpaceSampler(linear_gaussian())

  @tf.function(
    input_signature=[tf.TensorSpec([None, 3], tf.float64)], autograph=False
  )
  def sample(x):
    return sampler.sample(x, 4).log_weights

  with pytest.raises(
    ValueError, match=r'`observations` must have a known shape; got \(None, 3\)'
  ):
    sample(X)


@pytest.mark.parametrize(
  'arguments, error, match',
  [
    (dict(model=3.0), TypeError, '`model` must be a StateSpaceModel; got 3.0'),
    (dict(proposal_fn=3), TypeError, '`proposal_fn` must be callable'),
    (
      dict(initial_proposal_fn=3),
      TypeError,
      '`initial_proposal_fn` must be callable or None; got 3',
    ),
    (dict(heuristic=3), TypeError, '`heuristic` must be a Heuristic .* got 3'),
    (
      dict(
        model=linear_gaussian(has_prior=False),
        initial_proposal_fn=wide_initial_proposal,
      ),
      ValueError,
      '`initial_proposal_fn` must be None if the model has no prior',
    ),
    (
      dict(proposal_fn=lambda x, z, drift: drift),
      TypeError,
      '`proposal_fn` must return a tfd.Distribution',
    ),
    (
      dict(proposal_fn=lambda x, z, drift: tfd.Normal(pair(drift), 1.0)),
      ValueError,
      r'`proposal_fn` must .* batch shape .* \[4, 2\]; .* \[4, 2, 2\]',
    ),
    (
      dict(
        proposal_fn=lambda x, z, drift: tfd.MultivariateNormalDiag(
          pair(drift), double([1.0, 1.0])
        )
      ),
      ValueError,
      r'`proposal_fn` must .* event shape \[\]; .* event shape \[2\]',
    ),
    (
      dict(proposal_fn=lambda x, z, drift: tfd.Categorical(logits=pair(drift))),
      ValueError,
      '`proposal_fn` must .* dtype float64 .* dtype int32',
    ),
    (
      dict(initial_proposal_fn=lambda x, _: x),
      TypeError,
      '`initial_proposal_fn` must return a tfd.Distribution',
    ),
    (
      dict(initial_proposal_fn=lambda x, _: tfd.Normal(x, double(1.0))),
      ValueError,
      r'`initial_proposal_fn` must .* here \[2\]; .* \[2, 3\]',
    ),
    (
      dict(
        initial_proposal_fn=lambda x, _: tfd.MultivariateNormalDiag(
          x, double([1.0, 1.0, 1.0])
        )
      ),
      ValueError,
      r'`initial_proposal_fn` must .* event shape \[\]; .* \[3\]',
    ),
    (
      dict(resample_criterion_fn=3),
      TypeError,
      '`resample_criterion_fn` must be callable; got 3',
    ),
  ],
)
def test_bad_samplers(arguments, error, match):
  # Some are seen at once, and others when there are observations.
  def sample():
    return nvi.StateSpaceSampler(
      **{'model': linear_gaussian(), **arguments}
    ).sample(X, 4, seed=1, jit_compile=False)

  with pytest.raises(error, match=match):
    sample()


@pytest.mark.parametrize(
  'arguments, error, match',
  [
    (dict(resample_fn=3), TypeError, '`resample_fn` must be callable; got 3'),
    (
      dict(resample_fn=lambda log_probs: log_probs),
      TypeError,
      '`resample_fn` must take log probabilities',
    ),
    (
      dict(resample_criterion_fn=3),
      TypeError,
      '`resample_criterion_fn` must be callable; got 3',
    ),
    (
      dict(reparameterize='no'),
      TypeError,
      "`reparameterize` must be a Python bool; got 'no'",
    ),
  ],
)
def test_bad_samplers_need_no_observations(arguments, error, match):
  with pytest.raises(error, match=match):
    nvi.StateSpaceSampler(linear_gaussian(), **arguments)


def test_run_takes_no_other_names():
  sampler = nvi.StateSpaceSampler(linear_gaussian())
  with pytest.raises(TypeError, match='trajectory'):
    sampler.run_once((), 4, tf.constant([0, 1]), trajectory=True)


def test_not_a_nested_proposal():
  sampler = nvi.StateSpaceSampler(linear_gaussian())(X)
  path = nvi.GeometricPath(FLAT, FLAT, 2)
  with pytest.raises(ValueError, match='cannot be used in a NestedProposal'):
    nvi.NestedSampler(
      path,
      nvi.GaussianTransitions(path, seed=1),
      initial_proposal=nvi.NestedProposal(sampler, 4),
    )


def test_simulation_has_steps():
  with pytest.raises(ValueError, match='`num_steps` must .* got 0'):
    linear_gaussian().simulate(0)


def test_support_of_observations():
  def sampler(observation_fn):
    return nvi.StateSpaceSampler(make_model(observation_fn=observation_fn))

  for observation_fn, x, name in (
    (lambda z, _: tfd.Bernoulli(logits=z), [[1, 0, 5]], 'Bernoulli'),
    (lambda z, _: tfd.Poisson(log_rate=z), [[1.0, 1.5, 0.0]], 'Poisson'),
    (
      lambda z, _: tfd.Exponential(tf.exp(z)),
      [[1.0, -1.0, 2.0]],
      'Exponential',
    ),
    (
      lambda z, _: tfd.Independent(tfd.Bernoulli(logits=pair(z)), 1),
      [[[0, 1], [1, 2], [0, 0]]],
      'Bernoulli',
    ),
  ):
    with pytest.raises(ValueError, match=f'`observations` must be .*{name}'):
      sampler(observation_fn).sample(np.array(x), 10, seed=1)


def test_numbers_of_states():
  with pytest.raises(ValueError, match='`transition_fn` must .* 2 states .* 3'):
    make_categorical_model([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
  model = make_categorical_model([[0.5, 0.5], [0.2, 0.8]])
  sampler = nvi.StateSpaceSampler(
    model,
    proposal_fn=lambda x, z, _: tfd.Categorical(logits=double([0.0, 0.0, 0.0])),
  )
  with pytest.raises(ValueError, match='`proposal_fn` must .* 2 states .* 3'):
    sampler.sample(X, 10, seed=1)


def test_simulated_nan_is_an_error():
  model = make_model(
    transition_fn=lambda z, _: tfd.Normal(tf.sqrt(z - 100.0), double(1.0))
  )
  with pytest.raises(ValueError, match='`transition_fn` must .* NaN'):
    model.simulate(3, [2], seed=1)


def test_states_without_a_density_at_themselves_train_with_lengths():
  # Where a sequence has ended its state stays, where the transition from that
  # state has no density.
  def above(z, loc):
    return tfd.TransformedDistribution(
      tfd.LogNormal(loc, double(1.0)), tfp.bijectors.Shift(z)
    )

  model = nvi.StateSpaceModel(
    None,
    lambda _: tfd.LogNormal(double(0.0), double(1.0)),
    lambda z, _: above(z, tf.zeros_like(z)),
    lambda z, _: tfd.Normal(z, double(1.0)),
  )
  loc = tf.Variable(double(0.5))
  sampler = nvi.StateSpaceSampler(
    model,
    proposal_fn=lambda x, z, _: above(
      tf.zeros_like(x) if z is None else z, loc + tf.zeros_like(x)
    ),
  )
  x = tf.constant(double([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
  _, ((gradient, _),) = nvi.rws()(
    sampler(x, lengths=[3, 1]), 20, seed=tf.constant([1, 2])
  )
  assert np.isfinite(gradient) and gradient != 0.0

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, each with the same number of evaluations.

The joint density of an instance is evaluated once for the start of each
particle, and once for each update of a block. A draw of a block from its exact
conditional distribution, and the gradient of a leapfrog step, count as an
evaluation too. A method with `L` particles or chains and `S` sweeps over two
blocks has `L * (1 + 2 * S)`.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import runs
from tfp_nvi.internal import randomness

__all__ = [
  'METHODS',
  'Outcome',
  'Problem',
  'final_log_joint',
  'gibbs_sweep',
]

_STEP_SIZES = (0.01, 0.02, 0.05, 0.1, 0.2)
_MAX_LEAPFROG_STEPS = 5


class Problem(NamedTuple):
  """The instances, and how much work each method may do.

  Fields:
    mixture: `GaussianMixture`.
    proposals: `Proposals`.
    x: float `Tensor` of shape `[num_instances, num_points, num_dimensions]`.
    num_particles: Python `int`: particles or chains.
    num_sweeps: Python `int`.
    seed: Stateless seed.
  """

  mixture: Any
  proposals: Any
  x: tf.Tensor
  num_particles: int
  num_sweeps: int
  seed: tf.Tensor


class Outcome(NamedTuple):
  """The final particles of a method, and its course.

  Fields:
    state: State of shape `[num_particles, num_instances]`: the final particles.
    log_weights: Their log weights, of that shape.
    num_evaluations: Array of shape `[num_stages]`: evaluations of the joint of
      an instance so far.
    log_joint: Array of shape `[num_stages]`: the weighted mean over particles,
      and the mean over instances, of `log p(x, z)`.
    has_weights: Python `bool`: whether the effective sample size is meaningful.
  """

  state: Any
  log_weights: Any
  num_evaluations: np.ndarray
  log_joint: np.ndarray
  has_weights: bool


def _compiled(fn):
  return tf.function(fn, autograph=False)


def _weighted_mean(log_joint, log_weights):
  """Returns the mean over particles, of shape `[num_instances]`."""
  return nvi.weighted_mean(nvi.normalize_weights(log_weights), log_joint)


def _mean_log_joint(problem, state, log_weights=None):
  """Returns the mean over particles and instances; weights may be left out."""
  log_joint = problem.mixture.log_joint(state, problem.x)
  if log_weights is None:
    return tf.reduce_mean(log_joint, axis=[-2, -1])
  return tf.reduce_mean(_weighted_mean(log_joint, log_weights))


def final_log_joint(problem, outcome):
  """Returns the weighted mean over final particles of `log p(x, z)`.

  Args:
    problem: `Problem`.
    outcome: `Outcome`.

  Returns:
    log_joint: float `Tensor` of shape `[num_instances]`.
  """
  log_joint = problem.mixture.log_joint(outcome.state, problem.x)
  return _weighted_mean(log_joint, outcome.log_weights)


def _one_shot(problem, num_particles):
  """Returns one-shot draws, their log weights and log joints."""

  @_compiled
  def draw(seed):
    proposal = problem.proposals.first(problem.x)
    with randomness.portable_sampling():
      state = proposal.sample(num_particles, seed=seed)
    log_density = problem.mixture.log_density(state, problem.x)
    return (
      dict(state),
      log_density - proposal.log_prob(state),
      problem.mixture.log_joint(state, problem.x),
    )

  return draw(problem.seed)


def _rws(problem):
  """Runs importance sampling by the one-shot proposal, with many particles."""
  sizes = problem.num_particles * (1 + 2 * np.arange(problem.num_sweeps + 1))
  state, log_weights, log_joint = _one_shot(problem, sizes[-1])
  values = [
    tf.reduce_mean(_weighted_mean(log_joint[:n], log_weights[:n]))
    for n in sizes
  ]
  return Outcome(state, log_weights, sizes, np.array(values), True)


def gibbs_sweep(mixture, state, x, seed):
  """Draws both blocks in turn, each given the other one.

  Args:
    mixture: `GaussianMixture`, or an object with its conditional distributions.
    state: State of shape `[num_particles] + batch`.
    x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.
    seed: Stateless seed.

  Returns:
    state: State of that shape.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments import amortized_gibbs
  from tfp_nvi.experiments.amortized_gibbs import methods

  mixture = amortized_gibbs.GaussianMixture(num_points=20)
  x, z = mixture.simulate(4, seed=tf.constant([1, 2]))
  z = methods.gibbs_sweep(mixture, z, x, seed=tf.constant([3, 4]))
  ```
  """
  seeds = tf.unstack(randomness.split_seed(seed, 2))
  with randomness.portable_sampling():
    clusters = mixture.clusters_given_rest(state, x).sample(seed=seeds[0])
    state = {**state, **clusters}
    assignments = mixture.assignments_given_rest(state, x)
    return {**state, 'assignments': assignments.sample(seed=seeds[1])}


def _gibbs_from(problem, state):
  """Runs chains that draw from exact conditional distributions."""

  @_compiled
  def sweep(state, seed):
    state = gibbs_sweep(problem.mixture, state, problem.x, seed)
    return state, _mean_log_joint(problem, state)

  values = [_mean_log_joint(problem, state)]
  for i in range(problem.num_sweeps):
    state, value = sweep(state, randomness.fold_in(problem.seed, i))
    values.append(value)
  return Outcome(
    state,
    tf.zeros([problem.num_particles, problem.x.shape[0]]),
    problem.num_particles * (1 + 2 * np.arange(problem.num_sweeps + 1)),
    np.array(values),
    False,
  )


def _gibbs(problem):
  """Runs exact Gibbs sampling from draws of the one-shot proposal."""
  return _gibbs_from(problem, _one_shot(problem, problem.num_particles)[0])


def _gibbs_prior(problem):
  """Runs exact Gibbs sampling from draws of the prior."""
  mixture, shape = problem.mixture, [problem.num_particles, problem.x.shape[0]]
  _, state = mixture.simulate(int(np.prod(shape)), problem.seed)
  state = tf.nest.map_structure(
    lambda x: tf.reshape(x, shape + x.shape[1:].as_list()), state
  )
  return _gibbs_from(problem, state)


def _make_hamiltonian(problem):
  """Makes Hamiltonian Monte Carlo with assignments integrated out.

  Args:
    problem: `Problem`; its instances and its seed are not read.

  Returns:
    run: Python callable from instances, a step size and a seed to states, of
      shape `[1 + num_results, num_particles, num_instances]`, and their mean
      log joint densities.
    num_leapfrog_steps: Python `int`: the number of gradients for a result.
  """
  mixture, num_gradients = problem.mixture, 2 * problem.num_sweeps
  num_leapfrog_steps = max(
    k for k in range(1, _MAX_LEAPFROG_STEPS + 1) if num_gradients % k == 0
  )
  names = ('log_precisions', 'means')

  @_compiled
  def run(x, step_size, seed):
    seeds = tf.unstack(randomness.split_seed(seed, 3))

    def log_marginal(*parts):
      return mixture.log_marginal(dict(zip(names, parts, strict=True)), x)

    with randomness.portable_sampling():
      first = problem.proposals.first(x).sample(
        problem.num_particles, seed=seeds[0]
      )
      parts = [first[name] for name in names]
      draws = tfp.mcmc.sample_chain(
        num_gradients // num_leapfrog_steps,
        parts,
        kernel=tfp.mcmc.HamiltonianMonteCarlo(
          log_marginal, step_size, num_leapfrog_steps
        ),
        trace_fn=None,
        seed=seeds[1],
      )
      states = {
        name: tf.concat([part[tf.newaxis], draw], axis=0)
        for name, part, draw in zip(names, parts, draws, strict=True)
      }
      assignments = mixture.assignments_given_rest(states, x)
      states['assignments'] = assignments.sample(seed=seeds[2])
    return states, _mean_log_joint(problem._replace(x=x), states)

  return run, num_leapfrog_steps


def _hmc_rws(problem):
  """Runs Hamiltonian chains with the best step size on other instances."""
  run, num_leapfrog_steps = _make_hamiltonian(problem)
  seeds = tf.unstack(randomness.split_seed(problem.seed, 3))
  other_x, _ = problem.mixture.simulate(problem.x.shape[0], seeds[0])
  finals = [
    run(other_x, tf.constant(step_size), seeds[1])[1][-1]
    for step_size in _STEP_SIZES
  ]
  step_size = _STEP_SIZES[int(np.nanargmax(finals))]
  states, log_joint = run(problem.x, tf.constant(step_size), seeds[2])
  return Outcome(
    tf.nest.map_structure(lambda z: z[-1], states),
    tf.zeros(states['means'].shape[1:3]),
    problem.num_particles
    * (1 + num_leapfrog_steps * np.arange(len(log_joint))),
    np.array(log_joint),
    False,
  )


def _apg(problem):
  """Runs the amortized Gibbs sampler."""
  # A sweep is compiled once; each call continues from the particles of the
  # sweep before.
  sampler = problem.proposals.sampler(problem.x, num_sweeps=1)

  @_compiled
  def start(seed):
    particles = sampler.start(problem.num_particles, seed).initial
    return particles, _mean_log_joint(
      problem, particles.state, particles.log_weights
    )

  @_compiled
  def sweep(particles, seed):
    run = sampler.start(problem.num_particles, seed)
    particles = sampler.fold(
      run._replace(initial=particles), runs.NanCounter(run)
    )
    return particles, _mean_log_joint(
      problem, particles.state, particles.log_weights
    )

  particles, value = start(problem.seed)
  values = [value]
  for i in range(problem.num_sweeps):
    particles, value = sweep(particles, randomness.fold_in(problem.seed, i))
    values.append(value)
  return Outcome(
    dict(particles.state),
    particles.log_weights,
    problem.num_particles * (1 + 2 * np.arange(problem.num_sweeps + 1)),
    np.array(values),
    True,
  )


# Names of the methods, as in tables and pictures, their colors, and functions
# from a `Problem` to an `Outcome`.
METHODS = {
  'gibbs_prior': ('Gibbs, from the prior', '#999999', _gibbs_prior),
  'gibbs': ('Gibbs, from the one-shot proposal', '#e69f00', _gibbs),
  'hmc_rws': ('HMC, from the one-shot proposal', '#009e73', _hmc_rws),
  'rws': ('one-shot proposal (RWS)', '#0072b2', _rws),
  'apg': ('amortized Gibbs (APG)', '#d55e00', _apg),
}

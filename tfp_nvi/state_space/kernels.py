# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Markov kernels that leave the posterior of a sequence invariant.

They have the interface of `tfp.mcmc.TransitionKernel`, and run in
`tfp.mcmc.sample_chain`. All of them run a filter for given global states, whose
estimate of the likelihood is unbiased, with one filter for each chain.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import resampling
from tfp_nvi.internal import axes, checks, randomness, types
from tfp_nvi.state_space import (
  global_space,
  guided,
  missing,
  recorder,
  smoothing,
)
from tfp_nvi.state_space import history as history_lib
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.densities import StateSpaceState
from tfp_nvi.state_space.sampler import StateSpaceSampler

__all__ = [
  'ConditionalFilter',
  'ConditionalFilterResults',
  'ParticleMetropolis',
  'ParticleMetropolisResults',
  'log_likelihood_fn',
  'metropolis',
]


def log_likelihood_fn(
  sampler: StateSpaceSampler,
  num_particles: int,
  looks_ahead: bool = True,
) -> Callable:
  """Makes a function that estimates the likelihood of given global states.

  Args:
    sampler: `StateSpaceSampler` of a model with a prior.
    num_particles: Python `int`: particles of each filter.
    looks_ahead: Python `bool`, as in `StateSpaceSampler.given`.
      Default value: `True`.

  Returns:
    fn: Python callable from the parts of a single sequence, global states of
      shape `[num_chains] + event` and a stateless seed to `Tensor`s of shape
      `[num_steps + 1, num_chains]`, which add up to the estimates of
      `log p(x | theta)`.
  """

  def fn(parts, theta, seed):
    size = tf.nest.flatten(theta)[0].shape[0]
    given = sampler.given(theta, 1, looks_ahead)
    increments = given.run_once(
      smoothing.repeat_parts(parts, size), num_particles, seed
    ).log_normalizer_increments
    zero = tf.constant(-float('inf'), increments.dtype)
    return tf.where(tf.math.is_nan(increments), zero, increments)

  return fn


def metropolis(
  space: global_space.GlobalSpace,
  scale: tf.Tensor,
  estimate_fn: Callable,
  log_likelihood_of: Callable,
  theta: types.Structure,
  estimate: types.Structure,
  seed: types.StatelessSeed,
) -> tuple:
  """Takes a step of a random walk over global states, accepted by estimates.

  Args:
    space: `GlobalSpace`.
    scale: `Tensor` of shape `[size, size]`: a factor of the covariance of the
      walk.
    estimate_fn: Python callable from global states and a stateless seed to a
      `Tensor` of shape `any + [num_chains]`.
    log_likelihood_of: Python callable from that to an estimate of the log
      likelihood, of shape `[num_chains]`.
    theta: Nested structure of `Tensor`s of shape `[num_chains] + event`.
    estimate: The value of `estimate_fn` at `theta` when it was accepted.
    seed: Stateless seed.

  Returns:
    theta: Like the argument.
    estimate: Likewise.
    is_accepted: bool `Tensor` of shape `[num_chains]`.
  """
  walk_seed, run_seed, accept_seed = tf.unstack(randomness.split_seed(seed, 3))
  y = space.vector(theta)
  noise = randomness.normal(y.shape, walk_seed, y.dtype)
  proposed_y = y + tf.linalg.matvec(scale, noise)
  proposed = space.state(proposed_y)
  new = estimate_fn(proposed, run_seed)
  log_ratio = (
    space.log_prior(proposed_y)
    + log_likelihood_of(new)
    - space.log_prior(y)
    - log_likelihood_of(estimate)
  )
  uniform = randomness.uniform(log_ratio.shape, accept_seed, log_ratio.dtype)
  # NaN is not accepted.
  is_accepted = tf.math.log(uniform) < log_ratio
  return (
    axes.select(is_accepted, proposed, theta),
    tf.where(is_accepted, new, estimate),
    is_accepted,
  )


class ParticleMetropolisResults(NamedTuple):
  """The results of a step of `ParticleMetropolis`.

  Fields:
    log_likelihood: float `Tensor` of shape `[num_chains]`: the estimate that
      was accepted with the state.
    is_accepted: bool `Tensor` of shape `[num_chains]`.
    seed: Stateless seed of the step.
  """

  log_likelihood: tf.Tensor
  is_accepted: tf.Tensor
  seed: tf.Tensor


class ParticleMetropolis(tfp.mcmc.TransitionKernel):
  """Particle marginal Metropolis-Hastings over the global state.

  This is a random walk in the space of the prior's event-space bijector,
  accepted by estimates of the likelihood. It leaves the posterior of the global
  state invariant for any number of particles.

  #### References

  [1]: C. Andrieu, A. Doucet, R. Holenstein. Particle Markov chain Monte Carlo
       methods. Journal of the Royal Statistical Society B, 72(3), 2010.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.4),
  )
  kernel = nvi.ParticleMetropolis(
    nvi.StateSpaceSampler(model, proposal_fn='guided'),
    observations=[0.1, 0.5, 0.8],
    num_particles=20,
  )
  drifts = tfp.mcmc.sample_chain(
    num_results=5,
    current_state=tf.zeros([3]),
    kernel=kernel,
    trace_fn=None,
    seed=1,
  )
  assert drifts.shape == [5, 3]
  ```
  """

  def __init__(
    self,
    sampler: StateSpaceSampler,
    observations: types.Structure,
    num_particles: int = 100,
    scale: types.TensorLike = 0.3,
    is_observed: types.Structure | None = None,
    inputs: types.Structure | None = None,
  ):
    """Initializes the kernel.

    Args:
      sampler: `StateSpaceSampler` of a model with a prior.
      observations: Nested structure of `Tensor`s of shape
        `[num_steps] + event`: one sequence.
      num_particles: Python `int`: particles of each filter.
        Default value: `100`.
      scale: Python `float`, in units of the prior's spread; or a `Tensor` of
        shape `[size, size]`, a factor of the covariance of the steps in the
        vector space of the prior.
        Default value: `0.3`.
      is_observed: As in `StateSpaceSampler.sample`.
      inputs: As in `StateSpaceSampler.sample`.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the model has no prior, or the arguments are not one
        sequence of the model.
    """
    checks.check_instance(
      'sampler', sampler, StateSpaceSampler, 'a StateSpaceSampler'
    )
    if sampler.model.prior is None:
      raise ValueError(
        '`sampler` must be of a model with a prior over global states.'
      )
    self._space = global_space.GlobalSpace(sampler.model.prior)
    scale = checks.as_tensor('scale', scale, self._space.dtype)
    if scale.shape.rank == 0:
      scale = scale * tf.eye(self._space.size, dtype=scale.dtype)
    self._scale = scale
    parts = smoothing.as_single(
      sampler, observations, is_observed, inputs
    ).parts()
    self._estimate = functools.partial(
      log_likelihood_fn(
        sampler, checks.as_count('num_particles', num_particles)
      ),
      parts,
    )

  @property
  def is_calibrated(self) -> bool:
    """`True`: the kernel leaves the posterior invariant."""
    return True

  def bootstrap_results(
    self, init_state: types.Structure
  ) -> ParticleMetropolisResults:
    """Returns the results before the first step.

    Args:
      init_state: Nested structure of `Tensor`s of shape
        `[num_chains] + event`: global states.

    Returns:
      results: `ParticleMetropolisResults`.
    """
    estimate = tf.reduce_sum(
      self._estimate(init_state, randomness.as_seed(0)), axis=0
    )
    return ParticleMetropolisResults(
      estimate, tf.ones(estimate.shape, tf.bool), randomness.as_seed(None)
    )

  def one_step(
    self,
    current_state: types.Structure,
    previous_kernel_results: ParticleMetropolisResults,
    seed: types.Seed | None = None,
  ) -> tuple[types.Structure, ParticleMetropolisResults]:
    """Takes a step in all chains.

    Args:
      current_state: Nested structure of `Tensor`s of shape
        `[num_chains] + event`.
      previous_kernel_results: `ParticleMetropolisResults`.
      seed: Python `int` or stateless seed.

    Returns:
      state: Like `current_state`.
      results: `ParticleMetropolisResults`.
    """
    seed = randomness.next_seed(seed, previous_kernel_results.seed)
    state, estimate, is_accepted = metropolis(
      self._space,
      self._scale,
      lambda theta, seed: tf.reduce_sum(self._estimate(theta, seed), axis=0),
      lambda estimate: estimate,
      current_state,
      previous_kernel_results.log_likelihood,
      seed,
    )
    return state, ParticleMetropolisResults(estimate, is_accepted, seed)


class ConditionalFilterResults(NamedTuple):
  """The results of a step of `ConditionalFilter`.

  Fields:
    is_moved: bool `Tensor` of shape `[num_steps] + batch`: which states are not
      those of the trajectory before.
    seed: Stateless seed of the step.
  """

  is_moved: tf.Tensor
  seed: tf.Tensor


class ConditionalFilter(tfp.mcmc.TransitionKernel):
  """Conditional sequential Monte Carlo with ancestor sampling.

  The state is a trajectory of local states. One particle of the filter follows
  it, and its ancestor is drawn anew at each step, so that the trajectory that
  is drawn at the end shares hardly any part with the one before, even with few
  particles. The kernel leaves the smoothing distribution invariant for any
  number of particles.

  #### References

  [1]: F. Lindsten, M. I. Jordan, T. B. Schon. Particle Gibbs with ancestor
       sampling. Journal of Machine Learning Research, 15, 2014.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(0.9 * z, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.4),
  )
  kernel = nvi.ConditionalFilter(
    nvi.StateSpaceSampler(model, proposal_fn='guided'),
    observations=[0.1, 0.5, 0.8],
    num_particles=10,
  )
  z = tfp.mcmc.sample_chain(
    num_results=5,
    current_state=tf.zeros([7, 3]),
    kernel=kernel,
    trace_fn=None,
    seed=1,
  )
  assert z.shape == [5, 7, 3]
  ```
  """

  def __init__(
    self,
    sampler: StateSpaceSampler,
    observations: types.Structure,
    num_particles: int = 20,
    global_state: types.Structure | None = None,
    is_observed: types.Structure | None = None,
    inputs: types.Structure | None = None,
  ):
    """Initializes the kernel.

    Args:
      sampler: `StateSpaceSampler`. The kernel uses the guided proposal if there
        is one, else the prior.
      observations: Nested structure of `Tensor`s of shape
        `[num_steps] + event`: one sequence.
      num_particles: Python `int`, at least 2.
        Default value: `20`.
      global_state: Nested structure of `Tensor`s of shape
        `[num_chains] + event`, if the model has a prior.
        Default value: `None`.
      is_observed: As in `StateSpaceSampler.sample`.
      inputs: As in `StateSpaceSampler.sample`.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If a global state is given and must not be, or the other way
        round, or the arguments are not one sequence of the model.
    """
    checks.check_instance(
      'sampler', sampler, StateSpaceSampler, 'a StateSpaceSampler'
    )
    self._num_particles = checks.as_count('num_particles', num_particles, 2)
    if (global_state is None) != (sampler.model.prior is None):
      raise ValueError(
        '`global_state` must be given if the model has a prior, and only then; '
        f'got {global_state!r}.'
      )
    self._sequences = smoothing.as_single(
      sampler, observations, is_observed, inputs
    )
    given = sampler.given(global_state, 1, looks_ahead=False)
    self._model = given.model
    self._proposal = None
    if given.proposal_fn == 'guided':
      self._proposal = guided.GuidedProposal(given.model)

  @property
  def is_calibrated(self) -> bool:
    """`True`: the kernel leaves the posterior invariant."""
    return True

  def bootstrap_results(
    self, init_state: types.Structure
  ) -> ConditionalFilterResults:
    """Returns the results before the first step.

    Args:
      init_state: Nested structure of `Tensor`s of shape
        `[num_chains, num_steps] + event`: trajectories.

    Returns:
      results: `ConditionalFilterResults`.
    """
    num_chains = tf.nest.flatten(init_state)[0].shape[0]
    return ConditionalFilterResults(
      tf.zeros([self._sequences.num_steps, num_chains], tf.bool),
      randomness.as_seed(None),
    )

  def _propose(self, t, before, path, shape, seed):
    """Proposes states of a step, with the path as the last, and weights.

    Args:
      t: Scalar int32 `Tensor`.
      before: Local states before, or `None`.
      path: Local states of the trajectory at this step, `[num_chains] + event`.
      shape: `TensorShape`: `[num_particles, num_chains]`.
      seed: Stateless seed.

    Returns:
      z: Nested structure of `Tensor`s of shape `shape + event`.
      log_weights: `Tensor` of shape `shape`.
    """
    model, sequences = self._model, self._sequences
    x, u, mask = tf.nest.map_structure(
      lambda x: x[t],
      (
        sequences.observations,
        sequences.inputs,
        () if sequences.components is None else sequences.components,
      ),
    )
    is_observed = sequences.is_observed
    mask = None if sequences.components is None else mask
    named = dict(t=t, u=u)

    def observation_fn(z, theta, shape):
      distribution = model.observation(z, theta, **named, shape=shape)
      return missing.marginal(distribution, x, mask)

    if before is None:
      prior = model.initial((), **named, shape=shape)
    else:
      prior = model.transition(before, (), **named, shape=shape)
    proposal = prior
    if self._proposal is not None:
      index = tf.zeros(shape, tf.int32)
      proposal = self._proposal.distribution(
        prior,
        observation_fn,
        x,
        None,
        t,
        StateSpaceState((), before, index, index, index),
      )
    proposal_seed, prior_seed = tf.unstack(randomness.split_seed(seed, 2))
    z = model_lib.sample_of_shape(proposal, shape.as_list(), proposal_seed)
    # Where nothing is observed the proposal is the prior.
    use_prior = None
    if proposal is not prior and is_observed is not None:
      use_prior = tf.logical_not(tf.broadcast_to(is_observed[t], shape))
      other = model_lib.sample_of_shape(prior, shape.as_list(), prior_seed)
      z = axes.select(use_prior, other, z)
    z = tf.nest.map_structure(
      lambda z, x: tf.concat([z[:-1], x[tf.newaxis]], axis=0), z, path
    )
    likelihood = observation_fn(z, (), shape).log_prob(x)
    if is_observed is not None:
      likelihood = tf.where(is_observed[t], likelihood, 0.0)
    log_weights = likelihood
    if proposal is not prior:
      log_ratio = prior.log_prob(z) - proposal.log_prob(z)
      if use_prior is not None:
        log_ratio = tf.where(use_prior, tf.zeros_like(log_ratio), log_ratio)
      log_weights += log_ratio
    log_weights = tf.broadcast_to(log_weights, shape)
    zero = tf.constant(-float('inf'), log_weights.dtype)
    return z, tf.where(tf.math.is_nan(log_weights), zero, log_weights)

  def _ancestors(self, t, z, log_weights, path, shape, seed):
    """Draws ancestors by weight; the last by its transition to the path too."""
    seeds = tf.unstack(randomness.split_seed(seed, 2))
    u = tf.nest.map_structure(lambda x: x[t], self._sequences.inputs)
    transition = self._model.transition(z, (), t, u, shape).log_prob(path)
    others = history_lib.draw_index(log_weights, seeds[0], shape[0] - 1)
    own = history_lib.draw_index(log_weights + transition, seeds[1])
    return tf.concat([others, own[tf.newaxis]], axis=0)

  def one_step(
    self,
    current_state: types.Structure,
    previous_kernel_results: ConditionalFilterResults,
    seed: types.Seed | None = None,
  ) -> tuple[types.Structure, ConditionalFilterResults]:
    """Draws another trajectory in each chain.

    Args:
      current_state: Nested structure of `Tensor`s of shape
        `[num_chains, num_steps] + event`.
      previous_kernel_results: `ConditionalFilterResults`.
      seed: Python `int` or stateless seed.

    Returns:
      state: Like `current_state`.
      results: `ConditionalFilterResults`.
    """
    seed = randomness.next_seed(seed, previous_kernel_results.seed)
    num_steps = self._sequences.num_steps
    path = tf.nest.map_structure(
      lambda x: steps_lib.steps_first(x, 1), current_state
    )
    num_chains = tf.nest.flatten(current_state)[0].shape[0]
    shape = tf.TensorShape([self._num_particles, num_chains])
    seeds = tf.reshape(
      randomness.split_seed(seed, 2 * num_steps + 2), [num_steps + 1, 2, 2]
    )

    def path_at(t):
      return tf.nest.map_structure(lambda x: x[t], path)

    zero = tf.constant(0)
    z, log_weights = self._propose(
      zero, None, path_at(zero), shape, seeds[0, 0]
    )
    own = axes.particle_indices(shape)

    def body(t, carry):
      z, log_weights, arrays = carry
      ancestors = self._ancestors(
        t, z, log_weights, path_at(t), shape, seeds[t, 1]
      )
      before = tf.nest.map_structure(
        lambda x: resampling.gather_ancestors(x, ancestors), z
      )
      z, log_weights = self._propose(t, before, path_at(t), shape, seeds[t, 0])
      return z, log_weights, steps_lib.write(arrays, t, (z, ancestors))

    arrays = steps_lib.arrays_like((z, own), num_steps)
    z, log_weights, arrays = steps_lib.loop(
      num_steps,
      body,
      (z, log_weights, steps_lib.write(arrays, 0, (z, own))),
    )
    index = history_lib.draw_index(log_weights, seeds[num_steps, 0], 1)
    states, ancestors = tf.nest.map_structure(lambda a: a.stack(), arrays)
    paths = recorder.read_back(
      (states, tf.broadcast_to(own, ancestors.shape)), ancestors, shape
    )
    path, indices = tf.nest.map_structure(
      lambda x: resampling.gather_ancestors(x, index)[0], paths
    )
    is_moved = tf.transpose(indices != self._num_particles - 1)
    return path, ConditionalFilterResults(is_moved, seed)

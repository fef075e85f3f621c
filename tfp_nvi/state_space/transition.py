# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The transition that adds a local state to the particles of a sequence."""

import copy
import enum
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import axes, randomness, reductions, types
from tfp_nvi.state_space import functions, missing
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.densities import (
  StateSpaceDensities,
  StateSpaceState,
)
from tfp_nvi.state_space.guided import LocalProposal

__all__ = [
  'NanSource',
  'StepTransition',
]


class NanSource(enum.IntEnum):
  """The sources of a NaN weight, as records of moves have them.

  A larger number is the cause of the smaller ones, as proposals make the states
  that the others are evaluated at. At level 0, the prior takes the place of the
  transition.
  """

  NONE = 0
  HEURISTIC = 1
  OBSERVATION = 2
  TRANSITION = 3
  PROPOSAL = 4


class StepTransition(transitions_lib.Transition):
  """A transition that adds the first local state, or the later ones in turn.

  The first step has a transition of its own, as no local state comes before.
  """

  # The reverse kernel has the likelihood and the prior of the step.
  has_normalized_reverse = False

  def __init__(
    self,
    densities: StateSpaceDensities,
    proposal: Any,
    is_first: bool,
    reparameterize: bool,
    records_nan: bool = False,
  ):
    """Initializes the transition.

    Args:
      densities: `StateSpaceDensities`.
      proposal: `None`, `LocalProposal`, or callable from an observation, the
        local state before, and the global state, which takes `t` and `u`.
      is_first: Python `bool`.
      reparameterize: Python `bool`: whether gradients may pass through states.
      records_nan: Python `bool`: whether the record of a move is the
        `NanSource` of each particle, and not the record that `replay` takes.
        Default value: `False`.
    """
    super().__init__(name='first_step' if is_first else 'later_steps')
    self._densities = densities
    self._proposal = proposal
    self._is_first = is_first
    self._reparameterize = reparameterize
    self._records_nan = records_nan
    self._first_step = 0 if is_first else 1
    self.num_transitions = 1 if is_first else densities.num_steps - 1
    self.is_rollable = not is_first
    # Levels cannot be batched if samples are made again from their seeds, which
    # a batch does not have, or if functions see one step `t` at a time.
    self._is_local = isinstance(proposal, LocalProposal)
    self._given = None
    names_step = densities.model.names_step or (
      proposal is not None and (self._is_local or proposal.names_step)
    )
    self.is_level_batched = not (is_first or reparameterize or names_step)
    self.records_noise = reparameterize and not records_nan

  def given(self, densities: Any) -> 'StepTransition':
    """Returns the transition of a run, which may propose by its heuristic."""
    if not self._is_local:
      return self
    other = copy.copy(self)
    other._given = densities
    return other

  def record_like(
    self, noise: types.Structure, state: types.Structure
  ) -> types.Structure:
    """Returns the seed if samples are differentiated, or else the samples."""
    if self._records_nan:
      return tf.zeros_like(state.root)
    return noise if self._reparameterize else state.local_state

  def _at_step(self, x, step):
    """Returns the part of a step of `Tensor`s over all steps."""
    rank = self._densities.batch_shape.rank
    return tf.nest.map_structure(
      lambda x: axes.at_level(steps_lib.steps_first(x, rank), step), x
    )

  def _observed(self, distribution, observation, step):
    """Returns the distribution of the observed components of a step."""
    if self._densities.components is None:
      return distribution
    mask = self._at_step(self._densities.components, step)
    return missing.marginal(distribution, observation, mask)

  def _distributions(self, step, previous):
    """Returns the prior of a local state, its proposal, and the observation."""
    densities, model = self._densities, self._densities.model
    shape, theta = previous.root.shape, previous.global_state
    observation = self._at_step(densities.observations, step)
    named = self._named(step)
    local = None if self._is_first else previous.local_state
    if self._is_first:
      prior = model.initial(theta, **named, shape=shape)
    else:
      prior = model.transition(local, theta, **named, shape=shape)
    if self._proposal is None:
      return prior, prior, observation
    if self._is_local:
      proposal = self._proposal.distribution(
        prior,
        lambda z, theta, shape: self._observed(
          model.observation(z, theta, **named, shape=shape), observation, step
        ),
        observation,
        self._given,
        step,
        previous,
      )
    else:
      proposal = self._proposal(observation, local, theta, **named)
    functions.check_distribution(
      'proposal_fn', proposal, shape, densities.local_like
    )
    counts = [functions.num_categories(d) for d in (prior, proposal)]
    if None not in counts and counts[0] != counts[1]:
      raise ValueError(
        f'`proposal_fn` must return a distribution over the {counts[0]} states '
        f'of the model; it returned one over {counts[1]} states.'
      )
    return prior, proposal, observation

  def _named(self, step):
    """Returns the index and inputs of a step, for functions that name them."""
    t = None if isinstance(step, range) else tf.convert_to_tensor(step)
    return dict(t=t, u=self._at_step(self._densities.inputs, step))

  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: types.Structure,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Proposes local states; see `Transition.propose`."""
    del target_log_prob_fn
    return self._move(
      level, previous, noise, reparameterize, lambda draw: draw(noise)
    )

  def replay(
    self,
    level: int | tf.Tensor | range,
    previous: types.Structure,
    record: types.Structure,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Makes a move again; see `Transition.replay`."""
    if self._reparameterize:
      return self.propose(
        level, previous, record, target_log_prob_fn, reparameterize
      )
    return self._move(level, previous, record, False, lambda _: record)

  def _move(self, level, previous, noise, reparameterize, get_sample_fn):
    densities = self._densities
    shape = previous.root.shape
    if isinstance(level, range):
      step = range(
        level.start + self._first_step, level.stop + self._first_step
      )
    else:
      step = level + self._first_step
    prior, proposal, observation = self._distributions(step, previous)
    is_observed, is_active = self._masks(step, shape)
    # Where nothing is observed the proposal is the prior.
    use_proposal = is_observed
    if proposal is prior or (
      self._is_local and not self._proposal.needs_observation
    ):
      use_proposal = None

    def draw(seed):
      proposal_seed, prior_seed = tf.unstack(randomness.split_seed(seed, 2))
      z = model_lib.sample_of_shape(proposal, shape.as_list(), proposal_seed)
      if use_proposal is not None:
        other = model_lib.sample_of_shape(prior, shape.as_list(), prior_seed)
        z = axes.select(use_proposal, z, other)
      return z

    def where_active(log_prob):
      log_prob = tf.broadcast_to(log_prob, shape)
      if is_active is None:
        return log_prob
      return tf.where(is_active, log_prob, tf.zeros_like(log_prob))

    def log_forward_fn(z):
      log_prob = proposal.log_prob(z)
      if use_proposal is not None:
        log_prob = tf.where(use_proposal, log_prob, prior.log_prob(z))
      return where_active(log_prob)

    move = transitions_lib.as_draw(
      proposal,
      get_sample_fn(draw),
      log_forward_fn,
      self._reparameterize and reparameterize,
    )
    z = move.state
    likelihood = self._observed(
      densities.model.observation(
        z, previous.global_state, **self._named(step), shape=shape
      ),
      observation,
      step,
    ).log_prob(observation)
    if is_observed is not None:
      likelihood = tf.where(is_observed, likelihood, tf.zeros_like(likelihood))
    log_prior = prior.log_prob(z)
    log_reverse = where_active(log_prior + likelihood)
    # Densities and their gradients are evaluated at the draw, which has a
    # density; the state before may have none under the kernel.
    local_state = z
    if is_active is not None:
      local_state = axes.select(is_active, z, previous.local_state)
    state = StateSpaceState(
      previous.global_state,
      local_state,
      axes.particle_indices(shape),
      previous.index,
      previous.root,
    )
    move = move._replace(
      state=state,
      log_reverse=log_reverse,
      log_reverse_fixed_states=tf.stop_gradient(log_reverse),
      record=noise if self._reparameterize else z,
    )
    return self._without_nan(move, where_active(log_prior))

  def _masks(self, step, shape):
    """Returns whether steps are observed, and within sequences, or `None`s."""
    densities, is_observed, is_active = self._densities, None, None
    if densities.is_observed is not None:
      is_observed = tf.broadcast_to(
        self._at_step(densities.is_observed, step), shape
      )
    if densities.lengths is not None:
      steps = step
      if isinstance(step, range):
        rank = densities.batch_shape.rank
        steps = tf.reshape(tf.range(step.start, step.stop), [-1] + [1] * rank)
      is_active = tf.broadcast_to(steps < densities.lengths, shape)
    return is_observed, is_active

  def _without_nan(self, move, log_prior):
    """Returns a move whose weight is zero where a log density is NaN."""
    is_nan = tf.math.is_nan
    # This includes the case that both densities are infinite.
    is_bad = is_nan(move.log_reverse - move.log_forward)

    def forward(log_prob):
      if not tf.is_tensor(log_prob):
        return log_prob
      # A finite value is kept, so that its gradient drives the proposal away.
      is_kept = tf.logical_or(
        tf.logical_not(is_bad), tf.math.is_finite(log_prob)
      )
      return tf.where(is_kept, log_prob, tf.zeros_like(log_prob))

    def reverse(log_prob):
      zero = tf.constant(-float('inf'), log_prob.dtype)
      return tf.where(is_bad, zero, log_prob)

    replaced = move._replace(
      log_forward=forward(move.log_forward),
      log_forward_fixed_sample=forward(move.log_forward_fixed_sample),
      log_forward_not_reparameterized=forward(
        move.log_forward_not_reparameterized
      ),
      log_reverse=reverse(move.log_reverse),
      log_reverse_fixed_states=reverse(move.log_reverse_fixed_states),
    )
    if not self._records_nan:
      return replaced._replace(num_nan=reductions.count_true(is_bad))
    proposal = NanSource.PROPOSAL
    if self._proposal is None:
      proposal = NanSource.TRANSITION
    source = tf.where(
      is_nan(move.log_forward),
      proposal,
      tf.where(is_nan(log_prior), NanSource.TRANSITION, NanSource.OBSERVATION),
    )
    return replaced._replace(record=tf.where(is_bad, source, NanSource.NONE))

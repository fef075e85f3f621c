# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Transitions one after the other, within one level."""

import typing
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import axes, checks, randomness, types
from tfp_nvi.transitions import base
from tfp_nvi.transitions.mcmc import MCMCTransition

__all__ = [
  'Composition',
]


class Composition(base.Transition):
  """Transitions one after the other, within one level.

  An example is a flow followed by Hamiltonian Monte Carlo.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfb = tfp.bijectors

  transition = nvi.Composition(
    [
      nvi.BijectorTransition(tfb.Shift(tf.Variable(1.0))),
      nvi.MCMCTransition(
        lambda target_log_prob_fn: tfp.mcmc.HamiltonianMonteCarlo(
          target_log_prob_fn, step_size=0.5, num_leapfrog_steps=3
        )
      ),
    ]
  )
  ```
  """

  def __init__(
    self,
    transitions: typing.Sequence[base.Transition],
    name: str = 'composition',
  ):
    """Initializes the transition.

    Args:
      transitions: List of transitions, first to last, each for the same number
        of levels. Those that leave the level invariant come last: they move
        what the others have brought to the level.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `transitions` is not a list, or an element of it not a
        `Transition`.
      ValueError: If the list is empty, the numbers of levels differ, batch
        shapes do not broadcast, or an `MCMCTransition` comes before a
        transition that is not one.
    """
    super().__init__(name=name)
    transitions = checks.as_list(
      'transitions', transitions, 'Transitions', base.Transition, minimum=1
    )
    counts = [t.num_transitions for t in transitions]
    if len(set(counts)) != 1:
      raise ValueError(
        '`transitions` must all be for the same number of levels; got '
        f'{counts}.'
      )
    is_invariant = [isinstance(t, MCMCTransition) for t in transitions]
    if is_invariant != sorted(is_invariant):
      raise ValueError(
        '`transitions` must have those that leave the level invariant last, as '
        'a gradient cannot pass through them; got '
        f'{[type(t).__name__ for t in transitions]}.'
      )
    self.transitions = transitions
    self.num_transitions = counts[0]
    self.batch_shape = axes.broadcast_shapes(
      [(f'transitions[{i}]', t.batch_shape) for i, t in enumerate(transitions)]
    )
    self.keeps_support = all(t.keeps_support for t in transitions)
    self.is_rollable = all(t.is_rollable for t in transitions)
    self.is_level_batched = all(t.is_level_batched for t in transitions)
    self.records_noise = all(t.records_noise for t in transitions)
    self.has_normalized_reverse = all(
      t.has_normalized_reverse for t in transitions
    )

  def transport(self, level: int, state: types.Structure) -> types.Structure:
    """Maps states by one part after the other."""
    for transition in self.transitions:
      state = transition.transport(level, state)
    return state

  def bind(self, densities: densities_lib.Densities) -> None:
    """Passes the densities on to the parts."""
    for transition in self.transitions:
      transition.bind(densities)

  def given(self, densities: densities_lib.Densities) -> 'Composition':
    """The parts, given the densities of a run; see `Transition.given`."""
    parts = [t.given(densities) for t in self.transitions]
    if all(a is b for a, b in zip(parts, self.transitions, strict=True)):
      return self
    return Composition(parts, name=self.name)

  def draw_noise(self, sample_shape: list, seed: tf.Tensor) -> tuple:
    """Draws the noise of each part."""
    seeds = tf.unstack(randomness.split_seed(seed, len(self.transitions)))
    return tuple(
      t.draw_noise(sample_shape, s)
      for t, s in zip(self.transitions, seeds, strict=True)
    )

  def draw_level_noise(
    self, sample_shape: list, seed: tf.Tensor, level: int | tf.Tensor
  ) -> tuple:
    """Draws the noise of each part for one level."""
    seeds = tf.unstack(randomness.split_seed(seed, len(self.transitions)))
    return tuple(
      t.draw_level_noise(sample_shape, s, level)
      for t, s in zip(self.transitions, seeds, strict=True)
    )

  def record_like(
    self, noise: types.Structure, state: types.Structure
  ) -> tuple:
    """The records of the parts."""
    return tuple(
      t.record_like(n, state)
      for t, n in zip(self.transitions, noise, strict=True)
    )

  def _compose(self, move_fn, state, inputs):
    """The move that the moves of the parts are together.

    Args:
      move_fn: Python callable from a part, the state before it, and its noise
        or record, to its `Move`.
      state: The previous state.
      inputs: Tuple of the noise or the record of each part.

    Returns:
      move: `Move`.
    """
    moves, records = [], []
    for transition, value in zip(self.transitions, inputs, strict=True):
      move = move_fn(transition, state, value)
      moves.append(move)
      records.append(value if transition.records_noise else move.record)
      state = move.state
    return base.Move(
      state=state,
      log_forward=sum(m.log_forward for m in moves),
      log_reverse=sum(m.log_reverse for m in moves),
      log_forward_fixed_sample=sum(m.log_forward_fixed_sample for m in moves),
      log_forward_not_reparameterized=sum(
        m.log_forward_not_reparameterized for m in moves
      ),
      log_reverse_fixed_states=sum(m.log_reverse_fixed_states for m in moves),
      samples=sum((m.samples for m in moves), ()),
      record=tuple(records),
      num_nan=sum(m.num_nan for m in moves),
    )

  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: types.Structure,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""

    def move_fn(transition, state, noise):
      return transition.propose(
        level, state, noise, target_log_prob_fn, reparameterize
      )

    return self._compose(move_fn, previous, noise)

  def replay(
    self,
    level: int | tf.Tensor | range,
    previous: types.Structure,
    record: types.Structure,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Makes a move again; see `Transition.replay`."""

    def move_fn(transition, state, record):
      return transition.replay(
        level, state, record, target_log_prob_fn, reparameterize
      )

    return self._compose(move_fn, previous, record)

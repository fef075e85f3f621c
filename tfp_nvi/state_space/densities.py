# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Intermediate densities of a state-space model: heuristic factors.

In the terms of the sampler, the heuristic factor `psi_k` is the density of
level `k`; prior and likelihood of a step belong to the transition that leads to
it (see `tfp_nvi.state_space`). The factor is prepared once in each run, for the
particles of level 0, which `given` receives.
"""

import copy
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi import resampling
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import axes, checks, reductions, types
from tfp_nvi.state_space import functions
from tfp_nvi.state_space.heuristics import Heuristic
from tfp_nvi.state_space.model import StateSpaceModel
from tfp_nvi.state_space.sequences import Sequences

__all__ = [
  'StateSpaceDensities',
  'StateSpaceState',
]


class StateSpaceState(NamedTuple):
  """A particle of a level.

  Fields:
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`; `()` if the model has none.
    local_state: Likewise; zero at level 0, which has none.
    index: int32 `Tensor` of shape `[num_particles] + batch`: the index of the
      particle among those of its level. Resampling copies it with the particle.
    ancestor: Likewise: the index of its ancestor one level before.
    root: Likewise: the index of its ancestor at level 0.
  """

  global_state: Any
  local_state: Any
  index: tf.Tensor
  ancestor: tf.Tensor
  root: tf.Tensor


class StateSpaceDensities(densities_lib.Densities):
  """The densities of a state-space model for some sequences.

  The densities that `given` returns are evaluated at states, as they have the
  global states of level 0.

  Attributes:
    lengths: `None`, or int32 `Tensor` of shape `batch`.
  """

  is_rollable = True
  is_discrete = True  # Indices are, whatever the local states.
  # Each instance sets these from its model and its sequences.
  batch_shape: Any = None
  float_dtype: Any = None
  num_densities = 0

  def __init__(
    self,
    model: StateSpaceModel,
    sequences: Sequences,
    heuristic: Heuristic | None = None,
    name: str = 'state_space_densities',
  ):
    """Initializes the densities.

    Args:
      model: `StateSpaceModel`.
      sequences: `Sequences`.
      heuristic: `Heuristic`, or `None` for a factor of one.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    self.model = model
    self.heuristic: Any = heuristic
    self.initial = model.prior
    self.float_dtype = model.example.dtype
    self.local_like = model.example.local_like
    self.batch_shape = sequences.batch_shape
    self.num_steps = sequences.num_steps
    self.num_densities = self.num_steps + 1
    self.observations = sequences.observations
    self.inputs = sequences.inputs
    self.shown = sequences.shown
    self.components = sequences.components
    self._is_observed = sequences.is_observed
    self.lengths = sequences.lengths

  @property
  def dtype(self) -> StateSpaceState:
    """Returns the dtypes of a state."""
    prior = self.model.prior
    return StateSpaceState(
      () if prior is None else prior.dtype,
      self.local_like[0],
      *[tf.int32] * 3,
    )

  @property
  def event_shape(self) -> StateSpaceState:
    """Returns the event shapes of a state."""
    prior = self.model.prior
    return StateSpaceState(
      () if prior is None else prior.event_shape,
      self.local_like[1],
      *[tf.TensorShape([])] * 3,
    )

  @property
  def is_observed(self) -> tf.Tensor | None:
    """`None`, or bool `Tensor` of shape `batch + [num_steps]`."""
    return self._is_observed

  def is_active(self, level: int | tf.Tensor) -> tf.Tensor | None:
    """Returns whether sequences have a step at a level; `None` if all do."""
    return None if self.lengths is None else level <= self.lengths

  def initial_state(
    self, global_state: types.Structure, sample_shape: list[int]
  ) -> StateSpaceState:
    """Returns the state of level 0."""
    if sample_shape[1:] != self.batch_shape:
      raise ValueError(
        'A StateSpaceSampler runs with the batch shape of its sequences, '
        f'{self.batch_shape.as_list()}, alone; got {list(sample_shape[1:])}. '
        'It cannot be used in a NestedProposal.'
      )
    index = axes.particle_indices(sample_shape)
    local_state = tf.nest.map_structure(
      lambda dtype, shape: tf.zeros(sample_shape + list(shape), dtype),
      *self.local_like,
    )
    return StateSpaceState(global_state, local_state, index, index, index)

  def given(self, move: transitions_lib.Move, cut: bool) -> 'GivenDensities':
    """Returns densities with the heuristic prepared for the given level 0."""
    return GivenDensities(self, move, cut)

  def prepare(
    self, global_state: types.Structure, num_particles: int
  ) -> types.Structure:
    """Returns the rows of the heuristic; `()` if there is none."""
    if self.heuristic is None:
      return ()
    rows = functions.call_with_named(
      'prepare',
      self.heuristic.prepare,
      ('observations', 'is_observed', 'global_state'),
      ('u',),
    )(self.observations, self.shown, global_state, u=self.inputs)
    try:
      rows = tf.nest.map_structure(tf.convert_to_tensor, rows)
    except (TypeError, ValueError) as e:
      raise TypeError(
        f'`heuristic` must prepare rows that are Tensors; got {rows!r}.'
      ) from e
    rank = self.batch_shape.rank
    leading = [self.num_steps, num_particles] + self.batch_shape
    shared = [self.num_steps, 1] + self.batch_shape
    for x in tf.nest.flatten(rows):
      if x.shape.rank < 2 + rank or x.shape[: 2 + rank] not in (
        leading,
        shared,
      ):
        raise ValueError(
          '`heuristic` must prepare rows of shape [num_steps, num_particles] + '
          f'batch + any, here {leading.as_list()} + any, or with one particle '
          f'in place of all; got {x.shape.as_list()}.'
        )
    return rows

  def log_factor(
    self,
    row: types.Structure,
    global_state: types.Structure,
    local_state: types.Structure | None,
    shape: types.Shape,
  ) -> tf.Tensor:
    """Returns the heuristic's log factor at a level, checked."""
    return checks.check_returned(
      'heuristic',
      self.heuristic.log_factor(row, global_state, local_state),
      'a Tensor of log factors',
      self.float_dtype,
      shape,
      broadcasts=True,
    )

  def evaluate(self, level: Any, state: types.Structure) -> tuple:
    """Raises an error, because the terms of a level depend on level 0."""
    raise TypeError('State-space densities are evaluated by a sampler alone.')

  def log_prob(self, level: Any, terms: tuple) -> tf.Tensor:
    """Returns the log density of a level, given the terms."""
    del level
    return terms[0]

  def check(
    self,
    values: types.Structure,
    name: str | None = None,
    batch_shape: tf.TensorShape | None = None,
  ) -> None:
    """Checks global states, and the heuristic at them.

    Args:
      values: Draws of the initial proposal.
      name: Python `str` name of the argument that they were drawn from.
        Default value: `None` (i.e., `'initial_proposal'`).
      batch_shape: `TensorShape` that they should have.
        Default value: `None` (i.e., that of the densities).

    Raises:
      ValueError: If they have another structure, dtype or shape than the prior,
        or the heuristic is NaN or `-inf` for all of them.
    """
    if batch_shape is None:
      batch_shape = self.batch_shape
    prior, num_particles = self.model.prior, densities_lib.NUM_PROBES
    if prior is not None:
      leading = tf.nest.flatten(values)[0].shape[:1] + batch_shape
      densities_lib.check_values(
        name or 'initial_proposal',
        values,
        prior.dtype,
        prior.event_shape,
        leading,
      )
    if self.heuristic is None or self.heuristic.is_trusted:
      return
    try:
      rows = self.prepare(values, num_particles)
    except (AttributeError, tf.errors.InvalidArgumentError) as e:
      shapes = tf.nest.map_structure(lambda x: x.shape.as_list(), values)
      raise ValueError(
        '`heuristic` must be able to prepare for observations of shape '
        f'batch + [num_steps] + event, with batch {batch_shape.as_list()} and '
        f'{self.num_steps} steps, and global states of shape {shapes}; it '
        f'failed: {e}'
      ) from e
    first = tf.nest.map_structure(lambda x: x[0], rows)
    log_factor = self.log_factor(
      first, values, None, [num_particles] + batch_shape
    )
    if not reductions.has_values(log_factor):
      return
    if bool(tf.reduce_all(tf.math.is_nan(log_factor))):
      raise ValueError(
        '`heuristic` must return log factors that are numbers or -inf; it '
        f'returned NaN for all of {num_particles} draws of the initial '
        'proposal.'
      )
    if bool(tf.reduce_all(tf.equal(log_factor, -float('inf')))):
      raise ValueError(
        '`heuristic` must be positive somewhere; its logarithm is -inf for all '
        f'of {num_particles} draws of the initial proposal.'
      )


class GivenDensities(densities_lib.Densities):
  """Densities with the global states of level 0, and the factors for them."""

  is_rollable = True
  is_discrete = True
  # Each instance takes these from the densities that it is made from.
  batch_shape = None
  dtype = None
  event_shape = None
  float_dtype = None
  num_densities = 0

  def __init__(self, densities, move, cut):
    super().__init__(name='given_densities')
    self._densities = densities
    self._global_state = move.state.global_state
    self.batch_shape = densities.batch_shape
    self.num_densities = densities.num_densities
    self.float_dtype = densities.float_dtype
    self.dtype = densities.dtype
    self.event_shape = densities.event_shape
    # Later levels treat the states that come in from level 0 as constant.
    self._is_constant = cut and bool(move.samples)
    fixed = self._global_state
    if self._is_constant:
      fixed = tf.nest.map_structure(tf.stop_gradient, fixed)
    self._num_particles = move.state.root.shape[0]
    self.prepared = densities.prepare(fixed, self._num_particles)

  def is_active(self, level):
    """Delegates to `StateSpaceDensities.is_active`."""
    return self._densities.is_active(level)

  def log_prob(self, level, terms):
    """Delegates to `StateSpaceDensities.log_prob`."""
    return self._densities.log_prob(level, terms)

  def with_prepared(self, prepared):
    """Returns the same densities with copies of the prepared rows."""
    other = copy.copy(self)
    other.prepared = prepared
    return other

  def proposal(self, level, root, prior):
    """Returns the heuristic's proposal of the step after a level, or `None`."""
    row = self._rows(self.prepared, level, root)
    return self._densities.heuristic.proposal(row, prior, root.shape)

  def _rows(self, rows, level, root):
    """Returns rows of a level, or of a range of levels, for each particle."""
    last = self._densities.num_steps - 1

    def select(x):
      if isinstance(level, range):
        x = tf.gather(x, [min(k, last) for k in level])
        x = axes.swap_first_axes(x)
      elif isinstance(level, int):
        x = x[min(level, last)]
      else:
        x = tf.gather(x, tf.minimum(level, last))
      return x if x.shape[0] == 1 else resampling.gather_ancestors(x, root)

    return tf.nest.map_structure(select, rows)

  def _log_factor(self, rows, level, state):
    densities = self._densities
    shape = state.root.shape
    if densities.heuristic is None:
      return tf.zeros(shape, self.float_dtype)
    # Roots select rows at level 0 too, whose particles may have been resampled
    # since.
    row, local = self._rows(rows, level, state.root), state.local_state
    if isinstance(level, int) and level == 0:
      local = None
    log_factor = tf.broadcast_to(
      densities.log_factor(row, state.global_state, local, shape), shape
    )
    end = (
      densities.num_steps if densities.lengths is None else densities.lengths
    )
    if isinstance(level, range):
      rank = shape.rank - 2
      level = tf.reshape(tf.range(level.start, level.stop), [-1] + [1] * rank)
    elif isinstance(level, int) and densities.lengths is None:
      return log_factor if level < end else tf.zeros_like(log_factor)
    return tf.where(level < end, log_factor, tf.zeros_like(log_factor))

  def evaluate(self, level, state):
    """Returns the heuristic factor."""
    rows = self.prepared
    if self._is_constant and isinstance(level, int) and level == 0:
      # The divergence of this level is differentiated by the global states.
      rows = self._densities.prepare(state.global_state, self._num_particles)
    return (self._log_factor(rows, level, state),)

  def evaluate_fixed(self, level, state, terms):
    """Returns the factor at a fixed state, differentiable by the heuristic."""
    if self._densities.heuristic is None:
      return tf.nest.map_structure(tf.stop_gradient, terms)
    state = tf.nest.map_structure(tf.stop_gradient, state)
    return (self._log_factor(self.prepared, level, state),)

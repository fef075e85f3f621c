# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records of a running filter: series, trajectories, and NaN."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi import resampling, runs
from tfp_nvi.internal import axes, reductions, types
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.transition import NanSource

__all__ = [
  'FilterRecorder',
  'describe_first_nan',
  'place',
  'read_back',
  'start_without_nan',
  'summarize',
]

# One number stands for the level and the cause of a NaN. The minimum over
# particles is then the first level, with the largest cause there.
_NO_NAN = 2**31 - 1


def _pack(level, source):
  return len(NanSource) * level + len(NanSource) - 1 - source


def _unpack(first):
  level, rest = divmod(int(first), len(NanSource))
  return level, len(NanSource) - 1 - rest


def summarize(particles: runs.Particles) -> dict:
  """Returns the summary of a level that the posterior has for each step."""
  log_normalizer, size = reductions.log_mean_and_effective_sample_size(
    particles.log_weights
  )
  return dict(
    log_normalizer=tf.cast(log_normalizer, particles.log_weights.dtype),
    effective_sample_size=size,
    num_roots=_count_distinct(particles.state.root),
  )


class FilterRecorder(runs.Recorder):
  """Keeps a summary of each step, and the local states if they are wanted.

  NaN is counted for each particle index, and summed over particles after the
  last level, as a sum at each level would take longer.

  Args:
    run: `Run`.
    num_steps: Python `int`.
    nan_source: int32 `Tensor` of shape `[num_particles] + batch`: the causes of
      NaN at level 0.
    trajectories: Python `bool`: whether to keep local states and ancestors.
    history: Python `bool`: whether to keep the fields of a `FilterHistory`.
      Default value: `False`.
  """

  draws_noise_ahead = False

  def __init__(
    self,
    run: runs.Run,
    num_steps: int,
    nan_source: tf.Tensor,
    trajectories: bool,
    history: bool = False,
  ):
    self._trajectories = trajectories
    self._history = history
    state = run.initial.state
    example = summarize(run.initial)
    if trajectories:
      example['path'] = (state.local_state, state.ancestor)
    if history:
      example['history'] = _filtered(run.initial)
    self._arrays = tf.nest.map_structure(
      lambda x: tf.TensorArray(x.dtype, num_steps, element_shape=x.shape),
      example,
    )
    self.num_nan = tf.zeros_like(nan_source)
    self.first_nan = tf.fill(nan_source.shape, _NO_NAN)
    self._count_nan(0, nan_source)

  def _count_nan(self, level, source):
    is_nan = source > 0
    self.num_nan += tf.cast(is_nan, tf.int32)
    self.first_nan = tf.minimum(
      self.first_nan, tf.where(is_nan, _pack(level, source), _NO_NAN)
    )

  def start(
    self, segment: runs.Segment, example_fn: Callable
  ) -> types.Structure:
    """Begins a segment; see `Recorder.start`."""
    del segment, example_fn
    return self._arrays, self.num_nan, self.first_nan

  def visit(
    self,
    segment: runs.Segment,
    local_level: int | tf.Tensor,
    record: runs.LevelRecord,
    carry: types.Structure,
  ) -> types.Structure:
    """Records a level; see `Recorder.visit`."""
    arrays, self.num_nan, self.first_nan = carry
    # Particles that lost their weight earlier do not count again.
    had_weight = record.previous.log_weights > -float('inf')
    level = segment.first_level + local_level
    self._count_nan(
      level,
      tf.where(
        had_weight, _nan_source(record.record, record.is_nan), NanSource.NONE
      ),
    )
    values = summarize(record.particles)
    if self._trajectories:
      state = record.particles.state
      values['path'] = (state.local_state, state.ancestor)
    if self._history:
      values['history'] = _filtered(record.particles)
    arrays = tf.nest.map_structure(
      lambda array, x: array.write(level - 1, x), arrays, values
    )
    return arrays, self.num_nan, self.first_nan

  def finish(self, segment: runs.Segment, carry: types.Structure) -> None:
    """Ends a segment; see `Recorder.finish`."""
    del segment
    self._arrays, self.num_nan, self.first_nan = carry

  def stack(self) -> dict:
    """Stacks the values of all steps, with a first axis over steps."""
    return tf.nest.map_structure(lambda array: array.stack(), self._arrays)


def _filtered(particles):
  """Returns roots, local states, and weights without the heuristic factor."""
  state, (log_factor,) = particles.state, particles.terms
  log_weights = particles.log_weights
  return (
    state.root,
    state.local_state,
    # Where both are zero, the weight is zero.
    tf.where(
      tf.math.is_finite(log_factor), log_weights - log_factor, log_weights
    ),
  )


def _nan_source(source, is_nan):
  """Returns the causes of NaN, those of the heuristic included."""
  heuristic = tf.where(is_nan, NanSource.HEURISTIC, NanSource.NONE)
  return tf.maximum(source, heuristic)


def start_without_nan(
  run: runs.Run, shape: tf.TensorShape, has_proposal: bool
) -> tuple[runs.Run, tf.Tensor]:
  """Replaces NaN in first weights by zero; returns the run and the causes."""
  is_nan = tf.math.is_nan
  particles, move = run.initial, run.initial_move
  log_weights = particles.log_weights
  zero = tf.constant(-float('inf'), log_weights.dtype)
  proposal = NanSource.PROPOSAL if has_proposal else NanSource.TRANSITION
  source = tf.where(
    is_nan(log_weights),
    tf.where(is_nan(move.log_forward), proposal, NanSource.TRANSITION),
    NanSource.NONE,
  )
  source = _nan_source(tf.broadcast_to(source, shape), run.is_nan)
  # Where the prior is zero, no NaN counts.
  log_reverse = tf.convert_to_tensor(move.log_reverse, log_weights.dtype)
  is_impossible = tf.broadcast_to(tf.equal(log_reverse, zero), shape)
  source = tf.where(is_impossible, NanSource.NONE, source)
  log_weights = tf.where(is_nan(log_weights), zero, log_weights)
  return (
    run._replace(initial=particles._replace(log_weights=log_weights)),
    source,
  )


def _count_distinct(root):
  """Counts the different indices of each batch member."""
  num_particles = root.shape[0]
  columns = tf.reshape(root, [num_particles, -1])
  num_columns = columns.shape[1]
  where = columns * num_columns + tf.range(num_columns)
  is_present = tf.tensor_scatter_nd_update(
    tf.zeros([num_particles * num_columns], tf.int32),
    tf.reshape(where, [-1, 1]),
    tf.ones([num_particles * num_columns], tf.int32),
  )
  counts = tf.reduce_sum(
    tf.reshape(is_present, [num_particles, num_columns]), axis=0
  )
  return tf.reshape(counts, root.shape[1:])


def read_back(
  local_states: types.Structure, ancestors: tf.Tensor, shape: tf.TensorShape
) -> types.Structure:
  """Returns local states along the ancestors of the last level's particles.

  Args:
    local_states: Nested structure of `Tensor`s of shape
      `[num_steps, num_particles] + batch + event`.
    ancestors: int32 `Tensor` of shape `[num_steps, num_particles] + batch`.
    shape: `TensorShape`: `[num_particles] + batch`.

  Returns:
    trajectories: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + [num_steps] + event`.
  """
  num_steps = ancestors.shape[0]
  index = axes.particle_indices(shape)
  arrays = tf.nest.map_structure(
    lambda x: tf.TensorArray(x.dtype, num_steps, element_shape=x.shape[1:]),
    local_states,
  )

  def body(i, index, arrays):
    k = num_steps - 1 - i
    arrays = tf.nest.map_structure(
      lambda array, x: array.write(
        k, resampling.gather_ancestors(tf.gather(x, k), index)
      ),
      arrays,
      local_states,
    )
    index = resampling.gather_ancestors(tf.gather(ancestors, k), index)
    return i + 1, index, arrays

  _, _, arrays = tf.while_loop(
    lambda i, *_: i < num_steps,
    body,
    (tf.constant(0), index, arrays),
    parallel_iterations=1,
    maximum_iterations=num_steps,
  )
  return steps_lib.stack(arrays, shape.rank)


def _name_of_source(source, level):
  """Names the argument that returned a NaN log density."""
  if source == NanSource.PROPOSAL:
    return 'initial_proposal_fn' if level == 0 else 'proposal_fn'
  if source == NanSource.TRANSITION:
    return ('prior', 'initial_fn', 'transition_fn')[min(level, 2)]
  return 'heuristic' if source == NanSource.HEURISTIC else 'observation_fn'


def place(level: int, index: list) -> str:
  """Says where a level of a sequence is, for an error."""
  where = 'before the first step' if level == 0 else f'at step {level}'
  return where + (f' of sequence {index}' if index else '')


def describe_first_nan(first_nan: int | np.integer, index: list) -> str:
  """Names the function and the step of the first NaN log density.

  Args:
    first_nan: int: the minimum of `FilterRecorder.first_nan` over particles.
    index: List of Python `int`s: the index of the sequence.

  Returns:
    description: Python `str`.
  """
  level, source = _unpack(first_nan)
  return (
    f'`{_name_of_source(source, level)}` must return log densities that are '
    'numbers or -inf, for the `observations` of all steps; the first ones that '
    f'were NaN, and count as zero density, were {place(level, index)}.'
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The record of a run: particles, levels, and what is kept of them.

A sampler plans a `Run` and goes through its levels once. Each level gives a
`LevelRecord`; a `Recorder` says what to keep of it: all that is needed to
replay the level under a tape, the particles alone, or nothing.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import reductions, types

__all__ = [
  'FullRecorder',
  'LevelRecord',
  'NanCounter',
  'Particles',
  'Recorder',
  'Run',
  'Segment',
  'Trace',
  'replace_nan',
]


class Trace(NamedTuple):
  """Particles of all levels, for diagnostics and pictures.

  Fields:
    particles: Nested structure of `Tensor`s of shape
      `[num_densities, num_particles] + batch + event`: what each level
      proposed, before the next one resampled it.
    log_weights: float `Tensor` of shape
      `[num_densities, num_particles] + batch`.
    log_incremental_weights: float `Tensor` of shape
      `[num_densities - 1, num_particles] + batch`.
    is_nan: bool `Tensor` of shape `[num_densities, num_particles] + batch`:
      whether the log density was NaN or +inf, and was taken to be -inf.
  """

  particles: Any
  log_weights: tf.Tensor
  log_incremental_weights: tf.Tensor
  is_nan: tf.Tensor


class Particles(NamedTuple):
  """The particles that one level hands on to the next.

  Fields:
    state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`, in the real space.
    terms: The terms of the densities at `state`; none is NaN.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    root: int32 `Tensor` of that shape: the index of each particle's ancestor
      among the particles of level 0; `()` where it is not kept.
    log_pairs_lost: float `Tensor` of shape `batch`, as in `WeightedParticles`;
      `()` where it is not kept.
  """

  state: Any
  terms: Any
  log_weights: tf.Tensor
  root: Any = ()
  log_pairs_lost: Any = ()


class LevelRecord(NamedTuple):
  """A level of a run.

  Fields:
    previous: `Particles` as the level received them, after resampling.
    record: The record of the level's `Move`.
    log_incremental_weights: float `Tensor` of shape `[num_particles] + batch`.
    particles: `Particles` that the level handed on.
    is_nan: bool `Tensor` of shape `[num_particles] + batch`: whether a term of
      the density was NaN or +inf.
    num_nan: Scalar int32 `Tensor`: NaN log densities within the move.
    log_prob_gradient: Derivatives of the level's log density at these
      particles, of `densities.evaluate_with_gradient`, if they are kept; else
      `()`.
  """

  previous: Particles
  record: Any
  log_incremental_weights: tf.Tensor
  particles: Particles
  is_nan: tf.Tensor
  num_nan: tf.Tensor
  log_prob_gradient: Any = ()


class Segment(NamedTuple):
  """The levels that one transition leads to.

  Fields:
    transition: The `Transition`.
    first_level: Python `int`: the density that its first level leads to.
    is_rolled: Python `bool`: whether its levels are a loop, or written out.
    noise_seed: Stateless seed of the transition's noise.
    seeds: int32 `Tensor` of shape `[num_transitions, 2, 2]`.
    noise: The transition's noise for all levels, if it was drawn ahead.
    records: A `LevelRecord` whose leaves have a first axis over levels, if
      `is_rolled`; else a list of `LevelRecord`s. `()` before the run.
  """

  transition: transitions_lib.Transition
  first_level: int
  is_rolled: bool
  noise_seed: tf.Tensor
  seeds: tf.Tensor
  noise: Any = ()
  records: Any = ()


class Run(NamedTuple):
  """A run of a sampler: its plan, and once it is finished, its record.

  Fields:
    densities: `Densities`, which may depend on the particles of level 0.
    sample_shape: List of Python `int`s: `[num_particles] + batch`.
    initial_move: `Move` of the initial proposal; `None` if the proposal is the
      initial density itself.
    initial: `Particles` of level 0.
    is_nan: bool `Tensor` of shape `[num_particles] + batch`, of level 0.
    segments: List of `Segment`s.
    cut: Python `bool`: whether gradients stop between levels.
    reparameterize: Python `bool`: whether states are differentiable where they
      can be.
    log_forward_fn: Python callable from a `Move` to the log density of its
      forward kernel, with the gradient that this is to have.
    keep_gradient: Python `bool`: whether the records of levels have the
      gradient of the log density by the state, so that it need not be evaluated
      again. The run itself is not differentiable then.
    particles: `Particles` of the last level; `None` before the run.
  """

  densities: densities_lib.Densities
  sample_shape: list
  initial_move: Any
  initial: Particles
  is_nan: tf.Tensor
  segments: list
  cut: bool
  reparameterize: bool
  log_forward_fn: Callable
  keep_gradient: bool
  particles: Any = None

  def collect(self, get_fn: Callable) -> types.Structure:
    """Stacks a part of the records of all levels.

    Args:
      get_fn: Python callable from a `LevelRecord` to a nested structure of
        `Tensor`s.

    Returns:
      values: The same structure, with a first axis over levels.
    """
    parts = []
    for segment in self.segments:
      if segment.is_rolled:
        parts.append(get_fn(segment.records))
      else:
        parts.append(
          tf.nest.map_structure(
            lambda *x: tf.stack(x), *map(get_fn, segment.records)
          )
        )
    if len(parts) == 1:
      return parts[0]
    return tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *parts)

  def num_nan(self) -> tf.Tensor:
    """How many log densities were NaN or +inf, as a scalar int32 `Tensor`."""
    is_nan, num_nan = self.collect(lambda r: (r.is_nan, r.num_nan))
    return (
      reductions.count_true(self.is_nan)
      + self.num_nan_of_proposal()
      + reductions.count_true(is_nan)
      + tf.reduce_sum(num_nan, axis=0)
    )

  def num_nan_of_proposal(self) -> tf.Tensor | int:
    """How many log densities were NaN within the initial move."""
    return 0 if self.initial_move is None else self.initial_move.num_nan


class Recorder(metaclass=abc.ABCMeta):
  """Decides which parts of each level to keep while a sampler runs.

  Contract: `start` gives the nested structure of `Tensor`s that is carried
  through the levels of a segment, `visit` the same after a level, and `finish`
  takes it at the end of the segment. Where a segment is unrolled the carry may
  be any Python object.
  """

  # Noise of all levels that is drawn at once is faster, and takes memory.
  draws_noise_ahead = True

  @abc.abstractmethod
  def start(self, segment: Segment, example_fn: Callable) -> Any:
    """Begins a segment.

    Args:
      segment: `Segment`.
      example_fn: Python callable that returns a `LevelRecord` with the
        structure, shapes and dtypes of those to come.

    Returns:
      carry: Nested structure of `Tensor`s.
    """

  @abc.abstractmethod
  def visit(
    self,
    segment: Segment,
    local_level: int | tf.Tensor,
    record: LevelRecord,
    carry: types.Structure,
  ) -> Any:
    """Records a level.

    Args:
      segment: `Segment`.
      local_level: The level as the transition counts.
      record: `LevelRecord`.
      carry: As `start` or `visit` returned it.

    Returns:
      carry: The same structure.
    """

  def finish(self, segment: Segment, carry: types.Structure) -> None:
    """Ends a segment.

    Args:
      segment: `Segment`.
      carry: What `visit` returned at its last level.
    """
    del segment, carry


class FullRecorder(Recorder):
  """Keeps a part of the records of all levels.

  Args:
    select_fn: Python callable from a `LevelRecord` to the nested structure of
      `Tensor`s to keep of it.
  """

  def __init__(self, select_fn: Callable = lambda record: record):
    self.segments: list = []
    self._select_fn = select_fn

  def start(self, segment: Segment, example_fn: Callable) -> types.Structure:
    """Begins a segment; see `Recorder.start`."""
    if not segment.is_rolled:
      return []
    num_levels = segment.transition.num_transitions
    return tf.nest.map_structure(
      lambda x: tf.TensorArray(x.dtype, num_levels, element_shape=x.shape),
      self._select_fn(self._without_noise(segment, example_fn())),
    )

  def visit(
    self,
    segment: Segment,
    local_level: int | tf.Tensor,
    record: LevelRecord,
    carry: types.Structure,
  ) -> types.Structure:
    """Records a level; see `Recorder.visit`."""
    if not segment.is_rolled:
      return carry + [self._select_fn(record)]
    return tf.nest.map_structure(
      lambda array, x: array.write(local_level, x),
      carry,
      self._select_fn(self._without_noise(segment, record)),
    )

  def finish(self, segment: Segment, carry: types.Structure) -> None:
    """Ends a segment; see `Recorder.finish`."""
    if segment.is_rolled:
      carry = tf.nest.map_structure(lambda array: array.stack(), carry)
      if isinstance(carry, LevelRecord) and segment.transition.records_noise:
        carry = carry._replace(record=segment.noise)
    self.segments.append(segment._replace(records=carry))

  @staticmethod
  def _without_noise(segment, record):
    """The noise is stacked already: the loop need not collect it."""
    if segment.transition.records_noise:
      return record._replace(record=())
    return record


class NanCounter(Recorder):
  """Keeps nothing but the number of NaN log densities."""

  def __init__(self, run: Run):
    self._carry = (
      tf.cast(run.is_nan, tf.int32),
      tf.convert_to_tensor(run.num_nan_of_proposal(), tf.int32),
    )

  def initial_carry(self) -> types.Structure:
    """Returns the carry that any segment starts with."""
    return self._carry

  def start(self, segment: Segment, example_fn: Callable) -> types.Structure:
    """Begins a segment; see `Recorder.start`."""
    del segment, example_fn
    return self.initial_carry()

  def visit(
    self,
    segment: Segment,
    local_level: int | tf.Tensor,
    record: LevelRecord,
    carry: types.Structure,
  ) -> types.Structure:
    """Records a level; see `Recorder.visit`."""
    del segment, local_level
    is_nan, num_nan = carry
    return is_nan + tf.cast(record.is_nan, tf.int32), num_nan + record.num_nan

  def finish(self, segment: Segment, carry: types.Structure) -> None:
    """Ends a segment; see `Recorder.finish`."""
    del segment
    self._carry = carry

  def total(self) -> tf.Tensor:
    """The number, a scalar int32 `Tensor`."""
    is_nan, num_nan = self._carry
    return tf.reduce_sum(is_nan) + num_nan


def replace_nan(terms: tuple, shape: types.Shape) -> tuple[tuple, tf.Tensor]:
  """Terms with -inf for what is NaN or +inf.

  Args:
    terms: Tuple of `Tensor`s, of which those of floating dtype broadcast to
      `shape`.
    shape: `TensorShape` or list of Python `int`s: `[num_particles] + batch`.

  Returns:
    terms: The same, without NaN and +inf.
    is_nan: bool `Tensor` of the shape `shape`: whether there was one.
  """
  infinity = float('inf')
  is_valid = [
    term < infinity for term in tf.nest.flatten(terms) if term.dtype.is_floating
  ]
  terms = tf.nest.map_structure(
    lambda term: (
      tf.where(term < infinity, term, tf.constant(-infinity, term.dtype))
      if term.dtype.is_floating
      else term
    ),
    terms,
  )
  is_nan = tf.logical_not(functools.reduce(tf.logical_and, is_valid))
  return terms, tf.broadcast_to(is_nan, shape)

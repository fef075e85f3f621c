# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Nested divergences level by level, with memory for one level."""

import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import runs
from tfp_nvi.internal import types

if typing.TYPE_CHECKING:
  from tfp_nvi.objectives.divergence import NestedDivergence

__all__ = [
  'LevelRecorder',
  'add_gradients',
]


class _Sums(NamedTuple):
  """Sums over the levels so far, and arrays with an element for each level.

  Fields:
    gradients: List of `Tensor`s: gradients of the sources.
    loss: float `Tensor` of shape `batch`.
    log_incremental_weights: `TensorArray` with an element for each level.
    effective_sample_sizes: Likewise.
    num_nan: Scalar int32 `Tensor`: NaN in the terms of divergences.
    nan_of_run: The carry of the `NanCounter` of the run itself.
  """

  gradients: list
  loss: tf.Tensor
  log_incremental_weights: tf.TensorArray
  effective_sample_sizes: tf.TensorArray
  num_nan: tf.Tensor
  nan_of_run: Any


class LevelRecorder(runs.Recorder):
  """Differentiates each level, and keeps the sums of the gradients.

  Args:
    objective: `NestedDivergence`.
    run: `Run`.
    variables: List of `tf.Variable`s.
  """

  draws_noise_ahead = False

  def __init__(
    self,
    objective: 'NestedDivergence',
    run: runs.Run,
    variables: list[tf.Variable],
  ):
    self._objective = objective
    self._run = run
    self._variables = variables
    # Tensors that depend on variables, but were computed before the levels.
    self._sources = variables + tf.nest.flatten(run.densities.prepared)
    self._is_trained = [False] * len(self._sources)
    self._counter = runs.NanCounter(run)
    dtype = run.densities.float_dtype
    batch_shape = run.sample_shape[1:]
    num_levels = run.densities.num_densities - 1

    def make_array():
      return tf.TensorArray(dtype, num_levels, element_shape=batch_shape)

    self._carry = _Sums(
      gradients=[tf.zeros_like(x) for x in self._sources],
      loss=tf.zeros(batch_shape, dtype),
      log_incremental_weights=make_array(),
      effective_sample_sizes=make_array(),
      num_nan=tf.constant(0),
      nan_of_run=self._counter.initial_carry(),
    )

  def start(
    self, segment: runs.Segment, example_fn: Callable
  ) -> types.Structure:
    """Begins a segment; see `Recorder.start`."""
    del segment, example_fn
    return self._carry

  def visit(
    self,
    segment: runs.Segment,
    local_level: int | tf.Tensor,
    record: runs.LevelRecord,
    carry: types.Structure,
  ) -> types.Structure:
    """Records a level; see `Recorder.visit`."""
    densities = self._run.densities
    # Copies, as the loop may have used tensors from outside of it before.
    prepared = tf.nest.map_structure(tf.identity, densities.prepared)
    leaves = tf.nest.flatten(prepared)
    with tf.GradientTape() as tape:
      tape.watch([x for x in leaves if x.dtype.is_floating])
      level = self._objective.replay_level(
        self._run._replace(densities=densities.with_prepared(prepared)),
        segment,
        local_level,
        record._replace(is_nan=(), num_nan=()),
      )
    gradients = tape.gradient(level.surrogate, self._variables + leaves)
    self._is_trained[:] = [
      trained or gradient is not None
      for trained, gradient in zip(self._is_trained, gradients, strict=True)
    ]
    index = segment.first_level + local_level - 1
    return _Sums(
      gradients=[
        add_gradients(a, b)
        for a, b in zip(carry.gradients, gradients, strict=True)
      ],
      loss=carry.loss + level.loss,
      log_incremental_weights=carry.log_incremental_weights.write(
        index, level.log_incremental_weight
      ),
      effective_sample_sizes=carry.effective_sample_sizes.write(
        index, level.effective_sample_size
      ),
      num_nan=carry.num_nan + level.num_nan,
      nan_of_run=self._counter.visit(
        segment, local_level, record, carry.nan_of_run
      ),
    )

  def finish(self, segment: runs.Segment, carry: types.Structure) -> None:
    """Ends a segment; see `Recorder.finish`."""
    self._carry = carry
    self._counter.finish(segment, carry.nan_of_run)

  @property
  def gradients(self) -> list[tf.Tensor | None]:
    """Gradients of the variables; `None` for those that have none."""
    return self._totals()[: len(self._variables)]

  @property
  def prepared_gradients(self) -> list[tf.Tensor]:
    """Gradients of the tensors that the densities had prepared."""
    return [
      tf.zeros_like(source) if total is None else total
      for source, total in zip(
        self._sources[len(self._variables) :],
        self._totals()[len(self._variables) :],
        strict=True,
      )
    ]

  def _totals(self):
    return [
      total if trained else None
      for total, trained in zip(
        self._carry.gradients, self._is_trained, strict=True
      )
    ]

  @property
  def loss(self) -> tf.Tensor:
    """Sum of the divergences, of shape `batch`."""
    return self._carry.loss

  @property
  def log_incremental_weights(self) -> tf.Tensor:
    """Of shape `[num_levels] + batch`."""
    return self._carry.log_incremental_weights.stack()

  @property
  def effective_sample_sizes(self) -> tf.Tensor:
    """Of shape `[num_levels] + batch`."""
    return self._carry.effective_sample_sizes.stack()

  @property
  def num_nan(self) -> tf.Tensor:
    """Scalar int32 `Tensor`."""
    return self._carry.num_nan + self._counter.total()


def add_gradients(
  total: tf.Tensor | None, gradient: tf.Tensor | tf.IndexedSlices | None
) -> tf.Tensor | None:
  """Adds a gradient, of some rows or of all of them, to another one.

  Args:
    total: `Tensor`, or `None` for no gradient.
    gradient: `Tensor`, `tf.IndexedSlices` or `None`.

  Returns:
    total: `Tensor` or `None`.
  """
  if gradient is None:
    return total
  if total is None:
    return tf.convert_to_tensor(gradient)
  if isinstance(gradient, tf.IndexedSlices):
    return tf.tensor_scatter_nd_add(
      total, gradient.indices[:, tf.newaxis], gradient.values
    )
  return total + gradient

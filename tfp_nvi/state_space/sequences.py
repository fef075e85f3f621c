# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences of observations, checked against a model, and ready to be used."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, reductions, types
from tfp_nvi.state_space import missing
from tfp_nvi.state_space import model as model_lib

__all__ = ['Sequences']


def _take_step(x, step, axis):
  """Selects a step for each component, and keeps an axis of size one."""
  rank = x.shape.rank
  last = [*range(axis), *range(axis + 1, rank), axis]
  x = tf.transpose(x, last)
  x = tf.gather(x, step[..., tf.newaxis], axis=rank - 1, batch_dims=rank - 1)
  return tf.transpose(x, [*range(axis), rank - 1, *range(axis, rank - 1)])


class Sequences:
  """A batch of sequences: observations, masks, lengths and inputs.

  Fields:
    observations: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`. Values that are not observed are replaced
      by a value of the same sequence, so that densities there are finite.
    is_observed: `None`, or bool `Tensor` of shape `batch + [num_steps]`:
      whether anything of a step is observed.
    components: `None`, or the structure of the observations, with bool
      `Tensor`s of shape `batch + [num_steps] + event`, or
      `batch + [num_steps]`: which components are observed.
    lengths: `None`, or int32 `Tensor` of shape `batch`.
    inputs: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`; `()` if there are none.
    batch_shape: `TensorShape`.
    num_steps: Python `int`.
  """

  def __init__(
    self,
    example: model_lib.Example,
    observations: types.Structure,
    is_observed: types.Structure | None = None,
    lengths: types.TensorLike | None = None,
    inputs: types.Structure | None = None,
  ):
    """Initializes the sequences.

    Args:
      example: `Example` of the model.
      observations: As the field.
      is_observed: As the field, or as `components`; optional.
      lengths: As the field; optional.
      inputs: Nested structure of `Tensor`s that broadcast to the field's;
        `None` or `()` if there are none.

    Raises:
      TypeError: If an argument cannot be converted to a `Tensor`.
      ValueError: If shapes do not agree, a sequence has no steps, or an
        observation is NaN or impossible.
    """
    self._example = example
    observations = self._convert(observations)
    self._set_masks(observations, is_observed, lengths)
    self.inputs = model_lib.as_inputs(
      None if isinstance(inputs, tuple) and not inputs else inputs,
      example,
      self.batch_shape + [self.num_steps],
    )
    masks = self.components
    if masks is None:
      masks = tf.nest.map_structure(lambda _: self.is_observed, observations)
    flat = [
      self._fill(x, mask, tf.TensorShape(shape), default)
      for x, mask, shape, default in zip(
        tf.nest.flatten(observations),
        tf.nest.flatten(masks),
        tf.nest.flatten(example.observation_like[1]),
        tf.nest.flatten(example.observation),
        strict=True,
      )
    ]
    self.observations = tf.nest.pack_sequence_as(observations, flat)
    self._check_values()

  @property
  def shown(self) -> types.Structure | None:
    """The mask for a user's functions: `components`, else `is_observed`."""
    return self.is_observed if self.components is None else self.components

  def parts(self) -> tuple:
    """Returns the arguments that make the same sequences again."""
    return self.observations, self.shown, self.lengths, self.inputs

  def as_batch(self) -> 'Sequences':
    """Returns a batch of one, made of a single sequence."""
    parts = [
      part
      if part is None
      else tf.nest.map_structure(lambda x: x[tf.newaxis], part)
      for part in self.parts()
    ]
    return Sequences(self._example, *parts)

  def _convert(self, observations):
    """Converts observations; sets batch shape and number of steps."""
    dtype, event_shapes = self._example.observation_like
    observations = model_lib.convert_like(
      'observations', observations, dtype, 'the values of `observation_fn`'
    )
    leading = []
    for x, shape in zip(
      tf.nest.flatten(observations), tf.nest.flatten(event_shapes), strict=True
    ):
      if not x.shape.is_fully_defined():
        raise ValueError(
          f'`observations` must have a known shape; got {x.shape}.'
        )
      rank = x.shape.rank - shape.rank
      if rank < 1 or x.shape[rank:] != shape:
        raise ValueError(
          '`observations` must have shape batch + [num_steps] + event, with '
          f'event shape {shape.as_list()}; got {x.shape.as_list()}.'
        )
      leading.append(x.shape[:rank])
    if any(shape != leading[0] for shape in leading):
      raise ValueError(
        '`observations` must have parts of the same batch shape and number of '
        f'steps; got {[shape.as_list() for shape in leading]}.'
      )
    if leading[0][-1] < 1:
      raise ValueError(
        '`observations` must have at least one step; got shape '
        f'{leading[0].as_list()}.'
      )
    self.batch_shape = leading[0][:-1]
    self.num_steps = leading[0][-1]
    return observations

  def _set_masks(self, observations, is_observed, lengths):
    """Sets the masks and the lengths."""
    shape = self.batch_shape + [self.num_steps]
    if lengths is not None:
      lengths = checks.as_tensor('lengths', lengths)
      if lengths.shape != self.batch_shape or not lengths.dtype.is_integer:
        raise ValueError(
          f'`lengths` must be integers of shape {self.batch_shape.as_list()}, '
          f'one for each sequence; got {lengths.dtype.name} of shape '
          f'{lengths.shape.as_list()}.'
        )
      lengths = tf.cast(lengths, tf.int32)
      if reductions.has_values(lengths) and bool(
        tf.reduce_any((lengths < 1) | (lengths > self.num_steps))
      ):
        raise ValueError(
          f'`lengths` must be from 1 to {self.num_steps}, the number of steps '
          f'of `observations`; got {lengths.numpy()}.'
        )
    event_shapes = self._example.observation_like[1]
    self.components = None
    if is_observed is not None:
      if not tf.nest.is_nested(observations):
        # A list is one mask here, not a structure of several.
        is_observed = checks.as_tensor('is_observed', is_observed)
      if not missing.is_by_step(is_observed, observations, event_shapes):
        self.components = self._convert_components(is_observed, observations)
        is_observed = missing.any_component(self.components, shape.rank)
      is_observed = checks.as_tensor('is_observed', is_observed)
      if is_observed.shape != shape or is_observed.dtype != tf.bool:
        raise ValueError(
          f'`is_observed` must be bools of shape {shape.as_list()}, one for '
          'each step, or of the structure and the shape of `observations`, one '
          f'for each component; got {is_observed.dtype.name} of shape '
          f'{is_observed.shape.as_list()}.'
        )
    if lengths is not None:
      exists = tf.range(self.num_steps) < lengths[..., tf.newaxis]
      is_observed = (
        exists if is_observed is None else tf.logical_and(is_observed, exists)
      )
    self.is_observed, self.lengths = is_observed, lengths

  def _convert_components(self, is_observed, observations):
    """Converts and checks a mask for each component."""
    steps = self.batch_shape + [self.num_steps]

    def convert(mask, x):
      mask = checks.as_tensor('is_observed', mask)
      if mask.shape not in (x.shape, steps) or mask.dtype != tf.bool:
        raise ValueError(
          f'`is_observed` must be bools of shape {x.shape.as_list()}, one for '
          f'each component, or {steps.as_list()}; got {mask.dtype.name} of '
          f'shape {mask.shape.as_list()}.'
        )
      return mask

    flat = map(
      convert, tf.nest.flatten(is_observed), tf.nest.flatten(observations)
    )
    return tf.nest.pack_sequence_as(observations, list(flat))

  def _fill(self, x, mask, event_shape, example):
    """Fills missing observations; raises an error for NaN elsewhere."""
    rank = self.batch_shape.rank
    if mask is not None:
      if self.is_observed is not None and self.lengths is not None:
        steps = self.is_observed
        padding = [1] * (mask.shape.rank - rank - 1)
        mask &= tf.reshape(steps, steps.shape + padding)
      if mask.shape.rank < x.shape.rank:
        mask = tf.reshape(mask, mask.shape + [1] * event_shape.rank)
      mask = tf.broadcast_to(mask, x.shape)
      # They are filled by an observation of the same sequence or, if it has
      # none, by one that the model has drawn; both are in the support.
      first = tf.argmax(tf.cast(mask, tf.int32), axis=rank)
      x = tf.where(
        mask,
        x,
        tf.where(
          tf.reduce_any(mask, axis=rank, keepdims=True),
          _take_step(x, first, rank),
          example,
        ),
      )
    if x.dtype.is_floating and reductions.has_values(x):
      is_nan = tf.math.is_nan(x).numpy()
      if is_nan.any():
        raise ValueError(
          '`observations` must not be NaN where they are observed; got NaN at '
          f'index {np.argwhere(is_nan)[0].tolist()}. `is_observed` says which '
          'steps, or components, are not observed.'
        )
    return x

  def _check_values(self):
    """Raises an error if there are values that cannot be observed."""
    x, example = self.observations, self._example
    if tf.nest.is_nested(x) or not reductions.has_values(x):
      return
    if example.num_categories is not None and bool(
      tf.reduce_any((x < 0) | (x >= example.num_categories))
    ):
      raise ValueError(
        f'`observations` must be possible: categories from 0 to '
        f'{example.num_categories - 1}; got values from {tf.reduce_min(x)} to '
        f'{tf.reduce_max(x)}.'
      )
    support = example.support
    if support is None:
      return
    x = tf.reshape(x, [-1, 1] + example.observation_like[1].as_list())
    try:
      support.copy(validate_args=True).log_prob(x)
    except tf.errors.InvalidArgumentError as e:
      raise ValueError(
        '`observations` must be values that the distribution of '
        f'`observation_fn`, {type(support).__name__}, can have; got values '
        f'from {tf.reduce_min(x)} to {tf.reduce_max(x)}: {e.message}'
      ) from e

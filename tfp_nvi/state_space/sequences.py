# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences of observations, checked against a model, and ready to be used."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks
from tfp_nvi.state_space import functions
from tfp_nvi.state_space import model as model_lib

__all__ = ['Sequences']


class Sequences:
  """A batch of sequences: observations, masks, lengths and inputs.

  Fields:
    observations: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`. Steps that are not observed hold a value of
      the same sequence, so that densities there are finite.
    is_observed: `None`, or bool `Tensor` of shape `batch + [num_steps]`.
    lengths: `None`, or int32 `Tensor` of shape `batch`.
    inputs: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`; `()` if there are none.
    batch_shape: `TensorShape`.
    num_steps: Python `int`.
  """

  def __init__(
    self, example, observations, is_observed=None, lengths=None, inputs=None
  ):
    """Initializes the sequences.

    Args:
      example: `Example` of the model.
      observations: As the field.
      is_observed: As the field; optional.
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
    self._set_masks(is_observed, lengths)
    self.inputs = model_lib.as_inputs(
      None if isinstance(inputs, tuple) and not inputs else inputs,
      example,
      self.batch_shape + [self.num_steps],
    )
    self.observations = tf.nest.map_structure(
      self._fill, observations, example.observation_like[1], example.observation
    )
    self._check_values()

  def parts(self) -> tuple:
    """The arguments that make the same sequences again."""
    return self.observations, self.is_observed, self.lengths, self.inputs

  def as_batch(self) -> 'Sequences':
    """A batch of one, of a single sequence."""
    parts = [
      part
      if part is None
      else tf.nest.map_structure(lambda x: x[tf.newaxis], part)
      for part in self.parts()
    ]
    return Sequences(self._example, *parts)

  def _convert(self, observations):
    """Observations as tensors; sets batch shape and number of steps."""
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

  def _set_masks(self, is_observed, lengths):
    """Sets which steps are observed, and how many there are."""
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
      if functions.has_values(lengths) and bool(
        tf.reduce_any((lengths < 1) | (lengths > self.num_steps))
      ):
        raise ValueError(
          f'`lengths` must be from 1 to {self.num_steps}, the number of steps '
          f'of `observations`; got {lengths.numpy()}.'
        )
    if is_observed is not None:
      is_observed = checks.as_tensor('is_observed', is_observed)
      if is_observed.shape != shape or is_observed.dtype != tf.bool:
        raise ValueError(
          f'`is_observed` must be bools of shape {shape.as_list()}, one for '
          f'each step; got {is_observed.dtype.name} of shape '
          f'{is_observed.shape.as_list()}.'
        )
    if lengths is not None:
      exists = tf.range(self.num_steps) < lengths[..., tf.newaxis]
      is_observed = (
        exists if is_observed is None else tf.logical_and(is_observed, exists)
      )
    self.is_observed, self.lengths = is_observed, lengths

  def _fill(self, x, event_shape, example):
    """Fills steps that are not observed; raises an error for NaN elsewhere."""
    rank = self.batch_shape.rank
    if self.is_observed is not None:
      mask = tf.reshape(
        self.is_observed, self.is_observed.shape + [1] * event_shape.rank
      )
      # By an observation of the same sequence, or if it has none, by one that
      # the model has drawn; both are in the support.
      first = tf.argmax(tf.cast(self.is_observed, tf.int32), axis=-1)
      x = tf.where(
        mask,
        x,
        tf.where(
          tf.reduce_any(mask, axis=rank, keepdims=True),
          tf.gather(x, first[..., tf.newaxis], axis=rank, batch_dims=rank),
          example,
        ),
      )
    if x.dtype.is_floating and functions.has_values(x):
      is_nan = tf.math.is_nan(x).numpy()
      if is_nan.any():
        raise ValueError(
          '`observations` must not be NaN where they are observed; got NaN at '
          f'index {np.argwhere(is_nan)[0].tolist()}. `is_observed` says which '
          'steps are not observed.'
        )
    return x

  def _check_values(self):
    """Raises an error if there are values that cannot be observed."""
    x, example = self.observations, self._example
    if tf.nest.is_nested(x) or not functions.has_values(x):
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

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks with separate weights for each level and batch member.

Contract: weights have shape `[num_levels] + batch + [inputs, outputs]`. The
networks of one level take inputs of shape `[num_particles] + batch + [inputs]`,
and those of a range of levels `[num_particles, num_levels] + batch + [inputs]`.
Both ways give the same outputs.
"""

import typing

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, randomness
from tfp_nvi.internal.axes import (
  at_level,
  broadcasts_to,
  particles_first,
  particles_last,
)

__all__ = [
  'StackedPerceptron',
  'as_scale',
]

# Scales are no smaller, so that densities stay finite.
_MIN_SCALE = 1e-3
# Softplus of this is one: at the start, where outputs are about zero, scales
# are about one.
_RAW_ONE = 0.5413

# A matrix is narrow if it has at most this number of rows or columns.
_NARROW = 8
# Initial values of the first layer: the length of the weight vector of each
# unit, and the largest size of its bias.
_LENGTH, _REACH = 0.65, 1.0


def as_scale(outputs: tf.Tensor) -> tf.Tensor:
  """Converts outputs of a network to scales, which are one where these are 0.

  Args:
    outputs: float `Tensor`.

  Returns:
    scale: float `Tensor` of the same shape, positive.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import perceptron

  assert abs(perceptron.as_scale(tf.constant(0.0)) - 1.0) < 2e-3
  ```
  """
  return tf.math.softplus(outputs + _RAW_ONE) + _MIN_SCALE


def _transpose_narrow(x):
  """Returns a transposed copy of matrices with few columns.

  XLA merges `tf.transpose` with an adjacent matrix product into a product with
  other strides, which takes up to three times as long for small matrices.
  """
  return tf.stack(tf.unstack(x, axis=-1), axis=-2)


@tf.custom_gradient
def _affine(weights, bias, x):
  """Applies the affine maps of a batch of small matrices, particles last.

  This is optimized for many small products. A product over few inputs is
  written as a sum, which XLA fuses with the following operations. If a product
  has few rows or columns, operands are arranged such that the matrix library is
  fast. The gradients of weights and biases come from a single product.

  Args:
    weights: float `Tensor` of shape `stack + [inputs, outputs]`.
    bias: float `Tensor` of shape `stack + [outputs]`.
    x: float `Tensor` of shape `stack + [inputs, num_particles]`.

  Returns:
    y: float `Tensor` of shape `stack + [outputs, num_particles]`.
  """
  inputs, outputs = weights.shape[-2:]
  if inputs <= _NARROW:
    y = tf.add_n(
      [
        weights[..., i, :, tf.newaxis] * x[..., i, tf.newaxis, :]
        for i in range(inputs)
      ]
    )
  elif outputs <= _NARROW:
    y = tf.matmul(_transpose_narrow(weights), x)
  else:
    y = tf.matmul(weights, x, transpose_a=True)

  def gradient(dy):
    if inputs < outputs and inputs <= _NARROW:
      x_and_one = tf.concat([x, tf.ones_like(x[..., :1, :])], axis=-2)
      both = _transpose_narrow(tf.matmul(dy, x_and_one, transpose_b=True))
      d_weights, d_bias = both[..., :-1, :], both[..., -1, :]
    else:
      d_weights = tf.matmul(x, dy, transpose_b=True)
      d_bias = tf.reduce_sum(dy, axis=-1)
    return d_weights, d_bias, tf.matmul(weights, dy)

  return y + bias[..., tf.newaxis], gradient


def _spread_points(stack_shape, num_points, num_coordinates, seed, dtype):
  """Returns points that are spread evenly over the unit cube.

  The points are a lattice. Steps of the first coordinate are equal parts of the
  unit interval, and steps of the others are powers of the inverse of the
  generalized golden ratio. Each element of the stack has its own random shift.

  Args:
    stack_shape: List of Python `int`s.
    num_points: Python `int`.
    num_coordinates: Python `int`.
    seed: Stateless seed.
    dtype: Floating point dtype.

  Returns:
    points: `Tensor` of shape `stack_shape + [num_coordinates, num_points]`.
  """
  ratio = 2.0
  for _ in range(50):
    ratio = (1.0 + ratio) ** (1.0 / num_coordinates)
  steps = np.concatenate(
    [[1.0 / num_points], ratio ** -np.arange(1.0, num_coordinates)]
  )
  lattice = steps[:, np.newaxis] * np.arange(num_points)
  shift = randomness.uniform([*stack_shape, num_coordinates, 1], seed, dtype)
  points = tf.cast(lattice % 1.0, dtype) + shift
  return points - tf.floor(points)


def _spread_units(stack_shape, inputs, outputs, seed, dtype):
  """Initializes units such that their kinks are spread over the inputs.

  Args:
    stack_shape: List of Python `int`s.
    inputs: Python `int`.
    outputs: Python `int`.
    seed: Stateless seed.
    dtype: Floating point dtype.

  Returns:
    weights: `Tensor` of shape `stack_shape + [inputs, outputs]`. The weight
      vector of each unit has length `_LENGTH`.
    biases: `Tensor` of shape `stack_shape + [outputs]`, with values between
      `-_REACH` and `_REACH`.
  """
  num_pairs = (inputs + 1) // 2
  points = _spread_points(stack_shape, outputs, 2 * num_pairs + 1, seed, dtype)
  angle = 2.0 * np.pi * points[..., :num_pairs, :]
  # Pairs of normal values by the Box-Muller transform, for random directions.
  floor = np.finfo(tf.as_dtype(dtype).as_numpy_dtype).tiny
  radius = tf.sqrt(
    -2.0 * tf.math.log(tf.maximum(points[..., num_pairs:-1, :], floor))
  )
  normal = tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-2)
  normal = normal[..., :inputs, :]
  length = tf.maximum(tf.norm(normal, axis=-2, keepdims=True), floor)
  biases = _REACH * (2.0 * points[..., -1, :] - 1.0)
  return _LENGTH * normal / length, biases


def _uniform_units(stack_shape, inputs, outputs, seed, dtype):
  """Returns weights and biases, uniform between `-+1 / sqrt(inputs)`."""
  values = randomness.uniform(
    [*stack_shape, inputs + 1, outputs], seed, dtype=dtype
  )
  values = (2.0 * values - 1.0) / np.sqrt(inputs)
  return values[..., :-1, :], values[..., -1, :]


class StackedPerceptron(tf.Module):
  """Multilayer perceptrons with ReLU units, stacked over levels and batch.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  network = nvi.StackedPerceptron(
    num_levels=7, batch_shape=[10], num_units=[2, 50, 4], seed=1
  )
  assert network(3, tf.ones([36, 10, 2])).shape == [36, 10, 4]
  assert network(range(0, 7), tf.ones([36, 7, 10, 2])).shape == [36, 7, 10, 4]
  ```
  """

  def __init__(
    self,
    num_levels: int,
    batch_shape: typing.Any,
    num_units: typing.Sequence[int],
    dtype: tf.DType = tf.float32,
    seed: typing.Any = None,
    name: str = 'stacked_perceptron',
  ):
    """Initializes the weights.

    If there are few inputs, the kinks of the units of the first layer are
    spread evenly over directions and distances from the origin. Random kinks
    would leave gaps, and training may lose a mode that lies in a gap. The
    weights and biases of other hidden layers are uniform between
    `-1 / sqrt(inputs)` and `1 / sqrt(inputs)`. Those of the last layer are
    zero.

    Args:
      num_levels: Python `int`.
      batch_shape: Shape of the batch of networks at each level.
      num_units: List of Python `int`s: the number of inputs, of hidden units
        of each layer, and of outputs.
      dtype: Floating point dtype.
        Default value: `tf.float32`.
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If a count is not positive, there are no outputs, or the dtype
        is not floating point.
    """
    super().__init__(name=name)
    num_levels = checks.as_count('num_levels', num_levels)
    batch_shape = checks.as_batch_shape('batch_shape', batch_shape)
    num_units = checks.as_counts('num_units', num_units)
    if len(num_units) < 2:
      raise ValueError(
        '`num_units` must be the numbers of inputs, of the units of hidden '
        f'layers, if any, and of outputs; got {num_units}.'
      )
    dtype = checks.as_floating_dtype('dtype', dtype)
    self._dtype = dtype
    self._num_inputs, self._num_levels = num_units[0], num_levels
    stack_shape = [num_levels] + batch_shape.as_list()
    shapes = list(zip(num_units[:-1], num_units[1:], strict=True))
    seeds = randomness.split_seed(randomness.as_seed(seed), len(shapes))
    self._weights, self._biases = [], []
    for i, (inputs, outputs) in enumerate(shapes):
      if i == len(shapes) - 1:
        weights = tf.zeros(stack_shape + [inputs, outputs], dtype)
        biases = tf.zeros(stack_shape + [outputs], dtype)
      elif i == 0 and inputs <= _NARROW:
        weights, biases = _spread_units(
          stack_shape, inputs, outputs, seeds[i], dtype
        )
      else:
        weights, biases = _uniform_units(
          stack_shape, inputs, outputs, seeds[i], dtype
        )
      self._weights.append(tf.Variable(weights, name=f'layer_{i}'))
      self._biases.append(tf.Variable(biases, name=f'layer_{i}'))

  def __call__(self, level, inputs):
    """Applies the networks.

    Args:
      level: Python `int`, scalar int `Tensor`, or Python `range`.
      inputs: `Tensor` of shape `[num_particles] + batch + [inputs]`, or
        `[num_particles, num_levels] + batch + [inputs]` for a range.

    Returns:
      outputs: `Tensor` of that shape with `[outputs]` last.

    Raises:
      TypeError: If `inputs` is not a `Tensor` of the dtype of the weights.
      ValueError: If it has another number of inputs, or of levels for a range,
        or a batch shape with which that of the networks does not broadcast.
    """
    inputs = checks.as_tensor('inputs', inputs, self._dtype)
    stack = list(self._weights[0].shape[:-2])
    own = [len(level), *stack[1:]] if isinstance(level, range) else stack[1:]
    shape = inputs.shape
    if (
      shape.rank is None
      or shape.rank < 2
      or shape[-1] != self._num_inputs
      or not broadcasts_to(own, shape[1:-1])
    ):
      raise ValueError(
        '`inputs` must have shape [num_particles, ...] + batch + '
        f'[{self._num_inputs}], with a batch to which {own} broadcasts; got '
        f'shape {shape}.'
      )
    return particles_first(self.particles_last(level, particles_last(inputs)))

  def particles_last(self, level, x):
    """Applies the networks to inputs with the particles on the last axis.

    Args:
      level: As in `__call__`.
      x: `Tensor` of shape `batch + [inputs, num_particles]`, or
        `[num_levels] + batch + [inputs, num_particles]` for a range.

    Returns:
      outputs: `Tensor` of that shape with `[outputs, num_particles]` last.
    """
    rank = x.shape.rank
    for i, (weights, bias) in enumerate(
      zip(self._weights, self._biases, strict=True)
    ):
      if i > 0:
        x = tf.nn.relu(x)
      stack = x.shape[:-2]
      weights = at_level(weights, level, rank)
      bias = at_level(bias, level, rank - 1)
      x = _affine(
        tf.broadcast_to(weights, stack + weights.shape[-2:]),
        tf.broadcast_to(bias, stack + bias.shape[-1:]),
        x,
      )
    return x

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Axes of particles, levels and batches."""

import tensorflow as tf

__all__ = [
  'at_level',
  'broadcast_shapes',
  'broadcasts_to',
  'particle_indices',
  'particles_first',
  'particles_last',
  'select',
  'swap_first_axes',
]


def at_level(parameter, level, rank=None):
  """Selects the slice of a stacked parameter that belongs to a level.

  Args:
    parameter: `Tensor` of shape `[num_levels] + batch + event`.
    level: Python `int`, scalar int `Tensor`, or Python `range`.
    rank: Python `int`, for a `range`: the rank to give the result, with its
      first axis over levels, by inserting axes of size one behind that.

  Returns:
    parameter: `Tensor` of shape `batch + event`, or for a range
      `[len(level)] + [1, ...] + batch + event`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import axes

  parameter = tf.reshape(tf.range(12), [3, 4])
  assert axes.at_level(parameter, 1).shape == [4]
  assert axes.at_level(parameter, range(1, 3), rank=3).shape == [2, 1, 4]
  ```
  """
  if not isinstance(level, range):
    return (
      parameter[level]
      if isinstance(level, int)
      else tf.gather(parameter, level)
    )
  if (level.start, level.stop) != (0, parameter.shape[0]):
    parameter = parameter[level.start : level.stop]
  shape = parameter.shape.as_list()
  if rank is not None and rank != len(shape):
    parameter = tf.reshape(
      parameter, shape[:1] + [1] * (rank - len(shape)) + shape[1:]
    )
  return parameter


def broadcasts_to(shape, other):
  """Returns whether a shape broadcasts to another one without changing it.

  Args:
    shape: `TensorShape`.
    other: `TensorShape`.

  Returns:
    broadcasts: Python `bool`.

  ```python
  from tfp_nvi.internal import axes

  assert axes.broadcasts_to([1, 2], [3, 2])
  ```
  """
  shape, other = tf.TensorShape(shape), tf.TensorShape(other)
  try:
    return tf.broadcast_static_shape(shape, other) == other
  except ValueError:
    return False


def particle_indices(shape):
  """Returns the index of each particle among those of its batch member.

  Args:
    shape: `[num_particles] + batch`, known.

  Returns:
    indices: int32 `Tensor` of this shape.

  ```python
  from tfp_nvi.internal import axes

  assert axes.particle_indices([3, 2]).numpy().tolist() == [
    [0, 0],
    [1, 1],
    [2, 2],
  ]
  ```
  """
  shape = tf.TensorShape(shape)
  indices = tf.reshape(tf.range(shape[0]), [-1] + [1] * (shape.rank - 1))
  return tf.broadcast_to(indices, shape)


def particles_last(x):
  """Moves the first axis to the end.

  With few features and many particles, this is the order in which products of
  small matrices and sums over features are fast.

  Args:
    x: `Tensor` of shape `[num_particles] + shape`.

  Returns:
    x: `Tensor` of shape `shape + [num_particles]`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import axes

  assert axes.particles_last(tf.ones([36, 7, 2])).shape == [7, 2, 36]
  ```
  """
  return tf.transpose(x, [*range(1, x.shape.rank), 0])


def particles_first(x):
  """Inverts `particles_last`.

  Args:
    x: `Tensor` of shape `shape + [num_particles]`.

  Returns:
    x: `Tensor` of shape `[num_particles] + shape`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import axes

  assert axes.particles_first(tf.ones([7, 2, 36])).shape == [36, 7, 2]
  ```
  """
  return tf.transpose(x, [x.shape.rank - 1, *range(x.shape.rank - 1)])


def select(condition, if_true, if_false):
  """Applies `tf.where` to values with further axes.

  Args:
    condition: bool `Tensor` of shape `shape`.
    if_true: Nested structure of `Tensor`s of shape `shape + event`.
    if_false: Likewise.

  Returns:
    values: Likewise.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import axes

  x = axes.select(tf.constant([True, False]), tf.ones([2, 3]), tf.zeros([2, 3]))
  assert tf.reduce_sum(x) == 3.0 and tf.reduce_sum(x[1]) == 0.0
  ```
  """

  def select_part(x, y):
    rank = x.shape.rank - condition.shape.rank
    return tf.where(tf.reshape(condition, condition.shape + [1] * rank), x, y)

  return tf.nest.map_structure(select_part, if_true, if_false)


def swap_first_axes(structure):
  """Exchanges the first two axes, such as levels and particles.

  Args:
    structure: Nested structure of `Tensor`s of shape `[m, n] + shape`.

  Returns:
    structure: The same, of shapes `[n, m] + shape`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import axes

  assert axes.swap_first_axes(tf.ones([2, 3, 4])).shape == [3, 2, 4]
  ```
  """
  return tf.nest.map_structure(
    lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), structure
  )


def _show(shape):
  """Formats a shape for an error."""
  return 'unknown' if shape.rank is None else str(shape.as_list())


def broadcast_shapes(named_shapes) -> tf.TensorShape:
  """Returns the shape that several batch shapes broadcast to.

  Args:
    named_shapes: List of pairs of a Python `str`, the argument that a shape
      belongs to, and a `TensorShape`.

  Returns:
    shape: `TensorShape`.

  Raises:
    ValueError: If they do not broadcast; it names the first that does not.

  ```python
  from tfp_nvi.internal import axes

  shape = axes.broadcast_shapes([('path', [3, 1]), ('transitions', [2])])
  assert shape == [3, 2]
  ```
  """
  result = tf.TensorShape([])
  for name, shape in named_shapes:
    shape = tf.TensorShape(shape)
    try:
      result = tf.broadcast_static_shape(result, shape)
    except ValueError as e:
      raise ValueError(
        f'`{name}` must have a batch shape that broadcasts with those of the '
        f'other arguments, {_show(result)}; got {_show(shape)}.'
      ) from e
  return result

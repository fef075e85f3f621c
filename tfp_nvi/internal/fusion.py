# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Functions that make XLA compute a value once, in a loop of its own.

On a CPU, XLA fuses a value that it considers cheap into the loops that use it.
The value is then computed once for each use, in the order of axes of that loop.
A random number of a batch member, for example, is drawn again for each of its
particles, and log densities are not vectorized over particles, because the loop
around them runs over the batch first. XLA does not fuse a value that contains a
division and is used more than once, nor the operands and results of matrix
products. The functions below make use of these exceptions.

Each costs a small kernel, which pays off for more than one batch member.
"""

import tensorflow as tf

__all__ = [
  'compute_once',
  'sum_by_product',
]


@tf.custom_gradient
def compute_once(x):
  """Returns the same values, which XLA materializes.

  Args:
    x: float `Tensor` that is used more than once.

  Returns:
    x: `Tensor` with the same values and gradient.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import fusion

  assert fusion.compute_once(tf.constant(2.0)) == 2.0
  ```
  """
  # XLA cannot remove the division, as the divisor is not one where x is NaN.
  one = tf.where(tf.equal(x, x), tf.ones_like(x), x)
  return x / one, lambda dy: dy


@tf.custom_gradient
def sum_by_product(x):
  """Sums over the axis before the last one, by a matrix product.

  Args:
    x: float `Tensor` of shape `batch + [size, num_particles]`.

  Returns:
    total: float `Tensor` of shape `batch + [num_particles]`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import fusion

  assert fusion.sum_by_product(tf.ones([7, 2, 36])).shape == [7, 36]
  ```
  """
  ones = tf.ones(x.shape[:-2] + [1, x.shape[-2]], x.dtype)
  total = tf.squeeze(tf.matmul(ones, x), axis=-2)
  return total, lambda dy: tf.broadcast_to(dy[..., tf.newaxis, :], x.shape)

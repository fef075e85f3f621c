# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""What keeps XLA from computing a value many times over, or out of order.

On a CPU, XLA computes a value inside the loops of what uses it, if it takes it
to be cheap: once for each use, in the order of the axes there. A random number
of a batch member is then drawn again for each of its particles, and densities
that could be computed for eight particles at once are not, as the loop around
them runs over the batch first. It leaves alone what has a division in it and is
used more than once, and what a matrix product takes or gives.

Worth it for more than one batch member: each costs a small kernel of its own.
"""

import tensorflow as tf

__all__ = [
  'compute_once',
  'sum_by_product',
]


@tf.custom_gradient
def compute_once(x):
  """The same values, which XLA is to compute by themselves.

  Args:
    x: float `Tensor` that is used more than once.

  Returns:
    x: The same.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import fusion

  assert fusion.compute_once(tf.constant(2.0)) == 2.0
  ```
  """
  # XLA does not know that the divisor is one, as it is not where there is NaN.
  one = tf.where(tf.equal(x, x), tf.ones_like(x), x)
  return x / one, lambda dy: dy


@tf.custom_gradient
def sum_by_product(x):
  """Sum over the axis before the last one, as a product of matrices.

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

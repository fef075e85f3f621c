# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small matrices, one for each particle.

Libraries of linear algebra take longer to be called for a matrix of two rows
than to compute with it. Up to a few rows, products and Cholesky factors are
therefore written out, so that XLA fuses them with the operations before and
after.
"""

import tensorflow as tf

__all__ = [
  'cholesky',
  'inverse_cholesky',
  'matmul',
  'matvec',
  'project_positive',
  'quadratic_form',
  'transpose',
]

# Up to this many rows, operations are written out.
_FEW = 4


def transpose(a: tf.Tensor) -> tf.Tensor:
  """Transposes matrices.

  Args:
    a: `Tensor` of shape `batch + [m, n]`.

  Returns:
    transposed: `Tensor` of shape `batch + [n, m]`.
  """
  if 1 in a.shape[-2:]:
    return tf.reshape(a, a.shape[:-2] + [a.shape[-1], a.shape[-2]])
  return tf.linalg.matrix_transpose(a)


def matmul(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
  """Returns the product of matrices.

  Args:
    a: `Tensor` of shape `batch + [m, n]`.
    b: `Tensor` of shape `batch + [n, k]`; batch shapes broadcast.

  Returns:
    product: `Tensor` of shape `batch + [m, k]`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import matrices

  a = tf.constant([[1.0, 2.0], [0.0, 1.0]])
  assert matrices.matmul(a, a)[0, 1] == 4.0
  ```
  """
  if a.shape[-1] > _FEW:
    return tf.matmul(a, b)
  return tf.add_n(
    [
      # Slices with new axes are folded into wrong shapes by TensorFlow's graph
      # optimizer.
      tf.expand_dims(a[..., i], -1) * tf.expand_dims(b[..., i, :], -2)
      for i in range(a.shape[-1])
    ]
  )


def matvec(a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """Returns the product of matrices with vectors.

  Args:
    a: `Tensor` of shape `batch + [m, n]`.
    x: `Tensor` of shape `batch + [n]`; batch shapes broadcast.

  Returns:
    product: `Tensor` of shape `batch + [m]`.
  """
  return tf.reduce_sum(a * x[..., tf.newaxis, :], axis=-1)


def quadratic_form(a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """Returns `x' a x`.

  Args:
    a: `Tensor` of shape `batch + [n, n]`.
    x: `Tensor` of shape `batch + [n]`; batch shapes broadcast.

  Returns:
    form: `Tensor` of shape `batch`.
  """
  return tf.reduce_sum(x * matvec(a, x), axis=-1)


def _factor(a):
  """Returns the lower triangle of a Cholesky factor, as a list of lists."""
  size = a.shape[-1]
  rows: list = [[None] * size for _ in range(size)]
  for i in range(size):
    for j in range(i + 1):
      rest = a[..., i, j]
      for k in range(j):
        rest -= rows[i][k] * rows[j][k]
      rows[i][j] = tf.sqrt(rest) if i == j else rest / rows[j][j]
  return rows


def _of_rows(rows):
  """Makes matrices from the rows of their lower triangles."""
  zero = tf.zeros_like(rows[0][0])
  return tf.stack(
    [
      tf.stack([zero if x is None else x for x in row], axis=-1) for row in rows
    ],
    axis=-2,
  )


def cholesky(a: tf.Tensor) -> tf.Tensor:
  """Computes Cholesky factors.

  Args:
    a: `Tensor` of shape `batch + [n, n]`: positive definite matrices.

  Returns:
    factor: `Tensor` of the same shape: lower triangular matrices.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import matrices

  assert matrices.cholesky(tf.constant([[4.0, 0.0], [0.0, 9.0]]))[1, 1] == 3.0
  ```
  """
  if a.shape[-1] > _FEW:
    return tf.linalg.cholesky(a)
  return _of_rows(_factor(a))


def inverse_cholesky(a: tf.Tensor) -> tuple:
  """Computes inverse Cholesky factors, and log determinants of matrices.

  Args:
    a: `Tensor` of shape `batch + [n, n]`: positive definite matrices.

  Returns:
    inverse: `Tensor` of the same shape: `L^-1` where `a = L L'`.
    log_det: `Tensor` of shape `batch`: the logarithm of the determinant of `a`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import matrices

  inverse, log_det = matrices.inverse_cholesky(tf.constant([[4.0]]))
  assert inverse[0, 0] == 0.5 and abs(log_det - tf.math.log(4.0)) < 1e-6
  ```
  """
  size = a.shape[-1]
  if size > _FEW:
    factor = tf.linalg.cholesky(a)
    inverse = tf.linalg.triangular_solve(
      factor, tf.eye(size, batch_shape=a.shape[:-2], dtype=a.dtype)
    )
    return inverse, 2.0 * tf.reduce_sum(
      tf.math.log(tf.linalg.diag_part(factor)), axis=-1
    )
  rows = _factor(a)
  columns: list = [[None] * size for _ in range(size)]
  for i in range(size):
    columns[i][i] = 1.0 / rows[i][i]
    for j in range(i):
      total = rows[i][j] * columns[j][j]
      for k in range(j + 1, i):
        total += rows[i][k] * columns[k][j]
      columns[i][j] = -total * columns[i][i]
  log_det = 2.0 * tf.add_n([tf.math.log(rows[i][i]) for i in range(size)])
  return _of_rows(columns), log_det


def project_positive(a: tf.Tensor) -> tf.Tensor:
  """Returns the nearest matrices without negative eigenvalues.

  Args:
    a: `Tensor` of shape `batch + [n, n]`: symmetric matrices.

  Returns:
    projected: `Tensor` of the same shape.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import matrices

  assert matrices.project_positive(tf.constant([[-3.0]])) == 0.0
  ```
  """
  if a.shape[-1] == 1:
    return tf.maximum(a, tf.zeros_like(a))
  values, vectors = tf.linalg.eigh(a)
  values = tf.maximum(values, tf.zeros_like(values))
  return tf.matmul(
    vectors * values[..., tf.newaxis, :], vectors, transpose_b=True
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Gaussian approximations of the parts of a state-space model.

Contract: a local state is a vector `z` here, of shape `shape + [d]`, with
`d = 1` for a scalar. A transition is `N(mean(z), L L')`. A likelihood or a
message from the future is `exp(-e' M e / 2 + m' e + c)`, where `M` has no
negative eigenvalues, and `e` is `z` less the state that it was expanded at:
states may be large beside their deviations, and differences of large numbers
would lose digits. Transitions are linearized, and the likelihood is expanded
to the second order. `M` is the Gauss-Newton matrix if observations are normal
with a variance that does not depend on the state; otherwise it is the Hessian
without its negative eigenvalues. Nothing is approximated where the model is
linear and Gaussian.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import axes, compatibility, matrices, types

tfd = tfp.distributions

__all__ = [
  'Quadratic',
  'as_event',
  'as_vector',
  'condition',
  'expand_likelihood',
  'is_gaussian',
  'linearize',
  'log_integral',
  'message',
  'moments',
  'normal',
]

_OF_PARTS = compatibility.all_forms(tfd.Independent, tfd.Sample)


class Quadratic(NamedTuple):
  """A function `exp(-e' M e / 2 + m' e + c)`.

  Fields:
    precision: `Tensor` of shape `shape + [d, d]`: `M`.
    linear: `Tensor` of shape `shape + [d]`: `m`.
    constant: `Tensor` of shape `shape`: `c`.
  """

  precision: Any
  linear: Any
  constant: Any

  def times(self, other: 'Quadratic') -> 'Quadratic':
    """Returns the product of two functions."""
    return Quadratic(*(x + y for x, y in zip(self, other, strict=True)))

  def where(self, condition: tf.Tensor) -> 'Quadratic':
    """Returns the function where a condition holds, and else one."""
    return axes.select(condition, self, Quadratic(*map(tf.zeros_like, self)))

  def log_value(self, e: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm of the function at vectors `e`."""
    return (
      self.constant
      + tf.reduce_sum(self.linear * e, axis=-1)
      - 0.5 * matrices.quadratic_form(self.precision, e)
    )

  @staticmethod
  def one(shape: tf.TensorShape, size: int, dtype: tf.DType) -> 'Quadratic':
    """Returns the function that is one everywhere."""
    return Quadratic(
      tf.zeros(shape + [size, size], dtype),
      tf.zeros(shape + [size], dtype),
      tf.zeros(shape, dtype),
    )


def _is_multivariate(distribution):
  return isinstance(distribution, tfd.MultivariateNormalLinearOperator)


def is_gaussian(distribution: tfd.Distribution) -> bool:
  """Returns whether a distribution is normal, over a number or a vector.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.state_space import gaussian

  assert gaussian.is_gaussian(tfp.distributions.Normal(0.0, 1.0))
  ```
  """
  if tf.nest.is_nested(distribution.dtype) or distribution.event_shape.rank > 1:
    return False
  while isinstance(distribution, _OF_PARTS):
    distribution = distribution.distribution
  return isinstance(distribution, tfd.Normal) or _is_multivariate(distribution)


def as_vector(z: tf.Tensor, event_rank: int) -> tf.Tensor:
  """Returns a local state as a vector."""
  return z if event_rank else z[..., tf.newaxis]


def as_event(z: tf.Tensor, event_rank: int) -> tf.Tensor:
  """Returns a vector as a local state."""
  return z if event_rank else z[..., 0]


def moments(
  distribution: tfd.Distribution, shape: types.Shape
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the mean of a normal distribution, and a factor of its covariance.

  Args:
    distribution: `tfd.Distribution` for which `is_gaussian` is true.
    shape: `TensorShape` that the batch shape broadcasts to.

  Returns:
    mean: `Tensor` of shape `shape + [d]`.
    factor: `Tensor` of shape `shape + [d, d]`: `L`, with the covariance `L L'`.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.state_space import gaussian

  mean, factor = gaussian.moments(tfp.distributions.Normal(3.0, 2.0), [5])
  assert mean.shape == [5, 1] and factor[0, 0, 0] == 2.0
  ```
  """
  rank = distribution.event_shape.rank
  while (
    isinstance(distribution, _OF_PARTS)
    and distribution.distribution.event_shape.rank == rank
  ):
    # A wrapper that adds no axes hides what may be correlated.
    distribution = distribution.distribution
  mean = as_vector(distribution.mean(), rank)
  if _is_multivariate(distribution):
    factor = distribution.scale.to_dense()
  else:
    factor = as_vector(distribution.stddev(), rank)
    if rank == 0:
      factor = factor[..., tf.newaxis]
    else:
      factor = tf.linalg.diag(factor)
  shape, size = tf.TensorShape(shape), mean.shape[-1]
  return (
    tf.broadcast_to(mean, shape + [size]),
    tf.broadcast_to(factor, shape + [size, size]),
  )


def _rows_of_gradients(tape, values, z):
  """Differentiates `values`, `shape + [m]`, by `z`: `shape + [m, d]`."""
  return tf.stack(
    [tape.gradient(value, z, unconnected_gradients='zero') for value in values],
    axis=-2,
  )


def linearize(
  distribution_fn: Callable, z: tf.Tensor, shape: tf.TensorShape
) -> tuple:
  """Returns a normal transition, linearized at a local state.

  Args:
    distribution_fn: Python callable from a vector to the distribution of the
      next local state.
    z: `Tensor` of shape `shape + [d]`.
    shape: `TensorShape`.

  Returns:
    matrix: `Tensor` of shape `shape + [d, d]`: the Jacobian of the mean.
    mean: `Tensor` of shape `shape + [d]`: the mean at `z`.
    factor: `Tensor` of shape `shape + [d, d]`, as in `moments`.
  """
  with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
    tape.watch(z)
    mean, factor = moments(distribution_fn(z), shape)
    parts = tf.unstack(mean, axis=-1)
  matrix = _rows_of_gradients(tape, parts, z)
  return matrix, mean, factor


def expand_likelihood(
  distribution_fn: Callable,
  x: types.Structure,
  z: tf.Tensor,
  shape: tf.TensorShape,
) -> Quadratic:
  """Returns the likelihood of a local state, expanded at some state.

  Args:
    distribution_fn: Python callable from a vector to the distribution of an
      observation.
    x: Nested structure of `Tensor`s of shape `batch + event`: the observation.
    z: `Tensor` of shape `shape + [d]`.
    shape: `TensorShape`: `[num_particles] + batch`.

  Returns:
    likelihood: `Quadratic` of a state less `z`.
  """
  z = tf.identity(z)
  with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
    tape.watch(z)
    distribution = distribution_fn(z)
    if is_gaussian(distribution):
      mean, factor = moments(distribution, shape)
      parts = tf.unstack(mean, axis=-1)
  if is_gaussian(distribution) and tape.gradient(factor, z) is None:
    jacobian = _rows_of_gradients(tape, parts, z)
    return _expand_gaussian(distribution, x, mean, factor, jacobian, shape)
  value, gradient, hessian = _derivatives(
    lambda z: tf.broadcast_to(distribution_fn(z).log_prob(x), shape), z
  )
  return Quadratic(matrices.project_positive(-hessian), gradient, value)


def _expand_gaussian(distribution, x, mean, factor, jacobian, shape):
  """Expands the likelihood of a normal observation of known variance."""
  x = as_vector(x, distribution.event_shape.rank)
  covariance = matrices.matmul(factor, matrices.transpose(factor))
  whiten, _ = matrices.inverse_cholesky(covariance)
  slope = matrices.matmul(whiten, jacobian)
  error = matrices.matvec(whiten, tf.broadcast_to(x, mean.shape) - mean)
  value = tf.broadcast_to(
    distribution.log_prob(as_event(x, distribution.event_shape.rank)), shape
  )
  transposed = matrices.transpose(slope)
  return Quadratic(
    matrices.matmul(transposed, slope),
    matrices.matvec(transposed, error),
    value,
  )


def _derivatives(log_prob_fn, z):
  """Returns values, gradients and Hessians of a function, for each particle."""
  with tf.GradientTape(
    persistent=True, watch_accessed_variables=False
  ) as outer:
    outer.watch(z)
    with tf.GradientTape(watch_accessed_variables=False) as inner:
      inner.watch(z)
      value = log_prob_fn(z)
    gradient = inner.gradient(value, z, unconnected_gradients='zero')
    parts = tf.unstack(gradient, axis=-1)
  hessian = _rows_of_gradients(outer, parts, z)
  return value, gradient, 0.5 * (hessian + matrices.transpose(hessian))


def _conditioning(factor, precision):
  """Computes how a normal vector changes when a `Quadratic` is given.

  Args:
    factor: `Tensor` of shape `shape + [d, d]`: `L`.
    precision: `Tensor` of shape `shape + [d, d]`: `M`.

  Returns:
    covariance: `Tensor` of that shape: `W = L S^-1 L'`, with
      `S = 1 + L' M L`.
    remainder: `Tensor` of that shape: `1 - M W`.
    pull: `Tensor` of that shape: `S^-1 L' M`.
    log_det: `Tensor` of shape `shape`: the log determinant of `S`.
  """
  transposed = matrices.transpose(factor)
  inner = matrices.matmul(matrices.matmul(transposed, precision), factor)
  unit = tf.eye(inner.shape[-1], dtype=inner.dtype)
  inverse, log_det = matrices.inverse_cholesky(inner + unit)
  half = matrices.matmul(inverse, transposed)
  covariance = matrices.matmul(matrices.transpose(half), half)
  if inner.shape[-1] == 1:
    remainder = inverse**2
  else:
    remainder = unit - matrices.matmul(precision, covariance)
  pull = matrices.matmul(
    matrices.transpose(inverse), matrices.matmul(half, precision)
  )
  return covariance, remainder, pull, log_det


def condition(
  mean: tf.Tensor, factor: tf.Tensor, quadratic: Quadratic, center: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Normalizes the normal density `N(mean, L L')` times a function.

  Args:
    mean: `Tensor` of shape `shape + [d]`.
    factor: `Tensor` of shape `shape + [d, d]`: `L`.
    quadratic: `Quadratic`, whose constant has no effect.
    center: `Tensor` of shape `shape + [d]`: what it was expanded at.

  Returns:
    mean: `Tensor` of shape `shape + [d]`.
    covariance: `Tensor` of shape `shape + [d, d]`.
  """
  covariance, *_ = _conditioning(factor, quadratic.precision)
  error = quadratic.linear - matrices.matvec(quadratic.precision, mean - center)
  return mean + matrices.matvec(covariance, error), covariance


def normal(
  mean: tf.Tensor, covariance: tf.Tensor, event_rank: int
) -> tfd.Distribution:
  """Returns a normal distribution over local states.

  Args:
    mean: `Tensor` of shape `shape + [d]`.
    covariance: `Tensor` of shape `shape + [d, d]`.
    event_rank: Python `int`: 0 for a number, 1 for a vector.

  Returns:
    distribution: `tfd.Distribution`.
  """
  if event_rank == 0:
    return tfd.Normal(mean[..., 0], tf.sqrt(covariance[..., 0, 0]))
  return tfd.MultivariateNormalTriL(mean, matrices.cholesky(covariance))


def _of_mean(factor, quadratic):
  """Returns `E[quadratic(e + L noise)]` as a function of `e`."""
  precision, linear, constant = quadratic
  covariance, remainder, pull, log_det = _conditioning(factor, precision)
  # The sum of squares keeps digits that a difference would lose.
  left = matrices.matmul(remainder, precision)
  return Quadratic(
    matrices.matmul(left, matrices.transpose(remainder))
    + matrices.matmul(matrices.transpose(pull), pull),
    matrices.matvec(remainder, linear),
    constant
    - 0.5 * log_det
    + 0.5 * matrices.quadratic_form(covariance, linear),
  )


def message(
  matrix: tf.Tensor, offset: tf.Tensor, factor: tf.Tensor, quadratic: Quadratic
) -> Quadratic:
  """Returns the expectation of a function of the next state, given this one.

  Args:
    matrix: `Tensor` of shape `shape + [d, d]`: as from `linearize`.
    offset: `Tensor` of shape `shape + [d]`: the mean from `linearize`, less the
      state that `quadratic` was expanded at.
    factor: `Tensor` of shape `shape + [d, d]`.
    quadratic: `Quadratic`: the function of the next state.

  Returns:
    message: `Quadratic` of this state less what `linearize` was given.
  """
  of_mean = _of_mean(factor, quadratic)
  transposed = matrices.transpose(matrix)
  pulled = matrices.matvec(of_mean.precision, offset)
  return Quadratic(
    matrices.matmul(matrices.matmul(transposed, of_mean.precision), matrix),
    matrices.matvec(transposed, of_mean.linear - pulled),
    of_mean.log_value(offset),
  )


def log_integral(
  mean: tf.Tensor, factor: tf.Tensor, quadratic: Quadratic
) -> tf.Tensor:
  """Returns the log of the expectation of a function of a normal vector.

  Args:
    mean: `Tensor` of shape `shape + [d]`: less what `quadratic` was expanded
      at.
    factor: `Tensor` of shape `shape + [d, d]`.
    quadratic: `Quadratic`.

  Returns:
    log_integral: `Tensor` of shape `shape`.
  """
  return _of_mean(factor, quadratic).log_value(mean)

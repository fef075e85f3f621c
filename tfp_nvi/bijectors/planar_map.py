# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The map of a planar flow, its log determinant, and its inverse.

Contract:

*   For all finite parameters the map is strictly increasing along `normal`, so
    that the log determinant is finite and the inverse is unique.
*   `planar_inverse` returns the root to working precision with a fixed number
    of steps, and its derivatives of every order are those of the implicit
    function theorem: no derivative passes through the iterations.
*   No value and no derivative is NaN where `normal` is zero.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import dtype_util

from tfp_nvi.internal import axes, checks, types

__all__ = [
  'as_tensors',
  'check_parameter_shapes',
  'common_floating_dtype',
  'invertible_direction',
  'move',
  'move_back',
  'planar_forward',
  'planar_inverse',
]

# Three steps reach working precision in float32 and float64 for every offset
# and 1e-37 < gain < 1e15; the fourth is a margin.
_NUM_HALLEY_STEPS = 4


def planar_forward(
  x: types.TensorLike,
  direction: types.TensorLike,
  normal: types.TensorLike,
  bias: types.TensorLike,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Applies a planar flow and returns the log determinant with it.

  This function implements `PlanarFlow`, whose docstring has the formula. It is
  for callers that need both results and no bijector.

  Args:
    x: Floating-point `Tensor` of shape `sample + batch + [d]`.
    direction: `Tensor` of the same dtype and shape `batch + [d]`.
    normal: `Tensor` of the same dtype and shape `batch + [d]`.
    bias: `Tensor` of the same dtype and shape `batch`.

  Returns:
    y: `Tensor` of shape `sample + batch + [d]`.
    log_det: `Tensor` of shape `sample + batch`, `log |det dy/dx|`.

  Raises:
    ValueError: if the shapes do not fit together.

  #### Examples

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  y, log_det = nvi.bijectors.planar_forward(
    tf.zeros([10, 2]), direction=[2.0, 0.0], normal=[3.0, 1.0], bias=0.5
  )
  ```
  """
  with tf.name_scope('planar_forward'):
    x, direction, normal, bias = as_tensors('x', x, direction, normal, bias)
    direction, gain = invertible_direction(direction, normal)
    return move(x, direction, gain, normal, bias)


def planar_inverse(
  y: types.TensorLike,
  direction: types.TensorLike,
  normal: types.TensorLike,
  bias: types.TensorLike,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Inverts a planar flow and returns the log determinant with it.

  With `a = w . y + b`, the value `z = w . x + b` solves the scalar equation
  `z + (w . u_hat) tanh(z) = a`, whose left side is odd and increasing; then
  `x = y - u_hat tanh(z)`. Derivatives come from the implicit function theorem:
  `dz = (da - tanh(z) d(w . u_hat)) / (1 + (w . u_hat) sech^2(z))`.

  Args:
    y: Floating-point `Tensor` of shape `sample + batch + [d]`.
    direction: `Tensor` of the same dtype and shape `batch + [d]`.
    normal: `Tensor` of the same dtype and shape `batch + [d]`.
    bias: `Tensor` of the same dtype and shape `batch`.

  Returns:
    x: `Tensor` of shape `sample + batch + [d]`, where `planar_forward` gives
      `y`.
    log_det: `Tensor` of shape `sample + batch`, `log |det dx/dy|`.

  Raises:
    ValueError: if the shapes do not fit together.

  #### Examples

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  flow = dict(direction=[2.0, 0.0], normal=[3.0, 1.0], bias=0.5)
  y, log_det = nvi.bijectors.planar_forward(tf.ones([10, 2]), **flow)
  x, inverse_log_det = nvi.bijectors.planar_inverse(y, **flow)
  # Up to rounding, x is one and inverse_log_det is -log_det.
  ```
  """
  with tf.name_scope('planar_inverse'):
    y, direction, normal, bias = as_tensors('y', y, direction, normal, bias)
    direction, gain = invertible_direction(direction, normal)
    return move_back(y, direction, gain, normal, bias)


def move(
  x: tf.Tensor,
  direction: tf.Tensor,
  gain: tf.Tensor,
  normal: tf.Tensor,
  bias: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Applies the flow; `direction` must be the invertible `u_hat`."""
  tanh, sech_squared = _tanh_and_sech_squared(_dot(normal, x) + bias)
  y = x + direction * tanh[..., tf.newaxis]
  return y, tf.math.log(_determinant(tanh, sech_squared, gain))


def move_back(
  y: tf.Tensor,
  direction: tf.Tensor,
  gain: tf.Tensor,
  normal: tf.Tensor,
  bias: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Applies the inverse; `direction` must be the invertible `u_hat`."""
  offset = _dot(normal, y) + bias
  # Both have one shape, so that the custom gradient needs no reduction.
  gain = gain + tf.zeros_like(offset)
  offset = offset + tf.zeros_like(gain)
  root = _solve(tf.stop_gradient(offset), tf.stop_gradient(gain))
  tanh, sech_squared = _tanh_and_sech_squared(
    _with_implicit_gradient(root, offset, gain)
  )
  x = y - direction * tanh[..., tf.newaxis]
  return x, -tf.math.log(_determinant(tanh, sech_squared, gain))


def _dot(a, b):
  # XLA fuses a product and a sum, but not a batched matmul of single rows.
  return tf.reduce_sum(a * b, axis=-1)


def _determinant(tanh, sech_squared, gain):
  # 1 + (gain - 1) sech^2 as a sum of two positive terms: no cancellation when
  # gain is near zero.
  return tf.square(tanh) + gain * sech_squared


def invertible_direction(
  direction: tf.Tensor, normal: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns `u_hat` and the gain `1 + w . u_hat > 0` at the hyperplane."""
  tiny = float(np.finfo(direction.dtype.as_numpy_dtype).tiny)
  product = _dot(normal, direction)
  normal_squared = _dot(normal, normal)
  # If the square and its derivatives underflow, `u_hat = u`, which is
  # invertible as long as the product is above -1.
  is_flat = (normal_squared < tiny**0.5) & (product > -0.5)
  scale = tf.math.rsqrt(
    tf.where(is_flat, tf.ones_like(product), tf.maximum(normal_squared, tiny))
  )
  # m(a) - a = softplus(a) - 1 - a = softplus(-a) - 1.
  correction = tf.where(
    is_flat, tf.zeros_like(product), tf.math.softplus(-product) - 1.0
  )
  unit_normal = normal * scale[..., tf.newaxis]
  direction += (correction * scale)[..., tf.newaxis] * unit_normal
  # The floor keeps the logarithm finite once softplus underflows.
  gain = tf.where(
    is_flat, 1.0 + product, tf.maximum(tf.math.softplus(product), tiny)
  )
  return direction, gain


@tf.custom_gradient
def _tanh_and_sech_squared(z):
  """Returns `tanh(z)` and `sech(z)^2`, both to full relative precision."""
  # 1 - tanh^2 has no correct digit left once tanh rounds to one.
  decay = tf.exp(-2.0 * tf.abs(z))
  tanh = tf.math.tanh(z)
  sech_squared = 4.0 * decay / tf.square(1.0 + decay)

  def grad(grad_tanh, grad_sech_squared):
    # The function is called again here, and its result not captured, so that
    # higher derivatives use this rule as well, and not that of abs(z).
    # Compilers merge the two calls.
    tanh, sech_squared = _tanh_and_sech_squared(z)
    return sech_squared * (grad_tanh - 2.0 * tanh * grad_sech_squared)

  return (tanh, sech_squared), grad


@tf.custom_gradient
def _with_implicit_gradient(root, offset, gain):
  """Returns `root`, with derivatives in `offset` and `gain`."""

  def grad(grad_root):
    # The function is called again here, and its result not captured, so that it
    # is differentiable as well.
    tanh, sech_squared = _tanh_and_sech_squared(
      _with_implicit_gradient(root, offset, gain)
    )
    grad_offset = grad_root / _determinant(tanh, sech_squared, gain)
    return tf.zeros_like(root), grad_offset, -grad_offset * tanh

  return tf.identity(root), grad


def _solve(offset, gain):
  """Solves `z + (gain - 1) tanh(z) = offset` for `z`."""
  # The left side is odd: solve for z >= 0 and restore the sign.
  target = tf.abs(offset)
  excess = tf.nn.relu(gain - 1.0)
  deficit = tf.nn.relu(1.0 - gain)
  # gain < 1: the left side is at least z - deficit everywhere, and about
  # gain z + deficit z^3 / 3 near zero.
  flat_guess = target + tf.minimum(
    tf.pow(3.0 * target / deficit, 1.0 / 3.0), deficit
  )
  # gain > 1: two upper bounds, tight before and after tanh saturates. The
  # second, log(exp(2 shift) + 4 excess) / 2, comes from z = shift + v with
  # 2 v exp(2 v) <= 4 excess exp(-2 shift) and W(x) <= log(1 + x) for Lambert's
  # function W.
  shift = target - excess
  steep_guess = tf.minimum(
    tf.math.atanh(tf.minimum(target / gain, 1.0)),
    0.5 * tfp.math.log_add_exp(2.0 * shift, tf.math.log(4.0 * excess)),
  )
  z = tf.where(gain < 1.0, flat_guess, steep_guess)
  for _ in range(_NUM_HALLEY_STEPS):
    tanh, sech_squared = _tanh_and_sech_squared(z)
    slope = _determinant(tanh, sech_squared, gain)
    # Both forms add positive terms only, so that the residual is accurate.
    value = tf.where(
      gain < 1.0,
      gain * z + deficit * _identity_minus_tanh(z, tanh),
      z + excess * tanh,
    )
    newton = (value - target) / slope
    curvature = -2.0 * (gain - 1.0) * tanh * sech_squared
    z -= newton / (1.0 - 0.5 * newton * curvature / slope)
  return tf.sign(offset) * z


def _identity_minus_tanh(z, tanh):
  """Returns `z - tanh(z)` for `z >= 0` without cancellation."""
  # Lambert's continued fraction tanh z = z / (1 + z^2 / (3 + z^2 / (5 + ...)))
  # cut after 11, as one quotient: exact to 4e-17 z for z < 1/4.
  q = tf.square(z)
  small = z * q * (3465.0 + q * (189.0 + q))
  small /= 10395.0 + q * (4725.0 + q * (210.0 + q))
  return tf.where(z < 0.25, small, z - tanh)


def common_floating_dtype(**arguments: Any) -> tf.DType:
  """Returns the common dtype of arguments; float32 if none has a dtype.

  Args:
    **arguments: Arguments by their names.

  Returns:
    dtype: `tf.DType`.

  Raises:
    TypeError: If they have different dtypes, or one that is not floating point.
  """
  dtypes = {
    name: dtype_util.name(value.dtype)
    for name, value in arguments.items()
    if getattr(value, 'dtype', None) is not None
  }
  names = ', '.join(f'`{name}`' for name in arguments)
  if len(set(dtypes.values())) > 1:
    raise TypeError(f'{names} must have the same dtype; got {dtypes}.')
  for name, dtype in dtypes.items():
    if not tf.as_dtype(dtype).is_floating:
      raise TypeError(f'`{name}` must have a floating dtype; got {dtype}.')
  return tf.as_dtype(next(iter(dtypes.values()), tf.float32))


def as_tensors(
  name: str,
  value: types.TensorLike,
  direction: types.TensorLike,
  normal: types.TensorLike,
  bias: types.TensorLike,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Converts the arguments to tensors and checks their static shapes."""
  arguments = {
    name: value,
    'direction': direction,
    'normal': normal,
    'bias': bias,
  }
  dtype = common_floating_dtype(**arguments)
  value, direction, normal, bias = (
    checks.as_tensor(key, argument, dtype)
    for key, argument in arguments.items()
  )
  batch_shape = check_parameter_shapes(
    direction.shape, normal.shape, bias.shape
  )
  if value.shape.rank == 0:
    raise ValueError(f'`{name}` must have shape [..., d]; got a scalar.')
  if not value.shape[-1:].is_compatible_with(direction.shape[-1:]):
    raise ValueError(
      f'`{name}` and `direction` must have the same last dimension; got '
      f'`{name}` of shape {value.shape} and `direction` of shape '
      f'{direction.shape}.'
    )
  axes.broadcast_shapes(
    [('direction, normal, bias', batch_shape), (name, value.shape[:-1])]
  )
  return value, direction, normal, bias


def check_parameter_shapes(
  direction: tf.TensorShape, normal: tf.TensorShape, bias: tf.TensorShape
) -> tf.TensorShape:
  """Raises if the static shapes do not fit; returns the static batch shape."""
  for name, shape in (('direction', direction), ('normal', normal)):
    if shape.rank == 0:
      raise ValueError(f'`{name}` must have shape batch + [d]; got a scalar.')
  if not direction[-1:].is_compatible_with(normal[-1:]):
    raise ValueError(
      '`direction` and `normal` must have the same last dimension; got '
      f'`direction` of shape {direction} and `normal` of shape {normal}.'
    )
  return axes.broadcast_shapes(
    [('direction', direction[:-1]), ('normal', normal[:-1]), ('bias', bias)]
  )

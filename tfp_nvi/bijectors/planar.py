# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Planar flow: a bijector that moves points along one direction.

Contract:

*   For all finite parameters the map is strictly increasing along `normal`, so
    that the log determinant is finite and the inverse is unique.
*   `planar_inverse` returns the root to working precision with a fixed number
    of steps, and its derivatives of every order are those of the implicit
    function theorem: no derivative passes through the iterations.
*   No value and no derivative is NaN where `normal` is zero.
"""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import dtype_util, tensor_util

from tfp_nvi.internal import checks

__all__ = [
  'PlanarFlow',
  'PlanarFlows',
  'planar_forward',
  'planar_inverse',
]

tfb = tfp.bijectors

# Three steps reach working precision in float32 and float64 for every offset
# and 1e-37 < gain < 1e15; the fourth is a margin.
_NUM_HALLEY_STEPS = 4


class PlanarFlow(tfb.AutoCompositeTensorBijector):
  """Planar flow `y = x + u_hat tanh(w . x + b)` on vectors of size `d`.

  With `u = direction`, `w = normal` and `b = bias`, the map contracts or
  expands space perpendicular to the hyperplane `w . x + b = 0`:

  ```none
  y = x + u_hat tanh(w . x + b)
  log |det dy/dx| = log(1 + (w . u_hat) sech^2(w . x + b))
  u_hat = u + (m(w . u) - w . u) w / ||w||^2,   m(a) = softplus(a) - 1
  ```

  The component of `u` along `w` is replaced so that `w . u_hat = m(w . u) >
  -1`. The map is then invertible for any real parameters, and no constraint is
  needed in training. Two consequences are worth knowing when initializing:

  *   `direction = 0` is not the identity. The identity is `direction =
      softplus_inverse(1) normal / ||normal||^2`, which makes `u_hat = 0`.
  *   `u_hat` grows as `1 / ||normal||` when `normal` goes to zero. At `normal =
      0`, where `u_hat` has no limit, `u_hat = u`: a shift by `u tanh(b)`.

  The inverse solves a monotone scalar equation with a fixed number of steps,
  without a loop in the graph, so that XLA compiles it. It is differentiable to
  any order in `y` and in the parameters.

  #### Examples

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfb = tfp.bijectors
  tfd = tfp.distributions

  flow = tfb.Chain([
    nvi.bijectors.PlanarFlow(direction=[2., 0.], normal=[3., 1.], bias=0.5),
    nvi.bijectors.PlanarFlow(direction=[0., -1.], normal=[1., 2.], bias=0.),
  ])
  distribution = tfd.TransformedDistribution(
    tfd.MultivariateNormalDiag(loc=tf.zeros(2)), flow
  )
  x = distribution.sample(5, seed=(0, 1))  # Shape [5, 2].
  distribution.log_prob(x)  # Shape [5].
  ```

  A batch of flows broadcasts against its input: parameters of shapes
  `[3, 4, d]`, `[3, 4, d]` and `[3, 4]` transform `x` of shape `[100, 3, 4, d]`.

  #### References

  [1]: Danilo Jimenez Rezende and Shakir Mohamed. Variational inference with
       normalizing flows. In _International Conference on Machine Learning_,
       2015. Section 4.1 and Appendix A.1. https://arxiv.org/abs/1505.05770
  """

  def __init__(
    self,
    direction: typing.Any,
    normal: typing.Any,
    bias: typing.Any,
    validate_args: bool = False,
    name: str = 'planar_flow',
  ):
    """Instantiates the `PlanarFlow` bijector.

    Args:
      direction: Floating-point `Tensor` of shape `batch + [d]`, the
        unconstrained `u`.
      normal: `Tensor` of the same dtype and shape `batch + [d]`, the normal
        vector `w` of the hyperplane.
      bias: `Tensor` of the same dtype and shape `batch`, the offset `b` of the
        hyperplane. The three batch shapes must broadcast with each other.
      validate_args: Python `bool`, whether to check at run time that the
        parameters are finite, and that sizes which are not known statically
        agree.
      name: Python `str`, the name of this object's operations.

    Raises:
      TypeError: if a parameter is not a `Tensor` or cannot be one, or the
        parameters have different or non-floating dtypes.
      ValueError: if `direction` and `normal` are not vectors of one size, or
        the batch shapes do not broadcast.
    """
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      dtype = _common_floating_dtype(
        direction=direction, normal=normal, bias=bias
      )
      self._direction = _convert_nonref('direction', direction, dtype)
      self._normal = _convert_nonref('normal', normal, dtype)
      self._bias = _convert_nonref('bias', bias, dtype)
      super().__init__(
        forward_min_event_ndims=1,
        dtype=dtype,
        validate_args=validate_args,
        parameters=parameters,
        name=name,
      )

  @classmethod
  def _parameter_properties(cls, dtype):
    return {
      'direction': tfp.util.ParameterProperties(event_ndims=1),
      'normal': tfp.util.ParameterProperties(event_ndims=1),
      'bias': tfp.util.ParameterProperties(
        event_ndims=0, shape_fn=lambda shape: shape[:-1]
      ),
    }

  @property
  def direction(self):
    """The unconstrained direction `u` of the displacement."""
    return self._direction

  @property
  def normal(self):
    """The normal vector `w` of the hyperplane."""
    return self._normal

  @property
  def bias(self):
    """The offset `b` of the hyperplane."""
    return self._bias

  def _forward(self, x):
    return planar_forward(x, self.direction, self.normal, self.bias)[0]

  def _forward_log_det_jacobian(self, x):
    return planar_forward(x, self.direction, self.normal, self.bias)[1]

  # No `_inverse_log_det_jacobian`: the base class negates the forward one at
  # the cached preimage, so a known preimage is never solved for again.
  def _inverse(self, y):
    return planar_inverse(y, self.direction, self.normal, self.bias)[0]

  def _parameter_control_dependencies(self, is_init):
    if is_init:
      self._check_shapes()
    if not self.validate_args:
      return []
    assertions = []
    for name in ('direction', 'normal', 'bias'):
      parameter = getattr(self, name)
      if is_init != tensor_util.is_ref(parameter):
        assertions.append(
          tf.debugging.assert_all_finite(
            parameter, message=f'`{name}` must be finite.'
          )
        )
    either_is_ref = tensor_util.is_ref(self.direction) or tensor_util.is_ref(
      self.normal
    )
    if is_init != either_is_ref:
      assertions.append(
        tf.debugging.assert_equal(
          tf.shape(self.direction)[-1],
          tf.shape(self.normal)[-1],
          message='`direction` and `normal` must have the same last dimension.',
        )
      )
    return assertions

  def _check_shapes(self):
    _check_parameter_shapes(
      self.direction.shape, self.normal.shape, self.bias.shape
    )


class PlanarFlows(PlanarFlow):
  """A sequence of planar flows whose parameters are stacked.

  The map is the same as that of a `tfb.Chain` of `PlanarFlow`s, but there are
  three parameters in total instead of three for each flow. Computations that
  depend on parameters alone are done for all flows at once, and an optimizer
  has fewer variables to update.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfb = tfp.bijectors

  direction = [[2.0, 0.0], [0.0, -1.0]]
  normal = [[3.0, 1.0], [1.0, 2.0]]
  bias = [0.5, 0.0]
  flows = nvi.bijectors.PlanarFlows(direction, normal, bias)
  # A chain applies its last bijector first.
  chain = tfb.Chain(
    [
      nvi.bijectors.PlanarFlow(direction[1], normal[1], bias[1]),
      nvi.bijectors.PlanarFlow(direction[0], normal[0], bias[0]),
    ]
  )
  x = tf.ones([5, 2])
  tf.debugging.assert_near(flows.forward(x), chain.forward(x))
  ```

  #### References

  [1]: Danilo Jimenez Rezende and Shakir Mohamed. Variational inference with
       normalizing flows. In _International Conference on Machine Learning_,
       2015. Section 4.1 and Appendix A.1. https://arxiv.org/abs/1505.05770
  """

  def __init__(
    self,
    direction: typing.Any,
    normal: typing.Any,
    bias: typing.Any,
    validate_args: bool = False,
    name: str = 'planar_flows',
  ):
    """Instantiates the `PlanarFlows` bijector.

    Args:
      direction: Floating-point `Tensor` of shape `batch + [num_flows, d]`: the
        unconstrained `u` of each flow, the first to be applied first.
      normal: `Tensor` of the same dtype and shape `batch + [num_flows, d]`: the
        normal vectors `w` of the hyperplanes.
      bias: `Tensor` of the same dtype and shape `batch + [num_flows]`: the
        offsets `b` of the hyperplanes.
      validate_args: As of `PlanarFlow`.
      name: Python `str`, the name of this object's operations.

    Raises:
      TypeError: if a parameter is not a `Tensor` or cannot be one, or the
        parameters have different or non-floating dtypes.
      ValueError: if the parameters are not of one number of flows, of one at
        least, or their other axes do not fit together.
    """
    super().__init__(direction, normal, bias, validate_args, name)

  @classmethod
  def _parameter_properties(cls, dtype):
    return {
      'direction': tfp.util.ParameterProperties(event_ndims=2),
      'normal': tfp.util.ParameterProperties(event_ndims=2),
      'bias': tfp.util.ParameterProperties(
        event_ndims=1, shape_fn=lambda shape: shape[:-1]
      ),
    }

  def _forward(self, x):
    return self._move(x)[0]

  def _forward_log_det_jacobian(self, x):
    return self._move(x)[1]

  def _move(self, x):
    x, flows = self._flows('x', x)
    log_dets = []
    for direction, gain, normal, bias in flows:
      x, log_det = _move(x, direction, gain, normal, bias)
      log_dets.append(log_det)
    return x, tf.add_n(log_dets)

  def _inverse(self, y):
    y, flows = self._flows('y', y)
    for direction, gain, normal, bias in reversed(flows):
      y = _move_back(y, direction, gain, normal, bias)[0]
    return y

  def _flows(self, name, value):
    """Returns the argument as a `Tensor`, and parameters of each flow."""
    direction, normal, bias = map(
      tf.convert_to_tensor, (self.direction, self.normal, self.bias)
    )
    direction, gain = _invertible_direction(direction, normal)
    flows = list(
      zip(
        tf.unstack(direction, axis=-2),
        tf.unstack(gain, axis=-1),
        tf.unstack(normal, axis=-2),
        tf.unstack(bias, axis=-1),
        strict=True,
      )
    )
    direction, _, normal, bias = flows[0]
    return _as_tensors(name, value, direction, normal, bias)[0], flows

  def _check_shapes(self):
    direction, normal, bias = (
      tf.TensorShape(parameter.shape)
      for parameter in (self.direction, self.normal, self.bias)
    )
    counts = [direction[-2:-1], normal[-2:-1], bias[-1:]]
    if any(
      count.rank != 1
      or count != counts[0]
      or not count.is_fully_defined()
      or count[0] == 0
      for count in counts
    ):
      raise ValueError(
        '`direction`, `normal` and `bias` must have shapes [..., num_flows, '
        'd], [..., num_flows, d] and [..., num_flows], of one number of flows '
        f'that is known and positive; got {direction}, {normal} and {bias}.'
      )
    _check_parameter_shapes(
      direction[:-2].concatenate(direction[-1:]),
      normal[:-2].concatenate(normal[-1:]),
      bias[:-1],
    )


def planar_forward(x, direction, normal, bias):
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
    x, direction, normal, bias = _as_tensors('x', x, direction, normal, bias)
    direction, gain = _invertible_direction(direction, normal)
    return _move(x, direction, gain, normal, bias)


def planar_inverse(y, direction, normal, bias):
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
    y, direction, normal, bias = _as_tensors('y', y, direction, normal, bias)
    direction, gain = _invertible_direction(direction, normal)
    return _move_back(y, direction, gain, normal, bias)


def _move(x, direction, gain, normal, bias):
  """Applies the flow; `direction` must be the invertible `u_hat`."""
  tanh, sech_squared = _tanh_and_sech_squared(_dot(normal, x) + bias)
  y = x + direction * tanh[..., tf.newaxis]
  return y, tf.math.log(_determinant(tanh, sech_squared, gain))


def _move_back(y, direction, gain, normal, bias):
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


def _invertible_direction(direction, normal):
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
    # Called again instead of captured, so that higher derivatives use this rule
    # as well, and not that of abs(z). Compilers merge the two calls.
    tanh, sech_squared = _tanh_and_sech_squared(z)
    return sech_squared * (grad_tanh - 2.0 * tanh * grad_sech_squared)

  return (tanh, sech_squared), grad


@tf.custom_gradient
def _with_implicit_gradient(root, offset, gain):
  """Returns `root`, with derivatives in `offset` and `gain`."""

  def grad(grad_root):
    # Called again instead of captured, so that it is differentiable as well.
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


def _convert_nonref(name, value, dtype):
  """A `Tensor`, or what a parameter refers to, such as a `tf.Variable`."""
  if tensor_util.is_ref(value):
    return tensor_util.convert_nonref_to_tensor(value, dtype=dtype, name=name)
  return checks.as_tensor(name, value, dtype)


def _common_floating_dtype(**arguments):
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


def _as_tensors(name, value, direction, normal, bias):
  """Converts the arguments to tensors and checks what is statically known."""
  arguments = {
    name: value,
    'direction': direction,
    'normal': normal,
    'bias': bias,
  }
  dtype = _common_floating_dtype(**arguments)
  value, direction, normal, bias = (
    checks.as_tensor(key, argument, dtype)
    for key, argument in arguments.items()
  )
  batch_shape = _check_parameter_shapes(
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
  _broadcast_batch_shapes(
    {name: value.shape[:-1], 'direction, normal, bias': batch_shape}
  )
  return value, direction, normal, bias


def _check_parameter_shapes(direction, normal, bias):
  """Raises if the static shapes do not fit; returns the static batch shape."""
  for name, shape in (('direction', direction), ('normal', normal)):
    if shape.rank == 0:
      raise ValueError(f'`{name}` must have shape batch + [d]; got a scalar.')
  if not direction[-1:].is_compatible_with(normal[-1:]):
    raise ValueError(
      '`direction` and `normal` must have the same last dimension; got '
      f'`direction` of shape {direction} and `normal` of shape {normal}.'
    )
  return _broadcast_batch_shapes(
    {'direction': direction[:-1], 'normal': normal[:-1], 'bias': bias}
  )


def _broadcast_batch_shapes(shapes):
  batch_shape = tf.TensorShape([])
  for shape in shapes.values():
    try:
      batch_shape = tf.broadcast_static_shape(batch_shape, shape)
    except ValueError as error:
      named = ', '.join(f'`{key}`: {value}' for key, value in shapes.items())
      raise ValueError(
        f'The batch shapes do not broadcast; got {named}.'
      ) from error
  return batch_shape

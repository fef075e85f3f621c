# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Planar flow: a bijector that moves points along one direction.

The formulas are in `planar_map`.
"""

import typing

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import tensor_util

from tfp_nvi.bijectors import planar_map
from tfp_nvi.bijectors.planar_map import planar_forward, planar_inverse
from tfp_nvi.internal import checks, types

__all__ = [
  'PlanarFlow',
  'PlanarFlows',
]

tfb = tfp.bijectors


def _convert_nonref(name, value, dtype):
  """Converts to a `Tensor`, but keeps references such as a `tf.Variable`."""
  if tensor_util.is_ref(value):
    return tensor_util.convert_nonref_to_tensor(value, dtype=dtype, name=name)
  return checks.as_tensor(name, value, dtype)


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
      dtype = planar_map.common_floating_dtype(
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
  def direction(self) -> types.TensorLike:
    """The unconstrained direction `u` of the displacement."""
    return self._direction

  @property
  def normal(self) -> types.TensorLike:
    """The normal vector `w` of the hyperplane."""
    return self._normal

  @property
  def bias(self) -> types.TensorLike:
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
    planar_map.check_parameter_shapes(
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
      validate_args: As in `PlanarFlow`.
      name: Python `str`, the name of this object's operations.

    Raises:
      TypeError: if a parameter is not a `Tensor` or cannot be one, or the
        parameters have different or non-floating dtypes.
      ValueError: if the parameters differ in the number of flows, there is no
        flow, or their other axes do not fit together.
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
      x, log_det = planar_map.move(x, direction, gain, normal, bias)
      log_dets.append(log_det)
    return x, tf.add_n(log_dets)

  def _inverse(self, y):
    y, flows = self._flows('y', y)
    for direction, gain, normal, bias in reversed(flows):
      y = planar_map.move_back(y, direction, gain, normal, bias)[0]
    return y

  def _flows(self, name, value):
    """Returns the argument as a `Tensor`, and parameters of each flow."""
    direction, normal, bias = map(
      tf.convert_to_tensor, (self.direction, self.normal, self.bias)
    )
    direction, gain = planar_map.invertible_direction(direction, normal)
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
    return planar_map.as_tensors(name, value, direction, normal, bias)[0], flows

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
    planar_map.check_parameter_shapes(
      direction[:-2].concatenate(direction[-1:]),
      normal[:-2].concatenate(normal[-1:]),
      bias[:-1],
    )

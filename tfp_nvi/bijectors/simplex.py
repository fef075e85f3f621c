# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The volume that densities over the simplex are of.

The Jacobian of `tfb.SoftmaxCentered` is that of a surface in K dimensions,
whose volume is sqrt(K) times that of the first K - 1 values, which the density
of a Dirichlet distribution is of. The difference matters where densities of
vectors are compared with densities over the simplex, as importance weights do.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import types

tfb = tfp.bijectors

__all__ = [
  'ConstantJacobian',
  'log_surface',
]


class ConstantJacobian(tfb.Bijector):
  """The identity over vectors, with a given log determinant of its Jacobian.

  It corrects the Jacobian of bijectors that come after it in a chain.

  Args:
    log_det: Python `float`: the log determinant.
    dtype: `tf.DType`.
  """

  def __init__(self, log_det: float, dtype: tf.DType):
    super().__init__(
      forward_min_event_ndims=1,
      is_constant_jacobian=True,
      dtype=dtype,
      parameters={'log_det': log_det, 'dtype': dtype},
      name='constant_jacobian',
    )
    self._log_det = log_det

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return {}

  def _forward(self, x):
    return x

  def _inverse(self, y):
    return y

  def _forward_log_det_jacobian(self, x):
    del x
    return tf.constant(self._log_det, self.dtype)


def log_surface(
  event_shape: types.Structure, unconstrained_shape: types.Structure
) -> float:
  """The log of the constant in the Jacobians of all simplices of a state.

  Args:
    event_shape: Nested structure of shapes: of values.
    unconstrained_shape: Likewise, of what bijectors map to these.

  Returns:
    log_surface: Python `float`: zero where there is no simplex.
  """
  shapes, own = (
    [tf.TensorShape(x).as_list() for x in tf.nest.flatten(structure)]
    for structure in (event_shape, unconstrained_shape)
  )
  return float(
    sum(
      0.5 * np.prod(shape[:-1]) * np.log(shape[-1])
      for shape, inner in zip(shapes, own, strict=True)
      if shape and inner == shape[:-1] + [shape[-1] - 1]
    )
  )

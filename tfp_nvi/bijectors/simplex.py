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

from tfp_nvi.bijectors import parts
from tfp_nvi.internal import types

tfb = tfp.bijectors
tfd = tfp.distributions

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
  source: tfd.Distribution,
  names: list,
  unconstrained_shape: types.Structure,
  bijector: tfb.Bijector | None = None,
) -> float:
  """The log of the constant in the Jacobians of all simplices of a state.

  Densities that are transformed by a bijector of their own are of the surface
  already.

  Args:
    source: `tfd.Distribution` over states, or `JointDistributionPinned`.
    names: List of Python `str`s: the parts of a state.
    unconstrained_shape: Nested structure of shapes: what the bijector maps to
      states.
    bijector: `tfb.Bijector` that a user gave.
      Default value: `None` (i.e., the one that TFP knows of).

  Returns:
    log_surface: Python `float`: zero where there is no simplex.
  """
  shapes, own = (
    [tf.TensorShape(x).as_list() for x in tf.nest.flatten(structure)]
    for structure in (source.event_shape, unconstrained_shape)
  )
  if len(shapes) != len(own):
    return 0.0
  distributions = parts.leaf_distributions(source, names)
  if distributions is None:
    distributions = [None] * len(shapes)
  bijectors = [bijector] * len(shapes)
  if isinstance(bijector, tfb.JointMap):
    given = tf.nest.flatten(bijector.bijectors)
    bijectors = given if len(given) == len(shapes) else bijectors
  return float(
    sum(
      _log_surface(*part)
      for part in zip(shapes, own, distributions, bijectors, strict=True)
    )
  )


def _log_surface(shape, inner, distribution, bijector):
  """The same for one part of a state."""
  while isinstance(distribution, (tfd.Sample, tfd.Independent)):
    distribution = distribution.distribution
  # Subclasses are written in the first K - 1 values, as Dirichlet ones are.
  if type(distribution) is tfd.TransformedDistribution:
    return 0.0
  if isinstance(bijector, tfb.Blockwise):
    sizes = tf.get_static_value(bijector.block_sizes)
    return sum(
      0.5 * np.log(size + 1.0)
      for size, part in zip(sizes, bijector.bijectors, strict=True)
      if _has_softmax(part)
    )
  is_simplex = shape and inner == shape[:-1] + [shape[-1] - 1]
  if not is_simplex or (bijector is not None and not _has_softmax(bijector)):
    return 0.0
  return 0.5 * np.prod(shape[:-1]) * np.log(shape[-1])


def _has_softmax(bijector):
  return any(
    isinstance(part, tfb.SoftmaxCentered) for part in parts.find_parts(bijector)
  )

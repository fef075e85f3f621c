# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The map between a user's states and vectors of real coordinates."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import parts as parts_lib
from tfp_nvi.bijectors import simplex, split
from tfp_nvi.densities import space as density_space
from tfp_nvi.internal import naming, types

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'StateMap',
]

# At how many values to look at what the bijector does.
_NUM_PROBES = 3


def _default_bijector(density):
  """The event-space bijector that TFP knows of; the identity without one.

  Args:
    density: `JointDistributionPinned` or `tfd.Distribution`.

  Returns:
    bijector: `tfb.Bijector`.

  Raises:
    ValueError: If there is none for a variable of several.
  """
  get = getattr(density, 'experimental_default_event_space_bijector', None)
  try:
    bijector = get() if get is not None else None
  except (AttributeError, NotImplementedError):
    # Mixtures have none; most of them are over the whole real space.
    bijector = None
  if bijector is None and tf.nest.is_nested(density.event_shape):
    names = ', '.join(naming.leaf_names(density.event_shape))
    raise ValueError(
      'Some of the variables have no default bijector, as those of '
      'tfd.MixtureSameFamily: `event_space_bijector` must have the bijectors '
      'of all variables, with tfb.Identity() where a variable is over the '
      f'real space; got None, and the variables {names}.'
    )
  return tfb.Identity() if bijector is None else bijector


class StateMap:
  """A map from vectors of real coordinates to the states of a distribution.

  The bijector takes unconstrained values, concatenated, to a state. Where it
  makes a value positive by the softplus function, the coordinate is such that
  the exponential function does it: it makes other units another center, and the
  scales of a hierarchy exponential in a coordinate. The other coordinates are
  the unconstrained values themselves.

  Attributes:
    bijector: `tfb.Bijector` from unconstrained values to states.
    is_given: Python `bool`: whether the user gave it, and it does something.
    event_shape: The event shape of a state.
    names: List of Python `str`s: the variables of a state.
    num_values: Python `int`: the number of coordinates.

  Args:
    source: `JointDistributionPinned` or `tfd.Distribution` over the states.
    event_space_bijector: `tfb.Bijector`, nested structure of these, or `None`
      for the one that TFP knows of.

  Raises:
    TypeError: If the bijector is of the wrong kind.
    ValueError: If it does not suit the states, or is known to be wrong.
  """

  def __init__(
    self,
    source: types.Density,
    event_space_bijector: tfb.Bijector | types.Structure | None,
  ):
    given = density_space.as_event_space_bijector(
      event_space_bijector, source.event_shape
    )
    self.bijector = given or _default_bijector(source)
    # The default bijector of a normal density does nothing.
    self.is_given = given is not None and not isinstance(given, tfb.Identity)
    self.event_shape = source.event_shape
    self.names = naming.leaf_names(self.event_shape)
    try:
      self._shape = self.bijector.inverse_event_shape(self.event_shape)
    except (TypeError, ValueError) as e:
      raise ValueError(
        '`event_space_bijector` must lead to states of event shape '
        f'{self.event_shape}; got {self.bijector!r}.'
      ) from e
    shapes = [tf.TensorShape(x) for x in tf.nest.flatten(self._shape)]
    self._event_ndims = tf.nest.map_structure(
      lambda x: tf.TensorShape(x).rank, self._shape
    )
    self._shapes = [x.as_list() for x in shapes]
    self._sizes = [x.num_elements() for x in shapes]
    self.num_values = sum(self._sizes)
    parts_lib.check_parts('target', self.bijector)
    self._is_positive = self._find_positive(tf.nest.flatten(source.dtype)[0])
    self._log_simplex = simplex.log_surface(
      source, self.names, self._shape, given
    )

  def _find_positive(self, dtype):
    """Which values the bijector makes positive by softplus, or `None`."""
    values = np.linspace(-2.0, 2.0, _NUM_PROBES * self.num_values)
    values = values.reshape([_NUM_PROBES, -1]).astype(dtype.as_numpy_dtype)
    state = self.state(tf.constant(values))
    parts = [
      x.numpy().reshape([_NUM_PROBES, -1]) for x in tf.nest.flatten(state)
    ]
    if len(parts) != len(self._sizes):
      return None
    ends = np.cumsum(self._sizes)[:-1]
    are_positive = [
      part.shape == value.shape
      and np.allclose(part, np.logaddexp(0.0, value), rtol=1e-4)
      for part, value in zip(parts, np.split(values, ends, axis=1), strict=True)
    ]
    if not any(are_positive):
      return None
    return np.repeat(are_positive, self._sizes)

  def _flatten(self, values):
    parts = [
      tf.reshape(part, [-1, size])
      for part, size in zip(tf.nest.flatten(values), self._sizes, strict=True)
    ]
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)

  def _unflatten(self, x):
    parts = tf.split(x, self._sizes, axis=-1) if len(self._sizes) > 1 else [x]
    parts = [
      tf.reshape(part, x.shape[:-1].as_list() + shape)
      for part, shape in zip(parts, self._shapes, strict=True)
    ]
    return tf.nest.pack_sequence_as(self._shape, parts)

  def unconstrained(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | float]:
    """Unconstrained values of the bijector.

    Args:
      x: `Tensor` of shape `[n, num_values]`: coordinates.

    Returns:
      values: `Tensor` of shape `[n, num_values]`.
      log_det: `Tensor` of shape `[n]`, or a scalar: the log determinant of the
        Jacobian, less the volume of simplices that the bijector's leaves out.
    """
    if self._is_positive is None:
      return x, -self._log_simplex
    # The inverse of softplus at the exponential of x.
    t = tf.where(self._is_positive, x, tf.zeros_like(x))
    value = tf.exp(t)
    log_slope = tf.where(
      self._is_positive,
      t - tf.math.log(-tf.math.expm1(-value)),
      tf.zeros_like(x),
    )
    x = tf.where(self._is_positive, tfp.math.softplus_inverse(value), x)
    return x, tf.reduce_sum(log_slope, axis=-1) - self._log_simplex

  def coordinates(self, values: tf.Tensor) -> tf.Tensor:
    """Coordinates of unconstrained values: the inverse of `unconstrained`.

    Args:
      values: `Tensor` of shape `[n, num_values]`.

    Returns:
      x: `Tensor` of shape `[n, num_values]`.
    """
    if self._is_positive is None:
      return values
    # The other values are not to be NaN, nor their derivatives.
    t = tf.where(self._is_positive, values, tf.zeros_like(values))
    return tf.where(self._is_positive, tf.math.log(tf.math.softplus(t)), values)

  def state(self, values: tf.Tensor) -> types.Structure:
    """The states at unconstrained values.

    Args:
      values: `Tensor` of shape `batch + [num_values]`.

    Returns:
      state: Nested structure of `Tensor`s of shape `batch + event`.
    """
    return self.bijector.forward(self._unflatten(values))

  def state_and_log_det(
    self, values: tf.Tensor
  ) -> tuple[types.Structure, tf.Tensor]:
    """Likewise, with the log determinant of the bijector's Jacobian.

    Args:
      values: `Tensor` of shape `[n, num_values]`.

    Returns:
      state: Nested structure of `Tensor`s of shape `[n] + event`.
      log_det: `Tensor` of shape `[n]`, or a scalar.
    """
    parts = self._unflatten(values)
    log_det = self.bijector.forward_log_det_jacobian(parts, self._event_ndims)
    return self.bijector.forward(parts), tf.cast(log_det, values.dtype)

  def log_prior(self, prior: tfb.Bijector, values: tf.Tensor) -> tf.Tensor:
    """The log density of unconstrained values, by `noncentered_prior`.

    Args:
      prior: `tfb.Bijector` whose log determinant is this log density.
      values: `Tensor` of shape `[n, num_values]`.

    Returns:
      log_prior: `Tensor` of shape `[n]`.
    """
    return prior.forward_log_det_jacobian(
      self._unflatten(values), self._event_ndims
    )

  def values(self, state: types.Structure) -> tf.Tensor:
    """The unconstrained values of states.

    Args:
      state: Nested structure of `Tensor`s of shape `[n] + event`.

    Returns:
      values: `Tensor` of shape `[n, num_values]`.
    """
    return self._flatten(self.bijector.inverse(state))

  def value_bijector(self) -> tfb.Bijector:
    """The bijector from vectors of unconstrained values to states."""
    is_single = not tf.nest.is_nested(self._shape) or isinstance(
      self._shape, tf.TensorShape
    )
    if is_single:
      return tfb.Chain(
        [self.bijector, tfb.Reshape(self._shapes[0], [self.num_values])]
      )
    count = len(self._sizes)
    return tfb.Chain(
      [
        self.bijector,
        tfb.Restructure(
          tf.nest.pack_sequence_as(self._shape, list(range(count)))
        ),
        tfb.JointMap(
          [
            tfb.Reshape(shape, [size])
            for shape, size in zip(self._shapes, self._sizes, strict=True)
          ]
        ),
        split.StaticSplit(self._sizes),
      ]
    )

  def value_names(self) -> list:
    """Names of the coordinates, for messages."""
    if len(self.names) != len(self._sizes):
      return [f'unconstrained value {i}' for i in range(self.num_values)]
    return [
      name + (f'[{i}]' if size > 1 else '')
      for name, size in zip(self.names, self._sizes, strict=True)
      for i in range(size)
    ]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Maps that give each value of a few coordinates a Gaussian of the others.

```none
y_drivers = v_drivers
y_rest = loc(v_drivers) + lower(v_drivers) (exp(log_scale(v_drivers)) v_rest)
```

The drivers are coordinates that set the scales of others, as the logarithm of
the deviation of a group does in a hierarchical model. Location, scale and the
unit lower triangular matrix are polynomials of the drivers: for each driver, a
sum of Chebyshev polynomials through values at nodes. Outside of the nodes they
are linear.
"""

import typing

import numpy as np
import tensorflow as tf

__all__ = [
  'Conditional',
  'cross',
  'drivers',
  'forward',
  'interpolate',
  'inverse',
  'unit_nodes',
]


# Lines outside of the nodes go through the polynomials here and at the ends.
_INNER = 0.7


class Conditional(typing.NamedTuple):
  """A map of vectors with `k` drivers and `r = d - k` other values.

  Fields:
    order: int32 `Tensor` of shape `[d]`: indices of the drivers, and then of
      the others.
    center: `Tensor` of shape `[k]`: the center of the nodes.
    inverse_root: `Tensor` of shape `[k, k]`, which takes drivers less the
      center to `[-1, 1]^k`, where the nodes are.
    loc: `Tensor` of shape `[num_features, r]`: coefficients of polynomials.
    log_scale: Likewise.
    lower: `Tensor` of shape `[num_features, r, r]`: likewise, of the part below
      the diagonal.
  """

  order: tf.Tensor
  center: tf.Tensor
  inverse_root: tf.Tensor
  loc: tf.Tensor
  log_scale: tf.Tensor
  lower: tf.Tensor


def drivers(conditional: Conditional) -> list:
  """Indices of the drivers: a list of Python `int`s."""
  return conditional.order.numpy()[: conditional.center.shape[0]].tolist()


def unit_nodes(num_nodes: int, num_drivers: int) -> np.ndarray:
  """Chebyshev nodes of the cube `[-1, 1]^num_drivers`.

  Args:
    num_nodes: Python `int`: nodes of a driver.
    num_drivers: Python `int`.

  Returns:
    nodes: Array of shape `[num_nodes^num_drivers, num_drivers]`.
  """
  nodes = np.cos((2.0 * np.arange(num_nodes) + 1.0) / (2 * num_nodes) * np.pi)
  return cross([nodes] * num_drivers)


def cross(axes: list) -> np.ndarray:
  """Returns all combinations of entries of arrays.

  Args:
    axes: List of `k` arrays of rank one.

  Returns:
    points: Array of shape `[num_points, k]`, of which the last column changes
      fastest.
  """
  return np.stack(
    [np.ravel(x) for x in np.meshgrid(*axes, indexing='ij')], axis=1
  )


def interpolate(
  order: np.ndarray,
  center: np.ndarray,
  inverse_root: np.ndarray,
  values: tuple,
  num_nodes: int,
  dtype: tf.DType,
) -> Conditional:
  """The map with given values at the nodes.

  Args:
    order: Array of shape `[d]`; see `Conditional`.
    center: Array of shape `[k]`.
    inverse_root: Array of shape `[k, k]`.
    values: Locations of shape `[num_nodes^k, r]`, log scales of that shape, and
      lower triangular matrices of shape `[num_nodes^k, r, r]`, in the order of
      `unit_nodes`.
    num_nodes: Python `int`.
    dtype: `tf.DType`.

  Returns:
    conditional: `Conditional`.
  """
  nodes = tf.constant(unit_nodes(num_nodes, len(center)))
  # Never singular: the nodes are those of the polynomials.
  to_coefficients = np.linalg.inv(_features(nodes, num_nodes).numpy())
  arrays = (
    np.asarray(center),
    np.asarray(inverse_root),
    *(np.tensordot(to_coefficients, x, axes=1) for x in values),
  )
  return Conditional(
    tf.constant(order, tf.int32),
    *(tf.constant(x.astype(dtype.as_numpy_dtype)) for x in arrays),
  )


def _features(t, num_nodes):
  """Products of functions of the entries: `[n, num_nodes^k]`."""
  inside = tf.clip_by_value(t, -1.0, 1.0)
  outside = (t - inside)[..., tf.newaxis]
  # Outside of the nodes the functions are linear, as a log scale may be linear
  # in a driver. The slopes of the polynomials at the ends would be too steep.
  ends = np.polynomial.chebyshev.chebvander([_INNER, 1.0], num_nodes - 1)
  slopes = tf.constant((ends[1] - ends[0]) / (1.0 - _INNER), t.dtype)
  is_odd = np.arange(num_nodes) % 2 == 1
  values = _chebyshev(inside, num_nodes) + slopes * tf.where(
    is_odd, outside, tf.abs(outside)
  )
  features = values[:, 0]
  for i in range(1, t.shape[1]):
    product = features[:, :, tf.newaxis] * values[:, i, tf.newaxis]
    features = tf.reshape(product, [-1, features.shape[1] * values.shape[2]])
  return features


def _chebyshev(t, num_values):
  """Chebyshev polynomials: of shape `t.shape + [num_values]`."""
  # T_{m + k} = 2 T_m T_k - T_{m - k}, for many k at once: few operations, which
  # are quick to compile.
  values = tf.stack([tf.ones_like(t), t], axis=-1)
  while values.shape[-1] < num_values:
    degree = values.shape[-1] - 1
    count = min(degree, num_values - 1 - degree)
    lower = tf.reverse(values[..., degree - count : degree], axis=[-1])
    more = 2.0 * values[..., -1:] * values[..., 1 : 1 + count] - lower
    values = tf.concat([values, more], axis=-1)
  return values


def _at(conditional, values):
  """Features, locations and log scales at values of the drivers."""
  num_drivers = conditional.center.shape[0]
  num_nodes = round(conditional.loc.shape[0] ** (1.0 / num_drivers))
  t = tf.matmul(
    values - conditional.center, conditional.inverse_root, transpose_b=True
  )
  features = _features(t, num_nodes)
  return (
    features,
    tf.matmul(features, conditional.loc),
    tf.matmul(features, conditional.log_scale),
  )


def _split(conditional, x):
  num_drivers = conditional.center.shape[0]
  ordered = tf.gather(x, conditional.order, axis=-1)
  return ordered[:, :num_drivers], ordered[:, num_drivers:]


def _join(conditional, first, rest):
  return tf.gather(
    tf.concat([first, rest], axis=-1),
    tf.argsort(conditional.order),
    axis=-1,
  )


def forward(
  conditional: Conditional, v: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Maps points, and returns the log determinant of the Jacobian.

  Args:
    conditional: `Conditional`.
    v: `Tensor` of shape `[n, d]`.

  Returns:
    y: `Tensor` of shape `[n, d]`.
    log_det: `Tensor` of shape `[n]`.
  """
  first, rest = _split(conditional, v)
  features, loc, log_scale = _at(conditional, first)
  num_features, size, _ = conditional.lower.shape
  scaled = tf.exp(log_scale) * rest
  # All features' products at once, as a matrix for each point would be large.
  products = tf.matmul(
    scaled,
    tf.reshape(conditional.lower, [num_features * size, size]),
    transpose_b=True,
  )
  products = tf.reshape(products, [-1, num_features, size])
  mixed = scaled + tf.reduce_sum(features[..., tf.newaxis] * products, axis=1)
  y = _join(conditional, first, loc + mixed)
  return y, tf.reduce_sum(log_scale, axis=-1)


def inverse(conditional: Conditional, y: tf.Tensor) -> tf.Tensor:
  """Maps points back.

  Args:
    conditional: `Conditional`.
    y: `Tensor` of shape `[n, d]`.

  Returns:
    v: `Tensor` of shape `[n, d]`, for which `forward` returns `y`.
  """
  first, rest = _split(conditional, y)
  features, loc, log_scale = _at(conditional, first)
  scaled = _solve(features, conditional.lower, rest - loc)
  return _join(conditional, first, tf.exp(-log_scale) * scaled)


def _solve(features, lower, x):
  """Solves for unit triangular matrices, given their part below the diagonal.

  This goes column by column. With XLA on a CPU it takes a tenth of the time of
  `tf.linalg.triangular_solve` for a hundred values, and is compiled in a fifth.
  A matrix for each point would be large.

  Args:
    features: `Tensor` of shape `[n, num_features]`.
    lower: `Tensor` of shape `[num_features, r, r]`: their coefficients.
    x: `Tensor` of shape `[n, r]`.

  Returns:
    solution: `Tensor` of shape `[n, r]`.
  """
  size = x.shape[1]
  columns = tf.transpose(lower, [2, 0, 1])

  def body(i, x):
    column = tf.matmul(features, columns[i])
    return i + 1, x - column * tf.gather(x, i, axis=1)[:, tf.newaxis]

  _, solution = tf.while_loop(
    lambda i, _: i < size, body, (0, x), maximum_iterations=size
  )
  return solution

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""References: maps from the standard normal density to one near the target.

```none
t = marginals(radial(u))
v = t exp(offset + (t drivers) slopes)
y = conditional(center + matrix v)
```

Without a radial map, marginals and a conditional map, and with slopes of zero,
this is affine, a Gaussian reference.
The slopes let a few coordinates, the drivers, set the scales of others, as the
logarithm of the deviation of a group does in a hierarchical model: Neal's
funnel is such a map exactly. The marginals are monotone maps of coordinates
that have two modes, or a tail that no normal density has. The radial map gives
vectors other lengths, as a multivariate Student t density has. The conditional
map sets all other coordinates by the drivers, as Laplace's method found.
"""

import dataclasses
import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import conditional as conditional_lib
from tfp_nvi.posterior import drivers as drivers_lib
from tfp_nvi.posterior import laplace
from tfp_nvi.posterior import marginals as marginals_lib
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import radial as radial_lib

__all__ = [
  'MAX_FULL',
  'Reference',
  'find_far_out',
  'fit_to_particles',
  'forward',
  'from_affine',
  'from_laplace',
  'inverse',
  'log_prob',
  'moments',
  'square_root',
]

# Above so many values a matrix is not fitted to particles alone.
MAX_FULL = 128
# Above so many values scales by drivers are left to Laplace's method.
_MAX_REGRESSED = 512
# Above so many values there are no drivers.
_MAX_DRIVEN = 1_024
# By how much the reference's density of a driver is wider than the particles':
# the tails of log scales are seldom those of normal densities.
_DRIVER_INFLATION = 1.3


# The fields of a `Reference` that are maps of their own, or `None`.
MAPS = ('marginals', 'conditional', 'radial')


class Reference(typing.NamedTuple):
  """A map from the standard normal density; see the module.

  Fields:
    center: `Tensor` of shape `[d]`.
    matrix: `Tensor` of shape `[d]`, a diagonal, or `[d, d]`.
    log_det: Scalar `Tensor`: the log determinant of the matrix.
    offset: `Tensor` of shape `[d]`.
    drivers: `Tensor` of shape `[d, num_drivers]`: zero but for the drivers.
    slopes: `Tensor` of shape `[num_drivers, d]`, zero for the drivers.
    marginals: `tfb.Bijector` over vectors of `d` values that maps each by
      itself, or `None`.
    conditional: `Conditional`, or `None`.
    radial: `Radial`, or `None`.
  """

  center: tf.Tensor
  matrix: tf.Tensor
  log_det: tf.Tensor
  offset: tf.Tensor
  drivers: tf.Tensor
  slopes: tf.Tensor
  marginals: tfp.bijectors.Bijector | None = None
  conditional: conditional_lib.Conditional | None = None
  radial: radial_lib.Radial | None = None


def forward(
  reference: Reference | mixture_lib.Mixture, u: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Maps points, and returns the log determinant of the Jacobian.

  Args:
    reference: `Reference`, or `Mixture`, which is a density of points as they
      are.
    u: `Tensor` of shape `[n, d]`.

  Returns:
    y: `Tensor` of shape `[n, d]`.
    log_det: `Tensor` of shape `[n]`.
  """
  if isinstance(reference, mixture_lib.Mixture):
    return u, tf.zeros_like(u[:, 0])
  t, log_slopes, log_det = u, tf.zeros_like(u), reference.log_det
  if reference.radial is not None:
    t, more = radial_lib.forward(reference.radial, t)
    log_det = log_det + more
  if reference.marginals is not None:
    log_slopes = reference.marginals.forward_log_det_jacobian(t)
    t = reference.marginals.forward(t)
  log_scale = _log_scale(reference, t)
  v = t * tf.exp(log_scale)
  matrix = reference.matrix
  if matrix.shape.rank == 1:
    y = v * matrix
  else:
    y = tf.matmul(v, matrix, transpose_b=True)
  y = reference.center + y
  log_det = log_det + tf.reduce_sum(log_scale + log_slopes, axis=-1)
  if reference.conditional is None:
    return y, log_det
  y, more = conditional_lib.forward(reference.conditional, y)
  return y, log_det + more


def _log_scale(reference, t):
  return reference.offset + tf.matmul(
    tf.matmul(t, reference.drivers), reference.slopes
  )


def inverse(
  reference: Reference | mixture_lib.Mixture, y: tf.Tensor
) -> tf.Tensor:
  """Maps points back.

  Args:
    reference: `Reference` or `Mixture`.
    y: `Tensor` of shape `[n, d]`.

  Returns:
    u: `Tensor` of shape `[n, d]`, for which `forward` returns `y`.
  """
  if isinstance(reference, mixture_lib.Mixture):
    return y
  if reference.conditional is not None:
    y = conditional_lib.inverse(reference.conditional, y)
  centered = y - reference.center
  matrix = reference.matrix
  if matrix.shape.rank == 1:
    v = centered / matrix
  else:
    v = tf.linalg.matrix_transpose(
      tf.linalg.solve(matrix, tf.linalg.matrix_transpose(centered))
    )
  # The drivers have no scale but that of the matrix.
  t = v * tf.exp(-_log_scale(reference, v))
  if reference.marginals is not None:
    t = reference.marginals.inverse(t)
  if reference.radial is not None:
    t = radial_lib.inverse(reference.radial, t)
  return t


def log_prob(
  reference: Reference | mixture_lib.Mixture, u: tf.Tensor
) -> tf.Tensor:
  """Log density of a reference at the points that `forward` returns.

  Args:
    reference: `Reference`, or `Mixture`, which is the density of `u` itself.
    u: `Tensor` of shape `[n, d]`.

  Returns:
    log_prob: `Tensor` of shape `[n]`.
  """
  if isinstance(reference, mixture_lib.Mixture):
    return mixture_lib.log_prob(reference, u)
  _, log_det = forward(reference, u)
  return -0.5 * tf.reduce_sum(u**2 + np.log(2.0 * np.pi), axis=-1) - log_det


def from_affine(
  center: np.ndarray, matrix: np.ndarray, dtype: tf.DType
) -> Reference:
  """Makes a Gaussian reference.

  Args:
    center: Array of shape `[d]`.
    matrix: Array of shape `[d]`, a diagonal, or `[d, d]`, of nonzero
      determinant.
    dtype: `tf.DType`.

  Returns:
    reference: `Reference`.
  """
  center, matrix = np.asarray(center), np.asarray(matrix)
  log_det = (
    np.sum(np.log(np.abs(matrix)))
    if matrix.ndim == 1
    else np.linalg.slogdet(matrix)[1]
  )
  size = len(center)
  return _as_tensors(
    Reference(
      center,
      matrix,
      log_det,
      np.zeros(size),
      np.zeros([size, drivers_lib.MAX_DRIVERS]),
      np.zeros([drivers_lib.MAX_DRIVERS, size]),
    ),
    dtype,
  )


def _as_tensors(reference, dtype, **maps):
  tensors = {
    name: tf.constant(np.asarray(x, dtype.as_numpy_dtype))
    for name, x in reference._asdict().items()
    if name not in MAPS
  }
  return Reference(**tensors, **maps)


def square_root(
  x: np.ndarray, weights: np.ndarray, is_full: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Weighted mean of points, and a square root of their covariance.

  The covariance is shrunk towards its diagonal by as much as its sampling error
  says (Ledoit and Wolf, 2004, with the diagonal as the target).

  Args:
    x: Array of shape `[n, d]`.
    weights: Array of shape `[n]`, with sum one.
    is_full: Python `bool`: whether to return a lower triangular matrix.

  Returns:
    mean: Array of shape `[d]`.
    root: Array of shape `[d]`, or `[d, d]`.
  """
  mean, covariance = _covariance(x, weights, is_full)
  if not is_full:
    return mean, np.sqrt(covariance)
  return mean, np.linalg.cholesky(covariance)


def _covariance(x, weights, is_full):
  x = np.asarray(x, np.float64)
  weights = np.asarray(weights, np.float64)
  # Points without weight may be infinite.
  kept = weights > 0.0
  x, weights = x[kept], weights[kept]
  mean = weights @ x
  centered = x - mean
  variance = np.maximum(weights @ centered**2, np.finfo(np.float32).tiny)
  if not is_full:
    return mean, variance
  z = centered / np.sqrt(variance)
  correlation = z.T @ (weights[:, np.newaxis] * z)
  # Sum over pairs of the variances of the estimated correlations.
  square_weights = weights**2
  square = z**2
  noise = (square.T @ (square_weights[:, np.newaxis] * square)).sum() - np.sum(
    square_weights
  ) * np.sum(correlation**2)
  own = np.sum(square_weights @ square**2) - np.sum(square_weights) * len(mean)
  off_diagonal = np.sum(correlation**2) - np.sum(np.diag(correlation) ** 2)
  shrinkage = np.clip((noise - own) / max(off_diagonal, 1e-12), 0.0, 1.0)
  # Never singular, whatever the number of points.
  shrinkage = max(shrinkage, 1e-6)
  correlation = (1.0 - shrinkage) * correlation + shrinkage * np.diag(
    np.diag(correlation)
  )
  deviations = np.sqrt(variance)
  return mean, correlation * np.outer(deviations, deviations)


def from_laplace(nested: laplace.NestedLaplace, dtype: tf.DType) -> Reference:
  """Makes a reference whose other coordinates are set by drivers.

  Args:
    nested: `NestedLaplace`.
    dtype: `tf.DType`.

  Returns:
    reference: `Reference`.
  """
  drivers = conditional_lib.drivers(nested.conditional)
  size = nested.conditional.order.shape[0]
  center, matrix = np.zeros(size), np.eye(size)
  center[drivers] = nested.center
  matrix[np.ix_(drivers, drivers)] = nested.root
  is_mapped = np.zeros(size, bool)
  is_mapped[drivers] = True
  densities = np.ones([size, nested.densities.shape[1]])
  densities[drivers] = nested.densities
  return from_affine(center, matrix, dtype)._replace(
    marginals=marginals_lib.from_densities(densities, is_mapped, dtype),
    conditional=nested.conditional,
  )


def find_far_out(
  reference: Reference, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which points are where a reference has next to no density.

  Args:
    reference: `Reference`.
    y: Array of shape `[n, d]`.

  Returns:
    is_far: Boolean array of shape `[n]`.
    u: Array of shape `[n, d]`: the points in its coordinates.
  """
  u = inverse(reference, tf.constant(y, reference.center.dtype)).numpy()
  u = u.astype(np.float64)
  size = y.shape[1]
  # The squares have mean d and deviation sqrt(2 d) under the reference.
  is_far = ~(np.sum(u**2, axis=1) < size + 6.0 * np.sqrt(2.0 * size) + 6.0)
  return is_far, u


def moments(
  previous: Reference, y: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Weighted mean and covariance of points.

  Args:
    previous: `Reference` whose affine part whitens the points about, where the
      shrinkage of their covariance is done.
    y: Array of shape `[n, d]`.
    weights: Array of shape `[n]`, with sum one.

  Returns:
    mean: Array of shape `[d]`.
    covariance: Array of shape `[d, d]`; or `[d]`, of variances alone, where the
      matrix of `previous` is a diagonal.
  """
  matrix = np.asarray(previous.matrix, np.float64)
  center = np.asarray(previous.center, np.float64)
  if matrix.ndim == 1:
    mean, variance = _covariance((y - center) / matrix, weights, False)
    return center + matrix * mean, matrix**2 * variance
  mean, covariance = _covariance(
    np.linalg.solve(matrix, (y - center).T).T, weights, True
  )
  return center + matrix @ mean, matrix @ covariance @ matrix.T


def fit_to_particles(
  previous: Reference, y: np.ndarray, weights: np.ndarray, dtype: tf.DType
) -> tuple[Reference, dict]:
  """Fits a reference to weighted points: the forward KL divergence.

  Args:
    previous: `Reference` whose affine part whitens the points about, where the
      shrinkage of their covariance is done, and whose conditional map is kept.
    y: Array of shape `[n, d]`.
    weights: Array of shape `[n]`, with sum one.
    dtype: `tf.DType`.

  Returns:
    reference: `Reference`.
    found: Python `dict`: the indices of the `drivers`, which a reference with a
      diagonal matrix, or of many values, leaves to Laplace's method, and of the
      coordinates with `marginals` of their own; and the `gain` of all this in
      the mean log density of the points.
  """
  y = np.asarray(y, np.float64)
  kept = weights > 0.0
  y, weights = y[kept], weights[kept]
  size = y.shape[1]
  conditional = previous.conditional
  drivers: list = []
  if conditional is not None:
    y = conditional_lib.inverse(conditional, tf.constant(y, dtype)).numpy()
    y = y.astype(np.float64)
    drivers = conditional_lib.drivers(conditional)
  center, covariance = moments(previous, y, weights)
  if covariance.ndim == 1 or size > _MAX_REGRESSED:
    is_full = covariance.ndim == 2
    variances = np.diag(covariance) if is_full else covariance
    root = np.linalg.cholesky(covariance) if is_full else np.sqrt(variances)
    found: dict = {}
    if size <= _MAX_DRIVEN:
      found['drivers'] = drivers_lib.find_drivers(
        y - center, variances, weights
      )
    return from_affine(center, root, dtype), found
  plain = _Fit.affine(y, weights, center, covariance, drivers)
  best = plain
  while len(best.drivers) < drivers_lib.MAX_DRIVERS:
    tried = _with_driver(best, y, weights, center, covariance)
    if tried is None:
      break
    best = tried
  # Slopes would carry the tails of a spline over to the scales.
  marginals, is_mapped, gain = marginals_lib.fit_marginals(
    best.points, weights, best.drivers if best.slopes.any() else [], dtype
  )
  # Correlations blur the modes of coordinates, those that are but noise too.
  alone = _Fit.affine(y, weights, center, np.diag(np.diag(covariance)), [])
  fitted = marginals_lib.fit_marginals(alone.points, weights, [], dtype)
  if alone.loss - fitted[2] < best.loss - gain:
    best = alone
    marginals, is_mapped, gain = fitted
  root, selection = best.root, np.zeros([size, drivers_lib.MAX_DRIVERS])
  for i, driver in enumerate(best.drivers):
    # The same scales in another unit, and a wider density of the driver.
    selection[driver, i] = _DRIVER_INFLATION
    root[:, driver] *= _DRIVER_INFLATION
  found = {
    'drivers': best.drivers,
    'marginals': np.flatnonzero(is_mapped).tolist(),
    'gain_of_marginals': gain,
    'gain': float(plain.loss - best.loss + gain),
  }
  reference = Reference(
    best.center,
    root,
    np.linalg.slogdet(root)[1],
    best.offset,
    selection,
    best.slopes,
  )
  maps = {'marginals': marginals, 'conditional': conditional}
  return _as_tensors(reference, dtype, **maps), found


@dataclasses.dataclass(frozen=True)
class _Fit:
  """A Gaussian of points whose scales some coordinates, the drivers, set.

  Attributes:
    center: Array of shape `[d]`.
    root: Array of shape `[d, d]`.
    drivers: List of indices.
    offset: Array of shape `[d]`.
    slopes: Array of shape `[MAX_DRIVERS, d]`.
    points: Array of shape `[n, d]`: the points that the map takes to those that
      it was fitted to.
    loss: Python `float`: mean negative log density of the points, up to a
      constant.
  """

  center: np.ndarray
  root: np.ndarray
  drivers: list
  offset: np.ndarray
  slopes: np.ndarray
  points: np.ndarray
  loss: float

  @classmethod
  def affine(cls, y, weights, center, covariance, drivers):
    """The Gaussian of given moments, whose scales nothing sets."""
    root, points = _whiten(y - center, covariance, drivers)
    offset = np.zeros(len(center))
    slopes = np.zeros([drivers_lib.MAX_DRIVERS, len(center)])
    loss = _loss(root, points, weights)
    return cls(center, root, drivers, offset, slopes, points, loss)


def _with_driver(best, y, weights, center, covariance):
  """The fit with one driver more, or `None` if it gains too little.

  Args:
    best: `_Fit`.
    y: Array of shape `[n, d]`.
    weights: Array of shape `[n]`.
    center: Array of shape `[d]`: the mean of the points.
    covariance: Array of shape `[d, d]`: their covariance.

  Returns:
    fit: `_Fit`, or `None`.
  """
  candidate = drivers_lib.find_driver(
    best.points, y - center, np.diag(covariance), weights, best.drivers
  )
  if candidate is None:
    return None
  drivers = best.drivers + [candidate]
  root, v = _whiten(y - center, covariance, drivers)
  scales = drivers_lib.fit_scales(v, weights, drivers)
  for _ in range(2):
    if scales is None:
      return None
    center, root, v = _regress(y, weights, drivers, scales, v)
    scales = drivers_lib.fit_scales(v, weights, drivers)
  if scales is None:
    return None
  offset, found_slopes, points, mean_log_scale = scales
  loss = _loss(root, points, weights) + mean_log_scale
  if loss > best.loss - drivers_lib.least_gain(weights, len(center)):
    return None
  slopes = np.zeros_like(best.slopes)
  slopes[: len(drivers)] = found_slopes
  return _Fit(center, root, drivers, offset, slopes, points, loss)


def _whiten(centered, covariance, drivers):
  """A square root in which the drivers depend on themselves alone."""
  size = len(covariance)
  order = drivers + [i for i in range(size) if i not in drivers]
  permuted = covariance[np.ix_(order, order)]
  lower = np.linalg.cholesky(permuted)
  root = np.zeros_like(lower)
  root[np.ix_(order, order)] = lower
  return root, np.linalg.solve(root, centered.T).T


def _regress(y, weights, drivers, found, v):
  """Estimates center and matrix again, by what the scales of points are.

  Each coordinate is regressed on those before it, the drivers being first, and
  a point counts the more the smaller the coordinate's scale is there: a mean
  of all points would be known by the wide parts of a funnel alone, too badly
  for its neck. Coefficients are shrunk by what their errors are (positive-part
  James-Stein, each by itself).
  """
  offset, slopes, *_ = found
  size = y.shape[1]
  order = drivers + [i for i in range(size) if i not in drivers]
  precision = np.exp(-2.0 * (offset + v[:, drivers] @ slopes))
  total = 1.0 / np.sum(weights**2)
  root, center, new_v = np.zeros([size, size]), np.zeros(size), np.zeros_like(y)
  for rank, i in enumerate(order):
    w = weights * precision[:, i]
    features = np.concatenate(
      [np.ones([len(y), 1]), new_v[:, order[:rank]]], axis=1
    )
    gram = features.T @ (w[:, np.newaxis] * features)
    gram += 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))
    inverse = np.linalg.inv(gram)
    coefficients = inverse @ (features.T @ (w * y[:, i]))
    variance = np.sum(w * (y[:, i] - features @ coefficients) ** 2)
    square_error = np.diag(inverse) * variance / total
    square = coefficients[1:] ** 2
    coefficients[1:] *= np.maximum(
      1.0 - square_error[1:] / np.maximum(square, 1e-300), 0.0
    )
    residual = y[:, i] - features @ coefficients
    # The intercept that goes with the coefficients that are left.
    shift = np.sum(w * residual) / np.sum(w)
    center[i] = coefficients[0] + shift
    root[i, order[:rank]] = coefficients[1:]
    root[i, i] = np.sqrt(weights @ (residual - shift) ** 2)
    new_v[:, i] = (residual - shift) / root[i, i]
  return center, root, new_v


def _loss(root, u, weights):
  """Mean negative log density of points, up to log scales and a constant."""
  return np.linalg.slogdet(root)[1] + 0.5 * np.sum(weights @ u**2)

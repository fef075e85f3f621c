# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Maps that change the lengths of standard normal vectors.

In many dimensions all of these have nearly the same length, while those of a
density with one scale for all coordinates, such as a multivariate Student t
density, have very different ones. Particles move between lengths so slowly that
they do not show this. The density along rays does, with few evaluations.
"""

import typing
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import marginals as marginals_lib

__all__ = [
  'MIN_SIZE',
  'Radial',
  'fit_radial',
  'forward',
  'inverse',
]

# In fewer dimensions there are no maps: lengths near zero are not rare.
MIN_SIZE = 5
# Points of a ray at a time, and how often their range is narrowed down.
_NUM_NODES = 33
_MAX_ROUNDS = 5
# The range to begin with, about the logarithm of the usual length.
_RANGE = (-6.0, 6.0)
# Points between two nodes, along which log densities are linear.
_NUM_BETWEEN = 32
# The mass on each side that a narrower range may leave out.
_TAIL = 1e-7
# The density has a share of a broad one, for lengths that no ray shows.
_BROAD_SHARE = 0.01


class Radial(typing.NamedTuple):
  """A map of vectors that keeps their directions.

  Fields:
    location: Scalar `Tensor`: the mean of the logarithms of lengths.
    scale: Scalar `Tensor`: their deviation.
    new_location: Scalar `Tensor`: the mean of the logarithms of new lengths.
    new_scale: Scalar `Tensor`: their deviation.
    widths: `Tensor` of shape `[1, num_bins]`: of the spline that maps
      standardized logarithms of lengths.
    heights: `Tensor` of shape `[1, num_bins]`.
    slopes: `Tensor` of shape `[1, num_bins - 1]`.
  """

  location: tf.Tensor
  scale: tf.Tensor
  new_location: tf.Tensor
  new_scale: tf.Tensor
  widths: tf.Tensor
  heights: tf.Tensor
  slopes: tf.Tensor


def forward(radial: Radial, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Maps points, and returns the log determinant of the Jacobian.

  Args:
    radial: `Radial`.
    u: `Tensor` of shape `[n, d]`.

  Returns:
    t: `Tensor` of shape `[n, d]`.
    log_det: `Tensor` of shape `[n]`.
  """
  log_length = _log_length(u)
  spline = _spline(radial)
  x = ((log_length - radial.location) / radial.scale)[:, tf.newaxis]
  new = radial.new_location + radial.new_scale * spline.forward(x)[:, 0]
  log_slope = spline.forward_log_det_jacobian(x, event_ndims=1)
  log_slope += tf.math.log(radial.new_scale / radial.scale)
  log_factor = new - log_length
  return (
    u * tf.exp(log_factor)[:, tf.newaxis],
    u.shape[1] * log_factor + log_slope,
  )


def inverse(radial: Radial, t: tf.Tensor) -> tf.Tensor:
  """Maps points back.

  Args:
    radial: `Radial`.
    t: `Tensor` of shape `[n, d]`.

  Returns:
    u: `Tensor` of shape `[n, d]`, for which `forward` returns `t`.
  """
  log_length = _log_length(t)
  x = ((log_length - radial.new_location) / radial.new_scale)[:, tf.newaxis]
  old = radial.location + radial.scale * _spline(radial).inverse(x)[:, 0]
  return t * tf.exp(old - log_length)[:, tf.newaxis]


def _log_length(u):
  square = tf.reduce_sum(u**2, axis=-1)
  # There is no direction at zero, where no particle is.
  tiny = np.finfo(u.dtype.as_numpy_dtype).tiny
  return 0.5 * tf.math.log(tf.maximum(square, tiny))


def _spline(radial):
  return marginals_lib.make_spline(radial.widths, radial.heights, radial.slopes)


def _usual(size):
  """Mean and deviation of the log length of a standard normal vector."""
  half = np.float64(0.5 * size)
  return (
    float(0.5 * (tf.math.digamma(half) + np.log(2.0))),
    float(0.5 * tf.sqrt(tf.math.polygamma(np.float64(1.0), half))),
  )


def _usual_log_density(log_length, size):
  """Log density of the log length of a standard normal vector."""
  return (
    size * log_length
    - 0.5 * np.exp(2.0 * log_length)
    - (0.5 * size - 1.0) * np.log(2.0)
    - float(tf.math.lgamma(np.float64(0.5 * size)))
  )


def fit_radial(
  evaluate_fn: Callable, directions: np.ndarray, dtype: tf.DType
) -> tuple[Radial, float] | None:
  """Fits a map to a density along rays.

  The density of the length along the ray of a draw is that given its
  direction, which for an elliptical density is the same for all rays. The mean
  over rays is thus the density of the length, if the draws have the right
  directions, whatever their own lengths are.

  Args:
    evaluate_fn: Python callable from an array of shape `[n, d]`, of points that
      a standard normal density is near, to log densities, `-inf` where they are
      zero or not finite.
    directions: Array of shape `[num_rays, d]`: draws, whose lengths do not
      matter.
    dtype: `tf.DType`.

  Returns:
    radial: `Radial`.
    gain: Python `float`: by how much the mean log density of draws is larger
      with the map. Or `None` for both, where there is no mass along a ray.
  """
  num_rays, size = directions.shape
  units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
  low, high = (0.5 * np.log(size) + x for x in _RANGE)
  for _ in range(_MAX_ROUNDS):
    nodes = np.linspace(low, high, _NUM_NODES)
    points = units[:, np.newaxis] * np.exp(nodes)[:, np.newaxis]
    log_prob = evaluate_fn(points.reshape([-1, size]))
    log_prob = log_prob.reshape([num_rays, -1]) + size * nodes
    highest = np.max(log_prob, axis=1, keepdims=True)
    if not np.isfinite(highest).all():
      return None
    # Not so low that a line to the next node would fall at once.
    log_prob = np.maximum(log_prob - highest, -1e3)
    fine = np.linspace(low, high, _NUM_BETWEEN * (_NUM_NODES - 1) + 1)
    density = np.exp([np.interp(fine, nodes, row) for row in log_prob])
    density = np.mean(density / density.sum(axis=1, keepdims=True), axis=0)
    cumulative = np.cumsum(density)
    kept = fine[(cumulative > _TAIL) & (cumulative < 1.0 - _TAIL)]
    step = nodes[1] - nodes[0]
    new_low, new_high = kept[0] - step, kept[-1] + step
    is_narrow = new_high - new_low > 0.7 * (high - low)
    low, high = max(new_low, low), min(new_high, high)
    if is_narrow:
      break
  location = density @ fine
  scale = np.sqrt(density @ (fine - location) ** 2)
  density = density / (fine[1] - fine[0])
  usual = _usual_log_density(fine, size)
  kept = density > 0.0
  gain = (fine[1] - fine[0]) * np.sum(
    density[kept] * (np.log(density[kept]) - usual[kept])
  )
  return _make_radial(fine, density, location, scale, size, dtype), float(gain)


def _make_radial(log_lengths, density, location, scale, size, dtype):
  """The map to a density of log lengths."""
  grid = marginals_lib.grid()
  own = scale * np.interp(
    location + scale * grid, log_lengths, density, left=0.0, right=0.0
  )
  broad = np.exp(-0.125 * grid**2) / np.sqrt(8.0 * np.pi)
  u, y, slopes = marginals_lib.quantile_knots(
    (1.0 - _BROAD_SHARE) * own + _BROAD_SHARE * broad
  )
  # From normal quantiles to those of the usual lengths.
  half = np.float64(0.5 * size)
  tail = 0.5 * tf.math.erfc(tf.constant(np.abs(u) / np.sqrt(2.0)))
  lower = tfp.math.igammainv(half, tail)
  upper = tfp.math.igammacinv(half, tail)
  log_length = 0.5 * np.log(2.0 * np.where(u < 0.0, lower, upper))
  usual = _usual(size)
  log_slope = _usual_log_density(log_length, size) + 0.5 * u**2
  slopes = slopes * usual[1] * np.exp(log_slope) * np.sqrt(2.0 * np.pi)
  x = (log_length - usual[0]) / usual[1]
  edge = 0.5 * (grid[1] - grid[0])
  widths, heights = (
    np.diff(np.concatenate([[grid[0] - edge], knots, [grid[-1] + edge]]))
    for knots in (x, y)
  )
  slopes = np.clip(slopes, 1e-3, 1e3)
  return Radial(
    *(
      tf.constant(np.asarray(value, dtype.as_numpy_dtype))
      for value in (
        *usual,
        location,
        scale,
        widths[np.newaxis],
        heights[np.newaxis],
        slopes[np.newaxis],
      )
    )
  )

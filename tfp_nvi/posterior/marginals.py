# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Monotone maps from the standard normal density to marginals of particles.

Coordinates with two modes, or with a skewed or a heavy tail, are far from a
normal density in a way that no affine map mends. A spline for each of them maps
the quantiles of the normal density to those of a kernel density estimate.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = [
  'fit_marginals',
  'from_densities',
  'grid',
  'make_spline',
  'quantile_knots',
]

# Outside of [-_RANGE, _RANGE] the splines are the identity.
_RANGE = 10.0
_NUM_GRID = 4_096
_NUM_BINS = 32
# Of the normal density: the quantiles between which there are knots.
_LAST_KNOT = 3.2
# Bandwidths of kernel density estimates to choose from, in deviations.
_BANDWIDTHS = (0.04, 0.06, 0.09, 0.13, 0.2, 0.3, 0.45)
# By how much a spline must raise the mean log density of points that it was not
# fitted to, in nats.
_LEAST_GAIN = 0.02


def fit_marginals(
  t: np.ndarray, weights: np.ndarray, drivers: list, dtype: tf.DType
) -> tuple[tfb.Bijector | None, np.ndarray, float]:
  """Fits a spline to each coordinate of weighted points for which it pays.

  A kernel density estimate of one half of the points is judged by the other
  half, which chooses its bandwidth and says what it gains over the standard
  normal density. Points are to be in the order of their ancestors, so that
  those of one ancestor are in one half.

  Args:
    t: Array of shape `[n, d]`, standardized.
    weights: Array of shape `[n]`, with sum one.
    drivers: List of Python `int`s: coordinates that are left alone.
    dtype: `tf.DType`.

  Returns:
    bijector: `tfb.RationalQuadraticSpline` over vectors of `d` values, which
      leaves the coordinates alone for which no spline pays; `None` if there
      are no others.
    is_mapped: Boolean array of shape `[d]`: the coordinates with a spline.
    gain: Python `float`: by how much the splines raise the mean log density.

  #### References

  [1]: C. Durkan, A. Bekasov, I. Murray, G. Papamakarios. Neural spline flows.
       Neural Information Processing Systems, 2019.
       https://arxiv.org/abs/1906.04032
  [2]: T. Hesterberg. Weighted average importance sampling and defensive mixture
       distributions. Technometrics, 37(2), 1995.
  """
  total = 1.0 / np.sum(weights**2)
  points = grid()
  step = points[1] - points[0]
  # For places that no kernel covers, a share of a broad normal density [2]. In
  # single precision knots would else coincide where there are no points.
  share = np.clip(2.0 / total, 1e-4, 0.5)
  normal, broad = _normal(points, 1.0), _normal(points, 2.0)

  def estimate(mass, bandwidth):
    return (1.0 - share) * _smooth(mass, bandwidth, step) + share * broad

  is_first = np.cumsum(weights) <= 0.5
  halves = [_bin(t[half], weights[half]) for half in (is_first, ~is_first)]
  gains = np.stack(
    [
      0.5
      * sum(
        np.sum(judge * np.log(estimate(fitted, bandwidth) / normal), axis=1)
        for fitted, judge in (halves, halves[::-1])
      )
      for bandwidth in _BANDWIDTHS
    ]
  )
  best = np.argmax(gains, axis=0)
  gains = np.max(gains, axis=0)
  is_mapped = gains > max(_LEAST_GAIN, 5.0 / total)
  is_mapped[drivers] = False
  if not is_mapped.any():
    return None, is_mapped, 0.0
  mass = _bin(t, weights)
  densities = np.stack([estimate(mass, bandwidth) for bandwidth in _BANDWIDTHS])
  bijector = from_densities(
    densities[best, np.arange(len(best))], is_mapped, dtype
  )
  return bijector, is_mapped, float(np.sum(gains[is_mapped]))


def grid() -> np.ndarray:
  """The points at which `from_densities` takes densities."""
  step = 2.0 * _RANGE / _NUM_GRID
  return -_RANGE + step * (np.arange(_NUM_GRID) + 0.5)


def from_densities(
  densities: np.ndarray, is_mapped: np.ndarray, dtype: tf.DType
) -> tfb.Bijector:
  """Splines that map the standard normal density to others.

  Args:
    densities: Array of shape `[d, len(grid())]`: a density for each coordinate,
      positive everywhere.
    is_mapped: Boolean array of shape `[d]`: which coordinates to map.
    dtype: `tf.DType`.

  Returns:
    bijector: `tfb.RationalQuadraticSpline` over vectors of `d` values.
  """
  size = len(is_mapped)
  knots = np.linspace(-_RANGE, _RANGE, _NUM_BINS + 1)
  x, y = np.tile(knots, [2, size, 1])
  slopes = np.ones([size, _NUM_BINS - 1])
  for i in np.flatnonzero(is_mapped):
    x[i, 1:-1], y[i, 1:-1], slopes[i] = quantile_knots(densities[i])
  return make_spline(
    *(
      values.astype(dtype.as_numpy_dtype)
      for values in (np.diff(x, axis=1), np.diff(y, axis=1), slopes)
    )
  )


def make_spline(
  widths: np.ndarray | tf.Tensor,
  heights: np.ndarray | tf.Tensor,
  slopes: np.ndarray | tf.Tensor,
) -> tfb.Bijector:
  """Makes the splines of all coordinates.

  Args:
    widths: Array or `Tensor` of shape `[d, num_bins]`.
    heights: Likewise.
    slopes: Array or `Tensor` of shape `[d, num_bins - 1]`: those at the inner
      knots.

  Returns:
    bijector: `tfb.RationalQuadraticSpline`.
  """
  return tfb.RationalQuadraticSpline(
    *(tf.convert_to_tensor(x) for x in (widths, heights, slopes)),
    range_min=-_RANGE,
  )


def _normal(x, scale):
  return np.exp(-0.5 * (x / scale) ** 2) / (np.sqrt(2.0 * np.pi) * scale)


def _bin(t, weights):
  """Mass of points on the grid, with sum one: `[d, num_grid]`."""
  step = 2.0 * _RANGE / _NUM_GRID
  index = np.floor((t + _RANGE) / step).astype(int)
  index = np.clip(index, 0, _NUM_GRID - 1)
  mass = np.zeros([t.shape[1], _NUM_GRID])
  for row, where in zip(mass, index.T, strict=True):
    np.add.at(row, where, weights)
  return mass / np.sum(weights)


def _smooth(mass, bandwidth, step):
  """Density of mass on the grid, by a normal kernel."""
  # Twice the length, as the transform takes the grid for periodic.
  length = 2 * _NUM_GRID
  frequency = 2.0 * np.pi * np.fft.rfftfreq(length, step)
  kernel = np.exp(-0.5 * (bandwidth * frequency) ** 2)
  density = np.fft.irfft(np.fft.rfft(mass, length) * kernel, length)
  return np.maximum(density[:, :_NUM_GRID], 0.0) / step


def quantile_knots(
  density: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Knots of the map from normal quantiles to those of a density.

  Args:
    density: Array of shape `[len(grid())]`, positive.

  Returns:
    x: Array of shape `[num_knots]`: normal quantiles, in ascending order.
    y: Array of shape `[num_knots]`: those of the density.
    slopes: Array of shape `[num_knots]`.
  """
  points = grid()
  step = points[1] - points[0]
  cumulative = np.cumsum(density * step)
  cumulative = (cumulative - 0.5 * density * step) / cumulative[-1]
  # From the upper tail where that is nearer, for the sake of its digits.
  upper = np.cumsum((density * step)[::-1])[::-1] - 0.5 * density * step
  u = np.where(
    cumulative < 0.5,
    tf.math.ndtri(np.minimum(cumulative, 0.5)),
    -tf.math.ndtri(np.minimum(upper, 0.5)),
  )
  inside = np.abs(u) < _LAST_KNOT
  u, t, density = u[inside], points[inside], density[inside]
  # Evenly along the curve: many knots where the map is steep or flat.
  length = np.abs(np.diff(u)) / (u[-1] - u[0]) + np.diff(t) / (t[-1] - t[0])
  length = np.concatenate([[0.0], np.cumsum(length)])
  even = np.linspace(0.0, length[-1], _NUM_BINS - 1)
  x, y = np.interp(even, length, u), np.interp(even, length, t)
  log_density = np.interp(y, t, np.log(density))
  slopes = np.exp(-0.5 * x**2 - log_density) / np.sqrt(2.0 * np.pi)
  return x, y, np.clip(slopes, 1e-3, 1e3)

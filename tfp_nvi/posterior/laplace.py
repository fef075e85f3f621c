# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Laplace's method at each of several values of a few coordinates.

Given the drivers, the other coordinates of a hierarchical model are often
nearly Gaussian, however far the joint density is from that. Newton's method
finds where, for a grid of values of the drivers, together with an estimate of
the drivers' marginal density, as integrated nested Laplace approximations
do [1]. Unlike a fit to particles, it needs none where the drivers are in their
tails. The path from the resulting reference corrects what is wrong with it.

#### References

[1]: H. Rue, S. Martino, N. Chopin. Approximate Bayesian inference for latent
     Gaussian models by using integrated nested Laplace approximations. Journal
     of the Royal Statistical Society B, 71(2), 2009.
"""

import typing
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi.posterior import conditional as conditional_lib
from tfp_nvi.posterior import marginals as marginals_lib

__all__ = [
  'NestedLaplace',
  'fit_conditional',
  'fit_gaussian',
]

# Nodes of a driver for the polynomials, by the number of drivers: locations are
# to be right in units of deviations that may be small.
_NUM_NODES = {1: 17, 2: 13}
# Those of two drivers where more would take over half of the evaluations, and
# how many iterations of Newton's method to count with.
_FEW_NODES = 7
_USUAL_ITERATIONS = 4
# The nodes reach from the quantile of this probability to the opposite one, as
# some drivers have a long tail on one side. Those of a normal density are at so
# many deviations.
_TAIL = 1e-4
_REACH = 3.7
# Nodes of a driver for finding its range, and how far they reach, in deviations
# by particles at first.
_NUM_COARSE = 9
_COARSE_REACH = 8.0
# How often to look for the range. It has been found where new deviations differ
# little from the last ones, and three of them are within reach.
_MAX_ROUNDS = 4
# The factors by which deviations may differ from those that are the units of
# steps and nodes.
_PLACED = (0.5, 2.0)
_MAX_ITERATIONS = 12
# Steps of the differences of gradients, in deviations.
_DIFFERENCE_STEP = 0.3
# Newton's method ends where a step would raise the log density by half of this.
_TOLERANCE = 0.02
_LENGTHS = np.array([1.0, 0.5, 0.25, 0.1, 0.03, 0.01])
# The share of nodes at which it must have ended.
_LEAST_CONVERGED = 0.5
# Points to a driver for the marginal density, and where they end.
_NUM_GRID = 161
_EDGE = 8.0
# The least deviation of a driver, in units of the last ones: between nodes the
# density may be narrower than they show.
_LEAST_DEVIATION = 0.25
# The share of a broad normal density in the densities of drivers: their tails
# are to be started from, even where Laplace's method is wrong.
_BROAD_SHARE = 0.1


class NestedLaplace(typing.NamedTuple):
  """Gaussians given drivers, and the density of the drivers.

  Fields:
    conditional: `Conditional`.
    center: Array of shape `[k]`.
    root: Array of shape `[k, k]`: drivers are `center + root t`.
    densities: Array of shape `[k, len(marginals.grid())]`: of the entries of
      `t`, each by itself, at the points of that grid.
  """

  conditional: conditional_lib.Conditional
  center: np.ndarray
  root: np.ndarray
  densities: np.ndarray


class _Gaussians(typing.NamedTuple):
  """Gaussians of the other coordinates at nodes.

  Fields:
    loc: Array of shape `[num_nodes, r]`.
    root: Array of shape `[num_nodes, r, r]`: lower triangular square roots of
      the covariances.
    log_mass: Array of shape `[num_nodes]`: the drivers' marginal log density;
      `-inf` where there is no maximum.
  """

  loc: np.ndarray
  root: np.ndarray
  log_mass: np.ndarray


class _Start(typing.NamedTuple):
  """Mean and covariance of particles, the drivers first."""

  mean: np.ndarray
  covariance: np.ndarray
  num_drivers: int

  def gaussians(self, drivers):
    """Those that a joint normal density has given the drivers."""
    k = self.num_drivers
    slopes = np.linalg.solve(self.covariance[:k, :k], self.covariance[:k, k:])
    rest = self.covariance[k:, k:] - slopes.T @ self.covariance[:k, k:]
    root = np.linalg.cholesky(rest)
    loc = self.mean[k:] + (drivers - self.mean[:k]) @ slopes
    return loc, np.repeat(root[np.newaxis], len(drivers), axis=0)


def _differences(gradient_fn, loc, root):
  """Gradients and negative Hessians in units of the roots' columns."""
  num, size = loc.shape
  steps = _DIFFERENCE_STEP * np.swapaxes(root, 1, 2)
  center = loc[:, np.newaxis]
  points = np.concatenate([center + steps, center - steps, center], axis=1)
  gradient = gradient_fn(points) @ root
  hessian = (gradient[:, size : 2 * size] - gradient[:, :size]) / (
    2.0 * _DIFFERENCE_STEP
  )
  return gradient[:, -1], 0.5 * (hessian + np.swapaxes(hessian, 1, 2))


def _lower(factor):
  """Lower triangular square roots of the same covariances."""
  # A factorization of the covariance would have the square of the condition.
  lower = np.swapaxes(np.linalg.qr(np.swapaxes(factor, 1, 2), mode='r'), 1, 2)
  signs = np.sign(np.diagonal(lower, axis1=1, axis2=2))
  return lower * np.where(signs == 0.0, 1.0, signs)[:, np.newaxis]


def _find_gaussians(evaluate_fn, drivers, start, order):
  """Laplace's method at each node.

  Args:
    evaluate_fn: Python callable from an array of shape `[n, d]` to log
      densities, `-inf` where they are zero or not finite, and gradients.
    drivers: Array of shape `[num_nodes, k]`: values of the drivers.
    start: `_Start`.
    order: Array of shape `[d]`: the drivers' indices, and the others'.

  Returns:
    gaussians: `_Gaussians`.
  """
  num, num_drivers = drivers.shape
  loc, root = start.gaussians(drivers)
  size = loc.shape[1]

  def evaluate(which, points):
    """At points of shape `[num_active, m, r]`."""
    m = points.shape[1]
    full = np.empty([len(which) * m, len(order)])
    full[:, order[:num_drivers]] = np.repeat(drivers[which], m, axis=0)
    full[:, order[num_drivers:]] = points.reshape([-1, size])
    log_prob, gradient = evaluate_fn(full)
    gradient = gradient[:, order[num_drivers:]]
    return log_prob.reshape([-1, m]), gradient.reshape([-1, m, size])

  everywhere = np.arange(num)
  log_prob = evaluate(everywhere, loc[:, np.newaxis])[0][:, 0]
  is_done = np.zeros([num], bool)
  for _ in range(_MAX_ITERATIONS):
    active = np.flatnonzero(~is_done)
    if not len(active):
      break
    gradient, hessian = _differences(
      lambda points, which=active: evaluate(which, points)[1],
      loc[active],
      root[active],
    )
    values, vectors = np.linalg.eigh(hessian)
    # Differences are to be taken by about the deviations that they give.
    is_placed = (values[:, 0] > _PLACED[1] ** -2) & (
      values[:, -1] < _PLACED[0] ** -2
    )
    values = np.abs(values)
    highest = np.max(values, axis=1, keepdims=True)
    # Flat directions are wide, but no step is to lead out of all bounds.
    values = np.maximum(values, np.maximum(1e-3 * highest, 0.01))
    along = np.einsum('gij,gi->gj', vectors, gradient)
    step = np.einsum('gij,gj->gi', vectors, along / values)
    decrement = np.sum(along**2 / values, axis=1)
    tried = loc[active, np.newaxis] + (
      _LENGTHS[:, np.newaxis]
      * np.einsum('gij,gj->gi', root[active], step)[:, np.newaxis]
    )
    found, _ = evaluate(active, tried)
    best = np.argmax(found, axis=1)
    found = np.take_along_axis(found, best[:, np.newaxis], 1)[:, 0]
    # Near a maximum, differences are those of rounding.
    is_better = found >= log_prob[active] - 0.1 * _TOLERANCE
    moved = active[is_better]
    loc[moved] = tried[is_better, best[is_better]]
    log_prob[moved] = found[is_better]
    root[active] = _lower(root[active] @ (vectors / np.sqrt(values)[:, None]))
    is_done[active] = (
      (decrement < _TOLERANCE) & is_placed & np.isfinite(log_prob[active])
    )
  log_mass = (
    log_prob
    + np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
    + 0.5 * size * np.log(2.0 * np.pi)
  )
  return _Gaussians(loc, root, np.where(is_done, log_mass, -np.inf))


def _on_grid(axes, log_mass, fine):
  """A density on a fine grid, by what it is at nodes.

  Lines between nodes would make it wider than it is, so they are for its log
  ratio to a normal density, which such lines gave in a first round.

  Args:
    axes: List of arrays: the places of nodes, for each driver.
    log_mass: Array of as many dimensions, `-inf` where it is not known.
    fine: List of arrays: the places of the grid.

  Returns:
    weights: Array of as many dimensions, with sum one.
    points: Array of shape `[num_points, k]`.
  """
  nodes, points = conditional_lib.cross(axes), conditional_lib.cross(fine)
  shape = [len(x) for x in axes]
  # Low, but not so low that a line to the next node would fall at once.
  floor = np.min(log_mass[np.isfinite(log_mass)]) - 10.0
  log_mass = np.maximum(log_mass, floor).ravel()
  normal, fine_normal = np.zeros(len(nodes)), np.zeros(len(points))
  for i in range(2):
    values = (log_mass - normal).reshape(shape)
    for axis, (old, new) in enumerate(zip(axes, fine, strict=True)):
      values = np.apply_along_axis(
        lambda row, old=old, new=new: np.interp(new, old, row), axis, values
      )
    values = values.ravel() + fine_normal
    weights = np.exp(values - np.max(values))
    weights /= weights.sum()
    if i == 0:
      mean, covariance = _moments(weights, points)
      normal, fine_normal = (
        -0.5
        * np.sum((x - mean) * np.linalg.solve(covariance, (x - mean).T).T, 1)
        for x in (nodes, points)
      )
  return weights, points


def _moments(weights, points):
  mean = weights @ points
  centered = points - mean
  covariance = centered.T @ (weights[:, np.newaxis] * centered)
  return mean, covariance + _LEAST_DEVIATION**2 * np.eye(len(mean))


def _quantiles(weights, values):
  """The range of each row of values that has all mass but that of the tails."""
  ends = []
  for row in values:
    rows = np.argsort(row)
    cumulative = np.cumsum(weights[rows])
    ends.append(np.interp([_TAIL, 1.0 - _TAIL], cumulative, row[rows]))
  return np.array(ends).T


def _marginals(axes, log_mass):
  """Densities of the entries, each by itself, on the grid of splines."""
  num_drivers = len(axes)
  fine = [np.linspace(-_EDGE, _EDGE, _NUM_GRID)] * num_drivers
  weights, _ = _on_grid(axes, log_mass, fine)
  weights = weights.reshape([_NUM_GRID] * num_drivers)
  grid = marginals_lib.grid()
  broad = np.exp(-0.5 * (grid / 2.0) ** 2)
  densities = []
  for i in range(num_drivers):
    others = tuple(j for j in range(num_drivers) if j != i)
    values = np.log(np.maximum(np.sum(weights, axis=others), 1e-300))
    density = np.exp(np.interp(grid, fine[i], values))
    density = (1.0 - _BROAD_SHARE) * density / density.sum() + (
      _BROAD_SHARE * broad / broad.sum()
    )
    densities.append(density / (grid[1] - grid[0]))
  return np.stack(densities)


def _nearest(nodes, is_known):
  """For each node, the index of the next one that is known."""
  known = np.flatnonzero(is_known)
  distance = np.sum((nodes[:, np.newaxis] - nodes[known]) ** 2, axis=2)
  return known[np.argmin(distance, axis=1)]


class _Exhausted(Exception):
  """There were too many evaluations."""


def _limit(evaluate_fn, max_evaluations):
  """The same function, with an error after so many evaluations."""
  num_evaluations = 0

  def evaluate(points):
    nonlocal num_evaluations
    num_evaluations += len(points)
    if max_evaluations is not None and num_evaluations > max_evaluations:
      raise _Exhausted
    return evaluate_fn(points)

  return evaluate


def fit_gaussian(
  evaluate_fn: Callable,
  mean: np.ndarray,
  deviations: np.ndarray,
  max_evaluations: int | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
  """Finds a mode, and the Gaussian with the curvature there.

  Args:
    evaluate_fn: Python callable from an array of shape `[n, d]` to log
      densities, `-inf` where they are zero or not finite, and gradients.
    mean: Array of shape `[d]`, to start from.
    deviations: Array of shape `[d]`: units to start with.
    max_evaluations: Python `int`: after which to give up, or `None`.

  Returns:
    mode: Array of shape `[d]`.
    root: Array of shape `[d, d]`: a lower triangular square root of the inverse
      of the negative Hessian. Or `None` for both, where Newton's method does
      not converge, or not within so many evaluations.
  """
  size = len(mean)
  start = _Start(mean, np.diag(deviations**2), 0)
  try:
    found = _find_gaussians(
      _limit(evaluate_fn, max_evaluations),
      np.zeros([1, 0]),
      start,
      np.arange(size),
    )
  except (np.linalg.LinAlgError, _Exhausted):
    return None
  if not np.isfinite(found.log_mass[0]):
    return None
  return found.loc[0], found.root[0]


def fit_conditional(
  evaluate_fn: Callable,
  mean: np.ndarray,
  covariance: np.ndarray,
  drivers: list,
  dtype: tf.DType,
  max_evaluations: int | None = None,
) -> NestedLaplace | None:
  """Finds Gaussians given the drivers, and the drivers' marginal density.

  Args:
    evaluate_fn: Python callable from an array of shape `[n, d]` to log
      densities, `-inf` where they are zero or not finite, and gradients.
    mean: Array of shape `[d]`: of particles, to start from.
    covariance: Array of shape `[d, d]`: likewise.
    drivers: List of Python `int`s: indices of the drivers.
    dtype: `tf.DType`.
    max_evaluations: Python `int`: after which to give up, or `None`.

  Returns:
    found: `NestedLaplace`; or `None`, where Newton's method does not converge
      for most values of the drivers, or not within so many evaluations, or a
      covariance is singular.
  """
  num_nodes = _NUM_NODES[len(drivers)]
  if max_evaluations is not None and len(drivers) > 1:
    each = _USUAL_ITERATIONS * (2 * len(mean) + 1)
    if num_nodes ** len(drivers) * each > 0.5 * max_evaluations:
      num_nodes = _FEW_NODES
  evaluate_fn = _limit(evaluate_fn, max_evaluations)
  try:
    return _fit_conditional(
      evaluate_fn, mean, covariance, drivers, num_nodes, dtype
    )
  except (np.linalg.LinAlgError, _Exhausted):
    return None


def _fit_conditional(evaluate_fn, mean, covariance, drivers, num_nodes, dtype):
  """The same, with an error where a covariance is singular."""
  num_drivers = len(drivers)
  rest = [i for i in range(len(mean)) if i not in drivers]
  order = np.array(list(drivers) + rest)
  start = _Start(mean[order], covariance[np.ix_(order, order)], num_drivers)
  center = start.mean[:num_drivers]
  root = np.linalg.cholesky(start.covariance[:num_drivers, :num_drivers])
  axes = [np.linspace(-_COARSE_REACH, _COARSE_REACH, _NUM_COARSE)] * num_drivers
  fine = [np.linspace(-_EDGE, _EDGE, _NUM_GRID)] * num_drivers
  for _ in range(_MAX_ROUNDS):
    gaussians = _find_gaussians(
      evaluate_fn, center + conditional_lib.cross(axes) @ root.T, start, order
    )
    if not np.isfinite(gaussians.log_mass).any():
      return None
    weights, points = _on_grid(axes, gaussians.log_mass, fine)
    mean, covariance = _moments(weights, points)
    factor = np.linalg.cholesky(covariance)
    center, root = center + root @ mean, root @ factor
    deviations = np.sqrt(np.diag(covariance))
    if np.all(
      (deviations > _PLACED[0])
      & (deviations < _PLACED[1])
      & (np.abs(mean) + 3.0 * deviations < _COARSE_REACH)
    ):
      break
  low, high = _quantiles(weights, np.linalg.solve(factor, (points - mean).T))
  center = center + root @ (0.5 * (low + high))
  root = root * np.maximum(0.5 * (high - low) / _REACH, _LEAST_DEVIATION)
  nodes = conditional_lib.unit_nodes(num_nodes, num_drivers)
  gaussians = _find_gaussians(
    evaluate_fn, center + _REACH * nodes @ root.T, start, order
  )
  is_known = np.isfinite(gaussians.log_mass)
  if np.mean(is_known) < _LEAST_CONVERGED:
    return None
  source = _nearest(nodes, is_known)
  scales = np.diagonal(gaussians.root[source], axis1=1, axis2=2)
  # Regression coefficients, which stay bounded where a deviation gets small.
  lower = gaussians.root[source] / scales[:, np.newaxis]
  conditional = conditional_lib.interpolate(
    order,
    center,
    np.linalg.inv(_REACH * root),
    (
      gaussians.loc[source],
      np.log(scales),
      lower - np.eye(lower.shape[1]),
    ),
    num_nodes,
    dtype,
  )
  # The nodes are in descending order.
  axis = _REACH * conditional_lib.unit_nodes(num_nodes, 1)[::-1, 0]
  densities = _marginals([axis] * num_drivers, gaussians.log_mass[::-1])
  return NestedLaplace(conditional, center, root, densities)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Coordinates that set the scales of others, as particles show them.

The logarithm of the deviation of a group does so in a hierarchical model.
"""

from collections.abc import Callable

import numpy as np

__all__ = [
  'MAX_DRIVERS',
  'find_by_curvature',
  'find_driver',
  'find_drivers',
  'fit_scales',
  'least_gain',
]

# How many coordinates may set the scales of others.
MAX_DRIVERS = 2
# By how much a driver must raise the mean log density, in nats.
_LEAST_GAIN = 0.03
# The largest kurtosis of a driver.
_MOST_KURTOSIS = 8.0
# The least square, in standard errors, of a driver's correlation with the
# scales of all others together.
_LEAST_COMMON_SCORE = 40.0
# How far from the mean to take the curvature, and the steps of the differences
# of gradients, in deviations. Curvatures are bounded in these units.
_REACH = 1.5
_DIFFERENCE = 0.3
_LEAST_CURVATURE = 0.05
# The least sum of squares of the changes of its logarithm.
_LEAST_CHANGE = 5.0


def find_drivers(
  centered: np.ndarray, variances: np.ndarray, weights: np.ndarray
) -> list:
  """Coordinates that set the scales of others, correlations left aside.

  Args:
    centered: Array of shape `[n, d]`: points less their mean.
    variances: Array of shape `[d]`.
    weights: Array of shape `[n]`, with sum one.

  Returns:
    drivers: List of Python `int`s.
  """
  v = centered / np.sqrt(variances)
  drivers: list = []
  loss = 0.5 * np.sum(weights @ v**2)
  for _ in range(MAX_DRIVERS):
    candidate = find_driver(v, centered, variances, weights, drivers)
    if candidate is None:
      break
    found = fit_scales(v, weights, drivers + [candidate])
    if found is None:
      break
    _, _, v, mean_log_scale = found
    new_loss = 0.5 * np.sum(weights @ v**2) + mean_log_scale
    if new_loss > loss - least_gain(weights, len(variances)):
      break
    drivers.append(candidate)
    loss = new_loss
  return drivers or _find_common_driver(centered / np.sqrt(variances), weights)


def find_by_curvature(
  gradient_fn: Callable, mean: np.ndarray, deviations: np.ndarray
) -> list:
  """Coordinates along which the curvature in others changes, at most two.

  A scale that is small in the tail of a posterior has few particles there to
  show what it drives, but the density has gradients there all the same.

  Args:
    gradient_fn: Python callable from points of shape `[n, d]` to gradients of
      the log density.
    mean: Array of shape `[d]`: the mean of particles.
    deviations: Array of shape `[d]`: their deviations.

  Returns:
    drivers: List of Python `int`s, the one that changes most first.
  """
  size = len(mean)
  centers = mean + _REACH * deviations * np.concatenate(
    [np.eye(size), -np.eye(size)]
  )
  steps = (
    _DIFFERENCE * deviations * np.concatenate([np.eye(size), -np.eye(size)])
  )
  points = (centers[:, np.newaxis] + steps).reshape([-1, size])
  gradients = gradient_fn(points).reshape([2, size, 2, size, size])
  own = np.diagonal(gradients, axis1=3, axis2=4) * deviations
  curvature = (own[:, :, 1] - own[:, :, 0]) / (2.0 * _DIFFERENCE)
  logs = np.log(np.clip(curvature, _LEAST_CURVATURE, np.inf))
  changes = (logs[0] - logs[1]) ** 2
  np.fill_diagonal(changes, 0.0)
  scores = np.sum(changes, axis=1)
  scores[~np.isfinite(scores)] = 0.0
  first, second = np.argsort(-scores, kind='stable')[:MAX_DRIVERS]
  if scores[first] < _LEAST_CHANGE:
    return []
  is_second = scores[second] > 0.25 * scores[first]
  return [int(first), int(second)] if is_second else [int(first)]


def _find_common_driver(t, weights):
  """The coordinate that sets the scales of most others a little.

  Each of many groups says little of what all of them together leave no doubt
  about.

  Args:
    t: Array of shape `[n, d]`: standardized coordinates.
    weights: Array of shape `[n]`.

  Returns:
    drivers: List of one Python `int`, or of none.
  """
  num_others = t.shape[1] - 1
  log_square = _log_square(t, weights)
  common = np.sum(log_square, axis=1)
  # A coordinate and its own scale do not count.
  slopes = t.T @ (weights * common) - weights @ (t * log_square)
  scores = slopes**2 / (np.sum(weights**2) * (weights @ common**2))
  scores[weights @ t**4 > _MOST_KURTOSIS] = 0.0
  best = int(np.argmax(scores))
  # A log scale changes the logarithms of squares twice as much, less near zero.
  gain = slopes[best] ** 2 / (3.0 * num_others)
  is_driver = scores[best] > _LEAST_COMMON_SCORE and gain > _LEAST_GAIN
  return [best] if is_driver else []


def _log_square(v, weights):
  """Logarithms of squares, bounded below, as one near zero says little."""
  log_square = np.log(v**2 + 0.05)
  return log_square - weights @ log_square


def least_gain(weights: np.ndarray, size: int) -> float:
  """By how much a driver must raise the mean log density of particles.

  Args:
    weights: Array of shape `[n]`, with sum one.
    size: Python `int`: the number of coordinates.

  Returns:
    gain: Python `float`, in nats.
  """
  return max(_LEAST_GAIN, 5.0 * np.sum(weights**2) * size)


def find_driver(
  v: np.ndarray,
  centered: np.ndarray,
  variances: np.ndarray,
  weights: np.ndarray,
  drivers: list,
) -> int | None:
  """The coordinate that says most about the scales of the others.

  Args:
    v: Array of shape `[n, d]`: whitened points.
    centered: Array of shape `[n, d]`: points less their mean.
    variances: Array of shape `[d]`.
    weights: Array of shape `[n]`, with sum one.
    drivers: List of Python `int`s: those known already.

  Returns:
    driver: Python `int`, or `None`.
  """
  total = 1.0 / np.sum(weights**2)
  t = centered / np.sqrt(variances)
  log_square = _log_square(v, weights)
  deviations = np.sqrt(weights @ log_square**2)
  correlation = (t.T @ (weights[:, np.newaxis] * log_square)) / deviations
  # A coordinate and its own scale do not count.
  same = np.abs(t.T @ (weights[:, np.newaxis] * v))
  scores = total * np.where(same < 0.5, correlation**2, 0.0)
  # Chi-square variables with one degree of freedom; heavy tails make more.
  score = np.sum(np.maximum(scores - 12.0, 0.0), axis=1)
  score[drivers] = 0.0
  # Scales are exponential in their driver, whose own tails must be light.
  score[weights @ t**4 > _MOST_KURTOSIS] = 0.0
  best = int(np.argmax(score))
  return best if score[best] > 0.0 else None


def fit_scales(
  v: np.ndarray, weights: np.ndarray, drivers: list
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
  """Regresses the log scales of coordinates on the drivers.

  Newton's method on the convex negative log likelihood of each coordinate,
  `E[eta + v^2 exp(-2 eta) / 2]` with `eta = offset + slope . drivers`.

  Args:
    v: Array of shape `[n, d]`.
    weights: Array of shape `[n]`.
    drivers: List of Python `int`s.

  Returns:
    offset: Array of shape `[d]`.
    slopes: Array of shape `[num_drivers, d]`.
    u: Array of shape `[n, d]`: the coordinates divided by their scales.
    mean_log_scale: Python `float`: the sum of the mean log scales.
    Or `None`, where the likelihood is not much better.
  """
  num, size = v.shape
  total = 1.0 / np.sum(weights**2)
  features = np.concatenate([np.ones([num, 1]), v[:, drivers]], axis=1)
  rest = np.setdiff1d(np.arange(size), drivers)
  square = v[:, rest] ** 2
  parameters = np.zeros([features.shape[1], len(rest)])
  weighted = features * weights[:, np.newaxis]
  # A normal prior on the slopes, which the likelihood outweighs where it knows.
  ridge = np.diag([0.0] + [2.0 / total] * len(drivers))

  def loss(parameters):
    eta = np.clip(features @ parameters, -30.0, 30.0)
    value = weights @ (eta + 0.5 * square * np.exp(-2.0 * eta))
    return value + 0.5 * np.einsum('ki,kj,ji->i', parameters, ridge, parameters)

  start = current = loss(parameters)
  for _ in range(30):
    ratio = square * np.exp(-2.0 * np.clip(features @ parameters, -30.0, 30.0))
    gradient = weighted.T @ (1.0 - ratio) + ridge @ parameters
    hessian = np.einsum('nk,ni,nj->ikj', weighted, 2.0 * ratio, features)
    hessian += ridge + 1e-9 * np.eye(len(ridge))
    direction = np.linalg.solve(hessian, gradient.T[..., np.newaxis])[..., 0].T
    size_of_step = np.ones(len(rest))
    for _ in range(12):
      tried = parameters - size_of_step * direction
      value = loss(tried)
      is_better = value <= current
      if is_better.all():
        break
      size_of_step = np.where(is_better, size_of_step, 0.5 * size_of_step)
    parameters = np.where(is_better, tried, parameters)
    improvement = np.max(current - np.where(is_better, value, current))
    current = np.where(is_better, value, current)
    if improvement < 1e-7:
      break
  gain = total * (start - current)
  # Scales that do not change by much are left as they are.
  kept = gain > max(6.0, 0.02 * total)
  if not kept.any():
    return None
  offset, slopes = np.zeros(size), np.zeros([len(parameters) - 1, size])
  offset[rest[kept]] = parameters[0, kept]
  slopes[:, rest[kept]] = parameters[1:, kept]
  eta = offset + v[:, drivers] @ slopes
  return offset, slopes, v * np.exp(-eta), np.sum(weights @ eta)

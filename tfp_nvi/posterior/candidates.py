# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pilot runs, and which of two to repeat."""

import typing

import numpy as np
import tensorflow as tf

from tfp_nvi import weighting
from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import conditional as conditional_lib
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import moves as moves_lib
from tfp_nvi.posterior import pilot
from tfp_nvi.posterior import reference as reference_lib

__all__ = [
  'LEAST_ROOTS',
  'LEAST_SHORTER',
  'Pilot',
  'compare_paths',
  'divergence_of_fit',
  'has_less',
  'has_new_map',
  'is_accepted',
  'is_better_start',
  'largest_loss',
  'share_outside',
]

# The least share of particles of the start with descendants for a pilot to be
# taken as evidence.
LEAST_ROOTS = 0.05
# A path that starts at a reference may leave out what few particles have found,
# so that it must be shorter by this share where there are modes.
LEAST_SHORTER = 0.3
# By how much lower the log evidence of a mixture may be, besides its error.
_SLACK_OF_MIXTURE = 0.1
# By how much more than by chance the log evidence of a refitted reference may
# be lower: for each stage of the path before, and at most.
_SLACK_OF_STAGE = 0.01
_MOST_SLACK = 0.2
# By how much the log evidence of a pilot with few ancestors may be too high.
_MOST_BY_ANCESTORS = 0.5
# The share of particles that are taken to be far out.
_SHARE_FAR = 0.005


class Pilot(typing.NamedTuple):
  """A pilot run.

  Fields:
    name: Python `str`: the name of the stage.
    start: Python `str`: where it starts: `'prior'`, which is the initial
      density, or `'reference'`.
    moves: `Moves` of its path.
    reference: `Reference` or `Mixture` in whose coordinates it moved.
    schedule: `Schedule` that it found.
    population: `Population` of the last inverse temperature.
  """

  name: str
  start: str
  moves: moves_lib.Moves
  reference: reference_lib.Reference | mixture_lib.Mixture
  schedule: pilot.Schedule
  population: pilot.Population

  @property
  def log_evidence(self) -> float:
    """Estimate of the log evidence; `-inf` if it did not get to the target."""
    if not self.schedule.is_complete:
      return -np.inf
    return float(weighting.log_normalizer(self.population.log_weights)[0])

  @property
  def num_stages(self) -> int:
    """How many stages its path has."""
    return len(self.schedule.stages)

  @property
  def num_roots(self) -> int:
    """How many particles of the start its particles descend from."""
    return len(np.unique(self.population.root.numpy()))

  @property
  def conditional(self) -> conditional_lib.Conditional | None:
    """The conditional map of its reference, or `None`."""
    if isinstance(self.reference, mixture_lib.Mixture):
      return None
    return self.reference.conditional

  @property
  def variance(self) -> float:
    """A rough relative variance of the evidence estimate."""
    # Each stage adds what conditional effective sample sizes allow, and more
    # where moves do not separate particles of one ancestor.
    return (
      sum(
        0.12 * (1.0 + 2.0 * max(stage.correlation, 0.0))
        for stage in self.schedule.stages
      )
      / self.population.u.shape[0]
    )

  @property
  def variance_by_ancestors(self) -> float:
    """The same, but not below that of as many draws as there are ancestors."""
    weights = weighting.normalize_weights(self.population.log_weights)[:, 0]
    by_root = np.bincount(self.population.root.numpy()[:, 0], weights.numpy())
    return max(self.variance, float(np.sum(by_root**2)))

  @property
  def weighted_points(self) -> tuple[np.ndarray, np.ndarray]:
    """Particles in the standardized space, and weights, in double precision."""
    y, _ = reference_lib.forward(self.reference, self.population.u)
    weights = weighting.normalize_weights(self.population.log_weights)[:, 0]
    return y.numpy().astype(np.float64), weights.numpy().astype(np.float64)


def compare_paths(found: Pilot, best: Pilot) -> tuple[float, float, int]:
  """How the path of a refitted reference differs from the one before.

  Args:
    found: `Pilot`.
    best: `Pilot`.

  Returns:
    gain: Python `float`: in log evidence. Negative if the reference covers less
      than what it was fitted to.
    margin: Python `float`: twice its standard error.
    num_fewer: Python `int`: by how many stages it is shorter.
  """
  gain = found.log_evidence - best.log_evidence
  # `variance_by_ancestors` would let a path lose mass because few particles of
  # its start have descendants.
  margin = 2.0 * np.sqrt(found.variance + best.variance)
  return gain, margin, best.num_stages - found.num_stages


def divergence_of_fit(
  reference: reference_lib.Reference, source: Pilot, seed: types.StatelessSeed
) -> tuple[float, float]:
  """How far a fit to particles is from their own reference, and by chance.

  Args:
    reference: `Reference` that was fitted to the particles of a pilot.
    source: `Pilot` that started at a reference.
    seed: Stateless seed.

  Returns:
    divergence: Python `float`: the KL divergence from the pilot's reference to
      the fitted one, by draws of the latter.
    noise: Python `float`: the divergence below which the fit is expected to be
      no better. A mean and a variance for each coordinate make half of it by
      chance, which is lost on other particles.
  """
  shape = source.population.u.shape
  u = randomness.normal(shape, seed, source.population.u.dtype)
  y, _ = reference_lib.forward(reference, u)
  log_ratio = reference_lib.log_prob(reference, u) - reference_lib.log_prob(
    source.reference, reference_lib.inverse(source.reference, y)
  )
  _, weights = source.weighted_points
  noise = 2.0 * shape[1] * np.sum(weights**2)
  return float(tf.reduce_mean(log_ratio)), float(noise)


def has_less(
  found: Pilot,
  other: Pilot,
  least_deficit: float = 0.5,
  num_errors: float = 2.0,
) -> bool:
  """Whether a pilot has found less mass than another one, beyond its error.

  Args:
    found: `Pilot`.
    other: `Pilot`.
    least_deficit: Python `float`: the smallest deficit in log evidence, beyond
      `num_errors` standard errors of it, that counts.
    num_errors: Python `float`.

  Returns:
    has_less: Python `bool`.
  """
  error = np.sqrt(found.variance_by_ancestors + other.variance_by_ancestors)
  deficit = other.log_evidence - found.log_evidence
  return bool(deficit > least_deficit + num_errors * error)


def is_better_start(found: Pilot, best: Pilot, size: int) -> bool:
  """Whether a pilot from a mixture is to be repeated instead of another one.

  Args:
    found: `Pilot` from a mixture.
    best: `Pilot`.
    size: Python `int`: particles of a pilot.

  Returns:
    is_better: Python `bool`.
  """
  if not best.schedule.is_complete:
    return True
  if found.num_stages > (1.0 - LEAST_SHORTER) * best.num_stages:
    return False
  # The modes that the other one has found are all in the mixture, and an
  # estimate with few ancestors may be off by any factor.
  if best.num_roots <= LEAST_ROOTS * size:
    return True
  margin = _SLACK_OF_MIXTURE + 2.0 * np.sqrt(
    found.variance + best.variance_by_ancestors
  )
  return bool(found.log_evidence >= best.log_evidence - margin)


def largest_loss(broad: Pilot, found: Pilot, places: np.ndarray) -> float:
  """The largest share of particles beside a place that another pilot lacks.

  Args:
    broad: `Pilot` from the initial density.
    found: `Pilot`.
    places: Array of shape `[n, d]`: where there may be modes.

  Returns:
    share: Python `float`: of the particles of `broad` on one side of the plane
      midway between two neighbours, where `found` has less than a quarter of
      that.
  """
  share = 0.0
  for first, second in zip(places, np.roll(places, 1, axis=0), strict=True):
    middle, direction = 0.5 * (first + second), second - first
    before, after = (
      weights[kept] @ ((points[kept] - middle) @ direction > 0.0)
      for points, weights in (broad.weighted_points, found.weighted_points)
      for kept in (weights > 0.0,)
    )
    for old, new in ((before, after), (1.0 - before, 1.0 - after)):
      if new < 0.25 * old:
        share = max(share, float(old))
  return share


def share_outside(
  points: np.ndarray,
  weights: np.ndarray,
  other_points: np.ndarray,
  other_weights: np.ndarray,
) -> float:
  """The weight of points that are farther out than others are.

  Distances are by moments of one half of the others, as these would be nearer
  to their own mean than any other points.

  Args:
    points: Array of shape `[n, d]`.
    weights: Array of shape `[n]`, with sum one.
    other_points: Likewise: the points that say what is far.
    other_weights: Likewise.

  Returns:
    share: Python `float`: less the share of the others that is as far out.
  """
  is_full = points.shape[1] <= reference_lib.MAX_FULL
  is_first = np.cumsum(other_weights) <= 0.5
  first, second = (
    (other_points[half], other_weights[half] / np.sum(other_weights[half]))
    for half in (is_first & (other_weights > 0.0), ~is_first)
  )
  mean, root = reference_lib.square_root(*first, is_full)

  def square_distance(x):
    if root.ndim == 1:
      return np.sum(((x - mean) / root) ** 2, axis=1)
    return np.sum(np.linalg.solve(root, (x - mean).T) ** 2, axis=0)

  kept = second[1] > 0.0
  distance = square_distance(second[0][kept])
  order = np.argsort(distance)
  cumulative = np.cumsum(second[1][kept][order])
  limit = np.interp(1.0 - _SHARE_FAR, cumulative, distance[order])
  kept = weights > 0.0
  share = weights[kept] @ (square_distance(points[kept]) > limit)
  return float(max(share - _SHARE_FAR, 0.0))


def has_new_map(found: Pilot, best: Pilot) -> bool:
  """Whether a pilot's reference has a map by Laplace's method of its own.

  Args:
    found: `Pilot`.
    best: `Pilot` before it.

  Returns:
    has_new_map: Python `bool`.
  """
  conditional = found.conditional
  return conditional is not None and conditional is not best.conditional


def is_accepted(
  found: Pilot,
  best: Pilot,
  has_modes: bool,
  is_from_prior: bool,
  longest: float,
) -> bool:
  """Whether the path from a fitted reference is better than the one before.

  Args:
    found: `Pilot` from the fitted reference.
    best: `Pilot` that it was fitted to.
    has_modes: Python `bool`: whether the density has valleys between modes.
    is_from_prior: Python `bool`: whether `best` starts at the initial
      density.
    longest: Python `float`: the most stages that its path may have.

  Returns:
    is_accepted: Python `bool`.
  """
  gain, margin, num_fewer = compare_paths(found, best)
  if is_from_prior:
    # With few ancestors an estimate may be too high, but not by any amount. The
    # particles themselves are compared later, by `share_outside`.
    by_ancestors = 2.0 * np.sqrt(found.variance + best.variance_by_ancestors)
    margin = max(margin, min(by_ancestors, _MOST_BY_ANCESTORS))
  # Evidences by short paths are the more exact ones.
  slack = min(_MOST_SLACK, _SLACK_OF_STAGE * best.num_stages)
  if gain < -slack - margin or found.num_stages > longest:
    return False
  # A reference may leave out what few particles have found.
  if has_modes and is_from_prior:
    if num_fewer < LEAST_SHORTER * best.num_stages:
      return False
  # A path of the same length is no worse. But Laplace's method also knows
  # where there are no particles, and a fit to these on top of it does not.
  is_refit = found.conditional is not None and not has_new_map(found, best)
  return num_fewer >= int(is_refit) or gain > 0.1 + margin

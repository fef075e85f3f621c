# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The stages before the final runs: references, and pilots."""

import contextlib
import time
import typing
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tqdm

from tfp_nvi import weighting
from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import candidates, laplace, pilot, variational
from tfp_nvi.posterior import conditional as conditional_lib
from tfp_nvi.posterior import drivers as drivers_lib
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import moves as moves_lib
from tfp_nvi.posterior import radial as radial_lib
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'Fitter',
]

# Evaluations of Laplace's method, for each particle of a pilot, at most.
_MAX_LAPLACE = 250
# The share of particles that may be far out of its reference, the share of them
# that may be beyond valleys, and at how many to look for these.
_MOST_FAR_OUT = 0.9
_MOST_APART = 0.02
_NUM_FAR = 64
_NUM_NEAREST = 8
# Rays to look for the density of lengths along, and by how much a map of these
# must raise the mean log density, in nats.
_NUM_RAYS = 64
_LEAST_RADIAL_GAIN = 0.2
# A map that finds so much more mass, in nats, is taken in any case if at least
# this share of its draws is effective.
_LEAST_MORE = 0.1
_LEAST_EFFECTIVE = 0.2
# Up to so many values the curvature is taken along each of them.
_MAX_DIFFERENCES = 64
# Above so many values there is no matrix by the curvature at a mode.
_MAX_CURVATURE = 2_000


class Fitter:
  """The stages of `fit_posterior`, and what they have found so far.

  Attributes:
    space: `VectorSpace` that it works in.
    label: Python `str`: what the names of stages end in.
    history: List of Python `dict`s, one for each stage.
    num_evaluations: Python `int`: gradients of the target so far.
    warnings: List of Python `str`s.
  """

  def __init__(
    self,
    space: space_lib.VectorSpace,
    size: int,
    conditional_ess: float,
    jit_compile: bool,
    bar: tqdm.tqdm,
  ):
    self.space = space
    self.size = size
    self.conditional_ess = conditional_ess
    self.jit_compile = jit_compile
    self.bar = bar
    self.label = ''
    self.history: list = []
    self.num_evaluations = 0
    self.from_reference = moves_lib.Moves(space, False, jit_compile)
    self._from_initial: moves_lib.Moves | None = None
    self.latest: candidates.Pilot | None = None
    # Drivers that Laplace's method did not serve for.
    self._failed_drivers: list = []
    self.has_modes = False
    self.warnings: list = []

  def in_space(self, space: space_lib.VectorSpace, label: str) -> 'Fitter':
    """A new start in another space, in the same history.

    Args:
      space: `VectorSpace` of the same target.
      label: Python `str`: what the names of its stages end in.

    Returns:
      fitter: `Fitter`.
    """
    fitter = Fitter(
      space, self.size, self.conditional_ess, self.jit_compile, self.bar
    )
    fitter.label, fitter.history = label, self.history
    fitter.num_evaluations = self.num_evaluations
    return fitter

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[dict]:
    """Shows the name of a stage, and adds what it found to the history.

    Args:
      name: Python `str`.

    Yields:
      found: Python `dict`, to which the stage adds what it found.
    """
    name += self.label
    self.announce(name)
    start = time.perf_counter()
    found: dict = {}
    yield found
    recorded = sum(x['num_target_evaluations'] for x in self.history)
    self.history.append(
      {
        'name': name,
        'seconds': time.perf_counter() - start,
        'num_target_evaluations': self.num_evaluations - recorded,
        **found,
      }
    )

  def announce(self, name: str) -> None:
    """Shows the name of a stage."""
    self.bar.reset(total=1.0)
    self.bar.set_description(name)

  def show(self, beta: float) -> None:
    """Shows an inverse temperature."""
    self.bar.update(beta - self.bar.n)

  def fit_variational(
    self, seed: types.StatelessSeed
  ) -> tuple[reference_lib.Reference, tf.Tensor, bool]:
    """Fits a Gaussian reference.

    Args:
      seed: Stateless seed.

    Returns:
      reference: `Reference`.
      places: `Tensor` of shape `[num_starts, d]`: where starts led to.
      has_valleys: Python `bool`: whether there are valleys between these.
    """
    with self.stage('reference') as found:
      reference, num_evaluations, bound, places, has_valleys = (
        variational.fit_variational(
          self.space, seed, jit_compile=self.jit_compile
        )
      )
      self.num_evaluations += num_evaluations
      found.update(evidence_lower_bound=bound, has_valleys=has_valleys)
    if reference.matrix.shape.rank == 1:
      reference = self._fit_curvature(reference, randomness.fold_in(seed, 1))
    return reference, places, has_valleys

  def _fit_curvature(self, diagonal, seed):
    """The Gaussian with the curvature at a mode, if its bound is higher.

    Particles say little about so many correlations, and gradients all.

    Args:
      diagonal: `Reference` by variational inference, with a diagonal matrix.
      seed: Stateless seed.

    Returns:
      reference: `Reference`.
    """
    if self.space.num_values > _MAX_CURVATURE:
      return diagonal
    with self.stage('curvature') as found:
      affine = laplace.fit_gaussian(
        self.evaluate,
        diagonal.center.numpy().astype(np.float64),
        diagonal.matrix.numpy().astype(np.float64),
        _MAX_LAPLACE * self.size,
      )
      found['is_taken'] = False
      if affine is None:
        return diagonal
      refine_seed, bound_seed = tf.unstack(randomness.split_seed(seed, 2))
      full, more = variational.refine(
        self.space,
        reference_lib.from_affine(*affine, self.space.dtype),
        refine_seed,
        jit_compile=self.jit_compile,
      )
      self.num_evaluations += more
      bound, least = (
        float(np.mean(self._log_weights(x, bound_seed)))
        for x in (full, diagonal)
      )
      found.update(
        is_taken=bound > least,
        evidence_lower_bound=bound,
        diagonal_evidence_lower_bound=least,
      )
    return full if found['is_taken'] else diagonal

  def _log_weights(self, reference, seed):
    """Log weights of draws from a reference, the mean of which is its bound."""
    u = self.draw(reference, 'reference', self.size, 1, seed)
    terms, _ = self.from_reference.evaluate(reference, u)
    self.num_evaluations += self.size
    return terms.log_ratio.numpy().astype(np.float64)

  def with_lengths(
    self, reference: reference_lib.Reference, seed: types.StatelessSeed
  ) -> reference_lib.Reference:
    """Adds a radial map, if draws from it are better or find more mass.

    They are better where the evidence lower bound is higher.

    Args:
      reference: `Reference` by variational inference.
      seed: Stateless seed.

    Returns:
      reference: `Reference`.
    """
    with self.stage('lengths') as about:
      direction_seed, bound_seed = tf.unstack(randomness.split_seed(seed, 2))
      directions = randomness.normal(
        [_NUM_RAYS, self.space.num_values], direction_seed, self.space.dtype
      )
      found, gain = self._add_lengths(reference, directions)
      about.update(gain=gain, is_taken=False)
      if gain <= _LEAST_RADIAL_GAIN:
        return reference
      log_weights, others = (
        self._log_weights(x, bound_seed) for x in (found, reference)
      )
      share = float(weighting.effective_sample_size(log_weights)) / self.size
      more = weighting.log_normalizer(log_weights) - weighting.log_normalizer(
        others
      )
      about.update(
        is_taken=bool(
          np.mean(log_weights) > np.mean(others)
          or (share > _LEAST_EFFECTIVE and more > _LEAST_MORE)
        ),
        evidence_lower_bound=float(np.mean(log_weights)),
        affine_evidence_lower_bound=float(np.mean(others)),
      )
    return found if about['is_taken'] else reference

  def _add_lengths(self, reference, directions):
    """Adds a radial map to an affine reference.

    Args:
      reference: `Reference`.
      directions: `Tensor` of shape `[num_rays, d]`: draws in its coordinates,
        whose lengths do not matter.

    Returns:
      reference: `Reference`.
      gain: Python `float`: in the mean log density of draws; zero where there
        is no map.
    """
    if self.space.num_values < radial_lib.MIN_SIZE:
      return reference, 0.0

    def evaluate(u):
      points = tf.constant(u, self.space.dtype)
      y, _ = reference_lib.forward(reference, points)
      return self.evaluate(y.numpy())[0]

    found = radial_lib.fit_radial(
      evaluate, directions.numpy().astype(np.float64), self.space.dtype
    )
    if found is None:
      return reference, 0.0
    return reference._replace(radial=found[0]), found[1]

  def run_pilot(
    self,
    name: str,
    reference: reference_lib.Reference | mixture_lib.Mixture,
    seed: types.StatelessSeed,
    start: str = 'reference',
    max_evaluations: int | None = None,
  ) -> candidates.Pilot:
    """Runs a pilot from a reference, or from the initial density.

    Args:
      name: Python `str`: of the stage.
      reference: `Reference` or `Mixture`.
      seed: Stateless seed.
      start: Python `str`: as in `Pilot`.
      max_evaluations: Python `int`: gradients for each particle after which to
        give up, or `None`.

    Returns:
      found: `Pilot`.
    """
    with self.stage(name) as about:
      draw_seed, run_seed = tf.unstack(randomness.split_seed(seed, 2))
      moves = self.moves_from(start)
      before = moves.num_evaluations
      schedule, population = pilot.run_pilot(
        moves,
        reference,
        self.draw(reference, start, self.size, 1, draw_seed),
        run_seed,
        conditional_ess=self.conditional_ess,
        max_evaluations=(
          None if max_evaluations is None else max_evaluations * self.size
        ),
        gives_up_fn=pilot.is_late if start == 'prior' else pilot.is_used_up,
        has_modes=self.has_modes,
        progress=self.show,
      )
      self.num_evaluations += moves.num_evaluations - before
      found = candidates.Pilot(
        name, start, moves, reference, schedule, population
      )
      about.update(
        log_evidence=found.log_evidence,
        is_complete=schedule.is_complete,
        effective_sample_size=float(
          weighting.effective_sample_size(population.log_weights)[0]
        ),
        stages=[
          {k: v for k, v in stage._asdict().items() if k != 'scale'}
          for stage in schedule.stages
        ],
      )
    if schedule.is_complete:
      self.latest = found
    return found

  def draw(
    self,
    reference: reference_lib.Reference | mixture_lib.Mixture,
    start: str,
    num_particles: int,
    num_runs: int,
    seed: types.StatelessSeed,
    index: int | tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Draws points where runs start, the runs changing fastest.

    Args:
      reference: `Reference` or `Mixture`.
      start: Python `str`: as in `Pilot`.
      num_particles: Python `int`: particles of a run.
      num_runs: Python `int`.
      seed: Stateless seed.
      index: int: different ones give other points, of the same components of a
        mixture.
        Default value: `None`.

    Returns:
      u: `Tensor` of shape `[num_particles * num_runs, num_values]`.
    """
    size = num_particles * num_runs
    if isinstance(reference, mixture_lib.Mixture) and start != 'prior':
      return mixture_lib.draw(reference, num_particles, num_runs, seed, index)
    if index is not None:
      seed = randomness.fold_in(seed, index)
    if start == 'prior':
      return self.space.sample_initial(size, seed)
    return randomness.normal(
      [size, self.space.num_values], seed, self.space.dtype
    )

  def moves_from(self, start: str) -> moves_lib.Moves:
    """The moves along the path from `'prior'` or `'reference'`."""
    # A standard normal prior is the reference that does nothing.
    if start == 'reference' or self.space.has_exact_gaussian:
      return self.from_reference
    if self._from_initial is None:
      self._from_initial = moves_lib.Moves(self.space, True, self.jit_compile)
    return self._from_initial

  def identity(self) -> reference_lib.Reference:
    """The reference that does nothing."""
    size = self.space.num_values
    matrix = np.eye(size) if size <= reference_lib.MAX_FULL else np.ones(size)
    return reference_lib.from_affine(np.zeros(size), matrix, self.space.dtype)

  def refit(
    self,
    source: candidates.Pilot,
    whitener: reference_lib.Reference,
    refused: typing.Sequence[list] | None = (),
  ) -> tuple[reference_lib.Reference, dict]:
    """A reference fitted to the particles of a pilot.

    Args:
      source: `Pilot`.
      whitener: `Reference`, of an affine map.
      refused: List of lists of drivers that are not to have a conditional map;
        or `None`, for no such map but the one that `source` has.

    Returns:
      reference: `Reference`. Where a few coordinates, the drivers, set the
        scales of others, these are from Laplace's method, which looks where no
        particles are.
      found: Python `dict`: what it has besides an affine map.
    """
    y, weights = source.weighted_points
    known: list = []
    previous, given = whitener, source.reference
    if isinstance(given, reference_lib.Reference) and given.conditional:
      previous, known = given, conditional_lib.drivers(given.conditional)
    reference, found = reference_lib.fit_to_particles(
      previous, y, weights, self.space.dtype
    )
    if refused is None:
      return reference, found
    drivers = found.get('drivers', [])
    nested = self._try_drivers(source, whitener, drivers, known, refused)
    if nested is None and drivers and not known:
      nested = self._try_drivers(
        source, whitener, self._drivers_by_curvature(source), known, refused
      )
    if nested is not None:
      return nested
    if known:
      return reference, found
    return self._fit_lengths(source, whitener, reference, found)

  def _try_drivers(self, source, whitener, drivers, known, refused):
    """`_fit_conditional` with these drivers, or the first of them."""
    # One driver has a third of the nodes of two, or less.
    for tried in (drivers, drivers[:1])[: len(drivers)]:
      if set(tried) <= set(known) or tried in refused:
        break
      nested = self._fit_conditional(source, whitener, tried)
      if nested is not None:
        return nested
    return None

  def _drivers_by_curvature(self, source):
    """Drivers that particles do not show."""
    if self.space.num_values > _MAX_DIFFERENCES:
      return []
    with self.stage('drivers') as found:
      y, weights = source.weighted_points
      y, weights = y[weights > 0.0], weights[weights > 0.0]
      mean = weights @ y
      found['drivers'] = drivers_lib.find_by_curvature(
        lambda points: self.evaluate(points)[1],
        mean,
        np.sqrt(weights @ (y - mean) ** 2),
      )
    return found['drivers']

  def _fit_lengths(self, source, whitener, other, found):
    """A radial and an affine map, if they gain more than another fit."""
    with self.stage('lengths') as about:
      affine = self.whiten(source, whitener)
      y, weights = source.weighted_points
      # The rays through points that are evenly spaced by weight.
      cumulative = np.cumsum(weights)
      quantiles = (np.arange(_NUM_RAYS) + 0.5) / _NUM_RAYS * cumulative[-1]
      rows = np.searchsorted(cumulative, quantiles)
      directions = reference_lib.inverse(
        affine, tf.constant(y[rows], self.space.dtype)
      )
      reference, gain = self._add_lengths(affine, directions)
      is_taken = bool(gain > max(_LEAST_RADIAL_GAIN, found.get('gain', 0.0)))
      about.update(gain=gain, is_taken=is_taken)
    if not is_taken:
      return other, found
    return reference, {'drivers': [], 'gain_of_lengths': gain}

  def _fit_conditional(self, source, whitener, drivers):
    """A reference by Laplace's method given drivers.

    Args:
      source: `Pilot`.
      whitener: `Reference`, of an affine map.
      drivers: List of Python `int`s.

    Returns:
      reference: `Reference`.
      found: Python `dict`: its drivers, and whether densities given these are
        skewed. There is neither (`None`) where the method does not serve.
    """
    if drivers in self._failed_drivers:
      return None
    with self.stage('conditional reference') as about:
      y, weights = source.weighted_points
      y, weights = y[weights > 0.0], weights[weights > 0.0]
      mean, covariance = reference_lib.moments(whitener, y, weights)
      nested = laplace.fit_conditional(
        self.evaluate,
        mean,
        np.diag(covariance) if covariance.ndim == 1 else covariance,
        drivers,
        self.space.dtype,
        _MAX_LAPLACE * self.size,
      )
      about.update(drivers=drivers, is_found=nested is not None)
      if nested is not None:
        reference = reference_lib.from_laplace(nested, self.space.dtype)
        far_out, apart = self._shares_far_out(reference, y, weights)
        about.update(share_far_out=far_out, share_apart=apart)
    if nested is None or far_out > _MOST_FAR_OUT or apart > _MOST_APART:
      self._failed_drivers.append(drivers)
      return None
    return reference, {'drivers': drivers, 'is_skewed': far_out > _MOST_APART}

  def _shares_far_out(self, reference, y, weights):
    """The weights of particles far out, and of those at other modes.

    Laplace's method knows of one of these. Particles of others are far out, and
    there is a valley in between; without one the density is only skewed.

    Args:
      reference: `Reference` by Laplace's method.
      y: Array of shape `[n, d]`.
      weights: Array of shape `[n]`, with sum one.

    Returns:
      share: Python `float`: far out, given the drivers.
      share_apart: Python `float`: of these, with a valley in between.
    """
    is_far, u = reference_lib.find_far_out(reference, y)
    share = float(weights @ is_far)
    # Where Laplace's method has no finite coordinates for a point, it is lost.
    u, weights = (x[is_far & np.isfinite(u).all(axis=1)] for x in (u, weights))
    if share <= _MOST_APART or not len(u):
      return share, share
    rows = np.arange(0, len(u), -(-len(u) // _NUM_FAR))
    # Means of neighbours, as a point by itself is lower than its surroundings
    # in each of many coordinates, which would hide a valley.
    # Square distances, less those of the rows from zero.
    distances = np.sum(u**2, axis=1) - 2.0 * u[rows] @ u.T
    nearest = np.argsort(distances, axis=1)[:, :_NUM_NEAREST]
    first = np.mean(u[nearest], axis=1)
    second = first.copy()
    num_drivers = reference.conditional.center.shape[0]
    second[:, reference.conditional.order.numpy()[num_drivers:]] = 0.0
    ends = (
      reference_lib.forward(reference, tf.constant(x, self.space.dtype))[0]
      for x in (first, second)
    )
    is_apart = variational.find_valleys(
      lambda points: self.evaluate(points.numpy())[0], *ends
    )
    share_apart = share * (weights[rows] @ is_apart) / np.sum(weights[rows])
    return share, float(share_apart)

  def whiten(
    self, source: candidates.Pilot, axes: reference_lib.Reference
  ) -> reference_lib.Reference:
    """The Gaussian reference with the moments of a pilot's particles.

    Args:
      source: `Pilot`.
      axes: `Reference`, in whose units the covariance is shrunk towards its
        diagonal. Where there are too many values for a covariance by particles
        alone, its correlations are those between its axes.

    Returns:
      reference: `Reference`.
    """
    y, weights = source.weighted_points
    kept = weights > 0.0
    mean, covariance = reference_lib.moments(axes, y[kept], weights[kept])
    root_fn = np.sqrt if covariance.ndim == 1 else np.linalg.cholesky
    return reference_lib.from_affine(
      mean, root_fn(covariance), self.space.dtype
    )

  def evaluate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluates points of the standardized space, and counts these.

    Args:
      points: Array of shape `[n, d]`.

    Returns:
      log_prob: float64 array of shape `[n]`.
      gradient: float64 array of shape `[n, d]`.
    """
    dtype, identity = self.space.dtype, self.identity()
    pieces = []
    for i in range(0, len(points), self.size):
      piece = points[i : i + self.size].astype(dtype.as_numpy_dtype)
      # All pieces have the shape of a pilot, so that one function is compiled.
      missing = self.size - len(piece)
      piece = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)])
      terms, _ = self.from_reference.evaluate(identity, tf.constant(piece))
      pieces.append((terms.log_target.numpy(), terms.target_gradient.numpy()))
      self.num_evaluations += self.size
    log_prob, gradient = (
      np.concatenate(x)[: len(points)].astype(np.float64)
      for x in zip(*pieces, strict=True)
    )
    return log_prob, gradient

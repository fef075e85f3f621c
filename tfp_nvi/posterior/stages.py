# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The stages before the final runs: a reference, and pilots to choose from."""

import time
import typing

import numpy as np
import tensorflow as tf
import tqdm

from tfp_nvi import weighting
from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import candidates, laplace, pilot, variational
from tfp_nvi.posterior import conditional as conditional_lib
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import moves as moves_lib
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'Fitter',
]

# Evaluations of Laplace's method, for each particle of a pilot, at most.
_MAX_LAPLACE = 250
# The share of particles that its reference may leave out.
_MOST_FAR_OUT = 0.02
# Above so many values there is no matrix by the curvature at a mode.
_MAX_CURVATURE = 2_000
# How often to fit a reference to particles at most.
_MAX_REFITS = 4
# Points that optimization starts from at a time: particles of a pilot first,
# and then draws of the initial density.
_NUM_STARTS = 64
# Pairs of particles to look for valleys between.
_NUM_PAIRS = 32
# How much wider than the initial density these are spread, by turns.
_SPREADS = (1.0, 1.5)


class Fitter:
  """The stages of `fit_posterior`, and what they have found so far."""

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
    self.history: list = []
    self.num_evaluations = 0
    self.from_reference = moves_lib.Moves(space, False, jit_compile)
    self._from_initial: moves_lib.Moves | None = None
    self.latest: candidates.Pilot | None = None
    self.has_modes = False
    self.warnings: list = []

  def record(
    self, name: str, start: float, num_evaluations: int, **found: typing.Any
  ) -> None:
    """Adds what a stage found to the history."""
    self.num_evaluations += num_evaluations
    self.history.append(
      {
        'name': name,
        'seconds': time.perf_counter() - start,
        'num_target_evaluations': num_evaluations,
        **found,
      }
    )

  def announce(self, name: str) -> None:
    """Shows the name of a stage."""
    self.bar.reset(total=1.0)
    self.bar.set_description(name)

  def show(self, beta: float) -> None:
    """Shows a temperature."""
    self.bar.update(beta - self.bar.n)

  def fit_variational(
    self, seed: types.StatelessSeed
  ) -> tuple[reference_lib.Reference, bool]:
    """A Gaussian reference, and whether starts are apart by valleys."""
    name = 'reference'
    self.announce(name)
    start = time.perf_counter()
    found = variational.fit_variational(
      self.space, seed, jit_compile=self.jit_compile
    )
    reference, num_evaluations, bound, has_valleys = found
    self.record(
      name,
      start,
      num_evaluations,
      evidence_lower_bound=bound,
      has_valleys=has_valleys,
    )
    if reference.matrix.shape.rank == 1:
      reference = self._fit_curvature(reference, randomness.fold_in(seed, 1))
    return reference, has_valleys

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
    name = 'curvature'
    self.announce(name)
    start, before = time.perf_counter(), self.num_evaluations
    found = laplace.fit_gaussian(
      self._evaluate,
      diagonal.center.numpy().astype(np.float64),
      diagonal.matrix.numpy().astype(np.float64),
      _MAX_LAPLACE * self.size,
    )
    reference, bounds = diagonal, {}
    if found is not None:
      refine_seed, bound_seed = tf.unstack(randomness.split_seed(seed, 2))
      full, more = variational.refine(
        self.space,
        reference_lib.from_affine(*found, self.space.dtype),
        refine_seed,
        jit_compile=self.jit_compile,
      )
      self.num_evaluations += more
      bound, least = (self._bound(x, bound_seed) for x in (full, diagonal))
      bounds = {
        'evidence_lower_bound': bound,
        'diagonal_evidence_lower_bound': least,
      }
      if bound > least:
        reference = full
    num_evaluations = self.num_evaluations - before
    self.num_evaluations = before
    self.record(
      name, start, num_evaluations, is_taken=reference is not diagonal, **bounds
    )
    return reference

  def _bound(self, reference, seed):
    """Evidence lower bound of a reference."""
    u = self.draw(reference, False, self.size, 1, seed)
    terms, _ = self.from_reference.evaluate(reference, u)
    self.num_evaluations += self.size
    return float(tf.reduce_mean(terms.log_ratio))

  def run_pilot(
    self,
    name: str,
    reference: reference_lib.Reference | mixture_lib.Mixture,
    seed: types.StatelessSeed,
    from_initial: bool = False,
    max_evaluations: int | None = None,
  ) -> candidates.Pilot:
    """Runs a pilot from the reference, or from the initial density.

    Args:
      name: Python `str`: of the stage.
      reference: `Reference` or `Mixture`.
      seed: Stateless seed.
      from_initial: Python `bool`: whether it starts at the initial density.
      max_evaluations: Python `int`: gradients for each particle after which to
        give up, or `None`.

    Returns:
      found: `Pilot`.
    """
    self.announce(name)
    start = time.perf_counter()
    draw_seed, run_seed = tf.unstack(randomness.split_seed(seed, 2))
    moves = self._initial_moves() if from_initial else self.from_reference
    u = self.draw(reference, from_initial, self.size, 1, draw_seed)
    before = moves.num_evaluations
    schedule, population = pilot.run_pilot(
      moves,
      reference,
      u,
      run_seed,
      conditional_ess=self.conditional_ess,
      max_evaluations=(
        None if max_evaluations is None else max_evaluations * self.size
      ),
      has_modes=self.has_modes,
      progress=self.show,
    )
    found = candidates.Pilot(name, moves, reference, schedule, population)
    self.record(
      name,
      start,
      moves.num_evaluations - before,
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
    from_initial: bool,
    num_particles: int,
    num_runs: int,
    seed: types.StatelessSeed,
  ) -> tf.Tensor:
    """Draws points where runs start, the runs changing fastest.

    Args:
      reference: `Reference` or `Mixture`.
      from_initial: Python `bool`: whether runs start at the initial density.
      num_particles: Python `int`: particles of a run.
      num_runs: Python `int`.
      seed: Stateless seed.

    Returns:
      u: `Tensor` of shape `[num_particles * num_runs, num_values]`.
    """
    size = num_particles * num_runs
    if from_initial:
      return self.space.sample_initial(size, seed)
    if isinstance(reference, mixture_lib.Mixture):
      return mixture_lib.draw(reference, num_particles, num_runs, seed)
    return randomness.normal(
      [size, self.space.num_values], seed, self.space.dtype
    )

  def moves_from(self, where: str) -> moves_lib.Moves:
    """The moves along the path from `'prior'` or `'reference'`."""
    return (
      self.from_reference if where == 'reference' else self._initial_moves()
    )

  def _initial_moves(self):
    """Moves along a path from the initial density."""
    # Where that is standard normal, the reference that does nothing serves.
    if self.space.has_exact_gaussian:
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
    refused: typing.Sequence[list] = (),
  ) -> tuple[reference_lib.Reference, dict]:
    """A reference fitted to the particles of a pilot.

    Args:
      source: `Pilot`.
      whitener: `Reference`, of an affine map.
      refused: List of lists of drivers that are not to have a conditional map.

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
    drivers = found.get('drivers', [])
    if set(drivers) <= set(known) or drivers in refused:
      return reference, found
    name = 'conditional reference'
    self.announce(name)
    start, before = time.perf_counter(), self.num_evaluations
    kept = weights > 0.0
    mean, covariance = reference_lib.moments(whitener, y[kept], weights[kept])
    nested = laplace.fit_conditional(
      self._evaluate,
      mean,
      np.diag(covariance) if covariance.ndim == 1 else covariance,
      drivers,
      self.space.dtype,
      _MAX_LAPLACE * self.size,
    )
    num_evaluations = self.num_evaluations - before
    self.num_evaluations = before
    self.record(
      name, start, num_evaluations, drivers=drivers, is_found=nested is not None
    )
    if nested is None:
      return reference, found
    laplace_reference = reference_lib.from_laplace(nested, self.space.dtype)
    # Laplace's method knows of one mode given the drivers. Particles of others
    # are far out there.
    far = reference_lib.share_far_out(laplace_reference, y[kept], weights[kept])
    self.history[-1]['share_far_out'] = far
    if far > _MOST_FAR_OUT:
      return reference, found
    return laplace_reference, {'drivers': drivers}

  def _whiten(self, source):
    """The Gaussian reference with the moments of a pilot's particles."""
    y, weights = source.weighted_points
    kept = weights > 0.0
    mean, covariance = reference_lib.moments(
      self.identity(), y[kept], weights[kept]
    )
    return reference_lib.from_affine(
      mean,
      np.sqrt(covariance)
      if covariance.ndim == 1
      else np.linalg.cholesky(covariance),
      self.space.dtype,
    )

  def _evaluate(self, points):
    """Log densities of points of the standardized space, and gradients."""
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

  def choose(
    self, start: str, seed: types.StatelessSeed
  ) -> tuple[candidates.Pilot, str, str]:
    """Runs pilots, and returns the one to repeat with the reason for it."""
    seeds = tf.unstack(randomness.split_seed(seed, 4))
    if start == 'prior':
      found = self.run_pilot(
        'pilot from the prior', self.identity(), seeds[0], True
      )
      return found, 'prior', 'as asked for.'
    whitener, self.has_modes = self.fit_variational(seeds[1])
    best = self.run_pilot(
      'pilot from the reference',
      whitener,
      seeds[2],
      max_evaluations=250,
    )
    reason = 'as asked for.'
    broad = None
    if start == 'auto':
      broad = self.run_pilot(
        'pilot from the prior',
        self.identity(),
        seeds[0],
        True,
        max_evaluations=3_000 if self.has_modes else 400,
      )
      best, reason = self._compare(best, broad)
    if not best.schedule.is_complete:
      # Nothing got to the target: the reference's own path, however long.
      best = self.run_pilot(
        'long pilot from the reference',
        whitener,
        seeds[2],
        max_evaluations=5_000,
      )
      reason = 'no pilot got to the target within its budget.'
    if broad is not None and (
      self.has_modes or (best is broad and self._has_valleys(broad))
    ):
      found = self._try_mixture(best, broad, randomness.fold_in(seed, 4))
      if found is not None:
        count = found.reference.centers.shape[0]
        return (
          found,
          'reference',
          (
            f'optimization found {count} modes, and a path from a mixture of '
            'Gaussians there is shorter than one from the prior.'
          ),
        )
    if best is broad:
      roots = broad.num_roots
      self.history[-1]['num_ancestors'] = roots
      if self.has_modes and roots < candidates.LEAST_ROOTS * self.size:
        # A reference fitted to few families would lack what they lack.
        return broad, 'prior', reason
      whitener = self._whiten(broad)
    return self._refine(best, broad, whitener, reason, seeds[3])

  def _compare(self, narrow, broad):
    """Which pilot to learn from."""
    if not broad.schedule.is_complete:
      stages = broad.schedule.stages
      self.warnings.append(
        'modes at risk: a pilot from the prior got to temperature '
        f'{stages[-1].beta if stages else 0.0:.2g} of 1 within its budget, so '
        'that modes that the reference does not cover would not be seen. '
        "start='prior' takes longer, but would see them."
      )
      return narrow, (
        'a pilot from the prior did not get to the target within its budget.'
      )
    if not narrow.schedule.is_complete:
      return broad, 'a pilot from the variational reference did not.'
    difference = broad.log_evidence - narrow.log_evidence
    margin = 0.1 + 2.0 * np.sqrt(
      narrow.variance_by_ancestors + broad.variance_by_ancestors
    )
    outside = candidates.share_outside(
      *broad.weighted_points, *narrow.weighted_points
    )
    self.history[-1]['share_outside'] = outside
    if self.has_modes:
      return broad, (
        'the density has valleys between the places that several starts of '
        'variational inference led to.'
      )
    if difference > margin or outside > 0.02:
      return broad, (
        'a pilot from the prior found mass that the variational reference '
        f'leads past ({outside:.1%} of it; log evidence '
        f'{broad.log_evidence:.2f} and {narrow.log_evidence:.2f}).'
      )
    return narrow, (
      'a pilot from the prior found no other mass (log evidence '
      f'{broad.log_evidence:.2f} and {narrow.log_evidence:.2f}).'
    )

  def _has_valleys(self, found):
    """Whether there are valleys between particles of a pilot."""
    points, weights = found.weighted_points
    order = np.flatnonzero(weights > 0.0)
    order = order[:: -(-len(order) // _NUM_PAIRS)]
    return variational.has_valleys(
      lambda y: self._evaluate(y.numpy())[0],
      tf.constant(points[order], self.space.dtype),
    )

  def _try_mixture(self, best, broad, seed):
    """A pilot from a mixture of Gaussians at modes; `None` if it is no better.

    Args:
      best: `Pilot` to compare with.
      broad: `Pilot` from the initial density, whose particles show where modes
        are.
      seed: Stateless seed.

    Returns:
      found: `Pilot`, or `None`.
    """
    if self.space.num_values > reference_lib.MAX_FULL:
      return None
    mixture, least_count = self._find_mixture(broad, seed)
    if mixture is None:
      return None
    found = self._refine_mixture(mixture, seed)
    if found is None or not candidates.is_better_start(found, best, self.size):
      return None
    if least_count == 1:
      self.warnings.append(
        'modes at risk: only one start of the optimization led to some of the '
        'modes, so that there may be others.'
      )
    return found

  def _find_mixture(self, broad, seed):
    """A mixture for two modes or more, or `None`; and their least count."""
    self.announce('modes')
    start = time.perf_counter()
    points, weights = broad.weighted_points
    order = np.flatnonzero(weights > 0.0)
    order = order[:: -(-len(order) // _NUM_STARTS)]

    def draw_fn(i):
      # Modes at the edge have few starts nearby, unless some are spread wider.
      y = self.space.sample_initial(_NUM_STARTS, randomness.fold_in(seed, i))
      return (y * _SPREADS[i % 2]).numpy()

    mixture, about = mixture_lib.find_mixture(
      self.space, points[order], draw_fn, self.jit_compile
    )
    self.record('modes', start, about.pop('num_evaluations'), **about)
    if about['num_modes'] < 2:
      mixture = None
    return mixture, about['least_count']

  def _refine_mixture(self, mixture, seed):
    """Pilots from a mixture for as long as a fit to the last one shortens them.

    Args:
      mixture: `Mixture`.
      seed: Stateless seed.

    Returns:
      found: `Pilot` of the shortest path, or `None` if none got to the target.
    """
    found = None
    for i in range(_MAX_REFITS):
      tried = self.run_pilot(
        f'pilot from a mixture {i + 1}',
        mixture,
        randomness.fold_in(seed, i),
        max_evaluations=250,
      )
      if not tried.schedule.is_complete:
        break
      is_shorter = found is None or tried.num_stages < found.num_stages
      if found is not None and tried.num_stages > found.num_stages:
        break
      found = tried
      mixture, gain = mixture_lib.fit_to_particles(
        mixture, *found.weighted_points
      )
      if not is_shorter or gain == 0.0:
        break
    return found

  def _is_new(self, reference, source, about, seed):
    """Whether a fit is farther from where a pilot started than by chance."""
    divergence, noise = np.inf, 0.0
    if not source.moves.starts_at_initial:
      divergence, noise = candidates.divergence_of_fit(reference, source, seed)
      about = {**about, 'divergence': divergence, 'noise': noise}
    self.record('fitted reference', time.perf_counter(), 0, **about)
    return not divergence < noise

  def _refine(self, best, broad, whitener, reason, seed):
    """Fits references to particles for as long as the path gets shorter."""
    refused: list = []
    for i in range(_MAX_REFITS):
      reference, about = self.refit(best, whitener, refused)
      if not self._is_new(
        reference, best, about, randomness.fold_in(seed, _MAX_REFITS + i)
      ):
        break
      is_conditional = reference.conditional is not None
      found = self.run_pilot(
        f'pilot from fitted reference {i + 1}',
        reference,
        randomness.fold_in(seed, i),
        max_evaluations=250 if is_conditional else None,
      )
      gain, margin, num_fewer = candidates.compare_paths(found, best)
      # One more fit to particles of a path of the same length is no worse, but
      # Laplace's method also knows where there are none.
      is_shorter = num_fewer >= int(is_conditional) or gain > 0.1 + margin
      # A reference may leave out what few particles have found.
      if self.has_modes and best is broad:
        is_shorter &= num_fewer >= candidates.LEAST_SHORTER * best.num_stages
      is_new = is_conditional and reference.conditional is not best.conditional
      if gain < -0.2 - margin or not is_shorter:
        if not is_new:
          break
        refused.append(about['drivers'])
        continue
      best = found
      if num_fewer < 1 and gain < 0.05 + margin:
        break
    if best is broad:
      return best, 'prior', reason
    return best, 'reference', reason

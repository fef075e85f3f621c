# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which pilots to run, and which of them the final runs repeat."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import candidates, refinement, stages, variational
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import reference as reference_lib

__all__ = [
  'MOST_LOST',
  'Chooser',
]

# Gradients of pilots for each particle: of those from a reference; of those
# from the initial density, where there may be modes and where not; and of the
# one that is to get to the target in any case.
_BUDGET_OF_REFERENCE = 250
_BUDGETS_OF_INITIAL = (3_000, 400)
_LARGEST_BUDGET = 5_000
# How often to fit a mixture to particles at most.
_MAX_REFITS = 4
# Points that optimization starts from at a time: particles of a pilot first,
# and then draws of the initial density.
_NUM_STARTS = 64
# Pairs of particles to look for valleys between.
_NUM_PAIRS = 32
# By which factors draws of the initial density are spread where optimization
# starts from them, in alternate rounds.
_SPREADS = (1.0, 1.5)
# The largest share of particles on one side of a valley that a path from a
# reference may lose.
MOST_LOST = 0.02


class Chooser:
  """Runs pilots until one is to be repeated.

  Args:
    fitter: `Fitter`, which runs the stages.
    start: Python `str`: as of `fit_posterior`.
    seed: Stateless seed.

  Attributes:
    narrow: `Pilot` from a reference by variational inference; `None` before
      `look`.
    broad: `Pilot` from the initial density, likewise; `None` if start is not
      `'auto'`.
    num_warnings: Python `int`: how many warnings there were before.
    doubt: Python `str`: the warning that a pilot from the initial density did
      not get to the target, if so.
    has_mixture: Python `bool`: whether a mixture at modes is the start.
    num_modes: Python `int`: how many modes optimization found, once it has
      looked for them; zero where most starts led to none.
  """

  def __init__(
    self, fitter: stages.Fitter, start: str, seed: types.StatelessSeed
  ):
    self.fitter = fitter
    self.start = start
    self.seed = seed
    self.narrow: candidates.Pilot | None = None
    self.broad: candidates.Pilot | None = None
    self.num_warnings = len(fitter.warnings)
    self.doubt = ''
    self.has_mixture = False
    self.num_modes: int | None = None
    self._whitener: reference_lib.Reference | None = None
    # Where starts of variational inference led to, if there are valleys in
    # between.
    self._places = np.zeros([0, 0])

  @property
  def leaves_doubts(self) -> bool:
    """Whether the first pilots got nowhere, or modes may have been missed."""
    if self.has_mixture:
      return False
    pilots = [x for x in (self.narrow, self.broad) if x is not None]
    if not all(x.schedule.is_complete for x in pilots):
      return True
    return self.broad is not None and self.fitter.has_modes

  @property
  def has_other_doubts(self) -> bool:
    """Whether there are warnings besides `doubt`."""
    found = self.fitter.warnings[self.num_warnings :]
    return len(found) > int(bool(self.doubt))

  def look(self) -> candidates.Pilot:
    """Runs the first pilots, from a reference and from the initial density.

    Returns:
      narrow: `Pilot` from a reference.
    """
    broad_seed, reference_seed, narrow_seed, _ = self._seeds()
    reference = self._fit_references(reference_seed)
    narrow = self.fitter.run_pilot(
      'pilot from the reference',
      reference,
      narrow_seed,
      max_evaluations=_BUDGET_OF_REFERENCE,
    )
    self.narrow = narrow
    if self.start == 'auto':
      # Where there are no modes, a good reference may do without this pilot.
      is_patient = self.fitter.has_modes or not narrow.schedule.is_complete
      patient, usual = _BUDGETS_OF_INITIAL
      broad = self._run_broad(broad_seed, patient if is_patient else usual)
      if self.fitter.has_modes and broad.schedule.is_complete:
        # Some starts may have led to places that are not worth a mode.
        self.fitter.has_modes = self._has_valleys(broad, self._places)
      self.broad = broad
    return narrow

  def choose(self) -> tuple[candidates.Pilot, str]:
    """Runs pilots until one is to be repeated.

    Returns:
      chosen: `Pilot` to repeat.
      reason: Python `str`: why it starts where it does.
    """
    if self.start == 'prior':
      return self._run_broad(self._seeds()[0]), 'as asked for.'
    narrow = self.narrow or self.look()
    broad = self.broad
    best, reason, seed = narrow, 'as asked for.', self.seed
    *_, long_seed, last_seed = self._seeds()
    if broad is not None:
      best, is_apart, reason = self._compare(narrow, broad)
      if is_apart:
        found = self._try_both(narrow, broad, randomness.fold_in(seed, 5))
        if found is not None:
          return found, reason
    if not best.schedule.is_complete:
      # Nothing got to the target: the reference's own path, however long.
      best = self.fitter.run_pilot(
        'long pilot from the reference',
        narrow.reference,
        long_seed,
        max_evaluations=_LARGEST_BUDGET,
      )
      reason = 'no pilot got to the target within its budget.'
      if not best.schedule.is_complete:
        return best, reason
    if broad is None:
      return self._refine(best, last_seed), reason
    found = self._try_mixture(best, broad, randomness.fold_in(seed, 4))
    if found is not None:
      self.has_mixture = True
      return found, (
        f'optimization found {self.num_modes} modes, and a path from a mixture '
        'of Gaussians there is shorter than one from the prior.'
      )
    if self.num_modes == 1:
      self.fitter.has_modes = False
    if best is broad:
      best, reason = self._reconsider(narrow, broad, reason)
    return self._learn(best, reason, last_seed)

  def _seeds(self):
    return tf.unstack(randomness.split_seed(self.seed, 4))

  def _refine(self, first, seed):
    """Pilots from references fitted to the particles of a first one."""
    narrow = self.narrow
    return refinement.Refiner(
      self.fitter,
      self._whitener,
      self.broad,
      narrow.num_stages if narrow.schedule.is_complete else np.inf,
    ).refine(first, seed)

  def _run_broad(self, seed, max_evaluations=None):
    """A pilot from the initial density."""
    return self.fitter.run_pilot(
      'pilot from the prior',
      self.fitter.identity(),
      seed,
      'prior',
      max_evaluations,
    )

  def _fit_references(self, seed):
    """The variational reference, with a map of lengths where that pays."""
    whitener, places, has_valleys = self.fitter.fit_variational(seed)
    self.fitter.has_modes, self._whitener = has_valleys, whitener
    if has_valleys:
      self._places = places.numpy()
    return self.fitter.with_lengths(whitener, randomness.fold_in(seed, 2))

  def _learn(self, best, reason, seed):
    """A pilot from a reference fitted to particles, if it has all their mass.

    Args:
      best: `Pilot` to learn from.
      reason: Python `str`: why to learn from `best`.
      seed: Stateless seed.

    Returns:
      chosen: `Pilot`.
      reason: Python `str`.
    """
    broad = self.broad
    if best is broad:
      is_by_few = self.fitter.has_modes and best.num_roots < (
        candidates.LEAST_ROOTS * self.fitter.size
      )
      # A reference fitted to descendants of few particles lacks what these
      # lack.
      if is_by_few and self.num_modes != 0:
        return broad, reason
      is_small = self.fitter.space.num_values <= reference_lib.MAX_FULL
      self._whitener = self.fitter.whiten(
        broad, self.fitter.identity() if is_small else self._whitener
      )
    chosen = self._refine(best, seed)
    if broad.schedule.is_complete:
      lost = self._share_lost(best, chosen)
      if lost > MOST_LOST:
        return broad, f'a path from a reference lost {lost:.1%} of the mass.'
    is_unknown = self.fitter.has_modes and self.num_modes == 0
    if is_unknown and chosen is not broad:
      self.fitter.warnings.append(
        'modes at risk: the density has valleys, and the reference was fitted '
        f'to particles of {best.num_roots} ancestors. Optimization did not '
        "tell whether there are modes that these lack; start='prior' would see "
        'them.'
      )
    return chosen, reason

  def _reconsider(self, narrow, broad, reason):
    """Which pilot to learn from where there is no mixture, and the reason.

    An estimate of an evidence is seldom much too high, and often too low, so
    that a pilot from the initial density with a low one has lost mass.
    """
    if not candidates.has_less(broad, narrow):
      return broad, reason
    reason = (
      'a pilot from the prior found less mass than one from the variational '
      f'reference (log evidence {broad.log_evidence:.2f} and '
      f'{narrow.log_evidence:.2f}).'
    )
    self.fitter.warnings.append(
      'modes at risk: the density has valleys, and ' + reason
    )
    return narrow, reason

  def _share_lost(self, best, chosen):
    """The share of particles of the initial density's pilot that others lack.

    Args:
      best: `Pilot` that references were fitted to first.
      chosen: `Pilot` from a fitted reference.

    Returns:
      share: Python `float`.
    """
    broad = self.broad
    if chosen is broad:
      return 0.0
    lost = 0.0
    if len(self._places):
      lost = candidates.largest_loss(broad, chosen, self._places)
    has_less = candidates.has_less(broad, chosen)
    if lost <= MOST_LOST and best is broad:
      # Where tails are heavy, a few of the particles are always far out: the
      # evidence must not speak against it.
      lost = candidates.share_outside(
        *broad.weighted_points, *chosen.weighted_points
      )
      self.fitter.history[-1]['share_outside'] = lost
      has_less = candidates.has_less(broad, chosen, 0.1, 1.0)
    if lost > MOST_LOST and has_less:
      self.fitter.warnings.append(
        f'modes at risk: runs may lack {lost:.1%} of the particles of a pilot '
        'from the prior, which found less mass itself (log evidence '
        f'{broad.log_evidence:.2f} and {chosen.log_evidence:.2f}).'
      )
      return 0.0
    return lost

  def _compare(self, narrow, broad):
    """Which of two pilots to learn from.

    Args:
      narrow: `Pilot` from a reference.
      broad: `Pilot` from the initial density.

    Returns:
      best: `Pilot`.
      is_apart: Python `bool`: whether each found mass that the other lacks.
      reason: Python `str`.
    """
    if not broad.schedule.is_complete:
      stages = broad.schedule.stages
      # An inverse temperature that is nearly one is not to be shown as one.
      beta = min(stages[-1].beta, 0.99) if stages else 0.0
      self.doubt = (
        'modes at risk: a pilot from the prior got to inverse temperature '
        f'{beta:.2g} within its budget, and the target is at 1, so that modes '
        'that the reference does not cover would not be seen. '
        "start='prior' takes longer, but would see them."
      )
      self.fitter.warnings.append(self.doubt)
      reason = (
        'a pilot from the prior did not get to the target within its budget.'
      )
      return narrow, False, reason
    if not narrow.schedule.is_complete:
      reason = (
        'a pilot from the variational reference did not get to the target '
        'within its budget.'
      )
      return broad, False, reason
    difference = broad.log_evidence - narrow.log_evidence
    margin = 0.1 + 2.0 * np.sqrt(
      narrow.variance_by_ancestors + broad.variance_by_ancestors
    )
    outside = candidates.share_outside(
      *broad.weighted_points, *narrow.weighted_points
    )
    self.fitter.history[-1]['share_outside'] = outside
    if self.fitter.has_modes:
      reason = (
        'the density has valleys between the places that several starts of '
        'variational inference led to.'
      )
      return broad, False, reason
    evidences = (
      f'log evidence {broad.log_evidence:.2f} and {narrow.log_evidence:.2f}'
    )
    has_more = difference > margin or outside > MOST_LOST
    if has_more and difference < -margin and not self._has_valleys(broad):
      # There is one mode, so that evidences say how much each has missed.
      has_more = False
      if outside * np.exp(difference + margin) > MOST_LOST:
        reason = (
          'pilots from the prior and from the variational reference found '
          f'different mass ({evidences}).'
        )
        return narrow, True, reason
    if has_more:
      reason = (
        'a pilot from the prior found mass that one from the variational '
        f'reference misses ({outside:.1%} of it; {evidences}).'
      )
      return broad, False, reason
    reason = f'a pilot from the prior found no other mass ({evidences}).'
    return narrow, False, reason

  def _try_both(self, narrow, broad, seed):
    """A pilot from a mixture of what two pilots found, or `None`.

    Args:
      narrow: `Pilot` from a reference.
      broad: `Pilot` from the initial density.
      seed: Stateless seed.

    Returns:
      found: `Pilot`, or `None` if its path is none to all of the mass.
    """
    least = max(narrow.log_evidence, broad.log_evidence) - 0.2
    found = None
    if self.fitter.space.num_values <= reference_lib.MAX_FULL:
      identity = self.fitter.identity()
      fitted = [self.fitter.whiten(x, identity) for x in (narrow, broad)]
      centers, roots = (
        np.stack([np.asarray(x[i], np.float64) for x in fitted]) for i in (0, 1)
      )
      shares = np.exp([x.log_evidence - least for x in (narrow, broad)])
      mixture = mixture_lib.from_arrays(
        shares / shares.sum(),
        centers,
        roots @ np.swapaxes(roots, 1, 2),
        self.fitter.space.dtype,
      )
      found = self._refine_mixture(mixture, seed)
    if found is not None and found.log_evidence > least:
      return found
    self.fitter.warnings.append(
      'modes at risk: pilots from the prior and from the reference found '
      f'different mass (log evidence {broad.log_evidence:.2f} and '
      f'{narrow.log_evidence:.2f}), and there is no path to both.'
    )
    return None

  def _has_valleys(self, found, places=None):
    """Whether there are valleys between places, or particles of a pilot.

    Args:
      found: `Pilot`.
      places: Array of shape `[n, d]`, of which those with a lower density than
        any particle do not count, or `None`.

    Returns:
      has_valleys: Python `bool`.
    """
    fitter = self.fitter
    with fitter.stage('valleys') as about:
      points, weights = found.weighted_points
      points = points[weights > 0.0]
      groups = [points[:: -(-len(points) // _NUM_PAIRS)]]
      if places is not None:
        least = np.min(fitter.evaluate(points)[0])
        groups.append(places[fitter.evaluate(places)[0] > least])
      about['has_valleys'] = any(
        variational.has_valleys(
          lambda y: fitter.evaluate(y.numpy())[0],
          tf.constant(group, fitter.space.dtype),
        )
        for group in groups
        if len(group) > 1
      )
    return about['has_valleys']

  def _try_mixture(self, best, broad, seed):
    """A pilot from a mixture of Gaussians at modes.

    Args:
      best: `Pilot` to compare with.
      broad: `Pilot` from the initial density, whose particles show where modes
        are.
      seed: Stateless seed.

    Returns:
      found: `Pilot`, or `None` if there are no modes or it is no better.
    """
    is_needed = self.fitter.has_modes or (
      best is broad and self._has_valleys(broad)
    )
    if not is_needed or self.fitter.space.num_values > reference_lib.MAX_FULL:
      return None
    mixture, least_count = self._find_mixture(broad, seed)
    if mixture is None:
      return None
    found = self._refine_mixture(mixture, seed)
    if found is None or not candidates.is_better_start(
      found, best, self.fitter.size
    ):
      return None
    if least_count == 1:
      self.fitter.warnings.append(
        'modes at risk: only one start of the optimization led to some of the '
        'modes, so that there may be others.'
      )
    return found

  def _find_mixture(self, broad, seed):
    """A mixture for two modes or more, or `None`; and their least count."""
    points, weights = broad.weighted_points
    order = np.flatnonzero(weights > 0.0)
    order = order[:: -(-len(order) // _NUM_STARTS)]

    def draw_fn(i):
      # Modes at the edge have few starts nearby, unless some are spread wider.
      y = self.fitter.space.sample_initial(
        _NUM_STARTS, randomness.fold_in(seed, i)
      )
      return (y * _SPREADS[i % 2]).numpy()

    with self.fitter.stage('modes') as found:
      mixture, about = mixture_lib.find_mixture(
        self.fitter.space, points[order], draw_fn, self.fitter.jit_compile
      )
      self.fitter.num_evaluations += about.pop('num_evaluations')
      found.update(about)
    is_alone = about['num_modes'] < 2
    self.num_modes = 0 if is_alone and mixture is None else about['num_modes']
    return None if is_alone else mixture, about['least_count']

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
      tried = self.fitter.run_pilot(
        f'pilot from a mixture {i + 1}',
        mixture,
        randomness.fold_in(seed, i),
        max_evaluations=_BUDGET_OF_REFERENCE,
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

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""References fitted to particles of pilots, and pilots from these."""

import numpy as np

from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import candidates, stages
from tfp_nvi.posterior import reference as reference_lib

__all__ = [
  'Refiner',
]

# How often to fit a reference to particles at most.
_MAX_REFITS = 4
# How long a path from a reference by Laplace's method may be, beside the
# shortest one before, where densities given the drivers are skewed.
_MOST_OF_PATH = 0.8
# Gradients for each particle of pilots from references by Laplace's method.
_BUDGET = 250


class Refiner:
  """Fits references to particles for as long as the path gets shorter.

  Args:
    fitter: `Fitter`, which runs the stages.
    whitener: `Reference` of an affine map.
    broad: `Pilot` from the initial density, or `None`.
    fewest_stages: Python `float`: how many stages the shortest path from a
      reference has, so far.
  """

  def __init__(
    self,
    fitter: stages.Fitter,
    whitener: reference_lib.Reference,
    broad: candidates.Pilot | None,
    fewest_stages: float = np.inf,
  ):
    self.fitter = fitter
    self.fewest_stages = fewest_stages
    self._whitener = whitener
    self._broad = broad

  def refine(
    self, first: candidates.Pilot, seed: types.StatelessSeed
  ) -> candidates.Pilot:
    """Runs pilots from references fitted to the particles of the last one.

    Args:
      first: `Pilot` whose particles to fit to.
      seed: Stateless seed.

    Returns:
      best: `Pilot`: the last one that was accepted.
    """
    refused: list = []
    best, spare = first, None
    for i in range(_MAX_REFITS):
      found, about = self._refit(
        best, refused, f'{i + 1}', randomness.fold_in(seed, i)
      )
      is_new = found is not None and candidates.has_new_map(found, best)
      if spare is not None and not is_new and not self._has_more(found, spare):
        # Neither other drivers nor none serve better.
        best, spare = spare, None
        self.fewest_stages = min(self.fewest_stages, best.num_stages)
        continue
      if found is None:
        break
      is_skewed = is_new and about['is_skewed']
      # The path must make up for tails of the other coordinates.
      longest = _MOST_OF_PATH * self.fewest_stages if is_skewed else np.inf
      is_accepted = candidates.is_accepted(
        found, best, self.fitter.has_modes, best is self._broad, longest
      )
      if is_new and not is_accepted:
        refused.append(about['drivers'])
        if is_skewed and best.conditional is None:
          # Splines on top of the map may make up for tails.
          spare = self._with_splines(
            found,
            best,
            spare,
            f'{i + 1}',
            randomness.fold_in(seed, 2 * _MAX_REFITS + i),
          )
        continue
      spare = None
      if not is_accepted:
        break
      gain, margin, num_fewer = candidates.compare_paths(found, best)
      best = found
      self.fewest_stages = min(self.fewest_stages, best.num_stages)
      if num_fewer < 1 and gain < 0.05 + margin:
        break
    else:
      # A fit that was refused says nothing of what is left to find.
      if best is found and gain > 0.05 + margin:
        self.fitter.warnings.append(
          f'tails at risk: the last of {_MAX_REFITS} references that were '
          f'fitted to particles raised the log evidence by {gain:.2f} yet, so '
          'that there may be mass that none of them has reached.'
        )
    return best if spare is None else spare

  def _has_more(self, found, spare):
    """Whether a pilot, or `None`, has found more mass than another one."""
    if found is None:
      return False
    gain, margin, _ = candidates.compare_paths(found, spare)
    return gain > margin

  def _with_splines(self, found, best, spare, number, seed):
    """A pilot with splines on top of a skewed map, if its path is shorter.

    Args:
      found: `Pilot` from the map.
      best: `Pilot` that the map was fitted to.
      spare: `Pilot` from another such map, or `None`.
      number: Python `str`: which reference it is.
      seed: Stateless seed.

    Returns:
      spare: `Pilot` of the two with the higher evidence, or `None`.
    """
    if not found.schedule.is_complete:
      return spare
    tried, _ = self._refit(found, None, f'{number}, with splines', seed)
    if tried is None or not candidates.is_accepted(
      tried,
      best,
      self.fitter.has_modes,
      best is self._broad,
      self.fewest_stages - 1,
    ):
      return spare
    if spare is None or tried.log_evidence > spare.log_evidence:
      return tried
    return spare

  def _refit(self, source, refused, number, seed):
    """A pilot from a reference fitted to the particles of another one.

    Args:
      source: `Pilot`.
      refused: List of lists of drivers, or `None`, as of `Fitter.refit`.
      number: Python `str`: which one it is.
      seed: Stateless seed.

    Returns:
      found: `Pilot`, or `None` if the fit is no farther from where `source`
        started than by chance.
      about: Python `dict`: what `Fitter.refit` says of the reference.
    """
    with self.fitter.stage('fitted reference') as record:
      reference, about = self.fitter.refit(source, self._whitener, refused)
      is_new = self._is_new(
        reference, source, about, randomness.fold_in(seed, 1)
      )
      record.update(about)
    if not is_new:
      return None, about
    found = self.fitter.run_pilot(
      f'pilot from fitted reference {number}',
      reference,
      seed,
      max_evaluations=None if reference.conditional is None else _BUDGET,
    )
    return found, about

  def _is_new(self, reference, source, about, seed):
    """Whether a fit is farther from where a pilot started than by chance."""
    if source.moves.starts_at_initial:
      return True
    divergence, noise = candidates.divergence_of_fit(reference, source, seed)
    about.update(divergence=divergence, noise=noise)
    # Where the divergence is NaN, the fit is to be tried.
    return not divergence < noise

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Centered or non-centered coordinates of a hierarchical model.

In the coordinates of the model itself, a scale near zero leaves next to no
room for what has this scale, and a path hardly gets there. In non-centered
coordinates, informative data have that effect. So both are tried where pilots
in the coordinates of the model leave doubts.
"""

import numpy as np
import tensorflow as tf

from tfp_nvi.bijectors import noncentered
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.internal import types
from tfp_nvi.posterior import candidates, choice, stages
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'choose',
  'in_noncentered',
  'of_first',
]

# By how much less, in nats, a path in other coordinates may have found.
_MOST_DEFICIT = 0.1
# How many more stages it may have, as a short path that leaves doubts may lack
# what the other one has.
_MOST_MORE_STAGES = 1


def in_noncentered(
  fitter: stages.Fitter, seed: types.StatelessSeed
) -> stages.Fitter | None:
  """A new start in non-centered coordinates.

  Args:
    fitter: `Fitter` in the coordinates of the model.
    seed: Stateless seed, for the draws that standardize the space.

  Returns:
    fitter: `Fitter`; or `None`, where the target has no such coordinates, or
      its coordinates or its initial density are not its own.
  """
  space = fitter.space
  if not space.uses_pins or space.state_map.is_given:
    return None
  bijector = noncentered.noncentered_bijector(space.target)
  if bijector is None:
    return None
  vectors = space_lib.VectorSpace(
    space.target,
    None,
    bijector,
    seed,
    noncentered.noncentered_prior(space.target),
  )
  return fitter.in_space(vectors, ', non-centered')


def choose(
  fitter: stages.Fitter,
  start: str,
  space_seed: types.StatelessSeed,
  seed: types.StatelessSeed,
) -> tuple[stages.Fitter, candidates.Pilot, str]:
  """The pilot to repeat, by pilots in both coordinates if there are doubts.

  Args:
    fitter: `Fitter` in the coordinates of the model.
    start: Python `str`: as of `fit_posterior`.
    space_seed: Stateless seed, for non-centered coordinates.
    seed: Stateless seed.

  Returns:
    fitter: `Fitter` whose pilot is chosen.
    chosen: `Pilot` to repeat.
    reason: Python `str`: why it starts where it does.
  """
  first = choice.Chooser(fitter, start, seed)
  chosen, reason = first.choose()
  other = in_noncentered(fitter, space_seed) if first.leaves_doubts else None
  if other is None:
    return fitter, chosen, reason
  second = choice.Chooser(other, start, seed)
  try:
    second.look()
    found = None if second.leaves_doubts else second.choose()
  finally:
    # After an interrupt, the history has the stages of both.
    fitter.num_evaluations = other.num_evaluations
  if found is None or _lacks_mass(second, found[0], chosen):
    return fitter, chosen, reason
  if _is_preferred(found[0], chosen) or (
    first.has_other_doubts and not other.warnings
  ):
    other.warnings = fitter.warnings[: first.num_warnings] + other.warnings
    return other, found[0], f'in non-centered coordinates, {found[1]}'
  broad = second.broad
  if (
    first.doubt and broad is not None and _covers(fitter, chosen, other, broad)
  ):
    fitter.warnings.remove(first.doubt)
    reason = (
      'a pilot from the prior, in non-centered coordinates, found no other '
      f'mass (log evidence {broad.log_evidence:.2f} and '
      f'{chosen.log_evidence:.2f}).'
    )
  return fitter, chosen, reason


def _is_preferred(found, chosen):
  """Whether a path in other coordinates is short enough, or found more mass."""
  is_short = found.num_stages <= chosen.num_stages + _MOST_MORE_STAGES
  return is_short or candidates.has_less(chosen, found, _MOST_DEFICIT)


def _lacks_mass(second, found, chosen):
  """Whether pilots in other coordinates found less than the chosen one."""
  return chosen.schedule.is_complete and any(
    pilot is not None and candidates.has_less(pilot, chosen, _MOST_DEFICIT)
    for pilot in (second.broad, found)
  )


def _covers(fitter, chosen, other, broad):
  """Whether a pilot covers the particles of one in other coordinates."""
  y, weights = broad.weighted_points
  kept = weights > 0.0
  state = other.space.to_user(tf.constant(y[kept], other.space.dtype))
  values = fitter.space.state_map.values(state)
  points = fitter.space.standardized(values).numpy().astype(np.float64)
  outside = candidates.share_outside(
    points, weights[kept], *chosen.weighted_points
  )
  fitter.history[-1]['share_outside'] = outside
  return outside < choice.MOST_LOST


def of_first(
  replicas: replicas_lib.Replicas,
  fitter: stages.Fitter,
  found: stages.Fitter,
  space_seed: types.StatelessSeed,
) -> stages.Fitter:
  """A fitter in the coordinates that the first process chose.

  Args:
    replicas: `Replicas`.
    fitter: `Fitter` in the coordinates of the model.
    found: `Fitter` that this process chose: the same or another one.
    space_seed: Stateless seed, for non-centered coordinates.

  Returns:
    fitter: `Fitter`.
  """
  is_other = replicas.from_first(bytes([found is not fitter])) == bytes([1])
  if is_other == (found is not fitter):
    return found
  return (in_noncentered(fitter, space_seed) or found) if is_other else fitter

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""States at which transitions are tried out before a run, in eager mode."""

import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import randomness, types
from tfp_nvi.transitions import base

tfd = tfp.distributions

__all__ = [
  'are_integers',
  'is_positive',
  'location_and_scale',
  'loses_support',
  'probe_states',
  'warn_of_lost_mass',
]

# How many states tell the scale of a transition.
NUM_SCALE_DRAWS = 1024


def probe_states(
  densities: densities_lib.Densities,
  num_states: int = densities_lib.NUM_PROBES,
  batch_shape: list | None = None,
) -> types.Structure | None:
  """States of the first level, or standard normal ones.

  Args:
    densities: The sequence of intermediate densities.
    num_states: Python `int`.
      Default value: `16`.
    batch_shape: List of Python `int`s, to which that of the densities
      broadcasts.
      Default value: `None` (i.e., that of the densities).

  Returns:
    states: Nested structure of `Tensor`s of shape
      `[num_states] + batch_shape + event`, or `None` outside of eager mode, and
      where the first density cannot be drawn from and states are not real.
  """
  if not tf.executing_eagerly():
    return None
  if batch_shape is None:
    batch_shape = densities.batch_shape.as_list()
  seed = randomness.as_seed(0)
  if isinstance(densities.initial, tfd.Distribution):
    return densities.inverse(
      densities_lib.draw(densities.initial, num_states, batch_shape, seed)
    )
  dtypes = [tf.as_dtype(d) for d in tf.nest.flatten(densities.dtype)]
  if densities.is_discrete or not all(d.is_floating for d in dtypes):
    return None
  shapes = tf.nest.flatten(densities.event_shape)
  seeds = tf.unstack(randomness.split_seed(seed, len(shapes)))
  parts = [
    randomness.normal(
      [num_states, *batch_shape, *tf.TensorShape(shape).as_list()], s, dtype=d
    )
    for shape, s, d in zip(shapes, seeds, dtypes, strict=True)
  ]
  return tf.nest.pack_sequence_as(densities.event_shape, parts)


def location_and_scale(
  densities: densities_lib.Densities,
) -> tuple[np.ndarray, np.ndarray]:
  """The location and scale of the first level, coordinate by coordinate.

  These are the median and half the distance between the quantiles of a standard
  normal distribution at one deviation, which exist for heavy tails too.

  Args:
    densities: The sequence of intermediate densities, over real states.

  Returns:
    location: NumPy array of shape `[number of values]`; zero if the first
      density cannot be drawn from.
    scale: Likewise; one if the first density cannot be drawn from, or does not
      vary.
  """
  dtype = densities.float_dtype.as_numpy_dtype
  size = base.num_values(densities)
  location, scale = np.zeros([size]), np.ones([size])
  if isinstance(densities.initial, tfd.Distribution):
    states = probe_states(densities, NUM_SCALE_DRAWS)
    if states is not None:
      vectors = base.flatten_state(states, densities.event_shape)
      vectors = np.asarray(vectors, np.float64).reshape([-1, size])
      # The normal distribution function at minus one, zero and one.
      low, middle, high = np.quantile(vectors, [0.158655, 0.5, 0.841345], 0)
      spread = (high - low) / 2.0
      is_known = np.isfinite(middle) & np.isfinite(spread) & (spread > 0.0)
      location = np.where(is_known, middle, location)
      scale = np.where(is_known, spread, scale)
  return location.astype(dtype), scale.astype(dtype)


def are_integers(states: types.Structure) -> bool:
  """Whether a floating point part of some states has integers only."""
  return any(
    x.dtype.is_floating
    and x.shape.num_elements() > 1
    and bool(tf.reduce_all(tf.equal(x, tf.round(x))))
    for x in tf.nest.flatten(states)
  )


def is_positive(
  densities: densities_lib.Densities, states: types.Structure, first_level: int
) -> tf.Tensor:
  """Where the densities of all levels from one on are positive.

  Args:
    densities: The sequence of intermediate densities.
    states: Nested structure of `Tensor`s of shape
      `[num_states] + batch + event`.
    first_level: Python `int`.

  Returns:
    is_positive: bool `Tensor` of shape `[num_states] + batch`.
  """
  log_probs = [
    densities.log_prob(level, densities.evaluate(level, states))
    for level in range(first_level, densities.num_densities)
  ]
  # NaN, as at states that are NaN, is not positive.
  return tf.reduce_all(
    [log_prob > -float('inf') for log_prob in log_probs], axis=0
  )


def loses_support(
  densities: densities_lib.Densities,
  transition: base.Transition,
  level: int,
  local_level: int,
) -> bool:
  """Whether states without density lead to states with density.

  Args:
    densities: The sequence of intermediate densities.
    transition: `Transition` that keeps to supports.
    level: Python `int`: the level before.
    local_level: Python `int`: the same as the transition counts.

  Returns:
    loses_support: Python `bool`; false if there are no states to look at.
  """
  state = densities.probe_state
  if state is None:
    return False

  def has_density(level, state):
    log_prob = densities.log_prob(level, densities.evaluate(level, state))
    return log_prob > -float('inf')

  return bool(
    tf.reduce_any(
      tf.logical_and(
        tf.logical_not(has_density(level, state)),
        has_density(level + 1, transition.transport(local_level, state)),
      )
    )
  )


def warn_of_lost_mass(
  densities: densities_lib.Densities,
  transitions: Sequence[base.Transition],
) -> None:
  """Warns where reverse kernels have mass at which a density is zero.

  Args:
    densities: The sequence of intermediate densities.
    transitions: List of `Transition`s between them.
  """
  level = 0
  for i, transition in enumerate(transitions):
    levels = range(level, level + transition.num_transitions)
    level = levels.stop
    lost = [
      k
      for k in sorted({*levels} & {*densities.zero_levels})
      if not transition.keeps_support
      or loses_support(densities, transition, k, k - levels.start)
    ]
    if lost:
      warnings.warn(
        f'The density of level {lost[0]} is zero in places where the reverse '
        f'kernel of `transitions[{i}]` may have mass; log Z-hat is too small '
        'by what is lost there. Use densities that are positive wherever the '
        'first one is, such as those of a GeometricPath, a reverse kernel '
        'over the support, or an MCMCTransition.',
        RuntimeWarning,
        # That of the call that makes a sampler.
        stacklevel=4,
      )

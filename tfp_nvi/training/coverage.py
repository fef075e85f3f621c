# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Looks for mass that a trained sampler does not reach, or hardly ever.

A sampler that has lost a mode looks healthy: its weights are even. Draws of the
first level, weighted for the last density at once, are too spread to be of use
as a sampler, but where the first density is wide and the dimension is low, they
tell how much mass there is.

A sampler whose weights have heavy tails looks healthy in most runs as well: the
mean of the estimates is right, and nearly all of them are too low. Each step of
training is a run, whose estimate is unbiased at any stage of training, so that
one step that has much of their sum tells.
"""

import typing

import numpy as np
import tensorflow as tf

from tfp_nvi import weighting
from tfp_nvi.internal import randomness
from tfp_nvi.runs import replace_nan
from tfp_nvi.sampler import NestedSampler
from tfp_nvi.training import history as history_lib

__all__ = [
  'MissingMass',
  'find_missing_mass',
  'find_rare_mass',
]

# Draws for importance sampling, and the part of the evaluations of training
# that they may be.
_MAX_DRAWS = 2**14
_MAX_SHARE = 0.1
# Draws at a time, unless training evaluates more states together.
_MIN_CHUNK = 1_024
# A gap is believed from so many effective draws and standard errors on, which
# are exceeded by chance once in 30,000 times, and if the mass is worth a word.
_MIN_EFFECTIVE_DRAWS = 30.0
_NUM_ERRORS = 4.0
_MIN_GAP = 0.02
# The last quarter of the steps is judged if it has this many. A step is rare if
# its estimate is more than a tenth of the sum, or half of it in a batch, and
# more than twenty times the mean. The greatest of 200 log-normal estimates,
# whose logarithms have a deviation of one, is not, with a probability of 0.99.
_MIN_STEPS = 80
_STEPS_SHARE = 4
_MAX_SHARE_OF_A_STEP = 0.1
_MAX_SHARE_IN_A_BATCH = 0.5
_MAX_RATIO_OF_A_STEP = 20.0


class MissingMass(typing.NamedTuple):
  """Two estimates of the log normalizer of the worst member of a batch.

  Fields:
    expected: Python `float`: by importance sampling from the first level.
    expected_error: Python `float`: its standard error.
    found: Python `float`: by the last steps of training.
    num_members: Python `int`: how many members of the batch miss mass.
  """

  expected: float
  expected_error: float
  found: float
  num_members: int


def find_missing_mass(
  sampler: typing.Any, history: history_lib.History, seed: tf.Tensor
) -> MissingMass | None:
  """Looks for mass of the last density that a trained sampler does not reach.

  Args:
    sampler: `NestedSampler` or `Chain`, of which only the first can be judged,
      if it starts from its first density.
    history: `History` of its training.
    seed: int32 `Tensor` of shape `[2]`.

  Returns:
    missing: `MissingMass`; `None` where none is missing, or none can be seen.
  """
  if not isinstance(sampler, NestedSampler) or not sampler.proposes_initial:
    return None
  steps = history_lib.last_log_normalizers(history)
  num_evaluations = len(history.loss) * history.num_particles
  num_draws = min(_MAX_DRAWS, int(_MAX_SHARE * num_evaluations))
  if num_draws < _MIN_EFFECTIVE_DRAWS or len(steps) < 2 or _has_trend(steps):
    return None
  draws = _draw(
    sampler,
    num_draws,
    min(
      num_draws,
      max(_MIN_CHUNK, history.num_particles * sampler.densities.num_densities),
    ),
    seed,
  )
  # Each step has an unbiased estimate of the normalizer, as a weight is one.
  trained = weighting.WeightedParticles((), tf.constant(steps))
  expected, expected_error, found, found_error = (
    x.numpy()
    for x in (
      draws.log_normalizer,
      draws.log_normalizer_error,
      trained.log_normalizer,
      trained.log_normalizer_error,
    )
  )
  gaps = expected - found
  is_missing = (
    (draws.effective_sample_size.numpy() > _MIN_EFFECTIVE_DRAWS)
    & (gaps > _NUM_ERRORS * np.hypot(expected_error, found_error))
    & (gaps > _MIN_GAP)
  )
  if not np.any(is_missing):
    return None
  worst = int(np.argmax(np.where(is_missing, gaps, -np.inf)))
  return MissingMass(
    float(np.ravel(expected)[worst]),
    float(np.ravel(expected_error)[worst]),
    float(np.ravel(found)[worst]),
    int(np.sum(is_missing)),
  )


def find_rare_mass(
  sampler: typing.Any, history: history_lib.History
) -> tuple[int, float] | None:
  """Looks for a step that has much of the mass of the last steps.

  Args:
    sampler: `NestedSampler` or `Chain`, of which only the first can be judged.
    history: `History` of its training.

  Returns:
    num_steps: Python `int`: of how many steps; or `None` if there is no such
      step, or there are too few to tell.
    share: Python `float`: what the greatest one has of the sum of their
      estimates, in the worst member of the batch.
  """
  if not isinstance(sampler, NestedSampler):
    return None
  num_steps = len(history.loss) // _STEPS_SHARE
  if num_steps < _MIN_STEPS:
    return None
  steps = history_lib.last_log_normalizers(history, num_steps)
  # A run without any weight has an estimate of zero, and is one of them.
  steps = steps[np.all(steps < np.inf, axis=tuple(range(1, steps.ndim)))]
  if len(steps) < _MIN_STEPS or _has_trend(steps):
    return None
  shares = weighting.normalize_weights(tf.constant(steps))
  share = float(np.max(shares))
  limit = max(
    _MAX_SHARE_OF_A_STEP if steps[0].size == 1 else _MAX_SHARE_IN_A_BATCH,
    _MAX_RATIO_OF_A_STEP / len(steps),
  )
  return (len(steps), share) if share > limit else None


def _has_trend(steps):
  """Whether estimates change with the steps, as where a model is learned.

  Their medians over the two halves are then further apart than half of the
  distance between the quantiles of 16% and 84%, their deviation if they are
  normal: 3.6 standard errors for 80 steps.
  """
  halves = np.array_split(steps, 2)
  # Values of -inf, of runs without weight, are below all others.
  lowest = np.finfo(steps.dtype).min / 4
  low, middle, high = np.array(
    [np.quantile(np.maximum(x, lowest), [0.16, 0.5, 0.84], 0) for x in halves]
  ).swapaxes(0, 1)
  return bool(
    np.any(np.abs(middle[1] - middle[0]) > 0.5 * np.max(high - low, axis=0))
  )


def _draw(sampler, num_draws, chunk_size, seed):
  """Draws of the first level, weighted for the last density."""
  last = sampler.densities.num_densities - 1

  def draw(seed):
    run = sampler.start(chunk_size, seed)
    particles = run.initial
    terms, _ = replace_nan(
      run.densities.evaluate(last, particles.state), run.sample_shape
    )
    log_weights = (
      particles.log_weights
      + run.densities.log_prob(last, terms)
      - run.densities.log_prob(0, particles.terms)
    )
    # Draws whose first density could not be computed have no weight.
    return tf.where(
      tf.math.is_nan(log_weights),
      tf.constant(-float('inf'), log_weights.dtype),
      log_weights,
    )

  # Compiled by TensorFlow alone, as XLA would take longer than the draws; and
  # once, so that it has no cause to warn of retracing after many trainings.
  draw = tf.function(draw, autograph=False).get_concrete_function(
    tf.TensorSpec([2], tf.int32)
  )
  seeds = randomness.split_seed(seed, -(-num_draws // chunk_size))
  return weighting.WeightedParticles(
    (), tf.concat([draw(x) for x in tf.unstack(seeds)], axis=0)
  )

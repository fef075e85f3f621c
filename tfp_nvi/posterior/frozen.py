# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs that repeat what a pilot has found, with nothing adapted.

Their normalizer estimates are unbiased.
"""

import typing
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import axes, randomness, types
from tfp_nvi.posterior import diagnosis, pilot
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import moves as moves_lib
from tfp_nvi.posterior import reference as reference_lib

__all__ = [
  'FrozenRun',
  'advance',
  'begin',
  'reweight',
  'run_frozen',
]


class FrozenRun(typing.NamedTuple):
  """The results of runs by a schedule.

  Fields:
    population: `Population` of the target.
    level_ess: `Tensor` of shape `[num_stages, num_runs]`: effective sample
      sizes before resampling, as shares.
    tail_ks: `Tensor` of shape `[num_stages]`: the Pareto k of the factors by
      which weights change at each stage, by `diagnosis.tail_k`.
    num_nan: Scalar int32 `Tensor`: log densities of the start that were NaN.
  """

  population: pilot.Population
  level_ess: tf.Tensor
  tail_ks: tf.Tensor
  num_nan: tf.Tensor


def _tail_k(log_factors):
  return tf.ensure_shape(
    tf.numpy_function(
      lambda x: np.float64(diagnosis.tail_k(x)), [log_factors], tf.float64
    ),
    [],
  )


@tf.function(autograph=False, jit_compile=True)
def _choose(chosen, found, log_sum, log_factor, seed):
  """Takes what is found with a probability in proportion to its factor."""
  log_sum = tf.reduce_logsumexp(tf.stack([log_sum, log_factor]), axis=0)
  probability = tf.where(
    tf.math.is_finite(log_sum),
    tf.exp(log_factor - log_sum),
    tf.zeros_like(log_sum),
  )
  is_taken = (
    randomness.uniform(probability.shape, seed, probability.dtype) < probability
  )
  return *axes.select(is_taken, found, chosen), log_sum


def begin(
  moves: moves_lib.Moves,
  reference: reference_lib.Reference | mixture_lib.Mixture,
  draw_fn: Callable,
  schedule: pilot.Schedule,
  num_runs: int,
  seed: types.StatelessSeed,
) -> tuple[pilot.Population, tf.Tensor, tf.Tensor]:
  """The population of runs, with the weights of the first stage.

  A particle has the mean weight of `schedule.num_draws` draws from the start,
  and is one of these, chosen in proportion to their weights: the estimates of
  importance sampling with all draws, for fewer particles to move.

  Args:
    moves: `Moves`.
    reference: `Reference`, or `Mixture` to start at.
    draw_fn: Python callable from an int32 scalar, which differs between draws,
      to a `Tensor` of shape `[num_particles * num_runs, num_values]`.
    schedule: `Schedule`.
    num_runs: Python `int`.
    seed: Stateless seed.

  Returns:
    population: `Population`.
    tail_k: Scalar float64 `Tensor`: the Pareto k of the weights of all draws.
    num_nan: Scalar int32 `Tensor`: how many log densities were NaN.
  """
  num_draws = schedule.num_draws
  population, num_nan = pilot.begin(
    moves, reference, draw_fn(tf.constant(0)), num_runs
  )
  beta = tf.constant(schedule.stages[0].beta, population.u.dtype)
  log_factor = beta * population.terms.log_ratio
  log_factors = tf.TensorArray(
    log_factor.dtype, num_draws, element_shape=log_factor.shape
  ).write(0, log_factor)

  def add(i, u, terms, log_sum, num_nan, log_factors):
    new_u = draw_fn(i)
    new_terms, new_nan = moves.evaluate(reference, new_u)
    log_factor = beta * new_terms.log_ratio
    u, terms, log_sum = _choose(
      (u, terms),
      (new_u, new_terms),
      log_sum,
      log_factor,
      randomness.fold_in(seed, i),
    )
    log_factors = log_factors.write(i, log_factor)
    return i + 1, u, terms, log_sum, num_nan + new_nan, log_factors

  _, u, terms, log_sum, num_nan, log_factors = tf.while_loop(
    lambda i, *_: i < num_draws,
    add,
    (
      tf.constant(1),
      population.u,
      population.terms,
      log_factor,
      num_nan,
      log_factors,
    ),
    parallel_iterations=1,
  )
  log_weights = tf.reshape(
    log_sum - np.log(num_draws), population.log_weights.shape
  )
  return (
    population._replace(u=u, terms=terms, log_weights=log_weights),
    _tail_k(log_factors.concat()),
    num_nan,
  )


def advance(
  moves: moves_lib.Moves,
  reference: reference_lib.Reference | mixture_lib.Mixture,
  population: pilot.Population,
  stage: pilot.Stage,
  seed: types.StatelessSeed,
) -> tuple[pilot.Population, tf.Tensor]:
  """Resamples and moves runs at an inverse temperature, with nothing adapted.

  May run in a `tf.function`, and gives the same there.

  Args:
    moves: `Moves`.
    reference: `Reference`, or `Mixture` to start at.
    population: `Population` with the weights of this stage.
    stage: `Stage`; its numbers may be scalar `Tensor`s.
    seed: Stateless seed.

  Returns:
    population: `Population`.
    share: `Tensor` of shape `[num_runs]`: effective sample sizes before
      resampling, as shares.
  """
  resample_seed, move_seed = tf.unstack(randomness.split_seed(seed, 2))
  population, share = pilot.resample(population, 0.5, resample_seed)

  def move(i, u, terms):
    u, terms, _ = moves.move(
      reference,
      u,
      terms,
      stage.beta,
      stage.step,
      stage.num_steps,
      stage.scale,
      randomness.fold_in(move_seed, i),
    )
    return i + 1, u, terms

  _, u, terms = tf.while_loop(
    lambda i, *_: i < stage.num_moves,
    move,
    (tf.constant(0), population.u, population.terms),
    parallel_iterations=1,
  )
  return population._replace(u=u, terms=terms), share


def reweight(
  population: pilot.Population, delta: float | tf.Tensor
) -> tuple[pilot.Population, tf.Tensor]:
  """Weights particles for the next inverse temperature.

  Args:
    population: `Population`.
    delta: float: by how much the inverse temperature grows.

  Returns:
    population: `Population`.
    tail_k: Scalar float64 `Tensor`: the Pareto k of the factors by which
      weights change.
  """
  tail_k = _tail_k(delta * population.terms.log_ratio)
  return pilot.reweight(population, delta), tail_k


def run_frozen(
  moves: moves_lib.Moves,
  reference: reference_lib.Reference | mixture_lib.Mixture,
  draw_fn: Callable,
  schedule: pilot.Schedule,
  num_runs: int,
  seed: types.StatelessSeed,
  progress: Callable | None = None,
) -> FrozenRun:
  """Runs SMC samplers by a schedule, several at once.

  Args:
    moves: `Moves`.
    reference: `Reference`, or `Mixture` to start at.
    draw_fn: As in `begin`.
    schedule: `Schedule`.
    num_runs: Python `int`: into how many independent runs to divide them.
    seed: Stateless seed.
    progress: Python callable from an inverse temperature, or `None`.

  Returns:
    run: `FrozenRun`.
  """
  stages = schedule.stages
  population, tail_k, num_nan = begin(
    moves,
    reference,
    draw_fn,
    schedule,
    num_runs,
    randomness.fold_in(seed, len(stages)),
  )
  level_ess: list = []
  tail_ks = [tail_k]
  for i, stage in enumerate(stages):
    if i:
      population, tail_k = reweight(population, stage.beta - stages[i - 1].beta)
      tail_ks.append(tail_k)
    population, share = advance(
      moves, reference, population, stage, randomness.fold_in(seed, i)
    )
    level_ess.append(share)
    if progress is not None:
      progress(stage.beta)
  return FrozenRun(population, tf.stack(level_ess), tf.stack(tail_ks), num_nan)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adaptive SMC samplers, which find a schedule for other runs.

A pilot chooses inverse temperatures, scales, steps and numbers of moves by
looking at its own particles, so that its normalizer estimate is biased, if
slightly. `frozen` has the runs that take all of these from its `Schedule`.
"""

import typing
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi import resampling, weighting
from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import moves as moves_lib
from tfp_nvi.posterior import reference as reference_lib

__all__ = [
  'Population',
  'Schedule',
  'Stage',
  'begin',
  'is_late',
  'is_used_up',
  'resample',
  'reweight',
  'run_pilot',
]

# The share of proposals that steps are adapted to accept.
_ACCEPTANCE = 0.75
# How long a trajectory is, in units of the particles' deviations: a quarter of
# a period of a normal density.
_LENGTH = 1.5
# The most leapfrog steps of a move, and the most moves at one inverse
# temperature. There are as many as it takes for the particles to forget where
# they were.
_MAX_STEPS = 8
_MAX_MOVES = 4
# An inverse temperature from which a pilot that starts at the initial density
# has few stages left, so that it may take twice as many evaluations.
_LAST_PART = 0.75
# Stages by which to judge how many are left, and by how much that may be wrong.
_NUM_RECENT = 8
_MARGIN = 1.5


class Stage(typing.NamedTuple):
  """The settings of a pilot at one inverse temperature.

  Fields:
    beta: Python `float`: the inverse temperature; one for the target.
    scale: `Tensor`: a square root of the particles' covariance.
    step: Python `float`: the longest leapfrog step, in units of the scale.
    num_steps: Python `int`: leapfrog steps of a move.
    num_moves: Python `int`.
    acceptance: Python `float`: of the pilot's last move.
    correlation: Python `float`: of the particles with those before the moves.
    effective_sample_size: Python `float`: before resampling, as a share.
  """

  beta: float
  scale: tf.Tensor
  step: float
  num_steps: int
  num_moves: int
  acceptance: float
  correlation: float
  effective_sample_size: float


class Schedule(typing.NamedTuple):
  """A list of `Stage`s, and whether they lead to the target.

  Fields:
    stages: List of `Stage`s.
    is_complete: Python `bool`: whether they lead to the target.
    num_draws: Python `int`: the draws from the start of which a run chooses one
      for each particle.
  """

  stages: list
  is_complete: bool
  num_draws: int = 1

  @property
  def evaluations_per_particle(self) -> int:
    """How often a run evaluates the target and its gradient."""
    num_moved = sum(x.num_moves * x.num_steps for x in self.stages)
    return self.num_draws + num_moved


class Population(typing.NamedTuple):
  """Weighted particles of one or several independent runs.

  Fields:
    u: `Tensor` of shape `[num_particles * num_runs, num_values]`, the runs
      being the axis that changes fastest.
    terms: `Terms` of these.
    log_weights: `Tensor` of shape `[num_particles, num_runs]`.
    root: int32 `Tensor` of the same shape: the ancestors at the start.
  """

  u: tf.Tensor
  terms: typing.Any
  log_weights: tf.Tensor
  root: tf.Tensor


def begin(
  moves: moves_lib.Moves,
  reference: reference_lib.Reference | mixture_lib.Mixture,
  u: tf.Tensor,
  num_runs: int,
) -> tuple[Population, tf.Tensor]:
  """The population of draws from the start.

  Args:
    moves: `Moves`.
    reference: `Reference`, or `Mixture` to start at.
    u: `Tensor` of shape `[num_particles * num_runs, num_values]`.
    num_runs: Python `int`.

  Returns:
    population: `Population`.
    num_nan: Scalar int32 `Tensor`: how many log densities were NaN.
  """
  terms, num_nan = moves.evaluate(reference, u)
  num_particles = u.shape[0] // num_runs
  root = tf.repeat(tf.range(num_particles)[:, tf.newaxis], num_runs, axis=1)
  population = Population(
    u, terms, tf.zeros([num_particles, num_runs], u.dtype), root
  )
  return population, num_nan


def reweight(population: Population, delta: float | tf.Tensor) -> Population:
  """Weights particles for another inverse temperature.

  Args:
    population: `Population`.
    delta: float: by how much the inverse temperature grows.

  Returns:
    population: `Population`.
  """
  shape = population.log_weights.shape
  # A factor of zero must leave a target of zero density what it is.
  increment = tf.reshape(delta * population.terms.log_ratio, shape)
  return population._replace(log_weights=population.log_weights + increment)


def resample(
  population: Population, threshold: float, seed: types.StatelessSeed
) -> tuple[Population, tf.Tensor]:
  """Resamples the runs whose effective sample size has fallen.

  Args:
    population: `Population`.
    threshold: Python `float`: the share below which to resample.
    seed: Stateless seed.

  Returns:
    population: `Population`.
    share: `Tensor` of shape `[num_runs]`: effective sample sizes before
      resampling, as shares.
  """
  log_weights = population.log_weights
  num_particles, num_runs = log_weights.shape
  share = weighting.effective_sample_size(log_weights) / num_particles
  where = share < threshold
  if tf.executing_eagerly() and not bool(tf.reduce_any(where)):
    return population, share
  rows = tf.repeat(tf.range(num_particles)[:, tf.newaxis], num_runs, axis=1)
  rows, log_weights = resampling.resample(
    rows, log_weights, resampling.resample_systematic, seed, where
  )
  indices = tf.reshape(rows * num_runs + tf.range(num_runs), [-1])
  u, terms, root = tf.nest.map_structure(
    lambda x: tf.gather(x, indices),
    (
      population.u,
      population.terms,
      tf.reshape(population.root, [-1]),
    ),
  )
  root = tf.reshape(root, log_weights.shape)
  return Population(u, terms, log_weights, root), share


def _conditional_ess(log_weights, log_ratio, delta):
  """Conditional effective sample size of a step, as a share."""
  first = weighting.log_normalizer(log_weights + delta * log_ratio)
  second = weighting.log_normalizer(log_weights + 2.0 * delta * log_ratio)
  return tf.exp(2.0 * first - second - weighting.log_normalizer(log_weights))


@tf.function(autograph=False, jit_compile=True)
def _find_step(log_weights, log_ratio, largest, threshold):
  """The step in inverse temperature at a conditional ESS, by bisection."""
  is_far = _conditional_ess(log_weights, log_ratio, largest) < threshold

  def body(i, low, high):
    middle = tf.sqrt(low * high)
    is_short = _conditional_ess(log_weights, log_ratio, middle) > threshold
    return (
      i + 1,
      tf.where(is_short, middle, low),
      tf.where(is_short, high, middle),
    )

  _, low, _ = tf.while_loop(
    lambda i, *_: i < 30,
    body,
    (0, largest * 1e-7, largest),
    maximum_iterations=30,
  )
  return tf.where(is_far, low, largest)


def _flat_weights(population):
  weights = weighting.normalize_weights(
    tf.reshape(population.log_weights, [-1])
  )
  return weights.numpy().astype(np.float64)


def _residuals(reference, u):
  """Points, less the centers of their components where there are some."""
  if not isinstance(reference, mixture_lib.Mixture):
    return u
  return u - mixture_lib.nearest_center(reference, u)


def _num_steps(step, max_steps):
  return int(np.clip(np.ceil(_LENGTH / step), 1, max_steps))


class _AdaptiveMover:
  """Moves particles until they forget where they were, and adapts steps.

  Args:
    moves: `Moves`.
    reference: `Reference`, or `Mixture` that the path starts at.
    size: Python `int`: the length of a vector.
    has_modes: As in `run_pilot`.
  """

  def __init__(self, moves, reference, size, has_modes):
    self._moves = moves
    self._reference = reference
    self._has_modes = has_modes
    self._step = 1.2 * size**-0.25
    # The most leapfrog steps of a move.
    self._longest = _MAX_STEPS

  def move(self, population, beta, scale, seed):
    """Moves particles at one inverse temperature.

    Args:
      population: `Population`.
      beta: Python `float`.
      scale: As in `Stage`.
      seed: Stateless seed.

    Returns:
      population: `Population`.
      stage: `Stage`, without an effective sample size.
    """
    before = population.u.numpy()
    num_moves, num_adapting, correlation = 0, 0, 1.0
    step, num_steps = self._step, _num_steps(self._step, self._longest)
    is_stuck = False
    while True:
      u, terms, acceptance = self._moves.move(
        self._reference,
        population.u,
        population.terms,
        beta,
        step,
        num_steps,
        scale,
        randomness.fold_in(seed, num_moves + num_adapting),
      )
      self._moves.count(num_steps * len(before))
      acceptance = float(acceptance)
      population = population._replace(u=u, terms=terms)
      factor = np.exp(np.clip(1.5 * (acceptance - _ACCEPTANCE), -1.0, 0.3))
      # Longer than a trajectory makes no sense.
      self._step = min(step * factor, _LENGTH)
      if acceptance < 0.4 and num_adapting < 6:
        # A move that hardly moves counts for nothing but the step.
        num_adapting += 1
        step, num_steps = self._step, _num_steps(self._step, self._longest)
        continue
      num_moves += 1
      previous = correlation
      correlation = _correlation(before, population.u.numpy())
      if num_moves == _MAX_MOVES or correlation < 0.3:
        break
      # Further moves would not lower the correlation.
      is_stuck = (
        self._has_modes and num_moves > 1 and correlation > 0.85 * previous
      )
      if is_stuck:
        break
      step, num_steps = self._step, _num_steps(self._step, self._longest)
    # Trajectories need not be as long as the particles are spread where these
    # are in separate places, and steps are short for that reason.
    if is_stuck:
      self._longest = max(2, self._longest // 2)
    elif correlation > 0.3:
      self._longest = min(_MAX_STEPS, 2 * self._longest)
    return population, Stage(
      beta, scale, step, num_steps, num_moves, acceptance, correlation, np.nan
    )


def is_used_up(
  stages: list, num_evaluations: int, max_evaluations: float
) -> bool:
  """Whether a pilot has had all the gradients that it may have.

  Args:
    stages: List of `Stage`s so far.
    num_evaluations: Python `int`: gradients so far.
    max_evaluations: Python `float`: gradients after which to give up.

  Returns:
    is_used_up: Python `bool`.
  """
  del stages
  return num_evaluations > max_evaluations


def is_late(stages: list, num_evaluations: int, max_evaluations: int) -> bool:
  """Whether a pilot from the initial density is to give up.

  Args:
    stages: List of `Stage`s so far.
    num_evaluations: Python `int`: gradients so far.
    max_evaluations: Python `float`: gradients after which to give up where the
      target is not near, or half as many where it will not be.

  Returns:
    is_late: Python `bool`.
  """
  if stages[-1].beta > _LAST_PART:
    return num_evaluations > 2 * max_evaluations
  if num_evaluations > max_evaluations:
    return True
  if 2 * num_evaluations < max_evaluations or len(stages) <= _NUM_RECENT:
    return False
  # By relative steps in inverse temperature as long as the last ones. These may
  # yet get longer, so that there is to be a margin.
  recent = np.log(stages[-1].beta / stages[-1 - _NUM_RECENT].beta)
  num_left = np.log(_LAST_PART / stages[-1].beta) * _NUM_RECENT / recent
  expected = num_evaluations * (1.0 + num_left / len(stages))
  return expected > _MARGIN * max_evaluations


def run_pilot(
  moves: moves_lib.Moves,
  reference: reference_lib.Reference | mixture_lib.Mixture,
  u: tf.Tensor,
  seed: types.StatelessSeed,
  conditional_ess: float = 0.9,
  max_evaluations: int | None = None,
  gives_up_fn: Callable = is_used_up,
  has_modes: bool = False,
  progress: Callable | None = None,
) -> tuple[Schedule, Population]:
  """Runs an SMC sampler that adapts itself.

  Args:
    moves: `Moves`.
    reference: `Reference`, or `Mixture` to start at.
    u: `Tensor` of shape `[num_particles, num_values]`: draws from the start.
    seed: Stateless seed.
    conditional_ess: Python `float`: inverse temperatures are chosen so that the
      conditional effective sample size of a step is this share.
    max_evaluations: Python `int`: gradients after which to give up, or `None`.
    gives_up_fn: Python callable from the stages so far, the number of
      gradients and `max_evaluations` to whether to give up.
      Default value: `is_used_up`.
    has_modes: Python `bool`: whether there are modes that moves do not lead
      between, so that to go on moving is in vain where particles do not forget
      where they were.
    progress: Python callable from an inverse temperature, or `None`.

  Returns:
    schedule: `Schedule`.
    population: `Population` of the last inverse temperature reached.
  """
  num_particles, size = u.shape
  first_evaluation = moves.num_evaluations
  population, num_nan = begin(moves, reference, u, 1)
  moves.count(num_particles, num_nan)
  is_full = size <= reference_lib.MAX_FULL
  mover = _AdaptiveMover(moves, reference, size, has_modes)
  stages: list = []
  beta = 0.0
  while beta < 1.0:
    stage_seed = randomness.fold_in(seed, len(stages))
    resample_seed, move_seed = tf.unstack(randomness.split_seed(stage_seed, 2))
    delta = float(
      _find_step(
        population.log_weights[:, 0],
        population.terms.log_ratio,
        tf.constant(1.0 - beta, u.dtype),
        tf.constant(conditional_ess, u.dtype),
      )
    )
    new_beta = 1.0 if beta + delta > 1.0 - 1e-6 else beta + delta
    population = reweight(population, new_beta - beta)
    beta = new_beta
    weights = _flat_weights(population)
    if not np.isfinite(weights).all() or weights.sum() == 0.0:
      return Schedule(stages, False), population
    _, root = reference_lib.square_root(
      _residuals(reference, population.u).numpy(), weights, is_full
    )
    scale = tf.constant(root.astype(u.dtype.as_numpy_dtype))
    population, share = resample(population, 0.5, resample_seed)
    population, stage = mover.move(population, beta, scale, move_seed)
    stages.append(stage._replace(effective_sample_size=float(share[0])))
    if progress is not None:
      progress(beta)
    used = moves.num_evaluations - first_evaluation
    if beta < 1.0 and gives_up_fn(stages, used, max_evaluations or np.inf):
      return Schedule(stages, False), population
  return Schedule(stages, True), population


def _correlation(before, after):
  """Mean over coordinates of the correlation of particles before and after."""
  # Draws of the start without weight may be infinite.
  kept = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
  before, after = before[kept], after[kept]
  before = before - before.mean(axis=0)
  after = after - after.mean(axis=0)
  covariance = np.mean(before * after, axis=0)
  deviations = before.std(axis=0) * after.std(axis=0)
  return float(np.mean(covariance / np.maximum(deviations, 1e-30)))

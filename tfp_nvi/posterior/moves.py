# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hamiltonian moves along a path from a start to a target.

The path is `gamma_beta(u) = start(u)^(1 - beta) target(u)^beta` in coordinates
`u` in which a reference is standard normal. Both log densities and their
gradients are kept with each particle: they serve every `beta`. The functions
are compiled once, and take inverse temperatures, steps and scales as
`Tensor`s.
"""

import typing

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import axes, randomness, reductions, types
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'Moves',
  'Terms',
]

# A particle's step is the given one times 2^(-_STEP_OCTAVES w^4), w uniform:
# most steps are near the given one, a few are short enough for narrow places.
_STEP_OCTAVES = 4.0


class Terms(typing.NamedTuple):
  """Log densities of particles and their gradients.

  Fields:
    log_target: `Tensor` of shape `[num_particles]`; `-inf` for NaN.
    log_start: Likewise.
    target_gradient: `Tensor` of shape `[num_particles, num_values]`.
    start_gradient: Likewise.
  """

  log_target: tf.Tensor
  log_start: tf.Tensor
  target_gradient: tf.Tensor
  start_gradient: tf.Tensor

  @property
  def log_ratio(self) -> tf.Tensor:
    """Log of target over start; `-inf` where the target is zero."""
    is_zero = tf.equal(self.log_target, -float('inf')) | tf.equal(
      self.log_start, -float('inf')
    )
    return tf.where(
      is_zero,
      tf.constant(-float('inf'), self.log_target.dtype),
      self.log_target - self.log_start,
    )


def _clean_log(x):
  """A log density that is NaN or infinite counts as zero density."""
  return tf.where(tf.math.is_finite(x), x, tf.constant(-float('inf'), x.dtype))


def _clean(x):
  return tf.where(tf.math.is_finite(x), x, tf.zeros_like(x))


@tf.function(autograph=False, jit_compile=True)
def _begin(shape_like, step, seed):
  momentum_seed, step_seed = tf.unstack(randomness.split_seed(seed, 2))
  dtype = shape_like.dtype
  momentum = randomness.normal(shape_like.shape, momentum_seed, dtype)
  uniform = randomness.uniform([shape_like.shape[0], 1], step_seed, dtype)
  return momentum, step * 2.0 ** (-_STEP_OCTAVES * uniform**4)


@tf.function(autograph=False, jit_compile=True)
def _accept(old, new, beta, seed):
  (old_u, old_momentum, old_terms), (new_u, new_momentum, new_terms) = (
    old,
    new,
  )

  def log_joint(terms, momentum):
    return (
      terms.log_start
      + beta * terms.log_ratio
      - 0.5 * tf.reduce_sum(momentum**2, axis=-1)
    )

  log_ratio = log_joint(new_terms, new_momentum) - log_joint(
    old_terms, old_momentum
  )
  probability = tf.where(
    tf.math.is_nan(log_ratio),
    tf.zeros_like(log_ratio),
    tf.exp(tf.minimum(log_ratio, 0.0)),
  )
  uniform = randomness.uniform(probability.shape, seed, probability.dtype)
  u, terms = axes.select(
    uniform < probability, (new_u, new_terms), (old_u, old_terms)
  )
  return u, terms, tf.reduce_mean(probability)


class Moves:
  """Evaluates and moves particles; counts the evaluations of the target.

  Args:
    space: `VectorSpace`.
    starts_at_initial: Python `bool`: whether the path starts at the initial
      density, and not at the reference.
    jit_compile: Python `bool`.

  Attributes:
    num_evaluations: Python `int`: how many particles the target and its
      gradient were evaluated at, as `count` was told.
    num_nan: Python `int`: how many of the kept log densities were NaN, as
      `count` was told.
  """

  def __init__(
    self,
    space: space_lib.VectorSpace,
    starts_at_initial: bool,
    jit_compile: bool = True,
  ):
    self.space = space
    self.starts_at_initial = starts_at_initial
    self.num_evaluations = 0
    self.num_nan = 0
    compiled = tf.function(
      autograph=False, jit_compile=jit_compile, reduce_retracing=False
    )
    self._leapfrog = compiled(self._leapfrog_fn)

  def _evaluate_fn(self, reference, u):
    with tf.GradientTape(
      persistent=True, watch_accessed_variables=False
    ) as tape:
      tape.watch(u)
      y, log_det = reference_lib.forward(reference, u)
      log_target, log_start = self.space.log_probs(y, self.starts_at_initial)
      log_target = log_target + log_det
      if self.starts_at_initial:
        log_start = log_start + log_det
      is_mixture = isinstance(reference, mixture_lib.Mixture)
      if is_mixture:
        log_start = mixture_lib.log_prob(reference, u)
    target_gradient = tape.gradient(
      log_target, u, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    if self.starts_at_initial or is_mixture:
      start_gradient = _clean(
        tape.gradient(
          log_start, u, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
      )
      log_start = _clean_log(log_start)
    else:
      log_start = -0.5 * tf.reduce_sum(u**2 + np.log(2.0 * np.pi), axis=-1)
      start_gradient = -u
    num_nan = reductions.count_true(tf.math.is_nan(log_target))
    return (
      Terms(
        _clean_log(log_target),
        log_start,
        _clean(target_gradient),
        start_gradient,
      ),
      num_nan,
    )

  def _leapfrog_fn(self, reference, u, momentum, terms, beta, steps, scale):
    half = 0.5 * steps
    momentum = momentum + half * _apply_transpose(
      scale, _path_gradient(terms, beta)
    )
    u = u + steps * _apply(scale, momentum)
    terms, num_nan = self._evaluate_fn(reference, u)
    momentum = momentum + half * _apply_transpose(
      scale, _path_gradient(terms, beta)
    )
    return u, momentum, terms, num_nan

  def count(self, num_evaluations: int, num_nan: int | tf.Tensor = 0) -> None:
    """Counts evaluations, which calls that are traced cannot.

    Args:
      num_evaluations: Python `int`.
      num_nan: int: how many of the kept log densities were NaN.
        Default value: `0`.
    """
    self.num_evaluations += num_evaluations
    self.num_nan += int(num_nan)

  def evaluate(
    self,
    reference: reference_lib.Reference | mixture_lib.Mixture,
    u: tf.Tensor,
  ) -> tuple[Terms, tf.Tensor]:
    """Evaluates particles.

    Args:
      reference: `Reference`, or `Mixture` to start at.
      u: `Tensor` of shape `[num_particles, num_values]`.

    Returns:
      terms: `Terms`.
      num_nan: Scalar int32 `Tensor`: how many log densities were NaN.
    """
    zeros, zero = tf.zeros_like(u), tf.zeros(u.shape[:1], u.dtype)
    # A step of length zero, for one compiled function instead of two.
    size = u.shape[1]
    is_full = size <= reference_lib.MAX_FULL
    scale = tf.zeros([size, size] if is_full else [size], u.dtype)
    terms = Terms(zero, zero, zeros, zeros)
    *_, terms, num_nan = self._leapfrog(
      reference, u, zeros, terms, zero[0], zero[:, tf.newaxis], scale
    )
    return terms, num_nan

  def move(
    self,
    reference: reference_lib.Reference | mixture_lib.Mixture,
    u: tf.Tensor,
    terms: Terms,
    beta: float | tf.Tensor,
    step: float | tf.Tensor,
    num_steps: int | tf.Tensor,
    scale: tf.Tensor,
    seed: types.StatelessSeed,
  ) -> tuple[tf.Tensor, Terms, tf.Tensor]:
    """Moves particles by a trajectory that leaves a density invariant.

    Args:
      reference: `Reference`, or `Mixture` to start at.
      u: `Tensor` of shape `[num_particles, num_values]`.
      terms: `Terms` of the particles.
      beta: float: the inverse temperature.
      step: float: the longest step, in units of `scale`.
      num_steps: int: leapfrog steps.
      scale: `Tensor` of shape `[num_values]`, or `[num_values, num_values]`: a
        square root of a covariance that moves are to have.
      seed: Stateless seed.

    Returns:
      u: The particles moved.
      terms: Their `Terms`.
      acceptance: Scalar `Tensor`: the mean acceptance probability.
    """
    begin_seed, accept_seed = tf.unstack(randomness.split_seed(seed, 2))
    beta, step = (tf.convert_to_tensor(x, u.dtype) for x in (beta, step))
    momentum, steps = _begin(u, step, begin_seed)

    def leapfrog(i, *state):
      *state, _ = self._leapfrog(reference, *state, beta, steps, scale)
      return i + 1, *state

    _, *new = tf.while_loop(
      lambda i, *_: i < num_steps,
      leapfrog,
      (tf.constant(0), u, momentum, terms),
      parallel_iterations=1,
    )
    return _accept((u, momentum, terms), tuple(new), beta, accept_seed)


def _path_gradient(terms, beta):
  # Written so that a target of zero weight adds nothing, not even its zeros.
  return (1.0 - beta) * terms.start_gradient + beta * terms.target_gradient


def _apply(scale, x):
  """Products of the scale and vectors."""
  return (
    x * scale
    if scale.shape.rank == 1
    else tf.matmul(x, scale, transpose_b=True)
  )


def _apply_transpose(scale, x):
  return x * scale if scale.shape.rank == 1 else tf.matmul(x, scale)

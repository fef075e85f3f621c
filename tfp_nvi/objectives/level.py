# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The f-divergence of one level, and its gradient.

Write `l = log(pi-check_k / pi-hat_k)`, with `pi-hat_k` the density that level
`k` proposes from and `pi-check_k` the one it is weighted for, and
`g(l) = f(exp(l))`. The gradient of `D_f = E_pi-hat[g(l)]` is estimated by

```none
E_pi-hat[ g'(l) d log pi-check ]             parameters of the reverse side
E_pi-hat[ (g(l) - g'(l)) d log pi-hat ]      of the forward side, by score
E_pi-hat[ (g'(l) - g''(l)) dl/dz dz/dphi ]   of the forward kernel, by its path
```

with `d log pi = d log gamma - E_pi[d log gamma]`, where expectations are those
of the particles under the weights that the level received (`pi-hat_k`) or
handed on (`pi_k`). The gradient at a level passes through that level alone: the
particles and weights that it received are constants there.

Two control variates have expectation zero. The score of `pi-hat` does under
`pi-hat`: the weighted mean of `g - g'` is subtracted from its factor. The score
of the reverse kernel given `z_k` does under `pi-check`: a multiple of `exp(l)`
is subtracted from its factor `g'(l)`, with the coefficient that makes the
factors smallest, so that a single particle that has all the weight has no
gradient. Without this control variate such a particle drives the reverse
kernel, and then the weights of the next step, to extremes. Means and
coefficients are estimated from the particles themselves, which biases the
gradient by the order of one over their number.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi import weighting
from tfp_nvi.objectives.base import Side

__all__ = [
  'LevelEstimate',
  'LevelTerms',
  'derivatives',
  'estimate_level',
  'mean_of_others',
]

# The log ratio that stands for that of a particle proposed where the target is
# zero. The reverse KL divergence is infinite there; with this it is finite.
# Score gradients of it are exact. Gradients through samples are approximate
# where there are zeros, as they miss the flow of particles across their edge.
ZERO_DENSITY_LOG_RATIO = -20.0
# A log incremental weight below this stands for zero. Where the density is a
# penalty, other log densities are added to it, of smaller magnitude: half of a
# penalty tells such weights from all others.
_ZERO_LOG_WEIGHT = 0.5 * densities_lib.ZERO_LOG_DENSITY


class LevelTerms(NamedTuple):
  """The log densities of a level, as its divergence needs them.

  Log densities have shape `[num_particles] + batch`.

  Fields:
    move: `Move` that was made.
    log_target: `log gamma_k` at the proposed state.
    log_target_fixed_state: The same, the state held fixed.
    log_source: `log gamma_{k-1}` at the previous state.
    log_weights: Log weights that the level received.
    sample_gradients_fn: Python callable that returns the gradients of the log
      incremental weights by the reparameterized samples.
    has_normalized_reverse: Python `bool`: whether the reverse kernel is
      normalized, so that its score has expectation zero.
    is_normalized: Python `bool`: whether both sides of the level are
      normalized, and particles come without weights.
  """

  move: Any
  log_target: tf.Tensor
  log_target_fixed_state: tf.Tensor
  log_source: tf.Tensor
  log_weights: tf.Tensor
  sample_gradients_fn: Any
  has_normalized_reverse: bool = True
  is_normalized: bool = False


class LevelEstimate(NamedTuple):
  """The divergence of a level.

  Fields:
    surrogate: Scalar float `Tensor` whose gradient is that of the divergence.
      Its value means nothing; the objective differentiates it.
    loss: float `Tensor` of shape `batch`.
    log_incremental_weight: float `Tensor` of shape `batch`: the mean.
    effective_sample_size: float `Tensor` of shape `batch`.
    num_nan: Scalar int32 `Tensor`: gradients of the density that were not
      finite, and were taken to be zero.
  """

  surrogate: tf.Tensor
  loss: tf.Tensor
  log_incremental_weight: tf.Tensor
  effective_sample_size: tf.Tensor
  num_nan: Any = 0


def derivatives(
  csiszar_function: Callable, log_ratio: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
  """The Csiszar function and its first two derivatives in `log u`.

  Args:
    csiszar_function: Python callable from `log u` to `f(u)`.
    log_ratio: float `Tensor`: `log u`.

  Returns:
    g: float `Tensor` of the same shape.
    g1: The first derivative.
    g2: The second derivative, or `None` where it is zero, as for the reverse KL
      divergence.
  """
  with tf.GradientTape() as outer:
    outer.watch(log_ratio)
    with tf.GradientTape() as inner:
      inner.watch(log_ratio)
      g = csiszar_function(log_ratio)
    g1 = inner.gradient(g, log_ratio)
  return g, g1, outer.gradient(g1, log_ratio)


def _no_nan(weights, values):
  """Products of weights and values, zero wherever the weight is."""
  return tf.math.multiply_no_nan(values, weights)


class _Factors(NamedTuple):
  """Factors of the log densities of a level, for each particle.

  Fields:
    is_zero: Whether the target is zero at the proposed state.
    before: `W_{k-1}`, which estimate expectations under `pi-hat_k`.
    after: `W_k`, which estimate expectations under `pi-check_k`.
    g: The Csiszar function of the log ratio.
    second: Its second derivative times `before`, or `None` where it is zero.
    reverse_factor: Its derivative `g'`, times `before`.
    forward_factor: `g - g'`, times `before`.
    score_factor: `g` without its mean, times `before`.
  """

  is_zero: tf.Tensor
  before: tf.Tensor
  after: tf.Tensor
  g: tf.Tensor
  second: Any
  reverse_factor: tf.Tensor
  forward_factor: tf.Tensor
  score_factor: tf.Tensor


def _make_factors(
  terms, log_incremental_weights, csiszar_function, weighted, baseline
):
  """Computes the `_Factors` of a level."""
  log_weights = terms.log_weights
  if not weighted:
    # Particles where the previous density is zero keep weight zero.
    zero = tf.zeros_like(log_weights)
    log_weights = tf.where(
      tf.math.is_finite(terms.log_source), zero, log_weights
    )
  before = weighting.normalize_weights(log_weights)
  is_zero = log_incremental_weights < _ZERO_LOG_WEIGHT
  if terms.is_normalized:
    log_normalizer_ratio = tf.zeros_like(before[0])
  else:
    log_normalizer_ratio = weighting.weighted_log_mean_exp(
      before, log_incremental_weights
    )
  log_normalizer_ratio = tf.where(
    tf.equal(log_normalizer_ratio, -float('inf')),
    tf.zeros_like(log_normalizer_ratio),
    log_normalizer_ratio,
  )
  log_ratio = tf.where(
    is_zero,
    tf.constant(ZERO_DENSITY_LOG_RATIO, before.dtype),
    log_incremental_weights - log_normalizer_ratio,
  )
  # A particle that comes without weight counts for nothing; one that loses
  # all of its weight here has a large but finite divergence.
  log_ratio = tf.where(before > 0.0, log_ratio, tf.zeros_like(log_ratio))
  g, g1, g2 = derivatives(csiszar_function, log_ratio)
  # Where the target is zero nothing can be differentiated by the state.
  reverse = _no_nan(before, tf.where(is_zero, tf.zeros_like(g1), g1))
  forward = _no_nan(before, g) - reverse
  if not baseline:
    center = tf.zeros_like(before[0])
  elif terms.is_normalized:
    center = mean_of_others(g - g1)
  else:
    center = weighting.total(forward)
  return _Factors(
    is_zero=is_zero,
    before=before,
    after=before
    * tf.where(is_zero, tf.zeros_like(log_ratio), tf.exp(log_ratio)),
    g=g,
    second=None
    if g2 is None
    else _no_nan(before, tf.where(is_zero, tf.zeros_like(g2), g2)),
    reverse_factor=reverse,
    forward_factor=forward,
    score_factor=_no_nan(before, g - center),
  )


def _forward_surrogate(terms, factors, has_reverse_side):
  """A scalar for each particle, with the gradient of the forward side."""
  move = terms.move
  path = (
    terms.log_target
    + move.log_reverse
    - move.log_forward
    + move.log_forward_fixed_sample
  )
  if not has_reverse_side:
    path -= terms.log_target_fixed_state + move.log_reverse_fixed_states
  source_factor = factors.forward_factor - factors.before * weighting.total(
    factors.forward_factor
  )
  surrogate = (
    _no_nan(factors.reverse_factor, path)
    + factors.score_factor * move.log_forward_not_reparameterized
    + source_factor * terms.log_source
  )
  if move.samples:
    # By its score, as there is no path back to where the target is positive.
    surrogate += (
      tf.where(
        factors.is_zero,
        factors.score_factor,
        tf.zeros_like(factors.score_factor),
      )
      * move.log_forward_fixed_sample
    )
    if factors.second is not None:
      surrogate -= _pathwise_correction(
        factors.second, move.samples, terms.sample_gradients_fn()
      )
  return surrogate


def _normalizer_surrogate(terms, factors, has_control_variate):
  """The part that the reverse side subtracts: expectations under `pi_k`."""
  after = factors.after
  # The normalizer of pi_k changes with its parameters.
  surrogate = (
    weighting.total(factors.reverse_factor)
    * after
    * terms.log_target_fixed_state
  )
  log_reverse = terms.move.log_reverse_fixed_states
  if (
    has_control_variate
    and terms.has_normalized_reverse
    # A single particle would have no gradient at all.
    and after.shape[0] > 1
    and tf.is_tensor(log_reverse)
  ):
    coefficient = tf.math.divide_no_nan(
      weighting.total(factors.reverse_factor * after), weighting.total(after**2)
    )
    surrogate += _no_nan(coefficient * after, log_reverse)
  return surrogate


def estimate_level(
  terms: LevelTerms,
  csiszar_function: Callable,
  sides: Side,
  weighted: bool = True,
  baseline: bool = True,
) -> LevelEstimate:
  """The divergence of a level, by the formulas of this module.

  Args:
    terms: `LevelTerms`.
    csiszar_function: Python callable from `log u` to `f(u)`.
    sides: `Side`: which parameters have a gradient.
    weighted: As of `NestedDivergence`.
      Default value: `True`.
    baseline: As of `NestedDivergence`.
      Default value: `True`.

  Returns:
    level: `LevelEstimate`.
  """
  move = terms.move
  log_incremental_weights = tf.stop_gradient(
    terms.log_target + move.log_reverse - terms.log_source - move.log_forward
  )
  factors = _make_factors(
    terms, log_incremental_weights, csiszar_function, weighted, baseline
  )
  if Side.FORWARD in sides:
    surrogate = _forward_surrogate(terms, factors, Side.REVERSE in sides)
  else:
    surrogate = _no_nan(
      factors.reverse_factor,
      terms.log_target_fixed_state + move.log_reverse_fixed_states,
    )
  if Side.REVERSE in sides and not terms.is_normalized:
    # Without weights the particles do not stand for pi-check.
    surrogate -= _normalizer_surrogate(terms, factors, baseline and weighted)
  return LevelEstimate(
    surrogate=tf.reduce_sum(surrogate),
    loss=weighting.weighted_mean(factors.before, factors.g),
    log_incremental_weight=weighting.weighted_mean(
      factors.before, log_incremental_weights
    ),
    effective_sample_size=tf.math.divide_no_nan(
      weighting.total(factors.after) ** 2, weighting.total(factors.after**2)
    ),
  )


def mean_of_others(values: tf.Tensor) -> tf.Tensor:
  """For each particle, the mean over the others; zero if there are none.

  Args:
    values: `Tensor` of shape `[num_particles] + batch`.

  Returns:
    means: `Tensor` of the same shape.
  """
  num_particles = values.shape[0]
  if num_particles == 1:
    return tf.zeros_like(values)
  return (weighting.total(values) - values) / (num_particles - 1)


def _pathwise_correction(weights, samples, gradients):
  """Sum of weights times fixed gradients times samples."""
  total = tf.zeros_like(weights)
  for sample, gradient in zip(
    tf.nest.flatten(samples), tf.nest.flatten(gradients), strict=True
  ):
    if gradient is not None:
      product = tf.stop_gradient(gradient) * sample
      axes = list(range(weights.shape.rank, product.shape.rank))
      total += _no_nan(weights, tf.reduce_sum(product, axis=axes))
  return total

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Objectives of chains, whose levels train the variables that they name."""

from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import weighting
from tfp_nvi.chains import Chain
from tfp_nvi.internal import randomness, reductions
from tfp_nvi.objectives import base

__all__ = [
  'estimate_chain',
]


def estimate_chain(
  chain: Chain,
  num_particles: int,
  seed: tf.Tensor,
  level_fn: Callable,
  is_partial: bool = False,
) -> tuple[base.Estimate, list[tuple[tf.Tensor, tf.Variable]]]:
  """Estimates an objective over levels with variables of their own.

  Each level trains the variables in its `trainables`.

  Args:
    chain: `Chain`.
    num_particles: Python `int`.
    seed: Stateless seed.
    level_fn: Python callable from a `Level`, `num_particles` and a seed to
      its surrogate, a scalar, or a pair for an `ImplicitLevel`; its loss and
      mean log incremental weight, of shape `batch`; and its log incremental
      weights, of shape `[num_particles] + batch`.
    is_partial: Python `bool`: whether some of what levels train may have no
      gradient.
      Default value: `False`.

  Returns:
    estimate: `Estimate`.
    gradients: List of pairs of a gradient and its variable.
  """
  with tf.GradientTape(persistent=True) as tape:
    levels = chain.levels()
    seeds = tf.unstack(randomness.split_seed(seed, len(levels)))
    parts: list = [
      None
      if level.jit_compile
      else _level_summary(level, num_particles, level_seed, level_fn)
      for level, level_seed in zip(levels, seeds, strict=True)
    ]
  compiled = [i for i, level in enumerate(levels) if level.jit_compile]
  if compiled:
    estimates = _compiled_levels(
      [levels[i] for i in compiled],
      num_particles,
      [seeds[i] for i in compiled],
      level_fn,
      is_partial,
    )
    for i, estimate in zip(compiled, estimates, strict=True):
      parts[i] = estimate
  pairs, summaries = [], []
  for level, (first, summary) in zip(levels, parts, strict=True):
    if not level.jit_compile:
      first = level.gradients(tape, first, is_partial)
    pairs += first
    summaries.append(summary)
  losses, log_normalizers, sizes, increments, counts = zip(
    *summaries, strict=True
  )
  losses, log_normalizers, sizes, increments = map(
    tf.stack, (losses, log_normalizers, sizes, increments)
  )
  estimate = base.Estimate(
    loss=tf.reduce_sum(losses),
    log_normalizer=tf.reduce_sum(log_normalizers),
    effective_sample_size=tf.reduce_mean(sizes),
    log_incremental_weights=increments,
    level_effective_sample_sizes=sizes,
    num_nan=tf.add_n(counts),
  )
  return estimate, _sum_by_variable(pairs)


def _level_summary(level, num_particles, seed, level_fn):
  """The surrogate of a level, and a summary of it.

  Args:
    level: `Level`.
    num_particles: Python `int`.
    seed: Stateless seed.
    level_fn: As of `estimate_chain`.

  Returns:
    surrogate: Scalar `Tensor`.
    summary: Tuple of scalar `Tensor`s over the batch: sums of the loss and of
      the log normalizer, the mean of the effective sample size, the sum of the
      log incremental weight, and the number of NaN log weights.
  """
  surrogate, loss, increment, log_weights = level_fn(level, num_particles, seed)
  return surrogate, (
    tf.reduce_sum(loss),
    tf.reduce_sum(weighting.log_normalizer(log_weights)),
    tf.reduce_mean(weighting.effective_sample_size(log_weights)),
    tf.reduce_sum(increment),
    reductions.count_true(tf.math.is_nan(log_weights)),
  )


def _compiled_levels(levels, num_particles, seeds, level_fn, is_partial):
  """Gradients and values of levels, compiled together.

  Args:
    levels: List of `Level`s.
    num_particles: Python `int`.
    seeds: List of stateless seeds.
    level_fn: As of `estimate_chain`.
    is_partial: As of `estimate_chain`.

  Returns:
    parts: List of tuples: for each level, pairs of a gradient and its variable,
      and the summary of `_level_summary`.
  """
  variables = []

  def estimate(seeds):
    # Traced once more where a network makes its variables.
    variables.clear()
    gradients, summaries = [], []
    for level, seed in zip(levels, tf.unstack(seeds), strict=True):
      # Persistent, as an implicit level differentiates twice.
      with tf.GradientTape(persistent=True) as tape:
        surrogate, summary = _level_summary(
          level, num_particles, seed, level_fn
        )
      pairs = level.gradients(tape, surrogate, is_partial)
      variables.append([variable for _, variable in pairs])
      gradients.append([gradient for gradient, _ in pairs])
      summaries.append(summary)
    return gradients, summaries

  gradients, summaries = tf.function(
    estimate, jit_compile=True, autograph=False
  )(tf.stack(seeds))
  return [
    (list(zip(values, names, strict=True)), summary)
    for names, values, summary in zip(
      variables, gradients, summaries, strict=True
    )
  ]


def _sum_by_variable(pairs):
  """Adds the gradients that several levels have for the same variable."""
  gradients, variables = {}, {}
  for gradient, variable in pairs:
    key = variable.ref()
    variables[key] = variable
    gradients.setdefault(key, []).append(gradient)
  return [(tf.add_n(gradients[key]), variables[key]) for key in variables]

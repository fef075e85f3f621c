# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The evidence of posteriors by variational inference of TFP, for comparison.

A surrogate posterior is fitted with half of the evaluations, with the defaults
of `build_affine_surrogate_posterior`, and importance sampling from it has the
other half. TFP's sequential Monte Carlo is no peer here: the log marginal
likelihood that version 0.25 returns is that of the last stage.
"""

import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_nvi import weighting

__all__ = [
  'OPERATORS',
  'measure_surrogate',
]

# Operators of the surrogate posterior, by the name in the table.
OPERATORS = {'mean field': 'diag', 'full rank': 'tril'}
# Draws of a step, as in the tutorials of TFP.
_SAMPLE_SIZE = 16
# Draws of importance sampling at a time.
_NUM_DRAWS = 10_000


def _describe(known):
  """Log density, event shape and bijector of a target."""
  if known.initial is None:
    target = known.target
    return (
      target.unnormalized_log_prob,
      target.event_shape,
      target.experimental_default_event_space_bijector(),
    )
  return known.target, known.initial.event_shape, None


def measure_surrogate(known, name: str, num_evaluations: int, seed: int):
  """Estimates the evidence of one target.

  Args:
    known: `KnownPosterior`.
    name: Python `str`: one of `OPERATORS`.
    num_evaluations: Python `int`: how often to evaluate the target.
    seed: Python `int`.

  Returns:
    row: Python `dict`.
  """
  start = time.process_time()
  log_prob_fn, event_shape, bijector = _describe(known)
  surrogate = tfp.experimental.vi.build_affine_surrogate_posterior(
    event_shape, operators=OPERATORS[name], bijector=bijector
  )
  num_steps = num_evaluations // (2 * _SAMPLE_SIZE)
  rate = tf_keras.optimizers.schedules.ExponentialDecay(0.05, num_steps, 0.02)
  tfp.vi.fit_surrogate_posterior(
    log_prob_fn,
    surrogate,
    tf_keras.optimizers.Adam(rate),
    num_steps,
    sample_size=_SAMPLE_SIZE,
    jit_compile=True,
    seed=seed,
  )

  @tf.function(autograph=False, jit_compile=True)
  def draw(seed):
    x, log_density = surrogate.experimental_sample_and_log_prob(
      _NUM_DRAWS, seed=seed
    )
    log_weights = log_prob_fn(x) - log_density
    is_known = tf.math.is_finite(log_weights)
    return tf.where(is_known, log_weights, -np.inf)

  num_pieces = max(1, num_evaluations // (2 * _NUM_DRAWS))
  log_weights = tf.concat(
    [draw(tf.constant([seed, i])) for i in range(num_pieces)], axis=0
  )
  log_evidence = float(weighting.log_normalizer(log_weights))
  return {
    'method': name,
    'target': known.name,
    'seed': seed,
    'log_evidence': log_evidence,
    'error': log_evidence - known.log_evidence,
    'num_evaluations': num_steps * _SAMPLE_SIZE + len(log_weights),
    'processor_seconds': time.process_time() - start,
  }

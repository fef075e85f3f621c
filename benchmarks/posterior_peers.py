# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The evidence of posteriors by other methods, for comparison.

By variational inference of TFP: a surrogate posterior is fitted with half of
the evaluations, with the defaults of `build_affine_surrogate_posterior`, and
importance sampling from it has the other half. TFP's sequential Monte Carlo is
no peer here: the log marginal likelihood that version 0.25 returns is that of
the last stage. The methods of blackjax and nautilus are in modules of their
own, as these packages are optional.
"""

import functools
import importlib
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_nvi import weighting

__all__ = [
  'METHODS',
  'find_methods',
  'measure',
]

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


def _measure_surrogate(operators, known, num_evaluations, seed):
  """The log evidence by a surrogate posterior, and the evaluations."""
  log_prob_fn, event_shape, bijector = _describe(known)
  surrogate = tfp.experimental.vi.build_affine_surrogate_posterior(
    event_shape, operators=operators, bijector=bijector
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
  return log_evidence, num_steps * _SAMPLE_SIZE + len(log_weights)


# The modules and functions of methods that are not here, by the name in the
# table. Each takes a `KnownPosterior`, a number of evaluations and a seed, and
# returns the log evidence, NaN if it has none, and the evaluations: of the
# gradient, but for nested slices and nautilus, which need values alone.
_ELSEWHERE = {
  'tempered SMC': ('posterior_blackjax', 'measure_tempered'),
  'nested slices': ('posterior_blackjax', 'measure_nested'),
  'nautilus': ('posterior_nautilus', 'measure'),
}
_HERE = {
  'mean field': functools.partial(_measure_surrogate, 'diag'),
  'full rank': functools.partial(_measure_surrogate, 'tril'),
}
METHODS = (*_HERE, *_ELSEWHERE)


def find_methods(names):
  """The functions of methods, and what their packages lack.

  Args:
    names: List of Python `str`s of `METHODS`.

  Returns:
    functions: Python `dict` from names to functions.
    missing: Python `dict` from names of other methods to messages.
  """
  functions, missing = {}, {}
  for name in names:
    if name in _HERE:
      functions[name] = _HERE[name]
      continue
    module, function = _ELSEWHERE[name]
    try:
      functions[name] = getattr(
        importlib.import_module(f'benchmarks.{module}'), function
      )
    except ImportError as e:
      missing[name] = str(e)
  return functions, missing


def measure(name, function, known, num_evaluations: int, seed: int) -> dict:
  """Estimates the evidence of one target by one method.

  Args:
    name: Python `str`: one of `METHODS`.
    function: The function that `find_methods` has found for it.
    known: `KnownPosterior`.
    num_evaluations: Python `int`: how often to evaluate the target.
    seed: Python `int`.

  Returns:
    row: Python `dict`; its error is `None` where the method has no estimate.
  """
  start = time.process_time()
  log_evidence, count = function(known, num_evaluations, seed)
  has_estimate = np.isfinite(log_evidence)
  return {
    'method': name,
    'target': known.name,
    'seed': seed,
    # JSON has no NaN.
    'log_evidence': log_evidence if has_estimate else None,
    'error': log_evidence - known.log_evidence if has_estimate else None,
    'num_evaluations': count,
    'processor_seconds': time.process_time() - start,
  }

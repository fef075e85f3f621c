# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The evidence of posteriors by nautilus, for comparison.

Importance nested sampling with bounds that neural networks learn, with the
defaults of the package, but for the number of live points: a tenth of the
evaluations, 2,000 at most. Its unit cube is mapped to a Student t distribution
with five degrees of freedom over the vectors that `fit_posterior` works on, in
units of the initial density, or to a normal one where that is the initial
density.
"""

import nautilus
import numpy as np
import scipy.stats
import tensorflow as tf

from tfp_nvi.internal import randomness
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'MAX_VALUES',
  'measure',
]

# Dimensions that its authors recommend it for are fewer.
MAX_VALUES = 35
_TIMEOUT = 600.0


def measure(known, num_evaluations, seed):
  """Estimates the evidence of one target.

  Args:
    known: `KnownPosterior`.
    num_evaluations: Python `int`: how often to evaluate the target.
    seed: Python `int`.

  Returns:
    log_evidence: Python `float`; NaN above `MAX_VALUES` dimensions, and where
      the evaluations, or ten minutes, do not suffice for its exploration.
    num_evaluations: Python `int`.
  """
  if known.num_values > MAX_VALUES:
    return np.nan, 0
  space = space_lib.VectorSpace(
    known.target, known.initial, None, randomness.as_seed(seed)
  )
  start = scipy.stats.norm if space.has_exact_gaussian else scipy.stats.t(5)
  log_prob = tf.function(
    lambda y: space.log_probs(y)[0], autograph=False, jit_compile=True
  )

  def log_likelihood(y):
    # A multiple of the size of a batch, for one compiled function.
    size = -(-len(y) // 100) * 100
    padded = np.concatenate([y, np.repeat(y[:1], size - len(y), axis=0)])
    found = log_prob(tf.constant(padded, space.dtype)).numpy()[: len(y)]
    found = np.where(np.isfinite(found), found, -1e30).astype(np.float64)
    return found - np.sum(start.logpdf(y), axis=-1)

  sampler = nautilus.Sampler(
    lambda u: start.ppf(np.clip(u, 1e-12, 1.0 - 1e-12)),
    log_likelihood,
    n_dim=space.num_values,
    n_live=int(min(2_000, num_evaluations // 10)),
    vectorized=True,
    pass_dict=False,
    seed=seed,
  )
  sampler.run(
    n_like_max=num_evaluations, n_eff=num_evaluations, timeout=_TIMEOUT
  )
  log_evidence = float(sampler.log_z) if sampler.explored else np.nan
  return log_evidence, int(sampler.n_like)

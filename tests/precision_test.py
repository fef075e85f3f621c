# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Products of matrices are not rounded to ten bits within a fit."""

import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import fit_posterior

tfd = tfp.distributions

is_rounded = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.mark.parametrize('has_error', [False, True])
def test_factors_are_not_rounded_within_a_fit(has_error):
  """The setting is as before after a fit, or after an error."""
  seen = []

  def log_prob(x):
    seen.append(is_rounded())
    if has_error:
      raise RuntimeError('not today')
    return tf.reduce_sum(tfd.Normal(1.0, 0.5).log_prob(x), axis=-1)

  def fit():
    return fit_posterior(
      log_prob,
      tfd.Sample(tfd.Normal(0.0, 1.0), 2),
      num_particles=50,
      num_runs=2,
      progress=False,
      seed=1,
    )

  assert is_rounded()
  if has_error:
    with pytest.raises(RuntimeError, match='not today'):
      fit()
  else:
    posterior = fit()
    assert seen and not any(seen)
    del seen[:]
    assert posterior.sampler is not None
  assert seen and not any(seen)
  assert is_rounded()

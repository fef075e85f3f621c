# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rejection control: small weights become zero or larger, without bias."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import axes, checks, randomness, reductions, types

__all__ = [
  'rejection_control',
]


def rejection_control(
  log_weights: types.TensorLike,
  log_threshold: types.TensorLike,
  seed: types.Seed,
) -> tf.Tensor:
  """Rejects particles of small weight, without bias.

  A particle is kept with probability `min(1, w / c)`; a kept weight becomes
  `max(w, c)` and a rejected one `0`, so that its expectation stays `w`.

  Args:
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    log_threshold: float `Tensor` that broadcasts against `batch`: the logarithm
      of `c`. It may depend on the weights. Where it is NaN or `inf`, weights
      other than zero become NaN; where its value is known, that is an error.
    seed: Python `int` or stateless seed. It must not be one that the particles
      were resampled or moved with.

  Returns:
    log_weights: float `Tensor` of shape `[num_particles] + batch`.

  Raises:
    TypeError: If an argument is of another kind.
    ValueError: If the shapes do not broadcast, or a weight, where it is known,
      is NaN or infinite.

  #### References

  [1]: J. S. Liu, R. Chen, W. H. Wong. Rejection control and sequential
       importance sampling. Journal of the American Statistical Association,
       93(443), 1998.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  log_weights = nvi.rejection_control(
    tf.math.log([0.01, 1.0, 7.0]), log_threshold=0.0, seed=1
  )
  tf.debugging.assert_near(tf.exp(log_weights[1:]), [1.0, 7.0])
  ```
  """
  log_weights = reductions.as_log_weights('log_weights', log_weights)
  log_threshold = checks.as_tensor(
    'log_threshold', log_threshold, kind='floating point'
  )
  reductions.check_numbers(
    '`log_threshold` must not be NaN or inf',
    log_threshold,
    lambda x: x < np.inf,
  )
  seed = randomness.as_seed(seed)
  if not axes.broadcasts_to(log_threshold.shape, log_weights.shape):
    raise ValueError(
      '`log_threshold` must broadcast against the batch of `log_weights`, '
      f'{log_weights.shape[1:]}; got shape {log_threshold.shape}.'
    )
  log_threshold = tf.broadcast_to(
    tf.cast(log_threshold, log_weights.dtype), log_weights.shape
  )
  log_uniform = tf.math.log(
    randomness.uniform(
      log_weights.shape, seed, dtype=reductions.widen(log_weights).dtype
    )
  )
  negative_infinity = tf.constant(-float('inf'), log_weights.dtype)
  # This avoids the difference of the two, which is NaN where both are -inf.
  is_kept = tf.logical_or(
    log_uniform + reductions.widen(log_threshold)
    < reductions.widen(log_weights),
    tf.math.is_nan(log_weights),
  )
  controlled = tf.where(
    is_kept, tf.maximum(log_weights, log_threshold), negative_infinity
  )
  # A threshold that is not a number must be seen in the weights, except in
  # weights of zero, which stay zero. The condition is not written as the
  # negation of `log_threshold < inf`, because TensorFlow turns that into
  # `log_threshold >= inf`.
  is_unknown = tf.logical_and(
    tf.logical_or(
      tf.math.is_nan(log_threshold), tf.equal(log_threshold, float('inf'))
    ),
    tf.not_equal(log_weights, negative_infinity),
  )
  return tf.where(
    is_unknown, tf.constant(float('nan'), log_weights.dtype), controlled
  )

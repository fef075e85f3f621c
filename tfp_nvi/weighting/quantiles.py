# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantiles of weighted particles."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, reductions, types
from tfp_nvi.weighting import estimates

__all__ = [
  'weighted_quantiles',
]

# Shares of weights count as equal if they differ by at most this many
# roundings.
_ROUNDING = 8.0


def weighted_quantiles(
  weights: types.TensorLike,
  values: types.TensorLike,
  probabilities: types.TensorLike,
) -> tf.Tensor:
  """Computes quantiles of values of weighted particles, for each coordinate.

  The quantile of a probability `p` is the smallest value such that the weights
  of values up to it are at least `p` times the sum of all weights, up to the
  rounding of the weights. `tfp.stats.quantiles` takes no weights.

  Args:
    weights: Non-negative float `Tensor` of shape `[num_particles] + batch`.
    values: Numeric or bool `Tensor` of shape `[num_particles] + batch + event`.
      A value that has weight zero does not count, even if it is NaN.
    probabilities: float array of shape `[...]`, between zero and one.

  Returns:
    quantiles: `Tensor` of shape `probabilities.shape + batch + event`, of
      float64 for integers; NaN where all weights are zero, or a value that has
      weight is NaN.

  Raises:
    TypeError: If `weights` or `probabilities` are not floats, or `values` not
      numeric.
    ValueError: If shapes do not match, or a weight or probability, where it is
      known, is out of its range.

  ```python
  import tfp_nvi as nvi

  median = nvi.weighted_quantiles([0.2, 0.2, 0.6], [3.0, 1.0, 2.0], 0.5)
  assert median == 2.0
  ```
  """
  weights = estimates.as_weights(weights, is_signed=False)
  # In float64 integers are exact: a quantile is one of the values.
  values = estimates.as_numbers(values, tf.float64)
  estimates.check_same_particles(weights, values)
  if not tf.is_tensor(probabilities):
    probabilities = checks.as_tensor('probabilities', probabilities, tf.float64)
  probabilities = tf.cast(
    checks.as_tensor('probabilities', probabilities, kind='floating point'),
    tf.float64,
  )
  reductions.check_numbers(
    '`probabilities` must be between 0 and 1',
    probabilities,
    lambda x: (x >= 0.0) & (x <= 1.0),
  )
  rounding = _ROUNDING * max(
    np.finfo(np.float32).eps if weights.dtype != tf.float64 else 0.0,
    np.finfo(np.float64).eps,
  )
  num_events = values.shape.rank - weights.shape.rank
  shape = tf.concat([tf.shape(weights), [1] * num_events], axis=0)
  weights = tf.reshape(tf.cast(weights, tf.float64), shape)
  shape = tf.broadcast_dynamic_shape(tf.shape(weights), tf.shape(values))
  weights, values = (tf.broadcast_to(x, shape) for x in (weights, values))
  values = tf.where(
    weights > 0.0, values, tf.constant(float('inf'), values.dtype)
  )
  # Particles on the last axis, and all else on the first.
  rows = [
    tf.transpose(tf.reshape(x, [shape[0], -1])) for x in (values, weights)
  ]
  order = tf.argsort(rows[0], axis=1)
  values_of_rows, weights_of_rows = (
    tf.gather(x, order, batch_dims=1) for x in rows
  )
  cumulative = tf.cumsum(weights_of_rows, axis=1)
  wanted = cumulative[:, -1:] * tf.reshape(probabilities - rounding, [1, -1])
  index = tf.minimum(
    tf.searchsorted(cumulative, wanted), tf.shape(cumulative)[1] - 1
  )
  is_known = (cumulative[:, -1:] > 0.0) & tf.logical_not(
    tf.reduce_any(tf.math.is_nan(rows[0]), axis=1, keepdims=True)
  )
  found = tf.where(
    is_known,
    tf.gather(values_of_rows, index, batch_dims=1),
    tf.constant(float('nan'), values.dtype),
  )
  return tf.reshape(
    tf.transpose(found),
    tf.concat([tf.shape(probabilities), shape[1:]], axis=0),
  )

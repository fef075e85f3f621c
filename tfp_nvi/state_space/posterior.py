# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The posterior of sequences, as weighted particles, and its errors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import weighting

__all__ = [
  'StateSpacePosterior',
]


class StateSpacePosterior(NamedTuple):
  """Properly weighted particles for the posterior of each sequence.

  Where a sequence has ended, its trajectories stay at their last state, and
  its series at their last value, with increments of zero.

  Errors are those of the genealogical estimator [1], from this one run: the
  particles with a common ancestor at level 0, their root, count as one draw. As
  resampling leaves fewer and fewer roots, the estimator needs many of them to
  be left, say 30: with a handful it is itself very uncertain and mostly too
  small, and with one root an error is `inf`. It assumes multinomial resampling
  without a correction for coincidence, and is on the safe side with others.

  Fields:
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    trajectories: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + [num_steps] + event`: the local states, read
      back along the ancestors of each particle; `()` if not asked for.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    log_normalizer_increments: float `Tensor` of shape
      `[num_steps + 1] + batch`: how much each level adds to the log normalizer,
      level 0 first. That of a level is for its density, heuristic included.
    effective_sample_sizes: float `Tensor` of shape `[num_steps + 1] + batch`:
      that of each level, before resampling.
    num_roots: int32 `Tensor` of shape `[num_steps + 1] + batch`: how many of
      the particles of level 0 still have descendants.
    root: int32 `Tensor` of shape `[num_particles] + batch`: the index of each
      particle's ancestor at level 0.
    num_nan: int32 `Tensor` of shape `[num_steps + 1] + batch`: how many
      particles lost their weight at each level, as a log density was NaN.

  #### References

  [1]: A. Lee, N. Whiteley. Variance estimation in the particle filter.
       Biometrika, 105(3), 2018.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  posterior = nvi.StateSpaceSampler(model).sample(
    [0.1, 0.5, 0.8], 1_000, seed=1
  )
  error = posterior.standard_error(lambda drift, z: drift)
  assert 0.0 < error < 0.2 and 0.0 < posterior.log_normalizer_error < 0.3
  ```
  """

  global_state: Any
  trajectories: Any
  log_weights: tf.Tensor
  log_normalizer_increments: tf.Tensor
  effective_sample_sizes: tf.Tensor
  num_roots: tf.Tensor
  root: tf.Tensor
  num_nan: tf.Tensor

  @property
  def log_normalizer(self) -> tf.Tensor:
    """Estimate of `log p(x)`, of shape `batch`."""
    return weighting.log_normalizer(self.log_weights)

  @property
  def num_ancestors(self) -> tf.Tensor:
    """Number of roots of the particles that have weight, of shape `batch`."""
    has_weight = self.log_weights > -float('inf')
    return tf.reduce_sum(
      tf.cast(_sum_by_root(self.root, has_weight) > 0, tf.int32), axis=0
    )

  @property
  def log_normalizer_error(self) -> tf.Tensor:
    """Standard error of `log_normalizer`, of shape `batch`.

    That of the estimate of `p(x)`, relative to it, which is the same where it
    is small.
    """
    weights = weighting.normalize_weights(self.log_weights)
    families = _sum_by_root(self.root, weights)
    variance = tf.reduce_sum(families**2, axis=0) - 1.0 / weights.shape[0]
    return self._where_known(tf.sqrt(tf.maximum(variance, 0.0)))

  def expectation(self, fn: Callable):
    """Self-normalized estimate of a posterior expectation.

    Args:
      fn: Python callable from `global_state` and `trajectories` to a nested
        structure of `Tensor`s of shape `[num_particles] + batch + any`.

    Returns:
      expectation: Nested structure of `Tensor`s of shape `batch + any`.
    """
    weights = weighting.normalize_weights(self.log_weights)
    return tf.nest.map_structure(
      lambda x: weighting.weighted_mean(weights, tf.cast(x, weights.dtype)),
      fn(self.global_state, self.trajectories),
    )

  def standard_error(self, fn: Callable):
    """Standard error of `expectation`.

    Args:
      fn: As of `expectation`.

    Returns:
      standard_error: Nested structure of `Tensor`s of shape `batch + any`.
    """
    weights = weighting.normalize_weights(self.log_weights)

    def error(x):
      x = tf.cast(x, weights.dtype)
      rank = x.shape.rank - weights.shape.rank
      w = tf.reshape(weights, weights.shape + [1] * rank)
      # A value without weight may be NaN or infinite.
      deviations = tf.math.multiply_no_nan(
        x - weighting.weighted_mean(weights, x), w
      )
      families = _sum_by_root(self.root, deviations)
      return self._where_known(tf.sqrt(tf.reduce_sum(families**2, axis=0)))

    return tf.nest.map_structure(
      error, fn(self.global_state, self.trajectories)
    )

  def _where_known(self, error):
    """`inf` where no more than one root is left."""
    is_known = self.num_ancestors > 1
    rank = error.shape.rank - is_known.shape.rank
    is_known = tf.reshape(is_known, is_known.shape + [1] * rank)
    return tf.where(is_known, error, tf.constant(float('inf'), error.dtype))


def _sum_by_root(root, values):
  """Sums over the particles with the same root.

  Args:
    root: int32 `Tensor` of shape `[num_particles] + batch`.
    values: `Tensor` of shape `[num_particles] + batch + any`.

  Returns:
    sums: `Tensor` of the same shape, whose first axis is over roots.
  """
  if values.dtype == tf.bool:
    values = tf.cast(values, tf.int32)
  num_particles, *batch_shape = root.shape.as_list()
  num_columns = math.prod(batch_shape)
  cells = tf.reshape(root, [num_particles, num_columns]) * num_columns
  cells = tf.reshape(cells + tf.range(num_columns), [-1])
  event_shape = values.shape[root.shape.rank :].as_list()
  sums = tf.math.unsorted_segment_sum(
    tf.reshape(values, [num_particles * num_columns, *event_shape]),
    cells,
    num_particles * num_columns,
  )
  return tf.reshape(sums, values.shape)

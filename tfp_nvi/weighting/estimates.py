# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Estimates from weighted particles: normalizers, sample sizes and means."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, reductions, types

__all__ = [
  'as_numbers',
  'as_weights',
  'check_same_particles',
  'effective_sample_size',
  'log_normalizer',
  'mean',
  'normalize_weights',
  'total',
  'weighted_log_mean_exp',
  'weighted_mean',
]


def log_normalizer(log_weights: types.TensorLike) -> tf.Tensor:
  """Returns the log of the mean weight, the estimate of the log normalizer.

  Args:
    log_weights: float `Tensor` of shape `[num_particles] + batch`.

  Returns:
    log_normalizer: float `Tensor` of shape `batch`; `-inf` where every weight
      is zero.

  Raises:
    TypeError: If `log_weights` is not a float `Tensor`.
    ValueError: If it has no particles, or a weight, where it is known, is NaN
      or infinite.

  ```python
  import tfp_nvi as nvi

  assert abs(nvi.log_normalizer([0.0, 0.0])) < 1e-6
  ```
  """
  log_weights = reductions.as_log_weights('log_weights', log_weights)
  return tf.cast(reductions.log_mean_exp(log_weights), log_weights.dtype)


def normalize_weights(log_weights: types.TensorLike) -> tf.Tensor:
  """Normalizes weights to sum to one over the particles.

  Args:
    log_weights: float `Tensor` of shape `[num_particles] + batch`.

  Returns:
    weights: float `Tensor` of the same shape; zero, not NaN, where every weight
      of a batch member is zero.

  Raises:
    TypeError: If `log_weights` is not a float `Tensor`.
    ValueError: If it has no particles, or a weight, where it is known, is NaN
      or infinite.

  ```python
  import tfp_nvi as nvi

  assert nvi.normalize_weights([1.0, 1.0])[0] == 0.5
  ```
  """
  log_weights = reductions.as_log_weights('log_weights', log_weights)
  return tf.cast(reductions.normalize(log_weights), log_weights.dtype)


def effective_sample_size(log_weights: types.TensorLike) -> tf.Tensor:
  """Returns the effective sample size, `(sum w)^2 / sum w^2`.

  It measures how even the weights are, and nothing else. If the function to
  average is unrelated to the weights, a weighted mean over *independent*
  particles with these weights varies as much as a mean over this number of
  independent particles of equal weight. After resampling the weights are equal
  and it is `num_particles`, however few ancestors the particles have. For the
  error of an estimate see `WeightedParticles.standard_error`.

  Args:
    log_weights: float `Tensor` of shape `[num_particles] + batch`.

  Returns:
    effective_sample_size: float `Tensor` of shape `batch`, from 1 to
      `num_particles`; 0 where every weight is zero. It is of dtype float32 for
      half precision, which has no number beyond 65,504.

  Raises:
    TypeError: If `log_weights` is not a float `Tensor`.
    ValueError: If it has no particles, or a weight, where it is known, is NaN
      or infinite.

  #### References

  [1]: A. Kong. A note on importance sampling using standardized weights.
       Technical Report 348, University of Chicago, 1992.

  ```python
  import tfp_nvi as nvi

  assert abs(nvi.effective_sample_size([0.0, 0.0, 0.0]) - 3.0) < 1e-5
  ```
  """
  return reductions.effective_sample_size(
    reductions.as_log_weights('log_weights', log_weights)
  )


def weighted_mean(
  weights: types.TensorLike, values: types.TensorLike
) -> tf.Tensor:
  """Sums weights times values over the particles.

  Args:
    weights: float `Tensor` of shape `[num_particles] + batch`, usually from
      `normalize_weights`.
    values: Numeric or bool `Tensor` of shape `[num_particles] + batch + event`.
      A value that has weight zero does not count, even if it is infinite or
      NaN.

  Returns:
    mean: `Tensor` of shape `batch + event`.

  Raises:
    TypeError: If `weights` is not a float `Tensor`, or `values` not numeric.
    ValueError: If they do not have the same number of particles, their batch
      shapes do not broadcast, `weights` has more axes than `values`, or a
      weight, where it is known, is NaN or infinite.

  ```python
  import tfp_nvi as nvi

  assert nvi.weighted_mean([0.5, 0.5, 0.0], [1.0, 3.0, float('inf')]) == 2.0
  ```
  """
  weights = as_weights(weights)
  rank = weights.shape.rank
  values = as_numbers(values, weights.dtype)
  check_same_particles(weights, values)
  dtype = values.dtype
  values = reductions.widen(values)
  weights = tf.cast(weights, values.dtype)
  if values.shape.rank > rank:
    weights = tf.reshape(
      weights,
      tf.concat([tf.shape(weights), [1] * (values.shape.rank - rank)], axis=0),
    )
  return tf.cast(
    reductions.reduce(tf.reduce_sum, tf.math.multiply_no_nan(values, weights)),
    dtype,
  )


def as_weights(weights: types.TensorLike, is_signed: bool = True) -> tf.Tensor:
  """Checks weights that are not logarithms.

  Args:
    weights: The value to check.
    is_signed: Python `bool`: whether weights may be negative.

  Returns:
    weights: float `Tensor` of shape `[num_particles] + batch`.

  ```python
  from tfp_nvi.weighting import estimates

  assert estimates.as_weights([0.2, 0.8]).shape == [2]
  ```
  """
  weights = reductions.as_particles('weights', weights)
  lowest, expected = (
    (-np.inf, 'finite') if is_signed else (0.0, 'finite and not negative')
  )
  reductions.check_numbers(
    f'`weights` must be {expected}',
    weights,
    lambda x: np.isfinite(x) & (x >= lowest),
  )
  return weights


def as_numbers(values: types.TensorLike, dtype: tf.DType) -> tf.Tensor:
  """Checks values of particles, and converts counts and truth values.

  Args:
    values: The value to check.
    dtype: Floating point dtype, for values that have none.

  Returns:
    values: float `Tensor` of shape `[num_particles, ...]`.

  ```python
  import tensorflow as tf
  from tfp_nvi.weighting import estimates

  assert estimates.as_numbers([True, False], tf.float32).dtype == tf.float32
  ```
  """
  values = reductions.as_particles('values', values, 'numeric or bool')
  return values if values.dtype.is_floating else tf.cast(values, dtype)


def check_same_particles(weights: tf.Tensor, values: tf.Tensor) -> None:
  """Raises an error if weights and values are not of the same particles.

  ```python
  import tensorflow as tf
  from tfp_nvi.weighting import estimates

  estimates.check_same_particles(tf.ones([5]), tf.ones([5, 2]))
  ```
  """
  if not _are_of_same_particles(weights.shape, values.shape):
    raise ValueError(
      '`weights` must have the shape of the particles and the batch of '
      f'`values`, {values.shape}; got {weights.shape}.'
    )


def _are_of_same_particles(shape, other):
  """Returns whether shapes have equal particles and batches that broadcast."""
  return (
    shape.rank <= other.rank
    and tf.TensorShape(shape[:1]).is_compatible_with(other[:1])
    and all(
      None in (n, m) or n == m or 1 in (n, m)
      for n, m in zip(shape[1:], other[1 : shape.rank], strict=True)
    )
  )


def mean(values: types.TensorLike) -> tf.Tensor:
  """Computes the unweighted mean over the particles.

  Args:
    values: float `Tensor` of shape `[num_particles] + shape`.

  Returns:
    mean: `Tensor` of that shape.

  Raises:
    TypeError: If `values` is not a float `Tensor`.
    ValueError: If it has no particles.

  ```python
  from tfp_nvi import weighting

  assert weighting.mean([1.0, 3.0]) == 2.0
  ```
  """
  values = reductions.as_particles('values', values)
  return tf.cast(
    reductions.reduce(tf.reduce_mean, reductions.widen(values)), values.dtype
  )


def total(values: types.TensorLike) -> tf.Tensor:
  """Computes the unweighted sum over the particles.

  Args:
    values: Numeric `Tensor` of shape `[num_particles] + shape`.

  Returns:
    total: `Tensor` of that shape.

  Raises:
    TypeError: If `values` is not a numeric `Tensor`.
    ValueError: If it has no particles.

  ```python
  from tfp_nvi import weighting

  assert weighting.total([1.0, 3.0]) == 4.0
  ```
  """
  values = reductions.as_particles('values', values, 'numeric')
  return tf.cast(
    reductions.reduce(tf.reduce_sum, reductions.widen(values)), values.dtype
  )


def weighted_log_mean_exp(
  weights: types.TensorLike, values: types.TensorLike
) -> tf.Tensor:
  """Returns the logarithm of the weighted mean of `exp(values)`.

  With the normalized weights of the particles before a level, and the log
  incremental weights of that level, this estimates the logarithm of the ratio
  of the two normalizers.

  Args:
    weights: float `Tensor` of shape `[num_particles] + batch`.
    values: float `Tensor` of the same shape, or of one that broadcasts over the
      batch. A value that has weight zero does not count, even if it is infinite
      or NaN.

  Returns:
    log_mean: float `Tensor` of shape `batch`.

  Raises:
    TypeError: If an argument is not a float `Tensor`.
    ValueError: If they do not have the same number of particles, their batch
      shapes do not broadcast, a weight, where it is known, is negative, NaN or
      infinite, or a value that has weight is NaN or `inf`.

  ```python
  import tfp_nvi as nvi

  assert abs(nvi.weighted_log_mean_exp([0.5, 0.5], [2.0, 2.0]) - 2.0) < 1e-6
  ```
  """
  weights = as_weights(weights, is_signed=False)
  values = checks.as_tensor('values', values, kind='floating point', min_rank=1)
  if values.shape.rank != weights.shape.rank or not _are_of_same_particles(
    weights.shape, values.shape
  ):
    raise ValueError(
      f'`values` must have the shape of `weights`, {weights.shape}; got '
      f'{values.shape}.'
    )
  if values.dtype != weights.dtype:
    raise TypeError(
      f'`values` must have the dtype of `weights`, {weights.dtype.name}; got '
      f'{values.dtype.name}.'
    )
  reductions.check_numbers(
    '`values` must be numbers or -inf where there is weight',
    tf.where(weights > 0.0, values, tf.zeros_like(values)),
    lambda x: x < np.inf,
  )
  log_weights = tf.math.log(reductions.widen(weights))
  return tf.cast(
    reductions.reduce(
      tf.reduce_logsumexp,
      tf.where(
        tf.equal(weights, 0.0),
        log_weights,
        reductions.widen(values) + log_weights,
      ),
    ),
    values.dtype,
  )

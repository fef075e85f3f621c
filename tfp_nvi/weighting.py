# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Properly weighted particles: estimates, their errors, rejection control.

Contract: particles `z` and weights `w >= 0` are properly weighted for an
unnormalized density `gamma` if, for every function `g`,

```none
E[mean_s w[s] g(z[s])] = integral gamma(z) g(z) dz.
```

Each function here keeps that property. In particular the mean weight is an
unbiased estimate of the normalizer of `gamma`, before and after resampling (see
`tfp_nvi.resampling`) and rejection control, because both leave `E[w g(z)]` as
it is.

Particles are axis 0 of every `Tensor`; what follows are batch dimensions, then
event dimensions. Weights are kept as logarithms; `-inf` is a weight of zero. A
batch member all of whose weights are zero has a normalizer estimate of zero,
an effective sample size of zero, and normalized weights of zero; it does not
disturb its neighbours.

Arguments are checked here; a weight that is NaN or infinite is an error where
its value is known, which it is not inside a `tf.function`. Half precision is
accumulated in float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, randomness, reductions

# The samplers take these from here, as they do the estimates.
from tfp_nvi.resampling import always as always
from tfp_nvi.resampling import ess_below as ess_below
from tfp_nvi.resampling import gather_ancestors as gather_ancestors
from tfp_nvi.resampling import never as never
from tfp_nvi.resampling import resample as resample
from tfp_nvi.resampling import resample_systematic as resample_systematic

__all__ = [
  'WeightedParticles',
  'effective_sample_size',
  'log_normalizer',
  'log_pairs_lost',
  'mean',
  'normalize_weights',
  'rejection_control',
  'total',
  'weighted_log_mean_exp',
  'weighted_mean',
]


def log_normalizer(log_weights: Any) -> tf.Tensor:
  """Logarithm of the mean weight: the estimate of the log normalizer.

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


def normalize_weights(log_weights: Any) -> tf.Tensor:
  """Weights that sum to one over the particles.

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


def effective_sample_size(log_weights: Any) -> tf.Tensor:
  """Effective sample size, `(sum w)^2 / sum w^2`.

  It says how even the weights are, and nothing else: the number of independent
  particles of equal weight whose weighted means would vary as much as those of
  *independent* particles with these weights do, if the function to average has
  nothing to do with the weights. After resampling the weights are equal and it
  is `num_particles`, however few ancestors the particles have. For the error of
  an estimate see `WeightedParticles.standard_error`.

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


def weighted_mean(weights: Any, values: Any) -> tf.Tensor:
  """Sum over the particles of weights times values.

  Args:
    weights: float `Tensor` of shape `[num_particles] + batch`, usually of
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
  weights = _as_weights(weights)
  values = _as_values(values)
  rank = weights.shape.rank
  if not _are_of_same_particles(weights.shape, values.shape):
    raise ValueError(
      '`weights` must have the shape of the particles and the batch of '
      f'`values`, {values.shape}; got {weights.shape}.'
    )
  dtype = values.dtype if values.dtype.is_floating else weights.dtype
  # Counts and truth values have means too.
  values = reductions.widen(tf.cast(values, dtype))
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


def _as_weights(weights):
  """Checks weights that are no logarithms."""
  weights = checks.as_tensor('weights', weights, is_floating=True, min_rank=1)
  if weights.shape[0] == 0:
    raise ValueError(
      f'`weights` must have one particle at least; got shape {weights.shape}.'
    )
  if reductions.is_known(weights):
    numbers = reductions.widen(weights).numpy()
    if not np.all(np.isfinite(numbers)):
      raise ValueError(
        '`weights` must be finite; got '
        f'{numbers[~np.isfinite(numbers)].flat[0]}.'
      )
  return weights


def _as_values(values, is_bool_valid=True):
  """Checks values of particles."""
  values = checks.as_tensor('values', values, min_rank=1)
  dtype = values.dtype
  if not (
    dtype.is_floating
    or dtype.is_integer
    or (dtype == tf.bool and is_bool_valid)
  ):
    raise TypeError(f'`values` must be numbers; got dtype {dtype.name}.')
  if values.shape[0] == 0:
    raise ValueError(
      f'`values` must have one particle at least; got shape {values.shape}.'
    )
  return values


def _are_of_same_particles(shape, other):
  """Whether shapes agree in particles, and in batches up to broadcasting."""
  return (
    shape.rank <= other.rank
    and tf.TensorShape(shape[:1]).is_compatible_with(other[:1])
    and all(
      None in (n, m) or n == m or 1 in (n, m)
      for n, m in zip(shape[1:], other[1 : shape.rank], strict=True)
    )
  )


def mean(values: Any) -> tf.Tensor:
  """Plain mean over the particles.

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
  values = _as_values(values)
  if not values.dtype.is_floating:
    raise TypeError(
      f'`values` must have a floating point dtype; got {values.dtype.name}.'
    )
  return tf.cast(
    reductions.reduce(tf.reduce_mean, reductions.widen(values)), values.dtype
  )


def total(values: Any) -> tf.Tensor:
  """Plain sum over the particles.

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
  values = _as_values(values, is_bool_valid=False)
  if not values.dtype.is_floating:
    return reductions.reduce(tf.reduce_sum, values)
  return tf.cast(
    reductions.reduce(tf.reduce_sum, reductions.widen(values)), values.dtype
  )


def weighted_log_mean_exp(weights: Any, values: Any) -> tf.Tensor:
  """Logarithm of the weighted mean of `exp(values)`.

  With the normalized weights that particles bring into a level and the log
  incremental weights of that level this estimates the logarithm of the ratio
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
      shapes do not broadcast, or a weight, where it is known, is negative, NaN
      or infinite.

  ```python
  import tfp_nvi as nvi

  assert abs(nvi.weighted_log_mean_exp([0.5, 0.5], [2.0, 2.0]) - 2.0) < 1e-6
  ```
  """
  weights = _as_weights(weights)
  if reductions.is_known(weights) and bool(tf.reduce_any(weights < 0)):
    raise ValueError(
      f'`weights` must not be negative; got {tf.reduce_min(weights)}.'
    )
  values = checks.as_tensor('values', values, is_floating=True, min_rank=1)
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


def log_pairs_lost(before: 'WeightedParticles', after: 'WeightedParticles'):
  """What resampling takes from the weight of pairs with different ancestors.

  Two particles drawn by their weights have the same ancestor among the
  particles of the first level with some probability `q`. Resampling makes it
  larger, by chance that has nothing to do with the estimate of the normalizer:
  by about `1 / num_particles` if ancestors are drawn independently, by less if
  they are drawn systematically. `log((1 - q_before) / (1 - q_after))`, added up
  over all resampling steps, is the field `log_pairs_lost` of
  `WeightedParticles`, with which `log_normalizer_error` is exact to first
  order. It is zero where nothing was resampled.

  Args:
    before: `WeightedParticles`.
    after: `WeightedParticles`: the same, resampled.

  Returns:
    log_pairs_lost: float `Tensor` of shape `batch`.

  Raises:
    TypeError: If a field of the particles is of the wrong kind.
    ValueError: If a field has the wrong shape or wrong values.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi import weighting

  before = nvi.WeightedParticles(
    tf.constant([1.0, 2.0, 3.0]), tf.constant([0.0, 0.0, -9.0])
  )
  after = before.resample(seed=1)
  lost = weighting.log_pairs_lost(before, after)
  ```
  """
  same_before, same_after = (
    _probability_of_same_root(reductions.normalize(log_weights), root)
    for log_weights, root in (_checked(before), _checked(after))
  )
  is_lost = tf.logical_or(same_before >= 1.0, same_after >= 1.0)

  def log_pairs(same):
    return tf.math.log1p(-tf.where(is_lost, tf.zeros_like(same), same))

  return log_pairs(same_before) - log_pairs(same_after)


def _probability_of_same_root(weights, root):
  """Probability that two particles drawn by their weights have one root."""
  return reductions.reduce(
    tf.reduce_sum, reductions.sum_by_root(weights, root) ** 2
  )


def _checked(particles):
  """Log weights and roots of `WeightedParticles`, checked."""
  log_weights = reductions.as_log_weights('log_weights', particles.log_weights)
  root = particles.root
  if root is None:
    return log_weights, None
  root = checks.as_tensor('root', root)
  if not root.dtype.is_integer:
    raise TypeError(
      f'`root` must have an integer dtype; got {root.dtype.name}.'
    )
  if root.shape != log_weights.shape:
    raise ValueError(
      f'`root` must have the shape of `log_weights`, {log_weights.shape}; got '
      f'{root.shape}.'
    )
  if reductions.is_known(root):
    numbers = root.numpy()
    if numbers.min() < 0 or numbers.max() >= root.shape[0]:
      raise ValueError(
        f'`root` must be from 0 to {root.shape[0] - 1}; got {numbers.min()} to '
        f'{numbers.max()}.'
      )
  return log_weights, root


class WeightedParticles(NamedTuple):
  """Properly weighted particles: a named tuple that can answer questions.

  Errors of estimates are computed from one run, from its genealogy: particles
  that descend from different particles of the first level are as good as
  independent, and those of one ancestor are counted as one. The estimates are
  consistent as the number of particles grows with the number of levels fixed,
  for independent (multinomial) resampling [1, 2]; for systematic and stratified
  resampling there is no proof, but they agree with the spread over runs in the
  tests of this package. They know nothing of modes that no particle has found.
  With few ancestors left they are rough, and with one there is none: the error
  is then infinite.

  Fields:
    particles: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    log_weights: float `Tensor` of shape `[num_particles] + batch`. Their mean
      weight estimates the normalizer: these weights are not normalized.
    root: int32 `Tensor` of shape `[num_particles] + batch`: the index of the
      ancestor among the particles of the first level, of which there are as
      many.
      Default value: `None`: no particle has an ancestor in common with another
      one, as in importance sampling.
    num_nan: int32 `Tensor`: how many log densities were NaN, and counted as
      zero density.
      Default value: `None`: unknown.
    log_pairs_lost: float `Tensor` of shape `batch`: the sum of the function of
      this name over all resampling steps.
      Default value: `None`: unknown. `log_normalizer_error` is then too large.

  #### References

  [1]: A. Lee, N. Whiteley. Variance estimation in the particle filter.
       Biometrika, 105(3), 2018.

  [2]: H. P. Chan, T. L. Lai. A general theory of particle filters in hidden
       Markov models and some applications. Annals of Statistics, 41(6), 2013.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  particles = nvi.WeightedParticles(
    particles=tf.constant([1.0, 2.0, 4.0]),
    log_weights=tf.math.log([2.0, 1.0, 1.0]),
  )
  assert abs(particles.expectation() - 2.0) < 1e-6
  assert abs(particles.effective_sample_size - 16.0 / 6.0) < 1e-5
  # Half of the weight lies at one particle, a quarter at the two others each:
  # (3 * (1/4 + 1/16 + 1/16) - 1) / 2 is the relative variance of their mean.
  assert abs(particles.log_normalizer_error**2 - 1.0 / 16.0) < 1e-6
  ```
  """

  particles: Any
  log_weights: Any
  root: Any = None
  num_nan: Any = None
  log_pairs_lost: Any = None

  @property
  def log_normalizer(self) -> tf.Tensor:
    """Estimate of the log normalizer, of shape `batch`."""
    return log_normalizer(self.log_weights)

  @property
  def log_normalizer_error(self) -> tf.Tensor:
    """Standard error of `log_normalizer`, of shape `batch`.

    The estimate of Lee and Whiteley [1] of the relative variance of the
    normalizer, `1 - f (1 - q)`, where `q` is the probability that two particles
    drawn by their weights have the same root. For `N` particles and `n`
    independent resampling steps they derive `f = (N / (N - 1))^(n + 1)`: each
    step takes a share of `1 / N` from the pairs with different roots. Here `f`
    is `N / (N - 1)` times what the steps of this run did take,
    `exp(log_pairs_lost)`, which agrees with it for independent resampling and
    is right for systematic resampling too. Without `log_pairs_lost` that factor
    is left out, and the error is too large: by the square root of two where
    independent resampling adds as much variance as the weights do, by less with
    systematic resampling.

    For particles without `root` this is the standard error of a mean over the
    mean, `sqrt((N sum W^2 - 1) / (N - 1))` for normalized weights `W`.

    The error of the logarithm is the relative one of the normalizer, to first
    order: read it as one while it is well below one. It is infinite where there
    are no weights, or only one ancestor is left.
    """
    log_weights, root = _checked(self)
    weights = reductions.normalize(log_weights)
    same = _probability_of_same_root(weights, root)
    log_factor = -tf.math.log1p(
      -1.0 / tf.cast(tf.maximum(tf.shape(log_weights)[0], 2), same.dtype)
    )
    if self.log_pairs_lost is not None:
      log_factor += tf.cast(self.log_pairs_lost, same.dtype)
    # As `1 - f (1 - q)` itself is a small difference of large numbers.
    variance = same - tf.math.expm1(log_factor) * (1.0 - same)
    error = tf.where(
      _count_roots(weights, root) > 1,
      tf.sqrt(tf.maximum(variance, 0.0)),
      tf.constant(float('inf'), same.dtype),
    )
    return tf.cast(error, log_weights.dtype)

  @property
  def effective_sample_size(self) -> tf.Tensor:
    """Effective sample size, of shape `batch`.

    Says how even the weights are. After resampling, particles with a common
    ancestor are not independent, which it does not show: see `num_ancestors`
    and `standard_error`.
    """
    return effective_sample_size(self.log_weights)

  @property
  def num_ancestors(self) -> tf.Tensor:
    """How many particles of the first level have descendants with weight.

    An int32 `Tensor` of shape `batch`: the number of distinct roots among the
    particles of positive weight; zero where there are none.
    """
    log_weights, root = _checked(self)
    return _count_roots(reductions.normalize(log_weights), root)

  @property
  def weights(self) -> tf.Tensor:
    """Weights that sum to one, of shape `[num_particles] + batch`."""
    return normalize_weights(self.log_weights)

  def expectation(self, fn: Callable[[Any], Any] = lambda x: x) -> Any:
    """Self-normalized estimate of the expectation of a function.

    Args:
      fn: Python callable from `particles` to a nested structure of `Tensor`s of
        shape `[num_particles] + batch + event`.
        Default value: the identity, for the mean.

    Returns:
      expectation: Nested structure of `Tensor`s of shape `batch + event`.

    Raises:
      TypeError: If `fn` is not callable, or does not return numbers.
      ValueError: If it returns another shape.
    """
    checks.check_callable('fn', fn)
    return tf.nest.map_structure(
      functools.partial(weighted_mean, self.weights), fn(self.particles)
    )

  def standard_error(self, fn: Callable[[Any], Any] = lambda x: x) -> Any:
    """Standard error of `expectation`, from this run alone.

    The square root of `N / (N - 1)` times the sum over roots `k` of
    `(sum_{s with root k} W[s] (g(z[s]) - g-hat))^2`, for normalized weights `W`
    and the estimate `g-hat` [1, 2]. Without `root` each particle is its own:
    the delta method for importance sampling.

    Args:
      fn: As of `expectation`.
        Default value: the identity, for the error of the mean.

    Returns:
      standard_error: Nested structure of `Tensor`s of shape `batch + event`;
        infinite where there are no weights, or only one ancestor is left.

    Raises:
      TypeError: If `fn` is not callable, or does not return numbers.
      ValueError: If it returns another shape.

    #### References

    [1]: A. Lee, N. Whiteley. Variance estimation in the particle filter.
         Biometrika, 105(3), 2018.

    [2]: H. P. Chan, T. L. Lai. A general theory of particle filters in hidden
         Markov models and some applications. Annals of Statistics, 41(6), 2013.

    ```python
    import tensorflow as tf
    import tfp_nvi as nvi

    particles = nvi.WeightedParticles(
      tf.constant([1.0, 3.0]), tf.constant([0.0, 0.0])
    )
    assert particles.standard_error() == 1.0
    ```
    """
    checks.check_callable('fn', fn)
    log_weights, root = _checked(self)
    weights = reductions.normalize(log_weights)
    is_known = _count_roots(weights, root) > 1

    def standard_error(values):
      values = _as_values(values)
      dtype = values.dtype if values.dtype.is_floating else log_weights.dtype
      values = reductions.widen(tf.cast(values, dtype))
      average = weighted_mean(tf.cast(weights, values.dtype), values)
      num_events = values.shape.rank - weights.shape.rank
      shape = weights.shape.as_list() + [1] * num_events
      deviations = tf.math.multiply_no_nan(
        values - average, tf.reshape(tf.cast(weights, values.dtype), shape)
      )
      sums = reductions.sum_by_root(deviations, root)
      correction = shape[0] / max(shape[0] - 1, 1)
      error = tf.sqrt(correction * reductions.reduce(tf.reduce_sum, sums**2))
      return tf.cast(
        tf.where(
          tf.reshape(is_known, shape[1:]),
          error,
          tf.constant(float('inf'), error.dtype),
        ),
        dtype,
      )

    return tf.nest.map_structure(standard_error, fn(self.particles))

  def resample(
    self, seed: Any = None, resample_fn: Callable[..., Any] | None = None
  ) -> 'WeightedParticles':
    """Draws particles of equal weight.

    Args:
      seed: Python `int` or stateless seed.
      resample_fn: As in `tfp_nvi.resample`.
        Default value: `None` (i.e., `tfp_nvi.resample_systematic`).

    Returns:
      particles: `WeightedParticles` all of whose weights are the mean weight,
        with the roots of their ancestors.
    """
    log_weights, root = _checked(self)
    if root is None:
      root = tf.broadcast_to(
        tf.reshape(
          tf.range(log_weights.shape[0]),
          [-1] + [1] * (log_weights.shape.rank - 1),
        ),
        log_weights.shape,
      )
    (particles, root), log_weights = resample(
      (self.particles, root),
      log_weights,
      resample_systematic if resample_fn is None else resample_fn,
      seed,
    )
    resampled = self._replace(
      particles=particles, log_weights=log_weights, root=root
    )
    lost = log_pairs_lost(self, resampled)
    if self.log_pairs_lost is not None:
      lost += tf.cast(self.log_pairs_lost, lost.dtype)
    elif self.root is not None:
      # Of earlier steps it is unknown, and so of all.
      lost = None
    return resampled._replace(log_pairs_lost=lost)

  def to_arviz(self, names=None, model=None, **kwargs: Any) -> Any:
    """Exports particles to ArviZ, resampled by their weights.

    Args:
      names: As of `tfp_nvi.diagnostics.particles_to_arviz`.
      model: As of `tfp_nvi.diagnostics.particles_to_arviz`.
      **kwargs: Its further arguments, such as `chain_axis`.

    Returns:
      data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

    Raises:
      ImportError: If ArviZ is not installed.
    """
    # Imported here, as it is below this module, and seldom needed.
    from tfp_nvi.diagnostics import export

    return export.particles_to_arviz(self, names, model, **kwargs)


def _count_roots(weights, root):
  """Number of distinct roots among the particles of positive weight."""
  num_particles = reductions.sum_by_root(tf.cast(weights > 0.0, tf.int32), root)
  return reductions.reduce(tf.reduce_sum, tf.cast(num_particles > 0, tf.int32))


def rejection_control(
  log_weights: Any, log_threshold: Any, seed: Any
) -> tf.Tensor:
  """Rejects particles of small weight, without bias.

  A particle is kept with probability `min(1, w / c)`; a kept weight becomes
  `max(w, c)` and a rejected one `0`, so that its expectation stays `w`.

  Args:
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    log_threshold: float `Tensor` that broadcasts against `batch`: the logarithm
      of `c`. It may depend on the weights. Where it is NaN, so are the weights
      but those that are zero; where its value is known, that is an error.
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
    'log_threshold', log_threshold, is_floating=True
  )
  if reductions.is_known(log_threshold) and bool(
    tf.reduce_any(tf.math.is_nan(log_threshold))
  ):
    raise ValueError('`log_threshold` must not be NaN; got NaN.')
  seed = randomness.as_seed(seed)
  try:
    shape = tf.broadcast_static_shape(log_threshold.shape, log_weights.shape)
  except ValueError:
    shape = None
  if shape is None or not shape.is_compatible_with(log_weights.shape):
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
  # Written without the difference of the two, which is NaN where both are -inf.
  is_kept = tf.logical_or(
    log_uniform + reductions.widen(log_threshold)
    < reductions.widen(log_weights),
    tf.math.is_nan(log_weights),
  )
  controlled = tf.where(
    is_kept, tf.maximum(log_weights, log_threshold), negative_infinity
  )
  # A threshold that is NaN must be seen in the weights, but for a weight of
  # zero, which is zero whatever the threshold.
  is_unknown = tf.logical_and(
    tf.math.is_nan(log_threshold),
    tf.not_equal(log_weights, negative_infinity),
  )
  return tf.where(is_unknown, log_threshold, controlled)

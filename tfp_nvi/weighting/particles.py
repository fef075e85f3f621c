# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weighted particles, and the errors of their estimates from genealogies."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi.internal import axes, checks, reductions, types
from tfp_nvi.resampling import resample, resample_systematic
from tfp_nvi.weighting import estimates
from tfp_nvi.weighting import quantiles as quantiles_lib

__all__ = [
  'WeightedParticles',
  'log_pairs_lost',
  'same_root_probability',
]


def log_pairs_lost(
  before: 'WeightedParticles', after: 'WeightedParticles'
) -> tf.Tensor:
  """Returns how much weight of pairs of different ancestors resampling removes.

  Two particles drawn by their weights have the same ancestor among the
  particles of the first level with some probability `q`. Resampling increases
  it by chance, unrelated to the estimate of the normalizer: by about
  `1 / num_particles` if ancestors are drawn independently, by less if they are
  drawn systematically. This function returns
  `log((1 - q_before) / (1 - q_after))`. Its sum over all resampling steps is
  the field `log_pairs_lost` of `WeightedParticles`, with which
  `log_normalizer_error` is exact to first order. It is zero where nothing was
  resampled.

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


def same_root_probability(particles: 'WeightedParticles') -> tf.Tensor:
  """Returns the probability that two particles have the same root.

  Args:
    particles: `WeightedParticles`, of which two are drawn by their weights.

  Returns:
    probability: float `Tensor` of shape `batch`, in the dtype of sums.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi.weighting import particles

  weighted = nvi.WeightedParticles(
    tf.zeros([4]), tf.zeros([4]), root=tf.constant([0, 0, 2, 2])
  )
  assert particles.same_root_probability(weighted) == 0.5
  ```
  """
  log_weights, root = _checked(particles)
  return _probability_of_same_root(reductions.normalize(log_weights), root)


def _probability_of_same_root(weights, root):
  """Returns the probability that two particles, by weight, have one root."""
  return reductions.reduce(
    tf.reduce_sum, reductions.sum_by_root(weights, root) ** 2
  )


def _checked(particles):
  """Returns the checked log weights and roots of `WeightedParticles`."""
  log_weights = reductions.as_log_weights('log_weights', particles.log_weights)
  root = particles.root
  if root is None:
    return log_weights, None
  root = checks.as_tensor('root', root, kind='integer')
  if root.shape != log_weights.shape:
    raise ValueError(
      f'`root` must have the shape of `log_weights`, {log_weights.shape}; got '
      f'{root.shape}.'
    )
  size = root.shape[0]
  reductions.check_numbers(
    f'`root` must be from 0 to {size - 1}',
    root,
    lambda x: (x >= 0) & (x < size),
  )
  return log_weights, root


class WeightedParticles(NamedTuple):
  """Properly weighted particles, with methods for estimates and their errors.

  Errors of estimates are computed from one run, from its genealogy: particles
  that descend from different particles of the first level are as good as
  independent, and those of one ancestor are counted as one. The estimates are
  consistent as the number of particles grows with the number of levels fixed,
  for independent (multinomial) resampling [1, 2]; for systematic and stratified
  resampling there is no proof, but they agree with the spread over runs in the
  tests of this package. They do not account for modes that no particle has
  found. They are rough if few ancestors are left, and infinite if there is only
  one.

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
    log_pairs_lost: float `Tensor` of shape `batch`: the sum of
      `weighting.log_pairs_lost(before, after)` over all resampling steps.
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
    return estimates.log_normalizer(self.log_weights)

  @property
  def log_normalizer_error(self) -> tf.Tensor:
    """Standard error of `log_normalizer`, of shape `batch`.

    Lee and Whiteley [1] estimate the relative variance of the normalizer by
    `1 - f (1 - q)`, where `q` is the probability that two particles drawn by
    their weights have the same root. For `N` particles and `n` independent
    resampling steps they derive `f = (N / (N - 1))^(n + 1)`: each step removes
    a share of `1 / N` of the pairs with different roots. Here `f` is
    `N / (N - 1)` times `exp(log_pairs_lost)`, the loss by the steps of this
    run. It agrees with their `f` for independent resampling, and is right for
    systematic resampling too. Without `log_pairs_lost` that factor is left out,
    and the error is too large: by the square root of two where independent
    resampling adds as much variance as the weights do, by less with systematic
    resampling.

    For particles without `root` this is the standard error of a mean over the
    mean, `sqrt((N sum W^2 - 1) / (N - 1))` for normalized weights `W`.

    To first order, the error of the logarithm is the relative error of the
    normalizer. Read it as a relative error while it is well below one. It is
    infinite where there are no weights, or only one ancestor is left.
    """
    log_weights, root = _checked(self)
    weights = reductions.normalize(log_weights)
    same = _probability_of_same_root(weights, root)
    log_factor = -tf.math.log1p(
      -1.0 / tf.cast(tf.maximum(tf.shape(log_weights)[0], 2), same.dtype)
    )
    if self.log_pairs_lost is not None:
      log_factor += tf.cast(self.log_pairs_lost, same.dtype)
    # The formula `1 - f (1 - q)` itself is a small difference of large numbers.
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

    It measures how even the weights are. It does not show that particles with a
    common ancestor, after resampling, are not independent: see `num_ancestors`
    and `standard_error`.
    """
    return estimates.effective_sample_size(self.log_weights)

  @property
  def num_ancestors(self) -> tf.Tensor:
    """The number of particles of the first level with descendants of weight.

    An int32 `Tensor` of shape `batch`: the number of distinct roots among the
    particles of positive weight; zero where there are none.
    """
    log_weights, root = _checked(self)
    return _count_roots(reductions.normalize(log_weights), root)

  @property
  def weights(self) -> tf.Tensor:
    """Weights that sum to one, of shape `[num_particles] + batch`."""
    return estimates.normalize_weights(self.log_weights)

  def expectation(self, fn: Callable[[Any], Any] = lambda x: x) -> Any:
    """Estimates the expectation of a function, with self-normalized weights.

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
      functools.partial(estimates.weighted_mean, self.weights),
      fn(self.particles),
    )

  def quantiles(
    self,
    probabilities: types.TensorLike,
    fn: Callable[[Any], Any] = lambda x: x,
  ) -> Any:
    """Computes quantiles of a function of the particles, for each coordinate.

    Args:
      probabilities: float array of shape `[...]`, between zero and one.
      fn: As in `expectation`.
        Default value: the identity.

    Returns:
      quantiles: Nested structure of `Tensor`s of shape
        `probabilities.shape + batch + event`, as `weighted_quantiles` returns
        them.

    Raises:
      TypeError: If `fn` is not callable, or does not return numbers.
      ValueError: If it returns another shape, or a probability is not one.

    ```python
    import tensorflow as tf
    import tfp_nvi as nvi

    particles = nvi.WeightedParticles(
      tf.constant([3.0, 1.0, 2.0]), tf.constant([0.0, 0.0, 0.0])
    )
    assert list(particles.quantiles([0.05, 0.5, 0.95])) == [1.0, 2.0, 3.0]
    ```
    """
    checks.check_callable('fn', fn)
    return tf.nest.map_structure(
      lambda values: quantiles_lib.weighted_quantiles(
        self.weights, values, probabilities
      ),
      fn(self.particles),
    )

  def standard_error(self, fn: Callable[[Any], Any] = lambda x: x) -> Any:
    """Computes the standard error of `expectation`, from this run alone.

    It is the square root of `N / (N - 1)` times the sum over roots `k` of
    `(sum_{s with root k} W[s] (g(z[s]) - g-hat))^2`, for normalized weights `W`
    and the estimate `g-hat` [1, 2]. Without `root` each particle is its own
    root, which gives the delta method for importance sampling.

    Args:
      fn: As in `expectation`.
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
      values = estimates.as_numbers(values, log_weights.dtype)
      dtype = values.dtype
      values = reductions.widen(values)
      average = estimates.weighted_mean(tf.cast(weights, values.dtype), values)
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
    self,
    seed: types.Seed | None = None,
    resample_fn: Callable[..., Any] | None = None,
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
      root = axes.particle_indices(log_weights.shape)
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
      # The loss by earlier steps is unknown, and so is the total.
      lost = None
    return resampled._replace(log_pairs_lost=lost)

  def to_arviz(
    self, names: Sequence[str] | None = None, model: Any = None, **kwargs: Any
  ) -> Any:
    """Exports particles to ArviZ, resampled by their weights.

    Args:
      names: As in `tfp_nvi.diagnostics.particles_to_arviz`.
      model: As in `tfp_nvi.diagnostics.particles_to_arviz`.
      **kwargs: Its further arguments, such as `chain_axis`.

    Returns:
      data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

    Raises:
      ImportError: If ArviZ is not installed.
    """
    # Imported here, as `diagnostics` depends on this module, and is seldom
    # needed.
    from tfp_nvi.diagnostics import export

    return export.particles_to_arviz(self, names, model, **kwargs)


def _count_roots(weights, root):
  """Counts the distinct roots among the particles of positive weight."""
  num_particles = reductions.sum_by_root(tf.cast(weights > 0.0, tf.int32), root)
  return reductions.reduce(tf.reduce_sum, tf.cast(num_particles > 0, tf.int32))

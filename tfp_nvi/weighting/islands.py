# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Islands: populations of particles that run separately and are combined.

An island is a population of properly weighted particles. Several islands
together are properly weighted as well, because each of them is: the mean of all
weights is the mean of the islands' mean weights. Seen from outside, an island
is a particle whose weight is its mean weight, and islands can be resampled as
particles are [1].

Islands are axis 0 of every `Tensor` here, and their particles axis 1.

#### References

[1]: C. Verge, C. Dubarry, P. Del Moral, E. Moulines. On parallel implementation
     of sequential Monte Carlo methods: the island particle model. Statistics
     and Computing, 25(2), 2015.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi.internal import axes, reductions, types
from tfp_nvi.resampling import resample
from tfp_nvi.weighting import estimates, particles

__all__ = [
  'IslandSummary',
  'combine_effective_sample_sizes',
  'combine_estimates',
  'combine_islands',
  'global_root',
  'island_log_weights',
  'log_pairs_lost_within',
  'resample_islands',
  'summarize_island',
]


class IslandSummary(NamedTuple):
  """The sums over an island that give the errors of all islands.

  Fields:
    log_normalizer: float `Tensor` of shape `batch`.
    same_root: float `Tensor` of shape `batch`: the probability that two of its
      particles, drawn by their weights, have one root.
  """

  log_normalizer: tf.Tensor
  same_root: tf.Tensor


def summarize_island(island: particles.WeightedParticles) -> IslandSummary:
  """Sums over an island's particles; call it where the island is compiled.

  Args:
    island: `WeightedParticles`.

  Returns:
    summary: `IslandSummary`.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi.weighting import islands

  island = nvi.WeightedParticles(tf.zeros([4]), tf.zeros([4]))
  assert islands.summarize_island(island).same_root == 0.25
  ```
  """
  return IslandSummary(
    estimates.log_normalizer(island.log_weights),
    particles.same_root_probability(island),
  )


def island_log_weights(log_weights: tf.Tensor) -> tf.Tensor:
  """Returns the logarithm of the mean weight of each island.

  Args:
    log_weights: float `Tensor` of shape `[num_islands, num_particles] + batch`.

  Returns:
    log_weights: float `Tensor` of shape `[num_islands] + batch`.

  ```python
  import tensorflow as tf
  from tfp_nvi.weighting import islands

  log_weights = islands.island_log_weights(tf.math.log([[1.0, 3.0]]))
  tf.debugging.assert_near(tf.exp(log_weights), [2.0])
  ```
  """
  return estimates.log_normalizer(axes.swap_first_axes(log_weights))


def combine_effective_sample_sizes(
  log_normalizers: tf.Tensor, sizes: tf.Tensor
) -> tf.Tensor:
  """Computes the effective sample size of all particles from the islands'.

  Args:
    log_normalizers: float `Tensor` of shape `[num_islands] + batch`.
    sizes: float `Tensor` of the same shape: the islands' effective sample
      sizes.

  Returns:
    size: float `Tensor` of shape `batch`; zero where there is no weight.

  ```python
  import tensorflow as tf
  from tfp_nvi.weighting import islands

  size = islands.combine_effective_sample_sizes(
    tf.zeros([2]), tf.constant([3.0, 3.0])
  )
  assert size == 6.0
  ```
  """
  shares = tf.cast(estimates.normalize_weights(log_normalizers), sizes.dtype)
  # The sum of an island's squared weights is its squared sum divided by its
  # size.
  squares = tf.math.divide_no_nan(shares**2, sizes)
  return tf.math.divide_no_nan(
    estimates.total(shares) ** 2, estimates.total(squares)
  )


def combine_estimates(estimates_of: dict) -> dict:
  """Combines the estimates of several islands.

  Args:
    estimates_of: Python `dict` of float `Tensor`s by the names of the fields of
      `tfp_nvi.Estimate`, with a first axis over islands.

  Returns:
    estimates_of: The same without that axis: the log mean of the normalizers,
      the effective sample size of all particles, means of the loss and of the
      log incremental weights, and sums of the levels' effective sample sizes.

  ```python
  import tensorflow as tf
  from tfp_nvi.weighting import islands

  values = dict.fromkeys(
    [
      'loss',
      'log_normalizer',
      'effective_sample_size',
      'log_incremental_weights',
      'level_effective_sample_sizes',
    ],
    tf.ones([2]),
  )
  assert islands.combine_estimates(values)['effective_sample_size'] == 2.0
  ```
  """
  log_normalizers = estimates_of['log_normalizer']
  return {
    'loss': estimates.mean(estimates_of['loss']),
    'log_normalizer': estimates.log_normalizer(log_normalizers),
    'effective_sample_size': combine_effective_sample_sizes(
      log_normalizers, estimates_of['effective_sample_size']
    ),
    'log_incremental_weights': estimates.mean(
      estimates_of['log_incremental_weights']
    ),
    'level_effective_sample_sizes': estimates.total(
      estimates_of['level_effective_sample_sizes']
    ),
  }


def log_pairs_lost_within(
  islands: particles.WeightedParticles, summaries: IslandSummary | None = None
) -> tf.Tensor:
  """Returns `log_pairs_lost` of all particles, for resampling within islands.

  Resampling within an island gives a common root only to pairs of its own
  particles. Of all pairs of particles drawn by their weights, a share of
  `p[i]^2` lies within island `i`, where `p[i]` is the share of the island in
  the weight. Let `q[i]` be the probability that such a pair has one root, and
  `f[i]` the correction of Lee and Whiteley for this island alone. The relative
  variance of the normalizer of all islands is then

  ```none
  q - sum_i p[i]^2 (1 - q[i]) (f[i] - 1),
  ```

  where `q` is the probability for all pairs. For independent islands that is
  the sum of `p[i]^2` times the relative variance of island `i`.

  Args:
    islands: `WeightedParticles` whose fields have a first axis over islands,
      `log_pairs_lost` included; roots are different in different islands, but
      for those of common ancestors.
    summaries: `IslandSummary` of shape `[num_islands] + batch`, of islands that
      have no common ancestors.
      Default value: `None` (i.e., they may have some).

  Returns:
    log_pairs_lost: float `Tensor` of shape `batch`: the value for which the
      `log_normalizer_error` of all particles together is the square root of
      this variance.
  """
  log_weights = islands.log_weights
  num_islands, num_particles = log_weights.shape[:2]
  if summaries is not None:
    shares = estimates.normalize_weights(summaries.log_normalizer)
    same_within = summaries.same_root
    same = reductions.reduce(
      tf.reduce_sum, tf.cast(shares, same_within.dtype) ** 2 * same_within
    )
  else:
    shares = estimates.normalize_weights(island_log_weights(log_weights))
    same_within, same = _same_root(islands, shares)
  lost = tf.cast(islands.log_pairs_lost, same.dtype)
  correction = tf.math.expm1(_log_factor(num_particles, same.dtype) + lost)
  gained = reductions.reduce(
    tf.reduce_sum,
    tf.cast(shares, same.dtype) ** 2 * (1.0 - same_within) * correction,
  )
  is_lost = same >= 1.0
  ratio = gained / tf.where(is_lost, tf.ones_like(same), 1.0 - same)
  size = num_islands * num_particles
  lost = tf.math.log1p(ratio) - _log_factor(size, same.dtype)
  return tf.where(is_lost, tf.zeros_like(lost), lost)


def _same_root(islands, shares):
  """Returns probabilities of one root, within each island and overall."""
  num_islands, num_particles, *batch_shape = islands.log_weights.shape.as_list()
  weights = axes.swap_first_axes(
    reductions.normalize(axes.swap_first_axes(islands.log_weights))
  )
  # The remainders are roots within each island, counted from zero.
  same_within = reductions.reduce(
    tf.reduce_sum,
    reductions.sum_by_root(
      axes.swap_first_axes(weights),
      axes.swap_first_axes(islands.root % num_particles),
    )
    ** 2,
  )
  all_weights = tf.reshape(
    weights * tf.cast(shares, weights.dtype)[:, tf.newaxis],
    [num_islands * num_particles] + batch_shape,
  )
  root = tf.reshape(islands.root, all_weights.shape)
  same = reductions.reduce(
    tf.reduce_sum, reductions.sum_by_root(all_weights, root) ** 2
  )
  return same_within, same


def _log_factor(size, dtype):
  """Returns the log of the factor `N / (N - 1)` of `log_normalizer_error`."""
  return -tf.math.log1p(-1.0 / tf.cast(max(size, 2), dtype))


def combine_islands(
  islands: particles.WeightedParticles,
  origin: tf.Tensor | None = None,
  log_pairs_lost: tf.Tensor | None = None,
  summaries: IslandSummary | None = None,
) -> particles.WeightedParticles:
  """Joins the particles of all islands, with their weights.

  The log normalizer is then the log mean of the islands' estimates, and an
  expectation is the mean of the islands' expectations, weighted by these
  estimates. Errors combine those of the islands, as ancestors in different
  islands are different.

  Args:
    islands: `WeightedParticles` whose fields have a first axis over islands;
      `root` is from zero on in each of them.
    origin: int `Tensor` of shape `[num_islands] + batch`: the island that each
      one's particles were drawn in.
      Default value: `None` (i.e., the island itself).
    log_pairs_lost: float `Tensor` of shape `batch`: the loss by earlier
      resampling, which the field of `islands` does not include.
      Default value: `None` (i.e., nothing).
    summaries: `IslandSummary` of shape `[num_islands] + batch`, without
      `origin`: summaries that are known already.
      Default value: `None` (i.e., sums over all particles are taken here).

  Returns:
    particles: `WeightedParticles` of `num_islands * num_particles` particles,
      those of an island one after the other.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi import weighting

  zeros = tf.zeros([2, 3])
  islands = nvi.WeightedParticles(
    zeros, zeros, tf.tile([[0, 1, 2]], [2, 1]), tf.zeros([2]), tf.zeros([2])
  )
  particles = weighting.combine_islands(islands)
  assert list(particles.root.numpy()) == [0, 1, 2, 3, 4, 5]
  ```
  """
  num_islands, num_particles, *batch_shape = islands.log_weights.shape.as_list()
  islands = islands._replace(
    root=global_root(islands.root, origin),
  )
  lost = log_pairs_lost_within(islands, summaries)
  if log_pairs_lost is not None:
    lost += tf.cast(log_pairs_lost, lost.dtype)

  def join(x):
    return tf.reshape(x, [num_islands * num_particles] + x.shape[2:].as_list())

  return particles.WeightedParticles(
    tf.nest.map_structure(join, islands.particles),
    join(islands.log_weights),
    join(islands.root),
    tf.reduce_sum(islands.num_nan),
    lost,
  )


def global_root(root: tf.Tensor, origin: tf.Tensor | None = None) -> tf.Tensor:
  """Makes roots different in islands of different origin.

  Args:
    root: int32 `Tensor` of shape `[num_islands, num_particles] + batch`, from
      zero on in each island.
    origin: As in `combine_islands`.

  Returns:
    root: int32 `Tensor` of the same shape.

  ```python
  import tensorflow as tf
  from tfp_nvi.weighting import islands

  root = islands.global_root(tf.constant([[0, 1], [1, 1]]))
  assert root.numpy().tolist() == [[0, 1], [3, 3]]
  ```
  """
  num_islands, num_particles, *batch_shape = root.shape.as_list()
  if origin is None:
    origin = axes.particle_indices([num_islands, *batch_shape])
  return root + num_particles * origin[:, tf.newaxis]


def resample_islands(
  values: Any,
  log_weights: tf.Tensor,
  resample_fn: Callable[..., Any],
  seed: types.Seed,
  where: tf.Tensor,
) -> tuple[Any, tf.Tensor, tf.Tensor]:
  """Resamples islands by their mean weights, each with all of its particles.

  Every island gets the mean weight of all islands; within it, particles keep
  their shares. As in the resampling of particles, the expectation of weight
  times any function does not change.

  Args:
    values: Nested structure of `Tensor`s of shape
      `[num_islands, num_particles] + batch + event`.
    log_weights: float `Tensor` of shape `[num_islands, num_particles] + batch`.
    resample_fn: As in `tfp_nvi.resample`.
    seed: Stateless seed.
    where: bool `Tensor` of shape `batch`: which batch members to resample.

  Returns:
    values: As `values`.
    log_weights: As `log_weights`.
    indices: int32 `Tensor` of shape `[num_islands] + batch`: the island that
      each one is a copy of.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi.weighting import islands

  values, log_weights, indices = islands.resample_islands(
    tf.constant([[1.0, 2.0], [3.0, 4.0]]),
    tf.math.log([[0.0, 0.0], [1.0, 3.0]]),
    nvi.resample_systematic,
    seed=1,
    where=tf.constant(True),
  )
  assert list(indices.numpy()) == [1, 1]
  tf.debugging.assert_near(tf.exp(log_weights), [[0.5, 1.5], [0.5, 1.5]])
  ```
  """
  num_islands, _, *batch_shape = log_weights.shape.as_list()
  rank = len(batch_shape)

  # The particles of an island are part of its event.
  def as_event(x):
    return tf.transpose(
      x, [0, *range(2, 2 + rank), 1, *range(2 + rank, x.shape.rank)]
    )

  def as_axis(x):
    return tf.transpose(
      x, [0, 1 + rank, *range(1, 1 + rank), *range(2 + rank, x.shape.rank)]
    )

  own = island_log_weights(log_weights)
  is_zero = tf.equal(own, -float('inf'))
  relative = (
    log_weights - tf.where(is_zero, tf.zeros_like(own), own)[:, tf.newaxis]
  )
  indices = axes.particle_indices(own.shape)
  (values, relative, indices), own = resample(
    (
      tf.nest.map_structure(as_event, values),
      as_event(relative),
      indices,
    ),
    own,
    resample_fn,
    seed,
    where=where,
  )
  return (
    tf.nest.map_structure(as_axis, values),
    as_axis(relative) + own[:, tf.newaxis],
    indices,
  )

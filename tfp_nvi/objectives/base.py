# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contract of an objective.

An objective runs a sampler and returns an `Estimate` together with gradients.
It differentiates by itself, so that each kind may do so in the way that suits
it: all levels together, one level after the other, or through a whole run.
"""

import abc
import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import runs, weighting
from tfp_nvi.internal import axes

__all__ = [
  'Estimate',
  'Objective',
  'Side',
  'estimate_run',
  'pair_gradients',
]


class Estimate(NamedTuple):
  """The value of an objective, and a summary of the run that gave it.

  Fields:
    loss: float `Tensor` of shape `batch`: estimate of the objective.
    log_normalizer: float `Tensor` of shape `batch`.
    effective_sample_size: float `Tensor` of shape `batch`: that of the last
      level.
    log_incremental_weights: float `Tensor` of shape `[num_levels] + batch`: the
      mean of `log v` at each level after the first, by the weights that the
      level received. `log(Z_k / Z_{k-1})` exceeds it by the reverse KL
      divergence of the level.
    level_effective_sample_sizes: float `Tensor` of shape
      `[num_levels] + batch`: the effective sample size of the particles that
      each level hands on, before they are resampled.
    num_nan: Scalar int32 `Tensor`: how many log densities were NaN or +inf, and
      were taken to be zero densities.
  """

  loss: tf.Tensor
  log_normalizer: tf.Tensor
  effective_sample_size: tf.Tensor
  log_incremental_weights: tf.Tensor
  level_effective_sample_sizes: tf.Tensor
  num_nan: tf.Tensor


class Side(enum.Flag):
  """Which parameters a nested objective trains.

  FORWARD: what level `k` proposes from: its forward kernel, and the parameters
    of the density `gamma_{k-1}` of the level before.
  REVERSE: what level `k` is weighted for: its reverse kernel, and the
    parameters of its density `gamma_k`.
  BOTH: both. "Full" optimization, where FORWARD alone is "partial".
  """

  FORWARD = enum.auto()
  REVERSE = enum.auto()
  BOTH = FORWARD | REVERSE


class Objective(metaclass=abc.ABCMeta):
  """Base class of objectives, which `tfp_nvi.fit` minimizes.

  A subclass has `__call__`, and a `description` if it has settings.

  ```python
  import tensorflow_probability as tfp
  import tf_keras
  import tfp_nvi as nvi
  from tfp_nvi.internal import randomness

  path = nvi.GeometricPath(
    tfp.distributions.Normal(0.0, 1.0),
    tfp.distributions.Normal(1.0, 1.0),
    num_densities=2,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  estimate, gradients = nvi.reverse_kl()(sampler, 10, randomness.as_seed(1))
  tf_keras.optimizers.Adam(0.01).apply_gradients(gradients)
  ```
  """

  @abc.abstractmethod
  def __call__(
    self, sampler: Any, num_particles: int, seed: tf.Tensor
  ) -> tuple[Estimate, list[tuple[tf.Tensor, tf.Variable]]]:
    """Estimates the objective and its gradients.

    Args:
      sampler: `NestedSampler` or `Chain`.
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      estimate: `Estimate`.
      gradients: List of pairs of a gradient and its variable, as optimizers
        take them, for the variables that the objective depends on. They are of
        the loss summed over batch members.
    """

  @property
  def description(self) -> str:
    """Tells this objective from others, for checkpoints."""
    return type(self).__name__


def estimate_run(run: runs.Run, loss: tf.Tensor) -> Estimate:
  """The `Estimate` of a finished run.

  Args:
    run: `Run` that is finished.
    loss: float `Tensor` of shape `batch`.

  Returns:
    estimate: `Estimate`.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi.internal import randomness
  from tfp_nvi.objectives import base

  path = nvi.GeometricPath(
    tfp.distributions.Normal(0.0, 1.0),
    tfp.distributions.Normal(1.0, 1.0),
    num_densities=2,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  run = sampler.run(10, randomness.as_seed(1))
  estimate = base.estimate_run(run, -run.particles.log_weights[0])
  assert estimate.level_effective_sample_sizes.shape == [1]
  ```
  """
  before, increments, after = axes.swap_first_axes(
    run.collect(
      lambda record: (
        record.previous.log_weights,
        record.log_incremental_weights,
        record.particles.log_weights,
      )
    )
  )
  log_weights = run.particles.log_weights
  return Estimate(
    loss=loss,
    log_normalizer=weighting.log_normalizer(log_weights),
    effective_sample_size=weighting.effective_sample_size(log_weights),
    log_incremental_weights=weighting.weighted_mean(
      weighting.normalize_weights(before), increments
    ),
    level_effective_sample_sizes=weighting.effective_sample_size(after),
    num_nan=run.num_nan(),
  )


def pair_gradients(
  gradients: Sequence[tf.Tensor | tf.IndexedSlices | None],
  variables: Sequence[tf.Variable],
) -> list[tuple[tf.Tensor, tf.Variable]]:
  """Pairs of a gradient and its variable, for those that have a gradient.

  Args:
    gradients: List of `Tensor`s, `tf.IndexedSlices` or `None`.
    variables: List of `tf.Variable`s.

  Returns:
    pairs: List of pairs of a `Tensor` and a `tf.Variable`.

  ```python
  import tensorflow as tf
  from tfp_nvi.objectives import base

  x = tf.Variable(1.0)
  assert base.pair_gradients([None], [x]) == []
  ```
  """
  return [
    (tf.convert_to_tensor(gradient), variable)
    for gradient, variable in zip(gradients, variables, strict=True)
    if gradient is not None
  ]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling policies: criteria for when to resample."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_nvi.internal import checks, reductions

__all__ = [
  'always',
  'ess_below',
  'evaluate_criterion',
  'never',
]


def never(weighted_particles: Any) -> bool:
  """Never resamples; a resampling policy.

  Args:
    weighted_particles: `WeightedParticles`.

  Returns:
    Python `False`.

  ```python
  import tfp_nvi as nvi

  assert nvi.never(None) is False
  ```
  """
  del weighted_particles
  return False


def always(weighted_particles: Any) -> bool:
  """Resamples before every level after the first; a resampling policy.

  Args:
    weighted_particles: `WeightedParticles`.

  Returns:
    Python `True`.

  ```python
  import tfp_nvi as nvi

  assert nvi.always(None) is True
  ```
  """
  del weighted_particles
  return True


def ess_below(threshold: float = 0.5) -> Callable[[Any], tf.Tensor]:
  """Makes a policy that resamples when the effective sample size has fallen.

  It equals `tfp.experimental.mcmc.ess_below_threshold`, but with a threshold of
  choice.

  Args:
    threshold: Python `float`, as a share of the number of particles.
      Default value: `0.5`.

  Returns:
    resample_criterion_fn: Python callable from `WeightedParticles` to a bool
      `Tensor` of shape `batch`.

  Raises:
    TypeError: If `threshold` is not a number.
    ValueError: If it is not between 0 and 1.

  ```python
  import tfp_nvi as nvi

  criterion = nvi.ess_below(0.9)
  assert criterion(nvi.WeightedParticles([1.0, 2.0], [0.0, 3.0]))
  ```
  """
  threshold = checks.as_float('threshold', threshold, minimum=0.0, maximum=1.0)

  def criterion(weighted_particles):
    try:
      log_weights = weighted_particles.log_weights
    except AttributeError as e:
      raise TypeError(
        '`weighted_particles` must be WeightedParticles; got '
        f'{weighted_particles!r}.'
      ) from e
    log_weights = reductions.as_particles('log_weights', log_weights)
    ess = reductions.effective_sample_size(log_weights)
    num_particles = tf.cast(tf.shape(log_weights)[0], ess.dtype)
    return ess < threshold * num_particles

  return criterion


def evaluate_criterion(
  name: str, criterion_fn: Callable, weighted_particles: Any
) -> bool | tf.Tensor:
  """Evaluates a resampling policy, and checks its value.

  Args:
    name: Python `str`: the name of the argument, for errors.
    criterion_fn: Python callable from `WeightedParticles` to a Python `bool`,
      or a bool `Tensor` of shape `batch` or `[1] + batch`.
    weighted_particles: `WeightedParticles` with log weights of shape
      `[num_particles] + batch`.

  Returns:
    where: Python `bool`, or bool `Tensor` of shape `batch`.

  Raises:
    TypeError: If it returns something of another type.
    ValueError: If it returns a `Tensor` of another shape.

  ```python
  import tfp_nvi as nvi
  from tfp_nvi.resampling import evaluate_criterion

  particles = nvi.WeightedParticles([1.0, 2.0], [0.0, 3.0])
  assert evaluate_criterion('criterion_fn', nvi.always, particles) is True
  ```
  """
  where = criterion_fn(weighted_particles)
  if isinstance(where, bool):
    return where
  batch_shape = weighted_particles.log_weights.shape[1:]
  check = functools.partial(
    checks.check_returned,
    name,
    expected='a Python bool or a bool Tensor',
    kind='bool',
  )
  where = check(where)
  # The policies of TFP keep an axis for the particles.
  if where.shape == tf.TensorShape([1]) + batch_shape:
    where = tf.squeeze(where, axis=0)
  return check(where, shape=batch_shape)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling policies: criteria for when to resample."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_nvi.internal import checks, reductions

__all__ = [
  'always',
  'ess_below',
  'never',
]


def never(weighted_particles: Any) -> bool:
  """Resampling policy: never.

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
  """Resampling policy: before every level after the first.

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
  """Resampling policy: when the effective sample size has fallen.

  The same as `tfp.experimental.mcmc.ess_below_threshold` with a threshold of
  one's own.

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

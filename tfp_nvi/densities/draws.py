# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of densities that a user may pass, and draws from them."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, compatibility, randomness, types

tfd = tfp.distributions

__all__ = [
  'NUM_PROBES',
  'draw',
  'draw_of_shape',
  'is_sampleable',
  'log_prob_fn',
  'static_batch_shape',
]

# Number of draws that the checks before a run evaluate densities at.
NUM_PROBES = 16


def log_prob_fn(density: types.Density, name: str) -> Callable:
  """The unnormalized log density of anything that a user may pass as one.

  Args:
    density: The argument.
    name: Python `str` name of the argument.

  Returns:
    log_prob_fn: Python callable from a point to its log density.

  Raises:
    TypeError: If the argument is not a density.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  fn = nvi.densities.log_prob_fn(tfp.distributions.Normal(0.0, 1.0), 'target')
  assert fn(0.0).shape == []
  ```
  """
  if isinstance(density, tfd.Distribution):
    return density.log_prob
  for method in ('unnormalized_log_prob', 'log_prob'):
    if hasattr(density, method):
      return compatibility.inline(getattr(density, method))
  checks.check_callable(
    name,
    density,
    'a tfd.Distribution, a JointDistribution, a JointDistributionPinned, or a '
    'callable that returns an unnormalized log density',
  )
  return compatibility.inline(density)


def is_sampleable(density: types.Density) -> bool:
  """Whether a density can serve as an initial proposal, being normalized.

  Args:
    density: Any kind of density.

  Returns:
    is_sampleable: Python `bool`.

  ```python
  import tfp_nvi as nvi

  assert not nvi.densities.is_sampleable(lambda x: -(x**2))
  ```
  """
  return isinstance(density, tfd.Distribution)


def static_batch_shape(density: types.Density) -> tf.TensorShape:
  """The batch shape of a density, as far as it says.

  Args:
    density: Any kind of density.

  Returns:
    batch_shape: `TensorShape`.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  normal = tfp.distributions.Normal([0.0, 1.0], 1.0)
  assert nvi.densities.static_batch_shape(normal) == [2]
  ```
  """
  shapes = tf.nest.flatten(getattr(density, 'batch_shape', []))
  return functools.reduce(
    tf.broadcast_static_shape, map(tf.TensorShape, shapes), tf.TensorShape([])
  )


def draw(
  distribution: tfd.Distribution,
  num_particles: int,
  batch_shape: list[int],
  seed: types.StatelessSeed,
) -> types.Structure:
  """Draws points of the space of a distribution.

  Args:
    distribution: `tfd.Distribution`.
    num_particles: Python `int`.
    batch_shape: List of Python `int`s, to which the batch shape of the
      distribution broadcasts.
    seed: Stateless seed.

  Returns:
    values: Nested structure of `Tensor`s of shape
      `[num_particles] + batch_shape + event`, independent for each particle and
      batch member.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  normal = tfp.distributions.Normal(0.0, 1.0)
  assert nvi.densities.draw(normal, 5, [2], (1, 2)).shape == [5, 2]
  ```
  """
  return draw_of_shape(distribution, [num_particles] + batch_shape, seed)


def draw_of_shape(
  distribution: tfd.Distribution,
  shape: list[int] | tf.TensorShape,
  seed: types.StatelessSeed,
) -> types.Structure:
  """Draws points of the space of a distribution.

  Args:
    distribution: `tfd.Distribution`.
    shape: List of Python `int`s, or `TensorShape`, to which the batch shape of
      the distribution broadcasts.
    seed: Stateless seed.

  Returns:
    values: Nested structure of `Tensor`s of shape `shape + event`, independent
      for each element of the shape.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  normal = tfp.distributions.Normal([0.0, 9.0], 1.0)
  assert nvi.densities.draw_of_shape(normal, [5, 2], (1, 2)).shape == [5, 2]
  ```
  """
  own_shape = static_batch_shape(distribution).as_list()
  own_rank = len(own_shape)
  leading = shape[: len(shape) - own_rank]
  repeats = [
    1 if size == own_size else size
    for size, own_size in zip(
      shape[len(shape) - own_rank :], own_shape, strict=True
    )
  ]
  if set(repeats) <= {1}:
    return _sample(distribution, leading, seed)

  def merge_repeats(x):
    """Brings each repeated axis to the axis of size one that it replaces."""
    rank = len(leading)
    axes = list(range(rank))
    for i in range(rank, rank + own_rank):
      axes += [i, i + own_rank]
    event_axes = range(len(axes), x.shape.rank)
    event_shape = x.shape[len(axes) :].as_list()
    return tf.reshape(
      tf.transpose(x, axes + list(event_axes)), shape + event_shape
    )

  return tf.nest.map_structure(
    merge_repeats, _sample(distribution, leading + repeats, seed)
  )


def _sample(distribution, sample_shape, seed):
  """Draws in a way that XLA can compile."""
  with randomness.portable_sampling():
    if not getattr(distribution, 'use_vectorized_map', False):
      return distribution.sample(sample_shape, seed=seed)
    # One draw after the other. TFP would vectorize the model over the draws,
    # and XLA cannot compile the result for rejection samplers, such as that of
    # a gamma distribution.
    values = tf.map_fn(
      lambda one_seed: distribution.sample(seed=one_seed),
      randomness.split_seed(seed, int(np.prod(sample_shape))),
      fn_output_signature=distribution.dtype,
    )
  return tf.nest.map_structure(
    lambda x: tf.reshape(x, sample_shape + x.shape[1:].as_list()), values
  )

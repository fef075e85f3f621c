# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling of weighted particles, by any resampling function."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import axes, checks, randomness, reductions, types
from tfp_nvi.resampling import schemes

__all__ = [
  'check_resample_fn',
  'gather_ancestors',
  'resample',
]


def gather_ancestors(
  values: types.TensorLike, indices: types.TensorLike
) -> tf.Tensor:
  """Selects particles by their indices.

  Args:
    values: `Tensor` of shape `[num_particles] + batch + event`.
    indices: int `Tensor` of shape `[num_draws] + batch`.

  Returns:
    selected: `Tensor` of shape `[num_draws] + batch + event`.

  Raises:
    TypeError: If an argument is not a `Tensor`, or `indices` not of integers.
    ValueError: If the shapes do not match, or an index, where it is known, is
      out of range.

  ```python
  import tensorflow as tf
  from tfp_nvi import resampling

  selected = resampling.gather_ancestors(
    tf.constant([1.0, 2.0, 3.0]), tf.constant([2, 0])
  )
  assert list(selected.numpy()) == [3.0, 1.0]
  ```
  """
  values = checks.as_tensor('values', values, min_rank=1)
  indices = checks.as_tensor('indices', indices, kind='integer', min_rank=1)
  batch_shape = indices.shape[1:]
  if values.shape[1 : indices.shape.rank] != batch_shape:
    raise ValueError(
      f'`values` must have the batch shape of `indices`, {batch_shape}, behind '
      f'the particles; got shape {values.shape}.'
    )
  _check_range('`indices` must be', indices, values.shape[0])
  return _gather(values, indices)


def _gather(values, indices):
  """Selects particles as `gather_ancestors` does, without checks."""
  if indices.shape.rank == 1:
    return tf.gather(values, indices)
  # Particles are moved to the last axis, where transitions have them, and there
  # is one index for all axes.
  size, *shape = values.shape.as_list()
  num_draws, *batch_shape = indices.shape.as_list()
  batch_size = math.prod(batch_shape)
  num_values = math.prod(shape[len(batch_shape) :])
  dtype = tf.int32 if size * batch_size * num_values < 2**31 else tf.int64
  starts = size * tf.reshape(
    tf.range(batch_size * num_values, dtype=dtype), [batch_size, num_values, 1]
  )
  indices = tf.transpose(
    tf.reshape(tf.cast(indices, dtype), [num_draws, batch_size, 1]), [1, 2, 0]
  )
  last = tf.transpose(values, [*range(1, values.shape.rank), 0])
  gathered = tf.gather(tf.reshape(last, [-1]), starts + indices)
  gathered = tf.reshape(gathered, shape + [num_draws])
  return tf.transpose(gathered, [len(shape), *range(len(shape))])


def _check_range(what, indices, size):
  """Raises an error if an index, where it is known, is out of range."""
  reductions.check_numbers(
    f'{what} from 0 to {size - 1}', indices, lambda x: (x >= 0) & (x < size)
  )


def resample(
  particles: Any,
  log_weights: types.TensorLike,
  resample_fn: Callable[..., Any],
  seed: types.Seed | None,
  where: Any = None,
  num_draws: int | None = None,
) -> tuple[Any, tf.Tensor]:
  """Resamples particles; the weights all become the mean weight.

  TFP's `resample_systematic`, `resample_stratified` and `resample_independent`
  are replaced by the functions of the same name and law of this package. TFP's
  functions round their sums of weights, which under XLA gives offspring to
  particles of weight zero from some thousands of particles on. If another
  function returns the index of a particle of weight zero, that index is
  replaced by the one of the nearest particle before it that has weight, or else
  of the first particle that has weight. Where rounding has moved a point over
  the end of a share, this is the share that the point came from. An index out
  of range, which XLA would clamp, makes the weight NaN; where the values are
  known, it is an error.

  Args:
    particles: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    resample_fn: Python callable with the signature of
      `tfp.experimental.mcmc.resample_systematic`, one of TFP's or another one
      with an expected number of offspring proportional to the weight.
    seed: Python `int` or stateless seed.
    where: Optional bool `Tensor` of shape `batch`: which batch members to
      resample. The others stay as they are.
      Default value: `None` (i.e., all).
    num_draws: Python `int`: how many particles to draw, without `where`.
      Default value: `None` (i.e., as many as there are).

  Returns:
    particles: As the argument, apart from the number of particles.
    log_weights: As the argument, apart from the number of particles.

  Raises:
    TypeError: If an argument is of another kind, or `resample_fn` does not
      return a `Tensor`.
    ValueError: If a shape is wrong, a weight, where it is known, is NaN or
      infinite, or `resample_fn` does not return indices of particles.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  particles, log_weights = nvi.resample(
    tf.constant([1.0, 2.0]),
    tf.math.log([0.0, 4.0]),
    nvi.resample_systematic,
    seed=1,
  )
  assert list(particles.numpy()) == [2.0, 2.0]
  tf.debugging.assert_near(tf.exp(log_weights), [2.0, 2.0])
  ```
  """
  log_weights = reductions.as_log_weights('log_weights', log_weights)
  if not log_weights.shape.is_fully_defined():
    raise ValueError(
      f'`log_weights` must have a static shape; got {log_weights.shape}.'
    )
  particles = _as_particles(particles, log_weights.shape)
  checks.check_callable('resample_fn', resample_fn)
  if num_draws is not None:
    num_draws = checks.as_count('num_draws', num_draws)
  if where is not None:
    where = _as_where(where, log_weights.shape[1:], num_draws)
  seed = randomness.as_seed(seed)
  num_particles = log_weights.shape[0]
  indices, mean, is_valid = _draw_ancestors(
    reductions.widen(log_weights), num_draws or num_particles, resample_fn, seed
  )
  resampled = tf.broadcast_to(tf.cast(mean, log_weights.dtype), indices.shape)
  if is_valid is not None:
    resampled = tf.where(
      is_valid, resampled, tf.constant(np.nan, resampled.dtype)
    )
  if where is not None:
    identity = axes.particle_indices(
      [num_particles] + [1] * (log_weights.shape.rank - 1)
    )
    indices = tf.where(where, indices, tf.cast(identity, indices.dtype))
    resampled = tf.where(where, resampled, log_weights)
  return (
    tf.nest.map_structure(lambda x: _gather(x, indices), particles),
    resampled,
  )


def _draw_ancestors(log_weights, num_draws, resample_fn, seed):
  """Returns ancestors, the log mean weight, and a validity mask or `None`."""
  # Where every weight is zero, any ancestors are right; equal probabilities
  # keep the resampling function from dividing by zero.
  maximum = reductions.reduce(tf.reduce_max, log_weights)
  is_zero = tf.logical_and(
    tf.equal(maximum, -float('inf')),
    # The maximum does not imply this, as that of XLA ignores NaN.
    tf.equal(log_weights, -float('inf')),
  )
  relative = tf.where(
    is_zero, tf.zeros_like(log_weights), log_weights - maximum
  )
  weights = tf.exp(relative)
  total = reductions.reduce(tf.reduce_sum, weights)
  log_total = tf.math.log(total)
  log_mean = maximum + log_total - np.log(log_weights.shape[0])
  draw_fn = schemes.exact_draw_fn(resample_fn)
  if draw_fn is not None:
    return draw_fn(weights / total, num_draws, seed), log_mean, None
  with randomness.portable_sampling():
    indices = resample_fn(relative - log_total, num_draws, (), seed=seed)
  indices, is_valid = _check_indices(indices, log_weights.shape, num_draws)
  return _away_from_zero(indices, relative), log_mean, is_valid


def _check_indices(indices, shape, num_draws):
  """Returns indices clipped to their range, and a mask of the valid ones."""
  num_particles = shape[0]
  shape = [num_draws] + shape[1:].as_list()
  indices = checks.check_returned(
    'resample_fn', indices, 'integers', shape=shape, kind='integer'
  )
  _check_range('`resample_fn` must return integers', indices, num_particles)
  is_valid = tf.logical_and(indices >= 0, indices < num_particles)
  indices = tf.clip_by_value(indices, 0, num_particles - 1)
  return tf.cast(indices, tf.int32), is_valid


def _away_from_zero(indices, log_weights):
  """Replaces indices of particles of weight zero; see `resample`."""
  num_particles = log_weights.shape[0]
  has_weight = tf.reshape(log_weights > -float('inf'), [num_particles, -1])
  rank = reductions.cumulative_sum(tf.cast(has_weight, tf.int32)) - 1
  own = tf.broadcast_to(
    tf.range(num_particles)[:, tf.newaxis], has_weight.shape
  )
  # `ordered` has the particles with weight, in order, and the rest in a last
  # row.
  ordered = schemes.scatter_columns(
    tf.where(has_weight, rank, num_particles), own, num_particles + 1
  )
  nearest = schemes.gather_columns(ordered, tf.maximum(rank, 0))
  rows = tf.reshape(indices, [indices.shape[0], -1])
  return tf.reshape(schemes.gather_columns(nearest, rows), indices.shape)


def _as_particles(particles, shape):
  """Checks that there are as many particles as weights."""

  def check(x):
    x = checks.as_tensor('particles', x)
    if x.shape.rank is None or x.shape[: shape.rank] != shape:
      raise ValueError(
        f'`particles` must have the shape of `log_weights`, {shape}, followed '
        f'by events; got {x.shape}.'
      )
    return x

  return tf.nest.map_structure(check, particles)


def _as_where(where, batch_shape, num_draws):
  """Converts `where`, which cannot be given together with `num_draws`."""
  where = checks.as_tensor('where', where, kind='bool')
  if not axes.broadcasts_to(where.shape, batch_shape):
    raise ValueError(
      f'`where` must have the batch shape of `log_weights`, {batch_shape}; got '
      f'{where.shape}.'
    )
  if num_draws is not None:
    raise ValueError(
      f'`num_draws` must be None where `where` is given; got {num_draws}.'
    )
  return where


def check_resample_fn(
  resample_fn: Callable[..., Any], batch_shape: types.Shape = ()
) -> None:
  """Tries a resampling function on two particles, and checks its indices.

  XLA clamps indices that are out of range; this function detects, for example,
  indices that count from one. Errors that the resampling function itself raises
  are ignored, because it may need another number of particles.

  Args:
    resample_fn: As in `resample`.
    batch_shape: Shape of the batch to try it on.
      Default value: `()`.

  Raises:
    TypeError: If `resample_fn` cannot be called with log probabilities, a
      number of draws, a shape of repetitions and a seed, or does not return a
      `Tensor`.
    ValueError: If it does not return indices of particles that have weight, of
      the right shape.

  ```python
  import tfp_nvi as nvi
  from tfp_nvi import resampling

  resampling.check_resample_fn(nvi.resample_systematic)
  ```
  """
  checks.check_callable('resample_fn', resample_fn)
  batch_shape = checks.as_batch_shape('batch_shape', batch_shape)
  if schemes.exact_draw_fn(resample_fn) is not None:
    return
  shape = tf.TensorShape([2]) + batch_shape
  try:
    inspect.signature(resample_fn).bind(None, 2, (), seed=None)
  except TypeError as e:
    raise TypeError(
      '`resample_fn` must take log probabilities, a number of draws, a shape '
      f'and `seed`; got {resample_fn!r}: {e}.'
    ) from e
  except ValueError:
    # The callable has no signature, as some built-in functions.
    pass
  # The trial must not be in a graph that may be under construction.
  with tf.init_scope(), randomness.portable_sampling():
    for i in range(2):
      log_probs = tf.broadcast_to(
        tf.reshape(
          tf.math.log([[0.0, 1.0], [1.0, 0.0]][i]), [2] + [1] * len(batch_shape)
        ),
        shape,
      )
      try:
        indices = resample_fn(log_probs, 2, (), seed=randomness.as_seed(i))
      except Exception:  # pylint: disable=broad-except
        return
      indices, _ = _check_indices(indices, shape, 2)
      if np.any(indices.numpy() != 1 - i):
        raise ValueError(
          '`resample_fn` must give no offspring to particles of weight zero; '
          f'of the weights {[0.0, 1.0] if i == 0 else [1.0, 0.0]} it gave '
          f'offspring to particle {i}.'
        )

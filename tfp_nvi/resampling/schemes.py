# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling functions: ancestors drawn by weight, with exact arithmetic.

Each function converts the weights to integers once, and draws by these; see the
docstring of the package for the consequences.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, fusion, randomness, reductions, types

__all__ = [
  'exact_draw_fn',
  'gather_columns',
  'resample_independent',
  'resample_stratified',
  'resample_systematic',
  'scatter_columns',
]

# The total of the integer weights, up to rounding. Multiplied by the number of
# draws it exceeds 64 bits; only differences of such products are used, which
# integers that wrap around give exactly as long as they are below 2^63.
_TOTAL = 2.0**60


def resample_systematic(
  log_probs: types.TensorLike,
  event_size: int,
  sample_shape: Any = (),
  particles_dim: int = 0,
  seed: types.Seed | None = None,
  name: str | None = None,
) -> tf.Tensor:
  """Draws ancestors by systematic resampling, in linear time.

  This function draws in the same way as
  `tfp.experimental.mcmc.resample_systematic`, and has its signature, but is
  exact (see the docstring of the package). It places the ancestors by counting,
  where that function sorts. In a compiled loop it takes two microseconds
  instead of thirty for 36 particles, and a fifth of a millisecond instead of
  eight milliseconds for 10,000.

  Particle `i` gets as many of the points `u, u + 1, ..., u + event_size - 1` as
  fall into its share of `[0, event_size)`, where `u` is uniform on `[0, 1)`:
  the expected number of its offspring is `event_size` times its weight, and the
  number is the floor or the ceiling of that.

  Args:
    log_probs: float `Tensor` of shape `[num_particles] + batch`: logarithms of
      weights, normalized over the particles.
    event_size: Python `int` number of draws.
    sample_shape: Shape of independent repetitions, placed behind the draws.
      Default value: `()`.
    particles_dim: Python `int` axis of the particles.
      Default value: `0`.
    seed: Python `int` or stateless seed.
    name: Python `str` name for ops created by this function.

  Returns:
    indices: int32 `Tensor` of shape `[event_size] + sample_shape + batch`.

  Raises:
    TypeError: If an argument is of another kind.
    ValueError: If a shape is wrong, or a value of `log_probs`, where it is
      known, is NaN or infinity, or all are zero weights.

  #### References

  [1]: J. Carpenter, P. Clifford, P. Fearnhead. An improved particle filter for
       non-linear problems. IEE Proceedings - Radar, Sonar and Navigation, 1999.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  indices = nvi.resample_systematic(
    tf.math.log([0.25, 0.75]), event_size=4, seed=1
  )
  assert list(indices.numpy()) == [0, 1, 1, 1]
  ```
  """
  with tf.name_scope(name or 'resample_systematic'):
    return _resample_exactly(
      _systematic, log_probs, event_size, sample_shape, seed, particles_dim
    )


def resample_stratified(
  log_probs: types.TensorLike,
  event_size: int,
  sample_shape: Any = (),
  seed: types.Seed | None = None,
  name: str | None = None,
) -> tf.Tensor:
  """Draws ancestors by stratified resampling, in linear time.

  This function differs from `resample_systematic` in that each of the
  `event_size` points has its own offset. The law is that of
  `tfp.experimental.mcmc.resample_stratified`.

  Args:
    log_probs: As in `resample_systematic`.
    event_size: As in `resample_systematic`.
    sample_shape: As in `resample_systematic`.
    seed: Python `int` or stateless seed.
    name: Python `str` name for ops created by this function.

  Returns:
    indices: As in `resample_systematic`.

  Raises:
    TypeError: As in `resample_systematic`.
    ValueError: As in `resample_systematic`.

  #### References

  [1]: G. Kitagawa. Monte Carlo filter and smoother for non-Gaussian nonlinear
       state space models. Journal of Computational and Graphical Statistics,
       5(1), 1996.

  ```python
  import tensorflow as tf
  from tfp_nvi import resampling

  indices = resampling.resample_stratified(
    tf.math.log([0.25, 0.75]), event_size=4, seed=1
  )
  assert list(indices.numpy()) == [0, 1, 1, 1]
  ```
  """
  with tf.name_scope(name or 'resample_stratified'):
    return _resample_exactly(
      _stratified, log_probs, event_size, sample_shape, seed
    )


def resample_independent(
  log_probs: types.TensorLike,
  event_size: int,
  sample_shape: Any = (),
  seed: types.Seed | None = None,
  name: str | None = None,
) -> tf.Tensor:
  """Draws ancestors independently (multinomial resampling), by binary search.

  The law is that of `tfp.experimental.mcmc.resample_independent`, but for the
  order of the ancestors, which is random here.

  Args:
    log_probs: As in `resample_systematic`.
    event_size: As in `resample_systematic`.
    sample_shape: As in `resample_systematic`.
    seed: Python `int` or stateless seed.
    name: Python `str` name for ops created by this function.

  Returns:
    indices: As in `resample_systematic`.

  Raises:
    TypeError: As in `resample_systematic`.
    ValueError: As in `resample_systematic`.

  ```python
  import tensorflow as tf
  from tfp_nvi import resampling

  indices = resampling.resample_independent(
    tf.math.log([0.0, 1.0]), event_size=4, seed=1
  )
  assert list(indices.numpy()) == [1, 1, 1, 1]
  ```
  """
  with tf.name_scope(name or 'resample_independent'):
    return _resample_exactly(
      _independent, log_probs, event_size, sample_shape, seed
    )


def _resample_exactly(
  draw, log_probs, event_size, sample_shape, seed, particles_dim=0
):
  """Checks the arguments of a resampling function, and draws."""
  log_probs = checks.as_tensor(
    'log_probs', log_probs, kind='floating point', min_rank=1
  )
  rank = log_probs.shape.rank
  particles_dim = checks.as_count('particles_dim', particles_dim, -rank)
  if particles_dim >= rank:
    raise ValueError(
      f'`log_probs` must have an axis {particles_dim} of particles; got shape '
      f'{log_probs.shape}.'
    )
  if tf.is_tensor(event_size):
    event_size = tf.get_static_value(event_size)
  event_size = checks.as_count('event_size', event_size)
  sample_shape = checks.as_batch_shape('sample_shape', sample_shape).as_list()
  seed = randomness.as_seed(seed)
  if particles_dim != 0:
    log_probs = tf.experimental.numpy.moveaxis(log_probs, particles_dim, 0)
  log_probs = reductions.as_log_weights('log_probs', log_probs)
  reductions.check_numbers(
    '`log_probs` must have a particle of positive weight for each batch member',
    reductions.reduce(tf.reduce_max, log_probs),
    lambda x: x > -np.inf,
  )
  probs = tf.exp(reductions.widen(log_probs))
  probs /= reductions.reduce(tf.reduce_sum, probs, keepdims=True)
  num_particles, *batch_shape = probs.shape.as_list()
  if sample_shape:
    probs = tf.broadcast_to(
      tf.reshape(
        probs, [num_particles] + [1] * len(sample_shape) + batch_shape
      ),
      [num_particles] + sample_shape + batch_shape,
    )
  indices = draw(probs, event_size, seed)
  if particles_dim != 0:
    indices = tf.experimental.numpy.moveaxis(indices, 0, particles_dim)
  return indices


def _ends_of_shares(probs):
  """Computes the cumulative sum of integer weights, of shape `probs.shape`.

  A NaN is converted to some number within 64 bits, so that it can only be seen
  in the weights.
  """
  scaled = tf.cast(probs, tf.float64) * _TOTAL
  return reductions.cumulative_sum(tf.cast(scaled + 0.5, tf.int64))


def _as_points(offsets, total):
  """Returns offsets in units of the integer weights, from 0 to `total - 1`."""
  scaled = tf.cast(offsets, tf.float64) * tf.cast(total, tf.float64)
  return tf.minimum(tf.cast(scaled, tf.int64), total - 1)


def _systematic(probs, event_size, seed):
  """Draws ancestors of evenly spaced points, over axis 0."""
  offsets = randomness.uniform(probs.shape[1:], seed, dtype=probs.dtype)
  # Materialize; XLA would otherwise redraw for every particle.
  offsets = tf.cast(fusion.compute_once(offsets), tf.float64)
  ends = _ends_of_shares(probs)
  total = ends[-1]
  float_total = tf.cast(total, tf.float64)
  offset = _as_points(offsets, total)
  # The number of points before the end of each share is the ceiling of
  # `(event_size * end - offset) / total`. In float64 this is known to within
  # one half; the remainder, between minus one half and three halves of
  # `total`, decides.
  quotient = tf.cast(ends, tf.float64) * (event_size / float_total) - offsets
  whole = tf.cast(quotient, tf.int64)
  remainder = event_size * ends - whole * total - offset
  first_after = (
    tf.cast(whole, tf.int32)
    + tf.cast(remainder > 0, tf.int32)
    + tf.cast(remainder > total, tf.int32)
  )
  return _ancestors_of_points(first_after, event_size)


def _stratified(probs, event_size, seed):
  """Draws ancestors of one point in each of equal strata, over axis 0."""
  shape = probs.shape[1:].as_list()
  num_columns = math.prod(shape)
  offsets = fusion.compute_once(
    randomness.uniform([event_size] + shape, seed, dtype=probs.dtype)
  )
  ends = tf.reshape(_ends_of_shares(probs), [-1, num_columns])
  total = ends[-1]
  quotient = tf.cast(ends, tf.float64) * (event_size / tf.cast(total, 'double'))
  stratum = tf.cast(quotient, tf.int64)
  remainder = event_size * ends - stratum * total
  # The quotient may be rounded to the wrong side of an integer.
  error = tf.cast(remainder >= total, tf.int64) - tf.cast(
    remainder < 0, tf.int64
  )
  stratum += error
  remainder -= error * total
  # Before the end of a share are all points of the strata before this stratum,
  # and perhaps the point in it.
  offset = gather_columns(
    tf.reshape(offsets, [event_size, num_columns]),
    tf.clip_by_value(tf.cast(stratum, tf.int32), 0, event_size - 1),
  )
  first_after = tf.cast(stratum, tf.int32) + tf.cast(
    remainder > _as_points(offset, total), tf.int32
  )
  return _ancestors_of_points(tf.reshape(first_after, probs.shape), event_size)


def _independent(probs, event_size, seed):
  """Draws ancestors of independent points, over axis 0."""
  num_particles, *shape = probs.shape.as_list()
  num_columns = math.prod(shape)
  # float32 has fewer numbers than there may be particles.
  offsets = randomness.uniform([event_size] + shape, seed, dtype=tf.float64)
  ends = tf.reshape(_ends_of_shares(probs), [num_particles, num_columns])
  points = _as_points(
    tf.reshape(fusion.compute_once(offsets), [event_size, num_columns]),
    ends[-1],
  )
  num_bits = num_particles.bit_length()

  def set_bit(i, step, indices):
    candidates = indices + step
    end = gather_columns(ends, tf.minimum(candidates, num_particles) - 1)
    is_before = tf.logical_and(candidates <= num_particles, end <= points)
    return i + 1, step // 2, tf.where(is_before, candidates, indices)

  # The number of shares that end at or before a point, by binary search. It is
  # a loop, because XLA would otherwise compute each bit again for every later
  # one.
  _, _, indices = tf.while_loop(
    lambda i, *_: i < num_bits,
    set_bit,
    (
      tf.constant(0),
      tf.constant(2 ** (num_bits - 1)),
      tf.zeros([event_size, num_columns], tf.int32),
    ),
    maximum_iterations=num_bits,
  )
  # The bound holds except for NaN, which must be seen in the weights and not in
  # the indices.
  indices = tf.minimum(indices, num_particles - 1)
  return tf.reshape(indices, [event_size] + shape)


def _positions(rows, num_rows):
  """Returns one index for both axes, as stacking two takes another kernel."""
  num_columns = rows.shape[1]
  dtype = tf.int32 if num_rows * num_columns < 2**31 else tf.int64
  return num_columns * tf.cast(rows, dtype) + tf.range(num_columns, dtype=dtype)


def gather_columns(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
  """Selects `values[rows[i, j], j]`."""
  return tf.gather(tf.reshape(values, [-1]), _positions(rows, values.shape[0]))


def scatter_columns(
  rows: tf.Tensor, updates: tf.Tensor, num_rows: int
) -> tf.Tensor:
  """Adds `updates[i, j]` to an entry `[rows[i, j], j]` of zeros."""
  num_columns = rows.shape[1]
  size = num_rows * num_columns
  values = tf.scatter_nd(
    tf.reshape(_positions(rows, num_rows), [-1, 1]),
    tf.reshape(updates, [-1]),
    tf.constant([size], tf.int32 if size < 2**31 else tf.int64),
  )
  return tf.reshape(values, [num_rows, num_columns])


def _ancestors_of_points(first_after, event_size):
  """Returns ancestors, given how many points precede the end of each share."""
  num_particles, *shape = first_after.shape.as_list()
  # The ancestor of a point is the number of particles whose share ends before
  # it. The bounds hold except for NaN, which must be seen in the weights and
  # not in the indices.
  rows = tf.reshape(
    tf.clip_by_value(first_after, 0, event_size),
    [num_particles, math.prod(shape)],
  )
  ends = scatter_columns(rows, tf.ones_like(rows), event_size + 1)
  indices = tf.minimum(
    reductions.cumulative_sum(ends[:event_size]), num_particles - 1
  )
  return tf.reshape(indices, [event_size] + shape)


# The functions above, and those of TFP with the same law.
_EXACT = (
  (resample_systematic, _systematic),
  (resample_stratified, _stratified),
  (resample_independent, _independent),
  (tfp.experimental.mcmc.resample_systematic, _systematic),
  (tfp.experimental.mcmc.resample_stratified, _stratified),
  (tfp.experimental.mcmc.resample_independent, _independent),
)


def exact_draw_fn(resample_fn: Callable) -> Callable | None:
  """Finds the exact function with the law of a resampling function, if any.

  Args:
    resample_fn: Python callable.

  Returns:
    draw_fn: Python callable from normalized weights, a number of draws and a
      stateless seed to ancestors, without checks; or `None`.

  ```python
  from tfp_nvi.resampling import schemes

  assert schemes.exact_draw_fn(schemes.resample_systematic) is not None
  ```
  """
  return next((draw for fn, draw in _EXACT if fn is resample_fn), None)

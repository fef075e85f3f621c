# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The initial density of a posterior, which is the prior of a pinned model."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import state_map as state_map_lib

tfd = tfp.distributions

__all__ = [
  'InitialDensity',
]

# Draws are made in pieces of one size, by one compiled function.
_SIZE_OF_PIECE = 1_000
# How many states to compare a normal density with the prior's at.
_NUM_COMPARED = 8


class InitialDensity:
  """Draws from an initial density, and the normal one that it may be.

  Args:
    source: `JointDistributionPinned`, whose prior it is, or `tfd.Distribution`.
    state_map: `StateMap` of its states.
    dtype: `tf.DType` of the states.
  """

  def __init__(
    self,
    source: types.Density,
    state_map: state_map_lib.StateMap,
    dtype: tf.DType,
  ):
    self._source = source
    self._is_pinned = isinstance(
      source, tfp.experimental.distributions.JointDistributionPinned
    )
    self._state_map = state_map
    self._dtype = dtype
    self._draw = None
    self._draws_singly: bool | None = None

  def as_gaussian(self) -> tfd.Distribution | None:
    """The normal density that it is over the real space, or `None`."""
    if self._state_map.is_given:
      return None
    gaussian = self._source
    if self._is_pinned:
      if len(self._state_map.names) > 1:
        return None
      parts = self._source._get_single_sample_distributions()  # pylint: disable=protected-access
      gaussian = parts[0]
    is_gaussian = isinstance(gaussian, tfd.MultivariateNormalLinearOperator)
    if not is_gaussian or gaussian.event_shape.rank != 1:
      return None
    try:
      lower = gaussian.scale.to_dense()
    except NotImplementedError:
      return None
    is_lower = bool(
      tf.reduce_all(tf.equal(lower, tf.linalg.band_part(lower, -1, 0)))
    )
    return gaussian if is_lower and self._is_prior(gaussian) else None

  def _is_prior(self, gaussian):
    """Whether a normal density is that of the prior, given what is pinned."""
    if not self._is_pinned:
      return True
    size = self._state_map.num_values
    points = tf.eye(_NUM_COMPARED, size, dtype=self._dtype)
    points = gaussian.mean() + gaussian.scale.matvec(points)
    state = tf.nest.pack_sequence_as(self._state_map.event_shape, [points])
    parts = self._source.unnormalized_log_prob_parts(state)
    (prior,) = tf.nest.flatten(parts.unpinned)
    return np.allclose(prior, gaussian.log_prob(points), rtol=1e-4, atol=1e-3)

  def sample(self, num_draws: int, seed: types.StatelessSeed) -> tf.Tensor:
    """Draws coordinates of states.

    Args:
      num_draws: Python `int`.
      seed: Stateless seed.

    Returns:
      x: `Tensor` of shape `[num_draws, num_values]`; NaN for draws that the
        bijector has no values for.
    """
    num_pieces = -(-num_draws // _SIZE_OF_PIECE)
    pieces = [
      self._draw_piece(randomness.fold_in(seed, i)) for i in range(num_pieces)
    ]
    values = tf.concat(pieces, axis=0)[:num_draws]
    return self._state_map.coordinates(values)

  def _draw_piece(self, seed):
    to_values = self._state_map.values

    def sample(shape, seed):
      if self._is_pinned:
        return self._source.sample_unpinned(shape, seed=seed)
      return self._source.sample(shape, seed=seed)

    if self._draws_singly is None:
      # TFP would vectorize the model over the draws by a loop of its own.
      self._draws_singly = getattr(
        self._source, 'use_vectorized_map', False
      ) or not self._has_shape_of_draws(sample([3], seed), 3)

    def draw(seed):
      with randomness.portable_sampling():
        if self._draws_singly:
          return tf.map_fn(
            lambda one_seed: to_values(sample([], one_seed))[0],
            randomness.split_seed(seed, _SIZE_OF_PIECE),
            fn_output_signature=self._dtype,
          )
        return to_values(sample(_SIZE_OF_PIECE, seed))

    if not self._draws_singly:
      return draw(seed)
    if self._draw is None:
      self._draw = tf.function(draw, autograph=False, jit_compile=True)
      try:
        return self._draw(seed)
      except (tf.errors.OpError, ValueError, NotImplementedError):
        # Some samplers have ops that XLA does not know.
        self._draw = tf.function(draw, autograph=False)
    return self._draw(seed)

  def _has_shape_of_draws(self, state, num_draws):
    """Whether it is a draw for each, as not where a `Root` depends on others.

    Such a part of a `JointDistributionCoroutine` has as many draws for each of
    the draws of what it depends on.
    """
    return all(
      value.shape == tf.TensorShape([num_draws]) + shape
      for value, shape in zip(
        tf.nest.flatten(state),
        map(tf.TensorShape, tf.nest.flatten(self._state_map.event_shape)),
        strict=True,
      )
    )

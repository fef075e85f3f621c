# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The global state as a vector of real numbers, and distributions over it."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import weighting
from tfp_nvi.bijectors import parts as parts_lib
from tfp_nvi.bijectors import simplex
from tfp_nvi.internal import matrices, naming, randomness, types
from tfp_nvi.state_space import functions

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'GlobalSpace',
]

# Proposals are mixtures of increasingly wide normal distributions of the same
# shape, so that their tails are not too light.
_SCALES = (1.0, 1.5, 3.0)
_PROBS = (0.6, 0.3, 0.1)
# The number of draws of the prior that the space is standardized by.
_NUM_DRAWS = 1_000
# The least effective share of the particles that a normal density is fitted to,
# if there are at least five effective ones for each coordinate.
_LEAST_SHARE = 0.02


class GlobalSpace(tf.Module):
  """A space of vectors `y`, which a bijector maps to global states.

  Fields:
    size: Python `int`: the length of a vector.
    dtype: `tf.DType`.
    draws: `Tensor` of shape `[1000, size]`: draws of the prior.

  Args:
    prior: `tfd.Distribution` or `JointDistribution` over the global state.

  Raises:
    ValueError: If a part of the prior is discrete, has no event-space
      bijector, or one that is known to be wrong.
  """

  def __init__(self, prior: tfd.Distribution, name: str = 'global_space'):
    super().__init__(name=name)
    self._prior = prior
    dtypes = tf.nest.flatten(tf.nest.map_structure(tf.as_dtype, prior.dtype))
    if any(not x.is_floating or x != dtypes[0] for x in dtypes):
      raise ValueError(
        '`prior` must be over real numbers of one dtype, for a proposal of '
        'global states; its dtypes are '
        f'{functions.describe(tf.nest.map_structure(tf.as_dtype, prior.dtype))}'
        '. `initial_proposal_fn` may be a function of your own.'
      )
    self.dtype = dtypes[0]
    bijector = prior.experimental_default_event_space_bijector()
    if bijector is None:
      raise ValueError(
        '`prior` must have an event-space bijector, for a proposal of global '
        f'states; got {prior!r}.'
      )
    parts_lib.check_parts('prior', bijector)
    shapes = bijector.inverse_event_shape(prior.event_shape)
    flat = [tf.TensorShape(x) for x in tf.nest.flatten(shapes)]
    sizes = [x.num_elements() for x in flat]
    self.size = sum(sizes)
    steps = [bijector]
    if tf.nest.is_nested(prior.dtype):
      reshapes = [
        tfb.Reshape(event_shape_out=x, event_shape_in=[size])
        for x, size in zip(flat, sizes, strict=True)
      ]
      steps += [
        tfb.Restructure(
          tf.nest.pack_sequence_as(shapes, list(range(len(sizes))))
        ),
        tfb.JointMap(reshapes),
        tfb.Split(sizes),
      ]
    else:
      steps.append(
        tfb.Reshape(event_shape_out=flat[0], event_shape_in=[self.size])
      )
    self._bijector = tfb.Chain(steps)
    seed = randomness.as_seed(0)
    with randomness.portable_sampling():
      x = self._bijector.inverse(prior.sample(_NUM_DRAWS, seed=seed))
    # Quantiles, as moments of priors may be infinite.
    low, center, high = tfp.stats.percentile(
      tf.where(tf.math.is_finite(x), x, tf.zeros_like(x)),
      [16.0, 50.0, 84.0],
      axis=0,
    )
    scale = tf.maximum(0.5 * (high - low), tf.cast(1e-6, self.dtype))
    log_surface = simplex.log_surface(
      prior, naming.leaf_names(prior.event_shape), shapes
    )
    steps = [self._bijector, tfb.Shift(center), tfb.Scale(scale)]
    if log_surface:
      steps.append(simplex.ConstantJacobian(-log_surface, self.dtype))
    self._bijector = tfb.Chain(steps)
    self.draws = (x - center) / scale

  def vector(self, global_state: types.Structure) -> tf.Tensor:
    """Returns the vectors of global states, of shape `shape + [size]`."""
    # This is a copy, because bijectors cache the values that they made.
    state = tf.nest.map_structure(tf.identity, global_state)
    return self._bijector.inverse(state)

  def state(self, y: tf.Tensor) -> types.Structure:
    """Returns the global states of vectors."""
    return self._bijector.forward(tf.identity(y))

  def log_prior(self, y: tf.Tensor) -> tf.Tensor:
    """Returns the log density of the prior at vectors."""
    y = tf.identity(y)
    state = tf.nest.map_structure(tf.identity, self._bijector.forward(y))
    return self._prior.log_prob(
      state
    ) + self._bijector.forward_log_det_jacobian(y, event_ndims=1)

  def distribution(
    self, loc: tf.Tensor, scale_tril: tf.Tensor
  ) -> tfd.Distribution:
    """Makes a normal distribution over global states, with wider tails.

    Args:
      loc: `Tensor` of shape `batch + [size]`.
      scale_tril: `Tensor` of shape `batch + [size, size]`.

    Returns:
      distribution: `tfd.Distribution` of batch shape `batch`.
    """
    scales = tf.reshape(tf.constant(_SCALES, self.dtype), [-1, 1, 1])
    mixture = tfd.MixtureSameFamily(
      tfd.Categorical(probs=tf.constant(_PROBS, self.dtype)),
      tfd.MultivariateNormalTriL(
        loc[..., tf.newaxis, :], scale_tril[..., tf.newaxis, :, :] * scales
      ),
    )
    return tfd.TransformedDistribution(mixture, self._bijector)

  def matched(
    self, global_state: types.Structure, log_weights: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mean and a factor of the covariance of weighted particles.

    Weights are raised to a power of at most one that leaves some of them
    effective, so that a bad start does not end in a single point.

    Args:
      global_state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`.
      log_weights: float `Tensor` of shape `[num_particles] + batch`.

    Returns:
      loc: `Tensor` of shape `batch + [size]`.
      scale_tril: `Tensor` of shape `batch + [size, size]`.
    """
    num_particles = log_weights.shape[0]
    least = min(
      0.5 * num_particles, max(_LEAST_SHARE * num_particles, 5.0 * self.size)
    )
    log_weights = _tempered(
      tf.where(
        tf.math.is_nan(log_weights),
        tf.constant(-float('inf'), log_weights.dtype),
        log_weights,
      ),
      least,
    )
    weights = weighting.normalize_weights(log_weights)
    y = self.vector(global_state)
    y = tf.where(tf.math.is_finite(y), y, tf.zeros_like(y))
    loc = weighting.weighted_mean(weights, y)
    error = y - loc
    covariance = weighting.weighted_mean(
      weights, error[..., tf.newaxis] * error[..., tf.newaxis, :]
    )
    diagonal = tf.linalg.diag_part(covariance)
    covariance += tf.linalg.diag(1e-3 * diagonal + 1e-6)
    return loc, matrices.cholesky(covariance)


def _tempered(log_weights, least):
  """Multiplies log weights by a power of at most one, found by bisection."""
  low = tf.zeros_like(log_weights[0])
  high = tf.ones_like(low)
  finite = tf.where(
    tf.math.is_finite(log_weights), log_weights, log_weights.dtype.min / 4.0
  )

  def is_even(power):
    return weighting.effective_sample_size(power * finite) >= least

  all_in = is_even(high)
  for _ in range(20):
    middle = 0.5 * (low + high)
    is_low = is_even(middle)
    low = tf.where(is_low, middle, low)
    high = tf.where(is_low, high, middle)
  return tf.where(all_in, tf.ones_like(low), low) * finite

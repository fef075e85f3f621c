# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Multimodal densities on the plane whose normalizers are known.

Contract, for every target:

- `unnormalized_log_prob` is `log gamma`, and `log_normalizer` is the logarithm
  of the integral of `gamma`, exact up to rounding in float64.
- `gamma` is a sum of components, one for each mode. `mode_probabilities[m]` is
  the integral of component `m` divided by that of `gamma`.
- `log gamma` and its gradient are finite up to a distance of at least `1e17`
  from the origin. Beyond it squares overflow and `log gamma` is `-inf`; up to
  `1e36` it is never NaN.
- `sample` draws exactly from `gamma / Z`.
- The modes are where `N(0, 5^2 I)` has mass, which can therefore serve as the
  initial density for all targets.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, fusion, randomness, types

__all__ = [
  'MultimodalTarget',
  'concentric_rings',
  'grid_of_gaussians',
  'ring_of_gaussians',
]


class MultimodalTarget:
  """An unnormalized density on the plane with known normalizer and modes.

  There is no `log_prob`, so that a sampler only sees the unnormalized density
  and its estimate of the normalizer can be compared with `log_normalizer`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  target = nvi.targets.ring_of_gaussians()
  proposal = tfp.distributions.MultivariateNormalDiag(scale_diag=[8.0, 8.0])
  x = proposal.sample(1_000, seed=[0, 1])
  log_weights = target.unnormalized_log_prob(x) - proposal.log_prob(x)
  error = tfp.math.reduce_logmeanexp(log_weights) - target.log_normalizer
  ```

  Attributes:
    name: Python `str`.
    dtype: `tf.DType` of points and log densities.
    event_shape: `tf.TensorShape([2])`.
    log_normalizer: Python `float`, the log of the integral of the density.
    mode_locations: NumPy array of shape `[num_modes, 2]` and type `dtype`, a
      point of (nearly) highest density for each mode.
    mode_probabilities: NumPy array of shape `[num_modes]` and type `dtype`, the
      mass of each mode's component as a fraction of the whole.
    limits: Pair of Python `float`s `(low, high)`; the square with these
      limits on both axes has all but `1e-8` of the mass.

  Args:
    name: Python `str`.
    unnormalized_log_prob_fn: Callable from points (`Tensor` of shape
      `[..., 2]` and type `dtype`) to log densities of shape `[...]`.
    sample_fn: Callable from a sample shape and a stateless seed to exact
      draws of shape `sample_shape + [2]`.
    mode_index_fn: Callable from points to the `int32` index of their mode.
    log_normalizer: Python `float`.
    mode_locations: Array-like of shape `[num_modes, 2]`.
    mode_probabilities: Array-like of shape `[num_modes]`.
    limits: Pair of Python `float`s `(low, high)`.
    dtype: `tf.float32` or `tf.float64`.

  Raises:
    TypeError: If `dtype` is neither `tf.float32` nor `tf.float64`.
    ValueError: If `mode_locations` or `mode_probabilities` has another shape.
  """

  def __init__(
    self,
    name: str,
    unnormalized_log_prob_fn: Callable,
    sample_fn: Callable,
    mode_index_fn: Callable,
    log_normalizer: float,
    mode_locations: types.TensorLike,
    mode_probabilities: types.TensorLike,
    limits: tuple[float, float],
    dtype: tf.DType = tf.float32,
  ):
    self.name = name
    self.dtype = _validate_dtype(dtype)
    self.event_shape = tf.TensorShape([2])
    self.log_normalizer = float(log_normalizer)
    numpy_dtype = self.dtype.as_numpy_dtype
    self.mode_locations = np.array(mode_locations, numpy_dtype)
    self.mode_probabilities = np.array(mode_probabilities, numpy_dtype)
    self.limits = (float(limits[0]), float(limits[1]))
    if self.mode_locations.ndim != 2 or self.mode_locations.shape[1] != 2:
      raise ValueError(
        '`mode_locations` must have shape [num_modes, 2]; got '
        f'{self.mode_locations.shape}.'
      )
    if self.mode_probabilities.shape != self.mode_locations.shape[:1]:
      raise ValueError(
        f'`mode_probabilities` must have shape {self.mode_locations.shape[:1]},'
        f' one for each mode; got {self.mode_probabilities.shape}.'
      )
    self._unnormalized_log_prob_fn = unnormalized_log_prob_fn
    self._sample_fn = sample_fn
    self._mode_index_fn = mode_index_fn

  def __repr__(self):
    return (
      f'<{type(self).__name__} {self.name!r} '
      f'num_modes={len(self.mode_locations)} dtype={self.dtype.name}>'
    )

  def unnormalized_log_prob(self, x: types.TensorLike) -> tf.Tensor:
    """Returns the log of the unnormalized density.

    Args:
      x: `Tensor` of shape `[..., 2]` and type `dtype`.

    Returns:
      `Tensor` of shape `[...]` and type `dtype`.

    Raises:
      TypeError: If `x` has another dtype.
      ValueError: If the last dimension of `x` is not statically 2.
    """
    return self._unnormalized_log_prob_fn(_validate_points(x, self.dtype))

  def sample(
    self, sample_shape: int | types.Shape, seed: types.Seed | None
  ) -> tf.Tensor:
    """Draws independently and exactly from the normalized density.

    Args:
      sample_shape: Python `int` or shape.
      seed: Python `int`, stateless seed (int `Tensor` of shape `[2]`), or
        `None` for a seed that differs from call to call.

    Returns:
      `Tensor` of shape `sample_shape + [2]` and type `dtype`.

    Raises:
      ValueError: If `seed` is none of these.
    """
    if isinstance(sample_shape, (int, np.integer)):
      sample_shape = [sample_shape]
    return self._sample_fn(sample_shape, randomness.as_seed(seed))

  def mode_index(self, x: types.TensorLike) -> tf.Tensor:
    """Returns the index of the nearest mode, which a point belongs to.

    The fractions of draws with each index estimate `mode_probabilities`: the
    mass nearest to a mode is the mass of its component, by symmetry for
    `ring_of_gaussians` and to within `1e-5` for the other two targets.

    Args:
      x: `Tensor` of shape `[..., 2]` and type `dtype`.

    Returns:
      `int32` `Tensor` of shape `[...]`.

    Raises:
      TypeError: If `x` has another dtype.
      ValueError: If the last dimension of `x` is not statically 2.
    """
    return self._mode_index_fn(_validate_points(x, self.dtype))


def ring_of_gaussians(dtype: tf.DType = tf.float32) -> MultimodalTarget:
  """Makes eight equal Gaussians on a circle.

  Mode `m = 0..7` is at radius 10 and angle `2 pi m / 8` and has variance 0.5
  per axis. Each has unnormalized weight 1, so that `Z = 8`.

  ```python
  import tfp_nvi as nvi

  target = nvi.targets.ring_of_gaussians()
  target.unnormalized_log_prob([[10.0, 0.0], [0.0, 0.0]])
  ```

  Args:
    dtype: `tf.float32` or `tf.float64`.

  Returns:
    A `MultimodalTarget`.

  Raises:
    TypeError: If `dtype` is neither `tf.float32` nor `tf.float64`.

  #### References

  [1]: Heiko Zimmermann, Hao Wu, Babak Esmaeili, Jan-Willem van de Meent. Nested
       Variational Inference. _Neural Information Processing Systems_, 2021.
       https://arxiv.org/abs/2106.11302
  """
  dtype = _validate_dtype(dtype)
  numpy_dtype = dtype.as_numpy_dtype
  angles = 2.0 * np.pi * np.arange(8) / 8.0
  locations = 10.0 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  variance = 0.5
  location0, location1 = locations.T.astype(numpy_dtype)
  negative_half_precision = numpy_dtype(-0.5 / variance)
  log_constant = numpy_dtype(-math.log(2.0 * math.pi * variance))

  def unnormalized_log_prob(x):
    m = functools.partial(_modes_first, x)
    square = (x[..., 0] - m(location0)) ** 2 + (x[..., 1] - m(location1)) ** 2
    smallest = _smallest(square)
    terms = tf.exp(negative_half_precision * (square - smallest))
    return tf.math.log(tf.reduce_sum(terms, axis=0)) + (
      negative_half_precision * smallest + log_constant
    )

  return _gaussian_mixture(
    name='ring_of_gaussians',
    unnormalized_log_prob_fn=unnormalized_log_prob,
    weights=np.ones(8),
    locations=locations,
    scales=np.tile(math.sqrt(variance) * np.eye(2), [8, 1, 1]),
    limits=(-14.0, 14.0),
    dtype=dtype,
  )


def grid_of_gaussians(dtype: tf.DType = tf.float32) -> MultimodalTarget:
  """Makes 25 Gaussians on a grid, of unequal weight, width and direction.

  A grid of 5 by 5 narrow Gaussians is a common test of whether a sampler or a
  generative model drops modes ([1], [2]). Here the Gaussians differ, so that
  the test also shows whether each mode has its share of the mass. Mode
  `m = 5 i + j`, with `i, j = 0..4`, has

  - location `(4 i - 8, 4 j - 8)`,
  - unnormalized weight `1 + (7 m mod 25)`, which takes each value from 1 to 25
    once, so that `Z = 325`,
  - standard deviation `0.25 + 0.05 i` along its major axis and `1 - 0.15 j`
    times that along its minor axis,
  - a major axis at angle `pi m / 25` to the first coordinate axis.

  ```python
  import tfp_nvi as nvi

  target = nvi.targets.grid_of_gaussians()
  draws = target.sample(100, seed=1)
  target.mode_index(draws)
  ```

  Args:
    dtype: `tf.float32` or `tf.float64`.

  Returns:
    A `MultimodalTarget`.

  Raises:
    TypeError: If `dtype` is neither `tf.float32` nor `tf.float64`.

  #### References

  [1]: Samaneh Azadi, Catherine Olsson, Trevor Darrell, Ian Goodfellow, Augustus
       Odena. Discriminator Rejection Sampling. _International Conference on
       Learning Representations_, 2019. https://arxiv.org/abs/1810.06758
  [2]: Ryan Turner, Jane Hung, Eric Frank, Yunus Saatci, Jason Yosinski.
       Metropolis-Hastings Generative Adversarial Networks. _International
       Conference on Machine Learning_, 2019. https://arxiv.org/abs/1811.11357
  """
  dtype = _validate_dtype(dtype)
  numpy_dtype = dtype.as_numpy_dtype
  mode = np.arange(25)
  row, column = mode // 5, mode % 5
  major = 0.25 + 0.05 * row
  minor = major * (1.0 - 0.15 * column)
  angle = np.pi * mode / 25.0
  axes = np.stack(
    [
      np.stack([np.cos(angle), -np.sin(angle)], axis=-1),
      np.stack([np.sin(angle), np.cos(angle)], axis=-1),
    ],
    axis=-2,
  )
  weights = 1.0 + (7 * mode) % 25
  locations = np.stack([4.0 * row - 8.0, 4.0 * column - 8.0], axis=-1)
  scales = axes * np.stack([major, minor], axis=-1)[:, np.newaxis, :]
  # Maps the difference to a mode to white noise, with the factor 1/2 of the
  # exponent included. Squares of differences keep all digits near a mode, which
  # an expanded quadratic form in float32 would lose.
  whitening = (np.linalg.inv(scales) / math.sqrt(2.0)).astype(numpy_dtype)
  location0, location1 = locations.T.astype(numpy_dtype)
  log_constants = np.log(weights / (2.0 * np.pi * major * minor)).astype(
    numpy_dtype
  )

  def unnormalized_log_prob(x):
    m = functools.partial(_modes_first, x)
    difference0 = x[..., 0] - m(location0)
    difference1 = x[..., 1] - m(location1)
    white0, white1 = (
      m(row[:, 0]) * difference0 + m(row[:, 1]) * difference1
      for row in (whitening[:, 0], whitening[:, 1])
    )
    # Otherwise XLA may round the two uses of it differently.
    energy = fusion.compute_once(white0**2 + white1**2 - m(log_constants))
    smallest = _smallest(energy)
    terms = tf.exp(smallest - energy)
    return tf.math.log(tf.reduce_sum(terms, axis=0)) - smallest

  return _gaussian_mixture(
    name='grid_of_gaussians',
    unnormalized_log_prob_fn=unnormalized_log_prob,
    weights=weights,
    locations=locations,
    scales=scales,
    limits=(-11.0, 11.0),
    dtype=dtype,
  )


def concentric_rings(dtype: tf.DType = tf.float32) -> MultimodalTarget:
  """Makes five concentric rings: modes that are circles with a common center.

  With `r = |x|`, `a_m = 2 (m + 1)` for `m = 0..4` and `s^2 = 0.08`,

  ```none
  gamma(x) = sum_m exp(-(r - a_m)^2 / (2 s^2)).
  ```

  This is `ring5` of [1] at twice its size, with a sum over the rings in place
  of their maximum, which makes it differentiable between the rings. The
  integral of a ring, in polar coordinates, is

  ```none
  Z_m = 2 pi (s^2 exp(-a_m^2 / (2 s^2)) + a_m s sqrt(2 pi) Phi(a_m / s)),
  ```

  where `Phi` is the standard normal cumulative distribution function. The mass
  of a ring is therefore proportional to its radius, up to a relative error of
  `1e-12`. `mode_locations[m]` is `(a_m, 0)`, one point of the ring, while
  `mode_index` returns the index of the nearest ring. At the origin, where `r`
  is not differentiable, the gradient is defined to be zero.

  ```python
  import tfp_nvi as nvi

  target = nvi.targets.concentric_rings()
  target.unnormalized_log_prob([[0.0, 2.0], [6.0, 0.0], [0.0, 0.0]])
  ```

  Args:
    dtype: `tf.float32` or `tf.float64`.

  Returns:
    A `MultimodalTarget`.

  Raises:
    TypeError: If `dtype` is neither `tf.float32` nor `tf.float64`.

  #### References

  [1]: Jiaming Song, Shengjia Zhao, Stefano Ermon. A-NICE-MC: Adversarial
       Training for MCMC. _Neural Information Processing Systems_, 2017.
       https://arxiv.org/abs/1706.07561
  """
  dtype = _validate_dtype(dtype)
  numpy_dtype = dtype.as_numpy_dtype
  radii = 2.0 * np.arange(1, 6)
  variance = 0.08
  scale = math.sqrt(variance)

  def ring_normalizer(radius):
    tail = math.exp(-(radius**2) / (2.0 * variance))
    cdf = 0.5 * math.erfc(-radius / (scale * math.sqrt(2.0)))
    return (
      2.0
      * math.pi
      * (variance * tail + radius * scale * math.sqrt(2.0 * math.pi) * cdf)
    )

  normalizers = np.array([ring_normalizer(radius) for radius in radii])
  probabilities = normalizers / normalizers.sum()
  ring_radii = radii.astype(numpy_dtype)
  negative_half_precision = numpy_dtype(-0.5 / variance)

  def distance_to_rings(x):
    square = x[..., 0] ** 2 + x[..., 1] ** 2
    # The gradient of sqrt is infinite at zero. A single `where` after sqrt
    # would multiply it by zero, which gives NaN.
    is_zero = tf.equal(square, 0.0)
    root = tf.sqrt(tf.where(is_zero, tf.ones_like(square), square))
    radius = tf.where(is_zero, tf.zeros_like(root), root)
    return tf.abs(radius - _modes_first(x, ring_radii))

  def unnormalized_log_prob(x):
    distance = distance_to_rings(x)
    smallest = _smallest(distance)
    difference_of_squares = (distance - smallest) * (distance + smallest)
    terms = tf.exp(negative_half_precision * difference_of_squares)
    return tf.math.log(tf.reduce_sum(terms, axis=0)) + (
      negative_half_precision * smallest**2
    )

  def sample(sample_shape, seed):
    ring_seed, normal_seed, side_seed, angle_seed = tf.unstack(
      randomness.split_seed(seed, 4)
    )
    ring = _sample_index(probabilities, sample_shape, ring_seed, dtype)
    center = tf.gather(ring_radii, ring)
    # The density of the radius is proportional to r exp(-(r - a)^2 / (2 s^2)).
    # The size d = |r - a| of the deviation is therefore half normal, and the
    # radii a + d and a - d have odds a + d to a - d. This does not hold if d is
    # larger than a, which happens for at most 1e-12 of the draws of a ring.
    deviation = numpy_dtype(scale) * tf.abs(
      randomness.normal(sample_shape, normal_seed, dtype)
    )
    uniform = randomness.uniform(sample_shape, side_seed, dtype)
    is_outside = 2.0 * center * uniform < center + deviation
    radius = center + tf.where(is_outside, deviation, -deviation)
    angle = numpy_dtype(2.0 * np.pi) * randomness.uniform(
      sample_shape, angle_seed, dtype
    )
    return radius[..., tf.newaxis] * tf.stack(
      [tf.cos(angle), tf.sin(angle)], axis=-1
    )

  def mode_index(x):
    return tf.argmin(distance_to_rings(x), axis=0, output_type=tf.int32)

  return MultimodalTarget(
    name='concentric_rings',
    unnormalized_log_prob_fn=unnormalized_log_prob,
    sample_fn=sample,
    mode_index_fn=mode_index,
    log_normalizer=math.log(normalizers.sum()),
    mode_locations=np.stack([radii, np.zeros_like(radii)], axis=-1),
    mode_probabilities=probabilities,
    limits=(-12.0, 12.0),
    dtype=dtype,
  )


def _gaussian_mixture(
  name, unnormalized_log_prob_fn, weights, locations, scales, limits, dtype
):
  """Makes `sum_m weights[m] N(locations[m], scales[m] scales[m]^T)`."""
  probabilities = weights / weights.sum()
  mode_locations = locations.astype(dtype.as_numpy_dtype)
  mode_scales = scales.astype(dtype.as_numpy_dtype)

  def sample(sample_shape, seed):
    mode_seed, normal_seed = tf.unstack(randomness.split_seed(seed, 2))
    mode = _sample_index(probabilities, sample_shape, mode_seed, dtype)
    noise = randomness.normal([*sample_shape, 2], normal_seed, dtype)
    return tf.gather(mode_locations, mode) + tf.linalg.matvec(
      tf.gather(mode_scales, mode), noise
    )

  def mode_index(x):
    square = tf.reduce_sum(
      (x[..., tf.newaxis, :] - mode_locations) ** 2, axis=-1
    )
    return tf.argmin(square, axis=-1, output_type=tf.int32)

  return MultimodalTarget(
    name=name,
    unnormalized_log_prob_fn=unnormalized_log_prob_fn,
    sample_fn=sample,
    mode_index_fn=mode_index,
    log_normalizer=math.log(weights.sum()),
    mode_locations=locations,
    mode_probabilities=probabilities,
    limits=limits,
    dtype=dtype,
  )


def _modes_first(x, values):
  """Lets values of the modes broadcast against `x[..., 0]` along a new axis 0.

  Sums over modes are then sums over the slowest axis, which XLA vectorizes over
  the points. It does not vectorize sums over the fastest axis.
  """
  return values.reshape([-1] + [1] * (x.shape.rank - 1))


def _smallest(energy):
  """Returns the smallest energy over axis 0, for a stable sum of exponentials.

  It cancels from the result, and so it has no gradient. Subtract it from the
  energies before they are multiplied by anything. XLA computes an energy twice,
  for the minimum and for the difference, and fuses a product with the following
  subtraction, which then rounds differently. Far from the modes such rounding
  errors exceed 100, and the exponential overflows. `tf.reduce_logsumexp` of the
  negative energies does not avoid this.
  """
  return tf.stop_gradient(
    # If a square overflows, this leaves inf - max instead of inf - inf.
    tf.minimum(tf.reduce_min(energy, axis=0), energy.dtype.max)
  )


def _sample_index(probabilities, sample_shape, seed, dtype):
  """Draws indices by inversion, which gives the same draws under XLA."""
  bounds = np.cumsum(probabilities)[:-1].astype(dtype.as_numpy_dtype)
  uniform = randomness.uniform(sample_shape, seed, dtype)[..., tf.newaxis]
  return tf.reduce_sum(tf.cast(uniform >= bounds, tf.int32), axis=-1)


def _validate_dtype(dtype):
  dtype = tf.as_dtype(dtype)
  if dtype not in (tf.float32, tf.float64):
    raise TypeError(
      f'`dtype` must be tf.float32 or tf.float64; got {dtype.name}.'
    )
  return dtype


def _validate_points(x, dtype):
  x = checks.as_tensor('x', x, dtype)
  if not x.shape.rank or x.shape[-1] != 2:
    raise ValueError(
      '`x` must have shape [..., 2], the last dimension statically known; got '
      f'{x.shape}.'
    )
  return x

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Densities that are given as arguments: their space, and checks of them."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.densities import draws, space
from tfp_nvi.densities.base import ZERO_LOG_DENSITY, Densities
from tfp_nvi.internal import axes, checks, naming, randomness, reductions, types

tfd = tfp.distributions

__all__ = [
  'UserDensities',
]

tfb = tfp.bijectors

# Number of draws of the first density that the densities are checked with. It
# is reduced to no less than `NUM_PROBES` where these would have many values.
_NUM_DRAWS = 256
_MAX_VALUES = 2**22
# The share of a density's mass that may be lost without an error, to allow for
# rounding at the ends of a support.
TOLERANCE = 0.01


class UserDensities(Densities):
  """Base class of a path and an explicit sequence: the space and its checks."""

  def __init__(
    self,
    named_densities: list[tuple[str, types.Density]],
    event_space_bijector: tfb.Bijector | types.Structure | None,
    batch_shape: types.Shape,
    name: str,
  ):
    """Initializes the space, and checks the densities on draws of the first.

    Args:
      named_densities: List of pairs of an argument's name and a density.
      event_space_bijector: `tfb.Bijector`, nested structure of these, or
        `None`.
      batch_shape: Shape that the densities' batch shape broadcasts with.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    batch_shape = checks.as_batch_shape('batch_shape', batch_shape)
    self._named_densities = named_densities
    self._densities = [density for _, density in named_densities]
    self._log_prob_fns = [draws.log_prob_fn(d, n) for n, d in named_densities]
    self._space = space.Space(named_densities, event_space_bijector)
    self._batch_shape = axes.broadcast_shapes(
      [(n, draws.static_batch_shape(d)) for n, d in named_densities]
      + [('batch_shape', batch_shape)]
    )
    # Assumed until every density has been evaluated once.
    self.has_variables = True
    self._found_variables = False
    self.is_discrete = 'discrete' in self._space.kinds
    self.zero_levels = ()
    if draws.is_sampleable(self.initial):
      self.check(self._draw(self.initial))

  def _draw(self, distribution, batch_shape=None):
    """Draws of a density, as many as its size allows."""
    shape = (
      self._batch_shape if batch_shape is None else batch_shape
    ).as_list()
    size = int(np.prod(shape, dtype=np.int64)) * sum(
      tf.TensorShape(s).num_elements() or 1
      for s in tf.nest.flatten(self._space.constrained_event_shape)
    )
    num_draws = max(
      draws.NUM_PROBES, min(_NUM_DRAWS, _MAX_VALUES // max(size, 1))
    )

    def draw():
      return draws.draw(distribution, num_draws, shape, randomness.as_seed(0))

    if getattr(distribution, 'use_vectorized_map', False):
      # A loop over draws is slow outside of a graph.
      draw = tf.function(draw, autograph=False)
    return draw()

  @property
  def event_shape(self) -> types.Structure:
    """Event shape of the states, in the real space."""
    return self._space.event_shape

  @property
  def dtype(self) -> types.Structure:
    """Dtype of the states."""
    return self._space.dtype

  @property
  def batch_shape(self) -> tf.TensorShape:
    """Batch shape of the densities and their parameters."""
    return self._batch_shape

  @property
  def initial(self):
    """The first density as it was given."""
    return self._densities[0]

  @property
  def support_kinds(self):
    """The kind of each part of the space."""
    return self._space.kinds

  def forward(self, state: types.Structure) -> types.Structure:
    """Maps states to the space that the densities are written in."""
    return self._space.forward(state)

  def inverse(self, value: types.Structure) -> types.Structure:
    """Maps points of the densities' space to states."""
    return self._space.inverse(value)

  def log_det_jacobian(self, state: types.Structure) -> tf.Tensor | float:
    """Log density that the event-space bijector adds to the user's."""
    return self._space.log_det_jacobian(state)

  def check(
    self,
    values: types.Structure,
    name: str | None = None,
    batch_shape: tf.TensorShape | None = None,
  ) -> None:
    """Raises an error if a density cannot be evaluated as it should.

    Args:
      values: Points of the densities' space, of shape
        `[num_particles] + batch + event`.
      name: Python `str` name of the argument that they were drawn from.
        Default value: `None` (i.e., that of the first density).
      batch_shape: `TensorShape` that they should have.
        Default value: `None` (i.e., that of the densities).

    Raises:
      TypeError: If a density does not return a `Tensor`.
      ValueError: If the points have another structure, dtype or shape, or lie
        outside of the support that they are to be mapped from; or if a density
        returns the wrong shape or dtype, `+inf` anywhere or NaN everywhere; or
        if mass of a density would be lost, as the first one is zero there.
    """
    if batch_shape is None:
      batch_shape = self._batch_shape
    shape = tf.nest.flatten(values)[0].shape[:1] + batch_shape
    state = self._space.check_draws(
      name or self._named_densities[0][0],
      values,
      shape,
      self._named_densities[-1][0],
    )
    log_probs = []
    for (density_name, _), fn in zip(
      self._named_densities, self._log_prob_fns, strict=True
    ):
      with tf.GradientTape() as tape:
        log_prob = fn(values)
      log_prob = checks.check_returned(
        density_name,
        log_prob,
        'one log density for each particle and batch member',
        self.float_dtype,
        shape,
      )
      self._found_variables |= bool(tape.watched_variables())
      log_probs.append(log_prob + self.log_det_jacobian(state))
      _check_numbers(density_name, log_probs[-1])
    self.has_variables = self._found_variables
    if reductions.has_values(log_probs[0]):
      self._check_mass(state, [log_prob.numpy() for log_prob in log_probs])

  def _check_mass(self, state, log_probs):
    """Looks for mass that would be lost, and remembers where densities are 0.

    Args:
      state: Draws in the real space.
      log_probs: List of arrays: log densities of the draws.
    """
    self.has_zeros |= self._finds_zeros(log_probs)
    point, log_density = _spread(state, log_probs[0].ndim)
    self.probe_state = point
    self._space.check_inverse(point)
    value, log_det_jacobian = self.forward(point), self.log_det_jacobian(point)
    at_point = [
      np.asarray(fn(value) + log_det_jacobian) for fn in self._log_prob_fns
    ]
    is_zero = [~(log_prob > -np.inf) for log_prob in at_point]
    found = self._find_zero_levels(
      [bool(np.mean(x) > TOLERANCE) for x in is_zero]
    )
    self.zero_levels = tuple(sorted({*self.zero_levels, *found}))
    self._check_covered(
      value, is_zero[0], at_point[-1] - np.asarray(log_density)
    )
    target_name, target = self._named_densities[-1]
    if (
      self._covers_target
      and draws.is_sampleable(target)
      and not getattr(target, 'use_vectorized_map', False)
    ):
      try:
        value = self._draw(target)
      except NotImplementedError:
        return
      is_zero = ~(np.asarray(self._log_prob_fns[0](value)) > -np.inf)
      is_nan = np.isnan(self._log_prob_fns[-1](value))
      self._check_covered(value, is_zero, np.where(is_nan, -np.inf, 0.0))

  # Whether a first density that is zero where the last one is not is an error.
  _covers_target = True

  def _finds_zeros(self, log_probs):
    """Whether a density is zero, or a penalty stands for that, at draws."""
    return any(np.mean(~(x > ZERO_LOG_DENSITY)) > TOLERANCE for x in log_probs)

  def _find_zero_levels(self, has_zeros):
    """The inner levels whose density is zero somewhere."""
    return tuple(i for i, x in enumerate(has_zeros[:-1]) if x)

  def _check_covered(self, value, is_zero, log_weight):
    """Raises an error if mass of the target is where the initial is zero."""
    if not (self._covers_target and np.any(is_zero)):
      return
    log_weight = np.where(np.isnan(log_weight), -np.inf, log_weight)
    maximum = np.max(log_weight, axis=0)
    weight = np.exp(log_weight - np.where(np.isfinite(maximum), maximum, 0.0))
    lost = np.sum(weight * is_zero, axis=0) / np.maximum(
      np.sum(weight, axis=0), 1e-30
    )
    if np.max(lost) <= TOLERANCE:
      return
    index = np.unravel_index(np.argmax(weight * is_zero), weight.shape)
    (initial_name, _), *_, (target_name, _) = self._named_densities
    raise ValueError(
      f'`{initial_name}` must be positive wherever `{target_name}` is, or mass '
      f'of that is lost; it is zero at {_describe_point(value, index)}. An '
      'initial density over a wider support is needed, or an '
      '`event_space_bijector` that leads to its support.'
    )

  def check_proposal(self, name: str, distribution: tfd.Distribution) -> None:
    """Raises an error if an initial proposal leaves a part of the space out.

    Args:
      name: Python `str` name of the argument.
      distribution: `tfd.Distribution` over the densities' space.

    Raises:
      ValueError: If a part is discrete where the densities' is continuous, or
        the proposal is zero where the first density is not.
    """
    super().check_proposal(name, distribution)
    if not (tf.executing_eagerly() and draws.is_sampleable(self.initial)):
      return
    value = self._draw(
      self.initial,
      tf.broadcast_static_shape(
        self._batch_shape, draws.static_batch_shape(distribution)
      ),
    )
    log_prob = np.asarray(distribution.log_prob(value))
    is_zero = ~(log_prob > -np.inf)
    if np.any(np.mean(is_zero, axis=0) > TOLERANCE):
      index = np.unravel_index(np.argmax(is_zero), is_zero.shape)
      raise ValueError(
        f'`{name}` must be positive wherever the first density is, or mass of '
        f'that is lost; it is zero at {_describe_point(value, index)}.'
      )

  def describe_nan(self, state: types.Structure) -> str | None:
    """Says which density is NaN at one of the states, and where.

    Args:
      state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`, in the real space.

    Returns:
      message: Python `str`, or `None` if no density is NaN.
    """
    value = self.forward(state)
    log_det_jacobian = tf.convert_to_tensor(
      self.log_det_jacobian(state), self.float_dtype
    )
    candidates = [('event_space_bijector', None, log_det_jacobian)] + [
      (name, density, fn(value))
      for (name, density), fn in zip(
        self._named_densities, self._log_prob_fns, strict=True
      )
    ]
    for name, density, log_prob in candidates:
      is_nan = np.isnan(log_prob)
      if not np.any(is_nan):
        continue
      index = np.unravel_index(np.argmax(is_nan), is_nan.shape)
      part = _nan_part(density, value, index)
      where = f'its part {part!r} at' if part is not None else 'at'
      return (
        f'The log density of `{name}` is NaN, {where} '
        f'{_describe_point(value, index)}.'
      )
    return None


def _check_numbers(name, log_prob):
  """Raises an error for `+inf`, or NaN and nothing else."""
  if not reductions.has_values(log_prob):
    return
  for found, is_wrong in (
    ('+inf for a draw', np.any(np.isposinf(log_prob))),
    ('NaN for all draws', np.all(np.isnan(log_prob))),
  ):
    if is_wrong:
      raise ValueError(
        f'`{name}` must return log densities that are numbers or -inf; it '
        f'returned {found} of the initial density.'
      )


def _spread(state, rank):
  """Points about draws, twice as wide, and their log density up to a constant.

  Args:
    state: Nested structure of `Tensor`s, of draws in the real space.
    rank: Python `int` number of axes before those of an event.

  Returns:
    point: Nested structure of `Tensor`s like `state`.
    log_density: Array of the shape of the first `rank` axes.
  """
  rng = np.random.default_rng(0)
  points, log_density = [], 0.0
  parts = tf.nest.flatten(state)
  for x in parts:
    x = x.numpy()
    if not np.issubdtype(x.dtype, np.floating) or not np.any(x != np.round(x)):
      # Discrete values, in another order.
      points.append(tf.constant(np.roll(x, 1, axis=0)))
      continue
    x = np.where(np.isfinite(x), x, np.nan)
    low, middle, high = np.nanquantile(x, [0.16, 0.5, 0.84], axis=0)
    scale = np.maximum(high - low, 1e-6 * (1.0 + np.abs(middle)))
    noise = rng.normal(size=x.shape)
    points.append(tf.constant((middle + scale * noise).astype(x.dtype)))
    log_density -= 0.5 * np.sum(noise**2, axis=tuple(range(rank, noise.ndim)))
  return tf.nest.pack_sequence_as(state, points), log_density


def _describe_point(value, index):
  """One point of the user's space, for an error."""

  def take(x):
    x = np.asarray(x)[index[: x.shape.rank]]
    return x.item() if np.ndim(x) == 0 else np.round(x, 4).tolist()

  return tf.nest.map_structure(take, value)


def _nan_part(density, value, index):
  """The name of the part of a joint distribution that is NaN, or `None`."""
  if isinstance(density, tfd.JointDistribution):
    found = [density.log_prob_parts(value)]
  elif isinstance(
    density, tfp.experimental.distributions.JointDistributionPinned
  ):
    found = list(density.unnormalized_log_prob_parts(value))
  else:
    return None
  for parts in found:
    for name, part in naming.named_parts(parts).items():
      part = np.asarray(part)
      part = part[tuple(index[: part.ndim])]
      if np.any(np.isnan(part)):
        return name
  return None

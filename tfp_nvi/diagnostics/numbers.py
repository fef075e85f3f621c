# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers about a sampler: divergences between densities, weight of modes.

Contract: no function changes a sampler.
"""

import typing

import numpy as np
import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi import transitions, weighting
from tfp_nvi.internal import checks

__all__ = [
  'ModeReport',
  'mode_report',
  'mode_shares',
  'successive_kl',
]


def successive_kl(
  densities: densities_lib.Densities,
  limits: tuple[float, float],
  num_points: int = 301,
) -> tf.Tensor:
  """Computes KL divergences between successive densities by quadrature.

  ```none
  KL(pi_k || pi_{k+1}) = integral pi_k(z) log(pi_k(z) / pi_{k+1}(z)) dz
  ```

  for `k = 0, ..., K - 2`. Integrals, those of the normalizers included, are
  sums over the points of a square grid, computed in float64 and in the log
  domain. For smooth densities the error decreases exponentially with the
  number of points per standard deviation, of which two are enough.

  Args:
    densities: Sequence of intermediate densities, such as a `GeometricPath`,
      whose states are one or two numbers.
    limits: Pair of Python `float`s: the first and the last coordinate of the
      grid, in each dimension of the real space of the states.
    num_points: Python `int`, at least 2: points of the grid in each dimension.
      Default value: `301`.

  Returns:
    divergences: float64 `Tensor` of shape `[num_densities - 1] + batch`; `inf`
      where a density is zero and the one before it is not.

  Raises:
    ValueError: If states have more than two dimensions, the grid is too coarse
      or too small for a density, or a density is NaN or zero on all of it.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  tfd = tfp.distributions

  densities = nvi.ExplicitDensities([tfd.Normal(0., 1.), tfd.Normal(2., 1.)])
  divergences = nvi.diagnostics.successive_kl(densities, limits=(-8., 10.))
  assert abs(divergences[0] - 2.) < 1e-5
  ```
  """
  num_values = sum(
    tf.TensorShape(shape).num_elements()
    for shape in tf.nest.flatten(densities.event_shape)
  )
  if num_values > 2:
    raise ValueError(
      '`densities` must have states of one or two dimensions for quadrature; '
      f'got {num_values}.'
    )
  low, high = limits
  if not (np.isfinite(low) and np.isfinite(high) and low < high):
    raise ValueError(
      f'`limits` must be a pair of increasing numbers; got {limits!r}.'
    )
  if num_points < 2:
    raise ValueError(f'`num_points` must be at least 2; got {num_points}.')

  axis = np.linspace(low, high, num_points)
  grid = np.stack(np.meshgrid(*[axis] * num_values, indexing='ij'), axis=-1)
  is_edge = np.any((grid == axis[0]) | (grid == axis[-1]), axis=-1).ravel()
  grid = grid.reshape([-1] + [1] * densities.batch_shape.rank + [num_values])
  state = transitions.unflatten_state(
    tf.constant(grid, densities.float_dtype), densities.event_shape
  )

  divergences = []
  previous = None
  for level in range(densities.num_densities):
    log_prob = tf.cast(
      densities.log_prob(level, densities.evaluate(level, state)), tf.float64
    )
    if bool(tf.reduce_any(tf.math.is_nan(log_prob))):
      raise ValueError(
        '`densities` must be numbers or zero everywhere; density '
        f'{level} is NaN at some point of the grid.'
      )
    probs = weighting.normalize_weights(log_prob)
    _check_grid(level, log_prob, probs, is_edge, num_values)
    log_prob -= weighting.log_normalizer(log_prob)
    if previous is not None:
      divergences.append(
        weighting.weighted_mean(previous[0], previous[1] - log_prob)
      )
    previous = probs, log_prob
  return tf.stack(divergences)


def _check_grid(level, log_prob, probs, is_edge, num_values):
  """Raises an error if a density cannot be integrated on a grid."""
  total = weighting.total(probs).numpy()
  if np.any(total == 0.0):
    raise ValueError(
      f'`limits` must hold the mass of each density; density {level} is zero '
      'on all of the grid.'
    )
  # A grid whose points are 1.5 standard deviations of a Gaussian apart has a
  # relative error of 3e-4, and an effective number of points above 2.3 in each
  # dimension.
  num_effective = weighting.effective_sample_size(log_prob).numpy().min()
  if num_effective < 2.0**num_values:
    raise ValueError(
      '`num_points` must make a grid that is finer than each density; density '
      f'{level} is concentrated on {num_effective:.1f} points.'
    )
  # The density at the edge relative to its mean over the grid; this is 0.04 for
  # a Gaussian that is cut off at 2.8 standard deviations.
  at_edge = np.mean(probs.numpy()[is_edge], axis=0) * is_edge.size
  if np.max(at_edge) > 0.1:
    raise ValueError(
      f'`limits` must hold the mass of each density; density {level} has '
      f'{np.max(at_edge):.2g} times its mean at the edge of the grid.'
    )


def mode_shares(
  particles: weighting.WeightedParticles, target: typing.Any
) -> tf.Tensor:
  """Returns the share of the weight that each mode of a target has.

  Args:
    particles: `WeightedParticles` of shape `[num_particles] + batch + [2]`.
    target: `tfp_nvi.targets.MultimodalTarget`, or another object with a method
      `mode_index`, from points to the index of their mode, and an attribute
      `mode_probabilities`.

  Returns:
    shares: float `Tensor` of shape `batch + [num_modes]`, to be compared with
      `target.mode_probabilities`. They sum to one, or are all zero if all
      weights are zero.

  Raises:
    TypeError: If an argument is of another kind.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  target = nvi.targets.ring_of_gaussians()
  particles = nvi.WeightedParticles(
    target.sample(1_000, seed=1), tf.zeros(1_000)
  )
  shares = nvi.diagnostics.mode_shares(particles, target)
  assert shares.shape == [8] and max(abs(shares - 1 / 8)) < 0.06
  ```
  """
  _check_modes(particles, target)
  num_modes = len(target.mode_probabilities)
  return particles.expectation(
    lambda x: tf.one_hot(
      target.mode_index(x), num_modes, dtype=particles.log_weights.dtype
    )
  )


class ModeReport(typing.NamedTuple):
  """The weight of each mode of a target, and how well it is known.

  Fields:
    shares: float `Tensor` of shape `batch + [num_modes]`.
    errors: Likewise: standard errors from the genealogy of the particles. They
      do not account for modes that no particle has found.
    expected: float array of shape `[num_modes]`: probabilities of the modes.
    num_particles: int32 `Tensor` of shape `batch + [num_modes]`: particles with
      weight in each mode.
    num_lost: int32 `Tensor` of shape `batch`: the number of modes without such
      particles.

  ```python
  import numpy as np
  import tfp_nvi as nvi

  report = nvi.diagnostics.ModeReport(
    np.array([0.4, 0.6]),
    np.array([0.1, 0.1]),
    np.array([0.5, 0.5]),
    np.array([40, 60]),
    np.array(0),
  )
  assert 'of 2 modes' in str(report)
  ```
  """

  shares: typing.Any
  errors: typing.Any
  expected: typing.Any
  num_particles: typing.Any
  num_lost: typing.Any

  def __str__(self):
    """Returns a table with a row for each mode, with means over the batch."""

    def mean(values):
      values = np.asarray(values, np.float64)
      return values.reshape([-1, values.shape[-1]]).mean(axis=0)

    lines = [
      f'{"mode":>4}{"expected":>10}{"share":>9}{"error":>9}{"number":>9}'
    ]
    rows = zip(
      mean(self.expected),
      mean(self.shares),
      mean(self.errors),
      mean(self.num_particles),
      strict=True,
    )
    for mode, (expected, share, error, number) in enumerate(rows):
      lines.append(
        f'{mode:>4}{expected:>10.4f}{share:>9.4f}{error:>9.4f}{number:>9.0f}'
      )
    lost = float(np.mean(self.num_lost))
    lines.append(f'{lost:g} of {len(lines) - 1} modes have no particle.')
    return '\n'.join(lines)


def _check_modes(particles, target):
  """Raises an error unless there are particles, and a target with modes."""
  checks.check_instance(
    'particles', particles, weighting.WeightedParticles, 'WeightedParticles'
  )
  # A user's own target, which has no base class, is accepted too.
  if not (
    hasattr(target, 'mode_probabilities') and hasattr(target, 'mode_index')
  ):
    raise TypeError(
      '`target` must have `mode_probabilities` and `mode_index`, as those of '
      f'tfp_nvi.targets have; got {target!r}.'
    )


def mode_report(
  particles: weighting.WeightedParticles, target: typing.Any
) -> ModeReport:
  """Returns the weight of each mode of a target, with its standard error.

  Args:
    particles: `WeightedParticles` of shape `[num_particles] + batch + [2]`;
      with their roots, errors account for common ancestors.
    target: As in `mode_shares`.

  Returns:
    report: `ModeReport`; printed, it is a table.

  Raises:
    TypeError: If an argument is of another kind.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  target = nvi.targets.ring_of_gaussians()
  particles = nvi.WeightedParticles(
    target.sample(1_000, seed=1), tf.zeros(1_000)
  )
  report = nvi.diagnostics.mode_report(particles, target)
  assert report.num_lost == 0 and max(report.errors) < 0.02
  ```
  """
  _check_modes(particles, target)
  num_modes = len(target.mode_probabilities)
  dtype = particles.log_weights.dtype

  def is_in_mode(x):
    return tf.one_hot(target.mode_index(x), num_modes, dtype=dtype)

  has_weight = tf.cast(particles.weights > 0.0, dtype)[..., tf.newaxis]
  counts = weighting.total(is_in_mode(particles.particles) * has_weight)
  return ModeReport(
    particles.expectation(is_in_mode),
    particles.standard_error(is_in_mode),
    target.mode_probabilities,
    tf.cast(counts, tf.int32),
    tf.reduce_sum(tf.cast(counts < 0.5, tf.int32), axis=-1),
  )

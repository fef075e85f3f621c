# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Gaussian kernels whose means and scales are networks."""

import functools
import typing
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import checks, fusion, randomness, types
from tfp_nvi.internal.axes import broadcasts_to, particles_first, particles_last
from tfp_nvi.internal.perceptron import StackedPerceptron
from tfp_nvi.transitions import base, probes

__all__ = [
  'GaussianTransitions',
]

# Networks and steps are scaled for states of this deviation: the first steps,
# softplus(0) = 0.69 of these units, are a third of the first density's scale.
_SCALE_OF_REFERENCE = 2.0
# Sums of no more terms than this are written out.
_MAX_TERMS = 8


def _sum_values(x):
  """Sum over the values of a state, the axis before the last one."""
  if x.shape[:-2].num_elements() > 1:
    # The operations that follow have the particles first.
    return fusion.sum_by_product(x)
  return _sum_terms(x)


@tf.custom_gradient
def _sum_terms(x):
  """Sum over the axis before the last one.

  XLA does not vectorize what it fuses into a reduction, which a sum of few
  terms need not be.
  """
  if x.shape[-2] > _MAX_TERMS:
    total = tf.reduce_sum(x, axis=-2)
  else:
    total = functools.reduce(lambda a, b: a + b, tf.unstack(x, axis=-2))
  return total, lambda dy: tf.broadcast_to(dy[..., tf.newaxis, :], x.shape)


@tf.custom_gradient
def _softplus(x):
  y = tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
  return y, lambda dy: dy * tf.sigmoid(x)


def _gaussian_log_prob(x, loc, scale):
  """Log density of independent normal values, particles last and first."""
  deviation = (x - loc) / scale
  normalizer = np.log(2.0 * np.pi)
  log_prob = -_sum_values(
    0.5 * (deviation**2 + normalizer) + tf.math.log(scale)
  )
  return particles_first(log_prob)


def _origin_and_unit(densities, scale):
  """The origin and the unit of each coordinate of the networks' inputs.

  Args:
    densities: The sequence of intermediate densities.
    scale: As of `GaussianTransitions`.

  Returns:
    origin: NumPy array of shape `[number of values]`.
    unit: Likewise; `None` if states are standardized already.
  """
  if scale is None:
    origin, scale = probes.location_and_scale(densities)
  else:
    size = base.num_values(densities)
    scale = checks.as_tensor('scale', scale, densities.float_dtype)
    if not broadcasts_to(scale.shape, [size]) or not np.all(
      (scale > 0.0) & tf.math.is_finite(scale)
    ):
      raise ValueError(
        '`scale` must be a positive and finite number, or an array of such of '
        f'shape [{size}]; got {scale}.'
      )
    origin = np.zeros([size], densities.float_dtype.as_numpy_dtype)
    scale = np.broadcast_to(scale, [size])
  unit = scale / _SCALE_OF_REFERENCE
  if np.all(unit == 1.0) and np.all(origin == 0.0):
    return origin, None
  return origin, unit.astype(origin.dtype)


class GaussianTransitions(base.Transition):
  """Gaussian forward and reverse kernels, one pair of networks for each level.

  ```none
  q(z | y) = Normal(z; y + u loc(h(x)), u softplus(scale(h(x))))
  x = (y - m) / u
  ```

  with one or more hidden ReLU layers `h`, and the reverse kernel likewise. The
  scale is diagonal, the output layers start at zero. States that are nested
  structures are concatenated to vectors for the networks.

  The origin `m` and the unit `u` of each coordinate come from the first
  density, half of whose scale is the unit. Training is then the same in
  whatever units a model is written. `scale=2.` is the parameterization of [1].

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  tfd = tfp.distributions

  path = nvi.GeometricPath(
      tfd.MultivariateNormalDiag([0., 0.], [5., 5.]),
      tfd.MultivariateNormalDiag([3., 0.], [1., 1.]), num_densities=3)
  transitions = nvi.GaussianTransitions(path, hidden_units=[50], seed=1)
  assert transitions.num_transitions == 2
  ```
  """

  is_rollable = True
  is_level_batched = True

  def __init__(
    self,
    densities: densities_lib.Densities,
    hidden_units: typing.Sequence[int] = (50,),
    batch_shape: types.Shape = (),
    seed: types.Seed | None = None,
    scale: types.TensorLike | None = None,
    name: str = 'gaussian_transitions',
  ):
    """Initializes the networks.

    Args:
      densities: The sequence of intermediate densities.
      hidden_units: Python `int`s: units of each hidden layer.
        Default value: `(50,)`.
      batch_shape: Shape of a batch of networks at each level, such as one for
        each of several restarts.
        Default value: `()`.
      seed: Python `int` or stateless seed for the initial weights.
      scale: Python `float` or array of the size of a state: the magnitude of
        states around zero, to begin with.
        Default value: `None` (i.e., the location and scale of 1,024 draws from
        the first density, or zero and one if that is not a distribution). With
        `reverse_kl`, which seeks modes, a larger scale loses fewer of them;
        `forward_kl` covers them.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If states are not real, or not of one floating point dtype, or
        `hidden_units` or `scale` are not positive.
    """
    super().__init__(name=name)
    base.check_real(densities, 'GaussianTransitions')
    hidden_units = checks.as_counts('hidden_units', hidden_units)
    self.num_transitions = densities.num_densities - 1
    self.batch_shape = checks.as_batch_shape('batch_shape', batch_shape)
    self._event_shape = densities.event_shape
    self._dtype = densities.float_dtype
    self._size = base.num_values(densities)
    self._origin, self._unit = _origin_and_unit(densities, scale)
    self._forward_network, self._reverse_network = (
      StackedPerceptron(
        self.num_transitions,
        self.batch_shape.as_list(),
        [self._size, *hidden_units, 2 * self._size],
        dtype=self._dtype,
        seed=s,
        name=network_name,
      )
      for network_name, s in zip(
        ('forward', 'reverse'),
        randomness.split_seed(randomness.as_seed(seed), 2),
        strict=True,
      )
    )

  def bind(self, densities: densities_lib.Densities) -> None:
    """Checks that the densities are over the states it was made for."""
    base.check_bound(
      'GaussianTransitions', densities, self._event_shape, self._dtype
    )

  def draw_noise(self, sample_shape: list, seed: tf.Tensor) -> tf.Tensor:
    """Draws standard normal values for all levels at once."""
    seeds = randomness.split_seed(seed, self.num_transitions)
    return self._draw(sample_shape, seeds)

  def draw_level_noise(
    self, sample_shape: list, seed: tf.Tensor, level: int | tf.Tensor
  ) -> tf.Tensor:
    """Draws standard normal values for one level."""
    seeds = randomness.split_seed(seed, self.num_transitions)
    return self._draw(sample_shape, seeds[level])

  def _draw(self, sample_shape, seed):
    return randomness.normal(
      [*sample_shape, self._size], seed, dtype=self._dtype
    )

  def _standardize(self, x):
    """States in the units of the networks, with the particles last."""
    if self._unit is not None:
      x = (x - self._origin) / self._unit
    return particles_last(x)

  def _log_prob(self, x, loc, scale):
    """Log density of a standardized state, with respect to states."""
    log_prob = _gaussian_log_prob(x, loc, scale)
    if self._unit is not None:
      log_prob -= np.sum(np.log(self._unit))
    return log_prob

  def _kernel(self, network, level, x):
    outputs = network.particles_last(level, x)
    if x.shape[:-2].num_elements() > 1:
      outputs = fusion.compute_once(outputs)
    loc, scale = tf.split(outputs, 2, axis=-2)
    # The smallest scale keeps densities finite where softplus underflows.
    return x + loc, _softplus(scale) + np.finfo(self._dtype.as_numpy_dtype).eps

  def propose(
    self,
    level: int | tf.Tensor | range,
    previous: types.Structure,
    noise: tf.Tensor,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""
    del target_log_prob_fn
    y = self._standardize(base.flatten_state(previous, self._event_shape))
    if y.shape[:-2].num_elements() > 1:
      y = fusion.compute_once(y)
    loc, scale = self._kernel(self._forward_network, level, y)
    sample = particles_first(loc + scale * particles_last(noise))
    if self._unit is not None:
      sample = self._origin + self._unit * sample
    if not reparameterize:
      sample = tf.stop_gradient(sample)
    z = self._standardize(sample)
    fixed = tf.stop_gradient(z)
    log_forward = self._log_prob(z, loc, scale)
    log_forward_fixed = self._log_prob(fixed, loc, scale)
    log_reverse = self._log_prob(
      y, *self._kernel(self._reverse_network, level, z)
    )
    log_reverse_fixed_states = self._log_prob(
      tf.stop_gradient(y), *self._kernel(self._reverse_network, level, fixed)
    )
    state = base.unflatten_state(sample, self._event_shape)
    return base.Move(
      state=state,
      log_forward=log_forward,
      log_reverse=log_reverse,
      log_forward_fixed_sample=log_forward_fixed if reparameterize else 0.0,
      log_forward_not_reparameterized=0.0
      if reparameterize
      else log_forward_fixed,
      log_reverse_fixed_states=log_reverse_fixed_states,
      samples=(sample,) if reparameterize else (),
      record=noise,
    )

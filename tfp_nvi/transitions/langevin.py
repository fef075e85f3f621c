# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Langevin kernels that preserve a Gaussian reference.

With a reference `Normal(m, s)`, `u = (x - m) / s`, and `rho` the log of the
level's density over that of the reference, both kernels of a level are

```none
q(u' | u) = Normal(a u + c (1 - a) grad rho(u), sqrt(1 - a^2)),  a = exp(-h),
```

an Ornstein-Uhlenbeck step plus a part of a Langevin step. Where the drift is
zero they leave the reference invariant and are reversible, so that the weight
of a particle depends on `rho` alone, whatever the dimension.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import axes, checks, randomness, types
from tfp_nvi.internal.axes import at_level
from tfp_nvi.transitions import base
from tfp_nvi.transitions.base import Move, Transition

__all__ = [
  'LangevinTransitions',
]


def _as_vector(name, value, dtype, size):
  """An argument as a vector of finite numbers."""
  value = checks.as_tensor(name, value, dtype)
  if not axes.broadcasts_to(value.shape, [size]) or not bool(
    tf.reduce_all(tf.math.is_finite(value))
  ):
    raise ValueError(
      f'`{name}` must be a finite number, or an array of such of shape '
      f'[{size}]; got {value}.'
    )
  return tf.broadcast_to(value, [size])


@tf.custom_gradient
def _with_finite_gradient(u):
  """The identity, with a gradient of zero for particles where it is infinite.

  A target may have a finite gradient and second derivatives that are not, which
  one particle in thousands would hand on to the gradient of all kernels.
  """

  def grad(du):
    is_finite = tf.reduce_all(tf.math.is_finite(du), axis=-1, keepdims=True)
    return tf.where(is_finite, du, tf.zeros_like(du))

  return tf.identity(u), grad


class LangevinTransitions(Transition):
  """Gaussian kernels that preserve a reference and follow the gradient.

  The step `h` and the factor of the drift `c` are learned for each level and
  coordinate, those of the reverse kernels by themselves. The gradient is that
  of the level that a transition leads to, at both of its ends: two gradients a
  level and particle. It is bounded smoothly, as an explicit step overshoots
  where densities are steep.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag([0.0, 0.0], [2.0, 2.0]),
    tfd.MultivariateNormalDiag([1.0, 0.0], [1.0, 0.5]),
    num_densities=4,
  )
  transitions = nvi.LangevinTransitions(path, scale=2.0)
  sampler = nvi.NestedSampler(path, transitions)
  particles = sampler.sample(100, seed=1)
  ```

  #### References

  [1]: S. L. Cotter, G. O. Roberts, A. M. Stuart, D. White. MCMC methods for
       functions: modifying old algorithms to make them faster. Statistical
       Science, 28(3), 2013.
  [2]: A. Doucet, W. Grathwohl, A. G. de G. Matthews, H. Strathmann. Score-based
       diffusion meets annealed importance sampling. NeurIPS, 2022.
  """

  is_rollable = True
  is_level_batched = True

  def __init__(
    self,
    densities: densities_lib.Densities,
    loc: types.TensorLike = 0.0,
    scale: types.TensorLike = 1.0,
    step: float = 0.2,
    max_drift: float | None = 10.0,
    name: str = 'langevin_transitions',
  ):
    """Initializes the steps and the drifts.

    Args:
      densities: The sequence of intermediate densities, over real states of one
        floating point dtype.
      loc: Float, or array of shape `[num_values]`: the mean of the reference,
        of a state's parts in the order of `tf.nest`, concatenated.
        Default value: `0.`.
      scale: Likewise: its standard deviations.
        Default value: `1.`.
      step: Python `float`: `h` to begin with, in units of the relaxation time
        of the reference.
        Default value: `0.2`.
      max_drift: Python `float`: the bound of the derivatives of `rho`, in units
        of the reference; or `None` for no bound.
        Default value: `10.`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is of the wrong kind.
      ValueError: If states are not of one floating point dtype, or a value is
        not positive.
    """
    super().__init__(name=name)
    base.check_real(densities, 'LangevinTransitions')
    step = checks.as_float('step', step, 0.0, is_open=True)
    if max_drift is not None:
      max_drift = checks.as_float('max_drift', max_drift, 0.0, is_open=True)
    self.num_transitions = densities.num_densities - 1
    self._max_drift = max_drift
    self._event_shape = densities.event_shape
    dtype = densities.float_dtype
    size = base.num_values(densities)
    self._loc, self._scale = (
      _as_vector(argument, value, dtype, size)
      for argument, value in (('loc', loc), ('scale', scale))
    )
    if not bool(tf.reduce_all(self._scale > 0.0)):
      raise ValueError(f'`scale` must be positive; got {scale!r}.')
    shape = [self.num_transitions, size]
    self._variables = [
      (
        tf.Variable(
          tf.fill(shape, tf.constant(np.log(step), dtype)),
          name=f'{side}_log_step',
        ),
        tf.Variable(tf.ones(shape, dtype), name=f'{side}_drift'),
      )
      for side in ('forward', 'reverse')
    ]

  def bind(self, densities: densities_lib.Densities) -> None:
    """Checks that the densities are over the states it was made for."""
    base.check_bound(
      'LangevinTransitions', densities, self._event_shape, self._loc.dtype
    )

  def draw_noise(self, sample_shape: list, seed: tf.Tensor) -> tf.Tensor:
    """Draws standard normal values for all levels at once."""
    return self._draw(
      sample_shape, randomness.split_seed(seed, self.num_transitions)
    )

  def draw_level_noise(
    self, sample_shape: list, seed: tf.Tensor, level: int | tf.Tensor
  ) -> tf.Tensor:
    """Draws standard normal values for one level."""
    return self._draw(
      sample_shape, randomness.split_seed(seed, self.num_transitions)[level]
    )

  def _draw(self, sample_shape, seed):
    return randomness.normal(
      [*sample_shape, *self._loc.shape], seed, dtype=self._loc.dtype
    )

  def _rho_gradient(self, u, target_log_prob_fn):
    """The bounded gradient of `rho`, differentiable in `u`."""
    u = _with_finite_gradient(u)
    with tf.GradientTape() as tape:
      tape.watch(u)
      log_prob = target_log_prob_fn(
        base.unflatten_state(self._loc + self._scale * u, self._event_shape)
      )
    gradient = tape.gradient(
      log_prob, u, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # A particle outside of the support follows the reference.
    gradient = tf.where(
      tf.math.is_finite(gradient), gradient + u, tf.zeros_like(u)
    )
    if self._max_drift is None:
      return gradient
    return gradient / tf.sqrt(1.0 + (gradient / self._max_drift) ** 2)

  def _kernel(self, side, level, u, gradient):
    """Mean and deviation of a kernel, in units of the reference."""
    log_step, drift = (
      at_level(x, level, rank=u.shape.rank - 1) for x in self._variables[side]
    )
    step = tf.exp(log_step)
    decay = tf.exp(-step)
    loc = decay * u - tf.math.expm1(-step) * drift * gradient
    return loc, tf.sqrt(-tf.math.expm1(-2.0 * step))

  def _log_prob(self, u, loc, scale):
    constant = 0.5 * np.log(2.0 * np.pi) + tf.math.log(self._scale)
    return -tf.reduce_sum(
      0.5 * ((u - loc) / scale) ** 2 + tf.math.log(scale) + constant, axis=-1
    )

  def propose(
    self,
    level: int | tf.Tensor | range,
    previous: types.Structure,
    noise: tf.Tensor,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> Move:
    """Proposes a state; see `Transition.propose`."""
    y = base.flatten_state(previous, self._event_shape)
    y = (y - self._loc) / self._scale
    loc, scale = self._kernel(
      0, level, y, self._rho_gradient(y, target_log_prob_fn)
    )
    x = self._loc + self._scale * (loc + scale * noise)
    if not reparameterize:
      x = tf.stop_gradient(x)
    z = (x - self._loc) / self._scale
    fixed_y, fixed_z = tf.stop_gradient(y), tf.stop_gradient(z)
    z_gradient = self._rho_gradient(z, target_log_prob_fn)
    log_forward_fixed = self._log_prob(fixed_z, loc, scale)
    zero = tf.zeros_like(log_forward_fixed)
    return Move(
      state=base.unflatten_state(x, self._event_shape),
      log_forward=self._log_prob(z, loc, scale),
      log_reverse=self._log_prob(y, *self._kernel(1, level, z, z_gradient)),
      log_forward_fixed_sample=log_forward_fixed if reparameterize else zero,
      log_forward_not_reparameterized=zero
      if reparameterize
      else log_forward_fixed,
      log_reverse_fixed_states=self._log_prob(
        fixed_y,
        *self._kernel(1, level, fixed_z, tf.stop_gradient(z_gradient)),
      ),
      samples=(x,) if reparameterize else (),
      record=noise,
    )

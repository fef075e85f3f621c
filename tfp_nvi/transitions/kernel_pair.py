# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs of kernels that are given as callables."""

import typing

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.transitions import base, probes

tfd = tfp.distributions

__all__ = [
  'KernelPair',
]


def _draw(distribution, seed):
  with randomness.portable_sampling():
    return distribution.sample(seed=randomness.as_seed(seed))


class KernelPair(base.Transition):
  """Forward and reverse kernels given as callables.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  step = tf.Variable(0.5)
  transition = nvi.KernelPair(
    forward_fn=lambda y: tfd.Normal(y + step, 1.0),
    reverse_fn=lambda z: tfd.Normal(z - step, 1.0),
  )
  ```
  """

  def __init__(
    self,
    forward_fn: typing.Callable,
    reverse_fn: typing.Callable,
    num_transitions: int | None = None,
    name: str = 'kernel_pair',
  ):
    """Initializes the transition.

    Args:
      forward_fn: Python callable from the previous state to a
        `tfd.Distribution` over states, whose `log_prob` has the shape
        `[num_particles] + batch`. With `num_transitions`, it takes the level as
        a second argument, a Python `int` or a scalar int `Tensor`.
      reverse_fn: Likewise, from the proposed state to a distribution over the
        previous one.
      num_transitions: Python `int`: the number of consecutive levels that the
        pair leads to, in one loop over levels.
        Default value: `None` (i.e., one).
      name: Python `str` name of this module.

    Raises:
      TypeError: If a kernel is not callable, or the number not an int.
      ValueError: If the reverse kernel is missing, or the number not positive.
    """
    super().__init__(name=name)
    if reverse_fn is None:
      raise ValueError(
        '`reverse_fn` must be given: the weight of a move needs the density of '
        'a reverse kernel; got None.'
      )
    for argument, fn in (
      ('forward_fn', forward_fn),
      ('reverse_fn', reverse_fn),
    ):
      checks.check_callable(
        argument, fn, 'a callable that returns a tfd.Distribution'
      )
    self._roll(num_transitions)
    self._forward_fn = forward_fn
    self._reverse_fn = reverse_fn
    self._event_ndims: list | None = None

  def bind(self, densities: densities_lib.Densities) -> None:
    """Takes the rank of events from the densities, and tries the kernels.

    Args:
      densities: The sequence of intermediate densities.

    Raises:
      ValueError: If a kernel is over another support than the densities, or the
        forward kernel does not reach states that the reverse kernel comes from.
    """
    self._event_ndims = [
      tf.TensorShape(shape).rank
      for shape in tf.nest.flatten(densities.event_shape)
    ]
    states = probes.probe_states(densities)
    if states is None or not self._fits(states):
      return
    level = tf.constant(0)
    for argument, kernel_fn in (
      ('forward_fn', self._forward),
      ('reverse_fn', self._reverse),
    ):
      draws = _draw(kernel_fn(level, states), 1)
      if not densities.is_discrete and probes.are_integers(draws):
        raise ValueError(
          f'`{argument}` must return a distribution over the real states of '
          'the densities; it returned a discrete one, which has no density '
          f'there: {kernel_fn(level, states)!r}.'
        )
    # A move from `draws` to `states`, as the reverse kernel would have it.
    reverse = self._reverse(level, states)
    draws = _draw(reverse, 2)
    is_missed = (
      self._forward(level, draws).log_prob(states) == -float('inf')
    ) & (reverse.log_prob(draws) > -float('inf'))
    if tf.reduce_any(is_missed) and tf.reduce_any(
      is_missed
      & probes.is_positive(densities, states, 1)
      & probes.is_positive(densities, draws, 0)
    ):
      raise ValueError(
        '`forward_fn` must return a distribution with a positive density '
        'wherever the densities and `reverse_fn` have one, as the mass of all '
        'other states would be lost; it is zero at states that `reverse_fn` '
        f'leads back from: {self._forward(level, draws)!r}.'
      )

  def _fits(self, states):
    """Whether the kernels can be tried at states of this batch shape.

    They cannot if their parameters have another batch shape, which the sampler
    has but the densities do not, or if they take one number of particles. Any
    mistake is met again at the first call.
    """
    level = tf.constant(0)
    try:
      for kernel_fn in (self._forward, self._reverse):
        draws = _draw(kernel_fn(level, states), 0)
        checks.check_same_states('A kernel', draws, states)
        self._log_prob('kernel', kernel_fn(level, states), draws)
    except Exception:  # pylint: disable=broad-except
      return False
    return True

  def _forward(self, level, state):
    return self._kernel('forward_fn', self._forward_fn, level, state)

  def _reverse(self, level, state):
    return self._kernel('reverse_fn', self._reverse_fn, level, state)

  def _kernel(self, argument, fn, level, state):
    distribution = fn(state, level) if self.is_rollable else fn(state)
    return checks.check_returned_instance(
      argument, distribution, tfd.Distribution, 'a tfd.Distribution'
    )

  def _log_prob(self, argument, kernel, state):
    """Log density of a state, one for each particle and batch member."""
    log_prob = kernel.log_prob(state)
    part = tf.nest.flatten(state)[0]
    if self._event_ndims is None:
      # Not bound: all that is known is that there are particles.
      is_right = log_prob.shape[:1] == part.shape[:1]
      expected = part.shape[:1].as_list() + ['...']
    else:
      expected = part.shape[: part.shape.rank - self._event_ndims[0]]
      is_right = log_prob.shape == expected
      expected = expected.as_list()
    if not is_right:
      raise ValueError(
        f'`{argument}` must return a distribution with one log density for '
        f'each particle and batch member, of shape {expected}; the log density '
        f'of states {checks.describe(state)} has shape {log_prob.shape}. '
        'Particles and batch members must be in the batch of the distribution, '
        'and a kernel over vectors must be a distribution over vectors, such '
        f'as tfd.Independent; got {kernel!r}.'
      )
    return log_prob

  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: tf.Tensor,
    target_log_prob_fn: typing.Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""
    del target_log_prob_fn
    forward = self._forward(level, previous)
    with randomness.portable_sampling():
      state = forward.sample(seed=noise)
    checks.check_same_states('`forward_fn`', state, previous)
    draw = base.as_draw(
      forward,
      state,
      lambda z: self._log_prob('forward_fn', forward, z),
      reparameterize,
    )

    def log_reverse_fn(y, z):
      return self._log_prob('reverse_fn', self._reverse(level, z), y)

    return draw._replace(
      log_reverse=log_reverse_fn(previous, draw.state),
      log_reverse_fixed_states=log_reverse_fn(
        base.stop_gradient(previous), base.stop_gradient(draw.state)
      ),
      record=noise,
    )

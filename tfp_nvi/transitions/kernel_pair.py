# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs of kernels that are given as callables."""

import tensorflow_probability as tfp

from tfp_nvi.internal import checks
from tfp_nvi.transitions import base

tfd = tfp.distributions

__all__ = [
  'KernelPair',
]


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
    self, forward_fn, reverse_fn, num_transitions=None, name='kernel_pair'
  ):
    """Initializes the transition.

    Args:
      forward_fn: Python callable from the previous state to a
        `tfd.Distribution` over states, whose `log_prob` has the shape
        `[num_particles] + batch`. With `num_transitions`, it takes the level as
        a second argument, an int `Tensor`.
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
        '`reverse_fn` must be given: states of all levels are over one space, '
        'and a forward kernel has no density there without a reverse kernel; '
        'got None.'
      )
    for argument, fn in (
      ('forward_fn', forward_fn),
      ('reverse_fn', reverse_fn),
    ):
      if not callable(fn):
        raise TypeError(
          f'`{argument}` must be a callable that returns a tfd.Distribution; '
          f'got {fn!r}.'
        )
    if num_transitions is not None:
      num_transitions = checks.as_count('num_transitions', num_transitions)
      self.num_transitions = num_transitions
    self.is_rollable = num_transitions is not None
    self._forward_fn = forward_fn
    self._reverse_fn = reverse_fn

  def _kernel(self, argument, fn, level, state):
    distribution = fn(state, level) if self.is_rollable else fn(state)
    if not isinstance(distribution, tfd.Distribution):
      raise TypeError(
        f'`{argument}` must return a tfd.Distribution; it returned '
        f'{distribution!r}.'
      )
    return distribution

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    del target_log_prob_fn
    forward = self._kernel('forward_fn', self._forward_fn, level, previous)

    def reverse_fn(z):
      return self._kernel('reverse_fn', self._reverse_fn, level, z)

    return base.kernel_move(
      forward, reverse_fn, previous, noise, reparameterize
    )

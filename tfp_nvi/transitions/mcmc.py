# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Markov kernels that leave a level's density invariant."""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, randomness, reductions, types
from tfp_nvi.transitions import base

__all__ = [
  'MCMCTransition',
]


def _nan_log_prob(dtype):
  """The log density that kernels see where the target is NaN.

  Low enough that no proposal of it is accepted, from wherever the density is
  positive, and a value that no density returns by itself, by which such
  proposals are counted.
  """
  return tf.constant(0.75 * dtype.min, dtype)


def _num_nan_proposals(results):
  """How many of a step's proposals have a density that is NaN.

  Args:
    results: Kernel results of `tfp.mcmc`, of one step.

  Returns:
    num_nan: int32 scalar; zero if the results do not have proposals, as those
      of kernels without a Metropolis-Hastings step do not.
  """
  # As `tfp.mcmc` names these, inside of the results of kernels that adapt.
  while hasattr(results, 'inner_results'):
    results = results.inner_results
  proposed = getattr(results, 'proposed_results', None)
  log_prob = getattr(proposed, 'target_log_prob', None)
  if log_prob is None:
    return 0
  return reductions.count_true(
    tf.equal(log_prob, _nan_log_prob(log_prob.dtype))
  )


def _where_nan(log_prob, value):
  return tf.where(tf.math.is_nan(log_prob), value, log_prob)


class MCMCTransition(base.Transition):
  """A Markov kernel that leaves the level's density invariant.

  A log density that is NaN counts as zero density: it is never moved to, and
  the `num_nan` of a move says how often it was met.

  #### References

  [1]: P. Del Moral, A. Doucet, A. Jasra. Sequential Monte Carlo samplers.
       Journal of the Royal Statistical Society B, 68(3), 2006.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  transition = nvi.MCMCTransition(
    lambda target_log_prob_fn: tfp.mcmc.HamiltonianMonteCarlo(
      target_log_prob_fn, step_size=0.5, num_leapfrog_steps=3
    ),
    num_steps=2,
  )
  ```
  """

  keeps_support = True

  def __init__(
    self,
    make_kernel_fn: typing.Callable,
    num_steps: int = 1,
    num_transitions: int | None = None,
    name: str = 'mcmc_transition',
  ):
    """Initializes the transition.

    Args:
      make_kernel_fn: Python callable that takes `target_log_prob_fn`, whose
        arguments are the parts of a state, and returns a
        `tfp.mcmc.TransitionKernel`. With `num_transitions`, it takes the level
        as a second argument, a Python `int` or a scalar int `Tensor`.
      num_steps: Python `int` number of steps of the kernel.
        Default value: `1`.
      num_transitions: Python `int`: the number of consecutive levels that the
        kernel leads to, in one loop over levels.
        Default value: `None` (i.e., one).
      name: Python `str` name of this module.

    Raises:
      TypeError: If `make_kernel_fn` is not callable, or a number not an int.
      ValueError: If `num_steps` or `num_transitions` is not positive.
    """
    super().__init__(name=name)
    checks.check_callable(
      'make_kernel_fn',
      make_kernel_fn,
      'a callable from a target_log_prob_fn to a tfp.mcmc.TransitionKernel',
    )
    num_steps = checks.as_count('num_steps', num_steps)
    self._roll(num_transitions)
    self.is_level_batched = self.is_rollable
    self._make_kernel_fn = make_kernel_fn
    self._num_steps = num_steps
    self.records_noise = False

  def record_like(
    self, noise: types.Structure, state: types.Structure
  ) -> types.Structure:
    """The record is the state the kernel led to."""
    del noise
    return state

  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: tf.Tensor,
    target_log_prob_fn: typing.Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""
    del reparameterize

    def log_prob_of_parts(*parts):
      log_prob = target_log_prob_fn(tf.nest.pack_sequence_as(previous, parts))
      return _where_nan(log_prob, _nan_log_prob(log_prob.dtype))

    kernel = (
      self._make_kernel_fn(log_prob_of_parts, level)
      if self.is_rollable
      else self._make_kernel_fn(log_prob_of_parts)
    )
    checks.check_returned_instance(
      'make_kernel_fn',
      kernel,
      tfp.mcmc.TransitionKernel,
      'a tfp.mcmc.TransitionKernel',
    )
    if not kernel.is_calibrated:
      raise ValueError(
        '`make_kernel_fn` must return a calibrated kernel, as only such a one '
        f'leaves a density invariant; got {type(kernel).__name__}.'
      )
    parts = [tf.stop_gradient(part) for part in tf.nest.flatten(previous)]
    num_nan = 0
    with randomness.portable_sampling():
      results = kernel.bootstrap_results(parts)
      for seed in tf.unstack(randomness.split_seed(noise, self._num_steps)):
        parts, results = kernel.one_step(parts, results, seed=seed)
        num_nan += _num_nan_proposals(results)
    parts = [tf.stop_gradient(part) for part in tf.nest.flatten(parts)]
    move = self.replay(
      level,
      previous,
      tf.nest.pack_sequence_as(previous, parts),
      target_log_prob_fn,
    )
    return move._replace(num_nan=num_nan + move.num_nan)

  def replay(
    self,
    level: int | tf.Tensor | range,
    previous: types.Structure,
    record: types.Structure,
    target_log_prob_fn: typing.Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Makes a move again, from the state it led to."""
    del level, reparameterize
    state = base.stop_gradient(record)
    log_prob_of_state = target_log_prob_fn(state)

    def log_reverse_fn(log_prob):
      log_prob = _where_nan(log_prob, tf.constant(-np.inf, log_prob.dtype))
      # Where the density is zero at both states, their difference is NaN.
      return tf.where(
        tf.equal(log_prob, -np.inf), log_prob, log_prob - log_prob_of_state
      )

    log_prob = target_log_prob_fn(previous)
    log_reverse = log_reverse_fn(log_prob)
    return base.Move(
      state=state,
      log_forward=0.0,
      log_reverse=log_reverse,
      log_reverse_fixed_states=log_reverse_fn(
        target_log_prob_fn(base.stop_gradient(previous))
      ),
      record=state,
      # The sampler counts the density of the state itself.
      num_nan=reductions.count_true(
        tf.math.is_nan(log_prob) & ~tf.math.is_nan(log_prob_of_state)
      ),
    )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Learning the proposal of the global state from simulated sequences.

Contract: global states and sequences are drawn together from the model, so that
the gradient of the mean of `log q(theta | x)` is that of the forward KL
divergence from the posterior, without particles and their weights.

#### References

[1]: G. Papamakarios, I. Murray. Fast epsilon-free inference of simulation
     models with Bayesian conditional density estimation. NeurIPS, 2016.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import objectives
from tfp_nvi.internal import randomness
from tfp_nvi.objectives import base
from tfp_nvi.state_space import networks

__all__ = [
  'Simulated',
  'SimulatedForwardKL',
]


class Simulated(NamedTuple):
  """Simulated sequences with their global states, and the network to learn.

  Fields:
    network: `GlobalProposalNetwork`.
    global_state: Nested structure of `Tensor`s of shape `[batch_size] + event`.
    observations: Nested structure of `Tensor`s of shape
      `[batch_size, num_steps] + event`.
    inputs: Nested structure of `Tensor`s; `()` if there are none.
  """

  network: networks.GlobalProposalNetwork
  global_state: Any
  observations: Any
  inputs: Any = ()


def _random_mask(shape, seed):
  """Which steps to show: all of most sequences, and a part of the others."""
  seeds = tf.unstack(randomness.split_seed(seed, 4))
  batch, num_steps = shape[:-1], shape[-1]
  kind = randomness.uniform([*batch, 1], seeds[0])
  share = randomness.uniform([*batch, 1], seeds[1])
  is_kept = randomness.uniform(shape, seeds[2]) > 0.5 * share
  length = num_steps * (0.25 + 0.75 * randomness.uniform([*batch, 1], seeds[3]))
  is_before = tf.range(num_steps, dtype=tf.float32) < length
  return tf.where(kind < 0.7, True, tf.where(kind < 0.85, is_kept, is_before))


class SimulatedForwardKL(objectives.Objective):
  """The mean of `-log q(theta | x)` over simulated pairs."""

  def __call__(self, sampler, num_particles, seed):
    """The loss and its gradients; see `Objective`."""
    del num_particles
    network, global_state, observations, inputs = sampler
    # One batch axis, of the mini-batch.
    shape = tf.nest.flatten(observations)[0].shape[:2].as_list()
    mask = _random_mask(shape, seed)
    with tf.GradientTape() as tape:
      log_prob = network.log_prob(global_state, observations, mask, inputs)
      is_finite = tf.math.is_finite(log_prob)
      # A heavy tail of the prior may overflow in a simulation.
      loss = -tf.reduce_sum(
        tf.where(is_finite, log_prob, tf.zeros_like(log_prob))
      ) / tf.reduce_sum(tf.cast(is_finite, log_prob.dtype))
    variables = tape.watched_variables()
    zero = tf.zeros([1], loss.dtype)
    estimate = objectives.Estimate(
      loss=loss,
      log_normalizer=-loss,
      effective_sample_size=zero[0] + 1.0,
      log_incremental_weights=zero,
      level_effective_sample_sizes=zero + 1.0,
      num_nan=tf.reduce_sum(tf.cast(~is_finite, tf.int32)),
    )
    return estimate, base.pair_gradients(
      tape.gradient(loss, variables), variables
    )

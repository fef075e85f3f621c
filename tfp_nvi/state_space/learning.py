# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Learning proposals and heuristics from simulated sequences.

Contract: states and sequences are drawn together from the model, so that no
particles and no weights are needed. Or sequences are data, and the current
sampler draws their states [2]. The gradient of the mean of `log q(theta | x)`
is that of the forward KL divergence from the posterior of the global state. The
gradient of a contrast between states trains a heuristic.

#### References

[1]: G. Papamakarios, I. Murray. Fast epsilon-free inference of simulation
     models with Bayesian conditional density estimation. NeurIPS, 2016.
[2]: J. Bornschein, Y. Bengio. Reweighted wake-sleep. ICLR, 2015.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfp_nvi import objectives, resampling
from tfp_nvi.internal import randomness, types
from tfp_nvi.objectives import base
from tfp_nvi.state_space.model import StateSpaceModel
from tfp_nvi.state_space.sampler import StateSpaceSampler
from tfp_nvi.state_space.sequences import Sequences

__all__ = [
  'Simulated',
  'SimulationObjective',
  'draw_states',
  'simulate_finite',
]

# The number of sequences that are sampled together.
_CHUNK = 32
# The number of levels of a mini-batch at which the heuristic is trained.
_NUM_LEVELS = 4


class Simulated(NamedTuple):
  """Simulated sequences with their states, and the networks to train on them.

  Fields:
    network: `GlobalProposalNetwork`, or `None`.
    heuristic: `RecurrentHeuristic`, or `None`.
    global_state: Nested structure of `Tensor`s of shape `[batch_size] + event`.
    local_states: Nested structure of `Tensor`s of shape
      `[batch_size, num_steps] + event`.
    observations: Likewise.
    inputs: Likewise; `()` if there are none.
    is_observed: Mask of the observations, for steps or components; `()` if
      nothing is missing. More observations are hidden at random.
  """

  network: Any
  heuristic: Any
  global_state: Any
  local_states: Any
  observations: Any
  inputs: Any = ()
  is_observed: Any = ()


def simulate_finite(
  model: StateSpaceModel,
  num_steps: int,
  num_sequences: int,
  inputs: types.Structure | None,
  seed: types.StatelessSeed,
) -> tuple:
  """Simulates sequences of a model, without those that overflow.

  Args:
    model: `StateSpaceModel`.
    num_steps: Python `int`.
    num_sequences: Python `int`.
    inputs: Nested structure of `Tensor`s of shape `[num_steps] + event`;
      `None` if there are none.
    seed: Stateless seed.

  Returns:
    values: Tuple of global states, local states and observations, each with a
      first axis over sequences.

  Raises:
    ValueError: If nearly all of the sequences overflow.
  """
  simulate = tf.function(
    lambda seed: model.simulate(num_steps, [num_sequences], seed, inputs),
    autograph=False,
  )
  values = simulate(seed)
  is_finite = np.ones([num_sequences], bool)
  for x in tf.nest.flatten(values):
    if x.dtype.is_floating:
      # Squares must be finite as well.
      is_small = np.abs(x.numpy()) < 1e15
      is_finite &= is_small.reshape([num_sequences, -1]).all(axis=1)
  if is_finite.sum() < 0.01 * num_sequences:
    raise ValueError(
      '`model` must simulate sequences of numbers that do not overflow; of '
      f'{num_sequences} sequences, {is_finite.sum()} did not.'
    )
  return tf.nest.map_structure(lambda x: tf.boolean_mask(x, is_finite), values)


def _random_mask(observations, seed):
  """Draws masks that show most sequences whole, and the others in part.

  Half of the others end early. The other half have missing steps or, if there
  are several components, missing components.

  Args:
    observations: Nested structure of `Tensor`s of shape
      `[batch_size, num_steps] + event`.
    seed: Stateless seed.

  Returns:
    mask: Mask for components, or for steps if there is one component.
  """
  seeds = tf.unstack(randomness.split_seed(seed, 5))
  parts = tf.nest.flatten(observations)
  shape = parts[0].shape[:2].as_list()
  batch, num_steps = shape[:-1], shape[-1]
  kind = randomness.uniform([*batch, 1], seeds[0])
  share = randomness.uniform([*batch, 1], seeds[1])
  is_kept = randomness.uniform(shape, seeds[2]) > 0.5 * share
  length = num_steps * (0.25 + 0.75 * randomness.uniform([*batch, 1], seeds[3]))
  is_before = tf.range(num_steps, dtype=tf.float32) < length
  steps = tf.where(kind < 0.7, True, tf.where(kind < 0.85, is_kept, is_before))
  if len(parts) == 1 and parts[0].shape.rank == 2:
    return steps
  masks = []
  for i, x in enumerate(parts):
    padding = [1] * (x.shape.rank - 2)
    uniform = randomness.uniform(
      x.shape.as_list(), randomness.fold_in(seeds[4], i)
    )
    # Every other sequence with missing steps has missing components instead.
    by_component = tf.reshape(kind < 0.775, [*batch, 1] + padding)
    by_component &= tf.reshape(kind >= 0.7, [*batch, 1] + padding)
    mask = tf.reshape(steps, shape + padding)
    masks.append(
      tf.where(
        by_component,
        uniform > 0.5 * tf.reshape(share, [*batch, 1] + padding),
        mask,
      )
    )
  return tf.nest.pack_sequence_as(observations, masks)


def _both(mask, is_observed, observations):
  """Combines two masks; the first one comes from `_random_mask`."""
  if not tf.nest.is_nested(is_observed):
    is_observed = tf.nest.map_structure(lambda _: is_observed, observations)

  def both(mask, other):
    padding = [1] * (mask.shape.rank - other.shape.rank)
    return mask & tf.reshape(other, other.shape + padding)

  flat = map(both, tf.nest.flatten(mask), tf.nest.flatten(is_observed))
  return tf.nest.pack_sequence_as(mask, list(flat))


def draw_states(
  sampler: StateSpaceSampler,
  sequences: Sequences,
  num_particles: int,
  num_draws: int,
  seed: types.StatelessSeed,
) -> tuple:
  """Draws states of sequences by a sampler.

  Args:
    sampler: `StateSpaceSampler`.
    sequences: `Sequences` with one batch axis.
    num_particles: Python `int`: particles of each sequence.
    num_draws: Python `int`: the number of draws for each sequence.
    seed: Stateless seed.

  Returns:
    values: Tuple of global states, local states, observations and masks, each
      with a first axis over `num_draws` times the number of sequences. Masks
      are `()` if nothing is missing.
  """
  size = sequences.batch_shape[0]
  chunk = min(size, _CHUNK)
  x, is_observed, _, inputs = sequences.parts()
  is_observed = () if is_observed is None else is_observed
  draws = []
  for start in range(0, size, chunk):
    # The last chunk is filled up, so that all have the same shape.
    index = np.arange(start, start + chunk) % size
    values = tf.nest.map_structure(
      lambda x, index=index: tf.gather(x, index), (x, is_observed, inputs)
    )
    chunk_x, mask, u = values
    run_seed, draw_seed = tf.unstack(
      randomness.split_seed(randomness.fold_in(seed, start), 2)
    )
    posterior = sampler.sample(
      chunk_x,
      num_particles,
      run_seed,
      is_observed=mask if tf.nest.flatten(mask) else None,
      inputs=u if tf.nest.flatten(u) else None,
    )
    states, _ = resampling.resample(
      (posterior.global_state, posterior.trajectories),
      posterior.log_weights,
      resampling.resample_systematic,
      draw_seed,
      num_draws=num_draws,
    )
    repeated = tf.nest.map_structure(
      lambda x: tf.broadcast_to(x, [num_draws] + x.shape), (chunk_x, mask)
    )
    keep = min(chunk, size - start)
    draws.append(
      tf.nest.map_structure(
        lambda x, keep=keep: tf.reshape(
          x[:, :keep], [num_draws * keep] + x.shape[2:]
        ),
        (*states, *repeated),
      )
    )
  return tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *draws)


class SimulationObjective(objectives.Objective):
  """The losses of the networks over simulated sequences."""

  def __call__(
    self, sampler: Simulated, num_particles: int, seed: tf.Tensor
  ) -> tuple[base.Estimate, list[tuple[tf.Tensor, tf.Variable]]]:
    """Returns the loss and its gradients; see `Objective`."""
    del num_particles
    mask_seed, level_seed = tf.unstack(randomness.split_seed(seed, 2))
    mask = _random_mask(sampler.observations, mask_seed)
    if tf.nest.flatten(sampler.is_observed):
      mask = _both(mask, sampler.is_observed, sampler.observations)
    loss: Any = 0.0
    with tf.GradientTape() as tape:
      if sampler.network is not None:
        loss -= tf.reduce_mean(
          sampler.network.log_prob(
            sampler.global_state, sampler.observations, mask, sampler.inputs
          )
        )
      if sampler.heuristic is not None:
        loss += sampler.heuristic.contrast(
          sampler.global_state,
          sampler.local_states,
          sampler.observations,
          mask,
          _NUM_LEVELS,
          level_seed,
        )
    variables = tape.watched_variables()
    zero = tf.zeros([1], loss.dtype)
    estimate = objectives.Estimate(
      loss=loss,
      log_normalizer=-loss,
      effective_sample_size=zero[0] + 1.0,
      log_incremental_weights=zero,
      level_effective_sample_sizes=zero + 1.0,
      num_nan=tf.constant(0),
    )
    return estimate, base.pair_gradients(
      tape.gradient(loss, variables), variables
    )

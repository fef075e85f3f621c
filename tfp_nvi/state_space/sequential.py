# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""SMC^2: global states learned step by step, each with a filter of its own.

Contract: particles are global states. Each one has a filter, whose estimates of
`p(x_t | x_{0:t-1}, theta)` are its incremental weights, so that at each step
the particles are properly weighted for `p(theta, x_{0:t})`. Where few of them
are effective they are resampled, and moved by particle Metropolis-Hastings,
which leaves the posterior of the steps so far invariant. A filter is run over
all steps at once, and its results for later steps are used when these come, so
that a move is a run with other global states.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_nvi import densities as densities_lib
from tfp_nvi import resampling, weighting
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.state_space import global_space, kernels, smoothing
from tfp_nvi.state_space.sampler import StateSpaceSampler

__all__ = [
  'SequentialPosterior',
  'smc_squared',
]


class SequentialPosterior(NamedTuple):
  """Properly weighted global states after the last step of a sequence.

  Fields:
    particles: `WeightedParticles` of global states, `num_global` of them.
    log_scores: float NumPy array of shape `[num_steps]`: estimates of
      `log p(x_t | x_{0:t-1})`, with the global state unknown. Their sum is the
      estimate of `log p(x)`.
    effective_sample_sizes: float NumPy array of shape `[num_steps]`: that of
      the global states, before resampling.
    move_steps: List of Python `int`s: the steps after which the global states
      were moved.
    acceptance_rates: List of Python `float`s: the accepted share of the moves.
  """

  particles: weighting.WeightedParticles
  log_scores: np.ndarray
  effective_sample_sizes: np.ndarray
  move_steps: list
  acceptance_rates: list

  @property
  def log_normalizer(self) -> float:
    """Estimate of `log p(x)`."""
    return float(np.sum(self.log_scores))


def smc_squared(
  sampler: StateSpaceSampler,
  observations: types.Structure,
  num_global: int = 400,
  num_particles: int = 100,
  *,
  ess_threshold: float = 0.5,
  num_moves: int = 3,
  is_observed: types.Structure | None = None,
  inputs: types.Structure | None = None,
  jit_compile: bool = True,
  seed: types.Seed | None = None,
) -> SequentialPosterior:
  """Samples the posterior of the global state step by step.

  This needs no proposal of the global state, and gives one-step-ahead log
  scores for models whose global state is unknown. A filter that is run with
  global states of the whole sequence does not give these scores. The heuristic
  is not used.

  Args:
    sampler: `StateSpaceSampler` of a model with a prior.
    observations: Nested structure of `Tensor`s of shape `[num_steps] + event`:
      one sequence.
    num_global: Python `int` number of global states.
      Default value: `400`.
    num_particles: Python `int`: particles of each filter.
      Default value: `100`.
    ess_threshold: Python `float`: global states are resampled and moved where a
      smaller share of them is effective.
      Default value: `0.5`.
    num_moves: Python `int`: how many times to move them then.
      Default value: `3`.
    is_observed: As in `StateSpaceSampler.sample`.
    inputs: As in `StateSpaceSampler.sample`.
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    posterior: `SequentialPosterior`.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If the model has no prior, the arguments are not one sequence of
      the model, or no particle has any weight after some step.

  #### References

  [1]: N. Chopin, P. E. Jacob, O. Papaspiliopoulos. SMC^2: an efficient
       algorithm for sequential analysis of state space models. Journal of the
       Royal Statistical Society B, 75(3), 2013.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.4),
  )
  sampler = nvi.StateSpaceSampler(model, proposal_fn='guided')
  posterior = nvi.smc_squared(
    sampler, [0.1, 0.5, 0.8], num_global=50, num_particles=20, seed=1
  )
  assert posterior.log_scores.shape == (3,)
  ```
  """
  checks.check_instance(
    'sampler', sampler, StateSpaceSampler, 'a StateSpaceSampler'
  )
  if sampler.model.prior is None:
    raise ValueError(
      '`sampler` must be of a model with a prior over global states.'
    )
  num_global = checks.as_count('num_global', num_global, 2)
  num_particles = checks.as_count('num_particles', num_particles)
  num_moves = checks.as_count('num_moves', num_moves)
  ess_threshold = checks.as_float('ess_threshold', ess_threshold, 0.0, 1.0)
  checks.check_bool('jit_compile', jit_compile)
  sequences = smoothing.as_single(sampler, observations, is_observed, inputs)
  first_seed, seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 2)
  )
  moves = _Moves(
    sampler, sequences.parts(), num_particles, num_moves, jit_compile
  )
  theta = densities_lib.draw(
    sampler.model.prior, num_global, [], randomness.fold_in(first_seed, 0)
  )
  increments = moves.run(theta, randomness.fold_in(first_seed, 1))
  log_weights = tf.zeros([num_global], increments.dtype)
  root, log_pairs_lost = tf.range(num_global), tf.zeros([], increments.dtype)
  scores, sizes, steps, rates = [], [], [], []
  for t in range(sequences.num_steps):
    log_incremental = increments[t]
    weights = weighting.normalize_weights(log_weights)
    scores.append(
      float(weighting.weighted_log_mean_exp(weights, log_incremental))
    )
    if not np.isfinite(scores[-1]):
      raise ValueError(
        f'No global state has any weight after step {t + 1}: `observations` '
        'must be possible under the model.'
      )
    log_weights = log_weights + log_incremental
    sizes.append(float(weighting.effective_sample_size(log_weights)))
    if sizes[-1] >= ess_threshold * num_global:
      continue
    before = weighting.WeightedParticles(theta, log_weights, root)
    theta, increments, log_weights, root, rate = moves.move(
      theta, increments, log_weights, root, t, randomness.fold_in(seed, t)
    )
    log_pairs_lost += weighting.log_pairs_lost(
      before, weighting.WeightedParticles(theta, log_weights, root)
    )
    steps.append(t)
    rates.append(rate)
  return SequentialPosterior(
    weighting.WeightedParticles(
      theta, log_weights, root, log_pairs_lost=log_pairs_lost
    ),
    np.array(scores),
    np.array(sizes),
    steps,
    rates,
  )


class _Moves:
  """Filters for given global states, and moves of these; compiled once."""

  def __init__(self, sampler, parts, num_particles, num_moves, jit_compile):
    self._space = global_space.GlobalSpace(sampler.model.prior)
    self._parts = parts
    self._num_moves = num_moves
    self._estimate = kernels.log_likelihood_fn(
      sampler, num_particles, looks_ahead=False
    )
    key = num_particles, num_moves, jit_compile
    self._compiled_run = sampler.compiled(
      ('smc_squared run', *key), self._run, jit_compile
    )
    self._compiled_move = sampler.compiled(
      ('smc_squared move', *key), self._resample_and_move, jit_compile
    )

  def run(self, theta, seed):
    """Returns increments of all steps, of shape `[num_steps, num_global]`."""
    return self._compiled_run(self._parts, theta, seed)

  def _run(self, parts, theta, seed):
    """Adds the increment of level 0, which is zero, to the first one."""
    increments = self._estimate(parts, theta, seed)
    return tf.concat([increments[:1] + increments[1:2], increments[2:]], axis=0)

  def move(self, theta, increments, log_weights, root, t, seed):
    """Resamples global states after a step, and moves them.

    Args:
      theta: Nested structure of `Tensor`s of shape `[num_global] + event`.
      increments: `Tensor` of shape `[num_steps, num_global]`.
      log_weights: `Tensor` of shape `[num_global]`.
      root: int32 `Tensor` of the same shape: the ancestors at the start.
      t: Python `int`: the step.
      seed: Stateless seed.

    Returns:
      theta: Like the argument.
      increments: Likewise.
      log_weights: Likewise: equal weights, with the same sum.
      root: Likewise.
      rate: Python `float`: the accepted share.
    """
    *moved, rate = self._compiled_move(
      self._parts, theta, increments, log_weights, root, tf.constant(t), seed
    )
    return *moved, float(rate)

  def _resample_and_move(
    self, parts, theta, increments, log_weights, root, t, seed
  ):
    resample_seed, seed = tf.unstack(randomness.split_seed(seed, 2))
    # The scale is optimal for a normal posterior; twice as much would be too
    # far.
    _, scale_tril = self._space.matched(theta, log_weights)
    scale = 2.38 / np.sqrt(self._space.size) * scale_tril
    (theta, columns, root), equal_log_weights = resampling.resample(
      (theta, tf.transpose(increments), root),
      log_weights,
      resampling.resample_systematic,
      resample_seed,
    )
    is_past = tf.range(increments.shape[0])[:, tf.newaxis] <= t

    def so_far(increments):
      return tf.reduce_sum(
        tf.where(is_past, increments, tf.zeros_like(increments)), axis=0
      )

    def body(i, theta, increments, rate):
      theta, increments, is_accepted = kernels.metropolis(
        self._space,
        scale,
        lambda theta, seed: self._run(parts, theta, seed),
        so_far,
        theta,
        increments,
        randomness.fold_in(seed, i),
      )
      rate += tf.reduce_mean(tf.cast(is_accepted, rate.dtype))
      return i + 1, theta, increments, rate

    _, theta, increments, rate = tf.while_loop(
      lambda i, *_: i < self._num_moves,
      body,
      (
        tf.constant(0),
        theta,
        tf.transpose(columns),
        tf.zeros([], increments.dtype),
      ),
      parallel_iterations=1,
      maximum_iterations=self._num_moves,
    )
    return theta, increments, equal_log_weights, root, rate / self._num_moves

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors by samplers of blackjax, for comparison.

All start from the initial density, over the vectors that `fit_posterior` works
on, in units of that density. The target is evaluated by TensorFlow within the
programs of JAX.

- Adaptive tempered sequential Monte Carlo: temperatures by an effective sample
  size of one half, eight Hamiltonian trajectories of ten steps for each, with
  the covariance of the particles and steps by acceptance. Of four settings that
  were tried on eight schools, these had the smallest errors. A small run says
  how many particles the evaluations suffice for. Values that serve temperatures
  and weights are not counted.
- Nested slice sampling, with `max(5, 2 d)` slices for each new point, as its
  documentation asks for. A small run says how many live points the evaluations
  suffice for; where these are fewer than four for each dimension, it has as
  many, and takes more evaluations. It needs no gradients.
- The No-U-Turn sampler, for moments: four chains, each with 500 steps of window
  adaptation, which are counted, and then as many draws as the evaluations
  suffice for.
"""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from blackjax.ns import utils as ns_utils
from blackjax.smc import adaptive_tempered, resampling, solver
from jax.experimental import jax2tf

from tfp_nvi.internal import randomness
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'measure_nested',
  'measure_tempered',
  'sample_nuts',
]

_NUM_MOVES = 8
_NUM_LEAPFROG_STEPS = 10
_TARGET_SIZE = 0.5
_TARGET_ACCEPTANCE = 0.8
_NUM_FIRST = 100
# The logarithm of the share of the evidence that nested sampling may leave out.
_LOG_LEFT = -5.0
# How many times the evaluations that it was to take nested sampling may take.
_MAX_EXCESS = 3.0
_NUM_CHAINS = 4
_NUM_ADAPTATION_STEPS = 500
# Draws of each chain between looks at the evaluations.
_NUM_DRAWS = 50


def _as_jax(fn):
  """A function of vectors by TensorFlow as one of JAX, with its gradient.

  Args:
    fn: Python callable from a `Tensor` of shape `[n, d]` to one of shape `[n]`.

  Returns:
    fn: Python callable from an array of shape `[d]` to a number, to be mapped
      over arrays and differentiated.
  """

  def value_and_gradient(x):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(x)
      value = fn(x)
    gradient = tape.gradient(value, x)
    is_finite = tf.math.is_finite(value)
    return (
      tf.where(is_finite, value, -np.inf),
      tf.where(is_finite[:, tf.newaxis], gradient, 0.0),
    )

  call = jax2tf.call_tf(tf.function(value_and_gradient, autograph=False))

  @jax.custom_batching.custom_vmap
  def evaluate(x):
    value, gradient = call(x[jnp.newaxis])
    return value[0], gradient[0]

  @evaluate.def_vmap
  def evaluate_batch(axis_size, in_batched, x):
    del axis_size, in_batched
    return call(x), (True, True)

  @jax.custom_vjp
  def value(x):
    return evaluate(x)[0]

  value.defvjp(evaluate, lambda gradient, upstream: (upstream * gradient,))
  return value


def _densities(space):
  """The log density of the start, and that of the target relative to it."""

  def log_initial(y):
    return space.log_probs(y, with_initial=True)[1]

  def log_ratio(y):
    log_target, log_initial = space.log_probs(y, with_initial=True)
    return log_target - log_initial

  return _as_jax(log_initial), _as_jax(log_ratio)


def _tempered(space, densities):
  """A function that runs tempered SMC with so many particles."""
  kernel = adaptive_tempered.build_kernel(
    *densities,
    blackjax.hmc.build_kernel(),
    blackjax.hmc.init,
    resampling.systematic,
    _TARGET_SIZE,
    solver.dichotomy,
  )

  @jax.jit
  def step(key, state, covariance, step_size):
    return kernel(
      key,
      state,
      _NUM_MOVES,
      {
        'inverse_mass_matrix': covariance[jnp.newaxis],
        'step_size': step_size[jnp.newaxis],
        'num_integration_steps': jnp.array([_NUM_LEAPFROG_STEPS]),
      },
    )

  def run(num_particles, seed):
    start = space.sample_initial(num_particles, randomness.as_seed(seed))
    state = adaptive_tempered.init(jnp.asarray(start.numpy()))
    step_size, log_evidence, count = 0.3, 0.0, 0
    while state.tempering_param < 1.0:
      x = np.asarray(state.particles)
      covariance = np.cov(x.T).reshape([space.num_values] * 2)
      # The Cholesky factorization needs a positive definite matrix.
      covariance += 1e-6 * np.diag(np.diag(covariance))
      count += 1
      state, info = step(
        jax.random.fold_in(jax.random.key(seed), count),
        state,
        jnp.asarray(covariance, jnp.float32),
        jnp.float32(step_size),
      )
      log_evidence += float(info.log_likelihood_increment)
      accepted = float(jnp.mean(info.update_info.acceptance_rate))
      step_size *= np.exp(accepted - _TARGET_ACCEPTANCE)
    evaluations_per_stage = _NUM_MOVES * _NUM_LEAPFROG_STEPS + 1
    return log_evidence, count * num_particles * evaluations_per_stage

  return run


def _space(known, seed):
  return space_lib.VectorSpace(
    known.target, known.initial, None, randomness.as_seed(seed)
  )


def measure_tempered(known, num_evaluations, seed):
  """Estimates the evidence of one target by tempered SMC.

  Args:
    known: `KnownPosterior`.
    num_evaluations: Python `int`: how often to evaluate the target.
    seed: Python `int`.

  Returns:
    log_evidence: Python `float`.
    num_evaluations: Python `int`.
  """
  space = _space(known, seed)
  run = _tempered(space, _densities(space))
  _, first = run(_NUM_FIRST, seed)
  left = max(num_evaluations - first, first)
  log_evidence, count = run(int(left / first * _NUM_FIRST), seed + 1)
  return log_evidence, first + count


def _nested(space, densities):
  """A function that runs nested slice sampling with so many points."""

  def run(num_live, max_evaluations, seed):
    sampler = blackjax.nss(
      *densities,
      num_inner_steps=max(5, 2 * space.num_values),
      num_delete=max(1, num_live // 10),
    )
    start = space.sample_initial(num_live, randomness.as_seed(seed))
    state = sampler.init(jnp.asarray(start.numpy()))
    step = jax.jit(sampler.step)
    dead, count, log_volume = [], num_live, 0.0
    log_evidence = -np.inf
    while count < max_evaluations:
      state, info = step(
        jax.random.fold_in(jax.random.key(seed), len(dead)), state
      )
      dead.append(info)
      # A slice evaluates both of its ends, each step out and each shrinkage.
      update = info.update_info
      count += int(jnp.sum(2 + update.num_expansions + update.num_shrink))
      likelihoods = np.asarray(info.particles.loglikelihood, np.float64)
      shrinkage = len(likelihoods) / num_live
      log_evidence = np.logaddexp(
        log_evidence,
        np.logaddexp.reduce(likelihoods) + log_volume - np.log(num_live),
      )
      log_volume -= shrinkage
      left = np.max(np.asarray(state.particles.loglikelihood)) + log_volume
      if left - log_evidence < _LOG_LEFT:
        break
    found = ns_utils.finalise(state, dead, update_info=False)
    log_weights = ns_utils.log_weights(jax.random.key(seed), found)
    log_evidences = jax.scipy.special.logsumexp(log_weights, axis=0)
    return float(jnp.mean(log_evidences)), count, count < max_evaluations

  return run


def measure_nested(known, num_evaluations, seed):
  """Estimates the evidence of one target by nested slice sampling.

  Args:
    known: `KnownPosterior`.
    num_evaluations: Python `int`: how often to evaluate the target.
    seed: Python `int`.

  Returns:
    log_evidence: Python `float`; NaN where it does not get to the end with
      three times the evaluations.
    num_evaluations: Python `int`.
  """
  space = _space(known, seed)
  run = _nested(space, _densities(space))
  num_live = 4 * space.num_values + 20
  limit = _MAX_EXCESS * num_evaluations
  log_evidence, first, is_done = run(num_live, limit, seed)
  if not is_done:
    return np.nan, first
  more = int((num_evaluations - first) / first * num_live)
  if more <= num_live:
    return log_evidence, first
  log_evidence, count, is_done = run(more, limit - first, seed + 1)
  return log_evidence if is_done else np.nan, first + count


def sample_nuts(space, num_evaluations, seed):
  """Draws from a posterior by the No-U-Turn sampler.

  Args:
    space: `VectorSpace`.
    num_evaluations: Python `int`: how often to evaluate the target.
    seed: Python `int`.

  Returns:
    y: float array of shape `[num_chains * num_draws, num_values]`.
    num_evaluations: Python `int`.
  """

  def log_prob_fn(y):
    # JAX has single precision, whatever the target has.
    log_prob, _ = space.log_probs(tf.cast(y, space.dtype))
    return tf.cast(log_prob, y.dtype)

  log_prob = _as_jax(log_prob_fn)
  start = space.sample_initial(_NUM_CHAINS, randomness.as_seed(seed))
  keys = jax.random.split(jax.random.key(seed), _NUM_CHAINS)
  adaptation = blackjax.window_adaptation(blackjax.nuts, log_prob)

  @jax.jit
  @jax.vmap
  def adapt(key, position):
    (state, parameters), info = adaptation.run(
      key, position, num_steps=_NUM_ADAPTATION_STEPS
    )
    return state, parameters, jnp.sum(info.info.num_integration_steps)

  @jax.jit
  @jax.vmap
  def draw(key, state, parameters):
    kernel = blackjax.nuts(log_prob, **parameters)

    def step(state, key):
      state, info = kernel.step(key, state)
      return state, (state.position, info.num_integration_steps)

    state, (positions, counts) = jax.lax.scan(
      step, state, jax.random.split(key, _NUM_DRAWS)
    )
    return state, positions, jnp.sum(counts)

  state, parameters, counts = adapt(keys, jnp.asarray(start.numpy()))
  count, draws = int(jnp.sum(counts)), []
  while count < num_evaluations or not draws:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    state, positions, counts = draw(keys, state, parameters)
    draws.append(np.asarray(positions).reshape([-1, space.num_values]))
    count += int(jnp.sum(counts))
  return np.concatenate(draws), count

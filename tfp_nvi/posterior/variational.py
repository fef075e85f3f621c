# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A Gaussian reference by variational inference, from several starts.

The reverse KL divergence is minimized by Adam in two rounds: a mean-field
Gaussian from several starts at once, each in units of its own; then, from the
best of these and in its units, a full-rank one where the dimension is moderate.
It need not converge: the pilot's particles give a better reference than this.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'fit_variational',
  'find_valleys',
  'has_valleys',
  'refine',
]

# Steps of optimization, each time.
_NUM_STEPS = 400
_NUM_STARTS = 8
_NUM_CANDIDATES = 64
_CHUNK = 50


def _adam(parameters, moments, gradients, count, rate):
  """One step of Adam, upwards."""
  new_parameters, new_moments = [], []
  for x, (m, s), g in zip(parameters, moments, gradients, strict=True):
    m = 0.9 * m + 0.1 * g
    s = 0.99 * s + 0.01 * g**2
    step = (m / (1.0 - 0.9**count)) / (tf.sqrt(s / (1.0 - 0.99**count)) + 1e-20)
    new_parameters.append(x + rate * step)
    new_moments.append((m, s))
  return tuple(new_parameters), tuple(new_moments)


class _Optimizer:
  """Maximizes a variational bound by chunks of steps, compiled once.

  Args:
    log_prob_fn: Python callable from a `Tensor` of shape `[n, d]` to log
      densities.
    num_draws: Python `int`: draws a step and start.
    is_full: Python `bool`.
    jit_compile: Python `bool`.
  """

  def __init__(self, log_prob_fn, num_draws, is_full, jit_compile):
    self._log_prob_fn = log_prob_fn
    self.num_draws = num_draws
    self.is_full = is_full
    self._chunk = tf.function(
      self._chunk_fn, autograph=False, jit_compile=jit_compile
    )
    self._bound = tf.function(
      self._bound_fn, autograph=False, jit_compile=jit_compile
    )

  def _gradient(self, y):
    flat = tf.reshape(y, [-1, y.shape[-1]])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(flat)
      log_prob = self._log_prob_fn(flat)
    gradient = tape.gradient(
      log_prob, flat, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    is_finite = tf.math.is_finite(log_prob)[:, tf.newaxis] & tf.math.is_finite(
      gradient
    )
    gradient = tf.where(is_finite, gradient, tf.zeros_like(gradient))
    return (
      tf.reshape(log_prob, y.shape[:-1]),
      tf.reshape(gradient, y.shape),
    )

  def _points(self, center, unit, parameters, noise):
    loc, log_scale, *lower = parameters
    scaled = noise * tf.exp(log_scale)[:, tf.newaxis]
    if self.is_full:
      scaled += tf.matmul(
        noise,
        tf.linalg.band_part(lower[0], -1, 0)
        - tf.linalg.diag(tf.linalg.diag_part(lower[0])),
        transpose_b=True,
      )
    return center[:, tf.newaxis] + unit[:, tf.newaxis] * (
      loc[:, tf.newaxis] + scaled
    )

  def _step(self, center, unit, parameters, moments, count, rate, noise):
    _, gradient = self._gradient(self._points(center, unit, parameters, noise))
    gradient *= unit[:, tf.newaxis]
    # One draw far out must not outweigh all others.
    log_scale = parameters[1]
    mean = lambda x: tf.reduce_mean(x, axis=1)  # noqa: E731
    gradients = [
      mean(gradient),
      mean(gradient * noise) * tf.exp(log_scale) + 1.0,
    ]
    if self.is_full:
      outer = tf.matmul(gradient, noise, transpose_a=True) / self.num_draws
      gradients.append(outer)
    return _adam(parameters, moments, gradients, count, rate)

  def _chunk_fn(self, center, unit, parameters, moments, start, rates, seed):
    dtype = center.dtype
    shape = [center.shape[0], self.num_draws // 2, center.shape[1]]

    def body(i, parameters, moments):
      half = randomness.normal(shape, randomness.fold_in(seed, i), dtype)
      noise = tf.concat([half, -half], axis=1)
      count = tf.cast(start + i + 1, dtype)
      parameters, moments = self._step(
        center, unit, parameters, moments, count, rates[i], noise
      )
      return i + 1, parameters, moments

    _, parameters, moments = tf.while_loop(
      lambda i, *_: i < _CHUNK,
      body,
      (0, parameters, moments),
      maximum_iterations=_CHUNK,
    )
    return parameters, moments

  def _bound_fn(self, center, unit, parameters, seed):
    shape = [center.shape[0], 64, center.shape[1]]
    noise = randomness.normal(shape, seed, center.dtype)
    log_prob = self._log_prob_fn(
      tf.reshape(
        self._points(center, unit, parameters, noise), [-1, center.shape[1]]
      )
    )
    log_prob = tf.reshape(log_prob, shape[:2])
    log_det = tf.reduce_sum(parameters[1] + tf.math.log(unit), axis=-1)
    mean = tf.reduce_mean(log_prob, axis=1)
    return tf.where(
      tf.math.is_finite(mean),
      mean + log_det,
      tf.constant(-float('inf'), mean.dtype),
    )

  def run(
    self, center, unit, parameters, num_steps, first_rate, last_rate, seed
  ):
    """Runs all steps; returns parameters and the number of evaluations."""
    dtype = center.dtype
    moments = tuple((tf.zeros_like(x), tf.zeros_like(x)) for x in parameters)
    rates = np.geomspace(first_rate, last_rate, num_steps)
    seeds = tf.unstack(randomness.split_seed(seed, num_steps // _CHUNK))
    for i in range(num_steps // _CHUNK):
      parameters, moments = self._chunk(
        center,
        unit,
        parameters,
        moments,
        tf.constant(i * _CHUNK),
        tf.constant(rates[i * _CHUNK : (i + 1) * _CHUNK], dtype),
        seeds[i],
      )
    return parameters, center.shape[0] * self.num_draws * num_steps

  def bounds(self, center, unit, parameters, seed):
    """Evidence lower bounds, from 64 draws each."""
    constant = 0.5 * center.shape[1] * (1.0 + np.log(2.0 * np.pi))
    arguments = center, unit, parameters, seed
    bound_fn = self._bound.get_concrete_function(*arguments)
    return bound_fn(*arguments) + constant


def fit_variational(
  space: space_lib.VectorSpace,
  seed: types.StatelessSeed,
  jit_compile: bool = True,
) -> tuple[reference_lib.Reference, int, float, tf.Tensor, bool]:
  """Fits a Gaussian reference.

  Args:
    space: `VectorSpace`.
    seed: Stateless seed.
    jit_compile: Python `bool`.

  Returns:
    reference: `Reference`.
    num_evaluations: Python `int`: gradients of the target.
    bound: Python `float`: the evidence lower bound of the first round's best.
    places: `Tensor` of shape `[num_starts, d]`: where starts led to.
    are_apart: Python `bool`: whether there are valleys between these, a sign of
      modes.
  """
  dtype, size = space.dtype, space.num_values
  uniform_seed, first_seed, second_seed, bound_seed = tf.unstack(
    randomness.split_seed(seed, 4)
  )
  # Concrete functions are called, as TensorFlow would take each posterior of a
  # program for another trace of the same function, and warn.
  log_prob_fn = lambda y: space.log_probs(y)[0]  # noqa: E731
  log_probs = tf.function(
    log_prob_fn, autograph=False, jit_compile=jit_compile
  ).get_concrete_function(tf.TensorSpec([_NUM_CANDIDATES, size], dtype))
  centers, units = _starts(space, uniform_seed, log_probs)
  zeros = tf.zeros([_NUM_STARTS, size], dtype)
  optimizer = _Optimizer(log_prob_fn, 4, False, jit_compile)
  (loc, log_scale), num_evaluations = optimizer.run(
    centers, units, (zeros, zeros), _NUM_STEPS, 0.1, 0.01, first_seed
  )
  places = centers + units * loc
  are_apart = has_valleys(log_probs, places)
  bounds = optimizer.bounds(centers, units, (loc, log_scale), bound_seed)
  num_evaluations += 2 * _NUM_CANDIDATES + 64 * _NUM_STARTS
  best = int(tf.argmax(bounds))
  center = places[best : best + 1]
  unit = (units * tf.exp(log_scale))[best : best + 1]
  is_full = size <= reference_lib.MAX_FULL
  zero = tf.zeros([1, size], dtype)
  parameters: tuple = (zero, zero)
  if is_full:
    parameters += (tf.zeros([1, size, size], dtype),)
  optimizer = _Optimizer(log_prob_fn, 16, is_full, jit_compile)
  parameters, more = optimizer.run(
    center, unit, parameters, _NUM_STEPS, 0.05, 0.003, second_seed
  )
  num_evaluations += more
  loc, log_scale, *lower = (x.numpy()[0].astype(np.float64) for x in parameters)
  unit, center = unit.numpy()[0], center.numpy()[0]
  root = np.exp(log_scale)
  if is_full:
    root = np.tril(lower[0], -1) + np.diag(root)
    matrix = unit[:, np.newaxis] * root
  else:
    matrix = unit * root
  return (
    reference_lib.from_affine(center + unit * loc, matrix, dtype),
    num_evaluations,
    float(bounds[best]),
    places,
    are_apart,
  )


def refine(
  space: space_lib.VectorSpace,
  reference: reference_lib.Reference,
  seed: types.StatelessSeed,
  jit_compile: bool = True,
) -> tuple[reference_lib.Reference, int]:
  """Moves a Gaussian reference, and scales it along its own axes.

  The curvature at a mode gives the correlations of a skewed density well, and
  its mean badly, which the gradients of the evidence lower bound correct.

  Args:
    space: `VectorSpace`.
    reference: `Reference` with a full matrix and nothing else.
    seed: Stateless seed.
    jit_compile: Python `bool`.

  Returns:
    reference: `Reference`.
    num_evaluations: Python `int`: gradients of the target.
  """
  dtype, size = space.dtype, space.num_values

  def log_prob_fn(u):
    y, log_det = reference_lib.forward(reference, u)
    return space.log_probs(y)[0] + log_det

  optimizer = _Optimizer(log_prob_fn, 32, False, jit_compile)
  zero, one = tf.zeros([1, size], dtype), tf.ones([1, size], dtype)
  parameters, num_evaluations = optimizer.run(
    zero, one, (zero, zero), _NUM_STEPS, 0.05, 0.003, seed
  )
  loc, log_scale = (x.numpy()[0].astype(np.float64) for x in parameters)
  matrix = reference.matrix.numpy().astype(np.float64)
  center = reference.center.numpy() + matrix @ loc
  return (
    reference_lib.from_affine(center, matrix * np.exp(log_scale), dtype),
    num_evaluations,
  )


def has_valleys(log_probs: Callable, locs: tf.Tensor) -> bool:
  """Whether there are valleys between pairs of points.

  Args:
    log_probs: Python callable from a `Tensor` of shape `[8 n, d]` to the log
      densities.
    locs: `Tensor` of shape `[n, d]`: each is paired with the one before it.

  Returns:
    has_valleys: Python `bool`.
  """
  return bool(np.any(find_valleys(log_probs, locs, tf.roll(locs, 1, axis=0))))


def find_valleys(
  log_probs: Callable, first: tf.Tensor, second: tf.Tensor
) -> np.ndarray:
  """Which pairs of points have a valley in between.

  Args:
    log_probs: Python callable from a `Tensor` of shape `[8 n, d]` to the log
      densities.
    first: `Tensor` of shape `[n, d]`.
    second: `Tensor` of shape `[n, d]`.

  Returns:
    is_apart: Boolean array of shape `[n]`: whether between two points with a
      density that is not negligible it is much lower than at both of them.
  """
  size = first.shape[1]
  shares = tf.constant(np.linspace(0.0, 1.0, 8), first.dtype)[:, tf.newaxis]
  points = first[:, tf.newaxis] * (1.0 - shares) + (
    second[:, tf.newaxis] * shares
  )
  values = np.reshape(log_probs(tf.reshape(points, [-1, size])), [-1, 8])
  values = np.where(np.isfinite(values), values, -np.inf)
  ends = np.minimum(values[:, 0], values[:, -1])
  # A start that got nowhere says nothing.
  is_high = ends > values[:, [0, -1]].max() - 10.0 * np.sqrt(size) - 20.0
  lowest = values[:, 1:-1].min(axis=1)
  return is_high & (lowest < ends - 3.0)


def _starts(space, uniform_seed, log_probs):
  """Where to start from, and in which units."""
  dtype, size = space.dtype, space.num_values
  draws = space.draws[:_NUM_CANDIDATES]
  draws = tf.where(tf.math.is_finite(draws), draws, tf.zeros_like(draws))
  log_prob = log_probs(draws)
  log_prob = tf.where(
    tf.math.is_finite(log_prob),
    log_prob,
    tf.constant(-float('inf'), dtype),
  )
  best = tf.gather(draws, tf.argsort(log_prob, direction='DESCENDING')[:3])
  zero = tf.zeros([1, size], dtype)
  one = tf.ones([1, size], dtype)
  # Near the origin of the unconstrained space, in its own units, for priors so
  # wide that they say nothing.
  own = one / space.scale
  uniform = 4.0 * randomness.uniform([3, size], uniform_seed, dtype) - 2.0
  spread = tf.constant([[0.0], [0.5], [1.0]], dtype)
  origin = (spread * uniform - space.center) / space.scale
  centers = tf.concat([zero, zero, best, origin], axis=0)
  # Draws may be far from the mode that is next to them.
  units = tf.concat(
    [one, 0.1 * one, tf.repeat(0.3 * one, 3, 0), tf.repeat(0.3 * own, 3, 0)], 0
  )
  return centers, units

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lets the distributions and kernels of TensorFlow Probability draw portably.

TFP draws through one internal module, `samplers`. While a thread is inside of
`portable_sampling`, functions based on `draws` replace those that this module
and three samplers of TFP call.
"""

import contextlib
import functools
import threading
import types

import tensorflow as tf
from tensorflow_probability.python.distributions import (
  binomial as binomial_lib,
)
from tensorflow_probability.python.distributions import gamma as gamma_lib
from tensorflow_probability.python.distributions import poisson as poisson_lib
from tensorflow_probability.python.internal import samplers

from tfp_nvi.internal import fusion
from tfp_nvi.internal.randomness.draws import bits, fold_in, normal, uniform

__all__ = [
  'portable_sampling',
]


def _stateless_uniform(
  shape, seed, minval=0, maxval=None, dtype=tf.float32, name=None
):
  """Stands in for `tf.random.stateless_uniform`."""
  dtype = tf.as_dtype(dtype)
  if dtype.is_floating:
    minval = tf.cast(minval, dtype)
    maxval = tf.cast(1 if maxval is None else maxval, dtype)
    return minval + (maxval - minval) * uniform(shape, seed, dtype)
  if minval is None and maxval is None:
    if dtype == tf.int32:
      return bits(shape, seed)
    return tf.random.stateless_uniform(shape, seed, None, None, dtype, name)
  # The draw comes from a uniform value of 52 bits, so that it is exact to 2^-52
  # of the range.
  minval, maxval = tf.cast(minval, tf.float64), tf.cast(maxval, tf.float64)
  values = tf.floor((maxval - minval) * uniform(shape, seed, tf.float64))
  return tf.cast(minval + tf.minimum(values, maxval - minval - 1.0), dtype)


def _stateless_normal(
  shape, seed, mean=0.0, stddev=1.0, dtype=tf.float32, name=None
):
  """Stands in for `tf.random.stateless_normal`."""
  del name
  values = normal(shape, seed, dtype)
  return tf.cast(mean, values.dtype) + tf.cast(stddev, values.dtype) * values


def _stateless_categorical(
  logits, num_samples, seed, dtype=tf.int64, name=None
):
  """Stands in for `tf.random.stateless_categorical`.

  It divides exponential variables by the probabilities, and draws the class of
  the smallest quotient. The quotients have the reversed order of Gumbel
  variables plus logits, and take one logarithm less.
  """
  del name
  logits = tf.convert_to_tensor(logits)
  num_rows, num_classes = logits.shape.as_list()
  num_samples = int(tf.get_static_value(num_samples))
  dtype = dtype or tf.int64
  if num_classes == 0:
    raise ValueError(
      f'`logits` must have one class at least; got the shape {logits.shape}.'
    )
  # TensorFlow's own kernels end the process if there is no row.
  if num_rows == 0:
    return tf.zeros([num_rows, num_samples], dtype)
  values = uniform([num_rows, num_samples, num_classes], seed, logits.dtype)
  # Otherwise the loop that compares would not vectorize the logarithms.
  times = fusion.compute_once(-tf.math.log(values))
  # The largest finite logit is subtracted, so that only a certain class, with
  # an infinite logit, has the scale zero.
  largest = tf.reduce_max(
    tf.where(tf.math.is_finite(logits), logits, logits.dtype.min),
    axis=-1,
    keepdims=True,
  )
  scales = fusion.compute_once(tf.exp(largest - logits))
  return tf.argmin(times * scales[:, tf.newaxis], axis=-1, output_type=dtype)


def _stateless_gamma(
  shape, seed, alpha, beta=None, dtype=tf.float32, name=None
):
  """Stands in for `tf.random.stateless_gamma`."""
  del name
  alpha = tf.convert_to_tensor(alpha, dtype)
  beta = None if beta is None else tf.convert_to_tensor(beta, dtype)
  return gamma_lib._random_gamma_gradient(
    shape, alpha, beta, None, seed, False
  )[0]


def _stateless_poisson(shape, seed, lam, dtype=tf.int32, name=None):
  """Stands in for `tf.random.stateless_poisson`."""
  del name
  lam = tf.convert_to_tensor(lam)
  sample_shape = shape[: len(shape) - lam.shape.rank]
  return poisson_lib._random_poisson_noncpu(
    sample_shape, rates=lam, output_dtype=dtype, seed=seed
  )


def _stop_gradients(*parameters):
  return [None if x is None else tf.stop_gradient(x) for x in parameters]


def _random_gamma(shape, concentration, rate, log_rate, seed, log_space):
  """Stands in for TFP's sampler of gamma distributions.

  TFP's sampler is a `tf.function` that is traced once. It would always draw as
  in the context of its first trace, whether that was inside of
  `portable_sampling` or not. Its callers define its gradients.
  """
  # Gradients must not pass through the loop of the rejection sampler.
  concentration, rate, log_rate = _stop_gradients(concentration, rate, log_rate)
  # Always draw logarithms, in one dtype. TFP draws them only under XLA, where
  # it uses the same random numbers in another way.
  samples = gamma_lib._random_gamma_rejection(
    shape,
    concentration,
    rate,
    log_rate,
    seed,
    log_space=True,
    internal_dtype=tf.float64,
  )
  if not log_space:
    samples = gamma_lib._fix_zero_samples(tf.exp(samples))
  return samples, tf.constant(_UNKNOWN_RUNTIME)


def _random_poisson(
  shape,
  rates=None,
  log_rates=None,
  output_dtype=tf.float32,
  seed=None,
  name=None,
):
  """Stands in for TFP's sampler of Poisson distributions; see above."""
  rates, log_rates = _stop_gradients(rates, log_rates)
  samples = poisson_lib._random_poisson_noncpu(
    shape, rates, log_rates, output_dtype, samplers.sanitize_seed(seed), name
  )
  return samples, tf.constant(_UNKNOWN_RUNTIME)


def _random_binomial(
  shape, counts, probs, output_dtype=tf.float32, seed=None, name=None
):
  """Stands in for TFP's sampler of binomial distributions; see above."""
  counts, probs = _stop_gradients(counts, probs)
  samples = binomial_lib._random_binomial_noncpu(
    shape, counts, probs, output_dtype, samplers.sanitize_seed(seed), name
  )
  return samples, tf.constant(_UNKNOWN_RUNTIME)


# TFP's samplers return this beside the samples, for their tests.
_UNKNOWN_RUNTIME = 0.0

# The depth of nested `portable_sampling` contexts of each thread.
_thread = threading.local()


def _is_inside():
  return getattr(_thread, 'depth', 0) > 0


def _for_threads_inside(portable, original):
  """Makes a function that is `portable` inside of the context only."""

  @functools.wraps(original)
  def dispatch(*args, **kwargs):
    return (portable if _is_inside() else original)(*args, **kwargs)

  return dispatch


class _Overlay(types.SimpleNamespace):
  """Functions for threads inside of the context, and `base` for the rest."""

  def __init__(self, base, **attributes):
    super().__init__(
      **{
        name: (
          value
          if isinstance(value, _Overlay)
          else _for_threads_inside(value, getattr(base, name))
        )
        for name, value in attributes.items()
      }
    )
    self._base = base

  def __getattr__(self, name):
    return getattr(self._base, name)


def _patches():
  """Returns the replacements: module, attribute, and stand-in."""
  tensorflow = samplers.tf
  overlay = _Overlay(
    tensorflow,
    random=_Overlay(
      tensorflow.random,
      experimental=_Overlay(
        tensorflow.random.experimental, stateless_fold_in=fold_in
      ),
      stateless_categorical=_stateless_categorical,
      stateless_gamma=_stateless_gamma,
      stateless_normal=_stateless_normal,
      stateless_poisson=_stateless_poisson,
      stateless_uniform=_stateless_uniform,
    ),
  )
  yield samplers, 'tf', overlay
  for module, name, portable in (
    (gamma_lib, '_random_gamma_no_gradient', _random_gamma),
    (poisson_lib, 'random_poisson', _random_poisson),
    (binomial_lib, '_random_binomial', _random_binomial),
  ):
    original = getattr(module, name)
    yield module, name, _for_threads_inside(portable, original)


# The modules of TFP are patched while any thread is inside of the context. The
# lock is held only on entry and exit, not while a thread is inside.
_lock = threading.Lock()
_num_inside = 0
_originals: list = []


def _enter():
  global _num_inside
  with _lock:
    if _num_inside == 0:
      for module, name, stand_in in list(_patches()):
        _originals.append((module, name, getattr(module, name)))
        setattr(module, name, stand_in)
    _num_inside += 1
  _thread.depth = getattr(_thread, 'depth', 0) + 1


def _leave():
  global _num_inside
  _thread.depth -= 1
  with _lock:
    _num_inside -= 1
    if _num_inside == 0:
      while _originals:
        setattr(*_originals.pop())


@contextlib.contextmanager
def portable_sampling():
  """Makes TensorFlow Probability sample the same way under every execution.

  TFP draws through one internal module, `samplers`. Inside this context that
  module draws from the functions of this file, as it cannot be told to do so
  from outside. TFP's samplers of gamma, Poisson and binomial distributions are
  `tf.function`s, whose first trace would decide what they draw, inside of the
  context or outside; here they run untraced, by the rejection samplers that TFP
  uses under XLA. So draws depend on the seed and not on earlier calls, and TFP
  outside of the context draws as it does without this library. Other threads,
  unless they are inside of the context themselves, go on drawing as before.

  A user's `tf.function` keeps the kind of draws of its first trace.
  Distributions that do not draw through `samplers` are unchanged; in TFP that
  is `TruncatedNormal`.

  Yields:
    Nothing.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi.internal import randomness


  def draw(seed):
    with randomness.portable_sampling():
      return tfp.distributions.Normal(0.0, 1.0).sample(3, seed=seed)


  seed = randomness.as_seed(1)
  tf.debugging.assert_near(
    draw(seed), tf.function(draw, jit_compile=True)(seed)
  )
  ```
  """
  _enter()
  try:
    yield
  finally:
    _leave()

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stateless randomness that does not depend on how a program is executed.

What holds here: a draw is a function of its seed, shape and dtype alone. It is
the same eagerly, in a `tf.function`, and under `jit_compile=True`, up to the
rounding of the functions that it goes through.

TensorFlow's stateless ops do not promise that: for one seed they give one
sample eagerly and another one under XLA, where they are also an order of
magnitude slower on a CPU than the arithmetic they consist of. So the bits come
from the Threefry-2x32 block cipher with 20 rounds, written in integer ops that
XLA fuses and vectorizes, and `portable_sampling` lets the distributions and
kernels of TensorFlow Probability draw from it too.

#### References

[1]: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw. Parallel random
     numbers: as easy as 1, 2, 3. Supercomputing, 2011.
"""

import contextlib
import functools
import threading
import types

import numpy as np
import tensorflow as tf
from tensorflow_probability.python.distributions import (
  binomial as binomial_lib,
)
from tensorflow_probability.python.distributions import gamma as gamma_lib
from tensorflow_probability.python.distributions import poisson as poisson_lib
from tensorflow_probability.python.internal import samplers

from tfp_nvi.internal import fusion

__all__ = [
  'as_seed',
  'fold_in',
  'normal',
  'portable_sampling',
  'split_seed',
  'uniform',
]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

# What a block is for is part of its counter, so that seeds split off from a
# seed have nothing to do with values drawn from it.
_VALUES, _SEEDS, _FOLDED_SEEDS = range(3)

# Coefficients of polynomials, the highest power first.
_ERFINV_CENTRAL = (
  2.81022636e-08,
  3.43273939e-07,
  -3.5233877e-06,
  -4.39150654e-06,
  0.00021858087,
  -0.00125372503,
  -0.00417768164,
  0.246640727,
  1.50140941,
)
_ERFINV_TAIL = (
  -0.000200214257,
  0.000100950558,
  0.00134934322,
  -0.00367342844,
  0.00573950773,
  -0.0076224613,
  0.00943887047,
  1.00167406,
  2.83297682,
)


def _rotate_left(x, distance):
  return tf.bitwise.bitwise_or(
    tf.bitwise.left_shift(x, tf.constant(distance, tf.uint32)),
    tf.bitwise.right_shift(x, tf.constant(32 - distance, tf.uint32)),
  )


# A function with one signature is traced once; its hundred ops would otherwise
# be built anew at every draw.
@tf.function(
  input_signature=[
    tf.TensorSpec([None, 2], tf.int32),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([], tf.int32),
  ],
  autograph=False,
)
def _threefry(seeds, counter, purpose):
  """Enciphers counters.

  Args:
    seeds: int32 `Tensor` of shape `[num_seeds, 2]`: the keys.
    counter: int32 `Tensor` of shape `[n]`: the low words of the counters.
    purpose: Scalar int32 `Tensor`: the high word of the counters.

  Returns:
    words: uint32 `Tensor` of shape `[num_seeds, 2 * n]`, the first words of the
      blocks before the second ones.
  """
  xor = tf.bitwise.bitwise_xor
  seeds = tf.bitcast(seeds, tf.uint32)
  first, second = seeds[:, :1], seeds[:, 1:]
  parity = tf.constant(_PARITY, tf.uint32)
  keys = (first, second, xor(xor(first, second), parity))
  x = tf.bitcast(counter, tf.uint32) + keys[0]
  y = tf.zeros_like(x) + (keys[1] + tf.bitcast(purpose, tf.uint32))
  for i in range(5):
    for distance in _ROTATIONS[i % 2]:
      x += y
      y = xor(_rotate_left(y, distance), x)
    x += keys[(i + 1) % 3]
    y += keys[(i + 2) % 3] + tf.constant(i + 1, tf.uint32)
  return tf.concat([x, y], axis=1)


def _words(shape, seed, purpose=_VALUES):
  """Random uint32 words, of the given shape for each seed."""
  if tf.is_tensor(shape):
    size = tf.reduce_prod(shape)
  else:
    size = int(np.prod(shape, dtype=np.int64))
  seed = tf.convert_to_tensor(seed)
  seeds = tf.reshape(tf.cast(seed, tf.int32), [-1, 2])
  words = _threefry(seeds, tf.range((size + 1) // 2), purpose)[:, :size]
  if seed.shape.rank > 1:
    shape = tf.concat([seed.shape[:-1], shape], axis=0)
  return tf.reshape(words, shape)


def _drop_bits(words, count):
  return tf.bitwise.right_shift(words, tf.constant(count, tf.uint32))


def _midpoints(shape, seed, dtype):
  """Values `(2 k + 1) / 2^n - 1`, uniform on (-1, 1) and never at its ends.

  They are of float32 for half precision.
  """
  shape = _known_shape(shape)
  dtype = tf.as_dtype(dtype)
  if dtype not in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
    raise TypeError(
      '`dtype` must be float16, bfloat16, float32 or float64; got '
      f'{dtype.name}.'
    )
  if dtype == tf.float64:
    pairs = (
      tf.concat([[2], shape], axis=0) if tf.is_tensor(shape) else [2, *shape]
    )
    words = tf.cast(_drop_bits(_words(pairs, seed), 6), tf.float64)
    high, low = tf.unstack(
      words, axis=tf.convert_to_tensor(seed).shape.rank - 1
    )
    return (high * 2.0**26 + low + 0.5) * 2.0**-51 - 1.0
  words = tf.bitcast(_drop_bits(_words(shape, seed), 9), tf.int32)
  return (tf.cast(words, tf.float32) + 0.5) * 2.0**-22 - 1.0


def _known_shape(shape):
  """A shape as a list of Python ints, or a `Tensor` where it is not static."""
  if isinstance(shape, (list, tuple)) and any(map(tf.is_tensor, shape)):
    shape = tf.stack([tf.cast(size, tf.int32) for size in shape])
  static = tf.get_static_value(shape) if tf.is_tensor(shape) else shape
  return shape if static is None else tf.TensorShape(static).as_list()


def as_seed(seed):
  """Converts what a user passes as `seed` to a stateless seed.

  Args:
    seed: Python `int`, int `Tensor` of shape `[2]` (a stateless seed), or
      `None` for a seed that differs from call to call.

  Returns:
    seed: int32 `Tensor` of shape `[2]`.

  Raises:
    TypeError: If `seed` is no integers.
    ValueError: If it has another shape.

  ```python
  from tfp_nvi.internal import randomness

  seed = randomness.as_seed(42)
  assert seed.shape == [2]
  ```
  """
  if seed is None:
    seed = np.random.SeedSequence().generate_state(2, np.uint32).view(np.int32)
  elif isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
    words = [(int(seed) >> 32) & 0xFFFFFFFF, int(seed) & 0xFFFFFFFF]
    seed = np.array(words, np.uint32).view(np.int32)
  expected = '`seed` must be an int, an integer Tensor of shape [2], or None'
  try:
    tensor = tf.convert_to_tensor(seed)
  except (TypeError, ValueError) as e:
    raise TypeError(f'{expected}; got {seed!r}.') from e
  came = f'got shape {tensor.shape} and dtype {tensor.dtype.name}.'
  if not tensor.dtype.is_integer:
    raise TypeError(f'{expected}; {came}')
  if tensor.shape != [2]:
    raise ValueError(f'{expected}; {came}')
  return tf.cast(tensor, tf.int32)


def split_seed(seed, n):
  """Splits a seed into `n` seeds.

  Args:
    seed: int32 `Tensor` of shape `[2]`.
    n: Python `int`.

  Returns:
    seeds: int32 `Tensor` of shape `[n, 2]`; `tf.unstack` gives `n` seeds.

  ```python
  from tfp_nvi.internal import randomness

  seeds = randomness.split_seed(randomness.as_seed(1), 2)
  assert seeds.shape == [2, 2]
  ```
  """
  return tf.bitcast(_words([n, 2], seed, _SEEDS), tf.int32)


def fold_in(seed, data):
  """Makes seeds that depend on `seed` and on integers.

  Args:
    seed: int32 `Tensor` of shape `[2]`.
    data: int `Tensor` of any shape.

  Returns:
    seed: int32 `Tensor` of shape `data.shape + [2]`: the seed that each integer
      gives.

  ```python
  from tfp_nvi.internal import randomness

  seed_of_step_7 = randomness.fold_in(randomness.as_seed(1), 7)
  ```
  """
  data = tf.cast(data, tf.int32)
  words = _threefry(
    tf.cast(seed, tf.int32)[tf.newaxis],
    tf.reshape(data, [-1]),
    _FOLDED_SEEDS,
  )
  # First words come before second ones.
  seeds = tf.transpose(tf.reshape(words, [2, -1]))
  if data.shape.is_fully_defined():
    shape = data.shape + [2]
  else:
    shape = tf.concat([tf.shape(data), [2]], axis=0)
  return tf.bitcast(tf.reshape(seeds, shape), tf.int32)


def normal(shape, seed, dtype=tf.float32):
  """Draws standard normal values.

  Args:
    shape: Shape of the result for one seed.
    seed: int32 `Tensor` of shape `[2]`; or of shape `[n, 2]`, to draw what each
      of `n` seeds gives.
    dtype: Floating point dtype.

  Returns:
    values: `Tensor` of the given dtype, of the given shape, or `[n] + shape`.

  ```python
  from tfp_nvi.internal import randomness

  noise = randomness.normal([3, 2], randomness.as_seed(1))
  ```
  """
  x = _midpoints(shape, seed, dtype)
  erfinv = _erfinv if x.dtype == tf.float32 else tf.math.erfinv
  return tf.cast(np.sqrt(2.0) * erfinv(x), dtype)


def _erfinv(x):
  """The inverse error function of float32, strictly between -1 and 1.

  The approximation that XLA uses, from M. Giles, Approximating the erfinv
  function, GPU Computing Gems, Jade Edition, 2012. In place of `log1p`, which
  XLA does not vectorize on a CPU, it takes the logarithm of a product of two
  numbers, the smaller of which has no rounding error.
  """
  w = -tf.math.log((1.0 - x) * (1.0 + x))
  is_central = w < 5.0
  w = tf.where(is_central, w - 2.5, tf.sqrt(w) - 3.0)
  p = 0.0
  for central, tail in zip(_ERFINV_CENTRAL, _ERFINV_TAIL, strict=True):
    p = p * w + tf.where(is_central, tf.constant(central), tf.constant(tail))
  return p * x


def uniform(shape, seed, dtype=tf.float32):
  """Draws values that are uniform on `(0, 1)`, both ends excluded.

  Args:
    shape: Shape of the result.
    seed: int32 `Tensor` of shape `[2]`.
    dtype: Floating point dtype.

  Returns:
    values: `Tensor` of the given shape and dtype.

  ```python
  from tfp_nvi.internal import randomness

  values = randomness.uniform([3], randomness.as_seed(1))
  ```
  """
  dtype = tf.as_dtype(dtype)
  values = 0.5 * (_midpoints(shape, seed, dtype) + 1.0)
  if dtype.size > 2:
    return values
  # Rounding would include the ends: one, and in float16 zero, where numbers as
  # small as the smallest draw are not normal.
  least = np.finfo(np.float16).tiny if dtype == tf.float16 else 0.0
  largest = 1.0 - (2.0**-11 if dtype == tf.float16 else 2.0**-8)
  return tf.cast(tf.clip_by_value(values, float(least), largest), dtype)


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
      return tf.bitcast(_words(_known_shape(shape), seed, _SEEDS), tf.int32)
    return tf.random.stateless_uniform(shape, seed, None, None, dtype, name)
  # By an uniform value of 52 bits: exact to a relative 2^-52 of the range.
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

  Of exponential variables divided by the probabilities, the class of the least
  one is drawn: these have the order of Gumbel variables plus logits, turned
  around, and take one logarithm less.
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
  # TensorFlow's own kernels end the process where there is no row.
  if num_rows == 0:
    return tf.zeros([num_rows, num_samples], dtype)
  values = uniform([num_rows, num_samples, num_classes], seed, logits.dtype)
  # Or the loop that compares would not compute several logarithms at a time.
  times = fusion.compute_once(-tf.math.log(values))
  # The largest finite one: a class that is certain is then alone at zero.
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

  That one is a `tf.function`: it is traced once, and draws ever after what it
  drew in the context of its first trace, of `portable_sampling` or not. Its
  gradients are defined by what calls it.
  """
  # Nothing is to be differentiated through the loop of the rejection sampler.
  concentration, rate, log_rate = _stop_gradients(concentration, rate, log_rate)
  # Logarithms always, as TFP draws them under XLA alone, with another use of
  # the same random numbers; and in one dtype.
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


# What TFP's samplers return beside the samples, as their tests want it.
_UNKNOWN_RUNTIME = 0.0

# How deep each thread is inside of `portable_sampling`.
_thread = threading.local()


def _is_inside():
  return getattr(_thread, 'depth', 0) > 0


def _for_threads_inside(portable, original):
  """A function for those who are inside of the context, another for others."""

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
  """What to replace: module, attribute, and stand-in."""
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
# lock is held only to come and go, not while a thread is inside.
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
  uses under XLA. So draws depend on the seed, not on what was run before, and
  plain TFP draws as it does without this library. Other threads, unless they
  are inside of the context themselves, go on drawing as before.

  A `tf.function` of the user's that draws has the draws of its first trace. And
  what does not draw through `samplers` stays as it is: of TFP's distributions,
  `TruncatedNormal`.

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

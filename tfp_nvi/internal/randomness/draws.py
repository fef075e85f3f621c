# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Seeds, and draws of uniform and normal numbers."""

import numpy as np
import tensorflow as tf

__all__ = [
  'as_seed',
  'bits',
  'fold_in',
  'normal',
  'split_seed',
  'uniform',
]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

# The purpose of a block is part of its counter, so that seeds that are split
# off from a seed are unrelated to values that are drawn from it.
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
  """Draws uint32 words, of the given shape for each seed."""
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
  """Draws values `(2 k + 1) / 2^n - 1`, uniform on (-1, 1) without the ends.

  Values have dtype float32 for half precision.
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
  """Converts a shape to a list of Python ints, or a `Tensor` if not static."""
  if isinstance(shape, (list, tuple)) and any(map(tf.is_tensor, shape)):
    shape = tf.stack([tf.cast(size, tf.int32) for size in shape])
  static = tf.get_static_value(shape) if tf.is_tensor(shape) else shape
  return shape if static is None else tf.TensorShape(static).as_list()


def as_seed(seed):
  """Converts the `seed` that a user passes to a stateless seed.

  Args:
    seed: Python `int`, int `Tensor` of shape `[2]` (a stateless seed), or
      `None` for a seed that differs from call to call.

  Returns:
    seed: int32 `Tensor` of shape `[2]`.

  Raises:
    TypeError: If `seed` does not consist of integers.
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


def next_seed(seed, previous):
  """The seed of a step; one that follows the step before if none is given.

  A loop that is traced once would have the same seed in all steps otherwise.

  Args:
    seed: As in `as_seed`.
    previous: Stateless seed of the step before.

  Returns:
    seed: int32 `Tensor` of shape `[2]`.

  ```python
  from tfp_nvi.internal import randomness

  first = randomness.as_seed(42)
  assert any(randomness.next_seed(None, first) != first)
  assert all(randomness.next_seed(42, first) == first)
  ```
  """
  return fold_in(previous, 1) if seed is None else as_seed(seed)


def bits(shape, seed):
  """Draws int32 numbers of which every value is equally likely.

  Args:
    shape: Shape of the result.
    seed: int32 `Tensor` of shape `[2]`.

  Returns:
    values: int32 `Tensor` of the given shape, such as seeds.

  ```python
  from tfp_nvi.internal.randomness import draws

  assert draws.bits([3, 2], draws.as_seed(1)).shape == [3, 2]
  ```
  """
  return tf.bitcast(_words(_known_shape(shape), seed, _SEEDS), tf.int32)


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
    seed: int32 `Tensor` of shape `[2]`; or of shape `[n, 2]`, to draw values
      for each of `n` seeds.
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
  """Computes the inverse error function of float32, between -1 and 1.

  Inputs are strictly between -1 and 1. This is the approximation that XLA uses,
  from M. Giles, Approximating the erfinv function, GPU Computing Gems, Jade
  Edition, 2012. In place of `log1p`, which XLA does not vectorize on a CPU, it
  takes the logarithm of a product of two numbers, the smaller of which has no
  rounding error.
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
  # Rounding would include the end at one. In float16 it would include zero too,
  # as numbers as small as the smallest draw are not normal there.
  least = np.finfo(np.float16).tiny if dtype == tf.float16 else 0.0
  largest = 1.0 - (2.0**-11 if dtype == tf.float16 else 2.0**-8)
  return tf.cast(tf.clip_by_value(values, float(least), largest), dtype)

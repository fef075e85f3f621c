# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Arguments of the functions of SavedModels: their names, and seeds."""

import inspect

import tensorflow as tf

__all__ = [
  'SEEDS',
  'as_seed',
  'with_names',
]

# The specs have no names, as functions would be traced once more for names.
# Seeds may have 64 bits, as NumPy's integers do.
SEEDS = [
  tf.TensorSpec(shape, dtype)
  for dtype in (tf.int32, tf.int64)
  for shape in ([2], [])
]


def as_seed(seed):
  """Returns the seed of shape `[2]` that the same number in Python gives.

  Args:
    seed: int32 or int64 `Tensor` of shape `[2]` or `[]`.

  Returns:
    seed: int32 `Tensor` of shape `[2]`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import signatures

  assert list(signatures.as_seed(tf.constant(-1))) == [-1, -1]
  ```
  """
  if seed.shape.rank == 0 and seed.dtype == tf.int64:
    return tf.bitcast(seed, tf.int32)[::-1]
  seed = tf.cast(seed, tf.int32)
  if seed.shape.rank == 0:
    return tf.stack([tf.where(seed < 0, -1, 0), seed])
  return seed


def with_names(fn, *names: str):
  """Names the arguments of a function, so that they may be keywords.

  Args:
    fn: Python callable with positional arguments.
    *names: Python `str`s.

  Returns:
    fn: `tf.function`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import signatures

  fn = signatures.with_names(lambda *x: x[0] - x[1], 'total', 'part')
  assert fn(part=tf.constant(1.0), total=tf.constant(3.0)) == 2.0
  ```
  """

  def call(*arguments, **keywords):
    rest = (keywords[name] for name in names[len(arguments) :])
    return fn(*arguments, *rest)

  kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
  parameters = [inspect.Parameter(name, kind) for name in names]
  # `inspect.signature`, from which `tf.function` takes names, reads this.
  vars(call)['__signature__'] = inspect.Signature(parameters)
  return tf.function(call, autograph=False)

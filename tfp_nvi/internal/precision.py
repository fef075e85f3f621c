# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Matrix products in full single precision.

On GPUs TensorFlow rounds the factors of float32 products to 10 bits (TF32) by
default. Points that a matrix with strong correlations maps then are off by a
part of the widest deviation, which may be more than the narrowest one.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

__all__ = [
  'full_products',
]


@contextlib.contextmanager
def full_products() -> Iterator[None]:
  """A context without TF32, which is as it was before after that.

  Yields:
    Nothing.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import precision

  with precision.full_products():
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
  assert tf.config.experimental.tensor_float_32_execution_enabled()
  ```
  """
  was_enabled = tf.config.experimental.tensor_float_32_execution_enabled()
  tf.config.experimental.enable_tensor_float_32_execution(False)
  try:
    yield
  finally:
    tf.config.experimental.enable_tensor_float_32_execution(was_enabled)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits of vectors at places that XLA knows in every loop."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = [
  'StaticSplit',
]


class StaticSplit(tfb.Split):
  """Splits vectors, as `tfb.Split` does.

  That has the sizes in a `Tensor`, which is no constant in a loop that is
  differentiated.

  Args:
    sizes: Python `int`s: the lengths of the parts.

  ```python
  import tensorflow as tf
  from tfp_nvi.bijectors import split

  first, second = split.StaticSplit([1, 2]).forward(
    tf.constant([1.0, 2.0, 3.0])
  )
  assert first.shape == [1] and second.shape == [2]
  ```
  """

  def __init__(self, sizes: Sequence[int]):
    self._static_sizes = list(sizes)
    super().__init__(sizes)

  def _forward(self, x):
    return tf.split(x, self._static_sizes, axis=-1)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a bijector, some of which are wrong."""

from collections.abc import Iterator

import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = [
  'check_correlations',
  'find_parts',
]


def find_parts(bijector: tfb.Bijector) -> Iterator[tfb.Bijector]:
  """Yields a bijector and, where it is made of others, all of these.

  Args:
    bijector: `tfb.Bijector`.

  Yields:
    part: `tfb.Bijector`.
  """
  yield bijector
  parts = tf.nest.flatten(getattr(bijector, 'bijectors', []))
  for part in [*parts, getattr(bijector, 'bijector', None)]:
    if isinstance(part, tfb.Bijector):
      yield from find_parts(part)


def check_correlations(name: str, bijector: tfb.Bijector) -> None:
  """Raises an error for a bijector over correlation matrices.

  TensorFlow Probability composes it of a map to their Cholesky factors and of
  one from these, whose Jacobian is not that of a unit diagonal.

  Args:
    name: Python `str`: the argument that the bijector belongs to.
    bijector: `tfb.Bijector`.

  Raises:
    ValueError: If a part of it is over correlation matrices.
  """
  for part in find_parts(bijector):
    kinds = {type(x) for x in find_parts(part)}
    if isinstance(part, tfb.Chain) and kinds >= {
      tfb.CholeskyOuterProduct,
      tfb.CorrelationCholesky,
    }:
      raise ValueError(
        f'`{name}` must not be over correlation matrices, such as those of '
        'tfd.LKJ, as the Jacobian of their bijector in TensorFlow Probability '
        'is wrong; tfd.CholeskyLKJ, over their Cholesky factors, serves.'
      )

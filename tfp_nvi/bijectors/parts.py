# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a bijector, some of which are wrong by themselves."""

from collections.abc import Iterator

import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = [
  'check_parts',
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
  # The last one is of auto-batched joint distributions.
  for name in ('bijector', '_joint_bijector'):
    parts.append(getattr(bijector, name, None))
  for part in parts:
    if isinstance(part, tfb.Bijector):
      yield from find_parts(part)


def check_parts(name: str, bijector: tfb.Bijector) -> None:
  """Raises an error for default bijectors of TFP that are wrong.

  That of correlation matrices is composed of a map to their Cholesky factors
  and of one from these, whose Jacobian is not that of a unit diagonal. That of
  Wishart distributions makes the diagonal of a factor positive twice, so that
  it leads to no factor with small values there.

  Args:
    name: Python `str`: the argument that the bijector belongs to.
    bijector: `tfb.Bijector`.

  Raises:
    ValueError: If a part of it is one of these.
  """
  for part in find_parts(bijector):
    if not isinstance(part, tfb.Chain):
      continue
    kinds = {type(x) for x in find_parts(part)}
    if kinds >= {tfb.CholeskyOuterProduct, tfb.CorrelationCholesky}:
      raise ValueError(
        f'`{name}` must not be over correlation matrices, such as those of '
        'tfd.LKJ, as the Jacobian of their bijector in TensorFlow Probability '
        'is wrong; tfd.CholeskyLKJ, over their Cholesky factors, serves.'
      )
    if {type(x) for x in part.bijectors} >= {
      tfb.TransformDiagonal,
      tfb.FillScaleTriL,
    }:
      raise ValueError(
        f'`{name}` must not be over the matrices of tfd.WishartTriL with the '
        'bijector of TensorFlow Probability, which does not lead to all of '
        'them; tfb.Chain([tfb.CholeskyOuterProduct(), '
        'tfb.FillScaleTriL(diag_shift=None)]) does.'
      )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a bijector, some of which are wrong by themselves."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors
tfd = tfp.distributions

_PINNED = tfp.experimental.distributions.JointDistributionPinned

__all__ = [
  'check_parts',
  'find_parts',
  'leaf_distributions',
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


def leaf_distributions(
  source: tfd.Distribution, names: list
) -> list[tfd.Distribution] | None:
  """The distributions of the parts of a state.

  Only what they are is known: those that depend on other parts have parameters
  for some values of these.

  Args:
    source: `tfd.Distribution`, or `JointDistributionPinned`.
    names: List of Python `str`s: the names of the parts, in the order of
      `tf.nest.flatten`.

  Returns:
    distributions: List of `tfd.Distribution`s in the same order; `None` where
      they are not known.
  """
  is_pinned = isinstance(source, _PINNED)
  # The other side is TFP, whose joint distributions have this in common.
  if not is_pinned and not hasattr(source, '_get_single_sample_distributions'):
    return [source] if len(names) == 1 else None
  try:
    found = source._get_single_sample_distributions()  # pylint: disable=protected-access
  except (AttributeError, NotImplementedError, TypeError):
    return None
  if len(found) != len(names):
    return None
  if len(found) == 1:
    return list(found)
  # The parts of a joint distribution are in the order of the model, those of a
  # state in that of `tf.nest`.
  joint = source.distribution if is_pinned else source
  given = list(joint._flat_resolve_names())  # pylint: disable=protected-access
  if is_pinned:
    given = [name for name in given if name not in source.pins]
  order = dict(zip(given, found, strict=True))
  if not all(name in order for name in names):
    return list(found)
  return [order[name] for name in names]


def check_parts(name: str, bijector: tfb.Bijector) -> None:
  """Raises an error for default bijectors of TFP that are wrong.

  That of correlation matrices is composed of a map to their Cholesky factors
  and of one from these, whose Jacobian is not that of a unit diagonal. That of
  Wishart distributions makes the diagonal of a factor positive twice, so that
  it leads to no factor with small values there. That of points of a sphere
  leads to those with positive coordinates alone, and that between two limits
  gives NaN where one of them is infinite.

  Args:
    name: Python `str`: the argument that the bijector belongs to.
    bijector: `tfb.Bijector`.

  Raises:
    ValueError: If a part of it is one of these.
  """
  for part in find_parts(bijector):
    if isinstance(part, tfb.Sigmoid) and not np.all(
      np.isfinite([_limit(part.low, 0.0), _limit(part.high, 1.0)])
    ):
      raise ValueError(
        f'`{name}` must not have limits at infinity, as those of '
        'tfd.TruncatedNormal may be, as the bijector of TensorFlow Probability '
        'between them gives NaN. tfb.Chain([tfb.Shift(low), tfb.Exp()]) leads '
        'to what is above a lower limit, and tfd.HalfNormal has such a '
        'bijector.'
      )
    if not isinstance(part, tfb.Chain):
      continue
    if (
      isinstance(part.bijectors[0], tfb.Invert)
      and isinstance(part.bijectors[0].bijector, tfb.Square)
      and any(isinstance(x, tfb.SoftmaxCentered) for x in find_parts(part))
    ):
      raise ValueError(
        f'`{name}` must not be over points of a sphere, as those of '
        'tfd.SphericalUniform and tfd.VonMisesFisher: their bijector in '
        'TensorFlow Probability leads to points with positive coordinates only.'
      )
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


def _limit(value, default):
  """The value of a limit where it is known, or something finite."""
  if value is None:
    return default
  value = tf.get_static_value(value)
  return 0.0 if value is None else value

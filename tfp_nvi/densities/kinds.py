# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of support: continuous and discrete parts of a state."""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.densities.draws import (
  NUM_PROBES,
  draw_of_shape,
  is_sampleable,
  static_batch_shape,
)
from tfp_nvi.internal import compatibility, randomness, types

if typing.TYPE_CHECKING:
  from tfp_nvi.densities import base

tfd = tfp.distributions

__all__ = [
  'JOINT',
  'MIXTURE',
  'SAME_FAMILY',
  'check_kinds',
  'check_support',
  'looks_discrete',
  'support_kinds',
]

# Distributions that have parts, or are mixtures.
JOINT = (
  tfd.JointDistribution,
  tfp.experimental.distributions.JointDistributionPinned,
)
SAME_FAMILY = compatibility.all_forms(tfd.MixtureSameFamily)
MIXTURE = compatibility.all_forms(tfd.Mixture)
# Distributions that change another one, and have its kind of support.
_META = compatibility.all_forms(
  tfd.BatchBroadcast,
  tfd.BatchReshape,
  tfd.Independent,
  tfd.Masked,
  tfd.Sample,
  tfd.TransformedDistribution,
)
_DISCRETE = compatibility.all_forms(
  tfd.Deterministic,
  tfd.FiniteDiscrete,
  tfd.QuantizedDistribution,
  tfd.VectorDeterministic,
)


def support_kinds(density: types.Density) -> tuple:
  """Classifies each part of the space of a density.

  The dtype does not tell: distributions over counts have floating point dtypes.

  Args:
    density: `tfd.Distribution`, `JointDistribution`, or any other density.

  Returns:
    kinds: Tuple with one of `'continuous'`, `'discrete'`, or `None` for "not
      known", for each part of the density's dtype in the order of
      `tf.nest.flatten`. A density without a dtype has the kinds `()`.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  joint = tfd.JointDistributionNamed(
    dict(count=tfd.Poisson(2.0), x=tfd.Normal(0.0, 1.0))
  )
  assert nvi.densities.support_kinds(joint) == ('discrete', 'continuous')
  ```
  """
  if isinstance(density, JOINT):
    parts = density._get_single_sample_distributions()  # pylint: disable=protected-access
    return tuple(
      tf.nest.flatten(
        density._model_unflatten(list(map(support_kinds, parts)))  # pylint: disable=protected-access
      )
    )
  if not hasattr(density, 'dtype'):
    return ()
  dtypes = [tf.as_dtype(dtype) for dtype in tf.nest.flatten(density.dtype)]
  if len(dtypes) == 1 and dtypes[0].is_floating:
    return (_kind_of_floats(density),)
  return tuple(None if dtype.is_floating else 'discrete' for dtype in dtypes)


def _kind_of_floats(density):
  """The kind of support of a density over one floating point `Tensor`."""
  if not is_sampleable(density):
    return None
  if isinstance(density, _DISCRETE):
    return 'discrete'
  if isinstance(density, SAME_FAMILY):
    return support_kinds(density.components_distribution)[0]
  if isinstance(density, MIXTURE):
    return support_kinds(density.components[0])[0]
  if isinstance(density, _META):
    return support_kinds(density.distribution)[0]
  try:
    bijector = density.experimental_default_event_space_bijector()
    # TFP returns `None` for discrete distributions, and for mixtures.
    return 'discrete' if bijector is None else 'continuous'
  except (AttributeError, NotImplementedError):
    pass
  if not tf.executing_eagerly():
    return None
  try:
    shape = [NUM_PROBES] + static_batch_shape(density).as_list()
    values = draw_of_shape(density, shape, randomness.as_seed(0))
  except NotImplementedError:
    return None
  return 'discrete' if looks_discrete(values) else 'continuous'


def looks_discrete(values: types.TensorLike) -> bool:
  """Whether draws are integers, or repeat each other.

  Args:
    values: `Tensor` of shape `[num_draws] + shape`.

  Returns:
    is_discrete: Python `bool`.
  """
  values = np.asarray(values)
  values = values.reshape([values.shape[0], -1])
  if values.size == 0 or not np.all(np.isfinite(values)):
    return False
  # Floats that are so large are integers in any case.
  is_small = np.max(np.abs(values)) < 1.0 / np.finfo(values.dtype).eps
  if is_small and np.all(values == np.round(values)):
    return True
  steps = np.diff(np.sort(values, axis=0), axis=0)
  # Entries that never change, such as the zeros of a triangular matrix, say
  # nothing.
  varies = np.any(steps > 0.0, axis=0)
  return bool(np.any(np.mean(steps == 0.0, axis=0)[varies] > 0.5))


def check_kinds(
  name: str, kinds: tuple, other_name: str, other_kinds: tuple
) -> None:
  """Raises an error if one of two is discrete where the other is continuous.

  Args:
    name: Python `str` name of an argument.
    kinds: Tuple of `support_kinds`: of this argument.
    other_name: Python `str`: the name of another density.
    other_kinds: Tuple of `support_kinds`: of that density.

  Raises:
    ValueError: If they differ in a part.
  """
  if any(
    a != b
    for a, b in zip(kinds, other_kinds, strict=True)
    if a is not None and b is not None
  ):
    raise ValueError(
      f'`{name}` must be over the same support as {other_name}, of '
      f'{_list_kinds(other_kinds)} parts; got {_list_kinds(kinds)} parts.'
    )


def _list_kinds(kinds):
  return ', '.join(kind or 'unknown' for kind in kinds)


def check_support(
  name: str, distribution: tfd.Distribution, densities: 'base.Densities'
) -> None:
  """Raises an error if a distribution is over another support than densities.

  For kernels and initial proposals: a discrete distribution has no density with
  respect to the measure of a continuous space, nor the other way round.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  normal = tfp.distributions.Normal(0.0, 1.0)
  path = nvi.GeometricPath(normal, normal, 2)
  nvi.densities.check_support('forward_fn', normal, path)
  ```

  Args:
    name: Python `str` name of the argument.
    distribution: `tfd.Distribution` over states or over points of the user's
      space.
    densities: `Densities`.

  Raises:
    ValueError: If a part is discrete in one and continuous in the other.
  """
  kinds, expected = support_kinds(distribution), densities.support_kinds
  if expected is not None and len(kinds) == len(expected):
    check_kinds(name, kinds, 'the densities', expected)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Observations of which whole steps, or some components, are missing.

Contract: a mask is either a bool `Tensor` of shape `batch + [num_steps]`, for
whole steps, or has the structure of the observations, with parts of shape
`batch + [num_steps] + event`, for each component, or `batch + [num_steps]`, for
a part as a whole. Where a component is missing the observations hold some other
value of the support, which has no influence: its density is integrated out.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, compatibility, matrices, randomness, types

tfd = tfp.distributions

__all__ = [
  'any_component',
  'is_by_step',
  'marginal',
  'split',
]

# A normal density with this deviation is one at its mean.
_UNIT_DEVIATION = 1.0 / np.sqrt(2.0 * np.pi)


def is_by_step(
  is_observed: types.Structure,
  observations: types.Structure,
  event_shapes: types.Structure,
) -> bool:
  """Returns whether a mask is for whole steps, and not for components.

  Args:
    is_observed: Mask, of either form.
    observations: Nested structure of `Tensor`s.
    event_shapes: Nested structure of `TensorShape`s.

  Returns:
    by_step: Python `bool`.
  """
  if tf.nest.is_nested(observations):
    try:
      tf.nest.assert_same_structure(is_observed, observations)
    except (TypeError, ValueError):
      return True
    return False
  rank = observations.shape.rank - tf.TensorShape(event_shapes).rank
  is_observed = checks.as_tensor('is_observed', is_observed)
  return is_observed.shape.rank == rank


def any_component(components: types.Structure, leading_rank: int) -> tf.Tensor:
  """Returns whether any component of a step is observed.

  Args:
    components: Nested structure of bool `Tensor`s of shape
      `batch + [num_steps] + any`.
    leading_rank: Python `int`: the number of the axes before `any`.

  Returns:
    is_observed: bool `Tensor` of shape `batch + [num_steps]`.
  """
  parts = [
    tf.reduce_any(mask, axis=range(leading_rank, mask.shape.rank))
    for mask in tf.nest.flatten(components)
  ]
  return tf.reduce_any(tf.stack(parts), axis=0)


def split(
  is_observed: types.Structure | None,
  observations: types.Structure,
  event_shapes: types.Structure,
) -> tuple:
  """Splits a mask into one for whole steps, and one for components.

  Args:
    is_observed: Mask, of either form, or `None`.
    observations: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`.
    event_shapes: Nested structure of `TensorShape`s.

  Returns:
    by_step: `None`, or bool `Tensor` of shape `batch + [num_steps]`: whether
      anything of a step is observed.
    components: `None`, or the mask itself if it is for components.
  """
  if is_observed is None:
    return None, None
  if is_by_step(is_observed, observations, event_shapes):
    return tf.convert_to_tensor(is_observed), None
  is_observed = tf.nest.map_structure(
    lambda _, mask: tf.convert_to_tensor(mask), observations, is_observed
  )
  x = tf.nest.flatten(observations)[0]
  event = tf.TensorShape(tf.nest.flatten(event_shapes)[0])
  return any_component(is_observed, x.shape.rank - event.rank), is_observed


def marginal(
  distribution: tfd.Distribution,
  x: types.Structure,
  mask: types.Structure | None,
) -> tfd.Distribution:
  """Returns the distribution of the observed components of an observation.

  Args:
    distribution: `tfd.Distribution` over an observation.
    x: Nested structure of `Tensor`s of shape `batch + event`: the observation.
    mask: Nested structure of bool `Tensor`s of shape `batch + event`, or
      `batch` for a part as a whole; `None` if nothing is missing.

  Returns:
    marginal: `tfd.Distribution` whose density at `x` is that of the components
      where `mask` is true. At other points it has no meaning.

  Raises:
    ValueError: If the components of the distribution are neither independent
      nor those of a multivariate normal distribution.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.state_space import missing

  tfd = tfp.distributions

  pair = tfd.MultivariateNormalTriL([1.0, 2.0], [[2.0, 0.0], [1.0, 1.0]])
  first = missing.marginal(pair, [0.5, 0.0], [True, False])
  assert first.log_prob([0.5, 0.0]) == tfd.Normal(1.0, 2.0).log_prob(0.5)
  ```
  """
  if mask is None:
    return distribution
  if isinstance(distribution, tfd.JointDistribution):
    return _marginal_of_parts(distribution, x, mask)
  mask, x = tf.convert_to_tensor(mask), tf.convert_to_tensor(x)
  event_rank = distribution.event_shape.rank
  if mask.shape.rank == x.shape.rank - event_rank and not isinstance(
    distribution, tfd.Normal
  ):
    return tfd.Masked(distribution, mask, safe_sample_fn=lambda _: x)
  if isinstance(distribution, tfd.Normal):
    unit = tf.constant(_UNIT_DEVIATION, distribution.dtype)
    return tfd.Normal(
      tf.where(mask, distribution.loc, x),
      tf.where(mask, distribution.scale, unit),
    )
  if isinstance(distribution, compatibility.all_forms(tfd.Independent)):
    return tfd.Independent(
      marginal(distribution.distribution, x, mask),
      distribution.reinterpreted_batch_ndims,
    )
  if isinstance(distribution, compatibility.all_forms(tfd.Sample)):
    base = distribution.distribution
    rank = tf.TensorShape(tf.get_static_value(distribution.sample_shape)).rank
    return tfd.Independent(
      marginal(base[(..., *[tf.newaxis] * rank)], x, mask), rank
    )
  if isinstance(distribution, tfd.MultivariateNormalLinearOperator):
    return _marginal_normal(distribution, x, mask)
  raise ValueError(
    '`is_observed` may be given for each component if observations have '
    'independent components, as those of a tfd.Independent, a tfd.Sample or a '
    'joint distribution, or are of a multivariate normal distribution; they '
    f'are of a {type(distribution).__name__}.'
  )


def _marginal_normal(distribution, x, mask):
  """Makes missing components independent, with a density of one."""
  loc = tf.where(mask, distribution.mean(), x)
  scale = distribution.scale
  unit = tf.constant(_UNIT_DEVIATION, distribution.dtype)
  if isinstance(
    scale,
    (
      tf.linalg.LinearOperatorDiag,
      tf.linalg.LinearOperatorIdentity,
      tf.linalg.LinearOperatorScaledIdentity,
    ),
  ):
    diagonal = tf.abs(scale.diag_part())
    return tfd.MultivariateNormalDiag(loc, tf.where(mask, diagonal, unit))
  factor = scale.to_dense()
  covariance = tf.matmul(factor, factor, transpose_b=True)
  both = mask[..., tf.newaxis] & mask[..., tf.newaxis, :]
  diagonal = tf.where(mask, tf.zeros_like(unit), unit**2)
  covariance = tf.where(both, covariance, tf.zeros_like(covariance))
  covariance += tf.linalg.diag(diagonal)
  return tfd.MultivariateNormalTriL(loc, matrices.cholesky(covariance))


def _marginal_of_parts(distribution, x, mask):
  """Returns the log density of a joint distribution with independent parts."""
  resolve: Any = getattr(distribution, 'resolve_graph', None)
  if resolve is None or any(parents for _, parents in resolve()):
    raise ValueError(
      '`is_observed` may be given for each part of an observation if the parts '
      'are independent of each other, as those of a JointDistributionNamed or '
      'JointDistributionSequential without functions; got '
      f'{type(distribution).__name__}.'
    )
  parts, _ = distribution.sample_distributions(seed=randomness.as_seed(0))
  model = tf.nest.map_structure(
    marginal,
    tf.nest.pack_sequence_as(mask, tf.nest.flatten(parts)),
    tf.nest.pack_sequence_as(mask, tf.nest.flatten(x)),
    mask,
  )
  if isinstance(model, dict):
    return tfd.JointDistributionNamed(dict(model))
  return tfd.JointDistributionSequential(list(model))

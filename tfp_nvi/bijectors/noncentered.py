# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Non-centered coordinates of hierarchical models."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, types

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'noncentered_bijector',
]

_PINNED = tfp.experimental.distributions.JointDistributionPinned
_LOCATION_SCALE = (
  tfd.Cauchy,
  tfd.Laplace,
  tfd.Logistic,
  tfd.Normal,
  tfd.StudentT,
)
_MULTIVARIATE = (tfd.MultivariateNormalDiag, tfd.MultivariateNormalTriL)


def noncentered_bijector(model: types.Density) -> tfb.Bijector | None:
  """A bijector from what is independent a priori to states of a hierarchy.

  A variable with a location and a scale that depend on other variables is
  `location + scale * z`, and `z` is what the bijector takes: a priori it does
  not depend on anything. Where the data say little of such variables, a
  posterior is nearly normal in these coordinates, whereas in those of the model
  a scale near zero leaves next to no room for what has this scale [1].
  Variables of other kinds have the event-space bijectors of TFP.

  Args:
    model: `JointDistributionPinned`, or joint distribution.

  Returns:
    bijector: `tfb.Bijector` from real values, in the structure of a state; or
      `None`, where no location and no scale depends on other variables.

  Raises:
    TypeError: If `model` is no joint distribution.

  #### References

  [1]: O. Papaspiliopoulos, G. O. Roberts, M. Sköld. A general framework for
       the parametrization of hierarchical models. Statistical Science, 22(1),
       2007.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.bijectors import noncentered_bijector

  tfd = tfp.distributions

  model = tfd.JointDistributionNamed(
    {
      'scale': tfd.HalfNormal(1.0),
      'x': lambda scale: tfd.Normal(3.0, scale),
    }
  )
  bijector = noncentered_bijector(model)
  state = bijector.forward({'scale': 0.7, 'x': 2.0})
  assert abs(state['x'] - (3.0 + 2.0 * state['scale'])) < 1e-5
  ```
  """
  joint = model.distribution if isinstance(model, _PINNED) else model
  checks.check_instance(
    'model',
    joint,
    tfd.JointDistribution,
    'a joint distribution, pinned or not',
  )
  pins = model.pins if isinstance(model, _PINNED) else {}
  if not _has_dependent_scales(joint, pins):
    return None
  default = model.experimental_default_event_space_bijector()
  # The class is TFP's own, and another one for auto-batched models.
  return type(default)(model, bijector_fn=_bijector)


def _affine(distribution):
  """The location and the scale, which may be a triangular matrix; or `None`."""
  if isinstance(distribution, _LOCATION_SCALE):
    return distribution.loc, distribution.scale
  if isinstance(distribution, _MULTIVARIATE):
    return distribution.mean(), distribution.scale.to_dense()
  return None


def _inner(distribution):
  """What a variable is draws of, and how many axes of draws there are."""
  if isinstance(distribution, tfd.Independent):
    return distribution.distribution, 0
  if isinstance(distribution, tfd.Sample):
    shape = tf.get_static_value(distribution.sample_shape)
    return distribution.distribution, np.size(shape)
  return distribution, 0


def _bijector(distribution):
  """The bijector of a variable, given those that it depends on."""
  inner, num_axes = _inner(distribution)
  affine = _affine(inner)
  if affine is None:
    return distribution.experimental_default_event_space_bijector()
  num_event = inner.event_shape.rank

  def expand(x, num_last):
    # The axes of draws are between those of the batch and of the event.
    for _ in range(num_axes):
      x = tf.expand_dims(x, -1 - num_last)
    return x

  loc, scale = affine
  if num_event:
    stretch = tfb.ScaleMatvecTriL(expand(scale, 2))
  else:
    stretch = tfb.Scale(expand(scale, 0))
  return tfb.Chain([tfb.Shift(expand(loc, num_event)), stretch])


def _has_dependent_scales(joint, pins):
  """Whether locations or scales differ between draws of the prior."""
  names = joint._flat_resolve_names()  # pylint: disable=protected-access
  found = []
  for seed in (0, 1):
    distributions, _ = joint.sample_distributions(seed=[seed, 0], **pins)
    flat = joint._model_flatten(distributions)  # pylint: disable=protected-access
    found.append(
      [
        x.numpy()
        for name, distribution in zip(names, flat, strict=True)
        if name not in pins
        for x in _affine(_inner(distribution)[0]) or ()
      ]
    )
  return any(
    not np.array_equal(first, second)
    for first, second in zip(*found, strict=True)
  )

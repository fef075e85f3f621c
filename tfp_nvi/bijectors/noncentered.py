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
  'noncentered_prior',
]

_PINNED = tfp.experimental.distributions.JointDistributionPinned
_LOCATION_SCALE = (
  tfd.Cauchy,
  tfd.Laplace,
  tfd.Logistic,
  tfd.Normal,
  tfd.StudentT,
)


def noncentered_bijector(model: types.Density) -> tfb.Bijector | None:
  """A bijector from what is independent a priori to states of a hierarchy.

  A variable with a location and a scale that depend on other variables is
  `location + scale * z`, and `z` is what the bijector takes: a priori it does
  not depend on anything. Where the data say little of such variables, a
  posterior is nearly normal in these coordinates, whereas in those of the model
  a scale near zero leaves next to no room for what has this scale [1].
  Variables of other kinds have the event-space bijectors of TFP.

  The density of the model itself loses digits where a scale is much smaller
  than a location. `fit_posterior` has the density of `z` in its place where it
  uses these coordinates by itself, as it does where they serve.

  Args:
    model: `JointDistributionPinned`, or joint distribution.

  Returns:
    bijector: `tfb.Bijector` from real values, in the structure of a state; or
      `None`, where no location and no scale depends on other variables.

  Raises:
    TypeError: If `model` is no joint distribution.
    ValueError: If a variable is discrete, or has no default bijector.

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
  return _of_model(model, _bijector)


def noncentered_prior(model: types.Density) -> tfb.Bijector:
  """The density of a prior in the coordinates of `noncentered_bijector`.

  A density of the model's own loses all digits where a scale is much smaller
  than a location: the variable is rounded to its location.

  Args:
    model: As of `noncentered_bijector`, which must not be `None`.

  Returns:
    prior: `tfb.Bijector` with the same `forward`, whose
      `forward_log_det_jacobian` is the log density of what it takes.
  """
  return _of_model(model, _Prior)


def _of_model(model, bijector_fn):
  try:
    default = model.experimental_default_event_space_bijector()
  except (AttributeError, NotImplementedError) as e:
    raise ValueError(
      '`model` must be over variables that have default bijectors, unlike '
      f'discrete ones and mixtures; got {model!r}.'
    ) from e
  # The class is TFP's own, and another one for auto-batched models.
  return type(default)(model, bijector_fn=bijector_fn)


class _Prior(tfb.Bijector):
  """The bijector of a variable, with the log density in place of a Jacobian.

  A joint bijector of TFP runs the model with one for each variable, and adds up
  their log determinants, also where the model is auto-batched.

  Args:
    distribution: `tfd.Distribution` of the variable, given the others.
  """

  def __init__(self, distribution):
    self._distribution = distribution
    self._bijector = _bijector(distribution)
    rank = distribution.event_shape.rank
    super().__init__(
      forward_min_event_ndims=self._bijector.inverse_event_ndims(rank),
      inverse_min_event_ndims=rank,
      name='prior',
    )

  def _forward(self, x):
    return self._bijector.forward(x)

  def _inverse(self, y):
    return self._bijector.inverse(y)

  def _forward_event_shape(self, shape):
    return self._bijector.forward_event_shape(shape)

  def _forward_event_shape_tensor(self, shape):
    return self._bijector.forward_event_shape_tensor(shape)

  def _inverse_event_shape(self, shape):
    return self._bijector.inverse_event_shape(shape)

  def _inverse_event_shape_tensor(self, shape):
    return self._bijector.inverse_event_shape_tensor(shape)

  def _forward_log_det_jacobian(self, x):
    standard = _standard(self._distribution)
    if standard is not None:
      return standard.log_prob(x)
    log_det = self._bijector.forward_log_det_jacobian(
      x, self.forward_min_event_ndims
    )
    return self._distribution.log_prob(self._bijector.forward(x)) + log_det


def _standard(distribution):
  """The distribution of `z`, if the bijector is by a location and a scale."""
  inner, _ = _inner(distribution)
  affine = _affine(inner)
  if affine is None:
    return None
  loc, scale = affine
  if inner.event_shape.rank:
    standard = tfd.MultivariateNormalDiag(tf.zeros_like(loc))
  else:
    # Both may have the batch shape.
    zeros = tf.zeros_like(loc + scale)
    standard = inner.copy(loc=zeros, scale=tf.ones_like(zeros))
  if inner is distribution:
    return standard
  return distribution.copy(distribution=standard)


def _affine(distribution):
  """The location and the scale, which may be a triangular matrix; or `None`."""
  if isinstance(distribution, _LOCATION_SCALE):
    return distribution.loc, distribution.scale
  if isinstance(distribution, tfd.MultivariateNormalDiag):
    return distribution.mean(), distribution.stddev()
  if isinstance(distribution, tfd.MultivariateNormalTriL):
    return distribution.mean(), distribution.scale.to_dense()
  return None


def _inner(distribution):
  """The distribution of each draw of a variable, and its number of axes."""
  if isinstance(distribution, tfd.Independent):
    return distribution.distribution, 0
  if isinstance(distribution, tfd.Sample):
    shape = tf.convert_to_tensor(distribution.sample_shape).shape
    return distribution.distribution, shape.num_elements()
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
  if isinstance(inner, tfd.MultivariateNormalTriL):
    stretch = tfb.ScaleMatvecTriL(expand(scale, 2))
  else:
    stretch = tfb.Scale(expand(scale, num_event))
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

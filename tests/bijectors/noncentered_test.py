# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Non-centered coordinates are independent of each other a priori."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import noncentered_bijector
from tfp_nvi.bijectors.noncentered import noncentered_prior

tfb = tfp.bijectors
tfd = tfp.distributions
Root = tfd.JointDistributionCoroutine.Root

MIXING = np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)


def batched_model():
  """Each distribution has a batch of as many as there are draws."""

  @tfd.JointDistributionCoroutine
  def model():
    scale = yield Root(tfd.HalfNormal(1.0, name='scale'))
    mean = yield Root(tfd.Normal(1.0, 2.0, name='mean'))
    yield tfd.Sample(tfd.Normal(mean, scale), [3, 2], name='x')
    yield tfd.Sample(
      tfd.MultivariateNormalTriL(
        tf.stack([mean, -mean], -1), scale[..., None, None] * MIXING
      ),
      4,
      name='v',
    )
    yield tfd.Sample(
      tfd.MultivariateNormalDiag(
        mean[..., None] * [1.0, 2.0, 0.0], scale[..., None] * [1.0, 3.0, 2.0]
      ),
      2,
      name='d',
    )
    yield tfd.Sample(
      tfd.Independent(
        tfd.Normal(mean[..., None], scale[..., None] * [1.0, 2.0]), 1
      ),
      3,
      name='w',
    )
    yield tfd.Independent(
      tfd.StudentT(3.0, mean[..., None], scale[..., None] * [1.0, 2.0]),
      1,
      name='t',
    )
    yield tfd.Normal(mean, 1.0, name='y')

  return model.experimental_pin(y=0.5)


def auto_batched_model():
  """The same by a class that writes models for one draw."""
  return tfd.JointDistributionNamedAutoBatched(
    {
      'scale': tfd.HalfNormal(1.0),
      'mean': tfd.Normal(1.0, 2.0),
      'x': lambda mean, scale: tfd.Sample(tfd.Normal(mean, scale), [3, 2]),
      'v': lambda mean, scale: tfd.Sample(
        tfd.MultivariateNormalTriL(tf.stack([mean, -mean]), scale * MIXING), 4
      ),
      'd': lambda mean, scale: tfd.Sample(
        tfd.MultivariateNormalDiag(
          mean * [1.0, 2.0, 0.0], scale * [1.0, 3.0, 2.0]
        ),
        2,
      ),
      'w': lambda mean, scale: tfd.Sample(
        tfd.Independent(tfd.Normal(mean, scale * [1.0, 2.0]), 1), 3
      ),
      't': lambda mean, scale: tfd.Independent(
        tfd.StudentT(3.0, mean, scale * [1.0, 2.0]), 1
      ),
      'y': lambda mean: tfd.Normal(mean, 1.0),
    }
  ).experimental_pin(y=0.5)


SHAPES = {
  'd': [2, 3],
  'mean': [],
  'scale': [],
  't': [2],
  'v': [4, 2],
  'w': [3, 2],
  'x': [3, 2],
}


def as_dict(state):
  return state if isinstance(state, dict) else state._asdict()


def in_structure(model, values):
  if isinstance(model.dtype, dict):
    return values
  return type(model.dtype)(**values)


@pytest.mark.parametrize('make', [batched_model, auto_batched_model])
def test_coordinates_are_independent(make):
  """By hand: the map, and the density of the prior in its coordinates."""
  model = make()
  bijector = noncentered_bijector(model)
  rng = np.random.default_rng(1)
  flat = {
    name: rng.normal(size=[5, *shape]).astype(np.float32)
    for name, shape in SHAPES.items()
  }
  z = in_structure(model, flat)
  state = bijector.forward(z)
  named = {name: x.numpy() for name, x in as_dict(state).items()}
  scale = np.log1p(np.exp(flat['scale']))
  mean = 1.0 + 2.0 * flat['mean']

  def along(x, rank):
    return np.reshape(x, [5] + [1] * rank)

  expected = {
    'scale': scale,
    'mean': mean,
    'x': along(mean, 2) + along(scale, 2) * flat['x'],
    'v': np.stack([mean, -mean], -1)[:, None]
    + along(scale, 2) * (flat['v'] @ MIXING.T),
    'd': along(mean, 2) * [1.0, 2.0, 0.0]
    + along(scale, 2) * [1.0, 3.0, 2.0] * flat['d'],
    # Only one distribution may be within another one.
    'w': flat['w'],
    't': mean[:, None] + scale[:, None] * np.array([1.0, 2.0]) * flat['t'],
  }
  for name, value in expected.items():
    np.testing.assert_allclose(named[name], value, rtol=1e-4, atol=1e-5)
  parts = model.unnormalized_log_prob_parts(state).unpinned
  log_prior = sum(tf.nest.flatten(parts))
  ndims = in_structure(model, {k: len(v) for k, v in SHAPES.items()})
  found = log_prior + bijector.forward_log_det_jacobian(z, ndims)
  normal = tfd.Normal(0.0, 1.0)
  independent = (
    tfd.HalfNormal(1.0).log_prob(scale)
    + tfb.Softplus().forward_log_det_jacobian(flat['scale'])
    + normal.log_prob(flat['mean'])
    + tf.reduce_sum(normal.log_prob(flat['x']), [1, 2])
    + tf.reduce_sum(normal.log_prob(flat['v']), [1, 2])
    + tf.reduce_sum(normal.log_prob(flat['d']), [1, 2])
    + tf.reduce_sum(
      tfd.Normal(along(mean, 2), along(scale, 2) * np.float32([1, 2])).log_prob(
        flat['w']
      ),
      [1, 2],
    )
    + tf.reduce_sum(tfd.StudentT(3.0, 0.0, 1.0).log_prob(flat['t']), 1)
  )
  np.testing.assert_allclose(found, independent, rtol=1e-4, atol=1e-3)
  prior = noncentered_prior(model)
  log_prob = prior.forward_log_det_jacobian(z, ndims)
  np.testing.assert_allclose(log_prob, independent, rtol=1e-5, atol=1e-4)
  # It leads to the same states as the bijector.
  for x, y in zip(
    tf.nest.flatten(state), tf.nest.flatten(prior.forward(z)), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_density_keeps_its_digits_where_a_scale_is_small():
  """The model's own density is of a variable rounded to its location."""
  model = tfd.JointDistributionNamed(
    {
      'scale': tfd.LogNormal(0.0, 1.0),
      'x': lambda scale: tfd.Normal(100.0, scale),
    }
  )
  z = {'scale': tf.constant(-30.0), 'x': tf.constant(3.0)}
  ndims = {'scale': 0, 'x': 0}
  bijector = noncentered_bijector(model)
  state = bijector.forward(z)
  assert state['x'] == 100.0
  normal = tfd.Normal(0.0, 1.0)
  expected = normal.log_prob(-30.0) + normal.log_prob(3.0)
  found = noncentered_prior(model).forward_log_det_jacobian(z, ndims)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  own = model.log_prob(state) + bijector.forward_log_det_jacobian(z, ndims)
  # It lacks the square of `z`, as if this could be anything.
  np.testing.assert_allclose(own - expected, 4.5, rtol=1e-4)


@pytest.mark.parametrize(
  'x',
  [
    tfd.Normal(3.0, 2.0),
    lambda scale: tfd.Gamma(2.0, scale),
    lambda scale: tfd.Sample(tfd.Normal(0.0, 1.0), 2),
  ],
)
def test_there_are_none_where_no_scale_depends_on_others(x):
  model = tfd.JointDistributionNamed({'scale': tfd.HalfNormal(1.0), 'x': x})
  assert noncentered_bijector(model) is None


def test_what_is_pinned_does_not_count():
  model = tfd.JointDistributionNamed(
    {
      'scale': tfd.HalfNormal(1.0),
      'x': lambda scale: tfd.Normal(0.0, scale),
      'y': lambda x: tfd.Normal(x, 1.0),
    }
  )
  assert noncentered_bijector(model.experimental_pin(y=0.0)) is not None
  # The location and the scale of what is left are known.
  assert noncentered_bijector(model.experimental_pin(x=1.0)) is None
  assert noncentered_bijector(model.experimental_pin(scale=1.0, y=0.0)) is None


def test_discrete_variables_are_refused():
  model = tfd.JointDistributionNamed(
    {
      'scale': tfd.HalfNormal(1.0),
      'x': lambda scale: tfd.Normal(0.0, scale),
      'n': tfd.Poisson(2.0),
    }
  )
  with pytest.raises(ValueError, match='must be over variables.*mixtures'):
    noncentered_bijector(model)


def test_other_distributions_are_refused():
  with pytest.raises(TypeError, match='`model` must be a joint distribution'):
    noncentered_bijector(tfd.Normal(0.0, 1.0))

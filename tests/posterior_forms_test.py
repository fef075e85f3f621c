# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors do not depend on the form that a target is given in.

Evidences are known in closed form. Errors from four runs follow Student's t
with three degrees of freedom, of which 13 is exceeded once in a thousand; small
errors are allowed 0.01, which is far below what each form had been wrong by.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import fit_posterior, space

tfb = tfp.bijectors
tfd = tfp.distributions

SMALL = {'num_particles': 250, 'num_runs': 4, 'progress': False, 'seed': 1}
Root = tfd.JointDistributionCoroutine.Root


def assert_evidence(posterior, expected):
  assert posterior.log_evidence_error < 0.02
  tolerance = max(13.0 * posterior.log_evidence_error, 0.01)
  assert abs(posterior.log_evidence - float(expected)) < min(tolerance, 0.1)


def test_what_a_normal_prior_depends_on_is_pinned():
  model = tfd.JointDistributionSequential(
    [
      tfd.Normal(0.0, 2.0),
      lambda mean: tfd.MultivariateNormalDiag([mean, mean], [1.0, 1.0]),
      lambda x: tfd.Independent(tfd.Normal(x, 1.0), 1),
    ]
  )
  posterior = fit_posterior(
    model.experimental_pin(5.0, None, tf.constant([5.0, 5.0])), **SMALL
  )
  expected = tfd.Normal(0.0, 2.0).log_prob(5.0) + 2.0 * tfd.Normal(
    5.0, 2.0**0.5
  ).log_prob(5.0)
  assert_evidence(posterior, expected)
  np.testing.assert_allclose(posterior.expectation()[0], 5.0, atol=0.15)


@pytest.mark.parametrize('kind', ['default', 'given', 'auto-batched'])
def test_coordinates_of_positive_variables_are_logarithms(kind):
  """Whoever makes the bijector, and however often a variable is drawn."""
  parts = {
    # In the order of the model, which is not that of a dictionary.
    'x': tfd.Normal(0.0, 1.0),
    'a': tfd.Sample(tfd.HalfNormal(1.0), 2),
    'b': tfd.Gamma(2.0, 1.0),
    'c': tfd.LogNormal(0.0, 1.0),
  }
  is_batched = kind == 'auto-batched'
  prior = (
    tfd.JointDistributionNamedAutoBatched(parts)
    if is_batched
    else tfd.JointDistributionNamed(parts)
  )
  bijector = prior.experimental_default_event_space_bijector()
  vectors = space.VectorSpace(
    prior.log_prob, prior, bijector if kind == 'given' else None, [0, 1]
  )
  coordinates = tf.constant([[-3.0, 0.5, 2.0, 0.3, -1.5]])
  values, _ = vectors.state_map.unconstrained(coordinates)
  state = vectors.state_map.state(values)
  # The logarithm of a log-normal variable is its unconstrained value.
  np.testing.assert_allclose(state['a'], [np.exp([-3.0, 0.5])], rtol=1e-4)
  np.testing.assert_allclose(state['b'], [np.exp(2.0)], rtol=1e-4)
  np.testing.assert_allclose(state['c'], [np.exp(0.3)], rtol=1e-4)
  np.testing.assert_allclose(state['x'], [-1.5], rtol=1e-4)


def test_bijectors_are_matched_by_names():
  """The order of the model is not that of a dictionary."""

  def model():
    b = yield Root(tfd.Gamma(3.0, 2.0, name='b'))
    yield Root(tfd.Uniform(1.0, 4.0, name='a'))
    yield tfd.Sample(tfd.Poisson(b), 5, name='y')

  target = tfd.JointDistributionCoroutine(model).experimental_pin(
    y=[1.0, 0.0, 2.0, 1.0, 3.0]
  )
  posterior = fit_posterior(
    target,
    event_space_bijector={'b': tfb.Exp(), 'a': tfb.Sigmoid(1.0, 4.0)},
    **SMALL,
  )
  assert posterior.names == ['b', 'a']
  first, second = posterior.summary().splitlines()[1:3]
  # The posterior of `b` is Gamma(3 + 7, 2 + 5), and that of `a` its prior.
  for row, name, expected in ((first, 'b', 10.0 / 7.0), (second, 'a', 2.5)):
    assert row.split()[0] == name
    assert abs(float(row.split()[1]) - expected) < 0.15


def simplices(kind):
  """A target with counts of three categories, and a bijector for it."""
  likelihood = tfd.Multinomial
  if kind == 'coroutine':

    def model():
      w = yield Root(tfd.Dirichlet([1.0, 2.0, 3.0], name='w'))
      yield Root(tfd.Normal(0.0, 1.0, name='a'))
      yield likelihood(6.0, probs=w, name='y')

    joint = tfd.JointDistributionCoroutine(model)
    bijector = {'w': tfb.SoftmaxCentered(), 'a': tfb.Identity()}
  else:
    joint = tfd.JointDistributionNamed(
      {
        'w': tfd.Dirichlet([1.0, 2.0, 3.0]),
        'a': tfd.Dirichlet([2.0, 2.0]),
        'y': lambda w: likelihood(6.0, probs=w),
      }
    )
    bijector = {
      'given': {'w': tfb.SoftmaxCentered(), 'a': tfb.IteratedSigmoidCentered()},
      'default': None,
    }[kind]
  return joint.experimental_pin(y=[3.0, 1.0, 2.0]), bijector


@pytest.mark.parametrize('kind', ['coroutine', 'given', 'default'])
def test_volumes_of_simplices(kind):
  target, bijector = simplices(kind)
  posterior = fit_posterior(
    target, event_space_bijector=bijector, start='reference', **SMALL
  )
  expected = tfd.DirichletMultinomial(6.0, [1.0, 2.0, 3.0]).log_prob(
    [3.0, 1.0, 2.0]
  )
  assert_evidence(posterior, expected)


def test_the_volume_of_a_simplex_beside_a_number():
  counts = [3.0, 1.0, 2.0]

  def log_prob(x):
    w = x[..., :3]
    return (
      tfd.Dirichlet([1.0, 2.0, 3.0]).log_prob(w)
      + tfd.Normal(0.0, 1.0).log_prob(x[..., 3])
      + tfd.Multinomial(6.0, probs=w).log_prob(counts)
    )

  posterior = fit_posterior(
    log_prob,
    tfd.Blockwise(
      [
        tfd.Dirichlet([1.0, 2.0, 3.0]),
        tfd.MultivariateNormalDiag([0.0], [1.0]),
      ]
    ),
    tfb.Blockwise([tfb.SoftmaxCentered(), tfb.Identity()], [2, 1]),
    start='reference',
    **SMALL,
  )
  expected = tfd.DirichletMultinomial(6.0, [1.0, 2.0, 3.0]).log_prob(counts)
  assert_evidence(posterior, expected)


@pytest.mark.parametrize(
  'bijector', [tfb.SoftmaxCentered(), tfb.IteratedSigmoidCentered()]
)
def test_densities_that_a_bijector_maps_to_a_simplex(bijector):
  """Their density is of the volume of their own bijector."""
  prior = tfd.TransformedDistribution(
    tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0]), bijector
  )
  model = tfd.JointDistributionNamed(
    {
      'a': prior,
      'y': lambda a: tfd.Independent(tfd.Normal(a, 100.0), 1),
    }
  ).experimental_pin(y=tf.zeros([3]))
  posterior = fit_posterior(model, start='reference', **SMALL)
  # The likelihood is constant but for 1e-4.
  assert_evidence(posterior, 3.0 * tfd.Normal(0.0, 100.0).log_prob(0.0))


def test_matrices_with_entries_that_never_change():
  model = tfd.JointDistributionNamed(
    {
      'root': tfd.CholeskyLKJ(2, 2.0),
      'y': lambda root: tfd.Normal(root[..., 1, 0], 1.0),
    }
  ).experimental_pin(y=0.5)
  posterior = fit_posterior(model, start='reference', **SMALL)
  particles = posterior.sampler.sample(1_000, seed=1)
  # By quadrature: the correlation has a density of (1 - r^2) 3 / 4.
  r = np.linspace(-1.0, 1.0, 2_001)
  density = 0.75 * (1.0 - r**2) * np.exp(-0.5 * (0.5 - r) ** 2)
  expected = np.log(np.trapezoid(density, r)) - 0.5 * np.log(2.0 * np.pi)
  assert_evidence(posterior, expected)
  error = 5.0 * float(particles.log_normalizer_error) + 0.01
  assert abs(float(particles.log_normalizer) - expected) < error


NORMAL = tfd.Normal(0.0, 3.0)
DATA = tf.constant([1.0, 2.0, 0.5])


@pytest.mark.parametrize(
  'target, problem',
  [
    (lambda x: tf.reduce_sum(NORMAL.log_prob(x)), 'one log density for each'),
    (
      lambda x: (
        tf.reduce_sum(tfd.Normal(x[..., tf.newaxis], 1.0).log_prob(DATA))
        + NORMAL.log_prob(x)
      ),
      'of each state by itself',
    ),
  ],
)
def test_densities_that_miss_an_axis(target, problem):
  with pytest.raises(ValueError, match=f'`target` must return .*{problem}'):
    fit_posterior(target, NORMAL, **SMALL)


@pytest.mark.parametrize(
  'bijector', [{'b': tfb.Exp()}, [tfb.Exp(), tfb.Identity()]]
)
def test_bijectors_of_another_structure(bijector):
  initial = tfd.JointDistributionNamed(
    {'a': tfd.Gamma(2.0, 1.0), 'b': tfd.Normal(0.0, 1.0)}
  )
  with pytest.raises(
    ValueError, match='`event_space_bijector` must be .*structure of a state'
  ):
    fit_posterior(
      initial.log_prob,
      initial,
      event_space_bijector=bijector,
      **SMALL,
    )

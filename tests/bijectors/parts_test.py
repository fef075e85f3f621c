# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Default bijectors of TFP that are wrong are refused, and those alone."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import parts
from tfp_nvi.posterior import fit_posterior, space
from tfp_nvi.state_space import global_space

tfb = tfp.bijectors
tfd = tfp.distributions

SMALL = {'num_particles': 100, 'num_runs': 8, 'progress': False, 'seed': 1}


def normal():
  return tfd.Normal(np.float64(0.0), np.float64(1.0))


def correlations():
  return tfd.LKJ(2, np.float64(1.5))


def wishart():
  return tfd.WishartTriL(
    np.float64(4.0), scale_tril=tf.eye(2, dtype=tf.float64)
  )


def joints(part_fn):
  """Joint distributions with a part, in several forms."""

  def coroutine():
    yield tfd.JointDistributionCoroutine.Root(part_fn())
    yield tfd.JointDistributionCoroutine.Root(normal())

  return [
    tfd.JointDistributionNamed({'x': normal(), 'part': part_fn()}),
    tfd.JointDistributionSequential(
      [normal(), tfd.JointDistributionNamed({'part': part_fn()})]
    ),
    tfd.JointDistributionNamedAutoBatched({'x': normal(), 'part': part_fn()}),
    tfd.JointDistributionCoroutineAutoBatched(coroutine),
  ]


def test_mass_over_the_real_space():
  """The mass is not one. Once TFP mends this, the refusal is to go."""
  prior = correlations()
  bijector = prior.experimental_default_event_space_bijector()
  x = np.linspace(-60.0, 60.0, 12_001)[:, np.newaxis]
  log_prob = prior.log_prob(bijector.forward(x))
  log_det = bijector.forward_log_det_jacobian(x, 1)
  density = np.exp(log_prob + log_det)
  assert np.sum(density[np.isfinite(density)]) * (x[1, 0] - x[0, 0]) > 1.1


@pytest.mark.parametrize(
  'density, problem',
  [
    (tfd.SphericalUniform(3), 'points of a sphere'),
    (tfd.VonMisesFisher([-1.0, 0.0, 0.0], 4.0), 'points of a sphere'),
    (tfd.TruncatedNormal(0.0, 1.0, 0.0, np.inf), 'limits at infinity'),
    (tfd.TruncatedNormal(0.0, 1.0, -np.inf, 1.0), 'limits at infinity'),
  ],
)
def test_bijectors_that_lead_elsewhere(density, problem):
  bijector = density.experimental_default_event_space_bijector()
  with pytest.raises(ValueError, match=f'`target` must not.*{problem}'):
    parts.check_parts('target', bijector)
  joint = tfd.JointDistributionNamed({'x': density, 'v': tfd.Normal(0.0, 1.0)})
  with pytest.raises(ValueError, match=f'`target` must not.*{problem}'):
    fit_posterior(joint.log_prob, joint, **SMALL)


def test_matrices_that_no_vector_leads_to():
  """No diagonal is small. Once TFP mends this, the refusal is to go."""
  prior = tfd.WishartTriL(4.0, scale_tril=tf.eye(2))
  bijector = prior.experimental_default_event_space_bijector()
  factor = tf.linalg.cholesky(bijector.forward(tf.fill([3], -40.0)))
  np.testing.assert_allclose(
    tf.linalg.diag_part(factor), np.log(2.0), rtol=1e-4
  )


@pytest.mark.parametrize('part_fn', [correlations, wishart])
@pytest.mark.parametrize('form', range(5))
def test_posteriors_are_refused(part_fn, form):
  prior = [part_fn(), *joints(part_fn)][form]
  with pytest.raises(ValueError, match='`target`.*(CholeskyLKJ|FillScaleTriL)'):
    fit_posterior(prior.log_prob, prior, **SMALL)


@pytest.mark.parametrize('part_fn', [correlations, wishart])
@pytest.mark.parametrize('form', range(2))
def test_global_states_are_refused(part_fn, form):
  prior = [part_fn(), joints(part_fn)[0]][form]
  with pytest.raises(ValueError, match='`prior`.*(CholeskyLKJ|FillScaleTriL)'):
    global_space.GlobalSpace(prior)


@pytest.mark.parametrize(
  'bijector',
  [
    tfb.CorrelationCholesky(),
    tfb.FillScaleTriL(diag_shift=None),
    tfb.Chain([tfb.CholeskyOuterProduct(), tfb.FillScaleTriL(diag_shift=None)]),
    tfb.SoftmaxCentered(),
    tfb.Sigmoid(),
    tfb.Sigmoid(-1.0, 2.0),
  ],
)
def test_other_bijectors_are_not_refused(bijector):
  parts.check_parts('target', bijector)


def test_the_bijector_that_is_named_serves():
  prior = wishart()
  posterior = fit_posterior(
    prior.log_prob,
    prior,
    tfb.Chain([tfb.CholeskyOuterProduct(), tfb.FillScaleTriL(diag_shift=None)]),
    **SMALL,
  )
  # Student's t with 7 degrees of freedom: a false alarm in a thousand.
  assert posterior.log_evidence_error < 0.05
  assert abs(posterior.log_evidence) < 5.4 * posterior.log_evidence_error


def test_a_bijector_that_does_not_lead_everywhere():
  """Half of the draws are negative."""
  posterior = fit_posterior(
    normal().log_prob, normal(), tfb.Softplus(), **SMALL
  )
  assert any('outside of the range' in x for x in posterior.warnings)


def test_simplices_of_auto_batched_models():
  """Their constant is there also if the bijector is given."""

  @tfd.JointDistributionCoroutineAutoBatched
  def model():
    p = yield tfd.Dirichlet(np.ones(3), name='p')
    yield tfd.Multinomial(np.float64(5.0), probs=p, name='y')

  target = model.experimental_pin(y=np.array([1.0, 2.0, 2.0]))
  own, given = (
    space.VectorSpace(target, None, bijector, [1, 2])
    for bijector in (
      None,
      target.experimental_default_event_space_bijector(),
    )
  )
  y = tf.zeros([1, 2], tf.float64)
  for found in (own, given):
    [p] = tf.nest.flatten(found.to_user(y))
    # The Jacobian of the first two of three values that sum to one.
    expected = (
      target.unnormalized_log_prob(p)
      + tf.reduce_sum(tf.math.log(p), axis=-1)
      + tf.reduce_sum(tf.math.log(found.scale))
    )
    np.testing.assert_allclose(found.log_probs(y)[0], expected)

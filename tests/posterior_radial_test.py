# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lengths of vectors, against densities with known ones.

Seeds are fixed. Tests allow five standard errors: a false alarm in 10^6 if the
estimates are normal.
"""

import types

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import choice, fit_posterior, radial

tfd = tfp.distributions

NUM_RAYS = 8


def fit(log_prob_fn, size):
  """A map by rays in random directions."""
  directions = np.random.default_rng(1).normal(size=[NUM_RAYS, size])
  return radial.fit_radial(log_prob_fn, directions, tf.float64)


@pytest.mark.parametrize('size', [5, 60, 1_000])
@pytest.mark.parametrize('df', [2.0, 30.0])
def test_lengths_of_a_student_t_density(size, df):
  """Draws by the map have this density itself."""
  known = scipy.stats.multivariate_t(
    np.zeros(size), 0.3**2 * np.eye(size), df=df, seed=0
  )
  # Known up to a constant.
  found, _ = fit(lambda x: known.logpdf(x) + 1_000.0, size)
  u = tf.constant(np.random.default_rng(2).normal(size=[4_000, size]))
  t, log_det = radial.forward(found, u)
  log_prob = -0.5 * np.sum(u**2 + np.log(2.0 * np.pi), axis=1) - log_det
  weights = np.exp(known.logpdf(t) - log_prob)
  error = np.std(weights) / np.sqrt(len(weights))
  assert abs(np.mean(weights) - 1.0) < 5.0 * error
  # The share of draws that is effective. Normal draws with the right mean
  # square have next to none for two degrees of freedom.
  assert np.mean(weights) ** 2 / np.mean(weights**2) > 0.98


def test_a_map_and_its_inverse():
  size = 6
  found, _ = fit(
    scipy.stats.multivariate_t(np.zeros(size), np.eye(size), df=3.0).logpdf,
    size,
  )
  u = tf.constant(np.random.default_rng(3).normal(size=[20, size]))
  # Very long and very short ones too, outside of the knots.
  u *= np.geomspace(0.01, 30.0, 20)[:, np.newaxis]
  with tf.GradientTape() as tape:
    tape.watch(u)
    t, log_det = radial.forward(found, u)
  jacobian = tape.batch_jacobian(t, u)
  np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-8)
  np.testing.assert_allclose(radial.inverse(found, t), u, rtol=1e-8)


@pytest.mark.parametrize('scale', [1.0, 0.3, 2.0])
def test_gain_for_another_scale(scale):
  """The divergence of two normal densities."""
  size = 60
  _, gain = fit(lambda x: -0.5 * np.sum((x / scale) ** 2, axis=1), size)
  exact = 0.5 * size * (scale**2 - 1.0 - 2.0 * np.log(scale))
  # The density along a ray is interpolated between 33 points.
  np.testing.assert_allclose(gain, exact, rtol=5e-3, atol=0.002)


def test_rays_without_mass():
  assert fit(lambda x: np.where(x[:, 0] > 0.0, 0.0, -np.inf), 5) is None


@pytest.mark.parametrize('size', [20, 60])
def test_a_student_t_posterior(size):
  """Particles keep their lengths: errors were -0.35 +- 0.02 for 60 values."""
  rng = np.random.default_rng(0)
  axes = np.linalg.qr(rng.normal(size=[size, size]))[0]
  root = axes * np.geomspace(0.1, 1.0, size)
  target = tfd.MultivariateStudentTLinearOperator(
    df=5.0,
    loc=tf.ones(size),
    scale=tf.linalg.LinearOperatorLowerTriangular(
      tf.constant(np.linalg.cholesky(root @ root.T), tf.float32)
    ),
  )
  posterior = fit_posterior(
    target.log_prob,
    tfd.Sample(tfd.Normal(0.0, 3.0), size),
    seed=1,
    progress=False,
  )
  assert posterior.log_evidence_error < 0.05
  # Student's t with 7 degrees of freedom: a false alarm in a thousand.
  assert abs(posterior.log_evidence) < 5.4 * posterior.log_evidence_error
  [first, *_] = [x for x in posterior.history if x['name'] == 'lengths']
  assert first['is_taken']


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9])
def test_mass_that_one_of_two_pilots_finds(share):
  """One normal density in another one that is a hundred times as wide.

  No particle that has not started in the narrow one ever gets there, and none
  of it to the wide one, which has the given share.
  """
  size, scales = 20, tf.constant([[1.0], [100.0]])
  target = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[1.0 - share, share]),
    tfd.MultivariateNormalDiag(
      tf.zeros([2, size]), scales * tf.ones([2, size])
    ),
  )
  posterior = fit_posterior(
    target.log_prob,
    tfd.Sample(tfd.Normal(0.0, 100.0), size),
    seed=1,
    progress=False,
  )
  assert posterior.log_evidence_error < 0.05
  # Student's t with 7 degrees of freedom: a false alarm in a thousand.
  assert abs(posterior.log_evidence) < 5.4 * posterior.log_evidence_error
  is_wide = posterior.expectation(
    lambda x: tf.cast(tf.norm(x, axis=-1) > 30.0, x.dtype)
  )
  # The relative variance of the evidence has that of the share in it.
  np.testing.assert_allclose(
    is_wide, share, atol=5.4 * posterior.log_evidence_error + 0.005
  )


@pytest.mark.parametrize('radius', [1e-3, 2.0])
def test_densities_without_gradients(radius):
  """Uniform balls: one that no particle gets to, and one that all start in."""
  size = 5

  def log_prob(x):
    is_inside = tf.norm(x, axis=-1) < radius
    return tf.where(is_inside, 0.0, -np.inf)

  def fit():
    return fit_posterior(
      log_prob,
      tfd.Sample(tfd.Normal(0.0, 1.0), size),
      num_particles=100,
      progress=False,
      seed=1,
    )

  if radius < 1.0:
    with pytest.raises(ValueError, match='must have mass where the start has'):
      fit()
    return
  posterior = fit()
  volume = np.pi**2.5 / scipy.special.gamma(3.5) * radius**size
  assert posterior.log_evidence_error < 0.5
  # Student's t with 7 degrees of freedom: a false alarm in a thousand.
  assert abs(posterior.log_evidence - np.log(volume)) < (
    5.4 * posterior.log_evidence_error
  )


def pilot_at(place, log_evidence):
  """A pilot with particles about a place, and an estimate of the evidence."""
  points = place + np.random.default_rng(4).normal(size=[400, 3])
  return types.SimpleNamespace(
    log_evidence=log_evidence,
    variance_by_ancestors=1e-4,
    schedule=types.SimpleNamespace(is_complete=True),
    weighted_points=(points, np.full(400, 1.0 / 400)),
  )


@pytest.mark.parametrize(
  'place, log_evidence, has_valleys, takes_broad, is_apart',
  [
    # No other mass, and the same or more evidence.
    (0.0, 0.0, False, False, False),
    (0.0, 1.0, False, True, False),
    # Other mass, with about as much evidence, with some less, and with next to
    # none.
    (9.0, 0.0, False, True, False),
    (9.0, -1.0, False, False, True),
    (9.0, -9.0, False, False, False),
    # Where modes are separate, the evidence may be too low by any factor.
    (9.0, -9.0, True, True, False),
  ],
)
def test_which_of_two_pilots_to_learn_from(
  monkeypatch, place, log_evidence, has_valleys, takes_broad, is_apart
):
  chooser = choice.Chooser(
    types.SimpleNamespace(has_modes=False, history=[{}], warnings=[]),
    'auto',
    [0, 1],
  )
  monkeypatch.setattr(chooser, '_has_valleys', lambda found: has_valleys)
  narrow, broad = pilot_at(0.0, 0.0), pilot_at(place, log_evidence)
  best, found_apart, _ = chooser._compare(narrow, broad)
  assert best is (broad if takes_broad else narrow)
  assert found_apart == is_apart

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians at modes, as starts of paths.

Seeds are fixed. Unless they say something else, tests allow five standard
errors: a false alarm in 10^6 if the estimates are normal.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import weighting
from tfp_nvi.internal import randomness
from tfp_nvi.posterior import (
  fit_posterior,
  frozen,
  mixture,
  moves,
  pilot,
  space,
)
from tfp_nvi.targets import posteriors

tfd = tfp.distributions

SHARES = np.array([0.2, 0.5, 0.3])
CENTERS = np.array([[-4.0, 0.0], [3.0, 3.0], [4.0, -4.0]])
COVARIANCES = np.array(
  [
    [[1.0, 0.3], [0.3, 0.5]],
    [[0.25, 0.0], [0.0, 0.25]],
    [[0.5, -0.6], [-0.6, 1.0]],
  ]
)
LOG_NORMALIZER = 1.5


def make_mixture(dtype=tf.float64):
  return mixture.from_arrays(SHARES, CENTERS, COVARIANCES, dtype)


def target_log_prob(x):
  """The mixture's log density, written with TFP, times a constant."""
  distribution = tfd.MixtureSameFamily(
    tfd.Categorical(probs=tf.constant(SHARES, x.dtype)),
    tfd.MultivariateNormalTriL(
      tf.constant(CENTERS, x.dtype),
      tf.constant(np.linalg.cholesky(COVARIANCES), x.dtype),
    ),
  )
  return distribution.log_prob(x) + LOG_NORMALIZER


@pytest.fixture(scope='module')
def target_space():
  initial = tfd.MultivariateNormalDiag(tf.zeros(2), tf.fill([2], 5.0))
  return space.VectorSpace(target_log_prob, initial, None, [0, 1])


def test_density():
  y = 5.0 * np.random.default_rng(0).normal(size=[50, 2])
  found = mixture.log_prob(make_mixture(), tf.constant(y))
  expected = target_log_prob(tf.constant(y)) - LOG_NORMALIZER
  np.testing.assert_allclose(found, expected, atol=1e-10)


def test_each_run_has_its_share_of_each_component():
  num_draws, num_runs = 101, 200
  y = mixture.draw(make_mixture(), num_draws, num_runs, [1, 2])
  # The components do not overlap.
  nearest = mixture.nearest_center(make_mixture(), y).numpy()
  counts = np.stack(
    [
      (nearest == center).all(axis=1).reshape([num_draws, num_runs]).sum(axis=0)
      for center in CENTERS
    ],
    axis=1,
  )
  expected = num_draws * SHARES
  assert np.all(np.abs(counts - expected) < 2.0)
  # The variance of a number that is rounded up or down is a quarter at most.
  error = 0.5 / np.sqrt(num_runs)
  np.testing.assert_allclose(counts.mean(axis=0), expected, atol=5.0 * error)
  # Both halves of a run have all components, as fits are judged by halves.
  is_third = (nearest == CENTERS[2]).all(axis=1).reshape([num_draws, num_runs])
  assert np.all(np.abs(is_third[:50].mean(axis=0) - 0.3) < 0.3)
  for i, center in enumerate(CENTERS):
    own = y.numpy()[(nearest == center).all(axis=1)]
    scale = np.sqrt(np.diag(COVARIANCES[i]) / len(own))
    assert np.all(np.abs(own.mean(axis=0) - center) < 5.0 * scale)
    # Relative errors of variances are sqrt(2 / n), of covariances no larger.
    tolerance = 5.0 * np.sqrt(2.0 / len(own)) * np.max(COVARIANCES[i])
    np.testing.assert_allclose(np.cov(own.T), COVARIANCES[i], atol=tolerance)


def test_modes_are_found(target_space):
  def draw(i):
    return target_space.sample_initial(64, [2, i]).numpy()

  found, about = mixture.find_mixture(target_space, draw(0), draw)
  assert about['num_modes'] == 3 and about['least_count'] >= 4
  # In the standardized space, where deviations are a fifth.
  order = np.argsort(found.centers.numpy()[:, 0])
  np.testing.assert_allclose(
    found.centers.numpy()[order], CENTERS / 5.0, atol=1e-3
  )
  # Wider, so that 95% of draws are effective: 2 x^2 / 2 = 0.05.
  roots = found.roots.numpy()[order]
  np.testing.assert_allclose(
    roots @ roots.transpose(0, 2, 1),
    (1.0 + np.sqrt(0.05)) * COVARIANCES / 25.0,
    rtol=0.02,
    atol=1e-4,
  )
  # Shares are those of mass, not of height.
  shares = np.exp(found.log_shares.numpy()[order])
  np.testing.assert_allclose(shares, SHARES, atol=0.01)


def test_more_starts_until_each_mode_was_found_often(target_space):
  """Starts at one mode find that one; later ones find the others."""
  places = (CENTERS / 5.0).astype(np.float32)
  calls = []

  def draw(i):
    calls.append(i)
    return places[:1] if i < 6 else places

  found, about = mixture.find_mixture(target_space, places[:1], draw)
  # After five starts at the same mode there is no more to look for.
  assert calls == [1, 2, 3, 4] and about['num_modes'] == 1
  calls.clear()
  found, about = mixture.find_mixture(target_space, places, draw)
  # Until four starts have led to the other two.
  assert calls == list(range(1, 9)) and about['num_modes'] == 3
  assert about['least_count'] == 4 and about['num_starts'] == 3 + 5 + 9
  assert found.centers.shape == [3, 2]


def test_a_density_without_modes_is_none():
  """Along the neck of a funnel the density grows without bound."""
  known = posteriors.neals_funnel(10)
  vectors = space.VectorSpace(known.target, known.initial, None, [0, 1])
  starts = vectors.sample_initial(64, [2, 3]).numpy()
  found, about = mixture.find_mixture(vectors, starts, lambda i: starts)
  assert found is None and about['num_starts'] == 64


def test_too_many_modes_are_none():
  known = posteriors.many_well(7)
  vectors = space.VectorSpace(known.target, known.initial, None, [0, 1])

  def draw(i):
    return vectors.sample_initial(64, [2, i]).numpy()

  found, about = mixture.find_mixture(vectors, draw(0), draw)
  assert found is None and about['num_modes'] > mixture.MAX_COMPONENTS


def test_modes_of_no_evidence_do_not_count():
  """Two modes, and 81 more of e-18 of their mass on a lattice."""
  axis = 4.0 * np.arange(-4, 5)
  lattice = np.stack(np.meshgrid(axis, axis), axis=-1).reshape([-1, 2])
  places = np.concatenate([[[-2.0, -2.0], [2.0, 2.0]], lattice])
  log_shares = np.where(np.arange(len(places)) < 2, 0.0, -18.0)
  target = tfd.MixtureSameFamily(
    tfd.Categorical(logits=log_shares.astype(np.float32)),
    tfd.MultivariateNormalDiag(
      places.astype(np.float32), tf.fill([len(places), 2], 0.25)
    ),
  )
  initial = tfd.Sample(tfd.Normal(0.0, 8.0), 2)
  vectors = space.VectorSpace(target, initial, None, [0, 1])

  def draw(i):
    return vectors.sample_initial(64, [2, i]).numpy()

  found, about = mixture.find_mixture(vectors, draw(0), draw)
  assert about['num_modes'] == 2
  centers = vectors.to_user(tf.constant(found.centers)).numpy()
  np.testing.assert_allclose(
    centers[np.argsort(centers[:, 0])], places[:2], atol=0.05
  )


def test_other_points_of_the_same_components():
  start = make_mixture()
  seed = randomness.as_seed(5)
  first, again, other = (
    mixture.draw(start, 200, 2, seed, index) for index in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  # Components are far apart.
  centers = mixture.nearest_center(start, first)
  np.testing.assert_array_equal(centers, mixture.nearest_center(start, other))
  # The correlation of 400 independent pairs has a standard error of 0.05.
  residuals = [(x - centers).numpy()[:, 0] for x in (first, other)]
  assert abs(np.corrcoef(*residuals)[0, 1]) < 0.2


def wrong_mixture():
  """Shares, centers and scales that are all off, in the standardized space."""
  return mixture.from_arrays(
    np.array([0.5, 0.2, 0.3]),
    CENTERS / 5.0 + 0.05,
    1.3 * COVARIANCES / 25.0,
    tf.float32,
  )


def log_evidences_of_runs(target_space, start, num_runs=40):
  mover = moves.Moves(target_space, False)
  u = mixture.draw(start, 500, 1, [3, 4])
  schedule, _ = pilot.run_pilot(mover, start, u, [5, 6])

  def draw(index):
    return mixture.draw(start, 500, num_runs, [7, 8], index)

  population, *_ = frozen.run_frozen(
    mover, start, draw, schedule, num_runs, [9, 0]
  )
  return weighting.log_normalizer(population.log_weights).numpy()


def test_runs_from_a_wrong_mixture_are_unbiased(target_space, monkeypatch):
  def deviation():
    ratios = np.exp(
      log_evidences_of_runs(target_space, wrong_mixture()) - LOG_NORMALIZER
    )
    error = np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    return abs(np.mean(ratios) - 1.0) / error

  assert deviation() < 5.0
  # Mutation: components that all count the same, whatever they drew.
  log_prob = mixture.log_prob
  monkeypatch.setattr(
    mixture,
    'log_prob',
    lambda start, y: log_prob(
      start._replace(log_shares=tf.zeros_like(start.log_shares) - np.log(3.0)),
      y,
    ),
  )
  assert deviation() > 5.0


def test_shares_are_fitted():
  start = make_mixture()
  wrong = start._replace(
    log_shares=tf.math.log(tf.constant([0.6, 0.2, 0.2], tf.float64))
  )
  y = mixture.draw(start, 2_000, 1, [1, 2]).numpy()
  weights = np.full(len(y), 1.0 / len(y))
  found, gain = mixture.fit_to_particles(wrong, y, weights)
  assert gain > 0.02
  error = np.sqrt(0.25 / len(y))
  np.testing.assert_allclose(np.exp(found.log_shares), SHARES, atol=5.0 * error)
  same, gain = mixture.fit_to_particles(start, y, weights)
  assert gain == 0.0 and same is start


def test_scales_are_fitted():
  start = make_mixture()
  narrow = mixture.from_arrays(SHARES, CENTERS, 0.5 * COVARIANCES, tf.float64)
  y = mixture.draw(start, 4_000, 1, [1, 2]).numpy()
  found, gain = mixture.fit_to_particles(narrow, y, np.full(len(y), 1 / len(y)))
  assert gain > 0.1
  np.testing.assert_allclose(
    np.exp(2.0 * (found.log_dets - start.log_dets)), np.ones(3), atol=0.3
  )


@pytest.mark.parametrize('size', [2, 20])
def test_heavy_tails_have_components(size):
  """Two multivariate Student t densities with four degrees of freedom."""
  rng = np.random.default_rng(6)

  def draw():
    sign = rng.choice([-8.0, 8.0], size=[4_000, 1])
    scale = np.sqrt(4.0 / rng.chisquare(4.0, size=[4_000, 1]))
    return sign + scale * rng.normal(size=[4_000, size])

  centers = np.full([2, size], 8.0) * [[-1.0], [1.0]]
  start = mixture.from_arrays(
    np.array([0.5, 0.5]), centers, np.stack([np.eye(size)] * 2), tf.float64
  )
  weights = np.full(4_000, 1.0 / 4_000)
  y, new = draw(), draw()
  found, gain = mixture.fit_to_particles(start, y, weights)
  assert found.centers.shape == [4, size]
  # The normal mixture with the moments of the density, whose variance is
  # 4 / (4 - 2), is worse on points that neither was fitted to.
  wide = mixture.from_arrays(
    np.array([0.5, 0.5]),
    centers,
    2.0 * np.stack([np.eye(size)] * 2),
    tf.float64,
  )
  difference = mixture.log_prob(found, new) - mixture.log_prob(wide, new)
  error = np.std(difference) / np.sqrt(4_000)
  assert gain > 0.0 and np.mean(difference) > 5.0 * error
  # Where there are no tails, there are no copies.
  normal = centers[rng.integers(2, size=4_000)] + rng.normal(size=[4_000, size])
  found, _ = mixture.fit_to_particles(start, normal, weights)
  assert found.centers.shape == [2, size]


@pytest.fixture(scope='module')
def curved():
  known = posteriors.curved_modes(5, 3)
  posterior = fit_posterior(known.target, known.initial, seed=1, progress=False)
  return known, posterior


@pytest.mark.slow
def test_modes_that_are_no_gaussians(curved):
  known, posterior = curved
  assert posterior.start == 'reference'
  assert '3 modes' in posterior.reason
  # Student's t with 7 degrees of freedom: a false alarm in a thousand.
  assert abs(posterior.log_evidence) < 5.4 * posterior.log_evidence_error
  shares = posterior.expectation(
    lambda x: tf.one_hot(known.mode_index_fn(x), 3)
  )
  # From 4,000 particles that are worth a thousand independent ones or more.
  np.testing.assert_allclose(shares, known.mode_probabilities, atol=0.08)


@pytest.mark.slow
def test_sampler_to_use_again(curved):
  _, posterior = curved
  particles = posterior.sampler.sample(4_000, seed=2)
  error = 5.0 * float(particles.log_normalizer_error)
  assert abs(float(particles.log_normalizer)) < error + 0.01
  x = posterior.reference.sample(10, seed=[1, 2])
  assert np.all(np.isfinite(posterior.reference.log_prob(x)))


def test_masses_of_the_target():
  """The components of `curved_modes` integrate to their masses."""
  known = posteriors.curved_modes(2, 2)
  axis = np.linspace(-60.0, 60.0, 1_201)
  x = np.stack(np.meshgrid(axis, axis, indexing='ij'), axis=-1)
  points = tf.constant(x.reshape([-1, 2]), tf.float32)
  density = np.exp(known.target(points)) * (axis[1] - axis[0]) ** 2
  index = known.mode_index_fn(points).numpy()
  masses = [density[index == i].sum() for i in range(2)]
  # Heavy tails leave a share outside, and in the other's place.
  np.testing.assert_allclose(masses, known.mode_probabilities, atol=0.01)


def test_seed_decides_all(target_space):
  start = wrong_mixture()
  first, second = (
    mixture.draw(start, 10, 2, randomness.as_seed(3)) for _ in range(2)
  )
  np.testing.assert_array_equal(first, second)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""References in more dimensions than particles say much about.

Seeds are fixed. Unless they say something else, tests allow five standard
errors: a false alarm in 10^6 if the estimates are normal.
"""

import types

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import (
  candidates,
  drivers,
  fit_posterior,
  laplace,
  moves,
  pilot,
  reference,
  space,
  stages,
  variational,
)
from tfp_nvi.targets import posteriors

tfd = tfp.distributions

SEED = tf.constant([3, 4])


def gaussian(size):
  """A mean, and a covariance with a condition number of a thousand or so."""
  rng = np.random.default_rng(1)
  root = rng.normal(size=[size, size]) / np.sqrt(size)
  return rng.normal(size=size), root @ root.T + 0.01 * np.eye(size)


def test_curvature_of_a_gaussian():
  """Newton's method and differences of gradients are exact there."""
  mean, covariance = gaussian(60)
  precision = np.linalg.inv(covariance)

  def evaluate(points):
    centered = points - mean
    gradient = -centered @ precision
    return 0.5 * np.sum(gradient * centered, axis=1), gradient

  mode, root = laplace.fit_gaussian(evaluate, np.zeros(60), np.ones(60))
  np.testing.assert_allclose(mode, mean, atol=1e-6)
  np.testing.assert_allclose(root @ root.T, covariance, atol=1e-6)
  assert np.array_equal(root, np.tril(root))
  # One step, and one that finds that there is nothing left, of 121 gradients
  # each and a few densities.
  assert laplace.fit_gaussian(evaluate, np.zeros(60), np.ones(60), 100) is None


def test_a_density_without_a_maximum_has_no_curvature():
  def evaluate(points):
    return np.sum(points, axis=1), np.ones_like(points)

  assert laplace.fit_gaussian(evaluate, np.zeros(3), np.ones(3)) is None


def test_refinement_of_skewed_densities():
  """The best Gaussians for logarithms of gamma variables are known.

  Where `log p(x) = a x - exp(x)`, the evidence lower bound of a Gaussian of
  mean m and deviation s is `a m - exp(m + s^2 / 2) + log s` and a constant,
  which is largest for `s^2 = 1 / a` and `m = log a - 1 / (2 a)`. The mode is
  `log a`, with the same curvature.
  """
  shape = np.array([0.5, 1.0, 2.0, 4.0])
  vectors = types.SimpleNamespace(
    dtype=tf.float64,
    num_values=4,
    log_probs=lambda x: (tf.reduce_sum(shape * x - tf.exp(x), axis=1), None),
  )
  # A wrong scale is corrected too.
  start = reference.from_affine(
    np.log(shape), np.diag(1.5 / np.sqrt(shape)), tf.float64
  )
  found, num_evaluations = variational.refine(vectors, start, SEED)
  assert num_evaluations == 32 * 400
  deviations = np.diag(found.matrix)
  # Adam's last steps are of length 0.003, and fall into noise of ten of these.
  # At the mode, means are off by 0.25 and more, and the scales given by 0.4.
  np.testing.assert_allclose(
    (found.center - np.log(shape) + 0.5 / shape) * np.sqrt(shape), 0.0, atol=0.1
  )
  np.testing.assert_allclose(np.log(deviations * np.sqrt(shape)), 0, atol=0.1)


def pilot_at(start, num):
  """A pilot of equally weighted particles at draws of its reference."""
  size = start.center.shape[0]
  rng = np.random.default_rng(2)
  population = pilot.Population(
    tf.constant(rng.normal(size=[num, size])),
    None,
    tf.zeros([num, 1], tf.float64),
    tf.range(num)[:, tf.newaxis],
  )
  return candidates.Pilot('pilot', 'reference', None, start, None, population)


def test_divergence_of_a_fit():
  """Against the closed form for two normal densities."""
  size, num = 5, 4_000
  mean, covariance = gaussian(size)
  start = reference.from_affine(np.ones(size), 2.0 * np.ones(size), tf.float64)
  fit = reference.from_affine(mean, np.linalg.cholesky(covariance), tf.float64)
  first = tfd.MultivariateNormalTriL(mean, np.linalg.cholesky(covariance))
  second = tfd.MultivariateNormalDiag(np.ones(size), 2.0 * np.ones(size))
  divergence, noise = candidates.divergence_of_fit(
    fit, pilot_at(start, num), SEED
  )
  draws = first.sample(num, seed=[5, 6])
  log_ratio = first.log_prob(draws) - second.log_prob(draws)
  np.testing.assert_allclose(
    divergence,
    first.kl_divergence(second),
    atol=5.0 * np.std(log_ratio) / np.sqrt(num),
  )
  np.testing.assert_allclose(noise, 2.0 * size / num)


def test_a_fit_to_draws_of_the_same_reference_is_within_the_noise():
  size, num = 100, 1_000
  mean, covariance = gaussian(size)
  start = reference.from_affine(
    mean, np.linalg.cholesky(covariance), tf.float64
  )
  source = pilot_at(start, num)
  fit, _ = reference.fit_to_particles(
    start, *source.weighted_points, tf.float64
  )
  divergence, noise = candidates.divergence_of_fit(fit, source, SEED)
  # Half of the noise, with a deviation of sqrt(size) / num for the squares of
  # means and of variances, and that of the log ratios of as many draws.
  error = np.hypot(np.sqrt(size) / num, np.sqrt(noise / num))
  np.testing.assert_allclose(divergence, 0.5 * noise, atol=5.0 * error)
  shifted = source._replace(
    reference=start._replace(center=start.center + 2.0 * start.matrix[:, 0])
  )
  # Another reference, two of its deviations away: half of the square of that.
  divergence, _ = candidates.divergence_of_fit(fit, shifted, SEED)
  np.testing.assert_allclose(divergence, 2.0, atol=0.5)


@pytest.mark.parametrize(
  'num_stages, rate, last, is_hopeless',
  [
    # 200 evaluations, and 200 or 266 more until temperature 0.75.
    (20, 0.1, -2.0, False),
    (20, 0.075, -2.0, True),
    # Less than half of the evaluations are used up.
    (14, 0.01, -2.0, False),
    (31, 1.0, -2.0, True),
    # Near the end there are twice as many.
    (31, 0.1, 0.1, False),
    (62, 0.1, 0.1, True),
  ],
)
def test_pilots_that_will_not_be_done_give_up(
  num_stages, rate, last, is_hopeless
):
  """By a path whose log temperatures grow at a rate, to where `last` says."""
  log_betas = np.log(0.75) + last - rate * np.arange(num_stages)[::-1]
  path = [
    pilot.Stage(float(np.exp(x)), None, 1.0, 10, 1, 0.8, 0.0, 1.0)
    for x in log_betas
  ]
  assert pilot.is_late(path, 10 * num_stages, 300) == is_hopeless


def test_a_pilot_that_has_arrived_does_not_give_up():
  size = 2
  vectors = space.VectorSpace(
    lambda x: -0.5 * tf.reduce_sum(x**2, axis=-1) - x[..., 0],
    tfd.MultivariateNormalDiag(tf.zeros(size), 3.0 * tf.ones(size)),
    None,
    SEED,
  )
  start = reference.from_affine(np.zeros(size), np.eye(size), tf.float32)
  u = tf.random.stateless_normal([500, size], SEED)

  def run(max_evaluations):
    own = moves.Moves(vectors, False, False)
    found, _ = pilot.run_pilot(
      own, start, u, SEED, max_evaluations=max_evaluations
    )
    return found.is_complete, own.num_evaluations

  is_complete, needed = run(None)
  assert is_complete
  assert run(needed - 1) == (True, needed)
  assert not run(1)[0]


def test_particles_that_a_fitted_reference_lacks():
  rng = np.random.default_rng(6)
  places = np.array([[-4.0, 0.0], [4.0, 0.0], [4.0, 1.0]])

  def pilot_of(share):
    y = rng.normal(size=[1_000, 2])
    y[:, 0] += np.where(np.arange(1_000) < 1_000 * share, 4.0, -4.0)
    return types.SimpleNamespace(weighted_points=(y, np.full(1_000, 1e-3)))

  broad = pilot_of(0.3)
  assert candidates.largest_loss(broad, pilot_of(0.25), places) == 0.0
  # A point of a mode is beyond the midway plane at four deviations.
  np.testing.assert_allclose(
    candidates.largest_loss(broad, pilot_of(0.0), places), 0.3, atol=0.002
  )
  np.testing.assert_allclose(
    candidates.largest_loss(broad, pilot_of(1.0), places), 0.7, atol=0.002
  )


@pytest.mark.parametrize('size', [2, 100])
def test_share_of_particles_that_are_farther_out(size):
  """A tenth in another mode, of which the others know nothing."""
  rng = np.random.default_rng(8)
  num = 1_000
  weights = np.full(num, 1.0 / num)
  others, points = rng.normal(size=[2, num, size])
  share = candidates.share_outside(points, weights, others, weights)
  # 0.005 of each are far out, known by 500 and 1,000.
  error = np.sqrt(0.005 * (1 / 500 + 1 / 1_000))
  assert share < 5.0 * error
  # Farther away by six deviations more than distances differ by.
  points[:100, 0] += np.sqrt(12.0 * np.sqrt(2.0 * size) + 12.0)
  share = candidates.share_outside(points, weights, others, weights)
  np.testing.assert_allclose(share, 0.1, atol=0.02)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_modes_seven_deviations_apart(seed):
  """Particles are farther from their modes than a valley is deep."""
  size = 20
  ends = np.zeros([2, size], np.float32)
  ends[:, 0] = -3.5, 3.5
  target = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.9, 0.1]),
    tfd.MultivariateNormalDiag(ends, tf.ones(size)),
  )
  posterior = fit_posterior(
    target,
    tfd.MultivariateNormalDiag(tf.zeros(size), 5.0 * tf.ones(size)),
    seed=seed,
    progress=False,
  )
  # Errors are 0.004 with a mixture at both modes, and 0.01 to 0.1 without.
  assert posterior.log_evidence_error < 0.008
  assert abs(posterior.log_evidence) < 5.4 * posterior.log_evidence_error
  share = float(
    posterior.expectation(lambda x: tf.cast(x[..., 0] > 0, x.dtype))
  )
  np.testing.assert_allclose(share, 0.1, atol=0.02)


@pytest.mark.parametrize('has_driver', [True, False])
def test_drivers_without_correlations(has_driver):
  """The log deviation of all others, by a diagonal matrix."""
  size, num = 200, 1_000
  rng = np.random.default_rng(3)
  y = rng.normal(size=[num, size])
  if has_driver:
    others = np.arange(size) != 7
    y[:, others] *= np.exp(0.5 * y[:, 7:8])
  found, about = reference.fit_to_particles(
    reference.from_affine(np.zeros(size), np.ones(size), tf.float64),
    y,
    np.full(num, 1.0 / num),
    tf.float64,
  )
  assert about['drivers'] == ([7] if has_driver else [])
  assert found.matrix.shape.rank == 1


@pytest.mark.parametrize('deviation', [0.0, 0.04])
def test_a_driver_of_which_each_coordinate_says_little(deviation):
  """A hierarchy has 600 effects, and their deviation is known to 4%."""
  size, num = 601, 1_000
  rng = np.random.default_rng(3)
  y = rng.normal(size=[num, size])
  others = np.arange(size) != 7
  y[:, others] *= np.exp(deviation * y[:, 7:8])
  found = drivers.find_drivers(
    y - np.mean(y, axis=0), np.var(y, axis=0), np.full(num, 1.0 / num)
  )
  assert found == ([7] if deviation else [])


def test_correlations_by_axes():
  """In 150 dimensions a thousand draws say little of so many correlations."""
  size, num = 150, 1_000
  rng = np.random.default_rng(5)
  axes = np.linalg.qr(rng.normal(size=[size, size]))[0]
  root = axes * np.geomspace(0.01, 1.0, size)
  y = 1.0 + rng.normal(size=[num, size]) @ root.T
  source = types.SimpleNamespace(weighted_points=(y, np.full(num, 1.0 / num)))
  fitter = stages.Fitter(
    types.SimpleNamespace(dtype=tf.float64, num_values=size),
    num,
    0.9,
    True,
    bar=None,
  )
  # The axes of a curvature, in other units than the deviations.
  found = fitter.whiten(
    source, reference.from_affine(np.zeros(size), 0.5 * root, tf.float64)
  )
  # Errors of means and of variances make a divergence of half of this each.
  expected = size / num
  true = scipy.stats.multivariate_normal(np.ones(size), root @ root.T)
  fitted = scipy.stats.multivariate_normal(
    found.center.numpy(), found.matrix.numpy() @ found.matrix.numpy().T
  )
  draws = true.rvs(2_000, random_state=1)
  divergence = np.mean(true.logpdf(draws) - fitted.logpdf(draws))
  assert divergence < 3.0 * expected


def weights_of_reference(posterior, target):
  draws, log_prob = posterior.reference.experimental_sample_and_log_prob(
    2_000, seed=SEED
  )
  log_weights = target.unnormalized_log_prob(draws) - log_prob
  weights = np.exp(log_weights - np.max(log_weights))
  return weights / np.sum(weights)


def test_correlations_of_150_coordinates():
  """A Gaussian posterior, for which the reference is to be exact."""
  size, num = 150, 100
  rng = np.random.default_rng(4)
  features = rng.normal(size=[num, size]).astype('float32')
  y = (features @ rng.normal(size=size) + rng.normal(size=num)).astype(
    'float32'
  )
  model = tfd.JointDistributionNamed(
    {
      'w': tfd.Sample(tfd.Normal(0.0, 1.0), size),
      'y': lambda w: tfd.Independent(
        tfd.Normal(tf.linalg.matvec(features, w), 1.0), 1
      ),
    }
  )
  target = model.experimental_pin(y=y)
  posterior = fit_posterior(
    target, num_particles=250, num_runs=8, seed=1, progress=False
  )
  [stage] = [x for x in posterior.history if x['name'] == 'curvature']
  assert stage['is_taken']
  covariance = features.astype(float) @ features.T + np.eye(num)
  exact = scipy.stats.multivariate_normal.logpdf(y, np.zeros(num), covariance)
  # Student's t with 7 degrees of freedom: a false alarm in a thousand. Sums of
  # a hundred squares in single precision add 0.001.
  assert abs(posterior.log_evidence - exact) < (
    5.4 * posterior.log_evidence_error + 0.001
  )
  # Draws from a diagonal reference have none of a hundred that is effective.
  # This one has errors of means and scales of a few percent.
  assert 1.0 / np.sum(weights_of_reference(posterior, target) ** 2) > 1_000.0


def test_a_hierarchy_of_150_groups():
  known = posteriors.hierarchy(150)
  posterior = fit_posterior(known.target, seed=1, progress=False)
  assert abs(posterior.log_evidence - known.log_evidence) < (
    5.4 * posterior.log_evidence_error + 0.001
  )
  # 0.1 and more by a diagonal reference.
  assert posterior.log_evidence_error < 0.02


def test_evidence_of_a_hierarchy():
  """Against the mean likelihood of draws from the prior."""
  known = posteriors.hierarchy(2)
  _, log_weights = known.target.sample_and_log_weight(400_000, seed=SEED)
  ratio = np.exp(np.asarray(log_weights, float) - known.log_evidence)
  error = np.std(ratio) / np.sqrt(len(ratio))
  assert error < 0.01
  assert abs(np.mean(ratio) - 1.0) < 5.0 * error

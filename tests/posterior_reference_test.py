# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""References fitted to particles, against the densities that these are from.

Seeds are fixed. Unless they say something else, tests allow five standard
errors: a false alarm in 10^6 if the estimates are normal.
"""

import numpy as np
import scipy.stats
import tensorflow as tf

from tfp_nvi.posterior import fit_posterior, reference, space, variational
from tfp_nvi.targets import posteriors

NUM_POINTS = 4_000


def fit(y, dtype=tf.float64):
  """A reference fitted to equally weighted points, and what it has found."""
  size = y.shape[1]
  return reference.fit_to_particles(
    reference.from_affine(np.zeros(size), np.eye(size), dtype),
    y,
    np.full(len(y), 1.0 / len(y)),
    dtype,
  )


def funnel_draws(rng, num):
  """Draws from a funnel whose third coordinate is the log variance."""
  v = 3.0 * rng.normal(size=[num, 1])
  x = np.exp(0.5 * v) * rng.normal(size=[num, 3])
  return np.concatenate([x[:, :2], v, x[:, 2:]], axis=1)


class TwoModes:
  """Two normal densities of deviation 0.2 and masses 0.3 and 0.7."""

  SHARES, PLACES, DEVIATION = np.array([0.3, 0.7]), np.array([-2.0, 1.0]), 0.2

  def draw(self, rng, num):
    places = rng.choice(self.PLACES, num, p=self.SHARES)
    return places + self.DEVIATION * rng.normal(size=num)

  def cdf(self, x):
    z = (x[:, np.newaxis] - self.PLACES) / self.DEVIATION
    return scipy.stats.norm.cdf(z) @ self.SHARES


def assert_is_a_bijection(found, rng, size):
  u = tf.constant(rng.normal(size=[5, size]))
  with tf.GradientTape() as tape:
    tape.watch(u)
    y, log_det = reference.forward(found, u)
  jacobian = tape.batch_jacobian(y, u)
  np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
  np.testing.assert_allclose(reference.inverse(found, y), u, atol=1e-8)


def test_a_funnel():
  rng = np.random.default_rng(4)
  found, shape = fit(funnel_draws(rng, NUM_POINTS))
  assert shape['drivers'] == [2]
  assert_is_a_bijection(found, rng, 4)
  # The log deviation changes by a half a unit of v. The information of 4,000
  # draws about a slope of 3 / 2, by a normalized v, is 2 a draw: a standard
  # error of 0.011.
  unit = found.matrix.numpy()[2, 2] / found.drivers.numpy()[2, 0]
  slopes = found.slopes.numpy()[0] / unit
  np.testing.assert_allclose(np.delete(slopes, 2), 0.5, atol=0.02)
  # The driver is wider than it was found to be, by a standard error of 1.2%.
  np.testing.assert_allclose(unit, 3.0, rtol=0.06)
  np.testing.assert_allclose(found.matrix[2, 2], 1.3 * unit, rtol=1e-6)


def test_two_modes_of_a_coordinate():
  rng = np.random.default_rng(6)
  density = TwoModes()
  y = np.stack([rng.normal(size=NUM_POINTS), density.draw(rng, NUM_POINTS)], 1)
  found, shape = fit(y)
  assert shape['marginals'] == [1]
  assert_is_a_bijection(found, rng, 2)
  quantiles = np.linspace(0.02, 0.98, 49)
  u = scipy.stats.norm.ppf(quantiles)
  mapped, _ = reference.forward(
    found, tf.constant(np.stack([np.zeros_like(u), u], 1))
  )
  # A standard error of 0.008 at the median, and the kernel's bias.
  errors = density.cdf(mapped.numpy()[:, 1]) - quantiles
  assert np.max(np.abs(errors)) < 0.04
  # A normal density of the same mean and deviation is far from that.
  normal = density.cdf(np.mean(y[:, 1]) + np.std(y[:, 1]) * u)
  assert np.max(np.abs(normal - quantiles)) > 0.12


def test_an_empty_valley_in_single_precision():
  rng = np.random.default_rng(9)
  y = 0.01 * rng.normal(size=[100_000, 1]) + rng.choice(
    [-1.0, 1.0], [100_000, 1]
  )
  found, shape = fit(y, tf.float32)
  assert shape['marginals'] == [0]
  # Many times the distance of numbers near 10, where these knots are summed.
  assert np.min(found.marginals.bin_widths) > 5.0 * np.spacing(np.float32(10.0))
  u = tf.linspace(-12.0, 12.0, 10_001)[:, tf.newaxis]
  mapped, log_det = reference.forward(found, u)
  assert np.all(np.diff(mapped[:, 0]) >= 0.0)
  assert np.all(np.isfinite(log_det))
  # There, hundreds of units are one of the normal density.
  y = tf.linspace(-3.0, 3.0, 10_001)[:, tf.newaxis]
  u = reference.inverse(found, y)
  assert np.all(np.diff(u[:, 0]) >= 0.0) and np.all(np.isfinite(u))
  again, _ = reference.forward(found, u)
  np.testing.assert_allclose(again, y, atol=3e-3)


def test_starts_get_to_modes_that_are_far_away():
  """Forty modes in fifty dimensions, a hundred of their deviations apart."""
  known = posteriors.forty_gaussians(50)
  vectors = space.VectorSpace(known.target, known.initial, None, [0, 1])
  *_, has_valleys = variational.fit_variational(vectors, [0, 2])
  assert has_valleys


def test_one_mode_has_no_valleys():
  known = posteriors.neals_funnel(4)
  vectors = space.VectorSpace(known.target, known.initial, None, [0, 1])
  *_, has_valleys = variational.fit_variational(vectors, [0, 2])
  assert not has_valleys


def test_normal_coordinates_have_no_splines():
  rng = np.random.default_rng(7)
  mix = np.array([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-0.5, 0.2, 2.0]])
  found, shape = fit(rng.normal(size=[NUM_POINTS, 3]) @ mix.T)
  assert shape['marginals'] == [] and shape['drivers'] == []
  assert found.marginals is None


def test_many_wells_at_once():
  """128 modes, by their marginals: more than a mixture would have."""
  known = posteriors.many_well(7)
  posterior = fit_posterior(known.target, known.initial, seed=1, progress=False)
  assert posterior.start == 'reference'
  assert any(
    stage.get('marginals') == [0, 2, 4, 6, 8, 10, 12]
    for stage in posterior.history
  )
  error = posterior.log_evidence - known.log_evidence
  # Student's t with 7 degrees of freedom: a false alarm in a thousand.
  assert abs(error) < 5.4 * posterior.log_evidence_error
  # Runs from the prior have ten times as much.
  assert posterior.log_evidence_error < 0.02


def test_shrinkage_of_covariances():
  rng = np.random.default_rng(5)
  weights = np.full(60, 1.0 / 60)
  x = rng.normal(size=[60, 40])
  _, root = reference.square_root(x, weights, True)
  sample = np.cov(x.T, bias=True)
  # Nothing is correlated: shrinking takes most of the error away.
  error = np.linalg.norm(root @ root.T - np.diag(np.diag(sample)))
  assert error < 0.3 * np.linalg.norm(sample - np.diag(np.diag(sample)))
  # With many draws of what is correlated it hardly shrinks.
  mix = np.array([[1.0, 0.0], [0.9, 0.3]])
  x = rng.normal(size=[20_000, 2]) @ mix.T
  _, root = reference.square_root(x, np.full(20_000, 1.0 / 20_000), True)
  np.testing.assert_allclose(root @ root.T, mix @ mix.T, atol=0.05)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Conditional maps and Laplace's method, against closed forms.

Seeds are fixed. Unless they say something else, tests allow five standard
errors: a false alarm in 10^6 if the estimates are normal.
"""

import types

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.posterior import (
  conditional,
  drivers,
  fit_posterior,
  laplace,
  marginals,
  radial,
  reference,
  stages,
)

tfd = tfp.distributions

NUM_DRAWS = 4_000


def make_conditional(rng, size, drivers, num_nodes):
  """A map with values at nodes that were drawn, and the values."""
  num_drivers = len(drivers)
  rest = [i for i in range(size) if i not in drivers]
  num = num_nodes**num_drivers
  loc = rng.normal(size=[num, len(rest)])
  log_scale = 0.5 * rng.normal(size=[num, len(rest)])
  lower = np.tril(rng.normal(size=[num, len(rest), len(rest)]), -1)
  root = np.tril(rng.normal(size=[num_drivers] * 2), -1) + np.eye(num_drivers)
  center = rng.normal(size=num_drivers)
  values = loc, log_scale, lower
  made = conditional.interpolate(
    drivers + rest, center, np.linalg.inv(root), values, num_nodes, tf.float64
  )
  nodes = center + conditional.unit_nodes(num_nodes, num_drivers) @ root.T
  return made, nodes, values


CASES = [(4, [2], 5), (5, [3, 0], 3)]


@pytest.mark.parametrize('size, drivers, num_nodes', CASES)
def test_the_map_has_the_given_values_at_nodes(size, drivers, num_nodes):
  rng = np.random.default_rng(1)
  made, nodes, (loc, log_scale, lower) = make_conditional(
    rng, size, drivers, num_nodes
  )
  assert conditional.drivers(made) == drivers
  rest = [i for i in range(size) if i not in drivers]
  v = rng.normal(size=[len(nodes), size])
  v[:, drivers] = nodes
  y, log_det = conditional.forward(made, tf.constant(v))
  expected = v.copy()
  expected[:, rest] = loc + np.einsum(
    'nij,nj->ni', lower + np.eye(len(rest)), np.exp(log_scale) * v[:, rest]
  )
  np.testing.assert_allclose(y, expected, atol=1e-9)
  np.testing.assert_allclose(log_det, np.sum(log_scale, axis=1), atol=1e-9)


@pytest.mark.parametrize('size, drivers, num_nodes', CASES)
def test_the_map_is_a_bijection(size, drivers, num_nodes):
  rng = np.random.default_rng(2)
  made, *_ = make_conditional(rng, size, drivers, num_nodes)
  # Some of these are outside of the nodes.
  v = tf.constant(rng.normal(size=[20, size]))
  with tf.GradientTape() as tape:
    tape.watch(v)
    y, log_det = conditional.forward(made, v)
  jacobian = tape.batch_jacobian(y, v)
  np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)
  np.testing.assert_allclose(conditional.inverse(made, y), v, atol=1e-7)


def test_a_linear_map_is_linear_outside_of_the_nodes():
  """As the scales of Neal's funnel are, however far out."""
  nodes = conditional.unit_nodes(5, 1)
  slopes = np.array([0.5, -1.0])
  made = conditional.interpolate(
    [1, 0, 2],
    np.zeros(1),
    np.eye(1),
    (2.0 + nodes * slopes, nodes * slopes, np.zeros([5, 2, 2])),
    5,
    tf.float64,
  )
  driver = np.array([-4.0, -1.0, 0.3, 2.5])
  v = np.stack([np.ones(4), driver, np.full(4, -2.0)], 1)
  y, log_det = conditional.forward(made, tf.constant(v))
  expected = 2.0 + driver[:, np.newaxis] * slopes
  scales = np.exp(driver[:, np.newaxis] * slopes)
  np.testing.assert_allclose(
    np.delete(y, 1, axis=1), expected + scales * v[:, [0, 2]], atol=1e-9
  )
  np.testing.assert_allclose(log_det, driver * slopes.sum(), atol=1e-9)


def make_evaluate(log_prob_fn):
  """Log densities and gradients in double precision."""

  def evaluate(points):
    y = tf.constant(points)
    with tf.GradientTape() as tape:
      tape.watch(y)
      log_prob = log_prob_fn(y)
    return log_prob.numpy(), tape.gradient(log_prob, y).numpy()

  return evaluate


def normal(x, loc, log_scale):
  """Log densities of normal distributions."""
  z = (x - loc) * tf.exp(-log_scale)
  return -0.5 * z**2 - log_scale - 0.5 * np.log(2.0 * np.pi)


class Groups:
  """Means of groups with an unknown deviation, one observation of each.

  `v ~ N(0, 1.5^2)`, `x_i ~ N(m, e^(2 v))`, `y_i ~ N(x_i, 1)`. Coordinates are
  `x` and, in the second place, `v`.
  """

  MEAN = 0.7
  OBSERVED = np.array([0.1, 1.3, -0.4, 2.2, 0.9, 0.2])
  DRIVER = 1

  def given(self, v):
    """Conditional means and deviations of `x`, and the log mass of `v`."""
    variance = np.exp(2.0 * v)[:, np.newaxis]
    mean = (self.MEAN + variance * self.OBSERVED) / (1.0 + variance)
    deviation = np.sqrt(variance / (1.0 + variance))
    log_mass = scipy.stats.norm.logpdf(v, 0.0, 1.5) + np.sum(
      scipy.stats.norm.logpdf(
        self.OBSERVED, self.MEAN, np.sqrt(1.0 + variance)
      ),
      axis=1,
    )
    return mean, deviation, log_mass

  def log_prob(self, y):
    v = y[..., 1]
    x = tf.concat([y[..., :1], y[..., 2:]], axis=-1)
    observed = tf.constant(self.OBSERVED, y.dtype)
    scale = tf.exp(v)[..., tf.newaxis]
    return tfd.Normal(tf.zeros([], y.dtype), 1.5).log_prob(v) + tf.reduce_sum(
      tfd.Normal(tf.constant(self.MEAN, y.dtype), scale).log_prob(x)
      + tfd.Normal(x, tf.ones([], y.dtype)).log_prob(observed),
      axis=-1,
    )

  def evaluate(self, points):
    return make_evaluate(self.log_prob)(points)

  def grid(self):
    """A grid of the driver, and its density there."""
    v = np.linspace(-9.0, 6.0, 4_001)
    log_mass = self.given(v)[2]
    log_evidence = scipy.special.logsumexp(log_mass) + np.log(v[1] - v[0])
    return v, np.exp(log_mass - log_evidence), log_evidence


def fit_groups(center=0.0, scale=1.0):
  """Returns the result of Laplace's method from a rough start."""
  groups = Groups()
  size = len(groups.OBSERVED) + 1
  mean = np.full(size, groups.MEAN)
  mean[groups.DRIVER] = center
  found = laplace.fit_conditional(
    groups.evaluate,
    mean,
    scale**2 * np.eye(size),
    [groups.DRIVER],
    tf.float64,
  )
  return groups, found


# Particles that are where the driver is not, and too close together.
@pytest.mark.parametrize('center, scale', [(0.0, 1.0), (1.5, 0.3)])
def test_gaussians_given_the_driver(center, scale):
  groups, found = fit_groups(center, scale)
  v, density, _ = groups.grid()
  # Where 99.8% of the driver's mass is.
  cdf = np.cumsum(density) * (v[1] - v[0])
  v = np.interp([0.001, 0.02, 0.3, 0.7, 0.98, 0.999], cdf, v)
  mean, deviation, _ = groups.given(v)
  points = np.zeros([len(v), len(groups.OBSERVED) + 1])
  points[:, groups.DRIVER] = v
  loc, log_det = conditional.forward(found.conditional, tf.constant(points))
  # Polynomials of degree four for a sigmoid: within a tenth of a deviation.
  loc = np.delete(loc.numpy(), groups.DRIVER, axis=1)
  np.testing.assert_allclose((loc - mean) / deviation, 0.0, atol=0.1)
  np.testing.assert_allclose(
    log_det / len(groups.OBSERVED), np.log(deviation[:, 0]), atol=0.05
  )


def test_the_marginal_density_of_the_driver():
  groups, found = fit_groups(1.5, 0.3)
  v, density, _ = groups.grid()
  grid = marginals.grid()
  scale = found.root[0, 0]
  expected = scale * np.interp(found.center[0] + scale * grid, v, density)
  # A tenth of the mass is of a broad normal density, everything else is what
  # five nodes say.
  step = grid[1] - grid[0]
  distance = 0.5 * np.sum(np.abs(found.densities[0] - expected)) * step
  print('DIST', distance)
  assert distance < 0.08
  # Far out there is that share of a normal density of deviation two.
  broad = scipy.stats.norm.pdf([-7.0, 7.0], 0.0, 2.0)
  assert np.all(np.interp([-7.0, 7.0], grid, found.densities[0]) > 0.09 * broad)
  np.testing.assert_allclose(np.sum(found.densities) * step, 1.0, atol=1e-6)


def draw_importance(groups, made):
  """Log weights of draws from a reference."""
  u = tf.constant(
    np.random.default_rng(5).normal(size=[NUM_DRAWS, len(groups.OBSERVED) + 1])
  )
  y, log_det = reference.forward(made, u)
  normal = -0.5 * tf.reduce_sum(u**2 + np.log(2.0 * np.pi), axis=1)
  return (groups.log_prob(y) + log_det - normal).numpy()


def effective_share(log_weights):
  weights = np.exp(log_weights - np.max(log_weights))
  return np.sum(weights) ** 2 / np.sum(weights**2) / len(weights)


def test_importance_sampling_from_the_reference():
  groups, found = fit_groups()
  log_weights = draw_importance(
    groups, reference.from_laplace(found, tf.float64)
  )
  assert effective_share(log_weights) > 0.85
  *_, log_evidence = groups.grid()
  relative = np.exp(log_weights - log_evidence)
  error = np.std(relative) / np.sqrt(NUM_DRAWS)
  assert abs(np.mean(relative) - 1.0) < 5.0 * error
  # One Gaussian for all values of the driver is far from that.
  middle = found.conditional.loc.shape[0] // 2
  nodes = conditional.unit_nodes(middle * 2 + 1, 1)
  v = found.center + np.zeros_like(nodes)
  mean, deviation, _ = groups.given(v[:, 0])
  fixed = conditional.interpolate(
    found.conditional.order.numpy(),
    found.center,
    found.conditional.inverse_root.numpy(),
    (mean, np.log(deviation) + 0.0 * mean, 0.0 * found.conditional.lower),
    len(nodes),
    tf.float64,
  )
  log_weights = draw_importance(
    groups,
    reference.from_laplace(found._replace(conditional=fixed), tf.float64),
  )
  assert effective_share(log_weights) < 0.3


def test_wide_parts_of_a_funnel():
  """Where deviations are a hundred times those that it was started from."""

  def log_prob(y):
    v, x = y[:, 0], y[:, 1:]
    return normal(v, 0.0, np.log(3.0)) + tf.reduce_sum(
      normal(x, 0.0, 0.5 * v[:, tf.newaxis]), axis=1
    )

  found = laplace.fit_conditional(
    make_evaluate(log_prob), np.zeros(4), np.eye(4), [0], tf.float64
  )
  v = np.zeros([5, 4])
  v[:, 0] = [-20.0, -9.0, 0.0, 9.0, 20.0]
  y, log_det = conditional.forward(found.conditional, tf.constant(v))
  # All of this is linear in the driver, and exact but for rounding.
  np.testing.assert_allclose(log_det, 1.5 * v[:, 0], atol=1e-3)
  np.testing.assert_allclose(y[:, 1:] * np.exp(-0.5 * v[:, :1]), 0.0, atol=1e-3)


def test_a_ridge_that_gets_thin():
  """Given the driver, a sum is known to within any deviation."""
  size = 5

  def log_prob(y):
    v, x = y[:, 0], y[:, 1:]
    return (
      normal(v, 0.0, np.log(3.0))
      + tf.reduce_sum(normal(x, 0.0, np.float64(0.0)), axis=1)
      + normal(tf.reduce_sum(x, axis=1), 1.0, v)
    )

  found = laplace.fit_conditional(
    make_evaluate(log_prob), np.zeros(size), np.eye(size), [0], tf.float64
  )
  u = tf.constant(np.random.default_rng(2).normal(size=[NUM_DRAWS, size]))
  y, log_det = reference.forward(reference.from_laplace(found, tf.float64), u)
  log_weights = (
    log_prob(y)
    + log_det
    + 0.5 * tf.reduce_sum(u**2 + np.log(2.0 * np.pi), axis=1)
  ).numpy()
  # The sum is N(0, 4 + exp(2 v)) given v.
  v = np.linspace(-25.0, 18.0, 10_001)
  log_evidence = scipy.special.logsumexp(
    scipy.stats.norm.logpdf(v, 0.0, 3.0)
    + scipy.stats.norm.logpdf(1.0, 0.0, np.sqrt(4.0 + np.exp(2.0 * v)))
  ) + np.log(v[1] - v[0])
  relative = np.exp(log_weights - log_evidence)
  error = np.std(relative) / np.sqrt(NUM_DRAWS)
  assert abs(np.mean(relative) - 1.0) < 5.0 * error
  # Half are effective: the polynomials cannot follow the location everywhere to
  # within deviations of exp(-10).
  assert effective_share(log_weights) > 0.45


def test_two_correlated_drivers():
  """Each sets the scale of one of the other coordinates."""
  covariance = np.array([[1.0, 0.9], [0.9, 1.5]])
  mean = np.array([1.0, -2.0])
  precision = np.linalg.inv(covariance)

  def log_prob(y):
    centered = y[:, 1:3] - mean
    log_prior = (
      -0.5 * tf.reduce_sum(centered * tf.matmul(centered, precision), axis=1)
      - 0.5 * np.linalg.slogdet(2.0 * np.pi * covariance)[1]
    )
    return (
      log_prior + normal(y[:, 0], 0.5, y[:, 1]) + normal(y[:, 3], -1.0, y[:, 2])
    )

  found = laplace.fit_conditional(
    make_evaluate(log_prob), np.zeros(4), np.eye(4), [1, 2], tf.float64
  )
  made = reference.from_laplace(found, tf.float64)
  u = tf.constant(np.random.default_rng(3).normal(size=[NUM_DRAWS, 4]))
  y, log_det = reference.forward(made, u)
  log_weights = (
    log_prob(y)
    + log_det
    + 0.5 * tf.reduce_sum(u**2 + np.log(2.0 * np.pi), axis=1)
  ).numpy()
  relative = np.exp(log_weights)
  error = np.std(relative) / np.sqrt(NUM_DRAWS)
  assert abs(np.mean(relative) - 1.0) < 5.0 * error
  # A tenth of a broad density for each driver costs about a tenth.
  assert effective_share(log_weights) > 0.75


def test_points_of_another_mode_are_far_out():
  _, found = fit_groups()
  made = reference.from_laplace(found, tf.float64)
  u = np.random.default_rng(4).normal(size=[1_000, 7])
  y = reference.forward(made, tf.constant(u))[0].numpy()
  # The squares exceed their mean by six of their deviations, and more: one in
  # 10^5 draws of a chi-square variable with seven degrees of freedom.
  assert not reference.find_far_out(made, y)[0].any()
  # A twentieth is seven deviations off in one coordinate.
  u[:50, 0] += 7.0
  y = reference.forward(made, tf.constant(u))[0].numpy()
  is_far, found_u = reference.find_far_out(made, y)
  assert 45 <= is_far.sum() == is_far[:50].sum()
  np.testing.assert_allclose(found_u, u, atol=1e-9)
  y[0] = np.nan
  assert reference.find_far_out(made, y)[0][0]


def test_evaluations_are_limited():
  groups = Groups()
  count = 0

  def evaluate(points):
    nonlocal count
    count += len(points)
    return groups.evaluate(points)

  arguments = np.zeros(7), np.eye(7), [groups.DRIVER], tf.float64
  assert laplace.fit_conditional(evaluate, *arguments) is not None
  needed, count = count, 0
  assert laplace.fit_conditional(evaluate, *arguments, needed - 1) is None
  assert count < needed


def test_a_start_in_the_tail():
  """Where the curvature has the other sign, and steps lead too far."""

  def log_prob(y):
    v, x = y[:, 0], y[:, 1:]
    student = tfd.StudentT(np.float64(3.0), np.float64(40.0), np.float64(1.0))
    return normal(v, 0.0, np.float64(0.0)) + tf.reduce_sum(
      student.log_prob(x), axis=1
    )

  found = laplace.fit_conditional(
    make_evaluate(log_prob), np.zeros(3), np.eye(3), [0], tf.float64
  )
  # The negative log density is 2 log(1 + z^2 / 3), of curvature 4 / 3 at zero.
  loc, log_det = conditional.forward(found.conditional, np.zeros([1, 3]))
  np.testing.assert_allclose(loc[0, 1:], 40.0, atol=0.1)
  # By differences with steps of 0.3 deviations.
  np.testing.assert_allclose(log_det, np.log(0.75), atol=0.05)


class Bar:
  """A progress bar that shows nothing."""

  n = 0.0

  def reset(self, total):
    pass

  def set_description(self, name):
    pass


# Densities of the first coordinate of a map's normal density, and whether the
# map is taken where a twentieth of the particles is seven deviations off.
@pytest.mark.parametrize(
  'log_density, is_taken',
  [
    # There is a second mode, given the driver.
    (lambda x: np.logaddexp(-0.5 * x**2, -0.5 * (x - 7.0) ** 2 - 3.0), False),
    # There is a long tail.
    (lambda x: -np.abs(x), True),
  ],
)
def test_a_map_that_leads_past_a_mode_is_not_taken(
  monkeypatch, log_density, is_taken
):
  _, found = fit_groups()
  made = reference.from_laplace(found, tf.float64)
  u = np.random.default_rng(4).normal(size=[1_000, 7])
  u[:50, 0] += 7.0
  y, _ = reference.forward(made, tf.constant(u))
  affine = reference.from_affine(np.zeros(7), np.eye(7), tf.float64)
  source = types.SimpleNamespace(
    reference=affine,
    conditional=None,
    weighted_points=(y.numpy(), np.full(1_000, 1e-3)),
  )
  fitter = stages.Fitter(
    types.SimpleNamespace(dtype=tf.float64, num_values=7), 10, 0.9, True, Bar()
  )

  def evaluate(points):
    u = reference.inverse(made, tf.constant(points)).numpy()
    log_prob = log_density(u[:, 0]) - 0.5 * np.sum(u[:, 1:] ** 2, axis=1)
    return log_prob, np.zeros_like(points)

  monkeypatch.setattr(fitter, 'evaluate', evaluate)
  monkeypatch.setattr(laplace, 'fit_conditional', lambda *args: found)
  monkeypatch.setattr(radial, 'fit_radial', lambda *args: None)
  fitted, about = fitter.refit(source, affine)
  assert about['drivers'] == [Groups.DRIVER]
  assert (fitted.conditional is not None) == is_taken
  # It was refused before: there is no other try.
  fitted, _ = fitter.refit(source, affine, [[Groups.DRIVER]])
  assert fitted.conditional is None


def test_drivers_by_curvature():
  # The third value has the precision exp(2 y_0), the fourth one exp(-y_1),
  # and the fifth one a constant. Between both ends, three deviations apart,
  # logarithms change by 6 and 3, whose squares are 36 and 9.
  def gradient_fn(y):
    first, second = np.exp(2.0 * y[:, 0]), np.exp(-y[:, 1])
    return np.stack(
      [
        -y[:, 0] - y[:, 2] ** 2 * first,
        -y[:, 1] + 0.5 * y[:, 3] ** 2 * second,
        -y[:, 2] * first,
        -y[:, 3] * second,
        -y[:, 4],
      ],
      axis=1,
    )

  def find(gradient_fn):
    return drivers.find_by_curvature(gradient_fn, np.zeros(5), np.ones(5))

  assert find(gradient_fn) == [0, 1]
  # The second one changes curvatures too little beside the first one.
  assert find(lambda y: gradient_fn(y * [1.0, 0.4, 1.0, 1.0, 1.0])) == [0]
  # A normal density has none, nor has one without a finite gradient.
  assert find(lambda y: -y) == []
  assert find(lambda y: np.full_like(y, np.nan)) == []


def test_one_driver_where_two_take_too_long(monkeypatch):
  _, found = fit_groups()
  tried = []

  def fit_conditional(evaluate, mean, covariance, drivers, *args):
    tried.append(drivers)
    return found if len(drivers) == 1 else None

  monkeypatch.setattr(laplace, 'fit_conditional', fit_conditional)
  monkeypatch.setattr(
    reference,
    'fit_to_particles',
    lambda previous, *args: (previous, {'drivers': [Groups.DRIVER, 0]}),
  )
  affine = reference.from_affine(np.zeros(7), np.eye(7), tf.float64)
  y, _ = reference.forward(
    reference.from_laplace(found, tf.float64),
    tf.constant(np.random.default_rng(4).normal(size=[1_000, 7])),
  )
  source = types.SimpleNamespace(
    reference=affine, weighted_points=(y.numpy(), np.full(1_000, 1e-3))
  )
  fitter = stages.Fitter(
    types.SimpleNamespace(dtype=tf.float64, num_values=7), 10, 0.9, True, Bar()
  )
  made, about = fitter.refit(source, affine)
  assert made.conditional is not None
  assert about['drivers'] == [Groups.DRIVER]
  # Drivers for which it did not end are not tried again.
  fitter.refit(source, affine)
  assert tried == [[Groups.DRIVER, 0], [Groups.DRIVER], [Groups.DRIVER]]


@pytest.mark.parametrize(
  'evaluate_fn',
  [
    lambda points: (np.zeros(len(points)), np.zeros_like(points)),
    lambda points: (np.sum(points, axis=1), np.ones_like(points)),
    lambda points: (np.full(len(points), -np.inf), np.zeros_like(points)),
  ],
  ids=['flat', 'without maxima', 'zero'],
)
def test_densities_without_gaussians(evaluate_fn):
  """Neither an error of a singular matrix, nor a result."""
  found = laplace.fit_conditional(
    evaluate_fn, np.zeros(3), np.eye(3), [0], tf.float64
  )
  assert found is None


def make_walk():
  """A random walk with two unknown scales, its data, and its exact posterior.

  Given the scales all is normal, so that the mass of each pair of scales is a
  multivariate normal density of the data.
  """
  rng = np.random.default_rng(8)
  num_steps, seen = 12, [0, 1, 2, 3, 8, 9, 10, 11]
  walk = 0.3 * np.cumsum(rng.normal(size=num_steps))
  y = (walk[seen] + 0.1 * rng.normal(size=len(seen))).astype(np.float32)
  model = tfd.JointDistributionNamed(
    {
      'innovation': tfd.LogNormal(0.0, 2.0),
      'noise': tfd.LogNormal(0.0, 2.0),
      'steps': lambda innovation: tfd.Sample(
        tfd.Normal(0.0, innovation), num_steps
      ),
      'y': lambda noise, steps: tfd.Independent(
        tfd.Normal(
          tf.gather(tf.cumsum(steps, axis=-1), seen, axis=-1),
          noise[..., tf.newaxis],
        ),
        1,
      ),
    }
  )
  lower = np.tri(num_steps)
  values, vectors = np.linalg.eigh((lower @ lower.T)[np.ix_(seen, seen)])
  innovation, noise = np.meshgrid(
    np.linspace(-6.0, 3.0, 361), np.linspace(-14.0, 2.0, 641), indexing='ij'
  )
  variances = (
    np.exp(2.0 * innovation)[..., np.newaxis] * values
    + np.exp(2.0 * noise)[..., np.newaxis]
  )
  log_mass = (
    np.sum(scipy.stats.norm.logpdf(vectors.T @ y, 0.0, variances**0.5), axis=-1)
    + scipy.stats.norm.logpdf(innovation, 0.0, 2.0)
    + scipy.stats.norm.logpdf(noise, 0.0, 2.0)
  )
  log_evidence = scipy.special.logsumexp(log_mass) + np.log(0.025**2)
  mass = np.exp(log_mass - log_evidence) * 0.025**2
  return model.experimental_pin(y=y), log_evidence, noise, mass


def test_a_narrow_tail_is_found():
  target, log_evidence, noise, mass = make_walk()
  posterior = fit_posterior(target, seed=1, progress=False)
  assert posterior.start == 'reference'
  stages = [x for x in posterior.history if x['name'].startswith('conditional')]
  assert stages and stages[0]['is_found']
  # Eight runs, so that errors follow a t law with seven degrees of freedom:
  # one in 10^4 is farther than 7.1 of them.
  error = posterior.log_evidence_error
  assert abs(posterior.log_evidence - log_evidence) < 7.1 * error
  assert error < 0.03
  # Where the noise is a tenth of what it mostly is, all steps are narrow.
  limit = np.interp(0.05, np.cumsum(mass.sum(axis=0)), noise[0])
  share = posterior.expectation(
    lambda value: tf.cast(tf.math.log(value['noise']) < limit, tf.float32)
  )
  assert abs(share - 0.05) < 0.02


def test_crossed_effects():
  """Three scales: particles do not show that the least of them is a driver.

  Where only particles say what drivers there are, the deviation of the
  logarithm of this scale is 0.71 of what it is.
  """
  num_rows, num_columns = 5, 4
  rng = np.random.default_rng(10)
  y = 2.0 + 0.9 * rng.normal(size=[num_rows, 1])
  y = y + 0.3 * rng.normal(size=[1, num_columns])
  y = y + 0.5 * rng.normal(size=[num_rows, num_columns])
  model = tfd.JointDistributionNamedAutoBatched(
    {
      'mean': tfd.Normal(0.0, 5.0),
      'scales': tfd.Sample(tfd.HalfCauchy(0.0, 1.0), 3),
      'row': lambda scales: tfd.Sample(tfd.Normal(0.0, scales[0]), num_rows),
      'column': lambda scales: tfd.Sample(
        tfd.Normal(0.0, scales[1]), num_columns
      ),
      'y': lambda mean, scales, row, column: tfd.Independent(
        tfd.Normal(mean + row[:, np.newaxis] + column, scales[2]), 2
      ),
    }
  )
  posterior = fit_posterior(
    model.experimental_pin(y=y.astype(np.float32)), seed=2, progress=False
  )
  # The other variables are normal given the scales: their integral is in closed
  # form, and that over log scales is on a grid.
  grid = np.linspace(-9.0, 4.0, 53)
  logs = conditional.cross([grid] * 3)
  scales = np.exp(logs)
  rows = np.kron(np.eye(num_rows), np.ones([num_columns, num_columns]))
  columns = np.kron(np.ones([num_rows, num_rows]), np.eye(num_columns))
  log_prob = np.concatenate(
    [
      tfd.MultivariateNormalTriL(
        scale_tril=np.linalg.cholesky(
          25.0
          + np.tensordot(part[:, 0] ** 2, rows, axes=0)
          + np.tensordot(part[:, 1] ** 2, columns, axes=0)
          + np.tensordot(part[:, 2] ** 2 + 1e-9, np.eye(y.size), axes=0)
        )
      ).log_prob(y.ravel())
      for part in np.array_split(scales, 40)
    ]
  )
  log_prob += np.sum(np.log(2.0 / np.pi) - np.log1p(scales**2) + logs, axis=1)
  evidence = scipy.special.logsumexp(log_prob) + 3.0 * np.log(grid[1] - grid[0])
  weights = np.exp(log_prob - scipy.special.logsumexp(log_prob))
  deviation = np.sqrt(weights @ logs[:, 1] ** 2 - (weights @ logs[:, 1]) ** 2)
  mean = posterior.expectation(lambda v: tf.math.log(v['scales'][:, 1]))
  found = posterior.expectation(
    lambda v: (tf.math.log(v['scales'][:, 1]) - mean) ** 2
  )
  assert abs(posterior.log_evidence - evidence) < 0.06
  assert abs(float(found) ** 0.5 / deviation - 1.0) < 0.15

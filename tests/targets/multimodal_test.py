# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The multimodal targets have the normalizers, modes and draws they state.

Each target is written down a second time here (`MIXTURES`, `log_rings`), in
terms of its definition, and integrated numerically.

False alarms: the draws come from fixed seeds, so that a test of them passes or
fails for good. Over seeds, each such test would reject correct draws with a
probability of at most 1e-6 (`ALARM`, divided among the statistics of a test).
"""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import targets

tfd = tfp.distributions

ALARM = 1e-6
FUNCTIONS = [
  targets.ring_of_gaussians,
  targets.grid_of_gaussians,
  targets.concentric_rings,
]
DTYPES = [tf.float32, tf.float64]
RADII = np.array([2.0, 4.0, 6.0, 8.0, 10.0])
WIDTH = np.sqrt(0.08)

every_target = pytest.mark.parametrize(
  'make', FUNCTIONS, ids=lambda make: make.__name__
)
every_dtype = pytest.mark.parametrize(
  'dtype', DTYPES, ids=lambda dtype: dtype.name
)


def ring_mixture():
  """Weights, means and covariances of `ring_of_gaussians`."""
  turn = np.exp(2j * np.pi * np.arange(8) / 8)
  means = 10.0 * np.stack([turn.real, turn.imag], axis=-1)
  return np.ones(8), means, np.tile(np.diag([0.5, 0.5]), [8, 1, 1])


def grid_mixture():
  """Weights, means and covariances of `grid_of_gaussians`."""
  weights, means, covariances = [], [], []
  for i in range(5):
    for j in range(5):
      m = 5 * i + j
      major = 0.25 + 0.05 * i
      minor = major * (1.0 - 0.15 * j)
      axis = np.array([np.cos(np.pi * m / 25), np.sin(np.pi * m / 25)])
      along = np.outer(axis, axis)
      weights.append(1 + 7 * m % 25)
      means.append([4.0 * i - 8.0, 4.0 * j - 8.0])
      covariances.append(major**2 * along + minor**2 * (np.eye(2) - along))
  return np.array(weights, float), np.array(means), np.array(covariances)


MIXTURES = {
  targets.ring_of_gaussians: ring_mixture(),
  targets.grid_of_gaussians: grid_mixture(),
}
every_mixture = pytest.mark.parametrize(
  'make', MIXTURES, ids=lambda make: make.__name__
)


def log_rings(radius):
  """The log of the density of `concentric_rings`, a function of the radius."""
  return scipy.special.logsumexp(
    -((np.asarray(radius)[..., np.newaxis] - RADII) ** 2) / (2 * WIDTH**2),
    axis=-1,
  )


def plane(limits, num=301):
  """Midpoints of the cells of a square, and the area of a cell.

  For a Gaussian with standard deviation `s` and cells of width `h` the midpoint
  rule on the plane is off by about `2 exp(-2 (pi s / h)^2)`: less than 1e-16
  for the narrowest mode here (s = 0.1, h = 22 / 301).
  """
  edges = np.linspace(*limits, num + 1)
  middle = (edges[1:] + edges[:-1]) / 2
  x = np.stack(np.meshgrid(middle, middle, indexing='ij'), axis=-1)
  return x.reshape([-1, 2]), (edges[1] - edges[0]) ** 2


def reference_points():
  """Points near the modes, between them and far away."""
  rng = np.random.default_rng(1)
  return np.concatenate(
    [
      5.0 * rng.normal(size=[200, 2]),
      rng.uniform(-12, 12, size=[200, 2]),
      1e3 * rng.normal(size=[20, 2]),
      *(mixture[1] for mixture in MIXTURES.values()),
    ]
  )


def awkward_points(target):
  """Where a square, a square root, an exponential or a tie may go wrong."""
  tiny = np.finfo(target.dtype.as_numpy_dtype).tiny
  directions = np.array(
    [[1.0, 0.0], [0.0, -1.0], [1.0, 1.0], [-1.0, 0.3], [np.sqrt(3), -1.0]]
  )
  sizes = [
    *(0.0, -0.0, tiny / 4, tiny, 2 * np.sqrt(tiny), np.sqrt(tiny) / 2),
    *(1e-12, 1e-6, 1.0, 3.0, 5.0, 13.0, 1e3, 1e6, 1e17 / 2),
  ]
  return np.concatenate(
    [
      *(size * directions for size in sizes),
      target.mode_locations,
      (target.mode_locations + np.roll(target.mode_locations, 1, axis=0)) / 2,
    ]
  )


def value_and_gradient(target, x):
  x = tf.convert_to_tensor(x, target.dtype)
  return tfp.math.value_and_gradient(target.unnormalized_log_prob, x)


def reference_log_prob(make, x):
  """The log density by its definition, in float64."""
  if make is targets.concentric_rings:
    return log_rings(np.hypot(x[..., 0], x[..., 1]))
  weights, means, covariances = MIXTURES[make]
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(probs=weights / weights.sum()),
    tfd.MultivariateNormalTriL(means, np.linalg.cholesky(covariances)),
  )
  return mixture.log_prob(x).numpy() + np.log(weights.sum())


@every_target
def test_log_prob_follows_definition(make):
  x = reference_points()
  np.testing.assert_allclose(
    make(tf.float64).unnormalized_log_prob(x),
    reference_log_prob(make, x),
    rtol=1e-13,
    atol=1e-12,
  )


@every_target
def test_float32_is_accurate(make):
  """The error is that of rounding points, locations and the result."""
  x = reference_points().astype(np.float32)
  value, gradient = value_and_gradient(make(tf.float64), x)
  size = np.linalg.norm(x, axis=-1) + 12.0
  slope = np.linalg.norm(gradient, axis=-1)
  bound = 4 * np.finfo(np.float32).eps * (1 + np.abs(value) + size * slope)
  actual = make(tf.float32).unnormalized_log_prob(x)
  assert actual.dtype == tf.float32
  error = np.abs(tf.cast(actual, tf.float64) - value)
  assert np.max(error / bound) <= 1.0


@every_target
def test_normalizer_by_quadrature(make):
  target = make(tf.float64)
  x, area = plane(target.limits)
  total = np.sum(np.exp(target.unnormalized_log_prob(x))) * area
  # The limits leave out 1e-8 of the mass.
  np.testing.assert_allclose(np.log(total), target.log_normalizer, atol=2e-8)


def test_normalizers_of_mixtures_in_closed_form():
  assert targets.ring_of_gaussians().log_normalizer == np.log(8.0)
  assert targets.grid_of_gaussians().log_normalizer == np.log(325.0)


def test_normalizer_of_rings_by_radial_quadrature():
  def mass(radius):
    return scipy.integrate.quad(
      lambda r: 2 * np.pi * r * np.exp(-((r - radius) ** 2) / (2 * WIDTH**2)),
      max(0.0, radius - 12 * WIDTH),
      radius + 12 * WIDTH,
      epsabs=0.0,
      epsrel=1e-13,
    )[0]

  masses = np.array([mass(radius) for radius in RADII])
  target = targets.concentric_rings(tf.float64)
  np.testing.assert_allclose(
    target.log_normalizer, np.log(masses.sum()), rtol=1e-13
  )
  np.testing.assert_allclose(
    target.mode_probabilities, masses / masses.sum(), rtol=5e-13
  )


@every_target
def test_limits_hold_the_mass(make):
  target = make(tf.float64)
  low, high = target.limits
  x, area = plane((2 * low, 2 * high), num=602)
  is_outside = np.any((x < low) | (x > high), axis=-1)
  density = np.exp(target.unnormalized_log_prob(x[is_outside]))
  assert np.sum(density) * area < 1e-8 * np.exp(target.log_normalizer)


@every_target
def test_mode_masses_by_quadrature(make):
  target = make(tf.float64)
  x, area = plane(target.limits)
  mass = np.exp(target.unnormalized_log_prob(x) - target.log_normalizer) * area
  cells = np.bincount(
    target.mode_index(x), mass, minlength=len(target.mode_probabilities)
  )
  # The stated difference of cells and components, and a cell of the grid, cut
  # by a border, for the ring.
  np.testing.assert_allclose(cells, target.mode_probabilities, atol=1e-5)


@every_mixture
def test_mode_probabilities_of_mixtures(make):
  weights, means, _ = MIXTURES[make]
  target = make(tf.float64)
  np.testing.assert_allclose(
    target.mode_probabilities, weights / weights.sum(), rtol=1e-15
  )
  np.testing.assert_allclose(target.mode_locations, means, atol=1e-14)


@every_target
def test_modes_are_local_maxima(make):
  target = make(tf.float64)
  index = target.mode_index(target.mode_locations)
  np.testing.assert_array_equal(index, np.arange(len(target.mode_locations)))
  at_mode = target.unnormalized_log_prob(target.mode_locations)
  for step in ([0.05, 0.0], [-0.05, 0.0], [0.0, 0.05], [0.0, -0.05]):
    # Along a ring the density is the same: a step on the tangent, which leaves
    # the ring by a second-order amount, cannot gain either.
    nearby = target.unnormalized_log_prob(target.mode_locations + step)
    assert np.all(nearby < at_mode)


def test_mode_index_of_rings_ignores_direction():
  target = targets.concentric_rings(tf.float64)
  angles = np.array([0.0, 0.5, 2.0, 3.0, 5.0])
  x = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  index = target.mode_index(RADII[:, np.newaxis, np.newaxis] * 1.04 * x)
  assert index.dtype == tf.int32
  expected = np.tile(np.arange(5)[:, np.newaxis], [1, 5])
  np.testing.assert_array_equal(index, expected)


@every_target
@every_dtype
def test_value_and_gradient_are_finite(make, dtype):
  target = make(dtype)
  x = awkward_points(target)
  for compiled in (False, True):
    fn = tf.function(
      lambda x: value_and_gradient(target, x),  # noqa: B023
      jit_compile=compiled,
    )
    for value in fn(tf.constant(x, dtype)):
      assert np.all(np.isfinite(value))


@every_target
@every_dtype
def test_compiled_gradient_is_accurate_far_away(make, dtype):
  """Compiled, rounding differs from use to use of what is computed once."""
  rng = np.random.default_rng(3)
  angle = rng.uniform(0, 2 * np.pi, size=[20_000, 1])
  size = 10.0 ** rng.uniform(2, 16, size=[20_000, 1])
  x = size * np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
  x = x.astype(dtype.as_numpy_dtype).astype(np.float64)
  target = make(dtype)
  fn = tf.function(lambda x: value_and_gradient(target, x), jit_compile=True)
  value, gradient = fn(tf.constant(x, dtype))
  expected_value, expected_gradient = value_and_gradient(make(tf.float64), x)
  np.testing.assert_allclose(value, expected_value, rtol=1e-5)
  # Where two modes tie, their shares in the gradient depend on the rounding.
  error = np.linalg.norm(gradient - expected_gradient.numpy(), axis=-1)
  assert np.max(error / np.linalg.norm(expected_gradient, axis=-1)) < 0.01


@every_target
def test_gradient_by_differences(make):
  target = make(tf.float64)
  x = reference_points()[:400]
  x = x[np.linalg.norm(x, axis=-1) > 0.1]
  step = 1e-5
  differences = np.stack(
    [
      target.unnormalized_log_prob(x + step * e)
      - target.unnormalized_log_prob(x - step * e)
      for e in np.eye(2)
    ],
    axis=-1,
  ) / (2 * step)
  _, gradient = value_and_gradient(target, x)
  # Third derivatives are below 1e5 (the cube of the largest slope across the
  # border of two modes), so that the differences are off by 1e5 step^2 / 6.
  np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-5)


@every_dtype
def test_gradient_of_rings_near_origin(dtype):
  target = targets.concentric_rings(dtype)
  _, gradient = value_and_gradient(target, [[0.0, 0.0], [3e-9, -4e-9]])
  # The innermost ring decides: its slope at radius 0 is 2 / 0.08 outwards.
  np.testing.assert_allclose(
    gradient, [[0.0, 0.0], [0.6 * 25, -0.8 * 25]], rtol=1e-5
  )


@every_target
@every_dtype
def test_overflow_is_minus_infinity(make, dtype):
  size = {tf.float32: 1e36, tf.float64: 1e300}[dtype]
  x = tf.constant(size * np.array([[1.0, 0.0], [-1.0, 1.0]]), dtype)
  value = make(dtype).unnormalized_log_prob(x)
  np.testing.assert_array_equal(value, [-np.inf, -np.inf])


@every_target
def test_nan_stays_nan(make):
  x = np.array([[np.nan, 0.0], [1.0, np.nan]], np.float32)
  assert np.all(np.isnan(make().unnormalized_log_prob(x)))


@every_target
@every_dtype
def test_compiles(make, dtype):
  target = make(dtype)
  x = tf.reshape(tf.constant(reference_points()[:120], dtype), [4, 3, 10, 2])
  log_prob = tf.function(target.unnormalized_log_prob, jit_compile=True)(x)
  assert log_prob.shape == [4, 3, 10]
  assert log_prob.dtype == dtype
  tolerance = 100 * np.finfo(dtype.as_numpy_dtype).eps
  np.testing.assert_allclose(
    log_prob,
    target.unnormalized_log_prob(x),
    rtol=tolerance,
    atol=10 * tolerance,
  )
  np.testing.assert_array_equal(
    tf.function(target.mode_index, jit_compile=True)(x), target.mode_index(x)
  )


@every_target
@every_dtype
def test_sample_is_a_function_of_the_seed(make, dtype):
  target = make(dtype)
  draws = target.sample(7, seed=3)
  assert draws.shape == [7, 2]
  assert draws.dtype == dtype
  np.testing.assert_array_equal(draws, target.sample([7], seed=3))
  assert np.all(draws != target.sample(7, seed=4))
  assert target.sample([], seed=3).shape == [2]
  assert target.sample((4, 3), seed=[1, 2]).shape == [4, 3, 2]
  compiled = tf.function(lambda: target.sample(7, seed=3), jit_compile=True)()
  np.testing.assert_allclose(
    draws, compiled, atol=200 * np.finfo(dtype.as_numpy_dtype).eps
  )


def characteristic_alarm(make, draws):
  """The p-value of the worst mean of cos and sin of `k . x`, Bonferroni.

  For a mixture, `phi(k) = E exp(i k . x)` is a weighted sum of
  `exp(i k . mean - k . covariance k / 2)`, and the variances of cos and sin of
  `k . x` follow from `phi(2 k)`. At multiples of pi / 2 the means of the grid
  drop out, and its covariances are what is left.
  """
  weights, means, covariances = MIXTURES[make]

  def phi(k):
    return np.exp(
      1j * k @ means.T - 0.5 * np.einsum('ka,mab,kb->km', k, covariances, k)
    ) @ (weights / weights.sum())

  rng = np.random.default_rng(2)
  k = np.concatenate(
    [
      np.pi / 2 * np.array([[1, 0], [0, 1], [1, 1], [1, -1], [2, 1], [2, -1]]),
      rng.normal(size=[12, 2]),
      2.0 * rng.normal(size=[12, 2]),
    ]
  )
  expected, double = phi(k), phi(2 * k)
  angles = draws @ k.T
  z = []
  for mean, variance, sampled in (
    (expected.real, (1 + double.real) / 2, np.cos(angles)),
    (expected.imag, (1 - double.real) / 2, np.sin(angles)),
  ):
    variance = variance - mean**2
    # sin vanishes at the means of the grid, for multiples of pi / 2, up to the
    # width of the modes; no variance is zero.
    assert np.all(variance > 1e-3)
    z.append((sampled.mean(0) - mean) / np.sqrt(variance / len(draws)))
  z = np.concatenate(z)
  return 2 * scipy.stats.norm.sf(np.abs(z).max()) * len(z)


def moments_alarm(make, draws):
  """The p-value of the worst first or second moment, Bonferroni."""
  weights, means, covariances = MIXTURES[make]
  probabilities = weights / weights.sum()
  first = probabilities @ means
  second = np.einsum(
    'm,mab->ab',
    probabilities,
    covariances + np.einsum('ma,mb->mab', means, means),
  )
  sampled = np.einsum('na,nb->nab', draws, draws)[:, [0, 0, 1], [0, 1, 1]]
  sampled = np.concatenate([draws, sampled], axis=-1)
  expected = np.concatenate([first, second[[0, 0, 1], [0, 1, 1]]])
  z = (sampled.mean(0) - expected) / (
    sampled.std(0, ddof=1) / np.sqrt(len(draws))
  )
  return 2 * scipy.stats.norm.sf(np.abs(z).max()) * len(z)


def frequencies_alarm(make, draws):
  """The p-value of the numbers of draws nearest to each mode."""
  target = make(tf.float64)
  observed = np.bincount(
    target.mode_index(draws), minlength=len(target.mode_probabilities)
  )
  expected = target.mode_probabilities * len(draws)
  return scipy.stats.chisquare(observed, expected).pvalue


def rings_alarm(draws):
  """The p-value of the worst of radii within each annulus, and angles.

  The radii between two borders have the density `r gamma(r)`, integrated here
  without regard to components.
  """
  radius = np.hypot(draws[:, 0], draws[:, 1])
  nodes = np.linspace(0.0, 14.0, 14_001)
  cumulative = scipy.integrate.cumulative_simpson(
    nodes * np.exp(log_rings(nodes)), x=nodes, initial=0.0
  )
  borders = np.array([0.0, 3.0, 5.0, 7.0, 9.0, 14.0])
  p = []
  for low, high in zip(borders[:-1], borders[1:], strict=True):
    start, end = np.interp([low, high], nodes, cumulative)
    p.append(
      scipy.stats.kstest(
        radius[(low <= radius) & (radius < high)],
        lambda r, start=start, end=end: (
          (np.interp(r, nodes, cumulative) - start) / (end - start)
        ),
      ).pvalue
    )
  angle = np.arctan2(draws[:, 1], draws[:, 0])
  p.append(scipy.stats.kstest(angle, 'uniform', (-np.pi, 2 * np.pi)).pvalue)
  return min(p) * len(p)


NUM_DRAWS = 200_000


@every_mixture
@every_dtype
def test_draws_of_mixtures(make, dtype):
  target = make(dtype)
  draws = target.sample(NUM_DRAWS, seed=11).numpy().astype(np.float64)
  assert frequencies_alarm(make, draws) > ALARM / 3
  assert characteristic_alarm(make, draws) > ALARM / 3
  assert moments_alarm(make, draws) > ALARM / 3


@every_dtype
def test_draws_of_rings(dtype):
  target = targets.concentric_rings(dtype)
  draws = target.sample(NUM_DRAWS, seed=11).numpy().astype(np.float64)
  assert frequencies_alarm(targets.concentric_rings, draws) > ALARM / 2
  assert rings_alarm(draws) > ALARM / 2


def wrong_mixture_draws(weights, means, covariances):
  rng = np.random.default_rng(5)
  mode = rng.choice(len(weights), size=NUM_DRAWS, p=weights / weights.sum())
  scales = np.linalg.cholesky(covariances)[mode]
  noise = rng.normal(size=[NUM_DRAWS, 2])
  return means[mode] + np.einsum('nab,nb->na', scales, noise)


def mirrored(covariances):
  return covariances * np.array([[1.0, -1.0], [-1.0, 1.0]])


@pytest.mark.parametrize(
  ('make', 'change'),
  [
    (targets.ring_of_gaussians, lambda w, m, c: (w, m, 1.05 * c)),
    (targets.ring_of_gaussians, lambda w, m, c: (w, m + [0.05, 0.0], c)),
    (targets.grid_of_gaussians, lambda w, m, c: (w, m, 1.05 * c)),
    (targets.grid_of_gaussians, lambda w, m, c: (w, m, mirrored(c))),
    (targets.grid_of_gaussians, lambda w, m, c: (w, m, c[::-1])),
  ],
  ids=['ring-wide', 'ring-moved', 'grid-wide', 'grid-mirrored', 'grid-mixed'],
)
def test_wrong_mixture_draws_are_found(make, change):
  right = wrong_mixture_draws(*MIXTURES[make])
  assert characteristic_alarm(make, right) > ALARM
  wrong = wrong_mixture_draws(*change(*MIXTURES[make]))
  assert characteristic_alarm(make, wrong) < ALARM / 3


@every_target
def test_wrong_frequencies_are_found(make):
  target = make(tf.float64)
  draws = target.sample(NUM_DRAWS, seed=12).numpy()
  is_dropped = (target.mode_index(draws) == 1) & (np.arange(NUM_DRAWS) % 5 == 0)
  draws[is_dropped] = target.mode_locations[-1]
  assert frequencies_alarm(make, draws) < ALARM / 3


def test_wrong_moments_are_found():
  make = targets.ring_of_gaussians
  weights, means, covariances = MIXTURES[make]
  wrong = wrong_mixture_draws(weights, 1.01 * means, covariances)
  assert moments_alarm(make, wrong) < ALARM / 3


def test_wrong_ring_draws_are_found():
  rng = np.random.default_rng(6)
  center = rng.choice(RADII, size=NUM_DRAWS, p=RADII / RADII.sum())
  angle = rng.uniform(0, 2 * np.pi, size=NUM_DRAWS)
  # Without the factor r of polar coordinates within a ring.
  radius = center + WIDTH * rng.normal(size=NUM_DRAWS)
  direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  assert rings_alarm(radius[:, np.newaxis] * direction) < ALARM / 2
  target = targets.concentric_rings(tf.float64)
  right = target.sample(NUM_DRAWS, seed=13).numpy()
  assert rings_alarm(right) > ALARM
  assert rings_alarm(1.01 * right) < ALARM / 2
  assert rings_alarm(np.abs(right)) < ALARM / 2


@every_target
def test_initial_density_reaches_the_modes(make):
  """No mode is further from `N(0, 5^2 I)` than four standard deviations."""
  distance = np.linalg.norm(make().mode_locations, axis=-1)
  assert np.max(distance) / 5.0 < 4.0


@every_target
@every_dtype
def test_attributes(make, dtype):
  target = make(dtype)
  assert target.name == make.__name__
  assert target.dtype == dtype
  assert target.event_shape == [2]
  assert isinstance(target.log_normalizer, float)
  num_modes = len(target.mode_locations)
  assert target.mode_locations.shape == (num_modes, 2)
  assert target.mode_locations.dtype == dtype.as_numpy_dtype
  assert target.mode_probabilities.shape == (num_modes,)
  assert target.mode_probabilities.dtype == dtype.as_numpy_dtype
  np.testing.assert_allclose(target.mode_probabilities.sum(), 1.0, rtol=1e-6)
  assert make.__name__ in repr(target)
  assert dtype.name in repr(target)


@every_target
def test_takes_what_converts(make):
  target = make()
  expected = target.unnormalized_log_prob(tf.constant([[1.0, 2.0]]))
  for x in ([[1, 2]], [[1.0, 2.0]], np.array([[1.0, 2.0]])):
    np.testing.assert_array_equal(target.unnormalized_log_prob(x), expected)
  assert target.unnormalized_log_prob([1.0, 2.0]).shape == []
  assert target.unnormalized_log_prob(tf.zeros([0, 2])).shape == [0]


@every_target
@pytest.mark.parametrize('method', ['unnormalized_log_prob', 'mode_index'])
def test_bad_points(make, method):
  fn = getattr(make(tf.float32), method)
  for shape in ([], [3], [2, 1], [2, 3]):
    with pytest.raises(ValueError, match=r'`x` must have shape \[\.\.\., 2\]'):
      fn(tf.zeros(shape))
  for x in (tf.zeros([4, 2], tf.float64), tf.zeros([4, 2], tf.int32)):
    with pytest.raises(TypeError, match='`x` must be a float32 Tensor'):
      fn(x)
  for spec in (tf.TensorSpec(None), tf.TensorSpec([4, None])):
    with pytest.raises(ValueError, match='`x` must have shape'):
      tf.function(fn).get_concrete_function(spec)


@every_target
def test_bad_dtype(make):
  for dtype in (tf.float16, tf.int32):
    with pytest.raises(TypeError, match='`dtype` must be'):
      make(dtype)


@every_target
def test_bad_seed(make):
  with pytest.raises(ValueError, match='`seed`'):
    make().sample(3, seed=[1, 2, 3])


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'mode_locations': [0.0, 0.0]}, r'`mode_locations` must .* got \(2,\)'),
    ({'mode_locations': [[0.0]]}, r'`mode_locations` must .* got \(1, 1\)'),
    (
      {'mode_probabilities': [0.5, 0.5]},
      r'`mode_probabilities` must .* got \(2,\)',
    ),
  ],
)
def test_bad_modes(changed, message):
  normal = tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0])
  arguments = dict(
    name='normal',
    unnormalized_log_prob_fn=normal.log_prob,
    sample_fn=lambda shape, seed: normal.sample(shape, seed=seed),
    mode_index_fn=lambda x: tf.zeros(x.shape[:-1], tf.int32),
    log_normalizer=0.0,
    mode_locations=[[0.0, 0.0]],
    mode_probabilities=[1.0],
    limits=(-6.0, 6.0),
  )
  target = targets.MultimodalTarget(**arguments)
  assert target.sample(3, seed=1).shape == [3, 2]
  with pytest.raises(ValueError, match=message):
    targets.MultimodalTarget(**(arguments | changed))

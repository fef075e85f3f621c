# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Intermediate densities are what their definition says, on every space.

Expected values are computed with SciPy, by hand, or by quadrature over the real
space, where a density that was normalized stays so if its Jacobian is right.
"""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import axes, randomness

tfb = tfp.bijectors
tfd = tfp.distributions

INF = float('inf')

every_dtype = pytest.mark.parametrize(
  'dtype', [tf.float32, tf.float64], ids=lambda dtype: dtype.name
)


def normal(loc, scale, dtype=tf.float64):
  return tfd.Normal(tf.constant(loc, dtype), tf.constant(scale, dtype))


def diagonal(loc, dtype=tf.float64):
  return tfd.MultivariateNormalDiag(tf.constant(loc, dtype))


def double(x):
  return tf.constant(x, tf.float64)


def log_prob_at(densities, level, state):
  return densities.log_prob(level, densities.evaluate(level, state)).numpy()


# Selection of levels.


def test_at_level():
  parameter = np.arange(24).reshape([4, 3, 2])
  for level in (2, tf.constant(2)):
    selected = axes.at_level(tf.constant(parameter), level)
    np.testing.assert_array_equal(selected, parameter[2])
  for level, rank, expected in (
    (range(0, 4), None, parameter),
    (range(1, 3), None, parameter[1:3]),
    (range(1, 3), 3, parameter[1:3]),
    (range(0, 4), 5, parameter[:, np.newaxis, np.newaxis]),
    (range(1, 3), 4, parameter[1:3, np.newaxis]),
  ):
    selected = axes.at_level(tf.constant(parameter), level, rank)
    np.testing.assert_array_equal(selected, expected)


# The geometric path.


@every_dtype
def test_geometric_path(dtype):
  """A path between Gaussians, its values and what a sampler asks it for."""
  path = nvi.GeometricPath(
    normal(0.0, 3.0, dtype),
    lambda x: np.log(2.0) + normal(1.0, 0.5, dtype).log_prob(x),
    num_densities=5,
  )
  assert path.num_densities == 5
  assert path.is_rollable
  assert path.event_shape == []
  assert path.dtype == path.float_dtype == dtype
  assert path.batch_shape == []
  assert not path.trainable_variables
  assert path.schedule.dtype == dtype
  np.testing.assert_array_equal(path.schedule, [0.0, 0.25, 0.5, 0.75, 1.0])
  x = np.linspace(-2.0, 3.0, 7)
  state = tf.constant(x, dtype)
  expected = np.stack(
    [
      (1 - beta) * scipy.stats.norm.logpdf(x, 0.0, 3.0)
      + beta * (np.log(2.0) + scipy.stats.norm.logpdf(x, 1.0, 0.5))
      for beta in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
  )
  tolerance = 1e-5 if dtype == tf.float32 else 1e-12
  for i in range(5):
    for level in (i, tf.constant(i)):
      np.testing.assert_allclose(
        log_prob_at(path, level, state), expected[i], rtol=tolerance
      )
  # All levels at once, each at states of its own: axis 1 is over levels.
  states = tf.stack([state + i for i in range(4)], axis=1)
  at_once = log_prob_at(path, range(1, 5), states)
  one_by_one = [log_prob_at(path, i + 1, state + i) for i in range(4)]
  np.testing.assert_allclose(
    at_once, np.stack(one_by_one, axis=1), rtol=tolerance
  )


def test_schedule():
  ends = normal(0.0, 1.0), normal(1.0, 1.0)
  schedule = [0.0, 0.1, 0.7, 1.0]
  for num_densities in (None, 4):
    path = nvi.GeometricPath(*ends, num_densities, schedule=schedule)
    np.testing.assert_array_equal(path.schedule, schedule)
    assert path.num_densities == 4


@every_dtype
@pytest.mark.parametrize('batch_shape', [[], [3], [2, 3]], ids=str)
def test_learned_schedule(dtype, batch_shape):
  """Starts where it is told to, and increases whatever its variables are."""
  start = [0.0, 0.05, 0.6, 0.9, 1.0]
  path = nvi.GeometricPath(
    normal(0.0, 1.0, dtype),
    normal(1.0, 1.0, dtype),
    schedule=start,
    learnable=True,
    batch_shape=batch_shape,
  )
  (variable,) = path.trainable_variables
  assert variable.dtype == dtype
  assert path.batch_shape == batch_shape
  assert path.schedule.shape == [*batch_shape, 5]
  np.testing.assert_allclose(
    path.schedule, np.broadcast_to(start, path.schedule.shape), atol=1e-6
  )
  rng = np.random.default_rng(0)
  for _ in range(20):
    variable.assign(rng.normal(size=variable.shape))
    schedule = path.schedule.numpy()
    assert np.all(schedule[..., 0] == 0.0)
    assert np.all(schedule[..., -1] == 1.0)
    assert np.all(np.diff(schedule, axis=-1) > 0.0)


def test_learned_schedules_of_batch_members():
  """Each batch member's densities are those of its own schedule."""
  path = nvi.GeometricPath(
    normal(0.0, 3.0), normal(1.0, 0.5), 4, learnable=True, batch_shape=[2]
  )
  (variable,) = path.trainable_variables
  variable.assign(np.random.default_rng(0).normal(size=variable.shape))
  schedule = path.schedule.numpy()
  assert np.all(schedule[0, 1:3] != schedule[1, 1:3])
  x = np.random.default_rng(1).normal(size=[5, 2])
  expected = np.stack(
    [
      (1.0 - beta) * scipy.stats.norm.logpdf(x, 0.0, 3.0)
      + beta * scipy.stats.norm.logpdf(x, 1.0, 0.5)
      for beta in schedule.T
    ]
  )
  for i in range(4):
    for level in (i, tf.constant(i)):
      np.testing.assert_allclose(
        log_prob_at(path, level, tf.constant(x)), expected[i]
      )
  states = tf.tile(tf.constant(x)[:, tf.newaxis], [1, 3, 1])
  np.testing.assert_allclose(
    log_prob_at(path, range(1, 4), states),
    np.transpose(expected[1:], [1, 0, 2]),
  )


def test_nothing_to_learn_between_two_densities():
  path = nvi.GeometricPath(
    normal(0.0, 1.0), normal(1.0, 1.0), 2, learnable=True
  )
  assert not path.trainable_variables
  np.testing.assert_array_equal(path.schedule, [0.0, 1.0])


class Bounded:
  """A density over an interval of the real line that cannot be drawn from."""

  dtype = tf.float64
  event_shape = tf.TensorShape([])

  def unnormalized_log_prob(self, x):
    return tfd.Uniform(double(0.0), double(2.0)).log_prob(x)


def test_ends_of_density_zero():
  """`0 * -inf` is 0 at the other end; between them -inf, gradients not NaN."""
  path = nvi.GeometricPath(
    Bounded(),
    lambda x: tf.where(x > 1.0, np.log(3.0) - x, -INF),
    3,
    learnable=True,
    zero_log_ratio=-INF,
  )
  x = tf.constant([0.5, 1.5, 2.5, -1.0], tf.float64)
  np.testing.assert_allclose(
    log_prob_at(path, 0, x), [np.log(0.5), np.log(0.5), -INF, -INF]
  )
  np.testing.assert_allclose(
    log_prob_at(path, 1, x),
    [-INF, 0.5 * np.log(0.5) + 0.5 * (np.log(3.0) - 1.5), -INF, -INF],
  )
  np.testing.assert_allclose(
    log_prob_at(path, 2, x), [-INF, np.log(3.0) - 1.5, np.log(3.0) - 2.5, -INF]
  )
  for level in range(3):
    with tf.GradientTape() as tape:
      tape.watch(x)
      log_prob = path.log_prob(level, path.evaluate(level, x))
    gradients = tape.gradient(
      log_prob,
      [x, *path.trainable_variables],
      unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    for gradient in gradients:
      assert not np.any(np.isnan(gradient))


# Spaces.


LINE = np.linspace(-30.0, 30.0, 60_001)


@pytest.mark.parametrize(
  'make, inside',
  [
    (lambda c: tfd.Gamma(c(2.0), c(1.5)), lambda x: x > 0.0),
    (lambda c: tfd.Beta(c(2.0), c(1.5)), lambda x: (x > 0.0) & (x < 1.0)),
    (lambda c: tfd.Uniform(c(-2.0), c(3.0)), lambda x: (x > -2.0) & (x < 3.0)),
    (lambda c: tfd.LogNormal(c(0.5), c(0.7)), lambda x: x > 0.0),
    (lambda c: tfd.Exponential(c(2.0)), lambda x: x >= 0.0),
    (lambda c: tfd.Normal(c(0.5), c(0.7)), np.isfinite),
  ],
  ids=['gamma', 'beta', 'uniform', 'log_normal', 'exponential', 'normal'],
)
def test_constrained_supports(make, inside):
  """Each end integrates to one over the real space; levels are in between."""
  target = make(double)
  path = nvi.GeometricPath(target, target, 3)
  state = tf.constant(LINE)
  for level in range(3):
    density = np.exp(log_prob_at(path, level, state))
    np.testing.assert_allclose(np.trapezoid(density, LINE), 1.0, rtol=1e-6)
  values = path.forward(state[20_000:40_000:100]).numpy()
  assert np.all(inside(values))
  np.testing.assert_allclose(
    path.inverse(values), state[20_000:40_000:100], atol=1e-6
  )
  # As by the formula for a change of variables, with a numerical derivative.
  z, h = np.array([-0.7, 0.1, 1.3]), 1e-5
  derivative = (path.forward(z + h) - path.forward(z - h)) / (2 * h)
  np.testing.assert_allclose(
    log_prob_at(path, 0, tf.constant(z)),
    target.log_prob(path.forward(z)) + np.log(derivative),
    rtol=1e-7,
  )


def test_simplex():
  """Three parts that sum to one are two real numbers, with their Jacobian.

  TFP measures areas on the simplex itself, which are sqrt(3) times those of its
  projection that the Dirichlet density is over: a factor common to all levels.
  """
  concentration = tf.constant([2.0, 1.5, 3.0], tf.float64)
  path = nvi.GeometricPath(
    tfd.Dirichlet(tf.ones([3], tf.float64)), tfd.Dirichlet(concentration), 2
  )
  assert path.event_shape == [2]
  line = np.linspace(-25.0, 25.0, 501)
  grid = np.stack(np.meshgrid(line, line), axis=-1).reshape([-1, 2])
  for level in (0, 1):
    density = np.exp(log_prob_at(path, level, tf.constant(grid)))
    total = density.sum() * (line[1] - line[0]) ** 2
    np.testing.assert_allclose(total, np.sqrt(3.0), rtol=1e-6)
  values = path.forward(tf.constant(grid[::1000])).numpy()
  assert values.shape[-1] == 3
  np.testing.assert_allclose(values.sum(axis=-1), 1.0)


def test_simplex_within_a_structure():
  """Bijectors of parts are made where they are needed, not at the start."""
  joint = tfd.JointDistributionNamed(
    dict(
      shares=tfd.Dirichlet(tf.ones([3], tf.float64)),
      scale=tfd.Gamma(double(3.0), double(2.0)),
    )
  )
  path = nvi.GeometricPath(joint, joint, 2)
  assert path.event_shape['shares'] == [2]
  values = joint.sample(5, seed=(1, 2))
  again = path.forward(path.inverse(values))
  tf.nest.map_structure(np.testing.assert_allclose, values, again)


def make_structured(joint):
  """A prior and its posterior density over a positive number and shares."""
  scale = tfd.Gamma(double(3.0), double(2.0))
  shares = tfd.Independent(
    tfd.Beta(double([1.0, 2.0, 3.0]), double(2.0)),
    reinterpreted_batch_ndims=1,
  )
  observed = double([0.2, -0.3, 1.0])

  def y(shares, scale):
    return tfd.Independent(
      tfd.Normal(shares, scale), reinterpreted_batch_ndims=1, name='y'
    )

  if joint == 'dict':
    parts = dict(scale=scale, shares=shares)
    prior = tfd.JointDistributionNamed(parts)
    model = tfd.JointDistributionNamedAutoBatched(dict(parts, y=y))
    return prior, model.experimental_pin(y=observed)
  if joint == 'list':
    prior = tfd.JointDistributionSequential([scale, shares])
    model = tfd.JointDistributionSequentialAutoBatched([scale, shares, y])
    return prior, model.experimental_pin(None, None, observed)

  root = tfd.JointDistributionCoroutine.Root

  def draw_prior():
    a = yield root(scale.copy(name='scale'))
    b = yield root(shares.copy(name='shares'))
    return a, b

  def draw_all():
    a, b = yield from draw_prior()
    yield y(b, a)

  prior = tfd.JointDistributionCoroutine(draw_prior)
  model = tfd.JointDistributionCoroutineAutoBatched(draw_all)
  return prior, model.experimental_pin(y=observed)


@pytest.mark.parametrize('joint', ['dict', 'list', 'namedtuple'])
def test_structures(joint):
  prior, posterior = make_structured(joint)
  path = nvi.GeometricPath(prior, posterior, schedule=[0.0, 0.3, 1.0])
  assert path.batch_shape == []
  assert path.float_dtype == tf.float64
  shapes = [tf.TensorShape(s) for s in tf.nest.flatten(path.event_shape)]
  assert shapes == [[], [3]]
  values = prior.sample(9, seed=(1, 2))
  tf.nest.assert_same_structure(path.event_shape, values, check_types=False)
  state = path.inverse(values)
  again = path.forward(state)
  tf.nest.assert_same_structure(values, again)
  tf.nest.map_structure(np.testing.assert_allclose, values, again)
  scale, shares = (v.numpy() for v in tf.nest.flatten(values))
  log_prior = scipy.stats.gamma.logpdf(scale, 3.0, scale=0.5) + (
    scipy.stats.beta.logpdf(shares, [1.0, 2.0, 3.0], 2.0).sum(axis=-1)
  )
  log_likelihood = scipy.stats.norm.logpdf(
    [0.2, -0.3, 1.0], shares, scale[:, np.newaxis]
  ).sum(axis=-1)
  # The derivative of softplus is 1 - exp(-softplus), that of sigmoid is
  # sigmoid (1 - sigmoid).
  log_jacobian = np.log1p(-np.exp(-scale)) + np.log(
    shares * (1.0 - shares)
  ).sum(axis=-1)
  for level, beta in enumerate((0.0, 0.3, 1.0)):
    np.testing.assert_allclose(
      log_prob_at(path, level, state),
      log_prior + beta * log_likelihood + log_jacobian,
      rtol=1e-9,
    )


def test_given_event_space_bijector():
  """In the place of the default one, and for callables, which have none."""
  path = nvi.GeometricPath(
    tfd.LogNormal(tf.constant(0.0, tf.float64), 1.0),
    lambda x: -x,
    2,
    event_space_bijector=tfb.Exp(),
  )
  z = np.array([-1.0, 0.0, 2.0])
  np.testing.assert_allclose(path.forward(z), np.exp(z))
  np.testing.assert_allclose(
    log_prob_at(path, 1, tf.constant(z)), -np.exp(z) + z
  )
  # An end that has a space of its own gives the callable its.
  path = nvi.GeometricPath(
    tfd.Exponential(tf.constant(1.0, tf.float64)), lambda x: -2.0 * x, 2
  )
  density = np.exp(log_prob_at(path, 1, tf.constant(LINE)))
  np.testing.assert_allclose(np.trapezoid(density, LINE), 0.5, rtol=1e-6)


def test_batches_of_densities():
  target = normal([[0.0], [1.0]], [1.0, 2.0, 3.0])
  path = nvi.GeometricPath(normal(np.zeros([2, 3]), 1.0), target, 3)
  assert path.batch_shape == [2, 3]
  x = tf.constant(np.random.default_rng(0).normal(size=[5, 2, 3]))
  np.testing.assert_allclose(log_prob_at(path, 2, x), target.log_prob(x))


@pytest.mark.parametrize(
  'own_shape', [[], [3], [1], [2, 1], [1, 3], [1, 1], [2, 3]], ids=str
)
def test_draws_for_batches(own_shape):
  """Each member has draws of its own, at its own parameters."""
  loc = 100.0 * np.arange(np.prod(own_shape)).reshape(own_shape)
  values = nvi.densities.draw(
    tfd.MultivariateNormalDiag(double(loc[..., np.newaxis] + np.zeros(4))),
    5,
    [2, 3],
    randomness.as_seed(1),
  ).numpy()
  assert values.shape == (5, 2, 3, 4)
  deviations = values - np.broadcast_to(loc, [2, 3])[..., np.newaxis]
  assert np.all(np.abs(deviations) < 10.0)
  assert len(np.unique(deviations)) == deviations.size


def test_draws_of_auto_batched_models():
  """In the order of their batch and sample dimensions, as of other models."""

  def sample(cls):
    model = cls(
      dict(
        a=tfd.Normal(double([0.0, 100.0]), 1.0),
        b=lambda a: tfd.Normal(a + 1_000.0, double(1.0)),
      ),
      batch_ndims=1,
    )
    return nvi.densities.draw(model, 5, [3, 2], randomness.as_seed(1))

  values = sample(tfd.JointDistributionNamedAutoBatched)
  for part, offset in (('a', 0.0), ('b', 1_000.0)):
    x = values[part].numpy()
    assert x.shape == (5, 3, 2)
    assert len(np.unique(x)) == x.size
    assert np.all(np.abs(x - offset - [0.0, 100.0]) < 20.0)


# Explicit sequences.


def test_explicit_densities():
  scales = (4.0, 2.0, 1.0)
  densities = nvi.ExplicitDensities(
    [
      normal(0.0, scales[0]),
      lambda x: 3.0 + normal(0.0, scales[1]).log_prob(x),
      normal(0.0, scales[2]),
    ]
  )
  assert densities.num_densities == 3
  assert not densities.is_rollable
  x = np.linspace(-1.0, 2.0, 4)
  for level, (scale, constant) in enumerate(
    zip(scales, (0.0, 3.0, 0.0), strict=True)
  ):
    np.testing.assert_allclose(
      log_prob_at(densities, level, tf.constant(x)),
      scipy.stats.norm.logpdf(x, 0.0, scale) + constant,
    )


def test_explicit_densities_over_a_constrained_support():
  densities = nvi.ExplicitDensities(
    [tfd.Gamma(double(a), double(1.0)) for a in (1.0, 2.0, 3.0)]
  )
  for level in range(3):
    density = np.exp(log_prob_at(densities, level, tf.constant(LINE)))
    np.testing.assert_allclose(np.trapezoid(density, LINE), 1.0, rtol=1e-6)


# Gradients.


def test_terms_of_fixed_states():
  """Differentiable in the densities' variables, not in the state."""
  x = tf.constant([0.5, -1.0], tf.float64)
  shift = tf.Variable(0.3, dtype=tf.float64)
  counts = []

  def target(y):
    counts.append(1)
    return -0.5 * (y - shift) ** 2

  for path, has_variables in (
    (nvi.GeometricPath(normal(0.0, 1.0), target, 2), True),
    (nvi.GeometricPath(normal(0.0, 1.0), normal(1.0, 1.0), 2), False),
  ):
    with tf.GradientTape() as tape:
      tape.watch(x)
      terms = path.evaluate(1, x)
      before = len(counts)
      fixed = path.evaluate_fixed(1, x, terms)
      log_prob = path.log_prob(1, fixed)
    # Where there is nothing to differentiate, nothing is evaluated.
    assert len(counts) - before == int(has_variables)
    for a, b in zip(fixed, terms, strict=True):
      np.testing.assert_array_equal(a, b)
    by_state, by_shift = tape.gradient(log_prob, [x, shift])
    assert by_state is None
    if has_variables:
      np.testing.assert_allclose(by_shift, np.sum(x - 0.3))
    else:
      assert by_shift is None


def test_variables_are_found():
  """Those of the schedule, and of ends that are modules."""
  loc = tf.Variable(0.5, dtype=tf.float64)
  path = nvi.GeometricPath(
    tfd.Normal(loc, tf.constant(1.0, tf.float64)),
    normal(0.0, 1.0),
    4,
    learnable=True,
  )
  assert len(path.trainable_variables) == 2
  assert any(v is loc for v in path.trainable_variables)


# Bad input.


INITIAL = tfd.Normal(0.0, 2.0)
VECTOR = tfd.MultivariateNormalDiag([0.0, 0.0], [2.0, 2.0])
JOINT = tfd.JointDistributionNamed(dict(a=INITIAL))


@pytest.mark.parametrize(
  'initial, target, match',
  [
    (INITIAL, VECTOR, r'event shapes.*float32\[2\].* and .*float32\[\]'),
    (INITIAL, diagonal([0.0] * 3), 'same structure, event shapes'),
    (INITIAL, normal(0.0, 1.0), 'dtypes; got .*float64.* and .*float32'),
    (INITIAL, JOINT, 'same structure'),
    (JOINT, INITIAL, 'same structure'),
    (
      JOINT,
      tfd.JointDistributionNamed(dict(b=INITIAL)),
      'same structure',
    ),
  ],
)
def test_ends_over_different_spaces(initial, target, match):
  with pytest.raises(
    ValueError, match=f'`target` and `initial` must .*{match}'
  ):
    nvi.GeometricPath(initial, target, 3)


def test_ends_in_other_containers():
  """A list and a tuple, or values by position and by name, are not the same."""

  def sequence(parts):
    return tfd.JointDistributionSequential(parts)

  for initial, target in (
    (sequence([INITIAL, INITIAL]), sequence((INITIAL, INITIAL))),
    (
      sequence([INITIAL, INITIAL]),
      tfd.JointDistributionNamed(dict(a=INITIAL, b=INITIAL)),
    ),
  ):
    with pytest.raises(ValueError, match='same structure'):
      nvi.GeometricPath(initial, target, 3)


def test_parts_of_different_batch_shapes():
  joint = tfd.JointDistributionNamed(
    dict(a=tfd.Normal(tf.zeros([3]), 1.0), b=INITIAL)
  )
  match = r'`initial` must draw .*\[256, 3\].*; it draws .*\[256\]'
  with pytest.raises(ValueError, match=match):
    nvi.GeometricPath(joint, joint, 3)


def test_discrete_densities():
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical([0.0, 0.0]), tfd.Normal([0.0, 1.0], 1.0)
  )
  for initial, target, is_discrete in (
    (tfd.Poisson(0.3), tfd.Poisson(0.2), True),
    (tfd.Categorical([0.0, 0.0]), tfd.Categorical([0.0, 1.0]), True),
    (INITIAL, mixture, False),
    (INITIAL, lambda x: -(x**2), False),
    (tfd.Gamma(2.0, 2.0), tfd.Gamma(3.0, 2.0), False),
  ):
    assert nvi.GeometricPath(initial, target, 2).is_discrete == is_discrete


def test_arguments_of_another_kind():
  with pytest.raises(TypeError, match='`event_space_bijector` must be.*got 3'):
    nvi.GeometricPath(INITIAL, INITIAL, 2, event_space_bijector=3)
  for densities in (INITIAL, None, 3):
    with pytest.raises(TypeError, match='`densities` must be a list of densit'):
      nvi.ExplicitDensities(densities)


@pytest.mark.parametrize('target', [None, 3.0, 'normal', [INITIAL]], ids=repr)
def test_not_a_density(target):
  with pytest.raises(TypeError, match='`target` must be a tfd.Distribution'):
    nvi.GeometricPath(INITIAL, target, 3)
  with pytest.raises(TypeError, match=r'`densities\[1\]` must be'):
    nvi.ExplicitDensities([INITIAL, target, INITIAL])


def test_callables_only():
  with pytest.raises(ValueError, match='`initial`, `target` must have an `eve'):
    nvi.GeometricPath(lambda x: -(x**2), lambda x: -x, 3)


@pytest.mark.parametrize(
  'arguments, error, match',
  [
    (dict(), ValueError, '`num_densities` and `schedule` must be given'),
    (dict(num_densities=1), ValueError, '`num_densities` must be .*2.*got 1'),
    (dict(num_densities=0), ValueError, '`num_densities` must be .*2.*got 0'),
    (dict(num_densities=-3), ValueError, '`num_densities` must be .*2'),
    (dict(num_densities=2.5), (TypeError, ValueError), '`num_densities` must'),
    (dict(num_densities='3'), (TypeError, ValueError), '`num_densities` must'),
    (
      dict(num_densities=4, schedule=[0.0, 0.5, 1.0]),
      ValueError,
      '`schedule` must have `num_densities` = 4 values; got 3',
    ),
    *(
      (dict(schedule=schedule), ValueError, '`schedule` must increase from 0')
      for schedule in (
        [0.0, 0.5, 0.5, 1.0],
        [0.0, 0.7, 0.5, 1.0],
        [0.1, 0.5, 1.0],
        [0.0, 0.5, 0.9],
        [0.0, np.nan, 1.0],
      )
    ),
    (dict(schedule=[0.0]), ValueError, '`schedule` must .*at least 2'),
    (dict(schedule='linear'), TypeError, '`schedule` must be a vector of floa'),
    (dict(schedule=[[0.0, 1.0]]), ValueError, '`schedule` must be a vector'),
  ],
)
def test_bad_schedule(arguments, error, match):
  with pytest.raises(error, match=match):
    nvi.GeometricPath(INITIAL, INITIAL, **arguments)


@pytest.mark.parametrize('densities', [[], [INITIAL]])
def test_too_few_densities(densities):
  with pytest.raises(ValueError, match='`densities` must have at least 2'):
    nvi.ExplicitDensities(densities)


@pytest.mark.parametrize(
  'density, match',
  [
    (lambda x: x * np.nan, 'numbers or -inf; it returned NaN'),
    (lambda x: tf.where(x > 1.0, INF, x), r'numbers or -inf; .* \+inf'),
    (lambda x: tf.cast(-(x**2), tf.float64), 'float32.*returned float64'),
    (lambda x: tf.cast(x, tf.int32), 'dtype float32.*returned int32'),
    (lambda x: -tf.reduce_sum(x**2), r'for each particle.*shape \(\)'),
    (lambda x: x[tf.newaxis], r'for each particle.*shape \(1, 256\)'),
    (lambda x: x[:, tf.newaxis], r'for each particle.*shape \(256, 1\)'),
    (lambda x: x[:, tf.newaxis] + [0.0, 1.0], r'each particle.*\(256, 2\)'),
    (lambda x: x[1:], r'for each particle.*shape \(255,\)'),
    (lambda x: None, 'return'),
  ],
  ids=[
    'nan',
    'infinite',
    'float64',
    'int32',
    'total',
    'front',
    'back',
    'two',
    'fewer',
    'none',
  ],
)
def test_a_density_that_returns_something_else(density, match):
  with pytest.raises((TypeError, ValueError), match=f'`target` must.*{match}'):
    nvi.GeometricPath(INITIAL, density, 3)
  with pytest.raises((TypeError, ValueError), match=r'`densities\[1\]` must'):
    nvi.ExplicitDensities([INITIAL, density, INITIAL])


@pytest.mark.parametrize(
  'density',
  [
    lambda x: -tf.reduce_sum(x**2, axis=0),
    lambda x: -tf.reduce_sum(x**2, axis=-1, keepdims=True),
    tfd.Normal(0.0, 1.0).log_prob,
  ],
  ids=['over_particles', 'keepdims', 'for_each_axis'],
)
def test_a_density_of_vectors_that_does_not_sum_them_up(density):
  """What it returns for each axis must not be taken for a batch."""
  with pytest.raises(ValueError, match='`target` must return one log density'):
    nvi.GeometricPath(VECTOR, density, 3)


def test_batch_shapes_that_do_not_agree():

  def members(n):
    return tfd.Normal(tf.zeros([n]), 1.0)

  with pytest.raises(ValueError, match='`target`.*batch|batch.*`target`'):
    nvi.GeometricPath(members(2), members(3), 3)
  with pytest.raises(ValueError, match='`batch_shape`'):
    nvi.GeometricPath(
      members(2), members(2), 3, learnable=True, batch_shape=[3]
    )


@pytest.mark.parametrize(
  'target', [tfd.Gamma(2.0, 2.0), tfd.Beta(2.0, 2.0)], ids=lambda d: d.name
)
def test_initial_outside_of_the_support(target):
  with pytest.raises(ValueError, match='initial.*support of `target`'):
    nvi.GeometricPath(INITIAL, target, 3)


def test_check_of_values():
  """What a sampler asks of an initial proposal of its own."""
  path = nvi.GeometricPath(tfd.Gamma(2.0, 2.0), tfd.Gamma(3.0, 2.0), 3)
  path.check(tf.constant([1.0, 2.0]))
  with pytest.raises(ValueError, match='initial.*support of `target`'):
    path.check(tf.constant([1.0, -2.0]))

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Estimated gradients agree with exact ones, on levels over the real line.

The levels' divergences are integrated numerically (`exact_gradients`), and
differentiated; the mean of an estimator over NUM_SEEDS independent runs must be
within 4 of its standard errors. Densities have normalizers that depend on their
parameters, so that the terms which correct for that count. Proposals are a
little wider than what they are weighted for, so that estimators have moments.

Self-normalized estimates have a bias, of order 1 / NUM_PARTICLES; with
NUM_SEEDS runs of NUM_PARTICLES particles it is a fraction of a standard error.

False alarms: seeds are fixed, so that a test passes or fails for good. Over
seeds, a comparison of one number rejects a correct estimator with a probability
of 1.7e-4 (Student's t, 63 degrees of freedom).
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests import exact_gradients as eg
from tests.exact_gradients import Level, log_normal
from tfp_nvi.objectives import level_by_level

tfb = tfp.bijectors
tfd = tfp.distributions

NUM_PARTICLES = 2**13
NUM_SEEDS = 64

# How small the effective sample size must be, as a share of the particles.
POLICIES = {'never': 0.0, 'sometimes': 0.88, 'always': 2.0}

every_csiszar_function = pytest.mark.parametrize('f', eg.CSISZAR_PARAMETERS)


def every_csiszar_function_but(slow):
  """All Csiszar functions, of which one more is left to the slow tests."""
  return pytest.mark.parametrize(
    'f',
    [
      pytest.param(*x.values, marks=pytest.mark.slow)
      if x.values == (slow,)
      else x
      for x in eg.CSISZAR_PARAMETERS
    ],
  )


def variable(name, *values):
  """A variable in double precision."""
  value = values[0] if len(values) == 1 else values
  return tf.Variable(value, dtype=tf.float64, name=name)


def normal(loc, log_scale):
  return tfd.Normal(loc, tf.exp(log_scale))


def tilted(tilt, scale):
  """A normal density without its normalizer, which depends on `tilt`."""
  return lambda z: tilt * z - z**2 / (2.0 * scale**2)


def kernel(slope, parameters):
  """A linear normal kernel."""
  return lambda x: normal(slope * x + parameters[0], parameters[1])


def log_kernel(slope, parameters):
  """Its log density at `x`, given `y`."""
  return lambda x, y: log_normal(x, slope * y + parameters[0], parameters[1])


def mean(log_density, values):
  """The mean of values on a grid, under an unnormalized density."""
  probs = tf.nn.softmax(tf.reshape(log_density, [-1]))
  return tf.reduce_sum(probs * tf.reshape(values, [-1]))


class Kernels:
  """Three densities, an initial proposal, and linear normal kernels."""

  def __init__(self):
    self.tilts = [variable('tilt_0', 0.3), variable('tilt_1', 0.4)]
    self.loc = variable('loc_2', 0.7)
    self.initial_loc = variable('initial_loc', 0.2)
    self.initial_scale = variable('initial_scale', 1.4)
    self.forward = [
      variable('forward_1', 0.3, np.log(0.9)),
      variable('forward_2', 0.2, np.log(0.85)),
    ]
    self.reverse = [
      variable('reverse_1', -0.1, np.log(0.75)),
      variable('reverse_2', 0.1, np.log(0.7)),
    ]
    self.density_variables = [*self.tilts, self.loc]
    self.variables = [
      *self.density_variables,
      self.initial_loc,
      self.initial_scale,
      *self.forward,
      *self.reverse,
    ]
    self.flow_variables = ()
    self.log_densities = [
      tilted(self.tilts[0], 1.2),
      tilted(self.tilts[1], 1.1),
      lambda z: log_normal(z, self.loc, 0.0),
    ]

  def sampler(self, criterion):
    densities = nvi.ExplicitDensities(
      [*self.log_densities[:2], tfd.Normal(self.loc, np.float64(1.0))]
    )
    transitions = [
      nvi.KernelPair(kernel(0.8, forward), kernel(0.6, reverse))
      for forward, reverse in zip(self.forward, self.reverse, strict=True)
    ]
    return nvi.NestedSampler(
      densities,
      transitions,
      initial_proposal=tfd.Normal(self.initial_loc, self.initial_scale),
      resample_criterion_fn=criterion,
    )

  def levels(self):
    (z,) = eg.mesh(1)
    levels = [
      Level(
        log_normal(z, self.initial_loc, tf.math.log(self.initial_scale)),
        self.log_densities[0](z),
      )
    ]
    y, z = eg.mesh(2)
    for i in range(2):
      levels.append(
        Level(
          self.log_densities[i](y) + log_kernel(0.8, self.forward[i])(z, y),
          self.log_densities[i + 1](z) + log_kernel(0.6, self.reverse[i])(y, z),
        )
      )
    return levels

  def unweighted_loss(self, cut):
    """The sum over levels of the means of minus the log incremental weights.

    The means are over what the kernels up to this level draw from the initial
    proposal. This is minus the evidence lower bound of the sequence.

    Args:
      cut: Python `bool`: whether parameters of earlier levels are constants.

    Returns:
      loss: Scalar `Tensor`, up to a constant.
    """
    loc, log_scale = self.initial_loc, tf.math.log(self.initial_scale)
    (z,) = eg.mesh(1)
    log_draw = log_normal(z, loc, log_scale)
    loss = mean(log_draw, log_draw - self.log_densities[0](z))
    y, z = eg.mesh(2)
    for i in range(2):
      log_source = log_normal(y, loc, log_scale)
      if cut:
        log_source = tf.stop_gradient(log_source)
      log_forward = log_kernel(0.8, self.forward[i])(z, y)
      log_weight = (
        self.log_densities[i + 1](z)
        + log_kernel(0.6, self.reverse[i])(y, z)
        - self.log_densities[i](y)
        - log_forward
      )
      loss -= mean(log_source + log_forward, log_weight)
      variance = 0.8**2 * tf.exp(2.0 * log_scale) + tf.exp(
        2.0 * self.forward[i][1]
      )
      loc = 0.8 * loc + self.forward[i][0]
      log_scale = 0.5 * tf.math.log(variance)
    return loss


class Path:
  """A learned path between two densities, and one stack of kernels."""

  def __init__(self):
    self.loc = variable('loc', 0.1)
    self.tilt = variable('tilt', 0.8)
    self.path = nvi.GeometricPath(
      tfd.Normal(self.loc, np.float64(1.5)),
      tilted(self.tilt, 1.0),
      schedule=[0.0, 0.3, 0.65, 1.0],
      learnable=True,
    )
    (self.schedule,) = (
      v for v in self.path.trainable_variables if v is not self.loc
    )
    self.transitions = nvi.GaussianTransitions(
      self.path, hidden_units=[], scale=2.0
    )
    self.networks = []
    for network, weights, biases in (
      (
        self.transitions._forward_network,
        [[-0.2, 0.02], [-0.2, 0.01], [-0.2, 0.0]],
        [[0.2, 0.6], [0.1, 0.6], [0.0, 0.6]],
      ),
      (
        self.transitions._reverse_network,
        [[-0.32, 0.02], [-0.35, 0.01], [-0.42, -0.01]],
        [[-0.1, 0.41], [0.1, 0.31], [0.0, 0.2]],
      ),
    ):
      network._weights[0].assign(np.reshape(weights, [3, 1, 2]))
      network._biases[0].assign(biases)
      self.networks.append((network._weights[0], network._biases[0]))
    self.density_variables = [self.loc, self.tilt, self.schedule]
    self.variables = [
      *self.density_variables,
      *self.networks[0],
      *self.networks[1],
    ]
    self.flow_variables = ()

  def sampler(self, criterion):
    return nvi.NestedSampler(
      self.path, self.transitions, resample_criterion_fn=criterion
    )

  def betas(self):
    steps = tf.exp(self.schedule[1:])
    inner = tf.sigmoid(tf.cumsum(tf.concat([self.schedule[:1], steps], axis=0)))
    return tf.concat([[0.0], inner, [1.0]], axis=0)

  def levels(self):
    betas = self.betas()

    def log_density(i, z):
      return (1.0 - betas[i]) * log_normal(z, self.loc, np.log(1.5)) + betas[
        i
      ] * (self.tilt * z - 0.5 * z**2)

    def log_kernel(network, i, x, y):
      weights, biases = network
      loc, scale = (weights[i, 0, j] * y + biases[i, j] for j in range(2))
      return log_normal(x, y + loc, tf.math.log(tf.nn.softplus(scale)))

    y, z = eg.mesh(2)
    return [
      Level(
        log_density(i, y) + log_kernel(self.networks[0], i, z, y),
        log_density(i + 1, z) + log_kernel(self.networks[1], i, y, z),
      )
      for i in range(3)
    ]


class Compositions:
  """Levels with a flow and a kernel, two kernels, and a flow and MCMC."""

  def __init__(self):
    self.loc = variable('loc_0', 0.2)
    self.tilts = [variable(f'tilt_{i + 1}', 0.3 + 0.1 * i) for i in range(3)]
    self.shift = variable('shift', 0.3)
    self.log_scale = variable('log_scale', np.log(0.9))
    self.skewness = variable('skewness', 0.1)
    self.forward = [
      variable('forward_1', 0.2, np.log(0.9)),
      variable('forward_2a', 0.2, np.log(0.85)),
      variable('forward_2b', 0.1, np.log(0.8)),
    ]
    self.reverse = [
      variable('reverse_1', -0.1, np.log(0.75)),
      variable('reverse_2a', 0.1, np.log(0.7)),
      variable('reverse_2b', -0.1, np.log(0.7)),
    ]
    self.flow_variables = [self.shift, self.log_scale, self.skewness]
    self.density_variables = [self.loc, *self.tilts]
    self.variables = [
      *self.density_variables,
      *self.flow_variables,
      *self.forward,
      *self.reverse,
    ]
    self.log_densities = [
      lambda z: log_normal(z, self.loc, np.log(1.3)),
      tilted(self.tilts[0], 1.1),
      tilted(self.tilts[1], 1.0),
      tilted(self.tilts[2], 0.8),
    ]

  def sampler(self, criterion):
    densities = nvi.ExplicitDensities(
      [tfd.Normal(self.loc, np.float64(1.3)), *self.log_densities[1:]]
    )
    slopes = [(0.8, 0.6), (0.8, 0.6), (0.7, 0.6)]
    pairs = [
      nvi.KernelPair(kernel(a, forward), kernel(b, reverse))
      for (a, b), forward, reverse in zip(
        slopes, self.forward, self.reverse, strict=True
      )
    ]
    affine = tfb.Chain(
      [tfb.Shift(self.shift), tfb.Scale(log_scale=self.log_scale)]
    )
    skew = tfb.SinhArcsinh(self.skewness, tf.constant(1.0, tf.float64))
    walk = nvi.MCMCTransition(
      lambda target_log_prob_fn: tfp.mcmc.RandomWalkMetropolis(
        target_log_prob_fn, tfp.mcmc.random_walk_normal_fn(0.5)
      )
    )
    return nvi.NestedSampler(
      densities,
      [
        nvi.Composition([nvi.BijectorTransition(affine), pairs[0]]),
        nvi.Composition([pairs[1], pairs[2]]),
        nvi.Composition([nvi.BijectorTransition(skew), walk]),
      ],
      resample_criterion_fn=criterion,
    )

  def levels(self):
    y, z = eg.mesh(2)
    u = tf.exp(self.log_scale) * y + self.shift
    flow_and_kernel = Level(
      self.log_densities[0](y) + log_kernel(0.8, self.forward[0])(z, u),
      self.log_densities[1](z)
      + log_kernel(0.6, self.reverse[0])(u, z)
      + self.log_scale,
    )
    y, x, z = eg.mesh(3, num_nodes=61, radius=9.0)
    two_kernels = Level(
      self.log_densities[1](y)
      + log_kernel(0.8, self.forward[1])(x, y)
      + log_kernel(0.7, self.forward[2])(z, x),
      self.log_densities[2](z)
      + log_kernel(0.6, self.reverse[2])(x, z)
      + log_kernel(0.6, self.reverse[1])(y, x),
    )
    # What follows a Metropolis step does not change its weight.
    (y,) = eg.mesh(1)
    angle = tf.asinh(y) + self.skewness
    flow = Level(
      self.log_densities[2](y),
      self.log_densities[3](tf.sinh(angle))
      + tf.math.log(tf.cosh(angle) / tf.sqrt(1.0 + y**2)),
    )
    return [flow_and_kernel, two_kernels, flow]


class Problem:
  """A model, its estimators in one compiled function, and exact gradients."""

  def __init__(
    self, model, objectives_fn, num_particles=NUM_PARTICLES, jit_compile=True
  ):
    self.model = model
    self.exact = functools.cache(self._exact)
    self.seed = 3 if isinstance(model, Path) else 1
    self.names = [*eg.labels(model.variables), 'loss']
    # A threshold for the effective sample size, as a share of the particles.
    self.threshold = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    self.estimator = eg.Estimator(
      model.sampler(self.criterion),
      model.variables,
      objectives_fn,
      num_particles,
      jit_compile,
    )

  def criterion(self, particles):
    size = nvi.effective_sample_size(particles.log_weights)
    return size < self.threshold * particles.log_weights.shape[0]

  def estimate(self, f, policy, num_seeds=NUM_SEEDS):
    self.threshold.assign(POLICIES[policy])
    return self.estimator(f, eg.seeds(num_seeds, self.seed))

  def _exact(self, f):
    model = self.model
    return eg.exact(
      eg.CSISZAR_FUNCTIONS[f],
      model.levels,
      model.variables,
      model.flow_variables,
    )

  def assert_agrees(self, estimates, gradient, value):
    eg.assert_agrees(estimates, np.append(gradient, value), self.names)

  def indices(self, variables):
    """Where the elements of some variables are in a vector of estimates."""
    chosen = {name for v in variables for name in eg.labels([v])}
    return [i for i, name in enumerate(self.names) if name in chosen]


def two_objectives(f):
  """The default, and the score form of the forward side."""
  return [
    nvi.NestedDivergence(f),
    nvi.NestedDivergence(f, sides=nvi.Side.FORWARD, reparameterize=False),
  ]


@pytest.fixture(scope='module')
def kernels():
  return Problem(
    Kernels(),
    lambda f: [
      nvi.NestedDivergence(f, sides=nvi.Side.FORWARD),
      nvi.NestedDivergence(f, sides=nvi.Side.REVERSE),
      nvi.NestedDivergence(f, sides=nvi.Side.FORWARD, reparameterize=False),
    ],
  )


@pytest.fixture(scope='module')
def path():
  return Problem(Path(), two_objectives, num_particles=NUM_PARTICLES // 2)


@pytest.fixture(scope='module')
def compositions():
  return Problem(Compositions(), two_objectives)


def gradients(objective, sampler, variables, num_particles=64, seed=3):
  """Gradients as one vector, of one evaluation."""
  estimate, pairs = objective(sampler, num_particles, tf.constant([seed, 0]))
  return eg.concatenate(eg.gradients_by(pairs, variables)).numpy()


class TestExactGradients:
  """What estimates are compared with."""

  def test_divergences_of_normal_densities(self):
    # KL(N(0, s^2) || N(m, 1)) = (s^2 + m^2 - 1) / 2 - log s in closed form.
    loc, log_scale = variable('loc', 0.7), variable('log_scale', np.log(1.3))
    scale = 1.3
    (z,) = eg.mesh(1)

    def levels():
      return [Level(log_normal(z, 0.0, log_scale), log_normal(z, loc, 0.0))]

    variables = [loc, log_scale]
    result = eg.exact(tfp.vi.kl_reverse, levels, variables)
    np.testing.assert_allclose(
      result.value, (scale**2 + 0.7**2 - 1.0) / 2.0 - np.log(scale), rtol=1e-7
    )
    np.testing.assert_allclose(result.both, [0.7, scale**2 - 1.0], rtol=1e-7)
    np.testing.assert_allclose(result.forward, [0.0, result.both[1]])
    np.testing.assert_allclose(result.reverse, [result.both[0], 0.0])

    result = eg.exact(tfp.vi.kl_forward, levels, variables)
    value = (1.0 + 0.7**2) / (2.0 * scale**2) - 0.5 + np.log(scale)
    slope = 1.0 - (1.0 + 0.7**2) / scale**2
    np.testing.assert_allclose(result.value, value, rtol=1e-7)
    np.testing.assert_allclose(result.both, [0.7 / scale**2, slope], rtol=1e-7)

    # E[u^2] - 1, where u is the ratio of the densities.
    loc.assign(0.0)
    result = eg.exact(tfp.vi.pearson, levels, variables)
    np.testing.assert_allclose(
      result.value, scale**2 / np.sqrt(2.0 * scale**2 - 1.0) - 1.0, rtol=1e-7
    )

  @pytest.mark.parametrize('model_class', [Kernels, Path, Compositions])
  def test_finer_grid(self, model_class, monkeypatch):
    model = model_class()
    args = model.levels, model.variables, model.flow_variables
    results = {
      f: eg.exact(eg.CSISZAR_FUNCTIONS[f], *args) for f in eg.CSISZAR_FUNCTIONS
    }
    mesh = eg.mesh

    def finer(num_axes, num_nodes=261, radius=11.0):
      return mesh(num_axes, int(1.3 * num_nodes), 1.1 * radius)

    monkeypatch.setattr(eg, 'mesh', finer)
    for f, result in results.items():
      for x, y in zip(
        result, eg.exact(eg.CSISZAR_FUNCTIONS[f], *args), strict=True
      ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)

  def test_betas(self):
    model = Path()
    np.testing.assert_allclose(model.betas(), [0.0, 0.3, 0.65, 1.0])
    model.schedule.assign([-2.0, 0.4])
    np.testing.assert_allclose(model.betas(), model.path.schedule)


class TestNestedDivergence:
  """Estimates agree with exact gradients, and losses with divergences.

  All policies in one test, as they share what is compiled.
  """

  @every_csiszar_function
  def test_kernels(self, kernels, f):
    exact = kernels.exact(f)
    for policy in POLICIES:
      forward, reverse, score = kernels.estimate(f, policy)
      kernels.assert_agrees(forward, exact.forward, exact.value)
      kernels.assert_agrees(reverse, exact.reverse, exact.value)
      kernels.assert_agrees(score, exact.forward, exact.value)

  @every_csiszar_function_but('reverse_kl')
  def test_path(self, path, f):
    exact = path.exact(f)
    for policy in ('never', 'always'):
      pathwise, score = path.estimate(f, policy)
      path.assert_agrees(pathwise, exact.both, exact.value)
      path.assert_agrees(score, exact.forward, exact.value)

  @every_csiszar_function_but('forward_kl')
  def test_compositions(self, compositions, f):
    exact = compositions.exact(f)
    for policy in ('never', 'always'):
      pathwise, score = compositions.estimate(f, policy)
      compositions.assert_agrees(pathwise, exact.both, exact.value)
      compositions.assert_agrees(score, exact.forward, exact.value)


MUTATIONS = {
  'unchanged': lambda a: a,
  # With a direct term that vanishes in the mean for the reverse KL alone.
  'score kept': lambda a: eg.change_move(
    a, log_forward_fixed_sample=tf.zeros_like
  ),
  'no second derivative': lambda a: {
    **a,
    'sample_gradients_fn': lambda: [
      tf.zeros_like(x) for x in a['sample_gradients_fn']()
    ],
  },
  'reverse kernel fixed': lambda a: eg.change_move(
    a, log_reverse=tf.stop_gradient
  ),
  'source negated': lambda a: {**a, 'log_source': eg.negate(a['log_source'])},
  'target not centered': lambda a: {
    **a,
    'log_target_fixed_state': tf.stop_gradient(a['log_target_fixed_state']),
  },
  'weights dropped': lambda a: {
    **a,
    'log_weights': tf.zeros_like(a['log_weights']),
  },
}


def test_mutations():
  # Comparisons tell a correct estimator from wrong ones.
  problem = Problem(
    Kernels(),
    lambda f: [eg.Mutant(m, tfp.vi.kl_forward) for m in MUTATIONS.values()],
    num_particles=2**11,
    jit_compile=False,
  )
  exact = problem.exact('forward_kl')
  eg.assert_mutants_fail(
    MUTATIONS,
    problem.estimate('forward_kl', 'never', num_seeds=16),
    lambda estimate: problem.assert_agrees(estimate, exact.both, exact.value),
  )


def test_policies(kernels):
  # The one in between resamples at the second level, and not at the first.
  trace = kernels.model.sampler(nvi.never).trace(10_000, seed=1)
  share = nvi.effective_sample_size(tf.transpose(trace.log_weights)) / 10_000
  assert share[0] > POLICIES['sometimes'] > share[1]


@pytest.mark.parametrize('model_class', [Kernels, Path, Compositions])
def test_policies_of_the_library(model_class):
  model = model_class()
  problem = Problem(model, two_objectives)
  for threshold, policy in ((0.0, nvi.never), (2.0, nvi.always)):
    problem.threshold.assign(threshold)
    actual, expected = (
      gradients(nvi.forward_kl(), model.sampler(criterion), model.variables)
      for criterion in (policy, problem.criterion)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('model_class', [Kernels, Path, Compositions])
def test_sides(model_class):
  # For one seed. With the means above, this settles what each side estimates.
  model = model_class()
  sampler = model.sampler(nvi.always)
  problem = Problem(model, two_objectives)

  def evaluate(**kwargs):
    return gradients(nvi.forward_kl(**kwargs), sampler, model.variables)

  both = evaluate()
  forward = evaluate(sides=nvi.Side.FORWARD)
  reverse = evaluate(sides=nvi.Side.REVERSE)
  score = evaluate(sides=nvi.Side.FORWARD, reparameterize=False)
  np.testing.assert_allclose(forward + reverse, both, rtol=1e-9, atol=1e-12)
  densities = problem.indices(model.density_variables)
  np.testing.assert_allclose(
    score[densities], forward[densities], rtol=1e-9, atol=1e-12
  )
  assert not np.any((forward * reverse)[len(densities) :])


def test_named_objectives():
  # The second derivative is missing, not zero, for the reverse KL by itself.
  model = Kernels()
  problem = Problem(
    model, lambda f: [nvi.NestedDivergence(f)], 64, jit_compile=False
  )
  for name, objective in (
    ('reverse_kl', nvi.reverse_kl()),
    ('forward_kl', nvi.forward_kl()),
    ('pearson', nvi.f_divergence(tfp.vi.pearson)),
  ):
    actual = gradients(
      objective, model.sampler(problem.criterion), model.variables
    )
    expected = problem.estimator(name, tf.constant([[3, 0]]))[0, 0, :-1]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_gradients_of_some_rows_are_added():
  some = tf.IndexedSlices(
    tf.ones([2, 3]), tf.constant([0, 2]), tf.constant([4, 3])
  )
  total = None
  for gradient in (some, None, some, tf.ones([4, 3])):
    total = level_by_level.add_gradients(total, gradient)
  expected = np.repeat([[3.0], [1.0], [3.0], [1.0]], 3, axis=1)
  np.testing.assert_array_equal(total, expected)


def test_descriptions_tell_parameters_apart():
  # Checkpoints belong to an objective by its description.
  def bound(alpha):
    return lambda log_u: tfp.vi.amari_alpha(log_u, alpha=alpha)

  for make in (bound, lambda x: functools.partial(tfp.vi.amari_alpha, alpha=x)):
    first, same, other = (
      nvi.f_divergence(make(alpha)).description for alpha in (0.5, 0.5, 0.9)
    )
    assert first == same
    assert first != other
  assert nvi.reverse_kl().description.startswith('kl_reverse, ')


@every_csiszar_function
def test_no_variance_where_levels_agree(f):
  # Where a level is proposed as it is weighted, the gradient is zero for each
  # particle ("sticking the landing").
  forward = variable('forward', 0.3, np.log(0.9))
  # Of the joint normal density of y, with variance 1.44, and z.
  variance = 0.8**2 * 1.44 + 0.9**2
  slope = 0.8 * 1.44 / variance
  reverse = variable(
    'reverse', -0.3 * slope, 0.5 * np.log(1.44 * 0.9**2 / variance)
  )
  densities = nvi.ExplicitDensities(
    [
      tfd.Normal(np.float64(0.0), np.float64(1.2)),
      tfd.Normal(np.float64(0.3), np.sqrt(variance)),
    ]
  )
  sampler = nvi.NestedSampler(
    densities, nvi.KernelPair(kernel(0.8, forward), kernel(slope, reverse))
  )
  f = eg.CSISZAR_FUNCTIONS[f]
  for objective in (nvi.NestedDivergence(f), nvi.svi()):
    estimate = gradients(objective, sampler, [forward])
    np.testing.assert_allclose(estimate, 0.0, atol=1e-12)


@pytest.mark.parametrize('policy', [nvi.never, nvi.always])
def test_gradients_where_a_density_is_zero_somewhere(policy):
  """What lies outside of the support does not make them NaN."""

  def log_prob(x):
    return tf.where(
      x > 0.0, tfd.Normal(np.float64(0.0), 1.0).log_prob(x), -np.inf
    )

  path = nvi.GeometricPath(
    tfd.Normal(np.float64(0.0), np.float64(1.2)), log_prob, 4, learnable=True
  )
  sampler = nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, [3], seed=1),
    resample_criterion_fn=policy,
  )
  for objective in (nvi.reverse_kl(), nvi.forward_kl(), nvi.iwae()):
    estimate = gradients(objective, sampler, sampler.trainable_variables)
    assert np.all(np.isfinite(estimate))


@pytest.mark.parametrize(
  'name', [pytest.param('avo', marks=pytest.mark.slow), 'svi']
)
def test_unweighted(name):
  model = Kernels()
  variables = [
    model.initial_loc,
    model.initial_scale,
    *model.forward,
    *model.reverse,
  ]
  if name == 'svi':
    # It does not resample; intermediate densities cancel.
    policy = 'always'
    variables += model.density_variables
  else:
    policy = 'never'
  problem = Problem(
    model,
    lambda f: [getattr(nvi, name)(), nvi.reverse_kl()],
    num_particles=2**11,
    jit_compile=False,
  )
  with tf.GradientTape() as tape:
    loss = model.unweighted_loss(cut=name == 'avo')
  expected = eg.concatenate(
    tape.gradient(loss, variables, unconnected_gradients='zero')
  ).numpy()
  names = [name for v in variables for name in eg.labels([v])]
  indices = [problem.names.index(name) for name in names]
  estimates, weighted = problem.estimate('reverse_kl', policy, num_seeds=24)
  eg.assert_agrees(estimates[:, indices], expected, names)
  with pytest.raises(AssertionError, match='standard errors'):
    eg.assert_agrees(weighted[:, indices], expected, names)


class TestLevelsAtOnce:
  """Levels replayed at once, or one after the other: the same to rounding."""

  def path(self):
    return nvi.GeometricPath(
      tfd.MultivariateNormalDiag(
        variable('loc', 0.1, -0.2), np.array([1.5, 1.2])
      ),
      tfd.MultivariateNormalDiag(np.array([1.0, 0.5]), np.array([0.8, 1.0])),
      num_densities=4,
      learnable=True,
    )

  def gaussian(self, path):
    transitions = nvi.GaussianTransitions(path, hidden_units=[5], seed=1)
    for i, v in enumerate(transitions.trainable_variables):
      noise = tf.random.stateless_normal(v.shape, [i, 0], dtype=tf.float64)
      v.assign_add(0.1 * noise)
    return transitions

  def planar(self, path):
    return nvi.PlanarTransitions(path, num_layers=3, seed=2)

  def metropolis(self, path):
    del path
    return nvi.MCMCTransition(
      lambda target_log_prob_fn, level: tfp.mcmc.RandomWalkMetropolis(
        target_log_prob_fn, tfp.mcmc.random_walk_normal_fn(0.5)
      ),
      num_transitions=3,
    )

  def kernels(self, path):
    del path
    slopes = variable('slopes', 0.9, 0.8, 0.7)
    log_scale = tf.constant(-0.2, tf.float64)

    def kernel_fn(x, level):
      loc = tf.gather(slopes, level) * x
      return tfd.MultivariateNormalDiag(
        loc, tf.exp(log_scale) * tf.ones(2, tf.float64)
      )

    transition = nvi.KernelPair(kernel_fn, kernel_fn, num_transitions=3)
    transition.slopes = slopes
    return transition

  @pytest.mark.parametrize(
    'kinds, reparameterize',
    [
      (['gaussian'], True),
      (['gaussian'], False),
      pytest.param(['kernels'], True, marks=pytest.mark.slow),
      pytest.param(['planar', 'gaussian'], True, marks=pytest.mark.slow),
      (['gaussian', 'metropolis'], True),
    ],
  )
  def test_same_gradients(self, kinds, reparameterize):
    path = self.path()
    parts = [getattr(self, kind)(path) for kind in kinds]
    transition = parts[0] if len(parts) == 1 else nvi.Composition(parts)
    sampler = nvi.NestedSampler(path, transition)
    variables = sampler.trainable_variables
    objective = nvi.f_divergence(
      tfp.vi.jensen_shannon, reparameterize=reparameterize
    )

    def evaluate():
      return gradients(objective, sampler, variables, num_particles=8)

    at_once = evaluate()
    assert np.all(np.isfinite(at_once)) and np.any(at_once)
    transition.is_level_batched = False
    np.testing.assert_allclose(evaluate(), at_once, rtol=1e-8, atol=1e-11)
    path.is_rollable = False
    np.testing.assert_allclose(evaluate(), at_once, rtol=1e-8, atol=1e-11)

  def test_sequence_bounds(self):
    # Whose gradients pass through the loop over levels.
    path = self.path()
    transition = self.gaussian(path)
    sampler = nvi.NestedSampler(path, transition)
    variables = sampler.trainable_variables
    objectives = nvi.svi(), nvi.iwae(), nvi.vsmc(), nvi.rws()

    def evaluate(objective):
      return gradients(objective, sampler, variables, num_particles=8)

    in_loop = [evaluate(objective) for objective in objectives]
    path.is_rollable = False
    for objective, expected in zip(objectives, in_loop, strict=True):
      np.testing.assert_allclose(
        evaluate(objective), expected, rtol=1e-8, atol=1e-11
      )


def resample_pair(log_probs, event_size, sample_shape, seed=None):
  """Multinomial resampling of two particles."""
  del event_size, sample_shape
  uniform = tf.random.stateless_uniform(
    log_probs.shape, seed, dtype=log_probs.dtype
  )
  return tf.cast(uniform > tf.exp(log_probs[0]), tf.int32)


class Pair:
  """An initial proposal and one level, where two particles are drawn.

  What is drawn is a function of four independent standard normal values, over
  which Gauss-Hermite quadrature gives exact means of losses. A batch of
  NUM_MEMBERS independent pairs is run at once.
  """

  NUM_MEMBERS = 2**13

  def __init__(self):
    self.tilt = variable('tilt', 0.3)
    self.loc = variable('loc', 0.7)
    self.initial_loc = variable('initial_loc', 0.2)
    self.initial_scale = variable('initial_scale', 1.4)
    self.forward = variable('forward', 0.3, np.log(0.9))
    self.reverse = variable('reverse', -0.1, np.log(0.75))
    self.proposal_variables = [
      self.initial_loc,
      self.initial_scale,
      self.forward,
    ]
    self.variables = [
      *self.proposal_variables,
      self.reverse,
      self.tilt,
      self.loc,
    ]
    self.names = eg.labels(self.variables)

  def sampler(self, **kwargs):
    densities = nvi.ExplicitDensities(
      [tilted(self.tilt, 1.2), tfd.Normal(self.loc, np.float64(1.0))]
    )
    scale = tfp.util.DeferredTensor(
      self.initial_scale,
      lambda x: tf.broadcast_to(x, [self.NUM_MEMBERS]),
      shape=[self.NUM_MEMBERS],
    )
    return nvi.NestedSampler(
      densities,
      nvi.KernelPair(kernel(0.8, self.forward), kernel(0.6, self.reverse)),
      initial_proposal=tfd.Normal(self.initial_loc, scale),
      resample_fn=resample_pair,
      **kwargs,
    )

  def propose(self, noise):
    return self.initial_loc + self.initial_scale * noise

  def move(self, y, noise):
    return 0.8 * y + self.forward[0] + tf.exp(self.forward[1]) * noise

  def log_proposals(self, y, z):
    """Log densities of the initial proposal and of the forward kernel."""
    return (
      log_normal(y, self.initial_loc, tf.math.log(self.initial_scale)),
      log_kernel(0.8, self.forward)(z, y),
    )

  def log_target(self, y, z):
    """Log density of the target and the reverse kernel."""
    return log_normal(z, self.loc, 0.0) + log_kernel(0.6, self.reverse)(y, z)

  def gradient(self, loss_fn, num_nodes=20):
    """The gradient of the mean of `loss_fn(y_0, y_1, noise_0, noise_1)`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights /= np.sum(weights)
    grids = np.meshgrid(nodes, nodes, nodes, nodes, indexing='ij')
    probs = np.einsum('i,j,k,l->ijkl', weights, weights, weights, weights)
    with tf.GradientTape() as tape:
      losses = loss_fn(
        self.propose(grids[0]), self.propose(grids[1]), grids[2], grids[3]
      )
      loss = tf.reduce_sum(probs * losses)
    return eg.concatenate(
      tape.gradient(loss, self.variables, unconnected_gradients='zero')
    ).numpy()

  def evidence_bound(self, y_0, y_1, noise_0, noise_1):
    del y_1, noise_1
    z = self.move(y_0, noise_0)
    return sum(self.log_proposals(y_0, z)) - self.log_target(y_0, z)

  def log_weights(self, ys, zs):
    return tf.stack(
      [
        self.log_target(y, z) - sum(self.log_proposals(y, z))
        for y, z in zip(ys, zs, strict=True)
      ]
    )

  def importance_weighted_bound(self, y_0, y_1, noise_0, noise_1):
    zs = self.move(y_0, noise_0), self.move(y_1, noise_1)
    return -tf.reduce_logsumexp(self.log_weights((y_0, y_1), zs), axis=0)

  def wake_phases(self, y_0, y_1, noise_0, noise_1):
    """Minus the log densities of what was drawn, by its final weights.

    The gradients of the log normalizer that parameters of the target ascend are
    means of those of its log density, by the same weights.
    """
    ys = tf.stop_gradient((y_0, y_1))
    zs = tf.stop_gradient((self.move(y_0, noise_0), self.move(y_1, noise_1)))
    weights = tf.stop_gradient(tf.nn.softmax(self.log_weights(ys, zs), axis=0))
    return -sum(
      w * (self.log_target(y, z) + sum(self.log_proposals(y, z)))
      for w, y, z in zip(weights, ys, zs, strict=True)
    )

  def resampled_bound(self, y_0, y_1, noise_0, noise_1):
    """Over all choices of ancestors, whose probabilities are constants."""
    ys = y_0, y_1
    log_first = tf.stack(
      [tilted(self.tilt, 1.2)(y) - self.log_proposals(y, y)[0] for y in ys]
    )
    probs = tf.stop_gradient(tf.nn.softmax(log_first, axis=0))
    loss = -tf.reduce_logsumexp(log_first, axis=0)
    for a in range(2):
      for b in range(2):
        chosen = ys[a], ys[b]
        log_second = tf.stack(
          [
            self.log_target(y, z)
            - self.log_proposals(y, z)[1]
            - tilted(self.tilt, 1.2)(y)
            for y, z in (
              (y, self.move(y, noise))
              for y, noise in zip(chosen, (noise_0, noise_1), strict=True)
            )
          ]
        )
        loss -= probs[a] * probs[b] * tf.reduce_logsumexp(log_second, axis=0)
    return loss


class TestSequenceBounds:
  """Gradients of objectives on the last level, at two particles."""

  OBJECTIVES = {
    'svi': (nvi.svi(), 2, Pair.evidence_bound),
    'iwae': (nvi.iwae(), 2, Pair.importance_weighted_bound),
    'iwae of one': (nvi.iwae(), 1, Pair.evidence_bound),
    'rws': (nvi.rws(), 2, Pair.wake_phases),
    'vsmc': (nvi.vsmc(), 2, Pair.resampled_bound),
  }

  @pytest.fixture(scope='class')
  @classmethod
  def estimates(cls):
    pair = Pair()
    objectives, counts, _ = zip(*cls.OBJECTIVES.values(), strict=True)
    estimator = eg.Estimator(
      pair.sampler(),
      pair.variables,
      lambda f: objectives,
      counts,
      jit_compile=False,
      num_members=pair.NUM_MEMBERS,
    )
    # Whichever Csiszar function: none is used.
    estimates = estimator('reverse_kl', eg.seeds(NUM_SEEDS, seed=1))
    return dict(zip(cls.OBJECTIVES, estimates[:, :, :-1], strict=True))

  @pytest.mark.parametrize('name', OBJECTIVES)
  def test_gradient(self, estimates, name):
    pair = Pair()
    _, _, loss_fn = self.OBJECTIVES[name]
    expected = pair.gradient(functools.partial(loss_fn, pair))
    coarse = pair.gradient(functools.partial(loss_fn, pair), num_nodes=16)
    np.testing.assert_allclose(coarse, expected, atol=1e-5)
    eg.assert_agrees(estimates[name], expected, pair.names)
    for other, estimate in estimates.items():
      if self.OBJECTIVES[other][2] != loss_fn:
        with pytest.raises(AssertionError, match='standard errors'):
          eg.assert_agrees(estimate, expected, pair.names)

  def test_without_resampling(self):
    pair = Pair()
    iwae, vsmc = (
      gradients(
        objective, pair.sampler(resample_criterion_fn=nvi.never), pair.variables
      )
      for objective in (nvi.iwae(), nvi.vsmc())
    )
    np.testing.assert_array_equal(iwae, vsmc)

  def test_wake_phase_is_a_forward_kl(self):
    # Where there is one level, the final weights are those it gives on.
    model = Kernels()
    path = nvi.GeometricPath(
      tfd.Normal(np.float64(0.0), np.float64(1.5)),
      tilted(model.tilts[0], 1.0),
      num_densities=2,
    )
    sampler = nvi.NestedSampler(
      path,
      nvi.KernelPair(
        kernel(0.8, model.forward[0]), kernel(0.6, model.reverse[0])
      ),
    )
    rws, forward_kl = (
      gradients(objective, sampler, model.forward[:1])
      for objective in (
        nvi.rws(),
        nvi.forward_kl(reparameterize=False, baseline=False),
      )
    )
    np.testing.assert_allclose(rws, forward_kl, rtol=1e-9)

  @pytest.mark.parametrize('name', ['svi', 'iwae', 'rws'])
  def test_initial_density_that_is_the_proposal(self, name):
    # It learns as a proposal, whether it is given as one or not.
    loc = variable('loc', 0.3)
    initial = tfd.Normal(loc, np.float64(1.5))
    path = nvi.GeometricPath(
      initial, tfd.Normal(np.float64(1.0), np.float64(1.0)), num_densities=2
    )
    model = Kernels()
    transition = nvi.KernelPair(
      kernel(0.8, model.forward[0]), kernel(0.6, model.reverse[0])
    )
    given, not_given = (
      gradients(
        getattr(nvi, name)(),
        nvi.NestedSampler(path, transition, initial_proposal=proposal),
        [loc],
      )
      for proposal in (initial, None)
    )
    np.testing.assert_allclose(not_given, given, rtol=1e-9)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Targets that are zero in places: no mass is lost, and gradients are finite.

Normalizing constants are those of independent runs, compared with quadrature or
a closed form within 4 standard errors, which a right sampler fails once in
16,000 times. The same densities with inner levels that are zero where the
target is must fail.
"""

import dataclasses
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import densities as densities_lib
from tfp_nvi.densities import path as path_lib

tfd = tfp.distributions

INF = float('inf')
LINE = tfd.Normal(0.0, 1.0)
PLANE = tfd.MultivariateNormalDiag([0.0, 0.0])
LIKELIHOOD = tfd.MultivariateNormalDiag([1.0, 1.0], [0.5, 0.5])


@dataclasses.dataclass
class Problem:
  """An initial density, a target with zeros, and its normalizing constant."""

  initial: tfd.Distribution
  target: object
  truth: float


def half_line(x):
  return tf.where(x > 0.0, LINE.log_prob(x), -INF)


def plateaus(x):
  steps = tf.where(x > 1.0, 0.0, tf.where(x > 0.0, -3.0, -INF))
  return LINE.log_prob(x) + steps


def ball(x):
  is_inside = tf.reduce_sum((x - [0.5, 0.0]) ** 2, axis=-1) < 1.0
  return tf.where(is_inside, PLANE.log_prob(x), -INF)


def hole(x):
  log_joint = PLANE.log_prob(x) + LIKELIHOOD.log_prob(x)
  return tf.where(tf.reduce_sum(x, axis=-1) < 1.0, -INF, log_joint)


def hole_truth():
  """The evidence, times the chance that the posterior sum is above one.

  The posterior of each part is normal with precision 1 + 4 and mean 4 / 5.
  """
  evidence = 2.0 * scipy.stats.norm.logpdf(1.0, 0.0, np.sqrt(1.25))
  return evidence + scipy.stats.norm.logsf(1.0, 1.6, np.sqrt(0.4))


PROBLEMS = dict(
  half_line=Problem(LINE, half_line, np.log(0.5)),
  plateaus=Problem(
    LINE,
    plateaus,
    np.log(
      scipy.stats.norm.sf(1.0) + np.exp(-3.0) * (0.5 - scipy.stats.norm.sf(1.0))
    ),
  ),
  # The squared distance of a normal pair from a point is noncentral chi2.
  ball=Problem(PLANE, ball, scipy.stats.ncx2.logcdf(1.0, 2, 0.25)),
  hole=Problem(PLANE, hole, hole_truth()),
)


def test_truth_of_the_hole():
  np.testing.assert_allclose(hole_truth(), -3.049, atol=5e-4)


def find_deviation(sampler, truth, num_runs=32, num_particles=4_000):
  """How many standard errors the mean of Z-hats is from the truth."""
  particles = [sampler.sample(num_particles, seed=i) for i in range(num_runs)]
  ratios = np.exp([float(p.log_normalizer) - truth for p in particles])
  error = ratios.std(ddof=1) / np.sqrt(num_runs)
  assert error < 0.15
  return (ratios.mean() - 1.0) / error


def make_path(problem, num_densities, **kwargs):
  return nvi.GeometricPath(
    problem.initial, problem.target, num_densities, **kwargs
  )


@pytest.mark.parametrize('num_densities', [2, 3, 5, 9])
@pytest.mark.parametrize('name', PROBLEMS)
def test_untrained_kernels(name, num_densities):
  problem = PROBLEMS[name]
  path = make_path(problem, num_densities)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  assert abs(find_deviation(sampler, problem.truth)) < 4.0


def find_trained_deviation(name, objective, num_densities=5, **kwargs):
  problem = PROBLEMS[name]
  path = make_path(problem, num_densities, **kwargs)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  nvi.fit(sampler, objective, 128, 100, seed=2, progress=False)
  return find_deviation(sampler, problem.truth)


@pytest.mark.parametrize(
  'name, objective',
  [
    pytest.param(name, x, marks=() if name == 'hole' else pytest.mark.slow)
    for name in PROBLEMS
    for x in ('reverse_kl', 'forward_kl')
  ],
)
def test_trained_kernels(name, objective):
  assert abs(find_trained_deviation(name, getattr(nvi, objective)())) < 4.0


def test_trained_kernels_and_a_learned_schedule():
  deviation = find_trained_deviation('hole', nvi.reverse_kl(), learnable=True)
  assert abs(deviation) < 4.0


def test_gradients_through_samples_do_not_see_jumps():
  """The mutant that the tests above catch."""
  objective = nvi.reverse_kl(reparameterize=True)
  assert find_trained_deviation('plateaus', objective) < -4.0


def find_gradient(location, scale, **kwargs):
  """Mean and standard error of the gradient for a shifted normal kernel.

  It has no regard for the previous state, and the reverse kernel is the first
  density, so that the level is a kernel density beside the half-normal target.
  """
  location = tf.Variable(location)
  path = make_path(PROBLEMS['half_line'], 2)
  kernel = lambda x: tfd.Normal(location + tf.zeros_like(x), scale)  # noqa: E731
  sampler = nvi.NestedSampler(
    path, nvi.KernelPair(kernel, lambda x: tfd.Normal(tf.zeros_like(x), 1.0))
  )
  objective = nvi.reverse_kl(**kwargs)

  @tf.function(jit_compile=True, autograph=False)
  def estimate(seed):
    _, [(gradient, _)] = objective(sampler, 2_000, seed)
    return gradient

  values = [estimate(tf.constant([0, i])).numpy() for i in range(200)]
  return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def exact_divergence(location, scale):
  """That of the kernel from the half-normal, with 20 where this is zero."""
  q = scipy.stats.norm(location, scale)
  positive, _ = scipy.integrate.quad(
    lambda x: (
      q.pdf(x) * (q.logpdf(x) - scipy.stats.norm.logpdf(x) - np.log(2.0))
    ),
    0.0,
    location + 12.0 * scale,
  )
  return positive + 20.0 * q.cdf(0.0)


def test_gradient_at_a_jump():
  """Within 4 standard errors of quadrature; the control variates' bias of
  about one over 2,000 particles is a tenth of that."""
  exact = (
    exact_divergence(0.8 + 1e-4, 0.6) - exact_divergence(0.8 - 1e-4, 0.6)
  ) / 2e-4
  mean, error = find_gradient(0.8, 0.6)
  assert error < 0.02 * abs(exact)
  assert abs(mean - exact) < 4.0 * error
  # The mutant.
  mean, error = find_gradient(0.8, 0.6, reparameterize=True)
  assert abs(mean - exact) > 10.0 * error


def make_given_sampler(problem, **kwargs):
  """Stationary autoregressive kernels, which lead into the zeros at will."""

  def kernel(x):
    if x.shape.rank == 1:
      return tfd.Normal(0.6 * x, 0.8)
    return tfd.MultivariateNormalDiag(0.6 * x, [0.8, 0.8])

  return nvi.NestedSampler(
    make_path(problem, 4, **kwargs),
    [nvi.KernelPair(kernel, kernel)] * 3,
    resample_criterion_fn=nvi.never,
  )


@pytest.mark.parametrize('name', PROBLEMS)
def test_given_kernels(name):
  problem = PROBLEMS[name]
  sampler = make_given_sampler(problem)
  assert len(sampler.densities.zero_levels) == 0
  assert abs(find_deviation(sampler, problem.truth)) < 4.0


@pytest.mark.parametrize('name', PROBLEMS)
def test_inner_zeros_lose_mass(name):
  """The mutant that the tests above catch."""
  problem = PROBLEMS[name]
  sampler = make_given_sampler(problem, zero_log_ratio=-INF)
  assert len(sampler.densities.zero_levels) == 3
  assert find_deviation(sampler, problem.truth) < -4.0


def make_penalized(penalty):
  log_prob = lambda x: LINE.log_prob(x) - tf.where(x > 0.0, 0.0, penalty)  # noqa: E731
  return Problem(LINE, log_prob, np.log(0.5) + np.log1p(np.exp(-penalty)))


@pytest.mark.parametrize('penalty', [1e30, 1e9, 1e5, 60.0])
@pytest.mark.parametrize('num_densities', [5, 9])
def test_a_penalty_stands_for_zero(penalty, num_densities):
  problem = make_penalized(penalty)
  path = make_path(problem, num_densities)
  assert path.has_zeros
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  assert abs(find_deviation(sampler, problem.truth)) < 4.0


def test_training_with_a_penalty():
  problem = make_penalized(1e30)
  path = make_path(problem, 4)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  history = nvi.fit(sampler, nvi.reverse_kl(), 128, 300, seed=2, progress=False)
  # No term of the divergence is more than 20 nats, at each of 3 levels.
  assert np.max(history.loss) < 60.0
  assert abs(find_deviation(sampler, problem.truth)) < 4.0
  assert sampler.sample(4_000, seed=1).effective_sample_size > 1_000.0


def test_jumps_are_found_and_smooth_targets_have_none():
  random = np.random.default_rng(1)
  x = random.normal(size=[256, 10])
  smooth = [
    -0.5 * np.sum((x / scale) ** 2, axis=1) for scale in (1e-3, 0.1, 1.0)
  ]
  # Few draws near a peak, and many: none is a group of its own.
  for ratio in [*smooth, -0.5 * (x[:, 0] / 1e-3) ** 2, -np.exp(9.0 * x[:, 0])]:
    threshold = path_lib._find_threshold(ratio)
    assert threshold == np.max(ratio) - 1e9
  ratio = np.where(x[:, 0] > 0.5, x[:, 1], x[:, 2] - 50.0)
  threshold = path_lib._find_threshold(ratio)
  np.testing.assert_array_equal(ratio > threshold, x[:, 0] > 0.5)


def test_zeros_are_remembered():
  """Another sampler of the path does not change what was found."""
  path = make_path(PROBLEMS['half_line'], 3, zero_log_ratio=-INF)
  transitions = nvi.GaussianTransitions(path, seed=1)
  assert path.has_zeros
  assert len(path.zero_levels) > 0
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)
    nvi.NestedSampler(path, transitions, initial_proposal=tfd.Normal(6.0, 0.1))
  assert path.has_zeros
  assert len(path.zero_levels) > 0


def random_walk():
  return nvi.MCMCTransition(
    lambda target_log_prob_fn: tfp.mcmc.RandomWalkMetropolis(target_log_prob_fn)
  )


def shift():
  return nvi.BijectorTransition(tfp.bijectors.Shift(0.3))


def test_supports_that_grow_again_are_warned_of():
  densities = nvi.ExplicitDensities([LINE, half_line, LINE])
  with pytest.warns(RuntimeWarning, match='is zero in places'):
    nvi.NestedSampler(densities, [random_walk() for _ in range(2)])
  path = make_path(PROBLEMS['half_line'], 3, zero_log_ratio=-INF)
  for make in (shift, lambda: nvi.Composition([shift(), random_walk()])):
    with pytest.warns(RuntimeWarning, match='is zero in places'):
      nvi.NestedSampler(path, [make() for _ in range(2)])


def test_supports_that_shrink_or_are_mapped_are_not_warned_of():
  path = make_path(PROBLEMS['half_line'], 3, zero_log_ratio=-INF)
  shifted = nvi.ExplicitDensities(
    [LINE, half_line, lambda x: half_line(x - 0.3)]
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error', RuntimeWarning)
    nvi.NestedSampler(path, [random_walk() for _ in range(2)])
    nvi.NestedSampler(shifted, [random_walk(), shift()])


def test_bounds_warn_of_jumps():
  path = make_path(PROBLEMS['half_line'], 3)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  with pytest.warns(RuntimeWarning, match='do not see the jumps'):
    nvi.vsmc()(sampler, 16, [0, 1])


def test_infinite_losses_say_what_can_be_trained():
  path = make_path(PROBLEMS['half_line'], 3)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  with (
    pytest.warns(RuntimeWarning, match='do not see the jumps'),
    pytest.raises(nvi.TrainingError, match='a nested objective or rws can be'),
  ):
    nvi.fit(
      sampler,
      nvi.svi(),
      num_particles=16,
      num_steps=20,
      seed=1,
      jit_compile=False,
      progress=False,
    )


# Values.


@pytest.mark.parametrize('level_kind', ['int', 'tensor', 'range'])
def test_values_where_the_target_is_zero(level_kind):
  def target(x):
    return tf.where(x > 1.0, np.nan, half_line(x)) + 2.0

  path = nvi.GeometricPath(LINE, target, 4, zero_log_ratio=-5.0)
  x = np.array([-1.0, 0.5, 2.0], np.float32)
  prior = scipy.stats.norm.logpdf(x)
  terms = path.evaluate(0, tf.constant(x))
  if level_kind == 'range':
    terms = [tf.stack([t] * 4, axis=1) for t in terms]
    found = path.log_prob(range(4), terms).numpy().T
  else:
    convert = tf.constant if level_kind == 'tensor' else int
    found = [path.log_prob(convert(i), terms) for i in range(4)]
  for log_prob, beta in zip(found, (0.0, 1.0 / 3.0, 2.0 / 3.0), strict=False):
    expected = prior + beta * np.array([-5.0, 2.0, -5.0])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
  np.testing.assert_allclose(
    found[3], [-INF, prior[1] + 2.0, np.nan], rtol=1e-5
  )


def test_smooth_targets_are_what_they_were():
  """Bit for bit, however far the target is below."""
  x = tf.constant(np.linspace(-30.0, 30.0, 41), tf.float64)
  prior = tfd.Normal(tf.constant(0.0, tf.float64), 10.0)
  target = tfd.Normal(tf.constant(3.0, tf.float64), 1e-3)
  for schedule in (None, [0.0, 0.1, 1.0]):
    path = nvi.GeometricPath(prior, target, 3, schedule=schedule)
    terms = path.evaluate(1, x)
    beta = path.schedule[1].numpy()
    expected = (1.0 - beta) * terms[0] + beta * terms[1]
    np.testing.assert_array_equal(path.log_prob(1, terms), expected)
    np.testing.assert_array_equal(path.log_prob(2, terms), terms[1])


def test_the_ratio_is_chosen_by_mass():
  """Zeros have exp(-2) of the target's mass, were it the last density."""
  for name, problem in PROBLEMS.items():
    path = make_path(problem, 3)
    zero_mass = (
      1.0
      - dict(
        half_line=0.5,
        plateaus=0.5,
        ball=np.exp(PROBLEMS['ball'].truth),
        hole=scipy.stats.norm.sf(1.0, 0.0, np.sqrt(2.0)),
      )[name]
    )
    expected = problem.truth - np.log(zero_mass) - path_lib._MARGIN
    # 256 draws; the standard error is largest for the hole, about 0.17.
    np.testing.assert_allclose(path._zero_log_ratio, expected, atol=0.6)


def test_the_ratio_of_batch_members_and_without_draws():
  scales = tf.constant([0.0, 100.0])
  path = nvi.GeometricPath(
    tfd.Normal(tf.zeros([2]), 1.0), lambda x: half_line(x) + scales, 3
  )
  ratio = path._zero_log_ratio
  assert ratio.shape == (2,)
  np.testing.assert_allclose(ratio[1] - ratio[0], 100.0, atol=0.5)
  # No draw that is not zero: the first density may have no more than one part
  # in 257 of the mass.
  path = nvi.GeometricPath(LINE, lambda x: half_line(x - 60.0), 3)
  np.testing.assert_allclose(
    path._zero_log_ratio, -np.log(257.0) - path_lib._MARGIN
  )


def test_the_ratio_is_found_with_the_proposal_of_a_sampler():
  """Where the initial density cannot be drawn from."""
  target = tfd.JointDistributionNamed(
    dict(x=LINE, y=lambda x: tfd.Normal(x, 1.0))
  )
  pinned = target.experimental_pin(y=40.0)
  path = nvi.GeometricPath(
    pinned, lambda p: tf.where(p['x'] > 0.0, p['x'] + 50.0, -INF), 3
  )
  assert path._zero_log_ratio is None
  nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path),
    initial_proposal=tfd.JointDistributionNamed(dict(x=LINE)),
  )
  assert np.isfinite(path._zero_log_ratio)
  assert path._zero_log_ratio > 500.0


@pytest.mark.parametrize(
  'value, error', [('low', TypeError), (np.nan, ValueError), (INF, ValueError)]
)
def test_a_bad_ratio(value, error):
  with pytest.raises(error, match='`zero_log_ratio` must be'):
    nvi.GeometricPath(LINE, LINE, 3, zero_log_ratio=value)


# Gradients.


@pytest.mark.parametrize('is_compiled', [False, True])
def test_gradients_where_the_target_is_zero(is_compiled):
  """Those of the initial density alone, in a loop over levels as well."""
  targets = (half_line, lambda x: tf.math.log(x), lambda x: -tf.exp(100.0 * x))
  states = ([-1.5, -0.5], [-1.5, -0.5, 0.0], [1.5, 3.0])
  for target, x in zip(targets, states, strict=True):
    path = nvi.GeometricPath(LINE, target, 4, learnable=True)
    x = tf.constant(x)

    @tf.function(jit_compile=is_compiled, autograph=False)
    def differentiate(x, path=path):
      with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.zeros([])
        _, total = tf.while_loop(
          lambda i, _: i < 3,
          lambda i, total: (
            i + 1,
            total + tf.reduce_sum(path.log_prob(i, path.evaluate(i, x))),
          ),
          (tf.constant(1), total),
          maximum_iterations=2,
        )
      return tape.gradient(total, [x, *path.trainable_variables])

    by_state, by_schedule = differentiate(x)
    np.testing.assert_allclose(by_state, -2.0 * x, rtol=1e-5)
    assert np.all(np.isfinite(by_schedule))
    for level in (1, 2, 3):
      _, (gradient,) = densities_lib.evaluate_with_gradient(path, level, x)
      expected = -x if level < 3 else tf.zeros_like(x)
      np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize('evaluate_once', [False, True])
def test_training_with_zeros_that_have_no_derivative(evaluate_once):
  """Zeros whose derivative is not finite do not stop training."""
  path = nvi.GeometricPath(
    PLANE,
    lambda x: (
      PLANE.log_prob(x) + tf.math.log(tf.maximum(x[..., 0] + x[..., 1], 0.0))
    ),
    4,
    learnable=True,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, [5], seed=1))
  objective = nvi.NestedDivergence(
    tfp.vi.kl_forward, evaluate_once=evaluate_once
  )
  nvi.fit(sampler, objective, 64, 20, seed=2, progress=False)
  for variable in sampler.trainable_variables:
    assert np.all(np.isfinite(variable))


# A subclass.


class ShrinkingNormals(densities_lib.Densities):
  """Normal densities of deviation one, a half and a quarter, times three."""

  num_densities = 3
  event_shape = tf.TensorShape([])
  dtype = tf.float32
  initial = LINE
  has_variables = False

  def evaluate(self, level, state):
    return (-0.5 * state**2 - 0.5 * np.log(2.0 * np.pi),)

  def log_prob(self, level, terms):
    constant = np.log([1.0, 3.0, 3.0])[level]
    return (
      terms[0]
      - 0.5 * np.log(2.0 * np.pi) * 0.0
      + constant
      + ((4.0**level - 1.0) * (terms[0] + 0.5 * np.log(2.0 * np.pi)))
    )


def test_a_subclass_with_two_methods():
  """Is sampled and trained; the last normalizing constant is 3 / 4."""
  densities = ShrinkingNormals()
  sampler = nvi.NestedSampler(
    densities, nvi.GaussianTransitions(densities, [5], seed=1)
  )
  nvi.fit(sampler, nvi.reverse_kl(), 64, 50, seed=2, progress=False)
  assert abs(find_deviation(sampler, np.log(0.75))) < 4.0


def test_what_a_subclass_must_give():
  class Nothing(densities_lib.Densities):
    pass

  with pytest.raises(TypeError, match='evaluate.*log_prob.*num_densities'):
    Nothing()
  densities = ShrinkingNormals()
  assert densities.float_dtype == tf.float32
  assert densities.batch_shape == []
  assert densities.given(None, True) is densities
  assert densities.with_prepared(()) is densities
  assert densities.prepared == ()
  assert densities.is_active(1) is None
  assert densities.describe_nan(tf.zeros([2])) is None
  densities.check(tf.zeros([2]))
  densities.check_proposal('initial_proposal', LINE)


def test_sampler_warns_of_lost_mass():
  """Explicit densities may be zero in places; most reverse kernels are not."""
  normal = tfd.Normal(0.0, 1.0)
  densities = nvi.ExplicitDensities(
    [
      normal,
      lambda x: tf.where(x > 0.0, normal.log_prob(x), -float('inf')),
      normal,
    ]
  )
  with pytest.warns(RuntimeWarning, match=r'level 1 is zero .*`transitions\[0'):
    nvi.NestedSampler(densities, nvi.GaussianTransitions(densities, seed=1))
  mcmc = nvi.MCMCTransition(tfp.mcmc.RandomWalkMetropolis)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    shrinking = nvi.ExplicitDensities([normal] + 2 * [densities._densities[1]])
    nvi.NestedSampler(shrinking, [mcmc, mcmc])
    path = nvi.GeometricPath(normal, densities._densities[1], 3)
    nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Heuristics and proposals that are made of the model agree with exact ones.

Where the model is linear and Gaussian, or has a few states, given the global
state, the factor is the likelihood of the observations to come and the proposal
is the smoothing distribution of a step: a Kalman filter or a sum over states
gives the same numbers, and all particles have the same weight. Elsewhere the
particles must be properly weighted all the same, as quadrature says.

False alarms: exact numbers are compared up to rounding in double precision.
Means of thousands of runs must be within 5 standard errors; over seeds, a
correct sampler would be rejected in one comparison with a probability of 6e-7,
and there are less than 100 of them.
"""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import matrices
from tfp_nvi.state_space import gaussian, guided

tfd = tfp.distributions

CRITICAL_Z = 5.0
NUM_STEPS = 5


def double(x):
  return tf.constant(x, tf.float64)


def constants(size, num_outputs):
  """A stable linear-Gaussian model with full matrices."""
  random = np.random.default_rng(size)
  matrix = 0.4 * random.normal(size=[size, size]) / np.sqrt(size)
  return dict(
    matrix=matrix + 0.5 * np.eye(size),
    noise=np.tril(0.3 * random.normal(size=[size, size])) + 0.5 * np.eye(size),
    first=np.diag(random.uniform(0.5, 1.5, size=size)),
    outputs=random.normal(size=[num_outputs, size]),
    output_noise=0.6 * np.eye(num_outputs),
    inputs=random.normal(size=[NUM_STEPS, size]),
  )


def vector_model(size, num_outputs=2, with_inputs=True):
  """A vector with an unknown drift, inputs, and variances that change."""
  c = {k: double(v) for k, v in constants(size, num_outputs).items()}

  def move(z, drift):
    moved = tf.linalg.matvec(c['matrix'], z)
    return moved + drift[..., tf.newaxis]

  def initial_fn(drift, u):
    return tfd.MultivariateNormalTriL(drift[..., tf.newaxis] + u, c['first'])

  def transition_fn(z, drift, t, u):
    scale = 1.0 + 0.1 * tf.cast(t, tf.float64)
    return tfd.MultivariateNormalTriL(move(z, drift) + u, scale * c['noise'])

  def observation_fn(z, drift, u):
    return tfd.MultivariateNormalTriL(
      tf.linalg.matvec(c['outputs'], z), c['output_noise']
    )

  return nvi.StateSpaceModel(
    prior=tfd.Normal(double(0.0), double(0.7)),
    initial_fn=initial_fn,
    transition_fn=transition_fn,
    observation_fn=observation_fn,
    input_example=tf.zeros([size], tf.float64),
  )


def kalman(size, drift, x, is_observed, num_outputs=2):
  """The log likelihood of a vector model given its drift, by a filter."""
  c = constants(size, num_outputs)
  mean = drift + c['inputs'][0]
  covariance = c['first'] @ c['first'].T
  total = 0.0
  for t in range(len(x)):
    if t > 0:
      noise = (1.0 + 0.1 * t) * c['noise']
      mean = c['matrix'] @ mean + drift + c['inputs'][t]
      covariance = c['matrix'] @ covariance @ c['matrix'].T + noise @ noise.T
    if is_observed[t]:
      error = x[t] - c['outputs'] @ mean
      cross = covariance @ c['outputs'].T
      spread = c['outputs'] @ cross + c['output_noise'] @ c['output_noise'].T
      total -= 0.5 * (
        error @ np.linalg.solve(spread, error)
        + np.linalg.slogdet(2.0 * np.pi * spread)[1]
      )
      gain = cross @ np.linalg.inv(spread)
      mean = mean + gain @ error
      covariance = covariance - gain @ cross.T
  return total


def vector_data(size):
  x = np.random.default_rng(3).normal(size=[2, NUM_STEPS, 2])
  is_observed = np.array([[True] * NUM_STEPS, [False, True, True, False, True]])
  return x, is_observed, constants(size, 2)['inputs']


def prepared(size):
  """The total of the factor for some drifts, and what a filter gives."""
  x, is_observed, inputs = vector_data(size)
  model = vector_model(size)
  drifts = np.random.default_rng(1).normal(size=[4, 2])
  rows = nvi.GaussianHeuristic(model, num_iterations=1).prepare(
    double(x),
    tf.constant(is_observed),
    double(drifts),
    u=tf.broadcast_to(double(inputs), [2, NUM_STEPS, size]),
  )
  expected = [
    [kalman(size, drifts[i, b], x[b], is_observed[b]) for b in range(2)]
    for i in range(4)
  ]
  return rows['factor'][2][0], expected


@pytest.mark.parametrize('level', [0.0, 1_024.0])
def test_levels_far_from_zero_keep_their_digits(level):
  """In single precision, a factor does not depend on where the origin is."""
  scales = np.array([0.1, 0.2, 0.4], np.float32)
  model = nvi.StateSpaceModel(
    prior=tfd.LogNormal(0.0, 1.0),
    initial_fn=lambda scale: tfd.Normal(level, tf.ones_like(scale)),
    transition_fn=lambda z, scale: tfd.Normal(z, scale),
    observation_fn=lambda z, scale: tfd.Normal(z, 0.5),
  )
  x = np.cumsum(np.random.default_rng(1).normal(size=30)) * 0.2
  rows = nvi.GaussianHeuristic(model).prepare(
    tf.constant(x + level, tf.float32), None, tf.constant(scales)
  )
  steps = np.minimum(*np.indices([30, 30]))
  spread = 1.0 + steps * scales[:, None, None] ** 2 + 0.25 * np.eye(30)
  expected = scipy.stats.multivariate_normal
  expected = [expected(np.zeros(30), cov).logpdf(x) for cov in spread]
  # A state is rounded by 6e-5 at most, a thousandth of its smallest scale, and
  # the log densities of thirty steps by about as much as that.
  np.testing.assert_allclose(rows['factor'][2][0], expected, atol=0.02)


# Matrices of up to four rows are written out.
@pytest.mark.parametrize('size', [1, 2, 3, 6])
def test_gaussian_factor_is_the_likelihood(size):
  np.testing.assert_allclose(*prepared(size), rtol=1e-10)


# XLA takes long to compile matrices that are written out.
@pytest.mark.parametrize(
  'size, is_compiled', [(1, True), (2, False), (6, False)]
)
def test_all_particles_have_the_weight_of_their_drift(size, is_compiled):
  x, is_observed, inputs = vector_data(size)
  model = vector_model(size)
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=nvi.GaussianHeuristic(model, 1)
  )
  posterior = sampler.sample(
    x,
    6,
    seed=1,
    is_observed=is_observed,
    inputs=inputs,
    jit_compile=is_compiled,
  )
  # Level 0 has it all; every particle has the mean weight of the first ones.
  np.testing.assert_allclose(
    posterior.log_normalizer_increments[1:], 0.0, atol=1e-10
  )
  np.testing.assert_allclose(posterior.effective_sample_sizes[1:], 6.0)


def drop_offset(monkeypatch):
  original = gaussian.message
  monkeypatch.setattr(
    gaussian,
    'message',
    lambda matrix, offset, factor, target: original(
      matrix, 0.0 * offset, factor, target
    ),
  )


def drop_determinant(monkeypatch):
  original = matrices.inverse_cholesky
  monkeypatch.setattr(
    matrices,
    'inverse_cholesky',
    lambda a: (original(a)[0], 0.0 * original(a)[1]),
  )


@pytest.mark.parametrize('mutate', [drop_offset, drop_determinant])
def test_mutations_of_the_factor(mutate, monkeypatch):
  mutate(monkeypatch)
  with pytest.raises(AssertionError):
    np.testing.assert_allclose(*prepared(2), rtol=1e-3)


# A few states.

INITIAL = np.array([0.6, 0.4, 0.0])
TRANSITIONS = np.array([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.1, 0.0, 0.9]])
LOCS = np.array([-1.0, 0.0, 1.5])


def hidden_markov_model(by_step=False):
  """With an unknown noise, and transitions that cannot happen."""

  def transition_fn(z, scale, t):
    probs = double(TRANSITIONS)
    if by_step:
      probs = tf.where(t % 2 == 0, probs, tf.reverse(probs, [0]))
    return tfd.Categorical(probs=tf.gather(probs, z))

  return nvi.StateSpaceModel(
    prior=tfd.LogNormal(double(0.0), double(0.3)),
    initial_fn=lambda scale: tfd.Categorical(probs=double(INITIAL)),
    transition_fn=transition_fn
    if by_step
    else lambda z: tfd.Categorical(probs=tf.gather(double(TRANSITIONS), z)),
    observation_fn=lambda z, scale: tfd.Normal(
      tf.gather(double(LOCS), z), scale
    ),
  )


def forward_algorithm(x, scale, is_observed, by_step):
  probs = INITIAL
  for t in range(len(x)):
    if t > 0:
      odd = by_step and t % 2 == 1
      probs = probs @ (TRANSITIONS[::-1] if odd else TRANSITIONS)
    if is_observed[t]:
      probs = probs * np.exp(-0.5 * ((x[t] - LOCS) / scale) ** 2) / scale
      probs = probs / np.sqrt(2.0 * np.pi)
  return np.log(probs.sum())


@pytest.mark.parametrize('by_step', [False, True])
def test_hidden_markov_factor_is_the_likelihood(by_step):
  x = np.random.default_rng(3).normal(size=[2, NUM_STEPS])
  is_observed = np.array([[True] * NUM_STEPS, [False, True, True, False, True]])
  model = hidden_markov_model(by_step)
  heuristic = nvi.HiddenMarkovHeuristic(model)
  scales = np.random.default_rng(1).uniform(0.5, 2.0, size=[4, 2])
  rows = heuristic.prepare(double(x), tf.constant(is_observed), double(scales))
  expected = [
    [
      forward_algorithm(x[b], scales[i, b], is_observed[b], by_step)
      for b in range(2)
    ]
    for i in range(4)
  ]
  np.testing.assert_allclose(rows['factor'][0, ..., 0], expected, rtol=1e-12)
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=heuristic
  )
  posterior = sampler.sample(x, 6, seed=1, is_observed=is_observed)
  np.testing.assert_allclose(
    posterior.log_normalizer_increments[1:], 0.0, atol=1e-10
  )


# Proposals of a step.


def test_guided_proposal_of_a_linear_model():
  """The product of two normal densities."""
  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(double(0.0), double(1.0)),
    transition_fn=lambda z: tfd.Normal(0.8 * z, double(0.5)),
    observation_fn=lambda z: tfd.Normal(2.0 * z + 1.0, double(0.6)),
  )
  z = double([0.3, -1.0, 2.0])
  state = nvi.StateSpaceState((), z, *[tf.range(3)] * 3)
  proposal = guided.GuidedProposal(model).distribution(
    tfd.Normal(0.8 * z, double(0.5)),
    lambda z, theta, shape: model.observation(z, theta, None, (), shape),
    double(0.7),
    None,
    1,
    state,
  )
  precision = 1.0 / 0.25 + 4.0 / 0.36
  mean = (0.8 * z.numpy() / 0.25 + 2.0 * (0.7 - 1.0) / 0.36) / precision
  np.testing.assert_allclose(proposal.mean(), mean)
  np.testing.assert_allclose(proposal.stddev(), precision**-0.5)


def volatility_model():
  return nvi.StateSpaceModel(
    prior=tfd.Normal(double(0.5), double(0.4)),
    initial_fn=lambda mean: tfd.Normal(mean, double(1.2)),
    transition_fn=lambda z, mean: tfd.Normal(
      mean + 0.9 * (z - mean), double(0.8)
    ),
    observation_fn=lambda z: tfd.Normal(double(0.0), tf.exp(0.5 * z)),
  )


def volatility_moments(x):
  """`Z` and `Z E[mean, z_0, z_1 | x]` by a sum over a grid."""
  grid = np.linspace(-8.0, 9.0, 171)
  mean = np.linspace(-1.7, 2.7, 81)[:, None, None]
  z, after = grid[:, None], grid

  def log_normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - np.log(
      scale * np.sqrt(2.0 * np.pi)
    )

  log_prob = (
    log_normal(mean, 0.5, 0.4)
    + log_normal(z, mean, 1.2)
    + log_normal(after, mean + 0.9 * (z - mean), 0.8)
    + log_normal(x[0], 0.0, np.exp(0.5 * z))
    + log_normal(x[1], 0.0, np.exp(0.5 * after))
  )
  cell = (grid[1] - grid[0]) ** 2 * (mean[1, 0, 0] - mean[0, 0, 0])
  density = cell * np.exp(log_prob)
  return [np.sum(density * value) for value in (1.0, mean, z, after)]


SAMPLERS = {
  'guided': dict(proposal_fn='guided'),
  'factor alone': dict(heuristic=True),
  'heuristic': dict(proposal_fn='heuristic', heuristic=True),
  'refined': dict(proposal_fn='heuristic', heuristic=True, num_refinements=2),
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.slow if name == 'factor alone' else ())
    for name in SAMPLERS
  ],
)
def test_proper_weighting(name):
  """Few particles of a nonlinear model, averaged over many runs."""
  arguments = dict(SAMPLERS[name])
  model = volatility_model()
  if arguments.get('heuristic'):
    arguments['heuristic'] = nvi.GaussianHeuristic(model, num_iterations=2)
  x = np.array([2.5, 0.1])
  num_runs, num_particles = 4_000, 8
  posterior = nvi.StateSpaceSampler(model, **arguments).sample(
    np.broadcast_to(x, [num_runs, 2]), num_particles, seed=2
  )
  weights = np.exp(posterior.log_weights)
  z = posterior.trajectories.numpy()
  values = [1.0, posterior.global_state.numpy(), z[..., 0], z[..., 1]]
  for value, expected in zip(values, volatility_moments(x), strict=True):
    estimates = np.mean(weights * value, axis=0)
    error = np.std(estimates, ddof=1) / np.sqrt(num_runs)
    assert abs(np.mean(estimates) - expected) < CRITICAL_Z * error


@pytest.mark.parametrize(
  'arguments, match',
  [
    (dict(proposal_fn='best'), "'guided' or 'heuristic'; got 'best'"),
    (dict(proposal_fn='heuristic'), '`heuristic` must be given'),
    (dict(num_refinements=1), '`num_refinements` must be 0'),
    (dict(num_refinements=-1), '`num_refinements` must be at least 0'),
  ],
)
def test_bad_arguments(arguments, match):
  with pytest.raises(ValueError, match=match):
    nvi.StateSpaceSampler(volatility_model(), **arguments)


def test_models_that_are_not_of_the_kind():
  model = nvi.StateSpaceModel(
    None,
    lambda: tfd.Gamma(2.0, 1.0),
    lambda z: tfd.Gamma(2.0, 1.0 / z),
    lambda z: tfd.Poisson(z),
  )
  for make in (nvi.GaussianHeuristic, nvi.HiddenMarkovHeuristic):
    with pytest.raises(ValueError, match='`model` must have .* for a'):
      make(model)
    with pytest.raises(TypeError, match='`model` must be a StateSpaceModel'):
      make(3)
  with pytest.raises(ValueError, match="`proposal_fn` can be 'guided' if"):
    nvi.StateSpaceSampler(model, proposal_fn='guided')


def test_global_states_far_out():
  """Where the expansions overflow the factor is zero, and nowhere else."""
  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda mean: tfd.Normal(mean, 1.0),
    transition_fn=lambda z, mean: tfd.Normal(z, 0.5),
    observation_fn=lambda z: tfd.Normal(0.0, tf.exp(0.5 * z)),
  )
  heuristic = nvi.GaussianHeuristic(model)
  x = tf.constant([0.5, -1.0, 2.0])
  rows = heuristic.prepare(x, None, tf.constant([0.3, 1e30, 0.5]))
  alone = heuristic.prepare(x, None, tf.constant([0.3, 0.5]))
  assert rows['factor'][2][0, 1] == -np.inf
  for ours, theirs in zip(
    tf.nest.flatten(rows), tf.nest.flatten(alone), strict=True
  ):
    np.testing.assert_allclose(
      tf.gather(ours, [0, 2], axis=1), theirs, rtol=1e-4, atol=1e-4
    )
    assert not np.any(np.isnan(ours))


def test_a_far_start_keeps_its_digits_where_first_steps_are_missing():
  """The prior of the first state is 3,000 away from where the data are."""
  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1e3),
    transition_fn=lambda z: tfd.Normal(z, 0.1),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  is_observed = np.arange(15) > 1
  x = 3e3 + 0.1 * np.random.default_rng(2).normal(size=15).astype(np.float32)
  rows = nvi.GaussianHeuristic(model, num_iterations=1).prepare(
    tf.constant(x), tf.constant(is_observed), ()
  )
  steps = np.minimum(*np.indices([15, 15]))
  spread = 1e6 + 0.01 * steps + 0.04 * np.eye(15)
  expected = scipy.stats.multivariate_normal(
    np.zeros(13), spread[np.ix_(is_observed, is_observed)]
  ).logpdf(x[is_observed].astype(np.float64))
  # States of 3,000 are rounded by 1e-4, a thousandth of the noise.
  np.testing.assert_allclose(rows['factor'][2][0], expected, atol=0.02)


def test_a_wrapper_that_adds_no_axes_keeps_correlations():
  factor = np.array([[1.0, 0.0], [0.9, 0.3]])
  normal = tfd.MultivariateNormalTriL(np.zeros(2), factor)
  for distribution in (normal, tfd.Independent(normal, 0)):
    _, found = gaussian.moments(distribution, [])
    np.testing.assert_allclose(
      found @ tf.transpose(found), factor @ factor.T, rtol=1e-12
    )

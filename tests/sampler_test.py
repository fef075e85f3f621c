# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Particles are properly weighted, for every way to put a sampler together.

What is tested is the definition: the mean of `w g(z)` over the particles has
the expectation `integral gamma(z) g(z) dz`, here for the functions of
`evaluate` and a Gaussian `gamma` with a normalizer of 2.5, where the integrals
are known. There are few particles, so that a bias would show, and many
independent runs, as members of a batch. Initial proposals and kernels are a
little wider than what they are weighted for, so that weights have moments.

Seeds are fixed. Means of thousands of runs must be within `CRITICAL_Z` = 5
standard errors of the integrals; over seeds, a correct sampler would be
rejected in one of these comparisons with a probability of 6e-7, and there are
less than 4,000 of them: 0.3% for the whole file.
"""

import functools
import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import weighting
from tfp_nvi.internal import randomness

tfb = tfp.bijectors
tfd = tfp.distributions

CRITICAL_Z = 5.0
NUM_PARTICLES = 4
SEED = randomness.as_seed(2)

# The target: 2.5 N(MEAN, I).
MEAN = np.array([0.5, -0.5])
NORMALIZER = 2.5


def double(x):
  return tf.constant(x, tf.float64)


def diagonal(loc, scale):
  return tfd.MultivariateNormalDiag(double(loc), double([scale, scale]))


def log_target(x):
  return np.log(NORMALIZER) + diagonal(MEAN, 1.0).log_prob(x)


def make_path(num_densities=3):
  return nvi.GeometricPath(diagonal([0.0, 0.0], 1.5), log_target, num_densities)


WIDE = diagonal([0.2, 0.2], 2.0)


def evaluate(z):
  """Functions of the state, on the last axis."""
  x, y = z[..., 0], z[..., 1]
  return np.stack([np.ones_like(x), x, y**2, x * y], axis=-1)


INTEGRALS = NORMALIZER * np.array(
  [1.0, MEAN[0], 1.0 + MEAN[1] ** 2, MEAN[0] * MEAN[1]]
)


def z_scores(estimates, expected):
  """Standardized deviations of the means over all axes but the last."""
  estimates = np.reshape(estimates, [-1, np.shape(estimates)[-1]])
  error = np.std(estimates, axis=0, ddof=1) / np.sqrt(len(estimates))
  return np.abs(np.mean(estimates, axis=0) - expected) / error


def estimate(particles, fn=evaluate):
  """Means of `w g(z)` over the particles."""
  weights = np.exp(particles.log_weights)
  return np.mean(
    weights[..., np.newaxis] * fn(np.asarray(particles.state)), axis=0
  )


def run(sampler, num_runs, seed=SEED, num_particles=NUM_PARTICLES):
  return sampler.run(num_particles, seed, [num_runs]).particles


# All resampling schemes, policies and rejection thresholds, in one run.


SCHEMES = {
  'own_systematic': nvi.resample_systematic,
  'systematic': tfp.experimental.mcmc.resample_systematic,
  'independent': tfp.experimental.mcmc.resample_independent,
  'stratified': tfp.experimental.mcmc.resample_stratified,
}
POLICIES = {
  'never': nvi.never,
  'always': nvi.always,
  'ess_below': nvi.ess_below(0.7),
  'ess_below_threshold': functools.partial(
    tfp.experimental.mcmc.ess_below_threshold, threshold=0.8
  ),
}
REJECTION = {
  'no_rejection': lambda log_weights: tf.fill(
    log_weights.shape[1:], double(-np.inf)
  ),
  'rejection': nvi.log_normalizer,
}
# The batch is over schemes, policies, rejection, and runs.
CONFIGURATIONS = [len(SCHEMES), len(POLICIES), len(REJECTION)]


def resample_by_all_schemes(log_probs, event_size, sample_shape, seed=None):
  seeds = randomness.split_seed(seed, len(SCHEMES))
  return tf.concat(
    [
      fn(log_probs[:, i : i + 1], event_size, sample_shape, seed=seeds[i])
      for i, fn in enumerate(SCHEMES.values())
    ],
    axis=1,
  )


def resample_by_all_policies(particles):
  decisions = []
  for i, policy in enumerate(POLICIES.values()):
    log_weights = particles.log_weights[:, :, i]
    decision = tf.convert_to_tensor(
      policy(nvi.WeightedParticles(particles.particles[:, :, i], log_weights))
    )
    if decision.shape.rank == log_weights.shape.rank:
      decision = decision[0]
    decisions.append(tf.broadcast_to(decision, log_weights.shape[1:]))
  return tf.stack(decisions, axis=1)


def reject_by_all_thresholds(log_weights):
  return tf.stack(
    [fn(log_weights[:, :, :, i]) for i, fn in enumerate(REJECTION.values())],
    axis=2,
  )


def randomize(module, scale):
  """Gives the variables of a module values that are not special."""
  rng = np.random.default_rng(0)
  for variable in module.trainable_variables:
    value = variable + scale * rng.normal(size=variable.shape)
    # Masked networks keep their masks as constraints.
    constraint = getattr(variable, 'constraint', None) or (lambda x: x)
    variable.assign(constraint(value))
  return module


def gaussian_transitions(path):
  transitions = nvi.GaussianTransitions(path, [8], seed=1)
  # Forward kernels wider than reverse kernels.
  for network, offset in (
    (transitions._forward_network, 0.5),
    (transitions._reverse_network, -0.5),
  ):
    randomize(network, 0.1)
    bias = network._biases[-1]
    bias.assign_add(tf.fill(bias.shape, double(offset)))
  return transitions


def kernel_pair(cls=nvi.KernelPair):
  def scale(x, size):
    return size * (1.0 + 0.2 * tf.sin(x))

  return cls(
    lambda y: tfd.MultivariateNormalDiag(0.9 * y + 0.1, scale(y, 0.9)),
    lambda z: tfd.MultivariateNormalDiag(0.8 * z, scale(z, 0.7)),
  )


def real_nvp(flip):
  def shift_and_log_scale_fn(x, output_units):
    del output_units
    return 0.2 * tf.sin(x) + 0.1, 0.2 * tf.tanh(x)

  permute = tfb.Permute([1, 0] if flip else [0, 1])
  return tfb.Chain(
    [permute, tfb.RealNVP(1, shift_and_log_scale_fn=shift_and_log_scale_fn)]
  )


def masked_autoregressive_flow():
  network = tfb.AutoregressiveNetwork(
    params=2,
    event_shape=[2],
    hidden_units=[4],
    activation='tanh',
    dtype='float64',
    kernel_initializer='zeros',
  )
  flow = tfb.MaskedAutoregressiveFlow(network)
  flow.forward(tf.zeros([1, 2], tf.float64))
  return randomize(flow, 0.15)


def spline():
  return tfb.RationalQuadraticSpline(
    bin_widths=double([[2.0, 1.5, 2.5], [1.5, 2.5, 2.0]]),
    bin_heights=double([[1.8, 1.5, 2.7], [1.7, 2.3, 2.0]]),
    knot_slopes=double([[0.8, 1.2], [1.1, 0.9]]),
    range_min=double(-3.0),
  )


def shift_and_scale():
  return tfb.Shift(double([0.2, -0.2]))(tfb.Scale(double([0.9, -1.1])))


def hamiltonian(target_log_prob_fn, level=None):
  del level
  return tfp.mcmc.HamiltonianMonteCarlo(target_log_prob_fn, double(0.6), 2)


def random_walk(target_log_prob_fn, level=None):
  del level
  return tfp.mcmc.RandomWalkMetropolis(target_log_prob_fn)


TRANSITIONS = {
  'gaussian': gaussian_transitions,
  'kernel_pair': lambda path: [kernel_pair(), kernel_pair()],
  'real_nvp': lambda path: [
    nvi.BijectorTransition(real_nvp(flip)) for flip in (True, False)
  ],
  'masked_autoregressive_flow': lambda path: [
    nvi.BijectorTransition(masked_autoregressive_flow()) for _ in range(2)
  ],
  'spline': lambda path: [nvi.BijectorTransition(spline()) for _ in range(2)],
  'shift_and_scale': lambda path: [
    nvi.BijectorTransition(shift_and_scale()) for _ in range(2)
  ],
  'planar': lambda path: randomize(
    nvi.PlanarTransitions(path, num_layers=2, seed=1), 0.2
  ),
  'hamiltonian': lambda path: nvi.MCMCTransition(
    hamiltonian, num_transitions=2
  ),
  'random_walk': lambda path: nvi.MCMCTransition(
    random_walk, num_steps=2, num_transitions=2
  ),
  'flow_and_hamiltonian': lambda path: [
    nvi.Composition(
      [
        nvi.BijectorTransition(real_nvp(flip)),
        nvi.MCMCTransition(hamiltonian),
      ]
    )
    for flip in (True, False)
  ],
  'kernel_pair_and_random_walk': lambda path: [
    nvi.Composition([kernel_pair(), nvi.MCMCTransition(random_walk)])
    for _ in range(2)
  ],
}


@pytest.fixture
def eagerly():
  """Runs functions op by op, as compiling takes longer than running them."""
  tf.config.run_functions_eagerly(True)
  yield
  tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize('name', TRANSITIONS)
def test_weights_are_proper(name):
  """Each transition under all schemes, policies and rejection thresholds."""
  path = make_path()
  sampler = nvi.NestedSampler(
    path,
    TRANSITIONS[name](path),
    initial_proposal=WIDE,
    resample_fn=resample_by_all_schemes,
    resample_criterion_fn=resample_by_all_policies,
    rejection_log_threshold_fn=reject_by_all_thresholds,
  )
  particles = sampler.run(
    NUM_PARTICLES, SEED, [*CONFIGURATIONS, 2_000]
  ).particles
  estimates = estimate(particles)
  scores = np.array(
    [z_scores(estimates[i], INTEGRALS) for i in np.ndindex(*CONFIGURATIONS)]
  )
  assert scores.max() < CRITICAL_Z, scores
  # All configurations have the same expectation: a sharper test of it.
  pooled = z_scores(estimates, INTEGRALS)
  assert pooled.max() < CRITICAL_Z, pooled
  # The configurations do differ, and so do their weights.
  log_weights = np.asarray(particles.log_weights)
  is_rejected = np.isneginf(log_weights).mean(axis=(0, 1, 2, 4))
  assert is_rejected[0] == 0.0
  assert 0.01 < is_rejected[1] < 0.9
  spread = np.std(log_weights[..., 0, :], axis=0).mean(axis=-1)
  assert np.all(spread > 1e-3)


def combinations(*names):
  """All combinations of names; two thirds of them are left to slow tests."""
  return [
    pytest.param(
      *(x for _, x in combination),
      marks=pytest.mark.slow if sum(i for i, _ in combination) % 3 else (),
    )
    for combination in itertools.product(*map(enumerate, names))
  ]


@pytest.mark.parametrize(
  'scheme, policy, rejection',
  combinations(SCHEMES, POLICIES, REJECTION),
)
def test_weights_are_proper_one_by_one(scheme, policy, rejection):
  """As above, each function given to a sampler of its own; one transition."""
  sampler = nvi.NestedSampler(
    make_path(),
    [kernel_pair(), kernel_pair()],
    initial_proposal=WIDE,
    resample_fn=SCHEMES[scheme],
    resample_criterion_fn=POLICIES[policy],
    rejection_log_threshold_fn=(
      None if rejection == 'no_rejection' else REJECTION[rejection]
    ),
  )
  scores = z_scores(estimate(run(sampler, 4_000)), INTEGRALS)
  assert scores.max() < CRITICAL_Z, scores


def test_weights_are_proper_without_an_initial_proposal():
  """The first density serves as one."""
  path = make_path()
  for resample_criterion_fn in (nvi.never, nvi.always):
    sampler = nvi.NestedSampler(
      path,
      gaussian_transitions(path),
      resample_criterion_fn=resample_criterion_fn,
    )
    scores = z_scores(estimate(run(sampler, 6_000)), INTEGRALS)
    assert scores.max() < CRITICAL_Z, scores


def test_weights_are_proper_with_one_particle():
  path = make_path()
  sampler = nvi.NestedSampler(
    path, gaussian_transitions(path), initial_proposal=WIDE
  )
  particles = run(sampler, 20_000, num_particles=1)
  assert z_scores(estimate(particles), INTEGRALS).max() < CRITICAL_Z


def test_weights_are_proper_for_explicit_densities():
  """Their terms are of one density, not of the two ends."""
  densities = nvi.ExplicitDensities(
    [
      diagonal([0.0, 0.0], 1.5),
      lambda x: diagonal([0.4, 0.0], 1.2).log_prob(x) - 1.0,
      log_target,
    ]
  )
  for transitions in ([kernel_pair(), kernel_pair()], None):
    sampler = nvi.NestedSampler(
      densities,
      transitions or gaussian_transitions(densities),
      initial_proposal=WIDE,
    )
    scores = z_scores(estimate(run(sampler, 6_000)), INTEGRALS)
    assert scores.max() < CRITICAL_Z, scores


def test_weights_are_proper_for_unlike_transitions():
  """A flow, a loop over two levels, and a Markov kernel."""
  path = make_path(5)
  sampler = nvi.NestedSampler(
    path,
    [
      nvi.BijectorTransition(real_nvp(True)),
      nvi.KernelPair(
        lambda y, level: tfd.MultivariateNormalDiag(y, double([0.9, 0.9])),
        lambda z, level: tfd.MultivariateNormalDiag(
          z, tf.gather(double([0.6, 0.8]), level) * double([1.0, 1.0])
        ),
        num_transitions=2,
      ),
      nvi.MCMCTransition(random_walk),
    ],
    initial_proposal=WIDE,
    resample_criterion_fn=nvi.ess_below(0.7),
  )
  scores = z_scores(estimate(run(sampler, 6_000)), INTEGRALS)
  assert scores.max() < CRITICAL_Z, scores


def test_weights_are_proper_for_discrete_states():
  """Three states, where the integral is a sum."""
  log_gamma = np.log([[0.2, 0.3, 0.5], [1.0, 3.0, 2.0], [4.0, 0.5, 1.0]])
  log_gamma = tf.constant(log_gamma, tf.float32)
  densities = nvi.ExplicitDensities(
    [
      tfd.Categorical(log_gamma[0]),
      functools.partial(tf.gather, log_gamma[1]),
      functools.partial(tf.gather, log_gamma[2]),
    ]
  )
  forward = tf.constant([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]])
  pair = nvi.KernelPair(
    lambda y: tfd.Categorical(tf.gather(forward, y)),
    lambda z: tfd.Categorical(tf.gather(-forward, z)),
  )
  for resample_criterion_fn in (nvi.never, nvi.always):
    sampler = nvi.NestedSampler(
      densities, [pair, pair], resample_criterion_fn=resample_criterion_fn
    )
    particles = run(sampler, 6_000)
    scores = z_scores(
      estimate(particles, lambda z: z[..., np.newaxis] == np.arange(3)),
      [4.0, 0.5, 1.0],
    )
    assert scores.max() < CRITICAL_Z, scores


def test_weights_are_proper_in_a_batch():
  """Members with schedules and kernels of their own, each run many times."""
  path = randomize(
    nvi.GeometricPath(
      diagonal([0.0, 0.0], 1.5), log_target, 4, learnable=True, batch_shape=[3]
    ),
    0.3,
  )
  transitions = nvi.Composition(
    [
      randomize(nvi.PlanarTransitions(path, 1, batch_shape=[3], seed=1), 0.1),
      nvi.MCMCTransition(random_walk, num_transitions=3),
    ]
  )
  sampler = nvi.NestedSampler(path, transitions, initial_proposal=WIDE)
  assert sampler.batch_shape == [3]
  particles = sampler.run(NUM_PARTICLES, SEED, [6_000, 3]).particles
  estimates = estimate(particles)
  scores = [z_scores(estimates[:, i], INTEGRALS) for i in range(3)]
  assert np.max(scores) < CRITICAL_Z, scores


# Deliberate mistakes, which the tests above must notice.


class WithoutKernels(nvi.KernelPair):
  """Weights as if the forward kernel were its own reverse kernel."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(log_reverse=move.log_forward)


class WithScaledReverse(nvi.KernelPair):
  """A reverse kernel that is not normalized."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(log_reverse=0.97 * move.log_reverse)


class WithoutJacobian(nvi.BijectorTransition):
  """Drops the change of density."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(log_reverse=tf.zeros_like(move.log_reverse))


class WithoutTimeReversal(nvi.MCMCTransition):
  """Weights a Markov kernel as if its two states were the same."""

  def replay(self, *args, **kwargs):
    move = super().replay(*args, **kwargs)
    return move._replace(log_reverse=tf.zeros_like(move.log_reverse))


class WithoutMeanWeight(nvi.NestedSampler):
  """Resampled particles get weight one, not the mean weight."""

  def _resample(self, particles, seed, is_active):
    resampled = super()._resample(particles, seed, is_active)
    return resampled._replace(log_weights=tf.zeros_like(resampled.log_weights))


class WithoutDrawing(nvi.NestedSampler):
  """Particles get the mean weight, but stay as they are."""

  def _resample(self, particles, seed, is_active):
    return particles._replace(
      log_weights=super()._resample(particles, seed, is_active).log_weights
    )


class WithoutPastWeights(nvi.NestedSampler):
  """Starts each level with weights of one."""

  def _resample(self, particles, seed, is_active):
    return particles._replace(log_weights=tf.zeros_like(particles.log_weights))


def resample_by_square_roots(log_probs, event_size, sample_shape, seed=None):
  """Draws from the square roots of the weights."""
  return nvi.resample_systematic(
    tf.math.log_softmax(0.5 * log_probs, axis=0),
    event_size,
    sample_shape,
    seed=seed,
  )


def reject_without_maximum(log_weights, log_threshold, seed):
  """A kept weight stays as it is."""
  is_kept = (
    np.log(randomness.uniform(log_weights.shape, seed, tf.float64))
    + log_threshold
    < log_weights
  )
  return tf.where(is_kept, log_weights, double(-np.inf))


MISTAKES = {
  'no_kernels': lambda: dict(transitions=[kernel_pair(WithoutKernels)] * 2),
  'scaled_reverse': lambda: dict(
    transitions=[kernel_pair(WithScaledReverse)] * 2
  ),
  'no_jacobian': lambda: dict(
    transitions=[WithoutJacobian(real_nvp(flip)) for flip in (True, False)]
  ),
  'no_time_reversal': lambda: dict(
    transitions=WithoutTimeReversal(random_walk, num_transitions=2)
  ),
  'no_mean_weight': lambda: dict(cls=WithoutMeanWeight),
  'no_drawing': lambda: dict(cls=WithoutDrawing),
  'no_past_weights': lambda: dict(cls=WithoutPastWeights),
  'biased_resampling': lambda: dict(resample_fn=resample_by_square_roots),
}


def make_with(
  transitions=None,
  cls=nvi.NestedSampler,
  resample_fn=nvi.resample_systematic,
  resample_criterion_fn=nvi.always,
  rejection_log_threshold_fn=None,
):
  return cls(
    make_path(),
    transitions or [kernel_pair(), kernel_pair()],
    initial_proposal=WIDE,
    resample_fn=resample_fn,
    resample_criterion_fn=resample_criterion_fn,
    rejection_log_threshold_fn=rejection_log_threshold_fn,
  )


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_are_noticed(name):
  scores = z_scores(
    estimate(run(make_with(**MISTAKES[name]()), 20_000)), INTEGRALS
  )
  assert scores.max() > 1.5 * CRITICAL_Z, scores


def test_mistaken_rejection_is_noticed(monkeypatch):
  monkeypatch.setattr(weighting, 'rejection_control', reject_without_maximum)
  sampler = make_with(rejection_log_threshold_fn=nvi.log_normalizer)
  scores = z_scores(estimate(run(sampler, 20_000)), INTEGRALS)
  assert scores.max() > 1.5 * CRITICAL_Z, scores


# Samplers as proposals.


@pytest.mark.parametrize('inner_policy', ['never', 'always', 'ess_below'])
def test_nested_proposal(inner_policy):
  """A sampler with a constant and a density of its own proposes for another."""
  inner_path = nvi.GeometricPath(
    diagonal([0.0, 0.0], 2.0),
    lambda x: 3.0 + diagonal([0.2, -0.1], 1.6).log_prob(x),
    3,
  )
  inner = nvi.NestedSampler(
    inner_path,
    [kernel_pair(), kernel_pair()],
    resample_criterion_fn=POLICIES[inner_policy],
  )
  for num_inner, outer_policy in ((1, nvi.always), (3, nvi.ess_below(0.7))):
    outer = nvi.NestedSampler(
      make_path(),
      [kernel_pair(), kernel_pair()],
      initial_proposal=nvi.NestedProposal(inner, num_inner),
      resample_criterion_fn=outer_policy,
    )
    scores = z_scores(estimate(run(outer, 3_000)), INTEGRALS)
    assert scores.max() < CRITICAL_Z, scores


class WithoutDraws(nvi.Proposal):
  """A proposal that says nothing of the densities before it runs."""

  def propose(
    self, num_particles, batch_shape, seed, densities, reparameterize=True
  ):
    state = randomness.normal([num_particles] + batch_shape, seed)
    log_prob = tfd.Normal(0.0, 1.0).log_prob(state)
    return nvi.Move(
      state=state,
      log_forward=log_prob,
      log_forward_not_reparameterized=log_prob,
    )


def test_variables_of_densities_that_nothing_was_evaluated_of():
  mean = tf.Variable(1.0)
  path = nvi.GeometricPath(
    lambda x: -0.5 * x**2, tfd.Normal(mean, 1.0), num_densities=2
  )
  transitions = nvi.GaussianTransitions(path, seed=1)
  sampler = nvi.NestedSampler(path, transitions, WithoutDraws())
  _, gradients = nvi.reverse_kl()(sampler, 50, randomness.as_seed(1))
  (gradient,) = (g for g, variable in gradients if variable is mean)
  assert abs(gradient) > 1e-3


class WithoutNormalizer(nvi.NestedProposal):
  """Forgets the inner estimate of the normalizer."""

  def run_inner(self, *args):
    runs = super().run_inner(*args)
    return runs._replace(log_normalizer=tf.zeros_like(runs.log_normalizer))


def test_mistaken_nested_proposal_is_noticed():
  path = make_path()
  inner = nvi.NestedSampler(path, [kernel_pair(), kernel_pair()])
  outer = nvi.NestedSampler(
    make_path(2), kernel_pair(), initial_proposal=WithoutNormalizer(inner, 3)
  )
  scores = z_scores(estimate(run(outer, 20_000)), INTEGRALS)
  assert scores.max() > 1.5 * CRITICAL_Z, scores


def test_nested_proposal_whose_weights_may_all_be_zero():
  """A half-normal target: often neither of two inner particles is positive."""

  def half_normal(constant):
    return lambda x: tf.where(
      x > 0.0,
      np.log(constant) + tfd.Normal(double(0.0), double(1.0)).log_prob(x),
      double(-np.inf),
    )

  pair = nvi.KernelPair(
    lambda y: tfd.Normal(y, double(0.9)), lambda z: tfd.Normal(z, double(0.7))
  )
  for policy in (nvi.never, nvi.always):
    inner = nvi.NestedSampler(
      nvi.GeometricPath(
        tfd.Normal(double(-0.3), double(1.3)), half_normal(0.3), 2
      ),
      pair,
      resample_criterion_fn=policy,
    )
    outer = nvi.NestedSampler(
      nvi.GeometricPath(
        tfd.HalfNormal(double(1.0)),
        half_normal(4.0),
        3,
        event_space_bijector=tfb.Identity(),
      ),
      nvi.MCMCTransition(random_walk, num_transitions=2),
      initial_proposal=nvi.NestedProposal(inner, 2),
      resample_criterion_fn=policy,
    )
    particles = run(outer, 3_000)
    log_weights = np.asarray(particles.log_weights)
    assert not np.any(np.isnan(log_weights))
    assert np.any(np.isneginf(log_weights))
    scores = z_scores(
      estimate(
        particles, lambda x: np.stack([np.ones_like(x), x, x**2], axis=-1)
      ),
      [2.0, 4.0 * scipy.stats.norm.pdf(0.0), 2.0],
    )
    assert scores.max() < CRITICAL_Z, scores


def test_nested_twice():
  """A sampler whose proposal is a sampler whose proposal is a sampler."""
  sampler = nvi.NestedSampler(make_path(2), kernel_pair())
  for _ in range(2):
    sampler = nvi.NestedSampler(
      make_path(2),
      kernel_pair(),
      initial_proposal=nvi.NestedProposal(sampler, 2),
    )
  scores = z_scores(estimate(run(sampler, 3_000)), INTEGRALS)
  assert scores.max() < CRITICAL_Z, scores


def test_nested_proposal_over_another_space():
  """The inner sampler's states are in a real space of its own."""
  inner = nvi.NestedSampler(
    nvi.GeometricPath(
      tfd.Gamma(double(2.0), double(1.0)),
      tfd.Gamma(double(3.0), double(2.0)),
      2,
      event_space_bijector=tfb.Exp(),
    ),
    nvi.MCMCTransition(random_walk),
  )
  target = tfd.Gamma(double(3.0), double(2.5))
  outer = nvi.NestedSampler(
    nvi.GeometricPath(
      tfd.Gamma(double(3.0), double(2.2)),
      lambda x: np.log(NORMALIZER) + target.log_prob(x),
      2,
    ),
    nvi.MCMCTransition(random_walk),
    initial_proposal=nvi.NestedProposal(inner, 3),
  )
  particles = run(outer, 3_000)

  def functions(state):
    x = outer.densities.forward(state).numpy()
    return np.stack([np.ones_like(x), x], axis=-1)

  scores = z_scores(
    estimate(particles, functions), NORMALIZER * np.array([1.0, 3.0 / 2.5])
  )
  assert scores.max() < CRITICAL_Z, scores


# Models, whose evidence is known.


def draw(sampler, num_runs):
  """Samples and log weights of many runs of eight particles."""
  particles = sampler.run(8, SEED, [num_runs]).particles
  return sampler.densities.forward(particles.state), particles.log_weights


def test_evidence_over_constrained_supports():
  """Gamma-Poisson, beta-binomial, and a log-normal that is not observed."""
  counts, num_trials, num_successes = [3.0, 1.0], 5.0, 4.0
  parts = dict(
    rate=tfd.Gamma(double(3.0), double(2.0)),
    share=tfd.Beta(double(2.0), double(3.0)),
    size=tfd.LogNormal(double(0.3), double(0.5)),
  )
  prior = tfd.JointDistributionNamed(parts)
  model = tfd.JointDistributionNamedAutoBatched(
    dict(
      parts,
      counts=lambda rate: tfd.Sample(tfd.Poisson(rate), 2),
      successes=lambda share: tfd.Binomial(double(num_trials), probs=share),
    )
  )
  path = nvi.GeometricPath(
    prior,
    model.experimental_pin(
      counts=double(counts), successes=double(num_successes)
    ),
    3,
  )
  sampler = nvi.NestedSampler(path, gaussian_transitions(path))
  samples, log_weights = draw(sampler, 4_000)
  assert set(samples) == {'rate', 'share', 'size'}
  assert all(x.shape == [8, 4_000] for x in samples.values())
  assert np.all(samples['rate'] > 0.0) and np.all(samples['size'] > 0.0)
  assert np.all((samples['share'] > 0.0) & (samples['share'] < 1.0))
  # By conjugacy: Gamma(3 + 4, 2 + 2), Beta(2 + 4, 3 + 1), and the prior.
  total = sum(counts)
  log_evidence = (
    3.0 * np.log(2.0)
    - scipy.special.gammaln(3.0)
    + scipy.special.gammaln(3.0 + total)
    - (3.0 + total) * np.log(4.0)
    - scipy.special.gammaln(np.add(counts, 1.0)).sum()
    + scipy.stats.betabinom.logpmf(num_successes, num_trials, 2.0, 3.0)
  )
  expected = np.exp(log_evidence) * np.array(
    [1.0, 7.0 / 4.0, 0.6, np.exp(0.3 + 0.125)]
  )
  values = np.stack(
    [np.ones([8, 4_000])]
    + [samples[name].numpy() for name in ('rate', 'share', 'size')],
    axis=-1,
  )
  estimates = np.mean(np.exp(log_weights)[..., np.newaxis] * values, axis=0)
  scores = z_scores(estimates, expected)
  assert scores.max() < CRITICAL_Z, scores


def test_evidence_of_a_hierarchical_normal_model():
  """A named tuple of a scalar and a vector, moved by Hamiltonian steps."""
  observed = np.array([0.5, 1.5, -0.5])
  root = tfd.JointDistributionCoroutine.Root

  def draw_prior():
    mean = yield root(tfd.Normal(double(0.0), double(1.0), name='mean'))
    effects = yield tfd.Independent(
      tfd.Normal(mean[..., tf.newaxis] * tf.ones([3], tf.float64), 0.7),
      reinterpreted_batch_ndims=1,
      name='effects',
    )
    return effects

  def draw_all():
    effects = yield from draw_prior()
    yield tfd.Independent(
      tfd.Normal(effects, double(0.5)), reinterpreted_batch_ndims=1, name='y'
    )

  prior = tfd.JointDistributionCoroutine(draw_prior)
  model = tfd.JointDistributionCoroutineAutoBatched(draw_all)
  sampler = nvi.NestedSampler(
    nvi.GeometricPath(prior, model.experimental_pin(y=double(observed)), 3),
    nvi.MCMCTransition(hamiltonian, num_transitions=2),
  )
  samples, log_weights = draw(sampler, 2_000)
  assert samples._fields == ('mean', 'effects')
  assert samples.mean.shape == [8, 2_000]
  assert samples.effects.shape == [8, 2_000, 3]
  # y is normal with variance 1 in common, and 0.7^2 + 0.5^2 for each.
  covariance = np.ones([3, 3]) + (0.7**2 + 0.5**2) * np.eye(3)
  evidence = scipy.stats.multivariate_normal.pdf(
    observed, np.zeros(3), covariance
  )
  mean = np.ones(3) @ np.linalg.solve(covariance, observed)
  effect = (np.ones(3) + 0.7**2 * np.eye(3)[2]) @ np.linalg.solve(
    covariance, observed
  )
  values = np.stack(
    [np.ones([8, 2_000]), samples.mean, samples.effects[..., 2]], axis=-1
  )
  estimates = np.mean(np.exp(log_weights)[..., np.newaxis] * values, axis=0)
  scores = z_scores(estimates, evidence * np.array([1.0, mean, effect]))
  assert scores.max() < CRITICAL_Z, scores


def test_evidence_over_a_simplex():
  """Dirichlet-multinomial; three shares that sum to one, two real numbers."""
  concentration, counts = np.array([2.0, 1.0, 3.0]), np.array([2.0, 0.0, 1.0])
  prior = tfd.Dirichlet(double(concentration))

  def likelihood(shares):
    return tfd.Multinomial(double(3.0), probs=shares)

  path = nvi.GeometricPath(
    prior,
    lambda shares: (
      prior.log_prob(shares) + likelihood(shares).log_prob(double(counts))
    ),
    2,
  )
  sampler = nvi.NestedSampler(path, gaussian_transitions(path))
  samples, log_weights = draw(sampler, 4_000)
  assert samples.shape == [8, 4_000, 3]
  np.testing.assert_allclose(tf.reduce_sum(samples, axis=-1), 1.0)
  evidence = scipy.stats.dirichlet_multinomial.pmf(counts, concentration, 3)
  mean = (concentration + counts) / np.sum(concentration + counts)
  values = np.concatenate([np.ones([8, 4_000, 1]), samples], axis=-1)
  estimates = np.mean(np.exp(log_weights)[..., np.newaxis] * values, axis=0)
  scores = z_scores(estimates, evidence * np.concatenate([[1.0], mean]))
  assert scores.max() < CRITICAL_Z, scores


@pytest.mark.slow
@pytest.mark.parametrize(
  'part',
  [
    pytest.param(tfd.LogNormal(0.0, 1.0), id='LogNormal'),
    pytest.param(tfd.Gamma(2.0, 2.0), id='Gamma'),
  ],
)
def test_auto_batched_initial_densities_compile(part):
  """As XLA does not know all the ops that drawing for each particle may use."""
  prior = tfd.JointDistributionNamedAutoBatched(dict(a=part))
  path = nvi.GeometricPath(prior, prior, 2)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, [3], seed=1))
  particles = sampler.sample(5, seed=1)
  assert particles.particles['a'].shape == [5]
  assert np.all(particles.particles['a'] > 0.0)


# Execution.


def make_sampler(dtype=tf.float64, transitions_cls=nvi.GaussianTransitions):
  """One that uses all that there is, and is cheap to compile."""

  def normal(loc, scale):
    return tfd.MultivariateNormalDiag(
      tf.constant(loc, dtype), tf.constant([scale, scale], dtype)
    )

  path = nvi.GeometricPath(
    normal([0.0, 0.0], 1.5),
    lambda x: normal(MEAN, 1.0).log_prob(x),
    4,
    learnable=True,
    batch_shape=[2],
  )
  transitions = randomize(
    transitions_cls(path, [3], batch_shape=[2], seed=1), 0.2
  )
  return nvi.NestedSampler(
    path,
    transitions,
    initial_proposal=normal([0.2, 0.2], 2.0),
    resample_criterion_fn=nvi.ess_below(0.6),
    rejection_log_threshold_fn=lambda w: nvi.log_normalizer(w) - 2.0,
  )


def assert_close(a, b, rtol=1e-9):
  tf.nest.map_structure(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b
  )


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_results_do_not_depend_on_execution(dtype):
  """Compiled by XLA, as a graph, and op by op."""
  sampler = make_sampler(dtype)
  compiled = sampler.sample(7, seed=3)
  assert compiled.particles.dtype == compiled.log_weights.dtype == dtype
  graph = sampler.sample(7, seed=3, jit_compile=False)
  tf.config.run_functions_eagerly(True)
  try:
    eager = sampler.sample(7, seed=3, jit_compile=False)
  finally:
    tf.config.run_functions_eagerly(False)
  rtol = 1e-3 if dtype == tf.float32 else 1e-9
  assert_close(compiled, graph, rtol)
  assert_close(compiled, eager, rtol)


class Unrolled(nvi.GaussianTransitions):
  """The same transitions, said not to fit in a loop."""

  is_rollable = False


def test_a_loop_is_the_same_as_no_loop():
  rolled = make_sampler()
  unrolled = make_sampler(transitions_cls=Unrolled)
  a, b = (s.run(7, SEED) for s in (rolled, unrolled))
  assert a.segments[0].is_rolled and not b.segments[0].is_rolled
  assert_close(a.particles, b.particles)
  assert_close(
    *(run.collect(lambda r: r.log_incremental_weights) for run in (a, b))
  )
  # Densities that cannot be looked up in a loop unroll it, too.
  path = make_path()
  beta = path.schedule.numpy()
  explicit = nvi.ExplicitDensities(
    [diagonal([0.0, 0.0], 1.5)]
    + [
      functools.partial(
        lambda beta, x: (
          (1.0 - beta) * diagonal([0.0, 0.0], 1.5).log_prob(x)
          + beta * log_target(x)
        ),
        b,
      )
      for b in beta[1:]
    ]
  )
  a, b = (
    nvi.NestedSampler(densities, gaussian_transitions(path)).run(7, SEED)
    for densities in (path, explicit)
  )
  assert a.segments[0].is_rolled and not b.segments[0].is_rolled
  assert_close(
    (a.particles.state, a.particles.log_weights),
    (b.particles.state, b.particles.log_weights),
  )


@pytest.mark.parametrize(
  'make_transitions',
  [
    gaussian_transitions,
    lambda path: nvi.MCMCTransition(random_walk, num_transitions=2),
    lambda path: nvi.Composition(
      [
        nvi.PlanarTransitions(path, 2, seed=1),
        nvi.MCMCTransition(random_walk, num_transitions=2),
      ]
    ),
  ],
  ids=['gaussian', 'mcmc', 'composition'],
)
def test_records_of_a_loop_are_stacked(make_transitions):
  """Leaves of a rolled record have an axis over levels, of known shape."""
  path = make_path()
  sampler = nvi.NestedSampler(path, make_transitions(path))
  (segment,) = sampler.run(7, SEED).segments
  assert segment.is_rolled
  records = segment.records
  assert records.log_incremental_weights.shape == [2, 7]
  assert records.previous.state.shape == [2, 7, 2]
  assert records.particles.log_weights.shape == [2, 7]
  for leaf in tf.nest.flatten(records):
    assert leaf.shape[0] == 2


def test_seeds(eagerly):
  sampler = make_sampler()
  sample = functools.partial(sampler.sample, 5, jit_compile=False)
  first = sample(seed=1)
  assert_close(first, sample(seed=1))
  assert_close(first, sample(seed=randomness.as_seed(1)))
  for other in (sample(seed=2), sample()):
    assert np.all(first.particles != other.particles)


def test_members_of_a_batch_do_not_interfere():
  """Another member's parameters do not matter; its particles are others."""
  sampler = make_sampler()
  before = sampler.run(6, SEED).particles
  for variable in sampler.trainable_variables:
    # The batch axis is the first one of the schedule, and else the second one.
    member = 0 if 'schedule' in variable.name else 1
    shift = np.zeros(variable.shape)
    np.moveaxis(shift, member, 0)[1] = 0.1
    variable.assign_add(shift)
  after = sampler.run(6, SEED).particles
  assert_close(before.state[:, 0], after.state[:, 0])
  assert_close(before.log_weights[:, 0], after.log_weights[:, 0])
  assert np.any(before.state[:, 1] != after.state[:, 1])
  assert np.any(before.log_weights[:, 1] != after.log_weights[:, 1])
  # Members that are alike in everything are independent.
  path = make_path()
  alike = nvi.NestedSampler(path, gaussian_transitions(path))
  log_weights = run(alike, 4_000).log_weights
  a, b = np.split(np.asarray(nvi.log_normalizer(log_weights)), 2)
  assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(len(a)) < CRITICAL_Z


@pytest.mark.parametrize(
  'make_transitions',
  [
    lambda path: [kernel_pair(), kernel_pair()],
    lambda path: [nvi.BijectorTransition(real_nvp(True)) for _ in range(2)],
    lambda path: nvi.MCMCTransition(random_walk, num_transitions=2),
  ],
  ids=['kernel_pair', 'flow', 'mcmc'],
)
def test_members_without_any_weight(make_transitions):
  """Their normalizer is zero, and the others are as if they were not there."""

  def sample(is_dead, policy, rejection):
    path = nvi.GeometricPath(
      tfd.MultivariateNormalDiag(tf.zeros([3, 2], tf.float64)),
      lambda x: tf.where(is_dead, double(-np.inf), log_target(x)),
      3,
    )
    sampler = nvi.NestedSampler(
      path,
      make_transitions(path),
      resample_criterion_fn=policy,
      rejection_log_threshold_fn=rejection,
    )
    particles = sampler.run(6, SEED).particles
    return nvi.WeightedParticles(particles.state, particles.log_weights)

  for name, policy in POLICIES.items():
    rejection = nvi.log_normalizer if name == 'ess_below' else None
    alive = sample([False, False, False], policy, rejection)
    dead = sample([False, True, False], policy, rejection)
    assert np.all(np.isneginf(dead.log_weights[:, 1]))
    np.testing.assert_array_equal(dead.log_normalizer[1], -np.inf)
    assert dead.effective_sample_size[1] == 0.0
    for member in (0, 2):
      assert_close(dead.log_weights[:, member], alive.log_weights[:, member])
      assert_close(dead.particles[:, member], alive.particles[:, member])
    assert not np.any(np.isnan(dead.expectation()))


def test_a_density_that_is_zero_somewhere():
  """Markov kernels that start where the next density is zero."""

  def log_prob(x):
    return tf.where(x > 0.0, tfd.Normal(double(0.0), 1.0).log_prob(x), -np.inf)

  for policy in (nvi.never, nvi.always):
    sampler = nvi.NestedSampler(
      nvi.GeometricPath(tfd.Normal(double(0.0), double(1.2)), log_prob, 3),
      nvi.MCMCTransition(random_walk, num_transitions=2),
      resample_criterion_fn=policy,
    )
    particles = run(sampler, 6_000)
    assert not np.any(np.isnan(particles.log_weights))
    scores = z_scores(
      estimate(particles, lambda x: np.stack([np.ones_like(x), x**2], -1)),
      [0.5, 0.5],
    )
    assert scores.max() < CRITICAL_Z, scores


@pytest.mark.parametrize(
  'name', ['gaussian', 'kernel_pair', 'real_nvp', 'planar']
)
@pytest.mark.parametrize('proposal', [None, WIDE], ids=['initial', 'wide'])
def test_each_density_is_evaluated_once(name, proposal):
  """The target, for each particle at each level, whatever is resampled."""
  counts = []

  def target(x):
    counts.append(x.shape[:-1].num_elements())
    return log_target(x)

  path = nvi.GeometricPath(diagonal([0.0, 0.0], 1.5), target, 3)
  sampler = nvi.NestedSampler(
    path,
    TRANSITIONS[name](path),
    initial_proposal=proposal,
    rejection_log_threshold_fn=nvi.log_normalizer,
  )
  counts.clear()
  sampler.run(7, SEED)
  assert counts == [7, 7, 7]


def test_only_the_density_of_a_level_is_evaluated():
  calls = []

  def density(i, x):
    calls.append(i)
    return log_target(x)

  densities = nvi.ExplicitDensities(
    [diagonal([0.0, 0.0], 1.5)]
    + [functools.partial(density, i) for i in (1, 2)]
  )
  sampler = nvi.NestedSampler(densities, gaussian_transitions(densities))
  calls.clear()
  sampler.run(7, SEED)
  assert calls == [1, 2]


# What a user sees.


def test_sample(eagerly):
  sampler = make_sampler()
  particles = sampler.sample(9, seed=1, jit_compile=False)
  assert isinstance(particles, nvi.WeightedParticles)
  assert particles.particles.shape == [9, 2, 2]
  assert particles.log_weights.shape == [9, 2]
  assert particles.log_normalizer.shape == [2]
  assert particles.expectation().shape == [2, 2]


@pytest.mark.parametrize('transitions_cls', [nvi.GaussianTransitions, Unrolled])
def test_trace(eagerly, transitions_cls):
  """Levels follow from one another, and the last one is the sample."""
  sampler = make_sampler(transitions_cls=transitions_cls)
  for policy in (nvi.never, nvi.always):
    sampler = sampler.copy(
      resample_criterion_fn=policy, rejection_log_threshold_fn=None
    )
    trace = sampler.trace(9, seed=1, jit_compile=False)
    assert isinstance(trace, nvi.Trace)
    assert trace.particles.shape == [4, 9, 2, 2]
    assert trace.log_weights.shape == [4, 9, 2]
    assert trace.log_incremental_weights.shape == [3, 9, 2]
    sample = sampler.sample(9, seed=1, jit_compile=False)
    assert_close(trace.particles[-1], sample.particles)
    assert_close(trace.log_weights[-1], sample.log_weights)
    x = trace.particles[0]
    path = sampler.densities
    assert_close(
      trace.log_weights[0],
      diagonal([0.0, 0.0], 1.5).log_prob(x) - WIDE.log_prob(x),
    )
    received = trace.log_weights[:-1].numpy()
    if policy is nvi.always:
      received = np.broadcast_to(
        scipy.special.logsumexp(received, axis=1, keepdims=True) - np.log(9.0),
        received.shape,
      )
    assert_close(
      trace.log_weights[1:], received + trace.log_incremental_weights
    )
    assert path.num_densities == 4


def test_trace_of_unlike_transitions():
  """Compiled, over a structure and a constrained support."""
  prior = tfd.JointDistributionNamed(
    dict(
      a=tfd.Gamma(double(2.0), double(1.0)),
      b=tfd.Normal(double(0.0), double(1.0)),
    )
  )
  path = nvi.GeometricPath(prior, prior, 4)
  sampler = nvi.NestedSampler(
    path,
    [
      nvi.BijectorTransition(
        tfb.JointMap(dict(a=tfb.Scale(double(1.1)), b=tfb.Shift(double(0.1))))
      ),
      nvi.MCMCTransition(hamiltonian, num_transitions=2),
    ],
  )
  trace = sampler.trace(5, seed=1)
  assert set(trace.particles) == {'a', 'b'}
  assert trace.particles['a'].shape == [4, 5]
  assert np.all(trace.particles['a'] > 0.0)
  assert trace.log_weights.shape == [4, 5]
  assert trace.log_incremental_weights.shape == [3, 5]


def test_variables_are_found():
  """Those of the densities, the proposal and the transitions."""
  loc = tf.Variable([0.1, 0.2], dtype=tf.float64)
  shift = tf.Variable([0.3, 0.4], dtype=tf.float64)
  path = nvi.GeometricPath(
    diagonal([0.0, 0.0], 1.5), log_target, 4, learnable=True
  )
  transition = nvi.BijectorTransition(tfb.Shift(shift))
  flow = nvi.BijectorTransition(masked_autoregressive_flow())
  sampler = nvi.NestedSampler(
    path,
    [transition, nvi.Composition([transition]), flow],
    initial_proposal=tfd.MultivariateNormalDiag(loc, double([2.0, 2.0])),
  )
  names = [v.ref() for v in sampler.trainable_variables]
  assert loc.ref() in names and shift.ref() in names
  # And the schedule, and two layers of the flow's network.
  assert len(names) == len(set(names)) == 7
  path = nvi.GeometricPath(diagonal([0.0, 0.0], 1.5), log_target, 4)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  assert len(sampler.trainable_variables) == 8


def test_checkpoints(eagerly, tmp_path):
  """What is restored samples as what was saved did."""
  saved, restored = make_sampler(), make_sampler()
  for variable in saved.trainable_variables:
    variable.assign_add(0.1 * tf.ones_like(variable))
  expected = saved.sample(5, seed=1, jit_compile=False)
  before = restored.sample(5, seed=1, jit_compile=False)
  assert np.any(expected.particles != before.particles)
  path = tf.train.Checkpoint(sampler=saved).save(str(tmp_path / 'checkpoint'))
  status = tf.train.Checkpoint(sampler=restored).restore(path)
  status.assert_existing_objects_matched()
  assert_close(expected, restored.sample(5, seed=1, jit_compile=False))


def test_copy():
  """Other arguments, the same variables."""
  sampler = make_sampler()
  copy = sampler.copy(resample_criterion_fn=nvi.always)
  assert len(copy.trainable_variables) == len(sampler.trainable_variables)
  for a, b in zip(
    copy.trainable_variables, sampler.trainable_variables, strict=True
  ):
    assert a is b
  a, b, c = (s.run(6, SEED).particles for s in (sampler, sampler.copy(), copy))
  assert_close(a, b)
  assert np.any(a.log_weights != c.log_weights)


# Bad input.


def scalar_path(num_densities=3):
  return nvi.GeometricPath(
    tfd.Normal(0.0, 2.0), tfd.Normal(1.0, 1.0), num_densities
  )


def scalar_pair():
  return nvi.KernelPair(
    lambda y: tfd.Normal(y, 1.0), lambda z: tfd.Normal(z, 1.0)
  )


def scalar_sampler(**kwargs):
  return nvi.NestedSampler(
    **{
      **dict(densities=scalar_path(), transitions=[scalar_pair()] * 2),
      **kwargs,
    }
  )


@pytest.mark.parametrize(
  'count', [0, -3, 10**12, 2.5, True, '3', None], ids=repr
)
def test_bad_particle_counts(count):
  sampler = scalar_sampler()
  for call in (
    lambda: sampler.sample(count, seed=1),
    lambda: sampler.trace(count, seed=1),
    lambda: nvi.NestedProposal(sampler, count),
  ):
    with pytest.raises((TypeError, ValueError), match='`num_particles` must'):
      call()


def test_particle_counts_of_numpy():
  count = np.int64(3)
  sampler = scalar_sampler()
  outer = scalar_sampler(initial_proposal=nvi.NestedProposal(sampler, count))
  for s in (sampler, outer):
    assert s.sample(count, seed=1).log_weights.shape == [3]


def test_bad_seed():
  with pytest.raises(TypeError, match='`seed` must be'):
    scalar_sampler().sample(3, seed=1.5)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_wrong_number_of_transitions(count):
  match = f'`transitions` must lead through 2 levels.*got {count}'
  with pytest.raises(ValueError, match=match):
    scalar_sampler(transitions=[scalar_pair()] * count)


def test_transitions_for_other_densities():
  transitions = nvi.GaussianTransitions(scalar_path(4), [3])
  match = '`transitions` must lead through 2 levels.*got 3'
  with pytest.raises(ValueError, match=match):
    scalar_sampler(transitions=transitions)


@pytest.mark.parametrize(
  'arguments, match',
  [
    (dict(transitions=[tf.exp] * 2), r'`transitions\[0\]` must be a Transit'),
    (dict(transitions=None), '`transitions` must be'),
    (dict(densities=[tfd.Normal(0.0, 1.0)] * 3), '`densities` must be'),
    (dict(resample_fn=None), '`resample_fn` must be callable'),
    (dict(resample_criterion_fn=True), '`resample_criterion_fn` must be call'),
    (
      dict(rejection_log_threshold_fn=-1.0),
      '`rejection_log_threshold_fn` must be callable',
    ),
    (dict(initial_proposal=tf.exp), '`initial_proposal` must be a tfd.Dist'),
    (
      dict(initial_proposal=tfd.Normal(double(0.0), double(1.0))),
      '`initial_proposal` must.*dtype',
    ),
    (
      dict(initial_proposal=tfd.MultivariateNormalDiag([0.0, 0.0])),
      '`initial_proposal` must.*shape',
    ),
    (
      dict(
        initial_proposal=tfd.JointDistributionNamed(
          dict(a=tfd.Normal(0.0, 1.0))
        )
      ),
      '`initial_proposal` must.*structure',
    ),
  ],
)
def test_bad_arguments(arguments, match):
  with pytest.raises((TypeError, ValueError), match=match):
    scalar_sampler(**arguments)


def test_nested_proposal_of_something_else():
  with pytest.raises(TypeError, match='`sampler` must be a NestedSampler'):
    nvi.NestedProposal(scalar_path(), 3)


def test_no_initial_proposal():
  path = nvi.GeometricPath(lambda x: -(x**2), tfd.Normal(0.0, 1.0), 3)
  with pytest.raises(ValueError, match='`initial_proposal` must be given'):
    scalar_sampler(densities=path)
  scalar_sampler(densities=path, initial_proposal=tfd.Normal(0.0, 1.0))


def test_initial_proposal_outside_of_the_support():
  path = nvi.GeometricPath(tfd.Gamma(2.0, 2.0), tfd.Gamma(3.0, 2.0), 3)
  with pytest.raises(ValueError, match='initial proposal .*support'):
    scalar_sampler(densities=path, initial_proposal=tfd.Normal(0.0, 1.0))


def test_batch_shapes_that_do_not_agree():
  members = tfd.Normal(tf.zeros([2]), 1.0)
  path = nvi.GeometricPath(members, members, 3)
  match = r'`transitions\[0\]` must have a batch shape .*\[2\]; got \[3\]'
  with pytest.raises(ValueError, match=match):
    scalar_sampler(
      densities=path,
      transitions=nvi.GaussianTransitions(path, batch_shape=[3]),
    )
  with pytest.raises(ValueError, match='`initial_proposal` .*batch'):
    scalar_sampler(
      densities=path, initial_proposal=tfd.Normal(tf.zeros([3]), 1.0)
    )


def test_batch_dimensions_of_size_one_broadcast(eagerly):
  """As they do everywhere else."""
  members = tfd.Normal(tf.zeros([1]), 1.0)
  path = nvi.GeometricPath(members, members, 3)
  sampler = nvi.NestedSampler(
    path, nvi.GaussianTransitions(path, [3], batch_shape=[2], seed=1)
  )
  particles = sampler.sample(4, seed=1, jit_compile=False)
  assert particles.particles.shape == particles.log_weights.shape == [4, 2]
  # Each member has draws of its own.
  first = sampler.trace(4, seed=1, jit_compile=False).particles[0]
  assert np.all(first[:, 0] != first[:, 1])


class NotANumberLater:
  """A density that is NaN where the checks before a run do not look."""

  def __init__(self, threshold=0.5):
    self.is_checked = False
    self._threshold = threshold

  def __call__(self, x):
    value = np.nan if self.is_checked else 0.0
    return -0.5 * x**2 + tf.where(x > self._threshold, value, 0.0)


@pytest.mark.parametrize('policy', [nvi.never, nvi.always, nvi.ess_below()])
@pytest.mark.parametrize('rejection', [None, nvi.log_normalizer])
def test_nan_is_not_silent(eagerly, policy, rejection):
  target = NotANumberLater()
  sampler = scalar_sampler(
    densities=nvi.GeometricPath(tfd.Normal(0.0, 1.0), target, 3),
    resample_criterion_fn=policy,
    rejection_log_threshold_fn=rejection,
  )
  target.is_checked = True
  for method in (sampler.sample, sampler.trace):
    sampler._has_warned = False
    with pytest.warns(RuntimeWarning, match='NaN'):
      method(50, seed=1, jit_compile=False)
  with pytest.raises(ValueError, match='NaN'):
    sampler.sample(50, seed=1, jit_compile=False, strict=True)


@pytest.mark.parametrize(
  'jit_compile', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_nan_of_a_nested_proposal_is_not_silent(jit_compile):
  """In the weights of all inner particles, or of one."""
  for threshold in (-np.inf, 0.5):
    target = NotANumberLater(threshold)
    inner = scalar_sampler(
      densities=nvi.GeometricPath(tfd.Normal(0.0, 1.0), target, 3)
    )
    outer = scalar_sampler(initial_proposal=nvi.NestedProposal(inner, 3))
    target.is_checked = True
    with pytest.warns(RuntimeWarning, match='NaN'):
      outer.sample(50, seed=1, jit_compile=jit_compile)


@pytest.mark.parametrize(
  'arguments, match',
  [
    (
      dict(resample_fn=lambda log_probs, *args, seed: log_probs),
      '`resample_fn` must return integers',
    ),
    (
      dict(resample_fn=lambda *args, seed: tf.zeros([4, 2], tf.int32)),
      r'`resample_fn` must return .*of shape \(4, 2\)',
    ),
    (
      dict(resample_fn=lambda *args, seed: tf.zeros([3], tf.int32)),
      r'`resample_fn` must return integers of shape \(2,\).* of shape \(3,\)',
    ),
    (
      dict(
        resample_fn=lambda *args, seed: tf.zeros([3], tf.int32),
        resample_criterion_fn=nvi.ess_below(1.0),
      ),
      r'`resample_fn` must return integers of shape \(2,\).* of shape \(3,\)',
    ),
    (
      dict(resample_fn=lambda *args, seed: None),
      '`resample_fn` must return .*it returned None',
    ),
    (
      dict(resample_criterion_fn=lambda particles: None),
      '`resample_criterion_fn` must return .*it returned None',
    ),
    (
      dict(rejection_log_threshold_fn=lambda log_weights: None),
      '`rejection_log_threshold_fn` must return .*it returned None',
    ),
    (
      dict(rejection_log_threshold_fn=lambda log_weights: float('nan')),
      'log weights are NaN: a transition',
    ),
    (
      dict(resample_criterion_fn=lambda particles: particles.log_weights > 0),
      '`resample_criterion_fn` must return .*shape',
    ),
    (
      dict(resample_criterion_fn=lambda particles: 0.5),
      '`resample_criterion_fn` must return .*it returned float32',
    ),
    (
      dict(rejection_log_threshold_fn=lambda log_weights: tf.zeros([3])),
      '`rejection_log_threshold_fn` must return .*shape',
    ),
  ],
)
def test_functions_that_return_something_else(arguments, match):
  with pytest.raises((TypeError, ValueError), match=match):
    scalar_sampler(**arguments).sample(4, seed=1, jit_compile=False)


def test_a_target_that_does_not_fit_a_batch_of_transitions():
  """Noticed before it is run: the densities alone have no batch."""

  def target(x):
    return -tf.reduce_sum(x**2, axis=1)

  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag([0.0, 0.0], [2.0, 2.0]), target, 3
  )
  with pytest.raises(ValueError, match='`target` must return one log density'):
    nvi.NestedSampler(
      path, nvi.GaussianTransitions(path, [3], batch_shape=[5], seed=1)
    )


def vector_path():
  return nvi.GeometricPath(
    tfd.MultivariateNormalDiag([0.0, 0.0], [2.0, 2.0]),
    tfd.MultivariateNormalDiag([1.0, 0.0]),
    3,
  )


def vector_kernel(x):
  return tfd.MultivariateNormalDiag(x, [1.0, 1.0])


@pytest.mark.parametrize(
  'forward_fn, reverse_fn, name',
  [
    (lambda y: tfd.Normal(y, 1.0), vector_kernel, 'forward_fn'),
    (vector_kernel, lambda z: tfd.Normal(z, 1.0), 'reverse_fn'),
  ],
)
def test_kernels_over_something_else(forward_fn, reverse_fn, name):
  """A kernel for each axis, in the place of one over vectors."""
  with pytest.raises(
    ValueError, match=rf'`{name}` must return .* has shape \(4, 2\)'
  ):
    nvi.NestedSampler(
      vector_path(), [nvi.KernelPair(forward_fn, reverse_fn)] * 2
    ).sample(4, seed=1, jit_compile=False)


@pytest.mark.parametrize(
  'forward_fn',
  [
    lambda y: tfd.MultivariateNormalDiag([0.0, 0.0]),
    lambda y: tfd.MultivariateNormalDiag(tf.zeros([4, 3])),
    lambda y: tfd.MultivariateNormalDiag(tf.zeros([5, 2])),
  ],
  ids=['one_for_all_particles', 'another_size', 'another_number'],
)
def test_kernels_that_propose_something_else(forward_fn):
  """States must keep the shape of states."""
  match = '(`forward_fn`|transition to level 1) must .*shape'
  with pytest.raises(ValueError, match=match):
    nvi.NestedSampler(
      vector_path(), [nvi.KernelPair(forward_fn, vector_kernel)] * 2
    ).sample(4, seed=1, jit_compile=False)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers serve tfp.vi and tfp.mcmc, exactly, however bad they are.

Samplers here are untrained, with few particles: what does not correct for that
is seen. Statistical tests have fixed seeds and allow five standard errors: a
false alarm in 10^6 if the estimates are normal.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import interoperability

tfd = tfp.distributions

MEAN, DEVIATION, LOG_NORMALIZER = 1.5, 0.6, 0.7


def log_target(x):
  return tfd.Normal(MEAN, DEVIATION).log_prob(x) + LOG_NORMALIZER


def make_sampler(batch=(), structured=False):
  if structured:
    initial = tfd.JointDistributionNamed({'x': tfd.Normal(0.0, 2.0)})

    def target(value):
      return log_target(value['x'])

  else:
    initial, target = tfd.Normal(0.0, 2.0), log_target
  path = nvi.GeometricPath(
    initial, target, num_densities=3, learnable=True, batch_shape=list(batch)
  )
  return nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))


def assert_mean(values, expected, weights=None):
  """Checks a (self-normalized) mean by its standard error."""
  values = np.asarray(values, np.float64)
  if weights is None:
    weights = np.ones_like(values)
  weights = weights / np.sum(weights)
  mean = np.sum(weights * values)
  error = np.sqrt(np.sum((weights * (values - mean)) ** 2))
  assert abs(mean - expected) < 5.0 * error, (mean, expected, error)
  return error


@pytest.fixture(scope='module')
def draws():
  surrogate = nvi.SamplerDistribution(make_sampler(), num_particles=3)
  return surrogate.experimental_sample_and_log_prob(20_000, seed=3)


def test_importance_weights_are_unbiased(draws):
  x, log_prob = draws
  # The normalizer and first moment of another density than the sampler's.
  other = tfd.Normal(1.2, 0.5)
  weights = np.exp(other.log_prob(x) + 0.3 - log_prob)
  assert assert_mean(weights, np.exp(0.3)) < 0.05
  assert_mean(weights * x, 1.2 * np.exp(0.3))


def test_weights_without_the_estimate_are_not():
  """A mutation: the density of the target in the place of the estimate."""
  sampler = make_sampler()
  x, log_prob, _ = interoperability._draw(
    nvi.NestedProposal(sampler, 3), sampler, 20_000, tf.constant([0, 3])
  )
  other = tfd.Normal(1.2, 0.5)
  with pytest.raises(AssertionError):
    assert_mean(np.exp(other.log_prob(x) + 0.3 - log_prob), np.exp(0.3))


def test_loss_is_a_bound(draws):
  """The reverse KL is the mean of -log Z-hat, and tighter with more draws."""
  x, log_prob = draws
  expected = -np.mean(log_target(x) - log_prob)
  losses = {}
  for num_particles, importance in ((3, 1), (30, 1), (3, 10)):
    surrogate = nvi.SamplerDistribution(make_sampler(), num_particles)
    losses[num_particles, importance] = float(
      tfp.vi.monte_carlo_variational_loss(
        log_target,
        surrogate,
        sample_size=2_000,
        importance_sample_size=importance,
        seed=4,
      )
    )
  # Deviations of log Z-hat are about one.
  assert abs(losses[3, 1] - expected) < 5.0 / np.sqrt(2_000)
  assert losses[3, 1] > losses[30, 1] > -LOG_NORMALIZER - 0.02
  assert losses[3, 1] > losses[3, 10] > -LOG_NORMALIZER - 0.02


def test_loss_has_a_gradient_by_the_target():
  loc = tf.Variable(0.0)
  surrogate = nvi.SamplerDistribution(make_sampler(), num_particles=100)
  with tf.GradientTape() as tape:
    loss = tfp.vi.monte_carlo_variational_loss(
      lambda x: tfd.Normal(loc, 1.0).log_prob(x),
      surrogate,
      sample_size=2_000,
      seed=4,
    )
  # With 100 particles the draws are nearly those of the target, whose mean is
  # the derivative of the log density; its error is 0.6 / sqrt(2000).
  gradient = tape.gradient(loss, loc)
  assert abs(gradient + MEAN) < 5.0 * 0.6 / np.sqrt(2_000) + 0.03


def test_shapes_of_surrogates():
  surrogate = nvi.SamplerDistribution(make_sampler(structured=True), 4)
  assert surrogate.event_shape == {'x': []} and surrogate.batch_shape == []
  value = surrogate.sample([5, 2], seed=1)
  assert value['x'].shape == [5, 2]
  assert surrogate.sample(seed=1)['x'].shape == []
  surrogate = nvi.SamplerDistribution(make_sampler([3]), 4)
  x, log_prob = surrogate.experimental_sample_and_log_prob(5, seed=1)
  assert x.shape == log_prob.shape == [5, 3]
  with pytest.raises(NotImplementedError, match='is not known'):
    surrogate.log_prob(x)


@pytest.fixture(scope='module')
def start():
  """Chains, and weights by which they are of the invariant density."""
  kernel = nvi.SamplerKernel(make_sampler(), num_particles=1)
  state, results = kernel.start(40_000, seed=5)
  weights = np.exp(results.log_normalizer.numpy().astype(np.float64))
  return state, results, weights


def check_moments(x, weights):
  error = assert_mean(x, MEAN, weights)
  assert error < 0.05
  assert_mean((x - MEAN) ** 2, DEVIATION**2, weights)


@pytest.mark.parametrize('num_proposals', [1, 4])
def test_kernel_leaves_the_target_invariant(start, num_proposals):
  state, results, weights = start
  check_moments(state, weights)
  kernel = nvi.SamplerKernel(make_sampler(), 1, num_proposals)
  after, found = kernel.one_step(state, results, seed=6)
  moved = np.mean(found.is_accepted)
  assert 0.1 < moved < 0.99
  check_moments(after, weights)
  np.testing.assert_array_equal(found.is_accepted, after != state)
  # The estimates, too, have the law that they had before.
  for limit in (-0.5, 0.5, 1.0):
    before = results.log_normalizer.numpy() > limit
    assert_mean(
      (found.log_normalizer.numpy() > limit).astype(float) - before,
      0.0,
      weights,
    )


@pytest.mark.parametrize('num_proposals', [1, 4])
def test_to_accept_always_is_not_invariant(start, num_proposals):
  """A mutation, which states without an estimate come down to."""
  state, _, weights = start
  kernel = nvi.SamplerKernel(make_sampler(), 1, num_proposals)
  after, found = kernel.one_step(state, kernel.bootstrap_results(state), seed=6)
  assert np.all(found.is_accepted)
  with pytest.raises(AssertionError):
    check_moments(after, weights)


def test_chains_converge():
  kernel = nvi.SamplerKernel(make_sampler(structured=True), 2)
  state = {'x': tf.fill([300], -9.0)}
  draws, accepted = tf.function(
    lambda: tfp.mcmc.sample_chain(
      60,
      state,
      kernel=kernel,
      num_burnin_steps=40,
      trace_fn=lambda _, results: results.is_accepted,
      seed=7,
    ),
    autograph=False,
  )()
  x = draws['x'].numpy()
  assert 0.05 < np.mean(accepted) < 0.95
  # Chains are independent: the error is that of their means.
  means = x.mean(axis=0)
  assert_mean(means, MEAN)
  assert_mean(((x - MEAN) ** 2).mean(axis=0), DEVIATION**2)


def test_steps_of_a_loop_without_a_seed_differ():
  kernel = nvi.SamplerKernel(make_sampler(), 50)
  state, results = kernel.start(4, seed=8)
  draws = tfp.mcmc.sample_chain(
    20,
    state,
    kernel=kernel,
    previous_kernel_results=results,
    trace_fn=None,
  )
  assert len(np.unique(draws.numpy()[:, 0])) > 3


def test_particles_of_zero_weight_are_not_moved_to():
  def nowhere(x):
    return tf.where(x > 100.0, 0.0, -float('inf')) + 0.0 * x

  path = nvi.GeometricPath(tfd.Normal(0.0, 1.0), nowhere, num_densities=2)
  kernels = nvi.KernelPair(
    lambda z: tfd.Normal(z, 1.0), lambda z: tfd.Normal(z, 1.0)
  )
  for num_proposals in (1, 3):
    kernel = nvi.SamplerKernel(
      nvi.NestedSampler(path, kernels), 2, num_proposals
    )
    state = tf.zeros([5])
    results = kernel.bootstrap_results(state)
    after, found = kernel.one_step(state, results, seed=1)
    np.testing.assert_array_equal(after, state)
    assert not np.any(found.is_accepted)


def test_start_of_nuts_keeps_modes():
  target = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.7, 0.3]), tfd.Normal([-5.0, 5.0], 0.5)
  )
  proposal = tfd.Normal(0.0, 4.0)
  x = proposal.sample(4_000, seed=[1, 2])
  particles = nvi.WeightedParticles(
    x, target.log_prob(x) - proposal.log_prob(x)
  )
  states, scales = nvi.start_chains(particles, 200, seed=3)
  assert states.shape == [200]
  deviation = np.sqrt(0.7 * 0.3 * 100.0 + 0.25)
  assert abs(scales / deviation - 1.0) < 0.1
  draws = tf.function(
    lambda: tfp.mcmc.sample_chain(
      30,
      states,
      kernel=tfp.mcmc.NoUTurnSampler(target.log_prob, 0.3),
      num_burnin_steps=10,
      trace_fn=None,
      seed=4,
    ),
    autograph=False,
  )()
  # Deviations of the shares: sqrt(0.21 / 1500), by the effective sample size.
  assert abs(np.mean(draws < 0.0) - 0.7) < 5.0 * 0.012
  inside = draws.numpy()[draws.numpy() < 0.0]
  assert abs(inside.mean() + 5.0) < 0.1 and abs(inside.std() - 0.5) < 0.05


def test_start_of_integers():
  particles = nvi.WeightedParticles(
    {'count': tf.constant([0, 1, 1, 2]), 'place': tf.zeros([4])}, tf.zeros([4])
  )
  states, scales = nvi.start_chains(particles, 2, seed=1)
  assert states['count'].dtype == tf.int32
  # The variance of 0, 1, 1, 2 is one half.
  np.testing.assert_allclose(scales['count'], np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize(
  ('call', 'problem'),
  [
    (lambda: nvi.SamplerDistribution(3, 2), '`sampler` must be a NestedSamp'),
    (lambda: nvi.SamplerDistribution(make_sampler(), 0), '`num_particles`'),
    (
      lambda: nvi.SamplerKernel(make_sampler([2]), 2),
      '`sampler` must have a s',
    ),
    (lambda: nvi.SamplerKernel(make_sampler(), 2, 0), '`num_proposals`'),
    (
      lambda: nvi.start_chains(
        nvi.WeightedParticles(tf.zeros([4, 2]), tf.zeros([4, 2])), 2
      ),
      '`particles` must have a scalar batch',
    ),
    (
      lambda: nvi.start_chains(
        nvi.WeightedParticles(tf.zeros([4]), tf.fill([4], -float('inf'))), 2
      ),
      '`particles` must have weight',
    ),
    (
      lambda: nvi.start_chains((tf.zeros([4]), tf.zeros([4])), 2),
      '`particles` must be WeightedParticles or a Posterior',
    ),
    (
      lambda: nvi.start_chains(
        nvi.RatioWeightedParticles(tf.zeros([4]), tf.zeros([4]), tf.zeros([])),
        2,
      ),
      '`particles` must be WeightedParticles or a Posterior',
    ),
  ],
)
def test_errors(call, problem):
  with pytest.raises((TypeError, ValueError), match=problem):
    call()

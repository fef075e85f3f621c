# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers that were trained on simulations agree with exact posteriors.

Networks are approximations: tolerances are those of a short training, and a
network that has learned nothing, or the wrong thing, is far beyond them.
"""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.state_space import learning

tfd = tfp.distributions

NUM_STEPS = 8
SLOPE, STEP, NOISE, FIRST = 0.8, 0.5, 0.6, 0.9


def drift_model():
  return nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, FIRST),
    transition_fn=lambda z, drift: tfd.Normal(SLOPE * z + drift, STEP),
    observation_fn=lambda z: tfd.Normal(z, NOISE),
  )


def moments_of_the_future():
  """`p(x_{1:} | z_0, drift)` as a linear regression: design and covariance."""
  design = np.zeros([NUM_STEPS - 1, 2])
  noise = np.zeros([NUM_STEPS - 1, NUM_STEPS - 1])
  before, before_noise = np.array([1.0, 0.0]), np.zeros(NUM_STEPS - 1)
  for t in range(NUM_STEPS - 1):
    before = SLOPE * before + np.array([0.0, 1.0])
    before_noise = SLOPE * before_noise
    before_noise[t] += STEP
    design[t], noise[t] = before, before_noise
  return design, noise @ noise.T + NOISE**2 * np.eye(NUM_STEPS - 1)


def exact_drift(x):
  """The posterior mean and deviation of the drift, for each sequence."""
  design, covariance = moments_of_the_future()
  # The first state is the drift and noise.
  rows = np.concatenate([[1.0], design[:, 0] + design[:, 1]])
  load = np.concatenate([[FIRST], FIRST * design[:, 0]])
  spread = np.outer(load, load) + NOISE**2 * np.eye(NUM_STEPS)
  spread[1:, 1:] += covariance - NOISE**2 * np.eye(NUM_STEPS - 1)
  solved = np.linalg.solve(spread, rows)
  variance = 1.0 / (1.0 + rows @ solved)
  return variance * (x @ solved), np.sqrt(variance)


@pytest.fixture(scope='module')
def fitted():
  model = drift_model()
  sampler = nvi.fit_state_space(
    model, length=NUM_STEPS, num_steps=400, progress=False, seed=1
  )
  return model, sampler


def test_proposal_is_the_posterior(fitted):
  model, sampler = fitted
  _, _, x = model.simulate(NUM_STEPS, [200], seed=9)
  mean, deviation = exact_drift(x.numpy())
  loc, scale = sampler.initial_proposal_fn.parameters(x)
  space = sampler.initial_proposal_fn.space
  ours = space.state(loc).numpy()
  assert np.sqrt(np.mean((ours - mean) ** 2)) < 0.25 * deviation
  spread = (space.state(loc + scale[..., 0]) - space.state(loc)).numpy()
  np.testing.assert_allclose(np.mean(spread), deviation, rtol=0.25)
  # A mutation: the proposals of other sequences.
  assert np.sqrt(np.mean((ours[::-1] - mean) ** 2)) > deviation


@pytest.mark.slow
def test_any_batch_shape(fitted):
  """One sequence, many, other lengths, and missing observations."""
  model, sampler = fitted
  network = sampler.initial_proposal_fn
  _, _, x = model.simulate(NUM_STEPS, [2, 3], seed=9)
  loc, _ = network.parameters(x)
  assert loc.shape == [2, 3, 1]
  np.testing.assert_allclose(network.parameters(x[1, 2])[0], loc[1, 2], 1e-4)
  mask = np.ones([2, 3, NUM_STEPS], bool)
  mask[..., 5:] = False
  ours, _ = network.parameters(x, tf.constant(mask))
  theirs, _ = network.parameters(tf.where(mask, x, 100.0), tf.constant(mask))
  np.testing.assert_allclose(ours, theirs)
  one = sampler.sample(x[1, 2], 500, seed=1)
  many = sampler.sample(x[1:, 2], 500, seed=1)
  np.testing.assert_allclose(one.log_weights, many.log_weights[:, 0], 1e-3)
  shorter = sampler.sample(x[1, 2, :5], 500, seed=1)
  assert shorter.trajectories.shape == [500, 5]


def test_fitted_sampler_is_exact(fitted):
  """Weights of a linear-Gaussian model are those of the drift alone."""
  model, sampler = fitted
  _, _, x = model.simulate(NUM_STEPS, [5], seed=9)
  posterior = sampler.sample(x, 1_000, seed=2)
  mean, deviation = exact_drift(x.numpy())
  assert np.all(posterior.num_ancestors > 600)
  np.testing.assert_allclose(
    posterior.log_normalizer_increments[1:], 0.0, atol=1e-3
  )
  ours = posterior.expectation(lambda drift, z: drift)
  np.testing.assert_allclose(ours, mean, atol=5.0 * deviation / np.sqrt(500.0))


@pytest.mark.slow
def test_data_are_learned_from(monkeypatch):
  """A proposal fits sequences that simulations hardly have."""
  model = drift_model()
  given = nvi.StateSpaceModel(
    tfd.Normal(3.0, 0.1),
    model.initial_fn,
    model.transition_fn,
    model.observation_fn,
  )
  _, _, data = given.simulate(NUM_STEPS, [40], seed=5)
  is_observed = np.ones([40, NUM_STEPS], bool)
  is_observed[:5, 2] = False
  _, _, x = given.simulate(NUM_STEPS, [100], seed=6)
  mean, deviation = exact_drift(x.numpy())
  errors = []

  def add_error(sampler):
    network = sampler.initial_proposal_fn
    ours = network.space.state(network.parameters(x)[0]).numpy()
    errors.append(np.sqrt(np.mean((ours - mean) ** 2)) / deviation)

  original = learning.draw_states

  def draw_states(sampler, *args):
    add_error(sampler)
    return original(sampler, *args)

  monkeypatch.setattr(learning, 'draw_states', draw_states)
  sampler = nvi.fit_state_space(
    model,
    data=tf.where(is_observed, data, np.nan),
    is_observed=is_observed,
    num_steps=200,
    progress=False,
    seed=1,
  )
  add_error(sampler)
  assert len(sampler.data_histories) == 2 and len(errors) == 3
  # The first one is that of simulations alone.
  assert errors[2] < 0.7 * errors[0], errors


def test_learned_heuristic_is_the_likelihood():
  """Up to a term of the sequence: centered over states, it is the same."""
  model = drift_model()
  heuristic = nvi.RecurrentHeuristic(model, num_steps=NUM_STEPS, seed=1)
  drift, z, x = model.simulate(NUM_STEPS, [20_000], seed=2)
  data = tf.data.Dataset.from_tensor_slices((drift, z, x)).shuffle(5_000, 1)
  nvi.fit(
    lambda e: learning.Simulated(None, heuristic, *e),
    learning.SimulationObjective(),
    1,
    600,
    data=data.batch(64, drop_remainder=True),
    optimizer=tf_keras.optimizers.Adam(3e-3),
    progress=False,
    seed=3,
  )
  drift, z, x = model.simulate(NUM_STEPS, [200], seed=4)
  design, covariance = moments_of_the_future()
  rows = heuristic.prepare(x, None, ())
  # Each sequence with the states of all others, as particles.
  ours = heuristic.log_factor(
    rows[1],
    tf.broadcast_to(drift[:, tf.newaxis], [200, 200]),
    tf.broadcast_to(z[:, :1], [200, 200]),
  ).numpy()
  means = np.stack([z[:, 0], drift], axis=-1) @ design.T
  error = x.numpy()[np.newaxis, :, 1:] - means[:, np.newaxis]
  exact = -0.5 * np.einsum(
    'ijk,kl,ijl->ij', error, np.linalg.inv(covariance), error
  )
  # By how likely the states are, as a particle with hardly any weight may be
  # wrong by a lot.
  weights = np.exp(exact - exact.max(axis=0))
  weights /= weights.sum(axis=0)
  difference = ours - exact
  difference -= np.sum(weights * difference, axis=0)
  spread = exact - np.sum(weights * exact, axis=0)
  ours_left = np.sqrt(np.mean(np.sum(weights * difference**2, axis=0)))
  without = np.sqrt(np.mean(np.sum(weights * spread**2, axis=0)))
  assert ours_left < 0.6 * without, (ours_left, without)


def test_nothing_to_learn():
  model = nvi.StateSpaceModel(
    None,
    lambda: tfd.Categorical(probs=[0.5, 0.5]),
    lambda z: tfd.Categorical(probs=tf.gather([[0.9, 0.1], [0.2, 0.8]], z)),
    lambda z: tfd.Normal(tf.cast(z, tf.float32), 0.5),
  )
  x = np.array([0.1, 0.9, 1.2], np.float32)
  sampler = nvi.fit_state_space(model, data=x, seed=1)
  assert sampler.history is None
  posterior = sampler.sample(x, 10, seed=2)
  np.testing.assert_allclose(posterior.effective_sample_sizes[-1], 10.0, 1e-4)


@pytest.mark.slow
def test_model_of_counts():
  """Discrete local states, where nothing exact is known."""
  model = nvi.StateSpaceModel(
    prior=tfd.LogNormal(0.0, 0.5),
    initial_fn=lambda rate: tfd.Poisson(5.0 * rate),
    transition_fn=lambda z, rate: tfd.Poisson(rate + 0.8 * z),
    observation_fn=lambda z: tfd.Normal(z, 1.0),
  )
  sampler = nvi.fit_state_space(
    model, length=5, num_steps=20, progress=False, seed=1
  )
  assert isinstance(sampler.heuristic, nvi.RecurrentHeuristic)
  _, _, x = model.simulate(5, seed=2)
  posterior = sampler.sample(x, 100, seed=3)
  assert np.isfinite(posterior.log_normalizer)


def test_structured_priors():
  """Vectors and back, with parts of several kinds."""
  prior = tfd.JointDistributionNamed(
    {
      'scale': tfd.LogNormal(0.0, 0.5),
      'probs': tfd.Dirichlet([1.0, 2.0, 3.0]),
      'matrix': tfd.Sample(tfd.Normal(0.0, 1.0), [2, 2]),
    }
  )
  model = nvi.StateSpaceModel(
    prior,
    lambda theta: tfd.Normal(theta['matrix'][..., 0, 0], theta['scale']),
    lambda z, theta: tfd.Normal(0.5 * z, theta['scale']),
    lambda z, theta: tfd.Normal(z, 1.0),
  )
  network = nvi.GlobalProposalNetwork(model, seed=1)
  space = network.space
  assert space.size == 1 + 2 + 4
  theta, _, x = model.simulate(4, [5], seed=2)
  back = space.state(space.vector(theta))
  tf.nest.map_structure(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    dict(theta),
    dict(back),
  )
  proposal = network(x)
  draw = proposal.sample(3, seed=(1, 2))
  assert proposal.log_prob(draw).shape == [3, 5]
  posterior = nvi.StateSpaceSampler(model, initial_proposal_fn=network).sample(
    x, 50, seed=1
  )
  assert np.all(np.isfinite(posterior.log_normalizer))


@pytest.mark.parametrize(
  'arguments, error, match',
  [
    ({}, ValueError, '`data` or `length` must be given'),
    (dict(length=0), ValueError, '`length` must be positive'),
    (dict(data=1.0), ValueError, '`data` must be sequences'),
    (dict(length=3, is_observed=[True] * 3), ValueError, '`is_observed` must'),
    (dict(length=3, num_steps=0), ValueError, '`num_steps` must be positive'),
    (dict(length=3, num_units=-1), ValueError, '`num_units` must be positive'),
  ],
)
def test_bad_arguments(arguments, error, match):
  with pytest.raises(error, match=match):
    nvi.fit_state_space(drift_model(), **arguments)
  with pytest.raises(TypeError, match='`model` must be a StateSpaceModel'):
    nvi.fit_state_space(3, length=3)


def test_units_are_checked_where_there_is_no_network():
  model = nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, 1.0),
    lambda z: tfd.Normal(z, 1.0),
    lambda z: tfd.Normal(z, 1.0),
  )
  with pytest.raises(ValueError, match='`num_units` must be positive; got -1'):
    nvi.fit_state_space(model, length=3, num_units=-1)


def test_model_with_inputs():
  """Weights of a linear-Gaussian model do not depend on its particles."""
  model = nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, 1.0),
    lambda z, u: tfd.Normal(0.8 * z + u, 0.5),
    lambda z: tfd.Normal(z, 0.5),
    input_example=0.0,
  )
  u = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
  sampler = nvi.fit_state_space(model, length=6, inputs=u, seed=1)
  assert isinstance(sampler.heuristic, nvi.GaussianHeuristic)
  _, _, x = model.simulate(6, seed=2, inputs=u)
  posterior = sampler.sample(x, 20, seed=3, inputs=u)
  np.testing.assert_allclose(
    posterior.log_weights, posterior.log_weights[0] + np.zeros(20), atol=1e-4
  )


def growth_model():
  """The observation hides the sign of a state, so that there are two modes."""

  def transition_fn(z, t):
    wave = 8.0 * tf.cos(1.2 * tf.cast(t, tf.float32))
    return tfd.Normal(0.5 * z + 25.0 * z / (1.0 + z**2) + wave, 1.5)

  return nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, 2.0),
    transition_fn,
    lambda z: tfd.Normal(z**2 / 20.0, 1.0),
  )


def test_expansions_that_do_not_settle():
  """A Gaussian heuristic misses most of the mass, and is not chosen."""
  model = growth_model()
  fitted = nvi.fit_state_space(
    model, length=20, num_steps=5, progress=False, seed=1
  )
  assert isinstance(fitted.heuristic, nvi.RecurrentHeuristic)
  _, _, x = model.simulate(20, [8], seed=2)
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=nvi.GaussianHeuristic(model)
  )
  with pytest.warns(RuntimeWarning, match='have not settled for 100%'):
    wrong = sampler.sample(x, 500, seed=3).log_normalizer
  guided = nvi.StateSpaceSampler(model, proposal_fn='guided')
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    right = guided.sample(x, 500, seed=4).log_normalizer
  # Markov's inequality: estimates exceed p(x) by e^5 once in 150 times at most.
  assert np.median(right - wrong) > 5.0


def test_a_single_global_state_is_warned_of():
  model = drift_model()
  sampler = nvi.StateSpaceSampler(model)
  x = tf.constant(50.0 + np.zeros([40], np.float32))
  with pytest.warns(
    RuntimeWarning, match='All 100 particles of a run .* single draw'
  ):
    sampler.sample(x, 100, seed=1)
  # Once, and not of few particles.
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    sampler.sample(x, 100, seed=2)
    nvi.StateSpaceSampler(model).sample(x, 10, seed=1)


def test_states_that_are_lists():
  """A level and a regime, of which TensorFlow makes no tensor."""

  def joint(level, logit):
    logits = tf.stack([logit, tf.zeros_like(logit)], axis=-1)
    return tfd.JointDistributionSequential(
      [tfd.Normal(level, 0.7), tfd.Categorical(logits=logits)]
    )

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: joint(0.0, 0.0),
    transition_fn=lambda z: joint(0.9 * z[0], z[0]),
    observation_fn=lambda z: tfd.Normal(z[0], tf.gather([0.3, 2.0], z[1])),
  )
  sampler = nvi.fit_state_space(
    model, length=3, num_steps=2, progress=False, seed=1
  )
  x = tf.constant([0.1, 0.2, 1.1])
  learned = sampler.sample(x, 4_000, seed=1)
  plain = nvi.StateSpaceSampler(model).sample(x, 4_000, seed=2)
  difference = learned.log_normalizer - plain.log_normalizer
  error = np.hypot(learned.log_normalizer_error, plain.log_normalizer_error)
  # Wrong for one of 16,000 seeds by chance.
  assert abs(difference) < 4.0 * error < 0.5

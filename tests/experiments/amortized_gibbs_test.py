# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The experiment on amortized Gibbs samplers: model, proposals, methods, files.

Densities are compared with those of TensorFlow Probability, conditional
distributions with ratios of the joint density, and evidences with sums over all
assignments. Tests of a law have fixed seeds; over seeds, each would reject what
is right with a probability of at most 6e-5 for each number that is compared.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests import exact_gradients as eg
from tests.experiments import programs
from tfp_nvi.experiments import amortized_gibbs
from tfp_nvi.experiments.amortized_gibbs import experiment, methods, proposals

tfd = tfp.distributions

SEED = tf.constant([1, 2])
SMALL = {
  'num_points': 6,
  'num_particles': 2,
  'num_training_sweeps': 1,
  'num_sweeps': 1,
  'num_hidden': 2,
  'num_steps': 2,
  'batch_size': 2,
  'num_test_instances': 2,
}
MIXTURE = amortized_gibbs.GaussianMixture(num_points=8)
TINY = amortized_gibbs.GaussianMixture(
  num_points=3, num_clusters=2, num_dimensions=1
)


def enumerate_assignments(mixture):
  """All assignments, of shape `[num_assignments, num_points]`."""
  clusters = range(mixture.num_clusters)
  return tf.constant(
    [*itertools.product(clusters, repeat=mixture.num_points)], tf.int32
  )


def test_joint_density():
  x, z = MIXTURE.simulate(5, SEED)
  precisions = np.exp(z['log_precisions'])
  expected = tf.reduce_sum(
    tfd.Gamma(2.0, 2.0).log_prob(precisions)
    + tfd.Normal(0.0, 1.0 / np.sqrt(0.1 * precisions)).log_prob(z['means']),
    axis=[-2, -1],
  )
  means, precisions = (
    tf.gather(part, z['assignments'], batch_dims=1)
    for part in (z['means'], precisions)
  )
  expected += tf.reduce_sum(
    tfd.Normal(means, 1.0 / np.sqrt(precisions)).log_prob(x), axis=[-2, -1]
  )
  expected -= 8.0 * math.log(3.0)
  np.testing.assert_allclose(MIXTURE.log_joint(z, x), expected, rtol=1e-5)


def test_log_marginal_is_a_sum_over_assignments():
  x, z = TINY.simulate(4, SEED)
  assignments = enumerate_assignments(TINY)
  log_probs = [
    TINY.log_density({**z, 'assignments': tf.tile(c[tf.newaxis], [4, 1])}, x)
    for c in assignments
  ]
  np.testing.assert_allclose(
    TINY.log_marginal(z, x), tf.reduce_logsumexp(log_probs, axis=0), rtol=1e-5
  )


def log_increments(conditionals):
  """Log incremental weights of updates by some conditional distributions."""
  x, z = MIXTURE.simulate(5, SEED)
  # Other states than those that the points were simulated with.
  z = tf.nest.map_structure(lambda part: tf.stack([part, part[::-1]]), z)
  increments = []
  for block, kernel_fn in (
    (['log_precisions', 'means'], conditionals.clusters_given_rest),
    ('assignments', conditionals.assignments_given_rest),
  ):
    transition = nvi.BlockTransition(block, lambda z, f=kernel_fn: f(z, x))
    move = transition.propose(0, z, SEED, None)
    increments.append(
      MIXTURE.log_density(move.state, x)
      + move.log_reverse
      - MIXTURE.log_density(z, x)
      - move.log_forward
    )
  return np.array(increments)


def test_conditional_distributions_are_exact():
  # Ratios of the joint density are those of an exact conditional distribution.
  assert np.all(np.abs(log_increments(MIXTURE)) < 2e-3)
  wrong = log_increments(MIXTURE._replace(strength=0.2))
  assert np.max(np.abs(wrong[0])) > 0.1


def statistics_after_a_sweep(mixture):
  """Statistics of instances, one sweep after their simulation.

  A sweep leaves the joint distribution of points, clusters and assignments as
  it is, so that these have the expectations of the model.
  """
  x, z = MIXTURE.simulate(4_000, SEED)
  z = methods.gibbs_sweep(mixture, z, x, tf.constant([3, 4]))
  precisions = tf.exp(z['log_precisions'])
  scaled = z['means'] * tf.sqrt(0.1 * precisions)
  residuals = x - tf.gather(z['means'], z['assignments'], batch_dims=1)
  residuals *= tf.sqrt(tf.gather(precisions, z['assignments'], batch_dims=1))
  is_first = tf.cast(z['assignments'] == 0, tf.float32)
  return np.stack(
    [
      tf.reduce_mean(z['log_precisions'], [-2, -1]),
      tf.reduce_mean(precisions, [-2, -1]),
      tf.reduce_mean(scaled, [-2, -1]),
      tf.reduce_mean(scaled**2, [-2, -1]),
      tf.reduce_mean(residuals, [-2, -1]),
      tf.reduce_mean(residuals**2, [-2, -1]),
      tf.reduce_mean(is_first, -1),
      # Whether the first two points are both in it.
      is_first[:, 0] * is_first[:, 1],
    ],
    axis=-1,
  )


def test_a_gibbs_sweep_leaves_the_joint_distribution_alone():
  expected = np.array(
    [
      # The prior of precisions is Gamma(2, 2).
      scipy.special.digamma(2.0) - math.log(2.0),
      *(1.0, 0.0, 1.0, 0.0, 1.0),
      *(1.0 / 3.0, 1.0 / 9.0),
    ]
  )

  def scores(mixture):
    return np.abs(
      eg.standard_scores(statistics_after_a_sweep(mixture), expected)
    )

  assert np.all(scores(MIXTURE) < 4.0)
  # Conditional distributions of another model.
  assert np.max(scores(MIXTURE._replace(rate=2.5))) > 6.0
  assert np.max(scores(MIXTURE._replace(strength=0.2))) > 6.0


def log_evidence(mixture, x):
  """The evidence of an instance, a sum over assignments in closed form."""
  x = np.asarray(x, np.float64)[:, 0]
  a, b, k = mixture.concentration, mixture.rate, mixture.strength
  log_probs = []
  for assignments in enumerate_assignments(mixture).numpy():
    total = -mixture.num_points * math.log(mixture.num_clusters)
    for m in range(mixture.num_clusters):
      own = x[assignments == m]
      n = len(own)
      # The ratio of the normalizers of a normal-gamma prior and posterior.
      rate = b + 0.5 * (np.sum(own**2) - np.sum(own) ** 2 / (k + n))
      total += (
        math.lgamma(a + 0.5 * n)
        - math.lgamma(a)
        + a * math.log(b)
        - (a + 0.5 * n) * math.log(rate)
        + 0.5 * math.log(k / (k + n))
        - 0.5 * n * math.log(2.0 * math.pi)
      )
    log_probs.append(total)
  return scipy.special.logsumexp(log_probs)


class NoReverse(nvi.BlockTransition):
  """Leaves the reverse kernel out."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(log_reverse=tf.zeros_like(move.log_reverse))


def randomize(module, scale):
  """Adds noise to all variables."""
  rng = np.random.default_rng(0)
  for variable in module.trainable_variables:
    variable.assign_add(scale * rng.normal(size=variable.shape))


class Tempered:
  """An assignment network that is not exact."""

  def __call__(self, z, x):
    logits = 0.8 * TINY.point_log_probs(z, x) + tf.constant([0.2, -0.1])
    return tfd.Independent(tfd.Categorical(logits), 1)


def set_features(network, weight, variance):
  """Makes features of a point: the point, and a weight and a variance."""
  size = network._mixture.num_dimensions
  linear = np.zeros([size, 1 + 2 * size])
  linear[:, 1 : 1 + size] = np.eye(size)
  bias = tfp.math.softplus_inverse([[weight] + 2 * size * [variance]]).numpy()
  bias[:, 0] -= tfp.math.softplus_inverse(1.0)
  bias[:, 1 : 1 + size] = 0.0
  network._network._linear.assign(linear)
  network._network._network._biases[-1].assign(bias)


def estimate_evidence(num_runs=20_000):
  """The mean of Z-hat over the evidence, and its standard error.

  The proposals are not exact. Weights have a variance if no proposal is much
  wider or narrower than what it proposes for; the one-shot one covers clusters
  without points.
  """
  model = amortized_gibbs.Proposals(TINY, [4], seed=1)
  randomize(model, 0.03)
  set_features(model.one_shot[2], weight=0.03, variance=0.5)
  set_features(model.sweep[0], weight=0.8, variance=0.1)
  model.sweep = [model.sweep[0], Tempered()]
  x = tf.constant([[[-0.4], [0.3], [0.8]]])
  sampler = model.sampler(tf.repeat(x, num_runs, axis=0), num_sweeps=2)
  log_weights = sampler.run(4, tf.constant([3, 4])).particles.log_weights
  ratios = np.exp(
    np.asarray(log_weights, np.float64) - log_evidence(TINY, x[0])
  )
  estimates = np.mean(ratios, axis=0)
  return estimates.mean(), estimates.std(ddof=1) / np.sqrt(num_runs)


def test_evidence(monkeypatch):
  mean, error = estimate_evidence()
  assert error < 0.02 and abs(mean - 1.0) < 4.0 * error
  monkeypatch.setattr(nvi, 'BlockTransition', NoReverse)
  mean, _ = estimate_evidence()
  assert abs(mean - 1.0) > 6.0 * error


def test_features_can_be_sufficient_statistics():
  """With the points themselves as features, a proposal is exact."""
  network = proposals.FeatureNetwork(MIXTURE, [4], seed=1)
  set_features(network, weight=1.0, variance=1e-6)
  x, z = MIXTURE.simulate(5, SEED)
  clusters = {name: z[name] for name in ('log_precisions', 'means')}
  proposed, exact = (
    distribution.log_prob(clusters)
    for distribution in (
      network(tf.one_hot(z['assignments'], 3), x),
      MIXTURE.clusters_given_rest(z, x),
    )
  )
  np.testing.assert_allclose(proposed, exact, rtol=1e-3, atol=1e-2)


def test_proposals_do_not_depend_on_the_order_of_points():
  model = amortized_gibbs.Proposals(MIXTURE, [4], seed=1)
  randomize(model, 0.3)
  x, z = MIXTURE.simulate(5, SEED)
  order = tf.random.experimental.stateless_shuffle(tf.range(8), SEED)
  shuffled = {**z, 'assignments': tf.gather(z['assignments'], order, axis=1)}
  for fn in (
    lambda z, x: model.first(x).log_prob(z),
    lambda z, x: model.clusters_given_rest(z, x).log_prob(
      {name: z[name] for name in ('log_precisions', 'means')}
    ),
    lambda z, x: model.assignments_given_rest(z, x).log_prob(z['assignments']),
  ):
    np.testing.assert_allclose(
      fn(shuffled, tf.gather(x, order, axis=1)), fn(z, x), rtol=1e-4
    )


@pytest.fixture
def fast(monkeypatch):
  """Nothing is trained or compiled."""

  def fit(*args, callback_fn, **kwargs):
    callback_fn(kwargs['num_steps'], {})

  monkeypatch.setattr(methods, '_STEP_SIZES', (0.05,))
  monkeypatch.setattr(methods, '_compiled', lambda fn: fn)
  monkeypatch.setattr(nvi, 'fit', fit)


def test_program(fast, tmp_path, monkeypatch):
  arguments = {**SMALL, 'output_dir': str(tmp_path)}
  results = amortized_gibbs.run(**arguments)
  assert [row['method'] for row in results.rows] == list(
    amortized_gibbs.METHODS
  )
  for row in results.rows:
    # Two particles: each has a start and an update of each block.
    assert row['num_evaluations'] == 2 * 3
    assert np.isfinite(row['log_joint']) and row['seconds'] > 0.0
    assert (row['ess'] is not None) == (row['method'] in ('rws', 'apg'))
    assert row['ess'] is None or 0.0 < row['ess'] <= 1.0 + 1e-6
  assert programs.read(tmp_path)['rows'] == results.rows
  programs.check_pictures(results.pictures)
  assert len(results.pictures) == 2

  def never(*args, **kwargs):
    raise AssertionError('nothing was left to do')

  monkeypatch.setattr(experiment, '_run_cell', never)
  monkeypatch.setattr(experiment, '_make_problem', never)
  again = amortized_gibbs.run(method='apg', **arguments)
  assert again.rows == results.rows[-1:]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:Training collapsed')
def test_training_brings_proposals_near_conditional_distributions():
  """Weights of updates vary less, and particles have a greater joint density.

  The effective sample size of exact updates would be that of all ten particles.
  """
  settings = experiment.Settings(
    num_points=20, num_steps=600, num_training_sweeps=1, batch_size=10
  )
  mixture = amortized_gibbs.GaussianMixture(20)

  def fit(name, *args, **kwargs):
    return nvi.fit(*args, progress=False, **kwargs)

  trained = experiment.train(mixture, settings, fit)
  untrained = amortized_gibbs.Proposals(mixture, [32], seed=1)
  x, _ = mixture.simulate(50, SEED)
  outcomes = [
    methods._apg(methods.Problem(mixture, model, x, 10, 3, SEED))
    for model in (untrained, trained)
  ]
  before, after = (
    np.mean(nvi.effective_sample_size(outcome.log_weights))
    for outcome in outcomes
  )
  assert before < 5.0 < after
  assert outcomes[1].log_joint[-1] > outcomes[0].log_joint[-1]


@pytest.mark.parametrize(
  ('setting', 'value', 'problem'),
  [
    ('method', 'vi', "got 'vi'"),
    ('num_clusters', 1, 'at least 2; got 1'),
    ('num_particles', 1, 'at least 2; got 1'),
    ('num_sweeps', 0, 'positive; got 0'),
    ('num_test_instances', 1, 'at least 2; got 1'),
    ('learning_rate', float('nan'), 'positive and finite; got nan'),
  ],
)
def test_refuses_settings(setting, value, problem, tmp_path):
  programs.check_refuses(
    amortized_gibbs.run, setting, value, problem, tmp_path / 'new'
  )

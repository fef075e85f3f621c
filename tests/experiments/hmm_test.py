# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the hidden Markov model experiment."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests.experiments import programs
from tfp_nvi.experiments import hmm
from tfp_nvi.experiments.hmm import experiment
from tfp_nvi.experiments.hmm import model as hmm_model
from tfp_nvi.internal import randomness

tfd = tfp.distributions

SEQUENCE = np.array([-4.0, -4.6, -1.2, -1.9, 1.0, 1.6], np.float32)


def exact_log_normalizer(x):
  """`log p(x)`: all sequences of states, each by conjugacy.

  Given its state sequence the observations of a state are those of a normal
  distribution with a normal-gamma prior, whose marginal likelihood is known.
  """
  num_states = hmm_model.NUM_STATES
  matrix = hmm_model.transition_matrix().astype(np.float64)
  x = x.astype(np.float64)
  z = np.array(list(itertools.product(range(num_states), repeat=len(x))))
  log_joint = -np.log(num_states) + np.sum(
    np.log(matrix[z[:, :-1], z[:, 1:]]), axis=1
  )
  kappa, alpha, beta = 0.5, 4.0, 4.0
  for m, location in enumerate((-4.5, -1.5, 1.5, 4.5)):
    mask = (z == m).astype(np.float64)
    n, total, squares = mask.sum(axis=1), mask @ x, mask @ x**2
    kappa_n = kappa + n
    location_n = (kappa * location + total) / kappa_n
    alpha_n = alpha + 0.5 * n
    beta_n = beta + 0.5 * (
      squares + kappa * location**2 - kappa_n * location_n**2
    )
    log_joint += (
      scipy.special.gammaln(alpha_n)
      - scipy.special.gammaln(alpha)
      + alpha * np.log(beta)
      - alpha_n * np.log(beta_n)
      + 0.5 * np.log(kappa / kappa_n)
      - 0.5 * n * np.log(2.0 * np.pi)
    )
  return scipy.special.logsumexp(log_joint)


def perturbed(method, seed=1):
  """A sampler whose networks are neither untrained nor any good.

  Its proposal of the emissions is made wide, so that the ratios below have no
  heavy tails; less so for importance sampling, which it costs all the more.
  """
  sampler = hmm.make_sampler(method)
  for i, variable in enumerate(sampler.trainable_variables):
    noise = randomness.normal(variable.shape, randomness.as_seed(seed + i))
    variable.assign_add(0.03 * noise)
    if variable.name.startswith('log_temper'):
      wide = [-1.0, 0.0, -1.5]
      variable.assign(
        wide if hmm.METHODS[method].resamples else [0.5 * v for v in wide]
      )
  return sampler


def mean_and_error(sampler, num_particles=200, num_seeds=8):
  """Mean of Z-hat over Z, and its standard error, for the short sequence."""
  x = np.tile(SEQUENCE, [250, 1])
  ratios = []
  for seed in range(num_seeds):
    posterior = sampler.sample(x, num_particles, seed=seed, trajectories=False)
    ratios.append(
      np.exp(
        posterior.log_normalizer.numpy().astype(np.float64)
        - exact_log_normalizer(SEQUENCE)
      )
    )
  ratios = np.concatenate(ratios)
  return np.mean(ratios), np.std(ratios) / np.sqrt(len(ratios))


@pytest.mark.parametrize(
  'method',
  [
    pytest.param(
      name,
      marks=() if name == 'nvi_full' else pytest.mark.slow,
    )
    for name in hmm.METHODS
  ],
)
def test_normalizing_constants_are_unbiased(method):
  # 4 standard errors: a false alarm in 16,000 tests, if 1,000 ratios are enough
  # for a normal mean; the error itself must tell a bias of a tenth.
  mean, error = mean_and_error(
    perturbed(method),
    *((200, 8) if hmm.METHODS[method].resamples else (8_000, 4)),
  )
  assert error < 0.025
  assert abs(mean - 1.0) < 4.0 * error


def test_a_bias_is_noticed():
  # Weights of another model: here, of a transition that is more sticky.
  sampler = perturbed('nvi_partial')
  model = sampler.model
  matrix = hmm_model.transition_matrix()
  matrix = 0.7 * matrix + 0.3 * np.eye(4, dtype=np.float32)
  wrong = nvi.StateSpaceSampler(
    dataclasses.replace(
      model,
      transition_fn=lambda z, _: tfd.Categorical(
        logits=tf.gather(tf.math.log(matrix), z)
      ),
    ),
    sampler.initial_proposal_fn,
    sampler.proposal_fn,
    sampler.heuristic,
  )
  mean, error = mean_and_error(wrong)
  assert abs(mean - 1.0) > 6.0 * error


def emissions(sequences, num_particles=3, seed=1):
  prior = hmm_model.make_model().prior
  return prior.sample([num_particles, sequences], seed=randomness.as_seed(seed))


def test_exact_likelihood_is_that_of_a_hidden_markov_model():
  _, _, x = hmm_model.make_model().simulate(30, [4], seed=2)
  eta = emissions(4)
  mask = np.arange(30) % 7 == 3
  for is_observed in (None, tf.constant(np.broadcast_to(~mask, [4, 30]))):
    actual = hmm_model.exact_log_likelihood(x, eta, is_observed)
    expected = tfd.HiddenMarkovModel(
      tfd.Categorical(logits=tf.zeros([4])),
      tfd.Categorical(probs=hmm_model.transition_matrix()),
      tfd.Normal(eta.mean, eta.precision**-0.5),
      num_steps=30,
    ).log_prob(
      x, mask=None if is_observed is None else tf.logical_not(is_observed)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_exact_heuristic_is_the_likelihood_of_the_rest():
  # Its message of a state and step is the likelihood of the rest of the
  # sequence for a chain that starts where the transition from there leads.
  _, _, x = hmm_model.make_model().simulate(6, [2], seed=2)
  eta = emissions(2)
  heuristic = hmm_model.ExactHeuristic()
  rows = heuristic.prepare(x, None, eta)
  for k in range(1, 6):
    row = tf.nest.map_structure(lambda v, k=k: v[k], rows)
    for m in range(4):
      actual = heuristic.log_factor(row, eta, tf.fill([3, 2], m))
      expected = tfd.HiddenMarkovModel(
        tfd.Categorical(probs=hmm_model.transition_matrix()[m]),
        tfd.Categorical(probs=hmm_model.transition_matrix()),
        tfd.Normal(eta.mean, eta.precision**-0.5),
        num_steps=6 - k,
      ).log_prob(x[:, k:])
      np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_exact_heuristic_leaves_the_emissions_posterior_at_the_start():
  # Level 0 is then p(eta) p(x | eta), whose normalizer is that of the end: what
  # later levels add is zero on average, and small for the exact local state.
  sampler = hmm.make_sampler('oracle')
  _, _, x = sampler.model.simulate(20, [200], seed=3)
  posterior = sampler.sample(x, 100, seed=4, trajectories=False)
  later = np.sum(posterior.log_normalizer_increments[1:], axis=0)
  assert abs(np.mean(later)) < 5.0 * np.std(later) / np.sqrt(200) + 0.05
  bootstrap = hmm.make_sampler('no_heuristic')
  posterior = bootstrap.sample(x, 100, seed=4, trajectories=False)
  later = np.sum(posterior.log_normalizer_increments[1:], axis=0)
  assert np.mean(later) < -20.0


def test_learned_heuristic_sees_the_observations_to_come_alone():
  heuristic = perturbed('nvi_state_aware').heuristic
  eta = emissions(1)
  x = np.array([SEQUENCE, SEQUENCE])
  x[1, :3] += 1.0
  factors = []
  for row in x:
    rows = heuristic.prepare(tf.constant(row[np.newaxis]), None, eta)
    factors.append(
      [
        heuristic.log_factor(
          tf.nest.map_structure(lambda v, k=k: v[k], rows),
          eta,
          tf.zeros([3, 1], tf.int32),
        ).numpy()
        for k in range(6)
      ]
    )
  factors = np.array(factors)
  np.testing.assert_allclose(factors[0, 3:], factors[1, 3:], rtol=1e-6)
  assert np.all(np.abs(factors[0, :3] - factors[1, :3]) > 1e-3)


def test_missing_observations_do_not_matter():
  sampler = perturbed('nvi_state_aware')
  x = np.array([SEQUENCE, SEQUENCE])
  x[1, 2] = 7.0
  is_observed = np.ones([2, 6], bool)
  is_observed[:, 2] = False
  posterior = sampler.sample(x, 2_000, seed=1, is_observed=is_observed)
  alone = sampler.sample(
    np.array([x[1], x[0]]), 2_000, seed=1, is_observed=is_observed
  )
  np.testing.assert_allclose(
    posterior.log_normalizer, alone.log_normalizer, rtol=1e-5
  )


SMALL = dict(
  sequence_length=8,
  num_training_sequences=40,
  num_test_sequences=15,
  num_particles=20,
  num_training_particles=5,
  batch_size=10,
  num_steps=10,
  num_reference_batches=2,
)


@pytest.fixture(scope='session')
def small_run(tmp_path_factory):
  directory = tmp_path_factory.mktemp('hmm')
  run = functools.partial(
    hmm.run, 'nvi_partial', output_dir=str(directory), **SMALL
  )
  return run, run(), directory


@pytest.mark.xdist_group('small_run')
def test_run_writes_what_it_says(small_run):
  _, results, directory = small_run
  assert programs.read(directory)['rows'] == results.rows
  names = [row['method'] for row in results.rows]
  assert names == ['nvi_partial', 'oracle', 'reference']
  for row in results.rows[:-1]:
    assert row['standard_error'] > 0.0 and row['seconds'] > 0.0
    assert 1.0 <= row['ess'] <= 20.0
    assert 1.0 <= row['distinct_eta_ancestors'] <= 20.0
    assert row['gap'] == pytest.approx(
      row['log_normalizer'] - results.rows[-1]['log_normalizer'], abs=1e-4
    )
  programs.check_pictures(
    directory / f'{name}.png'
    for name in ('sequence', 'levels', 'heuristic', 'training')
  )
  with np.load(directory / 'cells' / 'nvi_partial.npz') as arrays:
    assert arrays['log_normalizers'].shape == (15,)
  # Both methods are done.
  assert not (directory / 'checkpoints').exists()


@pytest.mark.xdist_group('small_run')
def test_run_keeps_what_is_done(small_run, capsys, monkeypatch):
  run, results, directory = small_run

  def never(*args, **kwargs):
    raise AssertionError('nothing was left to do')

  monkeypatch.setattr(experiment, '_run_cell', never)
  monkeypatch.setattr(experiment, '_run_reference', never)
  assert run().rows == results.rows
  assert capsys.readouterr().out.count('Kept: ') == 2
  with pytest.raises(ValueError, match='which has seed 1, now 2'):
    run(seed=2)


@pytest.mark.slow
def test_a_stopped_training_goes_on(tmp_path, monkeypatch):
  # The second half of training takes the data and seeds that are left.
  def train_it(folder):
    settings = hmm.Settings(
      **SMALL, learning_rate=3e-3, output_dir=str(tmp_path / folder)
    )
    train, *_ = experiment._simulate(settings)
    sampler = hmm.make_sampler('nvi_partial')
    return experiment._train('nvi_partial', sampler, train, settings, False)[0]

  expected = train_it('whole')
  seen = []
  fit = nvi.fit

  def stops(*args, **kwargs):
    def callback(step, values):
      kwargs['callback_fn'](step, values)
      seen.append(step)
      if step == 4:
        raise KeyboardInterrupt

    return fit(
      *args,
      **{
        **kwargs,
        'steps_per_call': 2,
        'checkpoint_seconds': 0.0,
        'callback_fn': callback,
      },
    )

  monkeypatch.setattr(nvi, 'fit', stops)
  with pytest.raises(KeyboardInterrupt):
    train_it('stopped')
  monkeypatch.setattr(nvi, 'fit', fit)
  # Not with other settings, though no method is finished.
  with pytest.raises(ValueError, match='learning_rate 0.003, now 0.004'):
    hmm.run(**SMALL, learning_rate=4e-3, output_dir=str(tmp_path / 'stopped'))
  history = train_it('stopped')
  assert seen == [2, 4]
  np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-4)


@pytest.mark.parametrize(
  'name, value',
  [
    ('method', 'nvi'),
    ('sequence_length', 0),
    ('num_test_sequences', 1),
    ('batch_size', 41),
    ('learning_rate', -1.0),
    ('seed', 1.5),
    ('num_workers', 0),
  ],
)
def test_bad_settings(name, value, tmp_path):
  run = functools.partial(hmm.run, **{**SMALL, name: value})
  programs.check_refuses(run, name, value, '', tmp_path / 'new')


def test_the_sequence_that_is_drawn_shows_all_states():
  # In order but without one of the states; out of order; as wanted.
  mean = np.array([[-4, -1, 2, 5], [-4, 2, -1, 5], [-4, -1, 2, 5]], np.float32)
  z = np.tile(np.arange(20) % 4, [3, 1])
  z[0] = np.arange(20) % 3
  eta = hmm_model.make_model().prior.sample([3], seed=1)._replace(mean=mean)
  assert experiment._shown(eta, tf.constant(z)) == 2

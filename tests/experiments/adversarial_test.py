# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the experiment on adversarial training."""

import numpy as np
import pytest
import tensorflow as tf

import tfp_nvi as nvi
from tests.experiments import programs
from tfp_nvi.experiments import adversarial
from tfp_nvi.experiments.adversarial import banana, digits, experiment
from tfp_nvi.experiments.image_mixture import image_data

SMALL = {'num_steps': 2, 'num_particles': 16, 'num_hidden': 4}
FIELDS = {
  'target',
  'method',
  'num_modes',
  'num_modes_found',
  'share_near_a_mode',
  'seconds',
}


@pytest.mark.parametrize(
  ('target', 'method', 'num_modes'),
  [
    ('ring', 'reweighted', 8),
    pytest.param('grid', 'nested', 25, marks=pytest.mark.slow),
    ('banana', 'variational_bayes', 1),
    ('digits', 'regularized', 10),
  ],
)
def test_program(target, method, num_modes, tmp_path, monkeypatch):
  arguments = {'target': target, 'method': method, **SMALL}
  results = adversarial.run(output_dir=str(tmp_path), **arguments)
  (row,) = results.rows
  assert row.keys() >= FIELDS
  assert (row['target'], row['method']) == (target, method)
  assert row['num_modes'] == num_modes
  if target == 'banana':
    assert row['share_near_a_mode'] is None
    assert np.isfinite(row['elbo'])
  else:
    assert 0.0 <= row['share_near_a_mode'] <= 1.0
  if target == 'digits':
    assert 0.0 <= row['entropy_of_classes'] <= np.log(10.0) + 1e-6
  assert programs.read(tmp_path)['rows'] == results.rows
  programs.check_pictures(results.pictures)

  def never(*args, **kwargs):
    raise AssertionError('nothing was left to do')

  monkeypatch.setattr(nvi, 'fit', never)
  again = adversarial.run(output_dir=str(tmp_path), **arguments)
  assert again.rows == results.rows


@pytest.mark.parametrize('name', ['ring', 'grid', 'unequal_grid'])
def test_exact_draws_are_near_modes(name):
  """Within three deviations in two dimensions: `1 - exp(-9 / 2)`.

  False-alarm rate: 6e-7, of five standard errors.
  """
  target = experiment._PLANAR[name]()
  row = experiment._judge_planar(target, target.sample(20_000, seed=1).numpy())
  expected = 1.0 - np.exp(-4.5)
  error = np.sqrt(expected * (1.0 - expected) / 20_000)
  assert abs(row['share_near_a_mode'] - expected) < 5.0 * error
  assert row['num_modes_found'] == row['num_modes']
  assert row['total_variation_of_modes'] < 0.03
  # Draws of one mode are near it, and the others are lost.
  x = target.mode_locations[3] + np.zeros([100, 2])
  row = experiment._judge_planar(target, x)
  assert row['num_modes_found'] == 1 and row['share_near_a_mode'] == 1.0


def test_evidence_of_the_banana():
  """By importance sampling from the prior; false-alarm rate 6e-5."""
  rng = np.random.default_rng(1)
  z = rng.normal(size=[400_000, 2]) * [1.5, 2.0]
  log_weights = (
    banana.log_joint(tf.constant(z)).numpy()
    + 0.5 * np.sum((z / [1.5, 2.0]) ** 2, axis=1)
    + np.log(2.0 * np.pi * 3.0)
  )
  weights = np.exp(log_weights)
  error = np.std(weights) / np.mean(weights) / np.sqrt(len(weights))
  assert abs(np.log(np.mean(weights)) - banana.log_evidence()) < 4.0 * error


def test_judge_counts_classes():
  """Shares of classes are those of labels, but for errors of the classifier."""
  data = image_data.load('digits')
  images = digits.training_images()
  predict_fn, accuracy, _ = digits.make_classifier(seed=1)
  row, shares = digits.judge(images, seed=1)
  assert row['classifier_accuracy'] == accuracy
  probabilities = predict_fn(images)
  is_missed = (np.max(probabilities, axis=1) < digits.SURE) | (
    np.argmax(probabilities, axis=1) != data.train_labels
  )
  true_shares = np.bincount(data.train_labels, minlength=10) / len(images)
  assert np.all(np.abs(shares - true_shares) <= np.mean(is_missed) + 1e-12)
  # A classifier that guesses is right on a tenth, give or take five standard
  # errors.
  chance = 0.1 + 5.0 * np.sqrt(0.1 * 0.9 / len(data.test_labels))
  assert accuracy > chance
  # Jensen's inequality; images that are alike have one entropy.
  assert row['entropy_of_classes'] > row['entropy_of_an_image']
  row, shares = digits.judge(np.tile(images[:1], [50, 1]), seed=1)
  np.testing.assert_allclose(
    row['entropy_of_classes'], row['entropy_of_an_image'], atol=1e-5
  )
  assert np.count_nonzero(shares) <= 1


@pytest.mark.parametrize(
  ('setting', 'value', 'problem'),
  [
    ('target', 'rings', "got 'rings'"),
    ('method', 'gan', "got 'gan'"),
    ('num_hidden', 0, 'at least 1; got 0|positive'),
  ],
)
def test_refuses_settings(setting, value, problem, tmp_path):
  programs.check_refuses(
    adversarial.run, setting, value, problem, tmp_path / 'new'
  )


def test_refuses_methods_that_a_target_does_not_have(tmp_path):
  with pytest.raises(ValueError, match='`method` must be one that a target'):
    adversarial.run(
      target='banana', method='minimax', output_dir=str(tmp_path / 'new')
    )

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
    assert row['classifier_accuracy'] > 0.9
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

  False-alarm rate: 1e-4, of four standard errors, with covariances of draws
  that change the share by less than one.
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


def test_classifier_knows_real_images_and_not_noise():
  images = digits.training_images()
  row, shares = digits.judge(images, seed=1)
  assert row['classifier_accuracy'] > 0.9
  assert shares.sum() > 0.9 and shares.min() > 0.07
  assert row['entropy_of_classes'] > 2.25
  alike = np.tile(images[:1], [50, 1])
  row, shares = digits.judge(alike, seed=1)
  assert np.max(shares) == 1.0 and row['entropy_of_classes'] < 0.2


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

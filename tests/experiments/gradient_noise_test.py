# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the experiment on the noise of gradients."""

import pytest

from tests.experiments import programs
from tfp_nvi import diagnostics
from tfp_nvi.experiments import gradient_noise

SMALL = {
  'objective': 'vsmc,reverse_kl',
  'num_particles': 4,
  'num_densities': 3,
  'num_repeats': 3,
  'num_steps': 2,
}


@pytest.mark.slow
def test_program(tmp_path, monkeypatch):
  results = gradient_noise.run(output_dir=str(tmp_path), **SMALL)
  cells = [(row['objective'], row['resampling']) for row in results.rows]
  assert cells == [
    *[('vsmc', True)] * 2,
    *[('reverse_kl', False)] * 2,
    *[('reverse_kl', True)] * 2,
  ]
  for row in results.rows:
    assert row['num_particles'] == 4 and row['num_densities'] == 3
    assert row['signal_to_noise'] >= 0.0
  assert [row['parameters'] for row in results.rows[:2]] == [
    'forward kernels',
    'reverse kernels',
  ]
  assert programs.read(tmp_path)['rows'] == results.rows
  programs.check_pictures(results.pictures)

  def never(*args, **kwargs):
    raise AssertionError('nothing was left to do')

  monkeypatch.setattr(diagnostics, 'gradient_noise', never)
  again = gradient_noise.run(output_dir=str(tmp_path), **SMALL)
  assert again.rows == results.rows


@pytest.mark.parametrize(
  ('setting', 'value', 'problem'),
  [
    ('objective', 'elbo', "got 'elbo'"),
    ('num_particles', '4,1', 'at least 2'),
    ('num_repeats', 1, 'at least 2; got 1'),
  ],
)
def test_refuses_settings(setting, value, problem, tmp_path):
  programs.check_refuses(
    gradient_noise.run, setting, value, problem, tmp_path / 'new'
  )

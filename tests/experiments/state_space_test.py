# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the experiment with state-space models."""

import json

import numpy as np
import pytest

from tfp_nvi.experiments import state_space
from tfp_nvi.experiments.state_space import experiment, models


@pytest.mark.parametrize('name', state_space.MODELS)
def test_models_simulate_numbers(name):
  model = state_space.MODELS[name]()
  _, z, x = model.simulate(20, [50], seed=1)
  assert z.shape[:2] == x.shape[:2] == [50, 20]
  assert np.all(np.isfinite(z)) and np.all(np.isfinite(x)) and np.std(x) > 0.0


def test_data_that_are_not_there(monkeypatch):
  monkeypatch.setattr(models.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match='`model` sp500 needs'):
    models.sp500_returns(10)


def test_vectors_have_a_first_coordinate():
  values = np.arange(12).reshape([2, 3, 2])
  assert experiment._first(values, 2).tolist() == [[0, 2, 4], [6, 8, 10]]
  assert experiment._first(values[0], 2).shape == (3, 2)


@pytest.mark.parametrize(
  'reference_steps', [0, pytest.param(50, marks=pytest.mark.slow)]
)
def test_program(reference_steps, tmp_path):
  results = state_space.run(
    model='stochastic_volatility',
    sequence_length=10,
    num_particles=100,
    num_runs=3,
    num_steps=10,
    num_predicted=3,
    reference_steps=reference_steps,
    output_dir=str(tmp_path),
  )
  (row,) = results.rows
  assert row['least_ancestors'] > 10
  assert set(row['parameters']) == {'mean', 'persistence', 'scale'}
  if reference_steps:
    assert row['parameters']['mean']['off_by'] < 1.0
  saved = json.loads((tmp_path / 'metrics.json').read_text())
  assert saved['rows'] == [row]
  assert (tmp_path / 'stochastic_volatility.png').stat().st_size > 1_000

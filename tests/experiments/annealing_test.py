# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The annealing experiment, with each method, flag and folder.

Most tests take a few training steps, without XLA: they are about files and
flags, not about results. One trains a sampler fully, on an easy density.
"""

import functools
import math
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests.experiments import programs
from tests.experiments.programs import read
from tfp_nvi.experiments import annealing
from tfp_nvi.experiments.annealing import experiment, report

tfd = tfp.distributions

ROW_TYPES = {
  'method': str,
  'num_densities': int,
  'num_restarts': int,
  'log_normalizer': float,
  'log_normalizer_std': float,
  'ess': float,
  'ess_std': float,
  'ess_without_resampling': float,
  'log_normalizer_true': float,
  'mode_mass_lowest': float,
  'mode_mass_highest': float,
  'microseconds_per_step': float,
  'seconds': float,
}
TIMES = ('microseconds_per_step', 'seconds')
SMALL = {
  'num_restarts': 2,
  'sample_budget': 8,
  'num_steps': 3,
  'num_flow_layers': 2,
  # Workers would not see the functions that tests replace.
  'num_workers': 1,
}


@pytest.fixture
def fast(monkeypatch):
  """Training that is not worth compiling."""
  monkeypatch.setattr(
    nvi, 'fit', functools.partial(nvi.fit, jit_compile=False, steps_per_call=3)
  )


@pytest.fixture
def no_compute(monkeypatch):
  """Makes it an error to compute anything."""

  def run_cell(*args):
    raise AssertionError(f'computed {args}')

  monkeypatch.setattr(experiment, '_run_cell', run_cell)


@pytest.fixture
def fake_cells(monkeypatch):
  """Cells that take no time; returns those that were run."""
  cells = []

  def run_cell(method, num_densities, settings, progress):
    del progress
    cells.append((method, num_densities))
    row = {key: 1.0 * len(cells) for key in ROW_TYPES}
    row.update(
      method=method,
      num_densities=num_densities,
      num_restarts=settings.num_restarts,
    )
    shape = [num_densities, 20]
    arrays = {
      'particles': np.ones([*shape, 2]),
      'log_weights': np.zeros(shape),
      'mode_shares': np.full([settings.num_restarts, 8], 0.125),
      'effective_sample_size': np.ones([4, settings.num_restarts]),
      'log_normalizer': np.ones([4, settings.num_restarts]),
      'schedule': np.linspace(0.0, 1.0, num_densities),
    }
    return row, arrays

  monkeypatch.setattr(experiment, '_run_cell', run_cell)
  return cells


def without_times(row):
  return {key: value for key, value in row.items() if key not in TIMES}


@pytest.mark.parametrize(
  'methods', ['avo,nvir_star', pytest.param('all', marks=pytest.mark.slow)]
)
def test_runs_methods(methods, fast, tmp_path):
  results = annealing.run(
    methods, num_densities=2, output_dir=str(tmp_path), **SMALL
  )
  content = read(tmp_path)
  assert content['rows'] == results.rows
  names = annealing.METHODS if methods == 'all' else methods.split(',')
  assert [row['method'] for row in results.rows] == list(names)
  for row in results.rows:
    assert {key: type(value) for key, value in row.items()} == ROW_TYPES
    assert row['num_densities'] == 2 and row['num_restarts'] == 2
    assert 1.0 <= row['ess'] <= 100.0
    assert row['log_normalizer_true'] == pytest.approx(math.log(8.0))
    assert row['log_normalizer_std'] > 0.0 and row['ess_std'] > 0.0
    assert row['seconds'] > 0.0 and row['microseconds_per_step'] > 0.0
    if not annealing.METHODS[row['method']].resamples:
      assert row['ess_without_resampling'] == row['ess']
  for name in ('num_restarts', 'sample_budget', 'num_steps', 'num_flow_layers'):
    assert content[name] == SMALL[name]
  assert content['seed'] == 1 and content['dtype'] == 'float32'
  assert content['target'] == 'ring_of_gaussians'
  assert content['versions']['tensorflow'] == tf.__version__

  names = ['samples-2.png', 'training-2.png']
  assert results.pictures == [os.path.join(tmp_path, name) for name in names]
  programs.check_pictures(results.pictures)
  assert not [x for x in os.listdir(tmp_path) if x.endswith('.part')]


@pytest.mark.slow
def test_cell_depends_on_its_seed_alone(fast, tmp_path):
  (row,) = annealing.run(
    ['avo'], num_densities=[2], output_dir=str(tmp_path / 'a'), **SMALL
  ).rows
  (other,) = annealing.run(
    'avo', '2', output_dir=str(tmp_path / 'b'), **{**SMALL, 'seed': 2}
  ).rows
  assert other['log_normalizer'] != row['log_normalizer']
  # Neither on other cells nor on who runs it.
  _, other = annealing.run(
    'svi,avo',
    num_densities=2,
    output_dir=str(tmp_path / 'c'),
    **{**SMALL, 'num_workers': 2},
  ).rows
  row, other = without_times(row), without_times(other)
  assert row.pop('method') == other.pop('method')
  # Workers train with XLA, which rounds otherwise, for three steps.
  assert row == pytest.approx(other, rel=1e-3)


@pytest.mark.slow
def test_runs_on_a_strategy(fast, tmp_path):
  kwargs = {**SMALL, 'method': 'nvir', 'num_densities': 2}
  rows = [
    annealing.run(
      num_islands=1, output_dir=str(tmp_path / strategy), strategy=strategy,
      **kwargs,
    ).rows
    for strategy in ('none', 'mirrored')
  ]  # fmt: skip
  assert read(tmp_path / 'mirrored')['num_islands'] == 1
  one, other = (without_times(row[0]) for row in rows)
  assert one['method'] == other['method'] == 'nvir'
  for field in ('log_normalizer', 'ess', 'mode_mass_lowest'):
    np.testing.assert_allclose(one[field], other[field], rtol=1e-3)


@pytest.mark.slow
def test_learned_path_is_drawn(fast, tmp_path):
  results = annealing.run(
    'nvir_star',
    num_densities=3,
    target='concentric_rings',
    dtype='float64',
    output_dir=str(tmp_path),
    **SMALL,
  )
  assert [os.path.basename(path) for path in results.pictures] == [
    'samples-3.png',
    'path-3.png',
    'training-3.png',
  ]
  (row,) = results.rows
  assert row['ess'] != row['ess_without_resampling']
  true = nvi.targets.concentric_rings().log_normalizer
  assert row['log_normalizer_true'] == true
  with np.load(tmp_path / 'cells' / 'nvir_star-3.npz') as arrays:
    schedule, divergences = arrays['schedule'], arrays['divergences']
    assert arrays['particles'].dtype == np.float64
  assert schedule.shape == (2, 3) and divergences.shape == (2, 2)
  assert np.all(np.diff(schedule) > 0.0) and np.all(divergences > 0.0)


def test_deviation_is_over_restarts():
  # Means over batches are 1 and 5.
  mean, deviation = experiment._mean_and_deviation(
    np.array([[0.0, 4.0], [2.0, 6.0]])
  )
  assert (mean, deviation) == (3.0, 2.0)


@pytest.mark.parametrize('name', annealing.METHODS)
def test_methods_are_what_they_are_called(name):
  target = nvi.targets.ring_of_gaussians()
  sampler, objective = annealing.make_sampler(
    name, target, 3, num_restarts=2, num_flow_layers=2, seed=1
  )
  assert sampler.batch_shape == [2]
  assert bool(sampler.densities.trainable_variables) == ('star' in name)
  (transitions,) = sampler.transitions
  kind = nvi.PlanarTransitions if 'flow' in name else nvi.GaussianTransitions
  assert isinstance(transitions, kind)
  # What resampling leaves behind: at every level but the last, weights that are
  # of no consequence to those of the next.
  trace = sampler.trace(20, seed=2, jit_compile=False)
  increments = trace.log_weights[1:] - trace.log_weights[:-1]
  is_kept = np.allclose(increments, trace.log_incremental_weights, atol=1e-3)
  assert is_kept == ('nvir' not in name)
  assert type(objective) is type(
    nvi.svi() if 'svi' in name else nvi.reverse_kl()
  )


def test_learns_an_easy_density(monkeypatch, tmp_path):
  # Two modes, 2.8 of their standard deviations from the middle.
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(probs=[0.5, 0.5]),
    tfd.MultivariateNormalDiag(
      [[-4.0, 0.0], [4.0, 0.0]], scale_diag=[[1.4, 1.4], [1.4, 1.4]]
    ),
  )
  easy = nvi.targets.MultimodalTarget(
    name='easy',
    unnormalized_log_prob_fn=lambda x: mixture.log_prob(x) + 1.0,
    sample_fn=lambda shape, seed: mixture.sample(shape, seed=seed),
    mode_index_fn=lambda x: tf.cast(x[..., 0] > 0.0, tf.int32),
    log_normalizer=1.0,
    mode_locations=[[-4.0, 0.0], [4.0, 0.0]],
    mode_probabilities=[0.5, 0.5],
    limits=(-12.0, 12.0),
  )
  monkeypatch.setitem(annealing.TARGETS, 'easy', lambda dtype=tf.float32: easy)
  (row,) = annealing.run(
    'nvir_star',
    num_densities=3,
    num_restarts=2,
    sample_budget=150,
    num_steps=1_500,
    learning_rate=5e-3,
    target='easy',
    output_dir=str(tmp_path),
  ).rows
  assert row['ess'] > 90.0
  # With an effective sample size of 90% at each of two levels, the log of the
  # mean of 100 weights has a variance of about 2 (1 / 0.9 - 1) / 100 = 0.0022:
  # a bias of half of that, and a standard error of 0.0033 over 200 batches. At
  # 5 standard errors, and twice that for a worse first level, false alarms are
  # rarer than 1e-6.
  assert abs(row['log_normalizer'] - 1.0) < 0.035
  with np.load(tmp_path / 'cells' / 'nvir_star-3.npz') as arrays:
    shares = arrays['mode_shares']
  # 100,000 particles of each restart, worth 50,000 at least: 9 standard errors.
  np.testing.assert_allclose(shares, 0.5, atol=0.02)
  np.testing.assert_allclose(row['mode_mass_lowest'], 2.0 * shares.min())
  np.testing.assert_allclose(row['mode_mass_highest'], 2.0 * shares.max())


def test_goes_on_after_a_stop(monkeypatch, fake_cells, capsys, tmp_path):
  run = functools.partial(
    annealing.run, 'nvi,avo', '4,2', output_dir=str(tmp_path), num_workers=1
  )
  original = experiment._run_cell

  def stopped(*args, **kwargs):
    if len(fake_cells) == 2:
      raise KeyboardInterrupt
    return original(*args, **kwargs)

  monkeypatch.setattr(experiment, '_run_cell', stopped)
  with pytest.raises(KeyboardInterrupt):
    run()
  assert len(read(tmp_path)['rows']) == 2
  monkeypatch.setattr(experiment, '_run_cell', original)
  capsys.readouterr()
  results = run()
  assert fake_cells == [('nvi', 4), ('nvi', 2), ('avo', 4), ('avo', 2)]
  assert [row['seconds'] for row in results.rows] == [1.0, 2.0, 3.0, 4.0]
  output = capsys.readouterr().out
  assert output.count('Kept: ') == 2
  assert 'Training 2 of 4 cells.' in output
  assert '[1/2] AVO, 4 densities: log Z-hat 3.000' in output
  # In the file, in the order of the table.
  assert [
    (row['method'], row['num_densities']) for row in read(tmp_path)['rows']
  ] == [('avo', 2), ('avo', 4), ('nvi', 2), ('nvi', 4)]

  # A cell whose arrays are damaged is run again.
  (tmp_path / 'cells' / 'avo-4.npz').write_bytes(b'PK')
  assert [row['seconds'] for row in run().rows] == [1.0, 2.0, 5.0, 4.0]
  # Only the cells that are asked for are overwritten.
  annealing.run('svi', 2, output_dir=str(tmp_path), overwrite=True)
  annealing.run('avo', 2, output_dir=str(tmp_path), overwrite=True)
  assert [row['seconds'] for row in read(tmp_path)['rows']] == [
    *(6.0, 7.0, 5.0, 2.0, 1.0)
  ]


def test_keeps_results_of_another_configuration(fake_cells, tmp_path):
  annealing.run('avo', 2, output_dir=str(tmp_path))
  with pytest.raises(
    ValueError, match='`output_dir` must .* num_steps 20000, now 10'
  ):
    annealing.run('nvi', 2, num_steps=10, output_dir=str(tmp_path))
  assert len(fake_cells) == 1
  annealing.run(
    'nvi', 2, num_steps=10, output_dir=str(tmp_path), overwrite=True
  )
  content = read(tmp_path)
  assert content['num_steps'] == 10
  assert [row['method'] for row in content['rows']] == ['nvi']


@pytest.mark.parametrize('content', ['{"rows": [', '[]', '{"rows": []}', '1'])
def test_keeps_a_file_that_it_cannot_read(content, fake_cells, tmp_path):
  (tmp_path / 'metrics.json').write_text(content, 'utf-8')
  with pytest.raises(ValueError, match='`output_dir` .* cannot be read'):
    annealing.run('avo', 2, output_dir=str(tmp_path))
  assert (tmp_path / 'metrics.json').read_text('utf-8') == content
  annealing.run('avo', 2, output_dir=str(tmp_path), overwrite=True)
  assert len(read(tmp_path)['rows']) == 1


@pytest.mark.parametrize(
  ('setting', 'value', 'problem'),
  [
    ('method', 'nvi,foo', "all, or a comma list of svi, .*; got 'foo'"),
    ('method', '', "all, or a comma list .*; got ''"),
    ('method', [], 'all, or a comma list'),
    ('num_densities', '2,1', "integers of at least 2; got '1'"),
    ('num_densities', '2,x', "integers of at least 2; got 'x'"),
    ('num_densities', 2.5, 'integers of at least 2; got 2.5'),
    ('num_densities', (), 'integers of at least 2'),
    ('num_restarts', 0, 'positive; got 0'),
    ('num_steps', -1, 'positive; got -1'),
    ('num_flow_layers', 1.5, 'a positive Python int; got 1.5'),
    ('num_workers', 0, 'positive; got 0'),
    ('sample_budget', 0, 'positive; got 0'),
    ('sample_budget', 7, 'at least the number of densities, 8, .*; got 7'),
    ('seed', 'x', "a Python int; got 'x'"),
    ('learning_rate', 0.0, 'positive and finite; got 0.0'),
    ('learning_rate', float('nan'), 'positive and finite; got nan'),
    ('target', 'circle', "one of ring_of_gaussians, .*; got 'circle'"),
    ('dtype', 'float16', "one of float32, float64; got 'float16'"),
  ],
)
def test_refuses_settings(setting, value, problem, no_compute, tmp_path):
  programs.check_refuses(
    annealing.run, setting, value, problem, tmp_path / 'new'
  )


def test_refuses_folder_that_cannot_be_written(no_compute, tmp_path):
  programs.check_refuses_folders(annealing.run, tmp_path)


def test_all_leaves_out_what_is_not_in_the_table():
  cells, left_out = experiment._cells(annealing.Settings('all', '2,4'))
  assert left_out == [('svi_flow', 4)]
  assert len(cells) == 17 and ('svi_flow', 2) in cells
  assert experiment._cells(annealing.Settings('svi_flow', [2, 4])) == (
    [('svi_flow', 2), ('svi_flow', 4)],
    [],
  )


def table_row(method, num_densities, log_normalizer, ess):
  return {
    'method': method,
    'num_densities': num_densities,
    'log_normalizer': log_normalizer,
    'ess': ess,
    'log_normalizer_true': math.log(8.0),
  }


def test_table_marks_what_is_below_the_published_one():
  rows = [
    table_row('nvi', 2, 1.8401, 48.9),
    table_row('nvi', 8, 2.0399, 39.1),
    table_row('svi_flow', 4, 2.0, 50.0),
  ]
  table = report.format_table(rows, 'ring_of_gaussians')
  lines = [line.split() for line in table.splitlines()]
  assert 'NVI 1.840 / 1.86 - 2.040 / 2.06!'.split() in lines
  assert 'NVI 48.9 / 51! - 39.1 / 41'.split() in lines
  assert 'SVI-flow - 2.000 -'.split() in lines
  assert '! 2 below the published figure' in table
  assert '(true 2.079)' in table


def test_table_of_other_targets_stands_alone():
  table = report.format_table([table_row('nvi', 2, 1.0, 2.0)], 'other')
  assert '/' not in table and '!' not in table


def test_published_table_is_whole():
  assert list(report._PAPER) == list(annealing.METHODS)
  for name, (log_normalizers, sizes) in report._PAPER.items():
    assert (
      len(log_normalizers) == len(sizes) == (1 if name == 'svi_flow' else 4)
    )


@pytest.mark.parametrize(
  ('arguments', 'problem'),
  [
    (['--method=foo'], '--method must be all, or a comma list of svi, '),
    pytest.param(
      ['--num_steps=0'],
      '--num_steps must be positive; got 0.',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ['--output_dir={}/folder'],
      '--output_dir must be a folder that can be',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_program_names_the_flag(arguments, problem, tmp_path):
  (tmp_path / 'file').write_text('')
  arguments = [x.format(tmp_path / 'file') for x in arguments]
  programs.check_names_flag('annealing', arguments, problem)

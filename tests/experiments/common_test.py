# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings, folders, workers and programs that all experiments share."""

import dataclasses
import glob
import inspect
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.experiments import programs
from tfp_nvi.experiments import annealing, common, hmm, image_mixture


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  name: tuple = common.names(['a', 'b'])
  num_steps: int = common.setting(10, 'Steps.', flag_default=20)
  rate: float = common.setting(0.5, 'Rate.')
  is_fast: bool = common.setting(False, 'Whether it is fast.')
  title: str = common.setting('', 'Title.', changes_results=False)
  output_dir: str = common.output_dir('results')


def test_settings_are_converted():
  settings = Settings('b, a,b', rate=1)
  assert settings.name == ('b', 'a')
  assert Settings(['all']).name == ('all',)
  assert settings.configuration == {
    'num_steps': 10,
    'rate': 1.0,
    'is_fast': False,
  }


@pytest.mark.parametrize(
  ('setting', 'value', 'kind'),
  [
    ('name', 'a,all', ValueError),
    ('num_steps', 0, ValueError),
    ('num_steps', 1.5, TypeError),
    ('num_steps', True, TypeError),
    ('rate', float('inf'), ValueError),
    ('rate', 'x', TypeError),
    ('is_fast', 1, TypeError),
  ],
)
def test_wrong_settings_are_errors(setting, value, kind):
  with pytest.raises(kind, match=f'^`{setting}` must be .*; got ') as info:
    Settings(**{setting: value})
  assert isinstance(info.value, common.SettingError)
  assert info.value.name == setting
  # As it comes from a worker.
  again = pickle.loads(pickle.dumps(info.value))
  assert str(again) == str(info.value) and again.name == setting


def test_texts_are_no_paths():
  with pytest.raises(TypeError, match='`title` must be a Python str; got 3'):
    Settings(title=3)
  with pytest.raises(TypeError, match='`output_dir` must be a path'):
    Settings(output_dir=3)
  assert Settings(output_dir=pathlib.Path('a')).output_dir == 'a'


def test_arguments_are_settings():
  @common.with_settings(Settings)
  def run(settings):
    """Runs."""
    return settings

  assert run('a', num_steps=3) == Settings(('a',), 3)
  assert list(inspect.signature(run).parameters) == [
    *('name', 'num_steps', 'rate', 'is_fast', 'title', 'output_dir'),
  ]
  assert '  num_steps: Steps. Default value: `10`.\n' in run.__doc__
  assert run.__doc__.index('Args:') < run.__doc__.index('Returns:')


@pytest.mark.parametrize(
  ('name', 'experiment'),
  [
    ('annealing', annealing),
    pytest.param('hmm', hmm, marks=pytest.mark.slow),
    pytest.param('image_mixture', image_mixture, marks=pytest.mark.slow),
    pytest.param('bgmm_vae', image_mixture, marks=pytest.mark.slow),
  ],
)
def test_help_lists_all_settings(name, experiment):
  text = programs.run_program(name, '--help').stdout
  assert experiment.__doc__.splitlines()[0] in text
  for field in dataclasses.fields(experiment.Settings):
    assert f'--{field.name}: ' in text or f'--[no]{field.name}: ' in text
    assert field.metadata['help'].split()[0] in text


def test_published_flags_are_those_of_the_program():
  folder = pathlib.Path(common.__file__).parents[1]
  lines = (folder / 'hmm_paper.flags').read_text('utf-8').splitlines()
  pairs = [x[2:].split('=') for x in lines if x.startswith('--')]
  numbers = {name: int(x) for name, x in pairs if name != 'method'}
  settings = hmm.Settings('all', **numbers)
  assert settings.num_particles == 1_000 and len(numbers) == len(pairs) - 1


def make_store(folder, configuration=None, **kwargs):
  return common.Store(str(folder), configuration or {}, ['seed'], **kwargs)


def test_damaged_arrays_are_as_if_absent(tmp_path):
  store = make_store(tmp_path)
  store.add({'seed': 1}, {'x': np.arange(1_000)})
  assert store.has(1)
  path = tmp_path / 'cells' / '1.npz'
  path.write_bytes(path.read_bytes()[:100])
  assert not store.has(1)


def test_rows_are_replaced_in_order(tmp_path):
  store = make_store(tmp_path, {'sizes': (1, 2)})
  for seed, value in ((2, 0.1), (1, 0.2), (2, 0.3)):
    store.add({'seed': seed, 'value': value})
  again = make_store(tmp_path, {'sizes': (1, 2)})
  assert [row['value'] for row in again.rows] == [0.2, 0.3]
  assert not list(tmp_path.glob('*.part'))


def test_training_folder_is_of_its_settings(tmp_path):
  def make(num_steps, **kwargs):
    return common.TrainingFolder(
      str(tmp_path), {'num_steps': num_steps}, 'checkpoint_dir', **kwargs
    )

  # Where nothing was computed, there is nothing to be of other settings.
  make(1)
  make(2).add({'stage': 'clusters', 'seconds': 2.0}, {'x': np.zeros(3)})
  (tmp_path / 'clusters').mkdir()
  with pytest.raises(ValueError, match='has num_steps 2, now 1'):
    make(1)
  assert make(2).seconds == 2.0
  np.testing.assert_array_equal(make(2).arrays('clusters')['x'], np.zeros(3))
  assert make(1, overwrite=True).arrays('clusters') is None
  assert not (tmp_path / 'clusters').exists()
  (tmp_path / 'settings.json').write_text('[')
  with pytest.raises(ValueError, match='settings.json cannot be read'):
    make(1)


def test_folder_that_is_read_alone_is_left_as_it_is(tmp_path):
  common.TrainingFolder(str(tmp_path / 'new'), {}, writes=False)
  assert not (tmp_path / 'new').exists()


def test_learning_rate_decays_over_the_last_quarter():
  # Constant for three quarters of the steps; then half a cosine, down to zero.
  rate = common.decayed_learning_rate(0.1, 400)
  for step, expected in ((0, 0.1), (150, 0.1), (300, 0.1), (350, 0.05)):
    np.testing.assert_allclose(rate(step), expected, rtol=1e-5)
  np.testing.assert_allclose(rate(400), 0.0, atol=1e-8)
  assert common.decayed_learning_rate(0.1, 1) == 0.1


def test_thin_takes_means():
  # Of 45 steps, two means, of 23 and 22.
  means = common.thin(np.arange(45.0)[:, np.newaxis] * [1.0, 2.0])
  np.testing.assert_allclose(means, [[11.0, 22.0], [33.5, 67.0]])


SMALL = [
  '--method=no_heuristic',
  '--sequence_length=8',
  '--num_training_sequences=40',
  '--num_test_sequences=15',
  '--num_particles=20',
  '--num_training_particles=5',
  '--batch_size=10',
  '--num_reference_batches=2',
]


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_workers_end_with_a_killed_parent(tmp_path):
  process = subprocess.Popen(
    [
      *(sys.executable, '-m', 'tfp_nvi.experiments.hmm', *SMALL),
      *('--num_steps=1000000', f'--output_dir={tmp_path}', '--num_workers=2'),
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    # Both write the settings of their training before its first step.
    pattern = str(tmp_path / 'checkpoints' / '*' / 'settings.json')
    deadline = time.monotonic() + 600.0
    while len(glob.glob(pattern)) < 2 and time.monotonic() < deadline:
      assert process.poll() is None
      time.sleep(0.5)
    path = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
    children = [int(x) for x in path.read_text().split()]
    # Also that which multiprocessing tracks resources with.
    assert len(children) >= 2
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  deadline = time.monotonic() + 10.0
  while any(map(is_alive, children)) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not [pid for pid in children if is_alive(pid)]


def is_alive(pid):
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  # A process that nobody has waited for yet is a zombie.
  return stat.rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.slow
def test_figures_do_not_depend_on_workers_or_restarts(tmp_path):
  def run(num_workers, num_missing):
    result = programs.run_program(
      *('hmm', *SMALL, '--num_steps=10', f'--output_dir={tmp_path}'),
      f'--num_workers={num_workers}',
    )
    assert result.returncode == 0, result.stderr
    assert f'Training {num_missing} of 2 cells.' in result.stdout
    return {
      row['method']: {k: v for k, v in row.items() if 'seconds' not in k}
      for row in programs.read(tmp_path)['rows']
    }

  two = run(2, num_missing=2)
  assert list(two) == ['no_heuristic', 'oracle', 'reference']
  # As if one worker had been stopped before a method and the reference.
  for name in ('no_heuristic', 'reference'):
    os.remove(tmp_path / 'cells' / f'{name}.npz')
  assert run(1, num_missing=1) == two

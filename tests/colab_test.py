# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The notebooks run, and are stored with what they show.

What must hold, of every notebook in colab/:

- its code cells run one after the other, here with few steps and draws and
  without XLA, which takes longer to compile than all else;
- each was run in this order before it was stored, without an error, a warning
  or a path of the machine that it ran on;
- it is small;
- its first cells are those of all, with a badge that opens it in Colab and a
  cell that installs the package, and it says how long it takes;
- a new kernel shows again what is stored (with the extra `notebooks`, and where
  slow tests run).
"""

import importlib.util
import json
import pathlib
import re
import sys
import types

import matplotlib
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]


def load():
  path = ROOT / 'docs' / 'run_notebooks.py'
  spec = importlib.util.spec_from_file_location('run_notebooks', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


NOTEBOOKS = sorted((ROOT / 'colab').glob('*.ipynb'))
MAX_BYTES = 1_000_000

# Replacements of patterns, for a short run. One of the first two must occur.
SIZES = {
  r'^num_steps = [\d_]+$': 'num_steps = 4',
  r'^num_particles = [\d_]+$': 'num_particles = 20',
}
SETTINGS = {
  **SIZES,
  r'\b10_000\b': '100',
  r'\brange\(\d+\)': 'range(2)',
  r'\bjit_compile=True\b': 'jit_compile=False',
}


def read(path: pathlib.Path) -> list[dict]:
  """The cells of a notebook."""
  return json.loads(path.read_text('utf-8'))['cells']


def sources(cells: list[dict]) -> list[str]:
  """The text of each code cell."""
  return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def without_magics(source: str) -> str:
  """Puts `pass` in the place of lines that only IPython understands."""
  return re.sub(r'^([ \t]*)%.*$', r'\1pass', source, flags=re.MULTILINE)


def shrink(source: list[str]) -> list[str]:
  """The code of cells with few steps and draws, and without XLA."""
  if not any(
    re.search(size, text, re.MULTILINE) for size in SIZES for text in source
  ):
    raise ValueError(
      '`num_steps` or `num_particles` expected to be assigned a number.'
    )
  for pattern, replacement in SETTINGS.items():
    source = [
      re.sub(pattern, replacement, text, flags=re.MULTILINE) for text in source
    ]
  return source


def test_notebooks_exist():
  assert NOTEBOOKS


# One is quick; `make notebooks` runs all in kernels of their own.
@pytest.mark.parametrize(
  'path',
  [
    pytest.param(
      path,
      id=path.stem,
      marks=() if path.stem == 'annealing' else pytest.mark.slow,
    )
    for path in NOTEBOOKS
  ],
)
def test_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  # Set for what is imported now, and chosen again for what has been.
  monkeypatch.setenv('MPLBACKEND', 'Agg')
  matplotlib.use('Agg')
  function = tf.function

  def function_without_xla(*args, jit_compile=None, **kwargs):
    del jit_compile
    return function(*args, **kwargs)

  monkeypatch.setattr(tf, 'function', function_without_xla)
  code = shrink(list(map(without_magics, sources(read(path)))))
  namespace = {'__name__': path.stem}
  num_run = 0
  try:
    for i, text in enumerate(code):
      # From a file, which tracebacks quote.
      cell = tmp_path / f'{path.stem}_{i}.py'
      cell.write_text(text, 'utf-8')
      exec(compile(text, cell, 'exec'), namespace)
      num_run += 1
  finally:
    matplotlib.pyplot.close('all')
  assert num_run == len(code) > 0


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_as_it_ran(path):
  assert path.stat().st_size < MAX_BYTES
  cells = read(path)
  code = [c for c in cells if c['cell_type'] == 'code']
  assert [c['execution_count'] for c in code] == list(range(1, len(code) + 1))
  outputs = [output for c in code for output in c['outputs']]
  assert all(output['output_type'] != 'error' for output in outputs)
  assert all(output.get('name') != 'stderr' for output in outputs)
  pictures = [
    output['data'].pop('image/png')
    for output in outputs
    if 'image/png' in output.get('data', {})
  ]
  assert pictures
  # What is left has no encoded pictures, in which any letters may follow.
  text = json.dumps(cells)
  for folder in ('/home', '/root', '/tmp', '/work'):
    assert folder not in text


@pytest.fixture(scope='module')
def run_notebooks():
  pytest.importorskip('tomllib')  # New in Python 3.11.
  return load()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cells(path, run_notebooks):
  notebook = json.loads(path.read_text('utf-8'))
  expected = run_notebooks.set_head(notebook, path.name)
  assert notebook['cells'] == expected['cells']
  first = ''.join(notebook['cells'][0]['source'])
  assert 'Copyright' in first
  assert re.search(
    r'\(https://colab\.research\.google\.com/github/[\w-]+/tfp_nvi/blob/main/'
    rf'colab/{path.name}\)$',
    first,
  )
  assert re.search(
    r'[Rr]uns\s+in\s+about\s+[\w\s]+?minutes?',
    ''.join(notebook['cells'][1]['source']),
  )


@pytest.mark.parametrize('where', ['clone', 'elsewhere', 'installed'])
def test_first_cell_installs(where, run_notebooks, tmp_path, monkeypatch):
  """Runs a first cell and records the arguments of its `%pip` commands."""
  code = run_notebooks.INSTALL_CODE.format(
    repository=run_notebooks.repository()
  )
  asked = []
  code, count = re.subn(r'%pip install -q \{source\}$', 'pip(source)', code)
  assert count == 1
  folder = tmp_path / 'colab'
  folder.mkdir()
  if where == 'clone':
    (tmp_path / 'pyproject.toml').touch()
  monkeypatch.chdir(folder)
  if where != 'installed':
    find = types.SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setitem(sys.modules, 'importlib', types.ModuleType('importlib'))
    monkeypatch.setitem(sys.modules, 'importlib.util', find)
    sys.modules['importlib'].util = find
  exec(code, {'pip': asked.append})
  assert (
    asked
    == {
      'clone': ['..'],
      'elsewhere': [f'git+{run_notebooks.repository()}'],
      'installed': [],
    }[where]
  )


def code_cell(*outputs):
  return {'cell_type': 'code', 'source': '', 'outputs': list(outputs)}


def stream(text, name='stdout'):
  return {'output_type': 'stream', 'name': name, 'text': text}


PICTURE = {'output_type': 'display_data', 'data': {'image/png': ''}}


@pytest.mark.parametrize(
  ('old', 'new', 'same'),
  [
    (stream('ESS 1,000 of 2,000'), stream('ESS 1,020 of 2,000\n'), True),
    (stream('ESS 1,000 of 2,000'), stream('ESS 1,100 of 2,000'), False),
    (stream('took 10.6 s, 3'), stream('took 30 s, 3'), True),
    (stream('mean [-0.01  0.02]'), stream('mean [ 0.01 -0.02]'), True),
    (stream('mean 3'), stream('mode 3'), False),
    (stream('3'), stream('3 4'), False),
    (PICTURE, PICTURE, True),
    (PICTURE, stream(''), False),
    (stream(''), stream('a warning', 'stderr'), False),
  ],
)
def test_differences(old, new, same, run_notebooks):
  found = run_notebooks.differences(
    {'cells': [code_cell(old)]}, {'cells': [code_cell(new)]}, 0.05
  )
  assert (not found) == same


def test_notices_are_left_out(run_notebooks):
  notice = 'I0000 00:00:1795654558.69 28514 port.cc:153] oneDNN is on.\n'
  notebook = {
    'cells': [
      code_cell(stream(notice, 'stderr')),
      code_cell(stream(notice + 'a warning\n', 'stderr'), stream('3')),
    ]
  }
  first, second = run_notebooks.without_notices(notebook)['cells']
  assert first['outputs'] == []
  assert second['outputs'] == [stream('a warning', 'stderr'), stream('3')]


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_new_kernel_shows_what_is_stored(path, run_notebooks):
  pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  stored = json.loads(path.read_text('utf-8'))
  found = run_notebooks.execute(path)
  assert run_notebooks.differences(stored, found, 0.05) == []


def test_lines_for_ipython_are_left_out():
  source = 'if x:\n  %pip install -q y\n%matplotlib inline\ny = 5 % 3'
  assert without_magics(source) == 'if x:\n  pass\npass\ny = 5 % 3'


def test_steps_are_few():
  assert shrink(['a = 1\nnum_steps = 5_000']) == ['a = 1\nnum_steps = 4']
  with pytest.raises(ValueError, match='num_steps'):
    shrink(['steps = 5_000'])

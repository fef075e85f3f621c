# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the programs of experiments share: flags, cells, and their folder.

An experiment is a function `run` whose arguments are the flags of its program.
It consists of cells, each computed once: what the output folder has already is
kept, so that a run that was stopped goes on when it is started again.
"""

import concurrent.futures
import importlib.metadata
import inspect
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from absl import app, flags

__all__ = [
  'SettingError',
  'Store',
  'as_list',
  'check_choice',
  'check_positive_integer',
  'check_positive_number',
  'define_flags',
  'main',
  'replace_file',
  'run_cells',
  'versions',
]


class SettingError(ValueError):
  """An argument, or the flag of the same name, that is not as expected."""

  def __init__(self, name, expected, got):
    self.name = name
    self.problem = f'must be {expected}; got {got}.'
    super().__init__(f'`{name}` {self.problem}')


def as_list(value):
  """What a comma list, a list or a single value has, each once.

  Args:
    value: Python `str`, list, or anything else.

  Returns:
    values: List.

  ```python
  from tfp_nvi.experiments import programs

  assert programs.as_list('a, b,a') == ['a', 'b']
  ```
  """
  if isinstance(value, str):
    value = [x.strip() for x in value.split(',')]
  elif not isinstance(value, (list, tuple, range)):
    value = [value]
  return list(dict.fromkeys(value))


def check_choice(name, value, choices):
  """Raises a `SettingError` if an argument is none of the choices."""
  if value not in choices:
    raise SettingError(name, 'one of ' + ', '.join(choices), repr(value))


def check_positive_integer(name, value):
  """Raises a `SettingError` if an argument is not a positive integer."""
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise SettingError(name, 'a positive integer', repr(value))


def check_positive_number(name, value):
  """Raises a `SettingError` if an argument is not a positive number."""
  if not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
    raise SettingError(name, 'a positive number', repr(value))


def versions():
  """Versions of what the figures of an experiment depend on.

  Returns:
    versions: Python `dict`.
  """
  try:
    version = importlib.metadata.version('tfp-nvi')
  except importlib.metadata.PackageNotFoundError:
    version = 'unknown'
  return {
    'tfp_nvi': version,
    'tensorflow': tf.__version__,
    'tensorflow_probability': tfp.__version__,
    'tf_keras': tf_keras.__version__,
    'numpy': np.__version__,
    'python': platform.python_version(),
  }


def replace_file(path, write_fn):
  """Writes a file under another name first, so that it is whole or not there.

  Args:
    path: Python `str`.
    write_fn: Python callable that writes to a binary file.
  """
  with open(path + '.part', 'wb') as f:
    write_fn(f)
  os.replace(path + '.part', path)


class Store:
  """The output folder: rows and arrays of the cells that are done.

  `metrics.json` has the configuration and a row for each cell, which is written
  after every cell; `cells/*.npz` has the arrays of each.
  """

  def __init__(self, directory, configuration, overwrite, fields, order_fn):
    """Opens or makes the folder.

    Args:
      directory: Python `str`.
      configuration: Python `dict`, of what JSON can hold.
      overwrite: Python `bool`: whether results of another configuration are to
        be discarded, instead of being an error.
      fields: List of Python `str`s: the fields of a row that name its cell.
      order_fn: Python callable from the values of these to what rows are sorted
        by.

    Raises:
      SettingError: If the folder cannot be written, or has other results.
    """
    self._directory = directory
    self._configuration = configuration
    self._fields = fields
    self._order_fn = order_fn
    self.rows = []
    try:
      for folder in (directory, os.path.join(directory, 'cells')):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
          pass
    except (OSError, TypeError) as e:
      raise SettingError(
        'output_dir',
        'a folder that can be written',
        f'{directory!r} ({getattr(e, "strerror", None) or e})',
      ) from e
    path = self.path('metrics.json')
    if not os.path.exists(path):
      return
    try:
      with open(path, encoding='utf-8') as f:
        content = json.load(f)
      found = {key: content[key] for key in configuration}
      rows = {self._cell(row): row for row in content['rows']}
    except (OSError, ValueError, KeyError, TypeError) as e:
      if overwrite:
        return
      raise SettingError(
        'output_dir',
        'a new folder or that of an earlier run, unless --overwrite is given',
        f'{directory!r} with a metrics.json that cannot be read ({e!r})',
      ) from e
    if found == configuration:
      self.rows = list(rows.values())
    elif not overwrite:
      different = [
        f'{key} {found[key]!r}, now {configuration[key]!r}'
        for key in configuration
        if found[key] != configuration[key]
      ]
      raise SettingError(
        'output_dir',
        'a folder without results of another configuration, unless --overwrite '
        'is given',
        f'{directory!r}, which has {"; ".join(different)}',
      )

  def _cell(self, row):
    return tuple(row[field] for field in self._fields)

  def path(self, *names):
    """The path of a file in the folder."""
    return os.path.join(self._directory, *names)

  def _arrays_path(self, *cell):
    return self.path('cells', '-'.join(map(str, cell)) + '.npz')

  def row(self, *cell):
    """The row of a cell; `None` if it is not done."""
    for row in self.rows:
      if self._cell(row) == cell:
        return row
    return None

  def arrays(self, *cell):
    """The arrays of a cell; `None` if they are not there, or not whole."""
    try:
      # Opened here, as NumPy leaves what is not whole open.
      with open(self._arrays_path(*cell), 'rb') as f, np.load(f) as saved:
        return dict(saved)
    except (
      *(OSError, ValueError, EOFError, KeyError),
      *(zipfile.BadZipFile, zlib.error),
    ):
      return None

  def has(self, *cell):
    """Whether a cell is done."""
    return self.row(*cell) is not None and self.arrays(*cell) is not None

  def add(self, row, arrays):
    """Keeps a cell. If this is stopped, the folder is as before or after."""
    cell = self._cell(row)
    replace_file(
      self._arrays_path(*cell), lambda f: np.savez_compressed(f, **arrays)
    )
    rows = [r for r in self.rows if self._cell(r) != cell]
    self.rows = sorted(
      rows + [row], key=lambda r: self._order_fn(*self._cell(r))
    )
    content = json.dumps(
      {**self._configuration, 'rows': self.rows}, indent=2, allow_nan=False
    )
    replace_file(
      self.path('metrics.json'), lambda f: f.write(content.encode() + b'\n')
    )


def _use_one_thread():
  """Sets up a worker: as many of them run as there are processors."""
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)


def run_cells(run_cell_fn, cells, settings, num_workers):
  """Runs cells, some of them at a time.

  Args:
    run_cell_fn: Python callable of the top level of a module, from the parts of
      a cell's name, the settings, and `progress`, to a row and arrays.
    cells: List of tuples.
    settings: What each cell gets.
    num_workers: Python `int`: how many cells to run at a time, each in a
      process of its own, if more than one.

  Yields:
    Each cell with its row and arrays, as they are done.
  """
  if num_workers == 1 or len(cells) < 2:
    for cell in cells:
      yield cell, run_cell_fn(*cell, settings, progress=True)
    return
  executor = concurrent.futures.ProcessPoolExecutor(
    min(num_workers, len(cells)),
    # A process that has run TensorFlow cannot be forked.
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_use_one_thread,
  )
  try:
    futures = {
      executor.submit(run_cell_fn, *cell, settings, progress=False): cell
      for cell in cells
    }
    for future in concurrent.futures.as_completed(futures):
      yield futures[future], future.result()
  finally:
    executor.shutdown(wait=False, cancel_futures=True)


def define_flags(run_fn, descriptions, defaults=None):
  """Defines a flag for each argument of an experiment.

  Args:
    run_fn: Python callable, all of whose arguments have defaults.
    descriptions: Python `dict` from the name of each argument to its help.
    defaults: Python `dict` of defaults that the program has instead.
      Default value: `None` (i.e., none).
  """
  define = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
  }
  for name, parameter in inspect.signature(run_fn).parameters.items():
    default = (defaults or {}).get(name, parameter.default)
    if isinstance(default, tuple):
      default = ','.join(map(str, default))
    define[type(default)](name, default, descriptions[name])


def main(run_fn, argv):
  """Runs an experiment with the values of its flags.

  Args:
    run_fn: As in `define_flags`.
    argv: List of Python `str`s: the program, and nothing else.

  Returns:
    exit_status: Python `int`.

  Raises:
    app.UsageError: If there are arguments that are no flags.
  """
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags alone; got {" ".join(argv[1:])}.')
  try:
    run_fn(
      **{
        name: flags.FLAGS[name].value
        for name in inspect.signature(run_fn).parameters
      }
    )
  except SettingError as e:
    print(f'--{e.name} {e.problem}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(
      '\nStopped. The same command goes on after the cells that are done.',
      file=sys.stderr,
    )
    return 130
  return 0

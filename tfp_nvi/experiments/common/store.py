# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of results, which also hold the settings of these results."""

import importlib.metadata
import json
import os
import platform
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_nvi.experiments.common.settings import SettingError
from tfp_nvi.internal import files

__all__ = [
  'Results',
  'Store',
  'finish',
  'open_output',
]


class Results(NamedTuple):
  """The results of an experiment.

  Fields:
    rows: List of Python `dict`s, as in `metrics.json`: the rows asked for.
    pictures: List of the paths of the pictures.
  """

  rows: list
  pictures: list


def _versions():
  """Returns versions of the packages that results depend on."""
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


class Store:
  """A folder with a row and arrays for each finished cell.

  A JSON file has the configuration of the cells, and a row for each cell; it is
  written after every cell. `cells/*.npz` has the arrays of each cell.

  ```python
  import tempfile
  from tfp_nvi.experiments import common

  with tempfile.TemporaryDirectory() as folder:
    store = common.Store(folder, {'num_steps': 10}, fields=['seed'])
    store.add({'seed': 1, 'loss': 0.5}, {'weights': [0.2, 0.8]})
    again = common.Store(folder, {'num_steps': 10}, fields=['seed'])
    assert again.row(1)['loss'] == 0.5
    assert again.arrays(1)['weights'].shape == (2,)
  ```
  """

  def __init__(
    self,
    directory: str,
    configuration: dict,
    fields: list,
    order_fn: Callable = lambda *cell: cell,
    overwrite: bool = False,
    argument: str = 'output_dir',
    file: str = 'metrics.json',
    writes: bool = True,
  ):
    """Opens the folder; creates it if it does not exist.

    Args:
      directory: Python `str`.
      configuration: Python `dict`, of values that JSON can hold.
      fields: List of Python `str`s: the fields of a row that name its cell.
      order_fn: Python callable from the values of these fields to a sorting
        key.
      overwrite: Python `bool`: whether results of another configuration are
        discarded, instead of being an error.
      argument: Python `str`: the name of the argument `directory` in errors.
      file: Python `str`: the name of the JSON file.
      writes: Python `bool`: whether the folder is written. If not, it is left
        as it is, and rows that are added are kept in memory.

    Raises:
      SettingError: If the folder cannot be written, or holds results of another
        configuration.
    """
    self._directory = directory
    self._configuration = configuration
    self._fields = fields
    self._order_fn = order_fn
    self._file = file
    self.rows = []
    self._writes = writes
    if writes:
      self._check_writable(argument)
    path = self.path(file)
    if not os.path.exists(path):
      return
    expected = 'a new folder, or one of a run with the same settings'
    if argument == 'output_dir':
      expected += ', unless --overwrite is given'
    try:
      with open(path, encoding='utf-8') as f:
        content = json.load(f)
      found = {key: content[key] for key in configuration}
      rows = {self._cell(row): row for row in content['rows']}
    except (OSError, ValueError, KeyError, TypeError) as e:
      if overwrite:
        return
      got = f'{directory!r}, whose {file} cannot be read ({e!r})'
      raise SettingError(argument, expected, got) from e
    # Like the stored ones, these values have lists in place of tuples.
    configuration = json.loads(json.dumps(configuration))
    if found == configuration:
      self.rows = list(rows.values())
    elif not overwrite:
      different = files.differences(found, configuration)
      got = f'{directory!r}, which has {different}'
      raise SettingError(argument, expected, got)

  def _check_writable(self, argument):
    try:
      for folder in (self._directory, self.path('cells')):
        files.open_folder(folder)
    except OSError as e:
      raise SettingError(
        argument,
        'a folder that can be written',
        f'{self._directory!r} ({e.strerror or e})',
      ) from e

  def _cell(self, row):
    return tuple(row[field] for field in self._fields)

  def path(self, *names: str) -> str:
    """Returns the path of a file in the folder."""
    return os.path.join(self._directory, *names)

  def _arrays_path(self, *cell):
    return self.path('cells', '-'.join(map(str, cell)) + '.npz')

  def row(self, *cell):
    """Returns the row of a cell; `None` if it is not finished."""
    for row in self.rows:
      if self._cell(row) == cell:
        return row
    return None

  def arrays(self, *cell):
    """Returns the arrays of a cell; `None` if they are missing or damaged."""
    try:
      # The file is opened here, because NumPy does not close a damaged file.
      with open(self._arrays_path(*cell), 'rb') as f, np.load(f) as saved:
        return dict(saved)
    except (
      *(OSError, ValueError, EOFError, KeyError),
      *(zipfile.BadZipFile, zlib.error),
    ):
      return None

  def has(self, *cell) -> bool:
    """Returns whether a cell is finished."""
    return self.row(*cell) is not None and self.arrays(*cell) is not None

  def add(self, row: dict, arrays: dict | None = None) -> None:
    """Adds a cell; if interrupted, the folder has either all of it or nothing.

    Args:
      row: Python `dict`, of values that JSON can hold.
      arrays: Python `dict` of arrays, if the cell has any.
        Default value: `None`.
    """
    cell = self._cell(row)
    if arrays is not None and self._writes:
      files.replace_file(
        self._arrays_path(*cell), lambda f: np.savez_compressed(f, **arrays)
      )
    rows = [r for r in self.rows if self._cell(r) != cell]
    self.rows = sorted(
      rows + [row], key=lambda r: self._order_fn(*self._cell(r))
    )
    if not self._writes:
      return
    content = json.dumps(
      {**self._configuration, 'rows': self.rows}, indent=2, allow_nan=False
    )
    files.replace_file(
      self.path(self._file), lambda f: f.write(content.encode() + b'\n')
    )


def open_output(
  settings, fields: list, order_fn: Callable, writes: bool = True
) -> Store:
  """Opens the output folder of an experiment.

  Args:
    settings: `Settings` with `output_dir` and `overwrite`.
    fields: As in `Store`.
    order_fn: As in `Store`.
    writes: As in `Store`.
      Default value: `True`.

  Returns:
    store: `Store`.
  """
  configuration = {**settings.configuration, 'versions': _versions()}
  return Store(
    settings.output_dir,
    configuration,
    fields,
    order_fn,
    settings.overwrite,
    writes=writes,
  )


def finish(
  store: Store,
  rows: list,
  figures: Mapping,
) -> Results:
  """Writes figures to the output folder, and prints its contents.

  Args:
    store: `Store`.
    rows: List of Python `dict`s: the rows asked for.
    figures: Python `dict` from names of PNG files, without the ending, to
      figures.

  Returns:
    results: `Results`.
  """
  pictures = []
  for name, figure in figures.items():
    pictures.append(store.path(f'{name}.png'))
    files.replace_file(
      pictures[-1], lambda f, figure=figure: figure.savefig(f, format='png')
    )
  print('\nWritten:')
  for path in [store.path('metrics.json'), *pictures]:
    print(f'  {path}')
  return Results(rows, pictures)

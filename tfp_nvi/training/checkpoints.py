# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder of checkpoints that survives a kill at any moment.

Contract: a checkpoint is one file, which gets its name only when it is complete
and on disk. Variables, arrays and the description of what they belong to can
therefore never be of different steps, and a process that is killed leaves the
checkpoint before. Each file has checksums; one that is damaged is passed over
for the one before it, with a warning.
"""

import io
import json
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import checks, files

__all__ = [
  'Checkpoints',
]

_NAME = re.compile(r'checkpoint-(\d+)\.npz')
_LITTER = re.compile(r'checkpoint-\d+\.npz\.part')
# All that reading a damaged zip archive of arrays was seen to raise.
_READ_ERRORS = (
  OSError,
  ValueError,
  KeyError,
  EOFError,
  RuntimeError,
  MemoryError,
  SyntaxError,
  zipfile.BadZipFile,
  zlib.error,
)


class Checkpoints:
  """Saves and restores variables and arrays, in a folder.

  ```python
  import tempfile
  import numpy as np
  import tensorflow as tf
  import tfp_nvi as nvi

  with tempfile.TemporaryDirectory() as folder:
    variable = tf.Variable(1.0)
    settings = {'learning_rate': 0.1}
    checkpoints = nvi.training.Checkpoints(folder, settings)
    checkpoints.save(10, [variable], {'loss': np.zeros([10])})
    variable.assign(2.0)
    step, arrays = checkpoints.restore([variable])
  assert step == 10 and variable == 1.0 and arrays['loss'].shape == (10,)
  ```
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    settings: dict,
    max_to_keep: int = 2,
    name: str = 'checkpoint_dir',
    writes: bool = True,
  ):
    """Opens or makes a folder, and removes what killed writes left in it.

    Args:
      folder: Python `str` or `os.PathLike`.
      settings: Python `dict`, of what JSON can hold: what checkpoints belong
        to. Those of other settings are not restored.
      max_to_keep: Python `int`: how many checkpoints to keep.
        Default value: `2`.
      name: Python `str`: the argument that the user gave the folder by, for
        errors.
        Default value: `'checkpoint_dir'`.
      writes: Python `bool`: whether the folder is to be written. If not, it is
        left as it is, even if it does not exist.
        Default value: `True`.

    Raises:
      TypeError: If `folder` is not a path.
      ValueError: If it cannot be written.
    """
    self._name = name
    self._folder = checks.as_folder(name, folder)
    self._settings = _as_json(settings)
    self._max_to_keep = checks.as_count('max_to_keep', max_to_keep)
    checks.check_bool('writes', writes)
    if not writes:
      return
    try:
      files.open_folder(self._folder)
      for file in os.listdir(self._folder):
        if _LITTER.fullmatch(file):
          os.remove(os.path.join(self._folder, file))
    except OSError as e:
      raise ValueError(
        f'`{name}` must be a folder that can be written; got '
        f'{self._folder!r} ({e.strerror}).'
      ) from e

  @property
  def steps(self) -> list[int]:
    """The steps of which there is a file, in order."""
    if not os.path.isdir(self._folder):
      return []
    matches = map(_NAME.fullmatch, os.listdir(self._folder))
    return sorted(int(match[1]) for match in matches if match)

  def _path(self, step):
    return os.path.join(self._folder, f'checkpoint-{step}.npz')

  def save(
    self,
    step: int,
    variables: Sequence[tf.Variable],
    arrays: dict | None = None,
  ) -> None:
    """Saves a checkpoint, and removes those that are not kept.

    Args:
      step: Python `int`, not negative.
      variables: List of variables.
      arrays: Python `dict` from names to NumPy arrays.
        Default value: `None` (i.e., none).

    Raises:
      OSError: If the file cannot be written; earlier ones stay.
    """
    content = {
      'header': np.array(
        json.dumps({'step': step, 'settings': self._settings})
      ),
      **{f'array/{k}': np.asarray(v) for k, v in (arrays or {}).items()},
      **{f'variable/{i}': _value(v) for i, v in enumerate(variables)},
    }
    files.replace_file(self._path(step), lambda f: np.savez(f, **content))
    steps = self.steps
    # Training went on from before a later step, whose file was damaged.
    useless = [later for later in steps if later > step]
    earlier = steps[: len(steps) - len(useless)]
    for old in useless + earlier[: -self._max_to_keep]:
      os.remove(self._path(old))

  def restore(
    self, variables: Sequence[tf.Variable], stacklevel: int = 2
  ) -> tuple[int, dict] | None:
    """Restores the latest checkpoint that is not damaged.

    Args:
      variables: List of variables, as they were saved.
      stacklevel: Python `int`: that of a warning of damaged files.
        Default value: `2`.

    Returns:
      step: Python `int`.
      arrays: Python `dict` of NumPy arrays. In place of both, `None` if there
        is no checkpoint.

    Raises:
      ValueError: If there are checkpoints but all of them are damaged, or they
        are of other settings or other variables.
    """
    damages = []
    for step in reversed(self.steps):
      try:
        content = _read(self._path(step))
        header = json.loads(str(content.pop('header')))
        if header['step'] != step:
          raise ValueError(f'it is of step {header["step"]}')
        settings = header['settings']
      except _READ_ERRORS as e:
        damages.append(f'{self._path(step)!r} ({e!r})')
        continue
      self._check_settings(settings)
      _assign(variables, content, self._folder, self._name)
      if damages:
        warnings.warn(
          f'`{self._name}`: {", ".join(damages)} cannot be read; going on from '
          f'{self._path(step)!r}, which is whole.',
          stacklevel=stacklevel,
        )
      return step, {
        key.removeprefix('array/'): value
        for key, value in content.items()
        if key.startswith('array/')
      }
    if damages:
      raise ValueError(
        f'`{self._name}` {self._folder!r} has only damaged checkpoints: '
        f'{", ".join(damages)} cannot be read. Remove the folder to begin '
        'anew, or bring back its files.'
      )
    return None

  def _check_settings(self, found):
    different = files.differences(found, self._settings)
    if different:
      raise ValueError(
        f'`{self._name}` {self._folder!r} holds training with other arguments: '
        f'{different}. Give another folder, or the arguments as '
        'they were.'
      )


def _as_json(settings):
  """Settings as they are after they were written and read."""
  return json.loads(json.dumps(settings, default=str))


def _value(variable):
  """The value of a variable, in a dtype that files of NumPy know."""
  value = np.asarray(tf.convert_to_tensor(variable))
  # NumPy writes bfloat16 and its like as raw bytes, and does not read them.
  return value if _is_known(value.dtype) else value.view(f'u{value.itemsize}')


def _is_known(dtype):
  return dtype.isbuiltin == 1


def _read(path):
  """All arrays of a file, which is read whole before it is looked at."""
  with open(path, 'rb') as f:
    data = io.BytesIO(f.read())
  with zipfile.ZipFile(data) as archive:
    damaged = archive.testzip()
  if damaged is not None:
    raise zipfile.BadZipFile(f'checksum of {damaged}')
  data.seek(0)
  with np.load(data, allow_pickle=False) as arrays:
    return dict(arrays)


def _assign(variables, content, folder, name):
  """Gives variables their values, all of them or none."""
  values = []
  for i, variable in enumerate(variables):
    current = _value(variable)
    value = content.get(f'variable/{i}')
    if value is None or (value.shape, value.dtype) != (
      current.shape,
      current.dtype,
    ):
      raise ValueError(
        f'`{name}` {folder!r} holds training with other arguments: variable '
        f'{i} {None if value is None else value.shape}, now {current.shape}.'
      )
    dtype = np.asarray(tf.convert_to_tensor(variable)).dtype
    values.append(value if _is_known(dtype) else value.view(dtype))
  if f'variable/{len(values)}' in content:
    raise ValueError(
      f'`{name}` {folder!r} holds training with other arguments: more than '
      f'{len(values)} variables.'
    )
  for variable, value in zip(variables, values, strict=True):
    variable.assign(value)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of files that survive a kill at any moment."""

import contextlib
import os
import tempfile
from collections.abc import Callable

__all__ = [
  'differences',
  'open_folder',
  'replace_file',
]


def open_folder(folder: str) -> None:
  """Makes a folder if there is none, and tries to write to it.

  Args:
    folder: Python `str`.

  Raises:
    OSError: If it cannot be written.

  ```python
  import os
  from tfp_nvi.internal import files

  files.open_folder('results')
  assert os.path.isdir('results')
  ```
  """
  os.makedirs(folder, exist_ok=True)
  with tempfile.TemporaryFile(dir=folder):
    pass


def replace_file(path: str, write_fn: Callable) -> None:
  """Writes a file under another name first, so that it is never incomplete.

  Args:
    path: Python `str`.
    write_fn: Python callable that writes to a binary file.

  Raises:
    OSError: If it cannot be written; an earlier file stays.

  ```python
  from tfp_nvi.internal import files

  files.replace_file('a', lambda f: f.write(b'content'))
  assert open('a').read() == 'content'
  ```
  """
  part = path + '.part'
  try:
    with open(part, 'wb') as f:
      write_fn(f)
      f.flush()
      # Otherwise a crash of the machine could leave the name without the
      # content.
      os.fsync(f.fileno())
    os.replace(part, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(part)
    raise


def differences(found: dict, now: dict) -> str:
  """Describes the settings that have changed, for an error.

  Args:
    found: Python `dict` of JSON values: the settings as they were.
    now: Likewise: the settings as they are.

  Returns:
    differences: Python `str`, empty if there are none.

  ```python
  from tfp_nvi.internal import files

  assert files.differences({'seed': 1}, {'seed': 2}) == 'seed 1, now 2'
  ```
  """
  return '; '.join(
    f'{key} {found.get(key)!r}, now {now.get(key)!r}'
    for key in sorted({*found, *now})
    if found.get(key) != now.get(key)
  )

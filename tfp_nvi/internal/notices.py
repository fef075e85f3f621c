# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Imports TensorFlow without its notices where this package is a program.

TensorFlow writes lines about processors and absent GPUs to stderr when it is
imported, before it reads the environment variable that is to turn them off.
Programs leave these lines out. After the import, TensorFlow writes nothing
below fatal errors to stderr in programs, as its notices of absent devices are
errors too; errors that matter come as exceptions. Where the package is imported
by other code, nothing happens here, and that code sees all notices.
"""

import contextlib
import importlib
import os
import pathlib
import re
import sys
import tempfile

__all__ = [
  'import_quietly',
  'is_notice',
  'is_program',
  'without_notices',
]

_PACKAGE = 'tfp_nvi'
_SCRIPT = 'tfp-nvi'
_FOLDER = pathlib.Path(__file__).resolve().parents[1]
# Lines of the C++ logger: its header, information and, in versions before 2.19,
# errors about CUDA plug-ins that are registered twice.
_NOTICE = re.compile(
  r'WARNING: All log messages before absl::InitializeLog'
  r'|I0000 '
  r'|[EW]0000 .*(cuda|computation_placer)'
  r'|\d{4}-\d\d-\d\d .*: (I |E .*cuda|W .*TensorRT)'
  r'|To enable the following instructions: '
)


def is_program(argv: list[str], original: list[str]) -> bool:
  """Returns whether a process is a program of this package, or a worker of one.

  Args:
    argv: As `sys.argv` is when this package is imported.
    original: As `sys.orig_argv` is.

  Returns:
    is_program: Python `bool`.

  ```python
  from tfp_nvi.internal import notices

  assert notices.is_program(['-m'], ['python', '-m', 'tfp_nvi', 'hmm'])
  assert not notices.is_program(['-m'], ['python', '-m', 'pytest'])
  ```
  """
  first = argv[0] if argv else ''
  if first == '-m':
    # The parent package of the module that is to run.
    module = original[original.index('-m') + 1] if '-m' in original else ''
    return module.partition('.')[0] == _PACKAGE
  path = pathlib.Path(first)
  return path.stem == _SCRIPT or _FOLDER in path.parents


def is_notice(line: str) -> bool:
  """Returns whether a line on stderr is a notice of TensorFlow.

  ```python
  from tfp_nvi.internal import notices

  assert notices.is_notice('I0000 00:00:1795654227 1 cpu.cc:1] No GPU.')
  assert not notices.is_notice('ImportError: no such module')
  ```
  """
  return _NOTICE.match(line) is not None


@contextlib.contextmanager
def without_notices():
  """Holds back the output to stderr, and shows it without notices.

  ```python
  from tfp_nvi.internal import notices

  with notices.without_notices():
    pass
  ```
  """
  try:
    sys.stderr.flush()
    kept = os.dup(2)
  except (AttributeError, OSError, ValueError):
    yield  # There is no stderr.
    return
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(kept, 2)
      os.close(kept)
      file.seek(0)
      lines = file.read().decode('utf-8', 'replace').splitlines()
      shown = [line for line in lines if not is_notice(line)]
      if shown:
        print('\n'.join(shown), file=sys.stderr)


def import_quietly() -> None:
  """Imports TensorFlow without notices in programs; elsewhere, does nothing.

  ```python
  from tfp_nvi.internal import notices

  notices.import_quietly()
  ```
  """
  if 'tensorflow' in sys.modules or not is_program(sys.argv, sys.orig_argv):
    return
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  with without_notices():
    for name in ('tensorflow', 'tensorflow_probability', 'tf_keras'):
      importlib.import_module(name)


import_quietly()

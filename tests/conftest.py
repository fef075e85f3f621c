# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of some files alone, with `pytest --part=1/4`.

TensorFlow keeps what XLA compiled for as long as a process lives, which for all
tests is many gigabytes. Parts have processes of their own; together they are
all files, whatever these are called.
"""

import importlib.metadata
import os
import pathlib

import pytest

# Tests compile many programs and run each of them a few times, so that they
# want a quick compiler. This is read when TensorFlow is imported, here and in
# the programs that tests start.
_XLA_FLAGS = ['--xla_backend_optimization_level=0']
try:
  _VERSION = importlib.metadata.version('tensorflow')
except importlib.metadata.PackageNotFoundError:
  _VERSION = '0.0'  # Installed by another name.
# Earlier versions end the process, as they do not know of the flag.
if tuple(map(int, _VERSION.split('.')[:2])) >= (2, 21):
  _XLA_FLAGS.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(_XLA_FLAGS))


def pytest_addoption(parser):
  parser.addoption(
    '--part',
    help='Which of how many parts of the test files to run, such as 1/4.',
  )


def _parse_part(text):
  """The number of a part, from zero, and how many there are."""
  try:
    part, num_parts = map(int, text.split('/'))
    if not 1 <= part <= num_parts:
      raise ValueError
  except ValueError as e:
    raise pytest.UsageError(
      f'--part must be a number from 1 on, a slash, and how many parts there '
      f'are; got {text!r}.'
    ) from e
  return part - 1, num_parts


def pytest_ignore_collect(collection_path, config):
  """Leaves out the files of other parts, which are not even imported then."""
  if config.getoption('part') is None or collection_path.is_dir():
    return None
  part, num_parts = _parse_part(config.getoption('part'))
  paths = sorted(pathlib.Path(__file__).resolve().parent.rglob('*_test.py'))
  is_chosen = collection_path.resolve() in paths[part::num_parts]
  return None if is_chosen else True

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests of experiments: their programs and output folders."""

import json
import subprocess
import sys

import pytest


def read(folder):
  """The content of `metrics.json`."""
  return json.loads((folder / 'metrics.json').read_text('utf-8'))


def run_program(name, *arguments, timeout=300, **kwargs):
  """Runs `python -m tfp_nvi.experiments.name`; returns what it did."""
  return subprocess.run(
    [sys.executable, '-m', f'tfp_nvi.experiments.{name}', *arguments],
    capture_output=True,
    text=True,
    timeout=timeout,
    **kwargs,
  )


def check_names_flag(name, arguments, problem):
  """Checks that a program ends with an error that names a flag."""
  result = run_program(name, *arguments)
  assert result.returncode == 1
  assert problem in result.stderr
  assert 'Traceback' not in result.stderr


def check_refuses(run_fn, setting, value, problem, folder):
  """Checks that a wrong setting is an error, before anything is written."""
  with pytest.raises(ValueError, match=f'^`{setting}` must be .*{problem}'):
    run_fn(**{'output_dir': str(folder), setting: value})
  assert not folder.exists()


def check_refuses_folders(run_fn, tmp_path):
  """Checks that folders that cannot be written are errors."""
  (tmp_path / 'file').write_text('')
  for folder in (tmp_path / 'file', tmp_path / 'file' / 'folder', ''):
    with pytest.raises(ValueError, match='^`output_dir` must be a folder that'):
      run_fn(output_dir=str(folder))
  with pytest.raises(TypeError, match='^`output_dir` must be a path'):
    run_fn(output_dir=None)


def check_pictures(paths):
  """Checks that pictures are PNG files of sensible sizes."""
  for path in paths:
    with open(path, 'rb') as f:
      content = f.read()
    assert content.startswith(b'\x89PNG')
    assert 5_000 < len(content) < 400_000

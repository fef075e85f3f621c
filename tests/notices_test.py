# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Programs start without the notices of TensorFlow, and with all else."""

import os
import pathlib
import subprocess
import sys

import pytest

import tfp_nvi
from tfp_nvi.internal import notices

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path(tfp_nvi.__file__).parent
TIME = '2025-01-02 10:11:12.131415:'
NOTICES = f"""\
WARNING: All log messages before absl::InitializeLog() is called are written to
I0000 00:00:1795654227.325956   27104 port.cc:153] oneDNN custom operations
E0000 00:00:1795654227.325956   27104 cuda_dnn.cc:8310] Unable to register
{TIME} E xla/stream_executor/cuda/cuda_fft.cc:477] Unable to register
{TIME} I tensorflow/core/platform/cpu_feature_guard.cc:210] This binary is
To enable the following instructions: AVX2 FMA, in other operations, rebuild
"""
OTHER = f"""\
E0000 00:00:1795654227.325956   27104 memory.cc:1] Out of memory
{TIME} W tensorflow/core/framework/op.cc:10] Deprecated
Traceback (most recent call last):
ImportError: no such module
"""


@pytest.mark.parametrize(
  ('argv', 'original', 'expected'),
  [
    (['-m', 'hmm'], ['python', '-m', 'tfp_nvi', 'hmm'], True),
    (['-m'], ['python', '-W', 'error', '-m', 'tfp_nvi.experiments.hmm'], True),
    (['-m'], ['python', '-m', 'pytest'], False),
    (['-m'], ['python', '-m', 'tfp_nvi_more'], False),
    (['/usr/bin/tfp-nvi', 'hmm'], ['python', '/usr/bin/tfp-nvi', 'hmm'], True),
    # A worker has the arguments of the program that started it.
    ([str(FOLDER / 'experiments/hmm/__main__.py')], ['python', '-c'], True),
    (['train.py'], ['python', 'train.py'], False),
    (['-c'], ['python', '-c', 'import tfp_nvi'], False),
    (['/kernels/launcher.py', '-f', 'x'], ['python', '-m', 'launcher'], False),
    ([''], ['python'], False),
    ([], ['python'], False),
  ],
)
def test_is_program(argv, original, expected):
  assert notices.is_program(argv, original) is expected


def test_notices_alone_are_left_out(capfd):
  with notices.without_notices():
    # As C++ does, past Python's own stream.
    os.write(2, (NOTICES + OTHER).encode())
  os.write(2, b'afterwards\n')
  assert capfd.readouterr().err == f'{OTHER}afterwards\n'


def test_what_fails_is_shown(capfd):
  with pytest.raises(ZeroDivisionError):
    with notices.without_notices():
      os.write(2, b'the reason\n')
      raise ZeroDivisionError
  assert capfd.readouterr().err == 'the reason\n'


@pytest.mark.parametrize(
  ('arguments', 'output'),
  [
    ([], 'annealing'),
    # One that computes, as devices have notices of their own.
    (
      'annealing --method=nvi --num_densities=2 --num_restarts=1 '
      '--num_steps=2'.split(),
      'log Z',
    ),
  ],
)
def test_programs_run_without_notices(arguments, output, tmp_path):
  environment = {
    name: value
    for name, value in os.environ.items()
    if name != 'TF_CPP_MIN_LOG_LEVEL'
  }
  result = subprocess.run(
    [sys.executable, '-m', 'tfp_nvi', *arguments],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0
  assert output in result.stdout
  assert result.stderr == ''

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Importing the package imports nothing large beside TensorFlow's packages."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
import json
import sys

import tensorflow
import tensorflow_probability as tfp

tfp.distributions.Normal  # All of it is loaded when it is used.
tfp.bijectors.Exp
tfp.mcmc.sample_chain
tfp.vi.kl_reverse
before = set(sys.modules)
import tfp_nvi
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_is_light():
  result = subprocess.run(
    [sys.executable, '-c', PROGRAM], capture_output=True, text=True, cwd=ROOT
  )
  assert result.returncode == 0, result.stderr
  names = json.loads(result.stdout)
  assert 'tfp_nvi.sampler' in names
  # Neither pictures nor what extras install, nor the programs.
  tops = {name.partition('.')[0] for name in names}
  assert tops <= {'tfp_nvi', 'tqdm'}
  assert not [x for x in names if x.startswith('tfp_nvi.experiments')]

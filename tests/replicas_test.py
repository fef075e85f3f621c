# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Replicas of strategies give what one replica gives.

Processes are started by these tests on ports that the system chooses, and are
killed with them.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfp_nvi as nvi
from tests import replicas_program as program
from tfp_nvi.experiments import common

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 900


def free_ports(count):
  """Ports that nothing listens at."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for s in sockets:
      s.bind(('127.0.0.1', 0))
    return [s.getsockname()[1] for s in sockets]


def cluster(num_workers):
  return {'worker': [f'127.0.0.1:{port}' for port in free_ports(num_workers)]}


@contextlib.contextmanager
def started(*commands):
  """Processes of Python with environments of their own, killed at the end."""
  processes = [
    subprocess.Popen(
      [sys.executable, *arguments],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for arguments, environment in commands
  ]
  try:
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.communicate()


def outputs(processes):
  """Waits for processes; their exit codes and what they printed."""
  texts = [p.communicate(timeout=SECONDS)[0] for p in processes]
  return [p.returncode for p in processes], texts


def task(spec, index):
  tf_config = {'cluster': spec, 'task': {'type': 'worker', 'index': index}}
  return {'TF_CONFIG': json.dumps(tf_config)}


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
  """The results of one replica, which runs all islands in turn."""
  path = tmp_path_factory.mktemp('one') / 'one.npz'
  program.run_all(tf.distribute.OneDeviceStrategy('CPU:0'), path)
  with np.load(path) as found:
    return dict(found)


def check_same(path, expected):
  with np.load(path) as found:
    for name in found:
      np.testing.assert_allclose(
        found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
      )
    return set(found)


@pytest.mark.xdist_group('replicas')
def test_logical_replicas_of_one_process(tmp_path, expected):
  path = tmp_path / 'mirrored.npz'
  command = ['-m', 'tests.replicas_program', 'mirrored', str(path)]
  with started((command, {})) as processes:
    codes, texts = outputs(processes)
  assert codes == [0], texts[0][-3_000:]
  assert check_same(path, expected) == set(expected)


@pytest.mark.slow
def test_sequences_on_logical_replicas(tmp_path):
  path = tmp_path / 'filter.npz'
  command = ['-m', 'tests.replicas_program', 'mirrored', str(path), '']
  with started(([*command, '--filter'], {})) as processes:
    codes, texts = outputs(processes)
  assert codes == [0], texts[0][-3_000:]
  expected = program.run_filter(tf.distribute.OneDeviceStrategy('CPU:0'))
  assert check_same(path, expected) == set(expected)


@pytest.mark.slow
@pytest.mark.xdist_group('replicas')
def test_worker_that_is_killed(tmp_path, expected):
  spec = cluster(2)
  folder = tmp_path / 'checkpoints'
  commands = [
    (
      [
        *('-m', 'tests.replicas_program', 'multi_worker'),
        *(str(tmp_path / f'{i}.npz'), str(folder), '--die'),
      ],
      task(spec, i),
    )
    for i in range(2)
  ]
  with started(*commands) as processes:
    codes, texts = outputs(processes)
  assert codes[1] == -9 and codes[0] != 0
  # TensorFlow names the worker that is missing.
  assert 'task:1' in texts[0]
  for i in range(2):
    found = check_same(tmp_path / f'{i}.npz', expected)
    assert {'plain/particles', 'first'} <= found
  steps = nvi.training.Checkpoints(folder, {}, writes=False).steps
  assert steps and 0 < steps[-1] < 12
  # One replica goes on where two were.
  sampler = program.make_sampler()
  history = program.fit(sampler, None, checkpoint_dir=folder)
  np.testing.assert_allclose(history.loss, expected['loss'], rtol=1e-4)
  # With other islands it would be other training.
  with pytest.raises(ValueError, match='num_islands'):
    program.fit(sampler, None, checkpoint_dir=folder, num_islands=2)


@pytest.mark.slow
def test_workers_that_are_killed_at_random_moments(tmp_path):
  """Ten kills, of either worker, each followed by a start of both."""
  folder = tmp_path / 'checkpoints'
  rng = np.random.default_rng(1)
  # A kill is a random time after a random step; some are while the checkpoint
  # of that step or of the next one is written.
  moments = np.sort(rng.integers(0, program.LONG - 30, size=10))

  def last_step():
    steps = nvi.training.Checkpoints(folder, {}, writes=False).steps
    return steps[-1] if steps else -1

  def start():
    spec = cluster(2)
    return started(
      *(
        (
          [
            *('-m', 'tests.replicas_program', 'multi_worker'),
            *(str(tmp_path / f'{i}.npz'), str(folder), '--train'),
          ],
          task(spec, i),
        )
        for i in range(2)
      )
    )

  for moment in moments:
    with start() as processes:
      deadline = time.monotonic() + SECONDS
      while last_step() < moment:
        codes = [p.poll() for p in processes]
        assert codes == [None, None], processes[0].communicate()[0][-3_000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
      time.sleep(rng.uniform(0.0, 0.1))
      # The other one is killed at the end of the block, as a launcher does.
      processes[rng.integers(2)].kill()
  assert last_step() < program.LONG
  with start() as processes:
    codes, texts = outputs(processes)
  assert codes == [0, 0], texts[0][-3_000:]
  expected = program.train(None, None)
  for i in range(2):
    assert check_same(tmp_path / f'{i}.npz', expected) == {'loss', 'scale'}


def test_worker_that_is_absent(monkeypatch):
  monkeypatch.setenv('TF_CONFIG', task(cluster(2), 0)['TF_CONFIG'])
  with pytest.raises(TimeoutError, match=r'/job:worker/task:1 at 127\.0\.0\.1'):
    common.make_strategy('multi_worker', timeout_seconds=0.5)


def test_bad_arguments():
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  sampler = program.make_sampler()
  with pytest.raises(ValueError, match='`sampler` must be made inside of'):
    program.fit(sampler, strategy)
  with strategy.scope():
    with pytest.raises(ValueError, match='`strategy` must be given inside'):
      nvi.fit(sampler, nvi.reverse_kl(), 4, 1)
    sampler = program.make_sampler()
  with pytest.raises(ValueError, match='`optimizer` must be made inside of'):
    program.fit(sampler, strategy, optimizer=tf_keras.optimizers.Adam())
  with pytest.raises(TypeError, match='`optimizer` must be one of tf_keras'):
    program.fit(sampler, strategy, optimizer='adam')
  with pytest.raises(ValueError, match='`num_particles` must be a multiple'):
    nvi.fit(sampler, nvi.reverse_kl(), 4, 1, strategy=strategy, num_islands=3)
  with pytest.raises(ValueError, match='`data` must be a multiple'):
    program.fit(
      program.Instances(),
      strategy,
      data=program.make_data().unbatch().batch(6, drop_remainder=True),
    )
  with strategy.scope():
    instances = program.Instances()
  with pytest.raises(ValueError, match='`sampler` must have the mini-batch'):
    program.fit(
      lambda x: instances(tf.reduce_mean(x)), strategy, data=program.make_data()
    )

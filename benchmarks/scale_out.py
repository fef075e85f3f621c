# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Two workers on a core each, beside one worker on one core.

```shell
python -m benchmarks.scale_out --output_dir=results/benchmarks
```

Samples and trains NVIR\* of the annealing experiment with K = 8, in as many
islands as there are workers at most, so that both run the same islands: one
worker in turn, two workers at the same time. Workers are processes of their own
that `taskset` ties to a core, joined by `tf.distribute` over the loopback
interface; they print medians over calls that are repeated. The time in
collectives is that of the same collectives without work in between. Writes
`scale_out.json` and `scale_out.png`.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import tensorflow as tf
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting
from tfp_nvi.experiments import annealing, common
from tfp_nvi.internal import replicas as replicas_lib

__all__ = [
  'efficiency',
  'main',
  'measure',
]

_NUM_DENSITIES = 8
_TIMEOUT = 600.0
_PACKAGES = ('tensorflow', 'tensorflow-probability', 'tf-keras', 'numpy')


def _median(fn, repetitions):
  """The median duration of a call, after one that compiles."""
  fn()
  seconds = []
  for _ in range(repetitions):
    start = time.perf_counter()
    fn()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def _collective(replicas, shape, repetitions, is_sum):
  """The duration of one collective, of an array for each island."""
  values = tf.zeros([replicas.num_local, *shape])

  def run():
    if not is_sum:
      return replicas.gather(values)
    context = tf.distribute.get_replica_context()
    return context.all_reduce('SUM', tf.reduce_sum(values, axis=0))

  fn = tf.function(lambda: replicas.first(replicas.run(run)), autograph=False)
  return _median(lambda: fn().numpy(), repetitions)


def _work(num_islands, num_sampled, num_trained, repetitions):
  """Measures in the process of a worker, and prints a row."""
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(2)
  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  if 'TF_CONFIG' in os.environ:
    strategy = common.make_strategy('multi_worker', _TIMEOUT)
  with strategy.scope():
    sampler, objective = annealing.make_sampler(
      'nvir_star', nvi.targets.ring_of_gaussians(), _NUM_DENSITIES, seed=1
    )
  seeds = iter(range(1_000_000))
  kwargs = dict(strategy=strategy, num_islands=num_islands)
  sampling = _median(
    lambda: sampler.sample(num_sampled, next(seeds), **kwargs), repetitions
  )
  history = nvi.fit(
    sampler,
    objective,
    num_trained,
    num_steps=10 * repetitions,
    seed=1,
    steps_per_call=10,
    progress=False,
    **kwargs,
  )
  replicas = replicas_lib.Replicas(strategy, num_islands)
  size = sum(v.shape.num_elements() for v in sampler.trainable_variables)
  row = {
    'num_workers': strategy.num_replicas_in_sync,
    'num_islands': num_islands,
    'sample_seconds': sampling,
    'step_seconds': 1e-6 * history.microseconds_per_step,
    # States, weights, roots, and what is counted.
    'gather_seconds': _collective(
      replicas, [num_sampled // num_islands * 4 + 2], repetitions, False
    ),
    'reduce_seconds': _collective(replicas, [size], repetitions, True),
  }
  print(f'row: {json.dumps(row)}', flush=True)


def _ports(count):
  sockets = [socket.socket() for _ in range(count)]
  for s in sockets:
    s.bind(('127.0.0.1', 0))
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return ports


def measure(num_workers, *arguments):
  """Measures workers that run at the same time, each on one core.

  Args:
    num_workers: Python `int`.
    *arguments: Python `int`s: islands, particles to sample, particles to train
      with, and repetitions.

  Returns:
    row: Python `dict`: that of the first worker.
  """
  cluster = {'worker': [f'127.0.0.1:{port}' for port in _ports(num_workers)]}
  processes = []
  try:
    for i in range(num_workers):
      environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'}
      if num_workers > 1:
        environment['TF_CONFIG'] = json.dumps(
          {'cluster': cluster, 'task': {'type': 'worker', 'index': i}}
        )
      tie = ['taskset', '-c', str(i)] if shutil.which('taskset') else []
      command = [sys.executable, '-m', 'benchmarks.scale_out', '--worker']
      processes.append(
        subprocess.Popen(
          [*tie, *command, '--arguments=' + ','.join(map(str, arguments))],
          env=environment,
          stdout=subprocess.PIPE,
          text=True,
        )
      )
    outputs = [p.communicate(timeout=_TIMEOUT)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  for line in outputs[0].splitlines():
    if line.startswith('row: '):
      return json.loads(line.removeprefix('row: '))
  raise RuntimeError(f'A worker ended with {processes[0].returncode}.')


def efficiency(one, many):
  """How much faster several workers are than one.

  Args:
    one: Row of one worker.
    many: Row of several.

  Returns:
    speedups: Python `dict` by `'sample'` and `'step'`.

  ```python
  one = {'sample_seconds': 2.0, 'step_seconds': 1.0}
  many = {'sample_seconds': 1.0, 'step_seconds': 0.8}
  assert efficiency(one, many) == {'sample': 2.0, 'step': 1.25}
  ```
  """
  return {
    name: one[f'{name}_seconds'] / many[f'{name}_seconds']
    for name in ('sample', 'step')
  }


def _draw(rows):
  """Times of a worker, with the part that collectives take."""
  with reporting.style():
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.0))
    for ax, name, collective in zip(
      axes, ('sample', 'step'), ('gather', 'reduce'), strict=True
    ):
      labels = [str(row['num_workers']) for row in rows]
      ax.bar(labels, [1e3 * row[f'{name}_seconds'] for row in rows])
      ax.bar(
        labels,
        [1e3 * row[f'{collective}_seconds'] for row in rows],
        label='collectives',
      )
      ax.set_xlabel('workers, one core each')
      ax.set_ylabel(f'milliseconds for a {name}')
    axes[0].legend()
  return figure


def main(argv):
  """Measures and prints.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  values = flags.FLAGS
  if values.worker:
    _work(*map(int, values.arguments))
    return
  os.makedirs(values.output_dir, exist_ok=True)
  arguments = (2, values.num_sampled, values.num_trained, values.repetitions)
  rows = [measure(n, *arguments) for n in (1, 2)]
  speedups = efficiency(*rows)
  print('| workers | sample, ms | gather, ms | step, ms | reduce, ms |')
  print('|---|---|---|---|---|')
  for row in rows:
    cells = ('sample', 'gather', 'step', 'reduce')
    times = ' | '.join(f'{1e3 * row[f"{x}_seconds"]:.2f}' for x in cells)
    print(f'| {row["num_workers"]} | {times} |')
  print(
    f'Two workers are {speedups["sample"]:.2f} times as fast in sampling and '
    f'{speedups["step"]:.2f} times in training.'
  )
  path = os.path.join(values.output_dir, 'scale_out')
  reporting.save(
    path,
    {
      'machine': reporting.machine(),
      'versions': reporting.versions(_PACKAGES),
      'rows': rows,
      'speedups': speedups,
    },
    _draw(rows),
  )
  print(f'See {path}.json')


if __name__ == '__main__':
  flags.DEFINE_integer('num_sampled', 100_000, 'Particles of a sample.')
  flags.DEFINE_integer('num_trained', 10_000, 'Particles of a training step.')
  flags.DEFINE_integer('repetitions', 20, 'Calls that are timed.')
  flags.DEFINE_string('output_dir', 'results/benchmarks', 'Folder to write to.')
  flags.DEFINE_bool('worker', False, 'Whether this is a worker, of a program.')
  flags.DEFINE_list('arguments', [], 'What the program tells its workers.')
  app.run(main)

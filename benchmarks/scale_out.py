# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Two workers on a core each, beside one worker on one core.

```shell
python -m benchmarks.scale_out --output_dir=results/benchmarks
```

- `ring`: samples from NVIR\* of the annealing experiment with K = 8.
- `regression`: samples the posterior of a logistic regression with 61
  coefficients, by Langevin transitions through K = 4 densities.
- `training`: takes training steps of the first one.

One worker has no strategy. Two are joined by `tf.distribute` over the loopback
interface, and each has an island of half of the particles. Every worker is a
process that is bound to a core. One and two take turns, so that other work on
the machine hits both; the speedup is the median over turns of the ratio of
their medians. That of processor time, of the busier one of two workers, says
what it would be on a machine that does nothing else, but for the collectives,
which are timed by themselves, without work in between. A projection to more
workers follows from both. Writes `scale_out.json` and `scale_out.png`.
"""

import concurrent.futures
import json
import os
import socket
import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting, workers
from tfp_nvi.experiments import annealing, common
from tfp_nvi.internal import randomness
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.training import replicated
from tfp_nvi.training import steps as steps_lib

tfd = tfp.distributions

__all__ = [
  'TASKS',
  'Work',
  'main',
  'measure',
  'project',
  'projections',
  'regression_sampler',
  'summarize',
]

TASKS = ('ring', 'regression', 'training')
_NUM_COEFFICIENTS = 61
_NUM_ROWS = 208
# Training steps in a call.
_NUM_STEPS = 5
_TIMEOUT = 900.0
# How much faster than a core, seconds of a message, and bytes a second: a core
# and what was measured (`None`); and a GPU, as `benchmarks.devices` measured a
# training step with 10,000 particles, with messages as they are assumed to be.
_DEVICES = {'cores': (1.0, None, None), 'GPUs': (30.0, 20e-6, 25e9)}
_NUM_WORKERS = (1, 8, 64, 512)
_PACKAGES = ('tensorflow', 'tensorflow-probability', 'tf-keras', 'numpy')


def regression_sampler():
  """A sampler of the posterior of a simulated logistic regression."""
  rng = np.random.default_rng(1)
  features = rng.normal(size=[_NUM_ROWS, _NUM_COEFFICIENTS - 1])
  features = np.concatenate([np.ones([_NUM_ROWS, 1]), features], axis=1)
  logits = features @ rng.normal(size=_NUM_COEFFICIENTS)
  is_one = rng.uniform(size=_NUM_ROWS) < 1.0 / (1.0 + np.exp(-logits))
  # Rows of zeros are turned round.
  signed = tf.constant(
    features * np.where(is_one, 1.0, -1.0)[:, None], 'float32'
  )
  zeros = tf.zeros([_NUM_COEFFICIENTS])
  prior = tfd.MultivariateNormalDiag(zeros, zeros + 1.0)

  def log_prob(w):
    log_likelihood = -tf.nn.softplus(-tf.matmul(w, signed, transpose_b=True))
    return prior.log_prob(w) + tf.reduce_sum(log_likelihood, axis=-1)

  path = nvi.GeometricPath(prior, log_prob, num_densities=4)
  return nvi.NestedSampler(path, nvi.LangevinTransitions(path))


class Work:
  """The measured calls, in the process of a worker.

  Args:
    core: Python `int`: the processor that the process is bound to.
    tf_config: Python `str` for `TF_CONFIG`; `None` for one worker.
    num_sampled: Python `int`: particles of a sample.
    num_trained: Python `int`: particles of a training step.
  """

  def __init__(self, core, tf_config, num_sampled, num_trained):
    if hasattr(os, 'sched_setaffinity'):
      os.sched_setaffinity(0, {core})
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    self._strategy = None
    if tf_config is not None:
      os.environ['TF_CONFIG'] = tf_config
      self._strategy = common.make_strategy('multi_worker', _TIMEOUT)
    self._num_sampled = num_sampled
    self._num_trained = num_trained
    self._calls = 0
    self._replicas = replicas_lib.Replicas(self._strategy)
    with self._replicas.strategy.scope():
      ring, objective = annealing.make_sampler(
        'nvir_star', nvi.targets.ring_of_gaussians(), 8, seed=1
      )
      self._samplers = {'ring': ring, 'regression': regression_sampler()}
      settings = steps_lib.StepSettings(
        make_sampler_fn=lambda element: ring,
        objective=objective,
        num_particles=num_trained,
        optimizer=tf_keras.optimizers.Adam(1e-3),
        variables=None,
        steps_per_call=_NUM_STEPS,
        jit_compile=True,
        element_spec=(),
        clip_factor=10.0,
        strict=False,
      )
    if self._strategy is None:
      self._steps = steps_lib.CompiledSteps(settings)
    else:
      self._steps = replicated.ReplicatedSteps(settings, self._replicas)

  def _call(self, task):
    self._calls += 1
    if task == 'training':
      first = _NUM_STEPS * self._calls
      self._steps.take(randomness.as_seed(1), first, first + _NUM_STEPS, ())
    else:
      self._samplers[task].sample(
        self._num_sampled, self._calls, strategy=self._strategy
      )

  def prepare(self, task):
    """Compiles a task.

    Args:
      task: Python `str`: one of `TASKS`.
    """
    self._call(task)

  def run(self, task, repetitions):
    """Measures a task.

    Args:
      task: Python `str`: one of `TASKS`.
      repetitions: Python `int`.

    Returns:
      seconds: Python `float`: the median duration of a call, or of a step.
      processor_seconds: Python `float`: likewise.
    """
    count = _NUM_STEPS if task == 'training' else 1
    found = []
    for _ in range(repetitions):
      start = time.perf_counter(), time.process_time()
      self._call(task)
      stop = time.perf_counter(), time.process_time()
      found.append([(b - a) / count for a, b in zip(start, stop, strict=True)])
    return [statistics.median(x) for x in zip(*found, strict=True)]

  def collective(self, task, repetitions):
    """Measures the collective of a task, without work.

    Args:
      task: Python `str`: one of `TASKS`.
      repetitions: Python `int`.

    Returns:
      seconds: Python `float`: the median duration of one.
      latency: Python `float`: likewise, of one that carries a single number.
      size: Python `int`: how many numbers a worker has.
    """
    if task == 'training':
      size = sum(v.shape.num_elements() for v in self._steps.variables)
    else:
      state = self._samplers[task].densities.event_shape.num_elements()
      # The state, weight and root of each particle.
      size = (state + 2) * self._num_sampled // self._replicas.num_islands
    seconds, latency = (
      self._time_collective(task == 'training', n, repetitions)
      for n in (size, 1)
    )
    return seconds, latency, size

  def _time_collective(self, is_sum, size, repetitions):
    """The median duration of a collective of so many numbers."""
    replicas = self._replicas
    values = tf.zeros([1, size])

    def run():
      if not is_sum:
        return replicas.gather(values)
      context = tf.distribute.get_replica_context()
      return context.all_reduce('SUM', values)

    fn = tf.function(lambda: replicas.first(replicas.run(run)), autograph=False)
    fn()
    seconds = []
    for _ in range(repetitions):
      start = time.perf_counter()
      fn().numpy()
      seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _ports(count):
  sockets = [socket.socket() for _ in range(count)]
  for s in sockets:
    s.bind(('127.0.0.1', 0))
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  return ports


def _together(team, *call):
  """Calls a method of several workers at the same time."""
  with concurrent.futures.ThreadPoolExecutor(len(team)) as pool:
    calls = [pool.submit(x.call, *call, timeout=_TIMEOUT) for x in team]
    return [call.result() for call in calls]


def measure(tasks, num_turns, repetitions, num_sampled, num_trained):
  """Measures one and two workers by turns.

  Args:
    tasks: List of Python `str`s of `TASKS`.
    num_turns: Python `int`.
    repetitions: Python `int`: calls of a turn.
    num_sampled: Python `int`: particles of a sample.
    num_trained: Python `int`: particles of a training step.

  Returns:
    rows: List of Python `dict`s: a turn of a task and a number of workers.
    collectives: Python `dict` of `dict`s, by tasks.
  """

  def start(core, tf_config=None):
    return workers.Worker(
      'benchmarks.scale_out:Work',
      {
        'core': core,
        'tf_config': tf_config,
        'num_sampled': num_sampled,
        'num_trained': num_trained,
      },
    )

  cluster = {'worker': [f'127.0.0.1:{port}' for port in _ports(2)]}
  configs = [
    json.dumps({'cluster': cluster, 'task': {'type': 'worker', 'index': i}})
    for i in range(2)
  ]
  teams = {1: [start(0)], 2: [start(i, x) for i, x in enumerate(configs)]}
  rows, collectives = [], {}
  try:
    for task in tasks:
      for team in teams.values():
        _together(team, 'prepare', task)
      for turn in range(num_turns):
        for num_workers, team in teams.items():
          found = _together(team, 'run', task, repetitions)
          rows.append(
            {
              'task': task,
              'turn': turn,
              'num_workers': num_workers,
              'seconds': max(x[0] for x in found),
              'processor_seconds': max(x[1] for x in found),
            }
          )
          print(rows[-1], flush=True)
      seconds, latency, size = _together(teams[2], 'collective', task, 20)[0]
      collectives[task] = {
        'seconds': seconds,
        'latency': latency,
        'numbers': size,
      }
  finally:
    for team in teams.values():
      for worker in team:
        worker.close()
  return rows, collectives


def summarize(rows, collectives):
  """How much faster two workers are than one.

  Args:
    rows: As of `measure`.
    collectives: As of `measure`.

  Returns:
    summaries: List of Python `dict`s, one for each task: medians over turns of
      the seconds of one and of two workers and of their ratio, of processor
      time likewise, and the ratio of processor time alone with that of
      collectives added to that of two workers.
  """
  summaries = []
  for task in dict.fromkeys(row['task'] for row in rows):
    summary = {'task': task, 'collective_seconds': collectives[task]['seconds']}
    for name in ('seconds', 'processor_seconds'):
      one, two = (
        [r[name] for r in rows if (r['task'], r['num_workers']) == (task, n)]
        for n in (1, 2)
      )
      summary |= {
        f'{name}_of_one': statistics.median(one),
        f'{name}_of_two': statistics.median(two),
        f'ratio_of_{name}': statistics.median(
          a / b for a, b in zip(one, two, strict=True)
        ),
      }
    summary['ratio_without_other_work'] = summary[
      'processor_seconds_of_one'
    ] / (summary['processor_seconds_of_two'] + summary['collective_seconds'])
    summaries.append(summary)
  return summaries


def project(
  task, compute_seconds, collective, num_workers, latency=None, bandwidth=None
):
  """The share of the time that workers compute, if there are more of them.

  Every worker has as many particles as the one that was measured. Collectives
  go round a ring: a gather sends `R - 1` messages of what one worker has, a sum
  `2 (R - 1)` of its `R`-th part. The time of a message is a latency, and its
  bytes by the bandwidth.

  Args:
    task: Python `str`: one of `TASKS`.
    compute_seconds: Python `float`: of a call, or a step, of one worker.
    collective: Python `dict`, as of `measure`, of two workers.
    num_workers: Python `int`: `R`.
    latency: Python `float`: seconds of a message.
      Default value: `None` (i.e., what was measured).
    bandwidth: Python `float`: bytes a second.
      Default value: `None` (i.e., what was measured).

  Returns:
    efficiency: Python `float`.
  """
  is_sum = task == 'training'
  # One worker has twice the particles of each of two; a gradient has
  # the size that it has.
  num_bytes = 4.0 * collective['numbers'] * (1 if is_sum else 2)
  num_messages = 2 if is_sum else 1
  if bandwidth is None:
    # Two workers that sum send two messages of one half.
    seconds = collective['seconds'] - collective['latency']
    bandwidth = 4.0 * collective['numbers'] / max(seconds, 1e-9)
  if latency is None:
    latency = collective['latency'] / num_messages
  part = num_bytes / num_workers if is_sum else num_bytes
  seconds = num_messages * (num_workers - 1) * (latency + part / bandwidth)
  return compute_seconds / (compute_seconds + seconds)


def projections(summaries, collectives):
  """The efficiencies of all tasks on all kinds of devices.

  Args:
    summaries: As of `summarize`.
    collectives: As of `measure`.

  Returns:
    rows: List of Python `dict`s.
  """
  return [
    {
      'task': x['task'],
      'devices': name,
      'num_workers': n,
      'efficiency': project(
        x['task'],
        x['processor_seconds_of_one'] / speed,
        collectives[x['task']],
        n,
        latency,
        bandwidth,
      ),
    }
    for name, (speed, latency, bandwidth) in _DEVICES.items()
    for x in summaries
    for n in _NUM_WORKERS
  ]


def _projection_table(rows):
  head = ' | '.join(f'{n:,}' for n in _NUM_WORKERS)
  lines = [f'| | devices | {head} |', '|---|---|' + '---|' * len(_NUM_WORKERS)]
  keys = dict.fromkeys((row['task'], row['devices']) for row in rows)
  for task, devices in keys:
    cells = ' | '.join(
      f'{row["efficiency"]:.3f}'
      for row in rows
      if (row['task'], row['devices']) == (task, devices)
    )
    lines.append(f'| {task} | {devices} | {cells} |')
  return '\n'.join(lines)


def _table(summaries):
  lines = [
    '| | one, ms | two, ms | ratio | processor, ms | ratio '
    '| collective, ms | ratio without other work |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for x in summaries:
    ms = {k: f'{1e3 * v:.1f}' for k, v in x.items() if k != 'task'}
    lines.append(
      f'| {x["task"]} | {ms["seconds_of_one"]} | {ms["seconds_of_two"]} '
      f'| {x["ratio_of_seconds"]:.2f} | {ms["processor_seconds_of_one"]}, '
      f'{ms["processor_seconds_of_two"]} '
      f'| {x["ratio_of_processor_seconds"]:.2f} | {ms["collective_seconds"]} '
      f'| {x["ratio_without_other_work"]:.2f} |'
    )
  return '\n'.join(lines)


def _draw(summaries):
  """Processor time of a call, with what collectives take beside it."""
  with reporting.style():
    figure, axes = plt.subplots(
      1, len(summaries), figsize=(2.4 * len(summaries), 2.8), squeeze=False
    )
    for ax, x in zip(axes[0], summaries, strict=True):
      times = [1e3 * x[f'processor_seconds_of_{n}'] for n in ('one', 'two')]
      ax.bar(['one', 'two'], times, color='#0072b2', label='processor')
      ax.bar(
        ['two'],
        [1e3 * x['collective_seconds']],
        bottom=times[1:],
        color='#e69f00',
        label='collectives',
      )
      ax.axhline(times[0] / 2.0, color='#999999', linestyle='--', label='half')
      ax.set_title(f'{x["task"]}: {x["ratio_without_other_work"]:.2f}')
      ax.set_xlabel('workers')
    axes[0][0].set_ylabel('milliseconds')
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
  return figure


def main(argv):
  """Measures and prints.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  values = flags.FLAGS
  os.makedirs(values.output_dir, exist_ok=True)
  rows, collectives = measure(
    values.tasks,
    values.turns,
    values.repetitions,
    values.num_sampled,
    values.num_trained,
  )
  summaries = summarize(rows, collectives)
  print(_table(summaries))
  projected = projections(summaries, collectives)
  print(_projection_table(projected))
  path = os.path.join(values.output_dir, 'scale_out')
  reporting.save(
    path,
    {
      'machine': reporting.machine(),
      'versions': reporting.versions(_PACKAGES),
      'summaries': summaries,
      'collectives': collectives,
      'projections': projected,
      'rows': rows,
    },
    _draw(summaries),
  )
  print(f'See {path}.json')


if __name__ == '__main__':
  flags.DEFINE_multi_enum('tasks', TASKS, TASKS, 'What to measure.')
  flags.DEFINE_integer('num_sampled', 100_000, 'Particles of a sample.')
  flags.DEFINE_integer('num_trained', 10_000, 'Particles of a training step.')
  flags.DEFINE_integer('turns', 5, 'Turns of one worker and of two.')
  flags.DEFINE_integer('repetitions', 5, 'Calls of a turn.')
  flags.DEFINE_string('output_dir', 'results/benchmarks', 'Folder to write to.')
  app.run(main)

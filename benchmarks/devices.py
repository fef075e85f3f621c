# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The same calls on a GPU and on the CPU of the same machine.

```shell
python -m benchmarks.devices --output_dir=results/benchmarks
```

- `ring`: samples from NVIR\* of the annealing experiment with K = 8.
- `training`: takes training steps of it.
- `regression`: samples the posterior of a logistic regression with 61
  coefficients, by Langevin transitions through K = 4 densities.
- `filter`: filters 500 observations of a stochastic volatility model with the
  guided proposal.

Each device has samplers of its own, and the two take turns. The table has the
median milliseconds of a call, or of a step, without compilation, and the mean
of the estimates of log Z of each device, with its standard error.
Writes `devices.json`. Without a GPU, it measures the CPU alone.
"""

import os
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import filtering, reporting, scale_out
from tfp_nvi.experiments import annealing

__all__ = [
  'TASKS',
  'compare',
  'main',
  'summarize',
]

TASKS = ('ring', 'training', 'regression', 'filter')
# Training steps in a compiled call.
_NUM_STEPS = 20
_PACKAGES = ('tensorflow', 'tensorflow-probability', 'tf-keras', 'numpy')


def _repeated(call):
  """Times calls of a function of a seed, after a first one that compiles."""
  call(0)

  def run(count, first_seed):
    seconds, estimates = [], []
    for seed in range(first_seed, first_seed + count):
      start = time.perf_counter()
      estimates.append(float(call(seed)))
      seconds.append(time.perf_counter() - start)
    return seconds, estimates

  return run


def _sampling(sampler, num_particles):
  # The number comes from the device when all else is done.
  return _repeated(
    lambda seed: np.mean(
      sampler.sample(num_particles, seed=seed).log_normalizer
    )
  )


def _training(num_particles):
  """Times steps of `fit`, whose first call compiles."""
  sampler, objective = annealing.make_sampler(
    'nvir_star', nvi.targets.ring_of_gaussians(), 8, seed=1
  )

  def run(count, first_seed):
    stamps = []
    nvi.fit(
      sampler,
      objective,
      num_particles,
      _NUM_STEPS * (count + 1),
      seed=first_seed,
      steps_per_call=_NUM_STEPS,
      progress=False,
      callback_fn=lambda step, values: stamps.append(time.perf_counter()),
    )
    return list(np.diff(stamps) / _NUM_STEPS), []

  return run


def _filtering(num_particles):
  x = filtering.simulate('volatility', 500, seed=1)
  return _repeated(
    filtering.our_filter('volatility', x, num_particles, 'guided')
  )


def _make(task, num_particles):
  if task == 'training':
    return _training(num_particles)
  if task == 'filter':
    return _filtering(num_particles)
  if task == 'regression':
    return _sampling(scale_out.regression_sampler(), num_particles)
  sampler, objective = annealing.make_sampler(
    'nvir_star', nvi.targets.ring_of_gaussians(), 8, seed=1
  )
  nvi.fit(sampler, objective, 36, 2_000, seed=2, progress=False)
  return _sampling(sampler, num_particles)


def compare(task, num_particles, devices, num_turns, repetitions):
  """Measures a task on devices that take turns.

  Args:
    task: Python `str`: one of `TASKS`.
    num_particles: Python `int`.
    devices: List of Python `str`s, such as `['/CPU:0', '/GPU:0']`.
    num_turns: Python `int`.
    repetitions: Python `int`: calls of a turn.

  Returns:
    rows: List of Python `dict`s: a turn of a device, with `'seconds'` and
      `'estimates'` of its calls.
  """
  rows, runs = [], {}
  for device in devices:
    with tf.device(device):
      runs[device] = _make(task, num_particles)
  for turn in range(num_turns):
    for device, run in runs.items():
      with tf.device(device):
        seconds, estimates = run(repetitions, 1 + repetitions * turn)
      rows.append(
        {
          'task': task,
          'num_particles': num_particles,
          'device': device,
          'seconds': seconds,
          'estimates': estimates,
        }
      )
  return rows


def summarize(rows):
  """Medians and ratios of the rows of a task and number of particles.

  Args:
    rows: As of `compare`.

  Returns:
    summary: Python `dict` with `'task'`, `'num_particles'`, and lists with an
      element for each device: `'devices'`, `'seconds'`, `'ratios'` (of the
      first device's seconds to these), `'means'` and `'errors'` of log Z.
  """
  devices = list(dict.fromkeys(row['device'] for row in rows))

  def gather(device, name):
    return sum((row[name] for row in rows if row['device'] == device), [])

  seconds = [statistics.median(gather(x, 'seconds')) for x in devices]
  estimates = [gather(x, 'estimates') for x in devices]
  return {
    'task': rows[0]['task'],
    'num_particles': rows[0]['num_particles'],
    'devices': devices,
    'seconds': seconds,
    'ratios': [seconds[0] / x for x in seconds],
    'means': [statistics.fmean(x) if x else None for x in estimates],
    'errors': [
      statistics.stdev(x) / len(x) ** 0.5 if len(x) > 1 else None
      for x in estimates
    ],
  }


def _line(summary):
  cells = [
    f'{1e3 * seconds:.3g}'
    + ('' if mean is None or error is None else f' ({mean:.4f} +- {error:.4f})')
    for seconds, mean, error in zip(
      summary['seconds'], summary['means'], summary['errors'], strict=True
    )
  ]
  return (
    f'| {summary["task"]} | {summary["num_particles"]:,} | '
    + ' | '.join(cells)
    + f' | {summary["ratios"][-1]:.1f} |'
  )


def main(argv):
  """Prints the table.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  values = flags.FLAGS
  sizes = reporting.integers('num_particles', 2)
  accelerators = tf.config.list_physical_devices('GPU')[:1]
  names = [
    tf.config.experimental.get_device_details(x).get('device_name', x.name)
    for x in accelerators
  ]
  devices = ['/CPU:0', '/GPU:0'][: 1 + len(accelerators)]
  print(
    f'{reporting.machine()}, {names or "no GPU"}\n\n| | particles | '
    + ' | '.join(f'{x}, ms (log Z)' for x in devices)
    + ' | ratio |\n|---|---|'
    + '---|' * (len(devices) + 1)
  )
  summaries = []
  for task in values.tasks:
    for size in sizes:
      rows = compare(task, size, devices, values.turns, values.repetitions)
      summaries.append(summarize(rows))
      print(_line(summaries[-1]), flush=True)
  os.makedirs(values.output_dir, exist_ok=True)
  reporting.save(
    os.path.join(values.output_dir, 'devices'),
    {
      'machine': reporting.machine(),
      'accelerators': names,
      'versions': reporting.versions(_PACKAGES),
      'summaries': summaries,
    },
  )


if __name__ == '__main__':
  flags.DEFINE_multi_enum('tasks', TASKS, TASKS, 'What to measure.')
  flags.DEFINE_list('num_particles', ['10000', '100000'], 'A comma list.')
  flags.DEFINE_integer('turns', 2, 'Turns of each device.', lower_bound=1)
  flags.DEFINE_integer('repetitions', 5, 'Calls of a turn.', lower_bound=1)
  flags.DEFINE_string('output_dir', 'results/benchmarks', 'Folder to write to.')
  app.run(main)

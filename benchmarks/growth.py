# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""How compile time and memory grow with the number of densities.

```shell
python -m benchmarks.growth --output_dir=results/benchmarks
```

Trains NVIR\* of the annealing experiment by both schedules, each measurement in
a process of its own, and prints how much longer K = 128 takes to trace and
compile than K = 8 (36 particles, medians over processes that take turns), and
how much more memory K = 256 takes than K = 8 with many particles: peaks as they
are, and without the memory of the process before `fit`, that of the libraries.
"""

import os
import statistics

from absl import app, flags

from benchmarks import reporting, workers

__all__ = [
  'main',
  'measure',
  'summarize',
]

SCHEDULES = {'fit': 'levels together', 'level_by_level': 'level by level'}
_FACTORY = 'benchmarks.annealing_tfp_nvi:Trainer'
_PACKAGES = ('tensorflow', 'tensorflow-probability', 'tf-keras', 'numpy')


def measure(schedule, num_densities, num_particles):
  """Compiles, and takes a step.

  Args:
    schedule: Python `str`: one of `SCHEDULES`.
    num_densities: Python `int`.
    num_particles: Python `int`.

  Returns:
    row: Python `dict`.
  """
  worker = workers.Worker(
    _FACTORY,
    {
      'loop': schedule,
      'num_densities': num_densities,
      'num_particles': num_particles,
      'num_restarts': 1,
    },
  )
  try:
    baseline = worker.call('peak_megabytes')
    worker.call('prepare', 1, 0)
    return {
      'schedule': schedule,
      'num_densities': num_densities,
      'num_particles': num_particles,
      'compile_seconds': worker.call('compile_seconds'),
      'baseline_megabytes': baseline,
      'peak_megabytes': worker.call('peak_megabytes'),
    }
  finally:
    worker.close()


def summarize(few, many, what):
  """Compares two sets of rows.

  Args:
    few: List of rows with few densities.
    many: List of rows with many densities.
    what: Python `str`: `'compile'` or `'memory'`.

  Returns:
    text: Python `str`.
  """

  def median(rows, value_fn):
    return statistics.median(map(value_fn, rows))

  def compare(value_fn, unit):
    a, b = median(few, value_fn), median(many, value_fn)
    return f'{a:,.1f} and {b:,.1f} {unit}, ratio {b / a:.2f}'

  start = (
    f'{SCHEDULES[few[0]["schedule"]]}, K = {few[0]["num_densities"]} and '
    f'{many[0]["num_densities"]}, {few[0]["num_particles"]:,} particles: '
  )
  if what == 'compile':
    return start + compare(lambda row: row['compile_seconds'], 's to compile')
  return (
    start
    + compare(lambda row: row['peak_megabytes'], 'MB at most')
    + '; without the libraries '
    + compare(
      lambda row: row['peak_megabytes'] - row['baseline_megabytes'], 'MB'
    )
  )


def _define_flags():
  flags.DEFINE_string(
    'output_dir', 'results/benchmarks', 'Folder for growth.json.'
  )
  flags.DEFINE_integer(
    'repetitions', 5, 'Processes for each compile time.', lower_bound=1
  )
  flags.DEFINE_integer(
    'num_particles', 100_000, 'Particles for memory.', lower_bound=1
  )
  flags.DEFINE_multi_enum(
    'memory_schedule',
    ['level_by_level'],
    list(SCHEDULES),
    'Schedules to measure memory of; together takes K times as much.',
  )


def main(argv):
  """Measures and prints.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  os.makedirs(flags.FLAGS.output_dir, exist_ok=True)
  machine = reporting.machine()
  print(f'{machine["processor"]}, {machine["cores"]} cores', flush=True)
  rows = []

  def measure_pair(schedule, counts, num_particles, repetitions, what):
    found = {count: [] for count in counts}
    for _ in range(repetitions):
      for count in counts:
        found[count].append(measure(schedule, count, num_particles))
        rows.append({'what': what, **found[count][-1]})
    print(summarize(*found.values(), what), flush=True)

  for schedule in SCHEDULES:
    measure_pair(schedule, (8, 128), 36, flags.FLAGS.repetitions, 'compile')
  for schedule in flags.FLAGS.memory_schedule:
    measure_pair(schedule, (8, 256), flags.FLAGS.num_particles, 1, 'memory')
  path = os.path.join(flags.FLAGS.output_dir, 'growth')
  versions = reporting.versions(_PACKAGES)
  reporting.save(path, {'machine': machine, 'versions': versions, 'rows': rows})
  print(f'See {path}.json')


if __name__ == '__main__':
  _define_flags()
  app.run(main)

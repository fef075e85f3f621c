# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Training of the annealing experiment, beside coix.

```shell
pip install -e '.[bench]'
python -m benchmarks.annealing_training --output_dir=results/benchmarks
python -m benchmarks.annealing_training --num_densities=8 --num_particles=36 \
  --num_restarts=1 --output_dir=results/benchmarks
```

The same model, particles, optimizer and dtype in both libraries: NVIR* of
`tfp_nvi.experiments.annealing`, Adam at 1e-3, float32. Three loops:

```none
fit       tfp_nvi.fit, as it is
shipped   coix.util.train, as it is: a compiled step for each turn of a Python
          loop
scan      coix's step inside jax.lax.scan
```

Of each size, each loop has a process of its own. The three take turns: a
repetition is as many steps as take about a second, and a row is the median over
repetitions, after one to compile and one to warm up. Compilation is tracing and
compiling, peak memory that of the process, its libraries included (`baseline`
is their part, before there is a model).

The output folder holds `training.json`, written after every size, and
`training.png`. A run that was stopped goes on when it is started again. A size
that is not measured, because a step would take too long or too much memory, has
a row whose `absent` says why. Before anything is timed, both libraries train a
sampler with eight densities and 36 particles, and must come near the true
normalizer.
"""

import itertools
import json
import os
import statistics

import numpy as np
from absl import app, flags

from benchmarks import annealing_report as report
from benchmarks import reporting, workers
from benchmarks.annealing_report import LABELS, LOOPS, size_of

__all__ = [
  'main',
  'measure_size',
]

_PACKAGES = (
  'tensorflow',
  'tensorflow-probability',
  'tf-keras',
  'coix',
  'jax',
  'jaxlib',
  'numpyro',
  'optax',
  'numpy',
)
_CHECK_SIZE = (8, 36, 1)
_CHECK_TOLERANCE = 0.1
_LOG_NORMALIZER = np.log(8.0)

# Seconds of a repetition: aimed at, and accepted.
_AIM = 1.0
_ACCEPTED = (0.3, 3.0)


class _Store:
  """The output folder."""

  def __init__(self, directory, configuration, overwrite):
    os.makedirs(directory, exist_ok=True)
    self._directory = directory
    self.content = {**configuration, 'check': None, 'rows': []}
    path = self.path('training.json')
    if overwrite or not os.path.exists(path):
      return
    try:
      with open(path, encoding='utf-8') as f:
        found = json.load(f)
      different = {
        k: found[k] for k, v in configuration.items() if found[k] != v
      }
      self.content = {key: found[key] for key in self.content}
    except (OSError, ValueError, KeyError, TypeError) as e:
      raise app.UsageError(
        f'{path} cannot be read ({e!r}). Give another --output_dir, or '
        '--overwrite.'
      ) from e
    for key, value in different.items():
      raise app.UsageError(
        f'{path} is of another configuration: {key} is {value!r}, now '
        f'{configuration[key]!r}. Give another --output_dir, or --overwrite.'
      )

  @property
  def rows(self):
    return self.content['rows']

  def path(self, name):
    return os.path.join(self._directory, name)

  def save(self):
    """Writes all rows."""
    reporting.save(self.path('training'), self.content)

  def add(self, rows):
    """Adds rows, in place of those of the same size and loop."""
    new = {_key(row) for row in rows}
    self.content['rows'] = sorted(
      [row for row in self.rows if _key(row) not in new] + rows,
      key=lambda row: (
        size_of(row),
        list(LOOPS).index(row['loop']),
      ),
    )
    self.save()

  def lacks(self, size, loop, retry_absent):
    """Whether a loop is still to be measured."""
    return not any(
      _key(row) == (*size, loop) and not (retry_absent and 'absent' in row)
      for row in self.rows
    )


def _key(row):
  return *size_of(row), row['loop']


def _work(size):
  """Particles moved in a step."""
  num_densities, num_particles, num_restarts = size
  return (num_densities - 1) * num_particles * num_restarts


def estimate_seconds(size, loop, rows):
  """Estimates how long a step takes, from the sizes measured so far.

  Args:
    size: Tuple of numbers of densities, particles and restarts.
    loop: Python `str`.
    rows: List of rows that are there.

  Returns:
    seconds: Python `float`.
  """

  def guess(size):
    return 1e-6 * (15.0 * (size[0] - 1) + 0.8 * _work(size))

  measured = [
    row
    for row in rows
    if row['loop'] == loop and row['microseconds_per_step'] is not None
  ]
  factor = 1.0
  if measured:
    # The nearest size in work, of which a guess is off by as much.
    nearest = min(
      measured,
      key=lambda row: abs(np.log(_work(size_of(row)) / _work(size))),
    )
    factor = nearest['microseconds_per_step'] / (1e6 * guess(size_of(nearest)))
  return factor * guess(size)


def steps_for(seconds_per_step):
  """The number of steps that a repetition is to have."""
  return max(1, round(_AIM / seconds_per_step))


def is_accepted(seconds, num_steps):
  """Whether a repetition that took this long need not be changed."""
  return _ACCEPTED[0] <= seconds and (seconds <= _ACCEPTED[1] or num_steps == 1)


class _Runner:
  """A loop of a size, in its process."""

  def __init__(self, size, loop, max_gigabytes, timeout):
    self.loop = loop
    self._timeout = timeout
    self.durations = []
    self.num_steps = None
    self.seconds = None
    library, factory = LOOPS[loop]
    self.row = {
      'library': library,
      'loop': loop,
      'num_densities': size[0],
      'num_particles': size[1],
      'num_restarts': size[2],
      'microseconds_per_step': None,
      'compile_seconds': None,
      'peak_megabytes': None,
    }
    arguments = {
      'loop': loop,
      'num_densities': size[0],
      'num_particles': size[1],
      'num_restarts': size[2],
    }
    self._worker = workers.Worker(factory, arguments, max_gigabytes)

  def prepare(self, seconds_per_step, repetitions):
    """Compiles and warms up, with a suitable number of steps."""
    self.row['baseline_megabytes'] = round(self._call('peak_megabytes'))
    self.num_steps = steps_for(seconds_per_step)
    for _ in range(3):
      self._call('prepare', self.num_steps, repetitions + 1)
      self.seconds = self._call('run')
      if is_accepted(self.seconds, self.num_steps):
        break
      self.num_steps = steps_for(self.seconds / self.num_steps)

  def run(self):
    """Takes a turn."""
    self.durations.append(self._call('run') / self.num_steps)

  def finish(self):
    """Fills in the row."""
    microseconds = [1e6 * x for x in self.durations]
    self.row.update(
      microseconds_per_step=round(statistics.median(microseconds), 2),
      compile_seconds=round(self._call('compile_seconds'), 2),
      peak_megabytes=round(self._call('peak_megabytes')),
      steps_per_repetition=self.num_steps,
      repetitions=[round(x, 2) for x in microseconds],
    )

  def close(self):
    self._worker.close()

  def _call(self, method, *args):
    return self._worker.call(method, *args, timeout=self._timeout)


def measure_size(
  size,
  loops,
  rows,
  repetitions,
  max_seconds,
  timeout,
  max_gigabytes,
):
  """Measures the loops of a size, which take turns.

  Args:
    size: Tuple of numbers of densities, particles and restarts.
    loops: List of names of `annealing_LOOPS`.
    rows: List of rows that are there, for estimates.
    repetitions: Python `int`.
    max_seconds: Python `float`: loops are left out if a step would take longer.
    timeout: Python `float`: seconds after which a call is given up.
    max_gigabytes: Python `float`: loops are given up that allocate more.

  Returns:
    rows: List of Python `dict`s, one for each loop.
  """
  runners = [_Runner(size, loop, max_gigabytes, timeout) for loop in loops]

  def attempt(runner, fn):
    if 'absent' not in runner.row:
      try:
        fn()
      except workers.WorkerError as e:
        runner.row['absent'] = str(e)
        runner.close()

  try:
    for runner in runners:
      seconds = estimate_seconds(size, runner.loop, rows)
      if seconds > max_seconds:
        runner.row['absent'] = (
          f'a step would take about {seconds:.0f} s, more than {max_seconds:g}'
        )
        runner.close()
      attempt(
        runner,
        lambda runner=runner, seconds=seconds: runner.prepare(
          seconds, repetitions
        ),
      )
    for i in range(repetitions):
      # So that no loop always runs after the slowest one.
      for j in range(len(runners)):
        runner = runners[(i + j) % len(runners)]
        attempt(runner, runner.run)
    for runner in runners:
      attempt(runner, runner.finish)
  finally:
    for runner in runners:
      runner.close()
  return [runner.row for runner in runners]


def _check(num_steps, loops, max_gigabytes):
  """Trains in both libraries, and estimates log Z.

  Args:
    num_steps: Python `int`.
    loops: List of names of `annealing_LOOPS`; of coix's, the first will do.
    max_gigabytes: Python `float`.

  Returns:
    result: Python `dict` with the estimate of each library.

  Raises:
    RuntimeError: If an estimate is not near the true normalizer.
  """
  num_densities, num_particles, num_restarts = _CHECK_SIZE
  result = {'num_steps': num_steps, 'true': float(_LOG_NORMALIZER)}
  for loop in loops:
    library, factory = LOOPS[loop]
    if library in result:
      continue
    worker = workers.Worker(
      factory,
      {
        'loop': loop,
        'num_densities': num_densities,
        'num_particles': num_particles,
        'num_restarts': num_restarts,
      },
      max_gigabytes,
    )
    try:
      result[library] = worker.call('check', num_steps, 1_000, 100)
    finally:
      worker.close()
    print(
      f'{library}: log Z-hat {result[library]:.3f} after {num_steps} steps '
      f'(true {_LOG_NORMALIZER:.3f})',
      flush=True,
    )
    if not abs(result[library] - _LOG_NORMALIZER) < _CHECK_TOLERANCE:
      raise RuntimeError(
        f'{library} has not learned the sampler that is to be timed: log Z-hat '
        f'is {result[library]:.3f}, expected {_LOG_NORMALIZER:.3f} +- '
        f'{_CHECK_TOLERANCE:g} after {num_steps} steps.'
      )
  return result


def _define_flags():
  flags.DEFINE_string(
    'output_dir',
    'results/benchmarks',
    'Folder for training.json and the picture.',
  )
  flags.DEFINE_list(
    'num_densities', ['2', '8', '32', '128'], 'Numbers of densities.'
  )
  flags.DEFINE_list(
    'num_particles', ['36', '1000', '10000'], 'Numbers of particles.'
  )
  flags.DEFINE_list(
    'num_restarts', ['1', '10'], 'Numbers of restarts trained together.'
  )
  flags.DEFINE_multi_enum('loop', list(LOOPS), list(LOOPS), 'Loops to measure.')
  flags.DEFINE_integer(
    'repetitions', 7, 'Timed repetitions of each loop.', lower_bound=1
  )
  flags.DEFINE_float(
    'max_seconds', 10.0, 'Sizes are skipped where a step would take longer.'
  )
  flags.DEFINE_float(
    'timeout',
    600.0,
    'Seconds after which a loop is given up that compiles, or takes a turn.',
  )
  flags.DEFINE_float(
    'max_gigabytes',
    0.0,
    'Memory each process may take; 0 for an equal part of 90% of the memory of '
    'the machine, because the loops of a size run at the same time.',
  )
  flags.DEFINE_integer(
    'check_steps',
    3_000,
    'Steps before log Z-hat is checked; 0 for no check.',
    lower_bound=0,
  )
  flags.DEFINE_boolean(
    'retry_absent', False, 'Whether to measure sizes again that were absent.'
  )
  flags.DEFINE_boolean(
    'overwrite', False, 'Whether to discard earlier results in the folder.'
  )


def main(argv):
  """Measures, prints and draws.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  sizes = sorted(
    itertools.product(
      reporting.integers('num_densities', 2),
      reporting.integers('num_particles', 1),
      reporting.integers('num_restarts', 1),
    ),
    # Small ones first, from which the others are estimated.
    key=lambda size: (_work(size), size),
  )
  loops = [loop for loop in LOOPS if loop in flags.FLAGS.loop]
  configuration = {
    'machine': reporting.machine(),
    'versions': reporting.versions(_PACKAGES),
    'num_repetitions': flags.FLAGS.repetitions,
  }
  missing = {'coix', 'jax', 'numpyro', 'optax'} - set(configuration['versions'])
  if missing:
    left_out = [loop for loop in loops if LOOPS[loop][0] == 'coix']
    loops = [loop for loop in loops if loop not in left_out]
    if left_out:
      print(
        f'Not measured: {", ".join(left_out)}, as {", ".join(sorted(missing))} '
        "cannot be found; pip install -e '.[bench]' installs them."
      )
  store = _Store(flags.FLAGS.output_dir, configuration, flags.FLAGS.overwrite)
  max_gigabytes = (
    flags.FLAGS.max_gigabytes
    or 0.9 * reporting.memory_gigabytes() / max(1, len(loops))
  )
  checked = store.content['check'] or {}
  unchecked = [loop for loop in loops if LOOPS[loop][0] not in checked]
  if flags.FLAGS.check_steps and unchecked:
    store.content['check'] = {
      **checked,
      **_check(flags.FLAGS.check_steps, unchecked, max_gigabytes),
    }
    store.save()
  for i, size in enumerate(sizes, 1):
    still = [
      loop
      for loop in loops
      if store.lacks(size, loop, flags.FLAGS.retry_absent)
    ]
    print(
      f'[{i}/{len(sizes)}] K = {size[0]}, {size[1]:,} particles, {size[2]} '
      f'restart(s){"" if still else ": kept"}',
      flush=True,
    )
    if still:
      # All of them again: only loops that took turns can be compared.
      rows = measure_size(
        size,
        loops,
        store.rows,
        flags.FLAGS.repetitions,
        flags.FLAGS.max_seconds,
        flags.FLAGS.timeout,
        max_gigabytes,
      )
      store.add(rows)
      print(report.describe(rows), flush=True)
  of_machine = configuration['machine']
  rows = [row for row in store.rows if size_of(row) in sizes]
  print(f'\n{of_machine["processor"]}, {of_machine["cores"]} cores\n')
  print(report.format_table(rows))
  absent = [row for row in rows if 'absent' in row]
  for row in absent:
    size = size_of(row)
    print(
      f'absent: {LABELS[row["loop"]]}, K = {size[0]}, {size[1]:,} particles, '
      f'{size[2]} restart(s): {row["absent"]}'
    )
  if len(absent) == len(rows):
    print('Nothing to draw.')
    return
  figure = report.plot(rows, f' on {of_machine["cores"]} cores')
  reporting.replace_file(
    store.path('training.png'), lambda f: figure.savefig(f, format='png')
  )
  print(f'\nSee {store.path("training.json")} and {store.path("training.png")}')


if __name__ == '__main__':
  _define_flags()
  app.run(main)

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

import matplotlib.figure
import numpy as np
from absl import app, flags

from benchmarks import reporting, workers

__all__ = [
  'LOOPS',
  'format_table',
  'main',
  'measure_size',
  'plot',
]

# The library of each loop, and the class that runs it.
LOOPS = {
  'fit': ('tfp_nvi', 'benchmarks.annealing_tfp_nvi:Trainer'),
  'shipped': ('coix', 'benchmarks.annealing_coix:Trainer'),
  'scan': ('coix', 'benchmarks.annealing_coix:Trainer'),
}
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
_LABELS = {
  'fit': 'tfp_nvi, fit',
  'shipped': 'coix, as shipped',
  'scan': 'coix, in lax.scan',
}
_STYLES = {
  'fit': {'color': '#d55e00', 'marker': 'o'},
  'shipped': {'color': '#56b4e9', 'marker': 's'},
  'scan': {'color': '#0072b2', 'marker': '^'},
}

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
      key=lambda row: (_size(row), list(LOOPS).index(row['loop'])),
    )
    self.save()

  def lacks(self, size, loop, retry_absent):
    """Whether a loop is still to be measured."""
    return not any(
      _key(row) == (*size, loop) and not (retry_absent and 'absent' in row)
      for row in self.rows
    )


def _size(row):
  return row['num_densities'], row['num_particles'], row['num_restarts']


def _key(row):
  return *_size(row), row['loop']


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
      key=lambda row: abs(np.log(_work(_size(row)) / _work(size))),
    )
    factor = nearest['microseconds_per_step'] / (1e6 * guess(_size(nearest)))
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
    loops: List of names of `LOOPS`.
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
    loops: List of names of `LOOPS`; of coix's, the first will do.
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


def _by_size(rows):
  """Rows by size, and there by loop."""
  result = {}
  for row in rows:
    result.setdefault(_size(row), {})[row['loop']] = row
  return result


def _value(row, field):
  return None if row is None else row[field]


def _ratio(a, b):
  return None if a is None or b is None else a / b


def _geometric_mean(values):
  return float(np.exp(np.mean(np.log(values))))


def _format_microseconds(value):
  return '-' if value is None else f'{value:,.0f}'


def format_table(rows):
  """Formats the table of rows, in Markdown, and its summary.

  Args:
    rows: List of rows.

  Returns:
    text: Python `str`.
  """
  lines = [
    '| K | particles | restarts | tfp_nvi, us a step | coix, shipped | '
    'coix, scan | ours / shipped | ours / scan | compile, s | peak, MB |',
    '|' + ' ---: |' * 10,
  ]
  ratios = {'shipped': {}, 'scan': {}}
  by_size = _by_size(rows)
  for size, by_loop in sorted(by_size.items()):
    found = [by_loop.get(loop) for loop in LOOPS]
    microseconds = [_value(row, 'microseconds_per_step') for row in found]
    cells = [f'{x:,}' for x in size]
    cells += [_format_microseconds(x) for x in microseconds]
    for i, loop in enumerate(('shipped', 'scan'), 1):
      ratio = _ratio(microseconds[0], microseconds[i])
      cells.append('-' if ratio is None else f'{ratio:.2f}')
      if ratio is not None:
        ratios[loop][size] = ratio
    for field, digits in (('compile_seconds', 1), ('peak_megabytes', 0)):
      values = [_value(row, field) for row in found]
      cells.append(
        ' / '.join('-' if x is None else f'{x:,.{digits}f}' for x in values)
      )
    lines.append('| ' + ' | '.join(cells) + ' |')
  lines.append('')
  for loop, of_sizes in ratios.items():
    if of_sizes:
      worst = max(of_sizes, key=of_sizes.get)
      lines.append(
        f'ours / {loop}: geometric mean '
        f'{_geometric_mean(list(of_sizes.values())):.2f} over '
        f'{len(of_sizes)} sizes, at most {of_sizes[worst]:.2f} '
        f'(K = {worst[0]}, {worst[1]:,} particles, {worst[2]} restart(s))'
      )
  for loop in LOOPS:

    def value(size, field, loop=loop):
      return _value(by_size.get(size, {}).get(loop), field)

    restarts = _ratio(
      value((8, 36, 10), 'microseconds_per_step'),
      value((8, 36, 1), 'microseconds_per_step'),
    )
    if restarts is not None:
      lines.append(
        f'{_LABELS[loop]} (K = 8, 36 particles): 10 restarts take '
        f'{restarts:.2f} times as long as 1'
      )
  return '\n'.join(lines)


def plot(rows, title=''):
  """Draws microseconds a step over densities, a panel for each batch.

  Args:
    rows: List of rows.
    title: Python `str`.

  Returns:
    figure: Matplotlib figure.
  """
  by_size = _by_size(rows)
  restarts = sorted({size[2] for size in by_size})
  particles = sorted({size[1] for size in by_size})
  densities = sorted({size[0] for size in by_size})
  with reporting.style():
    figure = matplotlib.figure.Figure(
      figsize=(1.0 + 3.3 * len(particles), 1.0 + 2.8 * len(restarts)),
      dpi=150,
      layout='constrained',
    )
    axes = figure.subplots(
      len(restarts), len(particles), sharex=True, sharey=True, squeeze=False
    )
    for (i, num_restarts), (j, num_particles) in itertools.product(
      enumerate(restarts), enumerate(particles)
    ):
      ax = axes[i, j]
      for loop, label in _LABELS.items():
        points = {
          k: _value(
            by_size.get((k, num_particles, num_restarts), {}).get(loop),
            'microseconds_per_step',
          )
          for k in densities
        }
        points = {k: v for k, v in points.items() if v is not None}
        ax.plot(
          list(points), list(points.values()), label=label, **_STYLES[loop]
        )
        if loop == 'fit':
          ours = points
        elif loop == 'scan':
          for k in ours.keys() & points.keys():
            ax.annotate(
              f'{ours[k] / points[k]:.2f}',
              (k, min(ours[k], points[k])),
              textcoords='offset points',
              xytext=(0, -14),
              ha='center',
              fontsize=8,
              color='0.3',
            )
      ax.set_xscale('log', base=2)
      ax.set_yscale('log')
      ax.set_xticks(densities, [str(k) for k in densities])
      ax.margins(x=0.12, y=0.14)
      ax.grid(color='0.92')
      ax.set_title(
        f'{num_particles:,} particles, {num_restarts} '
        + ('restart' if num_restarts == 1 else 'restarts'),
        fontsize=10,
      )
      if j == 0:
        ax.set_ylabel('microseconds a step')
      if i == len(restarts) - 1:
        ax.set_xlabel('densities')
    figure.legend(
      *axes[0, 0].get_legend_handles_labels(),
      loc='outside lower center',
      ncols=len(_LABELS),
      frameon=False,
      fontsize=9,
    )
    figure.suptitle(
      'Training step' + title + '; numbers: tfp_nvi / coix in lax.scan',
      fontsize=10,
    )
  return figure


def _describe(rows):
  """The line that is shown for a size."""
  ours = next((r for r in rows if r['loop'] == 'fit'), None)
  parts = []
  for row in rows:
    if 'absent' in row:
      parts.append(f'{_LABELS[row["loop"]]}: ABSENT, {row["absent"]}')
      continue
    ratio = ''
    if row is not ours and ours and 'absent' not in ours:
      value = ours['microseconds_per_step'] / row['microseconds_per_step']
      ratio = f', ours / it {value:.2f}'
    spread = max(row['repetitions']) / min(row['repetitions']) - 1.0
    parts.append(
      f'{_LABELS[row["loop"]]}: {row["microseconds_per_step"]:,.0f} us a step '
      f'(spread {100 * spread:.0f}%){ratio}; compiled in '
      f'{row["compile_seconds"]:.1f} s; {row["peak_megabytes"]:,} MB'
    )
  return '\n'.join('  ' + part for part in parts)


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
      print(_describe(rows), flush=True)
  of_machine = configuration['machine']
  rows = [row for row in store.rows if _size(row) in sizes]
  print(f'\n{of_machine["processor"]}, {of_machine["cores"]} cores\n')
  print(format_table(rows))
  absent = [row for row in rows if 'absent' in row]
  for row in absent:
    size = _size(row)
    print(
      f'absent: {_LABELS[row["loop"]]}, K = {size[0]}, {size[1]:,} particles, '
      f'{size[2]} restart(s): {row["absent"]}'
    )
  if len(absent) == len(rows):
    print('Nothing to draw.')
    return
  figure = plot(rows, f' on {of_machine["cores"]} cores')
  reporting.replace_file(
    store.path('training.png'), lambda f: figure.savefig(f, format='png')
  )
  print(f'\nSee {store.path("training.json")} and {store.path("training.png")}')


if __name__ == '__main__':
  _define_flags()
  app.run(main)

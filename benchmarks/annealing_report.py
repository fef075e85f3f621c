# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the picture of `benchmarks.annealing_training`."""

import itertools

import matplotlib.figure
import numpy as np

from benchmarks import reporting

__all__ = [
  'LABELS',
  'LOOPS',
  'describe',
  'format_table',
  'plot',
  'size_of',
]

# The library of each loop, and the class that runs it.
LOOPS = {
  'fit': ('tfp_nvi', 'benchmarks.annealing_tfp_nvi:Trainer'),
  'shipped': ('coix', 'benchmarks.annealing_coix:Trainer'),
  'scan': ('coix', 'benchmarks.annealing_coix:Trainer'),
}
LABELS = {
  'fit': 'tfp_nvi, fit',
  'shipped': 'coix, as shipped',
  'scan': 'coix, in lax.scan',
}
_STYLES = {
  'fit': {'color': '#d55e00', 'marker': 'o'},
  'shipped': {'color': '#56b4e9', 'marker': 's'},
  'scan': {'color': '#0072b2', 'marker': '^'},
}


def size_of(row):
  """The size that a row is of."""
  return row['num_densities'], row['num_particles'], row['num_restarts']


def _by_size(rows):
  """Rows by size, and there by loop."""
  result = {}
  for row in rows:
    result.setdefault(size_of(row), {})[row['loop']] = row
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
        f'{LABELS[loop]} (K = 8, 36 particles): 10 restarts take '
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
      for loop, label in LABELS.items():
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
      ncols=len(LABELS),
      frameon=False,
      fontsize=9,
    )
    figure.suptitle(
      'Training step' + title + '; numbers: tfp_nvi / coix in lax.scan',
      fontsize=10,
    )
  return figure


def describe(rows):
  """The line that is shown for a size."""
  ours = next((r for r in rows if r['loop'] == 'fit'), None)
  parts = []
  for row in rows:
    if 'absent' in row:
      parts.append(f'{LABELS[row["loop"]]}: ABSENT, {row["absent"]}')
      continue
    ratio = ''
    if row is not ours and ours and 'absent' not in ours:
      value = ours['microseconds_per_step'] / row['microseconds_per_step']
      ratio = f', ours / it {value:.2f}'
    spread = max(row['repetitions']) / min(row['repetitions']) - 1.0
    parts.append(
      f'{LABELS[row["loop"]]}: {row["microseconds_per_step"]:,.0f} us a step '
      f'(spread {100 * spread:.0f}%){ratio}; compiled in '
      f'{row["compile_seconds"]:.1f} s; {row["peak_megabytes"]:,} MB'
    )
  return '\n'.join('  ' + part for part in parts)

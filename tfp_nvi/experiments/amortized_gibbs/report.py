# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the pictures of the comparison."""

import matplotlib.figure
import matplotlib.patches
import numpy as np

from tfp_nvi.experiments.amortized_gibbs.methods import METHODS

__all__ = [
  'draw',
  'format_table',
]

_COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')


def _label(method):
  return METHODS[method][0]


def format_table(rows):
  """Formats the table of rows."""
  lines = [
    '',
    f'{"method":34} {"log joint":>10} {"error":>6} {"ESS/L":>6} '
    f'{"evaluations":>11} {"seconds":>8}',
  ]
  for row in rows:
    ess = '-' if row['ess'] is None else f'{row["ess"]:.3f}'
    lines.append(
      f'{_label(row["method"]):34} {row["log_joint"]:10.2f} '
      f'{row["log_joint_error"]:6.2f} {ess:>6} '
      f'{row["num_evaluations"]:11d} {row["seconds"]:8.2f}'
    )
  if rows:
    exact = rows[0]['exact_log_joint']
    lines.append(f'{"exact draws of the posterior":34} {exact:10.2f}')
  return '\n'.join(lines)


def _draw_log_joint(rows, arrays):
  """Draws mean log joints against the number of evaluations."""
  figure = matplotlib.figure.Figure([7.6, 3.4], layout='constrained', dpi=100)
  axes = figure.subplots()
  exact = rows[0]['exact_log_joint']
  finals = [row['log_joint'] for row in rows]
  for row in rows:
    label, color, _ = METHODS[row['method']]
    values = arrays[row['method']]
    axes.plot(
      values['num_evaluations'],
      values['log_joint'],
      '.-',
      color=color,
      label=label,
      markersize=4,
    )
  axes.axhline(
    exact, color='black', linewidth=0.8, linestyle='--', label='exact draws'
  )
  # The first values may be far below the others.
  low, high = min([*finals, exact]), max([*finals, exact])
  margin = 0.3 * (high - low) + 1.0
  axes.set(
    xlabel='evaluations of the joint of an instance',
    ylabel='mean log p(x, z)',
    ylim=(low - margin, high + margin),
  )
  axes.legend(
    loc='upper left', bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False
  )
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  return figure


def _draw_clusters(rows, arrays):
  """Shows points and drawn clusters: instances in rows, methods in columns."""
  methods = [row['method'] for row in rows]
  num_instances = len(arrays[methods[0]]['x'])
  figure = matplotlib.figure.Figure(
    [2.1 * len(methods) + 0.1, 2.1 * num_instances + 0.2],
    layout='constrained',
    dpi=80,
  )
  panels = figure.subplots(num_instances, len(methods), squeeze=False)
  for column, method in zip(panels.T, methods, strict=True):
    values = arrays[method]
    column[0].set_title(_label(method).replace(', ', ',\n'), fontsize=8)
    for i, axes in enumerate(column):
      x, assignments = values['x'][i], values['assignments'][0, i]
      colors = [_COLORS[c % len(_COLORS)] for c in assignments]
      axes.scatter(*x[:, :2].T, s=4, c=colors)
      means, precisions = values['means'], values['log_precisions']
      for mean, log_precision in zip(
        means[:, i].reshape(-1, means.shape[-1]),
        precisions[:, i].reshape(-1, means.shape[-1]),
        strict=True,
      ):
        width, height = 4.0 * np.exp(-0.5 * log_precision[:2])
        axes.add_patch(
          matplotlib.patches.Ellipse(
            mean[:2], width, height, fill=False, alpha=0.3, linewidth=0.8
          )
        )
      middle = 0.5 * (x.max(axis=0) + x.min(axis=0))[:2]
      radius = 0.6 * np.max(np.ptp(x, axis=0)) + 0.5
      axes.set(
        xticks=[],
        yticks=[],
        xlim=(middle[0] - radius, middle[0] + radius),
        ylim=(middle[1] - radius, middle[1] + radius),
        aspect='equal',
      )
  return figure


def draw(rows, arrays):
  """Draws the pictures.

  Args:
    rows: List of rows.
    arrays: Python `dict` from methods to the arrays of their cells.

  Returns:
    figures: Python `dict` from names to Matplotlib figures.
  """
  return {
    'log_joint': _draw_log_joint(rows, arrays),
    'clusters': _draw_clusters(rows, arrays),
  }

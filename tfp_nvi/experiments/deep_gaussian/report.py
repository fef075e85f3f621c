# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the pictures of deep latent Gaussian models."""

import matplotlib.figure
import numpy as np

__all__ = [
  'OBJECTIVES',
  'describe',
  'draw',
  'format_table',
]

# The name of each objective in tables and pictures, and its color.
OBJECTIVES = {
  'svi': ('ELBO', '#999999'),
  'iwae': ('IWAE', '#e69f00'),
  'rws': ('RWS', '#009e73'),
  'reverse_kl': ('nested reverse KL', '#0072b2'),
  'forward_kl': ('nested forward KL', '#d55e00'),
}


def _label(objective):
  return OBJECTIVES[objective][0]


def describe(row):
  """Describes a finished cell in a line."""
  return (
    f'{_label(row["objective"])}, {row["num_layers"]} layers: log likelihood '
    f'{row["test_log_likelihood"]:.2f} +- '
    f'{row["test_log_likelihood_error"]:.2f}, ELBO {row["elbo"]:.2f}, '
    f'{row["seconds"]:.0f} s of training'
  )


def format_table(rows):
  """Formats the table of rows."""
  lines = [
    '',
    f'{"layers":>6} {"objective":18} {"log likelihood":>14} {"error":>6} '
    f'{"ELBO":>8} {"above importance sampling":>26} {"seconds":>8}',
  ]
  lines += [
    f'{row["num_layers"]:6d} {_label(row["objective"]):18} '
    f'{row["test_log_likelihood"]:14.2f} '
    f'{row["test_log_likelihood_error"]:6.2f} {row["elbo"]:8.2f} '
    f'{row["gain_over_importance_sampling"]:26.2f} {row["seconds"]:8.0f}'
    for row in rows
  ]
  return '\n'.join(lines)


def _sheet(images, num_columns):
  """Returns images side by side, in rows, one white pixel apart."""
  count = len(images) // num_columns * num_columns
  images = np.pad(images[:count], [(0, 0), (0, 1), (0, 1)])
  height, width = images.shape[1:]
  rows = images.reshape(-1, num_columns, height, width)
  return rows.transpose(0, 2, 1, 3).reshape(-1, num_columns * width)


def _in_turns(num_columns, *stacks):
  """Returns rows of images of each stack in turn."""
  rows = [s.reshape(-1, num_columns, *s.shape[1:]) for s in stacks]
  return np.stack(rows, axis=1).reshape(-1, *stacks[0].shape[1:])


def _given(arrays):
  """Returns the originals with missing pixels in gray."""
  return np.where(arrays['observed'][0], arrays['originals'], 0.25)


_SHEETS = {
  'reconstructions': lambda a: _sheet(
    _in_turns(8, a['originals'], a['reconstructions']), 8
  ),
  'samples': lambda a: _sheet(a['samples'], 8),
  'traversals': lambda a: _sheet(a['traversals'], 9),
  'missing': lambda a: _sheet(_in_turns(8, _given(a), a['filled']), 8),
}


def _draw_sheets(arrays, make_sheet_fn):
  """Draws a sheet of images per cell: layers in rows, objectives in columns."""
  layers = list(dict.fromkeys(count for _, count in arrays))
  names = list(dict.fromkeys(name for name, _ in arrays))
  figure = matplotlib.figure.Figure(
    [2.3 * len(names) + 0.2, 2.0 * len(layers) + 0.3],
    layout='constrained',
    dpi=100,
  )
  panels = figure.subplots(len(layers), len(names), squeeze=False)
  for line, count in zip(panels, layers, strict=True):
    for axes, name in zip(line, names, strict=True):
      axes.set_axis_off()
      if (name, count) not in arrays:
        continue
      axes.imshow(
        make_sheet_fn(arrays[name, count]),
        cmap='gray_r',
        vmin=0.0,
        vmax=1.0,
        interpolation='nearest',
      )
      plural = 's' if count > 1 else ''
      axes.set_title(f'{_label(name)}, {count} layer{plural}', fontsize=8)
  return figure


def _draw_log_likelihoods(rows):
  """Draws log likelihoods, and bounds as circles, by number of layers."""
  figure = matplotlib.figure.Figure([5.2, 3.4], layout='constrained', dpi=100)
  axes = figure.subplots()
  names = list(dict.fromkeys(row['objective'] for row in rows))
  layers = sorted({row['num_layers'] for row in rows})
  for i, name in enumerate(names):
    own = [row for row in rows if row['objective'] == name]
    shift = 0.08 * (i - 0.5 * (len(names) - 1))
    x = [row['num_layers'] + shift for row in own]
    label, color = OBJECTIVES[name]
    values = [row['test_log_likelihood'] for row in own]
    bounds = [row['elbo'] for row in own]
    axes.vlines(x, bounds, values, color=color, linewidth=1.0)
    axes.plot(x, values, 's', color=color, markersize=5, label=label)
    axes.plot(x, bounds, 'o', color=color, markersize=4, fillstyle='none')
  axes.set(
    xlabel='layers of latents',
    ylabel='nats per test image',
    title='log likelihood (squares) and ELBO (circles)',
    xticks=layers,
    xlim=(layers[0] - 0.5, layers[-1] + 0.5),
  )
  axes.legend(fontsize=8, frameon=False, loc='best')
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  return figure


def draw(rows, arrays):
  """Draws the pictures.

  Args:
    rows: List of rows.
    arrays: Python `dict` from pairs of an objective and a number of layers to
      the arrays of their cell.

  Returns:
    figures: Python `dict` from names to Matplotlib figures.
  """
  figures = {
    name: _draw_sheets(arrays, make_sheet_fn)
    for name, make_sheet_fn in _SHEETS.items()
  }
  return {'log_likelihood': _draw_log_likelihoods(rows), **figures}

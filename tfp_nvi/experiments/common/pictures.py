# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Helpers for pictures, which need no display."""

from collections.abc import Mapping

import matplotlib.axes
import matplotlib.figure

from tfp_nvi.experiments.common import store as store_lib

__all__ = [
  'finish',
  'make_figure',
  'style_axes',
]


def make_figure(width: float, height: float) -> matplotlib.figure.Figure:
  """Makes an empty figure.

  Args:
    width: Python `float`, in inches.
    height: Python `float`, in inches.

  Returns:
    figure: `matplotlib.figure.Figure`.
  """
  return matplotlib.figure.Figure(
    figsize=(width, height), dpi=100, layout='constrained'
  )


def style_axes(axes: matplotlib.axes.Axes) -> None:
  """Removes two sides of the frame, and adds a light grid.

  Args:
    axes: `matplotlib.axes.Axes`.
  """
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(alpha=0.25, linewidth=0.6)


def finish(
  store: store_lib.Store,
  rows: list,
  figures: Mapping[str, matplotlib.figure.Figure],
) -> store_lib.Results:
  """Writes figures to the output folder, and prints what it holds.

  Args:
    store: `Store`.
    rows: List of Python `dict`s: those asked for.
    figures: Python `dict` from names of PNG files, without the ending, to
      figures.

  Returns:
    results: `Results`.
  """
  pictures = []
  for name, figure in figures.items():
    pictures.append(store.path(f'{name}.png'))
    store_lib.replace_file(
      pictures[-1], lambda f, figure=figure: figure.savefig(f, format='png')
    )
  print('\nWritten:')
  for path in [store.path('metrics.json'), *pictures]:
    print(f'  {path}')
  return store_lib.Results(rows, pictures)

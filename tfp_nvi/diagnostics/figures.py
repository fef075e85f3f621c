# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tools that all pictures share: figures, colors, lines and labels."""

import typing
from collections.abc import Iterable

if typing.TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

__all__ = [
  'COLORS',
  'DOTS_PER_INCH',
  'check_labelled',
  'line_styles',
  'make_figure',
  'style_axes',
]

# Okabe and Ito's palette, whose colors differ for every kind of color vision.
COLORS = (
  '#d55e00',
  '#0072b2',
  '#009e73',
  '#cc79a7',
  '#e69f00',
  '#56b4e9',
  '#000000',
)
DOTS_PER_INCH = 100


def make_figure(
  width: float,
  height: float,
  layout: typing.Literal['constrained'] | None = 'constrained',
) -> 'Figure':
  """Makes an empty figure, whose size is in inches."""
  # This import is late, as matplotlib takes longer to import than the rest of
  # tfp_nvi.
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)


def style_axes(axes: 'Axes') -> None:
  """Draws a light grid, and no frame above and on the right."""
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(color='0.9', linewidth=0.8)
  axes.set_axisbelow(True)


def line_styles(labels: Iterable[str], styles: dict | None) -> dict:
  """Returns line properties for each label: defaults by order, or `styles`."""
  found = {}
  for i, label in enumerate(labels):
    found[label] = {
      'color': COLORS[i % len(COLORS)],
      'linestyle': '-',
      **(styles or {}).get(label, {}),
    }
  return found


def check_labelled(name: str, value: object) -> None:
  """Raises an error if there is nothing to show."""
  if not isinstance(value, dict) or not value:
    raise ValueError(
      f'`{name}` must be a dict with an entry for each label to show; got '
      f'{value!r}.'
    )

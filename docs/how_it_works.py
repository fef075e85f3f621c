# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws the picture of docs/how_it_works.md: `python docs/how_it_works.py`."""

import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

BLUE, ORANGE, GREEN, GRAY = '#0072b2', '#d55e00', '#009e73', '0.35'
LEVELS = (r'$0$', r'$1$', r'$2$', r'$K-1$')
X = (1.0, 3.6, 6.2, 9.6)

figure = Figure(figsize=(10.0, 5.0), dpi=100)
axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
axes.set(xlim=(-1.2, 11.8), ylim=(-0.5, 6.0))
axes.set_axis_off()


def box(x, y, text, color, width=1.5, height=0.8):
  """Draws a box with a text, centered at a point."""
  axes.add_patch(
    FancyBboxPatch(
      (x - width / 2, y - height / 2),
      width,
      height,
      boxstyle='round,pad=0.05',
      facecolor='white',
      edgecolor=color,
      linewidth=1.6,
    )
  )
  axes.text(x, y, text, ha='center', va='center', fontsize=10.5)


def arrow(start, end, color):
  """Draws an arrow between two points."""
  axes.annotate(
    '',
    end,
    start,
    arrowprops=dict(arrowstyle='-|>', color=color, linewidth=1.5),
  )


def panel(low, high, color, title):
  """Shades a horizontal band, with a title at its top left."""
  axes.axhspan(low, high, color=color, alpha=0.07, linewidth=0)
  axes.text(-1.0, high - 0.12, title, color=color, va='top', fontsize=11.5)


panel(3.55, 6.0, BLUE, '1. Sample all levels in one compiled loop, no tape')
panel(-0.5, 1.95, ORANGE, '2. Replay all moves\nas one batch,\nunder a tape')

for i, (x, level) in enumerate(zip(X, LEVELS, strict=True)):
  box(x, 4.75, f'level {level}', BLUE)
  if i == 0:
    continue
  if i == 3:
    axes.text(0.5 * (X[2] + x), 4.75, '. . .', ha='center', fontsize=14)
    arrow((x - 1.25, 4.75), (x - 0.82, 4.75), BLUE)
  else:
    arrow((X[i - 1] + 0.82, 4.75), (x - 0.82, 4.75), BLUE)
    axes.text(
      0.5 * (X[i - 1] + x),
      5.0,
      'resample\nmove\nreweight',
      color=GRAY,
      ha='center',
      fontsize=8.5,
      linespacing=1.1,
    )
  arrow((x, 4.3), (x, 3.2), GREEN)
  box(x, 2.75, f'record {level}', GREEN, height=0.75)
  arrow((x, 2.3), (x, 1.35), GREEN)
  box(x, 0.9, f'move {level}\nagain', ORANGE)
  arrow((x, 0.45), (x, 0.05), ORANGE)
  axes.text(
    x, -0.2, f'gradient of $D_f$, level {level}', ha='center', fontsize=9.5
  )
axes.text(
  -1.0,
  2.75,
  'states, noise,\nlog weights,\nall held constant',
  color=GREEN,
  va='center',
  fontsize=9.5,
)
# No gradient flows from a level to the one before.
for left, right in ((X[1], X[2]), (X[2], X[3])):
  middle = 0.5 * (left + right)
  axes.plot([middle, middle], [-0.4, 1.35], color='0.5', ls=(0, (3, 3)), lw=1.2)
axes.text(
  -1.0,
  0.05,
  'no gradient flows\nbetween levels',
  color=GRAY,
  va='center',
  fontsize=9.5,
)

figure.savefig(pathlib.Path(__file__).with_name('how-it-works.png'))

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the pictures of the experiment."""

import matplotlib.figure
import numpy as np

from tfp_nvi import diagnostics
from tfp_nvi.experiments.hmm.methods import METHODS

__all__ = [
  'describe',
  'draw',
  'format_table',
]

_STATE_COLORS = ('#0072b2', '#009e73', '#e69f00', '#cc79a7')
# The preferred method for the inference that is drawn with the sequence.
_PREFERRED = ('nvi_state_aware', 'nvi_partial', 'oracle')


def describe(row):
  """Describes a finished method in a line."""
  return (
    f'{METHODS[row["method"]].label}: log Z-hat {row["log_normalizer"]:.2f}, '
    f'ESS {row["ess"]:.0f}, {row["distinct_eta_ancestors"]:.0f} ancestors, '
    f'trained in {row["training_seconds"]:.0f} s, tested in '
    f'{row["seconds"]:.0f} s'
  )


def format_table(rows, settings):
  """Formats the table of rows, the reference among them."""
  lines = [
    '',
    f'{settings.num_test_sequences} sequences of '
    f'{settings.sequence_length} steps, {settings.num_particles} '
    'particles; gap to the reference, ESS and ancestors of eta:',
    '',
    f'{"":<18} {"log Z-hat":>10} {"gap":>8} {"+-":>6} {"ESS":>7} '
    f'{"ancestors":>10} {"seconds":>8}',
  ]
  for row in rows:
    name = row['method']
    label = METHODS[name].label if name in METHODS else name
    ancestors = row['distinct_eta_ancestors']
    ancestors = '-' if ancestors is None else f'{ancestors:.1f}'
    lines.append(
      f'{label:<18} {row["log_normalizer"]:>10.2f} '
      f'{row["gap"]:>8.2f} {row["gap_standard_error"]:>6.2f} '
      f'{row["ess"]:>7.1f} {ancestors:>10} {row["seconds"]:>8.1f}'
    )
  return '\n'.join(lines)


def _make_figure(width, height):
  return matplotlib.figure.Figure(
    figsize=(width, height), dpi=100, layout='constrained'
  )


def _style(axes):
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(alpha=0.25, linewidth=0.6)


def _draw_sequence(arrays, label, x, z, eta):
  """Draws a sequence, its inferred states, and inferred and true emissions."""
  figure = _make_figure(11.0, 5.2)
  left, right = figure.subplots(
    1, 2, sharey=True, gridspec_kw={'width_ratios': [4, 1]}
  )
  steps = np.arange(1, len(x) + 1)
  inferred = np.argmax(arrays['states'], axis=-1)
  probs = np.max(arrays['states'], axis=-1)
  weights = arrays['weights'] / np.sum(arrays['weights'])
  mean = weights @ arrays['mean']
  scale = weights @ (arrays['precision'] ** -0.5)
  spread = np.sqrt(weights @ (arrays['mean'] - mean) ** 2)
  for m, color in enumerate(_STATE_COLORS):
    where = inferred == m
    left.axhspan(
      mean[m] - scale[m], mean[m] + scale[m], color=color, alpha=0.13, lw=0
    )
    left.axhline(mean[m], color=color, linewidth=1.2)
    left.axhline(eta.mean[m], color='0.1', linewidth=0.9, linestyle=(0, (4, 3)))
    left.scatter(
      steps[where],
      x[where],
      s=10 + 16 * probs[where],
      color=color,
      edgecolor=np.where(z[where] == m, 'none', 'black'),
      linewidth=0.8,
      label=f'state {m}',
    )
    right.errorbar(
      m - 0.12,
      eta.mean[m],
      yerr=eta.precision[m] ** -0.5,
      color='0.1',
      fmt='o',
      capsize=4,
      label='true' if m == 0 else None,
    )
    right.errorbar(
      m + 0.12,
      mean[m],
      yerr=scale[m],
      color=color,
      fmt='s',
      capsize=4,
      label='inferred' if m == 0 else None,
    )
    right.fill_between(
      [m, m + 0.24],
      mean[m] - 2 * spread[m],
      mean[m] + 2 * spread[m],
      color=color,
      alpha=0.3,
      linewidth=0.0,
    )
  for axes in (left, right):
    _style(axes)
  wrong = int(np.sum(inferred != z))
  left.set(
    xlabel='step',
    ylabel='observation',
    title=(
      f'{label}: observations by inferred state; {wrong} of {len(x)} are wrong '
      '(black rims)\nlines and bands: inferred means and deviations; dashes: '
      'true means'
    ),
    xlim=(0, len(x) + 1),
  )
  left.title.set_fontsize(10)
  right.set_xticks(range(len(_STATE_COLORS)))
  right.set_xlabel('state')
  right.set_title('mean and deviation\n(shade: 2 sd of the mean)', fontsize=10)
  right.legend(frameon=False, fontsize=9)
  return figure


def _draw_levels(arrays, settings):
  """Draws effective sample size and surviving ancestors along the sequence."""
  figure = _make_figure(11.0, 4.0)
  left, right = figure.subplots(1, 2)
  num_particles = settings.num_particles
  for name, found in arrays.items():
    method = METHODS[name]
    sizes = np.mean(found['effective_sample_sizes'], axis=1)
    roots = np.mean(found['num_roots_by_step'], axis=1)
    steps = np.arange(len(sizes))
    style = {'color': method.color, 'linewidth': 1.4}
    left.plot(steps, 100.0 * sizes / num_particles, label=method.label, **style)
    right.semilogy(steps, roots, **style)
  for axes in (left, right):
    _style(axes)
    axes.set_xlabel('step')
    axes.set_xlim(0, settings.sequence_length)
  left.set(
    ylabel=f'ESS  [% of {num_particles} particles]',
    title='effective sample size',
    ylim=(0.0, 102.0),
  )
  right.set(
    ylabel='distinct ancestors',
    title='particles of level 0 that have descendants',
    ylim=(0.8, 1.3 * num_particles),
  )
  figure.legend(
    *left.get_legend_handles_labels(), loc='outside right center', frameon=False
  )
  return figure


def _draw_heuristic(arrays):
  """Draws heuristic factors of whole sequences against exact likelihoods."""
  names = [name for name in arrays if 'heuristic' in arrays[name]]
  figure = _make_figure(max(3.4 * len(names), 4.0), 3.9)
  for axes, name in zip(
    figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
  ):
    exact = arrays[name]['exact']
    best = np.argmax(exact)
    x = exact - exact[best]
    y = arrays[name]['heuristic'] - arrays[name]['heuristic'][best]
    near = x > -60.0
    error = np.std((y - x)[x > -10.0]) if np.sum(x > -10.0) > 1 else np.nan
    axes.plot([-60, 0], [-60, 0], color='0.4', linewidth=0.9, linestyle='--')
    axes.scatter(x[near], y[near], s=12, color=METHODS[name].color, alpha=0.7)
    _style(axes)
    axes.set(xlabel='exact log likelihood', title=METHODS[name].label)
    axes.text(
      0.04,
      0.93,
      f'sd of the error {error:.2f}\n(exact > -10)',
      transform=axes.transAxes,
      va='top',
      fontsize=8,
    )
    axes.set_ylim(np.min(y[near]) - 3.0, np.max(y[near]) + 6.0)
  figure.axes[0].set_ylabel(r'$\log \psi(x_{1:K} \mid \eta)$')
  figure.suptitle(
    'heuristic factors of one sequence, relative to the likeliest emissions',
    fontsize=11,
  )
  return figure


def draw(arrays, x, z, eta, settings):
  """Draws all pictures.

  Args:
    arrays: Python `dict` from methods to their arrays.
    x: The sequence that is drawn, of shape `[num_steps]`.
    z: Its true states.
    eta: Its true emissions.
    settings: `Settings`.

  Returns:
    figures: Python `dict` from names to Matplotlib figures.
  """
  shown = next((n for n in _PREFERRED if n in arrays), next(iter(arrays)))
  labels = {name: METHODS[name].label for name in arrays}
  num_values = len(next(iter(arrays.values()))['training_ess'])
  figures = {
    'sequence': _draw_sequence(arrays[shown], labels[shown], x, z, eta),
    'levels': _draw_levels(arrays, settings),
    'training': diagnostics.plot_training(
      {labels[n]: arrays[n]['training_ess'] for n in labels},
      {labels[n]: arrays[n]['training_log_normalizer'] for n in labels},
      num_particles=settings.num_training_particles,
      steps_per_value=settings.num_steps / num_values,
      styles={labels[n]: {'color': METHODS[n].color} for n in labels},
    ),
  }
  if any('heuristic' in arrays[name] for name in labels):
    figures['heuristic'] = _draw_heuristic(arrays)
  return figures

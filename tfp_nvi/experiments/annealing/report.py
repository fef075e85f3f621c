# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the pictures of the annealing experiment."""

import tfp_nvi as nvi
from tfp_nvi.experiments.annealing.methods import (
  INITIAL_SCALE,
  METHODS,
  TARGETS,
  make_sampler,
)

__all__ = [
  'NUM_SAMPLES',
  'QUADRATURE_LIMITS',
  'describe',
  'draw',
  'format_table',
]

# The number of samples in each batch that is evaluated.
NUM_SAMPLES = 100
# The limits of integration, at four standard deviations of the initial density.
QUADRATURE_LIMITS = (-4.0 * INITIAL_SCALE, 4.0 * INITIAL_SCALE)

# Table 1 of [1]: log normalizer and effective sample size, out of 100, for 2,
# 4, 6 and 8 densities.
_PAPER = {
  'svi': ((1.86, 1.89, 1.92, 1.72), (51, 47, 32, 25)),
  'svi_flow': ((2.06,), (55,)),
  'avo': ((1.86, 1.96, 2.01, 2.05), (51, 44, 46, 46)),
  'nvi': ((1.86, 1.97, 2.03, 2.06), (51, 45, 45, 41)),
  'nvir': ((1.86, 1.98, 2.04, 2.06), (51, 99, 98, 97)),
  'nvi_star': ((1.86, 2.06, 2.07, 2.07), (51, 51, 54, 54)),
  'nvir_star': ((1.86, 2.06, 2.07, 2.08), (51, 95, 96, 97)),
  'avo_flow': ((2.05, 2.08, 2.07, 2.08), (28, 67, 77, 70)),
  'nvi_star_flow': ((2.05, 2.08, 2.08, 2.08), (28, 81, 78, 70)),
}
_PAPER_NUM_DENSITIES = (2, 4, 6, 8)
_PAPER_TARGET = 'ring_of_gaussians'
# A figure counts as below a published one, which is rounded, by this margin.
_TOLERANCES = {'log_normalizer': 0.02, 'ess': 2.0}


def describe(row):
  """Describes a finished cell in a line."""
  without = ''
  if METHODS[row['method']].resamples:
    without = f' ({row["ess_without_resampling"]:.1f} without resampling)'
  return (
    f'{METHODS[row["method"]].label}, {row["num_densities"]} densities: '
    f'log Z-hat {row["log_normalizer"]:.3f} +- {row["log_normalizer_std"]:.3f} '
    f'(true {row["log_normalizer_true"]:.3f}), ESS {row["ess"]:.1f} +- '
    f'{row["ess_std"]:.1f} of {NUM_SAMPLES}{without}, modes at '
    f'{row["mode_mass_lowest"]:.2f} to {row["mode_mass_highest"]:.2f} of their '
    'mass, '
    f'{row["microseconds_per_step"]:.0f} us a step, {row["seconds"]:.0f} s'
  )


def _published(row, field, target):
  """Returns the published figure of a cell; `None` if there is none."""
  if target != _PAPER_TARGET:
    return None
  published = _PAPER[row['method']][0 if field == 'log_normalizer' else 1]
  return dict(zip(_PAPER_NUM_DENSITIES, published, strict=False)).get(
    row['num_densities']
  )


def format_table(rows, target):
  """Formats the table of rows, beside the published figures."""
  counts = sorted({row['num_densities'] for row in rows})
  by_cell = {(row['method'], row['num_densities']): row for row in rows}
  beside = ', measured / published' if target == _PAPER_TARGET else ''
  lines = []
  num_below = 0
  true = rows[0]['log_normalizer_true']
  for field, digits, digits_published, title in (
    ('log_normalizer', 3, 2, f'log Z-hat (true {true:.3f})'),
    ('ess', 1, 0, f'ESS of {NUM_SAMPLES} samples'),
  ):
    lines += ['', title + beside]
    lines.append(' ' * 10 + ''.join(f'{f"K = {k}":>16}' for k in counts))
    for name, method in METHODS.items():
      if not any((name, k) in by_cell for k in counts):
        continue
      line = f'{method.label:10}'
      for k in counts:
        row = by_cell.get((name, k))
        if row is None:
          line += f'{"-":>16}'
          continue
        value, published = row[field], _published(row, field, target)
        text, mark = f'{value:.{digits}f}', ' '
        if published is not None:
          text += f' / {published:.{digits_published}f}'
          if value < published - _TOLERANCES[field]:
            mark = '!'
            num_below += 1
        line += f'{text:>15}{mark}'
      lines.append(line.rstrip())
  if num_below:
    lines += [
      '',
      f'! {num_below} below the published figure by more than '
      f'{_TOLERANCES["log_normalizer"]:g} or {_TOLERANCES["ess"]:g}.',
    ]
  return '\n'.join(lines)


def draw(arrays_by_cell, settings):
  """Draws the pictures of cells.

  Args:
    arrays_by_cell: Python `dict` from pairs of method and number of densities
      to the arrays of the cell.
    settings: `Settings`.

  Returns:
    figures: Python `dict` from names to Matplotlib figures.
  """
  target = TARGETS[settings.target]()
  figures = {}
  for k in sorted({k for _, k in arrays_by_cell}):
    by_method = {
      name: arrays_by_cell[name, k]
      for name in METHODS
      if (name, k) in arrays_by_cell
    }
    figures.update(
      (f'{name}-{k}', figure)
      for name, figure in _draw_count(k, by_method, target, settings).items()
    )
  return figures


def _draw_count(num_densities, by_method, target, settings):
  """Draws the pictures of one number of densities."""
  styles = {METHODS[name].label: METHODS[name].style for name in by_method}
  title = target.name.replace('_', ' ').replace('gauss', 'Gauss')
  title = f'{title}, {num_densities} densities'

  def by_label(fn, names=by_method):
    return {METHODS[name].label: fn(by_method[name]) for name in names}

  figures = {
    'samples': nvi.diagnostics.plot_samples(
      by_label(lambda arrays: (arrays['particles'], arrays['log_weights'])),
      target.limits,
      target_log_prob_fn=target.unnormalized_log_prob,
    )
  }
  learned = [name for name in by_method if 'divergences' in by_method[name]]
  if learned:
    linear = make_sampler('nvi', target, num_densities)[0].densities
    divergences = nvi.diagnostics.successive_kl(linear, QUADRATURE_LIMITS)
    figures['path'] = nvi.diagnostics.plot_schedules(
      {
        'linear': linear.schedule,
        **by_label(lambda arrays: arrays['schedule'], learned),
      },
      {
        'linear': divergences,
        **by_label(lambda arrays: arrays['divergences'], learned),
      },
      styles={'linear': {'color': '0.35', 'linestyle': ':'}, **styles},
      title=title,
    )
  log_normalizers = by_label(lambda arrays: arrays['log_normalizer'])
  num_values = len(next(iter(log_normalizers.values())))
  figures['training'] = nvi.diagnostics.plot_training(
    by_label(lambda arrays: arrays['effective_sample_size']),
    log_normalizers,
    num_particles=settings.sample_budget // num_densities,
    true_log_normalizer=target.log_normalizer,
    steps_per_value=settings.num_steps / num_values,
    styles=styles,
    title=f'{title}, {settings.num_restarts} restarts',
  )
  return figures

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures: particles level by level, schedules, and the course of training.

Contract: no function changes a sampler. Each picture is a new
`matplotlib.figure.Figure`, which uses neither the state of `pyplot` nor a
display; `figure.savefig(path)` writes it.
"""

from collections.abc import Callable

import numpy as np

from tfp_nvi import weighting
from tfp_nvi.diagnostics import figures

__all__ = [
  'plot_samples',
  'plot_schedules',
  'plot_training',
]


def plot_samples(
  traces: dict[str, tuple],
  limits: tuple[float, float],
  target_log_prob_fn: Callable | None = None,
  num_bins: int | None = None,
  title: str | None = None,
) -> 'figures.Figure':
  """Plots particles: a row for each sampler, a column for each level.

  Each panel is a histogram of the weighted particles after the level, with
  bright colors for high density, and the effective sample size as a percentage
  of the particles.

  Args:
    traces: Python `dict` from labels to the `Trace`s of samplers over the
      plane, or tuples of the same first two fields. Batch members of a sampler,
      such as restarts, are shown together.
    limits: Pair of Python `float`s: limits of both axes.
    target_log_prob_fn: Python callable from points of shape `[n, 2]` to log
      densities of shape `[n]`, to show in a last column.
      Default value: `None` (i.e., no such column).
    num_bins: Python `int` number of bins along an axis.
      Default value: `None` (i.e., 80 for up to three samplers, else 55).
    title: Python `str`.
      Default value: `None` (i.e., no title).

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    ValueError: If `traces` is not a dict or is empty, or its states are not
      points of the plane.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag([0.0, 0.0], [5.0, 5.0]),
    tfd.MultivariateNormalDiag([3.0, 0.0], [1.0, 1.0]),
    num_densities=3,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  trace = sampler.trace(500, seed=2, jit_compile=False)
  figure = nvi.diagnostics.plot_samples({'untrained': trace}, (-12.0, 12.0))
  ```
  """
  import matplotlib

  figures.check_labelled('traces', traces)
  rows = {
    label: _weighted_levels(*trace[:2]) for label, trace in traces.items()
  }
  num_columns = max(len(points) for points, _, _ in rows.values())
  num_panels = num_columns + (target_log_prob_fn is not None)
  if num_bins is None:
    num_bins = 80 if len(rows) < 4 else 55
  # The size of a panel in inches. A bin is exactly two dots wide, which keeps
  # files small.
  panel = 2 * num_bins / figures.DOTS_PER_INCH
  gap, left, top = 0.04, 0.32, 0.26
  if title:
    top += 0.3
  width = left + num_panels * (panel + gap)
  height = top + len(rows) * (panel + gap)
  figure = figures.make_figure(width, height, layout=None)
  all_axes = figure.subplots(
    len(rows),
    num_panels,
    squeeze=False,
    gridspec_kw={
      'left': left / width,
      'right': 1.0 - gap / width,
      'bottom': gap / height,
      'top': 1.0 - top / height,
      'wspace': gap / panel,
      'hspace': gap / panel,
    },
  )
  edges = np.linspace(*limits, num_bins + 1)

  # Few colors look like contours of the density, and keep files small.
  cmap = matplotlib.colormaps['magma'].resampled(24)

  def show(axes, density):
    axes.imshow(
      # A power below one makes low densities visible beside peaks.
      (density / max(np.max(density), np.finfo(np.float64).tiny)).T ** 0.7,
      origin='lower',
      extent=(*limits, *limits),
      cmap=cmap,
      vmin=0.0,
      vmax=1.0,
      interpolation='nearest',
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

  for row, (label, levels) in zip(all_axes, rows.items(), strict=True):
    for axes, points, weights, ess in zip(row, *levels, strict=False):
      histogram, *_ = np.histogram2d(
        points[:, 0], points[:, 1], bins=(edges, edges), weights=weights
      )
      show(axes, _smooth(histogram))
      axes.text(
        0.04,
        0.04,
        f'ESS {100 * ess:.0f}%',
        transform=axes.transAxes,
        color='white',
        fontsize=7.5,
      )
    for axes in row[len(levels[0]) : num_columns]:
      axes.set_axis_off()
    row[0].set_ylabel(label, fontsize=11)
  for level, axes in enumerate(all_axes[0, :num_columns]):
    axes.set_title(f'level {level}', fontsize=10)
  if target_log_prob_fn is not None:
    axis = 0.5 * (edges[1:] + edges[:-1])
    grid = np.stack(np.meshgrid(axis, axis, indexing='ij'), axis=-1)
    log_prob = np.asarray(target_log_prob_fn(grid.reshape([-1, 2])), np.float64)
    density = np.exp(log_prob - np.max(log_prob)).reshape(grid.shape[:2])
    for axes in all_axes[:, -1]:
      show(axes, _smooth(density))
    all_axes[0, -1].set_title('target', fontsize=10)
  if title:
    figure.suptitle(title, fontsize=12)
  return figure


def _smooth(histogram):
  """Blurs a histogram by about one bin, to suppress noise."""
  kernel = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
  for axis in range(histogram.ndim):
    histogram = np.apply_along_axis(
      np.convolve, axis, histogram, kernel, mode='same'
    )
  return histogram


def _weighted_levels(particles, log_weights):
  """Returns points, weights and relative effective sample size of each level.

  Args:
    particles: Array-like of shape `[num_levels, num_particles] + batch + [2]`.
    log_weights: Array-like of shape `[num_levels, num_particles] + batch`.

  Returns:
    points: NumPy array of shape `[num_levels, n, 2]`.
    weights: NumPy array of shape `[num_levels, n]`.
    effective_sample_size: NumPy array of shape `[num_levels]`: the mean over
      batch members, as a share of the number of particles.
  """
  particles, log_weights = np.asarray(particles), np.asarray(log_weights)
  if log_weights.ndim < 2 or particles.shape != (*log_weights.shape, 2):
    raise ValueError(
      '`traces` must have particles of shape [num_levels, num_particles] + '
      'batch + [2], points of the plane, and log weights of the same shape '
      f'without the last axis; got shapes {particles.shape} and '
      f'{log_weights.shape}.'
    )
  num_levels, num_particles = log_weights.shape[:2]
  # The functions below reduce over the first axis.
  log_weights = np.moveaxis(log_weights, 1, 0).reshape(
    [num_particles, num_levels, -1]
  )
  weights = weighting.normalize_weights(log_weights).numpy()
  ess = weighting.effective_sample_size(log_weights).numpy().mean(axis=-1)
  return (
    particles.reshape([num_levels, -1, 2]),
    np.moveaxis(weights, 1, 0).reshape([num_levels, -1]),
    ess / num_particles,
  )


def plot_schedules(
  schedules: dict,
  divergences: dict,
  styles: dict | None = None,
  title: str | None = None,
) -> 'figures.Figure':
  """Plots annealing schedules, and divergences of successive densities.

  Thin lines are batch members, such as restarts, and thick lines their means.

  Args:
    schedules: Python `dict` from labels to values of beta, of shape
      `batch + [num_densities]`, such as `GeometricPath.schedule`.
    divergences: Python `dict` from the same labels to divergences of shape
      `[num_densities - 1] + batch`, such as those of `successive_kl`.
    styles: Python `dict` from labels to properties of `matplotlib` lines.
      Default value: `None` (i.e., a color for each).
    title: Python `str`.
      Default value: `None` (i.e., no title).

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    ValueError: If a dict is empty, or the labels or shapes do not agree.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 5.0), tfd.Normal(3.0, 1.0), num_densities=5
  )
  figure = nvi.diagnostics.plot_schedules(
    {'linear': path.schedule},
    {'linear': nvi.diagnostics.successive_kl(path, limits=(-25.0, 25.0))},
  )
  ```
  """
  figures.check_labelled('schedules', schedules)
  figures.check_labelled('divergences', divergences)
  if set(schedules) != set(divergences):
    raise ValueError(
      '`divergences` must have the labels of `schedules`, '
      f'{sorted(schedules)}; got {sorted(divergences)}.'
    )
  figure = figures.make_figure(9.6, 3.6 + (0.3 if title else 0.0))
  left, right = figure.subplots(1, 2)
  for label, style in figures.line_styles(schedules, styles).items():
    schedule = np.asarray(schedules[label], np.float64)
    schedule = schedule.reshape([-1, schedule.shape[-1]])
    divergence = np.asarray(divergences[label], np.float64)
    divergence = divergence.reshape([len(divergence), -1]).T
    if divergence.shape[1] != schedule.shape[1] - 1:
      raise ValueError(
        f"`divergences['{label}']` must have a value between each two of the "
        f'{schedule.shape[1]} values of the schedule; got '
        f'{divergence.shape[1]}.'
      )
    for axes, values in ((left, schedule), (right, divergence)):
      levels = np.arange(values.shape[1])
      if len(values) > 1:
        axes.plot(levels, values.T, **style, linewidth=0.8, alpha=0.35)
      axes.plot(
        levels,
        np.mean(values, axis=0),
        **style,
        linewidth=2.0,
        marker='o',
        markersize=4.5,
        label=label,
      )
  for axes in (left, right):
    figures.style_axes(axes)
  num_levels = max(np.shape(s)[-1] for s in schedules.values())
  left.set(
    xlabel=r'level $k$',
    ylabel=r'$\beta_k$',
    title='schedule',
    xticks=range(num_levels),
  )
  right.set(
    xlabel=r'levels $k \to k+1$',
    ylabel=r'$\mathrm{KL}(\pi_k\,\|\,\pi_{k+1})$  [nats]',
    title='KL between successive densities',
    xticks=range(num_levels - 1),
    xticklabels=[rf'{k}$\to${k + 1}' for k in range(num_levels - 1)],
    yscale='log',
  )
  left.legend(frameon=False)
  if title:
    figure.suptitle(title, fontsize=12)
  return figure


def plot_training(
  effective_sample_sizes: dict,
  log_normalizers: dict,
  num_particles: int,
  true_log_normalizer: float | None = None,
  steps_per_value: float = 1.0,
  num_blocks: int = 50,
  styles: dict | None = None,
  title: str | None = None,
) -> 'figures.Figure':
  """Plots effective sample size and log normalizer over training.

  Lines are means over blocks of steps and over batch members, such as restarts;
  bands extend one standard deviation over batch members to either side.

  Args:
    effective_sample_sizes: Python `dict` from labels to values of shape
      `[num_steps] + batch`, such as `History.effective_sample_size`.
    log_normalizers: Python `dict` from the same labels to values of the same
      shapes, such as `History.log_normalizer`.
    num_particles: Python `int` number of particles in training.
    true_log_normalizer: Python `float` to draw a line at.
      Default value: `None` (i.e., no line).
    steps_per_value: Python `float` number of training steps of each value, if
      values are means over several steps.
      Default value: `1.`.
    num_blocks: Python `int` number of blocks that training is divided into.
      Default value: `50`.
    styles: Python `dict` from labels to properties of `matplotlib` lines.
      Default value: `None` (i.e., a color for each).
    title: Python `str`.
      Default value: `None` (i.e., no title).

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    ValueError: If a dict is empty, or the labels do not agree.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(2.0, 0.5), num_densities=2
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  history = nvi.fit(
    sampler, nvi.reverse_kl(), num_particles=10, num_steps=20, seed=2
  )
  figure = nvi.diagnostics.plot_training(
    {'NVIR': history.effective_sample_size},
    {'NVIR': history.log_normalizer},
    num_particles=10,
  )
  ```
  """
  figures.check_labelled('effective_sample_sizes', effective_sample_sizes)
  figures.check_labelled('log_normalizers', log_normalizers)
  if set(effective_sample_sizes) != set(log_normalizers):
    raise ValueError(
      '`log_normalizers` must have the labels of `effective_sample_sizes`, '
      f'{sorted(effective_sample_sizes)}; got {sorted(log_normalizers)}.'
    )
  figure = figures.make_figure(11.0, 3.7 + (0.3 if title else 0.0))
  left, right = figure.subplots(1, 2)
  settled = [] if true_log_normalizer is None else [true_log_normalizer]
  for label, style in figures.line_styles(
    effective_sample_sizes, styles
  ).items():
    shares = 100.0 * np.asarray(effective_sample_sizes[label]) / num_particles
    for axes, values in ((left, shares), (right, log_normalizers[label])):
      steps, blocks = _block_means(np.asarray(values, np.float64), num_blocks)
      steps = steps * steps_per_value
      mean, deviation = np.mean(blocks, axis=1), np.std(blocks, axis=1)
      axes.plot(steps, mean, **style, linewidth=1.6, label=label)
      axes.fill_between(
        steps,
        mean - deviation,
        mean + deviation,
        color=style['color'],
        alpha=0.18,
        linewidth=0.0,
      )
      if axes is right:
        settled.extend(mean[len(mean) // 4 :])
  for axes in (left, right):
    figures.style_axes(axes)
    axes.set_xlabel('training step')
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.locator_params(axis='x', nbins=5)
    axes.set_xlim(left=0.0)
  left.set(
    ylabel=f'ESS  [% of {num_particles} particles]',
    title='effective sample size',
    ylim=(0.0, 102.0),
  )
  if true_log_normalizer is not None:
    right.axhline(
      true_log_normalizer, color='0.25', linestyle=':', label='true'
    )
  # The first steps are often far below the others. Limits that included them
  # would hide the differences between methods.
  low, high = np.min(settled), np.max(settled)
  margin = max(0.3 * (high - low), 0.02)
  right.set(
    ylabel=r'$\log \hat Z$',
    title='log normalizer',
    ylim=(low - margin, high + margin),
  )
  figure.legend(
    *right.get_legend_handles_labels(),
    loc='outside right center',
    frameon=False,
  )
  if title:
    figure.suptitle(title, fontsize=12)
  return figure


def _block_means(values, num_blocks):
  """Returns middle steps and means, of shape `[num_blocks, batch_size]`."""
  values = values.reshape([len(values), -1])
  bounds = np.linspace(0, len(values), min(num_blocks, len(values)) + 1)
  bounds = bounds.astype(int)
  sums = np.add.reduceat(values, bounds[:-1], axis=0)
  return (
    0.5 * (bounds[:-1] + bounds[1:]),
    sums / np.diff(bounds)[:, np.newaxis],
  )

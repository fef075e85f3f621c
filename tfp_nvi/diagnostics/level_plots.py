# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of levels, runs and modes.

Contract: as in `plots`. Each picture is a new `matplotlib.figure.Figure`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_nvi import runs, weighting
from tfp_nvi.diagnostics import figures, levels, numbers
from tfp_nvi.internal import checks, naming
from tfp_nvi.posterior import Posterior, diagnosis

__all__ = [
  'plot_levels',
  'plot_modes',
  'plot_ranks',
  'plot_trace',
]

# The largest number of variables that a picture shows.
_MAX_ROWS = 12


def plot_levels(
  traces: dict[str, runs.Trace], title: str | None = None
) -> 'figures.Figure':
  """Plots divergences, log normalizer, sample size and Pareto k by level.

  Lines are means over batch members, such as restarts.

  Args:
    traces: Python `dict` from labels to `Trace`s.
    title: Python `str`.
      Default value: `None` (i.e., no title).

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    ValueError: If `traces` is not a dict or is empty.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=4
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  trace = sampler.trace(500, seed=2, jit_compile=False)
  figure = nvi.diagnostics.plot_levels({'untrained': trace})
  ```
  """
  figures.check_labelled('traces', traces)
  figure = figures.make_figure(11.0, 6.2 + (0.3 if title else 0.0))
  (divergence, normalizer), (size, tail) = figure.subplots(2, 2)
  for label, style in figures.line_styles(traces, None).items():
    report = levels.level_report(traces[label])
    num_particles = np.shape(traces[label].log_weights)[1]
    number = np.arange(len(report.log_ratio))

    def draw(axes, values, number=number, **options):
      values = np.asarray(values).reshape([len(values), -1])
      values = np.where(np.isfinite(values), values, np.nan)
      axes.plot(number, values.mean(axis=1), marker='o', ms=3.5, **options)

    draw(divergence, report.reverse_kl, label=f'{label}, reverse', **style)
    draw(
      divergence,
      report.forward_kl,
      label=f'{label}, forward',
      **{**style, 'linestyle': ':'},
    )
    draw(normalizer, np.cumsum(report.log_ratio, axis=0), **style)
    draw(size, 100.0 * report.effective_sample_size / num_particles, **style)
    draw(tail, report.pareto_k, label=label, **style)
  limit = diagnosis.MOST_PARETO_K
  tail.axhline(limit, color='0.25', linestyle=':', linewidth=1.0)
  divergence.set(title='KL divergence of the two sides', ylabel='nats')
  divergence.legend(frameon=False, fontsize=8)
  normalizer.set(title='log normalizer', ylabel=r'$\log \hat Z_k$')
  size.set(
    title='effective sample size', ylabel='% of particles', ylim=(0.0, 102.0)
  )
  tail.set(title='Pareto k of the weights', ylabel='k')
  tail.annotate(
    f'{limit}',
    (0.0, limit),
    xytext=(2, 2),
    textcoords='offset points',
    fontsize=8,
  )
  for axes in (divergence, normalizer, size, tail):
    figures.style_axes(axes)
    axes.set_xlabel('level')
    axes.xaxis.get_major_locator().set_params(integer=True)
  if title:
    figure.suptitle(title, fontsize=12)
  return figure


def _columns(particles, num_leading, names):
  """Returns scalar variables as arrays of shape `leading`, by their names.

  Args:
    particles: Nested structure of arrays of shape `leading + event`.
    num_leading: Python `int`.
    names: List of Python `str`s, or `None`.

  Returns:
    columns: Python `dict` from names to arrays of shape `leading`.
  """
  parts = [np.asarray(x) for x in tf.nest.flatten(particles)]
  names = naming.leaf_names(particles) if names is None else list(names)
  if len(names) != len(parts):
    raise ValueError(
      f'`names` must be {len(parts)} names, one for each variable; got '
      f'{names!r}.'
    )
  columns = {}
  for name, x in zip(names, parts, strict=True):
    event_shape = x.shape[num_leading:]
    for index in np.ndindex(*event_shape):
      place = f'[{", ".join(map(str, index))}]' if index else ''
      columns[name + place] = np.asarray(
        x[(Ellipsis, *index)] if index else x, np.float64
      )
  return columns


def plot_trace(
  trace: runs.Trace,
  names: Sequence[str] | None = None,
  title: str | None = None,
) -> 'figures.Figure':
  """Plots the particles of each variable from the first level to the last.

  There is a row for each scalar variable, 12 at most. It shows the median of
  the weighted particles, and bands with half and nine tenths of the weight.
  Batch members are shown together.

  Args:
    trace: `Trace`, of `NestedSampler.trace`.
    names: List of Python `str`s: the variables, in the order of `tf.nest`.
      Default value: `None` (i.e., those of the structure).
    title: Python `str`.
      Default value: `None` (i.e., no title).

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    TypeError: If `trace` is not a `Trace`.
    ValueError: If names and variables differ in number.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=4
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  trace = sampler.trace(500, seed=2, jit_compile=False)
  figure = nvi.diagnostics.plot_trace(trace, names=['loc'])
  ```
  """
  checks.check_instance(
    'trace', trace, runs.Trace, 'a Trace, of NestedSampler.trace'
  )
  log_weights = np.asarray(trace.log_weights, np.float64)
  num_levels = len(log_weights)
  # Members of the batch count alike.
  weights = np.moveaxis(
    weighting.normalize_weights(np.moveaxis(log_weights, 1, 0)).numpy(), 0, 1
  ).reshape([num_levels, -1])
  columns = _columns(trace.particles, log_weights.ndim, names)
  shown = dict(list(columns.items())[:_MAX_ROWS])
  figure = figures.make_figure(
    7.0, 0.6 + 1.7 * len(shown) + (0.3 if title else 0.0)
  )
  rows = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
  number = np.arange(num_levels)
  for axes, (name, values) in zip(rows, shown.items(), strict=True):
    values = values.reshape([num_levels, -1])
    # Levels are a batch, of particles on the first axis.
    low, lower, middle, upper, high = weighting.weighted_quantiles(
      weights.T, values.T, [0.05, 0.25, 0.5, 0.75, 0.95]
    ).numpy()
    color = figures.COLORS[1]
    axes.fill_between(number, low, high, color=color, alpha=0.15, linewidth=0)
    axes.fill_between(number, lower, upper, color=color, alpha=0.3, linewidth=0)
    axes.plot(number, middle, color=color, marker='o', ms=3.5)
    figures.style_axes(axes)
    axes.set_ylabel(name)
  rows[-1].set_xlabel('level')
  rows[-1].xaxis.get_major_locator().set_params(integer=True)
  if title:
    figure.suptitle(title, fontsize=12)
  return figure


def plot_ranks(
  particles: weighting.WeightedParticles | Posterior,
  names: Sequence[str] | None = None,
  num_bins: int = 20,
) -> 'figures.Figure':
  """Plots ranks, which show whether independent runs agree.

  Particles of all runs are ranked together by weight, where each run counts
  equally. A panel shows how the weight of one run is distributed over these
  ranks, relative to a uniform distribution, with a band of two standard errors:
  a run that agrees with the others has bars at one. There is a row for each
  scalar variable, 12 at most.

  Args:
    particles: `WeightedParticles` of shape
      `[num_particles, num_runs] + event`, of runs for the same density; or a
      `Posterior`, whose runs are shown.
    names: List of Python `str`s: the variables, in the order of `tf.nest`.
      Default value: `None` (i.e., those of the structure, or the posterior).
    num_bins: Python `int`.
      Default value: `20`.

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    ValueError: If there is not exactly one axis of runs, a run has no weight,
      or names and variables differ in number.

  #### References

  [1]: A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner.
       Rank-normalization, folding, and localization: an improved R-hat.
       Bayesian Analysis, 16(2), 2021.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  particles = nvi.WeightedParticles(
    tf.random.stateless_normal([200, 3], seed=[1, 2]), tf.zeros([200, 3])
  )
  figure = nvi.diagnostics.plot_ranks(particles)
  ```
  """
  num_bins = checks.as_count('num_bins', num_bins, 2)
  parts: Any = particles
  if isinstance(particles, Posterior):
    num_runs = particles.num_runs
    names = particles.names if names is None else names
    parts = tf.nest.map_structure(
      lambda x: tf.reshape(x, [-1, num_runs] + x.shape[1:].as_list()),
      weighting.WeightedParticles(*particles.particles[:2])[:2],
    )
  values, log_weights = parts[:2]
  log_weights = np.asarray(log_weights, np.float64)
  if log_weights.ndim != 2:
    raise ValueError(
      '`particles` must have one axis of runs after that of the particles; got '
      f'log weights of shape {log_weights.shape}.'
    )
  if np.any(np.max(log_weights, axis=0) == -np.inf):
    raise ValueError(
      '`particles` must have weight in each run; all weights of one are zero.'
    )
  weights = weighting.normalize_weights(log_weights).numpy()
  sizes = weighting.effective_sample_size(log_weights).numpy()
  num_runs = weights.shape[1]
  shown = dict(list(_columns(values, 2, names).items())[:_MAX_ROWS])
  figure = figures.make_figure(0.6 + 1.8 * num_runs, 0.6 + 1.4 * len(shown))
  panels = figure.subplots(
    len(shown), num_runs, squeeze=False, sharex=True, sharey=True
  )
  edges = np.linspace(0.0, 1.0, num_bins + 1)
  for row, (name, x) in zip(panels, shown.items(), strict=True):
    ranks = _pooled_ranks(x, weights)
    for run, axes in enumerate(row):
      heights, _ = np.histogram(
        ranks[:, run], bins=edges, weights=num_bins * weights[:, run]
      )
      axes.bar(
        edges[:-1],
        heights,
        width=1.0 / num_bins,
        align='edge',
        color=figures.COLORS[run % len(figures.COLORS)],
        alpha=0.7,
      )
      # The standard error of a share of 1 / num_bins, for as many independent
      # draws as the effective sample size, relative to the share.
      error = np.sqrt((num_bins - 1.0) / np.maximum(sizes[run], 1.0))
      axes.axhspan(1.0 - 2.0 * error, 1.0 + 2.0 * error, color='0.5', alpha=0.2)
      axes.axhline(1.0, color='0.25', linewidth=0.8)
      figures.style_axes(axes)
    row[0].set_ylabel(name)
  for run, axes in enumerate(panels[0]):
    axes.set_title(f'run {run}', fontsize=9)
  for axes in panels[-1]:
    axes.set_xlabel('rank')
  panels[0, 0].set(xlim=(0.0, 1.0), ylim=(0.0, None))
  return figure


def _pooled_ranks(values, weights):
  """Ranks among all runs: the weight below each value, from 0 to 1."""
  flat, flat_weights = values.ravel(), weights.ravel()
  order = np.argsort(flat, kind='stable')
  cumulative = np.cumsum(flat_weights[order])
  ranks = np.empty_like(cumulative)
  # The rank of a particle is at the middle of its own weight.
  ranks[order] = cumulative - 0.5 * flat_weights[order]
  return (ranks / max(cumulative[-1], 1e-300)).reshape(values.shape)


def plot_modes(
  report: numbers.ModeReport, title: str | None = None
) -> 'figures.Figure':
  """Plots the weight of each mode and its probability, with standard errors.

  Args:
    report: `ModeReport`. If it has a batch, each member is a point.
    title: Python `str`.
      Default value: `None` (i.e., no title).

  Returns:
    figure: `matplotlib.figure.Figure`.

  Raises:
    TypeError: If `report` is not a `ModeReport`.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  target = nvi.targets.ring_of_gaussians()
  particles = nvi.WeightedParticles(
    target.sample(1_000, seed=1), tf.zeros(1_000)
  )
  figure = nvi.diagnostics.plot_modes(
    nvi.diagnostics.mode_report(particles, target)
  )
  ```
  """
  checks.check_instance(
    'report', report, numbers.ModeReport, 'a ModeReport, of mode_report'
  )
  expected = np.asarray(report.expected, np.float64)
  num_modes = len(expected)
  shares = np.asarray(report.shares, np.float64).reshape([-1, num_modes])
  errors = np.asarray(report.errors, np.float64).reshape([-1, num_modes])
  figure = figures.make_figure(
    max(4.0, 1.2 + 0.4 * num_modes), 3.4 + (0.3 if title else 0.0)
  )
  axes = figure.subplots()
  number = np.arange(num_modes)
  axes.bar(number, expected, color='0.85', label='probability')
  for i, (share, error) in enumerate(zip(shares, errors, strict=True)):
    shift = 0.6 * ((i + 0.5) / len(shares) - 0.5)
    axes.errorbar(
      number + shift,
      share,
      yerr=np.where(np.isfinite(error), error, 0.0),
      fmt='o',
      ms=4,
      color=figures.COLORS[1],
      label='share of the weight' if i == 0 else None,
    )
  figures.style_axes(axes)
  axes.set(xlabel='mode', ylabel='weight', xticks=number, ylim=(0.0, None))
  figure.legend(loc='outside lower center', ncols=2, frameon=False)
  if title:
    figure.suptitle(title, fontsize=12)
  return figure

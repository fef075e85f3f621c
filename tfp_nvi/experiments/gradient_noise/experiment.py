# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures signal-to-noise ratios of gradients, and draws them."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib import figure as figure_lib

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'OBJECTIVES',
  'Settings',
  'run',
]


class _Kind(NamedTuple):
  """An objective that is measured.

  Fields:
    label: Python `str`: its name in tables and pictures.
    objective_fn: Python callable that makes it.
    resampling: Tuple of Python `bool`s: without, with, or both.
    color: Python `str`.
  """

  label: str
  objective_fn: Callable
  resampling: tuple
  color: str


OBJECTIVES = {
  'svi': _Kind('ELBO', nvi.svi, (False,), '#999999'),
  'iwae': _Kind('IWAE', nvi.iwae, (False,), '#e69f00'),
  'rws': _Kind('RWS', nvi.rws, (False,), '#009e73'),
  'vsmc': _Kind('VSMC', nvi.vsmc, (True,), '#cc79a7'),
  'reverse_kl': _Kind(
    'nested reverse KL', nvi.reverse_kl, (False, True), '#0072b2'
  ),
  'forward_kl': _Kind(
    'nested forward KL', nvi.forward_kl, (False, True), '#d55e00'
  ),
}
# Groups of variables, by the names of their networks.
_GROUPS = {'forward': 'forward kernels', 'reverse': 'reverse kernels'}
_INITIAL_SCALE = 5.0
# The fields of a row that identify a cell.
_FIELDS = (
  'objective',
  'resampling',
  'num_particles',
  'num_densities',
  'parameters',
)


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment on the noise of gradients."""

  objective: tuple = common.names(OBJECTIVES)
  num_particles: tuple = common.setting(
    (4, 32, 256, 2_048),
    'Numbers of particles.',
    common.counts(2),
    changes_results=False,
  )
  num_densities: tuple = common.setting(
    (4,),
    'Numbers of densities.',
    common.counts(2),
    changes_results=False,
  )
  num_repeats: int = common.setting(
    200, 'Gradients that a ratio comes from.', common.count(2)
  )
  num_steps: int = common.setting(
    300, 'Training steps before gradients are measured.'
  )
  seed: int = common.setting(1, 'Random seed.', common.count(-math.inf))
  output_dir: str = common.output_dir('results/gradient_noise')
  overwrite: bool = common.overwrite()


def _make_samplers(num_densities, settings):
  """Returns a trained sampler, with and without resampling, and its groups."""
  target = nvi.targets.ring_of_gaussians()
  zeros = tf.zeros([2])
  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag(zeros, zeros + _INITIAL_SCALE),
    target.unnormalized_log_prob,
    num_densities,
  )
  transitions = nvi.GaussianTransitions(path, seed=settings.seed)
  samplers = {
    resamples: nvi.NestedSampler(
      path,
      transitions,
      resample_criterion_fn=nvi.always if resamples else nvi.never,
    )
    for resamples in (False, True)
  }
  nvi.fit(
    samplers[False],
    nvi.reverse_kl(),
    num_particles=64,
    num_steps=settings.num_steps,
    seed=settings.seed,
    progress=False,
  )
  groups = {
    _GROUPS[module.name]: list(module.trainable_variables)
    for module in transitions.submodules
    if module.name in _GROUPS
  }
  return samplers, groups


def _measure(store, name, num_densities, samplers, groups, settings):
  """Measures rows of an objective that the store lacks; returns all rows."""
  rows = []
  kind = OBJECTIVES[name]
  for resamples in kind.resampling:
    for num_particles in settings.num_particles:
      cells = [
        (name, resamples, num_particles, num_densities, group)
        for group in groups
      ]
      if settings.overwrite or None in (store.row(*cell) for cell in cells):
        noise = nvi.diagnostics.gradient_noise(
          samplers[resamples],
          kind.objective_fn(),
          num_particles,
          settings.num_repeats,
          groups,
          seed=settings.seed,
        )
        for cell, ratio in zip(cells, noise.signal_to_noise, strict=True):
          row = dict(zip(_FIELDS, cell, strict=True))
          store.add({**row, 'signal_to_noise': float(ratio)})
      rows += [store.row(*cell) for cell in cells]
      print(
        f'{_label(name, resamples)}, {num_densities} densities, '
        f'{num_particles} particles: '
        + ', '.join(
          f'{row["parameters"]} {row["signal_to_noise"]:.3f}'
          for row in rows[-len(groups) :]
        )
      )
  return rows


def _label(name, resamples):
  kind = OBJECTIVES[name]
  if len(kind.resampling) == 1:
    return kind.label
  return f'{kind.label}, {"with" if resamples else "without"} resampling'


def _weights(samplers, settings):
  """Returns the shares of particles that are effective at each level."""
  num_particles = max(settings.num_particles)

  @tf.function(autograph=False, jit_compile=True)
  def sizes(seed, resamples):
    estimate, _ = nvi.reverse_kl()(samplers[resamples], num_particles, seed)
    return estimate.level_effective_sample_sizes

  seed = randomness.as_seed(settings.seed)
  return {
    resamples: np.mean(
      [
        sizes(randomness.fold_in(seed, i), resamples).numpy() / num_particles
        for i in range(20)
      ],
      axis=0,
    )
    for resamples in (False, True)
  }


def _draw_ratios(rows, settings):
  """Draws ratios by number of particles, with a column per number of levels."""
  groups = list(_GROUPS.values())
  columns = settings.num_densities
  figure = figure_lib.Figure(
    figsize=(1.0 + 4.0 * len(columns), 3.2 * len(groups)), layout='constrained'
  )
  panels = figure.subplots(
    len(groups), len(columns), squeeze=False, sharex=True, sharey=True
  )
  # A smaller ratio cannot be told from zero.
  floor = 1.0 / math.sqrt(settings.num_repeats)
  for line, group in zip(panels, groups, strict=True):
    for axes, num_densities in zip(line, columns, strict=True):
      for name, kind in OBJECTIVES.items():
        for resamples in kind.resampling:
          points = [
            (row['num_particles'], max(row['signal_to_noise'], floor))
            for row in rows
            if row['objective'] == name
            and row['resampling'] == resamples
            and row['num_densities'] == num_densities
            and row['parameters'] == group
          ]
          if points:
            axes.plot(
              *zip(*points, strict=True),
              '--' if resamples and len(kind.resampling) > 1 else '-',
              color=kind.color,
              marker='.',
              label=_label(name, resamples),
            )
      axes.axhspan(0.0, floor, color='black', alpha=0.08, linewidth=0.0)
      axes.set(
        xscale='log',
        yscale='log',
        title=f'{group}, {num_densities} densities',
      )
    line[0].set_ylabel('signal-to-noise ratio')
  # All panels share this limit.
  panels[0, 0].set_ylim(bottom=0.5 * floor)
  for axes in panels[-1]:
    axes.set_xlabel('particles')
  figure.legend(
    *panels[0, 0].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=2,
    fontsize=8,
    frameon=False,
  )
  return figure


def _draw_weights(weights, settings):
  """Draws effective shares of particles against the level."""
  figure = figure_lib.Figure(figsize=(5, 3.2), layout='constrained')
  axes = figure.subplots()
  for num_densities, shares in weights.items():
    for resamples, values in shares.items():
      text = 'with' if resamples else 'without'
      axes.plot(
        1 + np.arange(len(values)),
        values,
        '--' if resamples else '-',
        marker='.',
        label=f'{num_densities} densities, {text} resampling',
      )
  axes.set(
    xlabel='level',
    ylabel='effective share of particles',
    ylim=(0.0, 1.02),
    title=f'{max(settings.num_particles)} particles',
  )
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.legend(fontsize=8, frameon=False)
  return figure


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its ratios.

  Args:
    settings: `Settings`.

  Returns:
    results: `Results`.
  """
  names = [
    name
    for name in OBJECTIVES
    if settings.objective == ('all',) or name in settings.objective
  ]
  order = list(OBJECTIVES)
  groups_order = list(_GROUPS.values())
  store = common.open_output(
    settings,
    list(_FIELDS),
    lambda objective, resampling, particles, densities, group: (
      densities,
      order.index(objective),
      resampling,
      particles,
      groups_order.index(group),
    ),
  )
  rows, weights = [], {}
  for num_densities in settings.num_densities:
    samplers, groups = _make_samplers(num_densities, settings)
    for name in names:
      rows += _measure(store, name, num_densities, samplers, groups, settings)
    weights[num_densities] = _weights(samplers, settings)
  figures = {
    'gradient_noise': _draw_ratios(rows, settings),
    'weights': _draw_weights(weights, settings),
  }
  return common.finish(store, rows, figures)

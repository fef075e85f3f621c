# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of samplers and their training: numbers, pictures, and exports.

`numbers` computes divergences between successive densities and the weight of
each mode of a target, `levels` the divergences and weights of the levels of a
run, and `gradients` the noise of gradients. `plots` and `level_plots` show
particles, schedules, training, levels, runs and modes, with tools from
`figures`. `export` converts results to ArviZ; `groups` evaluates the model at
draws for it. No function here changes a sampler.
"""

from tfp_nvi.diagnostics.export import (
  particles_to_arviz,
  posterior_to_arviz,
  state_space_posterior_to_arviz,
)
from tfp_nvi.diagnostics.export_history import history_to_arviz
from tfp_nvi.diagnostics.gradients import (
  GradientNoise,
  gradient_noise,
)
from tfp_nvi.diagnostics.level_plots import (
  plot_levels,
  plot_modes,
  plot_ranks,
  plot_trace,
)
from tfp_nvi.diagnostics.levels import (
  LevelReport,
  level_report,
  pareto_k,
)
from tfp_nvi.diagnostics.numbers import (
  ModeReport,
  mode_report,
  mode_shares,
  successive_kl,
)
from tfp_nvi.diagnostics.plots import (
  plot_samples,
  plot_schedules,
  plot_training,
)

__all__ = [
  'GradientNoise',
  'LevelReport',
  'ModeReport',
  'gradient_noise',
  'history_to_arviz',
  'level_report',
  'mode_report',
  'mode_shares',
  'pareto_k',
  'particles_to_arviz',
  'plot_levels',
  'plot_modes',
  'plot_ranks',
  'plot_samples',
  'plot_schedules',
  'plot_trace',
  'plot_training',
  'posterior_to_arviz',
  'state_space_posterior_to_arviz',
  'successive_kl',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of samplers and their training: numbers, pictures, and exports.

`numbers` has divergences between successive densities and the weight that each
mode of a target has; `plots` shows particles, schedules and training; `export`
hands results to ArviZ, with what `groups` asks a model about draws. No function
here changes a sampler.
"""

from tfp_nvi.diagnostics.export import (
  history_to_arviz,
  particles_to_arviz,
  posterior_to_arviz,
  state_space_posterior_to_arviz,
)
from tfp_nvi.diagnostics.numbers import (
  mode_shares,
  successive_kl,
)
from tfp_nvi.diagnostics.plots import (
  plot_samples,
  plot_schedules,
  plot_training,
)

__all__ = [
  'history_to_arviz',
  'mode_shares',
  'particles_to_arviz',
  'plot_samples',
  'plot_schedules',
  'plot_training',
  'posterior_to_arviz',
  'state_space_posterior_to_arviz',
  'successive_kl',
]

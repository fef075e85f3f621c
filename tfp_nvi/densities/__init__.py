# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences of intermediate densities.

`base` has the class that all sequences subclass; `path` the geometric path
between two densities; `explicit` a list of densities that the user writes down;
`user` the checks that these two share; `kinds` supports, continuous or
discrete; `space` event-space bijectors; `draws` kinds of densities, and draws
from them.
"""

from tfp_nvi.densities.base import (
  ZERO_LOG_DENSITY,
  Densities,
  attach_gradient,
  check_densities,
  evaluate_with_gradient,
  floating_parts,
  replace_infinite,
)
from tfp_nvi.densities.draws import (
  NUM_PROBES,
  draw,
  draw_of_shape,
  is_sampleable,
  log_prob_fn,
  static_batch_shape,
)
from tfp_nvi.densities.explicit import ExplicitDensities
from tfp_nvi.densities.kinds import check_support, support_kinds
from tfp_nvi.densities.path import GeometricPath
from tfp_nvi.densities.space import check_values

__all__ = [
  'NUM_PROBES',
  'ZERO_LOG_DENSITY',
  'attach_gradient',
  'check_densities',
  'check_support',
  'check_values',
  'Densities',
  'draw',
  'draw_of_shape',
  'evaluate_with_gradient',
  'ExplicitDensities',
  'floating_parts',
  'GeometricPath',
  'is_sampleable',
  'log_prob_fn',
  'replace_infinite',
  'static_batch_shape',
  'support_kinds',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences of intermediate densities.

`base` has the class that all sequences subclass; `path` the geometric path
between two densities; `explicit` a list of densities that the user writes down;
`user` the checks that these two share; `space` supports and event-space
bijectors; `draws` what a user may pass as a density, and draws of it.
"""

import functools

from tfp_nvi.densities.base import (
  Densities,
  attach_gradient,
  check_densities,
  evaluate_with_gradient,
  floating_parts,
)
from tfp_nvi.densities.draws import (
  NUM_PROBES,
  draw,
  draw_of_shape,
  has_values,
  is_sampleable,
  log_prob_fn,
  static_batch_shape,
)
from tfp_nvi.densities.explicit import ExplicitDensities
from tfp_nvi.densities.path import GeometricPath
from tfp_nvi.densities.space import (
  check_support,
  check_values,
  support_kinds,
)
from tfp_nvi.internal import checks
from tfp_nvi.internal.axes import at_level

# Names from before this was a folder, for modules that still use them.
attach_slope = attach_gradient
evaluate_with_slope = evaluate_with_gradient
as_batch_shape = functools.partial(checks.as_batch_shape, 'batch_shape')

__all__ = [
  'NUM_PROBES',
  'as_batch_shape',
  'at_level',
  'attach_gradient',
  'attach_slope',
  'check_densities',
  'check_support',
  'check_values',
  'Densities',
  'draw',
  'draw_of_shape',
  'evaluate_with_gradient',
  'evaluate_with_slope',
  'ExplicitDensities',
  'floating_parts',
  'GeometricPath',
  'has_values',
  'is_sampleable',
  'log_prob_fn',
  'static_batch_shape',
  'support_kinds',
]

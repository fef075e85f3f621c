# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Objectives: nested f-divergences, and bounds on the whole sequence.

An objective runs a sampler and returns an estimate of its value together with
gradients (`base`). Nested divergences (`divergence`) compare each level with
the one before it; bounds (`bounds`) are objectives on the last level, whose
gradient passes through all of them. Both take chains of levels with tractable
densities (`chain`) as well, and divergences also chains with levels that can
only be drawn from (`adversarial`).
"""

from tfp_nvi.objectives.adversarial import variational_divergence
from tfp_nvi.objectives.base import (
  Estimate,
  Objective,
  Side,
  estimate_run,
  pair_gradients,
)
from tfp_nvi.objectives.bounds import (
  SequenceBound,
  iwae,
  rws,
  svi,
  vsmc,
)
from tfp_nvi.objectives.divergence import (
  NestedDivergence,
  avo,
  f_divergence,
  forward_kl,
  reverse_kl,
)

__all__ = [
  'Estimate',
  'NestedDivergence',
  'Objective',
  'SequenceBound',
  'Side',
  'avo',
  'estimate_run',
  'f_divergence',
  'forward_kl',
  'iwae',
  'pair_gradients',
  'reverse_kl',
  'rws',
  'svi',
  'variational_divergence',
  'vsmc',
]

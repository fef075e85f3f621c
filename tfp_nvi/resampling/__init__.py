# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling of weighted particles, and policies that say when to resample.

Contract: the expected number of offspring of a particle is the number of draws
times its normalized weight, and all weights become the mean weight. This keeps
particles properly weighted (see `tfp_nvi.weighting`).

Sums of floating point weights are rounded, and in different ways eagerly and
under XLA. A rounded sum that grows or shrinks across a particle of weight zero
gives that particle offspring, and from some number of particles on, equal
weights get unequal offspring. The functions of `schemes` therefore convert the
weights to integers once, 2^60 times the normalized weight rounded to the
nearest. All further computations are exact:

- a particle whose weight is zero, or rounds to zero, has no offspring;
- systematic resampling gives each particle the floor or the ceiling of its
  expected number of offspring, for the rounded weights;
- equal weights give one offspring each in systematic and stratified resampling;
- given the rounded weights, the ancestors are the same eagerly and under XLA.

The weights themselves carry the rounding of the dtype that they come in. Half
precision is computed in float32.

Particles are axis 0 of every `Tensor`; batch dimensions follow, then event
dimensions.
"""

from tfp_nvi.resampling.criteria import (
  always,
  ess_below,
  evaluate_criterion,
  never,
)
from tfp_nvi.resampling.particles import (
  check_resample_fn,
  gather_ancestors,
  resample,
)
from tfp_nvi.resampling.schemes import (
  resample_independent,
  resample_stratified,
  resample_systematic,
)

__all__ = [
  'always',
  'check_resample_fn',
  'ess_below',
  'evaluate_criterion',
  'gather_ancestors',
  'never',
  'resample',
  'resample_independent',
  'resample_stratified',
  'resample_systematic',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Densities with known normalizers, for experiments and benchmarks."""

from tfp_nvi.targets import posteriors
from tfp_nvi.targets.multimodal import (
  MultimodalTarget,
  concentric_rings,
  grid_of_gaussians,
  ring_of_gaussians,
)

__all__ = [
  'MultimodalTarget',
  'concentric_rings',
  'grid_of_gaussians',
  'posteriors',
  'ring_of_gaussians',
]

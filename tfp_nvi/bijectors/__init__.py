# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bijectors that are missing from TensorFlow Probability."""

from tfp_nvi.bijectors.noncentered import noncentered_bijector
from tfp_nvi.bijectors.planar import PlanarFlow, PlanarFlows
from tfp_nvi.bijectors.planar_map import planar_forward, planar_inverse

__all__ = [
  'PlanarFlow',
  'PlanarFlows',
  'noncentered_bijector',
  'planar_forward',
  'planar_inverse',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Transitions from the particles of one level to those of the next.

`base` has the contract, the base class `Transition` and the `Move` that it
returns; every other file has one kind of transition: Gaussian kernels with
networks, Langevin kernels, pairs of kernels, updates of a block, bijectors,
Markov kernels, and compositions.
"""

from tfp_nvi.transitions.base import (
  Move,
  Transition,
  as_draw,
  check_move,
  deterministic_move,
  flatten_state,
  kernel_move,
  stop_gradient,
  unflatten_state,
)
from tfp_nvi.transitions.block import (
  BlockTransition,
)
from tfp_nvi.transitions.composition import (
  Composition,
)
from tfp_nvi.transitions.flow import (
  BijectorTransition,
  DeterministicTransition,
  PlanarTransitions,
)
from tfp_nvi.transitions.gaussian import (
  GaussianTransitions,
)
from tfp_nvi.transitions.kernel_pair import (
  KernelPair,
)
from tfp_nvi.transitions.langevin import (
  LangevinTransitions,
)
from tfp_nvi.transitions.mcmc import (
  MCMCTransition,
)

__all__ = [
  'BijectorTransition',
  'BlockTransition',
  'Composition',
  'DeterministicTransition',
  'GaussianTransitions',
  'KernelPair',
  'LangevinTransitions',
  'MCMCTransition',
  'Move',
  'PlanarTransitions',
  'Transition',
  'as_draw',
  'check_move',
  'deterministic_move',
  'flatten_state',
  'kernel_move',
  'stop_gradient',
  'unflatten_state',
]

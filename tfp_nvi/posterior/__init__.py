# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors in one call.

`fit_posterior` fits a reference, runs adaptive SMC samplers as pilots, and
repeats the best one several times with nothing adapted; `Posterior` is what it
returns. Its steps are modules of their own: `space` makes vectors of a user's
states, `variational` and `reference` find where to start, `moves` has the
Hamiltonian moves, `pilot` the samplers, and `stages` what comes before the
final runs. `choice` decides which pilots to run, `candidates` compares them,
`refinement` fits references to their particles, and `parametrization` tries
other coordinates. `frozen` repeats the best one, `diagnosis` has the warnings,
and `learned` makes a sampler of the reference.
"""

from tfp_nvi.posterior.fit import (
  fit_posterior,
)
from tfp_nvi.posterior.result import (
  Posterior,
)

__all__ = [
  'Posterior',
  'fit_posterior',
]

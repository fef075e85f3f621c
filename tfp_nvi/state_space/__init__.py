# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models: densities whose state grows with the sequence.

For a global state `theta`, local states `z_k` and observations `x_k` the
intermediate densities are

```none
gamma_0(theta)          = p(theta) psi(x_{1:K} | theta)
gamma_k(z_{1:k}, theta) = p(x_{1:k}, z_{1:k}, theta) psi(x_{k+1:K} | theta, z_k)
```

with a heuristic factor `psi`, which is one at `k = K`, and everywhere if there
is none. A particle holds `theta`, `z_k` and the indices of its ancestors;
`z_{1:k-1}` is not kept, as level `k` does not depend on it: the factor
`p(x_{1:k-1}, z_{1:k-1}, theta)` is the same at both ends of a level and
cancels,

```none
v_k = psi_k p(x_k | z_k, theta) p(z_k | z_{k-1}, theta) /
      (psi_{k-1} q(z_k | x_k, z_{k-1}, theta))
```

In the terms of the sampler, `psi_k` is the density of level `k`, and the other
factors belong to the transition: its forward kernel has the density `q`, its
reverse kernel the likelihood and the prior. The sequence is a batch member. A
step that is not observed has no likelihood and is proposed from the prior.
Where a sequence has ended, particles and their weights stay as they are.

`model` has models and their simulation, `functions` calls a user's functions,
`sequences` checks data; the nested sampler runs `densities`, `proposals` and
`transition`; `heuristics` has the factors `psi`; a user calls a `sampler` and
gets a `posterior`.
"""

from tfp_nvi.state_space.backward import (
  GaussianHeuristic,
  HiddenMarkovHeuristic,
)
from tfp_nvi.state_space.densities import (
  StateSpaceState,
)
from tfp_nvi.state_space.fit import (
  fit_state_space,
)
from tfp_nvi.state_space.heuristics import (
  FeatureHeuristic,
  Heuristic,
  IndependentHeuristic,
)
from tfp_nvi.state_space.history import (
  FilterHistory,
)
from tfp_nvi.state_space.kernels import (
  ConditionalFilter,
  ParticleMetropolis,
)
from tfp_nvi.state_space.model import (
  StateSpaceModel,
)
from tfp_nvi.state_space.networks import (
  GaussianProposalNetwork,
  GlobalProposalNetwork,
)
from tfp_nvi.state_space.online import (
  OnlineFilter,
  OnlineState,
)
from tfp_nvi.state_space.posterior import (
  StateSpacePosterior,
)
from tfp_nvi.state_space.sampler import (
  StateSpaceSampler,
)
from tfp_nvi.state_space.sequential import (
  SequentialPosterior,
  smc_squared,
)
from tfp_nvi.state_space.smoothing import (
  SmoothedDraws,
  smooth,
)
from tfp_nvi.state_space.sources import (
  joint_distribution_model,
  linear_gaussian_model,
  structural_time_series_model,
)
from tfp_nvi.state_space.twisting import (
  RecurrentHeuristic,
)

__all__ = [
  'ConditionalFilter',
  'FeatureHeuristic',
  'FilterHistory',
  'GaussianHeuristic',
  'GaussianProposalNetwork',
  'GlobalProposalNetwork',
  'Heuristic',
  'HiddenMarkovHeuristic',
  'IndependentHeuristic',
  'OnlineFilter',
  'OnlineState',
  'ParticleMetropolis',
  'RecurrentHeuristic',
  'SequentialPosterior',
  'SmoothedDraws',
  'StateSpaceModel',
  'StateSpacePosterior',
  'StateSpaceSampler',
  'StateSpaceState',
  'fit_state_space',
  'joint_distribution_model',
  'linear_gaussian_model',
  'smc_squared',
  'smooth',
  'structural_time_series_model',
]

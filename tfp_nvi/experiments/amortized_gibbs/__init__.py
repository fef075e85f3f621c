# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Amortized Gibbs samplers for Gaussian mixtures with unknown assignments.

An instance is a set of points in the plane; means and precisions of clusters,
and the assignments of points, are not known. A one-shot proposal of all of
these is learned by reweighted wake-sleep, and proposals of each block given the
other, for sweeps over the blocks, by the nested forward KL divergence [1]. One
set of networks serves all instances.

```shell
python -m tfp_nvi.experiments.amortized_gibbs \
  --output_dir=results/amortized_gibbs
```

Methods, on the same held-out instances with the same number of evaluations of
the joint density:

```none
gibbs_prior  exact Gibbs sampling, from draws of the prior
gibbs        exact Gibbs sampling, from draws of the one-shot proposal
hmc_rws      Hamiltonian Monte Carlo from there, with assignments integrated
             out and drawn at the end; its step size is the best of a few on
             other instances, which is not counted
rws          importance sampling by the one-shot proposal, with more particles
apg          the amortized Gibbs sampler, resampled before each update
```

The docstring of `methods` says how evaluations are counted. The output folder
holds

```none
metrics.json    a row for each method
log_joint.png   mean log joint densities against the number of evaluations
clusters.png    clusters of two instances, by particles of each method
cells/*.npz     the data of the pictures
checkpoints/    from which the same command continues
```

Fields of a row: `log_joint`, the mean of `log p(x, z)` over final particles, by
their weights, and over instances; `exact_log_joint`, the same of the variables
that instances were simulated with, which are an exact draw of each posterior;
`log_joint_error`, the standard error of the difference of the two, over
instances; `ess`, the effective sample size of the final weights as a share of
the particles, its mean over instances, as in [1], and null for chains, which
have no weights; `num_evaluations` of an instance; `seconds` of the run on all
instances, with tracing and, for `hmc_rws`, the choice of its step size; and
`training_seconds` of the proposals that the method uses.

#### References

[1]: H. Wu, H. Zimmermann, E. Sennesh, T. A. Le, J.-W. van de Meent. Amortized
     population Gibbs samplers with neural sufficient statistics. ICML, 2020.
     https://arxiv.org/abs/1911.01382
"""

from tfp_nvi.experiments.amortized_gibbs.experiment import Settings, run
from tfp_nvi.experiments.amortized_gibbs.methods import METHODS
from tfp_nvi.experiments.amortized_gibbs.model import GaussianMixture
from tfp_nvi.experiments.amortized_gibbs.proposals import Proposals
from tfp_nvi.experiments.common import Results

__all__ = [
  'METHODS',
  'GaussianMixture',
  'Proposals',
  'Results',
  'Settings',
  'run',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Heuristic factors for a hidden Markov model with unknown emissions.

Particle filters draw the unknown parameters before they have seen the data, and
resample them down to a handful. A heuristic factor lets the first levels see
the observations to come; nested variational inference learns one, together with
the proposals, from simulated sequences [1].

```shell
python -m tfp_nvi.experiments.hmm --output_dir=results/hmm
python -m tfp_nvi.experiments.hmm --output_dir=results/hmm_paper \
  --flagfile=hmm_paper.flags
```

All methods have the same model, proposals and training data:

```none
no_heuristic       psi = 1
mixture_heuristic  the observations to come as draws from a mixture, by hand
nvi_partial        psi(x_{k+1:K} | eta) learned; each level trains its forward
                   side
nvi_full           the same, each level trains both sides
rws                psi = 1, proposals trained by the final weights
nvi_state_aware    psi(x_{k+1:K} | eta, z_k) learned, as nvi_partial
oracle             psi is the exact likelihood, by backward messages
```

A method is tested on sequences that none was trained on. Its log normalizer is
the mean over them; `gap` is the mean difference to the most precise estimate,
`reference`: importance sampling over `eta` alone with the exact likelihood,
and many samples of the proposal that the oracle has learned. Standard errors
are over sequences. `distinct_eta_ancestors` counts the particles of level 0
that the last level descends from.

The output folder holds

```none
metrics.json      the configuration, and a row for each method
sequence.png      a sequence, with inferred states and emissions
levels.png        effective sample size and ancestors that survive, by step
heuristic.png     heuristic factors of one sequence beside the exact likelihood
training.png      effective sample size and log normalizer over training
cells/*.npz       the data of the pictures
checkpoints/      training of each method, until the method is done
```

A run that was stopped goes on when it is started again.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

from tfp_nvi.experiments.common import Results
from tfp_nvi.experiments.hmm.experiment import Settings, run
from tfp_nvi.experiments.hmm.methods import METHODS, Method, make_sampler

__all__ = [
  'METHODS',
  'Method',
  'Results',
  'Settings',
  'make_sampler',
  'run',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Annealing to a multimodal density on the plane.

Learns samplers along a path from a broad Gaussian to a density with many modes,
by nested variational inference [1] and by the methods that it is compared with
there. Compares their estimates with the true normalizer and with the published
figures.

```shell
python -m tfp_nvi.experiments.annealing --output_dir=results/annealing
python -m tfp_nvi.experiments.annealing --method=nvir,nvir_star \
  --num_densities=4,8 --num_restarts=3 --output_dir=results/some
```

On several devices, or several machines with a `TF_CONFIG` each, `--strategy`
divides the particles of each training step among them.

A cell is a method and a number of densities. All restarts of a cell are trained
together; then 100 batches of 100 samples are drawn from each. The figures of a
cell are the mean over batches and restarts, and the standard deviation over
restarts of the mean over batches (zero for a single restart). Methods with
resampling are evaluated with it; `ess_without_resampling` is the effective
sample size of the same sampler when it never resamples. `mode_mass_lowest` and
`mode_mass_highest` are the smallest and the largest mass that 100,000 weighted
samples of any one restart give to any mode, as a fraction of its true mass.

The output folder holds

```none
metrics.json    the configuration, and a row for each cell
samples-K.png   particles level by level, a row for each method
path-K.png      learned schedules beside the linear one, and the divergences
                of successive densities
training-K.png  effective sample size and log normalizer over training
cells/*.npz     the data of the pictures
```

It is written after every cell. A run that was stopped goes on when it is
started again: cells that the folder holds are kept, unless they are to be
overwritten.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

from tfp_nvi.experiments.annealing.experiment import Settings, run
from tfp_nvi.experiments.annealing.methods import (
  METHODS,
  TARGETS,
  Method,
  make_sampler,
)
from tfp_nvi.experiments.common import Results

__all__ = [
  'METHODS',
  'Method',
  'Results',
  'Settings',
  'TARGETS',
  'make_sampler',
  'run',
]

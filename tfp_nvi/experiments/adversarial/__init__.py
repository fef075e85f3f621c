# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Adversarial training of levels whose densities can only be drawn from.

```shell
python -m tfp_nvi.experiments.adversarial --target=ring,grid,banana,digits
```

Generators are perceptrons that transform noise. For mixtures of 8 and of 25
Gaussians, with equal or unequal components, and for images of digits, the other
side can only be drawn from as well. The posterior of the banana has a
likelihood.

```none
minimax            the minimax value function of generative adversarial networks
regularized        non-saturating, with a gradient penalty (R1), annealed noise
                   on both sides, and a running mean of the generator
reweighted         draws of that, resampled by the learned density ratio
variational_bayes  adversarial variational Bayes, with adaptive contrast
nested             a nested sampler, which has the densities
```

A mode is found if it has at least a quarter of its share of the draws, counting
those within three of its standard deviations; the digits' modes are classes,
and a draw is near one if a classifier that was trained on real images is sure
of it. The output folder holds

```none
metrics.json     the configuration, and a row for each target and method
checkpoints/     the training of each
cells/           draws
adversarial.png  draws beside true ones
```
"""

from tfp_nvi.experiments.adversarial.experiment import (
  METHODS,
  TARGETS,
  Settings,
  run,
)
from tfp_nvi.experiments.common import Results

__all__ = [
  'METHODS',
  'Results',
  'Settings',
  'TARGETS',
  'run',
]

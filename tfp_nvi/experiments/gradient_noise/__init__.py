# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Noise of the gradients of nested and other objectives.

```shell
python -m tfp_nvi.experiments.gradient_noise --output_dir=results/gradient_noise
```

A sampler goes from a broad Gaussian to a ring of eight by Gaussian kernels. The
same sampler, trained for a few steps, is given to each objective, with more and
more particles. The experiment measures the signal-to-noise ratio of the
gradient, for the forward kernels and for the reverse kernels: the norm of the
mean over the square root of the summed variances.

```none
svi         the evidence lower bound
iwae        the importance-weighted bound
rws         reweighted wake-sleep
vsmc        the variational SMC bound, with resampling
reverse_kl  nested reverse KL divergences, without and with resampling
forward_kl  nested forward KL divergences, without and with resampling
```

The output folder holds

```none
metrics.json        the configuration, and a row for each ratio
gradient_noise.png  ratios against the number of particles
weights.png         effective sample sizes of the weights by which each level
                    enters the gradient
```
"""

from tfp_nvi.experiments.common import Results
from tfp_nvi.experiments.gradient_noise.experiment import (
  OBJECTIVES,
  Settings,
  run,
)

__all__ = [
  'OBJECTIVES',
  'Results',
  'Settings',
  'run',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""State-space models with unknown parameters, by `fit_state_space`.

```shell
python -m tfp_nvi.experiments.state_space --model=stochastic_volatility \
    --output_dir=results/state_space
```

A sampler is fitted once, on sequences that the model simulates. It is then run
several times, with different seeds, on a sequence that it was not trained on,
real or simulated.

```none
stochastic_volatility  returns whose log variance is an autoregression; its
                       mean, persistence and scale are unknown
sp500                  the same for returns of the S&P 500, if `inference_gym`
                       is installed, which ships them
growth                 the nonlinear growth model, whose step is named, with
                       unknown scales
counts                 an epidemic in counts of infected people, of whom some
                       are reported; the rate of infection is unknown
lotka_volterra         counts of prey and predators, with unknown rates
lorenz96               the Lorenz-96 model in 8 dimensions, of which every other
                       one is observed, with unknown forcing
```

The table has the mean and the deviation of the estimates of `log p(x)` over
runs, the mean effective sample size at the last step, the least number of
ancestors of the parameters, seconds of training and of a run after the first,
compilation not included, and for each parameter the mean of its posterior mean,
the deviation of the posterior, and the deviation of its estimates over runs in
units of that. With `--reference_steps` a chain of
particle Metropolis-Hastings gives a reference, and `off_by` says how far the
means are from it, in posterior deviations.

The output folder holds

```none
metrics.json   the configuration, and a row for each model
<model>.png    bands of the states over the data, and of what comes after it,
               for the first coordinates of vectors
```
"""

from tfp_nvi.experiments.common import Results
from tfp_nvi.experiments.state_space.experiment import Settings, run
from tfp_nvi.experiments.state_space.models import MODELS

__all__ = [
  'MODELS',
  'Results',
  'Settings',
  'run',
]

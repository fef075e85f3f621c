# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Properly weighted particles: estimates, their errors, rejection control.

Contract: particles `z` and weights `w >= 0` are properly weighted for an
unnormalized density `gamma` if, for every function `g`,

```none
E[mean_s w[s] g(z[s])] = integral gamma(z) g(z) dz.
```

Each function here keeps that property. In particular the mean weight is an
unbiased estimate of the normalizer of `gamma`, before and after resampling (see
`tfp_nvi.resampling`) and rejection control, because both leave `E[w g(z)]` as
it is.

Particles are axis 0 of every `Tensor`; batch dimensions follow, then event
dimensions. Weights are kept as logarithms; `-inf` is a weight of zero. A batch
member all of whose weights are zero has a normalizer estimate of zero, an
effective sample size of zero, and normalized weights of zero; it does not
disturb its neighbours.

Arguments are checked here; a weight that is NaN or infinite is an error where
its value is known, which it is not inside a `tf.function`. Half precision is
accumulated in float32.
"""

from tfp_nvi.weighting.estimates import (
  effective_sample_size,
  log_normalizer,
  mean,
  normalize_weights,
  total,
  weighted_log_mean_exp,
  weighted_mean,
)
from tfp_nvi.weighting.islands import (
  combine_effective_sample_sizes,
  combine_estimates,
  combine_islands,
  summarize_island,
)
from tfp_nvi.weighting.particles import WeightedParticles, log_pairs_lost
from tfp_nvi.weighting.quantiles import weighted_quantiles
from tfp_nvi.weighting.rejection import rejection_control

__all__ = [
  'WeightedParticles',
  'combine_effective_sample_sizes',
  'combine_estimates',
  'combine_islands',
  'effective_sample_size',
  'log_normalizer',
  'log_pairs_lost',
  'mean',
  'normalize_weights',
  'rejection_control',
  'summarize_island',
  'total',
  'weighted_log_mean_exp',
  'weighted_mean',
  'weighted_quantiles',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models with unknown parameters."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.state_space import StateSpaceModel

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'MODELS',
  'counts',
  'growth',
  'stochastic_volatility',
]


def stochastic_volatility() -> StateSpaceModel:
  """Returns with a log variance that is an autoregression.

  #### References

  [1]: S. Kim, N. Shephard, S. Chib. Stochastic volatility: likelihood inference
       and comparison with ARCH models. Review of Economic Studies, 65(3), 1998.
  """
  prior = tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, 1.0),
      'persistence': tfb.Shift(-1.0)(tfb.Scale(2.0)(tfd.Beta(20.0, 1.5))),
      'scale': tfd.HalfNormal(0.5),
    }
  )
  return StateSpaceModel(
    prior,
    # A difference of squares would be zero where the persistence is near one.
    lambda v: tfd.Normal(
      v['mean'],
      v['scale']
      * tf.math.rsqrt((1.0 - v['persistence']) * (1.0 + v['persistence'])),
    ),
    lambda z, v: tfd.Normal(
      v['mean'] + v['persistence'] * (z - v['mean']), v['scale']
    ),
    lambda z: tfd.Normal(0.0, tf.exp(0.5 * z)),
  )


def growth() -> StateSpaceModel:
  """The nonlinear growth model, with unknown scales.

  #### References

  [1]: N. J. Gordon, D. J. Salmond, A. F. M. Smith. Novel approach to
       nonlinear/non-Gaussian Bayesian state estimation. IEE Proceedings F,
       140(2), 1993.
  """
  prior = tfd.JointDistributionNamed(
    {'step': tfd.LogNormal(1.0, 0.3), 'noise': tfd.LogNormal(0.0, 0.3)}
  )

  def transition_fn(z, v, t):
    wave = 8.0 * tf.cos(1.2 * tf.cast(t, tf.float32))
    return tfd.Normal(0.5 * z + 25.0 * z / (1.0 + z**2) + wave, v['step'])

  return StateSpaceModel(
    prior,
    lambda: tfd.Normal(0.0, 2.0),
    transition_fn,
    lambda z, v: tfd.Normal(z**2 / 20.0, v['noise']),
  )


def counts() -> StateSpaceModel:
  """Numbers of infected people, of whom some are reported."""
  return StateSpaceModel(
    tfd.LogNormal(0.0, 0.25),
    lambda rate: tfd.Poisson(20.0 * tf.ones_like(rate)),
    lambda z, rate: tfd.Poisson(2.0 + 0.95 * rate * z / (1.0 + z / 300.0)),
    lambda z: tfd.Poisson(0.5 + 0.3 * z),
  )


# How to make each model.
MODELS = {
  'stochastic_volatility': stochastic_volatility,
  'growth': growth,
  'counts': counts,
}

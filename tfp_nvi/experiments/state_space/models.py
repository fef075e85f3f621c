# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models with unknown parameters."""

import importlib
import importlib.util

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.state_space import StateSpaceModel

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'DATA',
  'MODELS',
  'counts',
  'growth',
  'lorenz96',
  'lotka_volterra',
  'sp500_returns',
  'stochastic_volatility',
]


def stochastic_volatility() -> StateSpaceModel:
  """Makes the model of returns whose log variance is an autoregression.

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
  """Makes the nonlinear growth model, with unknown scales.

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
  """Makes the model of numbers of infected people, partly reported."""
  return StateSpaceModel(
    tfd.LogNormal(0.0, 0.25),
    lambda rate: tfd.Poisson(20.0 * tf.ones_like(rate)),
    lambda z, rate: tfd.Poisson(2.0 + 0.95 * rate * z / (1.0 + z / 300.0)),
    lambda z: tfd.Poisson(0.5 + 0.3 * z),
  )


def lotka_volterra() -> StateSpaceModel:
  """Makes the model of counts of prey and predators, with unknown rates.

  The local state is the logarithms of both populations, which move by a
  differential equation and noise.

  #### References

  [1]: D. J. Wilkinson. Stochastic Modelling for Systems Biology. CRC Press,
       2006.
  """
  prior = tfd.JointDistributionNamed(
    {
      'growth': tfd.LogNormal(tf.math.log(0.5), 0.3),
      'predation': tfd.LogNormal(tf.math.log(0.025), 0.3),
      'death': tfd.LogNormal(tf.math.log(0.4), 0.3),
    }
  )

  def transition_fn(z, v):
    prey, predators = tf.unstack(z, axis=-1)
    for _ in range(4):
      # Draws of the prior may lead far out, where nothing may overflow.
      prey += 0.125 * (
        v['growth'] - v['predation'] * tf.exp(tf.minimum(predators, 8.0))
      )
      predators += 0.125 * (
        0.4 * v['predation'] * tf.exp(tf.minimum(prey, 8.0)) - v['death']
      )
    loc = tf.stack([prey, predators], axis=-1)
    return tfd.MultivariateNormalDiag(loc, [0.1, 0.1])

  return StateSpaceModel(
    prior,
    lambda v: tfd.MultivariateNormalDiag(
      tf.math.log([50.0, 15.0]) + 0.0 * v['growth'][..., tf.newaxis],
      [0.3, 0.3],
    ),
    transition_fn,
    lambda z: tfd.Independent(tfd.Poisson(log_rate=tf.minimum(z, 8.0)), 1),
  )


def lorenz96() -> StateSpaceModel:
  """Makes the Lorenz-96 model in 8 dimensions, whose forcing is unknown.

  Every other coordinate is observed, with noise. A step is a Runge-Kutta step
  of length 0.05, plus noise.

  #### References

  [1]: E. N. Lorenz. Predictability: a problem partly solved. ECMWF Seminar on
       Predictability, 1996.
  """

  def derivative(z, forcing):
    before, after = tf.roll(z, 1, axis=-1), tf.roll(z, -1, axis=-1)
    drift = (after - tf.roll(z, 2, axis=-1)) * before
    return drift - z + forcing[..., tf.newaxis]

  def transition_fn(z, forcing):
    step = 0.05
    first = derivative(z, forcing)
    second = derivative(z + 0.5 * step * first, forcing)
    third = derivative(z + 0.5 * step * second, forcing)
    last = derivative(z + step * third, forcing)
    loc = z + step / 6.0 * (first + 2.0 * second + 2.0 * third + last)
    return tfd.MultivariateNormalDiag(loc, tf.fill([8], 0.2))

  return StateSpaceModel(
    tfd.Normal(8.0, 1.5),
    lambda forcing: tfd.MultivariateNormalDiag(
      2.0 + 0.0 * forcing[..., tf.newaxis] + tf.zeros([8]), tf.fill([8], 3.0)
    ),
    transition_fn,
    lambda z: tfd.MultivariateNormalDiag(z[..., ::2], tf.fill([4], 1.0)),
  )


def sp500_returns(num_steps: int) -> np.ndarray:
  """Loads the last daily log returns of the S&P 500 from `inference_gym`.

  Args:
    num_steps: Python `int`: how many returns.

  Returns:
    x: float NumPy array of shape `[num_steps]`: in percent, less their mean.

  Raises:
    ImportError: If `inference_gym` is not installed.
  """
  if importlib.util.find_spec('inference_gym') is None:
    raise ImportError(
      '`model` sp500 needs the package `inference_gym`, which has its data; it '
      'is not installed.'
    )
  data = importlib.import_module('inference_gym.internal.data')
  x = data.sp500_log_returns(num_steps)['centered_returns']
  return np.asarray(100.0 * x, np.float32)


# The function that makes each model.
MODELS = {
  'stochastic_volatility': stochastic_volatility,
  'sp500': stochastic_volatility,
  'growth': growth,
  'counts': counts,
  'lotka_volterra': lotka_volterra,
  'lorenz96': lorenz96,
}
# For models of real data, functions from the number of steps to observations.
DATA = {'sp500': sp500_returns}

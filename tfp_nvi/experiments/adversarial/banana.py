# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A posterior with the shape of a banana, and adversarial variational Bayes.

Two normal variables, of which one observation is known:

```none
z_1 ~ N(0, 1.5^2),  z_2 ~ N(0, 2^2),  0 ~ N(z_2 + z_1^2 / 2 - 1, 0.4^2).
```
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.experiments.adversarial import generators
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'ImplicitPosterior',
  'log_evidence',
  'log_joint',
  'posterior_draws',
]

_NUM_NOISE = 4
_WIDE, _SHARE_WIDE = 2.5, 0.4


def log_joint(z) -> tf.Tensor:
  """Returns the log joint density of the variables and the observation."""
  first, second = tf.unstack(z, axis=-1)
  location = second + 0.5 * first**2 - 1.0
  return (
    tfd.Normal(tf.zeros([], z.dtype), 1.5).log_prob(first)
    + tfd.Normal(tf.zeros([], z.dtype), 2.0).log_prob(second)
    + tfd.Normal(location, 0.4).log_prob(0.0)
  )


def _grid():
  """Returns points of an even grid, their log joint, and the area of a cell."""
  axis = np.linspace(-10.0, 10.0, 2_001)
  z = np.stack(np.meshgrid(axis, axis, indexing='ij'), axis=-1).reshape([-1, 2])
  return z, log_joint(tf.constant(z)).numpy(), (axis[1] - axis[0]) ** 2


def log_evidence() -> float:
  """Returns the log evidence, by quadrature."""
  _, log_density, area = _grid()
  return float(np.log(np.sum(np.exp(log_density)) * area))


def posterior_draws(count: int, seed: int) -> np.ndarray:
  """Draws from the posterior by quadrature, to within a cell of the grid."""
  z, log_density, _ = _grid()
  weights = np.exp(log_density)
  index = np.random.default_rng(seed).choice(
    len(z), count, p=weights / weights.sum()
  )
  return z[index]


class ImplicitPosterior:
  """A network that draws from an approximate posterior, and its level.

  The other side of the level is a mixture of two normal distributions with the
  mean of draws of the network, and with their covariance and 6.25 times it.
  This is adaptive contrast, with wider tails than those of a banana.

  Args:
    num_hidden: Python `int` number of units of each of two hidden layers.
    seed: Python `int`.
  """

  def __init__(self, num_hidden, seed):
    hidden = [num_hidden] * 2
    self.network = generators.perceptron([_NUM_NOISE, *hidden, 2], 2 * seed)
    self.discriminator = generators.perceptron([2, *hidden, 1], 2 * seed + 1)
    # The noise is the same in each step, so that the other side changes
    # smoothly.
    self._noise = randomness.normal(
      [1_024, _NUM_NOISE], randomness.as_seed(seed)
    )

  def sample(self, num_particles, seed):
    """Draws from the approximate posterior."""
    return self.network(randomness.normal([num_particles, _NUM_NOISE], seed))

  def levels(self, trains=True) -> list:
    """Returns the level in a list.

    Args:
      trains: Python `bool`: whether to train the network, or the discriminator
        alone.
        Default value: `True`.

    Returns:
      levels: List of one `tfp_nvi.ImplicitLevel`.
    """
    z = tf.stop_gradient(self.network(self._noise))
    loc = tf.reduce_mean(z, axis=0)
    scale = tf.linalg.cholesky(tfp.stats.covariance(z) + 1e-4 * tf.eye(2))
    mixture = tfd.MixtureSameFamily(
      tfd.Categorical(probs=[1.0 - _SHARE_WIDE, _SHARE_WIDE]),
      tfd.MultivariateNormalTriL(loc, tf.stack([scale, _WIDE * scale])),
    )

    def compare(num_particles, seed):
      # Each component has its share of the draws.
      is_wide = tf.range(num_particles) < int(_SHARE_WIDE * num_particles)
      noise = randomness.normal([num_particles, 2], seed)
      noise *= tf.where(is_wide, _WIDE, 1.0)[:, tf.newaxis]
      return loc + tf.linalg.matmul(noise, scale, transpose_b=True)

    def log_ratio(z):
      whitened = tf.linalg.triangular_solve(scale, tf.transpose(z - loc))
      return self.discriminator(tf.transpose(whitened))

    return [
      nvi.ImplicitLevel(
        self.sample,
        compare,
        log_ratio,
        [self.network] if trains else [],
        log_factor_fn=lambda z: log_joint(z) - mixture.log_prob(z),
        discriminator_csiszar_function=tfp.vi.jensen_shannon,
        discriminator_trainables=[self.discriminator],
      )
    ]

  def fit(self, folder, num_steps, num_particles, seed, learning_rate=1e-3):
    """Trains both networks, and then the discriminator alone, half as long.

    Args:
      folder: `tfp_nvi.experiments.common.TrainingFolder`.
      num_steps: Python `int`.
      num_particles: Python `int`.
      seed: Python `int`.
      learning_rate: Python `float`.
        Default value: `1e-3`.
    """
    make = generators.make_optimizer
    both = nvi.MultiOptimizer(
      [
        (make(learning_rate, num_steps), [self.network]),
        (make(3.0 * learning_rate, num_steps), [self.discriminator]),
      ]
    )
    num_last = max(1, num_steps // 2)
    for stage, trains, count, size, optimizer in (
      ('training', True, num_steps, num_particles, both),
      (
        'ratio',
        False,
        num_last,
        4 * num_particles,
        make(2.0 * learning_rate, num_last),
      ),
    ):
      folder.fit(
        stage,
        nvi.Chain(lambda trains=trains: self.levels(trains)),
        nvi.reverse_kl(),
        size,
        num_steps=count,
        seed=seed,
        optimizer=optimizer,
        steps_per_call=min(500, count),
        clip_factor=None,
        progress=False,
      )

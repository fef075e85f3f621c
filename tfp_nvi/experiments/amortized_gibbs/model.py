# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Gaussian mixtures with unknown assignments, and their exact conditionals.

```none
precision_md ~ Gamma(concentration, rate)
mean_md      ~ Normal(0, 1 / sqrt(strength * precision_md))
c_n          ~ uniform over clusters
x_nd         ~ Normal(mean_{c_n, d}, 1 / sqrt(precision_{c_n, d}))
```

for clusters `m`, dimensions `d` and points `n`. A state is a `dict` of

```none
assignments      int32, [num_particles] + batch + [num_points]
log_precisions   float, [num_particles] + batch + [num_clusters, num_dimensions]
means            float, of the same shape
```

Samplers move the logarithms of precisions, over the real numbers, and the
density of a state is with respect to these logarithms. The reported `log_joint`
is with respect to precisions, as the model is written.
"""

import math
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'GaussianMixture',
  'PosteriorDensities',
  'normal_gamma',
]


def normal_gamma(concentration, rate, loc, strength) -> tfd.Distribution:
  """Returns the distribution of independent pairs of mean and log precision.

  Args:
    concentration: float `Tensor` of shape `batch + [num_clusters,
      num_dimensions]`, as all other arguments.
    rate: The rate of the precisions.
    loc: The location of the means.
    strength: The ratio of the precision of a mean to that of a point.

  Returns:
    distribution: `tfd.JointDistributionNamed` of `log_precisions` and `means`,
      each an event of two axes.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.amortized_gibbs import model

  ones = tf.ones([3, 2])
  clusters = model.normal_gamma(2.0 * ones, ones, 0.0 * ones, ones)
  assert clusters.sample(5, seed=(1, 2))['means'].shape == [5, 3, 2]
  ```
  """

  def means(log_precisions):
    scale = tf.exp(-0.5 * log_precisions) * tf.math.rsqrt(strength)
    return tfd.Independent(tfd.Normal(loc, scale), 2)

  return tfd.JointDistributionNamed(
    {
      'log_precisions': tfd.Independent(
        tfd.ExpGamma(concentration, rate=rate), 2
      ),
      'means': means,
    }
  )


class GaussianMixture(NamedTuple):
  """The model.

  Fields:
    num_points: Python `int`.
    num_clusters: Python `int`.
    num_dimensions: Python `int`.
    concentration: Python `float`: the concentration of the prior of precisions.
    rate: Python `float`: the rate of that prior.
    strength: Python `float`: the precision of the prior of means, in units of
      the precision of a point.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments import amortized_gibbs

  mixture = amortized_gibbs.GaussianMixture(num_points=20)
  x, z = mixture.simulate(4, seed=tf.constant([1, 2]))
  assert x.shape == [4, 20, 2]
  assert mixture.log_joint(z, x).shape == [4]
  ```
  """

  num_points: int = 60
  num_clusters: int = 3
  num_dimensions: int = 2
  concentration: float = 2.0
  rate: float = 2.0
  strength: float = 0.1

  def prior(self, batch_shape) -> tfd.Distribution:
    """Returns the prior of means and log precisions, for a batch shape."""
    ones = tf.ones([*batch_shape, self.num_clusters, self.num_dimensions])
    return self.posterior_of_statistics(0.0 * ones, 0.0 * ones, 0.0 * ones)

  def posterior_of_statistics(self, counts, sums, squares) -> tfd.Distribution:
    """Returns the normal-gamma distribution with statistics added to the prior.

    Its natural parameters are those of the prior and a multiple of each of
    the statistics, which need not be those of points.

    Args:
      counts: float `Tensor` of shape `batch + [num_clusters, num_dimensions]`,
        not negative.
      sums: float `Tensor` of that shape.
      squares: float `Tensor` of that shape, at least `sums**2 / counts`.

    Returns:
      distribution: As in `normal_gamma`.
    """
    strength = self.strength + counts
    loc = sums / strength
    # Without points this is zero, and rounding could make it negative.
    spread = tf.nn.relu(squares - strength * loc**2)
    return normal_gamma(
      self.concentration + 0.5 * counts,
      self.rate + 0.5 * spread,
      loc,
      strength,
    )

  def simulate(self, num_instances, seed):
    """Draws instances.

    Args:
      num_instances: Python `int`.
      seed: Stateless seed.

    Returns:
      x: float `Tensor` of shape `[num_instances, num_points, num_dimensions]`.
      z: State of batch shape `[num_instances]`, an exact draw of the posterior
        of each instance.
    """
    seeds = tf.unstack(randomness.split_seed(seed, 3))
    uniform = tfd.Categorical(tf.zeros([self.num_clusters]))
    with randomness.portable_sampling():
      z = dict(self.prior([num_instances]).sample(seed=seeds[0]))
      z['assignments'] = uniform.sample(
        [num_instances, self.num_points], seed=seeds[1]
      )
    which = tf.one_hot(z['assignments'], self.num_clusters)
    noise = randomness.normal(
      [num_instances, self.num_points, self.num_dimensions], seeds[2]
    )
    scale = tf.matmul(which, tf.exp(-0.5 * z['log_precisions']))
    return tf.matmul(which, z['means']) + scale * noise, z

  def point_log_probs(self, z, x) -> tf.Tensor:
    """Returns log densities of all points in all clusters.

    Args:
      z: State; its assignments are not read.
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.

    Returns:
      log_probs: float `Tensor` of shape `[num_particles] + batch + [num_points,
        num_clusters]`.
    """
    log_precisions = z['log_precisions'][..., tf.newaxis, :, :]
    residuals = x[..., tf.newaxis, :] - z['means'][..., tf.newaxis, :, :]
    terms = log_precisions - tf.exp(log_precisions) * residuals**2
    constant = self.num_dimensions * math.log(2.0 * math.pi)
    return 0.5 * (tf.reduce_sum(terms, axis=-1) - constant)

  def _log_prior(self, z):
    """Returns the log density of means and log precisions.

    It is that of `prior`, written out, because graphs of training contain it
    many times.
    """
    log_precisions = z['log_precisions']
    precisions = tf.exp(log_precisions)
    constant = (
      self.concentration * math.log(self.rate)
      - math.lgamma(self.concentration)
      + 0.5 * math.log(self.strength / (2.0 * math.pi))
    )
    terms = (
      (self.concentration + 0.5) * log_precisions
      - self.rate * precisions
      - 0.5 * self.strength * precisions * z['means'] ** 2
      + constant
    )
    return tf.reduce_sum(terms, axis=[-2, -1])

  def log_density(self, z, x) -> tf.Tensor:
    """Returns the log density of a state and an instance, by log precisions.

    Args:
      z: State.
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """
    which = tf.one_hot(z['assignments'], self.num_clusters)
    log_likelihood = tf.reduce_sum(
      which * self.point_log_probs(z, x), axis=[-2, -1]
    )
    return (
      self._log_prior(z)
      + log_likelihood
      - self.num_points * math.log(self.num_clusters)
    )

  def log_joint(self, z, x) -> tf.Tensor:
    """Returns `log p(x, z)` as the model is written, by precisions."""
    return self.log_density(z, x) - tf.reduce_sum(
      z['log_precisions'], axis=[-2, -1]
    )

  def log_marginal(self, z, x) -> tf.Tensor:
    """Returns `log_density`, with assignments integrated out."""
    log_probs = tf.reduce_logsumexp(self.point_log_probs(z, x), axis=-1)
    return (
      self._log_prior(z)
      + tf.reduce_sum(log_probs, axis=-1)
      - self.num_points * math.log(self.num_clusters)
    )

  def clusters_given_rest(self, z, x) -> tfd.Distribution:
    """Returns the exact conditional of means and log precisions."""
    which = tf.one_hot(z['assignments'], self.num_clusters)
    counts = tf.reduce_sum(which, axis=-2)[..., tf.newaxis]
    counts = tf.repeat(counts, self.num_dimensions, axis=-1)
    sums, squares = (
      tf.einsum('...nm,...nd->...md', which, values) for values in (x, x**2)
    )
    return self.posterior_of_statistics(counts, sums, squares)

  def assignments_given_rest(self, z, x) -> tfd.Distribution:
    """Returns the exact conditional of assignments."""
    return tfd.Independent(tfd.Categorical(self.point_log_probs(z, x)), 1)


class PosteriorDensities(nvi.densities.Densities):
  """The posterior of instances, at every level.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.amortized_gibbs import model

  mixture = model.GaussianMixture(num_points=20)
  x, z = mixture.simulate(4, seed=tf.constant([1, 2]))
  densities = model.PosteriorDensities(mixture, x, num_densities=3)
  assert densities.evaluate(0, z)[0].shape == [4]
  ```
  """

  # Value and gradient are known once the density has been evaluated.
  has_variables = False
  is_rollable = True
  is_discrete = True

  def __init__(self, mixture, x, num_densities, name='posterior_densities'):
    """Initializes the sequence.

    Args:
      mixture: `GaussianMixture`.
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.
      num_densities: Python `int`.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    # The kinds are in the order of the names of the parts.
    self.support_kinds = ('discrete', 'continuous', 'continuous')
    self._mixture = mixture
    self._x = x
    self._num_densities = num_densities

  @property
  def num_densities(self):
    """Python `int`: the number of densities."""
    return self._num_densities

  @property
  def batch_shape(self):
    """The batch shape of the instances."""
    return self._x.shape[:-2]

  @property
  def event_shape(self):
    """The event shapes of the parts of a state."""
    clusters = tf.TensorShape(
      [self._mixture.num_clusters, self._mixture.num_dimensions]
    )
    return {
      'assignments': tf.TensorShape([self._mixture.num_points]),
      'log_precisions': clusters,
      'means': clusters,
    }

  @property
  def dtype(self):
    """The dtypes of the parts of a state."""
    return {
      'assignments': tf.int32,
      'log_precisions': tf.float32,
      'means': tf.float32,
    }

  def evaluate(self, level, state):
    """Returns the log density as a tuple; see `Densities.evaluate`."""
    del level
    return (self._mixture.log_density(state, self._x),)

  def log_prob(self, level, terms):
    """Returns the log density from these terms; see `Densities.log_prob`."""
    del level
    return terms[0]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Learned proposals: one-shot ones, and those of each block given the other.

Proposals of means and precisions are normal-gamma distributions. Their natural
parameters are those of the prior, to which sums over points are added, of
learned features of a point in the place of its own sufficient statistics: a
weight, and the mean and the variance of a value that stands for the point.
Assignments distribute these sums to clusters; they are those of a particle or,
for the one-shot proposal, learned probabilities. With weight one, the point
itself and no variance, the proposal is the exact conditional distribution; with
any features it is a proper distribution.

Proposals of an assignment are categorical, with logits from a network of the
point and of the parameters of a cluster, shared over points and clusters.

#### References

[1]: H. Wu, H. Zimmermann, E. Sennesh, T. A. Le, J.-W. van de Meent. Amortized
     population Gibbs samplers with neural sufficient statistics. ICML, 2020.
     https://arxiv.org/abs/1911.01382
"""

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.experiments.amortized_gibbs import model as model_lib
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'AssignmentNetwork',
  'FeatureNetwork',
  'Proposals',
]

# The approximate scale of points, by which the inputs of networks are divided.
_SCALE = 5.0


class _Perceptron(tf.Module):
  """A network plus a linear map, shared over all axes but the last.

  The output starts at zero.
  """

  def __init__(self, num_inputs, num_hidden, num_outputs, seed, name):
    super().__init__(name=name)
    self._network = nvi.StackedPerceptron(
      1, [], [num_inputs, *num_hidden, num_outputs], seed=seed
    )
    self._linear = tf.Variable(
      tf.zeros([num_inputs, num_outputs]), name='linear'
    )

  def __call__(self, inputs):
    flat = tf.reshape(inputs, [-1, inputs.shape[-1]])
    outputs = self._network(0, flat) + tf.matmul(flat, self._linear)
    return tf.reshape(outputs, [*inputs.shape[:-1], outputs.shape[-1]])


class FeatureNetwork(tf.Module):
  """Learned sufficient statistics of a point.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.amortized_gibbs import model, proposals

  mixture = model.GaussianMixture(num_points=20)
  x, z = mixture.simulate(4, seed=tf.constant([1, 2]))
  network = proposals.FeatureNetwork(mixture, [8], seed=1)
  which = tf.one_hot(z['assignments'], 3)
  clusters = network(which, x)
  assert clusters.sample(seed=(1, 2))['means'].shape == [4, 3, 2]
  ```
  """

  def __init__(self, mixture, num_hidden, seed, name='features'):
    """Initializes the network.

    Args:
      mixture: `GaussianMixture`.
      num_hidden: List of Python `int`s: units of hidden layers.
      seed: Stateless seed or Python `int`.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    self._mixture = mixture
    size = mixture.num_dimensions
    self._network = _Perceptron(size, num_hidden, 1 + 2 * size, seed, 'network')

  def __call__(self, shares, x) -> tfd.Distribution:
    """Proposes means and log precisions.

    Args:
      shares: float `Tensor` of shape `[num_particles] + batch + [num_points,
        num_clusters]`: the shares of each point that belong to the clusters.
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.

    Returns:
      distribution: As in `model.normal_gamma`.
    """
    size = self._mixture.num_dimensions
    outputs = self._network(x / _SCALE)
    # The result is one where the output is zero.
    offset = tfp.math.softplus_inverse(1.0)
    weight = tf.math.softplus(outputs[..., :1] + offset)
    value = _SCALE * outputs[..., 1 : 1 + size]
    variance = tf.math.softplus(outputs[..., 1 + size :])
    terms = tf.concat(
      [
        tf.repeat(weight, size, axis=-1),
        weight * value,
        weight * (value**2 + variance),
      ],
      axis=-1,
    )
    sums = tf.einsum('...nm,...nk->...mk', shares, terms)
    return self._mixture.posterior_of_statistics(*tf.split(sums, 3, axis=-1))


class AssignmentNetwork(tf.Module):
  """Learned logits of the assignment of a point to a cluster.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.amortized_gibbs import model, proposals

  mixture = model.GaussianMixture(num_points=20)
  x, z = mixture.simulate(4, seed=tf.constant([1, 2]))
  network = proposals.AssignmentNetwork(mixture, [8], seed=1)
  assert network(z, x).sample(seed=(1, 2)).shape == [4, 20]
  ```
  """

  def __init__(self, mixture, num_hidden, seed, name='assignments'):
    """Initializes the network.

    Args:
      mixture: `GaussianMixture`.
      num_hidden: List of Python `int`s: units of hidden layers.
      seed: Stateless seed or Python `int`.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    size = 2 * mixture.num_dimensions
    self._network = _Perceptron(size, num_hidden, 1, seed, 'network')

  def __call__(self, z, x) -> tfd.Distribution:
    """Proposes assignments.

    Args:
      z: State; its assignments are not read.
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.

    Returns:
      distribution: `tfd.Distribution` over assignments.
    """
    log_precisions = z['log_precisions'][..., tf.newaxis, :, :]
    residuals = x[..., tf.newaxis, :] - z['means'][..., tf.newaxis, :, :]
    residuals *= tf.exp(0.5 * log_precisions)
    inputs = tf.concat(
      [residuals, tf.broadcast_to(log_precisions, residuals.shape)], axis=-1
    )
    return tfd.Independent(
      tfd.Categorical(tf.squeeze(self._network(inputs), axis=-1)), 1
    )


class Proposals(tf.Module):
  """All proposals of the sampler.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi.experiments import amortized_gibbs

  mixture = amortized_gibbs.GaussianMixture(num_points=20)
  x, _ = mixture.simulate(4, seed=tf.constant([1, 2]))
  proposals = amortized_gibbs.Proposals(mixture, [8], seed=1)
  sampler = proposals.sampler(x, num_sweeps=2)
  run = sampler.run(5, seed=tf.constant([3, 4]))
  assert run.particles.log_weights.shape == [5, 4]
  ```
  """

  def __init__(self, mixture, num_hidden, seed=None, name='proposals'):
    """Initializes the networks.

    Args:
      mixture: `GaussianMixture`.
      num_hidden: List of Python `int`s: units of hidden layers of each network.
      seed: Stateless seed or Python `int`.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    seeds = tf.unstack(randomness.split_seed(randomness.as_seed(seed), 6))
    self._mixture = mixture
    size, units = mixture.num_dimensions, num_hidden[-1]
    self.one_shot = [
      _Perceptron(size, num_hidden, units, seeds[0], 'context'),
      _Perceptron(
        size + units, num_hidden, mixture.num_clusters, seeds[1], 'shares'
      ),
      FeatureNetwork(mixture, num_hidden, seeds[2], 'one_shot_features'),
      AssignmentNetwork(mixture, num_hidden, seeds[3], 'one_shot_assignments'),
    ]
    self.sweep = [
      FeatureNetwork(mixture, num_hidden, seeds[4]),
      AssignmentNetwork(mixture, num_hidden, seeds[5]),
    ]

  def first(self, x) -> tfd.Distribution:
    """Returns the one-shot proposal: clusters given points, then assignments.

    Args:
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.

    Returns:
      distribution: `tfd.JointDistributionNamed` over states.
    """
    context, shares, features, assignments = self.one_shot
    pooled = tf.reduce_mean(context(x / _SCALE), axis=-2, keepdims=True)
    pooled = tf.broadcast_to(pooled, [*x.shape[:-1], pooled.shape[-1]])
    logits = shares(tf.concat([x / _SCALE, pooled], axis=-1))
    clusters = features(tf.nn.softmax(logits), x).model

    def assign(means, log_precisions):
      z = {'means': means, 'log_precisions': log_precisions}
      return assignments(z, x)

    return tfd.JointDistributionNamed({**clusters, 'assignments': assign})

  def clusters_given_rest(self, z, x) -> tfd.Distribution:
    """Proposes means and log precisions, as in `GaussianMixture`."""
    which = tf.one_hot(z['assignments'], self._mixture.num_clusters)
    return self.sweep[0](which, x)

  def assignments_given_rest(self, z, x) -> tfd.Distribution:
    """Proposes assignments, as in `GaussianMixture`."""
    return self.sweep[1](z, x)

  def sampler(self, x, num_sweeps, **kwargs) -> nvi.NestedSampler:
    """Makes the amortized Gibbs sampler of some instances.

    Args:
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.
      num_sweeps: Python `int`: the number of updates of each of the two blocks.
      **kwargs: Further arguments of `NestedSampler`.

    Returns:
      sampler: `NestedSampler` with a level for each update.
    """
    updates = [
      nvi.BlockTransition(
        ['log_precisions', 'means'], lambda z: self.clusters_given_rest(z, x)
      ),
      nvi.BlockTransition(
        'assignments', lambda z: self.assignments_given_rest(z, x)
      ),
    ]
    return nvi.NestedSampler(
      model_lib.PosteriorDensities(self._mixture, x, 1 + 2 * num_sweeps),
      num_sweeps * updates,
      initial_proposal=self.first(x),
      **kwargs,
    )

  def importance_sampler(self, x) -> nvi.Chain:
    """Returns the one-shot proposal and its target, for reweighted wake-sleep.

    Args:
      x: float `Tensor` of shape `batch + [num_points, num_dimensions]`.

    Returns:
      chain: `Chain` of a single level.
    """
    return nvi.Chain(
      lambda: [
        nvi.Level(
          self.first(x),
          lambda z: self._mixture.log_density(z, x),
          self.one_shot,
          name='one_shot',
        )
      ]
    )

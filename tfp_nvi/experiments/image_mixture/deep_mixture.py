# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Levels and amortized inference of a deep generative mixture of images.

The model is in `mixture_model`, which also has the notation.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
[2]: S. Geman, D. Geman. Stochastic relaxation, Gibbs distributions, and the
     Bayesian restoration of images. IEEE Transactions on Pattern Analysis and
     Machine Intelligence 6(6), 1984.
"""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.experiments.image_mixture.mixture_model import MixtureModel
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'DeepMixture',
  'Posterior',
]

# Simulated mini-batches in a training step of q(lambda | c).
_NUM_SIMULATIONS = 4
# The number of sweeps of Gibbs sampling that infer proportions.
_NUM_SWEEPS = 10
# How many times the proportions of a mini-batch are updated in a training step.
# More updates would make frequent clusters even more frequent.
_NUM_UPDATES = 10


class Posterior(NamedTuple):
  """The posterior of a mini-batch of images.

  Fields:
    proportions: Shape `[num_clusters]`: `E[lambda]`.
    proportions_samples: Shape `[num_samples, num_clusters]`.
    cluster_probs: Shape `[N, num_clusters]`: of each image's cluster, given
      the proportions that all images suggest.
    latent_loc: Shape `[N, num_latents]`: the mean of `q(z | x)`.
    latent_scale: Shape `[N, num_latents]`: its standard deviation.
  """

  proportions: tf.Tensor
  proportions_samples: tf.Tensor
  cluster_probs: tf.Tensor
  latent_loc: tf.Tensor
  latent_scale: tf.Tensor


class DeepMixture(MixtureModel):
  """A deep generative mixture and its inference networks.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi.experiments.image_mixture import deep_mixture

  mixture = deep_mixture.DeepMixture([8, 8], num_clusters=3, seed=1)
  images = tf.random.uniform([20, 8, 8])
  estimate = nvi.reverse_kl()(
    nvi.Chain(lambda: mixture.levels(images)), 1, seed=tf.constant([1, 2])
  )
  posterior = mixture.infer(images, num_samples=5, seed=tf.constant([3, 4]))
  assert posterior.proportions.shape == [3]
  ```
  """

  def _log_ratio(self, z):
    """Returns `log lambda_c - log pi(c)` of a mini-batch: `[num_clusters]`.

    The proportions are the mean of `q(lambda | c)`, and the expected counts are
    those of `q(c | z) lambda_c / pi(c)`: the two are updated in turn.
    """
    prior = tf.math.log_softmax(self.cluster_logits)
    log_probs = self._clusters(z).logits_parameter()
    log_ratio = tf.zeros_like(prior)
    for _ in range(_NUM_UPDATES):
      probs = tf.nn.softmax(log_probs + log_ratio)
      proportions = self._proportions(tf.reduce_sum(probs, axis=0)).mean()
      log_ratio = tf.math.log(proportions) - prior
    return tf.stop_gradient(log_ratio)

  def levels(self, images, shares=False):
    """Returns the levels of the nested objective.

    With `shares`, the intermediate density of latents is the one given the
    proportions of the mini-batch, `pi(z) sum_c q(c | z) lambda_c / pi(c)`, and
    clusters are inferred likewise. Otherwise clusters are as frequent as
    `pi(c)` has them in every mini-batch.

    Args:
      images: As in `intensities`.
      shares: bool `Tensor` of shape `[]`: whether images of a mini-batch inform
        each other by its proportions.
        Default value: `False`.

    Returns:
      levels: List of four `tfp_nvi.Level`s: of lambda and c, of c and z, of z
        and the images, and the clusters' own.
    """
    intensities = self.intensities(images)
    num_images = intensities.shape[0]
    encoder = self.encode(intensities)
    log_ratio = self._log_ratio(encoder.mean())
    log_ratio = tf.where(shares, log_ratio, tf.zeros_like(log_ratio))

    simulated = tfd.JointDistributionNamed(
      {
        'proportions': self._prior([_NUM_SIMULATIONS]),
        'c': lambda proportions: tfd.Sample(
          tfd.Categorical(probs=proportions), self._num_simulated
        ),
      }
    )
    counted = tfd.JointDistributionNamed(
      {
        'c': tfd.Sample(
          tfd.Categorical(logits=self.cluster_logits), self._num_simulated
        ),
        'proportions': lambda c: self._proportions(self._count(c)),
      }
    )

    def mixture(logits):
      return tfd.JointDistributionNamed(
        {
          'c': tfd.Categorical(logits=logits + tf.zeros([num_images, 1])),
          'z': lambda c: self._latents(c),
        }
      )

    clustered = tfd.JointDistributionNamed(
      {'z': self.flow, 'c': lambda z: self._clusters(z)}
    )
    # The means and scales are held fixed, so that the compiled level does not
    # include the encoder.
    inferred = tfd.JointDistributionNamed(
      {
        'z': tfd.MultivariateNormalDiag(
          tf.stop_gradient(encoder.mean()),
          tf.stop_gradient(encoder.stddev()),
        ),
        'c': lambda z: tfd.Categorical(
          logits=self._clusters(z).logits_parameter() + log_ratio
        ),
      }
    )

    def log_joint(z):
      log_likelihood = self.image_log_prob(images, z)
      log_probs = tf.math.log_softmax(self._clusters(z).logits_parameter())
      return (
        self._flow_log_prob(z)
        + tf.reduce_logsumexp(log_probs + log_ratio, axis=-1)
        + log_likelihood / self._kl_weight
      )

    return [
      nvi.Level(
        simulated,
        counted,
        [self.cluster_logits, self.counter],
        jit_compile=True,
        name='proportions',
      ),
      nvi.Level(
        mixture(self.cluster_logits),
        clustered,
        [self.flow, self.classifier],
        jit_compile=True,
        name='clusters',
      ),
      # The decoder's part of the evidence lower bound is that of this level.
      nvi.Level(
        encoder, log_joint, [self.encoder, self.decoder], name='images'
      ),
      # Likewise, the clusters' part of the bound is that of this level.
      nvi.Level(
        inferred,
        mixture(self.cluster_logits + log_ratio),
        [self._loc, self._log_scale],
        jit_compile=True,
        name='latents',
      ),
    ]

  def joint_levels(self, images):
    """Returns one level of the whole model, for importance-weighted objectives.

    Args:
      images: As in `intensities`.

    Returns:
      levels: List of one `tfp_nvi.Level`, over all of a mini-batch at once.
    """
    intensities = self.intensities(images)
    num_images = intensities.shape[0]
    encoder = self.encode(intensities)
    proposal = tfd.JointDistributionNamed(
      {
        'z': tfd.Independent(encoder, 1),
        'c': lambda z: tfd.Independent(self._clusters(z), 1),
        'proportions': lambda c: self._proportions(self._count(c)),
      }
    )
    prior = tfd.JointDistributionNamed(
      {
        'proportions': self._prior(),
        'c': lambda proportions: tfd.Sample(
          tfd.Categorical(probs=proportions), num_images
        ),
        'z': lambda c: tfd.Independent(self._latents(c), 1),
      }
    )

    def log_joint(values):
      log_likelihood = self.image_log_prob(images, values['z'])
      return prior.log_prob(values) + tf.reduce_sum(log_likelihood, axis=-1)

    return [
      nvi.Level(
        proposal,
        log_joint,
        [
          self.encoder,
          self.decoder,
          self.classifier,
          self.counter,
          self._loc,
          self._log_scale,
        ],
        name='joint',
      )
    ]

  def infer(self, images, num_samples, seed, num_sweeps=_NUM_SWEEPS):
    """Infers the proportions, clusters and latents of a mini-batch.

    Clusters come from `q(c | z)` at first, which knows one image at a time.
    The other images enter by Gibbs sampling [2] with the learned
    conditionals: proportions from `q(lambda | c)`, and then
    clusters from their density given both, `q(c | z) lambda_c / pi(c)` up to a
    constant.

    Args:
      images: As in `intensities`.
      num_samples: Python `int`: how many draws of `z` to average over, each
        with clusters and proportions of its own.
      seed: Stateless seed.
      num_sweeps: Python `int`: how many times to draw proportions and clusters.
        Default value: `10`.

    Returns:
      posterior: `Posterior`.

    Raises:
      ValueError: If `num_sweeps` is negative.
    """
    if num_sweeps < 0:
      raise ValueError(
        f'`num_sweeps` must be a non-negative Python int; got {num_sweeps}.'
      )
    encoder = self.encode(self.intensities(images))
    z_seed, c_seed, proportions_seed = tf.unstack(
      randomness.split_seed(seed, 3)
    )
    z = encoder.sample(num_samples, seed=z_seed)
    logits = self._clusters(z).logits_parameter()
    # `q(c | z)` is learned where clusters are as frequent as `pi(c)` has them.
    log_evidence = logits - tf.math.log_softmax(self.cluster_logits)

    def sweep(i, logits):
      c = tfd.Categorical(logits).sample(seed=randomness.fold_in(c_seed, i))
      drawn = self._proportions(self._count(c)).sample(
        seed=randomness.fold_in(proportions_seed, i)
      )
      return i + 1, log_evidence + tf.math.log(drawn)[:, tf.newaxis]

    _, logits = tf.while_loop(
      lambda i, _: i < num_sweeps,
      sweep,
      (tf.constant(0), logits),
      parallel_iterations=1,
    )
    clusters = tfd.Categorical(logits)
    c = clusters.sample(seed=randomness.fold_in(c_seed, num_sweeps))
    proportions = self._proportions(self._count(c))
    return Posterior(
      proportions=tf.reduce_mean(proportions.mean(), axis=0),
      proportions_samples=proportions.sample(
        seed=randomness.fold_in(proportions_seed, num_sweeps)
      ),
      cluster_probs=tf.reduce_mean(clusters.probs_parameter(), axis=0),
      latent_loc=encoder.mean(),
      latent_scale=encoder.stddev(),
    )

  def cluster_probs(self, images):
    """Returns `q(c | z)` at the mean of `q(z | x)`: `[N, num_clusters]`."""
    encoder = self.encode(self.intensities(images))
    return self._clusters(encoder.mean()).probs_parameter()

  def bound(self, images, num_samples, seed):
    """Returns the importance-weighted bound on the log density of each image.

    Clusters are summed over, with equal proportions.

    Args:
      images: As in `intensities`.
      num_samples: Python `int`: draws of `z` for each image.
      seed: Stateless seed.

    Returns:
      bound: float `Tensor` of shape `[N]`.
    """
    intensities = self.intensities(images)
    encoder = self.encode(intensities)
    z = encoder.sample(num_samples, seed=seed)
    prior = tfd.MixtureSameFamily(
      tfd.Categorical(logits=tf.zeros([self.num_clusters])),
      tfd.MultivariateNormalDiag(self.loc, self.scale),
    )
    log_weights = (
      prior.log_prob(z) + self.image_log_prob(images, z) - encoder.log_prob(z)
    )
    return nvi.log_normalizer(log_weights)

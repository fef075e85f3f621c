# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A deep generative mixture of images, and its amortized inference.

The model of a mini-batch of N images, and the distributions learned with it:

```none
model        lambda ~ Dirichlet(concentration)
             c_n ~ Categorical(lambda)
             z_n ~ Normal(loc[c_n], scale[c_n])
             x_n ~ ContinuousBernoulli(decoder(z_n))
inference    q(z_n | x_n), q(c_n | z_n), q(lambda | c_1 ... c_N)
between      pi(c), categorical; pi(z), planar flows of another mixture
```

Contract: images go in as bytes or as intensities from 0 to 1, of shape
`[N, height, width]`, and no label ever does.

This file is long because model, levels and inference are methods of one class,
whose networks they share.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
[2]: S. Geman, D. Geman. Stochastic relaxation, Gibbs distributions, and the
     Bayesian restoration of images. IEEE Transactions on Pattern Analysis and
     Machine Intelligence 6(6), 1984.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.experiments.image_mixture import likelihood, networks
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'DeepMixture',
  'Posterior',
]

# Adam moves all parameters at about the same pace; clusters are far apart.
_CLUSTER_UNIT = 5.0
# Simulated mini-batches in a training step of q(lambda | c).
_NUM_SIMULATIONS = 4
_MIN_SCALE = 1e-3
# Of Gibbs sampling, to infer proportions.
_NUM_SWEEPS = 10
# How much a given cluster counts, beside the density of latents.
_ASSIGNED_WEIGHT = 3.0


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


class DeepMixture(tf.Module):
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

  def __init__(
    self,
    image_shape,
    num_clusters=10,
    num_latents=10,
    num_flow_layers=8,
    num_simulated=300,
    concentration=1.0,
    kl_weight=1.0,
    seed=None,
    name='deep_mixture',
  ):
    """Initializes networks and clusters.

    Args:
      image_shape: Height and width: multiples of 4, or of 2 if below 16.
      num_clusters: Python `int`.
        Default value: `10`.
      num_latents: Python `int`: the size of `z`.
        Default value: `10`.
      num_flow_layers: Python `int` number of planar flows of `pi(z)`.
        Default value: `8`.
      num_simulated: Python `int`: how many images a mini-batch has, from which
        `q(lambda | c)` learns.
        Default value: `300`.
      concentration: Python `float`: that of the Dirichlet prior.
        Default value: `1.`.
      kl_weight: Python `float`: how much `pi(z)` counts beside the images in
        the level that trains encoder and decoder.
        Default value: `1.`.
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.

    Raises:
      ValueError: If images of this shape cannot be taken apart.
    """
    super().__init__(name=name)
    self.image_shape = [int(size) for size in image_shape]
    stride = 4 if min(self.image_shape) >= 16 else 2
    if len(self.image_shape) != 2 or any(s % stride for s in self.image_shape):
      raise ValueError(
        '`image_shape` must be a height and a width that are multiples of '
        f'{stride}; got {list(image_shape)}.'
      )
    self.num_clusters = num_clusters
    self.num_latents = num_latents
    self._num_simulated = num_simulated
    self._concentration = float(concentration)
    self._kl_weight = float(kl_weight)
    seed = randomness.as_seed(seed)
    flow_seed, loc_seed, layer_seed = randomness.split_seed(seed, 3)
    seeds = iter(
      randomness.split_seed(layer_seed, 32)[:, 0].numpy().astype(np.int64)
      % 2**31
    )
    height, width = (size // stride for size in self.image_shape)
    # In this order, as all of them take their seeds from one sequence.
    self.encoder = networks.make_encoder(
      self.image_shape, stride, num_latents, seeds
    )
    self.decoder = networks.make_decoder(
      num_latents, height, width, stride, seeds
    )
    self._stride = stride
    self.classifier = networks.make_perceptron(
      num_latents, [128, num_clusters], seeds, 'classifier'
    )
    # Of one cluster at a time: the same for each.
    self.counter = networks.make_perceptron(1, [32, 2], seeds, 'counter')
    self.cluster_logits = tf.Variable(tf.zeros([num_clusters]), name='logits')
    shape = [num_clusters, num_latents]
    self._loc = tf.Variable(
      randomness.normal(shape, loc_seed) / _CLUSTER_UNIT, name='loc'
    )
    self._log_scale = tf.Variable(
      tf.fill(shape, np.float32(np.log(0.7) / _CLUSTER_UNIT)), name='log_scale'
    )
    # `pi(z)` has clusters of its own, because planar flows do not split one
    # mode into several.
    self._base_loc = tf.Variable(self._loc, name='base_loc')
    self._base_log_scale = tf.Variable(self._log_scale, name='base_log_scale')
    self.flow = nvi.planar_flow_density(
      num_latents,
      num_flow_layers,
      seed=flow_seed,
      base_distribution=tfd.MixtureSameFamily(
        tfd.Categorical(
          logits=tf.Variable(tf.zeros([num_clusters]), name='base_logits')
        ),
        tfd.MultivariateNormalDiag(
          tfp.util.DeferredTensor(self._base_loc, lambda x: _CLUSTER_UNIT * x),
          tfp.util.DeferredTensor(
            self._base_log_scale, lambda x: tf.exp(_CLUSTER_UNIT * x)
          ),
        ),
      ),
    )
    self._flow_log_prob_and_slope = tf.function(
      lambda z: tfp.math.value_and_gradient(self.flow.log_prob, z),
      jit_compile=True,
      autograph=False,
    )

  @property
  def loc(self):
    """Means of the clusters, of shape `[num_clusters, num_latents]`."""
    return _CLUSTER_UNIT * self._loc

  @property
  def scale(self):
    """Their standard deviations, of the same shape."""
    return tf.exp(_CLUSTER_UNIT * self._log_scale)

  def set_clusters(self, loc, scale):
    """Sets the clusters, and those of `pi(z)`.

    Args:
      loc: float array of shape `[num_clusters, num_latents]`.
      scale: Likewise.
    """
    for variable in (self._loc, self._base_loc):
      variable.assign(np.asarray(loc, np.float32) / _CLUSTER_UNIT)
    for variable in (self._log_scale, self._base_log_scale):
      variable.assign(np.log(scale).astype(np.float32) / _CLUSTER_UNIT)

  def intensities(self, images):
    """Images as floats from 0 to 1.

    Args:
      images: uint8 or float `Tensor` of shape `[N, height, width]`.

    Returns:
      intensities: float32 `Tensor` of the same shape.

    Raises:
      TypeError: If images are of another dtype.
    """
    return likelihood.intensities(images)

  def encode(self, intensities):
    """`q(z | x)`, of batch shape `[N]`."""
    outputs = self.encoder(intensities[..., tf.newaxis])
    loc, scale = tf.split(outputs, 2, axis=-1)
    # Fewer operations than a `tfd.MultivariateNormalDiag`, which transposes its
    # draws and arguments.
    return tfd.Independent(
      tfd.Normal(loc, tf.math.softplus(scale + 0.5) + _MIN_SCALE), 1
    )

  def decode(self, z):
    """Logits of images, of shape `batch + [height, width]`, unbounded."""
    pieces = self.decoder(tf.reshape(z, [-1, self.num_latents]))
    pixels = tf.nn.depth_to_space(pieces, self._stride)[..., 0]
    return tf.reshape(
      pixels, tf.concat([tf.shape(z)[:-1], self.image_shape], axis=0)
    )

  def image_means(self, z):
    """Mean images, of shape `batch + [height, width]`."""
    logits = likelihood.MAX_LOGIT * tf.math.tanh(
      self.decode(z) / likelihood.MAX_LOGIT
    )
    return tfd.ContinuousBernoulli(logits).mean()

  def image_log_prob(self, images, z):
    """`log p(x | z)`, of shape `[num_particles, N]`.

    Args:
      images: As in `intensities`.
      z: float `Tensor` of shape `[num_particles, N, num_latents]`.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles, N]`.

    Raises:
      TypeError: If images are of another dtype.
      ValueError: If images are not of `image_shape`.
    """
    images = tf.convert_to_tensor(images)
    if not images.shape[-2:].is_compatible_with(self.image_shape):
      raise ValueError(
        f'`images` must have shape {["...", *self.image_shape]}; got '
        f'{images.shape}.'
      )
    images = tf.ensure_shape(
      images, images.shape[:-2].concatenate(self.image_shape)
    )
    outputs = self.decoder(tf.reshape(z, [-1, self.num_latents]))
    shape = tf.concat([tf.shape(z)[:-1], [math.prod(self.image_shape)]], axis=0)
    return likelihood.image_log_prob(
      tf.reshape(outputs, shape),
      likelihood.take_apart(images, self._stride),
    )

  def _latents(self, c):
    """`p(z | c)`."""
    return tfd.MultivariateNormalDiag(
      tf.gather(self.loc, c), tf.gather(self.scale, c)
    )

  def _flow_log_prob(self, z):
    """`log pi(z)`, as a function of `z` alone, with its slope in one pass."""
    return likelihood.differentiable(self._flow_log_prob_and_slope, z)

  def _clusters(self, z):
    """`q(c | z)`."""
    flat = tf.reshape(z, [-1, self.num_latents])
    logits = tf.reshape(
      self.classifier(flat),
      tf.concat([tf.shape(z)[:-1], [self.num_clusters]], axis=0),
    )
    logits.set_shape(z.shape[:-1] + [self.num_clusters])
    return tfd.Categorical(logits=logits)

  def _proportions(self, counts):
    """`q(lambda | c)`, from how many images each cluster has.

    The posterior of a Dirichlet prior is linear in the counts; the network adds
    the same function of its count for each cluster.
    """
    flat = tf.reshape(counts, [-1, 1])
    slope, offset = tf.split(
      self.counter(tf.math.log1p(flat) / 5.0), 2, axis=-1
    )
    concentration = tf.math.softplus(slope + 0.54) * flat + tf.math.softplus(
      offset + 0.54
    )
    return tfd.Dirichlet(tf.reshape(concentration, tf.shape(counts)))

  def _count(self, c):
    """How many of the last axis are in each cluster."""
    return tf.reduce_sum(tf.one_hot(c, self.num_clusters), axis=-2)

  def _prior(self, batch_shape=()):
    return tfd.Dirichlet(
      tf.fill([*batch_shape, self.num_clusters], self._concentration)
    )

  def warm_up_levels(self, images, kl_weight):
    """One level: a variational autoencoder with a standard normal prior.

    Args:
      images: As in `intensities`.
      kl_weight: Python `float`: how much the prior counts beside the images.

    Returns:
      levels: List of `tfp_nvi.Level`s.
    """
    intensities = self.intensities(images)
    encoder = self.encode(intensities)
    prior = tfd.MultivariateNormalDiag(tf.zeros([self.num_latents]))

    def log_joint(z):
      log_likelihood = self.image_log_prob(images, z)
      return prior.log_prob(z) + log_likelihood / kl_weight

    return [
      nvi.Level(encoder, log_joint, [self.encoder, self.decoder], name='images')
    ]

  def assigned_levels(self, images, c, kl_weight):
    """The levels of the nested objective where clusters are given.

    Latents are also to tell of which cluster they are, by `q(c | z)`.

    Args:
      images: As in `intensities`.
      c: int `Tensor` of shape `[N]`: the cluster of each image.
      kl_weight: As in `warm_up_levels`.

    Returns:
      levels: List of three `tfp_nvi.Level`s: of lambda and c, of c and z, of z
        and the images.
    """
    intensities = self.intensities(images)
    encoder = self.encode(intensities)
    prior = self._latents(c)

    def log_joint(z):
      log_likelihood = self.image_log_prob(images, z)
      return (
        prior.log_prob(z)
        + _ASSIGNED_WEIGHT * self._clusters(z).log_prob(c)
        + log_likelihood / kl_weight
      )

    return self.levels(images)[:2] + [
      nvi.Level(
        encoder,
        log_joint,
        [self.encoder, self.decoder, self._loc, self._log_scale],
        name='images',
      )
    ]

  def levels(self, images):
    """The levels of the nested objective.

    Args:
      images: As in `intensities`.

    Returns:
      levels: List of four `tfp_nvi.Level`s: of lambda and c, of c and z, of z
        and the images, and the clusters' own.
    """
    intensities = self.intensities(images)
    num_images = intensities.shape[0]
    encoder = self.encode(intensities)

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
    mixture = tfd.JointDistributionNamed(
      {
        'c': tfd.Categorical(
          logits=self.cluster_logits + tf.zeros([num_images, 1])
        ),
        'z': lambda c: self._latents(c),
      }
    )
    clustered = tfd.JointDistributionNamed(
      {'z': self.flow, 'c': lambda z: self._clusters(z)}
    )
    # Fixed, so that this level takes nothing else along when it is compiled.
    inferred = tfd.JointDistributionNamed(
      {
        'z': tfd.MultivariateNormalDiag(
          tf.stop_gradient(encoder.mean()),
          tf.stop_gradient(encoder.stddev()),
        ),
        'c': lambda z: self._clusters(z),
      }
    )

    def log_joint(z):
      log_likelihood = self.image_log_prob(images, z)
      return self._flow_log_prob(z) + log_likelihood / self._kl_weight

    return [
      nvi.Level(
        simulated,
        counted,
        [self.cluster_logits, self.counter],
        jit_compile=True,
        name='proportions',
      ),
      nvi.Level(
        mixture,
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
        mixture,
        [self._loc, self._log_scale],
        jit_compile=True,
        name='latents',
      ),
    ]

  def joint_levels(self, images):
    """One level of the whole model, for importance-weighted objectives.

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
    """`q(c | z)` at the mean of `q(z | x)`, of shape `[N, num_clusters]`."""
    encoder = self.encode(self.intensities(images))
    return self._clusters(encoder.mean()).probs_parameter()

  def bound(self, images, num_samples, seed):
    """The importance-weighted bound on the log density of each image.

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

  def generate(self, proportions, num_images, seed):
    """Mean images of a mini-batch with given proportions.

    Args:
      proportions: float `Tensor` of shape `[num_clusters]`.
      num_images: Python `int`.
      seed: Stateless seed.

    Returns:
      c: int32 `Tensor` of shape `[num_images]`.
      images: float `Tensor` of shape `[num_images, height, width]`.
    """
    c_seed, z_seed = tf.unstack(randomness.split_seed(seed, 2))
    c = tfd.Categorical(probs=proportions).sample(num_images, seed=c_seed)
    return c, self.generate_from(c, z_seed)

  def generate_from(self, c, seed):
    """Mean images of given clusters.

    Args:
      c: int `Tensor` of shape `[num_images]`.
      seed: Stateless seed.

    Returns:
      images: float `Tensor` of shape `[num_images, height, width]`.
    """
    return self.image_means(self._latents(c).sample(seed=seed))

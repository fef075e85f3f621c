# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The generative model of a deep mixture of images, and its networks.

```none
model        lambda ~ Dirichlet(concentration)
             c_n ~ Categorical(lambda)
             z_n ~ Normal(loc[c_n], scale[c_n])
             x_n ~ ContinuousBernoulli(decoder(z_n))
inference    q(z_n | x_n), q(c_n | z_n), q(lambda | c_1 ... c_N)
between      pi(c), categorical; pi(z), planar flows of another mixture
```

Contract: images are bytes or intensities from 0 to 1, of shape
`[N, height, width]`, and labels are never used.
"""

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.experiments.image_mixture import likelihood, networks
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'MixtureModel',
]

# Clusters are far apart, and Adam moves all parameters at about the same pace;
# so clusters have their own unit.
_CLUSTER_UNIT = 5.0
_MIN_SCALE = 1e-3


class MixtureModel(tf.Module):
  """Networks and clusters, and the densities that are made of them.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.image_mixture import mixture_model

  mixture = mixture_model.MixtureModel([8, 8], num_clusters=3, seed=1)
  c, images = mixture.generate([0.2, 0.3, 0.5], 20, seed=tf.constant([1, 2]))
  assert images.shape == [20, 8, 8]
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
      num_simulated: Python `int`: the number of images in the simulated
        mini-batches from which `q(lambda | c)` learns.
        Default value: `300`.
      concentration: Python `float`: that of the Dirichlet prior.
        Default value: `1.`.
      kl_weight: Python `float`: the weight of `pi(z)` relative to the images in
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
    # The order matters, because all networks take their seeds from one
    # sequence.
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
    # This network sees one cluster at a time, and is the same for each.
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

  def intensities(self, images):
    """Converts images to floats from 0 to 1.

    Args:
      images: uint8 or float `Tensor` of shape `[N, height, width]`.

    Returns:
      intensities: float32 `Tensor` of the same shape.

    Raises:
      TypeError: If images are of another dtype.
    """
    return likelihood.intensities(images)

  def encode(self, intensities):
    """Returns `q(z | x)`, of batch shape `[N]`."""
    outputs = self.encoder(intensities[..., tf.newaxis])
    loc, scale = tf.split(outputs, 2, axis=-1)
    # This has fewer operations than a `tfd.MultivariateNormalDiag`, which
    # transposes its draws and arguments.
    return tfd.Independent(
      tfd.Normal(loc, tf.math.softplus(scale + 0.5) + _MIN_SCALE), 1
    )

  def decode(self, z):
    """Returns unbounded logits of images: `batch + [height, width]`."""
    pieces = self.decoder(tf.reshape(z, [-1, self.num_latents]))
    pixels = tf.nn.depth_to_space(pieces, self._stride)[..., 0]
    return tf.reshape(
      pixels, tf.concat([tf.shape(z)[:-1], self.image_shape], axis=0)
    )

  def image_means(self, z):
    """Returns mean images, of shape `batch + [height, width]`."""
    logits = likelihood.MAX_LOGIT * tf.math.tanh(
      self.decode(z) / likelihood.MAX_LOGIT
    )
    return tfd.ContinuousBernoulli(logits).mean()

  def image_log_prob(self, images, z):
    """Returns `log p(x | z)`, of shape `[num_particles, N]`.

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
    """Returns `p(z | c)`."""
    return tfd.MultivariateNormalDiag(
      tf.gather(self.loc, c), tf.gather(self.scale, c)
    )

  def _flow_log_prob(self, z):
    """Returns `log pi(z)`, as a function of `z` alone, with its gradient."""
    return likelihood.differentiable(self._flow_log_prob_and_slope, z)

  def _clusters(self, z):
    """Returns `q(c | z)`."""
    flat = tf.reshape(z, [-1, self.num_latents])
    logits = tf.reshape(
      self.classifier(flat),
      tf.concat([tf.shape(z)[:-1], [self.num_clusters]], axis=0),
    )
    logits.set_shape(z.shape[:-1] + [self.num_clusters])
    return tfd.Categorical(logits=logits)

  def _proportions(self, counts):
    """Returns `q(lambda | c)`, from the number of images of each cluster.

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
    """Counts the entries of the last axis in each cluster."""
    return tf.reduce_sum(tf.one_hot(c, self.num_clusters), axis=-2)

  def _prior(self, batch_shape=()):
    return tfd.Dirichlet(
      tf.fill([*batch_shape, self.num_clusters], self._concentration)
    )

  def generate(self, proportions, num_images, seed):
    """Returns mean images of a mini-batch with given proportions.

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
    """Returns mean images of given clusters.

    Args:
      c: int `Tensor` of shape `[num_images]`.
      seed: Stateless seed.

    Returns:
      images: float `Tensor` of shape `[num_images, height, width]`.
    """
    return self.image_means(self._latents(c).sample(seed=seed))

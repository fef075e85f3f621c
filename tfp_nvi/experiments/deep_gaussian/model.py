# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Deep latent Gaussian models of binary images, and the levels they learn by.

```none
p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1)   the model
q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1})          recognition
pi_1(z_1), ..., pi_{L-1}(z_{L-1})                     intermediate densities
```

The prior of the last layer is standard normal, pixels are Bernoulli variables,
and intermediate densities are mixtures of Gaussians, which stand for the
marginal densities of the model.

#### References

[1]: D. J. Rezende, S. Mohamed, D. Wierstra. Stochastic backpropagation and
     approximate inference in deep generative models. ICML, 2014.
     https://arxiv.org/abs/1401.4082
[2]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'DeepGaussian',
  'MixtureDensity',
  'binarize',
]


def binarize(intensities, seed):
  """Draws binary pixels whose means are the intensities.

  Args:
    intensities: uint8 `Tensor`, from 0 to 255.
    seed: Stateless seed.

  Returns:
    pixels: float `Tensor` of the same shape, of zeros and ones.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.deep_gaussian import model

  pixels = model.binarize(tf.constant([0, 255], tf.uint8), (1, 2))
  assert pixels.numpy().tolist() == [0.0, 1.0]
  ```
  """
  means = tf.cast(intensities, tf.float32) / 255.0
  draws = randomness.uniform(means.shape, seed)
  return tf.cast(draws < means, tf.float32)


def _given(layer_fn):
  """Returns a layer as a function of an argument that is named `_`."""
  return lambda _: layer_fn(_)


def _stack(first, layers):
  """Returns the joint distribution of `first` and of successive layers."""
  return tfd.JointDistributionSequential([first, *map(_given, layers)])


class MixtureDensity(tf.Module):
  """A mixture of Gaussians with learned parameters.

  ```python
  import tensorflow as tf
  from tfp_nvi.experiments.deep_gaussian import model

  density = model.MixtureDensity(num_components=3, size=2, seed=1)
  assert density.log_prob(tf.zeros([10, 2])).shape == [10]
  ```
  """

  def __init__(self, num_components, size, seed, name='mixture_density'):
    """Initializes components around the origin.

    Args:
      num_components: Python `int`.
      size: Python `int`: the size of a vector.
      seed: Stateless seed or Python `int`.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    loc = randomness.normal([size, num_components], randomness.as_seed(seed))
    self._logits = tf.Variable(tf.zeros([num_components]), name='logits')
    self._loc = tf.Variable(loc, name='loc')
    self._log_scale = tf.Variable(tf.zeros_like(loc), name='log_scale')

  def log_prob(self, z):
    """Returns the log density of vectors, by products of matrices.

    Args:
      z: float `Tensor` of shape `batch + [size]`.

    Returns:
      log_prob: float `Tensor` of shape `batch`.
    """
    precision = tf.exp(-2.0 * self._log_scale)
    weighted_loc = precision * self._loc
    size = z.shape[-1]
    constant = -0.5 * (
      tf.reduce_sum(self._loc * weighted_loc + 2.0 * self._log_scale, axis=0)
      + size * np.log(2.0 * np.pi)
    )
    flat = tf.reshape(z, [-1, size])
    log_probs = (
      tf.matmul(flat, weighted_loc)
      - 0.5 * tf.matmul(flat * flat, precision)
      + constant
      + tf.nn.log_softmax(self._logits)
    )
    return tf.reshape(tf.reduce_logsumexp(log_probs, axis=-1), z.shape[:-1])


class DeepGaussian(tf.Module):
  """A deep latent Gaussian model, with recognition and intermediate densities.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi.experiments import deep_gaussian

  model = deep_gaussian.DeepGaussian(64, num_latents=[8, 4], seed=1)
  x = tf.round(tf.random.uniform([20, 64]))
  chain = nvi.Chain(lambda: model.levels(x, 'reverse_kl'))
  estimate, gradients = nvi.reverse_kl()(chain, 1, seed=tf.constant([1, 2]))
  ```
  """

  def __init__(
    self,
    num_pixels,
    num_latents,
    num_hidden=(100, 50),
    num_components=20,
    mean_image=None,
    seed=None,
    name='deep_gaussian',
  ):
    """Initializes the networks.

    Args:
      num_pixels: Python `int`.
      num_latents: List of Python `int`s: the sizes of `z_1`, `z_2`, ...
      num_hidden: Pair of Python `int`s: the units of each of the two hidden
        layers of networks from and to pixels, and of networks between latents.
        Default value: `(100, 50)`.
      num_components: Python `int`: components of an intermediate density.
        Default value: `20`.
      mean_image: Array of shape `[num_pixels]`: the means of pixels, at which
        the decoder starts.
        Default value: `None` (i.e., one half).
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    self.num_latents = list(num_latents)
    num_layers = len(self.num_latents)
    units, inner_units = ([size, size] for size in num_hidden)
    seeds = randomness.split_seed(randomness.as_seed(seed), 3 * num_layers + 1)
    sizes = [num_pixels, *self.num_latents]
    self.recognition = [
      nvi.GaussianLayer(
        *sizes[i : i + 2],
        inner_units if i else units,
        seed=seeds[i],
        name=f'recognition_{i + 1}',
      )
      for i in range(num_layers)
    ]
    self.generative = [
      nvi.GaussianLayer(
        *sizes[i + 1 : i - 1 : -1],
        inner_units,
        seed=seeds[num_layers + i],
        name=f'generative_{i}',
      )
      for i in range(1, num_layers)
    ]
    self.densities = [
      MixtureDensity(
        num_components, size, seeds[2 * num_layers + i], f'density_{i + 1}'
      )
      for i, size in enumerate(self.num_latents[:-1])
    ]
    if mean_image is None:
      mean_image = np.full([num_pixels], 0.5)
    mean_image = np.clip(mean_image, 0.01, 0.99)
    self.decoder = tf_keras.Sequential(
      [
        *(
          tf_keras.layers.Dense(
            size,
            activation='tanh',
            kernel_initializer=tf_keras.initializers.GlorotUniform(
              seed=int(seeds[-1, 0]) + i
            ),
          )
          for i, size in enumerate(units)
        ),
        tf_keras.layers.Dense(
          num_pixels,
          kernel_initializer=tf_keras.initializers.GlorotUniform(
            seed=int(seeds[-1, 1])
          ),
          bias_initializer=tf_keras.initializers.Constant(
            np.log(mean_image / (1.0 - mean_image))
          ),
        ),
      ],
      name='decoder',
    )
    self.decoder.build([None, self.num_latents[0]])

  def logits(self, z_1):
    """Returns logits of pixels given `z_1`, of shape `batch + [num_pixels]`."""
    outputs = self.decoder(tf.reshape(z_1, [-1, z_1.shape[-1]]))
    return tf.reshape(outputs, [*z_1.shape[:-1], outputs.shape[-1]])

  def image_log_prob(self, x, z_1):
    """Returns `log p(x | z_1)`, of the shape of the batch of `z_1`."""
    logits = self.logits(z_1)
    terms = x * logits - tf.math.softplus(logits)
    return tf.reduce_sum(terms, axis=-1)

  def infer(self, x) -> tfd.Distribution:
    """Returns `q(z_1, ..., z_L | x)`, over lists that begin with `z_1`."""
    return self._upward(self.recognition[0](x), self.num_layers)

  def _upward(self, first, num_layers):
    """Returns the distribution of `z_1` and the recognized layers above."""
    return _stack(first, self.recognition[1:num_layers])

  def prior(self, batch_shape, first=1) -> tfd.Distribution:
    """Returns `p(z_L) ... p(z_first | ...)`, over lists from `z_L` on."""
    zeros = tf.zeros([*batch_shape, self.num_latents[-1]])
    top = tfd.MultivariateNormalDiag(zeros, tf.ones_like(zeros))
    return _stack(top, self.generative[first - 1 :][::-1])

  @property
  def num_layers(self):
    """Python `int`: the number of layers of latents."""
    return len(self.num_latents)

  def log_joint(self, z, x):
    """Returns `log p(z_1, ..., z_L, x)`.

    Args:
      z: List of float `Tensor`s `z_1, ..., z_L`.
      x: float `Tensor` of shape `batch + [num_pixels]`.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """
    prior = self.prior(x.shape[:-1]).log_prob(list(z)[::-1])
    return prior + self.image_log_prob(x, z[0])

  def levels(self, x, objective):
    """Returns the levels that an objective trains.

    Args:
      x: float `Tensor` of shape `[num_images, num_pixels]`.
      objective: Python `str`: `'reverse_kl'` or `'forward_kl'` for one level
        for each layer and direction; otherwise one level of the whole model.

    Returns:
      levels: List of `tfp_nvi.Level`s.
    """
    if objective == 'reverse_kl':
      return self._nested_levels(x, is_forward=False)
    if objective == 'forward_kl':
      return self._nested_levels(x, is_forward=True)
    return [
      nvi.Level(
        self.infer(x),
        lambda z: self.log_joint(z, x),
        [*self.recognition, *self.generative, self.decoder],
        name='joint',
      )
    ]

  def _nested_levels(self, x, is_forward):
    """Returns levels of the nested objective.

    ```none
    images     q(z_1 | x)               against  pi_1(z_1) p(x | z_1)
    layer l    q(z_l) q(z_{l+1} | z_l)  against  pi_{l+1}(z_{l+1}) p(z_l | ..)
    density l  p(z_L) ... p(z_l | ..)   against  pi_l(z_l) q(z_{l+1} | z_l) ...
    dreams     p(z_1) p(x | z_1)        against  q(z_1 | x)
    ```

    with values drawn from the side that is named first. Decoder, layers of the
    model and intermediate densities are trained by the first two, densities by
    the third as well. Recognition is trained by the first two, which is a
    reverse KL divergence for each layer, or by the last two, a forward one.
    """
    first = self.recognition[0](x)

    def log_bottom(z_1):
      return self._log_density(0, z_1) + self.image_log_prob(x, z_1)

    levels = [
      nvi.Level(
        first,
        log_bottom,
        [
          self.decoder,
          *self.densities[:1],
          *([] if is_forward else self.recognition[:1]),
        ],
        name='images',
      )
    ]
    # The gradients of the other levels must not train the first recognition
    # layer.
    fixed = tfd.MultivariateNormalDiag(
      tf.stop_gradient(first.mean()), tf.stop_gradient(first.stddev())
    )
    for i, layer in enumerate(self.generative):
      recognized = self._upward(fixed, i + 2)
      below = self._upward(fixed, i)

      def log_layer(z, i=i, layer=layer, below=below):
        log_prob = self._log_density(i + 1, z[-1]) + layer(z[-1]).log_prob(
          z[-2]
        )
        return log_prob + (below.log_prob(list(z)[:-2]) if i else 0.0)

      levels.append(
        nvi.Level(
          recognized,
          log_layer,
          [
            layer,
            *self.densities[i + 1 : i + 2],
            *([] if is_forward else [self.recognition[i + 1]]),
          ],
          name=f'layer_{i + 1}',
        )
      )
    for i, density in enumerate(self.densities):
      levels.append(
        nvi.Level(
          self.prior(x.shape[:1], i + 1),
          lambda z, i=i: self._log_recognized(i, list(z)[::-1]),
          [density, *(self.recognition[i + 1 : i + 2] if is_forward else [])],
          name=f'density_{i + 1}',
        )
      )
    if is_forward:
      levels.append(self._dreams(x.shape[:1]))
    return levels

  def _log_density(self, i, z):
    """Returns `log pi` of layer `i`, counted from zero, or the last prior."""
    if i < len(self.densities):
      return self.densities[i].log_prob(z)
    return tfd.MultivariateNormalDiag(tf.zeros([z.shape[-1]])).log_prob(z)

  def _log_recognized(self, i, z):
    """Returns `log pi` of a layer plus the log density recognized above it."""
    log_prob = self._log_density(i, z[0])
    for layer, below, above in zip(
      self.recognition[i + 1 :], z[:-1], z[1:], strict=True
    ):
      log_prob += layer(below).log_prob(above)
    return log_prob

  def _dreams(self, batch_shape):
    """Returns the level at which images of the model are recognized."""

    def pixels(z_1):
      logits = self.logits(z_1)
      return tfd.Independent(tfd.Bernoulli(logits, dtype=tf.float32), 1)

    top, *layers = self.prior(batch_shape).model
    dreams = tfd.JointDistributionSequential([top, *layers, _given(pixels)])

    def log_recognized(values):
      return self.recognition[0](values[-1]).log_prob(values[-2])

    return nvi.Level(
      dreams, log_recognized, self.recognition[:1], name='dreams'
    )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Generators that are trained against a discriminator."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

__all__ = [
  'Gan',
  'fit_gan',
  'fit_ratio',
  'make_optimizer',
  'perceptron',
]

# With this scale, the inputs for categories are about as large as all of the
# noise.
_CATEGORY_SCALE = 1.5
_BETAS = {'beta_1': 0.5, 'beta_2': 0.99}
_LEARNING_RATE = 1e-3


def perceptron(num_units, seed: int) -> tf_keras.Sequential:
  """Makes a perceptron with rectified hidden units, and weights by a seed.

  Args:
    num_units: List of Python `int`s: inputs, hidden units, outputs.
    seed: Python `int`.

  Returns:
    network: `tf_keras.Sequential`, built.
  """
  network = tf_keras.Sequential(
    [
      tf_keras.layers.Dense(
        units,
        activation='relu' if i < len(num_units) - 1 else None,
        kernel_initializer=tf_keras.initializers.HeNormal(seed=100 * seed + i),
      )
      for i, units in enumerate(num_units[1:], start=1)
    ]
  )
  network.build([None, num_units[0]])
  return network


def make_optimizer(learning_rate: float, num_steps: int, averages=False):
  """Makes an Adam optimizer of little momentum, whose rate decays to zero.

  Args:
    learning_rate: Python `float`.
    num_steps: Python `int`.
    averages: Python `bool`: whether to keep running means of the variables.
      Default value: `False`.

  Returns:
    optimizer: `tf_keras.optimizers.Adam`.
  """
  return tf_keras.optimizers.Adam(
    tf_keras.optimizers.schedules.CosineDecay(learning_rate, num_steps),
    use_ema=averages,
    ema_momentum=0.999,
    **_BETAS,
  )


class Gan:
  """A generator and a discriminator of points or images, as vectors.

  Args:
    event_size: Python `int`.
    num_noise: Python `int` number of standard normal inputs of the generator.
    num_hidden: Python `int` number of units of each of three hidden layers.
    scale: Python `float`: the scale of the data.
    seed: Python `int`.
    has_batch_statistics: Python `bool`: whether the discriminator also sees the
      mean standard deviation over its batch, so that draws that are all alike
      give themselves away.
      Default value: `False`.
    num_categories: Python `int`: how many components the noise is a mixture of,
      each with a unit vector as further inputs, so that a generator need not
      tear a connected set to pieces for separate modes.
      Default value: `0` (i.e., normal noise alone).
  """

  def __init__(
    self,
    event_size,
    num_noise,
    num_hidden,
    scale,
    seed,
    has_batch_statistics=False,
    num_categories=0,
  ):
    hidden = [num_hidden] * 3
    self.generator = perceptron(
      [num_noise + num_categories, *hidden, event_size], 2 * seed
    )
    self.discriminator = perceptron(
      [event_size + has_batch_statistics, *hidden, 1], 2 * seed + 1
    )
    self._event_size = event_size
    self._num_noise = num_noise
    self._scale = scale
    self._has_batch_statistics = has_batch_statistics
    self._num_categories = num_categories

  def generate(self, num_particles, seed):
    """Draws from the generator."""
    noise = randomness.normal([num_particles, self._num_noise], seed)
    if self._num_categories:
      # Each category is drawn equally often.
      category = tf.range(num_particles) % self._num_categories
      one_hot = tf.one_hot(category, self._num_categories, _CATEGORY_SCALE)
      noise = tf.concat([noise, one_hot], axis=1)
    return self._scale * self.generator(noise)

  def log_ratio(self, x):
    """Returns the learned log density ratio of the data to the generator."""
    x /= self._scale
    if self._has_batch_statistics:
      deviation = tf.reduce_mean(
        tf.sqrt(tf.math.reduce_variance(x, axis=0) + 1e-6)
      )
      x = tf.concat([x, tf.zeros_like(x[:, :1]) + deviation], axis=1)
    return self.discriminator(x)

  def level(
    self, data_fn, noise_scale=0.0, trains=True, **kwargs
  ) -> nvi.ImplicitLevel:
    """Returns the level between the generator and the data.

    Args:
      data_fn: Python callable from a number and a seed to data.
      noise_scale: float: the scale of the noise on both sides, relative to that
        of the data.
        Default value: `0.`.
      trains: Python `bool`: whether to train the generator, or the
        discriminator alone.
        Default value: `True`.
      **kwargs: Further arguments of `tfp_nvi.ImplicitLevel`.

    Returns:
      level: `tfp_nvi.ImplicitLevel`.
    """

    def with_noise(draw_fn):
      def draw(num_particles, seed):
        seeds = tf.unstack(randomness.split_seed(seed, 2))
        x = draw_fn(num_particles, seeds[0])
        noise = randomness.normal(x.shape, seeds[1])
        return x + self._scale * noise_scale * noise

      return draw

    return nvi.ImplicitLevel(
      with_noise(self.generate),
      with_noise(data_fn),
      self.log_ratio,
      [self.generator] if trains else [],
      discriminator_trainables=[self.discriminator],
      **kwargs,
    )


def fit_gan(
  gan,
  folder,
  is_regularized,
  num_steps,
  num_particles,
  seed,
  data_fn=None,
  images=None,
  noise_scale=0.25,
) -> nvi.History:
  """Trains a generator, and its discriminator at twice the learning rate.

  Args:
    gan: `Gan`.
    folder: `tfp_nvi.experiments.common.TrainingFolder`.
    is_regularized: Python `bool`: whether to use the non-saturating form,
      gradient penalty, noise, and the running mean of the generator.
    num_steps: Python `int`.
    num_particles: Python `int`: draws of each side.
    seed: Python `int`.
    data_fn: Python callable from a number and a seed to data.
      Default value: `None` (i.e., mini-batches of `images`).
    images: float array of shape `[num_images, event_size]`.
      Default value: `None` (i.e., `data_fn`).
    noise_scale: Python `float`: the scale of the noise at the start, relative
      to that of the data; it falls to zero after three fifths of the steps.
      Default value: `0.25`.

  Returns:
    history: `tfp_nvi.History`.
  """
  share = np.arange(num_steps) / (0.6 * num_steps)
  noise_scales = noise_scale * np.maximum(0.0, 1.0 - share)
  data = tf.data.Dataset.from_tensor_slices(noise_scales.astype(np.float32))
  if images is not None:
    batches = tf.data.Dataset.from_tensor_slices(images)
    batches = batches.shuffle(len(images), seed=seed).repeat()
    data = tf.data.Dataset.zip(
      (data, batches.batch(num_particles, drop_remainder=True))
    )

  def chain_fn(element):
    scale, *batch = tf.nest.flatten(element)
    draw_fn = data_fn or (lambda num_particles, seed: batch[0])
    if is_regularized:
      level = gan.level(
        draw_fn, scale, non_saturating=True, gradient_penalty=0.1
      )
    else:
      level = gan.level(draw_fn)
    return nvi.Chain([level])

  optimizer = make_optimizer(_LEARNING_RATE, num_steps, averages=is_regularized)
  history = folder.fit(
    'training',
    chain_fn,
    nvi.f_divergence(tfp.vi.jensen_shannon),
    num_particles,
    num_steps=num_steps,
    data=data,
    seed=seed,
    optimizer=nvi.MultiOptimizer(
      [
        (optimizer, [gan.generator]),
        (make_optimizer(2.0 * _LEARNING_RATE, num_steps), [gan.discriminator]),
      ]
    ),
    steps_per_call=min(500, num_steps),
    clip_factor=None,
    progress=False,
  )
  if is_regularized:
    optimizer.finalize_variable_values(gan.generator.trainable_variables)
  return history


def fit_ratio(gan, folder, num_steps, num_particles, seed, data_fn) -> None:
  """Trains the discriminator alone, for the weights of draws.

  Args:
    gan: `Gan`.
    folder: As in `fit_gan`.
    num_steps: Python `int`.
    num_particles: Python `int`.
    seed: Python `int`.
    data_fn: As in `fit_gan`.
  """
  folder.fit(
    'ratio',
    nvi.Chain([gan.level(data_fn, trains=False)]),
    nvi.f_divergence(tfp.vi.jensen_shannon),
    num_particles,
    num_steps=num_steps,
    seed=seed,
    optimizer=make_optimizer(1e-3, num_steps),
    steps_per_call=min(500, num_steps),
    progress=False,
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The networks of the deep mixture.

Each function takes an iterator of seeds, from which every layer takes one.
"""

import tf_keras

layers = tf_keras.layers

__all__ = [
  'make_decoder',
  'make_encoder',
  'make_perceptron',
]


def _initializer(seeds):
  return tf_keras.initializers.GlorotUniform(seed=next(seeds))


def _dense(units, seeds, activation='relu'):
  return layers.Dense(
    units, activation=activation, kernel_initializer=_initializer(seeds)
  )


def _convolution(filters, size, seeds, stride=1, activation='relu'):
  return layers.Conv2D(
    *(filters, size, stride),
    padding='valid' if size == stride else 'same',
    activation=activation,
    kernel_initializer=_initializer(seeds),
  )


def make_perceptron(inputs, units, seeds, name):
  """Makes dense layers with ReLU between them."""
  stack = [layers.Input([inputs])]
  stack += [_dense(size, seeds) for size in units[:-1]]
  stack.append(_dense(units[-1], seeds, activation=None))
  return tf_keras.Sequential(stack, name=name)


def make_encoder(image_shape, stride, num_latents, seeds):
  """Makes the network from images to parameters of their latents."""
  return tf_keras.Sequential(
    [
      layers.Input([*image_shape, 1]),
      _convolution(32, stride, seeds, stride),
      _convolution(64, 3, seeds, 2),
      layers.Flatten(),
      _dense(128, seeds),
      _dense(2 * num_latents, seeds, activation=None),
    ],
    name='encoder',
  )


def make_decoder(num_latents, height, width, stride, seeds):
  """Makes the network from latents to logits, for square pieces of images."""
  return tf_keras.Sequential(
    [
      layers.Input([num_latents]),
      _dense(128, seeds),
      _dense(32 * height * width, seeds),
      layers.Reshape([height, width, 32]),
      _convolution(32, 3, seeds),
      _convolution(stride**2, 3, seeds, activation=None),
    ],
    name='decoder',
  )

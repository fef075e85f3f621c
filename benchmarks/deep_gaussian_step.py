# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Images per second of deep latent Gaussian models, beside a plain loop.

```shell
python -m benchmarks.deep_gaussian_step
python -m benchmarks.deep_gaussian_step --num_layers=1 --objective=svi
```

Trains a model as the experiment on deep latent Gaussian models does, on random
images of 28 x 28 pixels; and the same networks by a plain training loop of
TensorFlow and tf-keras, a compiled step with a tape, the evidence lower bound
written out, and Adam. The two take turns, so that other work on the machine
hits both. Prints medians and the median ratio.
"""

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

from benchmarks import reporting
from tfp_nvi.experiments import deep_gaussian
from tfp_nvi.experiments.deep_gaussian import experiment
from tfp_nvi.experiments.image_mixture import image_data

__all__ = [
  'make_plain_steps',
  'rates',
]


def _gaussian(network, inputs, noise):
  """A draw of a layer, and its log density without constants."""
  loc, raw_scale = tf.split(network(inputs), 2, axis=-1)
  scale = tf.math.softplus(raw_scale) + 1e-3
  log_prob = -tf.reduce_sum(tf.math.log(scale) + 0.5 * noise**2, axis=-1)
  return loc + scale * noise, log_prob


def _log_gaussian(network, inputs, value):
  """The log density of a layer at a value, without constants."""
  loc, raw_scale = tf.split(network(inputs), 2, axis=-1)
  scale = tf.math.softplus(raw_scale) + 1e-3
  terms = tf.math.log(scale) + 0.5 * ((value - loc) / scale) ** 2
  return -tf.reduce_sum(terms, axis=-1)


def make_plain_steps(model, images, batch_size):
  """Makes a training loop without this library.

  Args:
    model: `DeepGaussian`, of which the networks are trained.
    images: uint8 array of shape `[num_images, num_pixels]`.
    batch_size: Python `int`.

  Returns:
    steps_fn: Python callable from a number of steps; takes them.
  """
  recognition = [layer.network for layer in model.recognition]
  generative = [layer.network for layer in model.generative]
  networks = [*recognition, *generative, model.decoder]
  variables = [v for n in networks for v in n.trainable_variables]
  optimizer = tf_keras.optimizers.legacy.Adam(1e-3)
  data = iter(
    tf.data.Dataset.from_tensor_slices(images)
    .repeat()
    .shuffle(1_000)
    .batch(batch_size, drop_remainder=True)
    .prefetch(1)
  )

  @tf.function(jit_compile=True, autograph=False)
  def step(batch):
    means = tf.cast(batch, tf.float32) / 255.0
    x = tf.cast(tf.random.uniform(means.shape) < means, tf.float32)
    with tf.GradientTape() as tape:
      z, log_q = [x], 0.0
      for network, size in zip(recognition, model.num_latents, strict=True):
        noise = tf.random.normal([batch_size, size])
        value, log_prob = _gaussian(network, z[-1], noise)
        z.append(value)
        log_q += log_prob
      log_p = -0.5 * tf.reduce_sum(z[-1] ** 2, axis=-1)
      for network, below, above in zip(generative, z[1:], z[2:], strict=False):
        log_p += _log_gaussian(network, above, below)
      log_p -= tf.reduce_sum(
        tf.nn.sigmoid_cross_entropy_with_logits(x, model.decoder(z[1])), axis=-1
      )
      loss = tf.reduce_mean(log_q - log_p)
    optimizer.apply_gradients(
      zip(tape.gradient(loss, variables), variables, strict=True)
    )
    return loss

  def steps_fn(num_steps):
    for _ in range(num_steps):
      loss = step(next(data))
    return float(loss)

  return steps_fn


def rates(objective, num_layers, batch_size, num_calls):
  """Measures images per second of both loops, in turns.

  Args:
    objective: Python `str`: that of the library.
    num_layers: Python `int`.
    batch_size: Python `int`.
    num_calls: Python `int` number of calls of each.

  Returns:
    library: NumPy array of shape `[num_calls]`: images per second.
    plain: Likewise, of the plain loop.
  """
  images = np.random.default_rng(1).integers(256, size=[10_000, 28, 28])
  images = images.astype(np.uint8)
  data = image_data.ImageData(images, None, images, None, (), 'random')
  steps_per_call = experiment.STEPS_PER_CALL
  settings = deep_gaussian.Settings(
    dataset='mnist',
    num_layers=num_layers,
    batch_size=batch_size,
    num_steps=steps_per_call * (num_calls + 1),
  ).with_defaults()
  plain_steps = make_plain_steps(
    experiment.make_model(data, num_layers, settings),
    images.reshape(len(images), -1),
    batch_size,
  )
  plain_steps(2)
  turns = reporting.Turns(lambda: plain_steps(steps_per_call))
  experiment.fit(
    experiment.make_model(data, num_layers, settings),
    objective,
    images,
    settings,
    progress=False,
    callback_fn=turns.on_call,
  )
  num_images = steps_per_call * batch_size
  library, plain = turns.durations()
  return num_images / library, num_images / plain


def main(argv):
  """Prints the rates.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  values = flags.FLAGS
  library, plain = rates(
    values.objective, values.num_layers, values.batch_size, values.num_calls
  )
  print(
    f'{values.objective}, {values.num_layers} layers, {values.batch_size} '
    f'images: median {np.median(library):.0f} images per second, of the plain '
    f'loop {np.median(plain):.0f}; median ratio '
    f'{np.median(library / plain):.2f}'
  )


if __name__ == '__main__':
  flags.DEFINE_enum(
    'objective',
    'reverse_kl',
    ['svi', 'reverse_kl'],
    'Objective of the library.',
  )
  flags.DEFINE_integer(
    'num_layers', 2, 'Layers of latents.', lower_bound=1, upper_bound=3
  )
  flags.DEFINE_integer(
    'batch_size', 128, 'Images of a mini-batch.', lower_bound=1
  )
  flags.DEFINE_integer(
    'num_calls', 10, 'Calls of 200 steps each.', lower_bound=1
  )
  app.run(main)

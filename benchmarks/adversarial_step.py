# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Images per second of adversarial training, beside a plain loop of tf-keras.

```shell
python -m benchmarks.adversarial_step
python -m benchmarks.adversarial_step --batch_size=128 --num_calls=40
```

Trains the generator and the discriminator of the experiment on digits, on
random images, through an implicit level; and the same networks in a loop of
tf-keras as its guides have it: a step of the discriminator by cross entropy,
then one of the generator, with an optimizer each. XLA compiles 50 steps of
either. The two take turns, so that other work on the machine hits both. Prints
medians and the ratio.
"""

import warnings

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting
from tfp_nvi.experiments.adversarial import generators
from tfp_nvi.internal import randomness

__all__ = [
  'make_plain_steps',
  'step_durations',
]

_STEPS_PER_CALL = 50


def _make_gan():
  return generators.Gan(64, 32, 128, 1.0, seed=1)


def make_plain_steps(gan, images):
  """Makes the function that trains by a loop of tf-keras.

  Args:
    gan: `Gan`.
    images: float `Tensor` of shape `[batch_size, event_size]`.

  Returns:
    steps_fn: `tf.function` from a seed that takes `_STEPS_PER_CALL` steps.
  """
  loss_fn = tf_keras.losses.BinaryCrossentropy(from_logits=True)
  optimizers = []
  for network in (gan.discriminator, gan.generator):
    optimizers.append(tf_keras.optimizers.Adam(1e-3))
    optimizers[-1].build(network.trainable_variables)
  ones = tf.ones([len(images), 1])

  def step(seed):
    seeds = tf.unstack(randomness.split_seed(seed, 2))
    with tf.GradientTape() as tape:
      generated = gan.generate(len(images), seeds[0])
      loss = loss_fn(ones, gan.discriminator(images)) + loss_fn(
        0.0 * ones, gan.discriminator(generated)
      )
    variables = gan.discriminator.trainable_variables
    optimizers[0].apply_gradients(
      zip(tape.gradient(loss, variables), variables, strict=True)
    )
    with tf.GradientTape() as tape:
      generated = gan.generate(len(images), seeds[1])
      loss = loss_fn(ones, gan.discriminator(generated))
    variables = gan.generator.trainable_variables
    optimizers[1].apply_gradients(
      zip(tape.gradient(loss, variables), variables, strict=True)
    )
    return loss

  @tf.function(autograph=False, jit_compile=True)
  def steps_fn(seed):
    seeds = randomness.split_seed(seed, _STEPS_PER_CALL)
    return tf.while_loop(
      lambda i, _: i < _STEPS_PER_CALL,
      lambda i, _: (i + 1, step(seeds[i])),
      (tf.constant(0), tf.constant(0.0)),
      parallel_iterations=1,
    )[1]

  return steps_fn


def step_durations(batch_size, num_calls):
  """Measures steps of the library and of the plain loop, in turns.

  Args:
    batch_size: Python `int`.
    num_calls: Python `int` number of calls of each.

  Returns:
    library: NumPy array of shape `[num_calls]`: seconds of a step.
    plain: Likewise.
  """
  images = tf.constant(
    np.random.default_rng(1).uniform(-1.0, 1.0, [batch_size, 64]), tf.float32
  )
  plain_steps = make_plain_steps(_make_gan(), images)
  seed = randomness.as_seed(1)
  plain_steps(seed)
  gan = _make_gan()
  turns = reporting.Turns(lambda: plain_steps(seed).numpy())
  with warnings.catch_warnings():
    # The images are noise, which no generator comes near.
    warnings.simplefilter('ignore', nvi.CollapseWarning)
    nvi.fit(
      lambda batch: nvi.Chain(
        [gan.level(lambda n, seed: batch, non_saturating=True)]
      ),
      nvi.f_divergence(tfp.vi.jensen_shannon),
      num_particles=batch_size,
      num_steps=_STEPS_PER_CALL * (num_calls + 1),
      data=tf.data.Dataset.from_tensors(images),
      seed=1,
      steps_per_call=_STEPS_PER_CALL,
      optimizer=nvi.MultiOptimizer(
        [
          (tf_keras.optimizers.Adam(1e-3), [network])
          for network in (gan.generator, gan.discriminator)
        ]
      ),
      progress=False,
      callback_fn=turns.on_call,
    )
  library, plain = turns.durations()
  return library / _STEPS_PER_CALL, plain / _STEPS_PER_CALL


def main(argv):
  """Prints the durations.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  batch_size = flags.FLAGS.batch_size
  library, plain = step_durations(batch_size, flags.FLAGS.num_calls)
  rates = [batch_size / np.median(x) for x in (library, plain)]
  print(
    f'{rates[0]:,.0f} images a second, of the plain loop {rates[1]:,.0f}; '
    f'median ratio {np.median(plain / library):.2f}'
  )


if __name__ == '__main__':
  flags.DEFINE_integer(
    'batch_size', 64, 'Images of a mini-batch.', lower_bound=1
  )
  flags.DEFINE_integer(
    'num_calls', 20, 'Calls of 50 steps each.', lower_bound=1
  )
  app.run(main)

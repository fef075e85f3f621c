# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Duration of a training step on images, beside that of its networks alone.

```shell
python -m benchmarks.image_mixture_step
python -m benchmarks.image_mixture_step --batch_size=100 --num_calls=60
python -m benchmarks.image_mixture_step --levels=images
```

Trains the deep mixture as the experiment on images does, on random images of
28 x 28 pixels; and takes the gradients of its encoder and decoder alone, one
after the other, for the same batches: each network's outputs, and all
derivatives of their sum. The two take turns, so that other work on the machine
hits both. Prints medians, minima and the ratio.
"""

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting
from tfp_nvi.experiments.image_mixture import deep_mixture

__all__ = [
  'LEVELS',
  'make_network_steps',
  'step_durations',
]

# As `DeepMixture.levels` names them.
LEVELS = ('proportions', 'clusters', 'images', 'latents')

_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 300, 'Images of a mini-batch.', lower_bound=1
)
_NUM_CALLS = flags.DEFINE_integer(
  'num_calls', 30, 'Calls of 50 steps each.', lower_bound=1
)

_LEVELS = flags.DEFINE_multi_enum(
  'levels',
  list(LEVELS),
  LEVELS,
  'Levels that a step has, a flag for each; all by default. Fewer show the '
  'cost of the others.',
)

_STEPS_PER_CALL = 50


def make_network_steps(mixture, images):
  """Makes the function that evaluates and differentiates the networks alone.

  Args:
    mixture: `DeepMixture`.
    images: uint8 `Tensor` of shape `[batch_size, height, width]`.

  Returns:
    steps_fn: `tf.function` without arguments that takes `_STEPS_PER_CALL`
      steps.
  """
  intensities = mixture.intensities(images)[..., tf.newaxis]
  variables = (
    mixture.encoder.trainable_variables + mixture.decoder.trainable_variables
  )

  @tf.function(autograph=False)
  def steps_fn():
    def body(i, total):
      with tf.GradientTape() as tape:
        # So that no step is like the one before.
        codes = mixture.encoder(intensities + total)
        pixels = mixture.decoder(codes[:, : mixture.num_latents])
        result = tf.reduce_sum(pixels)
      gradients = tape.gradient(result, variables)
      # With the result, without which TensorFlow leaves out the last layer.
      total = 1e-9 * tf.add_n([result] + [tf.reduce_sum(g) for g in gradients])
      return i + 1, total

    return tf.while_loop(
      lambda i, _: i < _STEPS_PER_CALL,
      body,
      (tf.constant(0), tf.constant(0.0)),
      parallel_iterations=1,
    )[1]

  return steps_fn


def step_durations(batch_size, num_calls, level_names=LEVELS):
  """Measures training steps and those of the networks, in turns.

  Args:
    batch_size: Python `int`.
    num_calls: Python `int` number of calls of each.
    level_names: Which of `LEVELS` the steps have.
      Default value: `LEVELS`.

  Returns:
    training: NumPy array of shape `[num_calls]`: seconds of a step.
    networks: Likewise, of encoder and decoder alone.
  """
  generator = np.random.default_rng(1)
  images = tf.constant(
    generator.integers(256, size=[batch_size, 28, 28]).astype(np.uint8)
  )
  mixture = deep_mixture.DeepMixture([28, 28], seed=1)
  network_steps = make_network_steps(mixture, images)
  network_steps()
  turns = reporting.Turns(lambda: network_steps().numpy())

  def levels(batch):
    return [x for x in mixture.levels(batch) if x.name in level_names]

  nvi.fit(
    lambda batch: nvi.Chain(lambda: levels(batch)),
    nvi.reverse_kl(),
    num_particles=1,
    num_steps=_STEPS_PER_CALL * (num_calls + 1),
    data=tf.data.Dataset.from_tensors(images),
    seed=1,
    steps_per_call=_STEPS_PER_CALL,
    jit_compile=False,
    optimizer=tf_keras.optimizers.legacy.Adam(1e-3),
    progress=False,
    callback_fn=turns.on_call,
  )
  training, networks = turns.durations()
  return training / _STEPS_PER_CALL, networks / _STEPS_PER_CALL


def main(argv):
  """Prints the durations.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  training, networks = step_durations(
    _BATCH_SIZE.value, _NUM_CALLS.value, _LEVELS.value
  )
  print(
    f'{_BATCH_SIZE.value} images: median {1e3 * np.median(training):.1f} ms a '
    f'step, of its networks alone {1e3 * np.median(networks):.1f} ms; minima '
    f'{1e3 * np.min(training):.1f} and {1e3 * np.min(networks):.1f}; median '
    f'ratio {np.median(training / networks):.2f}'
  )


if __name__ == '__main__':
  app.run(main)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The bias of gradients whose weights are normalized by island.

```shell
python -m benchmarks.island_bias
```

Trains NVIR\* of the annealing experiment with K = 8 for 300 steps, and prints
the norm of the bias of its gradient with few particles, in units of the norm of
the gradient with 10,000. The mean over islands has the bias of one of them.
"""

import numpy as np
import tensorflow as tf
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting
from tfp_nvi.experiments import annealing
from tfp_nvi.internal import randomness

__all__ = [
  'main',
  'mean_gradients',
  'relative_bias',
]

_NUM_REFERENCE = 10_000


def mean_gradients(sampler, objective, num_particles, num_repeats, seed):
  """Two independent means of the gradient.

  Args:
    sampler: `NestedSampler`.
    objective: `Objective`.
    num_particles: Python `int`.
    num_repeats: Python `int`: gradients of a mean.
    seed: Python `int`.

  Returns:
    means: List of two float64 arrays.
  """

  def gradient(seed):
    _, pairs = objective(sampler, num_particles, seed)
    by_variable = {variable.ref(): g for g, variable in pairs}
    return tf.concat(
      [
        tf.reshape(tf.convert_to_tensor(by_variable[v.ref()]), [-1])
        for v in sampler.trainable_variables
        if v.ref() in by_variable
      ],
      axis=0,
    )

  @tf.function(jit_compile=True, autograph=False)
  def mean(seed):
    _, total = tf.while_loop(
      lambda i, _: i < num_repeats,
      lambda i, total: (i + 1, total + gradient(randomness.fold_in(seed, i))),
      (tf.constant(1), gradient(randomness.fold_in(seed, 0))),
      maximum_iterations=num_repeats - 1,
    )
    return total / num_repeats

  seeds = tf.unstack(randomness.split_seed(randomness.as_seed(seed), 2))
  return [mean(x).numpy().astype(np.float64) for x in seeds]


def relative_bias(found, reference):
  """The norm of a bias, without what noise adds to it on average.

  Args:
    found: List of two independent means.
    reference: Likewise, of what they are to be.

  Returns:
    bias: Python `float`, in units of the norm of the reference; zero where
      noise is all there is.
  """
  differences = [x - y for x, y in zip(found, reference, strict=True)]
  square = differences[0] @ differences[1]
  return float(np.sqrt(max(square, 0.0) / (reference[0] @ reference[1])))


def main(argv):
  """Measures and prints.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  values = flags.FLAGS
  sampler, objective = annealing.make_sampler(
    'nvir_star', nvi.targets.ring_of_gaussians(), 8, seed=1
  )
  nvi.fit(sampler, objective, 36, num_steps=300, seed=1, progress=False)

  def means(num_particles):
    repeats = max(1, values.num_particles_in_all // num_particles)
    return mean_gradients(
      sampler, objective, num_particles, repeats, seed=num_particles
    )

  reference = means(_NUM_REFERENCE)
  print('| particles of an island | relative bias |')
  print('|---|---|')
  for size in reporting.integers('num_particles', 2):
    print(f'| {size:,} | {relative_bias(means(size), reference):.3f} |')


if __name__ == '__main__':
  flags.DEFINE_list('num_particles', ['10', '36', '100'], 'Sizes of islands.')
  flags.DEFINE_integer('num_particles_in_all', 400_000, 'Of a mean.')
  app.run(main)

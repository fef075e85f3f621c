# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Duration of a training step inside the compiled loop.

```shell
python -m benchmarks.training_step
python -m benchmarks.training_step --method=nvi --num_densities=32 \
  --num_restarts=10
```

Trains a sampler of the annealing experiment, and prints the median over calls
of the duration of a step, after compilation. Other work on the machine shows in
the difference to the minimum.
"""

import time

import numpy as np
import tensorflow as tf
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting
from tfp_nvi.experiments import annealing

__all__ = [
  'step_durations',
]

_METHOD = flags.DEFINE_enum(
  'method', 'nvir_star', list(annealing.METHODS), 'Method of the experiment.'
)
_NUM_DENSITIES = flags.DEFINE_integer(
  'num_densities', 8, 'Densities, both ends included.', lower_bound=2
)
_NUM_PARTICLES = flags.DEFINE_integer(
  'num_particles', 36, 'Particles at each level.', lower_bound=1
)
_NUM_RESTARTS = flags.DEFINE_integer(
  'num_restarts', 1, 'Size of the batch axis.', lower_bound=1
)
_NUM_CALLS = flags.DEFINE_integer(
  'num_calls', 30, 'Compiled calls of 200 steps each.', lower_bound=1
)


def step_durations(
  method, num_densities, num_particles, num_restarts, num_calls
):
  """Measures training steps.

  Args:
    method: Python `str`: one of `annealing.METHODS`.
    num_densities: Python `int`.
    num_particles: Python `int`.
    num_restarts: Python `int`.
    num_calls: Python `int` number of compiled calls of 200 steps.

  Returns:
    compile_seconds: Python `float`.
    microseconds: NumPy array of shape `[num_calls]`.
  """
  sampler, objective = annealing.make_sampler(
    method,
    nvi.targets.ring_of_gaussians(tf.float32),
    num_densities,
    num_restarts,
    seed=1,
  )
  stamps = []

  def on_call(step, values):
    del step, values
    stamps.append(time.perf_counter())

  history = nvi.fit(
    sampler,
    objective,
    num_particles,
    200 * (num_calls + 1),
    seed=2,
    progress=False,
    steps_per_call=200,
    callback_fn=on_call,
  )
  return history.compile_seconds, np.diff(stamps) / 200 * 1e6


def main(argv):
  """Prints the durations.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  compile_seconds, microseconds = step_durations(
    _METHOD.value,
    _NUM_DENSITIES.value,
    _NUM_PARTICLES.value,
    _NUM_RESTARTS.value,
    _NUM_CALLS.value,
  )
  print(
    f'{_METHOD.value}, {_NUM_DENSITIES.value} densities, '
    f'{_NUM_PARTICLES.value} particles, {_NUM_RESTARTS.value} restart(s): '
    f'median {np.median(microseconds):.0f} us a step, minimum '
    f'{np.min(microseconds):.0f}; compilation {compile_seconds:.1f} s'
  )


if __name__ == '__main__':
  app.run(main)

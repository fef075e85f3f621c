# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""An objective with values and gradients of choice, for tests of `fit`."""

import tensorflow as tf

import tfp_nvi as nvi


class Stub(nvi.Objective):
  """An objective whose values are functions of the step and a variable.

  `step` counts evaluations of the objective, those of skipped steps and probes
  included; a loss of `x**2 / 2` has the gradient `x`.
  """

  description = 'stub'

  def __init__(self, gradient_fn=None, **value_fns):
    self.x = tf.Variable(4.0, name='x')
    self.step = tf.Variable(-1, name='step', trainable=False)
    self._gradient_fn = gradient_fn or (lambda step, x: x)
    self._value_fns = value_fns

  def __call__(self, sampler, num_particles, seed):
    del sampler, seed
    step = self.step.assign_add(1)
    x = self.x.read_value()
    values = {
      'loss': 0.5 * x**2,
      'log_normalizer': tf.zeros([]),
      'effective_sample_size': tf.constant(float(num_particles)),
      'log_incremental_weights': tf.zeros([2]),
      'level_effective_sample_sizes': tf.fill([2], float(num_particles)),
      'num_nan': tf.zeros([], tf.int32),
    }
    for name, fn in self._value_fns.items():
      values[name] = tf.cast(fn(step, x), values[name].dtype)
    return nvi.Estimate(**values), [(self._gradient_fn(step, x), self.x)]

  def fit(self, num_steps=10, sampler=None, **kwargs):
    """Trains by this objective, without XLA, ten steps a call."""
    return nvi.fit(
      nvi.Chain(list) if sampler is None else sampler,
      self,
      **{
        'num_particles': 100,
        'num_steps': num_steps,
        'steps_per_call': 10,
        'jit_compile': False,
        'progress': False,
        'seed': 1,
        **kwargs,
      },
    )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Values stay what they are, and XLA computes them by themselves."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_nvi.internal import fusion


@pytest.mark.parametrize('jit_compile', [False, True])
def test_compute_once_changes_no_value(jit_compile):
  x = np.array([0.0, -0.0, 1e-45, -3.3, 1e38, np.inf, -np.inf, np.nan])
  x = x.astype(np.float32)
  fn = tf.function(fusion.compute_once, jit_compile=jit_compile)
  y = fn(x).numpy()
  # XLA takes what is smaller than a normal number for zero.
  np.testing.assert_array_equal(y, np.where(np.abs(x) < 1e-38, y, x))
  assert np.all(np.abs(y[:3]) < 1e-38)


def test_compute_once_has_a_gradient():
  x = tf.constant([2.0, 3.0])
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = tf.reduce_sum(fusion.compute_once(x) ** 2)
  np.testing.assert_array_equal(tape.gradient(y, x), [4.0, 6.0])


def test_sum_by_product():
  x = tf.constant(np.random.default_rng(0).normal(size=[3, 4, 2, 5]))
  weights = tf.constant(np.random.default_rng(1).normal(size=[3, 4, 5]))
  with tf.GradientTape() as tape:
    tape.watch(x)
    total = fusion.sum_by_product(x)
    y = tf.reduce_sum(weights * total)
  np.testing.assert_allclose(total, np.sum(x, axis=-2), rtol=1e-12)
  expected = np.broadcast_to(weights.numpy()[..., np.newaxis, :], x.shape)
  np.testing.assert_array_equal(tape.gradient(y, x), expected)


def test_xla_computes_them_apart():
  """A value of each batch member is not computed for each of its particles."""

  def count_kernels(fn):
    program = tf.function(fn, jit_compile=True).experimental_get_compiler_ir(
      tf.zeros([10, 2, 36]), tf.zeros([36, 10])
    )(stage='optimized_hlo')
    entry = program[program.index('\nENTRY') :]
    return entry.count(' fusion(') + entry.count(' dot(')

  def of_members(wrap):
    return lambda x, y: y + wrap(3.0 * x[:, 0, 0] + 1.0)

  def of_values(sum_fn):
    return lambda x, y: y + tf.transpose(sum_fn(tf.exp(x)))

  assert count_kernels(of_members(tf.identity)) == 1
  assert count_kernels(of_members(fusion.compute_once)) == 2
  assert count_kernels(of_values(lambda x: x[:, 0] + x[:, 1])) == 1
  assert count_kernels(of_values(fusion.sum_by_product)) > 1

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stacked networks are what one network for each level and member would be.

The perceptron is written down a second time here, in NumPy, for one level, one
batch member and one particle.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

NUM_UNITS = [2, 5, 4, 3]


def make_network(num_levels, batch_shape, dtype=tf.float64):
  """A network whose last layer is not zero."""
  network = nvi.StackedPerceptron(
    num_levels, batch_shape, NUM_UNITS, dtype=dtype, seed=1
  )
  rng = np.random.default_rng(0)
  for variable in network.trainable_variables:
    variable.assign(rng.normal(size=variable.shape))
  return network


def layers(network):
  """Weights, `stack + [inputs, outputs]`, and biases, `stack + [outputs]`.

  In whatever order the network keeps them.
  """
  result = []
  for weights, bias, inputs, outputs in zip(
    network._weights, network._biases, NUM_UNITS, NUM_UNITS[1:], strict=False
  ):
    weights, bias = weights.numpy(), bias.numpy()
    if weights.shape[-2:] == (outputs, inputs):
      weights = np.swapaxes(weights, -1, -2)
    result.append((weights, bias.reshape([*weights.shape[:-2], outputs])))
  assert len(result) == len(NUM_UNITS) - 1
  return result


def perceptron(network, index, x):
  """The network with a stack index, at one point."""
  for i, (weights, bias) in enumerate(layers(network)):
    x = np.maximum(x, 0.0) if i else x
    x = x @ weights[index] + bias[index]
  return x


@pytest.mark.parametrize('batch_shape', [[], [4], [2, 3]], ids=str)
def test_agrees_with_numpy_at_every_level(batch_shape):
  num_levels, num_particles = 3, 6
  network = make_network(num_levels, batch_shape)
  inputs = np.random.default_rng(1).normal(
    size=[num_particles, num_levels, *batch_shape, 2]
  )
  all_levels = network(range(num_levels), tf.constant(inputs))
  some_levels = network(range(1, num_levels), tf.constant(inputs[:, 1:]))
  expected = np.empty([num_particles, num_levels, *batch_shape, 3])
  for index in itertools.product(*map(range, expected.shape[:-1])):
    expected[index] = perceptron(network, index[1:], inputs[index])
  np.testing.assert_allclose(all_levels, expected, rtol=1e-12)
  np.testing.assert_allclose(some_levels, expected[:, 1:], rtol=1e-12)
  for level in range(num_levels):
    for level_in_loop in (level, tf.constant(level)):
      one_level = network(level_in_loop, tf.constant(inputs[:, level]))
      np.testing.assert_allclose(one_level, expected[:, level], rtol=1e-12)


def test_parameters_broadcast_over_more_batch_dimensions():
  """As when a sampler with restarts is nested in another one."""
  network = make_network(2, [3])
  inputs = np.random.default_rng(1).normal(size=[6, 5, 3, 2])
  outputs = network(1, tf.constant(inputs)).numpy()
  for i in range(5):
    np.testing.assert_allclose(
      outputs[:, i], network(1, tf.constant(inputs[:, i])), rtol=1e-12
    )


def test_a_network_without_batch_serves_any_batch():
  network = make_network(2, [])
  inputs = np.random.default_rng(1).normal(size=[6, 5, 3, 2])
  outputs = network(1, tf.constant(inputs))
  assert outputs.shape == [6, 5, 3, 3]
  np.testing.assert_allclose(
    outputs[2, 4, 1], perceptron(network, (1,), inputs[2, 4, 1]), rtol=1e-12
  )


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_initial_weights(dtype):
  """Uniform on +-1/sqrt(inputs) but for the first and the last layer."""
  network = nvi.StackedPerceptron(40, [10], NUM_UNITS, dtype=dtype, seed=1)
  assert len(network.trainable_variables) == 6
  assert all(v.dtype == dtype for v in network.trainable_variables)
  _, *hidden, last = layers(network)
  for (weights, bias), inputs, outputs in zip(
    hidden, NUM_UNITS[1:], NUM_UNITS[2:], strict=False
  ):
    assert weights.shape == (40, 10, inputs, outputs)
    assert bias.shape == (40, 10, outputs)
    for values in (weights, bias):
      bound = 1.0 / np.sqrt(inputs)
      assert np.all(np.abs(values) < bound)
      # Six standard errors of the mean, and of the mean square.
      z = values.mean() / bound * np.sqrt(3 * values.size)
      assert abs(z) < 6.0
      z = (np.mean((values / bound) ** 2) - 1 / 3) * np.sqrt(
        values.size * 45 / 4
      )
      assert abs(z) < 6.0
  assert all(np.all(values == 0.0) for values in last)


@pytest.mark.parametrize('inputs', [1, 2, 3, 8])
def test_first_layers_have_no_gaps(inputs):
  """Kinks are spread over directions and distances, apart in each network."""
  num_units = 50
  network = nvi.StackedPerceptron(
    20, [30], [inputs, num_units, 1], dtype=tf.float64, seed=1
  )
  (weights, biases), _ = (
    (w.numpy(), b.numpy())
    for w, b in zip(network._weights, network._biases, strict=True)
  )
  length = np.linalg.norm(weights, axis=-2)
  np.testing.assert_allclose(length, length[0, 0, 0])
  # The widest of 600 times 49 gaps between independent points would be about
  # log(600 * 49) / 50 of the range, 0.2.
  reach = np.max(np.abs(biases))
  gaps = np.diff(np.sort(biases, axis=-1), axis=-1)
  assert np.max(gaps) < 0.1 * 2.0 * reach
  if inputs == 2:
    angles = np.sort(np.arctan2(weights[..., 1, :], weights[..., 0, :]))
    np.testing.assert_allclose(np.diff(angles), 2.0 * np.pi / num_units)
  # No direction is preferred: the second moments of 600 networks are those of
  # the uniform distribution on the sphere; 5 standard errors, if units were
  # independent, which they are less than.
  directions = weights / length[..., np.newaxis, :]
  second = np.einsum('lrio,lrjo->ij', directions, directions) / length.size
  error = 5.0 / np.sqrt(length.size)
  np.testing.assert_allclose(second, np.eye(inputs) / inputs, atol=error)
  # Each network has a shift of its own.
  assert len(np.unique(biases[..., 0])) == 600


def test_seeds():
  """A seed determines the weights, and no two variables have the same."""

  def make(seed):
    return nvi.StackedPerceptron(2, [3], [4, 4, 4, 1], seed=seed)

  first, again, other = make(1), make(randomness.as_seed(1)), make(2)
  for a, b, c in zip(
    first.variables, again.variables, other.variables, strict=True
  ):
    np.testing.assert_array_equal(a, b)
    assert 'layer_2' in a.name or np.all(a.numpy() != c.numpy())
  values = np.concatenate(
    [np.ravel(v) for v in first.variables if 'layer_2' not in v.name]
  )
  assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize(
  'changes, error, match',
  [
    (dict(num_levels=0), ValueError, '`num_levels` must be positive'),
    (dict(num_levels=1.5), TypeError, '`num_levels` must be a positive'),
    (dict(batch_shape=[-1]), ValueError, '`batch_shape` must be a list'),
    (dict(num_units=5), TypeError, '`num_units` must be a list'),
    (dict(num_units=[2]), ValueError, '`num_units` must be the numbers'),
    (dict(num_units=[2, 0, 1]), ValueError, r'`num_units\[1\]` must be pos'),
    (dict(dtype=tf.int32), ValueError, '`dtype` must be a floating'),
    (dict(dtype='a'), TypeError, '`dtype` must be a floating'),
  ],
  ids=str,
)
def test_bad_networks(changes, error, match):
  arguments = dict(num_levels=2, batch_shape=[], num_units=[2, 5, 3], seed=1)
  with pytest.raises(error, match=match):
    nvi.StackedPerceptron(**{**arguments, **changes})


@pytest.mark.parametrize(
  'level, inputs, error',
  [
    (0, tf.ones([6, 3, 5]), ValueError),
    (0, tf.ones([2]), ValueError),
    (0, tf.ones([6, 4, 2]), ValueError),
    (range(2), tf.ones([6, 3, 2]), ValueError),
    (0, tf.ones([6, 3, 2], tf.float64), TypeError),
    (0, 'a', TypeError),
    (0, None, TypeError),
  ],
)
def test_bad_inputs(level, inputs, error):
  network = nvi.StackedPerceptron(2, [3], [2, 5, 3], seed=1)
  with pytest.raises(error, match='`inputs` must'):
    network(level, inputs)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers whose parameters are outputs of networks."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions


def softplus(x):
  return np.log1p(np.exp(x))


def test_distribution_by_hand():
  # Two dense layers, written out, for a batch of two axes.
  layer = nvi.GaussianLayer(3, 2, num_hidden=[5], dtype=tf.float64, seed=1)
  assert [v.shape.as_list() for v in layer.network.trainable_variables] == [
    *([3, 5], [5]),
    *([5, 4], [4]),
  ]
  random = np.random.default_rng(0)
  for v in layer.network.trainable_variables:
    v.assign(random.normal(size=v.shape))
  w_1, b_1, w_2, b_2 = (v.numpy() for v in layer.network.trainable_variables)
  x = random.normal(size=[7, 4, 3])
  outputs = np.tanh(x @ w_1 + b_1) @ w_2 + b_2
  distribution = layer(x)
  assert distribution.batch_shape == [7, 4]
  assert distribution.event_shape == [2]
  np.testing.assert_allclose(distribution.mean(), outputs[..., :2])
  # log(e - 1) = 0.5413, so that zero gives scales of one.
  np.testing.assert_allclose(
    distribution.stddev(), softplus(outputs[..., 2:] + 0.5413) + 1e-3
  )


def test_begins_with_scales_of_one():
  layer = nvi.GaussianLayer(3, 2, num_hidden=[], seed=1)
  np.testing.assert_allclose(
    layer(tf.zeros([3])).stddev(), [1.0, 1.0], atol=2e-3
  )


def test_seeds():
  first, again, other = (
    nvi.GaussianLayer(3, 2, seed=seed)(tf.ones([3])).mean().numpy()
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert np.all(first != other)


@pytest.mark.parametrize(
  ('arguments', 'error', 'problem'),
  [
    ({'num_inputs': 0}, ValueError, '`num_inputs` must be positive; got 0'),
    ({'num_outputs': 2.0}, TypeError, '`num_outputs` must be a positive'),
    ({'num_hidden': 5}, TypeError, '`num_hidden` must be a list'),
    ({'num_hidden': [5, 0]}, ValueError, r'`num_hidden\[1\]` must be positive'),
    ({'dtype': tf.int32}, ValueError, '`dtype` must be a floating point'),
    ({'dtype': 'foo'}, TypeError, '`dtype` must be a floating point'),
  ],
)
def test_bad_arguments(arguments, error, problem):
  with pytest.raises(error, match=problem):
    nvi.GaussianLayer(**{'num_inputs': 3, 'num_outputs': 2, **arguments})


@pytest.mark.parametrize(
  ('inputs', 'error'),
  [
    (tf.zeros([5, 2]), ValueError),
    (tf.constant(1.0), ValueError),
    (tf.zeros([3], tf.float64), TypeError),
  ],
)
def test_bad_inputs(inputs, error):
  with pytest.raises(error, match='`inputs` must'):
    nvi.GaussianLayer(3, 2, seed=1)(inputs)

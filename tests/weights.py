# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights, and statistics of draws, for tests of weighting and resampling."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfp_nvi.internal import randomness

# The probability with which a test rejects a correct function, over seeds.
ALARM = 1e-6

every_dtype = pytest.mark.parametrize(
  'dtype', [tf.float32, tf.float64], ids=lambda dtype: dtype.name
)


def fix_uniform(monkeypatch, values):
  """Lets `randomness.uniform` return given values, along its first axis."""

  def uniform(shape, seed, dtype=tf.float32):
    del seed
    along_batch = [-1] + [1] * (len(shape) - 1)
    return tf.cast(
      tf.broadcast_to(np.reshape(values, along_batch), shape), dtype
    )

  monkeypatch.setattr(randomness, 'uniform', uniform)


def log(weights, dtype=tf.float64):
  with np.errstate(divide='ignore'):
    return tf.constant(np.log(np.asarray(weights, float)), dtype)


def midpoints(size):
  return (np.arange(size) + 0.5) / size


def max_z_score(values, expected):
  """The largest standardized deviation of means over axis 0."""
  values = np.asarray(values, float)
  error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
  return np.max(np.abs(values.mean(axis=0) - expected) / error)


def critical_z(count):
  return scipy.stats.norm.isf(ALARM / (2 * count))


# Four particles and three batch members, the second one without any weight.
WEIGHTS = np.array(
  [[1.0, 0.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [4.0, 0.0, 5.0]]
)

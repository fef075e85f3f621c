# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Matrices that are written out agree with NumPy's."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_nvi.internal import matrices


@pytest.mark.parametrize('size', [1, 2, 3, 4, 6])
def test_factors_and_products(size):
  random = np.random.default_rng(size)
  a = random.normal(size=[5, 2, size, size])
  b = random.normal(size=[2, size, 3])
  x = random.normal(size=[5, 2, size])
  positive = a @ np.swapaxes(a, -1, -2) + 0.1 * np.eye(size)
  factor = np.linalg.cholesky(positive)
  np.testing.assert_allclose(
    matrices.cholesky(tf.constant(positive)), factor, rtol=1e-9, atol=1e-12
  )
  inverse, log_det = matrices.inverse_cholesky(tf.constant(positive))
  np.testing.assert_allclose(
    inverse @ factor, 0.0 * a + np.eye(size), atol=1e-9
  )
  np.testing.assert_allclose(log_det, np.linalg.slogdet(positive)[1])
  np.testing.assert_allclose(matrices.matmul(tf.constant(a), b), a @ b)
  np.testing.assert_allclose(
    matrices.transpose(tf.constant(a)), np.swapaxes(a, -1, -2)
  )
  product = np.einsum('...ij,...j->...i', a, x)
  np.testing.assert_allclose(matrices.matvec(tf.constant(a), x), product)
  np.testing.assert_allclose(
    matrices.quadratic_form(tf.constant(a), tf.constant(x)),
    np.sum(x * product, axis=-1),
  )


@pytest.mark.parametrize('size', [1, 2, 5])
def test_projection(size):
  a = np.random.default_rng(size).normal(size=[7, size, size])
  a = a + np.swapaxes(a, -1, -2)
  values, vectors = np.linalg.eigh(a)
  expected = vectors * np.maximum(values, 0.0)[:, np.newaxis]
  np.testing.assert_allclose(
    matrices.project_positive(tf.constant(a)),
    expected @ np.swapaxes(vectors, -1, -2),
    atol=1e-9,
  )

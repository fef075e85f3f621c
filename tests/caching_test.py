# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradients do not depend on what distributions remember of their samples.

A `tfd.TransformedDistribution` knows the base value of a sample that it drew,
and its density at that sample is not a function of the sample to a tape. The
same kernel written as `tfd.Independent` remembers nothing.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

tfb = tfp.bijectors
tfd = tfp.distributions

SCALE = np.array([1.0, 1.5])


def independent(loc, scale=SCALE):
  return tfd.Independent(tfd.Normal(loc, scale), 1)


def transformed(loc, scale=SCALE):
  """The same, drawing the same values from the same seed."""
  zeros = tf.zeros_like(loc)
  return tfd.TransformedDistribution(
    independent(zeros, tf.ones_like(loc)),
    tfb.Chain([tfb.Shift(loc), tfb.Scale(tf.cast(scale, loc.dtype))]),
  )


def gradient(make, where, objective):
  variable = tf.Variable([0.5, 0.1], dtype=tf.float64)
  zeros = tf.zeros([2], tf.float64)
  path = nvi.GeometricPath(
    independent(zeros, 2.0 * SCALE),
    independent(zeros + 1.0, 0.8 * SCALE),
    num_densities=3,
  )
  if where == 'kernel':
    proposal, kernel = None, lambda y: make(y + variable)
  else:
    proposal, kernel = make(variable), independent
  sampler = nvi.NestedSampler(
    path,
    [nvi.KernelPair(kernel, lambda z: independent(z - 0.3))] * 2,
    initial_proposal=proposal,
  )
  _, ((gradient, found),) = objective(sampler, 50, randomness.as_seed(1))
  assert found is variable
  return gradient.numpy()


@pytest.mark.parametrize('where', ['kernel', 'proposal'])
@pytest.mark.parametrize(
  'objective',
  [
    nvi.reverse_kl(),
    nvi.forward_kl(),
    nvi.f_divergence(tfp.vi.squared_hellinger),
    nvi.forward_kl(reparameterize=False),
    nvi.forward_kl(level_by_level=True),
  ],
  ids=['reverse', 'forward', 'hellinger', 'score', 'level_by_level'],
)
def test_nested_divergences(where, objective):
  expected = gradient(independent, where, objective)
  assert np.any(np.abs(expected) > 1e-3)
  np.testing.assert_allclose(
    gradient(transformed, where, objective), expected, rtol=1e-9
  )


@pytest.mark.parametrize('objective', [nvi.iwae(), nvi.svi(), nvi.rws()])
def test_bounds(objective):
  np.testing.assert_allclose(
    gradient(transformed, 'kernel', objective),
    gradient(independent, 'kernel', objective),
    rtol=1e-9,
  )


@pytest.mark.parametrize(
  'objective', [nvi.iwae(), nvi.vsmc(), nvi.rws(), nvi.reverse_kl()]
)
def test_a_member_without_weight_does_not_disturb_its_neighbour(objective):
  def compute(is_alive):
    variable = tf.Variable(0.1)
    zeros = tf.zeros([len(is_alive)])
    path = nvi.GeometricPath(
      tfd.Normal(zeros, 1.0),
      lambda x: tf.where(tf.constant(is_alive), -0.5 * x**2, -float('inf')),
      num_densities=2,
    )
    sampler = nvi.NestedSampler(
      path,
      nvi.KernelPair(
        lambda y: tfd.Normal(y + variable, 1.0),
        lambda z: tfd.Normal(z - variable, 1.0),
      ),
    )
    estimate, pairs = objective(sampler, 16, randomness.as_seed(1))
    ((gradient, _),) = pairs
    return estimate, gradient

  estimate, slope = compute([True, False])
  assert np.isfinite(slope)
  assert estimate.log_normalizer[1] == -float('inf')
  assert np.isfinite(estimate.loss[0])

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Densities over the simplex are of its first values, not of its surface."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import simplex
from tfp_nvi.state_space import global_space

tfd = tfp.distributions


def test_surface_of_parts():
  """Two simplices of three values, a vector, and a number."""
  state = tfd.JointDistributionNamed(
    {
      'p': tfd.Sample(tfd.Dirichlet([1.0, 1.0, 1.0]), 2),
      'v': tfd.MultivariateNormalDiag(tf.zeros([4])),
      'x': tfd.Normal(0.0, 1.0),
    }
  )
  inner = {'p': [2, 2], 'v': [4], 'x': []}
  inner = {name: tf.TensorShape(shape) for name, shape in inner.items()}
  found = simplex.log_surface(state, ['p', 'v', 'x'], inner)
  np.testing.assert_allclose(found, np.log(3.0))


@pytest.mark.parametrize('is_nested', [False, True])
def test_distributions_over_a_simplex_are_normalized(is_nested):
  """Weights of draws have mean one; sqrt(3) by the volume of the surface."""
  prior = tfd.Dirichlet([2.0, 3.0, 4.0])
  if is_nested:
    prior = tfd.JointDistributionNamed({'p': prior, 'x': tfd.Normal(0.0, 1.0)})
  space = global_space.GlobalSpace(prior)
  proposal = space.distribution(tf.zeros([space.size]), tf.eye(space.size))
  draws = proposal.sample(20_000, seed=[1, 2])
  weights = np.exp(prior.log_prob(draws) - proposal.log_prob(draws))
  error = np.std(weights) / np.sqrt(len(weights))
  # Five standard errors: a false alarm in 10^6.
  assert error < 0.01
  assert abs(np.mean(weights) - 1.0) < 5.0 * error

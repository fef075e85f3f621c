# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of every divergence finds the normalizer, or says that it failed.

From a standard normal density to the posterior of its mean: a Gaussian whose
normalizer is known, several of its own deviations away. Divergences that grow
with the density ratio used to run away there.
"""

import itertools
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

DIVERGENCES = {
  'reverse_kl': tfp.vi.kl_reverse,
  'forward_kl': tfp.vi.kl_forward,
  'jensen_shannon': tfp.vi.jensen_shannon,
  'hellinger': tfp.vi.squared_hellinger,
  'pearson': tfp.vi.pearson,
  'total_variation': tfp.vi.total_variation,
}
SCALE = 0.3
# Dimension, number of densities, distance in posterior deviations, sides.
PROBLEMS = {
  'far': (1, 4, 10.0, nvi.Side.BOTH),
  'plane': (2, 8, 5.0, nvi.Side.BOTH),
  'ten dimensions': (10, 4, 3.0, nvi.Side.BOTH),
  'forward side': (2, 2, 1.0, nvi.Side.FORWARD),
}


def make_problem(num_dimensions, distance):
  """The prior, the target, and the logarithm of the target's normalizer."""
  loc = distance * SCALE / np.sqrt(num_dimensions)
  ones = tf.ones([num_dimensions])
  prior = tfd.MultivariateNormalDiag(0.0 * ones, ones)
  likelihood = tfd.MultivariateNormalDiag(loc * ones, SCALE * ones)
  # x ~ N(0, 1) and y ~ N(x, SCALE^2) make y ~ N(0, 1 + SCALE^2).
  variance = 1.0 + SCALE**2
  log_normalizer = (
    -0.5 * num_dimensions * (np.log(2.0 * np.pi * variance) + loc**2 / variance)
  )
  return (
    prior,
    lambda x: prior.log_prob(x) + likelihood.log_prob(x),
    log_normalizer,
  )


# Those that are not slow, of all pairs. These used to diverge.
QUICK = [
  ('far', 'forward_kl'),
  ('far', 'hellinger'),
]
CASES = [
  pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
  for case in itertools.product(PROBLEMS, DIVERGENCES)
]


@pytest.mark.parametrize('problem, divergence', CASES)
def test_normalizer_or_warning(problem, divergence):
  num_dimensions, num_densities, distance, sides = PROBLEMS[problem]
  prior, target, expected = make_problem(num_dimensions, distance)
  path = nvi.GeometricPath(prior, target, num_densities=num_densities)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', nvi.CollapseWarning)
    history = nvi.fit(
      sampler,
      nvi.f_divergence(DIVERGENCES[divergence], sides=sides),
      num_particles=64,
      num_steps=800,
      seed=2,
      progress=False,
    )
  if any(issubclass(w.category, nvi.CollapseWarning) for w in caught):
    assert history.collapsed_levels and (problem, divergence) not in QUICK
    return
  assert not history.collapsed_levels
  log_normalizers = np.array(
    [sampler.sample(500, seed=i).log_normalizer for i in range(16)], np.float64
  )
  ratios = np.exp(log_normalizers - expected)
  error = np.std(ratios, ddof=1) / 4.0
  # False-alarm rate: 1e-4 for each case, by the tail of Student's t.
  assert abs(np.mean(ratios) - 1.0) < 5.2 * error + 1e-4


def test_far_problem_is_solved():
  """The one that used to diverge is solved, not just warned of."""
  prior, target, expected = make_problem(1, 10.0)
  path = nvi.GeometricPath(prior, target, num_densities=4)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  history = nvi.fit(
    sampler,
    nvi.forward_kl(),
    num_particles=64,
    num_steps=2_000,
    seed=2,
    progress=False,
  )
  particles = sampler.sample(1_000, seed=1)
  assert particles.effective_sample_size > 900.0
  np.testing.assert_allclose(particles.log_normalizer, expected, atol=0.01)
  assert 0.0 < np.mean(history.loss[-100:]) < 0.05

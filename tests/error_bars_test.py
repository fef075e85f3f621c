# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors that one run predicts agree with the spread over many runs.

The error of log Z-hat and of an expectation come from genealogies: how the
weights of one run spread over the ancestors at the first level. They are
compared with the standard deviation over independent runs, for problems with
and without resampling, with one mode and with several.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

NUM_RUNS = 100
# Between the mean predicted error and the observed one. The observed one has a
# relative standard error of 7% for Gaussian estimates of 100 runs.
MAX_RATIO = 1.5


def random_walk(num_levels, step_size, num_steps):
  """Metropolis steps that get shorter along the path."""
  return nvi.MCMCTransition(
    lambda target_log_prob_fn, level: tfp.mcmc.RandomWalkMetropolis(
      target_log_prob_fn,
      new_state_fn=tfp.mcmc.random_walk_normal_fn(step_size),
    ),
    num_steps=num_steps,
    num_transitions=num_levels,
  )


def importance_sampling():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 0.7), num_densities=2
  )
  return nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, [5], seed=1),
    resample_criterion_fn=nvi.never,
  )


def gaussian(policy=nvi.always, num_densities=5, target=(1.5, 0.7)):
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(*target), num_densities=num_densities
  )
  return nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, [5], seed=1),
    resample_criterion_fn=policy,
  )


def two_modes():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 4.0),
    lambda x: tf.reduce_logsumexp(
      tf.stack(
        [
          tfd.Normal(-4.0, 0.5).log_prob(x),
          tfd.Normal(4.0, 0.5).log_prob(x) - 1.0,
        ]
      ),
      axis=0,
    ),
    num_densities=6,
  )
  return nvi.NestedSampler(path, random_walk(5, 1.0, 3))


def unordered_means():
  """The means of two components, whose order the data cannot tell."""
  random = np.random.default_rng(0)
  data = tf.constant(
    np.concatenate([random.normal(-1.5, 1.0, 15), random.normal(1.5, 1.0, 15)]),
    tf.float32,
  )
  prior = tfd.MultivariateNormalDiag([0.0, 0.0], [4.0, 4.0])

  def log_prob(means):
    log_components = tfd.Normal(means[..., tf.newaxis], 1.0).log_prob(data)
    return prior.log_prob(means) + tf.reduce_sum(
      tf.reduce_logsumexp(log_components, axis=-2) - np.log(2.0), axis=-1
    )

  path = nvi.GeometricPath(
    prior, log_prob, schedule=[0.0, 0.01, 0.04, 0.1, 0.2, 0.4, 0.7, 1.0]
  )
  return nvi.NestedSampler(path, random_walk(7, 0.6, 3))


PROBLEMS = {
  'importance sampling': (importance_sampling, lambda x: x),
  'resampling always': (gaussian, lambda x: x),
  'resampling sometimes': (
    lambda: gaussian(nvi.ess_below(0.5), 7),
    lambda x: x**2,
  ),
  'heavy weights': (
    lambda: gaussian(nvi.ess_below(0.5), 7, (2.0, 0.5)),
    lambda x: x**2,
  ),
  'two modes': (two_modes, lambda x: x > 0.0),
  'unordered means': (unordered_means, lambda x: x[..., 0] < x[..., 1]),
}
# Few particles see few of the largest weights, so that what one run predicts is
# too small: with 400, 0.64 of the spread of an expectation for heavy weights,
# with 8,000, 0.79 of it.
NUM_PARTICLES = dict.fromkeys(PROBLEMS, 400) | {'heavy weights': 4_000}


@pytest.mark.parametrize('problem', PROBLEMS)
def test_predicted_error_is_that_of_many_runs(problem):
  make_sampler, fn = PROBLEMS[problem]
  sampler = make_sampler()
  runs = [
    sampler.sample(NUM_PARTICLES[problem], seed=i) for i in range(NUM_RUNS)
  ]
  observed = np.std([run.log_normalizer for run in runs], ddof=1)
  predicted = np.sqrt(np.mean([run.log_normalizer_error**2 for run in runs]))
  assert 1.0 / MAX_RATIO < predicted / observed < MAX_RATIO
  observed = np.std([run.expectation(fn) for run in runs], ddof=1)
  predicted = np.sqrt(np.mean([run.standard_error(fn) ** 2 for run in runs]))
  assert 1.0 / MAX_RATIO < predicted / observed < MAX_RATIO


def test_effective_sample_size_does_not_see_ancestry():
  """Which is why there are errors from genealogies."""
  particles = unordered_means().sample(400, seed=1)
  share_error = float(particles.standard_error(PROBLEMS['unordered means'][1]))
  # Of independent particles, by the binomial distribution.
  independent = 0.5 / np.sqrt(float(particles.effective_sample_size))
  assert particles.num_ancestors < 200
  assert share_error > 1.5 * independent

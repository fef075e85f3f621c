# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A log density that is NaN counts as zero density, is counted and named."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tfp_nvi as nvi

tfd = tfp.distributions

NORMAL = tfd.Normal(0.0, 1.0)


def half_defined(x):
  """A standard normal density that is NaN above one."""
  return tf.where(x > 1.0, float('nan'), NORMAL.log_prob(x))


def make_sampler(transitions=None, target=half_defined, num_densities=3):
  path = nvi.GeometricPath(NORMAL, target, num_densities=num_densities)
  if transitions is None:
    transitions = nvi.GaussianTransitions(path, seed=1)
  return nvi.NestedSampler(path, transitions)


def mcmc(num_levels):
  return nvi.MCMCTransition(
    lambda target_log_prob_fn, level: tfp.mcmc.RandomWalkMetropolis(
      target_log_prob_fn
    ),
    num_transitions=num_levels,
  )


@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize('kernel', ['gaussian', 'mcmc'])
def test_counts_as_zero_density(kernel, jit_compile):
  transitions = mcmc(2) if kernel == 'mcmc' else None
  sampler = make_sampler(transitions)
  with pytest.warns(RuntimeWarning, match='NaN.*`target`'):
    first = sampler.sample(2_000, seed=0, jit_compile=jit_compile)
  assert first.num_nan > 0
  with warnings.catch_warnings():
    # Once for each sampler.
    warnings.simplefilter('error')
    runs = [
      sampler.sample(2_000, seed=i, jit_compile=jit_compile) for i in range(20)
    ]
  ratios = np.array([np.exp(run.log_normalizer) for run in runs], np.float64)
  expected = stats.norm.cdf(1.0)
  error = np.std(ratios, ddof=1) / np.sqrt(20)
  # False-alarm rate: 1e-4, by the tail of Student's t.
  assert abs(np.mean(ratios) - expected) < 4.9 * error
  assert all(np.all(run.particles[run.weights > 0.0] <= 1.0) for run in runs)


def test_number_of_nan_is_that_of_the_trace():
  sampler = make_sampler()
  with pytest.warns(RuntimeWarning):
    particles = sampler.sample(500, seed=3)
  trace = sampler.trace(500, seed=3)
  assert particles.num_nan == np.sum(trace.is_nan)
  np.testing.assert_array_equal(trace.is_nan, trace.particles > 1.0)


def test_strict():
  with pytest.raises(ValueError, match='NaN.*`target`.*at'):
    make_sampler().sample(500, seed=1, strict=True)
  sampler = make_sampler(target=tfd.Normal(0.5, 1.0))
  assert sampler.sample(500, seed=1, strict=True).num_nan == 0


@pytest.mark.parametrize('level_by_level', [False, True])
def test_training_goes_on(level_by_level):
  sampler = make_sampler()
  with pytest.warns(RuntimeWarning, match='NaN'):
    history = nvi.fit(
      sampler,
      nvi.reverse_kl(level_by_level=level_by_level),
      num_particles=32,
      num_steps=100,
      seed=1,
      progress=False,
    )
  assert np.all(np.isfinite(history.loss)) and np.all(history.num_nan > 0)
  assert all(np.all(np.isfinite(v)) for v in sampler.trainable_variables)


@pytest.mark.slow
def test_a_rare_nan_of_a_model():
  """The logit of a probability that is one in floating point is infinite."""
  model = tfd.JointDistributionNamedAutoBatched(
    dict(p=tfd.LogitNormal(0.0, 5.0), y=lambda p: tfd.Binomial(10.0, probs=p))
  )
  prior = tfd.JointDistributionNamed(dict(p=tfd.LogitNormal(0.0, 5.0)))
  path = nvi.GeometricPath(
    prior, model.experimental_pin(y=7.0), num_densities=4
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)
    nvi.fit(
      sampler,
      nvi.reverse_kl(),
      num_particles=64,
      num_steps=400,
      seed=2,
      progress=False,
    )
    runs = [sampler.sample(2_000, seed=i) for i in range(10)]
  # By quadrature over the logit.
  x = np.linspace(-40.0, 40.0, 200_001)
  log_p = -np.logaddexp(0.0, -x), -np.logaddexp(0.0, x)
  log_joint = (np.log(120.0) + 7.0 * log_p[0] + 3.0 * log_p[1]) + stats.norm(
    0.0, 5.0
  ).logpdf(x)
  expected = np.trapezoid(np.exp(log_joint), x)
  ratios = np.array([np.exp(run.log_normalizer) for run in runs]) / expected
  error = np.std(ratios, ddof=1) / np.sqrt(10)
  # False-alarm rate: 1e-4, by the tail of Student's t.
  assert abs(np.mean(ratios) - 1.0) < 6.6 * error
  assert error < 0.05


@pytest.mark.parametrize(
  'method, arguments',
  [('sample', {}), ('sample', {'num_islands': 2}), ('trace', {})],
)
def test_warnings_are_of_the_line_that_samples(method, arguments):
  sampler = make_sampler()

  def user():
    return getattr(sampler, method)(100, seed=1, **arguments)

  with pytest.warns(RuntimeWarning, match='NaN') as caught:
    user()
  found = [w for w in caught if 'NaN' in str(w.message)]
  assert found[0].filename == __file__
  assert found[0].lineno == user.__code__.co_firstlineno + 1

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Kernels and bijectors that do not fit the densities are errors.

A kernel must have one log density for each particle and batch member, and a
kernel or bijector must lead to all states that the densities are positive at;
otherwise log Z-hat is wrong without a sign of it. Kernels that look unusual but
keep particles properly weighted must not be errors.
"""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import transitions
from tfp_nvi.internal import randomness

tfb = tfp.bijectors
tfd = tfp.distributions

SEED = randomness.as_seed(1)


def scalar_path(batch_shape=()):
  return nvi.GeometricPath(
    tfd.Normal(0.0, 2.0), tfd.Normal(1.0, 1.0), 2, batch_shape=batch_shape
  )


def wrong_kernel(x):
  """All particles, or batch members, as one event."""
  return tfd.Independent(tfd.Normal(x, 0.5), 1)


def walk(x):
  return tfd.Normal(x, 0.5)


def propose(pair, path, num_particles):
  """A move of a pair that is bound to a path."""
  pair.bind(path)
  shape = [num_particles, *path.batch_shape.as_list()]
  return pair.propose(0, tf.zeros(shape), SEED, None)


@pytest.mark.parametrize('name', ['forward_fn', 'reverse_fn'])
@pytest.mark.parametrize('batch_shape', [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize('num_particles', [1, 3, 10])
def test_particles_as_one_event(name, batch_shape, num_particles):
  arguments = dict(forward_fn=walk, reverse_fn=walk)
  pair = nvi.KernelPair(**{**arguments, name: wrong_kernel})
  with pytest.raises(ValueError, match=f'`{name}` must return .*one log dens'):
    propose(pair, scalar_path(batch_shape), num_particles)


@pytest.mark.parametrize('both', [True, False])
def test_particles_as_one_event_in_a_sampler(both):
  """Accepted, log Z-hat would be 1477 for zero."""
  path = scalar_path()
  pair = nvi.KernelPair(wrong_kernel, wrong_kernel if both else walk)
  sampler = nvi.NestedSampler(path, pair)
  with pytest.raises(ValueError, match='`forward_fn` must return'):
    sampler.sample(100, seed=1)


def test_vectors_whose_values_are_a_batch():
  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag([0.0, 0.0]),
    tfd.MultivariateNormalDiag([1.0, 0.0]),
    2,
  )
  pair = nvi.KernelPair(walk, walk)
  pair.bind(path)
  # With two particles, the shape [2, 2] could pass for one with a batch.
  with pytest.raises(ValueError, match='`forward_fn` must return .*one log de'):
    pair.propose(0, tf.zeros([2, 2]), SEED, None)


def test_reverse_kernel_of_another_batch():
  """Its log density broadcasts against the particles, but is not theirs."""
  pair = nvi.KernelPair(walk, lambda z: tfd.Normal(z[:, tf.newaxis], 0.5))
  with pytest.raises(ValueError, match='`reverse_fn` must return .*one log de'):
    propose(pair, scalar_path(), 5)


def test_reverse_kernel_that_ignores_the_state():
  """Its log density broadcasts over particles by itself, as it should."""
  pair = nvi.KernelPair(walk, lambda z: tfd.Normal(0.0, 2.0))
  move = propose(pair, scalar_path(), 5)
  assert move.log_reverse.shape == [5]


@pytest.mark.parametrize('name', ['forward_fn', 'reverse_fn'])
def test_discrete_kernels_of_real_states(name):
  arguments = dict(forward_fn=walk, reverse_fn=walk)
  arguments[name] = lambda x: tfd.Poisson(tf.exp(tf.clip_by_value(x, -2, 2)))
  with pytest.raises(ValueError, match=f'`{name}` must .*over the real states'):
    nvi.NestedSampler(scalar_path(), nvi.KernelPair(**arguments))


def test_discrete_kernels_of_discrete_states():
  poisson = tfd.Poisson(2.0)
  path = nvi.GeometricPath(poisson, tfd.Poisson(3.0), 2)
  pair = nvi.KernelPair(
    lambda y: tfd.Poisson(tf.ones_like(y) * 3.0), lambda z: poisson
  )
  particles = nvi.NestedSampler(path, pair).sample(2_000, seed=1)
  # log_forward cancels the target: log v = log r(y) - log gamma_0(y) = 0.
  np.testing.assert_allclose(particles.log_normalizer, 0.0, atol=1e-5)


def half_line(x):
  return tfd.HalfNormal(tf.ones_like(x))


def test_forward_kernel_that_misses_states():
  """Without the states below zero, Z-hat would be .84 for one."""
  with pytest.raises(ValueError, match='`forward_fn` must .*positive density'):
    nvi.NestedSampler(scalar_path(), nvi.KernelPair(half_line, walk))


def test_forward_kernel_over_the_half_line_of_a_target():
  """States that the kernel cannot reach have no density: Z = 1 / 2."""

  def target(x):
    return tf.where(x > 0.0, tfd.Normal(0.0, 1.0).log_prob(x), -np.inf)

  path = nvi.GeometricPath(tfd.Normal(0.0, 2.0), target, 2)
  pair = nvi.KernelPair(half_line, lambda z: tfd.Normal(0.0, 2.0))
  particles = nvi.NestedSampler(path, pair).sample(100, seed=1)
  # The reverse kernel is the prior and the forward kernel twice the target, so
  # that every weight is one half.
  np.testing.assert_allclose(particles.log_normalizer, np.log(0.5), rtol=1e-5)


def test_kernels_of_a_batch_that_the_densities_do_not_have():
  """They cannot be tried before a run, and are right in it."""
  steps = tf.constant([0.5, 1.0, 2.0])
  pair = nvi.KernelPair(
    lambda y: tfd.Normal(y, steps), lambda z: tfd.Normal(z, steps)
  )
  pair.batch_shape = tf.TensorShape([3])
  particles = nvi.NestedSampler(scalar_path(), pair).sample(10, seed=1)
  assert particles.log_weights.shape == [10, 3]


@pytest.mark.parametrize(
  'bijector, match',
  [
    (tfb.Scale(0.0), 'invertible'),
    (tfb.Shift([1.0, 2.0, 3.0]), 'from states to states'),
    (tfb.Reshape([1]), 'from states to states'),
    (tfb.Exp(), 'lead to every state'),
    (tfb.Sigmoid(), 'lead to every state'),
    (tfb.AbsoluteValue(), 'one-to-one'),
    (tfb.Scale(tf.constant(2.0, tf.float64)), 'from states to states'),
  ],
  ids=lambda x: getattr(x, 'name', None),
)
def test_bijectors_that_are_not_from_states_to_states(bijector, match):
  vectors = tfd.MultivariateNormalDiag([0.0, 0.0])
  path = nvi.GeometricPath(vectors, vectors, 2)
  transition = nvi.BijectorTransition(bijector)
  with pytest.raises(ValueError, match=f'`bijector` must .*{match}'):
    nvi.NestedSampler(path, transition)
  # Where no density has a value that is drawn, the same is found.
  with pytest.raises(ValueError, match='`bijector` must'):
    nvi.BijectorTransition(bijector).bind(
      nvi.ExplicitDensities([vectors.log_prob, vectors])
    )


def half_line_path():
  return nvi.GeometricPath(
    tfd.Normal(0.0, 1.0),
    lambda x: tf.where(
      x > 0.0, tfd.LogNormal(0.0, 1.0).log_prob(tf.maximum(x, 1e-9)), -np.inf
    ),
    2,
  )


def test_bijector_onto_the_half_line_of_a_target():
  """A standard normal state becomes exactly log-normal: all weights are one."""
  path = half_line_path()
  sampler = nvi.NestedSampler(path, nvi.BijectorTransition(tfb.Exp()))
  particles = sampler.sample(10, seed=1)
  np.testing.assert_allclose(particles.log_weights, 0.0, atol=1e-5)


class Exponential(nvi.DeterministicTransition):
  """The map of `tfb.Exp`, by its formula."""

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    return transitions.deterministic_move(tf.exp(previous), previous)


def test_map_onto_the_half_line_of_a_target():
  """As the bijector: all weights are one, and no mass is lost."""
  sampler = nvi.NestedSampler(half_line_path(), Exponential())
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    particles = sampler.sample(10, seed=1)
  np.testing.assert_allclose(particles.log_weights, 0.0, atol=1e-5)
  # Only a map that is followed to where it leads is known to lose nothing.
  assert Exponential.keeps_support
  np.testing.assert_allclose(
    Exponential().transport(0, tf.constant([0.0, 1.0])), np.exp([0.0, 1.0])
  )


def test_bijector_of_a_batch():
  path = scalar_path([3])
  scale = tf.constant([0.5, 1.0, 2.0])
  sampler = nvi.NestedSampler(path, nvi.BijectorTransition(tfb.Scale(scale)))
  assert sampler.sample(10, seed=1).log_weights.shape == [10, 3]

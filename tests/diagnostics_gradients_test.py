# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Noise of gradients, against gradients of known noise and known laws."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

tfd = tfp.distributions

MEANS = [np.array([3.0, -4.0]), np.array([0.0])]
DEVIATIONS = [np.array([1.0, 2.0]), np.array([0.5])]


def make_sampler():
  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(2.0, 1.0), num_densities=3
  )
  return nvi.NestedSampler(path, nvi.GaussianTransitions(path, [4], seed=1))


class KnownNoise(nvi.Objective):
  """Normal gradients of two variables, whose deviations are known."""

  def __init__(self, variables):
    self.variables = variables

  def __call__(self, sampler, num_particles, seed):
    seeds = tf.unstack(randomness.split_seed(seed, 2))
    return None, [
      (
        tf.constant(mean, tf.float32)
        + tf.constant(deviation, tf.float32)
        * randomness.normal(mean.shape, seed, tf.float32),
        variable,
      )
      for mean, deviation, seed, variable in zip(
        MEANS, DEVIATIONS, seeds, self.variables, strict=True
      )
    ]


class OfVariables:
  """A stand-in for a sampler, of which only the variables are needed."""

  def __init__(self):
    self.trainable_variables = [tf.Variable(tf.zeros([n])) for n in (2, 1, 3)]


def test_known_noise():
  sampler = OfVariables()
  first, second, third = sampler.trainable_variables
  groups = {'one': [first], 'both': [first, second], 'none': [third]}
  found = nvi.diagnostics.gradient_noise(
    sampler, KnownNoise([first, second]), 7, 4_000, groups, seed=1
  )
  assert found.groups == ('one', 'both', 'none')
  # Of 4,000 gradients: the norm of the mean has a standard error of
  # 1.8 / sqrt(4,000) = 0.03, that of the noise is 1.2%.
  np.testing.assert_allclose(found.signal, [5.0, 5.0, 0.0], atol=0.15)
  expected = np.sqrt([5.0, 5.25, 0.0])
  np.testing.assert_allclose(found.noise, expected, rtol=0.06)
  np.testing.assert_allclose(
    found.signal_to_noise[:2], 5.0 / expected[:2], rtol=0.08
  )
  assert np.isnan(found.signal_to_noise[2])
  np.testing.assert_allclose(found.signal_to_noise_floor, 4_000**-0.5)
  # A mean of nothing but noise has no signal beyond what its error adds.
  nothing = nvi.diagnostics.gradient_noise(
    sampler, KnownNoise([first, second]), 7, 4_000, {'two': [second]}, seed=1
  )
  assert nothing.signal_to_noise[0] < 3.0 * nothing.signal_to_noise_floor


def test_noise_of_a_mean_falls_as_the_square_root():
  """The particles of the ELBO are independent."""
  sampler = make_sampler()
  before = [v.numpy() for v in sampler.trainable_variables]
  few, many = (
    nvi.diagnostics.gradient_noise(sampler, nvi.svi(), n, 400, seed=1)
    for n in (8, 128)
  )
  # The deviation of 400 gradients is known to a few percent.
  np.testing.assert_allclose(few.noise / many.noise, 4.0, rtol=0.2)
  np.testing.assert_allclose(few.signal, many.signal, rtol=0.2)
  for v, value in zip(sampler.trainable_variables, before, strict=True):
    np.testing.assert_array_equal(v, value)
  assert 'all' in str(few)


def make_chain(variable, discriminator=None):
  """A level of two normal densities, or one whose ratio is learned."""
  if discriminator is None:
    level = nvi.Level(
      tfd.Normal(variable, 1.0), tfd.Normal(2.0, 2.0), [variable]
    )
  else:
    level = nvi.ImplicitLevel(
      lambda n, seed: variable + randomness.normal([n], seed, tf.float32),
      lambda n, seed: 2.0 + randomness.normal([n], seed, tf.float32),
      lambda x: discriminator * x,
      [variable],
      discriminator_csiszar_function=tfp.vi.jensen_shannon,
      discriminator_trainables=[discriminator],
    )
  return nvi.Chain([level])


def test_noise_of_a_chain():
  variable = tf.Variable(1.0)
  found = nvi.diagnostics.gradient_noise(
    make_chain(variable), nvi.reverse_kl(), 9, 4_000, seed=1
  )
  assert variable == 1.0
  # The gradient of a particle is (x - 2) / 4 - (x - 1), where x is normal with
  # mean and variance one.
  np.testing.assert_allclose(found.signal, [0.25], atol=0.02)
  np.testing.assert_allclose(found.noise, [0.25], rtol=0.06)


def test_variables_of_discriminators_are_found():
  variable, discriminator = tf.Variable(1.0), tf.Variable(0.5)
  groups = {'proposal': [variable], 'ratio': [discriminator]}
  found = nvi.diagnostics.gradient_noise(
    make_chain(variable, discriminator),
    nvi.reverse_kl(),
    16,
    50,
    groups,
    seed=1,
  )
  # The proposal follows the learned log ratio, whose slope is the same
  # everywhere.
  np.testing.assert_allclose(found.signal[0], 0.5, rtol=1e-5)
  assert found.noise[1] > 0.1


@pytest.mark.parametrize(
  ('arguments', 'error', 'message'),
  [
    ({'sampler': 3}, TypeError, '`sampler` must be a NestedSampler or a Chain'),
    ({'objective': tfp.vi.kl_reverse}, TypeError, '`objective` must be'),
    ({'num_repeats': 1}, ValueError, '`num_repeats` must be at least 2'),
    ({'num_particles': 0}, ValueError, '`num_particles` must be positive'),
    ({'groups': [1]}, TypeError, '`groups` must be a Python dict'),
    (
      {'groups': {'a': [tf.Variable(1.0)]}},
      ValueError,
      r"`groups\['a'\]` must be a list of trainable variables",
    ),
  ],
)
def test_errors(arguments, error, message):
  with pytest.raises(error, match=message):
    nvi.diagnostics.gradient_noise(
      **{
        'sampler': OfVariables(),
        'objective': nvi.svi(),
        'num_particles': 3,
        **arguments,
      }
    )

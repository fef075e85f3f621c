# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A density of planar flows is normalized, and samples come from it."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions


def disturbed(event_size, num_layers, scale=0.7, seed=3, **kwargs):
  """A density that is far from its start, in double precision."""
  density = nvi.planar_flow_density(
    event_size, num_layers, dtype=tf.float64, seed=1, **kwargs
  )
  random = np.random.default_rng(seed)
  for v in density.trainable_variables:
    v.assign_add(scale * random.normal(size=v.shape))
  return density


def test_starts_as_normal():
  density = nvi.planar_flow_density(3, dtype=tf.float64, seed=1)
  x = tf.constant(np.random.default_rng(0).normal(size=[50, 3]))
  np.testing.assert_allclose(
    density.log_prob(x),
    tfd.MultivariateNormalDiag(tf.zeros([3], tf.float64)).log_prob(x),
    rtol=1e-10,
  )


def mixture_base():
  """Two modes, with variables."""
  return tfd.MixtureSameFamily(
    tfd.Categorical(logits=tf.Variable([0.3, -0.2], dtype=tf.float64)),
    tfd.MultivariateNormalDiag(
      tf.Variable([[-3.0, 0.0], [3.0, 1.0]], dtype=tf.float64),
      tf.constant([1.0, 0.5], tf.float64),
    ),
  )


def test_starts_as_its_base():
  base = mixture_base()
  density = nvi.planar_flow_density(
    2, dtype=tf.float64, seed=1, base_distribution=base
  )
  x = tf.constant(np.random.default_rng(0).normal(scale=3.0, size=[50, 2]))
  np.testing.assert_allclose(density.log_prob(x), base.log_prob(x), rtol=1e-10)
  assert len(density.trainable_variables) == 3 + 2 + 2


@pytest.mark.parametrize('base_fn', [lambda: None, mixture_base])
def test_integrates_to_one(base_fn):
  density = disturbed(2, 8, base_distribution=base_fn())
  nodes = np.linspace(-30.0, 30.0, 1201)
  x = np.stack(np.meshgrid(nodes, nodes), axis=-1)
  total = np.sum(np.exp(density.log_prob(x))) * (nodes[1] - nodes[0]) ** 2
  np.testing.assert_allclose(total, 1.0, rtol=1e-3)


def test_samples_have_the_density():
  # The chance that a share of 20,000 is off by 5 standard errors is 6e-7.
  density = disturbed(2, 8)
  x = density.sample(20_000, seed=(1, 2)).numpy()
  nodes = np.linspace(-30.0, 30.0, 1201)
  grid = np.stack(np.meshgrid(nodes, nodes), axis=-1)
  probs = np.exp(density.log_prob(grid)) * (nodes[1] - nodes[0]) ** 2
  for threshold in (-1.0, 0.0, 1.0):
    for axis in range(2):
      expected = probs[grid[..., axis] < threshold].sum()
      share = np.mean(x[:, axis] < threshold)
      error = np.sqrt(expected * (1.0 - expected) / len(x)) + 1e-3
      assert abs(share - expected) < 5.0 * error


def test_learns_a_mixture_without_an_inverse():
  # Two modes, four standard deviations from the middle: one Gaussian would
  # come no closer than log(sqrt(17)) - log 2 = 0.72.
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(logits=[0.0, 0.0]),
    tfd.MultivariateNormalDiag([[-4.0, 0.0], [4.0, 0.0]], [1.0, 1.0]),
  )
  density = nvi.planar_flow_density(2, 4, seed=1)
  chain = nvi.Chain([nvi.Level(mixture, density, [density])])
  nvi.fit(chain, nvi.reverse_kl(), 256, 1_500, seed=1, progress=False)
  x = mixture.sample(20_000, seed=(1, 2))
  gap = tf.reduce_mean(mixture.log_prob(x) - density.log_prob(x))
  assert gap < 0.2


@pytest.mark.parametrize('name', ['event_size', 'num_layers'])
@pytest.mark.parametrize('value', [0, 1.5, True, None])
def test_bad_counts(name, value):
  arguments = {'event_size': 2, 'num_layers': 2, name: value}
  error = ValueError if value == 0 else TypeError
  with pytest.raises(error, match=f'`{name}` must be .*positive'):
    nvi.planar_flow_density(**arguments)


@pytest.mark.parametrize(
  ('base_distribution', 'problem'),
  [
    ('normal', "a tfd.Distribution of vectors; got 'normal'"),
    (
      tfd.MultivariateNormalDiag(tf.zeros([3])),
      r'event shape \[2\] and dtype float32; got \(3,\) and float32',
    ),
    (
      tfd.MultivariateNormalDiag(tf.zeros([2], tf.float64)),
      r'event shape \[2\] and dtype float32; got \(2,\) and float64',
    ),
    (tfd.Normal(0.0, 1.0), r'got \(\) and float32'),
    (
      tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)] * 2),
      'a tfd.Distribution of vectors',
    ),
  ],
)
def test_bad_base(base_distribution, problem):
  is_one = isinstance(base_distribution, tfd.Distribution)
  with pytest.raises(
    ValueError if is_one else TypeError,
    match=f'^`base_distribution` must .*{problem}',
  ):
    nvi.planar_flow_density(2, base_distribution=base_distribution)

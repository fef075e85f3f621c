# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Estimated gradients agree with exact ones, on levels over a few points.

Divergences are sums over all pairs of points, and differentiated. Categorical
kernels cannot be reparameterized, so that gradients are by score functions.
Each vector of logits is moved by its parameters along two fixed directions;
those of densities are not normalized.

Bias and false alarms: as in objectives_test.
"""

import functools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests import exact_gradients as eg

tfd = tfp.distributions

NUM_POINTS = 4
NUM_PARTICLES = 2**13
NUM_SEEDS = 64
# How small the effective sample size must be, as a share of the particles.
POLICIES = {'never': 0.0, 'always': 2.0}

every_csiszar_function = pytest.mark.parametrize('f', eg.CSISZAR_PARAMETERS)


class Logits:
  """Logits that depend on two parameters."""

  def __init__(self, name, shape, seed):
    random = np.random.default_rng(seed)
    self._base = tf.constant(0.6 * random.normal(size=shape))
    self._directions = tf.constant(random.normal(size=[*shape, 2]))
    self.variable = tf.Variable([0.1, -0.1], dtype=tf.float64, name=name)

  def __call__(self):
    return self._base + tf.linalg.matvec(self._directions, self.variable)

  def at(self, state):
    """Those of a point."""
    return tf.gather(self(), tf.cast(state, tf.int32))

  def kernel(self, state):
    """The distribution, given a point."""
    return tfd.Categorical(logits=self.at(state), dtype=state.dtype)


class Points:
  """Three densities, an initial proposal, and kernels."""

  def __init__(self, dtype=tf.float64):
    self.dtype = dtype
    vector, matrix = [NUM_POINTS], [NUM_POINTS, NUM_POINTS]
    self.initial = Logits('initial', vector, 0)
    self.densities = [Logits(f'density_{i}', vector, 1 + i) for i in range(3)]
    self.forward = [Logits(f'forward_{i}', matrix, 4 + i) for i in (1, 2)]
    self.reverse = [Logits(f'reverse_{i}', matrix, 6 + i) for i in (1, 2)]
    self.proposals = [v.variable for v in (self.initial, *self.forward)]
    self.variables = [
      *(v.variable for v in (*self.densities, *self.reverse)),
      *self.proposals,
    ]
    self.names = [*eg.labels(self.variables), 'loss']

  def sampler(self, criterion):
    # The last one, which has a dtype, is normalized.
    last = tfd.Categorical(
      logits=tfp.util.DeferredTensor(
        self.densities[2].variable,
        lambda _: self.densities[2](),
        shape=[NUM_POINTS],
      ),
      dtype=self.dtype,
    )
    initial = tfd.Categorical(
      logits=tfp.util.DeferredTensor(
        self.initial.variable, lambda _: self.initial(), shape=[NUM_POINTS]
      ),
      dtype=self.dtype,
    )
    return nvi.NestedSampler(
      nvi.ExplicitDensities([*(d.at for d in self.densities[:2]), last]),
      [
        nvi.KernelPair(forward.kernel, reverse.kernel)
        for forward, reverse in zip(self.forward, self.reverse, strict=True)
      ],
      initial_proposal=initial,
      resample_criterion_fn=criterion,
    )

  def levels(self):
    levels = [eg.Level(self.initial(), self.densities[0]())]
    for i in range(2):
      forward, reverse = (
        tf.nn.log_softmax(x[i]()) for x in (self.forward, self.reverse)
      )
      levels.append(
        eg.Level(
          self.densities[i]()[:, tf.newaxis] + forward,
          self.densities[i + 1]()[tf.newaxis] + tf.transpose(reverse),
        )
      )
    return levels


class Problem:
  """Points, their estimators in one compiled function, and exact gradients."""

  def __init__(self):
    self.model = Points()
    self.threshold = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    self.estimate = functools.cache(self._estimate)
    self.estimator = eg.Estimator(
      self.model.sampler(self.criterion),
      self.model.variables,
      lambda f: [
        nvi.NestedDivergence(f, sides=nvi.Side.REVERSE),
        *(
          nvi.NestedDivergence(f, sides=nvi.Side.FORWARD, baseline=baseline)
          for baseline in (True, False)
        ),
      ],
      NUM_PARTICLES,
    )

  def criterion(self, particles):
    size = nvi.effective_sample_size(particles.log_weights)
    return size < self.threshold * particles.log_weights.shape[0]

  def _estimate(self, f, policy):
    self.threshold.assign(POLICIES[policy])
    return self.estimator(f, eg.seeds(NUM_SEEDS, seed=1))


@pytest.fixture(scope='module')
def points():
  return Problem()


@every_csiszar_function
@pytest.mark.parametrize('policy', POLICIES)
def test_gradients(points, f, policy):
  model = points.model
  exact = eg.exact(eg.CSISZAR_FUNCTIONS[f], model.levels, model.variables)
  reverse, baseline, no_baseline = points.estimate(f, policy)
  for estimate, gradient in (
    (reverse, exact.reverse),
    (baseline, exact.forward),
    (no_baseline, exact.forward),
  ):
    eg.assert_agrees(estimate, np.append(gradient, exact.value), model.names)


@pytest.mark.parametrize('f', ['reverse_kl', 'forward_kl', 'jensen_shannon'])
def test_baseline(points, f):
  # Equal variances would have a ratio above this with a probability of 1e-4.
  threshold = scipy.stats.f.ppf(1.0 - 1e-4, NUM_SEEDS - 1, NUM_SEEDS - 1)
  names = eg.labels([points.model.initial.variable])
  indices = [points.model.names.index(name) for name in names]
  _, baseline, no_baseline = points.estimate(f, 'never')
  ratio = no_baseline[:, indices].var(axis=0) / baseline[:, indices].var(axis=0)
  assert np.all(ratio > threshold)


MUTATIONS = {
  'unchanged': lambda a: a,
  'score fixed': lambda a: eg.change_move(
    a, log_forward_not_reparameterized=tf.stop_gradient
  ),
  'score negated': lambda a: eg.change_move(
    a, log_forward_not_reparameterized=eg.negate
  ),
  'reverse kernel negated': lambda a: eg.change_move(a, log_reverse=eg.negate),
}


def test_mutations():
  # Comparisons tell a correct estimator from wrong ones.
  model = Points()
  exact = eg.exact(tfp.vi.kl_forward, model.levels, model.variables)
  expected = np.append(exact.both, exact.value)
  estimator = eg.Estimator(
    model.sampler(nvi.never),
    model.variables,
    lambda f: [eg.Mutant(m, tfp.vi.kl_forward) for m in MUTATIONS.values()],
    num_particles=2**11,
    jit_compile=False,
  )
  eg.assert_mutants_fail(
    MUTATIONS,
    estimator('forward_kl', eg.seeds(24, seed=1)),
    lambda estimate: eg.assert_agrees(estimate, expected, model.names),
  )

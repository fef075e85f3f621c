# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Nested divergences are the same level by level and all levels together."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness

tfb = tfp.bijectors
tfd = tfp.distributions

NUM_PARTICLES = 12


def make_path(num_densities=4, batch_shape=()):
  zeros = tf.zeros([2], tf.float64)
  return nvi.GeometricPath(
    tfd.MultivariateNormalDiag(zeros, zeros + 3.0),
    tfd.MultivariateNormalDiag(zeros + 1.0, zeros + 0.5),
    num_densities,
    learnable=True,
    batch_shape=batch_shape,
  )


def gaussians():
  path = make_path(batch_shape=[3])
  return nvi.NestedSampler(
    path, nvi.GaussianTransitions(path, [5], batch_shape=[3], seed=1)
  )


def flows():
  path = make_path()
  return nvi.NestedSampler(
    path,
    nvi.PlanarTransitions(path, num_layers=3, seed=1),
    resample_criterion_fn=nvi.ess_below(0.9),
  )


def unlike_transitions():
  """A list, with a variable that only a closure knows."""
  path = make_path()
  step = tf.Variable([0.1, 0.2], dtype=tf.float64)

  def kernel(sign):
    return lambda y: tfd.MultivariateNormalDiag(
      y + sign * step, tf.ones([2], tf.float64)
    )

  return nvi.NestedSampler(
    path,
    [
      nvi.KernelPair(kernel(1.0), kernel(-1.0)),
      nvi.Composition(
        [
          nvi.BijectorTransition(tfb.Shift(step)),
          nvi.MCMCTransition(
            lambda fn: tfp.mcmc.RandomWalkMetropolis(fn),
            num_steps=2,
          ),
        ]
      ),
      nvi.KernelPair(kernel(0.5), kernel(-0.5)),
    ],
  )


def learned_proposal():
  path = make_path()
  loc = tf.Variable([0.3, 0.4], dtype=tf.float64)
  return nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, [5], seed=1),
    initial_proposal=tfd.MultivariateNormalDiag(
      loc, tf.fill([2], tf.constant(2.5, tf.float64))
    ),
  )


class Counted:
  """A log density that counts the points it is evaluated at when it runs."""

  def __init__(self, log_prob_fn):
    self._log_prob_fn = log_prob_fn
    self._count = tf.Variable(0, dtype=tf.int64, trainable=False)

  def __call__(self, x):
    self._count.assign_add(x.shape[:-1].num_elements())
    return self._log_prob_fn(x)

  def take_count(self):
    count = int(self._count)
    self._count.assign(0)
    return count


def estimate(sampler, objective, seed=3):
  """Gradients by all variables, and the rest of the estimate."""

  @tf.function(autograph=False)
  def compute(seed):
    result, pairs = objective(sampler, NUM_PARTICLES, seed)
    found.update((variable.ref(), g) for g, variable in pairs)
    return [g for g, _ in pairs], result

  found = {}
  gradients, rest = compute(randomness.as_seed(seed))
  return dict(zip(found, gradients, strict=True)), rest


OBJECTIVES = {
  'reverse': dict(csiszar_function=tfp.vi.kl_reverse),
  'forward, by score': dict(
    csiszar_function=tfp.vi.kl_forward, reparameterize=False
  ),
  'forward side': dict(csiszar_function=tfp.vi.pearson, sides=nvi.Side.FORWARD),
}


@pytest.mark.parametrize(
  'make_sampler, name',
  [
    pytest.param(
      gaussians,
      name,
      marks=() if name == 'reverse' else pytest.mark.slow,
    )
    for name in OBJECTIVES
  ]
  + [
    pytest.param(
      make_sampler,
      'reverse',
      marks=() if make_sampler is unlike_transitions else pytest.mark.slow,
    )
    for make_sampler in (flows, unlike_transitions, learned_proposal)
  ],
)
def test_both_schedules_agree(make_sampler, name):
  arguments = OBJECTIVES[name]
  sampler = make_sampler()
  rng = np.random.default_rng(0)
  for v in sampler.trainable_variables:
    v.assign_add(0.1 * rng.normal(size=v.shape))
  together, rest = estimate(sampler, nvi.NestedDivergence(**arguments))
  by_level, rest_by_level = estimate(
    sampler, nvi.NestedDivergence(**arguments, level_by_level=True)
  )
  by_level = {k: g for k, g in by_level.items() if g is not None}
  together = {k: g for k, g in together.items() if g is not None}
  assert by_level.keys() == together.keys() and together
  for key, gradient in together.items():
    scale = np.max(np.abs(gradient))
    np.testing.assert_allclose(
      by_level[key], gradient, atol=1e-12 * scale, rtol=1e-9
    )
  assert any(np.any(g != 0.0) for g in together.values())
  for a, b in zip(
    tf.nest.flatten(rest), tf.nest.flatten(rest_by_level), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_training_agrees():
  """Through the compiled loop of `fit`, to rounding."""
  losses = []
  for level_by_level in (False, True):
    history = nvi.fit(
      gaussians(),
      nvi.reverse_kl(level_by_level=level_by_level),
      NUM_PARTICLES,
      num_steps=20,
      steps_per_call=10,
      seed=4,
      progress=False,
    )
    losses.append(history.loss)
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


def test_graph_does_not_grow_with_the_levels():
  """Neither schedule writes the levels out."""

  def count(num_densities, level_by_level):
    path = make_path(num_densities)
    sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, [5]))
    objective = nvi.reverse_kl(level_by_level=level_by_level)

    def compute(seed):
      _, pairs = objective(sampler, NUM_PARTICLES, seed)
      return [gradient for gradient, _ in pairs]

    graph = (
      tf.function(compute, autograph=False)
      .get_concrete_function(tf.TensorSpec([2], tf.int32))
      .graph
    )
    definition = graph.as_graph_def()
    return len(definition.node) + sum(
      len(f.node_def) for f in definition.library.function
    )

  for level_by_level in (False, True):
    assert count(4, level_by_level) == count(12, level_by_level)


@pytest.mark.parametrize(
  'is_rolled, level_by_level, learnable, csiszar_function',
  [
    (True, False, True, tfp.vi.kl_forward),
    pytest.param(
      *(True, True, False, tfp.vi.kl_reverse), marks=pytest.mark.slow
    ),
    pytest.param(
      *(False, False, False, tfp.vi.kl_reverse), marks=pytest.mark.slow
    ),
  ],
)
def test_training_evaluates_the_target_as_often_as_sampling(
  is_rolled, level_by_level, learnable, csiszar_function
):
  """Once for each particle and level, in the compiled programs."""
  num_densities, num_steps = 4, 3
  path = make_path()
  target = Counted(path._densities[-1].log_prob)
  path = nvi.GeometricPath(
    path.initial, target, num_densities, learnable=learnable
  )
  if is_rolled:
    transitions = nvi.GaussianTransitions(path, [5])
  else:
    step = tf.Variable([0.1, 0.2], dtype=tf.float64)
    kernel = functools.partial(
      tfd.MultivariateNormalDiag, scale_diag=tf.ones([2], tf.float64)
    )
    pair = nvi.KernelPair(
      lambda y: kernel(y + step), lambda z: kernel(z - step)
    )
    transitions = [pair] * (num_densities - 1)
  sampler = nvi.NestedSampler(path, transitions)
  target.take_count()
  sampler.sample(NUM_PARTICLES, seed=1)
  assert target.take_count() == num_densities * NUM_PARTICLES
  nvi.fit(
    sampler,
    nvi.NestedDivergence(csiszar_function, level_by_level=level_by_level),
    NUM_PARTICLES,
    num_steps,
    seed=2,
    steps_per_call=num_steps,
    progress=False,
  )
  assert target.take_count() == num_steps * num_densities * NUM_PARTICLES


@pytest.mark.parametrize(
  'name, level_by_level',
  [
    pytest.param('reverse', False, marks=pytest.mark.slow),
    pytest.param('reverse', True, marks=pytest.mark.slow),
    pytest.param('forward, by score', False, marks=pytest.mark.slow),
    ('forward side', True),
  ],
)
def test_slopes_that_are_kept_give_the_same_gradients(name, level_by_level):
  """As those of a second evaluation."""
  results = []
  for evaluate_once in (False, True):
    sampler = gaussians()
    rng = np.random.default_rng(0)
    for v in sampler.trainable_variables:
      v.assign_add(0.1 * rng.normal(size=v.shape))
    gradients, rest = estimate(
      sampler,
      nvi.NestedDivergence(
        **OBJECTIVES[name],
        level_by_level=level_by_level,
        evaluate_once=evaluate_once,
      ),
    )
    results.append([g for g in gradients.values() if g is not None])
    results[-1] += tf.nest.flatten(rest)
  evaluated, kept = results
  assert len(kept) == len(evaluated) and any(np.any(x != 0.0) for x in kept)
  for x, y in zip(kept, evaluated, strict=True):
    scale = np.max(np.abs(y))
    np.testing.assert_allclose(x, y, atol=1e-12 * scale, rtol=1e-9)


def test_a_variable_of_the_target_is_trained():
  """Where slopes by the state are not all that a gradient needs."""
  path = make_path()
  loc = tf.Variable([1.0, 1.0], dtype=tf.float64)
  path = nvi.GeometricPath(
    path.initial,
    lambda x: tfd.MultivariateNormalDiag(
      loc, tf.fill([2], tf.constant(0.5, tf.float64))
    ).log_prob(x),
    num_densities=3,
  )
  assert path.has_variables
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, [5], seed=1))
  gradients, _ = estimate(sampler, nvi.reverse_kl())
  assert np.any(gradients[loc.ref()] != 0.0)

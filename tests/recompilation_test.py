# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Densities with functions of their own are not compiled for every call.

XLA takes the shapes that the gradient of a function gets from it for constants
that depend on all arguments of the program, and compiles again for each of
their values. So there is to be no such gradient in what XLA compiles.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.internal import randomness
from tfp_nvi.posterior import space

tfd = tfp.distributions

X = np.float32([0.5, -1.0, 2.0])
Y = np.float32([1.0, 2.0, 3.0])


def compiled_gradient(fn, x):
  """A compiled gradient, and how many gradients of functions it has."""

  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = fn(x)
    return tape.gradient(y, x)

  concrete = tf.function(
    gradient, jit_compile=True, autograph=False
  ).get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
  functions = concrete.graph.as_graph_def().library.function
  return concrete, sum('backward' in f.signature.name for f in functions)


@tfd.JointDistributionCoroutineAutoBatched
def prior():
  yield tfd.Normal(0.0, 1.0, name='loc')


@tfd.JointDistributionCoroutineAutoBatched
def model():
  loc = yield tfd.Normal(0.0, 1.0, name='loc')
  yield tfd.Sample(tfd.Normal(loc, 1.0), 3, name='y')


def posterior():
  return model.experimental_pin(y=Y)


@tf.function
def log_prob(x):
  """That of the posterior, up to a constant, in the words of autograph."""
  squares = tf.zeros_like(x)
  for y in tf.constant(Y):
    squares += (x - y) ** 2
  return -0.5 * (x**2 + squares)


class Model(tf.Module):
  """The same as methods of an object."""

  def method(self, x):
    return log_prob.python_function(x)

  @tf.function
  def log_prob(self, x):
    return self.method(x)


FUNCTIONS = [
  log_prob,
  Model(),
  tf.function(Model().method),
  tf.function(functools.partial(Model.method, Model())),
  tf.function(lambda x: posterior().unnormalized_log_prob(x)),
  tf.function(posterior().unnormalized_log_prob),
]


def gradient(x):
  """That of the prior is -x, and that of the likelihood sum(Y) - 3 x."""
  return np.sum(Y) - 4.0 * x


@pytest.mark.parametrize('fn', [posterior().unnormalized_log_prob, log_prob])
def test_functions_have_gradients_by_themselves(fn):
  # Without which the tests below would hold of anything.
  _, count = compiled_gradient(fn, X)
  assert count > 0


@pytest.mark.parametrize(
  ('initial', 'density'),
  [
    (prior, posterior()),
    *((tfd.Normal(0.0, 1.0), density) for density in FUNCTIONS),
  ],
)
def test_paths(initial, density):
  path = nvi.GeometricPath(initial, density, num_densities=2)

  def target(x):
    state = tf.nest.pack_sequence_as(path.event_shape, [x])
    return path.log_prob(1, path.evaluate(1, state))

  concrete, count = compiled_gradient(target, X)
  assert count == 0
  np.testing.assert_allclose(concrete(tf.constant(X)), gradient(X), rtol=1e-5)


@pytest.mark.parametrize(
  ('target', 'initial'),
  [
    (posterior(), None),
    *((density, tfd.Normal(0.0, 1.0)) for density in FUNCTIONS),
  ],
)
@pytest.mark.parametrize('with_initial', [False, True])
def test_posteriors(target, initial, with_initial):
  vectors = space.VectorSpace(target, initial, None, randomness.as_seed(1))
  y = vectors.standardized(tf.constant(X[:, np.newaxis]))
  concrete, count = compiled_gradient(
    lambda y: vectors.log_probs(y, with_initial)[0], y
  )
  assert count == 0
  # By the chain rule: the standardized space has units of its own.
  np.testing.assert_allclose(
    concrete(y), vectors.scale * gradient(X)[:, np.newaxis], rtol=1e-5
  )

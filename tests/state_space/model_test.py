# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models are called with what their functions name, and checked.

Functions of different signatures that say the same give the same draws, which
are compared exactly.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.state_space import functions

tfd = tfp.distributions

SLOPES = np.array([0.5, 0.9, -0.3, 0.7], np.float32)
INPUTS = np.array([0.3, -1.0, 2.0, 0.1], np.float32)
X = np.array([0.5, -1.6, 4.0, 2.2], np.float32)


def call(fn, *args, values=('z', 'theta'), has_last=True, **kwargs):
  named = functions.call_with_named('fn', fn, values, ('t', 'u'), has_last)
  return named(*args, **kwargs)


def test_positional():
  """Under any names, as before."""
  assert call(lambda z, drift: (z, drift), 1, 2) == (1, 2)
  assert call(lambda _, __: (_, __), 1, 2) == (1, 2)
  assert call(lambda *args: args, 1, 2) == (1, 2)
  assert call(lambda z, drift, scale=3: (z, drift, scale), 1, 2) == (1, 2, 3)
  assert call(lambda z: z, 1, 2) == 1
  assert call(lambda: 0, 1, 2) == 0
  # Where a state comes first, whatever its name.
  assert call(lambda t, eta: (t, eta), 1, 2, t=3) == (1, 2)
  assert call(lambda u, eta: (u, eta), 1, 2, u=3) == (1, 2)


def test_extra_arguments():
  def everything(z, theta, t, u):
    return z, theta, t, u

  assert call(everything, 1, 2, t=3, u=4) == (1, 2, 3, 4)
  assert call(lambda z, theta, u: (z, theta, u), 1, 2, t=3, u=4) == (1, 2, 4)
  assert call(lambda z, t, theta: (z, t, theta), 1, 2, t=3) == (1, 3, 2)
  assert call(lambda z, theta, *, t: (z, theta, t), 1, 2, t=3) == (1, 2, 3)
  assert call(lambda z, theta, s=5, t=6: (s, t), 1, 2, t=3) == (5, 3)
  # Without a global state.
  assert call(lambda z, t: (z, t), 1, (), has_last=False, t=3) == (1, 3)
  assert call(lambda z, _: (z, _), 1, (), has_last=False) == (1, ())
  assert call(lambda z: z, 1, (), has_last=False) == 1
  assert call(lambda z, scale=5: (z, scale), 1, (), has_last=False) == (1, 5)
  one = dict(values=('theta',), has_last=False)
  assert call(lambda: 0, (), **one) == 0
  assert call(lambda _: _, (), **one) == ()
  assert call(lambda u: u, (), u=4, **one) == 4


@pytest.mark.parametrize(
  'fn, match',
  [
    (lambda a, b, c: None, r'`fn` must be .* \(z, theta.*got one of \(a, b, c'),
    (lambda z, t: None, r'`fn` names `t` and must .* all of \(z, theta\)'),
    (lambda z, theta, u: None, '`u` is not there; `input_example`'),
  ],
)
def test_bad_signatures(fn, match):
  with pytest.raises(ValueError, match=match):
    functions.call_with_named('fn', fn, ('z', 'theta'), ('t',))


def without_prior(style):
  """One model, written in several ways."""
  one = tf.constant(1.0)
  if style == 'old':
    return nvi.StateSpaceModel(
      None,
      lambda _: tfd.Normal(0.0, one),
      lambda z, _: tfd.Normal(0.5 * z, one),
      lambda z, _: tfd.Normal(z, one),
    )
  return nvi.StateSpaceModel(
    None,
    lambda: tfd.Normal(0.0, one),
    lambda z: tfd.Normal(0.5 * z, one),
    lambda z: tfd.Normal(z, one),
  )


def test_without_a_global_state():
  results = []
  for style in ('old', 'new'):
    model = without_prior(style)
    sampler = nvi.StateSpaceSampler(
      model,
      proposal_fn={
        'old': lambda x, z, _: tfd.Normal(0.5 * x, 1.0),
        'new': lambda x: tfd.Normal(0.5 * x, 1.0),
      }[style],
      heuristic=nvi.IndependentHeuristic(
        {
          'old': lambda _: tfd.Normal(0.0, 1.5),
          'new': lambda: tfd.Normal(0.0, 1.5),
        }[style]
      ),
    )
    posterior = sampler.sample(X, 5, seed=1, jit_compile=False)
    results.append((model.simulate(3, [2], seed=1), posterior))
  for x, y in zip(*map(tf.nest.flatten, results), strict=True):
    np.testing.assert_array_equal(x, y)


def time_varying(reads_inputs):
  """A slope for each step, by its index or as an input; theta is a shift."""
  slopes = tf.constant(SLOPES)
  if reads_inputs:
    return nvi.StateSpaceModel(
      prior=tfd.Normal(0.0, 1.0),
      initial_fn=lambda theta: tfd.Normal(theta, 1.0),
      transition_fn=lambda z, theta, u: tfd.Normal(
        u['slope'] * z + theta + u['push'], 0.5
      ),
      observation_fn=lambda z, theta, t, u: tfd.Normal(z + u['push'], 0.6),
      input_example={'slope': 0.0, 'push': 0.0},
    )
  push = tf.constant(INPUTS)
  return nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda theta: tfd.Normal(theta, 1.0),
    transition_fn=lambda z, theta, t: tfd.Normal(
      slopes[t] * z + theta + push[t], 0.5
    ),
    observation_fn=lambda z, theta, t: tfd.Normal(z + push[t], 0.6),
  )


def exact_log_likelihood():
  """That of `time_varying`, from its joint Gaussian over observations."""
  num_steps = len(X)
  # Each state as a linear function of theta, the first noise, and the others.
  loadings = np.zeros([num_steps, 1 + num_steps])
  mean = np.zeros(num_steps)
  loadings[0, 0], loadings[0, 1] = 1.0, 1.0
  for k in range(1, num_steps):
    loadings[k] = SLOPES[k] * loadings[k - 1]
    loadings[k, 0] += 1.0
    loadings[k, 1 + k] = 0.5
    mean[k] = SLOPES[k] * mean[k - 1] + INPUTS[k]
  covariance = loadings @ loadings.T + 0.36 * np.eye(num_steps)
  return tfd.MultivariateNormalTriL(
    mean + INPUTS, np.linalg.cholesky(covariance)
  ).log_prob(X.astype(np.float64))


@pytest.mark.parametrize('reads_inputs', [False, True])
def test_steps_and_inputs(reads_inputs):
  """Of 20,000 particles the log normalizer has an error below 0.02."""
  sampler = nvi.StateSpaceSampler(
    time_varying(reads_inputs),
    proposal_fn=lambda x, z, theta, t: tfd.Normal(
      0.5 * (x + theta) + 0.01 * tf.cast(t, tf.float32), 0.9
    ),
  )
  inputs = {'slope': SLOPES, 'push': INPUTS} if reads_inputs else None
  posterior = sampler.sample(X, 20_000, seed=1, inputs=inputs)
  assert posterior.log_normalizer_error < 0.02
  assert abs(float(posterior.log_normalizer) - exact_log_likelihood()) < 0.08


def test_both_ways_of_time_give_the_same_draws():
  """Also as a batch, and in simulations."""
  results = []
  inputs = {'slope': SLOPES, 'push': INPUTS}
  for reads_inputs in (False, True):
    model = time_varying(reads_inputs)
    given = inputs if reads_inputs else None
    x = model.simulate(4, [3], seed=2, inputs=given)
    sampler = nvi.StateSpaceSampler(model)
    posterior = sampler.sample(
      x[-1], 7, seed=1, inputs=given, jit_compile=False
    )
    estimate, _ = nvi.reverse_kl()(
      sampler(x[-1], inputs=given), 7, tf.constant([1, 2])
    )
    results.append((x, posterior, estimate.loss))
  for x, y in zip(*map(tf.nest.flatten, results), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'reads_inputs, inputs, match',
  [
    (True, None, '`inputs` must be given'),
    (False, [1.0], '`inputs` must be given .* only then'),
    (
      True,
      {'slope': SLOPES[:3], 'push': INPUTS},
      r'`inputs` .* \[4\]; got \[3',
    ),
    (True, {'slope': 'x', 'push': INPUTS}, '`inputs` must be Tensors'),
    (True, {'slope': SLOPES}, '`inputs` must be Tensors'),
  ],
)
def test_bad_inputs(reads_inputs, inputs, match):
  model = time_varying(reads_inputs)
  with pytest.raises(ValueError, match=match):
    model.simulate(4, seed=1, inputs=inputs)
  with pytest.raises(ValueError, match=match):
    nvi.StateSpaceSampler(model)(X, inputs=inputs)


def test_inputs_must_have_an_example():
  with pytest.raises(ValueError, match='`transition_fn` .*`input_example`'):
    dataclasses.replace(
      time_varying(False),
      transition_fn=lambda z, theta, u: tfd.Normal(z, 1.0),
    )


@pytest.mark.parametrize(
  'name, fn',
  [
    ('initial_fn', lambda theta: tfd.Normal(theta, -1.0)),
    ('transition_fn', lambda z, theta: tfd.Normal(z, np.float32(np.nan))),
    ('observation_fn', lambda z: tfd.Gamma(1.0, -tf.exp(z))),
    (
      'observation_fn',
      lambda z: tfd.Independent(tfd.Normal(tf.stack([z, z], -1), -1.0), 1),
    ),
  ],
)
def test_negative_scales(name, fn):
  with pytest.raises(ValueError, match=f'`{name}` must .* not negative'):
    dataclasses.replace(time_varying(False), **{name: fn})


def test_negative_scales_of_some_states():
  """Which the draws of the construction do not reach."""
  model = dataclasses.replace(
    time_varying(False),
    transition_fn=lambda z, theta, t: tfd.Normal(
      z, tf.cast(2 - t, tf.float32) + 0.0 * z
    ),
  )
  model.simulate(3, [2], seed=1)
  with pytest.raises(ValueError, match='`transition_fn` must .* `scale`.* -1'):
    model.simulate(4, [2], seed=1)


def test_shapes_of_simulations():
  model = without_prior('new')
  with pytest.raises(TypeError, match='`sample_shape` must be a list'):
    model.simulate(2, 'x')
  with pytest.raises(TypeError, match='`num_steps` must .* got 2.5'):
    model.simulate(2.5)
  x = [model.simulate(2, seed=seed)[-1] for seed in (3, [0, 3], [0, 4])]
  np.testing.assert_array_equal(x[0], x[1])
  assert np.all(x[0] != x[2])

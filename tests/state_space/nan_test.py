# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Log densities that are NaN count as zero density, and are reported."""

import dataclasses
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

NAN = float('nan')
X = np.zeros([2, 4], np.float32)


def nan_where(condition, x):
  return tf.where(condition, tf.constant(NAN), x)


def make_model():
  return nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda eta: tfd.Normal(tf.zeros_like(eta), 0.1),
    transition_fn=lambda z, eta: tfd.Normal(z, 1.0),
    observation_fn=lambda z, eta: tfd.Normal(z, 1.0),
  )


class Cut(tfd.Normal):
  """Without a density, or with one that is NaN, where its location is large."""

  def __init__(self, loc, value):
    super().__init__(loc, tf.ones_like(loc))
    self._value = value

  def _log_prob(self, x):
    log_prob = super()._log_prob(x)
    return tf.where(self.loc > 1.0, tf.constant(self._value), log_prob)


def cut_model(value):
  model = make_model()
  return dataclasses.replace(model, observation_fn=lambda z, eta: Cut(z, value))


def sample(sampler, **arguments):
  return sampler.sample(X, 200, **{'seed': 1, **arguments})


@pytest.mark.parametrize('jit_compile', [False, True])
def test_as_zero_density(jit_compile):
  """The same weights, but for the count."""
  sampler = nvi.StateSpaceSampler(cut_model(-float('inf')))
  expected = sample(sampler, jit_compile=jit_compile)
  sampler = nvi.StateSpaceSampler(cut_model(NAN))
  with pytest.warns(
    RuntimeWarning,
    match=r'`observation_fn` must return log densities that are numbers .* NaN'
    r'.* at step 2 of sequence \[0\]\. Of all particles and steps, \d+ were',
  ):
    posterior = sample(sampler, jit_compile=jit_compile)
  np.testing.assert_array_equal(posterior.log_weights, expected.log_weights)
  np.testing.assert_array_equal(posterior.root, expected.root)
  assert not np.any(expected.num_nan)
  assert posterior.num_nan.shape == [2] and np.all(posterior.num_nan > 0)
  # Once for each sampler.
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    sample(sampler, jit_compile=jit_compile)
  with pytest.raises(ValueError, match='`observation_fn` must .* NaN'):
    sample(sampler, jit_compile=jit_compile, strict=True)


def test_particles_count_once():
  """Without resampling, the NaN of particles without weight is no news."""
  model = make_model()
  sampler = nvi.StateSpaceSampler(
    model,
    # NaN above one, and then for ever.
    proposal_fn=lambda x, z, eta: tfd.Normal(
      tf.zeros_like(eta) if z is None else nan_where(z > 1.0, z), 1.0
    ),
    resample_criterion_fn=nvi.never,
  )
  with pytest.warns(RuntimeWarning, match='`proposal_fn` must'):
    posterior = sample(sampler)
  has_weight = posterior.log_weights.numpy() > -np.inf
  np.testing.assert_array_equal(posterior.num_nan, np.sum(~has_weight, axis=0))
  assert np.all(np.isfinite(posterior.expectation(lambda _, z: z)))


class Of(nvi.Heuristic):
  def __init__(self, log_factor_fn):
    super().__init__()
    self._log_factor_fn = log_factor_fn

  def prepare(self, observations, is_observed, global_state):
    return tf.zeros([X.shape[-1]] + global_state.shape)

  def log_factor(self, row, global_state, local_state):
    return self._log_factor_fn(row, global_state, local_state)


@pytest.mark.parametrize(
  'is_all', [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  'name, level',
  [
    ('prior', 0),
    ('initial_proposal_fn', 0),
    ('heuristic', 0),
    ('initial_fn', 1),
    ('heuristic', 1),
    ('proposal_fn', 1),
    ('transition_fn', 2),
    ('observation_fn', 2),
  ],
)
def test_names(name, level, is_all):
  """The function and the step are named, whichever it is."""

  class Bad(tfd.Normal):
    """NaN above a half, or everywhere."""

    def _log_prob(self, x):
      log_prob = super()._log_prob(x)
      return nan_where(
        tf.ones_like(log_prob, tf.bool) if is_all else x > 0.5, log_prob
      )

  def normal(of, loc, step=1):
    # Before the step all is well.
    return (Bad if (of, step) == (name, level) else tfd.Normal)(loc, 1.0)

  class BadAt(nvi.Heuristic):
    def prepare(self, observations, is_observed, global_state):
      return tf.zeros([X.shape[-1]] + global_state.shape)

    def log_factor(self, row, global_state, local_state):
      if name != 'heuristic' or (local_state is None) != (level == 0):
        return row
      return nan_where(
        tf.ones_like(row, tf.bool) if is_all else global_state > 0.5, row
      )

  class BadLikelihood(tfd.Normal):
    """The same by its location, from the second step on."""

    def __init__(self, loc, scale, t):
      super().__init__(loc, scale)
      self._t = t

    def _log_prob(self, x):
      is_bad = (self._t > 0) & ((self.loc > 0.5) | is_all)
      return nan_where(is_bad, super()._log_prob(x))

  def observation_fn(z, eta, t):
    if name != 'observation_fn':
      return tfd.Normal(z, 1.0)
    return BadLikelihood(z, 1.0, t)

  model = nvi.StateSpaceModel(
    prior=normal('prior', 0.0, 0),
    initial_fn=lambda eta: normal('initial_fn', eta),
    transition_fn=lambda z, eta: normal('transition_fn', z, 2),
    observation_fn=observation_fn,
  )
  arguments = dict(heuristic=BadAt())
  if name == 'initial_proposal_fn':
    arguments['initial_proposal_fn'] = lambda x: normal(
      name, tf.zeros([X.shape[0]]), 0
    )
  if name == 'proposal_fn':
    arguments['proposal_fn'] = lambda x, z, eta: normal(
      name, tf.zeros_like(eta)
    )
  sampler = nvi.StateSpaceSampler(model, **arguments)
  where = f'at step {level}' if level else 'before the first step'
  if is_all:
    match = f'weight {where}.*: `{name}` must .* NaN.* {where}'
    if (name, level) == ('heuristic', 0):
      # Found before, when the sampler is made for some sequences.
      match = '`heuristic` must .* NaN for all of 16 draws'
    with pytest.raises(ValueError, match=match):
      sample(sampler, jit_compile=False)
    return
  with pytest.warns(RuntimeWarning, match=f'`{name}` must .* NaN.* {where}'):
    posterior = sample(sampler, jit_compile=False)
  assert np.all(posterior.num_nan > 0)


def test_within_a_function():
  """Values are not known, so that nobody is told, but the count is there."""
  sampler = nvi.StateSpaceSampler(
    make_model(),
    heuristic=Of(lambda row, eta, z: nan_where(eta > 0.0, row)),
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    posterior = tf.function(lambda: sample(sampler), autograph=False)()
  assert np.all(posterior.num_nan > 50)
  assert np.all(np.isfinite(posterior.log_normalizer))


@pytest.mark.parametrize('reparameterize', [False, True])
def test_training(reparameterize):
  """NaN is counted, and otherwise is what zero density is."""
  results = []
  for value in (-float('inf'), NAN):
    loc = tf.Variable(0.2)
    sampler = nvi.StateSpaceSampler(
      cut_model(value),
      proposal_fn=lambda x, z, eta, loc=loc: tfd.Normal(
        loc + (tf.zeros_like(eta) if z is None else z), 1.0
      ),
      reparameterize=reparameterize,
    )
    estimate, gradients = nvi.forward_kl(level_by_level=reparameterize)(
      sampler(X), 50, tf.constant([1, 2])
    )
    results.append((estimate, [gradient for gradient, _ in gradients]))
  assert results[0][0].num_nan == 0 and results[1][0].num_nan > 0
  for _, (gradient,) in results:
    assert np.isfinite(gradient) and gradient != 0.0
  np.testing.assert_array_equal(results[0][0].loss, results[1][0].loss)
  if not reparameterize:
    # Else the prior has a gradient by a state of zero density, but not of NaN.
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bad arguments of every public name give an error that names the argument.

Calls are generated from signatures: each parameter of each public function and
class takes each of `BAD_VALUES` in turn, while the others have valid values. A
call may succeed, as a bad value for one parameter is a good one for another.
If it fails, its error must be a TypeError, a ValueError or an ImportError that
names the parameter. If it succeeds, no number that it returns may be NaN. The
parameter `name` is left out: as in TFP, TensorFlow checks it.

A new public name is covered when it appears: `test_every_parameter_is_covered`
fails until `VALID` knows a value for each parameter that has no default.
"""

import functools
import inspect
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi

tfd, tfb = tfp.distributions, tfp.bijectors

# The share of calls that may fail with an error that names no argument.
MAX_OBSCURE = 0.02


class Opaque:
  """An object of no use to anybody."""

  def __repr__(self):
    return 'Opaque()'


BAD_VALUES = {
  'None': None,
  'str': 'a',
  'strs': ['a', 'b'],
  'object': Opaque(),
  'empty': [],
  'negative': -1,
  'zero': 0,
  'fraction': 0.5,
  'nan': float('nan'),
  'nans': [float('nan'), float('nan')],
  'infinite': float('inf'),
  'ints': tf.constant([1, 2, 3]),
  'floats': tf.constant([[[0.5, 0.25, 0.125]]]),
  'function': lambda *args: Opaque(),
}


@functools.cache
def make_path():
  return nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0), num_densities=3
  )


@functools.cache
def make_transitions():
  return nvi.GaussianTransitions(make_path(), [3], seed=1)


@functools.cache
def make_sampler():
  return nvi.NestedSampler(make_path(), make_transitions())


@functools.cache
def make_model():
  return nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.2),
  )


@functools.cache
def make_discrete_model():
  def switch(drift):
    return tfd.Categorical(logits=tf.stack([drift, -drift], axis=-1))

  return nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=switch,
    transition_fn=lambda z, drift: switch(drift),
    observation_fn=lambda z, drift: tfd.Normal(tf.cast(z, tf.float32), 1.0),
  )


@functools.cache
def make_filter():
  return nvi.StateSpaceSampler(
    make_model(), proposal_fn=lambda x, z, drift: tfd.Normal(drift, 1.0)
  )


def make_linear_gaussian(*states):
  del states
  noise = tfd.MultivariateNormalDiag(scale_diag=[0.5])
  return tfd.LinearGaussianStateSpaceModel(
    num_timesteps=2,
    transition_matrix=[[0.9]],
    transition_noise=noise,
    observation_matrix=[[1.0]],
    observation_noise=noise,
    initial_state_prior=noise,
  )


@functools.cache
def make_joint():
  return tfd.JointDistributionNamed(
    {
      'level': tfd.MarkovChain(
        tfd.Normal(0.0, 1.0), lambda t, z: tfd.Normal(z, 1.0), num_steps=3
      ),
      'series': lambda level: tfd.Independent(tfd.Normal(level, 1.0), 1),
    }
  )


class CheapObjective(nvi.Objective):
  """An objective that takes no time: calls of `fit` are many."""

  def __call__(self, sampler, num_particles, seed):
    variable = sampler.trainable_variables[0]
    zero = tf.zeros([])
    estimate = nvi.Estimate(
      loss=zero,
      log_normalizer=zero,
      effective_sample_size=zero + num_particles,
      log_incremental_weights=tf.zeros([2]),
      level_effective_sample_sizes=tf.zeros([2]) + num_particles,
      num_nan=tf.constant(0),
    )
    return estimate, [(tf.ones_like(variable), variable)]


def make_level():
  loc = tf.Variable(0.5)
  return nvi.Level(tfd.Normal(loc, 1.0), tfd.Normal(0.0, 1.0), [loc])


LOG_WEIGHTS = tf.constant([0.0, 1.0, -1.0])
# Values by the name of the parameter. What takes long to make is made once.
VALID = {
  'base': lambda: tfd.MultivariateNormalDiag([0.0, 0.0]),
  'bijector': lambda: tfb.Shift(1.0),
  'block': lambda: 'x',
  'csiszar_function': lambda: tfp.vi.kl_reverse,
  'densities': make_path,
  'discriminator': lambda: tf_keras.layers.Dense(1),
  'distribution_fn': lambda: lambda eta: tfd.Normal(eta, 1.0),
  'event_size': lambda: 3,
  'feature_fn': lambda: lambda x: x[..., tf.newaxis],
  'forward_fn': lambda: lambda y: tfd.Normal(y, 1.0),
  'initial': lambda: tfd.Normal(0.0, 1.0),
  'initial_fn': lambda: lambda drift: tfd.Normal(drift, 1.0),
  'kernel_fn': lambda: lambda z: tfd.Normal(z['y'], 1.0),
  'levels': lambda: [make_level()],
  'log_joint_fn': lambda: (
    lambda z, x: (
      tfd.Normal(0.0, 1.0).log_prob(z) + tfd.Normal(z, 1.0).log_prob(x)
    )
  ),
  'log_probs': lambda: tf.math.log([0.5, 0.25, 0.25]),
  'log_threshold': lambda: 0.0,
  'log_weights': lambda: LOG_WEIGHTS,
  'make_kernel_fn': lambda: (
    lambda target_log_prob_fn: tfp.mcmc.RandomWalkMetropolis(target_log_prob_fn)
  ),
  'model': make_model,
  'num_chains': lambda: 2,
  'num_densities': lambda: 3,
  'num_inputs': lambda: 2,
  'num_outputs': lambda: 3,
  'num_particles': lambda: 4,
  'num_steps': lambda: 1,
  'objective': nvi.reverse_kl,
  'observation_fn': lambda: lambda z, drift: tfd.Normal(z, 1.0),
  'observations': lambda: tf.constant([0.1, 0.2]),
  'optimizers_and_trainables': lambda: [
    (tf_keras.optimizers.SGD(0.1), [tf.Variable(0.0)])
  ],
  'particles': lambda: tf.constant([1.0, 2.0, 3.0]),
  'prior': lambda: tfd.Normal(0.0, 1.0),
  'probabilities': lambda: [0.05, 0.5],
  'proposal': lambda: tfd.Normal(0.0, 1.0),
  'proposal_fn': lambda: lambda x: tfd.Normal(x, 1.0),
  'proposal_log_ratios': lambda: tf.constant([0.5, -1.0]),
  'resample_fn': lambda: nvi.resample_systematic,
  'reverse_fn': lambda: lambda z: tfd.Normal(z, 1.0),
  'sampler': make_sampler,
  'seed': lambda: 1,
  'target': lambda: tfd.Normal(1.0, 1.0),
  'target_log_ratios': lambda: tf.constant([0.5, 1.0]),
  'transition_fn': lambda: lambda z, drift: tfd.Normal(z + drift, 1.0),
  'transitions': make_transitions,
  'trainables': lambda: [tf.Variable(0.0)],
  'values': lambda: tf.constant([0.5, 1.0, 2.0]),
  'weight_fn': lambda: lambda eta: eta[..., tf.newaxis],
  'weighted_particles': lambda: nvi.WeightedParticles(LOG_WEIGHTS, LOG_WEIGHTS),
  'weights': lambda: tf.constant([0.5, 0.25, 0.25]),
}
# Values by the name of a function and of its parameter, where the name of the
# parameter does not say enough; with keyword arguments that keep calls short.
VALID_FOR = {
  ('Composition', 'transitions'): lambda: [
    nvi.BijectorTransition(tfb.Shift(1.0))
  ],
  ('ConditionalFilter', 'global_state'): lambda: tf.constant(0.5),
  ('ConditionalFilter', 'sampler'): make_filter,
  ('ExplicitDensities', 'densities'): lambda: [
    tfd.Normal(0.0, 1.0),
    tfd.Normal(1.0, 1.0),
  ],
  ('GeometricPath', 'num_densities'): lambda: 3,
  ('HiddenMarkovHeuristic', 'model'): make_discrete_model,
  ('OnlineFilter', 'sampler'): make_filter,
  ('log_likelihood', 'jit_compile'): lambda: False,
  ('log_likelihood', 'num_densities'): lambda: 2,
  ('ParticleMetropolis', 'sampler'): make_filter,
  ('StackedPerceptron', 'num_levels'): lambda: 2,
  ('StackedPerceptron', 'batch_shape'): lambda: [],
  ('StackedPerceptron', 'num_units'): lambda: [2, 3, 1],
  ('fit', 'objective'): CheapObjective,
  ('fit', 'progress'): lambda: False,
  ('fit', 'steps_per_call'): lambda: 2,
  ('fit', 'jit_compile'): lambda: False,
  ('joint_distribution_model', 'joint'): make_joint,
  ('joint_distribution_model', 'local'): lambda: 'level',
  ('joint_distribution_model', 'observation'): lambda: 'series',
  ('linear_gaussian_model', 'make_fn'): lambda: make_linear_gaussian,
  ('planar_flow_density', 'event_size'): lambda: 2,
  ('planar_flow_density', 'num_layers'): lambda: 2,
  ('structural_time_series_model', 'source'): lambda: tfp.sts.LocalLevel(
    observed_time_series=[0.1, 0.5, 0.3]
  ),
  ('start_chains', 'particles'): lambda: nvi.WeightedParticles(
    tf.constant([1.0, 2.0, 3.0]), LOG_WEIGHTS
  ),
}
# `fit_posterior`, `fit_state_space`, `smc_squared`, `smooth`, `save` and `load`
# take seconds for each call that succeeds; their tests have bad calls of their
# own. Plain tuples, warnings and errors hold any values; functions make
# `Posterior`, `SavedSampler`, `SequenceBound` and `SequentialPosterior`, and
# `Side` is an enumeration.
NOT_CALLED = {
  'CollapseWarning',
  'MissingMassWarning',
  'Estimate',
  'FilterHistory',
  'History',
  'LogLikelihood',
  'Move',
  'OnlineState',
  'Posterior',
  'RatioWeightedParticles',
  'SavedSampler',
  'SequenceBound',
  'SequentialPosterior',
  'Side',
  'SmoothedDraws',
  'StateSpacePosterior',
  'StateSpaceState',
  'Trace',
  'TrainingError',
  'TrainingInterrupted',
  'WeightedParticles',
  'fit_posterior',
  'fit_state_space',
  'load',
  'save',
  'smc_squared',
  'smooth',
}


def public_calls():
  """Yields (name, callable, signature) for the public functions and classes."""
  for name in nvi.__all__:
    fn = getattr(nvi, name)
    if not callable(fn) or name in NOT_CALLED:
      continue
    if inspect.isclass(fn) and inspect.isabstract(fn):
      continue
    yield name, fn, inspect.signature(fn)


def valid_arguments(name, signature):
  """Valid values for the parameters that need one; names those unknown."""
  arguments, unknown = {}, []
  for parameter in signature.parameters.values():
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
      continue
    make = VALID_FOR.get((name, parameter.name))
    if make is None and parameter.default is parameter.empty:
      make = VALID.get(parameter.name)
      if make is None:
        unknown.append(parameter.name)
        continue
    if make is not None:
      arguments[parameter.name] = make()
  return arguments, unknown


def has_nan(result):
  """Whether there is a NaN among the numbers that a call returned."""
  for leaf in tf.nest.flatten(result):
    if isinstance(leaf, (tf.Tensor, np.ndarray, float)):
      values = np.asarray(leaf)
      if values.dtype.kind == 'f' and np.isnan(values).any():
        return True
  return False


def judge(fn, arguments, parameter):
  """'fine', or what is wrong with a call that has one bad argument."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      result = fn(**arguments)
  except (TypeError, ValueError, ImportError) as e:
    if f'`{parameter}' in str(e):
      return 'fine'
    return f'obscure: {type(e).__name__}: {str(e)[:150]}'
  except Exception as e:  # Whatever comes is to be reported.
    return f'obscure: {type(e).__name__}: {str(e)[:150]}'
  return 'silent NaN' if has_nan(result) else 'fine'


@pytest.mark.parametrize('name', [name for name, _, _ in public_calls()])
def test_every_parameter_is_covered(name):
  signature = inspect.signature(getattr(nvi, name))
  arguments, unknown = valid_arguments(name, signature)
  assert not unknown, f'add {unknown} to VALID, for the calls of {name}'
  result = getattr(nvi, name)(**arguments)
  assert not has_nan(result)


def test_errors_name_the_argument(tmp_path, monkeypatch):
  # A bad value such as 'a' is a good name of a folder.
  monkeypatch.chdir(tmp_path)
  verdicts = {}
  for name, fn, signature in public_calls():
    for parameter in signature.parameters.values():
      if parameter.name == 'name' or parameter.kind in (
        parameter.VAR_KEYWORD,
        parameter.VAR_POSITIONAL,
      ):
        continue
      for label, value in BAD_VALUES.items():
        arguments, _ = valid_arguments(name, signature)
        arguments[parameter.name] = value
        call = f'{name}({parameter.name}={label})'
        verdicts[call] = judge(fn, arguments, parameter.name)
  silent = [
    call for call, verdict in verdicts.items() if verdict == 'silent NaN'
  ]
  assert not silent, silent
  obscure = [f'{c}: {v}' for c, v in verdicts.items() if 'obscure' in v]
  assert len(obscure) <= MAX_OBSCURE * len(verdicts), '\n'.join(obscure)


def test_judge_tells_good_errors_from_bad_ones():
  def fn(x):
    if x == 'named':
      raise ValueError('`x` must be something else; got named.')
    if x == 'unnamed':
      raise ValueError('Expected something else.')
    if x == 'other':
      raise KeyError('`x`')
    return float('nan') if x == 'nan' else 1.0

  assert judge(fn, dict(x='named'), 'x') == 'fine'
  assert judge(fn, dict(x=1), 'x') == 'fine'
  assert 'obscure' in judge(fn, dict(x='unnamed'), 'x')
  assert 'obscure' in judge(fn, dict(x='other'), 'x')
  assert judge(fn, dict(x='nan'), 'x') == 'silent NaN'

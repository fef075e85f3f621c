# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports to ArviZ, both before and after its version 1.

Contract: exported arrays have the axes `(chain, draw) + batch + event`. ArviZ
does not support weights, so particles are resampled by their weights, and keep
their order. Copies of a particle are then next to each other, where effective
sample sizes by autocorrelation account for them. These sizes do not account for
common ancestors of particles; `standard_error` of the particles does.

ArviZ before version 1 returns its `InferenceData`, and from then on a
`DataTree` of xarray. Both have the same groups and names.
"""

import collections.abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import resampling, version, weighting
from tfp_nvi.diagnostics import groups as groups_lib
from tfp_nvi.internal import checks, naming, randomness, types
from tfp_nvi.posterior import Posterior
from tfp_nvi.state_space.model import StateSpaceModel
from tfp_nvi.state_space.posterior import StateSpacePosterior

__all__ = [
  'make_data',
  'particles_to_arviz',
  'posterior_to_arviz',
  'state_space_posterior_to_arviz',
]


def _import_arviz():
  try:
    import arviz
  except ImportError as e:
    raise ImportError(
      '`to_arviz` needs ArviZ: pip install "tfp-nvi[arviz]".'
    ) from e
  return arviz


def make_data(
  groups: dict, coords: dict | None, dims: dict, attributes: dict
) -> Any:
  """Makes the data of ArviZ, without empty groups.

  Args:
    groups: Python `dict` from names of groups to `dict`s from names of
      variables to arrays.
    coords: Python `dict` from names of axes to labels, or `None` for none.
    dims: Python `dict` from names of variables to names of axes.
    attributes: Python `dict`: attributes of the first group.

  Returns:
    data: `arviz.InferenceData` or `xarray.DataTree`.

  ```python
  import numpy as np
  from tfp_nvi.diagnostics import export

  data = export.make_data({'posterior': {'x': np.zeros([1, 3])}}, {}, {}, {})
  assert data.posterior['x'].shape == (1, 3)
  ```
  """
  arviz = _import_arviz()
  groups = {
    group: {name: np.asarray(x) for name, x in variables.items()}
    for group, variables in groups.items()
    if variables
  }
  if int(arviz.__version__.split('.')[0]) >= 1:
    data = arviz.from_dict(groups, coords=coords, dims=dims)
  else:
    data = arviz.from_dict(**groups, coords=coords, dims=dims)
  data[next(iter(groups))].attrs.update(
    inference_library='tfp_nvi',
    inference_library_version=version.__version__,
    **{name: _as_attribute(x) for name, x in attributes.items()},
  )
  return data


def _as_attribute(value):
  """Returns a value that files can store: text, a number, or a flat list."""
  if isinstance(value, str):
    return value
  value = np.asarray(value)
  return value.item() if value.ndim == 0 else value.ravel().tolist()


def _axis_names(named, leading, dims):
  """Returns the names of all axes of variables.

  Args:
    named: Python `dict` from names of variables to arrays of shape
      `[num_chains, num_draws] + leading + event`.
    leading: List of Python `str`s: names of the axes before the event.
    dims: Python `dict` from names of variables to names of axes of events, or
      `None`.

  Returns:
    dims: Python `dict` from names of variables to names of axes.
  """
  result = {}
  for name, x in named.items():
    num_axes = np.ndim(x) - 2 - len(leading)
    own = (dims or {}).get(name)
    if own is None:
      own = []
    elif isinstance(own, str) or len(own) > num_axes:
      raise ValueError(
        f'`dims` must have a list of {num_axes} names of axes for {name!r}; '
        f'got {own!r}.'
      )
    own = [*own, *(f'{name}_dim_{i}' for i in range(len(own), num_axes))]
    result[name] = [*leading, *own]
  return {**(dims or {}), **result}


def _check_dims(dims):
  """Raises an error if the names of axes are not a `dict`."""
  checks.check_instance(
    'dims',
    dims,
    collections.abc.Mapping,
    'a dict from variables to lists of names of axes',
    optional=True,
  )


def _batch_names(num_axes, name='batch'):
  return [name] if num_axes == 1 else [f'{name}_{i}' for i in range(num_axes)]


def _resample_chains(values, log_weights, seed, num_draws=None):
  """Draws particles by their weights.

  Args:
    values: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    seed: Python `int` or stateless seed.
    num_draws: Python `int`, or `None` for as many as there are.

  Returns:
    values: The draws.
    log_weights: The log weights that the particles had before.

  Raises:
    ValueError: If no particle of some member of the batch has weight.
  """
  log_weights = tf.convert_to_tensor(log_weights)
  if bool(tf.reduce_any(tf.math.is_inf(weighting.log_normalizer(log_weights)))):
    raise ValueError(
      '`particles` must have weight to be drawn from; all weights of a member '
      'of the batch are zero.'
    )
  (values, log_weights), _ = resampling.resample(
    (values, log_weights),
    log_weights,
    resampling.resample_systematic,
    randomness.as_seed(seed),
    num_draws=num_draws,
  )
  return values, log_weights


def _model_groups(model, draws, seed, num_prior_draws):
  """Returns groups of a pinned model, for draws with axes `[chain, draw]`."""
  num_chains, num_draws = tf.nest.flatten(draws)[0].shape[:2]
  found = groups_lib.observe_pinned(
    model,
    tf.nest.map_structure(
      lambda x: tf.reshape(x, [num_chains * num_draws] + x.shape[2:].as_list()),
      draws,
    ),
    seed,
    num_prior_draws,
  )
  return _split_chains(found, num_chains, num_draws)


def _split_chains(found, num_chains, num_draws):
  """Returns the groups of ArviZ, with axes `[chain, draw]`."""

  def split(named):
    return {
      name: tf.reshape(x, [num_chains, num_draws] + x.shape[1:].as_list())
      for name, x in named.items()
    }

  def as_one_chain(named):
    return {name: x[tf.newaxis] for name, x in named.items()}

  stats = {} if found.log_prob is None else {'lp': found.log_prob}
  return {
    'sample_stats': split(stats),
    'log_likelihood': split(found.log_likelihood),
    'posterior_predictive': split(found.predictive),
    'observed_data': found.observed,
    'prior': as_one_chain(found.prior),
    'prior_predictive': as_one_chain(found.prior_predictive),
  }


def particles_to_arviz(
  particles: weighting.WeightedParticles,
  names: Sequence[str] | None = None,
  model: tfp.experimental.distributions.JointDistributionPinned | None = None,
  chain_axis: int | None = None,
  num_draws: int | None = None,
  num_prior_draws: int = 500,
  coords: dict | None = None,
  dims: dict | None = None,
  seed: types.Seed = 0,
) -> Any:
  """Exports properly weighted particles to ArviZ.

  Args:
    particles: `WeightedParticles` of shape `[num_particles] + batch + event`.
    names: List of Python `str`s: the variables, in the order of `tf.nest`.
      Default value: `None` (i.e., those of `model`, or of the structure; a
      single `Tensor` is named `x`).
    model: `JointDistributionPinned` whose posterior the particles represent. It
      adds the groups `log_likelihood`, with one value for each observed value,
      `posterior_predictive`, `observed_data`, `prior` and `prior_predictive`,
      and `lp` in `sample_stats`.
      Default value: `None`.
    chain_axis: Python `int`: the axis of the batch, from 0, whose members are
      independent runs for the same density, such as restarts. They become
      chains.
      Default value: `None` (i.e., there is one chain, and members of the batch
      are different densities).
    num_draws: Python `int`: draws in each chain.
      Default value: `None` (i.e., as many as particles).
    num_prior_draws: Python `int`: draws from the prior of `model`.
      Default value: `500`.
    coords: Python `dict` as in `arviz.from_dict`.
    dims: Python `dict` as in `arviz.from_dict`: names of the axes of events.
      Axes of the batch are named `batch`, or `batch_0` and so on.
    seed: Python `int` or stateless seed.
      Default value: `0`.

  Returns:
    data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

  Raises:
    ImportError: If ArviZ is not installed.
    TypeError: If an argument is of the wrong kind.
    ValueError: If `chain_axis` is not an axis of the batch, names and variables
      differ in number, `model` is not the model of the particles or is given
      for a batch of densities, or all weights are zero.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  particles = nvi.WeightedParticles(
    {'loc': tf.random.stateless_normal([100, 3], seed=[1, 2])},
    tf.zeros([100]),
  )
  data = particles.to_arviz(
    dims={'loc': ['town']}, coords={'town': ['A', 'B', 'C']}
  )
  assert data.posterior['loc'].dims == ('chain', 'draw', 'town')
  ```
  """
  checks.check_instance(
    'particles', particles, weighting.WeightedParticles, 'WeightedParticles'
  )
  values = tf.nest.map_structure(tf.convert_to_tensor, particles.particles)
  log_weights = tf.convert_to_tensor(particles.log_weights)
  num_batch = log_weights.shape.rank - 1
  if chain_axis is None:
    axis, num_others = None, num_batch
  else:
    axis = checks.as_count('chain_axis', chain_axis, 0)
    num_others = num_batch - 1
    if axis >= num_batch:
      raise ValueError(
        f'`chain_axis` must be less than {num_batch}, the number of axes of '
        f'the batch; got {axis}.'
      )
  if model is not None and num_others:
    raise ValueError(
      '`model` must be None for particles of several densities; got a batch '
      f'of shape {log_weights.shape[1:].as_list()} and `chain_axis` '
      f'{chain_axis}.'
    )
  resample_seed, model_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 2)
  )
  root = particles.root
  drawn, log_weights = _resample_chains(
    (values, () if root is None else root),
    log_weights,
    resample_seed,
    None if num_draws is None else checks.as_count('num_draws', num_draws),
  )

  def chains_first(x):
    if axis is None:
      return x[tf.newaxis]
    axes = list(range(x.shape.rank))
    axes.remove(axis + 1)
    return tf.transpose(x, [axis + 1] + axes)

  (values, root), log_weights = tf.nest.map_structure(
    chains_first, (drawn, log_weights)
  )
  stats = {'log_weight': log_weights}
  if tf.is_tensor(root):
    stats['root'] = root
  groups = {}
  if model is not None:
    groups = _model_groups(model, values, model_seed, num_prior_draws)
    if names is None:
      names = groups_lib.model_names(model, values)
  variables = _name_parts(values, names)
  _check_dims(dims)
  leading = _batch_names(num_others)
  return make_data(
    {
      'posterior': variables,
      **groups,
      'sample_stats': {**stats, **groups.get('sample_stats', {})},
    },
    coords,
    {
      **_axis_names(stats, leading, None),
      **_axis_names(variables, leading, dims),
    },
    {
      'log_normalizer': particles.log_normalizer,
      'log_normalizer_error': particles.log_normalizer_error,
      'effective_sample_size': particles.effective_sample_size,
    },
  )


def _name_parts(values, names):
  """Returns the parts of values by name; checks the number of names."""
  parts = tf.nest.flatten(values)
  if names is None:
    names = naming.leaf_names(values)
  names = list(names)
  if len(names) != len(parts):
    raise ValueError(
      f'`names` must be {len(parts)} names, one for each variable; got '
      f'{names!r}.'
    )
  reserved = sorted({'chain', 'draw'}.intersection(names))
  if reserved or len(set(names)) < len(names):
    raise ValueError(
      '`names` must be different, and not chain or draw, which are names of '
      f'axes; got {names!r}.'
    )
  return dict(zip(names, parts, strict=True))


def posterior_to_arviz(
  posterior: Posterior,
  model: tfp.experimental.distributions.JointDistributionPinned | None = None,
  num_prior_draws: int = 500,
  coords: dict | None = None,
  dims: dict | None = None,
  seed: types.Seed = 0,
) -> Any:
  """Exports the result of `fit_posterior` to ArviZ; the runs are the chains.

  All runs have the same number of draws, whatever their evidence. Prefer
  `expectation` of the posterior for estimates: it weights the runs by their
  evidence.

  Args:
    posterior: `Posterior`.
    model: As in `particles_to_arviz`.
      Default value: `None`.
    num_prior_draws: As in `particles_to_arviz`.
    coords: Python `dict` as in `arviz.from_dict`.
    dims: Python `dict` as in `arviz.from_dict`.
    seed: Python `int` or stateless seed.
      Default value: `0`.

  Returns:
    data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

  Raises:
    ImportError: If ArviZ is not installed.
    TypeError: If an argument is of the wrong kind.
    ValueError: If `model` is not that of the posterior.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, 3.0),
      'y': lambda mean: tfd.Sample(tfd.Normal(mean, 1.0), 4),
    }
  ).experimental_pin(y=[1.0, 2.0, 0.5, 1.5])
  posterior = nvi.fit_posterior(model, num_particles=200, num_runs=2, seed=1)
  data = posterior.to_arviz(model=model)
  assert data.posterior['mean'].shape == (2, 200)
  assert data.log_likelihood['y'].shape == (2, 200, 4)
  ```
  """
  num_runs = posterior.num_runs

  def split_runs(x):
    return tf.reshape(x, [-1, num_runs] + x.shape[1:].as_list())

  particles = posterior.particles
  data = particles_to_arviz(
    weighting.WeightedParticles(
      tf.nest.map_structure(split_runs, particles.particles),
      split_runs(particles.log_weights),
    ),
    names=posterior.names if model is None else None,
    model=model,
    chain_axis=0,
    num_prior_draws=num_prior_draws,
    coords=coords,
    dims=dims,
    seed=seed,
  )
  data['posterior'].attrs.update(
    log_evidence=posterior.log_evidence,
    log_evidence_error=posterior.log_evidence_error,
    start=posterior.start,
    warnings='\n'.join(posterior.warnings),
  )
  return data


def state_space_posterior_to_arviz(
  posterior: StateSpacePosterior,
  model: StateSpaceModel | None = None,
  observations: types.Structure | None = None,
  inputs: types.Structure | None = None,
  num_draws: int | None = None,
  num_prior_draws: int = 500,
  coords: dict | None = None,
  dims: dict | None = None,
  seed: types.Seed = 0,
) -> Any:
  """Exports the posterior of sequences to ArviZ, as one chain.

  The global state is named by its structure, or `theta` if it is a single
  `Tensor`. Trajectories are named likewise, or `z`, and have an axis `time`.
  Observations are named likewise, or `x`. Axes of the batch are named
  `sequence`, or `sequence_0` and so on.

  The log likelihood, with `model` and `observations`, is that of each
  observation given the states of its step. Leave-one-out cross-validation by it
  therefore leaves out an observation, but not its states. Leave out by hand the
  steps that were not observed or come after the end of a sequence.

  Args:
    posterior: `StateSpacePosterior`.
    model: `StateSpaceModel`, for the groups `log_likelihood`,
      `posterior_predictive`, `prior` and `prior_predictive`; needs
      `observations`.
      Default value: `None`.
    observations: As in `StateSpaceSampler.sample`, for the group
      `observed_data`.
      Default value: `None`.
    inputs: As in `StateSpaceSampler.sample`.
      Default value: `None`.
    num_draws: As in `particles_to_arviz`.
    num_prior_draws: As in `particles_to_arviz`.
    coords: Python `dict` as in `arviz.from_dict`.
    dims: Python `dict` as in `arviz.from_dict`.
    seed: Python `int` or stateless seed.
      Default value: `0`.

  Returns:
    data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

  Raises:
    ImportError: If ArviZ is not installed.
    TypeError: If an argument is of the wrong kind.
    ValueError: If `model` is given without `observations`, or for a posterior
      without trajectories, or all weights are zero.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  x = [0.1, 0.5, 0.8]
  posterior = nvi.StateSpaceSampler(model).sample(x, 100, seed=1)
  data = posterior.to_arviz(model, x)
  assert data.posterior['z'].dims == ('chain', 'draw', 'time')
  ```
  """
  checks.check_instance(
    'model', model, StateSpaceModel, 'a StateSpaceModel', optional=True
  )
  if model is not None and observations is None:
    raise ValueError('`observations` must be given with `model`; got None.')
  has_trajectories = bool(tf.nest.flatten(posterior.trajectories))
  if model is not None and not has_trajectories:
    raise ValueError(
      '`model` must be None for a posterior without trajectories; sample with '
      '`trajectories=True`.'
    )
  resample_seed, model_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 2)
  )
  states = posterior.global_state, posterior.trajectories
  (states, root), log_weights = _resample_chains(
    (states, posterior.root),
    posterior.log_weights,
    resample_seed,
    None if num_draws is None else checks.as_count('num_draws', num_draws),
  )
  if observations is not None:
    observations = groups_lib.as_observations(observations, model)
    if has_trajectories:
      _check_steps(observations, posterior)
  groups = {}
  if model is not None:
    groups = _split_chains(
      groups_lib.observe_states(
        model, states, observations, model_seed, inputs, num_prior_draws
      ),
      1,
      log_weights.shape[0],
    )
  elif observations is not None:
    groups = {'observed_data': groups_lib.name_observations(observations)}
  leading = _batch_names(log_weights.shape.rank - 1, 'sequence')

  def one_chain(named):
    return {name: x[tf.newaxis] for name, x in named.items()}

  variables = one_chain(groups_lib.name_states(*states))
  stats = one_chain({'log_weight': log_weights, 'root': root})
  num_global = len(tf.nest.flatten(states[0]))
  _check_dims(dims)
  all_dims = _axis_names(stats, leading, None)
  for i, (name, x) in enumerate(variables.items()):
    axes = leading if i < num_global else leading + ['time']
    all_dims |= _axis_names({name: x}, axes, dims)
  for name, x in groups.get('observed_data', {}).items():
    drawn = x[tf.newaxis, tf.newaxis]
    all_dims |= _axis_names({name: drawn}, leading + ['time'], dims)
  return make_data(
    {'posterior': variables, **groups, 'sample_stats': stats},
    coords,
    all_dims,
    {
      'log_normalizer': posterior.log_normalizer,
      'log_normalizer_error': posterior.log_normalizer_error,
      'num_ancestors': posterior.num_ancestors,
    },
  )


def _check_steps(observations, posterior):
  """Raises an error for observations of other sequences."""
  expected = tf.nest.flatten(posterior.trajectories)[0].shape[1:]
  expected = expected[: posterior.log_weights.shape.rank]
  for x in tf.nest.flatten(observations):
    if x.shape[: expected.rank] != expected:
      raise ValueError(
        '`observations` must be those of the posterior, whose batch and steps '
        f'are {expected.as_list()}; got shape {x.shape.as_list()}.'
      )

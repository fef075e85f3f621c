# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model at draws of its posterior, value by value.

The results are log densities of each observed value, replicated observations,
and draws of the prior. ArviZ keeps them in the groups `log_likelihood`,
`posterior_predictive` and `prior`. A model is run for one draw at a time, in a
compiled loop, so that it need not support leading axes.
"""

import collections.abc
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, compatibility, naming, randomness, types
from tfp_nvi.state_space import model as model_lib

tfd = tfp.distributions

__all__ = [
  'ModelGroups',
  'as_observations',
  'model_names',
  'name_observations',
  'name_states',
  'observe_pinned',
  'observe_states',
  'pointwise_log_prob',
]


class ModelGroups(NamedTuple):
  """Log densities of draws under a model, and simulations given these draws.

  Fields:
    log_prob: float `Tensor` of shape `[num_draws]`: the unnormalized log
      density of each draw; `None` where it is not computed.
    log_likelihood: Python `dict` from names of observed values to `Tensor`s of
      shape `[num_draws] + shape`.
    predictive: Python `dict` of replicated observations, likewise.
    observed: Python `dict` of observed values.
    prior: Python `dict` of draws of the prior, of shape
      `[num_prior_draws] + event`.
    prior_predictive: Python `dict` of observations simulated with these draws.
  """

  log_prob: Any
  log_likelihood: dict
  predictive: dict
  observed: dict
  prior: dict
  prior_predictive: dict


def pointwise_log_prob(
  distribution: tfd.Distribution, value: types.Structure
) -> tf.Tensor:
  """Returns log densities of the independent parts of a value, one by one.

  The function looks into `tfd.Independent` and `tfd.Sample`, whose values are
  independent given the parameters. Any other value counts as one.

  Args:
    distribution: `tfd.Distribution`.
    value: Value in its support, of shape `batch + event`.

  Returns:
    log_prob: float `Tensor` that begins with the axes `batch`, and sums to the
      log density over all others.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.diagnostics import groups

  tfd = tfp.distributions

  log_prob = groups.pointwise_log_prob(
    tfd.Sample(tfd.Normal(0.0, 1.0), 3), [0.0, 1.0, 2.0]
  )
  assert log_prob.shape == [3]
  ```
  """
  if isinstance(distribution, compatibility.all_forms(tfd.Independent)):
    return pointwise_log_prob(distribution.distribution, value)
  if not isinstance(distribution, compatibility.all_forms(tfd.Sample)):
    return distribution.log_prob(value)
  inner = distribution.distribution
  value = tf.convert_to_tensor(value, distribution.dtype)
  num_batch = distribution.batch_shape.rank
  num_inner = inner.event_shape.rank
  num_sample = distribution.event_shape.rank - num_inner
  missing = num_batch + distribution.event_shape.rank - value.shape.rank
  value = tf.reshape(value, [1] * max(missing, 0) + value.shape.as_list())
  # There are several leading axes if the value has more than the distribution.
  num_leading = value.shape.rank - num_sample - num_inner
  leading, sample, event = _split_axes(num_leading, num_sample, num_inner)
  log_prob = pointwise_log_prob(
    inner, tf.transpose(value, sample + leading + event)
  )
  num_parts = log_prob.shape.rank - num_sample - num_leading
  sample, leading, parts = _split_axes(num_sample, num_leading, num_parts)
  return tf.transpose(log_prob, leading + sample + parts)


def _split_axes(*numbers):
  """Lists of successive axes, of the lengths given."""
  lists, first = [], 0
  for number in numbers:
    lists.append(list(range(first, first + number)))
    first += number
  return lists


def _flat_dict(name, value):
  """Returns the parts of a named value by their names."""
  return dict(
    zip(naming.leaf_names({name: value}), tf.nest.flatten(value), strict=True)
  )


def observe_pinned(
  model: tfp.experimental.distributions.JointDistributionPinned,
  draws: types.Structure,
  seed: types.Seed,
  num_prior_draws: int = 500,
) -> ModelGroups:
  """Evaluates a pinned model at draws of its posterior.

  Args:
    model: `JointDistributionPinned`.
    draws: Nested structure of `Tensor`s of shape `[num_draws] + event`: values
      of its unpinned parts.
    seed: Python `int` or stateless seed of the simulations.
    num_prior_draws: Python `int`.
      Default value: `500`.

  Returns:
    groups: `ModelGroups`.

  Raises:
    TypeError: If `model` is not a pinned model.
    ValueError: If the draws are not of its structure.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi.diagnostics import groups

  tfd = tfp.distributions

  model = tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, 3.0),
      'y': lambda mean: tfd.Sample(tfd.Normal(mean, 1.0), 4),
    }
  )
  found = groups.observe_pinned(
    model.experimental_pin(y=[1.0, 2.0, 0.5, 1.5]),
    {'mean': tf.constant([1.0, 1.2])},
    seed=1,
  )
  assert found.log_likelihood['y'].shape == [2, 4]
  ```
  """
  checks.check_instance(
    'model',
    model,
    tfp.experimental.distributions.JointDistributionPinned,
    'a JointDistributionPinned',
  )
  joint, pins = model.distribution, model.pins
  names, unpinned = joint._flat_resolve_names(), model._flat_resolve_names()
  try:
    tf.nest.assert_same_structure(draws, model.dtype)
  except (TypeError, ValueError) as e:
    raise ValueError(
      '`model` must be the one that the particles are of, with the same '
      f'variables, {list(unpinned)}; got particles '
      f'{checks.describe(draws)}.'
    ) from e
  parts = model._model_flatten(draws)

  def look(element):
    parts, seed = element
    values = dict(zip(unpinned, parts, strict=True)) | dict(pins)
    with randomness.portable_sampling():
      distributions, _ = joint.sample_distributions(
        value=joint._model_unflatten([values[name] for name in names]),
        seed=seed,
      )
      log_prob, log_likelihood, predictive = 0.0, {}, {}
      for i, (name, distribution) in enumerate(
        zip(names, joint._model_flatten(distributions), strict=True)
      ):
        log_prob += tf.reduce_sum(distribution.log_prob(values[name]))
        if name in pins:
          log_likelihood[name] = pointwise_log_prob(distribution, values[name])
          replicated = distribution.sample(seed=randomness.fold_in(seed, i))
          predictive |= _flat_dict(name, replicated)
    return log_prob, log_likelihood, predictive

  def simulate(seed):
    prior: dict = {}
    predictive: dict = {}
    with randomness.portable_sampling():
      values = joint._model_flatten(joint.sample(seed=seed))
    for name, value in zip(names, values, strict=True):
      (predictive if name in pins else prior).update(_flat_dict(name, value))
    return prior, predictive

  draw_seed, prior_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 2)
  )
  log_prob, log_likelihood, predictive = _map_draws(
    look, tf.nest.flatten(draws)[0].shape[0], draw_seed, parts
  )
  prior, prior_predictive = _map_draws(
    simulate, checks.as_count('num_prior_draws', num_prior_draws), prior_seed
  )
  observed: dict = {}
  for name, value in dict(pins).items():
    observed |= _flat_dict(name, value)
  return ModelGroups(
    log_prob,
    log_likelihood,
    predictive,
    observed,
    prior,
    prior_predictive,
  )


def model_names(
  model: tfp.experimental.distributions.JointDistributionPinned,
  draws: types.Structure,
) -> list[str]:
  """Returns the names that a pinned model gives to the parts of draws.

  Args:
    model: `JointDistributionPinned`.
    draws: Nested structure of values of its unpinned parts.

  Returns:
    names: List of Python `str`s, in the order of `tf.nest`.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.diagnostics import groups

  tfd = tfp.distributions

  model = tfd.JointDistributionSequential(
    [tfd.Normal(0.0, 1.0, name='a'), lambda a: tfd.Normal(a, 1.0, name='y')]
  ).experimental_pin(y=1.0)
  assert groups.model_names(model, [0.0]) == ['a']
  ```
  """
  numbers = tf.nest.pack_sequence_as(
    draws, list(range(len(tf.nest.flatten(draws))))
  )
  names: dict = {}
  for name, part in zip(
    model._flat_resolve_names(), model._model_flatten(numbers), strict=True
  ):
    names |= {number: leaf for leaf, number in _flat_dict(name, part).items()}
  return [names[i] for i in range(len(names))]


def _map_draws(look, num_draws, seed, parts=None):
  """Calls a function for each seed, or draw and seed, in a compiled loop."""
  seeds = randomness.split_seed(seed, num_draws)
  elements = seeds if parts is None else (parts, seeds)
  one = tf.nest.map_structure(
    lambda x: tf.TensorSpec(x.shape[1:], x.dtype), elements
  )
  traced = tf.function(look, autograph=False).get_concrete_function(one)
  signature = tf.nest.map_structure(
    lambda x: tf.TensorSpec(x.shape, x.dtype), traced.structured_outputs
  )
  return tf.function(
    lambda elements: tf.map_fn(look, elements, fn_output_signature=signature),
    autograph=False,
  )(elements)


def name_states(
  global_state: types.Structure, trajectories: types.Structure
) -> dict:
  """Returns the parts of states by their names.

  Args:
    global_state: Nested structure of `Tensor`s; `()` if there is none.
    trajectories: Likewise.

  Returns:
    named: Python `dict`, with the names that the parts of a structure have. A
      single `Tensor` is named `theta` if it is the global state, and `z` if it
      is the local one. These names are also added in front if global and local
      parts would have the same name.

  ```python
  from tfp_nvi.diagnostics import groups

  assert list(groups.name_states({'drift': 0.0}, 1.0)) == ['drift', 'z']
  ```
  """
  names = [
    naming.leaf_names(part, root)
    for part, root in ((global_state, 'theta'), (trajectories, 'z'))
  ]
  if set(names[0]) & set(names[1]):
    names = [
      naming.leaf_names({root: part})
      for part, root in ((global_state, 'theta'), (trajectories, 'z'))
    ]
  parts = tf.nest.flatten((global_state, trajectories))
  return dict(zip(names[0] + names[1], parts, strict=True))


def observe_states(
  model: model_lib.StateSpaceModel,
  draws: tuple,
  observations: types.Structure,
  seed: types.Seed,
  inputs: types.Structure | None = None,
  num_prior_draws: int = 500,
) -> ModelGroups:
  """Evaluates a state-space model at draws of its states.

  The log likelihood is that of each observation given the states of its own
  step.

  Args:
    model: `StateSpaceModel`.
    draws: Pair of nested structures of `Tensor`s: global states of shape
      `[num_draws] + batch + event`, and trajectories of shape
      `[num_draws] + batch + [num_steps] + event`.
    observations: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`.
    seed: Python `int` or stateless seed of the simulations.
    inputs: As in `StateSpaceSampler.sample`.
      Default value: `None`.
    num_prior_draws: Python `int`.
      Default value: `500`.

  Returns:
    groups: `ModelGroups`, without `log_prob`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi.diagnostics import groups

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(z, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  found = groups.observe_states(
    model, ((), tf.zeros([10, 3])), tf.constant([0.1, 0.2, 0.4]), seed=1
  )
  assert found.log_likelihood['x'].shape == [10, 3]
  ```
  """
  global_state, trajectories = draws
  draw_seed, prior_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 2)
  )
  first = tf.nest.flatten(trajectories)[0]
  event_shapes = tf.nest.flatten(model.example.local_like[1])
  # The axis over steps.
  axis = first.shape.rank - event_shapes[0].rank - 1
  shape, num_steps = first.shape[:axis], first.shape[axis]
  u_all = model_lib.as_inputs(inputs, model.example, shape[1:] + [num_steps])
  log_probs, replicated = [], []
  for t in range(num_steps):
    z = _at_step(trajectories, t, axis)
    u = _at_step(u_all, t, axis - 1)
    distribution = model.observation(z, global_state, tf.constant(t), u, shape)
    log_probs.append(
      tf.broadcast_to(
        distribution.log_prob(_at_step(observations, t, axis - 1)), shape
      )
    )
    replicated.append(
      model_lib.sample_of_shape(
        distribution, shape.as_list(), randomness.fold_in(draw_seed, t)
      )
    )
  theta, z, x = model.simulate(
    num_steps,
    sample_shape=[num_prior_draws] + shape[1:].as_list(),
    seed=prior_seed,
    inputs=inputs,
  )
  name = ', '.join(naming.leaf_names(observations))
  return ModelGroups(
    None,
    {name: tf.stack(log_probs, axis=axis)},
    name_observations(
      tf.nest.map_structure(lambda *x: tf.stack(x, axis=axis), *replicated)
    ),
    name_observations(observations),
    name_states(theta, z),
    name_observations(x),
  )


def as_observations(
  observations: types.Structure, model: model_lib.StateSpaceModel | None = None
) -> types.Structure:
  """Converts observations to `Tensor`s.

  Args:
    observations: Nested structure of `Tensor`s, or of values to convert.
    model: `StateSpaceModel` of the observations.
      Default value: `None` (i.e., unknown, so that a list is one `Tensor`).

  Returns:
    observations: Nested structure of `Tensor`s.

  ```python
  from tfp_nvi.diagnostics import groups

  assert groups.as_observations([0.0, 1.0]).shape == [2]
  ```
  """
  if model is not None:
    return model_lib.convert_like(
      'observations',
      observations,
      model.example.observation_like[0],
      'the values of `observation_fn`',
    )
  if isinstance(observations, collections.abc.Mapping):
    return tf.nest.map_structure(tf.convert_to_tensor, observations)
  return tf.convert_to_tensor(observations)


def name_observations(observations: types.Structure) -> dict:
  """Returns the parts of observations by their names; a `Tensor` is named `x`.

  Args:
    observations: Nested structure of `Tensor`s.

  Returns:
    named: Python `dict`.

  ```python
  from tfp_nvi.diagnostics import groups

  assert groups.name_observations(2.0) == {'x': 2.0}
  ```
  """
  return dict(
    zip(
      naming.leaf_names(observations),
      tf.nest.flatten(observations),
      strict=True,
    )
  )


def _at_step(structure, t, axis):
  return tf.nest.map_structure(lambda x: tf.gather(x, t, axis=axis), structure)

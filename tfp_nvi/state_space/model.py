# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models, and simulation of sequences from them.

Contract: the functions of a model return distributions whose batch shape
broadcasts to the leading shape of the states that they are called with. All
have the same dtype and event shape at every step, and densities of one dtype.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import (
  checks,
  compatibility,
  randomness,
  reductions,
  types,
)
from tfp_nvi.state_space import functions, gaussian, switching
from tfp_nvi.state_space import steps as steps_lib

tfd = tfp.distributions

__all__ = [
  'StateSpaceModel',
  'as_inputs',
  'convert_like',
  'sample_of_shape',
]

# Distributions whose densities outside of their support are finite, unless they
# validate their arguments.
_FIXED_SUPPORT = (
  tfd.Bernoulli,
  tfd.Beta,
  tfd.Exponential,
  tfd.Gamma,
  tfd.LogNormal,
  tfd.OneHotCategorical,
  tfd.Poisson,
)


class Example(NamedTuple):
  """The local states, observations and inputs of a model, by example.

  Fields:
    local_like: Pair of nested structures, dtypes and event shapes.
    observation_like: Likewise.
    observation: Nested structure of `Tensor`s: a draw.
    inputs: Nested structure of `Tensor`s: the inputs of a step; `()` if the
      model has none.
    num_categories: Python `int`, if observations, or their parts, are of a
      `tfd.Categorical`.
    support: Distribution of observations, or of their parts, whose support is
      the same for all states; `None` if that is not known.
    dtype: `tf.DType` of log densities.
    num_states: Python `int`, if local states are of a `tfd.Categorical`.
    has_gaussian_transitions: Python `bool`: whether local states are of normal
      distributions over numbers or vectors.
    regimes: `Regimes`, if local states are of a joint distribution over a
      regime and a level that is normal given the regime; else `None`.
  """

  local_like: Any
  observation_like: Any
  observation: Any
  inputs: Any
  num_categories: int | None
  support: tfd.Distribution | None
  dtype: tf.DType
  num_states: int | None = None
  has_gaussian_transitions: bool = False
  regimes: switching.Regimes | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class StateSpaceModel:
  """A state-space model, with unknown global variables if it has any.

  ```none
  theta ~ prior,  z_0 ~ initial_fn(theta),  z_t ~ transition_fn(z_{t-1}, theta)
  x_t ~ observation_fn(z_t, theta)
  ```

  Each function returns a `tfd.Distribution` whose batch shape is the leading
  shape of its arguments, or broadcasts to it. There may be several leading
  axes, so that events are counted from the end. Everything that is to be
  learned about the model belongs to `theta`: the functions are assumed to have
  no variables.

  A function takes the arguments that it names. The states come first, under any
  names: `transition_fn(z, theta)`, or `transition_fn(z)` if the model has no
  global state or the function does not depend on it. After them a function may
  name `t`, the index of the step, from 0, of the state or observation that it
  is the distribution of, as a scalar int32 `Tensor`; and `u`, the inputs of
  that step: `transition_fn(z, theta, t, u)`, `observation_fn(z, theta, u)`. A
  function that names `t` or `u` must take all states, the global one included
  if there is one.

  The constructor calls each function with a few draws, and with each state if
  those are of a `tfd.Categorical`, to check the values that it returns.

  Fields:
    prior: `tfd.Distribution` or `JointDistribution` over the global state;
      `None` if there is none.
    initial_fn: Python callable from the global state.
    transition_fn: Python callable from the local state before, and the global
      state.
    observation_fn: Python callable from the local and the global state.
    input_example: Nested structure of `Tensor`s of shape `event`: the inputs of
      some step, if functions name `u`.
      Default value: `None` (i.e., there are no inputs).
    example: `Example` of draws, made at construction.

  Raises:
    TypeError: If an argument is not of the kind asked for, or a function does
      not return a distribution.
    ValueError: If a function takes other arguments, or if a distribution has
      the wrong shape or dtype, negative scales, or probabilities that do not
      sum to one.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.2),
  )
  drift, z, x = model.simulate(num_steps=10, sample_shape=[3], seed=1)
  assert drift.shape == [3] and x.shape == [3, 10]
  ```
  """

  prior: tfd.Distribution | None
  initial_fn: Callable
  transition_fn: Callable
  observation_fn: Callable
  input_example: Any = None
  example: Any = dataclasses.field(init=False, repr=False, default=None)

  def __post_init__(self):
    if self.prior is not None and not densities_lib.is_sampleable(self.prior):
      raise TypeError(
        '`prior` must be a tfd.Distribution over the global state, or None; '
        f'got {self.prior!r}.'
      )
    extras = ('t',) if self.input_example is None else ('t', 'u')
    calls = {}
    for name, values in (
      ('initial_fn', ('theta',)),
      ('transition_fn', ('z', 'theta')),
      ('observation_fn', ('z', 'theta')),
    ):
      fn = getattr(self, name)
      checks.check_callable(
        name, fn, 'a callable that returns a tfd.Distribution'
      )
      calls[name] = functions.call_with_named(
        name, fn, values, extras, has_last=self.prior is not None
      )
    # The fields themselves are frozen.
    object.__setattr__(self, '_calls', calls)
    object.__setattr__(self, 'example', _make_example(self))

  @property
  def names_step(self) -> bool:
    """Whether a function depends on the index of the step."""
    return any(call.names_step for call in vars(self)['_calls'].values())

  @property
  def depends_on_step(self) -> bool:
    """Whether transitions name the index or the inputs of the step."""
    call = vars(self)['_calls']['transition_fn']
    return call.names_step or call.names_inputs

  @property
  def num_states(self) -> int | None:
    """How many local states there are, if they are of a `tfd.Categorical`."""
    return self.example.num_states

  @property
  def has_gaussian_transitions(self) -> bool:
    """Whether local states are of normal distributions."""
    return self.example.has_gaussian_transitions

  @property
  def can_be_guided(self) -> bool:
    """Whether `proposal_fn='guided'` supports these local states."""
    return (
      self.has_gaussian_transitions
      or self.num_states is not None
      or self.example.regimes is not None
    )

  def initial(
    self, global_state: Any, t: Any, u: Any, shape: tf.TensorShape
  ) -> tfd.Distribution:
    """Returns the distribution of the first local state, checked."""
    return self._distribution('initial_fn', (global_state,), t, u, shape)

  def transition(
    self,
    local_state: Any,
    global_state: Any,
    t: Any,
    u: Any,
    shape: tf.TensorShape,
  ) -> tfd.Distribution:
    """Returns the distribution of the next local state, checked."""
    values = (local_state, global_state)
    return self._distribution('transition_fn', values, t, u, shape)

  def observation(
    self,
    local_state: Any,
    global_state: Any,
    t: Any,
    u: Any,
    shape: tf.TensorShape,
  ) -> tfd.Distribution:
    """Returns the distribution of an observation, checked."""
    values = (local_state, global_state)
    return self._distribution('observation_fn', values, t, u, shape)

  def _distribution(self, name, values, t, u, shape):
    distribution = self._calls[name](*values, t=t, u=u)
    like = None
    if self.example is not None and name != 'observation_fn':
      like = self.example.local_like
    functions.check_distribution(name, distribution, shape, like)
    return distribution

  def simulate(
    self,
    num_steps: int,
    sample_shape: Sequence[int] = (),
    seed: types.Seed | None = None,
    inputs: types.Structure | None = None,
  ) -> tuple[types.Structure, types.Structure, types.Structure]:
    """Draws sequences from the model.

    Args:
      num_steps: Python `int`.
      sample_shape: List of Python `int`s: how many sequences.
        Default value: `()` (i.e., one).
      seed: Python `int` or stateless seed.
      inputs: Nested structure of `Tensor`s of shape
        `sample_shape + [num_steps] + event`, or that broadcast to it.
        Default value: `None` (i.e., the model has no inputs).

    Returns:
      global_state: Nested structure of `Tensor`s of shape
        `sample_shape + event`.
      local_states: Nested structure of `Tensor`s of shape
        `sample_shape + [num_steps] + event`.
      observations: Likewise.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `num_steps` is not positive, a draw is NaN, or a function
        returns a distribution with a negative scale.
    """
    num_steps = checks.as_count('num_steps', num_steps)
    shape = checks.as_batch_shape('sample_shape', sample_shape)
    rank = shape.rank
    inputs = as_inputs(inputs, self.example, shape + [num_steps])
    inputs = tf.nest.map_structure(
      lambda x: steps_lib.steps_first(x, rank), inputs
    )
    global_seed, seed = tf.unstack(
      randomness.split_seed(randomness.as_seed(seed), 2)
    )
    global_state = ()
    if self.prior is not None:
      with randomness.portable_sampling():
        global_state = self.prior.sample(shape, seed=global_seed)
    seeds = tf.reshape(
      randomness.split_seed(seed, 2 * num_steps), [num_steps, 2, 2]
    )

    def draw(name, k, seed, *values):
      u = tf.nest.map_structure(lambda x: x[k], inputs)
      distribution = self._distribution(name, values, k, u, shape)
      functions.check_parameters(name, distribution)
      value = sample_of_shape(distribution, shape.as_list(), seed)
      for x in tf.nest.flatten(value):
        if x.dtype.is_floating and reductions.has_values(x):
          if bool(tf.reduce_any(tf.math.is_nan(x))):
            raise ValueError(
              f'`{name}` must return distributions whose draws are numbers; '
              f'that of step {int(k)} of a simulated sequence is NaN.'
            )
      return value

    def observe(z, k):
      return draw('observation_fn', k, seeds[k, 1], z, global_state)

    def step(k, z):
      z = draw('transition_fn', k, seeds[k, 0], z, global_state)
      return z, observe(z, k)

    start = tf.constant(0)
    z = draw('initial_fn', start, seeds[0, 0], global_state)
    local_states, observations = _all_steps(
      (z, observe(z, start)), step, num_steps, rank
    )
    return global_state, local_states, observations

  def continue_from(
    self,
    global_state: types.Structure,
    local_state: types.Structure,
    lengths: tf.Tensor,
    num_steps: int,
    seed: types.StatelessSeed,
    inputs: types.Structure | None = None,
  ) -> tuple[types.Structure, types.Structure]:
    """Draws the steps after a state.

    Args:
      global_state: Nested structure of `Tensor`s of shape
        `[num_draws] + batch + event`.
      local_state: Likewise: the last local state.
      lengths: int32 `Tensor` of shape `batch`: the index of the first step to
        draw. They may only differ if no function of the model names `t`.
      num_steps: Python `int`.
      seed: Stateless seed.
      inputs: As in `simulate`, of the steps to come.
        Default value: `None`.

    Returns:
      local_states: Nested structure of `Tensor`s of shape
        `[num_draws] + batch + [num_steps] + event`.
      observations: Likewise.

    Raises:
      ValueError: If inputs are wrong, or functions name `t` and lengths differ.
    """
    z = tf.nest.flatten(local_state)[0]
    event = tf.TensorShape(tf.nest.flatten(self.example.local_like[1])[0])
    shape = z.shape[: z.shape.rank - event.rank]
    start = tf.reshape(lengths, [-1])[0]
    if self.names_step and bool(tf.reduce_any(lengths != start)):
      raise ValueError(
        '`lengths` must be the same for all sequences if functions of the '
        f'model name `t`; got {lengths.numpy().tolist()}.'
      )
    inputs = as_inputs(inputs, self.example, shape[1:] + [num_steps])
    inputs = tf.nest.map_structure(
      lambda x: steps_lib.steps_first(x, shape.rank - 1), inputs
    )
    return _simulate_on(
      self, global_state, local_state, start, num_steps, shape, seed, inputs
    )


def _simulate_on(model, theta, z, start, num_steps, shape, seed, inputs):
  """Loops over the steps after a state; see `continue_from`."""
  seeds = tf.reshape(
    randomness.split_seed(seed, 2 * num_steps), [num_steps, 2, 2]
  )

  def step(k, z):
    u = tf.nest.map_structure(lambda x: x[k], inputs)
    named = dict(t=start + k, u=u, shape=shape)
    z = sample_of_shape(
      model.transition(z, theta, **named), shape.as_list(), seeds[k, 0]
    )
    x = sample_of_shape(
      model.observation(z, theta, **named), shape.as_list(), seeds[k, 1]
    )
    return z, x

  return _all_steps(step(tf.constant(0), z), step, num_steps, shape.rank)


def _all_steps(first, step_fn, num_steps, rank):
  """Draws all steps after the first, and returns them with the steps last.

  Args:
    first: Pair of a local state and an observation.
    step_fn: Python callable from the index of a step and the local state before
      to such a pair.
    num_steps: Python `int`.
    rank: Python `int`: the number of axes before those of events.

  Returns:
    values: Pair of nested structures of `Tensor`s.
  """

  def body(k, carry):
    values = step_fn(k, carry[0])
    return values[0], steps_lib.write(carry[1], k, values)

  arrays = steps_lib.write(steps_lib.arrays_like(first, num_steps), 0, first)
  _, arrays = steps_lib.loop(num_steps, body, (first[0], arrays))
  return steps_lib.stack(arrays, rank)


def as_inputs(
  inputs: types.Structure | None, example: Example, shape: tf.TensorShape
) -> types.Structure:
  """Converts inputs to `Tensor`s of shape `batch + [num_steps] + event`.

  Args:
    inputs: Nested structure of `Tensor`s that broadcast to it, or `None`.
    example: `Example` of the model.
    shape: `TensorShape`: `batch + [num_steps]`.

  Returns:
    inputs: Nested structure of `Tensor`s; `()` if there are none.

  Raises:
    ValueError: If there are inputs and must be none, or the other way round, or
      if dtypes or shapes are wrong.
  """
  has_inputs = bool(tf.nest.flatten(example.inputs))
  if (inputs is not None) != has_inputs:
    raise ValueError(
      '`inputs` must be given if the model has an `input_example`, and only '
      f'then; got {inputs!r}.'
    )
  if not has_inputs:
    return ()
  inputs = convert_like(
    'inputs',
    inputs,
    tf.nest.map_structure(lambda x: x.dtype, example.inputs),
    '`input_example`',
  )

  def broadcast(x, example):
    full = shape + example.shape
    try:
      return tf.broadcast_to(x, full)
    except (ValueError, tf.errors.InvalidArgumentError) as e:
      raise ValueError(
        '`inputs` must have a shape that broadcasts to batch + [num_steps] + '
        f'event, here {full.as_list()}; got {x.shape.as_list()}.'
      ) from e

  return tf.nest.map_structure(broadcast, inputs, example.inputs)


def convert_like(
  name: str, values: types.Structure, dtype: types.Structure, source: str
) -> types.Structure:
  """Converts values to `Tensor`s; raises an error for another structure."""
  try:
    # Lists of numbers are a Tensor, too.
    if tf.nest.is_nested(dtype):
      return tf.nest.map_structure(tf.convert_to_tensor, values, dtype)
    return tf.convert_to_tensor(values, dtype)
  except (TypeError, ValueError) as e:
    raise ValueError(
      f'`{name}` must be Tensors like those of {source}, of dtype '
      f'{functions.describe(dtype)}; got {values!r}.'
    ) from e


def sample_of_shape(
  distribution: tfd.Distribution, shape: list[int], seed: types.StatelessSeed
) -> types.Structure:
  """Draws one value for each element of a shape."""
  value = densities_lib.draw_of_shape(distribution, shape, seed)
  # Bijectors cache the values that they made, which would hide from a tape how
  # their densities depend on these values. A copy is not in the cache.
  return tf.nest.map_structure(tf.identity, value)


def _states_to_try(initial, num_draws, seed):
  """Returns all states if they are few and known, or else some draws."""
  count = functions.num_categories(initial)
  if count is None:
    return sample_of_shape(initial, [num_draws], seed)
  states = tf.range(max(num_draws, count)) % count
  return tf.cast(states, initial.dtype)


def _make_example(model):
  """Calls the functions of a model; raises an error if one is wrong."""
  seeds = tf.unstack(randomness.split_seed(randomness.as_seed(0), 4))
  prior = model.prior
  if prior is not None:
    functions.check_parameters('prior', prior)
    batch_shape = densities_lib.static_batch_shape(prior)
    if batch_shape.rank != 0:
      raise ValueError(
        '`prior` must have no batch shape, as its parts are events of one '
        f'global state; got {batch_shape.as_list()}. tfd.Independent makes '
        'events of them.'
      )
  u = tf.nest.map_structure(
    functools.partial(checks.as_tensor, 'input_example'),
    () if model.input_example is None else model.input_example,
  )

  def draw_global(num_draws):
    if prior is None:
      return ()
    return densities_lib.draw(prior, num_draws, [], seeds[0])

  shape = tf.TensorShape([densities_lib.NUM_PROBES])
  step = tf.constant(0)
  initial = model.initial(draw_global(shape[0]), step, u, shape)
  functions.check_parameters('initial_fn', initial)
  local = _states_to_try(initial, shape[0], seeds[1])
  shape = tf.nest.flatten(local)[0].shape[:1]
  global_state = draw_global(shape[0])
  local_like = initial.dtype, initial.event_shape
  transition = model.transition(local, global_state, step + 1, u, shape)
  functions.check_distribution('transition_fn', transition, shape, local_like)
  functions.check_parameters('transition_fn', transition)
  kernels = initial, transition
  counts = [functions.num_categories(d) for d in kernels]
  if None not in counts and counts[1] > counts[0]:
    raise ValueError(
      f'`transition_fn` must return a distribution over the {counts[0]} states '
      f'of `initial_fn`; it returned one over {counts[1]} states.'
    )
  observation = model.observation(local, global_state, step, u, shape)
  functions.check_parameters('observation_fn', observation)

  dtype = initial.log_prob(
    sample_of_shape(initial, [densities_lib.NUM_PROBES], seeds[1])
  ).dtype
  observed = sample_of_shape(observation, shape, seeds[2])
  for name, distribution, value in (
    ('transition_fn', transition, sample_of_shape(transition, shape, seeds[3])),
    ('observation_fn', observation, observed),
    ('prior', prior, global_state),
  ):
    if distribution is None:
      continue
    log_prob = distribution.log_prob(value)
    if log_prob.dtype != dtype:
      raise ValueError(
        f'`{name}` must have log densities of dtype {dtype.name}, as those of '
        f'`initial_fn` are; got {log_prob.dtype.name}.'
      )
  part = observation
  while isinstance(part, compatibility.all_forms(tfd.Independent)):
    part = part.distribution
  return Example(
    local_like=local_like,
    observation_like=(observation.dtype, observation.event_shape),
    observation=tf.nest.map_structure(lambda x: x[0], observed),
    inputs=u,
    num_categories=functions.num_categories(part),
    support=part if isinstance(part, _FIXED_SUPPORT) else None,
    dtype=dtype,
    num_states=counts[0] if counts[0] == counts[1] else None,
    has_gaussian_transitions=all(map(gaussian.is_gaussian, kernels)),
    regimes=_common_regimes(*kernels),
  )


def _common_regimes(initial, transition):
  """Returns the regimes that both distributions of local states share."""
  first, later = map(switching.find_regimes, (initial, transition))
  if first is None or later is None:
    return None
  return first if first._replace(structure=later.structure) == later else None

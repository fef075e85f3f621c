# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a state-space model is, and draws of sequences from it.

What must hold: the functions of a model return distributions whose batch shape
broadcasts to the leading shape of their arguments, of the same dtype and event
shape at every step, with densities of one dtype.
"""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import axes, checks, randomness

tfd = tfp.distributions

__all__ = [
  'StateSpaceModel',
]


class StateSpaceModel(
  collections.namedtuple(
    'StateSpaceModel',
    ['prior', 'initial_fn', 'transition_fn', 'observation_fn'],
  )
):
  """A state-space model, with unknown global variables if it has any.

  ```none
  eta ~ prior,  z_1 ~ initial_fn(eta),  z_k ~ transition_fn(z_{k-1}, eta)
  x_k ~ observation_fn(z_k, eta)
  ```

  Each function returns a `tfd.Distribution` whose batch shape is the leading
  shape of its arguments, or broadcasts to it. There may be several leading
  axes, so that events are counted from the end. What is to be learned about
  the model belongs to `eta`: the functions are taken to have no variables.

  Fields:
    prior: `tfd.Distribution` or `JointDistribution` over the global state;
      `None` if there is none, and then the functions get `()` for it.
    initial_fn: Python callable from the global state.
    transition_fn: Python callable from the local state before, and the global
      state.
    observation_fn: Python callable from the local and the global state.

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

  __slots__ = ()

  def __new__(cls, prior, initial_fn, transition_fn, observation_fn):
    """Makes a model; raises an error if a part is not what it should be.

    Calls each function with a few draws, and with each state if those are of a
    `tfd.Categorical`.

    Args:
      prior: As the field.
      initial_fn: As the field.
      transition_fn: As the field.
      observation_fn: As the field.

    Returns:
      model: `StateSpaceModel`.

    Raises:
      TypeError: If an argument is not of the kind asked for, or a function does
        not return a distribution.
      ValueError: If a distribution has the wrong shape or dtype, or
        probabilities that do not sum to one.
    """
    if prior is not None and not densities_lib.is_sampleable(prior):
      raise TypeError(
        '`prior` must be a tfd.Distribution over the global state, or None; '
        f'got {prior!r}.'
      )
    for name, fn in (
      ('initial_fn', initial_fn),
      ('transition_fn', transition_fn),
      ('observation_fn', observation_fn),
    ):
      if not callable(fn):
        raise TypeError(
          f'`{name}` must be a callable that returns a tfd.Distribution; got '
          f'{fn!r}.'
        )
    model = super().__new__(
      cls, prior, initial_fn, transition_fn, observation_fn
    )
    make_example(model)
    return model

  def simulate(self, num_steps, sample_shape=(), seed=None):
    """Draws sequences from the model.

    Args:
      num_steps: Python `int`.
      sample_shape: List of Python `int`s: how many sequences.
      seed: Python `int` or stateless seed.

    Returns:
      global_state: Nested structure of `Tensor`s of shape
        `sample_shape + event`.
      local_states: Nested structure of `Tensor`s of shape
        `sample_shape + [num_steps] + event`.
      observations: Likewise.

    Raises:
      ValueError: If `num_steps` is not positive, or a draw is NaN.
    """
    num_steps = checks.as_count('num_steps', num_steps)
    sample_shape = tf.TensorShape(sample_shape).as_list()
    global_seed, seed = tf.unstack(
      randomness.split_seed(randomness.as_seed(seed), 2)
    )
    global_state = ()
    if self.prior is not None:
      with randomness.portable_sampling():
        global_state = self.prior.sample(sample_shape, seed=global_seed)
    seeds = tf.reshape(
      randomness.split_seed(seed, 2 * num_steps), [num_steps, 2, 2]
    )

    def draw(distribution, seed):
      return sample_of_shape(distribution, sample_shape, seed)

    def observe(z, seed):
      return draw(self.observation_fn(z, global_state), seed)

    first = draw(self.initial_fn(global_state), seeds[0, 0])
    values = (first, observe(first, seeds[0, 1]))
    arrays = tf.nest.map_structure(
      lambda x: tf.TensorArray(x.dtype, num_steps, element_shape=x.shape).write(
        0, x
      ),
      values,
    )

    def body(k, z, arrays):
      z = draw(self.transition_fn(z, global_state), seeds[k, 0])
      arrays = tf.nest.map_structure(
        lambda array, x: array.write(k, x), arrays, (z, observe(z, seeds[k, 1]))
      )
      return k + 1, z, arrays

    _, _, arrays = tf.while_loop(
      lambda k, *_: k < num_steps, body, (tf.constant(1), first, arrays)
    )
    rank = len(sample_shape)
    local_states, observations = tf.nest.map_structure(
      lambda array: steps_last(array.stack(), rank), arrays
    )
    for name, value in (
      ('initial_fn` and `transition_fn', local_states),
      ('observation_fn', observations),
    ):
      for x in tf.nest.flatten(value):
        if x.dtype.is_floating and has_values(x):
          if bool(tf.reduce_any(tf.math.is_nan(x))):
            raise ValueError(
              f'`{name}` must return distributions whose draws are numbers; '
              'a simulated sequence has NaN.'
            )
    return global_state, local_states, observations


def steps_last(x, batch_rank):
  """Moves the first axis, over steps, behind the batch axes."""
  axes = [*range(1, batch_rank + 1), 0, *range(batch_rank + 1, x.shape.rank)]
  return tf.transpose(x, axes)


def sample_of_shape(distribution, shape, seed):
  """Draws one value for each element of a shape."""
  value = densities_lib.draw_of_shape(distribution, shape, seed)
  # What bijectors remember of a value that they made would hide from the tape
  # how its density depends on it; they know nothing of a copy.
  return tf.nest.map_structure(tf.identity, value)


def has_values(x):
  """Whether values are known: in eager mode."""
  return not tf.is_symbolic_tensor(x)


def describe(structure):
  """Dtypes by their names, and shapes as lists."""
  return tf.nest.map_structure(
    lambda x: x.as_list() if isinstance(x, tf.TensorShape) else x.name,
    structure,
  )


def check_distribution(name, distribution, shape, like=None):
  """Raises an error if a function returned something else than it should.

  Args:
    name: Python `str` name of the argument.
    distribution: What the function returned.
    shape: `TensorShape` that the batch shape is to broadcast to.
    like: Optional pair of nested structures: dtypes and event shapes.
  """
  if not isinstance(distribution, tfd.Distribution):
    raise TypeError(
      f'`{name}` must return a tfd.Distribution; it returned {distribution!r}.'
    )
  if like is not None:
    ours = describe(distribution.dtype), describe(distribution.event_shape)
    theirs = tuple(map(describe, like))
    # The order of the names of a dictionary is of no matter.
    flat_ours, flat_theirs = map(tf.nest.flatten, (ours, theirs))
    if flat_ours != flat_theirs:
      raise ValueError(
        f'`{name}` must return a distribution of dtype {theirs[0]} and event '
        f'shape {theirs[1]}; it returned one of dtype {ours[0]} and event '
        f'shape {ours[1]}.'
      )
  batch_shapes = tf.nest.flatten(distribution.batch_shape)
  if any(part != batch_shapes[0] for part in batch_shapes):
    raise ValueError(
      f'`{name}` must return a joint distribution whose parts have the same '
      'batch shape, as they would share draws otherwise; it returned '
      f'{describe(batch_shapes)}.'
    )
  batch_shape = densities_lib.static_batch_shape(distribution)
  if not axes.broadcasts_to(batch_shape, shape):
    raise ValueError(
      f'`{name}` must return a distribution whose batch shape broadcasts to '
      f'that of its arguments, here {shape.as_list()}; it returned one of '
      f'batch shape {batch_shape.as_list()}. The parts of one value must be '
      'events, which tfd.Independent makes of them.'
    )


def _check_probabilities(name, distribution):
  """Raises an error if there are probabilities that do not sum to one."""
  if isinstance(distribution, tfd.JointDistribution):
    parts, _ = distribution.sample_distributions(seed=randomness.as_seed(0))
    for part in tf.nest.flatten(parts):
      _check_probabilities(name, part)
    return
  for attribute in ('distribution', 'mixture_distribution'):
    if isinstance(getattr(distribution, attribute, None), tfd.Distribution):
      _check_probabilities(name, getattr(distribution, attribute))
  probs = getattr(distribution, 'probs', None)
  if probs is None or not isinstance(
    distribution, (tfd.Categorical, tfd.OneHotCategorical)
  ):
    return
  probs = tf.convert_to_tensor(probs)
  if not has_values(probs):
    return
  total = tf.reduce_sum(probs, axis=-1)
  # NaN is not close to anything.
  is_valid = (tf.abs(total - 1.0) <= 1e-3) & tf.reduce_all(probs >= 0.0, -1)
  if not bool(tf.reduce_all(is_valid)):
    wrong = probs.numpy()[np.logical_not(is_valid.numpy())][0]
    raise ValueError(
      f'`{name}` must return probabilities that are not negative and sum to '
      f'one; it returned {wrong.tolist()}, with the sum {wrong.sum():g}.'
    )


class _Example(
  collections.namedtuple(
    '_Example',
    [
      'local_like',
      'observation_like',
      'observation',
      'num_categories',
      'support',
      'dtype',
    ],
  )
):
  """What the local states and the observations of a model look like.

  Fields:
    local_like: Pair of nested structures, dtypes and event shapes.
    observation_like: Likewise.
    observation: Nested structure of `Tensor`s: a draw.
    num_categories: Python `int`, if observations are of a `tfd.Categorical`, or
      have parts that are.
    support: Distribution of observations, or of their parts, whose support is
      the same for all states; `None` if that is not known.
    dtype: `tf.DType` of log densities.
  """

  __slots__ = ()


# Whose densities outside of their support are finite, unless they validate.
_FIXED_SUPPORT = (
  tfd.Bernoulli,
  tfd.Beta,
  tfd.Exponential,
  tfd.Gamma,
  tfd.LogNormal,
  tfd.OneHotCategorical,
  tfd.Poisson,
)


def _states_to_try(initial, num_draws, seed):
  """All states if they are few and known, or else some draws."""
  count = num_categories(initial)
  if count is None:
    return sample_of_shape(initial, [num_draws], seed)
  states = tf.range(max(num_draws, count)) % count
  return tf.cast(states, initial.dtype)


def num_categories(distribution):
  """How many values a categorical distribution has; else `None`."""
  if not isinstance(distribution, tfd.Categorical):
    return None
  parameter = distribution.logits
  if parameter is None:
    parameter = distribution.probs
  return tf.convert_to_tensor(parameter).shape[-1]


def make_example(model):
  """Calls the functions of a model; raises an error if one is wrong."""
  seeds = tf.unstack(randomness.split_seed(randomness.as_seed(0), 4))
  prior = model.prior
  if prior is not None:
    _check_probabilities('prior', prior)
    batch_shape = densities_lib.static_batch_shape(prior)
    if batch_shape.rank != 0:
      raise ValueError(
        '`prior` must have no batch shape, as its parts are events of one '
        f'global state; got {batch_shape.as_list()}. tfd.Independent makes '
        'events of them.'
      )

  def draw_global(num_draws):
    if prior is None:
      return ()
    return densities_lib.draw(prior, num_draws, [], seeds[0])

  def check(name, distribution, shape, like=None):
    check_distribution(name, distribution, shape, like)
    _check_probabilities(name, distribution)

  shape = tf.TensorShape([densities_lib.NUM_PROBES])
  initial = model.initial_fn(draw_global(shape[0]))
  check('initial_fn', initial, shape)
  local = _states_to_try(initial, shape[0], seeds[1])
  shape = tf.nest.flatten(local)[0].shape[:1]
  global_state = draw_global(shape[0])
  local_like = initial.dtype, initial.event_shape
  transition = model.transition_fn(local, global_state)
  check('transition_fn', transition, shape, local_like)
  counts = num_categories(initial), num_categories(transition)
  if None not in counts and counts[1] > counts[0]:
    raise ValueError(
      f'`transition_fn` must return a distribution over the {counts[0]} states '
      f'of `initial_fn`; it returned one over {counts[1]} states.'
    )
  observation = model.observation_fn(local, global_state)
  check('observation_fn', observation, shape)

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
  while isinstance(part, tfd.Independent):
    part = part.distribution
  return _Example(
    local_like,
    (observation.dtype, observation.event_shape),
    tf.nest.map_structure(lambda x: x[0], observed),
    num_categories(part),
    part if isinstance(part, _FIXED_SUPPORT) else None,
    dtype,
  )

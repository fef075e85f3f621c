# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls a user's functions, and checks the values that they return.

A function gets the arguments that it names. The states come first and are
passed by position, under any names; after them may come `t`, the index of the
step, and `u`, the inputs of the step. The signature is read once, when a model
or a sampler is made.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import axes, checks, randomness, reductions, types

tfd = tfp.distributions

__all__ = [
  'call_with_named',
  'check_distribution',
  'check_parameters',
  'describe',
  'entry',
  'log_probs',
  'num_categories',
  'of_states',
  'over_states',
]

# Parameters of TFP's distributions that cannot be negative.
_POSITIVE = (
  'scale',
  'scale_diag',
  'rate',
  'concentration',
  'concentration0',
  'concentration1',
  'df',
)


def describe(structure: types.Structure) -> types.Structure:
  """Describes dtypes by their names, and shapes as lists."""
  return tf.nest.map_structure(
    lambda x: x.as_list() if isinstance(x, tf.TensorShape) else x.name,
    structure,
  )


def num_categories(distribution: tfd.Distribution) -> int | None:
  """Returns the number of values of a categorical distribution; else `None`."""
  if not isinstance(distribution, tfd.Categorical):
    return None
  parameter = distribution.logits
  if parameter is None:
    parameter = distribution.probs
  return tf.convert_to_tensor(parameter).shape[-1]


def log_probs(distribution: tfd.Categorical) -> tf.Tensor:
  """Returns log probabilities of the values of a categorical distribution."""
  if distribution.logits is None:
    return tf.math.log(distribution.probs)
  return tf.math.log_softmax(distribution.logits)


def entry(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
  """Returns entries of the last axis, `values[..., index]`.

  Args:
    values: `Tensor` of shape `shape + [n]`.
    index: int `Tensor` of shape `shape`.

  Returns:
    entries: `Tensor` of shape `shape`.
  """
  is_it = tf.equal(
    tf.range(values.shape[-1]), tf.cast(index, tf.int32)[..., None]
  )
  return tf.reduce_sum(tf.where(is_it, values, tf.zeros_like(values)), axis=-1)


def of_states(fn: Callable, dtype: tf.DType) -> Callable:
  """A user's function of global and local states, with values of one dtype.

  Args:
    fn: Python callable from a global and a local state to a nested structure of
      `Tensor`s; or from the local state alone, where there is no global one.
    dtype: Floating point dtype.

  Returns:
    fn: Python callable from both.

  Raises:
    TypeError: If `fn` is not callable.

  ```python
  import tensorflow as tf
  from tfp_nvi.state_space import functions

  double = functions.of_states(lambda z: 2 * z, tf.float32)
  assert double((), tf.constant(3)) == 6.0
  ```
  """
  checks.check_callable('fn', fn)
  try:
    inspect.signature(fn).bind(None)
  except (TypeError, ValueError):
    takes_one = False
  else:
    takes_one = True

  def call(global_state, local_state):
    if takes_one and not tf.nest.flatten(global_state):
      values = fn(local_state)
    else:
      values = fn(global_state, local_state)
    return tf.nest.map_structure(lambda x: tf.cast(x, dtype), values)

  return call


def over_states(
  fn: Callable,
  num_states: int,
  global_state: types.Structure,
  shape: tf.TensorShape,
  dtype: tf.DType,
  event_rank: int = 0,
) -> tf.Tensor:
  """Calls a function with each of a few local states.

  Args:
    fn: Python callable from the local state, the global state and a shape, all
      with more particles, to a `Tensor` of that shape and an event.
    num_states: Python `int`.
    global_state: Nested structure of `Tensor`s of shape `shape + event`.
    shape: `TensorShape`: `[num_particles] + batch`.
    dtype: The dtype of a local state.
    event_rank: Python `int`: the rank of the events that `fn` returns.

  Returns:
    values: `Tensor` of shape `shape + [num_states] + event`.
  """
  num_particles, rank = shape[0], shape.rank
  longer = tf.TensorShape([num_states * num_particles]) + shape[1:]
  states = tf.cast(tf.repeat(tf.range(num_states), num_particles), dtype)
  states = tf.broadcast_to(tf.reshape(states, [-1] + [1] * (rank - 1)), longer)
  tiled = tf.nest.map_structure(
    lambda x: tf.tile(x, [num_states] + [1] * (x.shape.rank - 1)), global_state
  )
  values = fn(states, tiled, longer)
  event = values.shape[values.shape.rank - event_rank :]
  values = tf.broadcast_to(values, longer + event)
  values = tf.reshape(values, [num_states] + shape + event)
  axes = [*range(1, rank + 1), 0, *range(rank + 1, rank + 1 + event_rank)]
  return tf.transpose(values, axes)


class _NamedCall:
  """A function that is called with as many arguments as it takes.

  Fields:
    names_step: Python `bool`: whether the function takes `t`.
    names_inputs: Python `bool`: whether it takes `u`.
  """

  def __init__(self, fn, keywords, num_values, extras):
    self._fn = fn
    self._keywords = keywords
    self._num_values = num_values
    self._extras = extras
    self.names_step = 't' in extras
    self.names_inputs = 'u' in extras

  def __call__(self, *values, t=None, u=None):
    values = values[: self._num_values]
    if not self._extras:
      return self._fn(*values)
    named = dict(t=t, u=u)
    extras = {name: named[name] for name in self._extras}
    if self._keywords is None:
      return self._fn(*values, **extras)
    # Values are passed by name, as an extra argument may stand between two.
    return self._fn(**dict(zip(self._keywords, values, strict=True)), **extras)


def call_with_named(
  name: str,
  fn: Callable,
  values: tuple[str, ...],
  extras: tuple[str, ...] = (),
  has_last: bool = True,
) -> _NamedCall:
  """Reads the signature of a function, to call it with arguments it names.

  Args:
    name: Python `str` name of the argument that the function is.
    fn: Python callable.
    values: Names of the values that are passed by position. A function may take
      fewer of them, which are then the first ones.
    extras: The extra arguments that a function may name, of `'t'` and `'u'`.
      These names mean extra arguments after the first value, or anywhere if
      there is no value.
    has_last: Python `bool`: whether the last value is more than `()`. If not, a
      function need not take it, and gets it only for a required parameter.
      Default value: `True`.

  Returns:
    call: Python callable from the values, `t` and `u`.

  Raises:
    ValueError: If the function requires arguments that do not exist, or names
      an extra one and does not take all values.

  ```python
  from tfp_nvi.state_space import functions

  call = functions.call_with_named(
    'transition_fn', lambda z, t: (z, t), ('z', 'theta'), ('t',), has_last=False
  )
  assert call(1.0, (), t=3) == (1.0, 3)
  ```
  """
  try:
    parameters = list(inspect.signature(fn).parameters.values())
  except (TypeError, ValueError):  # Some functions are written in C.
    return _NamedCall(fn, None, len(values), ())
  kinds = inspect.Parameter
  num_real = len(values) if has_last else len(values) - 1
  positional: list = []
  named: list = []
  for parameter in parameters:
    if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
      continue
    # The first parameter is a state, whatever its name.
    is_state = num_real > 0 and not positional
    if (
      parameter.name in ('t', 'u')
      and parameter.kind != kinds.POSITIONAL_ONLY
      and not (is_state and parameter.kind == kinds.POSITIONAL_OR_KEYWORD)
    ):
      # A parameter without such an argument may be left to its default.
      if parameter.name in extras or parameter.default is kinds.empty:
        named.append(parameter.name)
    elif parameter.kind != kinds.KEYWORD_ONLY:
      positional.append(parameter)
  required = sum(p.default is kinds.empty for p in positional)
  takes_all = any(p.kind == kinds.VAR_POSITIONAL for p in parameters)
  if takes_all or (not has_last and required == len(values)):
    num_values = len(values)
  else:
    num_values = min(len(positional), num_real)
  missing = [x for x in named if x not in extras]
  if required > num_values or missing:
    expected = ', '.join((*values[:num_real], *extras))
    reason = (
      f' `{missing[0]}` is not there'
      + (
        '; `input_example` of the model says what inputs are.'
        if missing[0] == 'u'
        else '.'
      )
      if missing
      else ''
    )
    raise ValueError(
      f'`{name}` must be a function of ({expected}), or of less; got one of '
      f'({", ".join(p.name for p in parameters)}).{reason}'
    )
  if named and num_values < num_real:
    raise ValueError(
      f'`{name}` names `{named[0]}` and must therefore take all of '
      f'({", ".join(values[:num_real])}) before it; got a function of '
      f'({", ".join(p.name for p in parameters)}).'
    )
  keywords = None
  if not takes_all and all(
    p.kind == kinds.POSITIONAL_OR_KEYWORD for p in positional
  ):
    keywords = [p.name for p in positional[:num_values]]
  return _NamedCall(fn, keywords, num_values, tuple(named))


def check_distribution(
  name: str,
  distribution: Any,
  shape: tf.TensorShape,
  like: tuple[types.Structure, types.Structure] | None = None,
) -> None:
  """Raises an error if a function did not return the distribution it should.

  Args:
    name: Python `str` name of the argument.
    distribution: The value that the function returned.
    shape: `TensorShape` that the batch shape is to broadcast to.
    like: Optional pair of nested structures: dtypes and event shapes.

  Raises:
    TypeError: If the value is not a distribution.
    ValueError: If dtypes or shapes are wrong.
  """
  checks.check_returned_instance(
    name, distribution, tfd.Distribution, 'a tfd.Distribution'
  )
  if like is not None:
    ours = describe(distribution.dtype), describe(distribution.event_shape)
    theirs = tuple(map(describe, like))
    # The order of the names of a dictionary does not matter.
    if tf.nest.flatten(ours) != tf.nest.flatten(theirs):
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


def check_parameters(name: str, distribution: tfd.Distribution) -> None:
  """Raises an error if parameters of a distribution are invalid.

  The function finds probabilities that do not sum to one, and negative or NaN
  scales and rates, where values are known. It looks inside of joint
  distributions and mixtures too.

  Args:
    name: Python `str` name of the argument that returned the distribution.
    distribution: `tfd.Distribution`.

  Raises:
    ValueError: If a parameter is wrong.
  """
  if isinstance(distribution, tfd.JointDistribution):
    parts, _ = distribution.sample_distributions(seed=randomness.as_seed(0))
    for part in tf.nest.flatten(parts):
      check_parameters(name, part)
    return
  # Attributes of TFP's meta-distributions.
  for attribute in (
    'distribution',
    'mixture_distribution',
    'components_distribution',
  ):
    part = getattr(distribution, attribute, None)
    if isinstance(part, tfd.Distribution):
      check_parameters(name, part)
  for parameter in _POSITIVE:
    value = distribution.parameters.get(parameter)
    if value is None or isinstance(value, tf.linalg.LinearOperator):
      continue
    value = tf.convert_to_tensor(value)
    if not reductions.has_values(value):
      continue
    is_wrong = np.logical_not(value.numpy() >= 0.0)
    if is_wrong.any():
      raise ValueError(
        f'`{name}` must return a distribution whose `{parameter}` is not '
        f'negative; it returned a {type(distribution).__name__} with '
        f'{value.numpy()[is_wrong][0]:g}.'
      )
  probs = getattr(distribution, 'probs', None)
  if probs is None or not isinstance(
    distribution, (tfd.Categorical, tfd.OneHotCategorical)
  ):
    return
  probs = tf.convert_to_tensor(probs)
  if not reductions.has_values(probs):
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

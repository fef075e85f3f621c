# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The steps of sequences: their axis, and loops over them."""

import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import types
from tfp_nvi.state_space import missing

if typing.TYPE_CHECKING:
  from tfp_nvi.state_space.model import StateSpaceModel

tfd = tfp.distributions

__all__ = [
  'Steps',
  'arrays_like',
  'as_steps',
  'loop',
  'stack',
  'steps_first',
  'steps_last',
  'write',
]


class Steps(NamedTuple):
  """Sequences with the steps first, as the recursions take them.

  Fields:
    observations: Nested structure of `Tensor`s of shape
      `[num_steps] + batch + event`.
    is_observed: `None`, or bool `Tensor` of shape `[num_steps] + batch`.
    components: `None`, or the structure of the observations, with bools: which
      components are observed.
    inputs: Nested structure of `Tensor`s of shape
      `[num_steps] + batch + event`; `()` if there are none.
    num_steps: Python `int`.
    shape: `TensorShape`: `[num_particles] + batch`.
  """

  observations: Any
  is_observed: Any
  components: Any
  inputs: Any
  num_steps: int
  shape: tf.TensorShape

  def at(self, t: int | tf.Tensor) -> tuple:
    """Returns the observation and the inputs of a step."""
    return tf.nest.map_structure(
      lambda x: x[t], (self.observations, self.inputs)
    )

  def mask(self, t: int | tf.Tensor) -> tf.Tensor | None:
    """Returns whether each particle's step is observed; `None` if all are."""
    if self.is_observed is None:
      return None
    return tf.broadcast_to(self.is_observed[t], self.shape)

  def observed(
    self,
    distribution: tfd.Distribution,
    x: types.Structure,
    t: int | tf.Tensor,
  ) -> tfd.Distribution:
    """Returns the distribution of the observed components of a step."""
    if self.components is None:
      return distribution
    mask = tf.nest.map_structure(lambda x: x[t], self.components)
    return missing.marginal(distribution, x, mask)


def as_steps(
  model: 'StateSpaceModel',
  observations: types.Structure,
  is_observed: types.Structure | None,
  global_state: types.Structure,
  inputs: types.Structure | None,
) -> Steps:
  """Returns sequences of the model, for particles with these global states.

  Args:
    model: `StateSpaceModel`.
    observations: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`.
    is_observed: As in `Heuristic.prepare`.
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    inputs: Nested structure of `Tensor`s like `observations`, or `None`.

  Returns:
    steps: `Steps`.
  """
  example = model.example
  parts = list(
    zip(
      tf.nest.flatten(observations),
      tf.nest.flatten(example.observation_like[1]),
      strict=True,
    )
  )
  leading = parts[0][0].shape[: parts[0][0].shape.rank - parts[0][1].rank]
  rank = leading.rank - 1
  # Without global states, one particle stands for all.
  num_particles = 1
  if model.prior is not None:
    num_particles = tf.nest.flatten(global_state)[0].shape[0]

  def first(x):
    return tf.nest.map_structure(lambda x: steps_first(x, rank), x)

  by_step, components = missing.split(
    is_observed, observations, example.observation_like[1]
  )
  return Steps(
    observations=first(observations),
    is_observed=None if by_step is None else first(by_step),
    components=None if components is None else first(components),
    inputs=first(() if inputs is None else inputs),
    num_steps=leading[-1],
    shape=tf.TensorShape([num_particles]) + leading[:-1],
  )


def steps_first(x: tf.Tensor, batch_rank: int, axes: int = 0) -> tf.Tensor:
  """Moves the axis over steps, behind the batch axes, to the front.

  Args:
    x: `Tensor` of shape `batch + [num_steps] + event`.
    batch_rank: Python `int`.
    axes: Python `int`: how many axes of size one to insert after it.

  Returns:
    x: `Tensor` of shape `[num_steps] + [1] * axes + batch + event`.

  ```python
  import tensorflow as tf
  from tfp_nvi.state_space import steps

  assert steps.steps_first(tf.ones([2, 7]), 1, axes=1).shape == [7, 1, 2]
  ```
  """
  rest = range(batch_rank + 1, x.shape.rank)
  x = tf.transpose(x, [batch_rank, *range(batch_rank), *rest])
  for _ in range(axes):
    x = x[:, tf.newaxis]
  return x


def steps_last(x: tf.Tensor, batch_rank: int) -> tf.Tensor:
  """Moves the first axis, over steps, behind the batch axes."""
  axes = [*range(1, batch_rank + 1), 0, *range(batch_rank + 1, x.shape.rank)]
  return tf.transpose(x, axes)


def arrays_like(example: types.Structure, num_steps: int) -> types.Structure:
  """Returns a structure of `TensorArray`s for values like these."""
  return tf.nest.map_structure(
    lambda x: tf.TensorArray(x.dtype, num_steps, element_shape=x.shape), example
  )


def write(
  arrays: types.Structure, t: int | tf.Tensor, values: types.Structure
) -> types.Structure:
  """Writes the values of a step to a structure of `TensorArray`s."""
  return tf.nest.map_structure(
    lambda array, x: array.write(t, x), arrays, values
  )


def stack(arrays: types.Structure, batch_rank: int) -> types.Structure:
  """Stacks `TensorArray`s of all steps, with the steps behind batch axes."""
  return tf.nest.map_structure(
    lambda array: steps_last(array.stack(), batch_rank), arrays
  )


def loop(
  num_steps: int, body: Callable, carry: types.Structure
) -> types.Structure:
  """Calls `carry = body(t, carry)` for `t = 1, ..., num_steps - 1`."""
  if num_steps == 1:
    return carry
  _, carry = tf.while_loop(
    lambda t, _: t < num_steps,
    lambda t, carry: (t + 1, body(t, carry)),
    (tf.constant(1), carry),
    parallel_iterations=1,
    maximum_iterations=num_steps - 1,
  )
  return carry

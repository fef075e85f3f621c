# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The filter's particles at all steps, and estimates from them.

Contract: at each step the particles and their weights are those of the
filtering distribution `p(theta, z_t | x_{0:t})`: the heuristic factor is
divided out. With a heuristic that looks far ahead, the particles are where the
whole sequence suggests the states, and few of them may be effective for a
filter. `effective_sample_sizes` shows this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import resampling, weighting
from tfp_nvi.internal import axes, randomness, types
from tfp_nvi.state_space import functions
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib

__all__ = [
  'FilterHistory',
  'draw_backward',
  'draw_index',
  'draw_next',
]


class FilterHistory(NamedTuple):
  """The particles of all steps.

  Fields:
    initial_global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`: those of level 0.
    root: int32 `Tensor` of shape `[num_steps, num_particles] + batch`: the
      index of each particle's global state among these.
    local_states: Nested structure of `Tensor`s of shape
      `[num_steps, num_particles] + batch + event`.
    log_weights: float `Tensor` of shape `[num_steps, num_particles] + batch`:
      the mean weight of a step estimates `p(x_{0:t})`.
  """

  initial_global_state: Any
  root: tf.Tensor
  local_states: Any
  log_weights: tf.Tensor

  @property
  def effective_sample_sizes(self) -> tf.Tensor:
    """Effective sample sizes of the filter, of shape `[num_steps] + batch`."""
    return tf.map_fn(weighting.effective_sample_size, self.log_weights)

  @property
  def log_scores(self) -> tf.Tensor:
    """`log p(x_t | x_{0:t-1})`, of shape `[num_steps] + batch`."""
    total = tf.map_fn(weighting.log_normalizer, self.log_weights)
    return tf.concat([total[:1], total[1:] - total[:-1]], axis=0)

  def expectation(self, fn: Callable) -> types.Structure:
    """Computes filtered expectations.

    Args:
      fn: Python callable from the global state and the local state of a step to
        a nested structure of `Tensor`s of shape
        `[num_particles] + batch + any`; or from the local state alone, where
        the model has no global state.

    Returns:
      expectation: Nested structure of `Tensor`s of shape
        `[num_steps] + batch + any`.
    """
    fn = functions.of_states(fn, self.log_weights.dtype)

    def at_step(step):
      root, z, log_weights = step
      weights = weighting.normalize_weights(log_weights)
      theta = tf.nest.map_structure(
        lambda x: resampling.gather_ancestors(x, root),
        self.initial_global_state,
      )
      return tf.nest.map_structure(
        lambda x: weighting.weighted_mean(weights, x), fn(theta, z)
      )

    values = [
      at_step(tf.nest.map_structure(lambda x, t=t: x[t], self[1:]))
      for t in range(self.log_weights.shape[0])
    ]
    return tf.nest.map_structure(lambda *x: tf.stack(x), *values)


def draw_index(
  log_weights: tf.Tensor,
  seed: types.StatelessSeed,
  num_draws: int | None = None,
) -> tf.Tensor:
  """Draws indices of particles by their weights, independently.

  Args:
    log_weights: float `Tensor` of shape `[num_particles] + shape`.
    seed: Stateless seed.
    num_draws: Python `int`, for a first axis over draws.
      Default value: `None` (i.e., one draw without an axis).

  Returns:
    index: int32 `Tensor` of shape `shape`, or `[num_draws] + shape`.
  """
  weights = weighting.normalize_weights(log_weights)
  ends = tf.cumsum(weights, axis=0)
  shape = log_weights.shape[1:].as_list()
  if num_draws is not None:
    shape = [num_draws] + shape
    ends = ends[:, tf.newaxis]
  # The last end may be rounded to less than one.
  u = randomness.uniform(shape, seed, log_weights.dtype) * ends[-1]
  index = tf.reduce_sum(tf.cast(ends <= u, tf.int32), axis=0)
  return tf.minimum(index, log_weights.shape[0] - 1)


def draw_next(
  model: model_lib.StateSpaceModel,
  history: FilterHistory,
  num_draws: int,
  seed: types.StatelessSeed,
  inputs: types.Structure = (),
) -> types.Structure:
  """Draws the observation of each step given those of the steps before it.

  Args:
    model: `StateSpaceModel`.
    history: `FilterHistory`.
    num_draws: Python `int`.
    seed: Stateless seed.
    inputs: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`; `()` if there are none.

  Returns:
    observations: Nested structure of `Tensor`s of shape
      `[num_draws] + batch + [num_steps - 1] + event`: those of the second step
      and after.
  """
  num_steps, *shape = history.log_weights.shape.as_list()
  rank = len(shape) - 1
  shape = tf.TensorShape([num_draws, *shape[1:]])
  seeds = tf.reshape(
    randomness.split_seed(seed, 3 * num_steps), [num_steps, 3, 2]
  )
  inputs = tf.nest.map_structure(
    lambda x: steps_lib.steps_first(x, rank), inputs
  )

  def draw(t):
    root, z, log_weights = tf.nest.map_structure(
      lambda x: tf.gather(x, t), tuple(history[1:])
    )
    theta = tf.nest.map_structure(
      lambda x: resampling.gather_ancestors(x, root),
      history.initial_global_state,
    )
    (theta, z), _ = resampling.resample(
      (theta, z),
      log_weights,
      resampling.resample_systematic,
      seeds[t, 0],
      num_draws=num_draws,
    )
    u = tf.nest.map_structure(lambda x: x[t + 1], inputs)
    named = dict(t=t + 1, u=u, shape=shape)
    z = model_lib.sample_of_shape(
      model.transition(z, theta, **named), shape.as_list(), seeds[t, 1]
    )
    return model_lib.sample_of_shape(
      model.observation(z, theta, **named), shape.as_list(), seeds[t, 2]
    )

  first = draw(tf.constant(0))
  arrays = steps_lib.loop(
    num_steps - 1,
    lambda t, arrays: steps_lib.write(arrays, t, draw(t)),
    steps_lib.write(steps_lib.arrays_like(first, num_steps - 1), 0, first),
  )
  return steps_lib.stack(arrays, rank + 1)


def draw_backward(
  model: model_lib.StateSpaceModel,
  history: FilterHistory,
  num_draws: int,
  seed: types.StatelessSeed,
  inputs: types.Structure = (),
) -> types.Structure:
  """Draws trajectories by backward simulation.

  The state of the last step is drawn by its weight, and that of each step
  before by its weight times the transition to the state drawn after it. The
  trajectories do not share their past, as those that are read back along their
  ancestors do.

  Args:
    model: `StateSpaceModel` without a prior.
    history: `FilterHistory`.
    num_draws: Python `int`.
    seed: Stateless seed.
    inputs: Nested structure of `Tensor`s of shape
      `batch + [num_steps] + event`; `()` if there are none.

  Returns:
    trajectories: Nested structure of `Tensor`s of shape
      `[num_draws] + batch + [num_steps] + event`.

  #### References

  [1]: S. J. Godsill, A. Doucet, M. West. Monte Carlo smoothing for nonlinear
       time series. Journal of the American Statistical Association, 99(465),
       2004.
  """
  num_steps = history.log_weights.shape[0]
  shape = history.log_weights.shape[1:]
  rank = shape.rank - 1
  seeds = randomness.split_seed(seed, num_steps)
  inputs = tf.nest.map_structure(
    lambda x: steps_lib.steps_first(x, rank), inputs
  )

  def states_at(t, index):
    return tf.nest.map_structure(
      lambda x: resampling.gather_ancestors(tf.gather(x, t), index),
      history.local_states,
    )

  last = num_steps - 1
  index = draw_index(history.log_weights[last], seeds[last], num_draws)
  z = states_at(last, index)

  def body(i, carry):
    z, arrays = carry
    t = last - i
    before = tf.nest.map_structure(lambda x: x[t], history.local_states)
    u = tf.nest.map_structure(lambda x: x[t + 1], inputs)
    transition = model.transition(before, (), t + 1, u, shape)
    # Of shape `[num_draws, num_particles] + batch`.
    log_prob = transition.log_prob(
      tf.nest.map_structure(lambda x: x[:, tf.newaxis], z)
    )
    log_weights = tf.broadcast_to(
      history.log_weights[t] + log_prob, [num_draws] + shape
    )
    index = draw_index(axes.swap_first_axes(log_weights), seeds[t])
    z = states_at(t, index)
    return z, steps_lib.write(arrays, t, z)

  arrays = steps_lib.write(steps_lib.arrays_like(z, num_steps), last, z)
  _, arrays = steps_lib.loop(num_steps, body, (z, arrays))
  return steps_lib.stack(arrays, shape.rank)

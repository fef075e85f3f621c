# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Smoothed trajectories that do not share their past.

The trajectories of a `StateSpacePosterior` are read back along the ancestors of
the particles, and after many steps have few different beginnings. Backward
simulation draws them anew. Global states are drawn first, and each one has a
filter of its own.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import resampling
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.state_space import history
from tfp_nvi.state_space.sampler import StateSpaceSampler
from tfp_nvi.state_space.sequences import Sequences

__all__ = [
  'SmoothedDraws',
  'repeat_parts',
  'smooth',
]


class SmoothedDraws(NamedTuple):
  """Draws from the smoothing distribution, of equal weight.

  Fields:
    global_state: Nested structure of `Tensor`s of shape `[num_draws] + event`;
      `()` if the model has none.
    trajectories: Nested structure of `Tensor`s of shape
      `[num_draws, num_steps] + event`.
  """

  global_state: Any
  trajectories: Any


def repeat_parts(parts: tuple, size: int) -> tuple:
  """Returns the parts of a batch that repeats a single sequence.

  Args:
    parts: `Sequences.parts()`, without batch axes.
    size: Python `int`.

  Returns:
    parts: As in `Sequences.parts`.
  """
  return tuple(
    part
    if part is None
    else tf.nest.map_structure(
      lambda x: tf.broadcast_to(x, [size] + x.shape), part
    )
    for part in parts
  )


def smooth(
  sampler: StateSpaceSampler,
  observations: types.Structure,
  num_draws: int = 200,
  num_particles: int = 200,
  *,
  num_global: int = 2_000,
  is_observed: types.Structure | None = None,
  inputs: types.Structure | None = None,
  jit_compile: bool = True,
  seed: types.Seed | None = None,
) -> SmoothedDraws:
  """Draws smoothed trajectories of a sequence by backward simulation.

  Global states are drawn from a run of the sampler. Each of them has a filter
  of its own, and one trajectory drawn from it backwards; without global states
  there is one filter, and all trajectories are drawn from it. The draws are
  from the posterior in the limit of many particles.

  Args:
    sampler: `StateSpaceSampler`.
    observations: Nested structure of `Tensor`s of shape `[num_steps] + event`:
      one sequence.
    num_draws: Python `int`.
      Default value: `200`.
    num_particles: Python `int`: particles of each filter.
      Default value: `200`.
    num_global: Python `int`: the particles of the run that the global states
      are drawn from.
      Default value: `2_000`.
    is_observed: As in `StateSpaceSampler.sample`.
    inputs: As in `StateSpaceSampler.sample`.
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    draws: `SmoothedDraws`.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If the arguments are not one sequence of the model.

  #### References

  [1]: S. J. Godsill, A. Doucet, M. West. Monte Carlo smoothing for nonlinear
       time series. Journal of the American Statistical Association, 99(465),
       2004.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(0.9 * z, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.4),
  )
  sampler = nvi.StateSpaceSampler(model, proposal_fn='guided')
  draws = nvi.smooth(sampler, [0.1, 0.5, 0.8], num_draws=50, seed=1)
  assert draws.trajectories.shape == [50, 3]
  ```
  """
  checks.check_instance(
    'sampler', sampler, StateSpaceSampler, 'a StateSpaceSampler'
  )
  num_draws = checks.as_count('num_draws', num_draws)
  num_particles = checks.as_count('num_particles', num_particles)
  checks.check_bool('jit_compile', jit_compile)
  sequences = as_single(sampler, observations, is_observed, inputs)
  global_seed, draw_seed, seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 3)
  )
  has_globals = sampler.model.prior is not None
  theta: Any = ()
  parts = sequences.parts()
  if has_globals:
    posterior = sampler.sample(
      observations,
      checks.as_count('num_global', num_global),
      global_seed,
      is_observed=is_observed,
      inputs=inputs,
      trajectories=False,
      jit_compile=jit_compile,
    )
    theta, _ = resampling.resample(
      posterior.global_state,
      posterior.log_weights,
      resampling.resample_systematic,
      draw_seed,
      num_draws=num_draws,
    )
    parts = repeat_parts(parts, num_draws)

  def run(parts, theta, seed):
    filter_seed, back_seed = tf.unstack(randomness.split_seed(seed, 2))
    # A heuristic would move the filter's particles away from the states to
    # which the filter gives weight.
    given = sampler.given(theta, int(has_globals), looks_ahead=False)
    posterior = given.run_once(parts, num_particles, filter_seed, history=True)
    path = history.draw_backward(
      given.model,
      posterior.history,
      1 if has_globals else num_draws,
      back_seed,
      inputs=parts[3],
    )
    if has_globals:
      path = tf.nest.map_structure(lambda x: x[0], path)
    return path

  fn = sampler.compiled(
    ('smooth', num_draws, num_particles, jit_compile), run, jit_compile
  )
  return SmoothedDraws(theta, fn(parts, theta, seed))


def as_single(sampler, observations, is_observed, inputs) -> Sequences:
  """Converts and checks one sequence."""
  sequences = Sequences(
    sampler.model.example, observations, is_observed, None, inputs
  )
  if sequences.batch_shape.rank != 0:
    raise ValueError(
      '`observations` must be one sequence, without batch axes; got the batch '
      f'shape {sequences.batch_shape.as_list()}.'
    )
  return sequences

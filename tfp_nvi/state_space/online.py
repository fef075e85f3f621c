# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A filter for observations that arrive one by one.

Contract: the results equal those of `StateSpaceSampler.sample` with the same
seed, for sequences of `max_steps` steps. A step takes the same time and memory,
whatever the number of steps before.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import resampling, runs, weighting
from tfp_nvi import sampler as sampler_lib
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.state_space import functions, missing, proposals
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.densities import StateSpaceDensities
from tfp_nvi.state_space.sampler import StateSpaceSampler
from tfp_nvi.state_space.sequences import Sequences
from tfp_nvi.state_space.transition import StepTransition

__all__ = [
  'OnlineFilter',
  'OnlineState',
]


class OnlineState(NamedTuple):
  """The state of the filter after some steps.

  Fields:
    step: Scalar int32 `Tensor`: how many observations there have been.
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`; `()` if the model has none.
    local_state: Likewise; zero before the first step.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    log_score: float `Tensor` of shape `batch`: `log p(x_t | x_{0:t-1})` of the
      latest observation.
    particles: `Particles`, for the next step.
    seed: Stateless seed.
  """

  step: tf.Tensor
  global_state: Any
  local_state: Any
  log_weights: tf.Tensor
  log_score: tf.Tensor
  particles: Any
  seed: tf.Tensor

  @property
  def log_normalizer(self) -> tf.Tensor:
    """Estimate of `log p(x_{0:t})`, of shape `batch`."""
    return weighting.log_normalizer(self.log_weights)

  @property
  def effective_sample_size(self) -> tf.Tensor:
    """Effective sample size of the particles, of shape `batch`."""
    return weighting.effective_sample_size(self.log_weights)


class _Window(StepTransition):
  """A transition for sequences that have the latest step alone."""

  def _at_step(self, x, step):
    del step
    rank = self._densities.batch_shape.rank
    return tf.nest.map_structure(lambda x: steps_lib.steps_first(x, rank)[0], x)


class OnlineFilter:
  """Takes observations one by one.

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
  online = nvi.OnlineFilter(sampler, num_particles=100)
  state = online.init(seed=1)
  for x in [0.1, 0.5, 0.8]:
    state = online.update(state, x)
    mean = online.estimate(state, lambda theta, z: z)
    next_x = online.predict(state, num_draws=10, seed=2)
  ```
  """

  def __init__(
    self,
    sampler: StateSpaceSampler,
    num_particles: int = 2_000,
    batch_shape: types.Shape = (),
    max_steps: int = 1_000,
    jit_compile: bool = True,
  ):
    """Initializes the filter.

    Args:
      sampler: `StateSpaceSampler` that does not look ahead: without a heuristic
        and without a proposal of the global state.
      num_particles: Python `int`.
        Default value: `2_000`.
      batch_shape: List of Python `int`s: the sequences that are filtered
        together.
        Default value: `()`.
      max_steps: Python `int`: the largest number of steps.
        Default value: `1_000`.
      jit_compile: Python `bool`: whether to compile with XLA.
        Default value: `True`.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the sampler looks ahead.
    """
    checks.check_instance(
      'sampler', sampler, StateSpaceSampler, 'a StateSpaceSampler'
    )
    checks.check_bool('jit_compile', jit_compile)
    if sampler.heuristic is not None or sampler.initial_proposal_fn is not None:
      raise ValueError(
        '`sampler` must not look at observations to come, as one with an '
        '`initial_proposal_fn` or a `heuristic` does, such as that of '
        "`fit_state_space`. StateSpaceSampler(model, proposal_fn='guided') "
        'does not.'
      )
    self._sampler = sampler
    self._num_particles = checks.as_count('num_particles', num_particles)
    self._batch_shape = checks.as_batch_shape('batch_shape', batch_shape)
    self._max_steps = checks.as_count('max_steps', max_steps)
    compile_fn = lambda fn: tf.function(  # noqa: E731
      fn, jit_compile=jit_compile, autograph=False
    )
    self._init = compile_fn(self._start)
    self._first = compile_fn(lambda *args: self._step(0, *args))
    self._later = compile_fn(lambda *args: self._step(1, *args))

  def _nested(self, window):
    """Returns the nested sampler of a step."""
    sampler, model = self._sampler, self._sampler.model
    densities = StateSpaceDensities(model, window)
    densities.num_steps = self._max_steps
    densities.num_densities = self._max_steps + 1
    steps = [
      _Window(densities, sampler.local_proposal, is_first, False)
      for is_first in (True, False)[: min(self._max_steps, 2)]
    ]
    return sampler_lib.NestedSampler(
      densities,
      steps,
      initial_proposal=proposals.NoGlobalProposal()
      if model.prior is None
      else proposals.GlobalProposal(lambda: model.prior, densities),
      **sampler.resampling,
    )

  def _window(self, x=None, is_observed=None, u=None):
    """Returns sequences of one step."""
    example = self._sampler.model.example
    shape = self._batch_shape + [1]
    if x is None:
      x, u = tf.nest.map_structure(
        lambda x: tf.broadcast_to(x, shape + x.shape),
        (example.observation, example.inputs),
      )
    else:
      axis = self._batch_shape.rank
      x, u = tf.nest.map_structure(
        lambda x: tf.expand_dims(x, axis), (x, () if u is None else u)
      )
    if is_observed is not None:
      axis = self._batch_shape.rank
      is_observed = tf.nest.map_structure(
        lambda x: tf.expand_dims(
          tf.broadcast_to(x, self._batch_shape + x.shape[axis:]), axis
        ),
        is_observed,
      )
    return Sequences(example, x, is_observed, None, u)

  def _start(self, seed):
    run = self._nested(self._window()).start(
      self._num_particles, seed, reparameterize=False
    )
    return run.initial

  def init(self, seed: types.Seed | None = None) -> OnlineState:
    """Returns the state before the first observation.

    Args:
      seed: Python `int` or stateless seed.

    Returns:
      state: `OnlineState`.
    """
    seed = randomness.as_seed(seed)
    particles = self._init(seed)
    zero = tf.zeros(self._batch_shape, particles.log_weights.dtype)
    return _as_state(tf.constant(0), particles, zero, seed)

  def _step(self, segment_index, state, x, is_observed, u):
    """Takes an observation, in a compiled function."""
    sampler = self._nested(self._window(x, is_observed, u))
    # This plans the seeds again, as they were planned at the start.
    run = sampler.start(self._num_particles, state.seed, reparameterize=False)
    segment = run.segments[segment_index]
    level = 0 if segment_index == 0 else state.step - 1
    noise = segment.transition.draw_level_noise(
      run.sample_shape, segment.noise_seed, level
    )
    record = sampler.step(run, segment, level, state.particles, noise)
    particles = record.particles
    before = weighting.log_normalizer(state.log_weights)
    score = weighting.log_normalizer(particles.log_weights) - before
    return _as_state(state.step + 1, particles, score, state.seed)

  def update(
    self,
    state: OnlineState,
    x: types.Structure,
    is_observed: types.Structure | None = None,
    u: types.Structure | None = None,
  ) -> OnlineState:
    """Returns the state after one more observation.

    Args:
      state: `OnlineState`.
      x: Nested structure of `Tensor`s of shape `batch + event`: the
        observation.
      is_observed: Optional bool `Tensor` of shape `batch`: whether there is an
        observation. Or bools in the structure of `x`, of shape `batch + event`:
        which components are observed.
        Default value: `None` (i.e., all is observed).
      u: Nested structure of `Tensor`s of shape `batch + event`: the inputs of
        the step, if the model has any.
        Default value: `None`.

    Returns:
      state: `OnlineState`.

    Raises:
      ValueError: If there have been `max_steps` steps, or the observation is
        not one of the model.
    """
    step = int(state.step)
    if step >= self._max_steps:
      raise ValueError(
        '`max_steps` must be at least the number of steps of the filter, '
        f'which has taken all of {self._max_steps}; make it with more.'
      )
    example = self._sampler.model.example
    x = model_lib.convert_like(
      'x', x, example.observation_like[0], 'the values of `observation_fn`'
    )
    tf.nest.map_structure(self._check_shape, x, example.observation)
    if is_observed is not None:
      convert = lambda x: tf.convert_to_tensor(x, tf.bool)  # noqa: E731
      if missing.is_by_step(is_observed, x, example.observation_like[1]):
        is_observed = convert(is_observed)
      else:
        is_observed = tf.nest.map_structure(
          lambda _, mask: convert(mask), x, is_observed
        )
    if u is not None:
      dtype = tf.nest.map_structure(lambda x: x.dtype, example.inputs)
      u = model_lib.convert_like('u', u, dtype, '`input_example`')
    # This checks the observation, whose values a compiled function does not
    # know.
    self._window(x, is_observed, u)
    fn = self._first if step == 0 else self._later
    return fn(state, x, is_observed, u)

  def _check_shape(self, x, example):
    """Raises an error unless there is one observation of each sequence."""
    expected = self._batch_shape + example.shape
    if not x.shape.is_compatible_with(expected):
      raise ValueError(
        f'`x` must have shape {expected}, `batch_shape` and that of the values '
        f'of `observation_fn`; got {x.shape}.'
      )

  @staticmethod
  def _check_started(state):
    if int(state.step) == 0:
      raise ValueError(
        '`state` must be that after one observation at least; got the one of '
        '`init`.'
      )

  def estimate(self, state: OnlineState, fn: Callable) -> types.Structure:
    """Computes filtered expectations.

    Args:
      state: `OnlineState` after one observation at least.
      fn: Python callable from the global and the local state to a nested
        structure of `Tensor`s of shape `[num_particles] + batch + any`; or from
        the local state alone, where the model has no global state.

    Returns:
      expectation: Nested structure of `Tensor`s of shape `batch + any`.

    Raises:
      ValueError: If there has been no observation.
    """
    fn = functions.of_states(fn, state.log_weights.dtype)
    self._check_started(state)
    weights = weighting.normalize_weights(state.log_weights)
    return tf.nest.map_structure(
      lambda x: weighting.weighted_mean(weights, x),
      fn(state.global_state, state.local_state),
    )

  def predict(
    self,
    state: OnlineState,
    num_draws: int = 1_000,
    seed: types.Seed | None = None,
    u: types.Structure | None = None,
  ) -> types.Structure:
    """Draws the observation of the next step.

    Args:
      state: `OnlineState` after one observation at least.
      num_draws: Python `int`.
        Default value: `1_000`.
      seed: Python `int` or stateless seed.
      u: As in `update`, of the next step.

    Returns:
      x: Nested structure of `Tensor`s of shape `[num_draws] + batch + event`.

    Raises:
      ValueError: If there has been no observation.
    """
    self._check_started(state)
    num_draws = checks.as_count('num_draws', num_draws)
    draw_seed, seed = tf.unstack(
      randomness.split_seed(randomness.as_seed(seed), 2)
    )
    (theta, z), _ = resampling.resample(
      (state.global_state, state.local_state),
      state.log_weights,
      resampling.resample_systematic,
      draw_seed,
      num_draws=num_draws,
    )
    rank = self._batch_shape.rank
    inputs = None
    if u is not None:
      inputs = tf.nest.map_structure(lambda x: tf.expand_dims(x, rank), u)
    lengths = tf.fill(self._batch_shape, state.step)
    _, x = self._sampler.model.continue_from(theta, z, lengths, 1, seed, inputs)
    return tf.nest.map_structure(lambda x: tf.squeeze(x, rank + 1), x)


def _as_state(step, particles: runs.Particles, score, seed) -> OnlineState:
  return OnlineState(
    step=step,
    global_state=particles.state.global_state,
    local_state=particles.state.local_state,
    log_weights=particles.log_weights,
    log_score=score,
    particles=particles,
    seed=seed,
  )

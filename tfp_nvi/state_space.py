# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models: densities whose state grows with the sequence.

What must hold: for a global state `eta`, local states `z_k` and observations
`x_k` the intermediate densities are

```none
gamma_0(eta)          = p(eta) psi(x_{1:K} | eta)
gamma_k(z_{1:k}, eta) = p(x_{1:k}, z_{1:k}, eta) psi(x_{k+1:K} | eta, z_k)
```

with a heuristic factor `psi`, one at `k = K` and everywhere if there is none. A
particle holds `eta`, `z_k` and its ancestors' indices; `z_{1:k-1}` is not kept,
as level `k` needs nothing of it: the factor `p(x_{1:k-1}, z_{1:k-1}, eta)` is
the same at both ends of a level and cancels,

```none
v_k = psi_k p(x_k | z_k, eta) p(z_k | z_{k-1}, eta) /
      (psi_{k-1} q(z_k | x_k, z_{k-1}, eta))
```

In the terms of the sampler, `psi_k` is the density of level `k`, and the rest
is the transition's: its forward kernel has the density `q`, its reverse kernel
the likelihood and the prior. Nothing is computed again from the start.

The sequence is a batch member. A step that is not observed has no likelihood
and is proposed from the prior. Where a sequence has ended, particles and their
weights stay as they are.
"""

import collections
import copy
import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import heuristics as heuristics_lib
from tfp_nvi import sampler as sampler_lib
from tfp_nvi import state_space_model as model_lib
from tfp_nvi import transitions as transitions_lib
from tfp_nvi import weighting
from tfp_nvi import proposals
from tfp_nvi.internal import axes, checks, randomness

tfd = tfp.distributions

__all__ = [
  'StateSpacePosterior',
  'StateSpaceSampler',
  'StateSpaceState',
]


class StateSpaceState(
  collections.namedtuple(
    'StateSpaceState',
    ['global_state', 'local_state', 'index', 'ancestor', 'root'],
  )
):
  """A particle of a level.

  Fields:
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`; `()` if the model has none.
    local_state: Likewise; zero at level 0, which has none.
    index: int32 `Tensor` of shape `[num_particles] + batch`: the particle's own
      place among those of its level, which resampling takes along.
    ancestor: Likewise: the place of its ancestor one level before.
    root: Likewise: the place of its ancestor at level 0.
  """

  __slots__ = ()


def _select(condition, if_true, if_false):
  """`tf.where` for values with event axes."""

  def select(x, y):
    axes = [1] * (x.shape.rank - condition.shape.rank)
    return tf.where(tf.reshape(condition, condition.shape + axes), x, y)

  return tf.nest.map_structure(select, if_true, if_false)


def _own_places(shape):
  """Each particle's own place, of a shape `[num_particles] + batch`."""
  return tf.broadcast_to(
    tf.reshape(tf.range(shape[0]), [-1] + [1] * (len(shape) - 1)), shape
  )


def _check_heuristic(heuristic):
  if heuristic is not None and not hasattr(heuristic, 'prepare'):
    raise TypeError(
      f'`heuristic` must be a Heuristic or None; got {heuristic!r}.'
    )


def _convert(name, value):
  try:
    return tf.convert_to_tensor(value)
  except (TypeError, ValueError) as e:
    raise ValueError(f'`{name}` must be a Tensor; got {value!r}.') from e


def _check_log_factor(log_factor, shape, dtype):
  """A tensor; raises an error if a heuristic returned something else."""
  try:
    log_factor = tf.convert_to_tensor(log_factor)
  except (TypeError, ValueError) as e:
    raise TypeError(
      f'`heuristic` must return a Tensor of log factors; it returned '
      f'{log_factor!r}.'
    ) from e
  if log_factor.dtype != dtype or not axes.broadcasts_to(
    log_factor.shape, tf.TensorShape(shape)
  ):
    raise ValueError(
      f'`heuristic` must return log factors of dtype {dtype.name} and shape '
      f'[num_particles] + batch, here {tf.TensorShape(shape).as_list()}; it '
      f'returned {log_factor.dtype.name} of shape '
      f'{log_factor.shape.as_list()}.'
    )
  return log_factor


class StateSpaceDensities(densities_lib.Densities):
  """The densities of a state-space model for some sequences."""

  is_rollable = True
  is_discrete = True  # Indices are, whatever the local states.

  def __init__(
    self,
    model,
    example,
    observations,
    heuristic=None,
    is_observed=None,
    lengths=None,
    name='state_space_densities',
  ):
    """Initializes the densities.

    Args:
      model: `StateSpaceModel`.
      example: What `make_example` makes of it.
      observations: Nested structure of `Tensor`s of shape
        `batch + [num_steps] + event`.
      heuristic: `Heuristic`.
        Default value: `None` (i.e., a factor of one).
      is_observed: Optional bool `Tensor` of shape `batch + [num_steps]`.
        Default value: `None` (i.e., all are).
      lengths: Optional int `Tensor` of shape `batch`: the steps of each
        sequence, if there are less than `num_steps`.
        Default value: `None` (i.e., `num_steps`).
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If shapes do not agree, a sequence has no steps, or an
        observation is NaN.
    """
    super().__init__(name=name)
    self.model = model
    self.heuristic = heuristic
    self.initial = model.prior
    self.float_dtype = example.dtype
    self.local_like = example.local_like
    self._event_shapes = example.observation_like[1]
    self._observation_example = example.observation
    observations = self._check_observations(observations, example)
    self._is_observed, self._lengths = self._check_masks(is_observed, lengths)
    self.observations = self._fill(observations)
    self._check_categories(example.num_categories)
    self._check_support(example.support)
    self.num_densities = self.num_steps + 1

  def _check_observations(self, observations, example):
    """Observations as tensors; raises an error if they are not sequences."""
    try:
      dtype = example.observation_like[0]
      # Lists of numbers are a Tensor, too.
      if tf.nest.is_nested(dtype):
        observations = tf.nest.map_structure(
          tf.convert_to_tensor, observations, dtype
        )
      else:
        observations = tf.convert_to_tensor(observations, dtype)
    except (TypeError, ValueError) as e:
      raise ValueError(
        '`observations` must be Tensors like the values of `observation_fn`, '
        f'of dtype {model_lib.describe(example.observation_like[0])}; got '
        f'{observations!r}.'
      ) from e
    leading = []
    for x, shape in zip(
      tf.nest.flatten(observations),
      tf.nest.flatten(self._event_shapes),
      strict=True,
    ):
      if not x.shape.is_fully_defined():
        raise ValueError(
          f'`observations` must have a known shape; got {x.shape}.'
        )
      rank = x.shape.rank - shape.rank
      if rank < 1 or x.shape[rank:] != shape:
        raise ValueError(
          '`observations` must have shape batch + [num_steps] + event, with '
          f'event shape {shape.as_list()}; got {x.shape.as_list()}.'
        )
      leading.append(x.shape[:rank])
    if any(shape != leading[0] for shape in leading):
      raise ValueError(
        '`observations` must have parts of the same batch shape and number of '
        f'steps; got {[shape.as_list() for shape in leading]}.'
      )
    if leading[0][-1] < 1:
      raise ValueError(
        '`observations` must have at least one step; got shape '
        f'{leading[0].as_list()}.'
      )
    self.batch_shape = leading[0][:-1]
    self.num_steps = leading[0][-1]
    return observations

  def _check_masks(self, is_observed, lengths):
    """Which steps are observed, and how many there are; `None` if all."""
    shape = self.batch_shape + [self.num_steps]
    if lengths is not None:
      lengths = _convert('lengths', lengths)
      if lengths.shape != self.batch_shape or not lengths.dtype.is_integer:
        raise ValueError(
          f'`lengths` must be integers of shape {self.batch_shape.as_list()}, '
          f'one for each sequence; got {lengths.dtype.name} of shape '
          f'{lengths.shape.as_list()}.'
        )
      lengths = tf.cast(lengths, tf.int32)
      if model_lib.has_values(lengths) and bool(
        tf.reduce_any((lengths < 1) | (lengths > self.num_steps))
      ):
        raise ValueError(
          f'`lengths` must be from 1 to {self.num_steps}, the number of steps '
          f'of `observations`; got {lengths.numpy()}.'
        )
    if is_observed is not None:
      is_observed = _convert('is_observed', is_observed)
      if is_observed.shape != shape or is_observed.dtype != tf.bool:
        raise ValueError(
          f'`is_observed` must be bools of shape {shape.as_list()}, one for '
          f'each step; got {is_observed.dtype.name} of shape '
          f'{is_observed.shape.as_list()}.'
        )
    if lengths is not None:
      exists = tf.range(self.num_steps) < lengths[..., tf.newaxis]
      is_observed = (
        exists if is_observed is None else tf.logical_and(is_observed, exists)
      )
    return is_observed, lengths

  def _fill(self, observations):
    """Fills steps that are not observed, so that densities there are finite."""
    is_observed, rank = self._is_observed, self.batch_shape.rank

    def fill(x, event_shape, example):
      if is_observed is not None:
        mask = tf.reshape(
          is_observed, is_observed.shape + [1] * event_shape.rank
        )
        # By one of the same sequence, or if it has none, by one of the model;
        # these are of the support.
        first = tf.argmax(tf.cast(is_observed, tf.int32), axis=-1)
        x = tf.where(
          mask,
          x,
          tf.where(
            tf.reduce_any(mask, axis=rank, keepdims=True),
            tf.gather(x, first[..., tf.newaxis], axis=rank, batch_dims=rank),
            example,
          ),
        )
      if x.dtype.is_floating and model_lib.has_values(x):
        is_nan = tf.math.is_nan(x).numpy()
        if is_nan.any():
          raise ValueError(
            '`observations` must not be NaN where they are observed; got NaN '
            f'at index {np.argwhere(is_nan)[0].tolist()}. Steps without an '
            'observation are told by `is_observed`.'
          )
      return x

    return tf.nest.map_structure(
      fill, observations, self._event_shapes, self._observation_example
    )

  def _check_categories(self, num_categories):
    """Raises an error if there are values that no category stands for."""
    x = self.observations
    if num_categories is None or not model_lib.has_values(x):
      return
    if bool(tf.reduce_any((x < 0) | (x >= num_categories))):
      raise ValueError(
        f'`observations` must be possible: categories from 0 to '
        f'{num_categories - 1}; got values from {tf.reduce_min(x)} to '
        f'{tf.reduce_max(x)}.'
      )

  def _check_support(self, support):
    """Raises an error if there are values outside of a fixed support."""
    x = self.observations
    if support is None or not model_lib.has_values(x):
      return
    x = tf.reshape(x, [-1, 1] + self._event_shapes.as_list())
    try:
      support.copy(validate_args=True).log_prob(x)
    except tf.errors.InvalidArgumentError as e:
      raise ValueError(
        '`observations` must be values that the distribution of '
        f'`observation_fn`, {type(support).__name__}, can have; got values '
        f'from {tf.reduce_min(x)} to {tf.reduce_max(x)}: {e.message}'
      ) from e

  @property
  def is_observed(self):
    """`None`, or bool `Tensor` of shape `batch + [num_steps]`."""
    return self._is_observed

  @property
  def lengths(self):
    """`None`, or int32 `Tensor` of shape `batch`."""
    return self._lengths

  def forward(self, state):
    """States are what a user sees."""
    return state

  def is_active(self, level):
    """Whether sequences have a step at a level; `None` if all do."""
    return None if self._lengths is None else level <= self._lengths

  def initial_state(self, global_state, sample_shape):
    """The state of level 0."""
    if sample_shape[1:] != self.batch_shape:
      raise ValueError(
        'A sampler for sequences runs with their batch shape, '
        f'{self.batch_shape.as_list()}, and cannot be a NestedProposal; got '
        f'{list(sample_shape[1:])}.'
      )
    index = _own_places(sample_shape)
    local_state = tf.nest.map_structure(
      lambda dtype, shape: tf.zeros(sample_shape + list(shape), dtype),
      *self.local_like,
    )
    return StateSpaceState(global_state, local_state, index, index, index)

  def make_proposal(self, distribution):
    """An initial proposal from a distribution over the global state."""
    return GlobalProposal(lambda: distribution, self)

  def given(self, move, cut):
    """Densities whose heuristic is prepared for the particles of level 0."""
    return _GivenDensities(self, move, cut)

  def prepare(self, global_state, num_particles):
    """The rows of the heuristic; `()` if there is none."""
    if self.heuristic is None:
      return ()
    rows = self.heuristic.prepare(
      self.observations, self._is_observed, global_state
    )
    try:
      rows = tf.nest.map_structure(tf.convert_to_tensor, rows)
    except (TypeError, ValueError) as e:
      raise TypeError(
        f'`heuristic` must prepare rows that are Tensors; got {rows!r}.'
      ) from e
    rank = self.batch_shape.rank
    leading = [self.num_steps, num_particles] + self.batch_shape
    for x in tf.nest.flatten(rows):
      shared = [self.num_steps, 1] + self.batch_shape
      if x.shape.rank < 2 + rank or x.shape[: 2 + rank] not in (
        leading,
        shared,
      ):
        raise ValueError(
          '`heuristic` must prepare rows of shape [num_steps, num_particles] + '
          f'batch + any, here {leading.as_list()} + any, or with one particle '
          f'in place of all; got {x.shape.as_list()}.'
        )
    return rows

  def evaluate(self, level, state):
    """Not to be called: what a level needs depends on level 0."""
    raise TypeError('State-space densities are evaluated by a sampler alone.')

  def log_prob(self, level, terms):
    """Log density of a level, given the terms."""
    del level
    return terms[0]

  def check(self, values, name='initial_proposal', batch_shape=None):
    """Raises an error if global states or the heuristic are not as they should.

    Args:
      values: Draws of the initial proposal.
      name: Python `str` name of the argument that they were drawn from.
      batch_shape: `TensorShape` that they should have.

    Raises:
      ValueError: If they have another structure, dtype or shape than the prior,
        or the heuristic is NaN, or `-inf` for all of them.
    """
    if batch_shape is None:
      batch_shape = self.batch_shape
    if self.model.prior is not None:
      leading = tf.nest.flatten(values)[0].shape[:1] + batch_shape
      densities_lib.check_values(
        name,
        values,
        self.model.prior.dtype,
        self.model.prior.event_shape,
        leading,
      )
    if self.heuristic is None:
      return
    num_particles = densities_lib.NUM_PROBES
    try:
      rows = self.prepare(values, num_particles)
    except (AttributeError, tf.errors.InvalidArgumentError) as e:
      shapes = tf.nest.map_structure(lambda x: x.shape.as_list(), values)
      raise ValueError(
        '`heuristic` must be able to prepare for observations of shape '
        f'batch + [num_steps] + event, with batch {batch_shape.as_list()} and '
        f'{self.num_steps} steps, and global states of shape {shapes}; it '
        f'failed: {e}'
      ) from e
    first = tf.nest.map_structure(lambda x: x[0], rows)
    log_factor = _check_log_factor(
      self.heuristic.log_factor(first, values, None),
      [num_particles] + batch_shape,
      self.float_dtype,
    )
    if not model_lib.has_values(log_factor):
      return
    if bool(tf.reduce_any(tf.math.is_nan(log_factor))):
      raise ValueError(
        '`heuristic` must return log factors that are numbers or -inf; it '
        'returned NaN for draws of the initial proposal.'
      )
    if bool(tf.reduce_all(tf.equal(log_factor, -float('inf')))):
      raise ValueError(
        '`heuristic` must be positive somewhere; its logarithm is -inf for all '
        f'of {densities_lib.NUM_PROBES} draws of the initial proposal.'
      )


class _GivenDensities(densities_lib.Densities):
  """Densities that know the global states of level 0, and `psi` of those."""

  is_rollable = True

  def __init__(self, densities, move, cut):
    self._densities = densities
    self._global_state = move.state.global_state
    self.batch_shape = densities.batch_shape
    self.num_densities = densities.num_densities
    self.float_dtype = densities.float_dtype
    self.is_active = densities.is_active
    self.log_prob = densities.log_prob
    self.forward = densities.forward
    # Later levels take what comes in from level 0 to be constant.
    self._is_constant = cut and bool(move.samples)
    fixed = self._global_state
    if self._is_constant:
      fixed = tf.nest.map_structure(tf.stop_gradient, fixed)
    self._num_particles = move.state.root.shape[0]
    self.prepared = densities.prepare(fixed, self._num_particles)

  def with_prepared(self, prepared):
    """The same with copies of what was prepared."""
    other = copy.copy(self)
    other.prepared = prepared
    return other

  def _rows(self, rows, level, root):
    """Rows of a level, or of a range of levels, for each particle."""
    last = self._densities.num_steps - 1

    def select(x):
      if isinstance(level, range):
        x = tf.gather(x, [min(k, last) for k in level])
        x = tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
      elif isinstance(level, int):
        x = x[min(level, last)]
      else:
        x = tf.gather(x, tf.minimum(level, last))
      return x if x.shape[0] == 1 else weighting.gather_ancestors(x, root)

    return tf.nest.map_structure(select, rows)

  def _log_factor(self, rows, level, state):
    densities = self._densities
    shape = state.root.shape
    if densities.heuristic is None:
      return tf.zeros(shape, self.float_dtype)
    # Also at level 0, whose particles may have been resampled since.
    row, local = self._rows(rows, level, state.root), state.local_state
    if isinstance(level, int) and level == 0:
      local = None
    log_factor = densities.heuristic.log_factor(row, state.global_state, local)
    log_factor = tf.broadcast_to(
      _check_log_factor(log_factor, shape, self.float_dtype), shape
    )
    end = (
      densities.num_steps if densities.lengths is None else densities.lengths
    )
    if isinstance(level, range):
      rank = shape.rank - 2
      level = tf.reshape(tf.range(level.start, level.stop), [-1] + [1] * rank)
    elif isinstance(level, int) and densities.lengths is None:
      return log_factor if level < end else tf.zeros_like(log_factor)
    return tf.where(level < end, log_factor, tf.zeros_like(log_factor))

  def evaluate(self, level, state):
    """The heuristic factor."""
    rows = self.prepared
    if self._is_constant and isinstance(level, int) and level == 0:
      # The divergence of this level is differentiated by the global states.
      rows = self._densities.prepare(state.global_state, self._num_particles)
    return (self._log_factor(rows, level, state),)

  def evaluate_fixed(self, level, state, terms):
    """The same at a state held fixed, differentiable by the heuristic."""
    if self._densities.heuristic is None:
      return tf.nest.map_structure(tf.stop_gradient, terms)
    state = tf.nest.map_structure(tf.stop_gradient, state)
    return (self._log_factor(self.prepared, level, state),)


class GlobalProposal(proposals.Proposal):
  """An initial proposal that is a distribution over the global state.

  The distribution is made anew for each run, as it may depend on variables.
  """

  def __init__(self, distribution_fn, densities):
    super().__init__(name='global_proposal')
    self._distribution_fn = distribution_fn
    self._prior = densities.model.prior
    self.batch_shape = densities_lib.static_batch_shape(distribution_fn())

  def draw(self, num_particles, batch_shape, seed):
    """Draws global states."""
    return densities_lib.draw(
      self._distribution_fn(), num_particles, batch_shape, seed
    )

  def propose(
    self, num_particles, batch_shape, seed, densities, reparameterize=True
  ):
    """Proposes states of level 0."""
    distribution = self._distribution_fn()
    shape = [num_particles] + batch_shape
    draw = transitions_lib.as_draw(
      distribution,
      densities_lib.draw(distribution, num_particles, batch_shape, seed),
      lambda z: tf.broadcast_to(distribution.log_prob(z), shape),
      reparameterize,
    )
    log_prior = tf.broadcast_to(self._prior.log_prob(draw.state), shape)
    return draw._replace(
      state=densities.initial_state(draw.state, shape),
      log_reverse=log_prior,
      record=seed,
    )


class NoGlobalProposal(proposals.Proposal):
  """The initial proposal of a model without a global state."""

  batch_shape = tf.TensorShape([])

  def draw(self, num_particles, batch_shape, seed):
    """Draws nothing."""
    del num_particles, batch_shape, seed
    return ()

  def propose(
    self, num_particles, batch_shape, seed, densities, reparameterize=True
  ):
    """Proposes states of level 0."""
    del reparameterize
    shape = [num_particles] + batch_shape
    return transitions_lib.Move(
      state=densities.initial_state((), shape),
      log_forward=tf.zeros(shape, densities.float_dtype),
      record=seed,
    )


class StepTransition(transitions_lib.Transition):
  """Adds local states: the first one, or one after the other from the second.

  The first step has a transition of its own, as no local state comes before.
  """

  def __init__(self, densities, proposal_fn, is_first, reparameterize):
    super().__init__(name='first_step' if is_first else 'later_steps')
    self._densities = densities
    self._proposal_fn = proposal_fn
    self._is_first = is_first
    self._reparameterize = reparameterize
    self.num_transitions = 1 if is_first else densities.num_steps - 1
    self.is_rollable = not is_first
    # Samples are made again from their seeds, which a batch does not have.
    self.is_level_batched = not (is_first or reparameterize)
    self.records_noise = reparameterize
    self.has_normalized_reverse = False

  def record_like(self, noise, state):
    """The seed if samples are to be differentiated, or else the samples."""
    return noise if self._reparameterize else state.local_state

  def _at_step(self, x, batch_rank, step):
    """What belongs to a step, of what all sequences have for each step."""
    return densities_lib.at_level(
      heuristics_lib.steps_first(x, batch_rank), step
    )

  def _distributions(self, step, previous):
    """The prior of a local state, its proposal, and the observation."""
    densities = self._densities
    model, rank = densities.model, densities.batch_shape.rank
    observation = tf.nest.map_structure(
      lambda x: self._at_step(x, rank, step), densities.observations
    )
    global_state = previous.global_state
    local = None if self._is_first else previous.local_state
    shape = previous.root.shape
    if self._is_first:
      prior = model.initial_fn(global_state)
      model_lib.check_distribution(
        'initial_fn', prior, shape, densities.local_like
      )
    else:
      prior = model.transition_fn(local, global_state)
      model_lib.check_distribution(
        'transition_fn', prior, shape, densities.local_like
      )
    proposal = prior
    if self._proposal_fn is not None:
      proposal = self._proposal_fn(observation, local, global_state)
      model_lib.check_distribution(
        'proposal_fn', proposal, shape, densities.local_like
      )
      counts = [model_lib.num_categories(d) for d in (prior, proposal)]
      if None not in counts and counts[0] != counts[1]:
        raise ValueError(
          f'`proposal_fn` must return a distribution over the {counts[0]} '
          f'states of the model; it returned one over {counts[1]} states.'
        )
    return prior, proposal, observation

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes local states; see `Transition.propose`."""
    del target_log_prob_fn
    return self._move(
      level, previous, noise, reparameterize, lambda draw: draw(noise)
    )

  def replay(
    self, level, previous, record, target_log_prob_fn, reparameterize=True
  ):
    """Makes a move again; see `Transition.replay`."""
    if self._reparameterize:
      return self.propose(
        level, previous, record, target_log_prob_fn, reparameterize
      )
    return self._move(level, previous, record, False, lambda _: record)

  def _move(self, level, previous, noise, reparameterize, get_sample_fn):
    densities = self._densities
    shape = previous.root.shape
    first = 0 if self._is_first else 1
    if isinstance(level, range):
      step = range(level.start + first, level.stop + first)
    else:
      step = level + first
    prior, proposal, observation = self._distributions(step, previous)
    rank = densities.batch_shape.rank
    is_observed, is_active = None, None
    if densities.is_observed is not None:
      is_observed = self._at_step(densities.is_observed, rank, step)
      is_observed = tf.broadcast_to(is_observed, shape)
    if densities.lengths is not None:
      steps = step
      if isinstance(step, range):
        steps = tf.reshape(tf.range(step.start, step.stop), [-1] + [1] * rank)
      is_active = tf.broadcast_to(steps < densities.lengths, shape)
    # Where nothing is observed the proposal is the prior.
    use_proposal = is_observed if proposal is not prior else None

    def draw(seed):
      proposal_seed, prior_seed = tf.unstack(randomness.split_seed(seed, 2))
      z = model_lib.sample_of_shape(proposal, shape.as_list(), proposal_seed)
      if use_proposal is not None:
        other = model_lib.sample_of_shape(prior, shape.as_list(), prior_seed)
        z = _select(use_proposal, z, other)
      return z

    def where_active(log_prob):
      log_prob = tf.broadcast_to(log_prob, shape)
      if is_active is None:
        return log_prob
      return tf.where(is_active, log_prob, tf.zeros_like(log_prob))

    def log_forward_fn(z):
      log_prob = proposal.log_prob(z)
      if use_proposal is not None:
        log_prob = tf.where(use_proposal, log_prob, prior.log_prob(z))
      return where_active(log_prob)

    drawn = transitions_lib.as_draw(
      proposal,
      get_sample_fn(draw),
      log_forward_fn,
      self._reparameterize and reparameterize,
    )
    z = drawn.state
    likelihood = densities.model.observation_fn(z, previous.global_state)
    model_lib.check_distribution('observation_fn', likelihood, shape)
    likelihood = likelihood.log_prob(observation)
    if is_observed is not None:
      likelihood = tf.where(is_observed, likelihood, tf.zeros_like(likelihood))
    log_reverse = where_active(prior.log_prob(z) + likelihood)
    # Densities, and so their gradients, are of the draw, which has some; the
    # state before may have none under the kernel.
    local_state = z
    if is_active is not None:
      local_state = _select(is_active, z, previous.local_state)
    state = StateSpaceState(
      previous.global_state,
      local_state,
      _own_places(shape),
      previous.index,
      previous.root,
    )
    return drawn._replace(
      state=state,
      log_reverse=log_reverse,
      log_reverse_fixed_states=tf.stop_gradient(log_reverse),
      record=noise if self._reparameterize else z,
    )


class StateSpacePosterior(
  collections.namedtuple(
    'StateSpacePosterior',
    [
      'global_state',
      'trajectories',
      'log_weights',
      'log_normalizer_increments',
      'effective_sample_sizes',
      'num_roots',
    ],
  )
):
  """Properly weighted particles for the posterior of each sequence.

  Fields:
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    trajectories: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + [num_steps] + event`: the local states, read
      back along the ancestors of each particle; `()` if not asked for.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    log_normalizer_increments: float `Tensor` of shape
      `[num_steps + 1] + batch`: what each level adds to the log normalizer,
      level 0 first. That of a level is for its density, heuristic included.
    effective_sample_sizes: float `Tensor` of shape `[num_steps + 1] + batch`:
      that of each level, before resampling.
    num_roots: int32 `Tensor` of shape `[num_steps + 1] + batch`: how many of
      the particles of level 0 still have descendants.

  Where a sequence has ended, its trajectories stay at their last state, and
  its series at their last value, with increments of zero.
  """

  __slots__ = ()

  @property
  def log_normalizer(self):
    """Estimate of `log p(x)`, of shape `batch`."""
    return weighting.log_normalizer(self.log_weights)

  def expectation(self, fn):
    """Self-normalized estimate of a posterior expectation.

    Args:
      fn: Python callable from `global_state` and `trajectories` to a nested
        structure of `Tensor`s of shape `[num_particles] + batch + any`.

    Returns:
      expectation: Nested structure of `Tensor`s of shape `batch + any`.
    """
    weights = weighting.normalize_weights(self.log_weights)
    return tf.nest.map_structure(
      lambda x: weighting.weighted_mean(weights, tf.cast(x, weights.dtype)),
      fn(self.global_state, self.trajectories),
    )


class StateSpaceSampler(tf.Module):
  """A sampler of the posterior of a state-space model, for any observations.

  Called with sequences it returns the `NestedSampler` for them, so that it is
  what `tfp_nvi.fit` takes together with `data`.

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
  [2]: C. A. Naesseth, F. Lindsten, T. B. Schon. Elements of sequential Monte
       Carlo. Foundations and Trends in Machine Learning, 12(3), 2019.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.2),
  )
  sampler = nvi.StateSpaceSampler(model)
  x = tf.constant([[0.1, 0.5, 0.8], [0.3, -0.4, -1.0]])
  posterior = sampler.sample(x, num_particles=1_000, seed=1)
  smoothed = posterior.expectation(lambda drift, z: z)
  assert posterior.log_normalizer.shape == [2] and smoothed.shape == [2, 3]
  ```
  """

  def __init__(
    self,
    model,
    initial_proposal_fn=None,
    proposal_fn=None,
    heuristic=None,
    resample_fn=weighting.resample_systematic,
    resample_criterion_fn=weighting.always,
    reparameterize=False,
    name='state_space_sampler',
  ):
    """Initializes the sampler.

    Args:
      model: `StateSpaceModel`.
      initial_proposal_fn: Python callable from the observations, of shape
        `batch + [num_steps] + event`, and from `None` or bools of shape
        `batch + [num_steps]` that say which are observed, to a
        `tfd.Distribution` over the global state of batch shape `batch`. The
        others hold some value of the same sequence, here and in `heuristic`.
        Default value: `None` (i.e., the prior).
      proposal_fn: Python callable from the observation of a step, the local
        state before (`None` at the first step), and the global state, to a
        `tfd.Distribution` over the local state.
        Default value: `None` (i.e., the model's transition).
      heuristic: `Heuristic`.
        Default value: `None` (i.e., a factor of one).
      resample_fn: As of `NestedSampler`.
      resample_criterion_fn: As of `NestedSampler`.
      reparameterize: Python `bool`: whether gradients may pass through local
        states that can be reparameterized. Nested objectives are then to be
        used level by level, as `tfp_nvi.reverse_kl(level_by_level=True)`.
        Default value: `False`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `initial_proposal_fn` is given and the model has no prior.
    """
    super().__init__(name=name)
    if not isinstance(model, model_lib.StateSpaceModel):
      raise TypeError(f'`model` must be a StateSpaceModel; got {model!r}.')
    for argument, fn in (
      ('initial_proposal_fn', initial_proposal_fn),
      ('proposal_fn', proposal_fn),
    ):
      if fn is not None and not callable(fn):
        raise TypeError(f'`{argument}` must be callable or None; got {fn!r}.')
    if model.prior is None and initial_proposal_fn is not None:
      raise ValueError(
        '`initial_proposal_fn` must be None if the model has no prior, as '
        f'there is no global state to propose; got {initial_proposal_fn!r}.'
      )
    _check_heuristic(heuristic)
    self.model = model
    self._example = model_lib.make_example(model)
    self.heuristic = heuristic
    self.initial_proposal_fn = initial_proposal_fn
    self.proposal_fn = proposal_fn
    self._resample_fn = resample_fn
    self._resample_criterion_fn = resample_criterion_fn
    self._reparameterize = reparameterize
    self._compiled = {}

  def __call__(self, observations, is_observed=None, lengths=None):
    """The sampler for some sequences.

    Args:
      observations: Nested structure of `Tensor`s of shape
        `batch + [num_steps] + event`.
      is_observed: Optional bool `Tensor` of shape `batch + [num_steps]`: which
        steps are observed.
        Default value: `None` (i.e., all).
      lengths: Optional int `Tensor` of shape `batch`: how many steps each
        sequence has.
        Default value: `None` (i.e., all `num_steps`).

    Returns:
      sampler: `NestedSampler` over `StateSpaceState`s, of batch shape `batch`.

    Raises:
      ValueError: If the arguments are not sequences of the model.
    """
    densities = StateSpaceDensities(
      self.model,
      self._example,
      observations,
      self.heuristic,
      is_observed,
      lengths,
    )
    steps = [
      StepTransition(
        densities, self.proposal_fn, is_first, self._reparameterize
      )
      for is_first in (True, False)
    ]
    if densities.num_steps == 1:
      steps = steps[:1]
    proposal = self.model.prior
    if proposal is None:
      proposal = NoGlobalProposal()
    elif self.initial_proposal_fn is not None:
      prior = self.model.prior

      def distribution_fn():
        distribution = self.initial_proposal_fn(
          densities.observations, densities.is_observed
        )
        model_lib.check_distribution(
          'initial_proposal_fn',
          distribution,
          densities.batch_shape,
          (prior.dtype, prior.event_shape),
        )
        return distribution

      proposal = GlobalProposal(distribution_fn, densities)
    return sampler_lib.NestedSampler(
      densities,
      steps,
      initial_proposal=proposal,
      resample_fn=self._resample_fn,
      resample_criterion_fn=self._resample_criterion_fn,
    )

  def sample(
    self,
    observations,
    num_particles,
    seed=None,
    is_observed=None,
    lengths=None,
    trajectories=True,
    jit_compile=True,
  ):
    """Draws properly weighted particles for the posterior of each sequence.

    Compiles once for each number of particles and shape of the observations.

    Args:
      observations: As of `__call__`.
      num_particles: Python `int`.
      seed: Python `int` or stateless seed.
      is_observed: As of `__call__`.
      lengths: As of `__call__`.
      trajectories: Python `bool`: whether to read out the local states of all
        steps, or none.
        Default value: `True`.
      jit_compile: Python `bool`: whether to compile with XLA.
        Default value: `True`.

    Returns:
      posterior: `StateSpacePosterior`.

    Raises:
      ValueError: If the arguments are not sequences of the model, or one has no
        weight under any particle. Inside of a `tf.function` values are not
        known, and nothing about them is checked.
    """
    num_particles = checks.as_count('num_particles', num_particles)
    seed = randomness.as_seed(seed)
    # With values, for what a compiled function cannot check.
    densities = self(observations, is_observed, lengths).densities
    inputs = (densities.observations, densities.is_observed, densities.lengths)
    fn = functools.partial(self._sample, num_particles, trajectories)
    if not tf.config.functions_run_eagerly():
      leaves = [x for x in tf.nest.flatten(inputs) if x is not None]
      key = str(
        (
          num_particles,
          trajectories,
          jit_compile,
          [(x.shape.as_list(), x.dtype.name) for x in leaves],
          densities.is_observed is None,
          densities.lengths is None,
        )
      )
      if key not in self._compiled:
        self._compiled[key] = tf.function(
          fn, jit_compile=jit_compile, autograph=False
        ).get_concrete_function(
          tf.nest.map_structure(
            lambda x: x if x is None else tf.TensorSpec(x.shape, x.dtype),
            inputs,
          ),
          tf.TensorSpec([2], tf.int32),
        )
      fn = self._compiled[key]
    posterior = fn(inputs, seed)
    if model_lib.has_values(posterior.log_weights):
      _check_weights(posterior)
    return posterior

  def _sample(self, num_particles, trajectories, inputs, seed):
    sampler = self(*inputs)
    densities = sampler.densities
    num_steps, dtype = densities.num_steps, densities.float_dtype
    batch_shape = densities.batch_shape
    shape = tf.TensorShape([num_particles]) + batch_shape

    def make_array(dtype, shape):
      return tf.TensorArray(dtype, num_steps, element_shape=shape)

    arrays = dict(
      log_normalizer=make_array(dtype, batch_shape),
      effective_sample_size=make_array(dtype, batch_shape),
      num_roots=make_array(tf.int32, batch_shape),
    )
    start = sampler.start(num_particles, seed, reparameterize=False)
    if trajectories:
      state = start.particles.state
      arrays['path'] = tf.nest.map_structure(
        lambda x: make_array(x.dtype, x.shape),
        (state.local_state, state.ancestor),
      )

    def summarize(particles):
      log_weights = particles.log_weights
      return dict(
        log_normalizer=weighting.log_normalizer(log_weights),
        effective_sample_size=weighting.effective_sample_size(log_weights),
        num_roots=_count_distinct(particles.state.root),
      )

    def visit(transition, local_level, level, record, arrays):
      del transition, local_level
      values = summarize(record.particles)
      if trajectories:
        state = record.particles.state
        values['path'] = (state.local_state, state.ancestor)
      return tf.nest.map_structure(
        lambda array, x: array.write(level - 1, x), arrays, values
      )

    particles, arrays = sampler.fold(start, visit, arrays)
    stacked = tf.nest.map_structure(lambda array: array.stack(), arrays)
    path = stacked.pop('path', None)
    series = tf.nest.map_structure(
      lambda x, xs: tf.concat([x[tf.newaxis], xs], axis=0),
      summarize(start.particles),
      stacked,
    )
    total = series['log_normalizer']
    is_zero = tf.equal(total, -float('inf'))
    increments = tf.concat(
      [
        total[:1],
        tf.where(is_zero[1:], total[1:], total[1:] - total[:-1]),
      ],
      axis=0,
    )
    return StateSpacePosterior(
      particles.state.global_state,
      _read_back(*path, shape) if trajectories else (),
      particles.log_weights,
      increments,
      series['effective_sample_size'],
      series['num_roots'],
    )


def _count_distinct(root):
  """How many different indices there are, for each batch member."""
  num_particles = root.shape[0]
  columns = tf.reshape(root, [num_particles, -1])
  num_columns = columns.shape[1]
  where = columns * num_columns + tf.range(num_columns)
  is_present = tf.tensor_scatter_nd_update(
    tf.zeros([num_particles * num_columns], tf.int32),
    tf.reshape(where, [-1, 1]),
    tf.ones([num_particles * num_columns], tf.int32),
  )
  counts = tf.reduce_sum(
    tf.reshape(is_present, [num_particles, num_columns]), axis=0
  )
  return tf.reshape(counts, root.shape[1:])


def _read_back(local_states, ancestors, shape):
  """Local states along the ancestors of the last level's particles.

  Args:
    local_states: Nested structure of `Tensor`s of shape
      `[num_steps, num_particles] + batch + event`.
    ancestors: int32 `Tensor` of shape `[num_steps, num_particles] + batch`.
    shape: `TensorShape`: `[num_particles] + batch`.

  Returns:
    trajectories: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + [num_steps] + event`.
  """
  num_steps = ancestors.shape[0]
  index = _own_places(shape)
  arrays = tf.nest.map_structure(
    lambda x: tf.TensorArray(x.dtype, num_steps, element_shape=x.shape[1:]),
    local_states,
  )

  def body(i, index, arrays):
    k = num_steps - 1 - i
    arrays = tf.nest.map_structure(
      lambda array, x: array.write(
        k, weighting.gather_ancestors(tf.gather(x, k), index)
      ),
      arrays,
      local_states,
    )
    index = weighting.gather_ancestors(tf.gather(ancestors, k), index)
    return i + 1, index, arrays

  _, _, arrays = tf.while_loop(
    lambda i, *_: i < num_steps,
    body,
    (tf.constant(0), index, arrays),
    parallel_iterations=1,
    maximum_iterations=num_steps,
  )
  return tf.nest.map_structure(
    lambda array: model_lib.steps_last(array.stack(), shape.rank), arrays
  )


def _check_weights(posterior):
  """Raises an error that names what has left no particle with weight."""
  increments = posterior.log_normalizer_increments.numpy()
  for is_bad, text in (
    (
      np.isnan(increments),
      'The log weights have become NaN {where}; the model, the proposals and '
      '`heuristic` must return log densities that are numbers or -inf, for the '
      '`observations` of all steps.',
    ),
    (
      np.isneginf(increments),
      'No particle has any weight {where}: `observations` must be possible '
      'under the model, and `heuristic` must not be -inf where they are.',
    ),
  ):
    if is_bad.any():
      level, *index = np.argwhere(is_bad)[0].tolist()
      where = 'before the first step' if level == 0 else f'at step {level}'
      if index:
        where += f' of sequence {index}'
      raise ValueError(text.format(where=where))

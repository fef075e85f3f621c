# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The nested importance sampler: a loop over levels.

What must hold: at each level `k` the particles are properly weighted for
`gamma_k`, whatever the transitions, the resampling function, the resampling
policy and the initial proposal. For `k = 1, ..., K - 1`:

```none
resample            if the policy says so; all weights become their mean
propose             z_k from z_{k-1}, by the level's transition
reweight            log w_k = log w_{k-1} + log v_k
reject              particles of small weight, if there is a threshold
```

Each particle's density is evaluated once for each level. Transitions that are
stacked over levels run in one loop, whose graph does not grow with their
number; unlike ones, in a list, are unrolled.
"""

import collections
import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import transitions as transitions_lib
from tfp_nvi import weighting
from tfp_nvi.internal import axes, randomness

tfd = tfp.distributions

__all__ = [
  'NestedProposal',
  'NestedSampler',
  'Trace',
]


class Trace(
  collections.namedtuple(
    'Trace', ['particles', 'log_weights', 'log_incremental_weights']
  )
):
  """Particles of all levels, for diagnostics and pictures.

  Fields:
    particles: Nested structure of `Tensor`s of shape
      `[num_densities, num_particles] + batch + event`: what each level
      proposed, before the next one resampled it.
    log_weights: float `Tensor` of shape
      `[num_densities, num_particles] + batch`.
    log_incremental_weights: float `Tensor` of shape
      `[num_densities - 1, num_particles] + batch`.
  """

  __slots__ = ()


class Particles(
  collections.namedtuple('Particles', ['state', 'terms', 'log_weights'])
):
  """What goes from one level to the next.

  Fields:
    state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`, in the real space.
    terms: What the densities evaluated at `state`.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
  """

  __slots__ = ()


class LevelRecord(
  collections.namedtuple(
    'LevelRecord',
    ['previous', 'record', 'log_incremental_weights', 'particles', 'slope'],
  )
):
  """What happened at a level.

  Fields:
    previous: `Particles` as the level received them, after resampling.
    record: The record of the level's `Move`.
    log_incremental_weights: float `Tensor` of shape `[num_particles] + batch`.
    particles: `Particles` that the level gave on.
    slope: Derivatives of the level's log density at these particles, of
      `densities.evaluate_with_slope`, if they are wanted; else `[]`.
  """

  __slots__ = ()


class Segment(
  collections.namedtuple(
    'Segment', ['transition', 'first_level', 'is_rolled', 'records']
  )
):
  """What happened at the levels that one transition leads to.

  Fields:
    transition: The `Transition`.
    first_level: Python `int`: the density that its first level leads to.
    is_rolled: Python `bool`.
    records: A `LevelRecord` whose leaves have a first axis over levels, if
      `is_rolled`; else a list of `LevelRecord`s.
  """

  __slots__ = ()


class Run(
  collections.namedtuple(
    'Run', ['densities', 'initial_move', 'initial', 'segments', 'particles']
  )
):
  """A whole run of a sampler.

  Fields:
    densities: The densities, as in `Start`.
    initial_move: `Move` of the initial proposal; `None` if the proposal is the
      initial density itself.
    initial: `Particles` of level 0.
    segments: List of `Segment`s.
    particles: `Particles` of the last level.
  """

  __slots__ = ()

  def log_incremental_weights(self):
    """All of them, of shape `[num_levels, num_particles] + batch`."""
    return self._stack(lambda record: record.log_incremental_weights)

  def mean_log_incremental_weights(self):
    """Their means by the weights received, of shape `[num_levels] + batch`."""
    log_weights = self._stack(lambda record: record.previous.log_weights)
    axes = [1, 0, *range(2, log_weights.shape.rank)]
    return weighting.weighted_mean(
      weighting.normalize_weights(tf.transpose(log_weights, axes)),
      tf.transpose(self.log_incremental_weights(), axes),
    )

  def _stack(self, get):
    return tf.concat(
      [
        get(s.records) if s.is_rolled else tf.stack(list(map(get, s.records)))
        for s in self.segments
      ],
      axis=0,
    )


class Gradients(
  collections.namedtuple(
    'Gradients', ['cut', 'reparameterize', 'log_forward_fn', 'keep_slope']
  )
):
  """How a run is to be differentiated; see `NestedSampler.start`."""

  __slots__ = ()


class Part(
  collections.namedtuple(
    'Part', ['transition', 'first_level', 'noise_seed', 'seeds']
  )
):
  """The plan for the levels that one transition leads to.

  Fields:
    transition: The `Transition`.
    first_level: Python `int`: the density that its first level leads to.
    noise_seed: Stateless seed of the transition's noise.
    seeds: int32 `Tensor` of shape `[num_transitions, 2, 2]`.
  """

  __slots__ = ()


class Start(
  collections.namedtuple(
    'Start',
    ['densities', 'sample_shape', 'move', 'particles', 'parts', 'gradients'],
  )
):
  """How a run begins; see `NestedSampler.start`.

  Fields:
    densities: The sequence of intermediate densities, which may depend on the
      particles of level 0.
    sample_shape: List of Python `int`s: `[num_particles] + batch`.
    move: `Move` of the initial proposal; `None` if the proposal is the initial
      density itself.
    particles: `Particles` of level 0.
    parts: List of `Part`s.
    gradients: `Gradients`.
  """

  __slots__ = ()


def _log_forward(move):
  return move.log_forward


class DistributionProposal(tf.Module):
  """An initial proposal that is a distribution over the densities' space."""

  def __init__(self, distribution):
    super().__init__(name='distribution_proposal')
    self._distribution = distribution
    self.batch_shape = densities_lib.static_batch_shape(distribution)

  def draw(self, num_particles, batch_shape, seed):
    """Draws points of the densities' space."""
    return densities_lib.draw(
      self._distribution, num_particles, batch_shape, seed
    )

  def propose(
    self, num_particles, batch_shape, seed, densities, reparameterize=True
  ):
    """Proposes states of the first level."""
    # A copy, which bijectors know nothing of; see `as_draw`.
    value = _copy(self.draw(num_particles, batch_shape, seed))

    def log_prob_fn(z):
      return self._distribution.log_prob(
        densities.forward(z)
      ) + densities.log_det_jacobian(z)

    draw = transitions_lib.as_draw(
      self._distribution,
      densities.inverse(value),
      log_prob_fn,
      reparameterize,
    )
    zero = tf.zeros_like(draw.score)
    return transitions_lib.Move(
      **draw._asdict(),
      log_reverse=zero,
      log_reverse_of_fixed=zero,
      record=seed,
    )


class NestedProposal(tf.Module):
  """A nested sampler as the initial proposal of another one.

  For each particle of the outer sampler the inner one is run with particles of
  its own; one of these is taken by its weight, and the inner estimate of the
  normalizer becomes its weight. This keeps particles properly weighted.

  #### References

  [1]: C. A. Naesseth, F. Lindsten, T. B. Schon. Nested sequential Monte Carlo
       methods. ICML, 2015. https://arxiv.org/abs/1502.02536

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  near, far = tfd.Normal(0.0, 1.0), tfd.Normal(4.0, 1.0)
  path = nvi.GeometricPath(tfd.Normal(0.0, 3.0), near, num_densities=2)
  inner = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  path = nvi.GeometricPath(near, far, num_densities=3)
  outer = nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, seed=2),
    initial_proposal=nvi.NestedProposal(inner, num_particles=4),
  )
  particles = outer.sample(100, seed=3)
  ```
  """

  def __init__(self, sampler, num_particles, name='nested_proposal'):
    """Initializes the proposal.

    Args:
      sampler: `NestedSampler`.
      num_particles: Python `int` number of inner particles.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `sampler` is not a `NestedSampler`.
      ValueError: If `num_particles` is not positive.
    """
    super().__init__(name=name)
    if not isinstance(sampler, NestedSampler):
      raise TypeError(f'`sampler` must be a NestedSampler; got {sampler!r}.')
    self._num_particles = as_count('num_particles', num_particles)
    self._sampler = sampler
    self.batch_shape = sampler.batch_shape

  def _run(self, num_particles, batch_shape, seed):
    """Runs the inner sampler with the outer particles as batch members."""
    run_seed, pick_seed = tf.unstack(randomness.split_seed(seed, 2))
    particles = self._sampler.run(
      self._num_particles, run_seed, [num_particles] + batch_shape
    ).particles

    picked, log_normalizer = weighting.resample(
      particles._replace(log_weights=()),
      particles.log_weights,
      weighting.resample_systematic,
      pick_seed,
      num_draws=1,
    )
    picked = tf.nest.map_structure(lambda x: x[0], picked)
    return picked, log_normalizer[0]

  def draw(self, num_particles, batch_shape, seed):
    """Draws points of the densities' space."""
    picked, _ = self._run(num_particles, batch_shape, seed)
    return self._sampler.densities.forward(picked.state)

  def propose(
    self, num_particles, batch_shape, seed, densities, reparameterize=True
  ):
    """Proposes states of the first level."""
    del reparameterize
    inner = self._sampler.densities
    picked, log_normalizer = self._run(num_particles, batch_shape, seed)
    state = densities.inverse(inner.forward(picked.state))
    log_forward = (
      inner.log_prob(inner.num_densities - 1, picked.terms)
      - inner.log_det_jacobian(picked.state)
      + densities.log_det_jacobian(state)
      - log_normalizer
    )
    # A particle without weight must not become one of undefined weight.
    log_forward = tf.where(
      tf.equal(log_normalizer, -float('inf')),
      tf.constant(float('inf'), log_forward.dtype),
      log_forward,
    )
    state, log_forward = tf.nest.map_structure(
      tf.stop_gradient, (state, log_forward)
    )
    zero = tf.zeros_like(log_forward)
    return transitions_lib.Move(
      state=state,
      log_forward=log_forward,
      log_reverse=zero,
      score=zero,
      score_of_fixed=zero,
      log_reverse_of_fixed=zero,
      samples=(),
      record=seed,
    )


def as_count(name, value):
  """A Python int; raises an error if a count is not a positive one."""
  if (
    isinstance(value, bool)
    or not isinstance(value, (int, np.integer))
    or value < 1
  ):
    raise ValueError(f'`{name}` must be a positive Python int; got {value!r}.')
  return int(value)


def _list_of_transitions(transitions):
  """Transitions as a list; raises an error if that is not what they are."""
  if isinstance(transitions, transitions_lib.Transition):
    return [transitions]
  try:
    transitions = list(transitions)
  except TypeError as e:
    raise TypeError(
      '`transitions` must be a Transition or a list of such; got '
      f'{transitions!r}.'
    ) from e
  transitions_lib.check_transitions(transitions)
  return transitions


def _broadcast_batch_shapes(densities, proposal, transitions):
  """The batch shape of a sampler; raises an error that names what disagrees."""
  batch_shape = densities.batch_shape
  for name, part in [
    ('initial_proposal', proposal),
    *((f'transitions[{i}]', t) for i, t in enumerate(transitions)),
  ]:
    try:
      batch_shape = tf.broadcast_static_shape(batch_shape, part.batch_shape)
    except ValueError as e:
      raise ValueError(
        f'`{name}` must have a batch shape that broadcasts with that of the '
        f'densities, {batch_shape.as_list()}; got {part.batch_shape.as_list()}.'
      ) from e
  return batch_shape


def _copy(structure):
  return tf.nest.map_structure(tf.identity, structure)


def _stop_gradient(structure):
  return tf.nest.map_structure(tf.stop_gradient, structure)


class NestedSampler(tf.Module):
  """Samples a sequence of densities, with proper weights.

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
  [2]: P. Del Moral, A. Doucet, A. Jasra. Sequential Monte Carlo samplers.
       Journal of the Royal Statistical Society B, 68(3), 2006.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    initial=tfd.MultivariateNormalDiag([0.0, 0.0], [5.0, 5.0]),
    target=lambda x: nvi.targets.ring_of_gaussians().unnormalized_log_prob(x),
    num_densities=4,
    learnable=True,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  particles = sampler.sample(1_000, seed=2)
  particles.log_normalizer, particles.effective_sample_size
  mean = particles.expectation()
  assert mean.shape == [2]
  ```
  """

  def __init__(
    self,
    densities,
    transitions,
    initial_proposal=None,
    resample_fn=weighting.resample_systematic,
    resample_criterion_fn=weighting.always,
    rejection_log_threshold_fn=None,
    name='nested_sampler',
  ):
    """Initializes the sampler.

    Args:
      densities: Sequence of intermediate densities, such as a `GeometricPath`.
      transitions: A `Transition` that leads through all levels, or a list of
        such that do so together, one after the other.
      initial_proposal: What to draw the first level from: a `tfd.Distribution`
        over the space of the densities, or a `NestedProposal`.
        Default value: `None` (i.e., the first density, if it is a
        distribution).
      resample_fn: Python callable with the signature of
        `tfp.experimental.mcmc.resample_systematic`.
        Default value: `tfp_nvi.resample_systematic`.
      resample_criterion_fn: Python callable that takes `WeightedParticles` and
        returns a Python `bool` or a bool `Tensor` of shape `batch` or
        `[1] + batch`: `tfp_nvi.never`, `tfp_nvi.always`, `tfp_nvi.ess_below()`,
        `tfp.experimental.mcmc.ess_below_threshold`.
        Default value: `tfp_nvi.always`.
      rejection_log_threshold_fn: Python callable from log weights, of shape
        `[num_particles] + batch`, to the logarithm of the threshold for
        `tfp_nvi.rejection_control` at each level, which broadcasts against
        `batch`.
        Default value: `None` (i.e., no rejection).
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the transitions do not lead through as many levels as there
        are, the batch shapes do not agree, or there is no initial proposal.
    """
    super().__init__(name=name)
    densities_lib.check_densities(densities)
    self.densities = densities
    self.transitions = _list_of_transitions(transitions)
    for transition in self.transitions:
      transition.bind(densities)
    num_transitions = sum(t.num_transitions for t in self.transitions)
    if num_transitions != densities.num_densities - 1:
      raise ValueError(
        '`transitions` must lead through '
        f'{densities.num_densities - 1} levels, one less than there are '
        f'densities; got {num_transitions}.'
      )
    for argument, fn in (
      ('resample_fn', resample_fn),
      ('resample_criterion_fn', resample_criterion_fn),
    ):
      if not callable(fn):
        raise TypeError(f'`{argument}` must be callable; got {fn!r}.')
    if not (
      rejection_log_threshold_fn is None or callable(rejection_log_threshold_fn)
    ):
      raise TypeError(
        '`rejection_log_threshold_fn` must be callable or None; got '
        f'{rejection_log_threshold_fn!r}.'
      )
    self._resample_fn = resample_fn
    self._resample_criterion_fn = resample_criterion_fn
    self._rejection_log_threshold_fn = rejection_log_threshold_fn

    self._initial_proposal = initial_proposal
    given_proposal = initial_proposal
    if initial_proposal is None:
      initial_proposal = densities.initial
      if not densities_lib.is_sampleable(initial_proposal):
        raise ValueError(
          '`initial_proposal` must be given if the first density is not a '
          f'tfd.Distribution; that is {initial_proposal!r}.'
        )
    self.proposes_initial = False
    if isinstance(initial_proposal, tfd.Distribution):
      distribution = initial_proposal
      initial_proposal = densities.make_proposal(distribution)
      self.proposes_initial = given_proposal is None and (
        initial_proposal is None
      )
      if initial_proposal is None:
        initial_proposal = DistributionProposal(distribution)
    elif not hasattr(initial_proposal, 'propose'):
      raise TypeError(
        '`initial_proposal` must be a tfd.Distribution or a NestedProposal; '
        f'got {initial_proposal!r}.'
      )
    self._proposal = initial_proposal
    self.batch_shape = _broadcast_batch_shapes(
      densities, initial_proposal, self.transitions
    )
    # The densities have checked themselves, but for what is new to them here.
    if not self.proposes_initial or self.batch_shape != densities.batch_shape:
      densities.check(
        initial_proposal.draw(
          densities_lib.NUM_PROBES,
          self.batch_shape.as_list(),
          randomness.as_seed(0),
        ),
        'initial_proposal',
        self.batch_shape,
      )
    self._compiled = {}

  def copy(self, **overrides):
    """A sampler with other arguments, and the same variables.

    Args:
      **overrides: Arguments of the constructor to replace.

    Returns:
      sampler: `NestedSampler`.
    """
    arguments = dict(
      densities=self.densities,
      transitions=self.transitions,
      initial_proposal=self._initial_proposal,
      resample_fn=self._resample_fn,
      resample_criterion_fn=self._resample_criterion_fn,
      rejection_log_threshold_fn=self._rejection_log_threshold_fn,
      name=self.name,
    )
    return NestedSampler(**{**arguments, **overrides})

  def _resample(self, particles, seed, is_active):
    """Resamples particles where the policy says so, of batch members in use."""
    criterion = self._resample_criterion_fn(
      weighting.WeightedParticles(particles.state, particles.log_weights)
    )
    if isinstance(criterion, bool):
      if not criterion:
        return particles
      where = is_active
    else:
      try:
        where = tf.convert_to_tensor(criterion)
      except (TypeError, ValueError) as e:
        raise TypeError(
          '`resample_criterion_fn` must return a Python bool or a bool Tensor; '
          f'it returned {criterion!r}.'
        ) from e
      batch_shape = particles.log_weights.shape[1:]
      if where.dtype != tf.bool or where.shape not in (
        batch_shape,
        tf.TensorShape([1]) + batch_shape,
      ):
        raise ValueError(
          '`resample_criterion_fn` must return a Python bool, or a bool Tensor '
          f'of shape {batch_shape.as_list()} or {[1] + batch_shape.as_list()}; '
          f'it returned {where.dtype.name} of shape {where.shape.as_list()}.'
        )
      if where.shape.rank == particles.log_weights.shape.rank:
        where = tf.squeeze(where, axis=0)
      if is_active is not None:
        where = tf.logical_and(where, is_active)
    (state, terms), log_weights = weighting.resample(
      (particles.state, particles.terms),
      particles.log_weights,
      self._resample_fn,
      seed,
      where=where,
    )
    transitions_lib.check_same_states('`resample_fn`', state, particles.state)
    return Particles(state, terms, log_weights)

  def _rejection_log_threshold(self, log_weights):
    """The threshold, of a shape that broadcasts."""
    log_threshold = self._rejection_log_threshold_fn(log_weights)
    try:
      log_threshold = tf.convert_to_tensor(log_threshold)
    except (TypeError, ValueError) as e:
      raise TypeError(
        '`rejection_log_threshold_fn` must return a Tensor; it returned '
        f'{log_threshold!r}.'
      ) from e
    batch_shape = log_weights.shape[1:]
    if not axes.broadcasts_to(log_threshold.shape, batch_shape):
      raise ValueError(
        '`rejection_log_threshold_fn` must return a Tensor that broadcasts to '
        f'shape {batch_shape.as_list()}; it returned shape '
        f'{log_threshold.shape.as_list()}.'
      )
    return log_threshold

  def _check_move(self, level, move, previous):
    """Raises an error if states or log densities have the wrong shape."""
    what = 'The transition ' + (
      f'to level {level}' if isinstance(level, int) else 'to a level of many'
    )
    transitions_lib.check_same_states(what, move.state, previous.state)
    log_weights = previous.log_weights
    for field in ('log_forward', 'log_reverse'):
      shape = getattr(move, field).shape
      if shape.rank != 0 and shape != log_weights.shape:
        raise ValueError(
          f'{what} must return a log density for each particle, of shape '
          f'{log_weights.shape.as_list()}; its {field} has shape '
          f'{shape.as_list()}. A kernel over vectors must be a distribution '
          'over vectors, such as tfd.Independent.'
        )

  def step(
    self,
    densities,
    transition,
    local_level,
    level,
    particles,
    noise,
    seeds,
    gradients,
  ):
    """Brings particles from one level to the next.

    Args:
      densities: The densities, as in `Start`.
      transition: `Transition`.
      local_level: The level as the transition counts.
      level: The level as the densities count.
      particles: `Particles` of the level before.
      noise: The transition's noise for this level.
      seeds: int32 `Tensor` of shape `[2, 2]`.
      gradients: `Gradients`.

    Returns:
      record: `LevelRecord`.
    """
    is_active_fn = getattr(densities, 'is_active', None)
    previous = self._resample(
      particles, seeds[0], is_active_fn and is_active_fn(level)
    )
    if gradients.cut:
      previous = _stop_gradient(previous)

    def target_log_prob_fn(state):
      return densities.log_prob(level, densities.evaluate(level, state))

    move = transition.propose(
      local_level,
      previous.state,
      noise,
      target_log_prob_fn,
      gradients.reparameterize,
    )
    self._check_move(level, move, previous)
    if gradients.keep_slope:
      terms, slope = densities_lib.evaluate_with_slope(
        densities, level, move.state
      )
    else:
      terms, slope = densities.evaluate(level, move.state), []
    log_incremental_weights = (
      densities.log_prob(level, terms)
      + move.log_reverse
      - densities.log_prob(level - 1, previous.terms)
      - gradients.log_forward_fn(move)
    )
    # A particle that has lost all weight stays without any.
    log_weights = tf.where(
      tf.equal(previous.log_weights, -float('inf')),
      previous.log_weights,
      previous.log_weights + log_incremental_weights,
    )
    if self._rejection_log_threshold_fn is not None:
      log_weights = weighting.rejection_control(
        log_weights, self._rejection_log_threshold(log_weights), seeds[1]
      )
    given_on = Particles(move.state, terms, log_weights)
    return LevelRecord(
      previous, move.record, log_incremental_weights, given_on, slope
    )

  def _is_rolled(self, transition):
    """Whether the levels of a transition are a loop, or written out."""
    return (
      transition.num_transitions > 1
      and transition.is_rollable
      and self.densities.is_rollable
    )

  def _run_segment(self, start, part, particles):
    """Runs the levels of one transition."""
    transition, first_level = part.transition, part.first_level
    num_levels = transition.num_transitions
    noise = transition.draw_noise(start.sample_shape, part.noise_seed)

    def step(i, particles):
      return self.step(
        start.densities,
        transition,
        i,
        first_level + i,
        particles,
        tf.nest.map_structure(lambda x: x[i], noise),
        part.seeds[i],
        start.gradients,
      )

    if not self._is_rolled(transition):
      records = []
      for i in range(num_levels):
        records.append(step(i, particles))
        particles = records[-1].particles
      return Segment(transition, first_level, False, records), particles

    first_noise = tf.nest.map_structure(lambda x: x[0], noise)
    example = LevelRecord(
      particles,
      transition.record_like(first_noise, particles.state),
      particles.log_weights,
      particles,
      densities_lib.floating_parts(particles.state)
      if start.gradients.keep_slope
      else [],
    )
    # What is stacked already need not be collected by the loop.
    if transition.records_noise:
      example = example._replace(record=())
    arrays = tf.nest.map_structure(
      lambda x: tf.TensorArray(x.dtype, num_levels, element_shape=x.shape),
      example,
    )

    def body(i, particles, arrays):
      record = step(i, particles)
      particles = record.particles
      if transition.records_noise:
        record = record._replace(record=())
      arrays = tf.nest.map_structure(
        lambda array, x: array.write(i, x), arrays, record
      )
      return i + 1, particles, arrays

    _, particles, arrays = tf.while_loop(
      lambda i, *_: i < num_levels,
      body,
      (tf.constant(0), particles, arrays),
      parallel_iterations=1,
      maximum_iterations=num_levels,
    )
    records = tf.nest.map_structure(lambda array: array.stack(), arrays)
    if transition.records_noise:
      records = records._replace(record=noise)
    return Segment(transition, first_level, True, records), particles

  def start(
    self,
    num_particles,
    seed,
    batch_shape=None,
    cut=True,
    reparameterize=True,
    log_forward_fn=_log_forward,
    keep_slope=False,
  ):
    """Proposes the first level, and plans the others.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.
      batch_shape: List of Python `int`s, to which the sampler's batch shape
        broadcasts.
        Default value: `None` (i.e., the sampler's batch shape).
      cut: Python `bool`: whether to stop gradients between levels.
        Default value: `True`.
      reparameterize: Python `bool`: whether states are to be differentiable
        where they can be.
        Default value: `True`.
      log_forward_fn: Python callable from a `Move` to its `log_forward`, to
        give that another gradient.
      keep_slope: Python `bool`: whether the records of levels are to have the
        slope of the log density, so that it need not be evaluated again to be
        differentiated in the state. The run itself is not differentiable then.
        Default value: `False`.

    Returns:
      start: `Start`.
    """
    if batch_shape is None:
      batch_shape = self.batch_shape.as_list()
    sample_shape = [num_particles] + batch_shape
    num_levels = self.densities.num_densities - 1
    initial_seed, level_seed, *noise_seeds = tf.unstack(
      randomness.split_seed(seed, 2 + len(self.transitions))
    )
    level_seeds = tf.reshape(
      randomness.split_seed(level_seed, 2 * num_levels), [num_levels, 2, 2]
    )
    densities = self.densities
    move = self._proposal.propose(
      num_particles, batch_shape, initial_seed, densities, reparameterize
    )
    densities = densities.given(move, cut)
    terms = tuple(
      tf.broadcast_to(t, sample_shape)
      for t in densities.evaluate(0, move.state)
    )
    if self.proposes_initial and cut:
      log_weights = tf.zeros(sample_shape, densities.float_dtype)
    else:
      log_weights = (
        densities.log_prob(0, terms) + move.log_reverse - log_forward_fn(move)
      )
    parts = []
    first_level = 1
    for transition, noise_seed in zip(
      self.transitions, noise_seeds, strict=True
    ):
      stop = first_level + transition.num_transitions
      seeds = level_seeds[first_level - 1 : stop - 1]
      parts.append(Part(transition, first_level, noise_seed, seeds))
      first_level = stop
    return Start(
      densities,
      sample_shape,
      None if self.proposes_initial else move,
      Particles(move.state, terms, log_weights),
      parts,
      Gradients(cut, reparameterize, log_forward_fn, keep_slope),
    )

  def run(self, *args, **kwargs):
    """Runs the sampler once; for objectives and other samplers.

    Args:
      *args: As of `start`.
      **kwargs: As of `start`.

    Returns:
      run: `Run`.
    """
    return self.finish(self.start(*args, **kwargs))

  def finish(self, start):
    """Runs the levels after the first.

    Args:
      start: `Start`.

    Returns:
      run: `Run`.
    """
    particles = start.particles
    segments = []
    for part in start.parts:
      segment, particles = self._run_segment(start, part, particles)
      segments.append(segment)
    return Run(
      start.densities, start.move, start.particles, segments, particles
    )

  def fold(self, start, fn, carry):
    """Runs the levels after the first, and keeps no more than one at a time.

    Makes the same draws as `finish`.

    Args:
      start: `Start`.
      fn: Python callable from a `Transition`, the level as it counts, the level
        as the densities count, the `LevelRecord`, and what was carried so far,
        to what is to be carried on.
      carry: Nested structure of `Tensor`s to begin with.

    Returns:
      particles: `Particles` of the last level.
      carry: What `fn` returned at the last level.
    """

    def body(part, i, particles, carry):
      transition = part.transition
      record = self.step(
        start.densities,
        transition,
        i,
        part.first_level + i,
        particles,
        transition.draw_level_noise(start.sample_shape, part.noise_seed, i),
        part.seeds[i],
        start.gradients,
      )
      carry = fn(transition, i, part.first_level + i, record, carry)
      return record.particles, carry

    particles = start.particles
    for part in start.parts:
      num_levels = part.transition.num_transitions
      if self._is_rolled(part.transition):
        _, particles, carry = tf.while_loop(
          lambda i, *_, n=num_levels: i < n,
          lambda i, particles, carry, part=part: (
            i + 1,
            *body(part, i, particles, carry),
          ),
          (tf.constant(0), particles, carry),
          parallel_iterations=1,
          maximum_iterations=num_levels,
        )
      else:
        for i in range(num_levels):
          particles, carry = body(part, i, particles, carry)
    return particles, carry

  def _sample(self, num_particles, seed):
    particles = self.run(num_particles, seed).particles
    return weighting.WeightedParticles(
      self.densities.forward(particles.state), particles.log_weights
    )

  def _trace(self, num_particles, seed):
    run = self.run(num_particles, seed)
    pieces = [tf.nest.map_structure(lambda x: x[tf.newaxis], run.initial)]
    for segment in run.segments:
      if segment.is_rolled:
        pieces.append(segment.records.particles)
      else:
        pieces.extend(
          tf.nest.map_structure(lambda x: x[tf.newaxis], r.particles)
          for r in segment.records
        )
    # Terms of unlike densities differ in kind from level to level.
    pieces = [(piece.state, piece.log_weights) for piece in pieces]
    state, log_weights = tf.nest.map_structure(
      lambda *x: tf.concat(x, axis=0), *pieces
    )
    return Trace(
      self.densities.forward(state), log_weights, run.log_incremental_weights()
    )

  def _call_compiled(self, method, num_particles, seed, jit_compile):
    num_particles = as_count('num_particles', num_particles)
    seed = randomness.as_seed(seed)
    fn = functools.partial(getattr(self, method), num_particles)
    if not tf.config.functions_run_eagerly():
      # One compiled function for each number of particles, so that TensorFlow
      # has no cause to warn of retracing where there are many samplers.
      key = f'{method}, {num_particles}, jit_compile={jit_compile}'
      if key not in self._compiled:
        self._compiled[key] = tf.function(
          fn, jit_compile=jit_compile, autograph=False
        ).get_concrete_function(tf.TensorSpec([2], tf.int32))
      fn = self._compiled[key]
    result = fn(seed)
    if tf.executing_eagerly():
      is_nan = tf.math.is_nan(result.log_weights)
      if bool(tf.reduce_any(is_nan)):
        raise ValueError(
          'The log weights have become NaN. `target` and the transitions must '
          'return numbers or -inf at every state; '
          f'{int(tf.reduce_sum(tf.cast(is_nan, tf.int32)))} of '
          f'{is_nan.shape.num_elements()} log weights are NaN.'
        )
    return result

  def sample(self, num_particles, seed=None, jit_compile=True):
    """Draws properly weighted particles.

    Compiles at the first call, and anew for each number of particles.

    Args:
      num_particles: Python `int`.
      seed: Python `int` or stateless seed.
      jit_compile: Python `bool`: whether to compile with XLA. The result is the
        same for the same seed, up to rounding.
        Default value: `True`.

    Returns:
      particles: `WeightedParticles` for the last density, in the space that the
        densities are written in. `log_weights` has shape
        `[num_particles] + batch`.

    Raises:
      ValueError: If `num_particles` is not positive, or a weight is NaN.
    """
    return self._call_compiled('_sample', num_particles, seed, jit_compile)

  def trace(self, num_particles, seed=None, jit_compile=True):
    """Draws properly weighted particles, and returns those of each level.

    Args:
      num_particles: Python `int`.
      seed: Python `int` or stateless seed.
      jit_compile: Python `bool`: whether to compile with XLA.
        Default value: `True`.

    Returns:
      trace: `Trace`, in the space that the densities are written in.

    Raises:
      ValueError: If `num_particles` is not positive, or a weight is NaN.
    """
    return self._call_compiled('_trace', num_particles, seed, jit_compile)

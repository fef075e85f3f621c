# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The nested importance sampler: a loop over levels.

Contract: at each level `k` the particles are properly weighted for `gamma_k`,
whatever the transitions, the resampling function, the resampling policy and the
initial proposal. For `k = 1, ..., K - 1`:

```none
resample            if the policy says so; all weights become their mean
propose             z_k from z_{k-1}, by the level's transition
reweight            log w_k = log w_{k-1} + log v_k
reject              particles of small weight, if there is a threshold
```

Each particle's density is evaluated once for each level. A log density that is
NaN or +inf counts as a density of zero, and is counted. There is one loop over
levels, `NestedSampler.fold`, with a `Recorder` that says what to keep of each
level. Levels of a transition that is stacked over levels run in one loop whose
graph does not grow with their number; different transitions, in a list, are
unrolled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import compiled, proposals, resampling, weighting
from tfp_nvi import densities as densities_lib
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import axes, checks, persistence, randomness, types
from tfp_nvi.runs import (
  FullRecorder,
  LevelRecord,
  NanCounter,
  Particles,
  Recorder,
  Run,
  Segment,
  Trace,
  replace_nan,
)
from tfp_nvi.transitions import probes

tfd = tfp.distributions

__all__ = [
  'NestedSampler',
]


def _as_weighted(particles):
  """The weights of `Particles` and their roots, as `WeightedParticles`."""
  return weighting.WeightedParticles(
    particles.state, particles.log_weights, particles.root
  )


class NestedSampler(persistence.Persistent, compiled.CompiledSampler):
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
    densities: densities_lib.Densities,
    transitions: transitions_lib.Transition
    | Sequence[transitions_lib.Transition],
    initial_proposal: tfd.Distribution | proposals.Proposal | None = None,
    resample_fn: Callable = resampling.resample_systematic,
    resample_criterion_fn: Callable = resampling.always,
    rejection_log_threshold_fn: Callable | None = None,
    name: str = 'nested_sampler',
  ):
    """Initializes the sampler.

    Args:
      densities: Sequence of intermediate densities, such as a `GeometricPath`.
      transitions: A `Transition` that leads through all levels, or a list of
        such that do so together, one after the other.
      initial_proposal: What to draw the first level from: a `tfd.Distribution`
        over the space of the densities, or a `Proposal` such as
        `NestedProposal`.
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
    if isinstance(transitions, transitions_lib.Transition):
      transitions = [transitions]
    self.transitions = checks.as_list(
      'transitions', transitions, 'Transitions', transitions_lib.Transition
    )
    for transition in self.transitions:
      transition.bind(densities)
    num_transitions = sum(t.num_transitions for t in self.transitions)
    if num_transitions != densities.num_densities - 1:
      raise ValueError(
        '`transitions` must lead through '
        f'{densities.num_densities - 1} levels, one less than there are '
        f'densities; got {num_transitions}.'
      )
    probes.warn_of_lost_mass(densities, self.transitions)
    checks.check_callable('resample_criterion_fn', resample_criterion_fn)
    checks.check_callable(
      'rejection_log_threshold_fn', rejection_log_threshold_fn, optional=True
    )
    self._resample_fn = resample_fn
    self._resample_criterion_fn = resample_criterion_fn
    self._rejection_log_threshold_fn = rejection_log_threshold_fn
    self._initial_proposal = initial_proposal
    self._set_proposal(initial_proposal)
    self.batch_shape = axes.broadcast_shapes(
      [
        ('densities', densities.batch_shape),
        ('initial_proposal', self._proposal.batch_shape),
        *(
          (f'transitions[{i}]', transition.batch_shape)
          for i, transition in enumerate(self.transitions)
        ),
      ]
    )
    resampling.check_resample_fn(resample_fn, self.batch_shape)
    # Densities are checked when made; a proposal and a batch shape may be new.
    if not self.proposes_initial or self.batch_shape != densities.batch_shape:
      values = self._proposal.draw(
        densities_lib.NUM_PROBES,
        self.batch_shape.as_list(),
        randomness.as_seed(0),
      )
      if values is not None:
        densities.check(values, 'initial_proposal', self.batch_shape)
      # A proposal of the densities' own has been checked by them.
      if isinstance(self._proposal, proposals.DistributionProposal):
        densities.check_proposal(
          'initial_proposal', self._proposal.distribution
        )

  def _set_proposal(self, initial_proposal):
    """Sets the proposal that a run starts from."""
    densities = self.densities
    self.proposes_initial = False
    if initial_proposal is None:
      initial_proposal = densities.initial
      if not densities_lib.is_sampleable(initial_proposal):
        raise ValueError(
          '`initial_proposal` must be given if the first density is not a '
          f'tfd.Distribution; that is {initial_proposal!r}.'
        )
      self.proposes_initial = True
    if isinstance(initial_proposal, tfd.Distribution):
      initial_proposal = proposals.DistributionProposal(initial_proposal)
    checks.check_instance(
      'initial_proposal',
      initial_proposal,
      proposals.Proposal,
      'a tfd.Distribution or a Proposal such as NestedProposal',
    )
    self._proposal = initial_proposal

  def copy(self, **overrides: Any) -> 'NestedSampler':
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
    where = resampling.evaluate_criterion(
      'resample_criterion_fn',
      self._resample_criterion_fn,
      weighting.WeightedParticles(particles.state, particles.log_weights),
    )
    if where is False:
      return particles
    if where is True:
      where = is_active
    elif is_active is not None:
      where = tf.logical_and(where, is_active)
    (state, terms, root), log_weights = resampling.resample(
      (particles.state, particles.terms, particles.root),
      particles.log_weights,
      self._resample_fn,
      seed,
      where=where,
    )
    resampled = Particles(state, terms, log_weights, root)
    if tf.is_tensor(root):
      lost = weighting.log_pairs_lost(
        *map(_as_weighted, (particles, resampled))
      )
      resampled = resampled._replace(
        log_pairs_lost=particles.log_pairs_lost + lost
      )
    return resampled

  def step(
    self,
    run: Run,
    segment: Segment,
    local_level: int | tf.Tensor,
    particles: Particles,
    noise: types.Structure,
  ) -> LevelRecord:
    """Brings particles from one level to the next.

    Args:
      run: `Run`.
      segment: `Segment`.
      local_level: The level as the transition counts: a Python `int`, or a
        scalar int `Tensor`.
      particles: `Particles` of the level before.
      noise: The transition's noise for this level.

    Returns:
      record: `LevelRecord`.
    """
    densities = run.densities
    level = segment.first_level + local_level
    # XLA would compile a slice again for each value of a level that is an
    # argument of the program.
    resample_seed, rejection_seed = tf.unstack(
      tf.gather(segment.seeds, local_level)
    )
    previous = self._resample(
      particles, resample_seed, densities.is_active(level)
    )
    if run.cut:
      previous = transitions_lib.stop_gradient(previous)

    def target_log_prob_fn(state):
      return densities.log_prob(level, densities.evaluate(level, state))

    move = segment.transition.propose(
      local_level,
      previous.state,
      noise,
      target_log_prob_fn,
      run.reparameterize,
    )
    transitions_lib.check_move(
      move, previous.state, previous.log_weights.shape, level
    )
    if run.keep_gradient:
      terms, log_prob_gradient = densities_lib.evaluate_with_gradient(
        densities, level, move.state
      )
    else:
      terms, log_prob_gradient = densities.evaluate(level, move.state), []
    terms, is_nan = replace_nan(terms, previous.log_weights.shape)
    log_incremental_weights = (
      densities.log_prob(level, terms)
      + move.log_reverse
      - densities.log_prob(level - 1, previous.terms)
      - run.log_forward_fn(move)
    )
    # A particle that has lost all weight stays without any.
    log_weights = tf.where(
      tf.equal(previous.log_weights, -float('inf')),
      previous.log_weights,
      previous.log_weights + log_incremental_weights,
    )
    if self._rejection_log_threshold_fn is not None:
      log_weights = weighting.rejection_control(
        log_weights,
        checks.check_returned(
          'rejection_log_threshold_fn',
          self._rejection_log_threshold_fn(log_weights),
          'the logarithm of a threshold',
          shape=log_weights.shape[1:],
          broadcasts=True,
        ),
        rejection_seed,
      )
    return LevelRecord(
      previous=previous,
      record=noise if segment.transition.records_noise else move.record,
      log_incremental_weights=log_incremental_weights,
      particles=previous._replace(
        state=move.state, terms=terms, log_weights=log_weights
      ),
      is_nan=is_nan,
      num_nan=tf.convert_to_tensor(move.num_nan, tf.int32),
      log_prob_gradient=log_prob_gradient,
    )

  def start(
    self,
    num_particles: int,
    seed: types.StatelessSeed,
    batch_shape: list | None = None,
    *,
    cut: bool = True,
    reparameterize: bool = True,
    log_forward_fn: Callable = lambda move: move.log_forward,
    keep_gradient: bool = False,
    keep_root: bool = False,
  ) -> Run:
    """Proposes the first level, and plans the others.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.
      batch_shape: List of Python `int`s, to which the sampler's batch shape
        broadcasts.
        Default value: `None` (i.e., the sampler's batch shape).
      cut: As of `Run`.
        Default value: `True`.
      reparameterize: As of `Run`.
        Default value: `True`.
      log_forward_fn: As of `Run`.
        Default value: the move's `log_forward`.
      keep_gradient: As of `Run`.
        Default value: `False`.
      keep_root: Python `bool`: whether particles know their root, for the
        errors of estimates.
        Default value: `False`.

    Returns:
      run: `Run` to be passed on to `fold` or `finish`.
    """
    if batch_shape is None:
      batch_shape = self.batch_shape.as_list()
    sample_shape = [num_particles] + batch_shape
    initial_seed, level_seed, *noise_seeds = tf.unstack(
      randomness.split_seed(seed, 2 + len(self.transitions))
    )
    densities = self.densities
    move = self._proposal.propose(
      num_particles,
      batch_shape,
      initial_seed,
      densities,
      reparameterize,
    )
    densities = densities.given(move, cut)
    terms = tf.nest.map_structure(
      lambda t: tf.broadcast_to(t, sample_shape),
      densities.evaluate(0, move.state),
    )
    terms, is_nan = replace_nan(terms, sample_shape)
    if self.proposes_initial and cut:
      # The weight is one, except where the first density is NaN.
      log_weights = tf.where(
        tf.equal(densities.log_prob(0, terms), -float('inf')),
        tf.constant(-float('inf'), densities.float_dtype),
        tf.zeros(sample_shape, densities.float_dtype),
      )
    else:
      log_weights = (
        densities.log_prob(0, terms) + move.log_reverse - log_forward_fn(move)
      )
    particles = Particles(move.state, terms, log_weights)
    if keep_root:
      particles = particles._replace(
        root=axes.particle_indices(sample_shape),
        log_pairs_lost=tf.zeros(batch_shape, densities.float_dtype),
      )
    return Run(
      densities,
      sample_shape,
      None if self.proposes_initial else move,
      particles,
      is_nan,
      [
        segment._replace(transition=segment.transition.given(densities))
        for segment in self._plan(level_seed, noise_seeds)
      ],
      cut,
      reparameterize,
      log_forward_fn,
      keep_gradient,
    )

  def _plan(self, level_seed, noise_seeds):
    """A `Segment` for each transition, with its seeds."""
    num_levels = self.densities.num_densities - 1
    # For each level, a seed to resample and one to reject with.
    seeds = tf.reshape(
      randomness.split_seed(level_seed, 2 * num_levels), [num_levels, 2, 2]
    )
    segments, first_level = [], 1
    for transition, noise_seed in zip(
      self.transitions, noise_seeds, strict=True
    ):
      stop = first_level + transition.num_transitions
      is_rolled = (
        transition.num_transitions > 1
        and transition.is_rollable
        and self.densities.is_rollable
      )
      segments.append(
        Segment(
          transition,
          first_level,
          is_rolled,
          noise_seed,
          seeds[first_level - 1 : stop - 1],
        )
      )
      first_level = stop
    return segments

  def fold(self, run: Run, recorder: Recorder) -> Particles:
    """Runs the levels after the first; the one loop over levels.

    Args:
      run: `Run` of `start`.
      recorder: `Recorder`: what to keep of each level.

    Returns:
      particles: `Particles` of the last level.
    """
    particles = run.initial
    for segment in run.segments:
      particles = self._fold_segment(run, segment, particles, recorder)
    return particles

  def _fold_segment(self, run, segment, particles, recorder):
    """Runs the levels of one transition."""
    transition = segment.transition
    num_levels = transition.num_transitions
    if recorder.draws_noise_ahead:
      noise = transition.draw_noise(run.sample_shape, segment.noise_seed)
      segment = segment._replace(noise=noise)

    def noise_at(level):
      if recorder.draws_noise_ahead:
        return tf.nest.map_structure(lambda x: x[level], segment.noise)
      return transition.draw_level_noise(
        run.sample_shape, segment.noise_seed, level
      )

    def example_fn():
      return LevelRecord(
        previous=particles,
        record=transition.record_like(noise_at(0), particles.state),
        log_incremental_weights=particles.log_weights,
        particles=particles,
        is_nan=run.is_nan,
        num_nan=tf.constant(0),
        log_prob_gradient=densities_lib.floating_parts(particles.state)
        if run.keep_gradient
        else [],
      )

    def body(level, particles, carry):
      record = self.step(run, segment, level, particles, noise_at(level))
      carry = recorder.visit(segment, level, record, carry)
      return record.particles, carry

    carry = recorder.start(segment, example_fn)
    if segment.is_rolled:
      _, particles, carry = tf.while_loop(
        lambda level, *_: level < num_levels,
        lambda level, *state: (level + 1, *body(level, *state)),
        (tf.constant(0), particles, carry),
        parallel_iterations=1,
        maximum_iterations=num_levels,
      )
    else:
      for level in range(num_levels):
        particles, carry = body(level, particles, carry)
    recorder.finish(segment, carry)
    return particles

  def finish(self, run: Run) -> Run:
    """Runs the levels after the first, and keeps the records of all of them.

    Args:
      run: `Run` of `start`.

    Returns:
      run: The same, with `particles` and the records of its segments.
    """
    recorder = FullRecorder()
    particles = self.fold(run, recorder)
    return run._replace(segments=recorder.segments, particles=particles)

  def run(
    self,
    num_particles: int,
    seed: types.StatelessSeed,
    batch_shape: list | None = None,
    **options: Any,
  ) -> Run:
    """Runs the sampler once; for objectives and other samplers.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.
      batch_shape: As of `start`.
      **options: As of `start`.

    Returns:
      run: `Run`.
    """
    return self.finish(self.start(num_particles, seed, batch_shape, **options))

  def _probe(self):
    return self._sample(2, tf.constant([0, 0]))

  def _sample(self, num_particles, seed):
    run = self.start(num_particles, seed, keep_root=True)
    counter = NanCounter(run)
    particles = self.fold(run, counter)
    return weighting.WeightedParticles(
      self.densities.forward(particles.state),
      particles.log_weights,
      particles.root,
      counter.total(),
      particles.log_pairs_lost,
    )

  def _trace(self, num_particles, seed):
    run = self.start(num_particles, seed)
    recorder = FullRecorder(
      lambda r: (
        r.particles.state,
        r.particles.log_weights,
        r.log_incremental_weights,
        r.is_nan,
      )
    )
    self.fold(run, recorder)
    state, log_weights, increments, is_nan = run._replace(
      segments=recorder.segments
    ).collect(lambda selected: selected)
    state, log_weights, is_nan = tf.nest.map_structure(
      lambda first, rest: tf.concat([first[tf.newaxis], rest], axis=0),
      (run.initial.state, run.initial.log_weights, run.is_nan),
      (state, log_weights, is_nan),
    )
    return Trace(self.densities.forward(state), log_weights, increments, is_nan)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers of the posterior of a state-space model."""

import functools
import warnings
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import islands, resampling, weighting
from tfp_nvi import sampler as sampler_lib
from tfp_nvi.internal import checks, persistence, randomness, reductions, types
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.state_space import (
  conditional,
  functions,
  global_space,
  guided,
  proposals,
)
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import recorder as recorder_lib
from tfp_nvi.state_space import runs as runs_lib
from tfp_nvi.state_space.densities import StateSpaceDensities
from tfp_nvi.state_space.heuristics import Heuristic
from tfp_nvi.state_space.history import FilterHistory
from tfp_nvi.state_space.posterior import StateSpacePosterior
from tfp_nvi.state_space.sequences import Sequences
from tfp_nvi.state_space.transition import StepTransition
from tfp_nvi.training import History

__all__ = [
  'StateSpaceSampler',
]

# Refinement folds this into the seed, so that it does not change the draws of
# the run.
_REFINEMENT = 1


class StateSpaceSampler(persistence.Persistent):
  """A sampler of the posterior of a state-space model, for any observations.

  Called with sequences, it returns the `NestedSampler` for them. `tfp_nvi.fit`
  takes it together with `data`.

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

  Attributes:
    history: `History` of `fit_state_space` on simulations, or `None`.
    data_histories: Tuple with the `History` of each of its rounds on data.
  """

  def __init__(
    self,
    model: model_lib.StateSpaceModel,
    initial_proposal_fn: Callable | None = None,
    proposal_fn: Callable | str | None = None,
    heuristic: Heuristic | None = None,
    resample_fn: Callable = resampling.resample_systematic,
    resample_criterion_fn: Callable = resampling.always,
    reparameterize: bool = False,
    num_refinements: int = 0,
    name: str = 'state_space_sampler',
  ):
    """Initializes the sampler.

    Each function gets the arguments listed for it by position, and may accept
    only the first of them. It may also name `t`, the index of the step, and
    `u`, the inputs.

    Args:
      model: `StateSpaceModel`.
      initial_proposal_fn: Python callable from the observations, of shape
        `batch + [num_steps] + event`, and from their mask, as in `sample`, or
        `None`, to a `tfd.Distribution` over the global state of batch shape
        `batch`. Values that are not observed are replaced by some value of the
        same sequence, here and in `heuristic`. `u` are the inputs of all steps.
        Default value: `None` (i.e., the prior).
      proposal_fn: Python callable from the observation of a step, the local
        state before (`None` at the first step), and the global state, to a
        `tfd.Distribution` over the local state. Or one of these: `'prior'`, the
        model's transition; `'guided'`, the transition times the likelihood, or
        its Gaussian approximation; `'heuristic'`, the heuristic's own proposal,
        which `GaussianHeuristic` and `HiddenMarkovHeuristic` have.
        Default value: `None` (i.e., `'prior'`).
      heuristic: `Heuristic`.
        Default value: `None` (i.e., a factor of one).
      resample_fn: As in `NestedSampler`.
      resample_criterion_fn: As in `NestedSampler`.
      reparameterize: Python `bool`: whether gradients may pass through local
        states that can be reparameterized. Nested objectives are then to be
        used level by level, as `tfp_nvi.reverse_kl(level_by_level=True)`.
        Default value: `False`.
      num_refinements: Python `int`: how many times `sample` fits the proposal
        of the global state to the sequences at hand, by the heuristic, before
        it draws the particles. Each one costs a call of `heuristic.prepare`.
        Default value: `0`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `initial_proposal_fn` is given and the model has no prior,
        a function takes other arguments, or there is no prior or heuristic to
        refine by.
    """
    super().__init__(name=name)
    checks.check_instance(
      'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
    )
    checks.check_callable(
      'initial_proposal_fn', initial_proposal_fn, optional=True
    )
    if not isinstance(proposal_fn, str):
      checks.check_callable('proposal_fn', proposal_fn, optional=True)
    checks.check_instance(
      'heuristic', heuristic, Heuristic, 'a Heuristic', optional=True
    )
    resampling.check_resample_fn(resample_fn)
    checks.check_callable('resample_criterion_fn', resample_criterion_fn)
    checks.check_bool('reparameterize', reparameterize)
    if model.prior is None and initial_proposal_fn is not None:
      raise ValueError(
        '`initial_proposal_fn` must be None if the model has no prior, as '
        f'there is no global state to propose; got {initial_proposal_fn!r}.'
      )
    self.model = model
    self.heuristic = heuristic
    self.initial_proposal_fn = initial_proposal_fn
    self.proposal_fn = proposal_fn
    extras = () if model.input_example is None else ('u',)
    self._initial_proposal = None
    self._proposal: guided.LocalProposal | Callable | None = None
    if initial_proposal_fn is not None:
      self._initial_proposal = functions.call_with_named(
        'initial_proposal_fn', initial_proposal_fn, ('x', 'is_observed'), extras
      )
    if isinstance(proposal_fn, str):
      self._proposal = guided.by_name(proposal_fn, model, heuristic)
    elif proposal_fn is not None:
      self._proposal = functions.call_with_named(
        'proposal_fn',
        proposal_fn,
        ('x', 'z', 'theta'),
        ('t', *extras),
        has_last=model.prior is not None,
      )
    self._resample_fn = resample_fn
    self._resample_criterion_fn = resample_criterion_fn
    self._reparameterize = reparameterize
    self._num_refinements = checks.as_count(
      'num_refinements', num_refinements, 0
    )
    self._space = None
    if num_refinements:
      if model.prior is None or heuristic is None:
        raise ValueError(
          '`num_refinements` must be 0 if the model has no prior or there is '
          f'no heuristic; got {num_refinements}.'
        )
      self._space = global_space.GlobalSpace(model.prior)
    self.history: History | None = None
    self.data_histories: tuple[History, ...] = ()
    # Compiled functions are not tracked, as they are not saved or copied.
    self._compiled: dict = self._no_dependency({})
    self._warned_of: set = self._no_dependency(set())

  def __call__(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None = None,
    lengths: types.TensorLike | None = None,
    inputs: types.Structure | None = None,
  ) -> sampler_lib.NestedSampler:
    """Returns the sampler for some sequences.

    Functions get the sequences with the batch axes that they have here.

    Args:
      observations: Nested structure of `Tensor`s of shape
        `batch + [num_steps] + event`.
      is_observed: Optional bool `Tensor` of shape `batch + [num_steps]`: which
        steps are observed. Or bools in the structure of the observations, of
        shape `batch + [num_steps] + event`: which components are observed, if
        these are independent or multivariate normal.
        Default value: `None` (i.e., all).
      lengths: Optional int `Tensor` of shape `batch`: how many steps each
        sequence has.
        Default value: `None` (i.e., all `num_steps`).
      inputs: Nested structure of `Tensor`s of shape
        `batch + [num_steps] + event`, or that broadcast to it.
        Default value: `None` (i.e., the model has no inputs).

    Returns:
      sampler: `NestedSampler` over `StateSpaceState`s, of batch shape `batch`.

    Raises:
      TypeError: If an argument cannot be converted to a `Tensor`.
      ValueError: If the arguments are not sequences of the model.
    """
    return self._make(
      Sequences(self.model.example, observations, is_observed, lengths, inputs),
      self._reparameterize,
    )

  def _make(self, sequences, reparameterize, records_nan=False):
    """Returns the nested sampler for some sequences."""
    densities = StateSpaceDensities(self.model, sequences, self.heuristic)
    steps = [
      StepTransition(
        densities, self._proposal, is_first, reparameterize, records_nan
      )
      for is_first in (True, False)[: min(sequences.num_steps, 2)]
    ]
    prior = self.model.prior
    if prior is None:
      proposal = proposals.NoGlobalProposal()
    elif self._initial_proposal is None:
      proposal = proposals.GlobalProposal(lambda: prior, densities)
    else:

      def distribution_fn():
        distribution = self._initial_proposal(
          densities.observations, densities.shown, u=densities.inputs
        )
        functions.check_distribution(
          'initial_proposal_fn',
          distribution,
          densities.batch_shape,
          (prior.dtype, prior.event_shape),
        )
        return distribution

      proposal = proposals.GlobalProposal(distribution_fn, densities)
    return sampler_lib.NestedSampler(
      densities, steps, initial_proposal=proposal, **self.resampling
    )

  def sample(
    self,
    observations: types.Structure,
    num_particles: int = 2_000,
    seed: types.Seed | None = None,
    *,
    is_observed: types.Structure | None = None,
    lengths: types.TensorLike | None = None,
    trajectories: bool = True,
    jit_compile: bool = True,
    inputs: types.Structure | None = None,
    strict: bool = False,
    history: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    num_islands: int | None = None,
  ) -> StateSpacePosterior:
    """Draws properly weighted particles for the posterior of each sequence.

    Compiles once for each number of particles and shape of the observations.

    A single sequence, without batch axes, is passed to `initial_proposal_fn`,
    `proposal_fn` and `heuristic` as a batch of one, so that functions which
    were learned on batches serve. The result has no batch axes then.

    A log density that is NaN counts as zero density: the particle loses its
    weight. `num_nan` of the posterior counts such particles, and each sampler
    warns of them once. It also warns once of a `GaussianHeuristic` whose
    expansions have not settled, and of 100 particles or more that all descend
    from one draw of the global state.

    Args:
      observations: As in `__call__`.
      num_particles: Python `int`.
        Default value: `2_000`.
      seed: Python `int` or stateless seed.
      is_observed: As in `__call__`.
      lengths: As in `__call__`.
      trajectories: Python `bool`: whether to read out the local states of all
        steps.
        Default value: `True`.
      jit_compile: Python `bool`: whether to compile with XLA.
        Default value: `True`.
      inputs: As in `__call__`.
      strict: Python `bool`: whether a log density that is NaN is an error.
        Default value: `False`.
      history: Python `bool`: whether to keep the particles of all steps, which
        gives the posterior a `FilterHistory`.
        Default value: `False`.
      strategy: `tf.distribute.Strategy` in whose scope the sampler was made:
        its replicas run islands, as in `NestedSampler.sample`. Every process
        makes the same call, and gets all particles.
        Default value: `None` (i.e., all particles in one run on this device).
      num_islands: Python `int`: a multiple of the number of replicas, and a
        divisor of `num_particles`. May be given without `strategy`.
        Default value: `None` (i.e., one for each replica).

    Returns:
      posterior: `StateSpacePosterior`.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the arguments are not sequences of the model, or one has no
        weight under any particle, or `strict` and a log density is NaN, or the
        particles cannot be divided among islands, or the sampler was made
        outside of the scope of `strategy`. Inside of a `tf.function` values are
        not known, and nothing about them is checked or warned of.
    """
    num_particles = checks.as_count('num_particles', num_particles)
    checks.check_bool('trajectories', trajectories)
    checks.check_bool('jit_compile', jit_compile)
    checks.check_bool('strict', strict)
    checks.check_bool('history', history)
    seed = randomness.as_seed(seed)
    sequences = Sequences(
      self.model.example, observations, is_observed, lengths, inputs
    )
    is_single = sequences.batch_shape.rank == 0 and any(
      x is not None
      for x in (self.proposal_fn, self.initial_proposal_fn, self.heuristic)
    )
    if is_single:
      sequences = sequences.as_batch()
    # This checks the values, which a compiled function does not know.
    self._make(sequences, reparameterize=False)
    parts = sequences.parts()
    keep = trajectories, history
    num_runs = 1
    if strategy is not None or num_islands is not None:
      replicas = replicas_lib.Replicas(strategy, num_islands)
      num_runs = replicas.num_islands
      fn = self._islands(num_particles, keep, parts, jit_compile, replicas)
    else:
      fn = functools.partial(self._sample, num_particles, *keep)
      if not tf.config.functions_run_eagerly():
        key = (num_particles, *keep, jit_compile)
        fn = self._compile(fn, key, parts, jit_compile)
    run = fn(seed, parts)
    if is_single:
      run = runs_lib.without_batch(run)
    posterior = run.posterior.of_model(self.model, sequences, is_single)
    if reductions.has_values(run.posterior.log_weights):
      runs_lib.check_weights(run)
      message = runs_lib.describe_nan(run)
      if message and strict:
        raise ValueError(message)
      messages = {'nan': message, 'doubt': runs_lib.describe_doubt(run)}
      if self.model.prior is not None:
        messages['ancestry'] = runs_lib.describe_ancestry(run, num_runs)
      for kind, message in messages.items():
        if message and kind not in self._warned_of:
          self._warned_of.add(kind)
          warnings.warn(message, RuntimeWarning, stacklevel=2)
    return posterior

  def forget_warnings(self) -> None:
    """Lets `sample` give its warnings again."""
    self._warned_of.clear()

  @property
  def local_proposal(self) -> guided.LocalProposal | Callable | None:
    """The proposal of local states, as `StepTransition` takes it."""
    return self._proposal

  @property
  def resampling(self) -> dict:
    """The functions that resample, as `NestedSampler` takes them."""
    return dict(
      resample_fn=self._resample_fn,
      resample_criterion_fn=self._resample_criterion_fn,
    )

  def given(
    self,
    global_state: types.Structure,
    batch_rank: int,
    looks_ahead: bool = True,
  ) -> 'StateSpaceSampler':
    """Makes a sampler of local states alone, for given global states.

    It has the same kind of proposal and heuristic. Where these are functions or
    networks of the global state there is no heuristic, and the proposal is
    guided if it can be, else the prior.

    Args:
      global_state: Nested structure of `Tensor`s of shape `batch + event`.
      batch_rank: Python `int`: the number of axes of `batch`, which is the
        batch shape of all sequences that the sampler serves.
      looks_ahead: Python `bool`: whether it has a heuristic.
        Default value: `True`.

    Returns:
      sampler: `StateSpaceSampler`.
    """
    model = self.model
    if model.prior is not None:
      model = conditional.given_model(model, global_state, batch_rank)
    heuristic = None
    if looks_ahead and self.heuristic is not None:
      heuristic = self.heuristic.given(model)
    proposal_fn = 'guided' if model.can_be_guided else 'prior'
    if self.proposal_fn == 'heuristic' and heuristic is not None:
      proposal_fn = 'heuristic'
    elif self.proposal_fn in (None, 'prior'):
      proposal_fn = 'prior'
    return StateSpaceSampler(
      model, proposal_fn=proposal_fn, heuristic=heuristic, **self.resampling
    )

  def run_once(
    self,
    parts: tuple,
    num_particles: int,
    seed: tf.Tensor,
    *,
    trajectories: bool = False,
    history: bool = False,
  ) -> StateSpacePosterior:
    """Runs the filter, inside of a compiled function.

    Args:
      parts: `Sequences.parts()`.
      num_particles: Python `int`.
      seed: Stateless seed.
      trajectories: As in `sample`, but `False` by default.
      history: As in `sample`.
        Default value: `False`.

    Returns:
      posterior: `StateSpacePosterior`.
    """
    return self._sample(
      num_particles, trajectories, history, seed, parts
    ).posterior

  def compiled(self, key: tuple, fn: Callable, jit_compile: bool) -> Callable:
    """Compiles a function, once for each key.

    Args:
      key: Tuple of the values that `fn` depends on besides its arguments.
      fn: Python callable from `Tensor`s.
      jit_compile: Python `bool`.

    Returns:
      fn: The function that was compiled first for this key.
    """
    if key not in self._compiled:
      self._compiled[key] = tf.function(
        fn, jit_compile=jit_compile, autograph=False
      )
    return self._compiled[key]

  def _compile(self, fn, key, parts, jit_compile):
    """Returns the compiled function for parts of these shapes."""
    specs = _specs(parts)
    key = str((key, specs))
    if key not in self._compiled:
      self._compiled[key] = tf.function(
        fn, jit_compile=jit_compile, autograph=False
      ).get_concrete_function(tf.TensorSpec([2], tf.int32), specs)
    return self._compiled[key]

  def _islands(self, num_particles, keep, parts, jit_compile, replicas):
    """Returns the function that runs the filter on each island."""
    size = replicas.share('num_particles', num_particles)
    # The cache refers to the strategy, so that no other object gets its id.
    key = str(
      (size, keep, jit_compile, replicas.num_islands, id(replicas.strategy))
    ) + str(_specs(parts))
    if key not in self._compiled:
      replicas_lib.check_in_scope('sampler', replicas.strategy, self.variables)
      self._compiled[key] = islands.Islands(
        replicas,
        functools.partial(self._sample, size, *keep),
        runs_lib.combine,
        jit_compile,
      )
    return self._compiled[key]

  def _refined(self, sampler, num_particles, seed):
    """Returns the sampler with a global proposal fitted to its sequences."""
    densities = sampler.densities
    first = self.model.prior
    if self._initial_proposal is not None:
      first = self._initial_proposal(
        densities.observations, densities.shown, u=densities.inputs
      )
    refined = proposals.refine(
      first,
      self._space,
      densities,
      num_particles,
      self._num_refinements,
      randomness.fold_in(seed, _REFINEMENT),
    )
    return sampler.copy(
      initial_proposal=proposals.GlobalProposal(lambda: refined, densities)
    )

  def _probe(self):
    """Samples a short sequence."""
    example = self.model.example
    x, inputs = tf.nest.map_structure(
      lambda x: tf.tile(x[tf.newaxis, tf.newaxis], [1, 3] + [1] * x.shape.rank),
      (example.observation, example.inputs),
    )
    sequences = Sequences(example, x, inputs=inputs)
    return self._sample(2, True, False, tf.constant([0, 0]), sequences.parts())

  def _sample(self, num_particles, trajectories, history, seed, parts):
    """Runs the filter once."""
    sequences = Sequences(self.model.example, *parts)
    sampler = self._make(sequences, reparameterize=False, records_nan=True)
    densities = sampler.densities
    num_steps = densities.num_steps
    batch_shape = densities.batch_shape
    shape = tf.TensorShape([num_particles]) + batch_shape
    if self._num_refinements:
      sampler = self._refined(sampler, num_particles, seed)

    run = sampler.start(num_particles, seed, reparameterize=False)
    run, nan_source = recorder_lib.start_without_nan(
      run, shape, self.initial_proposal_fn is not None
    )
    recorder = recorder_lib.FilterRecorder(
      run, num_steps, nan_source, trajectories, history
    )
    particles = sampler.fold(run, recorder)
    stacked = recorder.stack()
    path = stacked.pop('path', None)
    kept = stacked.pop('history', None)
    series = tf.nest.map_structure(
      lambda x, xs: tf.concat([x[tf.newaxis], xs], axis=0),
      recorder_lib.summarize(run.initial),
      stacked,
    )
    posterior = StateSpacePosterior(
      global_state=particles.state.global_state,
      trajectories=recorder_lib.read_back(*path, shape) if trajectories else (),
      log_weights=particles.log_weights,
      log_normalizer_increments=runs_lib.increments_of(
        series['log_normalizer']
      ),
      effective_sample_sizes=series['effective_sample_size'],
      num_roots=series['num_roots'],
      root=particles.state.root,
      num_nan=tf.reduce_sum(recorder.num_nan, axis=0),
      history=FilterHistory(run.initial.state.global_state, *kept)
      if history
      else (),
    )
    return runs_lib.FilterRun(
      posterior,
      tf.reduce_min(recorder.first_nan, axis=0),
      self._doubtful_share(run.densities.prepared, particles),
    )

  def _doubtful_share(self, rows, particles):
    """Returns the share of the weight whose heuristic factor is doubtful."""
    is_doubtful = None
    if self.heuristic is not None:
      is_doubtful = self.heuristic.is_doubtful(rows)
    if is_doubtful is None:
      return tf.zeros(particles.log_weights.shape[1:])
    shares = tf.cast(is_doubtful, tf.float32)
    if shares.shape[0] > 1:
      shares = resampling.gather_ancestors(shares, particles.state.root)
    weights = weighting.normalize_weights(particles.log_weights)
    return weighting.total(tf.cast(weights, tf.float32) * shares)


def _specs(parts):
  """Returns shapes and dtypes of parts of sequences; some parts are `None`."""
  return tf.nest.map_structure(
    lambda x: x if x is None else tf.TensorSpec(x.shape, x.dtype), parts
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Nested f-divergences: each level is compared with the one before it.

`level` has the formulas of one level. Levels are differentiated together once
all of them have been sampled, or one after the other (`level_by_level`).
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import runs, weighting
from tfp_nvi.chains import Chain
from tfp_nvi.implicit import ImplicitLevel
from tfp_nvi.internal import axes, checks, naming
from tfp_nvi.objectives import adversarial, base, chain
from tfp_nvi.objectives import level as level_lib
from tfp_nvi.objectives.base import Estimate, Side
from tfp_nvi.objectives.level_by_level import LevelRecorder, add_gradients
from tfp_nvi.sampler import NestedSampler

__all__ = [
  'NestedDivergence',
  'avo',
  'f_divergence',
  'forward_kl',
  'reverse_kl',
]


# Values of log u at which Csiszar functions are tried.
_POINTS = np.linspace(-3.0, 3.0, 1_201)


def _try_csiszar_function(csiszar_function):
  """Values of a Csiszar function at `_POINTS`; an error if it has none.

  Args:
    csiszar_function: Python callable from `log u` to `f(u)`.

  Returns:
    values: Array of the shape of `_POINTS`.
  """
  checks.check_callable(
    'csiszar_function',
    csiszar_function,
    'a callable from log u to f(u), such as tfp.vi.kl_reverse',
  )
  # Evaluated at once, also where an objective is made while a graph is traced.
  with tf.init_scope():
    log_ratio = tf.constant(_POINTS, tf.float32)
    try:
      values = csiszar_function(log_ratio)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
      # A function that has parameters of its own may be of another dtype.
      log_ratio = tf.constant(_POINTS, tf.float64)
      values = csiszar_function(log_ratio)
    values = checks.check_returned(
      'csiszar_function',
      values,
      'a value for each log u',
      log_ratio.dtype,
      log_ratio.shape,
    ).numpy()
  if not np.isfinite(values).all():
    raise ValueError(
      '`csiszar_function` must return finite numbers; at log u = '
      f'{_POINTS[~np.isfinite(values)][0]:.3f} it returned '
      f'{values[~np.isfinite(values)][0]}.'
    )
  return values


def _is_smooth(values):
  """Whether the first derivative of a Csiszar function is continuous.

  Pathwise gradients miss what a jump of it contributes, as of the total
  variation.

  Args:
    values: Array: the function at `_POINTS`.

  Returns:
    is_smooth: Python `bool`.
  """
  # A jump of the derivative is a second difference unlike its neighbours.
  differences = np.diff(values.astype(np.float64))
  second = np.diff(differences)
  spikes = np.abs(second[2:-2] - 0.5 * (second[:-4] + second[4:]))
  step = _POINTS[1] - _POINTS[0]
  return bool(np.max(spikes) < 0.02 * (step + np.max(np.abs(differences))))


class NestedDivergence(base.Objective):
  """Sum over levels of an f-divergence between consecutive levels.

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
  [2]: G. Roeder, Y. Wu, D. Duvenaud. Sticking the landing. NeurIPS, 2017.
       https://arxiv.org/abs/1703.09194
  [3]: G. Tucker, D. Lawson, S. Gu, C. J. Maddison. Doubly reparameterized
       gradient estimators for Monte Carlo objectives. ICLR, 2019.
       https://arxiv.org/abs/1810.04152

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  objective = nvi.NestedDivergence(
    tfp.vi.jensen_shannon, sides=nvi.Side.FORWARD
  )
  ```
  """

  def __init__(
    self,
    csiszar_function: Callable,
    sides: Side = Side.BOTH,
    reparameterize: bool | None = None,
    baseline: bool = True,
    weighted: bool = True,
    level_by_level: bool = False,
    evaluate_once: bool = True,
  ):
    """Initializes the objective.

    Args:
      csiszar_function: Python callable from `log u` to `f(u)`, such as
        `tfp.vi.kl_reverse`.
      sides: `Side`: which parameters to train.
        Default value: `Side.BOTH`.
      reparameterize: Python `bool`: whether the gradient of forward kernels
        passes through their samples, without the direct dependence of the
        density on its parameters ("sticking the landing", and its doubly
        reparameterized extension to other divergences). Otherwise, for kernels
        that cannot be reparameterized, and for divergences whose derivative has
        a jump, such as the total variation, it is a score-function gradient. It
        should be `False` for densities that have jumps, which the gradient
        through samples does not see: kernels become too narrow then.
        Default value: `None` (i.e., `True`, unless draws of the first density
        show that the target is zero in places, and has jumps there).
      baseline: Python `bool`: whether to subtract control variates from the
        factors of score functions.
        Default value: `True`.
      weighted: Python `bool`: whether particles count by the weights that the
        level received, or all the same, as in annealed variational objectives.
        Default value: `True`.
      level_by_level: Python `bool`: whether to differentiate each level before
        the next one is sampled, with memory for the particles of one level;
        otherwise all levels are sampled first and then differentiated together,
        which is faster while they fit. The gradient is the same.
        Default value: `False`.
      evaluate_once: Python `bool`: whether densities without variables of their
        own are evaluated once for each particle and level, value and gradient
        at the same time; otherwise a second time for the gradient, which is a
        few percent faster if they cost next to nothing and particles are few.
        The gradient is the same.
        Default value: `True`.

    Raises:
      TypeError: If `csiszar_function` is not callable, `sides` is not a `Side`,
        or an option is not a `bool`.
      ValueError: If `sides` is empty, or `csiszar_function` does not return a
        number for each `log u`.
    """
    is_smooth = _is_smooth(_try_csiszar_function(csiszar_function))
    checks.check_instance(
      'sides', sides, Side, 'Side.FORWARD, Side.REVERSE or Side.BOTH'
    )
    if not sides:
      raise ValueError('`sides` must name at least one side; got none.')
    if reparameterize is not None:
      checks.check_bool('reparameterize', reparameterize)
    for name, value in (
      ('baseline', baseline),
      ('weighted', weighted),
      ('level_by_level', level_by_level),
      ('evaluate_once', evaluate_once),
    ):
      checks.check_bool(name, value)
    self._csiszar_function = csiszar_function
    self._sides = sides
    self._reparameterize = reparameterize if is_smooth else False
    self._baseline = baseline
    self._weighted = weighted
    self._level_by_level = level_by_level
    self._evaluate_once = evaluate_once
    self._variables: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

  @property
  def description(self) -> str:
    """The divergence and its settings."""
    return (
      f'{naming.describe_function(self._csiszar_function)}, {self._sides}, '
      f'reparameterize={self._reparameterize}, baseline={self._baseline}, '
      f'weighted={self._weighted}'
    )

  def __call__(
    self, sampler: NestedSampler | Chain, num_particles: int, seed: tf.Tensor
  ) -> tuple[Estimate, list[tuple[tf.Tensor, tf.Variable]]]:
    """Estimates the objective and its gradients; see `Objective`.

    Args:
      sampler: `NestedSampler` or `Chain`.
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      estimate: `Estimate`; that of a chain is summed over levels and batches.
      gradients: List of pairs of a gradient and its variable.
    """
    if isinstance(sampler, Chain):
      return chain.estimate_chain(
        sampler,
        num_particles,
        seed,
        self._chain_level,
        # The other side of a level has no gradient then.
        is_partial=self._sides != Side.BOTH,
      )
    if self._level_by_level:
      return self._estimate_level_by_level(sampler, num_particles, seed)
    with tf.GradientTape() as tape:
      surrogate, estimate = self._estimate_together(
        sampler, num_particles, seed
      )
    variables = tape.watched_variables()
    return estimate, base.pair_gradients(
      tape.gradient(surrogate, variables), variables
    )

  def _estimate_together(self, sampler, num_particles, seed):
    """Samples all levels, and then forms the divergences of all of them."""
    run, tape = self._start(sampler, num_particles, seed)
    run = sampler.finish(run)
    levels = [
      level for segment in run.segments for level in self._segment(run, segment)
    ]
    surrogate = tf.add_n([level.surrogate for level in levels])
    loss = tf.add_n([tf.reduce_sum(level.loss, axis=0) for level in levels])
    if run.initial_move is not None:
      initial = self._initial_level(run, tape)
      surrogate += initial.surrogate
      loss += initial.loss
    log_weights = run.particles.log_weights
    return surrogate, Estimate(
      loss=loss,
      log_normalizer=weighting.log_normalizer(log_weights),
      effective_sample_size=weighting.effective_sample_size(log_weights),
      log_incremental_weights=tf.concat(
        [level.log_incremental_weight for level in levels], axis=0
      ),
      level_effective_sample_sizes=tf.concat(
        [level.effective_sample_size for level in levels], axis=0
      ),
      num_nan=run.num_nan() + sum(level.num_nan for level in levels),
    )

  def _estimate_level_by_level(self, sampler, num_particles, seed):
    """Differentiates each level when it has been sampled."""
    variables = self._find_variables(sampler, num_particles)
    with tf.GradientTape() as outer:
      run, tape = self._start(sampler, num_particles, seed)
    recorder = LevelRecorder(self, run, variables)
    log_weights = sampler.fold(run, recorder).log_weights
    loss = recorder.loss
    targets = tf.nest.flatten(run.densities.prepared)
    upstream = recorder.prepared_gradients
    if run.initial_move is not None:
      with outer:
        initial = self._initial_level(run, tape)
      loss += initial.loss
      targets = targets + [initial.surrogate]
      upstream = upstream + [tf.ones_like(initial.surrogate)]
    gradients = recorder.gradients
    if targets:
      rest = outer.gradient(targets, variables, output_gradients=upstream)
      gradients = [
        add_gradients(a, b) for a, b in zip(gradients, rest, strict=True)
      ]
    estimate = Estimate(
      loss=loss,
      log_normalizer=weighting.log_normalizer(log_weights),
      effective_sample_size=weighting.effective_sample_size(log_weights),
      log_incremental_weights=recorder.log_incremental_weights,
      level_effective_sample_sizes=recorder.effective_sample_sizes,
      num_nan=recorder.num_nan,
    )
    return estimate, base.pair_gradients(gradients, variables)

  def _find_variables(self, sampler, num_particles):
    """The variables that the objective depends on, by tracing it once."""
    if sampler not in self._variables:
      variables = []

      def trace(seed):
        with tf.GradientTape() as tape:
          self._estimate_together(sampler, num_particles, seed)
        variables.extend(tape.watched_variables())

      tf.function(trace, autograph=False).get_concrete_function(
        tf.TensorSpec([2], tf.int32)
      )
      self._variables[sampler] = variables
    return self._variables[sampler]

  def _start(self, sampler, num_particles, seed):
    """Proposes the first level, on a tape of its own.

    TensorFlow writes out second derivatives of a loop that is on two tapes.
    """
    with tf.GradientTape() as tape:
      run = sampler.start(
        num_particles,
        seed,
        reparameterize=self._reparameterizes(sampler.densities),
        keep_gradient=self._keeps_gradient(sampler.densities),
      )
    return run, tape

  def _reparameterizes(self, densities):
    """Whether gradients pass through samples."""
    if self._reparameterize is None:
      return not densities.has_zeros
    return self._reparameterize

  def _keeps_gradient(self, densities):
    """Whether the gradient by the state is all that is needed of densities."""
    return self._evaluate_once and not densities.has_variables

  def _initial_level(self, run, tape):
    """The divergence of the first density from the initial proposal."""
    densities, particles = run.densities, run.initial
    terms = particles.terms
    fixed_terms = densities.evaluate_fixed(0, particles.state, terms)
    zero = tf.zeros_like(particles.log_weights)
    return self._estimate_level(
      level_lib.LevelTerms(
        move=run.initial_move,
        log_target=densities.log_prob(0, terms),
        log_target_fixed_state=densities.log_prob(0, fixed_terms),
        log_source=zero,
        log_weights=zero,
        sample_gradients_fn=functools.partial(
          tape.gradient, particles.log_weights, run.initial_move.samples
        ),
        has_normalized_reverse=False,
      )
    )

  def _segment(self, run, segment):
    """The divergences of the levels that one transition leads to.

    Returns:
      levels: List of `LevelEstimate`s, whose fields of shape `batch` have a
        first axis over levels.
    """
    count = segment.transition.num_transitions
    if segment.is_rolled and segment.transition.is_level_batched:
      records = segment.records._replace(is_nan=(), num_nan=())
      records = axes.swap_first_axes(records)
      return [self.replay_level(run, segment, range(count), records)]
    levels = []
    for i in range(count):
      if segment.is_rolled:
        record = tf.nest.map_structure(lambda x, i=i: x[i], segment.records)
      else:
        record = segment.records[i]
      level = self.replay_level(run, segment, i, record)
      levels.append(
        level._replace(
          loss=level.loss[tf.newaxis],
          log_incremental_weight=level.log_incremental_weight[tf.newaxis],
          effective_sample_size=level.effective_sample_size[tf.newaxis],
        )
      )
    return levels

  def _estimate_level(self, terms, csiszar_function=None):
    """The divergence of a level, by the settings of this objective."""
    return level_lib.estimate_level(
      terms,
      csiszar_function or self._csiszar_function,
      self._sides,
      weighted=self._weighted,
      baseline=self._baseline,
    )

  def replay_level(
    self,
    run: runs.Run,
    segment: runs.Segment,
    local_level: int | tf.Tensor | range,
    record: runs.LevelRecord,
  ) -> level_lib.LevelEstimate:
    """The divergence of a level, or of each of a range of levels.

    Args:
      run: `Run`.
      segment: `Segment`.
      local_level: The level as the transition counts, or a Python `range`.
      record: `LevelRecord`; for a range with leaves of shape
        `[num_particles, num_levels] + ...`.

    Returns:
      level: `LevelEstimate`.
    """
    densities, transition = run.densities, segment.transition
    if isinstance(local_level, range):
      start = segment.first_level + local_level.start
      level: Any = range(start, start + len(local_level))
      level_before: Any = range(start - 1, start - 1 + len(local_level))
    else:
      level = segment.first_level + local_level
      level_before = level - 1
    # All of the run is constant here: without this, the gradient would be sent
    # back through its loop in vain.
    record = tf.nest.map_structure(tf.stop_gradient, record)
    previous = record.previous

    def target_log_prob_fn(state):
      return densities.log_prob(level, densities.evaluate(level, state))

    num_nan = 0
    with tf.GradientTape() as tape:
      # So that what a kernel without variables samples is on the tape as well.
      tape.watch(densities_lib.floating_parts(previous.state))
      move = transition.replay(
        local_level,
        previous.state,
        record.record,
        target_log_prob_fn,
        self._reparameterizes(densities),
      )
      if self._keeps_gradient(densities):
        terms = record.particles.terms
        gradient, num_nan = densities_lib.replace_infinite(
          record.log_prob_gradient
        )
        log_target = densities_lib.attach_gradient(
          densities.log_prob(level, terms), gradient, move.state
        )
      else:
        terms, _ = runs.replace_nan(
          densities.evaluate(level, move.state), previous.log_weights.shape
        )
        log_target = densities.log_prob(level, terms)
      log_weights = log_target + move.log_reverse - move.log_forward
    estimate = self._estimate_level(
      level_lib.LevelTerms(
        move=move,
        log_target=log_target,
        log_target_fixed_state=densities.log_prob(
          level, densities.evaluate_fixed(level, move.state, terms)
        ),
        log_source=densities.log_prob(
          level_before,
          densities.evaluate_fixed(
            level_before, previous.state, previous.terms
          ),
        ),
        log_weights=previous.log_weights,
        sample_gradients_fn=functools.partial(
          tape.gradient, log_weights, move.samples
        ),
        has_normalized_reverse=transition.has_normalized_reverse,
      )
    )
    return estimate._replace(num_nan=num_nan)

  def _chain_level(self, level, num_particles, seed):
    """The divergence of a level of a chain."""
    if isinstance(level, ImplicitLevel):
      return adversarial.estimate_level(
        level, num_particles, seed, self._csiszar_function, self._sides
      )
    values = level.draw(num_particles, seed)
    with tf.GradientTape() as tape:
      tape.watch(densities_lib.floating_parts(values))
      move, log_target = level.evaluate(
        values, self._reparameterize is not False
      )
      log_weights = log_target - move.log_forward
    log_target_fixed_state = log_target
    if move.samples and self._sides != Side.BOTH:
      log_target_fixed_state = level.log_target(
        tf.nest.map_structure(tf.stop_gradient, move.state)
      )
    zero = tf.zeros_like(log_weights)
    estimate = self._estimate_level(
      level_lib.LevelTerms(
        move=move,
        log_target=log_target,
        log_target_fixed_state=log_target_fixed_state,
        log_source=zero,
        log_weights=zero,
        sample_gradients_fn=functools.partial(
          tape.gradient, log_weights, move.samples
        ),
        is_normalized=True,
      ),
      level.csiszar_function,
    )
    return (
      estimate.surrogate,
      estimate.loss,
      estimate.log_incremental_weight,
      log_weights,
    )


def reverse_kl(**kwargs: Any) -> NestedDivergence:
  """The nested reverse (exclusive) KL divergence.

  Args:
    **kwargs: Further arguments of `NestedDivergence`.

  Returns:
    objective: `NestedDivergence`.

  ```python
  import tfp_nvi as nvi

  objective = nvi.reverse_kl()
  ```
  """
  return NestedDivergence(tfp.vi.kl_reverse, **kwargs)


def forward_kl(**kwargs: Any) -> NestedDivergence:
  """The nested forward (inclusive) KL divergence.

  Args:
    **kwargs: Further arguments of `NestedDivergence`.

  Returns:
    objective: `NestedDivergence`.

  ```python
  import tfp_nvi as nvi

  objective = nvi.forward_kl(sides=nvi.Side.FORWARD)
  ```
  """
  return NestedDivergence(tfp.vi.kl_forward, **kwargs)


def f_divergence(csiszar_function: Callable, **kwargs: Any) -> NestedDivergence:
  """The nested f-divergence of a Csiszar function.

  Args:
    csiszar_function: Python callable from `log u` to `f(u)`: any of `tfp.vi`.
    **kwargs: Further arguments of `NestedDivergence`.

  Returns:
    objective: `NestedDivergence`.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  objective = nvi.f_divergence(tfp.vi.squared_hellinger)
  ```
  """
  return NestedDivergence(csiszar_function, **kwargs)


def avo() -> NestedDivergence:
  """The annealed variational objective.

  The nested reverse KL divergence with particles that all count the same,
  whatever their weights; meant for samplers that never resample.

  Returns:
    objective: `NestedDivergence`.

  #### References

  [1]: C.-W. Huang, S. Tan, A. Lacoste, A. Courville. Improving explorability in
       variational inference with annealed variational objectives. NeurIPS,
       2018. https://arxiv.org/abs/1809.01818

  ```python
  import tfp_nvi as nvi

  objective = nvi.avo()
  ```
  """
  return NestedDivergence(tfp.vi.kl_reverse, weighted=False)

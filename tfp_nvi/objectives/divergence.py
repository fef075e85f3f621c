# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Nested f-divergences: each level is compared with the one before it.

Write `l = log(pi-check_k / pi-hat_k)`, with `pi-hat_k` the density that level
`k` proposes from and `pi-check_k` the one it is weighted for, and
`g(l) = f(exp(l))`. The gradient of `D_f = E_pi-hat[g(l)]` is estimated by

```none
E_pi-hat[ g'(l) d log pi-check ]             parameters of the reverse side
E_pi-hat[ (g(l) - g'(l)) d log pi-hat ]      of the forward side, by score
E_pi-hat[ (g'(l) - g''(l)) dl/dz dz/dphi ]   of the forward kernel, by its path
```

with `d log pi = d log gamma - E_pi[d log gamma]`, where expectations are those
of the particles under the weights that the level received (`pi-hat_k`) or
handed on (`pi_k`). The gradient at a level passes through that level alone: the
particles and weights that it received are constants there.

Two control variates have expectation zero. The score of `pi-hat` does under
`pi-hat`: the weighted mean of `g - g'` is subtracted from its factor. The score
of the reverse kernel given `z_k` does under `pi-check`: a multiple of `exp(l)`
is subtracted from its factor `g'(l)`, with the coefficient that makes the
factors smallest, so that a single particle that has all the weight has no
gradient. Without it that particle makes the reverse kernel, and with it the
weights of the next step, run away.
"""

import functools
import weakref
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import runs, weighting
from tfp_nvi.chains import Chain
from tfp_nvi.internal import checks
from tfp_nvi.objectives import base, chain
from tfp_nvi.objectives.base import Estimate, Side

__all__ = [
  'NestedDivergence',
  'avo',
  'f_divergence',
  'forward_kl',
  'reverse_kl',
]

# The log ratio that stands for that of a particle proposed where the target is
# zero. The reverse KL divergence is infinite there; with this it is finite, and
# its gradient keeps proposals away.
ZERO_DENSITY_LOG_RATIO = -20.0


class LevelTerms(NamedTuple):
  """The log densities of a level, as its divergence needs them.

  Log densities have shape `[num_particles] + batch`.

  Fields:
    move: `Move` that was made.
    log_target: `log gamma_k` at the proposed state.
    log_target_fixed_state: The same, the state held fixed.
    log_source: `log gamma_{k-1}` at the previous state.
    log_weights: Log weights that the level received.
    sample_gradients_fn: Python callable that returns the gradients of the log
      incremental weights by the reparameterized samples.
    has_normalized_reverse: Python `bool`: whether the reverse kernel is
      normalized, so that its score has expectation zero.
  """

  move: Any
  log_target: tf.Tensor
  log_target_fixed_state: tf.Tensor
  log_source: tf.Tensor
  log_weights: tf.Tensor
  sample_gradients_fn: Any
  has_normalized_reverse: bool = True


class LevelEstimate(NamedTuple):
  """The divergence of a level.

  Fields:
    surrogate: Scalar float `Tensor` whose gradient is that of the divergence.
      Its value means nothing; the objective differentiates it.
    loss: float `Tensor` of shape `batch`.
    log_incremental_weight: float `Tensor` of shape `batch`: the mean.
    effective_sample_size: float `Tensor` of shape `batch`.
    num_nan: Scalar int32 `Tensor`: gradients of the density that were not
      finite, and were taken to be zero.
  """

  surrogate: tf.Tensor
  loss: tf.Tensor
  log_incremental_weight: tf.Tensor
  effective_sample_size: tf.Tensor
  num_nan: Any = 0


def _derivatives(csiszar_function, log_ratio):
  """The Csiszar function and its first two derivatives in `log u`.

  The second one is `None` where it is zero, as for the reverse KL divergence.
  """
  with tf.GradientTape() as outer:
    outer.watch(log_ratio)
    with tf.GradientTape() as inner:
      inner.watch(log_ratio)
      g = csiszar_function(log_ratio)
    g1 = inner.gradient(g, log_ratio)
  return g, g1, outer.gradient(g1, log_ratio)


def _check_csiszar_function(csiszar_function):
  """Raises an error if a function is not one of `log u`, point by point.

  Args:
    csiszar_function: Python callable from `log u` to `f(u)`.

  Returns:
    is_smooth: Python `bool`: whether the first derivative is continuous.
      Pathwise gradients miss what a jump of it contributes, as of the total
      variation.
  """
  checks.check_callable(
    'csiszar_function',
    csiszar_function,
    'a callable from log u to f(u), such as tfp.vi.kl_reverse',
  )
  points = np.linspace(-3.0, 3.0, 1_201)
  with tf.init_scope():
    log_ratio = tf.constant(points, tf.float32)
    value = checks.check_returned(
      'csiszar_function',
      csiszar_function(log_ratio),
      'a value for each log u',
      log_ratio.dtype,
      log_ratio.shape,
    )
    if bool(tf.reduce_any(tf.math.is_nan(value))):
      raise ValueError(
        '`csiszar_function` must return numbers for each log u; it returned '
        f'NaN at {log_ratio[tf.math.is_nan(value)][0]}.'
      )
    _, g1, g2 = _derivatives(csiszar_function, log_ratio)
  if g1 is None:
    raise ValueError(
      '`csiszar_function` must depend on log u; it has no derivative.'
    )
  if g2 is None:
    return True
  # Between neighbours a smooth derivative changes by its own derivative.
  g1, g2 = g1.numpy(), g2.numpy()
  expected = 0.5 * (g2[1:] + g2[:-1]) * np.diff(points)
  jumps = np.abs(np.diff(g1) - expected)
  return bool(np.max(jumps) < 0.02 * (1.0 + np.max(np.abs(g1))))


def _no_nan(weights, values):
  """Products of weights and values, zero wherever the weight is."""
  return tf.math.multiply_no_nan(values, weights)


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
    csiszar_function,
    sides: Side = Side.BOTH,
    reparameterize: bool = True,
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
        a jump, such as the total variation, it is a score-function gradient.
        Default value: `True`.
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
    is_smooth = _check_csiszar_function(csiszar_function)
    checks.check_instance(
      'sides', sides, Side, 'Side.FORWARD, Side.REVERSE or Side.BOTH'
    )
    if not sides:
      raise ValueError('`sides` must name at least one side; got none.')
    for name, value in (
      ('reparameterize', reparameterize),
      ('baseline', baseline),
      ('weighted', weighted),
      ('level_by_level', level_by_level),
      ('evaluate_once', evaluate_once),
    ):
      checks.check_bool(name, value)
    self._csiszar_function = csiszar_function
    self._sides = sides
    self._reparameterize = reparameterize and is_smooth
    self._baseline = baseline
    self._weighted = weighted
    self._level_by_level = level_by_level
    self._evaluate_once = evaluate_once
    self._variables = weakref.WeakKeyDictionary()

  @property
  def description(self) -> str:
    """The divergence and its settings."""
    f = self._csiszar_function
    return (
      f'{getattr(f, "__name__", type(f).__name__)}, {self._sides}, '
      f'reparameterize={self._reparameterize}, baseline={self._baseline}, '
      f'weighted={self._weighted}'
    )

  def __call__(self, sampler, num_particles, seed):
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
    recorder = _LevelRecorder(self, run, variables)
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
        _add_gradients(a, b) for a, b in zip(gradients, rest, strict=True)
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
        reparameterize=self._reparameterize,
        keep_gradient=self._keeps_gradient(sampler.densities),
      )
    return run, tape

  def _keeps_gradient(self, densities):
    """Whether the gradient by the state is all that is needed of densities."""
    return self._evaluate_once and not densities.has_variables

  def _initial_level(self, run, tape):
    """The divergence of the first density from the initial proposal."""
    densities, particles = run.densities, run.initial
    terms = particles.terms
    fixed_terms = densities.evaluate_fixed(0, particles.state, terms)
    zero = tf.zeros_like(particles.log_weights)
    return self.estimate_level(
      LevelTerms(
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
      records = tf.nest.map_structure(_swap_first_axes, records)
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

  def replay_level(self, run, segment, local_level, record) -> LevelEstimate:
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
      level = range(start, start + len(local_level))
      level_before = range(start - 1, start - 1 + len(local_level))
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
        self._reparameterize,
      )
      if self._keeps_gradient(densities):
        terms = record.particles.terms
        gradient, num_nan = _replace_infinite(record.log_prob_gradient)
        log_target = densities_lib.attach_gradient(
          densities.log_prob(level, terms), gradient, move.state
        )
      else:
        terms, _ = runs.replace_nan(
          densities.evaluate(level, move.state), previous.log_weights.shape
        )
        log_target = densities.log_prob(level, terms)
      log_weights = log_target + move.log_reverse - move.log_forward
    estimate = self.estimate_level(
      LevelTerms(
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
    """The divergence of a level whose densities are tractable."""
    values = level.draw(num_particles, seed)
    with tf.GradientTape() as tape:
      tape.watch(densities_lib.floating_parts(values))
      move, log_target = level.evaluate(values, self._reparameterize)
      log_weights = log_target - move.log_forward
    log_target_fixed_state = log_target
    if move.samples and self._sides != Side.BOTH:
      log_target_fixed_state = level.log_target(
        tf.nest.map_structure(tf.stop_gradient, move.state)
      )
    zero = tf.zeros_like(log_weights)
    estimate = self.estimate_level(
      LevelTerms(
        move=move,
        log_target=log_target,
        log_target_fixed_state=log_target_fixed_state,
        log_source=zero,
        log_weights=zero,
        sample_gradients_fn=functools.partial(
          tape.gradient, log_weights, move.samples
        ),
      ),
      csiszar_function=level.csiszar_function,
      is_normalized=True,
    )
    return (
      estimate.surrogate,
      estimate.loss,
      estimate.log_incremental_weight,
      log_weights,
    )

  def estimate_level(
    self, terms: LevelTerms, csiszar_function=None, is_normalized: bool = False
  ) -> LevelEstimate:
    """The divergence of a level, by the formulas of this module.

    Args:
      terms: `LevelTerms`.
      csiszar_function: That of the level.
        Default value: `None` (i.e., that of the objective).
      is_normalized: Python `bool`: whether both sides of the level are
        normalized, and particles come without weights.
        Default value: `False`.

    Returns:
      level: `LevelEstimate`.
    """
    move = terms.move
    log_incremental_weights = tf.stop_gradient(
      terms.log_target + move.log_reverse - terms.log_source - move.log_forward
    )
    # W_{k-1}, which estimate expectations under pi-hat_k.
    before = weighting.normalize_weights(
      terms.log_weights if self._weighted else tf.zeros_like(terms.log_weights)
    )
    # A particle that comes without weight counts for nothing; one that loses
    # all of its weight here has a large but finite divergence.
    counts = before > 0.0
    is_zero = tf.equal(log_incremental_weights, -float('inf'))
    if is_normalized:
      log_normalizer_ratio = tf.zeros_like(before[0])
    else:
      log_normalizer_ratio = weighting.weighted_log_mean_exp(
        before, log_incremental_weights
      )
    log_normalizer_ratio = tf.where(
      tf.equal(log_normalizer_ratio, -float('inf')),
      tf.zeros_like(log_normalizer_ratio),
      log_normalizer_ratio,
    )
    log_ratio = tf.where(
      is_zero,
      tf.constant(ZERO_DENSITY_LOG_RATIO, before.dtype),
      log_incremental_weights - log_normalizer_ratio,
    )
    log_ratio = tf.where(counts, log_ratio, tf.zeros_like(log_ratio))
    # W_k, which estimate expectations under pi-check_k.
    after = before * tf.where(
      is_zero, tf.zeros_like(log_ratio), tf.exp(log_ratio)
    )
    g, g1, g2 = _derivatives(
      csiszar_function or self._csiszar_function, log_ratio
    )
    # Where the target is zero nothing can be differentiated by the state.
    reverse_factor = _no_nan(before, tf.where(is_zero, tf.zeros_like(g1), g1))
    forward_factor = _no_nan(before, g) - reverse_factor
    total_reverse_factor = weighting.total(reverse_factor)
    total_forward_factor = weighting.total(forward_factor)
    total_after_squared = weighting.total(after**2)
    if not self._baseline:
      baseline = tf.zeros_like(total_forward_factor)
    elif is_normalized:
      baseline = mean_of_others(g - g1)
    else:
      baseline = total_forward_factor
    score_factor = _no_nan(before, g - baseline)

    surrogate = 0.0
    if Side.FORWARD in self._sides:
      path = (
        terms.log_target
        + move.log_reverse
        - move.log_forward
        + move.log_forward_fixed_sample
      )
      if Side.REVERSE not in self._sides:
        path -= terms.log_target_fixed_state + move.log_reverse_fixed_states
      surrogate += _no_nan(reverse_factor, path)
      surrogate += score_factor * move.log_forward_score
      surrogate += (
        forward_factor - before * total_forward_factor
      ) * terms.log_source
      if move.samples:
        # By its score, as there is no path back to where the target is positive.
        surrogate += (
          tf.where(is_zero, score_factor, tf.zeros_like(score_factor))
          * move.log_forward_fixed_sample
        )
        if g2 is not None:
          surrogate -= _pathwise_correction(
            _no_nan(before, tf.where(is_zero, tf.zeros_like(g2), g2)),
            move.samples,
            terms.sample_gradients_fn(),
          )
    else:
      surrogate += _no_nan(
        reverse_factor,
        terms.log_target_fixed_state + move.log_reverse_fixed_states,
      )
    if Side.REVERSE in self._sides and not is_normalized:
      # The normalizer of pi_k changes with its parameters.
      surrogate -= total_reverse_factor * after * terms.log_target_fixed_state
      has_control_variate = (
        self._baseline
        and terms.has_normalized_reverse
        # The factor of the reverse KL divergence is constant.
        and g2 is not None
        # A single particle would have no gradient at all.
        and before.shape[0] > 1
        and tf.is_tensor(move.log_reverse_fixed_states)
      )
      if has_control_variate:
        coefficient = tf.math.divide_no_nan(
          weighting.total(reverse_factor * after), total_after_squared
        )
        surrogate -= _no_nan(coefficient * after, move.log_reverse_fixed_states)
    return LevelEstimate(
      surrogate=tf.reduce_sum(surrogate),
      loss=weighting.weighted_mean(before, g),
      log_incremental_weight=weighting.weighted_mean(
        before, log_incremental_weights
      ),
      effective_sample_size=tf.math.divide_no_nan(
        weighting.total(after) ** 2, total_after_squared
      ),
    )


class _LevelRecorder(runs.Recorder):
  """Differentiates each level, and keeps the sums of the gradients.

  Args:
    objective: `NestedDivergence`.
    run: `Run`.
    variables: List of `tf.Variable`s.
  """

  draws_noise_ahead = False

  def __init__(self, objective, run, variables):
    self._objective = objective
    self._run = run
    self._variables = variables
    # Tensors that depend on variables, but were computed before the levels.
    self._sources = variables + tf.nest.flatten(run.densities.prepared)
    self._is_trained = [False] * len(self._sources)
    dtype = run.densities.float_dtype
    batch_shape = run.sample_shape[1:]
    num_levels = run.densities.num_densities - 1

    def make_array():
      return tf.TensorArray(dtype, num_levels, element_shape=batch_shape)

    self._carry = (
      [tf.zeros_like(x) for x in self._sources],
      tf.zeros(batch_shape, dtype),
      (make_array(), make_array()),
      (tf.cast(run.is_nan, tf.int32), tf.constant(0)),
    )

  def start(self, segment, example_fn):
    del segment, example_fn
    return self._carry

  def visit(self, segment, local_level, record, carry):
    totals, loss, (increments, sizes), (is_nan, num_nan) = carry
    densities = self._run.densities
    # Copies, as the loop may have used tensors from outside of it before.
    prepared = tf.nest.map_structure(tf.identity, densities.prepared)
    leaves = tf.nest.flatten(prepared)
    with tf.GradientTape() as tape:
      tape.watch([x for x in leaves if x.dtype.is_floating])
      level = self._objective.replay_level(
        self._run._replace(densities=densities.with_prepared(prepared)),
        segment,
        local_level,
        record._replace(is_nan=(), num_nan=()),
      )
    gradients = tape.gradient(level.surrogate, self._variables + leaves)
    self._is_trained[:] = [
      trained or gradient is not None
      for trained, gradient in zip(self._is_trained, gradients, strict=True)
    ]
    index = segment.first_level + local_level - 1
    return (
      [_add_gradients(a, b) for a, b in zip(totals, gradients, strict=True)],
      loss + level.loss,
      (
        increments.write(index, level.log_incremental_weight),
        sizes.write(index, level.effective_sample_size),
      ),
      (
        is_nan + tf.cast(record.is_nan, tf.int32),
        num_nan + record.num_nan + level.num_nan,
      ),
    )

  def finish(self, segment, carry):
    del segment
    self._carry = carry

  @property
  def gradients(self):
    """Gradients of the variables; `None` for those that have none."""
    return self._totals()[: len(self._variables)]

  @property
  def prepared_gradients(self):
    """Gradients of the tensors that the densities had prepared."""
    return [
      tf.zeros_like(source) if total is None else total
      for source, total in zip(
        self._sources[len(self._variables) :],
        self._totals()[len(self._variables) :],
        strict=True,
      )
    ]

  def _totals(self):
    return [
      total if trained else None
      for total, trained in zip(self._carry[0], self._is_trained, strict=True)
    ]

  @property
  def loss(self):
    """Sum of the divergences, of shape `batch`."""
    return self._carry[1]

  @property
  def log_incremental_weights(self):
    """Of shape `[num_levels] + batch`."""
    return self._carry[2][0].stack()

  @property
  def effective_sample_sizes(self):
    """Of shape `[num_levels] + batch`."""
    return self._carry[2][1].stack()

  @property
  def num_nan(self):
    """Scalar int32 `Tensor`."""
    is_nan, num_nan = self._carry[3]
    return tf.reduce_sum(is_nan) + num_nan


def _add_gradients(total, gradient):
  """Adds a gradient, of some rows or of all of them, to another one."""
  if gradient is None:
    return total
  if total is None:
    return gradient
  if isinstance(gradient, tf.IndexedSlices):
    return tf.tensor_scatter_nd_add(
      total, gradient.indices[:, tf.newaxis], gradient.values
    )
  return total + gradient


def _replace_infinite(gradients):
  """Gradients with zero for what is not finite, and the number of these."""
  is_finite = [tf.math.is_finite(x) for x in gradients]
  num_infinite = sum(
    tf.reduce_sum(tf.cast(tf.logical_not(x), tf.int32)) for x in is_finite
  )
  gradients = [
    tf.where(keep, x, tf.zeros_like(x))
    for keep, x in zip(is_finite, gradients, strict=True)
  ]
  return gradients, num_infinite


def mean_of_others(values):
  """For each particle, the mean over the others; zero if there are none.

  Args:
    values: `Tensor` of shape `[num_particles] + batch`.

  Returns:
    means: `Tensor` of the same shape.
  """
  num_particles = values.shape[0]
  if num_particles == 1:
    return tf.zeros_like(values)
  return (weighting.total(values) - values) / (num_particles - 1)


def _swap_first_axes(x):
  """Levels first to particles first."""
  return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _pathwise_correction(weights, samples, gradients):
  """Sum of weights times fixed gradients times samples."""
  total = tf.zeros_like(weights)
  for sample, gradient in zip(
    tf.nest.flatten(samples), tf.nest.flatten(gradients), strict=True
  ):
    if gradient is not None:
      product = tf.stop_gradient(gradient) * sample
      axes = list(range(weights.shape.rank, product.shape.rank))
      total += _no_nan(weights, tf.reduce_sum(product, axis=axes))
  return total


def reverse_kl(**kwargs) -> NestedDivergence:
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


def forward_kl(**kwargs) -> NestedDivergence:
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


def f_divergence(csiszar_function, **kwargs) -> NestedDivergence:
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

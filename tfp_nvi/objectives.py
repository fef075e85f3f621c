# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Objectives: nested f-divergences, and bounds on the whole sequence.

What must hold: an objective is a callable

```none
objective(sampler, num_particles, seed) -> Estimate
```

whose `surrogate` has, under a `GradientTape`, the gradient that is to be
followed; its value means nothing. The gradient of a nested objective at level
`k` passes through that level alone: the particles and weights that it received
are constants there.

Write `l = log(pi-check_k / pi-hat_k)`, with `pi-hat_k` the density that level
`k` proposes from and `pi-check_k` the one it is weighted for, and
`g(l) = f(exp(l))`. The gradient of `D_f = E_pi-hat[g(l)]` is estimated by

```none
E_pi-hat[ g'(l) d log pi-check ]             parameters of the reverse side
E_pi-hat[ (g(l) - g'(l)) d log pi-hat ]      of the forward side, by score
E_pi-hat[ (g'(l) - g''(l)) dl/dz dz/dphi ]   of the forward kernel, by its path
```

with `d log pi = d log gamma - E_pi[d log gamma]`, where expectations are those
of the particles under the weights that the level received (`pi-hat_k`) or gave
on (`pi_k`).
"""

import collections
import enum
import functools
import weakref

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import weighting
from tfp_nvi.chains import Chain
from tfp_nvi.internal import randomness

__all__ = [
  'Estimate',
  'NestedDivergence',
  'SequenceBound',
  'Side',
  'avo',
  'f_divergence',
  'forward_kl',
  'iwae',
  'reverse_kl',
  'rws',
  'svi',
  'vsmc',
]


class Estimate(
  collections.namedtuple(
    'Estimate',
    [
      'loss',
      'log_normalizer',
      'effective_sample_size',
      'log_incremental_weights',
      'level_effective_sample_sizes',
      'num_nan',
    ],
  )
):
  """What one evaluation of an objective gives.

  Fields:
    loss: float `Tensor` of shape `batch`: estimate of the objective.
    log_normalizer: float `Tensor` of shape `batch`.
    effective_sample_size: float `Tensor` of shape `batch`.
    log_incremental_weights: float `Tensor` of shape `[num_levels] + batch`: the
      mean of `log v` at each level after the first, by the weights that the
      level received. Less by the divergence of the level than the logarithm of
      the ratio of normalizers.
    level_effective_sample_sizes: float `Tensor` of the same shape.
    num_nan: Scalar int32 `Tensor`.
  """

  __slots__ = ()


_Result = collections.namedtuple(
  '_Result', ['surrogate', *Estimate._fields[:4]]
)


def _with_gradients(result_fn):
  """Differentiates the surrogate of a result."""
  with tf.GradientTape() as tape:
    result = result_fn()
  variables = tape.watched_variables()
  pairs = [
    (g, v)
    for g, v in zip(
      tape.gradient(result.surrogate, variables), variables, strict=True
    )
    if g is not None
  ]
  _, *values = result
  increments = result.log_incremental_weights
  return Estimate(
    *values,
    level_effective_sample_sizes=tf.broadcast_to(
      result.effective_sample_size, tf.shape(increments)
    ),
    num_nan=tf.zeros([], tf.int32),
  ), pairs


class Side(enum.Flag):
  """Which parameters a nested objective trains.

  FORWARD: the forward kernel of each level, and the parameters of its density
    as the one that the next level proposes from.
  REVERSE: the reverse kernel of each level, and the parameters of its density
    as the one that the level is weighted for.
  BOTH: both. "Full" optimization, where FORWARD alone is "partial".
  """

  FORWARD = enum.auto()
  REVERSE = enum.auto()
  BOTH = FORWARD | REVERSE


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


def _add_gradient(total, gradient):
  """Adds a gradient, of some rows or of all of them."""
  if gradient is None:
    return total
  if isinstance(gradient, tf.IndexedSlices):
    return tf.tensor_scatter_nd_add(
      total, gradient.indices[:, tf.newaxis], gradient.values
    )
  return total + gradient


def _no_nan(weights, values):
  """Products of weights and values, zero wherever the weight is."""
  return tf.math.multiply_no_nan(values, weights)


class NestedDivergence:
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
    sides=Side.BOTH,
    reparameterize=True,
    baseline=True,
    weighted=True,
    level_by_level=False,
    evaluate_once=True,
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
        reparameterized extension to other divergences). Otherwise, and for
        kernels that cannot be reparameterized, it is a score-function gradient.
        Default value: `True`.
      baseline: Python `bool`: whether to subtract the weighted mean from the
        factor of the score function.
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
        own are evaluated once for each particle and level, value and slope at
        the same time; otherwise a second time for the gradient, which is a few
        percent faster if they cost next to nothing and particles are few. The
        gradient is the same.
        Default value: `True`.

    Raises:
      TypeError: If `csiszar_function` is not callable or `sides` is not a
        `Side`.
      ValueError: If `sides` is empty.
    """
    if not callable(csiszar_function):
      raise TypeError(
        '`csiszar_function` must be a callable from log u to f(u), such as '
        f'tfp.vi.kl_reverse; got {csiszar_function!r}.'
      )
    if not isinstance(sides, Side):
      raise TypeError(
        '`sides` must be Side.FORWARD, Side.REVERSE or Side.BOTH; got '
        f'{sides!r}.'
      )
    if not sides:
      raise ValueError('`sides` must name at least one side; got none.')
    self._csiszar_function = csiszar_function
    self._sides = sides
    self._reparameterize = reparameterize
    self._baseline = baseline
    self._weighted = weighted
    self._level_by_level = level_by_level
    self._evaluate_once = evaluate_once
    self._variables = weakref.WeakKeyDictionary()
    name = getattr(
      csiszar_function, '__name__', type(csiszar_function).__name__
    )
    # For checkpoints, to tell one training from another.
    self.description = (
      f'{name}, {sides}, reparameterize={reparameterize}, '
      f'baseline={baseline}, weighted={weighted}'
    )

  def __call__(self, sampler, num_particles, seed):
    """Estimates the objective; returns an `Estimate` and gradients."""
    return _with_gradients(lambda: self._result(sampler, num_particles, seed))

  def _result(self, sampler, num_particles, seed):
    """Estimates the objective.

    Args:
      sampler: `NestedSampler` or `Chain`.
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      estimate: `Estimate`; that of a chain is summed over levels and batches.
    """
    if isinstance(sampler, Chain):
      return _estimate_chain(
        sampler,
        num_particles,
        seed,
        self._chain_level,
        # What the other side alone depends on has no gradient.
        is_partial=self._sides != Side.BOTH,
      )
    if self._level_by_level:
      return self._estimate_level_by_level(sampler, num_particles, seed)
    return self._estimate_together(sampler, num_particles, seed)

  def _estimate_together(self, sampler, num_particles, seed):
    """Samples all levels, and then differentiates them."""
    start, tape = self._start(sampler, num_particles, seed)
    run = sampler.finish(start)
    densities = start.densities
    parts = []
    if start.move is not None:
      surrogate, loss, _ = self._initial_level(densities, start, tape)
      parts.append((surrogate, loss, None))
    for segment in run.segments:
      parts.extend(self._segment(densities, segment))
    surrogates, losses, increments = zip(*parts, strict=True)
    log_weights = run.particles.log_weights
    return _Result(
      surrogate=tf.add_n(surrogates),
      loss=tf.add_n(losses),
      log_normalizer=weighting.log_normalizer(log_weights),
      effective_sample_size=weighting.effective_sample_size(log_weights),
      log_incremental_weights=tf.concat(
        [x for x in increments if x is not None], axis=0
      ),
    )

  def _estimate_level_by_level(self, sampler, num_particles, seed):
    """Differentiates each level when it has been sampled."""
    variables = self._find_variables(sampler, num_particles)
    start, tape = self._start(sampler, num_particles, seed)
    densities = start.densities
    # What depends on variables, but was computed before the levels.
    prepared = getattr(densities, 'prepared', ())
    sources = variables + tf.nest.flatten(prepared)
    is_trained = [False] * len(sources)

    def visit(transition, local_level, level, record, carry):
      totals, losses, increments = carry
      # Copies, as the loop may have used what is from outside of it before.
      copies = tf.nest.map_structure(tf.identity, prepared)
      leaves = tf.nest.flatten(copies)
      with tf.GradientTape() as tape:
        tape.watch([x for x in leaves if x.dtype.is_floating])
        surrogate, loss, increment = self._level_of_record(
          densities.with_prepared(copies) if leaves else densities,
          transition,
          local_level,
          level,
          record,
        )
      gradients = tape.gradient(surrogate, variables + leaves)
      is_trained[:] = [
        trained or g is not None
        for trained, g in zip(is_trained, gradients, strict=True)
      ]
      return (
        list(map(_add_gradient, totals, gradients)),
        losses + loss,
        increments.write(level - 1, increment),
      )

    dtype = densities.float_dtype
    batch_shape = sampler.batch_shape
    particles, (totals, loss, increments) = sampler.fold(
      start,
      visit,
      (
        [tf.zeros_like(x) for x in sources],
        tf.zeros(batch_shape, dtype),
        tf.TensorArray(
          dtype, densities.num_densities - 1, element_shape=batch_shape
        ),
      ),
    )
    # What has the gradients that were found.
    surrogate = tf.add_n(
      [tf.zeros([], dtype)]
      + [
        tf.cast(tf.reduce_sum(tf.stop_gradient(total) * x), dtype)
        for trained, total, x in zip(is_trained, totals, sources, strict=True)
        if trained
      ]
    )
    if start.move is not None:
      initial_surrogate, initial_loss, _ = self._initial_level(
        densities, start, tape
      )
      surrogate += initial_surrogate
      loss += initial_loss
    log_weights = particles.log_weights
    return _Result(
      surrogate=surrogate,
      loss=loss,
      log_normalizer=weighting.log_normalizer(log_weights),
      effective_sample_size=weighting.effective_sample_size(log_weights),
      log_incremental_weights=increments.stack(),
    )

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
      start = sampler.start(
        num_particles,
        seed,
        reparameterize=self._reparameterize,
        keep_slope=self._keeps_slope(sampler.densities),
      )
    return start, tape

  def _keeps_slope(self, densities):
    """Whether the slope of the densities is all that gradients need of them."""
    return self._evaluate_once and not getattr(densities, 'has_variables', True)

  def _initial_level(self, densities, start, tape):
    """The divergence of the first density from the initial proposal."""
    move, particles = start.move, start.particles
    terms = particles.terms
    fixed_terms = densities.evaluate_fixed(0, particles.state, terms)
    log_weights = tf.zeros_like(particles.log_weights)
    return self._level(
      move=move,
      log_target=densities.log_prob(0, terms),
      log_target_of_fixed=densities.log_prob(0, fixed_terms),
      log_source=log_weights,
      log_weights=log_weights,
      sample_gradients_fn=functools.partial(
        tape.gradient, particles.log_weights, move.samples
      ),
    )

  def _segment(self, densities, segment):
    """The divergences of the levels that one transition leads to."""
    transition, first_level = segment.transition, segment.first_level
    count = transition.num_transitions
    if segment.is_rolled and transition.is_level_batched:
      records = tf.nest.map_structure(_swap_first_axes, segment.records)
      surrogate, loss, increment = self._level_of_record(
        densities,
        transition,
        range(count),
        range(first_level, first_level + count),
        records,
      )
      return [(surrogate, tf.reduce_sum(loss, axis=0), increment)]
    parts = []
    for i in range(count):
      if segment.is_rolled:
        record = tf.nest.map_structure(lambda x, i=i: x[i], segment.records)
      else:
        record = segment.records[i]
      surrogate, loss, increment = self._level_of_record(
        densities, transition, i, first_level + i, record
      )
      parts.append((surrogate, loss, increment[tf.newaxis]))
    return parts

  def _level_of_record(self, densities, transition, local_level, level, record):
    """The divergence of a level, or of each of a range of levels."""
    # All of the run is constant here: without this, the gradient would be sent
    # back through its loop in vain.
    record = tf.nest.map_structure(tf.stop_gradient, record)
    previous = record.previous
    if isinstance(level, range):
      level_before = range(level.start - 1, level.stop - 1)
    else:
      level_before = level - 1

    def target_log_prob_fn(state):
      return densities.log_prob(level, densities.evaluate(level, state))

    with tf.GradientTape() as tape:
      # So that what a kernel without variables samples is on the tape as well.
      tape.watch(
        [x for x in tf.nest.flatten(previous.state) if x.dtype.is_floating]
      )
      move = transition.replay(
        local_level,
        previous.state,
        record.record,
        target_log_prob_fn,
        self._reparameterize,
      )
      if self._keeps_slope(densities):
        terms = record.particles.terms
        log_target = densities_lib.attach_slope(
          densities.log_prob(level, terms), record.slope, move.state
        )
      else:
        terms = densities.evaluate(level, move.state)
        log_target = densities.log_prob(level, terms)
      log_weights = log_target + move.log_reverse - move.log_forward
    return self._level(
      move=move,
      log_target=log_target,
      log_target_of_fixed=densities.log_prob(
        level, densities.evaluate_fixed(level, move.state, terms)
      ),
      log_source=densities.log_prob(
        level_before,
        densities.evaluate_fixed(level_before, previous.state, previous.terms),
      ),
      log_weights=previous.log_weights,
      sample_gradients_fn=functools.partial(
        tape.gradient, log_weights, move.samples
      ),
    )

  def _chain_level(self, level, num_particles, seed):
    """The divergence of a level whose densities are tractable."""
    values = level.draw(num_particles, seed)
    with tf.GradientTape() as tape:
      tape.watch([x for x in tf.nest.flatten(values) if x.dtype.is_floating])
      move, log_target = level.evaluate(values, self._reparameterize)
      log_weights = log_target - move.log_forward
    log_target_of_fixed = log_target
    if move.samples and self._sides != Side.BOTH:
      log_target_of_fixed = level.log_target(
        tf.nest.map_structure(tf.stop_gradient, move.state)
      )
    zero = tf.zeros_like(log_weights)
    surrogate, loss, increment = self._level(
      move=move,
      log_target=log_target,
      log_target_of_fixed=log_target_of_fixed,
      log_source=zero,
      log_weights=zero,
      sample_gradients_fn=functools.partial(
        tape.gradient, log_weights, move.samples
      ),
      csiszar_function=level.csiszar_function or self._csiszar_function,
      is_normalized=True,
    )
    return surrogate, loss, increment, log_weights

  def _level(
    self,
    move,
    log_target,
    log_target_of_fixed,
    log_source,
    log_weights,
    sample_gradients_fn,
    csiszar_function=None,
    is_normalized=False,
  ):
    """Surrogate, loss and mean log incremental weight of a level.

    Args:
      move: `Move` that was made.
      log_target: `log gamma_k` at the proposed state.
      log_target_of_fixed: The same, the state held fixed.
      log_source: `log gamma_{k-1}` at the previous state.
      log_weights: Log weights that the level received.
      sample_gradients_fn: Python callable that returns the gradients of the log
        incremental weights by the reparameterized samples.
      csiszar_function: That of the level.
        Default value: `None` (i.e., that of the objective).
      is_normalized: Python `bool`: whether both sides of the level are
        normalized, and particles come without weights.
        Default value: `False`.

    Returns:
      surrogate: Scalar float `Tensor`.
      loss: float `Tensor` of shape `batch`.
      log_incremental_weight: float `Tensor` of shape `batch`.
    """
    log_incremental_weights = tf.stop_gradient(
      log_target + move.log_reverse - log_source - move.log_forward
    )
    before = weighting.normalize_weights(
      log_weights if self._weighted else tf.zeros_like(log_weights)
    )
    if is_normalized:
      log_normalizer_ratio = tf.zeros_like(before[0])
    else:
      log_normalizer_ratio = weighting.weighted_log_mean_exp(
        before, log_incremental_weights
      )
    # A particle without weight counts for nothing; one that loses all of its
    # weight here has a large but finite divergence, also where all of them do.
    log_normalizer_ratio = tf.where(
      tf.equal(log_normalizer_ratio, -float('inf')),
      tf.zeros_like(log_normalizer_ratio),
      log_normalizer_ratio,
    )
    log_ratio = tf.where(
      before > 0.0,
      tf.maximum(log_incremental_weights - log_normalizer_ratio, -1e30),
      tf.zeros_like(before),
    )
    after = before * tf.exp(log_ratio)
    g, g1, g2 = _derivatives(
      csiszar_function or self._csiszar_function, log_ratio
    )
    slope = _no_nan(before, g1)
    factor = _no_nan(before, g - g1)
    total_slope = weighting.total(slope)
    total_factor = weighting.total(factor)
    if not self._baseline:
      baseline = tf.zeros_like(total_factor)
    elif is_normalized:
      baseline = _mean_of_others(g - g1)
    else:
      baseline = total_factor

    surrogate = 0.0
    if Side.FORWARD in self._sides:
      path = log_target + move.log_reverse - move.log_forward + move.score
      if Side.REVERSE not in self._sides:
        path -= log_target_of_fixed + move.log_reverse_of_fixed
      surrogate += _no_nan(slope, path)
      surrogate += _no_nan(before, g - baseline) * move.score_of_fixed
      surrogate += (factor - before * total_factor) * log_source
      if g2 is not None and move.samples:
        surrogate -= _pathwise_correction(
          _no_nan(before, g2), move.samples, sample_gradients_fn()
        )
    else:
      surrogate += _no_nan(
        slope, log_target_of_fixed + move.log_reverse_of_fixed
      )
    # What an unknown normalizer changes with its density's parameters.
    if Side.REVERSE in self._sides and not is_normalized:
      surrogate -= total_slope * after * log_target_of_fixed
    return (
      tf.reduce_sum(surrogate),
      weighting.weighted_mean(before, g),
      weighting.weighted_mean(before, log_incremental_weights),
    )


def _mean_of_others(values):
  """For each particle, the mean over the others; zero if there are none."""
  num_particles = values.shape[0]
  if num_particles == 1:
    return tf.zeros_like(values)
  return (weighting.total(values) - values) / (num_particles - 1)


def _estimate_chain(chain, num_particles, seed, level_fn, is_partial=False):
  """Estimates an objective over levels that each train what they name.

  Args:
    chain: `Chain`.
    num_particles: Python `int`.
    seed: Stateless seed.
    level_fn: Python callable from a `Level`, `num_particles` and a seed to
      its surrogate, a scalar; its loss and mean log incremental weight, of
      shape `batch`; and its log incremental weights, of shape
      `[num_particles] + batch`.
    is_partial: Python `bool`: whether some of what levels train may have no
      gradient.
      Default value: `False`.

  Returns:
    estimate: `Estimate`.
  """
  with tf.GradientTape(persistent=True) as tape:
    levels = chain.levels()
    seeds = tf.unstack(randomness.split_seed(seed, len(levels)))
    parts = [
      None
      if level.jit_compile
      else _level_summary(level, num_particles, level_seed, level_fn)
      for level, level_seed in zip(levels, seeds, strict=True)
    ]
  compiled = [i for i, level in enumerate(levels) if level.jit_compile]
  if compiled:
    estimates = _compiled_levels(
      [levels[i] for i in compiled],
      num_particles,
      [seeds[i] for i in compiled],
      level_fn,
      is_partial,
    )
    for i, estimate in zip(compiled, estimates, strict=True):
      parts[i] = estimate
  pairs, summaries = [], []
  for level, (first, summary) in zip(levels, parts, strict=True):
    if not level.jit_compile:
      first = level.gradients(tape, first, is_partial)
    pairs += first
    summaries.append(summary)
  losses, log_normalizers, sizes, increments = map(
    tf.stack, zip(*summaries, strict=True)
  )
  return _Result(
    surrogate=_surrogate(pairs),
    loss=tf.reduce_sum(losses),
    log_normalizer=tf.reduce_sum(log_normalizers),
    effective_sample_size=tf.reduce_mean(sizes),
    log_incremental_weights=increments,
  )


def _level_summary(level, num_particles, seed, level_fn):
  """A level, and what is reported of it.

  Args:
    level: `Level`.
    num_particles: Python `int`.
    seed: Stateless seed.
    level_fn: As of `_estimate_chain`.

  Returns:
    surrogate: Scalar `Tensor`.
    summary: Tuple of scalar `Tensor`s over the batch: sums of the loss and of
      the log normalizer, the mean of the effective sample size, and the sum of
      the log incremental weight.
  """
  surrogate, loss, increment, log_weights = level_fn(level, num_particles, seed)
  return surrogate, (
    tf.reduce_sum(loss),
    tf.reduce_sum(weighting.log_normalizer(log_weights)),
    tf.reduce_mean(weighting.effective_sample_size(log_weights)),
    tf.reduce_sum(increment),
  )


def _compiled_levels(levels, num_particles, seeds, level_fn, is_partial):
  """Gradients and values of levels, compiled together.

  Args:
    levels: List of `Level`s.
    num_particles: Python `int`.
    seeds: List of stateless seeds.
    level_fn: As of `_estimate_chain`.
    is_partial: As of `_estimate_chain`.

  Returns:
    parts: List of tuples: for each level, pairs of a variable and its gradient,
      and the summary of `_level_summary`.
  """
  variables = []

  def estimate(seeds):
    # Traced once more where a network makes its variables.
    variables.clear()
    gradients, summaries = [], []
    for level, seed in zip(levels, tf.unstack(seeds), strict=True):
      with tf.GradientTape() as tape:
        surrogate, summary = _level_summary(
          level, num_particles, seed, level_fn
        )
      pairs = level.gradients(tape, surrogate, is_partial)
      variables.append([variable for variable, _ in pairs])
      gradients.append([gradient for _, gradient in pairs])
      summaries.append(summary)
    return gradients, summaries

  gradients, summaries = tf.function(
    estimate, jit_compile=True, autograph=False
  )(tf.stack(seeds))
  return [
    (list(zip(names, values, strict=True)), summary)
    for names, values, summary in zip(
      variables, gradients, summaries, strict=True
    )
  ]


def _surrogate(pairs):
  """A scalar that has given gradients.

  Args:
    pairs: List of pairs of a variable and its gradient.

  Returns:
    surrogate: Scalar `Tensor`, zero.
  """
  if not pairs:
    return tf.zeros([])

  @tf.custom_gradient
  def attach(*values):
    def gradient(upstream):
      return [
        tf.cast(upstream, g.dtype) * tf.stop_gradient(g) for _, g in pairs
      ]

    return tf.zeros([], values[0].dtype), gradient

  return attach(*(tf.convert_to_tensor(variable) for variable, _ in pairs))


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
      total += weights * tf.reduce_sum(product, axis=axes)
  return total


def reverse_kl(**kwargs):
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


def forward_kl(**kwargs):
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


def f_divergence(csiszar_function, **kwargs):
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


def avo():
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


class SequenceBound:
  """An objective on the last level, whose gradient passes through all levels.

  Fields that its makers set; use `svi`, `iwae`, `vsmc` and `rws`.

  ```python
  import tfp_nvi as nvi

  objective = nvi.iwae()
  ```
  """

  def __init__(self, name, loss_fn, log_forward_fn, reparameterize, resample):
    """Initializes the objective.

    Args:
      name: Python `str`.
      loss_fn: Python callable from the final log weights, of shape
        `[num_particles] + batch`, to a loss of shape `batch` and a surrogate of
        the same shape.
      log_forward_fn: Python callable from a `Move` to its `log_forward`, with
        the gradient that it is to have.
      reparameterize: Python `bool`: whether states are differentiable.
      resample: Python `bool`: whether to resample as the sampler does.
    """
    self.description = name
    self._loss_fn = loss_fn
    self._log_forward_fn = log_forward_fn
    self._reparameterize = reparameterize
    self._resample = resample

  def __call__(self, sampler, num_particles, seed):
    """Estimates the objective; returns an `Estimate` and gradients."""
    return _with_gradients(lambda: self._result(sampler, num_particles, seed))

  def _result(self, sampler, num_particles, seed):
    """Estimates the objective.

    Args:
      sampler: `NestedSampler`, or a `Chain` of a single level, which is an
        importance sampler.
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      estimate: `Estimate`; that of a chain is summed over its batch.

    Raises:
      ValueError: If a chain has several levels.
    """
    if isinstance(sampler, Chain):
      num_levels = len(sampler.levels())
      if num_levels > 1:
        raise ValueError(
          '`sampler` must be a NestedSampler, or a Chain of a single level, of '
          f'which there is a bound as a whole; got {num_levels} levels.'
        )
      return _estimate_chain(sampler, num_particles, seed, self._chain_level)
    if not self._resample:
      sampler = sampler.copy(resample_criterion_fn=weighting.never)
    run = sampler.run(
      num_particles,
      seed,
      cut=False,
      reparameterize=self._reparameterize,
      log_forward_fn=self._log_forward_fn,
    )
    log_weights = run.particles.log_weights
    loss, surrogate = self._loss_fn(log_weights)
    return _Result(
      surrogate=tf.reduce_sum(surrogate),
      loss=loss,
      log_normalizer=weighting.log_normalizer(log_weights),
      effective_sample_size=weighting.effective_sample_size(log_weights),
      log_incremental_weights=run.mean_log_incremental_weights(),
    )

  def _chain_level(self, level, num_particles, seed):
    """The bound of an importance sampler."""
    move, log_target = level.evaluate(
      level.draw(num_particles, seed), self._reparameterize
    )
    log_weights = log_target - self._log_forward_fn(move)
    loss, surrogate = self._loss_fn(log_weights)
    return (
      tf.reduce_sum(surrogate),
      loss,
      weighting.mean(log_weights),
      log_weights,
    )


def svi():
  """Stochastic variational inference: the evidence lower bound of the sequence.

  Minus the mean of the final log weight, without resampling, with gradients by
  sticking the landing.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: D. J. Rezende, S. Mohamed, D. Wierstra. Stochastic backpropagation and
       approximate inference in deep generative models. ICML, 2014.
       https://arxiv.org/abs/1401.4082

  ```python
  import tfp_nvi as nvi

  objective = nvi.svi()
  ```
  """

  def loss_fn(log_weights):
    loss = -weighting.mean(log_weights)
    return loss, loss

  return SequenceBound(
    'svi',
    loss_fn,
    lambda move: move.log_forward - move.score + tf.stop_gradient(move.score),
    reparameterize=True,
    resample=False,
  )


def _negative_log_normalizer(log_weights):
  loss = -weighting.log_normalizer(log_weights)
  return loss, loss


def iwae():
  """The importance-weighted bound, without resampling.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: Y. Burda, R. Grosse, R. Salakhutdinov. Importance weighted autoencoders.
       ICLR, 2016. https://arxiv.org/abs/1509.00519

  ```python
  import tfp_nvi as nvi

  objective = nvi.iwae()
  ```
  """
  return SequenceBound(
    'iwae',
    _negative_log_normalizer,
    lambda move: move.log_forward,
    reparameterize=True,
    resample=False,
  )


def vsmc():
  """Variational sequential Monte Carlo: the bound with resampling.

  The gradient leaves out the dependence of the ancestors on the parameters.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: C. A. Naesseth, S. W. Linderman, R. Ranganath, D. M. Blei. Variational
       sequential Monte Carlo. AISTATS, 2018. https://arxiv.org/abs/1705.11140
  [2]: C. J. Maddison et al. Filtering variational objectives. NeurIPS, 2017.
       https://arxiv.org/abs/1705.09279
  [3]: T. A. Le, M. Igl, T. Rainforth, T. Jin, F. Wood. Auto-encoding sequential
       Monte Carlo. ICLR, 2018. https://arxiv.org/abs/1705.10306

  ```python
  import tfp_nvi as nvi

  objective = nvi.vsmc()
  ```
  """
  return SequenceBound(
    'vsmc',
    _negative_log_normalizer,
    lambda move: move.log_forward,
    reparameterize=True,
    resample=True,
  )


def rws():
  """Reweighted wake-sleep, wake phases, without resampling.

  Forward kernels maximize the log density of the samples by their final
  weights; reverse kernels and densities ascend the estimated log normalizer.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: J. Bornschein, Y. Bengio. Reweighted wake-sleep. ICLR, 2015.
       https://arxiv.org/abs/1406.2751
  [2]: T. A. Le, A. R. Kosiorek, N. Siddharth, Y. W. Teh, F. Wood. Revisiting
       reweighted wake-sleep. UAI, 2019. https://arxiv.org/abs/1805.10469

  ```python
  import tfp_nvi as nvi

  objective = nvi.rws()
  ```
  """
  return SequenceBound(
    'rws',
    _negative_log_normalizer,
    # The weight has minus this log density; its gradient is to have plus.
    lambda move: 2.0 * tf.stop_gradient(move.log_forward) - move.log_forward,
    reparameterize=False,
    resample=False,
  )

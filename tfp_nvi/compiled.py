# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers that run in compiled calls, and what they report of these.

A subclass says how particles are drawn, in TensorFlow. Here it is compiled,
once for each number of particles, and log densities that were NaN are reported.
"""

import abc
import functools
import warnings
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import islands, proposals, resampling, weighting
from tfp_nvi.internal import checks, randomness, reductions, types
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.runs import Trace

__all__ = [
  'CompiledSampler',
]


class CompiledSampler(proposals.ParticleSampler):
  """A sampler that is compiled when it is called.

  Contract: `_sample` and `_trace` take a number of particles and a stateless
  seed, and may run in a `tf.function`. `_resample_fn` is the function by which
  islands are exchanged.
  """

  _resample_fn: Callable

  def __init__(self, name: str):
    """Initializes the sampler.

    Args:
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    # Compiled functions are not tracked, as they are not saved or copied.
    self._compiled: dict = self._no_dependency({})
    self._has_warned = False

  @abc.abstractmethod
  def _sample(self, num_particles, seed) -> weighting.WeightedParticles:
    """Draws particles of the last level, in the space of the densities."""

  @abc.abstractmethod
  def _trace(self, num_particles, seed) -> Trace:
    """Draws particles of all levels, in the space of the densities."""

  def sample(
    self,
    num_particles: int,
    seed: types.Seed | None = None,
    jit_compile: bool = True,
    strict: bool = False,
    *,
    strategy: tf.distribute.Strategy | None = None,
    num_islands: int | None = None,
    exchange_criterion_fn: Callable = resampling.never,
  ) -> weighting.WeightedParticles:
    """Draws properly weighted particles.

    Compiles at the first call, and anew for each number of particles.

    With a `strategy`, particles are divided into islands, runs of the sampler
    by themselves that depend on `seed` and on their index alone: the same
    islands give the same particles on any number of replicas. Every process of
    the strategy makes the same call, and gets all particles. The log normalizer
    is the log mean of the islands' estimates, unbiased as they are.

    Args:
      num_particles: Python `int`.
      seed: Python `int` or stateless seed.
      jit_compile: Python `bool`: whether to compile with XLA. The draws are the
        same for the same seed. Sums are rounded differently, and where that
        decides which particles are resampled, the particles differ from there
        on; they are properly weighted either way.
        Default value: `True`.
      strict: Python `bool`: whether a log density that is NaN or +inf is an
        error. Otherwise it is taken to be a density of zero, with a warning at
        the first one of this sampler.
        Default value: `False`.
      strategy: `tf.distribute.Strategy` in whose scope the sampler was made:
        the replicas to run islands on.
        Default value: `None` (i.e., all particles in one run on this device).
      num_islands: Python `int`: a multiple of the number of replicas, each of
        which runs its islands in turn, and a divisor of `num_particles`. May be
        given without `strategy`.
        Default value: `None` (i.e., one for each replica).
      exchange_criterion_fn: Python callable as `resample_criterion_fn` of
        `NestedSampler`, for islands in place of particles: whether islands are
        to be resampled by their mean weights before the next level, each with
        all of its particles. Any other criterion than `tfp_nvi.never` costs a
        compiled call and a collective for each level.
        Default value: `tfp_nvi.never`.

    Returns:
      particles: `WeightedParticles` for the last density, in the space that the
        densities are written in. `log_weights` has shape
        `[num_particles] + batch`; `num_nan` counts the log densities that were
        NaN or +inf.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `num_particles` is not positive, a weight is NaN, `strict`
        is true and a log density is NaN or +inf, particles or islands cannot be
        divided equally, or the sampler was made outside of the scope of
        `strategy`.

    #### References

    [1]: C. Verge, C. Dubarry, P. Del Moral, E. Moulines. On parallel
         implementation of sequential Monte Carlo methods: the island particle
         model. Statistics and Computing, 25(2), 2015.

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_nvi as nvi

    tfd = tfp.distributions

    strategy = tf.distribute.OneDeviceStrategy('CPU:0')
    with strategy.scope():
      path = nvi.GeometricPath(
        tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 0.5), num_densities=2
      )
      transitions = nvi.GaussianTransitions(path, [2], seed=1)
      sampler = nvi.NestedSampler(path, transitions)
    particles = sampler.sample(100, seed=2, strategy=strategy, num_islands=4)
    assert particles.log_weights.shape == [100]
    ```
    """
    checks.check_bool('strict', strict)
    checks.check_callable('exchange_criterion_fn', exchange_criterion_fn)
    seed = randomness.as_seed(seed)
    if strategy is not None or num_islands is not None:
      return self._sample_islands(
        num_particles,
        seed,
        jit_compile,
        strict,
        replicas_lib.Replicas(strategy, num_islands),
        exchange_criterion_fn,
      )
    if exchange_criterion_fn is not resampling.never:
      raise ValueError(
        '`exchange_criterion_fn` must be tfp_nvi.never without islands to '
        f'exchange, of `strategy` or `num_islands`; got '
        f'{exchange_criterion_fn!r}.'
      )
    particles = self._call_compiled(
      self._sample, num_particles, seed, jit_compile
    )
    self._report_nan(particles.num_nan, num_particles, seed, strict)
    return particles

  def trace(
    self,
    num_particles: int,
    seed: types.Seed | None = None,
    jit_compile: bool = True,
  ) -> Trace:
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
    seed = randomness.as_seed(seed)
    trace = self._call_compiled(self._trace, num_particles, seed, jit_compile)
    self._report_nan(
      reductions.count_true(trace.is_nan), num_particles, seed, strict=False
    )
    return trace

  def describe_nan(self, num_particles: int, seed: types.Seed) -> str | None:
    """Finds a state at which a log density is NaN or +inf.

    Args:
      num_particles: Python `int`.
      seed: Python `int` or stateless seed of the run to look into.

    Returns:
      description: Python `str` that names the density or the part of it, and
        the state; `None` if the run has no such state among those that it
        proposed, or the densities cannot say.
    """
    seed = randomness.as_seed(seed)
    trace = self._call_compiled(self._trace, num_particles, seed, False)
    levels = tf.reduce_any(
      trace.is_nan, axis=list(range(1, trace.is_nan.shape.rank))
    )
    for level in tf.where(levels)[:, 0].numpy():
      state = self.densities.inverse(
        tf.nest.map_structure(lambda x, k=level: x[k], trace.particles)
      )
      described = self.densities.describe_nan(state)
      if described is not None:
        return described
    return None

  def _sample_islands(
    self, num_particles, seed, jit_compile, strict, replicas, criterion_fn
  ):
    """Samples on the replicas of a strategy; see `sample`."""
    num_particles = checks.as_count('num_particles', num_particles)
    checks.check_bool('jit_compile', jit_compile)
    size = replicas.share('num_particles', num_particles)
    # The cache refers to these objects, so that no other object gets their id.
    key = (
      f'islands, {size}, {replicas.num_islands}, jit_compile={jit_compile}, '
      f'{id(replicas.strategy)}, {id(criterion_fn)}'
    )
    if key not in self._compiled:
      replicas_lib.check_in_scope('sampler', replicas.strategy, self.variables)
      if criterion_fn is resampling.never:
        self._compiled[key] = self._make_islands(replicas, size, jit_compile)
      else:
        self._compiled[key] = islands.Exchange(
          self, self._resample_fn, replicas, size, criterion_fn, jit_compile
        )
    particles, num_nan = self._compiled[key](seed)
    _check_weights(particles.log_weights)
    worst = int(tf.argmax(num_nan))
    self._report_nan(
      particles.num_nan,
      size,
      randomness.fold_in(seed, worst),
      strict,
      stacklevel=4,
    )
    return particles

  def _make_islands(self, replicas, num_particles, jit_compile):
    """A function that samples islands, and puts them together at the end."""

    def sample(seed):
      particles = self._sample(num_particles, seed)
      # Summarize here, so that the sums are compiled with the island.
      return particles, weighting.summarize_island(particles)

    def combine(sampled):
      particles, summaries = sampled
      combined = weighting.combine_islands(particles, summaries=summaries)
      return combined, particles.num_nan

    return islands.Islands(replicas, sample, combine, jit_compile)

  def _call_compiled(self, method, num_particles, seed, jit_compile):
    """Calls a method, compiled; raises an error for log weights of NaN."""
    num_particles = checks.as_count('num_particles', num_particles)
    checks.check_bool('jit_compile', jit_compile)
    fn = functools.partial(method, num_particles)
    if not tf.config.functions_run_eagerly():
      # One compiled function for each number of particles, so that TensorFlow
      # has no cause to warn of retracing where there are many samplers.
      key = f'{method.__name__}, {num_particles}, jit_compile={jit_compile}'
      if key not in self._compiled:
        self._compiled[key] = tf.function(
          fn, jit_compile=jit_compile, autograph=False
        ).get_concrete_function(tf.TensorSpec([2], tf.int32))
      fn = self._compiled[key]
    result = fn(seed)
    if tf.executing_eagerly():
      _check_weights(result.log_weights)
    return result

  def _report_nan(self, num_nan, num_particles, seed, strict, stacklevel=3):
    """Warns of NaN log densities once, or raises an error.

    Args:
      num_nan: Scalar int32 `Tensor`.
      num_particles: Python `int`.
      seed: Stateless seed of the run.
      strict: Python `bool`: whether to raise an error.
      stacklevel: Python `int`: that of the user's call, as of `warnings.warn`.
        Default value: `3`: that of the method that calls this one.
    """
    if not tf.executing_eagerly() or (self._has_warned and not strict):
      return
    if int(num_nan) == 0:
      return
    message = (
      f'{int(num_nan)} log densities were NaN or +inf, and were taken to be '
      'zero densities.'
    )
    described = self.describe_nan(num_particles, seed)
    if described is not None:
      message = f'{message} {described}'
    if strict:
      raise ValueError(message)
    self._has_warned = True
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


def _check_weights(log_weights):
  """Raises an error for log weights of NaN."""
  is_nan = tf.math.is_nan(log_weights)
  if bool(tf.reduce_any(is_nan)):
    raise ValueError(
      f'{reductions.count_true(is_nan)} of {is_nan.shape.num_elements()} log '
      'weights are NaN: a transition returned a log density of NaN, or '
      '`resample_fn` an index out of range.'
    )

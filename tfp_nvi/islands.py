# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sampling on several replicas: islands of particles.

Each island is a run of the sampler by itself, with a seed of its own, in one
compiled call. The particles of all islands are gathered at the end. Where
islands are exchanged between levels, each level is a compiled call instead, and
the islands' mean weights are gathered after it.
"""

import functools
import typing
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import resampling, weighting
from tfp_nvi.internal import axes, randomness, reductions, types
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.weighting import islands as weighting_islands

if typing.TYPE_CHECKING:
  from tfp_nvi.sampler import NestedSampler

__all__ = [
  'Exchange',
  'Islands',
]


class Islands:
  """Samples all islands, each in one compiled call.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi
  from tfp_nvi import islands
  from tfp_nvi.internal import randomness, replicas


  def sample(seed):
    normal = randomness.normal([10], seed)
    return nvi.WeightedParticles(
      normal, normal, tf.range(10), tf.constant(0), tf.constant(0.0)
    )


  sample_fn = islands.Islands(
    replicas.Replicas(None, 4), sample, nvi.weighting.combine_islands, True
  )
  particles = sample_fn(randomness.as_seed(1))
  assert particles.log_weights.shape == [40]
  ```
  """

  def __init__(
    self,
    replicas: replicas_lib.Replicas,
    sample_fn: Callable,
    combine_fn: Callable,
    jit_compile: bool,
  ):
    """Initializes the function; it is compiled at the first call.

    Args:
      replicas: `Replicas`.
      sample_fn: Python callable from a seed, and what else the islands share,
        to a nested structure of `Tensor`s.
      combine_fn: Python callable from the same structure, with a first axis
        over islands, to what is to be returned.
      jit_compile: Python `bool`: whether to compile `sample_fn` with XLA.
    """
    compiled = _compile(sample_fn, jit_compile)

    def run(seed, *shared):
      seeds = randomness.fold_in(seed, replicas.indices())
      return replicas.gather(
        replicas.each(lambda seed: compiled(seed, *shared), seeds)
      )

    def sample(seed, *shared):
      return combine_fn(replicas.first(replicas.run(run, seed, *shared)))

    self._fn = tf.function(sample, autograph=False)

  def __call__(self, seed: tf.Tensor, *shared: types.Structure) -> typing.Any:
    """Samples.

    Args:
      seed: int32 `Tensor` of shape `[2]`.
      *shared: Nested structures of `Tensor`s, which all islands get.

    Returns:
      combined: What `combine_fn` returns.
    """
    return self._fn(seed, *shared)


def _compile(fn, jit_compile):
  return tf.function(fn, jit_compile=jit_compile, autograph=False)


class Exchange:
  """Samples all islands level by level, and resamples islands in between.

  The islands stand for particles whose weights are their mean weights.

  ```python
  from tfp_nvi import islands

  assert callable(islands.Exchange)
  ```
  """

  def __init__(
    self,
    sampler: 'NestedSampler',
    resample_fn: Callable,
    replicas: replicas_lib.Replicas,
    num_particles: int,
    criterion_fn: Callable,
    jit_compile: bool,
  ):
    """Initializes the function; it is compiled at the first call.

    Args:
      sampler: `NestedSampler`.
      resample_fn: Its function that resamples.
      replicas: `Replicas`.
      num_particles: Python `int`: particles of an island.
      criterion_fn: As `exchange_criterion_fn` of `NestedSampler.sample`.
      jit_compile: Python `bool`.
    """
    self._replicas = replicas
    self._sampler = sampler
    self._num_particles = num_particles
    self._criterion_fn = criterion_fn
    self._resample_fn = resample_fn
    self._jit_compile = jit_compile
    self._is_rolled: list = []
    self._start_fn = self._distribute(self._start)
    self._level_fns: dict = {}
    self._exchange_fn = tf.function(self._exchange, autograph=False)
    self._gather_fn = tf.function(self._gather, autograph=False)

  def __call__(
    self, seed: tf.Tensor
  ) -> tuple[weighting.WeightedParticles, tf.Tensor]:
    """Samples.

    Args:
      seed: int32 `Tensor` of shape `[2]`.

    Returns:
      particles: `WeightedParticles` of all islands together.
      num_nan: int32 `Tensor` of shape `[num_islands]`.
    """
    local, log_weights = self._start_fn(seed)
    batch_shape = log_weights.shape[1:]
    origin = axes.particle_indices(log_weights.shape)
    lost = tf.zeros(batch_shape, log_weights.dtype)
    level = 0
    for index, transition in enumerate(self._sampler.transitions):
      for local_level in range(transition.num_transitions):
        level += 1
        where = self._where(log_weights)
        if bool(tf.reduce_any(where)):
          local, origin, lost = self._exchange_fn(
            local, origin, lost, where, randomness.fold_in(seed, -level)
          )
        fn, argument = self._level_fn(index, local_level)
        local, log_weights = fn(seed, argument, local)
    particles, num_nan = self._gather_fn(local)
    islands = weighting.WeightedParticles(
      self._sampler.densities.forward(particles.state),
      particles.log_weights,
      particles.root,
      num_nan,
      particles.log_pairs_lost,
    )
    return weighting_islands.combine_islands(islands, origin, lost), num_nan

  def _where(self, log_weights):
    """Which batch members the criterion wants the islands of resampled."""
    where = resampling.evaluate_criterion(
      'exchange_criterion_fn',
      self._criterion_fn,
      weighting.WeightedParticles(
        tf.range(self._replicas.num_islands), log_weights
      ),
    )
    return tf.broadcast_to(where, log_weights.shape[1:])

  def _start(self, seed):
    """The particles of level 0 of an island, and the number of NaN."""
    run = self._sampler.start(self._num_particles, seed, keep_root=True)
    if run.densities is not self._sampler.densities:
      raise ValueError(
        '`exchange_criterion_fn` must be tfp_nvi.never for densities that '
        'depend on the particles of level 0, which stay on their island; got '
        f'{self._criterion_fn!r}.'
      )
    self._is_rolled = [segment.is_rolled for segment in run.segments]
    num_nan = reductions.count_true(run.is_nan) + run.num_nan_of_proposal()
    return run.initial, num_nan

  def _level(self, index, seed, local_level, local):
    """Brings the particles of an island to the next level."""
    particles, num_nan = local
    # The compiler removes whatever the level does not use.
    run = self._sampler.start(self._num_particles, seed, keep_root=True)
    segment = run.segments[index]
    noise = segment.transition.draw_level_noise(
      run.sample_shape, segment.noise_seed, local_level
    )
    record = self._sampler.step(run, segment, local_level, particles, noise)
    num_nan += reductions.count_true(record.is_nan) + record.num_nan
    return record.particles, num_nan

  def _level_fn(self, index, local_level):
    """The compiled function of a level, and what it takes as the level."""
    if self._is_rolled[index]:
      key, argument = (index,), tf.constant(local_level)
      fn = functools.partial(self._level, index)
    else:
      key, argument = (index, local_level), tf.constant(0)

      def fn(seed, argument, local):
        del argument
        return self._level(index, seed, local_level, local)

    if key not in self._level_fns:
      self._level_fns[key] = self._distribute(fn)
    return self._level_fns[key], argument

  def _distribute(self, fn):
    """A function of all islands, of that of one."""
    replicas = self._replicas
    compiled = _compile(fn, self._jit_compile)

    def run(seed, *args):
      seeds = randomness.fold_in(seed, replicas.indices())
      *shared, local = args or ((),)
      shared = tf.nest.map_structure(
        lambda x: tf.tile(x[tf.newaxis], [replicas.num_local]), shared
      )
      parts = [seeds, *shared, local] if args else [seeds]
      local = replicas.each(compiled, *parts)
      log_weights = weighting_islands.island_log_weights(local[0].log_weights)
      return local, replicas.gather(log_weights)

    def distributed(*args):
      local, log_weights = replicas.run(run, *args)
      return local, replicas.first(log_weights)

    return tf.function(distributed, autograph=False)

  def _exchange(self, local, origin, lost, where, seed):
    """Resamples islands."""
    replicas = self._replicas
    compiled = _compile(self._resample, self._jit_compile)

    def run(local):
      particles, num_nan = local
      particles, origin_after, lost_after = compiled(
        replicas.gather(particles), origin, lost, where, seed
      )
      particles = tf.nest.map_structure(
        lambda x: tf.gather(x, replicas.indices()), particles
      )
      return (particles, num_nan), origin_after, lost_after

    local, *shared = replicas.run(run, local)
    return local, *replicas.first(shared)

  def _resample(self, particles, origin, lost, where, seed):
    """Resamples the islands where they are to be, and keeps account of it."""

    def weighted(particles, origin):
      return weighting.WeightedParticles(
        particles.state,
        particles.log_weights,
        weighting_islands.global_root(particles.root, origin),
        log_pairs_lost=particles.log_pairs_lost,
      )

    def together(particles):
      shape = particles.log_weights.shape.as_list()
      shape = [shape[0] * shape[1], *shape[2:]]
      return weighting.WeightedParticles(
        (),
        tf.reshape(particles.log_weights, shape),
        tf.reshape(particles.root, shape),
      )

    before = weighted(particles, origin)
    (state, terms, root), log_weights, indices = (
      weighting_islands.resample_islands(
        (particles.state, particles.terms, particles.root),
        particles.log_weights,
        self._resample_fn,
        seed,
        where,
      )
    )
    origin = resampling.gather_ancestors(origin, indices)
    resampled = particles._replace(
      state=state,
      terms=terms,
      root=root,
      log_weights=log_weights,
      log_pairs_lost=tf.where(
        where,
        tf.zeros_like(particles.log_pairs_lost),
        particles.log_pairs_lost,
      ),
    )
    now_lost = weighting_islands.log_pairs_lost_within(before) + (
      weighting.log_pairs_lost(
        together(before), together(weighted(resampled, origin))
      )
    )
    lost += tf.where(where, now_lost, tf.zeros_like(now_lost))
    return resampled, origin, lost

  def _gather(self, local):
    """The particles of all islands, and their numbers of NaN."""
    return self._replicas.first(
      self._replicas.run(self._replicas.gather, local)
    )

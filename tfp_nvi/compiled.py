# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers that run in compiled calls, and what they report of these.

A subclass says how particles are drawn, in TensorFlow. Here it is compiled,
once for each number of particles, and log densities that were NaN are reported.
"""

import abc
import functools
import warnings

import tensorflow as tf

from tfp_nvi import proposals, weighting
from tfp_nvi.internal import checks, randomness
from tfp_nvi.runs import Trace, count

__all__ = [
  'CompiledSampler',
]


class CompiledSampler(proposals.ParticleSampler):
  """A sampler that is compiled when it is called.

  Contract: `_sample` and `_trace` take a number of particles and a stateless
  seed, and may run in a `tf.function`.
  """

  def __init__(self, name: str):
    """Initializes the sampler.

    Args:
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    # Not tracked, as it is no part of what checkpoints and copies are of.
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
    seed=None,
    jit_compile: bool = True,
    strict: bool = False,
  ) -> weighting.WeightedParticles:
    """Draws properly weighted particles.

    Compiles at the first call, and anew for each number of particles.

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

    Returns:
      particles: `WeightedParticles` for the last density, in the space that the
        densities are written in. `log_weights` has shape
        `[num_particles] + batch`; `num_nan` counts the log densities that were
        NaN or +inf.

    Raises:
      ValueError: If `num_particles` is not positive, a weight is NaN, or a log
        density is and `strict` is true.
    """
    checks.check_bool('strict', strict)
    seed = randomness.as_seed(seed)
    particles = self._call_compiled(
      self._sample, num_particles, seed, jit_compile
    )
    self._report_nan(particles.num_nan, num_particles, seed, strict)
    return particles

  def trace(
    self, num_particles: int, seed=None, jit_compile: bool = True
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
    self._report_nan(count(trace.is_nan), num_particles, seed, strict=False)
    return trace

  def describe_nan(self, num_particles: int, seed) -> str | None:
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
      is_nan = tf.math.is_nan(result.log_weights)
      if bool(tf.reduce_any(is_nan)):
        raise ValueError(
          'The log weights have become NaN: the log densities of the '
          f'transitions, or `resample_fn`, are not as they should be; '
          f'{count(is_nan)} of {is_nan.shape.num_elements()} log weights are '
          'NaN.'
        )
    return result

  def _report_nan(self, num_nan, num_particles, seed, strict):
    """Warns of NaN log densities once, or raises an error."""
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
    warnings.warn(message, RuntimeWarning, stacklevel=4)

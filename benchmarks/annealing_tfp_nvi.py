# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The annealing experiment in tfp_nvi, for `benchmarks.annealing_training`."""

import queue
import threading
import time

import numpy as np
import tensorflow as tf

import tfp_nvi as nvi
from tfp_nvi.experiments import annealing

__all__ = [
  'Trainer',
]


class _Abandoned(Exception):
  """Ends training that is not to go on."""


class Trainer:
  """Trains by `tfp_nvi.fit`, a compiled call at a time.

  Args:
    loop: `'fit'`.
    num_densities: Python `int`.
    num_particles: Python `int`.
    num_restarts: Python `int`.
  """

  def __init__(self, loop, num_densities, num_particles, num_restarts):
    if loop != 'fit':
      raise ValueError(f"`loop` must be 'fit'; got {loop!r}.")
    self._num_particles = num_particles
    self._sampler, self._objective = annealing.make_sampler(
      'nvir_star',
      nvi.targets.ring_of_gaussians(tf.float32),
      num_densities,
      num_restarts,
      seed=1,
    )
    self._thread = None

  def _fit(self, num_steps, steps_per_call, callback_fn=None):
    return nvi.fit(
      self._sampler,
      self._objective,
      self._num_particles,
      num_steps,
      seed=2,
      steps_per_call=steps_per_call,
      progress=False,
      callback_fn=callback_fn,
    )

  def prepare(self, num_steps, repetitions):
    """Compiles, and takes the steps of one repetition.

    `fit` goes on in a thread, and waits in its callback for its turns.

    Args:
      num_steps: Python `int` number of steps in a repetition.
      repetitions: Python `int`: how often `run` may be called.
    """
    self._end()
    self._turns, self._outcomes = queue.Queue(), queue.Queue()
    taken = 0

    def on_call(step, values):
      nonlocal taken
      del step, values
      taken += 1
      self._outcomes.put(time.perf_counter())
      # The last call is not to wait for another one.
      if taken <= repetitions and not self._turns.get():
        raise _Abandoned()

    def target():
      try:
        history = self._fit(num_steps * (1 + repetitions), num_steps, on_call)
        self._outcomes.put(history.compile_seconds)
      except _Abandoned:
        pass
      except Exception as e:  # For the thread that waits.
        self._outcomes.put(e)

    self._thread = threading.Thread(target=target, daemon=True)
    self._thread.start()
    self._outcome()

  def run(self):
    """Takes the steps of a repetition; returns the seconds it took."""
    start = time.perf_counter()
    self._turns.put(True)
    return self._outcome() - start

  def compile_seconds(self):
    """Duration of compilation, after the last repetition."""
    return self._outcome()

  def _outcome(self):
    outcome = self._outcomes.get()
    if isinstance(outcome, Exception):
      raise outcome
    return outcome

  def _end(self):
    if self._thread is not None:
      self._turns.put(False)
      self._thread.join()

  def check(self, num_steps, num_particles, num_samples):
    """Trains, and estimates log Z.

    Args:
      num_steps: Python `int`.
      num_particles: Python `int` number of particles of each estimate.
      num_samples: Python `int` number of estimates.

    Returns:
      log_normalizer: Python `float`: the mean of the estimates.
    """
    self._fit(num_steps, min(200, num_steps))
    return float(
      np.mean(
        [
          self._sampler.sample(num_particles, seed=seed).log_normalizer
          for seed in range(num_samples)
        ]
      )
    )

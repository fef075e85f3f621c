# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The annealing experiment in tfp_nvi, for `benchmarks.annealing_training`."""

import queue
import threading
import time

import numpy as np
import tensorflow as tf

import tfp_nvi as nvi
from benchmarks import workers
from tfp_nvi.experiments import annealing

__all__ = [
  'Trainer',
]


_LOOPS = ('fit', 'level_by_level')


class _Abandoned(Exception):
  """Ends training that is not to go on."""


class Trainer(workers.Trainer):
  """Trains by `tfp_nvi.fit`, a compiled call at a time.

  Args:
    loop: `'fit'`, or `'level_by_level'` for `fit` by that schedule.
    num_densities: Python `int`.
    num_particles: Python `int`.
    num_restarts: Python `int`.
  """

  def __init__(self, loop, num_densities, num_particles, num_restarts):
    if loop not in _LOOPS:
      raise ValueError(f'`loop` must be one of {_LOOPS}; got {loop!r}.')
    self._num_particles = num_particles
    self._sampler, _ = annealing.make_sampler(
      'nvir_star',
      nvi.targets.ring_of_gaussians(tf.float32),
      num_densities,
      num_restarts,
      seed=1,
    )
    self._objective = nvi.reverse_kl(level_by_level=loop == 'level_by_level')
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
    # `fit` goes on in a thread, and waits in its callback for its turns.
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
    start = time.perf_counter()
    self._turns.put(True)
    return self._outcome() - start

  def compile_seconds(self):
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
    self._fit(num_steps, min(200, num_steps))
    return float(
      np.mean(
        [
          self._sampler.sample(num_particles, seed=seed).log_normalizer
          for seed in range(num_samples)
        ]
      )
    )

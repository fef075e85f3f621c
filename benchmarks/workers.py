# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that take turns.

Libraries that are compared are not to share a process, whose threads, memory
and caches they would share, nor to be timed one after the other, as a machine
does not stay the same for long. Each gets a process that waits for its turn:

```python
worker = Worker('benchmarks.annealing_coix:Trainer', {'num_densities': 8, ...})
seconds = worker.call('run')
worker.close()
```

A call and its result are each a line of JSON, over pipes.
"""

import abc
import importlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

__all__ = [
  'Trainer',
  'Worker',
  'WorkerError',
]


class Trainer(abc.ABC):
  """Base class of a library's training, to be measured in a worker."""

  @abc.abstractmethod
  def prepare(self, num_steps, repetitions):
    """Compiles, and takes the steps of one repetition.

    Args:
      num_steps: Python `int` number of steps in a repetition.
      repetitions: Python `int`: how often `run` may be called.
    """

  @abc.abstractmethod
  def run(self):
    """Takes the steps of a repetition; returns the seconds it took."""

  @abc.abstractmethod
  def compile_seconds(self):
    """Duration of compilation, after the last repetition."""

  @abc.abstractmethod
  def check(self, num_steps, num_particles, num_samples):
    """Trains, and estimates log Z.

    Args:
      num_steps: Python `int`.
      num_particles: Python `int` number of particles of each estimate.
      num_samples: Python `int` number of estimates.

    Returns:
      log_normalizer: Python `float`: the mean of the estimates.
    """


class WorkerError(RuntimeError):
  """A worker has failed, or has ended."""


class Worker:
  """An object in a process of its own.

  Its output goes to a file, whose last line is part of errors.

  Args:
    factory: Python `str`, `'module:name'`: the callable that makes the object.
    arguments: Python `dict` of keyword arguments, as JSON has them.
    max_gigabytes: Python `float`: how much memory the process may allocate
      before it fails; `None` for no limit.
  """

  def __init__(self, factory, arguments, max_gigabytes=None):
    self._errors = tempfile.TemporaryFile(mode='w+', errors='replace')
    self._process = subprocess.Popen(
      [
        sys.executable,
        '-m',
        'benchmarks.workers',
        json.dumps([factory, arguments, max_gigabytes]),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
      text=True,
      cwd=pathlib.Path(__file__).parents[1],
    )

  def call(self, method, *args, timeout=None):
    """Calls a method of the object, and waits for its result.

    Args:
      method: Python `str`.
      *args: Arguments, as JSON has them.
      timeout: Python `float` number of seconds after which the process is
        killed; `None` for no limit.

    Returns:
      result: As JSON has it.

    Raises:
      WorkerError: If the method raises an error, or the process ends.
    """
    timer = threading.Timer(timeout or 0.0, self._process.kill)
    if timeout is not None:
      timer.start()
    try:
      self._process.stdin.write(json.dumps([method, args]) + '\n')
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ''
    timed_out = timeout is not None and not timer.is_alive()
    timer.cancel()
    if not line:
      code = self._process.wait()
      why = (
        f'no answer in {timeout:.0f} s' if timed_out else f'exit code {code}'
      )
      if code == -signal.SIGKILL and not timed_out:
        why += ', as when the machine has no memory left'
      raise WorkerError(f'{why}; it last printed: {self._last_words()}')
    result, error = json.loads(line)
    if error is not None:
      raise WorkerError(error)
    return result

  def close(self):
    """Ends the process."""
    self._process.kill()
    self._process.wait()
    for file in (self._process.stdin, self._process.stdout, self._errors):
      try:
        file.close()
      except BrokenPipeError:  # A call that was never read.
        pass

  def _last_words(self):
    self._errors.seek(0)
    lines = [
      line.strip()
      for line in self._errors
      if line.strip() and not re.match(r'WARNING: All log|[IW]\d{4} ', line)
    ]
    return lines[-1][:300] if lines else 'nothing printed'


def _peak_megabytes():
  """The most memory that this process has had."""
  try:
    with open('/proc/self/status', encoding='utf-8') as f:
      fields = dict(line.split(':', 1) for line in f)
    return int(fields['VmHWM'].split()[0]) / 1024.0
  except (OSError, KeyError):
    # On Linux this would include the peak of the parent. On macOS, in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == 'darwin' else 1024.0)


def _serve(calls, results, factory, arguments):
  """Answers calls until the input ends.

  Args:
    calls: Iterable of lines.
    results: File to write lines to.
    factory: As for `Worker`.
    arguments: As for `Worker`.
  """
  instance = None
  for line in calls:
    method, args = json.loads(line)
    try:
      if instance is None:
        # With the first call, which can report an error.
        module, name = factory.split(':')
        instance = getattr(importlib.import_module(module), name)(**arguments)
      if method == 'peak_megabytes':
        answer = _peak_megabytes(), None
      else:
        answer = getattr(instance, method)(*args), None
    except Exception as e:  # The caller raises it.
      traceback.print_exc()
      answer = None, f'{type(e).__name__}: {str(e)[:300]}'
    results.write(json.dumps(answer) + '\n')
    results.flush()


def _end_with(parent):
  """Ends the process when its parent has, whatever it is doing."""
  while os.getppid() == parent:
    time.sleep(1.0)
  os._exit(1)


def main():
  """Runs a worker, in its process."""
  threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
  factory, arguments, max_gigabytes = json.loads(sys.argv[1])
  if max_gigabytes is not None:
    limit = int(max_gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  # Output of libraries must not come between the results.
  results = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  _serve(sys.stdin, results, factory, arguments)
  # Threads that still wait for a turn do not keep the process.
  os._exit(0)


if __name__ == '__main__':
  main()

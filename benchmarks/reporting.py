# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Helpers of benchmarks: descriptions of the machine, files, and flags."""

import importlib.metadata
import json
import os
import platform
import time

import matplotlib
import numpy as np
from absl import app, flags

__all__ = [
  'Turns',
  'check_arguments',
  'integers',
  'machine',
  'memory_gigabytes',
  'replace_file',
  'save',
  'style',
  'versions',
]


class Turns:
  """Times the calls of `fit`, and a peer after each of them.

  Pass `on_call` as `callback_fn`. The first call is not timed, as it compiles.

  Args:
    peer_fn: Python callable without arguments that does the peer's work.
  """

  def __init__(self, peer_fn):
    self._peer_fn = peer_fn
    self._last = None
    self._own, self._peer = [], []

  def on_call(self, step, values):
    """Takes the time of the call that has ended, and runs the peer."""
    del step, values
    now = time.perf_counter()
    if self._last is not None:
      self._own.append(now - self._last)
    now = time.perf_counter()
    self._peer_fn()
    self._last = time.perf_counter()
    self._peer.append(self._last - now)

  def durations(self):
    """Seconds of the calls, and of the peer's work before each of them."""
    return np.array(self._own), np.array(self._peer[: len(self._own)])


def check_arguments(argv):
  """Raises an error if a program has arguments that are no flags.

  Args:
    argv: List of Python `str`s: the program, and nothing else.

  Raises:
    app.UsageError: If there is anything else.
  """
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags alone; got {" ".join(argv[1:])}.')


def memory_gigabytes():
  """Memory of the machine, in gigabytes."""
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9


def machine():
  """Describes the machine, as a Python `dict`."""
  processor = platform.processor() or platform.machine()
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as f:
      names = [line for line in f if line.startswith('model name')]
    processor = names[0].partition(':')[2].strip()
  except (OSError, IndexError):
    pass
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:
    cores = os.cpu_count()
  return {
    'processor': processor,
    'cores': cores,
    'gigabytes': round(memory_gigabytes(), 1),
    'system': platform.system(),
    'python': platform.python_version(),
  }


def versions(packages):
  """Versions of packages.

  Args:
    packages: List of names.

  Returns:
    versions: Python `dict`, without the packages that are not installed.
  """
  found = {}
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass
  return found


def replace_file(path, write_fn):
  """Writes a file under another name first.

  Args:
    path: Python `str`.
    write_fn: Python callable that takes a binary file.
  """
  with open(path + '.part', 'wb') as f:
    write_fn(f)
  os.replace(path + '.part', path)


def save(path, content, figure=None):
  """Writes JSON, and a picture beside it.

  Args:
    path: Python `str`, without the ending; folders that it names are made.
    content: Value that JSON can hold.
    figure: Matplotlib figure, or `None`.
  """
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  text = json.dumps(content, indent=2, allow_nan=False) + '\n'
  replace_file(path + '.json', lambda f: f.write(text.encode()))
  if figure is not None:
    replace_file(path + '.png', lambda f: figure.savefig(f, format='png'))


def style():
  """The context that pictures are drawn in."""
  return matplotlib.rc_context(
    {'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 10}
  )


def integers(name, minimum):
  """The integers of a list flag, each once.

  Args:
    name: Python `str`: the name of the flag.
    minimum: Python `int`.

  Returns:
    values: List of Python `int`s.

  Raises:
    app.UsageError: If the flag has something else.
  """
  texts = flags.FLAGS[name].value
  try:
    values = [int(x) for x in texts]
  except ValueError:
    values = []
  if not values or min(values) < minimum:
    raise app.UsageError(
      f'--{name} must be a comma list of integers of at least {minimum}; '
      f'got {",".join(texts)!r}.'
    )
  return list(dict.fromkeys(values))

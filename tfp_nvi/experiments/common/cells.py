# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the cells of an experiment, in this process or in workers.

A cell is a function of its name and the settings. Workers end with the process
that started them, even when that is killed: otherwise they would go on for
minutes, with gigabytes of memory, and write to the folders of the next run.
"""

import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi.experiments.common import store as store_lib

__all__ = [
  'run_missing_cells',
  'use_one_thread',
]

_PR_SET_PDEATHSIG = 1  # From <sys/prctl.h>.


def _exit_with(parent):
  """Ends this process when its parent has ended, whatever it is doing."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _set_up_worker(parent):
  """Sets up a worker.

  Args:
    parent: Python `int`: the process that started it.
  """
  if sys.platform == 'linux':
    # This signal comes at once, even while Python code cannot run.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  # The thread serves other systems, and the case that the parent ended before
  # this line.
  threading.Thread(target=_exit_with, args=[parent], daemon=True).start()
  use_one_thread()


def use_one_thread():
  """Limits TensorFlow to one thread, before it has run anything.

  As many workers run as there are processors. With several threads, XLA rounds
  differently if arrays are large.
  """
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)


def _run_cells(run_cell_fn, cells, settings):
  """Runs cells; yields the row and the arrays of each when it is done."""
  num_workers = min(settings.num_workers, len(cells))
  if num_workers <= 1:
    for cell in cells:
      yield run_cell_fn(*cell, settings, progress=True)
    return
  executor = concurrent.futures.ProcessPoolExecutor(
    num_workers,
    # A process that has run TensorFlow cannot be forked.
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_set_up_worker,
    initargs=[os.getpid()],
  )
  try:
    futures = [
      executor.submit(run_cell_fn, *cell, settings, progress=False)
      for cell in cells
    ]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()
  finally:
    executor.shutdown(wait=False, cancel_futures=True)


def run_missing_cells(
  store: store_lib.Store,
  run_cell_fn: Callable,
  cells: list,
  settings,
  describe_fn: Callable,
  done_fn: Callable | None = None,
) -> list:
  """Runs the cells that a store lacks, adds them, and reports progress.

  Args:
    store: `Store`.
    run_cell_fn: Python callable of the top level of a module, from the parts of
      a cell's name, the settings, and `progress`, to a row and arrays.
    cells: List of tuples: the names of all cells that are asked for.
    settings: `Settings` with `num_workers` and `overwrite`.
    describe_fn: Python callable from a row to a line of text.
    done_fn: Python callable that is called with the row of each cell that the
      store has, as soon as it has it.
      Default value: `None`.

  Returns:
    missing: List of the cells that were run.
  """
  missing = []
  for cell in cells:
    if settings.overwrite or not store.has(*cell):
      missing.append(cell)
    else:
      print(f'Kept: {describe_fn(store.row(*cell))}')
      if done_fn is not None:
        done_fn(store.row(*cell))
  if missing:
    print(f'Training {len(missing)} of {len(cells)} cells.', flush=True)
  for i, (row, arrays) in enumerate(_run_cells(run_cell_fn, missing, settings)):
    store.add(row, arrays)
    if done_fn is not None:
      done_fn(row)
    print(f'[{i + 1}/{len(missing)}] {describe_fn(row)}', flush=True)
  return missing

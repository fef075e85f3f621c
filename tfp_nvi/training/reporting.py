# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reports of training while it runs: a progress bar, and TensorBoard."""

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import progress
from tfp_nvi.training.history import LEVEL_FIELDS, Record

__all__ = [
  'Bar',
  'Summaries',
]

_MEANS = ('loss', 'log_normalizer', 'effective_sample_size')
_COUNTS = ('num_nan', 'is_skipped')


def _mean(piece, field):
  """The mean over the steps that were taken, or over all if none was."""
  is_taken = ~piece['is_skipped']
  values = piece[field]
  return float(np.mean(values[is_taken] if is_taken.any() else values))


def _flatten(settings, prefix=''):
  """Numbers, bools and strings by names without nesting."""
  flat = {}
  for name, value in settings.items():
    if isinstance(value, dict):
      flat.update(_flatten(value, f'{prefix}{name}/'))
    else:
      is_simple = isinstance(value, (bool, int, float, str))
      flat[prefix + name] = value if is_simple else str(value)
  return flat


class Bar:
  """A progress bar of training.

  ```python
  from tfp_nvi.training import reporting

  with reporting.Bar(num_steps=10, step=0, is_shown=False):
    pass
  ```
  """

  def __init__(self, num_steps: int, step: int, is_shown: bool):
    """Initializes the bar.

    Args:
      num_steps: Python `int`: steps in all.
      step: Python `int`: those already taken.
      is_shown: Python `bool`: whether to show it, on a terminal or in a
        notebook.
    """
    self._bar = progress.make_bar(
      is_shown, total=num_steps, initial=step, unit='step'
    )

  def __enter__(self):
    return self

  def __exit__(self, *args):
    self._bar.close()

  def update(self, record: Record) -> None:
    """Shows what came of the last call.

    Args:
      record: `Record`.
    """
    piece, last = record.pieces[-1], record.last()
    notices: dict = {}
    if last.num_skipped_steps:
      notices['skipped'] = last.num_skipped_steps
    if last.collapsed_levels:
      notices['collapsed'] = last.collapsed_levels
    self._bar.update(len(last.loss))
    self._bar.set_postfix(
      loss=f'{_mean(piece, "loss"):.3f}',
      log_normalizer=f'{_mean(piece, "log_normalizer"):.3f}',
      ess=f'{_mean(piece, "effective_sample_size"):.1f}/{record.num_particles}',
      refresh=False,
      **notices,
    )


class Summaries:
  """Writes TensorBoard summaries, or nothing if there is no folder.

  ```python
  from tfp_nvi.training import reporting

  summaries = reporting.Summaries(None)
  ```
  """

  def __init__(self, folder: str | None):
    """Opens the folder.

    Args:
      folder: Python `str`, or `None` for no summaries.

    Raises:
      ImportError: If the package tensorboard is missing.
    """
    self._writer = None
    if folder is not None:
      try:
        self._writer = tf.summary.create_file_writer(folder)
      except Exception as e:  # The class of the error is private to TensorFlow.
        raise ImportError(
          '`tensorboard_dir` needs the package tensorboard: install '
          "'tfp-nvi[tensorboard]'."
        ) from e

  def describe(self, settings: dict) -> None:
    """Writes the settings of the training, for the HParams tab of TensorBoard.

    Args:
      settings: Python `dict` from names to numbers, strings, or `dict`s of
        such.
    """
    if self._writer is None:
      return
    # Of TensorBoard, which a folder of summaries needs.
    from tensorboard.plugins.hparams import api

    with self._writer.as_default():
      api.hparams(_flatten(settings))
    self._writer.flush()

  def write(self, record: Record) -> None:
    """Writes means over the steps of the last call, and counts of its steps.

    Args:
      record: `Record`.
    """
    if self._writer is None:
      return
    piece, step = record.pieces[-1], record.num_steps
    with self._writer.as_default():
      for name in _MEANS:
        tf.summary.scalar(name, _mean(piece, name), step=step)
      for name in LEVEL_FIELDS:
        levels = piece[name]
        levels = np.mean(levels, axis=(0, *range(2, levels.ndim)))
        for level, value in enumerate(levels, start=1):
          tf.summary.scalar(f'{name}/{level}', value, step=step)
      for name in _COUNTS:
        tf.summary.scalar(name, np.sum(piece[name]), step=step)
    self._writer.flush()

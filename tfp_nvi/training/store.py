# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of training: what they hold, and when they are written."""

import time
import warnings

import tensorflow as tf

from tfp_nvi.training import checkpoints as checkpoints_lib
from tfp_nvi.training import fingerprint
from tfp_nvi.training import history as history_lib
from tfp_nvi.training.steps import CompiledSteps

__all__ = [
  'NoStore',
  'TrainingStore',
]

# For the caller of `fit`, which calls the methods that warn.
_STACKLEVEL = 3


class NoStore:
  """The store of training that saves nothing.

  ```python
  from tfp_nvi.training import store

  assert store.NoStore().restore(num_steps=10) is None
  ```
  """

  def restore(self, num_steps: int) -> dict | None:
    """Restores nothing.

    Args:
      num_steps: Python `int`.

    Returns:
      piece: `None`.
    """
    del num_steps
    return None

  def begin(self, record: history_lib.Record) -> None:
    """Does nothing.

    Args:
      record: `Record`.
    """

  def save(self, record: history_lib.Record, is_last: bool = False) -> None:
    """Does nothing.

    Args:
      record: `Record`.
      is_last: Python `bool`.
        Default value: `False`.
    """


class TrainingStore(NoStore):
  """Saves training every so often, and restores it.

  ```python
  from tfp_nvi.training import store

  assert issubclass(store.TrainingStore, store.NoStore)
  ```
  """

  def __init__(
    self,
    folder: str,
    seconds: float,
    steps: CompiledSteps,
    seed: tf.Tensor,
    settings: dict,
    writes: bool = True,
  ):
    """Opens the folder.

    Args:
      folder: Python `str`.
      seconds: Python `float`: how much time may pass between two checkpoints.
      steps: `CompiledSteps`.
      seed: int32 `Tensor` of shape `[2]`.
      settings: Python `dict`: what tells this training from another, beyond
        what `steps` has.
      writes: Python `bool`: whether this process writes it. Others only read
        it, to begin from the same step.
        Default value: `True`.

    Raises:
      ValueError: If the folder cannot be written.
    """
    self._folder = folder
    self._seconds = seconds
    self._steps = steps
    self._seed = seed
    self._saved_step: int | None = None
    self._saved_at = time.perf_counter()
    self._checkpoints = checkpoints_lib.Checkpoints(
      folder,
      {
        **settings,
        'seed': seed.numpy().tolist(),
        'sampler': fingerprint.describe(steps.sampler),
        'variables': [f'{v.dtype} {v.shape}' for v in steps.variables],
      },
      writes=writes,
    )
    self._writes = writes

  def restore(self, num_steps: int) -> dict | None:
    """Restores the latest checkpoint, if there is one.

    Args:
      num_steps: Python `int` number of steps in all.

    Returns:
      piece: Python `dict` of the values of the steps until then, or `None`.

    Raises:
      ValueError: If it is of other training, or of a later step. Variables are
        then what they were.
    """
    state = self._steps.state
    before = [v.numpy() for v in state]
    restored = self._checkpoints.restore(state, _STACKLEVEL + 1)
    # All processes have read by then, and none has written yet.
    if self._steps.differs(-1 if restored is None else restored[0]):
      raise ValueError(
        '`checkpoint_dir` must be a folder that all processes share; '
        f'in {self._folder!r} they see different checkpoints.'
      )
    if restored is None:
      return None
    step, arrays = restored
    try:
      if step > num_steps:
        raise ValueError(
          f'`num_steps` must be {step} at least, the steps that '
          f'`checkpoint_dir` {self._folder!r} has already; got {num_steps}.'
        )
      fingerprint.check_probe(
        self._steps.probe(self._seed, step),
        {field: arrays[f'next/{field}'] for field in fingerprint.PROBED},
        self._folder,
      )
    except ValueError:
      for variable, value in zip(state, before, strict=True):
        variable.assign(value)
      raise
    self._saved_step = step
    return {field: arrays[field] for field in history_lib.STEP_FIELDS}

  def begin(self, record: history_lib.Record) -> None:
    """Saves what there is before the first step, if nothing was restored.

    A folder that cannot hold a checkpoint is found out here, and not when there
    is training to be lost.

    Args:
      record: `Record`.

    Raises:
      ValueError: If it cannot be written.
    """
    if self._saved_step is None:
      try:
        self._write(record)
      except OSError as e:
        raise ValueError(
          '`checkpoint_dir` must be a folder with room for checkpoints; got '
          f'{self._folder!r} ({e.strerror or e}).'
        ) from e

  def save(self, record: history_lib.Record, is_last: bool = False) -> None:
    """Saves, if it is time to do so.

    Args:
      record: `Record`.
      is_last: Python `bool`: whether no more steps follow.
        Default value: `False`.
    """
    is_due = time.perf_counter() - self._saved_at > self._seconds
    # To write a checkpoint takes a step in which all processes take part.
    is_due = self._steps.agree(is_due and self._writes)
    if self._saved_step == record.num_steps or not (is_due or is_last):
      return
    try:
      self._write(record)
    except OSError as e:
      # Training that took hours is worth more than one that stops here.
      self._saved_at = time.perf_counter()
      warnings.warn(
        f'`checkpoint_dir` {self._folder!r} cannot be written '
        f'({e.strerror or e}); the latest checkpoint is of step '
        f'{self._saved_step}, and now it is {record.num_steps}.',
        stacklevel=_STACKLEVEL,
      )

  def _write(self, record):
    probe = self._steps.probe(self._seed, record.num_steps)
    if self._writes:
      self._checkpoints.save(
        record.num_steps,
        self._steps.state,
        {
          **record.values(),
          **{f'next/{field}': probe[field] for field in fingerprint.PROBED},
        },
      )
    self._saved_step = record.num_steps
    self._saved_at = time.perf_counter()

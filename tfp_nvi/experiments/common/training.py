# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Helpers for training: resumable stages, learning rates, thinned histories."""

import os
import shutil
import time

import numpy as np
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments.common import store as store_lib
from tfp_nvi.experiments.common.settings import SettingError

__all__ = [
  'TrainingFolder',
  'decayed_learning_rate',
  'thin',
]

_STEPS_PER_VALUE = 20


class TrainingFolder(store_lib.Store):
  """A folder with the checkpoints of one training, stage by stage.

  Its `settings.json` has the settings that the checkpoints belong to, and how
  long each stage has taken so far, over all runs that it took.
  """

  def __init__(
    self,
    directory: str,
    configuration: dict,
    argument: str = 'output_dir',
    overwrite: bool = False,
    writes: bool = True,
  ):
    """Opens the folder, as `Store` does; `overwrite` removes checkpoints."""

    def open_folder():
      super(TrainingFolder, self).__init__(
        directory,
        configuration,
        ['stage'],
        argument=argument,
        file='settings.json',
        writes=writes,
      )

    try:
      open_folder()
    except SettingError:
      if not (overwrite and os.path.isdir(directory)):
        raise
      shutil.rmtree(directory)
      open_folder()

  @property
  def seconds(self) -> float:
    """How long all stages have taken so far."""
    return sum(row['seconds'] for row in self.rows)

  def latest_step(self, stage: str) -> int:
    """Returns the step number of the latest checkpoint; 0 if there is none."""
    if not os.path.isdir(self.path(stage)):
      return 0
    steps = nvi.training.Checkpoints(self.path(stage), {}).steps
    return max(steps, default=0)

  def fit(
    self,
    stage: str,
    sampler,
    objective: nvi.Objective,
    num_particles: int,
    num_steps: int,
    **kwargs,
  ) -> nvi.History:
    """Trains from the latest checkpoint on.

    Args:
      stage: Python `str` name of the stage.
      sampler: As of `tfp_nvi.fit`.
      objective: Likewise.
      num_particles: Likewise.
      num_steps: Python `int` number of training steps, earlier runs included.
      **kwargs: The other arguments of `tfp_nvi.fit`, except those for
        checkpoints and the callback.

    Returns:
      history: `tfp_nvi.History` of all steps, those of earlier runs included.
    """
    row = self.row(stage) or {'stage': stage, 'seconds': 0.0}
    start = time.perf_counter() - row['seconds']

    def on_call(step, values):
      del step, values
      self.add({'stage': stage, 'seconds': time.perf_counter() - start})

    if self.latest_step(stage) < num_steps:
      # The settings are written before the first checkpoint, so that no
      # checkpoint is without them.
      self.add(row)
    return nvi.fit(
      sampler,
      objective,
      num_particles=num_particles,
      num_steps=num_steps,
      checkpoint_dir=self.path(stage),
      callback_fn=on_call,
      **kwargs,
    )


def decayed_learning_rate(rate: float, num_steps: int):
  """Makes a learning rate that decays to zero in the last quarter of steps.

  With a few tens of particles in each step, a constant rate leaves noise in the
  parameters, which reduces the final effective sample size.

  Args:
    rate: Python `float`: the rate of the first three quarters.
    num_steps: Python `int` number of training steps.

  Returns:
    learning_rate: Schedule of `tf_keras`, or `rate` itself if there are too few
      steps.

  ```python
  from tfp_nvi.experiments import common

  rate = common.decayed_learning_rate(0.1, num_steps=400)
  assert abs(rate(350) - 0.05) < 1e-6
  ```
  """
  num_constant = 3 * num_steps // 4
  if num_constant == 0:
    return rate
  return tf_keras.optimizers.schedules.CosineDecay(
    rate,
    num_steps - num_constant,
    warmup_target=rate,
    warmup_steps=num_constant,
  )


def thin(values: np.ndarray) -> np.ndarray:
  """Averages every 20 consecutive steps, so that less has to be stored.

  Args:
    values: Array of shape `[num_steps, ...]`.

  Returns:
    means: Array of shape `[num_values, ...]`.

  ```python
  import numpy as np
  from tfp_nvi.experiments import common

  assert common.thin(np.ones([100, 3])).shape == (5, 3)
  ```
  """
  count = max(1, len(values) // _STEPS_PER_VALUE)
  return np.stack([x.mean(axis=0) for x in np.array_split(values, count)])

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The history of a training, and errors that contain it."""

import typing

import numpy as np

from tfp_nvi.objectives.base import Estimate

__all__ = [
  'CollapseWarning',
  'History',
  'MissingMassWarning',
  'Record',
  'TrainingError',
  'TrainingInterrupted',
]

# The last steps of training, by which a level is judged: a tenth of all, but
# enough of them for the median not to be an accident.
_MIN_JUDGED_STEPS = 20
# With few particles an effective sample size near one is nothing unusual.
_MIN_JUDGED_PARTICLES = 8
# One particle has most of the weight in most of the steps.
COLLAPSED_SIZE = 1.5
_COLLAPSED_SHARE = 0.02
# Errors that are estimated from fewer effective particles mean nothing, and
# where so few are a small share, training has not brought the level together.
_FEW_SIZE = 5.0
_FEW_SHARE = 0.1


class CollapseWarning(UserWarning):
  """Warns that at some level nearly all of the weight is on few particles.

  ```python
  import warnings
  import tfp_nvi as nvi

  # Makes an error of it.
  warnings.simplefilter('error', nvi.training.CollapseWarning)
  ```
  """


class MissingMassWarning(UserWarning):
  """Warns that a trained sampler does not reach all mass, such as a mode.

  ```python
  import warnings
  import tfp_nvi as nvi

  # Makes an error of it.
  warnings.simplefilter('error', nvi.training.MissingMassWarning)
  ```
  """


class History(typing.NamedTuple):
  """The history of a training, as NumPy arrays.

  The values of a skipped step are those that it was skipped for, such as NaN.

  Fields:
    loss: Shape `[num_steps] + batch`.
    log_normalizer: Shape `[num_steps] + batch`.
    effective_sample_size: Shape `[num_steps] + batch`.
    log_incremental_weights: Shape `[num_steps, num_densities - 1] + batch`:
      mean `log v` of each level.
    level_effective_sample_sizes: Shape `[num_steps, num_densities - 1] +
      batch`: effective sample size at each level, before resampling.
    num_nan: int array of shape `[num_steps]`: number of log densities that were
      NaN or +inf, and counted as zero density.
    is_skipped: bool array of shape `[num_steps]`: whether variables were left
      as they were, because the loss or a gradient was not finite, or because
      every weight was zero.
    num_particles: Python `int` number of particles at each level.
    compile_seconds: Python `float`: tracing and compilation.
    seconds: Python `float`: the steps themselves, without compilation.

  ```python
  import numpy as np
  import tfp_nvi as nvi

  zeros = np.zeros([40])
  history = nvi.History(
    loss=zeros,
    log_normalizer=zeros,
    effective_sample_size=zeros + 50.0,
    log_incremental_weights=np.zeros([40, 2]),
    level_effective_sample_sizes=np.tile([90.0, 1.0], [40, 1]),
    num_nan=np.zeros([40], np.int32),
    is_skipped=np.zeros([40], bool),
    num_particles=100,
  )
  assert history.collapsed_levels == [2]
  ```
  """

  loss: np.ndarray
  log_normalizer: np.ndarray
  effective_sample_size: np.ndarray
  log_incremental_weights: np.ndarray
  level_effective_sample_sizes: np.ndarray
  num_nan: np.ndarray
  is_skipped: np.ndarray
  num_particles: int
  compile_seconds: float = 0.0
  seconds: float = 0.0

  @property
  def microseconds_per_step(self) -> float:
    """Duration of a step, without compilation."""
    return 1e6 * self.seconds / max(1, len(self.loss))

  @property
  def num_skipped_steps(self) -> int:
    """Number of steps that left the variables as they were."""
    return int(np.sum(self.is_skipped))

  @property
  def collapsed_levels(self) -> list[int]:
    """Levels where nearly all of the weight was on few particles at the end.

    These are the levels, counted from one, where the median of the effective
    sample size over the last tenth of the steps, and 20 at least, is small for
    any member of the batch: at most the largest of 1.5, 2% of the particles,
    and the smaller of five and 10% of the particles. Below 1.5, one particle
    has most of the weight in most of the steps; a gradient by weights is then
    the score of a single draw. With fewer than five, weights may have tails
    that no run shows. With fewer than 20 steps or 8 particles nothing can be
    said, and the list is empty.
    """
    if (
      len(self.loss) < _MIN_JUDGED_STEPS
      or self.num_particles < _MIN_JUDGED_PARTICLES
    ):
      return []
    limit = max(
      COLLAPSED_SIZE,
      min(_FEW_SIZE, _FEW_SHARE * self.num_particles),
      _COLLAPSED_SHARE * self.num_particles,
    )
    return (np.flatnonzero(median_sizes(self) <= limit) + 1).tolist()

  def to_arviz(self, coords: dict | None = None) -> typing.Any:
    """Exports the course of training to ArviZ; its steps are the draws.

    Args:
      coords: As of `tfp_nvi.diagnostics.history_to_arviz`.

    Returns:
      data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

    Raises:
      ImportError: If ArviZ is not installed.
    """
    # Imported here, as it is below this module, and seldom needed.
    from tfp_nvi.diagnostics import export_history

    return export_history.history_to_arviz(self, coords)


def median_sizes(history: History) -> np.ndarray:
  """The smallest effective sample sizes in a batch, as medians over time.

  Args:
    history: `History`.

  Returns:
    sizes: Array of shape `[num_levels]`: the median over the last tenth of the
      steps, and 20 at least.
  """
  # A size that is not a number is that of particles without any weight.
  last = np.nan_to_num(
    history.level_effective_sample_sizes[-_num_judged(history) :], nan=0.0
  )
  medians = np.median(last, axis=0)
  return medians.reshape([len(medians), -1]).min(axis=1)


def last_log_normalizers(
  history: History, num_steps: int | None = None
) -> np.ndarray:
  """The log normalizers at the end of training, of steps that were taken.

  Args:
    history: `History`.
    num_steps: Python `int`: of how many steps.
      Default value: `None` (i.e., of the last tenth, and 20 at least).

  Returns:
    log_normalizers: Array of shape `[num_steps] + batch`, without those of
      steps that were skipped; without elements if there are fewer steps.
  """
  num_steps = num_steps or _num_judged(history)
  if len(history.loss) < num_steps:
    return history.log_normalizer[:0]
  last = slice(-num_steps, None)
  return history.log_normalizer[last][~history.is_skipped[last]]


def _num_judged(history):
  return max(_MIN_JUDGED_STEPS, len(history.loss) // 10)


ESTIMATE_FIELDS = Estimate._fields
# The fields that the compiled loop returns for each step.
STEP_FIELDS = (*ESTIMATE_FIELDS, 'is_skipped')
# Those of them with an axis over levels before the batch.
LEVEL_FIELDS = ('log_incremental_weights', 'level_effective_sample_sizes')
# Those of them that are means over the instances of a chain; others are sums.
SIZE_FIELDS = ('effective_sample_size', 'level_effective_sample_sizes')


class TrainingError(FloatingPointError):
  """Training had to stop; variables are those of the last good step.

  Fields:
    history: `History` of the steps until then.

  ```python
  import tfp_nvi as nvi

  assert issubclass(nvi.training.TrainingError, FloatingPointError)
  ```
  """

  def __init__(self, message: str, history: History):
    super().__init__(message)
    self.history = history


class TrainingInterrupted(KeyboardInterrupt):
  """Training was stopped from the keyboard, between two steps.

  Fields:
    history: `History` of the steps until then.

  ```python
  import tfp_nvi as nvi

  assert issubclass(nvi.training.TrainingInterrupted, KeyboardInterrupt)
  ```
  """

  def __init__(self, message: str, history: History):
    super().__init__(message)
    self.history = history


class Record:
  """The steps taken until now, as the pieces that calls gave.

  Fields:
    pieces: List of Python `dict`s of arrays, by the names of `STEP_FIELDS`.
    num_particles: Python `int`.
    num_steps: Python `int`: steps in all pieces.
    compile_seconds: Python `float`.
    seconds: Python `float`.

  ```python
  import numpy as np
  from tfp_nvi.training import history

  record = history.Record(num_particles=10)
  record.append({field: np.zeros([3]) for field in history.STEP_FIELDS})
  assert record.history().loss.shape == (3,)
  ```
  """

  def __init__(self, num_particles: int):
    """Begins a record.

    Args:
      num_particles: Python `int`.
    """
    self.pieces: list[dict] = []
    self.num_particles = num_particles
    self.num_steps = 0
    self.compile_seconds = 0.0
    self.seconds = 0.0

  def append(self, piece: dict) -> None:
    """Adds a piece.

    Args:
      piece: Python `dict` of arrays.
    """
    self.pieces.append(piece)
    self.num_steps += len(piece['loss'])

  def values(self) -> dict:
    """Joins the pieces.

    Returns:
      values: Python `dict` of arrays.
    """
    return {
      field: np.concatenate([piece[field] for piece in self.pieces])
      for field in STEP_FIELDS
    }

  def history(self) -> History:
    """The history of all steps until now.

    Returns:
      history: `History`.
    """
    return History(
      **self.values(),
      num_particles=self.num_particles,
      compile_seconds=self.compile_seconds,
      seconds=self.seconds,
    )

  def last(self) -> History:
    """The history of the last piece.

    Returns:
      history: `History`.
    """
    return History(**self.pieces[-1], num_particles=self.num_particles)

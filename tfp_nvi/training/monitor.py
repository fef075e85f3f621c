# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Looks at the values of each compiled call, and says what is wrong."""

import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import types
from tfp_nvi.training import coverage
from tfp_nvi.training import history as history_lib
from tfp_nvi.training.steps import CompiledSteps

__all__ = [
  'Monitor',
]

# Training stops after so many skipped steps in a row. If even three of four
# steps had to be skipped at random, that would be seen once in two million.
_MAX_SKIPPED = 50

# For the caller of `fit`, which calls the methods that warn.
_STACKLEVEL = 3

_ON_NAN = (
  'Look at the density for states at which it is undefined, such as the '
  'logarithm of a negative number or the difference of two infinities.'
)
_ON_COLLAPSE = (
  'Give a path more densities or `learnable=True`, take more particles, or '
  'train by tfp_nvi.reverse_kl() first.'
)
_ON_MISSING_MASS = (
  'A mode may be lost. Train by tfp_nvi.forward_kl(), take transitions of a '
  'larger `scale`, a path with more densities, or more particles.'
)
_ON_ZERO = (
  'The support of the density there must overlap with that of the level '
  'before; check both, and the scale of the proposal.'
)
_ON_SKIPPED = (
  'Lower the learning rate, or look at the density and the transition of that '
  'level where its gradient is not finite.'
)
_ON_INFINITE = (
  'A reverse KL divergence is infinite where the target is zero: there, a '
  'nested objective or rws can be trained.'
)


class Monitor:
  """Warns of values that training can go on with; raises on all others.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tf_keras
  import tfp_nvi as nvi
  from tfp_nvi.training import monitor, steps

  path = nvi.GeometricPath(
    tfp.distributions.Normal(0.0, 1.0),
    tfp.distributions.Normal(1.0, 1.0),
    num_densities=2,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  settings = steps.StepSettings(
    lambda element: sampler,
    nvi.reverse_kl(),
    num_particles=10,
    optimizer=tf_keras.optimizers.Adam(0.01),
  )
  watch = monitor.Monitor(
    steps.CompiledSteps(settings), tf.constant([1, 2]), 10, strict=False
  )
  ```
  """

  def __init__(
    self, steps: CompiledSteps, seed: tf.Tensor, num_steps: int, strict: bool
  ):
    """Initializes the monitor.

    Args:
      steps: `CompiledSteps`, to look closer where something is wrong.
      seed: int32 `Tensor` of shape `[2]`.
      num_steps: Python `int`: steps in all.
      strict: Python `bool`: whether a single skipped step is an error.
    """
    self._steps = steps
    self._seed = seed
    self._strict = strict
    self._max_skipped = 1 if strict else min(_MAX_SKIPPED, num_steps)
    self._num_skipped = 0
    self._has_warned = False

  def check(
    self, record: history_lib.Record, elements: types.Structure
  ) -> None:
    """Warns of NaN once; stops training where it makes no progress.

    Args:
      record: `Record`, with the steps of the last call.
      elements: The data of that call.

    Raises:
      TrainingError: If too many steps in a row were skipped.
    """
    piece = record.pieces[-1]
    if piece['num_nan'].any() and not (self._has_warned or self._strict):
      self._has_warned = True
      warnings.warn(
        f'{self._describe_nan(record, elements)} Training goes on: it counts '
        'as zero density, and `num_nan` of the history has how many there were '
        'in each step.',
        RuntimeWarning,
        stacklevel=_STACKLEVEL,
      )
    is_skipped = piece['is_skipped']
    if is_skipped.all():
      self._num_skipped += len(is_skipped)
    else:
      self._num_skipped = int(np.argmin(is_skipped[::-1]))
    if self._num_skipped >= self._max_skipped:
      raise history_lib.TrainingError(
        self._describe_stop(record, elements), record.history()
      )

  def finish(self, record: history_lib.Record, sampler: Any) -> None:
    """Warns of levels that collapsed, or else of mass that is missing.

    Args:
      record: `Record` of all steps.
      sampler: What was trained.
    """
    history = record.history()
    levels = history.collapsed_levels
    if not levels:
      missing = coverage.find_missing_mass(sampler, history, self._seed)
      rare = coverage.find_rare_mass(sampler, history)
      if missing is not None:
        message = _describe_missing_mass(missing)
      elif rare is not None:
        message = _describe_rare_mass(*rare)
      else:
        return
      warnings.warn(
        message, history_lib.MissingMassWarning, stacklevel=_STACKLEVEL
      )
      return
    size = min(history_lib.median_sizes(history))
    what = (
      'nearly all of the weight is on one'
      if size <= history_lib.COLLAPSED_SIZE
      else 'nearly all of the weight is on a few of them'
    )
    warnings.warn(
      f'Training collapsed at {_name_levels(levels)}: of '
      f'{record.num_particles} particles, {what} (median effective sample size '
      f'{size:.1f}), so that neither the loss nor the samples can be trusted. '
      f'{_ON_COLLAPSE}',
      history_lib.CollapseWarning,
      stacklevel=_STACKLEVEL,
    )

  def _describe_nan(self, record, elements):
    """Says where there was a NaN: of the density, if the sampler knows."""
    piece = record.pieces[-1]
    index = int(np.argmax(piece['num_nan'] > 0))
    step = record.num_steps - len(piece['loss']) + index
    found = self._steps.describe_nan(self._seed, step, elements, index)
    if found is None:
      found = f'A log density was NaN. {_ON_NAN}'
    return f'Step {step}: {found}'

  def _describe_stop(self, record, elements):
    """Says why the last steps were skipped, and what to do."""
    piece = record.pieces[-1]
    values = {k: v[-1] for k, v in piece.items()}
    where = f'step {record.num_steps - self._num_skipped}'
    level = _first_bad_level(values)
    if level is not None:
      where += f', level {level}'
    if self._num_skipped > 1:
      where += f', and in all of the {self._num_skipped - 1} steps since'
    outcome = 'The variables are those of the last good step.'
    if values['num_nan'] and self._strict:
      return (
        f'Training stopped: {self._describe_nan(record, elements)} {outcome} '
        'Without `strict`, it would count as zero density.'
      )
    if values['num_nan']:
      return (
        f'Training stopped: log densities were NaN at {where}, and no particle '
        f'has any weight. {self._describe_nan(record, elements)} {outcome}'
      )
    for field in ('log_incremental_weights', 'loss', 'log_normalizer'):
      if np.isnan(values[field]).any():
        return (
          f'Training stopped: {field} was NaN at {where}. {outcome} '
          f'{_ON_SKIPPED}'
        )
    if not (values['log_normalizer'] > -np.inf).any():
      return (
        f'Training stopped: every weight was zero at {where}. {outcome} '
        f'{_ON_ZERO}'
      )
    names = self._steps.bad_gradients(
      self._seed, record.num_steps - 1, elements, len(piece['loss']) - 1
    )
    cause = f'the gradient of {", ".join(names)}' if names else 'the loss'
    advice = _ON_SKIPPED if names else f'{_ON_INFINITE} {_ON_SKIPPED}'
    return (
      f'Training stopped: {cause} was not finite at {where}. {outcome} {advice}'
    )


def _first_bad_level(values):
  """The first level without weights or with NaN, from one; `None` if none."""
  increments = values['log_incremental_weights']
  sizes = values['level_effective_sample_sizes']
  # A divergence from zero weights is large but finite; a size is one at least.
  is_bad = ~((np.abs(increments) < 1e29) & (sizes > 0.5))
  is_bad = is_bad.reshape([len(is_bad), -1]).any(axis=1)
  return int(np.argmax(is_bad)) + 1 if is_bad.any() else None


def _describe_missing_mass(missing):
  members = (
    f' (the worst of {missing.num_members} members of the batch)'
    if missing.num_members > 1
    else ''
  )
  return (
    'The trained sampler misses mass of the last density: importance sampling '
    f'from the first density gives log Z = {missing.expected:.3f} +- '
    f'{missing.expected_error:.3f}, the last steps of training '
    f'{missing.found:.3f}{members}. {_ON_MISSING_MASS}'
  )


def _describe_rare_mass(num_steps, share):
  return (
    'The trained sampler seldom reaches some mass of the last density: of the '
    f'last {num_steps} steps, one has {share:.0%} of the sum of their '
    'estimates of the normalizer. The weights have heavy tails, so that log Z '
    'of most runs is too low, and their reported errors too small. Train both '
    'kernels (`sides=tfp_nvi.Side.BOTH`), take more particles, or a path with '
    'other densities.'
  )


def _name_levels(levels):
  if len(levels) == 1:
    return f'level {levels[0]}'
  return f'levels {", ".join(map(str, levels[:-1]))} and {levels[-1]}'

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of a filter: the results of one, and of several together.

Islands are filters that run separately. At every step the particles of all
islands together are properly weighted, so that the estimate of the evidence up
to that step is the mean of the islands' estimates.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfp_nvi import weighting
from tfp_nvi.internal import reductions
from tfp_nvi.state_space import recorder as recorder_lib
from tfp_nvi.state_space.history import FilterHistory
from tfp_nvi.state_space.posterior import StateSpacePosterior

__all__ = [
  'FilterRun',
  'check_weights',
  'combine',
  'describe_ancestry',
  'describe_doubt',
  'describe_nan',
  'increments_of',
  'without_batch',
]


# A larger share of the weight causes a warning.
_MAX_DOUBTFUL_SHARE = 0.1
# With fewer particles, a single ancestor of all of them is nothing unusual.
_MIN_PARTICLES = 100


class FilterRun(NamedTuple):
  """The results of a run of the filter.

  Fields:
    posterior: `StateSpacePosterior`.
    first_nan: int32 `Tensor` of shape `batch`: the first level at which a
      log density is NaN, and the cause, as in `FilterRecorder`.
    doubtful_share: float `Tensor` of shape `batch`: the share of the weight
      whose global states have a doubtful heuristic factor.
  """

  posterior: StateSpacePosterior
  first_nan: tf.Tensor
  doubtful_share: tf.Tensor


def increments_of(total: tf.Tensor) -> tf.Tensor:
  """Returns the increments of a log normalizer from level to level.

  Args:
    total: float `Tensor` of shape `[num_levels] + batch`.

  Returns:
    increments: float `Tensor` of the same shape. The first one is the first log
      normalizer. Increments are `-inf` from the level on at which the log
      normalizer is `-inf`.

  ```python
  import tensorflow as tf
  from tfp_nvi.state_space import runs

  increments = runs.increments_of(tf.constant([1.0, 3.0, 2.5]))
  assert list(increments.numpy()) == [1.0, 2.0, -0.5]
  ```
  """
  is_zero = tf.equal(total, -float('inf'))
  return tf.concat(
    [
      total[:1],
      tf.where(is_zero[1:], total[1:], total[1:] - total[:-1]),
    ],
    axis=0,
  )


def combine(islands: FilterRun) -> FilterRun:
  """Joins the particles of all islands, by their weights.

  Args:
    islands: `FilterRun` whose `Tensor`s have a first axis over islands.

  Returns:
    run: `FilterRun` of all particles, those of an island one after the other.
      Log normalizers are log means of the islands' estimates.
  """
  posterior = islands.posterior
  increments = posterior.log_normalizer_increments
  # The islands are particles here, and the levels batch members.
  totals = tf.cumsum(reductions.widen(increments), axis=1)
  total = tf.cast(weighting.log_normalizer(totals), increments.dtype)
  history = posterior.history
  if history:
    history = FilterHistory(
      _join(history.initial_global_state, 0),
      *_join((_offset(history.root, 1), *history[2:]), 1),
    )
  return FilterRun(
    StateSpacePosterior(
      global_state=_join(posterior.global_state, 0),
      trajectories=_join(posterior.trajectories, 0),
      log_weights=_join(posterior.log_weights, 0),
      log_normalizer_increments=increments_of(total),
      effective_sample_sizes=weighting.combine_effective_sample_sizes(
        totals, posterior.effective_sample_sizes
      ),
      num_roots=tf.reduce_sum(posterior.num_roots, axis=0),
      root=_join(_offset(posterior.root, 0), 0),
      num_nan=tf.reduce_sum(posterior.num_nan, axis=0),
      history=history,
    ),
    tf.reduce_min(islands.first_nan, axis=0),
    weighting.total(
      tf.cast(weighting.normalize_weights(totals[:, -1]), tf.float32)
      * islands.doubtful_share
    ),
  )


def _offset(root, axis):
  """Makes roots different in different islands.

  Args:
    root: int32 `Tensor` with a first axis over islands.
    axis: Python `int`: the axis of the particles, not counting islands.
  """
  num_islands, num_particles = root.shape[0], root.shape[axis + 1]
  offsets = num_particles * tf.range(num_islands)
  return root + tf.reshape(offsets, [-1] + [1] * (root.shape.rank - 1))


def _join(values, axis):
  """Joins the particles of all islands in one axis, for nested structures.

  Args:
    values: Nested structure of `Tensor`s with a first axis over islands.
    axis: Python `int`: the axis of the particles, not counting islands.
  """

  def join(x):
    shape = x.shape.as_list()
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
    return tf.reshape(
      tf.transpose(x, order),
      shape[1 : axis + 1] + [shape[0] * shape[axis + 1]] + shape[axis + 2 :],
    )

  return tf.nest.map_structure(join, values)


def without_batch(run: FilterRun) -> FilterRun:
  """Returns the run for a single sequence.

  Args:
    run: `FilterRun` for a batch of one.

  Returns:
    run: `FilterRun` without batch axes.
  """
  posterior = run.posterior
  history = posterior.history
  if history:
    first, *rest = history
    history = FilterHistory(
      tf.nest.map_structure(lambda x: tf.squeeze(x, axis=1), first),
      *tf.nest.map_structure(lambda x: tf.squeeze(x, axis=2), rest),
    )
  squeezed = tf.nest.map_structure(
    lambda x: tf.squeeze(x, axis=1), posterior._replace(num_nan=(), history=())
  )
  return FilterRun(
    squeezed._replace(num_nan=posterior.num_nan[0], history=history),
    run.first_nan[0],
    run.doubtful_share[0],
  )


def check_weights(run: FilterRun) -> None:
  """Raises an error that names the cause if no particle has weight.

  Args:
    run: `FilterRun`.

  Raises:
    ValueError: If a level has no weight, or one that is infinite or NaN.
  """
  posterior = run.posterior
  increments = posterior.log_normalizer_increments.numpy()
  # Under XLA, increments are NaN also where a weight is infinite.
  is_bad = np.isnan(increments) | np.isinf(increments)
  if not is_bad.any():
    return
  level, *index = np.argwhere(is_bad)[0].tolist()
  where = recorder_lib.place(level, index)
  message = describe_nan(run, tuple(index))
  if message is not None:
    raise ValueError(f'No particle has any weight {where}: {message}')
  if np.isneginf(increments[(level, *index)]):
    raise ValueError(
      f'No particle has any weight {where}: `observations` must be possible '
      'under the model, and `heuristic` must not be -inf where they are.'
    )
  raise ValueError(
    f'Log weights have become infinite or NaN {where}; the model, the '
    'proposals and `heuristic` must return log densities that are numbers or '
    '-inf.'
  )


def describe_nan(run: FilterRun, index: tuple | None = None) -> str | None:
  """Makes a message that names the first NaN log density.

  Args:
    run: `FilterRun`.
    index: Tuple of Python `int`s: the sequence to look at.
      Default value: `None` (i.e., all of them).

  Returns:
    message: Python `str`; `None` if there is none.
  """
  num_nan = run.posterior.num_nan.numpy()
  first_nan = run.first_nan.numpy()
  if index is None:
    index = np.unravel_index(np.argmin(first_nan), first_nan.shape)
  else:
    num_nan = num_nan[index]
  if not np.any(num_nan):
    return None
  description = recorder_lib.describe_first_nan(
    first_nan[index], [int(i) for i in index]
  )
  return f'{description} Of all particles and steps, {num_nan.sum()} were NaN.'


def describe_doubt(run: FilterRun) -> str | None:
  """Makes a message for a heuristic that is a poor approximation.

  Args:
    run: `FilterRun`.

  Returns:
    message: Python `str`; `None` if little weight is concerned.
  """
  share = float(tf.reduce_max(run.doubtful_share))
  if share <= _MAX_DOUBTFUL_SHARE:
    return None
  return (
    f'The Gaussian expansions of `heuristic` have not settled for {share:.0%} '
    'of the weight: most of the mass may be where no particle is, and the '
    'estimate of log p(x) far too small. Compare it with that of '
    "StateSpaceSampler(model, proposal_fn='guided') or 'prior', or use a "
    'RecurrentHeuristic.'
  )


def describe_ancestry(run: FilterRun, num_runs: int) -> str | None:
  """Makes a message for particles that all have the same global state.

  Args:
    run: `FilterRun` of a model with a prior.
    num_runs: Python `int`: the number of islands of the run.

  Returns:
    message: Python `str`; `None` if there are more global states, or few
      particles.
  """
  num_particles = run.posterior.log_weights.shape[0]
  if num_particles < _MIN_PARTICLES * num_runs:
    return None
  if int(tf.reduce_min(run.posterior.num_roots[-1])) > num_runs:
    return None
  if not all(
    x.dtype.is_floating for x in tf.nest.flatten(run.posterior.global_state)
  ):
    # Draws may be equal.
    return None
  return (
    f'All {num_particles // num_runs} particles of a run have descended from a '
    'single draw of the global state: the estimate of log p(x) may be far too '
    'small, and expectations of the global state mean nothing. More particles '
    'are needed, or a better proposal of the global state or heuristic.'
  )

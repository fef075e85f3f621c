# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Local states of a regime and a level: a discrete part and a normal one.

Contract: a local state is of a `tfd.JointDistributionNamed` or
`tfd.JointDistributionSequential` with two parts. One is a `tfd.Categorical` and
depends on the state before alone; the other is normal, over a number or a
vector, given the regime. A sequential distribution has the regime first.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import compatibility, randomness, types
from tfp_nvi.state_space import functions, gaussian

tfd = tfp.distributions

__all__ = [
  'Regimes',
  'find_regimes',
  'guide',
]


class Regimes(NamedTuple):
  """The places of the regime and the level in a local state.

  Fields:
    place: Python `int`: the index of the regime among the two flattened parts.
    num_regimes: Python `int`: how many regimes there are.
    structure: Nested structure, of the two parts.
    dtype: `tf.DType` of the regime.
    level_rank: Python `int`: 0 if levels are numbers, 1 if they are vectors.
  """

  place: int
  num_regimes: int
  structure: Any
  dtype: tf.DType
  level_rank: int

  def pack(self, regime: tf.Tensor, level: tf.Tensor | None) -> types.Structure:
    """Makes a local state from its two parts."""
    parts = [regime, level] if self.place == 0 else [level, regime]
    return tf.nest.pack_sequence_as(self.structure, parts)

  def unpack(self, state: types.Structure) -> tuple:
    """Returns the regime and the level of a local state."""
    parts = tf.nest.flatten(state)
    return parts[self.place], parts[1 - self.place]


def _parts(distribution, value=None):
  """Returns the distributions of the parts, given some values."""
  parts, _ = distribution.sample_distributions(
    seed=randomness.as_seed(0), value=value
  )
  return tf.nest.flatten(parts)


def find_regimes(distribution: tfd.Distribution) -> Regimes | None:
  """Finds the regime and the level of a distribution over local states.

  Args:
    distribution: `tfd.Distribution`.

  Returns:
    regimes: `Regimes`, or `None` if there are none.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi.state_space import switching

  tfd = tfp.distributions

  joint = tfd.JointDistributionNamed(
    {
      'regime': tfd.Categorical(probs=[0.9, 0.1]),
      'level': lambda regime: tfd.Normal(0.0, tf.gather([1.0, 5.0], regime)),
    }
  )
  assert switching.find_regimes(joint).num_regimes == 2
  ```
  """
  named = compatibility.all_forms(tfd.JointDistributionNamed)
  sequential = compatibility.all_forms(tfd.JointDistributionSequential)
  is_named = isinstance(distribution, named)
  if not is_named and not isinstance(distribution, sequential):
    return None
  parts = _parts(distribution)
  if len(parts) != 2:
    return None
  counts = [functions.num_categories(part) for part in parts]
  if counts.count(None) != 1:
    return None
  index = 0 if counts[1] is None else 1
  if index and not is_named:
    # Levels are proposed given regimes, which come first in a list.
    return None
  level, num_regimes = parts[1 - index], counts[index]
  parents = [parents for _, parents in sorted(distribution.resolve_graph())]
  if not is_named:
    parents = [parents for _, parents in distribution.resolve_graph()]
  if num_regimes is None or parents[index] or not gaussian.is_gaussian(level):
    return None
  return Regimes(
    place=index,
    num_regimes=num_regimes,
    structure=distribution.dtype,
    dtype=parts[index].dtype,
    level_rank=level.event_shape.rank,
  )


def _select(values, regime):
  """Selects entries of the first axis, for each particle."""
  rank = values.shape.rank - 1 - regime.shape.rank
  result = tf.zeros_like(values[0])
  for r in range(values.shape[0]):
    is_it = tf.reshape(tf.equal(regime, r), regime.shape + [1] * rank)
    result += tf.where(is_it, values[r], tf.zeros_like(values[r]))
  return result


def _function_of(name, fn):
  """Makes a function whose argument has the name of a part."""

  def call(**values):
    return fn(values[name])

  call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
  )
  return call


def guide(
  regimes: Regimes,
  prior: tfd.Distribution,
  observation_fn: Callable,
  x: types.Structure,
  global_state: types.Structure,
  shape: types.Shape,
) -> tfd.Distribution:
  """Returns the transition times the likelihood, normalized.

  It is exact where the observation is linear and normal given the regime.
  Otherwise the likelihood is expanded at the mean of each regime.

  Args:
    regimes: `Regimes` of the model.
    prior: Joint distribution over the local state, given the one before.
    observation_fn: Python callable from local and global states and a shape, to
      the distribution of the observation.
    x: Nested structure of `Tensor`s of shape `batch + event`: the observation.
    global_state: Nested structure of `Tensor`s of shape `shape + event`.
    shape: `TensorShape`: `[num_particles] + batch`.

  Returns:
    proposal: Joint distribution of the same structure.
  """
  shape = tf.TensorShape(shape)
  rank = regimes.level_rank
  switch = _parts(prior)[regimes.place]
  log_probs = functions.log_probs(switch)
  log_probs = tf.broadcast_to(log_probs, shape + [regimes.num_regimes])
  logits, means, covariances = [], [], []
  for r in range(regimes.num_regimes):
    regime = tf.fill(shape, tf.cast(r, regimes.dtype))
    level = _parts(prior, regimes.pack(regime, None))[1 - regimes.place]
    mean, factor = gaussian.moments(level, shape)

    def given_regime(z, regime=regime):
      state = regimes.pack(regime, gaussian.as_event(z, rank))
      return observation_fn(state, global_state, shape)

    likelihood = gaussian.expand_likelihood(given_regime, x, mean, shape)
    logits.append(
      log_probs[..., r]
      + gaussian.log_integral(tf.zeros_like(mean), factor, likelihood)
    )
    mean, covariance = gaussian.condition(mean, factor, likelihood, mean)
    means.append(mean)
    covariances.append(covariance)
  means, covariances = tf.stack(means), tf.stack(covariances)
  switch = tfd.Categorical(logits=tf.stack(logits, -1), dtype=regimes.dtype)

  def level_fn(regime):
    return gaussian.normal(
      _select(means, regime), _select(covariances, regime), rank
    )

  if isinstance(regimes.structure, dict):
    names = sorted(regimes.structure)
    name = names[regimes.place]
    return tfd.JointDistributionNamed(
      {
        name: switch,
        names[1 - regimes.place]: _function_of(name, level_fn),
      }
    )
  return tfd.JointDistributionSequential([switch, level_fn])

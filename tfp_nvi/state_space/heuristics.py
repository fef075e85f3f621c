# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Heuristic factors: how well a particle explains the observations to come.

Contract: a heuristic approximates the likelihood of the observations to come,
`psi(x_{k+1:K} | theta)` or `psi(x_{k+1:K} | theta, z_k)`, up to a constant. It
is a subclass of `Heuristic` with

```none
prepare(observations, is_observed, global_state)
    a nested structure of Tensors of shape [num_steps, num_particles] + batch
    + any, whose row `k` is what the factor of `x_{k+1:K}` needs; with one
    particle in place of all of them, where it does not depend on them
log_factor(row, global_state, local_state)
    log psi, of shape [num_particles] + batch; local_state is None for k = 0;
    the row itself by default
proposal(row, prior, shape)
    a distribution to propose the local state of step `k + 1` from, by row `k`
    and the model's distribution of it; None, the default, if there is none
```

`prepare` is called once in each run, for the particles of level 0, so that no
level goes through the observations again. `log_factor` is called for the
particles of each level. `prepare` may name `u` as a last argument, the inputs
of all steps. At the last level the factor is one, whatever the heuristic
returns.
"""

import abc
from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, types
from tfp_nvi.state_space import functions, missing
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.model import StateSpaceModel

tfd = tfp.distributions

__all__ = [
  'FeatureHeuristic',
  'Heuristic',
  'IndependentHeuristic',
  'sum_of_rest',
]


def sum_of_rest(
  values: tf.Tensor, is_observed: tf.Tensor | None = None
) -> tf.Tensor:
  """Sums over the observations to come.

  Args:
    values: `Tensor` of shape `[num_steps] + shape`, whose row `k` belongs to
      the observation of step `k + 1`.
    is_observed: Optional bool `Tensor` that broadcasts to `values`: which rows
      count.

  Returns:
    sums: `Tensor` of the same shape, whose row `k` is the sum of rows `k` and
      after.

  ```python
  import tensorflow as tf
  from tfp_nvi.state_space import heuristics

  sums = heuristics.sum_of_rest(tf.constant([1.0, 2.0, 3.0]))
  assert sums.numpy().tolist() == [6.0, 5.0, 3.0]
  ```
  """
  if is_observed is not None:
    values = tf.where(is_observed, values, tf.zeros_like(values))
  return tf.cumsum(values, axis=0, reverse=True)


class Heuristic(tf.Module, abc.ABC):
  """The base class of heuristic factors; see the module's contract.

  A subclass must define `prepare`, and may define `log_factor`, if the factor
  depends on the local state.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi


  class NoneOfTheRest(nvi.Heuristic):
    def prepare(self, observations, is_observed, global_state):
      return tf.zeros_like(tf.transpose(observations))[:, tf.newaxis]
  ```
  """

  # Whether to skip a trial with a few draws before a run. The rows are known to
  # have the right shape, and a trial would take long.
  is_trusted = False

  @abc.abstractmethod
  def prepare(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None,
    global_state: types.Structure,
  ) -> types.Structure:
    """Prepares the rows of the factors, once the global state is known.

    Args:
      observations: Nested structure of `Tensor`s of shape
        `batch + [num_steps] + event`.
      is_observed: `None`, or bool `Tensor` of shape `batch + [num_steps]`; for
        observations of which some components are missing, the structure of the
        observations with bools in place of numbers.
      global_state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`.

    Returns:
      rows: Nested structure of `Tensor`s of shape
        `[num_steps, num_particles] + batch + any`; the second axis may have
        size one instead.
    """

  def log_factor(
    self,
    row: types.Structure,
    global_state: types.Structure,
    local_state: types.Structure | None,
  ) -> tf.Tensor:
    """Returns the logarithm of the factor; by default, the row itself.

    Args:
      row: Row that `prepare` returned, as it was prepared for each particle's
        global state.
      global_state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`; there may be an axis over levels
        between these two.
      local_state: Likewise, or `None` before the first step.

    Returns:
      log_factor: `Tensor` of shape `[num_particles] + batch`.
    """
    del global_state, local_state
    return row

  def proposal(
    self, row: types.Structure, prior: tfd.Distribution, shape: tf.TensorShape
  ) -> tfd.Distribution | None:
    """Returns a proposal that uses the observations to come; by default, none.

    Args:
      row: Row `k` that `prepare` returned, as in `log_factor`.
      prior: `tfd.Distribution`: the model's distribution of the local state of
        step `k + 1`, given the one before.
      shape: `TensorShape`: `[num_particles] + batch`.

    Returns:
      proposal: `tfd.Distribution` over the local state, or `None`.
    """
    del row, prior, shape
    return None

  def is_doubtful(self, rows: types.Structure) -> tf.Tensor | None:
    """Returns where the factor is known to be poor; by default, `None`.

    Args:
      rows: The rows that `prepare` returned.

    Returns:
      is_doubtful: bool `Tensor` of shape `[num_particles] + batch`, or with one
        particle in place of all; or `None`.
    """
    del rows
    return None

  def given(self, model: StateSpaceModel) -> 'Heuristic | None':
    """Returns the heuristic for a given global state; by default, none.

    Args:
      model: `StateSpaceModel` without a prior, of `given_model`.

    Returns:
      heuristic: `Heuristic`, or `None`.
    """
    del model
    return None


class IndependentHeuristic(Heuristic):
  """A factor that takes observations as independent given the global state.

  ```none
  log psi(x_{k+1:K} | theta) = sum_{j > k} log p(x_j | theta)
  ```

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  heuristic = nvi.IndependentHeuristic(lambda loc: tfd.Normal(loc, 2.0))
  ```
  """

  def __init__(
    self, distribution_fn: Callable, name: str = 'independent_heuristic'
  ):
    """Initializes the heuristic.

    Args:
      distribution_fn: Python callable from the global state to a
        `tfd.Distribution` over one observation. It need not take an argument
        if the model has no global state.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `distribution_fn` is not callable.
      ValueError: If it needs more than one argument.
    """
    super().__init__(name=name)
    checks.check_callable(
      'distribution_fn',
      distribution_fn,
      'a callable from the global state to a tfd.Distribution',
    )
    self._distribution_fn = distribution_fn
    self._call = functions.call_with_named(
      'distribution_fn', distribution_fn, ('global_state',)
    )

  def prepare(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None,
    global_state: types.Structure,
  ) -> tf.Tensor:
    """Returns sums of log densities; see `Heuristic.prepare`."""
    distribution = self._call(global_state)
    checks.check_returned_instance(
      'distribution_fn', distribution, tfd.Distribution, 'a tfd.Distribution'
    )
    event_rank = tf.nest.map_structure(
      lambda shape: tf.TensorShape(shape).rank, distribution.event_shape
    )
    x = tf.nest.map_structure(
      lambda x, rank: steps_lib.steps_first(x, x.shape.rank - rank - 1, axes=1),
      observations,
      event_rank,
    )
    by_step, components = missing.split(
      is_observed, observations, distribution.event_shape
    )
    rank = tf.nest.flatten(observations)[0].shape.rank - 1
    rank -= tf.nest.flatten(event_rank)[0]
    if components is not None:
      components = tf.nest.map_structure(
        lambda x: steps_lib.steps_first(x, rank, axes=1), components
      )
      distribution = missing.marginal(distribution, x, components)
    if by_step is not None:
      by_step = steps_lib.steps_first(by_step, rank, axes=1)
    return sum_of_rest(distribution.log_prob(x), by_step)


class FeatureHeuristic(Heuristic):
  """A learned heuristic: features of observations, weighted by global states.

  ```none
  log psi(x_{k+1:K} | theta) = sum_{j > k} f(x_{j:K}) . w(theta)
  ```

  Features are computed once for a sequence and weights once for each particle
  of level 0, so that their number may be large.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  heuristic = nvi.FeatureHeuristic(
    lambda x: tf.stack([x**2, x, tf.ones_like(x)], axis=-1),
    lambda loc: tf.stack([-0.5 + 0.0 * loc, loc, -0.5 * loc**2], axis=-1),
  )
  ```
  """

  def __init__(
    self,
    feature_fn: Callable,
    weight_fn: Callable,
    name: str = 'feature_heuristic',
  ):
    """Initializes the heuristic.

    Args:
      feature_fn: Python callable from the observations, of shape
        `batch + [num_steps] + event`, to features of shape
        `batch + [num_steps, num_features]`. The features of a step may depend
        on the observation of that step and on later ones.
      weight_fn: Python callable from the global state, of shape
        `[num_particles] + batch + event`, to weights of shape
        `[num_particles] + batch + [num_features]`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If a function is not callable.
    """
    super().__init__(name=name)
    checks.check_callable('feature_fn', feature_fn)
    checks.check_callable('weight_fn', weight_fn)
    self._feature_fn = feature_fn
    self._weight_fn = weight_fn

  def prepare(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None,
    global_state: types.Structure,
  ) -> tf.Tensor:
    """Returns sums of weighted features; see `Heuristic.prepare`."""
    features = tf.convert_to_tensor(self._feature_fn(observations))
    weights = tf.convert_to_tensor(self._weight_fn(global_state))
    if (
      features.shape.rank < 2
      or weights.shape.rank != features.shape.rank
      or weights.shape[-1] != features.shape[-1]
    ):
      raise ValueError(
        '`feature_fn` must return features of shape batch + [num_steps, '
        'num_features], and `weight_fn` weights of shape [num_particles] + '
        f'batch + [num_features]; got {features.shape.as_list()} and '
        f'{weights.shape.as_list()}.'
      )
    batch_rank = features.shape.rank - 2
    features = steps_lib.steps_first(features, batch_rank)
    if is_observed is not None:
      # A step counts if all of its components are observed.
      is_observed = tf.reduce_all(
        tf.stack(
          [
            tf.reduce_all(x, axis=range(batch_rank + 1, x.shape.rank))
            for x in tf.nest.flatten(is_observed)
          ]
        ),
        axis=0,
      )
      is_observed = steps_lib.steps_first(is_observed, batch_rank)[
        ..., tf.newaxis
      ]
    sums = sum_of_rest(features, is_observed)
    return tf.einsum('k...h,s...h->ks...', sums, weights)

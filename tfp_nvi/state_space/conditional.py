# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model whose global state is given: one for each member of the batch."""

import dataclasses

import tensorflow as tf

from tfp_nvi.internal import types
from tfp_nvi.state_space import model as model_lib

__all__ = [
  'given_model',
]


class _GivenModel(model_lib.StateSpaceModel):
  """A model that fills in its global state; see `given_model`."""

  def _distribution(self, name, values, t, u, shape):
    *local, _ = values
    values, rank = vars(self)['_global_state'], vars(self)['_batch_rank']
    theta = tf.nest.map_structure(
      lambda x: tf.broadcast_to(x, shape + x.shape[rank:]), values
    )
    return super()._distribution(name, (*local, theta), t, u, shape)


def given_model(
  model: model_lib.StateSpaceModel,
  global_state: types.Structure,
  batch_rank: int,
) -> model_lib.StateSpaceModel:
  """Returns the model without a prior, for sequences with these global states.

  Args:
    model: `StateSpaceModel` with a prior.
    global_state: Nested structure of `Tensor`s of shape `batch + event`: the
      global state of each sequence.
    batch_rank: Python `int`: the number of axes of `batch`.

  Returns:
    model: `StateSpaceModel` for sequences of that batch shape alone.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi.state_space import conditional

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.2),
  )
  given = conditional.given_model(model, tf.constant([-1.0, 1.0]), 1)
  assert given.prior is None
  ```
  """
  given = object.__new__(_GivenModel)
  fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
  for name, value in {
    **vars(model),
    **fields,
    'prior': None,
    '_global_state': global_state,
    '_batch_rank': batch_rank,
  }.items():
    object.__setattr__(given, name, value)
  return given

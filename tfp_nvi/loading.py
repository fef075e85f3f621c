# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads trained samplers that were saved as SavedModels."""

import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_nvi import saving, weighting
from tfp_nvi import state_space as state_space_lib
from tfp_nvi.internal import checks, randomness, types

__all__ = [
  'SavedSampler',
  'load',
]


class SavedSampler:
  """A sampler that was saved, which takes seeds and returns results as here.

  Attributes:
    kind: Python `str`: the class of the sampler.
    num_particles: Python `int`: particles of each call.
    version: Python `str`: the version of this library that saved it.
    model: What `tf.saved_model.load` returned.

  ```python
  import tempfile
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=2
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  with tempfile.TemporaryDirectory() as folder:
    nvi.save(sampler, folder, num_particles=50)
    saved = nvi.load(folder)
    assert saved.kind == 'NestedSampler' and saved.num_particles == 50
  ```
  """

  def __init__(self, model: Any, description: dict):
    self.model = model
    self.kind = description['kind']
    self.num_particles = description['num_particles']
    self.version = description['version']

  def __repr__(self):
    return f'<SavedSampler: {self.kind}, {self.num_particles} particles>'

  def sample(
    self,
    *elements: types.Structure,
    seed: types.Seed | None = None,
    lengths: types.TensorLike | None = None,
  ) -> Any:
    """Draws properly weighted particles.

    Args:
      *elements: What the sampler takes: nothing, an element of data, or
        sequences, and the inputs of all steps if the model has inputs.
      seed: Python `int` or stateless seed.
      lengths: int `Tensor` of shape `batch`, of a `StateSpaceSampler`: how many
        steps each sequence has.
        Default value: `None` (i.e., all).

    Returns:
      particles: `WeightedParticles`; `StateSpacePosterior` of a
        `StateSpaceSampler`; a list of `WeightedParticles`, one a level, of a
        `Chain`. Named tuples within are `dict`s.

    Raises:
      ValueError: If the elements are not of the shapes that were saved, or
        `lengths` is given for another kind.
    """
    seed = randomness.as_seed(seed)
    if lengths is None:
      fn, arguments = self.model.sample, (*elements, seed)
    elif hasattr(self.model, 'sample_padded'):
      lengths = tf.convert_to_tensor(lengths, tf.int32)
      fn, arguments = self.model.sample_padded, (*elements, lengths, seed)
    else:
      raise ValueError(
        f'`lengths` must be None for a {self.kind}; got {lengths!r}.'
      )
    try:
      found = fn(*arguments)
    except (TypeError, ValueError) as e:
      raise ValueError(
        '`elements` must be as `element_spec` said when the sampler was saved; '
        f'got shapes {[np.shape(x) for x in tf.nest.flatten(elements)]}. '
        f'TensorFlow says: {e}'
      ) from e
    return _as_result(found)


def _as_result(found):
  if 'levels' in found:
    return [_as_result(level) for level in found['levels']]
  kind = (
    state_space_lib.StateSpacePosterior
    if 'trajectories' in found
    else weighting.WeightedParticles
  )
  return kind(**{k: v for k, v in found.items() if k in kind._fields})


def load(path: str | os.PathLike) -> SavedSampler:
  """Loads a sampler that `save` has saved.

  Args:
    path: Python `str` or `os.PathLike`: the folder.

  Returns:
    sampler: `SavedSampler`.

  Raises:
    TypeError: If `path` is not a path.
    ValueError: If there is no such sampler.

  ```python
  import tempfile
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(z, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  sampler = nvi.StateSpaceSampler(model)
  with tempfile.TemporaryDirectory() as folder:
    nvi.save(sampler, folder, num_particles=50, element_spec=tf.TensorSpec([4]))
    posterior = nvi.load(folder).sample([0.1, 0.2, 0.4, 0.2], seed=1)
  assert posterior.trajectories.shape == [50, 4]
  ```
  """
  path = checks.as_folder('path', path)
  try:
    with open(os.path.join(path, saving.DESCRIPTION), encoding='utf-8') as file:
      found = json.load(file)
    description = {name: found[name] for name in saving.DESCRIBED}
  except OSError as e:
    raise ValueError(
      '`path` must be a folder that tfp_nvi.save has written; got '
      f'{path!r}, which has no {saving.DESCRIPTION!r}.'
    ) from e
  except (ValueError, TypeError, KeyError) as e:
    raise ValueError(
      '`path` must be a folder that tfp_nvi.save has written; got '
      f'{path!r}, whose {saving.DESCRIPTION!r} is damaged: {e!r}.'
    ) from e
  try:
    model = tf.saved_model.load(path)
  except (OSError, tf.errors.OpError) as e:
    raise ValueError(
      '`path` must be a folder that tfp_nvi.save has written; got '
      f'{path!r}, which TensorFlow does not load: {e}.'
    ) from e
  return SavedSampler(model, description)

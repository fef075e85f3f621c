# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fingerprints that tell whether a checkpoint belongs to a training.

There are two. Names and settings are compared as they are: those of the
objective, the optimizer, and the parts of the sampler. Differences that these
do not show, such as in the formula of a target, show in numbers: a checkpoint
contains the results of the step after it, and training that resumes from it
evaluates that step again with the restored variables. Results with the
variables of the start would not do, as those may come from other training.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import naming
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.training.steps import StepSettings

__all__ = [
  'check_probe',
  'describe',
  'describe_optimizer',
  'describe_training',
]

PROBED = ('loss', 'log_normalizer', 'log_incremental_weights')
# The same program gives the same bits; another processor rounds otherwise, and
# may resample a few particles otherwise.
_RTOL, _ATOL = 1e-4, 1e-2


def describe(sampler: Any) -> dict:
  """Names the parts of a sampler: its modules and its functions.

  Args:
    sampler: What an objective takes.

  Returns:
    description: Python `dict` of strings and lists of strings.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi.training import fingerprint

  tfd = tfp.distributions

  path = nvi.GeometricPath(tfd.Normal(0.0, 1.0), tfd.Normal(1.0, 1.0), 2)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  assert fingerprint.describe(sampler)['densities'] == 'GeometricPath'
  ```
  """
  description: dict = {'class': type(sampler).__qualname__}
  for name, value in getattr(sampler, '__dict__', {}).items():
    if isinstance(value, (list, tuple)) and any(
      isinstance(x, tf.Module) for x in value
    ):
      description[name] = [type(x).__qualname__ for x in value]
    elif isinstance(value, tf.Module):
      description[name] = type(value).__qualname__
    elif callable(value):
      description[name] = naming.describe_function(value)
  return description


def describe_optimizer(optimizer: Any) -> dict:
  """The class and the settings of an optimizer.

  Args:
    optimizer: Anything with `apply_gradients`.

  Returns:
    description: Python `dict`.

  ```python
  import tf_keras
  from tfp_nvi.training import fingerprint

  description = fingerprint.describe_optimizer(tf_keras.optimizers.Adam(0.5))
  assert description['learning_rate'] == 0.5
  ```
  """
  kind = f'{type(optimizer).__module__}.{type(optimizer).__qualname__}'
  try:
    config = dict(optimizer.get_config())
  except (AttributeError, NotImplementedError):
    return {'class': kind}
  # These depend on the machine and on the optimizers made before.
  for name in ('name', 'jit_compile'):
    config.pop(name, None)
  return {
    'class': kind,
    **{
      k: v.item() if isinstance(v, np.generic) else v for k, v in config.items()
    },
  }


def describe_training(
  settings: StepSettings, replicas: replicas_lib.Replicas | None = None
) -> dict:
  """The arguments of training that checkpoints belong to.

  Args:
    settings: `StepSettings`.
    replicas: `Replicas`, or `None` without a strategy.

  Returns:
    description: Python `dict`.

  ```python
  import tf_keras
  import tfp_nvi as nvi
  from tfp_nvi.training import fingerprint, steps

  settings = steps.StepSettings(
    make_sampler_fn=lambda element: None,
    objective=nvi.reverse_kl(),
    num_particles=10,
    optimizer=tf_keras.optimizers.Adam(0.5),
  )
  description = fingerprint.describe_training(settings)
  assert description['num_particles'] == 10
  ```
  """
  description = {
    'num_particles': settings.num_particles,
    'objective': settings.objective.description,
    'optimizer': describe_optimizer(settings.optimizer),
    'clip_factor': settings.clip_factor,
    'data': str(settings.element_spec),
  }
  if replicas is not None:
    description['num_islands'] = replicas.num_islands
  return description


def check_probe(found: dict, expected: dict, folder: str) -> None:
  """Raises an error if a step gives other values than it gave.

  Args:
    found: Python `dict` of arrays by the names of fields: of now.
    expected: Likewise, those that were saved.
    folder: Python `str`: the folder of the checkpoints.

  Raises:
    ValueError: If they differ by more than rounding.

  ```python
  import numpy as np
  from tfp_nvi.training import fingerprint

  values = {
    'loss': np.ones([1]),
    'log_normalizer': np.ones([1]),
    'log_incremental_weights': np.ones([1, 2]),
  }
  fingerprint.check_probe(values, values, 'folder')
  ```
  """
  for field in PROBED:
    if not np.allclose(
      found[field], expected[field], _RTOL, _ATOL, equal_nan=True
    ):
      raise ValueError(
        f'`checkpoint_dir` {folder!r} holds training with other arguments: '
        f'with the restored variables the {field} of the next step is '
        f'{np.mean(found[field]):.6g}, but was {np.mean(expected[field]):.6g} '
        'when they were saved. The target, a transition, or a variable that is '
        'not trained has changed. Give another folder, or the same sampler.'
      )

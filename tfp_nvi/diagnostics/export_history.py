# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The export of the history of training to ArviZ."""

from typing import Any

import numpy as np

from tfp_nvi.diagnostics import export
from tfp_nvi.training import History

__all__ = [
  'history_to_arviz',
]


def history_to_arviz(history: History, coords: dict | None = None) -> Any:
  """Exports the history of training to ArviZ.

  The group `sample_stats` has the steps as its draws, and members of the batch,
  such as restarts, as its chains. Its real numbers are in the group `posterior`
  too, which ArviZ plots: `arviz.plot_trace` shows the course of training.

  Args:
    history: `History`.
    coords: Python `dict` as in `arviz.from_dict`; `level` labels the levels,
      from 1 on.

  Returns:
    data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

  Raises:
    ImportError: If ArviZ is not installed.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(2.0, 0.5), num_densities=3
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  history = nvi.fit(
    sampler, nvi.reverse_kl(), num_particles=10, num_steps=20, seed=2
  )
  data = history.to_arviz()
  assert data.sample_stats['loss'].shape == (1, 20)
  ```
  """
  loss = np.asarray(history.loss)
  num_steps, num_chains = len(loss), int(np.prod(loss.shape[1:]))
  stats = {}
  for name in ('loss', 'log_normalizer', 'effective_sample_size'):
    x = np.asarray(getattr(history, name))
    stats[name] = x.reshape([num_steps, num_chains]).T
  levels = {}
  for name in ('log_incremental_weights', 'level_effective_sample_sizes'):
    x = np.asarray(getattr(history, name))
    levels[name] = np.moveaxis(x.reshape([num_steps, -1, num_chains]), 2, 0)
  for name in ('num_nan', 'is_skipped'):
    x = np.asarray(getattr(history, name))
    stats[name] = np.broadcast_to(x, [num_chains, num_steps])
  num_levels = levels['log_incremental_weights'].shape[2]
  return export.make_data(
    {
      'sample_stats': {**stats, **levels},
      'posterior': {
        name: x
        for name, x in {**stats, **levels}.items()
        if np.issubdtype(x.dtype, np.floating)
      },
    },
    {'level': np.arange(1, num_levels + 1), **(coords or {})},
    {name: ['level'] for name in levels},
    {
      'num_particles': history.num_particles,
      'seconds': history.seconds,
      'compile_seconds': history.compile_seconds,
    },
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, the targets, and how samplers are made."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

tfd = tfp.distributions

__all__ = [
  'INITIAL_SCALE',
  'METHODS',
  'Method',
  'TARGETS',
  'make_sampler',
]

INITIAL_SCALE = 5.0
_FLOW_SCALE = 2.0
_HIDDEN_UNITS = (50,)


class Method(NamedTuple):
  """A method that is compared.

  Fields:
    label: Python `str`: its name in tables and pictures.
    objective_fn: Python callable that makes the objective.
    resamples: Python `bool`: whether to resample before every level after the
      first.
    learns_path: Python `bool`: whether the annealing schedule is learned.
    is_flow: Python `bool`: whether transitions are planar flows, or pairs of
      Gaussian kernels.
    style: Python `dict` of properties of its lines in pictures.
  """

  label: str
  objective_fn: Callable
  resamples: bool
  learns_path: bool
  is_flow: bool
  style: dict


def _method(label, objective_fn, color, learns_path=False):
  is_flow = label.endswith('-flow')
  return Method(
    label=label,
    objective_fn=objective_fn,
    resamples=label.startswith('NVIR'),
    learns_path=learns_path,
    is_flow=is_flow,
    style={'color': color, 'linestyle': '--' if is_flow else '-'},
  )


METHODS = {
  'svi': _method('SVI', nvi.svi, '#999999'),
  'svi_flow': _method('SVI-flow', nvi.svi, '#999999'),
  'avo': _method('AVO', nvi.avo, '#e69f00'),
  'nvi': _method('NVI', nvi.reverse_kl, '#56b4e9'),
  'nvir': _method('NVIR', nvi.reverse_kl, '#0072b2'),
  'nvi_star': _method('NVI*', nvi.reverse_kl, '#cc79a7', learns_path=True),
  'nvir_star': _method('NVIR*', nvi.reverse_kl, '#d55e00', learns_path=True),
  'avo_flow': _method('AVO-flow', nvi.avo, '#e69f00'),
  'nvi_star_flow': _method(
    'NVI*-flow', nvi.reverse_kl, '#cc79a7', learns_path=True
  ),
}

TARGETS = {
  'ring_of_gaussians': nvi.targets.ring_of_gaussians,
  'grid_of_gaussians': nvi.targets.grid_of_gaussians,
  'concentric_rings': nvi.targets.concentric_rings,
}


def make_sampler(
  method: str,
  target: nvi.targets.MultimodalTarget,
  num_densities: int,
  num_restarts: int = 1,
  num_flow_layers: int = 32,
  seed=None,
) -> tuple:
  """Makes the sampler of a method, untrained, and its objective.

  Args:
    method: Python `str`: one of `METHODS`.
    target: `tfp_nvi.targets.MultimodalTarget`.
    num_densities: Python `int`, at least 2.
    num_restarts: Python `int`: the size of the batch axis.
      Default value: `1`.
    num_flow_layers: Python `int` number of planar flows for each level, if the
      method has flows.
      Default value: `32`.
    seed: Python `int` or stateless seed for the initial parameters.

  Returns:
    sampler: `NestedSampler` of batch shape `[num_restarts]`.
    objective: The objective to train it by.

  ```python
  import tfp_nvi as nvi
  from tfp_nvi.experiments import annealing

  target = nvi.targets.ring_of_gaussians()
  sampler, objective = annealing.make_sampler(
    'nvir_star', target, num_densities=3, num_restarts=2, seed=1
  )
  assert sampler.batch_shape == [2]
  ```
  """
  properties = METHODS[method]
  batch_shape = [num_restarts]
  zeros = tf.zeros([2], target.dtype)
  path = nvi.GeometricPath(
    initial=tfd.MultivariateNormalDiag(zeros, zeros + INITIAL_SCALE),
    target=target.unnormalized_log_prob,
    num_densities=num_densities,
    learnable=properties.learns_path,
    batch_shape=batch_shape,
  )
  if properties.is_flow:
    transitions = nvi.PlanarTransitions(
      path,
      num_layers=num_flow_layers,
      scale=_FLOW_SCALE,
      batch_shape=batch_shape,
      seed=seed,
    )
  else:
    transitions = nvi.GaussianTransitions(
      path,
      hidden_units=_HIDDEN_UNITS,
      batch_shape=batch_shape,
      seed=seed,
      # This is the parameterization of the paper, in the units of the states.
      scale=2.0,
    )
  sampler = nvi.NestedSampler(
    path,
    transitions,
    resample_criterion_fn=nvi.always if properties.resamples else nvi.never,
  )
  return sampler, properties.objective_fn()

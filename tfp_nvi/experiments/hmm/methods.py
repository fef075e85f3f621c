# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, and how their samplers are made."""

from collections.abc import Callable
from typing import NamedTuple

import tfp_nvi as nvi
from tfp_nvi.experiments.hmm import model as model_lib

__all__ = [
  'METHODS',
  'Method',
  'make_sampler',
]


class Method(NamedTuple):
  """A method that is compared.

  Fields:
    label: Python `str`: its name in tables and pictures.
    objective_fn: Python callable that makes the objective.
    heuristic_fn: Python callable that makes the heuristic, or `None`.
    resamples: Python `bool`: whether to resample when the effective sample size
      falls below one half.
    color: Python `str`.
  """

  label: str
  objective_fn: Callable
  heuristic_fn: Callable
  resamples: bool
  color: str


def _partial():
  return nvi.forward_kl(sides=nvi.Side.FORWARD, reparameterize=False)


def _full():
  return nvi.forward_kl(sides=nvi.Side.BOTH, reparameterize=False)


METHODS = {
  'no_heuristic': Method(
    'no heuristic', _partial, lambda: None, True, '#999999'
  ),
  'mixture_heuristic': Method(
    'mixture, by hand', _partial, model_lib.mixture_heuristic, True, '#e69f00'
  ),
  'nvi_partial': Method(
    'NVI, partial', _partial, model_lib.LearnedHeuristic, True, '#56b4e9'
  ),
  'nvi_full': Method(
    'NVI, full', _full, model_lib.LearnedHeuristic, True, '#cc79a7'
  ),
  'rws': Method('RWS', nvi.rws, lambda: None, False, '#009e73'),
  'nvi_state_aware': Method(
    'NVI, state-aware',
    _partial,
    lambda: model_lib.LearnedHeuristic(is_state_aware=True),
    True,
    '#d55e00',
  ),
  'oracle': Method(
    'oracle', _partial, model_lib.ExactHeuristic, True, '#000000'
  ),
}


def make_sampler(method: str) -> nvi.StateSpaceSampler:
  """Makes the sampler of a method, before training.

  Args:
    method: Python `str`: one of `METHODS`.

  Returns:
    sampler: `StateSpaceSampler`.

  ```python
  from tfp_nvi.experiments import hmm

  sampler = hmm.make_sampler('nvi_partial')
  _, _, x = sampler.model.simulate(num_steps=5, sample_shape=[2], seed=1)
  posterior = sampler.sample(x, num_particles=10, seed=2)
  ```
  """
  definition = METHODS[method]
  return nvi.StateSpaceSampler(
    model_lib.make_model(),
    model_lib.InitialProposal(),
    model_lib.StepProposal(),
    definition.heuristic_fn(),
    resample_criterion_fn=(
      nvi.ess_below(0.5) if definition.resamples else nvi.never
    ),
  )

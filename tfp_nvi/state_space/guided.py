# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Proposals of local states that need no network and no function of a user.

Contract: a proposal is made from the model's own distribution of the next local
state, the observation of the step, and the heuristic for the observations to
come.
"""

import abc
from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import types
from tfp_nvi.state_space import functions, gaussian, switching
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space.densities import GivenDensities, StateSpaceState
from tfp_nvi.state_space.heuristics import Heuristic

tfd = tfp.distributions

__all__ = [
  'GuidedProposal',
  'HeuristicProposal',
  'LocalProposal',
  'by_name',
]


class LocalProposal(abc.ABC):
  """A proposal that is derived from the model.

  Attributes:
    needs_observation: Python `bool`: whether a step that is not observed is
      proposed from the prior.
  """

  needs_observation = True

  @abc.abstractmethod
  def distribution(
    self,
    prior: tfd.Distribution,
    observation_fn: Callable,
    x: types.Structure,
    given: GivenDensities | None,
    step: int | tf.Tensor,
    previous: StateSpaceState,
  ) -> tfd.Distribution:
    """Returns the proposal of a local state.

    Args:
      prior: `tfd.Distribution`: the model's transition, given the state before.
      observation_fn: Python callable from local and global states and a shape,
        to the distribution of the observation.
      x: Nested structure of `Tensor`s of shape `batch + event`.
      given: `GivenDensities` of the run, or `None`.
      step: Python `int` or scalar int `Tensor`.
      previous: `StateSpaceState` before the step.

    Returns:
      proposal: `tfd.Distribution` over the local state.
    """


class HeuristicProposal(LocalProposal):
  """The proposal that a heuristic makes."""

  needs_observation = False

  def distribution(
    self,
    prior: tfd.Distribution,
    observation_fn: Callable,
    x: types.Structure,
    given: GivenDensities | None,
    step: int | tf.Tensor,
    previous: StateSpaceState,
  ) -> tfd.Distribution:
    """Returns the proposal by the row of the level before."""
    del observation_fn, x
    if given is None:
      raise ValueError(
        "`proposal_fn` 'heuristic' is made for a run; it has none yet."
      )
    proposal = given.proposal(step, previous.root, prior)
    if proposal is None:
      raise ValueError(
        "`heuristic` must have a `proposal` if `proposal_fn` is 'heuristic', "
        'as a GaussianHeuristic has; it returned None.'
      )
    return proposal


class GuidedProposal(LocalProposal):
  """The transition times the likelihood, or a Gaussian approximation.

  The proposal is exact for categorical states, and where transitions are normal
  and observations linear and normal. They may also be so only given a regime,
  which is a part of the local state and is proposed with it. For other
  observations the log density is expanded at the mean of the transition, which
  is a step of Newton's method. For normal observations with a nonlinear mean,
  this is the update of the extended Kalman filter.
  """

  def __init__(self, model: model_lib.StateSpaceModel):
    if not model.can_be_guided:
      raise ValueError(
        "`proposal_fn` can be 'guided' if local states are of a tfd.Normal, a "
        'multivariate normal or a tfd.Categorical distribution, or a joint '
        'distribution of a tfd.Categorical and a normal one, in a list in this '
        'order; they are '
        f'{functions.describe(model.example.local_like[0])} of shape '
        f'{functions.describe(model.example.local_like[1])}.'
      )
    self._model = model

  def distribution(
    self,
    prior: tfd.Distribution,
    observation_fn: Callable,
    x: types.Structure,
    given: GivenDensities | None,
    step: int | tf.Tensor,
    previous: StateSpaceState,
  ) -> tfd.Distribution:
    """Returns the proposal; see `LocalProposal.distribution`."""
    del given, step
    shape = tf.TensorShape(previous.root.shape)
    theta, example = previous.global_state, self._model.example
    if example.regimes is not None:
      return switching.guide(
        example.regimes, prior, observation_fn, x, theta, shape
      )
    if self._model.num_states is not None:
      likelihood = functions.over_states(
        lambda z, theta, shape: observation_fn(z, theta, shape).log_prob(x),
        self._model.num_states,
        theta,
        shape,
        example.local_like[0],
      )
      return tfd.Categorical(
        logits=functions.log_probs(prior) + likelihood, dtype=prior.dtype
      )
    rank = example.local_like[1].rank
    mean, factor = gaussian.moments(prior, shape)
    likelihood = gaussian.expand_likelihood(
      lambda z: observation_fn(gaussian.as_event(z, rank), theta, shape),
      x,
      mean,
      shape,
    )
    return gaussian.normal(
      *gaussian.condition(mean, factor, likelihood, mean), rank
    )


def by_name(
  name: str, model: model_lib.StateSpaceModel, heuristic: Heuristic | None
) -> LocalProposal | None:
  """Returns the proposal that `proposal_fn` of a sampler names.

  Args:
    name: Python `str`: `'prior'`, `'guided'` or `'heuristic'`.
    model: `StateSpaceModel`.
    heuristic: `Heuristic` of the sampler, or `None`.

  Returns:
    proposal: `LocalProposal`, or `None` for the prior.

  Raises:
    ValueError: If there is no such proposal for the model or the heuristic.
  """
  if name == 'prior':
    return None
  if name == 'guided':
    return GuidedProposal(model)
  if name != 'heuristic':
    raise ValueError(
      "`proposal_fn` must be a function, 'prior', 'guided' or 'heuristic'; got "
      f'{name!r}.'
    )
  if heuristic is None:
    raise ValueError(
      "`heuristic` must be given if `proposal_fn` is 'heuristic'; got None."
    )
  return HeuristicProposal()

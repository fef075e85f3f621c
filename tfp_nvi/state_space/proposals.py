# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Initial proposals of state-space samplers: the global state, or nothing."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import proposals
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import randomness, types
from tfp_nvi.state_space.densities import StateSpaceDensities
from tfp_nvi.state_space.global_space import GlobalSpace

tfd = tfp.distributions

__all__ = [
  'GlobalProposal',
  'NoGlobalProposal',
  'refine',
]


class GlobalProposal(proposals.Proposal):
  """An initial proposal that is a distribution over the global state.

  The distribution is made anew for each run, as it may depend on variables.
  """

  def __init__(self, distribution_fn: Callable, densities: StateSpaceDensities):
    super().__init__(name='global_proposal')
    self._distribution_fn = distribution_fn
    self._prior: Any = densities.model.prior
    self.batch_shape = densities_lib.static_batch_shape(distribution_fn())

  def draw(
    self, num_particles: int, batch_shape: list, seed: tf.Tensor
  ) -> types.Structure:
    """Draws global states."""
    return densities_lib.draw(
      self._distribution_fn(), num_particles, batch_shape, seed
    )

  def propose(
    self,
    num_particles: int,
    batch_shape: list,
    seed: tf.Tensor,
    densities: Any,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Proposes states of level 0."""
    distribution = self._distribution_fn()
    shape = [num_particles] + batch_shape
    draw = transitions_lib.as_draw(
      distribution,
      densities_lib.draw(distribution, num_particles, batch_shape, seed),
      lambda z: tf.broadcast_to(distribution.log_prob(z), shape),
      reparameterize,
    )
    log_prior = tf.broadcast_to(self._prior.log_prob(draw.state), shape)
    return draw._replace(
      state=densities.initial_state(draw.state, shape),
      log_reverse=log_prior,
      record=seed,
    )


def refine(
  distribution: tfd.Distribution,
  space: GlobalSpace,
  densities: StateSpaceDensities,
  num_particles: int,
  count: int,
  seed: types.StatelessSeed,
) -> tfd.Distribution:
  """Fits proposals of the global state to the sequences, one after the other.

  Each one has the mean and the covariance of draws from the one before,
  weighted by the prior times the heuristic factor before the first step. As the
  draws are not used again, particles that start from the last proposal are
  properly weighted.

  Args:
    distribution: `tfd.Distribution`: the first proposal.
    space: `GlobalSpace`.
    densities: `StateSpaceDensities`, with a heuristic.
    num_particles: Python `int`: the number of draws to fit each one to.
    count: Python `int`: the number of proposals to fit.
    seed: Stateless seed.

  Returns:
    distribution: `tfd.Distribution`.

  #### References

  [1]: J.-M. Cornuet, J.-M. Marin, A. Mira, C. P. Robert. Adaptive multiple
       importance sampling. Scandinavian Journal of Statistics, 39(4), 2012.
  """
  prior = densities.model.prior
  batch_shape = densities.batch_shape.as_list()
  shape = [num_particles] + batch_shape
  first_seed, seed = tf.unstack(randomness.split_seed(seed, 2))
  # The first proposal is approximated by one of the family of the later ones.
  theta = densities_lib.draw(
    distribution, num_particles, batch_shape, first_seed
  )
  loc, scale_tril = space.matched(theta, tf.zeros(shape, space.dtype))

  def fit(i, loc, scale_tril):
    distribution = space.distribution(loc, scale_tril)
    theta = densities_lib.draw(
      distribution, num_particles, batch_shape, randomness.fold_in(seed, i)
    )
    theta = tf.nest.map_structure(tf.identity, theta)
    rows = densities.prepare(theta, num_particles)
    row = tf.nest.map_structure(lambda x: x[0], rows)
    log_weights = (
      prior.log_prob(theta)
      + densities.log_factor(row, theta, None, shape)
      - distribution.log_prob(theta)
    )
    return i + 1, *space.matched(theta, tf.broadcast_to(log_weights, shape))

  _, loc, scale_tril = tf.while_loop(
    lambda i, *_: i < count,
    fit,
    (tf.constant(0), loc, scale_tril),
    parallel_iterations=1,
    maximum_iterations=count,
  )
  return space.distribution(loc, scale_tril)


class NoGlobalProposal(proposals.Proposal):
  """The initial proposal of a model without a global state."""

  batch_shape = tf.TensorShape([])

  def draw(
    self, num_particles: int, batch_shape: list, seed: tf.Tensor
  ) -> tuple:
    """Draws nothing."""
    del num_particles, batch_shape, seed
    return ()

  def propose(
    self,
    num_particles: int,
    batch_shape: list,
    seed: tf.Tensor,
    densities: Any,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Proposes states of level 0."""
    del reparameterize
    shape = [num_particles] + batch_shape
    return transitions_lib.Move(
      state=densities.initial_state((), shape),
      log_forward=tf.zeros(shape, densities.float_dtype),
      record=seed,
    )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Initial proposals: what a run of a sampler starts from.

Contract: an initial proposal returns a `Move` to states of the first level,
such that `log gamma_0(z) + log r - log q` is the logarithm of a weight with
which the states are properly weighted for `gamma_0`. A distribution over the
space of the densities is such a proposal, and so is another sampler.
"""

import abc
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import resampling
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import checks, randomness, types

tfd = tfp.distributions

__all__ = [
  'DistributionProposal',
  'InnerRuns',
  'NestedProposal',
  'ParticleSampler',
  'Proposal',
]


class Proposal(tf.Module, metaclass=abc.ABCMeta):
  """Base class of initial proposals; see the module's contract.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi import proposals
  from tfp_nvi.internal import randomness

  tfd = tfp.distributions


  class FromTheOrigin(proposals.Proposal):
    def propose(
      self, num_particles, batch_shape, seed, densities, reparameterize=True
    ):
      state = randomness.normal([num_particles] + batch_shape, seed)
      log_prob = tfd.Normal(0.0, 1.0).log_prob(state)
      return nvi.Move(
        state=state,
        log_forward=log_prob,
        log_forward_not_reparameterized=log_prob,
      )


  path = nvi.GeometricPath(
    tfd.Normal(0.0, 2.0), tfd.Normal(1.0, 1.0), num_densities=2
  )
  sampler = nvi.NestedSampler(
    path, nvi.GaussianTransitions(path, seed=1), FromTheOrigin()
  )
  particles = sampler.sample(100, seed=2)
  ```
  """

  batch_shape = tf.TensorShape([])

  @abc.abstractmethod
  def propose(
    self,
    num_particles: int,
    batch_shape: list,
    seed: tf.Tensor,
    densities: densities_lib.Densities,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Proposes states of the first level.

    Args:
      num_particles: Python `int`.
      batch_shape: List of Python `int`s.
      seed: Stateless seed.
      densities: `Densities` that the states belong to.
      reparameterize: Python `bool`: whether states are to be differentiable
        where they can be.

    Returns:
      move: `Move` to states of shape
        `[num_particles] + batch_shape + event`.
    """

  def draw(
    self, num_particles: int, batch_shape: list, seed: tf.Tensor
  ) -> types.Structure | None:
    """Draws points of the densities' space, to check the densities with.

    Args:
      num_particles: Python `int`.
      batch_shape: List of Python `int`s.
      seed: Stateless seed.

    Returns:
      values: Nested structure of `Tensor`s of shape
        `[num_particles] + batch_shape + event`, or `None` if there is nothing
        to check.
    """
    del num_particles, batch_shape, seed
    return None


class DistributionProposal(Proposal):
  """An initial proposal that is a distribution over the densities' space.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi import proposals

  proposal = proposals.DistributionProposal(tfp.distributions.Normal(0.0, 1.0))
  assert proposal.batch_shape == []
  ```
  """

  def __init__(
    self, distribution: tfd.Distribution, name: str = 'distribution_proposal'
  ):
    """Initializes the proposal.

    Args:
      distribution: `tfd.Distribution`.
      name: Python `str` name of this module.
    """
    super().__init__(name=name)
    self.distribution = distribution
    self.batch_shape = densities_lib.static_batch_shape(distribution)

  def draw(
    self, num_particles: int, batch_shape: list, seed: tf.Tensor
  ) -> types.Structure:
    """Draws points of the densities' space; see `Proposal.draw`."""
    return densities_lib.draw(
      self.distribution, num_particles, batch_shape, seed
    )

  def propose(
    self,
    num_particles: int,
    batch_shape: list,
    seed: tf.Tensor,
    densities: densities_lib.Densities,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Proposes states of the first level; see `Proposal.propose`."""
    # Bijectors remember the values that they made; a copy is none of these.
    value = tf.nest.map_structure(
      tf.identity, self.draw(num_particles, batch_shape, seed)
    )

    def log_prob_fn(z):
      return self.distribution.log_prob(
        densities.forward(z)
      ) + densities.log_det_jacobian(z)

    return transitions_lib.as_draw(
      self.distribution,
      densities.inverse(value),
      log_prob_fn,
      reparameterize,
    )


class ParticleSampler(tf.Module, metaclass=abc.ABCMeta):
  """Base class of samplers that return properly weighted particles.

  A `NestedSampler` is one; `NestedProposal` takes any.
  """

  densities: densities_lib.Densities
  batch_shape: tf.TensorShape

  @abc.abstractmethod
  def run(
    self, num_particles: int, seed: tf.Tensor, batch_shape: list | None = None
  ) -> Any:
    """Runs the sampler once.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.
      batch_shape: List of Python `int`s, to which the sampler's batch shape
        broadcasts, or `None` for the sampler's batch shape.

    Returns:
      run: A tuple whose field `particles` has the `Particles` of the last
        level, and whose method `num_nan` returns how many log densities were
        NaN or +inf.
    """

  def describe_nan(self, num_particles: int, seed: types.Seed) -> str | None:
    """Finds a state at which a log density is NaN or +inf.

    Args:
      num_particles: Python `int`.
      seed: Python `int` or stateless seed of the run to look into.

    Returns:
      description: Python `str` that names the density or the part of it, and
        the state; by default `None`, for samplers that cannot say.
    """
    del num_particles, seed
    return None


class InnerRuns(NamedTuple):
  """Runs of an inner sampler, one for each outer particle.

  Fields:
    value: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`: one inner particle of each run, taken
      by its weight, in the space that the inner densities are written in.
    log_prob: float `Tensor` of shape `[num_particles] + batch`: the log of the
      last inner density there, not normalized.
    log_normalizer: float `Tensor` of that shape: the estimate of each run.
    num_nan: Scalar int32 `Tensor`: NaN log densities in all runs.
  """

  value: Any
  log_prob: tf.Tensor
  log_normalizer: tf.Tensor
  num_nan: tf.Tensor


class NestedProposal(Proposal):
  """A nested sampler as the initial proposal of another one.

  For each particle of the outer sampler the inner one is run with particles of
  its own; one of these is taken by its weight, and the inner estimate of the
  normalizer becomes its weight. This keeps particles properly weighted.

  #### References

  [1]: C. A. Naesseth, F. Lindsten, T. B. Schon. Nested sequential Monte Carlo
       methods. ICML, 2015. https://arxiv.org/abs/1502.02536

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  near, far = tfd.Normal(0.0, 1.0), tfd.Normal(4.0, 1.0)
  path = nvi.GeometricPath(tfd.Normal(0.0, 3.0), near, num_densities=2)
  inner = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  path = nvi.GeometricPath(near, far, num_densities=3)
  outer = nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, seed=2),
    initial_proposal=nvi.NestedProposal(inner, num_particles=4),
  )
  particles = outer.sample(100, seed=3)
  ```
  """

  def __init__(
    self,
    sampler: ParticleSampler,
    num_particles: int,
    name: str = 'nested_proposal',
  ):
    """Initializes the proposal.

    Args:
      sampler: `NestedSampler`.
      num_particles: Python `int` number of inner particles.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `sampler` is not a `NestedSampler`, or `num_particles` not a
        Python `int`.
      ValueError: If `num_particles` is not positive.
    """
    super().__init__(name=name)
    checks.check_instance(
      'sampler', sampler, ParticleSampler, 'a NestedSampler'
    )
    self._num_particles = checks.as_count('num_particles', num_particles)
    self._sampler = sampler
    self.batch_shape = sampler.batch_shape

  def run_inner(
    self, num_particles: int, batch_shape: list, seed: tf.Tensor
  ) -> InnerRuns:
    """Runs the inner sampler with the outer particles as batch members.

    Args:
      num_particles: Python `int`: outer particles.
      batch_shape: List of Python `int`s.
      seed: Stateless seed.

    Returns:
      runs: `InnerRuns`.
    """
    run_seed, pick_seed = tf.unstack(randomness.split_seed(seed, 2))
    run = self._sampler.run(
      self._num_particles, run_seed, [num_particles] + batch_shape
    )
    particles = run.particles
    (state, terms), log_normalizer = resampling.resample(
      (particles.state, particles.terms),
      particles.log_weights,
      resampling.resample_systematic,
      pick_seed,
      num_draws=1,
    )
    state, terms = tf.nest.map_structure(lambda x: x[0], (state, terms))
    inner = self._sampler.densities
    log_prob = inner.log_prob(inner.num_densities - 1, terms)
    return InnerRuns(
      inner.forward(state),
      log_prob - inner.log_det_jacobian(state),
      log_normalizer[0],
      run.num_nan(),
    )

  def draw(
    self, num_particles: int, batch_shape: list, seed: tf.Tensor
  ) -> types.Structure:
    """Draws points of the densities' space; see `Proposal.draw`."""
    return self.run_inner(num_particles, batch_shape, seed).value

  def propose(
    self,
    num_particles: int,
    batch_shape: list,
    seed: tf.Tensor,
    densities: densities_lib.Densities,
    reparameterize: bool = True,
  ) -> transitions_lib.Move:
    """Proposes states of the first level; see `Proposal.propose`."""
    del reparameterize
    runs = self.run_inner(num_particles, batch_shape, seed)
    state = densities.inverse(runs.value)
    log_forward = (
      runs.log_prob + densities.log_det_jacobian(state) - runs.log_normalizer
    )
    # A particle without weight must not become one of undefined weight.
    log_forward = tf.where(
      tf.equal(runs.log_normalizer, -float('inf')),
      tf.constant(float('inf'), log_forward.dtype),
      log_forward,
    )
    state, log_forward = tf.nest.map_structure(
      tf.stop_gradient, (state, log_forward)
    )
    return transitions_lib.Move(
      state=state, log_forward=log_forward, num_nan=runs.num_nan
    )

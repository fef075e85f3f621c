# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The learned reference, as a distribution and as a sampler to use again.

The reference that pilots have fitted is a distribution over the user's space.
Particles drawn from it and weighted for the target are properly weighted with a
single evaluation of the target each, where a run of a pilot's schedule takes
ten or more. Where that alone leaves few particles effective, levels with
Langevin kernels stand in between.
"""

import typing

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities, transitions
from tfp_nvi.internal import precision, randomness, types
from tfp_nvi.posterior import diagnosis
from tfp_nvi.posterior import mixture as mixture_lib
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib
from tfp_nvi.sampler import NestedSampler

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'Learned',
  'learn',
  'reference_distribution',
]

# Particles of the run that a sampler is judged by.
_NUM_TRIED = 4_000
# The share of particles that is to be effective for no more levels to be tried.
_LEAST_SHARE = 0.1
# Densities of the samplers to choose from, both ends included.
_NUM_DENSITIES = (2, 3, 5)


class Learned(typing.NamedTuple):
  """A sampler, and how it was chosen.

  Fields:
    sampler: `NestedSampler` over the user's space.
    evaluations_per_particle: Python `int`: evaluations of the target, with or
      without its gradient.
    effective_share: Python `float`: of the particles of a run, judged by its
      effective sample size.
    pareto_k: Python `float`: of the weights of that run, `-inf` where none of
      them is large.
  """

  sampler: NestedSampler
  evaluations_per_particle: int
  effective_share: float
  pareto_k: float


class _ReferenceBijector(tfb.Bijector):
  """From the reference's density to unconstrained vectors."""

  def __init__(self, space, reference):
    super().__init__(
      forward_min_event_ndims=1,
      dtype=space.dtype,
      parameters={},
      name='reference_bijector',
    )
    self._space = space
    self._reference = reference

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    return {}

  def _map(self, u):
    """Values and log determinants, with particles in one axis."""
    y, log_det = reference_lib.forward(
      self._reference, tf.reshape(u, [-1, self._space.num_values])
    )
    x, more = self._space.unconstrained(y)
    return tf.reshape(x, u.shape), tf.reshape(log_det + more, u.shape[:-1])

  def _forward(self, u):
    return self._map(u)[0]

  def _forward_log_det_jacobian(self, u):
    return self._map(u)[1]

  def _inverse(self, x):
    flat = tf.reshape(x, [-1, self._space.num_values])
    u = reference_lib.inverse(self._reference, self._space.standardized(flat))
    return tf.reshape(u, x.shape)


def reference_distribution(
  space: space_lib.VectorSpace,
  reference: reference_lib.Reference | mixture_lib.Mixture,
) -> tfd.Distribution:
  """The reference as a distribution over the user's space.

  Args:
    space: `VectorSpace`.
    reference: `Reference` or `Mixture`.

  Returns:
    distribution: `tfd.TransformedDistribution` of a standard normal density, or
      of a mixture, whose `bijector` maps that to the user's space.
  """
  size = space.num_values
  base = (
    mixture_lib.as_distribution(reference)
    if isinstance(reference, mixture_lib.Mixture)
    else tfd.MultivariateNormalDiag(
      tf.zeros([size], space.dtype), tf.ones([size], space.dtype)
    )
  )
  return tfd.TransformedDistribution(
    base,
    tfb.Chain(
      [space.state_map.value_bijector(), _ReferenceBijector(space, reference)]
    ),
    name='reference',
  )


def _make_sampler(space, reference, num_densities):
  """A sampler from the reference to the target."""
  initial = reference_distribution(space, reference)
  path = densities.GeometricPath(
    initial,
    space.target,
    num_densities=num_densities,
    event_space_bijector=initial.bijector,
  )
  if num_densities == 2:
    # Nothing moves: importance sampling from the reference.
    moves: typing.Any = [transitions.BijectorTransition(tfb.Identity())]
  else:
    moves = transitions.LangevinTransitions(path)
  return NestedSampler(path, moves)


def learn(
  space: space_lib.VectorSpace,
  reference: reference_lib.Reference | mixture_lib.Mixture,
  jit_compile: bool,
  seed: types.StatelessSeed,
) -> Learned:
  """Makes a sampler from the reference to the target.

  Importance sampling from the reference, if enough of its particles are
  effective; otherwise the one with the fewest evaluations for an effective
  particle, of samplers with more and more levels.

  Args:
    space: `VectorSpace`.
    reference: `Reference` or `Mixture` that was fitted to particles.
    jit_compile: Python `bool`.
    seed: Stateless seed.

  Returns:
    learned: `Learned`.
  """
  with precision.full_products():
    return _try_levels(space, reference, jit_compile, seed)


def _try_levels(space, reference, jit_compile, seed):
  tried: list = []
  for num_densities in _NUM_DENSITIES:
    sampler = _make_sampler(space, reference, num_densities)
    particles = sampler.sample(
      _NUM_TRIED,
      seed=randomness.fold_in(seed, num_densities),
      jit_compile=jit_compile,
    )
    share = float(particles.effective_sample_size) / _NUM_TRIED
    tried.append(
      Learned(
        sampler,
        # The target at the end of each move, and its gradient at both ends.
        1 if num_densities == 2 else 1 + 3 * (num_densities - 1),
        share,
        diagnosis.tail_k(particles.log_weights.numpy()),
      )
    )
    if share > _LEAST_SHARE and tried[-1].pareto_k < diagnosis.MOST_PARETO_K:
      break
  return max(tried, key=_score)


def _score(learned):
  """Whether the weights are reliable, and effective particles an evaluation."""
  return (
    learned.pareto_k < diagnosis.MOST_PARETO_K,
    learned.effective_share / learned.evaluations_per_particle,
  )

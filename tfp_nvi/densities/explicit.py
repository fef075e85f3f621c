# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A list of densities that the user writes down."""

import collections.abc

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.densities.user import UserDensities
from tfp_nvi.internal import checks, compatibility, types

tfb = tfp.bijectors

__all__ = [
  'ExplicitDensities',
]


class ExplicitDensities(UserDensities):
  """An explicit list of densities over one space.

  The densities are sampled as they are. Where one of them before the last is
  zero, a reverse kernel must not have mass, or that mass is lost from the
  normalizing constant: MCMC kernels, and bijectors that map the support of each
  density onto that of the next, keep to this, Gaussian kernels do not. The
  attribute `zero_levels` has the levels where zeros were found.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  densities = nvi.ExplicitDensities(
    [tfd.Normal(0.0, scale) for scale in (4.0, 2.0, 1.0)]
  )
  terms = densities.evaluate(1, tf.zeros([5]))
  assert densities.log_prob(1, terms).shape == [5]
  ```
  """

  _covers_target = False

  def __init__(
    self,
    densities: collections.abc.Iterable,
    event_space_bijector: tfb.Bijector | types.Structure | None = None,
    name: str = 'explicit_densities',
  ):
    """Initializes the sequence.

    Args:
      densities: List of at least two densities, each of a kind that
        `GeometricPath` takes.
      event_space_bijector: `tfb.Bijector` from the real space to the support of
        the densities, or nested structure of these, one for each part of a
        state.
        Default value: `None` (i.e., that of the last one that has one).
      name: Python `str` name of this module.

    Raises:
      TypeError: If an element is not a density, or `densities` is not a list.
      ValueError: If there are fewer than two, they are not over the same space,
        batch shapes do not broadcast, or one does not return one log density
        for each particle and batch member.
    """
    densities = checks.as_list('densities', densities, 'densities', minimum=2)
    super().__init__(
      [(f'densities[{i}]', density) for i, density in enumerate(densities)],
      event_space_bijector,
      (),
      name,
    )

  @property
  def num_densities(self) -> int:
    """Python `int`: the number of densities."""
    return len(self._densities)

  @compatibility.with_maps_inlined
  def evaluate(self, level: int, state: types.Structure) -> tuple:
    """Log density of a level.

    Args:
      level: Python `int`.
      state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`.

    Returns:
      terms: Tuple of one float `Tensor` of shape `[num_particles] + batch`.
    """
    log_prob = self._log_prob_fns[level](self.forward(state))
    return (log_prob + self.log_det_jacobian(state),)

  def log_prob(self, level: int, terms: tuple) -> tf.Tensor:
    """Log density of the level that the terms were evaluated for.

    Args:
      level: Not used.
      terms: Tuple that `evaluate` returned.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """
    del level
    return terms[0]

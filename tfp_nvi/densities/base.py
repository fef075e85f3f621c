# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The base class of sequences of intermediate densities.

Contract: a sequence has `num_densities` unnormalized densities
`gamma_0, ..., gamma_{K-1}` over one real space. A sampler calls `evaluate` once
for each particle and level and keeps the terms, from which `log_prob` finds
the log density. `level` is a Python `int`; a scalar int `Tensor` inside of a
loop over levels, where `is_rollable`; or a Python `range` for several levels at
once, where states have shape `[num_particles, num_levels] + batch + event`. A
log density is a number or `-inf`; a sampler treats NaN as zero density. A new
sequence is a subclass that gives `num_densities`, `event_shape`, `dtype`,
`evaluate` and `log_prob`; everything else has a default.
"""

import abc
import typing

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.densities import kinds
from tfp_nvi.internal import checks, reductions, types

if typing.TYPE_CHECKING:
  from tfp_nvi import transitions

tfd = tfp.distributions

__all__ = [
  'ZERO_LOG_DENSITY',
  'Densities',
  'attach_gradient',
  'check_densities',
  'evaluate_with_gradient',
  'floating_parts',
  'replace_infinite',
]

# A log density below this is taken for a penalty that stands for zero. Those of
# states that a run comes to otherwise are larger by orders of magnitude.
ZERO_LOG_DENSITY = -1e9


class Densities(tf.Module, abc.ABC):
  """A sequence of unnormalized densities over one real space.

  A subclass gives the three properties `num_densities`, `event_shape` and
  `dtype`, as attributes of the class or as properties, and the two methods
  `evaluate` and `log_prob`. It may set these attributes.

  Attributes:
    is_rollable: Python `bool`: whether `level` may be a `Tensor`, so that the
      levels can be a loop.
      Default value: `False`.
    is_discrete: Python `bool`: whether a part of the space is discrete,
      whatever its dtype.
      Default value: `False`.
    has_variables: Python `bool`: whether terms may depend on variables. Where
      they do not, training does not evaluate a state again.
      Default value: `True`.
    initial: The first density as a `tfd.Distribution`, if it can be drawn from.
      Default value: `None`.
    support_kinds: Tuple with the kind of each part of the space,
      `'continuous'`, `'discrete'`, or `None` if that is not known, in the order
      of `tf.nest.flatten`.
      Default value: `None` (i.e., no kind is known).
    zero_levels: Tuple of Python `int`s: the levels before the last one whose
      density is known to be zero somewhere in the real space. A reverse kernel
      that has mass there, as a Gaussian kernel does, loses it; MCMC kernels and
      bijectors do not.
      Default value: `()`.
    has_zeros: Python `bool`: whether a density is known to be zero at some
      draws of the first one. It has jumps then, which gradients that pass
      through samples do not see.
      Default value: `False`.
    probe_state: Nested structure of `Tensor`s: perturbed draws of the first
      density, at which densities are searched for zeros.
      Default value: `None`.
    prepared: Nested structure of `Tensor`s, computed before the levels, through
      which the densities depend on variables.
      Default value: `()`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions


  class ShrinkingNormals(nvi.Densities):
    num_densities = 3
    event_shape = tf.TensorShape([])
    dtype = tf.float32
    initial = tfd.Normal(0.0, 1.0)

    def evaluate(self, level, state):
      return (-0.5 * state**2,)

    def log_prob(self, level, terms):
      return terms[0] * 4.0**level


  densities = ShrinkingNormals()
  sampler = nvi.NestedSampler(
    densities, nvi.GaussianTransitions(densities, seed=1)
  )
  particles = sampler.sample(100, seed=2)
  ```
  """

  is_rollable: bool = False
  is_discrete: bool = False
  has_variables: bool = True
  initial: typing.Any = None
  support_kinds: tuple[str | None, ...] | None = None
  zero_levels: tuple[int, ...] = ()
  has_zeros: bool = False
  probe_state: types.Structure = None
  prepared: types.Structure = ()

  @property
  @abc.abstractmethod
  def num_densities(self) -> int:
    """Python `int`, at least 2: the number of densities."""

  @property
  @abc.abstractmethod
  def event_shape(self) -> types.Structure:
    """Nested structure of the event shapes of a state, in the real space."""

  @property
  @abc.abstractmethod
  def dtype(self) -> types.Structure:
    """Nested structure of the dtypes of a state."""

  @abc.abstractmethod
  def evaluate(self, level: typing.Any, state: types.Structure) -> tuple:
    """Computes the terms of each particle that `log_prob` needs.

    A sampler computes them once for each particle and level.

    Args:
      level: Python `int`, scalar int `Tensor`, or Python `range`.
      state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`.

    Returns:
      terms: Tuple of `Tensor`s of shape `[num_particles] + batch`.
    """

  @abc.abstractmethod
  def log_prob(self, level: typing.Any, terms: tuple) -> tf.Tensor:
    """Log density of a level, given the terms.

    Args:
      level: As in `evaluate`.
      terms: Tuple that `evaluate` returned, for this level or, where
        `is_rollable`, for the one before or after it.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """

  @property
  def batch_shape(self) -> tf.TensorShape:
    """Batch shape of the densities and their parameters."""
    return tf.TensorShape([])

  @property
  def float_dtype(self) -> tf.DType:
    """Dtype of log densities: that of the first floating point part."""
    dtypes = map(tf.as_dtype, tf.nest.flatten(self.dtype))
    return next((dtype for dtype in dtypes if dtype.is_floating), tf.float32)

  def forward(self, state: types.Structure) -> types.Structure:
    """Maps states to the space that the user's densities are written in."""
    return state

  def inverse(self, value: types.Structure) -> types.Structure:
    """Maps points of the user's space to states."""
    return value

  def log_det_jacobian(self, state: types.Structure) -> tf.Tensor | float:
    """Log density that `forward` adds to that of the user's space."""
    del state
    return 0.0

  def evaluate_fixed(
    self, level: typing.Any, state: types.Structure, terms: tuple
  ) -> tuple:
    """The terms at a state that is held fixed, for gradients by parameters.

    Args:
      level: As in `evaluate`.
      state: As in `evaluate`.
      terms: Tuple that `evaluate` returned for this state.

    Returns:
      terms: Equal to `terms`; differentiable in the densities' variables alone.
        Where there are none, nothing is evaluated again.
    """
    if not self.has_variables:
      return tf.nest.map_structure(tf.stop_gradient, terms)
    return self.evaluate(level, tf.nest.map_structure(tf.stop_gradient, state))

  def check(
    self,
    values: types.Structure,
    name: str | None = None,
    batch_shape: tf.TensorShape | None = None,
  ) -> None:
    """Raises an error if draws of an initial proposal do not fit.

    Args:
      values: Nested structure of `Tensor`s: points of the user's space, of
        shape `[num_particles] + batch + event`.
      name: Python `str` name of the argument that they were drawn from.
        Default value: `None` (i.e., that of the first density).
      batch_shape: `TensorShape` that they should have.
        Default value: `None` (i.e., that of the densities).
    """

  def check_proposal(self, name: str, distribution: tfd.Distribution) -> None:
    """Raises an error if a distribution cannot be the initial proposal.

    Args:
      name: Python `str` name of the argument.
      distribution: `tfd.Distribution` over the user's space.

    Raises:
      ValueError: If a part is discrete where the densities' is continuous, or
        the other way round.
    """
    kinds.check_support(name, distribution, self)

  def describe_nan(self, state: types.Structure) -> str | None:
    """Says where a log density is NaN, for an error or a warning.

    Args:
      state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`, in the real space.

    Returns:
      message: Python `str` that names the density, and the part of it if it has
        parts, and one point of the user's space where it is NaN; `None` if
        there is none among the states, or where these densities cannot tell.
    """
    del state
    return None

  def given(self, move: 'transitions.Move', cut: bool) -> 'Densities':
    """The densities of a run, which may depend on its initial move.

    Args:
      move: `Move` of the initial proposal.
      cut: Python `bool`: whether gradients stop between levels.

    Returns:
      densities: `Densities`.
    """
    del move, cut
    return self

  def with_prepared(self, copies: types.Structure) -> 'Densities':
    """The same densities with copies of what was prepared.

    Args:
      copies: Nested structure of `Tensor`s like `prepared`.

    Returns:
      densities: `Densities`.
    """
    del copies
    return self

  def is_active(self, level: typing.Any) -> tf.Tensor | None:
    """Whether a level differs from the one before it, for each batch member.

    Args:
      level: As in `evaluate`.

    Returns:
      is_active: bool `Tensor` of shape `batch`, or `None` if all differ.
    """
    del level
    return None


def check_densities(densities: object) -> None:
  """Raises an error if an argument is not a sequence of densities.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  normal = tfp.distributions.Normal(0.0, 1.0)
  nvi.densities.check_densities(nvi.GeometricPath(normal, normal, 2))
  ```

  Args:
    densities: The argument.

  Raises:
    TypeError: If it is not.
  """
  checks.check_instance(
    'densities',
    densities,
    Densities,
    'a sequence of densities, such as a GeometricPath or ExplicitDensities',
  )


def floating_parts(state: types.Structure) -> list:
  """The floating point parts of a state, by which there can be derivatives.

  Args:
    state: Nested structure of `Tensor`s.

  Returns:
    parts: List of `Tensor`s.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  state = {'count': tf.constant([1, 2]), 'x': tf.constant([0.5, 1.0])}
  assert len(nvi.densities.floating_parts(state)) == 1
  ```
  """
  return [x for x in tf.nest.flatten(state) if x.dtype.is_floating]


def evaluate_with_gradient(
  densities: Densities, level: typing.Any, state: types.Structure
) -> tuple:
  """Evaluates a density together with its gradient in the state.

  Args:
    densities: `Densities`.
    level: As in `Densities.evaluate`.
    state: As in `Densities.evaluate`.

  Returns:
    terms: Tuple that `evaluate` returns, held fixed.
    gradient: List of the derivatives of the level's log density by the floating
      point parts of the state, of their shapes.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  normal = tfp.distributions.Normal(0.0, 1.0)
  path = nvi.GeometricPath(normal, normal, 2)
  terms, (gradient,) = nvi.densities.evaluate_with_gradient(
    path, 1, tf.constant([2.0])
  )
  assert gradient[0] == -2.0
  ```
  """
  state = tf.nest.map_structure(tf.stop_gradient, state)
  parts = floating_parts(state)
  with tf.GradientTape(watch_accessed_variables=False) as tape:
    tape.watch(parts)
    terms = densities.evaluate(level, state)
    log_prob = densities.log_prob(level, terms)
  gradient = tape.gradient(
    log_prob, parts, unconnected_gradients=tf.UnconnectedGradients.ZERO
  )
  return terms, gradient


def attach_gradient(
  log_prob: tf.Tensor,
  gradient: typing.Sequence[tf.Tensor],
  state: types.Structure,
) -> tf.Tensor:
  """Makes a log density differentiable in the state, without evaluating it.

  Args:
    log_prob: float `Tensor` of shape `[num_particles] + batch`, that does not
      depend on the state as far as gradients go.
    gradient: List that `evaluate_with_gradient` returned for the state.
    state: The state, differentiable.

  Returns:
    log_prob: The same values.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  x = tf.constant([2.0])
  with tf.GradientTape() as tape:
    tape.watch(x)
    log_prob = nvi.densities.attach_gradient(
      tf.constant([0.5]), [tf.constant([-2.0])], x
    )
  assert tape.gradient(log_prob, x)[0] == -2.0
  ```
  """

  @tf.custom_gradient
  def attach(log_prob, *parts):
    del parts

    def grad(dy):
      return dy, *(
        # A particle without weight may be where the gradient is not finite.
        tf.math.multiply_no_nan(
          x, tf.reshape(dy, dy.shape + [1] * (x.shape.rank - dy.shape.rank))
        )
        for x in gradient
      )

    return tf.identity(log_prob), grad

  return attach(log_prob, *floating_parts(state))


def replace_infinite(
  gradients: typing.Sequence[tf.Tensor],
) -> tuple[list, tf.Tensor]:
  """Replaces gradients that are not finite by zero, and counts them.

  Args:
    gradients: List of float `Tensor`s.

  Returns:
    gradients: List of `Tensor`s.
    num_infinite: Scalar int32 `Tensor`; Python `int` zero of an empty list.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  gradients, count = nvi.densities.replace_infinite(
    [tf.constant([1.0, float('nan')])]
  )
  assert count == 1 and gradients[0][1] == 0.0
  ```
  """
  is_finite = [tf.math.is_finite(x) for x in gradients]
  num_infinite = sum(
    reductions.count_true(tf.logical_not(x)) for x in is_finite
  )
  gradients = [
    tf.where(keep, x, tf.zeros_like(x))
    for keep, x in zip(is_finite, gradients, strict=True)
  ]
  return gradients, num_infinite

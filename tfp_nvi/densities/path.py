# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Annealing paths between two densities.

Contract: `gamma_k = gamma_0^(1 - beta_k) gamma_{K-1}^beta_k` where both ends
are positive. Inner densities are positive wherever the initial density is, so
that no reverse kernel loses mass; only the last density must be the target.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.densities import user
from tfp_nvi.densities.base import ZERO_LOG_DENSITY
from tfp_nvi.densities.user import UserDensities
from tfp_nvi.internal import checks, compatibility, types
from tfp_nvi.internal.axes import at_level

tfb = tfp.bijectors

__all__ = [
  'GeometricPath',
]

# Share of the mass of the density just before the target that is to be where
# the target is zero, as a multiple of that where it is not: exp(-_MARGIN).
_MARGIN = 2.0
# Where log ratios of draws fall into two groups of at least this share, so many
# nats apart, the target has a jump there, and the lower ones count as zeros.
# The gap must be larger than twice the spread of the upper group, and than that
# of the lower one.
_GROUP_SHARE = 0.03
_LEAST_JUMP = 20.0


class GeometricPath(UserDensities):
  """Annealing path between two densities, with a fixed or a learned schedule.

  ```none
  log gamma_k(z) = (1 - beta_k) log gamma_0(z) + beta_k log gamma_{K-1}(z)
  ```

  with `0 = beta_0 < beta_1 < ... < beta_{K-1} = 1`. A learned schedule is
  increasing by construction: its inner values are the image of unconstrained
  variables under `tfb.Chain([tfb.Sigmoid(), tfb.Ascending()])`.

  Where the target is zero, the inner densities are not. They are
  `gamma_0(z) exp(beta_k c)` there, with a constant `c`, the `zero_log_ratio`.
  If they were zero a reverse kernel that has mass there, such as a Gaussian
  one, would lose this mass from the normalizing constant; whatever is positive
  keeps particles properly weighted, as only the last density must be the
  target. Where the target is positive, `c` has no influence. A log density of
  NaN, or of less than -1e9, as a penalty has it, stands for zero.

  By default `c` is chosen at construction, from draws of the initial density,
  such that for `beta = 1` the place where the target is zero would have
  `exp(-2)` of the mass of the target. It never changes after that.

  The ends may be over a single `Tensor` or a nested structure, and over a
  constrained support. States live in the real space; samples do not. The
  initial density must be positive wherever the target is; where it is found not
  to be, that is an error.

  #### References

  [1]: R. M. Neal. Annealed importance sampling. Statistics and Computing,
       11(2), 2001. https://arxiv.org/abs/physics/9803008
  [2]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302

  #### Examples

  From the prior of a model to its posterior:

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  tfd = tfp.distributions

  model = tfd.JointDistributionNamedAutoBatched(dict(
      scale=tfd.Gamma(2., 2.),
      y=lambda scale: tfd.Sample(tfd.Normal(0., scale), 3)))
  path = nvi.GeometricPath(
      initial=tfd.JointDistributionNamed(dict(scale=tfd.Gamma(2., 2.))),
      target=model.experimental_pin(y=tf.constant([1., -1., 0.5])),
      num_densities=4)
  assert path.schedule.shape == [4]
  ```
  """

  is_rollable = True

  def __init__(
    self,
    initial: types.Density,
    target: types.Density,
    num_densities: int | None = None,
    schedule: types.TensorLike | None = None,
    learnable: bool = False,
    event_space_bijector: tfb.Bijector | types.Structure | None = None,
    batch_shape: types.Shape = (),
    zero_log_ratio: float | None = None,
    name: str = 'geometric_path',
  ):
    """Initializes the path.

    Args:
      initial: The density at the start: a `tfd.Distribution` or
        `JointDistribution`, which then serves as the initial proposal too; or a
        `JointDistributionPinned` or a callable that returns an unnormalized log
        density.
      target: The density at the end: any of these.
      num_densities: Python `int`, at least 2: how many densities, both ends
        included.
        Default value: `None` (i.e., the length of `schedule`).
      schedule: Increasing floats from 0 to 1; where a learned schedule starts.
        Default value: `None` (i.e., equally spaced).
      learnable: Python `bool`: whether the schedule is a variable.
        Default value: `False`.
      event_space_bijector: `tfb.Bijector` from the real space to the support of
        the ends, or nested structure of these, one for each part of a state.
        Default value: `None` (i.e., that of `target`, or if that is a callable,
        that of `initial`).
      batch_shape: Shape of a batch of learned schedules, such as one for each
        of several restarts.
        Default value: `()`.
      zero_log_ratio: Python `float`: the logarithm of the ratio of target and
        initial density that inner densities take where the target is zero;
        `-inf` to have them zero as well, for transitions that `keeps_support`.
        Default value: `None` (i.e., chosen from draws of the initial density,
        or of the initial proposal of the first sampler if it has none).
      name: Python `str` name of this module.

    Raises:
      TypeError: If an end is not a density, or a number not a number.
      ValueError: If there are fewer than two densities, the schedule does not
        increase from 0 to 1, the ends are not over the same space, batch shapes
        do not broadcast, an end does not return one log density for each
        particle and batch member, or the initial density is zero where the
        target is not.
    """
    schedule = _as_schedule(num_densities, schedule)
    checks.check_bool('learnable', learnable)
    if zero_log_ratio is not None and zero_log_ratio != -np.inf:
      zero_log_ratio = checks.as_float('zero_log_ratio', zero_log_ratio)
    self._zero_log_ratio = zero_log_ratio
    # The log ratio below which the target counts as zero at inner levels.
    self._zero_threshold = None
    self._has_inner_zeros = zero_log_ratio == -np.inf
    self._num_densities = schedule.size
    super().__init__(
      [('initial', initial), ('target', target)],
      event_space_bijector,
      batch_shape,
      name,
    )
    self._schedule_batch_shape = tf.TensorShape(batch_shape).as_list()
    self._fixed_schedule = tf.constant(schedule, self.float_dtype)
    self._inner = None
    if learnable and schedule.size > 2:
      self._inner = tfp.util.TransformedVariable(
        tf.broadcast_to(
          self._fixed_schedule[1:-1],
          self._schedule_batch_shape + [schedule.size - 2],
        ),
        tfb.Chain([tfb.Sigmoid(), tfb.Ascending()]),
        name='schedule',
      )

  @property
  def num_densities(self) -> int:
    """Python `int`: the number of densities, both ends included."""
    return self._num_densities

  @property
  def schedule(self) -> tf.Tensor:
    """The values of beta, of shape `batch_shape + [num_densities]`."""
    if self._inner is None:
      return self._fixed_schedule
    inner = tf.convert_to_tensor(self._inner)
    end = tf.zeros_like(inner[..., :1])
    return tf.concat([end, inner, end + 1.0], axis=-1)

  def _check_mass(self, state, log_probs):
    """Chooses the ratio of the inner densities where the target is zero."""
    super()._check_mass(state, log_probs)
    with np.errstate(invalid='ignore'):
      ratio = np.asarray(log_probs[1] - log_probs[0], np.float64)
    threshold = _find_threshold(ratio)
    if self._zero_log_ratio is None:
      self._zero_log_ratio = _choose_zero_log_ratio(ratio, threshold)
    if self._zero_threshold is None and not self._has_inner_zeros:
      self._zero_threshold = threshold

  def _finds_zeros(self, log_probs):
    """Whether the target has jumps: zeros, or what counts as zeros."""
    with np.errstate(invalid='ignore'):
      ratio = np.asarray(log_probs[1] - log_probs[0], np.float64)
    return super()._finds_zeros(log_probs) or bool(
      np.mean(~(ratio > _find_threshold(ratio))) > user.TOLERANCE
    )

  def _find_zero_levels(self, has_zeros):
    """All inner levels if the initial density has zeros, and none if not."""
    has_zeros = has_zeros[0] or (has_zeros[1] and self._has_inner_zeros)
    return range(self.num_densities - 1) if has_zeros else ()

  @compatibility.with_maps_inlined
  def evaluate(
    self, level: int | tf.Tensor | range, state: types.Structure
  ) -> tuple:
    """Log densities of both ends, which serve every level.

    Args:
      level: Not used.
      state: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`.

    Returns:
      terms: Pair of float `Tensor`s of shape `[num_particles] + batch`.
    """
    del level
    value = self.forward(state)
    log_det_jacobian = self.log_det_jacobian(state)
    initial, target = self._log_prob_fns
    return (
      initial(value) + log_det_jacobian,
      _with_finite_gradient(target, value) + log_det_jacobian,
    )

  def log_prob(self, level: int | tf.Tensor | range, terms: tuple) -> tf.Tensor:
    """Log density of a level, given the terms.

    Args:
      level: Python `int`, scalar int `Tensor`, or Python `range`.
      terms: Tuple that `evaluate` returned.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """
    initial, target = terms
    schedule = self.schedule
    if schedule.shape.rank > 1:
      schedule = tf.experimental.numpy.moveaxis(schedule, -1, 0)
    beta = at_level(schedule, level, initial.shape.rank - 1)
    ratio = 0.0 if self._zero_log_ratio is None else self._zero_log_ratio
    threshold = self._zero_threshold
    if threshold is None:
      threshold = np.maximum(ratio, ZERO_LOG_DENSITY) + ZERO_LOG_DENSITY
    threshold = tf.constant(threshold, initial.dtype)
    ratio = tf.constant(ratio, initial.dtype)
    # Zero times `-inf` must be zero at the first level.
    has_inner_zeros = self._has_inner_zeros
    negative_infinity = tf.constant(-np.inf, initial.dtype)
    is_zero = tf.equal(initial, negative_infinity)
    # Zeros, so that the gradient is zero there and not NaN.
    initial = tf.where(is_zero, tf.zeros_like(initial), initial)
    is_last = beta >= 1.0
    # A comparison with NaN is false.
    has_target = target > initial + threshold
    target = tf.where(
      tf.logical_or(has_target, is_last), target, initial + ratio
    )
    if has_inner_zeros:
      contribution = tf.math.multiply_no_nan(target, beta)
    else:
      contribution = beta * target
    log_prob = (1.0 - beta) * initial + contribution
    return tf.where(
      tf.logical_and(is_zero, tf.logical_not(is_last)),
      negative_infinity,
      log_prob,
    )


def _as_schedule(num_densities, schedule) -> np.ndarray:
  """The schedule that two arguments stand for, as an array."""
  if num_densities is not None:
    checks.as_count('num_densities', num_densities, minimum=2)
  if schedule is None:
    if num_densities is None:
      raise ValueError(
        'One of `num_densities` and `schedule` must be given; got neither.'
      )
    return np.linspace(0.0, 1.0, num_densities)
  try:
    schedule = np.asarray(schedule, dtype=np.float64)
  except (TypeError, ValueError) as e:
    raise TypeError(
      f'`schedule` must be a vector of floats; got {schedule!r}.'
    ) from e
  if schedule.ndim != 1 or schedule.size < 2:
    raise ValueError(
      '`schedule` must be a vector of at least 2 values; got shape '
      f'{schedule.shape}.'
    )
  if num_densities not in (None, schedule.size):
    raise ValueError(
      f'`schedule` must have `num_densities` = {num_densities} values; got '
      f'{schedule.size}.'
    )
  if [*schedule[[0, -1]]] != [0.0, 1.0] or not np.all(np.diff(schedule) > 0.0):
    raise ValueError(
      f'`schedule` must increase from 0 to 1; got {schedule.tolist()}.'
    )
  return schedule


def _find_threshold(ratio):
  """The log ratio below which the target counts as zero at inner levels.

  Args:
    ratio: Array of shape `[num_draws] + batch`: the log ratio of target and
      initial density at draws of the latter.

  Returns:
    threshold: Array of shape `batch`: in the middle of a jump, or so low that
      only what stands for zero is below.
  """
  values = np.where(ratio > -np.inf, ratio, -np.inf)
  order = -np.sort(-np.maximum(values, -1e300), axis=0)
  maximum = order[0]
  threshold = np.maximum(maximum, ZERO_LOG_DENSITY) + ZERO_LOG_DENSITY
  size = int(np.ceil(_GROUP_SHARE * len(order)))
  if len(order) < 2 * size + 1:
    return threshold
  upper, lower = order[size - 1 : -size], order[size : len(order) - size + 1]
  jump = upper - lower
  is_jump = jump > np.maximum(_LEAST_JUMP, 2.0 * (maximum - upper))
  # Draws at which the target is zero say nothing of a spread.
  lowest = np.min(np.where(order > -1e300, order, np.inf), axis=0)
  is_jump &= jump > lower - np.minimum(lowest, lower)
  first = np.argmax(is_jump, axis=0)[np.newaxis]
  upper, height = (
    np.take_along_axis(x, first, axis=0)[0] for x in (upper, jump)
  )
  return np.where(
    is_jump.any(axis=0),
    np.maximum(upper - 0.5 * height, threshold),
    threshold,
  )


def _choose_zero_log_ratio(ratio, threshold):
  """Chooses the log ratio of the ends that stands for a target of zero.

  Args:
    ratio: Array of shape `[num_draws] + batch`: the log ratio of target and
      initial density at draws of the latter.
    threshold: Array of shape `batch`: the log ratio of zeros is below.

  Returns:
    zero_log_ratio: Array of shape `batch`: such that draws at which the target
      is zero would have `exp(-_MARGIN)` of the weight of the others.
  """
  maximum = np.max(np.where(ratio > -np.inf, ratio, -np.inf), axis=0)
  has_target = ratio > threshold
  maximum = np.where(np.isfinite(maximum), maximum, 0.0)
  with np.errstate(invalid='ignore'):
    weight = np.where(has_target, np.exp(ratio - maximum), 0.0)
  # One draw more than there are, in case that there is none of either kind.
  num_zeros = np.sum(~has_target, axis=0)
  return (
    maximum
    + np.log(np.maximum(np.sum(weight, axis=0), 1.0))
    - np.log(num_zeros + 1.0)
    - _MARGIN
  )


def _with_finite_gradient(fn, value):
  """Evaluates a log density whose gradient is zero where it is not finite.

  Inner densities do not depend on the target where that is zero, but zero times
  a derivative that is not finite is NaN.
  """
  log_prob = []

  @tf.custom_gradient
  def hold(x):
    def grad(dx):
      is_finite = tf.math.is_finite(log_prob[0])
      rank = dx.shape.rank - is_finite.shape.rank
      is_finite = tf.reshape(is_finite, is_finite.shape + [1] * rank)
      return tf.where(is_finite, dx, tf.zeros_like(dx))

    return tf.identity(x), grad

  log_prob.append(
    fn(
      tf.nest.map_structure(
        lambda x: hold(x) if x.dtype.is_floating else x, value
      )
    )
  )
  return log_prob[0]

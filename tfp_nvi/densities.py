# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences of intermediate densities.

What must hold: a sequence has `num_densities` unnormalized densities
`gamma_0, ..., gamma_{K-1}` over one real space, and offers

```none
num_densities         Python int, at least 2
event_shape, dtype    nested structures: a state has leaves of shape
                      [num_particles] + batch + event
batch_shape           TensorShape
evaluate(level, z)    a tuple of Tensors of shape [num_particles] + batch, all
                      that is costly about gamma_level(z)
evaluate_fixed(level, z, terms)   the same, with z held fixed in gradients
log_prob(level, terms)  log gamma_level(z), cheap given those
forward(z)            z in the space that the user's densities are written in
inverse(x)            the other way round
check(values, name, batch_shape)  raises an error if values that an argument of
                      this name draws are not what densities are over
is_rollable           whether `level` may be a Tensor
is_discrete           whether a part of the space is, whatever its dtype;
                      optional
make_proposal(distribution)  an initial proposal of states from a distribution
                      over something else; optional
given(move, cut)      densities that know what the initial proposal proposed,
                      with `prepared`, a nested structure of Tensors through
                      which they depend on variables, and with_prepared(copies),
                      the same densities with copies of these; optional
is_active(level)      None, or a bool Tensor of shape batch: whether the level
                      differs from the one before it; optional
has_variables         whether terms may depend on variables, which they are
                      taken to if this is missing. Where they do not, training
                      evaluates no state again.
```

A sampler calls `evaluate` once for each particle and level, and keeps the terms
for the next one. `level` is a Python int; a scalar int `Tensor` inside a loop
over levels; or a Python `range`, for all of them at once, where states have
shape `[num_particles, num_levels] + batch + event`.

Densities over constrained supports are transformed to the real space by their
event-space bijector, Jacobian included, and samples are mapped back.
"""

import collections.abc
import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import compatibility, randomness
from tfp_nvi.internal.axes import at_level

tfb = tfp.bijectors
tfd = tfp.distributions

compatibility.let_pad_reshape()

__all__ = [
  'ExplicitDensities',
  'GeometricPath',
]

# How many draws the checks before a run evaluate densities at.
NUM_PROBES = 16


def evaluate_with_gradient(*a):
  return evaluate_with_slope(*a)


def attach_gradient(*a):
  return attach_slope(*a)


def evaluate_with_slope(densities, level, state):
  """Evaluates a density, and what its gradient will need, at the same time.

  Args:
    densities: Sequence of densities.
    level: As in `evaluate`.
    state: As in `evaluate`.

  Returns:
    terms: What `evaluate` returns, held fixed.
    slope: List of the derivatives of the level's log density by the floating
      point parts of the state, of their shapes.
  """
  state = tf.nest.map_structure(tf.stop_gradient, state)
  parts = floating_parts(state)
  with tf.GradientTape(watch_accessed_variables=False) as tape:
    tape.watch(parts)
    terms = densities.evaluate(level, state)
    log_prob = densities.log_prob(level, terms)
  slope = tape.gradient(
    log_prob, parts, unconnected_gradients=tf.UnconnectedGradients.ZERO
  )
  return terms, slope


def attach_slope(log_prob, slope, state):
  """Makes a log density differentiable in the state, without evaluating it.

  Args:
    log_prob: float `Tensor` of shape `[num_particles] + batch`, that does not
      depend on the state as far as gradients go.
    slope: What `evaluate_with_slope` returned for the state.
    state: The state, differentiable.

  Returns:
    log_prob: The same values.
  """

  @tf.custom_gradient
  def attach(log_prob, *parts):
    del parts

    def gradient(dy):
      return dy, *(
        # A particle that does not count may be where there is no slope.
        tf.math.multiply_no_nan(
          x, tf.reshape(dy, dy.shape + [1] * (x.shape.rank - dy.shape.rank))
        )
        for x in slope
      )

    return tf.identity(log_prob), gradient

  return attach(log_prob, *floating_parts(state))


def floating_parts(state):
  """The parts of a state that there can be derivatives by, as a list."""
  return [x for x in tf.nest.flatten(state) if x.dtype.is_floating]


def check_densities(densities):
  """Raises an error if something is not a sequence of densities."""
  if not all(
    hasattr(densities, name)
    for name in ('num_densities', 'batch_shape', 'evaluate', 'log_prob')
  ):
    raise TypeError(
      '`densities` must be a sequence of densities, such as a GeometricPath or '
      f'ExplicitDensities; got {densities!r}.'
    )


def as_batch_shape(batch_shape):
  """A `TensorShape`; raises an error if an argument is not a known shape."""
  try:
    shape = tf.TensorShape(batch_shape)
  except (TypeError, ValueError) as e:
    raise type(e)(
      '`batch_shape` must be a list of non-negative Python ints; got '
      f'{batch_shape!r}.'
    ) from e
  if not shape.is_fully_defined():
    raise ValueError(
      '`batch_shape` must be a list of non-negative Python ints; got '
      f'{batch_shape!r}.'
    )
  return shape


def log_prob_fn(density, name):
  """The unnormalized log density of anything a user may pass as one."""
  if isinstance(density, tfd.Distribution):
    return density.log_prob
  if hasattr(density, 'unnormalized_log_prob'):
    return density.unnormalized_log_prob
  if hasattr(density, 'log_prob'):
    return density.log_prob
  if callable(density):
    return density
  raise TypeError(
    f'`{name}` must be a tfd.Distribution, a JointDistribution, a '
    'JointDistributionPinned, or a callable that returns an unnormalized log '
    f'density; got {density!r}.'
  )


def is_sampleable(density):
  """Whether a density can serve as an initial proposal, being normalized."""
  return isinstance(density, tfd.Distribution)


def static_batch_shape(density):
  """The batch shape that a density says it has."""
  shapes = tf.nest.flatten(getattr(density, 'batch_shape', []))
  return functools.reduce(
    tf.broadcast_static_shape, map(tf.TensorShape, shapes), tf.TensorShape([])
  )


def draw(distribution, num_particles, batch_shape, seed):
  """Draws points of the space of a distribution.

  Args:
    distribution: `tfd.Distribution`.
    num_particles: Python `int`.
    batch_shape: List of Python `int`s, to which the batch shape of the
      distribution broadcasts.
    seed: Stateless seed.

  Returns:
    values: Nested structure of `Tensor`s of shape
      `[num_particles] + batch_shape + event`, independent for each particle and
      batch member.
  """
  return draw_of_shape(distribution, [num_particles] + batch_shape, seed)


def draw_of_shape(distribution, shape, seed):
  """Draws points of the space of a distribution.

  Args:
    distribution: `tfd.Distribution`.
    shape: List of Python `int`s, to which the batch shape of the distribution
      broadcasts.
    seed: Stateless seed.

  Returns:
    values: Nested structure of `Tensor`s of shape `shape + event`, independent
      for each element of the shape.
  """
  own_shape = static_batch_shape(distribution).as_list()
  own_rank = len(own_shape)
  leading = shape[: len(shape) - own_rank]
  repeats = [
    1 if size == own_size else size
    for size, own_size in zip(
      shape[len(shape) - own_rank :], own_shape, strict=True
    )
  ]
  if set(repeats) <= {1}:
    return _sample(distribution, leading, seed)

  def merge_repeats(x):
    """Brings each repeated axis to the axis of size one that it replaces."""
    rank = len(leading)
    axes = list(range(rank))
    for i in range(rank, rank + own_rank):
      axes += [i, i + own_rank]
    event_axes = range(len(axes), x.shape.rank)
    event_shape = x.shape[len(axes) :].as_list()
    return tf.reshape(
      tf.transpose(x, axes + list(event_axes)), shape + event_shape
    )

  return tf.nest.map_structure(
    merge_repeats, _sample(distribution, leading + repeats, seed)
  )


def _sample(distribution, sample_shape, seed):
  """Draws in a way that XLA can compile."""
  with randomness.portable_sampling():
    if not getattr(distribution, 'use_vectorized_map', False):
      return distribution.sample(sample_shape, seed=seed)
    # One draw after the other. TFP would vectorize the model over the draws,
    # and what becomes of the rejection samplers in it, such as that of a gamma
    # distribution, XLA cannot compile.
    values = tf.map_fn(
      lambda one_seed: distribution.sample(seed=one_seed),
      randomness.split_seed(seed, int(np.prod(sample_shape))),
      fn_output_signature=distribution.dtype,
    )
  return tf.nest.map_structure(
    lambda x: tf.reshape(x, sample_shape + x.shape[1:].as_list()), values
  )


def _describe(structure):
  return tf.nest.map_structure(str, structure)


class _StateSpace:
  """The real space of the states, and the user's space, for some densities.

  Args:
    named_densities: List of pairs of an argument's name and a density.
    event_space_bijector: `tfb.Bijector` from the real space to the user's, or
      `None` for the one of the last density that has one.
  """

  def __init__(self, named_densities, event_space_bijector=None):
    described = [
      (name, d)
      for name, d in named_densities
      if hasattr(d, 'event_shape') and hasattr(d, 'dtype')
    ]
    if not described:
      names = ', '.join(f'`{name}`' for name, _ in named_densities)
      raise ValueError(
        f'One of {names} must have an `event_shape` and a `dtype`, to tell '
        'what a state looks like; got callables only.'
      )
    name, reference = described[-1]
    shape, dtype = reference.event_shape, reference.dtype
    for other_name, other in described[:-1]:
      self._check_same(name, shape, dtype, other_name, other)
    if event_space_bijector is None:
      event_space_bijector = _default_bijector(name, reference)
    elif not isinstance(event_space_bijector, tfb.Bijector):
      raise TypeError(
        '`event_space_bijector` must be a tfb.Bijector or None; got '
        f'{event_space_bijector!r}.'
      )
    self.is_discrete = any(_is_discrete(d) for _, d in described)
    self.bijector = event_space_bijector
    self.constrained_event_shape = shape
    self.dtype = dtype
    if self.bijector is None:
      self.event_shape = shape
    else:
      self.event_shape = self.bijector.inverse_event_shape(shape)
    self.event_ndims = tf.nest.map_structure(
      lambda s: tf.TensorShape(s).rank, self.event_shape
    )

  @staticmethod
  def _check_same(name, shape, dtype, other_name, other):
    """Raises an error if two densities are not over the same space."""
    try:
      tf.nest.assert_same_structure(shape, other.event_shape)
    except (TypeError, ValueError) as e:
      raise ValueError(
        f'`{name}` and `{other_name}` must be over the same structure; got '
        f'event shapes {_describe(shape)} and {_describe(other.event_shape)}.'
      ) from e
    for what, ours, theirs in (
      ('event shape', shape, other.event_shape),
      ('dtype', dtype, other.dtype),
    ):
      if tf.nest.flatten(ours) != tf.nest.flatten(theirs):
        raise ValueError(
          f'`{name}` and `{other_name}` must have the same {what}; got '
          f'{_describe(ours)} and {_describe(theirs)}.'
        )

  @property
  def float_dtype(self):
    """The dtype of log densities."""
    for dtype in tf.nest.flatten(self.dtype):
      if tf.as_dtype(dtype).is_floating:
        return tf.as_dtype(dtype)
    return tf.float32

  def forward(self, state):
    return state if self.bijector is None else self.bijector.forward(state)

  def inverse(self, value):
    return value if self.bijector is None else self.bijector.inverse(value)

  def log_det_jacobian(self, state):
    if self.bijector is None:
      return 0.0
    return self.bijector.forward_log_det_jacobian(state, self.event_ndims)


def _tfp_bijector(density):
  """The event-space bijector that TFP knows of, or `None`.

  Raises:
    AttributeError: If there is none for a part of a density that has parts.
  """
  get = getattr(density, 'experimental_default_event_space_bijector', None)
  try:
    return get() if get is not None else None
  except NotImplementedError:
    return None


def _default_bijector(name, density):
  """The event-space bijector of a density; `None` for the identity."""
  try:
    bijector = _tfp_bijector(density)
  except AttributeError as e:
    raise ValueError(
      f'`{name}` must have an event-space bijector for each of its parts, '
      'which TFP has for neither discrete parts nor mixtures, or '
      f'`event_space_bijector` must be given; got {density!r}.'
    ) from e
  return None if isinstance(bijector, tfb.Identity) else bijector


def _is_discrete(density):
  """Whether a part of what a density is over is discrete.

  Where the dtype does not say so draws do, as far as they are known: in eager
  mode. TFP has no event-space bijector for what is discrete, but for mixtures
  of densities over real spaces neither.
  """
  if any(
    not tf.as_dtype(dtype).is_floating
    for dtype in tf.nest.flatten(density.dtype)
  ):
    return True
  try:
    if _tfp_bijector(density) is not None:
      return False
  except AttributeError:
    pass
  if not (is_sampleable(density) and tf.executing_eagerly()):
    return False
  try:
    values = _sample(density, [NUM_PROBES], randomness.as_seed(0))
  except NotImplementedError:
    return False
  return any(
    bool(tf.reduce_all(tf.equal(x, tf.round(x))))
    for x in tf.nest.flatten(values)
  )


def _has_nan(x):
  """Whether there is a NaN, as far as values are known: in eager mode."""
  return tf.executing_eagerly() and bool(tf.reduce_any(tf.math.is_nan(x)))


def check_values(name, values, dtype, event_shape, leading_shape):
  """Raises an error if an initial proposal draws something else."""
  try:
    tf.nest.assert_same_structure(values, dtype)
  except (TypeError, ValueError) as e:
    raise ValueError(
      f'`{name}` must draw values of the structure {_describe(dtype)}; it '
      f'draws {_describe(tf.nest.map_structure(lambda x: x.dtype, values))}.'
    ) from e
  for x, part_dtype, part_shape in zip(
    tf.nest.flatten(values),
    tf.nest.flatten(dtype),
    tf.nest.flatten(event_shape),
    strict=True,
  ):
    if x.dtype != part_dtype:
      raise ValueError(
        f'`{name}` must draw values of dtype {tf.as_dtype(part_dtype).name}, '
        f'as the densities are over; it draws {x.dtype.name}.'
      )
    shape = leading_shape + tf.TensorShape(part_shape)
    if x.shape != shape:
      raise ValueError(
        f'`{name}` must draw values of shape [num_particles] + batch + event, '
        f'here {shape.as_list()}; it draws shape {x.shape.as_list()}.'
      )


def _check_log_prob(name, values, log_prob, leading_shape, float_dtype):
  """Raises an error if a density returned something else than it should."""
  try:
    log_prob = tf.convert_to_tensor(log_prob)
  except (TypeError, ValueError) as e:
    raise TypeError(
      f'`{name}` must return a Tensor of log densities; it returned '
      f'{log_prob!r}.'
    ) from e
  if log_prob.dtype != float_dtype:
    raise ValueError(
      f'`{name}` must return log densities of dtype {float_dtype.name}, the '
      f'dtype of the states; got {log_prob.dtype.name}.'
    )
  if log_prob.shape != leading_shape:
    shapes = tf.nest.map_structure(lambda x: x.shape.as_list(), values)
    raise ValueError(
      f'`{name}` must return one log density for each particle and batch '
      f'member, of shape {leading_shape.as_list()}; for states of shape '
      f'{shapes} it returned shape {log_prob.shape.as_list()}.'
    )
  if _has_nan(log_prob):
    raise ValueError(
      f'`{name}` must return log densities that are numbers or -inf; it '
      'returned NaN for a draw from the initial density.'
    )


def _broadcast_batch_shapes(named_densities):
  """The batch shape of all densities; raises an error that names them."""
  batch_shape = tf.TensorShape([])
  for name, density in named_densities:
    try:
      batch_shape = tf.broadcast_static_shape(
        batch_shape, static_batch_shape(density)
      )
    except ValueError as e:
      raise ValueError(
        f'`{name}` must have a batch shape that broadcasts with that of the '
        f'densities before it, {batch_shape.as_list()}; got '
        f'{_describe(density.batch_shape)}.'
      ) from e
  return batch_shape


class Densities(tf.Module):
  batch_shape = tf.TensorShape([])
  is_rollable = False
  is_discrete = False
  has_variables = True
  initial = None
  prepared = ()

  def make_proposal(self, d):
    return None

  def given(self, move, cut):
    return self

  def with_prepared(self, c):
    return self

  def is_active(self, level):
    return None

  def describe_nan(self, state):
    return None


class _Densities(Densities):
  """What fixed and explicit sequences share: the space, and its checks."""

  def __init__(self, named_densities, event_space_bijector, batch_shape, name):
    super().__init__(name=name)
    batch_shape = as_batch_shape(batch_shape)
    self._named_densities = named_densities
    self._densities = [density for _, density in named_densities]
    self._log_prob_fns = [log_prob_fn(d, n) for n, d in named_densities]
    self._space = _StateSpace(named_densities, event_space_bijector)
    batch_shape_of_all = _broadcast_batch_shapes(named_densities)
    try:
      self._batch_shape = tf.broadcast_static_shape(
        batch_shape_of_all, batch_shape
      )
    except ValueError as e:
      raise ValueError(
        '`batch_shape` must broadcast with the batch shape of the densities, '
        f'{batch_shape_of_all.as_list()}; got {batch_shape.as_list()}.'
      ) from e
    self.has_variables = False
    self.is_discrete = self._space.is_discrete
    if is_sampleable(self.initial):
      self.check(
        draw(
          self.initial,
          NUM_PROBES,
          self._batch_shape.as_list(),
          randomness.as_seed(0),
        )
      )

  @property
  def event_shape(self):
    """Event shape of the states, in the real space."""
    return self._space.event_shape

  @property
  def dtype(self):
    """Dtype of the states."""
    return self._space.dtype

  @property
  def float_dtype(self):
    """Dtype of log densities."""
    return self._space.float_dtype

  @property
  def batch_shape(self):
    """Batch shape of the densities and their parameters."""
    return self._batch_shape

  @property
  def initial(self):
    """The first density as it was given."""
    return self._densities[0]

  def forward(self, state):
    """Maps states to the space that the densities are written in."""
    return self._space.forward(state)

  def inverse(self, value):
    """Maps points of the densities' space to states."""
    return self._space.inverse(value)

  def log_det_jacobian(self, state):
    """Log density that the event-space bijector adds to the user's."""
    return self._space.log_det_jacobian(state)

  def evaluate_fixed(self, level, state, terms):
    """The terms at a state that is held fixed, for gradients by parameters.

    Args:
      level: As in `evaluate`.
      state: As in `evaluate`.
      terms: What `evaluate` returned for this state.

    Returns:
      terms: Equal to `terms`; differentiable in the densities' variables alone.
        Where there are none, nothing is evaluated again.
    """
    if not self.has_variables:
      return tf.nest.map_structure(tf.stop_gradient, terms)
    return self.evaluate(level, tf.nest.map_structure(tf.stop_gradient, state))

  def check(self, values, name=None, batch_shape=None):
    """Raises an error if a density cannot be evaluated as it should.

    Args:
      values: Points of the densities' space, of shape
        `[num_particles] + batch + event`.
      name: Python `str` name of the argument that they were drawn from.
        Default value: `None` (i.e., that of the first density).
      batch_shape: `TensorShape` that they should have.
        Default value: `None` (i.e., that of the densities).

    Raises:
      TypeError: If a density does not return a `Tensor`.
      ValueError: If the points have another structure, dtype or shape, or lie
        outside of the support that they are to be mapped from; or if a density
        returns the wrong shape or dtype, or NaN.
    """
    if batch_shape is None:
      batch_shape = self._batch_shape
    leading_shape = tf.nest.flatten(values)[0].shape[:1] + batch_shape
    check_values(
      name or self._named_densities[0][0],
      values,
      self.dtype,
      self._space.constrained_event_shape,
      leading_shape,
    )
    state = self.inverse(values)
    last_name = self._named_densities[-1][0]
    for part in tf.nest.flatten(state):
      if part.dtype.is_floating and _has_nan(part):
        raise ValueError(
          'The initial proposal must draw from the support of '
          f'`{last_name}`; draws of it are mapped to NaN by the event-space '
          f'bijector {self._space.bijector!r}.'
        )
    for (name, _), fn in zip(
      self._named_densities, self._log_prob_fns, strict=True
    ):
      with tf.GradientTape() as tape:
        log_prob = fn(values)
      _check_log_prob(name, values, log_prob, leading_shape, self.float_dtype)
      self.has_variables |= bool(tape.watched_variables())


class GeometricPath(_Densities):
  """Annealing path between two densities, with a fixed or a learned schedule.

  ```none
  log gamma_k(z) = (1 - beta_k) log gamma_0(z) + beta_k log gamma_{K-1}(z)
  ```

  with `0 = beta_0 < beta_1 < ... < beta_{K-1} = 1`. A learned schedule is
  increasing by construction: its inner values are the image of unconstrained
  variables under `tfb.Chain([tfb.Sigmoid(), tfb.Ascending()])`.

  The ends may be over a single `Tensor` or a nested structure, and over a
  constrained support. States live in the real space; samples do not.

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
    initial,
    target,
    num_densities=None,
    schedule=None,
    learnable=False,
    event_space_bijector=None,
    batch_shape=(),
    name='geometric_path',
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
        the ends.
        Default value: `None` (i.e., that of `target`, or if that is a callable,
        that of `initial`).
      batch_shape: Shape of a batch of learned schedules, such as one for each
        of several restarts.
        Default value: `()`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an end is not a density, or a number not a number.
      ValueError: If there are fewer than two densities, the schedule does not
        increase from 0 to 1, the ends are not over the same space, batch shapes
        do not broadcast, or an end does not return one log density for each
        particle and batch member.
    """
    if num_densities is not None and (
      isinstance(num_densities, bool)
      or not isinstance(num_densities, (int, np.integer))
    ):
      raise TypeError(
        f'`num_densities` must be a Python int; got {num_densities!r}.'
      )
    if schedule is None:
      if num_densities is None:
        raise ValueError(
          'One of `num_densities` and `schedule` must be given; got neither.'
        )
      if num_densities < 2:
        raise ValueError(
          '`num_densities` must be at least 2, for the initial density and the '
          f'target; got {num_densities}.'
        )
      schedule = np.linspace(0.0, 1.0, num_densities)
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
    if num_densities is not None and num_densities != schedule.size:
      raise ValueError(
        f'`schedule` must have `num_densities` = {num_densities} values; got '
        f'{schedule.size}.'
      )
    if (
      schedule[0] != 0.0
      or schedule[-1] != 1.0
      or not np.all(np.diff(schedule) > 0.0)
    ):
      raise ValueError(
        f'`schedule` must increase from 0 to 1; got {schedule.tolist()}.'
      )
    super().__init__(
      [('initial', initial), ('target', target)],
      event_space_bijector,
      batch_shape,
      name,
    )
    self.num_densities = schedule.size
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
  def schedule(self):
    """The values of beta, of shape `batch_shape + [num_densities]`."""
    if self._inner is None:
      return self._fixed_schedule
    inner = tf.convert_to_tensor(self._inner)
    end = tf.zeros_like(inner[..., :1])
    return tf.concat([end, inner, end + 1.0], axis=-1)

  def evaluate(self, level, state):
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
    return tuple(fn(value) + log_det_jacobian for fn in self._log_prob_fns)

  def log_prob(self, level, terms):
    """Log density of a level, given the terms.

    Args:
      level: Python `int`, scalar int `Tensor`, or Python `range`.
      terms: What `evaluate` returned.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """
    initial, target = terms
    schedule = self.schedule
    if schedule.shape.rank > 1:
      schedule = tf.experimental.numpy.moveaxis(schedule, -1, 0)
    beta = at_level(schedule, level, initial.shape.rank - 1)
    # An end that is -inf counts for nothing where its power is zero, and gives
    # a gradient of zero, not NaN, where it is not.
    negative_infinity = tf.constant(-float('inf'), initial.dtype)
    log_prob = tf.zeros_like(initial)
    for power, end in ((1.0 - beta, initial), (beta, target)):
      is_zero = tf.equal(end, negative_infinity)
      contribution = power * tf.where(is_zero, tf.zeros_like(end), end)
      log_prob += tf.where(
        tf.logical_and(is_zero, power > 0.0), negative_infinity, contribution
      )
    return log_prob


class ExplicitDensities(_Densities):
  """An explicit list of densities over one space.

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

  is_rollable = False

  def __init__(
    self, densities, event_space_bijector=None, name='explicit_densities'
  ):
    """Initializes the sequence.

    Args:
      densities: List of at least two densities, each of a kind that
        `GeometricPath` takes.
      event_space_bijector: `tfb.Bijector` from the real space to the support of
        the densities.
        Default value: `None` (i.e., that of the last one that has one).
      name: Python `str` name of this module.

    Raises:
      TypeError: If an element is not a density, or this no list of such.
      ValueError: If there are fewer than two, they are not over the same space,
        batch shapes do not broadcast, or one does not return one log density
        for each particle and batch member.
    """
    if isinstance(densities, tfd.Distribution) or not isinstance(
      densities, collections.abc.Iterable
    ):
      raise TypeError(
        f'`densities` must be a list of densities; got {densities!r}.'
      )
    densities = list(densities)
    if len(densities) < 2:
      raise ValueError(
        f'`densities` must have at least 2 elements; got {len(densities)}.'
      )
    self.num_densities = len(densities)
    super().__init__(
      [(f'densities[{i}]', density) for i, density in enumerate(densities)],
      event_space_bijector,
      (),
      name,
    )

  def evaluate(self, level, state):
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

  def log_prob(self, level, terms):
    """Log density of the level that the terms were evaluated for.

    Args:
      level: Not used.
      terms: What `evaluate` returned.

    Returns:
      log_prob: float `Tensor` of shape `[num_particles] + batch`.
    """
    del level
    return terms[0]

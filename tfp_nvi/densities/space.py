# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Supports: the user's space, and the real space.

Densities over constrained supports are transformed to the real space by their
event-space bijector, Jacobian included, and samples are mapped back. Discrete
parts are not transformed.
"""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.distributions import joint_distribution
from tensorflow_probability.python.experimental.distributions import (
  joint_distribution_pinned,
)

from tfp_nvi.densities.draws import (
  NUM_PROBES,
)
from tfp_nvi.densities.kinds import (
  JOINT,
  MIXTURE,
  SAME_FAMILY,
  check_kinds,
  looks_discrete,
  support_kinds,
)
from tfp_nvi.internal import checks, compatibility, reductions, types

tfb = tfp.bijectors
tfd = tfp.distributions

compatibility.let_pad_reshape()

__all__ = [
  'Space',
  'as_event_space_bijector',
  'check_values',
]

_JOINT_MAP = compatibility.all_forms(tfb.JointMap)


class _DiscreteIdentity(tfb.Bijector):
  """The identity on discrete values, whose Jacobian is a float."""

  def __init__(self, dtype):
    super().__init__(
      forward_min_event_ndims=0,
      is_constant_jacobian=True,
      parameters=dict(dtype=dtype),
      name='discrete_identity',
    )
    self._jacobian_dtype = dtype

  @classmethod
  def _is_increasing(cls):
    return True

  def _forward(self, x):
    return x

  def _inverse(self, y):
    return y

  def _forward_log_det_jacobian(self, x):
    del x
    return tf.zeros([], self._jacobian_dtype)

  def _inverse_log_det_jacobian(self, y):
    del y
    return tf.zeros([], self._jacobian_dtype)


def _tfp_bijector(distribution):
  """The event-space bijector that TFP knows of for one part, or `None`."""
  get = getattr(distribution, 'experimental_default_event_space_bijector', None)
  try:
    return get() if get is not None else None
  except (AttributeError, NotImplementedError):
    return None


def _mixture_bijector(distribution):
  """The bijector of all components of a mixture, or `None`."""
  if isinstance(distribution, SAME_FAMILY):
    components = [distribution.components_distribution]
  elif isinstance(distribution, MIXTURE):
    components = distribution.components
  else:
    return None
  bijectors = list(map(_tfp_bijector, components))
  # Others depend on parameters, which differ between components.
  is_shared = all(
    type(b) is type(bijectors[0])
    and isinstance(b, (tfb.Identity, tfb.Softplus, tfb.Exp))
    for b in bijectors
  )
  return bijectors[0] if is_shared else None


def _part_bijector(distribution, float_dtype):
  """The event-space bijector of one part of a joint distribution."""
  if isinstance(distribution, JOINT):
    return _joint_bijector(distribution, float_dtype)
  if set(support_kinds(distribution)) == {'discrete'}:
    return _DiscreteIdentity(float_dtype)
  bijector = _tfp_bijector(distribution) or _mixture_bijector(distribution)
  if bijector is None:
    raise NotImplementedError(repr(distribution))
  return bijector


def _joint_bijector(joint, float_dtype):
  """TFP's bijector of a joint distribution, with parts that TFP has none for.

  A part's bijector may depend on the parts before it.
  """
  if all(
    _tfp_bijector(part) is not None
    for part in joint._get_single_sample_distributions()  # pylint: disable=protected-access
  ):
    return joint.experimental_default_event_space_bijector()
  # TFP's function of the part is an argument of its bijector's class alone.
  if not joint.use_vectorized_map:
    cls = joint_distribution._DefaultJointBijector  # pylint: disable=protected-access
  elif isinstance(joint, tfd.JointDistribution):
    cls = joint_distribution._DefaultJointBijectorAutoBatched  # pylint: disable=protected-access
  else:
    cls = joint_distribution_pinned._DefaultJointBijectorAutoBatchedWithPins  # pylint: disable=protected-access
  return cls(
    joint,
    bijector_fn=functools.partial(_part_bijector, float_dtype=float_dtype),
  )


def _default_bijector(name, density, float_dtype):
  """The event-space bijector of a density; `None` for the identity."""
  if isinstance(density, JOINT):
    try:
      return _joint_bijector(density, float_dtype)
    except NotImplementedError as e:
      raise ValueError(
        f'`{name}` must have an event-space bijector for each of its parts, or '
        f'`event_space_bijector` must be given; there is none for {e}.'
      ) from e
  if set(support_kinds(density)) == {'discrete'}:
    return None
  bijector = _tfp_bijector(density)
  if bijector is None and isinstance(density, MIXTURE + SAME_FAMILY):
    bijector = _mixture_bijector(density)
    if bijector is None:
      raise ValueError(
        f'`event_space_bijector` must be given, as that of `{name}` is not '
        f'known; got None for {density!r}.'
      )
  return None if isinstance(bijector, tfb.Identity) else bijector


def as_event_space_bijector(
  value: tfb.Bijector | types.Structure | None,
  event_shape: types.Structure = None,
) -> tfb.Bijector | None:
  """Checks the argument `event_space_bijector`.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.densities import space

  tfb = tfp.bijectors
  bijector = space.as_event_space_bijector({'a': tfb.Exp(), 'b': tfb.Sigmoid()})
  assert isinstance(bijector, tfb.JointMap)
  ```

  Args:
    value: `tfb.Bijector`, `None`, or nested structure of `tfb.Bijector`s, one
      for each part of a state, such as those of inference_gym's targets.
    event_shape: Nested structure of the shapes of a state, whose structure the
      bijectors get: the order of parts may be another one.
      Default value: `None` (i.e., the structure of `value`).

  Returns:
    bijector: `tfb.Bijector`, or `None`.

  Raises:
    TypeError: If a part is not a `tfb.Bijector`.
    ValueError: If the parts are not those of a state.
  """
  if value is None or isinstance(value, tfb.Bijector):
    return value
  parts = tf.nest.flatten(value)
  for part in parts or [value]:
    checks.check_instance(
      'event_space_bijector',
      part,
      tfb.Bijector,
      'a tfb.Bijector, a nested structure of these, or None',
    )
  if event_shape is not None:
    value = _structured_like(event_shape, value)
  return tfb.JointMap(value)


def _structured_like(structure, value):
  """Bijectors in the structure of a state, matched by their names."""
  if not tf.nest.is_nested(structure) or isinstance(value, tfb.Bijector):
    return value
  # Named tuples, and those of TFP's coroutines, have no base class in common.
  given = value._asdict() if hasattr(value, '_asdict') else value
  is_dict = isinstance(structure, dict)
  names = list(structure if is_dict else getattr(structure, '_fields', ()))
  children = [structure[name] for name in names] if is_dict else structure
  if isinstance(given, dict):
    fits = set(given) == set(names)
    given = [given[name] for name in names] if fits else ()
  else:
    fits = not is_dict and len(given) == len(children)
  if not fits:
    raise ValueError(
      '`event_space_bijector` must be a bijector, or have the structure of a '
      f'state, that of {structure}; got {value}.'
    )
  found = [
    _structured_like(*pair) for pair in zip(children, given, strict=True)
  ]
  if is_dict:
    return dict(zip(names, found, strict=True))
  return type(structure)(*found) if names else type(structure)(found)


def _given_bijector(bijector, event_shape, dtype, float_dtype):
  """A bijector given by the user, made to work with discrete parts."""
  bijector = as_event_space_bijector(bijector, event_shape)
  if isinstance(bijector, tfb.Identity):
    return None
  parts = getattr(bijector, 'bijectors', None)
  if not isinstance(bijector, _JOINT_MAP):
    return bijector
  if all(tf.as_dtype(d).is_floating for d in tf.nest.flatten(dtype)):
    return bijector
  return tfb.JointMap(
    tf.nest.map_structure(
      lambda b: (
        _DiscreteIdentity(float_dtype) if isinstance(b, tfb.Identity) else b
      ),
      parts,
    )
  )


class Space:
  """The real space of the states, and the user's space, for some densities.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.densities import space

  gamma = tfp.distributions.Gamma(2.0, 2.0)
  positive = space.Space([('target', gamma)])
  assert positive.forward(-1.0) > 0.0
  ```
  """

  def __init__(
    self,
    named_densities: Sequence[tuple[str, types.Density]],
    event_space_bijector: tfb.Bijector | types.Structure | None = None,
  ):
    """Initializes the space.

    Args:
      named_densities: List of pairs of an argument's name and a density.
      event_space_bijector: `tfb.Bijector` from the real space to the user's,
        nested structure of these, or `None` for that of the last density that
        has one.

    Raises:
      TypeError: If the bijector is not a bijector.
      ValueError: If the densities are not over the same space, or their space
        is not known, or not of a precision that can be worked with.
    """
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
    self.constrained_event_shape = reference.event_shape
    self.dtype = reference.dtype
    floats = [
      dtype
      for dtype in map(tf.as_dtype, tf.nest.flatten(self.dtype))
      if dtype.is_floating
    ]
    self.float_dtype = floats[0] if floats else tf.float32
    if not {*floats} <= {tf.float32, tf.float64}:
      raise ValueError(
        f'`{name}` must be over float32 or float64, as lower precision is too '
        f'coarse for weights; got {tf.nest.map_structure(str, self.dtype)}.'
      )
    kinds = {n: support_kinds(d) for n, d in described}
    for other_name, other in described[:-1]:
      specs = [_specs(d.dtype, d.event_shape) for d in (reference, other)]
      if not checks.are_alike(*specs):
        raise ValueError(
          f'`{name}` and `{other_name}` must have the same structure, event '
          f'shapes and dtypes; got {" and ".join(map(checks.describe, specs))}.'
        )
      check_kinds(other_name, kinds[other_name], f'`{name}`', kinds[name])
    # One density may have properties that another one does not show.
    self.kinds = tuple(
      next(filter(None, part), None)
      for part in zip(*kinds.values(), strict=True)
    )
    if event_space_bijector is None:
      self.bijector = _default_bijector(name, reference, self.float_dtype)
    else:
      self.bijector = _given_bijector(
        event_space_bijector,
        self.constrained_event_shape,
        self.dtype,
        self.float_dtype,
      )
    self.event_shape = self.constrained_event_shape
    if self.bijector is not None:
      self.event_shape = self.bijector.inverse_event_shape(self.event_shape)
    self._event_ndims = tf.nest.map_structure(
      lambda s: tf.TensorShape(s).rank, self.event_shape
    )

  @compatibility.with_maps_inlined
  def forward(self, state: types.Structure) -> types.Structure:
    """Maps states to the user's space."""
    return state if self.bijector is None else self.bijector.forward(state)

  def inverse(self, value: types.Structure) -> types.Structure:
    """Maps points of the user's space to states."""
    return value if self.bijector is None else self.bijector.inverse(value)

  @compatibility.with_maps_inlined
  def log_det_jacobian(self, state: types.Structure) -> tf.Tensor | float:
    """Log density that the bijector adds to that of the user's space."""
    if self.bijector is None:
      return 0.0
    return self.bijector.forward_log_det_jacobian(state, self._event_ndims)

  def check_draws(
    self,
    name: str,
    values: types.Structure,
    leading_shape: tf.TensorShape,
    target_name: str,
  ) -> types.Structure:
    """Raises an error if draws of an initial proposal do not fit.

    Args:
      name: Python `str` name of the argument that they were drawn from.
      values: Nested structure of `Tensor`s.
      leading_shape: `TensorShape`: `[num_particles] + batch`.
      target_name: Python `str` name of the last density.

    Returns:
      state: The draws in the real space.

    Raises:
      ValueError: If the draws have another structure, dtype or shape, are
        discrete where the densities are continuous, or not in the support.
    """
    check_values(
      name, values, self.dtype, self.constrained_event_shape, leading_shape
    )
    parts = tf.nest.flatten(values)
    for x, kind in zip(parts, self.kinds, strict=True):
      if (
        kind == 'continuous'
        and reductions.has_values(x)
        and x.shape[0] >= NUM_PROBES
        and looks_discrete(x)
      ):
        raise ValueError(
          f'`{name}` must be over the same support as the densities, which is '
          'continuous; its draws are integers, or repeat each other.'
        )
    if self.bijector is None:
      return values
    state = self.inverse(values)
    # Copies, as a bijector would return what it has cached.
    again = self.forward(tf.nest.map_structure(tf.identity, state))
    # States may have another structure than values.
    known, again, values = (
      [np.asarray(x) for x in tf.nest.flatten(y) if _is_known_float(x)]
      for y in (state, again, values)
    )
    is_outside = any(np.isnan(x).any() for x in known) and not any(
      np.isnan(x).any() for x in values
    )
    # At the edge of a support draws may round to its end.
    shares = [np.mean(np.isfinite(x)) for x in known]
    shares += [
      np.mean(_are_close(x, y)) for x, y in zip(again, values, strict=True)
    ]
    if is_outside or min(shares, default=1.0) < 0.5:
      raise ValueError(
        f'The initial proposal must draw from the support of `{target_name}`;'
        f' draws of `{name}` are mapped to NaN, to infinity or not back to '
        f'themselves by `event_space_bijector`, {self.bijector!r}.'
      )
    return state

  def check_inverse(self, state: types.Structure) -> None:
    """Raises an error if several states have the same point.

    Args:
      state: Nested structure of `Tensor`s, anywhere in the real space.

    Raises:
      ValueError: If the event-space bijector does not lead back to the states.
    """
    if self.bijector is None:
      return
    again = self.inverse(
      tf.nest.map_structure(tf.identity, self.forward(state))
    )
    for x, y in zip(
      tf.nest.flatten(state), tf.nest.flatten(again), strict=True
    ):
      if not x.dtype.is_floating:
        continue
      # Far out in the real space, points may round to the end of a support.
      if np.mean(np.isfinite(y) & ~_are_close(x, y)) > 0.02:
        raise ValueError(
          '`event_space_bijector` must be invertible on the real space; got '
          f'{self.bijector!r}, whose inverse does not lead back.'
        )


def _is_known_float(x):
  return x.dtype.is_floating and reductions.has_values(x)


def _are_close(x, y):
  """Where two arrays agree, up to rounding at the ends of a support."""
  x, y = np.asarray(x), np.asarray(y)
  with np.errstate(invalid='ignore'):
    return np.abs(x - y) <= 0.1 * (1.0 + np.abs(x))


def _specs(dtype, event_shape, leading_shape=()):
  """A `TensorSpec` for each part of a space, in the structure of its events."""
  return tf.nest.pack_sequence_as(
    event_shape,
    [
      tf.TensorSpec(tf.TensorShape(leading_shape) + tf.TensorShape(shape), d)
      for d, shape in zip(
        tf.nest.flatten(dtype), tf.nest.flatten(event_shape), strict=True
      )
    ],
  )


def check_values(
  name: str,
  values: types.Structure,
  dtype: types.Structure,
  event_shape: types.Structure,
  leading_shape: types.Shape,
) -> None:
  """Raises an error if an initial proposal draws something else.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  event_shape = tf.TensorShape([])
  nvi.densities.check_values(
    'proposal', tf.zeros([5]), tf.float32, event_shape, [5]
  )
  ```

  Args:
    name: Python `str` name of the argument.
    values: Nested structure of `Tensor`s that it drew.
    dtype: Nested structure of dtypes that they should have.
    event_shape: Likewise, of event shapes.
    leading_shape: `[num_particles] + batch`, as a `TensorShape` or a list.

  Raises:
    ValueError: If the values have another structure, dtype or shape.
  """
  expected = _specs(dtype, event_shape, leading_shape)
  if not checks.are_alike(values, expected):
    raise ValueError(
      f'`{name}` must draw values of the structure, dtypes and shapes '
      f'[num_particles] + batch + event of the densities, here '
      f'{checks.describe(expected)}; it draws {checks.describe(values)}.'
    )

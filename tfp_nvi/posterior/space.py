# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's target as a log density over vectors of real numbers.

The posterior's stages work on vectors `y` of a real space that is standardized
by the initial density: `x = center + scale y` are the unconstrained values,
concatenated, and the event-space bijector takes those to the user's space. All
log densities here include the Jacobians of both maps, so that their integrals
over `y` are those over the user's space.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import parts as parts_lib
from tfp_nvi.bijectors import simplex, split
from tfp_nvi.densities import space as density_space
from tfp_nvi.internal import checks, compatibility, naming, randomness, types

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'VectorSpace',
]

# How many draws of the initial density its location and scale are found from.
_NUM_DRAWS = 1_000
# States to compare the densities of, beside others and again.
_NUM_COMPARED = 8
# With fewer values than this, compilation takes longer on a CPU than it saves.
_LEAST_FOR_XLA = 129
# On a CPU, XLA expands these to loops: a Gaussian process over 100 points took
# 20 times as long as with TensorFlow's kernels.
_FACTORIZATIONS = {
  'Cholesky',
  'CholeskyGrad',
  'MatrixInverse',
  'MatrixTriangularSolve',
  'Qr',
  'SelfAdjointEigV2',
  'Svd',
}


def _is_pinned(target):
  return isinstance(
    target, tfp.experimental.distributions.JointDistributionPinned
  )


def _as_log_prob_fn(name, density):
  """The unnormalized log density of anything a user may pass as one."""
  for method in ('unnormalized_log_prob', 'log_prob'):
    # The other side is TFP, whose distributions have no common base class.
    if hasattr(density, method):
      return compatibility.inline(getattr(density, method))
  checks.check_callable(
    name,
    density,
    'a JointDistributionPinned, a tfd.Distribution, or a callable that returns '
    'an unnormalized log density',
  )
  return compatibility.inline(density)


def _default_bijector(density):
  """The event-space bijector that TFP knows of; the identity without one.

  Args:
    density: `JointDistributionPinned` or `tfd.Distribution`.

  Returns:
    bijector: `tfb.Bijector`.

  Raises:
    ValueError: If there is none for a variable of several.
  """
  get = getattr(density, 'experimental_default_event_space_bijector', None)
  try:
    bijector = get() if get is not None else None
  except (AttributeError, NotImplementedError):
    # Mixtures have none; most of them are over the whole real space.
    bijector = None
  if bijector is None and tf.nest.is_nested(density.event_shape):
    names = ', '.join(naming.leaf_names(density.event_shape))
    raise ValueError(
      'Some of the variables have no default bijector, as those of '
      'tfd.MixtureSameFamily: `event_space_bijector` must have the bijectors '
      'of all variables, with tfb.Identity() where a variable is over the '
      f'real space; got None, and the variables {names}.'
    )
  return tfb.Identity() if bijector is None else bijector


class VectorSpace:
  """A target over vectors of real numbers, standardized by its initial density.

  Attributes:
    draws: `Tensor` of shape `[1000, num_values]`: draws from the initial
      density, which standardized the space.
    num_values: Python `int`: the length of a vector.
    names: List of Python `str`s: the variables of the user's space.
    has_exact_gaussian: Python `bool`: whether the initial density over `y` is
      the standard normal one.
    share_unmapped: Python `float`: the share of draws from the initial density
      that the bijector has no vectors for.
    target: The target that came.

  Args:
    target: `JointDistributionPinned`, `tfd.Distribution` or callable.
    initial: `tfd.Distribution`; or `None`, for the model's prior where the
      target is pinned.
    event_space_bijector: `tfb.Bijector` from the real space, nested structure
      of these, or `None` for the one that TFP knows of.
    seed: Stateless seed, for the draws that standardize the space.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If there is no initial density, or a state is not real.
  """

  def __init__(
    self,
    target: types.Density,
    initial: tfd.Distribution | None,
    event_space_bijector: tfb.Bijector | types.Structure | None,
    seed: types.StatelessSeed,
  ):
    checks.check_instance(
      'initial', initial, tfd.Distribution, 'a tfd.Distribution', optional=True
    )
    self.target = target
    self._uses_pins = _is_pinned(target) and initial is None
    if initial is None and not self._uses_pins:
      _as_log_prob_fn('target', target)
      raise ValueError(
        '`initial` must be a distribution unless `target` is a '
        'JointDistributionPinned, whose prior serves; got None.'
      )
    self._target_fn = _as_log_prob_fn('target', target)
    source: types.Density = target if self._uses_pins else initial
    self._source = source
    self._check_batch_shape(source)
    given = density_space.as_event_space_bijector(
      event_space_bijector, source.event_shape
    )
    self.bijector = given or _default_bijector(source)
    # The default bijector of a normal density does nothing.
    self._is_transformed = given is not None and not isinstance(
      given, tfb.Identity
    )
    self.event_shape = source.event_shape
    self.names = naming.leaf_names(self.event_shape)
    dtypes = {tf.as_dtype(x) for x in tf.nest.flatten(source.dtype)}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating:
      raise ValueError(
        '`target` must be over states of one floating point dtype; got '
        f'{sorted(x.name for x in dtypes)}.'
      )
    self.dtype = next(iter(dtypes))
    try:
      self._shape = self.bijector.inverse_event_shape(self.event_shape)
    except (TypeError, ValueError) as e:
      raise ValueError(
        '`event_space_bijector` must lead to states of event shape '
        f'{self.event_shape}; got {self.bijector!r}.'
      ) from e
    shapes = [tf.TensorShape(x) for x in tf.nest.flatten(self._shape)]
    self._event_ndims = tf.nest.map_structure(
      lambda x: tf.TensorShape(x).rank, self._shape
    )
    self._shapes = [x.as_list() for x in shapes]
    self._sizes = [x.num_elements() for x in shapes]
    self.num_values = sum(self._sizes)
    self._is_positive = (
      self._find_positive(source) if given is None else self._given_positive()
    )
    parts_lib.check_parts('target', self.bijector)
    self._log_simplex = simplex.log_surface(
      source, self.names, self._shape, given
    )
    self.has_exact_gaussian = False
    self.share_unmapped = 0.0
    self._draw = None
    self._draws_singly: bool | None = None
    self._standardize(seed)
    if not _is_pinned(target) and not isinstance(target, tfd.Distribution):
      self._check_independent()

  def _check_independent(self):
    """Raises an error if a state's density depends on the other states."""
    num = _NUM_COMPARED
    y = self.draws[: 3 * num]
    first, second = (
      self.log_probs(tf.concat([y[:num], others], axis=0))[0][:num].numpy()
      for others in (y[num : 2 * num], y[2 * num :])
    )
    known = np.isfinite(first) & np.isfinite(second)
    if not np.allclose(first[known], second[known], rtol=1e-3, atol=1e-2):
      raise ValueError(
        '`target` must return a log density of each state by itself; those it '
        'returned depend on others, as with a tf.reduce_sum without `axis`.'
      )

  def _check_batch_shape(self, source):
    shapes = [tf.TensorShape(x) for x in tf.nest.flatten(source.batch_shape)]
    if any(x.rank != 0 for x in shapes):
      raise ValueError(
        '`target` and `initial` must have a scalar batch shape; got '
        f'{[x.as_list() for x in shapes]}.'
      )

  def _find_positive(self, source):
    """Which values TFP makes positive by `Softplus`; `None` if there are none.

    The exponential function does it here: it makes other units another center,
    and the scales of a hierarchy exponential in a coordinate.
    """
    parts = parts_lib.leaf_distributions(source, self.names)
    if parts is None:
      return None
    try:
      are_positive = [
        isinstance(_default_bijector(part), tfb.Softplus) for part in parts
      ]
    except (AttributeError, NotImplementedError, TypeError, ValueError):
      return None
    if not any(are_positive) or len(are_positive) != len(self._sizes):
      return None
    return np.repeat(are_positive, self._sizes)

  def _given_positive(self):
    """Likewise, for a bijector that the user gave."""
    parts = tf.nest.flatten(getattr(self.bijector, 'bijectors', self.bijector))
    are_positive = [
      isinstance(part, tfb.Softplus)
      and part.parameters['hinge_softness'] is None
      and part.parameters['low'] is None
      for part in parts
    ]
    if not any(are_positive) or len(are_positive) != len(self._sizes):
      return None
    return np.repeat(are_positive, self._sizes)

  def _standardize(self, seed):
    """Finds the center and the scale of the initial density."""
    dtype = self.dtype.as_numpy_dtype
    self.matrix = None
    gaussian = self._as_gaussian()
    if gaussian is not None:
      self.center = tf.reshape(gaussian.mean(), [-1])
      if isinstance(gaussian.scale, tf.linalg.LinearOperatorDiag):
        self.scale = tf.abs(gaussian.scale.diag_part())
      else:
        self.matrix = tf.convert_to_tensor(gaussian.scale.to_dense())
        self.scale = tf.abs(tf.linalg.diag_part(self.matrix))
      self._log_det = tf.reduce_sum(tf.math.log(self.scale))
      self.has_exact_gaussian = True
      self.draws = self.sample_initial(_NUM_DRAWS, seed)
      return
    x = self._draw_unconstrained(_NUM_DRAWS, seed).numpy()
    self.share_unmapped = float(np.mean(np.isnan(x).any(axis=1)))
    center, scale = np.zeros([2, self.num_values])
    for i, column in enumerate(x.T):
      column = column[np.isfinite(column)]
      # Quantiles, as moments of priors may be infinite.
      low, center[i], high = (
        np.quantile(column, [0.16, 0.5, 0.84])
        if len(column) >= _NUM_DRAWS // 2
        else (-1.0, 0.0, 1.0)
      )
      scale[i] = 0.5 * (high - low)
    scale = np.where(np.isfinite(scale) & (scale > 0.0), scale, 1.0)
    self.center = tf.constant(center.astype(dtype))
    self.scale = tf.constant(scale.astype(dtype))
    self._log_det = tf.constant(np.sum(np.log(scale)).astype(dtype))
    self.draws = tf.constant(((x - center) / scale).astype(dtype))

  def _as_gaussian(self):
    """The initial density, if it is normal and over the real space."""
    if self._is_transformed:
      return None
    if self._uses_pins:
      if len(self._sizes) > 1:
        return None
      parts = self.target._get_single_sample_distributions()
      gaussian = parts[0]
    else:
      gaussian = self._source
    is_gaussian = isinstance(gaussian, tfd.MultivariateNormalLinearOperator)
    if not is_gaussian or gaussian.event_shape.rank != 1:
      return None
    try:
      lower = gaussian.scale.to_dense()
    except NotImplementedError:
      return None
    is_lower = bool(
      tf.reduce_all(tf.equal(lower, tf.linalg.band_part(lower, -1, 0)))
    )
    return gaussian if is_lower and self._is_prior(gaussian) else None

  def _is_prior(self, gaussian):
    """Whether a normal density is that of the prior, given what is pinned."""
    if not self._uses_pins:
      return True
    points = tf.eye(_NUM_COMPARED, self.num_values, dtype=self.dtype)
    points = gaussian.mean() + gaussian.scale.matvec(points)
    state = tf.nest.pack_sequence_as(self.event_shape, [points])
    parts = self.target.unnormalized_log_prob_parts(state)
    (prior,) = tf.nest.flatten(parts.unpinned)
    return np.allclose(prior, gaussian.log_prob(points), rtol=1e-4, atol=1e-3)

  def _flatten(self, state):
    parts = [
      tf.reshape(part, [-1, size])
      for part, size in zip(tf.nest.flatten(state), self._sizes, strict=True)
    ]
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=-1)

  def _unflatten(self, x):
    parts = tf.split(x, self._sizes, axis=-1) if len(self._sizes) > 1 else [x]
    parts = [
      tf.reshape(part, x.shape[:-1].as_list() + shape)
      for part, shape in zip(parts, self._shapes, strict=True)
    ]
    return tf.nest.pack_sequence_as(self._shape, parts)

  def unconstrained(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Unconstrained values of the bijector.

    Args:
      y: `Tensor` of shape `[n, num_values]`.

    Returns:
      x: `Tensor` of shape `[n, num_values]`.
      log_det: `Tensor` of shape `[n]`, or a scalar: the log determinant of the
        Jacobian.
    """
    if self.matrix is not None:
      x = self.center + tf.matmul(y, self.matrix, transpose_b=True)
    else:
      x = self.center + self.scale * y
    if self._is_positive is None:
      return x, self._log_det - self._log_simplex
    # The inverse of softplus at the exponential of x.
    t = tf.where(self._is_positive, x, tf.zeros_like(x))
    value = tf.exp(t)
    log_slope = tf.where(
      self._is_positive,
      t - tf.math.log(-tf.math.expm1(-value)),
      tf.zeros_like(x),
    )
    x = tf.where(self._is_positive, tfp.math.softplus_inverse(value), x)
    log_det = self._log_det - self._log_simplex
    return x, log_det + tf.reduce_sum(log_slope, axis=-1)

  def standardized(self, x: tf.Tensor) -> tf.Tensor:
    """Vectors of unconstrained values: the inverse of `unconstrained`.

    Args:
      x: `Tensor` of shape `[n, num_values]`.

    Returns:
      y: `Tensor` of shape `[n, num_values]`.
    """
    if self._is_positive is not None:
      # The other values are not to be NaN, nor their derivatives.
      t = tf.where(self._is_positive, x, tf.zeros_like(x))
      x = tf.where(self._is_positive, tf.math.log(tf.math.softplus(t)), x)
    x = x - self.center
    if self.matrix is None:
      return x / self.scale
    return tf.linalg.matrix_transpose(
      tf.linalg.triangular_solve(self.matrix, tf.linalg.matrix_transpose(x))
    )

  def value_bijector(self) -> tfb.Bijector:
    """The bijector from vectors of unconstrained values to the user's space."""
    is_single = not tf.nest.is_nested(self._shape) or isinstance(
      self._shape, tf.TensorShape
    )
    if is_single:
      return tfb.Chain(
        [self.bijector, tfb.Reshape(self._shapes[0], [self.num_values])]
      )
    count = len(self._sizes)
    return tfb.Chain(
      [
        self.bijector,
        tfb.Restructure(
          tf.nest.pack_sequence_as(self._shape, list(range(count)))
        ),
        tfb.JointMap(
          [
            tfb.Reshape(shape, [size])
            for shape, size in zip(self._shapes, self._sizes, strict=True)
          ]
        ),
        split.StaticSplit(self._sizes),
      ]
    )

  def _draw_unconstrained(self, num_draws, seed):
    # In pieces of one size, for one compiled function.
    num_pieces = -(-num_draws // _NUM_DRAWS)
    pieces = [
      self._draw_piece(randomness.fold_in(seed, i)) for i in range(num_pieces)
    ]
    x = tf.concat(pieces, axis=0)[:num_draws]
    if self._is_positive is None:
      return x
    return tf.where(self._is_positive, tf.math.log(tf.math.softplus(x)), x)

  def _draw_piece(self, seed):
    source = self._source

    def sample(shape, seed):
      if self._uses_pins:
        return source.sample_unpinned(shape, seed=seed)
      return source.sample(shape, seed=seed)

    if self._draws_singly is None:
      # TFP would vectorize the model over the draws by a loop of its own.
      self._draws_singly = getattr(
        source, 'use_vectorized_map', False
      ) or not self._has_shape_of_draws(sample([3], seed), 3)

    def draw(seed):
      with randomness.portable_sampling():
        if self._draws_singly:
          return tf.map_fn(
            lambda one_seed: self._flatten(
              self.bijector.inverse(sample([], one_seed))
            )[0],
            randomness.split_seed(seed, _NUM_DRAWS),
            fn_output_signature=self.dtype,
          )
        return self._flatten(self.bijector.inverse(sample(_NUM_DRAWS, seed)))

    if not self._draws_singly:
      return draw(seed)
    if self._draw is None:
      self._draw = tf.function(draw, autograph=False, jit_compile=True)
      try:
        return self._draw(seed)
      except (tf.errors.OpError, ValueError, NotImplementedError):
        # Some samplers have ops that XLA does not know.
        self._draw = tf.function(draw, autograph=False)
    return self._draw(seed)

  def _has_shape_of_draws(self, state, num_draws):
    """Whether it is a draw for each, as not where a `Root` depends on others.

    Such a part of a `JointDistributionCoroutine` has as many draws for each of
    the draws of what it depends on.
    """
    return all(
      value.shape == tf.TensorShape([num_draws]) + shape
      for value, shape in zip(
        tf.nest.flatten(state),
        map(tf.TensorShape, tf.nest.flatten(self.event_shape)),
        strict=True,
      )
    )

  def sample_initial(
    self, num_draws: int, seed: types.StatelessSeed
  ) -> tf.Tensor:
    """Draws vectors from the initial density.

    Args:
      num_draws: Python `int`.
      seed: Stateless seed.

    Returns:
      y: `Tensor` of shape `[num_draws, num_values]`.
    """
    if self.has_exact_gaussian:
      return randomness.normal([num_draws, self.num_values], seed, self.dtype)
    return (
      self._draw_unconstrained(num_draws, seed) - self.center
    ) / self.scale

  def suits_xla(self) -> bool:
    """Whether the target is to be compiled with XLA."""
    is_on_cpu = not tf.config.list_physical_devices('GPU')
    if is_on_cpu and self.num_values < _LEAST_FOR_XLA:
      return False
    spec = tf.TensorSpec([2, self.num_values], self.dtype)

    def gradient(y):
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(y)
        log_prob, _ = self.log_probs(y)
      return tape.gradient(
        log_prob, y, unconnected_gradients=tf.UnconnectedGradients.ZERO
      )

    graph = (
      tf.function(gradient, autograph=False)
      .get_concrete_function(spec)
      .graph.as_graph_def()
    )
    nodes = [graph.node, *(fn.node_def for fn in graph.library.function)]
    ops = {node.op for group in nodes for node in group}
    if ops & _FACTORIZATIONS and is_on_cpu:
      return False
    try:
      # A concrete function, as each posterior has another one to try.
      tf.function(
        gradient, autograph=False, jit_compile=True
      ).get_concrete_function(spec)(self.draws[:2])
    except (tf.errors.OpError, NotImplementedError):
      return False
    return True

  def value_names(self) -> list:
    """Names of the entries of a vector, for messages."""
    if len(self.names) != len(self._sizes):
      return [f'unconstrained value {i}' for i in range(self.num_values)]
    return [
      name + (f'[{i}]' if size > 1 else '')
      for name, size in zip(self.names, self._sizes, strict=True)
      for i in range(size)
    ]

  def to_user(self, y: tf.Tensor) -> types.Structure:
    """Maps vectors to the user's space.

    Args:
      y: `Tensor` of shape `batch + [num_values]`.

    Returns:
      value: Nested structure of `Tensor`s of shape `batch + event`.
    """
    return self.bijector.forward(self._unflatten(self.unconstrained(y)[0]))

  @compatibility.with_maps_inlined
  def log_probs(
    self, y: tf.Tensor, with_initial: bool = False
  ) -> tuple[tf.Tensor, tf.Tensor | None]:
    """The log densities of vectors.

    Args:
      y: `Tensor` of shape `[num_particles, num_values]`.
      with_initial: Python `bool`: whether to return the initial one too.

    Returns:
      log_target: `Tensor` of shape `[num_particles]`.
      log_initial: Likewise, or `None`.
    """
    x, log_det = self.unconstrained(y)
    state = self._unflatten(x)
    value = self.bijector.forward(state)
    log_det += tf.cast(
      self.bijector.forward_log_det_jacobian(state, self._event_ndims),
      self.dtype,
    )
    if self._uses_pins and self.has_exact_gaussian:
      # The prior's own density would take a triangular solve.
      parts = self.target.unnormalized_log_prob_parts(value)
      likelihood = sum(self._check(x, y) for x in tf.nest.flatten(parts.pinned))
      log_initial = -0.5 * tf.reduce_sum(y**2 + np.log(2.0 * np.pi), axis=-1)
      return likelihood + log_initial, log_initial
    if not with_initial:
      return self._check_target(self._target_fn(value), y) + log_det, None
    if self._uses_pins:
      parts = self.target.unnormalized_log_prob_parts(value)
      prior, likelihood = (
        sum(self._check(x, y) for x in tf.nest.flatten(part))
        for part in (parts.unpinned, parts.pinned)
      )
      return prior + likelihood + log_det, prior + log_det
    return (
      self._check_target(self._target_fn(value), y) + log_det,
      self._check(self._source.log_prob(value), y) + log_det,
    )

  def _check_target(self, log_prob, y):
    """Refuses a single number for all states, unlike `_check`."""
    log_prob = tf.convert_to_tensor(log_prob)
    if not log_prob.shape.is_compatible_with(y.shape[:1]):
      raise ValueError(
        '`target` must return one log density for each state, of shape '
        f'{y.shape[:1].as_list()}; it returned shape {log_prob.shape}.'
      )
    return self._check(log_prob, y)

  def _check(self, log_prob, y):
    log_prob = tf.cast(log_prob, self.dtype)
    try:
      return tf.broadcast_to(log_prob, y.shape[:1])
    except (ValueError, tf.errors.InvalidArgumentError) as e:
      raise ValueError(
        '`target` must return one log density for each state, of shape '
        f'{y.shape[:1].as_list()}; it returned shape '
        f'{log_prob.shape.as_list()}.'
      ) from e

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's target as a log density over vectors of real numbers.

The posterior's stages work on vectors `y` of a real space that is standardized
by the initial density: `x = center + scale y` are the coordinates of a state,
which a `StateMap` takes to the user's space. All log densities here include the
Jacobians of both maps, so that their integrals over `y` are those over the
user's space.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import checks, compatibility, randomness, types
from tfp_nvi.posterior import initial as initial_lib
from tfp_nvi.posterior import state_map

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
    uses_pins: Python `bool`: whether the initial density is the prior of a
      pinned model.

  Args:
    target: `JointDistributionPinned`, `tfd.Distribution` or callable.
    initial: `tfd.Distribution`; or `None`, for the model's prior where the
      target is pinned.
    event_space_bijector: `tfb.Bijector` from the real space, nested structure
      of these, or `None` for the one that TFP knows of.
    seed: Stateless seed, for the draws that standardize the space.
    prior: `tfb.Bijector` by `noncentered_prior` of the target, where
      `event_space_bijector` is the one by `noncentered_bijector`.
      Default value: `None`.

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
    prior: tfb.Bijector | None = None,
  ):
    checks.check_instance(
      'initial', initial, tfd.Distribution, 'a tfd.Distribution', optional=True
    )
    self.target = target
    self._prior = prior
    self.uses_pins = _is_pinned(target) and initial is None
    if initial is None and not self.uses_pins:
      densities_lib.log_prob_fn(target, 'target')
      raise ValueError(
        '`initial` must be a distribution unless `target` is a '
        'JointDistributionPinned, whose prior serves; got None.'
      )
    self._target_fn = densities_lib.log_prob_fn(target, 'target')
    source: types.Density = target if self.uses_pins else initial
    self._source = source
    self._check_batch_shape(source)
    dtypes = {tf.as_dtype(x) for x in tf.nest.flatten(source.dtype)}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating:
      raise ValueError(
        '`target` must be over states of one floating point dtype; got '
        f'{sorted(x.name for x in dtypes)}.'
      )
    self.dtype = next(iter(dtypes))
    self.state_map = state_map.StateMap(source, event_space_bijector)
    self.names = self.state_map.names
    self.num_values = self.state_map.num_values
    self._initial = initial_lib.InitialDensity(
      source, self.state_map, self.dtype
    )
    self.has_exact_gaussian = False
    self.share_unmapped = 0.0
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

  def _standardize(self, seed):
    """Finds the center and the scale of the initial density."""
    dtype = self.dtype.as_numpy_dtype
    self.matrix = None
    gaussian = self._initial.as_gaussian()
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
    x = self._initial.sample(_NUM_DRAWS, seed).numpy()
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

  def unconstrained(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Unconstrained values of the bijector.

    Args:
      y: `Tensor` of shape `[n, num_values]`.

    Returns:
      values: `Tensor` of shape `[n, num_values]`.
      log_det: `Tensor` of shape `[n]`, or a scalar: the log determinant of the
        Jacobian.
    """
    if self.matrix is not None:
      x = self.center + tf.matmul(y, self.matrix, transpose_b=True)
    else:
      x = self.center + self.scale * y
    values, log_det = self.state_map.unconstrained(x)
    return values, self._log_det + log_det

  def standardized(self, values: tf.Tensor) -> tf.Tensor:
    """Vectors of unconstrained values: the inverse of `unconstrained`.

    Args:
      values: `Tensor` of shape `[n, num_values]`.

    Returns:
      y: `Tensor` of shape `[n, num_values]`.
    """
    x = self.state_map.coordinates(values) - self.center
    if self.matrix is None:
      return x / self.scale
    return tf.linalg.matrix_transpose(
      tf.linalg.triangular_solve(self.matrix, tf.linalg.matrix_transpose(x))
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
    x = self._initial.sample(num_draws, seed)
    return (x - self.center) / self.scale

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

  def to_user(self, y: tf.Tensor) -> types.Structure:
    """Maps vectors to the user's space.

    Args:
      y: `Tensor` of shape `batch + [num_values]`.

    Returns:
      value: Nested structure of `Tensor`s of shape `batch + event`.
    """
    return self.state_map.state(self.unconstrained(y)[0])

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
    values, log_det = self.unconstrained(y)
    if self._prior is not None:
      parts = self.target.unnormalized_log_prob_parts(
        self.state_map.state(values)
      )
      log_initial = log_det + self._check(
        self.state_map.log_prior(self._prior, values), y
      )
      likelihood = sum(self._check(x, y) for x in tf.nest.flatten(parts.pinned))
      return likelihood + log_initial, log_initial
    state, log_det_of_state = self.state_map.state_and_log_det(values)
    log_det += log_det_of_state
    if self.uses_pins and self.has_exact_gaussian:
      # The prior's own density would take a triangular solve.
      parts = self.target.unnormalized_log_prob_parts(state)
      likelihood = sum(self._check(x, y) for x in tf.nest.flatten(parts.pinned))
      log_initial = -0.5 * tf.reduce_sum(y**2 + np.log(2.0 * np.pi), axis=-1)
      return likelihood + log_initial, log_initial
    if not with_initial:
      return self._check_target(self._target_fn(state), y) + log_det, None
    if self.uses_pins:
      parts = self.target.unnormalized_log_prob_parts(state)
      prior, likelihood = (
        sum(self._check(x, y) for x in tf.nest.flatten(part))
        for part in (parts.unpinned, parts.pinned)
      )
      return prior + likelihood + log_det, prior + log_det
    return (
      self._check_target(self._target_fn(state), y) + log_det,
      self._check(self._source.log_prob(state), y) + log_det,
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

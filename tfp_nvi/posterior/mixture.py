# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of Gaussians as starts of paths, for densities with several modes.

The modes are found by optimization from many points, and each gets a Gaussian
with the curvature of the log density there (Laplace's method). Particles of a
run are spread over the components by systematic sampling, so that no run lacks
a component, and the path's weights correct what is wrong with the mixture.
"""

import functools
import typing
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import randomness, types
from tfp_nvi.posterior import space as space_lib

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'MAX_COMPONENTS',
  'Mixture',
  'as_distribution',
  'draw',
  'find_mixture',
  'fit_to_particles',
  'from_arrays',
  'log_prob',
  'nearest_center',
]

# Where there are more modes than this, none are looked for any further.
MAX_COMPONENTS = 64
_MAX_ITERATIONS = 40
# Starts that are optimized together, how often at least and at most, and how
# many of them are to have led to each mode.
_NUM_STARTS = 64
_NUM_ROUNDS = (5, 48)
_LEAST_COUNT = 4
# How many modes may have fewer starts than that at the end, as a share of the
# starts: as many more would hardly lead to other ones.
_MOST_RARE = 0.002
# The least share of starts that must lead to modes.
_LEAST_FOUND = 0.5
# Optimization ends when so many starts have converged: a few never do.
_CONVERGED_SHARE = 0.85
# Modes closer than this, in deviations of the higher one, are the same.
_LEAST_DISTANCE = 1.0
# Modes of a Laplace evidence that is so much lower than the highest one, in
# nats, are left out.
_MAX_DIFFERENCE = 15.0
# Those that are lower by more than this are not searched for any further.
_LOW_DIFFERENCE = 5.0
# The share of draws that wider components leave effective where the mixture is
# exact. They are for the tails that no curvature shows.
_EFFECTIVE_SHARE = 0.95
# The widest component, in deviations of the initial density.
_MAX_DEVIATION = 2.0
# Steps of the differences of gradients, in deviations of a mode.
_DIFFERENCE_STEP = 0.3
# By how much a fit must raise the mean log density of particles that it was not
# fitted to, in nats.
_LEAST_GAIN = 0.02
# The share of wider copies of components before they are fitted.
_TAIL_SHARE = 0.2
# Above so many values copies hardly overlap with what they are copies of.
_MAX_TAILED = 32


class Mixture(typing.NamedTuple):
  """A mixture of `C` Gaussians.

  Fields:
    log_shares: `Tensor` of shape `[C]`.
    centers: `Tensor` of shape `[C, d]`.
    roots: `Tensor` of shape `[C, d, d]`: square roots of the covariances.
    inverse_roots: `Tensor` of shape `[C, d, d]`.
    log_dets: `Tensor` of shape `[C]`: log determinants of the roots.
  """

  log_shares: tf.Tensor
  centers: tf.Tensor
  roots: tf.Tensor
  inverse_roots: tf.Tensor
  log_dets: tf.Tensor


def from_arrays(
  shares: np.ndarray,
  centers: np.ndarray,
  covariances: np.ndarray,
  dtype: tf.DType,
) -> Mixture:
  """Makes a mixture.

  Args:
    shares: Array of shape `[C]`, with sum one.
    centers: Array of shape `[C, d]`.
    covariances: Array of shape `[C, d, d]`.
    dtype: `tf.DType`.

  Returns:
    mixture: `Mixture`.
  """
  roots = np.linalg.cholesky(covariances)
  arrays = (
    np.log(shares),
    centers,
    roots,
    np.linalg.inv(roots),
    np.linalg.slogdet(roots)[1],
  )
  return Mixture(*(tf.constant(x.astype(dtype.as_numpy_dtype)) for x in arrays))


def _log_components(mixture, y):
  """Log densities of the components with their shares, of shape `[n, C]`."""
  # The centers are taken off after the product, so that there is no array of
  # shape [n, C, d] before it.
  z = tf.einsum('nd,ced->nce', y, mixture.inverse_roots) - tf.einsum(
    'cd,ced->ce', mixture.centers, mixture.inverse_roots
  )
  constant = 0.5 * y.shape[-1] * np.log(2.0 * np.pi)
  return (
    mixture.log_shares
    - mixture.log_dets
    - 0.5 * tf.reduce_sum(z**2, axis=-1)
    - constant
  )


def log_prob(mixture: Mixture, y: tf.Tensor) -> tf.Tensor:
  """The log density.

  Args:
    mixture: `Mixture`.
    y: `Tensor` of shape `[n, d]`.

  Returns:
    log_prob: `Tensor` of shape `[n]`.
  """
  return tf.reduce_logsumexp(_log_components(mixture, y), axis=-1)


def nearest_center(mixture: Mixture, y: tf.Tensor) -> tf.Tensor:
  """The center of the component that most likely drew a point.

  Args:
    mixture: `Mixture`.
    y: `Tensor` of shape `[n, d]`.

  Returns:
    center: `Tensor` of shape `[n, d]`.
  """
  return tf.gather(
    mixture.centers, tf.argmax(_log_components(mixture, y), axis=-1)
  )


def draw(
  mixture: Mixture,
  num_draws: int,
  num_runs: int,
  seed: types.StatelessSeed,
  index: int | tf.Tensor | None = None,
) -> tf.Tensor:
  """Draws points for several independent runs.

  The components of each run's points are a systematic sample: a component of
  share `s` has `num_draws s` points, rounded up or down at random.

  Args:
    mixture: `Mixture`.
    num_draws: Python `int`: points of a run.
    num_runs: Python `int`.
    seed: Stateless seed.
    index: int: different ones give other points of the same components.
      Default value: `None`.

  Returns:
    y: `Tensor` of shape `[num_draws * num_runs, d]`, the runs being the axis
      that changes fastest.
  """
  dtype = mixture.centers.dtype
  offset_seed, order_seed, noise_seed = tf.unstack(
    randomness.split_seed(seed, 3)
  )
  offset = randomness.uniform([1, num_runs], offset_seed, dtype)
  # In no order, so that each half of a run's points has all components.
  order = tf.argsort(randomness.uniform([num_draws], order_seed, dtype))
  rank = tf.cast(order, dtype)[:, tf.newaxis]
  places = tf.reshape((rank + offset) / num_draws, [-1])
  ends = tf.cumsum(tf.exp(mixture.log_shares))
  component = tf.minimum(
    tf.searchsorted(ends / ends[-1], places, side='right'),
    mixture.centers.shape[0] - 1,
  )
  if index is not None:
    noise_seed = randomness.fold_in(noise_seed, index)
  noise = randomness.normal(
    [num_draws * num_runs, mixture.centers.shape[1]], noise_seed, dtype
  )
  scaled = tf.einsum('nd,ned->ne', noise, tf.gather(mixture.roots, component))
  return tf.gather(mixture.centers, component) + scaled


def as_distribution(mixture: Mixture) -> tfd.Distribution:
  """The mixture as a distribution over vectors of `d` values."""
  return tfd.MixtureSameFamily(
    tfd.Categorical(mixture.log_shares),
    tfd.MultivariateNormalTriL(mixture.centers, mixture.roots),
  )


def _have_most_converged(converged, failed):
  share = tf.reduce_mean(tf.cast(converged | failed, tf.float32))
  return share > _CONVERGED_SHARE


class _Target:
  """The target's log density and its gradient, compiled; counts evaluations."""

  def __init__(self, space, num_points, jit_compile):
    self.num_evaluations = 0
    self._num_points = num_points
    self._dtype = space.dtype
    self._size = space.num_values

    def evaluate(y):
      """A density that is not finite counts as a high plateau."""
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(y)
        value = -space.log_probs(y)[0]
      gradient = tape.gradient(
        value, y, unconnected_gradients=tf.UnconnectedGradients.ZERO
      )
      is_finite = tf.math.is_finite(value) & tf.reduce_all(
        tf.math.is_finite(gradient), axis=-1
      )
      return (
        tf.where(is_finite, value, tf.constant(1e30, value.dtype)),
        tf.where(is_finite[:, tf.newaxis], gradient, tf.zeros_like(gradient)),
      )

    def minimize(y):
      found = tfp.optimizer.lbfgs_minimize(
        evaluate,
        y,
        num_correction_pairs=8,
        tolerance=1e-4,
        f_relative_tolerance=1e-6,
        max_iterations=_MAX_ITERATIONS,
        max_line_search_iterations=10,
        stopping_condition=_have_most_converged,
      )
      return (
        found.position,
        found.objective_value,
        found.num_objective_evaluations,
      )

    compiled = functools.partial(
      tf.function, autograph=False, jit_compile=jit_compile
    )
    spec = tf.TensorSpec([num_points, self._size], space.dtype)
    self._evaluate = compiled(evaluate).get_concrete_function(spec)
    self._minimize = compiled(minimize).get_concrete_function(spec)

  def minimize(self, points):
    """Local maxima of the log density, and what it is there."""
    pieces = []
    for piece in self._pieces(points):
      position, value, count = self._minimize(piece)
      self.num_evaluations += int(count) * self._num_points
      pieces.append((position.numpy(), -value.numpy().astype(np.float64)))
    position, value = map(np.concatenate, zip(*pieces, strict=True))
    return position[: len(points)], value[: len(points)]

  def gradient(self, points):
    """Gradients of the negative log density."""
    pieces = [self._evaluate(x)[1].numpy() for x in self._pieces(points)]
    self.num_evaluations += len(points)
    return np.concatenate(pieces)[: len(points)]

  def _pieces(self, points):
    """Pieces of one size, filled up with copies of the last point."""
    size = self._num_points
    dtype = self._dtype.as_numpy_dtype
    for i in range(0, len(points), size):
      piece = points[i : i + size].astype(dtype)
      missing = size - len(piece)
      yield tf.constant(
        np.concatenate([piece, np.repeat(piece[-1:], missing, 0)])
      )


def _covariance(target, center):
  """The inverse curvature of the negative log density, and its gradient.

  By differences of gradients, with steps in units of the deviations that a
  first round of them finds.
  """
  size = len(center)
  deviations = np.full(size, 0.03)
  for _ in range(2):
    steps = np.diag(_DIFFERENCE_STEP * deviations)
    points = np.concatenate([center + steps, center - steps])
    above, below = np.split(target.gradient(points).astype(np.float64), 2)
    hessian = (above - below) / (2.0 * np.diag(steps)[:, np.newaxis])
    curvature = np.maximum(np.diag(hessian), _MAX_DEVIATION**-2)
    deviations = np.clip(curvature**-0.5, 1e-5, _MAX_DEVIATION)
  eigenvalues, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
  eigenvalues = np.maximum(eigenvalues, _MAX_DEVIATION**-2)
  return (vectors / eigenvalues) @ vectors.T, np.mean((above + below) / 2.0, 0)


class _Modes:
  """Modes that were found, and how many starts led to each.

  Attributes:
    centers: List of arrays of shape `[d]`.
    covariances: List of arrays of shape `[d, d]`.
    evidences: List of Python `float`s: logarithms, by Laplace's method.
    counts: List of Python `int`s.
    is_full: Python `bool`: whether there are more modes than are kept.
  """

  def __init__(self, target):
    self._target = target
    self._inverse_roots = []
    self._highest = -np.inf
    self.centers, self.covariances, self.evidences = [], [], []
    self.counts = []
    self.is_full = False

  def add(self, points, values):
    """Adds local maxima of the log density, the highest ones first."""
    self._highest = max(self._highest, np.max(values))
    for i in np.argsort(-values):
      known = self._find(points[i])
      if known is not None:
        self.counts[known] += 1
        continue
      # So low that it would have to be very wide.
      if values[i] < self._highest - 10.0 * _MAX_DIFFERENCE:
        return
      covariance, gradient = _covariance(self._target, points[i])
      if gradient @ covariance @ gradient > _LEAST_DISTANCE**2:
        # Newton's step would lead away from here.
        continue
      root = np.linalg.cholesky(covariance)
      self.centers.append(points[i])
      self.covariances.append(covariance)
      self.evidences.append(values[i] + np.linalg.slogdet(root)[1])
      self.counts.append(1)
      self._inverse_roots.append(np.linalg.inv(root))
      # Modes of no evidence do not count, however many there are.
      self.is_full = np.sum(self.are_kept()) > MAX_COMPONENTS
      if self.is_full:
        return

  def are_kept(self):
    """Which modes are of some evidence."""
    evidences = np.array(self.evidences)
    if not self.evidences:
      return np.zeros([0], bool)
    return evidences > evidences.max() - _MAX_DIFFERENCE

  def high_counts(self):
    """How many starts have led to each mode of much evidence."""
    evidences = np.array(self.evidences)
    is_high = evidences > evidences.max(initial=-np.inf) - _LOW_DIFFERENCE
    return np.array(self.counts, int)[is_high]

  def _find(self, point):
    """The index of the mode that a point is at, or `None`."""
    if not self.centers:
      return None
    z = np.einsum(
      'ced,cd->ce', np.array(self._inverse_roots), point - self.centers
    )
    squares = np.sum(z**2, axis=1)
    best = int(np.argmin(squares))
    return best if squares[best] < _LEAST_DISTANCE**2 else None


def find_mixture(
  space: space_lib.VectorSpace,
  starts: np.ndarray,
  draw_fn: Callable,
  jit_compile: bool = True,
) -> tuple[Mixture | None, dict]:
  """Finds modes, and a mixture with a Gaussian for each of them.

  Starts are drawn until each mode was found several times. The number of modes
  that were found once, over the number of starts, is an estimate of the
  probability that the next start leads to another one [3].

  Args:
    space: `VectorSpace`.
    starts: Array of shape `[n, d]`: points to start optimization from.
    draw_fn: Python callable from an `int` to an array of more of these.
    jit_compile: Python `bool`.

  Returns:
    mixture: `Mixture`; or `None`, where there are too many modes or none.
    found: Python `dict`: `num_modes`; `least_count`, the number of starts that
      led to the one to which the fewest did; `num_starts`; and
      `num_evaluations`: gradients of the target.

  #### References

  [1]: D. C. Liu, J. Nocedal. On the limited memory BFGS method for large scale
       optimization. Mathematical Programming, 45, 1989.
  [2]: L. Tierney, J. B. Kadane. Accurate approximations for posterior moments
       and marginal densities. Journal of the American Statistical Association,
       81(393), 1986.
  [3]: I. J. Good. The population frequencies of species and the estimation of
       population parameters. Biometrika, 40, 1953.
  """
  target = _Target(space, _NUM_STARTS, jit_compile)
  modes = _Modes(target)
  num_starts = 0
  for i in range(_NUM_ROUNDS[1]):
    if i > 0:
      starts = draw_fn(i)
    starts = starts[np.isfinite(starts).all(axis=1)]
    points, values = target.minimize(starts)
    num_starts += len(starts)
    kept = np.isfinite(points).all(axis=1) & (values > -1e29)
    if kept.any():
      modes.add(points[kept].astype(np.float64), values[kept])
    # Most starts run away along the neck of a funnel, for example.
    is_without_modes = sum(modes.counts) < _LEAST_FOUND * num_starts
    counts = modes.high_counts()
    num_rare = np.sum(counts < _LEAST_COUNT)
    is_done = i + 1 >= _NUM_ROUNDS[0] and num_rare <= _MOST_RARE * num_starts
    if modes.is_full or is_without_modes or is_done:
      break
  found = {
    'num_modes': int(np.sum(modes.are_kept())),
    'least_count': int(min(counts, default=0)),
    'num_starts': num_starts,
    'num_evaluations': target.num_evaluations,
  }
  if modes.is_full or is_without_modes:
    return None, found
  kept = modes.are_kept()
  evidences = np.array(modes.evidences)[kept]
  shares = np.exp(evidences - evidences.max())
  # A normal density of variance 1 + x has a share of 1 - d x^2 / 2 effective.
  width = 1.0 + np.sqrt(2.0 * (1.0 - _EFFECTIVE_SHARE) / space.num_values)
  mixture = from_arrays(
    shares / shares.sum(),
    np.array(modes.centers)[kept],
    width * np.array(modes.covariances)[kept],
    space.dtype,
  )
  return mixture, found


def fit_to_particles(
  previous: Mixture, y: np.ndarray, weights: np.ndarray
) -> tuple[Mixture, float]:
  """One step of expectation maximization, as far as it pays.

  Shares, scales, and covariances that are shrunk towards the previous ones are
  fitted to one half of the points and judged by the other half; so are scales
  and covariances with a wider copy of each component, for heavy tails, in up
  to 32 dimensions.

  Args:
    previous: `Mixture`.
    y: Array of shape `[n, d]`.
    weights: Array of shape `[n]`, with sum one.

  Returns:
    mixture: `Mixture`.
    gain: Python `float`: by how much the mean log density of points rises that
      it was not fitted to; zero if `mixture` is the previous one.
  """
  dtype = previous.centers.dtype
  kept = weights > 0.0
  y, weights = y[kept], weights[kept] / weights[kept].sum()
  # Neighbours may descend from one particle.
  is_first = np.cumsum(weights) <= 0.5
  halves = [(y[half], weights[half]) for half in (is_first, ~is_first)]
  candidates = [
    functools.partial(_expectation_maximization, previous, kind=kind)
    for kind in ('shares', 'scales', 'covariances')
  ]
  is_small = y.shape[1] <= _MAX_TAILED
  if is_small and len(previous.centers) <= MAX_COMPONENTS // 2:
    tailed = _with_tails(previous)
    candidates += [
      functools.partial(_expectation_maximization, tailed, kind=kind)
      for kind in ('scales', 'covariances')
    ]

  def loss(mixture, points, point_weights):
    values = log_prob(mixture, tf.constant(points, dtype)).numpy()
    return -float(point_weights @ values.astype(np.float64))

  if any(len(points) < 2 for points, _ in halves):
    return previous, 0.0
  before = sum(loss(previous, *half) for half in halves)
  after = [
    sum(loss(fit(*half), *other) for half, other in (halves, halves[::-1]))
    for fit in candidates
  ]
  best = int(np.argmin(after))
  if before - after[best] < _LEAST_GAIN:
    return previous, 0.0
  return candidates[best](y, weights), before - after[best]


def _with_tails(mixture):
  """The mixture with a wider copy of each component."""
  roots = np.asarray(mixture.roots, np.float64)
  covariances = roots @ roots.transpose(0, 2, 1)
  shares = np.exp(np.asarray(mixture.log_shares, np.float64))
  centers = np.asarray(mixture.centers, np.float64)
  # Squared lengths have the mean d and the deviation sqrt(2 d).
  width = 1.0 + 3.0 * np.sqrt(2.0 / centers.shape[1])
  return from_arrays(
    np.concatenate([(1.0 - _TAIL_SHARE) * shares, _TAIL_SHARE * shares]),
    np.concatenate([centers, centers]),
    np.concatenate([covariances, width * covariances]),
    mixture.centers.dtype,
  )


def _expectation_maximization(previous, y, weights, kind):
  """Fits shares, shares and scales, or all parameters."""
  dtype = previous.centers.dtype
  log_components = _log_components(previous, tf.constant(y, dtype)).numpy()
  log_components = log_components.astype(np.float64)
  responsibility = np.exp(
    log_components - np.logaddexp.reduce(log_components, axis=1, keepdims=True)
  )
  mass = weights[:, np.newaxis] * responsibility
  total = mass.sum(axis=0)
  count = total**2 / np.maximum((mass**2).sum(axis=0), 1e-300)
  size = y.shape[1]
  centers = np.asarray(previous.centers, np.float64).copy()
  roots = np.asarray(previous.roots, np.float64)
  covariances = roots @ roots.transpose(0, 2, 1)
  # A component with few points keeps what it is.
  shares = total + 1.0 / max(np.sum(count), 1.0) / len(total)
  for c in np.flatnonzero(count > 2.0):
    own = mass[:, c] / total[c]
    mean = own @ y
    centered = y - mean
    # As if as many points as there are parameters had been seen before.
    trust = count[c] / (count[c] + 2.0 * size)
    z = np.linalg.solve(roots[c], centered.T).T
    scale = own @ np.sum(z**2, axis=1) / size
    if kind == 'scales':
      covariances[c] *= (1.0 - trust) + trust * scale
    elif kind == 'covariances':
      found = centered.T @ (own[:, np.newaxis] * centered)
      covariances[c] = (1.0 - trust) * covariances[c] + trust * found
    if kind != 'shares':
      centers[c] += trust * (mean - centers[c])
  return from_arrays(shares / shares.sum(), centers, covariances, dtype)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The planar flow has the determinant, inverse and derivatives it states.

The flow is written down a second time in NumPy float64 (`reference`), with the
determinant of the whole Jacobian matrix; its inverse by bisection.

False alarms: the one statistical test has a fixed seed; over seeds it would
reject correct draws with probability 1e-6.
"""

import re

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import planar, planar_map

tfb = tfp.bijectors
tfd = tfp.distributions

DTYPES = [tf.float32, tf.float64]
every_dtype = pytest.mark.parametrize(
  'dtype', DTYPES, ids=lambda dtype: dtype.name
)
# Values of w . u, from nearly not invertible to a steep expansion.
PRODUCTS = [-1e3, -80.0, -15.0, -3.0, 0.0, 0.5, 5.0, 80.0, 1e3]


def epsilon(dtype):
  return np.finfo(dtype.as_numpy_dtype).eps


def draw(shape, seed, dtype=tf.float64, scale=1.0):
  """Normal numbers that have the same value in every dtype."""
  numbers = np.random.default_rng(seed).normal(scale=scale, size=shape)
  return tf.constant(numbers.astype(np.float32), dtype)


def draw_parameters(batch, size, dtype=tf.float64):
  return (
    draw([*batch, size], 1, dtype, 1.5),
    draw([*batch, size], 2, dtype, 1.5),
    draw(batch, 3, dtype),
  )


def parameters_with_product(product, dtype):
  """Parameters in three dimensions for which w . u is `product`."""
  normal = np.array([2.0, -1.0, 2.0])
  tangent = np.array([1.0, 4.0, 1.0])
  direction = product * normal / 9.0 + tangent
  return tuple(tf.constant(v, dtype) for v in (direction, normal, 0.25))


def reference(x, direction, normal, bias):
  """The flow at one point: y, log |det|, and the Jacobian matrix."""
  x, direction, normal = (np.asarray(v, float) for v in (x, direction, normal))
  product = direction @ normal
  target = np.logaddexp(0.0, product) - 1.0
  direction = direction + (target - product) * normal / (normal @ normal)
  z = normal @ x + float(bias)
  jacobian = np.eye(x.size) + np.outer(direction, normal) / np.cosh(z) ** 2
  sign, log_det = np.linalg.slogdet(jacobian)
  assert sign > 0
  return x + direction * np.tanh(z), log_det, jacobian


def uncached(value):
  """The same values, unknown to the cache of a bijector."""
  return tf.identity(value)


@every_dtype
@pytest.mark.parametrize('size', [1, 2, 5])
def test_is_bijective_and_finite(size, dtype):
  flow = planar.PlanarFlow(*draw_parameters([], size, dtype))
  points = draw([50, size], 0, dtype, 3.0)
  scale = 30.0 * epsilon(dtype)

  y = flow.forward(points)
  log_det = flow.forward_log_det_jacobian(points)
  x = flow.inverse(uncached(y))
  inverse_log_det = flow.inverse_log_det_jacobian(uncached(y))
  assert y.shape == x.shape == points.shape
  assert log_det.shape == inverse_log_det.shape == [50]
  assert y.dtype == log_det.dtype == x.dtype == inverse_log_det.dtype == dtype
  # How far rounding in y may move x, and log_det with it.
  stretch = 1.0 / np.exp(np.min(log_det))
  assert stretch < 100.0
  np.testing.assert_allclose(x, points, atol=10.0 * scale * stretch)
  np.testing.assert_allclose(
    inverse_log_det, -log_det, atol=30.0 * scale * stretch
  )

  x = flow.inverse(points)
  np.testing.assert_allclose(
    flow.forward(uncached(x)), points, atol=10.0 * scale
  )
  assert np.all(np.isfinite(flow.inverse_log_det_jacobian(points)))


@every_dtype
def test_matches_reference(dtype):
  parameters = draw_parameters([], 4, dtype)
  points = draw([30, 4], 0, dtype)
  y, log_det = planar_map.planar_forward(points, *parameters)
  x, inverse_log_det = planar_map.planar_inverse(y, *parameters)
  expected = [reference(point, *parameters)[:2] for point in points]
  tolerance = 100.0 * epsilon(dtype)
  np.testing.assert_allclose(y, [e[0] for e in expected], atol=tolerance)
  np.testing.assert_allclose(log_det, [e[1] for e in expected], atol=tolerance)
  stretch = 1.0 / np.exp(np.min(log_det))
  np.testing.assert_allclose(x, points, atol=tolerance * stretch)
  np.testing.assert_allclose(
    inverse_log_det, -log_det, atol=10.0 * tolerance * stretch
  )


@pytest.mark.parametrize('size', [1, 3])
def test_log_det_is_that_of_the_jacobian(size):
  flow = planar.PlanarFlow(*draw_parameters([], size))
  x = draw([20, size], 0)
  for function, log_det in (
    (flow.forward, flow.forward_log_det_jacobian),
    (flow.inverse, flow.inverse_log_det_jacobian),
  ):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = function(x)
    sign, expected = np.linalg.slogdet(tape.batch_jacobian(y, x))
    assert np.all(sign == 1.0)
    np.testing.assert_allclose(log_det(uncached(x)), expected, atol=1e-11)


@pytest.mark.parametrize('product', [-10.0, 0.0, 10.0])
def test_scalar_flow_is_the_integral_of_its_determinant(product):
  flow = planar.PlanarFlow(tf.constant([product / 2.0], tf.float64), [2.0], 0.3)
  # Gauss-Legendre in each of 64 intervals.
  nodes, weights = np.polynomial.legendre.leggauss(20)
  edges = np.linspace(-5.0, 5.0, 65)
  half = 0.5 * (edges[1] - edges[0])
  points = (edges[:-1] + half)[:, np.newaxis] + half * nodes
  log_det = flow.forward_log_det_jacobian(points[..., np.newaxis])
  y = flow.forward(edges[:, np.newaxis])[:, 0]
  np.testing.assert_allclose(
    np.diff(y), half * np.sum(np.exp(log_det) * weights, axis=-1), atol=1e-12
  )


def test_log_det_keeps_precision_where_tanh_saturates():
  # In float32, 1 - tanh(8)^2 has one digit; here it is multiplied by 1e6.
  x = tf.constant([8.0])
  with tf.GradientTape() as tape:
    tape.watch(x)
    _, log_det = planar_map.planar_forward(x, [1e6], [1.0], 0.0)
  rate = (np.float64(1e6) - 1.0) / np.cosh(8.0) ** 2
  np.testing.assert_allclose(log_det, np.log1p(rate), rtol=1e-5)
  np.testing.assert_allclose(
    tape.gradient(log_det, x),
    [-2.0 * np.tanh(8.0) * rate / (1.0 + rate)],
    rtol=1e-5,
  )


@every_dtype
@pytest.mark.parametrize('product', [-1e4, -60.0, -20.0])
def test_determinant_is_positive_where_it_is_least(product, dtype):
  # At w . x + b = 0 the determinant is softplus(w . u), about exp(w . u).
  x = tf.zeros([1], dtype)
  with tf.GradientTape() as tape:
    tape.watch(x)
    _, log_det = planar_map.planar_forward(x, [product], [1.0], 0.0)
  least = np.log(np.finfo(dtype.as_numpy_dtype).tiny)
  np.testing.assert_allclose(log_det, max(product, least), rtol=1e-6)
  assert np.isfinite(tape.gradient(log_det, x))


def test_identity_direction_of_the_docstring():
  _, normal, bias = draw_parameters([], 3)
  direction = tfp.math.softplus_inverse(tf.constant(1.0, tf.float64)) * normal
  direction /= tf.reduce_sum(normal**2)
  x = draw([10, 3], 0)
  y, log_det = planar_map.planar_forward(x, direction, normal, bias)
  np.testing.assert_allclose(y, x, atol=1e-14)
  np.testing.assert_allclose(log_det, np.zeros(10), atol=1e-14)


@every_dtype
@pytest.mark.parametrize('length', [0.0, 1e-30, 1e-12, 1e-9])
def test_zero_normal(length, dtype):
  x = draw([3], 0, dtype)
  parameters = (
    tf.constant([[1.0, -2.0, 0.5], [1.0, -2.0, 0.5]], dtype),
    tf.constant([[length, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype),
    tf.constant(0.3, dtype),
  )
  for function, sign in (
    (planar_map.planar_forward, 1.0),
    (planar_map.planar_inverse, -1.0),
  ):
    with tf.GradientTape() as tape:
      tape.watch(parameters)
      y, log_det = function(x, *parameters)
      total = tf.reduce_sum(y) + tf.reduce_sum(log_det)
    for value in (y, log_det, *tape.gradient(total, parameters)):
      assert np.all(np.isfinite(value))
    if length == 0.0:
      shift = sign * np.array([1.0, -2.0, 0.5]) * np.tanh(0.3)
      np.testing.assert_allclose(y[0], x + shift, rtol=1e-6)
      assert abs(log_det[0]) < 2.0 * epsilon(dtype)


@every_dtype
def test_solver_finds_the_root_by_bisection(dtype):
  gains, targets = np.meshgrid(
    np.concatenate([10.0 ** np.arange(-37.0, 16.0), np.linspace(0.1, 4.0, 40)]),
    np.concatenate(
      [[0.0], 10.0 ** np.linspace(-12.0, 16.0, 281), np.linspace(0.1, 9.0, 90)]
    ),
  )
  gains, targets = (
    v.astype(dtype.as_numpy_dtype).astype(float) for v in (gains, targets)
  )

  def left_side(z):
    # z - tanh(z) = z^2 i_1(z) / cosh(z), without cancellation, where i_1 is
    # the modified spherical Bessel function of the first kind.
    small = np.minimum(z, 1.0)
    rest = np.where(
      z < 1.0,
      small**2 * scipy.special.spherical_in(1, small) / np.cosh(small),
      z - np.tanh(z),
    )
    return np.where(
      gains < 1.0,
      gains * z + (1.0 - gains) * rest,
      z + (gains - 1.0) * np.tanh(z),
    )

  lower, upper = np.zeros_like(targets), targets + 1.0
  # Bisection of the logarithm reaches small roots with relative precision.
  for step in range(200):
    low = np.maximum(lower, 1e-45)
    middle = np.sqrt(low * upper) if step < 100 else 0.5 * (lower + upper)
    above = left_side(middle) > targets
    lower, upper = (
      np.where(above, lower, middle),
      np.where(above, middle, upper),
    )
  expected = np.where(targets == 0.0, 0.0, 0.5 * (lower + upper))

  root = planar_map._solve(
    tf.constant(targets, dtype), tf.constant(gains, dtype)
  )
  sech = 1.0 / np.cosh(np.minimum(expected, 300.0))
  slope = np.tanh(expected) ** 2 + gains * sech**2
  # Rounding of the left side, relative, over the slope; the factor covers
  # z - tanh(z) just above the switch to the series.
  scale = expected + targets / slope
  error = np.abs(root - expected) / np.maximum(scale, 1e-300)
  assert np.max(error) < 50.0 * epsilon(dtype)
  mirrored = planar_map._solve(
    tf.constant(-targets, dtype), tf.constant(gains, dtype)
  )
  np.testing.assert_array_equal(mirrored, -root)


@every_dtype
@pytest.mark.parametrize('product', PRODUCTS)
def test_round_trips_with_extreme_parameters(product, dtype):
  parameters = parameters_with_product(product, dtype)
  points = draw([200, 3], 0, dtype, 5.0)
  # The parameters are rounded too: u_hat has an error of order |w . u|.
  unit = 30.0 * epsilon(dtype) * (10.0 + abs(product))

  x, inverse_log_det = planar_map.planar_inverse(points, *parameters)
  y, log_det = planar_map.planar_forward(x, *parameters)
  np.testing.assert_allclose(y, points, atol=unit)
  assert np.all(np.isfinite(inverse_log_det))

  y, log_det = planar_map.planar_forward(points, *parameters)
  x, inverse_log_det = planar_map.planar_inverse(y, *parameters)
  determinant = np.exp(log_det)
  # Where the determinant vanishes, no method can recover x from a rounded y.
  recoverable = determinant > 1e-2
  assert np.mean(recoverable) > 0.9
  error = np.max(np.abs(x - points), axis=-1) * np.minimum(determinant, 1.0)
  assert np.max(error[recoverable]) < unit
  np.testing.assert_allclose(
    inverse_log_det[recoverable],
    -log_det[recoverable],
    atol=unit / np.min(determinant[recoverable]),
  )


def inverse_jacobian(parameters):
  """The Jacobian of (x, log_det) in y by the inverse of the forward one."""
  direction, normal, bias, y = parameters
  x, _ = planar_map.planar_inverse(y, direction, normal, bias)
  return np.linalg.inv(reference(x, direction, normal, bias)[2])


@pytest.mark.parametrize('product', [-6.0, -1.0, 0.0, 3.0])
def test_gradient_of_inverse_is_the_implicit_one(product):
  parameters = (*parameters_with_product(product, tf.float64), draw([3], 0))
  names = ('direction', 'normal', 'bias', 'y')
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(parameters)
    x = planar_map.planar_inverse(parameters[-1], *parameters[:-1])[0]
  expected = inverse_jacobian(parameters)
  np.testing.assert_allclose(
    tape.jacobian(x, parameters[-1]), expected, atol=1e-11
  )
  # f(x(theta), theta) = y, hence dx/dtheta = -(df/dx)^-1 df/dtheta.
  for name, parameter in zip(names[:-1], parameters[:-1], strict=True):
    with tf.GradientTape() as forward_tape:
      forward_tape.watch(parameter)
      y = planar_map.planar_forward(
        tf.stop_gradient(x),
        **{**dict(zip(names[:-1], parameters, strict=False)), name: parameter},
      )[0]
    partial = np.reshape(forward_tape.jacobian(y, parameter), [3, -1])
    np.testing.assert_allclose(
      np.reshape(tape.jacobian(x, parameter), [3, -1]),
      -expected @ partial,
      atol=1e-10,
    )


@pytest.mark.parametrize(
  'function', [planar_map.planar_forward, planar_map.planar_inverse]
)
def test_first_and_second_derivatives_are_finite_differences(function):
  size = 2
  split = [size, size, 1, size]
  weights = tf.constant([1.0, -2.0], tf.float64)

  def value(flat):
    direction, normal, bias, x = tf.split(flat, split)
    y, log_det = function(x, direction, normal, bias[0])
    return tf.reduce_sum(weights * tf.sin(y)) + 0.7 * log_det

  def gradient(flat):
    with tf.GradientTape() as tape:
      tape.watch(flat)
      result = value(flat)
    return tape.gradient(result, flat)

  def hessian(flat):
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(flat)
      result = gradient(flat)
    return tape.jacobian(result, flat, experimental_use_pfor=False)

  def difference(function, flat):
    step = 1e-4
    columns = []
    for unit in np.eye(flat.shape[0]):
      near = function(flat + step * unit) - function(flat - step * unit)
      far = function(flat + 2 * step * unit) - function(flat - 2 * step * unit)
      # Error of order step^4, and of rounding over step.
      columns.append((8.0 * near - far) / (12.0 * step))
    return np.stack(columns, axis=-1)

  flat = tf.constant([0.5, -1.0, 1.5, 0.5, 0.2, 0.3, -0.4], tf.float64)
  np.testing.assert_allclose(gradient(flat), difference(value, flat), atol=1e-9)
  expected = difference(gradient, flat)
  np.testing.assert_allclose(hessian(flat), expected, atol=1e-8)
  compiled = tf.function(hessian, jit_compile=True)
  np.testing.assert_allclose(compiled(flat), expected, atol=1e-8)


@pytest.mark.parametrize('order', [1, 2, 3])
def test_higher_derivatives_at_the_hyperplane(order):
  direction = tf.constant([0.7], tf.float64)
  gain = np.logaddexp(0.0, 0.7)
  # y = gain x - (gain - 1) x^3 / 3 + ..., and its series reversed.
  expected = {
    planar_map.planar_forward: [gain, 0.0, -2.0 * (gain - 1.0)],
    planar_map.planar_inverse: [1.0 / gain, 0.0, 2.0 * (gain - 1.0) / gain**4],
  }
  for function, derivatives in expected.items():

    def derivative(x, order, function=function):
      if order == 0:
        return function(x, direction, [1.0], 0.0)[0]
      with tf.GradientTape() as tape:
        tape.watch(x)
        value = derivative(x, order - 1)
      return tape.gradient(value, x)

    np.testing.assert_allclose(
      derivative(tf.zeros([1], tf.float64), order),
      [derivatives[order - 1]],
      atol=1e-14,
    )


@every_dtype
def test_compiled_is_eager(dtype):
  parameters = draw_parameters([3], 2, dtype)
  x = draw([10, 3, 2], 0, dtype)

  def results(x, *parameters):
    with tf.GradientTape() as tape:
      tape.watch([x, *parameters])
      flow = planar.PlanarFlow(*parameters)
      y, log_det = flow.forward(x), flow.forward_log_det_jacobian(x)
      inverse, inverse_log_det = planar_map.planar_inverse(x, *parameters)
      total = sum(
        tf.reduce_sum(v) for v in (y, log_det, inverse, inverse_log_det)
      )
    gradients = tape.gradient(total, [x, *parameters])
    return [y, log_det, inverse, inverse_log_det, *gradients]

  eager = results(x, *parameters)
  unknown = [
    tf.TensorSpec([None] * v.shape.rank, dtype) for v in (x, *parameters)
  ]
  for function in (
    tf.function(results, jit_compile=True),
    tf.function(results, input_signature=unknown),
  ):
    for value, expected in zip(function(x, *parameters), eager, strict=True):
      size = np.max(np.abs(expected)) + 1.0
      np.testing.assert_allclose(
        value, expected, atol=200.0 * epsilon(dtype) * size
      )


def test_batches_broadcast():
  samples, levels, restarts, size = 5, 3, 4, 2
  direction, normal, _ = draw_parameters([levels, restarts], size)
  bias = draw([levels, 1], 3)
  x = draw([samples, levels, restarts, size], 0)
  flow = planar.PlanarFlow(direction, normal, bias)
  y = flow.forward(x)
  log_det = flow.forward_log_det_jacobian(x)
  assert flow.experimental_batch_shape() == [levels, restarts]
  assert log_det.shape == [samples, levels, restarts]
  np.testing.assert_allclose(flow.inverse(uncached(y)), x, atol=1e-11)
  for level in range(levels):
    for restart in range(restarts):
      for sample in range(samples):
        expected, expected_log_det, _ = reference(
          x[sample, level, restart],
          direction[level, restart],
          normal[level, restart],
          bias[level, 0],
        )
        index = (sample, level, restart)
        np.testing.assert_allclose(y[index], expected, atol=1e-12)
        np.testing.assert_allclose(log_det[index], expected_log_det, atol=1e-12)
  # The other way: a batch of flows at one point.
  point = x[0, 0, 0]
  y, log_det = planar_map.planar_forward(point, direction, normal, bias)
  x, _ = planar_map.planar_inverse(point, direction, normal, bias)
  assert y.shape == x.shape == [levels, restarts, size]
  assert log_det.shape == [levels, restarts]
  np.testing.assert_allclose(y[0, 0], flow[0, 0].forward(point), atol=1e-14)


def make_distribution(dtype=tf.float64):
  flow = planar.PlanarFlow(
    tf.constant([1.5, 0.5], dtype), [0.8, -0.6], bias=0.4
  )
  base = tfd.MultivariateNormalDiag(loc=tf.zeros(2, dtype))
  return base, flow, tfd.TransformedDistribution(base, flow)


@pytest.mark.parametrize('invert', [False, True])
def test_density_is_normalized(invert):
  base, flow, distribution = make_distribution()
  if invert:
    distribution = tfd.TransformedDistribution(base, tfb.Invert(flow))
  # On the border log_prob is below -30; the trapezoidal rule converges
  # geometrically in the step for such an analytic integrand.
  step = 0.05
  axis = np.arange(-11.0, 11.0, step)
  grid = np.stack(np.meshgrid(axis, axis), axis=-1)
  density = np.exp(tf.function(distribution.log_prob)(grid))
  np.testing.assert_allclose(np.sum(density) * step**2, 1.0, atol=1e-9)


def test_transformed_distribution_samples_and_densities():
  base, flow, distribution = make_distribution()
  num_samples = 100_000
  y = distribution.sample(num_samples, seed=(0, 1))
  # With z = w . x + b normal with mean b and variance ||w||^2 = 1,
  # E[y] = u_hat E[tanh z] by Gauss-Hermite quadrature.
  nodes, weights = np.polynomial.hermite_e.hermegauss(80)
  tanh = np.sum(weights * np.tanh(0.4 + nodes)) / np.sum(weights)
  shift = reference(np.zeros(2), flow.direction, flow.normal, flow.bias)[0]
  expected = shift / np.tanh(0.4) * tanh
  standard_error = np.std(y, axis=0) / np.sqrt(num_samples)
  threshold = scipy.stats.norm.isf(1e-6 / 2 / expected.size)
  assert np.all(
    np.abs(np.mean(y, axis=0) - expected) < threshold * standard_error
  )

  x = flow.inverse(uncached(y))
  log_prob = base.log_prob(x) - flow.forward_log_det_jacobian(x)
  np.testing.assert_allclose(distribution.log_prob(y), log_prob, atol=1e-11)
  np.testing.assert_allclose(
    distribution.log_prob(uncached(y)), log_prob, atol=1e-11
  )


def test_log_prob_of_a_sample_needs_no_solver(monkeypatch):
  def fail(*unused_arguments):
    raise AssertionError('The preimage of the sample is known.')

  monkeypatch.setattr(planar_map, '_solve', fail)
  _, flow, distribution = make_distribution()
  y = distribution.sample(3, seed=(0, 1))
  assert distribution.log_prob(y).shape == [3]
  x = draw([3, 2], 0)
  assert flow.inverse(flow.forward(x)) is x


def test_chain_and_invert():
  flows = [
    planar.PlanarFlow(*(v[i] for v in draw_parameters([3], 2)))
    for i in range(3)
  ]
  chain = tfb.Chain(flows)
  x = draw([7, 2], 0)
  y, log_det = x, 0.0
  for flow in reversed(flows):
    log_det += flow.forward_log_det_jacobian(y)
    y = flow.forward(y)
  np.testing.assert_allclose(chain.forward(x), y, atol=1e-13)
  np.testing.assert_allclose(
    chain.forward_log_det_jacobian(x), log_det, atol=1e-13
  )
  np.testing.assert_allclose(chain.inverse(uncached(y)), x, atol=1e-10)
  np.testing.assert_allclose(
    chain.inverse_log_det_jacobian(uncached(y)), -log_det, atol=1e-10
  )

  inverted = tfb.Invert(chain)
  np.testing.assert_allclose(inverted.forward(uncached(y)), x, atol=1e-10)
  base = tfd.MultivariateNormalDiag(loc=tf.zeros(2, tf.float64))
  np.testing.assert_allclose(
    tfd.TransformedDistribution(base, inverted).log_prob(x),
    base.log_prob(y) + log_det,
    atol=1e-10,
  )


def test_tfp_machinery():
  direction, normal, bias = draw_parameters([3, 4], 2)
  flow = planar.PlanarFlow(direction, normal, bias, name='flow')
  assert flow.name == 'flow'
  assert flow.dtype == tf.float64
  assert flow.experimental_batch_shape() == [3, 4]
  np.testing.assert_array_equal(flow.experimental_batch_shape_tensor(), [3, 4])
  assert flow.experimental_batch_shape(x_event_ndims=2) == [3]
  np.testing.assert_array_equal(flow[1].direction, direction[1])
  np.testing.assert_array_equal(flow[:, 2].bias, bias[:, 2])
  assert flow[..., tf.newaxis].experimental_batch_shape() == [3, 4, 1]
  np.testing.assert_array_equal(flow.copy(bias=0.0).normal, normal)

  shapes = {
    name: properties.shape_fn(tf.TensorShape([3, 4, 2]))
    for name, properties in planar.PlanarFlow.parameter_properties().items()
  }
  assert shapes == {
    'direction': direction.shape,
    'normal': normal.shape,
    'bias': bias.shape,
  }

  # A composite tensor: it passes through tf.function and tf.nest.
  x = draw([3, 4, 2], 0)
  forward = tf.function(lambda flow, x: flow.forward(x))
  np.testing.assert_allclose(forward(flow, x), flow.forward(x), atol=1e-13)
  leaves = tf.nest.flatten(flow, expand_composites=True)
  again = tf.nest.pack_sequence_as(flow, leaves, expand_composites=True)
  np.testing.assert_array_equal(again.forward(x), flow.forward(x))


def test_variables_are_trained_through():
  flow = planar.PlanarFlow(
    tf.Variable([1.0, 2.0]),
    tf.Variable([1.0, -1.0]),
    bias=tfp.util.TransformedVariable(0.5, tfb.Softplus()),
    validate_args=True,
  )
  assert len(flow.trainable_variables) == 3
  x = tf.ones([4, 2])
  for function in (flow.forward, flow.inverse, flow.forward_log_det_jacobian):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(function(uncached(x)))
    gradients = tape.gradient(loss, flow.trainable_variables)
    assert all(np.any(gradient != 0.0) for gradient in gradients)
  flow.direction.assign([np.nan, 0.0])
  with pytest.raises(tf.errors.InvalidArgumentError, match='direction'):
    flow.forward(uncached(x))


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    ((1.0, [1.0], 0.0), ValueError, '`direction` must have shape'),
    (([1.0], 1.0, 0.0), ValueError, '`normal` must have shape'),
    (([1.0, 2.0], [1.0], 0.0), ValueError, '`direction` and `normal`'),
    (([1.0, 2.0], [1.0, 2.0, 3.0], 0.0), ValueError, 'same last dimension'),
    ((np.ones([2, 3]), np.ones([4, 3]), 0.0), ValueError, '`normal` must have'),
    ((np.ones([2, 3]), np.ones([2, 3]), np.ones(3)), ValueError, '`bias`'),
    (
      (tf.ones(2), tf.ones(2, tf.float64), 0.0),
      TypeError,
      "'normal': 'float64'",
    ),
    ((tf.ones(2, tf.int32), [1.0, 1.0], 0.0), TypeError, '`direction` must'),
  ],
)
def test_bad_parameters(arguments, error, message):
  with pytest.raises(error, match=re.escape(message)):
    planar.PlanarFlow(*arguments)
  with pytest.raises(error):
    planar_map.planar_forward([1.0, 1.0], *arguments)


def test_bad_points():
  flow = planar.PlanarFlow(tf.ones([4, 3]), tf.ones([4, 3]), 0.0)
  with pytest.raises(ValueError, match='`x` and `direction` must have the'):
    flow.forward(tf.ones([4, 1]))
  with pytest.raises(ValueError, match='`y` and `direction` must have the'):
    flow.inverse(tf.ones([4, 2]))
  with pytest.raises(ValueError, match='`x` must have a batch shape'):
    flow.forward(tf.ones([5, 3]))
  with pytest.raises(ValueError, match='`x` must have shape'):
    planar_map.planar_forward(1.0, [1.0], [1.0], 0.0)
  with pytest.raises(TypeError, match='`x` must have a floating dtype'):
    planar_map.planar_forward(tf.ones([1], tf.int32), [1.0], [1.0], 0.0)
  # A point that is not a number stays visible.
  assert np.all(np.isnan(flow.forward(tf.fill([3], np.nan))))
  assert np.all(np.isnan(flow.inverse(tf.fill([3], np.nan))))


def test_validate_args_names_the_parameter():
  for name in ('direction', 'normal', 'bias'):
    arguments = {'direction': [1.0, 2.0], 'normal': [1.0, 1.0], 'bias': 0.0}
    arguments[name] = np.full_like(arguments[name], np.inf).astype(np.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f'`{name}`'):
      planar.PlanarFlow(**arguments, validate_args=True)

  @tf.function(input_signature=[tf.TensorSpec([None])] * 2)
  def forward(direction, normal):
    flow = planar.PlanarFlow(direction, normal, 0.0, validate_args=True)
    return flow.forward(tf.ones([2]))

  assert forward(tf.ones(2), tf.ones(2)).shape == [2]
  with pytest.raises(tf.errors.InvalidArgumentError, match='last dimension'):
    forward(tf.ones(2), tf.ones(1))


@every_dtype
@pytest.mark.parametrize(
  ('jit_compile', 'batch'), [(False, ()), (True, (2, 3))]
)
def test_stacked_flows_are_a_chain(jit_compile, batch, dtype):
  parameters = draw_parameters([*batch, 2], 3, dtype)
  x = draw([10, *batch, 3], 0, dtype)

  def results(make):
    @tf.function(jit_compile=jit_compile, autograph=False)
    def fn(parameters):
      with tf.GradientTape() as tape:
        tape.watch([x, *parameters])
        flows = make(parameters)
        y, log_det = flows.forward(x), flows.forward_log_det_jacobian(x)
        back = flows.inverse(uncached(y))
        inverse_log_det = flows.inverse_log_det_jacobian(uncached(y))
        total = tf.reduce_sum(y**2) + tf.reduce_sum(log_det)
      gradients = tape.gradient(total, [x, *parameters])
      return y, log_det, back, inverse_log_det, *gradients

    return fn(parameters)

  def make_chain(parameters):
    return tfb.Chain(
      [
        planar.PlanarFlow(*(p[..., i, :] for p in parameters[:2]), bias)
        for i, bias in reversed(
          list(enumerate(tf.unstack(parameters[2], axis=-1)))
        )
      ]
    )

  found = results(lambda parameters: planar.PlanarFlows(*parameters))
  expected = results(make_chain)
  assert found[0].shape == x.shape
  assert found[1].shape == [10, *batch]
  np.testing.assert_allclose(
    found[2], x, atol=1e3 * epsilon(dtype) / np.exp(np.min(found[1]))
  )
  for value, other in zip(found, expected, strict=True):
    size = np.max(np.abs(other)) + 1.0
    np.testing.assert_allclose(value, other, atol=1e3 * epsilon(dtype) * size)


@pytest.mark.parametrize(
  ('shapes', 'got'),
  [
    ([[4, 3], [1, 3], [4]], r'got \(4, 3\), \(1, 3\) and \(4,\)'),
    ([[4, 3], [4, 3], [5]], r'got \(4, 3\), \(4, 3\) and \(5,\)'),
    ([[4, 3], [4, 3], []], r'got \(4, 3\), \(4, 3\) and \(\)'),
    ([[3], [3], []], r'got \(3,\), \(3,\) and \(\)'),
    ([[], [4, 3], [4]], r'got \(\), \(4, 3\) and \(4,\)'),
    ([[0, 3], [0, 3], [0]], r'got \(0, 3\), \(0, 3\) and \(0,\)'),
  ],
)
def test_bad_shapes_of_stacked_flows(shapes, got):
  with pytest.raises(
    ValueError, match='of one number of flows that is known and .*; ' + got
  ):
    planar.PlanarFlows(*(tf.ones(shape) for shape in shapes))


def test_sizes_and_batches_of_stacked_flows_must_fit():
  with pytest.raises(ValueError, match=r'same last dim.*\(2,\) and .*\(3,\)'):
    planar.PlanarFlows(tf.ones([4, 2]), tf.ones([4, 3]), tf.ones([4]))
  with pytest.raises(ValueError, match=r'`bias` must have a batch .*\[5\]'):
    planar.PlanarFlows(tf.ones([2, 4, 3]), tf.ones([4, 3]), tf.ones([5, 4]))


def test_number_of_stacked_flows_must_be_known():
  variables = [
    tf.Variable(tf.ones(shape), shape=[None, *shape[1:]])
    for shape in ([4, 3], [4, 3], [4])
  ]
  with pytest.raises(ValueError, match=r'known and positive; got \(None, 3\)'):
    planar.PlanarFlows(*variables)


@pytest.mark.parametrize('method', ['forward', 'inverse'])
@pytest.mark.parametrize(
  ('shape', 'batch', 'message'),
  [
    ([5, 1], (), r'same last dimension; got `[xy]` of shape \(5, 1\)'),
    ([5, 2], (), r'same last dimension; got `[xy]` of shape \(5, 2\)'),
    ([5, 3], (2,), r'`[xy]` must have a batch shape that broadcasts .*\[5\]'),
  ],
)
def test_bad_arguments_of_stacked_flows(method, shape, batch, message):
  flows = planar.PlanarFlows(*draw_parameters([*batch, 4], 3, tf.float32))
  with pytest.raises(ValueError, match=message):
    getattr(flows, method)(tf.ones(shape))


@pytest.mark.parametrize('flow', [planar.PlanarFlow, planar.PlanarFlows])
@pytest.mark.parametrize('name', ['direction', 'normal', 'bias'])
@pytest.mark.parametrize('value', [None, 'a'], ids=repr)
def test_parameters_that_are_not_tensors(flow, name, value):
  shape = [2] if flow is planar.PlanarFlow else [3, 2]
  arguments = dict(
    direction=np.ones(shape), normal=np.ones(shape), bias=np.ones(shape[:-1])
  )
  with pytest.raises(TypeError, match=f'`{name}` must be a .*Tensor'):
    flow(**{**arguments, name: value})

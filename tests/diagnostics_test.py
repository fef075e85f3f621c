# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics are the numbers they say they are, and pictures show those.

KL divergences are held against closed forms; what a picture shows, against the
values that it was given. The one statistical test has a fixed seed and a false
alarm rate of 1e-6.
"""

import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import diagnostics

tfd = tfp.distributions


def gaussian_kl(mean0, scale0, mean1, scale1):
  """KL(N(mean0, scale0^2) || N(mean1, scale1^2)), summed over the last axis."""
  ratio = (scale0 / scale1) ** 2
  square = ((mean1 - mean0) / scale1) ** 2
  return 0.5 * np.sum(ratio + square - 1.0 - np.log(ratio), axis=-1)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('num_dimensions', [0, 1, 2])
def test_successive_kl_is_closed_form(dtype, num_dimensions):
  num_values = max(1, num_dimensions)
  means = np.array([[0.0, 1.0], [1.0, -1.0], [2.0, 0.5]])[:, :num_values]
  scales = np.array([[2.0, 1.5], [1.0, 2.0], [0.4, 0.8]])[:, :num_values]

  def make(mean, scale):
    if num_dimensions == 0:
      return tfd.Normal(dtype(mean[0]), dtype(scale[0]))
    return tfd.MultivariateNormalDiag(mean.astype(dtype), scale.astype(dtype))

  densities = nvi.ExplicitDensities(
    [make(*pair) for pair in zip(means, scales, strict=True)]
  )
  divergences = diagnostics.successive_kl(densities, (-16.0, 16.0))
  assert divergences.dtype == tf.float64
  expected = gaussian_kl(means[:-1], scales[:-1], means[1:], scales[1:])
  # Log densities reach several hundred, with relative errors of 6e-8.
  tolerance = 1e-4 if dtype == np.float32 else 1e-8
  np.testing.assert_allclose(divergences, expected, rtol=tolerance)
  backwards = gaussian_kl(means[1:], scales[1:], means[:-1], scales[:-1])
  assert np.all(abs(backwards - expected) > 100 * tolerance * expected)


def test_successive_kl_of_batch_of_schedules():
  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 3.0)),
    # Not normalized, which is to make no difference.
    lambda x: 7.0 - 0.5 * tf.reduce_sum((x - 2.0) ** 2, axis=-1),
    num_densities=4,
    learnable=True,
    batch_shape=[3],
  )
  (variable,) = path.trainable_variables
  variable.assign_add(0.3 * np.arange(6.0).reshape([3, 2]))
  beta = path.schedule.numpy().T
  assert beta.shape == (4, 3)
  # A geometric mean of Gaussians is the Gaussian of the mean precision.
  precision = (1.0 - beta) / 9.0 + beta
  mean = np.stack([2.0 * beta / precision] * 2, axis=-1)
  scale = np.stack([precision**-0.5] * 2, axis=-1)
  np.testing.assert_allclose(
    diagnostics.successive_kl(path, (-14.0, 14.0)),
    gaussian_kl(mean[:-1], scale[:-1], mean[1:], scale[1:]),
    # The initial density is cut off at 4.7 standard deviations.
    rtol=2e-4,
  )


def test_successive_kl_of_supports():
  normal = tfd.Normal(0.0, 1.0)

  def half(x):
    return tf.where(x > 0.0, normal.log_prob(x), -float('inf'))

  # Half of the points are positive, as the grid has no point at zero.
  divergences = diagnostics.successive_kl(
    nvi.ExplicitDensities([normal, half, normal.log_prob]),
    (-8.0, 8.0),
    num_points=200,
  )
  assert divergences[0] == np.inf
  np.testing.assert_allclose(divergences[1], np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize(
  ('scales', 'kwargs', 'problem'),
  [
    ((1.0, 2.0), {'limits': (8.0, -8.0)}, '`limits` must be a pair of incr'),
    ((1.0, 2.0), {'limits': (-np.inf, 8.0)}, '`limits` must be a pair of incr'),
    ((1.0, 2.0), {'limits': (-4.0, 4.0)}, '`limits` must hold .* density 1'),
    ((1.0, 2.0), {'num_points': 1}, '`num_points` must be at least 2; got 1'),
    ((1.0, 0.01), {'num_points': 101}, '`num_points` must .* density 1'),
  ],
)
def test_successive_kl_refuses_grid(scales, kwargs, problem):
  densities = nvi.ExplicitDensities([tfd.Normal(0.0, s) for s in scales])
  with pytest.raises(ValueError, match=problem):
    diagnostics.successive_kl(densities, **{'limits': (-10.0, 10.0), **kwargs})


def test_successive_kl_refuses_densities():
  normal = tfd.Normal(0.0, 1.0)

  def bad(x):
    # Where the sequence itself does not look.
    return tf.where(x < 6.0, normal.log_prob(x), float('nan'))

  with pytest.raises(ValueError, match='density 1 is NaN'):
    diagnostics.successive_kl(nvi.ExplicitDensities([normal, bad]), (-8.0, 8.0))

  def zero(x):
    return tf.where(x > 60.0, normal.log_prob(x), -float('inf'))

  with pytest.raises(ValueError, match='`limits` must .* density 1 is zero'):
    diagnostics.successive_kl(
      nvi.ExplicitDensities([normal, zero]), (-8.0, 8.0)
    )
  wide = tfd.MultivariateNormalDiag(np.zeros(3), np.ones(3))
  with pytest.raises(ValueError, match='`densities` must .* got 3'):
    diagnostics.successive_kl(nvi.ExplicitDensities([wide, wide]), (-8.0, 8.0))


def test_mode_shares_are_sums_of_weights():
  target = nvi.targets.ring_of_gaussians()
  # Two batch members: modes 0, 1, 1, and modes 2, 2, 5.
  modes = np.array([[0, 2], [1, 2], [1, 5]])
  weights = np.array([[1.0, 0.0], [2.0, 3.0], [5.0, 1.0]], np.float32)
  with np.errstate(divide='ignore'):
    particles = nvi.WeightedParticles(
      tf.constant(target.mode_locations[modes]), tf.constant(np.log(weights))
    )
  expected = np.zeros([2, 8])
  expected[0, :2] = 1 / 8, 7 / 8
  expected[1, [2, 5]] = 3 / 4, 1 / 4
  np.testing.assert_allclose(
    diagnostics.mode_shares(particles, target), expected, rtol=1e-6
  )


def test_mode_shares_of_draws():
  target = nvi.targets.grid_of_gaussians(tf.float64)
  count = 20_000
  particles = nvi.WeightedParticles(
    target.sample(count, seed=1), tf.zeros([count], tf.float64)
  )
  shares = diagnostics.mode_shares(particles, target)
  expected = target.mode_probabilities
  errors = (shares - expected) / np.sqrt(expected * (1.0 - expected) / count)
  # 25 modes, each with a probability of 2e-8 to be further out.
  assert np.max(np.abs(errors)) < 5.7


def png(figure):
  file = io.BytesIO()
  figure.savefig(file, format='png')
  content = file.getvalue()
  assert content.startswith(b'\x89PNG')
  assert 2_000 < len(content) < 300_000
  return content


def trace_of(num_levels, num_particles, batch_shape=(), seed=1):
  rng = np.random.default_rng(seed)
  shape = [num_levels, num_particles, *batch_shape]
  return rng.normal(size=[*shape, 2]), rng.normal(size=shape)


def test_plot_samples_shows_weights():
  # All at one point, but for one particle of nine times the weight.
  particles = np.full([1, 5, 2], -0.9)
  particles[0, 2] = 0.5, -0.1
  log_weights = np.log([[1.0, 1.0, 9.0, 1.0, 1.0]])
  figure = diagnostics.plot_samples(
    {'one': (particles, log_weights)}, (-1.0, 1.0), num_bins=20
  )
  (axes,) = figure.axes
  (image,) = axes.images
  values = image.get_array()
  # Bins of width 0.1: x = 0.5 begins bin 15, y = -0.1 begins bin 9; rows are y.
  assert np.unravel_index(np.argmax(values), values.shape) in [(9, 15), (8, 15)]
  assert values.max() == 1.0
  (text,) = axes.texts
  assert text.get_text() == f'ESS {100 * 13**2 / 85 / 5:.0f}%'
  assert axes.get_ylabel() == 'one'
  png(figure)


def test_plot_samples_of_many():
  target = nvi.targets.ring_of_gaussians()
  traces = {f'm{i}': trace_of(8, 500, seed=i) for i in range(8)}
  traces['short'] = trace_of(2, 500, batch_shape=[3])
  figure = diagnostics.plot_samples(
    traces,
    target.limits,
    target_log_prob_fn=target.unnormalized_log_prob,
    title='many',
  )
  assert len(figure.axes) == 9 * 9
  assert [len(axes.images) for axes in figure.axes[-9:]] == [1, 1] + [0] * 6 + [
    1
  ]
  assert [axes.get_title() for axes in figure.axes[:9]] == [
    *(f'level {k}' for k in range(8)),
    'target',
  ]
  png(figure)


def test_plot_samples_refuses():
  particles, log_weights = trace_of(2, 5)
  with pytest.raises(ValueError, match='`traces` must be a dict'):
    diagnostics.plot_samples({}, (-1.0, 1.0))
  for bad in (
    (particles[..., 0], log_weights),
    (particles[0], log_weights[0]),
    (particles, log_weights[:1]),
  ):
    with pytest.raises(ValueError, match='`traces` must have .* got shapes'):
      diagnostics.plot_samples({'bad': bad}, (-1.0, 1.0))


def test_plot_schedules_shows_members_and_mean():
  schedules = {
    'linear': [0.0, 0.5, 1.0],
    'learned': np.array([[0.0, 0.1, 1.0], [0.0, 0.3, 1.0]]),
  }
  divergences = {
    'linear': [3.0, 0.1],
    'learned': np.array([[1.0, 2.0], [0.5, 0.7]]),
  }
  figure = diagnostics.plot_schedules(
    schedules, divergences, styles={'learned': {'color': 'red'}}, title='paths'
  )
  left, right = figure.axes
  one, *members, mean = (line.get_ydata() for line in left.lines)
  np.testing.assert_allclose(one, schedules['linear'])
  np.testing.assert_allclose(members, schedules['learned'])
  np.testing.assert_allclose(mean, [0.0, 0.2, 1.0])
  one, *members, mean = (line.get_ydata() for line in right.lines)
  np.testing.assert_allclose(one, [3.0, 0.1])
  np.testing.assert_allclose(members, [[1.0, 0.5], [2.0, 0.7]])
  np.testing.assert_allclose(mean, [1.5, 0.6])
  assert right.get_yscale() == 'log' and 'nats' in right.get_ylabel()
  assert left.lines[-1].get_color() == 'red'
  png(figure)


def test_plot_schedules_refuses():
  plot = diagnostics.plot_schedules
  with pytest.raises(ValueError, match='`schedules` must be a dict'):
    plot({}, {})
  with pytest.raises(ValueError, match="`divergences` must .* \\['a'\\]"):
    plot({'a': [0.0, 1.0]}, {'b': [1.0]})
  with pytest.raises(ValueError, match=r"`divergences\['a'\]` must .* got 2"):
    plot({'a': [0.0, 1.0]}, {'a': [1.0, 2.0]})


def test_plot_training_shows_means_and_spread():
  rng = np.random.default_rng(1)
  sizes = 10.0 * rng.uniform(size=[30, 4])
  log_normalizers = rng.normal(size=[30, 4])
  figure = diagnostics.plot_training(
    {'a': sizes, 'b': sizes[:, 0]},
    {'a': log_normalizers, 'b': log_normalizers[:, 0]},
    num_particles=10,
    true_log_normalizer=0.25,
    steps_per_value=100,
    num_blocks=6,
    title='training',
  )
  left, right = figure.axes
  for axes, values in ((left, 10.0 * sizes), (right, log_normalizers)):
    line = axes.lines[0]
    np.testing.assert_allclose(
      line.get_xdata(), 100 * np.array([2.5, 7.5, 12.5, 17.5, 22.5, 27.5])
    )
    blocks = values.reshape([6, 5, 4]).mean(axis=1)
    np.testing.assert_allclose(line.get_ydata(), blocks.mean(axis=1))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(
      [band.min(), band.max()],
      [
        np.min(blocks.mean(axis=1) - blocks.std(axis=1)),
        np.max(blocks.mean(axis=1) + blocks.std(axis=1)),
      ],
    )
  assert list(right.lines[-1].get_ydata()) == [0.25, 0.25]
  assert left.get_ylim()[1] > 100.0
  png(figure)


def test_plot_training_of_few_steps():
  png(
    diagnostics.plot_training(
      {'a': np.ones([3])}, {'a': np.ones([3])}, num_particles=1
    )
  )


def test_plot_training_refuses():
  values = {'a': np.ones([3])}
  with pytest.raises(ValueError, match='`effective_sample_sizes` must be a'):
    diagnostics.plot_training([], values, num_particles=1)
  with pytest.raises(ValueError, match='`log_normalizers` must have the lab'):
    diagnostics.plot_training(values, {'b': values['a']}, num_particles=1)


def test_plots_leave_pyplot_alone():
  from matplotlib import pyplot

  before = pyplot.get_fignums()
  diagnostics.plot_schedules({'a': [0.0, 1.0]}, {'a': [1.0]})
  assert pyplot.get_fignums() == before
  # To import what draws is left to those who draw.
  assert not hasattr(diagnostics, 'matplotlib')

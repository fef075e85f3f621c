# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reports of levels, modes and runs, against closed forms and enumeration.

Statistical tests have fixed seeds and allow five standard errors.
"""

import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import diagnostics
from tfp_nvi.diagnostics import level_plots

tfd = tfp.distributions

COUNT = 100_000


def gaussian_kl(mean0, cov0, mean1, cov1):
  """KL(N(mean0, cov0) || N(mean1, cov1))."""
  inverse = np.linalg.inv(cov1)
  difference = mean1 - mean0
  return 0.5 * (
    np.trace(inverse @ cov0)
    + difference @ inverse @ difference
    - len(mean0)
    + np.linalg.slogdet(cov1)[1]
    - np.linalg.slogdet(cov0)[1]
  )


def joint(mean, scale, slope, noise, is_forward):
  """Mean and covariance of (z_0, z_1), for a linear kernel from either."""
  means = np.array([mean, slope * mean])
  cross = slope * scale**2
  other = slope**2 * scale**2 + noise**2
  covariance = np.array([[scale**2, cross], [cross, other]])
  if not is_forward:
    return means[::-1], covariance[::-1, ::-1]
  return means, covariance


def linear_sampler(**arguments):
  """Two Gaussians, the second of log normalizer 0.7, and linear kernels."""
  second = tfd.Normal(0.5, 0.8)
  densities = nvi.ExplicitDensities(
    [tfd.Normal(0.0, 1.0), lambda z: second.log_prob(z) + 0.7]
  )
  kernels = nvi.KernelPair(
    lambda z: tfd.Normal(0.7 * z, 0.8), lambda z: tfd.Normal(0.6 * z, 0.9)
  )
  return nvi.NestedSampler(densities, kernels, **arguments)


@pytest.mark.parametrize(
  'criterion', [nvi.always, nvi.never], ids=['always', 'never']
)
def test_level_report_is_closed_form(criterion):
  trace = linear_sampler(resample_criterion_fn=criterion).trace(
    COUNT, seed=1, jit_compile=False
  )
  report = diagnostics.level_report(trace)
  forward = joint(0.0, 1.0, 0.7, 0.8, True)
  reverse = joint(0.5, 0.8, 0.6, 0.9, False)
  assert np.all(report.reverse_kl[0] == 0.0) and report.log_ratio[0] == 0.0
  # Deviations of log v are about one.
  tolerance = 5.0 * 2.0 / np.sqrt(COUNT)
  assert abs(report.log_ratio[1] - 0.7) < tolerance
  expected = gaussian_kl(*forward, *reverse)
  backwards = gaussian_kl(*reverse, *forward)
  assert abs(report.reverse_kl[1] - expected) < tolerance
  assert abs(report.forward_kl[1] - backwards) < tolerance
  # A mutation: the two exchanged.
  assert abs(backwards - expected) > 2.0 * tolerance
  ratio = report.effective_sample_size[1] / COUNT
  np.testing.assert_allclose(report.conditional_ess[1], ratio, rtol=1e-3)
  np.testing.assert_allclose(report.chi_square[1], 1.0 / ratio - 1.0, rtol=1e-2)
  assert 'Pareto k' in str(report) and len(str(report).splitlines()) == 3


def test_level_report_by_hand():
  """Weights that come in unequal, in two batch members, one dead particle."""
  inf = np.inf
  with np.errstate(divide='ignore'):
    first = np.log(np.array([[1.0, 1.0], [3.0, 1.0], [0.0, 2.0]]))
    factor = np.log(np.array([[2.0, 1.0], [1.0, 1.0], [5.0, 0.0]]))
  first[2, 0] = -inf
  trace = nvi.Trace(
    None,
    np.stack([first, np.where(np.isinf(first), -inf, first + factor)]),
    factor[np.newaxis],
    None,
  )
  report = diagnostics.level_report(trace)
  np.testing.assert_allclose(
    report.log_ratio, np.log([[4 / 3, 4 / 3], [5 / 4, 1 / 2]])
  )
  log_v = np.log([2 / 1.25, 1 / 1.25])
  np.testing.assert_allclose(
    report.reverse_kl[1], [-(0.25 * log_v[0] + 0.75 * log_v[1]), inf]
  )
  np.testing.assert_allclose(
    report.forward_kl[1],
    [0.4 * log_v[0] + 0.6 * log_v[1], np.log(2.0)],
  )
  np.testing.assert_allclose(
    report.chi_square[1], [0.25 * 1.6**2 + 0.75 * 0.8**2 - 1.0, 1.0]
  )
  np.testing.assert_allclose(
    report.effective_sample_size[1], [25.0 / 13.0, 2.0]
  )


def test_level_report_without_any_weight():
  trace = nvi.Trace(
    None, np.full([2, 8], -np.inf), np.full([1, 8], -np.inf), None
  )
  report = diagnostics.level_report(trace)
  assert np.all(np.isneginf(report.log_ratio))
  assert np.all(report.effective_sample_size == 0.0)


def test_level_report_refuses():
  with pytest.raises(ValueError, match='`trace` must have log weights'):
    diagnostics.level_report(
      nvi.Trace(None, np.zeros([2, 8]), np.zeros([2, 8]), None)
    )


def test_arguments_of_other_kinds_are_refused():
  particles = nvi.WeightedParticles(tf.zeros([4]), tf.zeros([4]))
  lost = tf.constant([[0.0, -np.inf], [0.0, -np.inf]])
  for call, problem in (
    (lambda: diagnostics.level_report(particles), '`trace` must be a Trace'),
    (lambda: diagnostics.plot_trace(particles), '`trace` must be a Trace'),
    (lambda: diagnostics.plot_modes(3), '`report` must be a ModeReport'),
    (lambda: diagnostics.pareto_k(particles), '`log_weights` must be a Ten'),
    (
      lambda: diagnostics.mode_report(particles, tfd.Normal(0.0, 1.0)),
      '`target` must have `mode_probabilities`',
    ),
    (
      lambda: diagnostics.mode_report(
        tuple(particles), nvi.targets.ring_of_gaussians()
      ),
      '`particles` must be WeightedParticles',
    ),
    (
      lambda: diagnostics.plot_ranks(nvi.WeightedParticles(lost, lost)),
      '`particles` must have weight in each run',
    ),
  ):
    with pytest.raises((TypeError, ValueError), match=problem):
      call()


@pytest.mark.parametrize('k', [0.2, 0.5, 0.9])
def test_pareto_k_of_pareto_weights(k):
  # exp(k E) for exponential E has a Pareto law of shape k.
  log_weights = k * np.random.default_rng(1).exponential(size=[COUNT, 2, 3])
  found = diagnostics.pareto_k(log_weights)
  assert found.shape == (2, 3)
  # The tail of 949 weights gives k to (1 + k) / sqrt(949); the prior of ten
  # draws at one half adds 0.003 at most.
  assert np.all(abs(found - k) < 5.0 * (1.0 + k) / np.sqrt(949) + 0.004)


def test_pareto_k_of_importance_weights():
  """A narrow proposal has an infinite variance of weights, a wide one not."""
  narrow, wide = (tfd.Normal(0.0, s) for s in (0.5, 1.5))
  target = tfd.Normal(0.0, 1.0)
  found = []
  for proposal in (narrow, wide):
    x = proposal.sample(10_000, seed=[1, 2])
    found.append(
      float(diagnostics.pareto_k(target.log_prob(x) - proposal.log_prob(x)))
    )
  # Weights are exp(3 x^2 / 2), x of deviation 1/2: a tail of index 4/3.
  assert abs(found[0] - 0.75) < 0.25 and found[1] < 0.3
  assert np.isneginf(diagnostics.pareto_k(np.zeros(100)))


def test_mode_report_is_shares_with_errors():
  target = nvi.targets.ring_of_gaussians()
  modes = np.array([0, 1, 1, 1])
  weights = np.array([1.0, 2.0, 5.0, 0.0], np.float32)
  with np.errstate(divide='ignore'):
    particles = nvi.WeightedParticles(
      tf.constant(target.mode_locations[modes]),
      tf.constant(np.log(weights)),
      root=tf.constant([0, 1, 1, 2]),
    )
  report = diagnostics.mode_report(particles, target)
  np.testing.assert_allclose(report.shares[:2], [1 / 8, 7 / 8], rtol=1e-6)
  # Two families, of weights 1/8 and 7/8: sum of (W_family (g - mean))^2 is
  # 2 (7/64)^2, times 4 / 3.
  np.testing.assert_allclose(
    report.errors[0], np.sqrt(4 / 3 * 2) * 7 / 64, rtol=1e-5
  )
  assert list(report.num_particles[:3]) == [1, 2, 0]
  assert report.num_lost == 6
  assert '6 of 8 modes have no particle' in str(report)


def test_errors_of_modes_predict_the_spread():
  target = nvi.targets.ring_of_gaussians()
  particles = nvi.WeightedParticles(
    tf.reshape(target.sample(100 * 200, seed=3), [200, 100, 2]),
    tf.zeros([200, 100]),
  )
  report = diagnostics.mode_report(particles, target)
  observed = np.std(report.shares, axis=0, ddof=1)
  predicted = np.sqrt(np.mean(np.square(report.errors), axis=0))
  # Each a deviation of 100 members, known to 7%: five of these.
  assert np.all(abs(predicted / observed - 1.0) < 0.36)


def test_pooled_ranks_are_uniform_for_the_same_law():
  rng = np.random.default_rng(1)
  x = rng.normal(size=[2_000, 3])
  weights = rng.exponential(size=x.shape)
  weights /= weights.sum(axis=0)
  ranks = level_plots._pooled_ranks(x, weights)
  order = np.argsort(x.ravel())
  assert np.all(np.diff(ranks.ravel()[order]) >= 0.0)
  mean = np.sum(weights * ranks, axis=0)
  # Effective sizes are 1,000: a deviation of sqrt(1 / 12 / 1000).
  assert np.all(abs(mean - 0.5) < 5.0 * 0.0092)
  # By hand: three particles of weights 1/4, 1/4 and 1/2.
  np.testing.assert_allclose(
    level_plots._pooled_ranks(np.array([3.0, 1.0, 2.0]), np.array([1, 1, 2.0])),
    [0.875, 0.125, 0.5],
  )


def png(figure):
  file = io.BytesIO()
  figure.savefig(file, format='png')
  content = file.getvalue()
  assert content.startswith(b'\x89PNG')
  assert 2_000 < len(content) < 300_000


def trace_of(batch=()):
  rng = np.random.default_rng(1)
  increments = 0.3 * rng.normal(size=[4, 300, *batch])
  log_weights = np.concatenate([np.zeros([1, 300, *batch]), increments])
  return nvi.Trace(
    {'loc': rng.normal(size=[5, 300, *batch, 2])}, log_weights, increments, None
  )


def test_plot_levels_shows_the_report():
  traces = {'one': trace_of(), 'batch': trace_of([3])}
  figure = diagnostics.plot_levels(traces, title='levels')
  divergence, normalizer, size, tail = figure.axes
  report = diagnostics.level_report(traces['one'])
  np.testing.assert_allclose(divergence.lines[0].get_ydata(), report.reverse_kl)
  np.testing.assert_allclose(divergence.lines[1].get_ydata(), report.forward_kl)
  np.testing.assert_allclose(
    normalizer.lines[0].get_ydata(), np.cumsum(report.log_ratio)
  )
  np.testing.assert_allclose(
    size.lines[0].get_ydata(), report.effective_sample_size / 3.0
  )
  batch = diagnostics.level_report(traces['batch'])
  np.testing.assert_allclose(
    size.lines[1].get_ydata(), batch.effective_sample_size.mean(axis=1) / 3.0
  )
  np.testing.assert_allclose(tail.lines[0].get_ydata()[1:], report.pareto_k[1:])
  png(figure)


@pytest.mark.parametrize('batch', [(), (3,)])
def test_plot_trace_shows_quantiles(batch):
  trace = trace_of(batch)
  figure = diagnostics.plot_trace(trace, title='trace')
  assert [axes.get_ylabel() for axes in figure.axes] == ['loc[0]', 'loc[1]']
  middle = figure.axes[1].lines[0].get_ydata()
  x = trace.particles['loc'][0, ..., 1]
  # All weights are equal at the first level.
  expected = np.quantile(x, 0.5, method='inverted_cdf')
  np.testing.assert_allclose(middle[0], expected, atol=0.02)
  png(figure)
  with pytest.raises(ValueError, match='`names` must be 1 names'):
    diagnostics.plot_trace(trace, names=['a', 'b'])


def test_plot_ranks_shows_disagreement():
  rng = np.random.default_rng(1)
  x = rng.normal(size=[400, 3]).astype(np.float32)
  x[:, 2] += 1.5
  particles = nvi.WeightedParticles(tf.constant(x), tf.zeros([400, 3]))
  figure = diagnostics.plot_ranks(particles, names=['loc'], num_bins=10)
  heights = np.array(
    [[bar.get_height() for bar in axes.patches[:10]] for axes in figure.axes]
  )
  np.testing.assert_allclose(heights.mean(axis=1), 1.0)
  np.testing.assert_allclose(heights.mean(axis=0), 1.0, atol=0.02)
  # The run that was moved has little weight at low ranks.
  assert heights[2, 0] < 0.3 < 1.2 < heights[0, 0]
  png(figure)
  with pytest.raises(ValueError, match='`particles` must have one axis'):
    diagnostics.plot_ranks(
      nvi.WeightedParticles(tf.zeros([10]), tf.zeros([10]))
    )


def test_plot_ranks_of_a_posterior():
  posterior = nvi.fit_posterior(
    lambda x: tfd.MultivariateNormalDiag([1.0, 2.0]).log_prob(x),
    tfd.MultivariateNormalDiag([0.0, 0.0], [3.0, 3.0]),
    num_particles=100,
    num_runs=3,
    seed=1,
    progress=False,
  )
  figure = diagnostics.plot_ranks(posterior)
  assert len(figure.axes) == 6
  png(figure)


def test_plot_modes_shows_the_report():
  target = nvi.targets.ring_of_gaussians()
  particles = nvi.WeightedParticles(
    target.sample(1_000, seed=1), tf.zeros(1_000)
  )
  report = diagnostics.mode_report(particles, target)
  figure = diagnostics.plot_modes(report, title='modes')
  (axes,) = figure.axes
  np.testing.assert_allclose([bar.get_height() for bar in axes.patches], 1 / 8)
  np.testing.assert_allclose(
    axes.containers[1].lines[0].get_ydata(), report.shares
  )
  png(figure)

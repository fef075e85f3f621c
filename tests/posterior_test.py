# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors in one call, against closed forms and quadrature.

Statistical tests have fixed seeds. Unless they say something else they allow
five standard errors: a false alarm in 10^6 if the estimates are normal.
"""

import contextlib
import sys
import types

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import weighting
from tfp_nvi.internal import randomness
from tfp_nvi.posterior import (
  candidates,
  diagnosis,
  fit,
  fit_posterior,
  frozen,
  moves,
  pilot,
  reference,
  refinement,
  space,
)
from tfp_nvi.targets import posteriors

tfb = tfp.bijectors
tfd = tfp.distributions

SMALL = {'num_particles': 250, 'num_runs': 4, 'progress': False}


def regression(unit=1.0, dtype=tf.float32):
  """A pinned linear regression in other units, and its log evidence."""
  rng = np.random.default_rng(0)
  features = rng.normal(size=[6, 3])
  data = unit * (features @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=6))
  deviation, noise = 3.0 * unit, 0.5 * unit
  covariance = deviation**2 * features @ features.T + noise**2 * np.eye(6)
  log_evidence = scipy.stats.multivariate_normal(
    np.zeros(6), covariance
  ).logpdf(data)
  x = tf.constant(features, dtype)
  model = tfd.JointDistributionNamed(
    {
      'w': tfd.Sample(
        tfd.Normal(tf.zeros([], dtype), tf.constant(deviation, dtype)), 3
      ),
      'y': lambda w: tfd.Independent(
        tfd.Normal(tf.linalg.matvec(x, w), tf.constant(noise, dtype)), 1
      ),
    }
  )
  precision = features.T @ features / noise**2 + np.eye(3) / deviation**2
  mean = np.linalg.solve(precision, features.T @ data / noise**2)
  return model.experimental_pin(y=tf.constant(data, dtype)), log_evidence, mean


@pytest.fixture(scope='module')
def fitted():
  target, log_evidence, mean = regression()
  return fit_posterior(target, seed=1, **SMALL), log_evidence, mean


def test_evidence_and_mean_of_a_conjugate_regression(fitted):
  posterior, log_evidence, mean = fitted
  # A reference that is the posterior leaves an error of nearly zero.
  tolerance = 5.0 * posterior.log_evidence_error + 1e-3
  assert abs(posterior.log_evidence - log_evidence) < tolerance
  assert posterior.log_evidence_error < 0.05
  error = np.abs(posterior.expectation()['w'] - mean)
  # Errors from four runs follow Student's t with three degrees of freedom, of
  # which 20 is exceeded once in 4,000.
  assert np.all(error < 20.0 * posterior.standard_error()['w'])


def test_the_learned_sampler_has_the_evidence_of_the_runs(fitted):
  posterior, log_evidence, mean = fitted
  learned = posterior.learned
  # The reference is the posterior but for the errors of its moments.
  assert learned.evaluations_per_particle == 1
  particles = posterior.sampler.sample(2_000, seed=2)
  assert particles.effective_sample_size > 1_000.0
  # 5 standard errors, of weights whose relative variance is below one.
  error = abs(particles.log_normalizer - log_evidence)
  assert error < 5.0 * particles.log_normalizer_error + 1e-3
  error = np.abs(particles.expectation(lambda x: x['w']) - mean)
  assert np.all(error < 5.0 * particles.standard_error(lambda x: x['w']))


def test_the_reference_is_a_distribution_over_the_users_space(fitted):
  posterior, _, mean = fitted
  draws = posterior.reference.sample(4_000, seed=[1, 2])
  assert draws['w'].shape == [4_000, 3]
  deviations = np.std(draws['w'], axis=0)
  # The reference was fitted to 1,000 particles.
  np.testing.assert_allclose(
    np.mean(draws['w'], axis=0), mean, atol=6.0 * deviations.max() / 30.0
  )
  assert np.isfinite(posterior.reference.log_prob(draws)).all()


def test_there_is_no_learned_sampler_from_the_prior():
  target, *_ = regression()
  posterior = fit_posterior(target, start='prior', seed=1, **SMALL)
  assert posterior.reference is None
  with pytest.raises(ValueError, match="start='reference'"):
    posterior.sampler  # noqa: B018


def test_a_given_bijector_of_a_normal_prior():
  """The Jacobian counts, where the prior is the start or its coordinates."""
  model = tfd.JointDistributionNamed(
    {
      'w': tfd.MultivariateNormalDiag([0.0], [1.0]),
      'y': lambda w: tfd.Independent(tfd.Normal(w, 0.5), 1),
    }
  ).experimental_pin(y=[1.0])
  posterior = fit_posterior(
    model, event_space_bijector={'w': tfb.Scale(3.0)}, seed=1, **SMALL
  )
  expected = float(tfd.Normal(0.0, 1.25**0.5).log_prob(1.0))
  tolerance = 5.0 * posterior.log_evidence_error + 1e-3
  assert posterior.log_evidence_error < 0.05
  assert abs(posterior.log_evidence - expected) < tolerance
  # The precision is 1 + 4, and the mean 4 / 5.
  np.testing.assert_allclose(posterior.expectation()['w'], [0.8], atol=0.1)


def test_errors_of_probabilities_and_counts(fitted):
  posterior, *_ = fitted
  error = posterior.standard_error(lambda x: x['w'] > 0.0)
  as_float = posterior.standard_error(
    lambda x: tf.cast(x['w'] > 0.0, tf.float32)
  )
  np.testing.assert_array_equal(error, as_float)


def test_particles_have_ancestors_within_their_runs():
  target, *_ = regression()
  posterior = fit_posterior(target, start='prior', seed=1, **SMALL)
  root = posterior.particles.root.numpy().reshape([-1, posterior.num_runs])
  np.testing.assert_array_equal(
    root % posterior.num_runs,
    np.broadcast_to(np.arange(posterior.num_runs), root.shape),
  )
  # A path of many levels resamples, which leaves fewer ancestors.
  assert posterior.particles.num_ancestors < root.size


def pilot_of_four_ancestors(log_evidence=0.0, num_stages=10):
  num = 1_000
  population = pilot.Population(
    tf.zeros([num, 1]),
    None,
    tf.fill([num, 1], log_evidence),
    tf.constant(np.arange(num)[:, np.newaxis] % 4, tf.int32),
  )
  stage = pilot.Stage(1.0, None, 1.0, 1, 1, 0.8, 0.0, 1.0)
  schedule = pilot.Schedule([stage] * num_stages, True)
  moves = types.SimpleNamespace(starts_at_initial=True)
  affine = reference.from_affine(np.zeros(1), np.ones(1), tf.float32)
  return candidates.Pilot('few', 'prior', moves, affine, schedule, population)


def make_refiner(has_modes, refit, run_pilot, broad=None, fewest_stages=np.inf):
  """A `Refiner` with stand-ins for two stages."""
  fitter = types.SimpleNamespace(
    has_modes=has_modes,
    refit=refit,
    run_pilot=run_pilot,
    stage=lambda name: contextlib.nullcontext({}),
  )
  return refinement.Refiner(fitter, None, broad, fewest_stages)


def test_evidence_is_known_no_better_than_by_the_ancestors():
  """A pilot with few ancestors is no reason to start from the prior."""
  few = pilot_of_four_ancestors()
  np.testing.assert_allclose(few.variance_by_ancestors, 0.25, rtol=1e-6)


@pytest.mark.parametrize(
  'loss, has_modes, num_stages, is_kept',
  [
    (1.0, False, 10, True),
    # The estimate of the pilot may be too high by half of that.
    (0.5, False, 10, False),
    (0.0, False, 10, False),
    # It must be much nearer to the target than the prior is.
    (0.0, True, 9, True),
    (0.0, True, 3, False),
  ],
)
def test_a_reference_that_loses_mass_is_not_taken(
  loss, has_modes, num_stages, is_kept
):
  """However few ancestors the pilot has that it was fitted to."""
  broad = pilot_of_four_ancestors()
  fitted = pilot_of_four_ancestors(-loss, num_stages)
  refiner = make_refiner(
    has_modes,
    lambda *args: (fitted.reference, {}),
    lambda *args, **kwargs: fitted,
    broad,
  )
  best = refiner.refine(broad, [0, 1])
  assert best is (broad if is_kept else fitted)


@pytest.mark.parametrize(
  'num_stages, is_skewed, with_splines, gain, is_kept',
  [
    (11, False, None, 0.0, False),
    (10, False, None, 0.0, True),
    # It must make up for tails, or splines must.
    (9, True, 10, 0.0, False),
    (9, True, 9, 0.0, True),
    (8, True, None, 0.0, True),
    # But not where an affine map finds more mass.
    (9, True, 9, 0.5, False),
  ],
)
def test_a_conditional_map_is_not_to_make_the_path_longer(
  num_stages, is_skewed, with_splines, gain, is_kept
):
  """Where it does, there is an affine map for the same drivers."""
  first = pilot_of_four_ancestors()
  affine = first.reference
  # Laplace's method is for references without such a map, and none that were
  # refused.
  given = affine._replace(conditional='a map')
  splines = given._replace(marginals='splines')
  tried = []

  def refit(source, whitener, refused):
    has_map = source.reference.conditional is not None
    if refused is None:
      found = splines
    else:
      found = given if has_map or [3] not in refused else affine
    return found, {'drivers': [3], 'is_skewed': is_skewed}

  def run_pilot(name, start, *args, **kwargs):
    tried.append(start)
    lengths = {id(given): num_stages, id(splines): with_splines}
    found = pilot_of_four_ancestors(
      gain if start is affine else 0.0, lengths.get(id(start), 12)
    )
    return found._replace(reference=start)

  refiner = make_refiner(False, refit, run_pilot, fewest_stages=10)
  best = refiner.refine(first, [0, 1])
  assert (best.reference.conditional is not None) == is_kept
  expected = [given] if with_splines is None else [given, splines]
  if with_splines is not None or not is_kept:
    # Without a map that is not kept yet.
    expected.append(affine)
  # Once more where the path got shorter, or there was more mass.
  if is_kept and num_stages < 10:
    expected.append(given)
  elif gain:
    expected.append(affine)
  assert tried == expected


def test_variables_are_structured_as_the_model_is(fitted):
  posterior, *_ = fitted
  assert posterior.names == ['w']
  assert posterior.particles.particles['w'].shape == [1_000, 3]
  assert posterior.particles.log_weights.shape == [1_000]
  assert posterior.sample(7, seed=1)['w'].shape == [7, 3]
  text = posterior.summary()
  assert 'w[2]' in text and 'Log evidence' in text
  assert f'{posterior.num_target_evaluations:,}' in text


def test_quantiles_are_those_of_the_particles(fitted):
  posterior, *_ = fitted
  median = posterior.quantiles(0.5)['w']
  below = posterior.expectation(lambda x: tf.cast(x['w'] <= median, tf.float32))
  # A particle at the median has at most a hundredth of the weight.
  np.testing.assert_allclose(below, 0.5, atol=0.01)
  squares = posterior.quantiles([0.1, 0.9], lambda x: x['w'][:, 0] ** 2)
  assert squares.shape == [2] and squares[0] < squares[1]


def test_samples_have_the_moments_of_the_particles(fitted):
  posterior, *_ = fitted
  samples = posterior.sample(4_000, seed=3)['w'].numpy()
  # Systematic resampling: each particle as often as its weight says, but one.
  mean = posterior.expectation()['w'].numpy()
  np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.01)
  # In random order: neighbours are not the same particle.
  same = np.mean(np.all(samples[1:] == samples[:-1], axis=1))
  assert same < 0.05


def test_standard_error_is_that_of_independent_runs():
  # Two runs of three particles, by hand.
  log_weights = np.log([[1.0, 2.0], [1.0, 1.0], [2.0, 1.0]])
  values = np.array([[0.0, 1.0], [2.0, 3.0], [1.0, 5.0]])
  posterior = fit.result.Posterior(
    particles=weighting.WeightedParticles(
      tf.constant(values.reshape(-1)), tf.constant(log_weights.reshape(-1))
    ),
    log_evidence=0.0,
    log_evidence_error=0.0,
    log_evidences=np.zeros(2),
    num_runs=2,
    num_target_evaluations=0,
    start='prior',
    reason='',
    warnings=[],
    history=[],
    names=['x'],
  )
  weights = np.exp(log_weights)
  totals, sums = weights.sum(axis=0), (weights * values).sum(axis=0)
  estimate = sums.sum() / totals.sum()
  np.testing.assert_allclose(posterior.expectation(), estimate)
  # The delta method for a ratio of means over the runs.
  residuals = (sums - estimate * totals) / totals.mean()
  expected = np.sqrt(np.sum(residuals**2) / (2 * 1))
  np.testing.assert_allclose(posterior.standard_error(), expected)


def test_same_seed_same_result_and_other_units_same_answer(fitted):
  posterior, log_evidence, _ = fitted
  target, other_evidence, _ = regression(unit=1e4)
  other = fit_posterior(target, seed=1, **SMALL)
  # Evidence is a density over six observations.
  np.testing.assert_allclose(
    other_evidence, log_evidence - 6 * np.log(1e4), rtol=1e-6
  )
  difference = other.log_evidence - other_evidence
  assert abs(difference) < 5.0 * other.log_evidence_error + 2e-3
  assert other.num_target_evaluations < 1.5 * posterior.num_target_evaluations


def test_double_precision():
  target, log_evidence, _ = regression(dtype=tf.float64)
  posterior = fit_posterior(target, start='reference', seed=1, **SMALL)
  assert posterior.particles.particles['w'].dtype == tf.float64
  tolerance = 5.0 * posterior.log_evidence_error + 1e-3
  assert abs(posterior.log_evidence - log_evidence) < tolerance


def test_evidence_over_a_half_line():
  # Gamma(3, 2) prior, five Poisson counts: the evidence is a ratio of gammas.
  counts = np.array([1.0, 0.0, 2.0, 1.0, 3.0])
  model = tfd.JointDistributionNamed(
    {
      'rate': tfd.Gamma(3.0, 2.0),
      'y': lambda rate: tfd.Sample(tfd.Poisson(rate), 5),
    }
  )
  log_evidence = (
    scipy.special.gammaln(3.0 + 7.0)
    - scipy.special.gammaln(3.0)
    + 3.0 * np.log(2.0)
    - 10.0 * np.log(7.0)
    - scipy.special.gammaln(counts + 1.0).sum()
  )
  target = model.experimental_pin(y=tf.constant(counts, tf.float32))
  posterior = fit_posterior(target, seed=2, **SMALL)
  tolerance = 5.0 * posterior.log_evidence_error + 2e-3
  assert abs(posterior.log_evidence - log_evidence) < tolerance
  assert np.all(posterior.particles.particles['rate'] > 0.0)
  mean = posterior.expectation(lambda value: value['rate'])
  assert abs(mean - 10.0 / 7.0) < 0.1


def test_two_modes_keep_their_masses():
  known = posteriors.two_gaussians(4)
  posterior = fit_posterior(
    known.target, known.initial, seed=1, num_particles=500, progress=False
  )
  share = posterior.expectation(
    lambda x: tf.cast(known.mode_index_fn(x), tf.float32)
  )
  # From 4,000 particles that are worth some hundreds of independent ones.
  assert abs(share - 0.7) < 0.1
  assert abs(posterior.log_evidence) < 5.0 * posterior.log_evidence_error + 0.02


def test_a_density_of_nan_is_zero():
  def log_prob(x):
    # NaN for negative values.
    return (
      tfd.MultivariateNormalDiag(tf.zeros(1), tf.ones(1)).log_prob(x)
      + tf.sqrt(x[..., 0]) * 0.0
    )

  initial = tfd.MultivariateNormalDiag(tf.zeros(1), 3.0 * tf.ones(1))
  posterior = fit_posterior(log_prob, initial, start='prior', seed=1, **SMALL)
  tolerance = 5.0 * posterior.log_evidence_error + 1e-3
  assert abs(posterior.log_evidence - np.log(0.5)) < tolerance
  weights, x = posterior.particles.weights, posterior.particles.particles
  assert np.all((x[..., 0] >= 0.0) | (weights == 0.0))


def gaussian_space(size=3):
  """The space of a Gaussian target with log normalizer 1.5."""
  rng = np.random.default_rng(2)
  root = np.tril(rng.normal(size=[size, size])) + 2.0 * np.eye(size)
  target = tfd.MultivariateNormalTriL(
    tf.constant(rng.normal(size=size), tf.float32),
    tf.constant(root, tf.float32),
  )
  initial = tfd.MultivariateNormalDiag(tf.zeros(size), 3.0 * tf.ones(size))
  return space.VectorSpace(
    lambda x: target.log_prob(x) + 1.5, initial, None, randomness.as_seed(0)
  ), target


def normal_draws(seed):
  """A function from an index to draws of the start."""
  return lambda i: randomness.normal([1_000, 3], randomness.fold_in(seed, i))


@pytest.fixture(scope='module', params=[1, 8])
def frozen_runs(request):
  """Forty frozen runs to a Gaussian, and the schedule of their pilot."""
  target_space, _ = gaussian_space()
  mover = moves.Moves(target_space, False)
  start = reference.from_affine(np.zeros(3), 0.7 * np.eye(3), tf.float32)
  draw, pilot_seed = tf.unstack(randomness.split_seed(randomness.as_seed(1), 2))
  u = randomness.normal([1_000, 3], draw)
  schedule, _ = pilot.run_pilot(mover, start, u, pilot_seed)
  schedule = schedule._replace(num_draws=request.param)
  log_evidences = []
  for i in range(8):
    seeds = tf.unstack(randomness.split_seed(randomness.as_seed(10 + i), 2))
    population, *_ = frozen.run_frozen(
      mover,
      start,
      normal_draws(seeds[0]),
      schedule,
      20,
      seeds[1],
    )
    log_evidences.append(weighting.log_normalizer(population.log_weights))
  return mover, start, schedule, np.concatenate(log_evidences)


def test_frozen_runs_are_unbiased(frozen_runs):
  *_, log_evidences = frozen_runs
  # Runs of 50 particles only, so that a bias of order one over their number
  # would be seen: the logarithm has one.
  relative = np.exp(log_evidences - 1.5)
  error = relative.std(ddof=1) / np.sqrt(len(relative))
  assert 0.005 < error < 0.05
  assert abs(relative.mean() - 1.0) < 4.0 * error


def test_error_bars_over_runs_cover(frozen_runs):
  *_, log_evidences = frozen_runs
  # Forty groups of four runs. Intervals of 90% by Student's t cover in 36 of
  # them; fewer than 28 in one of 2,000 cases if they are right.
  relative = np.exp(log_evidences - 1.5).reshape([40, 4])
  error = relative.std(axis=1, ddof=1) / 2.0
  width = scipy.stats.t(3).ppf(0.95)
  covers = np.abs(relative.mean(axis=1) - 1.0) < width * error
  assert 28 <= covers.sum()


def test_frozen_runs_do_what_the_schedule_says_and_no_more(
  frozen_runs, monkeypatch
):
  mover, start, schedule, _ = frozen_runs
  leapfrog, calls = mover._leapfrog, []
  monkeypatch.setattr(
    mover, '_leapfrog', lambda *args: calls.append(args) or leapfrog(*args)
  )
  seed = randomness.as_seed(7)
  draw = normal_draws(seed)

  def draw_others(index):
    # All but the first run start elsewhere: the first does not depend on them,
    # as it would if anything were adapted.
    u = draw(index)
    return tf.where(tf.range(1_000)[:, tf.newaxis] % 2 == 0, u, 2.0 * u)

  first, *_ = frozen.run_frozen(mover, start, draw, schedule, 2, seed)
  # Each call evaluates each particle once.
  assert len(calls) == schedule.evaluations_per_particle > 1
  second, *_ = frozen.run_frozen(mover, start, draw_others, schedule, 2, seed)
  np.testing.assert_array_equal(
    first.log_weights[:, 0], second.log_weights[:, 0]
  )
  assert np.any(first.log_weights[:, 1] != second.log_weights[:, 1])


def test_particles_have_the_mean_weight_of_their_draws(frozen_runs):
  mover, start, schedule, _ = frozen_runs
  seed = randomness.as_seed(8)
  draw = normal_draws(seed)
  population, _, num_nan = frozen.begin(mover, start, draw, schedule, 2, seed)
  draws = np.stack([draw(i) for i in range(schedule.num_draws)])
  ratios = np.stack([mover.evaluate(start, u)[0].log_ratio for u in draws])
  factors = np.exp(schedule.stages[0].beta * ratios)
  np.testing.assert_allclose(
    np.exp(population.log_weights).reshape([-1]),
    np.mean(factors, axis=0),
    rtol=1e-4,
  )
  assert num_nan == 0
  # Each is one of its draws, whose expected place in the list is known.
  is_chosen = np.all(draws == population.u[np.newaxis], axis=-1)
  np.testing.assert_array_equal(np.sum(is_chosen, axis=0), 1)
  places = np.arange(schedule.num_draws)
  probabilities = factors / np.sum(factors, axis=0)
  expected = places @ probabilities
  error = np.sqrt(np.mean(places**2 @ probabilities - expected**2) / 1_000)
  found = places @ is_chosen
  assert abs(np.mean(found - expected)) <= 4.0 * error
  # So is the mean weight of what is chosen: one of 8,000 runs fails by chance.
  mean = np.sum(factors * probabilities, axis=0)
  variance = np.sum(factors**2 * probabilities, axis=0) - mean**2
  chosen = np.sum(factors * is_chosen, axis=0)
  error = np.sqrt(np.mean(np.maximum(variance, 0.0)) / 1_000)
  assert abs(np.mean(chosen - mean)) <= 4.0 * error + 1e-6


def test_moves_leave_the_target_invariant(frozen_runs):
  mover, start, _, _ = frozen_runs
  _, target = gaussian_space()
  x = target.sample(1_000, seed=[1, 2])
  # The space is standardized by the initial deviation, the reference by 0.7.
  u = x / 3.0 / 0.7
  terms, _ = mover.evaluate(start, u)
  acceptances = []
  for i in range(12):
    u, terms, acceptance = mover.move(
      start, u, terms, 1.0, 0.9, 3, tf.eye(3), randomness.as_seed(i)
    )
    acceptances.append(acceptance)
  # Some are rejected, so that it is seen whether rightly.
  assert 0.3 < np.mean(acceptances) < 0.97
  x = u.numpy() * 0.7 * 3.0
  deviations = target.stddev().numpy()
  z = (x - target.mean().numpy()) / deviations
  assert np.all(np.abs(z.mean(axis=0)) < 5.0 / np.sqrt(1_000))
  assert np.all(np.abs(z.var(axis=0) - 1.0) < 5.0 * np.sqrt(2.0 / 1_000))
  # Terms that are kept are those of the particles.
  fresh, _ = mover.evaluate(start, u)
  np.testing.assert_allclose(
    fresh.log_target, terms.log_target, rtol=1e-4, atol=1e-4
  )


def test_the_funnel():
  known = posteriors.neals_funnel(4)
  posterior = fit_posterior(known.target, known.initial, seed=1, progress=False)
  # Moves that do not enter the neck leave it at -0.2 and below.
  assert abs(posterior.log_evidence) < 0.05
  assert any(stage.get('drivers') for stage in posterior.history)


def test_an_interrupt_gives_what_there_is(monkeypatch):
  target, log_evidence, _ = regression()

  def interrupt(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(frozen, 'run_frozen', interrupt)
  posterior = fit_posterior(target, start='reference', seed=1, **SMALL)
  assert any('interrupted' in warning for warning in posterior.warnings)
  assert np.isnan(posterior.log_evidence_error)
  # A pilot of 1,000 particles from nearly the posterior itself.
  assert abs(posterior.log_evidence - log_evidence) < 0.2


def test_warnings_say_what_is_wrong():
  good = {
    'log_evidences': np.zeros(4),
    'num_particles': 500,
    'num_ancestors': np.full(4, 300),
    'ratios': np.ones(2),
    'names': ['a', 'b'],
    'tail_k': 0.3,
    'level_ess': np.full([3, 4], 0.8),
    'acceptances': [0.8] * 3,
  }
  assert diagnosis.find_warnings(**good) == []
  for change, words in (
    ({'tail_k': 0.9}, 'heavy tails'),
    ({'num_ancestors': np.array([300, 3, 300, 300])}, 'few ancestors'),
    ({'ratios': np.array([1.0, 1.5])}, 'modes at risk: the runs disagree ab'),
    ({'log_evidences': np.array([0.0, -3.0, 0.0, 0.0])}, 'dominate'),
    ({'level_ess': np.full([3, 4], 0.01)}, 'level dominates'),
    ({'acceptances': [0.8, 0.1, 0.8]}, 'moves of level 2'),
  ):
    (warning,) = diagnosis.find_warnings(**{**good, **change})
    assert words in warning


def test_arviz_is_optional(fitted, monkeypatch):
  posterior, *_ = fitted
  monkeypatch.setitem(sys.modules, 'arviz', None)
  with pytest.raises(ImportError, match='arviz'):
    posterior.to_arviz()


def test_arviz(fitted):
  pytest.importorskip('arviz')
  posterior, *_ = fitted
  data = posterior.to_arviz()
  assert data.posterior['w'].shape == (4, 250, 3)
  assert data.posterior.attrs['log_evidence'] == posterior.log_evidence


@pytest.mark.parametrize(
  'change, error, words',
  [
    ({'start': 'middle'}, ValueError, '`start`'),
    ({'num_runs': 0}, ValueError, '`num_runs`'),
    ({'num_particles': 2.5}, TypeError, '`num_particles`'),
    ({'conditional_ess': 1.0}, ValueError, '`conditional_ess`'),
    ({'initial': 'prior'}, TypeError, '`initial`'),
    ({'event_space_bijector': 1}, TypeError, '`event_space_bijector`'),
    ({'target': lambda x: x}, ValueError, '`initial`'),
    ({'target': 3}, TypeError, '`target`'),
  ],
)
def test_arguments_are_checked(change, error, words):
  target, *_ = regression()
  with pytest.raises(error, match=words):
    fit_posterior(**{'target': target, **change})


@pytest.mark.slow
def test_levels_from_the_reference_can_be_trained():
  """Over a structured space, whose parts are split in a compiled loop."""
  known = posteriors.eight_schools()
  posterior = fit_posterior(
    known.target,
    start='reference',
    num_particles=100,
    num_runs=2,
    progress=False,
    seed=1,
  )
  path = nvi.GeometricPath(
    posterior.reference,
    known.target,
    num_densities=3,
    event_space_bijector=posterior.reference.bijector,
  )
  sampler = nvi.NestedSampler(path, nvi.LangevinTransitions(path))
  history = nvi.fit(sampler, nvi.reverse_kl(), 64, 50, seed=1, progress=False)
  assert np.isfinite(history.loss).all()
  particles = sampler.sample(2_000, seed=2)
  assert particles.effective_sample_size > 800.0
  error = abs(particles.log_normalizer - known.log_evidence)
  # False alarm: 5 standard errors, of weights with a relative variance near 1.
  assert error < 5.0 * particles.log_normalizer_error


def test_xla_is_left_out_where_it_does_not_serve():
  """Factorizations and few values on a CPU, and ops that XLA does not know."""

  def suits_xla(log_prob, size=200):
    initial = tfd.MultivariateNormalDiag(tf.zeros(size), tf.ones(size))
    vectors = space.VectorSpace(log_prob, initial, None, [0, 1])
    return vectors.suits_xla()

  normal = tfd.MultivariateNormalDiag(tf.zeros(200), tf.ones(200))
  assert suits_xla(normal.log_prob)
  assert not suits_xla(
    lambda x: (
      tf.numpy_function(lambda y: -0.5 * (y**2).sum(-1), [x], x.dtype)
      + normal.log_prob(x)
    )
  )
  if not tf.config.list_physical_devices('GPU'):
    assert not suits_xla(
      lambda x: (
        normal.log_prob(x)
        + tf.linalg.cholesky(tf.eye(200) + tf.linalg.diag(x**2))[..., 0, 0]
      )
    )
    assert not suits_xla(lambda x: -0.5 * tf.reduce_sum(x**2, axis=-1), 3)


def test_cholesky_factors_of_correlations():
  prior = tfd.CholeskyLKJ(2, 1.5)
  posterior = fit_posterior(prior.log_prob, prior, seed=1, **SMALL)
  # Student's t with 3 degrees of freedom: a false alarm in a thousand.
  assert posterior.log_evidence_error < 0.03
  assert abs(posterior.log_evidence) < 13.0 * posterior.log_evidence_error
  # The correlation r has (1 + r) / 2 ~ Beta(1.5, 1.5), and a variance of 1 / 4.
  square = posterior.expectation(lambda x: x[..., 1, 0] ** 2)
  np.testing.assert_allclose(square, 0.25, atol=5.0 * 0.22 / np.sqrt(500))


@pytest.mark.parametrize('start', ['reference', 'prior'])
def test_evidence_over_a_simplex(start):
  """The evidence of a multinomial count has a closed form."""
  concentration = np.array([2.0, 2.0, 2.0, 2.0])
  counts = np.array([4.0, 3.0, 2.0, 1.0])
  model = tfd.JointDistributionNamed(
    {
      'p': tfd.Dirichlet(tf.constant(concentration, tf.float32)),
      'y': lambda p: tfd.Multinomial(10.0, probs=p),
    }
  )
  target = model.experimental_pin(y=tf.constant(counts, tf.float32))
  posterior = fit_posterior(target, start=start, seed=1, **SMALL)
  exact = float(tfd.DirichletMultinomial(10.0, concentration).log_prob(counts))
  # Student's t with 3 degrees of freedom: a false alarm in a thousand. With the
  # volume of the surface it would be off by log(4) / 2.
  assert posterior.log_evidence_error < 0.03
  error = abs(posterior.log_evidence - exact)
  assert error < 13.0 * posterior.log_evidence_error
  if start == 'reference':
    particles = posterior.sampler.sample(2_000, seed=2)
    error = abs(particles.log_normalizer - exact)
    assert error < 5.0 * particles.log_normalizer_error


def test_bijectors_in_a_nested_structure():
  """The same posterior as with the bijector that TFP makes of the model."""
  initial = tfd.JointDistributionNamed(
    {'rate': tfd.Gamma(3.0, 2.0), 'x': tfd.Normal(0.0, 1.0)}
  )

  def log_prob(value):
    return initial.log_prob(value) + tfd.Poisson(value['rate']).log_prob(2.0)

  bijectors = {'rate': tfb.Softplus(), 'x': tfb.Identity()}
  given = space.VectorSpace(log_prob, initial, bijectors, [0, 1])
  default = space.VectorSpace(log_prob, initial, None, [0, 1])
  y = tf.constant([[0.3, -0.5], [-1.0, 2.0]])
  for found, expected in zip(
    tf.nest.flatten(given.to_user(y)),
    tf.nest.flatten(default.to_user(y)),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(
    given.log_probs(y)[0], default.log_probs(y)[0], rtol=1e-5
  )


def test_initial_densities_that_cannot_be_drawn_in_batches():
  """A part is a `Root`, though it depends on another one."""
  root = tfd.JointDistributionCoroutine.Root

  @tfd.JointDistributionCoroutine
  def initial():
    scale = yield root(tfd.LogNormal(0.0, 0.5, name='scale'))
    yield root(tfd.Normal(0.0, scale, name='x'))

  assert initial.sample(3, seed=1).x.shape == [3, 3]
  drawn = space.VectorSpace(initial.log_prob, initial, None, [0, 1])
  values = drawn.to_user(drawn.sample_initial(1_500, [0, 2]))
  # Each x by its own scale is a standard normal draw.
  ratios = values.x / values.scale
  assert scipy.stats.kstest(ratios, scipy.stats.norm.cdf).pvalue > 1e-4
  log_scales = np.log(values.scale) / 0.5
  assert scipy.stats.kstest(log_scales, scipy.stats.norm.cdf).pvalue > 1e-4

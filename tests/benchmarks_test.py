# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks measure the right things; their durations are not tested."""

import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app

import tfp_nvi as nvi
from benchmarks import (
  adversarial_step,
  annealing_report,
  annealing_training,
  deep_gaussian_step,
  devices,
  filtering,
  growth,
  image_mixture_step,
  island_bias,
  posterior_moments,
  posterior_peers,
  posteriors,
  reporting,
  sampling,
  scale_out,
  state_aware,
  workers,
)
from tfp_nvi.experiments import annealing
from tfp_nvi.experiments.adversarial import generators
from tfp_nvi.experiments.deep_gaussian import model as deep_gaussian_model
from tfp_nvi.experiments.image_mixture import deep_mixture
from tfp_nvi.internal import randomness
from tfp_nvi.posterior import space as space_lib
from tfp_nvi.targets import posteriors as known_posteriors

tfd = tfp.distributions


def row(loop, size, microseconds, compile_seconds=1.0):
  library, _ = annealing_report.LOOPS[loop]
  num_densities, num_particles, num_restarts = size
  return {
    'library': library,
    'loop': loop,
    'num_densities': num_densities,
    'num_particles': num_particles,
    'num_restarts': num_restarts,
    'microseconds_per_step': microseconds,
    'compile_seconds': compile_seconds,
    'peak_megabytes': 100,
  }


@pytest.fixture
def worker():
  made = workers.Worker('collections:Counter', {'a': 1})
  yield made
  made.close()


def test_worker_keeps_its_object(worker):
  worker.call('update', ['a', 'b'])
  assert worker.call('most_common', 1) == [['a', 2]]
  assert worker.call('peak_megabytes') > 1.0


def test_worker_reports_errors_and_goes_on(worker):
  with pytest.raises(workers.WorkerError, match='no attribute'):
    worker.call('least_common')
  assert worker.call('most_common') == [['a', 1]]


def test_worker_reports_its_end():
  worker = workers.Worker('os:abort', {})
  with pytest.raises(workers.WorkerError, match='exit code'):
    worker.call('anything')
  worker.close()


def test_worker_is_killed_in_time():
  worker = workers.Worker('signal:pause', {})
  start = time.perf_counter()
  with pytest.raises(workers.WorkerError, match='no answer in 1 s'):
    worker.call('anything', timeout=1.0)
  assert time.perf_counter() - start < 5.0
  worker.close()


def test_sizes_that_take_too_long_are_absent():
  (found,) = annealing_training.measure_size(
    (8, 36, 1),
    ['fit'],
    [row('fit', (8, 36, 1), 2e6)],
    repetitions=1,
    max_seconds=1.0,
    timeout=1.0,
    max_gigabytes=None,
  )
  assert found['microseconds_per_step'] is None
  assert 'about 2 s' in found['absent']


def test_estimates_follow_what_was_measured():
  rows = [row('fit', (8, 1_000, 1), 5_000.0), row('scan', (8, 36, 1), 1.0)]
  seconds = [
    annealing_training.estimate_seconds(size, 'fit', rows)
    for size in ((8, 1_000, 1), (8, 10_000, 1), (128, 10_000, 1))
  ]
  np.testing.assert_allclose(seconds[0], 5e-3)
  assert 3.0 < seconds[1] / seconds[0] <= 10.0
  np.testing.assert_allclose(seconds[2] / seconds[1], 127.0 / 7.0)


@pytest.mark.parametrize('seconds_per_step', [1e-5, 3e-3, 0.4, 20.0])
def test_repetitions_take_as_long_as_accepted(seconds_per_step):
  num_steps = annealing_training.steps_for(seconds_per_step)
  assert annealing_training.is_accepted(num_steps * seconds_per_step, num_steps)


def test_table_has_ratios():
  size = (8, 36, 1)
  rows = [
    row('fit', size, 200.0),
    row('shipped', size, 800.0),
    row('scan', size, 400.0),
    row('fit', (8, 36, 10), 500.0),
    row('scan', (8, 36, 10), None, None),
    row('fit', (128, 36, 1), 900.0, compile_seconds=1.5),
  ]
  table = annealing_report.format_table(rows)
  assert '| 8 | 36 | 1 | 200 | 800 | 400 | 0.25 | 0.50 |' in table
  assert '| 8 | 36 | 10 | 500 | - | - | - | - |' in table
  assert 'ours / scan: geometric mean 0.50 over 1 sizes' in table
  assert '10 restarts take 2.50 times' in table
  assert len(annealing_report.plot(rows).axes) == 2


def test_growth_is_a_ratio_of_medians():
  def row(num_densities, seconds, peak):
    return {
      'schedule': 'level_by_level',
      'num_densities': num_densities,
      'num_particles': 1_000,
      'compile_seconds': seconds,
      'baseline_megabytes': 100.0,
      'peak_megabytes': peak,
    }

  few = [row(8, s, 200.0) for s in (2.0, 9.0, 1.0)]
  many = [row(256, s, 250.0) for s in (3.0, 3.0, 40.0)]
  compiled = growth.summarize(few, many, 'compile')
  assert 'level by level, K = 8 and 256, 1,000 particles' in compiled
  assert compiled.endswith('2.0 and 3.0 s to compile, ratio 1.50')
  memory = growth.summarize(few, many, 'memory')
  assert '200.0 and 250.0 MB at most, ratio 1.25' in memory
  assert memory.endswith('100.0 and 150.0 MB, ratio 1.50')


def test_efficiency_of_two_workers():
  def row(num_workers, turn, seconds, processor_seconds):
    return {
      'task': 'ring',
      'turn': turn,
      'num_workers': num_workers,
      'seconds': seconds,
      'processor_seconds': processor_seconds,
    }

  rows = [
    # In the third turn something else keeps the machine busy.
    *(row(1, 0, 2.0, 1.9), row(2, 0, 1.0, 0.8)),
    *(row(1, 1, 2.2, 1.9), row(2, 1, 1.1, 0.9)),
    *(row(1, 2, 2.0, 2.0), row(2, 2, 4.0, 0.9)),
  ]
  (summary,) = scale_out.summarize(rows, {'ring': {'seconds': 0.1}})
  assert summary['ratio_of_seconds'] == 2.0
  assert summary['processor_seconds_of_one'] == 1.9
  assert summary['ratio_without_other_work'] == pytest.approx(1.9)


def test_devices_are_compared_by_their_medians():
  def row(device, seconds, estimates):
    return {
      'task': 'ring',
      'num_particles': 100,
      'device': device,
      'seconds': seconds,
      'estimates': estimates,
    }

  summary = devices.summarize(
    [
      row('/CPU:0', [8.0, 9.0], [1.0, 3.0]),
      row('/GPU:0', [2.0, 2.0], [2.0, 2.0]),
      row('/CPU:0', [8.0], [2.0]),
      row('/GPU:0', [30.0], [2.0]),
    ]
  )
  assert summary['seconds'] == [8.0, 2.0]
  assert summary['ratios'] == [1.0, 4.0]
  assert summary['means'] == [2.0, 2.0]
  # The deviation of 1, 3, 2 is 1.
  assert summary['errors'] == pytest.approx([3.0**-0.5, 0.0])


def test_steps_of_a_device_are_timed():
  (row,) = devices.compare('training', 10, ['/CPU:0'], 1, repetitions=2)
  assert len(row['seconds']) == 2 and min(row['seconds']) > 0.0
  assert devices.summarize([row])['means'] == [None]


def test_bias_is_without_noise():
  bias, reference = np.array([3.0, 0.0]), np.array([0.0, 10.0])
  noise = np.array([0.0, 1.0]), np.array([1.0, 0.0])
  found = [reference + bias + noise[0], reference + bias]
  assert island_bias.relative_bias(found, [reference] * 2) == pytest.approx(0.3)
  found = [reference + noise[0], reference - noise[0]]
  assert island_bias.relative_bias(found, [reference] * 2) == 0.0


def test_mean_gradients_are_independent():
  target = nvi.targets.ring_of_gaussians()
  sampler, objective = annealing.make_sampler('nvi', target, 2, seed=1)
  first, second = island_bias.mean_gradients(sampler, objective, 5, 2, seed=1)
  assert first.shape == second.shape and np.any(first != second)


def test_projection_of_collectives():
  # A gather of 4 kB takes 1 s, 0.5 s of it for any size: 8 kB take 1.5 s.
  collective = {'seconds': 1.0, 'latency': 0.5, 'numbers': 1_000}
  assert scale_out.project('ring', 3.0, collective, 1) == 1.0
  assert scale_out.project('ring', 3.0, collective, 3) == 0.5
  # For a sum, 512 workers send 1,022 messages, each 1/512 of 4 kB.
  seconds = 1_022 * (0.25 + 4_000 / 512 / 8_000)
  assert scale_out.project('training', 3.0, collective, 512) == pytest.approx(
    3.0 / (3.0 + seconds)
  )
  # With messages that take no time, the bytes are left.
  efficiency = scale_out.project('training', 3.0, collective, 2, 0.0, 1_000.0)
  assert efficiency == pytest.approx(3.0 / (3.0 + 4.0))


@pytest.mark.slow
def test_growth_measures_a_process():
  row = growth.measure('level_by_level', num_densities=3, num_particles=10)
  assert row['compile_seconds'] > 0.0
  assert row['peak_megabytes'] > row['baseline_megabytes'] > 100.0


def test_coix_learns():
  pytest.importorskip('coix')
  pytest.importorskip('optax')
  from benchmarks import annealing_coix

  trainer = annealing_coix.Trainer('scan', 3, 36, num_restarts=1)
  trainer.prepare(num_steps=5, repetitions=1)
  assert trainer.run() > 0.0
  assert trainer.compile_seconds() > 0.0


@pytest.fixture(scope='module')
def problem():
  """One Gaussian, wider than that of the start."""
  target = nvi.targets.MultimodalTarget(
    'one',
    lambda x: 1.0 - 0.5 * tf.reduce_sum((x / 2.0) ** 2, axis=-1),
    None,
    None,
    log_normalizer=1.0 + np.log(8.0 * np.pi),
    mode_locations=np.zeros([1, 2]),
    mode_probabilities=[1.0],
    limits=(-8.0, 8.0),
  )
  initial = tfd.MultivariateNormalDiag([0.0, 0.0], [2.5, 2.5])
  return initial, sampling.CountedTarget(target), target.log_normalizer


def test_importance_sampling_is_measured(problem):
  initial, target, log_normalizer = problem
  fn = sampling.importance_fn(initial, target, 400)
  (found,) = sampling.measure({'is': fn}, target, 20, log_normalizer, 8.0)
  assert found['evaluations'] == 400
  assert found['rmse'] < 0.1
  assert 100 < found['ess'] < 1_200


def test_sequential_monte_carlo_is_measured(problem):
  initial, target, log_normalizer = problem

  # Two steps a stage, so that evaluations can be counted by hand.
  def tuning_fn(num_steps, log_scalings, log_accept_prob):
    del num_steps, log_accept_prob
    return tf.constant(2), log_scalings

  fn = sampling.sequential_fn(
    initial,
    target,
    400,
    tfp.experimental.mcmc.make_rwmh_kernel_fn,
    tuning_fn,
  )
  (found,) = sampling.measure({'smc': fn}, target, 20, log_normalizer, 8.0)
  # A single stage, of 25 steps: at the start, twice; when the stage starts; for
  # each step; and when it ends.
  assert found['evaluations'] == 400 * (2 + 1 + 25 + 1)
  assert found['rmse'] < 0.1
  assert 100 < found['ess'] < 1_200


@pytest.mark.slow
def test_adversarial_steps_are_measured():
  library, plain = adversarial_step.step_durations(4, 2)
  for durations in (library, plain):
    assert durations.shape == (2,)
    assert np.all(durations > 0.0)


def test_plain_adversarial_steps_train_both_networks(monkeypatch):
  monkeypatch.setattr(adversarial_step, '_STEPS_PER_CALL', 2)
  gan = generators.Gan(64, 2, 4, 1.0, seed=1)
  networks = (gan.generator, gan.discriminator)
  before = [network.get_weights() for network in networks]
  steps_fn = adversarial_step.make_plain_steps(gan, tf.ones([4, 64]))
  assert steps_fn(tf.constant([1, 2])) > 0.0
  for network, weights in zip(networks, before, strict=True):
    after = network.get_weights()
    assert any(np.any(x != y) for x, y in zip(after, weights, strict=True))


@pytest.mark.slow
def test_steps_on_images_are_measured():
  training, networks = image_mixture_step.step_durations(2, 3)
  for durations in (training, networks):
    assert durations.shape == (3,)
    assert np.all(durations > 0.0)


def test_networks_alone_are_evaluated_and_differentiated():
  # Not black ones, for which all units are where ReLU has no derivative.
  images = np.random.default_rng(1).integers(256, size=[2, 28, 28, 1])
  images = tf.constant(images, tf.float32) / 255.0
  mixture = deep_mixture.DeepMixture([28, 28], seed=1)
  # So that outputs count, beside their derivatives.
  mixture.decoder.trainable_variables[-1].assign(tf.ones([16]))
  with tf.GradientTape() as tape:
    codes = mixture.encoder(images)
    result = tf.reduce_sum(mixture.decoder(codes[:, :10]))
  gradients = tape.gradient(
    result,
    mixture.encoder.trainable_variables + mixture.decoder.trainable_variables,
  )
  expected = result + sum(tf.reduce_sum(g) for g in gradients)
  steps_fn = image_mixture_step.make_network_steps(mixture, images[..., 0])
  np.testing.assert_allclose(1e9 * steps_fn(), expected, rtol=1e-3)
  assert result > 0.1 * expected


def test_plain_loop_minimizes_the_same_bound():
  # The networks of a model by a loop without this library: after some steps
  # the bound as the library has it is better.
  images = np.zeros([40, 16], np.uint8)
  images[:, ::2] = 255
  model = deep_gaussian_model.DeepGaussian(16, [3, 2], (5, 4), 2, seed=1)
  x = tf.constant(images[:20] / 255.0, tf.float32)

  def bound():
    z = model.infer(x).sample(20, seed=(1, 2))
    return np.mean(model.log_joint(z, x) - model.infer(x).log_prob(z))

  before = bound()
  assert before < -10.0
  steps_fn = deep_gaussian_step.make_plain_steps(model, images, 20)
  steps_fn(300)
  assert bound() > before + 3.0


def test_levels_of_a_step_are_those_of_the_mixture():
  mixture = deep_mixture.DeepMixture([8, 8], seed=1)
  levels = mixture.levels(tf.zeros([2, 8, 8]))
  assert tuple(x.name for x in levels) == image_mixture_step.LEVELS


def test_measurements_are_kept(tmp_path):
  size = (8, 36, 1)

  def store(repetitions=5, overwrite=False):
    configuration = {'num_repetitions': repetitions}
    return annealing_training._Store(str(tmp_path), configuration, overwrite)

  store().add(
    [
      row('fit', size, 200.0),
      {**row('scan', size, None, None), 'absent': 'slow'},
    ]
  )
  again = store()
  for retry_absent in (False, True):
    assert not again.lacks(size, 'fit', retry_absent)
    assert again.lacks(size, 'scan', retry_absent) == retry_absent
    assert again.lacks(size, 'shipped', retry_absent)
  again.add([row('scan', size, 400.0)])
  assert [r['microseconds_per_step'] for r in store().rows] == [200.0, 400.0]
  with pytest.raises(app.UsageError, match='num_repetitions is 5, now 6'):
    store(6)
  (tmp_path / 'training.json').write_text('{')
  with pytest.raises(app.UsageError, match='cannot be read'):
    store()
  assert not store(overwrite=True).rows


def test_arguments_that_are_no_flags():
  reporting.check_arguments(['program'])
  with pytest.raises(app.UsageError, match='got num_densities=8'):
    reporting.check_arguments(['program', 'num_densities=8'])


def test_filters_agree_with_a_kalman_filter():
  rows, _ = filtering.measure('linear', 20, 2_000, repetitions=2)
  assert {row['filter'] for row in rows} >= {
    'tfp_nvi, prior',
    'tfp_nvi, guided',
    'tfp_nvi, look ahead',
    'tfp',
  }
  assert all(row['error'] < 0.5 for row in rows)
  # Nothing is approximated.
  assert rows[2]['error'] < 1e-3


def test_state_aware_filters_are_exact():
  """The recursions agree, and with the exact factor hardly anything is lost."""
  log_emissions = state_aware.simulate(np.random.default_rng(1))
  messages = state_aware.backward(log_emissions)
  filtered, exact = state_aware.forward(log_emissions)
  for k in (0, 100):
    # `p(x_{k+1:} | x_{1:k})` from both sides.
    _, before = state_aware.forward(
      np.concatenate([log_emissions[: k + 1], np.zeros([199 - k, 4])])
    )
    rest = np.log(filtered[k] @ np.exp(messages[k] - messages[k].max()))
    np.testing.assert_allclose(before + rest + messages[k].max(), exact)
  total = state_aware.run_filter(
    log_emissions, messages, 500, np.random.default_rng(2)
  )
  assert abs(total - exact) < 1.0


# Posteriors.


def known_gaussian():
  """A normal density times `exp(2)`, over two dimensions."""
  normal = tfd.MultivariateNormalDiag([1.0, -1.0], [0.5, 0.2])
  return known_posteriors.KnownPosterior(
    'gaussian',
    2,
    lambda x: normal.log_prob(x) + 2.0,
    tfd.MultivariateNormalDiag([0.0, 0.0], [2.0, 2.0]),
    2.0,
  )


def measure_peer(name):
  functions, _ = posterior_peers.find_methods([name])
  if name not in functions:
    pytest.skip(f'{name} is not installed.')
  return posterior_peers.measure(
    name, functions[name], known_gaussian(), 40_000, 1
  )


@pytest.mark.parametrize('name', ['mean field', 'full rank'])
def test_variational_inference_finds_the_evidence(name):
  row = measure_peer(name)
  # The surrogate's family has the target: weights are all the same but for
  # what training leaves, whose square is the variance of 20,000 weights.
  assert abs(row['error']) < 0.02
  assert row['num_evaluations'] == 40_000


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'tolerance'),
  # The divergence from the initial density is 2.9 nats, so that the standard
  # error of nested sampling is 0.12 with 200 points; the others are more exact.
  [('tempered SMC', 0.15), ('nested slices', 0.5), ('nautilus', 0.05)],
)
def test_samplers_find_the_evidence(name, tolerance):
  row = measure_peer(name)
  assert abs(row['error']) < tolerance
  assert 25_000 < row['num_evaluations'] < 80_000


@pytest.mark.slow
def test_nuts_draws_from_the_posterior():
  pytest.importorskip('blackjax')
  from benchmarks import posterior_blackjax

  known = known_gaussian()
  space = space_lib.VectorSpace(
    known.target, known.initial, None, randomness.as_seed(1)
  )
  y, count = posterior_blackjax.sample_nuts(space, 40_000, 1)
  x = space.to_user(tf.constant(y)).numpy()
  assert count >= 40_000 and x.shape[1] == 2
  # Five standard errors, if a fifth of the draws are effective.
  error = 5.0 / np.sqrt(0.2 * len(x))
  np.testing.assert_array_less(
    abs(x.mean(axis=0) - [1.0, -1.0]), np.array([0.5, 0.2]) * error
  )


def test_methods_that_are_not_installed_are_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'nautilus', None)
  monkeypatch.delitem(
    sys.modules, 'benchmarks.posterior_nautilus', raising=False
  )
  functions, missing = posterior_peers.find_methods(['mean field', 'nautilus'])
  assert list(functions) == ['mean field']
  assert 'nautilus' in missing['nautilus']


@pytest.fixture(scope='module')
def measured_posterior():
  known = known_gaussian()
  posterior = nvi.fit_posterior(
    known.target,
    known.initial,
    num_particles=100,
    num_runs=4,
    progress=False,
    seed=1,
  )
  return posterior, posteriors.measure_learned(known, posterior, 1)


@pytest.mark.slow
def test_evaluations_for_an_effective_draw(measured_posterior):
  posterior, found = measured_posterior
  # Every sampler has one evaluation a draw at least, and no draw is more than
  # effective; the reference is the target but for the errors of its moments.
  assert 1.0 <= found['importance'] < 1.5
  for name in ('langevin', 'trained'):
    assert 7.0 <= found[name] < 14.0
  # No pilot has fewer than an evaluation for each leapfrog step and particle.
  assert found['pilot'] > 2.0
  assert found['runs'] >= posterior.history[-1]['num_target_evaluations'] / 400
  assert found['pareto_k'] < 0.7


class _Transformation:
  """As in inference_gym, with moments that are known."""

  def __init__(self, mean, deviation):
    self.ground_truth_mean = mean
    self.ground_truth_standard_deviation = deviation

  def fn(self, x):
    return x


def test_moments_in_posterior_deviations():
  x = np.array([[-1.0, 0.0], [1.0, 4.0]])
  row = posterior_moments.compare_moments(
    {
      'known': _Transformation(np.array([0.5, 2.0]), np.array([1.0, 4.0])),
      'other': _Transformation(None, None),
    },
    lambda fn: np.mean(fn(x), axis=0),
  )
  # Two steps of a sequence, whose reference values are in one array.
  steps = {'steps': _Transformation(np.array([0.5, 2.0]), np.array([1.0, 4.0]))}
  assert row == posterior_moments.compare_moments(
    steps,
    lambda fn: list(np.mean(np.stack(fn([x[:, 0], x[:, 1]])), axis=1)),
  )
  # Means are 0 and 2, deviations 1 and 2.
  assert row['num_moments'] == 2
  assert row['mean_error'] == pytest.approx(np.sqrt(0.125))
  assert row['largest_mean_error'] == 0.5
  assert row['deviation_error'] == pytest.approx(np.sqrt(0.125))
  assert (row['smallest_deviation'], row['largest_deviation']) == (0.5, 1.0)
  rows = [
    {
      **row,
      'target': 'a',
      'num_values': 2,
      'log_evidence': log_evidence,
      'num_evaluations': 1_000,
      'processor_seconds': 3.0,
    }
    for log_evidence in (1.0, 3.0)
  ]
  last = posterior_moments.summarize(rows).splitlines()[-1]
  assert last == (
    '| a | 2 | 0.354 | 0.50 | 0.354 | 0.50 to 1.00 | 2.00 | 1.414 | 1e+03 | 3 |'
  )
  # A model without reference values.
  none = posterior_moments.compare_moments(
    {'other': _Transformation(None, None)}, lambda fn: np.mean(fn(x), axis=0)
  )
  last = posterior_moments.summarize([{**rows[0], **none}]).splitlines()[-1]
  assert last == '| a | 2 | - | - | - | - | 1.00 | - | 1e+03 | 3 |'


def test_tables_of_posteriors():
  common = {'target': 'a', 'num_values': 2, 'num_particles': 10}
  rows = [
    {**common, 'error': 3.0, 'num_evaluations': 100},
    {**common, 'error': 4.0, 'num_evaluations': 100},
  ]
  peers = [
    {**common, 'method': name, 'error': error, 'num_evaluations': count}
    for name, error, count in (
      ('full rank', -0.5, 100),
      ('tempered SMC', 0.25, 300),
      ('nautilus', None, 100),
    )
  ]
  # The root of the mean of 9 and 16; three times the evaluations; no estimate.
  last = posteriors.compare(rows, peers).splitlines()[-1]
  assert last == '| a | 10 | 3.536 | 0.500 | 0.250 (3.0) | - |'
  methods = ('pilot', 'runs', 'importance', 'langevin', 'trained')
  found = dict.fromkeys(methods, 2.0)
  rows[0]['learned'] = {**found, 'pareto_k': 0.5}
  text = posteriors.summarize_learned(rows).splitlines()
  assert text[2:] == ['| a | 2 | 2.0 | 2.0 | 2.0 (0.50) | 2.0 | 2.0 |']

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fits samplers, runs them several times, and draws bands over data."""

import dataclasses
import math
import time

import numpy as np
import tensorflow as tf
from matplotlib import figure as figure_lib

from tfp_nvi import weighting
from tfp_nvi.experiments import common
from tfp_nvi.experiments.state_space import models
from tfp_nvi.internal import randomness
from tfp_nvi.state_space import ParticleMetropolis, fit_state_space

__all__ = [
  'Settings',
  'run',
]

# The number of chains of the reference, and the share of their first steps that
# is discarded.
_NUM_CHAINS, _WARM_UP = 32, 0.25
_STEPS_PER_CALL = 50


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment with state-space models."""

  model: tuple = common.names(models.MODELS, ('stochastic_volatility',))
  sequence_length: int = common.setting(100, 'Steps of a sequence.')
  num_particles: int = common.setting(2_000, 'Particles of a run.')
  num_runs: int = common.setting(30, 'Runs on one sequence.', common.count(2))
  num_steps: int = common.setting(2_000, 'Number of training steps.')
  num_predicted: int = common.setting(20, 'Steps to predict.')
  reference_steps: int = common.setting(
    0, 'Steps of the chains of the reference.', common.count(0)
  )
  seed: int = common.setting(1, 'Random seed.', common.count(-math.inf))
  output_dir: str = common.output_dir('results/state_space')
  overwrite: bool = common.overwrite()


def _names(theta):
  """Returns pairs of the name and the value of each scalar parameter."""
  if tf.nest.is_nested(theta):
    return list(zip(sorted(theta), tf.nest.flatten(dict(theta)), strict=True))
  return [('parameter', theta)]


def _moments(posterior):
  """Returns posterior means and deviations of the parameters, by name."""
  moments = posterior.expectation(
    lambda theta, _: {
      name: tf.stack([x, x**2], axis=-1) for name, x in _names(theta)
    }
  )
  return {
    name: (float(m[0]), math.sqrt(max(float(m[1] - m[0] ** 2), 0.0)))
    for name, m in moments.items()
  }


def _reference(sampler, x, posterior, settings):
  """Returns means of long chains that start from the posterior's particles."""
  num_steps = settings.reference_steps
  space = sampler.initial_proposal_fn.space
  _, scale_tril = space.matched(posterior.global_state, posterior.log_weights)
  kernel = ParticleMetropolis(
    sampler, x, 32, 2.2 / math.sqrt(space.size) * scale_tril
  )
  theta, _, _ = posterior.predict(1, _NUM_CHAINS, settings.seed)

  @tf.function(jit_compile=True, autograph=False)
  def take_steps(theta, results, seed):
    arrays = [
      tf.TensorArray(x.dtype, _STEPS_PER_CALL, element_shape=x.shape)
      for _, x in _names(theta)
    ]

    def body(i, theta, results, arrays):
      theta, results = kernel.one_step(
        theta, results, randomness.fold_in(seed, i)
      )
      arrays = [
        array.write(i, x)
        for array, (_, x) in zip(arrays, _names(theta), strict=True)
      ]
      return i + 1, theta, results, arrays

    _, theta, results, arrays = tf.while_loop(
      lambda i, *_: i < _STEPS_PER_CALL,
      body,
      (tf.constant(0), theta, results, arrays),
      maximum_iterations=_STEPS_PER_CALL,
    )
    return theta, results, [array.stack() for array in arrays]

  theta = tf.nest.map_structure(tf.identity, theta)
  names = [name for name, _ in _names(theta)]
  results, draws = kernel.bootstrap_results(theta), []
  for i in range(-(-num_steps // _STEPS_PER_CALL)):
    seed = randomness.fold_in(randomness.as_seed(settings.seed), i)
    theta, results, values = take_steps(theta, results, seed)
    draws.append(np.stack([value.numpy() for value in values]))
  draws = np.concatenate(draws, axis=1)
  draws = draws[:, int(_WARM_UP * draws.shape[1]) :]
  return {
    name: float(np.mean(values))
    for name, values in zip(names, draws, strict=True)
  }


def _first(values, rank):
  """Returns the first coordinates of values with some axes before the event."""
  values = np.asarray(values).astype(float)
  return values if values.ndim == rank else values[..., 0]


def _draw(name, x, z, posterior, settings):
  """Draws bands over the data; `z` is `None` if it is not known."""
  _, next_z, next_x = posterior.predict(
    settings.num_predicted, seed=settings.seed + 1
  )
  even = np.full([len(next_x)], 1.0 / len(next_x))
  figure = figure_lib.Figure(figsize=(8, 5), layout='constrained')
  top, bottom = figure.subplots(2, 1, sharex=True)
  steps = np.arange(len(x))
  later = len(x) + np.arange(settings.num_predicted)
  top.plot(steps, _first(x, 1), '.', color='black', label='observed')
  for axes, index, draws, weights, label in (
    (top, later, next_x, even, 'predicted, 90%'),
    (bottom, steps, posterior.trajectories, posterior.weights, 'smoothed, 90%'),
    (bottom, later, next_z, even, 'predicted, 90%'),
  ):
    low, middle, high = weighting.weighted_quantiles(
      weights, _first(draws, 2), [0.05, 0.5, 0.95]
    ).numpy()
    axes.fill_between(index, low, high, alpha=0.3, label=label)
    axes.plot(index, middle)
  if z is not None:
    bottom.plot(
      steps, _first(z, 1), color='black', linewidth=0.8, label='simulated'
    )
  figure.suptitle(name.replace('_', ' '))
  top.set(ylabel='observation')
  bottom.set(xlabel='step', ylabel='local state')
  for axes in (top, bottom):
    axes.legend(
      loc='lower left',
      bbox_to_anchor=(0.0, 1.0),
      ncols=3,
      fontsize=8,
      frameon=False,
    )
  return figure


def _run_model(name, settings):
  """Fits and runs a model; returns its row and its picture."""
  model = models.MODELS[name]()
  start = time.perf_counter()
  sampler = fit_state_space(
    model,
    length=settings.sequence_length,
    num_steps=settings.num_steps,
    seed=settings.seed,
  )
  training_seconds = time.perf_counter() - start
  if name in models.DATA:
    x, z = models.DATA[name](settings.sequence_length), None
  else:
    _, z, x = model.simulate(
      settings.sequence_length, seed=settings.seed + 1_000
    )
  runs, seconds = [], []
  for i in range(settings.num_runs + 1):
    start = time.perf_counter()
    runs.append(sampler.sample(x, settings.num_particles, settings.seed + i))
    seconds.append(time.perf_counter() - start)
  figure = _draw(name, x, z, runs[0], settings)
  runs, seconds = runs[1:], seconds[1:]  # The first one has compiled.
  totals = np.array([float(posterior.log_normalizer) for posterior in runs])
  moments = [_moments(posterior) for posterior in runs]
  reference = {}
  if settings.reference_steps:
    reference = _reference(sampler, x, runs[0], settings)
  parameters = {}
  for key in moments[0]:
    means = np.array([m[key][0] for m in moments])
    deviation = float(np.mean([m[key][1] for m in moments]))
    parameters[key] = {
      'mean': float(means.mean()),
      'deviation': deviation,
      'deviation_over_runs': float(means.std(ddof=1) / deviation),
    }
    if key in reference:
      parameters[key]['reference'] = reference[key]
      parameters[key]['off_by'] = float(
        abs(means.mean() - reference[key]) / deviation
      )
  row = {
    'model': name,
    'log_normalizer': float(totals.mean()),
    'log_normalizer_deviation': float(totals.std(ddof=1)),
    'predicted_deviation': float(
      np.mean([float(posterior.log_normalizer_error) for posterior in runs])
    ),
    'effective_sample_size': float(
      np.mean(
        [float(posterior.effective_sample_sizes[-1]) for posterior in runs]
      )
    ),
    'least_ancestors': min(int(posterior.num_ancestors) for posterior in runs),
    'training_seconds': training_seconds,
    'seconds': float(np.median(seconds)),
    'parameters': parameters,
  }
  return row, figure


def _print(row):
  """Prints the row of a model."""
  print(
    f'{row["model"]}: log p(x) {row["log_normalizer"]:.3f}, deviation over '
    f'runs {row["log_normalizer_deviation"]:.3f} (predicted '
    f'{row["predicted_deviation"]:.3f}), ESS '
    f'{row["effective_sample_size"]:.0f}, at least {row["least_ancestors"]} '
    f'ancestors, {row["training_seconds"]:.1f} s of training, '
    f'{row["seconds"]:.2f} s a run'
  )
  for name, values in row['parameters'].items():
    text = ', '.join(f'{key} {value:.3f}' for key, value in values.items())
    print(f'  {name}: {text}')


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table.

  Args:
    settings: `Settings`.

  Returns:
    results: `Results`.
  """
  order = list(models.MODELS)
  store = common.open_output(settings, ['model'], order.index)
  rows, figures = [], {}
  takes_all = settings.model == ('all',)
  for name in order if takes_all else settings.model:
    try:
      row, figures[name] = _run_model(name, settings)
    except ImportError as e:
      if not takes_all:
        raise
      print(f'{name}: left out: {e}')
      continue
    store.add(row)
    rows.append(row)
    _print(row)
  return common.finish(store, rows, figures)

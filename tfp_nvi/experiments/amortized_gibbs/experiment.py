# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the proposals, and compares methods on held-out instances."""

import dataclasses
import functools
import math
import time

import numpy as np
import tensorflow as tf
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.experiments.amortized_gibbs import methods, report
from tfp_nvi.experiments.amortized_gibbs.methods import METHODS
from tfp_nvi.experiments.amortized_gibbs.model import GaussianMixture
from tfp_nvi.experiments.amortized_gibbs.proposals import Proposals
from tfp_nvi.internal import axes, randomness

__all__ = [
  'STEPS_PER_CALL',
  'Settings',
  'run',
  'train',
]

STEPS_PER_CALL = 200
# Settings that training does not depend on.
_OF_EVALUATION = ('num_sweeps', 'num_test_instances')
# The numbers of instances and of particles in a picture.
_NUM_SHOWN, _NUM_DRAWN = 2, 10


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment with amortized Gibbs samplers."""

  method: tuple = common.names(METHODS)
  num_points: int = common.setting(60, 'Points of an instance.')
  num_clusters: int = common.setting(3, 'Clusters.', common.count(2))
  num_particles: int = common.setting(
    10, 'Particles or chains, in training and after it.', common.count(2)
  )
  num_training_sweeps: int = common.setting(
    3, 'Sweeps over both blocks in training.'
  )
  num_sweeps: int = common.setting(
    20,
    'Sweeps after training. All methods have as many evaluations of the joint '
    'density as this takes.',
  )
  num_hidden: int = common.setting(32, 'Hidden units of each network.')
  num_steps: int = common.setting(
    2_000, 'Training steps: first of the one-shot proposal, and then of blocks.'
  )
  batch_size: int = common.setting(
    20, 'Instances of a training step, new in each one.'
  )
  learning_rate: float = common.setting(
    3e-3,
    'Learning rate of Adam; it decays to zero over the last quarter of the '
    'steps.',
  )
  num_test_instances: int = common.setting(
    100, 'Held-out instances.', common.count(_NUM_SHOWN)
  )
  seed: int = common.setting(1, 'Random seed.', common.count(-math.inf))
  output_dir: str = common.output_dir('results/amortized_gibbs')
  overwrite: bool = common.overwrite()


def _seeds(settings, stream):
  """Makes an endless data set of seeds, for a stream of random numbers."""
  seed = randomness.fold_in(randomness.as_seed(settings.seed), stream)
  return tf.data.Dataset.range(2**31 - 1).map(
    lambda step: randomness.fold_in(seed, tf.cast(step, tf.int32))
  )


def _variables(modules):
  return [v for module in modules for v in module.trainable_variables]


def train(mixture, settings, fit_fn) -> Proposals:
  """Trains the one-shot proposal, and then those of blocks.

  Args:
    mixture: `GaussianMixture`.
    settings: `Settings`.
    fit_fn: Function with the arguments of `TrainingFolder.fit`.

  Returns:
    proposals: `Proposals`.
  """
  proposals = Proposals(
    mixture, [settings.num_hidden], randomness.as_seed(settings.seed)
  )

  def simulate(seed):
    return mixture.simulate(settings.batch_size, seed)[0]

  stages = [
    (
      'one_shot',
      lambda seed: proposals.importance_sampler(simulate(seed)),
      nvi.rws(),
      proposals.one_shot,
    ),
    (
      'sweeps',
      lambda seed: proposals.sampler(
        simulate(seed), settings.num_training_sweeps
      ),
      # Gradients are by the score, as for kernels that are not reparameterized.
      # They are those of the forward divergence of each update from the density
      # that it is weighted for.
      nvi.forward_kl(sides=nvi.Side.FORWARD, reparameterize=False),
      proposals.sweep,
    ),
  ]
  for i, (name, make_sampler, objective, modules) in enumerate(stages):
    fit_fn(
      name,
      make_sampler,
      objective,
      num_particles=settings.num_particles,
      num_steps=settings.num_steps,
      data=_seeds(settings, i),
      seed=settings.seed,
      variables=_variables(modules),
      optimizer=tf_keras.optimizers.Adam(
        common.decayed_learning_rate(settings.learning_rate, settings.num_steps)
      ),
      steps_per_call=STEPS_PER_CALL,
    )
  return proposals


def _resample(outcome, seed):
  """Draws a few equally weighted particles of the first instances."""
  log_weights = outcome.log_weights[:, :_NUM_SHOWN]
  indices = tf.random.stateless_categorical(
    tf.transpose(log_weights), _NUM_DRAWN, seed
  )
  return {
    name: _take(part[:, :_NUM_SHOWN], indices)
    for name, part in outcome.state.items()
  }


def _take(part, indices):
  """Takes particles of each instance: `[num_drawn, num_instances, ...]`."""
  taken = tf.gather(axes.swap_first_axes(part), indices, batch_dims=1)
  return axes.swap_first_axes(taken)


def _run_cell(method, problem, exact, training_seconds):
  """Runs a method; returns its row and arrays."""
  _, _, run_fn = METHODS[method]
  print(f'Running {method}.', flush=True)
  start = time.perf_counter()
  outcome = run_fn(problem)
  seconds = time.perf_counter() - start
  ess = None
  if outcome.has_weights:
    log_weights = outcome.log_weights
    shares = nvi.effective_sample_size(log_weights) / log_weights.shape[0]
    ess = float(np.mean(shares))
  final = np.asarray(methods.final_log_joint(problem, outcome))
  row = {
    'method': method,
    'log_joint': float(np.mean(final)),
    'log_joint_error': float(
      np.std(final - exact, ddof=1) / np.sqrt(len(final))
    ),
    'ess': ess,
    'num_evaluations': int(outcome.num_evaluations[-1]),
    'seconds': seconds,
    'exact_log_joint': float(np.mean(exact)),
    'training_seconds': training_seconds,
  }
  return row, {
    'num_evaluations': outcome.num_evaluations,
    'log_joint': outcome.log_joint,
    'final_log_joint': final,
    'x': problem.x[:_NUM_SHOWN],
    **_resample(outcome, problem.seed),
  }


def _make_problem(settings, folder):
  """Trains proposals, unless that is done, and simulates held-out instances."""
  mixture = GaussianMixture(settings.num_points, settings.num_clusters)
  proposals = train(mixture, settings, folder.fit)
  seed, test_seed = tf.unstack(
    randomness.split_seed(
      randomness.fold_in(randomness.as_seed(settings.seed), 2), 2
    )
  )
  x, z = mixture.simulate(settings.num_test_instances, test_seed)
  problem = methods.Problem(
    mixture,
    proposals,
    x,
    settings.num_particles,
    settings.num_sweeps,
    seed,
  )
  return problem, np.asarray(mixture.log_joint(z, x))


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table.

  Args:
    settings: `Settings`.

  Returns:
    results: `Results`.
  """
  order = list(METHODS)
  store = common.open_output(settings, ['method'], order.index)
  folder = common.TrainingFolder(
    store.path('checkpoints'),
    {
      key: value
      for key, value in settings.configuration.items()
      if key not in _OF_EVALUATION
    },
    overwrite=settings.overwrite,
  )
  names = order if settings.method == ('all',) else settings.method
  # The proposals are trained once, and only if a cell is missing.
  make_problem = functools.cache(lambda: _make_problem(settings, folder))
  for name in names:
    if settings.overwrite or not store.has(name):
      problem, exact = make_problem()
      stages = {row['stage']: row['seconds'] for row in folder.rows}
      training_seconds = (
        0.0
        if name == 'gibbs_prior'
        else folder.seconds
        if name == 'apg'
        else stages['one_shot']
      )
      store.add(*_run_cell(name, problem, exact, training_seconds))
  rows = [store.row(name) for name in names]
  print(report.format_table(rows))
  arrays = {name: store.arrays(name) for name in names}
  return common.finish(store, rows, report.draw(rows, arrays))

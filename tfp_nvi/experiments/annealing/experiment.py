# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and reports the cells of the annealing experiment."""

import contextlib
import dataclasses
import functools
import math
import time

import numpy as np
import tensorflow as tf
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.experiments.annealing import report
from tfp_nvi.experiments.annealing.methods import (
  METHODS,
  TARGETS,
  make_sampler,
)
from tfp_nvi.internal import randomness, replicas

__all__ = [
  'Settings',
  'run',
]

_NUM_BATCHES = 100
# The number of samples of each restart that measure the weights of modes, and
# the number of samples of the first restart in pictures.
_NUM_WEIGHED = 100_000
_NUM_DRAWN = 5_000


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the annealing experiment."""

  method: tuple = common.names(
    METHODS,
    note='Of all methods, svi_flow runs with 2 densities only, as in the '
    'published table.',
  )
  num_densities: tuple = common.setting(
    (2, 4, 6, 8),
    'Comma list of numbers of densities, both ends included. Each is run with '
    'each method.',
    common.counts(2),
    changes_results=False,
  )
  num_restarts: int = common.setting(
    10, 'How often each sampler is trained, all restarts together.'
  )
  sample_budget: int = common.setting(
    288,
    'Samples per training step. Each level has this number divided by the '
    'number of densities, rounded down, of particles.',
  )
  num_steps: int = common.setting(20_000, 'Number of training steps.')
  seed: int = common.setting(
    1,
    'Random seed. The results of a cell depend on it, and not on other cells.',
    common.count(-math.inf),
  )
  output_dir: str = common.output_dir('results/annealing')
  target: str = common.setting(
    'ring_of_gaussians',
    f'One of {", ".join(TARGETS)}.',
    common.choice(TARGETS),
  )
  num_flow_layers: int = common.setting(
    32, 'Number of planar flows of each level.'
  )
  learning_rate: float = common.setting(1e-3, 'Learning rate of Adam.')
  decay_learning_rate: bool = common.setting(
    True,
    'Whether the learning rate decays to zero over the last quarter of the '
    'steps, along a cosine.',
  )
  dtype: str = common.setting(
    'float32',
    'float32 or float64.',
    common.choice(['float32', 'float64']),
  )
  strategy: str = common.setting(
    'none',
    f'One of {", ".join(common.STRATEGIES)}: the devices to divide training '
    'steps among. For multi_worker, each process runs the same command with a '
    'TF_CONFIG of its own. Cells then run one after the other.',
    common.choice(common.STRATEGIES),
    changes_results=False,
  )
  num_islands: int = common.setting(
    0,
    'In how many islands a training step is divided; 0 is for one on each '
    'device of the strategy.',
    common.count(0),
  )
  num_workers: int = common.num_workers()
  overwrite: bool = common.overwrite()

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    if self.sample_budget < max(self.num_densities):
      raise common.SettingError(
        'sample_budget',
        f'at least the number of densities, {max(self.num_densities)}, for one '
        'particle each',
        repr(self.sample_budget),
      )


def _evaluate(sampler, seed):
  """Returns log normalizers and effective sizes, by batch and restart."""
  batch_shape = [_NUM_BATCHES] + sampler.batch_shape.as_list()

  # XLA would take far longer to compile this than it takes to run.
  @tf.function(autograph=False, input_signature=[tf.TensorSpec([2], tf.int32)])
  def evaluate(seed):
    run = sampler.run(report.NUM_SAMPLES, seed, batch_shape)
    log_weights = run.particles.log_weights
    return (
      nvi.log_normalizer(log_weights),
      nvi.effective_sample_size(log_weights),
    )

  return tuple(
    x.numpy().astype(np.float64) for x in evaluate.get_concrete_function()(seed)
  )


def _mean_and_deviation(values):
  """Returns the overall mean, and the deviation of means over restarts."""
  of_restarts = np.mean(values, axis=0)
  return float(np.mean(of_restarts)), float(np.std(of_restarts))


def _run_cell(method, num_densities, settings, progress, strategy=None):
  """Trains and evaluates one cell; returns its row and arrays."""
  start = time.perf_counter()
  target = TARGETS[settings.target](tf.as_dtype(settings.dtype))
  cell = 1_000 * list(METHODS).index(method) + num_densities
  build_seed, train_seed, evaluation_seed, trace_seed, weighing_seed = (
    randomness.split_seed(
      randomness.fold_in(randomness.as_seed(settings.seed), cell), 5
    )
  )
  scope = strategy.scope() if strategy else contextlib.nullcontext()
  with scope:
    sampler, objective = make_sampler(
      method,
      target,
      num_densities,
      settings.num_restarts,
      settings.num_flow_layers,
      build_seed,
    )
    learning_rate = settings.learning_rate
    if settings.decay_learning_rate:
      learning_rate = common.decayed_learning_rate(
        learning_rate, settings.num_steps
      )
    optimizer = tf_keras.optimizers.Adam(learning_rate)
  history = nvi.fit(
    sampler,
    objective,
    num_particles=settings.sample_budget // num_densities,
    num_steps=settings.num_steps,
    optimizer=optimizer,
    strategy=strategy,
    num_islands=settings.num_islands or None,
    seed=train_seed,
    progress=progress,
  )
  log_normalizers, sizes = _evaluate(sampler, evaluation_seed)
  log_normalizer, log_normalizer_std = _mean_and_deviation(log_normalizers)
  ess, ess_std = _mean_and_deviation(sizes)
  if not math.isfinite(log_normalizer):
    raise FloatingPointError(
      f'The log normalizer of {method} with {num_densities} densities is '
      f'{log_normalizer} after training.'
    )
  if METHODS[method].resamples:
    _, sizes = _evaluate(
      sampler.copy(resample_criterion_fn=nvi.never), evaluation_seed
    )

  trace = sampler.trace(_NUM_DRAWN, seed=trace_seed, jit_compile=False)
  shares = nvi.diagnostics.mode_shares(
    sampler.sample(_NUM_WEIGHED, seed=weighing_seed, jit_compile=False), target
  ).numpy()
  masses = shares / target.mode_probabilities
  path = sampler.densities
  arrays = {
    'particles': trace.particles[:, :, 0].numpy(),
    'log_weights': trace.log_weights[:, :, 0].numpy(),
    'mode_shares': shares,
    'effective_sample_size': common.thin(history.effective_sample_size),
    'log_normalizer': common.thin(history.log_normalizer),
    'schedule': path.schedule.numpy(),
  }
  if arrays['schedule'].ndim > 1:
    arrays['divergences'] = nvi.diagnostics.successive_kl(
      path, report.QUADRATURE_LIMITS
    ).numpy()
  row = {
    'method': method,
    'num_densities': num_densities,
    'num_restarts': settings.num_restarts,
    'log_normalizer': log_normalizer,
    'log_normalizer_std': log_normalizer_std,
    'ess': ess,
    'ess_std': ess_std,
    'ess_without_resampling': _mean_and_deviation(sizes)[0],
    'log_normalizer_true': target.log_normalizer,
    'mode_mass_lowest': float(np.min(masses)),
    'mode_mass_highest': float(np.max(masses)),
    'microseconds_per_step': history.microseconds_per_step,
    'seconds': time.perf_counter() - start,
  }
  return row, arrays


def _cells(settings):
  """Returns the cells to run and those left out: pairs of method and count."""
  takes_all = settings.method == ('all',)
  cells, left_out = [], []
  for name in METHODS if takes_all else settings.method:
    for k in settings.num_densities:
      is_left_out = takes_all and name == 'svi_flow' and k > 2
      (left_out if is_left_out else cells).append((name, k))
  return cells, left_out


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table.

  With several workers, a script needs the usual guard of its main module.
  """
  names = list(METHODS)
  strategy = common.make_strategy(settings.strategy)
  is_chief, run_cell_fn = True, _run_cell
  if strategy is not None:
    islands = replicas.Replicas(strategy, settings.num_islands or None)
    settings = dataclasses.replace(
      settings, num_islands=islands.num_islands, num_workers=1
    )
    is_chief = islands.is_chief
    run_cell_fn = functools.partial(_run_cell, strategy=strategy)
  store = common.open_output(
    settings,
    ['method', 'num_densities'],
    lambda name, k: (names.index(name), k),
    writes=is_chief,
  )
  cells, left_out = _cells(settings)
  if left_out:
    print(
      f'Leaving out svi_flow with {", ".join(str(k) for _, k in left_out)} '
      'densities, which has no published figures; --method=svi_flow runs it.'
    )
  common.run_missing_cells(store, run_cell_fn, cells, settings, report.describe)
  rows = [store.row(*cell) for cell in cells]
  print(report.format_table(rows, settings.target))
  if not is_chief:
    return common.Results(rows, [])
  figures = report.draw({cell: store.arrays(*cell) for cell in cells}, settings)
  return common.finish(store, rows, figures)

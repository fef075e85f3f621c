# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, tests and reports the methods of the hidden Markov model."""

import contextlib
import dataclasses
import math
import os
import shutil
import time

import numpy as np
import tensorflow as tf
import tf_keras

from tfp_nvi import weighting
from tfp_nvi.experiments import common
from tfp_nvi.experiments.hmm import model as model_lib
from tfp_nvi.experiments.hmm import report
from tfp_nvi.experiments.hmm.methods import METHODS, make_sampler
from tfp_nvi.internal import randomness

__all__ = [
  'Settings',
  'run',
]

# The number of emissions at which pictures compare heuristics with the exact
# likelihood.
_NUM_DRAWN = 200


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment with a hidden Markov model."""

  method: tuple = common.names(
    METHODS,
    (
      'no_heuristic',
      'mixture_heuristic',
      'nvi_partial',
      'nvi_state_aware',
      'oracle',
    ),
    'The oracle is always run, because the reference needs its proposal.',
  )
  sequence_length: int = common.setting(50, 'Steps of a sequence.')
  num_training_sequences: int = common.setting(
    2_000, 'How many sequences to simulate for training.'
  )
  num_test_sequences: int = common.setting(
    200, 'How many sequences to simulate for testing.', common.count(2)
  )
  num_particles: int = common.setting(500, 'Particles in testing.')
  num_training_particles: int = common.setting(20, 'Particles in training.')
  batch_size: int = common.setting(
    20, 'Sequences per training step, and how many are tested at a time.'
  )
  num_steps: int = common.setting(1_000, 'Number of training steps.')
  learning_rate: float = common.setting(
    5e-3, 'Learning rate of Adam, which decays to zero along a cosine.'
  )
  num_reference_batches: int = common.setting(
    5, 'Samples of the reference, as a multiple of the number of particles.'
  )
  seed: int = common.setting(1, 'Random seed.', common.count(-math.inf))
  output_dir: str = common.output_dir('results/hmm')
  num_workers: int = common.num_workers()
  overwrite: bool = common.overwrite()

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    if self.batch_size > self.num_training_sequences:
      raise common.SettingError(
        'batch_size',
        'no more than the number of training sequences, '
        f'{self.num_training_sequences}',
        repr(self.batch_size),
      )


def _simulate(settings):
  """Simulates training sequences, and test sequences with their states."""
  model = model_lib.make_model()
  train_seed, test_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(settings.seed), 2)
  )
  length = settings.sequence_length
  _, _, train = model.simulate(
    length, [settings.num_training_sequences], train_seed
  )
  eta, z, test = model.simulate(
    length, [settings.num_test_sequences], test_seed
  )
  return train, eta, z, test


def _open_folder(method, settings):
  """Opens the folder with the training of a method."""
  directory = os.path.join(settings.output_dir, 'checkpoints', method)
  return common.TrainingFolder(directory, settings.configuration)


def _train(method, sampler, sequences, settings, progress):
  """Trains a sampler; returns its history, and the seconds of all runs."""
  folder = _open_folder(method, settings)
  data = tf.data.Dataset.from_tensor_slices(sequences)
  data = data.shuffle(settings.num_training_sequences, seed=settings.seed)
  rate = tf_keras.optimizers.schedules.CosineDecay(
    settings.learning_rate, settings.num_steps
  )
  history = folder.fit(
    'training',
    sampler,
    METHODS[method].objective_fn(),
    num_particles=settings.num_training_particles,
    num_steps=settings.num_steps,
    data=data.batch(settings.batch_size, drop_remainder=True),
    optimizer=tf_keras.optimizers.Adam(rate),
    seed=settings.seed,
    steps_per_call=min(50, settings.num_steps),
    progress=progress,
  )
  return history, folder.seconds


def _batches(sequences, settings):
  """Yields test sequences in batches of one size, the last one padded."""
  size = settings.batch_size
  for first in range(0, len(sequences), size):
    batch = sequences[first : first + size]
    missing = size - len(batch)
    if missing:
      batch = tf.concat([batch, tf.repeat(batch[:1], missing, axis=0)], axis=0)
    yield first, size - missing, batch


def _test(sampler, sequences, settings):
  """Computes estimates for all test sequences.

  Returns:
    values: Python `dict` of arrays of shape `[num_sequences]`.
    posterior: `StateSpacePosterior` of the first batch.
    seconds: Python `float`, without compilation.
  """
  pieces, first_posterior, seconds = [], None, 0.0
  for first, count, batch in _batches(sequences, settings):
    arguments = dict(
      num_particles=settings.num_particles,
      seed=randomness.fold_in(
        randomness.as_seed(settings.seed + 1), tf.constant(first)
      ),
      trajectories=False,
    )
    if first == 0:
      first_posterior = sampler.sample(batch, **arguments)
    start = time.perf_counter()
    posterior = sampler.sample(batch, **arguments)
    pieces.append(
      {
        'log_normalizer': posterior.log_normalizer.numpy()[:count],
        'ess': weighting.effective_sample_size(posterior.log_weights).numpy()[
          :count
        ],
        'num_roots': posterior.num_roots.numpy()[-1, :count],
      }
    )
    seconds += time.perf_counter() - start
  values = {
    key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]
  }
  return values, first_posterior, seconds


def _picture_arrays(sampler, posterior, sequence, settings):
  """Returns the data of the pictures, mostly from one test sequence."""
  one = sampler.sample(
    sequence[tf.newaxis],
    settings.num_particles,
    seed=randomness.as_seed(settings.seed + 2),
  )
  weights = weighting.normalize_weights(one.log_weights)[:, 0].numpy()
  states = one.expectation(
    lambda _, z: tf.one_hot(z, model_lib.NUM_STATES)
  ).numpy()[0]
  arrays = {
    'states': states,
    'mean': one.global_state.mean.numpy()[:, 0],
    'precision': one.global_state.precision.numpy()[:, 0],
    'weights': weights,
    'effective_sample_sizes': posterior.effective_sample_sizes.numpy(),
    'num_roots_by_step': posterior.num_roots.numpy(),
  }
  # The proposal is untrained, so that all methods are shown at the same
  # emissions.
  proposal = model_lib.InitialProposal()(sequence[tf.newaxis])
  with randomness.portable_sampling():
    eta = proposal.sample(
      _NUM_DRAWN, seed=randomness.as_seed(settings.seed + 3)
    )
  arrays['exact'] = model_lib.exact_log_likelihood(
    sequence[tf.newaxis], eta
  ).numpy()[:, 0]
  if sampler.heuristic is not None:
    rows = sampler.heuristic.prepare(sequence[tf.newaxis], None, eta)
    rows = tf.nest.map_structure(lambda x: x[0], rows)
    arrays['heuristic'] = sampler.heuristic.log_factor(rows, eta, None).numpy()[
      :, 0
    ]
  return arrays


def _shown(eta, z):
  """Returns the index of the test sequence to draw, which shows all states.

  It is the first one whose means are well in order, and which has each state
  for at least a tenth of the steps.
  """
  in_order = np.all(np.diff(eta.mean, axis=-1) > 1.5, axis=-1)
  shares = np.mean(
    np.asarray(z)[..., np.newaxis] == np.arange(model_lib.NUM_STATES), axis=-2
  )
  return int(np.argmax(in_order & np.all(shares >= 0.1, axis=-1)))


def _run_cell(method, settings, progress):
  """Trains and tests a method; returns its row and arrays."""
  train, eta, z, test = _simulate(settings)
  sampler = make_sampler(method)
  history, training_seconds = _train(method, sampler, train, settings, progress)
  values, posterior, seconds = _test(sampler, test, settings)
  arrays = _picture_arrays(sampler, posterior, test[_shown(eta, z)], settings)
  arrays.update(
    log_normalizers=values['log_normalizer'],
    training_ess=common.thin(np.mean(history.effective_sample_size, axis=-1)),
    training_log_normalizer=common.thin(
      np.mean(history.log_normalizer, axis=-1)
    ),
  )
  if method == 'oracle':
    for i, variable in enumerate(sampler.trainable_variables):
      arrays[f'variable_{i}'] = variable.numpy()
  row = {
    'method': method,
    'log_normalizer': float(np.mean(values['log_normalizer'])),
    'standard_error': _standard_error(values['log_normalizer']),
    'ess': float(np.mean(values['ess'])),
    'distinct_eta_ancestors': float(np.mean(values['num_roots'])),
    'seconds': seconds,
    'training_seconds': training_seconds,
  }
  return row, arrays


def _standard_error(values):
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _run_reference(oracle_arrays, settings):
  """Runs importance sampling over the emissions, with the exact likelihood.

  The proposal comes from the arrays of the oracle. Returns a row and arrays.
  """
  _, _, _, test = _simulate(settings)
  sampler = make_sampler('oracle')
  for i, variable in enumerate(sampler.trainable_variables):
    variable.assign(oracle_arrays[f'variable_{i}'])
  model = sampler.model

  @tf.function(jit_compile=True, autograph=False)
  def log_weights_fn(batch, seed):
    proposal = sampler.initial_proposal_fn(batch, None)
    with randomness.portable_sampling():
      eta = proposal.sample(settings.num_particles, seed=seed)
    return (
      model.prior.log_prob(eta)
      + model_lib.exact_log_likelihood(batch, eta)
      - proposal.log_prob(eta)
    )

  start = time.perf_counter()
  pieces = []
  seed = randomness.as_seed(settings.seed + 4)
  for first, count, batch in _batches(test, settings):
    log_weights = tf.concat(
      [
        log_weights_fn(
          batch,
          randomness.fold_in(randomness.fold_in(seed, first), tf.constant(i)),
        )
        for i in range(settings.num_reference_batches)
      ],
      axis=0,
    )
    pieces.append(
      (
        weighting.log_normalizer(log_weights).numpy()[:count],
        weighting.effective_sample_size(log_weights).numpy()[:count],
      )
    )
  log_normalizers, sizes = map(np.concatenate, zip(*pieces, strict=True))
  row = {
    'method': 'reference',
    'log_normalizer': float(np.mean(log_normalizers)),
    'standard_error': _standard_error(log_normalizers),
    'ess': float(np.mean(sizes)),
    'distinct_eta_ancestors': None,
    'seconds': time.perf_counter() - start,
    'training_seconds': None,
    'gap': 0.0,
    'gap_standard_error': 0.0,
  }
  return row, {'log_normalizers': log_normalizers, 'ess': sizes}


def _add_gap(row, arrays, reference):
  """Returns the row with its mean difference to the reference added."""
  difference = arrays['log_normalizers'] - reference['log_normalizers']
  return {
    **row,
    'gap': float(np.mean(difference)),
    'gap_standard_error': _standard_error(difference),
  }


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table.

  With several workers, a script needs the usual guard of its main module.
  """
  order = [*METHODS, 'reference']
  store = common.open_output(
    settings,
    ['method'],
    order.index,
  )
  asked = order[:-1] if settings.method == ('all',) else settings.method
  if 'oracle' not in asked:
    print('The oracle is run too: the reference needs its proposal.')
  methods = [name for name in METHODS if name in asked or name == 'oracle']
  if settings.overwrite:
    shutil.rmtree(store.path('checkpoints'), ignore_errors=True)
  for name in methods:
    if settings.overwrite or not store.has(name):
      # If there is training with other settings, this raises an error before
      # any computation.
      _open_folder(name, settings)
  missing = common.run_missing_cells(
    store,
    _run_cell,
    [(name,) for name in methods],
    settings,
    report.describe,
    # Checkpoints are removed: the row and the arrays have all results of a
    # training that are needed.
    done_fn=lambda row: shutil.rmtree(
      store.path('checkpoints', row['method']), ignore_errors=True
    ),
  )
  # This fails, as it should, if methods that are not asked for have files
  # there.
  with contextlib.suppress(OSError):
    os.rmdir(store.path('checkpoints'))
  if ('oracle',) in missing or not store.has('reference'):
    store.add(*_run_reference(store.arrays('oracle'), settings))
  reference = store.arrays('reference')
  arrays = {name: store.arrays(name) for name in methods}
  for name in methods:
    store.add(_add_gap(store.row(name), arrays[name], reference))
  rows = [store.row(name) for name in [*methods, 'reference']]
  print(report.format_table(rows, settings))
  _, eta, z, test = _simulate(settings)
  shown = _shown(eta, z)
  figures = report.draw(
    arrays,
    test[shown].numpy(),
    z[shown].numpy(),
    tf.nest.map_structure(lambda x: x[shown].numpy(), eta),
    settings,
  )
  return common.finish(store, rows, figures)

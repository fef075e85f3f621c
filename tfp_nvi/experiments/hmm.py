# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Heuristic factors for a hidden Markov model with unknown emissions.

Particle filters draw the unknown parameters before they have seen the data, and
resample them down to a handful. A heuristic factor lets the first levels see
the observations to come; nested variational inference learns one, together with
the proposals, from simulated sequences [1].

```shell
python -m tfp_nvi.experiments.hmm --output_dir=results/hmm
python -m tfp_nvi.experiments.hmm --output_dir=results/hmm_paper \
  --flagfile=tfp_nvi/experiments/hmm_paper.flags
```

All methods have the same model, proposals and training data:

```none
no_heuristic       psi = 1
mixture_heuristic  the observations to come as draws from a mixture, by hand
nvi_partial        psi(x_{k+1:K} | eta) learned; each level trains what it
                   proposes from
nvi_full           the same, and what it proposes to
rws                psi = 1, proposals trained by the final weights
nvi_state_aware    psi(x_{k+1:K} | eta, z_k) learned, as nvi_partial
oracle             psi is the exact likelihood, by backward messages
```

A method is tested on sequences that none was trained on. Its log normalizer is
the mean over them; `gap` is the mean difference to the best estimate that there
is, `reference`: importance sampling over `eta` alone with the exact likelihood,
and many samples of the proposal that the oracle has learned. Standard errors
are over sequences. `distinct_eta_ancestors` counts the particles of level 0
that the last level descends from.

The output folder holds

```none
metrics.json      the configuration, and a row for each method
sequence.png      a sequence, with inferred states and emissions
levels.png        effective sample size and ancestors that survive, by step
heuristic.png     heuristic factors of one sequence beside the exact likelihood
training.png      effective sample size and log normalizer over training
cells/*.npz       what the pictures are drawn from
checkpoints/      of methods that are being trained
```

A run that was stopped goes on when it is started again.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

import collections
import os
import time

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app

import tfp_nvi as nvi
from tfp_nvi import weighting
from tfp_nvi.experiments import hmm_model, hmm_pictures, programs
from tfp_nvi.internal import randomness

__all__ = [
  'METHODS',
  'Method',
  'Results',
  'make_sampler',
  'run',
]

_STEPS_PER_VALUE = 20
# Emissions at which heuristics are drawn beside the exact likelihood.
_NUM_DRAWN = 200


class Method(
  collections.namedtuple(
    'Method', ['label', 'objective_fn', 'heuristic_fn', 'resamples', 'color']
  )
):
  """A method that is compared.

  Fields:
    label: Python `str`: its name in tables and pictures.
    objective_fn: Python callable that makes the objective.
    heuristic_fn: Python callable that makes the heuristic, or `None`.
    resamples: Python `bool`: whether to resample when the effective sample size
      falls below one half.
    color: Python `str`.
  """

  __slots__ = ()


def _partial():
  return nvi.forward_kl(sides=nvi.Side.FORWARD, reparameterize=False)


def _full():
  return nvi.forward_kl(sides=nvi.Side.BOTH, reparameterize=False)


METHODS = {
  'no_heuristic': Method(
    'no heuristic', _partial, lambda: None, True, '#999999'
  ),
  'mixture_heuristic': Method(
    'mixture, by hand', _partial, hmm_model.mixture_heuristic, True, '#e69f00'
  ),
  'nvi_partial': Method(
    'NVI, partial', _partial, hmm_model.LearnedHeuristic, True, '#56b4e9'
  ),
  'nvi_full': Method(
    'NVI, full', _full, hmm_model.LearnedHeuristic, True, '#cc79a7'
  ),
  'rws': Method('RWS', nvi.rws, lambda: None, False, '#009e73'),
  'nvi_state_aware': Method(
    'NVI, state-aware',
    _partial,
    lambda: hmm_model.LearnedHeuristic(is_state_aware=True),
    True,
    '#d55e00',
  ),
  'oracle': Method(
    'oracle', _partial, hmm_model.ExactHeuristic, True, '#000000'
  ),
}


class Results(collections.namedtuple('Results', ['rows', 'pictures'])):
  """What the experiment gives.

  Fields:
    rows: List of Python `dict`s, as in `metrics.json`.
    pictures: List of the paths of the pictures.
  """

  __slots__ = ()


def make_sampler(method):
  """Makes the sampler of a method, before training.

  Args:
    method: Python `str`: one of `METHODS`.

  Returns:
    sampler: `StateSpaceSampler`.

  ```python
  from tfp_nvi.experiments import hmm

  sampler = hmm.make_sampler('nvi_partial')
  _, _, x = sampler.model.simulate(num_steps=5, sample_shape=[2], seed=1)
  posterior = sampler.sample(x, num_particles=10, seed=2)
  ```
  """
  definition = METHODS[method]
  return nvi.StateSpaceSampler(
    hmm_model.make_model(),
    hmm_model.InitialProposal(),
    hmm_model.StepProposal(),
    definition.heuristic_fn(),
    resample_criterion_fn=(
      nvi.ess_below(0.5) if definition.resamples else nvi.never
    ),
  )


def _simulate(settings):
  """Sequences to train on, those to test on, and what these come from."""
  model = hmm_model.make_model()
  train_seed, test_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(settings['seed']), 2)
  )
  length = settings['sequence_length']
  _, _, train = model.simulate(
    length, [settings['num_training_sequences']], train_seed
  )
  eta, z, test = model.simulate(
    length, [settings['num_test_sequences']], test_seed
  )
  return train, eta, z, test


def _train(method, sampler, sequences, settings, checkpoint_dir, progress):
  """Trains a sampler; returns its `History`."""
  data = tf.data.Dataset.from_tensor_slices(sequences)
  data = data.shuffle(
    settings['num_training_sequences'], seed=settings['seed']
  ).batch(settings['batch_size'], drop_remainder=True)
  num_steps = settings['num_steps']
  rate = settings['learning_rate']
  return nvi.fit(
    sampler,
    METHODS[method].objective_fn(),
    num_particles=settings['num_training_particles'],
    num_steps=num_steps,
    data=data,
    optimizer=tf_keras.optimizers.Adam(
      tf_keras.optimizers.schedules.CosineDecay(rate, num_steps)
    ),
    seed=settings['seed'],
    steps_per_call=min(50, num_steps),
    checkpoint_dir=checkpoint_dir,
    progress=progress,
  )


def _batches(sequences, settings):
  """Test sequences in batches of one size, the last one filled up."""
  size = settings['batch_size']
  for first in range(0, len(sequences), size):
    batch = sequences[first : first + size]
    missing = size - len(batch)
    if missing:
      batch = tf.concat([batch, tf.repeat(batch[:1], missing, axis=0)], axis=0)
    yield first, size - missing, batch


def _test(sampler, sequences, settings):
  """Estimates for all test sequences.

  Returns:
    values: Python `dict` of arrays of shape `[num_sequences]`.
    posterior: `StateSpacePosterior` of the first batch.
    seconds: Python `float`, without compilation.
  """
  pieces, first_posterior, seconds = [], None, 0.0
  for first, count, batch in _batches(sequences, settings):
    arguments = dict(
      num_particles=settings['num_particles'],
      seed=randomness.fold_in(
        randomness.as_seed(settings['seed'] + 1), tf.constant(first)
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
  """What the pictures show of one test sequence."""
  one = sampler.sample(
    sequence[tf.newaxis],
    settings['num_particles'],
    seed=randomness.as_seed(settings['seed'] + 2),
  )
  weights = weighting.normalize_weights(one.log_weights)[:, 0].numpy()
  states = one.expectation(
    lambda _, z: tf.one_hot(z, hmm_model.NUM_STATES)
  ).numpy()[0]
  arrays = {
    'states': states,
    'mean': one.global_state.mean.numpy()[:, 0],
    'precision': one.global_state.precision.numpy()[:, 0],
    'weights': weights,
    'effective_sample_sizes': posterior.effective_sample_sizes.numpy(),
    'num_roots_by_step': posterior.num_roots.numpy(),
  }
  # Before training, so that all methods are drawn at the same emissions.
  proposal = hmm_model.InitialProposal()(sequence[tf.newaxis])
  with randomness.portable_sampling():
    eta = proposal.sample(
      _NUM_DRAWN, seed=randomness.as_seed(settings['seed'] + 3)
    )
  arrays['exact'] = hmm_model.exact_log_likelihood(
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
  """The test sequence that is drawn: the first that shows all states.

  Means well in order, and each state for at least a tenth of the steps.
  """
  in_order = np.all(np.diff(eta.mean, axis=-1) > 1.5, axis=-1)
  shares = np.mean(
    np.asarray(z)[..., np.newaxis] == np.arange(hmm_model.NUM_STATES), axis=-2
  )
  return int(np.argmax(in_order & np.all(shares >= 0.1, axis=-1)))


def _run_cell(method, settings, progress):
  """Trains and tests a method.

  Returns:
    row: Python `dict`.
    arrays: Python `dict` of arrays.
  """
  directory = settings['directory']
  train, eta, z, test = _simulate(settings)
  sampler = make_sampler(method)
  start = time.perf_counter()
  history = _train(
    method,
    sampler,
    train,
    settings,
    os.path.join(directory, 'checkpoints', method),
    progress,
  )
  training_seconds = time.perf_counter() - start
  values, posterior, seconds = _test(sampler, test, settings)
  arrays = _picture_arrays(sampler, posterior, test[_shown(eta, z)], settings)
  arrays.update(
    log_normalizers=values['log_normalizer'],
    training_ess=_thin(history.effective_sample_size),
    training_log_normalizer=_thin(history.log_normalizer),
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


def _thin(values):
  """Means over sequences and consecutive steps, to keep less."""
  count = max(1, len(values) // _STEPS_PER_VALUE)
  return np.stack([np.mean(x) for x in np.array_split(values, count)])


def _standard_error(values):
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _run_reference(oracle_arrays, settings):
  """Importance sampling over the emissions, with the exact likelihood.

  Args:
    oracle_arrays: Python `dict` that has what the oracle has learned.
    settings: Python `dict`.

  Returns:
    row: Python `dict`.
    arrays: Python `dict` of arrays.
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
      eta = proposal.sample(settings['num_particles'], seed=seed)
    return (
      model.prior.log_prob(eta)
      + hmm_model.exact_log_likelihood(batch, eta)
      - proposal.log_prob(eta)
    )

  start = time.perf_counter()
  pieces = []
  seed = randomness.as_seed(settings['seed'] + 4)
  for first, count, batch in _batches(test, settings):
    log_weights = tf.concat(
      [
        log_weights_fn(
          batch,
          randomness.fold_in(randomness.fold_in(seed, first), tf.constant(i)),
        )
        for i in range(settings['num_reference_batches'])
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
  """The row with how far it is from the reference, sequence by sequence."""
  difference = arrays['log_normalizers'] - reference['log_normalizers']
  return {
    **row,
    'gap': float(np.mean(difference)),
    'gap_standard_error': _standard_error(difference),
  }


def _label(name):
  return 'reference' if name == 'reference' else METHODS[name].label


def _describe(row):
  return (
    f'log Z-hat {row["log_normalizer"]:.2f}, ESS {row["ess"]:.0f}, '
    f'{row["distinct_eta_ancestors"]:.0f} ancestors, trained in '
    f'{row["training_seconds"]:.0f} s, tested in {row["seconds"]:.0f} s'
  )


def _format_table(rows, settings):
  """The table that is printed."""
  lines = [
    '',
    f'{settings["num_test_sequences"]} sequences of '
    f'{settings["sequence_length"]} steps, {settings["num_particles"]} '
    'particles; gap to the reference, ESS and ancestors of eta:',
    '',
    f'{"":<18} {"log Z-hat":>10} {"gap":>8} {"+-":>6} {"ESS":>7} '
    f'{"ancestors":>10} {"seconds":>8}',
  ]
  for row in rows:
    ancestors = row['distinct_eta_ancestors']
    ancestors = '-' if ancestors is None else f'{ancestors:.1f}'
    lines.append(
      f'{_label(row["method"]):<18} {row["log_normalizer"]:>10.2f} '
      f'{row["gap"]:>8.2f} {row["gap_standard_error"]:>6.2f} '
      f'{row["ess"]:>7.1f} {ancestors:>10} {row["seconds"]:>8.1f}'
    )
  return '\n'.join(lines)


def _check_settings(method, settings):
  """The methods; raises an error if an argument is not as expected."""
  methods = programs.as_list(method)
  if methods == ['all']:
    methods = list(METHODS)
  for name in methods or ['']:
    if name not in METHODS:
      raise programs.SettingError(
        'method',
        f'all, or a comma list of {", ".join(METHODS)}',
        repr(name),
      )
  for name in (
    'sequence_length',
    'num_training_sequences',
    'num_test_sequences',
    'num_particles',
    'num_training_particles',
    'batch_size',
    'num_steps',
    'num_reference_batches',
  ):
    programs.check_positive_integer(name, settings[name])
  if settings['num_test_sequences'] < 2:
    raise programs.SettingError(
      'num_test_sequences',
      'at least 2, for a standard error',
      repr(settings['num_test_sequences']),
    )
  if settings['batch_size'] > settings['num_training_sequences']:
    raise programs.SettingError(
      'batch_size',
      'no more than the number of training sequences, '
      f'{settings["num_training_sequences"]}',
      repr(settings['batch_size']),
    )
  if not isinstance(settings['seed'], int):
    raise programs.SettingError('seed', 'an integer', repr(settings['seed']))
  programs.check_positive_number('learning_rate', settings['learning_rate'])
  return methods


def run(
  method=(
    'no_heuristic',
    'mixture_heuristic',
    'nvi_partial',
    'nvi_state_aware',
    'oracle',
  ),
  sequence_length=50,
  num_training_sequences=2_000,
  num_test_sequences=200,
  num_particles=500,
  num_training_particles=20,
  batch_size=20,
  num_steps=1_000,
  learning_rate=5e-3,
  num_reference_batches=5,
  seed=1,
  output_dir='results/hmm',
  num_workers=1,
  overwrite=False,
):
  """Runs the experiment, and prints its table.

  Args:
    method: Python `str`, one of `METHODS`, a comma list, or `all`; or a list.
      The oracle is run too, as the reference needs its proposal.
      Default value: all but `nvi_full` and `rws`.
    sequence_length: Python `int`: steps of a sequence.
      Default value: `50`.
    num_training_sequences: Python `int`.
      Default value: `2_000`.
    num_test_sequences: Python `int`.
      Default value: `200`.
    num_particles: Python `int`: particles in testing.
      Default value: `500`.
    num_training_particles: Python `int`: particles in training.
      Default value: `20`.
    batch_size: Python `int`: sequences of a training step, and how many are
      tested at a time.
      Default value: `20`.
    num_steps: Python `int` number of training steps.
      Default value: `1_000`.
    learning_rate: Python `float`, of Adam, from which it falls to zero along a
      cosine.
      Default value: `5e-3`.
    num_reference_batches: Python `int`: how many times `num_particles` samples
      the reference has.
      Default value: `5`.
    seed: Python `int`.
      Default value: `1`.
    output_dir: Python `str`: a folder to write to; made if need be.
      Default value: `'results/hmm'`.
    num_workers: Python `int`: how many methods to run at a time, each in a
      process of its own, if more than one. A script needs the usual guard of
      its main module.
      Default value: `1`. The program has `2`.
    overwrite: Python `bool`: whether to run methods again that `output_dir`
      has, and to discard those of another configuration.
      Default value: `False`.

  Returns:
    results: `Results`.

  Raises:
    ValueError: If an argument is not as expected, `output_dir` cannot be
      written or has results of another configuration; before any compute.
    FloatingPointError: If a loss or a weight becomes NaN.
  """
  settings = {
    'sequence_length': sequence_length,
    'num_training_sequences': num_training_sequences,
    'num_test_sequences': num_test_sequences,
    'num_particles': num_particles,
    'num_training_particles': num_training_particles,
    'batch_size': batch_size,
    'num_steps': num_steps,
    'learning_rate': learning_rate,
    'num_reference_batches': num_reference_batches,
    'seed': seed,
  }
  methods = _check_settings(method, settings)
  programs.check_positive_integer('num_workers', num_workers)
  order = [*METHODS, 'reference']
  store = programs.Store(
    output_dir,
    {**settings, 'versions': programs.versions()},
    overwrite,
    fields=['method'],
    order_fn=order.index,
  )
  if 'oracle' not in methods:
    print('The oracle is run too: the reference needs its proposal.')
    methods = methods + ['oracle']
  methods = [name for name in METHODS if name in methods]
  missing = []
  for name in methods:
    if overwrite or not store.has(name):
      missing.append((name,))
    else:
      print(f'{METHODS[name].label}: kept; {_describe(store.row(name))}')
  if overwrite:
    _remove_checkpoints(store.path('checkpoints'))
  if missing:
    print(f'Training {len(missing)} of {len(methods)} methods.', flush=True)
  for i, ((name,), (row, arrays)) in enumerate(
    programs.run_cells(
      _run_cell, missing, {**settings, 'directory': output_dir}, num_workers
    )
  ):
    store.add(row, arrays)
    print(
      f'[{i + 1}/{len(missing)}] {METHODS[name].label}: {_describe(row)}',
      flush=True,
    )
  if ('oracle',) in missing or not store.has('reference'):
    store.add(*_run_reference(store.arrays('oracle'), settings))
  reference = store.arrays('reference')
  for name in methods:
    arrays = store.arrays(name)
    store.add(_add_gap(store.row(name), arrays, reference), arrays)
  rows = [store.row(name) for name in [*methods, 'reference']]
  print(_format_table(rows, settings))
  _, eta, z, test = _simulate(settings)
  shown = _shown(eta, z)
  pictures = hmm_pictures.draw(
    {name: store.arrays(name) for name in methods},
    {name: METHODS[name].label for name in methods},
    {name: METHODS[name].color for name in methods},
    test[shown].numpy(),
    z[shown].numpy(),
    tf.nest.map_structure(lambda x: x[shown].numpy(), eta),
    settings,
    store.path(''),
  )
  print('\nWritten:')
  for path in [store.path('metrics.json'), *pictures]:
    print(f'  {path}')
  return Results(rows, pictures)


def _remove_checkpoints(directory):
  """Removes what was trained, so that it is trained again."""
  if tf.io.gfile.exists(directory):
    tf.io.gfile.rmtree(directory)


_FLAGS = {
  'method': f'all, or a comma list of {", ".join(METHODS)}.',
  'sequence_length': 'Steps of a sequence.',
  'num_training_sequences': 'How many sequences to simulate for training.',
  'num_test_sequences': 'How many sequences to simulate for testing.',
  'num_particles': 'Particles in testing.',
  'num_training_particles': 'Particles in training.',
  'batch_size': 'Sequences of a training step.',
  'num_steps': 'Number of training steps.',
  'learning_rate': 'Learning rate of Adam, which falls to zero.',
  'num_reference_batches': (
    'How many times as many samples as particles the reference has.'
  ),
  'seed': 'Seed of all that is random.',
  'output_dir': 'Folder to write to. Methods that it has already are kept.',
  'num_workers': 'How many methods to run at a time.',
  'overwrite': (
    'Run methods again that the output folder has, and discard those of '
    'another configuration.'
  ),
}

# One for each of two processors.
_FLAG_DEFAULTS = {'num_workers': 2}


def main(argv):
  """Runs the experiment with the values of flags; see `programs.main`."""
  return programs.main(run, argv)


if __name__ == '__main__':
  programs.define_flags(run, _FLAGS, _FLAG_DEFAULTS)
  app.run(main)

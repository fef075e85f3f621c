# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Annealing to a multimodal density on the plane.

Learns samplers along a path from a broad Gaussian to a density with many modes,
by nested variational inference [1] and by what it is compared with there, and
holds their estimates against the true normalizer and the published figures.

```shell
python -m tfp_nvi.experiments.annealing --output_dir=results/annealing
python -m tfp_nvi.experiments.annealing --method=nvir,nvir_star \
  --num_densities=4,8 --num_restarts=3 --output_dir=results/some
```

A cell is a method and a number of densities. All restarts of a cell are trained
together; then 100 batches of 100 samples are drawn from each. The figures of a
cell are the mean over batches and restarts, and the standard deviation over
restarts of the mean over batches (zero for a single restart). Methods with
resampling are evaluated with it; `ess_without_resampling` is the effective
sample size of the same sampler when it never resamples. `mode_mass_lowest` and
`mode_mass_highest` are the least and the greatest mass that 100,000 weighted
samples of any one restart give to any mode, as a fraction of its true mass.

The output folder holds

```none
metrics.json    the configuration, and a row for each cell
samples-K.png   particles level by level, a row for each method
path-K.png      learned schedules beside the linear one, and how far apart each
                puts successive densities
training-K.png  effective sample size and log normalizer over training
cells/*.npz     what the pictures are drawn from
```

It is written after every cell. A run that was stopped goes on when it is
started again: cells that the folder has are kept, unless they are asked to be
overwritten.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

import collections
import math
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from absl import app

import tfp_nvi as nvi
from tfp_nvi.experiments import programs
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'METHODS',
  'Method',
  'Results',
  'TARGETS',
  'make_sampler',
  'run',
]


class Method(
  collections.namedtuple(
    'Method',
    ['label', 'objective_fn', 'resamples', 'learns_path', 'is_flow', 'style'],
  )
):
  """A method that is compared.

  Fields:
    label: Python `str`: its name in tables and pictures.
    objective_fn: Python callable that makes the objective.
    resamples: Python `bool`: whether to resample before every level after the
      first.
    learns_path: Python `bool`: whether the annealing schedule is learned.
    is_flow: Python `bool`: whether transitions are planar flows, or pairs of
      Gaussian kernels.
    style: Python `dict` of properties of its lines in pictures.
  """

  __slots__ = ()


def _method(label, objective_fn, color, learns_path=False):
  is_flow = label.endswith('-flow')
  return Method(
    label=label,
    objective_fn=objective_fn,
    resamples=label.startswith('NVIR'),
    learns_path=learns_path,
    is_flow=is_flow,
    style={'color': color, 'linestyle': '--' if is_flow else '-'},
  )


METHODS = {
  'svi': _method('SVI', nvi.svi, '#999999'),
  'svi_flow': _method('SVI-flow', nvi.svi, '#999999'),
  'avo': _method('AVO', nvi.avo, '#e69f00'),
  'nvi': _method('NVI', nvi.reverse_kl, '#56b4e9'),
  'nvir': _method('NVIR', nvi.reverse_kl, '#0072b2'),
  'nvi_star': _method('NVI*', nvi.reverse_kl, '#cc79a7', learns_path=True),
  'nvir_star': _method('NVIR*', nvi.reverse_kl, '#d55e00', learns_path=True),
  'avo_flow': _method('AVO-flow', nvi.avo, '#e69f00'),
  'nvi_star_flow': _method(
    'NVI*-flow', nvi.reverse_kl, '#cc79a7', learns_path=True
  ),
}

TARGETS = {
  'ring_of_gaussians': nvi.targets.ring_of_gaussians,
  'grid_of_gaussians': nvi.targets.grid_of_gaussians,
  'concentric_rings': nvi.targets.concentric_rings,
}

# Table 1 of [1]: log normalizer and effective sample size, out of 100, for 2,
# 4, 6 and 8 densities.
_PAPER = {
  'svi': ((1.86, 1.89, 1.92, 1.72), (51, 47, 32, 25)),
  'svi_flow': ((2.06,), (55,)),
  'avo': ((1.86, 1.96, 2.01, 2.05), (51, 44, 46, 46)),
  'nvi': ((1.86, 1.97, 2.03, 2.06), (51, 45, 45, 41)),
  'nvir': ((1.86, 1.98, 2.04, 2.06), (51, 99, 98, 97)),
  'nvi_star': ((1.86, 2.06, 2.07, 2.07), (51, 51, 54, 54)),
  'nvir_star': ((1.86, 2.06, 2.07, 2.08), (51, 95, 96, 97)),
  'avo_flow': ((2.05, 2.08, 2.07, 2.08), (28, 67, 77, 70)),
  'nvi_star_flow': ((2.05, 2.08, 2.08, 2.08), (28, 81, 78, 70)),
}
_PAPER_NUM_DENSITIES = (2, 4, 6, 8)
_PAPER_TARGET = 'ring_of_gaussians'
# How far below the published figures, which are rounded, counts as below.
_TOLERANCES = {'log_normalizer': 0.02, 'ess': 2.0}

_INITIAL_SCALE = 5.0
_FLOW_SCALE = 2.0
_HIDDEN_UNITS = (50,)
_NUM_BATCHES = 100
_NUM_SAMPLES = 100
# Samples of each restart whose modes are weighed, and those to draw of the
# first one.
_NUM_WEIGHED = 100_000
_NUM_DRAWN = 5_000
# Four standard deviations of the initial density, to integrate over.
_QUADRATURE_LIMITS = (-4.0 * _INITIAL_SCALE, 4.0 * _INITIAL_SCALE)
_STEPS_PER_VALUE = 20


class Results(collections.namedtuple('Results', ['rows', 'pictures'])):
  """What an experiment gives.

  Fields:
    rows: List of Python `dict`s, as in `metrics.json`: those asked for.
    pictures: List of the paths of the pictures.
  """

  __slots__ = ()


def make_sampler(
  method,
  target,
  num_densities,
  num_restarts=1,
  num_flow_layers=32,
  seed=None,
):
  """Makes the sampler of a method, untrained, and its objective.

  Args:
    method: Python `str`: one of `METHODS`.
    target: `tfp_nvi.targets.MultimodalTarget`.
    num_densities: Python `int`, at least 2.
    num_restarts: Python `int`: the size of the batch axis.
      Default value: `1`.
    num_flow_layers: Python `int` number of planar flows for each level, if the
      method has flows.
      Default value: `32`.
    seed: Python `int` or stateless seed for the initial parameters.

  Returns:
    sampler: `NestedSampler` of batch shape `[num_restarts]`.
    objective: The objective to train it by.

  ```python
  import tfp_nvi as nvi
  from tfp_nvi.experiments import annealing

  target = nvi.targets.ring_of_gaussians()
  sampler, objective = annealing.make_sampler(
    'nvir_star', target, num_densities=3, num_restarts=2, seed=1
  )
  assert sampler.batch_shape == [2]
  ```
  """
  method = METHODS[method]
  batch_shape = [num_restarts]
  zeros = tf.zeros([2], target.dtype)
  path = nvi.GeometricPath(
    initial=tfd.MultivariateNormalDiag(zeros, zeros + _INITIAL_SCALE),
    target=target.unnormalized_log_prob,
    num_densities=num_densities,
    learnable=method.learns_path,
    batch_shape=batch_shape,
  )
  if method.is_flow:
    transitions = nvi.PlanarTransitions(
      path,
      num_layers=num_flow_layers,
      scale=_FLOW_SCALE,
      batch_shape=batch_shape,
      seed=seed,
    )
  else:
    transitions = nvi.GaussianTransitions(
      path, hidden_units=_HIDDEN_UNITS, batch_shape=batch_shape, seed=seed
    )
  sampler = nvi.NestedSampler(
    path,
    transitions,
    resample_criterion_fn=nvi.always if method.resamples else nvi.never,
  )
  return sampler, method.objective_fn()


def _evaluate(sampler, seed):
  """Log normalizers and effective sample sizes of batches of samples.

  Args:
    sampler: `NestedSampler` of batch shape `[num_restarts]`.
    seed: Stateless seed.

  Returns:
    log_normalizer: NumPy array of shape `[num_batches, num_restarts]`.
    effective_sample_size: NumPy array of the same shape.
  """
  batch_shape = [_NUM_BATCHES] + sampler.batch_shape.as_list()

  # With XLA, this would take far longer to compile than it takes to run.
  @tf.function(autograph=False, input_signature=[tf.TensorSpec([2], tf.int32)])
  def evaluate(seed):
    run = sampler.run(_NUM_SAMPLES, seed, batch_shape)
    log_weights = run.particles.log_weights
    return (
      nvi.log_normalizer(log_weights),
      nvi.effective_sample_size(log_weights),
    )

  return tuple(
    x.numpy().astype(np.float64) for x in evaluate.get_concrete_function()(seed)
  )


def _mean_and_deviation(values):
  """Mean over batches and restarts; deviation over restarts of their means."""
  of_restarts = np.mean(values, axis=0)
  return float(np.mean(of_restarts)), float(np.std(of_restarts))


def _learning_rate(settings):
  """The learning rate, or its schedule.

  With a few tens of particles a step, a rate that stays the same leaves noise
  in the parameters that the final effective sample size shows; it may fall to
  zero over the last quarter.
  """
  rate, num_steps = settings['learning_rate'], settings['num_steps']
  num_constant = 3 * num_steps // 4
  if not settings['decay_learning_rate'] or num_constant == 0:
    return rate
  return tf_keras.optimizers.schedules.CosineDecay(
    rate,
    num_steps - num_constant,
    warmup_target=rate,
    warmup_steps=num_constant,
  )


def _run_cell(method, num_densities, settings, progress):
  """Trains and evaluates one cell.

  Args:
    method: Python `str`.
    num_densities: Python `int`.
    settings: Python `dict` of the arguments of `run`.
    progress: Python `bool`: whether to show a progress bar.

  Returns:
    row: Python `dict`, as in `metrics.json`.
    arrays: Python `dict` of NumPy arrays, to draw from.
  """
  start = time.perf_counter()
  target = TARGETS[settings['target']](tf.as_dtype(settings['dtype']))
  cell = 1_000 * list(METHODS).index(method) + num_densities
  build_seed, train_seed, evaluation_seed, trace_seed, weighing_seed = (
    randomness.split_seed(
      randomness.fold_in(randomness.as_seed(settings['seed']), cell), 5
    )
  )
  sampler, objective = make_sampler(
    method,
    target,
    num_densities,
    settings['num_restarts'],
    settings['num_flow_layers'],
    build_seed,
  )
  history = nvi.fit(
    sampler,
    objective,
    num_particles=settings['sample_budget'] // num_densities,
    num_steps=settings['num_steps'],
    optimizer=tf_keras.optimizers.Adam(_learning_rate(settings)),
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
    'effective_sample_size': _thin(history.effective_sample_size),
    'log_normalizer': _thin(history.log_normalizer),
    'schedule': path.schedule.numpy(),
  }
  if arrays['schedule'].ndim > 1:
    arrays['divergences'] = nvi.diagnostics.successive_kl(
      path, _QUADRATURE_LIMITS
    ).numpy()
  row = {
    'method': method,
    'num_densities': num_densities,
    'num_restarts': settings['num_restarts'],
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


def _thin(values):
  """Means over consecutive steps, to keep less."""
  count = max(1, len(values) // _STEPS_PER_VALUE)
  return np.stack([x.mean(axis=0) for x in np.array_split(values, count)])


def _describe(row):
  """The line that is shown for a finished cell."""
  without = ''
  if METHODS[row['method']].resamples:
    without = f' ({row["ess_without_resampling"]:.1f} without resampling)'
  return (
    f'log Z-hat {row["log_normalizer"]:.3f} +- {row["log_normalizer_std"]:.3f} '
    f'(true {row["log_normalizer_true"]:.3f}), ESS {row["ess"]:.1f} +- '
    f'{row["ess_std"]:.1f} of {_NUM_SAMPLES}{without}, modes at '
    f'{row["mode_mass_lowest"]:.2f} to {row["mode_mass_highest"]:.2f} of their '
    'mass, '
    f'{row["microseconds_per_step"]:.0f} us a step, {row["seconds"]:.0f} s'
  )


def _published(row, field, target):
  """The published figure of a cell; `None` if there is none."""
  if target != _PAPER_TARGET:
    return None
  published = _PAPER[row['method']][0 if field == 'log_normalizer' else 1]
  return dict(zip(_PAPER_NUM_DENSITIES, published, strict=False)).get(
    row['num_densities']
  )


def _format_table(rows, target):
  """The table of rows, beside the published one."""
  counts = sorted({row['num_densities'] for row in rows})
  by_cell = {(row['method'], row['num_densities']): row for row in rows}
  beside = ', measured / published' if target == _PAPER_TARGET else ''
  lines = []
  num_below = 0
  true = rows[0]['log_normalizer_true']
  for field, digits, digits_published, title in (
    ('log_normalizer', 3, 2, f'log Z-hat (true {true:.3f})'),
    ('ess', 1, 0, f'ESS of {_NUM_SAMPLES} samples'),
  ):
    lines += ['', title + beside]
    lines.append(' ' * 10 + ''.join(f'{f"K = {k}":>16}' for k in counts))
    for name, method in METHODS.items():
      if not any((name, k) in by_cell for k in counts):
        continue
      line = f'{method.label:10}'
      for k in counts:
        row = by_cell.get((name, k))
        if row is None:
          line += f'{"-":>16}'
          continue
        value, published = row[field], _published(row, field, target)
        text, mark = f'{value:.{digits}f}', ' '
        if published is not None:
          text += f' / {published:.{digits_published}f}'
          if value < published - _TOLERANCES[field]:
            mark = '!'
            num_below += 1
        line += f'{text:>15}{mark}'
      lines.append(line.rstrip())
  if num_below:
    lines += [
      '',
      f'! {num_below} below the published figure by more than '
      f'{_TOLERANCES["log_normalizer"]:g} or {_TOLERANCES["ess"]:g}.',
    ]
  return '\n'.join(lines)


def _draw(store, cells, settings):
  """Draws the pictures of cells.

  Args:
    store: `Store` that has them.
    cells: List of pairs of method and number of densities.
    settings: Python `dict` of the arguments of `run`.

  Returns:
    paths: List of Python `str`s.
  """
  target = TARGETS[settings['target']]()
  title = target.name.replace('_', ' ').replace('gauss', 'Gauss')
  paths = []

  def save(figure, name):
    paths.append(store.path(name))
    programs.replace_file(paths[-1], lambda f: figure.savefig(f, format='png'))

  for k in sorted({k for _, k in cells}):
    names = [name for name in METHODS if (name, k) in cells]
    labels = {name: METHODS[name].label for name in names}
    styles = {METHODS[name].label: METHODS[name].style for name in names}
    arrays = {name: store.arrays(name, k) for name in names}
    save(
      nvi.diagnostics.plot_samples(
        {
          labels[name]: (arrays[name]['particles'], arrays[name]['log_weights'])
          for name in names
        },
        target.limits,
        target_log_prob_fn=target.unnormalized_log_prob,
      ),
      f'samples-{k}.png',
    )
    learned = [name for name in names if 'divergences' in arrays[name]]
    if learned:
      linear, _ = make_sampler('nvi', target, k)
      save(
        nvi.diagnostics.plot_schedules(
          {
            'linear': linear.densities.schedule,
            **{labels[name]: arrays[name]['schedule'] for name in learned},
          },
          {
            'linear': nvi.diagnostics.successive_kl(
              linear.densities, _QUADRATURE_LIMITS
            ),
            **{labels[name]: arrays[name]['divergences'] for name in learned},
          },
          styles={'linear': {'color': '0.35', 'linestyle': ':'}, **styles},
          title=f'{title}, {k} densities',
        ),
        f'path-{k}.png',
      )
    save(
      nvi.diagnostics.plot_training(
        {labels[name]: arrays[name]['effective_sample_size'] for name in names},
        {labels[name]: arrays[name]['log_normalizer'] for name in names},
        num_particles=settings['sample_budget'] // k,
        true_log_normalizer=target.log_normalizer,
        steps_per_value=(
          settings['num_steps'] / len(arrays[names[0]]['log_normalizer'])
        ),
        styles=styles,
        title=f'{title}, {k} densities, {settings["num_restarts"]} restarts',
      ),
      f'training-{k}.png',
    )
  return paths


def _check_settings(method, num_densities, settings):
  """Raises an error if an argument is not as expected.

  Args:
    method: As in `run`.
    num_densities: As in `run`.
    settings: Python `dict` of the other arguments.

  Returns:
    methods: List of names of methods.
    counts: List of numbers of densities.
    takes_all: Python `bool`: whether the methods are all there are.
  """
  methods = programs.as_list(method)
  takes_all = methods == ['all']
  if takes_all:
    methods = list(METHODS)
  for name in methods or ['']:
    if name not in METHODS:
      raise programs.SettingError(
        'method',
        f'all, or a comma list of {", ".join(METHODS)}',
        repr(name),
      )
  counts = []
  for value in programs.as_list(num_densities) or ['']:
    try:
      count = int(value)
    except (TypeError, ValueError):
      count = 0
    if count < 2 or str(count) != str(value):
      raise programs.SettingError(
        'num_densities', 'a comma list of integers of at least 2', repr(value)
      )
    counts.append(count)
  for name in ('num_restarts', 'sample_budget', 'num_steps', 'num_flow_layers'):
    programs.check_positive_integer(name, settings[name])
  if not isinstance(settings['seed'], int):
    raise programs.SettingError('seed', 'an integer', repr(settings['seed']))
  if settings['sample_budget'] < max(counts):
    raise programs.SettingError(
      'sample_budget',
      f'at least the number of densities, {max(counts)}, for one particle each',
      repr(settings['sample_budget']),
    )
  programs.check_positive_number('learning_rate', settings['learning_rate'])
  decay = settings['decay_learning_rate']
  if not isinstance(decay, bool):
    raise programs.SettingError(
      'decay_learning_rate', 'True or False', repr(decay)
    )
  programs.check_choice('target', settings['target'], TARGETS)
  programs.check_choice('dtype', settings['dtype'], ('float32', 'float64'))
  return methods, counts, takes_all


def _cells(methods, counts, takes_all):
  """The cells to run, and those left out, as pairs of method and count."""
  cells = [(name, k) for name in methods for k in counts]
  left_out = [c for c in cells if takes_all and c[0] == 'svi_flow' and c[1] > 2]
  return [cell for cell in cells if cell not in left_out], left_out


def run(
  method='all',
  num_densities=(2, 4, 6, 8),
  num_restarts=10,
  sample_budget=288,
  num_steps=20_000,
  seed=1,
  output_dir='results/annealing',
  target='ring_of_gaussians',
  num_flow_layers=32,
  learning_rate=1e-3,
  decay_learning_rate=True,
  dtype='float32',
  num_workers=1,
  overwrite=False,
):
  """Runs the experiment, and prints its table.

  Args:
    method: Python `str`, one of `METHODS`, a comma list, or `all`; or a list.
      Default value: `'all'`.
    num_densities: Python `int`, a list, or a comma list: how many densities,
      both ends included. Each goes with each method; but of `all` methods,
      `svi_flow` is run with 2 alone, as it is in the published table.
      Default value: `(2, 4, 6, 8)`.
    num_restarts: Python `int`: how often each sampler is trained, all at once.
      Default value: `10`.
    sample_budget: Python `int`: samples a training step. Each level has this
      number divided by `num_densities`, rounded down, of particles.
      Default value: `288`.
    num_steps: Python `int` number of training steps.
      Default value: `20_000`.
    seed: Python `int`. What a cell gives depends on it, not on other cells.
      Default value: `1`.
    output_dir: Python `str`: a folder to write to; made if need be.
      Default value: `'results/annealing'`.
    target: Python `str`: one of `TARGETS`.
      Default value: `'ring_of_gaussians'`.
    num_flow_layers: Python `int` number of planar flows for each level.
      Default value: `32`.
    learning_rate: Python `float`, of Adam.
      Default value: `1e-3`.
    decay_learning_rate: Python `bool`: whether the learning rate falls to zero
      over the last quarter of the steps, along a cosine.
      Default value: `True`.
    dtype: Python `str`: `'float32'` or `'float64'`.
      Default value: `'float32'`.
    num_workers: Python `int`: how many cells to run at a time, each in a
      process of its own, if more than one. Figures do not depend on it, but for
      the durations. A script needs the usual guard of its main module.
      Default value: `1`. The program has `2`.
    overwrite: Python `bool`: whether to run cells again that `output_dir` has,
      and to discard those of another configuration.
      Default value: `False`.

  Returns:
    results: `Results`.

  Raises:
    ValueError: If an argument is not as expected, `output_dir` cannot be
      written or has results of another configuration; before any compute.
    FloatingPointError: If a loss or a weight becomes NaN.
  """
  settings = {
    'target': target,
    'num_restarts': num_restarts,
    'sample_budget': sample_budget,
    'num_steps': num_steps,
    'seed': seed,
    'num_flow_layers': num_flow_layers,
    'learning_rate': learning_rate,
    'decay_learning_rate': decay_learning_rate,
    'dtype': dtype,
  }
  methods, counts, takes_all = _check_settings(method, num_densities, settings)
  programs.check_positive_integer('num_workers', num_workers)
  names = list(METHODS)
  store = programs.Store(
    output_dir,
    {**settings, 'versions': programs.versions()},
    overwrite,
    fields=['method', 'num_densities'],
    order_fn=lambda name, k: (names.index(name), k),
  )
  cells, left_out = _cells(methods, counts, takes_all)
  if left_out:
    print(
      f'Leaving out svi_flow with {", ".join(str(k) for _, k in left_out)} '
      'densities, which has no published figures; --method=svi_flow runs it.'
    )
  missing = []
  for name, k in cells:
    if overwrite or not store.has(name, k):
      missing.append((name, k))
      continue
    row = store.row(name, k)
    print(f'{METHODS[name].label}, {k} densities: kept; ', end='')
    print(_describe(row))
  if missing:
    print(f'Training {len(missing)} of {len(cells)} cells.', flush=True)
  for i, ((name, k), (row, arrays)) in enumerate(
    programs.run_cells(_run_cell, missing, settings, num_workers)
  ):
    store.add(row, arrays)
    print(
      f'[{i + 1}/{len(missing)}] {METHODS[name].label}, {k} densities: '
      + _describe(row),
      flush=True,
    )

  rows = [store.row(name, k) for name, k in cells]
  print(_format_table(rows, target))
  pictures = _draw(store, cells, settings)
  print('\nWritten:')
  for path in [store.path('metrics.json'), *pictures]:
    print(f'  {path}')
  return Results(rows, pictures)


_FLAGS = {
  'method': f'all, or a comma list of {", ".join(METHODS)}.',
  'num_densities': 'Comma list of how many densities, both ends included.',
  'num_restarts': 'How often each sampler is trained, all at once.',
  'sample_budget': 'Samples a training step, divided among the densities.',
  'num_steps': 'Number of training steps.',
  'seed': 'Seed of all that is random.',
  'output_dir': 'Folder to write to. Cells that it has already are kept.',
  'target': f'One of {", ".join(TARGETS)}.',
  'num_flow_layers': 'Number of planar flows for each level.',
  'learning_rate': 'Learning rate of Adam.',
  'decay_learning_rate': (
    'Let the learning rate fall to zero over the last quarter of the steps.'
  ),
  'dtype': 'float32 or float64.',
  'num_workers': 'How many cells to run at a time.',
  'overwrite': (
    'Run cells again that the output folder has, and discard those of another '
    'configuration.'
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

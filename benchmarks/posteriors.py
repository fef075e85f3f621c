# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""How well, and at what cost, `fit_posterior` finds known posteriors.

```shell
python -m benchmarks.posteriors --data_dir=../shared/data/posteriors \
    --output_dir=results/benchmarks
```

Fits each target with all defaults, for several seeds, and prints a table: the
error of the log evidence (RMSE over seeds, and the largest), how often
intervals of 90% from the reported errors hold, the worst share of a mode,
evaluations of the target's gradient, and seconds. With `--peers=all`, other
methods have as many evaluations, and a second table compares the errors:
variational inference of TFP with importance weights, samplers of blackjax, and
nautilus, where these are installed (`pip install "tfp-nvi[bench]"`). Several
`--num_particles` give curves of error against evaluations. With `--learned`, a
table compares evaluations of the target for an effective draw: those of the
runs, of importance sampling from the reference that was learned, and of
Langevin kernels on top of it, before and after training. Targets whose data are
not in `--data_dir`, or that need a package that is not installed, are left out,
and said so. Writes JSON and a picture of errors against evaluations.

Processor seconds are of this process, and do not depend on what else runs; they
include tracing and compilation.
"""

import itertools
import os
import statistics
import time

import numpy as np
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags
from matplotlib import figure as figure_lib
from matplotlib import ticker

import tfp_nvi as nvi
from benchmarks import posterior_peers, reporting
from tfp_nvi.posterior import fit_posterior
from tfp_nvi.targets import posteriors

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'main',
  'measure',
  'summarize',
]

_PACKAGES = ('tensorflow', 'tensorflow-probability', 'tf-keras', 'numpy')


class Missing(Exception):
  """A file or package that a target needs is missing; the text names it."""


def _read(name, **kwargs):
  folder = flags.FLAGS.data_dir
  path = os.path.join(folder, name) if folder else None
  if path is None or not os.path.exists(path):
    raise Missing(f'{name} is not in --data_dir={folder or ""}')
  return np.loadtxt(path, delimiter=',', **kwargs)


def _regression(file_name, scale, log_evidence):
  data = _read(file_name)
  labels = data[:, -1] == data[:, -1].max()
  name = file_name.partition('.')[0]
  known = posteriors.logistic_regression(
    data[:, :-1], labels.astype(float), scale, name
  )
  return known._replace(log_evidence=log_evidence)


def _pines():
  known = posteriors.cox_process(_read('pines.csv', skiprows=1))
  return known._replace(log_evidence=501.806)


def _brownian():
  """Brownian motion with unknown scales and no observations in the middle."""
  try:
    from inference_gym.internal import data
  except ImportError as e:
    raise Missing('inference_gym is not installed') from e
  observed = np.asarray(
    data.brownian_motion_missing_middle_observations()['observed_locs'],
    np.float32,
  )
  is_seen = np.isfinite(observed)
  seen = tf.constant(np.flatnonzero(is_seen))
  y = tf.constant(observed[is_seen])

  model = tfd.JointDistributionNamed(
    {
      'innovation': tfd.LogNormal(0.0, 2.0),
      'noise': tfd.LogNormal(0.0, 2.0),
      'places': lambda innovation: tfd.TransformedDistribution(
        tfd.Sample(tfd.Normal(0.0, innovation), len(observed)), tfb.Cumsum()
      ),
      'y': lambda noise, places: tfd.Independent(
        tfd.Normal(tf.gather(places, seen, axis=-1), noise[..., tf.newaxis]), 1
      ),
    }
  )
  return posteriors.KnownPosterior(
    'brownian', 32, model.experimental_pin(y=y), log_evidence=1.18775
  )


TARGETS = {
  'ionosphere': lambda: _regression('ionosphere.csv', 1.0, -111.62),
  'sonar': lambda: _regression('sonar.csv', 1.0, -108.38),
  # By importance sampling of this target in double precision, with 40,000 draws
  # from a Student t distribution at the mode: standard error 0.004. This was
  # computed after runs had disagreed with a figure of -585.098 from elsewhere.
  'german_credit': lambda: _regression(
    'german_credit_numeric.csv', 10.0, -585.043
  ),
  'seeds': posteriors.seeds,
  'eight_schools': posteriors.eight_schools,
  'brownian': _brownian,
  'hierarchy': posteriors.hierarchy,
  'cox_process': _pines,
  'funnel': posteriors.neals_funnel,
  'many_well': posteriors.many_well,
  'forty_gaussians_2': lambda: posteriors.forty_gaussians(2),
  'forty_gaussians_50': lambda: posteriors.forty_gaussians(50),
  'two_gaussians': posteriors.two_gaussians,
  'unordered_means': posteriors.unordered_means,
  'curved_modes_20': posteriors.curved_modes,
  'curved_modes_50': lambda: posteriors.curved_modes(50),
}

_TARGETS = flags.DEFINE_list('targets', list(TARGETS), 'Which targets.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2', '3', '4'], 'Seeds.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of the data.')
_OUTPUT_DIR = flags.DEFINE_string(
  'output_dir', None, 'Where to write posteriors.json and .png.'
)
_NUM_PARTICLES = flags.DEFINE_list(
  'num_particles', ['500'], 'Particles of each run; several for a curve.'
)
_NUM_RUNS = flags.DEFINE_integer('num_runs', 8, 'Runs.', lower_bound=2)

_PEERS = flags.DEFINE_list(
  'peers',
  [],
  'Other methods to run with as many evaluations: all, or a comma list of '
  f'{", ".join(posterior_peers.METHODS)}.',
)

_LEARNED = flags.DEFINE_bool(
  'learned', False, 'Whether to measure samplers from the learned reference.'
)
# Of the comparison with `--learned`.
_NUM_DRAWS = 20_000
_NUM_TRAINING_STEPS = 600
_NUM_TRAINING_PARTICLES = 64
# Pilots that start at the prior, or at what variational inference has found.
_FIRST_PILOTS = ('pilot from the prior', 'pilot from the reference')


def measure(known, seed, **kwargs):
  """Fits one posterior.

  Args:
    known: `KnownPosterior`.
    seed: Python `int`.
    **kwargs: Further arguments of `fit_posterior`.

  Returns:
    row: Python `dict`.
  """
  start, processor = time.perf_counter(), time.process_time()
  posterior = fit_posterior(
    known.target, known.initial, seed=seed, progress=False, **kwargs
  )
  seconds = time.perf_counter() - start
  processor_seconds = time.process_time() - processor
  error = posterior.log_evidence - known.log_evidence
  width = scipy.stats.t(posterior.num_runs - 1).ppf(0.95)
  row = {
    'target': known.name,
    'num_values': known.num_values,
    'num_particles': posterior.particles.log_weights.shape[0]
    // posterior.num_runs,
    'seed': seed,
    'log_evidence': posterior.log_evidence,
    'error': error,
    'standard_error': posterior.log_evidence_error,
    'is_covered': bool(abs(error) < width * posterior.log_evidence_error),
    'num_evaluations': posterior.num_target_evaluations,
    'seconds': seconds,
    'processor_seconds': processor_seconds,
    'start': posterior.start,
    'num_levels': len(posterior.history[-1]['pareto_k']),
    'warnings': posterior.warnings,
    'stages': {
      f'{i} {stage["name"]}': stage['num_target_evaluations']
      for i, stage in enumerate(posterior.history)
    },
  }
  if _LEARNED.value and posterior.reference is not None:
    row['learned'] = measure_learned(known, posterior, seed)
  if known.mode_index_fn is not None:
    count = len(known.mode_probabilities)
    shares = posterior.expectation(
      lambda value: tf.one_hot(known.mode_index_fn(value), count)
    )
    ratios = shares.numpy() / known.mode_probabilities
    row['smallest_mode_share'] = float(ratios.min())
    row['largest_mode_share'] = float(ratios.max())
  return row


def measure_learned(known, posterior, seed):
  """Evaluations of the target for an effective draw, by several samplers.

  Args:
    known: `KnownPosterior`.
    posterior: `Posterior` of it, which has a reference.
    seed: Python `int`.

  Returns:
    row: Python `dict`: `pilot`, of those that have learned nothing the one with
      the fewest; `runs`, `importance`, `langevin` and `trained`; and the
      `pareto_k` of importance sampling.
  """

  def make_sampler(num_densities, make_transitions):
    path = nvi.GeometricPath(
      posterior.reference,
      known.target,
      num_densities=num_densities,
      learnable=True,
      event_space_bijector=posterior.reference.bijector,
    )
    return nvi.NestedSampler(path, make_transitions(path))

  def cost(sampler, evaluations):
    particles = sampler.sample(_NUM_DRAWS, seed=seed)
    share = float(particles.effective_sample_size) / _NUM_DRAWS
    return evaluations / share, particles

  importance, particles = cost(
    make_sampler(2, lambda path: nvi.BijectorTransition(tfb.Identity())), 1
  )
  langevin = make_sampler(3, nvi.LangevinTransitions)
  # The target at the end of each move, and its gradient at both ends.
  evaluations = 1 + 3 * 2
  before, _ = cost(langevin, evaluations)
  nvi.fit(
    langevin,
    nvi.reverse_kl(),
    _NUM_TRAINING_PARTICLES,
    _NUM_TRAINING_STEPS,
    seed=seed,
    progress=False,
  )
  after, _ = cost(langevin, evaluations)
  return {
    'pilot': min(
      stage['num_target_evaluations'] / stage['effective_sample_size']
      for stage in posterior.history
      if stage['name'] in _FIRST_PILOTS and stage['is_complete']
    ),
    'runs': posterior.history[-1]['num_target_evaluations']
    / float(posterior.particles.effective_sample_size),
    'importance': importance,
    'langevin': before,
    'trained': after,
    'pareto_k': float(nvi.diagnostics.pareto_k(particles.log_weights.numpy())),
  }


def summarize_learned(rows):
  """A table of the evaluations for an effective draw.

  Args:
    rows: List of what `measure` returned.

  Returns:
    text: Python `str`.
  """
  lines = [
    '| target | d | pilot | runs | learned reference (k) | Langevin kernels '
    '| trained |',
    '|---|---|---|---|---|---|---|',
  ]
  for row in rows:
    found = row.get('learned')
    if found is not None:
      lines.append(
        f'| {row["target"]} | {row["num_values"]} | {found["pilot"]:.1f} '
        f'| {found["runs"]:.1f} '
        f'| {found["importance"]:.1f} ({found["pareto_k"]:.2f}) '
        f'| {found["langevin"]:.1f} | {found["trained"]:.1f} |'
      )
  return '\n'.join(lines)


def summarize(rows):
  """A table, one line a target.

  Args:
    rows: List of what `measure` returned.

  Returns:
    text: Python `str`.
  """
  lines = [
    '| target | d | particles | RMSE of log Z | largest error '
    '| 90% intervals hold | mode shares | levels | gradients | CPU s | s '
    '| starts |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for (name, num_particles), own in _groups(
    rows, 'target', 'num_particles'
  ).items():
    errors = [row['error'] for row in own]

    def median(key, own=own):
      return statistics.median(row[key] for row in own)

    shares = '-'
    if 'smallest_mode_share' in own[0]:
      smallest = min(row['smallest_mode_share'] for row in own)
      largest = max(row['largest_mode_share'] for row in own)
      shares = f'{smallest:.2f} to {largest:.2f}'
    covered = sum(row['is_covered'] for row in own)
    starts = ', '.join(sorted({row['start'] for row in own}))
    lines.append(
      f'| {name} | {own[0]["num_values"]} | {num_particles} '
      f'| {_root_mean_square(own):.3f} '
      f'| {max(errors, key=abs):+.3f} | {covered} of {len(own)} | {shares} '
      f'| {median("num_levels"):.0f} | {median("num_evaluations"):.2g} '
      f'| {median("processor_seconds"):.0f} | {median("seconds"):.0f} '
      f'| {starts} |'
    )
  return '\n'.join(lines)


def _describe(error):
  return 'unknown' if error is None else f'{error:+.4f}'


def _root_mean_square(rows):
  """That of the errors of rows."""
  return float(np.sqrt(np.mean(np.square([row['error'] for row in rows]))))


def _groups(rows, *names):
  """Lists of rows that agree in some fields, by the values of these."""
  groups = {}
  for row in rows:
    groups.setdefault(tuple(row[name] for name in names), []).append(row)
  return groups


def compare(rows, peer_rows):
  """A table of the errors of `fit_posterior` beside those of peers.

  Args:
    rows: List of what `measure` returned.
    peer_rows: List of what `posterior_peers.measure` returned, with the
      `num_particles` of the row that they are compared with.

  Returns:
    text: Python `str`. A peer that takes fewer than 0.75 or more than 1.5 times
      the evaluations has the ratio in parentheses, and `-` where it has no
      estimate.
  """
  methods = [
    m for m in posterior_peers.METHODS if (m,) in _groups(peer_rows, 'method')
  ]
  lines = [
    '| target | particles | fit_posterior | ' + ' | '.join(methods) + ' |',
    '|---' * (len(methods) + 3) + '|',
  ]
  of_peers = _groups(
    [row for row in peer_rows if row['error'] is not None],
    'target',
    'num_particles',
    'method',
  )
  for key, own in _groups(rows, 'target', 'num_particles').items():
    budget = statistics.median(row['num_evaluations'] for row in own)
    cells = [f'{_root_mean_square(own):.3f}']
    for method in methods:
      found = of_peers.get((*key, method), [])
      if not found:
        cells.append('-')
        continue
      ratio = statistics.median(x['num_evaluations'] for x in found) / budget
      is_equal = 0.75 < ratio < 1.5
      cells.append(
        f'{_root_mean_square(found):.3f}'
        + ('' if is_equal else f' ({ratio:.1f})')
      )
    lines.append(f'| {key[0]} | {key[1]} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def _picture(rows, peer_rows):
  """Errors against evaluations: a panel for each target."""
  rows = [{**row, 'method': 'fit_posterior'} for row in rows] + [
    row for row in peer_rows if row['error'] is not None
  ]
  targets = _groups(rows, 'target')
  methods = [name for (name,) in _groups(rows, 'method')]
  # Rows of three where these leave fewer places empty.
  num_columns = min(
    len(targets), 3 if -len(targets) % 3 < -len(targets) % 4 else 4
  )
  num_rows = -(-len(targets) // num_columns)
  with reporting.style():
    figure = figure_lib.Figure(
      figsize=(2.3 * num_columns + 0.4, 2.1 * num_rows + 0.7),
      layout='constrained',
    )
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, ((target,), own) in zip(panels, targets.items(), strict=False):
      for (method,), found in _groups(own, 'method').items():
        points = [
          (
            statistics.median(row['num_evaluations'] for row in group) / 1e3,
            max(_root_mean_square(group), 1e-4),
          )
          for group in _groups(found, 'num_particles').values()
        ]
        axes.plot(
          *zip(*points, strict=True),
          'o-' if method == 'fit_posterior' else 's--',
          color=f'C{methods.index(method)}',
          linewidth=2.0 if method == 'fit_posterior' else 1.0,
          markersize=4.0,
          label=method,
        )
      axes.set(yscale='log', xlim=(0.0, None))
      axes.set_title(target, fontsize=9)
      axes.tick_params(labelsize=8)
      axes.xaxis.set_major_locator(ticker.MaxNLocator(3))
      axes.yaxis.set_minor_locator(ticker.NullLocator())
    for axes in panels[len(targets) :]:
      axes.set_axis_off()
    figure.supxlabel('evaluations of the target, in thousands', fontsize=9)
    figure.supylabel('error of log Z', fontsize=9)
    handles = {
      label: handle
      for axes in panels[: len(targets)]
      for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
      handles.values(),
      handles.keys(),
      loc='outside upper center',
      frameon=False,
      ncols=min(6, len(handles)),
      fontsize=8,
    )
  return figure


def main(argv):
  """Measures and reports."""
  reporting.check_arguments(argv)
  unknown = set(_TARGETS.value) - set(TARGETS)
  if unknown:
    raise app.UsageError(
      f'--targets must be of {", ".join(TARGETS)}; got {", ".join(unknown)}.'
    )
  seeds = reporting.integers('seeds', 0)
  sizes = reporting.integers('num_particles', 10)
  names = posterior_peers.METHODS if _PEERS.value == ['all'] else _PEERS.value
  unknown = set(names) - set(posterior_peers.METHODS)
  if unknown:
    raise app.UsageError(
      f'--peers must be all, or of {", ".join(posterior_peers.METHODS)}; got '
      f'{", ".join(unknown)}.'
    )
  peers, missing = posterior_peers.find_methods(names)
  for name, problem in missing.items():
    print(f'{name}: left out, as {problem}.', flush=True)
  rows, peer_rows, skipped = [], [], {}
  for name in _TARGETS.value:
    try:
      known = TARGETS[name]()
    except Missing as e:
      skipped[name] = str(e)
      print(f'{name}: skipped, as {e}.', flush=True)
      continue
    for num_particles, seed in itertools.product(sizes, seeds):
      row = measure(
        known,
        seed,
        num_particles=num_particles,
        num_runs=_NUM_RUNS.value,
      )
      rows.append(row)
      print(
        f'{name}, {num_particles} particles, seed {seed}: error '
        f'{row["error"]:+.4f} +- '
        f'{row["standard_error"]:.4f}, {row["num_evaluations"]:,} gradients, '
        f'{row["processor_seconds"]:.0f} CPU s; ' + ' '.join(row['warnings']),
        flush=True,
      )
      for method, function in peers.items():
        peer_rows.append(
          {
            'num_particles': num_particles,
            **posterior_peers.measure(
              method, function, known, row['num_evaluations'], seed
            ),
          }
        )
        print(
          f'  {method}: error {_describe(peer_rows[-1]["error"])}, '
          f'{peer_rows[-1]["num_evaluations"]:,} evaluations, '
          f'{peer_rows[-1]["processor_seconds"]:.0f} CPU s',
          flush=True,
        )
  if not rows:
    return
  print(summarize(rows))
  if _LEARNED.value:
    print(summarize_learned(rows))
  if peer_rows:
    print(compare(rows, peer_rows))
  if _OUTPUT_DIR.value is not None:
    os.makedirs(_OUTPUT_DIR.value, exist_ok=True)
    reporting.save(
      os.path.join(_OUTPUT_DIR.value, 'posteriors'),
      {
        'machine': reporting.machine(),
        'versions': reporting.versions(_PACKAGES),
        'skipped': skipped,
        'rows': rows,
        'peers': peer_rows,
      },
      _picture(rows, peer_rows),
    )


if __name__ == '__main__':
  app.run(main)

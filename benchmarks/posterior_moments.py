# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Posterior moments by `fit_posterior`, beside the reference values.

```shell
python -m benchmarks.posterior_moments --output_dir=results/benchmarks
```

Fits targets of inference_gym, which has to be installed, with all defaults and
prints a table: how far posterior means are from the reference means, in
posterior deviations (the root of the mean square over all values of all
parameters, and the largest), by how much deviations differ, the spread of log Z
over seeds, evaluations of the target's gradient, and seconds of the processor.
With `--nuts`, the No-U-Turn sampler of blackjax has as many evaluations, where
that is installed. Writes JSON. The target `plasma` is left out unless asked
for: it takes 100 minutes of a processor.
"""

import os
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import reporting
from tfp_nvi.internal import randomness
from tfp_nvi.posterior import fit_posterior
from tfp_nvi.posterior import space as space_lib

__all__ = [
  'compare_moments',
  'main',
  'summarize',
]

_PACKAGES = ('tensorflow', 'tensorflow-probability', 'inference-gym', 'numpy')
# Classes of inference_gym's targets.
TARGETS = {
  'eight_schools': 'EightSchools',
  'brownian': 'BrownianMotionMissingMiddleObservations',
  'brownian_unknown_scales': (
    'BrownianMotionUnknownScalesMissingMiddleObservations'
  ),
  'stochastic_volatility': 'StochasticVolatilitySP500Small',
  'item_response': 'SyntheticItemResponseTheory',
  'lorenz': 'ConvectionLorenzBridge',
  'lorenz_unknown_scales': 'ConvectionLorenzBridgeUnknownScales',
  'cox_process_10x10': 'SyntheticLogGaussianCoxProcess',
  'plasma': 'SyntheticPlasmaSpectroscopy',
}


def _make(name):
  from inference_gym import using_tensorflow

  return getattr(using_tensorflow.targets, TARGETS[name])()


# Errors of means and deviations in a row.
_ERRORS = (
  'mean_error',
  'largest_mean_error',
  'deviation_error',
  'smallest_deviation',
  'largest_deviation',
)


def compare_moments(transformations, mean_fn):
  """How far means and deviations are from the reference values.

  Args:
    transformations: Python `dict` of inference_gym's sample transformations.
    mean_fn: Python callable from a function of states to its expectation.

  Returns:
    row: Python `dict`, of which all errors are in posterior deviations; `None`
      where there are no reference values.
  """
  errors, ratios = [], []
  for transformation in transformations.values():
    if transformation.ground_truth_mean is None:
      continue
    mean = mean_fn(transformation.fn)
    square = mean_fn(
      lambda x, fn=transformation.fn: tf.nest.map_structure(tf.square, fn(x))
    )
    locations, deviations = map(
      tf.nest.flatten,
      (
        transformation.ground_truth_mean,
        transformation.ground_truth_standard_deviation,
      ),
    )
    for first, second, location, deviation in zip(
      _arrays(mean, len(locations)),
      _arrays(square, len(locations)),
      locations,
      deviations,
      strict=True,
    ):
      errors.append(np.ravel((first - location) / deviation))
      found = np.sqrt(np.maximum(second - first**2, 0.0))
      ratios.append(np.ravel(found / deviation))
  if not errors:
    return {'num_moments': 0, **dict.fromkeys(_ERRORS)}
  errors, ratios = np.concatenate(errors), np.concatenate(ratios)
  return {
    'num_moments': len(errors),
    'mean_error': float(np.sqrt(np.mean(errors**2))),
    'largest_mean_error': float(np.max(np.abs(errors))),
    'deviation_error': float(np.sqrt(np.mean((ratios - 1.0) ** 2))),
    'smallest_deviation': float(np.min(ratios)),
    'largest_deviation': float(np.max(ratios)),
  }


def _arrays(structure, count):
  """Leaves as arrays; as one, where the reference values of all steps are."""
  leaves = [np.asarray(x, float) for x in tf.nest.flatten(structure)]
  return [np.stack(leaves)] if count == 1 < len(leaves) else leaves


def _measure(name, seed):
  """Fits one posterior."""
  model = _make(name)
  start = time.process_time()
  posterior = fit_posterior(
    model.unnormalized_log_prob,
    model.prior_distribution(),
    model.default_event_space_bijector,
    seed=seed,
    progress=False,
  )
  return {
    'target': name,
    'seed': seed,
    'num_values': sum(
      int(np.prod(shape)) for shape in tf.nest.flatten(model.event_shape)
    ),
    'log_evidence': posterior.log_evidence,
    'standard_error': posterior.log_evidence_error,
    'num_evaluations': posterior.num_target_evaluations,
    'processor_seconds': time.process_time() - start,
    'start': posterior.start,
    'warnings': posterior.warnings,
    **compare_moments(model.sample_transformations, posterior.expectation),
  }


def _measure_nuts(row):
  """Draws by the No-U-Turn sampler, with as many evaluations as a row has."""
  from benchmarks import posterior_blackjax

  model = _make(row['target'])
  start = time.process_time()
  space = space_lib.VectorSpace(
    model.unnormalized_log_prob,
    model.prior_distribution(),
    model.default_event_space_bijector,
    randomness.as_seed(row['seed']),
  )
  y, count = posterior_blackjax.sample_nuts(
    space, row['num_evaluations'], row['seed']
  )
  value = space.to_user(tf.constant(y))
  return {
    'target': f'{row["target"]}, NUTS',
    'seed': row['seed'],
    'num_values': row['num_values'],
    'log_evidence': None,
    'num_evaluations': count,
    'processor_seconds': time.process_time() - start,
    **compare_moments(
      model.sample_transformations,
      lambda fn: tf.nest.map_structure(
        lambda x: tf.reduce_mean(x, axis=0), fn(value)
      ),
    ),
  }


def summarize(rows):
  """A table, one line a target and method.

  Args:
    rows: List of rows.

  Returns:
    text: Python `str`.
  """
  lines = [
    '| target | d | means: RMS error | largest | deviations: RMS error '
    '| range | log Z | spread over seeds | gradients | CPU s |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]
  for name in dict.fromkeys(row['target'] for row in rows):
    own = [row for row in rows if row['target'] == name]

    def root_mean_square(key, own=own):
      return np.sqrt(np.mean([row[key] ** 2 for row in own]))

    evidences = [row['log_evidence'] for row in own]
    has_evidence = None not in evidences
    mean = f'{np.mean(evidences):.2f}' if has_evidence else '-'
    has_spread = has_evidence and len(own) > 1
    spread = f'{np.std(evidences, ddof=1):.3f}' if has_spread else '-'
    moments = '- | - | - | -'
    if own[0]['num_moments']:
      moments = (
        f'{root_mean_square("mean_error"):.3f} '
        f'| {max(row["largest_mean_error"] for row in own):.2f} '
        f'| {root_mean_square("deviation_error"):.3f} '
        f'| {min(row["smallest_deviation"] for row in own):.2f} to '
        f'{max(row["largest_deviation"] for row in own):.2f}'
      )
    lines.append(
      f'| {name} | {own[0]["num_values"]} | {moments} '
      f'| {mean} | {spread} '
      f'| {statistics.median(row["num_evaluations"] for row in own):.2g} '
      f'| {statistics.median(row["processor_seconds"] for row in own):.0f} |'
    )
  return '\n'.join(lines)


def main(argv):
  """Measures and reports."""
  reporting.check_arguments(argv)
  unknown = set(flags.FLAGS.targets) - set(TARGETS)
  if unknown:
    raise app.UsageError(
      f'--targets must be of {", ".join(TARGETS)}; got {", ".join(unknown)}.'
    )
  seeds = reporting.integers('seeds', 0)
  rows = []
  for name in flags.FLAGS.targets:
    for seed in seeds:
      row = _measure(name, seed)
      rows.append(row)
      means = (
        f'means within {row["mean_error"]:.3f} deviations'
        if row['num_moments']
        else 'no reference values'
      )
      print(
        f'{name}, seed {seed}: {means}, log Z {row["log_evidence"]:.3f} +- '
        f'{row["standard_error"]:.3f}, {row["num_evaluations"]:,} gradients, '
        f'{row["processor_seconds"]:.0f} CPU s; ' + ' '.join(row['warnings']),
        flush=True,
      )
      if flags.FLAGS.nuts:
        rows.append(_measure_nuts(row))
  print(summarize(rows))
  if flags.FLAGS.output_dir is not None:
    os.makedirs(flags.FLAGS.output_dir, exist_ok=True)
    reporting.save(
      os.path.join(flags.FLAGS.output_dir, 'posterior_moments'),
      {
        'machine': reporting.machine(),
        'versions': reporting.versions(_PACKAGES),
        'rows': rows,
      },
    )


if __name__ == '__main__':
  flags.DEFINE_list(
    'targets', [name for name in TARGETS if name != 'plasma'], 'Which targets.'
  )
  flags.DEFINE_list('seeds', ['0'], 'Seeds.')
  flags.DEFINE_bool(
    'nuts', False, 'Whether to run the No-U-Turn sampler of blackjax too.'
  )
  flags.DEFINE_string(
    'output_dir', None, 'Where to write posterior_moments.json.'
  )
  app.run(main)

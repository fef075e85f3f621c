# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""A trained sampler, beside sequential Monte Carlo and importance sampling.

```shell
python -m benchmarks.sampling --output_dir=results/benchmarks
```

All of them start at N(0, 5^2 I) and estimate the normalizer, log Z = log 8, and
the mean, zero, of eight Gaussians on a circle:

```none
nvi       NVIR* of the annealing experiment, trained first
smc_hmc   tfp.experimental.mcmc.sample_sequential_monte_carlo, whose schedule
          and step sizes are adaptive, with ten leapfrog steps
smc_rwmh  the same with its default kernel, random walk Metropolis
is        importance sampling from the initial density
```

Over seeds, for each number of particles:

```none
RMSE         of log Z-hat
ESS          the variance of the target divided by the mean squared error of the
             estimated mean: the number of exact draws with that error. Weights
             alone cannot tell it for SMC, whose weights end equal.
evaluations  of the target, with or without its gradient, each particle counted
             where it is executed: leapfrog steps, repeated evaluations, and all
seconds      median duration of a compiled call
```

SMC's log Z-hat is put together here, from the temperatures and likelihoods that
it passes through: `log_marginal_likelihood` of TensorFlow Probability 0.25
raises the likelihood of the last stage to a power that was not yet clipped to
one. Its error is printed too.

Training is not part of these figures. Its cost is printed beside them, with the
number of effective samples from which on it pays off.
"""

import collections
import functools
import os
import time

import matplotlib.figure
import matplotlib.ticker
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting
from tfp_nvi.experiments import annealing

tfd = tfp.distributions

__all__ = [
  'CountedTarget',
  'format_table',
  'importance_fn',
  'main',
  'measure',
  'nested_fn',
  'plot',
  'sequential_fn',
]

METHODS = {
  'nvi': 'NVIR*, trained',
  'smc_hmc': 'SMC, HMC',
  'smc_rwmh': 'SMC, random walk',
  'is': 'importance sampling',
}
_STYLES = {
  'nvi': {'color': '#d55e00', 'marker': 'o'},
  'smc_hmc': {'color': '#0072b2', 'marker': 's'},
  'smc_rwmh': {'color': '#56b4e9', 'marker': 'D'},
  'is': {'color': '#999999', 'marker': '^'},
}
_PACKAGES = ('tensorflow', 'tensorflow-probability', 'tf-keras', 'numpy')
# The acceptance rate to tune HMC to; the default is for random walks.
_HMC_ACCEPTANCE = 0.651


class Estimate(
  collections.namedtuple(
    'Estimate', ['log_normalizer', 'mean', 'log_normalizer_as_returned']
  )
):
  """Estimates of a method, as `Tensor`s.

  Fields:
    log_normalizer: Scalar.
    mean: Shape `[2]`.
    log_normalizer_as_returned: Scalar; that of SMC may differ.
  """

  __slots__ = ()


class CountedTarget:
  """A target that counts the points it is evaluated at, in compiled code too.

  Args:
    target: `tfp_nvi.targets.MultimodalTarget`.
  """

  def __init__(self, target):
    self.dtype = target.dtype
    self._target = target
    self._count = tf.Variable(0, dtype=tf.int64, trainable=False)

  def unnormalized_log_prob(self, x):
    """Log of the unnormalized density.

    Args:
      x: float `Tensor` of shape `[..., 2]`.

    Returns:
      log_prob: float `Tensor` of shape `[...]`.
    """
    self._count.assign_add(x.shape[:-1].num_elements())
    return self._target.unnormalized_log_prob(x)

  def take_count(self):
    """The count since it was last taken."""
    count = int(self._count)
    self._count.assign(0)
    return count


def nested_fn(sampler, num_particles):
  """Samples by a trained sampler.

  Args:
    sampler: `NestedSampler` of batch shape `[1]`.
    num_particles: Python `int`.

  Returns:
    fn: Callable from a seed to an `Estimate`.
  """

  def fn(seed):
    particles = sampler.sample(num_particles, seed)
    log_normalizer = particles.log_normalizer[0]
    return Estimate(log_normalizer, particles.expectation()[0], log_normalizer)

  return fn


def importance_fn(initial, target, num_particles):
  """Samples the initial density, and weights.

  Args:
    initial: `tfd.Distribution`.
    target: `CountedTarget`.
    num_particles: Python `int`.

  Returns:
    fn: Callable from a seed to an `Estimate`.
  """

  def fn(seed):
    x = initial.sample(num_particles, seed=seed)
    particles = nvi.WeightedParticles(
      x, target.unnormalized_log_prob(x) - initial.log_prob(x)
    )
    log_normalizer = particles.log_normalizer
    return Estimate(log_normalizer, particles.expectation(), log_normalizer)

  return fn


def sequential_fn(initial, target, num_particles, make_kernel_fn, tuning_fn):
  """Samples by sequential Monte Carlo of TensorFlow Probability.

  Args:
    initial: `tfd.Distribution`.
    target: `CountedTarget`.
    num_particles: Python `int`.
    make_kernel_fn: As in `sample_sequential_monte_carlo`.
    tuning_fn: As in `sample_sequential_monte_carlo`.

  Returns:
    fn: Callable from a seed to an `Estimate`.
  """
  # The likelihoods and temperature of the stage before, and log Z-hat so far.
  kept = tf.Variable(tf.zeros([num_particles]), trainable=False)
  temperature = tf.Variable(0.0, trainable=False)
  log_normalizer = tf.Variable(0.0, trainable=False)

  def log_likelihood_fn(x):
    return target.unnormalized_log_prob(x) - initial.log_prob(x)

  # Called at the start, and at the end of each stage.
  def keep_log_likelihood_fn(x):
    return kept.assign(log_likelihood_fn(x))

  # Called at the start, and in each stage with its new temperature.
  def make_tempered_fn(prior_fn, likelihood_fn, new_temperature):
    del likelihood_fn
    log_normalizer.assign_add(
      tfp.math.reduce_logmeanexp((new_temperature - temperature) * kept)
    )
    temperature.assign(new_temperature)
    return lambda x: prior_fn(x) + new_temperature * log_likelihood_fn(x)

  def fn(seed):
    temperature.assign(0.0)
    log_normalizer.assign(0.0)
    initial_seed, run_seed = tf.unstack(tfp.random.split_seed(seed, 2))
    _, x, results = tfp.experimental.mcmc.sample_sequential_monte_carlo(
      initial.log_prob,
      keep_log_likelihood_fn,
      initial.sample(num_particles, seed=initial_seed),
      make_kernel_fn=make_kernel_fn,
      tuning_fn=tuning_fn,
      make_tempered_target_log_prob_fn=make_tempered_fn,
      seed=run_seed,
    )
    return Estimate(
      log_normalizer.read_value(),
      tf.reduce_mean(x, axis=0),
      results.log_marginal_likelihood,
    )

  return fn


def measure(fns, target, num_seeds, true_log_normalizer, variance):
  """Runs methods, which take turns.

  Args:
    fns: Python `dict` of callables from seeds to `Estimate`s.
    target: `CountedTarget` that they evaluate.
    num_seeds: Python `int`.
    true_log_normalizer: Python `float`.
    variance: Python `float`: the trace of the target's covariance; its mean is
      zero.

  Returns:
    rows: List of Python `dict`s, one for each method.
  """
  compiled, compile_seconds = {}, {}
  for name, fn in fns.items():
    start = time.perf_counter()
    compiled[name] = tf.function(
      fn,
      jit_compile=True,
      autograph=False,
      input_signature=[tf.TensorSpec([2], tf.int32)],
    )
    # XLA compiles with the first call; the second one warms up.
    compiled[name](tf.constant([0, 0]))
    middle = time.perf_counter()
    compiled[name](tf.constant([0, 1]))
    compile_seconds[name] = 2.0 * middle - start - time.perf_counter()

  estimates = {name: [] for name in fns}
  seconds = {name: [] for name in fns}
  counts = {name: [] for name in fns}
  target.take_count()
  for seed in range(num_seeds):
    for name, fn in compiled.items():
      seed_of_call = tf.constant([1, seed])
      start = time.perf_counter()
      estimate = [x.numpy() for x in fn(seed_of_call)]
      seconds[name].append(time.perf_counter() - start)
      estimates[name].append(Estimate(*estimate))
      counts[name].append(target.take_count())

  rows = []
  for name in fns:
    log_normalizers, means, as_returned = map(
      np.array, zip(*estimates[name], strict=True)
    )
    size = variance / np.mean(np.sum(means**2, axis=-1))
    evaluations = np.mean(counts[name])
    duration = np.median(seconds[name])
    rows.append(
      {
        'method': name,
        'rmse': _rmse(log_normalizers, true_log_normalizer),
        'bias': float(np.mean(log_normalizers) - true_log_normalizer),
        'rmse_as_returned': _rmse(as_returned, true_log_normalizer),
        'ess': float(size),
        'evaluations': float(evaluations),
        'seconds': float(duration),
        'ess_per_evaluation': float(size / evaluations),
        'ess_per_second': float(size / duration),
        'compile_seconds': compile_seconds[name],
      }
    )
  return rows


def _rmse(values, true):
  return float(np.sqrt(np.mean((values - true) ** 2)))


def format_table(rows):
  """The table of rows, in Markdown.

  Args:
    rows: List of rows.

  Returns:
    text: Python `str`.
  """
  lines = [
    '| method | particles | RMSE of log Z-hat | bias | ESS | evaluations | '
    'ESS / 1,000 evaluations | ms | ESS / s | compile, s |',
    '| --- |' + ' ---: |' * 9,
  ]
  for row in rows:
    lines.append(
      f'| {METHODS[row["method"]]} | {row["num_particles"]:,} | '
      f'{row["rmse"]:.4f} | {row["bias"]:+.4f} | {row["ess"]:,.0f} | '
      f'{row["evaluations"]:,.0f} | {1e3 * row["ess_per_evaluation"]:.1f} | '
      f'{1e3 * row["seconds"]:.2f} | {row["ess_per_second"]:,.0f} | '
      f'{row["compile_seconds"]:.1f} |'
    )
  return '\n'.join(lines)


def _describe_payoff(rows, training):
  """Describes from where on training pays off, against each other method."""
  lines = []
  largest = max(row['num_particles'] for row in rows)
  at_largest = {
    row['method']: row for row in rows if row['num_particles'] == largest
  }
  ours = at_largest.pop('nvi')
  for name, row in at_largest.items():
    parts = []
    for cost, per, unit in (
      ('evaluations', 'ess_per_evaluation', 'evaluations'),
      ('seconds', 'ess_per_second', 'time'),
    ):
      saved = 1.0 / row[per] - 1.0 / ours[per]
      parts.append(
        f'never in {unit}'
        if saved <= 0.0
        else f'in {unit} from {training[cost] / saved:,.0f} effective samples'
      )
    lines.append(
      f'Training is paid for against {METHODS[name]}, {largest:,} particles: '
      + ', '.join(parts)
    )
  return '\n'.join(lines)


def plot(rows, title=''):
  """Draws errors and effective sample sizes over their cost.

  Args:
    rows: List of rows.
    title: Python `str`.

  Returns:
    figure: Matplotlib figure.
  """
  with reporting.style():
    figure = matplotlib.figure.Figure(
      figsize=(9.0, 6.5), dpi=150, layout='constrained'
    )
    axes = figure.subplots(2, 2, sharex='col', sharey='row')
    for i, (field, ylabel) in enumerate(
      (('rmse', 'RMSE of log Z-hat'), ('ess', 'effective sample size'))
    ):
      for j, (cost, xlabel) in enumerate(
        (('evaluations', 'target evaluations'), ('seconds', 'seconds'))
      ):
        ax = axes[i, j]
        for name, label in METHODS.items():
          points = [row for row in rows if row['method'] == name]
          ax.plot(
            [row[cost] for row in points],
            [row[field] for row in points],
            label=label,
            **_STYLES[name],
          )
        ax.set_xscale('log')
        ax.set_yscale('log')
        ax.yaxis.set_major_locator(
          matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0))
        )
        ax.yaxis.set_major_formatter('{x:,g}')
        ax.yaxis.set_minor_formatter('')
        ax.grid(color='0.92')
        if i == 1:
          ax.set_xlabel(xlabel + ' of a run, training not included')
        if j == 0:
          ax.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=11)
    figure.legend(
      *axes[0, 0].get_legend_handles_labels(),
      loc='outside lower center',
      ncols=len(METHODS),
      frameon=False,
      fontsize=9,
    )
  return figure


def _define_flags():
  flags.DEFINE_string(
    'output_dir',
    'results/benchmarks',
    'Folder for sampling.json and the picture.',
  )
  flags.DEFINE_integer(
    'num_densities', 8, 'Densities of the sampler.', lower_bound=2
  )
  flags.DEFINE_list(
    'num_particles', ['100', '1000', '10000'], 'Numbers of particles.'
  )
  flags.DEFINE_integer('num_seeds', 50, 'Seeds.', lower_bound=2)
  flags.DEFINE_integer(
    'num_steps', 20_000, 'Training steps, of 36 particles.', lower_bound=1
  )


def main(argv):
  """Trains, measures, prints and draws.

  Args:
    argv: List of Python `str`s: the program, and nothing else.
  """
  reporting.check_arguments(argv)
  counts = reporting.integers('num_particles', 1)
  os.makedirs(flags.FLAGS.output_dir, exist_ok=True)
  target = nvi.targets.ring_of_gaussians()
  counted = CountedTarget(target)
  sampler, objective = annealing.make_sampler(
    'nvir_star', counted, flags.FLAGS.num_densities, seed=1
  )
  initial = sampler.densities.initial
  # Every mode has a variance of 0.5 on both axes.
  variance = float(np.mean(np.sum(target.mode_locations**2, axis=-1)) + 1.0)

  counted.take_count()
  history = nvi.fit(
    sampler,
    objective,
    num_particles=36,
    num_steps=flags.FLAGS.num_steps,
    seed=2,
  )
  training = {
    'num_steps': flags.FLAGS.num_steps,
    'evaluations': counted.take_count(),
    'seconds': history.seconds + history.compile_seconds,
    'compile_seconds': history.compile_seconds,
  }
  print(
    f'Trained {flags.FLAGS.num_densities} densities in '
    f'{training["seconds"]:.1f} s, of which {training["compile_seconds"]:.1f} '
    f's compiling, by {training["evaluations"]:,} evaluations',
    flush=True,
  )

  mcmc = tfp.experimental.mcmc
  rows = []
  for num_particles in counts:
    fns = {
      'nvi': nested_fn(sampler, num_particles),
      'smc_hmc': sequential_fn(
        initial,
        counted,
        num_particles,
        mcmc.gen_make_hmc_kernel_fn(num_leapfrog_steps=10),
        functools.partial(
          mcmc.simple_heuristic_tuning, optimal_accept=_HMC_ACCEPTANCE
        ),
      ),
      'smc_rwmh': sequential_fn(
        initial,
        counted,
        num_particles,
        mcmc.make_rwmh_kernel_fn,
        mcmc.simple_heuristic_tuning,
      ),
      'is': importance_fn(initial, counted, num_particles),
    }
    found = measure(
      fns, counted, flags.FLAGS.num_seeds, target.log_normalizer, variance
    )
    rows += [{**row, 'num_particles': num_particles} for row in found]
    print(f'{num_particles:,} particles: done', flush=True)

  rows.sort(key=lambda row: list(METHODS).index(row['method']))
  machine = reporting.machine()
  content = {
    'machine': machine,
    'versions': reporting.versions(_PACKAGES),
    'num_seeds': flags.FLAGS.num_seeds,
    'num_densities': flags.FLAGS.num_densities,
    'true_log_normalizer': target.log_normalizer,
    'training': training,
    'rows': rows,
  }
  figure = plot(
    rows,
    f'Eight Gaussians on a circle: {flags.FLAGS.num_seeds} seeds, '
    f'{machine["cores"]} cores',
  )
  path = os.path.join(flags.FLAGS.output_dir, 'sampling')
  reporting.save(path, content, figure)
  print(
    f'\n{machine["processor"]}, {machine["cores"]} cores, '
    f'{flags.FLAGS.num_seeds} seeds\n\n{format_table(rows)}\n'
  )
  print(_describe_payoff(rows, training))
  worst = max(
    row['rmse_as_returned'] for row in rows if row['method'].startswith('smc')
  )
  print(
    'RMSE of log Z-hat as sample_sequential_monte_carlo returns it: up to '
    f'{worst:.2f}'
  )
  print(f'\nSee {path}.json and {path}.png')


if __name__ == '__main__':
  _define_flags()
  app.run(main)

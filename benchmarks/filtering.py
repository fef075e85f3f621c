# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Particle filters: seconds and errors, beside those of other libraries.

```shell
python -m benchmarks.filtering --output_dir=results/benchmarks
```

Filters a sequence of a linear-Gaussian model, whose likelihood a Kalman filter
knows, and one of a stochastic volatility model, for which the reference is the
mean of runs with ten times the particles. With `--filter_sizes`, states and
observations are vectors of so many independent coordinates. Each filter runs
`--repetitions` times with the same number of particles, by turns, so that
ratios of seconds hold on a machine that is busy with other things. The table
has the median of the seconds of a run after the first, and the root mean square
error of the log likelihood; and the seconds that a run with an error of 0.1
would take, if the squared error and the inverse of the time are inversely
proportional to the number of particles. Libraries that are not installed are
left out, and said so.

The rows: `prior` and `guided` are proposals of `tfp_nvi`, `look ahead` is its
`GaussianHeuristic`; `tfp` is `tfp.experimental.mcmc.particle_filter` with the
prior, compiled by `tf.function`; `particles` and `cuthbert` are the bootstrap
filters of these libraries, the latter compiled by JAX.
"""

import importlib
import importlib.util
import itertools
import os
import statistics
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import app, flags

import tfp_nvi as nvi
from benchmarks import reporting

tfd = tfp.distributions

__all__ = [
  'main',
  'measure',
]

_PACKAGES = (
  'tensorflow',
  'tensorflow-probability',
  'numpy',
  'particles',
  'cuthbert',
  'jax',
)
SLOPE, STEP, NOISE, MEAN = 0.95, 0.3, 1.0, -0.5
FIRST = STEP / np.sqrt(1.0 - SLOPE**2)


def functions(kind, size):
  """The initial, transition and observation distributions of a model."""

  def event(distribution):
    return distribution if size == 1 else tfd.Independent(distribution, 1)

  # A model's functions are called with tensors, and once with a number.
  observe = {
    'linear': lambda z: tfd.Normal(z, NOISE),
    'volatility': lambda z: tfd.Normal(tf.zeros_like(z), tf.exp(0.5 * z)),
  }[kind]
  mean = MEAN if size == 1 else tf.fill([size], MEAN)
  return (
    event(tfd.Normal(mean, np.float32(FIRST))),
    lambda z: event(tfd.Normal(MEAN + SLOPE * (z - MEAN), STEP)),
    lambda z: event(observe(z)),
  )


def simulate(kind, num_steps, seed, size=1):
  """A sequence, drawn by NumPy."""
  random = np.random.default_rng(seed)
  shape = [] if size == 1 else [size]
  z, x = MEAN + FIRST * random.normal(size=shape), []
  for t in range(num_steps):
    if t:
      z = MEAN + SLOPE * (z - MEAN) + STEP * random.normal(size=shape)
    noise = random.normal(size=shape)
    x.append(z + NOISE * noise if kind == 'linear' else np.exp(z / 2) * noise)
  return np.array(x, np.float32)


def kalman(x):
  """The exact log likelihood of the linear model."""
  if x.ndim == 2:
    return sum(map(kalman, x.T))
  mean, variance, total = MEAN, FIRST**2, 0.0
  for t, value in enumerate(x.astype(np.float64)):
    if t:
      mean = MEAN + SLOPE * (mean - MEAN)
      variance = SLOPE**2 * variance + STEP**2
    spread = variance + NOISE**2
    total -= 0.5 * ((value - mean) ** 2 / spread + np.log(2 * np.pi * spread))
    gain = variance / spread
    mean, variance = mean + gain * (value - mean), variance * (1.0 - gain)
  return total


def our_filter(kind, x, num_particles, method):
  """A run of a filter of this library, as a function of a seed."""
  initial, transition_fn, observation_fn = functions(kind, x[0].size)
  model = nvi.StateSpaceModel(
    None, lambda: initial, transition_fn, observation_fn
  )
  arguments = {'proposal_fn': method}
  if method == 'look ahead':
    arguments = {
      'proposal_fn': 'heuristic',
      'heuristic': nvi.GaussianHeuristic(model),
      'resample_criterion_fn': nvi.ess_below(0.5),
    }
  sampler = nvi.StateSpaceSampler(model, **arguments)

  def run(seed):
    return float(
      sampler.sample(
        x, num_particles, seed=seed, trajectories=False
      ).log_normalizer
    )

  return run


def tfp_filter(kind, x, num_particles):
  """That of TensorFlow Probability."""
  initial, transition_fn, observation_fn = functions(kind, x[0].size)

  @tf.function
  def filtered(seed):
    return tfp.experimental.mcmc.particle_filter(
      observations=x,
      initial_state_prior=initial,
      transition_fn=lambda _, z: transition_fn(z),
      observation_fn=lambda _, z: observation_fn(z),
      num_particles=num_particles,
      seed=seed,
    )[-1]

  return lambda seed: float(tf.reduce_sum(filtered(tf.constant([0, seed]))))


def particles_filter(kind, x, num_particles):
  """That of the library `particles`; `None` if it is not installed."""
  if importlib.util.find_spec('particles') is None:
    return None
  particles, dists, ssm = map(
    importlib.import_module,
    ('particles', 'particles.distributions', 'particles.state_space_models'),
  )

  def normal(loc, scale):
    if x.ndim == 1:
      return dists.Normal(loc, scale)
    loc = np.broadcast_to(loc, np.broadcast_shapes(np.shape(loc), [x.shape[1]]))
    return dists.IndepProd(
      *[
        dists.Normal(
          loc[..., i], scale if np.ndim(scale) == 0 else scale[..., i]
        )
        for i in range(x.shape[1])
      ]
    )

  class Model(ssm.StateSpaceModel):
    """The same model."""

    def PX0(self):  # noqa: N802
      return normal(MEAN, FIRST)

    def PX(self, t, xp):  # noqa: N802
      return normal(MEAN + SLOPE * (xp - MEAN), STEP)

    def PY(self, t, xp, x):  # noqa: N802
      if kind == 'linear':
        return normal(x, NOISE)
      return normal(np.zeros_like(x), np.exp(0.5 * x))

  def run(seed):
    np.random.seed(seed)
    smc = particles.SMC(
      fk=ssm.Bootstrap(ssm=Model(), data=x.astype(np.float64)),
      N=num_particles,
      resampling='systematic',
      ESSrmin=1.0,
    )
    smc.run()
    return float(smc.logLt)

  return run


def cuthbert_filter(kind, x, num_particles):
  """That of the library cuthbert; `None` if it is not installed."""
  if importlib.util.find_spec('cuthbert') is None:
    return None
  jax, jnp, cuthbert, smc, systematic = map(
    importlib.import_module,
    (
      'jax',
      'jax.numpy',
      'cuthbert',
      'cuthbert.smc.particle_filter',
      'cuthbertlib.resampling.systematic',
    ),
  )
  shape = x.shape[1:]

  def normal_log_prob(value, loc, scale):
    square = ((value - loc) / scale) ** 2
    log_prob = -0.5 * (square + np.log(2.0 * np.pi)) - jnp.log(scale)
    return jnp.sum(log_prob)

  def log_potential(before, z, x_t):
    del before
    if kind == 'linear':
      return normal_log_prob(x_t, z, NOISE)
    return normal_log_prob(x_t, 0.0, jnp.exp(0.5 * z))

  # The first state comes before the first observation there; as the process is
  # stationary the model is the same.
  bootstrap = smc.build_filter(
    lambda key: MEAN + FIRST * jax.random.normal(key, shape),
    lambda key, z, _: (
      MEAN + SLOPE * (z - MEAN) + STEP * jax.random.normal(key, shape)
    ),
    log_potential,
    num_particles,
    systematic.resampling,
  )

  @jax.jit
  def filtered(key):
    first, rest = jax.random.split(key)
    states = cuthbert.filter(
      bootstrap, jnp.asarray(x), bootstrap.init_prepare(key=first), key=rest
    )
    return states.log_normalizing_constant[-1]

  return lambda seed: float(filtered(jax.random.key(seed)))


def measure(kind, num_steps, num_particles, repetitions, seed=1, size=1):
  """Measures all filters on one sequence.

  Args:
    kind: `'linear'` or `'volatility'`.
    num_steps: Python `int`.
    num_particles: Python `int`.
    repetitions: Python `int`.
    seed: Python `int`.
    size: Python `int`: how many coordinates states and observations have.

  Returns:
    rows: List of Python `dict`s, one for each filter.
    skipped: List of names of libraries that are not installed.
  """
  x = simulate(kind, num_steps, seed, size)
  runs = {
    f'tfp_nvi, {method}': our_filter(kind, x, num_particles, method)
    for method in ('prior', 'guided', 'look ahead')
  }
  runs['tfp'] = tfp_filter(kind, x, num_particles)
  runs['particles'] = particles_filter(kind, x, num_particles)
  runs['cuthbert'] = cuthbert_filter(kind, x, num_particles)
  skipped = [name for name, run in runs.items() if run is None]
  runs = {name: run for name, run in runs.items() if run is not None}
  if kind == 'linear':
    reference = kalman(x)
  else:
    # Errors are those of the other filters as long as this one's are smaller.
    many = our_filter(kind, x, 10 * num_particles, 'look ahead')
    reference = float(np.mean([many(1_000 + i) for i in range(5)]))
  seconds = {name: [] for name in runs}
  values = {name: [] for name in runs}
  for i in range(repetitions + 1):
    for name, run in runs.items():
      start = time.perf_counter()
      value = run(i)
      # The first run compiles.
      if i:
        seconds[name].append(time.perf_counter() - start)
        values[name].append(value)
  rows = []
  for name in runs:
    error = float(np.sqrt(np.mean((np.array(values[name]) - reference) ** 2)))
    median = statistics.median(seconds[name])
    rows.append(
      {
        'model': kind,
        'steps': num_steps,
        'size': size,
        'particles': num_particles,
        'filter': name,
        'seconds': median,
        'error': error,
        'seconds_for_one_tenth': median * (error / 0.1) ** 2,
      }
    )
  return rows, skipped


def main(argv):
  """Runs the benchmark."""
  reporting.check_arguments(argv)
  values = flags.FLAGS
  rows, skipped = [], []
  cases = itertools.product(
    ('linear', 'volatility'),
    map(int, values.filter_sizes),
    map(int, values.filter_steps),
    map(int, values.filter_particles),
  )
  for kind, size, num_steps, num_particles in cases:
    more, skipped = measure(
      kind, num_steps, num_particles, values.repetitions, size=size
    )
    rows += more
    for row in more:
      print(
        f'{row["model"]:10} d = {row["size"]:2} {row["steps"]:6} steps '
        f'{row["particles"]:8} particles  {row["filter"]:20} '
        f'{row["seconds"]:8.3f} s  error {row["error"]:7.4f}  '
        f'{row["seconds_for_one_tenth"]:9.4f} s for 0.1',
        flush=True,
      )
  for name in skipped:
    print(f'{name}: not installed; left out.')
  if values.output_dir:
    reporting.save(
      os.path.join(values.output_dir, 'filtering'),
      {
        'machine': reporting.machine(),
        'versions': reporting.versions(_PACKAGES),
        'rows': rows,
        'skipped': skipped,
      },
    )


if __name__ == '__main__':
  flags.DEFINE_list('filter_steps', ['500'], 'Steps of a sequence.')
  flags.DEFINE_list('filter_sizes', ['1'], 'Coordinates of states.')
  flags.DEFINE_list('filter_particles', ['1000', '10000'], 'Particles.')
  flags.DEFINE_integer('repetitions', 10, 'Runs of each filter.')
  flags.DEFINE_string('output_dir', None, 'Folder for a JSON file.')
  app.run(main)

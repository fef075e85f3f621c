# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains generators against discriminators, and reports their draws."""

import dataclasses
import os

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from matplotlib import figure as figure_lib

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.experiments.adversarial import banana, digits, generators
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'METHODS',
  'Settings',
  'TARGETS',
  'run',
]

METHODS = (
  'minimax',
  'regularized',
  'reweighted',
  'variational_bayes',
  'nested',
)
# The methods of each target.
TARGETS = {
  'ring': ('minimax', 'regularized', 'reweighted', 'nested'),
  'grid': ('minimax', 'regularized', 'reweighted', 'nested'),
  'unequal_grid': ('regularized', 'nested'),
  'banana': ('variational_bayes', 'nested'),
  'digits': ('minimax', 'regularized'),
}


def _equal_grid():
  """Makes 25 equal Gaussians on a grid, as is usual for generators."""
  axis = np.arange(-8.0, 9.0, 4.0)
  locations = np.stack(np.meshgrid(axis, axis), axis=-1).reshape([-1, 2])
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(logits=tf.zeros(25)),
    tfd.MultivariateNormalDiag(
      tf.constant(locations, tf.float32), tf.fill([25, 2], 0.3)
    ),
  )

  def sample(shape, seed):
    seeds = tf.unstack(randomness.split_seed(seed, 2))
    index = tf.cast(25.0 * randomness.uniform(shape, seeds[0]), tf.int32)
    noise = randomness.normal([*shape, 2], seeds[1])
    return tf.gather(tf.constant(locations, tf.float32), index) + 0.3 * noise

  def mode_index(x):
    cell = tf.clip_by_value(tf.cast(tf.round(x / 4.0), tf.int32) + 2, 0, 4)
    return 5 * cell[..., 1] + cell[..., 0]

  return nvi.targets.MultimodalTarget(
    'equal_grid',
    mixture.log_prob,
    sample,
    mode_index,
    log_normalizer=0.0,
    mode_locations=locations,
    mode_probabilities=np.full(25, 0.04),
    limits=(-11.0, 11.0),
  )


_PLANAR = {
  'ring': nvi.targets.ring_of_gaussians,
  'grid': _equal_grid,
  'unequal_grid': nvi.targets.grid_of_gaussians,
}
_PLANAR_SCALE = 8.0
# The number of components of the noise, for targets whose modes are far apart.
_NUM_CATEGORIES = {'grid': 64}
# Noise that is added to both sides at the start, in units of the scale of the
# data. With separate components less of it is enough to find all modes.
_NOISE_SCALES = {'grid': 0.08}
_DEFAULT_NUM_STEPS = {
  'ring': 10_000,
  'grid': 15_000,
  'unequal_grid': 20_000,
  'banana': 6_000,
  'digits': 10_000,
}
# A nested sampler takes this share of the steps, with as many particles at each
# level.
_SHARE_OF_NESTED = 0.2
_NUM_DENSITIES = 8
_NUM_DRAWS = 10_000
_NUM_SHOWN = 2_000


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment on adversarial training."""

  target: tuple = common.names(TARGETS)
  method: tuple = common.names(METHODS)
  num_steps: int = common.setting(
    0,
    'Training steps; 0 for the default of each target, '
    + ', '.join(f'{v:,} for {k}' for k, v in _DEFAULT_NUM_STEPS.items())
    + '. A nested sampler takes a fifth of them.',
    common.count_or_default,
  )
  num_particles: int = common.setting(128, 'Draws of each side in a step.')
  num_hidden: int = common.setting(
    64, 'Units of a hidden layer of generators and discriminators.'
  )
  seed: int = common.setting(1, 'Random seed.', common.count(0))
  output_dir: str = common.output_dir('results/adversarial')
  overwrite: bool = common.overwrite()


def _distances(target, x):
  """Returns distances from modes, in their standard deviations.

  The covariance of a mode is that of exact draws nearest to it.
  """
  draws = target.sample(200_000, seed=0)
  index = target.mode_index(draws).numpy()
  distances = []
  for m, location in enumerate(target.mode_locations):
    covariance = np.cov(draws.numpy()[index == m].T)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (x - location).T)
    distances.append(np.linalg.norm(white, axis=0))
  return np.stack(distances, axis=-1)


def _count_modes(shares, probabilities):
  """Returns the number of modes with at least a quarter of their share."""
  return int(np.sum(shares >= 0.25 * probabilities))


def _judge_planar(target, x):
  """Fields of a row about draws of a mixture on the plane."""
  distances = _distances(target, x)
  is_near = np.min(distances, axis=1) < 3.0
  probabilities = target.mode_probabilities
  nearest = np.argmin(distances, axis=1)[is_near]
  shares = np.bincount(nearest, minlength=len(probabilities)) / len(x)
  return {
    'num_modes': len(probabilities),
    'num_modes_found': _count_modes(shares, probabilities),
    'share_near_a_mode': float(np.mean(is_near)),
    'total_variation_of_modes': float(
      0.5 * np.sum(np.abs(shares / max(shares.sum(), 1e-9) - probabilities))
    ),
  }


def _fit_nested(log_prob_fn, scale, folder, num_steps, settings):
  """Trains a nested sampler from a Gaussian that is broader than the target."""
  zeros = tf.zeros([2])
  path = nvi.GeometricPath(
    tfd.MultivariateNormalDiag(zeros, zeros + scale),
    log_prob_fn,
    _NUM_DENSITIES,
    learnable=True,
  )
  sampler = nvi.NestedSampler(
    path,
    nvi.GaussianTransitions(path, seed=settings.seed, scale=2.0),
    resample_criterion_fn=nvi.always,
  )
  num_steps = max(1, int(_SHARE_OF_NESTED * num_steps))
  folder.fit(
    'training',
    sampler,
    # The forward divergence covers modes that the reverse one would leave out.
    nvi.forward_kl(),
    settings.num_particles,
    num_steps=num_steps,
    seed=settings.seed,
    optimizer=tf_keras.optimizers.Adam(
      common.decayed_learning_rate(1e-3, num_steps)
    ),
    progress=False,
  )
  return sampler


def _run_planar(name, method, folder, num_steps, settings):
  """Trains on a mixture on the plane; returns a part of the row, and draws."""
  target = _PLANAR[name]()
  seed = randomness.fold_in(randomness.as_seed(settings.seed), 1)
  if method == 'nested':
    sampler = _fit_nested(
      target.unnormalized_log_prob, _PLANAR_SCALE, folder, num_steps, settings
    )
    draws = sampler.sample(_NUM_DRAWS, seed).resample(seed).particles
  else:
    gan = generators.Gan(
      2,
      2,
      settings.num_hidden,
      _PLANAR_SCALE,
      settings.seed,
      num_categories=_NUM_CATEGORIES.get(name, 0),
    )
    generators.fit_gan(
      gan,
      folder,
      method != 'minimax',
      num_steps,
      settings.num_particles,
      settings.seed,
      data_fn=target.sample,
      noise_scale=_NOISE_SCALES.get(name, 0.25),
    )
    if method == 'reweighted':
      generators.fit_ratio(
        gan,
        folder,
        max(1, num_steps // 5),
        4 * settings.num_particles,
        settings.seed,
        target.sample,
      )
      level = gan.level(target.sample, trains=False)
      particles = level.sample(4 * _NUM_DRAWS, seed)
      draws = nvi.resample(
        particles.particles,
        particles.log_weights,
        nvi.resample_systematic,
        randomness.fold_in(seed, 1),
        num_draws=_NUM_DRAWS,
      )[0]
    else:
      draws = gan.generate(_NUM_DRAWS, seed)
  return _judge_planar(target, draws.numpy()), draws.numpy()


def _run_banana(method, folder, num_steps, settings):
  """Learns the posterior of the banana; returns the same as `_run_planar`."""
  seed = randomness.fold_in(randomness.as_seed(settings.seed), 1)
  truth = banana.log_evidence()
  if method == 'nested':
    sampler = _fit_nested(banana.log_joint, 3.0, folder, num_steps, settings)
    particles = sampler.sample(_NUM_DRAWS, seed)
    row = {}
    draws = particles.resample(seed).particles
  else:
    model = banana.ImplicitPosterior(settings.num_hidden, settings.seed)
    model.fit(folder, num_steps, 2 * settings.num_particles, settings.seed)
    particles = model.levels()[0].sample(_NUM_DRAWS, seed)
    row = {
      'elbo': float(particles.mean_log_weight),
      'log_mean_ratio': float(particles.log_mean_ratio),
    }
    draws = particles.particles
  return {
    'num_modes': 1,
    'num_modes_found': 1,
    'share_near_a_mode': None,
    'log_evidence': float(particles.log_normalizer),
    'log_evidence_true': truth,
    'ess': float(particles.effective_sample_size) / _NUM_DRAWS,
    **row,
  }, draws.numpy()


def _run_digits(method, folder, num_steps, settings):
  """Learns to draw digits; returns the same as `_run_planar`."""
  images = digits.training_images()
  gan = generators.Gan(
    images.shape[1],
    32,
    2 * settings.num_hidden,
    1.0,
    settings.seed,
    has_batch_statistics=method == 'regularized',
  )
  generators.fit_gan(
    gan,
    folder,
    method == 'regularized',
    num_steps,
    settings.num_particles // 2,
    settings.seed,
    images=images,
  )
  seed = randomness.fold_in(randomness.as_seed(settings.seed), 1)
  draws = gan.generate(_NUM_DRAWS, seed).numpy()
  row, shares = digits.judge(draws, settings.seed)
  return {
    'num_modes': 10,
    'num_modes_found': _count_modes(shares, np.full(10, 0.1)),
    'share_near_a_mode': float(shares.sum()),
    'smallest_class': float(shares.min()),
    'largest_class': float(shares.max()),
    **row,
  }, draws


def _run_cell(target, method, settings):
  """Trains a cell, or continues its training; returns its row and draws."""
  # The method `reweighted` computes weights for draws of the generator that
  # `regularized` trains.
  trained = 'regularized' if method == 'reweighted' else method
  folder = common.TrainingFolder(
    os.path.join(settings.output_dir, 'checkpoints', f'{target}-{trained}'),
    settings.configuration,
    overwrite=settings.overwrite and trained == method,
  )
  num_steps = settings.num_steps or _DEFAULT_NUM_STEPS[target]
  if target in _PLANAR:
    row, draws = _run_planar(target, method, folder, num_steps, settings)
  elif target == 'banana':
    row, draws = _run_banana(method, folder, num_steps, settings)
  else:
    row, draws = _run_digits(method, folder, num_steps, settings)
  if not np.all(np.isfinite(draws)):
    raise FloatingPointError(f'Draws of {method} for {target} are not finite.')
  row = {'target': target, 'method': method, **row, 'seconds': folder.seconds}
  return row, {'draws': draws[:_NUM_SHOWN].astype(np.float32)}


def _describe(row):
  """Describes a row in a line of text."""
  text = f'{row["target"]}, {row["method"]}: '
  if 'log_evidence' in row:
    error = row['log_evidence'] - row['log_evidence_true']
    text += f'log evidence {row["log_evidence"]:.3f} (error {error:+.3f})'
    if 'elbo' in row:
      text += f', lower bound by the learned ratio {row["elbo"]:.3f}'
  else:
    text += (
      f'{row["num_modes_found"]} of {row["num_modes"]} modes, '
      f'{row["share_near_a_mode"]:.1%} near one'
    )
  return f'{text}; {row["seconds"]:.0f} s'


def _true_draws(target):
  """Returns draws of the target itself, which the first panel shows."""
  if target in _PLANAR:
    return _PLANAR[target]().sample(_NUM_SHOWN, seed=0).numpy()
  if target == 'banana':
    return banana.posterior_draws(_NUM_SHOWN, seed=0)
  return digits.training_images()


def _draw_panel(axes, target, draws, limits):
  """Shows points, or images of 8 by 8 pixels."""
  if target != 'digits':
    axes.scatter(*draws.T, s=1.5, alpha=0.4, linewidths=0.0, color='#0072b2')
    axes.set(xlim=limits[0], ylim=limits[1])
    return
  images = draws[:64].reshape([8, 8, 8, 8]).transpose([0, 2, 1, 3])
  axes.imshow(images.reshape([64, 64]), cmap='gray_r', vmin=-1.0, vmax=1.0)


def _draw(cells, store):
  """Shows a line of panels per target: true draws, and those of methods."""
  targets = list(dict.fromkeys(target for target, _ in cells))
  methods = {t: [m for target, m in cells if target == t] for t in targets}
  columns = 1 + max(map(len, methods.values()))
  figure = figure_lib.Figure(
    figsize=(2.2 * columns, 2.3 * len(targets)), layout='constrained', dpi=90
  )
  panels = figure.subplots(len(targets), columns, squeeze=False)
  for line, target in zip(panels, targets, strict=True):
    true = _true_draws(target)
    margin = 0.15 * np.ptp(true, axis=0)
    limits = np.stack([true.min(0) - margin, true.max(0) + margin], -1)
    draws = {'true': true}
    for method in methods[target]:
      draws[method] = store.arrays(target, method)['draws']
    for axes in line:
      axes.set(xticks=[], yticks=[])
      axes.axis('off')
    for axes, (name, values) in zip(line, draws.items(), strict=False):
      axes.axis('on')
      axes.set_title(f'{target}: {name.replace("_", " ")}', fontsize=8)
      _draw_panel(axes, target, values, limits)
  return figure


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints a line for each target and method.

  Args:
    settings: `Settings`.

  Returns:
    results: `Results`.
  """
  cells = [
    (target, method)
    for target, methods in TARGETS.items()
    for method in methods
    if (settings.target == ('all',) or target in settings.target)
    and (settings.method == ('all',) or method in settings.method)
  ]
  if not cells:
    raise common.SettingError(
      'method',
      'one that a target has, as '
      + '; '.join(f'{k}: {", ".join(v)}' for k, v in TARGETS.items()),
      ', '.join(settings.method),
    )
  order = list(TARGETS)
  store = common.open_output(
    settings,
    ['target', 'method'],
    lambda target, method: (order.index(target), METHODS.index(method)),
  )
  for cell in cells:
    if settings.overwrite or not store.has(*cell):
      store.add(*_run_cell(*cell, settings))
    print(_describe(store.row(*cell)), flush=True)
  rows = [store.row(*cell) for cell in cells]
  return common.finish(store, rows, {'adversarial': _draw(cells, store)})

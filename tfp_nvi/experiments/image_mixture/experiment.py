# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and reports the mixture of images."""

import dataclasses
import importlib
import math
import os
import time

import numpy as np
import tensorflow as tf
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.experiments.image_mixture import (
  deep_mixture,
  evaluation,
  image_data,
  report,
  saved_model,
)
from tfp_nvi.experiments.image_mixture.batches import mini_batches
from tfp_nvi.experiments.image_mixture.report import OBJECTIVES
from tfp_nvi.internal import randomness

__all__ = [
  'ERRORS',
  'OBJECTIVES',
  'Settings',
  'run',
]

# The program shows the message of these errors without a traceback.
ERRORS = (image_data.DataError, ImportError)

_STAGES = ('warm_up', 'assigned', 'training')
_WARM_UP_KL_WEIGHT = 0.1
# Particles of reweighted wake-sleep; nested objectives need one. Its steps take
# longer, so it takes this share of the number of steps.
_NUM_PARTICLES = {'nvi': 1, 'rws': 5}
_STEPS_SHARE = {'nvi': 1.0, 'rws': 0.4}
_STEPS_PER_CALL = 50
# The number of steps, the number of warm-up steps, and the weight of the
# latents' density, which is the larger, the larger the images.
_DEFAULTS = {
  'digits': (1_000, 300, 2.0),
  'mnist': (5_000, 2_500, 10.0),
  'fashion_mnist': (5_000, 2_500, 10.0),
}


def _check_seed(name, value):
  is_integer = isinstance(value, int) and not isinstance(value, bool)
  if not is_integer or not 0 <= value < 2**32:
    raise common.SettingError(
      name, 'a non-negative integer below 2**32', repr(value)
    )
  return value


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment on images."""

  dataset: str = common.setting(
    'digits',
    f'One of {", ".join(image_data.DATASETS)}.',
    common.choice(image_data.DATASETS),
    changes_results=False,
  )
  objective: tuple = common.setting(
    ('nvi', 'rws'),
    f'Comma list of {", ".join(OBJECTIVES)}.',
    common.choices(OBJECTIVES),
    changes_results=False,
  )
  batch_size: int = common.setting(300, 'Images of a mini-batch in training.')
  num_clusters: int = common.setting(10, 'Number of clusters.', common.count(2))
  num_latents: int = common.setting(
    10, 'Size of the latent vector of an image.'
  )
  num_steps: int = common.setting(
    0,
    'Training steps of the nested objective; 0 for 1,000 for digits and 5,000 '
    'for the others. Reweighted wake-sleep, whose steps have 5 particles, '
    'takes 0.4 times as many.',
    common.count_or_default,
  )
  num_warm_up_steps: int = common.setting(
    0,
    'Steps that encoder and decoder take by themselves first, and then all '
    'networks with given clusters, those of neighboring images; the same for '
    'both objectives; 0 for 300 for digits and 2,500 for the others.',
    common.count_or_default,
  )
  learning_rate: float = common.setting(
    1e-3,
    'Learning rate of Adam. It decays to zero over the last quarter of the '
    'steps with given clusters, and of those after them.',
  )
  concentration: float = common.setting(
    1.0,
    'Concentration of the Dirichlet distribution of proportions, of the model '
    'and of mini-batches.',
  )
  kl_weight: float = common.setting(
    0.0,
    'Weight of the density of latents beside that of images, in training by '
    'the nested objective, which has 1 as it is published. With a larger '
    'weight, clusters stay apart. 0 for 2 for digits and 10 for the others.',
    common.number(is_open=False),
  )
  proportions_in_training: bool = common.setting(
    True,
    'Whether mini-batches in training have class proportions of their own; '
    'otherwise, they have images at random.',
  )
  num_test_images: int = common.setting(300, 'Images of a mini-batch at test.')
  seed: int = common.setting(
    1, 'Random seed.', _check_seed, changes_results=False
  )
  data_dir: str = common.setting(
    '',
    'Folder with IDX files; if empty, that of the environment variable '
    f'{image_data.DATA_DIR_VARIABLE}, the cache of Keras, or a download.',
    changes_results=False,
  )
  checkpoint_dir: str = common.setting(
    '',
    'Folder for checkpoints, from which the same command continues; if empty, '
    'a folder in the output folder.',
    changes_results=False,
  )
  output_dir: str = common.output_dir('results/bgmm_vae')
  eval_only: bool = common.setting(
    False,
    'Whether to evaluate the latest checkpoint as it is, without training.',
    changes_results=False,
  )
  overwrite: bool = common.setting(
    False,
    'Whether to evaluate again what the output folder holds, and to discard '
    'results of another configuration; checkpoints are kept.',
    changes_results=False,
  )

  def with_defaults(self):
    """The same settings, with the defaults of the data set for zeros."""
    num_steps, num_warm_up_steps, kl_weight = _DEFAULTS[self.dataset]
    return dataclasses.replace(
      self,
      num_steps=self.num_steps or num_steps,
      num_warm_up_steps=self.num_warm_up_steps or num_warm_up_steps,
      kl_weight=self.kl_weight or kl_weight,
    )


def _encode(mixture, images):
  """Means and variances of `q(z | x)` for all images."""
  parts = []
  for start in range(0, len(images), 1_000):
    encoder = mixture.encode(mixture.intensities(images[start : start + 1_000]))
    parts.append((encoder.mean(), encoder.variance()))
  loc, variance = (np.concatenate(x) for x in zip(*parts, strict=True))
  return loc, variance


def _set_clusters(mixture, loc, variance, clusters):
  """Sets clusters to the means and deviations of their members' codes."""
  members = [clusters == k for k in range(mixture.num_clusters)]
  # A cluster without members is as wide as all codes.
  members = [m if m.any() else np.ones_like(m) for m in members]
  mixture.set_clusters(
    np.stack([loc[m].mean(axis=0) for m in members]),
    np.sqrt(
      np.stack([loc[m].var(axis=0) + variance[m].mean(axis=0) for m in members])
    ),
  )


def _fit(mixture, stage, levels_fn, data, settings, folder, **kwargs):
  """Takes the remaining steps of a stage.

  `levels_fn` maps images and their indices, which are the elements of `data`,
  to levels; `kwargs` are arguments of `tfp_nvi.fit`.
  """
  folder.fit(
    stage,
    lambda batch: nvi.Chain(lambda: levels_fn(*batch)),
    data=data,
    seed=randomness.fold_in(
      randomness.as_seed(settings.seed), _STAGES.index(stage)
    ),
    steps_per_call=_STEPS_PER_CALL,
    # Convolutions on a CPU are faster outside of XLA.
    jit_compile=False,
    **kwargs,
  )


def _start(mixture, data, images, settings, folder):
  """Trains the networks that all objectives start from.

  First encoder and decoder by themselves, then all networks, with the clusters
  that neighboring images make.
  """
  rate = settings.learning_rate
  num_steps = settings.num_warm_up_steps
  arguments = {
    'objective': nvi.reverse_kl(),
    'num_particles': 1,
    'num_steps': num_steps,
  }
  if not folder.has('clusters'):
    # First, because this step raises an error for images that do not suit it.
    from tfp_nvi.experiments.image_mixture import image_clusters

    start = time.perf_counter()
    clusters = image_clusters.find_clusters(
      images, mixture.num_clusters, settings.seed
    )
    seconds = time.perf_counter() - start
    folder.add(
      {'stage': 'clusters', 'seconds': seconds}, {'clusters': clusters}
    )
  clusters = folder.arrays('clusters')['clusters']
  if not folder.latest_step('assigned'):
    _fit(
      mixture,
      'warm_up',
      lambda batch, _: mixture.warm_up_levels(batch, _WARM_UP_KL_WEIGHT),
      data,
      settings,
      folder,
      optimizer=tf_keras.optimizers.legacy.Adam(rate),
      **arguments,
    )
    _set_clusters(mixture, *_encode(mixture, images), clusters)
  clusters = tf.constant(clusters)
  # The rate decays, so that the next stage starts where this one settles.
  rate = common.decayed_learning_rate(rate, num_steps)
  _fit(
    mixture,
    'assigned',
    lambda batch, indices: mixture.assigned_levels(
      batch, tf.gather(clusters, indices), settings.kl_weight
    ),
    data,
    settings,
    folder,
    optimizer=tf_keras.optimizers.legacy.Adam(rate),
    **arguments,
  )


def _train(mixture, data, objective, settings, folder):
  """Trains a mixture by an objective."""

  def levels(batch, indices):
    del indices
    if objective == 'nvi':
      return mixture.levels(batch)
    return mixture.joint_levels(batch)

  num_steps = _num_steps(objective, settings)
  rate = common.decayed_learning_rate(settings.learning_rate, num_steps)
  if settings.eval_only:
    # Restores the latest checkpoint, and takes no step.
    num_steps = folder.latest_step('training')
  _fit(
    mixture,
    'training',
    levels,
    data,
    settings,
    folder,
    objective=nvi.reverse_kl() if objective == 'nvi' else nvi.rws(),
    num_particles=_NUM_PARTICLES[objective],
    num_steps=num_steps,
    optimizer=tf_keras.optimizers.legacy.Adam(rate),
  )


def _num_steps(objective, settings):
  """How many steps an objective takes for `num_steps` of NVI."""
  return max(1, round(_STEPS_SHARE[objective] * settings.num_steps))


def _open_folders(objective, settings):
  """Opens the folders of the common start, and of what an objective adds."""
  dataset, seed = settings.dataset, settings.seed
  directory = settings.checkpoint_dir or os.path.join(
    settings.output_dir, 'checkpoints'
  )
  name = f'{dataset}-{objective}-{seed}'
  configuration = {**settings.configuration, 'dataset': dataset, 'seed': seed}

  def open_folder(name, configuration):
    return common.TrainingFolder(
      os.path.join(directory, name),
      configuration,
      'checkpoint_dir',
      # Never a checkpoint that is to be evaluated, nor in a folder of the
      # user's choice, which may hold other runs.
      overwrite=(
        settings.overwrite
        and not settings.eval_only
        and not settings.checkpoint_dir
      ),
      writes=not settings.eval_only,
    )

  folder = open_folder(name, {**configuration, 'objective': objective})
  if settings.eval_only and not folder.latest_step('training'):
    raise common.SettingError(
      'checkpoint_dir',
      'a folder with a checkpoint, to evaluate that alone',
      f'{directory!r} without any of {name}',
    )
  # The start does not depend on how many steps come after it.
  del configuration['num_steps']
  return open_folder(f'{dataset}-start-{seed}', configuration), folder


def _run_cell(dataset, objective, seed, settings, data, path):
  """Trains, evaluates and saves a mixture; returns its row and arrays."""
  start, folder = _open_folders(objective, settings)
  verb = 'Evaluating' if settings.eval_only else 'Training'
  print(f'{verb} {dataset}-{objective}-{seed}.')
  mixture = deep_mixture.DeepMixture(
    data.train_images.shape[1:],
    settings.num_clusters,
    settings.num_latents,
    num_simulated=settings.num_test_images,
    concentration=settings.concentration,
    kl_weight=settings.kl_weight,
    seed=seed,
  )
  batches, _ = mini_batches(
    data.train_images,
    data.train_labels if settings.proportions_in_training else None,
    len(data.class_names),
    settings.batch_size,
    settings.num_warm_up_steps + settings.num_steps,
    settings.concentration,
    seed,
  )
  if not folder.latest_step('training'):
    _start(mixture, batches, data.train_images, settings, start)
  _train(mixture, batches, objective, settings, folder)
  figures, arrays = evaluation.evaluate(mixture, data, settings)
  if not math.isfinite(figures['bound']):
    raise FloatingPointError(
      f'The bound of {dataset}-{objective}-{seed} is {figures["bound"]} after '
      'training.'
    )
  saved_model.save(mixture, arrays['class_of_cluster'], path)
  row = {
    'dataset': dataset,
    'objective': objective,
    'seed': seed,
    **figures,
    'seconds': start.seconds + folder.seconds,
  }
  return row, arrays


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table."""
  # Needs an extra, which is known at once, but not missed by --help.
  importlib.import_module('tfp_nvi.experiments.image_mixture.image_clusters')
  store = common.open_output(
    settings,
    ['dataset', 'objective', 'seed'],
    lambda *cell: cell,
  )
  settings = settings.with_defaults()
  dataset = settings.dataset
  data = image_data.load(dataset, settings.data_dir)
  print(
    f'{dataset}: {len(data.train_images)} images for training and '
    f'{len(data.test_images)} for tests, from {data.source}.'
  )
  cells = [(dataset, name, settings.seed) for name in settings.objective]
  for cell in cells:
    if not (settings.overwrite or settings.eval_only) and store.has(*cell):
      print(f'Kept: {report.describe(store.row(*cell))}')
      continue
    path = store.path('saved_models', '-'.join(map(str, cell)))
    store.add(*_run_cell(*cell, settings, data, path))
    print(report.describe(store.row(*cell)), flush=True)
  rows = [store.row(*cell) for cell in cells]
  print(report.format_table(rows))
  return common.finish(
    store, rows, report.draw(store, dataset, settings.seed, data.class_names)
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and reports the mixture of images."""

import dataclasses
import math
import os

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

__all__ = [
  'ERRORS',
  'OBJECTIVES',
  'Settings',
  'run',
]

# The program shows the message of these errors without a traceback.
ERRORS = (image_data.DataError, ImportError)

_STAGE = 'training'
# The number of particles of reweighted wake-sleep; nested objectives need one.
# The steps of reweighted wake-sleep take longer, so it has this share of the
# number of steps.
_NUM_PARTICLES = {'nvi': 1, 'rws': 5}
_STEPS_SHARE = {'nvi': 1.0, 'rws': 0.4}
_STEPS_PER_CALL = 50
# The number of steps, and the weight of the latents' density, which is larger
# for larger images.
_DEFAULTS = {
  'digits': (2_500, 2.0),
  'mnist': (6_000, 10.0),
  'fashion_mnist': (6_000, 10.0),
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
    'Training steps of the nested objective; 0 for 2,500 for digits and 6,000 '
    'for the others. Reweighted wake-sleep, whose steps have 5 particles, '
    'takes 0.4 times as many.',
    common.count_or_default,
  )
  learning_rate: float = common.setting(
    3e-3,
    'Learning rate of Adam. It decays to zero over the last quarter of the '
    'steps.',
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
    common.folder,
    changes_results=False,
  )
  checkpoint_dir: str = common.setting(
    '',
    'Folder for checkpoints, from which the same command continues; if empty, '
    'a folder in the output folder.',
    common.folder,
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
    """Returns the settings with defaults of the data set in place of zeros."""
    num_steps, kl_weight = _DEFAULTS[self.dataset]
    return dataclasses.replace(
      self,
      num_steps=self.num_steps or num_steps,
      kl_weight=self.kl_weight or kl_weight,
    )


def _train(mixture, data, objective, settings, folder):
  """Trains a mixture by an objective, from random networks."""
  num_steps = _num_steps(objective, settings)
  # Images inform each other only once clusters have formed.
  first_shared = num_steps // 2

  def levels(step, element):
    images, _ = element
    if objective == 'nvi':
      return mixture.levels(images, shares=step >= first_shared)
    return mixture.joint_levels(images)

  rate = common.decayed_learning_rate(settings.learning_rate, num_steps)
  if settings.eval_only:
    # This number restores the latest checkpoint, and takes no step.
    num_steps = folder.latest_step(_STAGE)
  folder.fit(
    _STAGE,
    lambda element: nvi.Chain(lambda: levels(*element)),
    objective=nvi.reverse_kl() if objective == 'nvi' else nvi.rws(),
    num_particles=_NUM_PARTICLES[objective],
    num_steps=num_steps,
    data=data.enumerate(),
    optimizer=tf_keras.optimizers.legacy.Adam(rate),
    seed=settings.seed,
    steps_per_call=_STEPS_PER_CALL,
    # Convolutions on a CPU are faster outside of XLA.
    jit_compile=False,
  )


def _num_steps(objective, settings):
  """Returns the number of steps of an objective for `num_steps` of NVI."""
  return max(1, round(_STEPS_SHARE[objective] * settings.num_steps))


def _open_folder(objective, settings):
  """Opens the folder of the checkpoints of an objective."""
  dataset, seed = settings.dataset, settings.seed
  directory = settings.checkpoint_dir or os.path.join(
    settings.output_dir, 'checkpoints'
  )
  name = f'{dataset}-{objective}-{seed}'
  folder = common.TrainingFolder(
    os.path.join(directory, name),
    {
      **settings.configuration,
      'dataset': dataset,
      'seed': seed,
      'objective': objective,
    },
    'checkpoint_dir',
    # Do not overwrite a checkpoint that is to be evaluated, nor a folder of the
    # user's choice, which may hold other runs.
    overwrite=(
      settings.overwrite
      and not settings.eval_only
      and not settings.checkpoint_dir
    ),
    writes=not settings.eval_only,
  )
  if settings.eval_only and not folder.latest_step(_STAGE):
    raise common.SettingError(
      'checkpoint_dir',
      'a folder with a checkpoint, to evaluate that alone',
      f'{directory!r} without any of {name}',
    )
  return folder


def _run_cell(dataset, objective, seed, settings, data, path):
  """Trains, evaluates and saves a mixture; returns its row and arrays."""
  folder = _open_folder(objective, settings)
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
    settings.num_steps,
    settings.concentration,
    seed,
  )
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
    'seconds': folder.seconds,
  }
  return row, arrays


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table."""
  # Missing packages are reported at once, but --help works without them.
  evaluation.check_packages()
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

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains, evaluates and reports deep latent Gaussian models."""

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.experiments.deep_gaussian import evaluation, report
from tfp_nvi.experiments.deep_gaussian import model as model_lib
from tfp_nvi.experiments.deep_gaussian.report import OBJECTIVES
from tfp_nvi.experiments.image_mixture import image_data
from tfp_nvi.internal import randomness

__all__ = [
  'ERRORS',
  'OBJECTIVES',
  'STEPS_PER_CALL',
  'Settings',
  'fit',
  'make_model',
  'run',
]

# The program shows the message of these errors without a traceback.
ERRORS = (image_data.DataError, ImportError)

_OBJECTIVE_FNS = {'svi': nvi.svi, 'iwae': nvi.iwae, 'rws': nvi.rws}
_MAX_LAYERS = 3
STEPS_PER_CALL = 200
# Settings that training does not depend on.
_OF_EVALUATION = (
  'num_test_images',
  'num_test_particles',
  'num_test_densities',
  'num_importance_draws',
  'num_compared_images',
)


class _Sizes(NamedTuple):
  """Sizes that suit a data set.

  Fields:
    num_steps: Python `int`.
    batch_size: Python `int`.
    num_latents: Tuple of Python `int`s: those of each layer.
    num_hidden: Tuple of two Python `int`s, as in `DeepGaussian`.
    num_components: Python `int`: those of an intermediate density.
  """

  num_steps: int
  batch_size: int
  num_latents: tuple
  num_hidden: tuple
  num_components: int


_DIGITS = _Sizes(4_000, 100, (16, 8, 4), (100, 50), 20)
_LARGE = _Sizes(100_000, 128, (50, 20, 10), (300, 100), 2_000)
_SIZES = {'digits': _DIGITS, 'mnist': _LARGE, 'fashion_mnist': _LARGE}


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  """Settings of the experiment on deep latent Gaussian models."""

  dataset: str = common.setting(
    'digits',
    f'One of {", ".join(image_data.DATASETS)}.',
    common.choice(image_data.DATASETS),
  )
  objective: tuple = common.names(OBJECTIVES)
  num_layers: tuple = common.setting(
    (1, 2, 3),
    f'Numbers of layers of latents, up to {_MAX_LAYERS}.',
    common.counts(1),
    changes_results=False,
  )
  num_steps: int = common.setting(
    0,
    'Training steps; 0 for 4,000 for digits and 100,000 for the others.',
    common.count_or_default,
  )
  batch_size: int = common.setting(
    0,
    'Images of a mini-batch; 0 for 100 for digits and 128 for the others.',
    common.count_or_default,
  )
  num_particles: int = common.setting(
    5, 'Particles of iwae and rws; the others have one.', common.count(2)
  )
  learning_rate: float = common.setting(
    2e-3,
    'Learning rate of Adam; it decays to zero over the last quarter of the '
    'steps.',
  )
  num_test_images: int = common.setting(
    0, 'Test images to evaluate; 0 for all.', common.count_or_default
  )
  num_test_particles: int = common.setting(
    16, 'Particles of the long sampler, for each image.', common.count(2)
  )
  num_test_densities: int = common.setting(
    32, 'Densities of the long sampler.', common.count(2)
  )
  num_importance_draws: int = common.setting(
    5_000,
    'Draws of the importance-weighted bound that it is compared with.',
    common.count(2),
  )
  num_compared_images: int = common.setting(
    500, 'Test images for which the two are compared.'
  )
  seed: int = common.setting(1, 'Random seed.', common.count(-math.inf))
  data_dir: str = common.setting(
    '',
    'Folder with IDX files; if empty, that of the environment variable '
    f'{image_data.DATA_DIR_VARIABLE}, the cache of Keras, or a download.',
    common.folder,
    changes_results=False,
  )
  output_dir: str = common.output_dir('results/deep_gaussian')
  overwrite: bool = common.overwrite()

  def __post_init__(self):
    """Checks the settings."""
    super().__post_init__()
    if max(self.num_layers) > _MAX_LAYERS:
      raise common.SettingError(
        'num_layers',
        f'a comma list of integers up to {_MAX_LAYERS}',
        repr(max(self.num_layers)),
      )

  def with_defaults(self):
    """Returns the settings with defaults of the data set in place of zeros."""
    sizes = _SIZES[self.dataset]
    return dataclasses.replace(
      self,
      num_steps=self.num_steps or sizes.num_steps,
      batch_size=self.batch_size or sizes.batch_size,
    )


def make_model(data, num_layers, settings) -> model_lib.DeepGaussian:
  """Makes the networks of a model for a data set.

  Args:
    data: `ImageData`.
    num_layers: Python `int`.
    settings: `Settings`.

  Returns:
    model: `DeepGaussian`.
  """
  sizes = _SIZES[settings.dataset]
  images = data.train_images.reshape(len(data.train_images), -1)
  return model_lib.DeepGaussian(
    images.shape[1],
    sizes.num_latents[:num_layers],
    sizes.num_hidden,
    sizes.num_components,
    mean_image=images.mean(axis=0) / 255.0,
    seed=settings.seed,
  )


def _mini_batches(num_images, batch_size, seed):
  """Makes a data set with the indices of the images of each step, and a seed.

  An epoch has no image twice. The data set is endless, and any number of steps
  can be skipped at no cost.
  """
  epoch_seed, pixel_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 2)
  )

  def element(step):
    positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
    epochs = tf.cast(positions // num_images, tf.int32)
    keys = randomness.fold_in(epoch_seed, epochs)
    # `tf.random.experimental.index_shuffle` pads keys that are stacked, and its
    # default of four rounds leaves small indices in order.
    indices = tf.raw_ops.RandomIndexShuffle(
      index=positions % num_images,
      seed=tf.concat([keys, keys[:, :1]], axis=-1),
      max_index=tf.constant(num_images - 1, tf.int64),
      rounds=24,
    )
    return (
      tf.cast(indices, tf.int32),
      randomness.fold_in(pixel_seed, tf.cast(step, tf.int32)),
    )

  return tf.data.Dataset.range(2**31 - 1).map(element)


def fit(model, objective, train_images, settings, fit_fn=nvi.fit, **kwargs):
  """Trains a model.

  Args:
    model: `DeepGaussian`.
    objective: Python `str`: one of `OBJECTIVES`.
    train_images: uint8 array of shape `[num_images, height, width]`.
    settings: `Settings`, without zeros that stand for defaults.
    fit_fn: `tfp_nvi.fit`, or a function with its arguments.
    **kwargs: Further arguments of `fit_fn`.

  Returns:
    history: `tfp_nvi.History`.
  """
  images = tf.constant(train_images.reshape(len(train_images), -1))

  def make_chain(element):
    indices, seed = element
    x = model_lib.binarize(tf.gather(images, indices), seed)
    return nvi.Chain(lambda: model.levels(x, objective))

  objective_fn = _OBJECTIVE_FNS.get(objective, nvi.reverse_kl)
  rate = common.decayed_learning_rate(
    settings.learning_rate, settings.num_steps
  )
  return fit_fn(
    make_chain,
    objective=objective_fn(),
    num_particles=settings.num_particles if objective in ('iwae', 'rws') else 1,
    num_steps=settings.num_steps,
    data=_mini_batches(len(images), settings.batch_size, settings.seed),
    seed=settings.seed,
    optimizer=tf_keras.optimizers.legacy.Adam(rate),
    steps_per_call=STEPS_PER_CALL,
    **kwargs,
  )


def _run_cell(objective, num_layers, settings, data, store):
  """Trains and evaluates a model; returns its row and arrays."""
  name = f'{objective}-{num_layers}'
  print(f'Training {name}.', flush=True)
  folder = common.TrainingFolder(
    store.path('checkpoints', name),
    {
      key: value
      for key, value in settings.configuration.items()
      if key not in _OF_EVALUATION
    },
    overwrite=settings.overwrite,
  )
  model = make_model(data, num_layers, settings)
  fit(
    model,
    objective,
    data.train_images,
    settings,
    lambda *args, **kwargs: folder.fit('training', *args, **kwargs),
  )
  row, arrays = evaluation.evaluate(model, data, settings)
  return {
    'objective': objective,
    'num_layers': num_layers,
    **row,
    'seconds': folder.seconds,
  }, arrays


@common.with_settings(Settings)
def run(settings) -> common.Results:
  """Runs the experiment, and prints its table.

  Args:
    settings: `Settings`.

  Returns:
    results: `Results`.
  """
  order = list(OBJECTIVES)
  settings = settings.with_defaults()
  store = common.open_output(
    settings,
    ['objective', 'num_layers'],
    lambda objective, num_layers: (num_layers, order.index(objective)),
  )
  data = image_data.load(settings.dataset, settings.data_dir)
  names = order if settings.objective == ('all',) else settings.objective
  cells = [(name, count) for count in settings.num_layers for name in names]
  for cell in cells:
    if settings.overwrite or not store.has(*cell):
      store.add(*_run_cell(*cell, settings, data, store))
    print(report.describe(store.row(*cell)), flush=True)
  rows = [store.row(*cell) for cell in cells]
  print(report.format_table(rows))
  arrays = {cell: store.arrays(*cell) for cell in cells}
  return common.finish(store, rows, report.draw(rows, arrays))

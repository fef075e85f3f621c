# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
r"""A deep generative mixture of images, learned without labels.

Learns a mixture of images and amortized inference for it [1], down to the class
proportions of a mini-batch, by nested objectives and, for comparison, by
reweighted wake-sleep with the same networks. Both start from the same networks,
trained with clusters that `image_clusters` finds in the graph of images and
their neighbors [2].

```shell
python -m tfp_nvi.experiments.bgmm_vae --output_dir=results/digits
python -m tfp_nvi.experiments.bgmm_vae --dataset=mnist --data_dir=DIR \
  --objective=nvi,rws --output_dir=results/mnist
```

Mini-batches have class proportions lambda* that come from a Dirichlet
distribution. Labels serve to put such mini-batches together, as the model says
that data come; they are not passed on, and training sees images alone.
(`--noproportions_in_training` makes mini-batches of images at random instead,
without any labels.) After training, labels serve once more, to match clusters
to classes.

The output folder holds

```none
metrics.json        a row for each data set, objective and seed
saved_models/       what was trained, to be used without this library
batches-*.png       a test mini-batch, one generated from the inferred
                    proportions, and the proportions, by objective
reconstructions-*.png  test images and what the model makes of them
clusters-*.png      samples of each cluster
cells/*.npz         what the pictures are drawn from
```

Fields of a row: `total_variation` between E[lambda] and lambda*, mean over 100
test mini-batches; `total_variation_of_one_pass`, where images do not learn from
each other what the proportions are; `accuracy` and
`normalized_mutual_information` of the most probable cluster of each test image;
importance-weighted `bound` per image, from 100 draws of z; `seconds` of
training. One matching of clusters to classes, the best one for the test set,
serves for all. `--eval_only` measures again what was trained.

A saved model, which `tf.saved_model.load` loads, has a method `infer`: from
images of shape `[N, height, width]`, with intensities from 0 to 1, to a dict
with the fields of `deep_mixture.Posterior`. Its draws have a fixed seed: the
same images give the same posterior.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
[2]: A. Ng, M. Jordan, Y. Weiss. On spectral clustering: Analysis and an
     algorithm. NeurIPS, 2001.
"""

import collections
import json
import math
import os
import shutil
import sys
import tempfile
import time

import matplotlib
import numpy as np
import scipy.optimize
import tensorflow as tf
import tf_keras
from absl import app, logging
from matplotlib import figure as figure_lib

import tfp_nvi as nvi
from tfp_nvi.experiments import (
  deep_mixture,
  image_clusters,
  image_data,
  programs,
)
from tfp_nvi.internal import randomness

__all__ = [
  'OBJECTIVES',
  'Results',
  'mini_batches',
  'run',
]

# How each is named in tables and pictures.
OBJECTIVES = {'nvi': 'NVI', 'rws': 'RWS'}

_STAGES = ('warm_up', 'assigned', 'training')
_SETTINGS_AFTER_START = ('num_steps',)
_WARM_UP_KL_WEIGHT = 0.1
# Particles of reweighted wake-sleep; nested objectives need one. How many of
# its steps are taken for one of theirs, as a step takes longer.
_NUM_PARTICLES = {'nvi': 1, 'rws': 5}
_STEPS_SHARE = {'nvi': 1.0, 'rws': 0.4}
_STEPS_PER_CALL = 50
_NUM_TEST_BATCHES = 100
_NUM_INFERENCE_SAMPLES = 20
_NUM_BOUND_SAMPLES = 100
_NUM_BOUND_IMAGES = 1_000
_NUM_DRAWN = 100
_NUM_CLUSTER_SAMPLES = 12

_DEFAULT_STEPS = {'digits': 1_000, 'mnist': 5_000, 'fashion_mnist': 5_000}
_DEFAULT_WARM_UP_STEPS = {'digits': 300, 'mnist': 2_500, 'fashion_mnist': 2_500}
# The larger images, the larger their densities.
_DEFAULT_KL_WEIGHT = {'digits': 2.0, 'mnist': 10.0, 'fashion_mnist': 10.0}


class Results(collections.namedtuple('Results', ['rows', 'pictures'])):
  """What an experiment gives.

  Fields:
    rows: List of Python `dict`s, as in `metrics.json`: those asked for.
    pictures: List of the paths of the pictures.
  """

  __slots__ = ()


def mini_batches(
  images, labels, num_classes, num_images, num_batches, concentration, seed
):
  """Mini-batches whose class proportions come from a Dirichlet distribution.

  Args:
    images: uint8 array of shape `[num_all, height, width]`.
    labels: int array of shape `[num_all]`; `None` for images at random.
    num_classes: Python `int`.
    num_images: Python `int`: the number of images of a mini-batch.
    num_batches: Python `int`.
    concentration: Python `float`, of the Dirichlet distribution.
    seed: Python `int`. The order is the same each time.

  Returns:
    data: `tf.data.Dataset` of pairs of images, uint8 of shape
      `[num_images, height, width]`, and their indices.
    proportions: float array of shape `[num_batches, num_classes]`; `None`
      without labels.

  ```python
  import numpy as np
  from tfp_nvi.experiments import bgmm_vae

  data, proportions = bgmm_vae.mini_batches(
    np.zeros([30, 8, 8], np.uint8), np.arange(30) % 3, 3, 5, 7, 1.0, seed=1
  )
  for images, _ in data:
    assert images.shape == [5, 8, 8]
  assert proportions.shape == (7, 3)
  ```
  """
  generator = np.random.default_rng(seed)
  if labels is None:
    proportions = None
    indices = generator.integers(len(images), size=[num_batches, num_images])
  else:
    members = [np.flatnonzero(labels == k) for k in range(num_classes)]
    proportions = generator.dirichlet(
      np.full(num_classes, concentration), size=num_batches
    )
    # A class without images in the data set has none in a mini-batch either.
    proportions *= [len(m) > 0 for m in members]
    proportions /= proportions.sum(axis=1, keepdims=True)
    indices = np.empty([num_batches, num_images], np.int64)
    for i, p in enumerate(proportions):
      classes = np.repeat(
        np.arange(num_classes), generator.multinomial(num_images, p)
      )
      for k in np.unique(classes):
        indices[i, classes == k] = generator.choice(
          members[k], size=np.sum(classes == k)
        )
  all_images = tf.constant(images)
  data = tf.data.Dataset.from_tensor_slices(indices.astype(np.int32)).map(
    lambda i: (tf.gather(all_images, i), i), num_parallel_calls=1
  )
  return data, proportions


def _match(labels, clusters, num_classes, num_clusters):
  """The best matching of clusters to classes.

  Args:
    labels: int array of shape `[n]`.
    clusters: int array of shape `[n]`.
    num_classes: Python `int`.
    num_clusters: Python `int`.

  Returns:
    class_of_cluster: int array of shape `[num_clusters]`; -1 where a cluster
      has no class.
  """
  contingency = np.zeros([num_clusters, num_classes], np.int64)
  np.add.at(contingency, (clusters, labels), 1)
  rows, columns = scipy.optimize.linear_sum_assignment(-contingency)
  class_of_cluster = np.full(num_clusters, -1)
  class_of_cluster[rows] = columns
  return class_of_cluster


def _total_variation(inferred, true, class_of_cluster):
  """Distances of proportions of clusters from those of classes.

  What a cluster without a class has counts as misplaced.

  Args:
    inferred: float array of shape `[num_batches, num_clusters]`.
    true: float array of shape `[num_batches, num_classes]`.
    class_of_cluster: int array of shape `[num_clusters]`.

  Returns:
    distances: float array of shape `[num_batches]`.
  """
  num_classes = true.shape[1]
  # One more class, for clusters without any.
  by_class = np.zeros([len(inferred), num_classes + 1])
  for i, k in enumerate(class_of_cluster):
    by_class[:, k] += inferred[:, i]
  padded = np.concatenate([true, np.zeros([len(true), 1])], axis=1)
  return 0.5 * np.abs(by_class - padded).sum(axis=1)


class _Checkpoints:
  """A folder with the checkpoints of one training, and what they are of."""

  def __init__(self, directory, settings, overwrite=False):
    self._directory = directory
    self._settings = settings
    try:
      os.makedirs(directory, exist_ok=True)
    except OSError as e:
      raise programs.SettingError(
        'checkpoint_dir',
        'a folder that can be written',
        f'{directory!r} ({e.strerror})',
      ) from e
    if not self._has_content():
      return
    try:
      self._check()
    except programs.SettingError:
      if not overwrite:
        raise
      shutil.rmtree(directory)
      os.makedirs(directory)

  def _has_content(self):
    """Whether there is anything that was computed."""
    return os.path.exists(self.path('clusters.npy')) or any(
      self.has_any(stage) for stage in os.listdir(self._directory)
    )

  def _check(self):
    """Raises an error if what there is has other settings."""
    directory, settings = self._directory, self._settings
    try:
      with open(self.path('settings.json'), encoding='utf-8') as f:
        found = json.load(f)
      different = [
        f'{key} {found.get(key)!r}, now {value!r}'
        for key, value in settings.items()
        if found.get(key) != value
      ]
    except (OSError, ValueError, AttributeError) as e:
      raise programs.SettingError(
        'checkpoint_dir',
        'a new folder, or one of an earlier run',
        f'{directory!r}, whose settings.json cannot be read ({e})',
      ) from e
    if different:
      raise programs.SettingError(
        'checkpoint_dir',
        'a new folder, or one of a run with the same flags',
        f'{directory!r}, which has {"; ".join(different)}',
      )

  def prepare(self):
    """Writes what the checkpoints to come are of."""
    content = json.dumps(self._settings, indent=2) + '\n'
    programs.replace_file(
      self.path('settings.json'), lambda f: f.write(content.encode())
    )

  def path(self, stage):
    return os.path.join(self._directory, stage)

  def has_any(self, stage):
    return tf.train.latest_checkpoint(self.path(stage)) is not None

  @property
  def clusters(self):
    """The clusters that images were assigned to; `None` before that."""
    path = self.path('clusters.npy')
    return np.load(path) if os.path.exists(path) else None

  @clusters.setter
  def clusters(self, value):
    programs.replace_file(
      self.path('clusters.npy'), lambda f: np.save(f, value)
    )

  @property
  def seconds(self):
    """The duration of training so far."""
    try:
      with open(self.path('seconds.json'), encoding='utf-8') as f:
        return float(json.load(f))
    except OSError:
      return 0.0

  @seconds.setter
  def seconds(self, value):
    content = json.dumps(value)
    programs.replace_file(
      self.path('seconds.json'), lambda f: f.write(content.encode())
    )


def _learning_rate(rate, num_steps):
  """Constant, and then falling to zero over the last quarter."""
  num_constant = 3 * num_steps // 4
  if num_constant == 0:
    return rate
  return tf_keras.optimizers.schedules.CosineDecay(
    rate,
    num_steps - num_constant,
    warmup_target=rate,
    warmup_steps=num_constant,
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
  """Sets clusters to the means and deviations of the codes assigned to them."""
  members = [clusters == k for k in range(mixture.num_clusters)]
  # One without any is as wide as all codes.
  members = [m if m.any() else np.ones_like(m) for m in members]
  mixture.set_clusters(
    np.stack([loc[m].mean(axis=0) for m in members]),
    np.sqrt(
      np.stack([loc[m].var(axis=0) + variance[m].mean(axis=0) for m in members])
    ),
  )


class _Clock:
  """Adds the durations of training to what checkpoints have of it."""

  def __init__(self, checkpoints):
    self._checkpoints = checkpoints
    self._last = time.perf_counter()

  def on_call(self, step, values):
    """A callback of `fit`, whose first call comes after a compilation."""
    del step, values
    self.add()

  def add(self):
    """Adds what has passed since the last call."""
    now = time.perf_counter()
    self._checkpoints.seconds += now - self._last
    self._last = now


def _fit(mixture, stage, levels_fn, data, settings, checkpoints, **kwargs):
  """Takes the steps of a stage that are left.

  Args:
    mixture: `DeepMixture`.
    stage: Python `str`: one of `_STAGES`.
    levels_fn: Python callable from images and their indices to levels.
    data: `tf.data.Dataset` of mini-batches of images and their indices.
    settings: Python `dict` of the arguments of `run`.
    checkpoints: `_Checkpoints`.
    **kwargs: Arguments of `tfp_nvi.fit`.
  """
  nvi.fit(
    lambda batch: nvi.Chain(lambda: levels_fn(*batch)),
    data=data,
    seed=randomness.fold_in(
      randomness.as_seed(settings['seed']), _STAGES.index(stage)
    ),
    steps_per_call=_STEPS_PER_CALL,
    # Convolutions on a CPU are faster outside of XLA.
    jit_compile=False,
    checkpoint_dir=checkpoints.path(stage),
    callback_fn=_Clock(checkpoints).on_call,
    **kwargs,
  )


def _start(mixture, data, images, settings, checkpoints):
  """Trains what all objectives start from.

  First encoder and decoder by themselves, then all networks, with the clusters
  that neighboring images make.

  Args:
    mixture: `DeepMixture`.
    data: As of `_fit`.
    images: uint8 array of all images for training.
    settings: As of `_fit`.
    checkpoints: `_Checkpoints`.
  """
  rate = settings['learning_rate']
  num_steps = settings['num_warm_up_steps']
  arguments = {
    'objective': nvi.reverse_kl(),
    'num_particles': 1,
    'num_steps': num_steps,
  }
  if checkpoints.clusters is None:
    # First, as this is what may not suit the images.
    clock = _Clock(checkpoints)
    checkpoints.clusters = image_clusters.find_clusters(
      images, mixture.num_clusters, settings['seed']
    )
    clock.add()
  clusters = checkpoints.clusters
  if not checkpoints.has_any('assigned'):
    _fit(
      mixture,
      'warm_up',
      lambda batch, _: mixture.warm_up_levels(batch, _WARM_UP_KL_WEIGHT),
      data,
      settings,
      checkpoints,
      optimizer=tf_keras.optimizers.legacy.Adam(rate),
      **arguments,
    )
    _set_clusters(mixture, *_encode(mixture, images), clusters)
  clusters = tf.constant(clusters)
  _fit(
    mixture,
    'assigned',
    lambda batch, indices: mixture.assigned_levels(
      batch, tf.gather(clusters, indices), settings['kl_weight']
    ),
    data,
    settings,
    checkpoints,
    # A rate that falls, so that what follows starts where this settles.
    optimizer=tf_keras.optimizers.legacy.Adam(_learning_rate(rate, num_steps)),
    **arguments,
  )


def _train(mixture, data, objective, settings, checkpoints, num_steps):
  """Trains a mixture by an objective.

  Args:
    mixture: `DeepMixture`.
    data: As of `_fit`.
    objective: Python `str`: one of `OBJECTIVES`.
    settings: As of `_fit`.
    checkpoints: `_Checkpoints`.
    num_steps: Python `int`: how many to take; 1 takes none after a checkpoint.
  """

  def levels(batch, indices):
    del indices
    if objective == 'nvi':
      return mixture.levels(batch)
    return mixture.joint_levels(batch)

  total_steps = _num_steps(objective, settings)
  rate = _learning_rate(settings['learning_rate'], total_steps)
  _fit(
    mixture,
    'training',
    levels,
    data,
    settings,
    checkpoints,
    objective=nvi.reverse_kl() if objective == 'nvi' else nvi.rws(),
    num_particles=_NUM_PARTICLES[objective],
    num_steps=min(num_steps, total_steps),
    optimizer=tf_keras.optimizers.legacy.Adam(rate),
  )


def _num_steps(objective, settings):
  """How many steps an objective takes for `num_steps` of NVI."""
  return max(1, round(_STEPS_SHARE[objective] * settings['num_steps']))


def _evaluate(mixture, data, settings):
  """Measures a mixture on the test set.

  Args:
    mixture: `DeepMixture`.
    data: `ImageData`.
    settings: Python `dict` of the arguments of `run`.

  Returns:
    figures: Python `dict`: fields of a row.
    arrays: Python `dict` of NumPy arrays, to draw from.
  """
  # Where it is absent, the import of `image_clusters` has said what to install.
  from sklearn import metrics

  num_classes = len(data.class_names)
  seed = randomness.as_seed(settings['seed'])

  @tf.function(autograph=False)
  def infer(images, seed):
    arguments = (images, _NUM_INFERENCE_SAMPLES, seed)
    one_pass = mixture.infer(*arguments, num_sweeps=0)
    return mixture.infer(*arguments).proportions, one_pass.proportions

  bound = tf.function(
    lambda images, seed: mixture.bound(images, _NUM_BOUND_SAMPLES, seed),
    autograph=False,
  )
  cluster_probs = tf.function(mixture.cluster_probs, autograph=False)

  probs = np.concatenate(
    [
      cluster_probs(tf.constant(data.test_images[i : i + 500])).numpy()
      for i in range(0, len(data.test_images), 500)
    ]
  )
  clusters = probs.argmax(axis=1)
  class_of_cluster = _match(
    data.test_labels, clusters, num_classes, mixture.num_clusters
  )
  accuracy = np.mean(class_of_cluster[clusters] == data.test_labels)
  information = metrics.normalized_mutual_info_score(data.test_labels, clusters)

  batches, proportions = mini_batches(
    data.test_images,
    data.test_labels,
    num_classes,
    settings['num_test_images'],
    _NUM_TEST_BATCHES,
    settings['concentration'],
    # The same ones for every objective and seed.
    seed=0,
  )
  posteriors = []
  for i, (images, _) in enumerate(batches):
    posteriors.append(infer(images, randomness.fold_in(seed, i)))
    if i == 0:
      first_images = images.numpy()
  inferred, of_one_pass = np.array(posteriors).swapaxes(0, 1)
  distances = _total_variation(inferred, proportions, class_of_cluster)
  of_one_pass = _total_variation(of_one_pass, proportions, class_of_cluster)
  c, generated = mixture.generate(
    inferred[0], settings['num_test_images'], randomness.fold_in(seed, 1_000)
  )
  bounds = [
    bound(
      tf.constant(data.test_images[i : i + 50]),
      randomness.fold_in(seed, 2_000 + i),
    ).numpy()
    for i in range(0, min(_NUM_BOUND_IMAGES, len(data.test_images)), 50)
  ]
  encoded = mixture.encode(mixture.intensities(data.test_images[:_NUM_DRAWN]))
  cluster_of_sample = np.repeat(
    np.arange(mixture.num_clusters), _NUM_CLUSTER_SAMPLES
  )
  figures = {
    'total_variation': float(np.mean(distances)),
    'total_variation_of_one_pass': float(np.mean(of_one_pass)),
    'accuracy': float(accuracy),
    'normalized_mutual_information': float(information),
    'bound': float(np.mean(np.concatenate(bounds))),
    'total_variations': [round(float(x), 6) for x in distances],
  }
  arrays = {
    'class_of_cluster': class_of_cluster,
    'batch': first_images,
    'generated_clusters': c.numpy(),
    'generated': _as_bytes(generated),
    'proportions': proportions,
    'inferred': inferred,
    'originals': data.test_images[:_NUM_DRAWN],
    'reconstructions': _as_bytes(mixture.image_means(encoded.mean())),
    'cluster_samples': _as_bytes(
      mixture.generate_from(cluster_of_sample, randomness.fold_in(seed, 3_000))
    ),
  }
  return figures, arrays


def _as_bytes(intensities):
  return np.round(255.0 * np.clip(intensities, 0.0, 1.0)).astype(np.uint8)


class _Inference(tf.Module):
  """What is saved: inference from images, with nothing else around it."""

  def __init__(self, mixture, class_of_cluster):
    super().__init__(name='inference')
    self._mixture = mixture
    self.class_of_cluster = tf.Variable(
      class_of_cluster, trainable=False, name='class_of_cluster'
    )
    self.infer = tf.function(
      self._infer,
      autograph=False,
      input_signature=[
        tf.TensorSpec([None, *mixture.image_shape], tf.float32, name='images')
      ],
    )

  def _infer(self, images):
    in_range = tf.debugging.Assert(
      tf.reduce_all((images >= 0.0) & (images <= 1.0)),
      [
        '`images` must have intensities from 0 to 1; got values from',
        tf.reduce_min(images),
        'to',
        tf.reduce_max(images),
      ],
    )
    has_images = tf.debugging.assert_positive(
      tf.shape(images)[0], '`images` must have at least one image; got none.'
    )
    with tf.control_dependencies([in_range, has_images]):
      images = tf.identity(images)
    posterior = self._mixture.infer(
      images, _NUM_INFERENCE_SAMPLES, tf.constant([0, 0])
    )
    return posterior._asdict()


def _save_model(mixture, class_of_cluster, path):
  """Saves a model; where there is one already, it is there until the end."""
  module = _Inference(mixture, class_of_cluster)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
    new = os.path.join(folder, 'new')
    tf.saved_model.save(
      module, new, signatures={'serving_default': module.infer}
    )
    if os.path.exists(path):
      os.rename(path, os.path.join(folder, 'old'))
    os.rename(new, path)


def _name(cell):
  return '-'.join(map(str, cell))


def _describe(row):
  """The line that is shown for what is done."""
  return (
    f'{row["dataset"]}, {OBJECTIVES[row["objective"]]}, seed {row["seed"]}: '
    f'total variation {row["total_variation"]:.3f}, accuracy '
    f'{row["accuracy"]:.3f}, mutual information '
    f'{row["normalized_mutual_information"]:.3f}, bound {row["bound"]:.1f}, '
    f'{row["seconds"]:.0f} s of training'
  )


def _format_table(rows):
  """The table of rows."""
  lines = [
    '',
    f'{"data set":14} {"objective":10} {"seed":>4} {"total variation":>16} '
    f'{"accuracy":>9} {"NMI":>6} {"bound":>9} {"seconds":>8}',
  ]
  lines += [
    f'{row["dataset"]:14} {OBJECTIVES[row["objective"]]:10} {row["seed"]:4d} '
    f'{row["total_variation"]:16.3f} {row["accuracy"]:9.3f} '
    f'{row["normalized_mutual_information"]:6.3f} {row["bound"]:9.1f} '
    f'{row["seconds"]:8.0f}'
    for row in rows
  ]
  return '\n'.join(lines)


def _sheet(images, num_columns):
  """Images side by side, in rows, one white pixel apart."""
  count = len(images) // num_columns * num_columns
  images = np.pad(images[:count], [(0, 0), (0, 1), (0, 1)])
  height, width = images.shape[1:]
  rows = images.reshape(-1, num_columns, height, width)
  return rows.transpose(0, 2, 1, 3).reshape(-1, num_columns * width)


def _show(axes, images, num_columns, title):
  axes.imshow(
    _sheet(images, num_columns), cmap='gray_r', interpolation='nearest'
  )
  axes.set_title(title, fontsize=9)
  axes.set_axis_off()


def _by_class(arrays, class_names):
  """True and inferred proportions of the first mini-batch, and their names."""
  class_of_cluster = arrays['class_of_cluster']
  num_classes = len(class_names)
  inferred = np.zeros(num_classes + 1)
  for i, k in enumerate(class_of_cluster):
    inferred[k] += arrays['inferred'][0, i]
  names = list(class_names)
  true = np.append(arrays['proportions'][0], 0.0)
  if np.any(class_of_cluster < 0):
    return true, inferred, [*names, 'none']
  return true[:-1], inferred[:-1], names


def _draw_batches(cells, class_names):
  """A test mini-batch, those generated from what is inferred, and lambda."""
  figure = figure_lib.Figure([3.2 * (1 + len(cells)), 6.2], layout='tight')
  axes = figure.subplots(
    2, 1 + len(cells), squeeze=False, height_ratios=[1.2, 1.0]
  )
  first = next(iter(cells.values()))
  num_columns = min(20, len(first['batch']))
  _show(axes[0, 0], first['batch'], num_columns, 'a test mini-batch')
  axes[1, 0].set_axis_off()
  for i, (objective, arrays) in enumerate(cells.items(), start=1):
    label = OBJECTIVES[objective]
    # In the order of classes, as the mini-batch is.
    order = np.argsort(
      arrays['class_of_cluster'][arrays['generated_clusters']], kind='stable'
    )
    _show(
      axes[0, i],
      arrays['generated'][order],
      num_columns,
      f'{label}: generated from E[lambda]',
    )
    true, inferred, names = _by_class(arrays, class_names)
    position = np.arange(len(names))
    distance = 0.5 * np.abs(true - inferred).sum()
    axes[1, i].bar(position - 0.2, true, 0.4, color='0.6', label='lambda*')
    axes[1, i].bar(
      position + 0.2, inferred, 0.4, color='#0072b2', label='E[lambda]'
    )
    is_long = max(map(len, names)) > 2
    axes[1, i].set_xticks(position, names, rotation=60 if is_long else 0)
    axes[1, i].tick_params(labelsize=8)
    axes[1, i].set_title(f'{label}: total variation {distance:.3f}', fontsize=9)
    axes[1, i].legend(fontsize=8, frameon=False)
    for side in ('top', 'right'):
      axes[1, i].spines[side].set_visible(False)
  return figure


def _draw_reconstructions(cells, class_names):
  """Test images, above what each model makes of them."""
  del class_names
  num_rows, num_columns = 4, 16
  figure = figure_lib.Figure([7.0, 2.6 * len(cells)], layout='tight')
  axes = figure.subplots(len(cells), 1, squeeze=False)[:, 0]
  for one, (objective, arrays) in zip(axes, cells.items(), strict=True):
    pairs = []
    for i in range(num_rows):
      row = slice(i * num_columns, (i + 1) * num_columns)
      pairs += [arrays['originals'][row], arrays['reconstructions'][row]]
    _show(
      one,
      np.concatenate(pairs),
      num_columns,
      f'{OBJECTIVES[objective]}: images, each row above its reconstructions',
    )
  return figure


def _draw_clusters(cells, class_names):
  """Samples of each cluster, a row each, in the order of their classes."""
  figure = figure_lib.Figure([4.8 * len(cells), 4.2], layout='tight')
  axes = figure.subplots(1, len(cells), squeeze=False)[0]
  for one, (objective, arrays) in zip(axes, cells.items(), strict=True):
    class_of_cluster = arrays['class_of_cluster']
    samples = arrays['cluster_samples']
    samples = samples.reshape(
      len(class_of_cluster), _NUM_CLUSTER_SAMPLES, *samples.shape[1:]
    )
    order = np.argsort(
      np.where(class_of_cluster < 0, len(class_names), class_of_cluster),
      kind='stable',
    )
    _show(
      one,
      samples[order].reshape(-1, *samples.shape[2:]),
      _NUM_CLUSTER_SAMPLES,
      f'{OBJECTIVES[objective]}: samples, a cluster a row',
    )
    one.set_axis_on()
    # Of a row, with the pixel between rows.
    height = samples.shape[2] + 1
    names = [
      class_names[k] if k >= 0 else 'none' for k in class_of_cluster[order]
    ]
    one.set_yticks((np.arange(len(names)) + 0.5) * height - 0.5, names)
    one.set_xticks([])
    one.tick_params(length=0, labelsize=8)
    for spine in one.spines.values():
      spine.set_visible(False)
  return figure


def _draw(store, dataset, seed, class_names):
  """Draws the pictures of a data set and seed, objectives side by side."""
  cells = {}
  for objective in OBJECTIVES:
    cell = dataset, objective, seed
    if store.has(*cell):
      cells[objective] = store.arrays(*cell)
  paths = []
  with matplotlib.rc_context({'savefig.dpi': 110}):
    for name, draw_fn in (
      ('batches', _draw_batches),
      ('reconstructions', _draw_reconstructions),
      ('clusters', _draw_clusters),
    ):
      paths.append(store.path(f'{name}-{dataset}-{seed}.png'))
      figure = draw_fn(cells, class_names)
      programs.replace_file(
        paths[-1], lambda f, x=figure: x.savefig(f, format='png')
      )
  return paths


def _check_settings(objective, settings):
  """Raises an error if an argument is not as expected.

  Args:
    objective: As in `run`.
    settings: Python `dict` of the other arguments.

  Returns:
    objectives: List of Python `str`s.
  """
  programs.check_choice('dataset', settings['dataset'], image_data.DATASETS)
  objectives = programs.as_list(objective)
  for name in objectives or ['']:
    if name not in OBJECTIVES:
      raise programs.SettingError(
        'objective', f'a comma list of {", ".join(OBJECTIVES)}', repr(name)
      )
  for name in (
    'batch_size',
    'num_clusters',
    'num_latents',
    'num_steps',
    'num_warm_up_steps',
    'num_test_images',
  ):
    programs.check_positive_integer(name, settings[name])
  seed = settings['seed']
  if (
    isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32
  ):
    raise programs.SettingError(
      'seed', 'a non-negative integer below 2**32', repr(seed)
    )
  if settings['num_clusters'] < 2:
    raise programs.SettingError(
      'num_clusters', 'at least 2', repr(settings['num_clusters'])
    )
  for name in ('learning_rate', 'concentration', 'kl_weight'):
    programs.check_positive_number(name, settings[name])
  return objectives


def run(
  dataset='digits',
  objective='nvi,rws',
  batch_size=300,
  num_clusters=10,
  num_latents=10,
  num_steps=0,
  num_warm_up_steps=0,
  learning_rate=1e-3,
  concentration=1.0,
  kl_weight=0.0,
  proportions_in_training=True,
  num_test_images=300,
  seed=1,
  data_dir='',
  checkpoint_dir='',
  output_dir='results/bgmm_vae',
  eval_only=False,
  overwrite=False,
):
  """Runs the experiment, and prints its table.

  Args:
    dataset: Python `str`: `'digits'`, `'mnist'` or `'fashion_mnist'`.
      Default value: `'digits'`.
    objective: Python `str`, `'nvi'` or `'rws'`, a comma list, or a list.
      Default value: `'nvi,rws'`.
    batch_size: Python `int`: images of a mini-batch in training.
      Default value: `300`.
    num_clusters: Python `int`.
      Default value: `10`.
    num_latents: Python `int`: the size of the latent vector of an image.
      Default value: `10`.
    num_steps: Python `int` number of training steps of the nested objective.
      Reweighted wake-sleep, whose steps have 5 particles, takes 0.4 times as
      many.
      Default value: `0` (i.e., 1,000 for digits, 5,000 for the others).
    num_warm_up_steps: Python `int` number of steps that encoder and decoder
      take by themselves first, and then all networks with clusters that are
      given, those of neighboring images; the same for both objectives.
      Default value: `0` (i.e., 300 for digits, 2,500 for the others).
    learning_rate: Python `float`, of Adam. It falls to zero over the last
      quarter of the steps with given clusters, and of those after them.
      Default value: `1e-3`.
    concentration: Python `float`, of the Dirichlet distribution of proportions,
      of the model and of mini-batches.
      Default value: `1.`.
    kl_weight: Python `float`: how much the density of latents counts beside the
      images, in training by the nested objective, which has `1.` as it is
      written. With more, clusters stay apart.
      Default value: `0.` (i.e., 2 for digits, 10 for the others).
    proportions_in_training: Python `bool`: whether mini-batches in training
      have class proportions of their own, or images at random.
      Default value: `True`.
    num_test_images: Python `int`: images of a mini-batch at test.
      Default value: `300`.
    seed: Python `int`.
      Default value: `1`.
    data_dir: Python `str`; see `image_data.load`.
      Default value: `''`.
    checkpoint_dir: Python `str`: a folder for checkpoints, to go on from when
      the same is run again.
      Default value: `''` (i.e., a folder `checkpoints` in `output_dir`).
    output_dir: Python `str`: a folder to write to; made if need be.
      Default value: `'results/bgmm_vae'`.
    eval_only: Python `bool`: whether to evaluate the latest checkpoint as it
      is, without training.
      Default value: `False`.
    overwrite: Python `bool`: whether to discard what `output_dir` has of this
      data set, objective and seed, and of another configuration; checkpoints
      are kept.
      Default value: `False`.

  Returns:
    results: `Results`.

  Raises:
    ValueError: If an argument is not as expected, a folder cannot be written,
      or checkpoints are of another configuration; before any compute.
    FloatingPointError: If a loss becomes NaN.
  """
  configuration = {
    'batch_size': batch_size,
    'num_clusters': num_clusters,
    'num_latents': num_latents,
    'num_steps': num_steps,
    'num_warm_up_steps': num_warm_up_steps,
    'learning_rate': learning_rate,
    'concentration': concentration,
    'kl_weight': kl_weight,
    'proportions_in_training': proportions_in_training,
    'num_test_images': num_test_images,
  }
  settings = {
    **configuration,
    'dataset': dataset,
    'seed': seed,
    'num_steps': num_steps or _DEFAULT_STEPS.get(dataset, 0),
    'num_warm_up_steps': (
      num_warm_up_steps or _DEFAULT_WARM_UP_STEPS.get(dataset, 0)
    ),
    'kl_weight': kl_weight or _DEFAULT_KL_WEIGHT.get(dataset, 0.0),
  }
  num_steps = settings['num_steps']
  objectives = _check_settings(objective, settings)
  store = programs.Store(
    output_dir,
    {**configuration, 'versions': programs.versions()},
    overwrite,
    ['dataset', 'objective', 'seed'],
    lambda *cell: cell,
  )
  data = image_data.load(dataset, data_dir)
  print(
    f'{dataset}: {len(data.train_images)} images for training and '
    f'{len(data.test_images)} for tests, from {data.source}.'
  )
  # Not what is to be evaluated, and not in a folder of the user's choice, which
  # may be of other runs.
  discards = overwrite and not eval_only and not checkpoint_dir
  if not checkpoint_dir:
    checkpoint_dir = store.path('checkpoints')
  for name in objectives:
    cell = dataset, name, seed
    if not (overwrite or eval_only) and store.has(*cell):
      print(f'Kept: {_describe(store.row(*cell))}')
      continue
    checkpoints = _Checkpoints(
      os.path.join(checkpoint_dir, _name(cell)),
      {**settings, 'objective': name},
      discards,
    )
    # The same for all objectives.
    start = _Checkpoints(
      os.path.join(checkpoint_dir, f'{dataset}-start-{seed}'),
      {k: v for k, v in settings.items() if k not in _SETTINGS_AFTER_START},
      discards,
    )
    if eval_only and not checkpoints.has_any('training'):
      raise programs.SettingError(
        'checkpoint_dir',
        'a folder with a checkpoint, to evaluate that alone',
        f'{checkpoint_dir!r} without any of {_name(cell)}',
      )
    if not eval_only:
      checkpoints.prepare()
      start.prepare()
    print(f'Training {_name(cell)}.' if not eval_only else 'Evaluating.')
    mixture = deep_mixture.DeepMixture(
      data.train_images.shape[1:],
      num_clusters,
      num_latents,
      num_simulated=num_test_images,
      concentration=concentration,
      kl_weight=settings['kl_weight'],
      seed=seed,
    )
    batches, _ = mini_batches(
      data.train_images,
      data.train_labels if proportions_in_training else None,
      len(data.class_names),
      batch_size,
      settings['num_warm_up_steps'] + num_steps,
      concentration,
      seed,
    )
    if not checkpoints.has_any('training'):
      _start(mixture, batches, data.train_images, settings, start)
    _train(
      mixture,
      batches,
      name,
      settings,
      checkpoints,
      1 if eval_only else num_steps,
    )
    seconds = start.seconds + checkpoints.seconds
    figures, arrays = _evaluate(mixture, data, settings)
    if not math.isfinite(figures['bound']):
      raise FloatingPointError(
        f'The bound of {_name(cell)} is {figures["bound"]} after training.'
      )
    row = {
      'dataset': dataset,
      'objective': name,
      'seed': seed,
      **figures,
      'seconds': seconds,
    }
    _save_model(
      mixture,
      arrays['class_of_cluster'],
      store.path('saved_models', _name(cell)),
    )
    store.add(row, arrays)
    print(_describe(row), flush=True)

  rows = [store.row(dataset, name, seed) for name in objectives]
  print(_format_table(rows))
  pictures = _draw(store, dataset, seed, data.class_names)
  print('\nWritten:')
  for path in [store.path('metrics.json'), *pictures]:
    print(f'  {path}')
  return Results(rows, pictures)


_FLAGS = {
  'dataset': f'One of {", ".join(image_data.DATASETS)}.',
  'objective': f'Comma list of {", ".join(OBJECTIVES)}.',
  'batch_size': 'Images of a mini-batch in training.',
  'num_clusters': 'Number of clusters.',
  'num_latents': 'Size of the latent vector of an image.',
  'num_steps': (
    'Training steps of the nested objective; 0 for 1,000 for digits and 5,000 '
    'for the others.'
  ),
  'num_warm_up_steps': (
    'Steps of encoder and decoder by themselves, and then with clusters that '
    'are given; 0 for 300 for digits and 2,500 for the others.'
  ),
  'learning_rate': 'Learning rate of Adam.',
  'concentration': 'Concentration of the Dirichlet distribution.',
  'kl_weight': (
    'How much the density of latents counts beside the images; 0 for 2 for '
    'digits and 10 for the others.'
  ),
  'proportions_in_training': (
    'Give mini-batches in training class proportions of their own; otherwise, '
    'they have images at random.'
  ),
  'num_test_images': 'Images of a mini-batch at test.',
  'seed': 'Seed of all that is random.',
  'data_dir': (
    'Folder with IDX files; otherwise that of the environment variable '
    f'{image_data.DATA_DIR_VARIABLE}, the cache of Keras, or a download.'
  ),
  'checkpoint_dir': 'Folder for checkpoints; in the output folder by default.',
  'output_dir': 'Folder to write to.',
  'eval_only': 'Evaluate the latest checkpoint, without training.',
  'overwrite': (
    'Evaluate again what the output folder has, and discard what it has of '
    'another configuration.'
  ),
}


def main(argv):
  """Runs the experiment with the values of flags.

  Args:
    argv: List of Python `str`s: the program, and nothing else.

  Returns:
    exit_status: Python `int`.
  """
  # TensorFlow's notes on saving models and checkpoints.
  logging.set_verbosity(logging.WARNING)
  try:
    return programs.main(run, argv)
  except (image_data.DataError, ImportError) as e:
    print(e, file=sys.stderr)
    return 1


if __name__ == '__main__':
  programs.define_flags(run, _FLAGS)
  app.run(main)

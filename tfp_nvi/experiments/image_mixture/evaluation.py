# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a trained mixture on the test set."""

import importlib

import numpy as np
import tensorflow as tf

from tfp_nvi.experiments.image_mixture.batches import mini_batches
from tfp_nvi.internal import randomness

__all__ = [
  'NUM_CLUSTER_SAMPLES',
  'NUM_INFERENCE_SAMPLES',
  'check_packages',
  'evaluate',
  'match',
  'total_variation',
]

# The number of draws of z that each posterior is averaged over.
NUM_INFERENCE_SAMPLES = 20
# The number of images of each cluster that are generated for the pictures.
NUM_CLUSTER_SAMPLES = 12
_NUM_TEST_BATCHES = 100
_NUM_BOUND_SAMPLES = 100
_NUM_BOUND_IMAGES = 1_000
_NUM_DRAWN = 100


def check_packages():
  """Checks for the packages of an extra that an evaluation needs.

  Raises:
    ImportError: If one is not installed.
  """
  try:
    for name in ('scipy.optimize', 'sklearn.metrics'):
      importlib.import_module(name)
  except ImportError as e:
    raise ImportError(
      'This experiment needs scikit-learn and SciPy: pip install '
      f'"tfp-nvi[images]" ({e}).'
    ) from e


def match(labels, clusters, num_classes, num_clusters):
  """Returns the best matching of clusters to classes.

  Args:
    labels: int array of shape `[n]`.
    clusters: int array of shape `[n]`.
    num_classes: Python `int`.
    num_clusters: Python `int`.

  Returns:
    class_of_cluster: int array of shape `[num_clusters]`; -1 where a cluster
      has no class.
  """
  # This package belongs to an extra, which is not needed for --help.
  import scipy.optimize

  contingency = np.zeros([num_clusters, num_classes], np.int64)
  np.add.at(contingency, (clusters, labels), 1)
  rows, columns = scipy.optimize.linear_sum_assignment(-contingency)
  class_of_cluster = np.full(num_clusters, -1)
  class_of_cluster[rows] = columns
  return class_of_cluster


def total_variation(inferred, true, class_of_cluster):
  """Computes distances of proportions of clusters from those of classes.

  The share of a cluster without a class counts as misplaced.

  Args:
    inferred: float array of shape `[num_batches, num_clusters]`.
    true: float array of shape `[num_batches, num_classes]`.
    class_of_cluster: int array of shape `[num_clusters]`.

  Returns:
    distances: float array of shape `[num_batches]`.
  """
  num_classes = true.shape[1]
  # There is one more class, for clusters without a class.
  by_class = np.zeros([len(inferred), num_classes + 1])
  for i, k in enumerate(class_of_cluster):
    by_class[:, k] += inferred[:, i]
  padded = np.concatenate([true, np.zeros([len(true), 1])], axis=1)
  return 0.5 * np.abs(by_class - padded).sum(axis=1)


def evaluate(mixture, data, settings):
  """Measures a mixture on the test set.

  Args:
    mixture: `DeepMixture`.
    data: `ImageData`.
    settings: `Settings`.

  Returns:
    figures: Python `dict`: fields of a row.
    arrays: Python `dict` of NumPy arrays, to draw from.
  """
  # Installed with an extra, which `check_packages` has looked for.
  from sklearn import metrics

  num_classes = len(data.class_names)
  seed = randomness.as_seed(settings.seed)

  @tf.function(autograph=False)
  def infer(images, seed):
    arguments = (images, NUM_INFERENCE_SAMPLES, seed)
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
  class_of_cluster = match(
    data.test_labels, clusters, num_classes, mixture.num_clusters
  )
  accuracy = np.mean(class_of_cluster[clusters] == data.test_labels)
  information = metrics.normalized_mutual_info_score(data.test_labels, clusters)

  batches, proportions = mini_batches(
    data.test_images,
    data.test_labels,
    num_classes,
    settings.num_test_images,
    _NUM_TEST_BATCHES,
    settings.concentration,
    # The mini-batches are the same for every objective and seed.
    seed=0,
  )
  posteriors = []
  for i, (images, _) in enumerate(batches):
    posteriors.append(infer(images, randomness.fold_in(seed, i)))
    if i == 0:
      first_images = images.numpy()
  inferred, of_one_pass = np.array(posteriors).swapaxes(0, 1)
  distances = total_variation(inferred, proportions, class_of_cluster)
  of_one_pass = total_variation(of_one_pass, proportions, class_of_cluster)
  c, generated = mixture.generate(
    inferred[0], settings.num_test_images, randomness.fold_in(seed, 1_000)
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
    np.arange(mixture.num_clusters), NUM_CLUSTER_SAMPLES
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

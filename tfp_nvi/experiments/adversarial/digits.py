# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Judges images of digits by a classifier that was trained on real ones."""

import warnings

import numpy as np

from tfp_nvi.experiments.image_mixture import image_data

__all__ = [
  'SURE',
  'judge',
  'make_classifier',
  'training_images',
]

# An image counts as recognized from this probability on.
SURE = 0.9


def training_images() -> np.ndarray:
  """Returns training images as vectors of intensities between -1 and 1."""
  return _as_vectors(image_data.load('digits').train_images)


def _as_vectors(images):
  return (images.reshape([len(images), -1]) / 127.5 - 1.0).astype(np.float32)


def make_classifier(seed: int):
  """Trains a classifier on real images.

  Args:
    seed: Python `int`.

  Returns:
    predict_fn: Python callable from images as vectors to probabilities of the
      ten classes.
    accuracy: Python `float`: on test images.
    share_sure: Python `float`: the share of test images that the classifier is
      sure of.
  """
  from sklearn import exceptions, neural_network

  data = image_data.load('digits')
  classifier = neural_network.MLPClassifier(
    [128], max_iter=60, random_state=seed
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    classifier.fit(_as_vectors(data.train_images), data.train_labels)
  found = classifier.predict_proba(_as_vectors(data.test_images))
  return (
    classifier.predict_proba,
    float(np.mean(np.argmax(found, axis=1) == data.test_labels)),
    float(np.mean(np.max(found, axis=1) >= SURE)),
  )


def _entropy(probabilities):
  """Returns entropies, in nats."""
  logs = np.log(np.maximum(probabilities, 1e-30))
  return -np.sum(probabilities * logs, axis=-1)


def judge(images: np.ndarray, seed: int) -> tuple[dict, np.ndarray]:
  """Judges images by a classifier.

  Args:
    images: float array of shape `[num_images, 64]`.
    seed: Python `int`, of the classifier.

  Returns:
    row: Python `dict`: the accuracy of the classifier and the share of real
      images that it is sure of; the mean entropy of its classes for an image,
      and the entropy of its classes for all images, at most `log 10`.
    class_shares: float array of shape `[10]`: the share of all images that the
      classifier is sure belong to each class.
  """
  predict_fn, accuracy, share_sure = make_classifier(seed)
  probabilities = predict_fn(images)
  is_sure = np.max(probabilities, axis=1) >= SURE
  labels = np.argmax(probabilities, axis=1)
  shares = np.bincount(labels[is_sure], minlength=10) / len(images)
  return {
    'classifier_accuracy': accuracy,
    'share_of_real_recognized': share_sure,
    'entropy_of_an_image': float(np.mean(_entropy(probabilities))),
    'entropy_of_classes': float(_entropy(np.mean(probabilities, axis=0))),
  }, shares

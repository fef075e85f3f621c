# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Saves a trained mixture, to be used without this library."""

import os
import tempfile

import tensorflow as tf

from tfp_nvi.experiments.image_mixture import evaluation

__all__ = [
  'save',
]


class _Inference(tf.Module):
  """The module that is saved: inference from images, and nothing else."""

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
      images, evaluation.NUM_INFERENCE_SAMPLES, tf.constant([0, 0])
    )
    return posterior._asdict()


def save(mixture, class_of_cluster, path):
  """Saves a model; a model that exists is replaced at the end.

  Args:
    mixture: `DeepMixture`.
    class_of_cluster: int array of shape `[num_clusters]`.
    path: Python `str`: the folder of the model.
  """
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

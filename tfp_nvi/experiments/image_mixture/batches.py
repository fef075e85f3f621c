# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mini-batches of images with class proportions of their own."""

import numpy as np
import tensorflow as tf

__all__ = [
  'mini_batches',
]


def mini_batches(
  images, labels, num_classes, num_images, num_batches, concentration, seed
):
  """Makes mini-batches with class proportions from a Dirichlet distribution.

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
  from tfp_nvi.experiments import image_mixture

  data, proportions = image_mixture.mini_batches(
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

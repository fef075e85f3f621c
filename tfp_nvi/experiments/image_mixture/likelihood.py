# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The likelihood of images, with few passes over their pixels.

#### References

[1]: G. Loaiza-Ganem, J. P. Cunningham. The continuous Bernoulli: fixing a
     pervasive error in variational autoencoders. NeurIPS, 2019.
     https://arxiv.org/abs/1907.06845
[2]: W. Shi et al. Real-time single image and video super-resolution using an
     efficient sub-pixel convolutional neural network. CVPR, 2016.
     https://arxiv.org/abs/1609.05158
"""

import tensorflow as tf

__all__ = [
  'MAX_LOGIT',
  'differentiable',
  'image_log_prob',
  'intensities',
  'take_apart',
]

# The density of a continuous Bernoulli distribution grows without limit where a
# pixel is exactly black or white, as most are, and would dominate training.
# With absolute logits below this value, the density of such a pixel is at most
# about this value.
MAX_LOGIT = 20.0

# Below this absolute value of a logit, a series replaces differences of large
# numbers, which would lose digits. Its next terms are below float32 rounding.
_SMALL_LOGIT = 0.1


def intensities(images):
  """Converts bytes to floats from 0 to 1; keeps the values of floats."""
  images = tf.convert_to_tensor(images)
  if images.dtype == tf.uint8:
    return tf.cast(images, tf.float32) / 255.0
  if not images.dtype.is_floating:
    raise TypeError(
      '`images` must be of dtype uint8, from 0 to 255, or floating-point, from '
      f'0 to 1; got {images.dtype.name}.'
    )
  return tf.cast(images, tf.float32)


@tf.function(jit_compile=True, autograph=False)
def _image_log_prob_and_gradient(outputs, pixels):
  """Returns log densities under continuous Bernoulli distributions [1].

  This makes few passes over the pixels, because `tfd.ContinuousBernoulli` and
  its gradient took half as long as all networks together.

  ```none
  log p(x) = x l + log C(l),   log C(l) = log(|l| / (1 - e)) - max(l, 0)
  d log p(x) / d l = x - mean,  mean = 1 / (1 - e) - 1 / |l|       (l > 0)
  l = 20 tanh(output / 20),     e = exp(-|l|)
  ```

  Args:
    outputs: float `Tensor` of shape `batch + [num_pixels]`.
    pixels: uint8 or float `Tensor` that broadcasts to it.

  Returns:
    log_prob: float `Tensor` of shape `batch`.
    gradient: float `Tensor` of the shape of `outputs`.
  """
  x = intensities(pixels)
  tanh = tf.math.tanh(outputs / MAX_LOGIT)
  logits = MAX_LOGIT * tanh
  size = tf.abs(logits)
  is_small = size < _SMALL_LOGIT
  safe = tf.where(is_small, tf.ones_like(size), size)
  # 1 - exp(-|l|), exact enough where |l| is not small.
  complement = 1.0 - tf.exp(-safe)
  square = size * size
  log_ratio = tf.where(
    is_small, size / 2.0 - square / 24.0, tf.math.log(safe / complement)
  )
  # This is the mean at |l|; that at -|l| is one minus it.
  mean = tf.where(
    is_small,
    0.5 + size * (1.0 / 12.0 - square / 720.0),
    1.0 / complement - 1.0 / safe,
  )
  mean = tf.where(logits < 0.0, 1.0 - mean, mean)
  log_prob = x * logits + log_ratio - tf.nn.relu(logits)
  # A sum inside the loop over pixels would keep XLA from vectorizing it.
  total = tf.linalg.matvec(log_prob, tf.ones([log_prob.shape[-1]]))
  return total, (x - mean) * (1.0 - tanh * tanh)


def differentiable(log_prob_and_gradient_fn, x):
  """Makes a log density differentiable in `x` alone, by a given gradient.

  Args:
    log_prob_and_gradient_fn: Python callable from `x` to a log density of shape
      `batch`, and its gradient. Their other inputs are held fixed.
    x: float `Tensor` of shape `batch + [size]`.

  Returns:
    log_prob: float `Tensor` of shape `batch`.
  """

  @tf.custom_gradient
  def log_prob_fn(x):
    # Nothing is recorded here: under nested tapes, a compiled function would
    # also return all intermediate values that its second derivatives need.
    evaluate = tf.recompute_grad(log_prob_and_gradient_fn)
    log_prob, slope = map(tf.stop_gradient, evaluate(x))

    def backward(upstream, variables=()):
      gradient = upstream[..., tf.newaxis] * slope
      return (gradient, [None for _ in variables]) if variables else gradient

    return log_prob, backward

  return log_prob_fn(x)


def image_log_prob(outputs, pixels):
  """Returns log densities of images; one pass computes the gradient too.

  Args:
    outputs: float `Tensor` of shape `batch + [num_pixels]`, of any size.
    pixels: uint8 or float `Tensor` that broadcasts to it, not differentiated.

  Returns:
    log_prob: float `Tensor` of shape `batch`.
  """
  return differentiable(
    lambda x: _image_log_prob_and_gradient(x, pixels), outputs
  )


def take_apart(images, stride):
  """Orders pixels as the decoder does, one square piece after the other [2].

  Args:
    images: uint8 or float `Tensor` of shape `batch + [height, width]`, the
      last two known.
    stride: Python `int`: the side of a piece.

  Returns:
    pixels: `Tensor` of shape `batch + [height * width]` and the same dtype.
  """
  height, width = images.shape[-2:]
  shape = tf.concat([tf.shape(images)[:-2], [height * width]], axis=0)
  rows = tf.reshape(images, [-1, stride, width // stride, stride])
  # A transposition is faster than `tf.nn.space_to_depth`. It moves four bytes
  # at a time if a row of a piece has that many.
  if images.dtype == tf.uint8 and stride == 4:
    words = tf.transpose(tf.bitcast(rows, tf.int32), [0, 2, 1])
    pixels = tf.bitcast(words, tf.uint8)
  else:
    pixels = tf.transpose(rows, [0, 2, 1, 3])
  return tf.reshape(pixels, shape)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates deep latent Gaussian models on test images."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi.experiments.deep_gaussian import model as model_lib
from tfp_nvi.internal import randomness

tfd = tfp.distributions

__all__ = [
  'evaluate',
  'fill_in',
]

# The test set is binarized by this seed, whatever the seed of training.
_BINARIZATION_SEED = 2014
_NUM_ELBO_DRAWS = 64
# Images at a time.
_BATCH_SIZE = 500
# The numbers of images in pictures.
_NUM_DRAWN = 24
_NUM_TRAVERSED = 4
_TRAVERSAL = np.linspace(-2.5, 2.5, 9)
_NUM_FILLING_STEPS = 50


def evaluate(model, data, settings):
  """Measures a model, and draws from it.

  Args:
    model: `DeepGaussian`.
    data: `ImageData`.
    settings: `Settings`.

  Returns:
    row: Python `dict` of numbers.
    arrays: Python `dict` of arrays, for pictures.
  """
  images = data.test_images[: settings.num_test_images or None]
  shape = images.shape[1:]
  x = model_lib.binarize(
    tf.constant(images.reshape(len(images), -1)),
    randomness.as_seed(_BINARIZATION_SEED),
  )
  seeds = tf.unstack(
    randomness.split_seed(randomness.as_seed(settings.seed), 6)
  )
  long = nvi.log_likelihood(
    x,
    model.infer,
    model.log_joint,
    settings.num_test_particles,
    settings.num_test_densities,
    seed=seeds[0],
  )
  num_compared = min(settings.num_compared_images, len(x))
  importance = nvi.log_likelihood(
    x[:num_compared],
    model.infer,
    model.log_joint,
    settings.num_importance_draws,
    num_densities=2,
    batch_size=max(1, 50_000 // settings.num_importance_draws),
    seed=seeds[1],
  )
  gain = long.estimates[:num_compared] - importance.estimates
  row = {
    'test_log_likelihood': long.mean,
    'test_log_likelihood_error': long.mean_error,
    'elbo': _elbo(model, x, seeds[2]),
    'importance_weighted_bound': importance.mean,
    'gain_over_importance_sampling': float(np.mean(gain)),
  }
  shown = x[:_NUM_DRAWN]
  observed = np.arange(shape[0])[:, np.newaxis] < shape[0] // 2
  observed = np.broadcast_to(observed, shape).reshape(-1)
  arrays = {
    'originals': shown,
    'reconstructions': _reconstruct(model, shown),
    'samples': _sample(model, 2 * _NUM_DRAWN, seeds[3]),
    'traversals': _traverse(model, x[:1_000]),
    'observed': observed,
    'filled': fill_in(model, shown, observed, _NUM_FILLING_STEPS, seeds[4]),
  }
  return row, {
    key: np.reshape(value, [-1, *shape]) for key, value in arrays.items()
  }


def _elbo(model, x, seed):
  """Returns the mean evidence lower bound of images."""

  def sum_of(x, seed):
    proposal = model.infer(x)
    with randomness.portable_sampling():
      z = proposal.sample(_NUM_ELBO_DRAWS, seed=seed)
    terms = model.log_joint(z, x) - proposal.log_prob(z)
    return tf.reduce_sum(tf.reduce_mean(terms, axis=0))

  # There is one compiled function for each of the two batch sizes, so that
  # TensorFlow does not warn of retracing if there are many models.
  compiled = {}
  total = 0.0
  for i in range(0, len(x), _BATCH_SIZE):
    part = tf.convert_to_tensor(x[i : i + _BATCH_SIZE])
    size = len(part)
    if size not in compiled:
      compiled[size] = tf.function(
        sum_of, autograph=False
      ).get_concrete_function(
        tf.TensorSpec(part.shape, part.dtype), tf.TensorSpec([2], tf.int32)
      )
    total += float(compiled[size](part, randomness.fold_in(seed, i)))
  return total / len(x)


def _means(model, z_1):
  return tf.sigmoid(model.logits(z_1))


def _reconstruct(model, x):
  """Returns means of pixels at the means of the recognized latents."""
  return _means(model, model.recognition[0](x).mean())


def _sample(model, count, seed):
  """Returns means of pixels at draws of the prior."""
  with randomness.portable_sampling():
    return _means(model, model.prior([count]).sample(seed=seed)[-1])


def _traverse(model, x):
  """Returns means of pixels along latents of the last layer.

  The latents are those whose means vary most from image to image. Layers below
  are at their means.
  """
  above = model.recognition[0](x).mean()
  for layer in model.recognition[1:]:
    above = layer(above).mean()
  order = np.argsort(-np.var(above, axis=0))[:_NUM_TRAVERSED]
  z = np.zeros([len(order), len(_TRAVERSAL), above.shape[-1]], np.float32)
  for i, k in enumerate(order):
    z[i, :, k] = _TRAVERSAL
  z = tf.constant(z)
  for layer in model.generative[::-1]:
    z = layer(z).mean()
  return _means(model, z)


def fill_in(model, x, observed, num_steps, seed):
  """Fills in missing pixels by a Markov chain.

  Latents given all pixels and missing pixels given latents are drawn in turn,
  which leads to the posterior of the missing pixels if recognition is exact.

  Args:
    model: `DeepGaussian`.
    x: float `Tensor` of shape `[num_images, num_pixels]`; missing pixels have
      no influence.
    observed: bool array of shape `[num_pixels]`.
    num_steps: Python `int`.
    seed: Stateless seed.

  Returns:
    filled: float `Tensor` of the shape of `x`: observed pixels, and the means
      of the missing ones given the last latents.

  #### References

  [1]: D. J. Rezende, S. Mohamed, D. Wierstra. Stochastic backpropagation and
       approximate inference in deep generative models. ICML, 2014.
       https://arxiv.org/abs/1401.4082
  """
  x = tf.convert_to_tensor(x)

  @tf.function(autograph=False)
  def fill(seed):
    first, *seeds = tf.unstack(randomness.split_seed(seed, num_steps + 1))
    means = tf.where(observed, x, _sample(model, x.shape[0], first))
    for one in seeds:
      pixel_seed, z_seed = tf.unstack(randomness.split_seed(one, 2))
      pixels = randomness.uniform(means.shape, pixel_seed)
      pixels = tf.cast(pixels < means, tf.float32)
      with randomness.portable_sampling():
        z = model.recognition[0](pixels).sample(seed=z_seed)
      means = tf.where(observed, x, _means(model, z))
    return means

  return fill(seed)

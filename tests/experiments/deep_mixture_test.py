# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Densities, gradients and inference of the deep mixture."""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments.image_mixture import (
  deep_mixture,
  likelihood,
  mixture_model,
)

tfd = tfp.distributions

SEED = tf.constant([1, 2])


def make(**kwargs):
  return deep_mixture.DeepMixture(
    **{
      'image_shape': [8, 8],
      'num_clusters': 3,
      'num_latents': 2,
      'num_flow_layers': 2,
      'num_simulated': 50,
      'seed': 1,
      **kwargs,
    }
  )


def set_clusters(mixture, loc, scale):
  """Sets the clusters, but not those that `pi(z)` starts from."""
  unit = mixture_model._CLUSTER_UNIT
  mixture._loc.assign(np.asarray(loc, np.float32) / unit)
  mixture._log_scale.assign(np.log(scale).astype(np.float32) / unit)


def make_images(count=6):
  images = np.random.default_rng(0).integers(256, size=[count, 8, 8])
  return tf.constant(images.astype(np.uint8))


def test_image_log_prob():
  # That of the continuous Bernoulli distribution, with logits that are bounded;
  # the gradient is that of automatic differentiation. Both to the rounding of
  # float32: a sum of twelve values of up to 20, near zero and far from it.
  x = tf.constant(np.random.default_rng(0).uniform(size=[2, 12]), tf.float32)
  outputs = tf.Variable(tf.random.stateless_normal([5, 2, 12], SEED))
  upstream = tf.random.stateless_normal([5, 2], SEED)

  def expected(outputs):
    # In float64: the distribution loses digits near a logit of zero.
    bounded = 20.0 * tf.tanh(tf.cast(outputs, tf.float64) / 20.0)
    log_prob = tfd.ContinuousBernoulli(bounded).log_prob(tf.cast(x, tf.float64))
    return tf.cast(tf.reduce_sum(log_prob, axis=-1), tf.float32)

  for scale in (0.01, 0.1, 1.0, 10.0, 100.0):
    gradients = []
    for fn in (
      lambda outputs: likelihood.image_log_prob(outputs, x),
      expected,
    ):
      with tf.GradientTape() as tape:
        values = fn(scale * outputs)
      gradients.append(tape.gradient(values, outputs, upstream) / scale)
      np.testing.assert_allclose(
        values, expected(scale * outputs), rtol=1e-5, atol=2e-5
      )
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('shape', [[8, 12], [16, 20]])
@pytest.mark.parametrize('dtype', [tf.uint8, tf.float32])
def test_images_are_compared_pixel_by_pixel(shape, dtype):
  # Though the decoder has them in another order, and bytes go another way.
  mixture = deep_mixture.DeepMixture(shape, num_latents=2, seed=1)
  images = np.random.default_rng(0).integers(256, size=[6, *shape])
  images = tf.constant(images.astype(np.uint8))
  x = mixture.intensities(images)
  z = 3.0 * tf.random.stateless_normal([5, 6, 2], SEED)
  logits = 20.0 * tf.tanh(mixture.decode(z) / 20.0)
  expected = tfd.ContinuousBernoulli(logits).log_prob(x)
  np.testing.assert_allclose(
    mixture.image_log_prob(images if dtype == tf.uint8 else x, z),
    tf.reduce_sum(expected, axis=[-2, -1]),
    rtol=1e-3,
    atol=1e-5,
  )


def test_size_of_images_that_are_compared():
  mixture = make()
  images, z = make_images(), tf.random.stateless_normal([5, 6, 2], SEED)
  unknown = tf.function(
    mixture.image_log_prob,
    input_signature=[
      tf.TensorSpec([None, None, None], tf.uint8),
      tf.TensorSpec([None, None, 2]),
    ],
    autograph=False,
  )
  np.testing.assert_allclose(
    unknown(images, z), mixture.image_log_prob(images, z), rtol=1e-5
  )
  with pytest.raises(tf.errors.InvalidArgumentError, match=r'4,16.*8,8'):
    unknown(tf.reshape(images, [6, 4, 16]), z)
  with pytest.raises(ValueError, match=r'`images` must .*8, 8.*\(6, 4, 16\)'):
    mixture.image_log_prob(tf.reshape(images, [6, 4, 16]), z)


def test_dtypes_of_images():
  mixture = make()
  images, z = make_images().numpy(), tf.random.stateless_normal([5, 6, 2], SEED)
  x = images.astype(np.float64) / 255.0
  np.testing.assert_allclose(mixture.intensities(images), x, rtol=1e-6)
  np.testing.assert_allclose(mixture.intensities(x), x, rtol=1e-6)
  np.testing.assert_allclose(
    mixture.image_log_prob(x, z), mixture.image_log_prob(images, z), rtol=1e-5
  )
  for fn in (mixture.intensities, lambda x: mixture.image_log_prob(x, z)):
    with pytest.raises(TypeError, match='`images` must .*uint8.* got int32'):
      fn(images.astype(np.int32))


def test_density_of_latents_in_the_level_of_images():
  # Its values and slopes are those of the flows, which are held fixed there.
  mixture = make()
  z = tf.random.stateless_normal([5, 6, 2], SEED)
  upstream = tf.random.stateless_normal([5, 6], SEED)
  found = []
  for fn in (mixture.flow.log_prob, mixture._flow_log_prob):
    with tf.GradientTape(persistent=True) as tape:
      tape.watch(z)
      values = fn(z)
    found.append((values, tape.gradient(values, z, upstream)))
  np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-4, atol=1e-5)
  assert all(g is None for g in tape.gradient(values, mixture.flow.variables))


def test_compiled_densities_return_nothing_else():
  # Under tapes of tapes, as in training: what second derivatives would take is
  # written to memory by each call otherwise.
  mixture = make()
  images = make_images()

  @tf.function(autograph=False)
  def gradients(seed):
    _, pairs = nvi.reverse_kl()(
      nvi.Chain(lambda: [mixture.levels(images)[2]]), 1, seed
    )
    return [gradient for gradient, _ in pairs]

  graph = gradients.get_concrete_function(SEED).graph
  functions = graph.as_graph_def().library.function
  compiled = {
    f.signature.name for f in functions if f.attr['_XlaMustCompile'].b
  }
  calls = [
    op
    for op in graph.get_operations()
    if op.type in ('PartitionedCall', 'StatefulPartitionedCall')
    and op.get_attr('f').name in compiled
  ]
  assert [len(op.outputs) for op in calls] == [2, 2]


def test_bytes_and_intensities_are_the_same():
  mixture, images = make(), make_images()
  np.testing.assert_allclose(
    mixture.cluster_probs(images),
    mixture.cluster_probs(tf.cast(images, tf.float32) / 255.0),
  )


def test_levels_train_all_of_it_once():
  mixture = make()
  levels = mixture.levels(make_images())
  named = [v.ref() for level in levels for v in level.variables]
  assert len(named) == len(set(named))
  assert set(named) == {v.ref() for v in mixture.trainable_variables}


def test_latents_level():
  # The clusters follow the codes: gradient descent on the last level alone
  # brings them to where codes are.
  mixture, images = make(num_clusters=2), make_images(30)
  codes = mixture.encode(mixture.intensities(images)).mean().numpy()
  set_clusters(mixture, codes[:2], np.ones([2, 2]))
  np.testing.assert_allclose(mixture.loc, codes[:2], rtol=1e-5)
  np.testing.assert_allclose(mixture.scale, np.ones([2, 2]), rtol=1e-5)
  chain = nvi.Chain(lambda: mixture.levels(images)[3:])
  _, pairs = nvi.reverse_kl()(chain, 500, SEED)
  moved = {v.name: g for g, v in pairs}
  assert sorted(moved) == ['loc:0', 'log_scale:0']
  # The mean over images of q(c) (loc - z) / scale^2, by hand.
  encoder = mixture.encode(mixture.intensities(images))
  z = encoder.sample(4_000, seed=SEED).numpy()
  probs = mixture._clusters(tf.constant(z)).probs_parameter().numpy()
  expected = np.stack(
    [
      np.sum(np.mean(probs[..., k, None] * (codes[k] - z), axis=0), axis=0)
      for k in range(2)
    ]
  )
  gradient = moved['loc:0']
  # Standard errors are about 30 * 0.5 / sqrt(30 * 500) = 0.12.
  np.testing.assert_allclose(
    gradient / mixture_model._CLUSTER_UNIT, expected, atol=0.6
  )


def test_flow_starts_at_the_clusters():
  mixture = make()
  # Directions, normals and biases of two flows, an affine map, and the base.
  assert len(mixture.flow.trainable_variables) == 3 + 2 + 3
  expected = tfd.MixtureSameFamily(
    tfd.Categorical(logits=tf.zeros([3])),
    tfd.MultivariateNormalDiag(mixture.loc, mixture.scale),
  )
  z = 3.0 * tf.random.stateless_normal([20, 2], SEED)
  np.testing.assert_allclose(
    mixture.flow.log_prob(z), expected.log_prob(z), rtol=1e-4, atol=1e-4
  )


def set_exact_proportions(mixture):
  """Makes `q(lambda | c)` that of a Dirichlet prior of concentration one."""
  for v in mixture.counter.trainable_variables:
    v.assign(tf.zeros_like(v))


def set_logits(monkeypatch, mixture, logits):
  """Gives what `q(c | z)` says of each image."""
  logits = tf.constant(logits, tf.float32)
  monkeypatch.setattr(
    mixture,
    '_clusters',
    lambda z: tfd.Categorical(
      logits=logits + tf.zeros(z.shape[:-1] + [logits.shape[-1]])
    ),
  )


def test_proportions_of_a_mini_batch(monkeypatch):
  mixture = make()
  set_exact_proportions(mixture)
  mixture.cluster_logits.assign([0.5, 0.0, -0.5])
  prior = scipy.special.log_softmax([0.5, 0.0, -0.5])
  z = tf.zeros([20, 2])
  # With clusters that are certain, the mean of the posterior of proportions.
  counts = np.array([13, 2, 5])
  set_logits(monkeypatch, mixture, 50.0 * np.repeat(np.eye(3), counts, axis=0))
  np.testing.assert_allclose(
    mixture._log_ratio(z), np.log((counts + 1.0) / 23.0) - prior, atol=2e-3
  )
  # With others, the counts are what the proportions make of them.
  logits = np.random.default_rng(0).normal(scale=3.0, size=[20, 3])
  set_logits(monkeypatch, mixture, logits + [1.0, 0.0, 0.0])
  found = mixture._log_ratio(z).numpy()
  probs = scipy.special.softmax(logits + [1.0, 0.0, 0.0] + found, axis=1)
  np.testing.assert_allclose(
    np.exp(found + prior), (probs.sum(axis=0) + 1.0) / 23.0, atol=5e-3
  )
  # They are far from those without the proportions.
  apart = scipy.special.softmax(logits + [1.0, 0.0, 0.0], axis=1)
  assert np.max(np.abs(probs.sum(axis=0) - apart.sum(axis=0))) > 0.3


def test_levels_that_share_proportions(monkeypatch):
  mixture, images = make(), make_images()
  mixture.cluster_logits.assign([0.5, 0.0, -0.5])
  log_ratio = np.array([1.0, -0.3, -2.0], np.float32)
  monkeypatch.setattr(mixture, '_log_ratio', lambda z: tf.constant(log_ratio))
  apart, shared = (mixture.levels(images, shares=s) for s in (False, True))
  z = tf.random.stateless_normal([5, 6, 2], SEED)
  log_probs = tf.math.log_softmax(mixture._clusters(z).logits)
  # The density of latents has the ratio's mean as a factor.
  np.testing.assert_allclose(
    shared[2].log_target(z) - apart[2].log_target(z),
    scipy.special.logsumexp(log_probs + log_ratio, axis=-1),
    rtol=1e-3,
    atol=1e-4,
  )
  # Clusters are inferred by it, and as frequent as it says.
  for level, ratio in ((apart[3], 0.0), (shared[3], log_ratio)):
    values = level.draw(5, SEED)
    z, c = values['z'], values['c']
    move, log_target = level.evaluate(values)
    encoder = mixture.encode(mixture.intensities(images))
    logits = mixture._clusters(z).logits + ratio
    np.testing.assert_allclose(
      move.log_forward,
      encoder.log_prob(z) + tfd.Categorical(logits).log_prob(c),
      rtol=1e-4,
      atol=1e-4,
    )
    frequency = tfd.Categorical(mixture.cluster_logits + ratio)
    latents = tfd.MultivariateNormalDiag(
      tf.gather(mixture.loc, c), tf.gather(mixture.scale, c)
    )
    np.testing.assert_allclose(
      log_target,
      frequency.log_prob(c) + latents.log_prob(z),
      rtol=1e-4,
      atol=1e-4,
    )


def test_proportions_are_learned():
  # The posterior of proportions, given clusters, is Dirichlet with the prior's
  # concentration plus counts. One level alone learns it.
  mixture = make(concentration=0.7)
  images = make_images(2)
  nvi.fit(
    nvi.Chain(lambda: mixture.levels(images)[:1]),
    nvi.reverse_kl(),
    num_particles=1,
    num_steps=600,
    optimizer=tf_keras.optimizers.Adam(1e-2),
    seed=1,
    progress=False,
  )
  counts = np.array([[40.0, 8.0, 2.0], [17.0, 16.0, 17.0], [0.0, 25.0, 25.0]])
  learned = mixture._proportions(tf.constant(counts, tf.float32))
  expected = tfd.Dirichlet(counts + 0.7)
  np.testing.assert_allclose(learned.mean(), expected.mean(), atol=0.02)
  np.testing.assert_allclose(learned.stddev(), expected.stddev(), rtol=0.25)


def test_bound():
  # With a decoder that ignores z, the bound is the log density of an image
  # under that decoder, plus that of weights whose mean is one.
  mixture, images = make(), make_images()
  for v in mixture.decoder.trainable_variables:
    v.assign(tf.zeros_like(v))
  set_clusters(mixture, np.zeros([3, 2]), np.ones([3, 2]))
  bound = mixture.bound(images, 20_000, SEED)
  # Of logits zero, the density is uniform: its logarithm is zero.
  np.testing.assert_allclose(bound, np.zeros(6), atol=0.1)


def test_bound_of_any_number_of_images():
  mixture, images = make(), make_images()
  bound = tf.function(
    lambda x: mixture.bound(x, 3, SEED),
    input_signature=[tf.TensorSpec([None, 8, 8], tf.uint8)],
    autograph=False,
  )
  np.testing.assert_allclose(
    bound(images), mixture.bound(images, 3, SEED), rtol=1e-5
  )


def test_generate():
  mixture = make()
  c, images = mixture.generate(tf.constant([0.0, 1.0, 0.0]), 7, SEED)
  assert c.numpy().tolist() == [1] * 7
  assert images.shape == [7, 8, 8]
  assert np.all((images >= 0.0) & (images <= 1.0))


def test_infer():
  mixture, images = make(), make_images(20)
  posterior = mixture.infer(images, 50, SEED)
  for proportions in (posterior.proportions, posterior.proportions_samples):
    np.testing.assert_allclose(
      tf.reduce_sum(proportions, axis=-1), 1.0, rtol=1e-4
    )
  assert posterior.proportions_samples.shape == [50, 3]
  assert posterior.cluster_probs.shape == [20, 3]
  assert posterior.latent_loc.shape == posterior.latent_scale.shape == [20, 2]
  # The samples' mean is within 5 standard errors of the mean.
  samples = posterior.proportions_samples.numpy()
  error = samples.std(axis=0) / np.sqrt(50)
  assert np.all(
    np.abs(samples.mean(axis=0) - posterior.proportions) < 5.0 * error + 1e-3
  )


def test_infer_knows_of_all_images(monkeypatch):
  # With what each image says of its cluster given, and an exact q(lambda | c),
  # the posterior by enumeration of clusters.
  mixture, images = make(), make_images(4)
  set_exact_proportions(mixture)
  mixture.cluster_logits.assign([0.5, 0.0, -0.5])
  logits = np.random.default_rng(0).normal(scale=2.0, size=[4, 3])
  logits = (logits + [1.0, 0.0, 0.0]).astype(np.float32)
  set_logits(monkeypatch, mixture, logits)
  log_evidence = logits - np.log(np.exp([0.5, 0.0, -0.5]))
  weights, means, members = [], [], []
  for c in itertools.product(range(3), repeat=4):
    counts = np.bincount(c, minlength=3)
    # The Dirichlet-multinomial distribution with concentration one.
    weights.append(
      np.sum(log_evidence[np.arange(4), c])
      + np.sum(scipy.special.gammaln(counts + 1.0))
    )
    means.append((counts + 1.0) / 7.0)
    members.append(np.eye(3)[list(c)])
  weights = scipy.special.softmax(weights)
  num_samples = 100_000

  def errors(**kwargs):
    posterior = mixture.infer(images, num_samples, SEED, **kwargs)
    return [
      np.max(np.abs(found - np.tensordot(weights, expected, axes=1)))
      for found, expected in (
        (posterior.proportions, means),
        (posterior.cluster_probs, members),
      )
    ]

  # Draws are independent of each other, with deviations below 0.5: 5 standard
  # errors; and what 1 - softplus(0.54) adds.
  bound = 5.0 * 0.5 / np.sqrt(num_samples) + 1e-3
  assert max(errors()) < bound
  assert min(errors(num_sweeps=0)) > 1.5 * bound


def test_infer_where_proportions_underflow():
  # A cluster that has no image has next to nothing in q(lambda | c).
  mixture = make()
  *_, kernel, bias = mixture.counter.layers[-1].weights
  kernel.assign(tf.zeros_like(kernel))
  bias.assign([0.0, -30.0])
  for images in (make_images(1), make_images(20)):
    posterior = mixture.infer(images, 500, SEED)
    assert np.min(posterior.proportions_samples) == 0.0
    assert all(np.all(np.isfinite(x)) for x in posterior)


def test_infer_refuses_negative_numbers_of_sweeps():
  with pytest.raises(ValueError, match='`num_sweeps` must .* got -1'):
    make().infer(make_images(), 2, SEED, num_sweeps=-1)


def test_joint_level():
  # log p - log q of one level, part by part.
  mixture, images = make(), make_images()
  (level,) = mixture.joint_levels(images)
  values = level.draw(2, SEED)
  move, log_target = level.evaluate(values)
  c, z, proportions = (values[k] for k in ('c', 'z', 'proportions'))
  encoder = mixture.encode(mixture.intensities(images))
  counts = tf.reduce_sum(tf.one_hot(c, 3), axis=1)
  expected = (
    tf.reduce_sum(encoder.log_prob(z), axis=1)
    + tf.reduce_sum(mixture._clusters(z).log_prob(c), axis=1)
    + mixture._proportions(counts).log_prob(proportions)
  )
  np.testing.assert_allclose(move.log_forward, expected, rtol=1e-4)
  prior = tfd.MultivariateNormalDiag(
    tf.gather(mixture.loc, c), tf.gather(mixture.scale, c)
  )
  expected = (
    tfd.Dirichlet(tf.ones([3])).log_prob(proportions)
    + tf.reduce_sum(counts * tf.math.log(proportions), axis=1)
    + tf.reduce_sum(prior.log_prob(z), axis=1)
    + tf.reduce_sum(
      mixture.image_log_prob(mixture.intensities(images), z), axis=1
    )
  )
  np.testing.assert_allclose(log_target, expected, rtol=1e-4)


def test_image_shape():
  with pytest.raises(ValueError, match=r'`image_shape` .* of 4; got \[30, 28'):
    make(image_shape=[30, 28])

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clusters of images are those of similar ones, of similar sizes."""

import warnings

import numpy as np
import pytest
from scipy import special, stats
from sklearn import cluster, metrics, neighbors
from sklearn.exceptions import ConvergenceWarning

from tfp_nvi.experiments.image_mixture import image_clusters, image_data


def histograms(image):
  """Of one image, of shape `[num_cells, num_cells, 8]`."""
  found = image_clusters.orientation_histograms(image[np.newaxis])
  num_cells = round((found.size / 8) ** 0.5)
  return found.reshape(num_cells, num_cells, 8)


@pytest.mark.parametrize('size', [8, 12, 28])
class TestOrientationHistograms:
  """Edges are counted where they are, by how they run."""

  def image(self, size):
    return np.random.default_rng(1).integers(
      120, size=[size, size], dtype=np.uint8
    )

  def test_unit_length(self, size):
    found = histograms(self.image(size))
    np.testing.assert_allclose(np.sum(found**2), 1.0, rtol=1e-5)
    assert found.dtype == np.float32
    assert len(found) == {8: 4, 12: 6, 28: 7}[size]
    # A factor does not matter; nothing to see is no NaN.
    np.testing.assert_allclose(
      histograms(2 * self.image(size)), found, atol=1e-6
    )
    np.testing.assert_array_equal(histograms(0 * self.image(size)), 0.0)

  def test_transposed(self, size):
    # The angle of a gradient becomes pi / 2 minus itself, and 8 bins are pi.
    image = self.image(size)
    np.testing.assert_allclose(
      histograms(image.T),
      histograms(image).swapaxes(0, 1)[..., (4 - np.arange(8)) % 8],
      atol=1e-6,
    )

  def test_mirrored(self, size):
    # The angle becomes pi minus itself.
    image = self.image(size)
    np.testing.assert_allclose(
      histograms(image[:, ::-1]),
      histograms(image)[:, ::-1, (8 - np.arange(8)) % 8],
      atol=1e-6,
    )

  @pytest.mark.parametrize(
    ('slope', 'expected'), [((1, 0), 4), ((0, 1), 0), ((1, 1), 2), ((1, -1), 6)]
  )
  def test_slopes(self, size, slope, expected):
    rows, columns = np.mgrid[:size, :size]
    image = 100 + 3 * (slope[0] * rows + slope[1] * columns)
    # Without the edges of the image, away from which gradients are all alike.
    found = histograms(image.astype(np.uint8))[1:-1, 1:-1] ** 2
    center = found[len(found) // 2, len(found) // 2]
    assert center.argmax() == expected
    if size == 28:
      assert center[expected] > 0.99 * center.sum()


def test_many_images():
  # As many as are taken in several parts.
  images = np.random.default_rng(1).integers(256, size=[4_100, 4, 4])
  found = image_clusters.orientation_histograms(images.astype(np.uint8))
  for i in (0, 4_099):
    np.testing.assert_allclose(
      image_clusters.orientation_histograms(images[i : i + 1])[0],
      found[i],
      rtol=1e-5,
    )
  assert len(found) == 4_100


def three_groups():
  """Two of a quarter each, and one of a half which is nearer to the second."""
  generator = np.random.default_rng(1)
  groups = np.repeat([0, 1, 2], [100, 100, 200])
  vectors = generator.normal(size=[400, 2])
  vectors[:, 0] += np.array([0.0, 16.0, 26.0])[groups]
  return vectors, groups


def shares_of_first_cluster(vectors, groups):
  """Of each group, where the first cluster is that of the first vector."""
  shares = image_clusters.fit_balanced_mixtures(vectors, 2, seed=1)
  assert shares.shape == (8, len(groups), 2) and shares.dtype == np.float32
  np.testing.assert_allclose(shares.sum(axis=2), 1.0, atol=1e-5)
  clusters = shares[0].argmax(axis=1)
  is_first = clusters == clusters[0]
  return [np.mean(is_first[groups == k]) for k in range(3)]


def test_sizes_are_pulled_towards_equal_ones(monkeypatch):
  vectors, groups = three_groups()
  first, second, third = shares_of_first_cluster(vectors, groups)
  assert first > 0.99 and second > 0.9 and third < 0.1
  # Otherwise clusters are of groups that are next to each other.
  monkeypatch.setattr(image_clusters, '_NUM_SIZE_STEPS', 0)
  monkeypatch.setattr(image_clusters, '_NUM_LAST_SIZE_STEPS', 0)
  first, second, third = shares_of_first_cluster(vectors, groups)
  assert first > 0.99 and second < 0.1 and third < 0.1


def test_all_vectors_have_a_cluster(monkeypatch):
  # Not only those that a mixture is fitted to; scale and place do not matter.
  monkeypatch.setattr(image_clusters, '_MAX_FITTED', 150)
  vectors, groups = three_groups()
  for scale in (1e-4, 1e4):
    found = shares_of_first_cluster(scale * (vectors - 100.0), groups)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.0], atol=0.1)


def test_equal_vectors():
  with warnings.catch_warnings():
    # Of scikit-learn, that there are fewer points than clusters.
    warnings.simplefilter('ignore', ConvergenceWarning)
    shares = image_clusters.fit_balanced_mixtures(np.ones([9, 2]), 2, 1)
  np.testing.assert_allclose(shares, 0.5, atol=1e-3)


def test_sizes_become_equal():
  log_densities = np.random.default_rng(1).normal(size=[50, 3]) + [
    0.0,
    2.0,
    5.0,
  ]
  offsets = image_clusters._pull_sizes(log_densities, np.zeros(3), 1_000)
  sizes = special.softmax(log_densities + offsets, axis=1).sum(axis=0)
  np.testing.assert_allclose(sizes, 50 / 3, rtol=2e-3)
  # There the likelihood is at its minimum.
  least = image_clusters._log_likelihood(log_densities, offsets)
  for change in np.eye(3):
    for sign in (-0.1, 0.1):
      other = offsets + sign * change
      assert image_clusters._log_likelihood(log_densities, other) > least
  # A constant does not matter, as it does not for sizes.
  np.testing.assert_allclose(
    image_clusters._log_likelihood(log_densities, offsets + 7.0), least
  )


def test_fit_is_a_fixed_point(monkeypatch):
  # Another step of expectation maximization, written out, changes nothing.
  monkeypatch.setattr(image_clusters, '_MAX_ITERATIONS', 1_000)
  monkeypatch.setattr(image_clusters, '_TOLERANCE', 1e-12)
  monkeypatch.setattr(image_clusters, '_SIZE_TOLERANCE', 1e-9)
  vectors, _ = three_groups()
  vectors = (vectors - vectors.mean(axis=0)) / vectors.std()
  _, loc, covariance, offsets = image_clusters._fit_once(vectors, 3, seed=1)
  shares = np.zeros([400, 3])
  for k in range(3):
    shares[:, k] = offsets[k] + stats.multivariate_normal(
      loc[k], covariance
    ).logpdf(vectors)
  shares = special.softmax(shares, axis=1)
  np.testing.assert_allclose(shares.sum(axis=0), 400 / 3, rtol=1e-6)
  expected = 0.01 * np.eye(2)
  for k in range(3):
    mean = shares[:, k] @ vectors / shares[:, k].sum()
    np.testing.assert_allclose(loc[k], mean, atol=1e-4)
    centered = vectors - mean
    expected += (shares[:, k] * centered.T) @ centered / 400
  np.testing.assert_allclose(covariance, expected, atol=1e-4)


def test_best_fits_are_kept(monkeypatch):
  offsets = iter(np.random.default_rng(1).permutation(16).astype(float))

  def fit_once(vectors, num_clusters, seed):
    del vectors, num_clusters, seed
    offset = next(offsets)
    # The more likely, the more are in the first cluster.
    return offset, np.zeros([2, 2]), np.eye(2), np.array([offset, 0.0])

  monkeypatch.setattr(image_clusters, '_fit_once', fit_once)
  shares = image_clusters.fit_balanced_mixtures(np.eye(2), 2, seed=1)
  expected = special.expit(np.arange(15, 7, -1))
  np.testing.assert_allclose(shares[:, 0, 0], expected, rtol=1e-5)


def test_log_densities():
  generator = np.random.default_rng(1)
  vectors, loc = generator.normal(size=[7, 3]), generator.normal(size=[2, 3])
  root = generator.normal(size=[3, 3])
  covariance = root @ root.T
  expected = [
    stats.multivariate_normal(mean, covariance).logpdf(vectors) for mean in loc
  ]
  np.testing.assert_allclose(
    image_clusters._log_densities(vectors, loc, covariance)
    - 1.5 * np.log(2 * np.pi),
    np.transpose(expected),
    rtol=1e-6,
  )


def test_coordinates_of_a_ring():
  # Eigenvectors of a ring are waves around it.
  angle = 2 * np.pi * np.arange(40) / 40
  found = image_clusters.neighbor_coordinates(
    np.stack([np.cos(angle), np.sin(angle)], axis=1), 5, 2, seed=1
  )
  assert found.shape == (40, 5)
  waves = np.stack(
    [np.full(40, np.sqrt(0.5)), np.cos(angle), np.sin(angle)]
    + [np.cos(2 * angle), np.sin(2 * angle)],
    axis=1,
  ) / np.sqrt(20)
  # Up to a rotation of those of the same frequency.
  for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
    np.testing.assert_allclose(
      found[:, part] @ found[:, part].T,
      waves[:, part] @ waves[:, part].T,
      atol=1e-4,
    )


@pytest.mark.parametrize('max_dense', [0, 500])
def test_coordinates_of_pieces(monkeypatch, max_dense):
  # The first coordinates of graphs without edges between them are square roots
  # of degrees in each, the next ones those of eigenvectors of all together.
  monkeypatch.setattr(image_clusters, '_MAX_DENSE', max_dense)
  generator = np.random.default_rng(1)
  sizes = [20, 60, 90, 130]
  piece = np.repeat(np.arange(4), sizes)
  vectors = generator.normal(size=[300, 3])
  vectors[:, 0] += 50.0 * piece
  graph = neighbors.kneighbors_graph(vectors, 15).toarray()
  graph += graph.T
  root = np.sqrt(graph.sum(axis=1))
  values, columns = np.linalg.eigh(graph / np.outer(root, root))
  found = image_clusters.neighbor_coordinates(vectors, 12, 15, seed=1)
  by_piece = root[:, np.newaxis] * (piece[:, np.newaxis] == np.arange(4))
  by_piece /= np.linalg.norm(by_piece, axis=0)
  np.testing.assert_allclose(
    found[:, :4] @ found[:, :4].T, by_piece @ by_piece.T, atol=1e-4
  )
  np.testing.assert_allclose(values[-4:], 1.0)
  for i in range(4, 12):
    assert abs(found[:, i] @ columns[:, -1 - i]) > 0.999


def test_largest_pieces_come_first():
  generator = np.random.default_rng(1)
  sizes = [20, 130, 60, 90]
  piece = np.repeat(np.arange(4), sizes)
  vectors = generator.normal(size=[300, 3])
  vectors[:, 0] += 50.0 * piece
  found = image_clusters.neighbor_coordinates(vectors, 3, 15, seed=1)
  for i, k in enumerate([1, 3, 2]):
    np.testing.assert_array_equal(found[:, i] != 0.0, piece == k)


def test_few_coordinates():
  vectors = np.random.default_rng(1).normal(size=[3, 2])
  found = image_clusters.neighbor_coordinates(vectors, 20, 2, seed=1)
  assert found.shape == (3, 3) and np.all(np.isfinite(found))


@pytest.mark.parametrize('num_images', [12, 230])
def test_clusters_are_those_of_neighbors(num_images):
  # Stripes one way or the other, with noise.
  generator = np.random.default_rng(1)
  kinds = np.arange(num_images) % 2
  images = 40 * generator.random([num_images, 8, 8])
  images[kinds == 0, 2:6, :] += 200
  images[kinds == 1, :, 2:6] += 200
  images = images.astype(np.uint8)
  clusters = image_clusters.find_clusters(images, 2, seed=1)
  np.testing.assert_array_equal(
    image_clusters.find_clusters(images, 2, seed=1), clusters
  )
  assert clusters.shape == kinds.shape and clusters.dtype == np.int32
  assert np.all(clusters == clusters[0] ^ kinds)


def test_consensus(monkeypatch):
  # What two of three mixtures have in common, not the first one.
  majority, other = np.arange(60) % 3, np.arange(60) // 20
  answers = iter([other, majority, majority])

  def fit(vectors, num_clusters, seed):
    del vectors, seed
    return np.eye(num_clusters, dtype=np.float32)[np.newaxis, next(answers)]

  monkeypatch.setattr(image_clusters, 'fit_balanced_mixtures', fit)
  images = np.random.default_rng(1).integers(256, size=[60, 8, 8])
  clusters = image_clusters.find_clusters(images.astype(np.uint8), 3, seed=1)
  assert metrics.adjusted_rand_score(majority, clusters) == 1.0


@pytest.mark.parametrize(
  ('num_images', 'num_clusters'), [(3, 1), (3, 3), (40, 5)]
)
def test_images_that_are_the_same(num_images, num_clusters):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)
    clusters = image_clusters.find_clusters(
      np.zeros([num_images, 8, 8], np.uint8), num_clusters, seed=1
    )
  assert clusters.shape == (num_images,)
  assert 0 <= clusters.min() and clusters.max() < num_clusters


@pytest.mark.slow
def test_digits():
  data = image_data.load('digits')
  images, labels = data.train_images, data.train_labels

  def information(clusters):
    return metrics.normalized_mutual_info_score(labels, clusters)

  found = image_clusters.find_clusters(images, 10, seed=1)
  simple = cluster.KMeans(10, n_init=10, random_state=1).fit_predict(
    images.reshape(len(images), -1)
  )
  # Pixels instead of edges, or no graph, miss more than this share of what
  # k-means does.
  assert 1.0 - information(found) < 0.4 * (1.0 - information(simple))


@pytest.mark.parametrize(
  ('shape', 'num_clusters', 'problem'),
  [
    ([2, 8, 8], 2, r'`images` must .* 3 images; got shape \[2, 8, 8\]'),
    ([9, 8, 8, 1], 2, r'`images` must have shape .* got shape \[9, 8, 8, 1\]'),
    ([9, 8, 8], 10, '`num_clusters` must be from 1 to .* 9; got 10'),
    ([9, 8, 8], 0, '`num_clusters` must be from 1 to .* got 0'),
  ],
)
def test_bad_arguments(shape, num_clusters, problem):
  with pytest.raises(ValueError, match=problem):
    image_clusters.find_clusters(np.zeros(shape, np.uint8), num_clusters, 1)

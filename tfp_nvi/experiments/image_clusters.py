# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clusters of images, found without labels, for a mixture to start from.

What must hold: clusters are found from images alone. Their sizes are pulled
towards equal ones, as a model has them whose prior takes no cluster for more
frequent than another, so that none takes several groups while another takes
part of one. They are not equal: a group apart from others keeps its size.

Images are described by how their edges run [1], so that neither their contrast
nor a shift by a pixel counts much. An embedding that keeps neighbors together
[2] has gaps between kinds of images. There a mixture of Gaussians finds
clusters, whose sizes are pulled by what is added to their logits, as in
Sinkhorn's algorithm [3].

#### References

[1]: N. Dalal, B. Triggs. Histograms of oriented gradients for human detection.
     CVPR, 2005.
[2]: L. McInnes, J. Healy, J. Melville. UMAP: Uniform manifold approximation and
     projection for dimension reduction. 2018. https://arxiv.org/abs/1802.03426
[3]: Y. M. Asano, C. Rupprecht, A. Vedaldi. Self-labelling via simultaneous
     clustering and representation learning. ICLR, 2020.
     https://arxiv.org/abs/1911.05371
"""

import importlib.util

import numpy as np
import scipy.special

try:
  from sklearn import cluster, decomposition
except ImportError as e:
  raise ImportError(
    "This experiment needs the package scikit-learn: install 'tfp-nvi[images]'."
  ) from e

if importlib.util.find_spec('umap') is None:
  raise ImportError(
    "This experiment needs the package umap-learn: install 'tfp-nvi[images]'."
  )

__all__ = [
  'find_clusters',
  'fit_balanced_mixture',
  'orientation_histograms',
]

_NUM_ORIENTATIONS = 8
# Cells in a row of an image of 28 pixels; others have a few more or fewer.
_NUM_CELLS = 7
_NUM_COMPONENTS = 100
_NUM_EMBEDDED = 5
_NUM_NEIGHBORS = 15
# Of vectors that a mixture is fitted to, which has few parameters.
_MAX_FITTED = 10_000
_NUM_RESTARTS = 10
_MAX_ITERATIONS = 100
# Of pulling sizes, in each of them.
_NUM_SIZE_STEPS = 5
_TOLERANCE = 1e-5
# Added to variances, where that of all vectors is 1.
_MIN_VARIANCE = 1e-2


def orientation_histograms(images):
  """How much edge of each orientation images have in each cell of a grid.

  Args:
    images: uint8 array of shape `[num_images, height, width]`.

  Returns:
    histograms: float32 array of shape `[num_images, size]`: square roots of
      shares, so that lengths are one; zero for black images.

  ```python
  import numpy as np
  from tfp_nvi.experiments import image_clusters

  image = np.zeros([1, 8, 8], np.uint8)
  image[:, :, 3:5] = 100
  histograms = image_clusters.orientation_histograms(image)
  # A factor of all intensities does not matter.
  np.testing.assert_allclose(
    image_clusters.orientation_histograms(2 * image), histograms, rtol=1e-6
  )
  ```
  """
  parts = np.array_split(images, max(1, len(images) // 2_000))
  return np.concatenate([_orientation_histograms(part) for part in parts])


def _windows(size):
  """Weights of pixels in cells of a side, of shape `[num_cells, size]`."""
  cell = max(2, size // _NUM_CELLS)
  # As far from one border as from the other.
  centers = np.linspace(
    cell / 2 - 0.5, size - cell / 2 - 0.5, max(1, size // cell)
  )
  distances = (np.arange(size) - centers[:, np.newaxis]) / (cell / 2)
  return np.exp(-0.5 * distances**2).astype(np.float32)


def _orientation_histograms(images):
  # Those of scikit-image are normalized block by block, which makes weak edges
  # as important as strong ones; clusters were worse.
  padded = np.pad(images.astype(np.float32), [(0, 0), (1, 1), (1, 1)])
  right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
  down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
  # From light to dark or from dark to light is the same orientation; each
  # counts in the two bins next to it.
  position = np.arctan2(down, right) % np.pi / np.pi * _NUM_ORIENTATIONS
  lower = np.floor(position).astype(np.int32)
  length = np.hypot(right, down)
  histograms = []
  rows, columns = (_windows(size) for size in images.shape[1:])
  for k in range(_NUM_ORIENTATIONS):
    share = np.where(
      lower % _NUM_ORIENTATIONS == k,
      1.0 - (position - lower),
      np.where((lower + 1) % _NUM_ORIENTATIONS == k, position - lower, 0.0),
    )
    histograms.append(
      np.einsum('ia,nab,jb->nij', rows, length * share, columns, optimize=True)
    )
  stacked = np.stack(histograms, axis=-1).reshape(len(images), -1)
  total = stacked.sum(axis=1, keepdims=True)
  # A black image has no edges.
  return np.sqrt(stacked / np.where(total > 0.0, total, 1.0)).astype(np.float32)


def _log_densities(vectors, loc, covariance):
  """Log densities of Gaussians, of shape `[num_vectors, num_clusters]`."""
  columns = []
  for mean, matrix in zip(loc, covariance, strict=True):
    lower = np.linalg.cholesky(matrix)
    standardized = np.linalg.solve(lower, (vectors - mean).T)
    columns.append(
      -0.5 * np.sum(standardized**2, axis=0)
      - np.sum(np.log(np.diag(lower)))
      - 0.5 * vectors.shape[1] * np.log(2 * np.pi)
    )
  return np.stack(columns, axis=1)


def _fit_once(vectors, num_clusters, seed):
  """Fits a mixture from one start.

  Args:
    vectors: float array of shape `[num_vectors, size]`, of variance about 1.
    num_clusters: Python `int`.
    seed: Python `int`.

  Returns:
    log_likelihood: Python `float`: mean over vectors.
    loc: float array of shape `[num_clusters, size]`.
    covariance: float array of shape `[num_clusters, size, size]`.
  """
  count, size = vectors.shape
  start = cluster.KMeans(num_clusters, n_init=1, random_state=seed)
  loc = start.fit(vectors).cluster_centers_
  covariance = np.stack(
    [np.atleast_2d(np.cov(vectors.T)) / num_clusters + _regular(size)]
    * num_clusters
  )
  offsets = np.zeros(num_clusters)
  last = -np.inf
  for _ in range(_MAX_ITERATIONS):
    log_densities = _log_densities(vectors, loc, covariance)
    log_likelihood = np.mean(
      scipy.special.logsumexp(log_densities, axis=1) - np.log(num_clusters)
    )
    if abs(log_likelihood - last) < _TOLERANCE:
      break
    last = log_likelihood
    for _ in range(_NUM_SIZE_STEPS):
      log_shares = scipy.special.log_softmax(log_densities + offsets, axis=1)
      offsets -= scipy.special.logsumexp(log_shares, axis=0) - np.log(
        count / num_clusters
      )
    shares = scipy.special.softmax(log_densities + offsets, axis=1)
    sizes = np.maximum(shares.sum(axis=0), 1e-12)
    loc = (shares.T @ vectors) / sizes[:, np.newaxis]
    for k in range(num_clusters):
      centered = vectors - loc[k]
      covariance[k] = (shares[:, k, np.newaxis] * centered).T @ centered
      covariance[k] = covariance[k] / sizes[k] + _regular(size)
  return log_likelihood, loc, covariance


def _regular(size):
  return _MIN_VARIANCE * np.eye(size)


def fit_balanced_mixture(vectors, num_clusters, seed):
  """Clusters of similar sizes: a mixture of Gaussians, the best of several.

  Expectation maximization, where shares of vectors in clusters are pulled
  towards equal sums. A vector is in the cluster of the highest density, so that
  sizes are not the same, and a cluster may be empty.

  Args:
    vectors: float array of shape `[num_vectors, size]`.
    num_clusters: Python `int`, not more than vectors.
    seed: Python `int`, below `2**32`.

  Returns:
    clusters: int32 array of shape `[num_vectors]`.

  ```python
  import numpy as np
  from tfp_nvi.experiments import image_clusters

  vectors = np.random.default_rng(1).normal(size=[60, 2])
  vectors[30:] += 10.0
  clusters = image_clusters.fit_balanced_mixture(vectors, 2, seed=1)
  assert len(set(clusters[:30])) == len(set(clusters[30:])) == 1
  assert clusters[0] != clusters[-1]
  ```
  """
  vectors = np.asarray(vectors, np.float64)
  centered = vectors - vectors.mean(axis=0)
  deviation = centered.std()
  centered /= deviation if deviation > 0.0 else 1.0
  generator = np.random.default_rng(seed)
  fitted = centered[generator.permutation(len(centered))[:_MAX_FITTED]]
  fits = [
    _fit_once(fitted, num_clusters, int(restart))
    for restart in generator.integers(2**31, size=_NUM_RESTARTS)
  ]
  _, loc, covariance = max(fits, key=lambda fit: fit[0])
  log_densities = _log_densities(centered, loc, covariance)
  return log_densities.argmax(axis=1).astype(np.int32)


def find_clusters(images, num_clusters, seed):
  """Clusters of images, by their neighbors.

  Args:
    images: uint8 array of shape `[num_images, height, width]`, with at least
      three images.
    num_clusters: Python `int`, not more than images.
    seed: Python `int`, below `2**32`.

  Returns:
    clusters: int32 array of shape `[num_images]`.

  Raises:
    ValueError: If images or clusters are not as expected.

  ```python
  import numpy as np
  from tfp_nvi.experiments import image_clusters

  images = np.random.default_rng(1).integers(90, size=[60, 8, 8])
  images[:30, :4] += 150
  images[30:, :, 4:] += 150
  clusters = image_clusters.find_clusters(images.astype(np.uint8), 2, seed=1)
  assert len(set(clusters[:30])) == len(set(clusters[30:])) == 1
  assert clusters[0] != clusters[-1]
  ```
  """
  if np.ndim(images) != 3 or len(images) < 3:
    raise ValueError(
      '`images` must have shape [num_images, height, width], with at least 3 '
      f'images; got shape {list(np.shape(images))}.'
    )
  if not 1 <= num_clusters <= len(images):
    raise ValueError(
      f'`num_clusters` must be from 1 to the number of images, {len(images)}; '
      f'got {num_clusters}.'
    )
  # Takes seconds to import.
  import umap

  histograms = orientation_histograms(images)
  vectors = decomposition.PCA(
    min(_NUM_COMPONENTS, *histograms.shape), random_state=seed
  ).fit_transform(histograms)
  embedded = umap.UMAP(
    n_components=_NUM_EMBEDDED,
    n_neighbors=min(_NUM_NEIGHBORS, len(images) - 1),
    min_dist=0.0,
    # Eigenvectors are of no use for few images.
    init='spectral' if len(images) > 100 else 'random',
    random_state=seed,
    n_jobs=1,
  ).fit_transform(vectors)
  return fit_balanced_mixture(embedded, num_clusters, seed)

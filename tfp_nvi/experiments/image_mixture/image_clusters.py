# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clusters of images, found without labels, for a mixture to start from.

Contract: clusters are found from images alone. Their sizes are pulled
towards equal ones, as a model has them whose prior takes no cluster for more
frequent than another, so that none takes several groups while another takes
part of one. They are not equal: a group apart from others keeps its size.

Images are described by how their edges run [1], so that neither their contrast
nor a shift by a pixel counts much. A random walk from an image to one of its
neighbors, and on, seldom leaves a kind of images: the functions that it leaves
the most as they are, eigenvectors of the graph of neighbors, are coordinates in
which kinds of images lie apart [2]. There mixtures of Gaussians find clusters,
whose sizes are pulled by offsets of their logits, as in Sinkhorn's algorithm
[3]. One mixture may take two kinds for one; the agreement of many mixtures is
clustered once more [4].

#### References

[1]: N. Dalal, B. Triggs. Histograms of oriented gradients for human detection.
     CVPR, 2005.
[2]: A. Ng, M. Jordan, Y. Weiss. On spectral clustering: Analysis and an
     algorithm. NeurIPS, 2001.
[3]: Y. M. Asano, C. Rupprecht, A. Vedaldi. Self-labelling via simultaneous
     clustering and representation learning. ICLR, 2020.
     https://arxiv.org/abs/1911.05371
[4]: A. Strehl, J. Ghosh. Cluster ensembles: A knowledge reuse framework for
     combining multiple partitions. Journal of Machine Learning Research 3,
     2002.
"""

import numpy as np

try:
  import scipy.sparse
  import scipy.sparse.csgraph
  import scipy.special
  import threadpoolctl
  from scipy.sparse import linalg as sparse_linalg
  from sklearn import cluster, decomposition, neighbors
except ImportError as e:
  raise ImportError(
    'This experiment needs scikit-learn, SciPy and threadpoolctl: pip install '
    f'"tfp-nvi[images]" ({e}).'
  ) from e

__all__ = [
  'find_clusters',
  'fit_balanced_mixtures',
  'neighbor_coordinates',
  'orientation_histograms',
]

_NUM_ORIENTATIONS = 8
# Cells in a row of an image of 28 pixels; others have a few more or fewer.
_NUM_CELLS = 7
_NUM_COMPONENTS = 100
_NUM_NEIGHBORS = 15
# How many coordinates mixtures have, for each cluster.
_COORDINATES = (1.5, 2.0, 2.5)
# Of vectors that are too few for an iterative method.
_MAX_DENSE = 500
# Of vectors that a mixture is fitted to, which has few parameters.
_MAX_FITTED = 6_000
_NUM_RESTARTS = 16
# How many of them are kept.
_NUM_KEPT = 8
_MAX_ITERATIONS = 60
# Of pulling sizes, in each of them and after the last one.
_NUM_SIZE_STEPS = 5
_NUM_LAST_SIZE_STEPS = 300
_TOLERANCE = 1e-5
_SIZE_TOLERANCE = 1e-3
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
  from tfp_nvi.experiments.image_mixture import image_clusters

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
  # as important as strong ones, and count an edge in one cell and orientation
  # alone; clusters were worse (docs/results.md).
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


def neighbor_coordinates(vectors, num_coordinates, num_neighbors, seed):
  """Coordinates in which vectors are close that chains of neighbors connect.

  Eigenvectors of the normalized graph of neighbors, of its largest eigenvalues
  [1]: the relaxed solution of cutting few of its edges.

  Args:
    vectors: float array of shape `[num_vectors, size]`, with at least two.
    num_coordinates: Python `int`: how many there are at most; fewer for fewer
      vectors than that.
    num_neighbors: Python `int` number of neighbors of a vector, fewer than
      vectors.
    seed: Python `int`, of where the iterative method starts.

  Returns:
    coordinates: float64 array of shape `[num_vectors, num_coordinates]`, by
      falling eigenvalue. Each piece of the graph that no edge connects to the
      others takes one of the first ones, the largest piece first, so that there
      is nothing to tell vectors of further pieces apart.

  #### References

  [1]: A. Ng, M. Jordan, Y. Weiss. On spectral clustering: Analysis and an
       algorithm. NeurIPS, 2001.

  ```python
  import numpy as np
  from tfp_nvi.experiments.image_mixture import image_clusters

  vectors = np.random.default_rng(1).normal(size=[60, 2])
  vectors[30:] += 10.0
  coordinates = image_clusters.neighbor_coordinates(vectors, 2, 15, seed=1)
  # No chain of neighbors leads from one half to the other.
  assert abs(coordinates[:30] @ coordinates[30:].T).max() < 1e-6
  ```
  """
  count = len(vectors)
  # `sklearn.manifold.spectral_embedding` finds the same coordinates, 40 times
  # as slowly for 20,000 vectors (docs/results.md).
  found = neighbors.NearestNeighbors(
    n_neighbors=num_neighbors, algorithm='brute'
  )
  directed = found.fit(vectors).kneighbors_graph()
  graph = (directed + directed.T).tocsr()
  degrees = np.asarray(graph.sum(axis=1)).ravel()
  scale = scipy.sparse.diags(1.0 / np.sqrt(degrees))
  matrix = (scale @ graph @ scale).tocsr()
  # One piece after the other: all have the eigenvalue 1, and the iterative
  # method does not find all vectors of one eigenvalue.
  num_pieces, piece_of_vector = scipy.sparse.csgraph.connected_components(graph)
  all_values, all_members, all_columns = [], [], []
  for i in range(num_pieces):
    members = np.flatnonzero(piece_of_vector == i)
    values, columns = _largest_eigenvectors(
      matrix[members][:, members], num_coordinates, seed
    )
    all_values.extend(values)
    all_members.extend([members] * len(values))
    all_columns.extend(columns.T)
  # Pieces have the same eigenvalue but for rounding; larger ones come first.
  piece_sizes = [len(members) for members in all_members]
  order = np.lexsort([np.negative(piece_sizes), -np.round(all_values, 6)])
  order = order[:num_coordinates]
  coordinates = np.zeros([count, len(order)])
  for i, k in enumerate(order):
    coordinates[all_members[k], i] = all_columns[k]
  return coordinates


def _largest_eigenvectors(matrix, count, seed):
  """Eigenvectors of the largest eigenvalues of a sparse symmetric matrix.

  Args:
    matrix: Sparse matrix of shape `[size, size]`.
    count: Python `int`: how many at most.
    seed: Python `int`.

  Returns:
    values: float64 array of shape `[num_found]`.
    vectors: float64 array of shape `[size, num_found]`.
  """
  size = matrix.shape[0]
  if size <= max(_MAX_DENSE, count):
    values, vectors = np.linalg.eigh(matrix.toarray())
    return values[-count:], vectors[:, -count:]
  return sparse_linalg.eigsh(
    matrix,
    count,
    which='LA',
    tol=_TOLERANCE,
    v0=np.random.default_rng(seed).uniform(size=size),
  )


def _log_densities(vectors, loc, covariance):
  """Log densities of Gaussians with one covariance, up to a constant of all.

  Args:
    vectors: float array of shape `[num_vectors, size]`.
    loc: float array of shape `[num_clusters, size]`.
    covariance: float array of shape `[size, size]`.

  Returns:
    log_densities: float array of shape `[num_vectors, num_clusters]`.
  """
  lower = np.linalg.cholesky(covariance)
  standardized = np.linalg.solve(lower, vectors.T).T
  means = np.linalg.solve(lower, loc.T).T
  return (
    standardized @ means.T
    - 0.5 * np.sum(standardized**2, axis=1, keepdims=True)
    - 0.5 * np.sum(means**2, axis=1)
    - np.sum(np.log(np.diag(lower)))
  )


def _pull_sizes(log_densities, offsets, num_steps):
  """Offsets of log densities that make clusters of equal sizes.

  Args:
    log_densities: float array of shape `[num_vectors, num_clusters]`.
    offsets: float array of shape `[num_clusters]`, to start from.
    num_steps: Python `int`: at most.

  Returns:
    offsets: float array of shape `[num_clusters]`.
  """
  count, num_clusters = log_densities.shape
  for _ in range(num_steps):
    log_shares = scipy.special.log_softmax(log_densities + offsets, axis=1)
    change = np.log(count / num_clusters) - scipy.special.logsumexp(
      log_shares, axis=0
    )
    offsets = offsets + change
    if np.abs(change).max() < _SIZE_TOLERANCE:
      break
  return offsets


def _log_likelihood(log_densities, offsets):
  """Mean log likelihood given equal sizes, which pulling sizes minimizes."""
  return np.mean(
    scipy.special.logsumexp(log_densities + offsets, axis=1)
  ) - np.mean(offsets)


def _fit_once(vectors, num_clusters, seed):
  """Fits a mixture from one start.

  Args:
    vectors: float array of shape `[num_vectors, size]`, of mean zero and
      variance about 1.
    num_clusters: Python `int`.
    seed: Python `int`.

  Returns:
    log_likelihood: Python `float`: mean over vectors, with clusters of equal
      sizes, up to a constant.
    loc: float array of shape `[num_clusters, size]`.
    covariance: float array of shape `[size, size]`.
    offsets: float array of shape `[num_clusters]`, to add to log densities.
  """
  count, size = vectors.shape
  start = cluster.KMeans(num_clusters, n_init=1, random_state=seed)
  loc = start.fit(vectors).cluster_centers_
  regular = _MIN_VARIANCE * np.eye(size)
  second_moment = vectors.T @ vectors / count
  covariance = second_moment / num_clusters + regular
  offsets = np.zeros(num_clusters)
  last = -np.inf
  for _ in range(_MAX_ITERATIONS):
    log_densities = _log_densities(vectors, loc, covariance)
    offsets = _pull_sizes(log_densities, offsets, _NUM_SIZE_STEPS)
    log_likelihood = _log_likelihood(log_densities, offsets)
    if abs(log_likelihood - last) < _TOLERANCE:
      break
    last = log_likelihood
    shares = scipy.special.softmax(log_densities + offsets, axis=1)
    sizes = np.maximum(shares.sum(axis=0), 1e-12)
    loc = (shares.T @ vectors) / sizes[:, np.newaxis]
    covariance = second_moment - (loc.T * sizes) @ loc / count + regular
  log_densities = _log_densities(vectors, loc, covariance)
  # The further from equal sizes, the more the likelihood is too large.
  offsets = _pull_sizes(log_densities, offsets, _NUM_LAST_SIZE_STEPS)
  return _log_likelihood(log_densities, offsets), loc, covariance, offsets


def fit_balanced_mixtures(vectors, num_clusters, seed):
  """Mixtures of clusters of similar sizes, the best ones of several.

  Expectation maximization of Gaussians with one covariance, where shares of
  vectors in clusters are pulled towards equal sums.

  Args:
    vectors: float array of shape `[num_vectors, size]`.
    num_clusters: Python `int`, not more than vectors.
    seed: Python `int`, below `2**32`.

  Returns:
    shares: float32 array of shape `[num_mixtures, num_vectors, num_clusters]`,
      the best mixture first.

  ```python
  import numpy as np
  from tfp_nvi.experiments.image_mixture import image_clusters

  vectors = np.random.default_rng(1).normal(size=[60, 2])
  vectors[30:] += 10.0
  shares = image_clusters.fit_balanced_mixtures(vectors, 2, seed=1)
  clusters = shares[0].argmax(axis=1)
  assert len(set(clusters[:30])) == len(set(clusters[30:])) == 1
  assert clusters[0] != clusters[-1]
  ```
  """
  vectors = np.asarray(vectors, np.float64)
  generator = np.random.default_rng(seed)
  fitted = generator.permutation(len(vectors))[:_MAX_FITTED]
  centered = vectors - vectors[fitted].mean(axis=0)
  deviation = centered[fitted].std()
  centered /= deviation if deviation > 0.0 else 1.0
  fits = [
    _fit_once(centered[fitted], num_clusters, int(restart))
    for restart in generator.integers(2**31, size=_NUM_RESTARTS)
  ]
  fits.sort(key=lambda fit: fit[0], reverse=True)
  return np.stack(
    [
      scipy.special.softmax(
        _log_densities(centered, loc, covariance) + offsets, axis=1
      ).astype(np.float32)
      for _, loc, covariance, offsets in fits[:_NUM_KEPT]
    ]
  )


# Products of small matrices by several threads wait for each other, and for all
# else that runs on the machine.
@threadpoolctl.threadpool_limits.wrap(limits=1, user_api='blas')
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
  from tfp_nvi.experiments.image_mixture import image_clusters

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
  histograms = orientation_histograms(images)
  vectors = decomposition.PCA(
    min(_NUM_COMPONENTS, *histograms.shape), random_state=seed
  ).fit_transform(histograms)
  sizes = [round(factor * num_clusters) for factor in _COORDINATES]
  # Not more than a cluster has.
  num_neighbors = min(_NUM_NEIGHBORS, max(1, len(images) // num_clusters - 1))
  coordinates = neighbor_coordinates(vectors, max(sizes), num_neighbors, seed)
  shares = []
  for size in sizes:
    part = coordinates[:, :size]
    # Within a kind of images, directions are the same and lengths are not.
    length = np.linalg.norm(part, axis=1, keepdims=True)
    part = part / np.maximum(length, np.finfo(part.dtype).tiny)
    shares.extend(fit_balanced_mixtures(part, num_clusters, seed))
  side_by_side = np.concatenate(shares, axis=1)
  consensus = cluster.KMeans(num_clusters, n_init=10, random_state=seed)
  return consensus.fit_predict(side_by_side).astype(np.int32)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Labelled images, from the first source that has them.

Contract: returned data have been checked. Images are bytes, of one size in the
training and test sets, with one label each.
"""

import gzip
import importlib
import math
import os
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

__all__ = [
  'DATA_DIR_VARIABLE',
  'DATASETS',
  'DataError',
  'ImageData',
  'load',
  'read_idx',
]

# The environment variable that names a folder with IDX files.
DATA_DIR_VARIABLE = 'TFP_NVI_DATA_DIR'

# The data sets, each with the names of its classes.
DATASETS = {
  'digits': tuple('0123456789'),
  'mnist': tuple('0123456789'),
  'fashion_mnist': (
    'T-shirt',
    'trouser',
    'pullover',
    'dress',
    'coat',
    'sandal',
    'shirt',
    'sneaker',
    'bag',
    'ankle boot',
  ),
}

_FILES = {
  'train_images': 'train-images-idx3-ubyte',
  'train_labels': 'train-labels-idx1-ubyte',
  'test_images': 't10k-images-idx3-ubyte',
  'test_labels': 't10k-labels-idx1-ubyte',
}
# The third byte of an IDX file: the type of its elements.
_IDX_BYTES = 0x08
_MAX_RANK = 4
_NUM_DIGITS_FOR_TEST = 500


class DataError(ValueError):
  """Data are not available, or not as expected."""


class ImageData(NamedTuple):
  """Labelled images.

  Fields:
    train_images: uint8 array of shape `[num_train, height, width]`.
    train_labels: int64 array of shape `[num_train]`.
    test_images: uint8 array of shape `[num_test, height, width]`.
    test_labels: int64 array of shape `[num_test]`.
    class_names: Tuple of Python `str`s.
    source: Python `str`: the source of the images.
  """

  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  class_names: tuple
  source: str


def read_idx(path):
  """Reads an IDX file of unsigned bytes.

  The format starts with two zero bytes, the type of the elements, and the
  number of axes; then the size of each axis as a 32-bit integer, high byte
  first; then the elements. The file may be compressed by gzip.

  Args:
    path: Python `str`.

  Returns:
    values: uint8 array.

  Raises:
    DataError: If the file is not as expected. A `ValueError`.

  #### References

  [1]: Y. LeCun, C. Cortes, C. J. C. Burges. The MNIST database of handwritten
       digits.

  ```python
  import tempfile
  from tfp_nvi.experiments.image_mixture import image_data

  with tempfile.NamedTemporaryFile() as f:
    f.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    f.flush()
    assert image_data.read_idx(f.name).tolist() == [7, 8, 9]
  ```
  """
  try:
    with open(path, 'rb') as f:
      content = f.read()
  except OSError as e:
    raise DataError(f'{path!r} must be a file to read ({e.strerror}).') from e
  if content[:2] == b'\x1f\x8b':
    try:
      content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as e:
      raise DataError(
        f'{path!r} must be a whole gzip file; it cannot be decompressed ({e}).'
      ) from e
  if len(content) < 4 or content[:2] != b'\0\0':
    raise DataError(
      f'{path!r} must be an IDX file, which starts with two zero bytes; it '
      f'starts with {content[:4].hex(" ") or "nothing"}.'
    )
  element_type, rank = content[2], content[3]
  if element_type != _IDX_BYTES:
    raise DataError(
      f'{path!r} must be an IDX file of unsigned bytes, type 0x08; its type is '
      f'0x{element_type:02x}.'
    )
  if not 1 <= rank <= _MAX_RANK:
    raise DataError(
      f'{path!r} must be an IDX file of 1 to {_MAX_RANK} axes; it has {rank}.'
    )
  start = 4 + 4 * rank
  if len(content) < start:
    raise DataError(
      f'{path!r} must have the sizes of {rank} axes; it ends after '
      f'{len(content)} bytes.'
    )
  shape = struct.unpack(f'>{rank}I', content[4:start])
  size = math.prod(shape)
  if len(content) - start != size:
    raise DataError(
      f'{path!r} must have {size} elements, of shape {list(shape)}; it has '
      f'{len(content) - start}, so that it is truncated or mislabelled.'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _find(folder, name):
  """Returns the path of a file, compressed or not; `None` if there is none."""
  for path in (os.path.join(folder, name + x) for x in ('', '.gz')):
    if os.path.isfile(path):
      return path
  return None


def _from_folder(folder, dataset):
  """Reads a folder, or the one in it that is named as the data set."""
  for candidate in (os.path.join(folder, dataset), folder):
    paths = {key: _find(candidate, name) for key, name in _FILES.items()}
    if any(paths.values()):
      break
  missing = [_FILES[key] for key, path in paths.items() if path is None]
  if missing:
    raise DataError(
      f'`data_dir` must be a folder with the IDX files of {dataset}, or with a '
      f'folder {dataset!r} that has them; {folder!r} lacks '
      f'{", ".join(missing)} (or the same with .gz).'
    )
  return _checked(
    {key: read_idx(path) for key, path in paths.items()}, dataset, candidate
  )


def _checked(arrays, dataset, source):
  """Makes `ImageData`; raises an error if arrays do not fit together."""
  num_classes = len(DATASETS[dataset])
  for part in ('train', 'test'):
    images, labels = arrays[f'{part}_images'], arrays[f'{part}_labels']
    for values, rank, what in ((images, 3, 'images'), (labels, 1, 'labels')):
      if values.ndim != rank:
        raise DataError(
          f'The {part} {what} of {dataset} in {source!r} must have {rank} '
          f'axes; they have shape {list(values.shape)}: a file of other '
          'content under this name.'
        )
    if len(images) != len(labels):
      raise DataError(
        f'The {part} set of {dataset} in {source!r} must have as many labels '
        f'as images; it has {len(labels)} labels and {len(images)} images.'
      )
    if images.size == 0:
      raise DataError(
        f'The {part} set of {dataset} in {source!r} must have images; it is '
        f'empty, of shape {list(images.shape)}.'
      )
    if labels.max() >= num_classes:
      raise DataError(
        f'The {part} labels of {dataset} in {source!r} must be below '
        f'{num_classes}; the highest is {labels.max()}.'
      )
  shapes = [arrays[f'{part}_images'].shape[1:] for part in ('train', 'test')]
  if shapes[0] != shapes[1]:
    raise DataError(
      f'The images of {dataset} in {source!r} must have one size; those for '
      f'training have {list(shapes[0])}, those for tests {list(shapes[1])}.'
    )
  return ImageData(
    **{
      key: values.astype(np.int64) if key.endswith('labels') else values
      for key, values in arrays.items()
    },
    class_names=DATASETS[dataset],
    source=source,
  )


def _from_keras_cache(dataset):
  """Reads an earlier download of `tf_keras.datasets`; `None` without one."""
  cache = os.path.join(
    os.environ.get('KERAS_HOME', os.path.expanduser('~/.keras')), 'datasets'
  )
  if dataset == 'mnist':
    path = os.path.join(cache, 'mnist.npz')
    if not os.path.isfile(path):
      return None
    try:
      with np.load(path) as saved:
        arrays = {
          'train_images': saved['x_train'],
          'train_labels': saved['y_train'],
          'test_images': saved['x_test'],
          'test_labels': saved['y_test'],
        }
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
      raise DataError(
        f'{path!r}, of the cache of Keras, must be a whole file of {dataset}; '
        f'it cannot be read ({e}). Remove it, to download it again.'
      ) from e
    return _checked(arrays, dataset, path)
  folder = os.path.join(cache, 'fashion-mnist')
  if not all(_find(folder, name) for name in _FILES.values()):
    return None
  return _from_folder(folder, dataset)


def _from_tensorflow_datasets(dataset):
  # This package is optional.
  tfds = importlib.import_module('tensorflow_datasets')
  arrays = {}
  for part in ('train', 'test'):
    images, labels = tfds.as_numpy(
      tfds.load(dataset, split=part, batch_size=-1, as_supervised=True)
    )
    arrays[f'{part}_images'] = images[..., 0]
    arrays[f'{part}_labels'] = labels
  return _checked(arrays, dataset, 'TensorFlow Datasets')


def _from_keras_download(dataset):
  # This import takes seconds, and few users need it.
  import tf_keras

  train, test = getattr(tf_keras.datasets, dataset).load_data()
  arrays = {
    'train_images': train[0],
    'train_labels': train[1],
    'test_images': test[0],
    'test_labels': test[1],
  }
  return _checked(arrays, dataset, 'the download of Keras')


def _digits():
  """Returns the 8x8 digits of scikit-learn, the last ones for tests."""
  try:
    from sklearn import datasets
  except ImportError as e:
    raise ImportError(
      "The data set 'digits' needs the package scikit-learn: install "
      "'tfp-nvi[images]'."
    ) from e
  digits = datasets.load_digits()
  # Intensities are from 0 to 16.
  images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)
  n = len(images) - _NUM_DIGITS_FOR_TEST
  return _checked(
    {
      'train_images': images[:n],
      'train_labels': digits.target[:n],
      'test_images': images[n:],
      'test_labels': digits.target[n:],
    },
    'digits',
    'scikit-learn',
  )


def load(dataset='digits', data_dir=None):
  """Loads a data set from the first place that has it.

  `digits`, the 8x8 digits of scikit-learn, come with that package. The others
  are looked for in a folder of IDX files; in the cache of Keras; and then
  through TensorFlow Datasets and Keras, which may download them.

  Args:
    dataset: Python `str`: one of `DATASETS`.
    data_dir: Python `str`: a folder with IDX files under their usual names,
      compressed by gzip or not, or with a folder of the data set's name that
      has them. Nothing else is tried then.
      Default value: `None` (i.e., the folder in the environment variable
      `TFP_NVI_DATA_DIR`, if it is set).

  Returns:
    data: `ImageData`.

  Raises:
    ImportError: If `digits` are asked for without scikit-learn.
    DataError: If no source has the data set, or its files are not as expected.
      A `ValueError`.

  ```python
  from tfp_nvi.experiments.image_mixture import image_data

  data = image_data.load('digits')
  assert data.train_images.shape == (1297, 8, 8)
  ```
  """
  if not isinstance(dataset, str) or dataset not in DATASETS:
    raise DataError(
      f'`dataset` must be one of {", ".join(DATASETS)}; got {dataset!r}.'
    )
  if dataset == 'digits':
    return _digits()
  data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
  if data_dir:
    return _from_folder(data_dir, dataset)
  data = _from_keras_cache(dataset)
  if data is not None:
    return data
  problems = []
  for name, fn in (
    ('TensorFlow Datasets', _from_tensorflow_datasets),
    ('Keras', _from_keras_download),
  ):
    try:
      return fn(dataset)
    # A download may raise errors of many classes.
    except Exception as e:
      problems.append(f'{name}: {(str(e) or repr(e)).splitlines()[0]}')
  raise DataError(
    f'{dataset} cannot be had: there is no copy in the cache of Keras, and no '
    f'download ({"; ".join(problems)}). Put its four IDX files '
    f'({", ".join(_FILES.values())}, or the same with .gz) into a folder, and '
    f'name that by `data_dir` or the environment variable {DATA_DIR_VARIABLE}.'
  )

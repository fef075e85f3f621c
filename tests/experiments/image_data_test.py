# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images are read from every place, and errors name the problem."""

import gzip
import os
import struct

import numpy as np
import pytest

from tfp_nvi.experiments.image_mixture import image_data

FILES = {
  'train_images': 'train-images-idx3-ubyte',
  'train_labels': 'train-labels-idx1-ubyte',
  'test_images': 't10k-images-idx3-ubyte',
  'test_labels': 't10k-labels-idx1-ubyte',
}


def idx(values):
  """The content of an IDX file."""
  values = np.asarray(values, np.uint8)
  header = struct.pack(f'>HBB{values.ndim}I', 0, 8, values.ndim, *values.shape)
  return header + values.tobytes()


@pytest.fixture
def arrays():
  random = np.random.default_rng(0)
  return {
    'train_images': random.integers(256, size=[7, 4, 6]),
    'train_labels': random.integers(10, size=[7]),
    'test_images': random.integers(256, size=[5, 4, 6]),
    'test_labels': random.integers(10, size=[5]),
  }


@pytest.fixture
def folder(arrays, tmp_path):
  """A folder with the files of MNIST, two of them compressed."""
  for i, (key, name) in enumerate(FILES.items()):
    content = idx(arrays[key])
    if i % 2:
      (tmp_path / f'{name}.gz').write_bytes(gzip.compress(content))
    else:
      (tmp_path / name).write_bytes(content)
  return tmp_path


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
  """No folder, cache or network to load from."""
  monkeypatch.delenv(image_data.DATA_DIR_VARIABLE, raising=False)
  monkeypatch.setenv('KERAS_HOME', str(tmp_path / 'keras'))

  def fail(dataset):
    raise OSError(f'no network for {dataset}\nand more')

  monkeypatch.setattr(image_data, '_from_tensorflow_datasets', fail)
  monkeypatch.setattr(image_data, '_from_keras_download', fail)
  return tmp_path / 'keras' / 'datasets'


def assert_loaded(data, arrays):
  for key, values in arrays.items():
    np.testing.assert_array_equal(getattr(data, key), values)
  assert data.train_images.dtype == np.uint8
  assert data.test_labels.dtype == np.int64


def test_folder(folder, arrays, monkeypatch):
  data = image_data.load('fashion_mnist', str(folder))
  assert_loaded(data, arrays)
  assert data.source == str(folder)
  assert data.class_names[8] == 'bag'
  monkeypatch.setenv(image_data.DATA_DIR_VARIABLE, str(folder))
  assert_loaded(image_data.load('mnist'), arrays)


def test_folder_of_folders(folder, arrays, tmp_path_factory):
  parent = tmp_path_factory.mktemp('data')
  os.rename(folder, parent / 'mnist')
  assert_loaded(image_data.load('mnist', str(parent)), arrays)
  with pytest.raises(image_data.DataError, match='lacks train-images-idx3'):
    image_data.load('fashion_mnist', str(parent))


def test_cache_of_keras(nowhere, folder, arrays):
  nowhere.mkdir(parents=True)
  path = nowhere / 'mnist.npz'
  np.savez(
    path,
    **{
      name: arrays[key].astype(np.uint8)
      for name, key in {
        'x_train': 'train_images',
        'y_train': 'train_labels',
        'x_test': 'test_images',
        'y_test': 'test_labels',
      }.items()
    },
  )
  assert_loaded(image_data.load('mnist'), arrays)
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(image_data.DataError, match='cache of Keras.*Remove it'):
    image_data.load('mnist')

  fashion = nowhere / 'fashion-mnist'
  fashion.mkdir()
  for name, key in ((name, key) for key, name in FILES.items()):
    (fashion / f'{name}.gz').write_bytes(gzip.compress(idx(arrays[key])))
  assert_loaded(image_data.load('fashion_mnist'), arrays)


def test_nowhere_to_load_from(nowhere):
  with pytest.raises(
    image_data.DataError,
    match='mnist cannot be had.*no network for mnist;.*TFP_NVI_DATA_DIR',
  ):
    image_data.load('mnist')


def test_digits(nowhere):
  data = image_data.load('digits')
  assert data.train_images.shape == (1297, 8, 8)
  assert data.test_images.shape == (500, 8, 8)
  assert data.train_images.max() == 255
  assert set(data.test_labels) == set(range(10))


@pytest.mark.skipif(
  image_data.DATA_DIR_VARIABLE not in os.environ,
  reason=f'{image_data.DATA_DIR_VARIABLE} is not set',
)
@pytest.mark.parametrize('dataset', ['mnist', 'fashion_mnist'])
def test_real_data(dataset):
  data = image_data.load(dataset)
  assert data.train_images.shape == (60_000, 28, 28)
  assert data.test_images.shape == (10_000, 28, 28)
  # Both data sets have as many images of each class for tests, or nearly.
  assert np.bincount(data.test_labels).min() > 850


def test_unknown_dataset():
  with pytest.raises(image_data.DataError, match="`dataset` must .*'cifar'"):
    image_data.load('cifar')


def test_folder_without_files(tmp_path):
  for path in (tmp_path, tmp_path / 'none'):
    with pytest.raises(
      image_data.DataError, match='`data_dir` must be a folder with the IDX'
    ):
      image_data.load('mnist', str(path))


def test_missing_file(folder):
  (folder / 't10k-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(
    image_data.DataError, match='lacks t10k-labels-idx1-ubyte '
  ):
    image_data.load('mnist', str(folder))


def flip(content, i):
  return content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :]


def test_no_file(tmp_path):
  for path in (tmp_path, tmp_path / 'none'):
    with pytest.raises(image_data.DataError, match='must be a file to read'):
      image_data.read_idx(str(path))


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    (lambda x: x[:-1], 'have 168 elements.*it has 167.*truncated'),
    (lambda x: x + b'1', 'it has 169'),
    (lambda x: x[:7], 'the sizes of 3 axes; it ends after 7 bytes'),
    (lambda x: b'', 'starts with nothing'),
    (lambda x: b'PK' + x[2:], 'starts with 50 4b 08 03'),
    (lambda x: x[:2] + b'\x0d' + x[3:], 'type is 0x0d'),
    (lambda x: gzip.compress(x)[:-9], 'a whole gzip file'),
    (lambda x: flip(gzip.compress(x), 10), 'a whole gzip file'),
    (lambda x: x[:3] + b'\xc8' + x[4:], '1 to 4 axes; it has 200'),
    (
      lambda x: x[:4] + bytes([128, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 4]),
      'must have 18446744073709551616 elements',
    ),
    (
      lambda x: x[:8] + bytes(8),
      r'must have images; it is empty, of shape \[7, 0, 0\]',
    ),
    (lambda x: idx([1, 2, 3, 4, 5, 6, 7]), r'3 axes; they have shape \[7\]'),
  ],
)
def test_bad_file(folder, change, problem):
  path = folder / 'train-images-idx3-ubyte'
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(image_data.DataError, match=problem):
    image_data.load('mnist', str(folder))


@pytest.mark.parametrize(
  ('key', 'values', 'problem'),
  [
    ('train_labels', [1, 2], '2 labels and 7 images'),
    ('train_labels', [1, 2, 3, 4, 5, 6, 10], 'below 10; the highest is 10'),
    ('test_images', np.zeros([5, 4, 4]), r'\[4, 6\], those for tests \[4, 4\]'),
  ],
)
def test_files_that_do_not_fit(folder, key, values, problem):
  for suffix in ('', '.gz'):
    (folder / (FILES[key] + suffix)).unlink(missing_ok=True)
  (folder / FILES[key]).write_bytes(idx(values))
  with pytest.raises(image_data.DataError, match=problem):
    image_data.load('mnist', str(folder))


def test_empty_set(folder):
  for key, shape in (('test_images', [0, 4, 6]), ('test_labels', [0])):
    for suffix in ('', '.gz'):
      (folder / (FILES[key] + suffix)).unlink(missing_ok=True)
    (folder / FILES[key]).write_bytes(idx(np.zeros(shape)))
  with pytest.raises(image_data.DataError, match='test set .* is empty'):
    image_data.load('mnist', str(folder))

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table and the pictures of the experiment on images."""

import matplotlib.figure
import numpy as np

from tfp_nvi.experiments.image_mixture import evaluation

__all__ = [
  'OBJECTIVES',
  'describe',
  'draw',
  'format_table',
]

# The name of each objective in tables and pictures.
OBJECTIVES = {'nvi': 'NVI', 'rws': 'RWS'}
_COLORS = {'nvi': '#0072b2', 'rws': '#e69f00'}


def describe(row):
  """Describes a finished cell in a line."""
  return (
    f'{row["dataset"]}, {OBJECTIVES[row["objective"]]}, seed {row["seed"]}: '
    f'total variation {row["total_variation"]:.3f}, accuracy '
    f'{row["accuracy"]:.3f}, mutual information '
    f'{row["normalized_mutual_information"]:.3f}, bound {row["bound"]:.1f}, '
    f'{row["seconds"]:.0f} s of training'
  )


def format_table(rows):
  """Formats the table of rows."""
  lines = [
    '',
    f'{"data set":14} {"objective":10} {"seed":>4} {"total variation":>16} '
    f'{"accuracy":>9} {"NMI":>6} {"bound":>9} {"seconds":>8}',
  ]
  lines += [
    f'{row["dataset"]:14} {OBJECTIVES[row["objective"]]:10} {row["seed"]:4d} '
    f'{row["total_variation"]:16.3f} {row["accuracy"]:9.3f} '
    f'{row["normalized_mutual_information"]:6.3f} {row["bound"]:9.1f} '
    f'{row["seconds"]:8.0f}'
    for row in rows
  ]
  return '\n'.join(lines)


def _figure(width, height):
  return matplotlib.figure.Figure([width, height], layout='tight', dpi=110)


def _sheet(images, num_columns):
  """Returns images side by side, in rows, one white pixel apart."""
  count = len(images) // num_columns * num_columns
  images = np.pad(images[:count], [(0, 0), (0, 1), (0, 1)])
  height, width = images.shape[1:]
  rows = images.reshape(-1, num_columns, height, width)
  return rows.transpose(0, 2, 1, 3).reshape(-1, num_columns * width)


def _show(axes, images, num_columns, title):
  axes.imshow(
    _sheet(images, num_columns), cmap='gray_r', interpolation='nearest'
  )
  axes.set_title(title, fontsize=9)
  axes.set_axis_off()


def _by_class(arrays, class_names):
  """Returns true and inferred proportions of the first batch, and names."""
  class_of_cluster = arrays['class_of_cluster']
  num_classes = len(class_names)
  inferred = np.zeros(num_classes + 1)
  for i, k in enumerate(class_of_cluster):
    inferred[k] += arrays['inferred'][0, i]
  names = list(class_names)
  true = np.append(arrays['proportions'][0], 0.0)
  if np.any(class_of_cluster < 0):
    return true, inferred, [*names, 'none']
  return true[:-1], inferred[:-1], names


def _draw_batches(cells, class_names):
  """Draws a test mini-batch, generated ones, and class proportions."""
  figure = _figure(3.2 * (1 + len(cells)), 5.0)
  grid = figure.add_gridspec(2, 1 + len(cells), height_ratios=[1.6, 1.0])
  first = next(iter(cells.values()))
  # Every third image in the order of classes, so that digits are large.
  thinned = slice(None, None, 3)
  num_columns = min(10, len(first['batch'][thinned]))
  _show(
    figure.add_subplot(grid[0, 0]),
    first['batch'][thinned],
    num_columns,
    'a third of a test mini-batch',
  )
  proportions = figure.add_subplot(grid[1, :])
  width = 0.8 / (1 + len(cells))
  for i, (objective, arrays) in enumerate(cells.items(), start=1):
    label = OBJECTIVES[objective]
    order = np.argsort(
      arrays['class_of_cluster'][arrays['generated_clusters']], kind='stable'
    )
    _show(
      figure.add_subplot(grid[0, i]),
      arrays['generated'][order][thinned],
      num_columns,
      f'{label}: generated from E[lambda]',
    )
    true, inferred, names = _by_class(arrays, class_names)
    if i == 1:
      proportions.bar(
        np.arange(len(true)), true, width, color='0.6', label='lambda*'
      )
    distance = 0.5 * np.abs(true - inferred).sum()
    proportions.bar(
      np.arange(len(names)) + i * width,
      inferred,
      width,
      color=_COLORS[objective],
      label=f'{label}: E[lambda], total variation {distance:.3f}',
    )
  is_long = max(map(len, names)) > 2
  proportions.set_xticks(
    np.arange(len(names)) + 0.5 * width * len(cells),
    names,
    rotation=20 if is_long else 0,
  )
  proportions.tick_params(labelsize=8)
  proportions.legend(fontsize=8, frameon=False)
  for side in ('top', 'right'):
    proportions.spines[side].set_visible(False)
  return figure


def _draw_reconstructions(cells, class_names):
  """Draws test images above their reconstructions."""
  del class_names
  num_rows, num_columns = 4, 16
  figure = _figure(7.0, 2.6 * len(cells))
  axes = figure.subplots(len(cells), 1, squeeze=False)[:, 0]
  for one, (objective, arrays) in zip(axes, cells.items(), strict=True):
    pairs = []
    for i in range(num_rows):
      row = slice(i * num_columns, (i + 1) * num_columns)
      pairs += [arrays['originals'][row], arrays['reconstructions'][row]]
    _show(
      one,
      np.concatenate(pairs),
      num_columns,
      f'{OBJECTIVES[objective]}: images, each row above its reconstructions',
    )
  return figure


def _draw_clusters(cells, class_names):
  """Draws samples of each cluster, a row each, in the order of classes."""
  figure = _figure(4.8 * len(cells), 4.2)
  axes = figure.subplots(1, len(cells), squeeze=False)[0]
  for one, (objective, arrays) in zip(axes, cells.items(), strict=True):
    class_of_cluster = arrays['class_of_cluster']
    samples = arrays['cluster_samples']
    samples = samples.reshape(
      len(class_of_cluster), evaluation.NUM_CLUSTER_SAMPLES, *samples.shape[1:]
    )
    order = np.argsort(
      np.where(class_of_cluster < 0, len(class_names), class_of_cluster),
      kind='stable',
    )
    _show(
      one,
      samples[order].reshape(-1, *samples.shape[2:]),
      evaluation.NUM_CLUSTER_SAMPLES,
      f'{OBJECTIVES[objective]}: samples, a cluster a row',
    )
    one.set_axis_on()
    # The height of a row, with the pixel between rows.
    height = samples.shape[2] + 1
    names = [
      class_names[k] if k >= 0 else 'none' for k in class_of_cluster[order]
    ]
    one.set_yticks((np.arange(len(names)) + 0.5) * height - 0.5, names)
    one.set_xticks([])
    one.tick_params(length=0, labelsize=8)
    for spine in one.spines.values():
      spine.set_visible(False)
  return figure


def draw(store, dataset, seed, class_names):
  """Draws the pictures of a data set and seed, objectives side by side.

  Args:
    store: `Store`.
    dataset: Python `str`.
    seed: Python `int`.
    class_names: List of Python `str`s.

  Returns:
    figures: Python `dict` from names to Matplotlib figures.
  """
  cells = {
    objective: store.arrays(dataset, objective, seed)
    for objective in OBJECTIVES
    if store.has(dataset, objective, seed)
  }
  return {
    f'{name}-{dataset}-{seed}': draw_fn(cells, class_names)
    for name, draw_fn in (
      ('batches', _draw_batches),
      ('reconstructions', _draw_reconstructions),
      ('clusters', _draw_clusters),
    )
  }

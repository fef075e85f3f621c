# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of the parts of nested structures."""

import collections.abc

import tensorflow as tf

__all__ = [
  'leaf_names',
  'named_parts',
]


def leaf_names(structure, root: str = 'x') -> list[str]:
  """Names the leaves of a nested structure, in the order of `tf.nest`.

  Args:
    structure: Nested structure.
    root: Python `str`: the name of a structure that is a leaf itself, and the
      prefix of the numbers of list elements.
      Default value: `'x'`.

  Returns:
    names: List of Python `str`s, such as `'loc'`, `'group.scale'` or `'x[0]'`.

  ```python
  from tfp_nvi.internal import naming

  assert naming.leaf_names({'b': 1.0, 'a': [2.0, 3.0]}) == ['a[0]', 'a[1]', 'b']
  ```
  """
  return _names(structure, '', root)


def named_parts(structure) -> dict:
  """Returns the parts of a structure by their keys, fields or indices.

  Args:
    structure: Mapping, named tuple, list or tuple; or a leaf, which has none.

  Returns:
    parts: Python `dict`.

  ```python
  from tfp_nvi.internal import naming

  assert naming.named_parts([2.0, 3.0]) == {0: 2.0, 1: 3.0}
  ```
  """
  if isinstance(structure, collections.abc.Mapping):
    return dict(structure)
  if isinstance(structure, tuple) and hasattr(structure, '_fields'):
    return {key: getattr(structure, key) for key in structure._fields}
  if isinstance(structure, (list, tuple)):
    return dict(enumerate(structure))
  return {}


def _names(structure, prefix, root):
  def member(key):
    return f'{prefix}.{key}' if prefix else str(key)

  if isinstance(structure, collections.abc.Mapping):
    items = [(member(key), structure[key]) for key in sorted(structure)]
  elif isinstance(structure, tuple) and hasattr(structure, '_fields'):
    items = [
      (member(key), getattr(structure, key)) for key in structure._fields
    ]
  elif isinstance(structure, (list, tuple)) and not isinstance(
    structure, tf.TensorShape
  ):
    items = [
      (f'{prefix or root}[{i}]', part) for i, part in enumerate(structure)
    ]
  else:
    return [prefix or root]
  return [name for key, part in items for name in _names(part, key, root)]

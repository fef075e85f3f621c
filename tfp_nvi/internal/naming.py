# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names of functions, and of the parts of nested structures."""

import collections.abc
import functools

import numpy as np
import tensorflow as tf

__all__ = [
  'describe_function',
  'leaf_names',
  'named_parts',
]


def describe_function(fn) -> str:
  """Names a callable, with the numbers and strings that it was made with.

  Args:
    fn: Python callable: a function, a `functools.partial`, or an object.

  Returns:
    description: Python `str`: its name, and in brackets the arguments of a
      partial, the variables of a closure, or the attributes of an object.

  ```python
  import functools
  from tfp_nvi.internal import naming

  fn = functools.partial(round, ndigits=2)
  assert naming.describe_function(fn) == 'round(2)'
  ```
  """
  if isinstance(fn, functools.partial):
    constants = [*fn.args, *fn.keywords.values()]
    name = describe_function(fn.func)
  elif hasattr(fn, '__qualname__'):
    cells = getattr(fn, '__closure__', None) or ()
    constants = [cell.cell_contents for cell in cells]
    name = fn.__qualname__
  else:
    constants = list(getattr(fn, '__dict__', {}).values())
    name = type(fn).__qualname__
  constants = [c for c in map(_describe_constant, constants) if c is not None]
  return f'{name}({", ".join(constants)})' if constants else name


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


def _describe_constant(value):
  """Returns a number or a string as it is written, `None` for all else."""
  is_simple = isinstance(value, (bool, int, float, str, np.number))
  return repr(value) if is_simple else None


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

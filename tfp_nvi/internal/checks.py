# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments, and of values that a user's functions return.

Each one raises a `TypeError` for a value of the wrong kind and a `ValueError`
for a wrong value of the right kind. The message names the argument, and says
what was expected and what was given. Arguments are checked once, where the user
passes them.
"""

import numbers
import os

import numpy as np
import tensorflow as tf

from tfp_nvi.internal import axes

__all__ = [
  'are_alike',
  'as_batch_shape',
  'as_count',
  'as_counts',
  'as_float',
  'as_floating_dtype',
  'as_folder',
  'as_list',
  'as_tensor',
  'check_bool',
  'check_callable',
  'check_instance',
  'check_returned',
  'check_returned_instance',
  'check_same_states',
  'describe',
]


def _shorten(value):
  """Shortens the representation of a value, which may be a whole model."""
  text = repr(value)
  return text if len(text) <= 300 else f'{text[:300]}...'


def _is_int(value):
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def as_count(name: str, value, minimum: float = 1) -> int:
  """Checks that an argument is a Python int, and is not too small.

  Args:
    name: Python `str` name of the argument.
    value: The value to check.
    minimum: Python `int`, or `-math.inf` for no lower bound.
      Default value: `1`.

  Returns:
    count: Python `int`.

  Raises:
    TypeError: If `value` is not an int.
    ValueError: If it is less than `minimum`, or not below 2^31.

  ```python
  from tfp_nvi.internal import checks

  assert checks.as_count('num_particles', 10) == 10
  ```
  """
  kind = 'a positive Python int' if minimum == 1 else 'a Python int'
  if not _is_int(value):
    raise TypeError(f'`{name}` must be {kind}; got {value!r}.')
  if value < minimum:
    bound = 'positive' if minimum == 1 else f'at least {minimum}'
    raise ValueError(f'`{name}` must be {bound}; got {value}.')
  if value >= 2**31:
    # Indices have 32 bits.
    raise ValueError(f'`{name}` must be below 2^31; got {value}.')
  return int(value)


def as_counts(name: str, values) -> list:
  """Checks that an argument is a list of positive Python ints.

  Args:
    name: Python `str` name of the argument.
    values: The value to check.

  Returns:
    counts: List of Python `int`s.

  Raises:
    TypeError: If `values` is not a list, or an element of it not an int.
    ValueError: If an element is not positive.

  ```python
  from tfp_nvi.internal import checks

  assert checks.as_counts('hidden_units', (50, 20)) == [50, 20]
  ```
  """
  values = as_list(name, values, 'positive Python ints')
  return [as_count(f'{name}[{i}]', value) for i, value in enumerate(values)]


def as_float(
  name: str,
  value,
  minimum: float | None = None,
  maximum: float | None = None,
  is_open: bool = False,
) -> float:
  """Checks that an argument is a number, finite and within bounds.

  Args:
    name: Python `str` name of the argument.
    value: The value to check.
    minimum: Python `float`, or `None` for no bound.
    maximum: Python `float`, or `None` for no bound.
    is_open: Python `bool`: whether the bounds themselves are excluded.
      Default value: `False`.

  Returns:
    value: Python `float`.

  Raises:
    TypeError: If `value` is not a number.
    ValueError: If it is NaN, infinite, or out of bounds.

  ```python
  from tfp_nvi.internal import checks

  assert checks.as_float('threshold', 0.5, minimum=0.0, maximum=1.0) == 0.5
  ```
  """
  if isinstance(value, bool) or not (
    isinstance(value, numbers.Real)
    or (np.ndim(value) == 0 and hasattr(value, '__float__'))
  ):
    raise TypeError(f'`{name}` must be a Python float; got {value!r}.')
  try:
    number = float(value)
  except (TypeError, ValueError) as e:
    raise TypeError(f'`{name}` must be a Python float; got {value!r}.') from e
  is_valid = np.isfinite(number)
  if minimum is not None:
    is_valid &= number > minimum if is_open else number >= minimum
  if maximum is not None:
    is_valid &= number < maximum if is_open else number <= maximum
  if not is_valid:
    if minimum is None and maximum is None:
      expected = 'finite'
    elif maximum is None:
      expected = (
        'positive'
        if is_open and minimum == 0.0
        else f'{"greater than" if is_open else "at least"} {minimum:g}'
      ) + ' and finite'
    elif minimum is None:
      expected = f'{"less than" if is_open else "at most"} {maximum:g}'
    else:
      limits = f'{minimum:g} and {maximum:g}'
      expected = f'{"strictly " if is_open else ""}between {limits}'
    raise ValueError(f'`{name}` must be {expected}; got {value!r}.')
  return number


def as_floating_dtype(name: str, value) -> tf.DType:
  """Converts an argument to a floating point dtype.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import checks

  assert checks.as_floating_dtype('dtype', 'float64') == tf.float64
  ```
  """
  try:
    dtype = tf.as_dtype(value)
  except TypeError as e:
    raise TypeError(
      f'`{name}` must be a floating point dtype; got {value!r}.'
    ) from e
  if not dtype.is_floating:
    raise ValueError(
      f'`{name}` must be a floating point dtype; got {dtype.name}.'
    )
  return dtype


def as_folder(name: str, value) -> str:
  """Checks that an argument is the path of a folder, as a `str`.

  Args:
    name: Python `str` name of the argument.
    value: The value to check: a `str` or an `os.PathLike`.

  Returns:
    folder: Python `str`.

  Raises:
    TypeError: If `value` is not a path.

  ```python
  import pathlib
  from tfp_nvi.internal import checks

  assert checks.as_folder('checkpoint_dir', pathlib.Path('run')) == 'run'
  ```
  """
  try:
    folder = os.fspath(value)
  except TypeError as e:
    raise TypeError(
      f'`{name}` must be a path, a str or an os.PathLike; got {value!r}.'
    ) from e
  if not isinstance(folder, str):
    raise TypeError(f'`{name}` must be a str or an os.PathLike; got {value!r}.')
  return folder


def as_list(
  name: str, values, expected: str, kind=None, minimum: int = 0
) -> list:
  """Checks that an argument is a list, and that its elements are of a class.

  Args:
    name: Python `str` name of the argument.
    values: The value to check: any iterable but a `str`.
    expected: Python `str`: the kind of its elements, in the plural.
    kind: Class of the elements, tuple of classes, or `None` for any.
    minimum: Python `int`: the smallest number of elements.
      Default value: `0`.

  Returns:
    values: Python `list`.

  Raises:
    TypeError: If `values` is not a list, or an element not of the class.
    ValueError: If there are too few elements.

  ```python
  from tfp_nvi.internal import checks

  assert checks.as_list('names', ('a', 'b'), 'Python strs', str) == ['a', 'b']
  ```
  """
  try:
    elements = None if isinstance(values, str) else list(values)
  except TypeError:
    elements = None
  if elements is None:
    raise TypeError(f'`{name}` must be a list of {expected}; got {values!r}.')
  if len(elements) < minimum:
    plural = '' if minimum == 1 else 's'
    raise ValueError(
      f'`{name}` must have at least {minimum} element{plural}; got '
      f'{len(elements)}.'
    )
  if kind is not None:
    for i, element in enumerate(elements):
      check_instance(
        f'{name}[{i}]', element, kind, f'a {expected.removesuffix("s")}'
      )
  return elements


def as_batch_shape(name: str, value) -> tf.TensorShape:
  """Checks that an argument is a fully defined shape.

  Args:
    name: Python `str` name of the argument.
    value: The value to check.

  Returns:
    shape: `TensorShape`.

  Raises:
    TypeError: If `value` is not a list of ints.
    ValueError: If a dimension is negative or unknown.

  ```python
  from tfp_nvi.internal import checks

  assert checks.as_batch_shape('batch_shape', [2, 3]).rank == 2
  ```
  """
  expected = (
    f'`{name}` must be a list of non-negative Python ints; got {value!r}.'
  )
  if isinstance(value, (int, np.integer, str)):
    raise TypeError(expected)
  try:
    shape = tf.TensorShape(value)
  except (TypeError, ValueError) as e:
    raise type(e)(expected) from e
  if not shape.is_fully_defined():
    raise ValueError(expected)
  return shape


_IS_OF_KIND = {
  'floating point': lambda dtype: dtype.is_floating,
  'integer': lambda dtype: dtype.is_integer,
  'numeric': lambda dtype: dtype.is_floating or dtype.is_integer,
  'bool': lambda dtype: dtype == tf.bool,
  'numeric or bool': (
    lambda dtype: dtype.is_floating or dtype.is_integer or dtype == tf.bool
  ),
}


def as_tensor(
  name: str,
  value,
  dtype=None,
  kind: str | None = None,
  min_rank: int | None = None,
) -> tf.Tensor:
  """Converts an argument to a `Tensor`.

  Args:
    name: Python `str` name of the argument.
    value: The value to check.
    dtype: dtype to convert to, or `None` for that of the value.
    kind: Python `str`: the kind that the dtype must be of: `'floating point'`,
      `'integer'`, `'numeric'`, `'bool'` or `'numeric or bool'`; or `None` for
      any.
    min_rank: Python `int`, the smallest rank, or `None` for any.

  Returns:
    tensor: `Tensor`.

  Raises:
    TypeError: If `value` cannot be converted, or has another dtype.
    ValueError: If its rank is too small or a dimension is unknown.

  ```python
  from tfp_nvi.internal import checks

  assert checks.as_tensor('log_weights', [0.0, 1.0], min_rank=1).shape == [2]
  ```
  """
  try:
    tensor = tf.convert_to_tensor(value, dtype)
  except (TypeError, ValueError, tf.errors.InvalidArgumentError) as e:
    expected = (
      'a Tensor' if dtype is None else f'a {tf.as_dtype(dtype).name} Tensor'
    )
    raise TypeError(f'`{name}` must be {expected}; got {value!r}.') from e
  if kind is not None and not _IS_OF_KIND[kind](tensor.dtype):
    expected = f'{"an" if kind == "integer" else "a"} {kind} dtype'
    raise TypeError(f'`{name}` must have {expected}; got {tensor.dtype.name}.')
  if min_rank is not None and (
    tensor.shape.rank is None or tensor.shape.rank < min_rank
  ):
    raise ValueError(
      f'`{name}` must have rank {min_rank} at least; got shape {tensor.shape}.'
    )
  return tensor


def check_bool(name: str, value) -> None:
  """Raises an error if an argument is not a Python bool.

  ```python
  from tfp_nvi.internal import checks

  checks.check_bool('weighted', True)
  ```

  Args:
    name: Python `str` name of the argument.
    value: The value to check.

  Raises:
    TypeError: If `value` is not a bool.
  """
  if not isinstance(value, (bool, np.bool_)):
    raise TypeError(f'`{name}` must be a Python bool; got {value!r}.')


def check_callable(
  name: str, value, expected: str = 'callable', optional: bool = False
) -> None:
  """Raises an error if an argument cannot be called.

  ```python
  from tfp_nvi.internal import checks

  checks.check_callable('resample_fn', len)
  ```

  Args:
    name: Python `str` name of the argument.
    value: The value to check.
    expected: Python `str`: the words after "must be" in errors.
      Default value: `'callable'`.
    optional: Python `bool`: whether `None` is accepted.
      Default value: `False`.

  Raises:
    TypeError: If `value` is not callable.
  """
  if not callable(value) and not (optional and value is None):
    if optional:
      expected += ' or None'
    raise TypeError(f'`{name}` must be {expected}; got {value!r}.')


def check_instance(
  name: str, value, kinds, expected: str, optional: bool = False
) -> None:
  """Raises an error if an argument is not of a class.

  ```python
  from tfp_nvi.internal import checks

  checks.check_instance('name', 'sampler', str, 'a Python str')
  ```

  Args:
    name: Python `str` name of the argument.
    value: The value to check.
    kinds: Class, or tuple of classes.
    expected: Python `str`: the words after "must be" in errors.
    optional: Python `bool`: whether `None` is accepted.
      Default value: `False`.

  Raises:
    TypeError: If `value` is not an instance.
  """
  if not isinstance(value, kinds) and not (optional and value is None):
    if optional:
      expected += ' or None'
    raise TypeError(f'`{name}` must be {expected}; got {_shorten(value)}.')


def check_returned(
  name: str,
  value,
  expected: str,
  dtype: tf.DType | None = None,
  shape=None,
  broadcasts: bool = False,
  kind: str | None = None,
) -> tf.Tensor:
  """Converts the value of a user's function; checks its dtype and shape.

  Args:
    name: Python `str` name of the argument that is the function.
    value: The value that it returned.
    expected: Python `str`: the words after "must return" in errors.
    dtype: The dtype, or `None` for any.
    shape: The shape, or `None` for any.
    broadcasts: Python `bool`: whether one that broadcasts to `shape` will do.
      Default value: `False`.
    kind: Python `str`: the kind that the dtype must be of, as in `as_tensor`,
      or `None` for any.

  Returns:
    tensor: `Tensor`.

  Raises:
    TypeError: If `value` cannot be converted to a `Tensor`.
    ValueError: If it has the wrong dtype or shape.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import checks

  value = checks.check_returned('fn', [1.0], 'log densities', tf.float32, [1])
  ```
  """
  try:
    tensor = tf.convert_to_tensor(value)
  except (TypeError, ValueError) as e:
    raise TypeError(
      f'`{name}` must return {expected}; it returned {value!r}.'
    ) from e
  is_right = dtype is None or tensor.dtype == dtype
  details = [] if dtype is None else [f'dtype {tf.as_dtype(dtype).name}']
  if kind is not None:
    is_right &= _IS_OF_KIND[kind](tensor.dtype)
  if shape is not None:
    shape = tf.TensorShape(shape)
    if broadcasts:
      is_right &= axes.broadcasts_to(tensor.shape, shape)
    else:
      is_right &= tensor.shape == shape
    verb = 'a shape that broadcasts to' if broadcasts else 'shape'
    details.append(f'{verb} {shape}')
  if not is_right:
    if details:
      expected += ' of ' if dtype is None else ', of '
      expected += ' and '.join(details)
    raise ValueError(
      f'`{name}` must return {expected}; it returned {tensor.dtype.name} of '
      f'shape {tensor.shape}.'
    )
  return tensor


def check_returned_instance(name: str, value, kind: type, expected: str):
  """Returns what a user's function returned, if it is of a class.

  Args:
    name: Python `str` name of the argument that is the function.
    value: The value that it returned.
    kind: The class.
    expected: Python `str`: its name, for the `TypeError`.

  ```python
  from tfp_nvi.internal import checks

  assert checks.check_returned_instance('fn', 1, int, 'a Python int') == 1
  ```
  """
  if not isinstance(value, kind):
    raise TypeError(f'`{name}` must return {expected}; it returned {value!r}.')
  return value


def describe(structure) -> str:
  """Describes dtypes and shapes of a structure of `Tensor`s, for an error.

  Args:
    structure: Nested structure of `Tensor`s.

  Returns:
    description: Python `str`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import checks

  assert checks.describe(tf.zeros([2])) == "'float32[2]'"
  ```
  """
  return repr(
    tf.nest.map_structure(
      lambda x: f'{x.dtype.name}{x.shape.as_list()}', structure
    )
  )


def are_alike(structure, other) -> bool:
  """Returns whether two structures of `Tensor`s have equal dtypes and shapes.

  Args:
    structure: Nested structure of `Tensor`s or `TensorSpec`s.
    other: Likewise.

  Returns:
    are_alike: Python `bool`: whether structure, dtypes and shapes are the same.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import checks

  assert not checks.are_alike(tf.zeros([2]), tf.TensorSpec([3], tf.float32))
  ```
  """
  try:
    tf.nest.assert_same_structure(structure, other)
  except (TypeError, ValueError):
    return False
  return all(
    x.shape == y.shape and x.dtype == y.dtype
    for x, y in zip(
      tf.nest.flatten(structure), tf.nest.flatten(other), strict=True
    )
  )


def check_same_states(what: str, state, previous) -> None:
  """Raises an error if a kernel leads to states unlike those before it.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import checks

  checks.check_same_states('`forward_fn`', tf.zeros([2]), tf.ones([2]))
  ```

  Args:
    what: Python `str`: the name of the kernel, which begins the error.
    state: Nested structure of `Tensor`s.
    previous: Likewise: the states before it.

  Raises:
    ValueError: If the two differ in structure, shapes or dtypes.
  """
  if not are_alike(state, previous):
    raise ValueError(
      f'{what} must lead to states of the same structure, dtype and shape as '
      f'the states before, {describe(previous)}; it leads to '
      f'{describe(state)}.'
    )

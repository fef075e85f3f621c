# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Several optimizers as one, such as those of a generator and a discriminator.

All are applied in the same step, so that the compiled loop of `fit` needs to
know of one alone.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from tfp_nvi import chains
from tfp_nvi.internal import checks
from tfp_nvi.training import fingerprint, steps

__all__ = [
  'MultiOptimizer',
]


class MultiOptimizer:
  """Several optimizers, each of which trains variables of its own.

  For `tfp_nvi.fit` without a `strategy`.

  ```python
  import tensorflow as tf
  import tf_keras
  import tfp_nvi as nvi

  x, y = tf.Variable(1.0), tf.Variable(1.0)
  optimizer = nvi.MultiOptimizer(
    [
      (tf_keras.optimizers.SGD(0.5), [x]),
      (tf_keras.optimizers.SGD(0.25), [y]),
    ]
  )
  optimizer.apply_gradients([(tf.constant(1.0), x), (tf.constant(1.0), y)])
  assert x == 0.5 and y == 0.75
  ```
  """

  def __init__(self, optimizers_and_trainables: Sequence[tuple[Any, Sequence]]):
    """Initializes the optimizer.

    Args:
      optimizers_and_trainables: List of pairs of anything with
        `apply_gradients`, such as a `tf_keras.optimizers.Optimizer`, and a list
        of the `tf.Variable`s, `tf.Module`s and layers that it trains.

    Raises:
      TypeError: If it is not such a list.
      ValueError: If it is empty, or a variable belongs to two optimizers.
    """
    name = 'optimizers_and_trainables'
    expected = 'pairs of an optimizer and a list of trainables'
    pairs = checks.as_list(name, optimizers_and_trainables, expected, minimum=1)
    self._optimizers: list = []
    self._index: dict = {}
    for i, pair in enumerate(pairs):
      if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or not hasattr(pair[0], 'apply_gradients')
        or inspect.isclass(pair[0])
      ):
        raise TypeError(f'`{name}` must be a list of {expected}; got {pair!r}.')
      self._optimizers.append(pair[0])
      for group in chains.list_variables(f'{name}[{i}][1]', pair[1]):
        for variable in group:
          if self._index.setdefault(variable.ref(), i) != i:
            raise ValueError(
              f'`{name}` must name each variable once; got {variable.name!r} '
              'for two optimizers.'
            )

  def _split(self, pairs):
    """Pairs of a gradient and its variable, for each optimizer."""
    parts: list = [[] for _ in self._optimizers]
    for gradient, variable in pairs:
      if variable.ref() not in self._index:
        raise ValueError(
          '`optimizers_and_trainables` must name every variable that has a '
          f'gradient; got none for {variable.name!r}.'
        )
      parts[self._index[variable.ref()]].append((gradient, variable))
    return parts

  def build(self, variables: Sequence[tf.Variable]) -> None:
    """Makes the state of all optimizers.

    Args:
      variables: List of all `tf.Variable`s that have a gradient.

    Raises:
      ValueError: If a variable belongs to no optimizer.
    """
    parts = self._split([(None, variable) for variable in variables])
    for optimizer, part in zip(self._optimizers, parts, strict=True):
      steps.build(optimizer, [variable for _, variable in part])

  def apply_gradients(
    self, grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]]
  ) -> None:
    """Takes a step with each optimizer.

    Args:
      grads_and_vars: List of pairs of a gradient and its variable.

    Raises:
      ValueError: If a variable belongs to no optimizer.
    """
    parts = self._split(grads_and_vars)
    for optimizer, part in zip(self._optimizers, parts, strict=True):
      if part:
        optimizer.apply_gradients(part)

  @property
  def variables(self) -> list:
    """The state of all optimizers."""
    return [
      variable
      for optimizer in self._optimizers
      for variable in steps.optimizer_variables(optimizer)
    ]

  def get_config(self) -> dict:
    """The settings of all optimizers, by which checkpoints are told apart."""
    return {
      'optimizers': [
        fingerprint.describe_optimizer(optimizer)
        for optimizer in self._optimizers
      ]
    }

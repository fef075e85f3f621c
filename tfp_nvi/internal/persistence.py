# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds variables that are hidden in functions, for checkpoints and copies.

A `tf.Module` knows the variables of its attributes, but not those that a user's
function refers to, such as a network in a kernel. A checkpoint would silently
lack them. Tracing a call finds all of them.
"""

import abc
import copy
import pickle

import tensorflow as tf

__all__ = [
  'Persistent',
  'captured_variables',
]


def captured_variables(traced) -> list[tf.Variable]:
  """Returns the variables of a traced function, in the order of tracing.

  Args:
    traced: `ConcreteFunction` that `get_concrete_function` returned.

  Returns:
    variables: List of `tf.Variable`s.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import persistence

  variable = tf.Variable(1.0)
  traced = tf.function(variable.read_value).get_concrete_function()
  (found,) = persistence.captured_variables(traced)
  assert found is variable
  ```
  """
  # `graph.variables` is a set; its order would differ from run to run.
  by_handle = {id(v.handle): v for v in traced.graph.variables}
  return [
    by_handle[id(captured)]
    for captured in traced.captured_inputs
    if id(captured) in by_handle
  ]


class Persistent(tf.Module, abc.ABC):
  """A module whose checkpoints have all variables, and whose copies own theirs.

  A subclass defines `_probe`, a call that uses all variables. Compiled
  functions are in the attribute `_compiled`, which is neither pickled nor
  copied.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import persistence

  variable = tf.Variable(1.0)


  class Hidden(persistence.Persistent):
    def _probe(self):
      return 2.0 * variable


  assert Hidden().variables == ()
  assert Hidden().find_variables()[0] is variable
  ```
  """

  @abc.abstractmethod
  def _probe(self):
    """Uses every variable once, so that tracing this method finds them."""

  def find_variables(self) -> list[tf.Variable]:
    """Finds all variables, including those that only functions refer to.

    This traces a call. The attribute `variables`, as in any `tf.Module`, has
    only the variables of attributes.

    Returns:
      variables: List of `tf.Variable`s, always in the same order.
    """
    traced = tf.function(self._probe, autograph=False).get_concrete_function()
    found = [*self.variables, *captured_variables(traced)]
    return list({variable.ref(): variable for variable in found}.values())

  def _trackable_children(self, save_type='checkpoint', **kwargs):
    """Returns all variables, the only content of a `tf.train.Checkpoint`."""
    if save_type != 'checkpoint':
      return super()._trackable_children(save_type, **kwargs)
    return {
      f'variable_{i}': variable
      for i, variable in enumerate(self.find_variables())
    }

  def _state(self):
    """Returns the attributes, without compiled functions."""
    return {**vars(self), '_compiled': {}}

  def __reduce_ex__(self, protocol):
    try:
      pickle.dumps(self._state(), protocol)
    except Exception as e:
      raise TypeError(
        f'A {type(self).__name__} with functions or joint distributions '
        'cannot be pickled. For another process: tfp_nvi.save and '
        'tfp_nvi.load, or build it there by the same code, and save its '
        'variables here and restore them there by tf.train.Checkpoint('
        f'sampler=...). What could not be pickled: {e}.'
      ) from e
    return _rebuild, (type(self),), self._state()

  def __setstate__(self, state):
    vars(self).update(state)

  def __copy__(self):
    copied = _rebuild(type(self))
    copied.__setstate__(self._state())
    return copied

  def __deepcopy__(self, memo):
    advice = (
      'Build another one by the same code, and copy the values of '
      '`find_variables()`.'
    )
    copied = _rebuild(type(self))
    memo[id(self)] = copied
    try:
      copied.__setstate__(copy.deepcopy(self._state(), memo))
    except Exception as e:
      raise TypeError(
        f'This {type(self).__name__} cannot be copied: {e}. {advice}'
      ) from e
    own = {variable.ref() for variable in self.find_variables()}
    shared = [v.name for v in copied.find_variables() if v.ref() in own]
    if shared:
      raise TypeError(
        f'This {type(self).__name__} cannot be copied: its functions refer to '
        f'variables, {shared[:3]}, that the copy would share. {advice}'
      )
    return copied


def _rebuild(cls):
  return cls.__new__(cls)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Differences between versions and forms of TensorFlow and its libraries.

NumPy 2.4 removed the argument name `newshape` of `np.reshape`, which `tfb.Pad`
of TensorFlow Probability 0.25 still uses. Without `tfb.Pad` there is no
`tfb.SoftmaxCentered`, and so no event-space bijector for a distribution over a
simplex, alone or as a part of a joint distribution.

Distributions of distributions, such as `tfd.Independent`, have two forms: the
public class where their parameters are composite tensors, and its private base
class otherwise.

Where XLA compiles, `tf.vectorized_map` puts its operations into a function of
their own. The gradient of such a function gets shapes from it. XLA takes these
shapes for constants that depend on all arguments of the program, and compiles
again for each new value of an argument. A call of Hamiltonian transitions to an
auto-batched joint distribution then takes five seconds instead of a
millisecond. The same happens with a density that is a `tf.function`.
"""

import functools
import inspect
import threading
import types

import numpy as np
import tensorflow as tf
from tensorflow_probability.python.bijectors import pad

try:
  from tensorflow.python.autograph.core import ag_ctx
  from tensorflow.python.autograph.impl import api as autograph_api
  from tensorflow.python.ops.parallel_for import control_flow_ops as pfor
except ImportError:  # They are not public, and may move.
  ag_ctx = autograph_api = pfor = None

__all__ = [
  'all_forms',
  'inline',
  'let_pad_reshape',
  'with_maps_inlined',
]

_inlining = threading.local()


def _reshape(a, shape=None, *, newshape=None):
  return np.reshape(a, newshape if shape is None else shape)


def let_pad_reshape():
  """Gives the module of `tfb.Pad` an `np.reshape` that accepts `newshape`.

  Nothing else is changed, and nothing at all if NumPy accepts that name.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.internal import compatibility

  compatibility.let_pad_reshape()
  assert tfp.bijectors.SoftmaxCentered().forward([0.0, 0.0]).shape == [3]
  ```
  """
  if 'newshape' not in inspect.signature(np.reshape).parameters:
    pad.np = types.SimpleNamespace(**{**vars(np), 'reshape': _reshape})


def _let_maps_be_inlined():
  """Lets this module choose where `tf.vectorized_map` makes no function."""
  is_under_xla = getattr(pfor, '_is_under_xla_context', None)
  if is_under_xla is None:
    return  # Another version of TensorFlow.

  def makes_function(*args, **kwargs):
    is_inlining = getattr(_inlining, 'is_on', False)
    return is_under_xla(*args, **kwargs) and not is_inlining

  pfor._is_under_xla_context = makes_function


_let_maps_be_inlined()


def with_maps_inlined(fn):
  """Makes a function whose vectorized maps are parts of the calling graph.

  Args:
    fn: Python callable.

  Returns:
    fn: Python callable with the same arguments. Within it, `tf.vectorized_map`
      makes no function of its own where XLA compiles.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import compatibility


  @compatibility.with_maps_inlined
  def squares(x):
    return tf.vectorized_map(lambda y: y**2, x)


  compiled = tf.function(squares, jit_compile=True)
  assert list(compiled(tf.constant([2.0, 3.0])).numpy()) == [4.0, 9.0]
  ```
  """

  @functools.wraps(fn)
  def inlined(*args, **kwargs):
    before = getattr(_inlining, 'is_on', False)
    _inlining.is_on = True
    try:
      return fn(*args, **kwargs)
    finally:
      _inlining.is_on = before

  return inlined


def inline(fn):
  """Makes a callable whose operations are parts of the calling graph.

  Args:
    fn: Python callable.

  Returns:
    fn: Python callable with the same result. In graphs, it calls the Python
      function that a `tf.function` was made of, converted by autograph if the
      `tf.function` would do so. Otherwise it calls the argument itself.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import compatibility

  square = compatibility.inline(tf.function(lambda x: x**2, autograph=False))
  assert square(tf.constant(2.0)) == 4.0
  ```
  """
  if not isinstance(fn, tf.types.experimental.PolymorphicFunction):
    return fn
  operations = fn.python_function
  if getattr(fn, '_autograph', True):
    # This converts as `tf.function` does.
    if autograph_api is None:
      return fn
    operations = autograph_api.tf_convert(
      operations,
      ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED, options=None),
      user_requested=True,
    )

  def inlined(*args, **kwargs):
    called = fn if tf.executing_eagerly() else operations
    return called(*args, **kwargs)

  return inlined


def all_forms(*classes: type) -> tuple:
  """Returns classes of TFP with the base classes that stand in for them.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi.internal import compatibility

  tfd = tfp.distributions


  # A distribution that is no composite tensor.
  class Other(tfd.Distribution):
    def __init__(self):
      super().__init__('float32', tfd.NOT_REPARAMETERIZED, False, True)


  sample = tfd.Sample(Other(), 2)
  assert not isinstance(sample, tfd.Sample)
  assert isinstance(sample, compatibility.all_forms(tfd.Sample))
  ```

  Args:
    *classes: Classes of distributions or bijectors.

  Returns:
    classes: Tuple of these and their private base classes of the same name.
  """
  return classes + tuple(
    base
    for cls in classes
    for base in cls.__bases__
    if base.__name__ == f'_{cls.__name__}'
  )

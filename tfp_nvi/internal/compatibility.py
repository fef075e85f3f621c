# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Differences between versions and forms of TensorFlow Probability.

NumPy 2.4 removed the argument name `newshape` of `np.reshape`, which `tfb.Pad`
of TensorFlow Probability 0.25 still uses. Without `tfb.Pad` there is no
`tfb.SoftmaxCentered`, and so no event-space bijector for a distribution over a
simplex, alone or as a part of a joint distribution.

Distributions of distributions, such as `tfd.Independent`, have two forms: the
public class where their parameters are composite tensors, and its private base
class otherwise.
"""

import inspect
import types

import numpy as np
from tensorflow_probability.python.bijectors import pad

__all__ = [
  'all_forms',
  'let_pad_reshape',
]


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


def all_forms(*classes: type) -> tuple:
  """Classes of TFP with the base classes that stand in for them.

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

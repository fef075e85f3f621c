# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A repair of TensorFlow Probability 0.25 for NumPy 2.4.

NumPy 2.4 removed the argument name `newshape` of `np.reshape`, which `tfb.Pad`
still uses. Without `tfb.Pad` there is no `tfb.SoftmaxCentered`, and so no
event-space bijector for a distribution over a simplex, alone or as a part of a
joint distribution.
"""

import inspect
import types

import numpy as np
from tensorflow_probability.python.bijectors import pad

__all__ = [
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

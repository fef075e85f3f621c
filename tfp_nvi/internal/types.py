# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Names for what signatures take, where the name of a class does not tell.

Type checkers know nothing of the classes of TensorFlow, and cannot tell what a
nested structure contains. The aliases are for readers first; docstrings have
the shapes and dtypes.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = [
  'Density',
  'Seed',
  'Shape',
  'StatelessSeed',
  'Structure',
  'TensorLike',
]

# All values that `tf.convert_to_tensor` converts.
TensorLike: TypeAlias = (
  tf.Tensor
  | tf.Variable
  | tfp.util.DeferredTensor
  | np.ndarray
  | np.generic
  | Sequence[Any]
  | float
)
# A `Tensor`, or a nested structure of them as `tf.nest` has it; also of what
# belongs to each, such as dtypes and shapes. Where a user hands it over, its
# parts may be anything `TensorLike`.
Structure: TypeAlias = Any
# Two integers, which decide all that is drawn.
StatelessSeed: TypeAlias = tf.Tensor | np.ndarray | Sequence[int]
# A seed that a user passes. `None` instead gives another one each time.
Seed: TypeAlias = int | StatelessSeed
# A shape that is known, such as that of a batch.
Shape: TypeAlias = tf.TensorShape | Sequence[int]
# A `tfd.Distribution`, a `JointDistributionPinned`, another object with a
# method `unnormalized_log_prob` or `log_prob`, or a callable from points to log
# densities.
Density: TypeAlias = Any

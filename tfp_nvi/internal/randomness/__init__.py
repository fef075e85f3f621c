# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stateless randomness that does not depend on how a program is executed.

Contract: a draw is a function of its seed, shape and dtype alone. It is the
same eagerly, in a `tf.function`, and under `jit_compile=True`, up to the
rounding of the functions that it goes through.

TensorFlow's stateless ops do not promise that: for one seed they give one
sample eagerly and another one under XLA, where they are also an order of
magnitude slower on a CPU than the arithmetic they consist of. So the bits come
from the Threefry-2x32 block cipher with 20 rounds, written in integer ops that
XLA fuses and vectorizes, and `portable_sampling` lets the distributions and
kernels of TensorFlow Probability draw from it too.

#### References

[1]: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw. Parallel random
     numbers: as easy as 1, 2, 3. Supercomputing, 2011.
"""

from tfp_nvi.internal.randomness.draws import (
  as_seed,
  fold_in,
  next_seed,
  normal,
  split_seed,
  uniform,
)
from tfp_nvi.internal.randomness.portable import portable_sampling

__all__ = [
  'as_seed',
  'fold_in',
  'next_seed',
  'normal',
  'portable_sampling',
  'split_seed',
  'uniform',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Normalized densities that are made of normalizing flows."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import planar
from tfp_nvi.internal import checks, randomness, types

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'planar_flow_density',
]


def _check_base_distribution(base_distribution, event_size, dtype):
  """Raises an error unless its values are vectors of this size and dtype."""
  checks.check_instance(
    'base_distribution',
    base_distribution,
    tfd.Distribution,
    'a tfd.Distribution of vectors',
  )
  if tf.nest.is_nested(base_distribution.dtype):
    raise ValueError(
      '`base_distribution` must be a tfd.Distribution of vectors; got '
      f'{base_distribution!r}.'
    )
  if (
    base_distribution.event_shape.rank != 1
    or base_distribution.event_shape[0] != event_size
    or base_distribution.dtype != dtype
  ):
    raise ValueError(
      f'`base_distribution` must have event shape [{event_size}] and dtype '
      f'{tf.as_dtype(dtype).name}; got {base_distribution.event_shape} and '
      f'{tf.as_dtype(base_distribution.dtype).name}.'
    )


def planar_flow_density(
  event_size: int,
  num_layers: int = 8,
  dtype: tf.DType = tf.float32,
  seed: types.Seed | None = None,
  base_distribution: tfd.Distribution | None = None,
  name: str = 'planar_flow_density',
) -> tfd.TransformedDistribution:
  """Makes a trainable density that planar flows map to a simpler one.

  With planar flows `T_1, ..., T_n` and an affine map `A`, the density of `z` is
  that of `T_n(... T_1(A z))` under the base distribution, times the
  determinants of the maps. It is evaluated in closed form, so that no inverse
  is needed to fit it to samples by maximum likelihood. Sampling needs the
  inverses of the flows, each of which is the root of a scalar equation.

  The flows start as the identity, so that the density starts as that of the
  base distribution. A few planar flows can bend a density but cannot divide it.
  For a density with gaps use a base distribution that has gaps, such as a
  mixture [2].

  Args:
    event_size: Python `int`: the number of values of a vector.
    num_layers: Python `int` number of planar flows.
      Default value: `8`.
    dtype: Floating point dtype.
      Default value: `tf.float32`.
    seed: Python `int` or stateless seed for the initial hyperplanes of the
      flows, which have random directions and normally distributed distances
      from the origin.
    base_distribution: `tfd.Distribution` of event shape `[event_size]` and
      dtype `dtype`, whose density is positive everywhere. Its variables are
      trained too. The density has the batch shape of the base distribution, and
      is reparameterized if the base distribution is.
      Default value: `None` (i.e., standard normal).
    name: Python `str` name of the distribution.

  Returns:
    density: `tfd.TransformedDistribution`, whose variables are its
      `trainable_variables`.

  Raises:
    TypeError: If a count is not a Python `int`, or `base_distribution` not a
      distribution.
    ValueError: If a count is not positive, or the base distribution has another
      event shape or dtype.

  #### References

  [1]: D. J. Rezende, S. Mohamed. Variational inference with normalizing flows.
       ICML, 2015. https://arxiv.org/abs/1505.05770
  [2]: P. Izmailov, P. Kirichenko, M. Finzi, A. G. Wilson. Semi-supervised
       learning with normalizing flows. ICML, 2020.
       https://arxiv.org/abs/1912.13025

  ```python
  import tfp_nvi as nvi

  density = nvi.planar_flow_density(event_size=2, num_layers=8, seed=1)
  z = density.sample(5, seed=(0, 1))  # Shape [5, 2].
  assert density.log_prob(z).shape == [5]
  assert len(density.trainable_variables) == 3 + 2
  ```
  """
  event_size = checks.as_count('event_size', event_size)
  num_layers = checks.as_count('num_layers', num_layers)
  dtype = checks.as_floating_dtype('dtype', dtype)
  if base_distribution is None:
    base_distribution = tfd.MultivariateNormalDiag(
      tf.zeros([event_size], dtype)
    )
  _check_base_distribution(base_distribution, event_size, dtype)
  normal_seed, bias_seed = randomness.split_seed(randomness.as_seed(seed), 2)
  normals = tf.math.l2_normalize(
    randomness.normal([num_layers, event_size], normal_seed, dtype), axis=-1
  )
  biases = randomness.normal([num_layers], bias_seed, dtype)
  # If `direction` is this multiple of `normal`, the flow is the identity.
  one = tfp.math.softplus_inverse(tf.ones([], dtype))
  flows = planar.PlanarFlows(
    direction=tf.Variable(one * normals, name='direction'),
    normal=tf.Variable(normals, name='normal'),
    bias=tf.Variable(biases, name='bias'),
  )
  # The affine map has a triangular matrix, whose diagonal is initially exp(0).
  size = event_size * (event_size + 1) // 2
  scale_tril = tfp.util.DeferredTensor(
    tf.Variable(tf.zeros([size], dtype), name='scale_tril'),
    tfb.FillScaleTriL(diag_bijector=tfb.Exp(), diag_shift=None),
    shape=[event_size, event_size],
  )
  affine = tfb.Chain(
    [
      tfb.Shift(tf.Variable(tf.zeros([event_size], dtype), name='shift')),
      tfb.ScaleMatvecTriL(scale_tril),
    ]
  )
  return tfd.TransformedDistribution(
    base_distribution,
    tfb.Invert(tfb.Chain([flows, affine])),
    name=name,
  )

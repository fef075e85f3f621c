# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers of deep latent variable models: networks that return distributions."""

import typing

import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_nvi.internal import checks, perceptron, randomness, types

tfd = tfp.distributions

__all__ = [
  'GaussianLayer',
]


class GaussianLayer(tf.Module):
  """A Gaussian distribution whose mean and scale are outputs of a network.

  ```none
  z | y ~ Normal(loc(y), softplus(raw_scale(y)))
  ```

  The network has dense layers with hyperbolic tangents. At the start the scales
  are about one for any inputs.

  #### References

  [1]: D. J. Rezende, S. Mohamed, D. Wierstra. Stochastic backpropagation and
       approximate inference in deep generative models. ICML, 2014.
       https://arxiv.org/abs/1401.4082

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  layer = nvi.GaussianLayer(num_inputs=2, num_outputs=3, seed=1)
  model = tfd.JointDistributionSequential(
    [tfd.MultivariateNormalDiag(tf.zeros([2])), lambda z: layer(z)]
  )
  z, y = model.sample(10, seed=2)
  assert y.shape == [10, 3]
  ```
  """

  def __init__(
    self,
    num_inputs: int,
    num_outputs: int,
    num_hidden: typing.Sequence[int] = (100, 100),
    dtype: tf.DType = tf.float32,
    seed: types.Seed | None = None,
    name: str = 'gaussian_layer',
  ):
    """Initializes the weights.

    Args:
      num_inputs: Python `int`: the size of a vector that is conditioned on.
      num_outputs: Python `int`: the size of a vector of the distribution.
      num_hidden: List of Python `int`s: the numbers of hidden units; if empty,
        outputs are affine functions of the inputs.
        Default value: `(100, 100)`.
      dtype: Floating point dtype.
        Default value: `tf.float32`.
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If a count is not positive, or the dtype is not floating
        point.
    """
    super().__init__(name=name)
    self._num_inputs = checks.as_count('num_inputs', num_inputs)
    self._num_outputs = checks.as_count('num_outputs', num_outputs)
    num_hidden = checks.as_counts('num_hidden', num_hidden)
    self._dtype = checks.as_floating_dtype('dtype', dtype)
    sizes = [*num_hidden, 2 * self._num_outputs]
    seeds = randomness.split_seed(randomness.as_seed(seed), len(sizes))
    self.network = tf_keras.Sequential(
      [
        tf_keras.layers.Dense(
          size,
          activation=None if i == len(num_hidden) else 'tanh',
          kernel_initializer=tf_keras.initializers.GlorotUniform(
            seed=int(seeds[i, 0])
          ),
          dtype=self._dtype,
        )
        for i, size in enumerate(sizes)
      ],
      name=name,
    )
    self.network.build([None, self._num_inputs])

  def __call__(self, inputs: types.TensorLike) -> tfd.Distribution:
    """Returns the distribution given inputs.

    Args:
      inputs: float `Tensor` of shape `batch + [num_inputs]`.

    Returns:
      distribution: `tfd.MultivariateNormalDiag` over vectors of
        `num_outputs`, of batch shape `batch`.

    Raises:
      TypeError: If `inputs` is of another dtype than the weights.
      ValueError: If it is not of vectors of `num_inputs`.
    """
    inputs = checks.as_tensor('inputs', inputs, self._dtype)
    if inputs.shape.rank == 0 or inputs.shape[-1] != self._num_inputs:
      raise ValueError(
        f'`inputs` must have shape batch + [{self._num_inputs}]; got shape '
        f'{inputs.shape}.'
      )
    # Inputs are reshaped to a matrix, because Keras is slower for larger ranks.
    outputs = tf.reshape(inputs, [-1, self._num_inputs])
    # Layers are called one by one, because a stack of layers rounds its inputs
    # to float32.
    for layer in self.network.layers:
      outputs = layer(outputs)
    outputs = tf.reshape(
      outputs, tf.concat([tf.shape(inputs)[:-1], outputs.shape[-1:]], axis=0)
    )
    outputs = tf.ensure_shape(
      outputs, inputs.shape[:-1] + [2 * self._num_outputs]
    )
    loc, raw_scale = tf.split(outputs, 2, axis=-1)
    scale = perceptron.as_scale(raw_scale)
    return tfd.MultivariateNormalDiag(loc, scale)

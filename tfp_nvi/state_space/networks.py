# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ready-made proposals that are networks.

Contract: a network that was trained on batches of sequences serves a single
sequence, any other batch shape, and sequences of another length. A mask marks
steps that are not observed, and their values are not used.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, perceptron, randomness, types
from tfp_nvi.state_space import gaussian, global_space, missing
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib

tfd = tfp.distributions

__all__ = [
  'Dense',
  'Features',
  'GaussianProposalNetwork',
  'GlobalProposalNetwork',
  'Recurrent',
]


class Dense(tf.Module):
  """An affine map, whose outputs start at zero if it is the last one."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    dtype: tf.DType,
    seed: tf.Tensor,
    is_last: bool = False,
  ):
    super().__init__(name='dense')
    weights = randomness.normal([inputs, outputs], seed, dtype)
    weights *= 0.0 if is_last else np.sqrt(1.0 / inputs)
    self._weights = tf.Variable(weights)
    self._bias = tf.Variable(tf.zeros([outputs], dtype))

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Returns outputs of shape `leading + [outputs]`."""
    return tf.tensordot(x, self._weights, 1) + self._bias


class Features(tf.Module):
  """Features of moderate size for the observations of a model.

  Each value is scaled by the spread of simulated observations. Its features are
  `asinh` of the value and the logarithm of its size, so that heavy tails and
  unknown scales do no harm.

  Args:
    model: `StateSpaceModel`.
    num_steps: Python `int`: how many steps to simulate.

  Fields:
    size: Python `int`: the number of features of an observation.
    masked_size: Python `int`: the number of features that `masked` returns.
  """

  def __init__(self, model: model_lib.StateSpaceModel, num_steps: int = 10):
    super().__init__(name='features')
    self._dtype = model.example.dtype
    self._event_shapes = model.example.observation_like[1]
    self._ranks = [
      tf.TensorShape(shape).rank
      for shape in tf.nest.flatten(self._event_shapes)
    ]
    inputs = None
    if model.input_example is not None:
      inputs = model.example.inputs
    _, _, x = model.simulate(num_steps, [500], seed=0, inputs=inputs)
    x = self._flatten(x).numpy()
    x = x.reshape([-1, x.shape[-1]])
    x = np.where(np.isfinite(x), x, np.nan)
    low, center, high = np.nanquantile(x, [0.16, 0.5, 0.84], axis=0)
    scale = 0.5 * (high - low)
    scale = np.where(np.isfinite(scale) & (scale > 0.0), scale, 1.0)
    center = np.where(np.isfinite(center), center, 0.0)
    self._center = tf.constant(center, self._dtype)
    self._scale = tf.constant(scale, self._dtype)
    self.size = 2 * x.shape[-1]
    self.masked_size = 3 * x.shape[-1]

  def _flatten(self, x):
    parts = []
    for part, rank in zip(tf.nest.flatten(x), self._ranks, strict=True):
      leading = part.shape[: part.shape.rank - rank].as_list()
      parts.append(tf.cast(tf.reshape(part, leading + [-1]), self._dtype))
    return tf.concat(parts, axis=-1)

  def __call__(self, x: types.Structure) -> tf.Tensor:
    """Returns features of shape `leading + [size]`."""
    x = (self._flatten(x) - self._center) / self._scale
    return tf.concat([tf.asinh(x), 0.25 * tf.math.log(x**2 + 1e-4)], axis=-1)

  def masked(
    self, x: types.Structure, is_observed: types.Structure | None
  ) -> tf.Tensor:
    """Returns features, zero where nothing is observed, and the mask.

    Args:
      x: Nested structure of `Tensor`s of shape `batch + [num_steps] + event`.
      is_observed: `None`, or a mask for steps or components.

    Returns:
      features: `Tensor` of shape `batch + [num_steps, masked_size]`.
    """
    features = self(x)
    leading = features.shape[:-1]
    size = [*leading, features.shape[-1] // 2]
    by_step, components = missing.split(is_observed, x, self._event_shapes)
    if by_step is None:
      mask = tf.ones(size, self._dtype)
    elif components is None:
      mask = tf.broadcast_to(by_step[..., tf.newaxis], size)
    else:
      mask = self._flatten(
        tf.nest.map_structure(
          lambda mask, x: tf.broadcast_to(
            tf.reshape(
              mask, mask.shape + [1] * (x.shape.rank - mask.shape.rank)
            ),
            x.shape,
          ),
          components,
          x,
        )
      )
    mask = tf.cast(mask, self._dtype)
    twice = tf.concat([mask, mask], axis=-1) > 0.0
    features = tf.where(twice, features, tf.zeros_like(features))
    return tf.concat([features, mask], axis=-1)


class Recurrent(tf.Module):
  """A gated recurrent unit over the first axis.

  #### References

  [1]: K. Cho et al. Learning phrase representations using RNN encoder-decoder
       for statistical machine translation. EMNLP, 2014.
  """

  def __init__(
    self, inputs: int, num_units: int, dtype: tf.DType, seed: tf.Tensor
  ):
    super().__init__(name='recurrent')
    seeds = tf.unstack(randomness.split_seed(seed, 2))
    self.num_units = num_units
    self._inputs = Dense(inputs, 3 * num_units, dtype, seeds[0])
    self._weights = tf.Variable(
      randomness.normal([num_units, 3 * num_units], seeds[1], dtype)
      * np.sqrt(1.0 / num_units)
    )

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Returns units of all steps: `[num_steps] + leading + [num_units]`."""
    num_steps, size = x.shape[0], self.num_units
    inputs = self._inputs(x)
    first = tf.zeros(x.shape[1:-1] + [size], x.dtype)
    arrays = tf.TensorArray(x.dtype, num_steps, element_shape=first.shape)

    def body(t, h, array):
      update, reset, candidate = tf.split(inputs[t], 3, axis=-1)
      by_h = tf.split(tf.tensordot(h, self._weights, 1), 3, axis=-1)
      update = tf.sigmoid(update + by_h[0] + 1.0)
      reset = tf.sigmoid(reset + by_h[1])
      h = update * h + (1.0 - update) * tf.tanh(candidate + reset * by_h[2])
      return t + 1, h, array.write(t, h)

    _, _, arrays = tf.while_loop(
      lambda t, *_: t < num_steps,
      body,
      (tf.constant(0), first, arrays),
      parallel_iterations=1,
      maximum_iterations=num_steps,
    )
    return arrays.stack()


def _normal_of(outputs, size):
  """Converts outputs to the location and the scale of a normal distribution."""
  loc, rest = outputs[..., :size], outputs[..., size:]
  scale_tril = tfp.math.fill_triangular(rest)
  diagonal = tf.linalg.diag_part(scale_tril)
  return loc, tf.linalg.set_diag(scale_tril, perceptron.as_scale(diagonal))


class GlobalProposalNetwork(tf.Module):
  """Proposes global states by a recurrent summary of the sequence.

  This is an `initial_proposal_fn` of `StateSpaceSampler`. The distribution is
  normal in the space of the prior's event-space bijector, with wider tails
  added.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z, drift: tfd.Normal(z, 0.2),
  )
  network = nvi.GlobalProposalNetwork(model, seed=1)
  sampler = nvi.StateSpaceSampler(model, initial_proposal_fn=network)
  posterior = sampler.sample([0.1, 0.5, 0.8], num_particles=100, seed=2)
  ```
  """

  def __init__(
    self,
    model: model_lib.StateSpaceModel,
    num_units: int = 32,
    num_steps: int = 10,
    seed: types.Seed | None = None,
    name: str = 'global_proposal_network',
  ):
    """Initializes the network.

    Args:
      model: `StateSpaceModel` with a prior.
      num_units: Python `int` number of units of each layer.
        Default value: `32`.
      num_steps: Python `int`: how many steps to simulate to learn the scales of
        observations.
        Default value: `10`.
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the model has no prior, or one over discrete states.
    """
    super().__init__(name=name)
    checks.check_instance(
      'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
    )
    if model.prior is None:
      raise ValueError(
        '`model` must have a prior, for a proposal of its global state.'
      )
    num_units = checks.as_count('num_units', num_units)
    self.space = global_space.GlobalSpace(model.prior)
    self._features = Features(model, checks.as_count('num_steps', num_steps))
    self._inputs_size = sum(
      x.shape.num_elements() for x in tf.nest.flatten(model.example.inputs)
    )
    self._input_ranks = [
      x.shape.rank for x in tf.nest.flatten(model.example.inputs)
    ]
    dtype = self._dtype = self.space.dtype
    seeds = tf.unstack(randomness.split_seed(randomness.as_seed(seed), 4))
    size = self._features.masked_size + self._inputs_size
    outputs = self.space.size * (self.space.size + 3) // 2
    self._embed = Dense(size, num_units, dtype, seeds[0])
    self._recurrent = Recurrent(num_units, num_units, dtype, seeds[1])
    self._hidden = Dense(3 * num_units, 2 * num_units, dtype, seeds[2])
    self._last = Dense(2 * num_units, outputs, dtype, seeds[3], is_last=True)

  def parameters(
    self,
    x: types.Structure,
    is_observed: types.Structure | None = None,
    u: types.Structure = (),
  ) -> tuple:
    """Returns the location and scale of the proposal, in the vector space.

    Args:
      x: Nested structure of `Tensor`s of shape `batch + [num_steps] + event`.
      is_observed: Optional mask, for steps or components, as in
        `StateSpaceSampler.sample`.
      u: Nested structure of `Tensor`s: the inputs, if the model has any.

    Returns:
      loc: `Tensor` of shape `batch + [size]`.
      scale_tril: `Tensor` of shape `batch + [size, size]`.
    """
    features = tf.cast(self._features.masked(x, is_observed), self._dtype)
    leading = features.shape[:-1]
    parts = [features]
    for part, rank in zip(tf.nest.flatten(u), self._input_ranks, strict=True):
      size = part.shape[part.shape.rank - rank :].num_elements()
      part = tf.cast(tf.reshape(part, [*leading, size]), self._dtype)
      parts.append(tf.asinh(part))
    units = tf.nn.relu(self._embed(tf.concat(parts, axis=-1)))
    units = steps_lib.steps_first(units, leading.rank - 1)
    hidden = self._recurrent(units)
    summary = tf.concat(
      [hidden[-1], tf.reduce_mean(hidden, 0), tf.reduce_mean(units, 0)], -1
    )
    outputs = self._last(tf.nn.relu(self._hidden(summary)))
    return _normal_of(outputs, self.space.size)

  def __call__(
    self,
    x: types.Structure,
    is_observed: types.Structure | None = None,
    u: types.Structure = (),
  ) -> tfd.Distribution:
    """Returns the proposal of the global state of each sequence.

    Args:
      x: As in `parameters`.
      is_observed: As in `parameters`.
      u: As in `parameters`.

    Returns:
      proposal: `tfd.Distribution` of batch shape `batch`.
    """
    return self.space.distribution(*self.parameters(x, is_observed, u))

  def log_prob(
    self,
    global_state: types.Structure,
    x: types.Structure,
    is_observed: types.Structure | None = None,
    u: types.Structure = (),
  ) -> tf.Tensor:
    """Returns the log density to train by, without the wider tails.

    Args:
      global_state: Nested structure of `Tensor`s of shape `batch + event`.
      x: As in `parameters`.
      is_observed: As in `parameters`.
      u: As in `parameters`.

    Returns:
      log_prob: `Tensor` of shape `batch`: the density of the vector.
    """
    y = self.space.vector(global_state)
    loc, scale_tril = self.parameters(x, is_observed, u)
    return tfd.MultivariateNormalTriL(loc, scale_tril).log_prob(y)


class GaussianProposalNetwork(tf.Module):
  """Proposes local states by a network of the step alone.

  This is a `proposal_fn` of `StateSpaceSampler`, for local states that are
  numbers or vectors. It is a normal distribution whose location and diagonal
  scale are functions of the observation, the local state before and the global
  state.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(0.9 * z, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  network = nvi.GaussianProposalNetwork(model, seed=1)
  sampler = nvi.StateSpaceSampler(model, proposal_fn=network)
  posterior = sampler.sample([0.1, 0.5, 0.8], num_particles=100, seed=2)
  ```
  """

  def __init__(
    self,
    model: model_lib.StateSpaceModel,
    num_units: int = 32,
    num_steps: int = 10,
    seed: types.Seed | None = None,
    name: str = 'gaussian_proposal_network',
  ):
    """Initializes the network.

    Args:
      model: `StateSpaceModel`.
      num_units: Python `int` number of hidden units.
        Default value: `32`.
      num_steps: Python `int`: how many steps to simulate to learn the scales of
        states and observations.
        Default value: `10`.
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If local states are not real numbers or vectors of such.
    """
    super().__init__(name=name)
    checks.check_instance(
      'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
    )
    dtype, shape = model.example.local_like
    if tf.nest.is_nested(dtype) or not dtype.is_floating or shape.rank > 1:
      raise ValueError(
        '`model` must have local states that are real numbers or vectors, for '
        f'a GaussianProposalNetwork; got {dtype!r} of shape {shape!r}.'
      )
    num_units = checks.as_count('num_units', num_units)
    num_steps = checks.as_count('num_steps', num_steps)
    self._event_rank, self._dtype = shape.rank, dtype
    self._features = Features(model, num_steps)
    inputs = None if model.input_example is None else model.example.inputs
    _, z, _ = model.simulate(num_steps, [500], seed=0, inputs=inputs)
    z = gaussian.as_vector(z, shape.rank)
    self._size = size = z.shape[-1]
    low, center, high = tfp.stats.percentile(
      tf.reshape(z, [-1, size]), [16.0, 50.0, 84.0], axis=0
    )
    self._center, self._scale = center, tf.maximum(0.5 * (high - low), 1e-6)
    self._space = None
    num_globals = 0
    if model.prior is not None:
      self._space = global_space.GlobalSpace(model.prior)
      num_globals = self._space.size
    seeds = tf.unstack(randomness.split_seed(randomness.as_seed(seed), 2))
    self._hidden = Dense(
      self._features.size + size + 1 + num_globals, num_units, dtype, seeds[0]
    )
    self._last = Dense(num_units, 2 * size, dtype, seeds[1], is_last=True)

  def __call__(
    self,
    x: types.Structure,
    z: types.Structure | None,
    theta: types.Structure = (),
  ) -> tfd.Distribution:
    """Returns the proposal of a local state.

    Args:
      x: Nested structure of `Tensor`s of shape `batch + event`: the observation
        of the step.
      z: Local states before, of shape `[num_particles] + batch + event`; `None`
        at the first step.
      theta: Global states, likewise.

    Returns:
      proposal: `tfd.Distribution` over the local state.
    """
    parts: list[Any] = [tf.cast(self._features(x), self._dtype)]
    if z is not None:
      before = gaussian.as_vector(z, self._event_rank)
      parts.append((before - self._center) / self._scale)
    if self._space is not None:
      parts.append(tf.cast(self._space.vector(theta), self._dtype))
    shape = parts[-1].shape[:-1]
    if z is None:
      parts.append(tf.zeros([*shape, self._size], self._dtype))
    flag = tf.fill([*shape, 1], tf.constant(float(z is None), self._dtype))
    inputs = tf.concat(
      [
        tf.broadcast_to(part, [*shape, part.shape[-1]])
        for part in (*self._in_order(parts, z), flag)
      ],
      axis=-1,
    )
    outputs = self._last(tf.nn.relu(self._hidden(inputs)))
    loc, scale = tf.split(outputs, 2, axis=-1)
    start = tf.zeros_like(loc) if z is None else before - self._center
    loc = self._center + start + self._scale * loc
    scale = self._scale * perceptron.as_scale(scale)
    if self._event_rank == 0:
      return tfd.Normal(loc[..., 0], scale[..., 0])
    return tfd.MultivariateNormalDiag(loc, scale)

  def _in_order(self, parts, z):
    """Returns the parts in the same order at the first and at later steps."""
    if z is not None or self._space is None:
      return parts
    return [parts[0], parts[2], parts[1]]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A heuristic that is learned: a network that reads the sequence backwards.

Contract: the factor is a function of a summary of the observations to come, of
the global state, and of the local state, whatever kinds of values these are. It
is learned from simulations as a density ratio: the network learns to tell which
states of a mini-batch the observations to come belong to. The optimal network
equals `log p(x_{k+1:K} | theta, z_k)` up to a term of the sequence alone, which
does not change the samples.

#### References

[1]: D. Lawson, A. Raventos, A. Warrington, S. Linderman. SIXO: smoothing
     inference with twisted objectives. NeurIPS, 2022.
[2]: A. van den Oord, Y. Li, O. Vinyals. Representation learning with
     contrastive predictive coding. 2018. https://arxiv.org/abs/1807.03748
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.state_space import global_space, networks
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.heuristics import Heuristic

tfd = tfp.distributions

__all__ = [
  'RecurrentHeuristic',
]

# Up to this number of values, discrete states are encoded as one-hot vectors.
_MOST_CATEGORIES = 32


class _StateFeatures(tf.Module):
  """Local states as vectors of numbers of moderate size.

  Fields:
    size: Python `int`: the length of a vector.
  """

  def __init__(self, model, num_steps):
    super().__init__(name='state_features')
    self._dtype = model.example.dtype
    self._shapes = [
      tf.TensorShape(shape)
      for shape in tf.nest.flatten(model.example.local_like[1])
    ]
    inputs = None
    if model.input_example is not None:
      inputs = model.example.inputs
    _, z, _ = model.simulate(num_steps, [500], seed=0, inputs=inputs)
    self._counts, self._centers, self._scales = [], [], []
    for part, shape in zip(tf.nest.flatten(z), self._shapes, strict=True):
      count = None
      if not part.dtype.is_floating and shape.rank == 0:
        largest = int(tf.reduce_max(part)) + 1
        count = largest if 1 < largest <= _MOST_CATEGORIES else None
      self._counts.append(count)
      values = tf.cast(
        tf.reshape(part, [-1, shape.num_elements()]), self._dtype
      )
      low, center, high = tfp.stats.percentile(values, [16.0, 50.0, 84.0], 0)
      self._centers.append(center)
      self._scales.append(tf.where(high > low, 0.5 * (high - low), 1.0))
    self.size = sum(
      shape.num_elements() if count is None else count
      for shape, count in zip(self._shapes, self._counts, strict=True)
    )

  def __call__(self, z):
    """Returns features of shape `leading + [size]`."""
    parts = []
    for x, shape, count, center, scale in zip(
      tf.nest.flatten(z),
      self._shapes,
      self._counts,
      self._centers,
      self._scales,
      strict=True,
    ):
      if count is not None:
        parts.append(tf.one_hot(tf.cast(x, tf.int32), count, dtype=self._dtype))
        continue
      leading = x.shape[: x.shape.rank - shape.rank].as_list()
      x = tf.cast(tf.reshape(x, leading + [-1]), self._dtype)
      parts.append(tf.asinh((x - center) / scale))
    return tf.concat(parts, axis=-1)


class RecurrentHeuristic(Heuristic):
  """A factor by a backward recurrent network, for any model.

  `tfp_nvi.fit_state_space` learns one if there is no exact heuristic for a
  model.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Poisson(5.0),
    transition_fn=lambda z: tfd.Poisson(1.0 + 0.8 * z),
    observation_fn=lambda z: tfd.Normal(z, 2.0),
  )
  sampler = nvi.StateSpaceSampler(
    model, heuristic=nvi.RecurrentHeuristic(model, seed=1)
  )
  posterior = sampler.sample([3.0, 5.0, 9.0], num_particles=100, seed=2)
  ```
  """

  is_trusted = True

  def __init__(
    self,
    model: model_lib.StateSpaceModel,
    num_units: int = 32,
    num_steps: int = 10,
    seed: types.Seed | None = None,
    name: str = 'recurrent_heuristic',
  ):
    """Initializes the network, whose factor is one at first.

    Args:
      model: `StateSpaceModel`.
      num_units: Python `int` number of units of each layer.
        Default value: `32`.
      num_steps: Python `int`: how many steps to simulate to learn the scales of
        states and observations.
        Default value: `10`.
      seed: Python `int` or stateless seed.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the prior is over discrete global states.
    """
    super().__init__(name=name)
    checks.check_instance(
      'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
    )
    num_units = checks.as_count('num_units', num_units)
    num_steps = checks.as_count('num_steps', num_steps)
    dtype = self._dtype = model.example.dtype
    self._features = networks.Features(model, num_steps)
    self._states = _StateFeatures(model, num_steps)
    self._space = None
    num_globals = 0
    if model.prior is not None:
      self._space = global_space.GlobalSpace(model.prior)
      num_globals = self._space.size
    seeds = tf.unstack(randomness.split_seed(randomness.as_seed(seed), 5))
    size = num_globals + self._states.size + 1
    self._embed = networks.Dense(
      self._features.masked_size, num_units, dtype, seeds[0]
    )
    self._recurrent = networks.Recurrent(num_units, num_units, dtype, seeds[1])
    self._of_future = networks.Dense(num_units, num_units, dtype, seeds[2])
    self._of_states = networks.Dense(size, num_units, dtype, seeds[3])
    self._hidden = networks.Dense(num_units, num_units, dtype, seeds[4])
    self._last = networks.Dense(num_units, 1, dtype, seeds[4], is_last=True)

  def prepare(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None,
    global_state: types.Structure,
  ) -> tf.Tensor:
    """Summarizes the observations to come; see `Heuristic.prepare`."""
    del global_state
    features = self._features.masked(observations, is_observed)
    units = tf.nn.relu(self._embed(features))
    units = steps_lib.steps_first(units, features.shape.rank - 2)
    hidden = tf.reverse(self._recurrent(tf.reverse(units, [0])), [0])
    # Row `k` has read the observations of the steps after the k-th.
    return self._of_future(hidden)[:, tf.newaxis]

  def log_factor(
    self,
    row: types.Structure,
    global_state: types.Structure,
    local_state: types.Structure | None,
  ) -> tf.Tensor:
    """Returns the network's output; see `Heuristic.log_factor`."""
    inputs = self._inputs(global_state, local_state, row.shape[:-1])
    return self._score(row, self._of_states(inputs))

  def _inputs(self, global_state, local_state, shape):
    """Returns features of the states of particles."""
    parts = []
    if self._space is not None:
      parts.append(tf.cast(self._space.vector(global_state), self._dtype))
      shape = parts[0].shape[:-1]
    if local_state is not None:
      parts.append(self._states(local_state))
      shape = parts[-1].shape[:-1]
    else:
      parts.append(tf.zeros([*shape, self._states.size], self._dtype))
    flag = float(local_state is None)
    parts.append(tf.fill([*shape, 1], tf.constant(flag, self._dtype)))
    return tf.concat(parts, axis=-1)

  def _score(self, of_future, of_states):
    units = tf.nn.relu(of_future + of_states)
    # The sum with the units gives a direct path from the states.
    units = tf.nn.relu(self._hidden(units)) + units
    return self._last(units)[..., 0]

  def contrast(
    self,
    global_state: types.Structure,
    local_states: types.Structure,
    observations: types.Structure,
    mask: types.Structure | None,
    num_levels: int,
    seed: types.StatelessSeed,
  ) -> tf.Tensor:
    """Computes the loss of the network on telling states of a mini-batch apart.

    Args:
      global_state: Nested structure of `Tensor`s of shape
        `[batch_size] + event`.
      local_states: Nested structure of `Tensor`s of shape
        `[batch_size, num_steps] + event`.
      observations: Likewise.
      mask: Mask, for steps or components, as in `StateSpaceSampler.sample`.
      num_levels: Python `int`: the number of levels to use, drawn at random;
        level 0 is always used too.
      seed: Stateless seed.

    Returns:
      loss: Scalar float `Tensor`: the mean cross entropy.
    """
    rows = self.prepare(observations, mask, ())[:, 0]
    num_steps, batch_size = rows.shape[:2]
    of_states = []
    if self._space is not None:
      first = self._inputs(global_state, None, [batch_size])
      of_states.append((rows[0], first))
    uniform = randomness.uniform([num_levels], seed)
    for i in range(num_levels if num_steps > 1 else 0):
      level = 1 + tf.cast(tf.floor(uniform[i] * (num_steps - 1)), tf.int32)
      level = tf.minimum(level, num_steps - 1)
      local = tf.nest.map_structure(
        lambda z, level=level: tf.gather(z, level - 1, axis=1), local_states
      )
      inputs = self._inputs(global_state, local, [batch_size])
      of_states.append((tf.gather(rows, level), inputs))
    loss = 0.0
    for row, inputs in of_states:
      # Each future is scored with the states of all members.
      scores = self._score(row[:, tf.newaxis], self._of_states(inputs))
      right = tf.linalg.diag_part(scores)
      loss += tf.reduce_mean(tf.reduce_logsumexp(scores, axis=-1) - right)
    return loss / max(len(of_states), 1)

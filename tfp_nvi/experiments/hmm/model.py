# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A hidden Markov model with unknown emissions, its proposals and heuristics.

```none
precision_m ~ Gamma(4, 4),  mean_m ~ Normal(3 m - 4.5, sqrt(2 / precision_m))
z_1 uniform,  z_k = z_{k-1} with probability 0.91, else any other state
x_k ~ Normal(mean_{z_k}, 1 / sqrt(precision_{z_k}))
```

for states `m = 0, ..., 3`: neighbouring states are about three deviations
apart, and overlap in some instances. The prior's locations differ, so that the
labels of the states mean something.

The inputs of a network for a state are its densities of observations; all
states share the weights.

#### References

[1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested variational
     inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.state_space import heuristics
from tfp_nvi.state_space import steps as steps_lib

tfd = tfp.distributions

__all__ = [
  'Emissions',
  'ExactHeuristic',
  'InitialProposal',
  'LearnedHeuristic',
  'StepProposal',
  'exact_log_likelihood',
  'make_model',
  'mixture_heuristic',
]

NUM_STATES = 4
_STAY = 0.91
_LOCATIONS = np.array([-4.5, -1.5, 1.5, 4.5], np.float32)
_NUM_PSEUDO = 0.5  # How many observations the prior of a mean is worth.
_CONCENTRATION, _RATE = 4.0, 4.0
_LOG_2_PI = float(np.log(2.0 * np.pi))

# The number of observations to come that learned heuristics see one by one.
_WINDOW = 8


class Emissions(NamedTuple):
  """The global state.

  Fields:
    precision: float `Tensor` of shape `[num_particles] + batch + [4]`.
    mean: Likewise.
  """

  precision: Any
  mean: Any


def transition_matrix():
  """Returns probabilities `[4, 4]`, of the next state in the last axis."""
  move = (1.0 - _STAY) / (NUM_STATES - 1)
  matrix = np.full([NUM_STATES, NUM_STATES], move, np.float32)
  np.fill_diagonal(matrix, _STAY)
  return matrix


def _normal_gamma(concentration, rate, location, num_pseudo):
  """Returns independent normal-gamma distributions of all states."""
  return tfd.JointDistributionNamed(
    Emissions(
      precision=tfd.Independent(tfd.Gamma(concentration, rate), 1),
      mean=lambda precision: tfd.Independent(
        tfd.Normal(location, tf.math.rsqrt(num_pseudo * precision)), 1
      ),
    )
  )


def _of_state(z, values):
  """Selects the values of the state of each particle."""
  return tf.reduce_sum(tf.one_hot(z, NUM_STATES) * values, axis=-1)


def make_model():
  """Makes the model.

  Returns:
    model: `StateSpaceModel` whose global state is `Emissions`.
  """
  log_transition = tf.math.log(transition_matrix())
  location = tf.constant(_LOCATIONS)
  ones = tf.ones_like(location)
  return nvi.StateSpaceModel(
    prior=_normal_gamma(
      _CONCENTRATION * ones, _RATE * ones, location, _NUM_PSEUDO
    ),
    initial_fn=lambda _: tfd.Categorical(logits=tf.zeros([NUM_STATES])),
    transition_fn=lambda z, _: tfd.Categorical(
      logits=tf.gather(log_transition, z)
    ),
    observation_fn=lambda z, eta: tfd.Normal(
      _of_state(z, eta.mean), tf.math.rsqrt(_of_state(z, eta.precision))
    ),
  )


def _log_emissions(x, eta):
  """Returns the log density of observations, with a last axis over states."""
  square = eta.precision * (x[..., tf.newaxis] - eta.mean) ** 2
  return 0.5 * (tf.math.log(eta.precision) - square - _LOG_2_PI)


def _initial_weights(shape, seed):
  return tf_keras.initializers.GlorotUniform(seed=seed)(shape)


class _Perceptron(tf.Module):
  """One hidden layer, and an output layer that starts at zero."""

  def __init__(self, inputs, units, outputs, seed):
    super().__init__()
    self._first = tf.Variable(_initial_weights([inputs, units], seed))
    self._first_bias = tf.Variable(tf.zeros([units]))
    self._second = tf.Variable(tf.zeros([units, outputs]))
    self._second_bias = tf.Variable(tf.zeros([outputs]))

  def __call__(self, x):
    hidden = tf.nn.relu(tf.matmul(x, self._first) + self._first_bias)
    return tf.matmul(hidden, self._second) + self._second_bias


def _apply(network, features):
  """Applies a network with one output to every element of some tensors.

  Elements are on the last axis, where products of small matrices are fast.
  """
  x = tf.stack([tf.reshape(f, [-1]) for f in features])
  return tf.reshape(network.particles_last(0, x), features[0].shape)


class InitialProposal(tf.Module):
  """A conjugate proposal of the emissions, by learned statistics.

  A network assigns each observation to the states. It sees the densities of the
  observation and of its neighbours in each state, under the emissions that the
  round before found, or in the first round under those of the prior. Counts,
  sums and squares of the assigned observations give a normal-gamma distribution
  as if the assignments were certain, tempered by learned factors.
  """

  def __init__(self, num_rounds=3, reach=4, units=32, seed=1):
    """Initializes the networks.

    Args:
      num_rounds: Python `int`: how many times observations are assigned.
      reach: Python `int`: how many neighbours on either side are seen.
      units: Python `int`: hidden units.
      seed: Python `int`.
    """
    super().__init__(name='initial_proposal')
    self._reach = reach
    width = 2 * reach + 1
    self._own = [tf.Variable(1.0, name='own') for _ in range(num_rounds)]
    self._networks = [
      _Perceptron(width * NUM_STATES, units, NUM_STATES, seed + i)
      for i in range(num_rounds)
    ]
    self._log_temper = tf.Variable(tf.zeros([3]), name='log_temper')

  def _assign(self, i, x, eta):
    """Returns probabilities of states, of shape `batch + [num_steps, 4]`."""
    log_density = _log_emissions(
      x, tf.nest.map_structure(lambda v: v[..., tf.newaxis, :], eta)
    )
    relative = tf.maximum(tf.nn.log_softmax(log_density), -20.0)
    reach, num_steps = self._reach, x.shape[-1]
    rank = relative.shape.rank
    padded = tf.pad(relative, [[0, 0]] * (rank - 2) + [[reach, reach], [0, 0]])
    window = tf.concat(
      [padded[..., d : d + num_steps, :] for d in range(2 * reach + 1)], axis=-1
    )
    return tf.nn.softmax(self._own[i] * relative + self._networks[i](window))

  def __call__(self, x, is_observed=None):
    """Returns the proposal for some sequences.

    Args:
      x: float `Tensor` of shape `batch + [num_steps]`.
      is_observed: Optional bool `Tensor` of the same shape.

    Returns:
      distribution: `tfd.JointDistributionNamed` over `Emissions`.
    """
    location = tf.broadcast_to(_LOCATIONS, x.shape[:-1] + [NUM_STATES])
    eta = Emissions(tf.ones_like(location), location)
    for i in range(len(self._networks)):
      assigned = self._assign(i, x, eta)
      if is_observed is not None:
        assigned *= tf.cast(is_observed, x.dtype)[..., tf.newaxis]
      count = tf.reduce_sum(assigned, axis=-2)
      total = tf.reduce_sum(assigned * x[..., tf.newaxis], axis=-2)
      num_pseudo = _NUM_PSEUDO + count
      mean = (_NUM_PSEUDO * location + total) / num_pseudo
      squares = tf.reduce_sum(
        assigned * (x[..., tf.newaxis] - mean[..., tf.newaxis, :]) ** 2, axis=-2
      )
      squares += _NUM_PSEUDO * (mean - location) ** 2
      concentration = _CONCENTRATION + 0.5 * count
      rate = _RATE + 0.5 * squares
      eta = Emissions(concentration / rate, mean)
    temper = tf.exp(self._log_temper)
    return _normal_gamma(
      temper[0] * concentration,
      temper[0] * temper[1] * rate,
      mean,
      temper[2] * num_pseudo,
    )


class StepProposal(tf.Module):
  """The proposal of a state, given the observation and the state before."""

  def __init__(self, units=16, seed=11):
    """Initializes the network.

    Args:
      units: Python `int`: hidden units.
      seed: Python `int`.
    """
    super().__init__(name='step_proposal')
    self._linear = tf.Variable(tf.zeros([3]), name='linear')
    self._network = nvi.StackedPerceptron(1, [], [3, units, 1], seed=seed)

  def __call__(self, x, z, eta):
    """Returns the proposal.

    Args:
      x: float `Tensor` of shape `batch`.
      z: int32 `Tensor` of shape `[num_particles] + batch`; `None` at first.
      eta: `Emissions`.

    Returns:
      distribution: `tfd.Categorical`.
    """
    log_precision = tf.math.log(eta.precision)
    deviation = tf.abs(x[..., tf.newaxis] - eta.mean) * tf.sqrt(eta.precision)
    if z is None:
      is_same = tf.zeros_like(deviation)
    else:
      is_same = tf.one_hot(z, NUM_STATES)
    log_precision = tf.broadcast_to(log_precision, deviation.shape)
    logits = (
      self._linear[0] * deviation**2
      + self._linear[1] * log_precision
      + self._linear[2] * is_same
      + _apply(
        self._network, [tf.tanh(0.3 * deviation), log_precision, is_same]
      )
    )
    return tfd.Categorical(logits=logits)


def mixture_heuristic():
  """Makes the heuristic of observations to come as draws from a mixture.

  Returns:
    heuristic: `IndependentHeuristic`.
  """
  return nvi.IndependentHeuristic(
    lambda eta: tfd.MixtureSameFamily(
      tfd.Categorical(logits=tf.zeros([NUM_STATES])),
      tfd.Normal(eta.mean, tf.math.rsqrt(eta.precision)),
    )
  )


def _prepare_emissions(x, eta):
  """Returns log densities: `[num_steps, num_particles] + batch + [4]`."""
  x = steps_lib.steps_first(x, x.shape.rank - 1, axes=1)
  return _log_emissions(x, eta)


class LearnedHeuristic(nvi.Heuristic):
  """A learned heuristic that is a sum over the observations to come.

  ```none
  log psi(x_{k+1:K} | eta) =
      a sum_{j > k} log sum_m exp(f(x_{j:j+8}, eta_m)) Normal(x_j; eta_m) / 4
  ```

  with a power `a` and a network `f` that sees, for a state, how far the
  observation is from its mean, its precision, and how probable it makes the
  next observations. The heuristic that is aware of the state adds
  `g(x_{k+1:k+9}, eta_{z_k})`, of a network that sees the latter too. Power and
  networks start at zero, so that there is no heuristic at first.
  """

  def __init__(self, is_state_aware=False, units=16, seed=21):
    """Initializes the networks.

    Args:
      is_state_aware: Python `bool`: whether the factor may depend on `z_k`.
      units: Python `int`: hidden units.
      seed: Python `int`.
    """
    super().__init__(name='learned_heuristic')
    self._is_state_aware = is_state_aware
    self._power = tf.Variable(0.0, name='power')
    self._network = nvi.StackedPerceptron(1, [], [4, units, 1], seed=seed)
    taps = np.zeros([2, _WINDOW], np.float32)
    taps[:, 0] = 1.0
    self._taps = tf.Variable(0.5 * taps, name='taps')
    if is_state_aware:
      self._state_network = nvi.StackedPerceptron(
        1, [], [3, units, 1], seed=seed + 1
      )
      self._state_linear = tf.Variable(0.0, name='state_linear')

  def _of_next(self, relative, taps):
    """Returns weighted sums of the evidence to come, by state."""
    padded = tf.pad(
      relative, [[0, _WINDOW]] + [[0, 0]] * (relative.shape.rank - 1)
    )
    num_steps = relative.shape[0]
    return tf.add_n(
      [taps[d] * padded[d : d + num_steps] for d in range(_WINDOW)]
    )

  def prepare(self, observations, is_observed, global_state):
    """Returns sums over the rest of the sequence, and terms of each state."""
    x, eta = observations, global_state
    log_emissions = _prepare_emissions(x, eta)
    if is_observed is not None:
      is_observed = steps_lib.steps_first(is_observed, x.shape.rank - 1, 1)
      log_emissions = tf.where(is_observed[..., tf.newaxis], log_emissions, 0.0)
    relative = tf.maximum(tf.nn.log_softmax(log_emissions), -20.0)
    log_precision = tf.broadcast_to(
      0.5 * tf.math.log(eta.precision), log_emissions.shape
    )
    square = log_precision - log_emissions - 0.5 * _LOG_2_PI
    # This is the evidence of the steps after each observation.
    after = self._of_next(
      tf.concat([relative[1:], tf.zeros_like(relative[:1])], axis=0),
      self._taps[0],
    )
    probability = tf.nn.softmax(after)
    logits = log_emissions + _apply(
      self._network,
      [tf.tanh(0.2 * square), log_precision, probability, tf.tanh(0.2 * after)],
    )
    log_factor = self._power * (
      tf.reduce_logsumexp(logits, axis=-1) - np.log(NUM_STATES)
    )
    rest = heuristics.sum_of_rest(log_factor, is_observed)
    if not self._is_state_aware:
      return rest
    ahead = self._of_next(relative, self._taps[1])
    ahead -= tf.reduce_mean(ahead, axis=-1, keepdims=True)
    probability = tf.nn.softmax(ahead)
    of_state = self._state_linear * ahead + _apply(
      self._state_network,
      [probability, tf.tanh(0.2 * ahead), log_precision],
    )
    return rest, of_state

  def log_factor(self, row, global_state, local_state):
    """Returns the factor of the rest, alone or with the term of the state."""
    del global_state
    if not self._is_state_aware:
      return row
    rest, of_state = row
    if local_state is None:
      return rest
    return rest + _of_state(local_state, of_state)


def _backward_messages(x, is_observed, eta):
  """Returns the log likelihood of the observations to come, in each state.

  Args:
    x: float `Tensor` of shape `batch + [num_steps]`.
    is_observed: Optional bool `Tensor` of the same shape.
    eta: `Emissions`.

  Returns:
    total: float `Tensor` of shape `[num_particles] + batch`: `log p(x | eta)`.
    messages: float `Tensor` of shape `[num_steps, num_particles] + batch + [4]`
      whose row `k` is `log p(x_{k+1:K} | z_k, eta)`; row 0 is undefined.
  """
  log_emissions = _prepare_emissions(x, eta)
  if is_observed is not None:
    is_observed = steps_lib.steps_first(is_observed, x.shape.rank - 1, 1)
    log_emissions = tf.where(is_observed[..., tf.newaxis], log_emissions, 0.0)
  matrix = transition_matrix()
  move = float(matrix[0, 1])
  num_steps = log_emissions.shape[0]
  array = tf.TensorArray(
    x.dtype, num_steps, element_shape=log_emissions.shape[1:]
  )

  def body(i, message, array):
    k = num_steps - 1 - i
    log_joint = message + tf.gather(log_emissions, k)
    # All states but one are alike, so that a row is a sum and a difference.
    maximum = tf.reduce_max(log_joint, axis=-1, keepdims=True)
    joint = tf.exp(log_joint - maximum)
    total = tf.reduce_sum(joint, axis=-1, keepdims=True)
    message = maximum + tf.math.log(move * total + (_STAY - move) * joint)
    return i + 1, message, array.write(k, message)

  _, message, array = tf.while_loop(
    lambda i, *_: i < num_steps - 1,
    body,
    (tf.constant(0), tf.zeros_like(log_emissions[0]), array),
    maximum_iterations=num_steps - 1,
  )
  total = tf.reduce_logsumexp(message + log_emissions[0], axis=-1)
  array = array.write(0, tf.zeros_like(message))
  return total - np.log(NUM_STATES), array.stack()


def exact_log_likelihood(x, eta, is_observed=None):
  """Returns the log likelihood of the emissions, all states summed out.

  Args:
    x: float `Tensor` of shape `batch + [num_steps]`.
    eta: `Emissions` of shape `[num_particles] + batch + [4]`.
    is_observed: Optional bool `Tensor` of shape `batch + [num_steps]`.

  Returns:
    log_likelihood: float `Tensor` of shape `[num_particles] + batch`.
  """
  return _backward_messages(x, is_observed, eta)[0]


class ExactHeuristic(nvi.Heuristic):
  """The exact likelihood of the observations to come, the optimal heuristic."""

  def prepare(self, observations, is_observed, global_state):
    """Returns backward messages of all steps."""
    total, messages = _backward_messages(
      observations, is_observed, global_state
    )
    first = tf.concat(
      [total[tf.newaxis], tf.zeros_like(messages[1:, ..., 0])], axis=0
    )
    return first, messages

  def log_factor(self, row, global_state, local_state):
    """Returns the message of the state; before the first step, their sum."""
    del global_state
    total, message = row
    return total if local_state is None else _of_state(local_state, message)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes and trains a sampler for a model in one call."""

import functools
import warnings
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from tfp_nvi import resampling, training
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.state_space import backward, learning, networks, twisting
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space.sampler import StateSpaceSampler
from tfp_nvi.state_space.sequences import Sequences

__all__ = [
  'fit_state_space',
]

# The number of sequences that are simulated for training.
_NUM_SEQUENCES = 20_000
# Learning from data: the number of rounds, and of particles and draws of states
# for each sequence.
_NUM_ROUNDS, _NUM_PARTICLES, _NUM_DRAWS = 2, 500, 20
# How many times the proposal of the global state is fitted to a new sequence.
_NUM_REFINEMENTS = 2
# The number of simulated sequences on which a Gaussian heuristic is tried, and
# the number of particles of the filter that it is compared with. The heuristic
# may miss the log likelihood of a share `_MAX_MISSED` of the sequences by more
# than `_MAX_GAP` nats for each hundred steps.
_NUM_TRIED, _NUM_TRIED_PARTICLES = 64, 200
_MAX_MISSED, _MAX_GAP = 0.25, 3.0


def fit_state_space(
  model: model_lib.StateSpaceModel,
  data: types.Structure | None = None,
  length: int | None = None,
  *,
  is_observed: types.Structure | None = None,
  inputs: types.Structure | None = None,
  num_steps: int = 2_000,
  batch_size: int = 128,
  num_units: int = 32,
  learning_rate: float = 3e-3,
  progress: bool = True,
  seed: types.Seed | None = None,
) -> StateSpaceSampler:
  """Makes a sampler for the sequences of a model, and trains it once.

  - The heuristic is exact for local states of a `tfd.Categorical`
    (`HiddenMarkovHeuristic`), a Gaussian approximation for normal transitions
    (`GaussianHeuristic`), and learned for other models (`RecurrentHeuristic`),
    as well as where the approximation misses much of the likelihood of some
    simulated sequences, as for states with several modes.
    The first two propose local states too; for the others, the proposal is
    `'guided'` if it can be, else `'prior'`.
  - The proposal of the global state is a recurrent network, which is learned.
    If the heuristic is not, `sample` fits the proposal to each sequence by two
    rounds of importance sampling, before the particles are drawn.
  - Particles are resampled where less than half of them are effective.

  Training begins on sequences that the model simulates. With `data`, it
  continues on these, however improbable they are under the prior: twice, the
  current sampler draws states of each sequence, and is trained on these states
  for `num_steps // 4` steps. Some sequences are shown with missing parts, and
  some end early, so that the sampler serves such sequences too. A model without
  a global state whose heuristic is not learned needs no training.

  Args:
    model: `StateSpaceModel`.
    data: Nested structure of `Tensor`s of shape `batch + [num_steps] + event`:
      sequences to learn from, or one sequence.
      Default value: `None` (i.e., simulations alone).
    length: Python `int`: how many steps to simulate.
      Default value: `None` (i.e., that of `data`).
    is_observed: Mask of `data`, as in `StateSpaceSampler.sample`.
      Default value: `None` (i.e., all).
    inputs: Nested structure of `Tensor`s of shape `[length] + event`, if the
      model has inputs; all sequences have the same inputs.
      Default value: `None`.
    num_steps: Python `int` number of training steps on simulations.
      Default value: `2_000`.
    batch_size: Python `int` number of sequences of a training step.
      Default value: `128`.
    num_units: Python `int` number of units of each layer of the networks.
      Default value: `32`.
    learning_rate: Python `float`: the learning rate of Adam at the start; it
      falls to zero.
      Default value: `3e-3`.
    progress: Python `bool`: whether to show a progress bar, on a terminal
      or in a notebook.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    sampler: `StateSpaceSampler`. Its field `history` is the `History` of the
      training on simulations, or `None`; `data_histories` has that of each
      round on data.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If a count is not positive, neither `data` nor `length` is
      given, data are not sequences of the model, the prior is over discrete
      states, or simulated sequences overflow.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda mean: tfd.Normal(mean, 1.0),
    transition_fn=lambda z, mean: tfd.Normal(mean + 0.9 * (z - mean), 0.3),
    observation_fn=lambda z: tfd.Normal(0.0, tf.exp(0.5 * z)),
  )
  sampler = nvi.fit_state_space(model, length=10, num_steps=20, seed=1)
  _, _, x = model.simulate(num_steps=10, seed=2)
  posterior = sampler.sample(x, num_particles=200, seed=3)
  ```
  """
  checks.check_instance(
    'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
  )
  num_steps = checks.as_count('num_steps', num_steps)
  batch_size = checks.as_count('batch_size', batch_size)
  num_units = checks.as_count('num_units', num_units)
  learning_rate = checks.as_float(
    'learning_rate', learning_rate, 0.0, is_open=True
  )
  checks.check_bool('progress', progress)
  sequences = _as_sequences(model, data, is_observed, inputs)
  if sequences is None and length is None:
    raise ValueError('`data` or `length` must be given; got neither.')
  if length is not None:
    length = checks.as_count('length', length)
  else:
    length = sequences.num_steps
  network_seed, heuristic_seed, data_seed, fit_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 4)
  )
  settings: dict[str, Any] = dict(num_units=num_units, num_steps=length)
  heuristic = _choose_heuristic(model, settings, heuristic_seed, inputs)
  is_learned = isinstance(heuristic, twisting.RecurrentHeuristic)
  proposal_fn = 'heuristic'
  if is_learned:
    proposal_fn = 'guided' if model.can_be_guided else 'prior'
  network = None
  if model.prior is not None:
    network = networks.GlobalProposalNetwork(
      model, **settings, seed=network_seed
    )
  sampler = StateSpaceSampler(
    model,
    initial_proposal_fn=network,
    proposal_fn=proposal_fn,
    heuristic=heuristic,
    resample_criterion_fn=resampling.ess_below(0.5),
    num_refinements=0 if is_learned or network is None else _NUM_REFINEMENTS,
  )
  if network is None and not is_learned:
    return sampler
  inputs = model_lib.as_inputs(inputs, model.example, tf.TensorShape([length]))
  values = learning.simulate_finite(
    model, length, _NUM_SEQUENCES, _or_none(inputs), data_seed
  )
  trainer = _Trainer(
    network,
    heuristic if is_learned else None,
    batch_size,
    learning_rate,
    progress,
  )
  sampler.history = trainer.fit(values, inputs, num_steps, fit_seed)
  if sequences is None:
    return sampler
  histories = []
  for i in range(_NUM_ROUNDS):
    draw_seed, train_seed = tf.unstack(
      randomness.split_seed(randomness.fold_in(data_seed, i), 2)
    )
    with warnings.catch_warnings():
      # The warnings are meant for a sampler that has been trained.
      warnings.simplefilter('ignore', RuntimeWarning)
      values = learning.draw_states(
        sampler, sequences, _NUM_PARTICLES, _NUM_DRAWS, draw_seed
      )
    sampler.forget_warnings()
    inputs = tf.nest.map_structure(lambda x: x[0], sequences.inputs)
    histories.append(
      trainer.fit(values, inputs, max(num_steps // 4, 1), train_seed)
    )
  sampler.data_histories = tuple(histories)
  return sampler


class _Trainer(NamedTuple):
  """Trains networks on sequences whose states are known.

  Fields:
    network: `GlobalProposalNetwork`, or `None`.
    heuristic: `RecurrentHeuristic`, or `None`.
    batch_size: As in `fit_state_space`.
    learning_rate: As in `fit_state_space`.
    progress: As in `fit_state_space`.
  """

  network: Any
  heuristic: Any
  batch_size: int
  learning_rate: float
  progress: bool

  def fit(self, values, inputs, num_steps, seed):
    """Trains on sequences.

    Args:
      values: Tuple of global states, local states, observations, and perhaps
        masks, with one batch axis.
      inputs: Nested structure of `Tensor`s of shape `[length] + event`, or
        `()`.
      num_steps: Python `int` number of training steps.
      seed: Stateless seed.

    Returns:
      history: `History`.
    """
    # A dataset would make a `Tensor` of a state that is a list.
    parts = tf.nest.flatten(values)
    size = parts[0].shape[0]
    batch = min(self.batch_size, size)

    def with_networks(element):
      theta, z, x, *mask = tf.nest.pack_sequence_as(values, element)
      u = tf.nest.map_structure(
        lambda x: tf.broadcast_to(x, [batch] + x.shape), inputs
      )
      return learning.Simulated(
        self.network, self.heuristic, theta, z, x, u, mask[0] if mask else ()
      )

    return training.fit(
      with_networks,
      learning.SimulationObjective(),
      num_particles=1,
      num_steps=num_steps,
      data=tf.data.Dataset.from_tensor_slices(tuple(parts))
      .shuffle(size, seed=1)
      .batch(batch, drop_remainder=True),
      optimizer=tf_keras.optimizers.Adam(
        tf_keras.optimizers.schedules.CosineDecay(self.learning_rate, num_steps)
      ),
      steps_per_call=min(num_steps, 100),
      progress=self.progress,
      seed=seed,
    )


def _as_sequences(model, data, is_observed, inputs):
  """Converts data to sequences with one batch axis, or returns `None`."""
  if data is None:
    if is_observed is not None:
      raise ValueError(
        '`is_observed` must be None without `data`; got '
        f'{type(is_observed).__name__}.'
      )
    return None
  dtype, shapes = model.example.observation_like
  data = model_lib.convert_like(
    'data', data, dtype, 'the values of `observation_fn`'
  )
  for x, shape in zip(
    tf.nest.flatten(data), tf.nest.flatten(shapes), strict=True
  ):
    rank = tf.TensorShape(shape).rank
    if x.shape.rank <= rank or x.shape[x.shape.rank - rank :] != shape:
      raise ValueError(
        '`data` must be sequences, of shape batch + [num_steps] + event, with '
        f'event shape {tf.TensorShape(shape).as_list()}; got '
        f'{x.shape.as_list()}.'
      )
  sequences = Sequences(model.example, data, is_observed, None, inputs)
  rank = sequences.batch_shape.rank
  if rank == 0:
    return sequences.as_batch()
  x, mask, _, u = sequences.parts()
  x, mask, u = tf.nest.map_structure(
    lambda x: tf.reshape(x, [-1, *x.shape[rank:]]),
    (x, () if mask is None else mask, u),
  )
  mask = mask if tf.nest.flatten(mask) else None
  return Sequences(model.example, x, mask, None, u)


def _or_none(inputs):
  """Returns inputs, or `None` if there are none."""
  return inputs if tf.nest.flatten(inputs) else None


def _choose_heuristic(model, settings, seed, inputs):
  """Returns the most exact heuristic that there is for a model."""
  if model.num_states is not None:
    return backward.HiddenMarkovHeuristic(model)
  if model.has_gaussian_transitions:
    heuristic = backward.GaussianHeuristic(model)
    if not _is_doubtful(heuristic, model, settings['num_steps'], seed, inputs):
      return heuristic
  return twisting.RecurrentHeuristic(model, **settings, seed=seed)


def _is_doubtful(heuristic, model, length, seed, inputs):
  """Returns whether a heuristic misses mass of some simulated sequences.

  Each is tried with the global state that it was simulated with: the estimate
  of a filter that does not look ahead exceeds the likelihood by `exp(3)` once
  in twenty times at most, by Markov's inequality.
  """
  inputs = model_lib.as_inputs(inputs, model.example, tf.TensorShape([length]))
  simulation_seed, filter_seed = tf.unstack(randomness.split_seed(seed, 2))
  try:
    values = learning.simulate_finite(
      model, length, 100 * _NUM_TRIED, _or_none(inputs), simulation_seed
    )
  except ValueError:
    # If the model needs no training, it need not be simulated.
    return False
  theta, _, x = tf.nest.map_structure(lambda x: x[:_NUM_TRIED], values)
  size = tf.nest.flatten(x)[0].shape[0]
  inputs = tf.nest.map_structure(
    lambda x: tf.broadcast_to(x, [size] + x.shape), inputs
  )
  plain = StateSpaceSampler(
    model,
    proposal_fn='guided',
    resample_criterion_fn=resampling.ess_below(0.5),
  ).given(theta, 1)
  sequences = Sequences(model.example, x, inputs=_or_none(inputs))

  @functools.partial(tf.function, autograph=False)
  def log_likelihoods():
    one = tf.nest.map_structure(lambda x: x[tf.newaxis], theta)
    rows = heuristic.prepare(x, None, one, _or_none(inputs))
    first = tf.nest.map_structure(lambda x: x[0], rows)
    filtered = plain.run_once(
      sequences.parts(), _NUM_TRIED_PARTICLES, filter_seed
    )
    return heuristic.log_factor(first, one, None)[0], filtered.log_normalizer

  ours, theirs = log_likelihoods()
  # Both sum errors over the steps.
  max_gap = _MAX_GAP * max(1.0, length / 100.0)
  is_missed = tf.logical_and(
    tf.math.is_finite(theirs), tf.logical_not(theirs - ours <= max_gap)
  )
  return float(tf.reduce_mean(tf.cast(is_missed, tf.float32))) > _MAX_MISSED

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A sampler for a model in one call: what it proposes, and what it learns."""

from typing import Any

import tensorflow as tf
import tf_keras

from tfp_nvi import resampling, training
from tfp_nvi.internal import checks, randomness
from tfp_nvi.state_space import backward, learning, networks, twisting
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space.sampler import StateSpaceSampler

__all__ = [
  'fit_state_space',
]

# Sequences that are simulated to learn from.
_NUM_SEQUENCES = 20_000
# How often the proposal of the global state is fitted to a new sequence.
_NUM_REFINEMENTS = 2


def fit_state_space(
  model: model_lib.StateSpaceModel,
  data=None,
  length: int | None = None,
  *,
  inputs=None,
  num_steps: int = 2_000,
  batch_size: int = 128,
  num_units: int = 32,
  learning_rate: float = 3e-3,
  progress: bool = True,
  seed=None,
) -> StateSpaceSampler:
  """Makes a sampler for the sequences of a model, and trains it once.

  - The heuristic is exact for local states of a `tfd.Categorical`
    (`HiddenMarkovHeuristic`), a Gaussian approximation for normal transitions
    (`GaussianHeuristic`), and learned for other models (`RecurrentHeuristic`).
    The first two propose local states too; for the others, the proposal is
    `'guided'` if it can be, else `'prior'`.
  - The proposal of the global state is a recurrent network, which is learned.
    If the heuristic is not, `sample` fits the proposal to each sequence by two
    rounds of importance sampling, before the particles are drawn.
  - Particles are resampled where less than half of them are effective.

  All training is on sequences that the model simulates; some of them with
  missing parts, and some that end early, so that the sampler serves such
  sequences too. A model without a global state whose heuristic is not learned
  needs no training.

  Args:
    model: `StateSpaceModel`.
    data: Nested structure of `Tensor`s of shape `batch + [num_steps] + event`:
      a sequence like those to come. Its number of steps is taken for `length`,
      and its values are not looked at.
      Default value: `None`.
    length: Python `int`: how many steps to simulate.
      Default value: `None` (i.e., that of `data`).
    inputs: Nested structure of `Tensor`s of shape `[length] + event`, if the
      model has inputs.
      Default value: `None`.
    num_steps: Python `int` number of training steps.
      Default value: `2_000`.
    batch_size: Python `int` number of sequences of a training step.
      Default value: `128`.
    num_units: Python `int` number of units of each layer of the networks.
      Default value: `32`.
    learning_rate: Python `float`: that of Adam, at the start; it falls to zero.
      Default value: `3e-3`.
    progress: Python `bool`: whether to show a progress bar, on a terminal.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    sampler: `StateSpaceSampler`. Its field `history` is the `History` of the
      training, or `None`.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If a count is not positive, neither `data` nor `length` is
      given, the prior is over discrete states, or simulated sequences overflow.

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
  learning_rate = checks.as_float(
    'learning_rate', learning_rate, 0.0, is_open=True
  )
  checks.check_bool('progress', progress)
  length = _length(model, data, length)
  network_seed, heuristic_seed, data_seed, fit_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 4)
  )
  settings: dict[str, Any] = dict(num_units=num_units, num_steps=length)
  heuristic = _choose_heuristic(model, settings, heuristic_seed)
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
  sampler.history = None
  if network is None and not is_learned:
    return sampler
  inputs = model_lib.as_inputs(inputs, model.example, tf.TensorShape([length]))
  values = learning.simulate_finite(
    model, length, _NUM_SEQUENCES, inputs or None, data_seed
  )
  learned = heuristic if is_learned else None
  sampler.history = training.fit(
    lambda element: learning.Simulated(
      network,
      learned,
      element[0],
      element[1],
      element[2],
      tf.nest.map_structure(
        lambda x: tf.broadcast_to(x, [batch_size] + x.shape), inputs
      ),
    ),
    learning.SimulationObjective(),
    num_particles=1,
    num_steps=num_steps,
    data=tf.data.Dataset.from_tensor_slices(values)
    .shuffle(_NUM_SEQUENCES, seed=1)
    .batch(batch_size, drop_remainder=True),
    optimizer=tf_keras.optimizers.Adam(
      tf_keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    ),
    steps_per_call=min(num_steps, 100),
    progress=progress,
    seed=fit_seed,
  )
  return sampler


def _length(model, data, length):
  """How many steps the simulated sequences have."""
  if data is None and length is None:
    raise ValueError('`data` or `length` must be given; got neither.')
  if length is not None:
    return checks.as_count('length', length)
  dtype, shapes = model.example.observation_like
  data = model_lib.convert_like(
    'data', data, dtype, 'the values of `observation_fn`'
  )
  x, shape = tf.nest.flatten(data)[0], tf.nest.flatten(shapes)[0]
  rank = x.shape.rank - tf.TensorShape(shape).rank
  if rank < 1:
    raise ValueError(
      '`data` must be sequences, of shape batch + [num_steps] + event; got '
      f'{x.shape.as_list()}.'
    )
  return x.shape[rank - 1]


def _choose_heuristic(model, settings, seed):
  """The heuristic that knows most of a model."""
  if model.num_states is not None:
    return backward.HiddenMarkovHeuristic(model)
  if model.has_gaussian_transitions:
    return backward.GaussianHeuristic(model)
  return twisting.RecurrentHeuristic(model, **settings, seed=seed)

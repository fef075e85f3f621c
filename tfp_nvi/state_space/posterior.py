# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The posterior of sequences, as weighted particles, and its errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfp_nvi import resampling, weighting
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.state_space import functions
from tfp_nvi.state_space import history as history_lib
from tfp_nvi.state_space.model import StateSpaceModel
from tfp_nvi.state_space.sequences import Sequences

__all__ = [
  'StateSpacePosterior',
]


class _Fields(NamedTuple):
  """The fields of `StateSpacePosterior`, which has a model as well."""

  global_state: Any
  trajectories: Any
  log_weights: tf.Tensor
  log_normalizer_increments: tf.Tensor
  effective_sample_sizes: tf.Tensor
  num_roots: tf.Tensor
  root: tf.Tensor
  num_nan: tf.Tensor
  history: Any = ()


class StateSpacePosterior(_Fields):
  """Properly weighted particles for the posterior of each sequence.

  Where a sequence has ended, its trajectories stay at their last state, and
  its series at their last value, with increments of zero.

  Errors are those of the genealogical estimator [1], from this one run, as in
  `WeightedParticles`: the particles with a common ancestor at level 0, their
  root, count as one draw. Resampling leaves fewer and fewer roots. The
  estimator needs many, say 30; with a handful it is itself very uncertain, and
  with one root an error is `inf`. The part of the loss of roots that was by
  chance is not recorded, so that `log_normalizer_error` tends to be too large.

  Fields:
    global_state: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    trajectories: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + [num_steps] + event`: the local states, read
      back along the ancestors of each particle; `()` if not asked for.
    log_weights: float `Tensor` of shape `[num_particles] + batch`.
    log_normalizer_increments: float `Tensor` of shape
      `[num_steps + 1] + batch`: how much each level adds to the log normalizer,
      level 0 first. The increment of a level is for its density, heuristic
      included.
    effective_sample_sizes: float `Tensor` of shape `[num_steps + 1] + batch`:
      that of each level, before resampling.
    num_roots: int32 `Tensor` of shape `[num_steps + 1] + batch`: how many of
      the particles of level 0 still have descendants.
    root: int32 `Tensor` of shape `[num_particles] + batch`: the index of each
      particle's ancestor at level 0.
    num_nan: int32 `Tensor` of shape `batch`: how many particles lost their
      weight, at all levels together, as a log density was NaN.
    history: `FilterHistory`: the filter's particles at all steps; `()` if not
      asked for.

  #### References

  [1]: A. Lee, N. Whiteley. Variance estimation in the particle filter.
       Biometrika, 105(3), 2018.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Normal(0.0, 1.0),
    initial_fn=lambda drift: tfd.Normal(drift, 1.0),
    transition_fn=lambda z, drift: tfd.Normal(z + drift, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.2),
  )
  posterior = nvi.StateSpaceSampler(model).sample(
    [0.1, 0.5, 0.8], 1_000, seed=1
  )
  error = posterior.standard_error(lambda drift, z: drift)
  assert 0.0 < error < 0.2 and 0.0 < posterior.log_normalizer_error < 0.3
  ```
  """

  # `predict` needs this. It is not a field, because it is not a Tensor.
  _source: Any = None

  @property
  def log_normalizer(self) -> tf.Tensor:
    """Estimate of `log p(x)`, of shape `batch`."""
    return weighting.log_normalizer(self.log_weights)

  @property
  def weights(self) -> tf.Tensor:
    """Weights that sum to one, of shape `[num_particles] + batch`."""
    return self._weighted().weights

  @property
  def num_ancestors(self) -> tf.Tensor:
    """Number of roots of the particles that have weight, of shape `batch`."""
    return self._weighted().num_ancestors

  @property
  def log_normalizer_error(self) -> tf.Tensor:
    """Standard error of `log_normalizer`, of shape `batch`.

    It is the relative error of the estimate of `p(x)`, which is the same where
    it is small.
    """
    return self._weighted().log_normalizer_error

  def of_model(
    self, model: StateSpaceModel, sequences: Sequences, is_single: bool
  ) -> 'StateSpacePosterior':
    """Returns the posterior with the sequences that `predict` needs.

    Args:
      model: `StateSpaceModel`.
      sequences: `Sequences` that it is the posterior of.
      is_single: Python `bool`: whether the sequences are a batch of one, while
        the posterior has no batch.

    Returns:
      posterior: `StateSpacePosterior`.
    """
    lengths = sequences.lengths
    if lengths is None:
      lengths = tf.fill(sequences.batch_shape, sequences.num_steps)
    inputs = sequences.inputs
    if is_single:
      lengths, inputs = tf.nest.map_structure(lambda x: x[0], (lengths, inputs))
    other = StateSpacePosterior(*self)
    other._source = model, lengths, inputs
    return other

  def predict(
    self,
    num_steps: int,
    num_draws: int = 1_000,
    seed: types.Seed | None = None,
    inputs: types.Structure | None = None,
  ) -> tuple[types.Structure, types.Structure, types.Structure]:
    """Draws the continuation of the sequences, given the sequences.

    Args:
      num_steps: Python `int`: the number of steps after the last one.
      num_draws: Python `int`.
        Default value: `1_000`.
      seed: Python `int` or stateless seed.
      inputs: Nested structure of `Tensor`s of shape
        `batch + [num_steps] + event`, or that broadcast to it: the inputs of
        the steps to come, if the model has inputs.
        Default value: `None`.

    Returns:
      global_state: Nested structure of `Tensor`s of shape
        `[num_draws] + batch + event`.
      local_states: Nested structure of `Tensor`s of shape
        `[num_draws] + batch + [num_steps] + event`.
      observations: Likewise.

    Raises:
      TypeError: If a count is not an int.
      ValueError: If a count is not positive, the inputs are wrong, there are no
        trajectories, or the posterior is not from `sample`.
    """
    num_steps = checks.as_count('num_steps', num_steps)
    num_draws = checks.as_count('num_draws', num_draws)
    if self._source is None or not tf.nest.flatten(self.trajectories):
      raise ValueError(
        '`predict` needs the posterior that `StateSpaceSampler.sample` '
        'returned, with its trajectories.'
      )
    model, lengths, _ = self._source
    rank = self.log_weights.shape.rank - 1
    draw_seed, seed = tf.unstack(
      randomness.split_seed(randomness.as_seed(seed), 2)
    )
    # Systematic resampling draws by the weights with less noise.
    (theta, path), _ = resampling.resample(
      (self.global_state, self.trajectories),
      self.log_weights,
      resampling.resample_systematic,
      draw_seed,
      num_draws=num_draws,
    )
    last = tf.nest.map_structure(
      lambda x: tf.gather(x, x.shape[rank + 1] - 1, axis=rank + 1), path
    )
    return theta, *model.continue_from(
      theta, last, lengths, num_steps, seed, inputs
    )

  def predict_next(
    self, num_draws: int = 1_000, seed: types.Seed | None = None
  ) -> types.Structure:
    """Draws the observation of each step given those of the steps before it.

    `history.log_scores` are the log densities of such draws. Both are best
    without a heuristic.

    Args:
      num_draws: Python `int`.
      seed: Python `int` or stateless seed.

    Returns:
      observations: Nested structure of `Tensor`s of shape
        `[num_draws] + batch + [num_steps - 1] + event`: those of the second
        step and after.

    Raises:
      TypeError: If a count is not an int.
      ValueError: If a count is not positive, there is only one step, there is
        no history, or the posterior is not from `sample`.
    """
    num_draws = checks.as_count('num_draws', num_draws)
    if self._source is None or not self.history:
      raise ValueError(
        '`predict_next` needs the posterior that `StateSpaceSampler.sample` '
        'returned, with `history=True`.'
      )
    if self.history.log_weights.shape[0] < 2:
      raise ValueError(
        '`predict_next` needs sequences of two steps at least; got one.'
      )
    model, _, inputs = self._source
    return history_lib.draw_next(
      model, self.history, num_draws, randomness.as_seed(seed), inputs
    )

  def expectation(self, fn: Callable) -> types.Structure:
    """Estimates a posterior expectation, with self-normalized weights.

    Args:
      fn: Python callable from `global_state` and `trajectories` to a nested
        structure of `Tensor`s of shape `[num_particles] + batch + any`; or from
        `trajectories` alone, where the model has no global state.

    Returns:
      expectation: Nested structure of `Tensor`s of shape `batch + any`.
    """
    return self._weighted().expectation(self._cast(fn))

  def quantiles(
    self, probabilities: types.TensorLike, fn: Callable
  ) -> types.Structure:
    """Computes quantiles of a function of the particles, for each coordinate.

    Args:
      probabilities: float array of shape `[...]`, between zero and one.
      fn: As in `expectation`.

    Returns:
      quantiles: Nested structure of `Tensor`s of shape
        `probabilities.shape + batch + any`.
    """
    return self._weighted().quantiles(probabilities, self._cast(fn))

  def standard_error(self, fn: Callable) -> types.Structure:
    """Computes the standard error of `expectation`.

    Args:
      fn: As in `expectation`.

    Returns:
      standard_error: Nested structure of `Tensor`s of shape `batch + any`.
    """
    return self._weighted().standard_error(self._cast(fn))

  def to_arviz(
    self,
    model: StateSpaceModel | None = None,
    observations: types.Structure | None = None,
    **kwargs: Any,
  ) -> Any:
    """Exports states to ArviZ, resampled by their weights, as one chain.

    Args:
      model: As in `tfp_nvi.diagnostics.state_space_posterior_to_arviz`.
      observations: As in `tfp_nvi.diagnostics.state_space_posterior_to_arviz`.
      **kwargs: Its further arguments, such as `coords` and `dims`.

    Returns:
      data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

    Raises:
      ImportError: If ArviZ is not installed.
    """
    # Imported here, as `diagnostics` depends on this module, and is seldom
    # needed.
    from tfp_nvi.diagnostics import export

    return export.state_space_posterior_to_arviz(
      self, model, observations, **kwargs
    )

  def _weighted(self):
    """Returns the particles with their weights and roots alone."""
    return weighting.WeightedParticles(
      (self.global_state, self.trajectories), self.log_weights, self.root
    )

  def _cast(self, fn):
    """Makes a function of a pair, with values in the dtype of the weights."""
    fn = functions.of_states(fn, self.log_weights.dtype)
    return lambda pair: fn(*pair)

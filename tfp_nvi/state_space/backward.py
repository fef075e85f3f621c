# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Heuristics by a backward recursion of the model itself; nothing is learned.

`HiddenMarkovHeuristic` is exact for models over a few states.
`GaussianHeuristic` is exact for models that are linear and Gaussian given the
global state, and an approximation for other models with normal transitions:
the likelihoods are expanded around the most probable states, which a few steps
of Newton's method find for each particle's global state. Both propose local
states by the transition times the likelihood times the factor, so that where
they are exact all particles with the same global state have the same weight.

A row `k` has the factor as a function of the state of step `k`, counted from
one, and, for the proposal, the likelihood of step `k + 1` times its factor.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import axes, checks, types
from tfp_nvi.state_space import functions, gaussian
from tfp_nvi.state_space import model as model_lib
from tfp_nvi.state_space import steps as steps_lib
from tfp_nvi.state_space.heuristics import Heuristic

tfd = tfp.distributions

__all__ = [
  'GaussianHeuristic',
  'HiddenMarkovHeuristic',
]


def _without_overflow(rows, steps):
  """Replaces the rows of global states for which the expansions fail.

  The expansions fail where a row is not finite, and where the last of them has
  changed the factor by so much that its value is meaningless. The first factor
  is zero there, and all other rows are replaced by zeros.
  """
  rank = steps.shape.rank
  limit = _MEANINGLESS_CHANGE * max(1.0, steps.num_steps / 100.0)
  is_good = rows['change'][0] < limit
  for x in tf.nest.flatten(rows):
    others = [0, *range(1 + rank, x.shape.rank)]
    is_good &= tf.reduce_all(tf.math.is_finite(x), axis=others)
  zeros = tf.nest.map_structure(tf.zeros_like, rows)
  rows = axes.select(is_good[tf.newaxis], rows, zeros)
  precision, linear, constant = rows['factor']
  zero = tf.where(is_good, tf.constant(0.0, constant.dtype), -float('inf'))
  first = (constant[0] + zero)[tf.newaxis]
  constant = tf.concat([first, constant[1:]], axis=0)
  return {**rows, 'factor': (precision, linear, constant)}


def _centers(path):
  """Returns the states that the functions of rows were expanded at."""
  return {
    'center_of_target': path,
    # A factor is a function of the state before.
    'center_of_factor': tf.concat([path[:1], path[:-1]], axis=0),
  }


# If the last expansion changes the logarithm of the first factor by more nats
# than the first number, the factor is doubtful; if it changes it by more than
# the second number for each hundred steps, the value is meaningless.
_DOUBTFUL_CHANGE, _MEANINGLESS_CHANGE = 3.0, 1e3


class GaussianHeuristic(Heuristic):
  """The likelihood of the observations to come, by Gaussian approximations.

  It serves models with normal transitions, over a number or a vector, and with
  any observations whose log density has derivatives by the local state. It is
  exact if the model is linear and Gaussian given the global state;
  `num_iterations` may be 1 then. A global state for which the expansions
  overflow, as they do far out in the tails of a prior, has a factor of zero; so
  has one for which the last expansion changes the logarithm of the factor by a
  thousand for each hundred steps. The mass of the posterior there is lost.

  Where the expansions do not settle, as where states have several modes, the
  factor is doubtful. The particles are still properly weighted, but most of the
  mass may be where none of them is.

  #### References

  [1]: J. Durbin, S. J. Koopman. Monte Carlo maximum likelihood estimation for
       non-Gaussian state space models. Biometrika, 84(3), 1997.
  [2]: P. Guarniero, A. M. Johansen, A. Lee. The iterated auxiliary particle
       filter. Journal of the American Statistical Association, 112(520), 2017.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(0.9 * z, 0.3),
    observation_fn=lambda z: tfd.Normal(0.0, tf.exp(0.5 * z)),
  )
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=nvi.GaussianHeuristic(model)
  )
  posterior = sampler.sample([0.5, -1.2, 2.0], num_particles=100, seed=1)
  assert posterior.effective_sample_sizes[-1] > 90.0
  ```
  """

  is_trusted = True

  def __init__(
    self,
    model: model_lib.StateSpaceModel,
    num_iterations: int = 10,
    name: str = 'gaussian_heuristic',
  ):
    """Initializes the heuristic.

    Args:
      model: `StateSpaceModel`.
      num_iterations: Python `int`: how many times to expand around the states
        that the previous expansion found; one time more where some steps are
        not observed.
        Default value: `10`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If the model's transitions are not normal.
    """
    super().__init__(name=name)
    checks.check_instance(
      'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
    )
    if not model.has_gaussian_transitions:
      raise ValueError(
        '`model` must have normal transitions over numbers or vectors, '
        'tfd.Normal or tfd.MultivariateNormalTriL for example, for a '
        'GaussianHeuristic; its local states are '
        f'{functions.describe(model.example.local_like[0])} of shape '
        f'{functions.describe(model.example.local_like[1])}.'
      )
    self._model = model
    self._num_iterations = checks.as_count('num_iterations', num_iterations)
    self._event_rank = model.example.local_like[1].rank

  def prepare(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None,
    global_state: types.Structure,
    u: types.Structure | None = None,
  ) -> types.Structure:
    """Returns quadratic functions of local states; see `Heuristic.prepare`."""
    steps = steps_lib.as_steps(
      self._model, observations, is_observed, global_state, u
    )
    path = self._roll_out(steps, global_state, None)
    num_iterations = self._num_iterations
    if steps.is_observed is not None or steps.components is not None:
      # The first path stays where the prior is until something is observed,
      # which may be too far away for the digits of single precision.
      num_iterations += 1

    # One loop, so that each recursion is compiled once.
    rows = self._no_rows(steps, path)
    change = tf.zeros(steps.shape, path.dtype)

    def improve(i, path, rows, change):
      before = rows['factor'][-1][0]
      rows = self._backward(steps, global_state, path)
      change = tf.abs(rows['factor'][-1][0] - before)
      path = self._roll_out(steps, global_state, rows, path)
      return i + 1, path, rows, change

    _, _, rows, change = tf.while_loop(
      lambda i, *_: i < num_iterations,
      improve,
      (tf.constant(0), path, rows, change),
      parallel_iterations=1,
      maximum_iterations=num_iterations,
    )
    if self._num_iterations == 1:
      change = tf.zeros_like(change)
    # Like all rows, it has one entry for each step.
    rows['change'] = tf.tile(
      change[tf.newaxis], [steps.num_steps] + [1] * steps.shape.rank
    )
    return rows if self._model.prior is None else _without_overflow(rows, steps)

  def given(self, model: model_lib.StateSpaceModel) -> 'GaussianHeuristic':
    """Returns the heuristic for a given global state; see `Heuristic.given`."""
    return GaussianHeuristic(model, self._num_iterations, self.name)

  def log_factor(
    self,
    row: types.Structure,
    global_state: types.Structure,
    local_state: types.Structure | None,
  ) -> tf.Tensor:
    """Returns values of the function of a row; see `Heuristic.log_factor`."""
    del global_state
    factor = gaussian.Quadratic(*row['factor'])
    if local_state is None:
      return factor.constant
    z = gaussian.as_vector(local_state, self._event_rank)
    return factor.log_value(z - row['center_of_factor'])

  def is_doubtful(self, rows: types.Structure) -> tf.Tensor:
    """Returns whether expansions are unsettled; see `Heuristic.is_doubtful`."""
    return tf.logical_not(rows['change'][0] <= _DOUBTFUL_CHANGE)

  def proposal(
    self, row: types.Structure, prior: tfd.Distribution, shape: tf.TensorShape
  ) -> tfd.Distribution:
    """Returns the transition, given the future; see `Heuristic.proposal`."""
    precision, linear = row['target']
    target = gaussian.Quadratic(precision, linear, 0.0)
    mean, covariance = gaussian.condition(
      *gaussian.moments(prior, shape), target, row['center_of_target']
    )
    return gaussian.normal(mean, covariance, self._event_rank)

  def _prior_fn(self, steps, global_state, t):
    """Returns a function from a vector, or `None` at first, to the prior."""
    _, u = steps.at(t)

    def prior_fn(z):
      if z is None:
        return self._model.initial(global_state, t, u, steps.shape)
      z = gaussian.as_event(z, self._event_rank)
      return self._model.transition(z, global_state, t, u, steps.shape)

    return prior_fn

  def _likelihood(self, steps, global_state, t, z):
    """Returns the likelihood of a step, expanded at a vector."""
    x, u = steps.at(t)

    def observation_fn(z):
      z = gaussian.as_event(z, self._event_rank)
      return steps.observed(
        self._model.observation(z, global_state, t, u, steps.shape), x, t
      )

    likelihood = gaussian.expand_likelihood(observation_fn, x, z, steps.shape)
    mask = steps.mask(t)
    return likelihood if mask is None else likelihood.where(mask)

  def _roll_out(self, steps, global_state, rows, before=None):
    """Returns the most probable states, by rows or by observations alone.

    Args:
      steps: `Steps`.
      global_state: As in `prepare`.
      rows: The rows that `_backward` returned. With `None`, each state is found
        from its observation alone.
      before: The states of the previous iteration, which are kept where new
        ones are not finite.

    Returns:
      path: `Tensor` of shape `[num_steps] + shape + [d]`.
    """

    def step(t, z):
      mean, factor = gaussian.moments(
        self._prior_fn(steps, global_state, t)(z), steps.shape
      )
      if rows is None:
        target, center = self._likelihood(steps, global_state, t, mean), mean
      else:
        target = gaussian.Quadratic(*(x[t] for x in rows['target']), 0.0)
        center = rows['center_of_target'][t]
      z, _ = gaussian.condition(mean, factor, target, center)
      last = mean if before is None else before[t]
      return tf.where(tf.math.is_finite(z), z, last)

    first = step(tf.constant(0), None)
    arrays = steps_lib.write(
      steps_lib.arrays_like(first, steps.num_steps), 0, first
    )

    def body(t, carry):
      z, array = carry
      z = step(t, z)
      return z, array.write(t, z)

    _, array = steps_lib.loop(steps.num_steps, body, (first, arrays))
    return array.stack()

  def _no_rows(self, steps, path):
    """Returns rows of zeros."""
    shape = tf.TensorShape([steps.num_steps]) + steps.shape
    one = gaussian.Quadratic.one(shape, path.shape[-1], path.dtype)
    rows = {'target': tuple(one[:2]), 'factor': tuple(one)}
    return rows | _centers(path)

  def _backward(self, steps, global_state, path):
    """Returns rows of functions of the local states, expanded along a path."""
    num_steps = steps.num_steps
    size, dtype = path.shape[-1], path.dtype
    one = gaussian.Quadratic.one(steps.shape, size, dtype)

    def target_at(t, factor):
      likelihood = self._likelihood(steps, global_state, t, path[t])
      return likelihood.times(factor)

    def row_of(target, factor):
      return {'target': tuple(target[:2]), 'factor': tuple(factor)}

    arrays = steps_lib.arrays_like(row_of(one, one), num_steps)

    def body(i, carry):
      factor, arrays = carry
      t = num_steps - i
      target = target_at(t, factor)
      matrix, mean, scale = gaussian.linearize(
        self._prior_fn(steps, global_state, t), path[t - 1], steps.shape
      )
      before = gaussian.message(matrix, mean - path[t], scale, target)
      # This is the factor that belongs to the state before.
      arrays = steps_lib.write(arrays, t, row_of(target, before))
      return before, arrays

    factor, arrays = steps_lib.loop(num_steps, body, (one, arrays))
    zero = tf.constant(0)
    target = target_at(zero, factor)
    mean, scale = gaussian.moments(
      self._prior_fn(steps, global_state, zero)(None), steps.shape
    )
    total = gaussian.log_integral(mean - path[0], scale, target)
    arrays = steps_lib.write(
      arrays, zero, row_of(target, one._replace(constant=total))
    )
    rows = tf.nest.map_structure(lambda array: array.stack(), arrays)
    return rows | _centers(path)


class HiddenMarkovHeuristic(Heuristic):
  """The likelihood of the observations to come, exactly, for a few states.

  It serves models whose local states are of a `tfd.Categorical`. The backward
  recursion takes time in proportion to the square of the number of states.

  #### References

  [1]: L. R. Rabiner. A tutorial on hidden Markov models and selected
       applications in speech recognition. Proceedings of the IEEE, 77(2), 1989.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  model = nvi.StateSpaceModel(
    prior=tfd.Uniform(0.0, 1.0),
    initial_fn=lambda p: tfd.Categorical(probs=[0.5, 0.5]),
    transition_fn=lambda z, p: tfd.Categorical(
      probs=tf.where((z == 0)[..., tf.newaxis], [0.9, 0.1], [0.1, 0.9])
    ),
    observation_fn=lambda z, p: tfd.Bernoulli(
      probs=tf.where(z == 0, p, 1.0 - p)
    ),
  )
  sampler = nvi.StateSpaceSampler(
    model, proposal_fn='heuristic', heuristic=nvi.HiddenMarkovHeuristic(model)
  )
  posterior = sampler.sample([0, 0, 1, 1, 0], num_particles=1_000, seed=1)
  assert posterior.num_ancestors > 500
  ```
  """

  is_trusted = True

  def __init__(
    self,
    model: model_lib.StateSpaceModel,
    name: str = 'hidden_markov_heuristic',
  ):
    """Initializes the heuristic.

    Args:
      model: `StateSpaceModel`.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `model` is not a `StateSpaceModel`.
      ValueError: If its local states are not of a `tfd.Categorical`.
    """
    super().__init__(name=name)
    checks.check_instance(
      'model', model, model_lib.StateSpaceModel, 'a StateSpaceModel'
    )
    if model.num_states is None:
      raise ValueError(
        '`model` must have local states of a tfd.Categorical for a '
        'HiddenMarkovHeuristic; they are '
        f'{functions.describe(model.example.local_like[0])} of shape '
        f'{functions.describe(model.example.local_like[1])}.'
      )
    self._model = model

  def prepare(
    self,
    observations: types.Structure,
    is_observed: types.Structure | None,
    global_state: types.Structure,
    u: types.Structure | None = None,
  ) -> types.Structure:
    """Returns log likelihoods of all states; see `Heuristic.prepare`."""
    model = self._model
    steps = steps_lib.as_steps(
      model, observations, is_observed, global_state, u
    )
    num_steps, num_states = steps.num_steps, model.num_states
    zeros = tf.zeros(steps.shape + [num_states], model.example.dtype)

    def target_at(t, factor):
      x, u = steps.at(t)
      likelihood = functions.over_states(
        lambda z, theta, shape: steps.observed(
          model.observation(z, theta, t, u, shape), x, t
        ).log_prob(x),
        num_states,
        global_state,
        steps.shape,
        model.example.local_like[0],
      )
      mask = steps.mask(t)
      if mask is not None:
        likelihood = tf.where(mask[..., tf.newaxis], likelihood, zeros)
      return likelihood + factor

    def log_probs(distribution, shape):
      return tf.broadcast_to(
        functions.log_probs(distribution), shape + [num_states]
      )

    def transitions_at(t):
      _, u = steps.at(t)
      # Of shape `shape + [states before, states]`.
      return functions.over_states(
        lambda z, theta, shape: log_probs(
          model.transition(z, theta, t, u, shape), shape
        ),
        num_states,
        global_state,
        steps.shape,
        model.example.local_like[0],
        event_rank=1,
      )

    fixed = None if model.depends_on_step else transitions_at(tf.constant(0))
    arrays = steps_lib.arrays_like((zeros, zeros), num_steps)

    def body(i, carry):
      factor, arrays = carry
      t = num_steps - i
      target = target_at(t, factor)
      transitions = transitions_at(t) if fixed is None else fixed
      before = tf.reduce_logsumexp(
        transitions + target[..., tf.newaxis, :], axis=-1
      )
      return before, steps_lib.write(arrays, t, (target, before))

    factor, arrays = steps_lib.loop(num_steps, body, (zeros, arrays))
    zero = tf.constant(0)
    target = target_at(zero, factor)
    initial = model.initial(global_state, zero, steps.at(zero)[1], steps.shape)
    total = tf.reduce_logsumexp(
      log_probs(initial, steps.shape) + target, axis=-1, keepdims=True
    )
    arrays = steps_lib.write(arrays, zero, (target, zeros + total))
    target, factor = (array.stack() for array in arrays)
    return {'target': target, 'factor': factor}

  def given(self, model: model_lib.StateSpaceModel) -> 'HiddenMarkovHeuristic':
    """Returns the heuristic for a given global state; see `Heuristic.given`."""
    return HiddenMarkovHeuristic(model, self.name)

  def log_factor(
    self,
    row: types.Structure,
    global_state: types.Structure,
    local_state: types.Structure | None,
  ) -> tf.Tensor:
    """Returns the entry of a local state; see `Heuristic.log_factor`."""
    del global_state
    factor = row['factor']
    if local_state is None:
      return factor[..., 0]
    factor = tf.broadcast_to(factor, local_state.shape + factor.shape[-1:])
    return functions.entry(factor, local_state)

  def proposal(
    self, row: types.Structure, prior: tfd.Distribution, shape: tf.TensorShape
  ) -> tfd.Distribution:
    """Returns the transition, given the future; see `Heuristic.proposal`."""
    del shape
    return tfd.Categorical(
      logits=functions.log_probs(prior) + row['target'], dtype=prior.dtype
    )

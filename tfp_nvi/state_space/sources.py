# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models made from models of TensorFlow Probability.

Contract: transitions have a density. The noise of linear-Gaussian sources must
not be singular, as that of seasonal components is, because there are no
proposals for singular noise.
"""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks, compatibility, randomness, reductions
from tfp_nvi.state_space import functions
from tfp_nvi.state_space.model import StateSpaceModel

tfd = tfp.distributions

__all__ = [
  'joint_distribution_model',
  'linear_gaussian_model',
  'structural_time_series_model',
]


def _shifted(matrix, z, noise):
  """Returns the distribution of `matrix z + noise`."""
  loc = matrix.matvec(z) + noise.mean()
  return tfd.MultivariateNormalLinearOperator(loc, noise.scale)


def linear_gaussian_model(
  make_fn: Callable, prior: tfd.Distribution | None = None
) -> StateSpaceModel:
  """Makes a state-space model from a `tfd.LinearGaussianStateSpaceModel`.

  `GaussianHeuristic` is exact for it, with `num_iterations=1`.

  Args:
    make_fn: Python callable from the global state to a
      `tfd.LinearGaussianStateSpaceModel` of the batch shape of the global
      state; without arguments if there is no prior. Its parts may be functions
      of the step.
    prior: `tfd.Distribution` or `JointDistribution` over the global state.
      Default value: `None`.

  Returns:
    model: `StateSpaceModel`, over vectors.

  Raises:
    TypeError: If `make_fn` does not return such a distribution.
    ValueError: If the noise of a transition is singular.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions


  def make(log_scale):
    return tfd.LinearGaussianStateSpaceModel(
      num_timesteps=10,
      transition_matrix=[[0.9]],
      transition_noise=tfd.MultivariateNormalDiag(
        scale_diag=tf.exp(log_scale)[..., tf.newaxis]
      ),
      observation_matrix=[[1.0]],
      observation_noise=tfd.MultivariateNormalDiag(scale_diag=[0.5]),
      initial_state_prior=tfd.MultivariateNormalDiag(scale_diag=[1.0]),
    )


  model = nvi.linear_gaussian_model(make, prior=tfd.Normal(0.0, 0.5))
  log_scale, z, x = model.simulate(num_steps=10, seed=1)
  assert x.shape == [10, 1]
  ```
  """
  checks.check_callable('make_fn', make_fn)
  call = functions.call_with_named(
    'make_fn', make_fn, ('theta',), has_last=prior is not None
  )

  def make(theta):
    source = call(theta)
    checks.check_instance(
      'make_fn',
      source,
      tfd.LinearGaussianStateSpaceModel,
      'a callable that returns a tfd.LinearGaussianStateSpaceModel',
    )
    return source

  def initial_fn(theta):
    return make(theta).initial_state_prior

  def transition_fn(z, theta, t):
    source = make(theta)
    t = t - 1 + source.initial_step
    noise = source.get_transition_noise_for_timestep(t)
    _check_regular(noise)
    return _shifted(source.get_transition_matrix_for_timestep(t), z, noise)

  def observation_fn(z, theta, t):
    source = make(theta)
    t = t + source.initial_step
    return _shifted(
      source.get_observation_matrix_for_timestep(t),
      z,
      source.get_observation_noise_for_timestep(t),
    )

  if prior is None:
    return StateSpaceModel(
      None,
      lambda: initial_fn(()),
      lambda z, t: transition_fn(z, (), t),
      lambda z, t: observation_fn(z, (), t),
    )
  return StateSpaceModel(prior, initial_fn, transition_fn, observation_fn)


def _check_regular(noise):
  """Raises an error for a covariance without an inverse."""
  diagonal = tf.linalg.diag_part(noise.scale.to_dense())
  if reductions.has_values(diagonal) and bool(
    tf.reduce_any(tf.equal(diagonal, 0.0))
  ):
    raise ValueError(
      '`make_fn` must return a model whose transition noise has a density; the '
      'scale of one has a zero on its diagonal.'
    )


def structural_time_series_model(
  source: tfp.sts.StructuralTimeSeries, num_steps: int
) -> StateSpaceModel:
  """Makes a state-space model from a `tfp.sts` model of unknown parameters.

  Args:
    source: `tfp.sts.StructuralTimeSeries`.
    num_steps: Python `int`: the largest number of steps of a sequence.

  Returns:
    model: `StateSpaceModel` whose global state is a dictionary of the
      parameters by their names.

  Raises:
    TypeError: If `source` is not a structural time series.
    ValueError: If the noise of a transition is singular, as that of seasonal
      components is.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  level = tfp.sts.LocalLevel(observed_time_series=[0.1, 0.5, 0.3, 0.9])
  model = nvi.structural_time_series_model(
    tfp.sts.Sum([level], observed_time_series=[0.1, 0.5, 0.3, 0.9]),
    num_steps=4,
  )
  theta, z, x = model.simulate(num_steps=4, seed=1)
  ```
  """
  checks.check_instance(
    'source',
    source,
    tfp.sts.StructuralTimeSeries,
    'a tfp.sts.StructuralTimeSeries',
  )
  num_steps = checks.as_count('num_steps', num_steps)
  prior = tfd.JointDistributionNamed(
    {parameter.name: parameter.prior for parameter in source.parameters}
  )
  return linear_gaussian_model(
    lambda theta: source.make_state_space_model(num_steps, dict(theta)), prior
  )


def joint_distribution_model(
  joint: tfd.JointDistributionNamed,
  local: str,
  observation: str,
) -> StateSpaceModel:
  """Makes a state-space model from a joint distribution over whole sequences.

  One part is a `tfd.MarkovChain` over local states, one is over observations
  given these, and all others are global states:

  ```none
  theta ~ others,  z_{0:K-1} ~ MarkovChain(theta),  x_{0:K-1} ~ p(. | z, theta)
  ```

  The observation of a step must depend on the local state of that step alone,
  which is checked on a draw. The model may have any number of steps.

  Args:
    joint: `tfd.JointDistributionNamed`.
    local: Python `str` name of the part over local states.
    observation: Python `str` name of the part over observations, a
      `tfd.Independent` whose first event axis is over steps.

  Returns:
    model: `StateSpaceModel` whose global state is a dictionary of the other
      parts, if there are any.

  Raises:
    TypeError: If a part is not of the kind asked for.
    ValueError: If there is no part of a name, other parts depend on the local
      states or observations, or an observation on other steps.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  joint = tfd.JointDistributionNamed(
    {
      'scale': tfd.LogNormal(0.0, 0.5),
      'level': lambda scale: tfd.MarkovChain(
        tfd.Normal(tf.zeros_like(scale), 1.0),
        lambda t, z: tfd.Normal(z, scale),
        num_steps=10,
      ),
      'series': lambda level: tfd.Independent(tfd.Normal(level, 0.5), 1),
    }
  )
  model = nvi.joint_distribution_model(joint, 'level', 'series')
  theta, z, x = model.simulate(num_steps=20, seed=1)
  assert x.shape == [20] and theta['scale'].shape == []
  ```
  """
  named = compatibility.all_forms(tfd.JointDistributionNamed)
  batched = compatibility.all_forms(tfd.JointDistributionNamedAutoBatched)
  if not isinstance(joint, named) or isinstance(joint, batched):
    raise TypeError(
      '`joint` must be a tfd.JointDistributionNamed whose functions take '
      f'batches; got {joint!r}.'
    )
  parents = dict(joint.resolve_graph())
  makers = joint.model if isinstance(joint.model, dict) else {}
  for argument, name in (('local', local), ('observation', observation)):
    checks.check_instance(argument, name, str, 'a Python str')
    if name not in makers:
      raise ValueError(
        f'`{argument}` must be the name of a part of `joint`, one of '
        f'{sorted(makers)}; got {name!r}.'
      )
  others = {
    name: maker
    for name, maker in makers.items()
    if name not in (local, observation)
  }
  for name in (*others, local):
    wrong = {local, observation}.intersection(parents[name])
    if wrong:
      raise ValueError(
        f'`joint` must have a part {name!r} that does not depend on '
        f'{sorted(wrong)[0]!r}.'
      )

  def make(name, theta, z=None):
    maker = makers[name]
    if isinstance(maker, tfd.Distribution):
      return maker
    values = {**(dict(theta) if others else {}), local: z}
    return maker(**{parent: values[parent] for parent in parents[name]})

  def chain_of(theta):
    chain = make(local, theta)
    checks.check_instance(
      'joint', chain, tfd.MarkovChain, f'a tfd.MarkovChain as {local!r}'
    )
    return chain

  def observation_fn(z, theta):
    rank = chain_event_rank(theta)
    z = tf.nest.map_structure(
      lambda x, rank: tf.expand_dims(x, x.shape.rank - rank), z, rank
    )
    return _only_step(make(observation, theta, z))

  def chain_event_rank(theta):
    return tf.nest.map_structure(
      lambda shape: tf.TensorShape(shape).rank,
      chain_of(theta).initial_state_prior.event_shape,
    )

  prior = tfd.JointDistributionNamed(others) if others else None
  functions_of = (
    lambda theta: chain_of(theta).initial_state_prior,
    lambda z, theta, t: chain_of(theta).transition_fn(t - 1, z),
    observation_fn,
  )
  _check_steps(make, chain_of, functions_of[2], prior, local, observation)
  if prior is not None:
    return StateSpaceModel(prior, *functions_of)
  initial_fn, transition_fn, _ = functions_of
  return StateSpaceModel(
    None,
    lambda: initial_fn(()),
    lambda z, t: transition_fn(z, (), t),
    lambda z: observation_fn(z, ()),
  )


def _only_step(distribution):
  """Returns the distribution of the only step of a sequence of one step."""
  if not isinstance(distribution, compatibility.all_forms(tfd.Independent)):
    raise TypeError(
      '`joint` must have a tfd.Independent over the observations of all steps; '
      f'got {distribution!r}.'
    )
  base = distribution.distribution
  rank = int(tf.get_static_value(distribution.reinterpreted_batch_ndims)) - 1
  index = (..., 0, *[slice(None)] * rank)
  return tfd.Independent(base[index], rank) if rank else base[index]


def _check_steps(make, chain_of, observation_fn, prior, local, observation):
  """Raises an error if an observation depends on the states of other steps."""
  seed = randomness.as_seed(0)
  theta = () if prior is None else prior.sample(seed=seed)
  chain = chain_of(theta)
  z = chain.sample(seed=randomness.fold_in(seed, 1))
  whole = make(observation, theta, z)
  x = whole.sample(seed=randomness.fold_in(seed, 2))
  _only_step(whole)
  total = 0.0
  for t in range(int(chain.num_steps)):
    z_t = tf.nest.map_structure(lambda x, t=t: x[t], z)
    total += observation_fn(z_t, theta).log_prob(x[t])
  expected = whole.log_prob(x)
  error = tf.abs(total - expected)
  if not bool(error <= 1e-3 * (1.0 + tf.abs(expected))):
    raise ValueError(
      f'`joint` must have a part {observation!r} whose steps each depend on '
      f'the step of {local!r} alone; its log density of a draw is '
      f'{float(expected):g}, and the sum over the steps {float(total):g}.'
    )

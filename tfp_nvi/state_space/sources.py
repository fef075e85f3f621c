# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""State-space models that are models of TensorFlow Probability.

Contract: the source is linear and Gaussian given its parameters, and the noise
of its transitions has a density: a singular covariance, as that of seasonal
components, cannot be proposed from.
"""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import checks
from tfp_nvi.state_space import functions
from tfp_nvi.state_space.model import StateSpaceModel

tfd = tfp.distributions

__all__ = [
  'linear_gaussian_model',
  'structural_time_series_model',
]


def _shifted(matrix, z, noise):
  """The distribution of `matrix z + noise`."""
  loc = matrix.matvec(z) + noise.mean()
  return tfd.MultivariateNormalLinearOperator(loc, noise.scale)


def linear_gaussian_model(
  make_fn: Callable, prior: tfd.Distribution | None = None
) -> StateSpaceModel:
  """A state-space model of a `tfd.LinearGaussianStateSpaceModel`.

  `GaussianHeuristic` is exact for it, with `num_iterations=1`.

  Args:
    make_fn: Python callable from the global state to a
      `tfd.LinearGaussianStateSpaceModel` of the batch shape of the global
      state; from nothing, if there is no prior. Its parts may be functions of
      the step.
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
    noise = source.get_transition_noise_for_timestep(t - 1)
    _check_regular(noise)
    return _shifted(source.get_transition_matrix_for_timestep(t - 1), z, noise)

  def observation_fn(z, theta, t):
    source = make(theta)
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
  if functions.has_values(diagonal) and bool(
    tf.reduce_any(tf.equal(diagonal, 0.0))
  ):
    raise ValueError(
      '`make_fn` must return a model whose transition noise has a density; the '
      'scale of one has a zero on its diagonal.'
    )


def structural_time_series_model(source, num_steps: int) -> StateSpaceModel:
  """A state-space model of a `tfp.sts` model, with its parameters unknown.

  Args:
    source: `tfp.sts.StructuralTimeSeries`.
    num_steps: Python `int`: the most steps a sequence may have.

  Returns:
    model: `StateSpaceModel` whose global state is a dictionary of the
      parameters by their names.

  Raises:
    TypeError: If `source` is no structural time series.
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

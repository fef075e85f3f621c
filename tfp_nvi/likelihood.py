# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Log likelihoods of latent variable models, for many observations at a time.

Contract: the exponential of an estimate is an unbiased estimate of the
likelihood, for any proposal, so that the expectation of an estimate is a lower
bound of the log likelihood.
"""

import typing
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import resampling, weighting
from tfp_nvi.densities import GeometricPath
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.sampler import NestedSampler
from tfp_nvi.transitions import MCMCTransition

tfd = tfp.distributions

__all__ = [
  'LogLikelihood',
  'log_likelihood',
]

# The number of draws of the proposal that give the scales of steps.
_NUM_SCALE_DRAWS = 32


class LogLikelihood(NamedTuple):
  """Log likelihoods of observations.

  Fields:
    estimates: float array of shape `[num_observations]`.
    errors: Their standard errors, from the spread of the weights.

  ```python
  import numpy as np
  import tfp_nvi as nvi

  result = nvi.LogLikelihood(np.array([-1.0, -3.0]), np.array([0.3, 0.4]))
  assert result.mean == -2.0 and abs(result.mean_error - 0.25) < 1e-6
  ```
  """

  estimates: np.ndarray
  errors: np.ndarray

  @property
  def mean(self) -> float:
    """The mean of the estimates over observations."""
    return float(np.mean(self.estimates, dtype=np.float64))

  @property
  def mean_error(self) -> float:
    """The standard error of `mean` for these observations."""
    squares = np.square(self.errors, dtype=np.float64)
    return float(np.sqrt(np.sum(squares)) / len(self.errors))


def log_likelihood(
  observations: types.Structure,
  proposal_fn: typing.Callable,
  log_joint_fn: typing.Callable,
  num_particles: int = 16,
  num_densities: int = 32,
  *,
  step_size: float = 0.4,
  num_leapfrog_steps: int = 3,
  batch_size: int = 100,
  jit_compile: bool = True,
  seed: types.Seed | None = None,
) -> LogLikelihood:
  """Estimates log likelihoods by a long sampler from a proposal.

  For each observation, particles are drawn from its proposal `q(z | x)` and
  moved to its posterior along the geometric path of `num_densities` densities
  by Hamiltonian Monte Carlo, without resampling. This is annealed importance
  sampling [1] from a recognition model [2], whose errors it reduces. With two
  densities it is importance sampling. Observations are a batch axis, and each
  compiled call takes `batch_size` of them.

  Args:
    observations: Nested structure of arrays of shape
      `[num_observations] + ...`.
    proposal_fn: Python callable from observations, of shape
      `[batch_size] + ...`, to a `tfd.Distribution` or `JointDistribution` over
      real latent variables, of batch shape `[batch_size]`.
    log_joint_fn: Python callable from latent variables, of shape
      `[num_particles, batch_size] + event`, and observations to their joint log
      density, of shape `[num_particles, batch_size]`.
    num_particles: Python `int`: particles of each observation, at least two.
      Default value: `16`.
    num_densities: Python `int`: the number of densities, both ends included, at
      least two.
      Default value: `32`.
    step_size: Python `float`: the size of leapfrog steps, in units of the
      standard deviations of the proposal.
      Default value: `0.4`.
    num_leapfrog_steps: Python `int`: leapfrog steps of each move.
      Default value: `3`.
    batch_size: Python `int`: the number of observations in each call.
      Default value: `100`.
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    log_likelihood: `LogLikelihood`.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If a number is too small, parts of the observations differ in
      number, or a log density is not of the shape asked for.

  #### References

  [1]: R. M. Neal. Annealed importance sampling. Statistics and Computing,
       11(2), 2001.
  [2]: Y. Wu, Y. Burda, R. Salakhutdinov, R. Grosse. On the quantitative
       analysis of decoder-based generative models. ICLR, 2017.
       https://arxiv.org/abs/1611.04273

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  # z ~ N(0, 1), x ~ N(z, 1), so that x ~ N(0, 2) and z | x ~ N(x / 2, 1 / 2).
  result = nvi.log_likelihood(
    tf.constant([0.5, -1.0]),
    lambda x: tfd.Normal(0.4 * x, 0.8),
    lambda z, x: (
      tfd.Normal(0.0, 1.0).log_prob(z) + tfd.Normal(z, 1.0).log_prob(x)
    ),
    num_densities=8,
    seed=1,
  )
  exact = tfd.Normal(0.0, 2.0**0.5).log_prob([0.5, -1.0])
  assert all(abs(result.estimates - exact) < 0.2)
  ```
  """
  checks.check_callable('proposal_fn', proposal_fn)
  checks.check_callable('log_joint_fn', log_joint_fn)
  num_particles = checks.as_count('num_particles', num_particles, minimum=2)
  num_densities = checks.as_count('num_densities', num_densities, minimum=2)
  step_size = checks.as_float('step_size', step_size, 0.0, is_open=True)
  num_leapfrog_steps = checks.as_count('num_leapfrog_steps', num_leapfrog_steps)
  batch_size = checks.as_count('batch_size', batch_size)
  checks.check_bool('jit_compile', jit_compile)
  seed = randomness.as_seed(seed)
  observations = tf.nest.map_structure(
    lambda part: checks.as_tensor('observations', part), observations
  )
  count = _num_observations(observations)
  batch_size = min(batch_size, count)

  @tf.function(jit_compile=jit_compile, autograph=False)
  def estimate(x, seed):
    scale_seed, seed = tf.unstack(randomness.split_seed(seed, 2))
    proposal = proposal_fn(x)
    checks.check_instance(
      'proposal_fn',
      proposal,
      tfd.Distribution,
      'a callable that returns a tfd.Distribution or a JointDistribution',
    )

    def log_joint(z):
      return checks.check_returned(
        'log_joint_fn',
        log_joint_fn(z, x),
        'a log density for each particle and observation',
        shape=tf.nest.flatten(z)[0].shape[:1] + [batch_size],
      )

    if num_densities == 2:
      z = densities_lib.draw(proposal, num_particles, [batch_size], seed)
      particles = weighting.WeightedParticles(
        z, log_joint(z) - proposal.log_prob(z)
      )
    else:
      draws = densities_lib.draw(
        proposal, _NUM_SCALE_DRAWS, [batch_size], scale_seed
      )
      steps = [
        step_size * tf.math.reduce_std(part, axis=0)
        for part in tf.nest.flatten(draws)
      ]
      sampler = NestedSampler(
        GeometricPath(proposal, log_joint, num_densities),
        MCMCTransition(
          lambda target_log_prob_fn, level: tfp.mcmc.HamiltonianMonteCarlo(
            target_log_prob_fn, steps, num_leapfrog_steps
          ),
          num_transitions=num_densities - 1,
        ),
        resample_criterion_fn=resampling.never,
      )
      particles = sampler.sample(num_particles, seed, jit_compile)
    return particles.log_normalizer, particles.log_normalizer_error

  parts = []
  for i in range(0, count, batch_size):
    # The last batch is filled up, to be of the size that is compiled.
    indices = np.arange(i, i + batch_size) % count
    x = tf.nest.map_structure(
      lambda part, indices=indices: tf.gather(part, indices), observations
    )
    parts.append(estimate(x, randomness.fold_in(seed, i)))
  estimates, errors = (
    np.concatenate(x)[:count] for x in zip(*parts, strict=True)
  )
  return LogLikelihood(estimates, errors)


def _num_observations(observations):
  """Returns the size of the first axis, checked."""
  shapes = [part.shape.as_list() for part in tf.nest.flatten(observations)]
  sizes = {tuple(shape[:1]) for shape in shapes}
  if not shapes:
    problem = 'arrays with a first axis; got no arrays'
  elif len(sizes) > 1:
    problem = f'arrays with a first axis of the same size; got shapes {shapes}'
  elif sizes & {(), (0,)}:
    problem = (
      'arrays with a first axis over at least one observation; got the shapes '
      f'{shapes}'
    )
  else:
    return shapes[0][0]
  raise ValueError(f'`observations` must be {problem}.')

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Samplers as distributions and Markov kernels of TensorFlow Probability.

A run of a sampler gives particles and an unbiased estimate `Z-hat` of the
normalizer. A particle `x`, drawn by its weight, and the number

```none
log q-hat(x) = log gamma(x) - log Z-hat
```

can be used like a draw from a normalized density and its log density there [1]:
for any other density `f`

```none
E[f(x) / q-hat(x)] = E[sum_s W[s] f(z[s]) / gamma(z[s]) Z-hat] = integral f
```

where `gamma` is positive wherever `f` is. `SamplerDistribution` uses this as a
surrogate posterior and a proposal. `SamplerKernel` is a Markov kernel whose
invariant density is exactly the target, however bad the sampler [2].

#### References

[1]: C. A. Naesseth, F. Lindsten, T. B. Schon. Nested sequential Monte Carlo
     methods. ICML, 2015. https://arxiv.org/abs/1502.02536
[2]: C. Andrieu, A. Doucet, R. Holenstein. Particle Markov chain Monte Carlo
     methods. Journal of the Royal Statistical Society B, 72(3), 2010.
"""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import proposals, resampling, weighting
from tfp_nvi.internal import axes, checks, randomness, types
from tfp_nvi.posterior import Posterior

tfd = tfp.distributions

__all__ = [
  'SamplerDistribution',
  'SamplerKernel',
  'SamplerKernelResults',
  'start_chains',
]


def _draw(proposal, sampler, num_draws, seed):
  """Makes each draw by its own run of a sampler.

  Args:
    proposal: `NestedProposal` of the sampler.
    sampler: `NestedSampler`.
    num_draws: Python `int`.
    seed: Stateless seed.

  Returns:
    value: Nested structure of `Tensor`s of shape `[num_draws] + batch + event`,
      in the space that the densities are written in.
    log_prob: `Tensor` of shape `[num_draws] + batch`: the log of the last
      density there, not normalized.
    log_normalizer: `Tensor` of the same shape.
  """
  runs = proposal.run_inner(num_draws, sampler.batch_shape.as_list(), seed)
  return tf.nest.map_structure(tf.stop_gradient, tuple(runs)[:3])


def _example(proposal, sampler):
  """Returns the dtypes and event shapes of draws."""
  traced = tf.function(
    lambda: _draw(proposal, sampler, 1, tf.constant([0, 0]))[0],
    autograph=False,
  ).get_concrete_function()
  num_leading = 1 + sampler.batch_shape.rank
  return tf.nest.map_structure(
    lambda x: tf.TensorSpec(x.shape[num_leading:], x.dtype),
    traced.structured_outputs,
  )


class SamplerDistribution(tfd.Distribution):
  """A sampler as a distribution: draws, with estimates of their log density.

  `experimental_sample_and_log_prob` runs the sampler once for each draw and
  returns a particle drawn by its weight, with the number described in the
  module. `tfp.vi.monte_carlo_variational_loss` calls this method of a surrogate
  posterior; the loss by the reverse KL divergence is then the mean of
  `-log Z-hat`, an upper bound of the negative log normalizer. Importance
  weights that use this number are unbiased. The density of a given value,
  `log_prob`, is not known, so that estimators that need it, such as score
  function gradients, do not work.

  Draws have no gradient with respect to the variables of the sampler, which
  `tfp_nvi.fit` trains. Losses have a gradient with respect to the variables of
  their target.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=3
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  surrogate = nvi.SamplerDistribution(sampler, num_particles=20)
  loss = tfp.vi.monte_carlo_variational_loss(
    tfd.Normal(2.0, 0.5).log_prob, surrogate, sample_size=100, seed=2
  )
  assert loss > -0.1  # About the log of one, and above it.
  ```
  """

  def __init__(
    self,
    sampler: proposals.ParticleSampler,
    num_particles: int,
    name: str = 'SamplerDistribution',
  ):
    """Initializes the distribution.

    Args:
      sampler: `NestedSampler`.
      num_particles: Python `int`: particles of each run.
      name: Python `str` name of this distribution.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `num_particles` is not positive.
    """
    parameters = dict(locals())
    # The proposal checks both arguments.
    self._proposal = proposals.NestedProposal(sampler, num_particles)
    self._sampler = sampler
    example = _example(self._proposal, sampler)
    self._shape = tf.nest.map_structure(lambda x: x.shape, example)
    super().__init__(
      dtype=tf.nest.map_structure(lambda x: x.dtype, example),
      # Draws do not depend on variables; see the docstring of the class.
      reparameterization_type=tfd.FULLY_REPARAMETERIZED,
      validate_args=False,
      allow_nan_stats=True,
      parameters=parameters,
      name=name,
    )

  def _batch_shape(self):
    return self._sampler.batch_shape

  def _event_shape(self):
    return self._shape

  def _event_shape_tensor(self):
    return tf.nest.map_structure(
      lambda shape: tf.constant(shape.as_list(), tf.int32), self._shape
    )

  def _call_sample_and_log_prob(self, sample_shape, seed, **kwargs):
    del kwargs
    shape = tf.TensorShape(
      np.reshape(
        tf.get_static_value(tf.convert_to_tensor(sample_shape, tf.int32)), [-1]
      )
    )
    value, log_prob, log_normalizer = _draw(
      self._proposal,
      self._sampler,
      shape.num_elements(),
      randomness.as_seed(seed),
    )
    return tf.nest.map_structure(
      lambda x: tf.reshape(x, shape + x.shape[1:]),
      (value, log_prob - log_normalizer),
    )

  def _call_sample_n(self, sample_shape, seed, **kwargs):
    return self._call_sample_and_log_prob(sample_shape, seed, **kwargs)[0]

  def _call_log_prob(self, value, name, **kwargs):
    del value, name, kwargs
    raise NotImplementedError(
      'The density that a sampler draws a given value with is not known. '
      '`experimental_sample_and_log_prob` returns an estimate for its own '
      'draws, which tfp.vi uses with the default gradient estimator.'
    )


class SamplerKernelResults(typing.NamedTuple):
  """The results of a step of a `SamplerKernel`.

  Fields:
    log_normalizer: float `Tensor` of shape `chains`: the estimate of the run
      that the state comes from; `-inf` for a state that comes from no run.
    is_accepted: bool `Tensor` of shape `chains`: whether the last step moved.
    seed: Stateless seed of the last step.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  results = nvi.interoperability.SamplerKernelResults(
    tf.zeros([3]), tf.ones([3], tf.bool), tf.constant([0, 1])
  )
  assert results.log_normalizer.shape == [3]
  ```
  """

  log_normalizer: tf.Tensor
  is_accepted: tf.Tensor
  seed: tf.Tensor


class SamplerKernel(tfp.mcmc.TransitionKernel):
  """A Markov kernel that proposes by runs of a sampler.

  With one proposal this is the particle independent Metropolis-Hastings kernel
  [1]: a particle of a new run, drawn by its weight, is accepted with
  probability `min(1, Z-hat' / Z-hat)`. With several proposals it is iterated
  sampling importance resampling [2]: the new state is drawn from the proposals
  and the present state, by their `Z-hat`. The last density of the sampler is
  invariant, for any number of particles and any sampler, trained or not; a good
  one moves more often.

  The state and its `Z-hat` belong together. A chain that starts from another
  state, with `bootstrap_results`, leaves that state at the first step. `start`
  begins chains with a run.

  #### References

  [1]: C. Andrieu, A. Doucet, R. Holenstein. Particle Markov chain Monte Carlo
       methods. Journal of the Royal Statistical Society B, 72(3), 2010.
  [2]: C. Andrieu, A. Lee, M. Vihola. Uniform ergodicity of the iterated
       conditional SMC and geometric ergodicity of particle Gibbs samplers.
       Bernoulli, 24(2), 2018.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=3
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  kernel = nvi.SamplerKernel(sampler, num_particles=10)
  state, results = kernel.start(num_chains=20, seed=2)
  draws = tfp.mcmc.sample_chain(
    50,
    state,
    previous_kernel_results=results,
    kernel=kernel,
    trace_fn=None,
    seed=3,
  )
  assert draws.shape == [50, 20]
  ```
  """

  def __init__(
    self,
    sampler: proposals.ParticleSampler,
    num_particles: int,
    num_proposals: int = 1,
    name: str = 'sampler_kernel',
  ):
    """Initializes the kernel.

    Args:
      sampler: `NestedSampler` of scalar batch shape.
      num_particles: Python `int`: particles of each run.
      num_proposals: Python `int`: runs for each step of a chain.
        Default value: `1`.
      name: Python `str` name of this kernel.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If a number is not positive, or the sampler has a batch.
    """
    self._proposal = proposals.NestedProposal(sampler, num_particles)
    if sampler.batch_shape.rank:
      raise ValueError(
        '`sampler` must have a scalar batch shape, as chains are the batch; '
        f'got {sampler.batch_shape}.'
      )
    self._sampler = sampler
    self._num_proposals = checks.as_count('num_proposals', num_proposals)
    example = tf.nest.flatten(_example(self._proposal, sampler))
    self._event_rank = example[0].shape.rank
    self._parameters = {
      'sampler': sampler,
      'num_particles': num_particles,
      'num_proposals': num_proposals,
      'name': name,
    }
    self.name = name

  @property
  def parameters(self) -> dict:
    """The arguments of the constructor."""
    return self._parameters

  @property
  def is_calibrated(self) -> bool:
    """Whether the target is invariant: `True`."""
    return True

  def start(
    self, num_chains: int, seed: types.Seed | None = None
  ) -> tuple[types.Structure, SamplerKernelResults]:
    """Begins chains with a run of the sampler for each.

    Args:
      num_chains: Python `int`.
      seed: Python `int` or stateless seed.

    Returns:
      state: Nested structure of `Tensor`s of shape `[num_chains] + event`.
      results: `SamplerKernelResults`, for the argument
        `previous_kernel_results` of `tfp.mcmc.sample_chain`.
    """
    num_chains = checks.as_count('num_chains', num_chains)
    seed = randomness.as_seed(seed)
    state, _, log_normalizer = _draw(
      self._proposal, self._sampler, num_chains, seed
    )
    return state, SamplerKernelResults(
      log_normalizer, tf.ones([num_chains], tf.bool), seed
    )

  def bootstrap_results(
    self, init_state: types.Structure
  ) -> SamplerKernelResults:
    """Results for states that come from elsewhere.

    Args:
      init_state: Nested structure of `Tensor`s of shape `chains + event`.

    Returns:
      results: `SamplerKernelResults`.
    """
    shape = self._chain_shape(init_state)
    return SamplerKernelResults(
      tf.fill(
        shape, tf.constant(-float('inf'), self._sampler.densities.float_dtype)
      ),
      tf.ones(shape, tf.bool),
      randomness.as_seed(None),
    )

  def _chain_shape(self, state):
    first = tf.convert_to_tensor(tf.nest.flatten(state)[0])
    return first.shape[: first.shape.rank - self._event_rank].as_list()

  def one_step(
    self,
    current_state: types.Structure,
    previous_kernel_results: SamplerKernelResults,
    seed: types.Seed | None = None,
  ) -> tuple[types.Structure, SamplerKernelResults]:
    """Takes a step of all chains.

    Args:
      current_state: Nested structure of `Tensor`s of shape `chains + event`.
      previous_kernel_results: `SamplerKernelResults`.
      seed: Python `int` or stateless seed.

    Returns:
      state: As `current_state`.
      results: `SamplerKernelResults`.
    """
    present = previous_kernel_results.log_normalizer
    shape = present.shape.as_list()
    num_chains = int(np.prod(shape))
    count = self._num_proposals
    seed = randomness.next_seed(seed, previous_kernel_results.seed)
    run_seed, pick_seed = tf.unstack(randomness.split_seed(seed, 2))
    proposed, _, log_normalizer = _draw(
      self._proposal, self._sampler, count * num_chains, run_seed
    )
    log_normalizer = tf.reshape(log_normalizer, [count, *shape])
    uniform = randomness.uniform(shape, pick_seed, dtype=present.dtype)
    if count == 1:
      is_accepted = tf.math.log(uniform) + present < log_normalizer[0]
      index = tf.zeros(shape, tf.int32)
    else:
      # A present state whose own estimate is zero gets no weight.
      both = tf.concat([present[tf.newaxis], log_normalizer], axis=0)
      weights = weighting.normalize_weights(both)
      below = tf.cumsum(weights, axis=0)
      picked = tf.reduce_sum(
        tf.cast(uniform * below[-1] >= below, tf.int32), axis=0
      )
      picked = tf.minimum(picked, count)
      is_accepted = (picked > 0) & tf.math.is_finite(
        tf.reduce_max(log_normalizer, axis=0)
      )
      index = tf.maximum(picked - 1, 0)
    chain = tf.reshape(tf.range(num_chains), shape)
    place = index * num_chains + chain
    state = axes.select(
      is_accepted,
      tf.nest.map_structure(lambda x: tf.gather(x, place), proposed),
      tf.nest.map_structure(tf.convert_to_tensor, current_state),
    )
    return state, SamplerKernelResults(
      tf.where(
        is_accepted,
        tf.gather(tf.reshape(log_normalizer, [-1]), place),
        present,
      ),
      is_accepted,
      seed,
    )


def start_chains(
  particles: weighting.WeightedParticles | Posterior,
  num_chains: int,
  seed: types.Seed | None = None,
) -> tuple[types.Structure, types.Structure]:
  """Draws starting points of Markov chains from particles, and finds scales.

  Chains that start from particles need not find the modes themselves, and the
  share of chains that start in each mode is that of its weight. Kernels that
  stay within a mode, such as the No-U-Turn sampler, then explore each from its
  own chains.

  Args:
    particles: `WeightedParticles` of scalar batch shape, or a `Posterior`.
    num_chains: Python `int`.
    seed: Python `int` or stateless seed.

  Returns:
    states: Nested structure of `Tensor`s of shape `[num_chains] + event`.
    scales: Nested structure of `Tensor`s of shape `event`: weighted standard
      deviations over all modes, in whose units a step size may be given.

  Raises:
    TypeError: If `particles` are of another kind.
    ValueError: If the particles have a batch, or no weight.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  target = tfd.Normal(2.0, 0.5)
  path = nvi.GeometricPath(tfd.Normal(0.0, 3.0), target, num_densities=3)
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  states, scales = nvi.start_chains(sampler.sample(500, seed=2), 10, seed=3)
  draws = tfp.mcmc.sample_chain(
    20,
    states,
    kernel=tfp.mcmc.NoUTurnSampler(target.log_prob, step_size=scales),
    trace_fn=None,
    seed=4,
  )
  assert draws.shape == [20, 10]
  ```
  """
  num_chains = checks.as_count('num_chains', num_chains)
  if isinstance(particles, Posterior):
    particles = particles.particles
  checks.check_instance(
    'particles',
    particles,
    weighting.WeightedParticles,
    'WeightedParticles or a Posterior',
  )
  log_weights = tf.convert_to_tensor(particles.log_weights)
  if log_weights.shape.rank != 1:
    raise ValueError(
      '`particles` must have a scalar batch shape; got '
      f'{log_weights.shape[1:]}.'
    )
  if bool(tf.math.is_inf(weighting.log_normalizer(log_weights))):
    raise ValueError('`particles` must have weight; all weights are zero.')
  states, _ = resampling.resample(
    particles.particles,
    log_weights,
    resampling.resample_systematic,
    randomness.as_seed(seed),
    num_draws=num_chains,
  )
  # Integers and bools have means and deviations as numbers.
  dtype = log_weights.dtype
  numbers = tf.nest.map_structure(
    lambda x: tf.cast(x, dtype) if x.dtype.is_integer or x.dtype.is_bool else x,
    tf.nest.map_structure(tf.convert_to_tensor, particles.particles),
  )
  particles = particles._replace(particles=numbers)
  means = particles.expectation()
  squares = particles.expectation(
    lambda x: tf.nest.map_structure(lambda x, m: (x - m) ** 2, x, means)
  )
  return states, tf.nest.map_structure(tf.sqrt, squares)

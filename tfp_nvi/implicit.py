# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Levels of a chain whose sides can be drawn from, but not evaluated.

The log density of a neural network that transforms noise, or of a data set, is
not known. A discriminator that tells draws of the two sides of a level apart
learns the logarithm of their density ratio, which stands for the log
incremental weight of the level. `tfp_nvi.objectives.adversarial` has the
objectives of both.

Particles that are weighted by a learned ratio are not properly weighted: the
mean of their weights is neither an unbiased estimate of a normalizer nor a
bound on it. They are `RatioWeightedParticles`, and not `WeightedParticles`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import chains, weighting
from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import checks, randomness, types

tfd = tfp.distributions

__all__ = [
  'ImplicitLevel',
  'RatioWeightedParticles',
]


class RatioWeightedParticles(NamedTuple):
  """Particles weighted by a learned density ratio: not properly weighted.

  The error of their estimates is that of the discriminator, which more
  particles do not reduce. `log_mean_ratio` shows a part of it.

  Fields:
    particles: Nested structure of `Tensor`s of shape
      `[num_particles] + batch + event`.
    log_weights: float `Tensor` of shape `[num_particles] + batch`: the learned
      log ratio plus the log factor of the level.
    log_mean_ratio: float `Tensor` of shape `batch`: the log mean of the learned
      ratio at draws of the proposal. For the true ratio it is the log share of
      the target, without the factor, that lies where the proposal has draws:
      zero if the proposal covers the target, and never above zero, apart from
      sampling error.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  zeros = tf.zeros([4])
  particles = nvi.RatioWeightedParticles(zeros, zeros, tf.zeros([]))
  assert not particles.is_properly_weighted
  ```
  """

  particles: Any
  log_weights: Any
  log_mean_ratio: Any

  @property
  def is_properly_weighted(self) -> bool:
    """`False`: the ratio is learned."""
    return False

  @property
  def log_normalizer(self) -> tf.Tensor:
    """The log mean weight, of shape `batch`: an estimate without guarantee."""
    return weighting.log_normalizer(self.log_weights)

  @property
  def mean_log_weight(self) -> tf.Tensor:
    """The mean log weight, of shape `batch`.

    It approaches the evidence lower bound as the ratio approaches the true one,
    and may lie above the log evidence before.
    """
    return weighting.mean(self.log_weights)

  @property
  def effective_sample_size(self) -> tf.Tensor:
    """Effective sample size of the learned weights, of shape `batch`."""
    return weighting.effective_sample_size(self.log_weights)


def _check_side(name, side):
  """Raises an error if a side of a level cannot be drawn from."""
  if not isinstance(side, tfd.Distribution):
    checks.check_callable(
      name,
      side,
      'a tfd.Distribution, or a callable from a number of particles and a seed '
      'to draws',
    )


def _draw_side(name, side, num_particles, seed):
  """Draws from one side of a level."""
  if isinstance(side, tfd.Distribution):
    batch_shape = densities_lib.static_batch_shape(side).as_list()
    return densities_lib.draw(side, num_particles, batch_shape, seed)
  return tf.nest.map_structure(
    lambda x: checks.check_returned(name, x, 'a structure of Tensors'),
    side(num_particles, seed),
  )


def _drop_last_axis(x):
  """Drops a last axis of size one, as `Dense(1)` gives."""
  return tf.squeeze(x, -1) if x.shape.rank > 1 and x.shape[-1] == 1 else x


class ImplicitLevel(chains.BaseLevel):
  """A level of a chain whose sides can be drawn from, but not evaluated.

  With `r(z)` the density ratio of `target` to `proposal`, and `w(z)` the
  exponential of `log_factor_fn`, the divergence of the level is

  ```none
  D_f(w target || proposal) = E_proposal[f(w(z) r(z))].
  ```

  A discriminator `V` learns `log r`. It maximizes a lower bound on a divergence
  of the two sides, their variational form [2],

  ```none
  E_target[f'(exp(V))] - E_proposal[f*(f'(exp(V)))] <= D_f(target || proposal),
  ```

  while `trainables` minimize such a bound on the divergence of the level, with
  gradients through the draws of both sides. With `tfp.vi.jensen_shannon` this
  is the minimax value function of generative adversarial networks [1]. With the
  prior as the target, the likelihood as the factor and `tfp_nvi.reverse_kl()`
  as the objective it is adversarial variational Bayes [3]; a target that is
  close to the proposal, with the ratio of the prior to it in the factor, makes
  the ratio easy to learn (adaptive contrast in [3]).

  All nested divergences take such levels in a `Chain`, beside levels with
  densities. The level trains its discriminator as well; an optimizer of its own
  for this is a part of a `tfp_nvi.MultiOptimizer`.

  The weights of the level are learned, so that particles are not properly
  weighted; see `RatioWeightedParticles`.

  #### References

  [1]: I. Goodfellow et al. Generative adversarial nets. NeurIPS, 2014.
       https://arxiv.org/abs/1406.2661
  [2]: S. Nowozin, B. Cseke, R. Tomioka. f-GAN: Training generative neural
       samplers using variational divergence minimization. NeurIPS, 2016.
       https://arxiv.org/abs/1606.00709
  [3]: L. Mescheder, S. Nowozin, A. Geiger. Adversarial variational Bayes. ICML,
       2017. https://arxiv.org/abs/1701.04722
  [4]: L. Mescheder, A. Geiger, S. Nowozin. Which training methods for GANs do
       actually converge? ICML, 2018. https://arxiv.org/abs/1801.04406

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tf_keras
  import tfp_nvi as nvi

  tfd = tfp.distributions

  discriminator = tf_keras.Sequential(
    [tf_keras.layers.Dense(16, 'tanh'), tf_keras.layers.Dense(1)]
  )
  discriminator.build([None, 1])
  shift = tf.Variable(0.0)


  def generate(num_particles, seed):
    return shift + tf.random.stateless_normal([num_particles, 1], seed)


  level = nvi.ImplicitLevel(
    proposal=generate,
    target=tfd.MultivariateNormalDiag([2.0], [1.0]),
    discriminator=discriminator,
    trainables=[shift],
    non_saturating=True,
  )
  optimizer = nvi.MultiOptimizer(
    [
      (tf_keras.optimizers.Adam(1e-2), [shift]),
      (tf_keras.optimizers.Adam(1e-2), [discriminator]),
    ]
  )
  objective = nvi.f_divergence(tfp.vi.jensen_shannon)
  nvi.fit(nvi.Chain([level]), objective, 64, 20, optimizer=optimizer, seed=1)
  particles = level.sample(10, seed=2)
  ```
  """

  has_densities = False

  def __init__(
    self,
    proposal: tfd.Distribution | Callable,
    target: tfd.Distribution | Callable,
    discriminator: Callable,
    trainables: Sequence[tf.Variable | tf.Module],
    log_factor_fn: Callable | None = None,
    csiszar_function: Callable | None = None,
    discriminator_csiszar_function: Callable | None = None,
    discriminator_trainables: Sequence[tf.Variable | tf.Module] | None = None,
    non_saturating: bool = False,
    gradient_penalty: float = 0.0,
    jit_compile: bool = False,
    name: str = 'implicit_level',
  ):
    """Initializes the level.

    Args:
      proposal: `tfd.Distribution`, or Python callable from `num_particles` and
        a stateless seed to draws: nested structures of `Tensor`s of shape
        `[num_particles] + batch + event`, differentiable in the trained
        variables.
      target: The side that the proposal is compared with, likewise. It may
        return another number of draws, such as those of a mini-batch of data.
      discriminator: Python callable, such as a `tf.Module` or a Keras model,
        from values to `log(target / proposal)`, of shape
        `[num_particles] + batch`; or with a last axis of size one.
      trainables: List of `tf.Variable`s, `tf.Module`s and layers, those of the
        discriminator apart, that this level trains.
      log_factor_fn: Python callable from values to a log density, of the shape
        that the discriminator returns: a factor of the target that can be
        evaluated, such as a likelihood. It may depend on `trainables`.
        Default value: `None` (i.e., no factor).
      csiszar_function: Python callable from `log u` to `f(u)`.
        Default value: `None` (i.e., that of the objective).
      discriminator_csiszar_function: As `csiszar_function`, for the divergence
        whose bound the discriminator maximizes. It must be strictly convex, so
        that the ratio is its only maximum. `tfp.vi.jensen_shannon` makes it
        logistic regression, which is the most stable choice.
        Default value: `None` (i.e., that of the level).
      discriminator_trainables: As `trainables`, but of the discriminator.
        Default value: `None` (i.e., `discriminator` has
        `trainable_variables`, and all of these are trained).
      non_saturating: Python `bool`: whether the parameters of the proposal
        maximize the mean of `f'(exp(V))` at its draws ([2], section 3.2)
        instead. Its gradient does not vanish while the discriminator tells
        draws apart.
        Default value: `False`.
      gradient_penalty: Python `float`: the discriminator minimizes half of this
        times the mean squared norm of its gradient at draws of the target as
        well (R1, [4]), which makes training stable and its ratio smoother.
        Default value: `0.`.
      jit_compile: As in `Level`.
        Default value: `False`.
      name: Python `str`: the name of the level in errors.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `gradient_penalty` is negative, or `non_saturating` is set
        together with `log_factor_fn`.
    """
    super().__init__(trainables, csiszar_function, jit_compile, name)
    _check_side('proposal', proposal)
    _check_side('target', target)
    checks.check_callable(
      'discriminator',
      discriminator,
      'a callable from values to log density ratios',
    )
    checks.check_callable('log_factor_fn', log_factor_fn, optional=True)
    checks.check_callable(
      'discriminator_csiszar_function',
      discriminator_csiszar_function,
      'a callable from log u to f(u), such as tfp.vi.jensen_shannon',
      optional=True,
    )
    if discriminator_trainables is None:
      if not hasattr(discriminator, 'trainable_variables'):
        raise TypeError(
          '`discriminator` must have `trainable_variables`, as a tf.Module '
          'has, where `discriminator_trainables` is not given; got '
          f'{discriminator!r}.'
        )
      discriminator_trainables = [discriminator]
    # Layers may create their variables when they are first called.
    self._discriminator_trainables = checks.as_list(
      'discriminator_trainables',
      discriminator_trainables,
      'tf.Variables and tf.Modules',
    )
    chains.list_variables(
      'discriminator_trainables', self._discriminator_trainables
    )
    checks.check_bool('non_saturating', non_saturating)
    if non_saturating and log_factor_fn is not None:
      raise ValueError(
        '`non_saturating` must be False with `log_factor_fn`; got True.'
      )
    self._proposal = proposal
    self._target = target
    self._discriminator = discriminator
    self._log_factor_fn = log_factor_fn
    self.discriminator_csiszar_function = discriminator_csiszar_function
    self.non_saturating = non_saturating
    self.gradient_penalty = checks.as_float(
      'gradient_penalty', gradient_penalty, 0.0
    )

  @property
  def has_log_factor(self) -> bool:
    """Whether the target has a factor that can be evaluated."""
    return self._log_factor_fn is not None

  def draw(
    self, num_particles: int, seed: types.StatelessSeed
  ) -> tuple[types.Structure, types.Structure]:
    """Draws values from both sides, independently.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      proposed: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`: draws of the proposal.
      compared: Likewise, of the target, without the factor.
    """
    seeds = tf.unstack(randomness.split_seed(seed, 2))
    return (
      _draw_side('proposal', self._proposal, num_particles, seeds[0]),
      _draw_side('target', self._target, num_particles, seeds[1]),
    )

  def log_ratio(self, values: types.Structure) -> tf.Tensor:
    """Returns the learned log density ratio of the target to the proposal.

    Args:
      values: As `draw` returns.

    Returns:
      log_ratio: float `Tensor` of shape `[num_particles] + batch`.
    """
    log_ratio = checks.check_returned(
      'discriminator',
      self._discriminator(values),
      'log density ratios',
      kind='floating point',
    )
    return _drop_last_axis(log_ratio)

  def log_weight(
    self, values: types.Structure, log_ratio: tf.Tensor
  ) -> tf.Tensor:
    """Returns the log weight: the learned log ratio plus the log factor.

    Args:
      values: As `draw` returns.
      log_ratio: float `Tensor` of shape `[num_particles] + batch`: the learned
        log ratio there.

    Returns:
      log_weight: float `Tensor` of the same shape.
    """
    if self._log_factor_fn is None:
      return log_ratio
    log_factor = checks.check_returned(
      'log_factor_fn',
      _drop_last_axis(tf.convert_to_tensor(self._log_factor_fn(values))),
      'log densities like the log ratios of `discriminator`',
      log_ratio.dtype,
      log_ratio.shape,
    )
    return log_ratio + log_factor

  def sample(
    self, num_particles: int, seed: types.Seed | None = None
  ) -> RatioWeightedParticles:
    """Draws particles from the proposal, with learned weights.

    Args:
      num_particles: Python `int`.
      seed: Python `int` or stateless seed.
        Default value: `None` (i.e., one that differs from call to call).

    Returns:
      particles: `RatioWeightedParticles`, which are not properly weighted.
    """
    num_particles = checks.as_count('num_particles', num_particles)
    seeds = randomness.split_seed(randomness.as_seed(seed), 2)
    values = _draw_side('proposal', self._proposal, num_particles, seeds[0])
    log_ratio = self.log_ratio(values)
    return RatioWeightedParticles(
      particles=values,
      log_weights=self.log_weight(values, log_ratio),
      log_mean_ratio=weighting.log_normalizer(log_ratio),
    )

  def gradients(
    self,
    tape: tf.GradientTape,
    surrogate: tuple[tf.Tensor, tf.Tensor],
    is_partial: bool = False,
  ) -> list[tuple[tf.Tensor, tf.Variable]]:
    """Differentiates by the variables of the level and its discriminator.

    Args:
      tape: Persistent `tf.GradientTape`.
      surrogate: Pair of scalar `Tensor`s: for `trainables`, and for the
        discriminator.
      is_partial: As in `Level`.
        Default value: `False`.

    Returns:
      pairs: As in `Level`.

    Raises:
      ValueError: If no variable of an element of `trainables`, or none of the
        discriminator, has a gradient, or a variable belongs to both.
    """
    pairs = super().gradients(tape, surrogate[0], is_partial)
    groups = chains.list_variables(
      'discriminator_trainables', self._discriminator_trainables
    )
    variables = [v for group in groups for v in group]
    own = {v.ref() for v in self.variables}
    shared = [v.name for v in variables if v.ref() in own]
    if shared:
      raise ValueError(
        f'`trainables` of {self.name!r} must not have variables of the '
        f'discriminator, which has an objective of its own; got {shared}.'
      )
    gradients = tape.gradient(surrogate[1], variables)
    found = [
      (tf.convert_to_tensor(gradient), variable)
      for gradient, variable in zip(gradients, variables, strict=True)
      if gradient is not None
    ]
    if variables and not found:
      raise ValueError(
        f'`discriminator` of {self.name!r} must depend on its variables; there '
        f'is no gradient for {[v.name for v in variables]}.'
      )
    return pairs + found

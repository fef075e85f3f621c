# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bounds on the log normalizer, whose gradient passes through all levels."""

import warnings
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import resampling, weighting
from tfp_nvi.chains import Chain, check_have_densities
from tfp_nvi.objectives import base, chain
from tfp_nvi.sampler import NestedSampler

__all__ = [
  'SequenceBound',
  'iwae',
  'rws',
  'svi',
  'vsmc',
]


class SequenceBound(base.Objective):
  """An objective on the last level, whose gradient passes through all levels.

  Made by `svi`, `iwae`, `vsmc` and `rws`.

  ```python
  import tfp_nvi as nvi

  objective = nvi.iwae()
  ```
  """

  def __init__(
    self,
    name: str,
    loss_fn: Callable,
    log_forward_fn: Callable,
    reparameterize: bool,
    resample: bool,
  ):
    """Initializes the objective.

    Args:
      name: Python `str`.
      loss_fn: Python callable from the final log weights, of shape
        `[num_particles] + batch`, to a loss of shape `batch`.
      log_forward_fn: Python callable from a `Move` to its `log_forward`, with
        the gradient that it is to have.
      reparameterize: Python `bool`: whether states are differentiable.
      resample: Python `bool`: whether to resample as the sampler does.
    """
    self._name = name
    self._loss_fn = loss_fn
    self._log_forward_fn = log_forward_fn
    self._reparameterize = reparameterize
    self._resample = resample

  @property
  def description(self) -> str:
    """The name of the bound."""
    return self._name

  def __call__(
    self, sampler: NestedSampler | Chain, num_particles: int, seed: tf.Tensor
  ) -> tuple[base.Estimate, list[tuple[tf.Tensor, tf.Variable]]]:
    """Estimates the objective and its gradients; see `Objective`.

    Args:
      sampler: `NestedSampler`, or a `Chain` of a single level, which is an
        importance sampler.
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      estimate: `Estimate`; that of a chain is summed over its batch.
      gradients: List of pairs of a gradient and its variable.

    Raises:
      ValueError: If a chain has several levels, or an implicit one.
    """
    if isinstance(sampler, Chain):
      levels = sampler.levels()
      num_levels = len(levels)
      check_have_densities(levels, 'whose weights bound log Z')
      if num_levels > 1:
        raise ValueError(
          '`sampler` must be a NestedSampler, or a Chain of a single level, '
          f'which is an importance sampler; got {num_levels} levels.'
        )
      return chain.estimate_chain(
        sampler, num_particles, seed, self._chain_level
      )
    if self._reparameterize and sampler.densities.has_zeros:
      warnings.warn(
        f'Gradients of {self._name} pass through samples, and do not see the '
        'jumps of a target that is zero in places. Nested objectives and rws '
        'take score gradients there.',
        RuntimeWarning,
        stacklevel=2,
      )
    if not self._resample:
      sampler = sampler.copy(resample_criterion_fn=resampling.never)
    with tf.GradientTape() as tape:
      run = sampler.run(
        num_particles,
        seed,
        cut=False,
        reparameterize=self._reparameterize,
        log_forward_fn=self._log_forward_fn,
      )
      loss = self._loss_fn(run.particles.log_weights)
      total = tf.reduce_sum(loss)
    variables = tape.watched_variables()
    return base.estimate_run(run, loss), base.pair_gradients(
      tape.gradient(total, variables), variables
    )

  def _chain_level(self, level, num_particles, seed):
    """The bound of an importance sampler."""
    move, log_target = level.evaluate(
      level.draw(num_particles, seed), self._reparameterize
    )
    log_weights = log_target - self._log_forward_fn(move)
    loss = self._loss_fn(log_weights)
    return (
      tf.reduce_sum(loss),
      loss,
      weighting.mean(log_weights),
      log_weights,
    )


def _reverse_gradient(log_prob, times):
  """Zero, with minus the gradient of a log density, so many times."""
  if not tf.is_tensor(log_prob):
    return 0.0
  return times * (tf.stop_gradient(log_prob) - log_prob)


def svi() -> SequenceBound:
  """Stochastic variational inference: the evidence lower bound of the sequence.

  Minus the mean of the final log weight, without resampling, with gradients by
  sticking the landing.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: D. J. Rezende, S. Mohamed, D. Wierstra. Stochastic backpropagation and
       approximate inference in deep generative models. ICML, 2014.
       https://arxiv.org/abs/1401.4082

  ```python
  import tfp_nvi as nvi

  objective = nvi.svi()
  ```
  """
  return SequenceBound(
    'svi',
    lambda log_weights: -weighting.mean(log_weights),
    lambda move: (
      move.log_forward
      + _reverse_gradient(move.log_forward_fixed_sample, times=1.0)
    ),
    reparameterize=True,
    resample=False,
  )


def _negative_log_normalizer(log_weights):
  return -weighting.log_normalizer(log_weights)


def iwae() -> SequenceBound:
  """The importance-weighted bound, without resampling.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: Y. Burda, R. Grosse, R. Salakhutdinov. Importance weighted autoencoders.
       ICLR, 2016. https://arxiv.org/abs/1509.00519

  ```python
  import tfp_nvi as nvi

  objective = nvi.iwae()
  ```
  """
  return SequenceBound(
    'iwae',
    _negative_log_normalizer,
    lambda move: move.log_forward,
    reparameterize=True,
    resample=False,
  )


def vsmc() -> SequenceBound:
  """Variational sequential Monte Carlo: the bound with resampling.

  The gradient leaves out the dependence of the ancestors on the parameters.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: C. A. Naesseth, S. W. Linderman, R. Ranganath, D. M. Blei. Variational
       sequential Monte Carlo. AISTATS, 2018. https://arxiv.org/abs/1705.11140
  [2]: C. J. Maddison et al. Filtering variational objectives. NeurIPS, 2017.
       https://arxiv.org/abs/1705.09279
  [3]: T. A. Le, M. Igl, T. Rainforth, T. Jin, F. Wood. Auto-encoding sequential
       Monte Carlo. ICLR, 2018. https://arxiv.org/abs/1705.10306

  ```python
  import tfp_nvi as nvi

  objective = nvi.vsmc()
  ```
  """
  return SequenceBound(
    'vsmc',
    _negative_log_normalizer,
    lambda move: move.log_forward,
    reparameterize=True,
    resample=True,
  )


def rws() -> SequenceBound:
  """Reweighted wake-sleep, wake phases, without resampling.

  Forward kernels maximize the log density of the samples by their final
  weights; reverse kernels and densities ascend the estimated log normalizer.

  Returns:
    objective: `SequenceBound`.

  #### References

  [1]: J. Bornschein, Y. Bengio. Reweighted wake-sleep. ICLR, 2015.
       https://arxiv.org/abs/1406.2751
  [2]: T. A. Le, A. R. Kosiorek, N. Siddharth, Y. W. Teh, F. Wood. Revisiting
       reweighted wake-sleep. UAI, 2019. https://arxiv.org/abs/1805.10469

  ```python
  import tfp_nvi as nvi

  objective = nvi.rws()
  ```
  """
  return SequenceBound(
    'rws',
    _negative_log_normalizer,
    # The weight has minus this log density; its gradient is to have plus.
    lambda move: (
      move.log_forward + _reverse_gradient(move.log_forward, times=2.0)
    ),
    reparameterize=False,
    resample=False,
  )

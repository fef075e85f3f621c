# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Estimates from one run how far apart the two sides of each level are.

Level `k` brings particles from the forward density `pi-hat_k`, of the level
before and the forward kernel, to the reverse density `pi-check_k`, of its own
density and the reverse kernel, by incremental weights `v_k`. With the incoming
normalized weights `W` and `l = log v - log sum(W v)`:

```none
reverse KL  KL(pi-hat || pi-check) = -sum(W l)
forward KL  KL(pi-check || pi-hat) = sum(W exp(l) l)
chi-square                           sum(W exp(2 l)) - 1
```

The bias of the estimates is of the order of one over the number of particles.
They do not account for regions that no particle has found.
"""

import typing

import numpy as np

from tfp_nvi import runs
from tfp_nvi.internal import checks, types
from tfp_nvi.posterior import diagnosis

__all__ = [
  'LevelReport',
  'level_report',
  'pareto_k',
]


class LevelReport(typing.NamedTuple):
  """Divergences and weights of each level, as float64 NumPy arrays.

  The first level is the initial proposal, from which the weights of the first
  density come.

  Fields:
    log_ratio: Shape `[num_densities] + batch`: the log of the mean incremental
      weight. Their sum is the log normalizer.
    reverse_kl: Shape `[num_densities] + batch`; `inf` where a particle loses
      all weight.
    forward_kl: Shape `[num_densities] + batch`.
    chi_square: Shape `[num_densities] + batch`: the relative variance of the
      incremental weights.
    conditional_ess: Shape `[num_densities] + batch`: `1 / (1 + chi_square)`,
      the share of particles that the level leaves effective.
    effective_sample_size: Shape `[num_densities] + batch`, of the weights that
      the level passes on.
    pareto_k: Shape `[num_densities] + batch`, of these weights: above 0.7 they
      are not to be trusted.

  ```python
  import numpy as np
  import tfp_nvi as nvi

  report = nvi.diagnostics.LevelReport(*np.zeros([7, 3]))
  assert report.reverse_kl.shape == (3,)
  ```
  """

  log_ratio: np.ndarray
  reverse_kl: np.ndarray
  forward_kl: np.ndarray
  chi_square: np.ndarray
  conditional_ess: np.ndarray
  effective_sample_size: np.ndarray
  pareto_k: np.ndarray

  def __str__(self):
    """Returns a table with a row for each level, with means over the batch."""
    lines = [
      f'level{"log ratio":>11}{"KL(f|r)":>9}{"KL(r|f)":>9}{"CESS":>7}'
      f'{"ESS":>9}{"Pareto k":>10}'
    ]
    for level in range(len(self.log_ratio)):
      row = [float(np.mean(field[level])) for field in self]
      lines.append(
        f'{level:>5}{row[0]:>11.3f}{row[1]:>9.3f}{row[2]:>9.3f}{row[4]:>7.1%}'
        f'{row[5]:>9.1f}{row[6]:>10.2f}'
      )
    return '\n'.join(lines)


def pareto_k(log_weights: types.TensorLike) -> np.ndarray:
  """Returns the shape of the generalized Pareto law of the largest weights.

  Above 0.7 a mean of the weights is not to be trusted; above 1 it may not
  exist. It is `-inf` where the largest weights are all the same, as after
  resampling, and `inf` where there are too few to tell.

  Args:
    log_weights: float array-like of shape `[num_particles] + batch`.

  Returns:
    k: float64 NumPy array of shape `batch`.

  Raises:
    ValueError: If there is no axis of particles.

  #### References

  [1]: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry. Pareto smoothed
       importance sampling. JMLR, 2024. https://arxiv.org/abs/1507.02646

  ```python
  import numpy as np
  import tfp_nvi as nvi

  # Weights with a tail of index 2: k = 1 / 2.
  log_weights = np.random.default_rng(0).exponential(0.5, [100_000, 2])
  assert np.all(abs(nvi.diagnostics.pareto_k(log_weights) - 0.5) < 0.1)
  ```
  """
  log_weights = np.asarray(
    checks.as_tensor(
      'log_weights', log_weights, kind='floating point', min_rank=1
    ),
    np.float64,
  )
  flat = log_weights.reshape([len(log_weights), -1])
  return np.array([diagnosis.pareto_k(x) for x in flat.T]).reshape(
    log_weights.shape[1:]
  )


def level_report(trace: runs.Trace) -> LevelReport:
  """Divergences, effective sample sizes and Pareto k, level by level.

  Args:
    trace: `Trace`, of `NestedSampler.trace`.

  Returns:
    report: `LevelReport`; printed, it is a table.

  Raises:
    TypeError: If `trace` is not a `Trace`.
    ValueError: If log weights and incremental weights are not of the same run.

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302
  [2]: Y. Zhou, A. M. Johansen, J. A. D. Aston. Toward automatic model
       comparison: an adaptive sequential Monte Carlo approach. Journal of
       Computational and Graphical Statistics, 25(3), 2016.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=4
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  trace = sampler.trace(1_000, seed=2)
  print(nvi.diagnostics.level_report(trace))
  ```
  """
  checks.check_instance(
    'trace', trace, runs.Trace, 'a Trace, of NestedSampler.trace'
  )
  log_weights = np.asarray(trace.log_weights, np.float64)
  increments = np.asarray(trace.log_incremental_weights, np.float64)
  if log_weights.ndim < 2 or increments.shape != (
    len(log_weights) - 1,
    *log_weights.shape[1:],
  ):
    raise ValueError(
      '`trace` must have log weights of shape [num_densities, num_particles] + '
      'batch, and incremental weights of one level less; got shapes '
      f'{log_weights.shape} and {increments.shape}.'
    )
  rows = [_level(np.zeros(log_weights.shape[1:]), log_weights[0])]
  for level, increment in enumerate(increments, start=1):
    rows.append(_level(_incoming(log_weights, level, increment), increment))
  return LevelReport(*map(np.stack, zip(*rows, strict=True)))


def _incoming(log_weights, level, increment):
  """Returns the log weights that a level received, after any resampling."""
  with np.errstate(invalid='ignore'):
    incoming = log_weights[level] - increment
  # The incoming weight of a particle that the level has left without weight is
  # unknown. It is taken to be the weight before, or after resampling that of
  # all others.
  is_known = np.isfinite(incoming)
  before = log_weights[level - 1]
  with np.errstate(invalid='ignore'):
    is_same = np.isclose(incoming, before, rtol=1e-5, atol=1e-4)
  is_kept = np.all(is_same | ~is_known, axis=0)
  of_others = np.max(np.where(is_known, incoming, -np.inf), axis=0)
  return np.where(is_known, incoming, np.where(is_kept, before, of_others))


def _level(incoming, increment):
  """Computes the numbers of a level, in the order of `LevelReport`."""
  weights = _normalize(incoming)
  has_weight = weights > 0.0
  increment = np.where(has_weight, increment, -np.inf)
  with np.errstate(divide='ignore'):
    log_weights = np.log(weights)
  outgoing = np.where(has_weight, log_weights + increment, -np.inf)
  peak = np.max(outgoing, axis=0)
  # Where all weights are zero, there is no peak to divide by.
  base = np.where(np.isfinite(peak), peak, 0.0)
  with np.errstate(divide='ignore'):
    log_ratio = base + np.log(np.sum(np.exp(outgoing - base), axis=0))
  # This avoids the difference of two infinities where all weights are zero.
  log_relative = np.where(
    np.isfinite(log_ratio),
    increment - np.where(np.isfinite(log_ratio), log_ratio, 0.0),
    -np.inf,
  )
  relative = np.exp(log_relative)
  finite = np.where(np.isfinite(log_relative), log_relative, 0.0)
  reverse = -np.sum(weights * np.where(has_weight, finite, 0.0), axis=0)
  is_lost = np.any(has_weight & ~np.isfinite(log_relative), axis=0)
  chi_square = np.where(
    np.isfinite(peak), np.sum(weights * relative**2, axis=0) - 1.0, np.inf
  )
  after = _normalize(outgoing)
  with np.errstate(divide='ignore', invalid='ignore'):
    size = np.sum(after, axis=0) ** 2 / np.sum(after**2, axis=0)
  return (
    log_ratio,
    np.where(is_lost, np.inf, reverse),
    np.sum(weights * relative * finite, axis=0),
    chi_square,
    1.0 / (1.0 + chi_square),
    np.nan_to_num(size),
    pareto_k(outgoing),
  )


def _normalize(log_weights):
  """Returns weights that sum to one; zeros where all weights are zero."""
  peak = np.max(log_weights, axis=0)
  weights = np.exp(log_weights - np.where(np.isfinite(peak), peak, 0.0))
  return weights / np.maximum(np.sum(weights, axis=0), np.finfo(float).tiny)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Warnings about the runs of a sampler, in words."""

import numpy as np

__all__ = [
  'MOST_PARETO_K',
  'find_warnings',
  'pareto_k',
  'split_variance',
  'tail_k',
]

# Above this a mean of weights is not to be trusted.
MOST_PARETO_K = 0.7
# A weight that is so many times the mean is large.
_LARGE = 3.0
# The largest ratio of total to inner deviations: with 1.05 a tenth of the
# variance is between runs, as with ten independent particles in each of them.
_MOST_RATIO = 1.05
# The largest deviation of log evidences between runs.
_MOST_SPREAD = 0.5


def pareto_k(log_weights: np.ndarray) -> float:
  """Shape of the generalized Pareto law of the largest weights.

  Above 0.7 a mean of the weights is not to be trusted, above 1 it may not
  exist.

  Args:
    log_weights: Array of shape `[n]`.

  Returns:
    k: Python `float`; `-inf` where the largest weights are all the same.

  #### References

  [1]: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry. Pareto smoothed
       importance sampling. JMLR, 2024. https://arxiv.org/abs/1507.02646
  [2]: J. Zhang, M. A. Stephens. A new and efficient estimation method for the
       generalized Pareto distribution. Technometrics, 2009.

  ```python
  import numpy as np
  from tfp_nvi.posterior import diagnosis

  # Weights with a tail of index 2: k = 1 / 2.
  log_weights = np.random.default_rng(0).exponential(0.5, 100_000)
  assert abs(diagnosis.pareto_k(log_weights) - 0.5) < 0.1
  ```
  """
  log_weights = np.asarray(log_weights, np.float64)
  log_weights = np.sort(log_weights[np.isfinite(log_weights)])
  size = int(min(0.2 * len(log_weights), 3.0 * np.sqrt(len(log_weights))))
  if size < 5:
    return np.inf
  tail = np.exp(log_weights - log_weights[-1])
  x = tail[-size:] - tail[-size - 1]
  if x[0] <= 0.0:
    x = x[x > 0.0]
    if len(x) < 5:
      return -np.inf
    size = len(x)
  num = 30 + int(np.sqrt(size))
  b = 1.0 / x[-1] + (1.0 - np.sqrt(num / (np.arange(num) + 0.5))) / (
    3.0 * x[int(size / 4 + 0.5) - 1]
  )
  k = np.mean(np.log1p(-b[:, np.newaxis] * x), axis=1)
  log_likelihood = size * (np.log(-b / k) - k - 1.0)
  weights = np.exp(log_likelihood - log_likelihood.max())
  b = np.sum(b * weights) / np.sum(weights)
  k = np.mean(np.log1p(-b * x))
  # A weak prior of ten draws at one half.
  return float((k * size + 5.0) / (size + 10.0))


def tail_k(log_weights: np.ndarray) -> float:
  """`pareto_k` of weights of which some are large, for warnings.

  The shape of the largest weights says little where none of them counts for
  several particles, as where a few components of a mixture have somewhat larger
  weights than the others.

  Args:
    log_weights: Array of shape `[n]`.

  Returns:
    k: Python `float`; `-inf` where no weight is above three times the mean.

  ```python
  import numpy as np
  from tfp_nvi.posterior import diagnosis

  # One particle in forty has a weight that is larger by a third.
  log_weights = np.where(np.arange(1_000) % 40 == 0, 0.3, 0.0)
  assert diagnosis.tail_k(log_weights) == -np.inf
  ```
  """
  log_weights = np.asarray(log_weights, np.float64)
  highest = np.max(log_weights, initial=-np.inf)
  if not np.isfinite(highest):
    return np.inf
  if 1.0 <= _LARGE * np.mean(np.exp(log_weights - highest)):
    return -np.inf
  return pareto_k(log_weights)


def split_variance(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
  """How much runs differ: one if they agree.

  Args:
    means: Array of shape `[num_runs, d]`: each run's means.
    variances: Array of shape `[num_runs, d]`: each run's variances.

  Returns:
    ratios: Array of shape `[d]`: the square root of total variance over the
      variance within runs, as R-hat is.
  """
  within = np.mean(variances, axis=0)
  between = np.var(means, axis=0, ddof=1)
  return np.sqrt((within + between) / np.maximum(within, 1e-300))


def find_warnings(
  log_evidences: np.ndarray,
  num_particles: int,
  num_ancestors: np.ndarray,
  ratios: np.ndarray,
  names: list,
  tail_k: float,
  level_ess: np.ndarray,
  acceptances: list,
) -> list:
  """Says in words what may be wrong.

  Args:
    log_evidences: Array of shape `[num_runs]`.
    num_particles: Python `int`, of a run.
    num_ancestors: Array of shape `[num_runs]`: how many particles of the start
      have descendants.
    ratios: Array of shape `[d]`: `split_variance`.
    names: List of Python `str`s, one for each of these.
    tail_k: Python `float`: the largest Pareto k of the levels' weights.
    level_ess: Array of shape `[num_stages, num_runs]`.
    acceptances: List of Python `float`s, one a stage.

  Returns:
    warnings: List of Python `str`s.
  """
  warnings = []
  if tail_k > MOST_PARETO_K:
    warnings.append(
      f'heavy tails: the largest weights follow a Pareto law with k = '
      f'{tail_k:.2f} (above {MOST_PARETO_K}), so that the error of the '
      'evidence may be larger than it seems. A `conditional_ess` nearer to '
      'one, or more particles, would help.'
    )
  fewest = int(np.min(num_ancestors))
  if fewest < max(0.02 * num_particles, 10):
    warnings.append(
      f'few ancestors: the particles of a run descend from {fewest} of its '
      f'{num_particles} first particles. More particles, or a '
      '`conditional_ess` nearer to one, would help.'
    )
  worst = int(np.argmax(ratios))
  if ratios[worst] > _MOST_RATIO:
    warnings.append(
      f'modes at risk: the runs disagree about {names[worst]} by a factor of '
      f'{ratios[worst]:.2f} in its deviation (above {_MOST_RATIO}). Each run '
      'may have lost modes that others have: more particles, or '
      "start='prior' with a broad initial density, would help."
    )
  spread = np.std(log_evidences, ddof=1) if len(log_evidences) > 1 else 0.0
  if spread > _MOST_SPREAD:
    warnings.append(
      f'the log evidences of the runs differ by {spread:.2f} (their standard '
      'deviation), so that one or two runs dominate. More particles would help.'
    )
  lowest = np.min(level_ess, axis=1)
  level = int(np.argmin(lowest))
  if lowest[level] < 0.05:
    warnings.append(
      f'a level dominates: at level {level + 1} of {len(lowest)} a run has an '
      f'effective sample size of {lowest[level]:.1%} of its particles.'
    )
  if min(acceptances) < 0.3:
    level = int(np.argmin(acceptances))
    warnings.append(
      f'the moves of level {level + 1} of {len(acceptances)} accept '
      f'{min(acceptances):.0%} only: particles hardly move there.'
    )
  return warnings

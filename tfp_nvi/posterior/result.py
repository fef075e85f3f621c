# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""`Posterior`, the result of `fit_posterior`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import resampling, weighting
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.posterior import learned as learned_lib
from tfp_nvi.sampler import NestedSampler
from tfp_nvi.weighting import estimates

tfd = tfp.distributions

__all__ = [
  'Posterior',
]


@dataclasses.dataclass(frozen=True)
class Posterior:
  """Weighted particles of a posterior, and its evidence.

  The particles come from independent runs of one sampler, whose settings were
  found by other runs before: the estimate of the evidence is unbiased, and what
  the runs differ by says how large the errors are.

  Attributes:
    particles: `WeightedParticles` in the space of the target: all runs, of
      `[num_particles * num_runs]` particles, the run changing fastest.
    log_evidence: Python `float`: the log of the mean of the runs' estimates.
    log_evidence_error: Python `float`: its standard error; NaN for one run.
    log_evidences: Array of shape `[num_runs]`: the runs' own estimates.
    num_runs: Python `int`.
    num_target_evaluations: Python `int`: evaluations of the target's log
      density and gradient, of all stages.
    start: Python `str`: `'prior'` or `'reference'`.
    reason: Python `str`: why it started there.
    warnings: List of Python `str`s.
    history: List of Python `dict`s: the stages, in order, each with its `name`,
      `seconds`, `num_target_evaluations` and what it found.
    names: List of Python `str`s: the variables, in the order of `tf.nest`.
    reference: `tfd.Distribution` over the user's space that was fitted to the
      particles of pilots; in the unconstrained space it is Gaussian, possibly
      with splines, a radial or a conditional map, or a mixture of Gaussians.
      `None` where runs started from the prior.
    learn_fn: Python callable that makes `learned`, or `None` where there is no
      reference.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi.posterior import fit_posterior

  tfd = tfp.distributions

  model = tfd.JointDistributionNamed(
    {
      'rate': tfd.Gamma(3.0, 2.0),
      'y': lambda rate: tfd.Sample(tfd.Poisson(rate), 5),
    }
  )
  posterior = fit_posterior(
    model.experimental_pin(y=[1.0, 0.0, 2.0, 1.0, 3.0]),
    num_particles=200,
    num_runs=2,
    seed=1,
  )
  # The posterior is Gamma(3 + 7, 2 + 5).
  mean = posterior.expectation(lambda value: value['rate'])
  assert abs(mean - 10.0 / 7.0) < 0.15
  ```
  """

  particles: weighting.WeightedParticles
  log_evidence: float
  log_evidence_error: float
  log_evidences: np.ndarray
  num_runs: int
  num_target_evaluations: int
  start: str
  reason: str
  warnings: list
  history: list
  names: list
  reference: tfd.Distribution | None = None
  learn_fn: Callable | None = dataclasses.field(default=None, repr=False)

  def __copy__(self):
    return dataclasses.replace(self)

  def __reduce_ex__(self, protocol):
    raise TypeError(
      'A Posterior cannot be pickled or copied, as it refers to the functions '
      'of its target. For another process: tfp_nvi.save and tfp_nvi.load, or '
      'to_arviz().'
    )

  def __repr__(self):
    return (
      f'<Posterior of {", ".join(self.names)}: log evidence '
      f'{self.log_evidence:.3f} +- {self.log_evidence_error:.3f}, '
      f'{self.num_runs} runs>'
    )

  @functools.cached_property
  def learned(self) -> learned_lib.Learned:
    """The sampler from `reference`, and how it was chosen; see `sampler`."""
    if self.learn_fn is None:
      raise ValueError(
        '`sampler` needs runs that start from a fitted reference, and these '
        f'started from the prior: {self.reason} '
        "fit_posterior(..., start='reference') makes such runs."
      )
    return self.learn_fn()

  @property
  def sampler(self) -> NestedSampler:
    """A sampler from `reference` to the target, to use again.

    It needs one evaluation of the target for a particle where importance
    sampling from the reference suffices, and a few otherwise; runs need ten or
    more. It is made at first use, can be a part of other samplers, and can be
    trained by `fit` if it has several levels.
    """
    return self.learned.sampler

  def expectation(self, fn: Callable = lambda x: x) -> types.Structure:
    """Self-normalized estimate of the expectation of a function.

    Args:
      fn: Python callable from values of shape `[num_particles] + event` to a
        nested structure of `Tensor`s of shape `[num_particles] + shape`.
        Default value: the identity, for the mean.

    Returns:
      expectation: Nested structure of `Tensor`s of shape `shape`.
    """
    return self.particles.expectation(fn)

  def quantiles(
    self, probabilities: types.TensorLike, fn: Callable = lambda x: x
  ) -> types.Structure:
    """Quantiles of a function, for each coordinate.

    Args:
      probabilities: float array of shape `[...]`, between zero and one.
      fn: As in `expectation`.

    Returns:
      quantiles: Nested structure of `Tensor`s of shape
        `probabilities.shape + shape`.
    """
    return self.particles.quantiles(probabilities, fn)

  def standard_error(self, fn: Callable = lambda x: x) -> types.Structure:
    """Standard error of `expectation(fn)`, from what the runs differ by.

    Args:
      fn: As in `expectation`.

    Returns:
      standard_error: Nested structure of `Tensor`s of shape `shape`; NaN where
        there is one run only.
    """
    log_weights = tf.reshape(self.particles.log_weights, [-1, self.num_runs])
    # The runs are independent batch members: each run's share of the total
    # weight, and its own expectation.
    shares = tf.nn.softmax(weighting.log_normalizer(log_weights))
    weights = weighting.normalize_weights(log_weights)

    def error(values):
      values = estimates.as_numbers(values, log_weights.dtype)
      shape = values.shape[1:].as_list()
      values = tf.reshape(values, [-1, self.num_runs] + shape)
      means = weighting.weighted_mean(weights, values)
      tiled = tf.reshape(shares, [-1] + [1] * len(shape))
      deviation = tiled * (means - tf.reduce_sum(tiled * means, axis=0))
      runs = tf.cast(self.num_runs, values.dtype)
      return tf.sqrt(tf.reduce_sum(deviation**2, axis=0) * runs / (runs - 1.0))

    return tf.nest.map_structure(error, fn(self.particles.particles))

  def sample(
    self, num_samples: int, seed: types.Seed | None = None
  ) -> types.Structure:
    """Draws from the particles by their weights, in random order.

    Args:
      num_samples: Python `int`.
      seed: Python `int` or stateless seed.

    Returns:
      samples: Nested structure of `Tensor`s of shape `[num_samples] + event`.
    """
    num_samples = checks.as_count('num_samples', num_samples)
    draw_seed, order_seed = tf.unstack(
      randomness.split_seed(randomness.as_seed(seed), 2)
    )
    samples, _ = resampling.resample(
      self.particles.particles,
      self.particles.log_weights,
      resampling.resample_systematic,
      draw_seed,
      num_draws=num_samples,
    )
    order = tf.argsort(randomness.uniform([num_samples], order_seed))
    return tf.nest.map_structure(lambda x: tf.gather(x, order), samples)

  def _table(self):
    """Rows of numbers for each scalar variable."""
    weights = self.particles.weights.numpy().astype(np.float64)
    errors = tf.nest.flatten(self.standard_error())
    rows = []
    for name, values, error in zip(
      self.names, tf.nest.flatten(self.particles.particles), errors, strict=True
    ):
      values = values.numpy().astype(np.float64)
      event_shape = values.shape[1:]
      flat = values.reshape([len(values), -1])
      flat_error = error.numpy().reshape(-1)
      quantiles = weighting.weighted_quantiles(
        weights, flat, [0.05, 0.5, 0.95]
      ).numpy()
      for i, column in enumerate(flat.T):
        index = np.unravel_index(i, event_shape) if event_shape else ()
        label = name + (f'[{", ".join(map(str, index))}]' if index else '')
        mean = weights @ column
        deviation = np.sqrt(weights @ (column - mean) ** 2)
        # As many independent draws would have this standard error.
        ess = (
          (deviation / flat_error[i]) ** 2 if flat_error[i] > 0.0 else np.nan
        )
        rows.append(
          (
            label,
            mean,
            deviation,
            *quantiles[:, i],
            min(ess, len(column)),
            flat_error[i],
          )
        )
    return rows

  def summary(self, max_rows: int = 40) -> str:
    """A table of the variables, the evidence, and warnings.

    Args:
      max_rows: Python `int`: how many variables to show at most.
        Default value: `40`.

    Returns:
      text: Python `str`.
    """
    max_rows = checks.as_count('max_rows', max_rows)
    rows = self._table()
    width = max(8, *(len(row[0]) for row in rows[:max_rows]))
    titles = ('mean', 'sd', '5%', '50%', '95%', 'ESS', 'error')
    lines = [' ' * width + ''.join(f'{title:>11}' for title in titles)]
    for label, *numbers in rows[:max_rows]:
      *values, ess, error = numbers
      lines.append(
        f'{label:<{width}}'
        + ''.join(f'{value:>11.4g}' for value in values)
        + f'{ess:>11.0f}{error:>11.2g}'
      )
    if len(rows) > max_rows:
      lines.append(f'... and {len(rows) - max_rows} more.')
    lines += [
      '',
      f'Log evidence: {self.log_evidence:.3f} +- '
      f'{self.log_evidence_error:.3f} (standard error over {self.num_runs} '
      'independent runs).',
      f'Evaluations of the target: {self.num_target_evaluations:,}.',
      f'Started from the {self.start}: {self.reason}',
    ]
    lines += [f'Warning: {warning}' for warning in self.warnings]
    if not self.warnings:
      lines.append('No warnings.')
    return '\n'.join(lines)

  def to_arviz(
    self,
    model: tfp.experimental.distributions.JointDistributionPinned | None = None,
    **kwargs: Any,
  ) -> Any:
    """Exports draws to ArviZ; the runs are the chains.

    Args:
      model: `JointDistributionPinned`: the target, if it is to be asked for
        pointwise log likelihoods, replicated data and draws of the prior.
        Default value: `None`.
      **kwargs: Further arguments of
        `tfp_nvi.diagnostics.posterior_to_arviz`, such as `coords` and `dims`.

    Returns:
      data: `arviz.InferenceData`, or the `DataTree` of ArviZ 1.

    Raises:
      ImportError: If ArviZ is not installed.
    """
    # Imported here, as it is below this module, and seldom needed.
    from tfp_nvi.diagnostics import export

    return export.posterior_to_arviz(self, model, **kwargs)

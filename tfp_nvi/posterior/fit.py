# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors in one call: a reference, pilots, and runs that repeat them."""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import weighting
from tfp_nvi.internal import checks, precision, randomness, types
from tfp_nvi.internal import progress as progress_lib
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.posterior import (
  diagnosis,
  frozen,
  learned,
  parametrization,
  replicated,
  result,
  stages,
)
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'fit_posterior',
]

# How many particles to move at once, at least.
_PILOT_SIZE = 1_000
# Draws from the start for each particle of a run.
_NUM_DRAWS = 8
# The largest share of draws from the initial density that the bijector may have
# no vectors for without a warning.
_MOST_UNMAPPED = 0.01


def fit_posterior(
  target: types.Density,
  initial: tfd.Distribution | None = None,
  event_space_bijector: tfb.Bijector | types.Structure | None = None,
  *,
  start: str = 'auto',
  num_particles: int = 500,
  num_runs: int = 8,
  conditional_ess: float = 0.9,
  jit_compile: bool | None = None,
  progress: bool = True,
  seed: types.Seed | None = None,
  strategy: tf.distribute.Strategy | None = None,
) -> result.Posterior:
  """Samples a posterior and estimates its evidence, without tuning.

  1. A Gaussian reference is fitted in the unconstrained space by variational
     inference; in 129 to 2,000 dimensions its correlations are from the
     curvature at a mode.
  2. Pilots, adaptive SMC samplers from the reference and from the prior, choose
     inverse temperatures, scales and steps. Their particles give a better
     reference. In it one or two coordinates may set the scales of others, by
     Laplace's method for each of their values [3]; coordinates with two modes
     or a long tail have monotone splines; and the lengths of vectors have the
     density that the target has along rays. Where there are several modes,
     optimization looks for them, and a mixture of Gaussians there may be the
     start. Where pilots of a pinned model leave doubts, and it has variables
     whose location or scale depends on others, there are pilots in
     non-centered coordinates too [4].
  3. Independent runs repeat the best pilot's schedule, with nothing adapted, so
     that their estimates of the evidence are unbiased. From a reference or a
     mixture, each particle is chosen from eight draws, by their weights.

  Log densities that are NaN count as zero density. On an interrupt (Ctrl-C)
  after the first pilot the result is made of what there is, and a warning says
  so.

  Args:
    target: `JointDistributionPinned`; or a `tfd.Distribution` or callable that
      returns an unnormalized log density, with `initial`.
    initial: `tfd.Distribution`: a broad density over the same space, such as
      the prior, to start from.
      Default value: `None` (i.e., the model's prior, of a pinned model).
    event_space_bijector: `tfb.Bijector` from the real space to the target's, or
      nested structure of `tfb.Bijector`s, one for each part of a state.
      Default value: `None` (i.e., the one that TFP knows of).
    start: Python `str`: `'reference'`, `'prior'`, or `'auto'` to compare
      pilots from both. From the prior modes are less easily lost, from a
      reference there are fewer levels.
      Default value: `'auto'`.
    num_particles: Python `int`: particles of each run.
      Default value: `500`.
    num_runs: Python `int`: how many independent runs give the result.
      Default value: `8`.
    conditional_ess: Python `float`: the share of particles that a step to the
      next inverse temperature leaves effective. Nearer to one there are more
      levels, and weights have lighter tails.
      Default value: `0.9`.
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `None` (i.e., unless the target has ops that XLA does not
      know; on a CPU, only with more than 128 values, where it saves more than
      compilation takes, and not where the target factorizes matrices, for which
      XLA takes many times as long).
    progress: Python `bool`: whether to show a progress bar, on a terminal or
      in a notebook.
      Default value: `True`.
    seed: Python `int` or stateless seed.
    strategy: `tf.distribute.Strategy` on whose replicas the runs are divided.
      Pilots run in every process, and the runs repeat the one that the first
      process found. Every process makes the same call, and gets all particles.
      There is no result on an interrupt then.
      Default value: `None` (i.e., all runs on this device).

  Returns:
    posterior: `Posterior`.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If an argument has a wrong value, the target has no mass where
      it was evaluated, or `num_runs` is not a multiple of the number of
      replicas.

  #### References

  [1]: P. Del Moral, A. Doucet, A. Jasra. Sequential Monte Carlo samplers.
       Journal of the Royal Statistical Society B, 68(3), 2006.
  [2]: Y. Zhou, A. M. Johansen, J. A. D. Aston. Toward automatic model
       comparison: an adaptive sequential Monte Carlo approach. Journal of
       Computational and Graphical Statistics, 25(3), 2016.
  [3]: H. Rue, S. Martino, N. Chopin. Approximate Bayesian inference for latent
       Gaussian models by using integrated nested Laplace approximations.
       Journal of the Royal Statistical Society B, 71(2), 2009.
  [4]: O. Papaspiliopoulos, G. O. Roberts, M. Sköld. A general framework for
       the parametrization of hierarchical models. Statistical Science, 22(1),
       2007.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi.posterior import fit_posterior

  tfd = tfp.distributions

  model = tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, 3.0),
      'y': lambda mean: tfd.Sample(tfd.Normal(mean, 1.0), 4),
    }
  )
  posterior = fit_posterior(
    model.experimental_pin(y=[1.0, 2.0, 0.5, 1.5]),
    num_particles=200,
    num_runs=4,
    seed=1,
  )
  print(posterior.summary())
  ```
  """
  checks.check_instance('start', start, str, 'a Python str')
  if start not in ('auto', 'prior', 'reference'):
    raise ValueError(
      f"`start` must be 'auto', 'prior' or 'reference'; got {start!r}."
    )
  num_particles = checks.as_count('num_particles', num_particles, 10)
  num_runs = checks.as_count('num_runs', num_runs)
  conditional_ess = checks.as_float(
    'conditional_ess', conditional_ess, 0.0, 1.0, is_open=True
  )
  if jit_compile is not None:
    checks.check_bool('jit_compile', jit_compile)
  checks.check_bool('progress', progress)
  replicas = None
  if strategy is not None:
    replicas = _place(strategy, num_particles, num_runs)
  space_seed, pilot_seed, run_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 3)
  )
  with precision.full_products():
    # This evaluates the target, too.
    space = space_lib.VectorSpace(
      target, initial, event_space_bijector, space_seed
    )
  at_once = _runs_at_once(num_particles, num_runs)
  is_shown = progress and (replicas is None or replicas.is_chief)
  make_bar = progress_lib.make_bar(
    is_shown,
    total=1.0,
    bar_format='{desc}: {percentage:3.0f}%|{bar}| {elapsed}',
  )
  with precision.full_products(), make_bar as bar:
    if jit_compile is None:
      jit_compile = space.suits_xla()
    fitter = stages.Fitter(
      space, num_particles * at_once, conditional_ess, jit_compile, bar
    )
    if space.share_unmapped > _MOST_UNMAPPED:
      fitter.warnings.append(
        f'{space.share_unmapped:.1%} of draws from the initial density are '
        'outside of the range of `event_space_bijector`, and their mass is '
        'missing from the evidence.'
      )
    other_seed = randomness.fold_in(space_seed, 1)
    try:
      found, chosen, reason = parametrization.choose(
        fitter, start, other_seed, pilot_seed
      )
    except KeyboardInterrupt:
      if fitter.latest is None or replicas is not None:
        raise
      return _interrupted(fitter)
    if replicas is not None:
      found = parametrization.of_first(replicas, fitter, found, other_seed)
      chosen, reason = replicated.of_first(replicas, found, chosen, reason)
    fitter = found
    if not chosen.schedule.is_complete:
      found_stages = chosen.schedule.stages
      reached = found_stages[-1].beta if found_stages else 0.0
      raise ValueError(
        '`target` must have mass where the start has, without narrow places '
        'in between; the pilots got no further than to inverse temperature '
        f'{reached:.2g}, and the target is at 1. A broader `initial` may help.'
      )
    if replicas is not None:
      at_once = num_runs // replicas.num_islands
    return _repeat(
      fitter,
      chosen,
      reason,
      num_particles,
      num_runs,
      at_once,
      run_seed,
      replicas,
    )


def _place(strategy, num_particles, num_runs):
  """The islands of a strategy, which are runs that are moved together."""
  num_replicas = replicas_lib.Replicas(strategy).num_islands
  if num_runs % num_replicas:
    raise ValueError(
      f'`num_runs` must be a multiple of the {num_replicas} replicas of '
      f'`strategy`; got {num_runs}.'
    )
  at_once = _runs_at_once(num_particles, num_runs // num_replicas)
  return replicas_lib.Replicas(strategy, num_runs // at_once)


def _runs_at_once(num_particles, num_runs):
  """How many runs to move together, about as many particles as a pilot has."""
  largest = max(1, _PILOT_SIZE // num_particles)
  return max(
    i for i in range(1, num_runs + 1) if num_runs % i == 0 and i <= largest
  )


def _repeat(
  fitter,
  chosen,
  reason,
  num_particles,
  num_runs,
  at_once,
  seed,
  replicas,
):
  """Runs with everything frozen."""
  if chosen.start != 'prior':
    schedule = chosen.schedule._replace(num_draws=_NUM_DRAWS)
    chosen = chosen._replace(schedule=schedule)

  def draw(seed, index):
    return fitter.draw(
      chosen.reference, chosen.start, num_particles, at_once, seed, index
    )

  pieces: list = []
  warnings = []
  with fitter.stage('runs') as found:
    if replicas is not None:
      fitter.announce(f'{num_runs} runs')
      pieces = replicated.run_frozen(
        replicas, chosen, draw, at_once, seed, fitter.show
      )
    try:
      for i in range(len(pieces), num_runs // at_once):
        fitter.announce(f'run {i * at_once + 1} of {num_runs}')
        draw_seed, move_seed = tf.unstack(
          randomness.split_seed(randomness.fold_in(seed, i), 2)
        )
        pieces.append(
          frozen.run_frozen(
            chosen.moves,
            chosen.reference,
            functools.partial(draw, draw_seed),
            chosen.schedule,
            at_once,
            move_seed,
            fitter.show,
          )
        )
    except KeyboardInterrupt:
      if not pieces:
        return _interrupted(fitter)
      warnings.append(
        f'interrupted: {len(pieces) * at_once} of {num_runs} runs were done.'
      )
    num_evaluations = (
      chosen.schedule.evaluations_per_particle
      * num_particles
      * at_once
      * len(pieces)
    )
    chosen.moves.count(num_evaluations, sum(int(x.num_nan) for x in pieces))
    fitter.num_evaluations += num_evaluations
    level_ess = np.concatenate([x.level_ess for x in pieces], axis=1)
    tail_ks = np.max([x.tail_ks for x in pieces], axis=0)
    found.update(
      level_effective_sample_sizes=level_ess.tolist(), pareto_k=tail_ks.tolist()
    )
  return _collect(
    fitter,
    chosen,
    reason,
    [x.population for x in pieces],
    level_ess,
    float(np.max(tail_ks)),
    warnings,
  )


def _interrupted(fitter):
  """A result from the latest pilot alone."""
  latest = fitter.latest
  return _collect(
    fitter,
    latest,
    'interrupted.',
    [latest.population],
    np.array([[x.effective_sample_size] for x in latest.schedule.stages]),
    0.0,
    [
      'interrupted: the particles are those of a pilot, which adapted itself '
      'to them, and there is one run only, so that errors are unknown.'
    ],
  )


def _join_runs(arrays, num_runs):
  """Joins `[num_particles * runs_at_once]` pieces, the run changing fastest."""
  return tf.concat(
    [tf.reshape(x, [-1, num_runs] + x.shape[1:].as_list()) for x in arrays],
    axis=1,
  )


def _disagreement(y, log_weights):
  """How much runs differ in each coordinate of the unconstrained space.

  Variances exist there. They are computed in double precision, as a posterior
  may be very narrow beside its prior.

  Args:
    y: `Tensor` of shape `[num_particles, num_runs, num_values]`.
    log_weights: `Tensor` of shape `[num_particles, num_runs]`.

  Returns:
    ratios: Array of shape `[num_values]`, by `diagnosis.split_variance`.
  """
  y, weights = (
    tf.cast(x, tf.float64)
    for x in (
      tf.where(tf.math.is_finite(y), y, tf.zeros_like(y)),
      weighting.normalize_weights(log_weights),
    )
  )
  means = weighting.weighted_mean(weights, y)
  variances = weighting.weighted_mean(weights, (y - means) ** 2)
  return diagnosis.split_variance(means.numpy(), variances.numpy())


def _collect(fitter, chosen, reason, populations, level_ess, tail_k, more):
  """Makes a `Posterior` of populations."""
  space = fitter.space
  at_once = populations[0].log_weights.shape[1]
  y = _join_runs(
    [
      reference_lib.forward(chosen.reference, population.u)[0]
      for population in populations
    ],
    at_once,
  )
  log_weights = tf.concat([x.log_weights for x in populations], axis=1)
  num_particles, num_runs = log_weights.shape
  log_evidences = weighting.log_normalizer(log_weights)
  roots = np.concatenate([x.root.numpy() for x in populations], axis=1)
  num_ancestors = np.array([len(np.unique(x)) for x in roots.T])
  log_evidence = float(weighting.log_normalizer(tf.reshape(log_weights, [-1])))
  if not np.isfinite(log_evidence):
    raise ValueError(
      '`target` must have mass where the start has; got no particle of '
      'positive weight.'
    )
  error, ratios = np.nan, np.ones(space.num_values)
  if num_runs > 1:
    relative = np.exp(log_evidences.numpy().astype(np.float64) - log_evidence)
    error = float(np.std(relative, ddof=1) / np.sqrt(num_runs))
    ratios = _disagreement(y, log_weights)
  if chosen.moves.num_nan:
    more = more + [
      f'{chosen.moves.num_nan} log densities at the start of runs were NaN, '
      'and count as zero density.'
    ]
  reference = learn_fn = None
  if chosen.start == 'reference':
    reference = learned.reference_distribution(space, chosen.reference)
    learn_fn = functools.partial(
      learned.learn,
      space,
      chosen.reference,
      fitter.jit_compile,
      randomness.as_seed(0),
    )
  return result.Posterior(
    particles=weighting.WeightedParticles(
      space.to_user(tf.reshape(y, [-1, space.num_values])),
      tf.reshape(log_weights, [-1]),
      # Particles of different runs have no ancestor in common.
      tf.reshape(
        tf.constant(roots * num_runs + np.arange(num_runs), tf.int32), [-1]
      ),
    ),
    log_evidence=log_evidence,
    log_evidence_error=error,
    log_evidences=log_evidences.numpy(),
    num_runs=num_runs,
    num_target_evaluations=fitter.num_evaluations,
    start=chosen.start,
    reason=reason,
    warnings=more
    + fitter.warnings
    + diagnosis.find_warnings(
      log_evidences.numpy(),
      num_particles,
      num_ancestors,
      ratios,
      space.state_map.value_names(),
      tail_k,
      level_ess,
      [stage.acceptance for stage in chosen.schedule.stages],
    ),
    history=fitter.history,
    names=space.names,
    reference=reference,
    learn_fn=learn_fn,
  )

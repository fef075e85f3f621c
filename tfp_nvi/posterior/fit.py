# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors in one call: a reference, pilots, and runs that repeat them."""

import time
import typing
import warnings as python_warnings

import numpy as np
import tensorflow as tf
import tqdm

from tfp_nvi import weighting
from tfp_nvi.internal import checks, randomness
from tfp_nvi.posterior import diagnosis, pilot, result, variational
from tfp_nvi.posterior import moves as moves_lib
from tfp_nvi.posterior import reference as reference_lib
from tfp_nvi.posterior import space as space_lib

with python_warnings.catch_warnings():
  # A notebook without widgets has a bar of plain text, which needs no warning.
  python_warnings.simplefilter('ignore', tqdm.TqdmWarning)
  from tqdm.auto import tqdm as progress_bar

__all__ = [
  'fit_posterior',
]

# How many particles to move at once, at least.
_PILOT_SIZE = 1_000
# How often to fit a reference to particles at most.
_MAX_REFITS = 4


class _Pilot(typing.NamedTuple):
  """What a pilot run is about and found."""

  name: str
  moves: moves_lib.Moves
  reference: reference_lib.Reference
  schedule: pilot.Schedule
  population: pilot.Population

  @property
  def log_evidence(self):
    if not self.schedule.is_complete:
      return -np.inf
    return float(weighting.log_normalizer(self.population.log_weights)[0])

  @property
  def variance(self):
    """A rough relative variance of the evidence estimate."""
    # Each stage adds what conditional effective sample sizes allow, and more
    # where moves do not separate particles of one ancestor.
    return (
      sum(
        0.12 * (1.0 + 2.0 * max(stage.correlation, 0.0))
        for stage in self.schedule.stages
      )
      / self.population.u.shape[0]
    )

  @property
  def weighted_points(self):
    """Particles in the standardized space, and weights, in double precision."""
    y, _ = reference_lib.forward(self.reference, self.population.u)
    weights = weighting.normalize_weights(self.population.log_weights)[:, 0]
    return y.numpy().astype(np.float64), weights.numpy().astype(np.float64)


def _share_outside(points, weights, other_points, other_weights):
  """The weight of points that are farther out than any others are.

  Args:
    points: Array of shape `[n, d]`.
    weights: Array of shape `[n]`, with sum one.
    other_points: Likewise: the points that say what is far.
    other_weights: Likewise.

  Returns:
    share: Python `float`.
  """
  is_full = points.shape[1] <= reference_lib.MAX_FULL
  mean, root = reference_lib.square_root(other_points, other_weights, is_full)

  def square_distance(x):
    if root.ndim == 1:
      return np.sum(((x - mean) / root) ** 2, axis=1)
    return np.sum(np.linalg.solve(root, (x - mean).T) ** 2, axis=0)

  limit = 1.5 * np.max(square_distance(other_points[other_weights > 0.0]))
  kept = weights > 0.0
  return float(weights[kept] @ (square_distance(points[kept]) > limit))


class _Fitter:
  """The stages of `fit_posterior`, and what they have found so far."""

  def __init__(self, space, conditional_ess, jit_compile, bar):
    self.space = space
    self.conditional_ess = conditional_ess
    self.jit_compile = jit_compile
    self.bar = bar
    self.history = []
    self.num_evaluations = 0
    self._from_reference = moves_lib.Moves(space, False, jit_compile)
    self._from_initial = None
    self.latest = None
    self.has_modes = False
    self.warnings = []

  def _record(self, name, start, num_evaluations, **found):
    self.num_evaluations += num_evaluations
    self.history.append(
      {
        'name': name,
        'seconds': time.perf_counter() - start,
        'num_target_evaluations': num_evaluations,
        **found,
      }
    )

  def _announce(self, name):
    self.bar.reset(total=1.0)
    self.bar.set_description(name)

  def _progress(self, beta):
    self.bar.update(beta - self.bar.n)

  def fit_variational(self, seed):
    name = 'reference'
    self._announce(name)
    start = time.perf_counter()
    reference, num_evaluations, bound, has_valleys = (
      variational.fit_variational(
        self.space, seed, jit_compile=self.jit_compile
      )
    )
    self._record(
      name,
      start,
      num_evaluations,
      evidence_lower_bound=bound,
      has_valleys=has_valleys,
    )
    return reference, has_valleys

  def run_pilot(
    self, name, reference, size, seed, from_initial=False, max_evaluations=None
  ):
    self._announce(name)
    start = time.perf_counter()
    draw_seed, run_seed = tf.unstack(randomness.split_seed(seed, 2))
    if from_initial:
      moves = self._initial_moves()
      u = self.space.sample_initial(size, draw_seed)
    else:
      moves = self._from_reference
      u = randomness.normal(
        [size, self.space.num_values], draw_seed, self.space.dtype
      )
    before = moves.num_evaluations
    schedule, population = pilot.run_pilot(
      moves,
      reference,
      u,
      run_seed,
      conditional_ess=self.conditional_ess,
      max_evaluations=max_evaluations,
      has_modes=self.has_modes,
      progress=self._progress,
    )
    found = _Pilot(name, moves, reference, schedule, population)
    self._record(
      name,
      start,
      moves.num_evaluations - before,
      log_evidence=found.log_evidence,
      is_complete=schedule.is_complete,
      stages=[
        {k: v for k, v in stage._asdict().items() if k != 'scale'}
        for stage in schedule.stages
      ],
    )
    if schedule.is_complete:
      self.latest = found
    return found

  def _initial_moves(self):
    """Moves along a path from the initial density."""
    # Where that is standard normal, the reference that does nothing serves.
    if self.space.has_exact_gaussian:
      return self._from_reference
    if self._from_initial is None:
      self._from_initial = moves_lib.Moves(self.space, True, self.jit_compile)
    return self._from_initial

  def identity(self):
    size = self.space.num_values
    matrix = np.eye(size) if size <= reference_lib.MAX_FULL else np.ones(size)
    return reference_lib.from_affine(np.zeros(size), matrix, self.space.dtype)

  def refit(self, source, whitener):
    """A reference fitted to the particles of a pilot."""
    y, weights = source.weighted_points
    return reference_lib.fit_to_particles(
      whitener, y, weights, self.space.dtype
    )

  def choose(self, start, size, seed):
    """Runs pilots, and returns the one to repeat with the reason for it."""
    seeds = tf.unstack(randomness.split_seed(seed, 4))
    if start == 'prior':
      found = self.run_pilot(
        'pilot from the prior', self.identity(), size, seeds[0], True
      )
      return found, 'prior', 'as asked for.'
    whitener, self.has_modes = self.fit_variational(seeds[1])
    best = self.run_pilot(
      'pilot from the reference',
      whitener,
      size,
      seeds[2],
      max_evaluations=250 * size,
    )
    reason = 'as asked for.'
    broad = None
    if start == 'auto':
      broad = self.run_pilot(
        'pilot from the prior',
        self.identity(),
        size,
        seeds[0],
        True,
        max_evaluations=(3_000 if self.has_modes else 400) * size,
      )
      best, reason = self._compare(best, broad)
    if not best.schedule.is_complete:
      # Nothing got to the target: the reference's own path, however long.
      best = self.run_pilot(
        'long pilot from the reference',
        whitener,
        size,
        seeds[2],
        max_evaluations=5_000 * size,
      )
      reason = 'no pilot got to the target within its budget.'
    if best is broad:
      roots = len(np.unique(broad.population.root.numpy()))
      self.history[-1]['num_ancestors'] = roots
      if self.has_modes and roots < 0.05 * size:
        # A reference fitted to few families would lack what they lack.
        return broad, 'prior', reason
      whitener, _ = self.refit(broad, self.identity())
    return self._refine(best, broad, whitener, reason, size, seeds[3])

  def _compare(self, narrow, broad):
    """Which pilot to learn from."""
    if not broad.schedule.is_complete:
      stages = broad.schedule.stages
      self.warnings.append(
        'modes at risk: a pilot from the prior got to temperature '
        f'{stages[-1].beta if stages else 0.0:.2g} of 1 within its budget, so '
        'that modes that the reference does not cover would not be seen. '
        "start='prior' takes longer, but would see them."
      )
      return narrow, (
        'a pilot from the prior did not get to the target within its budget.'
      )
    if not narrow.schedule.is_complete:
      return broad, 'a pilot from the variational reference did not.'
    difference = broad.log_evidence - narrow.log_evidence
    margin = 0.1 + 2.0 * np.sqrt(narrow.variance + broad.variance)
    outside = _share_outside(*broad.weighted_points, *narrow.weighted_points)
    self.history[-1]['share_outside'] = outside
    if self.has_modes:
      return broad, (
        'the density has valleys between the places that several starts of '
        'variational inference led to.'
      )
    if difference > margin or outside > 0.02:
      return broad, (
        'a pilot from the prior found mass that the variational reference '
        f'leads past ({outside:.1%} of it; log evidence '
        f'{broad.log_evidence:.2f} and {narrow.log_evidence:.2f}).'
      )
    return narrow, (
      'a pilot from the prior found no other mass (log evidence '
      f'{broad.log_evidence:.2f} and {narrow.log_evidence:.2f}).'
    )

  def _refine(self, best, broad, whitener, reason, size, seed):
    """Fits references to particles for as long as the path gets shorter."""
    for i in range(_MAX_REFITS):
      reference, drivers = self.refit(best, whitener)
      found = self.run_pilot(
        f'pilot from fitted reference {i + 1}',
        reference,
        size,
        randomness.fold_in(seed, i),
      )
      self.history[-1]['drivers'] = drivers
      # A lower evidence than before: it covers less than what it was fitted to.
      gain = found.log_evidence - best.log_evidence
      margin = 2.0 * np.sqrt(found.variance + best.variance)
      num_fewer = len(best.schedule.stages) - len(found.schedule.stages)
      if gain < -0.2 - margin or (num_fewer < 0 and gain < 0.1 + margin):
        break
      best = found
      if num_fewer < 1 and gain < 0.05 + margin:
        break
    if best is broad:
      return best, 'prior', reason
    return best, 'reference', reason


def fit_posterior(
  target,
  initial=None,
  event_space_bijector=None,
  *,
  start: str = 'auto',
  num_particles: int = 500,
  num_runs: int = 8,
  conditional_ess: float = 0.9,
  jit_compile: bool = True,
  progress: bool = True,
  seed=None,
) -> result.Posterior:
  """Samples a posterior and estimates its evidence, without tuning.

  1. A Gaussian reference is fitted in the unconstrained space by variational
     inference.
  2. Pilots, adaptive SMC samplers from the reference and from the prior, choose
     temperatures, scales and steps; their particles give a better reference,
     in which a few coordinates may set the scales of others.
  3. Independent runs repeat the best pilot's schedule, with nothing adapted, so
     that their estimates of the evidence are unbiased.

  Log densities that are NaN count as zero density. On an interrupt (Ctrl-C)
  after the first pilot the result is made of what there is, and a warning says
  so.

  Args:
    target: `JointDistributionPinned`; or a `tfd.Distribution` or callable that
      returns an unnormalized log density, with `initial`.
    initial: `tfd.Distribution`: a broad density over the same space, such as
      the prior, to start from.
      Default value: `None` (i.e., the model's prior, of a pinned model).
    event_space_bijector: `tfb.Bijector` from the real space to the target's.
      Default value: `None` (i.e., the one that TFP knows of).
    start: Python `str`: `'reference'`, `'prior'`, or `'auto'` to compare
      pilots from both. From the prior modes are less easily lost, from a
      reference there are fewer levels.
      Default value: `'auto'`.
    num_particles: Python `int`: particles of each run.
      Default value: `500`.
    num_runs: Python `int`: how many independent runs give the result.
      Default value: `8`.
    conditional_ess: Python `float`: the share of particles that a step in
      temperature leaves effective.
      Default value: `0.9`.
    jit_compile: Python `bool`: whether to compile with XLA, which a target with
      ops that XLA does not know must do without.
      Default value: `True`.
    progress: Python `bool`: whether to show a progress bar, on a terminal.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    posterior: `Posterior`.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If an argument has a wrong value, or the target has no mass
      where it was evaluated.

  #### References

  [1]: P. Del Moral, A. Doucet, A. Jasra. Sequential Monte Carlo samplers.
       Journal of the Royal Statistical Society B, 68(3), 2006.
  [2]: Y. Zhou, A. M. Johansen, J. A. D. Aston. Toward automatic model
       comparison: an adaptive sequential Monte Carlo approach. Journal of
       Computational and Graphical Statistics, 25(3), 2016.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi.posterior import fit_posterior

  tfd = tfp.distributions

  model = tfd.JointDistributionNamedAutoBatched(
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
  checks.check_bool('jit_compile', jit_compile)
  checks.check_bool('progress', progress)
  space_seed, pilot_seed, run_seed = tf.unstack(
    randomness.split_seed(randomness.as_seed(seed), 3)
  )
  space = space_lib.VectorSpace(
    target, initial, event_space_bijector, space_seed
  )
  at_once = _runs_at_once(num_particles, num_runs)
  with progress_bar(
    total=1.0,
    disable=None if progress else True,
    bar_format='{desc}: {percentage:3.0f}%|{bar}| {elapsed}',
  ) as bar:
    fitter = _Fitter(space, conditional_ess, jit_compile, bar)
    try:
      chosen, where, reason = fitter.choose(
        start, num_particles * at_once, pilot_seed
      )
    except KeyboardInterrupt:
      if fitter.latest is None:
        raise
      return _interrupted(fitter, num_particles * at_once)
    if not chosen.schedule.is_complete:
      stages = chosen.schedule.stages
      raise ValueError(
        '`target` must have mass where the start has, without narrow places '
        'in between; got no further than to temperature '
        f'{stages[-1].beta if stages else 0.0:.2g} of 1.'
      )
    return _repeat(
      fitter, chosen, where, reason, num_particles, num_runs, at_once, run_seed
    )


def _runs_at_once(num_particles, num_runs):
  """How many runs to move together, about as many particles as a pilot has."""
  largest = max(1, _PILOT_SIZE // num_particles)
  return max(
    i for i in range(1, num_runs + 1) if num_runs % i == 0 and i <= largest
  )


def _repeat(
  fitter, chosen, where, reason, num_particles, num_runs, at_once, seed
):
  """Runs with everything frozen."""
  name = 'runs'
  start = time.perf_counter()
  before = chosen.moves.num_evaluations
  pieces, is_interrupted = [], False
  try:
    for i in range(num_runs // at_once):
      fitter._announce(f'run {i * at_once + 1} of {num_runs}')
      draw_seed, move_seed = tf.unstack(
        randomness.split_seed(randomness.fold_in(seed, i), 2)
      )
      size = num_particles * at_once
      u = (
        fitter.space.sample_initial(size, draw_seed)
        if where == 'prior'
        else randomness.normal(
          [size, fitter.space.num_values], draw_seed, fitter.space.dtype
        )
      )
      pieces.append(
        pilot.run_frozen(
          chosen.moves,
          chosen.reference,
          u,
          chosen.schedule,
          at_once,
          move_seed,
          fitter._progress,
        )
      )
  except KeyboardInterrupt:
    is_interrupted = True
    if not pieces:
      return _interrupted(fitter, num_particles * at_once)
  populations, level_ess, tail_ks = zip(*pieces, strict=True)
  level_ess = np.concatenate(level_ess, axis=1)
  fitter._record(
    name,
    start,
    chosen.moves.num_evaluations - before,
    level_effective_sample_sizes=level_ess.tolist(),
    pareto_k=np.max(tail_ks, axis=0).tolist(),
  )
  more = []
  if is_interrupted:
    more.append(
      f'interrupted: {len(pieces) * at_once} of {num_runs} runs were done.'
    )
  return _collect(
    fitter,
    chosen,
    where,
    reason,
    populations,
    level_ess,
    float(np.max(tail_ks)),
    more,
  )


def _interrupted(fitter, size):
  """A result from the latest pilot alone."""
  latest = fitter.latest
  del size
  return _collect(
    fitter,
    latest,
    'reference' if latest.moves is fitter._from_reference else 'prior',
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


def _collect(
  fitter, chosen, where, reason, populations, level_ess, tail_k, more
):
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
  # In the coordinates of the unconstrained space, where variances exist.
  # In double precision: a posterior may be very narrow, by a wide prior.
  weights = tf.cast(weighting.normalize_weights(log_weights), tf.float64)
  wide_y = tf.cast(
    tf.where(tf.math.is_finite(y), y, tf.zeros_like(y)), 'float64'
  )
  means = weighting.weighted_mean(weights, wide_y)
  variances = weighting.weighted_mean(weights, (wide_y - means) ** 2)
  ratios = (
    diagnosis.split_variance(means.numpy(), variances.numpy())
    if num_runs > 1
    else np.ones(space.num_values)
  )
  log_evidence = float(weighting.log_normalizer(tf.reshape(log_weights, [-1])))
  if not np.isfinite(log_evidence):
    raise ValueError(
      '`target` must have mass where the start has; got no particle of '
      'positive weight.'
    )
  relative = np.exp(log_evidences.numpy().astype(np.float64) - log_evidence)
  error = (
    float(np.std(relative, ddof=1) / np.sqrt(num_runs))
    if num_runs > 1
    else np.nan
  )
  y = tf.reshape(y, [-1, space.num_values])
  if chosen.moves.num_nan:
    more = more + [
      f'{chosen.moves.num_nan} log densities at the start of runs were NaN, '
      'and count as zero density.'
    ]
  return result.Posterior(
    particles=weighting.WeightedParticles(
      space.to_user(y), tf.reshape(log_weights, [-1])
    ),
    log_evidence=log_evidence,
    log_evidence_error=error,
    log_evidences=log_evidences.numpy(),
    num_runs=num_runs,
    num_target_evaluations=fitter.num_evaluations,
    start=where,
    reason=reason,
    warnings=more
    + fitter.warnings
    + diagnosis.find_warnings(
      log_evidences.numpy(),
      num_particles,
      num_ancestors,
      ratios,
      space.value_names(),
      tail_k,
      level_ess,
      [stage.acceptance for stage in chosen.schedule.stages],
    ),
    history=fitter.history,
    names=space.names,
  )

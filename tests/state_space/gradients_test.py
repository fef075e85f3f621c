# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Estimated gradients agree with exact ones, for state-space models.

Level `k` is over the global state and the first `k` local states. For states of
two values its densities are written down as arrays, and for a linear-Gaussian
model on a grid (`exact_gradients`); the mean of an estimator over NUM_SEEDS
independent runs must be within 4 of its standard errors.

Bias and false alarms: as in objectives_test.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tests import exact_gradients as eg
from tfp_nvi.internal import randomness
from tfp_nvi.state_space import densities as densities_lib
from tfp_nvi.state_space import heuristics as heuristics_lib

tfd = tfp.distributions

NUM_PARTICLES = 2**11
NUM_SEEDS = 32
OBSERVED = [0, 1, 1]
NUM_STEPS = len(OBSERVED)


def double(x):
  return tf.constant(x, tf.float64)


class Table:
  """Logits that depend on two parameters."""

  def __init__(self, name, rank, seed):
    random = np.random.default_rng(seed)
    shape = [2] * rank
    self._base = tf.constant(0.6 * random.normal(size=shape))
    self._directions = tf.constant(random.normal(size=[*shape, 2]))
    self.variable = tf.Variable([0.1, -0.1], dtype=tf.float64, name=name)

  def __call__(self):
    return self._base + tf.linalg.matvec(self._directions, self.variable)

  def at(self, *indices):
    return tf.gather_nd(self(), tf.stack(indices, axis=-1))


class TableHeuristic(nvi.Heuristic):
  """Of the observations to come, the global state, and perhaps the local one.

  The local state counts in what is prepared and in what is not.
  """

  def __init__(self, table, looks_at_state):
    super().__init__()
    self.table = table
    self._looks_at_state = looks_at_state

  def prepare(self, observations, is_observed, global_state):
    shape = [NUM_STEPS] + global_state.shape
    x = tf.reshape(observations, [-1] + [1] * global_state.shape.rank)
    values = self.table.at(
      tf.broadcast_to(x, shape), tf.broadcast_to(global_state, shape)
    )
    return heuristics_lib.sum_of_rest(values)

  def log_factor(self, row, global_state, local_state):
    if local_state is None or not self._looks_at_state:
      return row[..., 0]
    chosen = tf.one_hot(local_state, 2, dtype=row.dtype)
    own = self.table.at(local_state, global_state)[..., 1]
    return tf.reduce_sum(row * chosen, axis=-1) + own


class Tables:
  """A model, its proposals, and a heuristic."""

  def __init__(self, looks_at_state):
    self.looks_at_state = looks_at_state
    self.initial = Table('initial', 1, 0)
    self.first = Table('first', 2, 1)
    self.later = Table('later', 3, 2)
    self.heuristic = Table('heuristic', 3, 3)
    self.variables = [
      table.variable
      for table in (self.initial, self.first, self.later, self.heuristic)
    ]
    self.names = [*eg.labels(self.variables), 'loss']
    rng = np.random.default_rng(4)
    self.model_tables = [
      tf.constant(0.7 * rng.normal(size=[2] * rank)) for rank in (1, 2, 3, 3)
    ]

  def sampler(self, criterion=nvi.always):
    prior, initial, transition, observation = self.model_tables

    def at(table, *indices):
      return tfd.Categorical(
        logits=tf.gather_nd(table, tf.stack(indices, axis=-1))
      )

    model = nvi.StateSpaceModel(
      prior=tfd.Categorical(logits=prior),
      initial_fn=lambda eta: at(initial, eta),
      transition_fn=lambda z, eta: at(transition, eta, z),
      observation_fn=lambda z, eta: at(observation, eta, z),
    )
    return nvi.StateSpaceSampler(
      model,
      initial_proposal_fn=lambda x, _: tfd.Categorical(logits=self.initial()),
      proposal_fn=lambda x, z, eta: tfd.Categorical(
        logits=self.first.at(eta) if z is None else self.later.at(eta, z)
      ),
      heuristic=TableHeuristic(self.heuristic, self.looks_at_state),
      resample_criterion_fn=criterion,
    )(OBSERVED)

  def log_factor(self, k):
    """Of shape `[2] * (k + 1)` or less, over the state that level `k` has."""
    if k == NUM_STEPS:
      return double(0.0)
    table = self.heuristic()
    row = tf.add_n([table[x] for x in OBSERVED[k:]])
    if k == 0 or not self.looks_at_state:
      return tf.reshape(row[:, 0], [2] + [1] * k)
    row += tf.transpose(table[:, :, 1])
    return tf.reshape(row, [2] + [1] * (k - 1) + [2])

  def levels(self):
    prior, initial, transition, observation = map(
      tf.nn.log_softmax, self.model_tables
    )
    joint = prior
    target = joint + self.log_factor(0)
    levels = [eg.Level(tf.nn.log_softmax(self.initial()), target)]
    for k, x in enumerate(OBSERVED, start=1):
      likelihood = observation[:, :, x]
      if k == 1:
        step, proposal = initial, tf.nn.log_softmax(self.first())
      else:
        shape = [2] + [1] * (k - 2)
        step = tf.reshape(transition, shape + [2, 2])
        proposal = tf.reshape(tf.nn.log_softmax(self.later()), shape + [2, 2])
        likelihood = tf.reshape(likelihood, shape + [1, 2])
      joint = joint[..., tf.newaxis] + step + likelihood
      hat = target[..., tf.newaxis] + proposal
      target = joint + self.log_factor(k)
      levels.append(eg.Level(hat, target))
    return levels


SIDES = [nvi.Side.FORWARD, nvi.Side.REVERSE, nvi.Side.BOTH]


def of_side(exact, side):
  gradient = {
    nvi.Side.FORWARD: exact.forward,
    nvi.Side.REVERSE: exact.reverse,
    nvi.Side.BOTH: exact.both,
  }[side]
  return np.append(gradient, exact.value)


class Problem:
  """Tables, and estimators of all sides in one compiled function."""

  def __init__(self, looks_at_state):
    self.tables = Tables(looks_at_state)
    self.threshold = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    self.estimator = eg.Estimator(
      self.tables.sampler(self.criterion),
      self.tables.variables,
      lambda f: [nvi.NestedDivergence(f, sides=side) for side in SIDES],
      NUM_PARTICLES,
    )

  def criterion(self, particles):
    size = nvi.effective_sample_size(particles.log_weights)
    return size < self.threshold * particles.log_weights.shape[0]


@pytest.fixture(scope='module')
def problems():
  return functools.cache(Problem)


@pytest.mark.parametrize(
  'looks_at_state', [pytest.param(False, marks=pytest.mark.slow), True]
)
@pytest.mark.parametrize(
  'f',
  [
    'forward_kl',
    'reverse_kl',
    pytest.param('jensen_shannon', marks=pytest.mark.slow),
  ],
)
def test_gradients(problems, looks_at_state, f):
  problem = problems(looks_at_state)
  tables = problem.tables
  exact = eg.exact(eg.CSISZAR_FUNCTIONS[f], tables.levels, tables.variables)
  # Never resampled, and always.
  for threshold in (0.0, 2.0):
    problem.threshold.assign(threshold)
    estimates = problem.estimator(f, eg.seeds(NUM_SEEDS, seed=1))
    for side, estimate in zip(SIDES, estimates, strict=True):
      eg.assert_agrees(estimate, of_side(exact, side), tables.names)


def stop_source(arguments):
  return {**arguments, 'log_source': tf.stop_gradient(arguments['log_source'])}


def negate_target(arguments):
  return {
    **arguments,
    'log_target_fixed_state': eg.negate(arguments['log_target_fixed_state']),
  }


MUTATIONS = {
  'unchanged': lambda a: a,
  'score fixed': lambda a: eg.change_move(
    a, log_forward_not_reparameterized=tf.stop_gradient
  ),
  'heuristic before fixed': stop_source,
  'heuristic after negated': negate_target,
}


def test_mutations():
  tables = Tables(True)
  exact = eg.exact(tfp.vi.kl_forward, tables.levels, tables.variables)
  expected = np.append(exact.both, exact.value)
  estimator = eg.Estimator(
    tables.sampler(),
    tables.variables,
    lambda f: [eg.Mutant(m, tfp.vi.kl_forward) for m in MUTATIONS.values()],
    num_particles=2**11,
    jit_compile=False,
  )
  estimates = estimator('forward_kl', eg.seeds(24, seed=1))
  for name, estimate in zip(MUTATIONS, estimates, strict=True):
    if name == 'unchanged':
      eg.assert_agrees(estimate, expected, tables.names)
    else:
      with pytest.raises(AssertionError, match='standard errors'):
        eg.assert_agrees(estimate, expected, tables.names)


def test_mutation_of_rows(monkeypatch):
  """Rows of a level too late."""
  rows = densities_lib.GivenDensities._rows

  def late(self, prepared, level, root):
    if isinstance(level, range):
      level = range(level.start + 1, level.stop + 1)
    else:
      level += 1
    return rows(self, prepared, level, root)

  monkeypatch.setattr(densities_lib.GivenDensities, '_rows', late)
  tables = Tables(True)
  exact = eg.exact(tfp.vi.kl_forward, tables.levels, tables.variables)
  estimator = eg.Estimator(
    tables.sampler(),
    tables.variables,
    lambda f: [nvi.forward_kl()],
    num_particles=2**11,
    jit_compile=False,
  )
  estimates = estimator('forward_kl', eg.seeds(24, seed=1))
  with pytest.raises(AssertionError, match='standard errors'):
    eg.assert_agrees(
      estimates[0], np.append(exact.both, exact.value), tables.names
    )


def differentiate(sampler, objective, variables, num_particles=12, seed=3):
  """Gradients and the other fields of an estimate, as arrays."""

  @tf.function(autograph=False)
  def compute():
    estimate, pairs = objective(
      sampler, num_particles, randomness.as_seed(seed)
    )
    gradients = eg.gradients_by(pairs, variables)
    return gradients, estimate

  return tf.nest.map_structure(lambda x: x.numpy(), compute())


# A linear-Gaussian model of two steps, on a grid.

SERIES = [0.4, 1.1]


class Gaussians:
  """A model, its proposals, and a heuristic that looks at the local state."""

  def __init__(self):
    def variable(name, *values):
      return tf.Variable(values, dtype=tf.float64, name=name)

    self.initial = variable('initial', 0.2, -0.1)
    self.first = variable('first', 0.5, 0.2, -0.2)
    self.later = variable('later', 0.4, 0.3, -0.1)
    self.heuristic = variable('heuristic', 0.1, 0.3, -0.2)
    self.variables = [self.initial, self.first, self.later, self.heuristic]
    self.names = [*eg.labels(self.variables), 'loss']

  def log_factor(self, rest, eta, z):
    a, b, c = tf.unstack(self.heuristic)
    log_factor = -0.5 * tf.exp(a) * (b * eta - rest) ** 2
    return log_factor if z is None else log_factor + c * z * (rest - 0.3 * z)

  def sampler(self, num_steps=2):
    def proposal(x, z, eta):
      a, b, log_scale = tf.unstack(self.first if z is None else self.later)
      before = eta if z is None else 0.8 * z + eta
      return tfd.Normal(a * before + b * x, tf.exp(log_scale))

    model = nvi.StateSpaceModel(
      prior=tfd.Normal(double(0.0), 0.8),
      initial_fn=lambda eta: tfd.Normal(eta, double(0.7)),
      transition_fn=lambda z, eta: tfd.Normal(0.8 * z + eta, double(0.6)),
      observation_fn=lambda z, eta: tfd.Normal(z, double(0.9)),
    )
    outer = self

    class Rest(nvi.Heuristic):
      def prepare(self, observations, is_observed, global_state):
        rest = heuristics_lib.sum_of_rest(observations)
        return tf.reshape(rest, [num_steps, 1])

      def log_factor(self, row, global_state, local_state):
        return outer.log_factor(row, global_state, local_state)

    return nvi.StateSpaceSampler(
      model,
      initial_proposal_fn=lambda x, _: tfd.Normal(
        self.initial[0], tf.exp(self.initial[1])
      ),
      proposal_fn=proposal,
      heuristic=Rest(),
      resample_criterion_fn=nvi.ess_below(0.9),
      reparameterize=True,
    )((SERIES * num_steps)[:num_steps])

  def levels(self):
    def grid(rank):
      return eg.mesh(rank, num_nodes=81, radius=7.0)

    log_normal = eg.log_normal
    log = np.log

    def joint(eta, *z):
      total = log_normal(eta, 0.0, log(0.8))
      before = None
      for x, z_k in zip(SERIES, z, strict=False):
        if before is None:
          total += log_normal(z_k, eta, log(0.7))
        else:
          total += log_normal(z_k, 0.8 * before + eta, log(0.6))
        total += log_normal(x, z_k, log(0.9))
        before = z_k
      return total

    def target(eta, *z):
      if len(z) == 2:
        return joint(eta, *z)
      rest = sum(SERIES[len(z) :])
      return joint(eta, *z) + self.log_factor(rest, eta, z[-1] if z else None)

    (eta,) = grid(1)
    levels = [eg.Level(log_normal(eta, *tf.unstack(self.initial)), target(eta))]
    eta, z = grid(2)
    a, b, log_scale = tf.unstack(self.first)
    proposal = log_normal(z, a * eta + b * SERIES[0], log_scale)
    levels.append(eg.Level(target(eta) + proposal, target(eta, z)))
    eta, y, z = grid(3)
    a, b, log_scale = tf.unstack(self.later)
    loc = a * (0.8 * y + eta) + b * SERIES[1]
    proposal = log_normal(z, loc, log_scale)
    levels.append(eg.Level(target(eta, y) + proposal, target(eta, y, z)))
    return levels


@pytest.mark.parametrize(
  'f', ['reverse_kl', pytest.param('forward_kl', marks=pytest.mark.slow)]
)
def test_pathwise_gradients(f):
  model = Gaussians()
  exact = eg.exact(eg.CSISZAR_FUNCTIONS[f], model.levels, model.variables)
  estimator = eg.Estimator(
    model.sampler(),
    model.variables,
    lambda _: [
      nvi.NestedDivergence(
        eg.CSISZAR_FUNCTIONS[f], sides=side, level_by_level=True
      )
      for side in (nvi.Side.FORWARD, nvi.Side.BOTH)
    ],
    NUM_PARTICLES,
  )
  forward, both = estimator(f, eg.seeds(NUM_SEEDS, seed=1))
  eg.assert_agrees(forward, np.append(exact.forward, exact.value), model.names)
  eg.assert_agrees(both, np.append(exact.both, exact.value), model.names)


SCHEDULES = {
  'forward': dict(csiszar_function=tfp.vi.kl_forward),
  'reverse': dict(csiszar_function=tfp.vi.kl_reverse),
  'forward side': dict(
    csiszar_function=tfp.vi.kl_forward, sides=nvi.Side.FORWARD
  ),
  'reverse side': dict(csiszar_function=tfp.vi.pearson, sides=nvi.Side.REVERSE),
}


@pytest.mark.parametrize(
  'model, name',
  [
    pytest.param(
      model,
      name,
      marks=()
      if (model, name) in (('tables', 'forward'), ('gaussians', 'reverse side'))
      else pytest.mark.slow,
    )
    for model in ('tables', 'gaussians')
    for name in SCHEDULES
  ],
)
def test_both_schedules_agree(model, name):
  problem = Tables(True) if model == 'tables' else Gaussians()
  sampler = problem.sampler()
  results = [
    differentiate(
      sampler,
      nvi.NestedDivergence(**SCHEDULES[name], level_by_level=level_by_level),
      problem.variables,
    )
    for level_by_level in (False, True)
  ]
  gradients, _ = results[0]
  assert sum(np.any(g != 0.0) for g in gradients) >= 1
  for x, y in zip(*map(tf.nest.flatten, results), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('name', ['vsmc', 'iwae', 'rws', 'svi'])
def test_bounds_reach_all_networks(name):
  problem = Gaussians()
  sampler = problem.sampler(num_steps=4)
  gradients, estimate = differentiate(
    sampler, getattr(nvi, name)(), problem.variables
  )
  assert all(np.all(np.isfinite(g)) for g in gradients)
  assert np.all(np.isfinite(estimate.loss))
  for variable, gradient in zip(problem.variables, gradients, strict=True):
    # Without resampling the heuristic cancels from the final weight.
    is_free = variable is not problem.heuristic or name == 'vsmc'
    assert np.any(np.abs(gradient) > 1e-9) == is_free


def test_iwae_gradient_is_that_of_its_value():
  """By finite differences, for a seed, with paths through all levels."""
  problem = Gaussians()
  sampler = problem.sampler(num_steps=3)

  @tf.function(autograph=False)
  def loss():
    estimate, _ = nvi.iwae()(sampler, 8, randomness.as_seed(1))
    return estimate.loss

  gradients, _ = differentiate(
    sampler, nvi.iwae(), problem.variables, num_particles=8, seed=1
  )
  step = 1e-5
  for variable, gradient in zip(problem.variables, gradients, strict=True):
    for i in range(variable.shape[0]):
      values = []
      for sign in (1.0, -1.0):
        variable[i].assign(variable[i] + sign * step)
        values.append(loss())
        variable[i].assign(variable[i] - sign * step)
      np.testing.assert_allclose(
        (values[0] - values[1]) / (2.0 * step), gradient[i], atol=1e-6
      )


@pytest.mark.slow
def test_training_on_simulations():
  """Where the families hold the optimum the divergence vanishes.

  A mixture: local states are independent given the global state, so that the
  exact heuristic is a sum over observations, and the posterior of the global
  state is a function of counts.
  """
  random = np.random.default_rng(5)
  prior, initial, observation = (
    tf.constant(0.8 * random.normal(size=[2] * rank), tf.float32)
    for rank in (1, 2, 3)
  )

  def at(table, *indices):
    # XLA has no gather_nd of variables.
    table = tf.convert_to_tensor(table)
    return tf.gather_nd(table, tf.stack(indices, axis=-1))

  model = nvi.StateSpaceModel(
    prior=tfd.Categorical(logits=prior),
    initial_fn=lambda eta: tfd.Categorical(logits=at(initial, eta)),
    transition_fn=lambda z, eta: tfd.Categorical(logits=at(initial, eta)),
    observation_fn=lambda z, eta: tfd.Categorical(
      logits=at(observation, eta, z)
    ),
  )
  bias = tf.Variable(tf.zeros([2]))
  slopes = tf.Variable(tf.zeros([2, 2]))
  proposal = tf.Variable(tf.zeros([2, 2, 2]))
  weights = tf.Variable(tf.zeros([2, 2]))

  def one_hot(x):
    return tf.one_hot(x, 2)

  def proposal_fn(x, z, eta):
    del z
    return tfd.Categorical(
      logits=at(proposal, tf.broadcast_to(x, eta.shape), eta)
    )

  sampler = nvi.StateSpaceSampler(
    model,
    initial_proposal_fn=lambda x, _: tfd.Categorical(
      logits=bias + tf.reduce_sum(one_hot(x), axis=-2) @ slopes
    ),
    proposal_fn=proposal_fn,
    heuristic=nvi.FeatureHeuristic(one_hot, lambda eta: at(weights, eta)),
  )
  _, _, x = model.simulate(4, [512], seed=1)
  data = tf.data.Dataset.from_tensor_slices(x).batch(32, drop_remainder=True)
  history = nvi.fit(
    sampler,
    nvi.forward_kl(level_by_level=True),
    num_particles=16,
    num_steps=400,
    data=data,
    optimizer=tf_keras.optimizers.Adam(0.05),
    seed=2,
    progress=False,
  )
  loss = history.loss.mean(axis=-1)
  assert loss[:10].mean() > 0.1
  assert loss[-10:].mean() < 0.003
  posterior = sampler.sample(x, 16, seed=3)
  sizes = posterior.effective_sample_sizes
  assert np.min(np.mean(sizes, axis=-1)) > 15.8
  # The log normalizer has no variance left.
  exact = sampler.sample(x[:8], 20_000, seed=4).log_normalizer
  np.testing.assert_allclose(posterior.log_normalizer[:8], exact, atol=0.1)

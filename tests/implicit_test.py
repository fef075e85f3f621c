# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Implicit levels: values, gradients and ratios against exact ones.

Nothing here is random but the training of a ratio: draws of a discrete space
are all of its points, as often as their probabilities say, and those of a
normal distribution are its quantiles at even probabilities. Means over them are
sums and integrals, and are compared with sums over the space and over even
grids, or with closed forms.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.internal import randomness
from tfp_nvi.objectives import adversarial

tfd = tfp.distributions

# All of `tfp.vi` that need no function of their own.
CSISZAR_FUNCTIONS = {
  'amari_alpha': functools.partial(tfp.vi.amari_alpha, alpha=0.5),
  'arithmetic_geometric': tfp.vi.arithmetic_geometric,
  'chi_square': tfp.vi.chi_square,
  'dual_csiszar_function': functools.partial(
    tfp.vi.dual_csiszar_function, csiszar_function=tfp.vi.pearson
  ),
  'jeffreys': tfp.vi.jeffreys,
  'jensen_shannon': tfp.vi.jensen_shannon,
  'jensen_shannon_self_normalized': functools.partial(
    tfp.vi.jensen_shannon, self_normalized=True
  ),
  'kl_forward': tfp.vi.kl_forward,
  'kl_reverse': tfp.vi.kl_reverse,
  'log1p_abs': tfp.vi.log1p_abs,
  'modified_gan': tfp.vi.modified_gan,
  'pearson': tfp.vi.pearson,
  'squared_hellinger': tfp.vi.squared_hellinger,
  'symmetrized_csiszar_function': functools.partial(
    tfp.vi.symmetrized_csiszar_function, csiszar_function=tfp.vi.kl_forward
  ),
  't_power': functools.partial(tfp.vi.t_power, t=1.5),
  'total_variation': tfp.vi.total_variation,
  'triangular': tfp.vi.triangular,
}
# Their derivatives are constant in places.
FLAT = ('log1p_abs', 'total_variation')
every_function = pytest.mark.parametrize('name', CSISZAR_FUNCTIONS)
every_strict_function = pytest.mark.parametrize(
  'name', [name for name in CSISZAR_FUNCTIONS if name not in FLAT]
)
SEED = randomness.as_seed(1)
COUNTS_P = np.array([1, 5, 6, 4])
COUNTS_Q = np.array([4, 7, 2, 3])
P, Q = COUNTS_P / 16.0, COUNTS_Q / 16.0


def constant(values):
  return tf.constant(values, tf.float64)


def quantiles(count=20_000):
  """Standard normal draws whose means are integrals."""
  return tfd.Normal(constant(0.0), constant(1.0)).quantile(
    (np.arange(count) + 0.5) / count
  )


class Table(tf.Module):
  """A discriminator of points with a log ratio for each of them."""

  def __init__(self, values):
    super().__init__()
    self.values = tf.Variable(values, dtype=tf.float64, name='table')

  def __call__(self, x):
    return tf.linalg.matvec(x, self.values)


def points(counts):
  """Points as unit vectors, each as often as its count says."""
  x = tf.one_hot(np.repeat(np.arange(len(counts)), counts), 4, dtype=tf.float64)
  return lambda num_particles, seed: x


def discrete_level(table, **kwargs):
  return nvi.ImplicitLevel(
    points(COUNTS_Q), points(COUNTS_P), table, [], **kwargs
  )


def discrete_estimate(f, table, **kwargs):
  chain = nvi.Chain([discrete_level(table, **kwargs)])
  return nvi.f_divergence(f)(chain, 16, SEED)


@every_function
def test_value_of_the_true_ratio_is_the_divergence(name):
  f = CSISZAR_FUNCTIONS[name]
  log_ratio = constant(np.log(P / Q))
  expected = np.sum(Q * f(log_ratio).numpy())
  value = nvi.variational_divergence(
    f, np.repeat(log_ratio, COUNTS_P), np.repeat(log_ratio, COUNTS_Q)
  )
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  if name not in FLAT:
    estimate, _ = discrete_estimate(f, Table(log_ratio))
    np.testing.assert_allclose(estimate.loss, expected, rtol=1e-12)
  # Any other ratio gives less; the mistake is the function for its conjugate.
  for other in np.random.default_rng(1).normal(log_ratio, 0.5, [20, 4]):
    bound = nvi.variational_divergence(
      f, np.repeat(other, COUNTS_P), np.repeat(other, COUNTS_Q)
    )
    assert bound < expected + 1e-12


@every_strict_function
def test_conjugates_are_suprema(name):
  """`f*(t) = sup_u u t - f(u)`, over a fine grid of `log u`."""
  f = CSISZAR_FUNCTIONS[name]
  log_u = constant(np.linspace(-8.0, 8.0, 160_001))
  log_ratio = constant([-2.0, -0.5, 0.0, 0.7, 2.0])
  slope = adversarial._derivative(f, log_ratio)
  found = adversarial._conjugate(f, log_ratio)
  supremum = tf.reduce_max(
    tf.exp(log_u) * slope[:, tf.newaxis] - f(log_u), axis=1
  )
  np.testing.assert_allclose(found, supremum, atol=1e-6)


def test_values_of_gaussians_are_closed_forms():
  shift = 0.6
  target, proposal = quantiles() + shift, quantiles()

  def value(f):
    # log N(x; shift, 1) - log N(x; 0, 1).
    log_ratios = [shift * x - 0.5 * shift**2 for x in (target, proposal)]
    return nvi.variational_divergence(f, *log_ratios)

  for f, expected in {
    tfp.vi.kl_forward: 0.5 * shift**2,
    tfp.vi.kl_reverse: 0.5 * shift**2,
    tfp.vi.squared_hellinger: 2.0 - 2.0 * np.exp(-(shift**2) / 8.0),
    tfp.vi.pearson: np.expm1(shift**2),
    tfp.vi.chi_square: np.expm1(shift**2),
    tfp.vi.total_variation: 2.0 * tfd.Normal(0.0, 1.0).cdf(0.5 * shift).numpy()
    - 1.0,
  }.items():
    np.testing.assert_allclose(value(f), expected, rtol=2e-3)


def test_jensen_shannon_is_the_minimax_value():
  logits = np.array([-1.0, 0.5, 2.0, 0.1])
  d = 1.0 / (1.0 + np.exp(-logits))
  estimate, pairs = discrete_estimate(tfp.vi.jensen_shannon, Table(logits))
  minimax = np.sum(P * np.log(d)) + np.sum(Q * np.log(1.0 - d))
  np.testing.assert_allclose(estimate.loss, minimax, rtol=1e-12)
  # The discriminator ascends it: the derivative is P (1 - d) - Q d.
  ((gradient, _),) = pairs
  np.testing.assert_allclose(-gradient, P * (1.0 - d) - Q * d, rtol=1e-12)


@every_strict_function
def test_discriminators_have_the_gradient_of_the_bound(name):
  """`d/dV (p T(V) - q f*(T(V))) = (p - q exp(V)) dT/dV`."""
  f = CSISZAR_FUNCTIONS[name]
  table = constant([-1.0, 0.5, 1.0, 0.1])
  with tf.GradientTape() as tape:
    tape.watch(table)
    slope = tape.gradient(
      tf.reduce_sum(adversarial._derivative(f, table)), table
    )
  expected = (P - Q * np.exp(table)) * slope
  for kwargs in (
    {},
    # For any divergence of the level, and any factor.
    {
      'csiszar_function': tfp.vi.kl_reverse,
      'discriminator_csiszar_function': f,
      'log_factor_fn': lambda x: 3.0 * x[:, 0],
    },
  ):
    _, ((gradient, _),) = discrete_estimate(f, Table(table), **kwargs)
    np.testing.assert_allclose(-gradient, expected, rtol=1e-9, atol=1e-12)


class Gaussian:
  """Two normal sides and a likelihood, with the true ratio of these values."""

  VALUES = {'loc': 0.3, 'scale': 0.9, 'prior_loc': -0.2, 'slope': 0.5}

  def __init__(self, has_factor, **kwargs):
    self.variables = {
      name: tf.Variable(value, dtype=tf.float64, name=name)
      for name, value in self.VALUES.items()
      if has_factor or name != 'slope'
    }
    self.has_factor = has_factor
    v = self.variables
    self.level = nvi.ImplicitLevel(
      lambda num_particles, seed: v['loc'] + v['scale'] * quantiles(),
      lambda num_particles, seed: v['prior_loc'] + quantiles(),
      self.log_ratio,
      list(v.values()),
      log_factor_fn=self.log_factor if has_factor else None,
      discriminator_trainables=[],
      **kwargs,
    )

  def log_ratio(self, x):
    values = {k: constant(v) for k, v in self.VALUES.items()}
    return tfd.Normal(values['prior_loc'], constant(1.0)).log_prob(
      x
    ) - tfd.Normal(values['loc'], values['scale']).log_prob(x)

  def log_factor(self, x):
    return tfd.Normal(self.variables['slope'] * x, constant(2.0)).log_prob(0.4)

  def exact(self, integrand_fn):
    """The gradient of an integral over an even grid, and its value."""
    x = constant(np.linspace(-12.0, 12.0, 4_001))
    v = self.variables
    with tf.GradientTape() as tape:
      q = tfd.Normal(v['loc'], v['scale']).log_prob(x)
      p = tfd.Normal(v['prior_loc'], constant(1.0)).log_prob(x)
      if self.has_factor:
        p += self.log_factor(x)
      value = (x[1] - x[0]) * tf.reduce_sum(integrand_fn(x, p, q))
    variables = list(v.values())
    return value, tape.gradient(value, variables)

  def estimate(self, f, sides=nvi.Side.BOTH):
    objective = nvi.f_divergence(f, sides=sides)
    estimate, pairs = objective(nvi.Chain([self.level]), 1, SEED)
    found = {v.name: g for g, v in pairs}
    return estimate.loss, [
      found.get(v.name, tf.zeros_like(v)) for v in self.variables.values()
    ]


def divergence(f, x, p, q):
  del x
  return tf.exp(q) * f(p - q)


SMOOTH = ('jensen_shannon', 'kl_forward', 'kl_reverse', 'squared_hellinger')


def gradient_errors(name, has_factor):
  f = CSISZAR_FUNCTIONS[name]
  model = Gaussian(has_factor)
  loss, gradients = model.estimate(f)
  value, expected = model.exact(functools.partial(divergence, f))
  return np.abs(np.array([loss, *gradients]) - [value, *expected])


@pytest.mark.parametrize('has_factor', [False, True])
@pytest.mark.parametrize('name', SMOOTH)
def test_gradients_are_those_of_the_divergence(name, has_factor):
  assert np.max(gradient_errors(name, has_factor)) < 2e-3


MUTANTS = {
  'without the factor': (
    '_factored_derivative',
    lambda f, log_ratio, log_weight: adversarial._derivative(f, log_ratio),
  ),
  'the factor at the ratio alone': (
    '_factored_derivative',
    lambda f, log_ratio, log_weight: (
      tf.exp(log_weight - log_ratio) * adversarial._derivative(f, log_ratio)
    ),
  ),
  'the function for its conjugate': (
    '_conjugate',
    lambda f, log_ratio, clips=True: f(log_ratio),
  ),
}


@pytest.mark.parametrize('mutant', MUTANTS)
def test_mistakes_are_caught(mutant, monkeypatch):
  monkeypatch.setattr(adversarial, *MUTANTS[mutant])
  assert np.max(gradient_errors('squared_hellinger', has_factor=True)) > 0.01


@pytest.mark.parametrize('name', SMOOTH)
def test_sides_have_their_parts_of_the_gradient(name):
  f = CSISZAR_FUNCTIONS[name]
  model = Gaussian(has_factor=True)
  _, expected = model.estimate(f)
  _, forward = model.estimate(f, nvi.Side.FORWARD)
  _, reverse = model.estimate(f, nvi.Side.REVERSE)
  np.testing.assert_allclose(forward[:2], expected[:2], rtol=1e-9)
  np.testing.assert_array_equal(forward[2:], [0.0, 0.0])
  np.testing.assert_array_equal(reverse[:2], [0.0, 0.0])
  np.testing.assert_allclose(reverse[2:], expected[2:], rtol=1e-9)


def test_non_saturating_proposals_maximize_the_derivative():
  model = Gaussian(has_factor=False, non_saturating=True)
  loss, gradients = model.estimate(tfp.vi.jensen_shannon)
  value, _ = model.exact(functools.partial(divergence, tfp.vi.jensen_shannon))
  # Minus the mean of log D under the proposal.
  _, expected = model.exact(
    lambda x, p, q: -tf.exp(q) * tf.math.log_sigmoid(model.log_ratio(x))
  )
  np.testing.assert_allclose(loss, value, atol=1e-4)
  np.testing.assert_allclose(gradients[:2], expected[:2], atol=2e-3)
  _, saturating = Gaussian(has_factor=False).estimate(tfp.vi.jensen_shannon)
  assert np.max(np.abs(np.subtract(gradients[:2], saturating[:2]))) > 0.05


def test_penalty_is_on_the_gradient_at_draws_of_the_target():
  """Of `V = a x^2 / 2` it is `c a^2 E[x^2] / 2`."""

  class Square(tf.Module):
    def __init__(self):
      super().__init__()
      self.a = tf.Variable(0.7, dtype=tf.float64)

    def __call__(self, x):
      return 0.5 * self.a * x[..., 0] ** 2

  def gradient(penalty):
    level = nvi.ImplicitLevel(
      lambda num_particles, seed: constant([[0.1], [0.5]]),
      lambda num_particles, seed: constant([[1.0], [3.0]]),
      Square(),
      [],
      gradient_penalty=penalty,
    )
    _, ((value, _),) = nvi.reverse_kl()(nvi.Chain([level]), 2, SEED)
    return value

  np.testing.assert_allclose(
    gradient(0.3) - gradient(0.0), 0.3 * 0.7 * (1.0 + 9.0) / 2.0, rtol=1e-9
  )


def linear():
  layer = tf_keras.layers.Dense(1, kernel_initializer='zeros')
  layer.build([None, 1])
  return layer


@pytest.mark.parametrize('name', ['jensen_shannon', 'kl_reverse', 'pearson'])
def test_ratio_is_learned(name):
  """`log N(x; 0.8, 1) - log N(x; 0, 1) = 0.8 x - 0.32`.

  The tolerance is about five deviations of the last iterate.
  """
  discriminator = linear()
  level = nvi.ImplicitLevel(
    tfd.MultivariateNormalDiag([0.0], [1.0]),
    tfd.MultivariateNormalDiag([0.8], [1.0]),
    discriminator,
    [],
  )
  nvi.fit(
    nvi.Chain([level]),
    nvi.f_divergence(CSISZAR_FUNCTIONS[name]),
    num_particles=1_000,
    num_steps=400,
    optimizer=tf_keras.optimizers.Adam(
      tf_keras.optimizers.schedules.PolynomialDecay(0.05, 400)
    ),
    steps_per_call=400,
    seed=1,
  )
  kernel, bias = discriminator.get_weights()
  np.testing.assert_allclose([kernel[0, 0], bias[0]], [0.8, -0.32], atol=0.06)
  particles = level.sample(20_000, seed=2)
  assert abs(particles.log_mean_ratio) < 0.05
  np.testing.assert_allclose(particles.mean_log_weight, -0.32, atol=0.05)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_chains_mix_kinds_of_levels(jit_compile):
  loc, shift = tf.Variable(0.5), tf.Variable(0.0)
  discriminator = linear()

  def levels():
    return [
      nvi.Level(tfd.Normal(loc, 1.0), tfd.Normal(0.0, 1.0), [loc]),
      nvi.ImplicitLevel(
        lambda n, seed: shift + randomness.normal([n, 1], seed),
        tfd.MultivariateNormalDiag([1.0], [1.0]),
        discriminator,
        [shift],
        jit_compile=jit_compile,
      ),
    ]

  chain = nvi.Chain(levels)
  estimate, pairs = nvi.reverse_kl()(chain, 50, SEED)
  assert estimate.log_incremental_weights.shape == [2]
  found = {v.ref() for _, v in pairs}
  assert found == {
    v.ref() for v in (loc, shift, *discriminator.trainable_variables)
  }
  assert np.isfinite(estimate.loss)


def test_weights_are_not_taken_for_proper_ones(tmp_path):
  level = discrete_level(Table(np.zeros(4)))
  chain = nvi.Chain([level])
  for objective in (nvi.iwae(), nvi.svi(), nvi.rws()):
    with pytest.raises(
      ValueError, match='`sampler` must be .* is an ImplicitLevel'
    ):
      objective(chain, 4, SEED)
  with pytest.raises(
    ValueError, match='`sampler` must be .* is an ImplicitLevel'
  ):
    nvi.save(chain, tmp_path / 'saved', 4)
  particles = level.sample(4, seed=1)
  assert not particles.is_properly_weighted
  assert not isinstance(particles, nvi.WeightedParticles)


@pytest.mark.parametrize(
  ('change', 'error', 'problem'),
  [
    ({'proposal': 1}, TypeError, '`proposal` must be a tfd.Distribution'),
    ({'target': None}, TypeError, '`target` must be a tfd.Distribution'),
    ({'discriminator': 1}, TypeError, '`discriminator` must be a callable'),
    ({'discriminator': lambda x: x}, TypeError, '`trainable_variables`'),
    ({'gradient_penalty': -1.0}, ValueError, '`gradient_penalty` must be'),
    (
      {'non_saturating': True, 'log_factor_fn': lambda x: x[:, 0]},
      ValueError,
      '`non_saturating` must be False',
    ),
  ],
)
def test_refuses_arguments(change, error, problem):
  normal = tfd.MultivariateNormalDiag([0.0], [1.0])
  arguments = {
    'proposal': normal,
    'target': normal,
    'discriminator': linear(),
    'trainables': [],
  }
  with pytest.raises(error, match=problem):
    nvi.ImplicitLevel(**{**arguments, **change})


@pytest.mark.parametrize('name', FLAT)
def test_refuses_to_learn_a_ratio_that_is_not_unique(name):
  f = CSISZAR_FUNCTIONS[name]
  with pytest.raises(ValueError, match='must be strictly convex'):
    discrete_estimate(f, Table(np.log(P / Q)))
  estimate, _ = discrete_estimate(
    f,
    Table(np.log(P / Q)),
    discriminator_csiszar_function=tfp.vi.jensen_shannon,
  )
  np.testing.assert_allclose(
    estimate.loss, np.sum(Q * f(constant(np.log(P / Q))).numpy()), rtol=1e-12
  )


def test_refuses_what_a_level_cannot_use():
  table = Table(np.zeros(4))
  level = nvi.ImplicitLevel(points(COUNTS_Q), points(COUNTS_P), table, [table])
  with pytest.raises(ValueError, match='must not have variables of the disc'):
    nvi.reverse_kl(sides=nvi.Side.FORWARD)(nvi.Chain([level]), 16, SEED)
  level = discrete_level(lambda x: x, discriminator_trainables=[table])
  with pytest.raises(ValueError, match='no gradient for'):
    nvi.reverse_kl()(nvi.Chain([level]), 16, SEED)
  level = discrete_level(
    lambda x: tf.zeros([16], tf.float64),
    discriminator_trainables=[],
    gradient_penalty=1.0,
  )
  with pytest.raises(ValueError, match='`gradient_penalty` of'):
    nvi.reverse_kl()(nvi.Chain([level]), 16, SEED)
  level = discrete_level(table, log_factor_fn=lambda x: x)
  with pytest.raises(ValueError, match='`log_factor_fn` must return'):
    nvi.reverse_kl()(nvi.Chain([level]), 16, SEED)
  with pytest.raises(ValueError, match='`target_log_ratios` must have'):
    nvi.variational_divergence(tfp.vi.kl_reverse, [0.0], [[0.0]])


def make_training():
  """A generator of normal draws, and a quadratic discriminator."""
  shift = tf.Variable(0.0)
  discriminator = linear()
  discriminator.set_weights([np.array([[0.1]]), np.array([0.0])])
  level = nvi.ImplicitLevel(
    lambda n, seed: shift + randomness.normal([n, 1], seed),
    tfd.MultivariateNormalDiag([1.0], [1.0]),
    discriminator,
    [shift],
  )
  optimizer = nvi.MultiOptimizer(
    [
      (tf_keras.optimizers.Adam(0.02), [shift]),
      (tf_keras.optimizers.SGD(0.2), [discriminator]),
    ]
  )
  return shift, nvi.Chain([level]), optimizer


def test_two_optimizers_train_in_one_loop_and_resume(tmp_path):
  f = nvi.f_divergence(tfp.vi.jensen_shannon)
  shifts = []
  for stops, folder in (([60], None), ([25, 60], tmp_path)):
    for stop in stops:
      shift, chain, optimizer = make_training()
      nvi.fit(
        chain,
        f,
        num_particles=64,
        num_steps=stop,
        optimizer=optimizer,
        seed=3,
        checkpoint_dir=folder,
        steps_per_call=10,
        checkpoint_seconds=0.0,
      )
    shifts.append(shift.numpy())
  assert shifts[0] == shifts[1]
  # Adam moves by its rate in each step at first.
  assert 0.2 < shifts[0] < 1.3


def test_optimizers_have_variables_of_their_own():
  x, y, z = (tf.Variable(1.0, name=name) for name in 'xyz')
  sgd = tf_keras.optimizers.SGD
  optimizer = nvi.MultiOptimizer([(sgd(0.5), [x]), (sgd(0.25), [y])])
  optimizer.build([x, y])
  optimizer.apply_gradients([(tf.constant(1.0), y), (tf.constant(2.0), x)])
  assert x == 0.0 and y == 0.75
  rates = [c['learning_rate'] for c in optimizer.get_config()['optimizers']]
  assert rates == [0.5, 0.25]
  name = '`optimizers_and_trainables` must'
  with pytest.raises(ValueError, match=f"{name} name every variable.*'z"):
    optimizer.apply_gradients([(tf.constant(1.0), z)])
  with pytest.raises(ValueError, match=f"{name} name each variable once.*'x"):
    nvi.MultiOptimizer([(sgd(0.5), [x]), (sgd(0.25), [y, x])])
  with pytest.raises(TypeError, match=f'{name} be a list of pairs'):
    nvi.MultiOptimizer([(sgd, [x])])

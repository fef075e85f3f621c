# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Objectives over tractable densities have the gradients of their divergences.

Divergences are sums over all points of a discrete space, or integrals over even
grids, and differentiated. Nothing here has an unknown normalizer, so that
estimates are unbiased with any number of particles: few are used, and many
members of a batch.

False alarms: seeds are fixed, so that a test passes or fails for good. Over
seeds, a comparison of one number rejects a correct estimator with a probability
of 4e-4 (Student's t, 31 degrees of freedom, 4 standard errors).
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tests import exact_gradients as eg

tfd = tfp.distributions

NUM_PARTICLES = 3
NUM_MEMBERS = 2**11
NUM_SEEDS = 32

every_csiszar_function = pytest.mark.parametrize('f', eg.CSISZAR_PARAMETERS)


def variable(name, values):
  return tf.Variable(values, dtype=tf.float64, name=name)


def divergence(f, log_proposal, log_target, volume=1.0):
  """`E_proposal[f(target / proposal)]`, by summation."""
  log_proposal += tf.zeros_like(log_target)
  return volume * tf.reduce_sum(
    tf.exp(log_proposal) * f(log_target - log_proposal)
  )


def exact(f, model):
  """The sum of a model's divergences, and its gradients as levels name them."""
  gradients = {v.name: tf.zeros_like(v) for v in model.variables}
  value = 0.0
  for trained, divergence_fn in model.divergences():
    with tf.GradientTape() as tape:
      level_value = divergence_fn(eg.CSISZAR_FUNCTIONS[f])
    value += level_value
    for v, g in zip(trained, tape.gradient(level_value, trained), strict=True):
      gradients[v.name] += g
  return eg.concatenate([*gradients.values(), value]).numpy()


class Discrete:
  """Two levels over pairs of points, the second from its other side."""

  def __init__(self, num_members=NUM_MEMBERS):
    random = np.random.default_rng(0)
    self.num_members = num_members
    self.logits = {
      name: variable(name, 0.5 * random.normal(size=shape))
      for name, shape in {
        'p_a': [3],
        'p_b': [3, 4],
        'q_b': [4],
        'q_a': [4, 3],
      }.items()
    }
    self.variables = list(self.logits.values())

  def _kernel(self, name, given=None):
    """The distribution of a point, given the other one."""
    logits = self.logits[name]
    if given is None:
      logits = logits + tf.zeros([self.num_members, 1], tf.float64)
    else:
      logits = tf.gather(logits, given)
    return tfd.Categorical(logits=logits)

  # Each trains but a part of what its sides depend on.
  TRAINED = (('p_a', 'q_b', 'q_a'), ('p_b', 'q_b'))

  def chain(self, everything=False):
    def levels_fn():
      forward = tfd.JointDistributionNamed(
        {
          'a': self._kernel('p_a'),
          'b': lambda a: self._kernel('p_b', a),
        }
      )
      backward = tfd.JointDistributionNamed(
        {
          'b': self._kernel('q_b'),
          'a': lambda b: self._kernel('q_a', b),
        }
      )
      return [
        nvi.Level(
          proposal,
          target,
          self.variables if everything else [self.logits[n] for n in trained],
        )
        for (proposal, target), trained in zip(
          [(forward, backward), (backward, forward)], self.TRAINED, strict=True
        )
      ]

    return nvi.Chain(levels_fn)

  def divergences(self):
    def joints():
      logits = {k: tf.nn.log_softmax(v) for k, v in self.logits.items()}
      forward = logits['p_a'][:, tf.newaxis] + logits['p_b']
      backward = logits['q_b'] + tf.transpose(logits['q_a'])
      return forward, backward

    def value(f, is_swapped):
      return divergence(f, *joints()[:: -1 if is_swapped else 1])

    return [
      (
        [self.logits[n] for n in trained],
        functools.partial(value, is_swapped=i),
      )
      for i, trained in enumerate(self.TRAINED)
    ]


class DeepLatentGaussian:
  """A deep latent Gaussian model of two layers, with what it is inferred by.

  ```none
  p(z_2) p(z_1 | z_2) p(x | z_1)     model
  q(z_1 | x) q(z_2 | z_1)            inference
  pi(z_1)                            intermediate density
  ```

  Every `x` of a batch stands for `NUM_MEMBERS` of them, for tests.
  """

  DATA = (-0.6, 0.2, 0.9)

  def __init__(self, num_members=NUM_MEMBERS):
    # Slope, location and logarithm of the scale.
    self.model_1 = variable('model_1', [0.7, 0.1, np.log(0.9)])
    self.model_x = variable('model_x', [0.8, -0.1, np.log(0.9)])
    self.inference_1 = variable('inference_1', [0.5, 0.1, np.log(1.0)])
    self.inference_2 = variable('inference_2', [0.5, -0.1, np.log(0.85)])
    self.marginal = variable('marginal', [0.1, np.log(1.0)])
    self.variables = [
      self.model_1,
      self.model_x,
      self.inference_1,
      self.inference_2,
      self.marginal,
    ]
    self.num_members = num_members

  @staticmethod
  def kernel(parameters, given):
    slope, loc, log_scale = tf.unstack(parameters)
    return tfd.Normal(slope * given + loc, tf.exp(log_scale))

  def pi(self):
    return tfd.Normal(self.marginal[0], tf.exp(self.marginal[1]))

  def levels(self, x):
    """Three levels, for a mini-batch of shape `[num_images]`."""
    top = tf.zeros([self.num_members], tf.float64)
    prior = tfd.JointDistributionNamed(
      {
        'z2': tfd.Normal(top, tf.ones_like(top)),
        'z1': lambda z2: self.kernel(self.model_1, z2),
      }
    )
    upward = tfd.JointDistributionNamed(
      {
        'z1': self.pi(),
        'z2': lambda z1: self.kernel(self.inference_2, z1),
      }
    )
    encoder = self.kernel(self.inference_1, x)
    inference = tfd.JointDistributionNamed(
      {'z1': encoder, 'z2': lambda z1: self.kernel(self.inference_2, z1)}
    )

    def log_bottom(z1):
      decoder = self.kernel(self.model_x, z1)
      return self.pi().log_prob(z1) + decoder.log_prob(x)

    def log_model(values):
      decoder = self.kernel(self.model_x, values['z1'])
      return prior.log_prob(values) + decoder.log_prob(x)

    return [
      nvi.Level(prior, upward, [self.marginal, self.inference_2]),
      nvi.Level(encoder, log_bottom, [self.inference_1, self.model_x]),
      nvi.Level(inference, log_model, [self.model_1]),
    ]

  def chain(self, everything=False):
    def levels_fn():
      x = tf.repeat(
        tf.constant(self.DATA, tf.float64)[:, tf.newaxis],
        self.num_members,
        axis=1,
      )
      levels = self.levels(x)
      return levels

    return nvi.Chain(levels_fn)

  def divergences(self):
    z1, z2 = eg.mesh(2)
    volume = float(z1[1, 0] - z1[0, 0])

    def log_normal(x, loc, log_scale):
      return eg.log_normal(x, loc, log_scale) - 0.5 * np.log(2.0 * np.pi)

    def log_kernel(parameters, x, given):
      return log_normal(x, parameters[0] * given + parameters[1], parameters[2])

    def first(f):
      return divergence(
        f,
        log_normal(z2, 0.0, 0.0) + log_kernel(self.model_1, z1, z2),
        log_normal(z1, *tf.unstack(self.marginal))
        + log_kernel(self.inference_2, z2, z1),
        volume**2,
      )

    def second(f):
      return tf.add_n(
        [
          divergence(
            f,
            log_kernel(self.inference_1, z1, x),
            log_normal(z1, *tf.unstack(self.marginal))
            + log_kernel(self.model_x, x, z1),
            volume,
          )
          for x in self.DATA
        ]
      )

    def third(f):
      return tf.add_n(
        [
          divergence(
            f,
            log_kernel(self.inference_1, z1, x)
            + log_kernel(self.inference_2, z2, z1),
            log_normal(z2, 0.0, 0.0)
            + log_kernel(self.model_1, z1, z2)
            + log_kernel(self.model_x, x, z1),
            volume**2,
          )
          for x in self.DATA
        ]
      )

    return [
      ([self.marginal, self.inference_2], first),
      ([self.inference_1, self.model_x], second),
      ([self.model_1], third),
    ]


class Problem:
  """A model, its estimators in one compiled function, and exact gradients."""

  def __init__(self, model, objectives_fn, num_particles):
    self.model = model
    self.names = [*eg.labels(model.variables), 'loss']
    self.estimator = eg.Estimator(
      model.chain(),
      model.variables,
      objectives_fn,
      num_particles,
      num_members=model.num_members,
    )

  def assert_agrees(self, f, seed=1):
    for estimate in self.estimator(f, eg.seeds(NUM_SEEDS, seed)):
      eg.assert_agrees(estimate, exact(f, self.model), self.names)


def make_problem(model):
  return Problem(
    model,
    lambda f: [
      nvi.NestedDivergence(f),
      nvi.NestedDivergence(f, baseline=False),
      nvi.NestedDivergence(f, reparameterize=False),
      nvi.NestedDivergence(f),
    ],
    # The last one has no other particle for a baseline.
    num_particles=[3, 3, 3, 1],
  )


@pytest.fixture(scope='module')
def discrete():
  return make_problem(Discrete())


@pytest.fixture(scope='module')
def deep_latent_gaussian():
  return make_problem(DeepLatentGaussian())


@every_csiszar_function
def test_gradients_of_discrete_levels(discrete, f):
  discrete.assert_agrees(f)


@pytest.mark.parametrize(
  'f',
  [
    pytest.param(name, marks=() if name == 'forward_kl' else pytest.mark.slow)
    for name in eg.CSISZAR_FUNCTIONS
  ],
)
def test_gradients_of_continuous_levels(deep_latent_gaussian, f):
  deep_latent_gaussian.assert_agrees(f)


MUTATIONS = {
  'unchanged': lambda a: a,
  'score kept': lambda a: eg.change_move(
    a, log_forward_fixed_sample=tf.zeros_like
  ),
  'no second derivative': lambda a: {
    **a,
    'sample_gradients_fn': lambda: tf.nest.map_structure(
      tf.zeros_like, a['sample_gradients_fn']()
    ),
  },
  'target negated': lambda a: {
    **a,
    'log_target': eg.negate(a['log_target']),
  },
  'normalizer unknown': lambda a: {**a, 'is_normalized': False},
}


def test_mutations():
  # Comparisons tell a correct estimator from wrong ones.
  model = DeepLatentGaussian()
  estimator = eg.Estimator(
    model.chain(),
    model.variables,
    lambda f: [eg.Mutant(m, f) for m in MUTATIONS.values()],
    NUM_PARTICLES,
    num_members=model.num_members,
  )
  assert_mutants_fail(model, estimator, MUTATIONS)


def assert_mutants_fail(model, estimator, names):
  names_of_elements = [*eg.labels(model.variables), 'loss']
  expected = exact('forward_kl', model)
  eg.assert_mutants_fail(
    names,
    estimator('forward_kl', eg.seeds(NUM_SEEDS, seed=1)),
    lambda estimate: eg.assert_agrees(estimate, expected, names_of_elements),
  )


def test_mutations_of_scores():
  model = Discrete()
  mutations = {
    'unchanged': lambda a: a,
    'score fixed': lambda a: eg.change_move(
      a, log_forward_not_reparameterized=tf.stop_gradient
    ),
    'score negated': lambda a: eg.change_move(
      a, log_forward_not_reparameterized=eg.negate
    ),
  }
  estimator = eg.Estimator(
    model.chain(),
    model.variables,
    lambda f: [eg.Mutant(m, f) for m in mutations.values()],
    NUM_PARTICLES,
    num_members=model.num_members,
  )
  assert_mutants_fail(model, estimator, mutations)


def test_levels_train_what_they_name():
  # With every variable of its sides, a level moves more than it should.
  model = Discrete()
  estimator = eg.Estimator(
    model.chain(everything=True),
    model.variables,
    lambda f: [nvi.NestedDivergence(f)],
    NUM_PARTICLES,
    num_members=model.num_members,
  )
  assert_mutants_fail(model, estimator, ['everything'])


@pytest.mark.parametrize('sides', [nvi.Side.FORWARD, nvi.Side.REVERSE])
def test_sides(sides):
  # Of the second level, one side alone has each kind of parameter.
  model = Discrete(num_members=16)
  estimate, pairs = nvi.reverse_kl(sides=sides)(
    model.chain(everything=True), 5, tf.constant([1, 2])
  )
  gradients = eg.gradients_by(pairs, model.variables)
  both = nvi.reverse_kl(reparameterize=False)
  estimate, pairs = both(model.chain(everything=True), 5, tf.constant([1, 2]))
  total = eg.gradients_by(pairs, model.variables)
  other = nvi.reverse_kl(sides=nvi.Side.BOTH & ~sides)
  estimate, pairs = other(model.chain(everything=True), 5, tf.constant([1, 2]))
  rest = eg.gradients_by(pairs, model.variables)
  for a, b, c in zip(gradients, rest, total, strict=True):
    assert np.abs(a).max() > 1e-3
    np.testing.assert_allclose(a + b, c, rtol=1e-6, atol=1e-9)


def test_compiled_levels_are_the_same():
  model = DeepLatentGaussian(num_members=4)
  x = tf.constant([4 * [0.3], 4 * [-0.2]], tf.float64)

  def chain(jit_compile):
    def levels_fn():
      levels = model.levels(x)
      # What this one trains is in its sides alone.
      levels[2].jit_compile = jit_compile
      return levels

    return nvi.Chain(levels_fn)

  results = []
  for jit_compile in (False, True):
    estimate, pairs = nvi.f_divergence(tfp.vi.pearson)(
      chain(jit_compile), 3, tf.constant([1, 2])
    )
    gradients = eg.gradients_by(pairs, model.variables)
    results.append([*gradients, *estimate])
  for a, b in zip(*results, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_levels_that_are_compiled_together():
  # Each has draws and gradients of its own, however many are compiled.
  locs = [tf.Variable(x) for x in (0.3, -0.2, 0.1)]

  def estimate(compiled):
    levels = [
      nvi.Level(
        tfd.Normal(loc, 1.0), tfd.Normal(0.0, 2.0), [loc], jit_compile=c
      )
      for loc, c in zip(locs, compiled, strict=True)
    ]
    result, pairs = nvi.reverse_kl()(nvi.Chain(levels), 5, tf.constant([1, 2]))
    return [*eg.gradients_by(pairs, locs), *result]

  expected = estimate([False, False, False])
  for compiled in ([True, False, True], [True, True, True]):
    for a, b in zip(estimate(compiled), expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_compiled_level_makes_its_variables():
  def estimate(jit_compile):
    loc = tf.Variable(0.5)
    network = tf_keras.layers.Dense(1, kernel_initializer='ones')

    def target(z):
      return tfd.Normal(
        loc + network(z[..., tf.newaxis])[..., 0], 1.0
      ).log_prob(0.0)

    levels = [
      nvi.Level(tfd.Normal(0.0, 1.0), target, [loc], jit_compile=jit_compile)
    ]
    result, pairs = nvi.reverse_kl()(nvi.Chain(levels), 7, tf.constant([1, 2]))
    return eg.gradients_by(pairs, [loc])[0]

  np.testing.assert_allclose(estimate(True), estimate(False), rtol=1e-5)


def test_divergence_of_each_level():
  # f of the objective, unless the level has its own: from the samples of the
  # other side, the forward KL divergence is the dual of the reverse one.
  p, q = tfd.Normal(0.0, 1.0), tfd.Normal(0.5, 1.0)
  loc = tf.Variable(0.5)

  def target(x):
    return tfd.Normal(loc, 1.0).log_prob(x)

  def dual(log_u):
    return tfp.vi.dual_csiszar_function(log_u, tfp.vi.kl_forward)

  def loss(level):
    return nvi.forward_kl()(nvi.Chain([level]), 1_000, tf.constant([1, 2]))[
      0
    ].loss

  x = q.sample(10, seed=(1, 2))
  np.testing.assert_allclose(
    dual(p.log_prob(x) - q.log_prob(x)),
    tfp.vi.kl_reverse(p.log_prob(x) - q.log_prob(x)),
    rtol=1e-5,
  )
  by_level = loss(nvi.Level(p, target, [loc], csiszar_function=dual))
  by_objective = loss(nvi.Level(p, target, [loc]))
  # KL(p || q) = KL(q || p) = 1 / 8; the standard errors are 0.016.
  assert abs(by_level - 0.125) < 0.08 and abs(by_objective - 0.125) < 0.08
  assert by_level != by_objective


class TestDeepLatentGaussian:
  """The model is learned in `fit`, from mini-batches."""

  def test_learns(self):
    # Data with standard deviation 2: no more can be known of them than their
    # variance, which the model has as slope_x^2 var(z_1) + scale_x^2.
    model = DeepLatentGaussian(num_members=1)
    random = np.random.default_rng(0)
    batches = random.normal(size=[50, 200, 1]) * 2.0 + 1.0
    data = tf.data.Dataset.from_tensor_slices(batches)
    before = self.log_likelihood(model, batches)
    history = nvi.fit(
      lambda x: nvi.Chain(lambda: model.levels(x)),
      nvi.reverse_kl(),
      num_particles=1,
      num_steps=2_000,
      data=data,
      optimizer=tf_keras.optimizers.Adam(0.01),
      seed=1,
      progress=False,
    )
    assert history.log_incremental_weights.shape == (2_000, 3)
    after = self.log_likelihood(model, batches)
    best = np.mean(tfd.Normal(batches.mean(), batches.std()).log_prob(batches))
    assert before < best - 0.4
    assert best - 0.05 < after <= best + 1e-6

  @staticmethod
  def log_likelihood(model, x):
    slope_1, loc_1, log_scale_1 = model.model_1.numpy()
    slope_x, loc_x, log_scale_x = model.model_x.numpy()
    variance = slope_1**2 + np.exp(2.0 * log_scale_1)
    variance = slope_x**2 * variance + np.exp(2.0 * log_scale_x)
    loc = slope_x * loc_1 + loc_x
    return np.mean(tfd.Normal(loc, np.sqrt(variance)).log_prob(x))


class TestSequenceBounds:
  """Bounds of importance samplers, which are chains of one level."""

  def test_iwae(self):
    # log p(x) = log N(x; 0, 2) for z ~ N(0, 1), x ~ N(z, 1): exact with q the
    # posterior, whatever the samples.
    x = tf.constant([0.3, -1.2], tf.float64)
    slope = variable('slope', 0.5)
    one = tf.constant(1.0, tf.float64)

    def log_model(z):
      return tfd.Normal(0.0 * one, one).log_prob(z) + tfd.Normal(
        z, one
      ).log_prob(x)

    def chain():
      return nvi.Chain(
        lambda: [
          nvi.Level(tfd.Normal(slope * x, np.sqrt(0.5)), log_model, [slope])
        ]
      )

    for objective in (nvi.iwae(), nvi.svi(), nvi.rws()):
      estimate, _ = objective(chain(), 3, tf.constant([1, 2]))
      expected = tfd.Normal(0.0 * one, np.sqrt(2.0)).log_prob(x)
      np.testing.assert_allclose(estimate.log_normalizer, sum(expected))
      np.testing.assert_allclose(estimate.loss, -sum(expected))
      np.testing.assert_allclose(estimate.effective_sample_size, 3.0)

  def test_rws_moves_both_sides_up(self):
    # Self-normalized with one particle: d log p, and d log q, at the sample.
    loc_p, loc_q = tf.Variable(0.3), tf.Variable(-0.2)
    level = nvi.Level(
      tfd.Normal(loc_q, 1.0),
      lambda z: tfd.Normal(loc_p, 1.0).log_prob(z),
      [loc_p, loc_q],
    )
    estimate, pairs = nvi.rws()(nvi.Chain([level]), 1, tf.constant([1, 2]))
    up_p, up_q = (-g for g in eg.gradients_by(pairs, [loc_p, loc_q]))
    # Of normal densities with scale one: z - loc, for the same z.
    np.testing.assert_allclose(up_p + loc_p, up_q + loc_q, rtol=1e-5)

  def test_several_levels(self):
    level = nvi.Level(tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0), [])
    with pytest.raises(
      ValueError, match='`sampler` must .* single level.*got 2'
    ):
      nvi.iwae()(nvi.Chain([level, level]), 3, tf.constant([1, 2]))


class TestErrors:
  """Errors name the argument."""

  normal = tfd.Normal(0.0, 1.0)

  @pytest.mark.parametrize(
    ('arguments', 'problem'),
    [
      ({'proposal': lambda z: z}, '`proposal` must be a tfd.Distribution'),
      ({'target': 3.0}, '`target` must be a tfd.Distribution'),
      ({'csiszar_function': 2}, '`csiszar_function` must be a callable'),
      ({'trainables': None}, '`trainables` must be a list'),
      ({'trainables': [3.0]}, r'`trainables\[0\]` must be a tf.Variable'),
      ({'jit_compile': 'no'}, '`jit_compile` must be a Python bool; got'),
    ],
  )
  def test_level(self, arguments, problem):
    arguments = {
      'proposal': self.normal,
      'target': self.normal,
      'trainables': [],
      **arguments,
    }
    with pytest.raises(TypeError, match=problem):
      nvi.Level(**arguments)

  def test_chain(self):
    with pytest.raises(TypeError, match='`levels` must be a list'):
      nvi.Chain(3)
    with pytest.raises(TypeError, match='`levels` must be a list'):
      nvi.Chain(lambda: 3).levels()
    with pytest.raises(TypeError, match=r'`levels\[0\]` must be a Level'):
      nvi.Chain([self.normal])
    with pytest.raises(ValueError, match='`levels` must have at least 1'):
      nvi.Chain([])

  def estimate(self, *args, **kwargs):
    chain = nvi.Chain([nvi.Level(*args, **kwargs)])
    return nvi.reverse_kl()(chain, 2, tf.constant([1, 2]))

  def test_shapes_of_sides(self):
    with pytest.raises(
      ValueError, match=r"`target` of 'z' must .* \[2, 3\].*got \[2\]"
    ):
      self.estimate(
        tfd.Normal([0.0, 0.0, 0.0], 1.0),
        lambda z: tf.reduce_sum(z, axis=-1),
        [],
        name='z',
      )

  def test_unrelated_variable(self):
    loc = tf.Variable(0.0, name='loc')
    other = tf.Variable(1.0, name='other')
    with pytest.raises(
      ValueError, match=r"`trainables\[1\]` of 'level' must .*'other:0'"
    ):
      self.estimate(self.normal, tfd.Normal(loc, 1.0), [loc, other])

  def test_variable_used_before_a_compiled_level(self):
    loc = tf.Variable(0.0, name='loc')

    def levels_fn():
      target = tfd.Normal(2.0 * loc, 1.0)
      return [nvi.Level(self.normal, target, [loc], jit_compile=True)]

    with pytest.raises(ValueError, match="compiled by itself.*'loc:0'"):
      nvi.reverse_kl()(nvi.Chain(levels_fn), 2, tf.constant([1, 2]))

  def test_nothing_to_train(self):
    with pytest.raises(ValueError, match='nothing to train'):
      nvi.fit(
        nvi.Chain([nvi.Level(self.normal, self.normal, [])]),
        nvi.reverse_kl(),
        num_particles=2,
        num_steps=1,
        jit_compile=False,
      )


@pytest.mark.parametrize('jit_compile', [False, True])
def test_what_is_reported_of_levels(jit_compile):
  # Weights of a level are all exp(shift).
  shifts = [tf.Variable(0.5), tf.Variable(-0.2)]

  def level(shift):
    proposal = tfd.Normal(tf.zeros([3]), 1.0)
    return nvi.Level(
      proposal,
      lambda x: proposal.log_prob(x) + shift,
      [shift],
      jit_compile=jit_compile,
    )

  estimate, _ = nvi.reverse_kl()(
    nvi.Chain([level(x) for x in shifts]), 7, seed=tf.constant([1, 2])
  )
  np.testing.assert_allclose(
    estimate.log_incremental_weights, [3 * 0.5, 3 * -0.2], rtol=1e-5
  )
  np.testing.assert_allclose(estimate.log_normalizer, 3 * 0.3, rtol=1e-5)
  np.testing.assert_allclose(estimate.loss, -3 * 0.3, rtol=1e-5)
  np.testing.assert_allclose(estimate.effective_sample_size, 7.0, rtol=1e-5)

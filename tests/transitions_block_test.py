# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Updates of a block keep particles properly weighted, and are learned.

The model is a joint distribution of two variables of three and four values, so
that normalizers, expectations and divergences are sums. Its kernels are not its
conditional distributions. Tests of a law have fixed seeds; over seeds, each
would reject a correct transition with a probability of at most 6e-5 for each
number that is compared.
"""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tests import exact_gradients as eg
from tfp_nvi.internal import randomness

tfd = tfp.distributions

SEED = randomness.as_seed(1)
SIZES = {'a': 3, 'b': 4}
ORDER = ('a', 'b', 'a')


class Table:
  """Logits over a matrix that two parameters move along fixed directions."""

  def __init__(self, name, shape, seed):
    rng = np.random.default_rng(seed)
    self._base = tf.constant(0.8 * rng.normal(size=shape))
    self._directions = tf.constant(rng.normal(size=[*shape, 2]))
    self.variable = tf.Variable([0.1, -0.1], dtype=tf.float64, name=name)

  def __call__(self):
    return self._base + tf.linalg.matvec(self._directions, self.variable)


class Model:
  """A density over pairs, and a kernel for each of the two.

  One of the two is a float, so that there is a dtype for log densities.
  """

  event_shape = {'a': tf.TensorShape([]), 'b': tf.TensorShape([])}
  dtype = {'a': tf.int32, 'b': tf.float64}

  def __init__(self):
    rng = np.random.default_rng(1)
    self.log_joint = tf.constant(1.5 * rng.normal(size=[3, 4]))
    # Rows are for values of the other variable.
    self.kernels = {'a': Table('a', [4, 3], 2), 'b': Table('b', [3, 4], 3)}
    self.initial_logits = {
      name: tf.constant(rng.normal(size=[size])) for name, size in SIZES.items()
    }

  def log_prob(self, z):
    indices = tf.stack([z['a'], tf.cast(z['b'], tf.int32)], axis=-1)
    return tf.gather_nd(self.log_joint, indices)

  def kernel(self, name):
    def kernel_fn(z):
      assert z[name] is None
      other = z['b' if name == 'a' else 'a']
      logits = tf.gather(self.kernels[name](), tf.cast(other, tf.int32))
      return tfd.Categorical(
        logits, dtype=tf.int32 if name == 'a' else tf.float64
      )

    return kernel_fn

  def proposal(self):
    return tfd.JointDistributionNamed(
      {
        'a': tfd.Categorical(self.initial_logits['a']),
        'b': tfd.Categorical(self.initial_logits['b'], dtype=tf.float64),
      }
    )

  def sampler(self, transition_class=nvi.BlockTransition, **kwargs):
    return nvi.NestedSampler(
      nvi.ExplicitDensities([self] * (1 + len(ORDER))),
      [transition_class(name, self.kernel(name)) for name in ORDER],
      initial_proposal=self.proposal(),
      **kwargs,
    )


class NoReverse(nvi.BlockTransition):
  """Leaves the reverse kernel out."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(log_reverse=tf.zeros_like(move.log_reverse))


class ReverseAtNewValue(nvi.BlockTransition):
  """Takes the reverse kernel at the new value, not at the old one."""

  def propose(self, *args, **kwargs):
    move = super().propose(*args, **kwargs)
    return move._replace(log_reverse=move.log_forward)


def weighting_scores(transition_class, criterion):
  """Standardized errors of E[w] and E[w f(z)], of runs of four particles."""
  model = Model()
  sampler = model.sampler(transition_class, resample_criterion_fn=criterion)
  run = sampler.run(4, SEED, [200_000])
  weights = np.exp(run.particles.log_weights)
  joint = np.exp(model.log_joint)
  indicators = [
    np.ones_like(weights),
    run.particles.state['a'].numpy() == 1,
    run.particles.state['b'].numpy() == 2.0,
  ]
  expected = [joint.sum(), joint[1].sum(), joint[:, 2].sum()]
  estimates = np.stack([np.mean(weights * f, axis=0) for f in indicators], -1)
  return np.abs(eg.standard_scores(estimates, np.array(expected)))


@pytest.mark.parametrize('criterion', [nvi.never, nvi.always])
def test_particles_are_properly_weighted(criterion):
  assert np.all(weighting_scores(nvi.BlockTransition, criterion) < 4.0)


@pytest.mark.parametrize('mutant', [NoReverse, ReverseAtNewValue])
def test_wrong_reverse_kernels_are_noticed(mutant):
  assert np.all(weighting_scores(mutant, nvi.always) > 6.0)


def exact_levels(model):
  """The levels of the sampler over all triples (a, b, new value)."""
  log_joint = model.log_joint
  levels = []
  for name in ORDER:
    log_kernel = tf.nn.log_softmax(model.kernels[name]())
    joint = tf.transpose(log_joint) if name == 'a' else log_joint
    # Axes: the rest, the old value, the new one.
    levels.append(
      eg.Level(
        joint[:, :, tf.newaxis] + log_kernel[:, tf.newaxis],
        joint[:, tf.newaxis] + log_kernel[:, :, tf.newaxis],
      )
    )
  return levels


MUTATIONS = {
  'unchanged': lambda a: a,
  'score negated': lambda a: eg.change_move(
    a, log_forward_not_reparameterized=eg.negate
  ),
  'reverse kernel negated': lambda a: eg.change_move(a, log_reverse=eg.negate),
}


def test_gradients():
  """Gradients of both sides, and mutants of them, against enumeration."""
  model = Model()
  variables = [kernel.variable for kernel in model.kernels.values()]
  csiszar_function = tfp.vi.kl_forward
  exact = eg.exact(csiszar_function, lambda: exact_levels(model), variables)
  initial = initial_divergence(model)
  names = [*eg.labels(variables), 'loss']
  # The kernels are in both sides, and cancel in part.
  assert np.all(np.abs(exact.forward - exact.both) > 1e-3)
  estimator = eg.Estimator(
    model.sampler(),
    variables,
    lambda f: [
      nvi.NestedDivergence(f, sides=nvi.Side.FORWARD),
      *(eg.Mutant(mutation, f) for mutation in MUTATIONS.values()),
    ],
    num_particles=2**12,
    jit_compile=False,
  )
  forward, *mutants = estimator('forward_kl', eg.seeds(32, seed=1))
  value = exact.value + initial
  eg.assert_agrees(forward, np.append(exact.forward, value), names)
  eg.assert_mutants_fail(
    MUTATIONS,
    mutants,
    lambda estimate: eg.assert_agrees(
      estimate, np.append(exact.both, value), names
    ),
  )


def initial_divergence(model):
  """The divergence of the joint density from the initial proposal."""
  a, b = (tf.nn.log_softmax(x) for x in model.initial_logits.values())
  log_hat = a[:, tf.newaxis] + b
  log_check = tf.nn.log_softmax(tf.reshape(model.log_joint, [-1]))
  log_ratio = log_check - tf.reshape(log_hat, [-1])
  return tf.reduce_sum(tf.exp(log_check) * log_ratio).numpy()


# Continuous blocks.


def log_normals(z):
  """x is standard normal, and y normal about it with variance one half."""
  return tf.reduce_sum(
    tfd.Normal(tf.constant(0.0, tf.float64), 1.0).log_prob(z['x']), -1
  ) + tf.reduce_sum(tfd.Normal(z['x'], np.sqrt(0.5)).log_prob(z['y']), -1)


def conditional_of_x(z):
  # Precisions 1 and 2: mean 2 y / 3, variance 1 / 3.
  scale = tf.fill([2], tf.constant(np.sqrt(1.0 / 3.0)))
  return tfd.MultivariateNormalDiag(2.0 * z['y'] / 3.0, scale)


def test_conditional_distributions_leave_weights_alone():
  """With those of a Gaussian model, a move is a step of Gibbs sampling."""
  y = {
    name: tf.random.stateless_normal([50, 3, 2], [0, i], dtype=tf.float64)
    for i, name in enumerate('xy')
  }
  transition = nvi.BlockTransition('x', conditional_of_x)
  move = transition.propose(0, y, SEED, None)
  np.testing.assert_array_equal(move.state['y'], y['y'])
  assert np.all(move.state['x'] != y['x'])
  np.testing.assert_allclose(
    log_normals(move.state) + move.log_reverse,
    log_normals(y) + move.log_forward,
    rtol=1e-10,
  )
  assert len(move.samples) == 1
  again = transition.replay(0, y, move.record, None)
  np.testing.assert_array_equal(move.state['x'], again.state['x'])


def test_gradient_through_the_samples():
  """A reparameterized block is differentiable, and the rest is not touched."""
  loc = tf.Variable([0.5, 0.5], dtype=tf.float64)
  transition = nvi.BlockTransition(
    'x', lambda z: tfd.MultivariateNormalDiag(z['y'] + loc)
  )
  y = {'x': tf.zeros([4, 2], tf.float64), 'y': tf.ones([4, 2], tf.float64)}
  with tf.GradientTape(persistent=True) as tape:
    move = transition.propose(0, y, SEED, None)
    total = tf.reduce_sum(move.state['x'])
    rest = tf.reduce_sum(move.state['y'])
  np.testing.assert_array_equal(tape.gradient(total, loc), [4.0, 4.0])
  assert tape.gradient(rest, loc) is None


# Structures.

Pair = collections.namedtuple('Pair', ['x', 'y', 'w'])
NORMAL = tfd.Normal(tf.zeros([5]), 1.0)


def parts(structure):
  """A state of that structure, with parts 0, 1 and 2."""
  return tf.nest.pack_sequence_as(
    structure, [tf.fill([5], float(i)) for i in range(3)]
  )


@pytest.mark.parametrize(
  'structure, block, kernel, changed',
  [
    (dict(w=0, x=0, y=0), 'x', NORMAL, [1]),
    (Pair(0, 0, 0), 'y', NORMAL, [1]),
    ([0, 0, 0], 2, NORMAL, [2]),
    ((0, 0, 0), 0, NORMAL, [0]),
    (
      dict(w=0, x=0, y=0),
      ['y', 'w'],
      tfd.JointDistributionNamed(dict(w=NORMAL, y=lambda w: NORMAL)),
      [0, 2],
    ),
    (
      [0, 0, 0],
      [2, 0],
      tfd.JointDistributionSequential([NORMAL, lambda x: NORMAL]),
      [0, 2],
    ),
  ],
  ids=['dict', 'named tuple', 'list', 'tuple', 'several keys', 'several'],
)
def test_structures(structure, block, kernel, changed):
  y = parts(structure)

  def kernel_fn(z):
    values = tf.nest.flatten(z if isinstance(z, (list, dict)) else tuple(z))
    assert [i for i, x in enumerate(values) if x is None] == changed
    return kernel

  move = nvi.BlockTransition(block, kernel_fn).propose(0, y, SEED, None)
  tf.nest.assert_same_structure(move.state, y)
  pairs = zip(tf.nest.flatten(move.state), tf.nest.flatten(y), strict=True)
  assert [i for i, (new, old) in enumerate(pairs) if np.any(new != old)] == (
    changed
  )
  np.testing.assert_allclose(
    move.log_reverse,
    sum(NORMAL.log_prob(tf.nest.flatten(y)[i]) for i in changed),
    rtol=1e-6,
  )


# Bad input.


def path_of(*parts):
  joint = tfd.JointDistributionSequential(list(parts))
  return nvi.ExplicitDensities([joint, joint])


@pytest.mark.parametrize('block', [None, 0.5, True, ['x', 1], {'x'}], ids=repr)
def test_block_of_a_wrong_kind(block):
  with pytest.raises(TypeError, match='`block` must be the key or index'):
    nvi.BlockTransition(block, lambda z: NORMAL)


@pytest.mark.parametrize('block', [[], -1, ['x', 'x'], [0, -1]], ids=repr)
def test_block_that_is_wrong(block):
  with pytest.raises(ValueError, match='`block` must name parts of a state'):
    nvi.BlockTransition(block, lambda z: NORMAL)


@pytest.mark.parametrize('block', ['x', 2, [0, 2]], ids=repr)
def test_block_that_is_not_there(block):
  densities = path_of(tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0))
  with pytest.raises(ValueError, match=r'which are \[0, 1\]; got'):
    nvi.NestedSampler(densities, nvi.BlockTransition(block, lambda z: NORMAL))


def test_state_without_parts():
  normal = tfd.Normal(0.0, 1.0)
  densities = nvi.ExplicitDensities([normal, normal])
  with pytest.raises(ValueError, match='have no names, as it is one Tensor'):
    nvi.NestedSampler(densities, nvi.BlockTransition(0, lambda z: NORMAL))


def test_kernel_that_looks_at_the_block():
  transition = nvi.BlockTransition('x', lambda z: tfd.Normal(z['x'] + 1.0, 1.0))
  with pytest.raises(TypeError, match='NoneType'):
    transition.propose(0, {'x': tf.zeros([3])}, SEED, None)


def test_kernel_of_another_shape():
  transition = nvi.BlockTransition('x', lambda z: tfd.Normal(0.0, 1.0))
  with pytest.raises(ValueError, match='`kernel_fn` must lead to states of'):
    transition.propose(0, {'x': tf.zeros([3])}, SEED, None)
  with pytest.raises(TypeError, match='`kernel_fn` must return a tfd.Distrib'):
    nvi.BlockTransition('x', lambda z: 3.0).propose(
      0, {'x': tf.zeros([3])}, SEED, None
    )


@pytest.mark.parametrize(
  'kernel_fn, problem',
  [
    (
      lambda z: tfd.Poisson(tf.exp(z[1])),
      'over the real values of the block',
    ),
    (
      lambda z: tfd.Uniform(z[1] - 0.01, z[1] + 0.01),
      'a positive density wherever the densities have one',
    ),
  ],
  ids=['discrete', 'narrow'],
)
def test_kernel_over_another_support(kernel_fn, problem):
  densities = path_of(tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0))
  with pytest.raises(ValueError, match=f'`kernel_fn` must .*{problem}'):
    nvi.NestedSampler(densities, nvi.BlockTransition(0, kernel_fn))

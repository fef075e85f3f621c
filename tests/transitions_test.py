# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Moves have the log densities they state, and can be made again.

Expected log densities are computed with SciPy, Jacobians of flows by automatic
differentiation of the state. That particles stay properly weighted under each
transition is tested with the sampler.

The tests of a law have fixed seeds; over seeds, each would reject a correct
kernel with a probability of at most 1e-6 (`ALARM`, divided among the statistics
of a test).
"""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import randomness

tfb = tfp.bijectors
tfd = tfp.distributions

ALARM = 1e-6
SEED = randomness.as_seed(1)
NUM_PARTICLES = 6


def double(x):
  return tf.constant(x, tf.float64)


def diagonal(loc, scale):
  return tfd.MultivariateNormalDiag(double(loc), double(scale))


def make_path(num_densities=4):
  return nvi.GeometricPath(
    diagonal([0.0, 0.0], [2.0, 2.0]),
    diagonal([1.0, 0.0], [1.0, 1.0]),
    num_densities,
  )


def randomize(module, scale=0.3):
  """Gives all variables values that are not special."""
  rng = np.random.default_rng(0)
  for variable in module.trainable_variables:
    variable.assign(scale * rng.normal(size=variable.shape))
    # Masked networks keep their masks as constraints.
    if getattr(variable, 'constraint', None) is not None:
      variable.assign(variable.constraint(variable))
  return module


def states(*batch_shape):
  return double(
    np.random.default_rng(3).normal(size=[NUM_PARTICLES, *batch_shape, 2])
  )


def log_target(x):
  return -0.5 * tf.reduce_sum(x**2, axis=-1)


def level_of_noise(noise, level):
  return tf.nest.map_structure(lambda x: x[level], noise)


def propose(transition, level, previous, target=log_target, **kwargs):
  """A move with noise drawn as a sampler does."""
  batch_shape = tf.nest.flatten(previous)[0].shape[:-1].as_list()
  noise = transition.draw_noise(batch_shape, SEED)
  return transition.propose(
    level, previous, level_of_noise(noise, level), target, **kwargs
  )


def assert_moves_equal(a, b, rtol=1e-10):
  """Equal in everything but the record."""
  for field in a._fields:
    if field != 'record':
      tf.nest.map_structure(
        lambda x, y, field=field: np.testing.assert_allclose(
          x, y, rtol=rtol, atol=1e-12, err_msg=field
        ),
        getattr(a, field),
        getattr(b, field),
      )


def normal_log_prob(x, loc, scale):
  return scipy.stats.norm.logpdf(x, loc, scale).sum(axis=-1)


# States as vectors.


def test_flattening():
  event_shape = dict(
    a=tf.TensorShape([]), b=tf.TensorShape([3]), c=tf.TensorShape([2, 2])
  )
  state = dict(
    a=tf.random.stateless_normal([5, 4], (0, 1)),
    b=tf.random.stateless_normal([5, 4, 3], (0, 2)),
    c=tf.random.stateless_normal([5, 4, 2, 2], (0, 3)),
  )
  vector = transitions_lib.flatten_state(state, event_shape)
  assert vector.shape == [5, 4, 8]
  np.testing.assert_array_equal(vector[..., 0], state['a'])
  np.testing.assert_array_equal(vector[..., 6], state['c'][..., 1, 0])
  again = transitions_lib.unflatten_state(vector, event_shape)
  tf.nest.map_structure(np.testing.assert_array_equal, state, again)


@pytest.mark.parametrize('shape', [[], [3], [2, 2]], ids=str)
def test_flattening_of_one_part(shape):
  state = tf.random.stateless_normal([5, 4, *shape], (0, 1))
  shape = tf.TensorShape(shape)
  vector = transitions_lib.flatten_state(state, shape)
  assert vector.shape == [5, 4, shape.num_elements()]
  np.testing.assert_array_equal(
    transitions_lib.unflatten_state(vector, shape), state
  )


# Gaussian networks.


@pytest.mark.parametrize('batch_shape', [[], [3]], ids=str)
def test_gaussian_transitions(batch_shape):
  path = make_path()
  transitions = randomize(
    nvi.GaussianTransitions(
      path, [5], batch_shape=batch_shape, seed=1, scale=2.0
    )
  )
  assert transitions.num_transitions == 3
  assert transitions.batch_shape == batch_shape
  assert transitions.is_rollable and transitions.is_level_batched
  # Two networks of two layers, with weights and biases.
  assert len(transitions.trainable_variables) == 8
  y = states(*batch_shape)
  noise = transitions.draw_noise([NUM_PARTICLES, *batch_shape], SEED)
  assert noise.shape == [3, NUM_PARTICLES, *batch_shape, 2]
  for level in range(3):

    def kernel(network, x, level=level):
      loc, scale = np.split(network(level, tf.constant(x)).numpy(), 2, axis=-1)
      return x + loc, np.log1p(np.exp(scale))

    move = transitions.propose(level, y, noise[level], log_target)
    loc, scale = kernel(transitions._forward_network, y)
    z = move.state.numpy()
    np.testing.assert_allclose(z, loc + scale * noise[level])
    np.testing.assert_allclose(move.log_forward, normal_log_prob(z, loc, scale))
    np.testing.assert_allclose(
      move.log_reverse,
      normal_log_prob(y, *kernel(transitions._reverse_network, z)),
    )
    np.testing.assert_array_equal(
      move.log_forward_fixed_sample, move.log_forward
    )
    np.testing.assert_array_equal(
      move.log_reverse_fixed_states, move.log_reverse
    )
    # The same move when the level is a Tensor, and from its record.
    for method, value in (
      (transitions.propose, noise[level]),
      (transitions.replay, move.record),
    ):
      again = method(tf.constant(level), y, value, log_target)
      assert_moves_equal(move, again)


@pytest.mark.parametrize('batch_shape', [[], [3]], ids=str)
@pytest.mark.parametrize(
  'make',
  [
    lambda path, **kwargs: nvi.GaussianTransitions(path, [5], **kwargs),
    lambda path, **kwargs: nvi.PlanarTransitions(path, 3, **kwargs),
  ],
  ids=['gaussian', 'planar'],
)
def test_replay_of_many_levels(make, batch_shape):
  """A range of levels at once is each of them on its own."""
  transitions = randomize(make(make_path(), batch_shape=batch_shape, seed=1))
  assert transitions.is_level_batched
  moves = [propose(transitions, i, states(*batch_shape) + i) for i in range(3)]
  for levels in (range(0, 3), range(1, 3)):

    def stack(*x):
      # Log densities that are constants have no axes.
      return tf.stack(x, axis=1) if tf.is_tensor(x[0]) else x[0]

    chosen = [moves[i] for i in levels]
    together = transitions.replay(
      levels,
      stack(*[states(*batch_shape) + i for i in levels]),
      tf.nest.map_structure(stack, *[m.record for m in chosen]),
      log_target,
    )
    assert_moves_equal(
      together,
      transitions_lib.Move(
        *(
          ()
          if f == 'record'
          else tf.nest.map_structure(stack, *[getattr(m, f) for m in chosen])
          for f in transitions_lib.Move._fields
        )
      ),
    )


def test_gaussian_transitions_start_as_random_walks():
  """Output layers are zero: mean z, scale softplus(0)."""
  transitions = nvi.GaussianTransitions(make_path(), seed=1, scale=2.0)
  y = states()
  move = propose(transitions, 0, y)
  z = move.state.numpy()
  np.testing.assert_allclose(
    move.log_forward, normal_log_prob(z, y, np.log(2.0))
  )
  np.testing.assert_allclose(move.log_reverse, move.log_forward)


def test_gaussian_transitions_over_a_structure():
  prior = tfd.JointDistributionNamed(
    dict(
      a=tfd.Normal(double(0.0), double(1.0)),
      b=tfd.Independent(tfd.Normal(double([0.0, 1.0]), double(1.0)), 1),
    )
  )
  path = nvi.GeometricPath(prior, prior, 2)
  transitions = randomize(nvi.GaussianTransitions(path, [5], seed=1))
  y = prior.sample(NUM_PARTICLES, seed=(1, 2))
  noise = transitions.draw_noise([NUM_PARTICLES], SEED)
  assert noise.shape == [1, NUM_PARTICLES, 3]
  move = transitions.propose(0, y, noise[0], None)
  tf.nest.assert_same_structure(move.state, y)
  assert move.state['a'].shape == [NUM_PARTICLES]
  assert move.state['b'].shape == [NUM_PARTICLES, 2]
  assert move.log_forward.shape == move.log_reverse.shape == [NUM_PARTICLES]


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_gaussian_scale_does_not_vanish(dtype):
  """Where softplus underflows, log densities stay finite."""
  normal = tfd.Normal(tf.constant(0.0, dtype), tf.constant(1.0, dtype))
  path = nvi.GeometricPath(normal, normal, 2)
  transitions = nvi.GaussianTransitions(path, [5], seed=1)
  for variable in transitions.trainable_variables:
    variable.assign(tf.fill(variable.shape, tf.constant(-1e5, dtype)))
  move = transitions.propose(
    0,
    tf.constant([1.0, -1.0], dtype),
    level_of_noise(transitions.draw_noise([2], SEED), 0),
    None,
  )
  assert move.log_forward.dtype == dtype
  assert np.all(np.isfinite(move.log_forward))


def test_gradients_of_a_gaussian_move():
  """Each field is differentiable in what its description says, and no more."""
  transitions = randomize(nvi.GaussianTransitions(make_path(2), [5], seed=1))
  forward = list(transitions._forward_network.trainable_variables)
  reverse = list(transitions._reverse_network.trainable_variables)
  y = states()
  noise = transitions.draw_noise([NUM_PARTICLES], SEED)[0]

  def gradients(field, sources, reparameterize=True):
    with tf.GradientTape() as tape:
      tape.watch(y)
      move = transitions.propose(
        0, y, noise, None, reparameterize=reparameterize
      )
      values = tf.nest.map_structure(tf.reduce_sum, getattr(move, field))
    return tape.gradient(
      values, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )

  def is_zero(field, sources, **kwargs):
    return all(np.all(g == 0.0) for g in gradients(field, sources, **kwargs))

  assert not is_zero('state', forward) and not is_zero('state', [y])
  assert is_zero('state', forward + [y], reparameterize=False)
  assert not is_zero('log_reverse', forward)
  assert is_zero('log_reverse', forward, reparameterize=False)
  assert not is_zero('log_reverse', [y], reparameterize=False)
  assert is_zero('log_reverse_fixed_states', forward + [y])
  for a, b in zip(
    gradients('log_reverse_fixed_states', reverse),
    gradients('log_reverse', reverse),
    strict=True,
  ):
    np.testing.assert_allclose(a, b)
  # The score, of a state that is held fixed: that of the log density which is
  # not reparameterized. It is in one field or in the other.
  expected = gradients('log_forward', forward, reparameterize=False)
  assert is_zero('log_forward_fixed_sample', forward, reparameterize=False)
  assert is_zero('log_forward_not_reparameterized', forward)
  for a, b, c in zip(
    gradients('log_forward_fixed_sample', forward),
    gradients('log_forward_not_reparameterized', forward, reparameterize=False),
    expected,
    strict=True,
  ):
    np.testing.assert_allclose(a, c)
    np.testing.assert_allclose(b, c)


@pytest.mark.parametrize(
  'unit, num_densities',
  [
    (32.0, 2),
    pytest.param(30.0, 4, marks=pytest.mark.slow),
    pytest.param(1e3, 4, marks=pytest.mark.slow),
  ],
)
def test_gaussian_transitions_are_free_of_scale(unit, num_densities):
  """A model in other units has the same log weights."""

  def log_weights(unit, scale=None):
    path = nvi.GeometricPath(
      diagonal([3.0 * unit, 0.0], [2.0 * unit, 0.1 * unit]),
      diagonal([unit, 0.0], [unit, unit]),
      num_densities,
    )
    transitions = randomize(
      nvi.GaussianTransitions(path, [5], seed=1, scale=scale)
    )
    sampler = nvi.NestedSampler(path, transitions)
    return sampler.sample(20, seed=1, jit_compile=False).log_weights

  np.testing.assert_allclose(log_weights(unit), log_weights(1.0), rtol=1e-6)
  # Not so if the scale is given and does not change.
  assert not np.allclose(log_weights(unit, 2.0), log_weights(1.0, 2.0))


def test_gaussian_log_densities_with_units():
  """Steps are half of the first density's scale, times softplus(0)."""
  path = nvi.GeometricPath(
    diagonal([3.0, -1.0], [20.0, 0.5]), diagonal([0.0, 0.0], [1.0, 1.0]), 2
  )
  transitions = nvi.GaussianTransitions(path, seed=1)
  # The standard error of half the distance of these quantiles of 1,024 normal
  # draws is 3.4%, that of their median 3.9% of the deviation.
  np.testing.assert_allclose(2.0 * transitions._unit, [20.0, 0.5], rtol=0.17)
  assert np.all(
    np.abs(transitions._origin - [3.0, -1.0]) < 0.2 * np.array([20.0, 0.5])
  )
  y = states()
  move = propose(transitions, 0, y)
  step = np.log(2.0) * transitions._unit
  z = move.state.numpy()
  np.testing.assert_allclose(move.log_forward, normal_log_prob(z, y, step))
  np.testing.assert_allclose(move.log_reverse, normal_log_prob(y, z, step))
  np.testing.assert_allclose(
    z, y + step * transitions.draw_noise([NUM_PARTICLES], SEED)[0]
  )


def test_scale_where_the_first_density_has_none():
  """Heavy tails have quantiles; a callable or a constant has no scale."""
  cauchy = tfd.Cauchy(double(0.0), double(10.0))
  path = nvi.GeometricPath(cauchy, cauchy, 2)
  unit = nvi.GaussianTransitions(path, seed=1)._unit
  # The quantiles at one normal deviation are at 1.837 times the scale, with a
  # standard error of 6%.
  np.testing.assert_allclose(2.0 * unit, [18.37], rtol=0.3)
  explicit = nvi.ExplicitDensities([cauchy.log_prob, cauchy])
  unit = nvi.GaussianTransitions(explicit, seed=1)._unit
  np.testing.assert_allclose(2.0 * unit, [1.0])


@pytest.mark.parametrize('scale', [0.0, -1.0, np.inf, [1.0, 2.0, 3.0], 'a'])
def test_bad_scale(scale):
  with pytest.raises((TypeError, ValueError), match='`scale` must be'):
    nvi.GaussianTransitions(make_path(), seed=1, scale=scale)


# Pairs of kernels.


def test_kernel_pair():
  pair = nvi.KernelPair(
    forward_fn=lambda y: tfd.MultivariateNormalDiag(
      0.5 * y, double([1.0, 2.0])
    ),
    reverse_fn=lambda z: tfd.MultivariateNormalDiag(
      z + 1.0, double([3.0, 1.0])
    ),
  )
  assert pair.num_transitions == 1
  assert not pair.is_rollable
  y = states()
  move = propose(pair, 0, y)
  z = move.state.numpy()
  np.testing.assert_allclose(
    move.log_forward, normal_log_prob(z, 0.5 * y, [1.0, 2.0])
  )
  np.testing.assert_allclose(
    move.log_reverse, normal_log_prob(y, z + 1.0, [3.0, 1.0])
  )
  again = pair.replay(0, y, move.record, log_target)
  assert_moves_equal(move, again)
  assert len(move.samples) == 1


def test_kernel_pair_draws_from_the_forward_kernel():
  size = 50_000
  pair = nvi.KernelPair(
    lambda y: tfd.Normal(y + 2.0, double(0.5)), lambda z: tfd.Normal(z, 1.0)
  )
  noise = pair.draw_noise([size], SEED)
  z = pair.propose(0, tf.ones([size], tf.float64), noise[0], None).state
  assert scipy.stats.kstest(z, scipy.stats.norm(3.0, 0.5).cdf).pvalue > ALARM


def test_kernel_pair_over_many_levels():
  """The level that the callables are given is the transition's own."""
  scales = double([1.0, 2.0, 3.0])
  pair = nvi.KernelPair(
    lambda y, level: tfd.MultivariateNormalDiag(
      y, tf.gather(scales, level) * double([1.0, 1.0])
    ),
    lambda z, level: tfd.MultivariateNormalDiag(
      z, tf.gather(scales, level) * double([2.0, 2.0])
    ),
    num_transitions=3,
  )
  assert pair.num_transitions == 3 and pair.is_rollable
  y = states()
  for level in (0, 2):
    move = propose(pair, tf.constant(level), y)
    z = move.state.numpy()
    np.testing.assert_allclose(
      move.log_forward, normal_log_prob(z, y, scales[level])
    )
    np.testing.assert_allclose(
      move.log_reverse, normal_log_prob(y, z, 2.0 * scales[level])
    )


def test_kernel_that_is_not_reparameterized():
  """Its score is that of a fixed state, and its state has no gradient."""
  logits = tf.Variable([0.0, 1.0, -1.0])
  pair = nvi.KernelPair(
    lambda y: tfd.Categorical(logits + tf.one_hot(y, 3)),
    lambda z: tfd.Categorical(tf.one_hot(z, 3)),
  )
  y = tf.constant([0, 1, 2, 0])
  noise = pair.draw_noise([4], SEED)
  with tf.GradientTape() as tape:
    move = pair.propose(0, y, noise[0], None)
    loss = tf.reduce_sum(move.log_forward_not_reparameterized)
  assert move.state.dtype == tf.int32 and move.state.shape == [4]
  assert move.samples == ()
  np.testing.assert_array_equal(move.log_forward_fixed_sample, np.zeros(4))
  np.testing.assert_array_equal(
    move.log_forward_not_reparameterized, move.log_forward
  )
  # d log softmax_z / d logits = one-hot of z minus the softmax.
  probs = tf.nn.softmax(logits + tf.one_hot(y, 3))
  expected = tf.reduce_sum(tf.one_hot(move.state, 3) - probs, axis=0)
  np.testing.assert_allclose(
    tape.gradient(loss, logits), expected, rtol=1e-5, atol=1e-6
  )


# Flows.


def real_nvp():
  def shift_and_log_scale_fn(x, output_units):
    del output_units
    return tf.sin(x) + 0.2, 0.3 * tf.tanh(x)

  return tfb.RealNVP(1, shift_and_log_scale_fn=shift_and_log_scale_fn)


def masked_autoregressive_flow():
  network = tfb.AutoregressiveNetwork(
    params=2,
    event_shape=[2],
    hidden_units=[4],
    activation='tanh',
    dtype='float64',
  )
  return randomize_built(tfb.MaskedAutoregressiveFlow(network))


def randomize_built(flow):
  flow.forward(tf.zeros([1, 2], tf.float64))
  return randomize(flow)


def spline():
  rng = np.random.default_rng(0)
  return tfb.RationalQuadraticSpline(
    bin_widths=double(8.0 * rng.dirichlet(np.full(5, 10.0), 2)),
    bin_heights=double(8.0 * rng.dirichlet(np.full(5, 10.0), 2)),
    knot_slopes=double(rng.uniform(0.5, 2.0, [2, 4])),
    range_min=double(-4.0),
  )


FLOWS = {
  'shift_and_scale': lambda: tfb.Shift(double([0.5, -1.0]))(
    tfb.Scale(double([2.0, -0.5]))
  ),
  'real_nvp': real_nvp,
  'masked_autoregressive_flow': masked_autoregressive_flow,
  'spline': spline,
  'planar': lambda: nvi.bijectors.PlanarFlow(
    double([1.0, -0.5]), double([0.7, 1.2]), double(0.3)
  ),
  'chain': lambda: tfb.Chain(
    [tfb.Permute([1, 0]), real_nvp(), tfb.Shift(double(1.0)), spline()]
  ),
}


def assert_jacobian(fn, y, log_det_jacobian):
  """The log determinant, against that of the derivatives of the state."""
  # A bijector returns what it has computed for the same Tensor before.
  y = tf.identity(y)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(y)
    z = fn(y)
  jacobian = tape.batch_jacobian(z, y, experimental_use_pfor=False).numpy()
  np.testing.assert_allclose(
    np.broadcast_to(log_det_jacobian, [len(y)]),
    np.linalg.slogdet(jacobian)[1],
    rtol=1e-9,
    atol=1e-12,
  )


@pytest.mark.parametrize('name', FLOWS)
def test_bijector_transition(name):
  bijector = FLOWS[name]()
  transition = nvi.BijectorTransition(bijector)
  transition.bind(make_path(2))
  assert transition.num_transitions == 1
  y = states()
  move = propose(transition, 0, y)
  np.testing.assert_allclose(move.state, bijector.forward(y))
  assert_jacobian(bijector.forward, y, move.log_reverse)
  assert np.all(move.log_forward == 0.0)
  assert_moves_equal(move, transition.replay(0, y, move.record, None))
  # Of the Jacobian no gradient goes to the reverse side.
  with tf.GradientTape() as tape:
    tape.watch(y)
    fixed = propose(transition, 0, y).log_reverse_fixed_states
  assert tape.gradient(fixed, y) is None


def test_bijector_over_a_structure():
  normal = tfd.Normal(double(0.0), double(1.0))
  prior = tfd.JointDistributionNamed(dict(a=normal, b=normal))
  transition = nvi.BijectorTransition(
    tfb.JointMap(dict(a=tfb.Scale(double(3.0)), b=tfb.Shift(double(1.0))))
  )
  transition.bind(nvi.GeometricPath(prior, prior, 2))
  y = prior.sample(NUM_PARTICLES, seed=(1, 2))
  move = transition.propose(0, y, (), None)
  np.testing.assert_allclose(move.state['a'], 3.0 * y['a'])
  np.testing.assert_allclose(move.state['b'], 1.0 + y['b'])
  np.testing.assert_allclose(
    np.broadcast_to(move.log_reverse, [NUM_PARTICLES]), np.log(3.0)
  )


def test_planar_transitions():
  transitions = randomize(nvi.PlanarTransitions(make_path(), 3, seed=1), 1.0)
  assert transitions.num_transitions == 3
  assert transitions.is_rollable and transitions.is_level_batched
  assert len(transitions.trainable_variables) == 3
  y = states()
  for level in range(3):
    move = propose(transitions, level, y)
    assert_jacobian(
      lambda x, level=level: propose(transitions, level, x).state,
      y,
      move.log_reverse,
    )
    # As a chain of the bijector, last layer first.
    flow = tfb.Chain(
      [
        nvi.bijectors.PlanarFlow(
          *(
            v[level, i]
            for v in (
              transitions._direction,
              transitions._normal,
              transitions._bias,
            )
          )
        )
        for i in reversed(range(3))
      ]
    )
    np.testing.assert_allclose(move.state, flow.forward(y), rtol=1e-10)
    assert_moves_equal(move, propose(transitions, tf.constant(level), y))


def test_planar_transitions_of_batch_members():
  """Each member has a flow of its own."""
  transitions = randomize(
    nvi.PlanarTransitions(make_path(), 3, batch_shape=[2], seed=1), 1.0
  )
  y = tf.tile(states()[:, tf.newaxis], [1, 2, 1])
  move = propose(transitions, 1, y)
  assert move.log_reverse.shape == [NUM_PARTICLES, 2]
  for member in range(2):
    alone = nvi.PlanarTransitions(make_path(), 3, seed=1)
    for a, b in zip(alone.variables, transitions.variables, strict=True):
      a.assign(b[:, member])
    expected = propose(alone, 1, states())
    np.testing.assert_allclose(move.state[:, member], expected.state)
    np.testing.assert_allclose(
      move.log_reverse[:, member], expected.log_reverse
    )


# Markov kernels.


def hamiltonian(target_log_prob_fn):
  return tfp.mcmc.HamiltonianMonteCarlo(target_log_prob_fn, double(0.7), 3)


def random_walk(target_log_prob_fn):
  return tfp.mcmc.RandomWalkMetropolis(
    target_log_prob_fn, tfp.mcmc.random_walk_normal_fn(double(1.5))
  )


@pytest.mark.parametrize('make_kernel_fn', [hamiltonian, random_walk])
def test_mcmc_transition(make_kernel_fn):
  """Leaves the density invariant, and its weight is that of the old state."""
  size = 40_000
  y = randomness.normal([size, 2], SEED, tf.float64)
  transition = nvi.MCMCTransition(make_kernel_fn, num_steps=2)
  move = propose(transition, 0, y)
  z = move.state.numpy()
  # The kernel moves most particles, but not all: Metropolis rejects some.
  moved = np.mean(np.any(z != y, axis=-1))
  assert 0.5 < moved < 1.0
  np.testing.assert_allclose(
    move.log_reverse, log_target(y) - log_target(z), atol=1e-12
  )
  assert np.all(move.log_forward == 0.0)
  for i in range(2):
    assert scipy.stats.kstest(z[:, i], 'norm').pvalue > ALARM / 3
  correlation = np.corrcoef(z.T)[0, 1] * np.sqrt(size)
  assert 2.0 * scipy.stats.norm.sf(abs(correlation)) > ALARM / 3
  # Again, without any kernel.
  again = transition.replay(0, y, move.record, log_target)
  assert_moves_equal(move, again)


def test_mcmc_transition_takes_its_steps():
  """Steps follow each other with seeds of their own."""
  y = states()
  one, two = (
    propose(nvi.MCMCTransition(random_walk, num_steps=n), 0, y) for n in (1, 2)
  )
  assert np.any(one.state != two.state)
  # A walk that is always accepted: steps of variance 1.5^2 add up.
  size = 20_000
  y = tf.zeros([size, 1], tf.float64)
  transition = nvi.MCMCTransition(random_walk, num_steps=5)
  move = propose(transition, 0, y, lambda x: tf.zeros_like(x[..., 0]))
  variance = np.var(move.state) / (5 * 1.5**2)
  z = (variance - 1.0) * np.sqrt(size / 2)
  assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM


def test_mcmc_transition_over_many_levels():
  levels = []

  def make_kernel_fn(target_log_prob_fn, level):
    levels.append(int(level))
    return random_walk(target_log_prob_fn)

  transition = nvi.MCMCTransition(make_kernel_fn, num_transitions=3)
  assert transition.num_transitions == 3
  assert transition.is_rollable and transition.is_level_batched
  propose(transition, tf.constant(2), states()[:, :1])
  assert levels == [2]


def test_mcmc_transition_over_a_structure():
  """Kernels are given the parts of a state, as `tfp.mcmc` expects them."""
  state = dict(a=double([0.0, 1.0]), b=double([[0.0, 1.0], [2.0, 3.0]]))

  def target(z):
    return -0.5 * (z['a'] ** 2 + tf.reduce_sum(z['b'] ** 2, axis=-1))

  transition = nvi.MCMCTransition(hamiltonian, num_steps=3)
  noise = transition.draw_noise([2], SEED)
  move = transition.propose(0, state, noise[0], target)
  tf.nest.assert_same_structure(move.state, state)
  assert move.state['b'].shape == [2, 2]
  np.testing.assert_allclose(
    move.log_reverse, target(state) - target(move.state)
  )


@pytest.mark.parametrize('make_kernel_fn', [hamiltonian, random_walk])
def test_mcmc_transition_from_outside_of_the_support(make_kernel_fn):
  """A state of density zero gets the weight zero, wherever it moves to."""
  y = double([[-1.0, 0.0], [1.0, 0.0], [-200.0, 0.0]])

  def target(x):
    return tf.where(x[..., 0] > 0.0, log_target(x), -np.inf)

  move = propose(nvi.MCMCTransition(make_kernel_fn), 0, y, target)
  log_weight = target(move.state) + move.log_reverse
  np.testing.assert_allclose(log_weight, target(y))


@pytest.mark.parametrize('make_kernel_fn', [hamiltonian, random_walk])
@pytest.mark.parametrize('is_compiled', [False, True])
def test_mcmc_transition_where_the_density_is_nan(make_kernel_fn, is_compiled):
  """NaN is zero density: it is not moved to, and is counted."""
  size = 4_000
  y = tf.abs(randomness.normal([size, 1], SEED, tf.float64))

  def target(nan):
    return lambda x: tf.where(x[..., 0] > 0.0, log_target(x), nan)

  transition = nvi.MCMCTransition(make_kernel_fn)
  noise = transition.draw_noise([size], SEED)[0]

  def move_to(nan):
    def fn():
      return transition.propose(0, y, noise, target(nan))

    return tf.function(fn, jit_compile=True)() if is_compiled else fn()

  move = move_to(np.nan)
  assert np.all(move.state > 0.0)
  assert np.all(np.isfinite(move.log_reverse))
  # A half-normal state is invariant.
  assert scipy.stats.kstest(move.state[:, 0], 'halfnorm').pvalue > ALARM
  # The same draws as where the density is zero, in which no NaN is counted.
  expected = move_to(-np.inf)
  np.testing.assert_allclose(move.state, expected.state)
  assert expected.num_nan == 0
  stayed = np.sum(np.all(move.state == y, axis=-1))
  assert 0 < move.num_nan <= stayed
  assert move.num_nan.dtype == tf.int32 and move.num_nan.shape == []


@pytest.mark.parametrize(
  'num_steps, mean, variance', [(1, 1 / 2, 1 / 4), (2, 7 / 8, 39 / 64)]
)
def test_count_of_nan_proposals(num_steps, mean, variance):
  """From zero, half of all walks go where the density is NaN.

  So does the second step of those that stayed, and a quarter of the others.
  """
  size = 10_000
  y = tf.fill([size, 1], double(1e-9))

  def target(x):
    return tf.where(x[..., 0] > 0.0, 0.0 * x[..., 0], np.nan)

  transition = nvi.MCMCTransition(random_walk, num_steps=num_steps)
  move = propose(transition, 0, y, target)
  z = (int(move.num_nan) - size * mean) / np.sqrt(size * variance)
  assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM


def test_mcmc_transition_from_where_the_density_is_nan():
  """The weight becomes zero, also where the state moves on."""
  y = double([[0.1], [1.0]])

  def target(x):
    return tf.where(tf.abs(x[..., 0]) > 0.2, log_target(x), np.nan)

  transition = nvi.MCMCTransition(random_walk, num_steps=20)
  move = propose(transition, 0, y, target)
  assert np.all(np.abs(move.state) > 0.2)
  assert move.log_reverse[0] == -np.inf and np.isfinite(move.log_reverse[1])
  assert move.num_nan >= 1


# Compositions.


def test_composition():
  """Log densities add up; each part continues where the last one stopped."""
  flow = nvi.BijectorTransition(FLOWS['real_nvp']())
  pair = nvi.KernelPair(
    lambda y: tfd.MultivariateNormalDiag(y, double([1.0, 1.0])),
    lambda z: tfd.MultivariateNormalDiag(z, double([0.5, 0.5])),
  )
  walk = nvi.MCMCTransition(random_walk)
  composition = nvi.Composition([flow, pair, walk])
  composition.bind(make_path(2))
  assert composition.num_transitions == 1
  assert not composition.is_rollable
  y = states()
  noise = composition.draw_noise([NUM_PARTICLES], SEED)
  parts = level_of_noise(noise, 0)
  move = composition.propose(0, y, parts, log_target)
  expected, state = [], y
  for transition, part in zip([flow, pair, walk], parts, strict=True):
    expected.append(transition.propose(0, state, part, log_target))
    state = expected[-1].state
  np.testing.assert_array_equal(move.state, state)
  for field in (
    'log_forward',
    'log_reverse',
    'log_forward_fixed_sample',
    'log_forward_not_reparameterized',
    'log_reverse_fixed_states',
  ):
    np.testing.assert_allclose(
      getattr(move, field), sum(getattr(m, field) for m in expected)
    )
  assert len(move.samples) == 1
  assert_moves_equal(move, composition.replay(0, y, move.record, log_target))


class Recorder(nvi.Transition):
  """A transition whose moves have other values in every field."""

  def __init__(self, value):
    super().__init__()
    self.value = value

  def propose(self, level, previous, noise, target_log_prob_fn, reparameterize):
    del level, noise, target_log_prob_fn
    fields = nvi.Move._fields
    values = {
      name: self.value * 10.0**i * tf.ones([NUM_PARTICLES], tf.float64)
      for i, name in enumerate(fields)
      if name.startswith('log_')
    }
    return nvi.Move(
      **values,
      state=previous + self.value,
      samples=(self.value,),
      record=('record', self.value, reparameterize),
      num_nan=int(self.value),
    )


@pytest.mark.parametrize('reparameterize', [False, True])
@pytest.mark.parametrize('records_noise', [False, True])
def test_fields_of_a_composition(reparameterize, records_noise):
  """Each field is the sum, or the sequence, of that field of the parts."""
  parts = [Recorder(1.0), Recorder(3.0)]
  for part in parts:
    part.records_noise = records_noise
  composition = nvi.Composition(parts)
  y = states()
  move = composition.propose(0, y, ('a', 'b'), None, reparameterize)
  np.testing.assert_allclose(move.state, y + 4.0)
  for i, name in enumerate(nvi.Move._fields):
    if name.startswith('log_'):
      np.testing.assert_allclose(getattr(move, name), 4.0 * 10.0**i)
  assert move.samples == (1.0, 3.0)
  assert move.num_nan == 4
  assert move.record == (
    ('a', 'b')
    if records_noise
    else (('record', 1.0, reparameterize), ('record', 3.0, reparameterize))
  )


def test_a_composition_has_the_reverse_kernels_of_its_parts():
  """Without this, one that is not normalized would have a control variate."""
  parts = [Recorder(1.0), Recorder(3.0)]
  assert nvi.Composition(parts).has_normalized_reverse
  parts[1].has_normalized_reverse = False
  assert not nvi.Composition(parts).has_normalized_reverse


def test_a_composition_gives_its_parts_the_densities_of_a_run():
  class Given(Recorder):
    def given(self, densities):
      return Recorder(densities)

  fixed = nvi.Composition([Recorder(1.0), Recorder(3.0)])
  assert fixed.given(5.0) is fixed
  move = (
    nvi.Composition([Recorder(1.0), Given(3.0)])
    .given(5.0)
    .propose(0, states(), ('a', 'b'), None)
  )
  np.testing.assert_allclose(move.state, states() + 6.0)


@pytest.mark.parametrize(
  'make',
  [
    lambda path: nvi.KernelPair(normal_around, normal_around),
    lambda path: nvi.BijectorTransition(tfb.Shift(1.0)),
    lambda path: nvi.GaussianTransitions(path, seed=1),
    lambda path: nvi.PlanarTransitions(path, 2, seed=1),
    lambda path: nvi.MCMCTransition(lambda f, i: None, num_transitions=3),
    lambda path: nvi.Composition(
      [
        nvi.GaussianTransitions(path, seed=1),
        nvi.GaussianTransitions(path, seed=1),
        nvi.MCMCTransition(lambda f, i: None, num_transitions=3),
      ]
    ),
  ],
  ids=['pair', 'bijector', 'gaussian', 'planar', 'mcmc', 'composition'],
)
def test_noise_of_a_level_is_that_of_all_levels(make):
  """A run level by level draws what a run of all levels draws."""
  transition = make(make_path())
  noise = transition.draw_noise([NUM_PARTICLES, 2], SEED)
  for level in range(transition.num_transitions):
    alone = transition.draw_level_noise([NUM_PARTICLES, 2], SEED, level)
    tf.nest.map_structure(
      np.testing.assert_array_equal, alone, level_of_noise(noise, level)
    )


@pytest.mark.parametrize('method', ['draw_noise', 'draw_level_noise'])
def test_noise_differs_between_parts(method):
  path = make_path()
  composition = nvi.Composition(
    [nvi.GaussianTransitions(path, seed=1) for _ in range(3)]
  )
  level = [1] if method == 'draw_level_noise' else []
  a, b, c = getattr(composition, method)([NUM_PARTICLES], SEED, *level)
  assert np.all(a != b) and np.all(a != c) and np.all(b != c)


def test_parts_of_a_composition_have_noise_of_their_own():
  pair = nvi.KernelPair(
    lambda y: tfd.Normal(y, double(1.0)), lambda z: tfd.Normal(z, double(1.0))
  )
  composition = nvi.Composition([pair, pair])
  size = 10_000
  noise = composition.draw_noise([size], SEED)
  y = tf.zeros([size], tf.float64)
  move = composition.propose(0, y, level_of_noise(noise, 0), None)
  # Two independent steps have variance two; the same one twice, four.
  z = (np.var(move.state) / 2.0 - 1.0) * np.sqrt(size / 2)
  assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM


def test_composition_over_many_levels():
  path = make_path()
  gaussian = randomize(nvi.GaussianTransitions(path, [4], seed=1))
  planar = nvi.PlanarTransitions(path, 2, seed=2)
  composition = nvi.Composition([planar, gaussian])
  assert composition.num_transitions == 3
  assert composition.is_rollable and composition.is_level_batched
  assert len(composition.trainable_variables) == 11
  move = propose(composition, 1, states())
  again = propose(composition, tf.constant(1), states())
  assert_moves_equal(move, again)


def test_composition_broadcasts_batch_shapes():
  path = make_path()
  composition = nvi.Composition(
    [
      nvi.PlanarTransitions(path, 2, seed=2),
      nvi.GaussianTransitions(path, [4], batch_shape=[3], seed=1),
    ]
  )
  assert composition.batch_shape == [3]


@pytest.mark.parametrize(
  'make',
  [
    lambda path: nvi.GaussianTransitions(path, seed=1),
    lambda path: nvi.PlanarTransitions(path, 2, seed=1),
    lambda path: nvi.MCMCTransition(lambda f, i: None, num_transitions=3),
    lambda path: nvi.Composition(
      [
        nvi.PlanarTransitions(path, 2, seed=1),
        nvi.MCMCTransition(lambda f, level: random_walk(f), num_transitions=3),
      ]
    ),
  ],
  ids=['gaussian', 'planar', 'mcmc', 'composition'],
)
def test_examples_of_records(make):
  """A loop over levels needs to know what a record will look like."""
  transition = make(make_path())
  y = states()
  noise = transition.draw_noise([NUM_PARTICLES], SEED)
  for leaf in tf.nest.flatten(noise):
    assert leaf.shape[0] == 3
  example = transition.record_like(level_of_noise(noise, 0), y)
  if isinstance(transition, nvi.MCMCTransition):
    tf.nest.assert_same_structure(example, y)
    return
  record = transition.propose(1, y, level_of_noise(noise, 1), log_target).record
  tf.nest.assert_same_structure(example, record)
  for a, b in zip(
    tf.nest.flatten(example), tf.nest.flatten(record), strict=True
  ):
    assert a.shape == b.shape and a.dtype == b.dtype


# Bad input.


def test_missing_reverse_kernel():
  with pytest.raises(ValueError, match='`reverse_fn` must be given'):
    nvi.KernelPair(lambda y: tfd.Normal(y, 1.0), None)


def normal_around(x):
  return tfd.Normal(x, double(1.0))


@pytest.mark.parametrize(
  'make, error, match',
  [
    (lambda: nvi.KernelPair(None, normal_around), TypeError, '`forward_fn`'),
    (lambda: nvi.KernelPair(normal_around, 3.0), TypeError, '`reverse_fn`'),
    (
      lambda: nvi.BijectorTransition(tf.exp),
      TypeError,
      '`bijector` must be a tfb.Bijector',
    ),
    (lambda: nvi.MCMCTransition(None), TypeError, '`make_kernel_fn`'),
    (
      lambda: nvi.MCMCTransition(hamiltonian, num_steps=0),
      ValueError,
      '`num_steps` must be positive; got 0',
    ),
    (
      lambda: nvi.MCMCTransition(hamiltonian, num_transitions=0),
      ValueError,
      '`num_transitions` must be positive',
    ),
    (
      lambda: nvi.KernelPair(normal_around, normal_around, num_transitions=-1),
      ValueError,
      '`num_transitions` must be positive',
    ),
    (
      lambda: nvi.PlanarTransitions(make_path(), num_layers=0),
      ValueError,
      '`num_layers` must be positive; got 0',
    ),
    (
      lambda: nvi.PlanarTransitions(make_path(), scale='a'),
      TypeError,
      "`scale` must be a Python float; got 'a'",
    ),
    (
      lambda: nvi.Composition([]),
      ValueError,
      '`transitions` must have at least 1',
    ),
    (lambda: nvi.Composition(None), TypeError, '`transitions` must be a list'),
    (lambda: nvi.Composition(3), TypeError, '`transitions` must be a list'),
    (
      lambda: nvi.Composition([hamiltonian]),
      TypeError,
      r'`transitions\[0\]` must be a Transition',
    ),
    (
      lambda: nvi.Composition(
        [nvi.PlanarTransitions(make_path()), nvi.MCMCTransition(hamiltonian)]
      ),
      ValueError,
      r'`transitions` must .*same number of levels; got \[3, 1\]',
    ),
    (
      lambda: nvi.Composition(
        [
          nvi.MCMCTransition(hamiltonian),
          nvi.KernelPair(normal_around, normal_around),
        ]
      ),
      ValueError,
      '`transitions` must have those that leave the level invariant last',
    ),
    (
      lambda: nvi.Composition(
        [
          nvi.PlanarTransitions(make_path(), batch_shape=[2]),
          nvi.GaussianTransitions(make_path(), batch_shape=[3]),
        ]
      ),
      ValueError,
      r'`transitions\[1\]` must have a batch shape',
    ),
  ],
)
def test_bad_arguments(make, error, match):
  with pytest.raises(error, match=match):
    make()


@pytest.mark.parametrize(
  'make', [nvi.GaussianTransitions, nvi.PlanarTransitions]
)
def test_states_that_are_not_real(make):
  categorical = tfd.Categorical(tf.zeros([3]))
  path = nvi.GeometricPath(categorical, categorical, 2)
  with pytest.raises(ValueError, match='one floating point dtype; got .*int32'):
    make(path)


@pytest.mark.parametrize(
  'hidden_units, error',
  [
    (50, TypeError),
    ('ab', TypeError),
    (None, TypeError),
    ([5.5], TypeError),
    (['a'], TypeError),
    ([0], ValueError),
    ([4, -3], ValueError),
  ],
  ids=repr,
)
def test_bad_hidden_units(hidden_units, error):
  with pytest.raises(error, match='`hidden_units.* must be'):
    nvi.GaussianTransitions(make_path(), hidden_units)


@pytest.mark.parametrize(
  'make',
  [
    nvi.GaussianTransitions,
    nvi.PlanarTransitions,
    lambda path, batch_shape=(): nvi.GeometricPath(
      path.initial, path.initial, 2, batch_shape=batch_shape
    ),
  ],
)
@pytest.mark.parametrize('shape', ['a', None, [-1], [2.5], [None]], ids=repr)
def test_bad_batch_shape(make, shape):
  with pytest.raises((TypeError, ValueError), match='`batch_shape` must be'):
    make(make_path(), batch_shape=shape)


@pytest.mark.parametrize(
  'make', [nvi.GaussianTransitions, nvi.PlanarTransitions]
)
def test_densities_of_another_kind(make):
  for densities in (None, [1, 2], tfd.Normal(0.0, 1.0)):
    with pytest.raises(TypeError, match='`densities` must be a sequence of de'):
      make(densities)
  transitions = make(make_path())
  transitions.bind(make_path())
  for loc in (double([0.0, 0.0, 0.0]), tf.zeros([2])):
    normal = tfd.MultivariateNormalDiag(loc, tf.ones_like(loc))
    other = nvi.GeometricPath(normal, normal, 4)
    with pytest.raises(ValueError, match='must be bound to `densities` over'):
      transitions.bind(other)
    with pytest.raises(ValueError, match='must be bound to `densities` over'):
      nvi.NestedSampler(other, transitions)


def bind_bijector(densities):
  nvi.BijectorTransition(tfb.Shift(1.0)).bind(densities)


def bind_composition(densities):
  nvi.Composition([nvi.BijectorTransition(tfb.Shift(1.0))]).bind(densities)


@pytest.mark.parametrize(
  'make',
  [
    nvi.GaussianTransitions,
    nvi.PlanarTransitions,
    bind_bijector,
    bind_composition,
  ],
)
@pytest.mark.parametrize(
  'discrete',
  [
    tfd.Poisson(0.3),
    tfd.Sample(tfd.Poisson(0.3), 2),
    tfd.OneHotCategorical([0.0, 0.0], dtype=tf.float32),
    tfd.QuantizedDistribution(tfd.Normal(0.0, 1.0)),
  ],
  ids=lambda d: d.name,
)
def test_discrete_states_of_a_floating_point_dtype(make, discrete):
  for densities in (
    nvi.GeometricPath(discrete, discrete, 2),
    nvi.ExplicitDensities([discrete, discrete]),
  ):
    with pytest.raises(ValueError, match='need `densities` over real states'):
      make(densities)


@pytest.mark.parametrize(
  'forward_fn, reverse_fn, match',
  [
    (lambda y: y, normal_around, '`forward_fn` must return a tfd.Distrib'),
    (normal_around, lambda z: z, '`reverse_fn` must return a tfd.Distrib'),
  ],
)
def test_kernels_that_return_something_else(forward_fn, reverse_fn, match):
  pair = nvi.KernelPair(forward_fn, reverse_fn)
  with pytest.raises(TypeError, match=match):
    propose(pair, 0, states())


def test_kernel_that_is_not_calibrated():
  transition = nvi.MCMCTransition(tfp.mcmc.UncalibratedRandomWalk)
  with pytest.raises(ValueError, match='`make_kernel_fn` must .*calibrated'):
    propose(transition, 0, states())


def test_kernel_that_is_none():
  transition = nvi.MCMCTransition(lambda target_log_prob_fn: None)
  with pytest.raises(TypeError, match='`make_kernel_fn` must return'):
    propose(transition, 0, states())


class Walk(nvi.Transition):
  """All that a user needs to write."""

  def __init__(self):
    super().__init__()
    self.step = tf.Variable(double(0.0))
    self.scale = tfp.util.TransformedVariable(double(1.0), tfb.Exp())

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    return transitions_lib.kernel_move(
      tfd.Normal(previous + self.step, self.scale),
      lambda z: tfd.Normal(z - self.step, self.scale),
      previous,
      noise,
      reparameterize,
    )


def test_a_transition_of_one_method():
  """Runs eagerly and compiled, with the same draws, and is trained.

  The step that leads from one density to the other is 2. Training takes 300
  steps of about 1e-3 towards it.
  """
  path = nvi.GeometricPath(
    tfd.Normal(double(0.0), double(1.0)),
    tfd.Normal(double(2.0), double(1.0)),
    2,
  )
  walk = Walk()
  sampler = nvi.NestedSampler(path, walk)
  a, b = (sampler.sample(50, seed=1, jit_compile=c) for c in (False, True))
  np.testing.assert_allclose(a.particles, b.particles)
  np.testing.assert_allclose(a.log_weights, b.log_weights)
  before = np.mean(a.log_weights)
  nvi.fit(sampler, nvi.reverse_kl(), 64, 300, seed=1, progress=False)
  assert 0.2 < walk.step < 2.0
  after = sampler.sample(2_000, seed=1)
  assert np.mean(after.log_weights) > before
  error = np.std(np.exp(after.log_weights)) / np.sqrt(2_000)
  z = (np.exp(after.log_normalizer) - 1.0) / error
  assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM


def test_a_transition_must_say_how_to_propose():
  with pytest.raises(TypeError, match='abstract method .?propose'):
    nvi.Transition()

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Supports: discrete and continuous parts, and errors where two do not fit."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi
from tfp_nvi import densities as densities_lib

tfb = tfp.bijectors
tfd = tfp.distributions

INF = float('inf')
NORMAL = tfd.Normal(0.0, 1.0)


# Kinds.


@pytest.mark.parametrize(
  'distribution, kinds',
  [
    (tfd.Poisson(2.0), ('discrete',)),
    (tfd.Categorical([0.0, 0.0]), ('discrete',)),
    (tfd.OneHotCategorical([0.0, 0.0]), ('discrete',)),
    (tfd.OneHotCategorical([0.0, 0.0], dtype=tf.float32), ('discrete',)),
    (tfd.FiniteDiscrete([0.25, 0.75], probs=[0.5, 0.5]), ('discrete',)),
    (tfd.Deterministic(0.3), ('discrete',)),
    (tfd.Independent(tfd.Poisson([2.0, 3.0]), 1), ('discrete',)),
    (tfd.Sample(tfd.Binomial(5.0, 0.0), 3), ('discrete',)),
    (tfd.LogNormal(0.0, 1.0), ('continuous',)),
    (tfd.Normal(0.0, 1e9), ('continuous',)),
    (
      tfd.MixtureSameFamily(
        tfd.Categorical([0.0, 0.0]), tfd.Poisson([1.0, 2.0])
      ),
      ('discrete',),
    ),
    (
      tfd.MixtureSameFamily(
        tfd.Categorical([0.0, 0.0]), tfd.Normal([0.0, 1.0], 1.0)
      ),
      ('continuous',),
    ),
    (
      tfd.JointDistributionNamed(
        dict(
          z=tfd.Normal(0.0, 1.0),
          k=tfd.Poisson(2.0),
          a=lambda z: tfd.Normal(z, 1.0),
        )
      ),
      ('continuous', 'discrete', 'continuous'),
    ),
    (
      tfd.JointDistributionSequential(
        [tfd.Bernoulli(0.5), tfd.Normal(0.0, 1.0)]
      ).experimental_pin(None, 1.0),
      ('discrete',),
    ),
    (lambda x: x, ()),
  ],
)
def test_kinds(distribution, kinds):
  assert densities_lib.support_kinds(distribution) == kinds


# Discrete and continuous parts in one state.


def switching_model():
  """k ~ Categorical, x | k ~ Normal(4 k, 1), y | x ~ Normal(x, 1) at 3."""
  prior = dict(
    k=tfd.Categorical(probs=[0.5, 0.5]),
    x=lambda k: tfd.Normal(4.0 * tf.cast(k, tf.float32), 1.0),
  )
  model = dict(prior, y=lambda x: tfd.Normal(x, 1.0))
  return (
    tfd.JointDistributionNamed(prior),
    tfd.JointDistributionNamed(model).experimental_pin(y=3.0),
  )


def flip_and_jump(scale, unit):
  """Another k in a third of the cases, and x about where it is for that k."""

  def kernel(state):
    k = tf.cast(state['k'], tf.float32)
    return tfd.JointDistributionNamed(
      dict(
        k=tfd.Categorical(probs=tf.stack([2.0 - k, 1.0 + k], -1) / 3.0),
        x=lambda k: tfd.Normal(
          unit * (0.6 + 3.2 * tf.cast(k, tf.float32)), unit * scale
        ),
      )
    )

  return kernel


@pytest.mark.parametrize(
  'bijector',
  [
    pytest.param(None, id='default'),
    pytest.param(tfb.Identity(), id='identity', marks=pytest.mark.slow),
    pytest.param(
      tfb.JointMap(dict(k=tfb.Identity(), x=tfb.Identity())),
      id='identities',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      tfb.JointMap(dict(k=tfb.Identity(), x=tfb.Scale(2.0))), id='scaled'
    ),
  ],
)
def test_discrete_and_continuous_parts(bijector):
  """Z-hat within 4 standard errors: a false alarm once in 16,000 runs."""
  prior, posterior = switching_model()
  path = nvi.GeometricPath(prior, posterior, 3, event_space_bijector=bijector)
  assert path.is_discrete
  assert path.support_kinds == ('discrete', 'continuous')
  # Kernels are over states: x is half of what it is for the user there.
  unit = 1.0 if bijector is None or bijector.name.count('scale') == 0 else 0.5
  sampler = nvi.NestedSampler(
    path,
    [nvi.KernelPair(flip_and_jump(1.2, unit), flip_and_jump(0.7, unit))] * 2,
  )
  truth = scipy.special.logsumexp(
    np.log(0.5) + scipy.stats.norm.logpdf(3.0, [0.0, 4.0], np.sqrt(2.0))
  )
  np.testing.assert_allclose(truth, -2.0817, atol=1e-4)
  check_log_normalizer(sampler, truth, num_runs=20, num_particles=2_000)


def check_log_normalizer(sampler, truth, num_runs, num_particles):
  ratios = np.exp(
    [
      float(sampler.sample(num_particles, seed=i).log_normalizer) - truth
      for i in range(num_runs)
    ]
  )
  error = ratios.std(ddof=1) / np.sqrt(num_runs)
  assert error < 0.1
  assert abs(ratios.mean() - 1.0) < 4.0 * error


def test_parts_that_constrain_each_other():
  """A continuous part's support may depend on a discrete part before it."""

  def make(cls):
    return cls(
      dict(
        k=tfd.Poisson(3.0),
        rate=lambda k: tfd.Gamma(1.0 + k, 2.0),
        u=lambda rate: tfd.Uniform(0.0, rate),
      )
    )

  for cls in (
    tfd.JointDistributionNamed,
    tfd.JointDistributionNamedAutoBatched,
  ):
    joint = make(cls)
    path = nvi.GeometricPath(joint, joint, 2)
    assert path.support_kinds == ('discrete', 'continuous', 'continuous')
    values = joint.sample(7, seed=(1, 2))
    state = path.inverse(values)
    np.testing.assert_array_equal(state['k'], values['k'])
    fraction = values['u'] / values['rate']
    np.testing.assert_allclose(
      state['u'], scipy.special.logit(fraction), rtol=1e-3, atol=1e-4
    )
    # The Jacobian of softplus, and of a sigmoid that is scaled to the rate.
    expected = np.log1p(-np.exp(-values['rate'])) + np.log(
      values['rate'] * fraction * (1.0 - fraction)
    )
    np.testing.assert_allclose(
      path.log_det_jacobian(state), expected, rtol=1e-3, atol=1e-4
    )


def test_pinned_models_with_discrete_parts():
  model = tfd.JointDistributionNamedAutoBatched(
    dict(
      k=tfd.Poisson(3.0),
      rate=lambda k: tfd.Gamma(1.0 + k, 2.0),
      y=lambda rate: tfd.Normal(0.0, rate),
    )
  )
  target = model.experimental_pin(y=0.5)
  prior = tfd.JointDistributionNamed(
    dict(k=tfd.Poisson(3.0), rate=lambda k: tfd.Gamma(1.0 + k, 2.0))
  )
  path = nvi.GeometricPath(prior, target, 2)
  values = prior.sample(5, seed=(1, 2))
  state = path.inverse(values)
  np.testing.assert_allclose(
    path.log_prob(1, path.evaluate(1, state)),
    target.unnormalized_log_prob(values)
    + np.log1p(-np.exp(-values['rate'].numpy())),
    rtol=1e-4,
  )


def test_mixtures():
  """Those over the reals or positive reals have their space, others none."""

  def mixture(components):
    return tfd.MixtureSameFamily(tfd.Categorical([0.0, 0.0]), components)

  for components, initial, z in (
    (tfd.Normal([0.0, 1.0], 1.0), NORMAL, -2.0),
    (tfd.Gamma([2.0, 3.0], 1.0), tfd.Gamma(2.0, 1.0), np.log1p(np.exp(-2.0))),
  ):
    path = nvi.GeometricPath(initial, mixture(components), 2)
    np.testing.assert_allclose(path.forward(tf.constant(-2.0)), z, rtol=1e-5)
    joint = tfd.JointDistributionNamed(dict(a=mixture(components)))
    path = nvi.GeometricPath(joint, joint, 2)
    value = path.forward(dict(a=tf.constant(-2.0)))['a']
    np.testing.assert_allclose(value, z, rtol=1e-5)
  bounded = mixture(tfd.Uniform([0.0, 1.0], 2.0))
  for density in (bounded, tfd.JointDistributionNamed(dict(a=bounded))):
    with pytest.raises(
      ValueError, match='`event_space_bijector` must be given'
    ):
      nvi.GeometricPath(density, density, 2)


# Supports that do not fit.


@pytest.mark.parametrize(
  'initial, target',
  [
    (tfd.Poisson(3.0), NORMAL),
    (NORMAL, tfd.Poisson(3.0)),
    (tfd.Deterministic(0.3), NORMAL),
  ],
  ids=['poisson', 'normal', 'deterministic'],
)
def test_discrete_and_continuous_ends(initial, target):
  with pytest.raises(ValueError, match='`initial` must be over the same supp'):
    nvi.GeometricPath(initial, target, 3)
  with pytest.raises(ValueError, match=r'`densities\[0\]` must be over the sa'):
    nvi.ExplicitDensities([initial, target, target])


def test_a_proposal_over_another_support():
  path = nvi.GeometricPath(NORMAL, tfd.Normal(1.0, 1.0), 3)
  for proposal in (tfd.Poisson(3.0), tfd.Deterministic(0.3)):
    with pytest.raises(ValueError, match='`initial_proposal` must be over the'):
      nvi.NestedSampler(
        path,
        nvi.GaussianTransitions(path, [5]),
        initial_proposal=proposal,
      )
    with pytest.raises(ValueError, match='`reverse_fn` must be over the same'):
      densities_lib.check_support('reverse_fn', proposal, path)
    with pytest.raises(ValueError, match='`initial_proposal` must be over the'):
      path.check_proposal('initial_proposal', proposal)
  with pytest.raises(ValueError, match='`proposal` must be positive wherever'):
    path.check_proposal('proposal', tfd.Uniform(-1.0, 1.0))
  path.check_proposal('proposal', tfd.Normal(1.0, 3.0))
  densities_lib.check_support('reverse_fn', tfd.Normal(1.0, 3.0), path)


@pytest.mark.parametrize(
  'bijector', [tfb.Scale(0.0), tfb.Square()], ids=lambda b: b.name
)
def test_degenerate_bijectors(bijector):
  initial = tfd.Gamma(2.0, 2.0)
  with pytest.raises(
    ValueError, match='`event_space_bijector`.*' + bijector.name
  ):
    nvi.GeometricPath(initial, initial, 3, event_space_bijector=bijector)


@pytest.mark.parametrize(
  'initial, target, bijector',
  [
    # By points beyond the draws of the initial density.
    (tfd.Uniform(0.0, 1.0), NORMAL.log_prob, tfb.Identity()),
    (tfd.Gamma(2.0, 2.0), NORMAL, None),
    # By draws of the target, too far away for the others.
    (tfd.Uniform(0.0, 1.0), tfd.Uniform(0.0, 3.0), None),
    (tfd.TruncatedNormal(0.0, 1.0, -5.0, 5.0), tfd.Normal(50.0, 1.0), None),
    (tfd.Categorical(probs=[0.5, 0.5, 0.0]), tfd.Categorical([0.0] * 3), None),
  ],
  ids=['uniform', 'gamma', 'intervals', 'truncated', 'categorical'],
)
def test_mass_where_the_initial_density_is_zero(initial, target, bijector):
  with pytest.raises(ValueError, match='`initial` must be positive wherever'):
    nvi.GeometricPath(initial, target, 3, event_space_bijector=bijector)


def test_zero_levels():
  """Where a Gaussian kernel would lose mass."""
  wall = lambda x: tf.where(x > 0.0, NORMAL.log_prob(x), -INF)  # noqa: E731
  path = nvi.GeometricPath(NORMAL, wall, 4)
  assert tuple(path.zero_levels) == ()
  path = nvi.GeometricPath(NORMAL, wall, 4, zero_log_ratio=-INF)
  assert tuple(path.zero_levels) == (0, 1, 2)
  densities = nvi.ExplicitDensities([NORMAL, wall, NORMAL, wall])
  assert densities.zero_levels == (1,)
  uniform = tfd.Uniform(0.0, 1.0)
  path = nvi.GeometricPath(
    uniform, uniform, 3, event_space_bijector=tfb.Identity()
  )
  assert tuple(path.zero_levels) == (0, 1)
  path = nvi.GeometricPath(uniform, tfd.Beta(2.0, 3.0), 3)
  assert tuple(path.zero_levels) == ()


@pytest.mark.parametrize('dtype', [tf.float16, tf.bfloat16])
def test_half_precision(dtype):
  normal = tfd.Normal(tf.constant(0.0, dtype), tf.constant(1.0, dtype))
  with pytest.raises(ValueError, match='`target` must be over float32 or flo'):
    nvi.GeometricPath(normal, normal, 3)


# NaN.


def test_some_nan_is_no_error():
  path = nvi.GeometricPath(tfd.Normal(0.0, 2.0), tf.math.log, 3)
  log_prob = path.log_prob(1, path.evaluate(1, tf.constant([2.0, -2.0])))
  assert np.all(np.isfinite(log_prob))
  log_prob = path.log_prob(2, path.evaluate(2, tf.constant([2.0, -2.0])))
  np.testing.assert_allclose(log_prob, [np.log(2.0), np.nan], rtol=1e-6)


def test_describe_nan():
  """Names the argument, the part of a model, and a point of its space."""
  scale = tfd.Gamma(2.0, 2.0)

  def make(cls):
    # NaN for a scale above two.
    return cls(
      dict(
        scale=scale,
        y=lambda scale: tfd.Normal(0.0, tf.where(scale > 2.0, np.nan, scale)),
      )
    )

  prior = tfd.JointDistributionNamed(dict(scale=scale))
  for cls in (
    tfd.JointDistributionNamed,
    tfd.JointDistributionNamedAutoBatched,
  ):
    target = make(cls).experimental_pin(y=0.5)
    path = nvi.GeometricPath(prior, target, 3)
    fine = path.inverse(dict(scale=tf.constant([1.0, 1.5])))
    assert path.describe_nan(fine) is None
    message = path.describe_nan(
      path.inverse(dict(scale=tf.constant([1.0, 3.0])))
    )
    assert '`target`' in message and "'y'" in message
    assert '3.0' in message and "'scale'" in message
  joint = make(tfd.JointDistributionNamed)
  path = nvi.GeometricPath(joint, joint, 2)
  message = path.describe_nan(
    path.inverse(dict(scale=tf.constant([1.0, 3.0]), y=tf.constant([0.0, 1.0])))
  )
  assert '`initial`' in message and "'y'" in message
  densities = nvi.ExplicitDensities([NORMAL, tf.math.log, NORMAL])
  message = densities.describe_nan(tf.constant([1.0, -2.5]))
  assert '`densities[1]`' in message and '-2.5' in message


def test_nested_structure_of_bijectors():
  """As inference_gym's targets have: one bijector for each part of a state."""
  initial = tfd.JointDistributionNamed(
    dict(rate=tfd.Gamma(3.0, 2.0), x=tfd.Normal(0.0, 1.0))
  )
  parts = dict(rate=tfb.Softplus(), x=tfb.Identity())
  nested, joint = (
    nvi.GeometricPath(initial, initial, 2, event_space_bijector=bijector)
    for bijector in (parts, tfb.JointMap(parts))
  )
  state = dict(rate=tf.constant([-0.3, 1.2]), x=tf.constant([0.5, -2.0]))
  np.testing.assert_allclose(
    nested.log_prob(1, nested.evaluate(1, state)),
    joint.log_prob(1, joint.evaluate(1, state)),
    rtol=1e-6,
  )
  with pytest.raises(TypeError, match='event_space_bijector.*got 3'):
    nvi.GeometricPath(
      initial, initial, 2, event_space_bijector=dict(rate=3, x=tfb.Identity())
    )


class _Other(tfb.Bijector):
  """A bijector that is no composite tensor."""

  def __init__(self):
    super().__init__(forward_min_event_ndims=1, dtype=tf.float32)

  def _forward(self, x):
    return x[..., ::-1]


def test_kinds_of_both_forms_of_a_distribution():
  """TFP's classes have a base class for parameters of other kinds."""
  mixture = tfd.MixtureSameFamily(
    tfd.Categorical(logits=[0.0, 0.0]),
    tfd.MultivariateNormalDiag(tf.zeros([2, 3]), tf.ones([2, 3])),
  )
  changed = tfd.TransformedDistribution(mixture, _Other())
  assert not isinstance(changed, tfd.TransformedDistribution)
  assert nvi.densities.support_kinds(changed) == ('continuous',)

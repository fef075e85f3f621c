# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws are Threefry's, have the right law, and do not depend on execution.

The cipher is written down a second time here, in NumPy, and held against the
published test vectors. The law of the draws is tested by moments and by the
Kolmogorov-Smirnov distance. Seeds are fixed; over seeds, each test of a law
would reject correct draws with a probability of at most 1e-6 (`ALARM`, divided
among the statistics of a test).
"""

import ast
import functools
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability.python.internal import samplers

from tfp_nvi.internal import randomness
from tfp_nvi.internal.randomness import draws as draws_lib

tfd = tfp.distributions

ALARM = 1e-6
SEED = np.array([1234567, -7654321], np.int32)

every_dtype = pytest.mark.parametrize(
  'dtype', [tf.float32, tf.float64], ids=lambda dtype: dtype.name
)


def threefry(key, counter):
  """Threefry-2x32-20 as Salmon et al. define it, on arrays of Python ints."""
  mask = 0xFFFFFFFF
  keys = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
  x, y = [(c + k) & mask for c, k in zip(counter, keys[:2], strict=True)]
  rotations = [13, 15, 26, 6, 17, 29, 16, 24]
  for round_ in range(20):
    rotation = rotations[round_ % 8]
    x = (x + y) & mask
    y = ((y << rotation) | (y >> (32 - rotation))) & mask
    y ^= x
    if round_ % 4 == 3:
      injection = round_ // 4 + 1
      x = (x + keys[injection % 3]) & mask
      y = (y + keys[(injection + 1) % 3] + injection) & mask
  return x, y


def as_int32(word):
  return np.array(word, np.uint32).view(np.int32)


# Vectors published with Random123.
KNOWN_ANSWERS = [
  ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
  ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
  (
    (0x13198A2E, 0x03707344),
    (0x243F6A88, 0x85A308D3),
    (0xC4923A9C, 0x483DF7A0),
  ),
]


@pytest.mark.parametrize('key, counter, expected', KNOWN_ANSWERS)
def test_known_answers(key, counter, expected):
  assert threefry(key, counter) == expected
  words = draws_lib._threefry(
    as_int32([key]), as_int32(counter[:1]), as_int32(counter[1])
  )
  assert tuple(words[0].numpy()) == expected


def test_many_blocks_agree_with_numpy():
  rng = np.random.default_rng(0)
  for _ in range(5):
    key = [int(k) for k in rng.integers(0, 2**32, 2)]
    counters = rng.integers(0, 2**32, 7)
    purpose = int(rng.integers(0, 2**32))
    words = draws_lib._threefry(
      as_int32([key]), as_int32(counters), as_int32(purpose)
    )
    expected = [threefry(key, (int(c), purpose)) for c in counters]
    np.testing.assert_array_equal(words[0], np.transpose(expected).reshape(-1))


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_many_seeds_are_one_after_the_other(dtype):
  seeds = randomness.split_seed(randomness.as_seed(1), 3)
  for shape in ([], [5], [2, 3]):
    stacked = randomness.normal(shape, seeds, dtype)
    assert stacked.shape == [3, *shape]
    for seed, values in zip(seeds, stacked, strict=True):
      np.testing.assert_array_equal(
        values, randomness.normal(shape, seed, dtype)
      )


def reference_words(count, purpose=0, seed=SEED):
  key = [int(k) for k in seed.view(np.uint32)]
  blocks = [threefry(key, (i, purpose)) for i in range((count + 1) // 2)]
  return np.transpose(blocks).reshape(-1)[:count]


def test_values_are_made_of_the_cipher():
  words = reference_words(15)
  expected = ((words >> 9) + 0.5) / 2.0**23
  values = randomness.uniform([3, 5], SEED)
  assert values.dtype == tf.float32
  np.testing.assert_array_equal(values, np.reshape(expected, [3, 5]))
  np.testing.assert_allclose(
    randomness.normal([3, 5], SEED),
    scipy.special.ndtri(expected).reshape([3, 5]),
    rtol=2e-5,
    atol=1e-6,
  )
  high, low = reference_words(30).reshape([2, 15]) >> 6
  expected = (high * 2.0**26 + low + 0.5) / 2.0**52
  values = randomness.uniform([15], SEED, tf.float64)
  assert values.dtype == tf.float64
  np.testing.assert_allclose(values, expected, rtol=0.0, atol=2.0**-53)
  np.testing.assert_allclose(
    randomness.normal([15], SEED, tf.float64),
    scipy.special.ndtri(expected),
    rtol=1e-11,
    atol=1e-13,
  )


def test_seeds_are_made_of_the_cipher():
  np.testing.assert_array_equal(
    randomness.split_seed(SEED, 3),
    as_int32(reference_words(6, purpose=1)).reshape([3, 2]),
  )
  key = [int(k) for k in SEED.view(np.uint32)]
  for data in (0, 7, -1):
    np.testing.assert_array_equal(
      randomness.fold_in(SEED, data),
      as_int32(threefry(key, (data % 2**32, 2))),
    )
  data = np.array([[3, 7, -1], [0, 5, 2]], np.int32)
  expected = [[randomness.fold_in(SEED, i) for i in row] for row in data]
  np.testing.assert_array_equal(randomness.fold_in(SEED, data), expected)
  for shape in (None, [None, 3]):
    fold_in = tf.function(
      lambda data: randomness.fold_in(SEED, data),
      input_signature=[tf.TensorSpec(shape, tf.int32)],
    )
    np.testing.assert_array_equal(fold_in(data), expected)


@every_dtype
@pytest.mark.parametrize('word', [0, 2**32 - 1])
def test_the_ends_are_excluded(monkeypatch, dtype, word):
  """Also where the cipher returns its smallest or largest word."""
  monkeypatch.setattr(
    draws_lib,
    '_words',
    lambda shape, *args: tf.fill(shape, tf.constant(word, tf.uint32)),
  )
  value = randomness.uniform([1], SEED, dtype).numpy()
  normal = randomness.normal([1], SEED, dtype).numpy()
  assert 0.0 < value < 1.0
  assert np.isfinite(normal)
  # The points lie symmetrically, so that odd moments have mean zero exactly.
  bits = 23 if dtype == tf.float32 else 52
  end = 0.5 ** (bits + 1)
  expected = end if word == 0 else 1.0 - end
  # In float64 the sum of 53 bits is rounded once.
  assert abs(value - expected) <= (0.0 if bits == 23 else 2.0**-53)
  assert abs(normal) > 5.0


@every_dtype
@pytest.mark.parametrize(
  'draw, cdf',
  [
    (randomness.uniform, scipy.stats.uniform.cdf),
    (randomness.normal, scipy.stats.norm.cdf),
  ],
  ids=['uniform', 'normal'],
)
def test_law(dtype, draw, cdf):
  size = 200_000
  u = cdf(draw([size], randomness.as_seed(3), dtype).numpy())
  assert scipy.stats.kstest(u, 'uniform').pvalue > ALARM / 6
  # Moments, and correlations of neighbours and of the two words of a block:
  # each has mean zero and the given variance for independent uniform values.
  v = np.sqrt(12.0) * (u - 0.5)
  for statistic, variance in (
    (v, 1.0),
    (v**2 - 1.0, 0.8),
    (v**3, 27.0 / 7.0),
    (v[1:] * v[:-1], 1.0),
    (v[size // 2 :] * v[: size // 2], 1.0),
  ):
    z = np.sqrt(statistic.size / variance) * statistic.mean()
    assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM / 6


def test_seeds_and_values_are_unrelated():
  """Draws from a seed, from its splits and from its folds do not correlate."""
  size = 4_000
  pieces = [
    randomness.uniform([size], SEED, tf.float64),
    randomness.uniform([size], randomness.fold_in(SEED, 0), tf.float64),
    randomness.uniform([size], randomness.fold_in(SEED, 1), tf.float64),
    *(
      randomness.uniform([size], s, tf.float64)
      for s in tf.unstack(randomness.split_seed(SEED, 3))
    ),
    # The seeds themselves, as numbers.
    *randomness.split_seed(SEED, size).numpy().astype(np.float64).T,
  ]
  correlations = np.corrcoef(np.stack(pieces))
  pairs = correlations[np.triu_indices(len(pieces), 1)]
  z = np.sqrt(size) * np.abs(pairs).max()
  assert 2.0 * scipy.stats.norm.sf(z) > ALARM / pairs.size


def test_seeds_are_distinct():
  seeds = randomness.split_seed(SEED, 20_000).numpy()
  assert len(np.unique(seeds, axis=0)) == 20_000
  folded = [tuple(randomness.fold_in(SEED, i).numpy()) for i in range(50)]
  assert len(set(folded)) == 50


def test_shapes():
  assert randomness.normal([], SEED).shape == []
  assert randomness.uniform([0, 3], SEED).shape == [0, 3]
  assert randomness.uniform(tf.TensorShape([2]), SEED).shape == [2]
  assert randomness.normal(tf.constant([4, 1]), SEED).shape == [4, 1]
  # A draw is the same whatever the shape is called.
  np.testing.assert_array_equal(
    tf.reshape(randomness.normal([4, 3], SEED), [-1]),
    randomness.normal((12,), SEED),
  )

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
  def draw(x):
    return randomness.normal(tf.shape(x), SEED, tf.float64)

  np.testing.assert_array_equal(
    draw(tf.zeros([5])), randomness.normal([5], SEED, tf.float64)
  )


def test_as_seed():
  np.testing.assert_array_equal(randomness.as_seed(5), [0, 5])
  np.testing.assert_array_equal(randomness.as_seed(np.int64(5)), [0, 5])
  np.testing.assert_array_equal(randomness.as_seed(2**32 + 5), [1, 5])
  np.testing.assert_array_equal(randomness.as_seed(-1), [-1, -1])
  np.testing.assert_array_equal(randomness.as_seed(SEED), SEED)
  np.testing.assert_array_equal(randomness.as_seed((3, 4)), [3, 4])
  first, second = randomness.as_seed(None), randomness.as_seed(None)
  assert first.dtype == tf.int32 and first.shape == [2]
  assert np.any(first != second)


@pytest.mark.parametrize('seed', [True, 1.5, [0.5, 1.5], 'seed', [[1], 2]])
def test_seed_of_another_kind(seed):
  with pytest.raises(TypeError, match='`seed` must be an int, an integer'):
    randomness.as_seed(seed)


@pytest.mark.parametrize('seed', [[1, 2, 3], [[1, 2]]])
def test_seed_of_another_shape(seed):
  with pytest.raises(ValueError, match='`seed` must be .*shape'):
    randomness.as_seed(seed)


# Drawn in one function for all, as what takes time is compiling.
DISTRIBUTIONS = {
  'normal': lambda d: tfd.Normal(d(1.0), d(2.0)),
  'diagonal': lambda d: tfd.MultivariateNormalDiag(d([1.0, 2.0])),
  'uniform': lambda d: tfd.Uniform(d(-1.0), d(3.0)),
  'laplace': lambda d: tfd.Laplace(d(1.0), d(2.0)),
  'logistic': lambda d: tfd.Logistic(d(1.0), d(2.0)),
  'exponential': lambda d: tfd.Exponential(d(2.0)),
  'categorical': lambda d: tfd.Categorical(logits=d([[0.0, 1.0], [2.0, 0.0]])),
  'bernoulli': lambda d: tfd.Bernoulli(logits=d([0.0, 1.0])),
  'mixture': lambda d: tfd.MixtureSameFamily(
    tfd.Categorical(logits=d([0.0, 1.0])), tfd.Normal(d([-3.0, 3.0]), d(1.0))
  ),
  'gamma': lambda d: tfd.Gamma(d([0.3, 2.0]), d(2.0)),
  'poisson': lambda d: tfd.Poisson(d([0.5, 30.0])),
  'binomial': lambda d: tfd.Binomial(d([5.0, 100.0]), probs=d(0.4)),
  'joint': lambda d: tfd.JointDistributionNamed(
    dict(x=tfd.Normal(d(0.0), d(1.0)), y=lambda x: tfd.Laplace(x, d(1.0)))
  ),
}
RESAMPLERS = [
  tfp.experimental.mcmc.resample_systematic,
  tfp.experimental.mcmc.resample_independent,
  tfp.experimental.mcmc.resample_stratified,
]
KERNELS = {
  'random_walk': lambda fn, d: tfp.mcmc.RandomWalkMetropolis(fn),
  'hamiltonian': lambda fn, d: tfp.mcmc.HamiltonianMonteCarlo(fn, d(0.5), 2),
}


def draw_own(seed, dtype):
  """Draws of this library's own functions."""
  return {
    'normal': randomness.normal([7, 3], seed, dtype),
    'uniform': randomness.uniform([7, 3], seed, dtype),
    'split_seed': randomness.split_seed(seed, 5),
    'fold_in': randomness.fold_in(seed, 3),
  }


def draw_with_tfp(seed, dtype):
  """Draws of TFP's distributions, resampling functions and kernels."""
  d = functools.partial(tf.constant, dtype=dtype)
  log_probs = tf.math.log_softmax(
    d([[0.0, 1.0], [2.0, 0.0], [1.0, -1.0], [0.5, 0.5]]), axis=0
  )
  state = d([[0.5, -0.5], [1.0, 2.0]])
  draws = {}
  with randomness.portable_sampling():
    for name, make in DISTRIBUTIONS.items():
      draws[name] = make(d).sample(6, seed=seed)
    for resample_fn in RESAMPLERS:
      draws[resample_fn.__name__] = resample_fn(log_probs, 4, (), seed=seed)
    for name, make in KERNELS.items():
      kernel = make(lambda x: -0.5 * tf.reduce_sum(x**2, axis=-1), d)
      moved, results = kernel.one_step(
        state, kernel.bootstrap_results(state), seed=seed
      )
      draws[name] = moved, results.is_accepted
  return draws


@pytest.mark.parametrize(
  'draw, dtype',
  [
    pytest.param(draw_own, tf.float32, id='own-float32'),
    pytest.param(draw_own, tf.float64, id='own-float64'),
    pytest.param(draw_with_tfp, tf.float32, id='tfp-float32'),
    pytest.param(
      draw_with_tfp, tf.float64, id='tfp-float64', marks=pytest.mark.slow
    ),
  ],
)
def test_draws_do_not_depend_on_execution(draw, dtype):
  fn = functools.partial(draw, dtype=dtype)
  seed = tf.constant(SEED)
  eager = fn(seed)
  tolerance = 2e-5 if dtype == tf.float32 else 1e-11
  for jit_compile in (False, True):
    other = tf.function(fn, jit_compile=jit_compile)(seed)
    for name, expected in eager.items():
      tf.nest.map_structure(
        lambda a, b, name=name: np.testing.assert_allclose(
          tf.cast(a, tf.float64),
          tf.cast(b, tf.float64),
          rtol=tolerance,
          atol=tolerance,
          err_msg=name,
        ),
        expected,
        other[name],
      )


def test_patched_draws_are_draws_of_this_library():
  """Without the patch the test above would hold TensorFlow against itself."""
  with randomness.portable_sampling():
    patched = tfd.Normal(0.0, 1.0).sample(4, seed=SEED)
  np.testing.assert_array_equal(patched, randomness.normal([4], SEED))
  assert np.all(patched != tfd.Normal(0.0, 1.0).sample(4, seed=SEED))


def test_laws_of_patched_distributions():
  """Discrete and continuous draws have the law of their distribution."""
  size = 100_000
  logits = np.array([0.0, 1.0, -np.inf, 2.0])
  with randomness.portable_sampling():
    classes = tfd.Categorical(logits=logits).sample(size, seed=(1, 2)).numpy()
    values = tfd.Uniform(-1.0, 3.0).sample(size, seed=(3, 4)).numpy()
  counts = np.bincount(classes, minlength=4)
  assert counts[2] == 0
  expected = size * scipy.special.softmax(logits)
  keep = expected > 0.0
  assert scipy.stats.chisquare(counts[keep], expected[keep]).pvalue > ALARM / 2
  assert (
    scipy.stats.kstest(values, scipy.stats.uniform(-1.0, 4.0).cdf).pvalue
    > ALARM / 2
  )


def test_what_is_not_patched_still_works():
  with randomness.portable_sampling():
    integers = samplers.uniform([100], 0, 6, dtype=tf.int32, seed=(1, 2))
    gamma = tfd.Gamma(2.0, 1.0).sample(3, seed=(1, 2))
  assert set(integers.numpy()) <= set(range(6))
  assert np.all(gamma > 0.0)
  plain = samplers.uniform([100], 0, 6, dtype=tf.int32, seed=(1, 2))
  assert set(plain.numpy()) <= set(range(6))


@pytest.mark.parametrize('jit_compile', [False, True])
def test_categorical_draws_are_gumbel_maxima(jit_compile):
  """Also where the others have no chance, and where none has."""
  logits = np.random.default_rng(1).normal(scale=3.0, size=[8, 6])
  logits[1, :3] = -np.inf
  logits[2] = -np.inf
  logits[3, 4] = np.inf
  logits[4] = [0.0, 300.0, 299.0, 301.0, -1e30, 298.0]
  logits[5] = [1e4, -1e4, 0.0, np.inf, -np.inf, 0.0]
  logits[6, 1:] = -np.inf, np.inf, -np.inf, -np.inf, -np.inf
  logits[7] = [-np.inf, -1e30, -np.inf, -np.inf, -np.inf, -np.inf]

  @tf.function(jit_compile=jit_compile, autograph=False)
  def draw(logits):
    with randomness.portable_sampling():
      return samplers.tf.random.stateless_categorical(logits, 1_000, SEED)

  values = randomness.uniform([8, 1_000, 6], SEED, tf.float64)
  expected = np.argmax(logits[:, np.newaxis] - np.log(-np.log(values)), axis=-1)
  np.testing.assert_array_equal(draw(tf.constant(logits)), expected)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_categorical_draws_of_no_rows_or_no_classes(jit_compile):
  @tf.function(jit_compile=jit_compile, autograph=False)
  def draw(logits):
    with randomness.portable_sampling():
      return tfd.Categorical(logits).sample(50, seed=SEED)

  assert draw(tf.zeros([0, 3])).shape == [50, 0]
  with pytest.raises(ValueError, match=r'one class .* got the shape \(.*, 0\)'):
    draw(tf.zeros([2, 0]))


def test_the_patch_is_undone():
  original = samplers.tf
  expected = tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2))
  with randomness.portable_sampling():
    assert samplers.tf is not original
    with randomness.portable_sampling():
      pass
    # An inner context leaves the outer one's patch in place.
    assert samplers.tf is not original
  assert samplers.tf is original
  with pytest.raises(RuntimeError, match='on purpose'):
    with randomness.portable_sampling():
      raise RuntimeError('on purpose')
  assert samplers.tf is original

  @tf.function
  def fails():
    with randomness.portable_sampling():
      return tf.zeros([2]) + tf.zeros([3])

  with pytest.raises(ValueError):
    fails()
  assert samplers.tf is original
  np.testing.assert_array_equal(
    expected, tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2))
  )


# Half precision.


@pytest.mark.parametrize('dtype', [tf.float16, tf.bfloat16])
@pytest.mark.parametrize('jit_compile', [False, True])
def test_half_precision_is_rounded_float32(dtype, jit_compile):
  """The ends stay excluded: a uniform value never rounds to zero or one."""
  size = 100_000

  @tf.function(jit_compile=jit_compile)
  def draw(seed):
    return (
      randomness.normal([size], seed, dtype),
      randomness.uniform([size], seed, dtype),
    )

  normal, uniform = draw(tf.constant(SEED))
  assert normal.dtype == uniform.dtype == dtype
  expected = tf.cast(randomness.normal([size], SEED), dtype)
  # A float32 value next to the middle of two may go either way.
  unequal = tf.cast(tf.not_equal(normal, expected), tf.float32)
  assert tf.reduce_mean(unequal) < 0.01
  uniform = tf.cast(uniform, tf.float64).numpy()
  assert uniform.min() > 0.0 and uniform.max() < 1.0
  z = np.sqrt(12 * size) * (uniform.mean() - 0.5)
  assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM


def test_other_dtypes_are_refused():
  for draw in (randomness.normal, randomness.uniform):
    with pytest.raises(TypeError, match='`dtype` must be float16.*got int32'):
      draw([3], SEED, tf.int32)


# Draws do not depend on what was run before, and leave TFP as it is.

PROGRAM = """
import sys
import tensorflow as tf
import tensorflow_probability as tfp
from tfp_nvi.internal import randomness

tfd = tfp.distributions

def plain():
  c = tf.constant(2.0)
  parts = [tfd.Gamma(c, 1.0), tfd.Poisson(c), tfd.Binomial(5.0, probs=c / 4.0)]
  return tf.stack([d.sample(20, seed=[0, 1]) for d in parts])

def portable():
  with randomness.portable_sampling():
    return plain()

functions = {
  'plain': plain,
  'plain_xla': tf.function(plain, jit_compile=True),
  'portable': portable,
  'portable_xla': tf.function(portable, jit_compile=True),
}
for name in sys.argv[1:]:
  print(name, functions[name]().numpy().ravel().tolist())
"""


def run_in_order(*names):
  """What each of some functions draws, in a process of its own."""
  result = subprocess.run(
    [sys.executable, '-c', PROGRAM, *names],
    capture_output=True,
    text=True,
    check=True,
    cwd=pathlib.Path(__file__).parents[1],
  )
  lines = [line.split(' ', 1) for line in result.stdout.splitlines()]
  return {name: np.array(ast.literal_eval(text)) for name, text in lines}


@pytest.mark.slow
def test_draws_do_not_depend_on_what_was_run_before():
  """In both directions: TFP's samplers are traced once, in the first context.

  Plain TFP's draws may depend on each other's order, not on the portable ones.
  """
  before = run_in_order('plain', 'plain_xla', 'portable', 'portable_xla')
  after = run_in_order('portable_xla', 'portable', 'plain', 'plain_xla')
  compiled = run_in_order('plain_xla', 'portable_xla', 'portable')
  for name, values in before.items():
    np.testing.assert_array_equal(values, after[name], err_msg=name)
  for name in ('portable', 'portable_xla'):
    np.testing.assert_array_equal(before[name], compiled[name], err_msg=name)
  np.testing.assert_allclose(
    before['portable'], before['portable_xla'], rtol=1e-5
  )
  assert np.any(before['portable'] != before['plain'])


@every_dtype
def test_gradients_of_gamma_draws(dtype):
  """By implicit differentiation: `-(dF/da) / p`, as TFP defines them."""
  shape = tf.constant([0.5, 2.0, 7.0], dtype)
  rate = tf.constant([1.0, 2.0, 0.5], dtype)

  def draw(shape, rate):
    with tf.GradientTape() as tape:
      tape.watch([shape, rate])
      with randomness.portable_sampling():
        values = tfd.Gamma(shape, rate).sample(4, seed=SEED)
    return values, tape.gradient(values, [shape, rate])

  def derivative(fn, x):
    step = 1e-6 * x
    return (fn(x + step) - fn(x - step)) / (2.0 * step)

  for jit_compile in (None, True):
    fn = draw if jit_compile is None else tf.function(draw, jit_compile=True)
    values, (by_shape, by_rate) = fn(shape, rate)
    z = np.asarray(values, np.float64)
    a, b = np.asarray(shape, np.float64), np.asarray(rate, np.float64)
    expected = -derivative(
      lambda a, z=z, b=b: scipy.special.gammainc(a, b * z), a
    ) / scipy.stats.gamma.pdf(z, a, scale=1.0 / b)
    np.testing.assert_allclose(by_shape, expected.sum(axis=0), rtol=1e-3)
    np.testing.assert_allclose(by_rate, (-z / b).sum(axis=0), rtol=1e-4)


def test_laws_of_rejection_samplers():
  size = 50_000
  laws = {
    'gamma': (tfd.Gamma(0.4, 2.0), scipy.stats.gamma(0.4, scale=0.5)),
    'poisson': (tfd.Poisson(3.0), scipy.stats.poisson(3.0)),
    'binomial': (tfd.Binomial(60.0, probs=0.4), scipy.stats.binom(60, 0.4)),
  }
  for name, (distribution, law) in laws.items():
    with randomness.portable_sampling():
      values = distribution.sample(size, seed=(5, 6)).numpy().astype(float)
    z = np.sqrt(size) * (values.mean() - law.mean()) / law.std()
    assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM / 6, name
    centered = (values - law.mean()) ** 2
    z = (centered.mean() - law.var()) / (centered.std() / np.sqrt(size))
    assert 2.0 * scipy.stats.norm.sf(abs(z)) > ALARM / 6, name


def test_other_threads_draw_as_before():
  """While a thread is inside of the context, and whoever leaves it last."""
  original = samplers.tf
  expected = tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2)).numpy()
  with randomness.portable_sampling():
    portable = tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2)).numpy()
  inside, may_leave = threading.Event(), threading.Event()
  values = {}

  def stay_inside():
    with randomness.portable_sampling():
      inside.set()
      may_leave.wait(60)
      values['inside'] = tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2)).numpy()

  thread = threading.Thread(target=stay_inside)
  thread.start()
  assert inside.wait(60)
  # Neither waits for the other, and the patch is undone by the last one.
  values['outside'] = tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2)).numpy()
  with randomness.portable_sampling():
    values['also'] = tfd.Normal(0.0, 1.0).sample(3, seed=(1, 2)).numpy()
  may_leave.set()
  thread.join()
  assert samplers.tf is original
  np.testing.assert_array_equal(values['outside'], expected)
  np.testing.assert_array_equal(values['inside'], portable)
  np.testing.assert_array_equal(values['also'], portable)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Posteriors, and other densities, whose evidence is known.

Each function returns a `KnownPosterior`: the arguments of `fit_posterior`, and
the known answer. Answers are closed forms, or come from quadrature, or from
long runs of another method, as each docstring says.
"""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.internal import types

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'KnownPosterior',
  'cox_process',
  'curved_modes',
  'eight_schools',
  'forty_gaussians',
  'hierarchy',
  'logistic_regression',
  'many_well',
  'neals_funnel',
  'seeds',
  'two_gaussians',
  'unordered_means',
]


class KnownPosterior(typing.NamedTuple):
  """A target of `fit_posterior`, and the known answer.

  Fields:
    name: Python `str`.
    num_values: Python `int`: the dimension.
    target: `JointDistributionPinned`, or a callable.
    initial: `tfd.Distribution`, or `None` for the pinned model's prior.
    log_evidence: Python `float`, or `None` where it is not known.
    mode_index_fn: Python callable from values to the int32 index of their mode,
      or `None`.
    mode_probabilities: Array of shape `[num_modes]`, or `None`.
  """

  name: str
  num_values: int
  target: typing.Any
  initial: typing.Any = None
  log_evidence: float | None = None
  mode_index_fn: typing.Any = None
  mode_probabilities: typing.Any = None


def logistic_regression(
  features: types.TensorLike,
  labels: types.TensorLike,
  scale: float = 1.0,
  name: str = 'logistic_regression',
) -> KnownPosterior:
  """Makes a logistic regression with independent normal priors.

  Features are standardized, where a constant feature counts as having deviation
  one. A column of ones comes before them.

  Args:
    features: Array of shape `[n, num_features]`.
    labels: Array of shape `[n]`, of zeros and ones.
    scale: Python `float`: the deviation of the prior.
    name: Python `str`.

  Returns:
    posterior: `KnownPosterior`, of unknown evidence.

  ```python
  import tfp_nvi as nvi

  posterior = nvi.targets.posteriors.logistic_regression(
    features=[[0.0], [1.0], [2.0]], labels=[0.0, 1.0, 1.0]
  )
  assert posterior.num_values == 2
  ```
  """
  features = np.asarray(features, np.float64)
  deviations = features.std(axis=0)
  deviations[deviations == 0.0] = 1.0
  features = (features - features.mean(axis=0)) / deviations
  features = np.concatenate([np.ones([len(features), 1]), features], axis=1)
  features = tf.constant(features, tf.float32)
  labels = tf.constant(labels, tf.float32)
  size = features.shape[1]
  prior = tfd.MultivariateNormalDiag(tf.zeros(size), scale * tf.ones(size))

  def log_prob(weights):
    logits = tf.matmul(weights, features, transpose_b=True)
    log_likelihood = labels * logits - tf.nn.softplus(logits)
    return prior.log_prob(weights) + tf.reduce_sum(log_likelihood, axis=-1)

  return KnownPosterior(name, size, log_prob, prior)


def cox_process(points: types.TensorLike, num_bins: int = 40) -> KnownPosterior:
  """Makes a log-Gaussian Cox process of points in the unit square.

  The log intensity of a bin has a Gaussian process prior with mean
  `log(n) - v / 2`, `v = 1.91`, and covariance `v exp(-33 distance / num_bins)`,
  with distances in bins. The likelihood leaves out factorials, and its bins
  have areas `1 / num_bins^2`.

  Args:
    points: Array of shape `[n, 2]`.
    num_bins: Python `int`: bins along each axis.

  Returns:
    posterior: `KnownPosterior`, of unknown evidence. For the Finnish pines of
      [1] on 40 bins it is 501.806, from long runs of SMC.

  #### References

  [1]: J. Moller, A. R. Syversveen, R. P. Waagepetersen. Log Gaussian Cox
       processes. Scandinavian Journal of Statistics, 25(3), 1998.

  ```python
  import tfp_nvi as nvi

  posterior = nvi.targets.posteriors.cox_process([[0.2, 0.7]], num_bins=2)
  assert posterior.num_values == 4
  ```
  """
  points = np.asarray(points)
  bins = np.minimum((points * num_bins).astype(int), num_bins - 1)
  counts = np.zeros([num_bins, num_bins])
  np.add.at(counts, (bins[:, 0], bins[:, 1]), 1.0)
  axis = np.arange(num_bins)
  grid = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1).reshape(-1, 2)
  distances = np.linalg.norm(grid[:, np.newaxis] - grid, axis=-1)
  variance = 1.91
  covariance = variance * np.exp(-distances * 33.0 / num_bins)
  size = num_bins**2
  mean = np.log(len(points)) - 0.5 * variance
  counts = tf.constant(counts.reshape(-1), tf.float32)
  prior = tfd.MultivariateNormalTriL(
    tf.fill([size], tf.constant(mean, tf.float32)),
    tf.constant(np.linalg.cholesky(covariance), tf.float32),
  )

  def log_likelihood(f):
    return tf.reduce_sum(counts * f - tf.exp(f) / size, axis=-1)

  model = tfd.JointDistributionNamed(
    {'f': prior, 'x': lambda f: _Potential(log_likelihood(f))}
  )
  return KnownPosterior(
    f'cox_process_{size}', size, model.experimental_pin(x=0.0)
  )


class _Potential(tfd.Distribution):
  """A likelihood given by its value: any observation has this log density."""

  def __init__(self, value):
    self._value = value
    super().__init__(
      dtype=value.dtype,
      reparameterization_type=tfd.NOT_REPARAMETERIZED,
      validate_args=False,
      allow_nan_stats=True,
      parameters={'value': value},
    )

  @classmethod
  def _parameter_properties(cls, dtype, num_classes=None):
    del dtype, num_classes
    return {'value': tfp.util.ParameterProperties()}

  def _event_shape(self):
    return tf.TensorShape([])

  def _sample_n(self, n, seed=None):
    del seed
    return tf.zeros([n] + self._value.shape.as_list(), self.dtype)

  def _log_prob(self, x):
    return self._value + tf.zeros_like(x)


_SEEDS_R = '10 23 23 26 17 5 53 55 32 46 10 8 10 8 23 0 3 22 15 32 3'
_SEEDS_N = '39 62 81 51 39 6 74 72 51 79 13 16 30 28 45 4 12 41 30 51 7'


def seeds() -> KnownPosterior:
  """Makes the model of germinating seeds with random effects of plates, d = 26.

  `r ~ Binomial(n, sigmoid(a0 + a1 x1 + a2 x2 + a12 x1 x2 + b))`, with effects
  `b ~ Normal(0, tau^(-1/2))` of 21 plates, `tau ~ Gamma(0.01, 0.01)` and
  `a ~ Normal(0, 10)`. The log evidence is from quadrature over the effects and
  `tau` in double precision, with importance sampling of `a` at each point by
  40,000 draws: a standard error of 0.0004.

  Returns:
    posterior: `KnownPosterior`.

  #### References

  [1]: M. J. Crowder. Beta-binomial anova for proportions. Applied Statistics,
       27(1), 1978.

  ```python
  import tfp_nvi as nvi

  assert nvi.targets.posteriors.seeds().num_values == 26
  ```
  """
  successes, totals = (
    tf.constant([float(x) for x in text.split()])
    for text in (_SEEDS_R, _SEEDS_N)
  )
  x1 = np.repeat([0.0, 1.0], [11, 10])
  x2 = np.repeat([0.0, 1.0, 0.0, 1.0], [5, 6, 5, 5])
  features = tf.constant(np.stack([np.ones(21), x1, x2, x1 * x2]), tf.float32)
  model = tfd.JointDistributionNamed(
    {
      'tau': tfd.Gamma(0.01, 0.01),
      'a': tfd.MultivariateNormalDiag(tf.zeros(4), 10.0 * tf.ones(4)),
      'b': lambda tau: tfd.Sample(tfd.Normal(0.0, tau**-0.5), 21),
      'r': lambda a, b: tfd.Independent(
        tfd.Binomial(totals, logits=tf.matmul(a[tf.newaxis], features)[0] + b)
        if a.shape.rank == 1
        else tfd.Binomial(totals, logits=tf.matmul(a, features) + b),
        1,
      ),
    }
  )
  return KnownPosterior(
    'seeds', 26, model.experimental_pin(r=successes), log_evidence=-73.406
  )


def eight_schools() -> KnownPosterior:
  """Makes the hierarchical model of eight schools, centered, d = 10.

  The evidence is from quadrature over the mean and the log deviation.

  Returns:
    posterior: `KnownPosterior`.

  #### References

  [1]: D. B. Rubin. Estimation in parallel randomized experiments. Journal of
       Educational Statistics, 6(4), 1981.

  ```python
  import tfp_nvi as nvi

  assert nvi.targets.posteriors.eight_schools().num_values == 10
  ```
  """
  effects = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
  errors = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
  return _groups('eight_schools', 10.0, 5.0, errors, effects, -36.1308)


def _groups(name, mean_scale, loc, scales, y, log_evidence):
  """Normal effects with unknown mean and log deviation, centered."""
  num_groups = len(y)
  scales = tf.constant(scales, tf.float32)
  model = tfd.JointDistributionNamed(
    {
      'mean': tfd.Normal(0.0, mean_scale),
      'log_deviation': tfd.Normal(loc, 1.0),
      'effects': lambda mean, log_deviation: tfd.Sample(
        tfd.Normal(mean, tf.exp(log_deviation)), num_groups
      ),
      'y': lambda effects: tfd.Independent(tfd.Normal(effects, scales), 1),
    }
  )
  return KnownPosterior(
    name,
    num_groups + 2,
    model.experimental_pin(y=tf.constant(y, tf.float32)),
    log_evidence=log_evidence,
  )


def hierarchy(num_groups: int = 300) -> KnownPosterior:
  """Makes a hierarchy of many groups, in centered form.

  `mean ~ N(0, 5)`, `log_deviation ~ N(0, 1)`, effects of groups `~ N(mean,
  exp(log_deviation))`, and an observation of each effect with a known scale
  between 0.4 and 2.3. The joint density has no mode: it is unbounded where the
  deviation goes to zero. The observations are drawn from deviations of 0.3, of
  which they say little. Given the deviation, all else is Gaussian, so that the
  evidence is an integral over one value, which is computed by quadrature.

  Args:
    num_groups: Python `int`.

  Returns:
    posterior: `KnownPosterior`.

  ```python
  import tfp_nvi as nvi

  assert nvi.targets.posteriors.hierarchy(30).num_values == 32
  ```
  """
  rng = np.random.default_rng(5)
  scales = np.exp(np.clip(0.3 * rng.normal(size=num_groups), -0.9, 0.8))
  y = 1.0 + np.hypot(0.3, scales) * rng.normal(size=num_groups)
  grid = np.linspace(-10.0, 6.0, 3_201)
  precision = 1.0 / (scales**2 + np.exp(2.0 * grid[:, np.newaxis]))
  total = np.sum(precision, axis=1) + 0.04
  log_joint = (
    0.5 * np.sum(np.log(precision / (2.0 * np.pi)) - precision * y**2, axis=1)
    + 0.5 * (precision @ y) ** 2 / total
    - 0.5 * np.log(25.0 * total)
    - 0.5 * (grid**2 + np.log(2.0 * np.pi))
  )
  log_evidence = np.logaddexp.reduce(log_joint) + np.log(grid[1] - grid[0])
  return _groups('hierarchy', 5.0, 0.0, scales, y, float(log_evidence))


def neals_funnel(num_values: int = 10) -> KnownPosterior:
  """Makes Neal's funnel: `v ~ Normal(0, 3)`, others `Normal(0, exp(v / 2))`.

  Args:
    num_values: Python `int`: the dimension.

  Returns:
    posterior: `KnownPosterior` of log evidence zero, over vectors with `v`
      first.

  #### References

  [1]: R. M. Neal. Slice sampling. Annals of Statistics, 31(3), 2003.

  ```python
  import tfp_nvi as nvi

  assert nvi.targets.posteriors.neals_funnel().log_evidence == 0.0
  ```
  """

  def log_prob(x):
    v, rest = x[..., :1], x[..., 1:]
    return tf.reduce_sum(tfd.Normal(0.0, 3.0).log_prob(v), -1) + tf.reduce_sum(
      tfd.Normal(0.0, tf.exp(0.5 * v)).log_prob(rest), -1
    )

  return KnownPosterior(
    'funnel', num_values, log_prob, _broad(num_values, 3.0), 0.0
  )


def _broad(num_values, scale):
  return tfd.MultivariateNormalDiag(
    tf.zeros(num_values), scale * tf.ones(num_values)
  )


def many_well(num_wells: int = 16) -> KnownPosterior:
  """Makes a product of double wells, with `2^num_wells` modes.

  ```none
  log density = sum_i -x_i^4 + 6 x_i^2 + x_i / 2 - y_i^2 / 2
  ```

  over vectors `(x_1, y_1, x_2, ...)`. The evidence is from quadrature.

  Args:
    num_wells: Python `int`: half of the dimension.

  Returns:
    posterior: `KnownPosterior`; its modes are those of the first well.

  #### References

  [1]: F. Noe, S. Olsson, J. Kohler, H. Wu. Boltzmann generators. Science,
       365(6457), 2019.

  ```python
  import tfp_nvi as nvi

  posterior = nvi.targets.posteriors.many_well()
  assert abs(posterior.log_evidence - 164.6957) < 1e-3
  ```
  """

  def log_prob(z):
    x, y = z[..., ::2], z[..., 1::2]
    return tf.reduce_sum(-(x**4) + 6.0 * x**2 + 0.5 * x - 0.5 * y**2, axis=-1)

  x = np.linspace(-5.0, 5.0, 20_001)
  density = np.exp(-(x**4) + 6.0 * x**2 + 0.5 * x)
  total = np.sum(density) * (x[1] - x[0])
  right = np.sum(density[x > 0.0]) * (x[1] - x[0]) / total
  return KnownPosterior(
    'many_well',
    2 * num_wells,
    log_prob,
    _broad(2 * num_wells, 1.5),
    float(num_wells * (np.log(total) + 0.5 * np.log(2.0 * np.pi))),
    lambda z: tf.cast(z[..., 0] > 0.0, tf.int32),
    np.array([1.0 - right, right]),
  )


def _gaussian_mixture(name, locations, probabilities, scale):
  """Makes Gaussians of variance one at given places, with a broad start."""
  num_modes, num_values = locations.shape
  locations = tf.constant(locations, tf.float32)
  log_probabilities = tf.constant(np.log(probabilities), tf.float32)
  constant = -0.5 * num_values * np.log(2.0 * np.pi)

  def components(x):
    # Differences are squared, as an expanded square would lose digits.
    square = tf.reduce_sum((x[..., tf.newaxis, :] - locations) ** 2, axis=-1)
    return log_probabilities - 0.5 * square

  return KnownPosterior(
    name,
    num_values,
    lambda x: tf.reduce_logsumexp(components(x), axis=-1) + constant,
    _broad(num_values, scale),
    0.0,
    lambda x: tf.argmax(components(x), axis=-1, output_type=tf.int32),
    np.asarray(probabilities),
  )


def forty_gaussians(num_values: int = 2) -> KnownPosterior:
  """Makes forty equal Gaussians of variance one, at random in `[-40, 40]^d`.

  Args:
    num_values: Python `int`: the dimension.

  Returns:
    posterior: `KnownPosterior` of log evidence zero.

  ```python
  import tfp_nvi as nvi

  posterior = nvi.targets.posteriors.forty_gaussians(50)
  assert len(posterior.mode_probabilities) == 40
  ```
  """
  locations = np.random.default_rng(0).uniform(-40.0, 40.0, [40, num_values])
  return _gaussian_mixture(
    f'forty_gaussians_{num_values}', locations, np.full(40, 1.0 / 40.0), 25.0
  )


def two_gaussians(num_values: int = 20) -> KnownPosterior:
  """Makes two Gaussians of variance one and masses 0.3 and 0.7, 12 apart.

  Args:
    num_values: Python `int`: the dimension.

  Returns:
    posterior: `KnownPosterior` of log evidence zero.

  ```python
  import tfp_nvi as nvi

  assert nvi.targets.posteriors.two_gaussians().num_values == 20
  ```
  """
  place = np.full(num_values, 6.0 / np.sqrt(num_values))
  return _gaussian_mixture(
    'two_gaussians', np.stack([-place, place]), [0.3, 0.7], 5.0
  )


def curved_modes(num_values: int = 20, num_modes: int = 8) -> KnownPosterior:
  """Makes curved modes with heavy tails, random directions and unequal mass.

  Each mode is a rotation of

  ```none
  v_1 + (v_0^2 - 5 / 3) / 4,  v_i,  with v_i independent Student t variables
  ```

  with five degrees of freedom, at a random place of `[-15, 15]^d`. Masses are
  proportional to `1, ..., num_modes`. No mode is a Gaussian, and no coordinate
  is a product of others.

  Args:
    num_values: Python `int`: the dimension, at least two.
    num_modes: Python `int`.

  Returns:
    posterior: `KnownPosterior` of log evidence zero. A value is of the mode
      whose component has the largest density there.

  ```python
  import tfp_nvi as nvi

  posterior = nvi.targets.posteriors.curved_modes()
  assert len(posterior.mode_probabilities) == 8
  ```
  """
  rng = np.random.default_rng(0)
  locations = rng.uniform(-15.0, 15.0, [num_modes, num_values])
  rotations = np.stack(
    [
      np.linalg.qr(rng.normal(size=[num_values, num_values]))[0]
      for _ in range(num_modes)
    ]
  )
  probabilities = np.arange(1, num_modes + 1) / np.sum(
    np.arange(1, num_modes + 1)
  )
  to_locations, to_rotations, log_probabilities = (
    tf.constant(x, tf.float32)
    for x in (locations, rotations, np.log(probabilities))
  )
  student = tfd.StudentT(5.0, 0.0, 1.0)

  def components(x):
    v = tf.einsum(
      '...cd,cde->...ce', x[..., tf.newaxis, :] - to_locations, to_rotations
    )
    bend = 0.25 * (v[..., 0] ** 2 - 5.0 / 3.0)
    log_prob = student.log_prob(v[..., 0]) + student.log_prob(v[..., 1] - bend)
    rest = tf.reduce_sum(student.log_prob(v[..., 2:]), axis=-1)
    return log_probabilities + log_prob + rest

  return KnownPosterior(
    f'curved_modes_{num_values}',
    num_values,
    lambda x: tf.reduce_logsumexp(components(x), axis=-1),
    _broad(num_values, 10.0),
    0.0,
    lambda x: tf.argmax(components(x), axis=-1, output_type=tf.int32),
    probabilities,
  )


def unordered_means() -> KnownPosterior:
  """Makes a mixture of two Gaussians with unordered means: two equal modes.

  Thirty observations from an equal mixture with means -1.5 and 2 and deviation
  one; both means have a prior `Normal(0, 5)`. The evidence is from quadrature.

  Returns:
    posterior: `KnownPosterior`.

  ```python
  import tfp_nvi as nvi

  posterior = nvi.targets.posteriors.unordered_means()
  assert posterior.mode_probabilities[0] == 0.5
  ```
  """
  rng = np.random.default_rng(1)
  data = rng.choice([-1.5, 2.0], 30) + rng.normal(size=30)

  grid = np.linspace(-6.0, 6.0, 801)
  log_likelihood = np.zeros([801, 801])
  for y in data:
    first, second = (
      -0.5 * (y - grid[:, np.newaxis]) ** 2,
      -0.5 * (y - grid) ** 2,
    )
    log_likelihood += np.logaddexp(first, second)
  constant = len(data) * (np.log(0.5) - 0.5 * np.log(2.0 * np.pi))
  log_prior = -0.5 * (grid / 5.0) ** 2 - np.log(5.0 * np.sqrt(2.0 * np.pi))
  log_joint = log_likelihood + log_prior[:, np.newaxis] + log_prior + constant
  largest = log_joint.max()
  log_evidence = largest + np.log(
    np.sum(np.exp(log_joint - largest)) * (grid[1] - grid[0]) ** 2
  )

  model = tfd.JointDistributionNamed(
    {
      'means': tfd.MultivariateNormalDiag([0.0, 0.0], [5.0, 5.0]),
      'y': lambda means: tfd.Sample(
        tfd.MixtureSameFamily(
          tfd.Categorical(logits=tf.zeros(2)), tfd.Normal(means, 1.0)
        ),
        len(data),
      ),
    }
  )
  return KnownPosterior(
    'unordered_means',
    2,
    model.experimental_pin(y=tf.constant(data, tf.float32)),
    log_evidence=float(log_evidence),
    mode_index_fn=lambda value: tf.cast(
      value['means'][..., 0] > value['means'][..., 1], tf.int32
    ),
    mode_probabilities=np.array([0.5, 0.5]),
  )

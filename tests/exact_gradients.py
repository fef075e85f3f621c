# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Divergences of levels and their gradients by summation, and what to compare.

What must hold: nothing here uses an estimator, a sampler or a sequence of
densities of the library. A level is given by the logarithms of

```none
pi-hat     = gamma_{k-1}(y) q(z | y) / Z_{k-1}
pi-check   = gamma_k(z) r(y | z) / Z_k
```

up to a constant, at all points of a discrete space or at the nodes of an even
grid. The sum over an even grid of an analytic integrand that has vanished at
its ends is the integral up to an error that falls exponentially with the number
of nodes, so both kinds of level are the same: normalizing is a softmax.

The forward side of a level is what depends on the parameters through pi-hat,
the reverse side what depends on them through pi-check. Parameters of a flow are
in the forward side, wherever they are written.
"""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_nvi as nvi

__all__ = [
  'CSISZAR_FUNCTIONS',
  'CSISZAR_PARAMETERS',
  'Estimator',
  'Exact',
  'Level',
  'Mutant',
  'assert_agrees',
  'concatenate',
  'exact',
  'log_normal',
  'change_move',
  'labels',
  'mesh',
  'negate',
  'seeds',
  'standard_scores',
]

CSISZAR_FUNCTIONS = {
  'reverse_kl': tfp.vi.kl_reverse,
  'forward_kl': tfp.vi.kl_forward,
  'jensen_shannon': tfp.vi.jensen_shannon,
  'pearson': tfp.vi.pearson,
  'squared_hellinger': tfp.vi.squared_hellinger,
}
# The same for `pytest.mark.parametrize`.
CSISZAR_PARAMETERS = [
  pytest.param(
    name, marks=() if name in ('reverse_kl', 'forward_kl') else pytest.mark.slow
  )
  for name in CSISZAR_FUNCTIONS
]

NUM_STANDARD_ERRORS = 4.0


class Level(collections.namedtuple('Level', ['log_hat', 'log_check'])):
  """Unnormalized log pi-hat and log pi-check, at the same points."""

  __slots__ = ()


class Exact(
  collections.namedtuple('Exact', ['value', 'forward', 'reverse', 'both'])
):
  """The sum of the divergences, and its gradient by the side of the level."""

  __slots__ = ()


def mesh(num_axes, num_nodes=261, radius=11.0):
  """Even grids on `[-radius, radius]`, one for each axis, that broadcast."""
  nodes = np.linspace(-radius, radius, num_nodes)
  return [
    tf.constant(nodes.reshape([-1 if i == j else 1 for j in range(num_axes)]))
    for i in range(num_axes)
  ]


def log_normal(x, loc, log_scale):
  """Log density of a normal distribution, up to a constant."""
  log_scale = tf.convert_to_tensor(log_scale, tf.float64)
  return -0.5 * ((x - loc) * tf.exp(-log_scale)) ** 2 - log_scale


def concatenate(gradients):
  """Gradients by several variables as one vector."""
  return tf.concat(
    [tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients], axis=0
  )


def gradients_by(pairs, variables):
  """The gradients that an objective returned, zero where there is none.

  Args:
    pairs: Pairs of a gradient and its variable.
    variables: List of variables.

  Returns:
    gradients: A `Tensor` for each of `variables`.
  """
  found = {variable.ref(): gradient for gradient, variable in pairs}
  assert len(found) == len(pairs)
  return [found.get(v.ref(), tf.zeros_like(v)) for v in variables]


def labels(variables):
  """A name for each element of `concatenate`."""
  return [
    f'{v.name}[{i}]'
    for v in variables
    for i in range(v.shape.num_elements() or 1)
  ]


def exact(csiszar_function, levels_fn, variables, flow_variables=()):
  """The divergences of some levels, and their gradients.

  Args:
    csiszar_function: Python callable from `log u` to `f(u)`.
    levels_fn: Python callable that returns a list of `Level`s.
    variables: List of variables to differentiate in.
    flow_variables: Those that are parameters of flows.

  Returns:
    exact: `Exact`, of NumPy arrays.
  """

  def divergence(log_hat, log_check):
    return tf.reduce_sum(
      tf.exp(log_hat) * csiszar_function(log_check - log_hat)
    )

  value = forward = reverse = 0.0
  with tf.GradientTape(persistent=True) as tape:
    for level in levels_fn():
      log_hat, log_check = (
        tf.nn.log_softmax(tf.reshape(x, [-1])) for x in level
      )
      value += divergence(log_hat, log_check)
      forward += divergence(log_hat, tf.stop_gradient(log_check))
      reverse += divergence(tf.stop_gradient(log_hat), log_check)
  is_flow = concatenate(
    [
      tf.fill(v.shape, any(v is flow for flow in flow_variables))
      for v in variables
    ]
  )
  forward, reverse = (
    concatenate(
      tape.gradient(side, variables, unconnected_gradients='zero')
    ).numpy()
    for side in (forward, reverse)
  )
  both = forward + reverse
  return Exact(
    value.numpy(),
    np.where(is_flow, both, forward),
    np.where(is_flow, 0.0, reverse),
    both,
  )


def seeds(num_seeds, seed):
  """Stateless seeds, of shape `[num_seeds, 2]`."""
  return tf.random.stateless_uniform(
    [num_seeds, 2], [seed, 0], minval=None, maxval=None, dtype=tf.int32
  )


class Estimator:
  """Gradients of several objectives, in one compiled function.

  Which Csiszar function they are for is a variable, so that one compilation
  serves them all: estimates are linear in it.
  """

  def __init__(
    self,
    sampler,
    variables,
    objectives_fn,
    num_particles,
    jit_compile=True,
    num_members=1,
  ):
    """Initializes the estimator.

    Args:
      sampler: `NestedSampler`.
      variables: List of variables to differentiate in.
      objectives_fn: Python callable from a Csiszar function to a list of
        objectives.
      num_particles: Python `int`, or a list of one for each objective.
      jit_compile: Python `bool`.
      num_members: Python `int`: the number of members of the sampler's batch.
    """
    self._coefficients = tf.Variable(
      tf.zeros([len(CSISZAR_FUNCTIONS)], tf.float64), trainable=False
    )
    objectives = objectives_fn(self._csiszar_function)
    if isinstance(num_particles, int):
      num_particles = [num_particles] * len(objectives)

    def estimate(seed):
      rows = []
      for objective, n in zip(objectives, num_particles, strict=True):
        estimate, pairs = objective(sampler, n, seed)
        gradients = gradients_by(pairs, variables)
        loss = tf.reduce_sum(estimate.loss)
        rows.append(concatenate([*gradients, loss]) / num_members)
      return tf.stack(rows)

    self._estimate = tf.function(
      estimate, jit_compile=jit_compile, autograph=False
    )

  def _csiszar_function(self, log_u):
    return tf.add_n(
      [
        self._coefficients[i] * f(log_u)
        for i, f in enumerate(CSISZAR_FUNCTIONS.values())
      ]
    )

  def __call__(self, name, seeds):
    """Gradients and losses.

    Args:
      name: A name in `CSISZAR_FUNCTIONS`.
      seeds: int32 `Tensor` of shape `[num_seeds, 2]`.

    Returns:
      estimates: Array of shape `[num_objectives, num_seeds, num_elements + 1]`,
        losses last.
    """
    self._coefficients.assign(
      tf.one_hot(
        list(CSISZAR_FUNCTIONS).index(name),
        len(CSISZAR_FUNCTIONS),
        dtype=tf.float64,
      )
    )
    return np.stack([self._estimate(seed) for seed in seeds], axis=1)


def standard_scores(estimates, expected):
  """Differences of means from what is expected, in standard errors.

  Args:
    estimates: Array of shape `[num_seeds, n]`.
    expected: Array of shape `[n]`.

  Returns:
    scores: Array of shape `[n]`. What does not vary must be equal up to
      rounding, and else counts as infinitely far off.
  """
  difference = estimates.mean(axis=0) - expected
  error = estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates))
  varies = error > 1e-12
  return np.where(
    varies,
    difference / np.where(varies, error, 1.0),
    np.where(np.abs(difference) < 1e-10, 0.0, np.inf),
  )


def assert_agrees(estimates, expected, names):
  """Raises an error if a mean is too far from what is expected."""
  scores = standard_scores(estimates, expected)
  wrong = [
    f'{name}: {mean:.5g}, not {value:.5g} ({score:.1f} standard errors)'
    for name, mean, value, score in zip(
      names, estimates.mean(axis=0), expected, scores, strict=True
    )
    if not abs(score) <= NUM_STANDARD_ERRORS
  ]
  assert not wrong, '; '.join(wrong)


def assert_mutants_fail(names, estimates, assert_agrees_fn):
  """Raises an error unless the estimate named `'unchanged'` alone agrees.

  Args:
    names: Names of the estimates.
    estimates: As many estimates.
    assert_agrees_fn: Python callable that raises an error for an estimate that
      does not agree with what is exact.
  """
  for name, estimate in zip(names, estimates, strict=True):
    if name == 'unchanged':
      assert_agrees_fn(estimate)
    else:
      with pytest.raises(AssertionError, match='standard errors'):
        assert_agrees_fn(estimate)


def negate(x):
  """The same value with minus the gradient."""
  return 2.0 * tf.stop_gradient(x) - x


def change_move(arguments, **changes):
  """Arguments of `Mutant`, with some fields of the move changed."""
  move = arguments['move']
  dtype = arguments['log_target'].dtype
  fields = {
    name: fn(tf.convert_to_tensor(getattr(move, name), dtype))
    for name, fn in changes.items()
  }
  return {**arguments, 'move': move._replace(**fields)}


class Mutant(nvi.NestedDivergence):
  """An objective with something wrong at each level."""

  def __init__(self, mutation, *args, **kwargs):
    """Initializes the objective.

    Args:
      mutation: Python callable from the fields of `LevelTerms`, a dict, to
        other ones.
      *args: Arguments of the right objective.
      **kwargs: Likewise.
    """
    super().__init__(*args, **kwargs)
    self._mutation = mutation

  def _estimate_level(self, terms, *args, **kwargs):
    terms = type(terms)(**self._mutation(terms._asdict()))
    return super()._estimate_level(terms, *args, **kwargs)

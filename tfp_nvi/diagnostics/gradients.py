# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures how noisy the gradients of an objective are."""

import math
import typing

import numpy as np
import tensorflow as tf

from tfp_nvi.chains import Chain
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.objectives import Objective
from tfp_nvi.sampler import NestedSampler

__all__ = [
  'GradientNoise',
  'gradient_noise',
]


class GradientNoise(typing.NamedTuple):
  """The mean and the spread of a gradient, for each group of variables.

  Fields:
    groups: Tuple of Python `str`s: the names of the groups.
    signal: float64 array of shape `[num_groups]`: the norm of the mean
      gradient, corrected for the error of that mean; zero where the correction
      is larger.
    noise: float64 array of shape `[num_groups]`: the square root of the sum of
      the variances of the gradient's elements.
    signal_to_noise: float64 array of shape `[num_groups]`; NaN where both are
      zero.
    signal_to_noise_floor: Python `float`: ratios below this cannot be told from
      zero with this number of repetitions.

  ```python
  import numpy as np
  import tfp_nvi as nvi

  noise = nvi.diagnostics.GradientNoise(
    ('all',), np.ones(1), np.ones(1), np.ones(1), 0.1
  )
  assert noise.groups == ('all',)
  ```
  """

  groups: tuple
  signal: np.ndarray
  noise: np.ndarray
  signal_to_noise: np.ndarray
  signal_to_noise_floor: float

  def __str__(self):
    """Returns a table with a row for each group."""
    width = max(map(len, ('group', *self.groups)))
    lines = [f'{"group":{width}}{"signal":>11}{"noise":>11}{"ratio":>9}']
    for name, *values in zip(self.groups, *self[1:4], strict=True):
      lines.append(
        f'{name:{width}}{values[0]:11.3g}{values[1]:11.3g}{values[2]:9.3g}'
      )
    return '\n'.join(lines)


def _find_variables(sampler, objective, num_particles):
  """The variables of a sampler; of a chain, those that it has gradients for."""
  if not isinstance(sampler, Chain):
    # Objectives may be for samplers of other classes that have variables.
    if not hasattr(sampler, 'trainable_variables'):
      raise TypeError(
        f'`sampler` must be a NestedSampler or a Chain; got {sampler!r}.'
      )
    return list(sampler.trainable_variables)
  variables = []

  # Levels may make their variables here, and discriminators have some that no
  # level names.
  def find(seed):
    _, pairs = objective(sampler, num_particles, seed)
    variables[:] = [variable for _, variable in pairs]

  tf.function(find, autograph=False).get_concrete_function(
    tf.TensorSpec([2], tf.int32)
  )
  return variables


def _as_groups(groups, variables):
  """Returns the groups as a dict from names to lists of variables."""
  if groups is None:
    return {'all': variables}
  checks.check_instance('groups', groups, dict, 'a Python dict')
  known = {variable.ref() for variable in variables}
  for name, members in groups.items():
    members = checks.as_list(f'groups[{name!r}]', members, 'tf.Variables')
    if not members or any(
      not isinstance(v, tf.Variable) or v.ref() not in known for v in members
    ):
      raise ValueError(
        f'`groups[{name!r}]` must be a list of trainable variables of '
        f'`sampler`; got {members!r}.'
      )
  return groups


def gradient_noise(
  sampler: NestedSampler | Chain,
  objective: Objective,
  num_particles: int,
  num_repeats: int = 200,
  groups: dict | None = None,
  jit_compile: bool = True,
  seed: types.Seed | None = None,
) -> GradientNoise:
  """Measures the signal and the noise of the gradients of an objective.

  The signal-to-noise ratio decides how fast training can go, and whether more
  particles help. For the proposal of a bound on the log normalizer, it falls as
  the bound becomes tighter [1]; for a nested objective, it grows.

  Args:
    sampler: `NestedSampler` or `Chain`, whose variables stay as they are.
    objective: `Objective`.
    num_particles: Python `int`.
    num_repeats: Python `int`: how many gradients to take, at least 2.
      Default value: `200`.
    groups: Python `dict` from names to lists of trainable variables; of a
      chain, of those that the objective has gradients for.
      Default value: `None` (i.e., one group of all these variables).
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `True`.
    seed: Python `int` or stateless seed.

  Returns:
    noise: `GradientNoise`.

  Raises:
    TypeError: If an argument is of the wrong kind.
    ValueError: If a count is too small, or a group has other variables.

  #### References

  [1]: T. Rainforth, A. R. Kosiorek, T. A. Le, C. J. Maddison, M. Igl, F. Wood,
       Y. W. Teh. Tighter variational bounds are not necessarily better. ICML,
       2018. https://arxiv.org/abs/1802.04537

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  path = nvi.GeometricPath(
    tfp.distributions.Normal(0.0, 1.0),
    tfp.distributions.Normal(2.0, 1.0),
    num_densities=2,
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  noise = nvi.diagnostics.gradient_noise(
    sampler, nvi.reverse_kl(), num_particles=16, num_repeats=10, seed=1
  )
  print(noise)
  ```
  """
  checks.check_instance(
    'objective', objective, Objective, 'a tfp_nvi.Objective'
  )
  num_particles = checks.as_count('num_particles', num_particles)
  num_repeats = checks.as_count('num_repeats', num_repeats, 2)
  checks.check_bool('jit_compile', jit_compile)
  variables = _find_variables(sampler, objective, num_particles)
  groups = _as_groups(groups, variables)

  def take_one(seed):
    _, pairs = objective(sampler, num_particles, seed)
    found = {variable.ref(): gradient for gradient, variable in pairs}
    return [
      tf.cast(found.get(v.ref(), tf.zeros_like(v)), tf.float64)
      for v in variables
    ]

  @tf.function(autograph=False, jit_compile=jit_compile)
  def take_sums(seeds, first):
    """Sums gradients, less `first`, and the squares of these differences."""

    def body(i, sums, squares):
      gradients = [
        g - f for g, f in zip(take_one(seeds[i]), first, strict=True)
      ]
      sums = [s + g for s, g in zip(sums, gradients, strict=True)]
      squares = [s + g**2 for s, g in zip(squares, gradients, strict=True)]
      return i + 1, sums, squares

    zeros = [tf.zeros_like(f) for f in first]
    _, sums, squares = tf.while_loop(
      lambda i, *_: i < num_repeats,
      body,
      (tf.constant(0), zeros, zeros),
      maximum_iterations=num_repeats,
    )
    return sums, squares

  seeds = randomness.split_seed(randomness.as_seed(seed), num_repeats)
  zeros = [tf.zeros(v.shape, tf.float64) for v in variables]
  # The mean gradient is subtracted before squaring, so that the variance is not
  # a small difference of large sums.
  first = [total / num_repeats for total in take_sums(seeds, zeros)[0]]
  sums, squares = take_sums(seeds, first)
  places = {variable.ref(): i for i, variable in enumerate(variables)}
  signal, noise = np.zeros([2, len(groups)])
  for j, members in enumerate(groups.values()):
    indices = [places[variable.ref()] for variable in members]
    mean_square = variance = 0.0
    for i in indices:
      mean = sums[i].numpy() / num_repeats
      variance += np.sum(
        (squares[i].numpy() - num_repeats * mean**2) / (num_repeats - 1)
      )
      mean_square += np.sum((first[i].numpy() + mean) ** 2)
    # The error of the mean adds to its square, in expectation.
    signal[j] = math.sqrt(max(mean_square - variance / num_repeats, 0.0))
    noise[j] = math.sqrt(max(variance, 0.0))
  with np.errstate(divide='ignore', invalid='ignore'):
    ratio = signal / noise
  return GradientNoise(
    tuple(groups), signal, noise, ratio, 1.0 / math.sqrt(num_repeats)
  )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chains of levels whose densities are tractable.

A sampler carries particles from level to level, because its intermediate
densities can be evaluated but not drawn from. If they can be drawn from, the
levels of a nested objective are independent of one another: each draws values
from one of its two sides, without weights, and compares the log densities of
both sides at these values.

Contract: both sides of a level are densities of the same values, and both are
normalized, up to a constant factor that does not depend on parameters.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi import transitions as transitions_lib
from tfp_nvi.internal import checks, fusion, types

tfd = tfp.distributions

__all__ = [
  'BaseLevel',
  'Chain',
  'Level',
  'check_have_densities',
  'list_variables',
]


def list_variables(
  name: str, trainables: Sequence[tf.Variable | tf.Module]
) -> list:
  """Returns the list of variables of each variable, module or layer.

  Args:
    name: Python `str` name of the argument.
    trainables: List of `tf.Variable`s, `tf.Module`s and layers.

  Returns:
    groups: List of lists of `tf.Variable`s.

  Raises:
    TypeError: If an element has no variables.

  ```python
  import tensorflow as tf
  from tfp_nvi import chains

  assert len(chains.list_variables('trainables', [tf.Variable(1.0)])) == 1
  ```
  """
  trainables = checks.as_list(name, trainables, 'tf.Variables and tf.Modules')
  groups = []
  for i, part in enumerate(trainables):
    if isinstance(part, tf.Variable):
      groups.append([part])
    elif hasattr(part, 'trainable_variables'):
      groups.append(list(part.trainable_variables))
    else:
      raise TypeError(
        f'`{name}[{i}]` must be a tf.Variable, or have '
        f'`trainable_variables` as a tf.Module has; got {part!r}.'
      )
  return groups


def check_have_densities(levels: Sequence['BaseLevel'], why: str) -> None:
  """Raises an error if the log densities of a level cannot be evaluated.

  Args:
    levels: List of levels of a chain.
    why: Python `str`: the words after "particles" in the error.

  Raises:
    ValueError: If a level is an `ImplicitLevel`.

  ```python
  from tfp_nvi import chains

  chains.check_have_densities([], 'of no level')
  ```
  """
  for level in levels:
    if not level.has_densities:
      raise ValueError(
        '`sampler` must be a Chain of Levels with log densities, for particles '
        f'{why}; {level.name!r} is an ImplicitLevel, whose weights are those '
        'of a learned density ratio.'
      )


class BaseLevel:
  """Base class of the levels of a chain, with the variables that they train.

  A subclass is `Level`, whose two sides have log densities, or
  `tfp_nvi.ImplicitLevel`, whose sides can only be drawn from.

  ```python
  import tensorflow as tf
  from tfp_nvi import chains

  level = chains.BaseLevel([tf.Variable(1.0)], None, False, 'level')
  assert len(level.variables) == 1
  ```

  Attributes:
    has_densities: Python `bool`: whether the log densities of both sides can be
      evaluated, so that particles are properly weighted.
  """

  has_densities = True

  def __init__(
    self,
    trainables: Sequence[tf.Variable | tf.Module],
    csiszar_function: Callable | None,
    jit_compile: bool,
    name: str,
  ):
    """Initializes the attributes that all levels share.

    Args:
      trainables: As in `Level`.
      csiszar_function: As in `Level`.
      jit_compile: As in `Level`.
      name: As in `Level`.

    Raises:
      TypeError: If an argument is not of the kind asked for.
    """
    checks.check_callable(
      'csiszar_function',
      csiszar_function,
      'a callable from log u to f(u), such as tfp.vi.kl_reverse',
      optional=True,
    )
    checks.check_bool('jit_compile', jit_compile)
    self._groups = list_variables('trainables', trainables)
    unique = {v.ref(): v for group in self._groups for v in group}
    self.variables = list(unique.values())
    self.csiszar_function = csiszar_function
    self.jit_compile = jit_compile
    self.name = name

  def gradients(
    self, tape: tf.GradientTape, surrogate: tf.Tensor, is_partial: bool = False
  ) -> list[tuple[tf.Tensor, tf.Variable]]:
    """Differentiates by the variables that the level trains.

    Args:
      tape: `tf.GradientTape`.
      surrogate: Scalar `Tensor`.
      is_partial: Python `bool`: whether elements of `trainables` may have no
        gradient, as for objectives that train one side.
        Default value: `False`.

    Returns:
      pairs: List of pairs of a gradient, a `Tensor`, and its variable, for the
        variables that have a gradient.

    Raises:
      ValueError: If no variable of an element of `trainables` has a gradient.
    """
    gradients = tape.gradient(surrogate, self.variables)
    pairs = [
      (tf.convert_to_tensor(gradient), variable)
      for variable, gradient in zip(self.variables, gradients, strict=True)
      if gradient is not None
    ]
    found = {variable.ref() for _, variable in pairs}
    for i, group in enumerate(self._groups):
      if not is_partial and not found.intersection(v.ref() for v in group):
        raise ValueError(
          f'`trainables[{i}]` of {self.name!r} must have a variable that a '
          'side of the level depends on'
          + (', where it is compiled by itself' if self.jit_compile else '')
          + f'; there is no gradient for {[v.name for v in group]}.'
        )
    return pairs


class Level(BaseLevel):
  """A level of a chain: two densities of the same values.

  The divergence of a level is

  ```none
  D_f(target || proposal) = E_proposal[f(target / proposal)],
  ```

  estimated with values drawn from `proposal`. The reverse KL divergence, with
  `f(u) = -log(u)`, is therefore `KL(proposal || target)`; to minimize it over
  the parameters of the target is to fit them by maximum likelihood to draws
  from the proposal. To exchange the two sides of a divergence, use its dual
  function, `tfp.vi.dual_csiszar_function`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  # A mixture, and an approximation of its posterior, with the same names.
  loc = tf.Variable([0.0, 0.0])
  model = tfd.JointDistributionNamed(
    dict(
      c=tfd.Categorical(logits=[0.0, 0.0]),
      z=lambda c: tfd.Normal(tf.gather([-2.0, 2.0], c), 1.0),
    )
  )
  inference = tfd.JointDistributionNamed(
    dict(
      z=tfd.Normal(0.0, 2.0),
      c=lambda z: tfd.Categorical(logits=z[..., tf.newaxis] * loc),
    )
  )
  level = nvi.Level(proposal=model, target=inference, trainables=[loc])
  ```
  """

  def __init__(
    self,
    proposal: tfd.Distribution,
    target: types.Density,
    trainables: Sequence[tf.Variable | tf.Module],
    csiszar_function: Callable | None = None,
    jit_compile: bool = False,
    name: str = 'level',
  ):
    """Initializes the level.

    Args:
      proposal: `tfd.Distribution` or `JointDistribution`: the side that values
        are drawn from. Its batch members, such as the images of a mini-batch,
        are independent, and the sum of their divergences is minimized.
      target: The other side: a `tfd.Distribution`, a `JointDistribution`, or a
        callable from values drawn from `proposal` to a log density of shape
        `[num_particles] + batch`.
      trainables: List of `tf.Variable`s, `tf.Module`s and layers that this
        level trains. It has no gradient for other variables.
      csiszar_function: Python callable from `log u` to `f(u)`.
        Default value: `None` (i.e., that of the objective).
      jit_compile: Python `bool`: whether XLA compiles this level and its
        gradient separately. This is useful if training as a whole is not
        compiled, for example because convolutions are faster without XLA. The
        two sides of the level must then use the variables that it trains
        directly, and not tensors that were computed from them before.
        Default value: `False`.
      name: Python `str`: the name of the level in errors.

    Raises:
      TypeError: If an argument is not of the kind asked for.
    """
    checks.check_instance(
      'proposal',
      proposal,
      tfd.Distribution,
      'a tfd.Distribution or a JointDistribution, to draw from',
    )
    super().__init__(trainables, csiszar_function, jit_compile, name)
    self._proposal = proposal
    self.log_target = densities_lib.log_prob_fn(target, 'target')

  def draw(
    self, num_particles: int, seed: types.StatelessSeed
  ) -> types.Structure:
    """Draws values from the proposal.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      values: Nested structure of `Tensor`s of shape
        `[num_particles] + batch + event`.
    """
    batch_shape = densities_lib.static_batch_shape(self._proposal).as_list()
    values = densities_lib.draw(
      self._proposal, num_particles, batch_shape, seed
    )
    if not self.jit_compile:
      return values
    # Materialize; XLA would otherwise redraw a value for each component of a
    # mixture.
    return tf.nest.map_structure(
      lambda x: fusion.compute_once(x) if x.dtype.is_floating else x, values
    )

  def evaluate(
    self, values: types.Structure, reparameterize: bool = True
  ) -> tuple[transitions_lib.Move, tf.Tensor]:
    """Evaluates both sides.

    Args:
      values: Values that `draw` returned.
      reparameterize: Python `bool`: whether values are to be differentiable
        where they can be.

    Returns:
      move: `Move` to the values, with no reverse kernel.
      log_target: float `Tensor` of shape `[num_particles] + batch`: the log
        density of the target at the values, differentiable in everything that
        it depends on.

    Raises:
      ValueError: If the two sides give log densities of different shapes.
    """
    move = transitions_lib.as_draw(
      self._proposal, values, self._proposal.log_prob, reparameterize
    )
    log_target = self.log_target(move.state)
    if log_target.shape != move.log_forward.shape:
      raise ValueError(
        f'`target` of {self.name!r} must have log densities of the same shape '
        f'as `proposal`, {move.log_forward.shape.as_list()}, a particle axis '
        f'and its batch; got {log_target.shape.as_list()}.'
      )
    return move, log_target


class Chain:
  """Levels over tractable densities, for a nested objective.

  Each level has a divergence, which is estimated with values drawn from its own
  proposal, and a list of the parameters that it trains. The gradients of a
  parameter that several levels train are added. Objectives and `tfp_nvi.fit`
  take a chain where they take a sampler.

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  # An autoencoder of numbers: one chain for each mini-batch.
  slope, gain = tf.Variable(0.1), tf.Variable(0.1)


  def chain_fn(x):
    def levels_fn():
      encoder = tfd.Normal(gain * x, 0.5)

      def log_model(z):
        prior, decoder = tfd.Normal(0.0, 1.0), tfd.Normal(slope * z, 0.5)
        return prior.log_prob(z) + decoder.log_prob(x)

      return [nvi.Level(encoder, log_model, trainables=[slope, gain])]

    return nvi.Chain(levels_fn)


  data = tf.data.Dataset.from_tensor_slices(tf.random.normal([10, 32]))
  history = nvi.fit(
    chain_fn, nvi.reverse_kl(), num_particles=1, num_steps=20, data=data, seed=1
  )
  assert history.log_incremental_weights.shape == (20, 1)
  ```
  """

  def __init__(
    self, levels: Sequence[BaseLevel] | Callable[[], Sequence[BaseLevel]]
  ):
    """Initializes the chain.

    Args:
      levels: List of `Level`s and `ImplicitLevel`s, or a Python callable
        without arguments that returns such a list. Tensors that depend on
        variables must be computed inside of the callable, unless a distribution
        computes them in its own `log_prob` and `sample`. The output of a
        network that several levels share is then computed once.

    Raises:
      TypeError: If `levels` is neither a list nor a callable.
      ValueError: If there are no levels.
    """
    if callable(levels):
      self._levels_fn = levels
    else:
      levels = checks.as_list('levels', levels, 'Levels', BaseLevel, minimum=1)
      self._levels_fn = lambda: levels

  def levels(self) -> list[BaseLevel]:
    """Returns the levels; calls `levels` if it was given as a callable.

    Returns:
      levels: List of `Level`s.

    Raises:
      TypeError: If the callable did not return a list of `Level`s.
      ValueError: If there are no levels.
    """
    return checks.as_list(
      'levels', self._levels_fn(), 'Levels', BaseLevel, minimum=1
    )

  def describe_nan(
    self, num_particles: int, seed: types.StatelessSeed
  ) -> str | None:
    """Finds a NaN log density; see `ParticleSampler.describe_nan`.

    Args:
      num_particles: Python `int`.
      seed: Stateless seed.

    Returns:
      description: `None`, as a chain cannot tell which state has a NaN.
    """
    del num_particles, seed
    return None

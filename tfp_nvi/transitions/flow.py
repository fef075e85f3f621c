# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bijectors as transitions."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.bijectors import planar_map
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.internal.axes import at_level
from tfp_nvi.transitions import base, probes

__all__ = [
  'BijectorTransition',
  'DeterministicTransition',
  'PlanarTransitions',
]


def _not_finite(x):
  x = np.asarray(x)
  return x[~np.isfinite(x)].flat[0]


def _sum_of_events(states, event_ndims):
  """A number for each state, which is finite where all of its values are."""
  totals = [
    tf.reduce_sum(
      tf.cast(x, tf.float64), list(range(x.shape.rank - rank, x.shape.rank))
    )
    for x, rank in zip(
      tf.nest.flatten(states), tf.nest.flatten(event_ndims), strict=True
    )
  ]
  return np.asarray(tf.add_n(totals))


def _no_density(state):
  del state
  raise NotImplementedError(
    'A DeterministicTransition must not read `target_log_prob_fn`, as its map '
    'is also taken where there is no density.'
  )


class DeterministicTransition(base.Transition):
  """Base class of transitions by an invertible map, without noise.

  A subclass has one method to write, `propose`, which returns
  `deterministic_move(state, log_det_jacobian)` and reads neither `noise`, which
  is `()`, nor `target_log_prob_fn`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi import transitions

  tfd = tfp.distributions


  class Scale(nvi.DeterministicTransition):
    def __init__(self):
      super().__init__()
      self.log_scale = tf.Variable(0.0)

    def propose(
      self, level, previous, noise, target_log_prob_fn, reparameterize=True
    ):
      return transitions.deterministic_move(
        tf.exp(self.log_scale) * previous,
        self.log_scale + tf.zeros_like(previous),
      )


  path = nvi.GeometricPath(tfd.Normal(0.0, 2.0), tfd.Normal(0.0, 1.0), 2)
  particles = nvi.NestedSampler(path, Scale()).sample(100, seed=1)
  ```
  """

  keeps_support = True

  def draw_noise(self, sample_shape: list, seed: tf.Tensor) -> tuple:
    """Deterministic: no noise is drawn."""
    del sample_shape, seed
    return ()

  def draw_level_noise(
    self, sample_shape: list, seed: tf.Tensor, level: int | tf.Tensor
  ) -> tuple:
    """Deterministic: no noise is drawn."""
    del sample_shape, seed, level
    return ()

  def transport(self, level: int, state: types.Structure) -> types.Structure:
    """Maps states; see `Transition.transport`.

    Args:
      level: Python `int`: the level as the transition counts.
      state: Nested structure of `Tensor`s.

    Returns:
      state: Nested structure of `Tensor`s.
    """
    return self.propose(level, state, (), _no_density).state


class BijectorTransition(DeterministicTransition):
  """A bijector as a transition, with its own density change.

  Any `tfb.Bijector` between real spaces will do: flows such as RealNVP, masked
  autoregressive flows and splines plug in.

  #### References

  [1]: M. Arbel, A. G. D. G. Matthews, A. Doucet. Annealed flow transport Monte
       Carlo. ICML, 2021. https://arxiv.org/abs/2102.07501

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfb = tfp.bijectors

  flow = nvi.BijectorTransition(
    tfb.RealNVP(
      num_masked=1, shift_and_log_scale_fn=tfb.real_nvp_default_template([16])
    )
  )
  ```
  """

  def __init__(
    self, bijector: tfp.bijectors.Bijector, name: str = 'bijector_transition'
  ):
    """Initializes the transition.

    Args:
      bijector: `tfb.Bijector` from the states of the previous level to those of
        the next.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `bijector` is not one.
    """
    super().__init__(name=name)
    checks.check_instance(
      'bijector', bijector, tfp.bijectors.Bijector, 'a tfb.Bijector'
    )
    self._bijector = bijector
    self._event_ndims = None

  def bind(self, densities: densities_lib.Densities) -> None:
    """Takes the rank of events from the densities, and tries the bijector.

    Args:
      densities: The sequence of intermediate densities.

    Raises:
      ValueError: If states are discrete, or the bijector is not one from states
        to states.
    """
    base.check_continuous(densities, 'Bijectors')
    self._event_ndims = tf.nest.map_structure(
      lambda s: tf.TensorShape(s).rank, densities.event_shape
    )
    self._probe(densities)

  def _probe(self, densities):
    """Raises an error if the bijector is not one, where that can be seen."""
    bijector = self._bijector
    if not bijector._is_injective:  # pylint: disable=protected-access
      raise ValueError(f'`bijector` must be one-to-one; got {bijector!r}.')
    states = probes.probe_states(
      densities, batch_shape=self._probe_batch_shape(densities)
    )
    if states is None:
      return
    try:
      images = bijector.forward(states)
      checks.check_same_states('`bijector`', images, states)
      log_det_jacobian = bijector.forward_log_det_jacobian(
        states, self._event_ndims
      )
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as e:
      raise ValueError(
        '`bijector` must lead from states to states, of event shape '
        f'{tf.nest.map_structure(str, densities.event_shape)}; got {bijector!r}'
        f', which fails: {e}'
      ) from e
    if not np.all(np.isfinite(log_det_jacobian)):
      raise ValueError(
        '`bijector` must be invertible, with a finite log determinant of its '
        f'Jacobian; that of {bijector!r} is {_not_finite(log_det_jacobian)} at '
        'a state.'
      )
    try:
      # A copy, as a bijector knows the inverse of what it has computed.
      preimages = bijector.inverse(tf.nest.map_structure(tf.identity, states))
    except NotImplementedError:
      return
    is_missed = ~np.isfinite(_sum_of_events(preimages, self._event_ndims))
    if np.any(is_missed) and np.any(
      is_missed & probes.is_positive(densities, states, 1)
    ):
      raise ValueError(
        '`bijector` must lead to every state that has a positive density; '
        f'{bijector!r} has no inverse at such a state.'
      )

  def _probe_batch_shape(self, densities):
    """The batch shape of the densities and of the bijector's parameters."""
    try:
      own = self._bijector.experimental_batch_shape(self._event_ndims)
      return tf.broadcast_static_shape(densities.batch_shape, own).as_list()
    except (NotImplementedError, TypeError, ValueError):
      return densities.batch_shape.as_list()

  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: types.Structure,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""
    del level, noise, target_log_prob_fn, reparameterize
    state = self._bijector.forward(previous)
    checks.check_same_states('`bijector`', state, previous)
    log_det_jacobian = self._bijector.forward_log_det_jacobian(
      previous, self._event_ndims
    )
    if self._event_ndims is not None:
      # Where it is constant, a bijector returns it without the particles.
      part = tf.nest.flatten(previous)[0]
      rank = part.shape.rank - tf.nest.flatten(self._event_ndims)[0]
      log_det_jacobian = tf.broadcast_to(log_det_jacobian, part.shape[:rank])
    return base.deterministic_move(state, log_det_jacobian)


class PlanarTransitions(DeterministicTransition):
  """Planar flows as transitions, several layers for each level.

  ```none
  z = f_L(...f_1(y)),   f_l(x) = x + u_l tanh(w_l . x + b_l)
  ```

  States that are nested structures are concatenated to vectors.

  #### References

  [1]: D. J. Rezende, S. Mohamed. Variational inference with normalizing flows.
       ICML, 2015. https://arxiv.org/abs/1505.05770

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  tfd = tfp.distributions

  path = nvi.GeometricPath(
      tfd.MultivariateNormalDiag([0., 0.], [5., 5.]),
      tfd.MultivariateNormalDiag([3., 0.], [1., 1.]), num_densities=3)
  transitions = nvi.PlanarTransitions(path, num_layers=4, seed=1)
  assert transitions.num_transitions == 2
  ```
  """

  is_rollable = True
  is_level_batched = True

  def __init__(
    self,
    densities: densities_lib.Densities,
    num_layers: int = 32,
    scale: float = 1.0,
    batch_shape: types.Shape = (),
    seed: types.Seed | None = None,
    name: str = 'planar_transitions',
  ):
    """Initializes the flows, near the identity.

    Args:
      densities: The sequence of intermediate densities.
      num_layers: Python `int` number of planar flows for each level.
        Default value: `32`.
      scale: Python `float`: the magnitude of states over which a layer bends
        them, to begin with.
        Default value: `1.`.
      batch_shape: Shape of a batch of flows at each level, such as one for each
        of several restarts.
        Default value: `()`.
      seed: Python `int` or stateless seed for the initial parameters.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If `num_layers` or `scale` is not positive, or states are not
        real, or not of one floating point dtype.
    """
    super().__init__(name=name)
    base.check_real(densities, 'PlanarTransitions')
    num_layers = checks.as_count('num_layers', num_layers)
    scale = checks.as_float('scale', scale, minimum=0.0, is_open=True)
    self.num_transitions = densities.num_densities - 1
    self.batch_shape = checks.as_batch_shape('batch_shape', batch_shape)
    self._event_shape = densities.event_shape
    self._dtype = densities.float_dtype
    self._num_layers = num_layers
    size = base.num_values(densities)
    dtype = densities.float_dtype
    stack = [self.num_transitions] + self.batch_shape.as_list() + [num_layers]
    direction_seed, normal_seed, bias_seed = tf.unstack(
      randomness.split_seed(randomness.as_seed(seed), 3)
    )
    normal = randomness.normal(stack + [size], normal_seed, dtype=dtype)
    normal /= scale * tf.norm(normal, axis=-1, keepdims=True)
    # Along this direction a layer is the identity, so that many of them do not
    # start as a map that draws all states together.
    identity = np.log(np.e - 1.0) * scale**2 * normal
    noise = randomness.normal(stack + [size], direction_seed, dtype)
    # So that together they bend the states over some range, not at one place.
    bias = 1.5 * randomness.normal(stack, bias_seed, dtype)
    self._direction = tf.Variable(
      identity + 3e-3 * scale * noise, name='direction'
    )
    self._normal = tf.Variable(normal, name='normal')
    self._bias = tf.Variable(bias, name='bias')

  def bind(self, densities: densities_lib.Densities) -> None:
    """Checks that the densities are over the states it was made for."""
    base.check_bound(
      'PlanarTransitions', densities, self._event_shape, self._dtype
    )

  def propose(
    self,
    level: int | tf.Tensor | range,
    previous: types.Structure,
    noise: types.Structure,
    target_log_prob_fn: Callable,
    reparameterize: bool = True,
  ) -> base.Move:
    """Proposes a state; see `Transition.propose`."""
    del noise, target_log_prob_fn, reparameterize
    x = base.flatten_state(previous, self._event_shape)
    rank = x.shape.rank
    layers = [
      tf.experimental.numpy.moveaxis(p, layer_axis, 0)
      for p, layer_axis in (
        (at_level(self._direction, level, rank), -2),
        (at_level(self._normal, level, rank), -2),
        (at_level(self._bias, level, rank - 1), -1),
      )
    ]

    # A loop, as compiling each layer apart takes longer than a training run.
    def body(i, x, log_det_jacobian):
      direction, normal, bias = (tf.gather(p, i) for p in layers)
      y, layer_log_det_jacobian = planar_map.planar_forward(
        x, direction, normal, bias
      )
      return i + 1, y, log_det_jacobian + layer_log_det_jacobian

    _, x, log_det_jacobian = tf.while_loop(
      lambda i, *_: i < self._num_layers,
      body,
      (tf.constant(0), x, tf.zeros_like(x[..., 0])),
      maximum_iterations=self._num_layers,
    )
    return base.deterministic_move(
      base.unflatten_state(x, self._event_shape), log_det_jacobian
    )

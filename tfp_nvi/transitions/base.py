# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contract of transitions, and what they return.

Contract: a transition proposes `z` from a previous state `y`, and returns log
densities of a forward kernel `q(z | y)` and a reverse kernel `r(y | z)` such
that particles stay properly weighted when `log r - log q` is added to the
difference of the levels' log densities,

```none
log v = log gamma_k(z) + log r(y | z) - log gamma_{k-1}(y) - log q(z | y).
```

A bijector `z = T(y)` is a transition with `log r - log q = log |det J_T(y)|`. A
Markov kernel that leaves `gamma_k` invariant is one with
`log r - log q = log gamma_k(y) - log gamma_k(z)`, its time reversal being the
reverse kernel.
"""

import abc
import typing

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi import densities as densities_lib
from tfp_nvi.internal import checks, randomness, types

tfd = tfp.distributions

__all__ = [
  'Move',
  'Transition',
  'as_draw',
  'check_bound',
  'check_continuous',
  'check_move',
  'check_real',
  'deterministic_move',
  'flatten_state',
  'kernel_move',
  'num_values',
  'stop_gradient',
  'unflatten_state',
]


class Move(typing.NamedTuple):
  """A proposed state, and its log densities in the forms that gradients need.

  Log densities have shape `[num_particles] + batch`. A Python float stands for
  a constant, such as the log density of a kernel that does not exist.

  Fields:
    state: The proposed state, differentiable in the parameters of the forward
      kernel and in the previous state where the kernel is reparameterized.
    log_forward: `log q(z | y)`, differentiable in everything it depends on.
    log_reverse: `log r(y | z)`, likewise.
    log_forward_fixed_sample: `log q(z | y)` of the reparameterized kernels,
      differentiable in what their distributions depend on, with the proposed
      state held fixed.
    log_forward_not_reparameterized: The same of the kernels that are not
      reparameterized, or should not be. Its gradient is the score.
    log_reverse_fixed_states: `log r(y | z)` with both states held fixed; what
      belongs to the forward side, such as a Jacobian, is a constant here.
    samples: Tuple of the reparameterized samples, each a nested structure.
    record: What `Transition.replay` needs to return this move again. Not read
      where `Transition.records_noise`.
    num_nan: int32 scalar: the number of NaN log densities inside the move, each
      counted as zero density.

  ```python
  import tensorflow as tf
  import tfp_nvi as nvi

  move = nvi.Move(state=tf.zeros([10]), log_forward=tf.zeros([10]))
  assert move.log_reverse == 0.0
  ```
  """

  state: typing.Any
  log_forward: typing.Any
  log_reverse: typing.Any = 0.0
  log_forward_fixed_sample: typing.Any = 0.0
  log_forward_not_reparameterized: typing.Any = 0.0
  log_reverse_fixed_states: typing.Any = 0.0
  samples: tuple = ()
  record: typing.Any = ()
  num_nan: typing.Any = 0


class Transition(tf.Module, abc.ABC):
  """Leads from the particles of a level to those of the next one.

  A subclass has one method to write, `propose`; `kernel_move` makes
  what it returns from distributions. `DeterministicTransition` is the base
  class for invertible maps.

  Attributes:
    num_transitions: Python `int`: how many consecutive levels the transition
      leads to. `level` counts these from zero.
      Default value: `1`.
    batch_shape: `TensorShape` of the transition's parameters.
      Default value: `[]`.
    is_rollable: Python `bool`: whether `level` may be a `Tensor`, so that the
      levels can be a loop.
      Default value: `False`.
    is_level_batched: Python `bool`: whether `replay` takes a Python `range` of
      levels, with states of shape `[num_particles, num_levels] + batch +
      event`.
      Default value: `False`.
    records_noise: Python `bool`: whether the record of a move is its noise.
      Default value: `True`.
    keeps_support: Python `bool`: whether the reverse kernel is zero wherever
      the density of the previous level is, as those of bijectors and of Markov
      kernels that leave the level invariant are. The mass that other reverse
      kernels have there is missing from the normalizer.
      Default value: `False`.
    has_normalized_reverse: Python `bool`: whether `log_reverse` is a density of
      the previous state that is normalized whatever the parameters, so that its
      score has expectation zero.
      Default value: `True`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  from tfp_nvi import transitions as transitions_lib

  tfd = tfp.distributions


  class RandomWalk(nvi.Transition):
    def __init__(self):
      super().__init__()
      self.scale = tfp.util.TransformedVariable(1.0, tfp.bijectors.Exp())

    def propose(
      self, level, previous, noise, target_log_prob_fn, reparameterize=True
    ):
      def walk(x):
        return tfd.Normal(x, self.scale)

      return transitions_lib.kernel_move(
        walk(previous), walk, previous, noise, reparameterize
      )


  path = nvi.GeometricPath(tfd.Normal(0.0, 2.0), tfd.Normal(1.0, 1.0), 2)
  particles = nvi.NestedSampler(path, RandomWalk()).sample(100, seed=1)
  ```
  """

  num_transitions: int = 1
  batch_shape: tf.TensorShape = tf.TensorShape([])
  is_rollable: bool = False
  is_level_batched: bool = False
  records_noise: bool = True
  keeps_support: bool = False
  has_normalized_reverse: bool = True

  def transport(self, level: int, state: types.Structure) -> types.Structure:
    """The states that the deterministic part of a move leads to.

    A sampler calls it if `keeps_support`, to warn where the previous density
    is zero at a state and the next one is positive where it leads, as that mass
    is lost.

    Args:
      level: Python `int`: the level as the transition counts.
      state: Nested structure of `Tensor`s.

    Returns:
      state: Nested structure of `Tensor`s.
    """
    del level
    return state

  def bind(self, densities: densities_lib.Densities) -> None:
    """Called by each sampler of this transition when it is made.

    Args:
      densities: The sequence of intermediate densities.
    """

  def given(self, densities: densities_lib.Densities) -> 'Transition':
    """The transition of a run, which may depend on the run's densities.

    Args:
      densities: What `Densities.given` returned for the initial move.

    Returns:
      transition: `Transition`; by default, this one.
    """
    del densities
    return self

  def _roll(self, num_transitions: int | None) -> None:
    """Sets how many levels there are in one loop; `None` for one, unrolled."""
    self.is_rollable = num_transitions is not None
    if num_transitions is not None:
      self.num_transitions = checks.as_count('num_transitions', num_transitions)

  def draw_noise(self, sample_shape: list, seed: tf.Tensor) -> types.Structure:
    """Draws the random numbers of all levels: by default, a seed for each.

    Args:
      sample_shape: List of Python `int`s: `[num_particles] + batch`.
      seed: Stateless seed.

    Returns:
      noise: Nested structure of `Tensor`s of shape `[num_transitions, ...]`.
    """
    del sample_shape
    return randomness.split_seed(seed, self.num_transitions)

  def draw_level_noise(
    self, sample_shape: list, seed: tf.Tensor, level: int | tf.Tensor
  ) -> types.Structure:
    """Draws those of one level, without drawing those of the others.

    Args:
      sample_shape: As in `draw_noise`.
      seed: As in `draw_noise`.
      level: Python `int`, or scalar int `Tensor` where `is_rollable`.

    Returns:
      noise: The part of `draw_noise` that belongs to the level.
    """
    noise = self.draw_noise(sample_shape, seed)
    # XLA would compile a slice again for each value of a level that is an
    # argument of the program.
    return tf.nest.map_structure(lambda x: tf.gather(x, level), noise)

  def record_like(
    self, noise: types.Structure, state: types.Structure
  ) -> types.Structure:
    """Returns an example with the structure, shapes and dtypes of a record.

    Args:
      noise: One level's part of what `draw_noise` returned.
      state: A state.

    Returns:
      record: Nested structure of `Tensor`s; by default, the noise.
    """
    del state
    return noise

  @abc.abstractmethod
  def propose(
    self,
    level: int | tf.Tensor,
    previous: types.Structure,
    noise: types.Structure,
    target_log_prob_fn: typing.Callable,
    reparameterize: bool = True,
  ) -> Move:
    """Proposes a state.

    Args:
      level: Python `int`, or scalar int `Tensor` where `is_rollable`.
      previous: State of shape `[num_particles] + batch + event`.
      noise: One level's part of what `draw_noise` returned; by default, a
        stateless seed.
      target_log_prob_fn: Python callable from a state to `log gamma_k`.
      reparameterize: Python `bool`: whether the state is to be differentiable
        where it can be.
        Default value: `True`.

    Returns:
      move: `Move`.
    """

  def replay(
    self,
    level: typing.Any,
    previous: types.Structure,
    record: types.Structure,
    target_log_prob_fn: typing.Callable,
    reparameterize: bool = True,
  ) -> Move:
    """Makes a move again, from its record; by default, from its noise.

    Args:
      level: As in `propose`, or a Python `range` where `is_level_batched`, with
        states of shape `[num_particles, num_levels] + batch + event`.
      previous: As in `propose`.
      record: The record of the move.
      target_log_prob_fn: As in `propose`.
      reparameterize: As in `propose`.

    Returns:
      move: `Move`.
    """
    return self.propose(
      level, previous, record, target_log_prob_fn, reparameterize
    )


def as_draw(
  distribution: tfd.Distribution,
  state: types.Structure,
  log_prob_fn: typing.Callable,
  reparameterize: bool = True,
) -> Move:
  """A draw from a distribution, as a move without a reverse kernel.

  Args:
    distribution: `tfd.Distribution` that the state comes from. If any part of
      it is not reparameterized, all of it counts as not reparameterized.
    state: Nested structure of `Tensor`s.
    log_prob_fn: Python callable from a state to its log density.
    reparameterize: Python `bool`: whether the state is to be differentiable
      where it can be.
      Default value: `True`.

  Returns:
    move: `Move`.

  ```python
  import tensorflow_probability as tfp
  from tfp_nvi import transitions as transitions_lib

  normal = tfp.distributions.Normal(0.0, 1.0)
  z = normal.sample(10, seed=(0, 1))
  move = transitions_lib.as_draw(normal, z, normal.log_prob)
  assert move.log_forward.shape == [10]
  ```
  """
  # Bijectors cache the values that they made, which hides from the tape how
  # their density depends on them; a copy is not in the cache.
  state = tf.nest.map_structure(tf.identity, state)
  reparameterize = reparameterize and all(
    kind == tfd.FULLY_REPARAMETERIZED
    for kind in tf.nest.flatten(distribution.reparameterization_type)
  )
  fixed = stop_gradient(state)
  log_prob = log_prob_fn(fixed)
  if not reparameterize:
    return Move(fixed, log_prob, log_forward_not_reparameterized=log_prob)
  return Move(
    state,
    log_prob_fn(state),
    log_forward_fixed_sample=log_prob,
    samples=(state,),
  )


def kernel_move(
  forward: tfd.Distribution,
  reverse_fn: typing.Callable,
  previous: types.Structure,
  seed: types.StatelessSeed,
  reparameterize: bool = True,
) -> Move:
  """A move by kernels that are distributions.

  Args:
    forward: `tfd.Distribution` over states, the forward kernel at `previous`.
    reverse_fn: Python callable from the proposed state to the reverse kernel, a
      `tfd.Distribution` over previous states.
    previous: State of shape `[num_particles] + batch + event`.
    seed: Stateless seed.
    reparameterize: Python `bool`: whether the state is to be differentiable
      where it can be.
      Default value: `True`.

  Returns:
    move: `Move`.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  from tfp_nvi import transitions as transitions_lib

  tfd = tfp.distributions

  y = tf.zeros([10])
  move = transitions_lib.kernel_move(
    tfd.Normal(y, 1.0), lambda z: tfd.Normal(z, 1.0), y, seed=(0, 1)
  )
  assert move.log_reverse.shape == [10]
  ```
  """
  with randomness.portable_sampling():
    state = forward.sample(seed=seed)
  checks.check_same_states('`forward`', state, previous)
  draw = as_draw(forward, state, forward.log_prob, reparameterize)
  return draw._replace(
    log_reverse=reverse_fn(draw.state).log_prob(previous),
    log_reverse_fixed_states=reverse_fn(stop_gradient(draw.state)).log_prob(
      stop_gradient(previous)
    ),
    record=seed,
  )


def deterministic_move(
  state: types.Structure, log_det_jacobian: tf.Tensor
) -> Move:
  """A move by an invertible map.

  Args:
    state: The state that the map leads to.
    log_det_jacobian: float `Tensor`: log absolute determinant of its Jacobian
      at the previous state.

  Returns:
    move: `Move`.

  ```python
  import tensorflow as tf
  from tfp_nvi import transitions as transitions_lib

  y = tf.ones([10])
  move = transitions_lib.deterministic_move(2.0 * y, tf.math.log(2.0 * y))
  assert move.log_forward == 0.0
  ```
  """
  return Move(
    state=state,
    log_forward=0.0,
    log_reverse=log_det_jacobian,
    log_reverse_fixed_states=tf.stop_gradient(log_det_jacobian),
  )


def stop_gradient(structure: types.Structure) -> types.Structure:
  """`tf.stop_gradient` of each part of a nested structure."""
  return tf.nest.map_structure(tf.stop_gradient, structure)


def num_values(densities: densities_lib.Densities) -> int:
  """The number of values in a state."""
  return sum(
    tf.TensorShape(s).num_elements()
    for s in tf.nest.flatten(densities.event_shape)
  )


def flatten_state(
  state: types.Structure, event_shape: types.Structure
) -> tf.Tensor:
  """Concatenates the parts of a state into vectors.

  Args:
    state: Nested structure of `Tensor`s of shape `batch + event`.
    event_shape: Nested structure of event shapes.

  Returns:
    vector: `Tensor` of shape `batch + [number of values]`.
  """
  vectors = []
  for part, shape in zip(
    tf.nest.flatten(state), tf.nest.flatten(event_shape), strict=True
  ):
    shape = tf.TensorShape(shape)
    if shape.rank != 1:
      batch = part.shape[: part.shape.rank - shape.rank].as_list()
      part = tf.reshape(part, batch + [shape.num_elements()])
    vectors.append(part)
  return vectors[0] if len(vectors) == 1 else tf.concat(vectors, axis=-1)


def unflatten_state(
  vector: tf.Tensor, event_shape: types.Structure
) -> types.Structure:
  """The inverse of `flatten_state`."""
  shapes = [tf.TensorShape(s) for s in tf.nest.flatten(event_shape)]
  sizes = [s.num_elements() for s in shapes]
  batch = vector.shape[:-1].as_list()
  vectors = [vector] if len(sizes) == 1 else tf.split(vector, sizes, axis=-1)
  parts = [
    part if shape.rank == 1 else tf.reshape(part, batch + shape.as_list())
    for part, shape in zip(vectors, shapes, strict=True)
  ]
  return tf.nest.pack_sequence_as(event_shape, parts)


def check_move(
  move: Move,
  previous: types.Structure,
  shape: tf.TensorShape,
  level: int | tf.Tensor,
) -> None:
  """Raises an error if states or log densities of a move have another shape.

  Args:
    move: `Move`.
    previous: The previous state.
    shape: `[num_particles] + batch`.
    level: Python `int`: the level that the move leads to; or an int `Tensor`.

  Raises:
    ValueError: If states do not have the structure, dtypes and shapes of those
      before, or a log density not the shape `shape`.
  """
  what = 'The transition'
  if isinstance(level, int):
    what += f' to level {level}'
  checks.check_same_states(what, move.state, previous)
  for field in ('log_forward', 'log_reverse'):
    value = getattr(move, field)
    # The default of a move is the number 0.
    if tf.is_tensor(value) and value.shape != shape:
      raise ValueError(
        f'{what} must return a log density for each particle, of shape '
        f'{shape.as_list()}; its {field} has shape {value.shape.as_list()}. '
        'A kernel over vectors must be a distribution over vectors, such as '
        'tfd.Independent.'
      )


def _dtypes(densities):
  return sorted({tf.as_dtype(d).name for d in tf.nest.flatten(densities.dtype)})


def check_continuous(densities: densities_lib.Densities, what: str) -> None:
  """Raises an error if a state has parts that are discrete."""
  # TFP's densities over counts have floating point dtypes.
  if densities.is_discrete:
    raise ValueError(
      f'{what} need `densities` over real states; got discrete ones, of dtype '
      f'{_dtypes(densities)}.'
    )


def check_real(densities: densities_lib.Densities, what: str) -> None:
  """Raises an error if a state has parts that are not of one float dtype."""
  densities_lib.check_densities(densities)
  if _dtypes(densities) != [densities.float_dtype.name]:
    raise ValueError(
      f'{what} need `densities` whose states have one floating point dtype; '
      f'got {_dtypes(densities)}.'
    )
  check_continuous(densities, what)


def check_bound(
  what: str,
  densities: densities_lib.Densities,
  event_shape: types.Structure,
  dtype: tf.DType,
) -> None:
  """Raises an error if a transition was made for states of another kind."""
  check_real(densities, what)

  # Strings, as TensorFlow wraps the containers among a module's attributes.
  ours, theirs = (
    tf.nest.map_structure(lambda s: str(tf.TensorShape(s)), shape)
    for shape in (event_shape, densities.event_shape)
  )
  if ours != theirs or dtype != densities.float_dtype:
    raise ValueError(
      f'{what} must be bound to `densities` over states like those they were '
      f'made for, of event shape {ours} and dtype {dtype.name}; got {theirs} '
      f'and {densities.float_dtype.name}.'
    )

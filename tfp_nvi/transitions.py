# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Transitions from one level to the next.

What must hold: a transition proposes `z` from a previous state `y`, and returns
log densities of a forward kernel `q(z | y)` and a reverse kernel `r(y | z)`
such that particles stay properly weighted when `log r - log q` is added to the
difference of the levels' log densities,

```none
log v = log gamma_k(z) + log r(y | z) - log gamma_{k-1}(y) - log q(z | y).
```

A bijector `z = T(y)` is a transition with `log r - log q = log |det J_T(y)|`. A
Markov kernel that leaves `gamma_k` invariant is one with
`log r - log q = log gamma_k(y) - log gamma_k(z)`, its time reversal being the
reverse kernel.

Each transition is a `tf.Module` with

```none
num_transitions     how many consecutive levels it leads to, 1 for most
batch_shape         of its parameters
is_rollable         whether `level` may be a Tensor
is_level_batched    whether `replay` takes a Python range of levels
records_noise       whether a record is the noise, as it is for most
record_like(noise, state)               an example of a move's record
draw_noise(sample_shape, seed)          what chance it needs, for each of its
                                        levels, stacked along axis 0
draw_level_noise(sample_shape, seed, level)   the part of a level, by itself
propose(level, previous, noise, ...)    a Move
replay(level, previous, record, ...)    the same Move again, from its record
```

`level` counts the transitions of one object, from zero. Under a `GradientTape`
what `propose` and `replay` return is differentiable in the way that the fields
of `Move` say.
"""

import collections
import collections.abc
import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_nvi.bijectors import planar
from tfp_nvi.densities import as_batch_shape, check_densities
from tfp_nvi.internal import fusion, randomness
from tfp_nvi.internal.axes import at_level, particles_first, particles_last
from tfp_nvi.internal.perceptron import StackedPerceptron

tfd = tfp.distributions

__all__ = [
  'BijectorTransition',
  'Composition',
  'GaussianTransitions',
  'KernelPair',
  'Move',
  'MCMCTransition',
  'PlanarTransitions',
  'Transition',
]

# Sums of no more terms than this are written out.
_MAX_TERMS = 8


class Move(
  collections.namedtuple(
    'Move',
    [
      'state',
      'log_forward',
      'log_reverse',
      'score',
      'score_of_fixed',
      'log_reverse_of_fixed',
      'samples',
      'record',
    ],
  )
):
  """A proposed state, and its log densities as a gradient needs them.

  Log densities have shape `[num_particles] + batch`.

  Fields:
    state: The proposed state, differentiable in the parameters of the forward
      kernel and in the previous state where the kernel is reparameterized.
    log_forward: `log q(z | y)`, differentiable in all it depends on.
    log_reverse: `log r(y | z)`, likewise.
    score: `log q(z | y)` of the reparameterized kernels, differentiable in what
      their distributions depend on, the proposed state held fixed.
    score_of_fixed: The same of the kernels that are not reparameterized, or not
      to be.
    log_reverse_of_fixed: `log r(y | z)`, both states held fixed; what belongs
      to the forward side, such as a Jacobian, is a constant here.
    samples: Tuple of the reparameterized samples, each a nested structure.
    record: What `replay` needs to return this move again.
  """

  __slots__ = ()


class Draw(
  collections.namedtuple(
    'Draw',
    ['state', 'log_forward', 'score', 'score_of_fixed', 'samples'],
  )
):
  """A draw from a distribution, with the fields of the same name of `Move`."""

  __slots__ = ()


def as_draw(distribution, state, log_prob_fn, reparameterize):
  """What was drawn from a distribution, as gradients need it.

  Args:
    distribution: `tfd.Distribution` that the state comes from. If any part of
      it is not reparameterized, none counts as such.
    state: Nested structure of `Tensor`s.
    log_prob_fn: Python callable from a state to its log density.
    reparameterize: Python `bool`: whether the state is to be differentiable
      where it can be.

  Returns:
    draw: `Draw`.
  """
  # What bijectors remember of a value that they made would hide from the tape
  # how its density depends on it; they know nothing of a copy.
  state = tf.nest.map_structure(tf.identity, state)
  reparameterize = reparameterize and all(
    kind == tfd.FULLY_REPARAMETERIZED
    for kind in tf.nest.flatten(distribution.reparameterization_type)
  )
  fixed = _stop_gradient(state)
  score = log_prob_fn(fixed)
  zero = tf.zeros_like(score)
  if not reparameterize:
    return Draw(fixed, score, zero, score, ())
  return Draw(state, log_prob_fn(state), score, zero, (state,))


def _sum_parts(structure):
  return functools.reduce(lambda a, b: a + b, tf.nest.flatten(structure))


def flatten_state(state, event_shape):
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


def unflatten_state(vector, event_shape):
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


def _check_real(densities, what):
  """Raises an error if a state has parts that are not of one float dtype."""
  check_densities(densities)
  dtypes = {tf.as_dtype(d).name for d in tf.nest.flatten(densities.dtype)}
  if dtypes != {densities.float_dtype.name}:
    raise ValueError(
      f'{what} need `densities` whose states have one floating point dtype; '
      f'got {sorted(dtypes)}.'
    )
  _check_continuous(densities, what)


def _check_continuous(densities, what):
  """Raises an error if a state has parts that are discrete."""
  # TFP's densities over counts have floating point dtypes.
  if getattr(densities, 'is_discrete', False):
    dtypes = {tf.as_dtype(d).name for d in tf.nest.flatten(densities.dtype)}
    raise ValueError(
      f'{what} need `densities` over real states; got discrete ones, of dtype '
      f'{sorted(dtypes)}.'
    )


def _check_bound(what, densities, event_shape, dtype):
  """Raises an error if a transition was made for states of another kind."""
  _check_real(densities, what)

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


def _check_hidden_units(hidden_units):
  """A list of Python ints; raises an error if they are not positive ints."""
  if isinstance(hidden_units, str) or not isinstance(
    hidden_units, collections.abc.Iterable
  ):
    raise TypeError(
      '`hidden_units` must be a list of positive Python ints; got '
      f'{hidden_units!r}.'
    )
  hidden_units = list(hidden_units)
  for i, units in enumerate(hidden_units):
    _check_positive(f'hidden_units[{i}]', units)
  return [int(units) for units in hidden_units]


def _check_positive(name, value):
  """Raises an error if a count is not a positive Python int."""
  if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
    raise TypeError(f'`{name}` must be a Python int; got {value!r}.')
  if value < 1:
    raise ValueError(f'`{name}` must be positive; got {value}.')


def check_same_states(what, state, previous):
  """Raises an error if a kernel leads to what is not like the states before.

  Args:
    what: Python `str`: what led there, to begin the error with.
    state: Nested structure of `Tensor`s.
    previous: Likewise: where it came from.

  Raises:
    ValueError: If the two differ in structure, shapes or dtypes.
  """

  def describe(structure):
    return tf.nest.map_structure(
      lambda x: f'{x.dtype.name}{x.shape.as_list()}', structure
    )

  try:
    tf.nest.assert_same_structure(state, previous)
    is_same = all(
      x.shape == y.shape and x.dtype == y.dtype
      for x, y in zip(
        tf.nest.flatten(state), tf.nest.flatten(previous), strict=True
      )
    )
  except (TypeError, ValueError):
    is_same = False
  if not is_same:
    raise ValueError(
      f'{what} must lead to states of the same structure, dtype and shape as '
      f'the states before, {describe(previous)}; it leads to '
      f'{describe(state)}.'
    )


def _num_values(densities):
  return sum(
    tf.TensorShape(s).num_elements()
    for s in tf.nest.flatten(densities.event_shape)
  )


def _stop_gradient(structure):
  return tf.nest.map_structure(tf.stop_gradient, structure)


class Transition(tf.Module):
  """What transitions have in common; see the module's contract."""

  num_transitions = 1
  batch_shape = tf.TensorShape([])
  is_rollable = False
  is_level_batched = False
  records_noise = True

  def bind(self, densities):
    """Called once by a sampler, with the densities it will move between.

    Args:
      densities: The sequence of intermediate densities.
    """

  def draw_noise(self, sample_shape, seed):
    """Draws what chance the transition needs: here, a seed for each level.

    Args:
      sample_shape: List of Python `int`s: `[num_particles] + batch`.
      seed: Stateless seed.

    Returns:
      noise: Nested structure of `Tensor`s of shape `[num_transitions, ...]`.
    """
    del sample_shape
    return randomness.split_seed(seed, self.num_transitions)

  def draw_level_noise(self, sample_shape, seed, level):
    """Draws the same for one level, without drawing it for the others.

    Args:
      sample_shape: As in `draw_noise`.
      seed: As in `draw_noise`.
      level: Python `int`, or scalar int `Tensor` where `is_rollable`.

    Returns:
      noise: The part of `draw_noise` that belongs to the level.
    """
    del sample_shape
    return randomness.split_seed(seed, self.num_transitions)[level]

  def record_like(self, noise, state):
    """Something with the structure, shapes and dtypes of a move's record.

    Args:
      noise: One level's part of what `draw_noise` returned.
      state: A state.

    Returns:
      record: Nested structure of `Tensor`s; here, the noise.
    """
    del state
    return noise

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state.

    Args:
      level: Python `int`, or scalar int `Tensor` where `is_rollable`.
      previous: State of shape `[num_particles] + batch + event`.
      noise: One level's part of what `draw_noise` returned.
      target_log_prob_fn: Python callable from a state to `log gamma_k`.
      reparameterize: Python `bool`: whether the state is to be differentiable
        where it can be.

    Returns:
      move: `Move`.
    """
    raise TypeError(f'{type(self).__name__} does not say how to propose.')

  def replay(
    self, level, previous, record, target_log_prob_fn, reparameterize=True
  ):
    """Makes a move again, from its record.

    Args:
      level: As in `propose`, or a Python `range` where `is_level_batched`, with
        states of shape `[num_particles, num_levels] + batch + event`.
      previous: As in `propose`.
      record: `record` of the move.
      target_log_prob_fn: As in `propose`.
      reparameterize: As in `propose`.

    Returns:
      move: `Move`.
    """
    return self.propose(
      level, previous, record, target_log_prob_fn, reparameterize
    )


def check_transitions(transitions):
  """Raises an error if an element of a list is not a `Transition`."""
  for i, transition in enumerate(transitions):
    if not isinstance(transition, Transition):
      raise TypeError(
        f'`transitions[{i}]` must be a Transition, such as KernelPair or '
        f'BijectorTransition; got {transition!r}.'
      )


def _sum_values(x):
  """Sum over the values of a state, the axis before the last one."""
  if x.shape[:-2].num_elements() > 1:
    # The order of the particles is the other one in what comes after this.
    return fusion.sum_by_product(x)
  return _sum_terms(x)


@tf.custom_gradient
def _sum_terms(x):
  """Sum over the axis before the last one.

  XLA does not vectorize what it fuses into a reduction, which a sum of few
  terms need not be.
  """
  if x.shape[-2] > _MAX_TERMS:
    total = tf.reduce_sum(x, axis=-2)
  else:
    total = functools.reduce(lambda a, b: a + b, tf.unstack(x, axis=-2))
  return total, lambda dy: tf.broadcast_to(dy[..., tf.newaxis, :], x.shape)


@tf.custom_gradient
def _softplus(x):
  y = tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
  return y, lambda dy: dy * tf.sigmoid(x)


def _gaussian_log_prob(x, loc, scale):
  """Log density of independent normal values, particles last and first."""
  deviation = (x - loc) / scale
  normalizer = np.log(2.0 * np.pi)
  log_prob = -_sum_values(
    0.5 * (deviation**2 + normalizer) + tf.math.log(scale)
  )
  return particles_first(log_prob)


class GaussianTransitions(Transition):
  """Gaussian forward and reverse kernels, one pair of networks for each level.

  ```none
  q(z | y) = Normal(z; y + loc(h(y)), softplus(scale(h(y))))
  ```

  with one or more hidden ReLU layers `h`, and the reverse kernel likewise. The
  scale is diagonal, the output layers start at zero. States that are nested
  structures are concatenated to vectors for the networks.

  #### References

  [1]: H. Zimmermann, H. Wu, B. Esmaeili, J.-W. van de Meent. Nested
       variational inference. NeurIPS, 2021. https://arxiv.org/abs/2106.11302

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi
  tfd = tfp.distributions

  path = nvi.GeometricPath(
      tfd.MultivariateNormalDiag([0., 0.], [5., 5.]),
      tfd.MultivariateNormalDiag([3., 0.], [1., 1.]), num_densities=3)
  transitions = nvi.GaussianTransitions(path, hidden_units=[50], seed=1)
  assert transitions.num_transitions == 2
  ```
  """

  is_rollable = True
  is_level_batched = True

  def __init__(
    self,
    densities,
    hidden_units=(50,),
    batch_shape=(),
    seed=None,
    name='gaussian_transitions',
  ):
    """Initializes the networks.

    Args:
      densities: The sequence of intermediate densities.
      hidden_units: Python `int`s: units of each hidden layer.
        Default value: `(50,)`.
      batch_shape: Shape of a batch of networks at each level, such as one for
        each of several restarts.
        Default value: `()`.
      seed: Python `int` or stateless seed for the initial weights.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an argument is not of the kind asked for.
      ValueError: If states are not real, or not of one floating point dtype, or
        `hidden_units` are not positive.
    """
    super().__init__(name=name)
    _check_real(densities, 'GaussianTransitions')
    hidden_units = _check_hidden_units(hidden_units)
    self.num_transitions = densities.num_densities - 1
    self.batch_shape = as_batch_shape(batch_shape)
    self._event_shape = densities.event_shape
    self._dtype = densities.float_dtype
    self._size = _num_values(densities)
    self._forward_network, self._reverse_network = (
      StackedPerceptron(
        self.num_transitions,
        self.batch_shape.as_list(),
        [self._size, *hidden_units, 2 * self._size],
        dtype=self._dtype,
        seed=s,
        name=network_name,
      )
      for network_name, s in zip(
        ('forward', 'reverse'),
        randomness.split_seed(randomness.as_seed(seed), 2),
        strict=True,
      )
    )

  def bind(self, densities):
    """Checks that the densities are over the states it was made for."""
    _check_bound(
      'GaussianTransitions', densities, self._event_shape, self._dtype
    )

  def draw_noise(self, sample_shape, seed):
    """Draws standard normal values for all levels at once."""
    seeds = randomness.split_seed(seed, self.num_transitions)
    return self._draw(sample_shape, seeds)

  def draw_level_noise(self, sample_shape, seed, level):
    """Draws standard normal values for one level."""
    seeds = randomness.split_seed(seed, self.num_transitions)
    return self._draw(sample_shape, seeds[level])

  def _draw(self, sample_shape, seed):
    return randomness.normal(
      [*sample_shape, self._size], seed, dtype=self._dtype
    )

  def _kernel(self, network, level, x):
    outputs = network.particles_last(level, x)
    if x.shape[:-2].num_elements() > 1:
      outputs = fusion.compute_once(outputs)
    loc, scale = tf.split(outputs, 2, axis=-2)
    # The smallest scale keeps densities finite where softplus underflows.
    return x + loc, _softplus(scale) + np.finfo(self._dtype.as_numpy_dtype).eps

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    del target_log_prob_fn
    y = particles_last(flatten_state(previous, self._event_shape))
    if y.shape[:-2].num_elements() > 1:
      y = fusion.compute_once(y)
    loc, scale = self._kernel(self._forward_network, level, y)
    sample = particles_first(loc + scale * particles_last(noise))
    if not reparameterize:
      sample = tf.stop_gradient(sample)
    z = particles_last(sample)
    fixed = tf.stop_gradient(z)
    log_forward = _gaussian_log_prob(z, loc, scale)
    score = _gaussian_log_prob(fixed, loc, scale)
    log_reverse = _gaussian_log_prob(
      y, *self._kernel(self._reverse_network, level, z)
    )
    log_reverse_of_fixed = _gaussian_log_prob(
      tf.stop_gradient(y), *self._kernel(self._reverse_network, level, fixed)
    )
    state = unflatten_state(sample, self._event_shape)
    zero = tf.zeros_like(score)
    return Move(
      state=state,
      log_forward=log_forward,
      log_reverse=log_reverse,
      score=score if reparameterize else zero,
      score_of_fixed=zero if reparameterize else score,
      log_reverse_of_fixed=log_reverse_of_fixed,
      samples=(sample,) if reparameterize else (),
      record=noise,
    )


class KernelPair(Transition):
  """Forward and reverse kernels given as callables.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  step = tf.Variable(0.5)
  transition = nvi.KernelPair(
    forward_fn=lambda y: tfd.Normal(y + step, 1.0),
    reverse_fn=lambda z: tfd.Normal(z - step, 1.0),
  )
  ```
  """

  def __init__(
    self, forward_fn, reverse_fn, num_transitions=None, name='kernel_pair'
  ):
    """Initializes the transition.

    Args:
      forward_fn: Python callable from the previous state to a
        `tfd.Distribution` over states, whose `log_prob` has the shape
        `[num_particles] + batch`. With `num_transitions`, it takes the level as
        a second argument, an int `Tensor`.
      reverse_fn: Likewise, from the proposed state to a distribution over the
        previous one.
      num_transitions: Python `int`: the number of consecutive levels that the
        pair leads to, in one loop over levels.
        Default value: `None` (i.e., one).
      name: Python `str` name of this module.

    Raises:
      TypeError: If a kernel is not callable, or the number not an int.
      ValueError: If the reverse kernel is missing, or the number not positive.
    """
    super().__init__(name=name)
    if reverse_fn is None:
      raise ValueError(
        '`reverse_fn` must be given: states of all levels are over one space, '
        'and a forward kernel has no density there without a reverse kernel; '
        'got None.'
      )
    for argument, fn in (
      ('forward_fn', forward_fn),
      ('reverse_fn', reverse_fn),
    ):
      if not callable(fn):
        raise TypeError(
          f'`{argument}` must be a callable that returns a tfd.Distribution; '
          f'got {fn!r}.'
        )
    if num_transitions is not None:
      _check_positive('num_transitions', num_transitions)
      self.num_transitions = num_transitions
    self.is_rollable = num_transitions is not None
    self._forward_fn = forward_fn
    self._reverse_fn = reverse_fn

  def _kernel(self, argument, fn, level, state):
    distribution = fn(state, level) if self.is_rollable else fn(state)
    if not isinstance(distribution, tfd.Distribution):
      raise TypeError(
        f'`{argument}` must return a tfd.Distribution; it returned '
        f'{distribution!r}.'
      )
    return distribution

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    del target_log_prob_fn
    forward = self._kernel('forward_fn', self._forward_fn, level, previous)
    with randomness.portable_sampling():
      state = forward.sample(seed=noise)
    check_same_states('`forward_fn`', state, previous)
    draw = as_draw(forward, state, forward.log_prob, reparameterize)

    def log_reverse_fn(y, z):
      return self._kernel('reverse_fn', self._reverse_fn, level, z).log_prob(y)

    return Move(
      **draw._asdict(),
      log_reverse=log_reverse_fn(previous, draw.state),
      log_reverse_of_fixed=log_reverse_fn(
        _stop_gradient(previous), _stop_gradient(draw.state)
      ),
      record=noise,
    )


def _deterministic_move(state, log_det_jacobian):
  """The move of a bijector."""
  zero = tf.zeros_like(log_det_jacobian)
  return Move(
    state=state,
    log_forward=zero,
    log_reverse=log_det_jacobian,
    score=zero,
    score_of_fixed=zero,
    log_reverse_of_fixed=tf.stop_gradient(log_det_jacobian),
    samples=(),
    record=(),
  )


class BijectorTransition(Transition):
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

  def __init__(self, bijector, name='bijector_transition'):
    """Initializes the transition.

    Args:
      bijector: `tfb.Bijector` from the states of the previous level to those of
        the next.
      name: Python `str` name of this module.

    Raises:
      TypeError: If `bijector` is not one.
    """
    super().__init__(name=name)
    if not isinstance(bijector, tfp.bijectors.Bijector):
      raise TypeError(f'`bijector` must be a tfb.Bijector; got {bijector!r}.')
    self._bijector = bijector
    self._event_ndims = None

  def bind(self, densities):
    """Takes from the densities how many event dimensions states have."""
    _check_continuous(densities, 'Bijectors')
    self._event_ndims = tf.nest.map_structure(
      lambda s: tf.TensorShape(s).rank, densities.event_shape
    )

  def draw_noise(self, sample_shape, seed):
    """A bijector needs no chance."""
    del sample_shape, seed
    return ()

  def draw_level_noise(self, sample_shape, seed, level):
    """A bijector needs no chance."""
    del sample_shape, seed, level
    return ()

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    del level, noise, target_log_prob_fn, reparameterize
    return _deterministic_move(
      self._bijector.forward(previous),
      self._bijector.forward_log_det_jacobian(previous, self._event_ndims),
    )


class PlanarTransitions(Transition):
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
    densities,
    num_layers=32,
    scale=1.0,
    batch_shape=(),
    seed=None,
    name='planar_transitions',
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
    _check_real(densities, 'PlanarTransitions')
    _check_positive('num_layers', num_layers)
    try:
      is_positive = bool(scale > 0.0)
    except (TypeError, ValueError) as e:
      raise TypeError(
        f'`scale` must be a positive Python float; got {scale!r}.'
      ) from e
    if not is_positive:
      raise ValueError(f'`scale` must be positive; got {scale}.')
    self.num_transitions = densities.num_densities - 1
    self.batch_shape = as_batch_shape(batch_shape)
    self._event_shape = densities.event_shape
    self._dtype = densities.float_dtype
    self._num_layers = num_layers
    size = _num_values(densities)
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

  def bind(self, densities):
    """Checks that the densities are over the states it was made for."""
    _check_bound('PlanarTransitions', densities, self._event_shape, self._dtype)

  def draw_noise(self, sample_shape, seed):
    """A flow needs no chance."""
    del sample_shape, seed
    return ()

  def draw_level_noise(self, sample_shape, seed, level):
    """A flow needs no chance."""
    del sample_shape, seed, level
    return ()

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    del noise, target_log_prob_fn, reparameterize
    x = flatten_state(previous, self._event_shape)
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
      y, layer_log_det_jacobian = planar.planar_forward(
        x, direction, normal, bias
      )
      return i + 1, y, log_det_jacobian + layer_log_det_jacobian

    _, x, log_det_jacobian = tf.while_loop(
      lambda i, *_: i < self._num_layers,
      body,
      (tf.constant(0), x, tf.zeros_like(x[..., 0])),
      maximum_iterations=self._num_layers,
    )
    return _deterministic_move(
      unflatten_state(x, self._event_shape), log_det_jacobian
    )


class MCMCTransition(Transition):
  """A Markov kernel that leaves the level's density invariant.

  #### References

  [1]: P. Del Moral, A. Doucet, A. Jasra. Sequential Monte Carlo samplers.
       Journal of the Royal Statistical Society B, 68(3), 2006.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  transition = nvi.MCMCTransition(
    lambda target_log_prob_fn: tfp.mcmc.HamiltonianMonteCarlo(
      target_log_prob_fn, step_size=0.5, num_leapfrog_steps=3
    ),
    num_steps=2,
  )
  ```
  """

  def __init__(
    self,
    make_kernel_fn,
    num_steps=1,
    num_transitions=None,
    name='mcmc_transition',
  ):
    """Initializes the transition.

    Args:
      make_kernel_fn: Python callable that takes `target_log_prob_fn`, whose
        arguments are the parts of a state, and returns a
        `tfp.mcmc.TransitionKernel`. With `num_transitions`, it takes the level
        as a second argument, an int `Tensor`.
      num_steps: Python `int` number of steps of the kernel.
        Default value: `1`.
      num_transitions: Python `int`: the number of consecutive levels that the
        kernel leads to, in one loop over levels.
        Default value: `None` (i.e., one).
      name: Python `str` name of this module.

    Raises:
      TypeError: If `make_kernel_fn` is not callable, or a number not an int.
      ValueError: If `num_steps` or `num_transitions` is not positive.
    """
    super().__init__(name=name)
    if not callable(make_kernel_fn):
      raise TypeError(
        '`make_kernel_fn` must be a callable from a target_log_prob_fn to a '
        f'tfp.mcmc.TransitionKernel; got {make_kernel_fn!r}.'
      )
    _check_positive('num_steps', num_steps)
    if num_transitions is not None:
      _check_positive('num_transitions', num_transitions)
      self.num_transitions = num_transitions
    self.is_rollable = num_transitions is not None
    self.is_level_batched = self.is_rollable
    self._make_kernel_fn = make_kernel_fn
    self._num_steps = num_steps
    self.records_noise = False

  def record_like(self, noise, state):
    """The record is the state the kernel led to."""
    del noise
    return state

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    del reparameterize

    def log_prob_of_parts(*parts):
      return target_log_prob_fn(tf.nest.pack_sequence_as(previous, parts))

    kernel = (
      self._make_kernel_fn(log_prob_of_parts, level)
      if self.is_rollable
      else self._make_kernel_fn(log_prob_of_parts)
    )
    if not isinstance(kernel, tfp.mcmc.TransitionKernel):
      raise TypeError(
        '`make_kernel_fn` must return a tfp.mcmc.TransitionKernel; it returned '
        f'{kernel!r}.'
      )
    if not kernel.is_calibrated:
      raise ValueError(
        '`make_kernel_fn` must return a calibrated kernel, as only such a one '
        f'leaves a density invariant; got {type(kernel).__name__}.'
      )
    parts = [tf.stop_gradient(part) for part in tf.nest.flatten(previous)]
    with randomness.portable_sampling():
      results = kernel.bootstrap_results(parts)
      for seed in tf.unstack(randomness.split_seed(noise, self._num_steps)):
        parts, results = kernel.one_step(parts, results, seed=seed)
    parts = [tf.stop_gradient(part) for part in tf.nest.flatten(parts)]
    return self.replay(
      level,
      previous,
      tf.nest.pack_sequence_as(previous, parts),
      target_log_prob_fn,
    )

  def replay(
    self, level, previous, record, target_log_prob_fn, reparameterize=True
  ):
    """Makes a move again, from the state it led to."""
    del level, reparameterize
    state = _stop_gradient(record)
    log_prob_of_state = target_log_prob_fn(state)

    def log_reverse_fn(y):
      log_prob = target_log_prob_fn(y)
      # Where the density is zero at both states, their difference is NaN.
      return tf.where(
        tf.equal(log_prob, -float('inf')),
        log_prob,
        log_prob - log_prob_of_state,
      )

    log_reverse = log_reverse_fn(previous)
    zero = tf.zeros_like(log_reverse)
    return Move(
      state=state,
      log_forward=zero,
      log_reverse=log_reverse,
      score=zero,
      score_of_fixed=zero,
      log_reverse_of_fixed=log_reverse_fn(_stop_gradient(previous)),
      samples=(),
      record=state,
    )


class Composition(Transition):
  """Transitions one after the other, within one level.

  Such as a flow followed by Hamiltonian Monte Carlo.

  ```python
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfb = tfp.bijectors

  transition = nvi.Composition(
    [
      nvi.BijectorTransition(tfb.Shift(tf.Variable(1.0))),
      nvi.MCMCTransition(
        lambda target_log_prob_fn: tfp.mcmc.HamiltonianMonteCarlo(
          target_log_prob_fn, step_size=0.5, num_leapfrog_steps=3
        )
      ),
    ]
  )
  ```
  """

  def __init__(self, transitions, name='composition'):
    """Initializes the transition.

    Args:
      transitions: List of transitions, first to last, each for the same number
        of levels. Those that leave the level invariant come last: they move
        what the others have brought to the level.
      name: Python `str` name of this module.

    Raises:
      TypeError: If an element is not a `Transition`.
      ValueError: If the list is empty, the numbers of levels differ, batch
        shapes do not broadcast, or an `MCMCTransition` comes before a
        transition that is not one.
    """
    super().__init__(name=name)
    transitions = list(transitions)
    if not transitions:
      raise ValueError('`transitions` must not be empty.')
    check_transitions(transitions)
    counts = [t.num_transitions for t in transitions]
    if len(set(counts)) != 1:
      raise ValueError(
        '`transitions` must all be for the same number of levels; got '
        f'{counts}.'
      )
    is_invariant = [isinstance(t, MCMCTransition) for t in transitions]
    if is_invariant != sorted(is_invariant):
      raise ValueError(
        '`transitions` must have those that leave the level invariant last, as '
        'a gradient cannot pass through them; got '
        f'{[type(t).__name__ for t in transitions]}.'
      )
    self.transitions = transitions
    self.num_transitions = counts[0]
    batch_shapes = [t.batch_shape for t in transitions]
    try:
      self.batch_shape = functools.reduce(
        tf.broadcast_static_shape, batch_shapes
      )
    except ValueError as e:
      raise ValueError(
        '`transitions` must have batch shapes that broadcast with each other; '
        f'got {[shape.as_list() for shape in batch_shapes]}.'
      ) from e
    self.is_rollable = all(t.is_rollable for t in transitions)
    self.is_level_batched = all(t.is_level_batched for t in transitions)
    self.records_noise = all(t.records_noise for t in transitions)

  def bind(self, densities):
    """Passes the densities on to the parts."""
    for transition in self.transitions:
      transition.bind(densities)

  def draw_noise(self, sample_shape, seed):
    """Draws the noise of each part."""
    seeds = tf.unstack(randomness.split_seed(seed, len(self.transitions)))
    return tuple(
      t.draw_noise(sample_shape, s)
      for t, s in zip(self.transitions, seeds, strict=True)
    )

  def draw_level_noise(self, sample_shape, seed, level):
    """Draws the noise of each part for one level."""
    seeds = tf.unstack(randomness.split_seed(seed, len(self.transitions)))
    return tuple(
      t.draw_level_noise(sample_shape, s, level)
      for t, s in zip(self.transitions, seeds, strict=True)
    )

  def record_like(self, noise, state):
    """The records of the parts."""
    return tuple(
      t.record_like(n, state)
      for t, n in zip(self.transitions, noise, strict=True)
    )

  def _compose(self, method, level, state, inputs, *args):
    moves = []
    for transition, value in zip(self.transitions, inputs, strict=True):
      move = getattr(transition, method)(level, state, value, *args)
      moves.append(move)
      state = move.state

    def total(field):
      return _sum_parts([getattr(m, field) for m in moves])

    return Move(
      state=state,
      log_forward=total('log_forward'),
      log_reverse=total('log_reverse'),
      score=total('score'),
      score_of_fixed=total('score_of_fixed'),
      log_reverse_of_fixed=total('log_reverse_of_fixed'),
      samples=sum((m.samples for m in moves), ()),
      record=tuple(m.record for m in moves),
    )

  def propose(
    self, level, previous, noise, target_log_prob_fn, reparameterize=True
  ):
    """Proposes a state; see `Transition.propose`."""
    return self._compose(
      'propose', level, previous, noise, target_log_prob_fn, reparameterize
    )

  def replay(
    self, level, previous, record, target_log_prob_fn, reparameterize=True
  ):
    """Makes a move again; see `Transition.replay`."""
    return self._compose(
      'replay', level, previous, record, target_log_prob_fn, reparameterize
    )

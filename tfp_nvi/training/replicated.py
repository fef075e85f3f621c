# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training steps on the replicas of a `tf.distribute.Strategy`.

A step is divided into islands, which are compiled and know nothing of each
other: each has its share of the particles, or of the instances of the
mini-batch. Gradients and values of all of them are added up by one collective,
and every replica takes the same step.
"""

import dataclasses
import math

import tensorflow as tf
import tf_keras

from tfp_nvi import weighting
from tfp_nvi.chains import Chain
from tfp_nvi.internal import randomness, types
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.training import history
from tfp_nvi.training import steps as steps_lib

__all__ = [
  'ReplicatedSteps',
]


class ReplicatedSteps(steps_lib.CompiledSteps):
  """Takes training steps on several replicas.

  Without data, islands are runs of the sampler with a share of the particles:
  gradients and losses are their means. Weights are normalized by island, which
  has the bias of that many particles. With data, they are shares of the
  mini-batch with all the particles, and what they give is put together.

  Fields:
    As of `CompiledSteps`.

  ```python
  from tfp_nvi.training import replicated, steps

  assert issubclass(replicated.ReplicatedSteps, steps.CompiledSteps)
  ```
  """

  def __init__(
    self, settings: steps_lib.StepSettings, replicas: replicas_lib.Replicas
  ):
    """Traces the objective, and builds the optimizer.

    Args:
      settings: `StepSettings`, with an optimizer of `tf_keras` and the number
        of particles of all islands.
      replicas: `Replicas`.

    Raises:
      ValueError: If there is nothing to train, the parts of the mini-batch or
        the particles cannot be divided, instances are not what the sampler is a
        batch of, or variables were made outside of the scope of the strategy.
    """
    self._replicas = replicas
    self._has_data = bool(tf.nest.flatten(settings.element_spec))
    if not self._has_data:
      size = replicas.share('num_particles', settings.num_particles)
      settings = dataclasses.replace(settings, num_particles=size)
    super().__init__(settings)
    gradients, values = self._step_fn.structured_outputs
    self._check_instances(settings.element_spec, values['loss'])
    self._specs = [*gradients, *(values[x] for x in history.ESTIMATE_FIELDS)]
    self._num_gradients = len(gradients)
    # The widest dtype, which all are sent in.
    self._dtype = (
      tf.float64
      if any(spec.dtype == tf.float64 for spec in self._specs)
      else tf.float32
    )
    self._gather_fn = tf.function(self._gather, autograph=False)

  def _scope(self):
    return self._replicas.strategy.scope()

  def _check_instances(self, element_spec, loss):
    """Raises an error if there is no loss for each instance of a part."""
    if not self._has_data or isinstance(self.sampler, Chain):
      return
    sizes = {x.shape[0] for x in tf.nest.flatten(element_spec)}
    size = max(sizes) // self._replicas.num_islands
    if len(sizes) > 1 or loss.shape[:1] != [size]:
      raise ValueError(
        '`sampler` must have the mini-batch as the first axis of its batch '
        'shape, with `strategy`, which divides both; got losses of shape '
        f'{loss.shape} for a part of {size} of the {max(sizes)} instances.'
      )

  def _check_variables(self):
    strategy = self._replicas.strategy
    replicas_lib.check_in_scope('sampler', strategy, self.variables)
    replicas_lib.check_in_scope(
      'optimizer', strategy, steps_lib.optimizer_variables(self._optimizer)
    )

  def _variable(self, variable):
    # Of a copy, which is what a tape has seen.
    return self._replicas.strategy.extended.value_container(variable)

  def _traced_spec(self, element_spec):
    def share(spec):
      if not spec.shape.rank:
        raise ValueError(
          '`data` must have elements whose first axis is the mini-batch, with '
          f'`strategy`; got {spec}.'
        )
      size = self._replicas.share('data', spec.shape[0])
      return tf.TensorSpec([size] + spec.shape[1:].as_list(), spec.dtype)

    return tf.nest.map_structure(share, element_spec)

  def _compile_loop(self, jit_compile):
    self._island_fn = tf.function(
      self._island, jit_compile=jit_compile, autograph=False
    )
    # Collectives cannot be compiled by XLA on a CPU, and stay outside of it.
    return tf.function(self._loop, autograph=False)

  def compile(self, seed: tf.Tensor) -> dict:
    """Compiles the loop and the islands; see `CompiledSteps.compile`."""
    values = super().compile(seed)
    # XLA compiles an island when it runs, and not with the loop around it.
    self.probe(seed, 0)
    return values

  def _call(self, *args):
    self._replicas.meet()
    return super()._call(*args)

  def agree(self, is_true: bool) -> bool:
    """Whether something is true in any process; see `CompiledSteps.agree`."""
    return bool(tf.reduce_any(self._gather_fn(tf.constant(int(is_true))) > 0))

  def differs(self, number: int) -> bool:
    """Whether a number is not the same; see `CompiledSteps.differs`."""
    self._replicas.meet()
    numbers = self._gather_fn(tf.constant(number))
    return bool(tf.reduce_any(tf.not_equal(numbers, number)))

  def _gather(self, number):
    """The numbers of all replicas."""
    replicas = self._replicas

    def run():
      return replicas.gather(number[tf.newaxis])

    return replicas.first(replicas.run(run))

  def _island(self, seed, element):
    """Gradients and values of an island, as vectors of one dtype."""
    gradients, values = self._gradients_and_values(seed, element)
    return (
      self._pack(gradients),
      self._pack([values[x] for x in history.ESTIMATE_FIELDS]),
    )

  def _pack(self, tensors):
    return tf.concat(
      [tf.reshape(tf.cast(x, self._dtype), [-1]) for x in tensors], axis=0
    )

  def _unpack(self, vector, specs):
    """Tensors of a vector; `vector` may have a first axis over islands."""
    sizes = [math.prod(spec.shape.as_list()) for spec in specs]
    return [
      tf.cast(
        tf.reshape(x, vector.shape[:-1].as_list() + spec.shape.as_list()),
        spec.dtype,
      )
      for x, spec in zip(tf.split(vector, sizes, axis=-1), specs, strict=True)
    ]

  def _reduced(self, seed, element):
    """The sums over the islands of a replica, as one vector."""
    replicas = self._replicas
    indices = replicas.indices()
    seeds = randomness.fold_in(seed, indices)

    def own(x):
      shape = x.shape.as_list()
      rows = [replicas.num_islands, shape[0] // replicas.num_islands]
      return tf.gather(tf.reshape(x, rows + shape[1:]), indices)

    gradients, values = replicas.each(
      self._island_fn, seeds, tf.nest.map_structure(own, element)
    )
    # Each island's values in its own row, so that a sum gathers them; NaN in
    # one of them stays there.
    is_own = tf.equal(tf.range(replicas.num_islands), indices[:, tf.newaxis])[
      ..., tf.newaxis
    ]
    rows = tf.reduce_sum(
      tf.where(
        is_own, values[:, tf.newaxis], tf.zeros_like(values)[:, tf.newaxis]
      ),
      axis=0,
    )
    vector = tf.concat(
      [tf.reduce_sum(gradients, axis=0), tf.reshape(rows, [-1])], axis=0
    )
    return tf.distribute.get_replica_context().all_reduce('SUM', vector)

  def _step(self, seed, element, is_taken):
    """Takes a step, if it is good."""
    replicas = self._replicas
    vector = replicas.first(replicas.run(self._reduced, seed, element))
    gradient_specs = self._specs[: self._num_gradients]
    value_specs = self._specs[self._num_gradients :]
    size = sum(math.prod(spec.shape.as_list()) for spec in gradient_specs)
    gradients = vector[:size]
    if not self._has_data:
      gradients /= replicas.num_islands
    gradients = self._unpack(gradients, gradient_specs)
    values = self._combine(
      self._unpack(
        tf.reshape(vector[size:], [replicas.num_islands, -1]), value_specs
      )
    )
    norm = steps_lib.global_norm(gradients)

    def apply():
      replicas.run(self._apply, gradients, self._clipping.scale(norm))
      return tf.constant(False)

    is_skipped = tf.cond(
      self._is_good(norm, values) & is_taken, apply, lambda: tf.constant(True)
    )
    return {**values, 'is_skipped': is_skipped}

  def _apply(self, gradients, scale):
    """Updates the variables of a replica."""
    pairs = zip(
      [g * tf.cast(scale, g.dtype) for g in gradients],
      self.variables,
      strict=True,
    )
    if isinstance(self._optimizer, tf_keras.optimizers.legacy.Optimizer):
      self._optimizer.apply_gradients(
        pairs, experimental_aggregate_gradients=False
      )
    else:
      self._optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

  def _combine(self, values):
    """The values of all islands together.

    Args:
      values: List of `Tensor`s of shape `[num_islands] + ...`, in the order of
        `ESTIMATE_FIELDS`.

    Returns:
      values: Python `dict`.
    """
    names = history.ESTIMATE_FIELDS
    of_islands = dict(zip(names, values, strict=True))
    num_nan = tf.reduce_sum(of_islands['num_nan'])
    if not self._has_data:
      combined = weighting.combine_estimates(of_islands)
    elif isinstance(self.sampler, Chain):
      # Its values are sums and means over instances already.
      combined = {
        name: tf.reduce_mean(x, axis=0)
        if name in history.SIZE_FIELDS
        else tf.reduce_sum(x, axis=0)
        for name, x in of_islands.items()
      }
    else:
      # Levels, where there are some, come before the instances.
      combined = {
        name: tf.concat(
          tf.unstack(x), axis=1 if name in history.LEVEL_FIELDS else 0
        )
        for name, x in of_islands.items()
        if name != 'num_nan'
      }
    return {**combined, 'num_nan': num_nan}

  def _value_specs(self):
    """The `TensorSpec`s of the values of all islands together."""
    specs = super()._value_specs()
    if not self._has_data or isinstance(self.sampler, Chain):
      return specs

    def of_all(name, spec):
      if name == 'num_nan':
        return spec
      shape = spec.shape.as_list()
      axis = 1 if name in history.LEVEL_FIELDS else 0
      shape[axis] *= self._replicas.num_islands
      return tf.TensorSpec(shape, spec.dtype)

    return {name: of_all(name, spec) for name, spec in specs.items()}

  def _islands(self, seed, step, elements, index):
    """Yields the seed and the data of each island of a step."""
    seed = randomness.fold_in(seed, step)
    element = steps_lib.element_at(elements, index)
    num_islands = self._replicas.num_islands
    for i in range(num_islands):
      yield (
        randomness.fold_in(seed, i),
        tf.nest.map_structure(
          lambda x, i=i: tf.split(x, num_islands)[i], element
        ),
      )

  def bad_gradients(
    self, seed: tf.Tensor, step: int, elements: types.Structure, index: int
  ) -> list[str]:
    """Names variables by their gradients; see `CompiledSteps.bad_gradients`."""
    names: dict = {}
    for island_seed, element in self._islands(seed, step, elements, index):
      names |= dict.fromkeys(self._bad_gradients(island_seed, element))
    return list(names)

  def describe_nan(
    self, seed: tf.Tensor, step: int, elements: types.Structure, index: int
  ) -> str | None:
    """Says which density is NaN; see `CompiledSteps.describe_nan`."""
    for island_seed, element in self._islands(seed, step, elements, index):
      found = self._describe_nan(island_seed, element)
      if found is not None:
        return found
    return None

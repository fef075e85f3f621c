# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Islands on the replicas of a `tf.distribute.Strategy`.

Work is divided into islands. The work of an island depends on its index alone,
not on the replicas. A replica runs its islands in turn, each by one call of a
compiled function, and collectives stand between compiled functions, because XLA
does not compile collectives on a CPU. So the results are the same on any number
of replicas, up to the order of sums.
"""

import itertools
import math
import time

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as tf_context

from tfp_nvi.internal import checks

__all__ = [
  'Replicas',
  'check_in_scope',
  'check_strategy',
]

# The number of meetings so far. It is the same in all processes, because all of
# them make the same calls.
_meetings = itertools.count()


def check_strategy(strategy) -> None:
  """Raises an error if islands cannot run on a strategy.

  Args:
    strategy: The value to check.

  Raises:
    TypeError: If it is not a synchronous `tf.distribute.Strategy`.
    ValueError: If it is used inside of a replica or a `tf.function`.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import replicas

  replicas.check_strategy(tf.distribute.OneDeviceStrategy('CPU:0'))
  ```
  """
  expected = 'a tf.distribute.Strategy whose replicas run in step'
  checks.check_instance('strategy', strategy, tf.distribute.Strategy, expected)
  if isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
    raise TypeError(f'`strategy` must be {expected}; got {strategy!r}.')
  is_in_replica = (
    tf.distribute.has_strategy()
    and not tf.distribute.in_cross_replica_context()
  )
  if is_in_replica or not tf.executing_eagerly():
    raise ValueError(
      '`strategy` must be None inside of `strategy.run` and of a tf.function, '
      f'as calls to it are made of several compiled parts; got {strategy!r}.'
    )


def check_in_scope(name: str, strategy, variables) -> None:
  """Raises an error for variables that replicas have no copies of.

  Args:
    name: Python `str` name of the argument that the variables belong to.
    strategy: `tf.distribute.Strategy`.
    variables: Iterable of `tf.Variable`s.

  Raises:
    ValueError: If one was made outside of the scope of the strategy.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import replicas

  strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  with strategy.scope():
    variable = tf.Variable(1.0)
  replicas.check_in_scope('sampler', strategy, [variable])
  ```
  """
  if strategy is _default():
    return
  for variable in variables:
    if not strategy.extended.variable_created_in_scope(variable):
      raise ValueError(
        f'`{name}` must be made inside of `strategy.scope()`, so that each '
        f'replica has a copy of its variables; got {variable.name!r}, which '
        'was made outside.'
      )


def _tasks(resolver):
  """Returns the names of the tasks that train together."""
  spec = resolver.cluster_spec()
  return [
    f'/job:{job}/task:{task}'
    for job in ('chief', 'worker')
    if job in spec.jobs
    for task in spec.task_indices(job)
  ]


def _default():
  """Returns the strategy of this process if the user gives none."""
  with tf.init_scope():
    return tf.distribute.get_strategy()


class Replicas:
  """Runs functions of islands on the replicas of a strategy.

  `indices`, `each` and `gather` are for functions that `run` calls.

  Fields:
    strategy: `tf.distribute.Strategy`.
    num_islands: Python `int`.
    num_local: Python `int`: islands of a replica.

  ```python
  import tensorflow as tf
  from tfp_nvi.internal import replicas

  islands = replicas.Replicas(tf.distribute.OneDeviceStrategy('CPU:0'), 4)


  @tf.function(autograph=False)
  def squares():
    def run():
      return islands.gather(islands.each(lambda i: i**2, islands.indices()))

    return islands.first(islands.run(run))


  assert list(squares().numpy()) == [0, 1, 4, 9]
  ```
  """

  def __init__(self, strategy, num_islands: int | None = None):
    """Initializes the runner.

    Args:
      strategy: `tf.distribute.Strategy`, or `None` for the one of this process.
      num_islands: Python `int`.
        Default value: `None` (i.e., one for each replica).

    Raises:
      TypeError: If an argument is of another kind.
      ValueError: If the islands are not a multiple of the replicas.
    """
    self.strategy = _default() if strategy is None else strategy
    check_strategy(self.strategy)
    num_replicas = self.strategy.num_replicas_in_sync
    if num_islands is None:
      num_islands = num_replicas
    self.num_islands = checks.as_count('num_islands', num_islands)
    if self.num_islands % num_replicas:
      raise ValueError(
        f'`num_islands` must be a multiple of the {num_replicas} replicas of '
        f'`strategy`; got {num_islands}.'
      )
    self.num_local = self.num_islands // num_replicas
    # Processes must meet here, because creating variables is already a
    # collective.
    self.meet()

  @property
  def is_chief(self) -> bool:
    """Whether this process is the one that writes files and reports."""
    resolver = self.strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
      return True
    return resolver.task_type == 'chief' or (
      resolver.task_type == 'worker'
      and resolver.task_id == 0
      and 'chief' not in resolver.cluster_spec().jobs
    )

  def share(self, name: str, count: int) -> int:
    """Returns an island's share of a count that is divided among islands.

    Args:
      name: Python `str` name of the argument.
      count: Python `int`.

    Returns:
      share: Python `int`.

    Raises:
      ValueError: If it cannot be divided equally.
    """
    if count % self.num_islands:
      raise ValueError(
        f'`{name}` must be a multiple of the number of islands, '
        f'{self.num_islands}; got {count}.'
      )
    return count // self.num_islands

  def meet(self) -> None:
    """Waits until all processes are here, if the strategy has a timeout.

    TensorFlow detects a process that has died, and names it. This method
    detects a process that is late.

    Raises:
      TimeoutError: If a process is not here in time.
    """
    # A strategy has no public access to its options. TensorFlow's own error at
    # that timeout names a collective, and not the worker that is late.
    options = getattr(self.strategy.extended, '_communication_options', None)
    timeout = options and options.timeout_seconds
    resolver = self.strategy.cluster_resolver
    if not timeout or resolver is None or not resolver.cluster_spec():
      return
    own = f'/job:{resolver.task_type}/task:{resolver.task_id}'
    number = next(_meetings)
    # The key-value store that all processes share has no public name. Of its
    # public uses, `tf.experimental.dtensor.barrier` needs a mesh of DTensor,
    # and `tf.distribute.experimental.PreemptionCheckpointHandler` a checkpoint.
    store = tf_context.context()
    store.set_config_key_value(f'tfp_nvi/{number}{own}', 'here')
    if number > 1:
      # All processes have met since they last read that key.
      store.delete_config_key_value(f'tfp_nvi/{number - 2}{own}')
    deadline = time.monotonic() + timeout
    late = []
    for task in _tasks(resolver):
      milliseconds = int(1e3 * (deadline - time.monotonic()))
      try:
        store.get_config_key_value(
          f'tfp_nvi/{number}{task}', max(1, milliseconds)
        )
      except tf.errors.DeadlineExceededError:
        late.append(task)
    if late:
      raise TimeoutError(
        f'`strategy` has workers that are not here after {timeout:g} s, the '
        f'`timeout_seconds` of its communication options: {", ".join(late)}.'
      )

  def from_first(self, content: bytes) -> bytes:
    """Broadcasts the bytes of the first process.

    Args:
      content: Python `bytes`.

    Returns:
      content: Python `bytes` of the first process.
    """
    self.meet()
    size = int(self._sum_of_first(np.array([len(content)], np.int32))[0])
    words = np.zeros([-(-size // 4)], np.int32)
    own = np.frombuffer(content[:size], np.uint8)
    words.view(np.uint8)[: len(own)] = own
    return self._sum_of_first(words).tobytes()[:size]

  def _sum_of_first(self, values):
    """Returns the int32 values of the first replica, by one collective."""
    values = tf.constant(values)

    def run():
      context = tf.distribute.get_replica_context()
      is_first = tf.equal(context.replica_id_in_sync_group, 0)
      return context.all_reduce(
        'SUM', tf.where(is_first, values, tf.zeros_like(values))
      )

    fn = tf.function(lambda: self.first(self.run(run)), autograph=False)
    return fn().numpy()

  def run(self, fn, *args):
    """Runs a function on each replica.

    Args:
      fn: Python callable.
      *args: Its arguments. A value that `run` returned is passed to each
        replica as that replica returned it.

    Returns:
      values: The values that the function returns on each replica.
    """
    return self.strategy.run(fn, args)

  def first(self, values):
    """Returns the values of the first replica of this process.

    Args:
      values: The values that `run` returned.

    Returns:
      values: Nested structure of `Tensor`s.
    """
    return tf.nest.map_structure(
      lambda x: self.strategy.experimental_local_results(x)[0], values
    )

  def indices(self) -> tf.Tensor:
    """Returns the indices of this replica's islands, of shape `[num_local]`."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return replica * self.num_local + tf.range(self.num_local)

  def each(self, fn, *args):
    """Calls a function for each island of this replica, one after the other.

    Args:
      fn: Python callable from `Tensor`s to a nested structure of them.
      *args: Nested structures of `Tensor`s of shape `[num_local, ...]`.

    Returns:
      values: The values that the function returns, with a first axis over
        islands.
    """
    values = []
    for i in range(self.num_local):
      # The dependency keeps two islands from being in memory at the same time.
      with tf.control_dependencies(tf.nest.flatten(values[-1:])):
        values.append(
          fn(*tf.nest.map_structure(lambda x, i=i: tf.identity(x[i]), args))
        )
    return tf.nest.map_structure(lambda *x: tf.stack(x), *values)

  def gather(self, values):
    """Gathers the values of the islands of all replicas.

    Args:
      values: Nested structure of `Tensor`s of shape `[num_local, ...]`.

    Returns:
      values: The same, of shape `[num_islands, ...]`.
    """
    flat = [tf.identity(x) for x in tf.nest.flatten(values)]
    # There is one collective for all of them, as each takes a millisecond.
    parts = [_as_words(x) for x in flat]
    context = tf.distribute.get_replica_context()
    words = context.all_gather(tf.concat(parts, axis=1), axis=0)
    num_rows = parts[0].shape[0] * self.strategy.num_replicas_in_sync
    words = tf.ensure_shape(words, [num_rows, None])
    sizes = [part.shape[1] for part in parts]
    return tf.nest.pack_sequence_as(
      values,
      [
        _from_words(x, like)
        for x, like in zip(tf.split(words, sizes, axis=1), flat, strict=True)
      ],
    )


def _as_words(x):
  """Converts a `Tensor` `[n, ...]` to the bits of float32, `[n, size]`."""
  if x.dtype.size == 1:
    # Numbers of 8 bits, bool included, fit into an int32.
    x = tf.cast(x, tf.int32)
  if x.dtype.size == 2:
    x = tf.cast(tf.bitcast(x, tf.int16), tf.int32)
  size = math.prod(x.shape.as_list()[1:]) * (x.dtype.size // 4)
  return tf.reshape(tf.bitcast(x, tf.float32), [x.shape[0], size])


def _from_words(words, like):
  """Inverts `_as_words`, for any number of rows."""
  dtype = like.dtype
  shape = [words.shape[0]] + like.shape.as_list()[1:]
  if dtype.size <= 2:
    x = tf.reshape(tf.bitcast(words, tf.int32), shape)
    if dtype.size == 1:
      return tf.cast(x, dtype)
    return tf.bitcast(tf.cast(x, tf.int16), dtype)
  num_words = dtype.size // 4
  if num_words > 1:
    shape = shape + [num_words]
  return tf.bitcast(tf.reshape(words, shape), dtype)

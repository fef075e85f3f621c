# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training: many steps in each compiled call.

What must hold: step `i` draws from a seed that depends on the user's seed and
on `i` alone, so that training gives the same numbers however many steps a call
takes, and whether or not it was stopped and resumed in between.
"""

import collections
import inspect
import json
import os
import time
import warnings

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from tfp_nvi.chains import Chain
from tfp_nvi.internal import randomness

with warnings.catch_warnings():
  # A notebook without widgets has a bar of plain text, which needs no warning.
  warnings.simplefilter('ignore', tqdm.TqdmWarning)
  from tqdm.auto import tqdm as progress_bar

__all__ = [
  'History',
  'fit',
]

_FIELDS = (
  'loss',
  'log_normalizer',
  'effective_sample_size',
  'log_incremental_weights',
)


class History(
  collections.namedtuple('History', [*_FIELDS, 'compile_seconds', 'seconds'])
):
  """What happened during training, as NumPy arrays.

  Fields:
    loss: Shape `[num_steps] + batch`.
    log_normalizer: Shape `[num_steps] + batch`.
    effective_sample_size: Shape `[num_steps] + batch`.
    log_incremental_weights: Shape `[num_steps, num_densities - 1] + batch`:
      mean `log v` of each level.
    compile_seconds: Python `float`: tracing and compilation.
    seconds: Python `float`: the steps themselves, without compilation.
  """

  __slots__ = ()

  @property
  def microseconds_per_step(self):
    """Duration of a step, without compilation."""
    return 1e6 * self.seconds / max(1, len(self.loss))


def _check_finite(values, first_step):
  """Raises an error that names the first step and level with a NaN."""
  for field in ('log_incremental_weights', 'loss', 'log_normalizer'):
    is_nan = np.isnan(values[field])
    if not is_nan.any():
      continue
    step, *index = np.argwhere(is_nan)[0].tolist()
    where = f'step {first_step + step}'
    if field == 'log_incremental_weights':
      where += f', level {index.pop(0) + 1}'
    if index:
      where += f', batch member {index}'
    raise FloatingPointError(
      f'Training stopped: {field} became NaN at {where}. The variables hold '
      'what the steps after it made of them; restore a checkpoint, lower the '
      'learning rate, or look at the density and the transition of that level.'
    )


class _Checkpoints:
  """Saves and restores all that training needs to go on."""

  def __init__(self, directory, arguments, optimizer, variables):
    self._arguments = arguments
    self._directory = directory
    self._step = tf.Variable(0, dtype=tf.int64, name='step')
    optimizer_variables = optimizer.variables
    if callable(optimizer_variables):
      optimizer_variables = optimizer_variables()
    self._manager = tf.train.CheckpointManager(
      tf.train.Checkpoint(
        step=self._step,
        variables=list(variables),
        optimizer_variables=list(optimizer_variables),
      ),
      directory,
      max_to_keep=2,
    )

  def _path(self, step):
    return os.path.join(self._directory, f'history-{step}.npz')

  def restore(self):
    """Returns the number of steps taken, and their history in pieces."""
    latest = self._manager.latest_checkpoint
    if latest is None:
      return 0, []
    step = int(latest.rsplit('-', 1)[-1])
    try:
      saved = np.load(self._path(step))
    except OSError as e:
      raise ValueError(
        f'`checkpoint_dir` {self._directory!r} must have the history of its '
        f'latest checkpoint; {self._path(step)!r} cannot be read '
        f'({e.strerror}).'
      ) from e
    with saved:
      arguments = json.loads(str(saved['arguments']))
      if arguments != self._arguments:
        raise ValueError(
          f'`checkpoint_dir` {self._directory!r} holds training with other '
          f'arguments: {arguments}; got {self._arguments}.'
        )
      pieces = [{field: saved[field] for field in _FIELDS}]
    self._manager.checkpoint.restore(latest).assert_existing_objects_matched()
    return step, pieces

  def save(self, step, pieces):
    """Saves; a checkpoint is complete before it is named as the latest."""
    path = self._path(step)
    with open(path + '.part', 'wb') as f:
      np.savez(f, arguments=json.dumps(self._arguments), **_join(pieces))
    os.replace(path + '.part', path)
    self._step.assign(step)
    self._manager.save(checkpoint_number=step)
    steps = {name.rsplit('-', 1)[-1] for name in self._manager.checkpoints}
    for name in os.listdir(self._directory):
      if name.startswith('history-') and name[8:-4] not in steps:
        os.remove(os.path.join(self._directory, name))


def _join(pieces):
  return {
    field: np.concatenate([piece[field] for piece in pieces])
    for field in _FIELDS
  }


def _make_summary_writer(tensorboard_dir):
  try:
    return tf.summary.create_file_writer(tensorboard_dir)
  except Exception as e:  # The class of the error is private to TensorFlow.
    raise ImportError(
      '`tensorboard_dir` needs the package tensorboard: install '
      "'tfp-nvi[tensorboard]'."
    ) from e


def _write_summary(writer, piece, step):
  means = {field: np.mean(piece[field]) for field in _FIELDS[:-1]}
  levels = piece['log_incremental_weights']
  levels = np.mean(levels, axis=(0, *range(2, levels.ndim)))
  with writer.as_default():
    for name, value in means.items():
      tf.summary.scalar(name, value, step=step)
    for level, value in enumerate(levels, start=1):
      tf.summary.scalar(f'log_incremental_weights/{level}', value, step=step)
  writer.flush()


def _check_data(data, sampler):
  """The specs of an element; raises an error if a step cannot take one."""
  if not isinstance(data, tf.data.Dataset):
    raise TypeError(
      '`data` must be a tf.data.Dataset, of which each step takes an element; '
      f'got {data!r}.'
    )
  if hasattr(sampler, 'start') or not callable(sampler):
    raise TypeError(
      '`sampler` must be a callable from an element of `data` to a '
      f'NestedSampler where `data` is given; got {sampler!r}.'
    )
  for spec in tf.nest.flatten(data.element_spec):
    if not isinstance(spec, tf.TensorSpec) or not spec.shape.is_fully_defined():
      raise ValueError(
        '`data` must have elements of Tensors whose shapes are known, such as '
        f'those of `batch(..., drop_remainder=True)`; got {spec}.'
      )
  if int(data.cardinality()) == 0:
    raise ValueError('`data` must have elements; got an empty Dataset.')
  return data.element_spec


def _has_build(optimizer):
  """Whether the state of an optimizer can be made before its first step."""
  return isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer) or hasattr(
    optimizer, 'build'
  )


def _build(optimizer, variables):
  """Makes the state of an optimizer for these variables."""
  if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
    # They have no public name for what their first step does.
    optimizer._create_all_weights(variables)
  else:
    optimizer.build(variables)


def _make_steps_fn(
  make_sampler_fn,
  objective,
  num_particles,
  optimizer,
  variables,
  num_steps,
  jit_compile,
  element_spec,
):
  """Makes the function that takes up to `num_steps` training steps.

  Returns:
    steps_fn: `tf.function` from a seed, the first step, the step to stop before
      and the data of all steps, to the values of each step.
    variables: List of the variables that are trained.
  """
  watched = []

  def estimate_and_gradients(seed, element):
    estimate, pairs = objective(make_sampler_fn(element), num_particles, seed)
    if variables is not None:
      wanted = {v.ref() for v in variables}
      pairs = [(g, v) for g, v in pairs if v.ref() in wanted]
    pairs = [(v, g) for g, v in pairs]
    watched[:] = [v for v, _ in pairs]
    return [tf.convert_to_tensor(g) for _, g in pairs], {
      field: getattr(estimate, field) for field in _FIELDS
    }

  # Traced apart from the loop that calls it, to learn which variables there are
  # before the optimizer makes its own.
  step_fn = tf.function(
    estimate_and_gradients, autograph=False
  ).get_concrete_function(tf.TensorSpec([2], tf.int32), element_spec)
  if not watched:
    raise ValueError(
      '`objective` has no gradient for any variable: `sampler` has nothing to '
      'train, or not on the sides that the objective trains.'
    )
  if _has_build(optimizer):
    _build(optimizer, watched)

  @tf.function(jit_compile=jit_compile, autograph=False)
  def steps_fn(seed, first_step, stop_step, elements):
    seeds = randomness.fold_in(seed, first_step + tf.range(num_steps))

    def body(i, arrays):
      gradients, values = step_fn(
        seeds[i], tf.nest.map_structure(lambda x: x[i], elements)
      )
      optimizer.apply_gradients(zip(gradients, watched, strict=True))
      return i + 1, tf.nest.map_structure(
        lambda array, x: array.write(i, x), arrays, values
      )

    arrays = tf.nest.map_structure(
      lambda x: tf.TensorArray(x.dtype, num_steps, element_shape=x.shape),
      step_fn.structured_outputs[1],
    )
    # A loop bound that is known keeps the compiled program the same.
    _, arrays = tf.while_loop(
      lambda i, _: i < tf.minimum(num_steps, stop_step - first_step),
      body,
      (tf.constant(0), arrays),
      parallel_iterations=1,
    )
    return tf.nest.map_structure(lambda array: array.stack(), arrays)

  return steps_fn, watched


def fit(
  sampler,
  objective,
  num_particles,
  num_steps,
  data=None,
  optimizer=None,
  seed=None,
  variables=None,
  steps_per_call=200,
  jit_compile=True,
  progress=True,
  checkpoint_dir=None,
  checkpoint_seconds=60.0,
  tensorboard_dir=None,
  callback_fn=None,
):
  """Trains a sampler.

  Batch members, such as restarts, are trained together; the gradient followed
  is that of the sum of their losses.

  Args:
    sampler: `NestedSampler` or `Chain`. With `data`, a Python callable from an
      element of it to one for that, whose variables exist already: one sampler
      learned for all instances.
    objective: What to minimize: `tfp_nvi.reverse_kl()`, another nested
      divergence, or a bound such as `tfp_nvi.iwae()`.
    num_particles: Python `int` number of particles at each level.
    num_steps: Python `int` number of steps in all, resumed ones included.
    data: `tf.data.Dataset` whose elements are mini-batches of known shape. Each
      step takes one, beginning again at the end; a compiled call holds those of
      `steps_per_call` steps. Training that is resumed goes on where it was if
      the order is the same each time, as with the seed of `shuffle` set.
      Default value: `None` (i.e., no data but what `sampler` has).
    optimizer: Anything with `apply_gradients`, such as a
      `tf_keras.optimizers.Optimizer`. Without `jit_compile`, those of
      `tf_keras.optimizers.legacy` are faster: an update of a variable is one
      operation. Its state is for the variables of this training: one that has
      trained others cannot be used again.
      Default value: `None` (i.e., `tf_keras.optimizers.Adam(1e-3)`).
    seed: Python `int` or stateless seed.
    variables: List of `tf.Variable`s to train.
      Default value: `None` (i.e., all that the objective depends on).
    steps_per_call: Python `int` number of steps in one compiled call; between
      calls progress is shown and values are checked.
      Default value: `200`.
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `True`.
    progress: Python `bool`: whether to show a progress bar, on a terminal.
      Default value: `True`.
    checkpoint_dir: Python `str`: a folder for checkpoints. Training goes on
      from the latest one there, to the same numbers as without a stop; needs
      a `seed`.
      Default value: `None` (i.e., no checkpoints).
    checkpoint_seconds: Python `float`: how much time may pass between two.
      Default value: `60.`.
    tensorboard_dir: Python `str`: a folder for TensorBoard summaries.
      Default value: `None` (i.e., no summaries).
    callback_fn: Python callable that is called after each compiled call, with
      the number of steps taken and a `dict` of the values of the steps of that
      call, by the names of the fields of `History`.
      Default value: `None`.

  Returns:
    history: `History`.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If a count is not positive, there is nothing to train, `data`
      has no elements or some of unknown shape, or `checkpoint_dir` cannot be
      written or is of training with other arguments.
    FloatingPointError: If a loss or a weight becomes NaN; names the step and
      the level.

  ```python
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 1.0), tfd.Normal(2.0, 0.5), num_densities=3
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  history = nvi.fit(
    sampler, nvi.reverse_kl(), num_particles=10, num_steps=20, seed=2
  )
  assert history.loss.shape == (20,)
  ```
  """
  for name, value in (
    ('num_particles', num_particles),
    ('num_steps', num_steps),
    ('steps_per_call', steps_per_call),
  ):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(
        f'`{name}` must be a positive Python int; got {value!r}.'
      )
  if checkpoint_dir is not None and seed is None:
    raise ValueError(
      '`seed` must be given with `checkpoint_dir`, to resume to the same '
      'numbers; got None.'
    )
  seed = randomness.as_seed(seed)
  if data is not None:
    element_spec = _check_data(data, sampler)
    make_sampler_fn = sampler
  elif not hasattr(sampler, 'start') and not isinstance(sampler, Chain):
    raise TypeError(
      f'`sampler` must be a NestedSampler or a Chain; got {sampler!r}.'
    )
  else:
    element_spec = ()

    def make_sampler_fn(element):
      del element
      return sampler

  if not callable(objective) or inspect.isfunction(objective):
    raise TypeError(
      '`objective` must be an objective, such as tfp_nvi.reverse_kl(); got '
      f'{objective!r}.'
    )
  if optimizer is None:
    optimizer = tf_keras.optimizers.Adam(1e-3)
  if not hasattr(optimizer, 'apply_gradients'):
    raise TypeError(
      '`optimizer` must have `apply_gradients`, as tf_keras.optimizers.Adam() '
      f'has; got {optimizer!r}.'
    )
  if checkpoint_dir is not None and not _has_build(optimizer):
    raise ValueError(
      '`optimizer` must be one of tf_keras.optimizers, or have `build` as they '
      'have, with `checkpoint_dir`, so that its state exists before it is '
      f'saved; got {type(optimizer).__name__}.'
    )
  if callback_fn is not None and not callable(callback_fn):
    raise TypeError(f'`callback_fn` must be callable; got {callback_fn!r}.')
  if checkpoint_dir is not None:
    try:
      os.makedirs(checkpoint_dir, exist_ok=True)
    except OSError as e:
      raise ValueError(
        '`checkpoint_dir` must be a folder that can be written; got '
        f'{checkpoint_dir!r} ({e.strerror}).'
      ) from e
  writer = None
  if tensorboard_dir is not None:
    writer = _make_summary_writer(tensorboard_dir)

  start = time.perf_counter()
  steps_fn, watched = _make_steps_fn(
    make_sampler_fn,
    objective,
    num_particles,
    optimizer,
    variables,
    steps_per_call,
    jit_compile,
    element_spec,
  )
  step, pieces, checkpoints = 0, [], None
  if checkpoint_dir is not None:
    arguments = {
      'seed': seed.numpy().tolist(),
      'num_particles': num_particles,
      'objective': getattr(objective, 'description', type(objective).__name__),
      'shapes': [v.shape.as_list() for v in watched],
      'optimizer': f'{type(optimizer).__module__}.{type(optimizer).__name__}',
    }
    if data is not None:
      arguments['data'] = str(element_spec)
    checkpoints = _Checkpoints(checkpoint_dir, arguments, optimizer, watched)
    step, pieces = checkpoints.restore()
  # Compiles without taking a step.
  elements = tf.nest.map_structure(
    lambda spec: tf.zeros([steps_per_call] + spec.shape.as_list(), spec.dtype),
    element_spec,
  )
  steps_fn(seed, tf.constant(step), tf.constant(step), elements)
  compile_seconds = time.perf_counter() - start

  if data is not None:
    elements_of_calls = iter(
      data.repeat().skip(step).batch(steps_per_call).prefetch(1)
    )
  seconds = 0.0
  saved = time.perf_counter()
  with progress_bar(
    total=num_steps,
    initial=min(step, num_steps),
    disable=None if progress else True,
    unit='step',
  ) as bar:
    while step < num_steps:
      start = time.perf_counter()
      stop = min(step + steps_per_call, num_steps)
      if data is not None:
        elements = next(elements_of_calls)
      piece = steps_fn(
        seed, tf.constant(step), tf.constant(num_steps), elements
      )
      piece = {k: v.numpy()[: stop - step] for k, v in piece.items()}
      seconds += time.perf_counter() - start
      _check_finite(piece, step)
      pieces.append(piece)
      bar.update(stop - step)
      step = stop
      bar.set_postfix(
        loss=f'{np.mean(piece["loss"]):.3f}',
        log_normalizer=f'{np.mean(piece["log_normalizer"]):.3f}',
        ess=f'{np.mean(piece["effective_sample_size"]):.1f}/{num_particles}',
        refresh=False,
      )
      if writer is not None:
        _write_summary(writer, piece, step)
      if callback_fn is not None:
        callback_fn(step, piece)
      if checkpoints is not None and (
        step == num_steps or time.perf_counter() - saved > checkpoint_seconds
      ):
        checkpoints.save(step, pieces)
        saved = time.perf_counter()
  return History(
    **{k: v[:num_steps] for k, v in _join(pieces).items()},
    compile_seconds=compile_seconds,
    seconds=seconds,
  )

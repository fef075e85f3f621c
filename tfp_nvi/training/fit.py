# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training of a sampler: the loop on the host, between compiled calls."""

import functools
import inspect
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfp_nvi.chains import Chain
from tfp_nvi.internal import checks, randomness, types
from tfp_nvi.internal import replicas as replicas_lib
from tfp_nvi.objectives import Objective
from tfp_nvi.sampler import NestedSampler
from tfp_nvi.training import (
  checkpoints,
  fingerprint,
  interrupts,
  replicated,
  reporting,
)
from tfp_nvi.training import history as history_lib
from tfp_nvi.training import monitor as monitor_lib
from tfp_nvi.training import steps as steps_lib
from tfp_nvi.training import store as store_lib

__all__ = [
  'fit',
]


def fit(
  sampler: NestedSampler | Chain | Callable,
  objective: Objective,
  num_particles: int,
  num_steps: int,
  *,
  # What to learn from.
  data: tf.data.Dataset | None = None,
  seed: types.Seed | None = None,
  # How to learn.
  optimizer: Any = None,
  variables: Sequence[tf.Variable] | None = None,
  clip_factor: float | None = 10.0,
  strict: bool = False,
  # How to compile.
  steps_per_call: int = 200,
  jit_compile: bool = True,
  # Where to run.
  strategy: tf.distribute.Strategy | None = None,
  num_islands: int | None = None,
  # What to save.
  checkpoint_dir: str | os.PathLike | None = None,
  checkpoint_seconds: float = 60.0,
  # What to show.
  progress: bool = True,
  tensorboard_dir: str | os.PathLike | None = None,
  callback_fn: Callable | None = None,
) -> history_lib.History:
  """Trains a sampler.

  Batch members, such as restarts, are trained together; the gradient followed
  is that of the sum of their losses.

  A step whose loss or gradient is not finite is skipped, and counted in
  `History`: variables, and those of the optimizer, stay as they were.

  Args:
    sampler: `NestedSampler` or `Chain`. With `data`, a Python callable from a
      mini-batch of it to the `NestedSampler` or `Chain` for it. Its variables
      must be created beforehand, and not in each call.
    objective: What to minimize: `tfp_nvi.reverse_kl()`, another nested
      divergence, or a bound such as `tfp_nvi.iwae()`.
    num_particles: Python `int` number of particles at each level.
    num_steps: Python `int` number of steps in all, resumed ones included.
    data: `tf.data.Dataset` whose elements are mini-batches of known shape. Each
      step takes one, beginning again at the end; a compiled call holds those of
      `steps_per_call` steps. Resumed training sees the same mini-batches only
      if their order is the same each time, as by `shuffle(size, seed=1)`.
      Default value: `None` (i.e., no data but what `sampler` has).
    seed: Python `int` or stateless seed.
      Default value: `None` (i.e., one that differs from call to call).
    optimizer: Anything with `apply_gradients`, such as a
      `tf_keras.optimizers.Optimizer`. Without `jit_compile`, those of
      `tf_keras.optimizers.legacy` are faster: an update of a variable is one
      operation. Its state is for the variables of this training: one that has
      trained others cannot be used again.
      Default value: `None` (i.e., `tf_keras.optimizers.Adam(1e-3)`).
    variables: List of `tf.Variable`s to train.
      Default value: `None` (i.e., all that the objective depends on).
    clip_factor: Python `float`: a gradient whose global norm is more than this
      times the mean norm of the steps before is scaled down to that. The mean
      is over about the last 100 steps, of norms after clipping; it grows by 9%
      in a step if all gradients are clipped. `None` is for no clipping; for a
      fixed limit, give an optimizer with `global_clipnorm`.
      Default value: `10.`, which a healthy training hardly ever reaches.
    strict: Python `bool`: whether to raise an error at the first step that has
      a NaN log density or would be skipped.
      Default value: `False`.
    steps_per_call: Python `int` number of steps in one compiled call; between
      calls progress is shown and values are checked.
      Default value: `200`.
    jit_compile: Python `bool`: whether to compile with XLA.
      Default value: `True`.
    strategy: `tf.distribute.Strategy` in whose scope `sampler`, and `optimizer`
      if it is given, were made. Each step is divided into islands, which run on
      its replicas: of `num_particles`, whose weights are normalized by island
      and whose gradients are averaged; or, with `data`, of the mini-batch,
      whose parts have all particles each. All processes make the same call.
      Default value: `None` (i.e., one device and one island).
    num_islands: Python `int`: a multiple of the number of replicas, and a
      divisor of `num_particles` or of the size of the mini-batch. The same
      islands give the same training, up to rounding, on any number of replicas,
      and checkpoints are for the same islands.
      Default value: `None` (i.e., one for each replica).
    checkpoint_dir: Python `str` or `os.PathLike`: a folder for checkpoints,
      which the first process of a `strategy` writes and all must see.
      Training goes on from the latest one there, to the same numbers as without
      a stop; needs a `seed`.
      Default value: `None` (i.e., no checkpoints).
    checkpoint_seconds: Python `float`: how much time may pass between two.
      Default value: `60.`.
    progress: Python `bool`: whether to show a progress bar, on a terminal or
      in a notebook.
      Default value: `True`.
    tensorboard_dir: Python `str` or `os.PathLike`: a folder for TensorBoard
      summaries.
      Default value: `None` (i.e., no summaries).
    callback_fn: Python callable that is called after each compiled call, with
      the number of steps taken and a `dict` of the values of the steps of that
      call, by the names of the fields of `History`. Training stops early if it
      returns `True`.
      Default value: `None`.

  Returns:
    history: `History`. In an interactive session, such as a notebook, it is
      returned with a warning after an interrupt from the keyboard as well.

  Raises:
    TypeError: If an argument is not of the kind asked for.
    ValueError: If a count is not positive, there is nothing to train, `data`
      has no elements or some of unknown shape, `checkpoint_dir` cannot be
      written, is damaged, or is of other training, or something cannot be
      divided among islands or was made outside of the scope of `strategy`.
    TrainingError: A `FloatingPointError`: after 50 skipped steps in a row (or
      all steps, if there are fewer; or one, if `strict`). It names the step,
      the level and the cause, and has the history; variables are those of the
      last good step.
    TrainingInterrupted: A `KeyboardInterrupt`, with the history, after the
      checkpoint is saved: if training is interrupted from the keyboard, unless
      the session is interactive.

  Warns:
    CollapseWarning: If at some level nearly all of the weight was on a few
      particles at the end.
    MissingMassWarning: If importance sampling from the first density, by 2**14
      draws or a tenth of the evaluations of training, estimates a normalizer
      that is larger beyond its error; or if one step dominates the sum of the
      normalizers that the last quarter of the steps estimate, as where weights
      have heavy tails.
    RuntimeWarning: At the first log density that is NaN or +inf, which counts
      as zero density.

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
  num_particles = checks.as_count('num_particles', num_particles)
  num_steps = checks.as_count('num_steps', num_steps)
  steps_per_call = checks.as_count('steps_per_call', steps_per_call)
  checkpoint_seconds = checks.as_float('checkpoint_seconds', checkpoint_seconds)
  if clip_factor is not None:
    clip_factor = checks.as_float('clip_factor', clip_factor, 0.0, is_open=True)
  checks.check_bool('strict', strict)
  checks.check_bool('jit_compile', jit_compile)
  checks.check_bool('progress', progress)
  checks.check_callable('callback_fn', callback_fn, optional=True)
  if tensorboard_dir is not None:
    tensorboard_dir = checks.as_folder('tensorboard_dir', tensorboard_dir)
  make_sampler_fn, element_spec = _check_sampler(sampler, data)
  checks.check_instance(
    'objective',
    objective,
    Objective,
    'an Objective, such as tfp_nvi.reverse_kl()',
  )
  replicas = _check_strategy(strategy, num_islands, optimizer)
  optimizer = _check_optimizer(optimizer, replicas)
  if variables is not None:
    variables = checks.as_list(
      'variables', variables, 'tf.Variables', tf.Variable, minimum=1
    )
  if checkpoint_dir is not None:
    checkpoint_dir = _check_checkpoints(checkpoint_dir, seed, optimizer)
  seed = randomness.as_seed(seed)

  start = time.perf_counter()
  make_steps_fn, is_chief = _place(replicas)
  summaries = reporting.Summaries(tensorboard_dir if is_chief else None)
  settings = steps_lib.StepSettings(
    make_sampler_fn=make_sampler_fn,
    objective=objective,
    num_particles=num_particles,
    optimizer=optimizer,
    variables=variables,
    steps_per_call=steps_per_call,
    jit_compile=jit_compile,
    element_spec=element_spec,
    clip_factor=clip_factor,
    strict=strict,
  )
  steps = make_steps_fn(settings)
  description = fingerprint.describe_training(settings, replicas)
  summaries.describe({**description, 'num_steps': num_steps})
  store = store_lib.NoStore()
  if checkpoint_dir is not None:
    store = store_lib.TrainingStore(
      checkpoint_dir,
      checkpoint_seconds,
      steps,
      seed,
      description,
      writes=is_chief,
    )
  no_steps = steps.compile(seed)
  record = history_lib.Record(num_particles)
  record.append(store.restore(num_steps) or no_steps)
  store.begin(record)
  record.compile_seconds = time.perf_counter() - start

  monitor = monitor_lib.Monitor(steps, seed, num_steps, strict)
  calls = _elements_of_calls(data, record.num_steps, steps_per_call)
  with (
    interrupts.deferred() as interrupt,
    reporting.Bar(num_steps, record.num_steps, progress and is_chief) as bar,
  ):
    # Processes that train together stop together.
    is_stopped = is_interrupted = steps.agree(interrupt.is_set)
    while record.num_steps < num_steps and not is_stopped:
      elements = _take_call(steps, seed, calls, num_steps, record)
      monitor.check(record, elements)
      bar.update(record)
      summaries.write(record)
      is_stopped = _call_back(callback_fn, record, interrupt)
      store.save(record)
      is_interrupted = steps.agree(interrupt.is_set)
      is_stopped = is_interrupted or steps.agree(is_stopped)
    store.save(record, is_last=True)
  monitor.finish(record, sampler)
  if is_interrupted:
    _notify_of_interrupt(record)
  return record.history()


def _place(replicas):
  """Returns the class of the steps, and whether this process writes."""
  if replicas is None:
    return steps_lib.CompiledSteps, True
  make_steps_fn = functools.partial(
    replicated.ReplicatedSteps, replicas=replicas
  )
  return make_steps_fn, replicas.is_chief


def _take_call(steps, seed, calls, num_steps, record):
  """Takes the steps of a call into the record; returns the data of it."""
  start = time.perf_counter()
  elements = next(calls)
  record.append(steps.take(seed, record.num_steps, num_steps, elements))
  record.seconds += time.perf_counter() - start
  return elements


def _check_sampler(sampler, data):
  """Checks that each step has a sampler.

  Args:
    sampler: As of `fit`.
    data: As of `fit`.

  Returns:
    make_sampler_fn: Python callable from an element of the data to a sampler.
    element_spec: Nested structure of `TensorSpec`s: that of an element.
  """
  if data is None:
    checks.check_instance(
      'sampler',
      sampler,
      (NestedSampler, Chain),
      'a NestedSampler or a Chain; or, with `data`, a callable from an element '
      'of it to one of these, such as a StateSpaceSampler',
    )
    return lambda element: sampler, ()
  checks.check_instance(
    'data',
    data,
    tf.data.Dataset,
    'a tf.data.Dataset, of which each step takes an element',
  )
  if isinstance(sampler, (NestedSampler, Chain)) or not callable(sampler):
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
  return sampler, data.element_spec


def _check_strategy(strategy, num_islands, optimizer):
  """Where islands run; `None` without a strategy."""
  if strategy is None and num_islands is None:
    if tf.distribute.has_strategy():
      raise ValueError(
        '`strategy` must be given inside of `strategy.scope()`, as '
        'tfp_nvi.fit(..., strategy=strategy), or fit be called outside of it; '
        'got None.'
      )
    return None
  kinds = (
    tf_keras.optimizers.Optimizer,
    tf_keras.optimizers.legacy.Optimizer,
  )
  checks.check_instance(
    'optimizer',
    optimizer,
    kinds,
    'one of tf_keras.optimizers, whose updates know of replicas, with '
    '`strategy`',
    optional=True,
  )
  return replicas_lib.Replicas(strategy, num_islands)


def _check_optimizer(optimizer, replicas):
  if optimizer is None:
    if replicas is None:
      return tf_keras.optimizers.Adam(1e-3)
    with replicas.strategy.scope():
      return tf_keras.optimizers.Adam(1e-3)
  # Duck typing, as optimizers come from Keras 2, Keras 3 and elsewhere.
  if not hasattr(optimizer, 'apply_gradients') or inspect.isclass(optimizer):
    raise TypeError(
      '`optimizer` must have `apply_gradients`, as tf_keras.optimizers.Adam() '
      f'has; got {optimizer!r}.'
    )
  return optimizer


def _check_checkpoints(folder, seed, optimizer) -> str:
  if seed is None:
    raise ValueError(
      '`seed` must be given with `checkpoint_dir`, to resume to the same '
      'numbers; got None.'
    )
  if not steps_lib.has_build(optimizer):
    raise ValueError(
      '`optimizer` must be one of tf_keras.optimizers, or have `build` as they '
      'have, with `checkpoint_dir`, so that its state exists before it is '
      f'saved; got {type(optimizer).__name__}.'
    )
  folder = checks.as_folder('checkpoint_dir', folder)
  # Tracing can take minutes; a folder that cannot be written is known at once.
  checkpoints.Checkpoints(folder, {})
  return folder


def _elements_of_calls(data, step, steps_per_call):
  """Yields the data of each call, from a step on."""
  if data is None:
    yield from itertools.repeat(())
  yield from data.repeat().skip(step).batch(steps_per_call).prefetch(1)
  # Only a Dataset without elements ends when it is repeated.
  raise ValueError(
    '`data` must have elements; got a Dataset without any, as after a filter '
    'that nothing passes.'
  )


def _call_back(callback_fn, record, interrupt):
  """Whether the callback asks for the end of training."""
  if callback_fn is None:
    return False
  try:
    answer = callback_fn(record.num_steps, record.pieces[-1])
  except KeyboardInterrupt:
    interrupt.is_set = True
    return True
  return isinstance(answer, (bool, np.bool_)) and bool(answer)


def _notify_of_interrupt(record):
  """Ends a program, but not the cell of a notebook."""
  message = (
    f'Training was interrupted after {record.num_steps} steps; variables and '
    'history are those of the last one.'
  )
  # As set by interactive Python, IPython and notebooks. A program has to end
  # here: it would take what is half trained for the result.
  if not hasattr(sys, 'ps1'):
    raise history_lib.TrainingInterrupted(message, record.history())
  warnings.warn(message, stacklevel=3)

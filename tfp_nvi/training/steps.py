# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The compiled loop: gradients, clipping, and the optimizer, many times.

Contract: a step whose loss or gradient is not finite changes no variable, and
none of the optimizer's.
"""

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from tfp_nvi.internal import randomness, types
from tfp_nvi.training import history

__all__ = [
  'CompiledSteps',
  'StepSettings',
  'build',
  'element_at',
  'global_norm',
  'has_build',
  'optimizer_variables',
]

# Norms older than about this many steps are forgotten.
_MEMORY = 100.0


def has_build(optimizer: typing.Any) -> bool:
  """Whether the state of an optimizer can be made before its first step.

  Args:
    optimizer: Anything with `apply_gradients`.

  Returns:
    has_build: Python `bool`.

  ```python
  import tf_keras
  from tfp_nvi.training import steps

  assert steps.has_build(tf_keras.optimizers.Adam())
  ```
  """
  return isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer) or hasattr(
    optimizer, 'build'
  )


def build(optimizer: typing.Any, variables: Sequence[tf.Variable]) -> None:
  """Makes the state of an optimizer, if that is possible before its first step.

  Args:
    optimizer: Anything with `apply_gradients`.
    variables: List of `tf.Variable`s that it is for.

  ```python
  import tensorflow as tf
  import tf_keras
  from tfp_nvi.training import steps

  steps.build(tf_keras.optimizers.Adam(), [tf.Variable(1.0)])
  ```
  """
  if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
    # They have no public name for what their first step does.
    optimizer._create_all_weights(variables)
  elif has_build(optimizer):
    optimizer.build(variables)


def optimizer_variables(optimizer: typing.Any) -> list:
  """The variables of an optimizer that is built.

  Args:
    optimizer: Anything with `apply_gradients`.

  Returns:
    variables: List of variables.

  ```python
  import tf_keras
  from tfp_nvi.training import steps

  assert steps.optimizer_variables(tf_keras.optimizers.SGD(0.1))
  ```
  """
  variables = optimizer.variables
  return list(variables() if callable(variables) else variables)


def element_at(
  elements: types.Structure, index: int | tf.Tensor
) -> types.Structure:
  """The data of one step of a call.

  Args:
    elements: Nested structure of `Tensor`s with a first axis over steps.
    index: int: a step.

  Returns:
    element: The same structure, without that axis.

  ```python
  import tensorflow as tf
  from tfp_nvi.training import steps

  assert steps.element_at(tf.constant([1.0, 2.0]), 1) == 2.0
  ```
  """
  return tf.nest.map_structure(lambda x: x[index], elements)


class _Clipping:
  """Scales down a gradient whose norm is far above that of those before.

  What is usual is a running mean of the norms, after clipping: over all steps
  at first, over about the last hundred later on. Being relative, it neither
  depends on the scale of the loss nor touches healthy training.
  """

  def __init__(self, factor):
    self._factor = factor
    self._mean = tf.Variable(0.0, trainable=False, name='mean_gradient_norm')
    self._count = tf.Variable(0.0, trainable=False, name='num_gradient_norms')
    self.variables = [] if factor is None else [self._mean, self._count]

  def __call__(self, gradients, norm):
    """Clips finite gradients, and takes their norm into the mean."""
    if self._factor is None:
      return gradients
    scale = self.scale(norm)
    return [g * tf.cast(scale, g.dtype) for g in gradients]

  def scale(self, norm):
    """The factor that clips gradients; updates the running mean."""
    if self._factor is None:
      return tf.ones_like(norm)
    limit = tf.where(self._count > 0.0, self._factor * self._mean, float('inf'))
    clipped_norm = tf.minimum(tf.cast(norm, tf.float32), limit)
    self._count.assign_add(1.0)
    rate = 1.0 / tf.minimum(self._count, _MEMORY)
    self._mean.assign_add(rate * (clipped_norm - self._mean))
    # Exactly one where nothing is clipped.
    limit = tf.cast(limit, norm.dtype)
    return tf.where(norm > limit, limit / norm, tf.ones_like(norm))


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
  """The norm of all gradients together, not finite if one of them is not.

  Args:
    gradients: List of `Tensor`s.

  Returns:
    norm: Scalar `Tensor`.

  ```python
  import tensorflow as tf
  from tfp_nvi.training import steps

  assert steps.global_norm([tf.constant([3.0]), tf.constant(4.0)]) == 5.0
  ```
  """
  wide = (
    tf.float64 if any(g.dtype == tf.float64 for g in gradients) else tf.float32
  )
  return tf.sqrt(
    tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, wide))) for g in gradients])
  )


@dataclasses.dataclass(frozen=True)
class StepSettings:
  """The settings of training steps.

  Fields:
    make_sampler_fn: Python callable from an element of the data to a sampler.
    objective: `Objective`.
    num_particles: Python `int`.
    optimizer: Anything with `apply_gradients`.
    variables: List of variables, or `None` for all.
    steps_per_call: Python `int`.
    jit_compile: Python `bool`.
    element_spec: Nested structure of `TensorSpec`s.
    clip_factor: Python `float` or `None`, as of `fit`.
    strict: Python `bool`: whether the first step that is not good ends the
      call.
  """

  make_sampler_fn: Callable
  objective: typing.Any
  num_particles: int
  optimizer: typing.Any
  variables: list | None = None
  steps_per_call: int = 1
  jit_compile: bool = True
  element_spec: typing.Any = ()
  clip_factor: float | None = None
  strict: bool = False


class CompiledSteps:
  """Takes training steps, up to a fixed number in a call.

  Fields:
    sampler: The sampler that the last trace made for an element of the data.
    variables: List of the variables that are trained.
    state: List of all variables that a later step depends on.
  """

  def __init__(self, settings: StepSettings):
    """Traces the objective, and builds the optimizer.

    Args:
      settings: `StepSettings`.

    Raises:
      ValueError: If there is nothing to train, or the optimizer was built for
        other variables.
    """
    self.steps_per_call = settings.steps_per_call
    self._make_sampler_fn = settings.make_sampler_fn
    self._objective = settings.objective
    self._num_particles = settings.num_particles
    self._optimizer = settings.optimizer
    self._chosen = settings.variables and {v.ref() for v in settings.variables}
    self._strict = settings.strict
    with self._scope():
      self._clipping = _Clipping(settings.clip_factor)
    self.sampler = None
    self.variables: list = []
    # Traced apart from the loop that calls it, to learn which variables there
    # are before the optimizer makes its own.
    self._step_fn = tf.function(
      self._gradients_and_values, autograph=False
    ).get_concrete_function(
      tf.TensorSpec([2], tf.int32), self._traced_spec(settings.element_spec)
    )
    if not self.variables:
      raise ValueError(
        '`objective` has no gradient for any of the variables: `sampler` has '
        'nothing to train, or not on the sides that the objective trains, or '
        '`variables` are not among those that it depends on.'
      )
    self._check_variables()
    with self._scope():
      build(self._optimizer, self.variables)
    self._no_elements = tf.nest.map_structure(
      lambda spec: tf.zeros([self.steps_per_call, *spec.shape], spec.dtype),
      settings.element_spec,
    )
    self._loop_fn = self._compile_loop(settings.jit_compile)

  def _scope(self):
    """The context in which variables are made."""
    return contextlib.nullcontext()

  def _check_variables(self):
    """Raises an error for variables that cannot be trained here."""

  def _variable(self, variable):
    """The variable as the user has it, of one that has a gradient."""
    return variable

  def _traced_spec(self, element_spec):
    """The `TensorSpec`s of what one sampler is made for."""
    return element_spec

  def _compile_loop(self, jit_compile):
    """The compiled loop over the steps of a call."""
    return tf.function(self._loop, jit_compile=jit_compile, autograph=False)

  def agree(self, is_true: bool) -> bool:
    """Whether something is true in any of the processes that train.

    Args:
      is_true: Python `bool`: whether it is in this one.

    Returns:
      is_true: Python `bool`, the same in all of them.
    """
    return is_true

  def differs(self, number: int) -> bool:
    """Whether a number is not the same in all processes that train.

    Args:
      number: Python `int`: the number of this process.

    Returns:
      differs: Python `bool`, the same in all of them.
    """
    del number
    return False

  @property
  def state(self) -> list:
    """All variables that a later step depends on."""
    return [
      *self.variables,
      *optimizer_variables(self._optimizer),
      *self._clipping.variables,
    ]

  def _gradients_and_values(self, seed, element):
    """The gradients of a step, and the values that are reported of it."""
    self.sampler = self._make_sampler_fn(element)
    estimate, pairs = self._objective(self.sampler, self._num_particles, seed)
    pairs = [(g, self._variable(v)) for g, v in pairs]
    if self._chosen is not None:
      pairs = [(g, v) for g, v in pairs if v.ref() in self._chosen]
    self.variables = [v for _, v in pairs]
    return [tf.convert_to_tensor(g) for g, _ in pairs], {
      field: getattr(estimate, field) for field in history.ESTIMATE_FIELDS
    }

  def _step(self, seed, element, is_taken):
    """Takes a step, if it is good."""
    gradients, values = self._step_fn(seed, element)
    norm = global_norm(gradients)
    is_good = self._is_good(norm, values)

    def apply():
      self._optimizer.apply_gradients(
        zip(self._clipping(gradients, norm), self.variables, strict=True)
      )
      return tf.constant(False)

    is_skipped = tf.cond(is_good & is_taken, apply, lambda: tf.constant(True))
    return {**values, 'is_skipped': is_skipped}

  def _is_good(self, norm, values):
    """Whether a step may be taken."""
    is_good = (
      tf.math.is_finite(norm)
      & tf.reduce_all(tf.math.is_finite(values['loss']))
      # Not if every weight is zero, for then there is nothing to learn from.
      & tf.reduce_any(values['log_normalizer'] > -float('inf'))
    )
    if self._strict:
      is_good &= tf.equal(values['num_nan'], 0)
    return is_good

  def _value_specs(self):
    """The `TensorSpec`s of the values that an objective gives for a step."""
    return self._step_fn.structured_outputs[1]

  def _loop(self, seed, first_step, stop_step, elements, is_taken):
    """Takes the steps of a call, and stacks what each one gives."""
    seeds = randomness.fold_in(seed, first_step + tf.range(self.steps_per_call))
    specs = {
      **self._value_specs(),
      'is_skipped': tf.TensorSpec([], tf.bool),
    }
    arrays = tf.nest.map_structure(
      lambda x: tf.TensorArray(
        x.dtype, self.steps_per_call, element_shape=x.shape
      ),
      specs,
    )
    # A loop bound that is known keeps the compiled program the same.
    bound = tf.minimum(self.steps_per_call, stop_step - first_step)

    def goes_on(i, is_good, arrays):
      del arrays
      return (i < bound) & is_good if self._strict else i < bound

    def body(i, is_good, arrays):
      del is_good
      values = self._step(seeds[i], element_at(elements, i), is_taken)
      return (
        i + 1,
        ~values['is_skipped'],
        tf.nest.map_structure(
          lambda array, x: array.write(i, x), arrays, values
        ),
      )

    count, _, arrays = tf.while_loop(
      goes_on,
      body,
      (tf.constant(0), tf.constant(True), arrays),
      parallel_iterations=1,
    )
    return count, tf.nest.map_structure(lambda array: array.stack(), arrays)

  def _call(self, seed, first_step, stop_step, elements, is_taken):
    count, values = self._loop_fn(
      seed,
      tf.constant(first_step),
      tf.constant(stop_step),
      elements,
      tf.constant(is_taken),
    )
    return {k: v.numpy()[: int(count)] for k, v in values.items()}

  def compile(self, seed: tf.Tensor) -> dict:
    """Compiles the loop, without taking a step.

    Args:
      seed: int32 `Tensor` of shape `[2]`.

    Returns:
      values: As of `take`, for no steps.
    """
    try:
      return self._call(seed, 0, 0, self._no_elements, True)
    except KeyError as e:
      # That of Keras, once its state is for another set of variables.
      raise ValueError(
        '`optimizer` must be one that has not trained other variables; got a '
        f'{type(self._optimizer).__name__} that has ({e}).'
      ) from e

  def take(
    self,
    seed: tf.Tensor,
    first_step: int,
    stop_step: int,
    elements: types.Structure,
  ) -> dict:
    """Takes steps, as many as a call takes, or fewer.

    Args:
      seed: int32 `Tensor` of shape `[2]`.
      first_step: Python `int`.
      stop_step: Python `int`: the step to stop before.
      elements: Those of the data for the steps of the call; `()` without data.

    Returns:
      values: Python `dict` of NumPy arrays, by the names of `STEP_FIELDS`.
    """
    return self._call(seed, first_step, stop_step, elements, True)

  def probe(self, seed: tf.Tensor, step: int) -> dict:
    """The results of a step for data of zeros, without an update.

    Args:
      seed: int32 `Tensor` of shape `[2]`.
      step: Python `int`.

    Returns:
      values: As of `take`, for one step.
    """
    return self._call(seed, step, step + 1, self._no_elements, False)

  def bad_gradients(
    self, seed: tf.Tensor, step: int, elements: types.Structure, index: int
  ) -> list[str]:
    """Names the variables whose gradient is not finite.

    Args:
      seed: int32 `Tensor` of shape `[2]`.
      step: Python `int`: a step that was skipped, and none taken after it.
      elements: The data of its call.
      index: Python `int`: which of them is that of the step.

    Returns:
      names: List of Python `str`s.
    """
    return self._bad_gradients(
      randomness.fold_in(seed, step), element_at(elements, index)
    )

  def _bad_gradients(self, seed, element):
    gradients, _ = self._step_fn(seed, element)
    return [
      variable.name
      for gradient, variable in zip(gradients, self.variables, strict=True)
      if not np.isfinite(gradient.numpy().astype(np.float64)).all()
    ]

  def describe_nan(
    self, seed: tf.Tensor, step: int, elements: types.Structure, index: int
  ) -> str | None:
    """Says which part of the sampler's densities is NaN, and where.

    Args:
      seed: int32 `Tensor` of shape `[2]`.
      step: Python `int`: a step with a NaN log density.
      elements: As of `bad_gradients`.
      index: As of `bad_gradients`.

    Returns:
      description: Python `str`, or `None` if the sampler does not know.
    """
    return self._describe_nan(
      randomness.fold_in(seed, step), element_at(elements, index)
    )

  def _describe_nan(self, seed, element):
    sampler = self._make_sampler_fn(element)
    return sampler.describe_nan(self._num_particles, seed)

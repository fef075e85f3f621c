# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Saves trained samplers as SavedModels, for processes without this library.

Contract: a saved sampler gives the particles that the sampler itself gives for
the same seed, in a process that has nothing but TensorFlow:

```none
model = tf.saved_model.load(path)
model.sample(1)                        # or model.sample(seed=[0, 1])
model.sample(x, 1)                     # for a sampler of sequences or data
model.signatures['serving_default'](seed=tf.constant([0, 1]))
```

Seeds are numbers of 32 bits, or NumPy's and TensorFlow's integers of 64 bits.
`sample` returns a `dict`: of `'particles'`, `'log_weights'` and
`'log_normalizer'`, and of what else the sampler knows. Variables are those of
the moment of saving, also those that only functions refer to.
"""

import copy
import functools
import json
import os
import tempfile
from collections.abc import Callable

import tensorflow as tf

from tfp_nvi import chains, proposals, resampling, version, weighting
from tfp_nvi import posterior as posterior_lib
from tfp_nvi import sampler as sampler_lib
from tfp_nvi import state_space as state_space_lib
from tfp_nvi.internal import (
  checks,
  naming,
  persistence,
  randomness,
  signatures,
  types,
)

__all__ = [
  'DESCRIBED',
  'DESCRIPTION',
  'save',
]

# Where SavedModels keep what is not TensorFlow's.
DESCRIPTION = os.path.join('assets.extra', 'tfp_nvi.json')
DESCRIBED = ('kind', 'num_particles', 'version')
_PYTHON_OPS = frozenset(('EagerPyFunc', 'PyFunc', 'PyFuncStateless'))


def _plain(structure):
  """A structure without classes that other processes do not have."""
  if isinstance(structure, tuple) and hasattr(structure, '_fields'):
    return {
      name: _plain(getattr(structure, name)) for name in structure._fields
    }
  if isinstance(structure, (list, tuple)):
    return [_plain(part) for part in structure]
  if hasattr(structure, 'items'):
    return {str(name): _plain(part) for name, part in structure.items()}
  return structure


def _describe_particles(particles):
  """The parts of `WeightedParticles` to save."""
  fields = {
    name: _plain(value)
    for name, value in particles._asdict().items()
    if value is not None
  }
  return {**fields, 'log_normalizer': particles.log_normalizer}


def _sample_nested(sampler, num_particles, seed):
  return _describe_particles(sampler._sample(num_particles, seed))


def _sample_chain(chain, num_particles, seed):
  """Draws from each level's proposal, with weights for its target."""
  levels = chain.levels()
  chains.check_have_densities(levels, 'which are saved as properly weighted')
  found = []
  for level, level_seed in zip(
    levels, tf.unstack(randomness.split_seed(seed, len(levels))), strict=True
  ):
    values = level.draw(num_particles, level_seed)
    move, log_target = level.evaluate(values, reparameterize=False)
    log_weights = log_target - move.log_forward
    found.append(
      _describe_particles(weighting.WeightedParticles(values, log_weights))
    )
  return {'levels': found}


def _sample_any(sampler, num_particles, seed):
  if isinstance(sampler, sampler_lib.NestedSampler):
    return _sample_nested(sampler, num_particles, seed)
  if isinstance(sampler, chains.Chain):
    return _sample_chain(sampler, num_particles, seed)
  raise TypeError(
    '`sampler` must return a NestedSampler or a Chain for an element; it '
    f'returned {sampler!r}.'
  )


def _sample_posterior(particles, num_particles, seed):
  """Draws of equal weight from particles that are kept."""
  values, log_weights = resampling.resample(
    particles.particles,
    particles.log_weights,
    resampling.resample_systematic,
    seed,
    num_draws=num_particles,
  )
  return _describe_particles(weighting.WeightedParticles(values, log_weights))


def _sample_sequences(sampler, num_particles, x, inputs, lengths, seed):
  found = sampler.sample(
    x,
    num_particles,
    seed,
    lengths=lengths,
    inputs=inputs,
    jit_compile=False,
  )
  return {
    **{name: _plain(value) for name, value in found._asdict().items()},
    'log_normalizer': found.log_normalizer,
  }


class _Plan:
  """The functions and shapes to save of one kind of sampler.

  Attributes:
    kind: Python `str`.
    fn: Python callable from the elements and a seed to a nested structure.
    specs: List of nested structures of `TensorSpec`s: the elements.
    padded_fn: As `fn`, with lengths after the elements, or `None`.
    lengths_spec: `TensorSpec`, or `None`.
  """

  def __init__(self, kind, fn, specs=(), padded_fn=None, lengths_spec=None):
    self.kind = kind
    self.fn = fn
    self.specs = list(specs)
    self.padded_fn = padded_fn
    self.lengths_spec = lengths_spec


def _plan(sampler, num_particles, element_spec):
  """Finds out what to save; raises an error for what cannot be saved."""
  kinds = {
    sampler_lib.NestedSampler: _sample_nested,
    chains.Chain: _sample_chain,
  }
  for kind, fn in kinds.items():
    if isinstance(sampler, kind):
      _check_no_element(element_spec)
      return _Plan(kind.__name__, functools.partial(fn, sampler, num_particles))
  if isinstance(sampler, posterior_lib.Posterior):
    _check_no_element(element_spec)
    # Variables, as a graph would keep constants twice.
    particles = tf.nest.map_structure(
      lambda x: tf.Variable(x, trainable=False), sampler.particles[:2]
    )
    return _Plan(
      'Posterior',
      lambda seed: _sample_posterior(
        weighting.WeightedParticles(
          *tf.nest.map_structure(tf.convert_to_tensor, particles)
        ),
        num_particles,
        seed,
      ),
    )
  if isinstance(sampler, state_space_lib.StateSpaceSampler):
    return _plan_sequences(sampler, num_particles, element_spec)
  if not callable(sampler) or isinstance(sampler, (proposals.Proposal, type)):
    raise TypeError(
      '`sampler` must be a NestedSampler, a StateSpaceSampler, a Chain, a '
      'Posterior, or a callable from an element of data to one of the first '
      f'or third; got {sampler!r}.'
    )
  spec = _check_spec(element_spec, 'an element of the data')
  return _Plan(
    'callable',
    lambda element, seed: _sample_any(sampler(element), num_particles, seed),
    [spec],
  )


def _check_no_element(element_spec):
  if element_spec is not None:
    raise ValueError(
      '`element_spec` must be None for a sampler that takes no data; got '
      f'{element_spec!r}.'
    )


def _check_spec(element_spec, what):
  """Checks that there is a spec of known shape."""
  if element_spec is None:
    raise ValueError(
      '`element_spec` must say what `sample` takes: a tf.TensorSpec of '
      f'{what}, or a nested structure of such; got None.'
    )
  for spec in tf.nest.flatten(element_spec):
    if not isinstance(spec, tf.TensorSpec) or not spec.shape.is_fully_defined():
      raise ValueError(
        '`element_spec` must be made of tf.TensorSpecs of known shape; got '
        f'{spec!r}.'
      )
  return element_spec


def _plan_sequences(sampler, num_particles, element_spec):
  """The plan for a sampler of sequences."""
  spec = _check_spec(
    element_spec,
    'sequences, of shape batch + [num_steps] + event. Shorter sequences are '
    'padded, and passed with their lengths',
  )
  # One that has not compiled anything, as what it compiles here belongs to the
  # graph that is saved.
  sampler = copy.copy(sampler)
  first = tf.nest.flatten(spec)[0]
  example = sampler.model.example
  event_rank = tf.nest.flatten(example.observation_like[1])[0].rank
  leading = first.shape[: first.shape.rank - event_rank]
  specs = [spec]
  has_inputs = bool(tf.nest.flatten(example.inputs))
  if has_inputs:
    specs.append(
      tf.nest.map_structure(
        lambda x: tf.TensorSpec(leading + x.shape, x.dtype), example.inputs
      )
    )

  def fn(*arguments):
    *elements, lengths, seed = arguments
    inputs = elements[1] if has_inputs else None
    return _sample_sequences(
      sampler, num_particles, elements[0], inputs, lengths, seed
    )

  def without_lengths(*arguments):
    *elements, seed = arguments
    return fn(*elements, None, seed)

  return _Plan(
    'StateSpaceSampler',
    without_lengths,
    specs,
    fn,
    tf.TensorSpec(leading[:-1], tf.int32),
  )


def _named_specs(specs):
  """Names of arguments of a signature, in the order of `tf.nest`."""
  names = []
  for spec, root in zip(specs, ('x', 'inputs'), strict=False):
    for name in naming.leaf_names(spec, root):
      cleaned = ''.join(c if c.isalnum() else '_' for c in name).strip('_')
      names.append(
        cleaned if cleaned not in (*names, 'seed') else f'{root}_{cleaned}'
      )
  return names


def _flat_outputs(found):
  """The same numbers in a `dict` without nesting, as signatures return."""
  return dict(
    zip(naming.leaf_names(found), tf.nest.flatten(found), strict=True)
  )


def _trace(fn, specs, jit_compile):
  """One concrete function, which is not traced again where it is called."""
  return tf.function(
    fn, jit_compile=jit_compile, autograph=False
  ).get_concrete_function(*specs)


class _Saved(tf.Module):
  """The module that is saved."""

  def __init__(self, plan, jit_compile):
    super().__init__(name='sampler')
    # One function in the file, however many signatures there are.
    specs = plan.specs
    core = _trace(plan.fn, [*specs, signatures.SEEDS[0]], jit_compile)

    def sample(*arguments):
      *elements, seed = arguments
      return core(*elements, signatures.as_seed(seed))

    elements = ('x', 'inputs')[: len(specs)]
    self.sample = signatures.with_names(sample, *elements, 'seed')
    traced = [
      self.sample.get_concrete_function(*specs, seed_spec)
      for seed_spec in signatures.SEEDS
    ]
    if plan.padded_fn is not None:
      padded = _trace(
        plan.padded_fn,
        [*specs, plan.lengths_spec, signatures.SEEDS[0]],
        jit_compile,
      )

      def sample_padded(*arguments):
        *elements, seed = arguments
        return padded(*elements, signatures.as_seed(seed))

      self.sample_padded = signatures.with_names(
        sample_padded, *elements, 'lengths', 'seed'
      )
      traced += [
        self.sample_padded.get_concrete_function(
          *specs, plan.lengths_spec, seed_spec
        )
        for seed_spec in signatures.SEEDS
      ]
    for concrete in traced:
      _check_graph(concrete.graph)
    names = _named_specs(specs)
    flat = [
      tf.TensorSpec(spec.shape, spec.dtype, name=name)
      for spec, name in zip(tf.nest.flatten(specs), names, strict=True)
    ]

    def serve(*arguments):
      *parts, seed = arguments
      return _flat_outputs(core(*tf.nest.pack_sequence_as(specs, parts), seed))

    self.serve = tf.function(serve, autograph=False)
    self.serving_default = self.serve.get_concrete_function(
      *flat, tf.TensorSpec([2], tf.int32, name='seed')
    )
    found = {
      variable.ref(): variable
      for concrete in traced
      for variable in persistence.captured_variables(concrete)
    }
    self.tracked = list(found.values())


def _check_graph(graph):
  """Raises an error for operations that only this process can run."""
  definition = graph.as_graph_def()
  nodes = [*definition.node]
  for function in definition.library.function:
    nodes += function.node_def
  found = sorted({node.op for node in nodes} & _PYTHON_OPS)
  if found:
    raise ValueError(
      '`sampler` must be made of TensorFlow operations to be saved; a density '
      'or kernel of it calls Python by tf.py_function or tf.numpy_function, '
      f'({", ".join(found)}), which no other process could do. Write that '
      'function in TensorFlow.'
    )


def save(
  sampler: sampler_lib.NestedSampler
  | state_space_lib.StateSpaceSampler
  | chains.Chain
  | posterior_lib.Posterior
  | Callable,
  path: str | os.PathLike,
  num_particles: int = 1_000,
  element_spec: types.Structure | None = None,
  jit_compile: bool = True,
) -> None:
  """Saves a sampler as a SavedModel.

  The SavedModel has a function `sample`, and a signature `serving_default` for
  TensorFlow Serving, whose outputs are the same without nesting. Sequences may
  be shorter than `element_spec` says: `sample_padded` takes their lengths after
  them. Arguments are not checked as they are here: an impossible observation
  gives weights of zero or NaN.

  Args:
    sampler: `NestedSampler`; `StateSpaceSampler`; `Chain`, which is sampled
      level by level, each with weights for its own target; `Posterior`, whose
      particles are saved and drawn from; or a callable from an element of data
      to a `NestedSampler` or `Chain`, as `tfp_nvi.fit` takes.
    path: Python `str` or `os.PathLike`: a folder. A SavedModel that is there is
      replaced.
    num_particles: Python `int`: particles of each call.
      Default value: `1_000`.
    element_spec: Nested structure of `tf.TensorSpec`s of known shape: what
      `sample` takes before the seed, for a `StateSpaceSampler` or a callable.
      Default value: `None` (i.e., nothing).
    jit_compile: Python `bool`: whether XLA is to compile the function where it
      is loaded, which must then have XLA. The draws are the same.
      Default value: `True`.

  Raises:
    TypeError: If `sampler` is nothing that can be saved.
    ValueError: If `element_spec` is missing or of unknown shape, the sampler
      calls Python functions or refers to other things than variables, or `path`
      is a folder of something else.

  ```python
  import tempfile
  import numpy as np
  import tensorflow as tf
  import tensorflow_probability as tfp
  import tfp_nvi as nvi

  tfd = tfp.distributions

  path = nvi.GeometricPath(
    tfd.Normal(0.0, 3.0), tfd.Normal(2.0, 0.5), num_densities=3
  )
  sampler = nvi.NestedSampler(path, nvi.GaussianTransitions(path, seed=1))
  with tempfile.TemporaryDirectory() as folder:
    nvi.save(sampler, folder + '/sampler', num_particles=100)
    saved = nvi.load(folder + '/sampler')
    particles = saved.sample(seed=2)
    model = tf.saved_model.load(folder + '/sampler')
    plain = model.sample(2)
  assert np.array_equal(particles.particles, plain['particles'])
  ```
  """
  num_particles = checks.as_count('num_particles', num_particles)
  checks.check_bool('jit_compile', jit_compile)
  path = checks.as_folder('path', path)
  if not path:
    raise ValueError('`path` must not be empty.')
  path = os.path.abspath(path)
  if os.path.isfile(path) or (
    os.path.isdir(path)
    and os.listdir(path)
    and not os.path.exists(os.path.join(path, 'saved_model.pb'))
  ):
    raise ValueError(
      '`path` must be a new folder or that of a SavedModel to replace; got '
      f'{path!r}, which is something else.'
    )
  plan = _plan(sampler, num_particles, element_spec)
  module = _Saved(plan, jit_compile)
  parent = os.path.dirname(path)
  os.makedirs(parent, exist_ok=True)
  description = {
    'kind': plan.kind,
    'num_particles': num_particles,
    'version': version.__version__,
  }
  with tempfile.TemporaryDirectory(dir=parent) as folder:
    new = os.path.join(folder, 'new')
    try:
      tf.saved_model.save(
        module, new, signatures={'serving_default': module.serving_default}
      )
    except AssertionError as e:
      raise ValueError(
        '`sampler` must refer to nothing but variables and constants to be '
        'saved; a lookup table, for instance, must be an attribute of a '
        f'module that is saved by itself. TensorFlow says: {e}'
      ) from e
    os.makedirs(os.path.join(new, os.path.dirname(DESCRIPTION)))
    with open(os.path.join(new, DESCRIPTION), 'w', encoding='utf-8') as file:
      json.dump(description, file)
    if os.path.exists(path):
      os.rename(path, os.path.join(folder, 'old'))
    os.rename(new, path)

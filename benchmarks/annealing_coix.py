# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The annealing experiment in coix, for `benchmarks.annealing_training`.

The programs are written as coix's own example of this experiment has them: a
target, a forward and a reverse kernel of an index, combined by
`coix.algo.nvi_rkl` in a rolled loop. The model is that of
`tfp_nvi.experiments.annealing`: the same path and networks. Hidden layers start
uniform, not spread evenly, which a step takes as long for.
The training step is coix's own, which `coix.util.train` gives to the function
that is to compile it.

#### References

[1]: S. Stites, H. Zimmermann, H. Wu, E. Sennesh, J.-W. van de Meent. Learning
     proposals for probabilistic programs with inference combinators. UAI, 2021.
     https://arxiv.org/abs/2103.00668
"""

import functools
import time

import coix
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax

from benchmarks import workers

__all__ = [
  'Trainer',
]

_LOOPS = ('shipped', 'scan')
_HIDDEN_UNITS = 50
_INITIAL_SCALE = 5.0
_MODE_SCALE = np.sqrt(0.5)
_ANGLES = 2.0 * np.pi * np.arange(8) / 8.0
_MODES = 10.0 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)


def _init_perceptrons(key, num_levels):
  """Weights of a perceptron for each level, the output layer at zero."""
  weights_key, bias_key = jax.random.split(key)
  uniform = functools.partial(
    jax.random.uniform, minval=-np.sqrt(0.5), maxval=np.sqrt(0.5)
  )
  return {
    'hidden_weights': uniform(weights_key, (num_levels, 2, _HIDDEN_UNITS)),
    'hidden_bias': uniform(bias_key, (num_levels, _HIDDEN_UNITS)),
    'output_weights': jnp.zeros((num_levels, _HIDDEN_UNITS, 4)),
    'output_bias': jnp.zeros((num_levels, 4)),
  }


def _init_params(key, num_densities):
  """All parameters: kernels, and the schedule if there is one to learn."""
  forward_key, reverse_key = jax.random.split(key)
  params = {
    'forward': _init_perceptrons(forward_key, num_densities - 1),
    'reverse': _init_perceptrons(reverse_key, num_densities - 1),
  }
  if num_densities > 2:
    # A schedule that starts linear, as the logits of its increasing values.
    inner = np.linspace(0.0, 1.0, num_densities)[1:-1]
    logits = np.log(inner / (1.0 - inner))
    params['schedule'] = {
      'first': jnp.float32(logits[0]),
      'steps': jnp.float32(np.log(np.expm1(np.diff(logits)))),
    }
  return params


def _log_density(params, level, x):
  """Log density of a level of the path."""
  if 'schedule' in params:
    schedule = params['schedule']
    steps = jnp.pad(jnp.cumsum(jax.nn.softplus(schedule['steps'])), (1, 0))
    inner = jax.nn.sigmoid(schedule['first'] + steps)
    beta = jnp.pad(inner, (1, 1), constant_values=(0.0, 1.0))[level]
  else:
    beta = jnp.array([0.0, 1.0])[level]
  modes = dist.Normal(_MODES, _MODE_SCALE).log_prob(x[..., None, :])
  target = jax.nn.logsumexp(modes.sum(-1), axis=-1)
  initial = dist.Normal(0.0, _INITIAL_SCALE).log_prob(x).sum(-1)
  return beta * target + (1.0 - beta) * initial


def _target(params, level):
  """The program of a level: its density is that of the factor alone."""
  initial = dist.Normal(0.0, _INITIAL_SCALE).expand([2])
  x = numpyro.sample('x', initial.mask(False).to_event(1))
  numpyro.sample('factor', dist.Unit(_log_density(params, level, x)))
  return (x,)


def _kernel(params, level, x):
  """The program of a forward or reverse kernel."""
  params = jax.tree_util.tree_map(lambda value: value[level], params)
  h = jax.nn.relu(x @ params['hidden_weights'] + params['hidden_bias'])
  y = h @ params['output_weights'] + params['output_bias']
  scale = jax.nn.softplus(y[..., 2:])
  return numpyro.sample('x', dist.Normal(x + y[..., :2], scale).to_event(1))


def _make_loss_fn(num_densities, num_particles):
  """The loss of parameters and a key, with coix's metrics beside it."""

  def loss_fn(params, key):
    def programs(fn, params):
      return lambda level: numpyro.plate('particles', num_particles, dim=-1)(
        functools.partial(fn, params, level)
      )

    program = coix.algo.nvi_rkl(
      programs(_target, params),
      programs(_kernel, params['forward']),
      programs(_kernel, params['reverse']),
      num_targets=num_densities,
    )
    _, _, metrics = coix.traced_evaluate(program, seed=key)()
    return metrics['loss'], metrics

  return loss_fn


class Trainer(workers.Trainer):
  """Trains by coix's loop, or by its step in a compiled loop.

  Restarts are `jax.vmap` of the step over parameters, optimizer and keys.

  Args:
    loop: `'shipped'`: `coix.util.train`, one compiled step for each turn of a
      Python loop; or `'scan'`: the same step inside `jax.lax.scan`.
    num_densities: Python `int`.
    num_particles: Python `int`.
    num_restarts: Python `int`.
  """

  def __init__(self, loop, num_densities, num_particles, num_restarts):
    if loop not in _LOOPS:
      raise ValueError(f'`loop` must be one of {_LOOPS}; got {loop!r}.')
    self._is_scan = loop == 'scan'
    self._num_densities = num_densities
    self._num_restarts = num_restarts
    self._loss_fn = _make_loss_fn(num_densities, num_particles)
    self._optimizer = optax.adam(1e-3)
    key = jax.random.PRNGKey(1)
    if num_restarts == 1:
      self._params = _init_params(key, num_densities)
      self._opt_state = self._optimizer.init(self._params)
    else:
      self._params = jax.vmap(lambda key: _init_params(key, num_densities))(
        jax.random.split(key, num_restarts)
      )
      self._opt_state = jax.vmap(self._optimizer.init)(self._params)
    self._step_fn = None
    self._jit_step_fn = None
    self._num_calls = 0

  def _compile(self, step_fn):
    """Compiles a step as `coix.util.train` does, but only once."""
    if self._jit_step_fn is None:
      self._step_fn = step_fn
      if self._num_restarts > 1:

        def step_of_restarts(params, opt_state, key):
          keys = jax.random.split(key, self._num_restarts)
          return jax.vmap(step_fn)(params, opt_state, keys)

        self._step_fn = step_of_restarts
      self._jit_step_fn = jax.jit(self._step_fn)
    return self._jit_step_fn

  def _train(self, num_steps):
    """Takes steps by coix's own loop, which logs after the last one."""
    self._num_calls += 1
    self._params, metrics = coix.util.train(
      self._loss_fn,
      self._params,
      self._optimizer,
      num_steps,
      seed=self._num_calls,
      jit_compile=self._compile,
      log_every=num_steps,
      opt_state=self._opt_state,
    )
    jax.block_until_ready((self._params, metrics))

  def _make_scan(self, num_steps):
    """The function that is compiled to take many steps."""

    def many_steps(params, opt_state, key):
      def body(carry, step):
        params, opt_state, metrics = self._step_fn(
          *carry, jax.random.fold_in(key, step)
        )
        # Its history, as far as `tfp_nvi.fit` has one.
        return (params, opt_state), {
          name: metrics[name] for name in ('loss', 'log_Z', 'ess')
        }

      return jax.lax.scan(body, (params, opt_state), jnp.arange(num_steps))

    return jax.jit(many_steps)

  def prepare(self, num_steps, repetitions):
    del repetitions
    self._num_steps = num_steps
    if self._is_scan:
      # Only to be given the step: nothing is compiled before it is called.
      coix.util.train(
        self._loss_fn,
        self._params,
        self._optimizer,
        num_steps=0,
        jit_compile=self._compile,
        opt_state=self._opt_state,
      )
      start = time.perf_counter()
      self._scan_fn = (
        self._make_scan(num_steps)
        .lower(self._params, self._opt_state, jax.random.PRNGKey(0))
        .compile()
      )
      self._compile_seconds = time.perf_counter() - start
    elif self._num_calls == 0:
      start = time.perf_counter()
      self._train(1)
      middle = time.perf_counter()
      self._train(1)
      # The first step is compiled and taken, the second one only taken.
      self._compile_seconds = 2.0 * middle - start - time.perf_counter()
    self.run()

  def run(self):
    start = time.perf_counter()
    if self._is_scan:
      self._num_calls += 1
      (self._params, self._opt_state), history = self._scan_fn(
        self._params, self._opt_state, jax.random.PRNGKey(self._num_calls)
      )
      jax.block_until_ready((self._params, history))
    else:
      self._train(self._num_steps)
    return time.perf_counter() - start

  def compile_seconds(self):
    return self._compile_seconds

  def check(self, num_steps, num_particles, num_samples):
    self._train(num_steps)
    loss_fn = _make_loss_fn(self._num_densities, num_particles)
    estimate = jax.vmap(lambda key: loss_fn(self._params, key)[1]['log_Z'])
    keys = jax.random.split(jax.random.PRNGKey(2), num_samples)
    return float(jnp.mean(jax.jit(estimate)(keys)))

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""A program that samples and trains on replicas, for `replicas_test`.

```shell
python -m tests.replicas_program mirrored results.npz
python -m tests.replicas_program multi_worker results.npz folder --die
```

With `--die` the last worker kills itself after some steps of training, and with
`--train` all that is done is longer training, until somebody kills a worker.
With `--filter` it samples and trains for sequences alone.
"""

import os
import signal
import sys

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_nvi as nvi
from tfp_nvi.experiments import common
from tfp_nvi.internal import replicas as replicas_lib

tfd = tfp.distributions

NUM_ISLANDS = 4
NUM_REPLICAS = 2
# Steps of training that is killed time and again.
LONG = 300


class Instances:
  """A sampler for each number of a mini-batch, with variables for all."""

  def __init__(self):
    self.scale = tf.Variable(1.0)

  def __call__(self, x):
    initial = tfd.Normal(tf.zeros_like(x), 2.0)
    path = nvi.ExplicitDensities([initial, tfd.Normal(x, 0.5)])
    return nvi.NestedSampler(
      path,
      nvi.KernelPair(
        lambda y: tfd.Normal(0.5 * (y + x), tf.nn.softplus(self.scale)),
        lambda z: tfd.Normal(0.5 * z, 1.5),
      ),
    )


def make_sampler():
  return Instances()(tf.constant(2.0))


def sample(sampler, strategy, **kwargs):
  return sampler.sample(
    24, seed=5, strategy=strategy, num_islands=NUM_ISLANDS, **kwargs
  )


def fit(sampler, strategy, num_steps=12, num_islands=NUM_ISLANDS, **kwargs):
  return nvi.fit(
    sampler,
    nvi.reverse_kl(),
    num_particles=24,
    num_steps=num_steps,
    seed=3,
    strategy=strategy,
    num_islands=num_islands,
    steps_per_call=3,
    jit_compile=False,
    progress=False,
    # A checkpoint is written after every compiled call.
    checkpoint_seconds=0.0,
    **kwargs,
  )


def make_filter():
  """A sampler for sequences, whose proposal of local states is learned."""
  scale = tf.Variable(0.5)
  model = nvi.StateSpaceModel(
    prior=None,
    initial_fn=lambda: tfd.Normal(0.0, 1.0),
    transition_fn=lambda z: tfd.Normal(z, 0.5),
    observation_fn=lambda z: tfd.Normal(z, 0.4),
  )

  def proposal_fn(x, z):
    mean = 0.5 * x if z is None else 0.5 * (x + z)
    return tfd.Normal(mean, tf.nn.softplus(scale))

  return nvi.StateSpaceSampler(model, proposal_fn=proposal_fn)


def make_sequences():
  """Mini-batches of four sequences of three steps."""
  x = np.sin(np.arange(8.0)[:, np.newaxis] + 0.5 * np.arange(3.0))
  data = tf.data.Dataset.from_tensor_slices(tf.constant(x, tf.float32))
  return data.batch(4, drop_remainder=True)


def first_of(strategy):
  """Returns the bytes of the first process, in every process."""
  resolver = strategy.cluster_resolver
  index = resolver.task_id if resolver else 0
  content = bytes(range(7, 12 + 3 * index))
  found = replicas_lib.Replicas(strategy).from_first(content)
  return np.frombuffer(found, np.uint8)


def check_errors(strategy):
  """Errors that one replica cannot have."""
  with strategy.scope():
    sampler = make_sampler()
  for fn, message in (
    (lambda: fit_posterior(strategy, num_runs=3), '`num_runs` must be a mul'),
    (
      lambda: sampler.sample(24, strategy=strategy, num_islands=3),
      '`num_islands` must be a multiple of the 2 replicas',
    ),
    (
      lambda: fit(sampler, strategy, num_islands=3),
      '`num_islands` must be a multiple of the 2 replicas',
    ),
  ):
    try:
      fn()
    except ValueError as e:
      assert message in str(e), e
    else:
      raise AssertionError(message)


def fit_posterior(strategy, num_runs=2):
  """Two runs on two replicas, with as many particles at once as on one."""
  target = tfd.Normal([1.0, -2.0], [0.5, 2.0])
  return nvi.fit_posterior(
    lambda z: tf.reduce_sum(target.log_prob(z), axis=-1),
    tfd.MultivariateNormalDiag([0.0, 0.0], [3.0, 3.0]),
    start='prior',
    num_particles=600,
    num_runs=num_runs,
    jit_compile=False,
    progress=False,
    seed=7,
    strategy=strategy,
  )


def make_data():
  """Mini-batches of eight numbers."""
  x = tf.constant(np.linspace(-1.0, 2.0, 16), tf.float32)
  return tf.data.Dataset.from_tensor_slices(x).batch(8, drop_remainder=True)


def run_filter(strategy):
  """Trains a sampler of sequences, and samples."""
  with strategy.scope():
    sampler = make_filter()
  history = fit(sampler, strategy, data=make_sequences())
  posterior = sampler.sample(
    next(iter(make_sequences())),
    24,
    seed=5,
    jit_compile=False,
    strategy=strategy,
    num_islands=NUM_ISLANDS,
  )
  return {
    'loss of sequences': history.loss,
    **{
      f'sequences/{field}': getattr(posterior, field).numpy()
      for field in ('trajectories', 'log_weights', 'root')
    },
  }


def run_all(strategy, result, folder=None, dies=False):
  """Samples and trains; saves what comes of it."""
  with strategy.scope():
    sampler = make_sampler()
  found = {}
  kinds = {'plain': nvi.never, 'exchanged': nvi.always}
  for name, criterion_fn in kinds.items():
    particles = sample(
      sampler,
      strategy,
      exchange_criterion_fn=criterion_fn,
      jit_compile=criterion_fn is nvi.never,
    )
    for field, value in particles._asdict().items():
      found[f'{name}/{field}'] = value.numpy()

  found['first'] = first_of(strategy)
  np.savez(result, **found)

  def callback_fn(step, values):
    del values
    if dies and step >= 6:
      os.kill(os.getpid(), signal.SIGKILL)

  history = fit(
    sampler,
    strategy,
    callback_fn=callback_fn,
    checkpoint_dir=folder,
  )
  found['loss'] = history.loss
  if folder is None:
    with strategy.scope():
      instances = Instances()
      optimizer = tf_keras.optimizers.SGD(0.1)
    history = fit(instances, strategy, data=make_data(), optimizer=optimizer)
    found['loss of instances'] = history.loss
    found['sizes of instances'] = history.level_effective_sample_sizes
    posterior = fit_posterior(strategy)
    found['log evidences'] = posterior.log_evidences
    found['posterior'] = posterior.particles.particles.numpy()
  np.savez(result, **found)


def train(strategy, folder):
  """Trains for longer; returns the losses, and the variable that is learned."""
  if strategy is None:
    strategy = tf.distribute.OneDeviceStrategy('CPU:0')
  with strategy.scope():
    instances = Instances()
    sampler = instances(tf.constant(2.0))
  history = fit(sampler, strategy, LONG, checkpoint_dir=folder)
  return {'loss': history.loss, 'scale': instances.scale.numpy()}


def main(kind, result, folder=None, *flags):
  if kind == 'mirrored':
    # In place of the GPUs of one machine.
    device = tf.config.list_physical_devices('CPU')[0]
    tf.config.set_logical_device_configuration(
      device, [tf.config.LogicalDeviceConfiguration()] * NUM_REPLICAS
    )
    strategy = tf.distribute.MirroredStrategy(
      [f'CPU:{i}' for i in range(NUM_REPLICAS)]
    )
    if not flags:
      check_errors(strategy)
  else:
    strategy = common.make_strategy(kind, timeout_seconds=30.0)
  if '--train' in flags:
    np.savez(result, **train(strategy, folder))
    return
  if '--filter' in flags:
    np.savez(result, **run_filter(strategy))
    return
  is_last = '--die' in flags and strategy.cluster_resolver.task_id == 1
  run_all(strategy, result, folder, is_last)


if __name__ == '__main__':
  main(*sys.argv[1:])

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Strategies of `tf.distribute` by name, for programs.

Processes of several machines are launched as all of TensorFlow's are: each one
runs the same command, and the environment variable `TF_CONFIG` says which of
the processes it is.
"""

import socket
import time

import tensorflow as tf

from tfp_nvi.internal import checks

__all__ = [
  'STRATEGIES',
  'make_strategy',
]

STRATEGIES = ('none', 'mirrored', 'multi_worker')


def make_strategy(name: str, timeout_seconds: float = 600.0):
  """Makes the strategy of a name, before TensorFlow has run anything.

  TensorFlow waits without end for a worker that does not start. Here each
  worker first listens at its own address until it has reached all the others.

  Args:
    name: Python `str`: `'none'`; `'mirrored'`, all devices of this process; or
      `'multi_worker'`, all devices of all processes that `TF_CONFIG` lists.
    timeout_seconds: Python `float`: how long to wait for workers, here and
      between the compiled parts of a run.
      Default value: `600.`.

  Returns:
    strategy: `tf.distribute.Strategy`, or `None` for `'none'`.

  Raises:
    ValueError: If `name` is none of these.
    TimeoutError: If a worker cannot be reached in time.

  ```python
  from tfp_nvi.experiments import common

  assert common.make_strategy('none') is None
  ```
  """
  checks.as_float('timeout_seconds', timeout_seconds, 0.0, is_open=True)
  if name not in STRATEGIES:
    raise ValueError(
      f'`name` must be one of {", ".join(STRATEGIES)}; got {name!r}.'
    )
  if name == 'none':
    return None
  if name == 'mirrored':
    return tf.distribute.MirroredStrategy()
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  cluster = resolver.cluster_spec().as_dict()
  addresses = {
    f'/job:{job}/task:{i}': address
    for job in ('chief', 'worker')
    for i, address in enumerate(cluster.get(job, []))
  }
  own = addresses.pop(f'/job:{resolver.task_type}/task:{resolver.task_id}', '')
  if addresses:
    _reach(own, addresses, timeout_seconds)
  return tf.distribute.MultiWorkerMirroredStrategy(
    resolver,
    tf.distribute.experimental.CommunicationOptions(
      timeout_seconds=timeout_seconds
    ),
  )


def _reach(own, addresses, timeout_seconds):
  """Waits until all addresses answer, and listens at the own one meanwhile."""
  deadline = time.monotonic() + timeout_seconds
  listener = None
  port = int(own.rpartition(':')[2] or 0)
  if port:
    listener = socket.create_server(('', port), backlog=len(addresses) + 8)
  try:
    while True:
      addresses = {
        task: address
        for task, address in addresses.items()
        if not _answers(address)
      }
      if not addresses:
        return
      if time.monotonic() > deadline:
        absent = ', '.join(f'{task} at {x}' for task, x in addresses.items())
        raise TimeoutError(
          f'`TF_CONFIG` lists workers that cannot be reached after '
          f'{timeout_seconds:g} s: {absent}.'
        )
      time.sleep(0.1)
  finally:
    if listener is not None:
      listener.close()


def _answers(address):
  """Returns whether something listens at an address."""
  host, _, port = address.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), 1.0).close()
  except OSError:
    return False
  return True

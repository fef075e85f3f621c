# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Interrupts from the keyboard that wait for the end of a compiled call."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = [
  'Interrupt',
  'deferred',
]


class Interrupt:
  """Whether there was an interrupt.

  Fields:
    is_set: Python `bool`.

  ```python
  from tfp_nvi.training import interrupts

  assert not interrupts.Interrupt().is_set
  ```
  """

  def __init__(self):
    self.is_set = False


@contextlib.contextmanager
def deferred() -> Iterator[Interrupt]:
  """Records the first interrupt in place of raising it; raises a second one.

  Raised inside of a compiled call, a `KeyboardInterrupt` would lose the values
  of steps that variables have taken. In a thread that gets no signals, or under
  a handler that is not Python's own, nothing is changed.

  Yields:
    interrupt: `Interrupt`.

  ```python
  import signal
  from tfp_nvi.training import interrupts

  signal.signal(signal.SIGINT, signal.default_int_handler)
  with interrupts.deferred() as interrupt:
    signal.raise_signal(signal.SIGINT)
    assert interrupt.is_set
  ```
  """
  interrupt = Interrupt()

  def handle(number, frame):
    if interrupt.is_set:
      signal.default_int_handler(number, frame)
    interrupt.is_set = True

  if (
    threading.current_thread() is not threading.main_thread()
    or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
  ):
    yield interrupt
    return
  signal.signal(signal.SIGINT, handle)
  try:
    yield interrupt
  finally:
    signal.signal(signal.SIGINT, signal.default_int_handler)

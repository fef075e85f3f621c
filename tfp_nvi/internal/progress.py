# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress bars: on a terminal, and as a line of text in a notebook.

The kernel of a notebook is not a terminal, and may lack widgets. There the line
is a separate output, which is replaced as it changes. It shows no times once it
is complete, so that it is the same for the same run.
"""

import io
import sys

import tqdm

__all__ = [
  'make_bar',
]

# Marks outputs, so that programs can tell them from those of the cell.
METADATA = {'tfp_nvi': {'is_progress': True}}


def _find_display():
  """Finds the function that shows outputs in a notebook; else `None`."""
  ipython = sys.modules.get('IPython')
  shell = None if ipython is None else ipython.get_ipython()
  if getattr(shell, 'kernel', None) is None:
    return None
  return ipython.display.display


class _Line(tqdm.tqdm):
  """A progress bar that is a line of text in a notebook."""

  def __init__(self, *args, display_fn, **kwargs):
    self._display_fn = display_fn
    self._handle = None
    super().__init__(*args, file=io.StringIO(), ncols=100, **kwargs)

  def display(self, msg=None, pos=None):
    """Replaces the line.

    Args:
      msg: Python `str`, or `None` for the current state of the bar.
      pos: Not used: there is one line.

    Returns:
      is_shown: `True`.
    """
    del pos
    content = {'text/plain': str(self) if msg is None else msg}
    options = {'raw': True, 'metadata': METADATA}
    if self._handle is None:
      self._handle = self._display_fn(content, display_id=True, **options)
    else:
      self._handle.update(content, **options)
    return True

  def close(self):
    """Shows the last state, without times."""
    if not self.disable:
      self.bar_format = '{desc}{percentage:3.0f}%{postfix}'
    super().close()


def make_bar(is_shown: bool, **kwargs):
  """Makes a progress bar that suits the output of this process.

  Args:
    is_shown: Python `bool`: whether to show it, on a terminal or in a notebook.
    **kwargs: Arguments of `tqdm.tqdm`.

  Returns:
    bar: `tqdm.tqdm`.

  ```python
  from tfp_nvi.internal import progress

  with progress.make_bar(is_shown=False, total=10) as bar:
    bar.update(10)
  ```
  """
  display_fn = _find_display() if is_shown else None
  if display_fn is not None:
    return _Line(display_fn=display_fn, **kwargs)
  return tqdm.tqdm(disable=None if is_shown else True, **kwargs)

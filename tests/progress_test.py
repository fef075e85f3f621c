# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Progress is shown on terminals and in notebooks, and nowhere else."""

import io
import pathlib
import sys

import pytest

from tfp_nvi.internal import progress

ROOT = pathlib.Path(__file__).parents[1]
CELL = """
import sys

sys.path.insert(0, {root!r})
from tfp_nvi.internal import progress

with progress.make_bar(True, total=1_000, unit='step', mininterval=0.0) as bar:
  for i in range(4):
    bar.update(250)
    bar.set_postfix(loss=i, refresh=False)
    bar.refresh()
print('of the cell')
"""


class Display:
  """Stands in for a kernel of IPython, and keeps what is displayed."""

  def __init__(self):
    self.shown = []

  def __call__(self, content, display_id=None, raw=False, metadata=None):
    assert raw and display_id
    self.update(content, raw, metadata)
    return self

  def update(self, content, raw=False, metadata=None):
    assert raw and metadata['tfp_nvi']['is_progress']
    self.shown.append(content['text/plain'])


def test_a_line_in_a_notebook(monkeypatch, capfd):
  display = Display()
  monkeypatch.setattr(progress, '_find_display', lambda: display)
  with progress.make_bar(
    True, total=3_000, unit='step', mininterval=0.0
  ) as bar:
    bar.update(1_500)
    bar.set_postfix(loss='0.250')
  assert any(' 50%|' in text and '<' in text for text in display.shown)
  # At the end without times.
  assert display.shown[-1] == ' 50%, loss=0.250'
  assert capfd.readouterr() == ('', '')


def test_hidden_in_a_notebook(monkeypatch):
  display = Display()
  monkeypatch.setattr(progress, '_find_display', lambda: display)
  with progress.make_bar(False, total=10) as bar:
    bar.update(10)
  assert display.shown == []


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  ('is_shown', 'is_terminal', 'expected'),
  [(True, True, True), (True, False, False), (False, True, False)],
)
def test_elsewhere(is_shown, is_terminal, expected, monkeypatch):
  stream = Terminal() if is_terminal else io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with progress.make_bar(is_shown, total=10, mininterval=0.0) as bar:
    bar.update(10)
  assert ('100%' in stream.getvalue()) == expected


def test_a_kernel_shows_it():
  """The other side itself: an output that is replaced, in a new kernel."""
  nbclient = pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  nbformat = pytest.importorskip('nbformat')
  notebook = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_code_cell(CELL.format(root=str(ROOT)))]
  )
  nbclient.NotebookClient(
    notebook, timeout=600, kernel_name='python3'
  ).execute()
  outputs = [
    output
    for output in notebook.cells[0].outputs
    if output.get('name') != 'stderr'  # Notices of TensorFlow.
  ]
  line, text = outputs
  assert line['data']['text/plain'] == '100%, loss=3'
  assert line['metadata']['tfp_nvi']['is_progress']
  assert text['text'] == 'of the cell\n'

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the notebooks of colab/ in new kernels, and compares or stores outputs.

Needs the extra `notebooks`. Each notebook runs from the first cell to the last
one in a kernel of its own, in its own folder, as a user runs it.

```shell
python -m docs.run_notebooks                    # fails if outputs differ
python -m docs.run_notebooks --store annealing  # stores what was shown
python -m docs.run_notebooks --head-only        # rewrites the first cells alone
```

Numbers are compared with a tolerance, as other processors round differently,
and training amplifies that. Times are not compared, nor are pictures.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import sys
import time

import tomllib

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / 'colab'
BRANCH = 'main'
COPYRIGHT = """\
##### Copyright 2026 The tfp_nvi Authors.

Licensed under the Apache License, Version 2.0."""
INSTALL_TEXT = """\
## Install

In a clone of the repository this installs the clone, and elsewhere, as in
Colab, the main branch; where the package is installed it does nothing."""
INSTALL_CODE = """\
import importlib.util
import pathlib

if importlib.util.find_spec('tfp_nvi') is None:
  is_clone = pathlib.Path('../pyproject.toml').exists()
  source = '..' if is_clone else 'git+{repository}'
  %pip install -q {{source}}"""
_BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
_NUMBER = re.compile(r'[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?')
# Durations differ from run to run and are not compared.
_TIME = re.compile(r'\d[\d.]* (?:s|ms|seconds|minutes)\b')


def repository() -> str:
  """The address of the repository, as pyproject.toml has it."""
  with open(ROOT / 'pyproject.toml', 'rb') as file:
    return tomllib.load(file)['project']['urls']['Repository']


def badge(name: str) -> str:
  """The link that opens a notebook in Colab.

  Args:
    name: Python `str`: the name of its file.

  Returns:
    text: Markdown.
  """
  place = repository().removeprefix('https://')
  host, _, rest = place.partition('/')
  site = host.removesuffix('.com')
  return (
    f'[![Open in Colab]({_BADGE})]'
    f'(https://colab.research.google.com/{site}/{rest}/blob/{BRANCH}/colab/'
    f'{name})'
  )


def set_head(notebook: dict, name: str) -> dict:
  """Gives a notebook the first cells that all of them have.

  These are the copyright and the badge; then the title and what it says, as
  they are; and how to install the package.

  Args:
    notebook: The notebook, as JSON has it, whose first code cell installs the
      package.
    name: Python `str`: the name of its file.

  Returns:
    notebook: The same with these cells.
  """
  cells = [dict(cell) for cell in notebook['cells']]
  code = next(i for i, cell in enumerate(cells) if cell['cell_type'] == 'code')
  if code < 3 or 'find_spec' not in ''.join(cells[code]['source']):
    raise ValueError(
      f'{name} must have cells with the copyright, with what it is about, and '
      'with how to install the package, before one that installs it.'
    )
  for place, text in (
    (0, f'{COPYRIGHT}\n\n{badge(name)}'),
    (code - 1, INSTALL_TEXT),
    (code, INSTALL_CODE.format(repository=repository())),
  ):
    cells[place]['source'] = text.splitlines(keepends=True)
  for i, cell in enumerate(cells):
    cell['id'] = f'cell-{i:02}'
  return {**notebook, 'cells': cells, 'nbformat': 4, 'nbformat_minor': 5}


def execute(path: pathlib.Path, has_package: bool = True) -> dict:
  """Runs a notebook in a new kernel.

  Args:
    path: Its file, whose folder is that of the kernel.
    has_package: Python `bool`: whether the kernel has this checkout on its
      path, so that the first cell installs nothing.
      Default value: `True`.

  Returns:
    notebook: The notebook with what its cells have shown.
  """
  import nbclient
  import nbformat

  notebook = nbformat.reads(path.read_text('utf-8'), as_version=4)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.update(outputs=[], execution_count=None)
  if has_package:
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    os.environ['PYTHONPATH'] = os.pathsep.join(paths)
  nbclient.NotebookClient(
    notebook,
    timeout=3_600,
    kernel_name='python3',
    record_timing=False,
    resources={'metadata': {'path': str(path.parent)}},
  ).execute()
  return without_notices(json.loads(nbformat.writes(notebook)))


def without_notices(notebook: dict) -> dict:
  """Leaves out progress, and what TensorFlow writes to stderr of the machine.

  Args:
    notebook: A notebook that has run.

  Returns:
    notebook: The same notebook.
  """
  # Loaded from its file, because importing the package imports TensorFlow.
  path = ROOT / 'tfp_nvi' / 'internal' / 'notices.py'
  spec = importlib.util.spec_from_file_location('notices', path)
  notices = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(notices)
  for cell in notebook['cells']:
    if cell['cell_type'] != 'code':
      continue
    kept = []
    for output in cell['outputs']:
      ours = output.get('metadata', {}).get('tfp_nvi', {})
      if ours.get('is_progress', False):
        continue
      if output.get('name') == 'stderr':
        text = output['text']
        lines = (text if isinstance(text, str) else ''.join(text)).splitlines()
        lines = [line for line in lines if not notices.is_notice(line)]
        if not any(lines):
          continue
        output['text'] = '\n'.join(lines)
      kept.append(output)
    cell['outputs'] = kept
  return notebook


def shown(cell: dict) -> str:
  """The text that a cell has shown.

  Args:
    cell: A code cell.

  Returns:
    text: Python `str`, without pictures, and without what is on stderr.
  """
  parts = []
  for output in cell['outputs']:
    data = output.get('data', {})
    if output.get('name') == 'stderr' or 'image/png' in data:
      continue
    text = output.get('text', data.get('text/plain', ''))
    parts.append(text if isinstance(text, str) else ''.join(text))
  return ''.join(parts)


def differences(stored: dict, found: dict, tolerance: float) -> list[str]:
  """Where two runs of a notebook have shown different things.

  Args:
    stored: The notebook as it is stored.
    found: The notebook after a run.
    tolerance: Python `float`: how far numbers may be apart, relative to the
      larger of one and the number.

  Returns:
    differences: List of Python `str`s.
  """
  problems = []
  for i, (old, new) in enumerate(
    zip(stored['cells'], found['cells'], strict=True)
  ):
    if old['cell_type'] != 'code':
      continue
    for output in new['outputs']:
      if output.get('name') == 'stderr':
        problems.append(f'cell {i} writes to stderr: {"".join(output["text"])}')
    pictures = [
      sum('image/png' in x.get('data', {}) for x in cell['outputs'])
      for cell in (old, new)
    ]
    if pictures[0] != pictures[1]:
      problems.append(f'cell {i}: {pictures[1]} pictures, not {pictures[0]}')
    texts = [_TIME.sub('(time)', shown(cell)) for cell in (old, new)]
    words = [''.join(_NUMBER.sub('#', text).split()) for text in texts]
    numbers = [
      [float(x.replace(',', '')) for x in _NUMBER.findall(text)]
      for text in texts
    ]
    if words[0] != words[1] or any(
      abs(a - b) > tolerance * max(1.0, abs(a))
      for a, b in zip(*numbers, strict=True)
    ):
      problems.append(f'cell {i} shows\n{texts[1]}\nand stored is\n{texts[0]}')
  return problems


def write(notebook: dict, path: pathlib.Path) -> None:
  """Stores a notebook.

  Args:
    notebook: The notebook.
    path: Its file.
  """
  notebook['metadata'] = {
    'colab': {'name': path.name, 'provenance': [], 'toc_visible': True},
    'kernelspec': {
      'display_name': 'Python 3',
      'language': 'python',
      'name': 'python3',
    },
    'language_info': {'name': 'python'},
  }
  for cell in notebook['cells']:
    cell['metadata'] = {}
  text = json.dumps(notebook, indent=1, ensure_ascii=False)
  path.write_text(text + '\n', 'utf-8')


def main() -> int:
  """Runs the program; returns its exit status."""
  parser = argparse.ArgumentParser(
    description='Runs notebooks, and compares or stores what they show.'
  )
  parser.add_argument('names', nargs='*', help='of notebooks; all by default')
  parser.add_argument('--store', action='store_true', help='store outputs')
  parser.add_argument(
    '--head-only', action='store_true', help='rewrite the first cells; run none'
  )
  parser.add_argument(
    '--without-package',
    action='store_true',
    help='leave it to the first cell to install the package',
  )
  parser.add_argument(
    '--tolerance', type=float, default=0.05, help='of numbers'
  )
  arguments = parser.parse_args()
  paths = sorted(FOLDER.glob('*.ipynb'))
  if arguments.names:
    paths = [FOLDER / f'{name}.ipynb' for name in arguments.names]
  is_same = True
  for path in paths:
    stored = json.loads(path.read_text('utf-8'))
    if arguments.head_only or arguments.store:
      stored = set_head(stored, path.name)
      write(stored, path)
    if arguments.head_only:
      continue
    start = time.monotonic()
    found = execute(path, not arguments.without_package)
    print(f'{path.name} ran in {time.monotonic() - start:.0f} s', flush=True)
    if arguments.store:
      write(found, path)
      continue
    for problem in differences(stored, found, arguments.tolerance):
      is_same = False
      print(f'{path.name}, {problem}', flush=True)
  return 0 if is_same else 1


if __name__ == '__main__':
  sys.exit(main())

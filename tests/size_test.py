# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files and functions are short enough to be read at once."""

import ast
import pathlib

import tfp_nvi

ROOT = pathlib.Path(tfp_nvi.__file__).parent
FILES = sorted(ROOT.rglob('*.py'))
MAX_LINES_OF_A_FILE = 600
# Without docstrings, comments and empty lines.
MAX_LINES_OF_A_FUNCTION = 105


def function_sizes(source):
  """Yields (name, number of lines of code) of the functions in a source."""
  tree = ast.parse(source)
  lines = source.splitlines()
  code = {
    i
    for i, line in enumerate(lines, start=1)
    if line.strip() and not line.strip().startswith('#')
  }
  functions = []
  for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      if isinstance(node, ast.FunctionDef):
        functions.append(node)
      if ast.get_docstring(node) is not None:
        doc = node.body[0]
        code -= set(range(doc.lineno, doc.end_lineno + 1))
  for node in functions:
    size = len(code & set(range(node.lineno, node.end_lineno + 1)))
    yield node.name, size


def test_files_are_short():
  sizes = {
    path.relative_to(ROOT).as_posix(): len(path.read_text('utf-8').splitlines())
    for path in FILES
  }
  assert len(sizes) > 50
  long = {k: n for k, n in sizes.items() if n > MAX_LINES_OF_A_FILE}
  assert not long, 'split these by topic'


def test_functions_are_short():
  long = {
    f'{path.relative_to(ROOT).as_posix()}: {name}': size
    for path in FILES
    for name, size in function_sizes(path.read_text('utf-8'))
    if size > MAX_LINES_OF_A_FUNCTION
  }
  assert not long, 'split these by step'


def test_lines_of_code_are_counted():
  source = (
    'def f(x):\n  """Doc.\n\n  More.\n  """\n  # Why.\n\n  return x\n'
    'class A:\n  def g(self):\n    return f(\n      1)\n'
  )
  assert list(function_sizes(source)) == [('f', 2), ('g', 3)]

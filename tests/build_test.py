# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""BUILD and MODULE.bazel describe the sources that exist.

What must hold, of every Python file in SOURCE_FOLDERS:

- it is the one source of exactly one target, named by its path;
- the target depends on exactly the targets and packages that the file imports
  (a test may depend on more, as one that imports by name does);
- no target depends on itself through others;
- packages come from the requirements of pyproject.toml, and Bazel has them at
  the versions of constraints.txt.

Bazel does not run here: BUILD is read as Python, of which it uses a subset.
"""

import ast
import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import pytest

# New in Python 3.11, of which the constraints are.
tomllib = pytest.importorskip('tomllib')

ROOT = pathlib.Path(__file__).parents[1]
SOURCE_FOLDERS = ('benchmarks', 'tests', 'tfp_nvi')
HUB = '@pypi//'
RULES = ('py_binary', 'py_library', 'py_test')
ATTRIBUTES = {'args', 'data', 'deps', 'main_module', 'name', 'size', 'srcs'}

# What a wheel imports without requiring it.
UNDECLARED = {
  '@pypi//tensorflow_probability': {
    '@pypi//tensorflow',
    '@pypi//tf_keras',
  },
}


class Target(NamedTuple):
  """A call of one of RULES, its labels as written."""

  rule: str
  name: str
  srcs: tuple[str, ...] = ()
  deps: tuple[str, ...] = ()
  data: tuple[str, ...] = ()
  args: tuple[str, ...] = ()
  main_module: str | None = None


def calls(text: str) -> Iterator[tuple[str, dict[str, object]]]:
  """Yields function and keyword arguments of each call, reading no others."""
  for statement in ast.parse(text).body:
    value = getattr(statement, 'value', None)
    if isinstance(value, ast.Constant):
      continue
    if not isinstance(value, ast.Call):
      raise ValueError(f'Line {statement.lineno} is no call.')
    yield (
      ast.unparse(value.func),
      {k.arg: _evaluate(k.value) for k in value.keywords},
    )


def _evaluate(node: ast.expr) -> object:
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
    return _evaluate(node.left) + _evaluate(node.right)
  if isinstance(node, ast.Call) and ast.unparse(node.func) == 'glob':
    (patterns,) = node.args
    return [
      path.relative_to(ROOT).as_posix()
      for pattern in ast.literal_eval(patterns)
      for path in sorted(ROOT.glob(pattern))
    ]
  return ast.literal_eval(node)


def parse_targets(text: str) -> list[Target]:
  """The targets of a BUILD file, which has nothing else but set-up."""
  targets = []
  for function, arguments in calls(text):
    if function in RULES:
      unknown = set(arguments) - ATTRIBUTES
      if unknown:
        raise ValueError(
          f'Attributes of {arguments.get("name")} expected to be of '
          f'{sorted(ATTRIBUTES)}; came {sorted(unknown)}.'
        )
      arguments.pop('size', None)
      targets.append(
        Target(
          function,
          **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in arguments.items()
          },
        )
      )
    elif function not in ('exports_files', 'load', 'package'):
      raise ValueError(f'Rules expected to be of {RULES}; came {function}.')
  return targets


def module_of(path: str) -> str:
  """The dotted name of the module in a file."""
  return path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def label_of(path: str) -> str:
  return ':' + path.removesuffix('.py').removesuffix('/__init__')


def imported_modules(path: str, text: str) -> Iterator[tuple[str, str | None]]:
  """Yields each import, as a module and the name taken from it, if any."""
  package = module_of(path)
  if not path.endswith('/__init__.py'):
    package = package.rpartition('.')[0]
  for node in ast.walk(ast.parse(text, path)):
    if isinstance(node, ast.Import):
      yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      module = node.module or ''
      if node.level:
        parents = package.split('.')
        base = '.'.join(parents[: len(parents) - node.level + 1])
        module = f'{base}.{module}'.rstrip('.')
      yield from ((module, alias.name) for alias in node.names)


def imported_labels(
  path: str, sources: Mapping[str, str], packages: Mapping[str, str]
) -> tuple[set[str], list[str]]:
  """The labels that a file imports, and its imports that have none.

  Args:
    path: One of `sources`.
    sources: The text of every Python file, by path from the root.
    packages: The label of what a top-level module is imported from.

  Returns:
    labels: Local and external labels, without that of the file itself.
    unresolved: Names of modules that neither `sources` nor `packages` have.
  """
  local = {module_of(source): label_of(source) for source in sources}
  labels, unresolved = set(), []
  for module, name in imported_modules(path, sources[path]):
    top = module.partition('.')[0]
    if top in sys.stdlib_module_names:
      continue
    if f'{module}.{name}' in local:
      labels.add(local[f'{module}.{name}'])
    elif module in local:
      labels.add(local[module])
    elif top in packages and top not in SOURCE_FOLDERS:
      labels.add(packages[top])
    else:
      unresolved.append(module)
  for label in list(labels):
    labels |= UNDECLARED.get(label, set())
  return labels - {label_of(path)}, unresolved


def cycle(edges: Mapping[str, Iterable[str]]) -> list[str]:
  """A path of `edges` that ends where it began, or an empty list."""
  finished = set()

  def visit(node, path):
    if node in path:
      return path[path.index(node) :] + [node]
    if node in finished:
      return []
    for following in edges.get(node, ()):
      found = visit(following, path + [node])
      if found:
        return found
    finished.add(node)
    return []

  for node in edges:
    found = visit(node, [])
    if found:
      return found
  return []


def problems(
  text: str,
  sources: Mapping[str, str],
  packages: Mapping[str, str],
  files: Collection[str] = (),
) -> list[str]:
  """What is wrong with a BUILD file, one line each.

  Args:
    text: Content of the BUILD file.
    sources: The text of every Python file, by path from the root.
    packages: The label of what a top-level module is imported from. Its values
      are the external labels that resolve.
    files: Paths that `data` may name beside `sources`.

  Returns:
    problems: Empty if the contract of this module holds.
  """
  targets = parse_targets(text)
  result = []
  names = [target.name for target in targets]
  result += [
    f'{name}: defined twice'
    for name in sorted(set(names))
    if names.count(name) > 1
  ]

  sourced = [source for target in targets for source in target.srcs]
  for source in sorted(sources):
    if sourced.count(source) != 1:
      result.append(f'{source}: in {sourced.count(source)} targets, not 1')

  for target in targets:
    found = _target_problems(target, names, sources, packages, files)
    result += [f'{target.name}: {problem}' for problem in found]

  path = cycle(
    {':' + t.name: [d for d in t.deps if d[0] == ':'] for t in targets}
  )
  if path:
    result.append('cycle ' + ' '.join(path))
  return result


def _target_problems(target, names, sources, packages, files):
  for label in target.srcs:
    if label not in sources:
      yield f'source {label} does not exist'
  for label in target.data:
    if label not in sources and label not in files:
      yield f'data {label} does not exist'
  for label in sorted(set(target.deps)):
    if target.deps.count(label) > 1:
      yield f'{label} repeated'
    if label.startswith(':'):
      if label[1:] not in names:
        yield f'{label} is no target'
    elif label not in packages.values():
      yield f'{label} is no requirement'

  if target.rule == 'py_binary':
    expected = [s for s in sources if module_of(s) == target.main_module]
    if target.srcs or [label_of(s) for s in expected] != list(target.deps):
      yield 'expected to run the module of its one dependency'
    return

  if len(target.srcs) != 1:
    yield f'{len(target.srcs)} sources, expected 1'
    return
  (source,) = target.srcs
  if ':' + target.name != label_of(source):
    yield f'name of the target of {source} expected to be {label_of(source)}'
  is_test = source.startswith('tests/') and source.endswith('_test.py')
  if is_test != (target.rule == 'py_test'):
    yield f'{source} in a {target.rule}'
  if source not in sources:
    return

  labels, unresolved = imported_labels(source, sources, packages)
  if target.rule == 'py_test':
    # Without these, Bazel would run a file of tests as a program that does
    # nothing, and take that for success.
    if target.main_module != 'pytest' or target.args != target.srcs:
      yield 'expected to be run by pytest'
    labels.add(HUB + 'pytest')
  for module in sorted(set(unresolved)):
    yield f'imports {module}, which no requirement has'
  for label in sorted(labels - set(target.deps)):
    yield f'{label} imported, no dependency'
  if target.rule == 'py_library':
    for label in sorted(set(target.deps) - labels):
      yield f'{label} not imported'


def normalize(name: str) -> str:
  """The name of a package as Bazel spells it."""
  return re.sub(r'[-_.]+', '_', name).lower()


def requirement_names() -> set[str]:
  """The packages that pyproject.toml requires, with all extras."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))[
    'project'
  ]
  lines = [
    *project['dependencies'],
    *sum(project['optional-dependencies'].values(), []),
  ]
  return {normalize(re.match(r'[\w.-]+', line)[0]) for line in lines}


def constrained_names() -> set[str]:
  """The packages that constraints.txt gives a version."""
  return {
    normalize(line.partition('==')[0])
    for line in (ROOT / 'constraints.txt').read_text('utf-8').splitlines()
    if '==' in line
  }


def repository() -> tuple[dict[str, str], dict[str, str]]:
  """Sources and packages, as `problems` takes them, of this repository."""
  sources = {
    path.relative_to(ROOT).as_posix(): path.read_text('utf-8')
    for folder in SOURCE_FOLDERS
    for path in (ROOT / folder).rglob('*.py')
  }
  declared = requirement_names()
  packages = {
    module: HUB + normalize(distribution)
    for module, distributions in (
      importlib.metadata.packages_distributions().items()
    )
    for distribution in distributions
    if normalize(distribution) in declared
  }
  # Extras need not be installed. Theirs are imported by the name they have.
  for distribution in declared - {
    x.removeprefix(HUB) for x in packages.values()
  }:
    packages.setdefault(distribution, HUB + distribution)
  return sources, packages


def test_build_describes_repository():
  sources, packages = repository()
  files = {
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.iterdir(), *(ROOT / 'colab').glob('*')]
    if path.is_file()
  }
  text = (ROOT / 'BUILD').read_text('utf-8')
  assert 'load("@rules_python//python:defs.bzl"' in text
  assert problems(text, sources, packages, files) == []


def test_module_takes_packages_from_constraints():
  module = list(calls((ROOT / 'MODULE.bazel').read_text('utf-8')))
  assert ('use_repo', {}) in module
  (hub,) = [arguments for name, arguments in module if name == 'pip.parse']
  assert f'@{hub["hub_name"]}//' == HUB
  assert hub['requirements_lock'] == '//:constraints.txt'
  dependencies = [a['name'] for name, a in module if name == 'bazel_dep']
  assert dependencies == ['rules_python']


def test_module_has_version_of_project():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))[
    'project'
  ]
  module = dict(calls((ROOT / 'MODULE.bazel').read_text('utf-8')))['module']
  assert module['version'] == project['version']


def test_requirements_are_constrained():
  assert requirement_names() - constrained_names() == set()


GOOD_SOURCES = {
  'tfp_nvi/__init__.py': 'from tfp_nvi import paths\nfrom tfp_nvi.a import f',
  'tfp_nvi/a.py': 'import os\nimport numpy as np\nf = np.sum',
  'tfp_nvi/paths/__init__.py': 'from tfp_nvi.paths.b import g',
  'tfp_nvi/paths/b.py': 'from . import c\ndef g():\n  from tfp_nvi import a',
  'tfp_nvi/paths/c.py': 'import tensorflow_probability as tfp',
  'tests/a_test.py': 'import tfp_nvi as nvi',
}
GOOD_PACKAGES = {
  name: HUB + name
  for name in ('numpy', 'pytest', 'tensorflow', 'tensorflow_probability')
} | {'tf_keras': HUB + 'tf_keras'}
GOOD_BUILD = """
'''Targets.'''
load("@rules_python//python:defs.bzl", "py_library", "py_test")
package(default_visibility = ["//visibility:public"])
py_library(
  name = "tfp_nvi", srcs = ["tfp_nvi/__init__.py"],
  deps = [":tfp_nvi/a", ":tfp_nvi/paths"])
py_library(
  name = "tfp_nvi/a", srcs = ["tfp_nvi/a.py"], deps = ["@pypi//numpy"])
py_library(
  name = "tfp_nvi/paths", srcs = ["tfp_nvi/paths/__init__.py"],
  deps = [":tfp_nvi/paths/b"])
py_library(
  name = "tfp_nvi/paths/b", srcs = ["tfp_nvi/paths/b.py"],
  deps = [":tfp_nvi/a", ":tfp_nvi/paths/c"])
py_library(
  name = "tfp_nvi/paths/c", srcs = ["tfp_nvi/paths/c.py"],
  deps = ["@pypi//tensorflow_probability", "@pypi//tensorflow"] + [
    "@pypi//tf_keras"])
py_binary(name = "c", main_module = "tfp_nvi.paths.c",
  deps = [":tfp_nvi/paths/c"])
py_test(
  name = "tests/a_test", size = "small", srcs = ["tests/a_test.py"],
  args = ["tests/a_test.py"], data = ["README.md"], main_module = "pytest",
  deps = [":tfp_nvi", ":tfp_nvi/a", "@pypi//pytest"])
"""


def good_problems(build=GOOD_BUILD, sources=None):
  return problems(
    build, GOOD_SOURCES | (sources or {}), GOOD_PACKAGES, ['README.md']
  )


def test_checker_accepts_good_build():
  assert good_problems() == []


@pytest.mark.parametrize(
  ('old', 'new', 'problem'),
  [
    ('"tfp_nvi/a.py"', '"tfp_nvi/d.py"', 'source tfp_nvi/d.py does not exist'),
    ('"tfp_nvi/a.py"', '"tfp_nvi/d.py"', 'tfp_nvi/a.py: in 0 targets'),
    ('["tfp_nvi/paths/c.py"]', '[]', 'tfp_nvi/paths/c: 0 sources'),
    (
      '"tfp_nvi/paths/b.py"',
      '"tfp_nvi/a.py"',
      'tfp_nvi/a.py: in 2 targets',
    ),
    ('":tfp_nvi/a", "@', '":tfp_nvi/d", "@', ':tfp_nvi/d is no target'),
    ('"@pypi//numpy"', '"@pypi//jax"', '@pypi//jax is no requirement'),
    ('"@pypi//numpy"', '', '@pypi//numpy imported, no dependency'),
    (', "@pypi//tensorflow"]', ']', '@pypi//tensorflow imported'),
    ('":tfp_nvi/a", ":tfp_nvi/paths"', '":tfp_nvi/a"', ':tfp_nvi/paths im'),
    (', ":tfp_nvi/paths/c"]', ']', ':tfp_nvi/paths/c imported'),
    ('"@pypi//numpy"', '"@pypi//numpy", "@pypi//pytest"', 'not imported'),
    ('"@pypi//numpy"', '"@pypi//numpy", "@pypi//numpy"', 'repeated'),
    ('"@pypi//numpy"', '"@pypi//numpy", ":tfp_nvi"', 'cycle :tfp_nvi '),
    ('name = "c"', 'name = "tfp_nvi"', 'tfp_nvi: defined twice'),
    ('name = "tests/a_test"', 'name = "a_test"', 'name of the target'),
    ('py_test(', 'py_library(', 'tests/a_test.py in a py_library'),
    ('= "pytest"', '= "tests.a_test"', 'expected to be run by pytest'),
    ('args = ["tests/a_test.py"]', 'args = []', 'to be run by pytest'),
    (', "@pypi//pytest"', '', '@pypi//pytest imported, no dependency'),
    ('"README.md"', '"NOTES.md"', 'data NOTES.md does not exist'),
    ('= "tfp_nvi.paths.c"', '= "tfp_nvi.a"', 'expected to run the module'),
  ],
)
def test_checker_finds_broken_build(old, new, problem):
  assert GOOD_BUILD.count(old) == 1
  build = GOOD_BUILD.replace(old, new)
  assert any(problem in found for found in good_problems(build))


@pytest.mark.parametrize(
  ('path', 'text', 'problem'),
  [
    ('tfp_nvi/e.py', '', 'tfp_nvi/e.py: in 0 targets'),
    ('benchmarks/e.py', '', 'benchmarks/e.py: in 0 targets'),
    ('tfp_nvi/a.py', 'import jax', 'imports jax, which no requirement has'),
    ('tfp_nvi/a.py', 'import tfp_nvi.e', 'imports tfp_nvi.e, which no'),
    ('tfp_nvi/a.py', '', '@pypi//numpy not imported'),
    ('tfp_nvi/paths/c.py', 'import numpy', '@pypi//numpy imported, no'),
  ],
)
def test_checker_finds_changed_source(path, text, problem):
  assert any(problem in found for found in good_problems(sources={path: text}))


@pytest.mark.parametrize(
  'build',
  [
    'for name in names:\n  py_library(name = name)',
    'py_library(name = "a", imports = ["."])',
    'genrule(name = "a")',
    '[py_library(name = name) for name in names]',
  ],
)
def test_checker_reads_no_other_build(build):
  with pytest.raises(ValueError, match='expected|is no call'):
    parse_targets(build)

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""BUILD files and MODULE.bazel describe the sources that exist.

Contract, of every folder with a BUILD file:

- each Python file is a source of exactly one target, and tests are tests;
- labels name targets and files that exist;
- a target depends on all packages that its sources import, and a library on no
  others; packages come from pyproject.toml, at the versions of constraints.txt.

Bazel and buildifier check more, where they are installed. Here, a BUILD file is
run as Python, whose syntax it shares.
"""

import ast
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import tfp_nvi

# New in Python 3.11, which the constraints are for.
tomllib = pytest.importorskip('tomllib')

ROOT = pathlib.Path(__file__).parents[1]
SOURCE_FOLDERS = ('benchmarks', 'tests', 'tfp_nvi')
HUB = '@pypi//'
# What a wheel imports without requiring it.
UNDECLARED = {'tensorflow_probability': {'tensorflow', 'tf_keras'}}


def read_build(root, folder):
  """The targets and exported files of a BUILD file.

  Args:
    root: `pathlib.Path` of the repository.
    folder: Python `str`: a folder in it, `''` for itself.

  Returns:
    targets: Python `dict` from labels to attributes, and the rule as `'rule'`.
    exported: Set of labels of files.
  """
  targets, exported = {}, set()
  path = root / folder

  def glob(include, exclude=(), allow_empty=False):
    # Not what belongs to the BUILD file of a folder below.
    inner = [p.parent for p in path.rglob('BUILD') if p.parent != path]
    found = [
      p.relative_to(path).as_posix()
      for pattern in include
      for p in path.glob(pattern)
      if not any(p.is_relative_to(other) for other in inner)
      and not any(p in path.glob(other) for other in exclude)
    ]
    assert found or allow_empty, f'{folder}: nothing matches {include}'
    return sorted(found)

  def define(rule):
    def call(name, **attributes):
      label = f'//{folder}:{name}'
      assert label not in targets, f'{label} is defined twice'
      targets[label] = {'rule': rule, 'folder': folder, **attributes}

    return call

  def export(names):
    exported.update(f'//{folder}:{name}' for name in names)

  rules = ('filegroup', 'py_binary', 'py_library', 'py_test')
  names = {
    'exports_files': export,
    'glob': glob,
    'load': lambda *_: None,
    'package': lambda **_: None,
    **{rule: define(rule) for rule in rules},
  }
  exec((path / 'BUILD').read_text('utf-8'), names)
  return targets, exported


def absolute(label, folder):
  """A label with its folder and name; `None` for a file named by its path."""
  if label.startswith('//'):
    name = label.rpartition('/')[2]
    return label if ':' in label else f'{label}:{name}'
  return f'//{folder}{label}' if label.startswith(':') else None


def imported_packages(root, source, packages):
  """Packages that a file imports; `?name` for one that nothing provides."""
  found = set()
  for node in ast.walk(ast.parse((root / source).read_text('utf-8'))):
    if isinstance(node, ast.Import):
      modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
      modules = [node.module]
    else:
      continue
    for module in modules:
      top = module.partition('.')[0]
      if top not in sys.stdlib_module_names and top not in SOURCE_FOLDERS:
        package = packages.get(top, f'?{top}')
        found |= {package} | UNDECLARED.get(package, set())
  return found


def problems(root, packages):
  """Violations of the contract in a repository, one line each.

  Args:
    root: `pathlib.Path`.
    packages: Python `dict` from modules to the packages that provide them.

  Returns:
    problems: List of Python `str`s.
  """
  targets, exported, result = {}, set(), []
  for path in [root / 'BUILD', *root.glob('[a-z]*/**/BUILD')]:
    folder = path.parent.relative_to(root).as_posix().removeprefix('.')
    new_targets, new_exported = read_build(root, folder)
    targets |= new_targets
    exported |= new_exported
  owners = {}
  for label, target in targets.items():
    folder, rule = target['folder'], target['rule']
    deps = target.get('deps', [])
    sources = [f'{folder}/{x}'.lstrip('/') for x in target.get('srcs', [])]
    for source in sources:
      owners.setdefault(source, []).append(label)
      if not (root / source).is_file():
        result.append(f'{label}: {source} does not exist')
      is_test = source.startswith('tests/') and source.endswith('_test.py')
      if rule != 'filegroup' and is_test != (rule == 'py_test'):
        result.append(f'{label}: {source} in a {rule}')
    for dep in [d for d in deps + target.get('data', []) if HUB not in d]:
      path = absolute(dep, folder)
      if path is None:
        if not (root / folder / dep).is_file():
          result.append(f'{label}: {dep} does not exist')
      elif path not in targets and path not in exported:
        result.append(f'{label}: {dep} is no target')
    if rule == 'py_binary':
      module = target['main_module'].replace('.', '/')
      if not any(
        (root / f'{module}{end}').is_file() for end in ('.py', '/__main__.py')
      ):
        result.append(f'{label}: {module} cannot be run')
    # Otherwise Bazel would run the file as a program that does nothing.
    if rule == 'py_test' and (target['main_module'], target['args']) != (
      'pytest',
      sources,
    ):
      result.append(f'{label}: is not run by pytest')
    if rule not in ('py_library', 'py_test'):
      continue
    declared = {d.removeprefix(HUB) for d in deps if d.startswith(HUB)}
    imported = set().union(
      *(
        imported_packages(root, x, packages)
        for x in sources
        if (root / x).is_file()
      )
    )
    result += [f'{label}: {x} is no dependency' for x in imported - declared]
    extra = declared - set(packages.values())
    if rule == 'py_library':
      extra |= declared - imported
    result += [f'{label}: {x} is not needed' for x in extra]
  for folder in SOURCE_FOLDERS:
    for path in (root / folder).rglob('*.py'):
      found = owners.get(path.relative_to(root).as_posix(), [])
      if len(found) != 1:
        result.append(f'{path.relative_to(root)}: in {len(found)} targets')
  return result


def normalize(name):
  """The name of a package as Bazel spells it."""
  return re.sub(r'[-_.]+', '_', name).lower()


def project():
  return tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']


def requirement_names():
  """The packages that pyproject.toml requires, with all extras."""
  extras = project()['optional-dependencies'].values()
  lines = [*project()['dependencies'], *sum(extras, [])]
  return {normalize(re.match(r'[\w.-]+', line)[0]) for line in lines}


def test_build_describes_repository():
  declared = requirement_names()
  # Extras need not be installed. Theirs are imported by the name they have, but
  # for one.
  packages = {name: name for name in declared}
  packages['nautilus'] = packages.pop('nautilus_sampler')
  installed = importlib.metadata.packages_distributions()
  for module, distributions in installed.items():
    for name in set(map(normalize, distributions)) & declared:
      packages[module] = name
  assert problems(ROOT, packages) == []


def test_requirements_are_constrained():
  lines = (ROOT / 'constraints.txt').read_text('utf-8').splitlines()
  constrained = {normalize(x.partition('==')[0]) for x in lines if '==' in x}
  assert requirement_names() - constrained == set()


def test_module_agrees_with_project():
  text = (ROOT / 'MODULE.bazel').read_text('utf-8')
  (module,) = [
    {k.arg: ast.literal_eval(k.value) for k in node.keywords}
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'module'
  ]
  assert module['version'] == tfp_nvi.__version__
  assert 'requirements_lock = "//:constraints.txt"' in text
  assert f'use_repo(pip, "{HUB[1:-2]}")' in text


@pytest.mark.parametrize(
  'command',
  [
    ['buildifier', '-mode=check', '-lint=warn', '-r', '.'],
    ['bazel', 'query', '//...'],
  ],
  ids=lambda command: command[0],
)
def test_tools_accept_build(command):
  if shutil.which(command[0]) is None:
    pytest.skip(f'{command[0]} is not installed')
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout + result.stderr


GOOD = {
  'BUILD': 'exports_files(["README.md"])\n'
  'py_binary(name = "a", main_module = "tfp_nvi.a", deps = ["//tfp_nvi"])',
  'tfp_nvi/BUILD': 'py_library(name = "tfp_nvi", srcs = glob(["**/*.py"]),'
  ' deps = ["@pypi//numpy"])',
  'tfp_nvi/a.py': 'import os\nimport numpy.linalg\n',
  'tfp_nvi/b/c.py': 'from tfp_nvi import a\n',
  'tests/BUILD': '[py_test(name = file[:-3], srcs = [file],'
  ' args = ["tests/" + file], data = ["//:README.md"], main_module = "pytest",'
  ' deps = ["//tfp_nvi", "@pypi//pytest"])'
  ' for file in glob(["**/*_test.py"])]',
  'tests/b/c_test.py': 'import pytest\n',
}


def problems_of(files, folder):
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, 'utf-8')
  return problems(folder, {x: x for x in ('numpy', 'pytest', 'scipy')})


def test_good_build_has_no_problems(tmp_path):
  assert problems_of(GOOD, tmp_path) == []


@pytest.mark.parametrize(
  ('file', 'old', 'new', 'problem'),
  [
    ('BUILD', '//tfp_nvi"', '//tfp_nvi:b"', '//:a: //tfp_nvi:b is no target'),
    ('BUILD', 'tfp_nvi.a', 'tfp_nvi.b', '//:a: tfp_nvi/b cannot be run'),
    ('BUILD', 'README', 'READ', '//:README.md is no target'),
    ('tfp_nvi/BUILD', '"@pypi//numpy"', '', 'numpy is no dependency'),
    ('tfp_nvi/BUILD', 'numpy', 'scipy', 'scipy is not needed'),
    ('tfp_nvi/BUILD', '**/', '', 'tfp_nvi/b/c.py: in 0 targets'),
    ('tfp_nvi/BUILD', 'glob(["**/*.py"])', '["d.py"]', 'd.py does not exist'),
    ('tfp_nvi/a.py', 'numpy.linalg', 'jax', '?jax is no dependency'),
    ('tests/BUILD', 'main_module = "pytest"', 'main_module = "x"', 'by pytest'),
    ('tests/BUILD', 'py_test', 'py_library', 'c_test.py in a py_library'),
    ('tests/BUILD', '"@pypi//pytest"', '"@pypi//jax"', 'jax is not needed'),
  ],
)
def test_problem_is_found(file, old, new, problem, tmp_path):
  assert old in GOOD[file]
  found = problems_of({**GOOD, file: GOOD[file].replace(old, new)}, tmp_path)
  assert any(problem in line for line in found), found

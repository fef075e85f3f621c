# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every example in the documentation runs, and the public API is documented.

Contract, for every module of tfp_nvi:

- it has a docstring, and an `__all__` whose names exist;
- each function and class in `__all__` has a docstring that begins with one line
  ending in a period;
- what these functions, constructors and methods take and return is annotated,
  outside of the programs and of what has no public contract;
- each Python code fence in a docstring, in README.md, and in docs/*.md runs by
  itself.

Links between these Markdown files lead to files and headings that exist.
"""

import importlib
import inspect
import pathlib
import pkgutil
import re
import runpy
import textwrap
import types
from collections.abc import Iterator

import pytest

import tfp_nvi

ROOT = pathlib.Path(__file__).parents[1]
OPENING = re.compile(r'^[ \t]*```[ \t]*(?:python|py)\d?\b', re.I | re.M)
FENCE = re.compile(
  r'^(?P<indent>[ \t]*)```[ \t]*(?:python|py)\d?\b[^\n]*\n'
  r'(?P<code>.*?)^(?P=indent)```[ \t]*$',
  re.DOTALL | re.IGNORECASE | re.MULTILINE,
)


def find_modules() -> list[types.ModuleType]:
  """All modules of tfp_nvi, the package itself first."""

  def fail(name):
    raise ImportError(f'{name} cannot be imported')

  names = [
    info.name
    for info in pkgutil.walk_packages(
      tfp_nvi.__path__, tfp_nvi.__name__ + '.', onerror=fail
    )
  ]
  return [tfp_nvi, *map(importlib.import_module, sorted(names))]


def public_objects(
  modules: list[types.ModuleType],
) -> Iterator[tuple[str, object]]:
  """Yields (name, function or class) for what tfp_nvi defines, each once."""
  seen = set()
  for module in modules:
    for name in getattr(module, '__all__', ()):
      value = getattr(module, name, None)
      # What tf.function makes has the documentation of what it wraps.
      value = getattr(value, 'python_function', value)
      defined = getattr(value, '__module__', None) or ''
      if (
        callable(value)
        and defined.partition('.')[0] == module.__name__.partition('.')[0]
        and id(value) not in seen
      ):
        seen.add(id(value))
        yield f'{module.__name__}.{name}', value


def docstrings(modules: list[types.ModuleType]) -> Iterator[tuple[str, str]]:
  """Yields (name, docstring) of modules, public objects and their members."""
  for module in modules:
    yield module.__name__, module.__doc__ or ''
  for name, value in public_objects(modules):
    yield name, value.__doc__ or ''
    if inspect.isclass(value):
      for member_name, member in vars(value).items():
        if not member_name.startswith('_') or member_name == '__init__':
          yield f'{name}.{member_name}', getattr(member, '__doc__', '') or ''


def public_functions(
  modules: list[types.ModuleType],
) -> Iterator[tuple[str, types.FunctionType]]:
  """Yields (name, function) of public functions, constructors and methods."""
  for name, value in public_objects(modules):
    if inspect.isfunction(value):
      yield name, value
    elif inspect.isclass(value):
      for member_name, member in vars(value).items():
        member = inspect.unwrap(getattr(member, '__func__', member))
        is_public = re.match(r'[^_]|__init__$|__call__$', member_name)
        if inspect.isfunction(member) and is_public:
          yield f'{name}.{member_name}', member


def unannotated(function: types.FunctionType) -> list[str]:
  """The parameters without an annotation, and `'return'` likewise."""
  signature = inspect.signature(function)
  names = [
    name
    for name, parameter in signature.parameters.items()
    if parameter.annotation is parameter.empty
    and name not in ('self', 'cls')
    and not name.startswith('_')
  ]
  if signature.return_annotation is signature.empty:
    names += ['return'] if function.__name__ != '__init__' else []
  return names


def fences(text: str) -> list[str]:
  """The code of each Python fence of a text, without its indentation.

  Args:
    text: Markdown, or a docstring with its indentation.

  Returns:
    code: One string each, in order.

  Raises:
    ValueError: If a fence that is opened does not end.
  """
  found = [match['code'] for match in FENCE.finditer(text)]
  if len(found) != len(OPENING.findall(text)):
    raise ValueError(f'A code fence does not end, in: {text}')
  return [textwrap.dedent(code) for code in found]


def summary_problem(doc: str | None) -> str | None:
  """What is wrong with the first line of a docstring, if anything."""
  lines = inspect.cleandoc(doc or '').splitlines()
  if not lines:
    return 'no docstring'
  if not lines[0].endswith('.'):
    return f'first line does not end in a period: {lines[0]}'
  if len(lines) > 1 and lines[1]:
    return f'no empty line after the first: {lines[1]}'
  return None


def pages(root: pathlib.Path) -> list[tuple[str, str]]:
  """Returns (path, text) of README.md and of each Markdown file in docs."""
  paths = [root / 'README.md', *sorted((root / 'docs').glob('*.md'))]
  return [
    (path.relative_to(root).as_posix(), path.read_text('utf-8'))
    for path in paths
  ]


def anchors(text: str) -> set[str]:
  """The anchors that GitHub gives to the headings of a Markdown text."""
  without_code = re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.M)
  headings = re.findall(r'^#+ +(.*?) *$', without_code, re.M)
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }


def broken_links(path: pathlib.Path, text: str) -> list[str]:
  """The links of a Markdown file to files or headings that do not exist."""
  broken = []
  for link in re.findall(r'\]\(\s*([^)\s]+)\s*\)', text):
    if re.match(r'[a-z]+:', link):
      continue
    name, _, anchor = link.partition('#')
    target = path.parent / name if name else path
    if not target.exists():
      broken.append(link)
    elif anchor and anchor not in anchors(target.read_text('utf-8')):
      broken.append(link)
  return broken


def run_example(code: str, folder: pathlib.Path) -> None:
  """Runs code as a program of its own, from a file that tracebacks quote."""
  path = folder / 'example.py'
  path.write_text(code, 'utf-8')
  runpy.run_path(str(path), run_name='example')


MODULES = find_modules()
# Examples of the programs' own parts are for readers of their code; the others
# take long, and call what shorter examples do.
SLOW = (
  'tfp_nvi.experiments.',
  'docs/ecosystem.md-2',
  'docs/posteriors.md-0',
  'docs/sequences.md-0',
  'docs/sequences.md-3',
  'tfp_nvi.fit_state_space',
)
# Programs, and what has no public contract.
UNANNOTATED = ('tfp_nvi.experiments.', 'tfp_nvi.internal.')
EXAMPLES = [
  pytest.param(
    code,
    id=f'{name}-{i}',
    marks=pytest.mark.slow if f'{name}-{i}'.startswith(SLOW) else (),
  )
  for name, text in [
    *docstrings(MODULES),
    *pages(ROOT),
  ]
  for i, code in enumerate(fences(text))
]


@pytest.mark.parametrize('code', EXAMPLES)
def test_example(code, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('MPLBACKEND', 'Agg')
  run_example(code, tmp_path)


@pytest.mark.parametrize(
  ('name', 'text'), pages(ROOT), ids=lambda x: x if len(x) < 80 else ''
)
def test_links_exist(name, text):
  assert broken_links(ROOT / name, text) == []


@pytest.mark.parametrize('module', MODULES, ids=lambda module: module.__name__)
def test_module_declares_its_names(module):
  assert not summary_problem(module.__doc__)
  names = module.__all__
  assert len(set(names)) == len(names)
  assert [name for name in names if not hasattr(module, name)] == []


def test_public_objects_are_documented():
  found = {
    name: summary_problem(value.__doc__)
    for name, value in public_objects(MODULES)
  }
  assert found
  assert {name: problem for name, problem in found.items() if problem} == {}


def test_public_functions_are_annotated():
  found = {
    name: unannotated(function)
    for name, function in public_functions(MODULES)
    # The metaclass of distributions adds methods of its own.
    if function.__module__.startswith('tfp_nvi.')
    and not function.__module__.startswith(UNANNOTATED)
  }
  assert len(found) > 400
  assert {name: names for name, names in found.items() if names} == {}


def test_missing_annotations_are_found():
  module = types.ModuleType('own')
  module.__all__ = ['Public', 'function']

  class Public:
    def __init__(self, x, y: int, *args, z=1, **kwargs: int):
      pass

    @classmethod
    def make(cls, _hidden=None) -> 'Public':
      pass

    @staticmethod
    def static(x) -> None:
      pass

    def _private(self, x):
      pass

  def function(x: int):
    pass

  for value in (Public, function):
    value.__module__ = 'own'
    setattr(module, value.__name__, value)
  assert {
    name: unannotated(found) for name, found in public_functions([module])
  } == {
    'own.Public.__init__': ['x', 'args', 'z'],
    'own.Public.make': [],
    'own.Public.static': ['x'],
    'own.function': ['return'],
  }


def test_fences_are_found():
  text = """Summary.

    ```python
    if True:
      x = 1
    ```

    ```shell
    not python
    ```
  ```py
x = 2
  ```
  """
  assert fences(text) == ['if True:\n  x = 1\n', 'x = 2\n']


def test_pages_are_found(tmp_path):
  (tmp_path / 'docs').mkdir()
  for name in ('README.md', 'docs/b.md', 'docs/a.md', 'docs/c.txt'):
    (tmp_path / name).write_text(name)
  names = ['README.md', 'docs/a.md', 'docs/b.md']
  assert pages(tmp_path) == [(name, name) for name in names]


def test_broken_links_are_found(tmp_path):
  (tmp_path / 'other.md').write_text('# A title, `code`\n```\n# no\n```\n')
  text = (
    '[a](other.md) [b](\nother.md#a-title-code) [c](https://example.org)\n'
    '[d](#here)\n## Here\n[e](missing.md) [f](other.md#no) [g](#there)\n'
  )
  path = tmp_path / 'page.md'
  path.write_text(text)
  assert broken_links(path, text) == ['missing.md', 'other.md#no', '#there']


def test_fence_must_end():
  with pytest.raises(ValueError, match='does not end'):
    fences('```python\nx = 1\n``` and more')


def test_examples_share_no_names(tmp_path):
  run_example('x = 1', tmp_path)
  with pytest.raises(NameError):
    run_example('x', tmp_path)


def test_example_can_fail(tmp_path):
  with pytest.raises(AssertionError):
    run_example('assert 1 + 1 == 3', tmp_path)


@pytest.mark.parametrize(
  ('doc', 'problem'),
  [
    (None, 'no docstring'),
    ('  ', 'no docstring'),
    ('Particles(values, log_weights)', 'period'),
    ('A summary that goes\n  on.', 'period'),
    ('A summary.\n  And more.', 'no empty line'),
  ],
)
def test_summary_problem_is_found(doc, problem):
  assert problem in summary_problem(doc)


def test_public_objects_are_those_of_all():
  module = types.ModuleType('own')
  module.__all__ = ['Public', 'constant', 'other']
  module.other = textwrap.dedent
  module.constant = 3

  class Public:
    """A class.

    ```python
    x = 1
    ```
    """

    def method(self):
      """A method.

      ```python
      x = 2
      ```
      """

    def _private(self):
      """```python"""

  Public.__module__ = 'own'
  module.Public = Public
  module.private = Public
  assert [name for name, _ in public_objects([module])] == ['own.Public']
  found = {name: fences(text) for name, text in docstrings([module])}
  assert found == {
    'own': [],
    'own.Public': ['x = 1\n'],
    'own.Public.method': ['x = 2\n'],
  }

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lists the programs of the package, and runs them.

```shell
python -m tfp_nvi                   # lists the programs
python -m tfp_nvi annealing --help  # runs one, as does `tfp-nvi annealing`
```
"""

import ast
import importlib.util
import pathlib
import pkgutil
import runpy
import sys

__all__ = [
  'main',
  'programs',
]

_PACKAGE = 'tfp_nvi.experiments'


def programs() -> dict[str, str]:
  """The programs that can be run, with the first line of what they say.

  Reads their sources, as importing them takes what not every one needs.

  Returns:
    programs: Python `dict` from names to descriptions.

  ```python
  from tfp_nvi import __main__ as programs_lib

  assert 'annealing' in programs_lib.programs()
  ```
  """
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None or spec.submodule_search_locations is None:
    return {}
  found = {}
  for info in pkgutil.iter_modules(spec.submodule_search_locations):
    folder = pathlib.Path(next(iter(spec.submodule_search_locations)))
    path = folder / f'{info.name}.py'
    if info.ispkg:
      path = folder / info.name / '__init__.py'
      if not (folder / info.name / '__main__.py').exists():
        continue
    doc = ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''
    found[info.name] = doc.partition('\n')[0]
  return found


def main() -> None:
  """Runs the program that the first argument names, or lists all."""
  found = programs()
  name, *arguments = sys.argv[1:] or ['--help']
  if name in found:
    sys.argv = [f'tfp_nvi {name}', *arguments]
    runpy.run_module(f'{_PACKAGE}.{name}', run_name='__main__', alter_sys=True)
    return
  width = max(map(len, found), default=0)
  lines = [
    'usage: python -m tfp_nvi PROGRAM [flags]',
    '',
    *(f'  {name:<{width}}  {doc}' for name, doc in found.items()),
    '',
    'PROGRAM --help lists the flags of a program.',
  ]
  if name in ('-h', '--help'):
    print('\n'.join(lines))
    return
  print(f'There is no program {name!r}.\n', file=sys.stderr)
  print('\n'.join(lines), file=sys.stderr)
  sys.exit(2)


if __name__ == '__main__':
  main()

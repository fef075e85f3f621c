# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Puts the pages of the site together, in .build/docs.

Pages are those of docs/, the README, the changelog and the benchmarks, with
links between them as they are on the site; the notebooks as they are stored;
and a page of reference for each public module, with every public name.

```shell
python -m docs.make_site && mkdocs build --strict -f .build/mkdocs.yml
```
"""

import ast
import base64
import json
import os
import pathlib
import re
import shutil

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'tfp_nvi'
# Modules without a page in the reference.
PRIVATE = ('__main__', 'experiments', 'internal', 'version')
PAGES = {
  'README.md': 'index.md',
  'CHANGELOG.md': 'changelog.md',
  'CONTRIBUTING.md': 'contributing.md',
  'benchmarks/README.md': 'benchmarks.md',
}
NAVIGATION = {
  'Guides': [
    'index.md',
    'posteriors.md',
    'how_it_works.md',
    'sequences.md',
    'deep_models.md',
    'scaling_out.md',
    'ecosystem.md',
    'extending.md',
  ],
}
NAVIGATION_AFTER = {
  'Results': ['results.md', 'performance.md', 'benchmarks.md'],
  'Project': ['contributing.md', 'layout.md', 'changelog.md'],
}
# Where the site lacks a file, only the text of a link to it is left.
_LINK = re.compile(r'(!?)\[([^\]]*)\]\(\s*([^)\s]+)\s*\)')


def sources() -> dict[pathlib.Path, str]:
  """The pages that are written by hand, and where they go on the site."""
  found = {ROOT / source: target for source, target in PAGES.items()}
  for path in sorted((ROOT / 'docs').iterdir()):
    if path.suffix in ('.md', '.png'):
      found[path] = path.name
  for path in sorted((ROOT / 'benchmarks').glob('*.png')):
    found[path] = path.name
  for path in sorted((ROOT / 'colab').glob('*.ipynb')):
    found[path] = f'notebooks/{path.stem}.md'
  return found


def convert_links(text: str, path: pathlib.Path, pages: dict) -> str:
  """Makes links to files of the repository links to pages of the site.

  Args:
    text: Markdown.
    path: The file that it is of.
    pages: As of `sources`.

  Returns:
    text: Markdown.
  """
  here = os.path.dirname(pages[path])

  def convert(match):
    mark, label, link = match.groups()
    if re.match(r'[a-z]+:', link) or link.startswith('#'):
      return match[0]
    name, _, anchor = link.partition('#')
    target = (path.parent / name).resolve()
    if target not in pages:
      return label if not mark else ''
    place = os.path.relpath(pages[target], here or '.')
    return f'{mark}[{label}]({place}{"#" + anchor if anchor else ""})'

  return _LINK.sub(convert, text)


def notebook_page(path: pathlib.Path) -> tuple[str, dict[str, bytes]]:
  """A notebook as a page, with the pictures that it is stored with.

  Args:
    path: The notebook.

  Returns:
    text: Markdown.
    pictures: Python `dict` from names of files to contents.
  """
  parts, pictures = [], {}
  for cell in json.loads(path.read_text('utf-8'))['cells']:
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      parts.append(source)
      continue
    parts.append(f'```python\n{source}\n```')
    for output in cell['outputs']:
      data = output.get('data', {})
      if 'image/png' in data:
        name = f'{path.stem}-{len(pictures)}.png'
        content = data['image/png']
        pictures[name] = base64.b64decode(
          content if isinstance(content, str) else ''.join(content)
        )
        parts.append(f'![Output]({name})')
        continue
      text = ''.join(output.get('text', data.get('text/plain', '')))
      if text.strip():
        parts.append(f'```text\n{text.rstrip()}\n```')
  return '\n\n'.join(parts) + '\n', pictures


def module_path(name: str) -> pathlib.Path:
  """The file of a module."""
  path = ROOT.joinpath(*name.split('.'))
  return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def read_module(name: str) -> ast.Module:
  """The syntax tree of a module."""
  return ast.parse(module_path(name).read_text('utf-8'))


def public_names(module: str) -> list[str]:
  """The names in `__all__` of a module."""
  for node in read_module(module).body:
    if (
      isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'
    ):
      return list(ast.literal_eval(node.value))
  return []


def resolve(module: str, name: str) -> str | None:
  """Where a public name is defined; `None` for a module or a constant.

  Args:
    module: Python `str`: a module that has the name.
    name: Python `str`.

  Returns:
    path: Python `str`: the module of the definition, a dot, and its name.
  """
  for node in read_module(module).body:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
      return f'{module}.{name}'
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        if (alias.asname or alias.name) != name:
          continue
        # A package has its modules by `from package import module`. A function
        # may have the name of the module that it is in.
        if node.module == module:
          return None
        return resolve(node.module, alias.name)
  return None


def reference() -> dict[str, list[str]]:
  """The definitions of each public module, by the names that it gives them.

  Returns:
    reference: Python `dict` from modules to lists of names, with the module.
  """
  modules = [
    f'{PACKAGE}.{path.stem}'
    for path in sorted((ROOT / PACKAGE).iterdir())
    if (path.suffix == '.py' or (path / '__init__.py').exists())
    and not path.stem.startswith('_')
    and path.stem not in PRIVATE
  ]
  found: dict[str, list[str]] = {}
  seen = set()
  # A package may have a module among its names.
  for module in list(modules):
    modules += [
      f'{module}.{name}'
      for name in public_names(module)
      if resolve(module, name) is None
      and module_path(f'{module}.{name}').exists()
    ]
  for module in [*modules, PACKAGE]:
    for name in public_names(module):
      path = resolve(module, name)
      # A definition of a package is on the page of that package, and not on
      # those of modules that have it as well.
      is_own = module == PACKAGE or (path or '').startswith(module + '.')
      if path is not None and path not in seen and is_own:
        seen.add(path)
        found.setdefault(module, []).append(f'{module}.{name}')
  return found


def summary(module: str) -> str:
  """The docstring of a module."""
  return ast.get_docstring(read_module(module)) or ''


def write(folder: pathlib.Path) -> None:
  """Writes all pages.

  Args:
    folder: Where to; what is there is removed.
  """
  shutil.rmtree(folder, ignore_errors=True)
  (folder / 'notebooks').mkdir(parents=True)
  (folder / 'api').mkdir()
  pages = sources()
  for path, target in pages.items():
    known = pages
    if path.suffix == '.ipynb':
      text, pictures = notebook_page(path)
      known = {
        **pages,
        **{path.parent / name: f'notebooks/{name}' for name in pictures},
      }
      for name, content in pictures.items():
        (folder / 'notebooks' / name).write_bytes(content)
    elif path.suffix == '.md':
      text = path.read_text('utf-8')
    else:
      shutil.copyfile(path, folder / target)
      continue
    (folder / target).write_text(convert_links(text, path, known), 'utf-8')
  for module, paths in reference().items():
    blocks = [f'# {module}', summary(module)]
    blocks += [f'::: {path}' for path in sorted(paths)]
    (folder / 'api' / f'{module}.md').write_text(
      '\n\n'.join(blocks) + '\n', 'utf-8'
    )


def write_configuration(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes mkdocs.yml with the pages that there are.

  Args:
    path: Where to.
    folder: The folder of pages.
  """
  base = os.path.relpath(ROOT / 'mkdocs.yml', path.parent)
  lines = [f'INHERIT: {base}', f'docs_dir: {folder.name}', 'site_dir: site']
  lines.append('nav:')
  for section, names in {
    **NAVIGATION,
    'Notebooks': [
      f'notebooks/{x.name}' for x in sorted(folder.glob('notebooks/*.md'))
    ],
    'Reference': [f'api/{x.name}' for x in sorted(folder.glob('api/*.md'))],
    **NAVIGATION_AFTER,
  }.items():
    lines.append(f'  - {section}:')
    lines += [f'      - {name}' for name in names]
  path.write_text('\n'.join(lines) + '\n', 'utf-8')


if __name__ == '__main__':
  write(ROOT / '.build' / 'docs')
  write_configuration(ROOT / '.build' / 'mkdocs.yml', ROOT / '.build' / 'docs')

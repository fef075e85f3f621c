# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The site of documentation builds without warnings, and has every public name.

Needs the extra `docs` to build it, and nothing of TensorFlow.
"""

import base64
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def load():
  path = ROOT / 'docs' / 'make_site.py'
  spec = importlib.util.spec_from_file_location('make_site', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


make_site = load()


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The folder of the site that `make docs` builds."""
  pytest.importorskip('mkdocstrings')
  folder = tmp_path_factory.mktemp('site')
  make_site.write(folder / 'docs')
  make_site.write_configuration(folder / 'mkdocs.yml', folder / 'docs')
  # Paths in the configuration are relative to the file.
  text = (ROOT / 'mkdocs.yml').read_text('utf-8')
  text = text.replace('[..]', f'[{ROOT}]').replace('../docs', f'{ROOT}/docs')
  (folder / 'base.yml').write_text(text)
  made = (folder / 'mkdocs.yml').read_text('utf-8')
  first, _, rest = made.partition('\n')
  assert first.startswith('INHERIT: ') and first.endswith('mkdocs.yml')
  (folder / 'mkdocs.yml').write_text(f'INHERIT: base.yml\n{rest}')
  result = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict'],
    cwd=folder,
    capture_output=True,
    text=True,
    env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
  )
  assert result.returncode == 0, result.stderr[-3_000:]
  assert 'WARNING' not in result.stderr
  return folder / 'site'


def inventory(site):
  """The names that the site has headings of."""
  content = (site / 'objects.inv').read_bytes()
  start = 0
  for _ in range(4):
    start = content.index(b'\n', start) + 1
  lines = zlib.decompress(content[start:]).decode('utf-8').splitlines()
  return {line.split()[0] for line in lines}


def test_site_has_every_public_name(site):
  names = inventory(site)
  for module, paths in make_site.reference().items():
    assert set(paths) <= names, module
    assert (site / 'api' / f'{module}.html').exists()
  assert 'tfp_nvi.sampler.NestedSampler.sample' in names


def test_reference_has_what_the_package_exports():
  """Against the names of the package itself, read without importing it."""
  shown = {
    make_site.resolve(*path.rpartition('.')[::2])
    for paths in make_site.reference().values()
    for path in paths
  }
  modules = {'__version__', 'bijectors', 'diagnostics', 'targets'}
  for name in set(make_site.public_names('tfp_nvi')) - modules:
    assert make_site.resolve('tfp_nvi', name) in shown, name
  for module in ('bijectors', 'diagnostics', 'targets', 'training'):
    path = f'tfp_nvi.{module}'
    for name in set(make_site.public_names(path)) - {'posteriors'}:  # A module.
      assert make_site.resolve(path, name) in shown, name
  # A module among the names of a package.
  assert 'tfp_nvi.targets.posteriors.neals_funnel' in shown


def test_pages_have_the_notebooks_and_their_pictures(site):
  text = (site / 'notebooks' / 'annealing.html').read_text('utf-8')
  assert 'annealing-0.png' in text and 'NestedSampler' in text
  assert (site / 'notebooks' / 'annealing-0.png').stat().st_size > 1_000


def test_links_become_those_of_the_site():
  pages = make_site.sources()
  readme, guide = ROOT / 'README.md', ROOT / 'docs' / 'performance.md'
  convert = make_site.convert_links
  for path, text, expected in (
    (readme, '[how](\ndocs/how_it_works.md#the-parts)',
     '[how](how_it_works.md#the-parts)'),
    (readme, '![p](docs/how-it-works.png)', '![p](how-it-works.png)'),
    (readme, '[x](LICENSE) [y](https://a.b/c) [z](#d)',
     'x [y](https://a.b/c) [z](#d)'),
    (guide, '[log](../CHANGELOG.md)', '[log](changelog.md)'),
    (guide, '[b](../benchmarks/README.md#a)', '[b](benchmarks.md#a)'),
  ):  # fmt: skip
    assert convert(text, path, pages) == expected


def test_notebook_page(tmp_path):
  image = base64.b64encode(b'picture').decode()
  cells = [
    {'cell_type': 'markdown', 'source': ['# Title\n', 'text']},
    {
      'cell_type': 'code',
      'source': ['1 + 1'],
      'outputs': [
        {'data': {'text/plain': ['2']}},
        {'data': {'image/png': image, 'text/plain': ['<Figure>']}},
        {'text': ['printed\n']},
      ],
    },
  ]
  path = tmp_path / 'book.ipynb'
  path.write_text(json.dumps({'cells': cells}))
  text, pictures = make_site.notebook_page(path)
  assert text == (
    '# Title\ntext\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\n'
    '![Output](book-0.png)\n\n```text\nprinted\n```\n'
  )
  assert pictures == {'book-0.png': b'picture'}

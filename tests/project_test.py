# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Workflows, hooks and metadata name what exists, at one version."""

import pathlib
import re

import pytest

import tfp_nvi

tomllib = pytest.importorskip('tomllib')

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
YAML = [
  *WORKFLOWS,
  *sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml')),
  ROOT / '.pre-commit-config.yaml',
  ROOT / 'CITATION.cff',
]


def targets():
  text = (ROOT / 'Makefile').read_text('utf-8')
  return set(re.findall(r'^([a-z]+):', text, re.M))


def project():
  return tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']


def test_there_are_workflows():
  assert [path.stem for path in WORKFLOWS] == [
    'docs',
    'notebooks',
    'tests',
    'wheels',
  ]


@pytest.mark.parametrize('path', YAML, ids=lambda path: path.name)
def test_yaml_is_valid(path):
  yaml = pytest.importorskip('yaml')
  assert isinstance(yaml.safe_load(path.read_text('utf-8')), dict)


@pytest.mark.parametrize(
  'path', [*WORKFLOWS, ROOT / 'CONTRIBUTING.md'], ids=lambda path: path.name
)
def test_commands_name_what_exists(path):
  text = path.read_text('utf-8')
  assert set(re.findall(r'\bmake ([a-z]+)', text)) <= targets()
  for name in re.findall(r'\b(?:tests|docs|benchmarks)/[\w/]+\.\w+', text):
    assert (ROOT / name).exists(), name
  extras = set(project()['optional-dependencies'])
  assert set(re.findall(r"-e '\.\[(\w+)\]'", text)) <= extras
  scripts = set(project()['scripts'])
  assert set(re.findall(r'run: (tfp-\w+)', text)) <= scripts


def test_workflows_run_every_python_that_is_declared():
  declared = {
    x.rpartition(' ')[2]
    for x in project()['classifiers']
    if re.search(r'Python :: 3\.\d+$', x)
  }
  for name in ('tests', 'wheels'):
    text = (ROOT / '.github' / 'workflows' / f'{name}.yml').read_text('utf-8')
    assert declared <= set(re.findall(r'"(3\.\d+)"', text)), name


def test_workflows_run_every_part():
  text = (ROOT / '.github' / 'workflows' / 'tests.yml').read_text('utf-8')
  parts = re.findall(r'part: \[(.*)\]', text)
  assert len(parts) == 3 and set(parts) == {'1, 2, 3, 4, 5, 6'}
  assert text.count('--part=${{ matrix.part }}/6') == 3


def test_there_is_one_version():
  citation = (ROOT / 'CITATION.cff').read_text('utf-8')
  assert f'\nversion: {tfp_nvi.__version__}\n' in citation
  module = (ROOT / 'MODULE.bazel').read_text('utf-8')
  assert f'version = "{tfp_nvi.__version__}"' in module


def test_there_is_one_address():
  urls = project()['urls']
  address = urls['Repository']
  assert re.fullmatch(r'https://github\.com/[\w-]+/tfp_nvi', address)
  for name, url in urls.items():
    assert url.startswith(address) or name == 'Paper'
  citation = (ROOT / 'CITATION.cff').read_text('utf-8')
  assert f'\nrepository-code: {address}\n' in citation
  changes = (ROOT / 'CHANGELOG.md').read_text('utf-8')
  links = re.findall(r'^\[.*\]: (.*)$', changes, re.MULTILINE)
  assert links and all(link.startswith(f'{address}/') for link in links)


def test_changelog_has_the_version():
  changes = (ROOT / 'CHANGELOG.md').read_text('utf-8')
  version = tfp_nvi.__version__
  if 'dev' not in version:
    assert re.search(
      rf'^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$', changes, re.M
    )
    assert f'\n[{version}]: ' in changes
  sections = re.findall(r'^## \[(.*?)\]', changes, re.M)
  assert sections[0] == 'Unreleased' and len(set(sections)) == len(sections)

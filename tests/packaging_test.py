# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The wheel and the source distribution are whole, and install.

Both are built from a copy of the sources. The wheel is installed in an
environment of its own, which borrows dependencies from this one: what is tested
is the package, not its dependencies. Whether the index has these is a test that
is skipped where there is no index.
"""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

import tfp_nvi
from tfp_nvi import __main__ as programs_lib

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = [
  'adversarial',
  'amortized_gibbs',
  'annealing',
  'bgmm_vae',
  'deep_gaussian',
  'gradient_noise',
  'hmm',
  'image_mixture',
  'state_space',
]
BUILD = """
import sys
from setuptools import build_meta

folder = sys.argv[1]
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""


def run(*arguments, **kwargs):
  return subprocess.run(
    list(map(str, arguments)), capture_output=True, text=True, **kwargs
  )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """A folder with the source distribution and the wheel."""
  sources = tmp_path_factory.mktemp('sources') / 'tfp_nvi'
  ignored = shutil.ignore_patterns(
    '.*', '*.egg-info', '__pycache__', 'dist', 'results', 'site'
  )
  shutil.copytree(ROOT, sources, ignore=ignored)
  folder = tmp_path_factory.mktemp('built')
  result = run(sys.executable, '-c', BUILD, folder, cwd=sources)
  assert result.returncode == 0, result.stderr[-2_000:]
  return folder


@pytest.fixture(scope='module')
def wheel(built):
  (path,) = built.glob('*.whl')
  return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """The scripts of an environment in which the wheel is installed."""
  folder = tmp_path_factory.mktemp('environment')
  venv.create(folder, with_pip=True)
  scripts = folder / ('Scripts' if os.name == 'nt' else 'bin')
  result = run(
    scripts / 'python', '-m', 'pip', 'install', '--no-deps', '--no-index', wheel
  )
  assert result.returncode == 0, result.stderr
  purelib = run(
    scripts / 'python',
    '-c',
    'import sysconfig; print(sysconfig.get_path("purelib"))',
  ).stdout.strip()
  # Only a path: editable installations among the others stay out.
  (pathlib.Path(purelib) / 'borrowed.pth').write_text(
    sysconfig.get_path('purelib')
  )
  return scripts


def sources(suffix='.py'):
  """The files of the package, as paths in an archive."""
  return {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'tfp_nvi').rglob(f'*{suffix}')
  }


@pytest.mark.xdist_group('packaging')
def test_wheel_has_the_package_alone(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  assert sources() <= names
  assert {'tfp_nvi/py.typed', 'tfp_nvi/experiments/hmm_paper.flags'} <= names
  tops = {name.partition('/')[0] for name in names}
  assert tops == {'tfp_nvi', f'tfp_nvi-{tfp_nvi.__version__}.dist-info'}


@pytest.mark.xdist_group('packaging')
def test_sdist_has_what_tests_need(built):
  (path,) = built.glob('*.tar.gz')
  with tarfile.open(path) as file:
    names = {name.partition('/')[2] for name in file.getnames()}
  assert sources() <= names
  for name in (
    'BUILD',
    'CHANGELOG.md',
    'LICENSE',
    'MODULE.bazel',
    'Makefile',
    'README.md',
    'benchmarks/README.md',
    'colab/annealing.ipynb',
    'constraints.txt',
    'docs/extending.md',
    'docs/how-it-works.png',
    'pyproject.toml',
    'setup.py',
    'tests/BUILD',
    'tests/conftest.py',
    'tests/experiments/programs.py',
    'tests/packaging_test.py',
    'tfp_nvi/BUILD',
    'tfp_nvi/experiments/hmm_paper.flags',
  ):
    assert name in names, name
  assert not [name for name in names if name.endswith('.pyc')]


@pytest.mark.xdist_group('packaging')
def test_metadata(wheel):
  (name,) = [
    name
    for name in zipfile.ZipFile(wheel).namelist()
    if name.endswith('.dist-info/METADATA')
  ]
  metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
  assert metadata['License-Expression'] == 'Apache-2.0'
  classifiers = metadata.get_all('Classifier')
  for version in ('3.10', '3.11', '3.12', '3.13'):
    assert f'Programming Language :: Python :: {version}' in classifiers
  urls = dict(url.split(', ') for url in metadata.get_all('Project-URL'))
  assert {'Repository', 'Documentation', 'Issues', 'Paper'} <= set(urls)
  # The links of the README are relative in the repository.
  assert metadata['Description-Content-Type'] == 'text/markdown'
  links = re.findall(r'\]\(\s*([^)\s]+)\s*\)', metadata.get_payload())
  assert len(links) > 9
  for link in links:
    assert link.startswith('https://')
    if link.startswith(urls['Repository']):
      path = re.split(r'/main/|#', link)[1]
      assert (ROOT / path).is_file(), link
  assert 'Nested variational inference' in metadata['Summary']


def test_program_names():
  assert list(programs_lib.programs()) == PROGRAMS
  assert all(programs_lib.programs().values())


@pytest.mark.xdist_group('packaging')
def test_installed_package_lists_and_runs_programs(installed, tmp_path):
  # Away from the sources.
  listed = run(installed / 'tfp-nvi', cwd=tmp_path)
  assert listed.returncode == 0, listed.stderr
  assert all(f'  {name} ' in listed.stdout for name in PROGRAMS)
  unknown = run(installed / 'python', '-m', 'tfp_nvi', 'no', cwd=tmp_path)
  assert unknown.returncode == 2 and "no program 'no'" in unknown.stderr
  helped = run(installed / 'tfp-nvi', 'annealing', '--help', cwd=tmp_path)
  assert '--num_densities' in helped.stdout
  where = run(
    installed / 'python', '-c', 'import tfp_nvi; print(tfp_nvi.__file__)',
    cwd=tmp_path,
  )  # fmt: skip
  assert where.stdout.startswith(str(installed.parent))


@pytest.mark.xdist_group('packaging')
def test_installed_program_finds_flag_files(installed, tmp_path):
  result = run(
    installed / 'tfp-nvi',
    'hmm',
    '--flagfile=hmm_paper.flags',
    '--num_steps=0',
    cwd=tmp_path,
  )
  # The flags were read, and the one after them as well.
  assert result.returncode == 1
  assert '--num_steps must be' in result.stderr


@pytest.mark.slow
@pytest.mark.xdist_group('packaging')
def test_programs_without_an_extra(installed, tmp_path):
  for name in ('scipy', 'sklearn'):
    folder = tmp_path / name
    folder.mkdir()
    (folder / '__init__.py').write_text(
      f'raise ModuleNotFoundError("No module named {name!r}")'
    )
  environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
  helped = run(
    installed / 'tfp-nvi', 'bgmm_vae', '--help', cwd=tmp_path, env=environment
  )
  assert '--dataset' in helped.stdout
  result = run(
    installed / 'tfp-nvi',
    'bgmm_vae',
    '--output_dir=out',
    cwd=tmp_path,
    env=environment,
  )
  assert result.returncode == 1
  assert 'pip install "tfp-nvi[images]"' in result.stderr
  assert 'Traceback' not in result.stderr
  assert not (tmp_path / 'out').exists()


@pytest.mark.xdist_group('packaging')
@pytest.mark.network
@pytest.mark.slow
def test_index_has_the_dependencies(installed, wheel):
  index = run(
    installed / 'python', '-m', 'pip', 'download', '--no-deps', '--dest',
    wheel.parent / 'downloads', 'absl-py',
  )  # fmt: skip
  if index.returncode:
    pytest.skip('There is no package index.')
  result = run(
    installed / 'python', '-m', 'pip', 'install', '--dry-run',
    '--ignore-installed', f'{wheel}[arviz]',
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-2_000:]

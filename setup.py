# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The description of the package: the README, with absolute links.

All else is in pyproject.toml. Links of the README are relative, for clones of
the repository; where the package is described without the repository, they lead
to its address.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
_LINK = re.compile(r'(!?)\[([^\]]*)\]\(\s*(?!#|[a-z]+:)([^)\s]+)\s*\)')


def describe() -> str:
  """The README, with links to files of the repository at its address."""
  # A regular expression, because Python 3.10 has no tomllib.
  project = (ROOT / 'pyproject.toml').read_text('utf-8')
  (address,) = re.findall(r'^"Repository" = "(.*)"$', project, re.MULTILINE)

  def convert(match):
    mark, label, link = match.groups()
    kind = 'raw' if mark else 'blob'
    return f'{mark}[{label}]({address}/{kind}/main/{link})'

  return _LINK.sub(convert, (ROOT / 'README.md').read_text('utf-8'))


setuptools.setup(
  long_description=describe(),
  long_description_content_type='text/markdown',
)

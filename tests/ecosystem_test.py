# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of what users of other libraries know names what exists."""

import inspect
import pathlib
import re

import tensorflow_probability as tfp

import tfp_nvi as nvi

ROOT = pathlib.Path(__file__).parents[1]
# Names of others, and those of arguments in the text.
OTHERS = {'tfp', 'tfd', 'tf', 'gpu', 'potential_fn'}


def rows():
  """The cells of each row but the first."""
  text = (ROOT / 'docs' / 'ecosystem.md').read_text('utf-8')
  lines = [line for line in text.splitlines() if line.startswith('| ')]
  cells = [[x.strip() for x in line.strip('|').split(' | ')] for line in lines]
  assert cells[0] == ['known as', 'from', 'here']
  return cells[1:]


def known_names():
  """Public names, attributes of results, and names of arguments."""
  found = set(dir(nvi)) | set(dir(nvi.diagnostics))
  for kind in (nvi.WeightedParticles, nvi.Posterior, nvi.diagnostics):
    found |= set(dir(kind))
  # Set by the constructor.
  found |= {*inspect.signature(nvi.Posterior).parameters}
  for fn in (
    nvi.GeometricPath,
    nvi.NestedSampler,
    nvi.fit,
    nvi.fit_posterior,
    nvi.NestedSampler.sample,
    nvi.SamplerKernel,
  ):
    found |= set(inspect.signature(fn).parameters)
  return found


def test_no_cell_is_empty():
  assert len(rows()) > 30
  for row in rows():
    assert len(row) == 3 and all(row), row
    # A feature that is not there comes with a reason.
    if row[2].startswith('not '):
      assert ': ' in row[2], row


def test_names_exist():
  known = known_names()
  model = tfp.distributions.JointDistributionNamed(
    {'x': tfp.distributions.Normal(0.0, 1.0)}
  )
  for _, _, here in rows():
    for code in re.findall(r'`([^`]+)`', here):
      first, *others = re.findall(r'[A-Za-z_]\w*', re.sub(r'\(.*', '', code))
      if first in OTHERS or hasattr(model, first):
        continue
      for name in [first, *others] if first != 'nvi' else others:
        if name in ('particles', 'posterior', 'diagnostics', 'to_netcdf'):
          continue
        assert name in known, (code, name)

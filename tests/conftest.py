# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shortcomings that tests have found and that are not mended yet.

A test that is named here may fail. What is mended is taken from the list.
"""

import pytest

_KNOWN_SHORTCOMINGS = (
  # XLA cannot compile gamma draws in the loop that auto-batching makes.
  'sampler_test.py::test_auto_batched_initial_densities_compile[Gamma]',
  # Errors that come late, or do not name the argument as they should.
  'sampler_test.py::test_bad_arguments',
  'sampler_test.py::test_batch_shapes_that_do_not_agree',
  'sampler_test.py::test_kernels_that_propose_something_else',
  'sampler_test.py::test_nan_is_not_silent',
  # Batch dimensions of size one.
  'sampler_test.py::test_batch_dimensions_of_size_one_broadcast',
  # Markov kernels from states outside of the support.
  'sampler_test.py::test_members_without_any_weight[mcmc]',
  'sampler_test.py::test_a_density_that_is_zero_somewhere',
)


def pytest_collection_modifyitems(items):
  """Marks the tests of known shortcomings."""
  for item in items:
    if any(name in item.nodeid for name in _KNOWN_SHORTCOMINGS):
      item.add_marker(
        pytest.mark.xfail(reason='known shortcoming', strict=False)
      )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.deep_gaussian`."""

from tfp_nvi.experiments import common, deep_gaussian

__all__ = []

if __name__ == '__main__':
  common.main(
    deep_gaussian.run,
    deep_gaussian.Settings,
    deep_gaussian.__doc__,
    errors=deep_gaussian.ERRORS,
  )

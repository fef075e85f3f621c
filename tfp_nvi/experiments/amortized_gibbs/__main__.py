# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.amortized_gibbs`."""

from tfp_nvi.experiments import amortized_gibbs, common

__all__ = []

if __name__ == '__main__':
  common.main(
    amortized_gibbs.run, amortized_gibbs.Settings, amortized_gibbs.__doc__
  )

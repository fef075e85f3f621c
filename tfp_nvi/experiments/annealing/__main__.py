# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.annealing`."""

from tfp_nvi.experiments import annealing, common

__all__ = []

if __name__ == '__main__':
  common.main(annealing.run, annealing.Settings, annealing.__doc__)

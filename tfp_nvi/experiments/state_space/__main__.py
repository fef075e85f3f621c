# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.state_space`."""

from tfp_nvi.experiments import common, state_space

__all__ = []

if __name__ == '__main__':
  common.main(state_space.run, state_space.Settings, state_space.__doc__)

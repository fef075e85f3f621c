# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.gradient_noise`."""

from tfp_nvi.experiments import common, gradient_noise

__all__ = []

if __name__ == '__main__':
  common.main(
    gradient_noise.run, gradient_noise.Settings, gradient_noise.__doc__
  )

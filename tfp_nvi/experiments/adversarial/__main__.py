# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.adversarial`."""

from tfp_nvi.experiments import adversarial, common

__all__ = []

if __name__ == '__main__':
  common.main(adversarial.run, adversarial.Settings, adversarial.__doc__)

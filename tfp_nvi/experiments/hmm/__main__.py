# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.hmm`."""

from tfp_nvi.experiments import common, hmm

__all__ = []

if __name__ == '__main__':
  # Rounding may decide whether particles are resampled.
  common.main(hmm.run, hmm.Settings, hmm.__doc__, one_thread=True)

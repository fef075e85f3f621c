# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program `python -m tfp_nvi.experiments.image_mixture`."""

from tfp_nvi.experiments import common, image_mixture

__all__ = []

if __name__ == '__main__':
  common.main(
    image_mixture.run,
    image_mixture.Settings,
    image_mixture.__doc__,
    errors=image_mixture.ERRORS,
  )

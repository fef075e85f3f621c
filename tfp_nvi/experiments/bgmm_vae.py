# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The experiment on images, under the name of its published model.

```shell
python -m tfp_nvi.experiments.bgmm_vae --help
```
"""

from tfp_nvi.experiments import common, image_mixture
from tfp_nvi.experiments.image_mixture import (
  OBJECTIVES,
  Results,
  mini_batches,
  run,
)

__all__ = [
  'OBJECTIVES',
  'Results',
  'mini_batches',
  'run',
]

if __name__ == '__main__':
  common.main(
    run,
    image_mixture.Settings,
    image_mixture.__doc__,
    errors=image_mixture.ERRORS,
  )

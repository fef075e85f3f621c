# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training: many steps in each compiled call, checkpoints, and what happened.

`fit` is the loop on the host; `steps` is the loop that XLA compiles; `monitor`
looks at what came of each call, and `coverage` at whether mass was lost in the
end; `history` is what a user gets, and `checkpoints` is a store that survives a
kill at any moment; `optimizers` makes one optimizer of several. Step `i` draws
from a seed that depends on the user's seed and on `i` alone, so that training
gives the same numbers however many steps a call takes, and whether or not it
was stopped and resumed in between.
"""

from tfp_nvi.training.checkpoints import Checkpoints
from tfp_nvi.training.fit import fit
from tfp_nvi.training.history import (
  CollapseWarning,
  History,
  MissingMassWarning,
  TrainingError,
  TrainingInterrupted,
)
from tfp_nvi.training.optimizers import MultiOptimizer

__all__ = [
  'Checkpoints',
  'CollapseWarning',
  'History',
  'MissingMassWarning',
  'MultiOptimizer',
  'TrainingError',
  'TrainingInterrupted',
  'fit',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tools that all experiments share.

An experiment is a dataclass of settings (`settings`) and a function `run` that
takes them; the settings also give the flags of its program (`program`). It
consists of cells, each computed once, possibly several at a time (`cells`). An
output folder (`store`) keeps each finished cell, so that a run that was stopped
goes on when it is started again; so do the stages of training (`training`). On
several devices and machines, programs run by strategies (`launch`).
"""

from tfp_nvi.experiments.common.cells import run_missing_cells
from tfp_nvi.experiments.common.launch import STRATEGIES, make_strategy
from tfp_nvi.experiments.common.program import main
from tfp_nvi.experiments.common.settings import (
  SettingError,
  Settings,
  choice,
  choices,
  count,
  count_or_default,
  counts,
  folder,
  names,
  num_workers,
  number,
  output_dir,
  overwrite,
  setting,
  with_settings,
)
from tfp_nvi.experiments.common.store import (
  Results,
  Store,
  finish,
  open_output,
)
from tfp_nvi.experiments.common.training import (
  TrainingFolder,
  decayed_learning_rate,
  thin,
)

__all__ = [
  'Results',
  'STRATEGIES',
  'SettingError',
  'Settings',
  'Store',
  'TrainingFolder',
  'choice',
  'choices',
  'count',
  'count_or_default',
  'counts',
  'decayed_learning_rate',
  'finish',
  'folder',
  'main',
  'make_strategy',
  'names',
  'num_workers',
  'number',
  'open_output',
  'output_dir',
  'overwrite',
  'run_missing_cells',
  'setting',
  'thin',
  'with_settings',
]

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tools that all experiments share.

An experiment is a dataclass of settings (`settings`) and a function `run` that
takes them. The settings also give the flags of its program (`program`). It
consists of cells, each computed once, possibly several at a time (`cells`); an
output folder (`store`) keeps each finished cell, so that a run that was stopped
goes on when it is started again. `training` and `pictures` hold small helpers.
"""

from tfp_nvi.experiments.common.cells import run_cells, run_missing_cells
from tfp_nvi.experiments.common.pictures import (
  finish,
  make_figure,
  style_axes,
)
from tfp_nvi.experiments.common.program import main
from tfp_nvi.experiments.common.settings import (
  SettingError,
  Settings,
  choice,
  choices,
  count,
  count_or_default,
  counts,
  define_flags,
  integer,
  non_negative,
  num_workers,
  output_dir,
  overwrite,
  positive,
  setting,
  switch,
  text,
  with_settings,
)
from tfp_nvi.experiments.common.store import (
  Results,
  Store,
  replace_file,
  versions,
)
from tfp_nvi.experiments.common.training import (
  TrainingFolder,
  decayed_learning_rate,
  thin,
)

__all__ = [
  'Results',
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
  'define_flags',
  'finish',
  'integer',
  'main',
  'make_figure',
  'non_negative',
  'num_workers',
  'output_dir',
  'overwrite',
  'positive',
  'replace_file',
  'run_cells',
  'run_missing_cells',
  'setting',
  'style_axes',
  'switch',
  'text',
  'thin',
  'versions',
  'with_settings',
]

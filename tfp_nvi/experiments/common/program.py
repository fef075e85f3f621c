# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""The program of an experiment: its flags are the settings."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

from absl import app, flags, logging

from tfp_nvi.experiments.common import cells
from tfp_nvi.experiments.common import settings as settings_lib

__all__ = [
  'main',
]

# Flags belong to the program that calls `main`; see `settings`.
flags.disclaim_key_flags()


def main(
  run_fn: Callable,
  settings_class: type[settings_lib.Settings],
  doc: str,
  errors: tuple = (),
  one_thread: bool = False,
) -> None:
  """Runs an experiment with the values of flags, and ends the process.

  Args:
    run_fn: Python callable whose arguments are those of `settings_class`.
    settings_class: Subclass of `tfp_nvi.experiments.common.Settings`.
    doc: Python `str`: the text above the flags that `--help` shows.
    errors: Tuple of classes of exceptions whose message is shown without a
      traceback.
      Default value: `()`.
    one_thread: Python `bool`: whether cells that run in this process have one
      thread, as those of workers have, so that figures do not depend on the
      number of workers to the last digit. This is slower, and only meant for
      experiments that need it.
      Default value: `False`.
  """
  if one_thread:
    cells.use_one_thread()
  settings_lib.define_flags(settings_class)
  # Absl shows this text with --help and with a wrong flag.
  sys.modules['__main__'].__doc__ = doc
  names = [field.name for field in dataclasses.fields(settings_class)]
  app.run(
    lambda argv: _run(run_fn, names, errors, argv),
    argv=[sys.argv[0], *map(_find_flagfile, sys.argv[1:])],
  )


def _find_flagfile(argument):
  """Completes the name of a flag file of this package, if it is one."""
  name, _, value = argument.partition('=')
  packaged = pathlib.Path(__file__).parents[1] / pathlib.Path(value).name
  if (
    name.lstrip('-') != 'flagfile'
    or pathlib.Path(value).exists()
    or not packaged.is_file()
  ):
    return argument
  return f'{name}={packaged}'


def _run(run_fn, names, errors, argv):
  """Runs an experiment; returns the exit status."""
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags alone; got {" ".join(argv[1:])}.')
  if not flags.FLAGS['verbosity'].present:
    # Otherwise TensorFlow logs a line for every checkpoint.
    logging.set_verbosity(logging.WARNING)
  try:
    run_fn(**{name: flags.FLAGS[name].value for name in names})
  except settings_lib.SettingError as e:
    print(f'--{e.name} {e.problem}', file=sys.stderr)
    return 1
  except errors as e:
    print(e, file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(
      '\nStopped. The same command continues after the finished cells.',
      file=sys.stderr,
    )
    return 130
  return 0

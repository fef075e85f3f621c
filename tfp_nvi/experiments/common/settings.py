# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings: one dataclass gives flags, their help, checks, and arguments.

A field made by `setting` has a default, a help text, and a check that converts
its value or raises an error:

```python
import dataclasses
from tfp_nvi.experiments import common


@dataclasses.dataclass(frozen=True)
class Settings(common.Settings):
  num_steps: int = common.setting(1_000, 'Number of training steps.')
  dtype: str = common.setting(
    'float32', 'float32 or float64.', common.choice(['float32', 'float64'])
  )


@common.with_settings(Settings)
def run(settings):
  return settings.num_steps


assert run(num_steps=5) == 5
```
"""

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable

from absl import flags

from tfp_nvi.internal import checks

__all__ = [
  'SettingError',
  'Settings',
  'choice',
  'choices',
  'count',
  'count_or_default',
  'counts',
  'names',
  'define_flags',
  'folder',
  'num_workers',
  'number',
  'output_dir',
  'overwrite',
  'setting',
  'with_settings',
]

# With this, flags belong to the program that calls `define_flags`, so that its
# --help lists them.
flags.disclaim_key_flags()


class SettingError(ValueError):
  """An argument, or the flag of the same name, is not as expected.

  Args:
    name: Python `str` name of the argument.
    expected: Python `str`: the words after "must be" in the message.
    got: Python `str`: the value that was given, in words.
  """

  def __init__(self, name: str, expected: str, got: str):
    self.name = name
    self.problem = f'must be {expected}; got {got}.'
    # The base class gets all arguments, so that workers can pickle the error.
    super().__init__(name, expected, got)

  def __str__(self):
    return f'`{self.name}` {self.problem}'


class _SettingTypeError(SettingError, TypeError):
  """An argument has a value of the wrong kind."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """Base class of the settings of an experiment.

  A subclass that checks several fields together does so in `__post_init__`,
  after that of this class.
  """

  def __post_init__(self):
    """Checks every field, and replaces its value by the converted one."""
    for field in dataclasses.fields(self):
      name = field.name
      try:
        value = field.metadata['check'](name, getattr(self, name))
      except SettingError:
        raise
      except (TypeError, ValueError) as e:
        # Messages of the checks have the form "`name` must be ...; got ...".
        if not str(e).startswith(f'`{name}` must be '):
          raise
        expected, _, got = str(e).partition(' must be ')[2].partition('; got ')
        kind = _SettingTypeError if isinstance(e, TypeError) else SettingError
        raise kind(name, expected, got.removesuffix('.')) from e
      object.__setattr__(self, name, value)

  @property
  def configuration(self) -> dict:
    """Returns the settings that results depend on, as JSON values."""
    return {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.metadata['changes_results']
    }


def setting(
  default,
  help: str,
  check: Callable | None = None,
  changes_results: bool = True,
  flag_default=None,
):
  """Makes a field of a dataclass of settings.

  Args:
    default: Python `int`, `float`, `bool`, `str`, or tuple, which needs a
      `check`. A flag has its type; that of a tuple is a comma list.
    help: Python `str`: the description of the setting.
    check: Python callable from the name of the setting and a value to the value
      that the experiment has; raises an error if it is not as expected.
      Default value: `None` (i.e., by the type of `default`: a positive number,
      a Python `bool`, or any text).
    changes_results: Python `bool`: whether results with different values must
      not share a folder.
      Default value: `True`.
    flag_default: The default of the flag, if it is different.
      Default value: `None` (i.e., `default`).

  Returns:
    field: Field of a dataclass.
  """
  if check is None:
    check = {
      bool: _switch,
      int: count(),
      float: number(),
      str: _text,
    }[type(default)]
  return dataclasses.field(
    default=default,
    metadata={
      'help': help,
      'check': check,
      'changes_results': changes_results,
      'flag_default': default if flag_default is None else flag_default,
    },
  )


def output_dir(default: str):
  """Makes the field for the folder that an experiment writes to."""
  return setting(
    default,
    'Folder to write to; created if it does not exist. Finished cells that it '
    'holds are kept.',
    folder,
    changes_results=False,
  )


def num_workers():
  """Makes the field for the number of cells that run at a time."""
  return setting(
    1,
    'How many cells to run at a time, each in a process of its own if more '
    'than one. Figures do not depend on it, except for durations.',
    changes_results=False,
    # The default is one cell for each of two processors.
    flag_default=2,
  )


def overwrite():
  """Makes the field that says whether finished cells are computed again."""
  return setting(
    False,
    'Whether to compute cells again that the output folder holds, and to '
    'discard results of another configuration.',
    changes_results=False,
  )


def count(minimum: float = 1) -> Callable:
  """Makes the check of a Python int; `-math.inf` accepts any."""
  return lambda name, value: checks.as_count(name, value, minimum)


def count_or_default(name: str, value) -> int:
  """Checks a positive Python int, or 0 where it stands for a default."""
  if isinstance(value, bool) or not isinstance(value, int) or value < 0:
    expected = 'a positive integer, or 0 for the default'
    raise SettingError(name, expected, repr(value))
  return value


def folder(name: str, value) -> str:
  """Checks the path of a folder."""
  return checks.as_folder(name, value)


def number(is_open: bool = True) -> Callable:
  """Makes the check of a positive number, or one that is not negative."""
  return lambda name, value: checks.as_float(name, value, 0.0, None, is_open)


def _text(name, value):
  checks.check_instance(name, value, str, 'a Python str')
  return value


def _switch(name, value):
  checks.check_bool(name, value)
  return value


def choice(options: Iterable[str]) -> Callable:
  """Makes the check of one of several names."""

  def check(name, value):
    if value not in options:
      raise SettingError(name, f'one of {", ".join(options)}', repr(value))
    return value

  return check


def _as_list(value):
  """Returns the parts of a comma list or list, or a single value, once each."""
  if isinstance(value, str):
    value = [x.strip() for x in value.split(',')]
  elif not isinstance(value, (list, tuple, range)):
    value = [value]
  return list(dict.fromkeys(value)) or ['']


def choices(options: Iterable[str], expected: str | None = None) -> Callable:
  """Makes the check of a list of names, or a comma list.

  Args:
    options: The names.
    expected: Python `str`: the words after "must be" in errors.
      Default value: `None` (i.e., a comma list of the options).

  Returns:
    check: Python callable, as in `setting`. The value becomes a tuple.
  """

  def check(name, value):
    values = tuple(_as_list(value))
    for one in values:
      if one not in options:
        raise SettingError(
          name, expected or f'a comma list of {", ".join(options)}', repr(one)
        )
    return values

  return check


def names(options: Iterable[str], default: tuple = ('all',), note: str = ''):
  """Makes the field of the cells to run, of which `'all'` stands for all.

  Args:
    options: The names.
    default: Tuple of Python `str`s.
      Default value: `('all',)`.
    note: Python `str`: further help.
      Default value: `''`.

  Returns:
    field: Field of a dataclass, as `setting` returns it.
  """
  expected = f'all, or a comma list of {", ".join(options)}'
  check = choices(options, expected)
  return setting(
    default,
    f'{expected}. {note}'.rstrip(),
    lambda name, value: (
      ('all',) if _as_list(value) == ['all'] else check(name, value)
    ),
    changes_results=False,
  )


def counts(minimum: int) -> Callable:
  """Makes the check of a list of integers, an integer, or a comma list.

  Args:
    minimum: Python `int`.

  Returns:
    check: Python callable, as in `setting`. The value becomes a tuple.
  """

  def check(name, value):
    values = _as_list(value)
    for one in values:
      is_text = isinstance(one, str) and one.isascii() and one.isdecimal()
      is_integer = isinstance(one, int) and not isinstance(one, bool)
      if not (is_text or is_integer) or int(one) < minimum:
        raise SettingError(
          name, f'a comma list of integers of at least {minimum}', repr(one)
        )
    return tuple(dict.fromkeys(map(int, values)))

  return check


def define_flags(settings_class: type[Settings]) -> None:
  """Defines a flag for each setting.

  Args:
    settings_class: Subclass of `Settings`.
  """
  define: dict[type, Callable] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
  }
  for field in dataclasses.fields(settings_class):
    default = field.metadata['flag_default']
    if isinstance(default, tuple):
      default = ','.join(map(str, default))
    define[type(default)](field.name, default, field.metadata['help'])


def with_settings(settings_class: type[Settings]) -> Callable:
  """Makes a function of settings take each setting as an argument.

  Args:
    settings_class: Subclass of `Settings`.

  Returns:
    decorator: Decorator of a function of one argument, an instance. The
      signature and the documentation of the result list the settings.
  """

  def decorate(run_fn):
    @functools.wraps(run_fn)
    def run(*args, **kwargs):
      return run_fn(settings_class(*args, **kwargs))

    run.__signature__ = inspect.signature(settings_class).replace(
      return_annotation=inspect.signature(run_fn).return_annotation
    )
    summary = inspect.cleandoc(run_fn.__doc__ or '')
    run.__doc__ = f'{summary}\n{_describe(settings_class)}'
    return run

  return decorate


_RETURNS = """
Returns:
  results: `tfp_nvi.experiments.common.Results`.

Raises:
  ValueError: If an argument is not as expected, a folder cannot be written or
    holds results of another configuration; before any compute.
  TypeError: If an argument is of the wrong kind.
  FloatingPointError: If a loss or a weight becomes NaN.
"""


def _describe(settings_class):
  """Returns the sections of a docstring after its summary."""
  lines = ['', 'Args:']
  for field in dataclasses.fields(settings_class):
    lines += textwrap.wrap(
      f'{field.name}: {field.metadata["help"]} Default value: '
      f'`{field.default!r}`.',
      width=80,
      initial_indent='  ',
      subsequent_indent='    ',
    )
  return '\n'.join(lines) + '\n' + _RETURNS

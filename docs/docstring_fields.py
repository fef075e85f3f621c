# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows the fields of named tuples as a list, as the site shows attributes."""

import re
from typing import Any

import griffe


class FieldsAreAttributes(griffe.Extension):
  """Renames the section of fields in docstrings."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Called for each class and function that was read."""
    del kwargs
    if obj.docstring is not None:
      obj.docstring.value = re.sub(
        r'^Fields:$', 'Attributes:', obj.docstring.value, flags=re.MULTILINE
      )

# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Experiments: each a program to run, and a function that a notebook can call.

Contract: nothing else in tfp_nvi imports from here, and importing an
experiment defines no flags, so that any number of them can be imported.

```shell
python -m tfp_nvi.experiments.annealing --help
```
"""

__all__ = []

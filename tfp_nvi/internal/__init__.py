# Copyright 2026 The tfp_nvi Authors.
# SPDX-License-Identifier: Apache-2.0
"""Helpers that the other packages share; users need none of them.

Nothing in this folder imports from outside of it.
"""

__all__: list = []

"""The operators of ONNX in PyTorch, one file for each group; a file's `OPERATORS` is its table."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from subbyte.models.onnx.operators.table import Operator, Table


@functools.cache
def operators() -> Table:
    """All operators by their names in ONNX; those of other domains as "domain::Name"."""
    found: Table = {}
    for module in pkgutil.iter_modules(__path__):
        code = importlib.import_module(f"{__name__}.{module.name}")
        found.update(getattr(code, "OPERATORS", {}))
    return found


__all__ = ["Operator", "operators"]

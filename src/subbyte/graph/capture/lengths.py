"""`len(tensor)` in a model's own code, which Python makes a fixed number."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

PLAIN = ("torch", "builtins")  # packages whose modules take any batch size as they are


@contextlib.contextmanager
def lengths_that_vary(model: nn.Module) -> Iterator[None]:
    """While this lasts, `len` of a tensor is its first dimension in the files of a model's classes.

    Python's own `len` gives whole numbers alone, so that a captured batch size becomes a constant.

    Args:
        model: The model, whose modules' files (and those of their base classes) are meant.
    """
    changed: list[ModuleType] = []
    try:
        for file in _files(model):
            if "len" not in vars(file):
                vars(file)["len"] = _length
                changed.append(file)
        yield
    finally:
        for file in changed:
            del vars(file)["len"]


def _files(model: nn.Module) -> list[ModuleType]:
    names = {kind.__module__ for part in model.modules() for kind in type(part).__mro__}
    own = sorted(name for name in names if name.split(".")[0] not in PLAIN)
    return [sys.modules[name] for name in own if name in sys.modules]


def _length(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dim():
        return value.shape[0]
    return builtins.len(value)

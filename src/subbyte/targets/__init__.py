"""Where files run: one file a target, which is there by being in this folder.

A runtime's file has what is peculiar to it: `load`, which returns a session, `version`, what
placement has to know of it (`HINTS`), and, where the files that it runs are not those for all
(`portable.py`), the rewrites that make them (`REWRITES`). This module imports neither PyTorch nor
ONNX.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subbyte.placement.placement import TargetHints

NO_RUNTIMES = {"base", "portable", "refusal"}


def names() -> tuple[str, ...]:
    """The runtimes there are: the files in this folder, without importing them."""
    modules = [module for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return tuple(sorted(module.name for module in modules if module.name not in NO_RUNTIMES))


def module(name: str) -> Any:
    """The file of a target, imported."""
    return importlib.import_module(f"{__name__}.{name}")


def hints() -> tuple[TargetHints, ...]:
    """What placement has to know of each runtime.

    A runtime without hints is given the file for all, in which everything is quantized.
    """
    from subbyte.placement.placement import TargetHints

    return tuple(
        getattr(module(name), "HINTS", TargetHints(name, quantized_results=True))
        for name in names()
    )

"""Where files run: one file a target, which is there by being in this folder.

A target's file has what is peculiar to it, and all of it is optional but `ABOUT`:

- `ABOUT`: what it can represent (`description.About`).
- `load` and `version`, where its files run here (`base.Runtime`).
- `HINTS`: what placement has to know of it.
- `REWRITES`: the rewrites that make its form of an exported graph, where the file for all
  (`portable.py`) is not what it runs, with `check(simulation)`, which refuses what they cannot
  represent, and `notes(path)`, what is said of a file; or `write`, where it makes files of its own
  (`files.Writer`), with `read_metadata` and `output_names` where these are not ONNX.
- `fitted` and `adjusted`: what it makes of a recipe and of a placement (`placing.py`).

This module imports neither PyTorch nor ONNX.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subbyte.placement.placement import TargetHints
    from subbyte.targets.description import About

NO_TARGETS = {"base", "description", "files", "listing", "placing", "portable", "refusal"}


def names() -> tuple[str, ...]:
    """The targets there are: the files in this folder, without importing them."""
    modules = [module for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return tuple(sorted(module.name for module in modules if module.name not in NO_TARGETS))


def module(name: str) -> Any:
    """The file of a target, imported."""
    return importlib.import_module(f"{__name__}.{name}")


def about(name: str) -> About:
    """What a target says of itself; one that says nothing reads the file for all."""
    from subbyte.targets.description import About

    found: About = getattr(module(name), "ABOUT", About(name))
    return found


def hints() -> tuple[TargetHints, ...]:
    """What placement has to know of each target.

    A target without hints is given the file for all, in which everything is quantized.
    """
    from subbyte.placement.placement import TargetHints

    return tuple(
        getattr(module(name), "HINTS", TargetHints(name, quantized_results=True))
        for name in names()
    )

"""Where models are deployed: one file a target, which is there by being in this folder.

A runtime's file has what is peculiar to it: `load`, `version`, a `Session`, and, where the files
that it runs are not those for all (`portable.py`), the rewrites that make them. This module names
the runtimes and imports none.
"""

from __future__ import annotations

import pkgutil

NO_RUNTIMES = {"base", "portable", "refusal"}


def names() -> tuple[str, ...]:
    """The runtimes there are: the files in this folder, without importing them."""
    modules = [module for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    return tuple(sorted(module.name for module in modules if module.name not in NO_RUNTIMES))

"""Which operators `torch.export` may keep whole, found once and not again for every graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import torch


@cache
def find_composites_once() -> None:
    """Keep the set of composite operators that `torch.export` looks for twice in every graph.

    They are looked for again when operators were registered meanwhile. Where another version finds
    them elsewhere, it goes on doing so.
    """
    with suppress(ImportError, AttributeError):
        _registered()
        find = _kept(import_module("torch._export.utils")._collect_all_valid_cia_ops)
        for name in ("torch.export.exported_program", "torch.export.decomp_utils"):
            module: Any = import_module(name)
            if hasattr(module, "_collect_all_valid_cia_ops"):
                module._collect_all_valid_cia_ops = find


def _kept(find: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    """`find`, which looks only where other operators are registered than the last time."""
    before: Any = None
    found: set[Any] = set()

    def composites() -> set[Any]:
        nonlocal before, found
        registered = _registered()
        if registered != before:
            found = find()
            before = _registered()  # to look for them registers more
        return found

    return composites


def _registered() -> tuple[Any, ...]:
    """The composite operators of the dispatcher, and how many names each namespace has."""
    spaces = [(name, getattr(torch.ops, name)) for name in torch.ops._dir if name != "aten"]
    composite = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
    return (composite, [(name, len(getattr(space, "_dir", ()))) for name, space in spaces])

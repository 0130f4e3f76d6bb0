"""What `torch.onnx.export` knows of its operators, read once and not again for every file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any


@cache
def read_operators_once() -> None:
    """Keep the registry of operators that the export makes anew for every file.

    It parses the source of hundreds of functions, which for a small model takes half of the time.
    Where another version of it keeps them elsewhere, it goes on doing so.
    """
    with suppress(ImportError, AttributeError):
        registration = import_module("torch.onnx._internal.exporter._registration")
        apis, registry = registration.onnxscript_apis, registration.ONNXRegistry
        apis.get_torchlib_ops = _unparsed(apis.get_torchlib_ops)
        if hasattr(registry(), "functions"):
            registry.from_torchlib = staticmethod(_copies(registry.from_torchlib))


def _unparsed(every: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    """`every` translation of an operator, without its source parsed, which the registry ignores."""

    def translations() -> list[Any]:
        with suppress(ImportError, AttributeError):
            import_module("onnxscript.function_libs.torch_lib.ops")  # they register themselves
            names = import_module("onnxscript.function_libs.torch_lib.registration")
            return [
                SimpleNamespace(qualified_name=name, function=function, is_complex=is_complex)
                for name, of_name in names.default_registry.items()
                if not name.startswith("internal::")
                for is_complex in (False, True)
                for function in (of_name.complex if is_complex else of_name.overloads)
            ]
        return every()

    return translations


def _copies(read: Callable[..., Any]) -> Callable[..., Any]:
    """`read`, called once for each opset; what it gives is a copy, since exports add to it."""
    kept = cache(read)

    def registry(*args: Any, **kwargs: Any) -> Any:
        own = copy(kept(*args, **kwargs))
        own.functions = {operator: list(found) for operator, found in own.functions.items()}
        return own

    return registry

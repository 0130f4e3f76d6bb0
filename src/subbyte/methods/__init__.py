"""The methods, one file each; a file's name is the method's name.

Each has `Options`, a pydantic model of the method's own options, and `apply(captured, batches,
options, *, loss=None, progress=None, resume=None)`, which sets grids, rounding offsets and biases
of a captured model and leaves its quantizers in state QUANTIZE. A method knows no layer type and no
runtime.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import BaseModel

from subbyte.data.batches import ArgumentsOf
from subbyte.errors import unknown
from subbyte.graph.captured import Captured
from subbyte.joint.network import Loss
from subbyte.progress import Progress
from subbyte.recipe import Choice, method_names

AUTO = "bias_correction"  # no training, and better than `range` at every width


class Method(Protocol):
    """What a file in this folder holds."""

    Options: type[BaseModel]

    def apply(
        self,
        captured: Captured,
        batches: ArgumentsOf,
        options: Any,
        *,
        loss: Loss | None = None,
        progress: Progress | None = None,
        resume: Path | None = None,
    ) -> None:
        """Quantize `captured` with the help of `batches`, the positional arguments of each.

        loss: how wrong outputs are by a batch's labels, for methods that look at labels.
        """


def resolve(choice: Choice) -> Choice:
    """The method that `auto` stands for; any other stands for itself.

    Raises:
        SubbyteError: There is no method of this name.
    """
    if choice.name not in method_names():
        raise unknown("method", choice.name, method_names())
    return Choice(AUTO, choice.options) if choice.name == "auto" else choice


def method(name: str) -> Method:
    """The method of this name, which must be one of `method_names()` other than `auto`."""
    return cast("Method", importlib.import_module(f"subbyte.methods.{name}"))

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
from subbyte.methods.scale_search.network import Loss
from subbyte.placement.simulation import Captured
from subbyte.recipe import Choice, Recipe, choice, method_names
from subbyte.utils.progress import Progress

# What `auto` stands for at 8 bits, where rounding to nearest is good enough, and below.
AT_8, BELOW_8 = "bias_correction", "subbyte"


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


def resolve(recipe: Recipe) -> Choice:
    """The method that a recipe asks for, with its options; for `auto` the one that suits its bits.

    Raises:
        SubbyteError: There is no method of this name.
    """
    asked = choice(recipe.method)
    if asked.name not in method_names():
        raise unknown("method", asked.name, method_names())
    if asked.name != "auto":
        return asked
    return Choice(BELOW_8 if (recipe.lowest_bits() or 8) < 8 else AT_8, asked.options)


def method(name: str) -> Method:
    """The method of this name, which must be one of `method_names()` other than `auto`."""
    return cast("Method", importlib.import_module(f"subbyte.methods.{name}"))

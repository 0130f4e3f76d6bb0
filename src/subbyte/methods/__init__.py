"""The methods, one file each; a file's name is the method's name.

Each has `Options`, a pydantic model of the method's own options, and `quantize(float_model,
placement, batches, options, context)`, which returns what it found as `QuantParams`. A method does
not ask what kind of layer a tensor belongs to, and knows no target. The folders beside are what
several methods are made of.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from pydantic import BaseModel

from subbyte.data.batches import ArgumentsOf
from subbyte.graph.float_model import FloatModel
from subbyte.methods.common.context import Context
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.placement import Placement
from subbyte.recipe import Choice, Recipe, choice, method_names, unknown_method

# What `auto` stands for at 8 bits, where rounding to nearest is good enough, and below.
AT_8, BELOW_8 = "bias_correction", "subbyte"


class Method(Protocol):
    """What a file in this folder holds."""

    Options: type[BaseModel]

    def quantize(
        self,
        float_model: FloatModel,
        placement: Placement,
        batches: ArgumentsOf,
        options: Any,
        context: Context,
    ) -> QuantParams:
        """Find the parameters of all that is placed.

        Args:
            float_model: The model; it is left as it is.
            placement: What is to be quantized.
            batches: The calibration images: the positional arguments of each batch, any number of
                times.
            options: The method's own.
            context: Seed, progress, labels' loss, and where finished work is kept.
        """


def resolve(recipe: Recipe, *, detector: bool = False) -> Choice:
    """The method that a recipe asks for, with its options; for `auto` the one that suits its bits.

    At 8 bits that also depends on the model: nearly all places are background to a detector, and
    what is right in the mean over them is not what keeps its objects.

    Args:
        recipe: The recipe.
        detector: Whether the model is a detector whose outputs are known.

    Raises:
        SubbyteError: There is no method of this name.
    """
    asked = choice(recipe.method)
    if asked.name not in method_names():
        raise unknown_method(asked.name)
    if asked.name != "auto":
        return asked
    options = {"judge_ranges": True, **asked.options}
    if (recipe.lowest_bits() or 8) < 8:
        return Choice(BELOW_8, options)
    if detector:
        return Choice(BELOW_8, {"steps": 0, **options})
    return Choice(AT_8, options)


def method(name: str) -> Method:
    """The method of this name, which must be one of `method_names()` other than `auto`."""
    return cast("Method", importlib.import_module(f"subbyte.methods.{name}"))

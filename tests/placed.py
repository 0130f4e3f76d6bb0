"""A model with a recipe's quantizers in place, before any of them has parameters."""

from __future__ import annotations

from typing import Any

from torch import nn

from subbyte import targets
from subbyte.api import capture
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.place import place
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Recipe


def placed(model: nn.Module, args: tuple[Any, ...], recipe: Recipe) -> Simulation:
    """The simulation of `model` in which everything passes in float."""
    float_model = capture(model, args, recipe.regions)
    placement = place(float_model, recipe, targets.hints())
    return simulate(float_model, placement, QuantParams())

"""Models that are placed and simulated without a method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from subbyte import api, targets
from subbyte.calibration.observe import activation_ranges, weight_ranges
from subbyte.graph.float_model import FloatModel
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.place import place
from subbyte.placement.placement import Placement
from subbyte.placement.simulation import Simulation, simulate
from subbyte.recipe import Recipe
from subbyte.utils.progress import Silent


def placed(module: nn.Module, args: tuple[Any, ...], **recipe: Any) -> tuple[FloatModel, Placement]:
    """A model as it is captured, and what a recipe (4 bits) quantizes of it."""
    asked = Recipe(**{"weights": 4, "activations": 4, **recipe})
    float_model = api.capture(module.eval(), args)
    return float_model, place(float_model, asked, targets.hints())


def with_weights(float_model: FloatModel, placement: Placement) -> Simulation:
    """The weights rounded to nearest, activations in float."""
    weights = weight_ranges(float_model, placement, Silent())
    return simulate(float_model, placement, QuantParams(weights))


def with_ranges(
    float_model: FloatModel, placement: Placement, batches: Iterable[tuple[Any, ...]]
) -> Simulation:
    """Everything rounded to nearest, by the ranges that the recipe asks for."""
    simulation = with_weights(float_model, placement)
    found, _ = activation_ranges(simulation, batches, Silent())
    for key, params in found.items():
        simulation.put(key, params)
    return simulation

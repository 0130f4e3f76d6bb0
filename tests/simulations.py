"""Simulations with parameters that no method has found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from subbyte.calibration.observe import activation_ranges, weight_ranges
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent


def with_weights(placed: Simulation) -> Simulation:
    """The same with weights rounded to nearest, and activations in float."""
    weights = weight_ranges(placed.float_model, placed.placement, Silent())
    return simulate(placed.float_model, placed.placement, QuantParams(weights))


def with_ranges(placed: Simulation, batches: Iterable[tuple[Any, ...]]) -> Simulation:
    """The same with everything rounded to nearest, by the ranges that the recipe asks for."""
    simulation = with_weights(placed)
    found, _ = activation_ranges(simulation, batches, Silent())
    for key, params in found.items():
        simulation.put(key, params)
    return simulation

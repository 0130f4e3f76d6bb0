"""A variant's entry in `results.json`, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.targets.onnx.sizes import whole_bytes

# What it means that a method has kept what it had, and what may help.
NOT_A_NUMBER = "not a number"
DIVERGED = "look for odd values in the calibration images and the weights, or give fewer steps"
LEFT = (
    "nothing is wrong, these layers are rounded to nearest; more calibration images may help, or "
    "more bits for them"
)
UNTUNED = (
    "nothing is wrong, the result of the layers fitted one by one stands; more calibration images, "
    "or images like those that are evaluated, may help"
)


def variant_entry(
    name: str, recipe: Recipe, quantized: Simulation, measured: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """A variant's entry in `results.json`, but for what it clips and its notes.

    Args:
        name: The variant's.
        recipe: The variant's.
        quantized: The simulation.
        measured: What was measured of it and its files.
        path: The file for all runtimes.
    """
    return {
        "name": name,
        "weights": recipe.weights,
        "activations": recipe.activations,
        "method": quantized.metadata["method"],
        **measured,
        "seconds": round(quantized.reported["seconds"], 3),
        "size_bytes": path.stat().st_size,
        "packed_bytes": packed_bytes(path, quantized),
        "ranges": recipe.ranges,
        "blocks": quantized.reported.get("blocks", []),
        "judged_ranges": quantized.reported.get("ranges"),
        "tuning": quantized.reported.get("tuning"),
        "output_correction": quantized.reported.get("output_correction"),
    }


def warnings_of(reported: Mapping[str, Any]) -> list[str]:
    """What a method has tried and not kept, and what a target takes otherwise, as sentences.

    Of what was not kept: why, what that means, what to do.

    Args:
        reported: As in `QuantParams`: blocks that were left rounded, a tuning that was not kept.
    """
    names: dict[str, list[str]] = {}  # why → layers
    for block in reported.get("blocks", []):
        if block["fell_back"]:
            names.setdefault(block["why"], []).append(block["block"])
    parts = [f"{', '.join(its)}, because {why}" for why, its in names.items()]
    means = DIVERGED if any(NOT_A_NUMBER in why for why in names) else LEFT
    found = [f"plain rounding was kept at {'; at '.join(parts)}: {means}"] if parts else []
    tuning = reported.get("tuning")
    if tuning is not None and not tuning["kept"]:
        means = DIVERGED if NOT_A_NUMBER in tuning["why"] else UNTUNED
        found.append(f"the network was not fine-tuned, because {tuning['why']}: {means}")
    correction = reported.get("output_correction")
    if correction is not None and not correction["kept"]:
        found.append(
            "the outputs' means were not corrected, because images held out lost by it: nothing is "
            "wrong, the result without the correction is the better one"
        )
    return [*found, *reported.get("target", ())]


def packed_bytes(path: Path, quantized: Simulation) -> int:
    """A file's size, were each weight as many bits as it has and nothing needed to unpack it."""
    saved = sum(
        quantized.weight(tensor).numel() * (8 - tensor.spec.bits) / 8
        for tensor, _ in quantized.weights()
    )
    return round(whole_bytes(path) - saved)

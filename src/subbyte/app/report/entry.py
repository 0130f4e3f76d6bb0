"""A variant's entry in `results.json`, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe


def variant_entry(
    name: str, recipe: Recipe, quantized: Simulation, measured: Mapping[str, Any], size: int
) -> dict[str, Any]:
    """A variant's entry in `results.json`, but for what it clips and its notes.

    Args:
        name: The variant's.
        recipe: The variant's.
        quantized: The simulation.
        measured: What was measured of it and its files.
        size: Of the file for all runtimes, in bytes.
    """
    return {
        "name": name,
        "weights": recipe.weights,
        "activations": recipe.activations,
        "method": quantized.metadata["method"],
        **measured,
        "seconds": round(quantized.reported["seconds"], 3),
        "size_bytes": size,
        "packed_bytes": packed_bytes(size, quantized),
        "ranges": recipe.ranges,
        "blocks": quantized.reported.get("blocks", []),
        "tuning": quantized.reported.get("tuning"),
        "output_correction": quantized.reported.get("output_correction"),
    }


def warnings_of(reported: Mapping[str, Any]) -> list[str]:
    """What a method has not done, as sentences with the reason.

    Args:
        reported: As in `QuantParams`: blocks that were left rounded, a tuning that was not kept.
    """
    names: dict[str, list[str]] = {}
    for block in reported.get("blocks", []):
        if block["fell_back"]:
            names.setdefault(block["why"], []).append(block["block"])
    parts = [f"not learned, because {why}: {', '.join(its)}" for why, its in names.items()]
    found = ["; ".join(parts)] if parts else []
    tuning = reported.get("tuning")
    if tuning is not None and not tuning["kept"]:
        found.append(f"not tuned, because {tuning['why']}")
    correction = reported.get("output_correction")
    if correction is not None and not correction["kept"]:
        found.append("the outputs' means are not corrected, because images held out lost by it")
    return found


def packed_bytes(size: int, quantized: Simulation) -> int:
    """A file's size, were each weight stored in as many bits as it has, not in 4 or 8."""
    saved = 0.0
    for tensor, _ in quantized.weights():
        bits = tensor.spec.bits
        saved += quantized.weight(tensor).numel() * ((4 if bits <= 4 else 8) - bits) / 8
    return round(size - saved)

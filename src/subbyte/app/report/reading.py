"""How to read a run's table: what its figures mean, and when a difference is chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Of a file with its simulation: below how many per cent something is odd.
AGREES = {"classification": 98, "detection": 95}
NORMAL = 1.96  # standard errors on either side of a 95 % interval


def reading(results: Mapping[str, Any]) -> list[str]:
    """Sentences below the table of a run.

    Args:
        results: What `results.json` holds.
    """
    if not results["variants"]:
        return []
    return [*_apart(results), *_BY_TASK.get(results["task"], lambda _: iter(()))(results)]


def _apart(results: Mapping[str, Any]) -> Iterator[str]:
    """For each runtime whose files are compared with another simulation, what that one has."""
    primary = results["primary_metric"]
    found: dict[str, list[str]] = {}
    for entry in results["variants"]:
        own = (entry.get("metrics") or {}).get(primary)
        for runtime, deployed in entry["deployed"].items():
            value = (deployed.get("simulated") or {}).get(primary)
            if value is not None and value != own:
                found.setdefault(runtime, []).append(f"{100 * value:.2f} for {entry['name']}")
    for runtime, values in found.items():
        yield (
            f"{runtime} runs files of its own, and agrees with the simulation of just these files, "
            f"whose {primary} % is {', '.join(values)}"
        )


def _of_classifiers(results: Mapping[str, Any]) -> Iterator[str]:
    primary = results["primary_metric"]
    yield (
        f"agree 98: 2 of 100 images got another class, so {primary} moved by 2 points at most; 97 "
        "and more usually costs less than half a point, 90 two or three points"
    )
    yield (
        "SQNR: 20 dB and more usually costs less than half a point, 12 dB two or three, below 10 "
        "dB more"
    )
    least = AGREES["classification"]
    yield (
        f"a runtime that agrees with the simulation on {least} and more computes the same: the "
        "rest are values at the edge between two integers; less may be a fault of the runtime"
    )
    known = [
        (entry["agreement_with_float"], entry["name"], entry.get("images"))
        for entry in results["variants"]
        if entry.get("agreement_with_float") is not None
    ]
    if known:
        agreement, name, images = min(known)
        images = images or results.get("simulation_images", results["evaluation_images"])
        points = 100 * chance(agreement, images)
        if points > 0:
            yield (
                f"chance: where {100 * agreement:.1f} agree, as of {name}, differences from float "
                f"of less than {points:.2f} points on {images} images tell nothing"
            )


def _of_detectors(results: Mapping[str, Any]) -> Iterator[str]:
    del results
    yield (
        "SQNR: 30 dB and more usually leaves AP as it is, 20 dB costs one to three points; agree "
        "counts detections of low scores too, which AP hardly does: of a runtime less than "
        f"{AGREES['detection']} is odd if its AP is not the simulation's"
    )


_BY_TASK = {"classification": _of_classifiers, "detection": _of_detectors}


def chance(agreement: float, images: int) -> float:
    """Half the 95 % interval of the difference of two accuracies on the same images.

    Where the two agree nothing changes; each of the others is right in one of them at most.

    Args:
        agreement: On which share of the images both give the same class.
        images: How many there are.
    """
    return NORMAL * math.sqrt(max(0.0, 1 - agreement) / images)

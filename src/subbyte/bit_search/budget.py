"""Which images search and which confirm, and whether what is lost is within the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from subbyte.bit_search.settings import Search
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics.paired import Paired

MOST_SEARCHING = 5000  # images on which every configuration is measured
FEWEST = 20  # images of each part
ROUNDING = 1e-9  # of a metric: just as much lost as may be is within the budget


@dataclass(frozen=True)
class Split:
    """The evaluation images, by their numbers, ascending.

    Attributes:
        searching: On which configurations are measured.
        confirming: On which the one that is chosen is measured, once.
    """

    searching: tuple[int, ...]
    confirming: tuple[int, ...]


def split(images: int, seed: int) -> Split:
    """Half of the images search, 5,000 at most; the others confirm.

    Args:
        images: How many there are.
        seed: Of the choice.

    Raises:
        SubbyteError: They are too few.
    """
    if images < 2 * FEWEST:
        raise SubbyteError(
            f"a search splits the evaluation images in two, and {images} are too few: give at "
            f"least {2 * FEWEST}"
        )
    order = np.random.default_rng(seed).permutation(images)
    count = min(images // 2, MOST_SEARCHING)
    parts = (tuple(sorted(int(i) for i in part)) for part in (order[:count], order[count:]))
    return Split(*parts)


def verdict(paired: Paired, search: Search, budget: float, unit: str = "points") -> dict[str, Any]:
    """What is said of a metric on the images that confirm, as plain data.

    Args:
        paired: The metric beside the float model's.
        search: What is asked for.
        budget: What may be lost, in the metric's own units.
        unit: Of what is lost; "points" are hundredths of the metric.
    """
    low, high = paired.interval()
    confidence = search.confidence
    upper = paired.lost if confidence is None else paired.upper(confidence)
    met = upper <= budget + ROUNDING
    needed = None
    if confidence is not None and not met:
        needed = paired.images_to_decide(budget, confidence)
    found: dict[str, Any] = {
        "float_metric": paired.before,
        "metric": paired.after,
        "lost": paired.lost,
        "interval": [low, high],
        "upper": upper,
        "images": paired.images,
        "budget": budget,
        "met": met,
        "images_to_decide": needed,
    }
    return {**found, "sentence": sentence(found, search, unit)}


def sentence(found: Mapping[str, Any], search: Search, unit: str = "points") -> str:
    """What was lost beside what was asked for, as "0.31 points lost (−0.1 to 0.7, 5,000 images)".

    Args:
        found: As `verdict` gives it.
        search: What is asked for.
        unit: Of what is lost.
    """
    factor = 100.0 if unit == "points" else 1.0
    low, high = (signed(factor * end, 1) for end in found["interval"])
    said = (
        f"{signed(factor * found['lost'], 2)} {unit} lost ({low} to {high}, "
        f"{found['images']:,} images), asked for {asked_for(found['budget'], search, unit)}"
    )
    if found["met"]:
        return said
    missed = factor * (found["upper"] - found["budget"])
    said += f": missed by {missed:.2g}"
    if search.confidence is None:
        return said
    needed = found["images_to_decide"]
    if needed is None:
        return said
    return f"{said}, because {found['images']:,} images are too few: about {needed:,} would decide"


def asked_for(budget: float, search: Search, unit: str = "points") -> str:
    """The budget as text.

    Args:
        budget: In the metric's own units.
        search: What is asked for.
        unit: Of what is lost.
    """
    factor = 100.0 if unit == "points" else 1.0
    text = f"{factor * budget:.3g}"
    if search.relative:
        text += f" ({search.max_drop:g} % of the float model's)"
    if search.confidence is not None:
        text += f" with {100 * search.confidence:g} % confidence"
    return text


def signed(value: float, digits: int) -> str:
    """A number with a minus sign as tables have it."""
    return f"{value:.{digits}f}".replace("-", "−")

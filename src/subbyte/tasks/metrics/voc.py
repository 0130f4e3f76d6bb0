"""Pascal VOC's metrics of detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics.detection import DetectionOutputs
from subbyte.tasks.metrics.matching import FOUND_IOU, Ranked, ranked


def metrics(outputs: DetectionOutputs, truth: Sequence[Objects]) -> dict[str, float | None]:
    """`VOC_AP50` and `VOC_AP50_11point`: the mean over the classes, at an IoU of 0.5, in [0, 1].

    Of the area below the curve of precision over recall, as from 2010 on, and of its precision at
    11 values of recall, as in 2007. Classes without objects do not count; `None` if there are none.
    """
    return {
        "VOC_AP50": _mean(per_class(outputs, truth)),
        "VOC_AP50_11point": _mean(per_class(outputs, truth, points=True)),
    }


def per_class(
    outputs: DetectionOutputs,
    truth: Sequence[Objects],
    *,
    points: bool = False,
    at_least: float = FOUND_IOU,
) -> dict[int, float]:
    """AP of each label of which there are objects on the images of `outputs`, in [0, 1].

    Difficult objects and crowds count neither as found nor as missed (Everingham et al. 2010,
    sections 3.4 and 4.2).

    Args:
        outputs: The detections.
        truth: What is on the images.
        points: The mean precision at 11 values of recall, else the area below the curve.
        at_least: The IoU from which on an object is found.
    """
    found = ranked(outputs, truth, at_least)
    average = eleven_points if points else area
    return {
        label: average(*curve(found.of(label))) for label, count in sorted(found.objects.items())
    }


def curve(found: Ranked) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection that counts."""
    matched = found.matched[found.counts]
    right = np.cumsum(matched)
    objects = max(sum(found.objects.values()), 1)
    return right / objects, right / np.arange(1, len(matched) + 1)


def area(recall: np.ndarray, precision: np.ndarray) -> float:
    """The area below the curve, each precision raised to the largest at as much recall or more."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * envelope).sum())


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """The mean over recalls 0, 0.1, …, 1 of the largest precision at as much recall or more."""
    # Steps of 0.1 are not exact, and a recall that is a step's value must reach it.
    reached = [precision[recall >= step / 10 - 1e-9] for step in range(11)]
    return float(np.mean([values.max() if values.size else 0.0 for values in reached]))


def _mean(values: dict[int, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None

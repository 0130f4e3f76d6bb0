"""Which objects quantization lost and gained, class by class and image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subbyte.tasks.metrics.detection import DetectionOutputs, matches, numbers_only
from subbyte.tasks.metrics.matching import FOUND_IOU

SHIFT_BINS = 40  # of changes of a score, from −1 to 1


@dataclass(frozen=True)
class Lost:
    """What became of the float model's detections on one image, from a score on.

    Attributes:
        lost: Places in the float model's detections of those that nothing matches.
        gained: Places in the variant's of those that match nothing.
        kept: Places of those that are matched, in the float model's and in the variant's.
        cost: The scores of what was lost and gained, and how far the others' moved, summed.
    """

    lost: np.ndarray
    gained: np.ndarray
    kept: tuple[np.ndarray, np.ndarray]
    cost: float


def lost_and_gained(
    reference: DetectionOutputs, outputs: DetectionOutputs, threshold: float
) -> tuple[DetectionOutputs, DetectionOutputs, list[Lost]]:
    """The detections of two models from a score on, and what differs on each image.

    Args:
        reference: The float model's detections.
        outputs: The variant's, on the same images.
        threshold: The score.
    """
    floats = numbers_only(reference)[0].above(threshold)
    others = numbers_only(outputs)[0].above(threshold)
    found = []
    for i, (first, second) in enumerate(matches(floats, others, FOUND_IOU)):
        lost = np.setdiff1d(np.arange(len(floats.scores[i])), first)
        gained = np.setdiff1d(np.arange(len(others.scores[i])), second)
        moved = np.abs(floats.scores[i][first] - others.scores[i][second])
        cost = floats.scores[i][lost].sum() + others.scores[i][gained].sum() + moved.sum()
        found.append(Lost(lost, gained, (first, second), float(cost)))
    return floats, others, found


def by_class(
    floats: DetectionOutputs,
    others: DetectionOutputs,
    found: Sequence[Lost],
    classes: Sequence[str],
) -> dict[str, Any]:
    """The same over all images, as plain data: of each class, and how scores moved.

    Args:
        floats: The float model's detections from the score on.
        others: The variant's.
        found: What differs on each image.
        classes: Their names, that of label 1 first.
    """
    labels = [*range(1, len(classes) + 1)]
    counts = {key: np.zeros(len(classes) + 1, np.int64) for key in ("detections", "lost", "gained")}
    shifts, shifted = [np.empty(0)], [np.empty(0, np.int64)]
    for i, one in enumerate(found):
        mine, theirs = one.kept
        for key, its in (
            ("detections", floats.labels[i]),
            ("lost", floats.labels[i][one.lost]),
            ("gained", others.labels[i][one.gained]),
        ):
            known = its[(its >= 1) & (its <= len(classes))]
            counts[key] += np.bincount(known, minlength=len(classes) + 1)
        shifts.append(others.scores[i][theirs].astype(np.float64) - floats.scores[i][mine])
        shifted.append(floats.labels[i][mine])
    moved, of = np.concatenate(shifts), np.concatenate(shifted)
    rows = []
    for label in labels:
        own = moved[of == label]
        row: dict[str, Any] = {key: int(its[label]) for key, its in counts.items()}
        row["score_shift"] = round(float(own.mean()), 5) if len(own) else None
        if row["detections"] or row["gained"]:
            rows.append({"class": classes[label - 1], **row})
    histogram, _ = np.histogram(moved, SHIFT_BINS, (-1, 1))
    return {"classes": rows, "score_shifts": {"low": -1, "high": 1, "counts": histogram.tolist()}}

"""Which detections find an object, taken in the order of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics.coco import truth_of
from subbyte.tasks.metrics.detection import DetectionOutputs, numbers_only, overlaps

FOUND_IOU = 0.5


@dataclass(frozen=True)
class Ranked:
    """Detections of all images together, the highest score first; and how many objects there are.

    Attributes:
        scores: (N,) float64.
        labels: (N,) int64.
        matched: (N,) bool, it finds an object that nothing before it has found.
        counts: (N,) bool, false where it falls on a crowd or a difficult object.
        objects: Label → number of objects that are neither.
    """

    scores: np.ndarray
    labels: np.ndarray
    matched: np.ndarray
    counts: np.ndarray
    objects: dict[int, int]

    def of(self, label: int) -> Ranked:
        """Those of one class alone."""
        own = self.labels == label
        arrays = (self.scores[own], self.labels[own], self.matched[own], self.counts[own])
        return Ranked(*arrays, {label: self.objects.get(label, 0)})


def ranked(
    outputs: DetectionOutputs, truth: Sequence[Objects], at_least: float = FOUND_IOU
) -> Ranked:
    """Which detections find an object, as Pascal VOC's evaluation decides.

    A detection belongs to the object of its class with which its IoU is largest. It finds it if
    that IoU is `at_least` and no detection of a higher score does; else it is wrong. One whose box
    or score is not a number is wrong and comes last.

    Args:
        outputs: The detections.
        truth: What is on the images.
        at_least: An IoU in (0, 1].
    """
    outputs, _ = numbers_only(outputs)
    scores, labels, matched, counts = [], [], [], []
    objects: dict[int, int] = {}
    for i, found in enumerate(truth_of(outputs, truth)):
        ignored = found.iscrowd | found.difficult
        for label, number in zip(
            *np.unique(found.labels[~ignored], return_counts=True), strict=True
        ):
            objects[int(label)] = objects.get(int(label), 0) + int(number)
        own = outputs.scores[i].astype(np.float64)
        order = np.argsort(-own, kind="stable")
        best, reached = _nearest(outputs.boxes[i][order], outputs.labels[i][order], found)
        right = reached >= at_least
        set_aside = right & ignored[best] if len(found) else np.zeros(len(order), bool)
        first = np.zeros(len(order), bool)
        taken = np.flatnonzero(right & ~set_aside)
        first[taken[np.unique(best[taken], return_index=True)[1]]] = True
        scores.append(own[order])
        labels.append(outputs.labels[i][order])
        matched.append(first)
        counts.append(~set_aside)
    joined = np.concatenate([np.empty(0), *scores])
    order = np.argsort(-joined, kind="stable")
    return Ranked(
        joined[order],
        np.concatenate([np.empty(0, np.int64), *labels])[order],
        np.concatenate([np.empty(0, bool), *matched])[order],
        np.concatenate([np.empty(0, bool), *counts])[order],
        objects,
    )


def _nearest(
    boxes: np.ndarray, labels: np.ndarray, found: Objects
) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the object of its class with the largest IoU, and that IoU."""
    if not len(found):
        return np.zeros(len(boxes), np.int64), np.zeros(len(boxes))
    ious = overlaps(boxes, found.boxes)
    ious[labels[:, None] != found.labels] = 0
    best = ious.argmax(1)
    return best, ious[np.arange(len(boxes)), best]

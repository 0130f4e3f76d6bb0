"""COCO's AP on images drawn with replacement, from one evaluation of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics.coco import Matched, matched
from subbyte.tasks.metrics.detection import DetectionOutputs
from subbyte.tasks.metrics.paired import Paired, paired_draws

RESAMPLES = 500  # of the images
RECALLS = np.linspace(0, 1, 101)


def paired_ap(
    before: DetectionOutputs,
    after: DetectionOutputs,
    truth: Sequence[Objects],
    classes: Sequence[str],
    seed: int = 0,
) -> Paired:
    """The AP of two detectors on the same images, and the error of what is lost.

    Args:
        before: The detections of the one that is compared with.
        after: Those of the other one.
        truth: The objects of at least these images.
        classes: Their names.
        seed: Of the draws.
    """
    first, second = (matched(found, truth, classes) for found in (before, after))
    values, draws = ap_draws(first, second, seed)
    if values is None:
        return paired_draws(np.nan, np.nan, draws, before.images)
    return paired_draws(*values, -draws, before.images)


def ap_draws(
    before: Matched, after: Matched, seed: int, resamples: int = RESAMPLES
) -> tuple[tuple[float, float] | None, np.ndarray]:
    """Two mean average precisions, and how they differ on images drawn with replacement.

    Args:
        before: The first model's detections.
        after: The second one's, on the same images in the same order.
        seed: Of the choice of images.
        resamples: How many choices of as many images.

    Returns:
        Both; `None` where there are no objects. And `after - before` of each choice with objects.
    """
    first, second = _Curves(before), _Curves(after)
    whole = np.ones(before.images, np.int64)
    values = first.average(whole), second.average(whole)
    if values[0] is None or values[1] is None:
        return None, np.empty(0)
    chance = np.random.default_rng(seed)
    changes = []
    for _ in range(resamples):
        chosen = chance.integers(0, before.images, before.images)
        counts = np.bincount(chosen, minlength=before.images)
        drawn = first.average(counts), second.average(counts)
        if drawn[0] is not None and drawn[1] is not None:
            changes.append(drawn[1] - drawn[0])
    return (values[0], values[1]), np.array(changes)


@dataclass(frozen=True)
class _Curve:
    """The detections of a class that count at some IoUs, the highest score first.

    Attributes:
        images: The image of each.
        right: For each of these IoUs, the places of those that find an object.
    """

    images: np.ndarray
    right: list[np.ndarray]


class _Curves:
    """Detections sorted once, for the AP of any choice of images."""

    def __init__(self, matched: Matched) -> None:
        bits = np.arange(matched.ious)[:, None]
        self.classes: list[tuple[np.ndarray, list[_Curve]]] = []
        for label in np.unique(matched.object_labels):
            own = np.flatnonzero(matched.labels == label)
            own = own[np.argsort(-matched.scores[own], kind="stable")]
            found = (matched.found[own] >> bits & 1).astype(bool)
            aside = (matched.set_aside[own] >> bits & 1).astype(bool)
            curves = []
            # At most IoUs the same ones are set aside, and counted together.
            for mask in {row.tobytes(): row for row in aside}.values():
                alike = (aside == mask).all(1)
                right = [np.flatnonzero(row[~mask]) for row in found[alike]]
                curves.append(_Curve(matched.image[own][~mask], right))
            self.classes.append((matched.object_images[matched.object_labels == label], curves))

    def average(self, counts: np.ndarray) -> float | None:
        """The mean over classes and IoUs, each image counted so many times."""
        values = []
        for objects, curves in self.classes:
            total = counts[objects].sum()
            if not total:
                continue
            for curve in curves:
                seen = counts[curve.images].cumsum()
                for places in curve.right:
                    right = counts[curve.images[places]].cumsum()
                    values.append(_precision(right, seen[places], total))
        return float(np.mean(values)) if values else None


def _precision(right: np.ndarray, seen: np.ndarray, objects: int) -> float:
    """The mean precision at 101 values of recall, as COCO computes it.

    Args:
        right: How many are right down to each that finds an object.
        seen: How many there are.
        objects: How many could be found.
    """
    precision = right / np.maximum(seen, 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, RECALLS)
    return float(precision[places[places < len(precision)]].sum() / len(RECALLS))

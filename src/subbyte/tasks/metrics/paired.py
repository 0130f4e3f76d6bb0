"""Two models on the same images: by how much a metric differs, and its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from subbyte.tasks.metrics.coco import Matched

RESAMPLES = 500  # of the images, for the interval of AP
RECALLS = np.linspace(0, 1, 101)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Change:
    """A metric of two models on the same images.

    Attributes:
        before: Of the first one, in [0, 1].
        after: Of the second one.
        low: Lower end of the 95 % interval of `after - before`.
        high: Its upper end.
        images: On how many images.
    """

    before: float
    after: float
    low: float
    high: float
    images: int


def share_change(before: np.ndarray, after: np.ndarray, confidence: float = CONFIDENCE) -> Change:
    """Two shares of right answers (Bonett and Price 2012, adjusted for pairs).

    Args:
        before: (images,) bool, of the first model.
        after: Of the second one, for the same images.
        confidence: In (0, 1).
    """
    images = len(before)
    lost = (np.count_nonzero(before & ~after) + 1) / (images + 2)
    gained = (np.count_nonzero(after & ~before) + 1) / (images + 2)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * math.sqrt((lost + gained - (gained - lost) ** 2) / (images + 2))
    low, high = gained - lost - half, gained - lost + half
    return Change(float(before.mean()), float(after.mean()), max(-1.0, low), min(1.0, high), images)


def ap_change(
    before: Matched,
    after: Matched,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Change | None:
    """Two mean average precisions; the interval is that of a bootstrap over images.

    Args:
        before: The first model's detections.
        after: The second one's, on the same images in the same order.
        confidence: In (0, 1).
        seed: Of the choice of images.
        resamples: How many choices of as many images, with replacement.

    Returns:
        `None` where there are no objects.
    """
    curves = [_Curves(matched) for matched in (before, after)]
    whole = np.ones(before.images, np.int64)
    values = [its.average(whole) for its in curves]
    if values[0] is None or values[1] is None:
        return None
    chance = np.random.default_rng(seed)
    changes = []
    for _ in range(resamples):
        chosen = chance.integers(0, before.images, before.images)
        counts = np.bincount(chosen, minlength=before.images)
        drawn = [its.average(counts) for its in curves]
        if drawn[0] is not None and drawn[1] is not None:
            changes.append(drawn[1] - drawn[0])
    outside = (1 - confidence) / 2
    low, high = np.quantile(changes, [outside, 1 - outside])
    return Change(values[0], values[1], float(low), float(high), before.images)


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


def paired(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of two lists of images' keys are of the same images: two index arrays.

    An image that is there several times is paired with as many of the other ones.
    """
    numbered = [_numbered(keys) for keys in (first, second)]
    places = {name: i for i, name in enumerate(numbered[1])}
    pairs = [(i, places[name]) for i, name in enumerate(numbered[0]) if name in places]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    return left, right


def _numbered(keys: np.ndarray) -> list[tuple[int, int]]:
    seen: dict[int, int] = {}
    found = []
    for key in keys.tolist():
        seen[key] = seen.get(key, -1) + 1
        found.append((key, seen[key]))
    return found

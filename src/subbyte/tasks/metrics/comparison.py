"""Two models on the same images: by how much a metric differs, and its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from subbyte.tasks.metrics.coco import Matched
from subbyte.tasks.metrics.coco_resampled import RESAMPLES, ap_draws

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
    values, draws = ap_draws(before, after, seed, resamples)
    if values is None:
        return None
    outside = (1 - confidence) / 2
    low, high = np.quantile(draws, [outside, 1 - outside])
    return Change(*values, float(low), float(high), before.images)


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

"""Changes of a metric on the same images, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from detection_helpers import random_set

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics import coco
from subbyte.tasks.metrics.comparison import ap_change, paired, share_change
from subbyte.tasks.metrics.detection import DetectionOutputs

CLASSES = ["a", "b", "c"]


def test_the_interval_of_a_share_is_that_of_bonett_and_price() -> None:
    before, after = np.ones(100, bool), np.ones(100, bool)
    after[:12] = False
    before[20:23] = False
    found = share_change(before, after)
    lost, gained = 13 / 102, 4 / 102
    half = 1.959964 * math.sqrt((lost + gained - (lost - gained) ** 2) / 102)
    assert (found.before, found.after, found.images) == (0.97, 0.88, 100)
    assert found.low == pytest.approx(gained - lost - half, abs=1e-6)
    assert found.high == pytest.approx(gained - lost + half, abs=1e-6)


def test_the_interval_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):  # a drop of 2 points: 4 % lost, 2 % gained, on 500 images
        kind = rng.choice(3, 500, p=[0.94, 0.04, 0.02])
        found = share_change(kind != 2, kind != 1)
        held += found.low <= -0.02 <= found.high
    assert 930 <= held <= 970


def drawn(
    outputs: DetectionOutputs, truth: Sequence[Objects], chosen: Sequence[int]
) -> tuple[DetectionOutputs, list[Objects]]:
    """Images as often as they were chosen, each time with a number of its own."""
    known = {found.image_id: found for found in truth}
    ids = outputs.image_ids[list(chosen)].tolist()
    numbered = [replace(known[key], image_id=i) for i, key in enumerate(ids)]
    taken = outputs.take(chosen)
    return replace(taken, image_ids=np.arange(len(ids))), numbered


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_what_was_matched_is_pycocotools_own(seed: int) -> None:
    truth, outputs = random_set(seed)
    found = coco.matched(outputs, truth, CLASSES)
    same = ap_change(found, found, resamples=5)
    assert same is not None
    exact = coco.metrics(outputs, truth, CLASSES).metrics["AP"]
    assert same.before == same.after == pytest.approx(exact)
    assert same.low == same.high == 0
    some = [7, 2, 9, 4]
    few = ap_change(found.take(some), found.take(some), resamples=1)
    assert few is not None
    assert few.before == pytest.approx(
        coco.metrics(*drawn(outputs, truth, some), CLASSES).metrics["AP"]
    )


def test_the_interval_of_ap_is_that_of_a_bootstrap_with_pycocotools() -> None:
    truth, outputs = random_set(5)
    worse = replace(outputs, boxes=tuple(boxes + 4 for boxes in outputs.boxes))
    both = [coco.matched(found, truth, CLASSES) for found in (outputs, worse)]
    found = ap_change(*both, resamples=60, seed=3)
    assert found is not None
    chance, changes = np.random.default_rng(3), []
    for _ in range(60):
        chosen = np.sort(chance.integers(0, outputs.images, outputs.images)).tolist()
        values = [
            coco.metrics(*drawn(its, truth, chosen), CLASSES).metrics["AP"]
            for its in (outputs, worse)
        ]
        changes.append(values[1] - values[0])
    low, high = np.quantile(changes, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    assert found.after < found.before


def test_without_objects_there_is_no_change() -> None:
    truth, outputs = random_set(0)
    empty = [replace(its.only(np.zeros(len(its), bool))) for its in truth]
    found = coco.matched(outputs, empty, CLASSES)
    assert ap_change(found, found) is None


def test_images_are_paired_by_their_keys_as_often_as_they_are_there() -> None:
    first, second = np.array([5, 7, 5, 9], np.uint64), np.array([9, 5, 1, 5, 5], np.uint64)
    left, right = paired(first, second)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 1), (2, 3), (3, 0)]

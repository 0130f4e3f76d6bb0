"""Objects lost and gained, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from subbyte.tasks.metrics.detection import DetectionOutputs
from subbyte.tasks.metrics.lost import by_class, lost_and_gained

BOX, NEAR, FAR = [0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]


def outputs(*images: list[tuple[list[int], float, int]]) -> DetectionOutputs:
    """Detections, each (box, score, label)."""
    parts = [
        [np.array([row[k] for row in image], np.float32) for k in range(3)] for image in images
    ]
    return DetectionOutputs(
        np.arange(len(images)),
        tuple(part[0].reshape(-1, 4) for part in parts),
        tuple(part[1] for part in parts),
        tuple(part[2].astype(np.int64) for part in parts),
    )


@pytest.fixture
def pair() -> tuple[DetectionOutputs, DetectionOutputs]:
    """On image 0 one is kept, one lost, one gained; on image 1 another class is seen."""
    floats = outputs([(BOX, 0.9, 1), (FAR, 0.6, 2), (FAR, 0.1, 1)], [(BOX, 0.8, 1)])
    others = outputs([(NEAR, 0.7, 1), (FAR, 0.55, 1), (FAR, 0.4, 2)], [(BOX, 0.75, 2)])
    return floats, others


def test_what_nothing_matches_is_lost_or_gained(
    pair: tuple[DetectionOutputs, DetectionOutputs],
) -> None:
    _, _, found = lost_and_gained(*pair, 0.5)
    assert [one.lost.tolist() for one in found] == [[1], [0]]
    assert [one.gained.tolist() for one in found] == [[1], [0]]
    assert [tuple(map(list, one.kept)) for one in found] == [([0], [0]), ([], [])]
    assert [one.cost for one in found] == pytest.approx([0.6 + 0.55 + 0.2, 0.8 + 0.75])


def test_classes_count_what_is_theirs(pair: tuple[DetectionOutputs, DetectionOutputs]) -> None:
    summed = by_class(*lost_and_gained(*pair, 0.5), ["cat", "dog", "never"])
    cat, dog = summed["classes"]
    assert cat == {"class": "cat", "detections": 2, "lost": 1, "gained": 1, "score_shift": -0.2}
    assert dog == {"class": "dog", "detections": 1, "lost": 1, "gained": 1, "score_shift": None}
    counts = summed["score_shifts"]["counts"]
    assert sum(counts) == 1
    low, width = -1, 2 / len(counts)
    place = counts.index(1)
    assert low + place * width <= -0.2 + 1e-6 <= low + (place + 1) * width + 1e-6


def test_detections_that_are_not_numbers_are_no_objects() -> None:
    floats = outputs([(BOX, 0.9, 1)])
    broken = outputs([(BOX, float("nan"), 1)])
    _, _, (found,) = lost_and_gained(floats, broken, 0.5)
    assert found.lost.tolist() == [0]
    assert found.gained.tolist() == []

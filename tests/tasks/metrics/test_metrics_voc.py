from __future__ import annotations

import numpy as np
import pytest
from detection_helpers import detected, objects, random_set

from subbyte.data.detection.listing import Objects
from subbyte.tasks.metrics import voc
from subbyte.tasks.metrics.detection import DetectionOutputs

A, B, C = (0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 90, 90)


def test_a_hand_worked_example() -> None:
    truth = [objects(1, [(1, A), (1, B)]), objects(2, [(1, C)])]
    outputs = detected({1: [(1, 0.9, A), (1, 0.8, C)], 2: [(1, 0.7, C)]})
    # Right, wrong, right of 3 objects: recall 1/3, 1/3, 2/3; precision 1, 1/2, 2/3.
    # Area: 1/3 · 1 + 1/3 · 2/3. Eleven points: 1 at 0 to 0.3, 2/3 at 0.4 to 0.6, then 0.
    assert voc.per_class(outputs, truth) == {1: pytest.approx(5 / 9)}
    assert voc.per_class(outputs, truth, points=True) == {1: pytest.approx(6 / 11)}


def test_a_second_detection_of_an_object_is_wrong() -> None:
    truth = [objects(1, [(1, A), (1, B)])]
    outputs = detected({1: [(1, 0.9, A), (1, 0.8, A), (1, 0.7, B)]})
    # Precision 1, 1/2, 2/3 at recalls 1/2, 1/2, 1: 1/2 + 1/2 · 2/3.
    assert voc.per_class(outputs, truth)[1] == pytest.approx(5 / 6)
    # 1 at 0 to 0.5, 2/3 at 0.6 to 1.
    assert voc.per_class(outputs, truth, points=True)[1] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_detection_belongs_to_the_object_that_it_covers_best() -> None:
    # The second lies on A best, which is taken, and with an IoU of 0.6 on the other: wrong in
    # Pascal VOC's evaluation (and right in COCO's).
    other = (0, 0, 10, 6)
    truth = [objects(1, [(1, A), (1, other)])]
    outputs = detected({1: [(1, 0.9, A), (1, 0.8, A)]})
    assert voc.per_class(outputs, truth)[1] == pytest.approx(0.5)


def test_difficult_objects_are_neither_found_nor_missed() -> None:
    truth = [objects(1, [(1, A), (1, B), (1, C)], difficult=[1])]
    outputs = detected({1: [(1, 0.9, B), (1, 0.8, A), (1, 0.7, C), (1, 0.6, B)]})
    assert voc.per_class(outputs, truth)[1] == pytest.approx(1)
    assert voc.per_class(outputs, truth, points=True)[1] == pytest.approx(1)
    none = voc.per_class(detected({1: [(1, 0.9, B)]}), [objects(1, [(1, B)], difficult=[0])])
    assert none == {}


def test_an_iou_of_one_half_is_enough() -> None:
    truth = [objects(1, [(1, (0, 0, 10, 10))])]
    for height, expected in ((5.01, 1), (4.99, 0)):
        outputs = detected({1: [(1, 0.9, (0, 0, 10, height))]})
        assert voc.per_class(outputs, truth)[1] == expected


def test_classes_are_distinguished_and_averaged() -> None:
    truth = [objects(1, [(1, A), (2, B)])]
    outputs = detected({1: [(1, 0.9, A), (1, 0.8, B), (3, 0.9, C)]})
    assert voc.per_class(outputs, truth) == {1: 1, 2: 0}
    assert voc.metrics(outputs, truth)["VOC_AP50"] == 0.5


def test_nothing_found_and_nothing_there() -> None:
    truth = [objects(1, [(1, A)]), objects(2, [])]
    assert voc.metrics(detected({1: [], 2: []}), truth) == {"VOC_AP50": 0, "VOC_AP50_11point": 0}
    nothing = voc.metrics(detected({2: [(1, 0.5, A)]}), truth)
    assert nothing == {"VOC_AP50": None, "VOC_AP50_11point": None}


def test_only_images_that_were_run_count() -> None:
    truth = [objects(1, [(1, A)]), objects(2, [(1, A)])]
    assert voc.metrics(detected({2: [(1, 0.5, A)]}), truth)["VOC_AP50"] == 1


def test_a_score_that_is_no_number_comes_last() -> None:
    truth = [objects(1, [(1, A)])]
    outputs = detected({1: [(1, float("nan"), C), (1, 0.5, A)]})
    assert voc.per_class(outputs, truth)[1] == 1


def by_the_book(outputs: DetectionOutputs, truth: list[Objects], label: int) -> float:
    """Area AP in plain loops, as Pascal VOC's development kit has it."""
    rows = [
        (float(score), i, box)
        for i in range(outputs.images)
        for box, score, own in zip(
            outputs.boxes[i].tolist(), outputs.scores[i], outputs.labels[i], strict=True
        )
        if own == label
    ]
    seen: set[tuple[int, int]] = set()
    marks = []
    for _, i, box in sorted(rows, key=lambda row: -row[0]):
        best, which = 0.0, -1
        for j, other in enumerate(truth[i].boxes.tolist()):
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if truth[i].labels[j] != label or width <= 0 or height <= 0:
                continue
            sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            iou = width * height / (sum(sizes) - width * height)
            if iou > best:
                best, which = iou, j
        if best >= 0.5 and truth[i].iscrowd[which]:
            continue
        marks.append(best >= 0.5 and (i, which) not in seen)
        if marks[-1]:
            seen.add((i, which))
    objects_there = sum(int(((t.labels == label) & ~t.iscrowd).sum()) for t in truth)
    total, right = 0.0, 0
    points = []
    for n, mark in enumerate(marks, 1):
        right += mark
        points.append((right / objects_there, right / n))
    before = 0.0
    for recall, _ in points:
        total += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_area_is_that_of_plain_loops(seed: int) -> None:
    truth, outputs = random_set(seed, 20)
    found = voc.per_class(outputs, truth)
    for label in (1, 2, 3):
        assert found[label] == pytest.approx(by_the_book(outputs, truth, label), abs=1e-12)


def test_the_curve_can_be_drawn() -> None:
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 0.75])
    assert voc.area(recall, precision) == pytest.approx(0.5 + 0.5 * 0.75)

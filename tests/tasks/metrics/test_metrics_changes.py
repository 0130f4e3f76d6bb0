from __future__ import annotations

import json

import numpy as np
import pytest
from detection_helpers import detected, objects, random_set

from subbyte.tasks.metrics.changes import best_f1, changes
from subbyte.tasks.metrics.detection import DetectionOutputs
from subbyte.tasks.metrics.matching import ranked

A, B, C, D = (0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 90, 90), (100, 100, 140, 140)
TRUTH = [objects(1, [(1, A), (1, B), (2, C), (2, D)])]
# By descending score: right, right, wrong, right, then wrong; D is never found.
# F1 with 1, 2, 3, 4, 5 of them: 2/5, 4/6, 4/7, 6/8, 6/9: the best is at 0.6.
ROWS = [(1, 0.9, A), (1, 0.8, B), (1, 0.7, D), (2, 0.6, C), (2, 0.1, A)]


def test_the_operating_point_is_where_f1_is_best() -> None:
    point = best_f1(ranked(detected({1: ROWS}), TRUTH))
    assert point is not None
    assert point == pytest.approx({"threshold": 0.6, "f1": 0.75, "precision": 0.75, "recall": 0.75})


def test_a_threshold_takes_all_of_an_equal_score() -> None:
    rows = [(1, 0.9, A), (1, 0.5, B), (1, 0.5, C), (2, 0.5, B)]
    point = best_f1(ranked(detected({1: rows}), [objects(1, [(1, A), (1, B)])]))
    # With 0.5 there are two right ones and two wrong ones (4/6), with 0.9 alone 2/3: the same.
    assert point is not None
    assert point["threshold"] == pytest.approx(0.9)
    assert point["f1"] == pytest.approx(2 / 3)


def test_nothing_changed() -> None:
    outputs = detected({1: ROWS})
    assert changes(outputs, outputs, TRUTH) == pytest.approx(
        {
            "threshold": 0.6, "f1": 0.75, "precision": 0.75, "recall": 0.75, "detections": 4,
            "images": 1, "lost": 0, "gained": 0, "score_shift": 0, "iou": 1,
            "threshold_for_recall": 0.6,
        }
    )  # fmt: skip


def test_a_hand_worked_change() -> None:
    # A keeps its score, B falls to 0.5 and loses half of its box's height less a little, the wrong
    # one at D is gone, C falls to 0.4; and there is a new one of label 2 at A with 0.65.
    now = [(1, 0.9, A), (1, 0.5, (20, 20, 40, 32)), (2, 0.4, C), (2, 0.65, A)]
    found = changes(detected({1: ROWS}), detected({1: now}), TRUTH)
    # From 0.6 on: float 4, of which only A is still there; the new one has no partner.
    assert found["lost"] == pytest.approx(3 / 4)
    assert found["gained"] == pytest.approx(1 / 4)
    # Partners at any score: A, B (IoU 0.6) and C.
    assert found["score_shift"] == pytest.approx((0 - 0.3 - 0.2) / 3)
    assert found["iou"] == pytest.approx((1 + 0.6 + 1) / 3)
    # The three objects that float finds are found again from 0.4 on.
    assert found["threshold_for_recall"] == pytest.approx(0.4)
    json.dumps(found)


def test_a_recall_that_is_out_of_reach() -> None:
    found = changes(detected({1: ROWS}), detected({1: ROWS[:2]}), TRUTH)
    assert found["threshold_for_recall"] is None
    assert found["lost"] == pytest.approx(0.5)


def test_all_is_lost() -> None:
    found = changes(detected({1: ROWS}), detected({1: []}), TRUTH)
    assert (found["lost"], found["gained"]) == (1, 0)
    assert found["score_shift"] is found["iou"] is found["threshold_for_recall"] is None


@pytest.mark.parametrize("rows", [[], [(1, 0.9, D)]])
def test_a_float_model_that_finds_nothing(rows: list[tuple[int, float, tuple[int, ...]]]) -> None:
    found = changes(detected({1: rows}), detected({1: ROWS}), TRUTH)
    assert (found.pop("detections"), found.pop("images")) == (0, 1)
    assert set(found.values()) == {None}


def test_what_is_no_number_is_lost() -> None:
    nan = float("nan")
    now = [(1, nan, A), (1, 0.8, B), (1, 0.7, D), (2, 0.6, (nan, 0, 1, 1))]
    found = changes(detected({1: ROWS}), detected({1: now}), TRUTH)
    assert (found["lost"], found["gained"]) == (0.5, 0)
    assert (found["score_shift"], found["iou"]) == (0, 1)


def test_scores_scaled_by_half_are_restored_by_half_the_threshold() -> None:
    truth, outputs = random_set(3, 30)
    halves = tuple(scores / np.float32(2) for scores in outputs.scores)
    half = DetectionOutputs(outputs.image_ids, outputs.boxes, halves, outputs.labels)
    found = changes(outputs, half, truth)
    # What reaches the recall first is the last right one from the threshold on.
    assert found["threshold"] is not None
    assert found["threshold_for_recall"] is not None
    same = changes(outputs, outputs, truth)["threshold_for_recall"]
    assert same is not None
    assert found["threshold_for_recall"] == pytest.approx(same / 2)
    assert found["iou"] == pytest.approx(1)

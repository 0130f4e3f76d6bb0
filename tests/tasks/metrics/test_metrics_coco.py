from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detection_helpers import detected, objects, random_set
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from subbyte.data.detection.listing import Objects, coco_form
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics import coco
from subbyte.tasks.metrics.detection import DetectionOutputs

CLASSES = ("a", "b", "c")
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
A, B = (0, 0, 10, 10), (20, 20, 60, 60)


def by_cocos_tools(
    folder: Path,
    truth: Sequence[Objects],
    outputs: DetectionOutputs,
    images: Sequence[int] | None = None,
) -> list[float]:
    """The six numbers as COCO's own page says to get them: from two JSON files."""
    (folder / "truth.json").write_text(json.dumps(coco_form(truth, CLASSES)))
    rows: list[dict[str, Any]] = [
        {"image_id": i, "category_id": label, "score": score,
         "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
        for i, boxes, scores, labels in zip(
            outputs.image_ids.tolist(), outputs.boxes, outputs.scores, outputs.labels, strict=True
        )
        for b, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(known, known.loadRes(str(folder / "results.json")), "bbox")
        if images is not None:
            evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_are_those_of_cocos_tools(tmp_path: Path, seed: int) -> None:
    truth, outputs = random_set(seed, 20)
    scores = coco.metrics(outputs, truth, CLASSES)
    expected = by_cocos_tools(tmp_path, truth, outputs)
    assert [scores.metrics[name] for name in NAMES] == pytest.approx(expected, abs=1e-12)
    assert 0 < expected[0] < 1
    assert scores.images == 20
    assert scores.notes == ()
    known = [value for value in scores.per_class.values() if value is not None]
    assert len(known) == 3
    assert np.mean(known) == pytest.approx(expected[0])


def test_half_of_the_images_are_counted_against_their_own_objects(tmp_path: Path) -> None:
    # A failure that this project began with: AP was halved because the images that were not run
    # counted as missed.
    truth = [objects(i, [(1, A), (2, B)]) for i in range(1, 9)]
    half = detected({i: [(1, 0.9, A), (2, 0.8, B)] for i in range(1, 5)})
    assert by_cocos_tools(tmp_path, truth, half)[0] == pytest.approx(0.5, abs=0.01)
    scores = coco.metrics(half, truth, CLASSES)
    assert scores.metrics["AP"] == pytest.approx(1)
    assert scores.images == 4


def test_an_image_without_detections_counts() -> None:
    truth = [objects(1, [(1, A)]), objects(2, [(1, A)])]
    scores = coco.metrics(detected({1: [(1, 0.9, A)], 2: []}), truth, CLASSES)
    # Recall is one half at a precision of 1: 51 of the 101 points of recall.
    assert scores.metrics["AP"] == pytest.approx(51 / 101)


def test_no_detections_at_all() -> None:
    scores = coco.metrics(detected({1: [], 2: []}), [objects(1, [(1, A)]), objects(2, [])], CLASSES)
    assert scores.metrics["AP"] == scores.metrics["AP50"] == scores.metrics["AP_small"] == 0
    assert scores.metrics["AP_large"] is None
    assert scores.per_class == {"a": 0, "b": None, "c": None}
    assert scores.notes == ("no detections at all on 2 images: AP is 0",)
    json.dumps(scores.metrics, allow_nan=False)


def test_no_objects_at_all() -> None:
    scores = coco.metrics(detected({1: [(1, 0.5, A)]}), [objects(1, [])], CLASSES)
    assert set(scores.metrics.values()) == {None}
    assert scores.notes == ("no objects at all on 1 images: there is no AP",)


def test_sizes_are_those_of_coco() -> None:
    small, medium, large = (0, 0, 31, 31), (50, 0, 83, 33), (0, 90, 97, 187)
    truth = [objects(1, [(1, small), (1, medium), (1, large)])]
    found = coco.metrics(detected({1: [(1, 0.9, small), (1, 0.8, large)]}), truth, CLASSES).metrics
    assert found["AP_small"] == pytest.approx(1)
    assert found["AP_medium"] == 0
    assert found["AP_large"] == pytest.approx(1)


def test_crowds_and_difficult_objects_are_neither_found_nor_missed() -> None:
    truth = [objects(1, [(1, A), (1, B), (1, (70, 70, 90, 90))], crowd=[1], difficult=[2])]
    alone = coco.metrics(detected({1: [(1, 0.5, A)]}), truth, CLASSES).metrics
    assert alone["AP"] == pytest.approx(1)
    within = [(1, 0.9, (20, 20, 40, 40)), (1, 0.8, (30, 30, 60, 60)), (1, 0.7, (70, 70, 90, 90))]
    found = coco.metrics(detected({1: [*within, (1, 0.5, A)]}), truth, CLASSES).metrics
    assert found["AP"] == pytest.approx(1)
    # A difficult object is set aside once; a crowd holds any number.
    twice = [(1, 0.9, (70, 70, 90, 90)), (1, 0.8, (70, 70, 90, 90)), (1, 0.5, A)]
    assert coco.metrics(detected({1: twice}), truth, CLASSES).metrics["AP"] == pytest.approx(0.5)


def test_what_is_not_a_number_finds_nothing() -> None:
    nan, inf = float("nan"), float("inf")
    truth = [objects(1, [(1, A), (1, B)])]
    rows = [(1, 0.9, (nan, nan, nan, nan)), (1, 0.8, A), (1, nan, B), (1, inf, B)]
    scores = coco.metrics(detected({1: rows}), truth, CLASSES)
    # Wrong and last, right, wrong and last, twice: precision 1 at a recall of one half.
    assert scores.metrics["AP"] == pytest.approx(51 / 101)
    assert scores.notes == ("detections that are not numbers, counted as wrong: 3",)


def test_labels_that_are_not_classes_are_reported() -> None:
    truth = [objects(1, [(1, A)])]
    scores = coco.metrics(detected({1: [(0, 0.9, A), (4, 0.9, A), (1, 0.5, A)]}), truth, CLASSES)
    assert scores.metrics["AP"] == pytest.approx(1)
    assert scores.notes == (
        "detections with labels that are none of the 3 classes, which count nowhere: 2",
    )


def test_only_the_100_best_of_an_image_count(tmp_path: Path) -> None:
    wrong = [(1, 0.9, (100, 100, 110, 110))] * 100
    truth = [objects(1, [(1, A)])]
    outputs = detected({1: [*wrong, (1, 0.5, A)]})
    assert coco.metrics(outputs, truth, CLASSES).metrics["AP"] == 0
    assert by_cocos_tools(tmp_path, truth, outputs)[0] == 0


def test_images_nobody_knows() -> None:
    with pytest.raises(SubbyteError, match="nothing is known of what is on image 2"):
        coco.metrics(detected({1: [], 2: []}), [objects(1, [])], CLASSES)
    with pytest.raises(SubbyteError, match="two images have the same image_id"):
        coco.metrics(detected({1: []}), [objects(1, []), objects(1, [])], CLASSES)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coco.metrics(detected({1: []}), [objects(1, [(1, A)])], CLASSES)
    assert capsys.readouterr().out == ""

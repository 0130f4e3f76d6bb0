"""Thresholds, suppression and limits, beside torchvision's functions for one image."""

from __future__ import annotations

import pytest
import torch
import torchvision

from subbyte.detection import Outputs
from subbyte.detectors.raw.select import select


def boxes_and_scores(count: int = 60, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of boxes that overlap."""
    corners = torch.rand(2, count, 2) * 40
    boxes = torch.cat([corners, corners + 10 + 20 * torch.rand(2, count, 2)], -1)
    return boxes, torch.rand(2, count, classes) ** 3


def by_torchvision(
    boxes: torch.Tensor, scores: torch.Tensor, floor: float, iou: float, count: int
) -> tuple[torch.Tensor, ...]:
    """Boxes, scores and labels of one image."""
    rows, classes = torch.nonzero(scores > floor).T
    found = scores[rows, classes]
    kept = torchvision.ops.batched_nms(boxes[rows], found, classes, iou)[:count]
    return boxes[rows][kept], found[kept], classes[kept] + 1


@pytest.mark.parametrize(("floor", "iou", "count"), [(0.05, 0.5, 100), (0.001, 0.65, 20)])
def test_boxes_of_a_class_suppress_each_other(floor: float, iou: float, count: int) -> None:
    boxes, scores = boxes_and_scores()
    outputs = Outputs(form="decoded", score=floor, nms=iou, after=count)
    found = select(outputs, boxes, scores)
    for i in range(2):
        expected = by_torchvision(boxes[i], scores[i], floor, iou, count)
        number = int(found[3][i])
        assert number == len(expected[1])
        for one, two in zip(found[:3], expected, strict=True):
            assert torch.equal(one[i, :number], two)
            assert not one[i, number:].any()


@pytest.mark.parametrize("before", [10, 50])
def test_only_the_highest_scores_are_looked_at(before: int) -> None:
    """Whether or not boxes are looked for first, of which there are 60."""
    boxes, scores = boxes_and_scores()
    found = select(Outputs(form="decoded", score=0.001, nms=0.5, before=before), boxes, scores)
    for i in range(2):
        least = float(scores[i].flatten().topk(before).values[-1])
        expected = by_torchvision(boxes[i], scores[i] * (scores[i] >= least), 0.001, 0.5, 300)
        number = int(found[3][i])
        assert 0 < number == len(expected[1]) <= before
        for one, two in zip(found[:3], expected, strict=True):
            assert torch.equal(one[i, :number], two)


def test_without_suppression_the_highest_scores_of_all_classes_come_out() -> None:
    boxes, scores = boxes_and_scores()
    for outputs in (
        Outputs(form="decoded", nms=None, after=7, score=0.0),
        Outputs(form="queries", top=7, score=0.0),
    ):
        found, best, labels, count = select(outputs, boxes, scores)
        expected, places = scores.flatten(1).topk(7, 1)
        assert torch.equal(best, expected)
        assert torch.equal(labels, places % 3 + 1)
        assert torch.equal(found[0, 0], boxes[0, places[0, 0] // 3])
        assert count.tolist() == [7, 7]


def test_a_query_with_a_softmax_is_one_object() -> None:
    boxes, scores = boxes_and_scores(4)
    outputs = Outputs(form="queries", activation="softmax", top=3, score=0.01)
    _, best, labels, _ = select(outputs, boxes, scores)
    expected, classes = scores[0].max(-1)
    order = expected.argsort(descending=True)[:3]
    assert torch.equal(best[0], expected[order] * (expected[order] > 0.01))
    assert torch.equal(labels[0], (classes[order] + 1) * (expected[order] > 0.01))


def test_scores_up_to_the_threshold_are_left_out() -> None:
    boxes = torch.tensor([[[0.0, 0, 4, 4], [10, 10, 14, 14]]])
    scores = torch.tensor([[[0.5], [0.25]]])
    for outputs in (
        Outputs(form="decoded", score=0.25),
        Outputs(form="decoded", score=0.25, nms=None),
        Outputs(form="queries", score=0.25, activation="softmax"),
    ):
        found = select(outputs, boxes, scores)
        assert found[3].tolist() == [1]
        assert found[1][0, :2].tolist() == [0.5, 0]
        assert found[0].shape[1] == outputs.limit

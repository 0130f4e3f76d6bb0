"""Boxes worked out by hand, one number after the other."""

from __future__ import annotations

import math

import pytest
import torch

from subbyte.detection import Outputs
from subbyte.detectors.raw import decode

SIZE = (32, 64)  # of strides 16 and 32: 2 × 4 and 1 × 2 cells


def at(cell: int, values: list[float], cells: int = 8) -> torch.Tensor:
    """One level [1, cells, columns] in which one cell has numbers."""
    rows = torch.zeros(1, cells, len(values))
    rows[0, cell] = torch.tensor(values)
    return rows


def of_one(outputs: Outputs, rows: torch.Tensor, cell: int) -> tuple[list[float], list[float]]:
    boxes, scores = decode(outputs, rows, SIZE)
    return boxes[0, cell].tolist(), scores[0, cell].tolist()


def test_yolox() -> None:
    """Cell (x 2, y 1) of stride 16: centre (2.5, 0.75 + 1) · 16, sides 2 · 16 and 0.5 · 16."""
    outputs = Outputs(form="levels", box="yolox", strides=[16], activation="none")
    rows = at(6, [0.5, 0.75, math.log(2), math.log(0.5), 0.5, 0.25, 0.75])
    box, scores = of_one(outputs, rows, 6)
    assert box == pytest.approx([40 - 16, 28 - 4, 40 + 16, 28 + 4])
    assert scores == pytest.approx([0.125, 0.375])


def test_anchors() -> None:
    """σ(0) = 0.5: centre 0.5 behind the cell's corner, sides those of the anchor.

    Two anchors of 8 cells: row 8 + 6 is the second anchor's at (x 2, y 1). With σ = 0.75 the
    centre is (2 · 0.75 − 0.5) = 1 further, the sides are 2.25 times those of the anchor.
    """
    outputs = Outputs(
        form="levels", box="anchors", strides=[16], anchors=[[10, 20, 4, 8]], objectness=False
    )
    up = math.log(3)  # σ(log 3) = 0.75
    rows = at(14, [0, up, 0, up, 0.0], cells=16)
    box, scores = of_one(outputs, rows, 14)
    assert box == pytest.approx([40 - 2, 32 - 9, 40 + 2, 32 + 9])
    assert scores == pytest.approx([0.5])
    first, _ = of_one(outputs, rows, 0)
    assert first == pytest.approx([8 - 5, 8 - 10, 8 + 5, 8 + 10])


@pytest.mark.parametrize(
    ("point", "x", "y"), [("centre", 40, 24), ("corner", 32, 16), ("half", 39.5, 23.5)]
)
def test_distances(point: str, x: float, y: float) -> None:
    """Distances of 1, 2, 0.5 and 0.25 strides from each kind of point."""
    outputs = Outputs(form="levels", strides=[16], bins=1, point=point)
    box, _ = of_one(outputs, at(6, [1, 2, 0.5, 0.25, 0.0]), 6)
    assert box == pytest.approx([x - 16, y - 32, x + 8, y + 4])


def test_distributions_of_distances() -> None:
    """The mean over 0, 1, 2: of equal logits 1; of (1 : 0 : 3) shares 0.25 · 0 + 0.75 · 2."""
    outputs = Outputs(form="levels", strides=[16], bins=3)
    skewed = [0.0, -1e9, math.log(3)]
    box, _ = of_one(outputs, at(6, [*[0.0] * 3, *skewed, *[0.0] * 3, *skewed, 0.0]), 6)
    assert box == pytest.approx([40 - 16, 24 - 24, 40 + 16, 24 + 24], abs=1e-4)


@pytest.mark.parametrize(
    ("box", "values"),
    [
        ("cxcywh", [20, 12, 8, 4]),
        ("xywh", [16, 10, 8, 4]),
        ("xyxy", [16, 10, 24, 14]),
    ],
)
def test_decoded_boxes(box: str, values: list[float]) -> None:
    outputs = Outputs(form="decoded", box=box, classes=1)
    assert of_one(outputs, at(3, [*values, 0.5]), 3) == ([16, 10, 24, 14], [0.5])
    shares = [value / side for value, side in zip(values, [64, 32] * 2, strict=True)]
    relative = Outputs(form="decoded", box=box, unit="relative", classes=1)
    found, _ = of_one(relative, at(3, [*shares, 0.5]), 3)
    assert found == pytest.approx([16, 10, 24, 14])


def test_queries_are_shares_of_the_image_by_default() -> None:
    logits, boxes = torch.zeros(1, 5, 3), torch.tensor([0.5, 0.25, 0.25, 0.5]).expand(1, 5, 4)
    found, scores = decode(Outputs(form="queries"), (logits, boxes), SIZE)
    assert found[0, 0].tolist() == [32 - 8, 8 - 8, 32 + 8, 8 + 8]
    assert scores[0, 0].tolist() == [0.5] * 3


def test_detections_are_boxes_with_a_score_and_a_class() -> None:
    rows = torch.tensor([[[16.0, 10, 24, 14, 0.75, 2], [0, 0, 8, 8, 0.5, 0]]])
    boxes, scores = decode(Outputs(form="detections", classes=3), rows, SIZE)
    assert torch.equal(boxes, rows[..., :4])
    assert scores.tolist() == [[[0, 0, 0.75], [0.5, 0, 0]]]


def test_scores_by_each_activation() -> None:
    values = [0.0, 0.0, 1.0, 1.0, 0.0, math.log(3), math.log(4)]

    def scores(**keys: str) -> list[float]:
        return of_one(Outputs(form="decoded", classes=None, **keys), at(3, values), 3)[1]

    assert scores(activation="none") == pytest.approx([0, math.log(3), math.log(4)])
    assert scores(activation="sigmoid") == pytest.approx([0.5, 0.75, 0.8])
    assert scores(activation="softmax") == pytest.approx([1 / 8, 3 / 8, 4 / 8])
    assert scores(activation="softmax", background="last") == pytest.approx([1 / 8, 3 / 8])
    assert scores(activation="softmax", background="first") == pytest.approx([3 / 8, 4 / 8])


def test_all_that_is_computed_has_a_gradient_and_nothing_is_written_to() -> None:
    for keys, columns in [
        ({"form": "levels", "box": "yolox"}, 8),
        ({"form": "levels", "bins": 4}, 18),
        ({"form": "levels", "bins": 1, "point": "half"}, 6),
        ({"form": "decoded", "activation": "softmax"}, 7),
    ]:
        outputs = Outputs(**keys, **({"strides": [16]} if keys["form"] == "levels" else {}))
        rows = torch.randn(2, 8, columns, dtype=torch.float64, requires_grad=True)
        before = rows.detach().clone()

        def both(x: torch.Tensor, outputs: Outputs = outputs) -> torch.Tensor:
            return torch.cat(decode(outputs, x, SIZE), -1)

        assert torch.autograd.gradcheck(both, (rows,))
        assert torch.equal(rows.detach(), before)

"""The same numbers in every layout in which networks give them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subbyte.detection import Outputs
from subbyte.detectors.raw import decode
from subbyte.errors import SubbyteError

SIZE = (40, 64)  # of strides 8, 16 and 32: 5 × 8, 3 × 4 (cut off) and 2 × 2 cells
GRIDS = ((5, 8), (3, 4), (2, 2))
N = 2


def maps(columns: int, seed: int = 0) -> list[torch.Tensor]:
    """[N, columns, height, width] of each stride."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(N, columns, h, w, generator=generator) for h, w in GRIDS]


def vectors(levels: list[torch.Tensor]) -> list[torch.Tensor]:
    return [level.flatten(2).transpose(1, 2) for level in levels]


def check_same(outputs: Outputs, *raws: Any, size: tuple[int, int] = SIZE) -> None:
    first, *others = (decode(outputs, raw, size) for raw in raws)
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "keys", [{"box": "yolox"}, {"bins": 4}, {"bins": 4, "order": "classes", "classes": 3}]
)
def test_levels_are_maps_or_vectors_or_one(keys: dict[str, Any]) -> None:
    outputs = Outputs(form="levels", **keys)
    levels = maps(outputs.width + outputs.has_objectness + 3)
    rows = vectors(levels)
    whole = torch.cat(rows, 1)
    check_same(
        outputs,
        levels,
        [level.permute(0, 2, 3, 1) for level in levels],
        rows,
        [x.transpose(1, 2) for x in rows],
        whole,
        {"all": whole.transpose(1, 2)},
        [levels[2], levels[0], levels[1]],
    )


@pytest.mark.parametrize("classes", [4, 8, 16])
@pytest.mark.parametrize("apart", [False, True])
def test_lengths_that_are_alike_by_chance_are_told_by_the_other_tensors(
    classes: int, apart: bool
) -> None:
    # 8 × 8, 4 × 4 and 2 × 2 cells: 8 classes are as many as cells in a row, and 16 as a level's.
    outputs = Outputs(form="levels", bins=1, classes=classes)
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(N, 4 + classes, side, side, generator=generator) for side in (8, 4, 2)]
    expected = decode(outputs, torch.cat(vectors(whole), 1), (64, 64))
    levels = [x for y in whole for x in ((y[:, :4], y[:, 4:]) if apart else (y,))]
    for raw in (
        levels,
        [level.permute(0, 2, 3, 1) for level in levels],
        [level.flatten(2) for level in levels],
        vectors(levels),
    ):
        for one, two in zip(expected, decode(outputs, raw, (64, 64)), strict=True):
            torch.testing.assert_close(one, two)


def test_boxes_and_classes_come_apart_in_any_order() -> None:
    outputs = Outputs(form="levels", bins=4)
    levels = maps(16 + 3)
    boxes, classes = ([x[:, :16] for x in levels], [x[:, 16:] for x in levels])
    check_same(
        outputs,
        levels,
        (boxes, classes),
        classes + vectors(boxes),
        [x for pair in zip(boxes, classes, strict=True) for x in pair],
        [torch.cat(vectors(classes), 1), torch.cat(vectors(boxes), 1)],
    )


def test_objectness_comes_apart_too() -> None:
    outputs = Outputs(form="levels", box="yolox")
    levels = maps(4 + 1 + 3)
    boxes, objectness, classes = ([x[:, s] for x in levels] for s in (slice(4), [4], slice(5, 8)))
    joined = [torch.cat(pair, 1) for pair in zip(boxes, objectness, strict=True)]
    check_same(outputs, levels, boxes + objectness + classes, classes + boxes + objectness)
    check_same(outputs, levels, joined + classes)


def test_where_shapes_do_not_tell_the_order_does() -> None:
    """Four classes and four distances."""
    boxes, classes = vectors(maps(4)), vectors(maps(4, seed=1))
    first = decode(Outputs(form="levels", bins=1), boxes + classes, SIZE)
    keys = {"form": "levels", "bins": 1, "order": "classes"}
    second = decode(Outputs(**keys), classes + boxes, SIZE)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_maps_of_anchors_are_read_as_yolov5_gives_them() -> None:
    """Three anchors: [N, 3 · columns, h, w], [N, 3, h, w, columns], vectors, or one of all."""
    outputs = Outputs(form="levels", box="anchors")
    levels = maps(3 * 8)
    fives = [x.view(N, 3, 8, *x.shape[2:]).permute(0, 1, 3, 4, 2) for x in levels]
    rows = [x.reshape(N, -1, 8) for x in fives]
    check_same(outputs, levels, fives, rows, torch.cat(rows, 1))
    boxes, _ = decode(outputs, fives, SIZE)
    width, height = 16.0, 30.0  # the second anchor of stride 8, at row 2 and column 3
    x, y, w, h = (2 * fives[0][0, 1, 2, 3, :4].sigmoid()).tolist()
    centre, half = ((x - 0.5 + 3) * 8, (y - 0.5 + 2) * 8), (w * w * width / 2, h * h * height / 2)
    expected = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
    assert boxes[0, 40 + 2 * 8 + 3].tolist() == pytest.approx(expected)


def test_channels_last_maps_of_anchors() -> None:
    """The boxes of one cell follow each other, and get their own anchors."""
    outputs = Outputs(form="levels", box="anchors")
    levels = maps(3 * 8)
    first, scores = decode(outputs, levels, SIZE)
    other, others = decode(outputs, [x.permute(0, 2, 3, 1) for x in levels], SIZE)
    start = 0
    for height, width in GRIDS:
        of_level = slice(start, start + 3 * height * width)
        for one, two in ((first, other), (scores, others)):
            by_cell = one[:, of_level].view(N, 3, height * width, -1).transpose(1, 2)
            torch.testing.assert_close(by_cell.reshape(N, 3 * height * width, -1), two[:, of_level])
        start = of_level.stop


def test_decoded_rows_or_their_transpose_or_apart() -> None:
    rows = torch.rand(N, 30, 4 + 6)
    outputs = Outputs(form="decoded")
    boxes, scores = rows[..., :4], rows[..., 4:]
    check_same(
        outputs,
        rows,
        rows.transpose(1, 2),
        (boxes, scores),
        {"scores": scores.transpose(1, 2), "boxes": boxes.unsqueeze(2)},
    )
    few = torch.rand(N, 5, 4 + 6)  # fewer boxes than columns
    check_same(Outputs(form="decoded", classes=6), few, few.transpose(1, 2))
    with_objectness = Outputs(form="decoded", objectness=True)
    parts = (rows[..., :4], rows[..., 4:5], rows[..., 5:])
    check_same(with_objectness, rows, parts, (parts[0], parts[2], parts[1]))


def test_queries_in_one_tensor_or_in_two() -> None:
    logits, boxes = torch.randn(N, 10, 6), torch.rand(N, 10, 4)
    outputs = Outputs(form="queries")
    check_same(outputs, (logits, boxes), (boxes, logits), torch.cat([boxes, logits], -1))
    four = torch.randn(N, 10, 4)  # four classes: logits come first, as in DETR
    keys = {"form": "queries", "order": "boxes"}
    first = decode(outputs, (four, boxes), SIZE)
    second = decode(Outputs(**keys), (boxes, four), SIZE)
    assert torch.equal(first[1], four.sigmoid())
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_some_outputs_are_taken_by_number_or_name() -> None:
    rows, more = torch.rand(N, 30, 10), torch.rand(N, 3, 4, 5)
    expected = decode(Outputs(form="decoded"), rows, SIZE)[0]
    for take, raw in [([1], (more, [rows])), ([-1], [more, rows]), (["a"], {"b": more, "a": rows})]:
        assert torch.equal(decode(Outputs(form="decoded", take=take), raw, SIZE)[0], expected)
    for take, raw, message in [
        ([2], [more, rows], "give numbers from 0 to 1"),
        (["a"], [more, rows], "no dictionary"),
        (["boxs"], {"boxes": rows}, "did you mean 'boxes'?"),
    ]:
        with pytest.raises(SubbyteError, match=message):
            decode(Outputs(form="decoded", take=take), raw, SIZE)

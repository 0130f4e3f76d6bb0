"""What a first batch shows of a sentence that is wrong though the shapes fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subbyte.detection import Outputs
from subbyte.detectors.raw.check import check
from subbyte.errors import SubbyteError

SIZE = (64, 96)


def rows(box: str, relative: bool = False, classes: int = 5) -> torch.Tensor:
    """Two images of 50 boxes within 64 × 96, and scores."""
    corners = torch.rand(2, 50, 2) * torch.tensor([80.0, 50.0])
    sides = 5 + 9 * torch.rand(2, 50, 2)
    first = {"xyxy": corners, "xywh": corners, "cxcywh": corners + sides / 2}[box]
    boxes = torch.cat([first, corners + sides if box == "xyxy" else sides], -1)
    if relative:
        boxes = boxes / torch.tensor([96.0, 64.0] * 2)
    return torch.cat([boxes, torch.rand(2, 50, classes)], -1)


def refused(raw: Any, **keys: Any) -> str:
    with pytest.raises(SubbyteError) as error:
        check(Outputs(**{"form": "decoded", **keys}), raw, SIZE)
    return str(error.value)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("box", ["cxcywh", "xyxy", "xywh"])
def test_what_is_right_passes_and_tells_the_classes(box: str, relative: bool) -> None:
    outputs = Outputs(form="decoded", box=box, unit="relative" if relative else "pixels")
    assert check(outputs, rows(box, relative), SIZE) == 5


def test_boxes_that_all_lie_outside() -> None:
    message = refused(rows("cxcywh"), unit="relative")
    assert "all boxes of the first batch lie outside of the image of 64 × 96" in message
    assert message.endswith("those of outputs.unit: pixels would lie in it")


def test_boxes_without_an_area() -> None:
    message = refused(rows("cxcywh") + torch.tensor([20.0, 20, 0, 0, *[0] * 5]), box="xyxy")
    assert "right side left of their left one" in message
    assert "outputs.box: cxcywh would lie in it" in message


def test_shares_that_are_read_as_pixels() -> None:
    message = refused(rows("cxcywh", relative=True))
    assert "all boxes of the first batch lie within 2 pixels" in message
    assert message.endswith("outputs.unit: relative would lie in it")


def test_boxes_that_nothing_puts_into_the_image() -> None:
    raw = rows("xyxy") + torch.tensor([1e6, 1e6, 1e6, 1e6, *[0] * 5])
    assert "look at what the network gives" in refused(raw, box="xyxy")


def test_logits_that_are_taken_for_scores_and_scores_for_logits() -> None:
    raw = rows("cxcywh", classes=20)
    logits = torch.cat([raw[..., :4], 4 * torch.randn(2, 50, 20)], -1)
    assert "give outputs.activation: sigmoid" in refused(logits)
    message = refused(raw, activation="sigmoid")
    assert "as after two sigmoids" in message
    assert message.endswith("give outputs.activation: none")
    assert check(Outputs(form="decoded", activation="sigmoid"), logits, SIZE) == 20


def test_rows_that_the_network_has_chosen() -> None:
    boxes = rows("xyxy", classes=1)
    raw = torch.cat([boxes, torch.randint(0, 80, (2, 50, 1)).float()], -1)
    assert "give outputs.form: detections, with classes" in refused(raw, box="xyxy")
    assert check(Outputs(form="detections", classes=80), raw, SIZE) == 80


def test_what_is_no_number() -> None:
    raw = rows("cxcywh")
    raw[..., 4:] = torch.nan
    assert "not numbers" in refused(raw)
    raw = rows("cxcywh")
    raw[..., :4] = torch.inf
    assert "no box of the first batch is made of numbers" in refused(raw)


def test_another_way_to_read_levels() -> None:
    """Distances of a few strides, read as logarithms of sides, reach beyond all numbers."""
    raw = torch.cat([100 + 20 * torch.rand(1, 126, 4), torch.rand(1, 126, 3)], -1)
    message = refused(raw, form="levels", box="yolox", activation="none", objectness=False)
    assert "no box of the first batch is made of numbers" in message
    assert "outputs.box: distances, objectness: false, bins: 1 would lie in it" in message

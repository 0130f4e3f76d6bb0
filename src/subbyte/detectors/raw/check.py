"""What the first batch shows: boxes that lie nowhere, scores that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from subbyte.detection import CORNERS, Outputs
from subbyte.detectors.common.nms import rows
from subbyte.detectors.raw import decode
from subbyte.detectors.raw.detections import looks_so
from subbyte.detectors.raw.misfit import text
from subbyte.detectors.raw.taken import taken
from subbyte.errors import SubbyteError

LOOKED_AT = 100  # boxes of each image, those of the highest scores
TINY = 2.0  # pixels within which all boxes lie that are shares of the image
ENOUGH = 1000  # scores by which it is seen that two sigmoids follow each other
ROUNDING = 1e-4


@torch.no_grad()
def check(outputs: Outputs, raw: Any, size: tuple[int, int]) -> int:
    """How many classes a network has, if what it gave for a batch can be what `outputs` says.

    Args:
        outputs: What the network is said to give.
        raw: What it gave.
        size: Height and width of its input.

    Raises:
        SubbyteError: Shapes do not fit, scores are no shares, or all boxes lie outside of the
            image; the message has what would fit.
    """
    boxes, scores = decode(outputs, raw, size)
    if outputs.form == "decoded" and any(looks_so(tensor) for tensor in taken(outputs, raw)):
        raise SubbyteError(
            "rows of the first batch are a box, a score and the number of a class, which the "
            "network has chosen itself: give outputs.form: detections, with classes"
        )
    _check_scores(outputs, scores)
    fault = _fault(_best(boxes, scores), size)
    if fault is not None:
        would = _fitting(outputs, raw, size)
        raise SubbyteError(
            f"{fault}: the network does not give boxes as outputs has them (box: {outputs.how}"
            f"{_unit(outputs)}); {would}"
        )
    return scores.shape[-1]


def _check_scores(outputs: Outputs, scores: Tensor) -> None:
    if not torch.isfinite(scores).all():
        raise SubbyteError(
            "some scores of the first batch are not numbers: give the network images as it was "
            "trained with, by preprocessing"
        )
    low, high = float(scores.min()), float(scores.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise SubbyteError(
            f"scores of the first batch go from {low:.3g} to {high:.3g}, and outputs say that they "
            "are shares from 0 to 1: give outputs.activation: sigmoid (or softmax)"
        )
    # The sigmoid of a number from 0 to 1 goes from 0.5 to 0.731; objectness makes it a product.
    ends = torch.tensor([0.0, 1.0]).sigmoid() ** (2 if outputs.has_objectness else 1)
    twice = outputs.scores_by == "sigmoid" and scores.numel() >= ENOUGH
    if twice and low >= float(ends[0]) - ROUNDING and high <= float(ends[1]) + ROUNDING:
        raise SubbyteError(
            f"scores of the first batch go from {low:.3g} to {high:.3g}, as after two sigmoids: "
            "the network has one itself, so give outputs.activation: none"
        )


def _best(boxes: Tensor, scores: Tensor) -> Tensor:
    """[N, M, 4], those of the highest scores."""
    _, places = scores.amax(-1).topk(min(LOOKED_AT, boxes.shape[1]), 1)
    return rows(boxes, places)


def _fault(boxes: Tensor, size: tuple[int, int]) -> str | None:
    """What is wrong with all boxes together."""
    height, width = size
    if not torch.isfinite(boxes).any():
        return "no box of the first batch is made of numbers"
    first, second = boxes[..., :2], boxes[..., 2:]
    sides = boxes.new_tensor([width, height])
    if not (second > first).all(-1).any():
        return "all boxes of the first batch have their right side left of their left one"
    if not ((second > first) & (second > 0) & (first < sides)).all(-1).any():
        return f"all boxes of the first batch lie outside of the image of {height} × {width}"
    if bool((boxes.abs() <= TINY).all()) and min(size) > 4 * TINY:
        return f"all boxes of the first batch lie within {TINY:g} pixels of {height} × {width}"
    return None


def _fitting(outputs: Outputs, raw: Any, size: tuple[int, int]) -> str:
    """Which boxes would lie in the image."""
    for changes in _others(outputs):
        candidate = outputs.model_copy(update=changes)
        if _fault(_best(*decode(candidate, raw, size)), size) is None:
            return f"those of outputs.{text(changes)} would lie in it"
    return "no other box or unit would lie in it either, so look at what the network gives"


def _others(outputs: Outputs) -> Iterator[dict[str, Any]]:
    """Other ways to read the same columns."""
    if outputs.form == "levels":
        if outputs.width == 4 and outputs.how != "anchors":
            other = "yolox" if outputs.how == "distances" else "distances"
            bins = {"bins": 1} if other == "distances" else {}
            yield {"box": other, "objectness": outputs.has_objectness, **bins}
        return
    if outputs.form in ("decoded", "queries", "detections"):
        unit = "pixels" if outputs.is_relative else "relative"
        yield {"unit": unit}
        boxes = [box for box in CORNERS if box != outputs.how]
        yield from ({"box": box} for box in boxes)
        yield from ({"box": box, "unit": unit} for box in boxes)


def _unit(outputs: Outputs) -> str:
    if outputs.form == "levels":
        return ""
    return f", unit: {'relative' if outputs.is_relative else 'pixels'}"

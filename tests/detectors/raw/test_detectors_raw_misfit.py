"""Outputs that do not fit the sentence about them: the message has the one that would."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subbyte.detection import Outputs
from subbyte.detectors.raw import decode
from subbyte.errors import SubbyteError

NANODET = [torch.zeros(2, n, k) for k in (80, 32) for n in (2704, 676, 169)]
YOLOX = torch.zeros(2, 3549, 85)
YOLOV8 = [torch.zeros(2, 84, 3549), *(torch.zeros(2, 144, n, n) for n in (52, 26, 13))]
DETR = [torch.zeros(2, 300, 80), torch.zeros(2, 300, 80), torch.zeros(2, 300, 4)]


def refused(keys: dict[str, Any], raw: Any) -> str:
    with pytest.raises(SubbyteError) as error:
        decode(Outputs(**keys), raw, (416, 416))
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "raw", "would"),
    [
        ({"form": "levels"}, NANODET, "bins: 8"),
        ({"form": "levels", "bins": 8, "strides": [8, 16]}, NANODET, "strides: [8, 16, 32]"),
        ({"form": "decoded"}, NANODET, "form: levels, bins: 8"),
        ({"form": "levels", "bins": 8, "classes": 20}, NANODET, "classes: 80"),
        ({"form": "levels", "box": "yolox", "strides": [8, 16]}, YOLOX, "strides: [8, 16, 32]"),
        ({"form": "queries"}, YOLOV8[1:], "form: levels"),
        ({"form": "decoded"}, YOLOV8, "take: [0]"),
        ({"form": "queries"}, DETR, "take: [0, 2]"),
        ({"form": "decoded", "objectness": True, "classes": 80}, YOLOV8[0], "objectness: false"),
    ],
)
def test_the_shapes_and_what_would_fit_are_said(keys: dict[str, Any], raw: Any, would: str) -> None:
    message = refused(keys, raw)
    tensors = raw if isinstance(raw, list) else [raw]
    assert all(f"[N, {', '.join(map(str, x.shape[1:]))}]" in message for x in tensors)
    assert message.endswith(f"these would fit: {would}")
    numbers = {"decoded": "boxes", "levels": "cells", "queries": "queries"}
    assert numbers[keys["form"]] in message


@pytest.mark.parametrize("raw", [torch.zeros(2, 7), [torch.zeros(2, 5, 3), torch.zeros(2, 6, 4)]])
def test_where_nothing_fits_nothing_is_proposed(raw: Any) -> None:
    assert "would fit" not in refused({"form": "levels"}, raw)


def test_a_square_tells_nothing_of_its_columns() -> None:
    """Ten boxes of ten columns, or the transpose: the classes tell."""
    assert "[N, 10, 10]" in refused({"form": "decoded"}, torch.zeros(1, 10, 10))
    boxes, _ = decode(Outputs(form="decoded", classes=6), torch.zeros(1, 10, 10), (32, 32))
    assert boxes.shape == (1, 10, 4)


def test_levels_of_different_classes_are_refused() -> None:
    levels = [torch.zeros(1, 64 + k, n, n) for k, n in ((3, 52), (3, 26), (4, 13))]
    assert "maps of 52 × 52, 26 × 26, 13 × 13 cells" in refused({"form": "levels"}, levels)

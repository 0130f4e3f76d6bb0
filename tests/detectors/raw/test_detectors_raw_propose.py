"""The sentence that is proposed of what a network gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raw_networks import NETWORKS, network
from small_detectors import pictures
from subbyte.detection import Outputs
from subbyte.detectors.raw import decode
from subbyte.detectors.raw.propose import proposed

SIZE = (416, 416)
CELLS = (52, 26, 13)


def shares(*shape: int) -> torch.Tensor:
    """Scores of which few are high."""
    return torch.rand(*shape) ** 4


def yolox() -> Any:
    """As the file of YOLOX gives it: a sigmoid, boxes undecoded."""
    boxes = torch.cat([torch.rand(2, 3549, 2), 2 * torch.randn(2, 3549, 2)], -1)
    return torch.cat([boxes, shares(2, 3549, 81)], -1)


def nanodet() -> Any:
    scores = [shares(2, n * n, 80) for n in CELLS]
    return scores + [torch.randn(2, n * n, 32) for n in CELLS]


def yolov8(heads: bool = False) -> Any:
    centres, sides = 416 * torch.rand(2, 2, 3549), 5 + 90 * torch.rand(2, 2, 3549)
    whole = torch.cat([centres, sides, shares(2, 80, 3549)], 1)
    return (whole, [torch.randn(2, 144, n, n) for n in CELLS]) if heads else whole


def detr() -> Any:
    boxes = torch.cat([torch.rand(2, 300, 2), 0.3 * torch.rand(2, 300, 2)], -1)
    return {"logits": 3 * torch.randn(2, 300, 80), "boxes": boxes}


def chosen() -> Any:
    corners = 300 * torch.rand(2, 100, 2)
    boxes = torch.cat([corners, corners + 5 + 90 * torch.rand(2, 100, 2)], -1)
    return torch.cat([boxes, shares(2, 100, 1), torch.randint(0, 80, (2, 100, 1))], -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "keys"),
    [
        (yolox, {"form": "levels", "box": "yolox", "activation": "none"}),
        (nanodet, {"form": "levels", "bins": 8, "activation": "none"}),
        (yolov8, {"form": "decoded", "activation": "none"}),
        (lambda: yolov8(heads=True), {"form": "decoded", "activation": "none", "take": (0,)}),
        (lambda: yolov8(heads=True)[1], {"form": "levels", "bins": 16, "activation": "sigmoid"}),
        (chosen, {"form": "detections", "classes": 80, "how": "xyxy"}),
        (detr, {"form": "queries", "activation": "sigmoid"}),
        (
            lambda: [torch.randn(2, 3, n, n, 85) for n in CELLS],
            {"form": "levels", "box": "anchors", "activation": "sigmoid"},
        ),
    ],
)
def test_published_layouts(raw: Any, keys: dict[str, Any]) -> None:
    found = proposed(raw(), SIZE)
    assert found is not None
    assert {key: getattr(found, key) for key in keys} == keys


@pytest.mark.parametrize("name", ["yolox", "decoded"])
def test_classes_that_are_known_decide(name: str) -> None:
    """Of small networks, whose classes are no data set's."""
    with torch.no_grad():
        raw = network(name)(torch.stack(pictures(2)))
    found, expected = proposed(raw, (64, 64), classes=3), Outputs(**NETWORKS[name][1])
    assert found is not None
    assert (found.form, found.how) == (expected.form, expected.how)
    assert decode(found, raw, (64, 64))[1].shape[-1] == 3


@pytest.mark.slow
def test_what_is_no_detector_has_no_sentence() -> None:
    assert proposed(torch.randn(2, 1000), SIZE) is None
    assert proposed(torch.randn(2, 64, 7, 9), SIZE) is None

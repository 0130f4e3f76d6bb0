"""Published detectors, files beside the original ONNX decoded by hand, on images of COCO."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from PIL import Image

from subbyte import api
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors import letterbox_for
from subbyte.detectors.raw_outputs import raw_detector
from subbyte.models.onnx.load import load_onnx
from subbyte.targets import base as targets
from subbyte.targets.onnx.export import export_float

DATA = os.environ.get("SUBBYTE_DATA")
pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(DATA is None, reason="SUBBYTE_DATA names no folder"),
]
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
LEVELS = [(416 // stride, stride) for stride in (8, 16, 32)]


def yolox(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of one image, as the file's README has it."""
    rows, start, boxes = outputs[0][0], 0, []
    for side, stride in LEVELS:
        y, x = np.mgrid[:side, :side]
        of_level = rows[start : start + side * side]
        centre = (of_level[:, :2] + np.stack([x, y], -1).reshape(-1, 2)) * stride
        half = np.exp(of_level[:, 2:4]) * stride / 2
        boxes.append(np.concatenate([centre - half, centre + half], 1))
        start += side * side
    return np.concatenate(boxes), rows[:, 4:5] * rows[:, 5:]


def nanodet(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Likewise."""
    boxes = []
    for (side, stride), values in zip(LEVELS, outputs[3:], strict=True):
        y, x = np.mgrid[:side, :side]
        point = np.stack([x, y], -1).reshape(-1, 2) * stride + (stride - 1) / 2
        shares = np.exp(values[0].reshape(-1, 4, 8))
        mean = (shares * np.arange(8)).sum(-1) / shares.sum(-1) * stride
        boxes.append(np.concatenate([point - mean[:, :2], point + mean[:, 2:]], 1))
    return np.concatenate(boxes), np.concatenate([values[0] for values in outputs[:3]])


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[..., Any]]] = {
    "yolox_nano": (
        {"form": "levels", "box": "yolox", "activation": "none"},
        {"letterbox": 416, "place": "corner", "colours": "bgr", "range": 255},
        yolox,
    ),
    "nanodet_m": (
        {"form": "levels", "bins": 8, "point": "half", "activation": "none"},
        {"letterbox": 416, "fill": 0, "colours": "bgr", "range": 255, "mean": MEAN, "std": STD},
        nanodet,
    ),
}


def images_of_coco(count: int) -> list[torch.Tensor]:
    paths = sorted((Path(str(DATA)) / "coco/val2017").glob("*.jpg"))[:count]
    arrays = [np.array(Image.open(path).convert("RGB")) for path in paths]
    return [torch.from_numpy(array).permute(2, 0, 1) / 255 for array in arrays]


def by_hand(name: str, batch: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Boxes, scores and labels of each image, by the original file and torchvision's NMS."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    path = Path(str(DATA)) / f"detectors/{name}.onnx"
    session = onnxruntime.InferenceSession(str(path), options)
    found = []
    for image in batch.flip(1).numpy() * np.float32(255):
        if name == "nanodet_m":
            image = (image - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        given = {session.get_inputs()[0].name: image[None].astype(np.float32)}
        boxes, scores = map(torch.from_numpy, CASES[name][2](session.run(None, given)))
        rows, classes = torch.nonzero(scores > 0.001).T
        values, boxes = scores[rows, classes], boxes[rows].float()
        kept = torchvision.ops.batched_nms(boxes, values, classes, 0.65)[:300]
        found.append((boxes[kept], values[kept], classes[kept] + 1))
    return found


@pytest.mark.parametrize("name", CASES)
def test_float_files_give_the_detections_of_the_original(name: str, tmp_path: Path) -> None:
    """All of them, with class, an IoU of 0.99 and a score within 0.001, in batches of 1 and 4."""
    outputs, preprocessing, _ = CASES[name]
    network = load_onnx(Path(str(DATA)) / f"detectors/{name}.onnx")
    model = raw_detector(network, Outputs(**outputs), Preprocessing(**preprocessing))
    images = images_of_coco(8)
    model.tried(images[:2])
    assert model.classes == 80
    batch = letterbox_for(model, [(480, 640), (640, 480)]).images(images)
    expected = by_hand(name, batch)
    path = tmp_path / "model.onnx"
    simulation = api.unquantized(api.capture(model, (images[:2],)))
    export_float(simulation, path, (batch[:2],))
    for runtime in ("onnxruntime", "openvino"):
        session = targets.runtime(runtime).load(path, 1)
        for size in (1, 4):
            parts = [session.run(x.numpy()) for x in batch.split(size)]
            rows = (torch.from_numpy(np.concatenate(values)) for values in zip(*parts, strict=True))
            for found, wanted in zip(zip(*rows, strict=True), expected, strict=True):
                check_same(found, wanted)


def check_same(found: Any, wanted: tuple[torch.Tensor, ...]) -> None:
    boxes, scores, labels, count = found
    number = int(count)
    assert number == len(wanted[1])
    near = torchvision.ops.box_iou(boxes[:number], wanted[0]) >= 0.99
    near &= (scores[:number, None] - wanted[1]).abs() < 1e-3
    near &= labels[:number, None] == wanted[2]
    assert near.any(0).all()
    assert near.any(1).all()

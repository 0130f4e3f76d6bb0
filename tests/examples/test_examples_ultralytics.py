from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from annotated import pictures, write_images
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors.raw_outputs import raw_detector

WITH_NMS, WITHOUT_NMS = "yolo11n.yaml", "yolo26n.yaml"
EXAMPLE = Path(__file__).parents[2] / "examples/ultralytics_yolo.py"


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="it is installed")
@pytest.mark.slow
def test_without_ultralytics_it_says_how_to_install_it() -> None:
    run = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "ultralytics is not installed: pip install ultralytics"


SIDE, CLASSES = 128, 80
IMAGES = torch.stack(pictures(6, (SIDE, SIDE), seed=0))


def spread(last: nn.Conv2d, inputs: tuple[Tensor], results: Tensor) -> None:
    """A hook of a head's last layer: its next results have these deviations and means."""
    deviation, mean = (1.5, -6.0) if last.out_channels == CLASSES else (1.0, 1.0)
    rows = results.transpose(0, 1).flatten(1)
    factor = deviation / rows.std(1).clamp(min=1e-3)
    with torch.no_grad():
        last.weight.mul_(factor.view(-1, 1, 1, 1))
        assert last.bias is not None
        last.bias.copy_((last.bias - rows.mean(1)) * factor + mean)


def untrained(name: str) -> Any:
    """A YOLO with random weights, its batch norms and scores as of a trained one on the images."""
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO(name)
    network = model.model.eval()
    head = network.model[-1]
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:  # else all outputs of random weights are nearly 0
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        network(IMAGES)
        network.eval()
        branches = [head.cv2, head.cv3]
        branches += [head.one2one_cv2, head.one2one_cv3] if name == WITHOUT_NMS else []
        hooks = [part[-1].register_forward_hook(spread) for each in branches for part in each]
        network(IMAGES)
    for hook in hooks:
        hook.remove()
    return model


@pytest.fixture(scope="module")
def yolo() -> Any:
    return untrained(WITH_NMS)


def compared(found: Any, expected: Any) -> None:
    """Each image's boxes are the same ones, and neither few nor of one score."""
    scores = torch.cat([rows[:, 4] for rows in expected])
    assert len(scores) > 60
    assert float(scores.std()) > 0.1
    for rows, mine in zip(expected, found, strict=True):
        assert len(rows) == len(mine["scores"]) > 0
        near = (rows[:, None, :4] - mine["boxes"]).abs().amax(-1) < 1e-3
        near &= (rows[:, 4:5] - mine["scores"]).abs() < 1e-6
        near &= rows[:, 5:6] + 1 == mine["labels"]
        assert near.any(1).all()
        assert near.any(0).all()


@pytest.mark.whole
def test_the_sentence_gives_the_boxes_of_its_own_head_and_suppression(yolo: Any) -> None:
    nms = importlib.import_module("ultralytics.utils.nms").non_max_suppression
    outputs = Outputs(form="decoded", classes=CLASSES, take=[0], score=0.1, nms=0.5)
    # Boxes of each class are moved by `max_wh`, whose default costs digits.
    nms = partial(nms, conf_thres=0.1, multi_label=True, max_wh=512)
    with torch.no_grad():
        raw = yolo.model(IMAGES)[0]
        expected = nms(raw.clone(), iou_thres=0.5)
        found = raw_detector(yolo.model, outputs, Preprocessing(letterbox=SIDE))(IMAGES)
        every = nms(raw.clone(), iou_thres=1.0)
    assert sum(map(len, every)) > sum(map(len, expected))  # it suppresses some
    compared(found, expected)


@pytest.mark.whole
def test_a_head_without_suppression_gives_its_boxes_too() -> None:
    network = untrained(WITHOUT_NMS).model
    network.end2end = True
    outputs = Outputs(form="detections", classes=CLASSES, take=[0], score=0.1)
    with torch.no_grad():
        expected = [rows[rows[:, 4] > 0.1] for rows in network(IMAGES)[0]]
        found = raw_detector(network, outputs, Preprocessing(letterbox=SIDE))(IMAGES)
    compared(found, expected)


@pytest.mark.whole
def test_a_trained_file_becomes_a_file_with_boxes(yolo: Any, tmp_path: Path) -> None:
    yolo.ckpt = {"train_args": {"imgsz": SIDE}}  # as training leaves it
    yolo.save(tmp_path / "random.pt")
    write_images(tmp_path / "images", len(IMAGES), 0, (SIDE, SIDE))
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    out = tmp_path / "file.onnx"
    share = example.quantized_file(str(tmp_path / "random.pt"), tmp_path / "images", out)
    # Of random weights the rounding of sums alone costs most boxes; a wrong file finds none.
    assert share > 0.15
    names = [value.name for value in onnx.load(out).graph.output]
    assert names == ["boxes", "scores", "labels", "count"]

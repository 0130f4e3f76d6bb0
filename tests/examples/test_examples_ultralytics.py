from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from annotated import write_images
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors.raw_outputs import raw_detector

EXAMPLE = Path(__file__).parents[2] / "examples/ultralytics_yolo.py"


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="it is installed")
@pytest.mark.slow
def test_without_ultralytics_it_says_how_to_install_it() -> None:
    run = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "ultralytics is not installed: pip install ultralytics"


@pytest.fixture(scope="module")
def yolo() -> Any:
    """A YOLO with random weights, and batch norms as of noise."""
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolo11n.yaml")
    norms = [part for part in model.model.modules() if isinstance(part, nn.BatchNorm2d)]
    model.model.eval()
    for norm in norms:  # else all outputs of random weights are nearly 0
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.model(torch.rand(2, 3, 128, 128))
    model.model.eval()
    return model


@pytest.mark.whole
def test_the_sentence_gives_the_boxes_of_its_own_head(yolo: Any) -> None:
    nms = importlib.import_module("ultralytics.utils.nms").non_max_suppression
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        raw = yolo.model(images)[0]
        least = float(raw[:, 4:].amax(1).flatten().topk(60).values[-1])
        expected = nms(raw.clone(), conf_thres=least, iou_thres=1.0, multi_label=True)
        outputs = Outputs(form="decoded", classes=80, take=[0], score=least, nms=None)
        found = raw_detector(yolo.model, outputs, Preprocessing(letterbox=128))(images)
    for rows, mine in zip(expected, found, strict=True):
        assert len(rows) == len(mine["scores"]) > 10
        near = (rows[:, None, :4] - mine["boxes"]).abs().amax(-1) < 1e-3
        near &= (rows[:, 4:5] - mine["scores"]).abs() < 1e-6
        near &= rows[:, 5:6] + 1 == mine["labels"]
        assert near.any(1).float().mean() > 0.98  # of tied scores another one may be left out


@pytest.mark.whole
def test_a_trained_file_becomes_a_file_with_boxes(yolo: Any, tmp_path: Path) -> None:
    yolo.save(tmp_path / "random.pt")
    write_images(tmp_path / "images", 2, 0, (100, 128))
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    out = tmp_path / "file.onnx"
    example.quantized_file(str(tmp_path / "random.pt"), tmp_path / "images", out)
    names = [value.name for value in onnx.load(out).graph.output]
    assert names == ["boxes", "scores", "labels", "count"]

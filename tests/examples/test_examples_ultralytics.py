from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from annotated import write_images

EXAMPLE = Path(__file__).parents[2] / "examples/ultralytics_yolo.py"


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="it is installed")
@pytest.mark.slow
def test_without_ultralytics_it_says_how_to_install_it() -> None:
    run = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == "ultralytics is not installed: pip install ultralytics"


@pytest.mark.whole
def test_a_trained_file_becomes_a_file_with_boxes(tmp_path: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolov8n.yaml")
    images = write_images(tmp_path / "images", 4, 0, (128, 128))
    norms = [part for part in model.model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:  # else all outputs of random weights are nearly 0
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.model(torch.stack(images))
    model.model.args = {**dict(model.model.args), "imgsz": 128}
    model.save(tmp_path / "random.pt")
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    share = example.quantized_file(
        str(tmp_path / "random.pt"), tmp_path / "images", tmp_path / "file.onnx"
    )
    assert share > 0.8

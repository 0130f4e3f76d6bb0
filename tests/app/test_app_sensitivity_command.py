"""`subbyte sensitivity` and `diagnose` of models that need to be told what they take and give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
from PIL import Image

from annotated import coco_of_sizes
from raw_networks import LETTERBOX, OUTPUTS, SIZES, network, sentence
from subbyte.detection import Preprocessing
from subbyte.detectors.raw_outputs import raw_detector

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

OWN = ("sensitivity", "net.py:build", "--checkpoint", "net.pt", "--calibration", "pictures/train")


@pytest.fixture
def detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.onnx, a raw network, and coco/, pictures of several sizes."""
    monkeypatch.chdir(tmp_path)
    raw = network("dfl").eval()
    torch.onnx.export(
        raw,
        (torch.rand(2, 3, 64, 64),),
        "net.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n", min=2)},),
    )
    preprocessing = Preprocessing(**yaml.safe_load(LETTERBOX))
    coco_of_sizes(tmp_path, raw_detector(raw, sentence("dfl"), preprocessing), SIZES)
    return tmp_path


@pytest.mark.slow
def test_a_raw_network_in_a_file_is_measured_and_diagnosed(cli: Cli, detector: Path) -> None:
    told = "--outputs", OUTPUTS, "--preprocessing", LETTERBOX
    result = cli(
        "sensitivity", "net.onnx", "--calibration", "coco", "--widths", "4", *told, "--json"
    )
    assert result.exit_code == 0, result.stderr
    weights = [one for one in json.loads(result.stdout)["tensors"] if one["role"] == "weight"]
    assert len(weights) == sum(isinstance(m, torch.nn.Conv2d) for m in network("dfl").modules())
    saved = "--set", "method=range", "--out", "q.safetensors"
    result = cli("quantize", "net.onnx", "--calibration", "coco", *told, *saved)
    assert result.exit_code == 0, result.stderr
    # The saved file says what the outputs are and how images are prepared.
    result = cli("diagnose", "net.onnx", "q.safetensors", "--data", "coco", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["layers"]


def test_one_width_is_printed_and_both_numbers_of_images(cli: Cli, own: Own) -> None:
    result = cli(*OWN, "--widths", "4")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "4 bits" in said
    assert "solved with 7, judged on 1" in said  # a fifth of 8 images in chunks of one
    rows = [line for line in result.stdout.splitlines() if "weight" in line and "edges" in line]
    assert len(rows) == 1
    assert re.search(r"\d", rows[0].split("│")[-2])
    assert "1 image to judge on are too few" in said
    assert "give 40 calibration images or more" in said


def test_images_are_prepared_as_the_command_says(cli: Cli, own: Own, refusal: Refusal) -> None:
    Image.new("RGB", (20, 24)).save(own.path / "pictures/train/dark/large.png")
    assert "on the command line: --preprocessing" in refusal(*OWN, "--widths", "4")
    prepared = "--preprocessing", "{resize: 16, crop: 16, mean: [0, 0, 0], std: [1, 1, 1]}"
    result = cli(*OWN, "--widths", "4", *prepared)
    assert result.exit_code == 0, result.stderr
    assert "assumed" not in result.stdout

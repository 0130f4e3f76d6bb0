"""What `subbyte export` says in a file of its classes and of how images are prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from subbyte import Recipe, quantize, save
from subbyte.app.arguments import model_config
from subbyte.models import load as load_model

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

MODEL = "net.py:build", "--checkpoint", "net.pt"
PLAIN = "{resize: 16, crop: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"


@pytest.fixture
def saved(own: Own) -> Own:
    """The user's folder with q.safetensors, quantized in Python: nothing is known of images."""
    torch.manual_seed(0)
    net = load_model(model_config("net.py:build", None, own.path / "net.pt", None, None)).module
    save(quantize(net, [2 * torch.rand(8, 3, 16, 16) - 1], Recipe(method="range")), "q.safetensors")
    (own.path / "names.txt").write_text("bright\ndark\n")
    return own


def test_predict_names_the_classes_that_export_was_given(
    cli: Cli, saved: Own, refusal: Refusal
) -> None:
    export = "export", *MODEL[:1], "q.safetensors", *MODEL[1:], "--out", "q.onnx"
    result = cli(*export, "--classes", "names.txt", "--preprocessing", PLAIN)
    assert result.exit_code == 0, result.stderr
    result = cli("predict", "q.onnx", "pictures/val/dark/0.png", "--top", 1, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)[0]["classes"][0]["class"] == "dark"
    Path("q.onnx").unlink()
    Path("one.txt").write_text("bright\n")
    assert "classes has 1 names, and the model has 2" in refusal(*export, "--classes", "one.txt")
    assert "classes gone.txt cannot be read" in refusal(*export, "--classes", "gone.txt")
    small = "{resize: 8, crop: 8}"
    assert "images of 8x8, and the example has 16x16" in refusal(*export, "--preprocessing", small)


def test_images_are_prepared_as_those_of_the_calibration(
    cli: Cli, own: Own, refusal: Refusal
) -> None:
    rest = "--calibration", "pictures/train", "--preprocessing", PLAIN, "--set", "method=range"
    result = cli("quantize", *MODEL, *rest, "--out", "q.safetensors")
    assert result.exit_code == 0
    assert "8 calibration images are very few" in " ".join(result.stdout.split())
    export = "export", *MODEL[:1], "q.safetensors", *MODEL[1:], "--out", "q.onnx"
    other = "--preprocessing", PLAIN.replace("std: [0.5, 0.5, 0.5]", "std: [1, 1, 1]")
    assert "q.safetensors was calibrated on images that were prepared otherwise" in refusal(
        *export, *other
    )
    assert cli(*export, "--preprocessing", PLAIN).exit_code == 0

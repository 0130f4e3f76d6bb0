from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onnx_files import Node, proto, rand, saved, whole
from subbyte.app.cli import app

NODES: list[Node] = [
    ("Conv", "x stem.weight", "c"),
    ("ConvTranspose", "c up.weight", "maps"),
    ("Reshape", "maps flat", "boxes"),
]
CONSTANTS = {
    "stem.weight": rand(5, 4, 1, 1),
    "up.weight": rand(5, 2, 1, 1),
    "flat": whole(1, 2, -1),
}


@pytest.mark.slow
def test_an_onnx_file(tmp_path: Path) -> None:
    """Of fixed batch, and with a layer that stays in float."""
    model = proto(NODES, (1, 4, 6, 8), CONSTANTS, outputs=("maps", "boxes"))
    path = saved(model, tmp_path)
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[:4] == [
        "input x [N, 4, 6, 8] float32",
        "output maps [N, 2, 6, 8] float32",
        "output boxes [N, 2, 48] float32",
        "regions: the whole model",
    ]
    assert lines[4] == "layer stem (conv)"
    assert lines[5].startswith("layer up (conv)")


def test_a_model_by_name() -> None:
    result = CliRunner().invoke(app, ["inspect", "digits", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["task"] == "classification"
    assert found["outputs"] == [{"name": "output", "shape": ["N", 10], "dtype": "float32"}]
    assert {layer["region"] for layer in found["layers"]} == {""}


def test_images_have_the_size_that_the_preprocessing_gives(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("""
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
""")
    prepared = "{resize: 40, crop: [20, 24]}"
    command = ["inspect", f"{path}:net", "--json", "--preprocessing", prepared]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [x["shape"] for x in found["inputs"]] == [["N", 3, 20, 24]]
    assert [x["shape"] for x in found["outputs"]] == [["N", 2, 18, 22]]


def test_a_file_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["inspect", "none.onnx"])
    assert result.exit_code == 2
    assert "there is no file none.onnx" in result.output

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import subbyte
from subbyte.models import ModelConfig, load

LOW = {"weights": 8, "activations": 8, "method": "range", "overrides": {"mix": {"weights": 2}}}


@pytest.fixture
def run(own: Any, cli: Callable[..., Any]) -> Callable[..., Path]:
    """run(**changes): the folder of the variant `low` of a run of the user's experiment."""

    def made(**changes: Any) -> Path:
        asked = own.yaml(variants={"low": LOW}, **changes)
        result = cli("run", asked, "--out", own.path / "out", "--quiet")
        assert result.exit_code == 0, result.stderr
        return Path(own.path / "out/variants/low")

    return made


QUANTIZE = ("--set", "method=range", "--out", "q.safetensors", "--quiet", "--calibration")


def test_a_saved_model_is_diagnosed_on_images_prepared_as_its_file_says(
    own: Any, cli: Callable[..., Any]
) -> None:
    grey = "{resize: 8, crop: 8, mean: [0.5], std: [0.25]}"  # the weights' own resize nothing
    asked = ("pictures/train", "--preprocessing", grey)
    result = cli("quantize", "digits", *QUANTIZE, *asked)
    assert result.exit_code == 0, result.stderr
    found = cli("diagnose", "digits", "q.safetensors", "--data", "pictures/val", "--json")
    assert found.exit_code == 0, found.stderr
    images = [
        torch.tensor(np.asarray(Image.open(path).convert("L").resize((8, 8), 2)))[None]
        for path in sorted((own.path / "pictures/val").glob("*/*.png"))
    ]
    batch = (torch.stack(images) / 255 - 0.5) / 0.25
    model = subbyte.load(load(ModelConfig(name="digits")).module, own.path / "q.safetensors")
    expected = subbyte.diagnose(model, [batch], alone_images=0).output_error
    assert json.loads(found.stdout)["output_error"] == pytest.approx(expected, rel=1e-3)


def test_a_users_own_model_is_diagnosed_on_the_bundled_images(
    own: Any, cli: Callable[..., Any]
) -> None:
    model = ("net.py:build", "--checkpoint", "net.pt")
    assert cli("quantize", *model, *QUANTIZE, "digits").exit_code == 0
    found = cli("diagnose", *model[:1], "q.safetensors", *model[1:], "--data", "digits", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["images"] == 32


@pytest.mark.slow
def test_a_run_says_which_layer_is_at_fault(run: Callable[..., Path], own: Any) -> None:
    torch_code = "torch.manual_seed(1)\n    return Net(classes)"
    own.rewrite("return Net(classes)", torch_code)
    folder = run(model={"factory": "net.py:build"})
    found = json.loads((folder / "diagnosis.json").read_text())
    assert [layer["layer"] for layer in found["layers"] if layer["kind"] != "operation"] == [
        "edges",
        "mix",
        "head",
    ]
    assert found["layers"][-1]["accumulated_error"] == found["output_error"]
    assert found["advice"][0]["layers"] == ["mix"]
    assert yaml.safe_load(found["advice"][0]["overrides"]) == {"overrides": {"mix": {"weights": 8}}}
    (entry,) = own.results()["variants"]
    assert entry["diagnosis"]["summary"] == found["summary"]
    assert entry["diagnosis"]["layers"] == ["mix"]
    assert entry["diagnosis"]["overrides"] == [found["advice"][0]["overrides"]]
    with (folder / "layers.csv").open() as file:
        rows = {(row["layer"], row["role"]): row for row in csv.DictReader(file)}
    by_name = {layer["layer"]: layer for layer in found["layers"]}
    for name in ("edges", "mix", "head"):
        for column in ("own_db", "alone_db", "accumulated_db"):
            expected = by_name[name][column]
            assert float(rows[name, "weight"][column]) == pytest.approx(expected, abs=0.01)
            assert rows[name, "activation"][column] == ""
    read = by_name["mix"]["activations"][0]
    for column in ("clipped", "clipped_calibration"):
        expected = float(rows["mix", "activation"][column])
        assert read[column] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_run_without_a_diagnosis(run: Callable[..., Path], own: Any) -> None:
    folder = run(diagnose=False)
    assert not (folder / "diagnosis.json").exists()
    assert own.results()["variants"][0]["diagnosis"] is None
    assert (folder / "layers.csv").is_file()


@pytest.mark.slow
def test_the_command_prints_each_layer_and_what_helps(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    saved = tmp_path / "digits.safetensors"
    low = r'overrides={"block2\\.conv1": {"weights": 2}}'
    quantized = cli(
        "quantize", "digits", "--calibration", "digits", "--images", 64, "--out", saved,
        "--set", "method=range", "--set", low, "--quiet",
    )  # fmt: skip
    assert quantized.exit_code == 0, quantized.stderr
    asked = ("diagnose", "digits", saved, "--data", "digits", "--images", 16)
    result = cli(*asked, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["images"], found["alone_images"]) == (16, 16)
    assert found["advice"][0]["layers"] == ["block2.conv1"]
    shown = cli(*asked).stdout
    row = next(line for line in shown.splitlines() if "block2.conv1" in line)
    assert "w2a8" in row
    assert found["advice"][0]["overrides"] in shown
    refused = cli("diagnose", "digits", tmp_path / "none", "--data", "digits")
    assert refused.exit_code == 2
    assert "there is no file" in refused.stderr

"""Experiments on the user's own models and pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

if TYPE_CHECKING:
    from .conftest import Cli, Own


def flat(own: Own) -> str:
    """The training pictures in one folder, without their classes."""
    (own.path / "flat").mkdir()
    for path in own.path.glob("pictures/train/*/*.png"):
        shutil.copy(path, own.path / "flat" / f"{path.parent.name}-{path.name}")
    return "flat"


@pytest.mark.slow
def test_paths_are_relative_to_the_yaml_and_the_resolved_one_runs_again(
    own: Own, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own.yaml(variants={"w4a4": {"weights": 4, "activations": 4}}, runtimes=["onnxruntime"])
    (own.path / "elsewhere").mkdir()
    monkeypatch.chdir(own.path / "elsewhere")
    result = cli("run", file, "--out", "out")
    assert result.exit_code == 0, result.stderr
    results = own.results("elsewhere/out")
    assert (results["experiment"], results["model"]) == ("my", "net.py:build")
    assert results["calibration_images"] == results["float"]["images"] == 8
    # The weights tell the classes apart by hand, and 4 bits are enough for that.
    (variant,) = results["variants"]
    for entry in (results["float"], variant):
        assert entry["metrics"] == {"top1": 1.0}
        assert entry["deployed"]["onnxruntime"]["metrics"] == {"top1": 1.0}
    assert variant["deployed"]["onnxruntime"]["int8_ops"] == 3

    monkeypatch.chdir(own.path)
    result = cli("run", "elsewhere/out/experiment.yaml", "--out", "again", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (
        Path("again/experiment.yaml").read_text()
        == Path("elsewhere/out/experiment.yaml").read_text()
    )
    (again,) = own.results("again")["variants"]
    for key in ("metrics", "agreement_with_float", "sqnr_db", "size_bytes", "packed_bytes"):
        assert again[key] == variant[key]


@pytest.mark.slow
def test_a_flat_calibration_folder_and_classes_in_the_models_order(own: Own, cli: Cli) -> None:
    (own.path / "classes.txt").write_text("dark\nbright\n")  # the wrong way round for this model
    data = {"calibration": flat(own), "evaluation": "pictures/val", "classes": "classes.txt"}
    assert cli("run", own.yaml(data=data), "--out", "out", "--quiet").exit_code == 0
    results = own.results()
    assert results["calibration_images"] == 8
    assert results["overlap_images"] == 0
    assert results["float"]["metrics"] == {"top1": 0.0}


@pytest.mark.slow
def test_a_torchvision_model_with_a_checkpoint_and_preprocessing(own: Own, cli: Cli) -> None:
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=2).eval()
    torch.save(model.state_dict(), own.path / "squeeze.pth")
    preprocessing = {"resize": [40, 48], "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    file = own.yaml(
        model={"name": "squeezenet1_1", "checkpoint": "squeeze.pth"},
        data={"root": "pictures", "preprocessing": preprocessing},
    )
    result = cli("run", file, "--out", "out")
    assert result.exit_code == 0, result.stderr
    assert "assumed" not in result.stdout
    hits, logits = [], []
    for label, name in enumerate(("bright", "dark")):
        for path in sorted((own.path / "pictures/val" / name).iterdir()):
            resized = Image.open(path).resize((48, 40), Image.Resampling.BILINEAR)
            cropped = np.asarray(resized)[4:36, 8:40].astype(np.float32)
            inputs = (cropped / 255 - 0.5) / 0.25
            with torch.no_grad():
                logits.append(model(torch.from_numpy(inputs).permute(2, 0, 1)[None])[0].numpy())
            hits.append(logits[-1].argmax() == label)
    results = own.results()
    assert results["float"]["metrics"]["top1"] == np.mean(hits)
    saved = np.load(own.path / "out/float/outputs.npz")
    np.testing.assert_allclose(saved["logits"], np.stack(logits), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_broken_images_can_be_skipped_and_are_reported(own: Own, cli: Cli) -> None:
    cut, text = own.path / "pictures/train/dark/1.png", own.path / "pictures/val/bright/2.png"
    cut.write_bytes(cut.read_bytes()[:200])
    text.write_text("no image")
    file = own.yaml(data={"root": "pictures", "skip_broken": True})
    result = cli("run", file, "--out", "out")
    assert result.exit_code == 0, result.stderr
    results = own.results()
    assert (results["calibration_images"], results["float"]["images"]) == (7, 7)
    assert results["skipped_images"] == [str(cut), str(text)]
    assert "2 broken images were skipped" in results["notes"]
    assert "note: 2 broken images were skipped" in result.stdout


@pytest.mark.slow
def test_calibration_on_the_evaluated_images_is_reported(own: Own, cli: Cli) -> None:
    data = {
        "calibration": "pictures/val",
        "evaluation": "pictures/val",
        "calibration_images": 3,
    }
    result = cli("run", own.yaml(data=data), "--out", "out")
    assert result.exit_code == 0, result.stderr
    note = "3 of the 3 calibration images are evaluated too"
    assert note in own.results()["notes"]
    assert own.results()["overlap_images"] == 3
    assert f"note: {note}" in result.stdout


def test_results_are_json_even_of_a_model_that_gives_nan(own: Own, cli: Cli) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    own.rewrite(".mean((2, 3)))", ".mean((2, 3))).log()")  # one of the two logits is below 0
    result = cli("run", own.yaml(), "--out", "out", "--json")
    assert result.exit_code == 0
    json.loads(result.stdout, parse_constant=refuse)


def test_a_variant_that_is_named_twice_runs_once(own: Own, cli: Cli) -> None:
    result = cli("run", own.yaml(), "--only", "w8a8", "--only", "w8a8", "--out", "out", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert (own.path / "out/run.log").read_text().count("variant w8a8: ") == 1

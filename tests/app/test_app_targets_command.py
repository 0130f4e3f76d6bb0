"""`subbyte targets`, and what commands and experiments make of a target."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from subbyte.targets import names

if TYPE_CHECKING:
    from .conftest import Cli, Refusal

installed = pytest.mark.skipif(
    find_spec("executorch") is None, reason="executorch is not installed"
)


def test_all_targets_are_listed(cli: Cli) -> None:
    found = json.loads(cli("targets", "--json").stdout)
    assert [target["name"] for target in found] == list(names())
    by_name = {target["name"]: target for target in found}
    assert by_name["onnxruntime"]["runs_here"] is True
    assert by_name["onnxruntime"]["installed"]
    assert by_name["executorch"]["suffix"] == ".pte"
    assert by_name["executorch"]["install"] == "pip install 'subbyte[executorch]'"
    assert by_name["executorch"]["runs_here"] is (find_spec("executorch") is not None)
    text = cli("targets").stdout
    assert all(f"{name}: " in text for name in names())


def test_an_unknown_target_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    out = str(tmp_path / "m.safetensors")
    said = refusal(
        "quantize", "digits", "--calibration", "digits", "--out", out, "--set", "target=executorc"
    )
    assert "did you mean 'executorch'?" in said


@installed
@pytest.mark.slow
def test_a_file_is_written_measured_and_predicts(cli: Cli, tmp_path: Path) -> None:
    saved, path = tmp_path / "m.safetensors", tmp_path / "m.pte"
    chosen = ["--set", "method=range", "--set", "target=executorch"]
    cli("quantize", "digits", "--calibration", "digits", "--out", str(saved), *chosen)
    written = cli("export", "digits", str(saved), "--out", str(path)).stdout
    assert "note: the file takes one image at a time" in written
    found = json.loads(cli("evaluate", str(path), "--data", "digits", "--json").stdout)
    assert found["runtime"] == "executorch"
    assert found["metrics"]["top1"] > 0.97


@installed
@pytest.mark.slow
def test_an_experiment_runs_in_it(cli: Cli, tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(
        """
model: {name: digits}
data: {name: digits, calibration_images: 64, evaluation_images: 128}
variants:
  w4a4: {weights: 4, activations: 4, method: range, target: executorch}
runtimes: [executorch]
"""
    )
    folder = tmp_path / "run"
    cli("run", str(experiment), "--out", str(folder))
    (variant,) = json.loads((folder / "results.json").read_text())["variants"]
    own = variant["deployed"]["executorch"]
    assert own["file"] == "model.pte"
    assert own["agreement"] > 0.99
    assert own["int8_ops"] == own["int8_candidates"] == 10
    assert own["latency_ms"] > 0
    assert any("one image at a time" in note for note in variant["notes"])

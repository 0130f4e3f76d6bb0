"""A raw network in an experiment: from YAML to files, their metrics and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from annotated import NAMES, coco_of_sizes
from raw_networks import network, sentence
from subbyte.app import experiment
from subbyte.detection import Preprocessing
from subbyte.detectors.raw_outputs import raw_detector

if TYPE_CHECKING:
    from .conftest import Cli, Refusal

FACTORY = """\
import torch
from raw_networks import network


def build(name="dfl"):
    return network(name)


def boxes(outputs, size):
    return outputs[..., :4], outputs[..., 4:]
"""
OUTPUTS = {"form": "levels", "bins": 4, "strides": [8, 16], "point": "half", "score": 0.05}
LETTERBOX = {"letterbox": 64, "place": "corner", "colours": "bgr", "range": 255, "fill": 10}
SIZES = ((40, 60), (64, 48), (30, 90))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.py and coco/, pictures of several sizes and what is found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    preprocessing = Preprocessing(**LETTERBOX, std=(255, 255, 255))
    model = raw_detector(network("dfl"), sentence("dfl"), preprocessing)
    coco_of_sizes(tmp_path, model, SIZES)
    return tmp_path


def write(folder: Path, model: Any = None, **changes: Any) -> Path:
    """my.yaml, an experiment with the network."""
    fields: dict[str, Any] = {
        "model": {"factory": "net.py:build", "outputs": OUTPUTS, **(model or {})},
        "data": {
            "root": "coco",
            "preprocessing": {**LETTERBOX, "std": [255, 255, 255], "mean": [0, 0, 0]},
        },
        "variants": {"w8a8": {"method": "range", "ranges": "minmax"}},
        "runtimes": [],
    }
    for key, value in changes.items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    (folder / "my.yaml").write_text(yaml.safe_dump(fields))
    return folder / "my.yaml"


@pytest.mark.slow
def test_a_raw_network_is_run_evaluated_and_predicted_with(cli: Cli, own: Path) -> None:
    write(own, runtimes=["onnxruntime"])
    result = cli("run", "my.yaml", "--out", "out", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["task"] == "detection"
    assert found["float"]["metrics"]["AP"] > 0.9
    (variant,) = found["variants"]
    deployed = variant["deployed"]["onnxruntime"]
    assert variant["metrics"]["AP50"] > 0.3
    assert deployed["agreement"] > 0.9
    assert deployed["simulated"] == variant["metrics"]  # the model letterboxes images itself
    assert deployed["latency_raw_ms"] > 0
    assert variant["objects"]["detections"] > 0
    assert any("as by the model" in note for note in found["notes"])
    file = f"out/variants/w8a8/{deployed['file']}"
    result = cli("evaluate", file, "--data", "coco", "--json")
    assert result.exit_code == 0, result.stderr
    evaluated = json.loads(result.stdout)["metrics"]
    assert evaluated["AP50"] == pytest.approx(deployed["metrics"]["AP50"])
    result = cli("predict", file, "coco/val/0.png", "--json")
    objects = json.loads(result.stdout)[0]["objects"]
    assert objects[0]["class"] in NAMES
    assert all(0 <= x <= 60 for one in objects for x in one["box"][::2])


def test_paths_of_functions_are_those_of_the_file(own: Path, tmp_path: Path) -> None:
    path = write(own, {"outputs": {"form": "net.py:boxes"}})
    loaded = experiment.load(str(path))
    assert loaded.model.outputs is not None
    assert loaded.model.outputs.form == f"{own / 'net.py'}:boxes"
    dumped = yaml.safe_load(experiment.dump(loaded))
    assert dumped["model"]["outputs"] == {"form": f"{own / 'net.py'}:boxes"}
    assert experiment.Experiment(**dumped) == loaded


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"outputs": {"form": "levls"}}}, "model.outputs: form: 'levls' is not a form"),
        ({"model": {"outputs": {**OUTPUTS, "bin": 4}}}, "did you mean 'bins'?"),
        ({"model": {"outputs": {"form": "no.py:f"}}}, "does not exist"),
        ({"model": {"outputs": {**OUTPUTS, "bins": 8}}}, "these would fit: bins: 4"),
        ({"model": {"outputs": {**OUTPUTS, "activation": "none"}}}, "activation: sigmoid"),
        ({"model": {"outputs": {**OUTPUTS, "classes": 4}}}, "these would fit: classes: 3"),
        ({"data": {"preprocessing": {"resize": 64}}}, "data.preprocessing: resize is 64"),
        ({"data": {"preprocessing": {"crop": 64}}}, "data.preprocessing: crop is for classifiers"),
        ({"data": {"preprocessing": {"range": 255}}}, "letterbox: SIDE"),
        ({"model": {"outputs": None}}, "give model.outputs as well"),
        ({"data": {"classes": "names.txt"}}, "the data has 4 classes and the model 3"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    refusal: Refusal, own: Path, changes: dict[str, Any], says: str
) -> None:
    (own / "names.txt").write_text("ant\nbee\ncow\ndog\n")
    if changes.get("model", {}).get("outputs", 0) is None:
        changes = {**changes, "data": {"format": "coco"}}
    write(own, **changes)
    assert says in refusal("run", "my.yaml", "--out", "out")
    assert not (own / "out").exists()


def test_keys_of_detectors_are_refused_for_classifiers(refusal: Refusal) -> None:
    settings = "--set", "data.preprocessing={letterbox: 8}"
    assert "has no meaning with data.name" in refusal("run", "digits", *settings)

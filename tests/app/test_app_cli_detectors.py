"""Detectors on the command line: the commands for one model, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import yaml

from annotated import FACTORY, coco_set, write_images
from small_detectors import detector
from subbyte.app import experiment

if TYPE_CHECKING:
    from .conftest import Cli, Refusal


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.py, a small detector's, and coco/, what it finds itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    coco_set(tmp_path / "coco", detector("ssd"))
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    """my.yaml, an experiment with the detector."""
    fields: dict[str, Any] = {
        "model": {"factory": "net.py:build"},
        "data": {"root": "coco"},
        "variants": {"w8a8": {}},
        "runtimes": [],
    }
    (folder / "my.yaml").write_text(yaml.safe_dump({**fields, **changes}))
    return folder / "my.yaml"


@pytest.mark.slow
def test_one_detector_from_calibration_to_predictions(
    cli: Cli, refusal: Refusal, own: Path
) -> None:
    quantize = "quantize", "net.py:build", "--calibration", "coco", "--out", "q.safetensors"
    result = cli(*quantize, "--set", "method=range")
    assert result.exit_code == 0, result.stderr
    export = "export", "net.py:build", "q.safetensors", "--out"
    assert cli(*export, "m.onnx", "--target", "onnxruntime").exit_code == 0
    assert cli(*export, "raw.onnx", "--no-postprocess").exit_code == 0
    names = [o.name for o in onnx.load("raw.onnx").graph.output]
    assert set(names) == {"bbox_regression", "cls_logits"}
    result = cli("evaluate", "m.onnx", "--data", "coco", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["images"] == 4
    assert found["metrics"]["AP50"] > 0.3
    said = cli("evaluate", "m.onnx", "--data", "coco").stdout
    assert said.startswith(f"AP {found['metrics']['AP']:.2%}, AP50 ")
    predict = "predict", "m.onnx", "coco/val/0.png", "--top", "3"
    (prediction,) = json.loads(cli(*predict, "--json").stdout)
    assert [set(row) for row in prediction["objects"]] == [{"class", "score", "box"}] * 3
    scores = [row["score"] for row in prediction["objects"]]
    assert scores == sorted(scores, reverse=True)
    table = cli(*predict).stdout
    assert f"{scores[0]:.3f}" in table
    assert "coco/val/0.png" in table
    message = refusal("evaluate", "raw.onnx", "--data", "coco")
    assert "raw.onnx gives raw outputs, not boxes" in message


def damage(own: Path, what: str) -> None:
    path = own / "coco/annotations/instances_val.json"
    content = json.loads(path.read_text())
    if what == "cut off":
        path.write_text(path.read_text()[:-20])
        return
    if what == "no categories":
        content["categories"] = []
    elif what == "image gone":
        (own / "coco/val/1.png").unlink()
    elif what == "other classes":
        for split in ("train", "val"):
            file = own / f"coco/annotations/instances_{split}.json"
            known = json.loads(file.read_text())
            more = [{"id": i, "name": f"class {i}"} for i in (4, 5)]
            file.write_text(json.dumps({**known, "categories": known["categories"] + more}))
        return
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("cut off", "instances_val.json"),
        ("no categories", "categor"),
        ("image gone", "1.png"),
        ("other classes", "class 4 (id 4), class 5 (id 5) fit none; give data.classes"),
    ],
)
def test_bad_annotations_are_one_sentence(
    own: Path, refusal: Refusal, what: str, says: str
) -> None:
    damage(own, what)
    assert says in refusal("run", write(own), "--out", "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"root": "coco", "splits": {"evaluation": "test"}}}, "instances_test.json"),
        ({"export": {"postproces": True}}, "did you mean 'export.postprocess'?"),
        ({"model": {"name": "resnet18"}, "data": {"name": "digit-scenes"}}, "a classifier needs"),
        ({"data": {"name": "digits"}}, "give data.name: digit-scenes"),
        ({"model": {"name": "digit-scenes", "num_classes": 4}}, "always has 10 classes"),
        ({"variants": {"w8a8": {"regions": ["neck"]}}}, "unknown region 'neck'"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    own: Path, refusal: Refusal, changes: dict[str, Any], says: str
) -> None:
    assert says in refusal("run", write(own, **changes), "--out", "run")


WRAPPED = """\
from torch import nn

from small_detectors import detector


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = detector("ssd")

    def forward(self, images):
        return self.inner(images)
"""


def test_boxes_that_cannot_be_written_are_refused_before_images_are_looked_at(
    own: Path, refusal: Refusal
) -> None:
    (own / "net.py").write_text(WRAPPED)
    broken = own / "coco/val/1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    given = {"model": {"factory": "net.py:Wrapped"}, "data": {"root": "coco", "format": "coco"}}
    message = refusal("run", write(own, **given), "--out", "run")
    assert "how Wrapped makes boxes of its outputs cannot be written as ONNX" in message
    assert "export.postprocess: false" in message
    message = refusal("run", write(own, **given, export={"postprocess": False}), "--out", "run")
    assert "1.png" in message


@pytest.mark.parametrize("given", [{"format": "yolo"}, {}])
def test_class_names_that_are_missing_are_said_before_the_model_is_built(
    own: Path, refusal: Refusal, given: dict[str, str]
) -> None:
    (own / "net.py").write_text("def build():\n    raise RuntimeError('it was built')\n")
    for split in ("train", "val"):
        (own / "yolo/labels" / split).mkdir(parents=True)
        write_images(own / "yolo/images" / split, 2, 1)
    file = write(own, data={"root": "yolo", **given})
    assert "nothing names the classes of" in refusal("run", file, "--out", "run")
    (own / "yolo/data.yaml").write_text("train: images/train\nval: images/val\nnames: []\n")
    assert "data.yaml names no classes" in refusal("run", file, "--out", "run")
    (own / "yolo/data.yaml").write_text("train: images/train\nval: images/val\nnames: [ant]\n")
    assert "it was built" in refusal("run", file, "--out", "run")


def test_a_detector_prepares_images_by_itself(own: Path, refusal: Refusal) -> None:
    quantize = "quantize", "net.py:build", "--calibration", "coco", "--out", "q.safetensors"
    message = refusal(*quantize, "--preprocessing", "{resize: 64}")
    assert "preprocessing has no meaning for detectors" in message


def test_the_bundled_experiment_is_a_detectors() -> None:
    chosen = experiment.load("digit-scenes", ["export.postprocess=false"])
    assert list(chosen.variants) == ["w8a8", "w4a8", "w4a4"]
    assert chosen.data.is_detection
    assert not chosen.export.postprocess
    assert chosen.variants["w4a8"].ranges == "mse"

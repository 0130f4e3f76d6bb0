"""`subbyte quantize --outputs`: a raw network from the command line to files with boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from annotated import coco_of_sizes
from raw_networks import LETTERBOX, OUTPUTS, SIZES, network, sentence
from subbyte.detection import Preprocessing
from subbyte.detectors.raw_outputs import raw_detector

if TYPE_CHECKING:
    from .conftest import Cli, Refusal

FACTORY = """\
from raw_networks import network


def build():
    return network("dfl")


def boxes(outputs, size):
    return outputs
"""
QUANTIZE = ("quantize", "net.py:build", "--calibration", "coco", "--out", "q.safetensors")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.py and coco/, pictures of several sizes and what is found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    preprocessing = Preprocessing(**yaml.safe_load(LETTERBOX))
    model = raw_detector(network("dfl"), sentence("dfl"), preprocessing)
    coco_of_sizes(tmp_path, model, SIZES)
    return tmp_path


@pytest.mark.slow
def test_a_sentence_on_the_command_line_makes_a_file_with_boxes(cli: Cli, own: Path) -> None:
    prepared = "--preprocessing", LETTERBOX, "--set", "method=range"
    result = cli(*QUANTIZE, "--outputs", OUTPUTS, *prepared)
    assert result.exit_code == 0, result.stderr
    result = cli("export", "net.py:build", "q.safetensors", "--out", "m.onnx")
    assert result.exit_code == 0, result.stderr
    result = cli("evaluate", "m.onnx", "--data", "coco", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["metrics"]["AP50"] > 0.3
    (own / "outputs.yaml").write_text(OUTPUTS)
    again = cli(*QUANTIZE[:-1], "again.safetensors", "--outputs", "outputs.yaml", *prepared)
    assert again.exit_code == 0, again.stderr
    assert (own / "again.safetensors").read_bytes() == (own / "q.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("decoded", "outputs is decoded: give a mapping, as '{form: decoded}', or a YAML file"),
        ("{box: xyxy}", "outputs has no form: give decoded, levels"),
        ("{form: levles}", "outputs: form: 'levles' is not a form of outputs"),
        ("{form: decoded, bins: 4}", "outputs: bins has no meaning with form: decoded"),
        ("{form: boxes.py:boxes}", "factory file"),
        ("gone.yaml", "gone.yaml cannot be read (No such file or directory)"),
        ("list.yaml", "list.yaml holds no mapping"),
    ],
)
def test_what_is_no_sentence_is_refused(refusal: Refusal, own: Path, given: str, says: str) -> None:
    (own / "list.yaml").write_text("- decoded\n")
    assert says in refusal(*QUANTIZE, "--outputs", given)
    assert not (own / "q.safetensors").exists()


def test_a_preprocessing_of_classifiers_is_refused_with_outputs(
    refusal: Refusal, own: Path
) -> None:
    rest = "--outputs", OUTPUTS, "--preprocessing", "{resize: 64, crop: 64}"
    assert "preprocessing: crop is for classifiers" in refusal(*QUANTIZE, *rest)


def test_a_sentence_that_does_not_fit_is_refused_with_the_one_that_does(
    refusal: Refusal, own: Path
) -> None:
    rest = "--preprocessing", LETTERBOX, "--outputs", "{form: levels, strides: [8, 16]}"
    said = refusal(*QUANTIZE, *rest)
    assert "form: levels are of strides 8, 16 maps of 8 × 8, 4 × 4" in said
    assert "these would fit: bins: 4" in said

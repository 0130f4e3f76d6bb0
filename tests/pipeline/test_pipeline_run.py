from __future__ import annotations

from pathlib import Path

import pytest

from subbyte import pipeline
from subbyte.errors import SubbyteError
from subbyte.experiment import Experiment
from subbyte.progress import Silent
from subbyte.runfolder import RunFolder
from subbyte.runtime import machine
from subbyte.setup import set_up

NET = """\
from torch import nn


def build():
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 24), nn.Linear(24, 10)
    return nn.Sequential(*layers)
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """A tiny random network on some of the bundled digits, in simulation only."""
    file = tmp_path / "code/net.py"
    file.parent.mkdir()
    file.write_text(NET)
    return Experiment(
        model={"factory": f"{file}:build"},
        data={"name": "digits", "calibration_images": 32, "evaluation_images": 100},
        variants={"w8a8": {}, "w3a4": {"weights": 3, "activations": 4}},
        runtimes=[],
    )


def test_a_variant_stands_alone(experiment: Experiment, tmp_path: Path) -> None:
    path, results = pipeline.run(experiment, tmp_path / "all")
    assert path == tmp_path / "all"
    folder = RunFolder(tmp_path / "alone")
    pipeline.run_variant(experiment, "w3a4", folder)
    alone, (_, together) = folder.read("w3a4"), results["variants"]
    assert 0 < alone["agreement_with_float"] < 1
    for entry in (alone, together):
        assert entry.pop("seconds") > 0
    assert alone == together
    assert [entry.name for entry in (tmp_path / "alone/variants").iterdir()] == ["w3a4"]


def test_bad_input_found_late_leaves_nothing(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SubbyteError("the model cannot be written as ONNX")

    monkeypatch.setattr(pipeline.onnx, "export_float", refuse)
    with pytest.raises(SubbyteError, match="cannot be written as ONNX"):
        pipeline.run(experiment, tmp_path / "some" / "where")
    assert not (tmp_path / "some").exists()


@pytest.mark.parametrize(("has", "told"), [(False, True), (True, False), (None, False)])
def test_a_processor_that_saturates_is_told(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, has: bool | None, told: bool
) -> None:
    monkeypatch.setattr(machine, "has_vnni", lambda: has)
    notes = set_up(experiment, (), Silent()).notes
    assert any("no VNNI" in note for note in notes) is told

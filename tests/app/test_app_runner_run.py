from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest

from processor import FITTING
from subbyte.app import runner as pipeline
from subbyte.app.experiment import Experiment
from subbyte.app.report.tables import run_table
from subbyte.app.run_folder import RunFolder
from subbyte.app.setup import set_up
from subbyte.data.digits import digits_split
from subbyte.errors import SubbyteError
from subbyte.targets import base as targets
from subbyte.utils import machine
from subbyte.utils.progress import Silent

NET = """\
from torch import nn


def build():
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 24), nn.Linear(24, 10)
    return nn.Sequential(*layers)
"""

GATED = """\
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 6, 3), nn.Hardswish()
    return nn.Sequential(*convolutions, nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 10))
"""

DEFORMED = """\
import torch
from torch import nn
from torchvision.ops import DeformConv2d


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets = nn.Conv2d(3, 18, 3, padding=1)
        self.deformed = DeformConv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.deformed(x, self.offsets(x)).relu().mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net()
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


@pytest.mark.slow
def test_a_variant_stands_alone(experiment: Experiment, tmp_path: Path) -> None:
    path, results = pipeline.run(experiment, tmp_path / "all")
    assert path == tmp_path / "all"
    folder = RunFolder(tmp_path / "alone")
    pipeline.run_variant(experiment, "w3a4", folder)
    alone, (_, together) = folder.read("w3a4"), results["variants"]
    assert 0 < alone["agreement_with_float"] < 1
    for entry in (alone, together):
        for timed in (entry, *entry["blocks"]):
            assert timed.pop("seconds") > 0
    assert alone == together
    assert [entry.name for entry in (tmp_path / "alone/variants").iterdir()] == ["w3a4"]


def test_bad_input_found_late_leaves_nothing(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SubbyteError("the model cannot be written as ONNX")

    monkeypatch.setattr(pipeline.target_files, "export_float", refuse)
    with pytest.raises(SubbyteError, match="cannot be written as ONNX"):
        pipeline.run(experiment, tmp_path / "some" / "where")
    assert not (tmp_path / "some").exists()


@pytest.mark.parametrize(("has", "told"), [(False, True), (True, False), (None, False)])
def test_a_processor_that_saturates_is_reported(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, has: bool | None, told: bool
) -> None:
    monkeypatch.setattr(machine, "has_vnni", lambda: has)
    notes = set_up(experiment, (), Silent()).notes
    assert any("no VNNI" in note for note in notes) is told


def run_gated(experiment: Experiment, out: Path, **changes: object) -> tuple[Path, dict]:
    """A network with functions that OpenVINO computes within convolutions, run with changes."""
    (file := out.with_suffix(".py")).write_text(GATED)
    changes |= {
        "model": {"factory": f"{file}:build"},
        "variants": {"w8a8": {"method": "range", **FITTING}},
    }
    folder, results = pipeline.run(
        Experiment(**{**experiment.model_dump(exclude_unset=True), **changes}), out
    )
    return folder / "variants", results["variants"]


@pytest.mark.slow
def test_each_runtime_runs_its_own_file_and_is_compared_with_its_simulation(
    experiment: Experiment, tmp_path: Path
) -> None:
    runtimes = ["onnxruntime", "openvino"]
    folder, (entry,) = run_gated(experiment, tmp_path / "out", runtimes=runtimes)
    names = {path.name for path in (folder / "w8a8").iterdir()}
    recorded = {"variant.json", "layers.csv", "images.npz", "model.onnx"}
    recorded |= {"gallery.json", "diagnosis.json"}
    assert names - {"gallery"} == recorded | {f"model.{runtime}.onnx" for runtime in runtimes}
    assert entry["size_bytes"] == (folder / "w8a8/model.onnx").stat().st_size
    pixels = digits_split()[2][:100, None].astype(np.float32) / 255
    mean, std = (np.reshape(v, (3, 1, 1)) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images = ((pixels - mean) / std).astype(np.float32)
    path = str(folder / "w8a8/model.openvino.onnx")
    same_file = onnxruntime.InferenceSession(path).run(None, {"input": images})[0]
    own = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)[0]
    all_grids = str(folder / "w8a8/model.onnxruntime.onnx")
    other = onnxruntime.InferenceSession(all_grids).run(None, {"input": images})[0]
    np.testing.assert_allclose(own, same_file, rtol=0, atol=1e-5)
    assert np.abs(own - other).max() > 1e-3  # so that one simulation cannot be both
    for runtime in runtimes:
        deployed = entry["deployed"][runtime]
        assert deployed["file"] == f"model.{runtime}.onnx"
        assert deployed["agreement"] == 1
        assert deployed["max_abs_diff"] < 1e-5


@pytest.mark.slow
def test_a_simulation_of_a_file_changes_nothing_of_the_other(
    experiment: Experiment, tmp_path: Path
) -> None:
    (alone,) = run_gated(experiment, tmp_path / "alone")[1]
    (beside,) = run_gated(experiment, tmp_path / "beside", runtimes=["openvino"])[1]
    for key in ("metrics", "agreement_with_float", "sqnr_db", "clipped_share"):
        assert alone[key] == beside[key]


@pytest.mark.slow
def test_a_file_for_one_runtime_is_written_only_where_it_is_another(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulations: list[str] = []
    simulated = targets.simulated
    monkeypatch.setattr(targets, "simulated", lambda *a: simulations.append("") or simulated(*a))
    experiment = experiment.model_copy(update={"runtimes": ("openvino",)})
    folder, results = pipeline.run(experiment, tmp_path / "out")
    # Four bits are clipped in another way for OpenVINO; at eight there is nothing to clip.
    named = {"w8a8": "model.onnx", "w3a4": "model.openvino.onnx"}
    for entry in results["variants"]:
        files = {path.name for path in (folder / "variants" / entry["name"]).glob("*.onnx")}
        assert files == {"model.onnx", named[entry["name"]]}
        assert entry["deployed"]["openvino"]["file"] == named[entry["name"]]
    assert results["float"]["deployed"]["openvino"]["file"] == "model.onnx"
    # One of float, and two a variant: of calibration images, for what they clip, and of the others.
    assert len(simulations) == 1 + 2 * 2


@pytest.mark.slow
def test_a_runtime_that_cannot_load_the_float_model_is_left_out_with_a_note(
    experiment: Experiment, tmp_path: Path
) -> None:
    file = tmp_path / "code/deformed.py"
    file.write_text(DEFORMED)
    update = {"model": {"factory": f"{file}:build"}, "runtimes": ["openvino", "onnxruntime"]}
    deformed = Experiment(**{**experiment.model_dump(exclude_unset=True), **update})
    path, results = pipeline.run(deformed, tmp_path / "out")
    for entry in (results["float"], *results["variants"]):
        assert list(entry["deployed"]) == ["onnxruntime"]
        assert entry["deployed"]["onnxruntime"]["images"] == 100
    (note,) = [note for note in results["notes"] if "openvino" in note]
    assert note == (
        "float: openvino is left out of this run: OpenVINO cannot load the float model's file: it "
        "has no operator DeformConv: run the file in ONNX Runtime, or build the model without that "
        "operator"
    )
    assert not list(path.rglob("*.openvino.onnx"))
    assert "openvino is left out" in "".join(map(str, [run_table(results).caption]))

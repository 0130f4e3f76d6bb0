"""What a run says of its data: classes, clipping, what was assumed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import subbyte
from subbyte.app import experiment as experiments
from subbyte.app import runner as pipeline
from subbyte.app.experiment import Experiment
from subbyte.app.setup import set_up
from subbyte.data.digits import digits_split
from subbyte.errors import SubbyteError
from subbyte.models import build
from subbyte.targets import base as targets
from subbyte.targets.onnx.export import Files
from subbyte.utils import cores
from subbyte.utils.progress import Silent

pytestmark = pytest.mark.slow


# Here no file is ever run, and writing one takes longer than all else.
@pytest.fixture(scope="module", autouse=True)
def _no_onnx() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.target_files, "export_float", written)
        patch.setattr(pipeline.target_files, "write_files", written)
        yield


def written(_: Any, folder: Path, __: Any, runtimes: Sequence[str], **___: Any) -> Files:
    """An empty file for all runtimes."""
    path = folder / "model.onnx"
    path.write_bytes(b"")
    return Files(path, dict.fromkeys(runtimes, path))


FOLDER = os.environ.get("SUBBYTE_DATA")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as files: {full,half}/*.png for calibration, and val/CLASS/*.png."""
    root = tmp_path_factory.mktemp("digits")
    train, _, held_out, labels = digits_split()
    for i, image in enumerate(train[:80]):
        for name, factor in (("full", 1.0), ("half", 0.5)):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray((image * factor).astype(np.uint8)).save(root / name / f"{i:03}.png")
    for i, (image, label) in enumerate(zip(held_out[:150], labels, strict=False)):
        (root / "val" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "val" / str(label) / f"{i:03}.png")
    return root


def run(out: Path, root: Path, calibration: str, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": {"name": "digits"},
        "data": {"calibration": root / calibration, "evaluation": root / "val"},
        "variants": {"w8a8": {"ranges": "minmax"}},
        "runtimes": [],
    }
    return pipeline.run(Experiment(**(fields | more)), out)[1]


@pytest.fixture(scope="module")
def runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run on calibration images of full, and one on those of half brightness."""
    variants = {
        "w8a8": {"ranges": "minmax"},
        "w4a4": {"weights": 4, "activations": 4, "ranges": "percentile"},
        "w4": {"weights": 4, "activations": None, "ranges": "minmax"},
    }
    paths = {name: tmp_path_factory.mktemp("run") / name for name in ("full", "half")}
    for name, path in paths.items():
        run(path, pictures, name, variants=variants)
    return paths


def results_of(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((path / "results.json").read_text())
    return read


def clipped_at_the_input(path: Path) -> tuple[float, float]:
    with path.open(newline="") as file:
        (row,) = [r for r in csv.DictReader(file) if (r["layer"], r["role"]) == INPUT]
    return float(row["clipped"]), float(row["clipped_calibration"])


INPUT = ("conv1", "activation")


@pytest.mark.parametrize("calibration", ["full", "half"])
def test_calibration_of_another_brightness_is_reported(
    runs: dict[str, Path], pictures: Path, calibration: str
) -> None:
    results = results_of(runs[calibration])
    clipping = [note for note in results["notes"] if "clipped on the evaluation" in note]
    assert len(clipping) == (0 if calibration == "full" else 2)
    for variant in results["variants"][:2]:
        shares = variant["clipped_share"], variant["clipped_share_calibration"]
        assert all(0 <= share < 0.02 for share in shares)
        layers = runs[calibration] / f"variants/{variant['name']}/layers.csv"
        now, before = clipped_at_the_input(layers)
        if calibration == "full":
            assert max(now, before) < 0.01
            continue
        assert f"{variant['name']}: at conv1, {now:.1%} of the values" in " ".join(clipping)
        # The grid ends near the brightest pixel of calibration, which is half of all brightness.
        pixels = np.concatenate([np.asarray(Image.open(p)).ravel() for p in pictures.rglob("*/*/*")
                                 if "val" in p.parts])  # fmt: skip
        assert abs(now - (pixels > 127.5).mean()) < 0.05
        assert before < 0.001
    weights_alone = results["variants"][2]
    assert weights_alone["clipped_share"] is weights_alone["clipped_share_calibration"] is None


def test_what_is_clipped_is_that_of_all_evaluation_images(
    runs: dict[str, Path], pictures: Path
) -> None:
    variant = results_of(runs["half"])["variants"][0]
    grey = lambda folder: torch.stack([  # noqa: E731
        torch.from_numpy((np.asarray(Image.open(path)) / 255.0 - 0.305) / 0.376).float()[None]
        for path in sorted((pictures / folder).rglob("*.png"))
    ])  # fmt: skip
    order = np.random.default_rng(0).choice(80, 80, replace=False)
    batches = list(grey("half")[order].split(64))
    quantized = subbyte.quantize(build("digits"), batches, subbyte.Recipe(ranges="minmax"))
    seen = {"values": 0, "clipped": 0}
    for _, quantizer in quantized.quantizers("activation"):
        spec, scale, zero = quantizer.spec, quantizer.scale.double(), quantizer.zero_point

        def look(_: Any, args: Any, s: Any = spec, c: Any = scale, z: Any = zero) -> None:
            level = (args[0].double() / c).round() + z
            seen["values"] += level.numel()
            seen["clipped"] += int(((level < s.low) | (level > s.high)).sum())

        quantizer.register_forward_pre_hook(look)
    quantized(grey("val"))
    expected = seen["clipped"] / seen["values"]
    assert expected > 0.001
    assert variant["clipped_share"] == pytest.approx(expected, rel=1e-3)


def test_the_classes_of_the_evaluation_are_reported(
    tmp_path: Path, pictures: Path, runs: dict[str, Path]
) -> None:
    data = {"calibration": pictures / "full", "evaluation": tmp_path / "val"}
    for name in ("3", "7"):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / name).symlink_to(pictures / "val" / name, target_is_directory=True)
    results = run(tmp_path / "out", pictures, "full", data=data)
    assert results["classes"] == {"model": 10, "evaluated": 2}
    assert "the evaluation covers 2 of the model's 10 classes" in results["notes"]
    assert results["float"]["metrics"]["top1"] > 0.9  # 3 and 7, and not 0 and 1
    whole = results_of(runs["full"])
    assert whole["classes"] == {"model": 10, "evaluated": 10}
    assert not any("covers" in note for note in whole["notes"])


def test_what_is_assumed_is_reported_again_by_a_rerun(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 10))\n"
    )
    model = {"factory": f"{tmp_path / 'net.py'}:build"}
    data = {"calibration": pictures / "full", "evaluation": pictures / "val"}
    for keys, told in (
        ({}, "the preprocessing is assumed: images as they are, ImageNet's mean and std"),
        ({"preprocessing": {"resize": 8, "crop": 8}}, "the normalization is assumed"),
    ):
        out = tmp_path / f"out{len(keys)}"
        first = run(out, pictures, "full", model=model, data=data | keys)
        assert any(note.startswith(told) for note in first["notes"])
        again = experiments.load(str(out / "experiment.yaml"))
        setup = set_up(again, (), Silent())
        assert [note for note in first["notes"] if note in setup.notes] == setup.notes
        assert setup.notes
        assert experiments.dump(setup.experiment) == (out / "experiment.yaml").read_text()


class Loads:
    """A runtime that remembers for how many threads it was loaded, and gives zeros."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def load(self, path: Path, threads: int) -> Loads:
        self.threads.append(threads)
        return self

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return [np.zeros((len(inputs[0]), 10), np.float32)]

    def int8_ops(self) -> int:
        return 0

    def version(self) -> str:
        return "0"


@pytest.mark.parametrize(("usable", "loaded"), [(2, [2]), (1, [1]), (3, [3, 2])])
def test_a_file_is_loaded_once_where_the_threads_agree(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, usable: int, loaded: list[int]
) -> None:
    runtime = Loads()
    monkeypatch.setattr(targets, "runtime", lambda name: runtime)
    monkeypatch.setattr(cores, "usable", lambda: usable)
    results = run(tmp_path / "out", pictures, "full", runtimes=["onnxruntime"])
    assert runtime.threads == loaded * 2  # the float file and that of the variant
    deployed = results["variants"][0]["deployed"]["onnxruntime"]
    assert deployed["latency_threads"] == loaded[-1]


def test_results_say_on_how_many_images_each_figure_was_measured(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "runtime", lambda name: Loads())
    given = {"runtimes": ["onnxruntime"], "simulation_images": 40}
    results = run(tmp_path / "out", pictures, "full", **given)
    assert (results["evaluation_images"], results["simulation_images"]) == (150, 40)
    for entry in (results["float"], *results["variants"]):
        assert entry["images"] == 40
        deployed = entry["deployed"]["onnxruntime"]
        assert (deployed["images"], deployed["agreement_images"]) == (150, 40)
        # Zeros are class 0, and a share of 40 images is that of 150 only by chance.
        assert 40 * deployed["agreement"] == pytest.approx(round(40 * deployed["agreement"]))
    with np.load(tmp_path / "out/float/outputs.npz") as saved:
        assert saved["images"].tolist() == [(2 * i + 1) * 150 // 80 for i in range(40)]
        names = sorted((pictures / "val").rglob("*.png"))
        truth = [int(names[i].parent.name) for i in saved["images"]]
        assert saved["labels"].tolist() == truth
        assert set(truth) == set(range(10))


def test_a_number_of_images_for_the_simulation_is_at_least_one(pictures: Path) -> None:
    data = {"calibration": pictures / "full", "evaluation": pictures / "val"}
    known: dict[str, Any] = {"model": {"name": "digits"}, "data": data, "variants": {"w8a8": {}}}
    assert Experiment(**known).simulation_images == 2000
    assert Experiment(**known, simulation_images=None).simulation_images is None
    for wrong in (0, -1, 1.5, "some"):
        with pytest.raises(SubbyteError, match="simulation_images"):
            Experiment(**known, simulation_images=wrong)


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="SUBBYTE_DATA, a folder of real data, is not set")
@pytest.mark.parametrize("brightness", [1.0, 0.5])
def test_resnet20_is_warned_of_dark_calibration_and_of_nothing_else(
    tmp_path: Path, brightness: float
) -> None:
    root = Path(str(FOLDER)) / "cifar10"
    for path in sorted(root.glob("train/*/*.jpg"))[::40]:
        image = Image.open(path).point(lambda value: int(value * brightness))
        (tmp_path / "calibration").mkdir(exist_ok=True)
        image.save(tmp_path / "calibration" / f"{path.parent.name}-{path.stem}.png")
    experiment = Experiment(
        model={"name": "cifar_resnet20", "checkpoint": root / "resnet20-12fca82f.th"},
        data={"calibration": tmp_path / "calibration", "evaluation": root / "test",
              "evaluation_images": 500},
        variants={"w8a8": {}, "w4a4": {"weights": 4, "activations": 4},
                  "w2a2": {"weights": 2, "activations": 2}, "minmax": {"ranges": "minmax"}},
        runtimes=[],
    )  # fmt: skip
    notes = pipeline.run(experiment, tmp_path / "out")[1]["notes"]
    clipping = [note for note in notes if "clipped on the evaluation" in note]
    assert len(clipping) == (0 if brightness == 1 else 4)

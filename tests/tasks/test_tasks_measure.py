"""What is measured of a model and its files, in a runtime that the test controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from subbyte.api import capture, quantize_captured, unquantized
from subbyte.calibration import clipping
from subbyte.data import DataConfig
from subbyte.data.batches import ArgumentsOf
from subbyte.data.digits import digits_split
from subbyte.graph.float_model import FloatModel
from subbyte.models import ModelConfig, ModelSpec, load
from subbyte.placement.simulation import simulate
from subbyte.recipe import Recipe
from subbyte.targets import base as targets
from subbyte.tasks.base import Asked, Task, known, task_file
from subbyte.tasks.classification import open_task
from subbyte.tasks.measure import Deployed, Measured, Reference, measure
from subbyte.utils.progress import Silent

IMAGES = 899  # of the evaluation


class Runtime:
    """Runs `network` in place of a file, and remembers on how many images each time."""

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.network = network
        self.batches: list[int] = []

    def load(self, path: Path, threads: int) -> Runtime:
        assert threads >= 1
        return self

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        (images,) = inputs
        self.batches.append(len(images))
        with torch.no_grad():
            return [self.network(torch.from_numpy(images)).numpy()]

    def int8_ops(self) -> int:
        return 7

    def version(self) -> str:
        return "1.2.3"


class Counting(nn.Module):
    """A network that counts the images that it sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        logits: torch.Tensor = self.network(x)
        return logits


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load(ModelConfig(name="digits"))


def opened(spec: ModelSpec, simulation_images: int | None) -> Task:
    data = DataConfig(name="digits", calibration_images=16)
    return open_task(Asked(data, simulation_images=simulation_images), spec, Silent())[0]


def measured(
    task: Task,
    model: nn.Module,
    float_model: FloatModel,
    reference: Reference | None = None,
    runtimes: tuple[str, ...] = ("onnxruntime",),
) -> Measured:
    paths = dict.fromkeys(runtimes, Path("folder/model.onnx"))
    return measure(task, model, Deployed(float_model, paths, {}), "w8a8", Silent(), reference)


def wrong_for_some(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same network, but for images whose first row holds any ink: of these, class 0."""

    def run(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(images).clone()
        inked = (images[:, 0, 0] > images.min()).any(1)
        logits[inked, 0] = logits[inked].amax(1) + 1
        return logits

    return run


def digit_images() -> torch.Tensor:
    """All evaluation images as the bundled model takes them."""
    pixels = torch.from_numpy(digits_split()[2])
    return (pixels[:, None].float() / 255 - 0.305) / 0.376


@pytest.mark.slow
@pytest.mark.parametrize("some", [None, 50])
def test_runtimes_run_all_images_and_the_simulation_some(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, some: int | None
) -> None:
    task, model = opened(spec, some), Counting(spec.module)
    runtime = Runtime(wrong_for_some(spec.module))
    monkeypatch.setattr(targets, "runtime", lambda _: runtime)
    entry = measured(task, model, capture(spec.module, task.example)).entry
    deployed = entry["deployed"]["onnxruntime"]
    assert model.seen == entry["images"] == deployed["agreement_images"] == (some or IMAGES)
    evaluated = [size for size in runtime.batches if size > 1]  # the rest are of latency
    assert sum(evaluated) == deployed["images"] == IMAGES
    assert deployed["simulated"] == entry["metrics"]

    images, labels = digit_images(), digits_split()[3]
    with torch.no_grad():
        exact = spec.module(images).argmax(1).numpy()
        other = wrong_for_some(spec.module)(images).argmax(1).numpy()
    chosen = list(task.simulated_images)
    assert entry["metrics"]["top1"] == pytest.approx((exact == labels)[chosen].mean())
    assert deployed["metrics"]["top1"] == pytest.approx((other == labels).mean())
    assert deployed["agreement"] == pytest.approx((exact == other)[chosen].mean())
    assert deployed["agreement"] < 1
    assert deployed["max_abs_diff"] > 1


def test_what_a_runtime_says_of_itself_and_how_fast_it_is(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, runtime = opened(spec, 20), Runtime(spec.module)
    monkeypatch.setattr(targets, "runtime", lambda _: runtime)
    captured = capture(spec.module, task.example)
    entry = measured(task, captured, captured).entry
    deployed = entry["deployed"]["onnxruntime"]
    assert (deployed["file"], deployed["version"]) == ("model.onnx", "1.2.3")
    assert (deployed["int8_ops"], deployed["int8_candidates"]) == (7, 0)
    assert deployed["latency_batch"] == 1
    assert runtime.batches.count(1) > targets.WARM_UP
    assert deployed["latency_ms"] > 0
    assert "latency_raw_ms" not in deployed


def test_without_runtimes_the_simulation_alone_is_measured(spec: ModelSpec) -> None:
    task = opened(spec, 30)
    model = Counting(spec.module)
    captured = capture(spec.module, task.example)
    found = measured(task, model, captured, runtimes=())
    assert (found.entry["deployed"], found.notes, model.seen) == ({}, [], 30)
    assert found.outputs.images == 30


def test_the_float_model_is_compared_with_on_the_same_images(spec: ModelSpec) -> None:
    task = opened(spec, 40)
    float_model = capture(spec.module, task.example)
    outputs = measured(task, spec.module, float_model, runtimes=()).outputs
    reference = Reference(float_model, outputs)
    same = measured(task, unquantized(float_model), float_model, reference, ()).entry
    assert same["agreement_with_float"] == 1

    batches = ArgumentsOf(task.data.calibration, torch.device("cpu"))
    recipe = Recipe(weights=2, activations=8, first_last=None, method="range")
    coarse = quantize_captured(float_model, batches, recipe)
    entry = measured(task, coarse, float_model, reference, ()).entry
    images = digit_images()[list(task.simulated_images)]
    with torch.no_grad():
        exact, other = spec.module(images).double(), coarse(images).double()
    agree = (exact.argmax(1) == other.argmax(1)).double().mean()
    assert entry["agreement_with_float"] == pytest.approx(float(agree))
    noise = (exact - other).square().sum() / exact.square().sum()
    assert entry["sqnr_db"] == pytest.approx(float(-10 * noise.log10()), abs=1e-3)


def test_each_runtime_is_compared_with_the_simulation_of_its_own_file(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    gated = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 6, 3), nn.Hardswish())
    network = nn.Sequential(gated, nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 10)).eval()
    task = opened(ModelSpec("own", network, "classification", spec.preprocessing, None), 60)
    float_model = capture(network, task.example)
    batches = ArgumentsOf(task.data.calibration, torch.device("cpu"))
    recipe = Recipe(weights=4, activations=4, first_last=None, method="range")
    quantized = quantize_captured(float_model, batches, recipe)
    names = ("onnxruntime", "openvino")
    files = {
        name: simulate(float_model, quantized.placement.for_target(name), quantized.params)
        for name in names
    }
    monkeypatch.setattr(targets, "runtime", lambda name: Runtime(files[name]))
    reference = Reference(float_model, measured(task, network, float_model, runtimes=()).outputs)
    with clipping.counting(quantized) as alone:
        measured(task, quantized, float_model, reference, ())
    with clipping.counting(quantized) as beside:
        entry = measured(task, quantized, float_model, reference, names).entry
    for deployed in entry["deployed"].values():
        assert deployed["agreement"] == 1
        assert deployed["max_abs_diff"] < 1e-5
    images = digit_images()[:50]
    with torch.no_grad():  # so that one simulation cannot stand for both
        assert (files["openvino"](images) - quantized(images)).abs().max() > 1e-3
    assert [c.values for c in beside] == [c.values for c in alone]
    assert clipping.share(*beside) == clipping.share(*alone)


def test_what_is_saved_says_which_images_it_is_of(spec: ModelSpec, tmp_path: Path) -> None:
    task: Any = opened(spec, 25)
    captured = capture(spec.module, task.example)
    outputs = measured(task, captured, captured, runtimes=()).outputs
    task.save(outputs, tmp_path / "outputs.npz")
    with np.load(tmp_path / "outputs.npz") as saved:
        assert saved["images"].tolist() == list(task.simulated_images)
        assert (saved["labels"] == digits_split()[3][saved["images"]]).all()
    assert np.array_equal(task.load(tmp_path / "outputs.npz").logits, outputs.logits)


def test_a_task_is_found_by_its_file() -> None:
    assert known() == ("classification", "detection")
    for name in known():
        file: Any = task_file(name)
        assert name == file.NAME

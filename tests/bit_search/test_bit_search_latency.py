"""The runtimes' own profiles, layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import subbyte
from subbyte import models
from subbyte.bit_search.choose import cheapest
from subbyte.bit_search.latency import Profiles, layer_times, side_by_side, units_by_latency
from subbyte.bit_search.sensitivity import LayerLoss, Sensitivity
from subbyte.placement.simulation import Simulation
from subbyte.targets import base as targets

IMAGES = torch.rand(2, 1, 8, 8)


@pytest.fixture(scope="module")
def quantized() -> Simulation:
    module = models.load(models.ModelConfig(name="digits")).module
    return subbyte.quantize(module, [IMAGES], subbyte.Recipe(method="range", ranges="minmax"))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_each_layer_has_its_time_on_integers(
    quantized: Simulation, runtime: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, IMAGES, target=runtime)
    layers = [layer.name for layer in quantized.placement.layers]
    image = IMAGES[:1].numpy()
    found = layer_times(path, targets.node_times(runtime)(path, 1, (image,)), layers)
    assert set(found) == set(layers)
    assert all(0 <= ms < 1000 for ms in found.values())
    assert sum(found.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_each_layer_has_its_time_in_float(
    quantized: Simulation, runtime: str, tmp_path: Path
) -> None:
    module = models.load(models.ModelConfig(name="digits")).module
    recipe = subbyte.Recipe(weights=None, activations=None, first_last=None)
    path = tmp_path / "float.onnx"
    subbyte.export(subbyte.quantize(module, [IMAGES], recipe), path, IMAGES)
    layers = [layer.name for layer in quantized.placement.layers]
    image = IMAGES[:1].numpy()
    found = layer_times(path, targets.node_times(runtime)(path, 1, (image,)), layers)
    assert set(found) == set(layers)


def test_a_runtime_without_a_profile_says_so() -> None:
    with pytest.raises(subbyte.SubbyteError, match="unknown runtime"):
        targets.node_times("none")


def test_a_layer_that_is_slower_on_integers_stays_in_float() -> None:
    def layer(name: str) -> LayerLoss:
        return LayerLoss(name, "weight", f"{name}.weight", (name,), 10, 1, {8: 0.1}, {8: 0.0})

    sensitivity = Sensitivity((layer("fast"), layer("slow"), layer("unknown")), 16)
    profiles = Profiles({"fast": 1.0, "slow": 3.0}, {"fast": 2.0, "slow": 1.0})
    found = cheapest(units_by_latency(sensitivity, profiles), float("inf"))
    assert found is not None
    assert [option.weights for option in found.options] == [8, None, 8]


def test_files_that_take_turns_are_measured_each() -> None:
    class Sleeps:
        def __init__(self, work: int) -> None:
            self.work = work

        def run(self, *inputs: object) -> list[object]:
            return [sum(range(self.work))]

        def int8_ops(self) -> int:
            return 0

    first, second = side_by_side([Sleeps(200), Sleeps(20_000)], [(), ()])  # type: ignore[list-item]
    assert second > 5 * first

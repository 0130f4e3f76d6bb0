"""ONNX files in place of a module: through `subbyte.quantize`, experiments and both runtimes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subbyte
from onnx_files import Node, outputs_of, proto, rand, same, saved
from subbyte.models import ModelConfig, load
from subbyte.models.onnx.load import load_onnx
from subbyte.models.onnx.module import OnnxModule
from subbyte.placement.simulation import Simulation
from subbyte.targets import base

SIDE = 16
IMAGES = torch.from_numpy(rand(4, 3, SIDE, SIDE))
RECIPE = subbyte.Recipe(method="range", ranges="minmax")


class Small(nn.Module):
    """What the exporters write in different ways: norms, SiLU, attention, a bias, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.act = nn.SiLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.gelu = nn.GELU()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = torch.relu(self.depthwise(x)) + x
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).chunk(3, -1)
        tokens = tokens + self.proj(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)
        logits: Tensor = self.head(self.gelu(tokens).mean(1))
        return logits


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    model = Small().eval()
    norm = model.stem[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module", params=["dynamo", "dynamo, fixed batch"])
def path(request: Any, small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as ONNX."""
    path: Path = tmp_path_factory.mktemp("small") / "small.onnx"
    fixed = "fixed" in request.param
    dynamic = None if fixed else ({0: torch.export.Dim("batch")},)
    x = torch.zeros(1 if fixed else 2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.onnx.export(small, (x,), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    return path


def test_outputs_are_those_of_the_module(path: Path, small: Small) -> None:
    module = load_onnx(path)
    (expected,) = outputs_of(small, IMAGES)
    same(outputs_of(module, IMAGES)[0], expected.numpy())
    same(outputs_of(copy.deepcopy(module), IMAGES)[0], expected.numpy())


@pytest.fixture(scope="module")
def quantized(path: Path) -> Simulation:
    return subbyte.quantize(path, [IMAGES], RECIPE)


@pytest.fixture(scope="module")
def of_module(small: Small) -> Simulation:
    return subbyte.quantize(small, [IMAGES], RECIPE)


@pytest.mark.slow
def test_layers_are_those_of_the_module(quantized: Simulation, of_module: Simulation) -> None:
    for found, expected in zip(subbyte.layers(quantized), subbyte.layers(of_module), strict=True):
        keys = ["role", "bits"] if expected["role"] == "activation" else ["layer", "role", "bits"]
        assert [found[key] for key in keys] == [expected[key] for key in keys]
        np.testing.assert_allclose(found["scale"], expected["scale"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_both_runtimes_have_the_same_int8_kernels(
    quantized: Simulation, of_module: Simulation, target: str, tmp_path: Path
) -> None:
    sessions = []
    for name, simulation in (("file", quantized), ("module", of_module)):
        file = tmp_path / f"{name}.onnx"
        subbyte.export(simulation, file, IMAGES, target=target)
        sessions.append(base.runtime(target).load(file, 1))
    of_file, expected = sessions
    assert of_file.int8_ops() == expected.int8_ops() >= 6
    x = IMAGES.numpy()
    np.testing.assert_allclose(of_file.run(x)[0], expected.run(x)[0], atol=0.02)


@pytest.mark.slow
def test_what_was_saved_is_loaded_with_the_file(
    path: Path, quantized: Simulation, tmp_path: Path
) -> None:
    subbyte.save(quantized, tmp_path / "grids.safetensors")
    loaded = subbyte.load(str(path), tmp_path / "grids.safetensors")
    assert torch.equal(outputs_of(loaded, IMAGES)[0], outputs_of(quantized, IMAGES)[0])


def test_a_file_is_a_model_of_an_experiment(path: Path) -> None:
    spec = load(ModelConfig(onnx=path))
    assert isinstance(spec.module, OnnxModule)
    assert (spec.name, spec.task) == ("small.onnx", "classification")
    assert not spec.module.training


def test_what_gives_more_than_a_matrix_is_a_detector(tmp_path: Path) -> None:
    nodes: list[Node] = [("Conv", "x w", "y"), ("Relu", "y", "z")]
    model = proto(nodes, constants={"w": rand(5, 4, 1, 1)}, outputs=("y", "z"))
    assert load(ModelConfig(onnx=saved(model, tmp_path))).task == "detection"


def test_a_wrong_number_of_inputs(path: Path) -> None:
    x = torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(TypeError, match="the file takes x, and is given 2 tensors"):
        load_onnx(path)(x, x)

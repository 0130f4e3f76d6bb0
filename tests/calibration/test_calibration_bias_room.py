"""Biases beside weights that are next to nothing."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.calibration.bias_room import with_room_for_biases
from subbyte.placement.simulation import Simulation
from subbyte.targets import onnxruntime

pytestmark = pytest.mark.slow  # many files, each run in both runtimes

X = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(1))
RANGE = subbyte.Recipe(method="range", **FITTING)


def sqnr_db(expected: Tensor, given: Tensor) -> float:
    """Energy of what varies from image to image over that of the difference."""
    expected, given = expected.double(), given.double()
    signal, noise = expected - expected.mean(0), given - expected
    return 10 * math.log10(float(signal.square().sum() / noise.square().sum()))


def switched_off(gamma: float, *, cnn: bool = True) -> nn.Module:
    """Every fourth channel of the first layer has the factor `gamma`, and a shift of 1.5."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, 3, padding=1, bias=False) if cnn else nn.Linear(432, 16)
    norm = nn.BatchNorm2d(16) if cnn else nn.BatchNorm1d(16)
    with torch.no_grad():
        norm.weight[::4], norm.bias[::4] = gamma, 1.5
    if not cnn:
        return nn.Sequential(nn.Flatten(), first, norm, nn.Hardswish(), nn.Linear(16, 5)).eval()
    rest = [nn.Conv2d(16, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(3)]
    return nn.Sequential(first, norm, nn.Hardswish(), *rest, nn.Flatten(), nn.Linear(72, 5)).eval()


def lost(model: nn.Module, recipe: subbyte.Recipe) -> tuple[Simulation, float]:
    quantized = subbyte.quantize(model, [X[:16], X[16:]], recipe)
    with torch.no_grad():
        return quantized, sqnr_db(copy.deepcopy(model).double()(X.double()), quantized(X))


METHODS: dict[str, Any] = {
    "range": "range",
    "bias_correction": "bias_correction",
    "adaround": {"name": "adaround", "steps": 2},
    "brecq": {"name": "brecq", "steps": 2, "activation_steps": 2},
    "qdrop": {"name": "qdrop", "steps": 2},
    "lapq": {"name": "lapq", "max_evaluations": 5},
    "lapq from a rule": {"name": "lapq", "max_evaluations": 5, "start": "minmax"},
    "subbyte": {"name": "subbyte", "steps": 3},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [1e-6, 0.0])
def test_a_switched_off_channel_costs_nothing(method: str, gamma: float) -> None:
    recipe = subbyte.Recipe(method=METHODS[method], **FITTING)
    _, found = lost(switched_off(gamma), recipe)
    assert found > 24  # with a factor of 0.01 it is 26 to 30


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("cnn", [True, False])
def test_every_bias_fits_with_room_for_the_sum(bits: int, per_channel: bool, cnn: bool) -> None:
    recipe = subbyte.Recipe(method="range", weights=bits, per_channel=per_channel, **FITTING)
    model = switched_off(1e-8, cnn=cnn)
    if not per_channel:  # so that one scale of all is small
        with torch.no_grad():
            for layer in model:
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.weight[:] = 1e-8
    quantized, _ = lost(model, recipe)
    biases = [m for m in quantized.modules() if type(m).__name__ == "BiasQuantize"]
    assert biases
    for bias in quantized.placement.biases:
        x, weight = (quantized.quantizer(key) for key in (bias.activation, bias.weight))
        name = bias.weight.removesuffix("weight") + "bias"
        level = quantized.bias(name).double().abs() / (x.scale.double() * weight.scale.double())
        assert float(level.max()) <= 2**29 * (1 + 1e-6)


@pytest.mark.parametrize("gamma", [1e-5, 1e-8])
def test_onnx_runtime_gives_what_the_simulation_gives(gamma: float, tmp_path: Path) -> None:
    quantized, _ = lost(switched_off(gamma), RANGE)
    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, X[:2])
    (found,) = onnxruntime.load(path, 1).run(X.numpy())
    with torch.no_grad():
        assert sqnr_db(quantized(X), torch.from_numpy(found)) > 90


def test_channels_whose_biases_fit_keep_what_they_have() -> None:
    quantized, _ = lost(switched_off(0.5), RANGE)
    params = quantized.params
    found = with_room_for_biases(quantized.float_model, quantized.placement, params)
    assert all(found.tensors[key] is params.tensors[key] for key in params.tensors)


def test_other_channels_of_the_weight_keep_their_integers() -> None:
    ordinary, _ = lost(switched_off(0.5), RANGE)
    found, _ = lost(switched_off(1e-8), RANGE)
    before, after = (q.params.tensors["0.weight"] for q in (ordinary, found))
    assert before.integers is not None
    assert after.integers is not None
    others = [i for i in range(16) if i % 4]
    assert torch.equal(before.integers[others], after.integers[others])
    assert torch.equal(before.scale[others], after.scale[others])

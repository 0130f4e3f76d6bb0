"""Transposed convolutions: layers like others, on integers in OpenVINO, exact in ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from targets_helpers import RUNTIMES, normal, placed_for, run, seeded
from torch import Tensor, nn

import subbyte
from subbyte.graph.operators import A
from subbyte.placement.simulation import Simulation

pytestmark = pytest.mark.slow  # many files, each run in both runtimes

Trained = Callable[[nn.Module], nn.Module]


class Up(nn.Module):
    """A decoder's step: a transposed convolution with batch norm between two convolutions."""

    def __init__(self, dims: int = 2, **options: Any) -> None:
        super().__init__()
        conv, up, norm = (
            (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)
            if dims == 1
            else (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
        )
        options = {"kernel_size": 4, "stride": 2, "padding": 1, **options}
        self.a, self.up = conv(3, 16, 3, padding=1), up(16, 16, bias=False, **options)
        self.norm, self.b = norm(16), conv(16, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.up(self.a(x).relu())).relu())


def spread(model: Up, groups: int) -> Up:
    """Output channels whose ranges differ a hundredfold, as batch norm behind them allows."""
    with torch.no_grad():
        each = torch.logspace(0, 2, 16 // groups)
        model.up.weight *= each.reshape(1, -1, *[1] * (model.up.weight.dim() - 2))
        model.norm.running_var[:] = (each.repeat(groups) / 4) ** 2
        model.norm.running_mean.zero_()
    return model.eval()


def decibels(expected: Tensor, found: Tensor) -> float:
    error = (expected - found).detach().double().square().sum()
    return float(10 * torch.log10(expected.detach().double().square().sum() / error))


CASES = [
    ({}, (8, 8)),
    ({"kernel_size": 2, "padding": 0}, (8, 8)),
    ({"kernel_size": 3, "output_padding": 1}, (7, 8)),
    ({"groups": 4}, (8, 8)),
    ({"groups": 16}, (8, 8)),
    ({"dims": 1}, (16,)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shape", "bits"), [(*case, bits) for case, bits in itertools.product(CASES, (8, 4))]
)
def test_files_are_the_simulation(
    options: dict[str, Any], shape: tuple[int, ...], bits: int, trained: Trained, tmp_path: Path
) -> None:
    batch, path = normal(4, 3, *shape), tmp_path / "model.onnx"
    model = spread(trained(seeded(lambda: Up(**options))), options.get("groups", 1))
    recipe = subbyte.Recipe(method="range", weights=bits, activations=8, ranges="minmax")
    quantized = subbyte.quantize(model, [batch], recipe)
    assert all(layer.integer for layer in quantized.placement.layers)
    kinds = {node.target for node in quantized.float_model.region("").graph.nodes}
    assert A.batch_norm.default not in kinds
    assert decibels(model(batch), quantized(batch)) > (35 if bits == 8 else 12)
    for target in (None, *RUNTIMES):
        subbyte.export(quantized, path, batch, target=target)
        expected = placed_for(quantized, target)(batch)
        for runtime in RUNTIMES if target is None else (target,):
            found = torch.from_numpy(run(runtime, path, batch)[0])
            assert decibels(expected, found) > 60, (target, runtime)
    plain = options.get("groups", 1) == 1 and len(shape) == 2
    assert not plain or RUNTIMES["openvino"].load(path, 1).int8_ops() == 3


def quantized_by(method: str, trained: Trained) -> tuple[Simulation, float]:
    """A model with four bits a weight, and its signal-to-noise ratio on images of its own."""
    model, batch = trained(seeded(Up)), normal(32, 3, 8, 8)
    recipe = subbyte.Recipe(method=method, weights=4, activations=8, first_last=8)

    quantized = subbyte.quantize(model, [batch[:16]], recipe)
    return quantized, decibels(model(batch[16:]), quantized(batch[16:]))


@pytest.mark.slow
def test_the_integers_of_a_transposed_convolution_are_fitted(trained: Trained) -> None:
    _, rounded = quantized_by("bias_correction", trained)
    found, fitted = quantized_by("subbyte", trained)
    assert fitted > rounded + 1
    (note,) = [n for n in found.params.reported["blocks"] if n.get("block") == "up"]
    assert note["fell_back"] is False


@pytest.mark.parametrize("target", [None, "onnxruntime"])
def test_a_weight_that_stays_in_float_is_not_rounded_by_onnxruntime(
    target: str | None, trained: Trained, tmp_path: Path
) -> None:
    batch, path = normal(4, 3, 8, 8), tmp_path / "model.onnx"
    recipe = subbyte.Recipe(method="range", overrides={"up": {"weights": None}})
    quantized = subbyte.quantize(spread(trained(seeded(Up)), 1), [batch], recipe)
    subbyte.export(quantized, path, batch, target=target)
    found = torch.from_numpy(run("onnxruntime", path, batch)[0])
    assert decibels(quantized(batch), found) > 60

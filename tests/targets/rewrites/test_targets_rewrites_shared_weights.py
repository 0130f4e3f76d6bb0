"""Layers that share a weight keep their int8 kernels where their results are multiplied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from targets_helpers import RUNTIMES, normal, operators, placed_for, run, seeded
from torch import Tensor, nn

import subbyte


class Scaled(nn.Module):
    """A last layer that two tensors share, and a factor for each, as in the heads of FCOS."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 16, 1) if convolution else nn.Linear(8, 16)
        self.second = nn.Conv2d(16, 16, 1) if convolution else nn.Linear(16, 16)
        self.out = nn.Conv2d(16, 4, 1) if convolution else nn.Linear(16, 4)
        self.factors = nn.Parameter(torch.tensor([1.3, 0.7]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x).relu()
        return self.out(x) * 8, self.out(self.second(x).relu()) * self.factors[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, "openvino"])
@pytest.mark.parametrize("convolution", [True, False])
def test_factors_of_a_shared_layer(convolution: bool, target: str | None, tmp_path: Path) -> None:
    batch, path = normal(3, 8, 8, 8), tmp_path / "model.onnx"
    model = seeded(lambda: Scaled(convolution))
    quantized = subbyte.quantize(model, [batch], subbyte.Recipe(method="range"))
    subbyte.export(quantized, path, batch, target=target)
    assert RUNTIMES["openvino"].load(path, 1).int8_ops() == 4
    for y, expected in zip(
        run("openvino", path, batch), placed_for(quantized, target)(batch), strict=True
    ):
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_shared_layer_without_factors_has_one_weight(tmp_path: Path) -> None:
    class Plain(Scaled):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x).relu()
            return self.out(x), self.out(self.second(x).relu())

    batch, path = normal(3, 8, 8, 8), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(lambda: Plain(True)), [batch], subbyte.Recipe())
    subbyte.export(quantized, path, batch)
    found = operators(path)  # a weight and a bias a layer, an input each; `out` has two biases
    assert found["Conv"] == 4
    assert found["DequantizeLinear"] == 3 + 4 + 3

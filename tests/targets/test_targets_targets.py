"""Files for one runtime: each computes what the simulation with that file's quantizers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from targets_helpers import (
    RUNTIMES,
    WIDTH,
    SelfAttention,
    SideBySide,
    TwoConvs,
    differences,
    images,
    normal,
    operators,
    placed_for,
    seeded,
    step,
)
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.targets.onnx.export import read_metadata

pytestmark = pytest.mark.slow

TINY = 0.05  # of one step of the last integer sums
TOKENS = 9


class Gated(nn.Module):
    """Convolutions with SiLU and hardswish behind them, squeeze and excitation, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.third, self.last = nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.first(x))
        z = F.hardswish(self.second(y))
        weight = F.relu(self.squeeze(z.mean((2, 3), keepdim=True)))
        z = self.third(z * self.excite(weight).sigmoid())
        return self.last((y + z).mean((2, 3)))


class Patches(nn.Module):
    """A convolution whose result is read in float alone, as a vision transformer's first one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.last = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1)
        return self.last(self.norm(y)[:, 0] + self.norm(y).mean(1))


def tokens(count: int = 8, seed: int = 1) -> Tensor:
    return normal(count, TOKENS, WIDTH, seed=seed)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("make", "inputs", "lasts"),
    [
        (Gated, images, ["last"]),
        (SelfAttention, tokens, ["last"]),
        (Patches, images, ["last"]),
        (SideBySide, images, ["one.conv", "two.second", "residual.last", "pooled.linear"]),
    ],
)
def test_a_file_is_its_simulation_to_the_last_integer(
    make: type[nn.Module],
    inputs: Callable[..., Tensor],
    lasts: list[str],
    bits: int,
    tmp_path: Path,
) -> None:
    fields = {"ranges": "minmax", "method": "range", **FITTING}
    recipe = subbyte.Recipe(weights=bits, activations=bits, **fields)
    quantized = subbyte.quantize(seeded(make), [inputs()], recipe)
    batch = torch.cat([inputs(3, seed=2), 3 * inputs(3, seed=3)])
    candidates = sum(layer.integer for layer in quantized.placement.layers)
    for target, runtime in RUNTIMES.items():
        path = tmp_path / f"model.{target}.onnx"
        subbyte.export(quantized, path, inputs(2), target=target)
        off = differences(target, path, placed_for(quantized, target), batch)
        assert all(d < TINY * step(quantized, last) for d, last in zip(off, lasts, strict=True))
        if make is not SideBySide:  # whose last convolutions give floats
            assert (
                runtime.load(path, 1).int8_ops() >= candidates
            )  # more, where one is written in parts


def test_queries_keys_and_values_are_layers_of_their_own(tmp_path: Path) -> None:
    recipe = subbyte.Recipe(ranges="minmax", method="range")
    quantized = subbyte.quantize(seeded(SelfAttention), [tokens()], recipe)
    for target in RUNTIMES:
        path = tmp_path / f"{target}.onnx"
        subbyte.export(quantized, path, tokens(2), target=target)
        found = operators(path)
        assert found["MatMul"] == 3 + 2 + 1 + 1  # q, k, v; the products; behind them; the last
        assert not found.keys() & {"Gather", "Split"}


def test_keys_are_transposed_within_openvinos_kernel(tmp_path: Path) -> None:
    recipe = subbyte.Recipe(ranges="minmax", method="range")
    quantized = subbyte.quantize(seeded(SelfAttention), [tokens()], recipe)
    subbyte.export(quantized, tmp_path / "model.onnx", tokens(2), target="openvino")
    nodes = onnx.load(str(tmp_path / "model.onnx")).graph.node
    made = {output: node for node in nodes for output in node.output}
    second = [made[node.input[1]] for node in nodes if node.op_type == "MatMul"]
    (keys,) = [node for node in second if node.op_type == "Transpose"]
    assert made[keys.input[0]].op_type == "DequantizeLinear"


@pytest.mark.parametrize("target", [None, "openvino"])
def test_a_file_says_which_runtime_it_is_for(target: str | None, tmp_path: Path) -> None:
    quantized = subbyte.quantize(seeded(TwoConvs), [images()])
    subbyte.export(quantized, tmp_path / "model.onnx", images(2), target=target)
    assert read_metadata(tmp_path / "model.onnx").get("target") == target

"""The last convolutions in ONNX Runtime's file: on integers, with results in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from targets_helpers import RUNTIMES, differences, images, operators, seeded
from torch import Tensor, nn

import subbyte
from processor import FITTING

pytestmark = pytest.mark.slow

TINY = 0.05  # of one step of the integer sums
DIGITS = 5e-7  # what float32 leaves open of values of about 1


class Heads(nn.Module):
    """Last convolutions of all kinds on one feature map, one of them on another as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.plain = nn.Conv2d(8, 5, 3, padding=1)
        self.point = nn.Conv2d(8, 4, 1, bias=False)
        self.odd = nn.Conv2d(8, 3, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2))
        self.grouped = nn.Conv2d(8, 4, 3, groups=2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        high = F.relu(self.stem(x))
        low = F.max_pool2d(F.relu(self.down(high)), 2, 1)  # the Q/DQ stands in front of it
        rows = self.plain(low).permute(0, 2, 3, 1).flatten(1)
        return rows, self.plain(high), self.point(high), self.odd(high), self.grouped(high)


def smallest_step(quantized: nn.Module, layer: str) -> float:
    """Of the integer sums of a layer: scale of what it reads · scale of a weight."""
    rows = subbyte.layers(quantized)
    read = [r["scale"] for r in rows if r["role"] == "activation" and layer in r["readers"]]
    (weight,) = (r["scale"] for r in rows if r["role"] == "weight" and r["layer"] == layer)
    return min(read) * float(np.min(weight))


@pytest.mark.parametrize(
    "recipe", [{}, {"weights": 4, "activations": 4, "first_last": None}, {"per_channel": False}]
)
def test_last_convolutions_are_products_of_integers(
    recipe: dict[str, object], tmp_path: Path
) -> None:
    batch, path = images(), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(Heads), [batch], subbyte.Recipe(**FITTING | recipe))
    subbyte.export(quantized, path, batch[:2], target="onnxruntime")
    found = operators(path)
    assert (found["MatMul"], found["Conv"]) == (4, 3)  # what has groups is a convolution
    assert RUNTIMES["onnxruntime"].load(path, 1).int8_ops() == 6
    lasts = ["plain", "plain", "point", "odd"]
    errors = differences("onnxruntime", path, quantized, images(5, seed=7))
    for name, error in zip(lasts, errors, strict=False):
        assert error < TINY * smallest_step(quantized, name) + DIGITS


class Unbatched(nn.Module):
    """A last convolution on a tensor (channels, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(9, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten().reshape(9, 2, -1))


@pytest.mark.parametrize("target", [None, "onnxruntime", "openvino"])
def test_a_last_convolution_without_a_batch(target: str | None, tmp_path: Path) -> None:
    batch, path = images(), tmp_path / "model.onnx"
    recipe = subbyte.Recipe(method="range", **FITTING)
    quantized = subbyte.quantize(seeded(Unbatched), [batch], recipe)
    subbyte.export(quantized, path, batch, target=target)
    for runtime in RUNTIMES if target is None else [target]:
        (error,) = differences(runtime, path, quantized, images(5, seed=7))
        assert error < TINY * smallest_step(quantized, "conv") + DIGITS


def test_the_file_for_both_keeps_its_convolutions(tmp_path: Path) -> None:
    batch, path = images(), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(Heads), [batch])
    subbyte.export(quantized, path, batch[:2])
    assert (operators(path)["MatMul"], operators(path)["Conv"]) == (0, 7)

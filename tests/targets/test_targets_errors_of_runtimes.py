"""What a runtime would compute wrong as it stands, beside the simulation of its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from targets_helpers import listed, normal, placed_for, run, seeded
from torch import Tensor, nn

import subbyte
from processor import FITTING

RIGHT = 90.0  # dB, where an integer that is another one is 60 at most, and a wrong kernel 10


class SecondReader(nn.Module):
    """Convolutions without bias whose results are read in float beside the next convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(3, 8, 3, padding=1, bias=False) for _ in range(4))
        self.bodies = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b, c, d = (head(x) for head in self.heads)
        skip, gate = self.bodies[0](a) + a, self.bodies[1](b) * b.sigmoid()
        last = self.depthwise(d)
        return skip, gate, self.bodies[2](c), c, last * last


class ProductTwice(nn.Module):
    """A product of two activations that is squared."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        product = self.q(x) @ self.k(x).transpose(1, 2)
        return product * product


class Extremes(nn.Module):
    """Maxima and minima over channels, rows or positions, in front of other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.maps = nn.ModuleList(nn.Conv2d(1, 4, 3) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a = F.silu(self.first(x))
        highest, lowest = a.amax(1, keepdim=True), a.min(1, keepdim=True).values
        pooled = F.adaptive_max_pool2d(a, 1).flatten(1)
        return (
            self.maps[0](highest),
            self.maps[1](lowest),
            self.heads[0](pooled),
            self.heads[1](torch.sigmoid(a.amin((2, 3)))),
            self.heads[2](a.max(2).values.transpose(1, 2)),
        )


class PaddedPooling(nn.Module):
    """Averages that count padding, of values of both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))
        self.ends = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a = self.first(x)
        return (
            self.last[0](F.avg_pool2d(a, 3, 2, 1)),
            self.last[1](F.avg_pool2d(F.pad(a, (1, 0, 2, 1)), 2)),
            self.ends(F.avg_pool1d(a[:, :, 0], 4, 2, 2)),
        )


class Antialiased(nn.Module):
    """Resizing with antialias in front of convolutions, with corners aligned or not."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        resized = (
            F.interpolate(x, (5, 9), mode="bilinear", antialias=True),
            F.interpolate(x, scale_factor=0.4, mode="bicubic", antialias=True),
            F.interpolate(x, (4, 4), mode="bilinear", antialias=True, align_corners=True),
        )
        return [conv(y) for conv, y in zip(self.convolutions, resized, strict=True)]


class Shifted(nn.Module):
    """A sum of two shifted convolutions, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.c((a + 1) + (self.b(a) + 1))


class PaddedStride(nn.Module):
    """A 1×1 convolution with a stride and padding behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Rows(nn.Module):
    """A linear layer without bias, whose rows are made matrices again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(0, 1)).view(-1, 6, 4).softmax(1)


class Softmax(nn.Module):
    """A softmax between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).softmax(1))


class Turned(nn.Module):
    """Convolutions of 1×1 beside transpositions of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(8, 8, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = self.second(self.first(x).relu().permute(0, 2, 1, 3))
        return self.third(a.relu()).permute(0, 3, 2, 1)


CASES = {
    "second reader": (SecondReader, (4, 3, 8, 8)),
    "product twice": (ProductTwice, (4, 6, 8)),
    "extremes": (Extremes, (4, 3, 8, 8)),
    "padded pooling": (PaddedPooling, (4, 3, 8, 8)),
    "shifted": (Shifted, (4, 3, 6, 6)),
    "padded stride": (PaddedStride, (4, 3, 12, 12)),
    "rows": (Rows, (4, 6, 5)),
    "softmax": (Softmax, (4, 3, 6, 6)),
    "antialiased": (Antialiased, (4, 3, 12, 16)),
}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_both_runtimes_compute_what_the_simulation_does(case: str, tmp_path: Path) -> None:
    make, shape = CASES[case]
    net, x = seeded(make), normal(*shape)
    quantized = subbyte.quantize(net, [x], subbyte.Recipe(method="range", **FITTING))
    assert min(sqnr(listed(net(x)), listed(quantized(x)))) > 15
    for target in (None, "onnxruntime", "openvino"):
        path = tmp_path / "model.onnx"
        subbyte.export(quantized, path, x, target=target)
        expected = placed_for(quantized, target)
        for runtime in ("onnxruntime", "openvino") if target is None else (target,):
            found = [torch.from_numpy(y) for y in run(runtime, path, x)]
            right = sqnr(listed(expected(x)), found)
            assert min(right) > RIGHT, (target, runtime, right)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("target", [None, "openvino"])
def test_weights_alone_beside_transpositions(target: str | None, tmp_path: Path) -> None:
    x, path = normal(3, 8, 8, 8), tmp_path / "model.onnx"
    recipe = subbyte.Recipe(method="range", activations=None)
    quantized = subbyte.quantize(seeded(Turned), [x], recipe)
    subbyte.export(quantized, path, x, target=target)
    for runtime in ("openvino", "onnxruntime"):
        found = torch.from_numpy(run(runtime, path, x)[0])
        assert min(sqnr([quantized(x)], [found])) > RIGHT


def sqnr(expected: list[Tensor], found: list[Tensor]) -> list[float]:
    """SQNR of each tensor, in dB."""
    assert [y.shape for y in expected] == [y.shape for y in found]
    pairs = [(a.double(), b.double()) for a, b in zip(expected, found, strict=True)]
    ratios = [a.square().sum() / (a - b).square().sum().clamp(min=1e-30) for a, b in pairs]
    return [float(10 * torch.log10(ratio)) for ratio in ratios]

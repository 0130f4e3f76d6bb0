"""Weights that layers share are copied where each layer has a batch norm of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import subbyte
from subbyte.api import capture


class Levels(nn.Module):
    """A convolution that two feature maps share, with a batch norm for each, as RTMDet's heads."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=bias)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x).relu()
        maps = [x, torch.max_pool2d(x, 2)]
        return [
            self.out(norm(self.conv(y)).relu()) for norm, y in zip(self.norms, maps, strict=True)
        ]


class OneWithout(Levels):
    """The same, and one reader has no batch norm."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [*super().forward(x), self.out(self.conv(self.stem(x).relu()))]


class Steps(nn.Module):
    """A linear layer used twice on one row an image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norms = nn.Linear(6, 6), nn.ModuleList(nn.BatchNorm1d(6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = norm(self.fc(x)).relu()
        return x


IMAGES = (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("make", "shape", "names"),
    [
        (Levels, IMAGES, {"stem", "conv", "conv_2", "out"}),
        (lambda: Levels(bias=True), IMAGES, {"stem", "conv", "conv_2", "out"}),
        (OneWithout, IMAGES, {"stem", "conv", "conv_2", "conv_3", "out"}),
        (Steps, (5, 6), {"fc"}),  # a copy would be read as often as it is used
    ],
)
def test_each_batch_norm_is_folded_into_a_copy(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    names: set[str],
    trained: Callable[[nn.Module], nn.Module],
) -> None:
    model = trained(make())
    captured = capture(model, (torch.randn(shape),))
    assert {layer.name for layer in captured.layers[""]} == names
    norms = [n for n in captured.region("").graph.nodes if "batch_norm" in n.name]
    assert len(norms) == (2 if make is Steps else 0)
    x = torch.randn(2, *shape[1:])
    torch.testing.assert_close(captured(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_was_saved_of_copies_is_loaded(trained, tmp_path) -> None:
    model, x = trained(Levels()), torch.randn(IMAGES)
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range"))
    subbyte.save(quantized, tmp_path / "model.safetensors")
    loaded = subbyte.load(model, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(loaded(x), quantized(x), strict=True))

"""Operators whose rank a runtime does not know, or whose rank it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from targets_helpers import RUNTIMES, normal, placed_for, run, seeded
from torch import Tensor, nn

import subbyte


class Squeezed(nn.Module):
    """A global pool, whose height and width a squeeze removes, with dimensions named or not."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv(x).relu())
        return self.fc(x.squeeze(self.dims) if self.dims else x.squeeze())


class Rows(nn.Module):
    """Group norm of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("target", [None, "openvino"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Squeezed, (4, 3, 8, 8)),
        (lambda: Squeezed(1, 2, -1), (4, 3, 8, 8)),  # the channels, eight of them, stay
        (Rows, (16, 8)),
    ],
    ids=["squeeze", "squeeze of three", "group norm"],
)
def test_both_runtimes_load_and_run_it(make, shape, target: str | None, tmp_path: Path) -> None:
    batch, path, model = normal(*shape), tmp_path / "model.onnx", seeded(make)
    quantized = subbyte.quantize(model, [batch], subbyte.Recipe(method="range"))
    subbyte.export(quantized, path, batch, target=target)
    for count in (1, len(batch)):
        expected = placed_for(quantized, target)(batch[:count])
        assert expected.shape == (count, expected.shape[-1])
        for runtime in RUNTIMES if target is None else (target,):
            found = torch.from_numpy(run(runtime, path, batch[:count])[0])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    float_one = subbyte.quantize(model, [batch], subbyte.Recipe(weights=None, activations=None))
    torch.testing.assert_close(float_one(batch), model(batch), rtol=1e-5, atol=1e-5)

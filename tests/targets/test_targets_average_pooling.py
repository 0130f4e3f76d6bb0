"""Average pooling divides in the runtimes by what PyTorch divides by, in float and on integers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from targets_helpers import RUNTIMES, normal, run
from torch import Tensor, nn

import subbyte
from subbyte.api import capture, unquantized
from subbyte.targets.onnx.export import export_float

pytestmark = pytest.mark.slow  # many files, each run in both runtimes

# Kernel, stride, padding: windows that are whole, that reach over the edge by 1 or 2, that would
# begin within the padding behind it and so are left out, and that have gaps between them.
WINDOWS = [(2, 2, 0), (3, 2, 1), (3, 2, 0), (2, 2, 1), (3, 3, 1), (4, 3, 2), (1, 2, 0), (2, 3, 0)]


class Pools(nn.Module):
    """Many poolings of one positive map, as a ReLU gives it."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv = nn.Conv1d if dims == 1 else nn.Conv2d
        self.conv = conv(3, 4, 3, padding=1)
        pool, divisors = (nn.AvgPool1d, [{}]) if dims == 1 else (nn.AvgPool2d, [{}, {"x": 3}])
        self.pools = nn.ModuleList(
            pool(k, s, p, ceil_mode=ceil, count_include_pad=count, **_divisor(divisor))
            for (k, s, p), ceil, count, divisor in itertools.product(
                WINDOWS, (True, False), (True, False), divisors
            )
            if p == 0 or count or ceil
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.conv(x).relu()
        return tuple(pool(x) for pool in self.pools)


def _divisor(given: dict[str, int]) -> dict[str, int]:
    return {"divisor_override": given["x"]} if given else {}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(15, 15), (16, 15), (14, 17), (15,), (16,)])
def test_in_a_float_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    model, batch = Pools(len(shape)).eval(), normal(2, 3, *shape)
    path = tmp_path / "model.onnx"
    export_float(unquantized(capture(model, (batch,))), path, (batch,))
    for runtime in RUNTIMES:
        for pool, y, expected in zip(
            model.pools, run(runtime, path, batch), model(batch), strict=True
        ):
            found = torch.from_numpy(y)
            assert found.shape == expected.shape, (runtime, pool)
            torch.testing.assert_close(
                found, expected, rtol=1e-5, atol=1e-5, msg=lambda m, p=pool: f"{p}: {m}"
            )


class Between(nn.Module):
    """A pooling between two convolutions, as the shortcuts of ResNet-D have it."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.first, self.pool, self.last = nn.Conv2d(3, 8, 3, padding=1), pool, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.first(x).relu()))


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, *RUNTIMES])
@pytest.mark.parametrize(
    ("pool", "side"),
    [
        (nn.AvgPool2d(2, 2, ceil_mode=True), 15),
        (nn.AvgPool2d(2, 2, ceil_mode=True), 16),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), 16),
        (nn.AvgPool2d(2, 2, 1, ceil_mode=True), 15),
        (nn.AvgPool2d(2, 2, divisor_override=1), 16),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5), 16),
    ],
    ids=str,
)
def test_on_integers(pool: nn.Module, side: int, target: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch, path = normal(4, 3, side, side), tmp_path / "model.onnx"
    quantized = subbyte.quantize(
        Between(pool).eval(), [batch], subbyte.Recipe(method="range", ranges="minmax")
    )
    subbyte.export(quantized, path, batch, target=target)
    expected = quantized(batch)
    step = float(expected.abs().max()) / 255
    for runtime in RUNTIMES if target is None else (target,):
        found = torch.from_numpy(run(runtime, path, batch)[0])
        # A few values may be rounded to the other side: never by more than a step.
        assert float((found - expected).abs().max()) < 2 * step
        assert float((found - expected).abs().mean()) < 0.02 * step
        assert RUNTIMES[runtime].load(path, 1).int8_ops() >= (2 if target else 1)

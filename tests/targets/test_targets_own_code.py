"""Models whose own code, around the regions, works with the size of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from targets_helpers import RUNTIMES, differences, normal, seeded
from torch import Tensor, nn, stack

import subbyte
from processor import FITTING

pytestmark = pytest.mark.slow


class Around(nn.Module):
    """A convolution, and code of the user's behind it."""

    def __init__(self, behind: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.behind = nn.Conv2d(3, 8, 3), behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.conv(x), x)


class Tiles(nn.Module):
    """Images are cut into four tiles, and their number is worked out by a division of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        tiles = x.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 3, 3)
        y = self.conv(tiles)
        return y.reshape(int(y.shape[0] / 4.0), 4, -1)


def of_length(y: Tensor, x: Tensor) -> Tensor:
    return y.reshape(int(len(x) * 1.0), 4, 2, -1).transpose(1, 2).reshape(int(len(x) * 1.0), 8, -1)


def of_value(y: Tensor, x: Tensor) -> Tensor:
    return y * int(x.shape[0] / 1.0)


def of_loop(y: Tensor, x: Tensor) -> Tensor:
    return stack([y[i] * 2 for i in range(len(x))])


def of_branch(y: Tensor, x: Tensor) -> Tensor:
    return y if x.shape[0] > 3 else y * 2


def of_product(y: Tensor, x: Tensor) -> Tensor:
    return y.reshape(math.prod(y.shape[:2]), -1).sum(1)


def line_of(code: Callable[..., Tensor]) -> str:
    return f"{Path(__file__).name}:{code.__code__.co_firstlineno + 1}"


@pytest.mark.parametrize(
    "make",
    [
        Tiles,
        lambda: Around(of_length),
        lambda: Around(of_value),
        lambda: Around(of_product),
    ],
    ids=["tiles", "length", "value", "product"],
)
def test_any_batch_size_runs(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", seeded(make)
    batch = normal(4, 3, 6, 6)
    quantized = subbyte.quantize(model, [batch], subbyte.Recipe(method="range", **FITTING))
    subbyte.export(quantized, path, batch)
    for size in (1, 3, 6):
        other = normal(size, 3, 6, 6, seed=size)
        assert quantized(other).shape == model(other).shape
        for runtime in RUNTIMES:
            assert differences(runtime, path, quantized, other)[0] < 1e-5, (runtime, size)


@pytest.mark.parametrize("code", [of_loop, of_branch])
def test_a_batch_size_that_is_a_number_in_the_file_is_refused(
    code: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    batch = normal(4, 3, 6, 6)
    quantized = subbyte.quantize(seeded(lambda: Around(code)), [batch])
    with pytest.raises(subbyte.SubbyteError) as caught:
        subbyte.export(quantized, tmp_path / "model.onnx", batch)
    assert f"{line_of(code)} fixes the batch size to 4" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class TimeFirst(nn.Module):
    """PyTorch's attention as it is by default, on [time, batch, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.attention(x, x, x, need_weights=False)[0])


def test_time_may_come_before_the_batch(tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", seeded(TimeFirst)
    sequence = normal(6, 4, 8)
    quantized = subbyte.quantize(model, [sequence], subbyte.Recipe(method="range", **FITTING))
    subbyte.export(quantized, path, sequence)
    for shape in ((6, 1, 8), (6, 7, 8), (3, 5, 8)):
        other = normal(*shape, seed=shape[1])
        noise = (quantized(other) - model(other)).square().mean()
        assert noise < 2e-2 * model(other).square().mean()
        for runtime in RUNTIMES:
            assert differences(runtime, path, quantized, other)[0] < 1e-5, (runtime, shape)

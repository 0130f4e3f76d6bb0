"""One parameter that several operators read, as a weight along other channels, or otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import targets_helpers as helpers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import subbyte
from processor import FITTING

pytestmark = pytest.mark.slow  # many files, each run in both runtimes

Use = Callable[[Tensor, Tensor], Tensor]


class Shares(nn.Module):
    def __init__(self, shape: tuple[int, int], use: Use) -> None:
        super().__init__()
        # Rows and columns of very different sizes, so that a scale of the wrong ones is seen.
        sizes = torch.logspace(-1, 1, shape[0])[:, None] * torch.logspace(-1, 1, shape[1])
        self.w, self.use = nn.Parameter(torch.randn(shape) * sizes), use
        self.last = nn.Linear(shape[1], 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.use(x, self.w))


def embedded(x: Tensor, w: Tensor) -> Tensor:
    return F.linear(F.embedding((x * 3).abs().long().clamp(max=5), w), w)


CASES: dict[str, tuple[tuple[int, int], Use]] = {
    "linear and product, square": ((6, 6), lambda x, w: F.linear(x, w) @ w),
    "linear and product": ((9, 6), lambda x, w: F.linear(x, w) @ w),
    "product and linear": ((6, 6), lambda x, w: F.linear((x @ w).relu(), w)),
    "embedding and linear": ((6, 6), embedded),
    "linear and sum": ((6, 6), lambda x, w: F.linear(x, w) + w.sum(0)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bits", [8, 4])
def test_runtimes_give_what_the_simulation_gives(name: str, bits: int, tmp_path: Path) -> None:
    shape, use = CASES[name]
    model = helpers.seeded(lambda: Shares(shape, use))
    x = helpers.normal(16, 3, 6) if bits == 4 else helpers.normal(16, 6)
    quantized = subbyte.quantize(
        model, [x], subbyte.Recipe(method="range", weights=bits, first_last=None, **FITTING)
    )
    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, x)
    exact = model.double()(x.double() if "embedding" not in name else x)
    with torch.no_grad():
        loss = (quantized(x) - exact).square().sum() / exact.square().sum()
    assert float(loss) < (1e-3 if bits == 8 else 0.1)
    size = float(exact.detach().abs().max())
    for runtime in helpers.RUNTIMES:
        (difference,) = helpers.differences(runtime, path, quantized, x)
        assert difference < 1e-5 * size


def test_each_reader_has_scales_along_its_own_channels() -> None:
    model = helpers.seeded(lambda: Shares((9, 6), CASES["linear and product"][1]))
    x = helpers.normal(16, 6)
    recipe = subbyte.Recipe(method="range", **FITTING)
    rows = subbyte.layers(subbyte.quantize(model, [x], recipe))
    scales = {row["layer"]: len(row["scale"]) for row in rows if row["role"] == "weight"}
    assert scales == {"w": 9, "w_2": 6, "last": 5}

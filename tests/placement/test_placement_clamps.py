from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subbyte

CLAMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "both": lambda x: torch.clamp(x, -0.3, 0.4),
    "by name": lambda x: x.clamp(min=0.0),
    "highest": lambda x: x.clamp(max=0.4),
    "clip": lambda x: x.clip(-1, 1),
    "clamp_min": lambda x: torch.clamp_min(x, 0.1),
    "clamp_max": lambda x: torch.clamp_max(x, max=0.2),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.4),
}


class Clamped(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", CLAMPS)
def test_a_limited_result_is_quantized_once(name: str) -> None:
    model, x = Clamped(CLAMPS[name]).eval(), torch.randn(2, 3, 6, 6)
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range", ranges="minmax"))
    activations = [row for row in subbyte.layers(quantized) if row["role"] == "activation"]
    assert [row["layer"] for row in activations] == ["first", "last"]
    with torch.no_grad():
        assert (quantized(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()

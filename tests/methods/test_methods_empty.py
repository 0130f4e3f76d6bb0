"""Layers that read no value at all on the calibration images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subbyte

X = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))


class Reads(nn.Module):
    """A layer, and another that reads some part of what it gives."""

    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.part = nn.Linear(12, 6), nn.Linear(6, 4), part

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, self.b(self.part(y))


PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "no image": lambda y: y[:0],
    "no row that is large": lambda y: y[y[:, 0] > 1e9],
    "no token": lambda y: y[:, None][:, :0],
    "a product of none": lambda y: y[:0, :, None] @ y[:0, None],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": "range", "ranges": "minmax"},
        {"method": {"name": "subbyte", "steps": 2}, "weights": 4},
        {"method": {"name": "lapq", "max_evaluations": 2}},
    ],
    ids=["default", "range", "subbyte", "lapq"],
)
def test_the_other_layer_is_quantized_as_ever(part: str, fields: dict[str, Any]) -> None:
    model = Reads(PARTS[part]).eval()
    quantized = subbyte.quantize(model, [X], subbyte.Recipe(**fields))
    found, rest = quantized(X)
    expected, of_rest = model(X)
    assert rest.shape == of_rest.shape
    assert rest.numel() == 0
    assert float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("method", ["adaround", "brecq", "qdrop"])
def test_a_method_that_needs_a_row_an_image_says_so(method: str) -> None:
    recipe = subbyte.Recipe(method={"name": method, "steps": 2})
    with pytest.raises(subbyte.SubbyteError, match="gives 0 rows for 16 images"):
        subbyte.quantize(Reads(PARTS["no image"]).eval(), [X], recipe)


@pytest.mark.parametrize("method", ["adaround", "brecq", "qdrop"])
def test_a_block_without_values_is_not_learned(method: str) -> None:
    recipe = subbyte.Recipe(method={"name": method, "steps": 2})
    model = Reads(PARTS["no token"]).eval()
    found, _ = subbyte.quantize(model, [X], recipe)(X)
    expected, _ = model(X)
    assert float((found - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_of_plain_tensors_alone(bits: int) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [torch.randn(8, 12), torch.randn(4, 8)]

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.weights
            return nn.functional.linear(nn.functional.linear(x, first).relu(), second)

    model = Plain().eval()
    recipe = subbyte.Recipe(weights=bits, first_last=None)
    found, expected = subbyte.quantize(model, [X], recipe)(X), model(X)
    assert float((found - expected).norm() / expected.norm()) < (0.02 if bits == 8 else 0.2)

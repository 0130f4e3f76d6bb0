"""Narrow accumulators of every kind of layer, against sums of integers in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import subbyte

BITS = 13


class Product(nn.Module):
    """A product with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return x @ self.weight


Sums = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
CASES: dict[str, tuple[nn.Module, tuple[int, ...], Sums]] = {
    "conv1d": (
        nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        (4, 11),
        lambda x, w, b: F.conv1d(x, w, b, 2, 1, 1, 2),
    ),
    "conv2d": (
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        (4, 9, 9),
        lambda x, w, b: F.conv2d(x, w, b, 1, 2, 2),
    ),
    "no bias": (nn.Conv2d(4, 6, 1, bias=False), (4, 5, 5), F.conv2d),
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        (4, 5, 5),
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 0, 1, 2),
    ),
    "linear": (nn.Linear(12, 7), (12,), F.linear),
    "tokens": (nn.Linear(12, 7, bias=False), (5, 12), F.linear),
    "product": (Product(), (3, 12), lambda x, w, b: x @ w),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_layer(case: str) -> None:
    layer, shape, sums_of = CASES[case]
    torch.manual_seed(2)
    images = torch.randn(6, *shape)
    recipe = subbyte.Recipe(
        method="range", ranges="minmax", first_last=None, balance=False, accumulator=BITS
    )

    quantized = subbyte.quantize(nn.Sequential(layer).eval(), [images], recipe)
    with torch.no_grad():
        found = quantized(images).double()

    (of_input,) = (row for row in subbyte.layers(quantized) if row["role"] == "activation")
    ((tensor, weight),) = quantized.weights()
    step, zero = of_input["scale"], of_input["zero_point"]
    x = (torch.round(images.double() / step) + zero).clamp(0, 255) - zero
    w = weight.params.integers.double()
    channels = -1 if case in ("linear", "tokens", "product") else 1
    scale = step * weight.params.scale.double()
    scale = scale.repeat(found.shape[channels] // scale.numel())
    bias = getattr(layer, "bias", None)
    lowest, highest = -(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1
    start = None
    if bias is not None:  # a bias beyond the accumulator saturates by itself, as Distiller's does
        start = torch.round(bias.detach().double() / scale).clamp(lowest, highest)
    exact = sums_of(x, w, start)
    kept = exact.clamp(lowest, highest)
    shape_of = [1] * found.dim()
    shape_of[channels] = -1
    got = found / scale.reshape(shape_of)
    assert tensor.spec.symmetric
    assert (kept != exact).any()
    assert (kept == exact).any()
    assert torch.equal(got.round(), kept)
    assert float((got - kept).abs().max()) < 0.01

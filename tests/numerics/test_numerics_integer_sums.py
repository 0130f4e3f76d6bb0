"""Integer sums that saturate, against a plain loop over products in int64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from subbyte.numerics.fake_quantize import Clipping, FakeQuantize, QuantizedWeight
from subbyte.numerics.integer_sums import IntegerSums
from subbyte.numerics.qparams import TensorQParams
from subbyte.numerics.qspec import QSpec

A = torch.ops.aten
CASES = {
    "plain": (3, 4, 3, 1, 0, 1, 1),
    "padded": (3, 4, 3, 1, 1, 1, 1),
    "strided": (3, 4, 3, 2, 1, 1, 1),
    "dilated": (2, 3, 3, 1, 2, 2, 1),
    "grouped": (4, 6, 3, 1, 1, 1, 2),
    "depthwise": (4, 4, 3, 1, 1, 1, 4),
}


def _operands(shape: list[int], seed: int) -> tuple[FakeQuantize, QuantizedWeight]:
    """Quantizers of 8 bits: an input with a zero point, a weight with a scale a channel."""
    torch.manual_seed(seed)
    activation = FakeQuantize(QSpec(8, symmetric=False), "x")
    activation.put(TensorQParams(torch.tensor([0.02]), torch.tensor([101], dtype=torch.int32)))
    integers = torch.randint(-128, 128, shape, dtype=torch.int8)
    scale = torch.rand(shape[0]) * 0.01 + 0.001
    weight = QuantizedWeight(QSpec(8, symmetric=True, axis=0), "w")
    weight.put(TensorQParams(scale, torch.zeros(shape[0], dtype=torch.int32), integers))
    return activation, weight


def _saturated(value: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, value))


def _convolved(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, geometry: tuple[int, int, int, int]
) -> torch.Tensor:
    """Sums of products in int64, one after the other."""
    stride, padding, dilation, groups = geometry
    n, _, height, width = x.shape
    channels, inner, kernel, _ = w.shape
    out = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for size in (height, width)
    ]
    found = torch.zeros(n, channels, *out, dtype=torch.int64)
    for image, c, i, j in product(range(n), range(channels), *map(range, out)):
        total = int(bias[c])
        for k, a, b in product(range(inner), range(kernel), range(kernel)):
            row, column = i * stride - padding + a * dilation, j * stride - padding + b * dilation
            if 0 <= row < height and 0 <= column < width:
                source = c // (channels // groups) * inner + k
                total += int(x[image, source, row, column]) * int(w[c, k, a, b])
        found[image, c, i, j] = total
    return found


@pytest.mark.parametrize("bits", [12, 16, 20, 31])
@pytest.mark.parametrize("case", CASES)
def test_a_convolution(case: str, bits: int) -> None:
    inputs, outputs, kernel, stride, padding, dilation, groups = CASES[case]
    activation, weight = _operands([outputs, inputs // groups, kernel, kernel], seed=bits)
    sums = IntegerSums(
        A.conv2d.default,
        ([stride] * 2, [padding] * 2, [dilation] * 2, groups),
        {},
        bits,
        (activation, weight),
        axis=1,
    )
    sums.saturation = Clipping()
    integers = torch.randint(0, 256, (2, inputs, 6, 6)) - 101
    scale = activation.scale.double() * weight.scale.double()
    start = torch.randint(-3000, 3000, (outputs,))
    bias = (start.double() * scale).float()

    found = sums(activation(integers * 0.02), weight(torch.empty(0)), bias)

    start = torch.tensor([_saturated(int(value), bits) for value in start])
    plain = _convolved(integers, weight.integers.long(), start, (stride, padding, dilation, groups))
    expected = plain.clone().apply_(lambda value: _saturated(value, bits))
    got = found.double() / scale.reshape(1, -1, 1, 1)
    assert torch.equal(got.round().long(), expected)
    assert (got - got.round()).abs().max() < 0.01 * 2 ** max(0, bits - 20)
    assert sums.saturation.values == plain.numel()
    assert int(sums.saturation.clipped) == int((plain != expected).sum())


@pytest.mark.parametrize("bits", [12, 16, 20])
@pytest.mark.parametrize("wide", [False, True])
def test_a_linear_layer(bits: int, wide: bool) -> None:
    features = 3000 if wide else 40  # beyond what float32 sums exactly
    activation, weight = _operands([5, features], seed=1)
    sums = IntegerSums(A.linear.default, (), {}, bits, (activation, weight), axis=-1)
    integers = torch.randint(0, 256, (3, features)) - 101
    if wide:
        integers[0] = 154  # so that the sums are as large as they can be
        weight.put(
            TensorQParams(
                weight.scale, weight.zero_point, torch.full((5, features), 127, dtype=torch.int8)
            )
        )

    exact = sums.sums(activation(integers * 0.02))
    found = sums(activation(integers * 0.02), weight(torch.empty(0)))

    plain = torch.zeros(3, 5, dtype=torch.int64)
    for image, channel, k in product(range(3), range(5), range(features)):
        plain[image, channel] += int(integers[image, k]) * int(weight.integers[channel, k])
    assert torch.equal(exact.long(), plain)
    assert not wide or plain.max() > 2**24
    expected = plain.apply_(lambda value: _saturated(value, bits))
    scale = activation.scale.double() * weight.scale.double()
    assert torch.equal((found.double() / scale).round().long(), expected)


def test_without_parameters_the_layer_is_as_it_was() -> None:
    layer = nn.Linear(4, 3)
    quantizers = FakeQuantize(QSpec(8, False), "x"), QuantizedWeight(QSpec(8, True, 0), "w")
    sums = IntegerSums(A.linear.default, (), {}, 8, quantizers, axis=-1)
    x = torch.randn(2, 4)
    assert torch.equal(sums(x, layer.weight, layer.bias), layer(x))

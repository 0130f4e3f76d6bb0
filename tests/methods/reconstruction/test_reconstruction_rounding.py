"""AdaRound's formulas, against the paper's in float64 and autograd."""

from __future__ import annotations

import pytest
import torch

from subbyte.methods.reconstruction.rounding import Rounding
from subbyte.numerics.fake_quantize import QuantizedWeight
from subbyte.numerics.qparams import dequantize, quantize_weight
from subbyte.numerics.qspec import QSpec


def quantizer_of(weight: torch.Tensor, bits: int) -> QuantizedWeight:
    spec, channels = QSpec(bits, False, 0), len(weight)
    scale = torch.linspace(0.1, 0.3, channels)
    zero_point = torch.full((channels,), 2 ** (bits - 1) - 1, dtype=torch.int32)
    return QuantizedWeight(spec, "layer", quantize_weight(weight, scale, zero_point, spec))


def tensors() -> list[tuple[torch.Tensor, QuantizedWeight]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (5, 7)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]  # some are clipped
    return [(w, quantizer_of(w, bits)) for w, bits in zip(weights, (2, 4), strict=True)]


def soft(weight: torch.Tensor, quantizer: QuantizedWeight, v: torch.Tensor) -> torch.Tensor:
    """Equations 22 and 23 of the paper."""
    shape = [-1] + [1] * (weight.dim() - 1)
    s = quantizer.scale.double().view(shape)
    z = quantizer.zero_point.double().view(shape)
    h = torch.clamp(torch.sigmoid(v) * 1.2 - 0.1, 0, 1)
    level = torch.floor((weight / quantizer.scale.view(shape)).double()) + h + z
    return s * (level.clamp(quantizer.spec.low, quantizer.spec.high) - z)


def test_it_begins_with_the_weights_themselves_within_the_range() -> None:
    rounding = Rounding(tensors())
    for start, (weight, quantizer) in zip(rounding.renew(), rounding.tensors, strict=True):
        shape = [-1] + [1] * (weight.dim() - 1)
        s, z = quantizer.scale.view(shape), quantizer.zero_point.view(shape)
        low, high = (quantizer.spec.low - z) * s, (quantizer.spec.high - z) * s
        assert torch.allclose(start, torch.minimum(torch.maximum(weight, low), high), atol=1e-5)


@pytest.mark.parametrize(("strength", "beta"), [(0.0, 20.0), (0.01, 20.0), (0.3, 2.5)])
def test_soft_weights_and_gradient_are_those_of_the_paper(strength: float, beta: float) -> None:
    rounding = Rounding(tensors())
    generator = torch.Generator().manual_seed(1)
    rounding.variable += 3 * torch.randn(rounding.variable.shape, generator=generator)
    v = rounding.variable.double().requires_grad_()
    parts = torch.split(v, [w.numel() for w, _ in rounding.tensors])
    expected = [
        soft(w, q, part.view(w.shape)) for (w, q), part in zip(rounding.tensors, parts, strict=True)
    ]
    h = torch.clamp(torch.sigmoid(v) * 1.2 - 0.1, 0, 1)
    regularizer = (1 - (2 * h - 1).abs() ** beta).sum()
    loss = sum((part**3).sum() for part in expected) + strength * regularizer
    assert isinstance(loss, torch.Tensor)
    loss.backward()

    found = rounding.renew()
    for part, reference in zip(found, expected, strict=True):
        assert torch.allclose(part.double(), reference, atol=1e-5)
    sum((part**3).sum() for part in found).backward()  # type: ignore[union-attr]
    assert v.grad is not None
    assert torch.allclose(rounding.gradient(strength, beta).double(), v.grad, atol=2e-5)


def test_at_the_end_each_weight_is_the_integer_it_tended_to() -> None:
    rounding = Rounding(tensors())
    generator = torch.Generator().manual_seed(2)
    up = torch.randint(0, 2, rounding.variable.shape, generator=generator)
    rounding.variable.copy_(up * 20.0 - 10)
    expected = [part.detach().clone() for part in rounding.renew()]
    pairs = zip(rounding.tensors, rounding.rounded(), expected, strict=True)
    for (_, quantizer), params, reference in pairs:
        assert torch.equal(params.scale, quantizer.scale)
        assert torch.allclose(dequantize(params, quantizer.spec), reference, atol=1e-6)


def test_the_quantizers_give_the_soft_weights_as_long_as_they_are_in_place() -> None:
    rounding = Rounding(tensors())
    before = [quantizer(weight) for weight, quantizer in rounding.tensors]
    with rounding.in_place():
        rounding.variable += 1
        soft_weights = rounding.renew()
        for (weight, quantizer), expected in zip(rounding.tensors, soft_weights, strict=True):
            assert torch.equal(quantizer(weight), expected)
    for (weight, quantizer), expected in zip(rounding.tensors, before, strict=True):
        assert torch.equal(quantizer(weight), expected)

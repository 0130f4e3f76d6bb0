"""Gradients of learned step sizes, against PyTorch's kernel and by the formula."""

from __future__ import annotations

import math

import pytest
import torch

from subbyte.methods.reconstruction.step_sizes import Masks, StepSizes
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.numerics.qparams import TensorQParams
from subbyte.numerics.qspec import QSpec


def params(scale: float = 0.17) -> TensorQParams:
    return TensorQParams(torch.tensor([scale]), torch.tensor([5], dtype=torch.int32))


def quantizer(bits: int = 4) -> FakeQuantize:
    return FakeQuantize(QSpec(bits, False), "layer", params())


def test_outputs_and_gradients_are_those_of_torchs_learnable_kernel() -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mine, twin = quantizer(), x.detach().clone().requires_grad_()
    factor = 1 / math.sqrt(x.numel() * 15)
    scale, zero_point = torch.tensor([0.17], requires_grad=True), torch.tensor([5.0])
    expected = torch._fake_quantize_learnable_per_tensor_affine(
        twin, scale, zero_point, 0, 15, factor
    )
    steps = StepSizes([mine], None)
    with steps.in_place():
        found = mine(x)
        assert torch.allclose(found, expected, atol=1e-6)
        weight = torch.linspace(-1, 1, x.numel()).view(x.shape)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
    assert x.grad is not None
    assert twin.grad is not None
    assert torch.allclose(x.grad, twin.grad)
    assert scale.grad is not None
    assert float(steps.gradient[0]) == pytest.approx(float(scale.grad), rel=1e-4)
    assert torch.equal(mine(x), mine.quantize(x))


def test_where_nothing_is_quantized_values_and_gradients_pass() -> None:
    x = 5 * torch.randn(2000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x.retain_grad()
    mine = quantizer()
    masks = Masks(0.25, torch.Generator().manual_seed(0), torch.device("cpu"))
    steps = StepSizes([mine], masks)
    with steps.in_place():
        y = mine(x)
        y.sum().backward()
    passed = y == x
    assert float(passed.float().mean()) == pytest.approx(0.75, abs=0.05)
    quantized = mine.quantize(x.detach())
    assert torch.equal(y[~passed], quantized[~passed])
    assert x.grad is not None
    assert bool((x.grad[passed] == 1).all())
    inside = (quantized - x.detach()).abs() <= 0.17 / 2 + 1e-6
    assert torch.equal(x.grad[~passed], inside[~passed].float())
    each = torch.where(inside, quantized - x.detach(), quantized) / 0.17
    expected = float(each[~passed].sum()) / math.sqrt(2000 * 15)
    assert float(steps.gradient[0]) == pytest.approx(expected, rel=1e-3)


def test_step_sizes_stay_positive_and_reach_their_quantizers() -> None:
    mine, other = quantizer(), quantizer()
    steps = StepSizes([mine, other], None)
    steps.variable.copy_(torch.tensor([0.3, -1.0]))
    steps.apply()
    assert float(mine.scale) == pytest.approx(0.3)
    assert 0 < float(other.scale) < 1e-6


def test_masks_differ_from_one_to_the_next_and_repeat_with_the_seed() -> None:
    x = torch.zeros(10, 100)
    runs = []
    for _ in range(2):
        masks = Masks(0.5, torch.Generator().manual_seed(3), torch.device("cpu"))
        runs.append([masks.like(x).clone() for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0], runs[0][1])
    assert runs[0][0].shape == x.shape


def test_away_from_rounding_points_gradients_are_finite_differences() -> None:
    # Beyond the range, where nothing is rounded: y = (highest − z) · s or (lowest − z) · s.
    mine, x = quantizer(), torch.tensor([-7.0, -1.3, 2.9, 40.0])
    weight, step = torch.tensor([0.5, -1.0, 2.0, 3.0]), 1e-3

    def total(values: torch.Tensor, scale: float) -> float:
        mine.put(params(scale))
        with torch.no_grad():
            return float((mine.quantize(values) * weight).double().sum())

    in_scale = (total(x, 0.17 + step) - total(x, 0.17 - step)) / (2 * step)
    in_x = [
        (total(x + step * unit, 0.17) - total(x - step * unit, 0.17)) / (2 * step)
        for unit in torch.eye(4)
    ]
    mine.put(params())
    x.requires_grad_()
    steps = StepSizes([mine], None)
    with steps.in_place():
        (mine(x) * weight).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == in_x == [0, 0, 0, 0]
    unscaled = float(steps.gradient[0]) * math.sqrt(4 * 15)
    assert unscaled == pytest.approx(in_scale, rel=1e-3)

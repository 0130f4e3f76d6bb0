"""The gradients of a learned weight against autograd with rounding passed straight through."""

from __future__ import annotations

import pytest
import torch

from subbyte.methods.finetune.parameters import LearnedWeight, joined
from subbyte.numerics.qparams import quantize_weight
from subbyte.numerics.qspec import QSpec, along


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("in_one", [False, True])
def test_gradients_of_integers_and_scales(axis: int | None, in_one: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, given = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    spec, count = QSpec(4, False, axis), 1 if axis is None else (3, 4)[axis]
    scale, zero = torch.full((count,), 0.2), torch.full((count,), 7, dtype=torch.int32)
    learned = LearnedWeight(quantize_weight(weight, scale, zero, spec), spec)
    with torch.no_grad():
        learned.signed.add_(0.9 * torch.randn(weight.shape, generator=generator))
    if in_one:
        joined([learned.signed])
        joined([learned.log_scale])
    signed = learned.signed.detach().double().requires_grad_()
    log_scale = learned.log_scale.detach().double().requires_grad_()
    rounded = signed.detach().round()
    inside = (rounded >= -7) & (rounded <= 8)
    assert not bool(inside.all())
    passed = torch.where(inside, signed - signed.detach(), 0.0)
    expected = (rounded.clamp(-7, 8) + passed) * along(log_scale.exp(), weight, axis)
    torch.autograd.backward((expected * given).sum())
    learned.begin()
    found = learned(weight)
    assert torch.allclose(found.double(), expected, atol=1e-6)
    for share in (0.25, 0.75):  # of a step's images
        torch.autograd.backward((learned(weight) * given * share).sum())
    learned.end()
    for own, its in ((learned.signed, signed), (learned.log_scale, log_scale)):
        assert own.grad is not None
        assert its.grad is not None
        assert torch.allclose(own.grad.double(), its.grad, atol=1e-5)

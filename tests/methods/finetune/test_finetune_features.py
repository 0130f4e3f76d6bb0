"""Features are what blocks read in front of quantizers, and are compared by relative errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from residual import Residual
from subbyte import Recipe, quantize
from subbyte.methods.finetune.features import distance, energies_of, feature_keys, recorded
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import simulate

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_they_are_what_residual_blocks_and_the_head_read() -> None:
    stem, one, two = nn.Conv2d(3, 8, 3, padding=1), Residual(), Residual()
    pool = nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(stem, nn.ReLU(), one, two, pool, nn.Flatten(), nn.Linear(8, 4)).eval()
    student = quantize(model, [IMAGES], Recipe(weights=4, activations=4, method="range"))
    teacher = simulate(student.float_model, student.placement, QuantParams())
    keys = feature_keys(student)
    with torch.no_grad(), recorded(teacher, keys) as found:
        teacher(IMAGES)
        expected = [model[:2](IMAGES), model[:3](IMAGES), model[:4](IMAGES)]
    assert len(found) == 3
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(found, expected, strict=True))
    with recorded(student, keys) as again:
        student(IMAGES)
    assert [x.shape for x in again] == [x.shape for x in found]
    student(IMAGES)
    assert len(again) == 3  # nothing is recorded afterwards


def test_the_distance_is_relative_to_each_features_energy() -> None:
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([100.0])
    found = distance(
        [one + torch.tensor([0.0, 1.0]), other * 1.1], [one, other], energies_of([one, other])
    )
    assert float(found) == pytest.approx((1 / 25 + 0.01) / 2)

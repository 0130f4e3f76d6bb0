"""A learned step size: the values of PyTorch's kernel, and gradients by finite differences."""

from __future__ import annotations

import pytest
import torch

from subbyte.numerics.straight_through import gradients, on_steps


def test_values_are_those_of_pytorchs_kernel() -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    y, clipped = on_steps(x, torch.tensor([0.25]), -3, 4)
    expected = torch.fake_quantize_per_tensor_affine(x, 0.25, 0, -3, 4)
    assert torch.equal(y, expected)
    level = (x / 0.25).round()
    assert torch.equal(clipped.bool(), (level < -3) | (level > 4))


def test_gradients_are_finite_differences_away_from_rounding_points() -> None:
    x = torch.tensor([-0.9, -0.2, 0.13, 0.37, 0.72, 2.9], dtype=torch.float64)
    slopes = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25], dtype=torch.float64)
    s = torch.tensor([-1.1], dtype=torch.float64).exp()

    def value(log: float, inputs: torch.Tensor, weights: torch.Tensor) -> float:
        """Σ weights · Q(inputs), with the levels −2 … 5 of step exp(log)."""
        step = torch.tensor(log, dtype=torch.float64).exp()
        return float((weights * (inputs / step).round().clamp(-2, 5) * step).sum())

    y, clipped = on_steps(x, s, -2, 5)
    passed, total = gradients(slopes, x, y, clipped)
    level = (x / s).round()
    inside = (level >= -2) & (level <= 5)
    # Straight through: rounding counts as x + constant, so that s · d/ds is Q − x inside.
    assert float(total) == pytest.approx(
        float((slopes * torch.where(inside, level * s - x, level.clamp(-2, 5) * s)).sum())
    )
    assert torch.equal(passed, slopes * inside)
    # Beyond the outermost integers nothing is rounded: there it is the true derivative.
    x, slopes = x[~inside], slopes[~inside]
    y, clipped = on_steps(x, s, -2, 5)
    true = (value(-1.1 + 1e-6, x, slopes) - value(-1.1 - 1e-6, x, slopes)) / 2e-6
    assert float(gradients(slopes, x, y, clipped)[1]) == pytest.approx(true, rel=1e-4)

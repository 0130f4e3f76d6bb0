"""A grid whose step size is learned: its values, what passes back, and the step size's gradient."""

from __future__ import annotations

import torch


def on_steps(
    x: torch.Tensor, scale: torch.Tensor, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` on levels `low` to `high`, less their zero point, of `scale`; and 1 where it is clipped.

    By whole levels: what is rounded to an outermost level is not clipped. Numbers and no booleans,
    whose kernels take many times as long.
    """
    level = torch.mul(x, scale.reciprocal()).round_()
    y = level.clamp(low, high)
    clipped = level.sub_(y).abs_().clamp_(max=1)
    return y.mul_(scale), clipped


def gradients(
    gradient: torch.Tensor, x: torch.Tensor, y: torch.Tensor, clipped: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients in `x` (straight through) and in the logarithm of the scale (a number).

    Esser et al. 2020, "Learned Step Size Quantization", equation 3: the derivative of Q in the
    scale is (Q(x) − x) / s inside of the grid and Q(x) / s beyond, so that the sum over all values
    of gradient times derivative is (Σ g · y − Σ g' · x) / s, where g' is what is passed on.
    """
    passed = torch.addcmul(gradient, gradient, clipped, value=-1)
    return passed, _dot(gradient, y) - _dot(passed, x)


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.dot(one.reshape(-1), other.reshape(-1))

"""Quantization whose step size is learned: its values, and the gradients that pass through it."""

from __future__ import annotations

import torch

from subbyte.numerics.rounding import in_cache


def on_steps(
    x: torch.Tensor, scale: torch.Tensor, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` quantized, as float, and where it is clipped.

    What is rounded to an outermost integer is not clipped.

    Args:
        x: The values.
        scale: The step size, in a shape that multiplies `x`.
        low: The smallest integer, less the zero point.
        high: The largest integer, less the zero point.

    Returns:
        The quantized values, and 1 where a value is clipped, else 0: numbers, because kernels for
        booleans take many times as long. Both have the shape of `x`.
    """
    reciprocal, y = scale.reciprocal(), torch.empty_like(x)

    def values(some: torch.Tensor, integers: torch.Tensor, quantized: torch.Tensor) -> None:
        torch.mul(some, reciprocal, out=integers).round_()
        torch.clamp(integers, low, high, out=quantized)
        integers.ne_(quantized)
        quantized.mul_(scale)

    clipped = torch.empty_like(x)
    in_cache(values, x, clipped, y)
    return y, clipped


def gradients(
    gradient: torch.Tensor, x: torch.Tensor, y: torch.Tensor, clipped: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients in `x` (straight through) and in the logarithm of the scale.

    Esser et al. 2020, "Learned Step Size Quantization", equation 3: the derivative of Q in the
    scale is (Q(x) − x) / s inside of the range and Q(x) / s beyond, so that the sum over all values
    of gradient times derivative is (Σ g · y − Σ g' · x) / s, where g' is what is passed on.

    Args:
        gradient: The gradient g in the quantized values, in the shape of `x`.
        x: The values before quantization.
        y: The quantized values, as float.
        clipped: 1 where a value is clipped, else 0.

    Returns:
        The gradient in `x`, and a number.
    """
    passed = torch.addcmul(gradient, gradient, clipped, value=-1)
    return passed, _dot(gradient, y) - _dot(passed, x)


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.dot(x.reshape(-1), y.reshape(-1))

"""How far a block's outputs are from what they should be, with the gradient written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def block_loss(
    outputs: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    exponent: float,
    factors: Sequence[torch.Tensor] = (),
) -> tuple[float, list[torch.Tensor]]:
    """Mean over images and positions of Σ over channels f · |y − t|^p, and its gradient in each y.

    Args:
        outputs: The y, (images, channels, height, width) or (images, …, channels).
        targets: The t, in the same shapes.
        exponent: p.
        factors: The f, in the same shapes; empty: 1.

    Returns:
        The loss, summed over the outputs, and a gradient for each of them.
    """
    total, gradients = 0.0, []
    for i, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        error = output.detach() - target
        channels = output.shape[1 if output.dim() == 4 else -1]
        rows = max(1.0, output.numel() / max(channels, 1))
        size = error.abs()
        losses = size.pow(exponent)
        if exponent == 2:
            gradient = error.mul_(2 / rows)
        else:
            gradient = _slope(size, error, exponent).mul_(1 / rows)
        if factors:
            losses, gradient = losses.mul_(factors[i]), gradient.mul_(factors[i])
        total += float(losses.sum()) / rows
        gradients.append(gradient)
    return total, gradients


def _slope(size: torch.Tensor, error: torch.Tensor, p: float) -> torch.Tensor:
    """The derivative of |e|^p, of which `size` is |e|; both are used up."""
    return size.pow_(p - 1).mul_(error.sign_()).mul_(p)

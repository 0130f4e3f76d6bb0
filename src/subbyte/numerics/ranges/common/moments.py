"""Moments of the rows of a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mean(x: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """The mean of each row, (channels,); 0 where nothing is counted. Summed in float64.

    Args:
        x: Values, (channels, n).
        counts: How often each value occurs, (channels, n); `None`: once.
    """
    import torch

    if counts is None:
        return x.mean(1, dtype=torch.float64).to(x.dtype)
    total = counts.sum(1, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
    return ((x * counts).sum(1, dtype=torch.float64) / total).to(x.dtype)

"""A grid: which integers it has, and one scale and zero point a tensor or a channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class QSpec:
    """An integer grid of `bits` bits.

    Symmetric grids use the full range −2^(b−1) … 2^(b−1)−1 with zero point 0; asymmetric ones
    0 … 2^b−1 with a zero point inside, so that 0.0 is always exact.
    `axis`: the channel dimension that has a scale each; `None`: one scale for the tensor.
    """

    bits: int
    symmetric: bool
    axis: int | None = None

    @property
    def low(self) -> int:
        """The smallest integer of the grid."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest integer of the grid."""
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1


def qparams_of(
    low: torch.Tensor, high: torch.Tensor, spec: QSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale (float32) and zero point (int32) of the grid that covers the ranges [low, high].

    Ranges are widened to hold 0. A symmetric grid takes the smallest scale that clips neither end;
    an asymmetric one spreads its 2^b − 1 steps over the range and rounds the zero point.
    """
    low, high = low.clamp(max=0).float(), high.clamp(min=0).float()
    if spec.symmetric:
        scale = torch.maximum(high / spec.high, low / spec.low)
        scale = torch.where(scale > TINY, scale, torch.ones_like(scale))
        return scale, torch.zeros_like(scale, dtype=torch.int32)
    scale = (high - low) / spec.high
    scale = torch.where(scale > TINY, scale, torch.ones_like(scale))
    zero_point = (-low / scale).round().clamp(0, spec.high).to(torch.int32)
    return scale, zero_point


def along(value: torch.Tensor, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """`value` of shape (channels,) shaped to multiply `x` along `axis`; without one, as it is."""
    if axis is None:
        return value
    return value.reshape([-1 if d == axis else 1 for d in range(x.dim())])

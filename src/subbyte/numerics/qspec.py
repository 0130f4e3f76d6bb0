"""Which integers a tensor is quantized to, and the scale and zero point of a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TINY = 2.0**-126  # the smallest normal number of float32


@dataclass(frozen=True)
class QSpec:
    """The integers of `bits` bits that a tensor is quantized to.

    Symmetric ones use the full range −2^(b−1) … 2^(b−1)−1 with zero point 0; asymmetric ones 0 …
    2^b−1 with a zero point inside, so that 0.0 is always exact.

    Attributes:
        bits: 2 to 8.
        symmetric: Whether the zero point is 0.
        axis: The dimension whose channels have a scale each; `None`: one scale for the tensor.
        restricted: Of symmetric ones: without −2^(b−1), so that both sides have as many.
        rectified: Values below 0 become 0 before they are rounded.
    """

    bits: int
    symmetric: bool
    axis: int | None = None
    restricted: bool = False
    rectified: bool = False

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1)) + self.restricted if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1


def qparams_of(
    low: torch.Tensor, high: torch.Tensor, spec: QSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point with which the integers of `spec` cover the ranges [low, high].

    Ranges are widened to hold 0. Symmetric integers take the smallest scale that clips neither end;
    asymmetric ones spread their 2^b − 1 steps over the range, and the zero point is rounded.

    Args:
        low: The lower end of each range, (channels,).
        high: The upper end of each range, (channels,).
        spec: The integers.

    Returns:
        The scale, float32, and the zero point, int32, both of shape (channels,).
    """
    import torch

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
    """`value`, (channels,), in a shape that multiplies `x` along `axis`.

    Args:
        value: A number a channel.
        x: The tensor whose dimension `axis` has the channels.
        axis: The dimension; `None` leaves `value` as it is.
    """
    if axis is None:
        return value
    return value.reshape([-1 if d == axis else 1 for d in range(x.dim())])

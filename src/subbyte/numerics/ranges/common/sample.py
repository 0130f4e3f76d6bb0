"""What a range rule looks at: the values of a tensor, one row a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

# Both ends, each of shape (channels,).
Range: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"


@dataclass(frozen=True)
class Sample:
    """Values that a range is chosen for.

    Attributes:
        values: (channels, n).
        counts: (channels, n), how often each value occurs; `None`: once.
        low: (channels,), the exact minimum.
        high: (channels,), the exact maximum.
        mean_low: (channels,), the minimum of each image, averaged; of a weight the minimum.
        mean_high: (channels,), the maximum of each image, averaged; of a weight the maximum.
        mse_weights: (channels, n), what a squared error in each value costs, all its occurrences
            together, in any unit; `None`: unknown.
    """

    values: torch.Tensor
    counts: torch.Tensor | None
    low: torch.Tensor
    high: torch.Tensor
    mean_low: torch.Tensor
    mean_high: torch.Tensor
    mse_weights: torch.Tensor | None = None


def sample_of(weights: torch.Tensor) -> Sample:
    """The sample of a weight's rows, of shape (channels, n)."""
    low, high = weights.aminmax(dim=1)
    return Sample(weights, None, low, high, low, high)


def within(sample: Sample, low: torch.Tensor, high: torch.Tensor) -> Range:
    """The range [low, high], limited to the extremes of a sample.

    Args:
        sample: The values.
        low: The lower end, (channels,).
        high: The upper end, (channels,).

    Returns:
        Both ends, in the type of the sample's extremes.
    """
    low = low.to(sample.low.dtype).maximum(sample.low)
    high = high.to(sample.high.dtype).minimum(sample.high)
    return low.minimum(sample.high), high.maximum(sample.low)

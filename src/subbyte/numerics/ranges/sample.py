"""What a range rule looks at: the values of a tensor, one row a channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Range = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """Values a range is chosen for.

    values: (channels, n). counts: (channels, n), how often each value occurs, or `None` for once.
    low, high: (channels,), exact extremes. mean_low, mean_high: (channels,), the extremes of a
    batch's images, averaged; for weights equal to the extremes. importance: (channels, n), what a
    squared error in each value costs, all its occurrences together, in any unit; `None`: unknown.
    """

    values: torch.Tensor
    counts: torch.Tensor | None
    low: torch.Tensor
    high: torch.Tensor
    mean_low: torch.Tensor
    mean_high: torch.Tensor
    importance: torch.Tensor | None = None


def sample_of(weights: torch.Tensor) -> Sample:
    """The sample of a weight's rows, of shape (channels, n)."""
    low, high = torch.aminmax(weights, dim=1)
    return Sample(weights, None, low, high, low, high)


def within(sample: Sample, low: torch.Tensor, high: torch.Tensor) -> Range:
    """[low, high], as far as there are values, in the type of the sample's extremes."""
    low = torch.maximum(low.to(sample.low.dtype), sample.low)
    high = torch.minimum(high.to(sample.high.dtype), sample.high)
    return torch.minimum(low, sample.high), torch.maximum(high, sample.low)

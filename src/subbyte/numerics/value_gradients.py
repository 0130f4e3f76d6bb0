"""How much an error in an activation costs, by the value that the activation has."""

from __future__ import annotations

from dataclasses import replace

import torch

from subbyte.numerics.histogram import sampled
from subbyte.numerics.ranges.common.sample import Sample

BINS = 512


class ValueGradients:
    """Mean squared gradient of a model's outputs in each of `BINS` equal bins of a range of values.

    To first order, an error e in a value x with gradient g changes the outputs by g · e, so the
    mean of g² over values near x says what a squared error there costs. Errors of values where g is
    0, as at those that no later ReLU lets through, cost nothing.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.squares = torch.zeros(BINS, dtype=torch.float64)
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def update(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count values `x` with the outputs' gradients for them, of the same shape, (images, …).

        Of large images every k-th value is counted, as in their histogram.
        """
        bins = self._bins(sampled(x.detach())[0]).flatten()
        squares = sampled(gradient)[0].double().square_().flatten()
        self.squares += torch.bincount(bins, squares, BINS).cpu()
        self.counts += torch.bincount(bins, minlength=BINS).cpu()

    def mean(self) -> torch.Tensor:
        """Mean g² of each bin, (BINS,); of a bin without values, that of the nearest with some."""
        seen = self.counts.nonzero()[:, 0]
        means = self.squares[seen] / self.counts[seen]
        every = torch.arange(BINS)
        after = torch.searchsorted(seen, every).clamp(max=len(seen) - 1)
        before = (after - 1).clamp(min=0)
        nearer = (every - seen[before]).abs() <= (seen[after] - every).abs()
        return means[torch.where(nearer, before, after)]

    def weigh(self, sample: Sample) -> Sample:
        """`sample` with `mse_weights`: how often each value occurs, times its mean g².

        It is returned as it was where no values or no gradients were seen.
        """
        if not bool(self.squares.any()):
            return sample
        mean = self.mean()
        weights = (mean / mean.max())[self._bins(sample.values)].to(sample.values)
        if sample.counts is not None:
            weights = weights * sample.counts
        return replace(sample, mse_weights=weights)

    def _bins(self, x: torch.Tensor) -> torch.Tensor:
        width = (self.high - self.low) / BINS
        if width <= 0:
            return torch.zeros_like(x, dtype=torch.int64)
        return (x.float() - self.low).mul_(1 / width).clamp_(0, BINS - 1).long()

"""What is remembered of an activation: a histogram with exact extremes, in bounded memory."""

from __future__ import annotations

import math

import torch

from subbyte.numerics.qspec import TINY
from subbyte.numerics.ranges import Sample

MAX_BINS = 8192
FIRST_BINS = 2048
SAMPLED = 2**16  # values of an image that the histogram counts
EXACT = 2**24  # as far as float32, in which histc counts, counts exactly


class Histogram:
    """Histogram and exact extremes of a tensor that is seen batch by batch.

    Extremes are those of all values. Of images with more than `SAMPLED` values, the histogram
    counts every k-th for all of the k, with a k that meets all rows and columns alike.

    Bin i covers [(i − ½)w, (i + ½)w), so zero is the middle of a bin and exact zeros count as
    exact. When a batch exceeds what `MAX_BINS` bins of width w cover, w triples and each three bins
    become one, whose middle is again a multiple of the width: one pass, bounded memory.
    """

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")
        self.width = 0.0
        self.first = 0
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.low_sum = 0.0
        self.high_sum = 0.0
        self.images = 0
        self.zeros = 0  # values seen before the first that was not zero

    def update(self, x: torch.Tensor) -> None:
        """Count the values of `x`, of shape (batch, …).

        Raises:
            ValueError: `x` holds NaN or infinity.
        """
        if x.numel() == 0:
            return
        rows = _rows(x)
        lows, highs = rows.amin(1), rows.amax(1)  # many times as fast as aminmax is
        low, high = float(lows.min()), float(highs.max())
        if not (torch.isfinite(lows).all() and torch.isfinite(highs).all()):
            raise ValueError("not finite")
        self.low_sum += float(lows.double().sum())
        self.high_sum += float(highs.double().sum())
        self.images += rows.shape[0]
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover()
        if self.width > 0:
            values, step = sampled(x)
            self.counts += self._counted(values) * step
            self.counts[-self.first] += self.zeros
            self.zeros = 0
        else:
            self.zeros += x.numel()

    def sample(self) -> Sample:
        """The values as one row of bin centres with their counts."""
        bins = torch.arange(len(self.counts), dtype=torch.float64) + self.first
        seen = self.counts > 0
        centres = (bins * self.width).clamp(self.low, self.high)[seen]
        values = centres.float() if self.width > 0 else torch.tensor([self.low])
        counts = self.counts[seen].float() if self.width > 0 else torch.ones(1)
        return Sample(
            values=values[None],
            counts=counts[None],
            low=torch.tensor([self.low]),
            high=torch.tensor([self.high]),
            mean_low=torch.tensor([self.low_sum / self.images]),
            mean_high=torch.tensor([self.high_sum / self.images]),
        )

    def _cover(self) -> None:
        """Widen the bins until they hold [low, high] and zero."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if (high - low) / FIRST_BINS <= TINY:
            return
        if self.width == 0:
            self.width = (high - low) / FIRST_BINS
        while round(high / self.width) - round(low / self.width) + 1 > MAX_BINS:
            self._triple()
        self._extend(round(low / self.width), round(high / self.width))

    def _triple(self) -> None:
        indices = torch.arange(len(self.counts)) + self.first
        merged = torch.div(indices + 1, 3, rounding_mode="floor")
        self.width *= 3
        if len(merged) == 0:
            return
        first = int(merged[0])
        counts = torch.zeros(int(merged[-1]) - first + 1, dtype=torch.float64)
        self.counts = counts.index_add_(0, merged - first, self.counts)
        self.first = first

    def _extend(self, first: int, last: int) -> None:
        if len(self.counts):
            first = min(first, self.first)
            last = max(last, self.first + len(self.counts) - 1)
        counts = torch.zeros(last - first + 1, dtype=torch.float64)
        offset = self.first - first if len(self.counts) else 0
        counts[offset : offset + len(self.counts)] = self.counts
        self.counts, self.first = counts, first

    def _counted(self, x: torch.Tensor) -> torch.Tensor:
        bins = len(self.counts)
        lowest = (self.first - 0.5) * self.width
        highest = (self.first + bins - 0.5) * self.width
        counts = torch.zeros(bins, dtype=torch.float64)
        values = x.float().reshape(-1)
        if self.low < lowest or self.high > highest:  # by a rounding error
            values = values.clamp(lowest, highest)
        for start in range(0, len(values), EXACT):
            part = values[start : start + EXACT]
            counts += torch.histc(part, bins=bins, min=lowest, max=highest).double().cpu()
        return counts


def sampled(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Every k-th value of each image of `x`, (images, …), and k, which is 1 for small images.

    k shares no factor with the number of values, so that it meets all rows and columns alike.
    """
    rows = _rows(x)
    step = max(1, -(-rows.shape[1] // SAMPLED))
    while math.gcd(step, rows.shape[1]) > 1:
        step += 1
    return rows[:, ::step], step


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], math.prod(x.shape[1:])) if x.dim() > 0 else x.reshape(1, 1)

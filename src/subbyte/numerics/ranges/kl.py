"""Entropy calibration (Migacz 2017, TensorRT's), on histograms, symmetric or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from subbyte.numerics.qspec import QSpec, qparams_of
from subbyte.numerics.ranges.common.sample import Range, Sample
from subbyte.numerics.ranges.common.search import search

MAX_BINS = 2048
VALUES_A_BIN = 16  # of a weight's channel, on average: with fewer, bins differ by chance
BINS_AN_INTEGER = 4  # of a weight's channel, at least: with fewer, rounding leaves too little trace


def range_of(sample: Sample, spec: QSpec) -> Range:
    """The range with the least Kullback–Leibler divergence (Migacz 2017, TensorRT's calibration).

    P is the histogram of the values that are not zero, with those that a range clips added to its
    first and last bin; Q is what is left of the histogram when all bins that share an integer have
    the same number, spread over those that are not empty. min over (l, h) of KL(P ‖ Q). Zero is
    always an integer, so its bin, in which a ReLU gathers most values, says nothing. A weight's
    channel with too few values for a histogram keeps its extremes.
    """
    low, high = sample.low.clamp(max=0), sample.high.clamp(min=0)
    histogram = _histogram(sample, spec)
    if histogram is None:
        return sample.low, sample.high

    def loss(new_low: torch.Tensor, new_high: torch.Tensor) -> torch.Tensor:
        found = divergence(histogram, spec, new_low, new_high)
        return found.masked_fill((new_low < low) | (new_high > high), torch.inf)

    return search(low, high, spec, loss)


@dataclass(frozen=True)
class SortedBins:
    """Bins of each row by rising centre, those that are empty or hold zero moved to infinity.

    Attributes:
        centres: (channels, bins), float64.
        counts: (channels, bins), float64.
        mass: (channels, bins + 1), the sum of n over all bins before each.
        entropy: (channels, bins + 1), the sum of n·log n over all bins before each.
        width: (channels,), of a bin.
    """

    centres: torch.Tensor
    counts: torch.Tensor
    mass: torch.Tensor
    entropy: torch.Tensor
    width: torch.Tensor


def sorted_bins(centres: torch.Tensor, counts: torch.Tensor, width: torch.Tensor) -> SortedBins:
    """A histogram by rising centre, without zero and empty bins.

    Args:
        centres: The bins' centres in any order, (channels, bins).
        counts: How many values each bin holds, (channels, bins).
        width: Of a bin, (channels,).
    """
    centres = centres.double().masked_fill((counts == 0) | (centres == 0), torch.inf)
    centres, order = centres.sort(dim=1)
    counts = counts.double().gather(1, order).masked_fill(centres.isinf(), 0)
    mass, entropy = (
        torch.nn.functional.pad(x.cumsum(1), (1, 0)) for x in (counts, _x_log_x(counts))
    )
    return SortedBins(centres.contiguous(), counts, mass, entropy, width)


def divergence(
    histogram: SortedBins, spec: QSpec, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """KL(P ‖ Q) in nats of each channel for its range, of shape (channels,).

    A value is clipped if it is more than half a step outside of the range. The divergence is
    infinite where it says nothing: where more than half of the values are clipped, as P and Q
    become alike again when all are in one bin; where values are clipped on a side of zero that
    keeps none; and where a step is narrower than a bin, so that the histogram cannot show what
    rounding costs.

    Args:
        histogram: The values.
        spec: The integers that they become.
        low: The lower end of each range, (channels,).
        high: The upper end of each range, (channels,).
    """
    scale, zero_point = qparams_of(low, high, spec)
    step = scale.double()[:, None]
    borders = torch.arange(spec.low, spec.high + 2, device=low.device) - 0.5
    at = torch.searchsorted(histogram.centres, (borders - zero_point[:, None]) * step)
    mass = histogram.mass.gather(1, at)
    total, kept = histogram.mass[:, -1], mass[:, -1] - mass[:, 0]
    clipped = torch.stack([mass[:, 0], total - mass[:, -1]], dim=1)
    ends = torch.stack([at[:, 0], at[:, -1] - 1], dim=1).clamp(0, histogram.counts.shape[1] - 1)

    masses, bins = mass.diff(dim=1), at.diff(dim=1)
    tiny = torch.finfo(masses.dtype).tiny
    log_q = (masses / bins.clamp(min=1) / kept[:, None]).clamp(min=tiny).log()
    p_log_q = (masses * log_q).sum(1) + (clipped * log_q.gather(1, _ends(masses > 0))).sum(1)
    entropy = histogram.entropy.gather(1, at[:, [0, -1]]).diff(dim=1)[:, 0]
    p_log_p = entropy + _gain(histogram.counts.gather(1, ends), clipped, ends)
    found = (p_log_p - p_log_q) / total - total.log()

    outermost = histogram.centres.gather(1, ends)
    sides = outermost * outermost.new_tensor([-1, 1]) > 0
    possible = (kept > 0) & (2 * kept >= total) & (sides | (clipped == 0)).all(1)
    return torch.where(possible & (step[:, 0] > 0.999 * histogram.width), found, torch.inf)


def _histogram(sample: Sample, spec: QSpec) -> SortedBins | None:
    """The histogram of a sample; `None` for weights with too few values for one.

    An activation's bins are taken as they are. A weight's channel gets bins of one width, zero in
    the middle of one, as many as its values fill.
    """
    if sample.counts is not None:
        gaps = sample.values.double().sort(dim=1).values.diff(dim=1)
        infinite = gaps.new_full((len(gaps), 1), torch.inf)
        return sorted_bins(sample.values, sample.counts, torch.cat([gaps, infinite], 1).amin(1))
    values = sample.values
    bins = min(MAX_BINS, values.shape[1] // VALUES_A_BIN)
    if bins < BINS_AN_INTEGER * 2**spec.bits:
        return None
    low, high = sample.low.clamp(max=0), sample.high.clamp(min=0)
    width = (high - low) / bins
    width = torch.where(width > 0, width, torch.ones_like(width))
    first = (low / width).round()
    index = (values / width[:, None]).round_().sub_(first[:, None]).long().clamp_(0, bins)
    counts = torch.zeros(len(values), bins + 1, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, index, torch.ones((), dtype=counts.dtype).expand_as(index))
    centres = torch.arange(bins + 1, device=values.device) + first[:, None].double()
    return sorted_bins(centres * width[:, None], counts, width)


def _ends(occupied: torch.Tensor) -> torch.Tensor:
    """Indices of the first and the last true entry of each row, (channels, 2)."""
    first, last = (x.to(torch.uint8).argmax(1) for x in (occupied, occupied.flip(1)))
    return torch.stack([first, occupied.shape[1] - 1 - last], dim=1)


def _gain(counts: torch.Tensor, clipped: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """What the sum of n·log n gains when clipped values join the two end bins.

    Args:
        counts: In the end bins, (channels, 2).
        clipped: Below and above, (channels, 2).
        ends: Which bins these are, (channels, 2); they may be one and the same.
    """
    same = (ends[:, :1] == ends[:, 1:]).expand_as(ends)
    joined = counts + torch.where(same, clipped.sum(1, keepdim=True), clipped)
    gains = _x_log_x(joined) - _x_log_x(counts)
    return torch.where(same[:, 0], gains[:, 0], gains.sum(1))


def _x_log_x(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = torch.special.xlogy(x, x)
    return result

"""Clipping that is best for a distribution whose shape is known (ACIQ, Banner et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.moments import mean
from subbyte.numerics.ranges.common.sample import Range, Sample, within

Excess = Callable[[float], float]
Spread = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@lru_cache
def best_clip(excess: Excess, bits: int) -> float:
    """The α at which clipping to [−α, α] and rounding to 2^bits steps leave the least error.

    Of a density symmetric about 0, clipping leaves 2·E[max(X − α, 0)²], and rounding in steps of
    2α / 2^bits leaves α² / (3 · 4^bits), as everywhere in ACIQ. The derivative of their sum is 0 at

        E[max(X − α, 0)] = α / (6 · 4^bits),

    whose left side, `excess`, only falls and whose right side only rises.
    """
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        if excess(middle) > middle / (6 * 4**bits):
            low = middle
        else:
            high = middle
    return low


def clipped_at_best(sample: Sample, spec: QSpec, excess: Excess, spread: Spread) -> Range:
    """The range whose clipping is best for a distribution.

    Values of one sign only are taken for one half of a distribution symmetric about zero, as behind
    a ReLU: its scale is that of the values that are not zero, whatever the share of zeros. An
    asymmetric `spec` has all its integers on this half, which are the steps that b + 1 bits have on
    both; a symmetric one keeps only half of its integers there, those of b bits.

    Args:
        sample: The values, (channels, n).
        spec: The integers that they become.
        excess: E[max(X − a, 0)] of the distribution with mean 0 and scale 1, from a ≥ 0.
        spread: The distribution's scale, (channels,), from x − centre and counts, (channels, n).
    """
    values, counts = sample.values, sample.counts
    half = (sample.low >= 0) | (sample.high <= 0)
    centre = torch.where(half, torch.zeros_like(sample.low), mean(values, counts))
    left_out = half[:, None] & (values == 0)
    if left_out.any():
        counts = torch.ones_like(values) if counts is None else counts
        counts = counts.masked_fill(left_out, 0)
    both, one = best_clip(excess, spec.bits), best_clip(excess, spec.bits + (not spec.symmetric))
    clip = torch.where(half, one, both) * spread(values - centre[:, None], counts)
    return within(sample, centre - clip, centre + clip)

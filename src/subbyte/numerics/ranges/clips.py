"""Range rules by moments: so many deviations around the mean, or around zero behind a ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch

from subbyte.errors import SubbyteError
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.sample import Range, Sample, within

Excess = Callable[[float], float]


def n_std(sample: Sample, spec: QSpec, *, n: float = 8.0) -> Range:
    """[μ − n·σ, μ + n·σ], as far as there are values (N_STD in Distiller, which has no default)."""
    del spec
    if not 0 < n < math.inf:
        raise SubbyteError(f"n is {n}: it must be a number above 0")
    mean = _mean(sample.values, sample.counts)
    half = n * _mean((sample.values - mean[:, None]).square_(), sample.counts).sqrt()
    return within(sample, mean - half, mean + half)


def gauss(sample: Sample, spec: QSpec) -> Range:
    """[μ − c·σ, μ + c·σ], best for a normal distribution (ACIQ, Banner et al. 2019)."""
    return _aciq(sample, spec, gauss_excess, lambda x, counts: _mean(x.square(), counts).sqrt())


def laplace(sample: Sample, spec: QSpec) -> Range:
    """[μ − c·b, μ + c·b] with b = E|x − μ|, best for a Laplace distribution (ACIQ)."""
    return _aciq(sample, spec, laplace_excess, lambda x, counts: _mean(x.abs(), counts))


def gauss_excess(a: float) -> float:
    """E[max(X − a, 0)] of the standard normal distribution, a ≥ 0."""
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return density - a * math.erfc(a / math.sqrt(2)) / 2


def laplace_excess(a: float) -> float:
    """E[max(X − a, 0)] of the Laplace distribution with μ = 0 and b = 1, a ≥ 0."""
    return math.exp(-a) / 2


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


def _aciq(
    sample: Sample,
    spec: QSpec,
    excess: Excess,
    spread: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
) -> Range:
    """The clip that is best for a distribution whose scale `spread` tells from x − centre.

    Values of one sign only are taken for one half of a distribution symmetric about zero, as
    behind a ReLU: its scale is that of the values that are not zero, whatever the share of zeros.
    An asymmetric grid has all its levels on this half, which are the steps that b + 1 bits have on
    both; a symmetric one keeps only half of its levels there, those of b bits.
    """
    values, counts = sample.values, sample.counts
    half = (sample.low >= 0) | (sample.high <= 0)
    centre = torch.where(half, torch.zeros_like(sample.low), _mean(values, counts))
    left_out = half[:, None] & (values == 0)
    if left_out.any():
        counts = torch.ones_like(values) if counts is None else counts
        counts = counts.masked_fill(left_out, 0)
    both, one = best_clip(excess, spec.bits), best_clip(excess, spec.bits + (not spec.symmetric))
    clip = torch.where(half, one, both) * spread(values - centre[:, None], counts)
    return within(sample, centre - clip, centre + clip)


def _mean(x: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """The mean of each row, (channels,); 0 where nothing is counted. Summed in float64."""
    if counts is None:
        return x.mean(1, dtype=torch.float64).to(x.dtype)
    total = counts.sum(1, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
    return ((x * counts).sum(1, dtype=torch.float64) / total).to(x.dtype)

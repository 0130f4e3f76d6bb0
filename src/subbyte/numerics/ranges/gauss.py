"""The range that is best for a normal distribution (ACIQ, Banner et al. 2019)."""

from __future__ import annotations

import math

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.aciq import clipped_at_best
from subbyte.numerics.ranges.common.moments import mean
from subbyte.numerics.ranges.common.sample import Range, Sample


def range_of(sample: Sample, spec: QSpec) -> Range:
    """[μ − c·σ, μ + c·σ], where c is best for the number of bits."""
    return clipped_at_best(sample, spec, excess, lambda x, counts: mean(x.square(), counts).sqrt())


def excess(a: float) -> float:
    """E[max(X − a, 0)] of the standard normal distribution, a ≥ 0."""
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return density - a * math.erfc(a / math.sqrt(2)) / 2

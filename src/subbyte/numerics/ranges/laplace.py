"""The range that is best for a Laplace distribution (ACIQ, Banner et al. 2019)."""

from __future__ import annotations

import math

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.aciq import clipped_at_best
from subbyte.numerics.ranges.common.moments import mean
from subbyte.numerics.ranges.common.sample import Range, Sample


def range_of(sample: Sample, spec: QSpec) -> Range:
    """[μ − c·b, μ + c·b] with b = E|x − μ|, where c is best for the number of bits."""
    return clipped_at_best(sample, spec, excess, lambda x, counts: mean(x.abs(), counts))


def excess(a: float) -> float:
    """E[max(X − a, 0)] of the Laplace distribution with μ = 0 and b = 1, a ≥ 0."""
    return math.exp(-a) / 2

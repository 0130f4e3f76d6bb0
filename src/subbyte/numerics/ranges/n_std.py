"""So many standard deviations around the mean (N_STD in Distiller, which has no default)."""

from __future__ import annotations

import math

from subbyte.errors import SubbyteError
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.moments import mean
from subbyte.numerics.ranges.common.sample import Range, Sample, within


def check(n: float) -> None:
    """Refuse a number of deviations that is not above 0, or infinite."""
    if not 0 < n < math.inf:
        raise SubbyteError(f"n is {n}: it must be a number above 0")


def range_of(sample: Sample, spec: QSpec, *, n: float = 8.0) -> Range:
    """[μ − n·σ, μ + n·σ], as far as there are values.

    Args:
        sample: The values, (channels, n).
        spec: Not read.
        n: How many standard deviations, above 0.
    """
    del spec
    centre = mean(sample.values, sample.counts)
    half = n * mean((sample.values - centre[:, None]).square_(), sample.counts).sqrt()
    return within(sample, centre - half, centre + half)

"""The smallest range that leaves out a given share of the values at each end."""

from __future__ import annotations

from subbyte.errors import SubbyteError
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.sample import Range, Sample


def check(percentile: float) -> None:
    """Refuse a percentile that leaves nothing, or more than everything."""
    if not 50 < percentile <= 100:
        raise SubbyteError(f"percentile is {percentile}: it must be above 50 and at most 100")


def range_of(sample: Sample, spec: QSpec, *, percentile: float = 99.99) -> Range:
    """The smallest range with at most (100 − percentile) % of the values outside at each end.

    Values of a histogram are known up to the width of a bin.

    Args:
        sample: The values, (channels, n).
        spec: Not read.
        percentile: In per cent, above 50 and at most 100.
    """
    del spec
    order = sample.values.argsort(dim=1)
    values = sample.values.gather(1, order).contiguous()
    counts = values.new_ones(values.shape)
    if sample.counts is not None:
        counts = sample.counts.gather(1, order)
    mass = counts.double().cumsum(1)
    # A hair more, so that a share which is a whole number of values is not lost to rounding.
    outside = mass[:, -1:] * ((100 - percentile) / 100) * (1 + 1e-9)
    # The first value with more than `outside` at or below it, and its mirror image from above.
    low = (mass <= outside).sum(1, keepdim=True)
    above = mass[:, -1:] - mass + counts
    high = (above > outside).sum(1, keepdim=True) - 1
    return values.gather(1, low)[:, 0], values.gather(1, high)[:, 0]

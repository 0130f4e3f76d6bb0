"""[min, max]: nothing is clipped."""

from __future__ import annotations

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.sample import Range, Sample


def range_of(sample: Sample, spec: QSpec) -> Range:
    """The extremes."""
    del spec
    return sample.low, sample.high

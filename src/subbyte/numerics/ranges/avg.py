"""The extremes of each image, averaged over all images (AVG in Distiller)."""

from __future__ import annotations

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.sample import Range, Sample


def range_of(sample: Sample, spec: QSpec) -> Range:
    """The averaged extremes; of weights, which belong to no image, the extremes."""
    del spec
    return sample.mean_low, sample.mean_high

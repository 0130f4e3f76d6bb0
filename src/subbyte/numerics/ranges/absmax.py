"""As far below 0 as above it, to the largest absolute value (symmetric weights in Distiller)."""

from __future__ import annotations

from subbyte.errors import SubbyteError
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.sample import Range, Sample


def check(full: float) -> None:
    """Refuse what is neither 0 nor 1."""
    if full not in (0, 1):
        raise SubbyteError(f"full is {full}: give 0 or 1")


def range_of(sample: Sample, spec: QSpec, *, full: float = 0) -> Range:
    """[−m, m] with m = max |x|; for asymmetric integers the extremes.

    Args:
        sample: The values, (channels, n).
        spec: The integers that they become.
        full: 1: of symmetric integers all 2^b − 1 steps lie on [−m, m], the outermost half of one
            beyond each end (`SYMMETRIC`). 0: m is the largest integer (`SYMMETRIC_RESTRICTED`).
    """
    if not spec.symmetric:
        return sample.low, sample.high
    limit = sample.high.maximum(-sample.low)
    if not full:
        return -limit, limit
    half = (2**spec.bits - 1) / 2
    return limit * (spec.low / half), limit * (spec.high / half)

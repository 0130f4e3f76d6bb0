"""The range that leaves the least mean error, to a power of one's own.

Nahshan et al. 2019, "Loss Aware Post-training Quantization", where it is each layer's start.
"""

from __future__ import annotations

from subbyte.errors import SubbyteError
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges.common.error import least_error
from subbyte.numerics.ranges.common.sample import Range, Sample


def check(p: float) -> None:
    """Refuse a power that is not above 0 and at most 10."""
    if not 0 < p <= 10:
        raise SubbyteError(f"p is {p}: it must be above 0 and at most 10")


def range_of(sample: Sample, spec: QSpec, *, p: float = 2.0) -> Range:
    """The minimum over (l, h) of E[|Q(x; l, h) − x|^p] by search.

    p = 2 is the plain squared error.

    Args:
        sample: The values, (channels, n).
        spec: The integers that they become.
        p: The power of an error, above 0 and at most 10; 2 is the squared error.
    """
    return least_error(sample, spec, p, sample.counts)

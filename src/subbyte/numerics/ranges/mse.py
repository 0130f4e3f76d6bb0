"""The range with the least squared error, weighed by what errors cost the model's outputs."""

from __future__ import annotations

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges import lp
from subbyte.numerics.ranges.common.error import least_error
from subbyte.numerics.ranges.common.sample import Range, Sample

EXPONENT = {"weights": 3.0, "activations": 2.4}


def check(p: float | None) -> None:
    """Refuse a power that `lp` refuses."""
    if p is not None:
        lp.check(p)


def weighs(p: float | None) -> bool:
    """Without a power of one's own the rule asks what an error in each value costs."""
    return p is None


def range_of(sample: Sample, spec: QSpec, *, p: float | None = None) -> Range:
    """The range with the least Σ weight · (Q(x) − x)², where the weight of each value is known.

    It is known of activations. Elsewhere, and with a `p` of one's own, this is `lp`, by default
    with an exponent that suits what a layer computes: 2.4 for activations, as in the MSE observers
    of BRECQ (Li et al. 2021) and QDrop (Wei et al. 2022), and 3 for weights: with less, large
    weights are clipped so much that what a layer computes is biased. docs/notebook has the
    measurement.

    Args:
        sample: The values, (channels, n).
        spec: The integers that they become.
        p: The power of an error, above 0 and at most 10; `None`: as described.
    """
    if p is not None:
        return lp.range_of(sample, spec, p=p)
    if sample.mse_weights is not None:
        return least_error(sample, spec, 2.0, sample.mse_weights)
    role = "weights" if sample.counts is None else "activations"
    return lp.range_of(sample, spec, p=EXPONENT[role])

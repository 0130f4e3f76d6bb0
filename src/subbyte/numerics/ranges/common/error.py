"""The range with the least error of rounding and clipping, to any power."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subbyte.numerics.qspec import TINY, QSpec, qparams_of
from subbyte.numerics.ranges.common.sample import Range, Sample
from subbyte.numerics.ranges.common.search import search

if TYPE_CHECKING:
    import torch


def least_error(sample: Sample, spec: QSpec, p: float, factors: torch.Tensor | None) -> Range:
    """The range with the least Σ factor · |Q(x) − x|^p of each channel.

    Args:
        sample: The values, (channels, n).
        spec: The integers that they become.
        p: The power of an error, above 0.
        factors: What an error in each value counts, (channels, n); `None`: all count 1.
    """
    import torch

    from subbyte.numerics.rounding import row_errors

    # In units near the largest value, so that no power of an error is lost to float32's limits.
    unit = 2.0 ** torch.maximum(-sample.low, sample.high).clamp(min=TINY).log2().floor()
    values = sample.values / unit[:, None]

    def loss(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        scale, zero_point = qparams_of(low, high, spec)
        return row_errors(values, scale, zero_point, spec, p, factors)

    low, high = search(sample.low / unit, sample.high / unit, spec, loss, errors=True)
    return low * unit, high * unit

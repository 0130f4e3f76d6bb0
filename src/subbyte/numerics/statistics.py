"""The scale and zero point that a grid gets by the statistics of a tensor, as Distiller's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from subbyte.numerics.qparams import TensorQParams
from subbyte.recipe import Grid

# ACIQ's best clips in standard deviations (Gauss) and mean deviations (Laplace), by bits, as its
# authors and Distiller round them; those of values behind a ReLU are the clips of one bit more.
GAUSS = {2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92, 9: 4.2}
LAPLACE = {2: 2.83, 3: 3.89, 4: 5.03, 5: 6.2, 6: 7.41, 7: 8.64, 8: 9.89, 9: 11.16}
LAPLACE_HALF_3 = 5.02  # at 3 bits behind a ReLU, where they round 5.025 down


@dataclass(frozen=True)
class Statistics:
    """What is known of a tensor's values on the calibration images.

    Attributes:
        low: The minimum.
        high: The maximum.
        mean_low: The minimum of each image, averaged.
        mean_high: The maximum of each image, averaged.
        mean: Of all values.
        deviation: Their standard deviation.
        mean_deviation: The mean of |x − mean|.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    mean: float
    deviation: float
    mean_deviation: float

    def within(self, low: float, high: float) -> Statistics:
        """The same with all extremes brought into [low, high]; the moments stay."""

        def near(value: float) -> float:
            return min(max(value, low), high)

        return replace(
            self,
            low=near(self.low),
            high=near(self.high),
            mean_low=near(self.mean_low),
            mean_high=near(self.mean_high),
        )


def range_of(statistics: Statistics, grid: Grid) -> tuple[float, float]:
    """Both ends of the range that a grid's `clip` gives, before 0 is made one of its values."""
    low, high = statistics.low, statistics.high
    if grid.clip == "avg":
        return statistics.mean_low, statistics.mean_high
    if grid.clip == "n_std":
        assert grid.deviations is not None
        reach = grid.deviations * statistics.deviation
        return max(low, statistics.mean - reach), min(high, statistics.mean + reach)
    if grid.clip in ("gauss", "laplace"):
        return _aciq(statistics, grid)
    return low, high


def _aciq(statistics: Statistics, grid: Grid) -> tuple[float, float]:
    spread = statistics.deviation if grid.clip == "gauss" else statistics.mean_deviation
    if grid.symmetric:
        limit = abs(statistics.mean) + _factor(grid.clip, grid.bits) * spread
        return -limit, limit
    reach = _factor(grid.clip, grid.bits, half=grid.half) * spread
    low = max(statistics.mean_low, statistics.mean - reach)
    return low, low + (reach if grid.half else 2 * reach)


def _factor(clip: str, bits: int, *, half: bool = False) -> float:
    if clip == "laplace" and half and bits == 3:
        return LAPLACE_HALF_3
    return (GAUSS if clip == "gauss" else LAPLACE)[bits + half]


def qparams_by(statistics: Statistics, grid: Grid) -> TensorQParams:
    """Scale and zero point of a grid, worked out in float64.

    Symmetric integers have all their 2^b − 1 steps on [−m, m], the outermost half of one beyond
    each end, and restricted ones have m at the largest integer. Those of an asymmetric grid are 0 …
    2^b − 1; signed ones, 2^(b−1) less, are the same grid.
    """
    low, high = range_of(statistics, grid)
    if grid.symmetric:
        steps = 2 ** (grid.bits - 1) - 1 if grid.restricted else (2**grid.bits - 1) / 2
        extent, zero_point = max(abs(low), abs(high)), 0
    else:
        low, high = min(low, 0.0), max(high, 0.0)
        steps, extent = 2**grid.bits - 1, high - low
    scale = extent / steps if extent > 0 else 1.0
    if not grid.symmetric:
        zero_point = round(-low / scale)
    if grid.scale_bits is not None:
        scale = 1 / by_multiplier(1 / scale, grid.scale_bits)
    return TensorQParams(
        torch.tensor([scale], dtype=torch.float32), torch.tensor([zero_point], dtype=torch.int32)
    )


def by_multiplier(factor: float, bits: int) -> float:
    """The largest k / 2^n that is no more than `factor`, k a whole number of `bits` bits."""
    shift = math.floor(math.log2((2**bits - 1) / factor))
    return math.floor(math.ldexp(factor, shift)) / math.ldexp(1.0, shift)

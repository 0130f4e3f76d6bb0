from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from subbyte.numerics import ranges
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges import gauss, laplace, sample_of
from subbyte.numerics.ranges.common.aciq import best_clip

EXCESS = {"gauss": gauss.excess, "laplace": laplace.excess}
TRUE = {"gauss": stats.norm, "laplace": stats.laplace}
# Constants that the authors of ACIQ give with their code, for 2 to 8 bits.
PUBLISHED = {
    "gauss": [1.71063519, 2.15159277, 2.55913646, 2.93620062, 3.28691474, 3.6151146, 3.92403714],
    "laplace": [2.83068299, 3.89722946, 5.02864014, 6.20476633, 7.41312622, 8.64561995, 9.89675982],
}


def drawn(rule: str, mean: float = 0.0, scale: float = 1.0, n: int = 20_000) -> torch.Tensor:
    """The n quantiles in the middles of equal shares, float32, (1, n)."""
    x = TRUE[rule].ppf((np.arange(n) + 0.5) / n, mean, scale)
    return torch.from_numpy(x.astype(np.float32))[None]


def ends(rule: str, x: torch.Tensor, spec: QSpec, **options: float) -> tuple[float, float]:
    low, high = ranges.rule(rule).range_of(sample_of(x), spec, **options)
    return low.item(), high.item()


@pytest.mark.parametrize("rule", ["gauss", "laplace"])
def test_clips_are_those_that_aciq_publishes(rule: str) -> None:
    found = [best_clip(EXCESS[rule], bits) for bits in range(2, 9)]
    assert found == pytest.approx(PUBLISHED[rule], rel=1e-5)


@pytest.mark.parametrize("bits", range(3, 10))
@pytest.mark.parametrize("rule", ["gauss", "laplace"])
def test_no_clip_leaves_a_true_distribution_less_error(rule: str, bits: int) -> None:
    edge = {"gauss": 9.0, "laplace": 40.0}[rule]
    x = np.linspace(-edge, edge, 200_001)
    density = TRUE[rule].pdf(x)

    def error(clip: float) -> float:
        """Of rounding to the middles of 2^bits steps from −clip to clip, by integration."""
        step = 2 * clip / 2**bits
        middle = (np.floor(x / step) + 0.5) * step
        y = np.where(abs(x) > clip, np.sign(x) * clip, middle)
        return float(integrate.trapezoid((y - x) ** 2 * density, x))

    best = optimize.minimize_scalar(error, bounds=(0.5, 12), method="bounded")
    assert error(best_clip(EXCESS[rule], bits)) <= 1.01 * best.fun


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_clip_of_one_half_is_where_the_papers_sum_for_a_relu_is_least(bits: int) -> None:
    def half(clip: float) -> float:
        """b²·e^(−α/b) + α² / (24 · 4^bits) at b = 1: error of the positive half alone."""
        return float(np.exp(-clip) + clip**2 / (24 * 4**bits))

    best = optimize.minimize_scalar(half, bounds=(0.5, 20), method="bounded").x
    _, high = ends("laplace", drawn("laplace").clamp(min=0), QSpec(bits, False))
    assert high == pytest.approx(min(best, drawn("laplace").max().item()), rel=2e-3)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("rule", ["gauss", "laplace"])
def test_range_lies_around_the_mean(rule: str, bits: int, symmetric: bool) -> None:
    found = ends(rule, drawn(rule, mean=0.5, scale=0.2), QSpec(bits, symmetric))
    half = 0.2 * PUBLISHED[rule][bits - 2]
    assert found == pytest.approx((0.5 - half, 0.5 + half), rel=2e-3)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("rule", ["gauss", "laplace"])
def test_behind_a_relu_a_bit_more_is_there_unless_the_integers_are_symmetric(
    rule: str, bits: int, symmetric: bool
) -> None:
    x, spec = drawn(rule, scale=0.3).clamp(min=0), QSpec(bits, symmetric)
    expected = 0.3 * PUBLISHED[rule][bits - 2 + (not symmetric)]
    assert ends(rule, x, spec) == pytest.approx((0.0, expected), rel=3e-3)
    assert ends(rule, -x, spec) == pytest.approx((-expected, 0.0), rel=3e-3)
    more_zeros = torch.cat([x, torch.zeros(1, 70_000)], dim=1)
    assert ends(rule, more_zeros, spec) == pytest.approx(ends(rule, x, spec), rel=1e-5)


def test_both_kinds_of_channels_may_come_together() -> None:
    x = torch.stack([drawn("gauss")[0], drawn("gauss")[0].abs(), -drawn("gauss")[0].abs()])
    low, high = gauss.range_of(sample_of(x), QSpec(4, False, 0))
    two, one = PUBLISHED["gauss"][2:4]
    assert low.tolist() == pytest.approx([-two, 0, -one], rel=3e-3, abs=1e-3)
    assert high.tolist() == pytest.approx([two, one, 0], rel=3e-3, abs=1e-3)


@pytest.mark.parametrize("rule", ["n_std", "gauss", "laplace"])
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_constant_is_its_own_range(rule: str, value: float) -> None:
    x = torch.full((1, 9), value)
    assert ends(rule, x, QSpec(4, False)) == (value, value)

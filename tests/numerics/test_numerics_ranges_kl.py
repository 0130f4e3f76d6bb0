from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from subbyte.numerics import ranges
from subbyte.numerics.histogram import Histogram
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges import Sample, sample_of
from subbyte.numerics.ranges.kl import divergence, range_of, sorted_bins

SPECS = st.builds(QSpec, st.integers(2, 8), st.booleans())


def naive(bins: dict[float, float], width: float, low: float, high: float, spec: QSpec) -> float:
    """KL(P ‖ Q) bin by bin, by its definition: P with clipped values at its ends, Q by levels."""
    low, high = min(low, 0.0), max(high, 0.0)
    if spec.symmetric:
        step, zero = max(high / spec.high, low / spec.low), 0
    else:
        step = (high - low) / spec.high
        zero = round(min(max(-low / step, 0), spec.high))
    if step < width:
        return math.inf
    bins = {x: n for x, n in bins.items() if x != 0 and n > 0}
    level = {x: math.floor(x / step + 0.5) + zero for x in bins}
    inside = sorted(x for x in bins if spec.low <= level[x] <= spec.high)
    below = sum(n for x, n in bins.items() if level[x] < spec.low)
    above = sum(n for x, n in bins.items() if level[x] > spec.high)
    if not inside or 2 * (below + above) > sum(bins.values()):
        return math.inf
    if (below and inside[0] > 0) or (above and inside[-1] < 0):
        return math.inf
    p = {x: bins[x] for x in inside}
    p[inside[0]] += below
    p[inside[-1]] += above
    q = {}
    for x in inside:
        alike = [bins[y] for y in inside if level[y] == level[x]]
        q[x] = sum(alike) / len(alike)
    all_p, all_q = sum(p.values()), sum(q.values())
    return sum(p[x] / all_p * math.log(p[x] / all_p / (q[x] / all_q)) for x in inside)


@st.composite
def histograms(draw: st.DrawFn) -> dict[float, float]:
    """Bins of width 1, whose middles lie where no border between levels does by accident."""
    places = draw(st.lists(st.integers(-40, 40), min_size=2, max_size=60, unique=True))
    counts = draw(st.lists(st.integers(0, 30), min_size=len(places), max_size=len(places)))
    return {i and i + 0.0917: float(n) for i, n in zip(places, counts, strict=True)}


@given(
    bins=histograms(), spec=SPECS, low=st.floats(-60, 0), high=st.floats(1e-3, 60), data=st.data()
)
def test_divergence_is_that_of_the_definition(
    bins: dict[float, float], spec: QSpec, low: float, high: float, data: st.DataObject
) -> None:
    low, high = float(np.float32(low)), float(np.float32(high))
    x = torch.tensor([list(bins)], dtype=torch.float64)
    counts = torch.tensor([list(bins.values())], dtype=torch.float64)
    histogram = sorted_bins(x, counts, torch.ones(1))
    found = divergence(histogram, spec, torch.tensor([low]), torch.tensor([high])).item()
    expected = naive(bins, 1.0, low, high, spec)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_divergence_by_hand() -> None:
    # Two bits on [0, 3]: levels 0 … 3. Level 1 has bins with 3 and 1 values, level 3 has one with
    # 2, and 2 are clipped to it: P = (3, 1, 4) / 8 and Q = (2, 2, 2) / 6.
    centres, counts = torch.tensor([[0.75, 1.25, 3.0, 9.0, 0.0]]), torch.tensor([[3, 1, 2, 2, 50]])
    histogram = sorted_bins(centres, counts, torch.tensor([0.25]))
    found = divergence(histogram, QSpec(2, False), torch.tensor([0.0]), torch.tensor([3.0]))
    expected = 3 / 8 * math.log(9 / 8) + 1 / 8 * math.log(3 / 8) + 4 / 8 * math.log(12 / 8)
    assert found.item() == pytest.approx(expected)


@cache
def observed(name: str) -> tuple[Sample, np.ndarray]:
    """An activation's histogram of 200,000 values, and these."""
    n = 200_000
    x = stats.laplace.ppf((np.arange(n) + 0.5) / n) if "laplace" in name else None
    x = stats.norm.ppf((np.arange(n) + 0.5) / n) if x is None else x
    if "shifted" in name:
        x = x + 1
    if "relu" in name:
        x = np.maximum(x, 0)
    if "outlier" in name:
        x[0] = 40.0
    seen = Histogram()
    seen.update(torch.from_numpy(x.astype(np.float32)).reshape(100, -1))
    return seen.sample(), x


NAMES = ["normal", "laplace", "normal relu", "laplace relu", "normal shifted", "normal outlier"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_no_other_range_is_much_better(name: str, bits: int, symmetric: bool) -> None:
    sample, _ = observed(name)
    spec = QSpec(bits, symmetric)
    assert sample.counts is not None
    width = sample.values[0].diff().min().reshape(1)
    histogram = sorted_bins(sample.values, sample.counts, width)
    extremes = sample.low.clamp(max=0), sample.high
    tried = [
        divergence(histogram, spec, torch.maximum(extremes[0], -a), torch.minimum(extremes[1], b))
        for a in torch.logspace(-1, 4, 14 if extremes[0] < 0 else 1, base=2)
        for b in torch.logspace(-1, 4, 14, base=2)
    ]
    found = divergence(histogram, spec, *range_of(sample, spec))
    assert found <= 1.1 * min(tried) + 1e-4


# Two symmetric bits are two integers behind a ReLU, of which one is zero: how values divide into
# two shows too little, so those are left out.
@pytest.mark.parametrize(
    ("name", "bits", "symmetric"),
    [
        (name, bits, symmetric)
        for name in NAMES
        for bits in (2, 3, 5, 8)
        for symmetric in (True, False)
        if name != "normal outlier" and not (symmetric and bits == 2 and "relu" in name)
    ],
)
def test_range_leaves_a_small_error(name: str, bits: int, symmetric: bool) -> None:
    sample, x = observed(name)
    spec = QSpec(bits, symmetric)

    def error(rule: str) -> float:
        low, high = (end.item() for end in ranges.rule(rule).range_of(sample, spec))
        low, high = min(low, 0.0), max(high, 0.0)
        step = max(high / spec.high, low / spec.low) if symmetric else (high - low) / spec.high
        zero = 0 if symmetric else round(-low / step)
        level = np.clip(np.rint(x / step) + zero, spec.low, spec.high)
        return float(np.mean(((level - zero) * step - x) ** 2))

    assert error("kl") <= 2.2 * error("lp")
    assert error("kl") <= 1.05 * error("minmax")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_one_value_far_off_is_clipped(bits: int, symmetric: bool) -> None:
    sample, _ = observed("normal outlier")
    spec = QSpec(bits, symmetric)
    scale, _ = ranges.choose("kl", {}, sample, spec)
    without, _ = ranges.choose("kl", {}, observed("normal")[0], spec)
    assert scale.item() == pytest.approx(without.item(), rel=0.25)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_behind_a_relu_change_nothing(bits: int) -> None:
    sample, _ = observed("normal relu")
    assert sample.counts is not None
    zeros = sample.values == 0
    assert zeros.sum() == 1
    more = Sample(
        sample.values,
        torch.where(zeros, sample.counts * 50, sample.counts),
        *(sample.low, sample.high) * 2,
    )
    spec = QSpec(bits, False)
    assert range_of(more, spec) == range_of(sample, spec)


def test_sides_of_a_distribution_are_exchangeable() -> None:
    sample, _ = observed("laplace relu")
    mirrored = Sample(-sample.values, sample.counts, *(-sample.high, -sample.low) * 2)
    low, high = range_of(sample, QSpec(4, False))
    mirrored_low, mirrored_high = range_of(mirrored, QSpec(4, False))
    assert (mirrored_low.item(), mirrored_high.item()) == pytest.approx((-high.item(), -low.item()))


@pytest.mark.parametrize(
    ("bits", "n", "clips"), [(2, 255, False), (2, 256, True), (4, 1023, False), (4, 1024, True)]
)
def test_channels_with_too_few_values_keep_their_extremes(bits: int, n: int, clips: bool) -> None:
    x = torch.randn(8, n, generator=torch.Generator().manual_seed(0))
    sample = sample_of(x)
    low, high = range_of(sample, QSpec(bits, False, 0))
    assert bool((high - low < 0.95 * (sample.high - sample.low)).any()) == clips
    if not clips:
        assert torch.equal(low, sample.low)
        assert torch.equal(high, sample.high)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_weight_is_seen_as_the_histogram_of_its_values(symmetric: bool) -> None:
    # 64 bins and zero from −32 to 32, for 64 · 16 values: each value is the middle of its bin.
    counts = np.exp(-((np.arange(65) - 32) ** 2) / 150) * 44
    counts = np.maximum(counts, 1).round().astype(int)
    counts[32] += 64 * 16 - counts.sum()
    assert counts.min() == 1
    values = np.repeat(np.arange(65) - 32, counts).astype(np.float32)
    weight = sample_of(torch.from_numpy(values)[None])
    counted = Sample(
        (torch.arange(65.0) - 32)[None],
        torch.from_numpy(counts).float()[None],
        *(weight.low, weight.high) * 2,
    )
    spec = QSpec(4, symmetric, 0)
    low, high = range_of(weight, spec)
    assert range_of(counted, spec) == (low, high)
    assert high.item() < 32


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_a_constant_is_in_its_own_range(value: float, counted: bool) -> None:
    x = torch.full((1, 2000), value)
    sample = sample_of(x)
    if counted:
        sample = Sample(x[:, :1], torch.tensor([[2000.0]]), *(sample.low, sample.high) * 2)
    low, high = range_of(sample, QSpec(2, False, 0))
    assert low.item() <= value <= high.item()

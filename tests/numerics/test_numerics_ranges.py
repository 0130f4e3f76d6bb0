from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from subbyte.errors import SubbyteError
from subbyte.numerics import ranges
from subbyte.numerics.histogram import Histogram
from subbyte.numerics.qspec import QSpec, qparams_of
from subbyte.numerics.ranges import Sample, avg, choose, lp, minmax, mse, n_std, sample_of
from subbyte.numerics.ranges import percentile as percentile_rule

RULES = ranges.names()
CLOSED = [rule for rule in RULES if rule not in ("mse", "lp", "kl")]  # no search in them
ROWS = hnp.arrays(np.float32, st.tuples(st.just(1), st.integers(1, 40)), elements=st.floats(-9, 9))
SPECS = st.builds(QSpec, st.integers(2, 8), st.booleans(), st.just(0))


def errors(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, spec: QSpec, p: float = 2
) -> np.ndarray:
    """E|Q(x) − x|^p for each range [low, high], in float64, by the definition of Q."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if spec.symmetric:
        scale, zero_point = np.maximum(high / spec.high, low / spec.low), np.zeros_like(low)
    else:
        scale = (high - low) / spec.high
        scale = np.where(scale > 0, scale, 1.0)
        zero_point = np.clip(np.rint(-low / scale), spec.low, spec.high)
    scale, zero_point = np.where(scale > 0, scale, 1.0)[:, None], zero_point[:, None]
    level = np.clip(np.rint(x / scale) + zero_point, spec.low, spec.high) - zero_point
    return np.mean(np.abs(level * scale - x) ** p, axis=1)


def error_of(rule: str, x: torch.Tensor, spec: QSpec, p: float) -> float:
    options = {"p": p} if rule in ("mse", "lp") else {}
    low, high = ranges.rule(rule).range_of(sample_of(x.reshape(1, -1)), spec, **options)
    found = errors(x.double().numpy(), low.double().numpy(), high.double().numpy(), spec, p)
    return float(found[0])


def brute_force(x: torch.Tensor, spec: QSpec) -> float:
    """The least squared error over 60 × 60 ranges within the extremes (60 if symmetric)."""
    values = x.double().numpy()
    shares = np.linspace(1 / 60, 1, 60)
    low, high = min(values.min(), 0.0) * shares, max(values.max(), 0.0) * shares
    if not spec.symmetric:
        low, high = (ends.ravel() for ends in np.meshgrid(low, high))
    return float(errors(values, low, high, spec).min())


def distribution(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, generator=generator)
    if name == "relu":
        return x.clamp(min=0)
    if name == "exponential":
        return torch.rand(600, generator=generator).log().neg() - 0.3
    if name == "shifted":
        return x + 1.5
    if name == "outlier":
        x[0] = 12.0
    return x


def test_minmax_is_the_extremes() -> None:
    x = torch.tensor([[3.0, -1.0, 2.0], [0.5, 0.25, 0.75]])
    low, high = minmax.range_of(sample_of(x), QSpec(4, False, 0))
    assert (low.tolist(), high.tolist()) == ([-1.0, 0.25], [3.0, 0.75])


def test_avg_is_the_mean_of_the_images_extremes() -> None:
    histogram = Histogram()
    histogram.update(torch.tensor([[-1.0, 4.0, 0.0], [0.5, 1.0, 0.0]]))
    histogram.update(torch.tensor([[-5.0, -3.0, -2.0]]))
    low, high = avg.range_of(histogram.sample(), QSpec(4, False))
    assert (low.item(), high.item()) == (-2.0, 1.0)  # of −1, 0, −5 and of 4, 1, −2
    weights = sample_of(torch.tensor([[3.0, -1.0, 2.0], [0.5, 0.25, 0.75]]))
    spec = QSpec(4, False, 0)
    assert avg.range_of(weights, spec) == minmax.range_of(weights, spec)


@given(
    values=st.lists(st.integers(-9, 9), min_size=1, max_size=97),
    percentile=st.sampled_from(["100", "99.9", "97.5", "85", "50.5"]),
)
def test_percentile_is_the_smallest_range_with_few_enough_outside(
    values: list[int], percentile: str
) -> None:
    outside = len(values) * (1 - Fraction(percentile) / 100)
    assume(outside == 0 or outside.denominator > 1)  # of which floats are sure
    sample = sample_of(torch.tensor([values], dtype=torch.float32))
    low, high = percentile_rule.range_of(sample, QSpec(8, False), percentile=float(percentile))
    allowed = [v for v in set(values) if sum(x < v for x in values) <= outside]
    assert low.item() == max(allowed)
    allowed = [v for v in set(values) if sum(x > v for x in values) <= outside]
    assert high.item() == min(allowed)


@pytest.mark.parametrize(
    ("n", "percentile", "expected"),
    [
        (4, 75, (1, 2)),
        (10, 90, (1, 8)),
        (1000, 99.9, (1, 998)),
    ],
)
def test_percentile_may_leave_out_exactly_its_share(
    n: int, percentile: float, expected: tuple[float, float]
) -> None:
    sample = sample_of(torch.arange(float(n))[None])
    low, high = percentile_rule.range_of(sample, QSpec(8, False), percentile=percentile)
    assert (low.item(), high.item()) == expected


@pytest.mark.parametrize("counted", [True, False])
def test_n_std_by_hand(counted: bool) -> None:
    sample = sample_of(torch.tensor([[-1.0, -1.0, -1.0, 3.0]]))  # mean 0, variance (3 + 9) / 4
    if counted:
        ends_ = sample.low, sample.high
        sample = Sample(torch.tensor([[-1.0, 3.0]]), torch.tensor([[3.0, 1.0]]), *ends_, *ends_)
    spec = QSpec(8, False)
    low, high = n_std.range_of(sample, spec, n=0.5)
    assert (low.item(), high.item()) == pytest.approx((-(3**0.5) / 2, 3**0.5 / 2))
    low, high = n_std.range_of(sample, spec, n=1)
    assert (low.item(), high.item()) == pytest.approx((-1.0, 3**0.5))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["normal", "relu", "exponential", "shifted", "outlier"])
def test_lp_is_as_good_as_brute_force(name: str, bits: int, symmetric: bool) -> None:
    x, spec = distribution(name), QSpec(bits, symmetric, axis=0)
    assert error_of("lp", x, spec, 2) <= 1.03 * brute_force(x, spec)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("far", [-60.0, 60.0])
def test_lp_finds_the_rest_of_the_values_beside_one_far_off(
    far: float, bits: int, symmetric: bool
) -> None:
    rest, spec = distribution("normal").repeat(20), QSpec(bits, symmetric, axis=0)
    x = torch.cat([rest, torch.tensor([far])])
    values = x.double().numpy()
    shares = np.linspace(0.2, 1.2, 20)
    ends = float(rest.min()) * shares, float(rest.max()) * shares
    low, high = (x.ravel() for x in np.meshgrid(*ends))
    least = errors(values, low, high, spec, p=1).min()
    assert error_of("lp", x, spec, 1) <= 1.02 * least
    assert error_of("minmax", x, spec, 1) >= 1.4 * least  # the far one really asks to be clipped


@settings(max_examples=50)
@given(row=ROWS, spec=SPECS, p=st.sampled_from([1.0, 2.0, 2.4, 4.0]))
def test_lp_is_never_worse_than_minmax(row: np.ndarray, spec: QSpec, p: float) -> None:
    x = torch.from_numpy(row[0])
    assert error_of("lp", x, spec, p) <= error_of("minmax", x, spec, p) * (1 + 1e-4) + 1e-6


def test_mse_is_lp_with_other_exponents() -> None:
    weights, spec = sample_of(distribution("outlier")[None]), QSpec(3, False, 0)
    activations = dataclasses.replace(weights, counts=torch.ones_like(weights.values))
    for sample, exponent in ((weights, 3.0), (activations, 2.4)):
        expected = lp.range_of(sample, spec, p=exponent)
        assert mse.range_of(sample, spec) == expected
        assert mse.range_of(sample, spec, p=2) == lp.range_of(sample, spec)


def test_a_larger_exponent_clips_less_and_weights_have_a_larger_one_by_default() -> None:
    weights, spec = sample_of(distribution("normal")[None]), QSpec(2, True, 0)
    activations = dataclasses.replace(weights, counts=torch.ones_like(weights.values))

    def width(sample: Sample, **options: float) -> float:
        return choose("mse", options, sample, spec)[0].item()

    widths = [width(weights, p=p) for p in (2, 2.4, 3)]
    assert widths[0] < widths[1] < widths[2]
    assert width(activations) == widths[1]
    assert width(weights) == widths[2]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_channels_do_not_influence_each_other(rule: str, symmetric: bool) -> None:
    spec = QSpec(3, symmetric, axis=0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 600, generator=generator) * torch.logspace(-3, 3, 6)[:, None]
    x[2] = 0
    x[3] = x[3].abs()
    together = torch.stack([t.float() for t in choose(rule, {}, sample_of(x), spec)])
    alone = [
        torch.stack([t.float() for t in choose(rule, {}, sample_of(r[None]), spec)]) for r in x
    ]
    assert torch.equal(together, torch.cat(alone, dim=1))
    assert together[:, 2].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("rule", [*CLOSED, "lp"])
@settings(max_examples=20)
@given(
    values=st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True),
    data=st.data(),
)
def test_counts_stand_for_repeated_values(
    rule: str, values: list[int], data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    options = {"percentile": {"percentile": 87.3}, "lp": {"p": 2.4}, "n_std": {"n": 1}}
    x, n, spec = torch.tensor(values).float() / 4, torch.tensor(counts), QSpec(3, False, axis=0)
    repeated = sample_of(x.repeat_interleave(n)[None])
    low, high = repeated.low, repeated.high
    counted = Sample(x[None], n.float()[None], low, high, low, high)
    found = [
        ranges.rule(rule).range_of(sample, spec, **options.get(rule, {}))
        for sample in (counted, repeated)
    ]
    if rule != "lp":  # whose ties may be broken otherwise
        assert torch.cat(found[0]).tolist() == pytest.approx(torch.cat(found[1]).tolist(), 1e-5)
    errors_found = [
        errors(repeated.values.double().numpy(), a.double().numpy(), b.double().numpy(), spec, 2.4)
        for a, b in found
    ]
    np.testing.assert_allclose(*errors_found, rtol=1e-4, atol=1e-12)


def counted(x: torch.Tensor) -> Sample:
    """What is remembered of an activation with these values."""
    histogram = Histogram()
    histogram.update(x.reshape(10, -1))
    return histogram.sample()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2.0**-60, 2.0**40, 3.7])
@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("rule", RULES)
def test_a_range_grows_with_its_values(rule: str, bits: int, factor: float) -> None:
    for name in ("outlier", "relu", "shifted"):
        x, spec = distribution(name), QSpec(bits, False, 0)
        for sample_from in (lambda x: sample_of(x[None]), counted):
            scale, zero_point = choose(rule, {}, sample_from(x), spec)
            scaled, zero_point_of_scaled = choose(rule, {}, sample_from(x * factor), spec)
            if factor == 3.7:  # with rounding: a search may end on another range, as good
                assert scaled.item() == pytest.approx(3.7 * scale.item(), rel=0.1)
            else:
                assert scaled == factor * scale
                assert zero_point == zero_point_of_scaled


# `absmax` goes as far below 0 as above it.
@pytest.mark.parametrize("rule", [*(rule for rule in CLOSED if rule != "absmax"), "kl"])
@settings(max_examples=25)
@given(row=ROWS, spec=SPECS)
def test_a_range_ends_within_the_extremes_and_zero(rule: str, row: np.ndarray, spec: QSpec) -> None:
    x = torch.from_numpy(row)
    samples = [sample_of(x)]
    samples.append(dataclasses.replace(samples[0], counts=torch.ones_like(x)))
    for sample in samples:
        low, high = ranges.rule(rule).range_of(sample, spec)
        assert min(row.min(), 0) <= low.item() <= high.item() <= max(row.max(), 0)


def test_choosing_gives_the_grid_of_the_range() -> None:
    sample, spec = sample_of(torch.tensor([[-1.0, 0.5, 2.0]])), QSpec(2, False, axis=0)
    scale, zero_point = choose("minmax", {}, sample, spec)
    assert (scale.tolist(), zero_point.tolist()) == ([1.0], [1])
    clipped = choose("percentile", {"percentile": 60}, sample, spec)
    assert clipped == qparams_of(torch.tensor([0.5]), torch.tensor([0.5]), spec)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("mze", {}, "unknown range rule 'mze': did you mean 'mse'?"),
        ("mse", {"pp": 3}, "'pp': did you mean 'p'?"),
        ("minmax", {"p": 3}, "range rule 'minmax' has no option 'p': it takes none"),
        ("mse", {"p": 0}, "p is 0: it must be above 0 and at most 10"),
        ("mse", {"p": 11}, "p is 11"),
        ("lp", {"p": -1}, "p is -1: it must be above 0 and at most 10"),
        ("lp", {"p": float("nan")}, "p is nan: it must be above 0"),
        ("lp", {"p": True}, "p is True: give a number"),
        ("n_std", {"n": 0}, "n is 0: it must be a number above 0"),
        ("n_std", {"n": float("inf")}, "n is inf: it must be a number above 0"),
        ("n_std", {"m": 2}, "unknown option of range rule 'n_std' 'm'"),
        ("gauss", {"n": 2}, "range rule 'gauss' has no option 'n': it takes none"),
        ("laplaze", {}, "did you mean 'laplace'?"),
        ("percentile", {"percentile": 50}, "percentile is 50: it must be above 50"),
        ("percentile", {"percentile": 100.1}, "percentile is 100.1"),
    ],
)
def test_what_cannot_be_is_refused(rule: str, options: dict[str, object], message: str) -> None:
    sample = sample_of(torch.tensor([[-1.0, 2.0]]))
    for refuse in (
        lambda: choose(rule, options, sample, QSpec(4, False, axis=0)),
        lambda: ranges.check(rule, options),
    ):
        with pytest.raises(SubbyteError) as caught:
            refuse()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_rule_of_the_contract_is_there() -> None:
    names = "minmax absmax avg n_std percentile mse lp kl gauss laplace"
    assert sorted(names.split()) == ranges.names()
    for name in names.split():
        ranges.check(name, {})


def weighed(x: torch.Tensor, costs: torch.Tensor) -> Sample:
    counts = torch.ones_like(x)[None]
    return dataclasses.replace(
        sample_of(x[None]), counts=counts, mse_weights=costs.to(x.dtype)[None]
    )


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_makes_the_weighed_squared_error_the_least(bits: int, symmetric: bool) -> None:
    spec = QSpec(bits, symmetric, 0)
    x = distribution("shifted")
    costs = torch.where(x > 0.5, 1.0, 1e-4)  # what is below hardly counts
    low, high = mse.range_of(weighed(x, costs), spec)
    scale, zero_point = qparams_of(low, high, spec)
    quantized = torch.fake_quantize_per_tensor_affine(
        x, float(scale), int(zero_point), spec.low, spec.high
    )
    found = ((quantized - x).double().square() * costs).sum()
    shares = np.linspace(1 / 60, 1, 60)
    for share_low, share_high in np.stack(np.meshgrid(shares, shares)).reshape(2, -1).T[::7]:
        ends = torch.tensor([x.min() * share_low]), torch.tensor([x.max() * share_high])
        other, zero_point = qparams_of(*ends, spec)
        tried = torch.fake_quantize_per_tensor_affine(
            x, float(other), int(zero_point), spec.low, spec.high
        )
        assert found <= 1.02 * ((tried - x).double().square() * costs).sum()


def test_mse_clips_an_outlier_that_does_not_matter_and_keeps_one_that_does() -> None:
    x, spec = distribution("outlier"), QSpec(4, False, 0)
    ends = {}
    for name, cost in {"idle": 0.0, "vital": 1e4}.items():
        costs = torch.ones_like(x)
        costs[0] = cost
        ends[name] = float(mse.range_of(weighed(x, costs), spec)[1])
    assert ends["idle"] < 4 < 11 < ends["vital"]


def test_an_exponent_of_ones_own_looks_at_values_alone() -> None:
    x, spec = distribution("outlier"), QSpec(4, False, 0)
    known = weighed(x, (x > 3).float())
    for p in (2, 2.4):
        plain = mse.range_of(dataclasses.replace(known, mse_weights=None), spec, p=p)
        assert mse.range_of(known, spec, p=p) == plain
    assert ranges.weighs("mse", {})
    assert not ranges.weighs("mse", {"p": 2})
    assert not any(ranges.weighs(rule, {}) for rule in RULES if rule != "mse")

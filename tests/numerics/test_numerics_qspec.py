from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subbyte.numerics.qspec import QSpec, qparams_of

BITS = st.integers(2, 8)
ENDS = st.floats(-1e6, 1e6, width=32)


def parameters(low: float, high: float, spec: QSpec) -> tuple[float, int]:
    scale, zero_point = qparams_of(torch.tensor([low]), torch.tensor([high]), spec)
    return scale.item(), zero_point.item()


@pytest.mark.parametrize(
    ("bits", "symmetric", "asymmetric"),
    [
        (2, (-2, 1), (0, 3)),
        (3, (-4, 3), (0, 7)),
        (4, (-8, 7), (0, 15)),
        (5, (-16, 15), (0, 31)),
        (6, (-32, 31), (0, 63)),
        (7, (-64, 63), (0, 127)),
        (8, (-128, 127), (0, 255)),
    ],
)
def test_the_integers_of_a_specification(
    bits: int, symmetric: tuple[int, int], asymmetric: tuple[int, int]
) -> None:
    for expected, is_symmetric in ((symmetric, True), (asymmetric, False)):
        spec = QSpec(bits, is_symmetric)
        assert (spec.low, spec.high) == expected


@pytest.mark.parametrize(
    ("low", "high", "bits", "scale", "zero_point"),
    [
        (-1.0, 2.0, 2, 1.0, 1),
        (-63.75, 63.75, 8, 0.5, 128),  # 127.5, rounded half to even
        (-8.0, 7.0, 4, 1.0, 8),
        (-0.4, 2.6, 2, 1.0, 0),  # the zero point is rounded
        (1.0, 3.0, 2, 1.0, 0),  # widened to hold 0
        (-3.0, -1.0, 2, 1.0, 3),
        (0.0, 0.0, 4, 1.0, 0),
    ],
)
def test_asymmetric_parameters_by_hand(
    low: float, high: float, bits: int, scale: float, zero_point: int
) -> None:
    assert parameters(low, high, QSpec(bits, False)) == (scale, zero_point)


@pytest.mark.parametrize(
    ("low", "high", "bits", "scale"),
    [
        (-8.0, 7.0, 4, 1.0),
        (-16.0, 7.0, 4, 2.0),  # the low end decides
        (-4.0, 14.0, 4, 2.0),  # the high end decides
        (-1.0, 0.0, 2, 0.5),
        (1.0, 2.0, 2, 2.0),
        (0.0, 0.0, 2, 1.0),
    ],
)
def test_symmetric_parameters_by_hand(low: float, high: float, bits: int, scale: float) -> None:
    assert parameters(low, high, QSpec(bits, True)) == (scale, 0)


def test_channels_are_independent_and_a_channel_of_zeros_is_harmless() -> None:
    scale, zero_point = qparams_of(
        torch.tensor([-1.0, 0.0, -6.0]), torch.tensor([2.0, 0.0, 0.0]), QSpec(2, False, axis=0)
    )
    assert scale.tolist() == [1.0, 1.0, 2.0]
    assert zero_point.tolist() == [1, 0, 3]
    assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int32)


@given(ENDS, ENDS, BITS, st.booleans())
def test_the_integers_hold_zero_and_cover_its_range(
    one: float, other: float, bits: int, symmetric: bool
) -> None:
    low, high = sorted((one, other))
    spec = QSpec(bits, symmetric)
    scale, zero_point = parameters(low, high, spec)
    assert spec.low <= zero_point <= spec.high
    # Rounding the zero point moves an asymmetric range by up to half a step.
    slack = scale * (1e-4 if symmetric else 0.5001)
    assert (spec.low - zero_point) * scale <= low + slack
    assert (spec.high - zero_point) * scale >= high - slack


@given(ENDS, ENDS, BITS)
def test_asymmetric_steps_are_spread_over_its_range(one: float, other: float, bits: int) -> None:
    low, high = sorted((one, other, 0.0))[::2]
    scale, _ = parameters(low, high, QSpec(bits, False))
    if high - low > 1e-30:
        assert scale * (2**bits - 1) == pytest.approx(high - low, rel=1e-6)

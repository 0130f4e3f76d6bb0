"""Grids by statistics, against Distiller's documented formulas worked out here in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from subbyte.errors import SubbyteError
from subbyte.numerics.qspec import QSpec
from subbyte.numerics.ranges import choose, sample_of
from subbyte.numerics.rounding import fake_quantize
from subbyte.numerics.statistics import Statistics, by_multiplier, qparams_by
from subbyte.recipe import Grid

SEEN = Statistics(
    low=-1.7, high=3.1, mean_low=-1.2, mean_high=2.4, mean=0.3, deviation=0.45, mean_deviation=0.33
)
MODES = {
    "SYMMETRIC": {"symmetric": True},
    "SYMMETRIC_RESTRICTED": {"symmetric": True, "restricted": True},
    "ASYMMETRIC_UNSIGNED": {},
}
# ACIQ's clips, in deviations, at 4 and 8 bits and behind a ReLU.
CLIPS = {
    ("gauss", 4): (2.55, 2.93),
    ("gauss", 8): (3.92, 4.2),
    ("laplace", 4): (5.03, 6.2),
    ("laplace", 8): (9.89, 11.16),
}


def _range(clip: str, bits: int, symmetric: bool, half: bool) -> tuple[float, float]:
    if clip == "none":
        return -1.7, 3.1
    if clip == "avg":
        return -1.2, 2.4
    if clip == "n_std":
        return max(-1.7, 0.3 - 2 * 0.45), min(3.1, 0.3 + 2 * 0.45)
    reach = CLIPS[clip, bits][half and not symmetric] * (0.45 if clip == "gauss" else 0.33)
    if symmetric:
        return -(0.3 + reach), 0.3 + reach
    low = max(-1.2, 0.3 - reach)
    return low, low + reach * (1 if half else 2)


def _distiller(mode: str, low: float, high: float, bits: int) -> tuple[float, int]:
    """Distiller's scale, a factor of values, and its zero point, which is subtracted."""
    if mode == "SYMMETRIC":
        return (2**bits - 1) / 2 / max(abs(low), abs(high)), 0
    if mode == "SYMMETRIC_RESTRICTED":
        return (2 ** (bits - 1) - 1) / max(abs(low), abs(high)), 0
    low, high = min(low, 0), max(high, 0)
    scale = (2**bits - 1) / (high - low)
    return scale, round(low * scale)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("clip", ["none", "avg", "n_std", "gauss", "laplace"])
@pytest.mark.parametrize("mode", MODES)
def test_scale_and_zero_point(mode: str, clip: str, half: bool, bits: int) -> None:
    grid = Grid(bits=bits, clip=clip, half=half, deviations=2, **MODES[mode])

    found = qparams_by(SEEN, grid)

    low, high = _range(clip, bits, grid.symmetric, half)
    scale, zero = _distiller(mode, low, high, bits)
    assert float(found.scale) == float(np.float32(1 / scale))
    assert int(found.zero_point) == -zero


@pytest.mark.parametrize("mode", [*MODES, "ASYMMETRIC_SIGNED"])
def test_values_on_the_grid(mode: str) -> None:
    x = torch.linspace(-4, 4, 4001)
    grid = Grid(bits=4, clip="avg", **MODES.get(mode, {}))
    params = qparams_by(SEEN, grid)
    spec = QSpec(4, grid.symmetric, None, grid.restricted)

    found = fake_quantize(x, params.scale, params.zero_point, spec)

    kind = "ASYMMETRIC_UNSIGNED" if mode == "ASYMMETRIC_SIGNED" else mode
    scale, zero = _distiller(kind, -1.2, 2.4, 4)
    low, high = {"SYMMETRIC": (-8, 7), "SYMMETRIC_RESTRICTED": (-7, 7)}.get(mode, (0, 15))
    if mode == "ASYMMETRIC_SIGNED":
        zero, low, high = zero + 8, -8, 7
    integers = np.clip(np.round(scale * x.double().numpy() - zero), low, high)
    expected = (integers + zero) / scale
    # Where a value lies between two integers, float32 may take the other one.
    assert np.mean(np.abs(found.numpy() - expected) > 1e-5) < 0.002


def test_a_tensor_of_zeros_has_the_scale_1() -> None:
    nothing = Statistics(0, 0, 0, 0, 0, 0, 0)
    for fields in MODES.values():
        assert float(qparams_by(nothing, Grid(bits=8, **fields)).scale) == 1


def test_behind_a_relu_laplace_at_3_bits_is_rounded_as_distiller_rounds_it() -> None:
    seen = Statistics(0, 9, 0, 9, 0.3, 1, 1)
    found = qparams_by(seen, Grid(bits=3, clip="laplace", half=True))
    assert float(found.scale) == pytest.approx(5.02 / 7, rel=1e-6)


@pytest.mark.parametrize("bits", [4, 8, 12])
@pytest.mark.parametrize("factor", [0.37, 1.0, 70.8, 1234.5])
def test_scales_by_multiplication_and_shift(factor: float, bits: int) -> None:
    shift = math.floor(math.log2((2**bits - 1) / factor))
    multiplier = math.floor(factor * 2.0**shift)

    assert by_multiplier(factor, bits) == multiplier / 2.0**shift
    assert 1 <= multiplier < 2**bits
    assert 0 <= factor - by_multiplier(factor, bits) <= factor * 2 / 2 ** (bits - 1)


def test_scale_bits_leave_the_zero_point() -> None:
    plain = qparams_by(SEEN, Grid(bits=8))
    coarse = qparams_by(SEEN, Grid(bits=8, scale_bits=5))

    assert float(coarse.scale) == float(np.float32(1 / by_multiplier(255 / 4.8, 5)))
    assert int(coarse.zero_point) == int(plain.zero_point)


@pytest.mark.parametrize("bits", [4, 8])
def test_symmetric_weights(bits: int) -> None:
    weight = torch.tensor([[-0.9, 0.2, 0.5], [0.1, 0.7, -0.3]])
    spec = QSpec(bits, symmetric=True, axis=0)
    largest = np.array([0.9, 0.7], dtype=np.float32).astype(np.float64)

    full, _ = choose("absmax", {"full": 1}, sample_of(weight), spec)
    restricted, _ = choose("absmax", {}, sample_of(weight), spec)

    np.testing.assert_allclose(full, largest / ((2**bits - 1) / 2), rtol=2e-7)
    np.testing.assert_allclose(restricted, largest / (2 ** (bits - 1) - 1), rtol=2e-7)


def test_absmax_takes_0_or_1() -> None:
    with pytest.raises(SubbyteError, match="full is 2"):
        choose("absmax", {"full": 2}, sample_of(torch.ones(1, 3)), QSpec(8, True))

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from subbyte.errors import SubbyteError
from subbyte.numerics.fake_quantize import BiasQuantize, Clipping, FakeQuantize, State
from subbyte.numerics.qspec import QSpec

VALUES = hnp.arrays(np.float32, 40, elements=st.floats(-500, 500, width=32))
SCALES = st.floats(2**-10, 32, width=32)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # torch's quantized tensors, our reference, are deprecated
        warnings.simplefilter("ignore")
        yield


def quantizer(
    spec: QSpec, scale: object = 1.0, zero_point: object = 0, state: State = State.QUANTIZE
) -> FakeQuantize:
    scales = torch.as_tensor(scale, dtype=torch.float32).reshape(-1)
    made = FakeQuantize(spec, "block.conv", len(scales))
    made.scale.copy_(scales)
    made.zero_point.copy_(torch.as_tensor(zero_point, dtype=torch.int32).reshape(-1))
    made.state = state
    return made


@pytest.mark.parametrize(("symmetric", "dtype"), [(False, torch.quint8), (True, torch.qint8)])
@given(values=VALUES, scale=SCALES, zero_point=st.integers(0, 255))
def test_eight_bits_are_those_of_torch(
    symmetric: bool, dtype: torch.dtype, values: np.ndarray, scale: float, zero_point: int
) -> None:
    spec = QSpec(8, symmetric)
    zero_point = 0 if symmetric else zero_point
    x = torch.from_numpy(values)
    x[:10] = (torch.arange(10) - 4.5) * scale  # ties
    ours = quantizer(spec, scale, zero_point)
    stored = torch.quantize_per_tensor(x, scale, zero_point, dtype)
    assert torch.equal(ours(x), stored.dequantize())
    assert torch.equal(ours.levels(x), stored.int_repr().float() - zero_point)
    fake = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, spec.low, spec.high)
    assert torch.equal(ours(x), fake)


@given(values=VALUES, scales=st.tuples(SCALES, SCALES), axis=st.integers(0, 2))
def test_eight_bits_a_channel_are_those_of_torch(
    values: np.ndarray, scales: tuple[float, float], axis: int
) -> None:
    x = torch.from_numpy(values).reshape(2, 2, 10).movedim(0, axis)
    ours = quantizer(QSpec(8, True, axis), scales, (0, 0))
    stored = torch.quantize_per_channel(
        x, torch.tensor(scales), torch.zeros(2, dtype=torch.int64), axis, torch.qint8
    )
    assert torch.equal(ours(x), stored.dequantize())
    assert torch.equal(ours.levels(x), stored.int_repr().float())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_all_bits_against_the_formula_in_float64(bits: int, symmetric: bool) -> None:
    spec = QSpec(bits, symmetric, axis=1)
    generator = torch.Generator().manual_seed(bits)
    scale = torch.rand(3, generator=generator) + 0.1
    zero_point = torch.zeros(3) if symmetric else torch.tensor([0, 1, spec.high])
    x = torch.randn(50, 3, 4, generator=generator) * 2**bits / 3
    s, z = (np.asarray(v, dtype=np.float64).reshape(1, 3, 1) for v in (scale, zero_point))
    exact = x.double().numpy() / s
    decided = np.abs(exact - np.floor(exact) - 0.5) > 1e-4  # not so near to a tie
    level = np.clip(np.rint(exact) + z, spec.low, spec.high) - z
    ours = quantizer(spec, scale, zero_point)
    assert (ours.levels(x).numpy() == level)[decided].all()
    np.testing.assert_allclose(ours(x).numpy()[decided], (level * s)[decided], rtol=1e-6)


def test_ties_go_to_the_even_level_whatever_the_zero_point() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    for zero_point in (7, 8):
        y = quantizer(QSpec(4, False), 1.0, zero_point)(x)
        assert y.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_a_tensor_has_as_many_levels_as_its_bits_allow(bits: int, symmetric: bool) -> None:
    spec = QSpec(bits, symmetric)
    zero_point = 0 if symmetric else 1
    ours = quantizer(spec, 0.37, zero_point)
    x = torch.linspace(-200, 200, 5001)
    levels = ours.levels(x).unique()
    assert levels.tolist() == list(range(spec.low - zero_point, spec.high - zero_point + 1))
    assert len(ours(x).unique()) == 2**bits


@given(
    weights=hnp.arrays(np.float32, (2, 8), elements=st.floats(-9, 9, width=32)),
    chosen=hnp.arrays(np.int32, (2, 8), elements=st.integers(0, 7)),
)
def test_an_offset_can_choose_any_integer(weights: np.ndarray, chosen: np.ndarray) -> None:
    ours = quantizer(QSpec(3, False, axis=0), (0.5, 0.25), (3, 5))
    scale, zero_point = torch.tensor([[0.5], [0.25]]), torch.tensor([[3], [5]])
    x, level = torch.from_numpy(weights), torch.from_numpy(chosen) - zero_point
    ours.offset = level - x / scale
    assert torch.equal(ours.levels(x), level.float())
    assert torch.equal(ours(x), level * scale)


def test_an_offset_does_not_leave_the_grid() -> None:
    ours = quantizer(QSpec(2, True), 1.0)
    ours.offset = torch.tensor([100.0, -100.0])
    assert ours(torch.zeros(2)).tolist() == [1.0, -2.0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@given(values=VALUES, scale=SCALES, zero_point=st.integers(0, 3))
def test_clipped_values_are_those_beyond_the_half_step_of_the_outermost_levels(
    bits: int, symmetric: bool, values: np.ndarray, scale: float, zero_point: int
) -> None:
    spec = QSpec(bits, symmetric)
    zero_point = 0 if symmetric else zero_point
    ours = quantizer(spec, scale, zero_point)
    x = torch.from_numpy(values)
    uncounted = ours(x)
    ours.clipping = Clipping()
    assert torch.equal(ours(x), uncounted)
    exact = values.astype(np.float64) / np.float64(np.float32(scale))
    low, high = spec.low - zero_point - 0.5, spec.high - zero_point + 0.5
    near = (np.abs(exact - low) < 1e-3) | (np.abs(exact - high) < 1e-3)  # to a tie in float32
    surely = int((((exact < low) | (exact > high)) & ~near).sum())
    assert ours.clipping.values == values.size
    assert surely <= int(ours.clipping.clipped) <= surely + int(near.sum())


def test_clipped_values_by_hand_and_batch_by_batch() -> None:
    ours = quantizer(QSpec(2, False), 1.0, 1)  # the levels −1, 0, 1, 2
    ours.clipping = counts = Clipping()
    ours(torch.tensor([-9.0, -1.6, -1.4, 0.0, 2.4, 2.6]))
    ours(torch.tensor([2.0, 7.0]))
    assert (counts.values, int(counts.clipped)) == (8, 4)
    ours.clipping = None
    ours(torch.tensor([99.0]))
    assert counts.values == 8


def test_off_and_observe_pass_the_tensor_as_it_is() -> None:
    x = torch.tensor([[0.3, -7.0, 2.0]])
    ours = quantizer(QSpec(2, True), state=State.OFF)
    assert ours(x) is x
    assert ours.statistics is None
    ours.state = State.OBSERVE
    assert ours(x) is x
    assert ours.statistics is not None
    assert (ours.statistics.low, ours.statistics.high) == (-7.0, 2.0)
    ours.state = State.QUANTIZE
    assert ours(x).tolist() == [[0.0, -2.0, 1.0]]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_observing_what_is_not_finite_names_the_layer(poison: float) -> None:
    ours = quantizer(QSpec(8, False), state=State.OBSERVE)
    with pytest.raises(SubbyteError, match=r"layer 'block\.conv' hold NaN or infinity"):
        ours(torch.tensor([1.0, poison]))


def bias_of(
    input_scale: float,
    weight_scales: tuple[float, ...],
    input_state: State = State.QUANTIZE,
    weight_state: State = State.QUANTIZE,
) -> BiasQuantize:
    activation = quantizer(QSpec(8, False), input_scale, state=input_state)
    axis = 0 if len(weight_scales) > 1 else None
    weight = quantizer(QSpec(4, True, axis), weight_scales, [0] * len(weight_scales), weight_state)
    return BiasQuantize(activation, weight)


def test_a_bias_by_hand() -> None:
    # Steps of 0.125 and 0.25: 2.4 and 1.2 steps.
    assert bias_of(0.5, (0.25, 0.5))(torch.tensor([0.3, 0.3])).tolist() == [0.25, 0.25]
    assert bias_of(0.5, (0.25,))(torch.tensor([0.3, -0.3])).tolist() == [0.25, -0.25]


def test_a_bias_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = tuple((torch.rand(64, generator=generator) * 0.01 + 1e-3).tolist())
    bias = torch.randn(64, generator=generator)
    ours = bias_of(0.0123, scales)
    step = np.float64(np.float32(0.0123)) * np.asarray(scales, dtype=np.float32)
    exact = bias.double().numpy() / step
    decided = np.abs(exact - np.floor(exact) - 0.5) > 0.02  # the step itself is a float32
    level = np.rint(exact)
    assert np.abs(level).max() > 1000
    assert (ours.levels(bias).numpy() == level)[decided].all()
    np.testing.assert_allclose(ours(bias).numpy()[decided], (level * step)[decided], rtol=1e-6)


def test_a_bias_stays_within_int32() -> None:
    ours = bias_of(1e-3, (1e-3, 1.0))
    levels = ours.levels(torch.tensor([1e6, -1e30]))
    assert levels.tolist() == [2**31 - 1, -(2**31 - 1)]


@pytest.mark.parametrize("states", [(State.OFF, State.QUANTIZE), (State.QUANTIZE, State.OBSERVE)])
def test_a_bias_stays_in_float_unless_both_grids_are_active(states: tuple[State, State]) -> None:
    bias = torch.tensor([0.3, 0.3])
    assert bias_of(0.5, (0.25, 0.5), *states)(bias) is bias


def test_a_bias_holds_no_tensors_of_its_own() -> None:
    assert bias_of(0.5, (0.25, 0.5)).state_dict() == {}


@pytest.mark.parametrize("symmetric", [False, True])
@given(values=VALUES, scale=SCALES, zero_point=st.integers(0, 255), bits=st.integers(2, 8))
def test_without_gradients_it_is_the_same_to_the_last_bit(
    symmetric: bool, values: np.ndarray, scale: float, zero_point: int, bits: int
) -> None:
    spec = QSpec(bits, symmetric)
    zero_point = 0 if symmetric else min(zero_point, spec.high)
    x = torch.from_numpy(values)
    x[:10] = (torch.arange(10) - 4.5) * scale  # ties
    before = x.clone()
    with torch.no_grad():
        ours = quantizer(spec, scale, zero_point)(x)
    fake = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, spec.low, spec.high)
    assert torch.equal(ours, fake)
    assert torch.equal(x, before)


def test_a_function_instead_takes_the_place_of_quantizing() -> None:
    x = torch.randn(4)
    made = quantizer(QSpec(8, True), 0.1)
    made.instead = torch.neg
    assert torch.equal(made(x), -x)
    made.state = State.OFF
    assert made(x) is x

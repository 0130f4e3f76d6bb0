from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from subbyte.numerics.fake_quantize import BiasQuantize, Clipping, FakeQuantize, QuantizedWeight
from subbyte.numerics.qparams import TensorQParams, quantize_weight
from subbyte.numerics.qspec import QSpec

VALUES = hnp.arrays(np.float32, 40, elements=st.floats(-500, 500, width=32))
SCALES = st.floats(2**-10, 32, width=32)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # torch's quantized tensors, our reference, are deprecated
        warnings.simplefilter("ignore")
        yield


def parameters(scale: object = 1.0, zero_point: object = 0) -> TensorQParams:
    scales = torch.as_tensor(scale, dtype=torch.float32).reshape(-1)
    return TensorQParams(scales, torch.as_tensor(zero_point, dtype=torch.int32).reshape(-1))


def quantizer(spec: QSpec, scale: object = 1.0, zero_point: object = 0) -> FakeQuantize:
    return FakeQuantize(spec, "block.conv", parameters(scale, zero_point))


def rounded(x: torch.Tensor, spec: QSpec, scale: object, zero_point: object) -> QuantizedWeight:
    """What stands for the weight `x`, rounded to nearest."""
    params = parameters(scale, zero_point)
    found = quantize_weight(x, params.scale, params.zero_point, spec)
    return QuantizedWeight(spec, "block.conv", found)


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
    assert torch.equal(rounded(x, spec, scale, zero_point)(x), stored.dequantize())
    fake = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, spec.low, spec.high)
    assert torch.equal(ours(x), fake)


@given(values=VALUES, scales=st.tuples(SCALES, SCALES), axis=st.integers(0, 2))
def test_eight_bits_a_channel_are_those_of_torch(
    values: np.ndarray, scales: tuple[float, float], axis: int
) -> None:
    x = torch.from_numpy(values).reshape(2, 2, 10).movedim(0, axis)
    ours = rounded(x, QSpec(8, True, axis), scales, (0, 0))
    stored = torch.quantize_per_channel(
        x, torch.tensor(scales), torch.zeros(2, dtype=torch.int64), axis, torch.qint8
    )
    assert torch.equal(ours(x), stored.dequantize())
    assert torch.equal(ours.integers, stored.int_repr())


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
    ours = rounded(x, spec, scale, zero_point)
    assert ours.integers is not None
    assert (ours.integers.numpy() - z == level)[decided].all()
    np.testing.assert_allclose(ours(x).numpy()[decided], (level * s)[decided], rtol=1e-6)


def test_ties_go_to_the_even_integer_whatever_the_zero_point() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    for zero_point in (7, 8):
        y = quantizer(QSpec(4, False), 1.0, zero_point)(x)
        assert y.tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_a_tensor_has_as_many_values_as_its_bits_allow(bits: int, symmetric: bool) -> None:
    spec = QSpec(bits, symmetric)
    zero_point = 0 if symmetric else 1
    x = torch.linspace(-200, 200, 5001)
    ours = rounded(x, spec, 0.37, zero_point)
    assert ours.integers is not None
    assert ours.integers.unique().tolist() == list(range(spec.low, spec.high + 1))
    assert len(ours(x).unique()) == len(quantizer(spec, 0.37, zero_point)(x).unique()) == 2**bits


@given(chosen=hnp.arrays(np.int32, (2, 8), elements=st.integers(0, 7)))
def test_a_weight_is_what_its_integers_stand_for(chosen: np.ndarray) -> None:
    spec, integers = QSpec(3, False, axis=0), torch.from_numpy(chosen).to(torch.uint8)
    params = replace(parameters((0.5, 0.25), (3, 5)), integers=integers)
    scale, zero_point = np.array([[0.5], [0.25]]), np.array([[3], [5]])
    weight = QuantizedWeight(spec, "conv", params)(torch.randn(2, 8))
    assert weight.tolist() == ((chosen - zero_point) * scale).tolist()


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


def test_without_parameters_a_tensor_passes_as_it_is() -> None:
    x = torch.tensor([[0.3, -7.0, 2.0]])
    for kind in (FakeQuantize, QuantizedWeight):
        ours = kind(QSpec(2, True), "conv")
        assert ours(x) is x
        assert ours.params is None
    ours = FakeQuantize(QSpec(2, True), "conv")
    ours.put(parameters(1.0, 0))
    assert ours(x).tolist() == [[0.0, -2.0, 1.0]]


def test_what_is_put_stays_as_it_was_given() -> None:
    given = parameters(0.5, 0)
    ours = FakeQuantize(QSpec(8, True), "conv", given)
    ours.scale.mul_(2)
    assert (float(given.scale), float(ours.scale)) == (0.5, 1.0)


def bias_of(input_scale: float, weight_scales: tuple[float, ...]) -> BiasQuantize:
    spec = QSpec(4, True, 0 if len(weight_scales) > 1 else None)
    zero_points = [0] * len(weight_scales)
    weight = rounded(torch.zeros(len(weight_scales), 2), spec, weight_scales, zero_points)
    return BiasQuantize(quantizer(QSpec(8, False), input_scale), weight)


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
    assert (ours.integers(bias).numpy() == level)[decided].all()
    np.testing.assert_allclose(ours(bias).numpy()[decided], (level * step)[decided], rtol=1e-6)


def test_a_bias_stays_within_int32() -> None:
    ours = bias_of(1e-3, (1e-3, 1.0))
    levels = ours.integers(torch.tensor([1e6, -1e30]))
    assert levels.tolist() == [2**31 - 1, -(2**31 - 1)]


def test_a_bias_stays_in_float_unless_both_operands_are_quantized() -> None:
    bias, spec = torch.tensor([0.3, 0.3]), QSpec(8, False)
    both = bias_of(0.5, (0.25, 0.5)).operands
    for operands in ((FakeQuantize(spec, "a"), both[1]), (both[0], QuantizedWeight(spec, "a"))):
        assert BiasQuantize(*operands)(bias) is bias


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


def test_a_function_takes_the_place_of_quantizing_for_a_while() -> None:
    x = torch.randn(4)
    made = quantizer(QSpec(8, True), 0.1)
    before = made(x)
    with made.replaced_by(torch.neg):
        assert torch.equal(made(x), -x)
        with made.replaced_by(torch.abs):
            assert torch.equal(made(x), x.abs())
        assert torch.equal(made(x), -x)
    assert torch.equal(made(x), before)

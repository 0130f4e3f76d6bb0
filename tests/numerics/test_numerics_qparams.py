from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subbyte.numerics.qparams import (
    QuantParams,
    TensorQParams,
    dequantize,
    quantize_weight,
    signed_integers,
    sqnr_db,
    weight_of_signed,
)
from subbyte.numerics.qspec import QSpec


def test_decibels() -> None:
    assert sqnr_db(100.0, 1.0) == pytest.approx(20.0)
    assert sqnr_db(1.0, 0.0) == math.inf
    assert sqnr_db(0.0, 1.0) == 0.0


@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    scale=st.floats(0.01, 2.0),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_weight_is_rounded_as_in_float64(
    bits: int, symmetric: bool, scale: float, share: float, seed: int
) -> None:
    spec = QSpec(bits, symmetric, axis=None)
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    zero = 0 if symmetric else round(share * spec.high)
    scales, zeros = torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32)
    params = quantize_weight(weight, scales, zeros, spec)
    exact = weight.double().numpy() / float(scales)
    # Where a value lies within the precision of float32 of a half, either neighbour is right.
    assert params.integers is not None
    found = params.integers.numpy().astype(np.float64)
    clipped = np.clip(exact + zero, spec.low, spec.high)
    assert (np.abs(found - clipped) <= 0.5 + 1e-4).all()
    assert params.integers.dtype == (torch.int8 if symmetric else torch.uint8)
    expected = ((found - zero) * np.float64(float(scales))).astype(np.float32)
    np.testing.assert_allclose(dequantize(params, spec).numpy(), expected, rtol=1e-6)


def test_each_channel_has_its_own_scale_along_the_axis() -> None:
    spec = QSpec(4, False, axis=1)
    weight = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    scale, zero = torch.tensor([1.0, 10.0]), torch.tensor([0, 3], dtype=torch.int32)
    params = quantize_weight(weight, scale, zero, spec)
    assert params.integers is not None
    assert params.integers.tolist() == [[1, 4], [2, 5]]
    assert signed_integers(params, spec).tolist() == [[1, 1], [2, 2]]
    assert dequantize(params, spec).tolist() == weight.tolist()


def test_integers_beyond_the_ends_are_clipped() -> None:
    spec = QSpec(2, True)
    params = weight_of_signed(
        torch.tensor([-9.0, -2.0, 1.0, 9.0]), torch.ones(1), torch.zeros(1, dtype=torch.int32), spec
    )
    assert params.integers is not None
    assert params.integers.tolist() == [-2, -2, 1, 1]


def test_values_are_added_and_not_edited() -> None:
    one = TensorQParams(torch.ones(1), torch.zeros(1, dtype=torch.int32))
    first = QuantParams({"a": one}, {"b": torch.zeros(2)})
    second = first.with_tensors({"c": one}).with_biases({"d": torch.ones(1)})
    third = second.with_reported(blocks=[1])
    assert first.tensors.keys() == {"a"}
    assert second.tensors.keys() == {"a", "c"}
    assert second.biases.keys() == {"b", "d"}
    assert (second.reported, third.reported) == ({}, {"blocks": [1]})

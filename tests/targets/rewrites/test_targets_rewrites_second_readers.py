from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, normal, rewritten

from subbyte.targets.onnx.rewrites.second_readers import part_readers

HEAD = "(float[N, 3, 5, 5] x) => (float[N, 3, 5, 5] y) "
WEIGHTS = {"w": np.arange(9, dtype=np.int8).reshape(3, 3, 1, 1), "s": np.float32(0.1)}
CONV = "d = DequantizeLinear(w, s) a = Conv(x, d) "
TWICE = "b = Sigmoid(a) y = Add(a, b)"
PRODUCT = (
    "(float[N, 4, 4] x) => (float[N, 4, 4] y) { q = QuantizeLinear(x, s) d = DequantizeLinear(q, s)"
    " e = Transpose <perm = [0, 2, 1]> (d) a = MatMul(d, e) y = Mul(a, a) }"
)


def clips(text: str, **constants: object) -> int:
    """How many Clips the rewrite puts in; it changes no value."""
    before = model(text, **constants)
    return kinds(rewritten(before, part_readers))["Clip"]


def test_a_clip_stands_behind_a_convolution_that_is_read_twice() -> None:
    assert clips(f"{HEAD} {{ {CONV} {TWICE} }}", **WEIGHTS) == 1
    assert clips(f"{HEAD} {{ {CONV} y = Mul(a, a) }}", **WEIGHTS) == 1


def test_an_output_counts_as_a_reader() -> None:
    text = f"{HEAD} {{ {CONV} y = Sigmoid(a) }}".replace("y)", "y, float[N, 3, 5, 5] a)", 1)
    assert clips(text, **WEIGHTS) == 1


@pytest.mark.parametrize(("bias", "expected"), [([0.0, 0.0, 0.0], 1), ([0.0, 1.0, 0.0], 0)])
def test_a_bias_of_zeros_is_none(bias: list[float], expected: int) -> None:
    text = f"{HEAD} {{ {CONV.replace('d)', 'd, b0)')} {TWICE} }}"
    assert clips(text, **WEIGHTS, b0=np.array(bias, np.float32)) == expected


def test_one_reader_silu_and_floats_stay_as_they_are() -> None:
    assert clips(f"{HEAD} {{ {CONV} y = Sigmoid(a) }}", **WEIGHTS) == 0
    assert clips(f"{HEAD} {{ {CONV} b = Sigmoid(a) y = Mul(a, b) }}", **WEIGHTS) == 0
    assert clips(f"{HEAD} {{ a = Conv(x, w) {TWICE} }}", w=normal(3, 3, 1, 1)) == 0


def test_a_product_of_two_quantized_activations_is_parted_too() -> None:
    assert clips(PRODUCT, s=np.float32(0.1)) == 1


@pytest.mark.parametrize(("rows", "expected"), [(4, 1), (3, 1), (2, 0)])
def test_rows_that_become_matrices_of_as_many_rows_as_columns(rows: int, expected: int) -> None:
    text = (
        f"(float[N, {6 * rows}] x) => (float[M, {rows}, 3] y) {{ r = Reshape(x, flat) "
        "d = DequantizeLinear(w, s) a = MatMul(r, d) y = Reshape(a, cube) }"
    )
    shapes = {"flat": np.array([-1, 6]), "cube": np.array([-1, rows, 3])}
    weight = np.arange(18, dtype=np.int8).reshape(6, 3)
    assert clips(text, w=weight, s=np.float32(0.1), **shapes) == expected

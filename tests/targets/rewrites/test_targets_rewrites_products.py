from __future__ import annotations

import pytest
from rewrites_helpers import kinds, model, qdq, rewritten

from subbyte.targets.base import Rewrite
from subbyte.targets.onnx.rewrites.products import (
    write_products,
    write_products_for_onnxruntime,
    write_products_for_openvino,
)

REWRITES = [write_products, write_products_for_onnxruntime, write_products_for_openvino]
TEXT = """(float[N, 5, 8] x, float[N, 5, 8] z) => (float[N, 2, 5, 5] y) {{
    m = Constant <value = float {{0.25}}> ()
    four = Constant <value_ints = [-1, 5, 2, 4]> ()
    q0 = Reshape(x, four) q1 = Transpose <perm = [0, 2, 1, 3]> (q0) q2 = Mul(q1, m)
    q = {left}(q2)
    k0 = Reshape(z, four) k1 = Transpose <perm = [0, 2, 1, 3]> (k0)
    k2 = {right}(k1) k = Transpose <perm = [0, 1, 3, 2]> (k2)
    y = MatMul(q, k)
}}"""


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize(("high", "zero_point"), [(255, 128), (15, 8), (15, 3)])
def test_both_factors_are_written_as_integers(rewrite: Rewrite, high: int, zero_point: int) -> None:
    scale = 2.0 / high
    left, right = qdq(scale, zero_point, 0, high), qdq(2 * scale, zero_point, 0, high)
    after = rewritten(model(TEXT.format(left=left, right=right)), rewrite, tolerance=1e-5)
    found = kinds(after)
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 2
    assert not found.keys() & {"QuantizeDequantize", "Mul"}  # the factor is in the scale


def test_moves_are_of_integers_in_onnxruntime_and_rows_exchanged_last_in_openvino() -> None:
    before = model(TEXT.format(left=qdq(0.01, 128), right=qdq(0.02, 128)))
    orders = {}
    for rewrite in REWRITES:
        after, kind = rewritten(before, rewrite, tolerance=1e-5), []
        node = next(node for node in after.graph if node.op_type == "MatMul").inputs[1].producer()
        while node is not None:
            kind.append(node.op_type)
            node = node.inputs[0].producer()
        orders[rewrite] = kind[::-1]
    integers = ["QuantizeLinear", "DequantizeLinear"]
    assert orders[write_products] == ["Reshape", "Transpose", *integers]
    assert orders[write_products_for_openvino] == [*orders[write_products], "Transpose"]
    assert orders[write_products_for_onnxruntime] == [
        "QuantizeLinear",
        "Reshape",
        "Transpose",
        "DequantizeLinear",
    ]


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_factor_without_negative_integers_stays(rewrite: Rewrite) -> None:
    left, right = qdq(1 / 255, 0), qdq(0.02, 128)
    after = rewritten(model(TEXT.format(left=left, right=right)), rewrite, tolerance=1e-5)
    assert kinds(after)["QuantizeDequantize"] == 1


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_factor_that_something_else_reads_stays(rewrite: Rewrite) -> None:
    text = TEXT.replace("y = MatMul(q, k)", "p = MatMul(q, k) s = ReduceSum(q) y = Add(p, s)")
    before = model(text.format(left=qdq(0.01, 128), right=qdq(0.02, 128)))
    assert kinds(rewritten(before, rewrite, tolerance=1e-5))["QuantizeDequantize"] == 1


def test_a_square_stays() -> None:
    text = f"(float[N, 4, 4] x) => (float[N, 4, 4] y) {{ a = {qdq(0.1, 128)}(x) y = MatMul(a, a) }}"
    assert kinds(rewritten(model(text), write_products))["QuantizeDequantize"] == 1

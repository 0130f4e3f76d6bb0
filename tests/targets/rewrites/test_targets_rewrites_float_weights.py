from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rewrites_helpers import grid, kinds, model, normal, rewritten

from subbyte.targets.onnx.rewrites.float_weights import keep_float_weights


@pytest.mark.parametrize("bias", ["", ", b"])
def test_the_bias_of_a_convolution_is_computed(bias: str) -> None:
    nodes = f"a = {grid(0.1, 7)}(x) y = Conv(a, w{bias})"
    text = f"(float[N, 3, 4, 4] x) => (float[N, 2, 3, 3] y) {{ {nodes} }}"
    after = rewritten(model(text, w=normal(2, 3, 2, 2), b=normal(2)), keep_float_weights)
    (node,) = [node for node in after.graph if node.op_type == "Conv"]
    made = node.inputs[2].producer()
    assert made.op_type == "DequantizeLinear"
    assert made.inputs[0].dtype == ir.DataType.INT32


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Gemm <transB = 1> (a, w, b)",
        "t = Transpose <perm = [1, 0]> (w) y = MatMul(a, t)",
        "t = Transpose <perm = [1, 0]> (w) m = MatMul(a, t) y = Add(m, b)",
    ],
)
def test_linear_layers_are_never_a_gemm(nodes: str) -> None:
    text = f"(float[N, 3] x) => (float[N, 4] y) {{ a = {grid(0.1, 7)}(x) {nodes} }}"
    after = rewritten(model(text, w=normal(4, 3), b=normal(4)), keep_float_weights)
    assert kinds(after) == {"QuantizeDequantize": 1, "Linear": 1}


def test_layers_whose_input_is_in_float_stay() -> None:
    text = "(float[N, 3] x) => (float[N, 4] y) { y = Gemm <transB = 1> (x, w, b) }"
    after = rewritten(model(text, w=normal(4, 3), b=normal(4)), keep_float_weights)
    assert kinds(after) == {"Gemm": 1}


def test_int32_holds_all_digits_of_a_bias() -> None:
    nodes = f"a = {grid(0.1, 7)}(x) y = Conv(a, w, b)"
    text = f"(float[N, 1, 1, 1] x) => (float[N, 3, 1, 1] y) {{ {nodes} }}"
    bias = np.array([1e4, 1e-3, -0.3], np.float32)
    before = model(text, w=np.zeros((3, 1, 1, 1), np.float32), b=bias)
    rewritten(before, keep_float_weights, tolerance=1e4 * 2**-30)

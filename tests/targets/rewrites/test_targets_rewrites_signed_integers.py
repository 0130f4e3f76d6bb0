from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rewrites_helpers import kinds, model, normal, qdq, rewritten

from subbyte.errors import SubbyteError
from subbyte.targets.onnx.graph import array
from subbyte.targets.onnx.rewrites.repeat_qdq import repeat_signed_qdq
from subbyte.targets.onnx.rewrites.signed_integers import write_signed_integers

HEAD = "(float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) "
SIX = "zero = Constant <value_float = 0.0> () six = Constant <value_float = 6.0> () "


def written(nodes: str, **constants: np.ndarray) -> ir.Model:
    """A graph with all integers in int8, which computes the same."""
    after = rewritten(model(f"{HEAD} {{ {nodes} }}", **constants), write_signed_integers)
    assert set(after.opset_imports) == {""}
    for node in after.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zeros = array(node.inputs[2])
            assert zeros is not None
            assert (zeros.dtype, zeros.any()) == (np.int8, False)
    return after


@pytest.mark.parametrize(
    ("zero_point", "high", "clips"),
    [(128, 255, 0), (0, 15, 1), (5, 15, 1), (8, 15, 1), (90, 127, 1)],
)
def test_zero_points_are_0_and_clipping_is_in_floats(
    zero_point: int, high: int, clips: int
) -> None:
    found = kinds(written(f"y = {qdq(0.13, zero_point, 0, high)}(x)"))
    expected = {"QuantizeLinear": 1, "DequantizeLinear": 1} | ({"Clip": 1} if clips else {})
    assert found == expected


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (f"a = Relu(x) y = {qdq(0.13, 0, 0, 15)}(a)", {"Clip": 1}),
        (f"{SIX} a = Clip(x, zero, six) y = {qdq(0.13, 0, 0, 15)}(a)", {"Clip": 1}),
        (f"{SIX} a = Clip(x, zero, six) y = {qdq(0.9, 0, 0, 15)}(a)", {"Clip": 1}),
        # Nothing is clipped, or something else reads what the ReLU gives.
        (f"a = Relu(x) y = {qdq(0.13, 128)}(a)", {"Relu": 1}),
        (f"a = Relu(x) b = {qdq(0.13, 0, 0, 15)}(a) y = Mul(a, b)", {"Relu": 1, "Clip": 1}),
        # What does not hold 0 is none of the integers' own clipping.
        (f"{SIX} a = Clip(x, six) y = {qdq(0.13, 0, 0, 15)}(a)", {"Clip": 2}),
    ],
)
def test_a_relu_is_a_part_of_the_clipping_behind_it(nodes: str, expected: dict[str, int]) -> None:
    found = kinds(written(nodes))
    assert {key: found[key] for key in ("Relu", "Clip") if found[key]} == expected


def test_weights_are_int8_and_biases_floats() -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-15, 16, (3, 3, 1, 1)).astype(np.int8),
        "s": rng.uniform(0.01, 0.1, 3).astype(np.float32),
        "b": rng.integers(-9000, 9000, 3).astype(np.int32),
        "t": rng.uniform(0.001, 0.01, 3).astype(np.float32),
    }
    nodes = f"a = {qdq(0.13, 128)}(x) v = DequantizeLinear <axis = 0> (w, s) "
    nodes += "c = DequantizeLinear <axis = 0> (b, t) y = Conv(a, v, c)"
    after = written(nodes, **constants)
    (conv,) = [node for node in after.graph if node.op_type == "Conv"]
    assert kinds(after)["DequantizeLinear"] == 2
    expected = constants["b"].astype(np.float32) * constants["t"]
    np.testing.assert_array_equal(array(conv.inputs[2]), expected)
    made = conv.inputs[1].producer()
    np.testing.assert_array_equal(array(made.inputs[0]), constants["w"])
    assert array(made.inputs[2]).shape == (3,)


@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_linear_layer_is_a_product_and_an_addition(bias: str) -> None:
    text = f"(float[N, 3] x) => (float[N, 4] y) {{ y = subbyte.Linear(x, w{bias}) }}"
    after = rewritten(model(text, w=normal(3, 4), b=normal(4)), write_signed_integers)
    assert kinds(after) == ({"MatMul": 1, "Add": 1} if bias else {"MatMul": 1})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (f"y = {qdq(0.13, 5)}(x)", "the activation y has 8 bits and a zero point other than 0"),
        (
            "w = Constant <value = uint8[1] {3}> () s = Constant <value = float[1] {0.1}> () "
            "z = Constant <value = uint8[1] {9}> () v = DequantizeLinear <axis = 0> (w, s, z) "
            "y = Mul(x, v)",
            "quantize with target: tensorrt in the recipe",
        ),
    ],
)
def test_a_zero_point_of_8_bits_is_refused(nodes: str, message: str) -> None:
    with pytest.raises(SubbyteError, match=message):
        write_signed_integers(model(f"{HEAD} {{ {nodes} }}"))


@pytest.mark.parametrize(("zero_point", "high"), [(128, 255), (0, 15), (8, 15)])
def test_what_is_repeated_clips_nothing_again(zero_point: int, high: int) -> None:
    text = f"(float[N, 3, 4, 4] x) => (float[N, 4, 4, 3] y) {{ a = {qdq(0.13, zero_point, 0, high)}"
    before = model(text + "(x) y = Transpose <perm = [0, 2, 3, 1]> (a) }")
    found = kinds(rewritten(before, repeat_signed_qdq, write_signed_integers))
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 2
    assert found["Clip"] == (high < 255)

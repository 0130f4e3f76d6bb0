from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rewrites_helpers import kinds, model, qdq, rewritten

from subbyte.targets.onnx.graph import array, attribute
from subbyte.targets.onnx.rewrites.quant_nodes import write_quant_nodes

HEAD = "(float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) "


def quant(of: ir.Model) -> dict[str, object]:
    """What the one `Quant` node of a graph is set to."""
    (node,) = [node for node in of.graph if node.op_type == "Quant"]
    scale, zero_point, bits = (array(value) for value in node.inputs[1:])
    assert scale is not None
    assert zero_point is not None
    assert bits is not None
    assert bits.shape == ()
    return {
        "bits": int(bits),
        "signed": attribute(node, "signed"),
        "narrow": attribute(node, "narrow"),
        "zero_point": zero_point.reshape(-1).tolist(),
        "scales": scale.shape,
    }


@pytest.mark.parametrize(
    ("zero_point", "high", "expected"),
    [
        (128, 255, {"bits": 8, "signed": 1, "narrow": 0, "zero_point": [0]}),
        (0, 255, {"bits": 8, "signed": 0, "narrow": 0, "zero_point": [0]}),
        (78, 255, {"bits": 8, "signed": 0, "narrow": 0, "zero_point": [78]}),
        (0, 15, {"bits": 4, "signed": 0, "narrow": 0, "zero_point": [0]}),
        (8, 15, {"bits": 4, "signed": 1, "narrow": 0, "zero_point": [0]}),
        (7, 14, {"bits": 4, "signed": 1, "narrow": 1, "zero_point": [0]}),
        (2, 3, {"bits": 2, "signed": 1, "narrow": 0, "zero_point": [0]}),
        (5, 6, {"bits": 3, "signed": 0, "narrow": 1, "zero_point": [5]}),
    ],
)
def test_an_activation_is_one_node(zero_point: int, high: int, expected: dict[str, object]) -> None:
    text = f"{HEAD} {{ y = {qdq(0.13, zero_point, 0, high)}(x) }}"
    after = rewritten(model(text), write_quant_nodes)
    assert kinds(after) == {"Quant": 1}
    assert quant(after) == {**expected, "scales": ()}
    assert dict(after.opset_imports) == {"": 21, "qonnx.custom_op.general": 1}


def weight(integers: np.ndarray, zero: np.ndarray | None = None) -> dict[str, object]:
    """What the weight of a convolution becomes, whose values stay what they are."""
    given = {"w": integers, "s": np.linspace(0.01, 0.03, 3, dtype=np.float32)}
    given |= {} if zero is None else {"z": zero}
    third = "" if zero is None else ", z"
    nodes = f"v = DequantizeLinear <axis = 0> (w, s{third}) y = Conv(x, v)"
    return quant(rewritten(model(f"{HEAD} {{ {nodes} }}", **given), write_quant_nodes))


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_weight_has_the_bits_that_it_needs(bits: int) -> None:
    half = 2 ** (bits - 1)
    integers = np.random.default_rng(0).integers(-half, half, (3, 3, 1, 1)).astype(np.int8)
    integers[0, :2, 0, 0] = -half, half - 1
    found = weight(integers)
    assert found == {
        "bits": bits,
        "signed": 1,
        "narrow": 0,
        "zero_point": [0],
        "scales": (3, 1, 1, 1),
    }


def test_a_weight_with_zero_points_keeps_its_bits() -> None:
    """Of 4 bits less its zero points it would need 5 bits, signed."""
    rows = [[-3, 0, 12], [-15, -2, 0], [0, 7, 15]]
    found = weight(np.array(rows, np.int8).reshape(3, 3, 1, 1))
    assert found["zero_point"] == [3, 15, 0]
    assert (found["bits"], found["signed"]) == (4, 0)


def test_a_weight_of_uint8_is_unsigned() -> None:
    rng = np.random.default_rng(0)
    zero = np.array([3, 128, 255], np.uint8)
    found = weight(rng.integers(0, 256, (3, 3, 1, 1)).astype(np.uint8), zero)
    assert (found["bits"], found["signed"], found["zero_point"]) == (8, 0, [3, 128, 255])


def test_a_linear_layer_is_a_product_and_an_addition_of_floats() -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-8, 8, (3, 4)).astype(np.int8),
        "s": rng.uniform(0.01, 0.1, 4).astype(np.float32),
        "b": rng.integers(-9000, 9000, 4).astype(np.int32),
        "t": rng.uniform(0.001, 0.01, 4).astype(np.float32),
    }
    nodes = "v = DequantizeLinear <axis = 1> (w, s) c = DequantizeLinear <axis = 0> (b, t) "
    text = f"(float[N, 3] x) => (float[N, 4] y) {{ {nodes} y = subbyte.Linear(x, v, c) }}"
    after = rewritten(model(text, **constants), write_quant_nodes)
    assert kinds(after) == {"Quant": 1, "MatMul": 1, "Add": 1}
    assert quant(after)["scales"] == (1, 4)


def test_a_weight_of_one_scale() -> None:
    text = "(float[N, 3] x) => (float[N, 4] y) { v = DequantizeLinear(w, s) y = MatMul(x, v) }"
    constants = {"w": np.array([[-8, 7, 0, 1]] * 3, np.int8), "s": np.float32(0.1)}
    after = rewritten(model(text, **constants), write_quant_nodes)
    assert quant(after) == {"bits": 4, "signed": 1, "narrow": 0, "zero_point": [0], "scales": ()}

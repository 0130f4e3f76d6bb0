"""Weights in as many bits as they need: the same integers, and the smaller of two forms."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from subbyte.targets.onnx.program import outputs_alone
from subbyte.targets.onnx.rewrites.packing import pack


def dequantized(weights: Sequence[tuple[np.ndarray, int | None]]) -> onnx.ModelProto:
    """A model that gives each of these integers times scales along an axis, or one scale."""
    nodes, constants, outputs = [], [], []
    for i, (integers, axis) in enumerate(weights):
        scale = np.float32(0.5) if axis is None else np.arange(1, integers.shape[axis] + 1)
        attributes = {} if axis is None else {"axis": axis}
        names = [f"q{i}", f"s{i}"], [f"y{i}"]
        nodes.append(helper.make_node("DequantizeLinear", *names, **attributes))
        constants.append(numpy_helper.from_array(integers, f"q{i}"))
        constants.append(numpy_helper.from_array(np.asarray(scale, np.float32), f"s{i}"))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, integers.shape))
    graph = helper.make_graph(nodes, "g", [], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def packed(*weights: tuple[np.ndarray, int | None]) -> onnx.ModelProto:
    """The model with its weights packed, which still gives what it gave."""
    model = dequantized(weights)
    changed = ir.from_proto(model)
    pack(changed)
    proto = ir.to_proto(changed)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    for before, after in zip(
        *(ReferenceEvaluator(each).run(None, {}) for each in (model, proto)), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    return proto


def held(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {v.name: numpy_helper.to_array(v) for v in model.graph.initializer}


def integers(bits: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Every integer of so many bits, signed."""
    half = 2 ** (bits - 1)
    found = np.random.default_rng(seed).integers(-half, half, shape).astype(np.int8)
    found.flat[:2] = -half, half - 1
    return found


@pytest.mark.slow
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_integers_come_back(data: st.DataObject) -> None:
    weights = []
    for _ in range(data.draw(st.integers(1, 4))):
        bits = data.draw(st.integers(2, 8))
        shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
        if data.draw(st.booleans()):
            shape = (*shape, data.draw(st.sampled_from([257, 1000])))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        axis = data.draw(st.sampled_from([None, *range(len(shape))]))
        levels = rng.integers(0, 2**bits, shape)
        others = tuple(d for d in range(len(shape)) if d != axis)
        lowest = rng.integers(-128, 129 - 2**bits, levels.min(others, keepdims=True).shape)
        weights.append(((levels + lowest).astype(np.int8), axis))
    model = packed(*weights)
    assert model.ByteSize() <= dequantized(weights).ByteSize() + 100


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_take_as_many_bits_as_they_have(bits: int, axis: int | None) -> None:
    weight = integers(bits, (80, 1000))
    wanted = dequantized([(weight, axis)]).ByteSize() - 80_000 * (8 - bits) / 8
    assert packed((weight, axis)).ByteSize() < wanted + 3000
    if axis is not None:  # each channel's integers lie elsewhere
        lowest = np.arange(weight.shape[axis]) % (2**7 - 2 ** (bits - 1))
        moved = (weight + (lowest[:, None] if axis == 0 else lowest)).astype(np.int8)
        assert packed((moved, axis)).ByteSize() < wanted + 3000 + 100 + len(lowest)


def test_weights_of_4_bits_are_int4() -> None:
    # Each fits as it is; 0 … 15 moved by 8, −15 … 0 by −7; one integer alone, far away.
    rows = np.array([[-8, 7, 0], [0, 15, 1], [-15, 0, -2], [127, 127, 127], [-128, -128, -128]])
    model = packed((rows.repeat(200, axis=1).astype(np.int8), 0))
    stored, shift = held(model)["q0_int4"], held(model)["q0_shift"]
    assert stored.dtype == ml_dtypes.int4
    expected = [[-8, 7, 0], [-8, 7, -7], [-8, 7, 5], [7, 7, 7], [-8, -8, -8]]
    assert stored[:, ::200].astype(int).tolist() == expected
    assert shift.tolist() == [[0], [8], [-7], [120], [-120]]
    assert "q0" not in held(model)


def test_few_weights_take_the_wider_form_that_is_smaller() -> None:
    kinds = {}
    for count in (40, 600, 20_000):
        model = packed((integers(2, (1, count)), None))
        kinds[count] = [node.op_type for node in model.graph.node]
    assert kinds[40] == ["DequantizeLinear"]
    assert kinds[600] == ["Cast", "DequantizeLinear"]  # a table would take more than it saves
    assert kinds[20_000] == ["Cast", "Gather", "Reshape", "DequantizeLinear"]


def test_a_few_weights_join_a_width_that_is_there() -> None:
    few, many = integers(2, (1, 2000), seed=1), integers(3, (1, 40_000))
    model = packed((few, None), (many, None))
    assert [node.op_type for node in model.graph.node].count("Gather") == 1
    assert not any(name.endswith("_int4") for name in held(model))


def test_widths_share_tables() -> None:
    weights = [(integers(bits, (40, 1000), seed=bits), 0) for bits in (2, 3, 6, 7)]
    names = [name for name in held(packed(*weights)) if name.startswith("table")]
    assert sorted(names) == ["table_2_0", "table_2_4", "table_3_0", "table_3_4"]


def test_a_weight_that_two_read_is_unpacked_once() -> None:
    model = dequantized([(integers(3, (40, 1000)), 0)])
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q0", "s0"], ["y1"], axis=0))
    model.graph.output.append(helper.make_tensor_value_info("y1", TensorProto.FLOAT, [40, 1000]))
    changed = ir.from_proto(model)
    pack(changed)
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    first, second = ReferenceEvaluator(proto).run(None, {})
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, ReferenceEvaluator(model).run(None, {})[0])
    assert [node.op_type for node in proto.graph.node].count("Gather") == 1


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32])
def test_what_has_8_bits_or_is_no_weight_stays(kind: type) -> None:
    wide = np.zeros((3, 2000), kind)
    if kind is np.int8:
        wide[1, :2] = -64, 64
    model = packed((wide, 0))
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear"]
    np.testing.assert_array_equal(held(model)["q0"], wide)
    assert held(model)["q0"].dtype == kind


def test_a_part_of_a_packed_model_gives_what_it_gave() -> None:
    model = dequantized([(integers(3, (40, 500), seed=i), 0) for i in range(3)])
    model.graph.initializer.append(numpy_helper.from_array(integers(3, (1, 9001)), "q3"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q3", "s3"], ["y3"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "s3"))
    model.graph.output.append(helper.make_tensor_value_info("y3", TensorProto.FLOAT, [1, 9001]))
    expected = ReferenceEvaluator(model).run(["y0", "y2"], {})
    whole = ir.from_proto(model)
    pack(whole)
    part = ir.to_proto(outputs_alone(whole, {"y0", "y2"}))
    onnx.checker.check_model(part, full_check=True)
    (split,) = (node for node in part.graph.node if node.op_type == "Split")
    assert len(split.output) == 5  # the last one is what fills the last byte
    for before, after in zip(expected, ReferenceEvaluator(part).run(None, {}), strict=True):
        np.testing.assert_array_equal(before, after)

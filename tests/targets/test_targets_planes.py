"""Integers of any width and shape, unpacked by ONNX's reference implementation."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from subbyte.targets.onnx.planes import TOGETHER, WIDTHS, Levels, unpacked

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)


def written(*packed: tuple[int, list[np.ndarray]]) -> onnx.ModelProto:
    """A file that gives all that was packed, as (width, levels of weights), in this order."""
    count = sum(len(levels) for _, levels in packed)
    outputs = [
        helper.make_tensor_value_info(f"y{i}", TensorProto.INT8, list(levels.shape))
        for i, levels in enumerate(levels for _, several in packed for levels in several)
    ]
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.INT8, None) for i in range(count)]
    nodes = [helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(count)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = ir.from_proto(proto)
    places = list(model.graph)
    for width, several in packed:
        taken, places = places[: len(several)], places[len(several) :]
        weights = [Levels(node, levels) for node, levels in zip(taken, several, strict=True)]
        for node, value in zip(taken, unpacked(model.graph, width, weights), strict=True):
            node.replace_input_with(0, value)
    del model.graph.inputs[:]
    return ir.to_proto(model)


@given(st.data(), st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=3, unique=True))
@settings(max_examples=60, deadline=None)
def test_any_integers_come_back(data: st.DataObject, widths: list[int]) -> None:
    packed = []
    for width in widths:
        shapes = data.draw(st.lists(SHAPES, min_size=1, max_size=3))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        packed.append((width, [rng.integers(0, 2**width, s, dtype=np.uint8) for s in shapes]))
    model = written(*packed)
    onnx.checker.check_model(model, full_check=True)
    found = ReferenceEvaluator(model).run(None, {})
    for (width, levels), value in zip(
        [(width, levels) for width, several in packed for levels in several], found, strict=True
    ):
        assert value.dtype == np.int8
        np.testing.assert_array_equal(value, levels.astype(int) - 2 ** (width - 1))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_value_at_every_place(width: int) -> None:
    levels = np.arange(8 * 2**width, dtype=np.int64) // 8 + np.arange(8 * 2**width)
    levels = (levels % 2**width).astype(np.uint8)
    (found,) = ReferenceEvaluator(written((width, [levels]))).run(None, {})
    np.testing.assert_array_equal(found, levels.astype(int) - 2 ** (width - 1))


def test_three_bits_worked_by_hand() -> None:
    # Lower bits 3, 0, 1, 2 from the lowest place on: 0b10_01_00_11. Third bits 1, 0, 1, 0.
    model = written((3, [np.array([7, 0, 5, 2], np.uint8)]))
    held = {v.name: onnx.numpy_helper.to_array(v) for v in model.graph.initializer}
    assert held["bits3_0_bytes"].tolist() == [0b10010011]
    assert held["bits3_0_thirds"].astype(int).tolist() == [0b0101]
    assert held["table_2_0"][0b10010011].tolist() == [1, -2, -1, 0]
    assert ReferenceEvaluator(model).run(None, {})[0].tolist() == [3, -4, 1, -2]


def test_six_bits_worked_by_hand() -> None:
    # 63 = 3 · 16 + 15, 1 = 0 · 16 + 1, 32 = 2 · 16, 18 = 1 · 16 + 2.
    model = written((6, [np.array([63, 1, 32, 18], np.uint8)]))
    held = {v.name: onnx.numpy_helper.to_array(v) for v in model.graph.initializer}
    assert held["bits6_0_low"].astype(int).tolist() == [15, 1, 0, 2]
    assert held["bits6_0_bytes"].tolist() == [0b01100011]
    assert held["table_2_4"][0b01100011].tolist() == [16, -32, 0, -16]
    assert ReferenceEvaluator(model).run(None, {})[0].tolist() == [31, -31, 0, -14]


def test_small_weights_are_unpacked_together_and_large_ones_alone() -> None:
    sizes = [TOGETHER // 2, TOGETHER // 2, 4, TOGETHER + 8, 8]
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 4, size, dtype=np.uint8) for size in sizes]
    model = written((2, levels))
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Gather"), kinds.count("Split")) == (4, 1)
    tables = [v.name for v in model.graph.initializer if v.name.startswith("table")]
    assert tables == ["table_2_0"]
    for value, given_ in zip(ReferenceEvaluator(model).run(None, {}), levels, strict=True):
        np.testing.assert_array_equal(value, given_.astype(int) - 2)

"""Weights two to a byte: the same integers, and only where they fit."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from targets_helpers import RUNTIMES, Wide, deploy, normal, operators, seeded

from subbyte.targets.onnx.rewrites.packing import pack

SCALES = np.array([0.5, 0.25, 2.0], np.float32)


def dequantized(integers: np.ndarray, axis: int, kind: type = np.int8) -> onnx.ModelProto:
    """A model that gives these integers times their channels' scales."""
    node = helper.make_node("DequantizeLinear", ["q", "s"], ["y"], axis=axis)
    constants = [
        numpy_helper.from_array(value, name)
        for name, value in {"q": integers.astype(kind), "s": SCALES}.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["height", "width"])
    graph = helper.make_graph([node], "g", [], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def packed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights packed."""
    changed = ir.from_proto(model)
    pack(changed)
    return ir.to_proto(changed)


@pytest.mark.parametrize(
    ("integers", "stored", "shift"),
    [
        # Each fits as it is: nothing is added.
        ([[-8, 7], [0, 3], [-1, 5]], [[-8, 7], [0, 3], [-1, 5]], None),
        # 0 … 15 is moved by 8, −15 … 0 by −7; the last channel is left where it is.
        ([[0, 15], [-15, 0], [-1, 5]], [[-8, 7], [-8, 7], [-1, 5]], [[8], [-7], [0]]),
        # One integer alone, as far away as can be.
        ([[127, 127], [-128, -128], [0, 0]], [[7, 7], [-8, -8], [0, 0]], [[120], [-120], [0]]),
    ],
)
def test_integers_worked_by_hand(
    integers: list[list[int]], stored: list[list[int]], shift: list[list[int]] | None
) -> None:
    for axis in (0, 1):
        given = np.array(integers) if axis == 0 else np.array(integers).T
        model = dequantized(given, axis)
        (expected,) = ReferenceEvaluator(model).run(None, {})
        model = packed(model)
        onnx.checker.check_model(model, full_check=True)
        constants = {v.name: numpy_helper.to_array(v) for v in model.graph.initializer}
        assert constants["q_int4"].dtype == ml_dtypes.int4
        stores = constants["q_int4"].astype(int)
        assert (stores if axis == 0 else stores.T).tolist() == stored
        moved = constants.get("q_shift")
        assert (moved if moved is None else moved.reshape(-1, 1).tolist()) == shift
        assert "q" not in constants
        np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {})[0], expected)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32])
def test_what_does_not_fit_or_is_no_weight_stays(kind: type) -> None:
    wide = np.array([[0, 16], [0, 1], [0, 1]]) if kind is np.int8 else np.zeros((3, 2))
    model = dequantized(wide, 0, kind)
    assert packed(model).graph.node == model.graph.node
    (weight, _), (before, _) = packed(model).graph.initializer, model.graph.initializer
    assert numpy_helper.to_array(weight).dtype == numpy_helper.to_array(before).dtype
    np.testing.assert_array_equal(numpy_helper.to_array(weight), numpy_helper.to_array(before))


@pytest.mark.slow
def test_a_file_of_4_bits_is_half_as_large_and_has_int8_kernels(tmp_path: Path) -> None:
    sizes = {}
    for bits in (5, 4):
        path = tmp_path / f"{bits}.onnx"
        deploy(seeded(Wide), normal(8, 64), path, weights=bits, activations=8, first_last=None)
        sizes[bits] = path.stat().st_size
        assert all(runtime.load(path, 1).int8_ops() == 2 for runtime in RUNTIMES.values())
        assert (operators(path)["Cast"] > 0) is (bits <= 4)
    weights = 64 * 32 + 32 * 4
    # Nodes and the channels' shifts (32 + 4 of 4 bytes) take some of what the weights save.
    assert weights / 2 - 800 < sizes[5] - sizes[4] < weights / 2

"""ONNX files that ONNX itself would not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import subbyte
from subbyte.models.onnx.load import load_onnx

CONV, RELU = helper.make_node("Conv", ["x", "w"], ["c"], name="first"), ("Relu", ["c"], ["y"])


def written(nodes: list[Any], folder: Path, *, opset: int = 17, weight: str = "w") -> Path:
    """A file of these nodes, with one weight, from `x` to `y`."""
    made = [node if isinstance(node, onnx.NodeProto) else helper.make_node(*node) for node in nodes]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), weight)
    graph = helper.make_graph(made, "g", [x], [y], [held])
    imports = [helper.make_opsetid("", opset)] if opset else []
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    if not opset:
        del model.opset_import[:]
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path) -> str:
    """The sentence for a file."""
    with pytest.raises(subbyte.SubbyteError) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PADS = helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1])
KERNEL = helper.make_node("Conv", ["x", "w"], ["c"], name="first", kernel_shape=[3, 3, 3])


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([("Conv", ["gone", "w"], ["c"]), RELU], "a node Conv reads 'gone', which nothing gives"),
        ([CONV], "its output 'y' is given by nothing"),
        ([("Add", ["x", "b"], ["y"]), ("Relu", ["y"], ["b"])], "read each other in a circle"),
        ([("Conv", ["x"], ["c"]), RELU], "a node Conv has 1 of 2 inputs or more"),
        ([CONV, ("MaxPool", ["c"], ["y"])], "a node MaxPool lacks the attribute kernel_shape"),
        ([PADS, RELU], "node 'first' (Conv) are of several dimensions (pads has 2, the weight"),
        ([KERNEL, RELU], "are of several dimensions (kernel_shape has 3, the weight has 2)"),
    ],
)
def test_what_a_graph_lacks_is_said(nodes: list[Any], says: str, tmp_path: Path) -> None:
    assert says in refused(written(nodes, tmp_path))


def test_a_weight_that_the_file_does_not_hold(tmp_path: Path) -> None:
    told = refused(written([CONV, RELU], tmp_path, weight="another"))
    assert "is broken, because node 'first' (Conv) reads 'w', which nothing gives" in told


@pytest.mark.parametrize(
    ("opset", "says"), [(0, "names no opset"), (99, "is of opset 99, and onnx")]
)
def test_opsets_that_there_are_not(opset: int, says: str, tmp_path: Path) -> None:
    assert says in refused(written([CONV, RELU], tmp_path, opset=opset))

"""An experiment whose model is an ONNX file: its outputs say which images it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from .conftest import Cli, Own


def brightness(own: Own) -> None:
    """Write bright.onnx, whose logits are (brightness, −brightness) of a normalized picture."""
    weight = np.stack([np.full((3, 1, 1), 1 / 3), np.full((3, 1, 1), -1 / 3)]).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    opset = helper.make_opsetid("", 21)
    onnx.save(
        helper.make_model(graph, opset_imports=[opset], ir_version=10), own.path / "bright.onnx"
    )


@pytest.mark.slow
def test_one_matrix_makes_a_classifier_of_class_folders(own: Own, cli: Cli) -> None:
    brightness(own)
    result = cli("run", own.yaml(model={"onnx": "bright.onnx"}), "--out", "out", "--quiet")
    assert result.exit_code == 0, result.stderr
    results = own.results()
    assert results["task"] == "classification"
    assert [results["float"]["metrics"]["top1"]] == [1.0]
    assert results["variants"][0]["metrics"]["top1"] == 1.0

"""Indices as ONNX has them."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.onnx.graph import put

BY_INT64 = ("GatherND", "ScatterND")


def widen_indices(graph: ir.Graph) -> None:
    """Make int64 of the int32 indices that PyTorch's exporter gives `GatherND` and `ScatterND`.

    ONNX allows int64 alone there, and ONNX Runtime does not load a file with others.
    """
    for node in list(graph):
        if node.op_type not in BY_INT64:
            continue
        indices = node.inputs[1]
        if indices is not None and indices.dtype not in (None, ir.DataType.INT64):
            wide = put(node, "Cast", [indices], {"to": ir.DataType.INT64}, dtype=ir.DataType.INT64)
            node.replace_input_with(1, wide)

"""Files that ask for the size of the batch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import constant, put, shape_of

INT64 = ir.DataType.INT64


def ask_first(model: ir.Model) -> None:
    """Let a file with integers ask for the batch's size, if it does so at all, at its inputs.

    OpenVINO's reader asks each convolution with a bias for the rank of its result in front of the
    bias. Whatever else in the graph needs the batch's size is then made to take it from the first
    tensor that was asked for its shape (2026.4, OptimizeSymbolsUsedAsValues), so that the first
    convolution's result has another reader, its bias stays apart, and where a grid follows, the
    bias of channel 0 is added to all channels. An input that is expanded to its own shape, which
    changes nothing, is asked before it.
    """
    graph = model.graph
    kinds = {node.op_type for node in graph}
    biased = any(node.op_type.startswith("Conv") and len(node.inputs) > 2 for node in graph)
    if not (biased and {"Shape", "QuantizeLinear"} <= kinds):
        return
    for value in list(graph.inputs):
        shape = value.shape
        if shape is not None and len(shape) > 1 and not isinstance(shape[0], int):
            _expand(graph, value, len(shape))


def _expand(graph: ir.Graph, value: ir.Value, rank: int) -> None:
    """Put an input, expanded to its own first dimension, in its own place."""
    uses = [use for use in value.uses() if use.node.op_type != "Shape"]
    ones = constant(graph, f"{value.name}_ones", np.ones(rank - 1, np.int64))
    first = graph[0]
    size = put(first, "Shape", [value], {"start": 0, "end": 1}, dtype=INT64)
    shape = put(first, "Concat", [size, ones], {"axis": 0}, dtype=INT64)
    whole = put(first, "Expand", [value, shape], shape=shape_of(value))
    for use in uses:
        use.node.replace_input_with(use.idx, whole)

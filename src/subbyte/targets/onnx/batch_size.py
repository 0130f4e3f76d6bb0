"""Files that ask for the size of the batch."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from subbyte.targets.onnx.names import free, names_of


def ask_first(proto: onnx.ModelProto) -> None:
    """Let a file with integers ask for the batch's size, if it does so at all, at its inputs.

    OpenVINO's reader asks each convolution with a bias for the rank of its result in front of the
    bias. Whatever else in the graph needs the batch's size is then made to take it from the first
    tensor that was asked for its shape (2026.4, OptimizeSymbolsUsedAsValues), so that the first
    convolution's result has another reader, its bias stays apart, and where a grid follows, the
    bias of channel 0 is added to all channels. An input that is expanded to its own shape, which
    changes nothing, is asked before it.
    """
    graph = proto.graph
    kinds = {node.op_type for node in graph.node}
    biased = any(node.op_type.startswith("Conv") and len(node.input) > 2 for node in graph.node)
    if not (biased and {"Shape", "QuantizeLinear"} <= kinds):
        return
    for value in graph.input:
        shape = value.type.tensor_type.shape.dim
        if len(shape) > 1 and shape[0].dim_param:
            _expand(graph, value.name, len(shape))


def _expand(graph: onnx.GraphProto, name: str, rank: int) -> None:
    """Put an input, expanded to its own first dimension, in its own place."""
    taken = names_of(graph)
    size, ones, shape, whole = (
        free(f"{name}_{part}", taken) for part in ("size", "ones", "shape", "whole")
    )
    for node in graph.node:
        if node.op_type != "Shape":
            node.input[:] = [whole if read == name else read for read in node.input]
    graph.initializer.append(numpy_helper.from_array(np.ones(rank - 1, np.int64), ones))
    nodes = [
        helper.make_node("Shape", [name], [size], start=0, end=1),
        helper.make_node("Concat", [size, ones], [shape], axis=0),
        helper.make_node("Expand", [name, shape], [whole]),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)

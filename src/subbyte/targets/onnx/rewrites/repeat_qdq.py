"""The same Q/DQ again behind operators that only move values."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, number
from subbyte.targets.onnx.qdq import Qdq, is_qdq, qdq_node, settings

# Operators whose results hold values of their first input, and no others. One that keeps a single
# one of a dimension (Gather) is not among them: it is read as the whole is.
MOVES = {
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


def repeat_qdq(model: ir.Model) -> None:
    """Quantize a tensor again, the same way, behind each operator that only moves its values.

    It changes no value, and ONNX Runtime moves integers only between a dequantization and a
    quantization.
    """
    _repeat_all(model, lambda qdq: Qdq(qdq.scale, qdq.zero_point))


def repeat_signed_qdq(model: ir.Model) -> None:
    """The same where integers less their zero point are int8, and are clipped to no fewer."""
    _repeat_all(model, lambda q: Qdq(q.scale, q.zero_point, q.zero_point - 128, q.zero_point + 127))


def _repeat_all(model: ir.Model, again: Callable[[Qdq], Qdq]) -> None:
    """Repeat each Q/DQ.

    Args:
        model: The graph, which is changed.
        again: From what a Q/DQ is set to to what its repetitions are, which clip nothing.
    """
    given_as: dict[ir.Value, Qdq] = {}
    for node in list(model.graph):
        if is_qdq(node):
            given_as[node.outputs[0]] = again(settings(node))
            continue
        found = {given_as.get(source) for source in _moved(node)}
        (of_all,) = found if len(found) == 1 else (None,)
        if of_all is None:
            continue
        for value in node.outputs[:1] if node.op_type == "MaxPool" else node.outputs:
            _repeat(node, value, of_all, given_as)


def _moved(node: ir.Node) -> list[ir.Value]:
    """The tensors whose values a node moves; nothing, if it does something else."""
    sources = [value for value in node.inputs if value is not None]
    if node.domain or not sources:
        return []
    if node.op_type == "Concat":
        return sources
    if node.op_type == "Pad":
        filled = number(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
        if attribute(node, "mode", "constant") == "constant" and filled != 0:
            return []
    return sources[:1] if node.op_type in MOVES else []


def _repeat(node: ir.Node, value: ir.Value, qdq: Qdq, given_as: dict[ir.Value, Qdq]) -> None:
    uses, graph = list(value.uses()), node.graph
    if not (uses or value.is_graph_output()):
        return
    assert isinstance(graph, ir.Graph)
    repeated = qdq_node(value, qdq)
    graph.insert_after(node, repeated)
    new = repeated.outputs[0]
    if value.is_graph_output():
        name = value.name
        value.name, new.name = f"{name}_before", name
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = new
    for use in uses:
        use.node.replace_input_with(use.idx, new)
    given_as[value] = given_as[new] = qdq

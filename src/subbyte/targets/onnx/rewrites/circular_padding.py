"""Circular padding, written as the slices that it consists of."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, constant, integers, prune, put, replace

END = 2**31  # of a slice: as far as there is something


def slice_circular_padding(model: ir.Model) -> None:
    """Rewrite each Pad that goes on with the other side's values.

    OpenVINO cannot read it. No value changes.
    """
    for node in list(model.graph):
        if node.op_type == "Pad" and not node.domain and attribute(node, "mode") == "wrap":
            pads = integers(node.inputs[1])
            if pads is not None:
                _slice(model.graph, node, pads)
    prune(model)


def _slice(graph: ir.Graph, node: ir.Node, pads: list[int]) -> None:
    value = node.inputs[0]
    assert value is not None
    axes = integers(node.inputs[3]) if len(node.inputs) > 3 else None
    half = len(pads) // 2
    for axis, before, behind in zip(axes or range(half), pads[:half], pads[half:], strict=True):
        value = _cut(graph, node, value, axis, max(-before, 0), behind if behind < 0 else END)
        first = _cut(graph, node, value, axis, -before, END) if before > 0 else None
        last = _cut(graph, node, value, axis, 0, behind) if behind > 0 else None
        parts = [part for part in (first, value, last) if part is not None]
        if len(parts) > 1:
            value = put(node, "Concat", parts, {"axis": axis}, dtype=_type(node))
    replace(node.outputs[0], value)


def _cut(
    graph: ir.Graph, node: ir.Node, value: ir.Value, axis: int, begin: int, end: int
) -> ir.Value:
    """The values of one dimension from `begin` to `end`; all of them: the value itself."""
    if (begin, end) == (0, END):
        return value
    name = node.outputs[0].name
    numbers = {"begin": begin, "end": end, "axis": axis}
    inputs = [constant(graph, f"{name}_{key}", [n], np.int64) for key, n in numbers.items()]
    return put(node, "Slice", [value, *inputs], dtype=_type(node))


def _type(node: ir.Node) -> ir.DataType:
    return node.outputs[0].dtype or ir.DataType.FLOAT

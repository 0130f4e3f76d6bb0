"""Average pooling of padded integers whose zero point is not 0."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import (
    array,
    attribute,
    constant,
    integers,
    number,
    prune,
    put,
    shape_of,
)
from subbyte.targets.onnx.layout import LAYOUT

MOVES = LAYOUT | {"Concat", "MaxPool", "Pad", "Slice", "Split"}
LOWEST = -3e38  # no value is lower


def pad_integers(model: ir.Model) -> None:
    """Pad the integers in front of an average that counts its padding, with their zero point.

    OpenVINO pools the integers themselves and pads them with 0, which stands for another value than
    0 where they have a zero point. It does so with a Pad in front of the pooling too, unless that
    is one of integers with a zero point, or something stands behind it.
    """
    for node in list(model.graph):
        if node.domain or node.op_type != "AveragePool" or not _is_shifted(node.inputs[0]):
            continue
        pads = attribute(node, "pads", [])
        counted = attribute(node, "count_include_pad", 0) and not attribute(node, "ceil_mode", 0)
        if counted and any(pads):
            _take_out(model.graph, node, list(pads))
        pad = _pad_of(node)
        if pad is not None:
            node.replace_input_with(0, _padded(model.graph, node, pad))
    prune(model)


def _is_shifted(value: ir.Value | None) -> bool:
    """Whether a value is dequantized with a zero point other than 0, and moved perhaps."""
    made = None if value is None else value.producer()
    if made is None or made.domain:
        return False
    if made.op_type == "DequantizeLinear":
        zero = made.inputs[2] if len(made.inputs) > 2 else None
        return array(made.inputs[0]) is None and number(zero) not in (None, 0.0)
    sources = made.inputs if made.op_type == "Concat" else made.inputs[:1]
    return made.op_type in MOVES and any(_is_shifted(source) for source in sources)


def _take_out(graph: ir.Graph, node: ir.Node, pads: list[int]) -> None:
    """Let a Pad do what the pooling's own padding did."""
    half = len(pads) // 2
    given = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
    lengths = constant(graph, f"{node.outputs[0].name}_pads", given)
    node.replace_input_with(0, put(node, "Pad", [node.inputs[0], lengths]))
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))


def _pad_of(node: ir.Node) -> ir.Node | None:
    """The node in front of a pooling that pads with zeros."""
    source = node.inputs[0]
    made = None if source is None else source.producer()
    if made is None or made.domain or made.op_type != "Pad" or len(made.inputs) > 3:
        return None
    by = made.inputs[2] if len(made.inputs) > 2 else None
    zeros = attribute(made, "mode", "constant") == "constant" and (by is None or number(by) == 0)
    return made if zeros and integers(made.inputs[1]) is not None else None


def _padded(graph: ir.Graph, node: ir.Node, pad: ir.Node) -> ir.Value:
    """What a Pad gives, padded as integers where they are dequantized in front of it."""
    source, lengths = pad.inputs[:2]
    made = None if source is None else source.producer()
    if made is None or made.op_type != "DequantizeLinear":
        lowest = constant(graph, f"{pad.outputs[0].name}_lowest", LOWEST, np.float32)
        return put(node, "Clip", [pad.outputs[0], lowest], shape=shape_of(pad.outputs[0]))
    q, scale, zero = made.inputs
    assert q is not None
    padded = put(node, "Pad", [q, lengths, zero], dtype=q.dtype or ir.DataType.UINT8)
    return put(node, "DequantizeLinear", [padded, scale, zero], shape=shape_of(pad.outputs[0]))

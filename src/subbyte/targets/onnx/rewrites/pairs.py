"""Quantizations that directly follow one another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import constant, number, prune, put

UINT8 = ir.DataType.UINT8


def part_pairs(model: ir.Model) -> None:
    """Put a Clip of integers that changes none between two Q/DQ with different settings.

    ONNX Runtime makes one of both, with a scale of its own that is neither's.
    """
    for node in list(model.graph):
        if node.op_type != "QuantizeLinear" or node.domain:
            continue
        before = _made(node, "DequantizeLinear")
        first = None if before is None else _made(before, "QuantizeLinear")
        if before is None or first is None or _settings(before) == _settings(node):
            continue
        name = node.outputs[0].name
        ends = [constant(model.graph, f"{name}_{end}", end, np.uint8) for end in (0, 255)]
        integers = put(node, "Clip", [first.outputs[0], *ends], dtype=UINT8)
        node.replace_input_with(0, put(node, "DequantizeLinear", [integers, *before.inputs[1:]]))
    prune(model)


def _made(node: ir.Node, kind: str) -> ir.Node | None:
    """The node that gives what a node quantizes or dequantizes, if it is of this kind."""
    made = None if node.inputs[0] is None else node.inputs[0].producer()
    return made if made is not None and made.op_type == kind and not made.domain else None


def _settings(node: ir.Node) -> list[float | None]:
    return [number(value) for value in node.inputs[1:]]

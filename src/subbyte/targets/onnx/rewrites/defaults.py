"""Attributes that say what holds without them: a node names them only where it differs."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

WINDOWED = {"AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool"}
# Of operators with a window: attributes whose default is as long as the window has axes.
ALONG_AXES = {"dilations": 1, "strides": 1, "pads": 0}


def leave_out_defaults(model: ir.Model) -> None:
    """Remove each attribute that has its default, by the operator's definition in ONNX."""
    opset = model.opset_imports[""]
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            for name in [name for name in node.attributes if _is_default(node, name, opset)]:
                del node.attributes[name]


def _is_default(node: ir.Node, name: str, opset: int) -> bool:
    attribute = node.attributes[name]
    if attribute.is_ref():
        return False
    if node.op_type in WINDOWED and name in ALONG_AXES:
        return set(attribute.as_ints()) == {ALONG_AXES[name]}
    return bool(attribute.value == _default(node.op_type, name, opset))


def _default(operator: str, name: str, opset: int) -> Any:
    """The default of an operator's attribute; `None`: it has none."""
    schema = onnx.defs.get_schema(operator, opset)
    proto = schema.attributes[name].default_value
    if proto.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else value

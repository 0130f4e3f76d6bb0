"""Maxima and minima over dimensions in front of a quantization."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.onnx.graph import attribute, integers, readers, replace

EXTREMES = {"ReduceMax", "ReduceMin"}
# What OpenVINO computes in the kernel of the reduction before it.
POINTWISE = {
    *("Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Round", "Sigmoid"),
    *("Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Identity"),
}


def keep_extremes(model: ir.Model) -> None:
    """Let a Squeeze or Unsqueeze stand behind each maximum and minimum that is quantized.

    OpenVINO computes a reduction and the quantization behind it in one kernel. In the layout that
    convolutions give, that kernel keeps the maximum or minimum itself in the type of its result,
    uint8, in front of the quantization: it rounds to whole numbers. So the dimensions are kept
    where they were to be removed, and removed where they were to be kept, and one more operator
    puts that right, which cannot be part of the kernel.
    """
    for node in list(model.graph):
        axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
        known = not node.domain and node.op_type in EXTREMES and axes is not None
        if known and _is_quantized(node.outputs[0]):
            _part(model.graph, node)


def _is_quantized(value: ir.Value) -> bool:
    """Whether a value is quantized behind no more than functions of single values."""
    kinds = [(reader, reader.op_type) for reader in readers(value) if not reader.domain]
    return any(
        kind == "QuantizeLinear" or (kind in POINTWISE and _is_quantized(reader.outputs[0]))
        for reader, kind in kinds
    )


def _part(graph: ir.Graph, node: ir.Node) -> None:
    value, kept = node.outputs[0], attribute(node, "keepdims", 1)
    node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1 - kept)
    behind = ir.node("Unsqueeze" if kept else "Squeeze", [value, node.inputs[1]])
    behind.outputs[0].dtype, behind.outputs[0].shape = ir.DataType.FLOAT, value.shape
    graph.insert_after(node, behind)
    replace(value, behind.outputs[0])
    behind.replace_input_with(0, value)
    value.shape = None

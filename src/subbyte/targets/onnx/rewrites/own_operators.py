"""Our own operators written as those of ONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, LINEAR
from subbyte.targets.onnx.graph import constant, only_reader, prune, put, replace, shape_of
from subbyte.targets.onnx.qdq import Qdq, Style, is_qdq, settings
from subbyte.targets.onnx.rewrites.repeat_qdq import MOVES

UINT8 = ir.DataType.UINT8


def write_own_operators(model: ir.Model) -> None:
    """Write each operator of our own as nodes that any runtime knows."""
    for node in list(model.graph):
        if is_qdq(node):
            _write_qdq(model.graph, node)
        elif (node.domain, node.op_type) == (DOMAIN, LINEAR):
            _write_linear(node)
    for node in list(model.graph):
        if (node.domain, node.op_type) == ("", "MatMul") and all(map(_is_dequantized, node.inputs)):
            _keep_product(node)
    prune(model)
    model.opset_imports.pop(DOMAIN, None)


def _write_qdq(graph: ir.Graph, node: ir.Node) -> None:
    qdq, x, name = settings(node), node.inputs[0], node.outputs[0].name
    highest = node.inputs[1] if len(node.inputs) > 1 else None
    factor = constant(graph, f"{name}_scale", qdq.scale, np.float32)
    zero = constant(graph, f"{name}_zero_point", qdq.zero_point, np.uint8)
    integers = qdq.style in (Style.INTEGERS, Style.POOL)
    if qdq.style == Style.LEAKY:
        x = put(node, "LeakyRelu", [x], {"alpha": 1.0})
    if qdq.clips and not integers:
        x = put(node, "Clip", [x, *_ends(graph, f"{name}", qdq)])
    q = put(node, "QuantizeLinear", [x, factor, zero], dtype=UINT8)
    if qdq.clips and integers:
        ends = [
            constant(graph, f"{name}_{side}", end, np.uint8)
            for side, end in (("low", qdq.low), ("high", qdq.high))
        ]
        q = put(node, "Clip", [q, *ends], dtype=UINT8)
    if highest is not None:
        q = put(node, "Min", [q, highest], dtype=UINT8)
    if qdq.style == Style.POOL:
        q = put(node, "MaxPool", [q], {"kernel_shape": [1, 1]}, dtype=UINT8)
    if qdq.style == Style.SHIFT:
        none = constant(graph, f"{name}_no_zero_point", 0, np.uint8)
        y = put(node, "DequantizeLinear", [q, factor, none])
        shift = constant(graph, f"{name}_shift", -qdq.zero_point * qdq.scale, np.float32)
        y = put(node, "Add", [y, shift])
    else:
        y = put(node, "DequantizeLinear", [q, factor, zero])
    replace(node.outputs[0], y)


def _ends(graph: ir.Graph, name: str, qdq: Qdq) -> list[ir.Value]:
    """The values of the lowest and the highest integer."""
    ends = (("low", qdq.low), ("high", qdq.high))
    return [
        constant(graph, f"{name}_{side}", (end - qdq.zero_point) * qdq.scale, np.float32)
        for side, end in ends
    ]


def _write_linear(node: ir.Node) -> None:
    """A MatMul, and a Sum with the bias.

    Not a Gemm, nor an Add that would be fused to one: ONNX Runtime has an integer kernel for the
    product of uint8 and int8 with a float result only as a MatMul of its own.
    """
    x, weight, *bias = node.inputs
    y = put(node, "MatMul", [x, weight])
    replace(node.outputs[0], put(node, "Sum", [y, *bias]) if bias else y)


def _keep_product(node: ir.Node) -> None:
    """Write what is added to a product of matrices as a Sum too, for the same reason."""
    reader = only_reader(node.outputs[0])
    shape = None if reader is None else shape_of(reader.outputs[0])
    if reader is None or shape is None or len(shape) != 2:
        return
    if (reader.domain, reader.op_type) == ("", "Add"):
        replace(reader.outputs[0], put(reader, "Sum", reader.inputs, shape=shape))


def _is_dequantized(value: ir.Value | None) -> bool:
    """Whether a value comes from a dequantization, moved perhaps."""
    made = None if value is None else value.producer()
    while made is not None and not made.domain and made.op_type in MOVES:
        made = None if made.inputs[0] is None else made.inputs[0].producer()
    return made is not None and made.op_type == "DequantizeLinear"

"""Float weights behind a quantized activation, which ONNX Runtime must not quantize."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.domain import DOMAIN, LINEAR
from subbyte.targets.onnx.graph import (
    array,
    attribute,
    constant,
    only_reader,
    prune,
    put,
    replace,
    shape_of,
)
from subbyte.targets.onnx.qdq import qdq_of


def keep_float_weights(model: ir.Model) -> None:
    """Keep ONNX Runtime from quantizing a float weight behind a quantized activation.

    Its WeightBiasQuantization does so to Conv, ConvTranspose and Gemm, but not if the bias is
    computed, as a dequantized one is: int32 holds all the digits that float32 has. Linear layers
    become a MatMul and a Sum, which are not fused to a Gemm.
    """
    for node in list(model.graph):
        if node.domain or not node.inputs or qdq_of(node.inputs[0]) is None:
            continue
        if node.op_type in ("Conv", "ConvTranspose") and array(node.inputs[1]) is not None:
            _keep_of_convolution(model.graph, node)
        elif node.op_type == "Gemm" and attribute(node, "transB", 0):
            weight = array(node.inputs[1])
            if weight is not None:
                _write_linear(model.graph, node, weight.T, node, [*node.inputs[2:]])
        elif node.op_type == "MatMul":
            weight = _matrix(node.inputs[1])
            last, bias = _with_bias(node)
            if weight is not None:
                _write_linear(model.graph, node, weight, last, bias)
    prune(model)


def _keep_of_convolution(graph: ir.Graph, node: ir.Node) -> None:
    weight, name = array(node.inputs[1]), node.outputs[0].name
    given = node.inputs[2] if len(node.inputs) > 2 else None
    assert weight is not None
    transposed = node.op_type == "ConvTranspose"
    channels = weight.shape[1] * attribute(node, "group", 1) if transposed else len(weight)
    bias = np.zeros(channels, np.float32) if given is None else array(given)
    if bias is None:
        return
    scale = np.float32(max(np.abs(bias).max(initial=0) / np.float32(2**30), 2.0**-100))
    rounded = np.round(bias.astype(np.float64) / np.float64(scale)).astype(np.int32)
    q = constant(graph, f"{name}_bias_integers", rounded)
    s = constant(graph, f"{name}_bias_scale", scale)
    node.resize_inputs(3)
    node.replace_input_with(2, put(node, "DequantizeLinear", [q, s], shape=rounded.shape))


def _matrix(value: ir.Value | None) -> np.ndarray | None:
    """A constant matrix, transposed perhaps."""
    made = None if value is None else value.producer()
    if made is not None and made.op_type == "Transpose":
        found = array(made.inputs[0])
        order = attribute(made, "perm")
        return found.transpose(order) if found is not None and found.ndim == 2 else None
    found = array(value)
    return found if found is not None and found.ndim == 2 else None


def _with_bias(product: ir.Node) -> tuple[ir.Node, list[ir.Value | None]]:
    """The last node of a linear layer, and its bias, if it has one."""
    reader = only_reader(product.outputs[0])
    if reader is not None and reader.op_type == "Add" and reader.inputs[0] is product.outputs[0]:
        bias = array(reader.inputs[1])
        if bias is not None and bias.ndim == 1:
            return reader, [reader.inputs[1]]
    return product, []


def _write_linear(
    graph: ir.Graph,
    node: ir.Node,
    weight: np.ndarray,
    last: ir.Node,
    bias: list[ir.Value | None],
) -> None:
    given = node.inputs[1]
    assert given is not None
    transposed = constant(graph, f"{given.name}_transposed", np.ascontiguousarray(weight))
    y = put(
        last,
        LINEAR,
        [node.inputs[0], transposed, *bias],
        shape=shape_of(last.outputs[0]),
        domain=DOMAIN,
    )
    replace(last.outputs[0], y)

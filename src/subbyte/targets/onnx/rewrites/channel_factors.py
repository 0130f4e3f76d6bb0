"""Factors of channels that become part of the quantization beside them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from subbyte.targets.onnx.graph import array, constant, number, only_reader, prune, put, replace

AXIS = 1  # the channels'


def fold_channel_factors(model: ir.Model) -> None:
    """Write a DequantizeLinear and a product by channel as one of a scale for each channel.

    A product in front of a QuantizeLinear likewise. The factors are powers of two, so that no value
    changes. ONNX Runtime would compute the product in a pass of its own.
    """
    for node in list(model.graph):
        factors = _factors(node)
        if factors is None:
            continue
        source, reader = node.inputs[0], only_reader(node.outputs[0])
        made = None if source is None else source.producer()
        if _has_one_scale(made, "DequantizeLinear"):
            assert made is not None
            replace(node.outputs[0], _with_scales(model.graph, made, node, factors))
        elif _has_one_scale(reader, "QuantizeLinear"):
            assert reader is not None
            reader.replace_input_with(0, source)
            replace(reader.outputs[0], _with_scales(model.graph, reader, reader, 1 / factors))
    prune(model)


def _factors(node: ir.Node) -> np.ndarray | None:
    """The factors of a product by channel, (channels,), if all are powers of two."""
    if (node.domain, node.op_type) != ("", "Mul"):
        return None
    found = array(node.inputs[1])
    if found is None or found.ndim < 3 or found.size == 1 or found.size != found.shape[AXIS]:
        return None
    mantissas, _ = np.frexp(found)
    return found.reshape(-1) if (mantissas == 0.5).all() else None


def _has_one_scale(node: ir.Node | None, kind: str) -> bool:
    return node is not None and node.op_type == kind and number(node.inputs[1]) is not None


def _with_scales(graph: ir.Graph, node: ir.Node, before: ir.Node, factors: np.ndarray) -> ir.Value:
    """What a node gives with its scale times a factor for each channel.

    Args:
        graph: The graph.
        node: QuantizeLinear or DequantizeLinear.
        before: The node in front of which the new one stands.
        factors: (channels,).
    """
    source, scale, zero = node.inputs
    one, name = number(scale), f"{node.outputs[0].name}_channels"
    assert one is not None
    held, settings = array(zero), {"axis": AXIS}
    assert held is not None
    scales = constant(graph, f"{name}_scale", (np.float32(one) * factors).astype(np.float32))
    zeros = constant(graph, f"{name}_zero_point", np.full(len(factors), held.item(), held.dtype))
    dtype = node.outputs[0].dtype or ir.DataType.FLOAT
    return put(before, node.op_type, [source, scales, zeros], settings, dtype=dtype)
